#include "cuda/kernels/bounding_lines.cuh"

#include "cuda/grid.h"

namespace lbp::cuda {
namespace {

// A block for every tile of every image.
template <typename T>
Tiling image_tiling(Index batch, Index neurons) {
  return tiling(tile_count<T>(neurons), 1, batch, 1);
}

}  // namespace

template <typename T>
Index bounding_lines_workspace_bytes(const BoundingLinesArguments<T>&) {
  return 0;
}

template <typename T>
Status bounding_lines(const BoundingLinesArguments<T>& args, void*, Stream stream) {
  const BoundingLinesLaunch<T> launch = {args, image_tiling<T>(args.batch, args.neurons)};
  const bool all = is_aligned(args.relaxation) && whole_packs<T>(args.neurons) &&
                   all_aligned(args.lower_slope, args.lower_intercept, args.upper_slope, args.upper_intercept);
  return with_flag(all, [&](auto aligned) {
    return LBP_LAUNCH_BLOCKS((bounding_lines_kernel<T, aligned>), blocks_of(launch.tiling) * args.batch, 0, stream,
                             launch);
  });
}

template <typename T>
Index bounding_lines_gradient_workspace_bytes(const BoundingLinesGradientArguments<T>&) {
  return 0;
}

template <typename T>
Status bounding_lines_gradient(const BoundingLinesGradientArguments<T>& args, void*, Stream stream) {
  const BoundingLinesGradientLaunch<T> launch = {args, image_tiling<T>(args.batch, args.neurons)};
  const bool all = is_aligned(args.relaxation) && is_aligned(args.gradients) && whole_packs<T>(args.neurons) &&
                   all_aligned(args.lower_slope_gradient, args.lower_intercept_gradient, args.upper_slope_gradient,
                               args.upper_intercept_gradient);
  return with_flag(all, [&](auto aligned) {
    return LBP_LAUNCH_BLOCKS((bounding_lines_gradient_kernel<T, aligned>), blocks_of(launch.tiling) * args.batch, 0,
                             stream, launch);
  });
}

LBP_INSTANTIATE_LAUNCHER(bounding_lines, BoundingLinesArguments);
LBP_INSTANTIATE_LAUNCHER(bounding_lines_gradient, BoundingLinesGradientArguments);

}  // namespace lbp::cuda
