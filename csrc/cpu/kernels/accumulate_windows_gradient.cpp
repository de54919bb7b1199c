// The gradients of rows of coefficients times a window matrix. Every position of the layer has two small products to
// itself; neighbouring positions are the lanes of a vector.
#include <algorithm>
#include <vector>

#include "cpu/kernels/forward_rows.h"
#include "cpu/kernels/simd.h"
#include "cpu/kernels/table.h"

namespace lbp::LBP_ISA {
namespace {

template <typename T>
constexpr Index kLanes = Vector<T>::kSize;

// What a thread has in its cache of the gradient of the result.
constexpr Index kBlockBytes = 128 << 10;

// A matrix of vectors, its strides in numbers.
template <typename T>
struct LaneMatrix {
  T* data;
  Index row_stride, column_stride;

  T* at(Index row, Index column) const { return data + row * row_stride + column * column_stride; }
};

// result += left right, kRows x kColumns of it, whose sums stay in registers.
template <typename T, int kRows, int kColumns>
void add_tile(Index depth, LaneMatrix<const T> left, LaneMatrix<const T> right, LaneMatrix<T> result) {
  using V = typename Vector<T>::Type;
  V sums[kRows][kColumns];
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kColumns; ++j) sums[i][j] = load_vector(result.at(i, j));
  }
  for (Index k = 0; k < depth; ++k) {
    V b[kColumns];
    for (int j = 0; j < kColumns; ++j) b[j] = load_vector(right.at(k, j));
    for (int i = 0; i < kRows; ++i) {
      const V a = load_vector(left.at(i, k));
      for (int j = 0; j < kColumns; ++j) sums[i][j] = multiply_add(a, b[j], sums[i][j]);
    }
  }
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kColumns; ++j) store_vector(result.at(i, j), sums[i][j]);
  }
}

template <typename T, int kRows>
void add_rows(Index columns, Index depth, LaneMatrix<const T> left, LaneMatrix<const T> right, LaneMatrix<T> result) {
  constexpr int kColumns = 3;
  Index j = 0;
  for (; j + kColumns <= columns; j += kColumns) {
    add_tile<T, kRows, kColumns>(depth, left, {right.at(0, j), right.row_stride, right.column_stride},
                                 {result.at(0, j), result.row_stride, result.column_stride});
  }
  for (; j < columns; ++j) {
    add_tile<T, kRows, 1>(depth, left, {right.at(0, j), right.row_stride, right.column_stride},
                          {result.at(0, j), result.row_stride, result.column_stride});
  }
}

// result [rows, columns] += left [rows, depth] right [depth, columns], in every lane by itself.
template <typename T>
void add_product(Index rows, Index columns, Index depth, LaneMatrix<const T> left, LaneMatrix<const T> right,
                 LaneMatrix<T> result) {
  constexpr int kRows = 4;
  Index i = 0;
  for (; i + kRows <= rows; i += kRows) {
    add_rows<T, kRows>(columns, depth, {left.at(i, 0), left.row_stride, left.column_stride}, right,
                       {result.at(i, 0), result.row_stride, result.column_stride});
  }
  for (; i < rows; ++i) {
    add_rows<T, 1>(columns, depth, {left.at(i, 0), left.row_stride, left.column_stride}, right,
                   {result.at(i, 0), result.row_stride, result.column_stride});
  }
}

// The gradient of the result, [B, n0, S], as the products read it: [B, C0, rows, S, columns].
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

// The gradients of neighbouring positions of one row of the layer, a vector of them.
template <typename T>
class PositionGradients {
 public:
  PositionGradients(const AccumulateWindowsGradientArguments<T>& args, const std::vector<T>& arriving)
      : args_(args),
        w_(args.windows),
        places_(w_.height * w_.width),
        entries_(w_.image_channels * w_.rows * w_.columns),
        row_(args.rows * kLanes<T>),
        entry_(w_.channels * kLanes<T>),
        most_(minimum(maximum(kBlockBytes / maximum(1, row_ * Index(sizeof(T))), 4), entries_)),
        arriving_(arriving),
        block_(size_t(most_ * row_)),
        matrix_(size_t(most_ * entry_)),
        to_matrix_(matrix_.size()),
        rows_(size_t(args.rows * entry_)),
        to_rows_(rows_.size()) {
    numbers_.reserve(size_t(most_));
  }

  void run(Index image, Index y, Index left) {
    image_ = image;
    y_ = y;
    left_ = left;
    right_ = minimum(left + kLanes<T>, w_.width);
    if (args_.matrix_gradient != nullptr) load_rows();
    std::fill(to_rows_.begin(), to_rows_.end(), T(0));
    for (Index entry = 0; entry < entries_; ++entry) {
      const Index row = w_.row_scale * y + w_.row_offset + entry / w_.columns % w_.rows;
      if (row >= 0 && row < w_.image_rows) {
        load_entry(entry, row);
      } else if (args_.matrix_gradient != nullptr) {
        clear_entry(entry);
      }
      if (Index(numbers_.size()) == most_) multiply();
    }
    multiply();
    if (args_.A_gradient != nullptr) store_rows();
  }

 private:
  Index at() const { return y_ * w_.width + left_; }
  Index row_at(Index s, Index channel) const { return (s * w_.channels + channel) * places_ + at(); }
  T* matrix_gradient(Index entry) const {
    return args_.matrix_gradient + (image_ * entries_ + entry) * w_.channels * places_ + at();
  }

  // Lanes beyond the layer's last column stay 0.
  void load_rows() {
    for (Index s = 0; s < args_.rows; ++s) {
      for (Index c = 0; c < w_.channels; ++c) {
        const T* from = args_.A + image_ * args_.A_batch_stride + row_at(s, c);
        std::fill(std::copy(from, from + (right_ - left_), rows_.data() + s * entry_ + c * kLanes<T>),
                  rows_.data() + s * entry_ + (c + 1) * kLanes<T>, T(0));
      }
    }
  }

  // Adds an entry of the windows to the block, with the gradients of the pixels under it. Lanes whose pixel lies beyond
  // the image are 0.
  void load_entry(Index entry, Index row) {
    const Index offset = w_.column_offset + entry % w_.columns, number = Index(numbers_.size());
    const Inside inside(left_, right_, w_.column_scale, offset, w_.image_columns);
    const Index first = inside.first, stop = maximum(inside.stop, first);
    numbers_.push_back({entry, first, stop});
    T* to = matrix_.data() + number * entry_;
    std::fill(to, to + entry_, T(0));
    const T* from = args_.matrix + image_ * args_.matrix_batch_stride + entry * w_.channels * places_ + y_ * w_.width;
    for (Index c = 0; c < w_.channels; ++c) {
      std::copy(from + c * places_ + first, from + c * places_ + stop, to + c * kLanes<T> + first - left_);
    }
    T* gradients = block_.data() + number * row_;
    std::fill(gradients, gradients + row_, T(0));
    const Index source = entry / w_.columns / w_.rows;
    const Index pixels = (image_ * w_.image_channels + source) * w_.image_rows + row;
    const T* pixel = arriving_.data() + pixels * args_.rows * w_.image_columns;
    for (Index s = 0; s < args_.rows; ++s, pixel += w_.image_columns) {
      for (Index x = first; x < stop; ++x) gradients[s * kLanes<T> + x - left_] = pixel[w_.column_scale * x + offset];
    }
  }

  // The products of a full block.
  void multiply() {
    const Index count = Index(numbers_.size());
    if (args_.A_gradient != nullptr) {
      add_product<T>(args_.rows, w_.channels, count, {block_.data(), kLanes<T>, row_},
                     {matrix_.data(), entry_, kLanes<T>}, {to_rows_.data(), entry_, kLanes<T>});
    }
    if (args_.matrix_gradient != nullptr) {
      std::fill(to_matrix_.begin(), to_matrix_.end(), T(0));
      add_product<T>(count, w_.channels, args_.rows, {block_.data(), row_, kLanes<T>},
                     {rows_.data(), entry_, kLanes<T>}, {to_matrix_.data(), entry_, kLanes<T>});
      for (Index number = 0; number < count; ++number) store_entry(number);
    }
    numbers_.clear();
  }

  void clear_entry(Index entry) const {
    T* to = matrix_gradient(entry);
    for (Index c = 0; c < w_.channels; ++c, to += places_) std::fill(to, to + (right_ - left_), T(0));
  }

  // What an infinite coefficient makes of a pixel beyond the image is not stored.
  void store_entry(Index number) const {
    const Entry& entry = numbers_[size_t(number)];
    T* to = matrix_gradient(entry.number);
    const T* from = to_matrix_.data() + number * entry_;
    for (Index c = 0; c < w_.channels; ++c, to += places_, from += kLanes<T>) {
      for (Index x = left_; x < right_; ++x) {
        to[x - left_] = x >= entry.first && x < entry.stop ? from[x - left_] : T(0);
      }
    }
  }

  void store_rows() const {
    for (Index s = 0; s < args_.rows; ++s) {
      for (Index c = 0; c < w_.channels; ++c) {
        const T* from = to_rows_.data() + s * entry_ + c * kLanes<T>;
        const Index to = image_ * args_.rows * w_.channels * places_ + row_at(s, c);
        std::copy(from, from + (right_ - left_), args_.A_gradient + to);
      }
    }
  }

  // An entry of the windows, and the columns of the layer at which it lies on the image.
  struct Entry {
    Index number, first, stop;
  };

  const AccumulateWindowsGradientArguments<T>& args_;
  const Windows& w_;
  const Index places_, entries_;
  const Index row_, entry_;  // numbers of a pixel's gradients, and of an entry's channels, with lanes
  const Index most_;         // entries in a block
  const std::vector<T>& arriving_;
  std::vector<T> block_, matrix_, to_matrix_;  // [entries, S, lanes], [entries, C, lanes] twice
  std::vector<T> rows_, to_rows_;              // [S, C, lanes]
  std::vector<Entry> numbers_;                 // of the block
  Index image_ = 0, y_ = 0, left_ = 0, right_ = 0;
};

}  // namespace

template <typename T>
void accumulate_windows_gradient(const AccumulateWindowsGradientArguments<T>& args) {
  const Windows& w = args.windows;
  const std::vector<T> arriving = gradient_by_rows(args);
  const Index vectors = quotient_up(w.width, kLanes<T>), entries = w.image_channels * w.rows * w.columns;
  const Index cost = 2 * (args.rows + 1) * (w.channels + 1) * entries * kLanes<T>;
  parallel_for(args.batch * w.height * vectors, cost, [&](Index first, Index last) {
    PositionGradients<T> positions(args, arriving);
    for (Index item = first; item < last; ++item) {
      positions.run(item / vectors / w.height, item / vectors % w.height, item % vectors * kLanes<T>);
    }
  });
}

template void accumulate_windows_gradient(const AccumulateWindowsGradientArguments<float>&);
template void accumulate_windows_gradient(const AccumulateWindowsGradientArguments<double>&);

}  // namespace lbp::LBP_ISA
