// The gradient of a run of relaxed coefficients.
#pragma once

#include "cpu/kernels/tile.h"

namespace lbp::LBP_ISA {

// `positive_*` and `negative_*` belong to the line that A of that sign takes; their gradients and that of the bias are
// added up over the rows.
template <typename T, bool kBias>
void relax_row_gradient(Index size, const T* __restrict A, const T* __restrict relaxed_gradient, T constant_gradient,
                        const T* __restrict positive_slope, const T* __restrict negative_slope,
                        const T* __restrict positive_intercept, const T* __restrict negative_intercept,
                        const T* __restrict bias, T* __restrict A_gradient, T* __restrict positive_slope_gradient,
                        T* __restrict negative_slope_gradient, T* __restrict positive_intercept_gradient,
                        T* __restrict negative_intercept_gradient, T* __restrict bias_gradient) {
  for (Index j = 0; j < size; ++j) {
    const T a = A[j];
    const bool positive = a >= T(0);
    const T slope = selected(positive, positive_slope[j], negative_slope[j]);
    const T intercept = selected(positive, positive_intercept[j], negative_intercept[j]);
    // The bias sees the relaxed coefficient, so its gradient joins that of the coefficient.
    const T gradient = kBias ? relaxed_gradient[j] + constant_gradient * bias[j] : relaxed_gradient[j];
    if (A_gradient != nullptr) A_gradient[j] = gradient * slope + constant_gradient * intercept;
    const T to_slope = gradient * a, to_intercept = constant_gradient * a;
    positive_slope_gradient[j] += positive ? to_slope : T(0);
    negative_slope_gradient[j] += positive ? T(0) : to_slope;
    positive_intercept_gradient[j] += positive ? to_intercept : T(0);
    negative_intercept_gradient[j] += positive ? T(0) : to_intercept;
    if (kBias) bias_gradient[j] += constant_gradient * a * slope;
  }
}

}  // namespace lbp::LBP_ISA
