// The bounding lines of one neuron from what describes a layer's relaxation.
#pragma once

#include "arguments.h"
#include "cuda/runtime.cuh"

namespace lbp::cuda {

template <typename T>
LBP_DEVICE T value_of(const PerNeuron<T>& values, Index neuron) {
  return values.data == nullptr ? values.value : values.data[neuron / values.inner % values.count];
}

template <typename T>
LBP_DEVICE BoundingLines<T> neuron_lines(const Relaxation<T>& relaxation, Index image, Index neuron) {
  const Index at = image * relaxation.batch_stride + neuron, given_at = image * relaxation.given_batch_stride + neuron;
  const T l = relaxation.l[at], u = relaxation.u[at], r = value_of(relaxation.r, neuron);
  const T eta = relaxation.eta_data == nullptr ? relaxation.eta : *relaxation.eta_data;
  const auto given_value = [&](const T* data) { return data == nullptr ? T(0) : data[given_at]; };
  const GivenLines<T> given = {given_value(relaxation.lower_slope), given_value(relaxation.lower_intercept),
                               given_value(relaxation.upper_slope), given_value(relaxation.upper_intercept),
                               relaxation.lower_slope != nullptr,   relaxation.upper_slope != nullptr};
  switch (relaxation.strategy) {
    case Strategy::kConstant:
      return bounding_lines<Strategy::kConstant>(l, u, r, eta, given);
    case Strategy::kTight:
      return bounding_lines<Strategy::kTight>(l, u, r, eta, given);
    case Strategy::kAdaptive:
      return bounding_lines<Strategy::kAdaptive>(l, u, r, eta, given);
    case Strategy::kSameSlope:
      return bounding_lines<Strategy::kSameSlope>(l, u, r, eta, given);
    case Strategy::kZero:
      return bounding_lines<Strategy::kZero>(l, u, r, eta, given);
    case Strategy::kOne:
      return bounding_lines<Strategy::kOne>(l, u, r, eta, given);
    case Strategy::kSlopes:
      return bounding_lines<Strategy::kSlopes>(l, u, r, eta, given);
    default:
      return bounding_lines<Strategy::kLines>(l, u, r, eta, given);
  }
}

}  // namespace lbp::cuda
