#include "cuda/kernels/relax_backward.cuh"

#include <type_traits>

#include "cuda/dynamic_shared.h"
#include "cuda/kernels/relax_strips.cuh"
#include "cuda/sums.h"

namespace lbp::cuda {
namespace {

// With the lines in static shared memory, no more than a kernel gets without asking.
static_assert(warp_sums_bytes<double>(2 * kMostRowsToRelax) + kLineTileSize<float> * sizeof(float) <=
                  kDefaultSharedBytes &&
              kLineTileSize<double> * sizeof(double) == kLineTileSize<float> * sizeof(float));

template <typename T>
RowTiling backward_tiling(const RelaxBackwardArguments<T>& args) {
  return row_tiling<T>(args.neurons, args.sides, args.rows, args.batch, kMostRowsToRelax, kTilesToRelax);
}

template <typename T>
Index row_count(const RelaxBackwardArguments<T>& args) {
  return side_count(args.sides) * args.batch * args.rows;
}

// Few rows for which blocks have several tiles each, one after the other. Where there are so many tiles of all images
// that several blocks have to share an image's, blocks of one tile, three of them at a time on a multiprocessor instead
// of two, are faster: by 3 to 8 % with nine rows of 32 images of 65,536 neurons on an H100. With 32,768 neurons they
// are slower, by 8 %.
template <typename T>
bool takes_blocks_of_tiles(const RelaxBackwardArguments<T>& args) {
  if (!takes_few_slots<T>(args.neurons, args.sides, args.rows, args.batch, kTilesToRelax)) return false;
  const bool shared = few_slots_tiling<T>(args.neurons, args.rows, args.batch).tiling.tiles > 1;
  return !shared || tile_count<T>(args.neurons) * args.batch < kManyBlocks;
}

// Gradients of lines are added up by blocks that have all rows of an image, unless those are too few to fill the chip.
template <typename T>
Tiling gradient_tiling(const RelaxBackwardGradientArguments<T>& args) {
  constexpr Index kBlocks = 528, kRows = 32;
  return tiling(tile_count<T>(args.neurons), args.rows, args.batch, kRows, kBlocks);
}

// Instead of several pieces.
template <typename T>
bool takes_strips(const RelaxBackwardGradientArguments<T>& args) {
  return gradient_tiling(args).pieces > 1 &&
         is_launch_bound<T>(slot_count(args.sides, args.rows), args.neurons, args.batch);
}

}  // namespace

template <typename T>
Index relax_backward_workspace_bytes(const RelaxBackwardArguments<T>& args) {
  const Index groups = backward_tiling(args).tiling.tiles;
  return groups > 1 ? groups * row_count(args) * Index(sizeof(double)) : 0;
}

template <typename T>
Status relax_backward(const RelaxBackwardArguments<T>& args, void* workspace, Stream stream) {
  if (row_count(args) == 0) return kSuccess;
  const bool aligned_arrays =
      is_aligned(args.A) && is_aligned(args.relaxation) && all_aligned(args.relaxed) && whole_packs<T>(args.neurons);
  constexpr bool kHasFew = std::is_same_v<T, float>;  // float64 would take more registers than there are
  const bool few = kHasFew && aligned_arrays && takes_blocks_of_tiles<T>(args);
  const RowTiling chosen = few ? few_slots_tiling<T>(args.neurons, args.rows, args.batch) : backward_tiling(args);
  const Tiling& tiling = chosen.tiling;
  const bool split = tiling.tiles > 1;
  const RelaxBackwardLaunch<T> launch = {args, tiling, chosen.tiles_per_block,
                                         split ? static_cast<double*>(workspace) : args.constants};
  const Index blocks = blocks_of(tiling) * args.batch;
  if constexpr (kHasFew) {
    if (few) {
      LBP_RETURN_IF_FAILED(with_flag(args.sides == 3, [&](auto both_sides) {
        return LBP_LAUNCH_BLOCKS((relax_backward_few_kernel<T, both_sides>), blocks, 0, stream, launch);
      }));
    }
  }
  if (!few) {
    const std::size_t shared_bytes = warp_sums_bytes<double>(slot_count(args.sides, tiling.rows_per_piece));
    LBP_RETURN_IF_FAILED(with_flag(aligned_arrays, [&](auto aligned) {
      return LBP_LAUNCH_BLOCKS((relax_backward_kernel<T, aligned>), blocks, shared_bytes, stream, launch);
    }));
  }
  return split ? sum_rows(launch.constants, args.constants, row_count(args), tiling.tiles, stream) : kSuccess;
}

template <typename T>
Index relax_backward_gradient_workspace_bytes(const RelaxBackwardGradientArguments<T>& args) {
  const Index pieces = gradient_tiling(args).pieces;
  return pieces > 1 && !takes_strips(args) ? 5 * pieces * args.batch * args.neurons * Index(sizeof(T)) : 0;
}

template <typename T>
Status relax_backward_gradient(const RelaxBackwardGradientArguments<T>& args, void* workspace, Stream stream) {
  if (takes_strips(args)) {
    const RelaxBackwardGradientStripsLaunch<T> launch = {args,
                                                         strips_of(slot_count(args.sides, args.rows), args.neurons)};
    return LBP_LAUNCH_BLOCKS((relax_backward_gradient_strips_kernel<T>), launch.strips.count * args.batch, 0, stream,
                             launch);
  }
  const Tiling tiling = gradient_tiling(args);
  const bool split = tiling.pieces > 1;
  const RelaxBackwardGradientLaunch<T> launch = {args, tiling, split ? static_cast<T*>(workspace) : nullptr};
  const bool aligned_arrays = is_aligned(args.A) && is_aligned(args.relaxation) && is_aligned(args.gradients) &&
                              whole_packs<T>(args.neurons) &&
                              all_aligned(args.relaxed_gradient, args.A_gradient, args.bias_gradient);
  LBP_RETURN_IF_FAILED(with_flag(aligned_arrays, [&](auto aligned) {
    return LBP_LAUNCH_BLOCKS((relax_backward_gradient_kernel<T, aligned>), blocks_of(tiling) * args.batch, 0, stream,
                             launch);
  }));
  if (!split) return kSuccess;
  const Index blocks = quotient_up(args.batch * args.neurons, kThreads);
  return LBP_LAUNCH_BLOCKS((relax_backward_gradient_finish_kernel<T>), blocks, 0, stream, launch);
}

LBP_INSTANTIATE_LAUNCHER(relax_backward, RelaxBackwardArguments);
LBP_INSTANTIATE_LAUNCHER(relax_backward_gradient, RelaxBackwardGradientArguments);

}  // namespace lbp::cuda
