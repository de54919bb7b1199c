// The gradients of relax_backward.cuh and relax_forward.cuh for small layers, in one launch.
#pragma once

#include "cuda/kernels/relax_backward.cuh"
#include "cuda/kernels/relax_forward.cuh"
#include "cuda/kernels/strips.cuh"

namespace lbp::cuda {

template <typename T>
struct RelaxBackwardGradientStripsLaunch {
  RelaxBackwardGradientArguments<T> op;
  Strips strips;  // rows are slots
};

template <typename T>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 2)
    relax_backward_gradient_strips_kernel(const RelaxBackwardGradientStripsLaunch<T> args) {
  LBP_SHARED(NeuronLineSums<T>, shared, kThreads);
  const RelaxBackwardGradientArguments<T>& op = args.op;
  const Strips& strips = args.strips;
  const Index image = strips.image(), neuron = strips.neuron();
  const bool inside = neuron < op.neurons;
  NeuronLineSums<T> sums = {};
  if (inside) {
    const BoundingLines<T> lines = neuron_lines(op.relaxation, image, neuron);
    const T bias = op.bias.data == nullptr ? T(0) : load_per_neuron(op.bias, neuron);
#pragma unroll 4
    for (Index number = strips.group(); number < strips.rows; number += strips.groups()) {
      const Slot<T> slot(op.A, op.sides, op.batch, op.rows, image, 0, number);
      const Index out = slot.out_row * op.neurons + neuron;
      const T a = read(slot.A + neuron), to_relaxed = read(op.relaxed_gradient + out);
      const T to_constant = T(read(op.constants_gradient + slot.out_row));
      const T gradient = op.bias.data == nullptr ? to_relaxed : to_relaxed + to_constant * bias;
      const T to_a = relax_gradient(a, gradient, to_constant, slot.lower, lines, sums.lines, sums.bias);
      if (op.A_gradient != nullptr) op.A_gradient[out] = to_a;
    }
  }
  sums = combine_groups(sums, strips.width, shared, [](const NeuronLineSums<T>& a, const NeuronLineSums<T>& b) {
    return NeuronLineSums<T>{
        {a.lines.lower_slope + b.lines.lower_slope, a.lines.lower_intercept + b.lines.lower_intercept,
         a.lines.upper_slope + b.lines.upper_slope, a.lines.upper_intercept + b.lines.upper_intercept},
        a.bias + b.bias};
  });
  if (!inside || strips.group() != 0) return;
  store_line_gradient(op.relaxation, image, op.neurons, neuron, sums.lines, op.gradients);
  if (op.bias_gradient != nullptr) op.bias_gradient[image * op.neurons + neuron] = sums.bias;
}

template <typename T>
struct RelaxForwardGradientStripsLaunch {
  RelaxForwardGradientArguments<T> op;
  Strips strips;  // rows are inputs
};

template <typename T>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 2)
    relax_forward_gradient_strips_kernel(const RelaxForwardGradientStripsLaunch<T> args) {
  LBP_SHARED(ForwardScales<T>, shared, kThreads);
  const RelaxForwardGradientArguments<T>& op = args.op;
  const Strips& strips = args.strips;
  const Index image = strips.image(), neuron = strips.neuron();
  const bool inside = neuron < op.neurons;
  BoundingLines<T> lines = {};
  ForwardScales<T> sums = {};
  const Index bias_in = image * op.bias_batch_stride + neuron, bias_out = image * op.neurons + neuron;
  if (inside) {
    lines = neuron_lines(op.relaxation, image, neuron);
    const ForwardScales<T> scale = forward_scales(lines.lower_slope, lines.upper_slope);
    const Index in = image * op.matrix_batch_stride + neuron, out = image * op.inputs * op.neurons + neuron;
#pragma unroll 4
    for (Index row = strips.group(); row < strips.rows; row += strips.groups()) {
      const Index at = row * op.neurons;
      const T center = read(op.center + in + at), radius = op.radius == nullptr ? T(0) : read(op.radius + in + at);
      T to_center = read(op.center_out_gradient + out + at), to_radius = read(op.radius_out_gradient + out + at);
      scale_gradient(scale, center, radius, to_center, to_radius, sums);
      if (op.center_gradient != nullptr) op.center_gradient[out + at] = to_center;
      if (op.radius_gradient != nullptr) op.radius_gradient[out + at] = to_radius;
    }
    if (strips.group() == 0) {
      const T center = read(op.center_bias + bias_in);
      const T radius = op.radius_bias == nullptr ? T(0) : read(op.radius_bias + bias_in);
      T to_center = read(op.center_bias_out_gradient + bias_out),
        to_radius = read(op.radius_bias_out_gradient + bias_out);
      scale_gradient(scale, center, radius, to_center, to_radius, sums);
      if (op.center_bias_gradient != nullptr) op.center_bias_gradient[bias_out] = to_center;
      if (op.radius_bias_gradient != nullptr) op.radius_bias_gradient[bias_out] = to_radius;
    }
  }
  sums = combine_groups(sums, strips.width, shared, [](const ForwardScales<T>& a, const ForwardScales<T>& b) {
    return ForwardScales<T>{a.center_to_center + b.center_to_center, a.radius_to_center + b.radius_to_center,
                            a.center_to_radius + b.center_to_radius, a.radius_to_radius + b.radius_to_radius};
  });
  if (!inside || strips.group() != 0) return;
  const BoundingLines<T> to_lines =
      forward_scales_gradient(lines.lower_slope, lines.upper_slope, sums, read(op.center_bias_out_gradient + bias_out),
                              read(op.radius_bias_out_gradient + bias_out));
  store_line_gradient(op.relaxation, image, op.neurons, neuron, to_lines, op.gradients);
}

}  // namespace lbp::cuda
