// The fused products on CUDA devices: from tensors to the launch functions of csrc/cuda/launch_products.h. On the CPU
// the same ops are passes of ours and the library's products, registered in lbp/ops.
#ifdef LBP_HAVE_CUDA

#include "cuda/launch.h"
#include "torch/insert_forward.h"
#include "torch/ops.h"

namespace lbp::binding {
namespace {

template <typename T>
const T* data_of(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? tensor->const_data_ptr<T>() : nullptr;
}

template <typename T>
std::optional<Tensor> checked_if_given(Device on, const OptionalTensor& tensor, const char* name, Index numel) {
  if (!tensor.has_value()) return std::nullopt;
  return checked<T>(on, *tensor, name, numel);
}

std::vector<int64_t> leading_sizes(const Tensor& tensor, int64_t count, std::initializer_list<int64_t> rest) {
  std::vector<int64_t> sizes = sizes_of(tensor);
  sizes.resize(std::size_t(count));
  sizes.insert(sizes.end(), rest);
  return sizes;
}

// A layer with the tensors that its pointers refer to, and the sizes of what it takes and gives.
template <typename Layer>
struct Owned {
  Layer layer;
  Tensor weight;
  std::optional<Tensor> bias;
  std::vector<int64_t> input, output;
};

template <typename T>
Owned<LinearLayer<T>> linear_layer(Device on, const Tensor& weight, const OptionalTensor& bias) {
  STD_TORCH_CHECK(weight.dim() == 2, "weight: expected [outputs, inputs], got ", weight.dim(), " dimensions");
  const Index outputs = weight.size(0), inputs = weight.size(1);
  Owned<LinearLayer<T>> owned = {{},
                                 checked<T>(on, weight, "weight", outputs * inputs),
                                 checked_if_given<T>(on, bias, "bias", outputs),
                                 {inputs},
                                 {outputs}};
  owned.layer = {inputs, outputs, owned.weight.template const_data_ptr<T>(), data_of<T>(owned.bias)};
  return owned;
}

struct Geometry {
  std::vector<int64_t> stride, padding, dilation;
  int64_t groups;
};

int as_int(Index value, const char* name) {
  STD_TORCH_CHECK(value >= 0 && value <= 0x7fffffff, name, ": ", value, " is out of the range of a convolution");
  return int(value);
}

Extent extent(const std::vector<int64_t>& sizes, const char* name) {
  STD_TORCH_CHECK(sizes.size() == 2, name, ": expected two numbers, got ", sizes.size());
  return {as_int(sizes[0], name), as_int(sizes[1], name)};
}

int output_size(int input, int kernel, int stride, int padding, int dilation) {
  const Index reach = Index(input) + 2 * Index(padding) - Index(dilation) * (kernel - 1) - 1;
  STD_TORCH_CHECK(reach >= 0, "the kernel of size ", kernel, " and dilation ", dilation,
                  " is larger than the padded input of size ", Index(input) + 2 * Index(padding));
  return as_int(reach / stride + 1, "output");
}

template <typename T>
Owned<ConvolutionLayer<T>> convolution_layer(Device on, const Tensor& weight, const OptionalTensor& bias,
                                             const std::vector<int64_t>& input_size, const Geometry& geometry) {
  STD_TORCH_CHECK(weight.dim() == 4, "weight: expected [out_channels, channels / groups, height, width], got ",
                  weight.dim(), " dimensions");
  ConvolutionLayer<T> layer = {};
  layer.groups = as_int(geometry.groups, "groups");
  layer.out_channels = as_int(weight.size(0), "weight");
  STD_TORCH_CHECK(layer.groups > 0 && layer.out_channels % layer.groups == 0, "groups: ", geometry.groups,
                  " does not divide the ", layer.out_channels, " output channels");
  layer.channels = as_int(weight.size(1) * layer.groups, "weight");
  layer.kernel = {as_int(weight.size(2), "weight"), as_int(weight.size(3), "weight")};
  layer.input = extent(input_size, "input_size");
  layer.stride = extent(geometry.stride, "stride");
  layer.padding = extent(geometry.padding, "padding");
  layer.dilation = extent(geometry.dilation, "dilation");
  STD_TORCH_CHECK(layer.stride.height > 0 && layer.stride.width > 0, "stride: expected numbers above 0");
  STD_TORCH_CHECK(layer.dilation.height > 0 && layer.dilation.width > 0, "dilation: expected numbers above 0");
  STD_TORCH_CHECK(layer.kernel.height > 0 && layer.kernel.width > 0, "weight: expected a kernel with entries");
  layer.output = {output_size(layer.input.height, layer.kernel.height, layer.stride.height, layer.padding.height,
                              layer.dilation.height),
                  output_size(layer.input.width, layer.kernel.width, layer.stride.width, layer.padding.width,
                              layer.dilation.width)};
  // Kernels count within an image, along the depth of a product and beyond the edge of an image in int, also how far an
  // entry of the kernel reads from the first one in memory.
  const Index entries = Index(layer.kernel.height) * layer.kernel.width;
  as_int(layer.channels / layer.groups * entries, "weight");
  as_int(layer.out_channels / layer.groups * entries, "weight");
  const Extent reach = {as_int(Index(layer.dilation.height) * (layer.kernel.height - 1), "dilation"),
                        as_int(Index(layer.dilation.width) * (layer.kernel.width - 1), "dilation")};
  for (const Extent& beyond : {layer.padding, reach}) {
    as_int(2 * Index(beyond.height), "padding or dilation");
    as_int(2 * Index(beyond.width), "padding or dilation");
  }
  const auto check_image = [&](int channels, const Extent& size, const char* name) {
    as_int((Index(channels) * size.height + reach.height) * size.width + reach.width, name);
  };
  check_image(layer.channels, layer.input, "input and dilation");
  check_image(layer.out_channels, layer.output, "output and dilation");
  Owned<ConvolutionLayer<T>> owned = {layer,
                                      checked<T>(on, weight, "weight", weight.numel()),
                                      checked_if_given<T>(on, bias, "bias", layer.out_channels),
                                      {layer.channels, layer.input.height, layer.input.width},
                                      {layer.out_channels, layer.output.height, layer.output.width}};
  owned.layer.weight = owned.weight.template const_data_ptr<T>();
  owned.layer.bias = data_of<T>(owned.bias);
  return owned;
}

Index product_of(const std::vector<int64_t>& sizes) {
  Index product = 1;
  for (const int64_t size : sizes) product *= size;
  return product;
}

// Refuses a tensor whose last sizes are not those of a layer's neurons.
void check_last_sizes(const Tensor& tensor, const char* name, const std::vector<int64_t>& sizes) {
  const int64_t first = tensor.dim() - int64_t(sizes.size());
  bool same = first >= 0;
  for (std::size_t i = 0; same && i < sizes.size(); ++i) same = tensor.size(first + int64_t(i)) == sizes[i];
  STD_TORCH_CHECK(same, name, ": the last sizes of its shape do not fit the layer");
}

std::vector<int64_t> last_sizes(const Tensor& tensor, int64_t count) {
  const std::vector<int64_t> sizes = sizes_of(tensor);
  STD_TORCH_CHECK(tensor.dim() >= count, "expected at least ", count, " dimensions, got ", tensor.dim());
  return {sizes.end() - count, sizes.end()};
}

// By how much bounds of an interval move outward: the widening of the input, and a margin for each row of W or output
// channel, and for each example.
struct OutwardTensors {
  double relative, absolute;
  Tensor margin;
  OptionalTensor margin_of_example;
};

// `outward` null: rounded to nearest.
template <typename T, typename Layer, typename Launch, typename Bytes>
std::tuple<Tensor, Tensor> interval(Device on, const char* op, const Tensor& l, const Tensor& u,
                                    const OutwardTensors* outward, const Owned<Layer>& owned, const Bytes& bytes,
                                    const Launch& launch) {
  check_last_sizes(l, "l", owned.input);
  STD_TORCH_CHECK(sizes_of(u) == sizes_of(l), "u: expected the shape of l");
  const Tensor lower_in = checked<T>(on, l, "l", l.numel()), upper_in = checked<T>(on, u, "u", l.numel());
  const int64_t leading = l.dim() - int64_t(owned.input.size());
  std::vector<int64_t> sizes = leading_sizes(l, leading, {});
  const Index batch = product_of(sizes);
  sizes.insert(sizes.end(), owned.output.begin(), owned.output.end());
  Tensor lower = empty<T>(l, sizes), upper = empty<T>(l, sizes);
  IntervalProductArguments<T, Layer> args = {batch,
                                             owned.layer,
                                             lower_in.const_data_ptr<T>(),
                                             upper_in.const_data_ptr<T>(),
                                             lower.mutable_data_ptr<T>(),
                                             upper.mutable_data_ptr<T>(),
                                             arithmetic()};
  std::optional<Tensor> margin, margin_of_example;
  if (outward != nullptr) {
    margin = checked<T>(on, outward->margin, "margin", owned.output[0]);
    args.arithmetic = Arithmetic::kPlain;  // nobody specifies what tensor cores round
    args.by = {T(outward->relative), T(outward->absolute)};
    args.margin = margin->template const_data_ptr<T>();
    margin_of_example = checked_if_given<T>(on, outward->margin_of_example, "margin_of_example", batch);
    args.margin_of_example = data_of<T>(margin_of_example);
  }
  on_cuda(on, op, bytes(args), [&](void* workspace, void* stream) { return launch(args, workspace, stream); });
  return {lower, upper};
}

// The two launch functions of an op as arguments.
#define LBP_LAUNCH_FUNCTIONS(op)                                     \
  [](const auto& args) { return cuda::op##_workspace_bytes(args); }, \
      [](const auto& args, void* workspace, void* stream) { return cuda::op(args, workspace, stream); }

std::tuple<Tensor, Tensor> interval_linear(Tensor l, Tensor u, Tensor weight, OptionalTensor bias) {
  return with_type(l, "interval_linear", [&](auto type, Device on) {
    using T = decltype(type);
    return interval<T>(on, "interval_linear", l, u, nullptr, linear_layer<T>(on, weight, bias),
                       LBP_LAUNCH_FUNCTIONS(interval_linear));
  });
}

std::tuple<Tensor, Tensor> interval_linear_outward(Tensor l, Tensor u, Tensor weight, OptionalTensor bias,
                                                   double relative, double absolute, Tensor margin,
                                                   OptionalTensor margin_of_example) {
  return with_type(l, "interval_linear", [&](auto type, Device on) {
    using T = decltype(type);
    const OutwardTensors outward = {relative, absolute, margin, margin_of_example};
    return interval<T>(on, "interval_linear", l, u, &outward, linear_layer<T>(on, weight, bias),
                       LBP_LAUNCH_FUNCTIONS(interval_linear));
  });
}

std::tuple<Tensor, Tensor> interval_conv2d_fused(Tensor l, Tensor u, Tensor weight, OptionalTensor bias,
                                                 std::vector<int64_t> stride, std::vector<int64_t> padding,
                                                 std::vector<int64_t> dilation, int64_t groups) {
  return with_type(l, "interval_conv2d", [&](auto type, Device on) {
    using T = decltype(type);
    const auto layer = convolution_layer<T>(on, weight, bias, last_sizes(l, 2), {stride, padding, dilation, groups});
    return interval<T>(on, "interval_conv2d", l, u, nullptr, layer, LBP_LAUNCH_FUNCTIONS(interval_conv2d));
  });
}

std::tuple<Tensor, Tensor> interval_conv2d_outward(Tensor l, Tensor u, Tensor weight, OptionalTensor bias,
                                                   double relative, double absolute, Tensor margin,
                                                   OptionalTensor margin_of_example, std::vector<int64_t> stride,
                                                   std::vector<int64_t> padding, std::vector<int64_t> dilation,
                                                   int64_t groups) {
  return with_type(l, "interval_conv2d", [&](auto type, Device on) {
    using T = decltype(type);
    const OutwardTensors outward = {relative, absolute, margin, margin_of_example};
    const auto layer = convolution_layer<T>(on, weight, bias, last_sizes(l, 2), {stride, padding, dilation, groups});
    return interval<T>(on, "interval_conv2d", l, u, &outward, layer, LBP_LAUNCH_FUNCTIONS(interval_conv2d));
  });
}

using FourTensors = std::tuple<Tensor, Tensor, Tensor, Tensor>;

// center [B, n0, *input], radius like it or absent; center_bias [B, *input], radius_bias like it or absent.
struct ForwardTensors {
  Tensor center;
  OptionalTensor radius;
  Tensor center_bias;
  OptionalTensor radius_bias;
};

template <typename T, typename Layer, typename Launch, typename Bytes>
FourTensors forward(Device on, const char* op, const ForwardTensors& in, const Owned<Layer>& owned, const Bytes& bytes,
                    const Launch& launch) {
  check_last_sizes(in.center, "center", owned.input);
  check_last_sizes(in.center_bias, "center_bias", owned.input);
  check_same_shape(in.radius, "radius", in.center, "center");
  check_same_shape(in.radius_bias, "radius_bias", in.center_bias, "center_bias");
  const Index matrix = in.center.numel(), vector = in.center_bias.numel();
  const Tensor center = checked<T>(on, in.center, "center", matrix);
  const Tensor center_bias = checked<T>(on, in.center_bias, "center_bias", vector);
  const auto radius = checked_if_given<T>(on, in.radius, "radius", matrix);
  const auto radius_bias = checked_if_given<T>(on, in.radius_bias, "radius_bias", vector);
  const auto rows = [&](const Tensor& tensor) {
    Index count = 1;
    for (int64_t i = 0; i < tensor.dim() - int64_t(owned.input.size()); ++i) count *= tensor.size(i);
    return count;
  };
  const auto output = [&](const Tensor& like, bool present) {
    if (!present) return empty<T>(like, std::vector<int64_t>{0});
    std::vector<int64_t> sizes = leading_sizes(like, like.dim() - int64_t(owned.input.size()), {});
    sizes.insert(sizes.end(), owned.output.begin(), owned.output.end());
    return empty<T>(like, sizes);
  };
  Tensor center_out = output(in.center, true), radius_out = output(in.center, radius.has_value());
  Tensor center_bias_out = output(in.center_bias, true);
  Tensor radius_bias_out = output(in.center_bias, radius_bias.has_value());
  const ForwardProductArguments<T, Layer> args = {
      rows(in.center),
      rows(in.center_bias),
      owned.layer,
      center.const_data_ptr<T>(),
      data_of<T>(radius),
      center_bias.const_data_ptr<T>(),
      data_of<T>(radius_bias),
      center_out.mutable_data_ptr<T>(),
      radius.has_value() ? radius_out.mutable_data_ptr<T>() : nullptr,
      center_bias_out.mutable_data_ptr<T>(),
      radius_bias.has_value() ? radius_bias_out.mutable_data_ptr<T>() : nullptr,
      arithmetic()};
  on_cuda(on, op, bytes(args), [&](void* workspace, void* stream) { return launch(args, workspace, stream); });
  return {center_out, radius_out, center_bias_out, radius_bias_out};
}

FourTensors forward_linear(Tensor center, OptionalTensor radius, Tensor center_bias, OptionalTensor radius_bias,
                           Tensor weight, OptionalTensor bias) {
  return with_type(center, "forward_linear", [&](auto type, Device on) {
    using T = decltype(type);
    return forward<T>(on, "forward_linear", {center, radius, center_bias, radius_bias},
                      linear_layer<T>(on, weight, bias), LBP_LAUNCH_FUNCTIONS(forward_linear));
  });
}

FourTensors forward_conv2d(Tensor center, OptionalTensor radius, Tensor center_bias, OptionalTensor radius_bias,
                           Tensor weight, OptionalTensor bias, std::vector<int64_t> stride,
                           std::vector<int64_t> padding, std::vector<int64_t> dilation, int64_t groups) {
  return with_type(center, "forward_conv2d", [&](auto type, Device on) {
    using T = decltype(type);
    const Geometry geometry = {stride, padding, dilation, groups};
    return forward<T>(on, "forward_conv2d", {center, radius, center_bias, radius_bias},
                      convolution_layer<T>(on, weight, bias, last_sizes(center, 2), geometry),
                      LBP_LAUNCH_FUNCTIONS(forward_conv2d));
  });
}

std::tuple<Tensor, Tensor> insert_forward_fused(Tensor A, Tensor center, OptionalTensor radius, Tensor center_bias,
                                                OptionalTensor radius_bias, int64_t sides) {
  return with_type(A, "insert_forward", [&](auto type, Device on) {
    using T = decltype(type);
    const InsertionTensors<T> in(on, A, center, radius, center_bias, radius_bias, sides);
    Tensor out = empty<T>(A, leading_sizes(A, 3, {in.inputs}));
    Tensor constants = empty_of(A, leading_sizes(A, 3, {}), ScalarType::Double);
    auto args = in.template arguments<InsertForwardArguments<T>>(sides);
    args.coefficients = out.mutable_data_ptr<T>();
    args.constants = constants.mutable_data_ptr<double>();
    args.arithmetic = arithmetic();
    on_cuda(on, "insert_forward", cuda::insert_forward_workspace_bytes(args),
            [&](void* workspace, void* stream) { return cuda::insert_forward(args, workspace, stream); });
    return std::make_tuple(out, constants);
  });
}

// `relaxed` null: no activation; then all sides are rows of one.
template <typename T, typename Layer, typename Launch, typename Bytes>
std::tuple<Tensor, Tensor> back_substitute(Device on, const char* op, const Tensor& A, int64_t sides,
                                           const RelaxationTensors* relaxed, const Owned<Layer>& owned,
                                           const Bytes& bytes, const Launch& launch) {
  const CoefficientsTensor<T> matrix = coefficients<T>(A, sides);
  check_last_sizes(A, "A", owned.output);
  STD_TORCH_CHECK(A.dim() == 3 + int64_t(owned.output.size()), "A: expected [sides, batch, rows] before the layer");
  std::vector<int64_t> sizes = leading_sizes(A, 3, {});
  Tensor constants = empty_of(A, sizes, ScalarType::Double);
  sizes.insert(sizes.end(), owned.input.begin(), owned.input.end());
  Tensor out = empty<T>(A, sizes);
  RelaxBackwardProductArguments<T, Layer> args = {int(sides),
                                                  matrix.batch,
                                                  matrix.rows,
                                                  matrix.view,
                                                  {},
                                                  owned.layer,
                                                  out.mutable_data_ptr<T>(),
                                                  constants.mutable_data_ptr<double>(),
                                                  arithmetic()};
  OwnedRelaxation<T> relaxation_tensors = {};
  Tensor copied;
  if (relaxed != nullptr) {
    check_layer(relaxed->l, "l", A, 3);
    relaxation_tensors = relaxation<T>(on, *relaxed, matrix.batch, matrix.size);
    args.relaxation = relaxation_tensors.view;
  } else {
    args.sides = 0;
    if (A.size(0) == 2) {
      copied = torch::stable::contiguous(A);
      args.batch = 2 * matrix.batch;
      args.A = {copied.const_data_ptr<T>(), 0, matrix.rows * matrix.size, matrix.size};
    }
  }
  on_cuda(on, op, bytes(args), [&](void* workspace, void* stream) { return launch(args, workspace, stream); });
  return {out, constants};
}

std::tuple<Tensor, Tensor> relax_backward_linear_fused(Tensor A, LBP_RELAXATION_PARAMETERS, Tensor weight,
                                                       OptionalTensor bias, int64_t sides) {
  const RelaxationTensors relaxed = LBP_RELAXATION_TENSORS;
  return with_type(A, "relax_backward_linear", [&](auto type, Device on) {
    using T = decltype(type);
    return back_substitute<T>(on, "relax_backward_linear", A, sides, &relaxed, linear_layer<T>(on, weight, bias),
                              LBP_LAUNCH_FUNCTIONS(relax_backward_linear));
  });
}

std::tuple<Tensor, Tensor> relax_backward_conv2d(Tensor A, LBP_RELAXATION_PARAMETERS, Tensor weight,
                                                 OptionalTensor bias, std::vector<int64_t> input_size,
                                                 std::vector<int64_t> stride, std::vector<int64_t> padding,
                                                 std::vector<int64_t> dilation, int64_t groups, int64_t sides) {
  const RelaxationTensors relaxed = LBP_RELAXATION_TENSORS;
  return with_type(A, "relax_backward_conv2d", [&](auto type, Device on) {
    using T = decltype(type);
    const auto layer = convolution_layer<T>(on, weight, bias, input_size, {stride, padding, dilation, groups});
    return back_substitute<T>(on, "relax_backward_conv2d", A, sides, &relaxed, layer,
                              LBP_LAUNCH_FUNCTIONS(relax_backward_conv2d));
  });
}

std::tuple<Tensor, Tensor> backward_conv2d(Tensor A, Tensor weight, OptionalTensor bias,
                                           std::vector<int64_t> input_size, std::vector<int64_t> stride,
                                           std::vector<int64_t> padding, std::vector<int64_t> dilation,
                                           int64_t groups) {
  return with_type(A, "backward_conv2d", [&](auto type, Device on) {
    using T = decltype(type);
    const auto layer = convolution_layer<T>(on, weight, bias, input_size, {stride, padding, dilation, groups});
    const int64_t sides = A.dim() > 0 && A.size(0) == 2 ? 3 : 1;
    return back_substitute<T>(on, "backward_conv2d", A, sides, nullptr, layer,
                              LBP_LAUNCH_FUNCTIONS(relax_backward_conv2d));
  });
}

}  // namespace
}  // namespace lbp::binding

STABLE_TORCH_LIBRARY_IMPL(lbp, CUDA, library) {
  library.impl("interval_linear", TORCH_BOX(&lbp::binding::interval_linear));
  library.impl("interval_linear_outward", TORCH_BOX(&lbp::binding::interval_linear_outward));
  library.impl("interval_conv2d_fused", TORCH_BOX(&lbp::binding::interval_conv2d_fused));
  library.impl("interval_conv2d_outward", TORCH_BOX(&lbp::binding::interval_conv2d_outward));
  library.impl("forward_linear", TORCH_BOX(&lbp::binding::forward_linear));
  library.impl("forward_conv2d", TORCH_BOX(&lbp::binding::forward_conv2d));
  library.impl("insert_forward_fused", TORCH_BOX(&lbp::binding::insert_forward_fused));
  library.impl("relax_backward_linear_fused", TORCH_BOX(&lbp::binding::relax_backward_linear_fused));
  library.impl("relax_backward_conv2d", TORCH_BOX(&lbp::binding::relax_backward_conv2d));
  library.impl("backward_conv2d", TORCH_BOX(&lbp::binding::backward_conv2d));
}

#endif
