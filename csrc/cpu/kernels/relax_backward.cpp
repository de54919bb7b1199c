#include "cpu/kernels/relax_row.h"
#include "cpu/kernels/stream.h"
#include "cpu/kernels/table.h"
#include "cpu/kernels/tile.h"

namespace lbp::LBP_ISA {
template <typename T>
void relax_backward(const RelaxBackwardArguments<T>& args) {
  const Index sides = side_count(args.sides);
  // Every image's rows are split into as many pieces as keep the threads busy; each piece computes the lines once.
  const Index rows_per_piece = minimum(args.rows, maximum(16, quotient_up(args.rows * args.batch, 64)));
  const Index pieces = quotient_up(args.rows, maximum(1, rows_per_piece));
  const bool streamed = is_streamed(sides * args.batch * args.rows * args.neurons * Index(sizeof(T)));
  const bool biased = args.bias.data != nullptr;
  const RelaxRow<T> relax = relax_row_for<T>(biased, streamed);
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
        if (biased) load_per_neuron(args.bias, begin, size, bias);
        for (Index row = first_row; row < last_row; ++row) {
          for (Index side = 0; side < sides; ++side) {
            const bool lower = is_lower(args.sides, side);
            const Index out_row = (side * args.batch + image) * args.rows + row;
            const T* A =
                args.A.data + side * args.A.side_stride + image * args.A.batch_stride + row * args.A.row_stride + begin;
            const T* next_A = row + 1 < last_row ? A + args.A.row_stride : A;
            args.constants[out_row] += relax(size, A, next_A, RowLines<const T>(lines, lower), bias,
                                             args.relaxed + out_row * args.neurons + begin);
          }
        }
      }
    }
    if (streamed) finish_streaming();
  });
}

template <typename T>
void relax_backward_gradient(const RelaxBackwardGradientArguments<T>& args) {
  const Index sides = side_count(args.sides), tiles = quotient_up(args.neurons, kTile);
  const bool streamed = is_streamed(sides * args.batch * args.rows * args.neurons * Index(sizeof(T)));
  const bool biased = args.bias.data != nullptr;
  const auto relax = streamed ? (biased ? relax_row_gradient<T, true, true> : relax_row_gradient<T, false, true>)
                              : (biased ? relax_row_gradient<T, true, false> : relax_row_gradient<T, false, false>);
  parallel_for(args.batch * tiles, sides * args.rows * minimum(args.neurons, kTile), [&](Index first, Index last) {
    LineTile<T> lines, gradients;
    alignas(64) T bias[kTile], bias_gradient[kTile];
    for (Index item = first; item < last; ++item) {
      const Index image = item / tiles, begin = item % tiles * kTile, size = minimum(kTile, args.neurons - begin);
      load_lines(args.relaxation, image, begin, size, lines);
      if (biased) load_per_neuron(args.bias, begin, size, bias);
      gradients = LineTile<T>();
      for (Index j = 0; j < size; ++j) bias_gradient[j] = T(0);
      for (Index row = 0; row < args.rows; ++row) {
        for (Index side = 0; side < sides; ++side) {
          const bool lower = is_lower(args.sides, side);
          const Index out_row = (side * args.batch + image) * args.rows + row, at = out_row * args.neurons + begin;
          const T* A =
              args.A.data + side * args.A.side_stride + image * args.A.batch_stride + row * args.A.row_stride + begin;
          T* A_gradient = args.A_gradient == nullptr ? nullptr : args.A_gradient + at;
          RelaxedRun<T> run = {A, args.relaxed_gradient + at, T(args.constants_gradient[out_row]), A_gradient};
          if (row + 1 < args.rows) {
            run.A_ahead = args.A.row_stride;
            run.gradient_ahead = args.neurons;
          }
          relax(size, run, RowLines<const T>(lines, lower), RowLines<T>(gradients, lower), bias, bias_gradient);
        }
      }
      store_line_gradients(args.relaxation, image, args.neurons, begin, size, pointers_to(gradients), args.gradients);
      if (args.bias_gradient != nullptr) {
        for (Index j = 0; j < size; ++j) args.bias_gradient[image * args.neurons + begin + j] = bias_gradient[j];
      }
    }
    if (streamed) finish_streaming();
  });
}

#define LBP_INSTANTIATE(T)                                        \
  template void relax_backward(const RelaxBackwardArguments<T>&); \
  template void relax_backward_gradient(const RelaxBackwardGradientArguments<T>&);

LBP_INSTANTIATE(float)
LBP_INSTANTIATE(double)

}  // namespace lbp::LBP_ISA
