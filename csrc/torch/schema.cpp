// The schema of every op, and the CPU kernels behind those that have one of their own. Gradients and fake functions are
// registered in lbp/ops; so are the CPU versions of the ops that are a pass of ours followed by the library's product.
//
// Numbers r, eta and eps are used where their tensors are absent. strategy and sides are the codes of
// lbp/strategies.py. Absent outputs are empty tensors; outputs never alias inputs.
#include "torch/ops.h"

namespace lbp::binding {

std::string cpu_capability() {
  const char* error = nullptr;
  const cpu::InstructionSet* chosen = cpu::instruction_set(&error);
  STD_TORCH_CHECK(chosen != nullptr, error);
  return chosen->name;
}

}  // namespace lbp::binding

#define RAMP "float r, Tensor? r_tensor, float eta, Tensor? eta_tensor"
#define RELAXATION                                                                                             \
  "Tensor l, Tensor u, " RAMP                                                                                  \
  ", int strategy, Tensor? lower_slope, Tensor? lower_intercept, Tensor? upper_slope, Tensor? upper_intercept" \
  ", Tensor? margin_per_slope, Tensor? margin"
#define FORWARD "Tensor center, Tensor? radius, Tensor center_bias, Tensor? radius_bias"
#define REGION "Tensor x, Tensor? x_U, float eps, Tensor? eps_tensor, float p"
#define OUTWARD "float relative, float absolute, Tensor margin, Tensor? margin_of_example"
#define PLACES "int[] image, int[] scale, int[] offset"
#define CONVOLUTION "int[] stride, int[] padding, int[] dilation, int groups"
#define SEVEN_GRADIENTS "Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor"

STABLE_TORCH_LIBRARY(lbp, library) {
  // The instruction set that the CPU kernels use: portable, avx2 or avx512.
  library.def("cpu_capability() -> str");

  // What there is for CUDA devices: kernels "ahead of time for ..." some architectures, "just in time", or "none".
  library.def("cuda_build() -> str");

  // ParamRamp, its image of an interval with the count of the six statuses, and its bounding lines.
  library.def("ramp(Tensor z, " RAMP ") -> Tensor");
  library.def("ramp_gradient(Tensor gradient, Tensor z, " RAMP ", bool need_z, bool need_r) -> (Tensor, Tensor)");
  library.def("ramp_interval(Tensor l, Tensor u, " RAMP ", bool count_status) -> (Tensor, Tensor, Tensor)");
  library.def("ramp_interval_gradient(Tensor lower_gradient, Tensor upper_gradient, Tensor l, Tensor u, " RAMP
              ", bool need_r) -> (Tensor, Tensor, Tensor)");
  library.def("status_counts(Tensor l, Tensor u, float r, Tensor? r_tensor) -> Tensor");
  library.def("bounding_lines(" RELAXATION ") -> (Tensor, Tensor, Tensor, Tensor)");
  library.def(
      "bounding_lines_gradient(Tensor lower_slope_gradient, Tensor lower_intercept_gradient, "
      "Tensor upper_slope_gradient, Tensor upper_intercept_gradient, " RELAXATION ", int needs) -> (" SEVEN_GRADIENTS
      ")");

  // Back-substitution through an activation, alone and followed by the affine layer below it.
  library.def("relax_backward(Tensor A, " RELAXATION ", Tensor? bias, int sides) -> (Tensor, Tensor)");
  library.def("relax_backward_gradient(Tensor relaxed_gradient, Tensor constants_gradient, Tensor A, " RELAXATION
              ", Tensor? bias, int sides, int needs) -> (Tensor, " SEVEN_GRADIENTS ", Tensor)");
  library.def("relax_backward_gradient_(Tensor(a!) relaxed_gradient, Tensor constants_gradient, Tensor A, " RELAXATION
              ", Tensor? bias, int sides, int needs) -> (" SEVEN_GRADIENTS ", Tensor)");
  library.def("relax_backward_linear(Tensor A, " RELAXATION
              ", Tensor weight, Tensor? bias, int sides) -> (Tensor, Tensor)");
  library.def("relax_backward_conv2d(Tensor A, " RELAXATION
              ", Tensor weight, Tensor? bias, int[] input_size, " CONVOLUTION ", int sides) -> (Tensor, Tensor)");
  library.def("backward_linear(Tensor A, Tensor weight, Tensor? bias) -> (Tensor, Tensor)");
  library.def("backward_conv2d(Tensor A, Tensor weight, Tensor? bias, int[] input_size, " CONVOLUTION
              ") -> (Tensor, Tensor)");

  // What the CPU does for backward_conv2d where that pays, and for the gradient of A from those of the results.
  library.def("backward_conv2d_direct(Tensor A, Tensor weight, Tensor? bias, int[] input_size, " CONVOLUTION
              ") -> (Tensor, Tensor)");
  library.def(
      "backward_conv2d_direct_gradient(Tensor coefficients_gradient, Tensor constants_gradient, Tensor weight, "
      "Tensor? bias, " CONVOLUTION ") -> Tensor");

  // Back-substitution on windowed coefficients A [K, sources, height, width, C]; `rows` is int64 [R, 4]: which row of
  // A, image, and first row and column of the window. `corners` int64 [R, 2] says where the windows of the result lie.
  library.def("relax_windows(Tensor A, Tensor rows, " RELAXATION ", Tensor? bias, int sides) -> (Tensor, Tensor)");
  library.def(
      "relax_windows_gradient(Tensor relaxed_gradient, Tensor constants_gradient, Tensor A, Tensor rows, " RELAXATION
      ", Tensor? bias, int sides, int needs) -> (Tensor, " SEVEN_GRADIENTS ", Tensor)");
  library.def("relax_backward_conv2d_windows(Tensor A, Tensor rows, " RELAXATION
              ", Tensor weight, Tensor? bias, Tensor corners, int[] window, " CONVOLUTION
              ", int sides) -> (Tensor, Tensor)");
  library.def(
      "backward_conv2d_windows(Tensor A, Tensor rows, int[] layer, Tensor weight, Tensor? bias, Tensor corners, int[] "
      "window, " CONVOLUTION ") -> (Tensor, Tensor)");

  // Intervals through affine layers.
  library.def("interval_linear(Tensor l, Tensor u, Tensor weight, Tensor? bias) -> (Tensor, Tensor)");
  library.def("interval_conv2d(Tensor l, Tensor u, Tensor weight, Tensor? bias, " CONVOLUTION ") -> (Tensor, Tensor)");

  // What the CPU does for interval_linear with few examples: W c + b -/+ (|W| r + margins) from one read of W, with
  // sums in blocks.
  library.def(
      "interval_linear_small_batch(Tensor center, Tensor radius, Tensor weight, Tensor? bias, Tensor? margin=None, "
      "Tensor? margin_of_example=None) -> "
      "(Tensor, Tensor)");
  // And for its gradient: by l, u and weight.
  library.def(
      "interval_linear_small_batch_gradient(Tensor lower_gradient, Tensor upper_gradient, Tensor l, Tensor u, "
      "Tensor weight) -> (Tensor, Tensor, Tensor)");

  // What the CPU does for interval_conv2d with few images: the same of a convolution, the radii widened as by
  // split_interval. Of ends: from lower and upper bounds to such; else from centers and radii.
  library.def(
      "interval_conv2d_direct(Tensor first, Tensor second, Tensor weight, Tensor? bias, Tensor? margin, "
      "Tensor? margin_of_example, float relative, float absolute, bool of_ends, " CONVOLUTION ") -> (Tensor, Tensor)");

  // What the CPU does, where that pays, for its gradient by the input, and for that by the weight of intervals through
  // a convolution or, without the second tensors, of a convolution alone.
  library.def(
      "interval_conv2d_input_gradient(Tensor first_gradient, Tensor second_gradient, Tensor weight, int[] input_size, "
      "bool of_ends, " CONVOLUTION ") -> (Tensor, Tensor)");
  library.def(
      "conv2d_weight_gradient(Tensor first_gradient, Tensor? second_gradient, Tensor first, Tensor? second, "
      "Tensor weight, bool of_ends, " CONVOLUTION ") -> Tensor");

  // What stands around the library's products: the center and radius of intervals, the radius larger by
  // relative (|center| + radius) + absolute, and back; outward: infinite bounds on the wrong side become NaN.
  library.def("split_interval(Tensor l, Tensor u, float relative, float absolute) -> (Tensor, Tensor)");
  library.def("join_interval(Tensor center, Tensor radius, bool outward) -> (Tensor, Tensor)");

  // What CUDA devices do for interval_conv2d where that pays: one product for both, from one read of the weights.
  library.def("interval_conv2d_fused(Tensor l, Tensor u, Tensor weight, Tensor? bias, " CONVOLUTION
              ") -> (Tensor, Tensor)");
  library.def("relax_backward_linear_fused(Tensor A, " RELAXATION
              ", Tensor weight, Tensor? bias, int sides) -> (Tensor, Tensor)");

  // What CUDA devices do for intervals that are rounded outward: the same from widened radii, further apart by a margin
  // for each output or output channel, and for each example; the sums of a Linear layer in blocks. Without gradients.
  library.def("interval_linear_outward(Tensor l, Tensor u, Tensor weight, Tensor? bias, " OUTWARD
              ") -> (Tensor, Tensor)");
  library.def("interval_conv2d_outward(Tensor l, Tensor u, Tensor weight, Tensor? bias, " OUTWARD ", " CONVOLUTION
              ") -> (Tensor, Tensor)");

  // Forward linear bounds through an activation and through affine layers, and their insertion into back-substitution.
  library.def("relax_forward(" FORWARD ", " RELAXATION ") -> (Tensor, Tensor, Tensor, Tensor)");
  library.def(
      "relax_forward_gradient(Tensor center_gradient, Tensor radius_gradient, Tensor center_bias_gradient, "
      "Tensor radius_bias_gradient, " FORWARD ", " RELAXATION
      ", int needs) -> (Tensor, Tensor, Tensor, Tensor, " SEVEN_GRADIENTS ")");
  library.def("forward_linear(" FORWARD ", Tensor weight, Tensor? bias) -> (Tensor, Tensor, Tensor, Tensor)");
  library.def("forward_conv2d(" FORWARD ", Tensor weight, Tensor? bias, " CONVOLUTION
              ") -> (Tensor, Tensor, Tensor, Tensor)");
  library.def("insert_forward(Tensor A, " FORWARD ", int sides) -> (Tensor, Tensor)");
  // Of few rows CUDA devices have a fused product and the CPU kernels, which the composites of that call.
  library.def("insert_forward_fused(Tensor A, " FORWARD ", int sides) -> (Tensor, Tensor)");
  library.def("insert_forward_few_rows(Tensor A, " FORWARD ", int sides) -> (Tensor, Tensor)");
  library.def(
      "insert_forward_few_rows_gradient(Tensor coefficients_gradient, Tensor constants_gradient, Tensor A, " FORWARD
      ", int sides) -> Tensor");

  // Linear bounds over the input region: the box [x, x_U], or the l_p ball of radius eps around x where x_U is absent.
  library.def("concretize(Tensor A, " REGION ", int sides) -> Tensor");
  library.def("concretize_gradient(Tensor bounds_gradient, Tensor A, " REGION ", int sides) -> Tensor");
  library.def("concretize_windows(Tensor A, Tensor rows, " REGION ", int sides) -> Tensor");
  library.def("concretize_windows_gradient(Tensor bounds_gradient, Tensor A, Tensor rows, " REGION
              ", int sides) -> Tensor");
  library.def("concretize_forward(" FORWARD ", " REGION ", bool magnitude) -> (Tensor, Tensor, Tensor)");
  library.def("concretize_forward_gradient(Tensor l_gradient, Tensor u_gradient, Tensor center, Tensor? radius, " REGION
              ") -> (Tensor, Tensor)");

  // Forward linear bounds on windows of the input: through a convolution, times the coefficients of a layer, and over
  // the region.
  library.def("convolve_windows(Tensor windows, Tensor weight, " PLACES ", " CONVOLUTION ") -> Tensor");
  library.def("convolve_windows_gradient(Tensor gradient, Tensor windows, Tensor weight, " PLACES ", " CONVOLUTION
              ", bool need_windows, bool need_weight) -> (Tensor, Tensor)");
  library.def("accumulate_windows(Tensor rows, Tensor windows, " PLACES ") -> Tensor");
  library.def("accumulate_windows_gradient(Tensor gradient, Tensor rows, Tensor windows, " PLACES
              ", bool need_rows, bool need_windows) -> (Tensor, Tensor)");

  // What the CPU does for convolve_windows: `together` images and input channels are laid out at a time.
  library.def("convolve_windows_laid_out(Tensor windows, Tensor weight, " PLACES ", " CONVOLUTION
              ", int together) -> Tensor");

  // What the CPU does for accumulate_windows: with few rows a product that reads the window matrix once, with many one
  // that lays it out.
  library.def("accumulate_windows_few_rows(Tensor rows, Tensor windows, " PLACES ") -> Tensor");
  library.def("accumulate_windows_many_rows(Tensor rows, Tensor windows, " PLACES ") -> Tensor");
  library.def("accumulate_windows_few_rows_gradient(Tensor gradient, Tensor rows, Tensor windows, " PLACES
              ", bool need_rows, bool need_windows) -> (Tensor, Tensor)");

  library.def("concretize_forward_windows(" FORWARD ", " REGION
              ", int[] scale, int[] offset, bool magnitude) -> (Tensor, Tensor, Tensor)");
  library.def(
      "concretize_forward_windows_gradient(Tensor l_gradient, Tensor u_gradient, Tensor center, Tensor? radius, " REGION
      ", int[] scale, int[] offset) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(lbp, CompositeExplicitAutograd, library) {
  library.impl("cpu_capability", TORCH_BOX(&lbp::binding::cpu_capability));
  library.impl("cuda_build", TORCH_BOX(&lbp::binding::cuda_build));
}

STABLE_TORCH_LIBRARY_IMPL(lbp, CPU, library) {
  library.impl("ramp", TORCH_BOX(&lbp::binding::ramp));
  library.impl("ramp_gradient", TORCH_BOX(&lbp::binding::ramp_gradient));
  library.impl("ramp_interval", TORCH_BOX(&lbp::binding::ramp_interval));
  library.impl("ramp_interval_gradient", TORCH_BOX(&lbp::binding::ramp_interval_gradient));
  library.impl("status_counts", TORCH_BOX(&lbp::binding::status_counts));
  library.impl("bounding_lines", TORCH_BOX(&lbp::binding::bounding_lines));
  library.impl("bounding_lines_gradient", TORCH_BOX(&lbp::binding::bounding_lines_gradient));
  library.impl("relax_backward", TORCH_BOX(&lbp::binding::relax_backward));
  library.impl("relax_backward_gradient", TORCH_BOX(&lbp::binding::relax_backward_gradient));
  library.impl("relax_backward_gradient_", TORCH_BOX(&lbp::binding::relax_backward_gradient_));
  library.impl("interval_linear_small_batch", TORCH_BOX(&lbp::binding::interval_linear_small_batch));
  library.impl("interval_linear_small_batch_gradient", TORCH_BOX(&lbp::binding::interval_linear_small_batch_gradient));
  library.impl("interval_conv2d_direct", TORCH_BOX(&lbp::binding::interval_conv2d_direct));
  library.impl("interval_conv2d_input_gradient", TORCH_BOX(&lbp::binding::interval_conv2d_input_gradient));
  library.impl("conv2d_weight_gradient", TORCH_BOX(&lbp::binding::conv2d_weight_gradient));
  library.impl("backward_conv2d_direct", TORCH_BOX(&lbp::binding::backward_conv2d_direct));
  library.impl("backward_conv2d_direct_gradient", TORCH_BOX(&lbp::binding::backward_conv2d_direct_gradient));
  library.impl("split_interval", TORCH_BOX(&lbp::binding::split_interval));
  library.impl("join_interval", TORCH_BOX(&lbp::binding::join_interval));
  library.impl("relax_forward", TORCH_BOX(&lbp::binding::relax_forward));
  library.impl("relax_forward_gradient", TORCH_BOX(&lbp::binding::relax_forward_gradient));
  library.impl("insert_forward_few_rows", TORCH_BOX(&lbp::binding::insert_forward_few_rows));
  library.impl("insert_forward_few_rows_gradient", TORCH_BOX(&lbp::binding::insert_forward_few_rows_gradient));
  library.impl("concretize", TORCH_BOX(&lbp::binding::concretize));
  library.impl("concretize_gradient", TORCH_BOX(&lbp::binding::concretize_gradient));
  library.impl("concretize_windows", TORCH_BOX(&lbp::binding::concretize_windows));
  library.impl("concretize_windows_gradient", TORCH_BOX(&lbp::binding::concretize_windows_gradient));
  library.impl("relax_windows", TORCH_BOX(&lbp::binding::relax_windows));
  library.impl("relax_windows_gradient", TORCH_BOX(&lbp::binding::relax_windows_gradient));
  library.impl("relax_backward_conv2d_windows", TORCH_BOX(&lbp::binding::relax_backward_conv2d_windows));
  library.impl("backward_conv2d_windows", TORCH_BOX(&lbp::binding::backward_conv2d_windows));
  library.impl("convolve_windows_laid_out", TORCH_BOX(&lbp::binding::convolve_windows_laid_out));
  library.impl("accumulate_windows_few_rows", TORCH_BOX(&lbp::binding::accumulate_windows_few_rows));
  library.impl("accumulate_windows_many_rows", TORCH_BOX(&lbp::binding::accumulate_windows_many_rows));
  library.impl("accumulate_windows_few_rows_gradient", TORCH_BOX(&lbp::binding::accumulate_windows_few_rows_gradient));
  library.impl("concretize_forward", TORCH_BOX(&lbp::binding::concretize_forward));
  library.impl("concretize_forward_gradient", TORCH_BOX(&lbp::binding::concretize_forward_gradient));
  library.impl("concretize_forward_windows", TORCH_BOX(&lbp::binding::concretize_forward_windows));
  library.impl("concretize_forward_windows_gradient", TORCH_BOX(&lbp::binding::concretize_forward_windows_gradient));
}
