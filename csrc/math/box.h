// The box that linear bounds are evaluated over.
#pragma once

#include "math/config.h"

namespace lbp {

// The end of [x_L, x_U] at which a coefficient is extreme. Ends out of order by rounding are swapped; NaN spoils both.
template <typename T>
LBP_HOST_DEVICE T extreme_point(T x_L, T x_U, bool low) {
  const T smallest = x_L > x_U ? x_U : x_L, largest = x_L > x_U ? x_L : x_U;
  return (x_L == x_L) & (x_U == x_U) ? (low ? smallest : largest) : quiet_nan<T>();
}

// The largest magnitude of the numbers between two ends in order; NaN where they are.
template <typename T>
LBP_HOST_DEVICE T largest_magnitude_between(T low, T high) {
  return -low > high ? -low : high;
}

}  // namespace lbp
