"""Models in forms that hide what they compute from a trace, and where the network inside of each is found."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from lbp.errors import UnsupportedLayerError

_QUANTIZED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")


def refuse_wrapped(module: nn.Module, where: str) -> None:
    """Refuse a module that is compiled, TorchScript, spread over devices, or quantized.

    Args:
        module: any.
        where: its path and type, for the message.

    Raises:
        UnsupportedLayerError: it is one of these; says what to bound instead.
    """
    if isinstance(module, torch.jit.ScriptModule):
        hint = (
            "is TorchScript, whose operations no trace shows; bound the torch.nn.Module that it was made from, or "
            "export that to ONNX and read it by lbp.load_onnx"
        )
    elif "_orig_mod" in module._modules:
        hint = (
            "is what torch.compile has made of a model, which no trace shows; bound that model itself (._orig_mod), "
            "which has the same parameters"
        )
    elif module._compiled_call_impl is not None:
        hint = (
            "has been compiled in place by .compile(), which no trace shows; call torch.compile(model) instead, which "
            "leaves the model as it is, and bound the model"
        )
    elif isinstance(module, DataParallel | DistributedDataParallel):
        hint = "spreads a model over devices; bound that model itself (.module), which has the same parameters"
    elif type(module).__module__.startswith(_QUANTIZED):
        hint = "is quantized: bounds are those of floating-point networks; bound the network before its quantization"
    else:
        return
    raise UnsupportedLayerError(f"{where} {hint}")


def refuse_without_forward(model: nn.Module) -> None:
    """Refuse a model whose class says nothing about what it computes, such as a ModuleList.

    Raises:
        UnsupportedLayerError: it does not.
    """
    kind = type(model)
    if kind.forward is nn.Module.forward and kind.__call__ is nn.Module.__call__:
        hint = "; torch.nn.Sequential calls its layers in turn" if isinstance(model, nn.ModuleList) else ""
        raise UnsupportedLayerError(f"the model ({kind.__name__}) has no forward method{hint}")
