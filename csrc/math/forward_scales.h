// How the bounding lines of an activation scale forward linear bounds that are kept as center and radius.
#pragma once

#include "math/bounding_lines.h"

namespace lbp {

// With lower = center - radius and upper = center + radius, the lines' slopes s (lower) and t (upper) give
//   center' = (t + s)/2 center + (|t| - |s|)/2 radius,   radius' = (t - s)/2 center + (|t| + |s|)/2 radius;
// the absolute values swap the roles of lower and upper where a slope is negative.
template <typename T>
struct ForwardScales {
  T center_to_center, radius_to_center, center_to_radius, radius_to_radius;
};

template <typename T>
LBP_HOST_DEVICE ForwardScales<T> forward_scales(T lower_slope, T upper_slope) {
  const T s = lower_slope, t = upper_slope;
  return {(t + s) / 2, (absolute(t) - absolute(s)) / 2, (t - s) / 2, (absolute(t) + absolute(s)) / 2};
}

// What the intercepts add to the biases of center and radius.
template <typename T>
LBP_HOST_DEVICE T center_intercept(T lower_intercept, T upper_intercept) {
  return (upper_intercept + lower_intercept) / 2;
}

template <typename T>
LBP_HOST_DEVICE T radius_intercept(T lower_intercept, T upper_intercept) {
  return (upper_intercept - lower_intercept) / 2;
}

// Gradients with respect to the lines, from those with respect to the scales and to the biases; a slope of 0 counts as
// positive.
template <typename T>
LBP_HOST_DEVICE BoundingLines<T> forward_scales_gradient(T lower_slope, T upper_slope, const ForwardScales<T>& gradient,
                                                         T to_center_bias, T to_radius_bias) {
  const T lower_sign = lower_slope < T(0) ? T(-1) : T(1), upper_sign = upper_slope < T(0) ? T(-1) : T(1);
  const T cc = gradient.center_to_center, rc = gradient.radius_to_center;
  const T cr = gradient.center_to_radius, rr = gradient.radius_to_radius;
  return {(cc - cr + lower_sign * (rr - rc)) / 2, (to_center_bias - to_radius_bias) / 2,
          (cc + cr + upper_sign * (rr + rc)) / 2, (to_center_bias + to_radius_bias) / 2};
}

}  // namespace lbp
