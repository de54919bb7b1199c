#include "cuda/kernels/insert_forward.cuh"

#include "cuda/tile_plan.h"

namespace lbp::cuda {
namespace {

template <typename T>
InsertProduct<T> insert_product(const InsertForwardArguments<T>& args) {
  // Images that share the matrices are rows of one product.
  const bool shared = args.matrix_batch_stride == 0 && args.bias_batch_stride == 0;
  const Index images = shared ? args.batch : 1, sides = side_count(args.sides);
  return {
      args.batch / larger(images, Index(1)), sides * images * args.rows, args.inputs, args.neurons, args, images, 0};
}

}  // namespace

template <typename T>
Index insert_forward_workspace_bytes(const InsertForwardArguments<T>& args) {
  return tiles_workspace_bytes(insert_product(args), args.arithmetic);
}

template <typename T>
Status insert_forward(const InsertForwardArguments<T>& args, void* workspace, Stream stream) {
  return launch_tiles(insert_product(args), args.arithmetic, workspace, stream);
}

LBP_INSTANTIATE_LAUNCHER(insert_forward, InsertForwardArguments);

}  // namespace lbp::cuda
