#include "cuda/kernels/bounding_lines.cuh"

#include "cuda/grid.h"

namespace lbp::cuda {

template <typename T>
Index bounding_lines_workspace_bytes(const BoundingLinesArguments<T>&) {
  return 0;
}

template <typename T>
Status bounding_lines(const BoundingLinesArguments<T>& args, void*, Stream stream) {
  const Index blocks = quotient_up(args.batch * args.neurons, kThreads);
  return LBP_LAUNCH_BLOCKS((bounding_lines_kernel<T>), blocks, 0, stream, args);
}

template <typename T>
Index bounding_lines_gradient_workspace_bytes(const BoundingLinesGradientArguments<T>&) {
  return 0;
}

template <typename T>
Status bounding_lines_gradient(const BoundingLinesGradientArguments<T>& args, void*, Stream stream) {
  const Index blocks = quotient_up(args.batch * args.neurons, kThreads);
  return LBP_LAUNCH_BLOCKS((bounding_lines_gradient_kernel<T>), blocks, 0, stream, args);
}

LBP_INSTANTIATE_LAUNCHER(bounding_lines, BoundingLinesArguments);
LBP_INSTANTIATE_LAUNCHER(bounding_lines_gradient, BoundingLinesGradientArguments);

}  // namespace lbp::cuda
