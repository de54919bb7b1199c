// The four line parameters of every neuron, and their gradients: a thread for every neuron of every image.
#pragma once

#include "cuda/kernels/lines.cuh"

namespace lbp::cuda {

template <typename T>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 3) bounding_lines_kernel(const BoundingLinesArguments<T> op) {
  const Index at = Index(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= op.batch * op.neurons) return;
  const Index image = quotient(at, op.neurons), neuron = at - image * op.neurons;
  const BoundingLines<T> lines = neuron_lines(op.relaxation, image, neuron);
  op.lower_slope[at] = lines.lower_slope;
  op.lower_intercept[at] = lines.lower_intercept;
  op.upper_slope[at] = lines.upper_slope;
  op.upper_intercept[at] = lines.upper_intercept;
}

template <typename T>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 2) bounding_lines_gradient_kernel(const BoundingLinesGradientArguments<T> op) {
  const Index at = Index(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= op.batch * op.neurons) return;
  const Index image = quotient(at, op.neurons), neuron = at - image * op.neurons;
  const BoundingLines<T> to_lines = {read(op.lower_slope_gradient + at), read(op.lower_intercept_gradient + at),
                                     read(op.upper_slope_gradient + at), read(op.upper_intercept_gradient + at)};
  store_line_gradient(op.relaxation, image, op.neurons, neuron, to_lines, op.gradients);
}

}  // namespace lbp::cuda
