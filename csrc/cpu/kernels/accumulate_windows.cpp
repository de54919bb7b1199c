// Rows of coefficients times a window matrix: neighbouring positions of a layer are the lanes of a vector, so that the
// matrix is never transposed.
#include <algorithm>
#include <vector>

#include "cpu/kernels/forward_rows.h"
#include "cpu/kernels/simd.h"
#include "cpu/kernels/table.h"

namespace lbp::LBP_ISA {
namespace {

// Rows multiplied together: their sums stay in registers.
constexpr Index kMostRows = 12;

template <typename T>
constexpr Index kLanes = Vector<T>::kSize;

// Rows in groups of one size or one less, and columns of the layer in vectors.
struct Split {
  Index rows, groups, vectors;

  template <typename T>
  static Split of(const AccumulateWindowsArguments<T>& args) {
    return {args.rows, quotient_up(args.rows, kMostRows), quotient_up(args.windows.width, kLanes<T>)};
  }
  Index first(Index group) const { return rows * group / groups; }
  Index count(Index group) const { return first(group + 1) - first(group); }
};

// The rows [1 or B, S, C, H, W] as the product reads them: [., H, vectors, groups, C, count, lanes], zero beyond W.
template <typename T>
std::vector<T> packed_rows(const AccumulateWindowsArguments<T>& args, const Split& split, Index batch) {
  const Windows& w = args.windows;
  const Index size = w.channels * split.rows * kLanes<T>, places = w.height * w.width;
  std::vector<T> packed(size_t(batch * w.height * split.vectors * size));
  parallel_for(batch * w.height * split.vectors, size, [&](Index first, Index last) {
    for (Index item = first; item < last; ++item) {
      const Index left = item % split.vectors * kLanes<T>, y = item / split.vectors % w.height;
      const Index image = item / split.vectors / w.height, lanes = minimum(kLanes<T>, w.width - left);
      T* to = packed.data() + item * size;
      for (Index group = 0; group < split.groups; ++group) {
        for (Index c = 0; c < w.channels; ++c) {
          for (Index row = split.first(group); row < split.first(group + 1); ++row, to += kLanes<T>) {
            const T* from = args.A + image * args.A_batch_stride + (row * w.channels + c) * places + y * w.width + left;
            std::copy(from, from + lanes, to);
          }
        }
      }
    }
  });
  return packed;
}

// A vector of which only the numbers before `end` may be read.
template <typename T>
typename Vector<T>::Type load_before(const T* from, const T* end) {
  alignas(64) T numbers[kLanes<T>] = {};
  for (Index i = 0; i < kLanes<T> && from + i < end; ++i) numbers[i] = from[i];
  return load_vector(numbers);
}

// sums [kCount, lanes]: the products of kCount rows with an entry of the windows of neighbouring positions, over the
// channels, which lie `stride` apart. Lanes beyond the layer's last column hold what follows in memory, up to `end`.
template <typename T, int kCount>
void multiply(const T* matrix, const T* end, Index stride, Index channels, const T* rows, T* sums) {
  using V = typename Vector<T>::Type;
  V total[kCount] = {};
  const auto add = [&](V entry) {
#pragma GCC unroll 12
    for (int i = 0; i < kCount; ++i) total[i] = multiply_add(load_vector(rows + i * kLanes<T>), entry, total[i]);
    rows += kCount * kLanes<T>;
  };
  Index c = 0;
  for (; c < channels && matrix + kLanes<T> <= end; ++c, matrix += stride) add(load_vector(matrix));
  for (; c < channels; ++c, matrix += stride) add(load_before(matrix, end));
#pragma GCC unroll 12
  for (int i = 0; i < kCount; ++i) store_vector(sums + i * kLanes<T>, total[i]);
}

template <typename T, int kCount = int(kMostRows)>
void multiply_rows(Index count, const T* matrix, const T* end, Index stride, Index channels, const T* rows, T* sums) {
  if constexpr (kCount > 1) {
    if (count < kCount) return multiply_rows<T, kCount - 1>(count, matrix, end, stride, channels, rows, sums);
  }
  multiply<T, kCount>(matrix, end, stride, channels, rows, sums);
}

// One row of pixels of the input, [S, columns], from all windows that reach it.
template <typename T>
class PixelRow {
 public:
  PixelRow(const AccumulateWindowsArguments<T>& args, const Split& split, const T* packed)
      : args_(args), w_(args.windows), split_(split), packed_(packed), sums_(size_t(split.rows * w_.image_columns)) {}

  void run(Index image, Index channel, Index row) {
    std::fill(sums_.begin(), sums_.end(), T(0));
    for (Index y = 0; y < w_.height; ++y) {
      const Index i = row - w_.row_offset - w_.row_scale * y;
      if (i < 0 || i >= w_.rows) continue;
      for (Index j = 0; j < w_.columns; ++j) add(image, (channel * w_.rows + i) * w_.columns + j, y);
    }
    T* to =
        args_.result + ((image * w_.image_channels + channel) * w_.image_rows + row) * w_.image_columns * split_.rows;
    for (Index x = 0; x < w_.image_columns; ++x) {
      for (Index s = 0; s < split_.rows; ++s) *to++ = sums_[size_t(s * w_.image_columns + x)];
    }
  }

 private:
  // The share of an entry of the windows of one row of the layer.
  void add(Index image, Index entry, Index y) {
    const Index offset = w_.column_offset + entry % w_.columns, places = w_.height * w_.width;
    const Inside across(0, w_.width, w_.column_scale, offset, w_.image_columns);
    const Index entries = w_.image_channels * w_.rows * w_.columns, size = w_.channels * places;
    const T* matrix = args_.matrix + image * args_.matrix_batch_stride;
    const T* end = matrix + entries * size;
    const Index packed_size = w_.channels * split_.rows * kLanes<T>;
    const Index packed_image = args_.A_batch_stride == 0 ? 0 : image;
    alignas(64) T products[kMostRows * kLanes<T>];
    for (Index left = across.first / kLanes<T> * kLanes<T>; left < across.stop; left += kLanes<T>) {
      const Index first = maximum(left, across.first), stop = minimum(left + kLanes<T>, across.stop);
      const Index item = (packed_image * w_.height + y) * split_.vectors + left / kLanes<T>;
      for (Index group = 0; group < split_.groups; ++group) {
        const Index row = split_.first(group), count = split_.count(group);
        multiply_rows<T>(count, matrix + entry * size + y * w_.width + left, end, places, w_.channels,
                         packed_ + item * packed_size + row * w_.channels * kLanes<T>, products);
        for (Index s = 0; s < count; ++s) {
          const T* __restrict from = products + s * kLanes<T>;
          T* __restrict to = sums_.data() + (row + s) * w_.image_columns + offset;
          for (Index x = first; x < stop; ++x) to[w_.column_scale * x] += from[x - left];
        }
      }
    }
  }

  const AccumulateWindowsArguments<T>& args_;
  const Windows& w_;
  const Split& split_;
  const T* packed_;
  std::vector<T> sums_;
};

}  // namespace

template <typename T>
void accumulate_windows(const AccumulateWindowsArguments<T>& args) {
  const Windows& w = args.windows;
  if (args.rows == 0) return;
  const Split split = Split::of(args);
  const std::vector<T> packed =
      packed_rows(args, split, args.A_batch_stride == 0 ? minimum(1, args.batch) : args.batch);
  const Index per_image = w.image_channels * w.image_rows;
  const Index cost = args.rows * w.rows * w.columns * w.channels * w.width;
  parallel_for(args.batch * per_image, cost, [&](Index first, Index last) {
    PixelRow<T> row(args, split, packed.data());
    for (Index item = first; item < last; ++item) {
      row.run(item / per_image, item % per_image / w.image_rows, item % w.image_rows);
    }
  });
}

template void accumulate_windows(const AccumulateWindowsArguments<float>&);
template void accumulate_windows(const AccumulateWindowsArguments<double>&);

}  // namespace lbp::LBP_ISA
