// What the kernels on windowed coefficients share: the lines of an image with channels last, and one window of A pushed
// through them.
#pragma once

#include "cpu/kernels/row_gradient.h"
#include "cpu/kernels/tile.h"
#include "window_arguments.h"

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

// Writes the lines of some rows of an image's layer; without an activation they are the identity.
template <typename T>
void load_image_lines(const RelaxWindowsArguments<T>& args, Index image, const Band& band) {
  const Index channels = args.A.channels, width = args.A.layer_width, pixels = args.A.layer_height * width;
  const Index first_pixel = band.first * width, band_pixels = (band.last - band.first) * width;
  const Index tiles = quotient_up(band_pixels, kTile);
  parallel_for(channels * tiles, 16 * minimum(band_pixels, kTile), [&](Index first, Index last) {
    LineTile<T> tile;
    alignas(64) T bias[kTile];
    for (Index item = first; item < last; ++item) {
      const Index channel = item / tiles, done = item % tiles * kTile, size = minimum(kTile, band_pixels - done);
      const Index pixel = first_pixel + done, begin = channel * pixels + pixel;
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
      T* to = args.lines + pixel * kLinePlanes * channels + channel;
      for (Index j = 0; j < size; ++j, to += kLinePlanes * channels) {
        to[0] = tile.lower_slope[j];
        to[channels] = tile.lower_intercept[j];
        to[2 * channels] = tile.upper_slope[j];
        to[3 * channels] = tile.upper_intercept[j];
        to[4 * channels] = bias[j];
      }
    }
  });
}

// The lines of one pixel, and its bias.
template <typename T>
struct PixelLines : RowLines<T> {
  T* bias;

  PixelLines(T* planes, Index channels, bool lower)
      : RowLines<T>(Planes{planes, planes + channels, planes + 2 * channels, planes + 3 * channels}, lower),
        bias(planes + 4 * channels) {}

 private:
  struct Planes {
    T *lower_slope, *lower_intercept, *upper_slope, *upper_intercept;
  };
};

// Channels that are pushed through their lines side by side.
constexpr Index kAbreast = 8;

// One side of a row on its way through the lines.
template <typename T>
struct Lane {
  const T* from;  // its window of A
  T* relaxed;     // where the result goes
  bool lower;
  Index out;                            // its place among the constants
  alignas(64) double shares[kAbreast];  // of its constant
};

template <typename T>
Lane<T> lane_of(const RelaxWindowsArguments<T>& args, Index row, Index side, T* relaxed) {
  const RowWindows<T>& A = args.A;
  const T* from = A.data + side * A.side_stride + A.where[row].source * A.source_stride;
  return {from, relaxed, is_lower(args.sides, side), side * A.rows + row, {}};
}

// One coefficient; adds to the constant and to the sum of magnitudes.
template <typename T>
LBP_HOST_DEVICE void relax_coefficient(T a, Index c, const T* __restrict positive_slope,
                                       const T* __restrict positive_intercept, const T* __restrict negative_slope,
                                       const T* __restrict negative_intercept, const T* __restrict bias,
                                       T* __restrict relaxed, double& constant, T& magnitude) {
  // Both lines are read: loads behind a condition are slower.
  const T slope_above = positive_slope[c], slope_below = negative_slope[c];
  const T intercept_above = positive_intercept[c], intercept_below = negative_intercept[c];
  const bool positive = a >= T(0);
  const T value = a * (positive ? slope_above : slope_below);
  const T intercept = positive ? intercept_above : intercept_below;
  relaxed[c] = value;
  magnitude += absolute(value);
  constant += double(a) * double(intercept) + double(value) * double(bias[c]);
}

// One pixel of a window; adds to the lane's constant, and to sums of magnitudes, which are 0 while every coefficient
// is.
template <typename T>
LBP_HOST_DEVICE void relax_pixel(Index channels, const T* __restrict lines, Index at, Lane<T>& lane,
                                 T* __restrict magnitudes) {
  const PixelLines<const T> line(lines, channels, lane.lower);
  const T* __restrict A = lane.from + at;
  T* __restrict relaxed = lane.relaxed + at;
  double* __restrict shares = lane.shares;
  const T* __restrict positive_slope = line.positive_slope;
  const T* __restrict positive_intercept = line.positive_intercept;
  const T* __restrict negative_slope = line.negative_slope;
  const T* __restrict negative_intercept = line.negative_intercept;
  const T* __restrict bias = line.bias;
  Index first = 0;
  for (; first + kAbreast <= channels; first += kAbreast) {
#pragma omp simd
    for (Index i = 0; i < kAbreast; ++i) {
      relax_coefficient(A[first + i], first + i, positive_slope, positive_intercept, negative_slope, negative_intercept,
                        bias, relaxed, shares[i], magnitudes[i]);
    }
  }
  for (Index i = 0; first + i < channels; ++i) {
    relax_coefficient(A[first + i], first + i, positive_slope, positive_intercept, negative_slope, negative_intercept,
                      bias, relaxed, shares[i], magnitudes[i]);
  }
}

// Pushes lanes [first, last), whose windows lie at one place, through the lines of their image, and writes their
// constants. The lines of a pixel are read once for all of them. Lanes form groups of `together`: occupied [groups,
// height * width] is set where a coefficient of any lane of a group is not 0.
template <typename T>
void relax_lanes(const RelaxWindowsArguments<T>& args, const WindowRow& where, Lane<T>* lanes, Index first, Index last,
                 Index together, char* occupied) {
  const RowWindows<T>& A = args.A;
  for (Index y = 0; y < A.height; ++y) {
    const T* lines = args.lines + ((where.top + y) * A.layer_width + where.left) * kLinePlanes * A.channels;
    for (Index x = 0; x < A.width; ++x, lines += kLinePlanes * A.channels) {
      const Index pixel = y * A.width + x;
      for (Index i = first; i < last;) {
        const Index group = i / together, end = minimum(last, (group + 1) * together);
        alignas(64) T magnitudes[kAbreast] = {};
        for (; i < end; ++i) relax_pixel(A.channels, lines, pixel * A.channels, lanes[i], magnitudes);
        T magnitude = T(0);
        for (Index j = 0; j < kAbreast; ++j) magnitude += magnitudes[j];
        if (!(magnitude == T(0))) occupied[group * A.height * A.width + pixel] = 1;
      }
    }
  }
  for (Index i = first; i < last; ++i) {
    double constant = 0;
    for (Index j = 0; j < kAbreast; ++j) constant += lanes[i].shares[j];
    args.constants[lanes[i].out] = constant;
  }
}

}  // namespace lbp::LBP_ISA
