// interval_linear for a few examples: from tensors to the kernels.
#include "torch/ops.h"

namespace lbp::binding {

std::tuple<Tensor, Tensor> interval_linear_small_batch(Tensor center, Tensor radius, Tensor weight,
                                                       OptionalTensor bias) {
  return with_type(center, "interval_linear_small_batch", [&](auto type, Device on) {
    using T = decltype(type);
    STD_TORCH_CHECK(
        center.dim() == 2 && weight.dim() == 2 && center.size(1) == weight.size(1),
        "interval_linear: expected center [batch, inputs] and weight [outputs, inputs] with the same inputs");
    const Index batch = center.size(0), inputs = weight.size(1), outputs = weight.size(0);
    const Tensor c = checked<T>(on, center, "center", batch * inputs),
                 r = checked<T>(on, radius, "radius", batch * inputs);
    const Tensor w = checked<T>(on, weight, "weight", outputs * inputs);
    std::optional<Tensor> b;
    if (bias.has_value()) b = checked<T>(on, *bias, "bias", outputs);
    Tensor lower = empty<T>(center, {batch, outputs}), upper = empty<T>(center, {batch, outputs});
    launch::interval_linear<T>(
        on, {batch, inputs, outputs, c.const_data_ptr<T>(), r.const_data_ptr<T>(), w.const_data_ptr<T>(),
             b ? b->const_data_ptr<T>() : nullptr, lower.mutable_data_ptr<T>(), upper.mutable_data_ptr<T>()});
    return std::make_tuple(lower, upper);
  });
}

}  // namespace lbp::binding
