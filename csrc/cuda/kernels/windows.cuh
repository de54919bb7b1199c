// Windowed coefficients: which warps work on a row, and where the numbers of its window stand in the layer.
//
// A row is the work of one warp, or of as many as its length pays for; both sides of a row share what they read of the
// layer. With channels last, a window's row of pixels is one run of numbers in A and in the layer.
#pragma once

#include "cuda/kernels/reduce.cuh"
#include "cuda/kernels/slot.cuh"
#include "window_arguments.h"

namespace lbp::cuda {

// A warp's row, and its place among the warps that share the row.
struct RowOfWarp {
  Index row;
  int part, parts;

  LBP_DEVICE explicit RowOfWarp(int warps_per_row)
      : row(Index(blockIdx.x) * (kWarps / warps_per_row) + warp() / warps_per_row),
        part(warp() % warps_per_row),
        parts(warps_per_row) {}
};

LBP_DEVICE WindowRow read_row(const WindowRow* row) {
  return {read(&row->source), read(&row->image), read(&row->top), read(&row->left)};
}

template <typename T>
LBP_HOST_DEVICE Index window_size(const RowWindows<T>& A) {
  return A.height * A.width * A.channels;
}

// Where a row of one side has its numbers.
template <typename T>
LBP_DEVICE const T* numbers_of(const RowWindows<T>& A, Index side, const WindowRow& row) {
  return A.data + side * A.side_stride + row.source * A.source_stride;
}

// Where a window begins among the numbers of its image, [h, w, C].
template <typename T>
LBP_DEVICE Index first_in_layer(const RowWindows<T>& A, const WindowRow& row) {
  return (row.top * A.layer_width + row.left) * A.channels;
}

// A window's numbers that a lane takes in one step of its warp.
template <typename T, bool kAligned>
struct WindowStep {
  Own<T, kAligned, kLanes> own;
  Index place[kAligned ? 1 : kOwn<T>];  // in the layer, from where the window begins

  LBP_DEVICE WindowStep(const RowWindows<T>& A, Index step) : own(step, window_size(A)) {
    const Index run = A.width * A.channels, gap = (A.layer_width - A.width) * A.channels;
#pragma unroll
    for (int i = 0; i < (kAligned ? 1 : kOwn<T>); ++i) {
      place[i] = own.has(i) ? own.at(i) + quotient(own.at(i), run) * gap : 0;
    }
  }

  // What the layer has under them, from `begin` on; where that is null, and beyond the window's end, `missing`.
  LBP_DEVICE Pack<T> under(const T* begin, T missing) const {
    if constexpr (kAligned) {
      if (begin != nullptr && own.has(0)) return read_pack(begin + place[0]);
    }
    Pack<T> pack;
#pragma unroll
    for (int i = 0; i < kOwn<T>; ++i) {
      pack[i] = !kAligned && begin != nullptr && own.has(i) ? read(begin + place[kAligned ? 0 : i]) : missing;
    }
    return pack;
  }
};

template <typename T>
LBP_HOST_DEVICE Index step_count(const RowWindows<T>& A) {
  return (window_size(A) + kLanes * kOwn<T> - 1) / (kLanes * kOwn<T>);
}

// The steps of a warp through its share of a window, kTogether at a time.
template <int kTogether, typename T, typename Body>
LBP_DEVICE void for_steps(const RowWindows<T>& A, const RowOfWarp& own, const Body& body) {
  const Index steps = step_count(A);
#pragma unroll kTogether
  for (Index step = own.part; step < steps; step += own.parts) body(step);
}

// Combines the two sides' sums of all lanes, then of all warps of a row, and calls store(side, sum) from one thread for
// each. All threads of the block take part, also those without a row; `warps` is [2, kWarps] in shared memory.
template <typename Value, typename Combine, typename Store>
LBP_DEVICE void reduce_rows(Value (&sums)[2], const RowOfWarp& own, const Combine& combine, Value* warps,
                            const Store& store) {
  const Value sum = reduce_group(sums, combine);
  int side = 0;
  if (holds_group_value<2>(side)) warps[side * kWarps + warp()] = sum;
  __syncthreads();
  if (own.part != 0 || lane() >= 2) return;
  Value total = warps[lane() * kWarps + warp()];
  for (int i = 1; i < own.parts; ++i) total = combine(total, warps[lane() * kWarps + warp() + i]);
  store(Index(lane()), total);
}

}  // namespace lbp::cuda
