// Centers and radii through a Linear layer, W center and |W| radius from one read of W: intervals, and the forward
// linear bounds of LBP.
#pragma once

#include "cuda/kernels/reduce.cuh"
#include "cuda/kernels/tile_product.cuh"
#include "product_arguments.h"

namespace lbp::cuda {

// The left operand has a row for every example or row of a matrix, followed (forward bounds) by the rows of the biases.
template <typename T, bool kInterval>
struct LinearProduct {
  using Scalar = T;
  static constexpr Pairing kPairing = Pairing::kLeftPair;
  static constexpr bool kLeftAlongDepth = true, kRightAlongDepth = true, kConstants = false, kFewRows = true,
                        kFewColumns = false, kRowsInPacks = false;
  struct Stage {};
  using LeftLoad = Pair<T>;
  struct LeftState {
    const T* first;   // null outside the product
    const T* second;  // or where the radius is zero
  };
  using RightState = const T*;

  Index batches, rows, columns, depth;
  Index matrix_rows;
  const T* first;  // l, or the center
  const T* second;
  const T* first_bias;
  const T* second_bias;
  const T* weight;
  const T* bias;
  T* first_out;  // lower, or the center
  T* second_out;
  T* first_bias_out;
  T* second_bias_out;
  Widening<T> by = {};
  const T* margin = nullptr;  // of intervals that are rounded outward
  const T* margin_of_example = nullptr;

  LBP_DEVICE const LinearProduct& view(Index) const { return *this; }

  LBP_DEVICE LeftState left(Index row, Index begin) const {
    if (row >= rows) return {nullptr, nullptr};
    const bool matrix = row < matrix_rows;
    const Index at = (matrix ? row : row - matrix_rows) * depth + begin;
    const T* radius = matrix ? second : second_bias;
    return {(matrix ? first : first_bias) + at, radius == nullptr ? nullptr : radius + at};
  }
  LBP_DEVICE RightState right(Index column, Index begin) const {
    return column < columns ? weight + column * depth + begin : nullptr;
  }

  LBP_DEVICE void prepare(Stage&, Index, int, int) const {}

  template <int kCount>
  LBP_DEVICE void load_left(const LeftState& state, const Stage&, const Step& step, LeftLoad (&loads)[kCount]) const {
    load_rows(state.first, state.second, step, loads);
  }

  LBP_DEVICE Pair<T> left_values(const LeftLoad& load, const LeftState&, const Stage&, int, double&) const {
    if constexpr (kInterval) {
      return center_and_radius(load.first, load.second, by);
    } else {
      return load;
    }
  }

  template <int kCount>
  LBP_DEVICE void load_right(RightState row, const Stage&, const Step& step, Pair<T> (&loads)[kCount]) const {
    load_rows<kCount, T>(row, nullptr, step, loads);
  }

  struct OutputRow {
    const LinearProduct& of;
    T* first;
    T* second;    // or null
    bool matrix;  // not of the biases
    T margin_of_example;

    LBP_DEVICE void store(Index column, T center, T radius) const {
      const T offset = of.bias == nullptr ? T(0) : of.bias[column];
      if constexpr (kInterval) {
        const bool outward = of.margin != nullptr;
        if (outward) radius += of.margin[column];
        if (of.margin_of_example != nullptr) radius += margin_of_example;
        first[column] = lower_end(center + offset, radius, outward);
        second[column] = upper_end(center + offset, radius, outward);
      } else {
        first[column] = matrix ? center : center + offset;
        if (second != nullptr) second[column] = radius;
      }
    }
  };
  LBP_DEVICE OutputRow output(Index row) const {
    const bool matrix = row < matrix_rows;
    const Index at = (matrix ? row : row - matrix_rows) * columns;
    T* const radius_out = matrix ? second_out : second_bias_out;
    return {*this, (matrix ? first_out : first_bias_out) + at, radius_out == nullptr ? nullptr : radius_out + at,
            matrix, margin_of_example == nullptr ? T(0) : margin_of_example[row]};
  }
  LBP_DEVICE void store_constant(Index, double) const {}
};

// For so few examples reading W is the cost of an interval: the products of a vector of W are added up as it arrives.
constexpr int kFewExamples = 4;
constexpr int kFewOutputs = 4;  // a block adds up kFewOutputs rows of W

template <typename T, int kExamples, bool kVectors>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 1) interval_linear_kernel(const IntervalLinearProductArguments<T> args) {
  constexpr int kLength = kVectors ? 16 / int(sizeof(T)) : 1;
  constexpr int kSums = 2 * kFewOutputs * kExamples;
  struct alignas(kLength * sizeof(T)) Vector {
    T lanes[kLength];
  };
  const Index inputs = args.layer.inputs, outputs = args.layer.outputs;
  const Index first = Index(blockIdx.x) * kFewOutputs;
  const int thread = int(threadIdx.x);
  T sums[kFewOutputs][kExamples][2] = {};

  for (Index k = Index(thread) * kLength; k < inputs; k += kThreads * kLength) {
    Vector weight[kFewOutputs];
#pragma unroll
    for (int i = 0; i < kFewOutputs; ++i) {
      // Rows beyond the last one repeat it; their sums are not stored.
      const Index row = first + i < outputs ? first + i : outputs - 1;
      weight[i] = *reinterpret_cast<const Vector*>(args.layer.weight + row * inputs + k);
    }
#pragma unroll
    for (int example = 0; example < kExamples; ++example) {
      const Vector l = *reinterpret_cast<const Vector*>(args.l + example * inputs + k);
      const Vector u = *reinterpret_cast<const Vector*>(args.u + example * inputs + k);
#pragma unroll
      for (int lane = 0; lane < kLength; ++lane) {
        const Pair<T> x = center_and_radius(l.lanes[lane], u.lanes[lane], args.by);
#pragma unroll
        for (int i = 0; i < kFewOutputs; ++i) {
          const T w = weight[i].lanes[lane];
          sums[i][example][0] = multiply_add(w, x.first, sums[i][example][0]);
          sums[i][example][1] = multiply_add(absolute(w), x.second, sums[i][example][1]);
        }
      }
    }
  }

  LBP_SHARED(T, parts, kWarps * kSums);
#pragma unroll
  for (int i = 0; i < kSums; ++i) {
    T sum = sums[i / (2 * kExamples)][i / 2 % kExamples][i % 2];
#pragma unroll
    for (int step = kLanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
    if (lane() == 0) parts[warp() * kSums + i] = sum;
  }
  __syncthreads();
  const Index output = first + thread / kExamples;
  const int example = thread % kExamples;
  if (thread >= kSums / 2 || output >= outputs) return;
  T center = 0, radius = 0;
  for (int warp = 0; warp < kWarps; ++warp) {
    center += parts[warp * kSums + 2 * thread];
    radius += parts[warp * kSums + 2 * thread + 1];
  }
  if (args.layer.bias != nullptr) center += args.layer.bias[output];
  const bool outward = args.margin != nullptr;
  if (outward) radius += args.margin[output];
  if (args.margin_of_example != nullptr) radius += args.margin_of_example[example];
  args.lower[example * outputs + output] = lower_end(center, radius, outward);
  args.upper[example * outputs + output] = upper_end(center, radius, outward);
}

}  // namespace lbp::cuda
