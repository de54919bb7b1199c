// Dynamic shared memory: what the kernels that have some are launched with, and the most that any launch asks for; host
// code.
#pragma once

#include "cuda/grid.h"
#include "cuda/kernels/concretize.cuh"
#include "cuda/kernels/relax_narrow_conv2d.cuh"

namespace lbp::cuda {

// A sum of every warp for each slot of a piece of rows.
template <typename Sum>
constexpr std::size_t warp_sums_bytes(Index slots) {
  return std::size_t(slots) * kWarps * sizeof(Sum);
}

// The sums of so many rows fit a block's shared memory for both sides.
constexpr Index kMostRowsToRelax = 256, kMostRowsToEvaluate = 64;

// What remains beside the weights of a stage, which are static.
constexpr std::size_t most_narrow_bytes(int columns) {
  return kDefaultSharedBytes - kNarrowStage * std::size_t(columns) * sizeof(float);
}

// Kernels by how their names begin.
struct MostDynamicShared {
  const char* kernel;
  std::size_t bytes;
};

constexpr MostDynamicShared kMostDynamicShared[] = {
    {"relax_backward_kernel<", warp_sums_bytes<double>(2 * kMostRowsToRelax)},
    {"concretize_kernel<", warp_sums_bytes<RowSum>(2 * kMostRowsToEvaluate)},
    {"relax_few_conv2d_kernel<float", kMostNumbersOfFewRows * sizeof(float)},
    {"relax_few_conv2d_kernel<double", kMostNumbersOfFewRows * sizeof(double)},
    {"relax_few_convolve_windows_kernel<float", kMostNumbersOfFewRows * sizeof(float)},
    {"relax_few_convolve_windows_kernel<double", kMostNumbersOfFewRows * sizeof(double)},
    {"relax_narrow_conv2d_kernel<float, 28", most_narrow_bytes(28)},
    {"relax_narrow_conv2d_kernel<float, 48", most_narrow_bytes(48)},
};
static_assert(kNarrowColumns == 28 && kNarrowMostColumns == 48, "as in the names above");

}  // namespace lbp::cuda
