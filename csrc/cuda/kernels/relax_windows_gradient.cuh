// The gradient of relax_windows. Rows share sources, and windows overlap: so a warp gathers what belongs to its part of
// a source, or to its neurons, from all rows in their order, instead of every row adding to what it shares.
#pragma once

#include "cuda/kernels/relax_windows.cuh"

namespace lbp::cuda {

template <typename T>
struct RelaxWindowsGradientLaunch {
  RelaxWindowsGradientArguments<T> op;
  LayerLines<T> lines;
};

// Calls body(row, where) in order for the rows that stand somewhere and that are wanted. All lanes of the warp take
// part.
template <typename T, typename Wanted, typename Body>
LBP_DEVICE void for_wanted_rows(const RowWindows<T>& A, const Wanted& wanted, const Body& body) {
  for (Index first = 0; first < A.rows; first += kLanes) {
    const Index row = first + lane();
    bool chosen = false;
    if (row < A.rows) {
      const WindowRow where = read_row(A.where + row);
      chosen = stands(A, where) && wanted(where);
    }
    for (unsigned found = __ballot_sync(kAllLanes, chosen); found != 0; found &= found - 1) {
      const Index next = first + __ffs(int(found)) - 1;
      body(next, read_row(A.where + next));
    }
  }
}

// The gradients of A: a warp for every step through every source.
template <typename T>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 2) relax_windows_gradient_kernel(const RelaxWindowsGradientLaunch<T> args) {
  const RelaxWindowsGradientArguments<T>& op = args.op;
  const RowWindows<T>& A = op.A;
  const Index size = window_size(A), steps = step_count(A), item = Index(blockIdx.x) * kWarps + warp();
  if (item >= A.sources * steps) return;  // the whole warp
  const Index source = quotient(item, steps);
  const WindowStep<T, false> numbers(A, item - source * steps);
  Pack<T> a[2], sums[2] = {};
#pragma unroll
  for (int side = 0; side < 2; ++side) {
    if (side < side_count(op.sides))
      a[side] = numbers.own.load(A.data + side * A.side_stride + source * A.source_stride);
  }
  for_wanted_rows(
      A, [source](const WindowRow& where) { return where.source == source; },
      [&](Index row, const WindowRow& where) {
        const LinesUnder<T, false> under(args.lines, A, where, numbers);
#pragma unroll
        for (int side = 0; side < 2; ++side) {
          if (side >= side_count(op.sides)) break;
          const bool lower = is_lower(op.sides, side);
          const Pack<T> to_relaxed = numbers.own.load(op.relaxed_gradient + (side * A.rows + row) * size);
          const T to_constant = T(read(op.constants_gradient + side * A.rows + row));
#pragma unroll
          for (int i = 0; i < kOwn<T>; ++i) {
            const bool takes_lower = (a[side][i] >= T(0)) == lower;
            const T gradient = to_relaxed[i] + to_constant * under.bias[i];
            sums[side][i] += gradient * under.slope(takes_lower, i) + to_constant * under.intercept(takes_lower, i);
          }
        }
      });
#pragma unroll
  for (int side = 0; side < 2; ++side) {
    if (side < side_count(op.sides)) numbers.own.store(op.A_gradient + (side * A.sources + source) * size, sums[side]);
  }
}

// The gradients of what the lines are made of, and of the bias: a lane for every channel of a pixel of an image.
template <typename T>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 2) window_lines_gradient_kernel(const RelaxWindowsGradientLaunch<T> args) {
  const RelaxWindowsGradientArguments<T>& op = args.op;
  const RowWindows<T>& A = op.A;
  const Index pixels = A.layer_height * A.layer_width, neurons = pixels * A.channels, size = window_size(A);
  const Index groups = (A.channels + kLanes - 1) / kLanes, item = Index(blockIdx.x) * kWarps + warp();
  if (item >= A.images * pixels * groups) return;  // the whole warp
  const Index place = quotient(item, groups), image = quotient(place, pixels), pixel = place - image * pixels;
  const Index y = quotient(pixel, A.layer_width), x = pixel - y * A.layer_width;
  const Index channel = (item - place * groups) * kLanes + lane();
  const bool inside = channel < A.channels;
  const Index at = image * neurons + pixel * A.channels + (inside ? channel : 0);
  const T bias = args.lines.bias == nullptr ? T(0) : read(args.lines.bias + at - image * neurons);
  const T lower_slope = read(args.lines.plane(0) + at), upper_slope = read(args.lines.plane(2) + at);
  BoundingLines<T> sums = {};
  T to_bias = T(0);
  for_wanted_rows(
      A,
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
          const T gradient = read(op.relaxed_gradient + (side * A.rows + row) * size + number) + to_constant * bias;
          const bool takes_lower = (a >= T(0)) == is_lower(op.sides, side);
          sums.lower_slope += takes_lower ? gradient * a : T(0);
          sums.upper_slope += takes_lower ? T(0) : gradient * a;
          sums.lower_intercept += takes_lower ? to_constant * a : T(0);
          sums.upper_intercept += takes_lower ? T(0) : to_constant * a;
          to_bias += to_constant * a * (takes_lower ? lower_slope : upper_slope);
        }
      });
  if (!inside) return;
  const Index neuron = channel * pixels + pixel;
  store_line_gradient(op.relaxation, image, neurons, neuron, sums, op.gradients);
  if (op.bias_gradient != nullptr) op.bias_gradient[image * neurons + neuron] = to_bias;
}

}  // namespace lbp::cuda
