// ParamRamp, its image of an interval with the count of the statuses, and their gradients.
//
// Rows are images: a thread reads the bending points of its neurons once.
#pragma once

#include "cuda/kernels/reduce.cuh"

namespace lbp::cuda {

// Rows that are read before the first of them is used.
constexpr int kRampRows = 4;

template <typename T>
struct RampLaunch {
  RampArguments<T> op;
  Tiling tiling;
};

template <typename T, bool kAligned>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 3) ramp_kernel(const RampLaunch<T> args) {
  const Own<T, kAligned> own(args.tiling.tile(), args.op.neurons);
  const Pack<T> r = load_per_neuron(args.op.r, own);
  const T eta = load_eta(args.op.eta, args.op.eta_data);
  const Index end = args.tiling.last_row();
  for (Index first = args.tiling.first_row(); first < end; first += kRampRows) {
    Pack<T> z[kRampRows];
#pragma unroll
    for (int k = 0; k < kRampRows; ++k) {
      if (first + k < end) z[k] = own.load(args.op.z + (first + k) * own.neurons);
    }
#pragma unroll
    for (int k = 0; k < kRampRows; ++k) {
      if (first + k >= end) break;
#pragma unroll
      for (int i = 0; i < kOwn<T>; ++i) z[k][i] = lbp::ramp(z[k][i], r[i], eta);
      own.store(args.op.out + (first + k) * own.neurons, z[k]);
    }
  }
}

template <typename T>
struct RampGradientLaunch {
  RampGradientArguments<T> op;
  Tiling tiling;
  T* r_sums;  // [pieces, n] or null
};

template <typename T, bool kAligned>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 2) ramp_gradient_kernel(const RampGradientLaunch<T> args) {
  const Own<T, kAligned> own(args.tiling.tile(), args.op.neurons);
  const Pack<T> r = load_per_neuron(args.op.r, own);
  const T eta = load_eta(args.op.eta, args.op.eta_data);
  const Index end = args.tiling.last_row();
  Pack<T> r_sum = {};
  for (Index first = args.tiling.first_row(); first < end; first += kRampRows) {
    Pack<T> z[kRampRows], gradient[kRampRows];
#pragma unroll
    for (int k = 0; k < kRampRows; ++k) {
      if (first + k >= end) break;
      z[k] = own.load(args.op.z + (first + k) * own.neurons);
      gradient[k] = own.load(args.op.out_gradient + (first + k) * own.neurons);
    }
#pragma unroll
    for (int k = 0; k < kRampRows; ++k) {
      if (first + k >= end) break;
#pragma unroll
      for (int i = 0; i < kOwn<T>; ++i) {
        r_sum[i] += gradient[k][i] * ramp_slope_in_r(z[k][i], r[i], eta);
        gradient[k][i] *= ramp_slope(z[k][i], r[i], eta);
      }
      if (args.op.z_gradient != nullptr) own.store(args.op.z_gradient + (first + k) * own.neurons, gradient[k]);
    }
  }
  if (args.r_sums != nullptr) own.store(args.r_sums + args.tiling.piece() * own.neurons, r_sum);
}

template <typename T>
struct RampIntervalLaunch {
  RampIntervalArguments<T> op;
  Tiling tiling;
  Index* counts;  // [6, blocks] or null
};

// A thread counts each status in a byte of its own.
constexpr int kMostCounted = 255;

// Adds up the threads' counts: counts[status, block].
LBP_DEVICE void store_counts(unsigned long long own_counts, Index* counts) {
  LBP_SHARED(Index, warp_counts, 6 * kWarps);
#pragma unroll
  for (int status = 0; status < 6; ++status) {
    Index count[1] = {Index(own_counts >> (8 * status) & 0xff)};
    const Index total = reduce_group(count, Sum());
    if (lane() == 0) warp_counts[status * kWarps + warp()] = total;
  }
  __syncthreads();
  if (threadIdx.x < 6) {
    Index total = 0;
    for (int i = 0; i < kWarps; ++i) total += warp_counts[threadIdx.x * kWarps + i];
    counts[Index(threadIdx.x) * gridDim.x + blockIdx.x] = total;
  }
}

template <typename T, bool kAligned, bool kCount>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 3) ramp_interval_kernel(const RampIntervalLaunch<T> args) {
  constexpr int kRows = kRampRows / 2;
  const Own<T, kAligned> own(args.tiling.tile(), args.op.neurons);
  const Pack<T> r = load_per_neuron(args.op.r, own);
  const T eta = load_eta(args.op.eta, args.op.eta_data);
  const Index end = args.tiling.last_row();
  unsigned long long counts = 0;
  for (Index first = args.tiling.first_row(); first < end; first += kRows) {
    Pack<T> l[kRows], u[kRows];
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      if (first + k >= end) break;
      l[k] = own.load(args.op.l + (first + k) * own.neurons);
      u[k] = own.load(args.op.u + (first + k) * own.neurons);
    }
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      if (first + k >= end) break;
#pragma unroll
      for (int i = 0; i < kOwn<T>; ++i) {
        if (kCount && own.has(i)) counts += 1ull << (8 * neuron_status(l[k][i], u[k][i], r[i]));
        l[k][i] = lbp::ramp(l[k][i], r[i], eta);
        u[k][i] = lbp::ramp(u[k][i], r[i], eta);
      }
      own.store(args.op.lower + (first + k) * own.neurons, l[k]);
      own.store(args.op.upper + (first + k) * own.neurons, u[k]);
    }
  }
  if constexpr (kCount) store_counts(counts, args.counts);
}

template <typename T>
struct RampIntervalGradientLaunch {
  RampIntervalGradientArguments<T> op;
  Tiling tiling;
  T* r_sums;  // [pieces, n] or null
};

template <typename T, bool kAligned>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 3) ramp_interval_gradient_kernel(const RampIntervalGradientLaunch<T> args) {
  const Own<T, kAligned> own(args.tiling.tile(), args.op.neurons);
  const Pack<T> r = load_per_neuron(args.op.r, own);
  const T eta = load_eta(args.op.eta, args.op.eta_data);
  const Index end = args.tiling.last_row();
  Pack<T> r_sum = {};
  for (Index row = args.tiling.first_row(); row < end; ++row) {
    const Index at = row * own.neurons;
    const Pack<T> l = own.load(args.op.l + at), u = own.load(args.op.u + at);
    Pack<T> lower = own.load(args.op.lower_gradient + at), upper = own.load(args.op.upper_gradient + at);
#pragma unroll
    for (int i = 0; i < kOwn<T>; ++i) {
      r_sum[i] += lower[i] * ramp_slope_in_r(l[i], r[i], eta) + upper[i] * ramp_slope_in_r(u[i], r[i], eta);
      lower[i] *= ramp_slope(l[i], r[i], eta);
      upper[i] *= ramp_slope(u[i], r[i], eta);
    }
    own.store(args.op.l_gradient + at, lower);
    own.store(args.op.u_gradient + at, upper);
  }
  if (args.r_sums != nullptr) own.store(args.r_sums + args.tiling.piece() * own.neurons, r_sum);
}

}  // namespace lbp::cuda
