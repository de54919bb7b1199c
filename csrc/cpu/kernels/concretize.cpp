#include <algorithm>
#include <vector>

#include "cpu/kernels/row_norm.h"
#include "cpu/kernels/table.h"

namespace lbp::LBP_ISA {
namespace {

// sum_i a_i x_i with every x_i at the end that makes the sum smallest (lower) or largest.
template <typename T>
double box_row(Index size, const T* __restrict a, const T* __restrict x_L, const T* __restrict x_U, bool lower) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (Index i = 0; i < size; ++i) sum += double(a[i]) * double(extreme_point(x_L[i], x_U[i], (a[i] >= T(0)) == lower));
  return sum;
}

template <typename T>
double dot_row(Index size, const T* __restrict a, const T* __restrict x) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (Index i = 0; i < size; ++i) sum += double(a[i]) * double(x[i]);
  return sum;
}

template <typename T>
const T* row_of(const Coefficients<T>& A, Index side, Index image, Index row) {
  return A.data + side * A.side_stride + image * A.batch_stride + row * A.row_stride;
}

// Rows that take turns on a tile of the box, which stays in the first cache while they stream past.
constexpr Index kRowsOfBox = 4;

template <typename T>
void concretize_box(const ConcretizeArguments<T>& args) {
  const Index sides = side_count(args.sides), rows = sides * args.rows, pieces = quotient_up(rows, kRowsOfBox);
  const Region<T>& region = args.region;
  parallel_for(args.batch * pieces, minimum(rows, kRowsOfBox) * args.inputs, [&](Index first, Index last) {
    for (Index item = first; item < last; ++item) {
      const Index image = item / pieces, first_row = item % pieces * kRowsOfBox;
      const Index count = minimum(kRowsOfBox, rows - first_row), box = image * region.batch_stride;
      double sums[kRowsOfBox] = {};
      for (Index begin = 0; begin < args.inputs; begin += kTile) {
        const Index size = minimum(kTile, args.inputs - begin);
        for (Index i = 0; i < count; ++i) {
          const Index side = (first_row + i) / args.rows, row = (first_row + i) % args.rows;
          sums[i] += box_row(size, row_of(args.A, side, image, row) + begin, region.x_L + box + begin,
                             region.x_U + box + begin, is_lower(args.sides, side));
        }
      }
      for (Index i = 0; i < count; ++i) {
        const Index side = (first_row + i) / args.rows, row = (first_row + i) % args.rows;
        args.bounds[(side * args.batch + image) * args.rows + row] = sums[i];
      }
    }
  });
}

}  // namespace

template <typename T>
void concretize(const ConcretizeArguments<T>& args) {
  const Index sides = side_count(args.sides);
  const Region<T>& region = args.region;
  if (region.x_U != nullptr) return concretize_box(args);
  parallel_for(sides * args.batch * args.rows, args.inputs, [&](Index first, Index last) {
    for (Index item = first; item < last; ++item) {
      const Index row = item % args.rows, image = item / args.rows % args.batch, side = item / args.rows / args.batch;
      const bool lower = is_lower(args.sides, side);
      const T* a = row_of(args.A, side, image, row);
      const double spread = radius_of(region, image) * row_norm(args.inputs, a, region.q).norm;
      const double at_center = dot_row(args.inputs, a, region.x_L + image * region.batch_stride);
      args.bounds[item] = at_center + (lower ? -spread : spread);
    }
  });
}

template <typename T>
void concretize_gradient(const ConcretizeGradientArguments<T>& args) {
  const Index sides = side_count(args.sides);
  const Region<T>& region = args.region;
  parallel_for(sides * args.batch * args.rows, args.inputs, [&](Index first, Index last) {
    for (Index item = first; item < last; ++item) {
      const Index row = item % args.rows, image = item / args.rows % args.batch, side = item / args.rows / args.batch;
      const bool lower = is_lower(args.sides, side);
      const T* __restrict a = row_of(args.A, side, image, row);
      const T* __restrict x = region.x_L + image * region.batch_stride;
      T* __restrict out = args.A_gradient + item * args.inputs;
      const double gradient = args.bounds_gradient[item];
      if (region.x_U != nullptr) {
        const T* __restrict x_U = region.x_U + image * region.batch_stride;
        for (Index i = 0; i < args.inputs; ++i) {
          out[i] = T(gradient * double(extreme_point(x[i], x_U[i], (a[i] >= T(0)) == lower)));
        }
      } else {
        const double eps = radius_of(region, image) * (lower ? -1.0 : 1.0);
        with_norm(region.q, [&](auto kind) {
          const RowNorm result = row_norm_for_slope(args.inputs, a, region.q);
          for (Index i = 0; i < args.inputs; ++i) {
            const double slope = norm_slope<kind>(double(a[i]), result.norm, result.sum, result.largest, region.q);
            out[i] = T(gradient * (double(x[i]) + eps * slope));
          }
        });
      }
    }
  });
}

namespace {

// The part of the region under a window as one run of numbers. Neighbouring rows mostly stand at one place, whose part
// is gathered once for all of them.
template <typename T>
class RegionWindow {
 public:
  explicit RegionWindow(const ConcretizeWindowsArguments<T>& args)
      : args_(args), run_(args.A.width * args.A.channels), x_L_(size_t(args.A.height * run_)) {
    if (args.region.x_U != nullptr) x_U_.resize(x_L_.size());
  }

  void move_to(const WindowRow& where) {
    if (where.image == image_ && where.top == top_ && where.left == left_) return;
    image_ = where.image;
    top_ = where.top;
    left_ = where.left;
    const RowWindows<T>& A = args_.A;
    // With channels last, a row of pixels is one run of numbers in the window and in the image.
    for (Index y = 0; y < A.height; ++y) {
      const Index at = image_ * args_.region.batch_stride + ((top_ + y) * A.layer_width + left_) * A.channels;
      std::copy_n(args_.region.x_L + at, run_, x_L_.data() + y * run_);
      if (args_.region.x_U != nullptr) std::copy_n(args_.region.x_U + at, run_, x_U_.data() + y * run_);
    }
  }

  const T* x_L() const { return x_L_.data(); }
  const T* x_U() const { return x_U_.data(); }

 private:
  const ConcretizeWindowsArguments<T>& args_;
  const Index run_;
  std::vector<T> x_L_, x_U_;
  Index image_ = -1, top_ = 0, left_ = 0;
};

}  // namespace

template <typename T>
void concretize_windows(const ConcretizeWindowsArguments<T>& args) {
  const RowWindows<T>& A = args.A;
  const Region<T>& region = args.region;
  const Index sides = side_count(args.sides), size = A.height * A.width * A.channels;
  parallel_for(sides * A.rows, size, [&](Index first, Index last) {
    RegionWindow<T> window(args);
    for (Index item = first; item < last; ++item) {
      const Index side = item / A.rows;
      const WindowRow where = A.where[item % A.rows];
      const bool lower = is_lower(args.sides, side);
      const T* a = A.data + side * A.side_stride + where.source * A.source_stride;
      window.move_to(where);
      if (region.x_U != nullptr) {
        args.bounds[item] = box_row(size, a, window.x_L(), window.x_U(), lower);
      } else {
        const double spread = radius_of(region, where.image) * row_norm(size, a, region.q).norm;
        args.bounds[item] = dot_row(size, a, window.x_L()) + (lower ? -spread : spread);
      }
    }
  });
}

#define LBP_INSTANTIATE(T)                                                  \
  template void concretize(const ConcretizeArguments<T>&);                  \
  template void concretize_gradient(const ConcretizeGradientArguments<T>&); \
  template void concretize_windows(const ConcretizeWindowsArguments<T>&);

LBP_INSTANTIATE(float)
LBP_INSTANTIATE(double)

}  // namespace lbp::LBP_ISA
