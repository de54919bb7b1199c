#include "cuda/kernels/affine_conv2d.cuh"

#include "cuda/tile_plan.h"

namespace lbp::cuda {
namespace {

template <typename T, bool kInterval>
ConvolutionProduct<T, kInterval> convolution_product(const ConvolutionLayer<T>& layer, Index images) {
  ConvolutionProduct<T, kInterval> product = {};
  product.batches = layer.groups;
  product.rows = images * layer.output.height * layer.output.width;
  product.columns = layer.out_channels / layer.groups;
  product.depth = Index(layer.channels / layer.groups) * layer.kernel.height * layer.kernel.width;
  product.layer = layer;
  return product;
}

template <typename T>
ConvolutionProduct<T, true> interval_product(const IntervalConv2dArguments<T>& args) {
  auto product = convolution_product<T, true>(args.layer, args.batch);
  product.images = args.batch;
  product.first = args.l;
  product.second = args.u;
  product.first_out = args.lower;
  product.second_out = args.upper;
  product.by = args.by;
  product.margin = args.margin;
  product.margin_of_example = args.margin_of_example;
  return product;
}

template <typename T>
ConvolutionProduct<T, false> forward_product(const ForwardConv2dArguments<T>& args) {
  auto product = convolution_product<T, false>(args.layer, args.rows + args.bias_rows);
  product.images = args.rows;
  product.first = args.center;
  product.second = args.radius;
  product.first_bias = args.center_bias;
  product.second_bias = args.radius_bias;
  product.first_out = args.center_out;
  product.second_out = args.radius_out;
  product.first_bias_out = args.center_bias_out;
  product.second_bias_out = args.radius_bias_out;
  return product;
}

}  // namespace

template <typename T>
Index interval_conv2d_workspace_bytes(const IntervalConv2dArguments<T>& args) {
  return tiles_workspace_bytes(interval_product(args), args.arithmetic);
}

template <typename T>
Status interval_conv2d(const IntervalConv2dArguments<T>& args, void* workspace, Stream stream) {
  return launch_tiles(interval_product(args), args.arithmetic, workspace, stream);
}

template <typename T>
Index forward_conv2d_workspace_bytes(const ForwardConv2dArguments<T>& args) {
  return tiles_workspace_bytes(forward_product(args), args.arithmetic);
}

template <typename T>
Status forward_conv2d(const ForwardConv2dArguments<T>& args, void* workspace, Stream stream) {
  return launch_tiles(forward_product(args), args.arithmetic, workspace, stream);
}

LBP_INSTANTIATE_LAUNCHER(interval_conv2d, IntervalConv2dArguments);
LBP_INSTANTIATE_LAUNCHER(forward_conv2d, ForwardConv2dArguments);

}  // namespace lbp::cuda
