// Gradients of the ops on windowed rows. Each number is added up by one thread, in the order of the rows, so that none
// depends on how many threads there are.
#include <algorithm>
#include <vector>

#include "cpu/kernels/relax_row.h"
#include "cpu/kernels/row_norm.h"
#include "cpu/kernels/table.h"
#include "cpu/kernels/windows.h"

namespace lbp::LBP_ISA {
namespace {

struct Rows {
  const Index* first;
  const Index* last;
  const Index* begin() const { return first; }
  const Index* end() const { return last; }
};

// Rows by a number that each of them names: its source or its image.
class Groups {
 public:
  template <typename Key>
  Groups(Index count, const std::vector<Index>& rows, const Key& key) : starts_(size_t(count) + 1), rows_(rows.size()) {
    for (const Index row : rows) ++starts_[size_t(key(row)) + 1];
    for (Index group = 0; group < count; ++group) starts_[size_t(group) + 1] += starts_[size_t(group)];
    std::vector<Index> next(starts_.begin(), starts_.end() - 1);
    for (const Index row : rows) rows_[size_t(next[size_t(key(row))]++)] = row;
  }

  Rows of(Index group) const {
    return {rows_.data() + starts_[size_t(group)], rows_.data() + starts_[size_t(group) + 1]};
  }

  // Group after group.
  const std::vector<Index>& rows() const { return rows_; }

  bool has_several() const {
    return std::adjacent_find(starts_.begin(), starts_.end(), [](Index a, Index b) { return b - a > 1; }) !=
           starts_.end();
  }

 private:
  std::vector<Index> starts_, rows_;
};

template <typename T>
Groups rows_by_image(const RowWindows<T>& A) {
  std::vector<Index> rows(size_t(A.rows));
  for (Index row = 0; row < A.rows; ++row) rows[size_t(row)] = row;
  return Groups(A.images, rows, [&](Index row) { return A.where[row].image; });
}

template <typename T>
class RelaxationGradient {
 public:
  explicit RelaxationGradient(const RelaxWindowsGradientArguments<T>& args)
      : args_(args),
        A_(args.A),
        sides_(side_count(args.sides)),
        size_(A_.height * A_.width * A_.channels),
        by_image_(rows_by_image(A_)),
        // Rows of a source stand in the order of their images.
        by_source_(A_.sources, by_image_.rows(), [&](Index row) { return A_.where[row].source; }),
        shared_(by_source_.has_several()),
        lines_(size_t(A_.layer_height * A_.layer_width * kLinePlanes * A_.channels)),
        line_gradients_(lines_.size()) {
    for (Index source = 0; source < A_.sources; ++source) next_.push_back(by_source_.of(source).begin());
  }

  void run() {
    if (args_.A_gradient != nullptr) clear_sources();
    const RelaxWindowsArguments<T> lines = {args_.sides,   A_,      args_.relaxation, args_.bias,
                                            lines_.data(), nullptr, nullptr};
    for (Index image = 0; image < A_.images; ++image) {
      load_image_lines(lines, image, {0, A_.layer_height});
      if (args_.A_gradient != nullptr && shared_) add_to_sources(image);
      add_to_lines(image);
      store_gradients(image);
    }
  }

 private:
  // Of a row's numbers that begin at `at` in its window.
  const T* coefficients(Index side, Index row, Index at) const {
    return A_.data + side * A_.side_stride + A_.where[row].source * A_.source_stride + at;
  }
  const T* arriving(Index side, Index row, Index at) const {
    return args_.relaxed_gradient + (side * A_.rows + row) * size_ + at;
  }
  T* to_source(Index side, Index row, Index at) const {
    return args_.A_gradient + (side * A_.sources + A_.where[row].source) * size_ + at;
  }
  T weight(Index side, Index row) const { return T(args_.constants_gradient[side * A_.rows + row]); }

  // Sources to which gradients are added, and those that no row names.
  void clear_sources() {
    parallel_for(sides_ * A_.sources, size_, [&](Index first, Index last) {
      for (Index item = first; item < last; ++item) {
        const Rows rows = by_source_.of(item % A_.sources);
        if (shared_ || rows.begin() == rows.end()) {
          std::fill(args_.A_gradient + item * size_, args_.A_gradient + (item + 1) * size_, T(0));
        }
      }
    });
  }

  // Adds the gradients of an image's rows to those of the sources that they share.
  void add_to_sources(Index image) {
    const Index rows_of_a_source = quotient_up(A_.rows, maximum(1, A_.sources * A_.images));
    parallel_for(A_.sources, sides_ * size_ * rows_of_a_source, [&](Index first, Index last) {
      for (Index source = first; source < last; ++source) {
        const Index*& row = next_[size_t(source)];
        for (; row != by_source_.of(source).end() && A_.where[*row].image == image; ++row) {
          for (Index side = 0; side < sides_; ++side) add_to_source(side, *row);
        }
      }
    });
  }

  void add_to_source(Index side, Index row) const {
    const WindowRow where = A_.where[row];
    const Index run = A_.width * A_.channels;
    const T constant = weight(side, row);
    const bool biased = args_.bias.data != nullptr;
    for (Index y = 0; y < A_.height; ++y) {
      const T* planes = lines_.data() + planes_at(A_, where.top + y, where.left);
      const RunLines<const T> line(planes, plane_size(A_), is_lower(args_.sides, side));
      const T* __restrict a = coefficients(side, row, y * run);
      const T* __restrict gradient = arriving(side, row, y * run);
      T* __restrict out = to_source(side, row, y * run);
      for (Index i = 0; i < run; ++i) {
        const bool positive = a[i] >= T(0);
        const T slope = selected(positive, line.positive_slope[i], line.negative_slope[i]);
        const T intercept = selected(positive, line.positive_intercept[i], line.negative_intercept[i]);
        const T to_bias = biased ? constant * line.bias[i] : T(0);
        out[i] += (gradient[i] + to_bias) * slope + constant * intercept;
      }
    }
  }

  // Adds the gradients of an image's rows to those of its lines, one row of the layer after the other. Where no source
  // is shared, the gradients of the coefficients are by the way.
  void add_to_lines(Index image) {
    const Rows rows = by_image_.of(image);
    const Index row_size = kLinePlanes * plane_size(A_);
    const Index work = (rows.end() - rows.begin()) * sides_ * size_;
    parallel_for(A_.layer_height, quotient_up(work, maximum(1, A_.layer_height)), [&](Index first, Index last) {
      for (Index y = first; y < last; ++y) {
        T* gradients = line_gradients_.data() + y * row_size;
        std::fill(gradients, gradients + row_size, T(0));
        for (const Index row : rows) {
          const Index line = y - A_.where[row].top;
          if (line < 0 || line >= A_.height) continue;
          for (Index side = 0; side < sides_; ++side) add_row_to_lines(side, row, line);
        }
      }
    });
  }

  // One row of pixels of a window.
  void add_row_to_lines(Index side, Index row, Index y) {
    const WindowRow where = A_.where[row];
    const bool lower = is_lower(args_.sides, side);
    const Index run = A_.width * A_.channels, at = y * run, planes = planes_at(A_, where.top + y, where.left);
    const RunLines<const T> line(lines_.data() + planes, plane_size(A_), lower);
    const RunLines<T> to_line(line_gradients_.data() + planes, plane_size(A_), lower);
    const auto relax =
        args_.bias.data != nullptr ? relax_row_gradient<T, true, false> : relax_row_gradient<T, false, false>;
    const RelaxedRun<T> relaxed = {coefficients(side, row, at), arriving(side, row, at), weight(side, row),
                                   args_.A_gradient == nullptr || shared_ ? nullptr : to_source(side, row, at)};
    relax(run, relaxed, line, to_line, line.bias, to_line.bias);
  }

  void store_gradients(Index image) const {
    const Index pixels = A_.layer_height * A_.layer_width, tiles = quotient_up(pixels, kTile), channels = A_.channels;
    parallel_for(channels * tiles, 16 * minimum(pixels, kTile), [&](Index first, Index last) {
      LineTile<T> tile;
      for (Index item = first; item < last; ++item) {
        const Index channel = item / tiles, pixel = item % tiles * kTile, size = minimum(kTile, pixels - pixel);
        const Index begin = channel * pixels + pixel;
        T* to_bias = args_.bias_gradient == nullptr ? nullptr : args_.bias_gradient + image * channels * pixels + begin;
        for (Index j = 0; j < size; ++j) {
          const Index place = pixel + j;
          const T* from =
              line_gradients_.data() + planes_at(A_, place / A_.layer_width, place % A_.layer_width) + channel;
          tile.lower_slope[j] = from[0];
          tile.lower_intercept[j] = from[plane_size(A_)];
          tile.upper_slope[j] = from[2 * plane_size(A_)];
          tile.upper_intercept[j] = from[3 * plane_size(A_)];
          if (to_bias != nullptr) to_bias[j] = from[4 * plane_size(A_)];
        }
        store_line_gradients(args_.relaxation, image, channels * pixels, begin, size, pointers_to(tile),
                             args_.gradients);
      }
    });
  }

  const RelaxWindowsGradientArguments<T>& args_;
  const RowWindows<T>& A_;
  const Index sides_, size_;
  const Groups by_image_, by_source_;
  const bool shared_;                      // whether rows share a source
  std::vector<T> lines_, line_gradients_;  // of one image, [h, kLinePlanes, w, C]
  std::vector<const Index*> next_;         // of every source the first row whose image is still to come
};

// Adds the gradient of a row's bound to that of its source.
template <typename T>
void add_bound_gradient(const ConcretizeWindowsGradientArguments<T>& args, Index side, Index row, const T* a,
                        const RowNorm& norm, T* to_A) {
  const RowWindows<T>& A = args.A;
  const Region<T>& region = args.region;
  const WindowRow where = A.where[row];
  const bool lower = is_lower(args.sides, side);
  const double gradient = args.bounds_gradient[side * A.rows + row];
  const Index run = A.width * A.channels;
  for (Index y = 0; y < A.height; ++y) {
    const Index in = where.image * region.batch_stride + ((where.top + y) * A.layer_width + where.left) * A.channels;
    const T* __restrict from = a + y * run;
    const T* __restrict x = region.x_L + in;
    T* __restrict out = to_A + y * run;
    if (region.x_U != nullptr) {
      const T* __restrict x_U = region.x_U + in;
      for (Index i = 0; i < run; ++i) {
        out[i] += T(gradient * double(extreme_point(x[i], x_U[i], (from[i] >= T(0)) == lower)));
      }
    } else {
      const double eps = radius_of(region, where.image) * (lower ? -1.0 : 1.0);
      with_norm(region.q, [&](auto kind) {
        for (Index i = 0; i < run; ++i) {
          const double slope = norm_slope<kind>(double(from[i]), norm.norm, norm.sum, norm.largest, region.q);
          out[i] += T(gradient * (double(x[i]) + eps * slope));
        }
      });
    }
  }
}

}  // namespace

template <typename T>
void relax_windows_gradient(const RelaxWindowsGradientArguments<T>& args) {
  RelaxationGradient<T>(args).run();
}

template <typename T>
void concretize_windows_gradient(const ConcretizeWindowsGradientArguments<T>& args) {
  const RowWindows<T>& A = args.A;
  const Index sides = side_count(args.sides), size = A.height * A.width * A.channels;
  const Groups by_source(A.sources, rows_by_image(A).rows(), [&](Index row) { return A.where[row].source; });
  parallel_for(sides * A.sources, size * quotient_up(A.rows, maximum(1, A.sources)), [&](Index first, Index last) {
    for (Index item = first; item < last; ++item) {
      const Index side = item / A.sources, source = item % A.sources;
      const T* a = A.data + side * A.side_stride + source * A.source_stride;
      T* to_A = args.A_gradient + item * size;
      std::fill(to_A, to_A + size, T(0));
      const RowNorm norm = args.region.x_U != nullptr ? RowNorm{} : row_norm_for_slope(size, a, args.region.q);
      for (const Index row : by_source.of(source)) add_bound_gradient(args, side, row, a, norm, to_A);
    }
  });
}

#define LBP_INSTANTIATE(T)                                                       \
  template void relax_windows_gradient(const RelaxWindowsGradientArguments<T>&); \
  template void concretize_windows_gradient(const ConcretizeWindowsGradientArguments<T>&);

LBP_INSTANTIATE(float)
LBP_INSTANTIATE(double)

}  // namespace lbp::LBP_ISA
