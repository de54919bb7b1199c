// The l_q norm that concretization over an l_p ball needs, 1/p + 1/q = 1, added up over the entries of a row.
#pragma once

#include "math/config.h"

#if !defined(__CUDACC_RTC__)
#include <cmath>
#endif

namespace lbp {

// How to add up |a|: the kind of norm decides at compile time. The largest entry scales powers, so that none
// underflows.
enum class Norm : int { kOne, kTwo, kInfinity, kGeneral };

// q = 0 stands for infinity.
LBP_HOST_DEVICE Norm norm_kind(double q) {
  return q == 1.0 ? Norm::kOne : (q == 2.0 ? Norm::kTwo : (q == 0.0 ? Norm::kInfinity : Norm::kGeneral));
}

// x^q for x >= 0. Devices have it out of line: it is longer than what kernels do around it, at many places each.
#if defined(__CUDACC__)
__host__ __device__ __noinline__ inline double power(double x, double q) { return ::pow(x, q); }
#else
LBP_HOST_DEVICE double power(double x, double q) { return ::pow(x, q); }
#endif

// What powers are scaled by: the largest entry, kept away from 0 so that its inverse is finite. NaN stays NaN.
LBP_HOST_DEVICE double norm_scale(double largest) {
  return largest < Float<double>::smallest_normal ? Float<double>::smallest_normal : largest;
}

LBP_HOST_DEVICE double inverse_scale(double largest) { return 1.0 / norm_scale(largest); }

// The term of one entry; `inverse_scale` is that of the row.
template <Norm kNorm>
LBP_HOST_DEVICE double norm_term(double a, double inverse_scale, double q) {
  const double magnitude = absolute(a);
  if constexpr (kNorm == Norm::kOne) {
    return magnitude;
  } else if constexpr (kNorm == Norm::kTwo) {
    const double scaled = magnitude * inverse_scale;
    return scaled * scaled;
  } else {
    return power(magnitude * inverse_scale, q);
  }
}

// The norm from the sum of its terms and the largest entry.
template <Norm kNorm>
LBP_HOST_DEVICE double norm_of(double sum, double largest, double q) {
  if constexpr (kNorm == Norm::kOne) {
    return sum;
  } else if constexpr (kNorm == Norm::kInfinity) {
    return largest;
  } else if constexpr (kNorm == Norm::kTwo) {
    return ::sqrt(sum) * norm_scale(largest);
  } else {
    return power(sum, 1.0 / q) * norm_scale(largest);
  }
}

// Sum of terms and largest entry of a row that is read once: the terms are relative to the largest entry so far. Of the
// maximum norm the sum is the number of ties, which its slope needs. Squares of float32 numbers need no scale in
// float64: without kScaled their largest entry counts as 1.
struct NormSum {
  double sum, largest;
};

template <Norm kNorm, bool kScaled>
LBP_HOST_DEVICE NormSum empty_norm_sum() {
  return {0.0, kScaled ? 0.0 : 1.0};
}

// Two parts of a row together. The order of parts matters to rounding only.
template <Norm kNorm, bool kScaled>
LBP_HOST_DEVICE NormSum combined(const NormSum& a, const NormSum& b, double q) {
  if constexpr (!kScaled) {
    return {a.sum + b.sum, a.largest};
  } else {
    // NaN is larger than everything.
    const double largest = a.largest >= b.largest ? a.largest : (a.largest == a.largest ? b.largest : a.largest);
    if constexpr (kNorm == Norm::kInfinity) {
      return {(a.largest == largest ? a.sum : 0.0) + (b.largest == largest ? b.sum : 0.0), largest};
    } else {
      const double scale = inverse_scale(largest);
      const double of_a = norm_scale(a.largest) * scale, of_b = norm_scale(b.largest) * scale;
      if constexpr (kNorm == Norm::kTwo) return {a.sum * (of_a * of_a) + b.sum * (of_b * of_b), largest};
      return {a.sum * power(of_a, q) + b.sum * power(of_b, q), largest};
    }
  }
}

// The row with one more entry.
template <Norm kNorm, bool kScaled>
LBP_HOST_DEVICE NormSum with_entry(const NormSum& row, double a, double q) {
  if constexpr (!kScaled) {
    return {row.sum + norm_term<kNorm>(a, 1.0, q), row.largest};
  } else {
    const double magnitude = absolute(a);
    if constexpr (kNorm == Norm::kInfinity) {
      return combined<kNorm, kScaled>(row, {1.0, magnitude}, q);
    } else {
      // Only a new largest entry changes the scale.
      if (magnitude <= row.largest) return {row.sum + norm_term<kNorm>(a, inverse_scale(row.largest), q), row.largest};
      return combined<kNorm, kScaled>(row, {norm_term<kNorm>(a, inverse_scale(magnitude), q), magnitude}, q);
    }
  }
}

// The derivative of the norm by its entry a: sign(a) (|a|/largest)^(q-1) sum^(1/q - 1). A row of zeros has gradient 0;
// ties of the largest entry share the gradient of the maximum norm, whose `sum` is the number of ties.
template <Norm kNorm>
LBP_HOST_DEVICE double norm_slope(double a, double norm, double sum, double largest, double q) {
  const double sign = a > 0 ? 1.0 : (a < 0 ? -1.0 : 0.0);
  if constexpr (kNorm == Norm::kOne) {
    return sign;
  } else if constexpr (kNorm == Norm::kTwo) {
    return norm > 0 ? a / norm : 0.0;
  } else if constexpr (kNorm == Norm::kInfinity) {
    return absolute(a) == largest ? sign / sum : 0.0;
  } else {
    const double scale = inverse_scale(largest);
    return norm > 0 ? sign * power(absolute(a) * scale, q - 1) * (norm * scale) / sum : 0.0;
  }
}

}  // namespace lbp
