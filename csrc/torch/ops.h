// The ops that have a kernel of their own, as functions on tensors of any device that has the kernel; schema.cpp
// registers them. Absent outputs are empty.
#pragma once

#include <tuple>

#include "torch/launch.h"
#include "torch/tensors.h"

// The parameters that every op on an activation, and over the input region, takes, in the order of the schema.
#define LBP_RAMP_PARAMETERS double r, OptionalTensor r_tensor, double eta, OptionalTensor eta_tensor
#define LBP_RELAXATION_PARAMETERS                                                                 \
  Tensor l, Tensor u, LBP_RAMP_PARAMETERS, int64_t strategy, OptionalTensor lower_slope,          \
      OptionalTensor lower_intercept, OptionalTensor upper_slope, OptionalTensor upper_intercept, \
      OptionalTensor margin_per_slope, OptionalTensor margin
#define LBP_REGION_PARAMETERS Tensor x, OptionalTensor x_U, double eps, OptionalTensor eps_tensor, double p
#define LBP_RELAXATION_TENSORS                                                                                  \
  RelaxationTensors {                                                                                           \
    l, u, {r, r_tensor, eta, eta_tensor}, strategy, lower_slope, lower_intercept, upper_slope, upper_intercept, \
        margin_per_slope, margin                                                                                \
  }
#define LBP_CONVOLUTION_PARAMETERS \
  std::vector<int64_t> stride, std::vector<int64_t> padding, std::vector<int64_t> dilation, int64_t groups
// Gradients of l, u, r, lower_slope, lower_intercept, upper_slope, upper_intercept.
#define LBP_RELAXATION_GRADIENT_TYPES Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor

namespace lbp::binding {

// Bits of `needs`: which gradients an op is asked for.
enum Needs : int64_t { kNeedBounds = 1, kNeedR = 2, kNeedGiven = 4, kNeedMatrix = 8, kNeedBias = 16 };

// Outputs for the gradients of a relaxation, each [B, *shape] or empty.
template <typename T>
struct RelaxationGradientTensors {
  Tensor l, u, r, lower_slope, lower_intercept, upper_slope, upper_intercept;

  RelaxationGradientTensors(const Tensor& bounds, Index batch, int64_t strategy, int64_t needs)
      : l(output(bounds, batch, needs & kNeedBounds)),
        u(output(bounds, batch, needs & kNeedBounds)),
        r(output(bounds, batch, needs & kNeedR)),
        lower_slope(given_output(bounds, batch, strategy, needs)),
        lower_intercept(given_output(bounds, batch, strategy, needs)),
        upper_slope(given_output(bounds, batch, strategy, needs)),
        upper_intercept(given_output(bounds, batch, strategy, needs)) {}

  RelaxationGradients<T> view() {
    const auto data = [](Tensor& tensor) {
      return tensor.numel() == 0 ? nullptr : tensor.template mutable_data_ptr<T>();
    };
    return {
        data(l), data(u), data(r), data(lower_slope), data(lower_intercept), data(upper_slope), data(upper_intercept)};
  }

  std::tuple<LBP_RELAXATION_GRADIENT_TYPES> tuple() const {
    return {l, u, r, lower_slope, lower_intercept, upper_slope, upper_intercept};
  }

 private:
  static Tensor output(const Tensor& bounds, Index batch, bool needed) {
    std::vector<int64_t> sizes = {0};
    if (needed) {
      sizes = sizes_of(bounds);
      if (!sizes.empty()) sizes[0] = batch;
    }
    return empty<T>(bounds, sizes);
  }

  // Kernels write the gradients of given lines where the strategy reads them; elsewhere these are 0.
  static Tensor given_output(const Tensor& bounds, Index batch, int64_t strategy, int64_t needs) {
    Tensor result = output(bounds, batch, needs & kNeedGiven);
    if ((needs & kNeedGiven) && !reads_given(static_cast<Strategy>(strategy))) torch::stable::zero_(result);
    return result;
  }
};

Tensor ramp(Tensor z, LBP_RAMP_PARAMETERS);
std::tuple<Tensor, Tensor> ramp_gradient(Tensor gradient, Tensor z, LBP_RAMP_PARAMETERS, bool need_z, bool need_r);
std::tuple<Tensor, Tensor, Tensor> ramp_interval(Tensor l, Tensor u, LBP_RAMP_PARAMETERS, bool count_status);
std::tuple<Tensor, Tensor, Tensor> ramp_interval_gradient(Tensor lower_gradient, Tensor upper_gradient, Tensor l,
                                                          Tensor u, LBP_RAMP_PARAMETERS, bool need_r);
Tensor status_counts(Tensor l, Tensor u, double r, OptionalTensor r_tensor);
std::tuple<Tensor, Tensor, Tensor, Tensor> bounding_lines(LBP_RELAXATION_PARAMETERS);
std::tuple<LBP_RELAXATION_GRADIENT_TYPES> bounding_lines_gradient(Tensor lower_slope_gradient,
                                                                  Tensor lower_intercept_gradient,
                                                                  Tensor upper_slope_gradient,
                                                                  Tensor upper_intercept_gradient,
                                                                  LBP_RELAXATION_PARAMETERS, int64_t needs);
std::tuple<Tensor, Tensor> relax_backward(Tensor A, LBP_RELAXATION_PARAMETERS, OptionalTensor bias, int64_t sides);
std::tuple<Tensor, LBP_RELAXATION_GRADIENT_TYPES, Tensor> relax_backward_gradient(Tensor relaxed_gradient,
                                                                                  Tensor constants_gradient, Tensor A,
                                                                                  LBP_RELAXATION_PARAMETERS,
                                                                                  OptionalTensor bias, int64_t sides,
                                                                                  int64_t needs);
// The same, but the gradient of A overwrites that of the relaxed coefficients. Only the kernel of the CPU may do that.
std::tuple<LBP_RELAXATION_GRADIENT_TYPES, Tensor> relax_backward_gradient_(Tensor relaxed_gradient,
                                                                           Tensor constants_gradient, Tensor A,
                                                                           LBP_RELAXATION_PARAMETERS,
                                                                           OptionalTensor bias, int64_t sides,
                                                                           int64_t needs);
std::tuple<Tensor, Tensor, Tensor, Tensor> relax_forward(Tensor center, OptionalTensor radius, Tensor center_bias,
                                                         OptionalTensor radius_bias, LBP_RELAXATION_PARAMETERS);
std::tuple<Tensor, Tensor, Tensor, Tensor, LBP_RELAXATION_GRADIENT_TYPES> relax_forward_gradient(
    Tensor center_gradient, Tensor radius_gradient, Tensor center_bias_gradient, Tensor radius_bias_gradient,
    Tensor center, OptionalTensor radius, Tensor center_bias, OptionalTensor radius_bias, LBP_RELAXATION_PARAMETERS,
    int64_t needs);
std::tuple<Tensor, Tensor> insert_forward_few_rows(Tensor A, Tensor center, OptionalTensor radius, Tensor center_bias,
                                                   OptionalTensor radius_bias, int64_t sides);
Tensor insert_forward_few_rows_gradient(Tensor coefficients_gradient, Tensor constants_gradient, Tensor A,
                                        Tensor center, OptionalTensor radius, Tensor center_bias,
                                        OptionalTensor radius_bias, int64_t sides);
std::tuple<Tensor, Tensor> interval_linear_small_batch(Tensor center, Tensor radius, Tensor weight, OptionalTensor bias,
                                                       OptionalTensor margin, OptionalTensor margin_of_example);
std::tuple<Tensor, Tensor, Tensor> interval_linear_small_batch_gradient(Tensor lower_gradient, Tensor upper_gradient,
                                                                        Tensor l, Tensor u, Tensor weight);
std::tuple<Tensor, Tensor> interval_conv2d_direct(Tensor first, Tensor second, Tensor weight, OptionalTensor bias,
                                                  OptionalTensor margin, OptionalTensor margin_of_example,
                                                  double relative, double absolute, bool of_ends,
                                                  LBP_CONVOLUTION_PARAMETERS);
// The gradients by the input.
std::tuple<Tensor, Tensor> interval_conv2d_input_gradient(Tensor first_gradient, Tensor second_gradient, Tensor weight,
                                                          std::vector<int64_t> input_size, bool of_ends,
                                                          LBP_CONVOLUTION_PARAMETERS);
Tensor conv2d_weight_gradient(Tensor first_gradient, OptionalTensor second_gradient, Tensor first,
                              OptionalTensor second, Tensor weight, bool of_ends, LBP_CONVOLUTION_PARAMETERS);
std::tuple<Tensor, Tensor> backward_conv2d_direct(Tensor A, Tensor weight, OptionalTensor bias,
                                                  std::vector<int64_t> input_size, LBP_CONVOLUTION_PARAMETERS);
// The gradient of A.
Tensor backward_conv2d_direct_gradient(Tensor coefficients_gradient, Tensor constants_gradient, Tensor weight,
                                       OptionalTensor bias, LBP_CONVOLUTION_PARAMETERS);
std::tuple<Tensor, Tensor> split_interval(Tensor l, Tensor u, double relative, double absolute);
std::tuple<Tensor, Tensor> join_interval(Tensor center, Tensor radius, bool outward);
Tensor concretize(Tensor A, LBP_REGION_PARAMETERS, int64_t sides);
Tensor concretize_gradient(Tensor bounds_gradient, Tensor A, LBP_REGION_PARAMETERS, int64_t sides);
Tensor concretize_windows(Tensor A, Tensor rows, LBP_REGION_PARAMETERS, int64_t sides);
// The gradient of A.
Tensor concretize_windows_gradient(Tensor bounds_gradient, Tensor A, Tensor rows, LBP_REGION_PARAMETERS, int64_t sides);
std::tuple<Tensor, Tensor> relax_windows(Tensor A, Tensor rows, LBP_RELAXATION_PARAMETERS, OptionalTensor bias,
                                         int64_t sides);
std::tuple<Tensor, LBP_RELAXATION_GRADIENT_TYPES, Tensor> relax_windows_gradient(Tensor relaxed_gradient,
                                                                                 Tensor constants_gradient, Tensor A,
                                                                                 Tensor rows, LBP_RELAXATION_PARAMETERS,
                                                                                 OptionalTensor bias, int64_t sides,
                                                                                 int64_t needs);
std::tuple<Tensor, Tensor> relax_backward_conv2d_windows(Tensor A, Tensor rows, LBP_RELAXATION_PARAMETERS,
                                                         Tensor weight, OptionalTensor bias, Tensor corners,
                                                         std::vector<int64_t> window, LBP_CONVOLUTION_PARAMETERS,
                                                         int64_t sides);
std::tuple<Tensor, Tensor> backward_conv2d_windows(Tensor A, Tensor rows, std::vector<int64_t> layer, Tensor weight,
                                                   OptionalTensor bias, Tensor corners, std::vector<int64_t> window,
                                                   LBP_CONVOLUTION_PARAMETERS);
std::tuple<Tensor, Tensor, Tensor> concretize_forward(Tensor center, OptionalTensor radius, Tensor center_bias,
                                                      OptionalTensor radius_bias, LBP_REGION_PARAMETERS,
                                                      bool magnitude);
std::tuple<Tensor, Tensor> concretize_forward_gradient(Tensor l_gradient, Tensor u_gradient, Tensor center,
                                                       OptionalTensor radius, LBP_REGION_PARAMETERS);
std::tuple<Tensor, Tensor, Tensor> concretize_forward_windows(Tensor center, OptionalTensor radius, Tensor center_bias,
                                                              OptionalTensor radius_bias, LBP_REGION_PARAMETERS,
                                                              std::vector<int64_t> scale, std::vector<int64_t> offset,
                                                              bool magnitude);
std::tuple<Tensor, Tensor> concretize_forward_windows_gradient(Tensor l_gradient, Tensor u_gradient, Tensor center,
                                                               OptionalTensor radius, LBP_REGION_PARAMETERS,
                                                               std::vector<int64_t> scale, std::vector<int64_t> offset);
Tensor convolve_windows_laid_out(Tensor windows, Tensor weight, std::vector<int64_t> image, std::vector<int64_t> scale,
                                 std::vector<int64_t> offset, LBP_CONVOLUTION_PARAMETERS, int64_t together);
Tensor accumulate_windows_few_rows(Tensor rows, Tensor windows, std::vector<int64_t> image, std::vector<int64_t> scale,
                                   std::vector<int64_t> offset);
Tensor accumulate_windows_many_rows(Tensor rows, Tensor windows, std::vector<int64_t> image, std::vector<int64_t> scale,
                                    std::vector<int64_t> offset);
std::tuple<Tensor, Tensor> accumulate_windows_few_rows_gradient(Tensor gradient, Tensor rows, Tensor windows,
                                                                std::vector<int64_t> image, std::vector<int64_t> scale,
                                                                std::vector<int64_t> offset, bool need_rows,
                                                                bool need_windows);
std::string cpu_capability();

}  // namespace lbp::binding
