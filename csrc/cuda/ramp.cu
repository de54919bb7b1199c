#include "cuda/kernels/ramp.cuh"

#include "cuda/grid.h"
#include "cuda/kernels/ramp_strips.cuh"
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

// Without sums there may be as many pieces as fill the chip.
template <typename T>
Tiling gradient_tiling(Index batch, Index neurons, bool need_r) {
  return need_r ? sum_tiling<T>(batch, neurons) : ramp_tiling<T>(batch, neurons);
}

// How the gradients by r are added up.
enum class Sums { kOnePiece, kStrips, kPieces };

template <typename T>
Sums sums_of(Index batch, Index neurons, bool need_r) {
  if (!need_r || sum_tiling<T>(batch, neurons).pieces == 1) return Sums::kOnePiece;
  return is_launch_bound<T>(batch, neurons, 1) ? Sums::kStrips : Sums::kPieces;
}

template <typename T>
Index sums_bytes(Index batch, Index neurons, bool need_r) {
  if (sums_of<T>(batch, neurons, need_r) != Sums::kPieces) return 0;
  return sum_tiling<T>(batch, neurons).pieces * neurons * Index(sizeof(T));
}

// Runs start_strips(launch) or start(launch, aligned), and adds up what several pieces leave of the gradients by r;
// `all`: whether the arrays of images are aligned.
template <typename Launch, template <typename> class Arguments, typename T, typename StartStrips, typename Start>
Status launch_gradient(const Arguments<T>& args, bool all, void* workspace, const StartStrips& start_strips,
                       Stream stream, const Start& start) {
  const bool need_r = args.r_gradient != nullptr;
  const Sums sums = sums_of<T>(args.batch, args.neurons, need_r);
  if (sums == Sums::kStrips) {
    return start_strips(RampStripsLaunch<Arguments<T>>{args, strips_of(args.batch, args.neurons)});
  }
  Launch launch = {args, gradient_tiling<T>(args.batch, args.neurons, need_r), args.r_gradient};
  const bool split = sums == Sums::kPieces;
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
  const auto start_strips = [&](const auto& launch) {
    return LBP_LAUNCH_BLOCKS((ramp_gradient_strips_kernel<T>), launch.strips.count, 0, stream, launch);
  };
  return launch_gradient<RampGradientLaunch<T>>(
      args, all, workspace, start_strips, stream, [&](const auto& launch, auto aligned) {
        return LBP_LAUNCH_BLOCKS((ramp_gradient_kernel<T, aligned>), blocks_of(launch.tiling), 0, stream, launch);
      });
}

namespace {

template <typename T>
Tiling interval_tiling(const RampIntervalArguments<T>& args) {
  return ramp_tiling<T>(args.batch, args.neurons, args.counts == nullptr ? kMostBlocks : kMostCounted / kOwn<T>);
}

// One multiprocessor moves so many neurons' 16 bytes, at 60e9 bytes/s, while a second launch would begin.
template <typename T>
bool is_counted_by_one_block(const RampIntervalArguments<T>& args) {
  constexpr Index kMostNeurons = 64 * 1024 / sizeof(T);
  static_assert(kMostNeurons <= kMostCounted * kCountThreads);
  return args.batch * args.neurons == 0 || (small_layers_take_one_launch && args.batch * args.neurons <= kMostNeurons);
}

}  // namespace

template <typename T>
Index ramp_interval_workspace_bytes(const RampIntervalArguments<T>& args) {
  const Index blocks = blocks_of(interval_tiling(args));
  return args.counts != nullptr && blocks > 1 && !is_counted_by_one_block(args) ? 6 * blocks * Index(sizeof(Index)) : 0;
}

template <typename T>
Status ramp_interval(const RampIntervalArguments<T>& args, void* workspace, Stream stream) {
  if (args.counts != nullptr && is_counted_by_one_block(args)) {
    return LBP_LAUNCH_ROW((ramp_interval_count_kernel<T>), 1, kCountThreads, 0, stream, args);
  }
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
  return split ? sum_rows(launch.counts, args.counts, 6, blocks, stream) : kSuccess;
}

template <typename T>
Index ramp_interval_gradient_workspace_bytes(const RampIntervalGradientArguments<T>& args) {
  return sums_bytes<T>(args.batch, args.neurons, args.r_gradient != nullptr);
}

template <typename T>
Status ramp_interval_gradient(const RampIntervalGradientArguments<T>& args, void* workspace, Stream stream) {
  const bool all =
      all_aligned(args.l, args.u, args.lower_gradient, args.upper_gradient, args.l_gradient, args.u_gradient);
  const auto start_strips = [&](const auto& launch) {
    return LBP_LAUNCH_BLOCKS((ramp_interval_gradient_strips_kernel<T>), launch.strips.count, 0, stream, launch);
  };
  return launch_gradient<RampIntervalGradientLaunch<T>>(
      args, all, workspace, start_strips, stream, [&](const auto& launch, auto aligned) {
        return LBP_LAUNCH_BLOCKS((ramp_interval_gradient_kernel<T, aligned>), blocks_of(launch.tiling), 0, stream,
                                 launch);
      });
}

LBP_INSTANTIATE_LAUNCHER(ramp, RampArguments);
LBP_INSTANTIATE_LAUNCHER(ramp_gradient, RampGradientArguments);
LBP_INSTANTIATE_LAUNCHER(ramp_interval, RampIntervalArguments);
LBP_INSTANTIATE_LAUNCHER(ramp_interval_gradient, RampIntervalGradientArguments);

}  // namespace lbp::cuda
