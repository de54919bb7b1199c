// Parts of intervals through affine layers: from tensors to the kernels.
#include "torch/ops.h"

namespace lbp::binding {

std::tuple<Tensor, Tensor> interval_linear_small_batch(Tensor center, Tensor radius, Tensor weight, OptionalTensor bias,
                                                       OptionalTensor margin, OptionalTensor margin_of_example) {
  return with_type(center, "interval_linear_small_batch", [&](auto type, Device on) {
    using T = decltype(type);
    STD_TORCH_CHECK(
        center.dim() == 2 && weight.dim() == 2 && center.size(1) == weight.size(1),
        "interval_linear: expected center [batch, inputs] and weight [outputs, inputs] with the same inputs");
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
