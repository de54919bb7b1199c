#include <cmath>

#include "cpu/kernels/table.h"
#include "cpu/kernels/tile.h"

namespace lbp::LBP_ISA {
namespace {

// Terms that are added up before the next sum begins (BLOCK of lbp/rounding/sums.py): long sums round less.
constexpr Index kBlock = 512;

// The products of one row of W with a center and of its magnitudes with a radius.
template <typename T>
void row_products(Index size, const T* __restrict weight, const T* __restrict center, const T* __restrict radius,
                  T& at_center, T& spread) {
  at_center = spread = T(0);
  for (Index begin = 0; begin < size; begin += kBlock) {
    const Index end = minimum(size, begin + kBlock);
    T product = 0, magnitude = 0;
#pragma omp simd reduction(+ : product, magnitude)
    for (Index i = begin; i < end; ++i) {
      product += weight[i] * center[i];
      magnitude += absolute(weight[i]) * radius[i];
    }
    at_center += product;
    spread += magnitude;
  }
}

// An infinite bound of a sum that has overflowed is none.
template <typename T>
void store_ends(T center, T radius, bool outward, T& lower, T& upper) {
  const T low = center - radius, high = center + radius, infinity = T(HUGE_VAL);
  lower = outward & (low == infinity) ? quiet_nan<T>() : low;
  upper = outward & (high == -infinity) ? quiet_nan<T>() : high;
}

}  // namespace

template <typename T>
void interval_linear(const IntervalLinearArguments<T>& args) {
  parallel_for(args.outputs, args.inputs * args.batch, [&](Index first, Index last) {
    for (Index row = first; row < last; ++row) {
      const T* weight = args.weight + row * args.inputs;
      const T bias = args.bias == nullptr ? T(0) : args.bias[row];
      const T margin = args.margin == nullptr ? T(0) : args.margin[row];
      // The row stays in the cache for the examples after the first.
      for (Index image = 0; image < args.batch; ++image) {
        T at_center, spread;
        row_products(args.inputs, weight, args.center + image * args.inputs, args.radius + image * args.inputs,
                     at_center, spread);
        const Index out = image * args.outputs + row;
        store_ends(at_center + bias, spread + margin, args.margin != nullptr, args.lower[out], args.upper[out]);
      }
    }
  });
}

template <typename T>
void split_interval(const SplitIntervalArguments<T>& args) {
  const T relative = args.relative, absolute_part = args.absolute;
  parallel_for(quotient_up(args.count, kTile), 4 * kTile, [&](Index first, Index last) {
    const Index begin = first * kTile, size = minimum(args.count, last * kTile) - begin;
    const T* __restrict l = args.l + begin;
    const T* __restrict u = args.u + begin;
    T* __restrict center = args.center + begin;
    T* __restrict radius = args.radius + begin;
    if (relative == T(0)) {
      for (Index i = 0; i < size; ++i) {
        center[i] = (u[i] + l[i]) / 2;
        radius[i] = (u[i] - l[i]) / 2;
      }
    } else {
      for (Index i = 0; i < size; ++i) {
        const T middle = (u[i] + l[i]) / 2, half = (u[i] - l[i]) / 2;
        center[i] = middle;
        radius[i] = half + ((absolute(middle) + half) * relative + absolute_part);
      }
    }
  });
}

template <typename T>
void join_interval(const JoinIntervalArguments<T>& args) {
  parallel_for(quotient_up(args.count, kTile), 4 * kTile, [&](Index first, Index last) {
    const Index begin = first * kTile, size = minimum(args.count, last * kTile) - begin;
    const T* __restrict center = args.center + begin;
    const T* __restrict radius = args.radius + begin;
    T* __restrict lower = args.lower + begin;
    T* __restrict upper = args.upper + begin;
    const bool outward = args.outward;
    for (Index i = 0; i < size; ++i) store_ends(center[i], radius[i], outward, lower[i], upper[i]);
  });
}

#define LBP_INSTANTIATE(T)                                          \
  template void interval_linear(const IntervalLinearArguments<T>&); \
  template void split_interval(const SplitIntervalArguments<T>&);   \
  template void join_interval(const JoinIntervalArguments<T>&);

LBP_INSTANTIATE(float)
LBP_INSTANTIATE(double)

}  // namespace lbp::LBP_ISA
