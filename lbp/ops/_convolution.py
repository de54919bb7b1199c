"""Convolutions of rows, and their gradients, as the library has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lbp import _native

Pair = tuple[int, int]
Image = tuple[int, int, int]
Convolution = tuple[Sequence[int], Sequence[int], Sequence[int], int]
"""stride, padding, dilation and groups, in the order of the schema."""


def keywords_of(convolution: Sequence[Any]) -> dict[str, Any]:
    """Return a convolution as keywords, for the functions of `lbp.reference`."""
    return dict(zip(("stride", "padding", "dilation", "groups"), convolution, strict=True))


def convolution_gradients(
    gradient: Tensor, like: Tensor, weight: Tensor, convolution: Convolution, needs: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients with respect to input and weight of a convolution of inputs of the shape of `like`."""
    to_input, to_weight, _ = convolution_and_bias_gradients(gradient, like, weight, convolution, (*needs, False))
    return to_input, to_weight


def convolution_and_bias_gradients(
    gradient: Tensor, like: Tensor, weight: Tensor, convolution: Convolution, needs: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return those with respect to input, weight and bias; the last by the way of the second."""
    stride, padding, dilation, groups = convolution
    sizes = [weight.shape[0]] if needs[2] else None
    results: tuple[Tensor | None, Tensor | None, Tensor | None] = torch.ops.aten.convolution_backward.default(
        gradient, like, weight, sizes, stride, padding, dilation, False, [0, 0], groups, list(needs)
    )
    return results


_HAS_WIDE_VECTORS = _native.instruction_set() in ("avx2", "avx512")

_FEW_TERMS = 64
"""Terms of a sum up to which library convolutions are far from a processor's peak ..."""

_MODERATE_WORK = 2**25
"""... and multiply-adds of several images."""


def direct_convolution_pays(like: Tensor, weight: Tensor, convolution: Convolution, *, of_bounds: bool) -> bool:
    """Whether the CPU kernel for center and radius beats two library convolutions of inputs of the shape of `like`.

    It reads the weights once for both, and its call is short. Of two threads it takes 0.15 to 0.85 of the time for one
    image, over 28 layers of 1 to 512 channels on 4 x 4 to 224 x 224, and 0.35 to 0.6 for 32 images through a first
    layer. Of much work both are at the processor's peak, the kernel only where rows of 16 positions or more fill its
    lanes; there it takes 0.8 to 1 of the time from bounds to bounds, as it makes no centers and radii between them.
    It was not measured without AVX2.

    Args:
        like: of the input's shape.
        weight: of the convolution, as the rest.
        convolution: stride, padding, dilation and groups.
        of_bounds: whether from bounds to bounds, or from centers and radii to such.
    """
    if not (like.is_cpu and _HAS_WIDE_VECTORS):
        return False
    _, height, width = convolved_size(like.shape, weight, convolution)
    if like.shape[0] <= 2 or weight[0].numel() <= _FEW_TERMS or (of_bounds and width >= 16):
        return True
    return like.shape[0] * height * width * weight.numel() <= _MODERATE_WORK


_FEW_CHANNELS = 4
"""Channels of a layer up to which the library's transposed convolutions are far from a processor's peak."""


def direct_transposed_pays(
    A: Tensor, weight: Tensor, input_size: Sequence[int], convolution: Convolution, *, enough: float = 0.8
) -> bool:
    """Whether the CPU kernel beats the library's transposed convolution of A [..., C_out, H, W].

    It computes the constants on the way, and what a stride leaves between A's columns it does not multiply. Of two
    threads it takes 0.2 to 0.45 of the time of the library's convolution down to a first layer, and 0.3 to 0.8 with a
    stride. Of much work at stride 1 both are at the processor's peak where A fills the lanes of its results; else, and
    with a stride below that, the kernel multiplies more zeros around A than it saves.

    Args:
        A: coefficients, for their shape.
        weight: of the convolution, as the rest.
        input_size: rows and columns of its input.
        convolution: stride, padding, dilation and groups.
        enough: share of the lanes that are to be filled, of much work.
    """
    if not (A.is_cpu and _HAS_WIDE_VECTORS):
        return False
    if weight.shape[1] <= _FEW_CHANNELS:
        return True
    rows, columns = (-(-input_size[i] // convolution[0][i]) for i in range(2))
    positions = A.shape[-2] * A.shape[-1]
    filled = positions / (rows * 16 * -(-columns // 16))
    return filled >= enough or A.shape[:-3].numel() * positions * weight.numel() <= _MODERATE_WORK * filled**2


def enough_of_ends(convolution: Convolution) -> float:
    """Return the share of its lanes from which the kernel for the gradient by the ends of intervals pays.

    It makes no centers and radii between gradients by the ends of the result and those by the ends of the input. With a
    stride that outweighs half of the lanes; of centers and radii all lanes are to be filled.
    """
    return 0.5 if max(convolution[0]) > 1 else 0.8


_FEW_OUTPUTS = 8
"""Output channels of a group below which most lanes of the weight's gradient are idle."""

_MANY_TERMS = 2048
"""Terms of a sum from which the sums of a few output channels leave the second cache ..."""

_FEW_POSITIONS = 128
"""... and which of images with fewer positions takes as long as their products."""


def direct_weight_gradient_pays(
    like: Tensor, weight: Tensor, convolution: Convolution, *, alone: bool, fewest_terms: int = 1
) -> bool:
    """Whether the CPU kernel beats the library's gradient by the weight, of inputs of the shape of `like`.

    Its lanes are output channels, whatever the size of the image. Of two threads and one image it takes 0.2 to 0.9 of
    the time, for intervals as for a single convolution, over 40 layers of 1 to 640 channels on 4 x 4 to 224 x 224. Of
    much work both are at the processor's peak (0.85 to 1.1) where output channels fill the lanes, and the kernel makes
    no centers and radii between bounds and gradient. It is not worth a library call less where there is another for the
    gradient by the input of much work: those lay out some of the same.

    Args:
        like: of the input's shape.
        weight: of the convolution, as the rest.
        convolution: stride, padding, dilation and groups.
        alone: whether the library is not called for the gradient by the input.
        fewest_terms: of a sum, from which the kernel is to be taken for much work.
    """
    outputs = weight.shape[0] // max(convolution[3], 1)
    if not (like.is_cpu and _HAS_WIDE_VECTORS) or outputs < _FEW_OUTPUTS:
        return False
    _, height, width = convolved_size(like.shape, weight, convolution)
    if height * width < _FEW_POSITIONS and weight[0].numel() > _MANY_TERMS:
        return False
    filled = outputs / (16 * -(-outputs // 16))
    fills = alone and filled >= 0.8 and weight[0].numel() >= fewest_terms
    return fills or like.shape[:-3].numel() * height * width * weight.numel() <= _MODERATE_WORK


_PAIRED = 1_700_000
"""Multiply-adds (at stride 1) from which small kernels on a small image are worth a pair; near it both are as fast."""


def pairs_pay(like: Tensor, weight: Tensor, groups: int) -> bool:
    """Whether the gradient of one convolution in two groups beats those of two, of inputs of the shape of `like`.

    So it does for one image on a CPU, where a convolution takes no longer than its call and the threads that it wakes:
    center and radius of an interval take 0.65 of the time together in the layers of DM-Small, 0.96 in those of
    DM-Large. But groups are oneDNN's, and of little work PyTorch's own product is faster, which it takes for kernels
    of up to 3 x 3 on small images. More images would be copied for too little.
    """
    of_one_dnn = like.numel() > 20480 or min(weight.shape[2:]) > 3
    one_image = like.is_cpu and like.dtype == torch.float32 and like.shape[0] == 1 == groups
    multiply_adds = like.numel() * weight.numel() // max(weight.shape[1], 1)  # at stride 1
    return one_image and (of_one_dnn or (weight.shape[1] >= 16 and multiply_adds >= _PAIRED))


def transposed_gradients(
    gradient: Tensor, like: Tensor, weight: Tensor, convolution: Convolution, needs: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients with respect to input and weight of a transposed convolution [N, C_out, H, W] of `like`."""
    stride, padding, dilation, groups = convolution
    beyond = rows_beyond(gradient.shape[2:], like.shape[2:], weight, convolution)
    gradient, weight = with_strides_of_its_shape(gradient), with_strides_of_its_shape(weight)
    to_input, to_weight, _ = torch.ops.aten.convolution_backward.default(
        gradient, like, weight, None, stride, padding, dilation, True, beyond, groups, [*needs, False]
    )
    return to_input, to_weight


def rows_beyond(input_size: Sequence[int], size: Sequence[int], weight: Tensor, convolution: Convolution) -> list[int]:
    """Return how many last rows and columns of its input a convolution to `size` never reads."""
    stride, padding, dilation, _ = convolution
    return [
        input_size[i] - (size[i] - 1) * stride[i] + 2 * padding[i] - dilation[i] * (weight.shape[2 + i] - 1) - 1
        for i in range(2)
    ]


def with_strides_of_its_shape(images: Tensor) -> Tensor:
    """Return images or a weight [N, C, h, w] of which a single channel has the stride that it has in plain layout.

    A single channel is contiguous whatever its stride. Where that is 1, as in the layout "channels last", PyTorch tells
    oneDNN that the channels come last, which then computes float32 convolutions with a horizontal stride to a single
    column from numbers that lie elsewhere (seen of oneDNN 3.12).
    """
    return images.contiguous().flatten().view(images.shape) if images.shape[1] == 1 else images


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Convolve as `torch.nn.functional.conv2d` does, whatever the layout of the tensors is."""
    x, weight = with_strides_of_its_shape(x), with_strides_of_its_shape(weight)
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)


def convolve(rows: Tensor, weight: Tensor, convolution: Convolution) -> Tensor:
    """Convolve [..., C, h, w] without a bias, all leading dimensions as one batch."""
    stride, padding, dilation, groups = convolution
    result = conv2d(rows.flatten(0, -4), weight, None, stride, padding, dilation, groups)
    return result.reshape(*rows.shape[:-3], *result.shape[1:])


def convolved_size(shape: Sequence[int], weight: Tensor, convolution: Convolution) -> tuple[int, int, int]:
    """Return channels, rows and columns of the output of a convolution of [..., C, h, w]."""
    stride, padding, dilation, _ = convolution
    height, width = (
        (shape[i - 2] + 2 * padding[i] - dilation[i] * (weight.shape[i + 2] - 1) - 1) // stride[i] + 1 for i in range(2)
    )
    return weight.shape[0], height, width


def fused_convolution_pays(weight: Tensor, groups: int) -> bool:
    """Whether one fused product beats two library convolutions on a CUDA device.

    The library's convolutions, cuDNN being off in full precision, unfold the input: each of the two writes and reads
    kh kw numbers for every one of the input, image by image. The fused kernel reads the input in place and the weights
    once, so it moves less at every size. But its narrowest tile is 16 channels wide, and of a group with fewer output
    channels the rest of the tile is idle; and for depthwise convolutions the library has a kernel that does not unfold.
    On an H100, 64 channels of 32 images of 32 x 32 (`lbp bench ops --device cuda`, whose plain PyTorch has cuDNN): into
    4 channels 0.07 ms fused and 0.45 by the library, into 64 channels of 8 groups 0.07 and 0.20, of 64 groups 0.15 and
    0.09.
    """
    return weight.shape[0] >= 4 * groups
