// ParamRamp: eta z below 0, z on [0, r], eta z + (1 - eta) r beyond r (Lyu et al. 2021, section 5). ReLU and LeakyReLU
// have r = infinity.
#pragma once

#include "math/config.h"

namespace lbp {

// An activation is defined for r > 0 and eta in [0, 1]; NaN in either makes it undefined.
template <typename T>
LBP_HOST_DEVICE bool ramp_defined(T r, T eta) {
  return r > T(0) && eta >= T(0) && eta <= T(1);
}

template <typename T>
LBP_HOST_DEVICE T ramp(T z, T r, T eta) {
  // Written around the bending point so that the value stays monotone there in floating point.
  const T beyond = r + eta * (z - r);
  const T value = z > r ? beyond : (z > T(0) ? z : eta * z);
  return ramp_defined(r, eta) ? value : quiet_nan<T>();
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
