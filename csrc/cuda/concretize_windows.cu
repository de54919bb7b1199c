#include "cuda/kernels/concretize_windows.cuh"

#include "cuda/region.h"
#include "cuda/row_ranges.h"
#include "cuda/window_rows.h"

namespace lbp::cuda {
namespace {

// Writes the bounds, or to `sums` the sums of the rows.
template <typename T>
Status concretize_rows(const ConcretizeWindowsArguments<T>& args, RowSum* sums, Stream stream) {
  const RowsOfBlocks rows = rows_of_blocks(args.A);
  const ConcretizeWindowsLaunch<T> launch = {args, rows.warps_per_row, sums};
  return with_region(args.region, [&](auto kind) -> Status {
    return LBP_LAUNCH_BLOCKS((concretize_windows_kernel<T, decltype(kind)>), rows.blocks, 0, stream, launch);
  });
}

// So few steps that each of a source's warps reads all of them for the norm: a launch would take longer.
constexpr Index kFewSteps = 8;

template <typename T>
Index sum_count(const ConcretizeWindowsGradientArguments<T>& args) {
  const bool few = small_layers_take_one_launch && step_count(args.A) <= kFewSteps;
  return needs_norm(args.region) && !few ? side_count(args.sides) * args.A.rows : 0;
}

}  // namespace

template <typename T>
Index concretize_windows_workspace_bytes(const ConcretizeWindowsArguments<T>&) {
  return 0;
}

template <typename T>
Status concretize_windows(const ConcretizeWindowsArguments<T>& args, void*, Stream stream) {
  return concretize_rows<T>(args, nullptr, stream);
}

template <typename T>
Index concretize_windows_gradient_workspace_bytes(const ConcretizeWindowsGradientArguments<T>& args) {
  return sum_count(args) * Index(sizeof(RowSum)) + row_ranges_bytes(args.A);
}

template <typename T>
Status concretize_windows_gradient(const ConcretizeWindowsGradientArguments<T>& args, void* workspace, Stream stream) {
  RowSum* const sums = static_cast<RowSum*>(workspace);
  ConcretizeWindowsGradientLaunch<T> launch = {args, {}, sum_count(args) > 0 ? sums : nullptr};
  if (launch.sums != nullptr) {
    LBP_RETURN_IF_FAILED(concretize_rows<T>({args.sides, args.A, args.region, nullptr}, sums, stream));
  }
  LBP_RETURN_IF_FAILED(find_row_ranges(args.A, sums + sum_count(args), launch.ranges, stream));
  return with_region(args.region, [&](auto kind) -> Status {
    return LBP_LAUNCH_BLOCKS((concretize_windows_gradient_kernel<T, decltype(kind)>),
                             quotient_up(args.A.sources * step_count(args.A), kWarps), 0, stream, launch);
  });
}

LBP_INSTANTIATE_LAUNCHER(concretize_windows, ConcretizeWindowsArguments);
LBP_INSTANTIATE_LAUNCHER(concretize_windows_gradient, ConcretizeWindowsGradientArguments);

}  // namespace lbp::cuda
