// concretize, concretize_forward and their gradients: from tensors to the kernels.
#include <cmath>

#include "torch/ops.h"
#include "torch/windows.h"

namespace lbp::binding {
namespace {

// The dual exponent of p as the kernels have it: infinity is 0.
double dual_exponent(double p) {
  STD_TORCH_CHECK(p >= 1, "p: expected at least 1, got ", p);
  if (p == 1) return 0;
  return std::isinf(p) ? 1 : p / (p - 1);
}

// A box [x, x_U] where x_U is given, else the l_p ball around x.
template <typename T>
struct OwnedRegion {
  std::vector<Tensor> storage;
  Region<T> view;

  OwnedRegion(Device on, const RegionTensors& tensors, Index batch, Index inputs) {
    const auto& [x, x_U, eps, eps_tensor, p] = tensors;
    const Batched<T> low = batched<T>(on, x, x_U.has_value() ? "x_L" : "x0", batch, inputs);
    storage = {low.storage};
    view = {low.data, nullptr, low.stride, eps, nullptr, 0, 1};
    if (x_U.has_value()) {
      const Batched<T> high = batched<T>(on, *x_U, "x_U", batch, inputs);
      STD_TORCH_CHECK(high.stride == low.stride, "x_U: expected the batch size of x_L");
      storage.push_back(high.storage);
      view.x_U = high.data;
      return;
    }
    view.q = dual_exponent(p);
    if (!eps_tensor.has_value()) return;
    const Tensor radius = checked<double>(on, *eps_tensor, "eps", eps_tensor->numel() == 1 ? 1 : batch);
    storage.push_back(radius);
    view.eps_data = radius.const_data_ptr<double>();
    view.eps_stride = radius.numel() == 1 ? 0 : 1;
  }
};

// Rows that are windows of the images x [B, h, w, C], and the region around these.
template <typename T>
struct ImageWindows {
  WindowsTensor<T> windows;
  OwnedRegion<T> region;

  ImageWindows(Device on, const Tensor& A, const Tensor& rows, const RegionTensors& tensors, int64_t sides)
      : windows(on, A, rows, checked_image(tensors.x).size(1), tensors.x.size(2), tensors.x.size(3), tensors.x.size(0),
                sides),
        region(on, tensors, tensors.x.size(0), trailing_size(tensors.x, 1)) {}

  static const Tensor& checked_image(const Tensor& x) {
    STD_TORCH_CHECK(x.dim() == 4, "x: expected a batch of images with channels last [batch, h, w, C]");
    return x;
  }
};

// What is evaluated for every neuron of a layer; `magnitude` is empty where it is not wanted.
template <typename T>
struct NeuronBounds {
  Tensor l, u, magnitude;

  NeuronBounds(const Tensor& like, const std::vector<int64_t>& sizes, const OwnedRegion<T>& region, bool with_magnitude)
      : l(empty<T>(like, sizes)),
        u(empty<T>(like, sizes)),
        magnitude(empty<T>(like, with_magnitude ? sizes : std::vector<int64_t>{0})),
        wanted(with_magnitude) {
    STD_TORCH_CHECK(!wanted || region.view.x_U != nullptr, "magnitude: over a box only, x_U is missing");
  }
  T* magnitude_data() { return wanted ? magnitude.template mutable_data_ptr<T>() : nullptr; }

 private:
  bool wanted;
};

Index batch_of(const Tensor& center, const Tensor& center_bias, const Tensor& x) {
  STD_TORCH_CHECK(center.dim() >= 2 && center_bias.dim() >= 1 && x.dim() >= 1,
                  "expected center [batch, inputs, ...], center_bias [batch, ...] and x [batch, ...]");
  return common_batch({center.size(0), center_bias.size(0), x.size(0)});
}

// The windows that a matrix [B, C0, kh, kw, C, H, W] holds of an image x [B, C0, rows, columns].
Windows windows_on(const Tensor& center, const Tensor& x, const std::vector<int64_t>& scale,
                   const std::vector<int64_t>& offset) {
  check_window_matrix(center, "center");
  STD_TORCH_CHECK(x.dim() == 4 && x.size(1) == center.size(1), "x: expected an image [batch, ", center.size(1),
                  ", rows, columns]");
  return windows_of(center, x.size(2), x.size(3), scale, offset);
}

std::vector<int64_t> window_bounds_shape(const Tensor& center, Index batch) {
  return {batch, center.size(4), center.size(5), center.size(6)};
}

std::vector<int64_t> bounds_shape(const Tensor& center, Index batch) {
  std::vector<int64_t> sizes = sizes_of(center);
  sizes.erase(sizes.begin() + 1);
  sizes[0] = batch;
  return sizes;
}

}  // namespace

Tensor concretize(Tensor A, LBP_REGION_PARAMETERS, int64_t sides) {
  return with_type(A, "concretize", [&](auto type, Device on) {
    using T = decltype(type);
    const CoefficientsTensor<T> matrix = coefficients<T>(A, sides);
    const OwnedRegion<T> region(on, {x, x_U, eps, eps_tensor, p}, matrix.batch, matrix.size);
    Tensor bounds = empty_of(A, {A.size(0), A.size(1), A.size(2)}, ScalarType::Double);
    launch::concretize<T>(on, {int(sides), matrix.batch, matrix.rows, matrix.size, matrix.view, region.view,
                               bounds.mutable_data_ptr<double>()});
    return bounds;
  });
}

Tensor concretize_gradient(Tensor bounds_gradient, Tensor A, LBP_REGION_PARAMETERS, int64_t sides) {
  return with_type(A, "concretize_gradient", [&](auto type, Device on) {
    using T = decltype(type);
    const CoefficientsTensor<T> matrix = coefficients<T>(A, sides);
    const OwnedRegion<T> region(on, {x, x_U, eps, eps_tensor, p}, matrix.batch, matrix.size);
    const Tensor to_bounds = checked<double>(on, bounds_gradient, "bounds_gradient", A.size(0) * A.size(1) * A.size(2));
    Tensor to_A = empty<T>(A, sizes_of(A));
    launch::concretize_gradient<T>(on, {int(sides), matrix.batch, matrix.rows, matrix.size, matrix.view, region.view,
                                        to_bounds.const_data_ptr<double>(), to_A.mutable_data_ptr<T>()});
    return to_A;
  });
}

Tensor concretize_windows(Tensor A, Tensor rows, LBP_REGION_PARAMETERS, int64_t sides) {
  return with_type(A, "concretize_windows", [&](auto type, Device on) {
    using T = decltype(type);
    const ImageWindows<T> in(on, A, rows, {x, x_U, eps, eps_tensor, p}, sides);
    Tensor bounds = empty_of(A, {A.size(0), rows.size(0)}, ScalarType::Double);
    launch::concretize_windows<T>(on, {int(sides), in.windows.view, in.region.view, bounds.mutable_data_ptr<double>()});
    return bounds;
  });
}

Tensor concretize_windows_gradient(Tensor bounds_gradient, Tensor A, Tensor rows, LBP_REGION_PARAMETERS,
                                   int64_t sides) {
  return with_type(A, "concretize_windows_gradient", [&](auto type, Device on) {
    using T = decltype(type);
    const ImageWindows<T> in(on, A, rows, {x, x_U, eps, eps_tensor, p}, sides);
    const Index count = A.size(0) * in.windows.view.rows;
    const Tensor to_bounds = checked<double>(on, bounds_gradient, "bounds_gradient", count);
    Tensor to_A = empty<T>(A, sizes_of(A));
    launch::concretize_windows_gradient<T>(on, {int(sides), in.windows.view, in.region.view,
                                                to_bounds.const_data_ptr<double>(), to_A.mutable_data_ptr<T>()});
    return to_A;
  });
}

std::tuple<Tensor, Tensor, Tensor> concretize_forward(Tensor center, OptionalTensor radius, Tensor center_bias,
                                                      OptionalTensor radius_bias, LBP_REGION_PARAMETERS,
                                                      bool magnitude) {
  return with_type(center, "concretize_forward", [&](auto type, Device on) {
    using T = decltype(type);
    const Index batch = batch_of(center, center_bias, x), inputs = center.size(1), neurons = trailing_size(center, 2);
    check_layer(center_bias, "center_bias", center, 2);
    check_same_shape(radius, "radius", center, "center");
    check_same_shape(radius_bias, "radius_bias", center_bias, "center_bias");
    const Batched<T> matrix = batched<T>(on, center, "center", batch, inputs * neurons);
    const Batched<T> vector = batched<T>(on, center_bias, "center_bias", batch, neurons);
    std::optional<Batched<T>> spread, spread_bias;
    if (radius.has_value()) spread = batched<T>(on, *radius, "radius", batch, inputs * neurons);
    if (radius_bias.has_value()) spread_bias = batched<T>(on, *radius_bias, "radius_bias", batch, neurons);
    const OwnedRegion<T> region(on, {x, x_U, eps, eps_tensor, p}, batch, inputs);
    NeuronBounds<T> bounds(center, bounds_shape(center, batch), region, magnitude);
    launch::concretize_forward<T>(on, {batch, inputs, neurons, matrix.data, spread ? spread->data : nullptr,
                                       matrix.stride, vector.data, spread_bias ? spread_bias->data : nullptr,
                                       vector.stride, region.view, bounds.l.template mutable_data_ptr<T>(),
                                       bounds.u.template mutable_data_ptr<T>(), bounds.magnitude_data()});
    return std::make_tuple(bounds.l, bounds.u, bounds.magnitude);
  });
}

std::tuple<Tensor, Tensor> concretize_forward_gradient(Tensor l_gradient, Tensor u_gradient, Tensor center,
                                                       OptionalTensor radius, LBP_REGION_PARAMETERS) {
  return with_type(center, "concretize_forward_gradient", [&](auto type, Device on) {
    using T = decltype(type);
    STD_TORCH_CHECK(l_gradient.dim() >= 1 && center.dim() >= 2,
                    "expected l_gradient [batch, ...] and center [batch, inputs, ...]");
    check_same_shape(radius, "radius", center, "center");
    const Index batch = l_gradient.size(0), inputs = center.size(1), neurons = trailing_size(center, 2);
    const Batched<T> matrix = batched<T>(on, center, "center", batch, inputs * neurons);
    std::optional<Batched<T>> spread;
    if (radius.has_value()) spread = batched<T>(on, *radius, "radius", batch, inputs * neurons);
    const OwnedRegion<T> region(on, {x, x_U, eps, eps_tensor, p}, batch, inputs);
    const Tensor to_l = checked<T>(on, l_gradient, "l_gradient", batch * neurons);
    const Tensor to_u = checked<T>(on, u_gradient, "u_gradient", batch * neurons);
    std::vector<int64_t> sizes = sizes_of(center);
    sizes[0] = batch;
    Tensor to_center = empty<T>(center, sizes), to_radius = empty<T>(center, spread ? sizes : std::vector<int64_t>{0});
    launch::concretize_forward_gradient<T>(
        on, {batch, inputs, neurons, matrix.data, spread ? spread->data : nullptr, matrix.stride, region.view,
             to_l.const_data_ptr<T>(), to_u.const_data_ptr<T>(), to_center.mutable_data_ptr<T>(),
             spread ? to_radius.mutable_data_ptr<T>() : nullptr});
    return std::make_tuple(to_center, to_radius);
  });
}

std::tuple<Tensor, Tensor, Tensor> concretize_forward_windows(Tensor center, OptionalTensor radius, Tensor center_bias,
                                                              OptionalTensor radius_bias, LBP_REGION_PARAMETERS,
                                                              std::vector<int64_t> scale, std::vector<int64_t> offset,
                                                              bool magnitude) {
  return with_type(center, "concretize_forward_windows", [&](auto type, Device on) {
    using T = decltype(type);
    const Windows windows = windows_on(center, x, scale, offset);
    check_layer(center_bias, "center_bias", center, 4);
    check_same_shape(radius, "radius", center, "center");
    check_same_shape(radius_bias, "radius_bias", center_bias, "center_bias");
    const Index batch = batch_of(center, center_bias, x), size = trailing_size(center, 1);
    const Index neurons = trailing_size(center, 4), inputs = trailing_size(x, 1);
    const Batched<T> matrix = batched<T>(on, center, "center", batch, size);
    const Batched<T> vector = batched<T>(on, center_bias, "center_bias", batch, neurons);
    std::optional<Batched<T>> spread, spread_bias;
    if (radius.has_value()) spread = batched<T>(on, *radius, "radius", batch, size);
    if (radius_bias.has_value()) spread_bias = batched<T>(on, *radius_bias, "radius_bias", batch, neurons);
    const OwnedRegion<T> region(on, {x, x_U, eps, eps_tensor, p}, batch, inputs);
    NeuronBounds<T> bounds(center, window_bounds_shape(center, batch), region, magnitude);
    launch::concretize_forward_windows<T>(on, {batch, windows, matrix.data, spread ? spread->data : nullptr,
                                               matrix.stride, vector.data, spread_bias ? spread_bias->data : nullptr,
                                               vector.stride, region.view, bounds.l.template mutable_data_ptr<T>(),
                                               bounds.u.template mutable_data_ptr<T>(), bounds.magnitude_data()});
    return std::make_tuple(bounds.l, bounds.u, bounds.magnitude);
  });
}

std::tuple<Tensor, Tensor> concretize_forward_windows_gradient(Tensor l_gradient, Tensor u_gradient, Tensor center,
                                                               OptionalTensor radius, LBP_REGION_PARAMETERS,
                                                               std::vector<int64_t> scale,
                                                               std::vector<int64_t> offset) {
  return with_type(center, "concretize_forward_windows_gradient", [&](auto type, Device on) {
    using T = decltype(type);
    const Windows windows = windows_on(center, x, scale, offset);
    STD_TORCH_CHECK(l_gradient.dim() >= 1, "l_gradient: expected [batch, ...]");
    check_same_shape(radius, "radius", center, "center");
    const Index batch = l_gradient.size(0), size = trailing_size(center, 1), neurons = trailing_size(center, 4);
    const Batched<T> matrix = batched<T>(on, center, "center", batch, size);
    std::optional<Batched<T>> spread;
    if (radius.has_value()) spread = batched<T>(on, *radius, "radius", batch, size);
    const OwnedRegion<T> region(on, {x, x_U, eps, eps_tensor, p}, batch, trailing_size(x, 1));
    const Tensor to_l = checked<T>(on, l_gradient, "l_gradient", batch * neurons);
    const Tensor to_u = checked<T>(on, u_gradient, "u_gradient", batch * neurons);
    std::vector<int64_t> sizes = sizes_of(center);
    sizes[0] = batch;
    Tensor to_center = empty<T>(center, sizes), to_radius = empty<T>(center, spread ? sizes : std::vector<int64_t>{0});
    if (on.is_cpu()) {
      torch::stable::zero_(to_center);
      torch::stable::zero_(to_radius);
    }
    launch::concretize_forward_windows_gradient<T>(
        on, {batch, windows, matrix.data, spread ? spread->data : nullptr, matrix.stride, region.view,
             to_l.const_data_ptr<T>(), to_u.const_data_ptr<T>(), to_center.mutable_data_ptr<T>(),
             spread ? to_radius.mutable_data_ptr<T>() : nullptr});
    return std::make_tuple(to_center, to_radius);
  });
}

}  // namespace lbp::binding
