#include "cuda/kernels/ramp.cuh"

#include "cuda/grid.h"
#include "cuda/sums.h"

namespace lbp::cuda {
namespace {

// Pieces whose sums over the images must be added up are few.
constexpr Index kSumBlocks = 528, kSumRows = 16;

template <typename T>
Tiling ramp_tiling(Index batch, Index neurons, Index most_rows = kMostBlocks) {
  return tiling(tile_count<T>(neurons), batch, 1, kRampRows, kManyBlocks, most_rows);
}

template <typename T>
Tiling sum_tiling(Index batch, Index neurons) {
  return tiling(tile_count<T>(neurons), batch, 1, kSumRows, kSumBlocks);
}

// What the gradients by r need: nothing where one piece has all images.
template <typename T>
Index sums_bytes(Index batch, Index neurons, bool need_r) {
  const Index pieces = sum_tiling<T>(batch, neurons).pieces;
  return need_r && pieces > 1 ? pieces * neurons * Index(sizeof(T)) : 0;
}

// Runs start(launch, aligned), and adds up what several pieces leave of the gradients by r; `all`: whether the arrays
// of images are aligned.
template <typename Launch, template <typename> class Arguments, typename T, typename Start>
Status launch_gradient(const Arguments<T>& args, bool all, void* workspace, Stream stream, const Start& start) {
  Launch launch = {args, sum_tiling<T>(args.batch, args.neurons), args.r_gradient};
  const bool split = args.r_gradient != nullptr && launch.tiling.pieces > 1;
  if (split) launch.r_sums = static_cast<T*>(workspace);
  const bool aligned_arrays = all && all_aligned(launch.r_sums) && whole_packs<T>(args.neurons);
  LBP_RETURN_IF_FAILED(with_flag(aligned_arrays, [&](auto aligned) { return start(launch, aligned); }));
  return split ? sum_columns(launch.r_sums, args.r_gradient, args.neurons, launch.tiling.pieces, stream) : kSuccess;
}

}  // namespace

template <typename T>
Index ramp_workspace_bytes(const RampArguments<T>&) {
  return 0;
}

template <typename T>
Status ramp(const RampArguments<T>& args, void*, Stream stream) {
  const RampLaunch<T> launch = {args, ramp_tiling<T>(args.batch, args.neurons)};
  if (args.batch == 0) return kSuccess;
  return with_flag(all_aligned(args.z, args.out) && whole_packs<T>(args.neurons), [&](auto aligned) {
    return LBP_LAUNCH_BLOCKS((ramp_kernel<T, aligned>), blocks_of(launch.tiling), 0, stream, launch);
  });
}

template <typename T>
Index ramp_gradient_workspace_bytes(const RampGradientArguments<T>& args) {
  return sums_bytes<T>(args.batch, args.neurons, args.r_gradient != nullptr);
}

template <typename T>
Status ramp_gradient(const RampGradientArguments<T>& args, void* workspace, Stream stream) {
  const bool all = all_aligned(args.z, args.out_gradient, args.z_gradient);
  return launch_gradient<RampGradientLaunch<T>>(args, all, workspace, stream, [&](const auto& launch, auto aligned) {
    return LBP_LAUNCH_BLOCKS((ramp_gradient_kernel<T, aligned>), blocks_of(launch.tiling), 0, stream, launch);
  });
}

namespace {

template <typename T>
Tiling interval_tiling(const RampIntervalArguments<T>& args) {
  return ramp_tiling<T>(args.batch, args.neurons, args.counts == nullptr ? kMostBlocks : kMostCounted / kOwn<T>);
}

}  // namespace

template <typename T>
Index ramp_interval_workspace_bytes(const RampIntervalArguments<T>& args) {
  const Index blocks = blocks_of(interval_tiling(args));
  return args.counts != nullptr && blocks > 1 ? 6 * blocks * Index(sizeof(Index)) : 0;
}

template <typename T>
Status ramp_interval(const RampIntervalArguments<T>& args, void* workspace, Stream stream) {
  RampIntervalLaunch<T> launch = {args, interval_tiling(args), args.counts};
  const Index blocks = blocks_of(launch.tiling);
  const bool counted = args.counts != nullptr, split = counted && blocks != 1;
  if (split) launch.counts = static_cast<Index*>(workspace);
  if (args.batch > 0) {
    LBP_RETURN_IF_FAILED(with_flag(counted, [&](auto count) {
      const bool all = all_aligned(args.l, args.u, args.lower, args.upper) && whole_packs<T>(args.neurons);
      return with_flag(all, [&](auto aligned) {
        return LBP_LAUNCH_BLOCKS((ramp_interval_kernel<T, aligned, count>), blocks, 0, stream, launch);
      });
    }));
  }
  const bool any = args.batch > 0 && args.neurons > 0;
  return split || (counted && !any) ? sum_rows(launch.counts, args.counts, 6, any ? blocks : 0, stream) : kSuccess;
}

template <typename T>
Index ramp_interval_gradient_workspace_bytes(const RampIntervalGradientArguments<T>& args) {
  return sums_bytes<T>(args.batch, args.neurons, args.r_gradient != nullptr);
}

template <typename T>
Status ramp_interval_gradient(const RampIntervalGradientArguments<T>& args, void* workspace, Stream stream) {
  const bool all =
      all_aligned(args.l, args.u, args.lower_gradient, args.upper_gradient, args.l_gradient, args.u_gradient);
  return launch_gradient<RampIntervalGradientLaunch<T>>(
      args, all, workspace, stream, [&](const auto& launch, auto aligned) {
        return LBP_LAUNCH_BLOCKS((ramp_interval_gradient_kernel<T, aligned>), blocks_of(launch.tiling), 0, stream,
                                 launch);
      });
}

LBP_INSTANTIATE_LAUNCHER(ramp, RampArguments);
LBP_INSTANTIATE_LAUNCHER(ramp_gradient, RampGradientArguments);
LBP_INSTANTIATE_LAUNCHER(ramp_interval, RampIntervalArguments);
LBP_INSTANTIATE_LAUNCHER(ramp_interval_gradient, RampIntervalGradientArguments);

}  // namespace lbp::cuda
