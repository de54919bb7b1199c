// Gradients of ramp.cuh for small layers by bending points that the images share, and the count of few statuses: each
// in one launch.
#pragma once

#include "cuda/kernels/lines.cuh"
#include "cuda/kernels/ramp.cuh"
#include "cuda/kernels/strips.cuh"

namespace lbp::cuda {

// Rows are images.
template <typename Arguments>
struct RampStripsLaunch {
  Arguments op;
  Strips strips;
};

// Adds up what add(at, r, eta, sum) adds for the thread's neuron in its images, at number `at` of [B, n].
template <typename T, typename Arguments, typename Add>
LBP_DEVICE void add_up_images(const RampStripsLaunch<Arguments>& args, const Add& add) {
  LBP_SHARED(T, shared, kThreads);
  const Arguments& op = args.op;
  const Strips& strips = args.strips;
  const Index neuron = strips.neuron();
  const bool inside = neuron < op.neurons;
  T sum = T(0);
  if (inside) {
    const T r = load_per_neuron(op.r, neuron), eta = load_eta(op.eta, op.eta_data);
#pragma unroll 4
    for (Index row = strips.group(); row < strips.rows; row += strips.groups()) {
      add(row * op.neurons + neuron, r, eta, sum);
    }
  }
  sum = combine_groups(sum, strips.width, shared, Sum());
  if (inside && strips.group() == 0) op.r_gradient[neuron] = sum;
}

template <typename T>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 2)
    ramp_gradient_strips_kernel(const RampStripsLaunch<RampGradientArguments<T>> args) {
  const RampGradientArguments<T>& op = args.op;
  add_up_images<T>(args, [&](Index at, T r, T eta, T& sum) {
    const T z = read(op.z + at), gradient = read(op.out_gradient + at);
    sum += gradient * ramp_slope_in_r(z, r, eta);
    if (op.z_gradient != nullptr) op.z_gradient[at] = gradient * ramp_slope(z, r, eta);
  });
}

template <typename T>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 2)
    ramp_interval_gradient_strips_kernel(const RampStripsLaunch<RampIntervalGradientArguments<T>> args) {
  const RampIntervalGradientArguments<T>& op = args.op;
  add_up_images<T>(args, [&](Index at, T r, T eta, T& sum) {
    const T l = read(op.l + at), u = read(op.u + at);
    const T to_lower = read(op.lower_gradient + at), to_upper = read(op.upper_gradient + at);
    sum += to_lower * ramp_slope_in_r(l, r, eta);
    sum += to_upper * ramp_slope_in_r(u, r, eta);
    op.l_gradient[at] = to_lower * ramp_slope(l, r, eta);
    op.u_gradient[at] = to_upper * ramp_slope(u, r, eta);
  });
}

// One block for all neurons of all images, of which each of its threads has at most kMostCounted.
constexpr int kCountThreads = 1024;

template <typename T>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(1024, 1) ramp_interval_count_kernel(const RampIntervalArguments<T> op) {
  LBP_SHARED(Index, warp_counts, 6 * kCountThreads / kLanes);
  const Index size = op.batch * op.neurons;
  const T eta = load_eta(op.eta, op.eta_data);
  unsigned long long counts = 0;
#pragma unroll 4
  for (Index at = threadIdx.x; at < size; at += kCountThreads) {
    const T l = read(op.l + at), u = read(op.u + at),
            r = load_per_neuron(op.r, at - quotient(at, op.neurons) * op.neurons);
    counts += 1ull << (8 * neuron_status(l, u, r));
    op.lower[at] = lbp::ramp(l, r, eta);
    op.upper[at] = lbp::ramp(u, r, eta);
  }
  store_counts<kCountThreads / kLanes>(counts, warp_counts, op.counts);
}

}  // namespace lbp::cuda
