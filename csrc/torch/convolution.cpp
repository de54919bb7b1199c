// Coefficients through convolutions: from tensors to the kernels.
#include "torch/convolution.h"

namespace lbp::binding {

ConvolutionSizes convolution_sizes(const char* op, const std::vector<int64_t>& shape, const Tensor& weight,
                                   LBP_CONVOLUTION_PARAMETERS) {
  STD_TORCH_CHECK(weight.dim() == 4, op, ": expected a weight [outputs, channels / groups, rows, columns]");
  STD_TORCH_CHECK(stride.size() == 2 && padding.size() == 2 && dilation.size() == 2,
                  "stride, padding and dilation: expected two numbers each");
  ConvolutionSizes sizes = {};
  sizes.batch = shape[0];
  sizes.channels = shape[1];
  sizes.height = shape[2];
  sizes.width = shape[3];
  sizes.groups = groups;
  sizes.outputs = weight.size(0);
  STD_TORCH_CHECK(groups >= 1 && sizes.channels == weight.size(1) * groups && sizes.outputs % groups == 0, op,
                  ": a weight for ", weight.size(1), " channels and ", sizes.outputs, " outputs in ", groups,
                  " groups does not fit to layers with ", sizes.channels, " channels");
  Index counts[2] = {};
  for (int i = 0; i < 2; ++i) {
    const size_t axis = size_t(i);
    STD_TORCH_CHECK(stride[axis] >= 1 && dilation[axis] >= 1 && padding[axis] >= 0,
                    "stride and dilation: expected at least 1; padding: at least 0");
    sizes.kernel[i] = weight.size(2 + i);
    sizes.stride[i] = stride[axis];
    sizes.padding[i] = padding[axis];
    sizes.dilation[i] = dilation[axis];
    const Index room = shape[2 + axis] + 2 * padding[axis] - dilation[axis] * (sizes.kernel[i] - 1) - 1;
    STD_TORCH_CHECK(sizes.kernel[i] >= 1 && room >= 0, op, ": the kernel of ", weight.size(2), " x ", weight.size(3),
                    " does not fit in the padded layer");
    counts[i] = room / stride[axis] + 1;
  }
  sizes.output_height = counts[0];
  sizes.output_width = counts[1];
  return sizes;
}

namespace {

void check_outputs(const Tensor& A, const ConvolutionSizes& sizes) {
  STD_TORCH_CHECK(A.size(3) == sizes.outputs && A.size(4) == sizes.output_height && A.size(5) == sizes.output_width,
                  "backward_conv2d: the convolution has an output of ", sizes.outputs, " x ", sizes.output_height,
                  " x ", sizes.output_width, ", A is for ", A.size(3), " x ", A.size(4), " x ", A.size(5));
}

}  // namespace

std::tuple<Tensor, Tensor> backward_conv2d_direct(Tensor A, Tensor weight, OptionalTensor bias,
                                                  std::vector<int64_t> input_size, LBP_CONVOLUTION_PARAMETERS) {
  return with_type(A, "backward_conv2d_direct", [&](auto type, Device on) {
    using T = decltype(type);
    STD_TORCH_CHECK(A.dim() == 6 && weight.dim() == 4 && input_size.size() == 2,
                    "backward_conv2d: expected A [sides, batch, rows, C_out, height, width], a weight of four "
                    "dimensions and two numbers for the size of the input");
    BackwardConvolutionArguments<T> args = {};
    const std::vector<int64_t> layers = {A.size(0) * A.size(1) * A.size(2), weight.size(1) * groups, input_size[0],
                                         input_size[1]};
    args.sizes = convolution_sizes("backward_conv2d", layers, weight, stride, padding, dilation, groups);
    check_outputs(A, args.sizes);
    const Tensor rows = checked<T>(on, A, "A", A.numel()), w = checked<T>(on, weight, "weight", weight.numel());
    std::optional<Tensor> offset;
    if (bias.has_value()) offset = checked<T>(on, *bias, "bias", args.sizes.outputs);
    Tensor result = empty<T>(A, {A.size(0), A.size(1), A.size(2), layers[1], layers[2], layers[3]});
    Tensor constants = empty<double>(A, {A.size(0), A.size(1), A.size(2)});
    if (constants.numel() == 0) return std::make_tuple(result, constants);
    args.threads = Index(torch::stable::get_num_threads());
    args.A = rows.const_data_ptr<T>();
    args.weight = w.const_data_ptr<T>();
    args.bias = offset ? offset->const_data_ptr<T>() : nullptr;
    args.result = result.mutable_data_ptr<T>();
    args.constants = constants.mutable_data_ptr<double>();
    launch::backward_convolution<T>(on, args);
    return std::make_tuple(result, constants);
  });
}

Tensor backward_conv2d_direct_gradient(Tensor coefficients_gradient, Tensor constants_gradient, Tensor weight,
                                       OptionalTensor bias, LBP_CONVOLUTION_PARAMETERS) {
  return with_type(coefficients_gradient, "backward_conv2d_direct_gradient", [&](auto type, Device on) {
    using T = decltype(type);
    const Tensor& gradient = coefficients_gradient;
    STD_TORCH_CHECK(gradient.dim() == 6,
                    "backward_conv2d: expected a gradient [sides, batch, rows, C_in, height, "
                    "width]");
    const Index batch = gradient.size(0) * gradient.size(1) * gradient.size(2);
    BackwardConvolutionGradientArguments<T> args = {};
    args.sizes = convolution_sizes("backward_conv2d", {batch, gradient.size(3), gradient.size(4), gradient.size(5)},
                                   weight, stride, padding, dilation, groups);
    const Tensor source = checked<T>(on, gradient, "gradient of the coefficients", gradient.numel());
    const Tensor scale = checked<double>(on, constants_gradient, "gradient of the constants", batch);
    const Tensor w = checked<T>(on, weight, "weight", weight.numel());
    std::optional<Tensor> offset;
    if (bias.has_value()) offset = checked<T>(on, *bias, "bias", args.sizes.outputs);
    Tensor result = empty<T>(gradient, {gradient.size(0), gradient.size(1), gradient.size(2), args.sizes.outputs,
                                        args.sizes.output_height, args.sizes.output_width});
    if (result.numel() == 0) return result;
    args.threads = Index(torch::stable::get_num_threads());
    args.gradient = source.const_data_ptr<T>();
    args.constants_gradient = scale.const_data_ptr<double>();
    args.weight = w.const_data_ptr<T>();
    args.bias = offset ? offset->const_data_ptr<T>() : nullptr;
    args.A_gradient = result.mutable_data_ptr<T>();
    launch::backward_convolution_gradient<T>(on, args);
    return result;
  });
}

}  // namespace lbp::binding
