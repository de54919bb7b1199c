// The matrices of forward linear bounds, center -/+ radius, in tiles of neurons: dense rows over all of the input, or
// windows of it. Both are visited in segments, runs of neurons whose coefficients lie one after the other.
#pragma once

#include <type_traits>

#include "cpu/kernels/tile.h"
#include "window_arguments.h"

namespace lbp::LBP_ISA {

// Neurons in a tile here: two or three sums in float64 each, beside the rows that stream past.
constexpr Index kSums = 1024;

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
  Index width = kSums;  // neurons in a tile, at most kSums

  Index tiles() const { return quotient_up(neurons, width); }
  Index cost() const { return (inputs + 1) * minimum(neurons, width); }
  DenseTile<T> tile(Index image, Index number) const {
    return {matrices, inputs, neurons, image, number * width, minimum(width, neurons - number * width)};
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

// Rows [top, bottom) and columns [left, right) of some channels of one image: whole channels, whole rows of one, or a
// part of a row.
template <typename T>
struct WindowTile {
  Matrices<T> matrices;
  Windows windows;
  Index image, channel, channels, top, bottom, left, right;
  Index begin, size;

  // Coefficients of one image.
  Index image_size() const {
    return windows.image_channels * windows.rows * windows.columns * windows.channels * windows.height * windows.width;
  }
  Index columns() const { return right - left; }
  Index places() const { return (bottom - top) * columns(); }
  // Places whose window entry in column j, or row i, lies on the image.
  Inside across(Index j) const {
    return {left, right, windows.column_scale, windows.column_offset + j, windows.image_columns};
  }
  Inside down(Index i) const { return {top, bottom, windows.row_scale, windows.row_offset + i, windows.image_rows}; }
  // Where the coefficients of an entry begin, at a place of one of the channels.
  Index at(Index entry, Index number, Index y, Index x) const {
    return ((entry * windows.channels + channel + number) * windows.height + y) * windows.width + x;
  }
  // Neuron of the tile.
  Index neuron(Index number, Index y, Index x) const { return number * places() + (y - top) * columns() + x - left; }

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
    const Index entries = w.image_channels * w.rows * w.columns;
    for (Index entry = 0; entry < entries; ++entry) {
      const Index j = entry % w.columns, i = entry / w.columns % w.rows, source = entry / w.columns / w.rows;
      const Inside inside = across(j), rows = down(i);
      if (inside.first >= inside.stop) continue;
      for (Index number = 0; number < channels; ++number) {
        for (Index y = rows.first; y < rows.stop; ++y) {
          const Index row = w.row_scale * y + w.row_offset + i;
          const Index column = w.column_scale * inside.first + w.column_offset + j;
          body(
              matrices.segment(image, image_size(), at(entry, number, y, inside.first), neuron(number, y, inside.first),
                               inside.stop - inside.first, (source * w.image_rows + row) * w.image_columns + column),
              step);
        }
      }
    }
  }
};

template <typename T>
struct WindowRows {
  Matrices<T> matrices;
  Windows windows;

  Index tile_columns() const { return minimum(maximum(windows.width, 1), kSums); }
  Index tile_rows() const { return minimum(maximum(windows.height, 1), kSums / tile_columns()); }
  Index tile_channels() const {
    return minimum(maximum(windows.channels, 1), maximum(kSums / (tile_rows() * tile_columns()), 1));
  }
  Index tiles_across() const { return quotient_up(windows.width, tile_columns()); }
  Index tiles_down() const { return quotient_up(windows.height, tile_rows()); }
  Index tiles() const { return quotient_up(windows.channels, tile_channels()) * tiles_down() * tiles_across(); }
  Index cost() const {
    const Index entries = windows.image_channels * windows.rows * windows.columns;
    return (entries + 1) * tile_channels() * tile_rows() * tile_columns();
  }

  WindowTile<T> tile(Index image, Index number) const {
    const Index channel = number / tiles_across() / tiles_down() * tile_channels();
    const Index channels = minimum(tile_channels(), windows.channels - channel);
    const Index top = number / tiles_across() % tiles_down() * tile_rows();
    const Index left = number % tiles_across() * tile_columns();
    const Index bottom = minimum(top + tile_rows(), windows.height);
    const Index right = minimum(left + tile_columns(), windows.width);
    const Index begin = (channel * windows.height + top) * windows.width + left;
    const Index size = channels * (bottom - top) * (right - left);
    return {matrices, windows, image, channel, channels, top, bottom, left, right, begin, size};
  }
};

}  // namespace lbp::LBP_ISA
