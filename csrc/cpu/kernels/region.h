// What evaluating linear bounds over the input region needs, whichever way the coefficients lie in memory.
#pragma once

#include <type_traits>

#include "arguments.h"
#include "math/dual_norm.h"

namespace lbp::LBP_ISA {

// The end of [x_L, x_U] at which a coefficient is extreme. Ends out of order by rounding are swapped; NaN spoils both.
template <typename T>
LBP_HOST_DEVICE T extreme_point(T x_L, T x_U, bool low) {
  const T smallest = x_L > x_U ? x_U : x_L, largest = x_L > x_U ? x_L : x_U;
  return (x_L == x_L) & (x_U == x_U) ? (low ? smallest : largest) : quiet_nan<T>();
}

// Calls body with the kind of norm as a compile-time constant.
template <typename Body>
auto with_norm(double q, const Body& body) {
  switch (norm_kind(q)) {
    case Norm::kOne:
      return body(std::integral_constant<Norm, Norm::kOne>());
    case Norm::kTwo:
      return body(std::integral_constant<Norm, Norm::kTwo>());
    case Norm::kInfinity:
      return body(std::integral_constant<Norm, Norm::kInfinity>());
    default:
      return body(std::integral_constant<Norm, Norm::kGeneral>());
  }
}

}  // namespace lbp::LBP_ISA
