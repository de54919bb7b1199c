// ParamRamp, its image of an interval with the count of the statuses, and their gradients.
//
// Rows are images: a thread reads the bending points of its neurons once.
#pragma once

#include "cuda/kernels/reduce.cuh"

namespace lbp::cuda {

// Rows that are read before the first of them is used.
constexpr int kRampRows = 4;

// A thread's neurons with their bending points, once these are loaded.
template <typename T, bool kAligned>
struct RampNeurons {
  Own<T, kAligned> own;
  Pack<T> r;
  T eta;

  template <typename Arguments>
  LBP_DEVICE RampNeurons(const Arguments& op, const Tiling& tiling) : own(tiling.tile(), op.neurons) {}

  template <typename Arguments>
  LBP_DEVICE void load(const Arguments& op) {
    r = load_per_neuron(op.r, own);
    eta = load_eta(op.eta, op.eta_data);
  }

  // Replaces the gradients of a row's images by those of its numbers z, and adds to the gradients by r.
  LBP_DEVICE void replace_by_gradient(const Pack<T>& z, Pack<T>& gradient, Pack<T>& r_sum) const {
#pragma unroll
    for (int i = 0; i < kOwn<T>; ++i) {
      r_sum[i] += gradient[i] * ramp_slope_in_r(z[i], r[i], eta);
      gradient[i] *= ramp_slope(z[i], r[i], eta);
    }
  }
};

template <typename T>
struct RampLaunch {
  RampArguments<T> op;
  Tiling tiling;
};

template <typename T, bool kAligned>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 3) ramp_kernel(const RampLaunch<T> args) {
  RampNeurons<T, kAligned> x(args.op, args.tiling);
  Pack<T> z[kRampRows];
  for_rows<kRampRows>(
      args.tiling.first_row(), args.tiling.last_row(),
      [&](int k, Index row) { z[k] = x.own.load(args.op.z + row * x.own.neurons); }, [&] { x.load(args.op); },
      [&](int k, Index row) {
#pragma unroll
        for (int i = 0; i < kOwn<T>; ++i) z[k][i] = lbp::ramp(z[k][i], x.r[i], x.eta);
        x.own.store(args.op.out + row * x.own.neurons, z[k]);
      });
}

template <typename T>
struct RampGradientLaunch {
  RampGradientArguments<T> op;
  Tiling tiling;
  T* r_sums;  // [pieces, n] or null
};

template <typename T, bool kAligned>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 2) ramp_gradient_kernel(const RampGradientLaunch<T> args) {
  RampNeurons<T, kAligned> x(args.op, args.tiling);
  Pack<T> z[kRampRows], gradient[kRampRows], r_sum = {};
  for_rows<kRampRows>(
      args.tiling.first_row(), args.tiling.last_row(),
      [&](int k, Index row) {
        z[k] = x.own.load(args.op.z + row * x.own.neurons);
        gradient[k] = x.own.load(args.op.out_gradient + row * x.own.neurons);
      },
      [&] { x.load(args.op); },
      [&](int k, Index row) {
        x.replace_by_gradient(z[k], gradient[k], r_sum);
        x.own.store_if(args.op.z_gradient, row * x.own.neurons, gradient[k]);
      });
  x.own.store_if(args.r_sums, args.tiling.piece() * x.own.neurons, r_sum);
}

template <typename T>
struct RampIntervalLaunch {
  RampIntervalArguments<T> op;
  Tiling tiling;
  Index* counts;  // [6, blocks] or null
};

// A thread counts each status in a byte of its own.
constexpr int kMostCounted = 255;

// Adds up the threads' counts: counts[status, block]. `warp_counts` is [6, kWarpsOfBlock] in shared memory.
template <int kWarpsOfBlock>
LBP_DEVICE void store_counts(unsigned long long own_counts, Index* warp_counts, Index* counts) {
#pragma unroll
  for (int status = 0; status < 6; ++status) {
    Index count[1] = {Index(own_counts >> (8 * status) & 0xff)};
    const Index total = reduce_group(count, Sum());
    if (lane() == 0) warp_counts[status * kWarpsOfBlock + warp()] = total;
  }
  __syncthreads();
  if (threadIdx.x < 6) {
    Index total = 0;
    for (int i = 0; i < kWarpsOfBlock; ++i) total += warp_counts[threadIdx.x * kWarpsOfBlock + i];
    counts[Index(threadIdx.x) * gridDim.x + blockIdx.x] = total;
  }
}

template <typename T, bool kAligned, bool kCount>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 3) ramp_interval_kernel(const RampIntervalLaunch<T> args) {
  constexpr int kRows = kRampRows / 2;
  RampNeurons<T, kAligned> x(args.op, args.tiling);
  unsigned long long counts = 0;
  Pack<T> l[kRows], u[kRows];
  for_rows<kRows>(
      args.tiling.first_row(), args.tiling.last_row(),
      [&](int k, Index row) {
        l[k] = x.own.load(args.op.l + row * x.own.neurons);
        u[k] = x.own.load(args.op.u + row * x.own.neurons);
      },
      [&] { x.load(args.op); },
      [&](int k, Index row) {
#pragma unroll
        for (int i = 0; i < kOwn<T>; ++i) {
          if (kCount && x.own.has(i)) counts += 1ull << (8 * neuron_status(l[k][i], u[k][i], x.r[i]));
          l[k][i] = lbp::ramp(l[k][i], x.r[i], x.eta);
          u[k][i] = lbp::ramp(u[k][i], x.r[i], x.eta);
        }
        x.own.store(args.op.lower + row * x.own.neurons, l[k]);
        x.own.store(args.op.upper + row * x.own.neurons, u[k]);
      });
  if constexpr (kCount) {
    LBP_SHARED(Index, warp_counts, 6 * kWarps);
    store_counts<kWarps>(counts, warp_counts, args.counts);
  }
}

template <typename T>
struct RampIntervalGradientLaunch {
  RampIntervalGradientArguments<T> op;
  Tiling tiling;
  T* r_sums;  // [pieces, n] or null
};

template <typename T, bool kAligned>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 3) ramp_interval_gradient_kernel(const RampIntervalGradientLaunch<T> args) {
  RampNeurons<T, kAligned> x(args.op, args.tiling);
  x.load(args.op);
  const Index end = args.tiling.last_row();
  Pack<T> r_sum = {};
  for (Index row = args.tiling.first_row(); row < end; ++row) {
    const Index at = row * x.own.neurons;
    const Pack<T> l = x.own.load(args.op.l + at), u = x.own.load(args.op.u + at);
    Pack<T> lower = x.own.load(args.op.lower_gradient + at), upper = x.own.load(args.op.upper_gradient + at);
    x.replace_by_gradient(l, lower, r_sum);
    x.replace_by_gradient(u, upper, r_sum);
    x.own.store(args.op.l_gradient + at, lower);
    x.own.store(args.op.u_gradient + at, upper);
  }
  x.own.store_if(args.r_sums, args.tiling.piece() * x.own.neurons, r_sum);
}

}  // namespace lbp::cuda
