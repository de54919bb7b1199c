// The gradient of relax_windows.
#pragma once

#include "cuda/kernels/relax_windows.cuh"
#include "cuda/kernels/source_gradients.cuh"

namespace lbp::cuda {

template <typename T>
struct RelaxWindowsGradientLaunch {
  RelaxWindowsGradientArguments<T> op;
  LayerLines<T> lines;
  RowRanges ranges;
};

// The gradients of A.
template <typename T>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 2) relax_windows_gradient_kernel(const RelaxWindowsGradientLaunch<T> args) {
  const RelaxWindowsGradientArguments<T>& op = args.op;
  const RowWindows<T>& A = op.A;
  add_by_sources<T>(A, op.sides, args.ranges, op.A_gradient, [&](const SourceRow<T>& at, auto& sums) {
    const LinesUnder<T, false> under(args.lines, A, at.where, at.numbers);
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      if (side >= side_count(op.sides)) break;
      const bool lower = is_lower(op.sides, side);
      const Index row = side * A.rows + at.row;
      const Pack<T> to_relaxed = at.numbers.own.load(op.relaxed_gradient + row * window_size(A));
      const T to_constant = T(read(op.constants_gradient + row));
#pragma unroll
      for (int i = 0; i < kOwn<T>; ++i) {
        const bool takes_lower = (at.a[side][i] >= T(0)) == lower;
        const T gradient = to_relaxed[i] + to_constant * under.bias[i];
        sums[side][i] += gradient * under.slope(takes_lower, i) + to_constant * under.intercept(takes_lower, i);
      }
    }
  });
}

template <typename T>
struct SlopesAndBias {
  T lower_slope, upper_slope, bias;
};

// The gradients of what the lines are made of, and of the bias: a lane for every channel of a pixel of an image, a warp
// for 32 of them. of_neuron(image, neuron, place with channels last) returns the SlopesAndBias.
template <typename T, typename OfNeuron>
LBP_DEVICE void add_by_pixels(const RelaxWindowsGradientArguments<T>& op, const RowRanges& ranges, Index item,
                              const OfNeuron& of_neuron) {
  const RowWindows<T>& A = op.A;
  const Index pixels = A.layer_height * A.layer_width, neurons = pixels * A.channels, size = window_size(A);
  const Index groups = (A.channels + kLanes - 1) / kLanes;
  if (item >= A.images * pixels * groups) return;  // the whole warp
  const Index place = quotient(item, groups), image = quotient(place, pixels), pixel = place - image * pixels;
  const Index y = quotient(pixel, A.layer_width), x = pixel - y * A.layer_width;
  const Index channel = (item - place * groups) * kLanes + lane();
  const bool inside = channel < A.channels;
  const Index neuron = channel * pixels + pixel;
  SlopesAndBias<T> own = {};
  if (inside) own = of_neuron(image, neuron, pixel * A.channels + channel);
  BoundingLines<T> sums = {};
  T to_bias = T(0);
  for_wanted_rows(
      A, ranges.of_image(image, A.rows),
      [&](const WindowRow& where) {
        return where.image == image && where.top <= y && y < where.top + A.height && where.left <= x &&
               x < where.left + A.width;
      },
      [&](Index row, const WindowRow& where) {
        if (!inside) return;
        const Index number = ((y - where.top) * A.width + x - where.left) * A.channels + channel;
#pragma unroll
        for (int side = 0; side < 2; ++side) {
          if (side >= side_count(op.sides)) break;
          const T a = read(numbers_of(A, side, where) + number);
          const T to_constant = T(read(op.constants_gradient + side * A.rows + row));
          const T gradient = read(op.relaxed_gradient + (side * A.rows + row) * size + number) + to_constant * own.bias;
          const bool takes_lower = (a >= T(0)) == is_lower(op.sides, side);
          sums.lower_slope += takes_lower ? gradient * a : T(0);
          sums.upper_slope += takes_lower ? T(0) : gradient * a;
          sums.lower_intercept += takes_lower ? to_constant * a : T(0);
          sums.upper_intercept += takes_lower ? T(0) : to_constant * a;
          to_bias += to_constant * a * (takes_lower ? own.lower_slope : own.upper_slope);
        }
      });
  if (!inside) return;
  store_line_gradient(op.relaxation, image, neurons, neuron, sums, op.gradients);
  if (op.bias_gradient != nullptr) op.bias_gradient[image * neurons + neuron] = to_bias;
}

template <typename T>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 2) window_lines_gradient_kernel(const RelaxWindowsGradientLaunch<T> args) {
  const RowWindows<T>& A = args.op.A;
  const LayerLines<T>& lines = args.lines;
  add_by_pixels(args.op, args.ranges, Index(blockIdx.x) * kWarps + warp(), [&](Index image, Index, Index place) {
    const Index at = image * A.layer_height * A.layer_width * A.channels + place;
    const T bias = lines.bias == nullptr ? T(0) : read(lines.bias + place);
    return SlopesAndBias<T>{read(lines.plane(0) + at), read(lines.plane(2) + at), bias};
  });
}

}  // namespace lbp::cuda
