#include "cuda/kernels/affine_linear.cuh"

#include "cuda/tile_plan.h"

namespace lbp::cuda {
namespace {

template <typename T>
LinearProduct<T, true> interval_product(const IntervalLinearProductArguments<T>& args) {
  const LinearLayer<T>& layer = args.layer;
  return {1,          args.batch, layer.outputs, layer.inputs, args.batch,  args.l,
          args.u,     nullptr,    nullptr,       layer.weight, layer.bias,  args.lower,
          args.upper, nullptr,    nullptr,       args.by,      args.margin, args.margin_of_example};
}

template <typename T>
LinearProduct<T, false> forward_product(const ForwardLinearArguments<T>& args) {
  const LinearLayer<T>& layer = args.layer;
  return {1,
          args.rows + args.bias_rows,
          layer.outputs,
          layer.inputs,
          args.rows,
          args.center,
          args.radius,
          args.center_bias,
          args.radius_bias,
          layer.weight,
          layer.bias,
          args.center_out,
          args.radius_out,
          args.center_bias_out,
          args.radius_bias_out};
}

// Sums that are rounded outward consist of blocks (docs/rounding.md, section 12).
template <typename T>
Index longest_part(const IntervalLinearProductArguments<T>& args) {
  return args.margin == nullptr ? kAnyLength : kSumBlock;
}

// Whether there are so few examples that reading W is the cost; a thread adds up no more than such a part.
template <typename T>
bool has_few_examples(const IntervalLinearProductArguments<T>& args) {
  return args.batch <= kFewExamples && quotient_up(args.layer.inputs, kThreads) <= longest_part(args);
}

template <typename T, int kExamples>
Status launch_few(const IntervalLinearProductArguments<T>& args, Stream stream) {
  const Index blocks = quotient_up(args.layer.outputs, kFewOutputs);
  const bool vectors = whole_packs<T>(args.layer.inputs) && all_aligned(args.layer.weight, args.l, args.u);
  return with_flag(vectors, [&](auto flag) {
    return LBP_LAUNCH_BLOCKS((interval_linear_kernel<T, kExamples, flag>), blocks, 0, stream, args);
  });
}

}  // namespace

template <typename T>
Index interval_linear_workspace_bytes(const IntervalLinearProductArguments<T>& args) {
  if (has_few_examples(args)) return 0;
  return tiles_workspace_bytes(interval_product(args), args.arithmetic, longest_part(args));
}

template <typename T>
Status interval_linear(const IntervalLinearProductArguments<T>& args, void* workspace, Stream stream) {
  if (args.batch == 0) return kSuccess;
  if (!has_few_examples(args)) {
    return launch_tiles(interval_product(args), args.arithmetic, workspace, stream, longest_part(args));
  }
  if (args.batch == 1) return launch_few<T, 1>(args, stream);
  if (args.batch == 2) return launch_few<T, 2>(args, stream);
  if (args.batch == 3) return launch_few<T, 3>(args, stream);
  return launch_few<T, kFewExamples>(args, stream);
}

template <typename T>
Index forward_linear_workspace_bytes(const ForwardLinearArguments<T>& args) {
  return tiles_workspace_bytes(forward_product(args), args.arithmetic);
}

template <typename T>
Status forward_linear(const ForwardLinearArguments<T>& args, void* workspace, Stream stream) {
  return launch_tiles(forward_product(args), args.arithmetic, workspace, stream);
}

LBP_INSTANTIATE_LAUNCHER(interval_linear, IntervalLinearProductArguments);
LBP_INSTANTIATE_LAUNCHER(forward_linear, ForwardLinearArguments);

}  // namespace lbp::cuda
