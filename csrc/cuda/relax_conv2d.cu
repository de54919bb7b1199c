#include "cuda/kernels/relax_conv2d.cuh"

#include "cuda/launch.h"
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
        rows((args.sides == 3 ? 2 : 1) * args.rows),
        row_groups(quotient_up(rows, kConstantRows)),
        chunks(larger(quotient_up(neurons, kConstantNeurons), Index(1))),
        count(rows * args.batch),
        relaxed(args.sides != 0) {}

  Index parts_bytes() const { return chunks * count * Index(sizeof(double)); }
  Index slopes_bytes(Index batch) const {
    return relaxed ? quotient_up(2 * batch * neurons * Index(sizeof(T)), 16) * 16 : 0;
  }
  Index bytes(Index batch) const { return quotient_up(parts_bytes(), 16) * 16 + slopes_bytes(batch); }
};

template <typename T>
TransposedProduct<T> transposed_product(const RelaxBackwardConv2dArguments<T>& args, const T* slopes) {
  const ConvolutionLayer<T>& layer = args.layer;
  const Index sides = args.sides == 3 ? 2 : 1;
  const Index pixels =
      quotient_up(layer.input.height, layer.stride.height) * quotient_up(layer.input.width, layer.stride.width);
  return {Index(layer.groups) * layer.stride.height * layer.stride.width,
          sides * args.batch * args.rows * pixels,
          layer.channels / layer.groups,
          Index(layer.out_channels / layer.groups) * layer.kernel.height * layer.kernel.width,
          args,
          slopes};
}

template <typename T>
Status launch_constants(const RelaxBackwardConv2dArguments<T>& args, const Plan<T>& plan, T* slopes, double* parts,
                        Stream stream) {
  const Index blocks = args.batch * plan.row_groups * plan.chunks;
  const Index finishing = quotient_up(plan.count, kConstantThreads);
  if (blocks > kMostBlocks || finishing > kMostBlocks) return kInvalidValue;
  const RelaxConstantsArguments<T> relax = {args, plan.neurons, plan.row_groups, plan.chunks, slopes, parts};
  const Status status =
      LBP_LAUNCH((relax_constants_kernel<T>), dim3(unsigned(blocks)), dim3(kConstantThreads), 0, stream, relax);
  if (status != kSuccess) return status;
  const SumConstantsArguments sum = {plan.count, plan.chunks, parts, args.constants};
  return LBP_LAUNCH((sum_constants_kernel), dim3(unsigned(finishing)), dim3(kConstantThreads), 0, stream, sum);
}

}  // namespace

template <typename T>
Index relax_backward_conv2d_workspace_bytes(const RelaxBackwardConv2dArguments<T>& args) {
  return Plan<T>(args).bytes(args.batch) + tiles_workspace_bytes(transposed_product<T>(args, nullptr), args.arithmetic);
}

template <typename T>
Status relax_backward_conv2d(const RelaxBackwardConv2dArguments<T>& args, void* workspace, Stream stream) {
  const Plan<T> plan(args);
  if (plan.count == 0) return kSuccess;
  auto* bytes = static_cast<unsigned char*>(workspace);
  auto* parts = reinterpret_cast<double*>(bytes);
  T* slopes = plan.relaxed ? reinterpret_cast<T*>(bytes + quotient_up(plan.parts_bytes(), 16) * 16) : nullptr;
  const Status status = launch_constants(args, plan, slopes, parts, stream);
  if (status != kSuccess) return status;
  return launch_tiles(transposed_product<T>(args, slopes), args.arithmetic, bytes + plan.bytes(args.batch), stream);
}

LBP_INSTANTIATE_LAUNCHER(relax_backward_conv2d, RelaxBackwardConv2dArguments);

}  // namespace lbp::cuda
