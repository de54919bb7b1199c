// How launchers give rows of windowed coefficients to warps; host code.
#pragma once

#include "cuda/grid.h"
#include "cuda/kernels/windows.cuh"

namespace lbp::cuda {

struct RowsOfBlocks {
  int warps_per_row;
  Index blocks;
};

// A row gets as many warps as have several steps each.
template <typename T>
RowsOfBlocks rows_of_blocks(const RowWindows<T>& A) {
  constexpr Index kSteps = 4;
  const Index steps = step_count(A);
  int warps = 1;
  while (warps < kWarps && 2 * warps * kSteps <= steps) warps *= 2;
  return {warps, quotient_up(A.rows, kWarps / warps)};
}

}  // namespace lbp::cuda
