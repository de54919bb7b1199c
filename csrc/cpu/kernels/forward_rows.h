// The matrices of forward linear bounds, center -/+ radius, in tiles of neurons: dense rows over all of the input, or
// windows of it. Both are visited in segments, runs of neurons whose coefficients lie one after the other.
#pragma once

#include <type_traits>

#include "arguments.h"
#include "cpu/kernels/tile.h"

namespace lbp::LBP_ISA {

// Neurons in a tile here: two sums in float64 each, beside the rows that stream past.
constexpr Index kSums = 512;

// The coefficients of `count` neurons from neuron `first` of the tile on. The first belongs to element `input` of the
// input, each next one to the element `step` further on.
template <typename T>
struct Segment {
  const T* center;
  const T* radius;  // null: zero
  Index first, count, input;
  Index out;  // where the first coefficient lies in a matrix whose images do not share their rows
};

// The step, where the compiler is to know it.
template <Index kStep>
using Step = std::integral_constant<Index, kStep>;

template <typename T>
struct Matrices {
  const T* center;
  const T* radius;
  Index batch_stride;

  Segment<T> segment(Index image, Index image_size, Index at, Index first, Index count, Index input) const {
    const Index in = image * batch_stride + at;
    return {center + in, radius == nullptr ? nullptr : radius + in, first, count, input, image * image_size + at};
  }
};

// Neurons [begin, begin + size) of one image.
template <typename T>
struct DenseTile {
  Matrices<T> matrices;
  Index inputs, neurons, image, begin, size;

  // Runs body(segment, step) for every row.
  template <typename Body>
  void for_segments(const Body& body) const {
    for (Index i = 0; i < inputs; ++i) {
      body(matrices.segment(image, inputs * neurons, i * neurons + begin, 0, size, i), Step<0>());
    }
  }
};

// All matrices of a layer, and their tiles.
template <typename T>
struct DenseRows {
  Matrices<T> matrices;
  Index inputs, neurons;

  Index tiles() const { return quotient_up(neurons, kSums); }
  Index cost() const { return (inputs + 1) * minimum(neurons, kSums); }
  DenseTile<T> tile(Index image, Index number) const {
    return {matrices, inputs, neurons, image, number * kSums, minimum(kSums, neurons - number * kSums)};
  }
};

// Positions [first, stop) of a layer, of those in [begin, end), whose window entry number `entry` lies on the image.
struct Inside {
  Index first, stop;

  Inside(Index begin, Index end, Index scale, Index entry_offset, Index length) {
    // scale position + entry_offset must lie in [0, length).
    first = entry_offset >= 0 ? 0 : quotient_up(-entry_offset, scale);
    stop = entry_offset >= length ? 0 : quotient_up(length - entry_offset, scale);
    first = maximum(first, begin);
    stop = minimum(stop, end);
  }
};

// Rows [top, bottom) and columns [left, right) of one channel of one image; whole rows, or a part of one.
template <typename T>
struct WindowTile {
  Matrices<T> matrices;
  Windows windows;
  Index image, channel, top, bottom, left, right;
  Index begin, size;

  // Runs body(segment, step) for every part of a row of the tile with a window entry on the image.
  template <typename Body>
  void for_segments(const Body& body) const {
    if (windows.column_scale == 1) {
      for_stepped(body, Step<1>());
    } else {
      for_stepped(body, windows.column_scale);
    }
  }

 private:
  template <typename Body, typename ColumnStep>
  void for_stepped(const Body& body, ColumnStep step) const {
    const Windows& w = windows;
    const Index places = w.height * w.width, neurons = w.channels * places;
    const Index image_size = w.image_channels * w.rows * w.columns * neurons;
    for (Index entry = 0; entry < w.image_channels * w.rows * w.columns; ++entry) {
      const Index j = entry % w.columns, i = entry / w.columns % w.rows, source = entry / w.columns / w.rows;
      const Inside across(left, right, w.column_scale, w.column_offset + j, w.image_columns);
      const Inside down(top, bottom, w.row_scale, w.row_offset + i, w.image_rows);
      if (across.first >= across.stop) continue;
      for (Index y = down.first; y < down.stop; ++y) {
        const Index row = w.row_scale * y + w.row_offset + i;
        const Index column = w.column_scale * across.first + w.column_offset + j;
        body(matrices.segment(image, image_size, entry * neurons + channel * places + y * w.width + across.first,
                              (y - top) * (right - left) + across.first - left, across.stop - across.first,
                              (source * w.image_rows + row) * w.image_columns + column),
             step);
      }
    }
  }
};

template <typename T>
struct WindowRows {
  Matrices<T> matrices;
  Windows windows;

  Index tile_columns() const { return minimum(maximum(windows.width, 1), kSums); }
  Index tile_rows() const { return windows.width > kSums ? 1 : kSums / tile_columns(); }
  Index tiles_across() const { return quotient_up(windows.width, tile_columns()); }
  Index tiles_down() const { return quotient_up(windows.height, tile_rows()); }
  Index tiles() const { return windows.channels * tiles_down() * tiles_across(); }
  Index cost() const {
    const Index entries = windows.image_channels * windows.rows * windows.columns;
    return (entries + 1) * minimum(windows.height * windows.width, kSums);
  }

  WindowTile<T> tile(Index image, Index number) const {
    const Index channel = number / tiles_across() / tiles_down();
    const Index top = number / tiles_across() % tiles_down() * tile_rows();
    const Index left = number % tiles_across() * tile_columns();
    const Index bottom = minimum(top + tile_rows(), windows.height);
    const Index right = minimum(left + tile_columns(), windows.width);
    const Index begin = (channel * windows.height + top) * windows.width + left;
    return {matrices, windows, image, channel, top, bottom, left, right, begin, (bottom - top) * (right - left)};
  }
};

}  // namespace lbp::LBP_ISA
