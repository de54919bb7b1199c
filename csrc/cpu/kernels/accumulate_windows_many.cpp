// Many rows of coefficients times a window matrix, position by position of the layer: the entries of a position's
// windows are the lanes of products, rows their columns, and the sums are those of the pixels under the windows.
#include <algorithm>
#include <vector>

#include "cpu/kernels/forward_rows.h"
#include "cpu/kernels/lane_products.h"
#include "cpu/kernels/table.h"
#include "cpu/kernels/tile.h"
#include "cpu/kernels/transpose.h"

namespace lbp::LBP_ISA {
namespace {

// Numbers that are transposed together: those of a line of the cache.
constexpr Index kTransposed = 16;

// The rows A [S, C, H, W] of an image as [H W, blocks, C, kColumns], zero where the last block is not full.
template <typename T>
void pack_rows(const AccumulateManyRowsArguments<T>& args, const T* A) {
  const Windows& w = args.product.windows;
  const Index blocks = args.blocks(kColumns<T>), places = w.height * w.width;
  parallel_for(blocks * w.channels, places * kColumns<T>, [&](Index first, Index last) {
    for (Index item = first; item < last; ++item) {
      const Index row = item / w.channels * kColumns<T>, c = item % w.channels, stride = blocks * w.channels;
      const Index count = minimum(kColumns<T>, args.product.rows - row);
      T* to = args.packed + item * kColumns<T>;
      transpose(A + (row * w.channels + c) * places, w.channels * places, count, places, to, stride * kColumns<T>,
                kTransposed);
      for (Index place = 0; count < kColumns<T> && place < places; ++place) {
        T* numbers = to + place * stride * kColumns<T>;
        std::fill(numbers + count, numbers + kColumns<T>, T(0));
      }
    }
  });
}

// One row of positions of one image.
template <typename T>
class PositionRow {
 public:
  PositionRow(const AccumulateManyRowsArguments<T>& args, const T* matrix, Index y)
      : args_(args),
        w_(args.product.windows),
        matrix_(matrix),
        y_(y),
        down_(0, w_.rows, 1, w_.row_scale * y + w_.row_offset, w_.image_rows) {
    for (Index i = 0; i < kLanes; ++i) lane_offsets_[i] = i * w_.width * w_.channels;
  }

  // Lays out the entries that lie on the image as [C0, rows, columns, W, C].
  void lay_out() const {
    const Index rows = this->rows(), size = w_.channels * w_.height * w_.width;
    parallel_for(w_.image_channels * rows * w_.columns, w_.channels * w_.width, [&](Index first, Index last) {
      for (Index item = first; item < last; ++item) {
        const Index entry = item + (item / w_.columns / rows * (w_.rows - rows) + down_.first) * w_.columns;
        transpose(matrix_ + entry * size + y_ * w_.width, w_.height * w_.width, w_.channels, w_.width,
                  args_.layers + item * w_.width * w_.channels, w_.channels, kTransposed);
      }
    });
  }

  // Adds the products to the sums of blocks [first, last) of rows.
  void add(Index first, Index last) const {
    const Index blocks = args_.blocks(kColumns<T>), panel = w_.channels * kColumns<T>;
    for (Index x = 0; x < w_.width; ++x) {
      for (Index block = first; block < last; ++block) {
        add_position(x, args_.packed + ((y_ * w_.width + x) * blocks + block) * panel,
                     args_.sums + block * pixels() * kColumns<T>);
      }
    }
  }

 private:
  Index rows() const { return maximum(0, down_.stop - down_.first); }
  Index pixels() const { return w_.image_channels * w_.image_rows * w_.image_columns; }

  void add_position(Index x, const T* weight, T* sums) const {
    const Index left = w_.column_scale * x + w_.column_offset, top = w_.row_scale * y_ + w_.row_offset;
    const Inside across(0, w_.columns, 1, left, w_.image_columns);
    const Index rows = this->rows(), count = across.stop - across.first;
    if (count <= 0) return;
    const Index tiles = quotient_up(count, kLanes);
    for (Index line = 0; line < w_.image_channels * rows; ++line) {
      const Index row = line / rows * w_.image_rows + top + down_.first + line % rows;
      for (Index tile = 0; tile < tiles; ++tile) {
        const Index begin = across.first + count * tile / tiles, end = across.first + count * (tile + 1) / tiles;
        const Factors<T> factors = {args_.layers + ((line * w_.columns + begin) * w_.width + x) * w_.channels, weight};
        accumulate_lanes<T>(
            end - begin, &factors, 1, lane_offsets_, w_.channels,
            {sums + (row * w_.image_columns + left + begin) * kColumns<T>, kColumns<T>, kColumns<T>, true});
      }
    }
  }

  const AccumulateManyRowsArguments<T>& args_;
  const Windows& w_;
  const T* matrix_;
  const Index y_;
  const Inside down_;
  Index lane_offsets_[kLanes];
};

// Writes the sums [blocks, n0, kColumns] as [n0, S].
template <typename T>
void write_sums(const AccumulateManyRowsArguments<T>& args, T* result) {
  const Windows& w = args.product.windows;
  const Index pixels = w.image_channels * w.image_rows * w.image_columns, rows = args.product.rows;
  parallel_for(pixels, 2 * rows, [&](Index first, Index last) {
    for (Index pixel = first; pixel < last; ++pixel) {
      for (Index row = 0; row < rows; row += kColumns<T>) {
        const T* from = args.sums + (row * pixels + pixel * kColumns<T>);
        std::copy(from, from + minimum(kColumns<T>, rows - row), result + pixel * rows + row);
      }
    }
  });
}

}  // namespace

template <typename T>
void accumulate_many_rows(const AccumulateManyRowsArguments<T>& args) {
  const AccumulateWindowsArguments<T>& product = args.product;
  const Windows& w = product.windows;
  const Index blocks = args.blocks(kColumns<T>), pixels = w.image_channels * w.image_rows * w.image_columns;
  for (Index image = 0; image < product.batch; ++image) {
    if (image == 0 || product.A_batch_stride != 0) pack_rows(args, product.A + image * product.A_batch_stride);
    parallel_for(blocks, pixels * kColumns<T>, [&](Index first, Index last) {
      std::fill(args.sums + first * pixels * kColumns<T>, args.sums + last * pixels * kColumns<T>, T(0));
    });
    for (Index y = 0; y < w.height; ++y) {
      const PositionRow<T> row(args, product.matrix + image * product.matrix_batch_stride, y);
      row.lay_out();
      parallel_for(blocks, w.width * w.rows * w.columns * w.channels * kColumns<T>,
                   [&](Index first, Index last) { row.add(first, last); });
    }
    write_sums(args, product.result + image * pixels * product.rows);
  }
}

template void accumulate_many_rows(const AccumulateManyRowsArguments<float>&);
template void accumulate_many_rows(const AccumulateManyRowsArguments<double>&);

}  // namespace lbp::LBP_ISA
