// ramp, ramp_interval, status_counts, bounding_lines and their gradients: from tensors to the kernels.
#include "torch/ops.h"

namespace lbp::binding {
namespace {

// [B, *shape] as a batch of neurons; a tensor without dimensions is one neuron.
struct Neurons {
  Index batch, count;
  explicit Neurons(const Tensor& tensor)
      : batch(tensor.dim() == 0 ? 1 : tensor.size(0)), count(trailing_size(tensor, 1)) {}
  Index total() const { return batch * count; }
};

std::vector<int64_t> neuron_shape(const Tensor& tensor) {
  std::vector<int64_t> sizes = sizes_of(tensor);
  if (!sizes.empty()) sizes.erase(sizes.begin());
  return sizes;
}

}  // namespace

Tensor ramp(Tensor z, LBP_RAMP_PARAMETERS) {
  return with_type(z, "ramp", [&](auto type, Device on) {
    using T = decltype(type);
    const Neurons neurons(z);
    const Tensor in = checked<T>(on, z, "z", neurons.total());
    const PerNeuronTensor<T> bend = per_neuron<T>(on, r, r_tensor, "r", neurons.count);
    const Eta<T> slope = outer_slope<T>(on, {r, r_tensor, eta, eta_tensor});
    Tensor out = empty<T>(z, sizes_of(z));
    launch::ramp<T>(on, {neurons.batch, neurons.count, in.const_data_ptr<T>(), bend.view(), slope.value,
                         out.mutable_data_ptr<T>(), slope.data});
    return out;
  });
}

std::tuple<Tensor, Tensor> ramp_gradient(Tensor gradient, Tensor z, LBP_RAMP_PARAMETERS, bool need_z, bool need_r) {
  return with_type(z, "ramp_gradient", [&](auto type, Device on) {
    using T = decltype(type);
    const Neurons neurons(z);
    const Tensor in = checked<T>(on, z, "z", neurons.total()),
                 to_out = checked<T>(on, gradient, "gradient", neurons.total());
    const PerNeuronTensor<T> bend = per_neuron<T>(on, r, r_tensor, "r", neurons.count);
    const Eta<T> slope = outer_slope<T>(on, {r, r_tensor, eta, eta_tensor});
    Tensor to_z = empty<T>(z, need_z ? sizes_of(z) : std::vector<int64_t>{0});
    Tensor to_r = empty<T>(z, need_r ? neuron_shape(z) : std::vector<int64_t>{0});
    launch::ramp_gradient<T>(
        on, {neurons.batch, neurons.count, in.const_data_ptr<T>(), bend.view(), slope.value, to_out.const_data_ptr<T>(),
             need_z ? to_z.mutable_data_ptr<T>() : nullptr, need_r ? to_r.mutable_data_ptr<T>() : nullptr, slope.data});
    return std::make_tuple(to_z, to_r);
  });
}

std::tuple<Tensor, Tensor, Tensor> ramp_interval(Tensor l, Tensor u, LBP_RAMP_PARAMETERS, bool count_status) {
  return with_type(l, "ramp_interval", [&](auto type, Device on) {
    using T = decltype(type);
    const Neurons neurons(l);
    if (l.dim() > 0) check_layer(u, "u", l, 1);
    const Tensor low = checked<T>(on, l, "l", neurons.total()), high = checked<T>(on, u, "u", neurons.total());
    const PerNeuronTensor<T> bend = per_neuron<T>(on, r, r_tensor, "r", neurons.count);
    const Eta<T> slope = outer_slope<T>(on, {r, r_tensor, eta, eta_tensor});
    Tensor lower = empty<T>(l, sizes_of(l)), upper = empty<T>(l, sizes_of(l));
    Tensor counts = empty_of(l, {count_status ? 6 : 0}, ScalarType::Long);
    launch::ramp_interval<T>(on, {neurons.batch, neurons.count, low.const_data_ptr<T>(), high.const_data_ptr<T>(),
                                  bend.view(), slope.value, lower.mutable_data_ptr<T>(), upper.mutable_data_ptr<T>(),
                                  count_status ? static_cast<Index*>(counts.mutable_data_ptr()) : nullptr, slope.data});
    return std::make_tuple(lower, upper, counts);
  });
}

std::tuple<Tensor, Tensor, Tensor> ramp_interval_gradient(Tensor lower_gradient, Tensor upper_gradient, Tensor l,
                                                          Tensor u, LBP_RAMP_PARAMETERS, bool need_r) {
  return with_type(l, "ramp_interval_gradient", [&](auto type, Device on) {
    using T = decltype(type);
    const Neurons neurons(l);
    const Index total = neurons.total();
    const Tensor low = checked<T>(on, l, "l", total), high = checked<T>(on, u, "u", total);
    const Tensor to_lower = checked<T>(on, lower_gradient, "lower_gradient", total);
    const Tensor to_upper = checked<T>(on, upper_gradient, "upper_gradient", total);
    const PerNeuronTensor<T> bend = per_neuron<T>(on, r, r_tensor, "r", neurons.count);
    const Eta<T> slope = outer_slope<T>(on, {r, r_tensor, eta, eta_tensor});
    Tensor to_l = empty<T>(l, sizes_of(l)), to_u = empty<T>(l, sizes_of(l));
    Tensor to_r = empty<T>(l, need_r ? neuron_shape(l) : std::vector<int64_t>{0});
    launch::ramp_interval_gradient<T>(
        on, {neurons.batch, neurons.count, low.const_data_ptr<T>(), high.const_data_ptr<T>(), bend.view(), slope.value,
             to_lower.const_data_ptr<T>(), to_upper.const_data_ptr<T>(), to_l.mutable_data_ptr<T>(),
             to_u.mutable_data_ptr<T>(), need_r ? to_r.mutable_data_ptr<T>() : nullptr, slope.data});
    return std::make_tuple(to_l, to_u, to_r);
  });
}

Tensor status_counts(Tensor l, Tensor u, double r, OptionalTensor r_tensor) {
  return with_type(l, "status_counts", [&](auto type, Device on) {
    using T = decltype(type);
    const Neurons neurons(l);
    if (l.dim() > 0) check_layer(u, "u", l, 1);
    const Tensor low = checked<T>(on, l, "l", neurons.total()), high = checked<T>(on, u, "u", neurons.total());
    const PerNeuronTensor<T> bend = per_neuron<T>(on, r, r_tensor, "r", neurons.count);
    Tensor counts = empty_of(l, {6}, ScalarType::Long);
    launch::status_counts<T>(on, {neurons.batch, neurons.count, low.const_data_ptr<T>(), high.const_data_ptr<T>(),
                                  bend.view(), static_cast<Index*>(counts.mutable_data_ptr())});
    return counts;
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor> bounding_lines(LBP_RELAXATION_PARAMETERS) {
  return with_type(l, "bounding_lines", [&](auto type, Device on) {
    using T = decltype(type);
    const Neurons neurons(l);
    const OwnedRelaxation<T> owned = relaxation<T>(on, LBP_RELAXATION_TENSORS, neurons.batch, neurons.count);
    Tensor ls = empty<T>(l, sizes_of(l)), li = empty<T>(l, sizes_of(l)), us = empty<T>(l, sizes_of(l)),
           ui = empty<T>(l, sizes_of(l));
    launch::bounding_lines<T>(on, {neurons.batch, neurons.count, owned.view, ls.mutable_data_ptr<T>(),
                                   li.mutable_data_ptr<T>(), us.mutable_data_ptr<T>(), ui.mutable_data_ptr<T>()});
    return std::make_tuple(ls, li, us, ui);
  });
}

std::tuple<LBP_RELAXATION_GRADIENT_TYPES> bounding_lines_gradient(Tensor lower_slope_gradient,
                                                                  Tensor lower_intercept_gradient,
                                                                  Tensor upper_slope_gradient,
                                                                  Tensor upper_intercept_gradient,
                                                                  LBP_RELAXATION_PARAMETERS, int64_t needs) {
  return with_type(l, "bounding_lines_gradient", [&](auto type, Device on) {
    using T = decltype(type);
    const Neurons neurons(l);
    const Index total = neurons.total();
    const OwnedRelaxation<T> owned = relaxation<T>(on, LBP_RELAXATION_TENSORS, neurons.batch, neurons.count);
    const Tensor ls = checked<T>(on, lower_slope_gradient, "lower_slope_gradient", total);
    const Tensor li = checked<T>(on, lower_intercept_gradient, "lower_intercept_gradient", total);
    const Tensor us = checked<T>(on, upper_slope_gradient, "upper_slope_gradient", total);
    const Tensor ui = checked<T>(on, upper_intercept_gradient, "upper_intercept_gradient", total);
    RelaxationGradientTensors<T> gradients(l, neurons.batch, strategy, needs);
    launch::bounding_lines_gradient<T>(
        on, {neurons.batch, neurons.count, owned.view, ls.const_data_ptr<T>(), li.const_data_ptr<T>(),
             us.const_data_ptr<T>(), ui.const_data_ptr<T>(), gradients.view()});
    return gradients.tuple();
  });
}

}  // namespace lbp::binding
