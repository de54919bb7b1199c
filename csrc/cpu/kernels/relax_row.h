// Runs of a row of coefficients: the lines that they take, what becomes of them, and its gradient.
#pragma once

#include "cpu/kernels/stream.h"
#include "cpu/kernels/tile.h"

namespace lbp::LBP_ISA {

// The lines that the coefficients of a row take by their sign, or the gradients of those lines. 0 counts as positive.
template <typename T>
struct RowLines {
  T *positive_slope, *negative_slope, *positive_intercept, *negative_intercept;

  template <typename Tile>
  RowLines(Tile&& lines, bool lower)
      : positive_slope(lower ? lines.lower_slope : lines.upper_slope),
        negative_slope(lower ? lines.upper_slope : lines.lower_slope),
        positive_intercept(lower ? lines.lower_intercept : lines.upper_intercept),
        negative_intercept(lower ? lines.upper_intercept : lines.lower_intercept) {}
};

// Writes A * slope for a run of coefficients, and returns its share of the row's constant. Meanwhile the caches are
// asked for the run that is read next: runs may lie pages apart, where the hardware does not look ahead.
template <typename T, bool kBias, bool kStreamed>
double relax_row(Index size, const T* A, const T* next_A, const RowLines<const T>& lines, const T* bias, T* relaxed) {
  WideSum<T> intercepts, biases;
  for_lanes<T>(kStreamed ? unaligned_head(size, relaxed) : 0, size, [&](Index j, auto zero) LBP_LANES {
    using V = decltype(zero);
    __builtin_prefetch(next_A + j);
    const V a = load<V>(A + j);
    const auto positive = a >= zero;
    const V value = a * (positive ? load<V>(lines.positive_slope + j) : load<V>(lines.negative_slope + j));
    store<kStreamed>(relaxed + j, value);
    intercepts.add_product(a, positive ? load<V>(lines.positive_intercept + j) : load<V>(lines.negative_intercept + j));
    if constexpr (kBias) biases.add_product(value, load<V>(bias + j));
  });
  return intercepts.total() + biases.total();
}

template <typename T>
using RelaxRow = double (*)(Index, const T*, const T*, const RowLines<const T>&, const T*, T*);

template <typename T>
RelaxRow<T> relax_row_for(bool biased, bool streamed) {
  if (streamed) return biased ? relax_row<T, true, true> : relax_row<T, false, true>;
  return biased ? relax_row<T, true, false> : relax_row<T, false, false>;
}

// A run of coefficients, the gradients of the relaxed ones and of their constant, and where that of the coefficients
// goes (null: not wanted). What is read next lies so far ahead.
template <typename T>
struct RelaxedRun {
  const T* A;
  const T* relaxed_gradient;
  T constant_gradient;
  T* A_gradient;
  Index A_ahead = 0, gradient_ahead = 0;
};

// Adds to the gradients of the lines and of the bias. Past the caches, these are asked for the run ahead.
template <typename T, bool kBias, bool kStreamed>
void relax_row_gradient(Index size, const RelaxedRun<T>& run, const RowLines<const T>& lines,
                        const RowLines<T>& to_lines, const T* bias, T* to_bias) {
  const T constant = run.constant_gradient;
  for_lanes<T>(kStreamed ? unaligned_head(size, run.A_gradient) : 0, size, [&](Index j, auto zero) LBP_LANES {
    using V = decltype(zero);
    if constexpr (kStreamed) {
      __builtin_prefetch(run.A + run.A_ahead + j);
      __builtin_prefetch(run.relaxed_gradient + run.gradient_ahead + j);
    }
    const V a = load<V>(run.A + j);
    const auto positive = a >= zero;
    const V slope = positive ? load<V>(lines.positive_slope + j) : load<V>(lines.negative_slope + j);
    const V intercept = positive ? load<V>(lines.positive_intercept + j) : load<V>(lines.negative_intercept + j);
    V gradient = load<V>(run.relaxed_gradient + j);
    // The bias sees the relaxed coefficient, so its gradient joins that of the coefficient.
    if constexpr (kBias) gradient += constant * load<V>(bias + j);
    if (run.A_gradient != nullptr) store<kStreamed>(run.A_gradient + j, V(gradient * slope + constant * intercept));
    const V to_slope = gradient * a, to_intercept = constant * a;
    save(to_lines.positive_slope + j, load<V>(to_lines.positive_slope + j) + (positive ? to_slope : zero));
    save(to_lines.negative_slope + j, load<V>(to_lines.negative_slope + j) + (positive ? zero : to_slope));
    save(to_lines.positive_intercept + j, load<V>(to_lines.positive_intercept + j) + (positive ? to_intercept : zero));
    save(to_lines.negative_intercept + j, load<V>(to_lines.negative_intercept + j) + (positive ? zero : to_intercept));
    if constexpr (kBias) save(to_bias + j, load<V>(to_bias + j) + to_intercept * slope);
  });
}

}  // namespace lbp::LBP_ISA
