// Sums in a fixed order: over the lanes of a warp, and in a second launch over what blocks left in the workspace.
#pragma once

#include "cuda/kernels/tile.cuh"

#if !defined(__CUDACC_RTC__)
#include <cmath>
#endif

namespace lbp::cuda {

LBP_DEVICE int lane() { return int(threadIdx.x) % kLanes; }
LBP_DEVICE int warp() { return int(threadIdx.x) / kLanes; }

LBP_DEVICE double from_lane_xor(double value, int step) { return __shfl_xor_sync(kAllLanes, value, step); }
LBP_DEVICE long long from_lane_xor(long long value, int step) { return __shfl_xor_sync(kAllLanes, value, step); }

struct Sum {
  template <typename T>
  LBP_DEVICE T operator()(T a, T b) const {
    return a + b;
  }
};

// sum + a b in float64 of numbers that have the type T. That of float32 numbers is exact, so that to round it or not is
// the same.
template <typename T>
LBP_DEVICE double plus_product(double sum, double a, double b) {
  if constexpr (sizeof(T) == sizeof(float)) {
    return ::fma(a, b, sum);
  } else {
    return sum + a * b;
  }
}

// How many of `count` a loop takes at a time, at most kMost, so that its rounds are of about the same size: nine rows
// as three and three rather than eight and one, whose read nothing would hide.
template <int kMost>
LBP_DEVICE int even_share(int count) {
  const int rounds = (count + kMost - 1) / kMost;
  return rounds > 0 ? (count + rounds - 1) / rounds : 1;
}

// Combines each of kCount values over the warp. Lane i returns value number i / (32 / kCount).
//
// Lanes hand over half of their values in every step, so that kCount values take kCount - 1 exchanges and a few more
// rather than five each.
template <int kCount, typename Value, typename Combine>
LBP_DEVICE Value reduce_group(Value (&values)[kCount], const Combine& combine) {
  static_assert(kCount > 0 && kCount <= kLanes && (kCount & (kCount - 1)) == 0, "a power of two");
#pragma unroll
  for (int half = kCount / 2, step = kLanes / 2; half > 0; half /= 2, step /= 2) {
    const bool high = (lane() & step) != 0;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const Value kept = high ? values[i + half] : values[i], given = high ? values[i] : values[i + half];
      values[i] = combine(kept, from_lane_xor(given, step));
    }
  }
#pragma unroll
  for (int step = kLanes / kCount / 2; step > 0; step /= 2)
    values[0] = combine(values[0], from_lane_xor(values[0], step));
  return values[0];
}

// Whether this lane returns value `number` of reduce_group.
template <int kCount>
LBP_DEVICE bool holds_group_value(int& number) {
  number = lane() / (kLanes / kCount);
  return lane() % (kLanes / kCount) == 0;
}

// out[i] = sum of in[i, 0 ... count - 1]; a warp for every i.
template <typename T>
struct SumRowsArguments {
  const T* in;
  T* out;
  Index rows, count;
};

template <typename T>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 4) sum_rows_kernel(const SumRowsArguments<T> args) {
  const Index row = Index(blockIdx.x) * kWarps + warp();
  if (row >= args.rows) return;
  T sum[1] = {T(0)};
#pragma unroll 8
  for (Index i = lane(); i < args.count; i += kLanes) sum[0] += read(args.in + row * args.count + i);
  const T total = reduce_group(sum, Sum());
  if (lane() == 0) args.out[row] = total;
}

// out[i] = sum of in[0 ... count - 1, i]; a thread for every i.
template <typename T>
struct SumColumnsArguments {
  const T* in;
  T* out;
  Index columns, count;
};

template <typename T>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 4) sum_columns_kernel(const SumColumnsArguments<T> args) {
  const Index column = Index(blockIdx.x) * kThreads + threadIdx.x;
  if (column >= args.columns) return;
  T sum = T(0);
#pragma unroll 8
  for (Index i = 0; i < args.count; ++i) sum += read(args.in + i * args.columns + column);
  args.out[column] = sum;
}

}  // namespace lbp::cuda
