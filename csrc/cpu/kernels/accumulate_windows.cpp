// Few rows of coefficients times a window matrix, which is read once: neighbouring positions of a layer are the lanes
// of a vector, so that neither the matrix nor its gradient is ever transposed.
#include <algorithm>
#include <utility>
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

// What the gradients read: that of the result, [B, C0, rows, S, columns].
template <typename T>
std::vector<T> gradient_by_rows(const AccumulateWindowsGradientArguments<T>& args) {
  const Windows& w = args.windows;
  const Index columns = w.image_columns, size = columns * args.rows;
  std::vector<T> turned(size_t(args.batch * w.image_channels * w.image_rows * size));
  parallel_for(args.batch * w.image_channels * w.image_rows, size, [&](Index first, Index last) {
    for (Index item = first; item < last; ++item) {
      for (Index x = 0; x < columns; ++x) {
        for (Index s = 0; s < args.rows; ++s) {
          turned[size_t(item * size + s * columns + x)] = args.gradient[item * size + x * args.rows + s];
        }
      }
    }
  });
  return turned;
}

// sum += a * b with numbers of b that lie a step apart.
template <typename T, typename ColumnStep>
void add_products(Index count, const T* __restrict a, const T* __restrict b, ColumnStep step, T* __restrict sum) {
#pragma omp simd
  for (Index x = 0; x < count; ++x) sum[x] += a[x] * b[x * step];
}

// Both gradients visit, for an entry of the windows and a channel, the positions whose entry lies on the image.
template <typename T>
class ProductGradient {
 public:
  explicit ProductGradient(const AccumulateWindowsGradientArguments<T>& args)
      : args_(args),
        w_(args.windows),
        places_(w_.height * w_.width),
        entries_(w_.image_channels * w_.rows * w_.columns),
        arriving_(gradient_by_rows(args)) {}

  void run() const {
    if (w_.column_scale == 1) {
      run_stepped(Step<1>());
    } else {
      run_stepped(w_.column_scale);
    }
  }

 private:
  template <typename ColumnStep>
  void run_stepped(ColumnStep step) const {
    const Index cost = args_.rows * places_;
    if (args_.A_gradient != nullptr) {
      parallel_for(args_.batch * w_.channels, cost * entries_, [&](Index first, Index last) {
        for (Index item = first; item < last; ++item) to_rows(item / w_.channels, item % w_.channels, step);
      });
    }
    if (args_.matrix_gradient != nullptr) {
      parallel_for(args_.batch * entries_, cost * w_.channels, [&](Index first, Index last) {
        for (Index item = first; item < last; ++item) to_matrix(item / entries_, item % entries_, step);
      });
    }
  }

  const T* row(Index image, Index s, Index channel) const {
    return args_.A + image * args_.A_batch_stride + (s * w_.channels + channel) * places_;
  }

  // Runs body(y, columns, gradients) for the rows of positions whose entry lies on the image: the columns inside, and
  // where the gradients of the first of them lie, those of the rows of A `image_columns` apart.
  template <typename Body>
  void for_positions(Index image, Index entry, const Body& body) const {
    const Index j = entry % w_.columns, i = entry / w_.columns % w_.rows, source = entry / w_.columns / w_.rows;
    const Inside across(0, w_.width, w_.column_scale, w_.column_offset + j, w_.image_columns);
    const Inside down(0, w_.height, w_.row_scale, w_.row_offset + i, w_.image_rows);
    if (across.first >= across.stop) return;
    for (Index y = down.first; y < down.stop; ++y) {
      const Index pixel_row = w_.row_scale * y + w_.row_offset + i;
      const Index at = (image * w_.image_channels + source) * w_.image_rows + pixel_row;
      const Index column = w_.column_scale * across.first + w_.column_offset + j;
      body(y, across, arriving_.data() + at * args_.rows * w_.image_columns + column);
    }
  }

  // Of one channel of all rows.
  template <typename ColumnStep>
  void to_rows(Index image, Index channel, ColumnStep step) const {
    T* out = args_.A_gradient + (image * args_.rows * w_.channels + channel) * places_;
    for (Index s = 0; s < args_.rows; ++s) {
      std::fill(out + s * w_.channels * places_, out + s * w_.channels * places_ + places_, T(0));
    }
    for (Index entry = 0; entry < entries_; ++entry) {
      const T* matrix = args_.matrix + image * args_.matrix_batch_stride + (entry * w_.channels + channel) * places_;
      for_positions(image, entry, [&](Index y, const Inside& across, const T* gradients) {
        const Index at = y * w_.width + across.first;
        for (Index s = 0; s < args_.rows; ++s) {
          add_products(across.stop - across.first, matrix + at, gradients + s * w_.image_columns, step,
                       out + s * w_.channels * places_ + at);
        }
      });
    }
  }

  // Of one entry of all windows.
  template <typename ColumnStep>
  void to_matrix(Index image, Index entry, ColumnStep step) const {
    T* out = args_.matrix_gradient + (image * entries_ + entry) * w_.channels * places_;
    std::fill(out, out + w_.channels * places_, T(0));
    for_positions(image, entry, [&](Index y, const Inside& across, const T* gradients) {
      const Index at = y * w_.width + across.first;
      for (Index channel = 0; channel < w_.channels; ++channel) {
        for (Index s = 0; s < args_.rows; ++s) {
          add_products(across.stop - across.first, row(image, s, channel) + at, gradients + s * w_.image_columns, step,
                       out + channel * places_ + at);
        }
      }
    });
  }

  const AccumulateWindowsGradientArguments<T>& args_;
  const Windows& w_;
  const Index places_, entries_;
  const std::vector<T> arriving_;
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

template <typename T>
void accumulate_windows_gradient(const AccumulateWindowsGradientArguments<T>& args) {
  ProductGradient<T>(args).run();
}

#define LBP_INSTANTIATE(T)                                                \
  template void accumulate_windows(const AccumulateWindowsArguments<T>&); \
  template void accumulate_windows_gradient(const AccumulateWindowsGradientArguments<T>&);

LBP_INSTANTIATE(float)
LBP_INSTANTIATE(double)

}  // namespace lbp::LBP_ISA
