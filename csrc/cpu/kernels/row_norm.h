// The dual norm of a row of coefficients, and what its gradient needs.
#pragma once

#include "cpu/kernels/region.h"
#include "cpu/kernels/simd.h"
#include "cpu/kernels/tile.h"

namespace lbp::LBP_ISA {

// NaN where one of the entries is.
template <typename T>
double largest_magnitude(Index size, const T* a) {
  typename Vector<T>::Type of_lanes = {}, spoiled = {};
  T largest = 0, nan = 0;
  for_lanes<T>(0, size, [&](Index i, auto zero) LBP_LANES {
    using V = decltype(zero);
    const V value = load<V>(a + i), magnitude = value < zero ? -value : value;
    if constexpr (sizeof(V) == sizeof(T)) {
      largest = magnitude > largest ? magnitude : largest;
      nan += value == value ? T(0) : T(1);
    } else {
      of_lanes = magnitude > of_lanes ? magnitude : of_lanes;
      spoiled = value == value ? spoiled : value;
    }
  });
  for (Index lane = 0; lane < Vector<T>::kSize; ++lane) {
    largest = of_lanes[lane] > largest ? of_lanes[lane] : largest;
    nan += spoiled[lane] == spoiled[lane] ? T(0) : T(1);
  }
  return nan > 0 ? double(quiet_nan<T>()) : double(largest);
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

struct RowNorm {
  double norm, sum, largest;
};

template <typename T>
RowNorm row_norm(Index size, const T* a, double q) {
  // The l_1 norm needs no scale, nor do squares of float32 numbers in float64, and so no second look at the row.
  const Norm kind = norm_kind(q);
  double largest = 0;
  if (kind == Norm::kTwo && sizeof(T) == sizeof(float)) {
    largest = 1;
  } else if (kind != Norm::kOne) {
    largest = largest_magnitude(size, a);
  }
  const double sum = term_sum(size, a, q, largest);
  return {with_norm(q, [&](auto norm) { return norm_of<norm>(sum, largest, q); }), sum, largest};
}

// As the slope of the norm wants it: the `sum` of the maximum norm counts the entries of the largest magnitude, which
// share its gradient.
template <typename T>
RowNorm row_norm_for_slope(Index size, const T* a, double q) {
  RowNorm result = row_norm(size, a, q);
  if (norm_kind(q) == Norm::kInfinity) {
    Index ties = 0;
    for (Index i = 0; i < size; ++i) ties += absolute(double(a[i])) == result.largest;
    result.sum = double(ties);
  }
  return result;
}

}  // namespace lbp::LBP_ISA
