#include "cuda/kernels/concretize_windows.cuh"

#include "cuda/region.h"
#include "cuda/window_rows.h"

namespace lbp::cuda {

template <typename T>
Index concretize_windows_workspace_bytes(const ConcretizeWindowsArguments<T>&) {
  return 0;
}

template <typename T>
Status concretize_windows(const ConcretizeWindowsArguments<T>& args, void*, Stream stream) {
  const RowsOfBlocks rows = rows_of_blocks(args.A);
  const ConcretizeWindowsLaunch<T> launch = {args, rows.warps_per_row};
  return with_region(args.region, [&](auto kind) -> Status {
    return LBP_LAUNCH_BLOCKS((concretize_windows_kernel<T, decltype(kind)>), rows.blocks, 0, stream, launch);
  });
}

LBP_INSTANTIATE_LAUNCHER(concretize_windows, ConcretizeWindowsArguments);

}  // namespace lbp::cuda
