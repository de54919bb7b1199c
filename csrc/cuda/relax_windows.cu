#include "cuda/relax_windows.h"

#include "cuda/kernels/relax_few_windows.cuh"
#include "cuda/kernels/relax_windows_gradient.cuh"
#include "cuda/row_ranges.h"

namespace lbp::cuda {
namespace {

template <template <typename> class Arguments, typename T>
Status compute_lines(const Arguments<T>& args, const LayerLines<T>& lines, Stream stream) {
  if (lines.data == nullptr && lines.bias == nullptr) return kSuccess;
  const RowWindows<T>& A = args.A;
  const Index images = lines.data == nullptr ? 1 : A.images, pixels = A.layer_height * A.layer_width;
  const LayerLinesLaunch<T> launch = {args.relaxation, args.bias, images, pixels, A.channels, lines};
  return LBP_LAUNCH_BLOCKS((layer_lines_kernel<T>), quotient_up(images * pixels * A.channels, kThreads), 0, stream,
                           launch);
}

}  // namespace

template <typename T>
Status relax_windows_through(const RelaxWindowsArguments<T>& args, const LayerLines<T>& lines, Stream stream) {
  const RowWindows<T>& A = args.A;
  if (A.rows == 0) return kSuccess;
  LBP_RETURN_IF_FAILED(compute_lines(args, lines, stream));
  const RowsOfBlocks rows = rows_of_blocks(A);
  const RelaxWindowsLaunch<T> launch = {args, lines, rows.warps_per_row};
  const bool all = all_aligned(A.data, args.relaxed) && whole_packs<T>(A.side_stride, A.source_stride, A.channels);
  return with_flag(all, [&](auto aligned) {
    return LBP_LAUNCH_BLOCKS((relax_windows_kernel<T, aligned>), rows.blocks, 0, stream, launch);
  });
}

template Status relax_windows_through(const RelaxWindowsArguments<float>&, const LayerLines<float>&, Stream);
template Status relax_windows_through(const RelaxWindowsArguments<double>&, const LayerLines<double>&, Stream);

namespace {

// Whether lines are computed for every number of every row: a block with a row of few numbers takes less than the
// launch that would compute the lines of the layer. Lanes read bounds of neighbouring channels, 32 bytes for 4 or 8.
template <typename T>
bool are_few(const RowWindows<T>& A) {
  constexpr Index kMostNumbers = 4 * kThreads;
  return small_layers_take_one_launch && A.rows <= kFewRows && window_size(A) <= kMostNumbers &&
         4 * A.rows * window_size(A) * Index(sizeof(T)) <= kLaunchBoundBytes;
}

// The gradient reads rows by sources, and by pixels of all images.
template <typename T>
bool are_few(const RelaxWindowsGradientArguments<T>& args) {
  const RowWindows<T>& A = args.A;
  return are_few(A) && is_launch_bound<T>(1, A.sources * window_size(A), 1) &&
         is_launch_bound<T>(1, A.layer_height * A.layer_width * A.channels, A.images);
}

}  // namespace

template <typename T>
Index relax_windows_workspace_bytes(const RelaxWindowsArguments<T>& args) {
  return are_few(args.A) ? 0 : layer_lines_bytes(args);
}

template <typename T>
Status relax_windows(const RelaxWindowsArguments<T>& args, void* workspace, Stream stream) {
  if (are_few(args.A)) {
    return LBP_LAUNCH_BLOCKS((relax_few_windows_kernel<T>), args.A.rows, 0, stream, args);
  }
  return relax_windows_through(args, layer_lines(args, workspace), stream);
}

template <typename T>
Index relax_windows_gradient_workspace_bytes(const RelaxWindowsGradientArguments<T>& args) {
  return are_few(args) ? 0 : layer_lines_bytes(args) + row_ranges_bytes(args.A);
}

template <typename T>
Status relax_windows_gradient(const RelaxWindowsGradientArguments<T>& args, void* workspace, Stream stream) {
  const RowWindows<T>& A = args.A;
  const Index items = A.images * A.layer_height * A.layer_width * quotient_up(A.channels, kLanes);
  if (are_few(args)) {
    const Index steps = args.A_gradient == nullptr ? 0 : A.sources * quotient_up(window_size(A), kLanes);
    const RelaxFewWindowsGradientLaunch<T> few = {args, quotient_up(steps, kWarps)};
    return LBP_LAUNCH_BLOCKS((relax_few_windows_gradient_kernel<T>), few.source_blocks + quotient_up(items, kWarps), 0,
                             stream, few);
  }
  RelaxWindowsGradientLaunch<T> launch = {args, layer_lines(args, workspace), {}};
  LBP_RETURN_IF_FAILED(compute_lines(args, launch.lines, stream));
  char* const behind = static_cast<char*>(workspace) + layer_lines_bytes(args);
  LBP_RETURN_IF_FAILED(find_row_ranges(A, behind, launch.ranges, stream));
  if (args.A_gradient != nullptr) {
    LBP_RETURN_IF_FAILED(LBP_LAUNCH_BLOCKS((relax_windows_gradient_kernel<T>),
                                           quotient_up(A.sources * step_count(A), kWarps), 0, stream, launch));
  }
  return LBP_LAUNCH_BLOCKS((window_lines_gradient_kernel<T>), quotient_up(items, kWarps), 0, stream, launch);
}

LBP_INSTANTIATE_LAUNCHER(relax_windows, RelaxWindowsArguments);
LBP_INSTANTIATE_LAUNCHER(relax_windows_gradient, RelaxWindowsGradientArguments);

}  // namespace lbp::cuda
