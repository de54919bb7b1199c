#include "cuda/kernels/concretize_forward.cuh"
#include "cuda/kernels/concretize_forward_strips.cuh"
#include "cuda/kernels/concretize_forward_windows.cuh"

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
  return NeuronSums::kPerNeuron * pieces * batch * neurons * Index(sizeof(double));
}

// Instead of several pieces.
template <typename T>
bool takes_strips(const ConcretizeForwardArguments<T>& args) {
  return sum_tiling<T>(args.batch, args.inputs, args.neurons).pieces > 1 &&
         is_launch_bound<T>(args.inputs, args.neurons, args.batch);
}

// Instead of norms, and gradients from them.
template <typename T>
bool takes_strips(const ConcretizeForwardGradientArguments<T>& args) {
  return needs_norm(args.region) && is_launch_bound<T>(args.inputs, args.neurons, args.batch);
}

template <typename Arguments>
ConcretizeForwardStripsLaunch<Arguments> strips_launch(const Arguments& args, const Windows* windows) {
  return {args, windows != nullptr, windows == nullptr ? Windows{} : *windows, strips_of(args.inputs, args.neurons)};
}

template <typename T>
Index split_bytes(Index batch, Index inputs, Index neurons) {
  const Index pieces = sum_tiling<T>(batch, inputs, neurons).pieces;
  return pieces > 1 ? sums_bytes(batch, neurons, pieces) : 0;
}

// Calls body with the kind of region, and with what else is wanted over it.
template <typename T, typename Body>
Status with_wanted(const ConcretizeForwardArguments<T>& args, const Body& body) {
  return args.magnitude != nullptr ? body(BoxWithMagnitude()) : with_region(args.region, body);
}

// The same with whether whole packs are read.
template <typename T, typename Body>
Status with_wanted(const ConcretizeForwardArguments<T>& args, bool aligned, const Body& body) {
  if (args.magnitude == nullptr) return with_region(args.region, aligned, body);
  return with_flag(aligned, [&](auto flag) { return body(BoxWithMagnitude(), flag); });
}

// Writes the bounds, or to `totals` the sums of all inputs. With windows the inputs are their entries.
template <typename T>
Status concretize_neurons(const ConcretizeForwardArguments<T>& args, const Windows* windows, double* workspace,
                          double* totals, Stream stream) {
  if (totals == nullptr && takes_strips(args)) {
    const auto launch = strips_launch(args, windows);
    return with_wanted(args, [&](auto kind) -> Status {
      return LBP_LAUNCH_BLOCKS((concretize_forward_strips_kernel<T, decltype(kind)>), launch.strips.count * args.batch,
                               0, stream, launch);
    });
  }
  const Tiling tiling = sum_tiling<T>(args.batch, args.inputs, args.neurons);
  const Index blocks = blocks_of(tiling) * args.batch, count = args.batch * args.neurons;
  const bool split = tiling.pieces > 1;
  const NeuronSums sums = {split ? workspace : totals, count};
  if (windows != nullptr) {
    const ConcretizeForwardWindowsLaunch<T> launch = {args, *windows, tiling, sums};
    LBP_RETURN_IF_FAILED(with_wanted(args, [&](auto kind) -> Status {
      return LBP_LAUNCH_BLOCKS((concretize_forward_windows_kernel<T, decltype(kind)>), blocks, 0, stream, launch);
    }));
  } else {
    const ConcretizeForwardLaunch<T> launch = {args, tiling, sums};
    const bool all = all_aligned(args.center, args.radius) && whole_packs<T>(args.neurons, args.matrix_batch_stride);
    LBP_RETURN_IF_FAILED(with_wanted(args, all, [&](auto kind, auto aligned) -> Status {
      return LBP_LAUNCH_BLOCKS((concretize_forward_kernel<T, decltype(kind), aligned>), blocks, 0, stream, launch);
    }));
  }
  if (!split) return kSuccess;
  const ConcretizeForwardFinishLaunch<T> finish = {args, {workspace, count}, tiling.pieces, {totals, count}};
  return with_wanted(args, [&](auto kind) -> Status {
    return LBP_LAUNCH_BLOCKS((concretize_forward_finish_kernel<T, decltype(kind)>), quotient_up(count, kThreads), 0,
                             stream, finish);
  });
}

template <typename T>
Index gradient_bytes(const ConcretizeForwardGradientArguments<T>& args) {
  if (!needs_norm(args.region) || takes_strips(args)) return 0;
  return sums_bytes(args.batch, args.neurons, 1) + split_bytes<T>(args.batch, args.inputs, args.neurons);
}

template <typename T>
Status neuron_gradients(const ConcretizeForwardGradientArguments<T>& args, const Windows* windows, void* workspace,
                        Stream stream) {
  const Index count = args.batch * args.neurons;
  if (count == 0) return kSuccess;
  if (takes_strips(args)) {
    const auto launch = strips_launch(args, windows);
    return with_region(args.region, [&](auto kind) -> Status {
      if constexpr (RowNorm<decltype(kind)>::kNeeded) {
        return LBP_LAUNCH_BLOCKS((concretize_forward_gradient_strips_kernel<T, decltype(kind)>),
                                 launch.strips.count * args.batch, 0, stream, launch);
      } else {
        return kInvalidConfiguration;  // takes_strips says no
      }
    });
  }
  double* const totals = needs_norm(args.region) ? static_cast<double*>(workspace) : nullptr;
  if (totals != nullptr) {
    const ConcretizeForwardArguments<T> sums = {
        args.batch, args.inputs, args.neurons, args.center, args.radius, args.matrix_batch_stride, nullptr, nullptr,
        0,          args.region, nullptr,      nullptr,     nullptr};
    LBP_RETURN_IF_FAILED(concretize_neurons<T>(sums, windows, totals + NeuronSums::kPerNeuron * count, totals, stream));
  }
  if (args.inputs == 0) return kSuccess;
  const Tiling chosen = tiling(tile_count<T>(args.neurons), args.inputs, args.batch, 8);
  const Index blocks = blocks_of(chosen) * args.batch;
  if (windows != nullptr) {
    const ConcretizeForwardWindowsGradientLaunch<T> launch = {args, *windows, chosen, {totals, count}};
    return with_region(args.region, [&](auto kind) -> Status {
      return LBP_LAUNCH_BLOCKS((concretize_forward_windows_gradient_kernel<T, decltype(kind)>), blocks, 0, stream,
                               launch);
    });
  }
  const ConcretizeForwardGradientLaunch<T> launch = {args, chosen, {totals, count}};
  const bool all = all_aligned(args.center, args.radius, args.l_gradient, args.u_gradient, args.center_gradient,
                               args.radius_gradient) &&
                   whole_packs<T>(args.neurons, args.matrix_batch_stride);
  return with_region(args.region, all, [&](auto kind, auto aligned) -> Status {
    return LBP_LAUNCH_BLOCKS((concretize_forward_gradient_kernel<T, decltype(kind), aligned>), blocks, 0, stream,
                             launch);
  });
}

Index entries_of(const Windows& windows) { return windows.image_channels * windows.rows * windows.columns; }
Index neurons_of(const Windows& windows) { return windows.channels * windows.height * windows.width; }

// The windows' entries in the place of inputs.
template <typename T>
ConcretizeForwardArguments<T> by_entries(const ConcretizeForwardWindowsArguments<T>& args) {
  return {args.batch,
          entries_of(args.windows),
          neurons_of(args.windows),
          args.center,
          args.radius,
          args.matrix_batch_stride,
          args.center_bias,
          args.radius_bias,
          args.bias_batch_stride,
          args.region,
          args.l,
          args.u,
          args.magnitude};
}

template <typename T>
ConcretizeForwardGradientArguments<T> by_entries(const ConcretizeForwardWindowsGradientArguments<T>& args) {
  return {args.batch,
          entries_of(args.windows),
          neurons_of(args.windows),
          args.center,
          args.radius,
          args.matrix_batch_stride,
          args.region,
          args.l_gradient,
          args.u_gradient,
          args.center_gradient,
          args.radius_gradient};
}

}  // namespace

template <typename T>
Index concretize_forward_workspace_bytes(const ConcretizeForwardArguments<T>& args) {
  return takes_strips(args) ? 0 : split_bytes<T>(args.batch, args.inputs, args.neurons);
}

template <typename T>
Status concretize_forward(const ConcretizeForwardArguments<T>& args, void* workspace, Stream stream) {
  return concretize_neurons<T>(args, nullptr, static_cast<double*>(workspace), nullptr, stream);
}

template <typename T>
Index concretize_forward_gradient_workspace_bytes(const ConcretizeForwardGradientArguments<T>& args) {
  return gradient_bytes(args);
}

template <typename T>
Status concretize_forward_gradient(const ConcretizeForwardGradientArguments<T>& args, void* workspace, Stream stream) {
  return neuron_gradients(args, nullptr, workspace, stream);
}

template <typename T>
Index concretize_forward_windows_workspace_bytes(const ConcretizeForwardWindowsArguments<T>& args) {
  return concretize_forward_workspace_bytes(by_entries(args));
}

template <typename T>
Status concretize_forward_windows(const ConcretizeForwardWindowsArguments<T>& args, void* workspace, Stream stream) {
  return concretize_neurons<T>(by_entries(args), &args.windows, static_cast<double*>(workspace), nullptr, stream);
}

template <typename T>
Index concretize_forward_windows_gradient_workspace_bytes(const ConcretizeForwardWindowsGradientArguments<T>& args) {
  return gradient_bytes(by_entries(args));
}

template <typename T>
Status concretize_forward_windows_gradient(const ConcretizeForwardWindowsGradientArguments<T>& args, void* workspace,
                                           Stream stream) {
  return neuron_gradients(by_entries(args), &args.windows, workspace, stream);
}

LBP_INSTANTIATE_LAUNCHER(concretize_forward, ConcretizeForwardArguments);
LBP_INSTANTIATE_LAUNCHER(concretize_forward_gradient, ConcretizeForwardGradientArguments);
LBP_INSTANTIATE_LAUNCHER(concretize_forward_windows, ConcretizeForwardWindowsArguments);
LBP_INSTANTIATE_LAUNCHER(concretize_forward_windows_gradient, ConcretizeForwardWindowsGradientArguments);

}  // namespace lbp::cuda
