#include "cuda/kernels/concretize_forward.cuh"

#include "cuda/region.h"

namespace lbp::cuda {
namespace {

// Sums over the inputs stay with one block, unless those are too few to fill the chip.
template <typename T>
Tiling sum_tiling(Index batch, Index inputs, Index neurons) {
  constexpr Index kBlocks = 528, kRows = 32;
  return tiling(tile_count<T>(neurons), inputs, batch, kRows, kBlocks);
}

Index sums_bytes(Index batch, Index neurons, Index pieces) {
  return 6 * pieces * batch * neurons * Index(sizeof(double));
}

template <typename T>
Index split_bytes(Index batch, Index inputs, Index neurons) {
  const Index pieces = sum_tiling<T>(batch, inputs, neurons).pieces;
  return pieces > 1 ? sums_bytes(batch, neurons, pieces) : 0;
}

// Writes the bounds, or to `totals` the sums of all inputs.
template <typename T>
Status concretize_neurons(const ConcretizeForwardArguments<T>& args, double* workspace, double* totals, Stream stream) {
  const Tiling tiling = sum_tiling<T>(args.batch, args.inputs, args.neurons);
  const Index count = args.batch * args.neurons;
  const bool split = tiling.pieces > 1;
  const ConcretizeForwardLaunch<T> launch = {args, tiling, {split ? workspace : totals, count}};
  const bool aligned = all_aligned(args.center, args.radius) && whole_packs<T>(args.neurons, args.matrix_batch_stride);
  return with_region(args.region, aligned, [&](auto kind, auto aligned_rows) -> Status {
    using Kind = decltype(kind);
    LBP_RETURN_IF_FAILED(LBP_LAUNCH_BLOCKS((concretize_forward_kernel<T, Kind, aligned_rows>),
                                           blocks_of(tiling) * args.batch, 0, stream, launch));
    if (!split) return kSuccess;
    const ConcretizeForwardFinishLaunch<T> finish = {args, {workspace, count}, tiling.pieces, {totals, count}};
    return LBP_LAUNCH_BLOCKS((concretize_forward_finish_kernel<T, Kind>), quotient_up(count, kThreads), 0, stream,
                             finish);
  });
}

}  // namespace

template <typename T>
Index concretize_forward_workspace_bytes(const ConcretizeForwardArguments<T>& args) {
  return split_bytes<T>(args.batch, args.inputs, args.neurons);
}

template <typename T>
Status concretize_forward(const ConcretizeForwardArguments<T>& args, void* workspace, Stream stream) {
  return concretize_neurons<T>(args, static_cast<double*>(workspace), nullptr, stream);
}

template <typename T>
Index concretize_forward_gradient_workspace_bytes(const ConcretizeForwardGradientArguments<T>& args) {
  if (!needs_norm(args.region)) return 0;
  return sums_bytes(args.batch, args.neurons, 1) + split_bytes<T>(args.batch, args.inputs, args.neurons);
}

template <typename T>
Status concretize_forward_gradient(const ConcretizeForwardGradientArguments<T>& args, void* workspace, Stream stream) {
  const Index count = args.batch * args.neurons;
  if (count == 0) return kSuccess;
  double* const totals = needs_norm(args.region) ? static_cast<double*>(workspace) : nullptr;
  if (totals != nullptr) {
    const ConcretizeForwardArguments<T> sums = {
        args.batch, args.inputs, args.neurons, args.center, args.radius, args.matrix_batch_stride, nullptr,
        nullptr,    0,           args.region,  nullptr,     nullptr};
    LBP_RETURN_IF_FAILED(concretize_neurons<T>(sums, totals + 6 * count, totals, stream));
  }
  if (args.inputs == 0) return kSuccess;
  const Tiling chosen = tiling(tile_count<T>(args.neurons), args.inputs, args.batch, 8);
  const ConcretizeForwardGradientLaunch<T> launch = {args, chosen, {totals, count}};
  const bool aligned = all_aligned(args.center, args.radius, args.l_gradient, args.u_gradient, args.center_gradient,
                                   args.radius_gradient) &&
                       whole_packs<T>(args.neurons, args.matrix_batch_stride);
  return with_region(args.region, aligned, [&](auto kind, auto aligned_rows) -> Status {
    return LBP_LAUNCH_BLOCKS((concretize_forward_gradient_kernel<T, decltype(kind), aligned_rows>),
                             blocks_of(chosen) * args.batch, 0, stream, launch);
  });
}

LBP_INSTANTIATE_LAUNCHER(concretize_forward, ConcretizeForwardArguments);
LBP_INSTANTIATE_LAUNCHER(concretize_forward_gradient, ConcretizeForwardGradientArguments);

}  // namespace lbp::cuda
