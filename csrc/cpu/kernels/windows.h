// What the kernels on windowed coefficients share: the lines of an image with channels last, and windows of A pushed
// through them.
#pragma once

#include "cpu/kernels/relax_row.h"
#include "cpu/kernels/tile.h"
#include "cpu/kernels/transpose.h"
#include "window_arguments.h"

namespace lbp::LBP_ISA {

// Planes of the lines of one image, [h, kLinePlanes, w, C]: the four line parameters and the bias. A row of a window
// takes one run of each.
constexpr Index kLinePlanes = 5;

// Where the first plane holds the first channel of a pixel; the others follow `plane_size` apart.
template <typename T>
Index planes_at(const RowWindows<T>& A, Index y, Index x) {
  return (y * kLinePlanes * A.layer_width + x) * A.channels;
}

template <typename T>
Index plane_size(const RowWindows<T>& A) {
  return A.layer_width * A.channels;
}

// The lines of a run of neurons of a row of the layer, and their biases.
template <typename T>
struct RunLines : RowLines<T> {
  T* bias;

  RunLines(T* planes, Index plane, bool lower)
      : RowLines<T>(Planes{planes, planes + plane, planes + 2 * plane, planes + 3 * plane}, lower),
        bias(planes + 4 * plane) {}

 private:
  struct Planes {
    T *lower_slope, *lower_intercept, *upper_slope, *upper_intercept;
  };
};

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

// Rows [first, last) of the layer that the windows of some rows of A meet.
struct Band {
  Index first, last;
};

template <typename T>
Band band_of(const RowWindows<T>& A, Index first_row, Index last_row) {
  Band band = {A.layer_height, 0};
  for (Index row = first_row; row < last_row; ++row) {
    band.first = minimum(band.first, A.where[row].top);
    band.last = maximum(band.last, A.where[row].top + A.height);
  }
  return band;
}

// Channels and pixels whose lines are computed together and then laid out with channels last.
constexpr Index kLineChannels = 16, kLinePixels = kTile / kLineChannels;

// Writes the lines of some rows of an image's layer; without an activation there are none, without a bias none of it.
template <typename T>
void load_image_lines(const RelaxWindowsArguments<T>& args, Index image, const Band& band) {
  const RowWindows<T>& A = args.A;
  const bool relaxed = args.relaxation.l != nullptr, biased = args.bias.data != nullptr;
  if (!relaxed && !biased) return;
  const Index groups = quotient_up(A.channels, kLineChannels), runs = quotient_up(A.layer_width, kLinePixels);
  parallel_for((band.last - band.first) * runs * groups, 16 * kTile, [&](Index first, Index last) {
    LineTile<T> tile;
    alignas(64) T bias[kTile];
    const T* planes[kLinePlanes] = {tile.lower_slope, tile.lower_intercept, tile.upper_slope, tile.upper_intercept,
                                    bias};
    for (Index item = first; item < last; ++item) {
      const Index y = band.first + item / groups / runs, x = item / groups % runs * kLinePixels;
      const Index channel = item % groups * kLineChannels, channels = minimum(kLineChannels, A.channels - channel);
      const Index pixels = minimum(kLinePixels, A.layer_width - x);
      for (Index c = 0; c < channels; ++c) {
        const Index begin = ((channel + c) * A.layer_height + y) * A.layer_width + x, at = c * kLinePixels;
        if (relaxed) {
          load_lines(args.relaxation, image, begin, pixels,
                     LinePointers<T>{tile.lower_slope + at, tile.lower_intercept + at, tile.upper_slope + at,
                                     tile.upper_intercept + at});
        }
        if (biased) load_per_neuron(args.bias, begin, pixels, bias + at);
      }
      T* to = args.lines + planes_at(A, y, x) + channel;
      for (Index plane = relaxed ? 0 : 4; plane < (biased ? 5 : 4); ++plane) {
        transpose(planes[plane], kLinePixels, channels, pixels, to + plane * plane_size(A), A.channels, kLineChannels);
      }
    }
  });
}

// One side of a row on its way through the lines.
template <typename T>
struct Lane {
  const T* from;  // its window of A
  T* relaxed;     // where the result goes
  bool lower;
  Index out;  // its place among the constants
};

template <typename T>
Lane<T> lane_of(const RelaxWindowsArguments<T>& args, Index row, Index side, T* relaxed) {
  const RowWindows<T>& A = args.A;
  const T* from = A.data + side * A.side_stride + A.where[row].source * A.source_stride;
  return {from, relaxed, is_lower(args.sides, side), side * A.rows + row};
}

// Copies a run of coefficients that no activation changes, and returns its share of the row's constant.
template <typename T, bool kBias>
double copy_row(Index size, const T* A, const T*, const RowLines<const T>&, const T* bias, T* relaxed) {
  WideSum<T> biases;
  for_lanes<T>(0, size, [&](Index j, auto zero) LBP_LANES {
    using V = decltype(zero);
    const V a = load<V>(A + j);
    save(relaxed + j, a);
    if constexpr (kBias) biases.add_product(a, load<V>(bias + j));
  });
  return biases.total();
}

// What is done to a run of coefficients of a window.
template <typename T>
RelaxRow<T> window_row_for(const RelaxWindowsArguments<T>& args, bool streamed) {
  const bool biased = args.bias.data != nullptr;
  if (args.relaxation.l != nullptr) return relax_row_for<T>(biased, streamed);
  return biased ? copy_row<T, true> : copy_row<T, false>;
}

// Pushes lanes [first, last), whose windows lie at one place, through the lines of their image, which are read once for
// all of them, and writes their constants.
template <typename T>
void relax_lanes(const RelaxWindowsArguments<T>& args, RelaxRow<T> relax, const WindowRow& where, const Lane<T>* lanes,
                 Index first, Index last) {
  const RowWindows<T>& A = args.A;
  const Index size = A.width * A.channels;
  for (Index i = first; i < last; ++i) args.constants[lanes[i].out] = 0;
  for (Index y = 0; y < A.height; ++y) {
    const T* planes = args.lines + planes_at(A, where.top + y, where.left);
    for (Index i = first; i < last; ++i) {
      const Lane<T>& lane = lanes[i];
      const RunLines<const T> lines(planes, plane_size(A), lane.lower);
      const T* from = lane.from + y * size;
      args.constants[lane.out] +=
          relax(size, from, y + 1 < A.height ? from + size : from, lines, lines.bias, lane.relaxed + y * size);
    }
  }
}

}  // namespace lbp::LBP_ISA
