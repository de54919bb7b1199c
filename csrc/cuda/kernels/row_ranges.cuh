// Finds the range of rows that each source, and each image, of windowed coefficients has: see source_gradients.cuh.
#pragma once

#include "cuda/kernels/source_gradients.cuh"

namespace lbp::cuda {

// No rows: a thread for every source and image.
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 4) empty_row_ranges_kernel(const RowRangesLaunch args) {
  const Index number = Index(blockIdx.x) * kThreads + threadIdx.x;
  if (number >= args.sources + args.images) return;
  args.out.first[number] = args.rows;
  args.out.last[number] = -1;
}

// A thread for every row; minima and maxima do not depend on the order.
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 4) row_ranges_kernel(const RowRangesLaunch args) {
  const Index row = Index(blockIdx.x) * kThreads + threadIdx.x;
  if (row >= args.rows) return;
  const auto add = [&](Index number) {
    atomicMin(args.out.first + number, row);
    atomicMax(args.out.last + number, row);
  };
  const Index source = read(&args.where[row].source), image = read(&args.where[row].image);
  if (source >= 0 && source < args.sources) add(source);
  if (image >= 0 && image < args.images) add(args.sources + image);
}

}  // namespace lbp::cuda
