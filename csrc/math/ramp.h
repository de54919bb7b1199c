// ParamRamp: eta z below 0, z on [0, r], eta z + (1 - eta) r beyond r (Lyu et al. 2021, section 5). ReLU and LeakyReLU
// have r = infinity.
#pragma once

#include "math/config.h"

namespace lbp {

// V is a number, or a vector of numbers with operators (cpu/kernels/simd.h), for which conditions are masks.

// An activation is defined for r > 0 and eta in [0, 1]; NaN in either makes it undefined.
template <typename V, typename T>
LBP_HOST_DEVICE auto ramp_defined(V r, T eta) {
  const V zero = V{}, slope = zero + eta;
  return (r > zero) & (slope >= zero) & (slope <= zero + T(1));
}

template <typename V, typename T>
LBP_HOST_DEVICE V ramp(V z, V r, T eta) {
  // Written around the bending point so that the value stays monotone there in floating point.
  const V zero = V{}, beyond = r + eta * (z - r);
  const V value = z > r ? beyond : (z > zero ? z : eta * z);
  return ramp_defined(r, eta) ? value : zero + quiet_nan<T>();
}

// d ramp / d z; at 0 and at r the slope to the left is taken.
template <typename T>
LBP_HOST_DEVICE T ramp_slope(T z, T r, T eta) {
  return (z > T(0)) & (z <= r) ? T(1) : eta;
}

// d ramp / d r.
template <typename T>
LBP_HOST_DEVICE T ramp_slope_in_r(T z, T r, T eta) {
  return z > r ? T(1) - eta : T(0);
}

}  // namespace lbp
