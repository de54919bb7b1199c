// relax_windows and its gradient for few short rows, each in one launch: lines are computed wherever they are needed,
// and not once for all rows.
#pragma once

#include "cuda/kernels/relax_windows_gradient.cuh"
#include "cuda/kernels/strips.cuh"

namespace lbp::cuda {

// The neuron of the layer [C, h, w] under a number of a row's window.
template <typename T>
LBP_DEVICE Index neuron_under(const RowWindows<T>& A, const WindowRow& where, Index number) {
  const Index pixel = quotient(number, A.channels), y = quotient(pixel, A.width);
  return ((number - pixel * A.channels) * A.layer_height + where.top + y) * A.layer_width + where.left + pixel -
         y * A.width;
}

struct SideSums {
  double of[2];
};

// A block for every row.
template <typename T>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 2) relax_few_windows_kernel(const RelaxWindowsArguments<T> op) {
  LBP_SHARED(SideSums, shared, kThreads);
  const RowWindows<T>& A = op.A;
  const Index row = blockIdx.x, size = window_size(A), sides = side_count(op.sides);
  const WindowRow where = read_row(A.where + row);
  const bool stands_somewhere = stands(A, where);
  SideSums constants = {{0, 0}};
  for (Index i = threadIdx.x; i < size; i += kThreads) {
    BoundingLines<T> lines = {};
    T bias = T(0);
    if (stands_somewhere) {
      const Index neuron = neuron_under(A, where, i);
      lines = neuron_lines(op.relaxation, where.image, neuron);
      if (op.bias.data != nullptr) bias = load_per_neuron(op.bias, neuron);
    }
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      if (side >= sides) break;
      T relaxed = quiet_nan<T>();
      if (stands_somewhere) {
        const T a = read(numbers_of(A, side, where) + i);
        const bool takes_lower = (a >= T(0)) == is_lower(op.sides, side);
        relaxed = a * (takes_lower ? lines.lower_slope : lines.upper_slope);
        constants.of[side] += double(a) * double(takes_lower ? lines.lower_intercept : lines.upper_intercept);
        constants.of[side] += double(relaxed) * double(bias);
      }
      op.relaxed[(side * A.rows + row) * size + i] = relaxed;
    }
  }
  constants = combine_groups(constants, 1, shared, [](const SideSums& a, const SideSums& b) {
    return SideSums{{a.of[0] + b.of[0], a.of[1] + b.of[1]}};
  });
  if (threadIdx.x < sides) {
    const double constant = threadIdx.x == 0 ? constants.of[0] : constants.of[1];
    op.constants[Index(threadIdx.x) * A.rows + row] = stands_somewhere ? constant : quiet_nan<double>();
  }
}

template <typename T>
struct RelaxFewWindowsGradientLaunch {
  RelaxWindowsGradientArguments<T> op;
  Index source_blocks;  // the first blocks' warps take 32 numbers of a source each; those behind them the lines
};

// The gradients of 32 numbers of a source, from all rows that share it.
template <typename T>
LBP_DEVICE void add_few_by_sources(const RelaxWindowsGradientArguments<T>& op, Index item) {
  const RowWindows<T>& A = op.A;
  const Index size = window_size(A), steps = (size + kLanes - 1) / kLanes, source = quotient(item, steps);
  if (source >= A.sources) return;  // the whole warp
  const Index number = (item - source * steps) * kLanes + lane();
  const bool inside = number < size;
  T sums[2] = {T(0), T(0)};
  for_wanted_rows(
      A, {0, A.rows}, [source](const WindowRow& where) { return where.source == source; },
      [&](Index row, const WindowRow& where) {
        if (!inside) return;
        const Index neuron = neuron_under(A, where, number);
        const BoundingLines<T> lines = neuron_lines(op.relaxation, where.image, neuron);
        const T bias = op.bias.data == nullptr ? T(0) : load_per_neuron(op.bias, neuron);
#pragma unroll
        for (int side = 0; side < 2; ++side) {
          if (side >= side_count(op.sides)) break;
          const T a = read(numbers_of(A, side, where) + number);
          const T to_constant = T(read(op.constants_gradient + side * A.rows + row));
          const T gradient = read(op.relaxed_gradient + (side * A.rows + row) * size + number) + to_constant * bias;
          const bool takes_lower = (a >= T(0)) == is_lower(op.sides, side);
          sums[side] += gradient * (takes_lower ? lines.lower_slope : lines.upper_slope) +
                        to_constant * (takes_lower ? lines.lower_intercept : lines.upper_intercept);
        }
      });
  if (!inside) return;
#pragma unroll
  for (int side = 0; side < 2; ++side) {
    if (side >= side_count(op.sides)) break;
    op.A_gradient[(side * A.sources + source) * size + number] = sums[side];
  }
}

template <typename T>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 2)
    relax_few_windows_gradient_kernel(const RelaxFewWindowsGradientLaunch<T> args) {
  const RelaxWindowsGradientArguments<T>& op = args.op;
  const Index block = Index(blockIdx.x) - args.source_blocks;
  if (block < 0) {
    add_few_by_sources(op, Index(blockIdx.x) * kWarps + warp());
  } else {
    add_by_pixels(op, RowRanges{}, block * kWarps + warp(), [&op](Index image, Index neuron, Index) {
      const BoundingLines<T> lines = neuron_lines(op.relaxation, image, neuron);
      const T bias = op.bias.data == nullptr ? T(0) : load_per_neuron(op.bias, neuron);
      return SlopesAndBias<T>{lines.lower_slope, lines.upper_slope, bias};
    });
  }
}

}  // namespace lbp::cuda
