// From codes that are known at run time to compile-time constants.
#pragma once

#include <type_traits>

#include "math/bounding_lines.h"
#include "math/dual_norm.h"

namespace lbp {

// Calls body with the strategy.
template <typename Body>
auto with_strategy(Strategy strategy, const Body& body) {
  switch (strategy) {
    case Strategy::kConstant:
      return body(std::integral_constant<Strategy, Strategy::kConstant>());
    case Strategy::kTight:
      return body(std::integral_constant<Strategy, Strategy::kTight>());
    case Strategy::kSameSlope:
      return body(std::integral_constant<Strategy, Strategy::kSameSlope>());
    case Strategy::kZero:
      return body(std::integral_constant<Strategy, Strategy::kZero>());
    case Strategy::kOne:
      return body(std::integral_constant<Strategy, Strategy::kOne>());
    case Strategy::kSlopes:
      return body(std::integral_constant<Strategy, Strategy::kSlopes>());
    case Strategy::kLines:
      return body(std::integral_constant<Strategy, Strategy::kLines>());
    case Strategy::kAdaptive:
      break;
  }
  return body(std::integral_constant<Strategy, Strategy::kAdaptive>());
}

// Calls body with the kind of norm.
template <typename Body>
auto with_norm(double q, const Body& body) {
  switch (norm_kind(q)) {
    case Norm::kOne:
      return body(std::integral_constant<Norm, Norm::kOne>());
    case Norm::kTwo:
      return body(std::integral_constant<Norm, Norm::kTwo>());
    case Norm::kInfinity:
      return body(std::integral_constant<Norm, Norm::kInfinity>());
    case Norm::kGeneral:
      break;
  }
  return body(std::integral_constant<Norm, Norm::kGeneral>());
}

// Calls body with a flag.
template <typename Body>
auto with_flag(bool flag, const Body& body) {
  return flag ? body(std::true_type()) : body(std::false_type());
}

}  // namespace lbp
