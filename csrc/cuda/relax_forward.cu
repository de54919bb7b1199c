#include "cuda/kernels/relax_forward.cuh"

#include "cuda/grid.h"
#include "cuda/kernels/relax_strips.cuh"

namespace lbp::cuda {
namespace {

template <typename T>
Tiling forward_tiling(const RelaxForwardArguments<T>& args) {
  return tiling(tile_count<T>(args.neurons), args.inputs, args.batch, 2 * kForwardRows);
}

// Gradients of lines are added up by blocks that have all rows of an image, unless those are too few to fill the chip.
template <typename T>
Tiling gradient_tiling(const RelaxForwardGradientArguments<T>& args) {
  constexpr Index kBlocks = 528, kRows = 32;
  return tiling(tile_count<T>(args.neurons), args.inputs, args.batch, kRows, kBlocks);
}

// Instead of several pieces.
template <typename T>
bool takes_strips(const RelaxForwardGradientArguments<T>& args) {
  return gradient_tiling(args).pieces > 1 && is_launch_bound<T>(args.inputs, args.neurons, args.batch);
}

}  // namespace

template <typename T>
Index relax_forward_workspace_bytes(const RelaxForwardArguments<T>&) {
  return 0;
}

template <typename T>
Status relax_forward(const RelaxForwardArguments<T>& args, void*, Stream stream) {
  const RelaxForwardLaunch<T> launch = {args, forward_tiling(args)};
  const bool aligned_arrays = is_aligned(args.relaxation) &&
                              all_aligned(args.center, args.radius, args.center_bias, args.radius_bias, args.center_out,
                                          args.radius_out, args.center_bias_out, args.radius_bias_out) &&
                              whole_packs<T>(args.neurons, args.matrix_batch_stride, args.bias_batch_stride);
  return with_flag(aligned_arrays, [&](auto aligned) {
    return LBP_LAUNCH_BLOCKS((relax_forward_kernel<T, aligned>), blocks_of(launch.tiling) * args.batch, 0, stream,
                             launch);
  });
}

template <typename T>
Index relax_forward_gradient_workspace_bytes(const RelaxForwardGradientArguments<T>& args) {
  const Index pieces = gradient_tiling(args).pieces;
  return pieces > 1 && !takes_strips(args) ? 4 * pieces * args.batch * args.neurons * Index(sizeof(T)) : 0;
}

template <typename T>
Status relax_forward_gradient(const RelaxForwardGradientArguments<T>& args, void* workspace, Stream stream) {
  if (takes_strips(args)) {
    const RelaxForwardGradientStripsLaunch<T> launch = {args, strips_of(args.inputs, args.neurons)};
    return LBP_LAUNCH_BLOCKS((relax_forward_gradient_strips_kernel<T>), launch.strips.count * args.batch, 0, stream,
                             launch);
  }
  const Tiling tiling = gradient_tiling(args);
  const bool split = tiling.pieces > 1;
  const RelaxForwardGradientLaunch<T> launch = {args, tiling, split ? static_cast<T*>(workspace) : nullptr};
  const bool aligned_arrays =
      is_aligned(args.relaxation) && is_aligned(args.gradients) &&
      all_aligned(args.center, args.radius, args.center_bias, args.radius_bias, args.center_out_gradient,
                  args.radius_out_gradient, args.center_bias_out_gradient, args.radius_bias_out_gradient,
                  args.center_gradient, args.radius_gradient, args.center_bias_gradient, args.radius_bias_gradient) &&
      whole_packs<T>(args.neurons, args.matrix_batch_stride, args.bias_batch_stride);
  LBP_RETURN_IF_FAILED(with_flag(aligned_arrays, [&](auto aligned) {
    return LBP_LAUNCH_BLOCKS((relax_forward_gradient_kernel<T, aligned>), blocks_of(tiling) * args.batch, 0, stream,
                             launch);
  }));
  if (!split) return kSuccess;
  const Index blocks = quotient_up(args.batch * args.neurons, kThreads);
  return LBP_LAUNCH_BLOCKS((relax_forward_gradient_finish_kernel<T>), blocks, 0, stream, launch);
}

LBP_INSTANTIATE_LAUNCHER(relax_forward, RelaxForwardArguments);
LBP_INSTANTIATE_LAUNCHER(relax_forward_gradient, RelaxForwardGradientArguments);

}  // namespace lbp::cuda
