// A box under the windows of a tile of neurons: which interval of the input belongs to an entry of every window.
//
// The places of a layer read the same of the input in all channels, and neighbouring places read it `scale` columns
// apart. Here what they read lies as the coefficients do, one place after the other, so that a loop over all places of
// a tile serves every channel of it.
#pragma once

#include <cstdint>
#include <type_traits>
#include <vector>

#include "cpu/kernels/forward_rows.h"
#include "cpu/kernels/region.h"
#include "cpu/kernels/simd.h"

namespace lbp::LBP_ISA {

template <typename T>
class EndsUnderWindows {
 public:
  // As wide as the numbers that it selects.
  using Flag = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

  // Under the present entry, for every place of the tile; 0 beside the image. With room for the vector of a row's end.
  alignas(64) double low[kSums + Vector<double>::kSize];
  alignas(64) double high[kSums + Vector<double>::kSize];
  alignas(64) Flag inside[kSums];

  EndsUnderWindows(const Region<T>& region, const WindowTile<T>& tile)
      : region_(region),
        tile_(tile),
        first_block_(floor_quotient(tile.windows.column_offset)),
        pitch_(tile.columns() + floor_quotient(tile.windows.column_offset + tile.windows.columns - 1) - first_block_),
        first_row_(maximum(tile.windows.row_scale * tile.top + tile.windows.row_offset, 0)),
        rows_(minimum(tile.windows.row_scale * (tile.bottom - 1) + tile.windows.row_offset + tile.windows.rows,
                      tile.windows.image_rows) -
              first_row_) {}

  // Runs body(entry, first, stop) for every entry that lies on the image at some of the places, which are among
  // [first, stop).
  template <typename Body>
  void for_entries(const Body& body) {
    const Windows& w = tile_.windows;
    if (rows_ <= 0 || tile_.size == 0) return;
    for (Index source = 0; source < w.image_channels; ++source) {
      deal_out(source);
      for (Index j = 0; j < w.columns; ++j) {
        const Inside across = tile_.across(j);
        if (across.first >= across.stop) continue;
        mark(across);
        for (Index i = 0; i < w.rows; ++i) {
          const Inside down = tile_.down(i);
          if (down.first >= down.stop) continue;
          for (Index y = down.first; y < down.stop; ++y) load(i, j, y);
          body((source * w.rows + i) * w.columns + j, tile_.neuron(0, down.first, tile_.left),
               tile_.neuron(0, down.stop, tile_.left));
        }
      }
    }
  }

 private:
  // By the scale of columns, rounded down.
  Index floor_quotient(Index column) const {
    const Index scale = tile_.windows.column_scale;
    return column >= 0 ? column / scale : -quotient_up(-column, scale);
  }

  // Where the columns begin that the places of the tile read of a row with the phase `column mod scale`.
  Index dealt(Index phase, Index row) const { return (phase * rows_ + row - first_row_) * pitch_; }

  // Lays out one channel of the image: of every row that the windows reach the columns of each phase side by side.
  void deal_out(Index source) {
    const Windows& w = tile_.windows;
    const Index scale = w.column_scale,
                plane = tile_.image * region_.batch_stride + source * w.image_rows * w.image_columns;
    low_.resize(size_t(scale * rows_ * pitch_ + Vector<double>::kSize));
    high_.resize(low_.size());
    for (Index phase = 0; phase < scale; ++phase) {
      for (Index row = first_row_; row < first_row_ + rows_; ++row) {
        const Index to = dealt(phase, row), from = plane + row * w.image_columns;
        for (Index block = 0; block < pitch_; ++block) {
          const Index column = scale * (tile_.left + first_block_ + block) + phase;
          const bool on_image = column >= 0 && column < w.image_columns;
          const T x_L = on_image ? region_.x_L[from + column] : T(0),
                  x_U = on_image ? region_.x_U[from + column] : T(0);
          low_[size_t(to + block)] = extreme_point(x_L, x_U, true);
          high_[size_t(to + block)] = extreme_point(x_L, x_U, false);
        }
      }
    }
  }

  void mark(const Inside& across) {
    const Index columns = tile_.columns();
    for (Index x = 0; x < columns; ++x) inside[x] = tile_.left + x >= across.first && tile_.left + x < across.stop;
    for (Index j = columns; j < tile_.places(); ++j) inside[j] = inside[j - columns];
  }

  // The ends under entry (i, j) of the windows of row y.
  void load(Index i, Index j, Index y) {
    const Windows& w = tile_.windows;
    const Index column = w.column_offset + j, block = floor_quotient(column), phase = column - w.column_scale * block;
    const Index from = dealt(phase, w.row_scale * y + w.row_offset + i) + block - first_block_;
    const Index to = tile_.neuron(0, y, tile_.left), columns = tile_.columns();
    // Rows are short, and loaded from top to bottom: what the last vector writes behind a row is the next one's to
    // write, and behind the last row nothing is read.
    for (Index x = 0; x < columns; x += Vector<double>::kSize) {
      store_vector(low + to + x, load_vector(low_.data() + from + x));
      store_vector(high + to + x, load_vector(high_.data() + from + x));
    }
  }

  const Region<T>& region_;
  const WindowTile<T>& tile_;
  Index first_block_, pitch_;  // columns by their scale: the first that the tile's windows read, and how many
  Index first_row_, rows_;     // of the image, that the tile's windows reach
  std::vector<double> low_, high_;
};

}  // namespace lbp::LBP_ISA
