// What the kernels on windowed coefficients share: the lines of an image with channels last, and one window of A pushed
// through them.
#pragma once

#include "cpu/kernels/tile.h"

namespace lbp::LBP_ISA {

// Planes of the lines of one image, [h, w, kLinePlanes, C]: the four line parameters and the bias.
constexpr Index kLinePlanes = 5;

// Calls body(first, last) for every run of rows of the same image.
template <typename Body>
void for_each_image(const WindowRow* where, Index rows, const Body& body) {
  for (Index first = 0; first < rows;) {
    Index last = first + 1;
    while (last < rows && where[last].image == where[first].image) ++last;
    body(first, last);
    first = last;
  }
}

// Writes the lines of one image; without an activation they are the identity.
template <typename T>
void load_image_lines(const RelaxWindowsArguments<T>& args, Index image) {
  const Index channels = args.A.channels, pixels = args.A.layer_height * args.A.layer_width;
  const Index neurons = channels * pixels;
  parallel_for(quotient_up(neurons, kTile), 16 * kTile, [&](Index first, Index last) {
    LineTile<T> tile;
    alignas(64) T bias[kTile];
    for (Index item = first; item < last; ++item) {
      const Index begin = item * kTile, size = minimum(kTile, neurons - begin);
      if (args.relaxation.l != nullptr) {
        load_lines(args.relaxation, image, begin, size, tile);
      } else {
        for (Index j = 0; j < size; ++j) {
          tile.lower_slope[j] = tile.upper_slope[j] = T(1);
          tile.lower_intercept[j] = tile.upper_intercept[j] = T(0);
        }
      }
      if (args.bias.data != nullptr) {
        load_per_neuron(args.bias, begin, size, bias);
      } else {
        for (Index j = 0; j < size; ++j) bias[j] = T(0);
      }
      for (Index j = 0; j < size; ++j) {
        const Index channel = (begin + j) / pixels, pixel = (begin + j) % pixels;
        T* to = args.lines + pixel * kLinePlanes * channels + channel;
        to[0] = tile.lower_slope[j];
        to[channels] = tile.lower_intercept[j];
        to[2 * channels] = tile.upper_slope[j];
        to[3 * channels] = tile.upper_intercept[j];
        to[4 * channels] = bias[j];
      }
    }
  });
}

// One pixel of a window; returns its share of the constants and notes whether any coefficient is not 0.
template <typename T>
double relax_pixel(Index channels, const T* __restrict A, const T* __restrict lines, bool lower, T* __restrict relaxed,
                   bool& occupied) {
  const T* __restrict positive_slope = lines + (lower ? 0 : 2) * channels;
  const T* __restrict positive_intercept = lines + (lower ? 1 : 3) * channels;
  const T* __restrict negative_slope = lines + (lower ? 2 : 0) * channels;
  const T* __restrict negative_intercept = lines + (lower ? 3 : 1) * channels;
  const T* __restrict bias = lines + 4 * channels;
  double constant = 0;
  int any = 0;
#pragma omp simd reduction(+ : constant) reduction(| : any)
  for (Index c = 0; c < channels; ++c) {
    const T a = A[c];
    const bool positive = a >= T(0);
    const T value = a * (positive ? positive_slope[c] : negative_slope[c]);
    const T intercept = positive ? positive_intercept[c] : negative_intercept[c];
    relaxed[c] = value;
    any |= value != T(0) ? 1 : 0;
    constant += double(a) * double(intercept) + double(value) * double(bias[c]);
  }
  if (any != 0) occupied = true;
  return constant;
}

// The window of one row and side through the lines of its image; returns the constants. `occupied` [height * width] is
// set where a coefficient is not 0.
template <typename T>
double relax_window(const RelaxWindowsArguments<T>& args, Index side, Index row, T* relaxed, bool* occupied) {
  const RowWindows<T>& A = args.A;
  const WindowRow where = A.where[row];
  const T* from = A.data + side * A.side_stride + where.source * A.source_stride;
  const bool lower = is_lower(args.sides, side);
  double constant = 0;
  for (Index y = 0; y < A.height; ++y) {
    const T* lines = args.lines + ((where.top + y) * A.layer_width + where.left) * kLinePlanes * A.channels;
    for (Index x = 0; x < A.width; ++x) {
      const Index pixel = y * A.width + x;
      constant += relax_pixel(A.channels, from + pixel * A.channels, lines + x * kLinePlanes * A.channels, lower,
                              relaxed + pixel * A.channels, occupied[pixel]);
    }
  }
  return constant;
}

}  // namespace lbp::LBP_ISA
