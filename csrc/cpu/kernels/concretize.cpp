#include "cpu/kernels/region.h"
#include "cpu/kernels/table.h"
#include "cpu/kernels/tile.h"

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
double largest_magnitude(Index size, const T* __restrict a) {
  double largest = 0, nan = 0;
#pragma omp simd reduction(max : largest) reduction(+ : nan)
  for (Index i = 0; i < size; ++i) {
    const double magnitude = absolute(double(a[i]));
    largest = magnitude > largest ? magnitude : largest;
    nan += a[i] == a[i] ? 0.0 : 1.0;
  }
  return nan > 0 ? double(quiet_nan<T>()) : largest;
}

// The sum of the norm's terms over a row whose largest entry is known.
template <typename T>
double term_sum(Index size, const T* __restrict a, double q, double largest) {
  return with_norm(q, [&](auto norm) {
    double sum = 0;
    if constexpr (norm == Norm::kGeneral) {
      for (Index i = 0; i < size; ++i) sum += norm_term<norm>(double(a[i]), inverse_scale(largest), q);
    } else if constexpr (norm != Norm::kInfinity) {
      const double scale = inverse_scale(largest);
#pragma omp simd reduction(+ : sum)
      for (Index i = 0; i < size; ++i) sum += norm_term<norm>(double(a[i]), scale, q);
    }
    return sum;
  });
}

// The dual norm of a row, and what its gradient needs.
struct RowNorm {
  double norm, sum, largest;
};

template <typename T>
RowNorm row_norm(Index size, const T* a, double q) {
  // The l_1 norm needs no scale, and so no second look at the row.
  const double largest = norm_kind(q) == Norm::kOne ? 0 : largest_magnitude(size, a);
  const double sum = term_sum(size, a, q, largest);
  return {with_norm(q, [&](auto norm) { return norm_of<norm>(sum, largest, q); }), sum, largest};
}

// How many entries have the largest magnitude; the gradient of the maximum norm is shared among them.
template <typename T>
double ties(Index size, const T* a, double largest) {
  Index count = 0;
  for (Index i = 0; i < size; ++i) count += absolute(double(a[i])) == largest;
  return double(count);
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
      const double spread = region.eps[image * region.eps_stride] * row_norm(args.inputs, a, region.q).norm;
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
        const double eps = region.eps[image * region.eps_stride] * (lower ? -1.0 : 1.0);
        with_norm(region.q, [&](auto kind) {
          RowNorm result = row_norm(args.inputs, a, region.q);
          if constexpr (kind == Norm::kInfinity) result.sum = ties(args.inputs, a, result.largest);
          for (Index i = 0; i < args.inputs; ++i) {
            const double slope = norm_slope<kind>(double(a[i]), result.norm, result.sum, result.largest, region.q);
            out[i] = T(gradient * (double(x[i]) + eps * slope));
          }
        });
      }
    }
  });
}

template <typename T>
void concretize_windows(const ConcretizeWindowsArguments<T>& args) {
  const RowWindows<T>& A = args.A;
  const Region<T>& region = args.region;
  const Index sides = side_count(args.sides), run = A.width * A.channels, size = A.height * run;
  parallel_for(sides * A.rows, size, [&](Index first, Index last) {
    for (Index item = first; item < last; ++item) {
      const Index side = item / A.rows;
      const WindowRow where = A.where[item % A.rows];
      const bool lower = is_lower(args.sides, side);
      const T* a = A.data + side * A.side_stride + where.source * A.source_stride;
      const Index image = where.image * region.batch_stride;
      double sum = 0;
      // With channels last, a row of pixels is one run of numbers in the window and in the image.
      for (Index y = 0; y < A.height; ++y) {
        const Index at = image + ((where.top + y) * A.layer_width + where.left) * A.channels;
        sum += region.x_U != nullptr ? box_row(run, a + y * run, region.x_L + at, region.x_U + at, lower)
                                     : dot_row(run, a + y * run, region.x_L + at);
      }
      if (region.x_U == nullptr) {
        const double spread = region.eps[where.image * region.eps_stride] * row_norm(size, a, region.q).norm;
        sum += lower ? -spread : spread;
      }
      args.bounds[item] = sum;
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
