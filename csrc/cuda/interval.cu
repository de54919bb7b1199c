#include "cuda/kernels/interval.cuh"

#include "cuda/grid.h"

namespace lbp::cuda {

template <typename T>
Index split_interval_workspace_bytes(const SplitIntervalArguments<T>&) {
  return 0;
}

template <typename T>
Status split_interval(const SplitIntervalArguments<T>& args, void*, Stream stream) {
  const bool packs = all_aligned(args.l, args.u, args.center, args.radius) && whole_packs<T>(args.count);
  return with_flag(packs, [&](auto aligned) {
    return LBP_LAUNCH_BLOCKS((split_interval_kernel<T, aligned>), tile_count<T>(args.count), 0, stream, args);
  });
}

template <typename T>
Index join_interval_workspace_bytes(const JoinIntervalArguments<T>&) {
  return 0;
}

template <typename T>
Status join_interval(const JoinIntervalArguments<T>& args, void*, Stream stream) {
  const bool packs = all_aligned(args.center, args.radius, args.lower, args.upper) && whole_packs<T>(args.count);
  return with_flag(packs, [&](auto aligned) {
    return LBP_LAUNCH_BLOCKS((join_interval_kernel<T, aligned>), tile_count<T>(args.count), 0, stream, args);
  });
}

LBP_INSTANTIATE_LAUNCHER(split_interval, SplitIntervalArguments);
LBP_INSTANTIATE_LAUNCHER(join_interval, JoinIntervalArguments);

}  // namespace lbp::cuda
