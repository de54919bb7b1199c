// Parts of intervals through affine layers: from tensors to the kernels.
#include "torch/convolution.h"
#include "torch/ops.h"

namespace lbp::binding {
namespace {

void check_linear(const Tensor& rows, const Tensor& weight) {
  STD_TORCH_CHECK(rows.dim() == 2 && weight.dim() == 2 && rows.size(1) == weight.size(1),
                  "interval_linear: expected rows [batch, inputs] and weight [outputs, inputs] with the same inputs");
}

void check_result_gradients(const Tensor& first, const Tensor& second, const ConvolutionSizes& sizes) {
  const std::vector<int64_t> expected = {sizes.batch, sizes.outputs, sizes.output_height, sizes.output_width};
  STD_TORCH_CHECK(sizes_of(first) == expected && sizes_of(second) == expected,
                  "expected gradients like the convolution's result, which is of ", sizes.batch, " x ", sizes.outputs,
                  " x ", sizes.output_height, " x ", sizes.output_width);
}

}  // namespace

std::tuple<Tensor, Tensor> interval_linear_small_batch(Tensor center, Tensor radius, Tensor weight, OptionalTensor bias,
                                                       OptionalTensor margin, OptionalTensor margin_of_example) {
  return with_type(center, "interval_linear_small_batch", [&](auto type, Device on) {
    using T = decltype(type);
    check_linear(center, weight);
    const Index batch = center.size(0), inputs = weight.size(1), outputs = weight.size(0);
    const Tensor c = checked<T>(on, center, "center", batch * inputs),
                 r = checked<T>(on, radius, "radius", batch * inputs);
    const Tensor w = checked<T>(on, weight, "weight", outputs * inputs);
    std::optional<Tensor> b, m, of_example;
    if (bias.has_value()) b = checked<T>(on, *bias, "bias", outputs);
    if (margin.has_value()) m = checked<T>(on, *margin, "margin", outputs);
    if (margin_of_example.has_value()) of_example = checked<T>(on, *margin_of_example, "margin_of_example", batch);
    Tensor lower = empty<T>(center, {batch, outputs}), upper = empty<T>(center, {batch, outputs});
    launch::interval_linear<T>(
        on, {batch, inputs, outputs, c.const_data_ptr<T>(), r.const_data_ptr<T>(), w.const_data_ptr<T>(),
             b ? b->const_data_ptr<T>() : nullptr, m ? m->const_data_ptr<T>() : nullptr,
             of_example ? of_example->const_data_ptr<T>() : nullptr, lower.mutable_data_ptr<T>(),
             upper.mutable_data_ptr<T>()});
    return std::make_tuple(lower, upper);
  });
}

std::tuple<Tensor, Tensor, Tensor> interval_linear_small_batch_gradient(Tensor lower_gradient, Tensor upper_gradient,
                                                                        Tensor l, Tensor u, Tensor weight) {
  return with_type(l, "interval_linear_small_batch_gradient", [&](auto type, Device on) {
    using T = decltype(type);
    check_linear(l, weight);
    const Index batch = l.size(0), inputs = weight.size(1), outputs = weight.size(0);
    const Tensor to_lower = checked<T>(on, lower_gradient, "lower_gradient", batch * outputs);
    const Tensor to_upper = checked<T>(on, upper_gradient, "upper_gradient", batch * outputs);
    const Tensor low = checked<T>(on, l, "l", batch * inputs), high = checked<T>(on, u, "u", batch * inputs);
    const Tensor w = checked<T>(on, weight, "weight", outputs * inputs);
    Tensor to_l = empty<T>(l, {batch, inputs}), to_u = empty<T>(l, {batch, inputs});
    Tensor to_weight = empty<T>(l, {outputs, inputs});
    launch::interval_linear_gradient<T>(
        on, {batch, inputs, outputs, to_lower.const_data_ptr<T>(), to_upper.const_data_ptr<T>(),
             low.const_data_ptr<T>(), high.const_data_ptr<T>(), w.const_data_ptr<T>(), to_l.mutable_data_ptr<T>(),
             to_u.mutable_data_ptr<T>(), to_weight.mutable_data_ptr<T>()});
    return std::make_tuple(to_l, to_u, to_weight);
  });
}

std::tuple<Tensor, Tensor> interval_conv2d_direct(Tensor first, Tensor second, Tensor weight, OptionalTensor bias,
                                                  OptionalTensor margin, OptionalTensor margin_of_example,
                                                  double relative, double absolute, bool of_ends,
                                                  LBP_CONVOLUTION_PARAMETERS) {
  return with_type(first, "interval_conv2d_direct", [&](auto type, Device on) {
    using T = decltype(type);
    STD_TORCH_CHECK(sizes_of(second) == sizes_of(first), "interval_conv2d: expected two tensors of the same shape");
    STD_TORCH_CHECK(first.dim() == 4, "interval_conv2d: expected bounds [batch, channels, height, width]");
    IntervalConvolutionArguments<T> args = {};
    args.sizes = convolution_sizes("interval_conv2d", sizes_of(first), weight, stride, padding, dilation, groups);
    const Tensor a = checked<T>(on, first, "first", first.numel()), b = checked<T>(on, second, "second", first.numel());
    const Tensor w = checked<T>(on, weight, "weight", weight.numel());
    std::optional<Tensor> offset, m, of_example;
    if (bias.has_value()) offset = checked<T>(on, *bias, "bias", args.sizes.outputs);
    if (margin.has_value()) m = checked<T>(on, *margin, "margin", args.sizes.outputs);
    if (margin_of_example.has_value())
      of_example = checked<T>(on, *margin_of_example, "margin_of_example", args.sizes.batch);
    const std::vector<int64_t> shape = {args.sizes.batch, args.sizes.outputs, args.sizes.output_height,
                                        args.sizes.output_width};
    Tensor first_result = empty<T>(first, shape), second_result = empty<T>(first, shape);
    if (first_result.numel() == 0) return std::make_tuple(first_result, second_result);
    args.threads = Index(torch::stable::get_num_threads());
    args.of_ends = of_ends;
    args.by = {T(relative), T(absolute)};
    args.first = a.const_data_ptr<T>();
    args.second = b.const_data_ptr<T>();
    args.weight = w.const_data_ptr<T>();
    args.bias = offset ? offset->const_data_ptr<T>() : nullptr;
    args.margin = m ? m->const_data_ptr<T>() : nullptr;
    args.margin_of_example = of_example ? of_example->const_data_ptr<T>() : nullptr;
    args.first_result = first_result.mutable_data_ptr<T>();
    args.second_result = second_result.mutable_data_ptr<T>();
    launch::convolve_intervals<T>(on, args);
    return std::make_tuple(first_result, second_result);
  });
}

std::tuple<Tensor, Tensor> interval_conv2d_input_gradient(Tensor first_gradient, Tensor second_gradient, Tensor weight,
                                                          std::vector<int64_t> input_size, bool of_ends,
                                                          LBP_CONVOLUTION_PARAMETERS) {
  return with_type(first_gradient, "interval_conv2d_input_gradient", [&](auto type, Device on) {
    using T = decltype(type);
    STD_TORCH_CHECK(
        first_gradient.dim() == 4 && weight.dim() == 4 && input_size.size() == 2,
        "interval_conv2d: expected gradients [batch, C_out, height, width], a weight of four dimensions and "
        "two numbers for the size of the input");
    IntervalConvolutionInputGradientArguments<T> args = {};
    const std::vector<int64_t> shape = {first_gradient.size(0), weight.size(1) * groups, input_size[0], input_size[1]};
    args.sizes = convolution_sizes("interval_conv2d", shape, weight, stride, padding, dilation, groups);
    check_result_gradients(first_gradient, second_gradient, args.sizes);
    const Tensor a = checked<T>(on, first_gradient, "first_gradient", first_gradient.numel());
    const Tensor b = checked<T>(on, second_gradient, "second_gradient", first_gradient.numel());
    const Tensor w = checked<T>(on, weight, "weight", weight.numel());
    Tensor first_result = empty<T>(a, shape), second_result = empty<T>(a, shape);
    if (first_result.numel() == 0) return std::make_tuple(first_result, second_result);
    args.threads = Index(torch::stable::get_num_threads());
    args.of_ends = of_ends;
    args.first_gradient = a.const_data_ptr<T>();
    args.second_gradient = b.const_data_ptr<T>();
    args.weight = w.const_data_ptr<T>();
    args.first_result = first_result.mutable_data_ptr<T>();
    args.second_result = second_result.mutable_data_ptr<T>();
    launch::interval_convolution_input_gradient<T>(on, args);
    return std::make_tuple(first_result, second_result);
  });
}

Tensor conv2d_weight_gradient(Tensor first_gradient, OptionalTensor second_gradient, Tensor first,
                              OptionalTensor second, Tensor weight, bool of_ends, LBP_CONVOLUTION_PARAMETERS) {
  return with_type(first, "conv2d_weight_gradient", [&](auto type, Device on) {
    using T = decltype(type);
    STD_TORCH_CHECK(first.dim() == 4 && second.has_value() == second_gradient.has_value(),
                    "conv2d_weight_gradient: expected inputs [batch, channels, height, width], two with two gradients");
    ConvolutionWeightGradientArguments<T> args = {};
    args.sizes =
        convolution_sizes("conv2d_weight_gradient", sizes_of(first), weight, stride, padding, dilation, groups);
    check_result_gradients(first_gradient, second_gradient.has_value() ? *second_gradient : first_gradient, args.sizes);
    const Tensor x = checked<T>(on, first, "first", first.numel()),
                 w = checked<T>(on, weight, "weight", weight.numel());
    const Tensor g = checked<T>(on, first_gradient, "first_gradient", first_gradient.numel());
    std::optional<Tensor> other_x, other_g;
    if (second.has_value()) {
      other_x = checked<T>(on, *second, "second", first.numel());
      other_g = checked<T>(on, *second_gradient, "second_gradient", first_gradient.numel());
    }
    Tensor result = empty<T>(first, sizes_of(weight));
    if (first_gradient.numel() == 0 || result.numel() == 0) return torch::stable::zero_(result);
    args.threads = Index(torch::stable::get_num_threads());
    args.of_ends = of_ends;
    args.first_gradient = g.const_data_ptr<T>();
    args.second_gradient = other_g ? other_g->const_data_ptr<T>() : nullptr;
    args.first = x.const_data_ptr<T>();
    args.second = other_x ? other_x->const_data_ptr<T>() : nullptr;
    args.weight = w.const_data_ptr<T>();
    args.weight_gradient = result.mutable_data_ptr<T>();
    launch::convolution_weight_gradient<T>(on, args);
    return result;
  });
}

std::tuple<Tensor, Tensor> split_interval(Tensor l, Tensor u, double relative, double absolute) {
  return with_type(l, "split_interval", [&](auto type, Device on) {
    using T = decltype(type);
    const Tensor low = checked<T>(on, l, "l", l.numel()), high = checked<T>(on, u, "u", l.numel());
    Tensor center = empty<T>(l, sizes_of(l)), radius = empty<T>(l, sizes_of(l));
    launch::split_interval<T>(on, {l.numel(),
                                   {T(relative), T(absolute)},
                                   low.const_data_ptr<T>(),
                                   high.const_data_ptr<T>(),
                                   center.mutable_data_ptr<T>(),
                                   radius.mutable_data_ptr<T>()});
    return std::make_tuple(center, radius);
  });
}

std::tuple<Tensor, Tensor> join_interval(Tensor center, Tensor radius, bool outward) {
  return with_type(center, "join_interval", [&](auto type, Device on) {
    using T = decltype(type);
    const Tensor c = checked<T>(on, center, "center", center.numel());
    const Tensor r = checked<T>(on, radius, "radius", center.numel());
    Tensor lower = empty<T>(center, sizes_of(center)), upper = empty<T>(center, sizes_of(center));
    launch::join_interval<T>(on, {center.numel(), outward, c.const_data_ptr<T>(), r.const_data_ptr<T>(),
                                  lower.mutable_data_ptr<T>(), upper.mutable_data_ptr<T>()});
    return std::make_tuple(lower, upper);
  });
}

}  // namespace lbp::binding
