#include "cuda/row_ranges.h"

#include "cuda/grid.h"
#include "cuda/kernels/row_ranges.cuh"

namespace lbp::cuda {

Status find_row_ranges(const RowRangesLaunch& launch, Stream stream) {
  const Index count = launch.sources + launch.images;
  LBP_RETURN_IF_FAILED(LBP_LAUNCH_BLOCKS((empty_row_ranges_kernel), quotient_up(count, kThreads), 0, stream, launch));
  return LBP_LAUNCH_BLOCKS((row_ranges_kernel), quotient_up(launch.rows, kThreads), 0, stream, launch);
}

}  // namespace lbp::cuda
