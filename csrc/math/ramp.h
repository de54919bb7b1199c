// ParamRamp: eta z below 0, z on [0, r], eta z + (1 - eta) r beyond r (Lyu et al. 2021, section 5). ReLU and LeakyReLU
// have r = infinity.
#pragma once

#include "math/config.h"

namespace lbp {

// An activation is defined for r > 0 and eta in [0, 1]; NaN in either makes it undefined.
template <typename V, typename T>
LBP_HOST_DEVICE auto ramp_defined(V r, T eta) {
  const V zero = V{}, slope = zero + eta;
  return (r > zero) & (slope >= zero) & (slope <= constant<V>(1));
}

template <typename V, typename T>
LBP_HOST_DEVICE V ramp(V z, V r, T eta) {
  // Written around the bending point so that the value stays monotone there in floating point.
  const V zero = V{}, beyond = r + eta * (z - r);
  const V value = z > r ? beyond : (z > zero ? z : eta * z);
  return ramp_defined(r, eta) ? value : constant<V>(quiet_nan<Element<V>>());
}

// d ramp / d z; at 0 and at r the slope to the left is taken.
template <typename V>
LBP_HOST_DEVICE V ramp_slope(V z, V r, V eta) {
  return (z > V{}) & (z <= r) ? constant<V>(1) : eta;
}

// d ramp / d r.
template <typename V>
LBP_HOST_DEVICE V ramp_slope_in_r(V z, V r, V eta) {
  return z > r ? constant<V>(1) - eta : V{};
}

}  // namespace lbp
