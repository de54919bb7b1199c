#include "cuda/kernels/relax_linear.cuh"

#include "cuda/tile_plan.h"

namespace lbp::cuda {
namespace {

// As many images in a product as fill a tile.
template <typename T>
RelaxLinearProduct<T> relax_product(const RelaxBackwardLinearArguments<T>& args) {
  const Index rows = slot_count(args.sides, args.rows);
  const Index fitting = Tiles<T>::Tall::kRows / larger(rows, Index(1));
  const Index images = larger(smaller(smaller(fitting, Index(kMostImages)), args.batch), Index(1));
  return {quotient_up(args.batch, images), images * rows, args.layer.inputs, args.layer.outputs, args, images, 0};
}

}  // namespace

template <typename T>
Index relax_backward_linear_workspace_bytes(const RelaxBackwardLinearArguments<T>& args) {
  return tiles_workspace_bytes(relax_product(args), args.arithmetic);
}

template <typename T>
Status relax_backward_linear(const RelaxBackwardLinearArguments<T>& args, void* workspace, Stream stream) {
  return launch_tiles(relax_product(args), args.arithmetic, workspace, stream);
}

LBP_INSTANTIATE_LAUNCHER(relax_backward_linear, RelaxBackwardLinearArguments);

}  // namespace lbp::cuda
