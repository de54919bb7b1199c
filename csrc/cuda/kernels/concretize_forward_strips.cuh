// concretize_forward.cuh and concretize_forward_windows.cuh for small layers, each in one launch; of the gradients
// those that need the norms.
#pragma once

#include "cuda/kernels/concretize_forward_windows.cuh"
#include "cuda/kernels/strips.cuh"

namespace lbp::cuda {

// Rows are inputs, or the entries of windows.
template <typename Arguments>
struct ConcretizeForwardStripsLaunch {
  Arguments op;
  bool has_windows;
  Windows windows;
  Strips strips;
};

// The window of the thread's neuron, where there are windows.
template <typename Launch>
LBP_DEVICE NeuronWindow window_of_strip(const Launch& args) {
  return args.has_windows ? NeuronWindow(args.windows, args.strips.neuron()) : NeuronWindow{};
}

// Which number of the image a row of the thread's neuron belongs to; negative beside the image.
template <typename Launch>
LBP_DEVICE Index input_of_row(const Launch& args, const NeuronWindow& window, Index row) {
  return args.has_windows ? window.at(args.windows, WindowEntry(args.windows, row)) : row;
}

// The sums of the thread's neuron over all inputs; all threads of the block take part.
template <typename Kind, typename T, typename Launch>
LBP_DEVICE NeuronSum sum_of_strip(const Launch& args, const NeuronWindow& window) {
  constexpr bool kScaled = Kind::template kScaled<T>;
  LBP_SHARED(NeuronSum, shared, kThreads);
  const auto& op = args.op;
  const Strips& strips = args.strips;
  const Index image = strips.image(), neuron = strips.neuron(), corner = image * op.region.batch_stride;
  NeuronSum sum = empty_neuron<Kind, kScaled>();
  if (neuron < op.neurons) {
    const Index matrix = image * op.matrix_batch_stride + neuron;
    const bool has_radius = op.radius != nullptr;
#pragma unroll 4
    for (Index row = strips.group(); row < strips.rows; row += strips.groups()) {
      const Index at = input_of_row(args, window, row), number = matrix + row * op.neurons;
      if (at < 0) continue;
      const T center = read(op.center + number), radius = has_radius ? read(op.radius + number) : T(0);
      add_coefficients<Kind, kScaled>(sum, center, radius, has_radius, input_ends<Kind>(op.region, corner + at),
                                      op.region.q);
    }
  }
  return combine_groups(sum, strips.width, shared, CombineNeurons<Kind, kScaled>{{op.region.q}});
}

template <typename T, typename Kind>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 2)
    concretize_forward_strips_kernel(const ConcretizeForwardStripsLaunch<ConcretizeForwardArguments<T>> args) {
  const Strips& strips = args.strips;
  const Index image = strips.image(), neuron = strips.neuron();
  const NeuronSum sum = sum_of_strip<Kind, T>(args, window_of_strip(args));
  if (neuron < args.op.neurons && strips.group() == 0) store_bounds<Kind>(args.op, image, neuron, sum);
}

template <typename T, typename Kind>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 2) concretize_forward_gradient_strips_kernel(
    const ConcretizeForwardStripsLaunch<ConcretizeForwardGradientArguments<T>> args) {
  const ConcretizeForwardGradientArguments<T>& op = args.op;
  const Region<T>& region = op.region;
  const Strips& strips = args.strips;
  const Index image = strips.image(), neuron = strips.neuron(), corner = image * region.batch_stride;
  const NeuronWindow window = window_of_strip(args);
  const NeuronSum sum = sum_of_strip<Kind, T>(args, window);
  if (neuron >= op.neurons) return;
  const NeuronNorms<Kind> norms = {RowNorm<Kind>(sum.lower, region.q), RowNorm<Kind>(sum.upper, region.q)};
  const double eps = radius_of(region, image);
  const T to_l = read(op.l_gradient + image * op.neurons + neuron);
  const T to_u = read(op.u_gradient + image * op.neurons + neuron);
  const Index matrix = image * op.matrix_batch_stride + neuron, out = image * op.inputs * op.neurons + neuron;
  const bool has_radius = op.radius != nullptr;
#pragma unroll 4
  for (Index row = strips.group(); row < strips.rows; row += strips.groups()) {
    const Index at = input_of_row(args, window, row), number = row * op.neurons;
    T center = T(0), radius = T(0);
    if (at >= 0) {
      center = read(op.center + matrix + number);
      if (has_radius) radius = read(op.radius + matrix + number);
      replace_by_gradients(center, radius, has_radius, to_l, to_u, input_ends<Kind>(region, corner + at), norms, eps,
                           region.q);
    }
    op.center_gradient[out + number] = center;
    if (op.radius_gradient != nullptr) op.radius_gradient[out + number] = radius;
  }
}

}  // namespace lbp::cuda
