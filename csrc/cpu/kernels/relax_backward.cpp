#include "cpu/kernels/row_gradient.h"
#include "cpu/kernels/table.h"
#include "cpu/kernels/tile.h"

namespace lbp::LBP_ISA {
namespace {

// One row of A over one tile: writes A * slope and returns its share of the constants. A = 0 counts as positive.
template <typename T, bool kBias>
double relax_row(Index size, const T* __restrict A, const T* __restrict positive_slope,
                 const T* __restrict negative_slope, const T* __restrict positive_intercept,
                 const T* __restrict negative_intercept, const T* __restrict bias, T* __restrict relaxed) {
  double constant = 0;
#pragma omp simd reduction(+ : constant)
  for (Index j = 0; j < size; ++j) {
    const T a = A[j];
    const bool positive = a >= T(0);
    const T value = a * selected(positive, positive_slope[j], negative_slope[j]);
    const T intercept = selected(positive, positive_intercept[j], negative_intercept[j]);
    relaxed[j] = value;
    constant += double(a) * double(intercept);
    if (kBias) constant += double(value) * double(bias[j]);
  }
  return constant;
}

// Asks for numbers that are read next: rows lie pages apart, where the hardware does not look ahead.
template <typename T>
void prefetch(Index size, const T* from) {
  for (Index j = 0; j < size; j += 64 / Index(sizeof(T))) __builtin_prefetch(from + j, 0, 2);
}

}  // namespace

template <typename T>
void relax_backward(const RelaxBackwardArguments<T>& args) {
  const Index sides = side_count(args.sides);
  // Every image's rows are split into as many pieces as keep the threads busy; each piece computes the lines once.
  const Index rows_per_piece = minimum(args.rows, maximum(16, quotient_up(args.rows * args.batch, 64)));
  const Index pieces = quotient_up(args.rows, maximum(1, rows_per_piece));
  parallel_for(args.batch * pieces, sides * rows_per_piece * args.neurons, [&](Index first, Index last) {
    LineTile<T> lines;
    alignas(64) T bias[kTile];
    for (Index item = first; item < last; ++item) {
      const Index image = item / pieces;
      const Index first_row = item % pieces * rows_per_piece, last_row = minimum(args.rows, first_row + rows_per_piece);
      for (Index side = 0; side < sides; ++side) {
        double* constants = args.constants + (side * args.batch + image) * args.rows;
        for (Index row = first_row; row < last_row; ++row) constants[row] = 0;
      }
      for (Index begin = 0; begin < args.neurons; begin += kTile) {
        const Index size = minimum(kTile, args.neurons - begin);
        load_lines(args.relaxation, image, begin, size, lines);
        if (args.bias.data != nullptr) load_per_neuron(args.bias, begin, size, bias);
        for (Index row = first_row; row < last_row; ++row) {
          for (Index side = 0; side < sides; ++side) {
            const bool lower = is_lower(args.sides, side);
            const Index out_row = (side * args.batch + image) * args.rows + row;
            const T* A =
                args.A.data + side * args.A.side_stride + image * args.A.batch_stride + row * args.A.row_stride + begin;
            const auto relax = args.bias.data != nullptr ? relax_row<T, true> : relax_row<T, false>;
            if (row + 1 < last_row) prefetch(size, A + args.A.row_stride);
            args.constants[out_row] += relax(size, A, lower ? lines.lower_slope : lines.upper_slope,
                                             lower ? lines.upper_slope : lines.lower_slope,
                                             lower ? lines.lower_intercept : lines.upper_intercept,
                                             lower ? lines.upper_intercept : lines.lower_intercept, bias,
                                             args.relaxed + out_row * args.neurons + begin);
          }
        }
      }
    }
  });
}

template <typename T>
void relax_backward_gradient(const RelaxBackwardGradientArguments<T>& args) {
  const Index sides = side_count(args.sides), tiles = quotient_up(args.neurons, kTile);
  parallel_for(args.batch * tiles, sides * args.rows * minimum(args.neurons, kTile), [&](Index first, Index last) {
    LineTile<T> lines, gradients;
    alignas(64) T bias[kTile], bias_gradient[kTile];
    for (Index item = first; item < last; ++item) {
      const Index image = item / tiles, begin = item % tiles * kTile, size = minimum(kTile, args.neurons - begin);
      load_lines(args.relaxation, image, begin, size, lines);
      if (args.bias.data != nullptr) load_per_neuron(args.bias, begin, size, bias);
      gradients = LineTile<T>();
      for (Index j = 0; j < size; ++j) bias_gradient[j] = T(0);
      for (Index row = 0; row < args.rows; ++row) {
        for (Index side = 0; side < sides; ++side) {
          const bool lower = is_lower(args.sides, side);
          const Index out_row = (side * args.batch + image) * args.rows + row, at = out_row * args.neurons + begin;
          const T* A =
              args.A.data + side * args.A.side_stride + image * args.A.batch_stride + row * args.A.row_stride + begin;
          const auto relax = args.bias.data != nullptr ? relax_row_gradient<T, true> : relax_row_gradient<T, false>;
          relax(size, A, args.relaxed_gradient + at, T(args.constants_gradient[out_row]),
                lower ? lines.lower_slope : lines.upper_slope, lower ? lines.upper_slope : lines.lower_slope,
                lower ? lines.lower_intercept : lines.upper_intercept,
                lower ? lines.upper_intercept : lines.lower_intercept, bias,
                args.A_gradient == nullptr ? nullptr : args.A_gradient + at,
                lower ? gradients.lower_slope : gradients.upper_slope,
                lower ? gradients.upper_slope : gradients.lower_slope,
                lower ? gradients.lower_intercept : gradients.upper_intercept,
                lower ? gradients.upper_intercept : gradients.lower_intercept, bias_gradient);
        }
      }
      store_line_gradients(args.relaxation, image, args.neurons, begin, size, gradients, args.gradients);
      if (args.bias_gradient != nullptr) {
        for (Index j = 0; j < size; ++j) args.bias_gradient[image * args.neurons + begin + j] = bias_gradient[j];
      }
    }
  });
}

#define LBP_INSTANTIATE(T)                                        \
  template void relax_backward(const RelaxBackwardArguments<T>&); \
  template void relax_backward_gradient(const RelaxBackwardGradientArguments<T>&);

LBP_INSTANTIATE(float)
LBP_INSTANTIATE(double)

}  // namespace lbp::LBP_ISA
