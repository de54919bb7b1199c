// Back-substitution of few short rows through an activation and the Conv2d layer below it, whole or windowed, in one
// launch: a block relaxes a row into shared memory, and each of its threads adds up one coefficient of the result. (In
// relax_conv2d.cuh and relax_conv2d_windows.cuh a product follows a launch that computes the lines once for all rows.)
#pragma once

#include "cuda/kernels/relax_conv2d.cuh"
#include "cuda/kernels/relax_few_windows.cuh"

namespace lbp::cuda {

template <typename T>
struct RelaxFewConv2dLaunch {
  RelaxBackwardConv2dArguments<T> op;
  Index neurons, chunks;  // kThreads coefficients of a result's row each
};

// Blocks run over images, their slots, and the chunks of each.
template <typename T>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 2) relax_few_conv2d_kernel(const RelaxFewConv2dLaunch<T> args) {
  LBP_DYNAMIC_SHARED(T, relaxed);  // [n]
  LBP_SHARED(double, shared, kThreads);
  const RelaxBackwardConv2dArguments<T>& op = args.op;
  const ConvolutionLayer<T>& layer = op.layer;
  const Index chunk = blockIdx.x % args.chunks, number = blockIdx.x / args.chunks;
  const Index slots = slot_count(op.sides, op.rows), image = quotient(number, slots);
  const Slot<T> slot(op.A, op.sides, op.batch, op.rows, image, 0, number - image * slots);
  const Index pixels = Index(layer.output.height) * layer.output.width;
  double constant = 0;
  for (Index neuron = threadIdx.x; neuron < args.neurons; neuron += kThreads) {
    BoundingLines<T> lines = {T(1), T(0), T(1), T(0)};
    if (op.sides != 0) lines = neuron_lines(op.relaxation, image, neuron);
    const double bias = layer.bias == nullptr ? 0.0 : double(read(layer.bias + quotient(neuron, pixels)));
    const T a = read(slot.A + neuron);
    const bool takes_lower = (a >= T(0)) == slot.lower;
    const T value = a * (takes_lower ? lines.lower_slope : lines.upper_slope);
    constant += double(a) * double(takes_lower ? lines.lower_intercept : lines.upper_intercept);
    constant += double(value) * bias;
    relaxed[neuron] = value;
  }
  constant = combine_groups(constant, 1, shared, Sum());
  if (chunk == 0 && threadIdx.x == 0) op.constants[slot.out_row] = constant;

  const Index size = Index(layer.channels) * layer.input.height * layer.input.width;
  const Index at = chunk * kThreads + threadIdx.x;
  if (at >= size) return;
  const Index line = quotient(at, layer.input.width), x = at - line * layer.input.width;
  const Index channel = quotient(line, layer.input.height), y = line - channel * layer.input.height;
  const Index inputs = layer.channels / layer.groups, outputs = layer.out_channels / layer.groups;
  const Index group = quotient(channel, inputs), entries = Index(layer.kernel.height) * layer.kernel.width;
  const T* const weight = layer.weight + (group * outputs * inputs + channel - group * inputs) * entries;
  T sum = T(0);
  for (int i = 0; i < layer.kernel.height; ++i) {
    const Index down = output_of_entry<Index>(y, i, layer.stride.height, layer.padding.height, layer.dilation.height);
    if (down < 0 || down >= layer.output.height) continue;
    for (int j = 0; j < layer.kernel.width; ++j) {
      const Index across = output_of_entry<Index>(x, j, layer.stride.width, layer.padding.width, layer.dilation.width);
      if (across < 0 || across >= layer.output.width) continue;
      const T* const under = relaxed + group * outputs * pixels + down * layer.output.width + across;
#pragma unroll 4
      for (Index k = 0; k < outputs; ++k) {
        sum = multiply_add(under[k * pixels], read(weight + k * inputs * entries + i * layer.kernel.width + j), sum);
      }
    }
  }
  op.coefficients[slot.out_row * size + at] = sum;
}

template <typename T>
struct RelaxFewConvolveWindowsLaunch {
  RelaxConvolveWindowsArguments<T> op;
  Index chunks;
};

// Blocks run over sides, their rows, and the chunks of each.
template <typename T>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 2)
    relax_few_convolve_windows_kernel(const RelaxFewConvolveWindowsLaunch<T> args) {
  LBP_DYNAMIC_SHARED(T, relaxed);  // [height, width, C]
  LBP_SHARED(double, shared, kThreads);
  const RelaxWindowsArguments<T>& relax = args.op.relax;
  const WindowConvolution<T>& convolution = args.op.convolution;
  const RowWindows<T>& A = relax.A;
  const Index chunk = blockIdx.x % args.chunks, out_row = blockIdx.x / args.chunks;
  const Index side = out_row >= A.rows ? 1 : 0;
  const WindowRow where = read_row(A.where + out_row - side * A.rows);
  const bool stands_somewhere = stands(A, where), lower = is_lower(relax.sides, side);
  double constant = 0;
  for (Index i = threadIdx.x; i < window_size(A); i += kThreads) {
    if (!stands_somewhere) break;
    const Index neuron = neuron_under(A, where, i);
    BoundingLines<T> lines = {T(1), T(0), T(1), T(0)};
    if (relax.relaxation.l != nullptr) lines = neuron_lines(relax.relaxation, where.image, neuron);
    const double bias = relax.bias.data == nullptr ? 0.0 : double(load_per_neuron(relax.bias, neuron));
    const T a = read(numbers_of(A, side, where) + i);
    const bool takes_lower = (a >= T(0)) == lower;
    const T value = a * (takes_lower ? lines.lower_slope : lines.upper_slope);
    constant += double(a) * double(takes_lower ? lines.lower_intercept : lines.upper_intercept);
    constant += double(value) * bias;
    relaxed[i] = value;
  }
  constant = combine_groups(constant, 1, shared, Sum());
  if (chunk == 0 && threadIdx.x == 0) {
    relax.constants[out_row] = stands_somewhere ? constant : quiet_nan<double>();
  }

  const Index size = convolution.height * convolution.width * convolution.inputs;
  const Index at = chunk * kThreads + threadIdx.x;
  if (at >= size) return;
  T sum = stands_somewhere ? T(0) : quiet_nan<T>();
  if (stands_somewhere) {
    const Index pixel = quotient(at, convolution.inputs), channel = at - pixel * convolution.inputs;
    const Index line = quotient(pixel, convolution.width);
    const Index row = out_row - side * A.rows;
    const Index y = read(convolution.corners + 2 * row) + line;
    const Index x = read(convolution.corners + 2 * row + 1) + pixel - line * convolution.width;
    const Index inputs = quotient(convolution.inputs, convolution.groups);
    const Index outputs = quotient(A.channels, convolution.groups);
    const Index group = quotient(channel, inputs), entries = convolution.kernel[0] * convolution.kernel[1];
    const T* const weight = convolution.weight + (group * outputs * inputs + channel - group * inputs) * entries;
    for (Index i = 0; i < convolution.kernel[0]; ++i) {
      const Index output_row =
          output_of_entry<Index>(y, i, convolution.stride[0], convolution.padding[0], convolution.dilation[0]);
      const Index down = output_row - where.top;
      if (output_row < 0 || down < 0 || down >= A.height) continue;
      for (Index j = 0; j < convolution.kernel[1]; ++j) {
        const Index output_column =
            output_of_entry<Index>(x, j, convolution.stride[1], convolution.padding[1], convolution.dilation[1]);
        const Index across = output_column - where.left;
        if (output_column < 0 || across < 0 || across >= A.width) continue;
        const T* const under = relaxed + (down * A.width + across) * A.channels + group * outputs;
#pragma unroll 4
        for (Index k = 0; k < outputs; ++k) {
          sum = multiply_add(under[k], read(weight + k * inputs * entries + i * convolution.kernel[1] + j), sum);
        }
      }
    }
  }
  args.op.coefficients[out_row * size + at] = sum;
}

}  // namespace lbp::cuda
