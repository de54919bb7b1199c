// relax_backward, relax_forward and their gradients: from tensors to the kernels.
#include "torch/ops.h"

namespace lbp::binding {
namespace {

std::vector<int64_t> with_batch(const Tensor& tensor, Index batch) {
  std::vector<int64_t> sizes = sizes_of(tensor);
  sizes[0] = batch;
  return sizes;
}

Index first_size(const Tensor& tensor) { return tensor.dim() == 0 ? 1 : tensor.size(0); }

// A [1 or B, n0, *shape] with its vector [1 or B, *shape], and the batch that bounds, matrices and vectors agree on.
template <typename T>
struct ForwardMatrices {
  Index batch, inputs, neurons;
  Batched<T> center, center_bias;
  std::optional<Batched<T>> radius, radius_bias;

  ForwardMatrices(Device on, const Tensor& center_tensor, const OptionalTensor& radius_tensor,
                  const Tensor& center_bias_tensor, const OptionalTensor& radius_bias_tensor, const Tensor& l)
      : batch(common_batch({first_size(center_tensor), first_size(center_bias_tensor), first_size(l)})),
        inputs(center_tensor.size(1)),
        neurons(trailing_size(center_tensor, 2)),
        center(batched<T>(on, center_tensor, "center", batch, inputs * neurons)),
        center_bias(batched<T>(on, center_bias_tensor, "center_bias", batch, neurons)) {
    check_layer(center_bias_tensor, "center_bias", center_tensor, 2);
    check_layer(l, "l", center_tensor, 2);
    check_same_shape(radius_tensor, "radius", center_tensor, "center");
    check_same_shape(radius_bias_tensor, "radius_bias", center_bias_tensor, "center_bias");
    if (radius_tensor.has_value()) radius = batched<T>(on, *radius_tensor, "radius", batch, inputs * neurons);
    if (radius_bias_tensor.has_value())
      radius_bias = batched<T>(on, *radius_bias_tensor, "radius_bias", batch, neurons);
  }

  const T* radius_data() const { return radius ? radius->data : nullptr; }
  const T* radius_bias_data() const { return radius_bias ? radius_bias->data : nullptr; }
};

void check_matrix(const Tensor& center) { STD_TORCH_CHECK(center.dim() >= 2, "center: expected [batch, inputs, ...]"); }

// Gradients of the lines and of the bias; that of A goes to `to_A`, which may be null, or what `to_relaxed` holds.
template <typename T>
std::tuple<LBP_RELAXATION_GRADIENT_TYPES, Tensor> gradients_through(Device on, const Tensor& to_relaxed,
                                                                    const Tensor& constants_gradient, const Tensor& A,
                                                                    const RelaxationTensors& tensors,
                                                                    const OptionalTensor& bias, int64_t sides,
                                                                    int64_t needs, T* to_A) {
  const CoefficientsTensor<T> matrix = coefficients<T>(A, sides);
  check_layer(tensors.l, "l", A, 3);
  const OwnedRelaxation<T> owned = relaxation<T>(on, tensors, matrix.batch, matrix.size);
  const PerNeuronTensor<T> offset = per_neuron<T>(on, 0, bias, "bias", matrix.size);
  const Tensor to_constants =
      checked<double>(on, constants_gradient, "constants_gradient", A.size(0) * A.size(1) * A.size(2));
  const bool need_bias = needs & kNeedBias;
  std::vector<int64_t> bias_sizes = {0};
  if (need_bias) {
    bias_sizes = sizes_of(A);
    bias_sizes.erase(bias_sizes.begin());
    bias_sizes.erase(bias_sizes.begin() + 1);
  }
  Tensor to_bias = empty<T>(A, bias_sizes);
  RelaxationGradientTensors<T> gradients(tensors.l, matrix.batch, tensors.strategy, needs);
  launch::relax_backward_gradient<T>(on, {int(sides), matrix.batch, matrix.rows, matrix.size, matrix.view, owned.view,
                                          bias.has_value() ? offset.view() : PerNeuron<T>{nullptr, 1, 1},
                                          to_relaxed.const_data_ptr<T>(), to_constants.const_data_ptr<double>(), to_A,
                                          gradients.view(), need_bias ? to_bias.mutable_data_ptr<T>() : nullptr});
  return std::tuple_cat(gradients.tuple(), std::make_tuple(to_bias));
}

}  // namespace

std::tuple<Tensor, Tensor> relax_backward(Tensor A, LBP_RELAXATION_PARAMETERS, OptionalTensor bias, int64_t sides) {
  return with_type(A, "relax_backward", [&](auto type, Device on) {
    using T = decltype(type);
    const CoefficientsTensor<T> matrix = coefficients<T>(A, sides);
    check_layer(l, "l", A, 3);
    const OwnedRelaxation<T> owned = relaxation<T>(on, LBP_RELAXATION_TENSORS, matrix.batch, matrix.size);
    const PerNeuronTensor<T> offset = per_neuron<T>(on, 0, bias, "bias", matrix.size);
    Tensor relaxed = empty<T>(A, sizes_of(A));
    Tensor constants = empty_of(A, {A.size(0), A.size(1), A.size(2)}, ScalarType::Double);
    launch::relax_backward<T>(on, {int(sides), matrix.batch, matrix.rows, matrix.size, matrix.view, owned.view,
                                   bias.has_value() ? offset.view() : PerNeuron<T>{nullptr, 1, 1},
                                   relaxed.mutable_data_ptr<T>(), constants.mutable_data_ptr<double>()});
    return std::make_tuple(relaxed, constants);
  });
}

std::tuple<Tensor, LBP_RELAXATION_GRADIENT_TYPES, Tensor> relax_backward_gradient(Tensor relaxed_gradient,
                                                                                  Tensor constants_gradient, Tensor A,
                                                                                  LBP_RELAXATION_PARAMETERS,
                                                                                  OptionalTensor bias, int64_t sides,
                                                                                  int64_t needs) {
  return with_type(A, "relax_backward_gradient", [&](auto type, Device on) {
    using T = decltype(type);
    const Tensor to_relaxed = checked<T>(on, relaxed_gradient, "relaxed_gradient", A.numel());
    const bool need_A = needs & kNeedMatrix;
    Tensor to_A = empty<T>(A, need_A ? sizes_of(A) : std::vector<int64_t>{0});
    return std::tuple_cat(std::make_tuple(to_A),
                          gradients_through<T>(on, to_relaxed, constants_gradient, A, LBP_RELAXATION_TENSORS, bias,
                                               sides, needs, need_A ? to_A.mutable_data_ptr<T>() : nullptr));
  });
}

std::tuple<LBP_RELAXATION_GRADIENT_TYPES, Tensor> relax_backward_gradient_(Tensor relaxed_gradient,
                                                                           Tensor constants_gradient, Tensor A,
                                                                           LBP_RELAXATION_PARAMETERS,
                                                                           OptionalTensor bias, int64_t sides,
                                                                           int64_t needs) {
  return with_type(A, "relax_backward_gradient_", [&](auto type, Device on) {
    using T = decltype(type);
    STD_TORCH_CHECK(relaxed_gradient.is_contiguous(), "relaxed_gradient: expected a contiguous tensor to write to");
    const Tensor to_relaxed = checked<T>(on, relaxed_gradient, "relaxed_gradient", A.numel());
    return gradients_through<T>(on, to_relaxed, constants_gradient, A, LBP_RELAXATION_TENSORS, bias, sides, needs,
                                relaxed_gradient.mutable_data_ptr<T>());
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor> relax_forward(Tensor center, OptionalTensor radius, Tensor center_bias,
                                                         OptionalTensor radius_bias, LBP_RELAXATION_PARAMETERS) {
  check_matrix(center);
  return with_type(center, "relax_forward", [&](auto type, Device on) {
    using T = decltype(type);
    const ForwardMatrices<T> in(on, center, radius, center_bias, radius_bias, l);
    const OwnedRelaxation<T> owned = relaxation<T>(on, LBP_RELAXATION_TENSORS, in.batch, in.neurons);
    Tensor center_out = empty<T>(center, with_batch(center, in.batch)),
           radius_out = empty<T>(center, with_batch(center, in.batch));
    Tensor center_bias_out = empty<T>(center, with_batch(center_bias, in.batch));
    Tensor radius_bias_out = empty<T>(center, with_batch(center_bias, in.batch));
    launch::relax_forward<T>(on, {in.batch, in.inputs, in.neurons, in.center.data, in.radius_data(), in.center.stride,
                                  in.center_bias.data, in.radius_bias_data(), in.center_bias.stride, owned.view,
                                  center_out.mutable_data_ptr<T>(), radius_out.mutable_data_ptr<T>(),
                                  center_bias_out.mutable_data_ptr<T>(), radius_bias_out.mutable_data_ptr<T>()});
    return std::make_tuple(center_out, radius_out, center_bias_out, radius_bias_out);
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor, LBP_RELAXATION_GRADIENT_TYPES> relax_forward_gradient(
    Tensor center_gradient, Tensor radius_gradient, Tensor center_bias_gradient, Tensor radius_bias_gradient,
    Tensor center, OptionalTensor radius, Tensor center_bias, OptionalTensor radius_bias, LBP_RELAXATION_PARAMETERS,
    int64_t needs) {
  check_matrix(center);
  return with_type(center, "relax_forward_gradient", [&](auto type, Device on) {
    using T = decltype(type);
    const ForwardMatrices<T> in(on, center, radius, center_bias, radius_bias, l);
    const OwnedRelaxation<T> owned = relaxation<T>(on, LBP_RELAXATION_TENSORS, in.batch, in.neurons);
    const Index matrix_size = in.batch * in.inputs * in.neurons, vector_size = in.batch * in.neurons;
    const Tensor to_center_out = checked<T>(on, center_gradient, "center_gradient", matrix_size);
    const Tensor to_radius_out = checked<T>(on, radius_gradient, "radius_gradient", matrix_size);
    const Tensor to_center_bias_out = checked<T>(on, center_bias_gradient, "center_bias_gradient", vector_size);
    const Tensor to_radius_bias_out = checked<T>(on, radius_bias_gradient, "radius_bias_gradient", vector_size);
    const bool matrix = needs & kNeedMatrix;
    const std::vector<int64_t> none = {0};
    Tensor to_center = empty<T>(center, matrix ? with_batch(center, in.batch) : none);
    Tensor to_radius = empty<T>(center, matrix && in.radius ? with_batch(center, in.batch) : none);
    Tensor to_center_bias = empty<T>(center, matrix ? with_batch(center_bias, in.batch) : none);
    Tensor to_radius_bias = empty<T>(center, matrix && in.radius_bias ? with_batch(center_bias, in.batch) : none);
    RelaxationGradientTensors<T> gradients(l, in.batch, strategy, needs);
    const auto data = [](Tensor& tensor) { return tensor.numel() == 0 ? nullptr : tensor.mutable_data_ptr<T>(); };
    launch::relax_forward_gradient<T>(
        on, {in.batch, in.inputs, in.neurons, in.center.data, in.radius_data(), in.center.stride, in.center_bias.data,
             in.radius_bias_data(), in.center_bias.stride, owned.view, to_center_out.const_data_ptr<T>(),
             to_radius_out.const_data_ptr<T>(), to_center_bias_out.const_data_ptr<T>(),
             to_radius_bias_out.const_data_ptr<T>(), data(to_center), data(to_radius), data(to_center_bias),
             data(to_radius_bias), gradients.view()});
    return std::tuple_cat(std::make_tuple(to_center, to_radius, to_center_bias, to_radius_bias), gradients.tuple());
  });
}

}  // namespace lbp::binding
