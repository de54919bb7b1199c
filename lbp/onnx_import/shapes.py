"""Operators that move values without computing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from lbp.onnx_import.evaluation import Array
from lbp.onnx_import.file import DTYPES
from lbp.onnx_import.modules import Concat, Entries, Expand, Pad, Part, Permute, Repeat, Reshape
from lbp.onnx_import.registry import OnnxCall, for_operators


@for_operators("Identity")
def _identity(call: OnnxCall) -> nn.Module:
    return nn.Identity()


@for_operators("Dropout")
def _dropout(call: OnnxCall) -> nn.Module:
    training = call.constant(2)
    if (training is not None and bool(training)) or (call.opset < 7 and not call.attribute("is_test", 0)):
        raise call.refuse("is in training mode; export the network in evaluation mode")
    return nn.Identity()


@for_operators("Cast")
def _cast(call: OnnxCall) -> nn.Module:
    wanted = DTYPES.get(call.attribute("to"))
    if wanted is None:
        raise call.refuse("converts to a type other than FLOAT and DOUBLE")
    if wanted is not call.array_dtype:
        # To float32 it rounds; operators after one to float64 have constants that float32 would round.
        raise call.refuse(
            f"converts values of a network in {np.dtype(call.array_dtype)} to {np.dtype(wanted)}; export the whole "
            "network in FLOAT or in DOUBLE"
        )
    return nn.Identity()


@for_operators("Shape")
def _shape(call: OnnxCall) -> Array:
    shape = call.shape()
    return np.array(shape[call.attribute("start", 0) : call.attribute("end", len(shape))], dtype=np.int64)


@for_operators("Size")
def _size(call: OnnxCall) -> Array:
    return np.array(math.prod(call.shape()), dtype=np.int64)


@for_operators("Flatten")
def _flatten(call: OnnxCall) -> nn.Module:
    shape = call.shape()
    axis = call.attribute("axis", 1)
    if not -len(shape) <= axis <= len(shape) or (axis < 0 and call.opset < 11):
        raise call.refuse(f"has axis={axis}, which {len(shape)} dimensions do not have in opset {call.opset}")
    axis = axis if axis >= 0 else axis + len(shape)
    return _reshaped(call, (math.prod(shape[:axis]), math.prod(shape[axis:])))


@for_operators("Reshape")
def _reshape(call: OnnxCall) -> nn.Module:
    target = call.integers("shape", 1)
    if target is None:
        raise call.refuse("lacks the new shape")
    shape = call.shape()
    if not call.attribute("allowzero", 0):
        if any(dim == 0 and i >= len(shape) for i, dim in enumerate(target)):
            raise call.refuse(f"keeps a dimension that is not there: new shape {target}")
        target = [shape[i] if dim == 0 else dim for i, dim in enumerate(target)]
    if target.count(-1) == 1:
        rest = math.prod(dim for dim in target if dim != -1)
        target = [math.prod(shape) // max(rest, 1) if dim == -1 else dim for dim in target]
    return _reshaped(call, target)


@for_operators("Squeeze")
def _squeeze(call: OnnxCall) -> nn.Module:
    shape = call.shape()
    axes = call.integers("axes", 1)
    gone = [i for i, dim in enumerate(shape) if dim == 1] if axes is None else call.axes(axes)
    return _reshaped(call, [dim for i, dim in enumerate(shape) if i not in gone])


@for_operators("Unsqueeze")
def _unsqueeze(call: OnnxCall) -> nn.Module:
    rest = list(call.shape())
    axes = call.integers("axes", 1) or []
    rank = len(rest) + len(axes)
    added = call.axes(axes, rank)
    return _reshaped(call, [1 if i in added else rest.pop(0) for i in range(rank)])


def _reshaped(call: OnnxCall, shape: Sequence[int]) -> nn.Module:
    """Return the reshaping to a shape [1, *example] of the file, where a batch has one example."""
    before = call.shape()
    if math.prod(shape) != math.prod(before) or min(shape, default=1) < 0:
        raise call.refuse(f"gives the shape {list(shape)}, which has another number of entries")
    if not shape or shape[0] != 1:
        raise call.refuse(f"gives the shape {list(shape)}; the first dimension must stay the batch")
    return Reshape(tuple(shape[1:]))


@for_operators("Transpose")
def _transpose(call: OnnxCall) -> nn.Module:
    rank = len(call.shape())
    order = call.axes(call.attribute("perm", list(reversed(range(rank)))))
    if sorted(order) != list(range(rank)) or order[0] != 0:
        raise call.refuse(f"has perm={order}; the batch must stay first")
    return Permute(tuple(order))


@for_operators("Concat")
def _concat(call: OnnxCall) -> nn.Module:
    if len(call.sources) != len(call.node.input):
        raise call.refuse("joins constants with values of the network")
    (axis,) = call.axes([call.attribute("axis", 1)])
    if axis == 0:
        raise call.refuse("joins along the batch dimension")
    return Concat(axis)


@for_operators("Pad")
def _pad(call: OnnxCall) -> nn.Module:
    rank = len(call.shape())
    pads = call.integers("pads", 1) or call.attribute("paddings") or []
    axes = None if call.constant(3) is None else call.axes(call.integers("axes", 3) or [])
    if len(pads) != 2 * (rank if axes is None else len(axes)):
        raise call.refuse(f"has pads={pads}, which do not fit")
    if not any(pads):
        return nn.Identity()
    before, after = [0] * rank, [0] * rank
    half = len(pads) // 2
    for i, axis in enumerate(range(rank) if axes is None else axes):
        before[axis], after[axis] = pads[i], pads[half + i]
    mode = call.attribute("mode", "constant")
    given = call.floats(2)
    value = call.attribute("value", 0.0) if given is None else float(given)
    if mode not in _PADDING_MODES or (mode == "constant" and value != 0) or min(pads) < 0:
        raise call.refuse(
            f"has mode={mode!r}, value={value}, pads={pads}; zeros are supported, and the modes 'reflect', 'edge' and "
            "'wrap'"
        )
    # Other modes than constants leave the batch and the channels alone.
    first = 1 if mode == "constant" else min(2, rank - 1)
    if any(before[:first]) or any(after[:first]):
        raise call.refuse(f"pads the batch dimension, or with mode={mode!r} the channels: pads={pads}")
    amounts = [amount for axis in reversed(range(first, rank)) for amount in (before[axis], after[axis])]
    return Pad(tuple(amounts), _PADDING_MODES[mode])


_PADDING_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}
"""PyTorch's names of the modes of Pad."""


@for_operators("Slice")
def _slice(call: OnnxCall) -> nn.Module:
    shape = call.shape()
    starts, stops = call.integers("starts", 1), call.integers("ends", 2)
    axes, steps = call.integers("axes", 3), call.integers("steps", 4)
    if starts is None or stops is None:
        raise call.refuse("lacks starts or ends")
    axes = call.axes(list(range(len(starts))) if axes is None else axes)
    steps = [1] * len(starts) if steps is None else steps
    if not len(starts) == len(stops) == len(axes) == len(steps):
        raise call.refuse(f"has starts {starts}, ends {stops}, axes {axes}, steps {steps} of different lengths")
    parts = []
    for i, axis in enumerate(axes):
        step = steps[i]
        if step < 0:
            parts.append(_entries(call, axis, list(range(shape[axis]))[starts[i] : stops[i] : step]))
            continue
        start, stop, _ = slice(starts[i], stops[i], step).indices(shape[axis])
        if (start, stop, step) == (0, shape[axis], 1):
            continue
        parts.append(_part(call, axis, start, stop, step))
    return nn.Sequential(*parts)


@for_operators("Split")
def _split(call: OnnxCall) -> Sequence[nn.Module]:
    (axis,) = call.axes([call.attribute("axis", 0)])
    size, count = call.shape()[axis], len(call.node.output)
    chunk = -(-size // count)
    stated = call.integers("split", 1)
    if stated is None and call.opset < 18 and size % count:
        raise call.refuse(f"divides a dimension of {size} into {count} equal parts")
    lengths = stated or [min(chunk, size - i * chunk) for i in range(count)]
    if len(lengths) != count or sum(lengths) != size:
        raise call.refuse(f"has lengths {lengths} for {count} parts of a dimension of {size}")
    starts = [sum(lengths[:i]) for i in range(count)]
    return [_part(call, axis, start, start + length) for start, length in zip(starts, lengths, strict=True)]


@for_operators("Gather")
def _gather(call: OnnxCall) -> nn.Module:
    indices = call.constant(1)
    (axis,) = call.axes([call.attribute("axis", 0)])
    shape = call.shape()
    if indices is None:
        raise call.refuse("lacks indices")
    if indices.size == 0:
        raise call.refuse("picks nothing")
    size = shape[axis]
    if indices.min() < -size or indices.max() >= size:
        raise call.refuse(f"takes entries {indices.min()} to {indices.max()} of a dimension of {size}")
    places = indices % size
    first, last = int(places.flat[0]), int(places.flat[-1])
    if places.ndim > 1 or places.reshape(-1).tolist() != list(range(first, last + 1)):
        return _entries(call, axis, places.tolist())
    part = _part(call, axis, first, last + 1)
    if indices.ndim == 1:
        return part
    return nn.Sequential(part, Reshape((*shape[1:axis], *shape[axis + 1 :])))


@for_operators("Resize", "Upsample")
def _resize(call: OnnxCall) -> nn.Module:
    before, mode = call.shape(), call.attribute("mode", "nearest")
    if mode != "nearest" or call.attribute("axes") is not None:
        raise call.refuse(f"has mode={mode!r} or names axes; the mode 'nearest' of all axes is supported")
    after = _resized(call, before)
    if any(new % old for old, new in zip(before, after, strict=True)):
        raise call.refuse(f"resizes {list(before)} to {list(after)}; whole multiples are supported")
    factors = [new // old for old, new in zip(before, after, strict=True)]
    return nn.Sequential(
        *(
            _entries(call, axis, [place // factor for place in range(after[axis])])
            for axis, factor in enumerate(factors)
            if factor > 1
        )
    )


def _resized(call: OnnxCall, before: tuple[int, ...]) -> list[int]:
    """Return the shape that a value is resized to."""
    if call.node.op_type == "Resize" and call.opset >= 11:
        index, sizes = 2, call.integers("sizes", 3)
    else:
        index, sizes = 1, None
    if sizes:
        found = sizes
    else:
        given = call.constant(index) if call.attribute("scales") is None else call.attribute("scales")
        scales = [] if given is None else [float(scale) for scale in np.reshape(given, -1)]
        found = [math.floor(size * scale) for size, scale in zip(before, scales, strict=True)]
    if len(found) != len(before) or min(found, default=1) < 1:
        raise call.refuse(f"resizes a value of {len(before)} dimensions to {found}")
    return found


@for_operators("Tile")
def _tile(call: OnnxCall) -> nn.Module:
    times = call.integers("repeats", 1) or []
    if len(times) != len(call.shape()) or min(times) < 1:
        raise call.refuse(f"has repeats={times}; {len(call.shape())} positive numbers are expected")
    if times[0] != 1:
        raise call.refuse("repeats the batch")
    return Repeat(tuple(times))


@for_operators("Expand")
def _expand(call: OnnxCall) -> nn.Module:
    before, target = call.shape(), call.integers("shape", 1) or []
    shape = np.broadcast_shapes(before, tuple(target))
    if len(shape) != len(before) or shape[0] != 1:
        raise call.refuse(f"expands to {list(shape)}; the batch must stay first")
    return Expand(shape[1:])


@for_operators("DepthToSpace")
def _depth_to_space(call: OnnxCall) -> nn.Module:
    (channels, height, width), size = _image(call), call.attribute("blocksize")
    depth = channels // size**2
    if call.attribute("mode", "DCR") == "CRD":
        steps = Reshape((depth, size, size, height, width)), Permute((0, 1, 4, 2, 5, 3))
    else:
        steps = Reshape((size, size, depth, height, width)), Permute((0, 3, 4, 1, 5, 2))
    return nn.Sequential(*steps, Reshape((depth, height * size, width * size)))


@for_operators("SpaceToDepth")
def _space_to_depth(call: OnnxCall) -> nn.Module:
    (channels, height, width), size = _image(call), call.attribute("blocksize")
    rows, columns = height // size, width // size
    blocks = Reshape((channels, rows, size, columns, size)), Permute((0, 3, 5, 1, 2, 4))
    return nn.Sequential(*blocks, Reshape((channels * size**2, rows, columns)))


def _image(call: OnnxCall) -> tuple[int, ...]:
    shape = call.shape()
    if len(shape) != 4:
        raise call.refuse("is supported on images [B, C, H, W]")
    return shape[1:]


def _entries(call: OnnxCall, axis: int, places: list[Any]) -> nn.Module:
    if axis == 0:
        raise call.refuse("picks entries along the batch dimension")
    if not places:
        raise call.refuse("picks nothing")
    return Entries(axis, places)


def _part(call: OnnxCall, axis: int, start: int, stop: int, step: int = 1) -> nn.Module:
    if axis == 0:
        raise call.refuse("picks entries along the batch dimension")
    if stop <= start:
        raise call.refuse("picks nothing")
    return Part(axis, start, stop, step)
