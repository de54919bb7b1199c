// Finds the rows of every source and image for launchers of gradients on windows.
#pragma once

#include "cuda/kernels/source_gradients.cuh"
#include "cuda/stream.h"

namespace lbp::cuda {

// With so few rows it is quicker to read all.
constexpr Index kFewRows = 256;

// Room for the ranges, in bytes.
template <typename T>
Index row_ranges_bytes(const RowWindows<T>& A) {
  return A.rows <= kFewRows ? 0 : 2 * (A.sources + A.images) * Index(sizeof(Index));
}

// Enqueues what fills `ranges`.
Status find_row_ranges(const RowRangesLaunch& launch, Stream stream);

// Fills the ranges in a workspace of row_ranges_bytes.
template <typename T>
Status find_row_ranges(const RowWindows<T>& A, void* workspace, RowRanges& ranges, Stream stream) {
  ranges = {};
  if (A.rows <= kFewRows) return kSuccess;
  Index* const first = static_cast<Index*>(workspace);
  ranges = {first, first + A.sources + A.images, A.sources};
  return find_row_ranges({A.where, A.rows, A.sources, A.images, ranges}, stream);
}

}  // namespace lbp::cuda
