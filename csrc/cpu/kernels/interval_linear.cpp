#include "cpu/kernels/table.h"
#include "cpu/kernels/tile.h"

namespace lbp::LBP_ISA {
namespace {

// The products of one row of W with a center and of its magnitudes with a radius.
template <typename T>
void row_products(Index size, const T* __restrict weight, const T* __restrict center, const T* __restrict radius,
                  T& at_center, T& spread) {
  T product = 0, magnitude = 0;
#pragma omp simd reduction(+ : product, magnitude)
  for (Index i = 0; i < size; ++i) {
    product += weight[i] * center[i];
    magnitude += absolute(weight[i]) * radius[i];
  }
  at_center = product;
  spread = magnitude;
}

}  // namespace

template <typename T>
void interval_linear(const IntervalLinearArguments<T>& args) {
  parallel_for(args.outputs, args.inputs * args.batch, [&](Index first, Index last) {
    for (Index row = first; row < last; ++row) {
      const T* weight = args.weight + row * args.inputs;
      const T bias = args.bias == nullptr ? T(0) : args.bias[row];
      // The row stays in the cache for the examples after the first.
      for (Index image = 0; image < args.batch; ++image) {
        T at_center, spread;
        row_products(args.inputs, weight, args.center + image * args.inputs, args.radius + image * args.inputs,
                     at_center, spread);
        args.lower[image * args.outputs + row] = (at_center + bias) - spread;
        args.upper[image * args.outputs + row] = (at_center + bias) + spread;
      }
    }
  });
}

#define LBP_INSTANTIATE(T) template void interval_linear(const IntervalLinearArguments<T>&);

LBP_INSTANTIATE(float)
LBP_INSTANTIATE(double)

}  // namespace lbp::LBP_ISA
