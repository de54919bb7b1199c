// relax_windows, relax_backward_conv2d_windows and backward_conv2d_windows: from tensors to the kernels.
#include "torch/windows.h"

#include "torch/ops.h"

namespace lbp::binding {
namespace {

// The convolution of a layer of `outputs` channels, with its target windows inside the layer below.
template <typename T>
struct OwnedConvolution {
  Tensor weight, corners, packed;
  WindowConvolution<T> view;

  OwnedConvolution(Device on, const Tensor& kernel, const Tensor& where, const std::vector<int64_t>& window,
                   const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                   const std::vector<int64_t>& dilation, int64_t groups, Index outputs, Index rows) {
    STD_TORCH_CHECK(kernel.dim() == 4 && kernel.size(0) == outputs, "weight: expected [", outputs,
                    ", C_in / groups, kernel height, kernel width]");
    STD_TORCH_CHECK(stride.size() == 2 && padding.size() == 2 && dilation.size() == 2 && window.size() == 2,
                    "stride, padding, dilation and window: expected two numbers each");
    STD_TORCH_CHECK(groups >= 1 && outputs % groups == 0, "groups: expected a divisor of ", outputs, ", got ", groups);
    for (size_t i = 0; i < 2; ++i) {
      STD_TORCH_CHECK(is_step(stride[i]) && is_size(padding[i]) && is_step(dilation[i]) && is_size(window[i]),
                      "stride and dilation: expected 1 to ", kMost, "; padding and window: 0 to ", kMost);
    }
    weight = checked<T>(on, kernel, "weight", kernel.numel());
    corners = checked_integers(on, where, "corners", 2);
    STD_TORCH_CHECK(corners.size(0) == rows, "corners: expected one for each of ", rows, " rows");
    view = {};
    view.weight = weight.numel() == 0 ? nullptr : weight.const_data_ptr<T>();
    view.inputs = kernel.size(1) * groups;
    view.groups = groups;
    for (int i = 0; i < 2; ++i) {
      view.kernel[i] = kernel.size(2 + i);
      view.stride[i] = stride[size_t(i)];
      view.padding[i] = padding[size_t(i)];
      view.dilation[i] = dilation[size_t(i)];
    }
    view.height = window[0];
    view.width = window[1];
    view.corners = corners.numel() == 0 ? nullptr : reinterpret_cast<const Index*>(corners.const_data_ptr<int64_t>());
    packed = empty<T>(kernel, {on.is_cpu() ? launch::cpu_kernels<T>().packed_weight_size(view, outputs) : 0});
    view.packed = packed.numel() == 0 ? nullptr : packed.mutable_data_ptr<T>();
  }
};

// Of one image, as the CPU kernels want it; launches on CUDA devices have a workspace.
template <typename T>
Tensor room_for_lines(Device on, const Tensor& A, const RowWindows<T>& view) {
  return empty<T>(A, {on.is_cpu() ? view.layer_height * view.layer_width * 5 * view.channels : 0});
}

template <typename T>
std::tuple<Tensor, Tensor> convolved(Device on, const WindowsTensor<T>& windows, const OwnedConvolution<T>& convolution,
                                     const Relaxation<T>& relaxation, const PerNeuron<T>& bias, const Tensor& A,
                                     int64_t sides) {
  const RowWindows<T>& view = windows.view;
  Tensor lines = room_for_lines<T>(on, A, view);
  Tensor coefficients =
      empty<T>(A, {A.size(0), view.rows, convolution.view.height, convolution.view.width, convolution.view.inputs});
  Tensor constants = empty_of(A, {A.size(0), view.rows}, ScalarType::Double);
  launch::relax_convolve_windows<T>(on, {{int(sides), view, relaxation, bias, lines.mutable_data_ptr<T>(), nullptr,
                                          constants.mutable_data_ptr<double>()},
                                         convolution.view,
                                         coefficients.mutable_data_ptr<T>(),
                                         arithmetic()});
  return std::make_tuple(coefficients, constants);
}

// Windows of a layer, the lines of its activation, and the bias of the layer below.
template <typename T>
struct ActivationWindows {
  Index batch, neurons;
  WindowsTensor<T> windows;
  OwnedRelaxation<T> relaxation;
  PerNeuronTensor<T> offset;
  PerNeuron<T> bias;  // data null: none

  ActivationWindows(Device on, const Tensor& A, const Tensor& rows, const RelaxationTensors& given,
                    const OptionalTensor& bias_below, int64_t sides)
      : batch(checked_layer(given.l).size(0)),
        neurons(trailing_size(given.l, 1)),
        windows(on, A, rows, given.l.size(2), given.l.size(3), given.l.size(1), batch, sides),
        relaxation(binding::relaxation<T>(on, given, batch, neurons)),
        offset(per_neuron<T>(on, 0, bias_below, "bias", neurons)),
        bias(bias_below.has_value() ? offset.view() : PerNeuron<T>{nullptr, 1, 1}) {}

  static const Tensor& checked_layer(const Tensor& l) {
    STD_TORCH_CHECK(l.dim() == 4, "l: expected [batch, C, h, w]");
    return l;
  }
};

}  // namespace

std::tuple<Tensor, Tensor> relax_windows(Tensor A, Tensor rows, LBP_RELAXATION_PARAMETERS, OptionalTensor bias,
                                         int64_t sides) {
  return with_type(A, "relax_windows", [&](auto type, Device on) {
    using T = decltype(type);
    const ActivationWindows<T> in(on, A, rows, LBP_RELAXATION_TENSORS, bias, sides);
    const RowWindows<T>& view = in.windows.view;
    Tensor lines = room_for_lines<T>(on, A, view);
    Tensor relaxed = empty<T>(A, {A.size(0), view.rows, view.height, view.width, view.channels});
    Tensor constants = empty_of(A, {A.size(0), view.rows}, ScalarType::Double);
    launch::relax_windows<T>(on, {int(sides), view, in.relaxation.view, in.bias, lines.mutable_data_ptr<T>(),
                                  relaxed.mutable_data_ptr<T>(), constants.mutable_data_ptr<double>()});
    return std::make_tuple(relaxed, constants);
  });
}

std::tuple<Tensor, LBP_RELAXATION_GRADIENT_TYPES, Tensor> relax_windows_gradient(Tensor relaxed_gradient,
                                                                                 Tensor constants_gradient, Tensor A,
                                                                                 Tensor rows, LBP_RELAXATION_PARAMETERS,
                                                                                 OptionalTensor bias, int64_t sides,
                                                                                 int64_t needs) {
  return with_type(A, "relax_windows_gradient", [&](auto type, Device on) {
    using T = decltype(type);
    const ActivationWindows<T> in(on, A, rows, LBP_RELAXATION_TENSORS, bias, sides);
    const Index count = A.size(0) * in.windows.view.rows;
    const Tensor to_relaxed = checked<T>(on, relaxed_gradient, "relaxed_gradient", count * trailing_size(A, 2));
    const Tensor to_constants = checked<double>(on, constants_gradient, "constants_gradient", count);
    const bool need_A = needs & kNeedMatrix, need_bias = needs & kNeedBias;
    Tensor to_A = empty<T>(A, need_A ? sizes_of(A) : std::vector<int64_t>{0});
    Tensor to_bias = empty<T>(A, need_bias ? sizes_of(l) : std::vector<int64_t>{0});
    RelaxationGradientTensors<T> gradients(l, in.batch, strategy, needs);
    const RelaxWindowsGradientArguments<T> args = {int(sides),
                                                   in.windows.view,
                                                   in.relaxation.view,
                                                   in.bias,
                                                   to_relaxed.const_data_ptr<T>(),
                                                   to_constants.const_data_ptr<double>(),
                                                   need_A ? to_A.mutable_data_ptr<T>() : nullptr,
                                                   gradients.view(),
                                                   need_bias ? to_bias.mutable_data_ptr<T>() : nullptr};
    launch::relax_windows_gradient<T>(on, args);
    return std::tuple_cat(std::make_tuple(to_A), gradients.tuple(), std::make_tuple(to_bias));
  });
}

std::tuple<Tensor, Tensor> relax_backward_conv2d_windows(Tensor A, Tensor rows, LBP_RELAXATION_PARAMETERS,
                                                         Tensor weight, OptionalTensor bias, Tensor corners,
                                                         std::vector<int64_t> window, LBP_CONVOLUTION_PARAMETERS,
                                                         int64_t sides) {
  return with_type(A, "relax_backward_conv2d_windows", [&](auto type, Device on) {
    using T = decltype(type);
    const ActivationWindows<T> in(on, A, rows, LBP_RELAXATION_TENSORS, bias, sides);
    const OwnedConvolution<T> convolution(on, weight, corners, window, stride, padding, dilation, groups, l.size(1),
                                          rows.size(0));
    return convolved<T>(on, in.windows, convolution, in.relaxation.view, in.bias, A, sides);
  });
}

std::tuple<Tensor, Tensor> backward_conv2d_windows(Tensor A, Tensor rows, std::vector<int64_t> layer, Tensor weight,
                                                   OptionalTensor bias, Tensor corners, std::vector<int64_t> window,
                                                   LBP_CONVOLUTION_PARAMETERS) {
  return with_type(A, "backward_conv2d_windows", [&](auto type, Device on) {
    using T = decltype(type);
    STD_TORCH_CHECK(layer.size() == 2 && layer[0] >= 1 && layer[1] >= 1, "layer: expected rows and columns");
    STD_TORCH_CHECK(A.dim() == 5, "A: expected [K, rows, height, width, C]");
    // Every side is treated alike without an activation, and no image is looked at.
    const int64_t sides = A.size(0) == 2 ? 3 : 1;
    const WindowsTensor<T> windows(on, A, rows, layer[0], layer[1], A.size(4), Index(1) << 40, sides);
    const PerNeuronTensor<T> offset = per_neuron<T>(on, 0, bias, "bias", layer[0] * layer[1] * A.size(4));
    const OwnedConvolution<T> convolution(on, weight, corners, window, stride, padding, dilation, groups, A.size(4),
                                          rows.size(0));
    return convolved<T>(on, windows, convolution, Relaxation<T>{},
                        bias.has_value() ? offset.view() : PerNeuron<T>{nullptr, 1, 1}, A, sides);
  });
}

}  // namespace lbp::binding
