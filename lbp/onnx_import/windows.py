"""How a kernel moves over an image: the attributes that Conv and the pools share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from lbp.onnx_import.modules import Pad
from lbp.onnx_import.registry import OnnxCall


@dataclass(frozen=True)
class Window:
    """Kernel, stride, dilation and padding, one entry per spatial dimension.

    Attributes:
        image: size of the image.
        before, after: padding at the two ends of every dimension.
    """

    image: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def is_symmetric(self) -> bool:
        """Whether both ends have the same padding."""
        return self.before == self.after

    def symmetric_padding(self) -> tuple[int, ...]:
        """Return the padding that a layer does itself: none where `padded` pads before it."""
        return self.before if self.is_symmetric else (0,) * len(self.before)

    def padded(self, layer: nn.Module) -> nn.Module:
        """Return a layer on images or lines with zeros around them where it cannot pad itself."""
        return layer if self.is_symmetric else nn.Sequential(Pad(self.amounts()), layer)

    def amounts(self) -> tuple[int, ...]:
        """Return the padding as `torch.nn.functional.pad` takes it: the last dimension first."""
        ends = zip(reversed(self.before), reversed(self.after), strict=True)
        return tuple(amount for both in ends for amount in both)

    def outputs(self, *, ceil: bool = False) -> tuple[int, ...]:
        """Return the number of positions in every dimension; `ceil` counts a last window that is cut off."""
        found = []
        for i, size in enumerate(self.image):
            room = size + self.before[i] + self.after[i] - self.dilation[i] * (self.kernel[i] - 1) - 1
            found.append((-(-room // self.stride[i]) if ceil else room // self.stride[i]) + 1)
        return tuple(found)


def pair(entries: tuple[int, ...]) -> tuple[int, int]:
    """Return entries of a window that moves over an image: down and across."""
    down, across = entries
    return down, across


def window_of(call: OnnxCall, kernel: Sequence[int]) -> Window:
    """Return the window that a node's attributes describe.

    Raises:
        UnsupportedLayerError: attributes that do not fit the value's shape, or a window larger than the image.
    """
    window = geometry_of(call, kernel)
    mode = call.attribute("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        window = _same_size(window, extra_after=mode == "SAME_UPPER")
    elif mode not in ("NOTSET", "VALID"):
        raise call.refuse(f"has auto_pad={mode!r}, which is not known")
    if min(window.outputs()) < 1:
        raise call.refuse(f"has a window of {list(kernel)} that is larger than the padded image")
    return window


def geometry_of(call: OnnxCall, kernel: Sequence[int]) -> Window:
    """Return the window with the padding that is stated in numbers, however large the image is.

    Raises:
        UnsupportedLayerError: attributes that do not fit the value's shape.
    """
    image = call.shape()[2:]
    if len(kernel) != len(image):
        raise call.refuse(f"has a kernel of {len(kernel)} dimensions on an image of {len(image)}")
    ones = [1] * len(image)
    strides, dilations = call.attribute("strides", ones), call.attribute("dilations", ones)
    for name, steps in (("strides", strides), ("dilations", dilations)):
        if len(steps) != len(image) or min(steps, default=1) < 1:
            raise call.refuse(f"has {name}={list(steps)}; {len(image)} positive numbers are expected")
    window = Window(image, tuple(kernel), tuple(strides), tuple(dilations), *_padding(call, [0] * (2 * len(image))))
    if min(window.before + window.after) < 0:
        raise call.refuse(f"has negative padding {list(window.before + window.after)}")
    return window


def _padding(call: OnnxCall, zeros: list[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    pads = call.attribute("pads", zeros)
    automatic = call.attribute("auto_pad", "NOTSET")
    if automatic != "NOTSET" and any(pads):
        raise call.refuse(f"has auto_pad={automatic!r} and pads={list(pads)}, which exclude each other")
    half = len(zeros) // 2
    if len(pads) != 2 * half:
        raise call.refuse(f"has pads={list(pads)}; {2 * half} numbers are expected")
    return tuple(pads[:half]), tuple(pads[half:])


def _same_size(window: Window, *, extra_after: bool) -> Window:
    """Return the window with the padding that gives ceil(size / stride) positions."""
    total = []
    for i, size in enumerate(window.image):
        reach = (-(-size // window.stride[i]) - 1) * window.stride[i] + window.dilation[i] * (window.kernel[i] - 1) + 1
        total.append(max(reach - size, 0))
    less, more = tuple(n // 2 for n in total), tuple(n - n // 2 for n in total)
    return replace(window, before=less if extra_after else more, after=more if extra_after else less)
