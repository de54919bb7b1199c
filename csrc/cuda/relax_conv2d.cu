#include "cuda/kernels/relax_conv2d.cuh"

#include <type_traits>

#include "cuda/dynamic_shared.h"
#include "cuda/kernels/relax_few_conv2d.cuh"
#include "cuda/kernels/relax_narrow_conv2d.cuh"
#include "cuda/sums.h"
#include "cuda/tile_plan.h"

namespace lbp::cuda {
namespace {

// The constants' launch, whose workspace is followed by that of the product.
template <typename T>
struct Plan {
  Index neurons, rows, row_groups, chunks, count;
  bool relaxed;

  explicit Plan(const RelaxBackwardConv2dArguments<T>& args)
      : neurons(Index(args.layer.out_channels) * args.layer.output.height * args.layer.output.width),
        rows(slot_count(args.sides, args.rows)),
        row_groups(quotient_up(rows, kConstantRows)),
        chunks(larger(quotient_up(neurons, kConstantNeurons), Index(1))),
        count(rows * args.batch),
        relaxed(args.sides != 0) {}

  Index parts_bytes() const { return chunks == 1 ? 0 : chunks * count * Index(sizeof(double)); }
  Index slopes_bytes(Index batch) const {
    return relaxed ? quotient_up(2 * batch * neurons * Index(sizeof(T)), 16) * 16 : 0;
  }
  Index bytes(Index batch) const { return quotient_up(parts_bytes(), 16) * 16 + slopes_bytes(batch); }
};

// The product's depth as it lies in the workspace.
template <typename T>
struct DepthPlan {
  Index groups, classes, columns, depth, size;

  explicit DepthPlan(const ConvolutionLayer<T>& layer)
      : DepthPlan(layer, EntryClasses(layer.kernel.height, layer.stride.height, layer.dilation.height),
                  EntryClasses(layer.kernel.width, layer.stride.width, layer.dilation.width)) {}
  DepthPlan(const ConvolutionLayer<T>& layer, const EntryClasses& down, const EntryClasses& across)
      : groups(layer.groups),
        classes(Index(down.count) * across.count),
        columns(layer.channels / layer.groups),
        depth(Index(layer.out_channels / layer.groups) * down.most * across.most),
        size(quotient_up(depth, kDepthStep) * kDepthStep) {}

  Index steps_bytes() const { return classes * size * Index(sizeof(TransposedStep)); }
  Index bytes() const {
    return steps_bytes() + quotient_up(groups * classes * size * columns * Index(sizeof(T)), 16) * 16;
  }
  TransposedDepth<T> at(unsigned char* bytes) const {
    return {size, reinterpret_cast<TransposedStep*>(bytes), reinterpret_cast<T*>(bytes + steps_bytes())};
  }

  static constexpr Index kDepthStep = Tiles<float>::SplitTall::kDepth;  // the deepest tile's
};

template <bool kRelaxed, typename T>
TransposedProduct<T, kRelaxed> transposed_product(const RelaxBackwardConv2dArguments<T>& args,
                                                  const DepthPlan<T>& depth, const Pair<T>* slopes,
                                                  const TransposedDepth<T>& arranged) {
  const ConvolutionLayer<T>& layer = args.layer;
  const Index pixels =
      quotient_up(layer.input.height, layer.stride.height) * quotient_up(layer.input.width, layer.stride.width);
  return {depth.groups * layer.stride.height * layer.stride.width,
          slot_count(args.sides, args.batch * args.rows) * pixels,
          depth.columns,
          depth.depth,
          depth.groups * depth.classes,
          args,
          slopes,
          arranged};
}

template <typename T>
RelaxFewConv2dLaunch<T> few_rows(const RelaxBackwardConv2dArguments<T>& args, const Plan<T>& plan) {
  const Index size = Index(args.layer.channels) * args.layer.input.height * args.layer.input.width;
  return {args, plan.neurons, larger(quotient_up(size, kThreads), Index(1))};
}

// Whether the rows are few and short enough for one launch; tensor cores serve products.
template <typename T>
bool are_few(const RelaxBackwardConv2dArguments<T>& args, const Plan<T>& plan) {
  const ConvolutionLayer<T>& layer = args.layer;
  const Index terms = Index(layer.out_channels / layer.groups) * layer.kernel.height * layer.kernel.width;
  return args.arithmetic == Arithmetic::kPlain &&
         is_launch_bound_convolution(plan.count * few_rows(args, plan).chunks, plan.neurons, terms);
}

template <typename T>
Status launch_constants(const RelaxBackwardConv2dArguments<T>& args, const Plan<T>& plan, Pair<T>* slopes,
                        double* parts, Stream stream) {
  const RelaxConstantsArguments<T> relax = {args, plan.neurons, plan.row_groups, plan.chunks, slopes, parts};
  LBP_RETURN_IF_FAILED(
      LBP_LAUNCH_BLOCKS((relax_constants_kernel<T>), args.batch * plan.row_groups * plan.chunks, 0, stream, relax));
  return plan.chunks == 1 ? kSuccess : sum_columns(parts, args.constants, plan.count, plan.chunks, stream);
}

// The products of one input channel.
template <typename T>
std::size_t narrow_bytes(const ConvolutionLayer<T>& layer) {
  const Index entries = Index(layer.kernel.height) * layer.kernel.width;
  return std::size_t(entries * layer.output.height * layer.output.width) * sizeof(T);
}

// The columns of the kernel for layers of few input channels, 0 where the layer is none. Where its kernel has too few
// entries, a tile as wide makes no more multiply-adds; float64 sums would take more registers than there are.
template <typename T>
int narrow_columns(const RelaxBackwardConv2dArguments<T>& args) {
  const ConvolutionLayer<T>& layer = args.layer;
  const Index entries = Index(layer.kernel.height) * layer.kernel.width;
  const Index pixels = Index(layer.output.height) * layer.output.width;
  const bool takes = std::is_same_v<T, float> && args.arithmetic == Arithmetic::kPlain;
  for (const int columns : {kNarrowColumns, kNarrowMostColumns}) {
    if (takes && layer.channels / layer.groups * entries <= columns &&
        columns < entries * Tiles<float>::Narrow::kColumns && pixels <= kNarrowThreads * narrow_pixels(columns) &&
        narrow_bytes(layer) <= most_narrow_bytes(columns)) {
      return columns;
    }
  }
  return 0;
}

template <int kColumns>
Status launch_narrow(const RelaxBackwardConv2dArguments<float>& args, const Plan<float>& plan,
                     const Pair<float>* slopes, Stream stream) {
  const RelaxNarrowConv2dLaunch<float> launch = {args, slopes};
  return LBP_LAUNCH_ROW((relax_narrow_conv2d_kernel<float, kColumns>), plan.count * args.layer.groups, kNarrowThreads,
                        narrow_bytes(args.layer), stream, launch);
}

}  // namespace

template <typename T>
Index relax_backward_conv2d_workspace_bytes(const RelaxBackwardConv2dArguments<T>& args) {
  const Plan<T> plan(args);
  if (are_few(args, plan)) return 0;
  if (narrow_columns(args) != 0) return plan.bytes(args.batch);
  const DepthPlan<T> depth(args.layer);
  return plan.bytes(args.batch) + depth.bytes() +
         tiles_workspace_bytes(transposed_product<true, T>(args, depth, nullptr, {}), args.arithmetic);
}

template <typename T>
Status relax_backward_conv2d(const RelaxBackwardConv2dArguments<T>& args, void* workspace, Stream stream) {
  const Plan<T> plan(args);
  if (plan.count == 0) return kSuccess;
  if (are_few(args, plan)) {
    const RelaxFewConv2dLaunch<T> few = few_rows(args, plan);
    return LBP_LAUNCH_BLOCKS((relax_few_conv2d_kernel<T>), plan.count * few.chunks,
                             std::size_t(plan.neurons) * sizeof(T), stream, few);
  }
  auto* bytes = static_cast<unsigned char*>(workspace);
  auto* parts = plan.chunks == 1 ? args.constants : reinterpret_cast<double*>(bytes);
  auto* slopes = plan.relaxed ? reinterpret_cast<Pair<T>*>(bytes + quotient_up(plan.parts_bytes(), 16) * 16) : nullptr;
  LBP_RETURN_IF_FAILED(launch_constants(args, plan, slopes, parts, stream));
  if constexpr (std::is_same_v<T, float>) {
    switch (narrow_columns(args)) {
      case kNarrowColumns:
        return launch_narrow<kNarrowColumns>(args, plan, slopes, stream);
      case kNarrowMostColumns:
        return launch_narrow<kNarrowMostColumns>(args, plan, slopes, stream);
      default:
        break;
    }
  }
  const DepthPlan<T> depth(args.layer);
  const TransposedDepth<T> arranged = depth.at(bytes + plan.bytes(args.batch));
  const ArrangeTransposedArguments<T> arrange = {args.layer, arranged};
  const Index planes = args.layer.out_channels * depth.columns;
  LBP_RETURN_IF_FAILED(
      LBP_LAUNCH_BLOCKS((arrange_transposed_kernel<T>), quotient_up(planes, kThreads), 0, stream, arrange));
  void* const rest = bytes + plan.bytes(args.batch) + depth.bytes();
  if (plan.relaxed) {
    return launch_tiles(transposed_product<true>(args, depth, slopes, arranged), args.arithmetic, rest, stream);
  }
  return launch_tiles(transposed_product<false>(args, depth, slopes, arranged), args.arithmetic, rest, stream);
}

LBP_INSTANTIATE_LAUNCHER(relax_backward_conv2d, RelaxBackwardConv2dArguments);

}  // namespace lbp::cuda
