"""A network as the same function in float64."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from lbp.graph.lowering import check_trace
from lbp.graph.structure import is_kept_whole, refuse_hidden
from lbp.graph.trace import TensorShape, Trace, trace_model
from lbp.precision import full_precision


def own_dtype(model: nn.Module) -> torch.dtype:
    """Return the format in which a network is given: float64 where one of its tensors is, else float32."""
    tensors = (*model.parameters(), *model.buffers())
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


@full_precision()  # what is computed from parameters has the value that it has where bounds are computed
def float64_copy(model: nn.Module, example: Tensor) -> nn.Module:
    """Return a copy in float64 that is, in real arithmetic, the same function (docs/rounding.md, section 1).

    `model.double()` alone is another one: numbers that are not tensors (a slope of 0.2, `x * 0.1`), which PyTorch
    rounds to float32 where they meet float32 tensors, would keep their digits beyond, and what the network computes
    from its parameters alone would be computed in float64. Here both have the values that they have in float32, or in
    whatever format of its own a parameter has.

    Args:
        model: in evaluation mode; left as it is.
        example: an input [B, *shape] in the network's own format; only shape, dtype and device are used. Of a network
            whose parameters and buffers are all in float64 a plain copy is returned.

    Raises:
        UnsupportedLayerError: the model cannot be traced, has hooks, or computes in another format than the input's.
        InvalidInputError: the model does not run on inputs of that shape.
    """
    refuse_hidden(model)
    model = copy.deepcopy(model)
    if example.dtype == torch.float64 and _is_all_float64(model):
        return model
    if is_kept_whole(model):
        model = nn.Sequential(model).train(model.training)
    trace = trace_model(model, example)
    check_trace(model, trace)  # the copy has its answers as they are, and one format
    module = trace.module
    of_input = _reached_from_input(module.graph)
    _keep_constants(module, of_input, example)
    if example.dtype != torch.float64:
        _round_numbers(module, of_input, trace)
    module.recompile()
    return module.double()


def _round_numbers(module: fx.GraphModule, of_input: list[fx.Node], trace: Trace) -> None:
    """Replace the numbers that meet float32 tensors, and layers' settings, by what float32 makes of them."""
    first, _ = trace.results
    # Those that depend on the batch stay what they are, and bounds refuse them.
    numbers = {
        node: value for node, value in first.items() if isinstance(value, int | float) and node not in trace.of_batch
    }
    for node in of_input:
        if isinstance(first[node], TensorShape):
            node.args = fx.node.map_aggregate(node.args, partial(_rounded, numbers))
            node.kwargs = fx.node.map_aggregate(node.kwargs, partial(_rounded, numbers))
    for layer in module.modules():
        for name, value in vars(layer).items():
            if isinstance(value, float):
                vars(layer)[name] = _in_float32(value)
            elif isinstance(value, Tensor) and value.is_floating_point():
                vars(layer)[name] = value.float()
    # A slope that a layer holds in float64 is rounded where it meets float32 tensors as well.
    module.float()


def _is_all_float64(model: nn.Module) -> bool:
    tensors = (*model.parameters(), *model.buffers())
    return all(tensor.dtype == torch.float64 for tensor in tensors if tensor.is_floating_point())


def _reached_from_input(graph: fx.Graph) -> list[fx.Node]:
    """Return the operations on the input, in order."""
    found: dict[fx.Node, None] = {}
    for node in graph.nodes:
        if node.op == "placeholder" or any(source in found for source in node.all_input_nodes):
            found[node] = None
    return [node for node in found if node.op not in ("placeholder", "output")]


def _keep_constants(module: fx.GraphModule, of_input: list[fx.Node], example: Tensor) -> None:
    """Replace what operations on the input read by buffers, in the example's format where it has another.

    Of what is computed from parameters alone that are the present values. Constants of other formats (float64 numbers
    of no dimension, whole numbers) are rounded where they meet the network's tensors. Masks stay what they are, and
    whole numbers that nothing rounds: they may be indices or sizes.
    """
    graph, on_input = module.graph, set(of_input)
    run = fx.Interpreter(module, garbage_collect_values=False)
    with torch.no_grad():
        run.run(torch.zeros(2, *example.shape[1:], dtype=example.dtype, device=example.device))
    constants = [node for node in graph.nodes if node not in on_input and node.op not in ("placeholder", "output")]
    for node in constants:
        value, is_computed = run.env[node], node.op.startswith("call_")
        if not isinstance(value, Tensor) or not (is_computed or value.dtype != example.dtype):
            continue
        kept = value.detach().to(example.dtype)
        if not value.is_floating_point() and torch.equal(kept.double(), value.double()):
            continue
        name = f"{node.name}_constant"
        module.register_buffer(name, kept.clone())
        with graph.inserting_before(node):
            node.replace_all_uses_with(graph.get_attr(name), delete_user_cb=on_input.__contains__)
    for node in reversed(constants):
        if not node.users:
            graph.erase_node(node)


def _rounded(numbers: Mapping[fx.Node, int | float], part: Any) -> Any:
    """Return an argument, a number as it is where it meets a float32 tensor; `numbers` are those of operations."""
    value = numbers.get(part, part) if isinstance(part, fx.Node) else part
    # Whole numbers up to 2^24 are float32 numbers. Larger ones may be the end of a slice, where nothing rounds them.
    return _in_float32(value) if isinstance(value, float) else value


def _in_float32(value: float) -> float:
    return float(torch.tensor(value, dtype=torch.float32, device="cpu"))
