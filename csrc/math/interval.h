// Intervals as centers and radii, and how far both move outward for what sums over them round (docs/rounding.md,
// section 6).
#pragma once

#include "math/config.h"

namespace lbp {

// Terms of a sum that are added up before the next sum begins (BLOCK of lbp/rounding/sums.py): long sums round less.
constexpr int kSumBlock = 512;

template <typename T>
LBP_HOST_DEVICE T interval_center(T l, T u) {
  return (u + l) / 2;
}

template <typename T>
LBP_HOST_DEVICE T interval_radius(T l, T u) {
  return (u - l) / 2;
}

// By how much radii grow: relative (|center| + radius) + absolute.
template <typename T>
struct Widening {
  T relative = T(0);  // 0: not at all
  T absolute = T(0);
};

template <typename T>
LBP_HOST_DEVICE T widened(T center, T radius, const Widening<T>& by) {
  return radius + ((absolute(center) + radius) * by.relative + by.absolute);
}

// The ends of an interval. Outward, an infinite one on the wrong side is none: partial sums of a finite number may
// overflow.
template <typename T>
LBP_HOST_DEVICE T lower_end(T center, T radius, bool outward) {
  const T end = center - radius;
  return outward & (end > Float<T>::largest) ? quiet_nan<T>() : end;
}

template <typename T>
LBP_HOST_DEVICE T upper_end(T center, T radius, bool outward) {
  const T end = center + radius;
  return outward & (end < -Float<T>::largest) ? quiet_nan<T>() : end;
}

}  // namespace lbp
