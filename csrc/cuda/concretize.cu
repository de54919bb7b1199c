#include "cuda/kernels/concretize.cuh"

#include <type_traits>

#include "cuda/dynamic_shared.h"
#include "cuda/region.h"

namespace lbp::cuda {
namespace {

static_assert(warp_sums_bytes<RowSum>(2 * kMostRowsToEvaluate) <= kDefaultSharedBytes);

template <typename T>
RowTiling tiling_of(const ConcretizeArguments<T>& args) {
  return row_tiling<T>(args.inputs, args.sides, args.rows, args.batch, kMostRowsToEvaluate, kTilesToEvaluate);
}

template <typename T>
Index row_count(const ConcretizeArguments<T>& args) {
  return side_count(args.sides) * args.batch * args.rows;
}

template <typename T>
Index sums_bytes(const ConcretizeArguments<T>& args) {
  const Index groups = tiling_of(args).tiling.tiles;
  return groups > 1 ? groups * row_count(args) * Index(sizeof(RowSum)) : 0;
}

// Writes the bounds, or to `totals` the sums of the rows.
template <typename T>
Status concretize_rows(const ConcretizeArguments<T>& args, RowSum* workspace, RowSum* totals, Stream stream) {
  if (row_count(args) == 0) return kSuccess;
  const Region<T>& region = args.region;
  const bool aligned =
      is_aligned(args.A) && all_aligned(region.x_L, region.x_U) && whole_packs<T>(args.inputs, region.batch_stride);
  return with_region(region, aligned, [&](auto kind, auto aligned_rows) -> Status {
    using Kind = decltype(kind);
    constexpr bool kHasFew = aligned_rows && std::is_same_v<T, float> && Kind::kNorm != Norm::kGeneral;
    const bool few = kHasFew && takes_few_slots<T>(args.inputs, args.sides, args.rows, args.batch, kTilesToEvaluate);
    const RowTiling chosen = few ? few_slots_tiling<T>(args.inputs, args.rows, args.batch) : tiling_of(args);
    const Tiling& tiling = chosen.tiling;
    const bool split = tiling.tiles > 1;
    const ConcretizeLaunch<T> launch = {args, tiling, chosen.tiles_per_block, split ? workspace : totals};
    const Index blocks = blocks_of(tiling) * args.batch;
    if constexpr (kHasFew) {
      if (few) {
        LBP_RETURN_IF_FAILED(with_flag(args.sides == 3, [&](auto both_sides) {
          return LBP_LAUNCH_BLOCKS((concretize_few_kernel<T, Kind, both_sides>), blocks, 0, stream, launch);
        }));
      }
    }
    if (!few) {
      const Index slots = slot_count(args.sides, tiling.rows_per_piece);
      LBP_RETURN_IF_FAILED(LBP_LAUNCH_BLOCKS((concretize_kernel<T, Kind, aligned_rows>), blocks,
                                             warp_sums_bytes<RowSum>(slots), stream, launch));
    }
    if (!split) return kSuccess;
    const ConcretizeFinishLaunch<T> finish = {args, workspace, tiling.tiles, totals};
    return LBP_LAUNCH_BLOCKS((concretize_finish_kernel<T, Kind>), quotient_up(row_count(args), kWarps), 0, stream,
                             finish);
  });
}

// Instead of norms, and gradients from them: rows that a block has by itself, and no more than are launch-bound.
template <typename T>
bool takes_blocks_of_rows(const ConcretizeGradientArguments<T>& args) {
  const Index slots = slot_count(args.sides, args.rows);
  return needs_norm(args.region) && has_rows_in_one_block<T>(args.inputs, slots, args.batch, kTilesOfGradient) &&
         is_launch_bound<T>(slots, args.inputs, args.batch);
}

template <typename T>
ConcretizeArguments<T> rows_of(const ConcretizeGradientArguments<T>& args) {
  return {args.sides, args.batch, args.rows, args.inputs, args.A, args.region, nullptr};
}

}  // namespace

template <typename T>
Index concretize_workspace_bytes(const ConcretizeArguments<T>& args) {
  return sums_bytes(args);
}

template <typename T>
Status concretize(const ConcretizeArguments<T>& args, void* workspace, Stream stream) {
  return concretize_rows<T>(args, static_cast<RowSum*>(workspace), nullptr, stream);
}

template <typename T>
Index concretize_gradient_workspace_bytes(const ConcretizeGradientArguments<T>& args) {
  const ConcretizeArguments<T> rows = rows_of(args);
  return needs_norm(args.region) && !takes_blocks_of_rows(args)
             ? row_count(rows) * Index(sizeof(RowSum)) + sums_bytes(rows)
             : 0;
}

template <typename T>
Status concretize_gradient(const ConcretizeGradientArguments<T>& args, void* workspace, Stream stream) {
  if (takes_blocks_of_rows(args)) {
    return with_region(args.region, [&](auto kind) -> Status {
      if constexpr (RowNorm<decltype(kind)>::kNeeded) {
        const ConcretizeRowGradientLaunch<T> launch = {args};
        return LBP_LAUNCH_BLOCKS((concretize_row_gradient_kernel<T, decltype(kind)>),
                                 slot_count(args.sides, args.rows) * args.batch, 0, stream, launch);
      } else {
        return kInvalidConfiguration;  // takes_blocks_of_rows says no
      }
    });
  }
  const ConcretizeArguments<T> rows = rows_of(args);
  RowSum* const totals = needs_norm(args.region) ? static_cast<RowSum*>(workspace) : nullptr;
  if (totals != nullptr) {
    LBP_RETURN_IF_FAILED(concretize_rows<T>(rows, totals + row_count(rows), totals, stream));
  }
  const Tiling chosen = tiling(tile_count<T>(args.inputs), args.rows, args.batch, 4);
  const ConcretizeGradientLaunch<T> launch = {args, chosen, totals};
  const Region<T>& region = args.region;
  const bool aligned = is_aligned(args.A) && all_aligned(region.x_L, region.x_U, args.A_gradient) &&
                       whole_packs<T>(args.inputs, region.batch_stride);
  return with_region(region, aligned, [&](auto kind, auto aligned_rows) -> Status {
    return LBP_LAUNCH_BLOCKS((concretize_gradient_kernel<T, decltype(kind), aligned_rows>),
                             blocks_of(chosen) * args.batch, 0, stream, launch);
  });
}

LBP_INSTANTIATE_LAUNCHER(concretize, ConcretizeArguments);
LBP_INSTANTIATE_LAUNCHER(concretize_gradient, ConcretizeGradientArguments);

}  // namespace lbp::cuda
