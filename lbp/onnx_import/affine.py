"""Affine layers: Gemm, MatMul, Conv, ConvTranspose, BatchNormalization."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lbp.onnx_import.modules import AddMultiple, Pad, Permute, ScaleShift
from lbp.onnx_import.registry import OnnxCall, for_operators
from lbp.onnx_import.windows import geometry_of, pair, window_of


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """Return the layer with a weight [n_out, n_in] and a bias [n_out]."""
    n_out, n_in = weight.shape
    layer = nn.Linear(n_in, n_out, bias=bias is not None, dtype=weight.dtype, device="meta")
    layer.weight = nn.Parameter(weight.contiguous())
    if bias is not None:
        layer.bias = nn.Parameter(bias.contiguous())
    return layer


@for_operators("Gemm")
def _gemm(call: OnnxCall) -> nn.Module:
    if call.attribute("transA", 0):
        raise call.refuse("transposes its first input, which holds the batch")
    weight = call.tensor(1)
    if weight.dim() != 2 or len(call.shape()) != 2:
        raise call.refuse(f"has a weight of shape {list(weight.shape)}; matrices on values [B, n] are supported")
    weight = weight if call.attribute("transB", 0) else weight.T
    alpha, beta = call.attribute("alpha", 1.0), call.attribute("beta", 1.0)
    bias = None
    if call.constant(2) is not None:
        values = call.tensor(2)
        if values.dim() == 2 and values.shape[0] != 1:
            raise call.refuse(f"adds a constant of shape {list(values.shape)}, which has a batch of its own")
        bias = values.reshape(-1).expand(weight.shape[0]).clone()
    if _scales_exactly(weight, alpha) and (bias is None or _scales_exactly(bias, beta)):
        return linear(weight * alpha, None if bias is None else bias * beta)
    # Rounded products as weights would be another network.
    steps = [linear(weight), ScaleShift(call.number(alpha))]
    return nn.Sequential(*steps, *([] if bias is None else [AddMultiple(bias, beta)]))


def _scales_exactly(values: Tensor, factor: float) -> bool:
    """Whether no product with a factor rounds: it is a power of two, and nothing overflows or underflows."""
    return abs(math.frexp(factor)[0]) == 0.5 and torch.equal(values * factor / factor, values)


@for_operators("MatMul")
def _matmul(call: OnnxCall) -> nn.Module:
    if call.is_bound(0) and call.is_bound(1):
        raise call.refuse(
            "multiplies two values that both depend on the network's input; bounds of products are missing"
        )
    from_right = call.is_bound(0)
    matrix = call.tensor(1 if from_right else 0)
    shape = call.shape(0 if from_right else 1)
    while len(shape) >= matrix.dim() > 2 and matrix.shape[0] == 1:
        matrix = matrix[0]
    if matrix.dim() != 2:
        raise call.refuse(f"has a constant of shape {list(matrix.shape)}; matrices are supported")
    if from_right:
        return linear(matrix.T)
    if len(shape) < 3:
        raise call.refuse("multiplies a matrix from the left with the batch dimension")
    swapped = (*range(len(shape) - 2), len(shape) - 1, len(shape) - 2)
    return nn.Sequential(Permute(swapped), linear(matrix), Permute(swapped))


@for_operators("Conv")
def _conv(call: OnnxCall) -> nn.Module:
    kernel = _kernel(call)
    if kernel.dim() not in (3, 4) or kernel.dim() != len(call.shape()):
        raise call.refuse(
            f"has a kernel of shape {list(kernel.shape)}; convolutions in one and two dimensions are supported"
        )
    window = window_of(call, kernel.shape[2:])
    groups = int(call.attribute("group", 1))
    out_channels, per_group = kernel.shape[:2]
    kind: type[nn.Module] = nn.Conv1d if kernel.dim() == 3 else nn.Conv2d
    layer = kind(
        per_group * groups,
        out_channels,
        window.kernel,
        stride=window.stride,
        padding=window.symmetric_padding(),
        dilation=window.dilation,
        groups=groups,
        bias=call.constant(2) is not None,
        dtype=kernel.dtype,
        device="meta",
    )
    return window.padded(_with_parameters(call, layer, kernel))


@for_operators("ConvTranspose")
def _transposed_convolution(call: OnnxCall) -> nn.Module:
    kernel = _kernel(call)
    if kernel.dim() != 4 or len(call.shape()) != 4:
        raise call.refuse(f"has a kernel of shape {list(kernel.shape)}; images [B, C, H, W] are supported")
    if call.attribute("auto_pad", "NOTSET") != "NOTSET" or call.attribute("output_shape") is not None:
        raise call.refuse("has auto_pad or output_shape; state the size of its result by pads and output_padding")
    window = geometry_of(call, kernel.shape[2:])
    groups = int(call.attribute("group", 1))
    layer = nn.ConvTranspose2d(
        kernel.shape[0],
        kernel.shape[1] * groups,
        pair(window.kernel),
        stride=pair(window.stride),
        padding=pair(window.symmetric_padding()),
        output_padding=tuple(call.attribute("output_padding", [0, 0])),
        groups=groups,
        bias=call.constant(2) is not None,
        dilation=pair(window.dilation),
        dtype=kernel.dtype,
        device="meta",
    )
    _with_parameters(call, layer, kernel)
    # Padding takes away from the result.
    return layer if window.is_symmetric else nn.Sequential(layer, Pad(tuple(-n for n in window.amounts())))


def _kernel(call: OnnxCall) -> Tensor:
    kernel, stated = call.tensor(1), call.attribute("kernel_shape")
    if stated is not None and stated != list(kernel.shape[2:]):
        raise call.refuse(f"has kernel_shape={stated}, but a kernel of shape {list(kernel.shape)}")
    return kernel


def _with_parameters(call: OnnxCall, layer: nn.Module, kernel: Tensor) -> nn.Module:
    """Give a layer its kernel, and its bias if there is one."""
    layer.weight = nn.Parameter(kernel)
    if call.constant(2) is not None:
        layer.bias = nn.Parameter(call.tensor(2))
    return layer


@for_operators("BatchNormalization")
def _batch_normalization(call: OnnxCall) -> nn.Module:
    outputs = [output for output in call.node.output if output]
    if call.attribute("training_mode", 0) or len(outputs) > 1 or (call.opset < 7 and not call.attribute("is_test", 0)):
        raise call.refuse("is in training mode; export the network in evaluation mode")
    if not call.attribute("spatial", 1):
        raise call.refuse("has statistics of its own at every place of the image (spatial=0)")
    scale, shift, mean, variance = (call.tensor(index) for index in range(1, 5))
    kinds = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}
    rank = len(call.shape())
    if rank not in kinds:
        raise call.refuse("is supported on values of 2 to 4 dimensions")
    layer = kinds[rank](len(scale), eps=call.attribute("epsilon", 1e-5), dtype=scale.dtype, device="cpu")
    with torch.no_grad():
        layer.load_state_dict(
            {"weight": scale, "bias": shift, "running_mean": mean, "running_var": variance}, strict=False
        )
    return layer.eval()
