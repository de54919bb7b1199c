// What stands around the library's products where those take an interval through a layer: centers and radii of the
// bounds, and bounds of the products. Numbers are taken in packs, as one long row.
#pragma once

#include "cuda/kernels/product_tile.cuh"
#include "cuda/kernels/tile.cuh"

namespace lbp::cuda {

template <typename T, bool kAligned>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 4) split_interval_kernel(const SplitIntervalArguments<T> args) {
  const Own<T, kAligned> own(blockIdx.x, args.count);
  Pack<T> first = own.load(args.l), second = own.load(args.u);
#pragma unroll
  for (int i = 0; i < kOwn<T>; ++i) {
    const Pair<T> x = center_and_radius(first[i], second[i], args.by);
    first[i] = x.first;
    second[i] = x.second;
  }
  own.store(args.center, first);
  own.store(args.radius, second);
}

template <typename T, bool kAligned>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 4) join_interval_kernel(const JoinIntervalArguments<T> args) {
  const Own<T, kAligned> own(blockIdx.x, args.count);
  Pack<T> first = own.load(args.center), second = own.load(args.radius);
#pragma unroll
  for (int i = 0; i < kOwn<T>; ++i) {
    const T center = first[i], radius = second[i];
    first[i] = lower_end(center, radius, args.outward);
    second[i] = upper_end(center, radius, args.outward);
  }
  own.store(args.lower, first);
  own.store(args.upper, second);
}

}  // namespace lbp::cuda
