// float32 products on tensor cores, which multiply numbers of eleven significant bits: every operand is split into two
// such numbers, x = high + low, and x y = high high + high low + low high. What is left out, low low and the last bit
// of low, is of the order of 2^-23 of the product, the rounding of a float32 sum.
#pragma once

#include "cuda/runtime.cuh"
#include "math/config.h"

#if !defined(__CUDACC__)
#include <cmath>
#include <cstring>
#endif

namespace lbp::cuda {

LBP_DEVICE unsigned bits_of(float x) {
#if defined(__CUDACC__)
  return __float_as_uint(x);
#else
  unsigned bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
#endif
}

LBP_DEVICE float float_of(unsigned bits) {
#if defined(__CUDACC__)
  return __uint_as_float(bits);
#else
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
#endif
}

// The nearest number with ten bits of fraction, ties away from zero: what cvt.rna.tf32.f32 gives for finite x, in
// integer operations, so that every compiler makes the same bits of it.
LBP_DEVICE float round_to_tf32(float x) { return float_of((bits_of(x) + 0x1000u) & 0xffffe000u); }

struct SplitFloat {
  float high, low;
};

// The parts of x, or of |x|. x - high is exact: it is at most half a unit of high's last place.
template <bool kMagnitude = false>
LBP_DEVICE SplitFloat split(float x) {
  if (kMagnitude) x = float_of(bits_of(x) & 0x7fffffffu);
  const float high = round_to_tf32(x);
  return {high, round_to_tf32(x - high)};
}

// Whether x is 0 or 2^-50 <= |x| < 2^60. No part of a product of two such numbers, and no sum of 2^7 products, leaves
// the normal range of float32; infinities and NaN are no such numbers. Other operands take the path without splitting.
LBP_DEVICE bool may_split(float x) {
  const unsigned exponent = (bits_of(x) >> 23) & 0xffu;
  return (x == 0.0f) | (exponent - (127u - 50u) < 110u);
}

#if !defined(__CUDACC__)
// A tensor core adds up by aligning the addends to the largest of them, cutting off what falls below its last place,
// and cutting the sum to float32: the coarsest arithmetic that has been observed on any, without guard bits.
inline float sum_by_alignment(float c, const double (&products)[4]) {
  double largest = std::fabs(double(c));
  for (const double product : products) largest = std::fmax(largest, std::fabs(product));
  if (largest == 0) return 0;
  const double quantum = std::ldexp(1.0, std::ilogb(largest) - 23);
  double sum = std::trunc(double(c) / quantum);
  for (const double product : products) sum += std::trunc(product / quantum);
  sum *= quantum;
  const float nearest = float(sum);
  return std::fabs(double(nearest)) > std::fabs(sum) ? std::nextafterf(nearest, 0.0f) : nearest;
}
#endif

// Whether the device that is compiled for multiplies TF32 numbers.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
constexpr bool kHasTf32 = false;
#else
constexpr bool kHasTf32 = true;
#endif

// c += a b for a warp's tile of 16 x 8 numbers, 8 deep. Each lane holds, with g = lane / 4 and t = lane % 4,
//   a: (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4)    b: (t, g), (t + 4, g)
//   c: (g, 2 t), (g, 2 t + 1), (g + 8, 2 t), (g + 8, 2 t + 1)
// as mma.sync.m16n8k8 lays its fragments out. Under emulation a model of the instruction takes its place.
LBP_DEVICE void multiply_tf32(float (&c)[4], const float (&a)[4], const float (&b)[2]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, "
      "%2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(bits_of(a[0])), "r"(bits_of(a[1])), "r"(bits_of(a[2])), "r"(bits_of(a[3])), "r"(bits_of(b[0])),
        "r"(bits_of(b[1])));
#elif defined(__CUDACC__)
  // Devices without the instruction never come here (kHasTf32); no number that could pass for a bound.
  for (float& sum : c) sum = quiet_nan<float>();
#else
  // Every lane writes its fragments where the whole warp can read them.
  struct Operands {
    float a[32][4], b[32][2];
  };
  static Operands warps[32];
  const int lane = int(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
  Operands& operands = warps[threadIdx.x / 32];
  for (int i = 0; i < 4; ++i) operands.a[lane][i] = a[i];
  for (int i = 0; i < 2; ++i) operands.b[lane][i] = b[i];
  __syncwarp();
  for (int half = 0; half < 2; ++half) {
    for (int i = 0; i < 4; ++i) {
      double products[4];
      for (int k = 0; k < 4; ++k) {
        const float row = operands.a[4 * g + k][2 * half + i / 2];
        const float column = operands.b[4 * (2 * t + i % 2) + k][half];
        products[k] = double(row) * double(column);
      }
      c[i] = sum_by_alignment(c[i], products);
    }
  }
  __syncwarp();
#endif
}

// high + low += x y in three products; the small ones have sums of their own, where less is cut off.
LBP_DEVICE void multiply_split(float (&high)[4], float (&low)[4], const SplitFloat (&x)[4], const SplitFloat (&y)[2]) {
  const float x_high[4] = {x[0].high, x[1].high, x[2].high, x[3].high};
  const float x_low[4] = {x[0].low, x[1].low, x[2].low, x[3].low};
  const float y_high[2] = {y[0].high, y[1].high}, y_low[2] = {y[0].low, y[1].low};
  multiply_tf32(low, x_low, y_high);
  multiply_tf32(low, x_high, y_low);
  multiply_tf32(high, x_high, y_high);
}

}  // namespace lbp::cuda
