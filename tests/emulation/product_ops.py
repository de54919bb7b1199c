"""The ops that multiply by a layer's weights: intervals, forward bounds and coefficients through affine layers."""

import torch
from emulation.arguments import EMPTY, array, coefficients, output, relaxation, size
from emulation.module import Emulated

TO_NEAREST = (0.0, 0.0, None, None)


def convolved(image, weight, stride, padding, dilation, groups):
    """Rows and columns of a convolution's output, and the numbers that tell launch functions its geometry."""
    reach = [image[i] + 2 * padding[i] - dilation[i] * (weight.shape[2 + i] - 1) - 1 for i in range(2)]
    shape = [reach[i] // stride[i] + 1 for i in range(2)]
    return shape, [*stride, *padding, *dilation, *image, *shape, groups]


class ProductOps(Emulated):
    def interval_linear(self, l, u, weight, bias):
        return self._interval_linear(l, u, weight, bias, TO_NEAREST, self.split)

    def interval_linear_outward(self, l, u, weight, bias, *outward):
        return self._interval_linear(l, u, weight, bias, outward, split=False)

    def _interval_linear(self, l, u, weight, bias, outward, split):
        lower, upper = (output(l, *l.shape[:-1], weight.shape[0]) for _ in range(2))
        l, u, *results = (array(end.flatten(0, -2)) for end in (l, u, lower, upper))
        self.module.interval_linear(l, u, array(weight), array(bias), *results, split, self._outward(*outward))
        return lower, upper

    def interval_conv2d(self, l, u, weight, bias, *convolution):
        return self._interval_conv2d(l, u, weight, bias, TO_NEAREST, convolution, self.split)

    def interval_conv2d_outward(self, l, u, weight, bias, relative, absolute, margin, of_example, *convolution):
        outward = (relative, absolute, margin, of_example)
        return self._interval_conv2d(l, u, weight, bias, outward, convolution, split=False)

    def _interval_conv2d(self, l, u, weight, bias, outward, convolution, split):
        shape, geometry = convolved(l.shape[2:], weight, *convolution)
        lower, upper = (output(l, l.shape[0], weight.shape[0], *shape) for _ in range(2))
        operands, results = map(array, (l, u, weight, bias)), map(array, (lower, upper))
        self.module.interval_conv2d(*operands, geometry, *results, split, self._outward(*outward))
        return lower, upper

    def _outward(self, relative, absolute, margin, of_example):
        return self.module.Outward(relative, absolute, array(margin), array(of_example))

    def forward_linear(self, *arguments):
        *matrices, weight, bias = arguments
        outputs = [None if x is None else output(x, *x.shape[:-1], weight.shape[0]) for x in matrices]
        self.module.forward_linear(arrays(matrices), array(weight), array(bias), arrays(outputs), self.split)
        return empty_where_none(outputs)

    def forward_conv2d(self, *arguments):
        *matrices, weight, bias = arguments[:6]
        shape, geometry = convolved(matrices[0].shape[-2:], weight, *arguments[6:])
        outputs = [None if x is None else output(x, *x.shape[:-3], weight.shape[0], *shape) for x in matrices]
        layer = (array(weight), array(bias), geometry)
        self.module.forward_conv2d(arrays(matrices), *layer, arrays(outputs), self.split)
        return empty_where_none(outputs)

    def insert_forward(self, A, *arguments):
        *matrices, sides = arguments
        A, _ = coefficients(A, sides)
        results = output(A, *A.shape[:3], matrices[0].shape[1]), output(A, *A.shape[:3], dtype=torch.float64)
        self.module.insert_forward(A.flatten(3).numpy(), arrays(matrices), sides, *arrays(results), self.split)
        return results

    def relax_backward_linear(self, A, *arguments):
        *relax, weight, bias, sides = arguments
        A, _ = coefficients(A, sides)
        results = output(A, *A.shape[:3], weight.shape[1]), output(A, *A.shape[:3], dtype=torch.float64)
        lines, layer = relaxation(size(A, 3), *relax), (array(weight), array(bias))
        self.module.relax_backward_linear(A.numpy(), lines, *layer, sides, *arrays(results), self.split)
        return results

    def relax_backward_conv2d(self, A, *arguments):
        *relax, weight, bias, image, stride, padding, dilation, groups, sides = arguments
        A, _ = coefficients(A, sides)
        convolution = (image, stride, padding, dilation, groups)
        return self._transposed(A, relaxation(size(A, 3), *relax), weight, bias, convolution, sides)

    def backward_conv2d(self, A, weight, bias, *convolution):
        # Without an activation both sides are the same: rows of a batch of K B images.
        rows = A.detach().contiguous().flatten(0, 1)[None]
        found = self._transposed(rows, None, weight, bias, convolution, 0)
        return tuple(result.reshape(*A.shape[:2], *result.shape[2:]) for result in found)

    def _transposed(self, A, lines, weight, bias, convolution, sides):
        image, *rest = convolution
        _, geometry = convolved(image, weight, *rest)
        channels = weight.shape[1] * geometry[-1]
        results = output(A, *A.shape[:3], channels, *image), output(A, *A.shape[:3], dtype=torch.float64)
        layer = (array(weight), array(bias), geometry)
        self.module.relax_backward_conv2d(A.numpy(), lines, *layer, sides, *arrays(results), self.split)
        return results


def arrays(tensors):
    return [array(tensor) for tensor in tensors]


def empty_where_none(outputs):
    """What a layer makes of forward bounds, with empty tensors for radii that are not there, as the schema has it."""
    return tuple(output(outputs[0], *EMPTY) if out is None else out for out in outputs)
