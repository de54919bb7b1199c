// The launch functions of the memory-bound kernels and of the windows. Each takes one dictionary: the fields of its
// arguments by name, and "float32" for the type.
#include "emulation/fields.h"

namespace lbp::emulate {

template <typename T>
void read(const Fields& f, RelaxationGradients<T>& a) {
  f("l", a.l)("u", a.u)("r", a.r);
  read_lines(f, a);
}

template <typename T>
void read(const Fields& f, Coefficients<T>& a) {
  f("data", a.data)("side_stride", a.side_stride)("batch_stride", a.batch_stride)("row_stride", a.row_stride);
}

template <typename T>
void read(const Fields& f, Region<T>& a) {
  f("x_L", a.x_L)("x_U", a.x_U)("batch_stride", a.batch_stride);
  f("eps", a.eps)("eps_data", a.eps_data)("eps_stride", a.eps_stride)("q", a.q);
}

template <typename T>
void read(const Fields& f, RowWindows<T>& a) {
  const Index* where = nullptr;
  f("data", a.data)("side_stride", a.side_stride)("source_stride", a.source_stride);
  f("rows", a.rows)("height", a.height)("width", a.width)("channels", a.channels);
  f("layer_height", a.layer_height)("layer_width", a.layer_width)("where", where);
  f("sources", a.sources)("images", a.images);
  a.where = reinterpret_cast<const WindowRow*>(where);
}

template <typename T>
void read(const Fields& f, WindowConvolution<T>& a) {
  f("weight", a.weight)("inputs", a.inputs)("groups", a.groups)("kernel", a.kernel)("stride", a.stride);
  f("padding", a.padding)("dilation", a.dilation)("height", a.height)("width", a.width)("corners", a.corners);
}

inline void read(const Fields& f, Windows& a) {
  f("image_channels", a.image_channels)("image_rows", a.image_rows)("image_columns", a.image_columns);
  f("rows", a.rows)("columns", a.columns)("channels", a.channels)("height", a.height)("width", a.width);
  f("row_scale", a.row_scale)("column_scale", a.column_scale);
  f("row_offset", a.row_offset)("column_offset", a.column_offset);
}

// What all ops on ParamRamp itself take.
template <typename Arguments>
void read_ramp(const Fields& f, Arguments& a) {
  f("batch", a.batch)("neurons", a.neurons)("r", a.r)("eta", a.eta)("eta_data", a.eta_data);
}

template <typename T>
void read(const Fields& f, RampArguments<T>& a) {
  read_ramp(f, a);
  f("z", a.z)("out", a.out);
}

template <typename T>
void read(const Fields& f, RampGradientArguments<T>& a) {
  read_ramp(f, a);
  f("z", a.z)("out_gradient", a.out_gradient)("z_gradient", a.z_gradient)("r_gradient", a.r_gradient);
}

template <typename T>
void read(const Fields& f, RampIntervalArguments<T>& a) {
  read_ramp(f, a);
  f("l", a.l)("u", a.u)("lower", a.lower)("upper", a.upper)("counts", a.counts);
}

template <typename T>
void read(const Fields& f, RampIntervalGradientArguments<T>& a) {
  read_ramp(f, a);
  f("l", a.l)("u", a.u)("lower_gradient", a.lower_gradient)("upper_gradient", a.upper_gradient);
  f("l_gradient", a.l_gradient)("u_gradient", a.u_gradient)("r_gradient", a.r_gradient);
}

template <typename T>
void read(const Fields& f, BoundingLinesArguments<T>& a) {
  f("batch", a.batch)("neurons", a.neurons)("relaxation", a.relaxation);
  read_lines(f, a);
}

template <typename T>
void read(const Fields& f, BoundingLinesGradientArguments<T>& a) {
  f("batch", a.batch)("neurons", a.neurons)("relaxation", a.relaxation)("gradients", a.gradients);
  f("lower_slope_gradient", a.lower_slope_gradient)("lower_intercept_gradient", a.lower_intercept_gradient);
  f("upper_slope_gradient", a.upper_slope_gradient)("upper_intercept_gradient", a.upper_intercept_gradient);
}

// What all ops on coefficients A [K, B, S, n] take.
template <typename Arguments>
void read_rows(const Fields& f, Arguments& a) {
  f("sides", a.sides)("batch", a.batch)("rows", a.rows)("A", a.A);
}

template <typename T>
void read(const Fields& f, RelaxBackwardArguments<T>& a) {
  read_rows(f, a);
  f("neurons", a.neurons)("relaxation", a.relaxation)("bias", a.bias)("relaxed", a.relaxed)("constants", a.constants);
}

template <typename T>
void read(const Fields& f, RelaxBackwardGradientArguments<T>& a) {
  read_rows(f, a);
  f("neurons", a.neurons)("relaxation", a.relaxation)("bias", a.bias)("gradients", a.gradients);
  f("relaxed_gradient", a.relaxed_gradient)("constants_gradient", a.constants_gradient);
  f("A_gradient", a.A_gradient)("bias_gradient", a.bias_gradient);
}

template <typename T>
void read(const Fields& f, Widening<T>& a) {
  f("relative", a.relative)("absolute", a.absolute);
}

template <typename T>
void read(const Fields& f, SplitIntervalArguments<T>& a) {
  f("count", a.count)("by", a.by)("l", a.l)("u", a.u)("center", a.center)("radius", a.radius);
}

template <typename T>
void read(const Fields& f, JoinIntervalArguments<T>& a) {
  f("count", a.count)("outward", a.outward)("center", a.center)("radius", a.radius);
  f("lower", a.lower)("upper", a.upper);
}

template <typename T>
void read(const Fields& f, ConcretizeArguments<T>& a) {
  read_rows(f, a);
  f("inputs", a.inputs)("region", a.region)("bounds", a.bounds);
}

template <typename T>
void read(const Fields& f, ConcretizeGradientArguments<T>& a) {
  read_rows(f, a);
  f("inputs", a.inputs)("region", a.region)("bounds_gradient", a.bounds_gradient)("A_gradient", a.A_gradient);
}

// What all ops on forward linear bounds take: the matrices, and all but gradients the biases.
template <typename Arguments>
void read_matrices(const Fields& f, Arguments& a) {
  f("batch", a.batch)("center", a.center)("radius", a.radius)("matrix_batch_stride", a.matrix_batch_stride);
}

template <typename Arguments>
void read_biases(const Fields& f, Arguments& a) {
  f("center_bias", a.center_bias)("radius_bias", a.radius_bias)("bias_batch_stride", a.bias_batch_stride);
}

template <typename T>
void read(const Fields& f, RelaxForwardArguments<T>& a) {
  read_matrices(f, a);
  read_biases(f, a);
  f("inputs", a.inputs)("neurons", a.neurons)("relaxation", a.relaxation);
  f("center_out", a.center_out)("radius_out", a.radius_out);
  f("center_bias_out", a.center_bias_out)("radius_bias_out", a.radius_bias_out);
}

template <typename T>
void read(const Fields& f, RelaxForwardGradientArguments<T>& a) {
  read_matrices(f, a);
  read_biases(f, a);
  f("inputs", a.inputs)("neurons", a.neurons)("relaxation", a.relaxation)("gradients", a.gradients);
  f("center_out_gradient", a.center_out_gradient)("radius_out_gradient", a.radius_out_gradient);
  f("center_bias_out_gradient", a.center_bias_out_gradient)("radius_bias_out_gradient", a.radius_bias_out_gradient);
  f("center_gradient", a.center_gradient)("radius_gradient", a.radius_gradient);
  f("center_bias_gradient", a.center_bias_gradient)("radius_bias_gradient", a.radius_bias_gradient);
}

template <typename Arguments>
void read_bounds(const Fields& f, Arguments& a) {
  read_matrices(f, a);
  read_biases(f, a);
  f("region", a.region)("l", a.l)("u", a.u)("magnitude", a.magnitude);
}

template <typename Arguments>
void read_bounds_gradient(const Fields& f, Arguments& a) {
  read_matrices(f, a);
  f("region", a.region)("l_gradient", a.l_gradient)("u_gradient", a.u_gradient);
  f("center_gradient", a.center_gradient)("radius_gradient", a.radius_gradient);
}

template <typename T>
void read(const Fields& f, ConcretizeForwardArguments<T>& a) {
  read_bounds(f, a);
  f("inputs", a.inputs)("neurons", a.neurons);
}

template <typename T>
void read(const Fields& f, ConcretizeForwardGradientArguments<T>& a) {
  read_bounds_gradient(f, a);
  f("inputs", a.inputs)("neurons", a.neurons);
}

template <typename T>
void read(const Fields& f, ConcretizeForwardWindowsArguments<T>& a) {
  read_bounds(f, a);
  f("windows", a.windows);
}

template <typename T>
void read(const Fields& f, ConcretizeForwardWindowsGradientArguments<T>& a) {
  read_bounds_gradient(f, a);
  f("windows", a.windows);
}

template <typename T>
void read(const Fields& f, RelaxWindowsArguments<T>& a) {
  f("sides", a.sides)("A", a.A)("bias", a.bias)("relaxed", a.relaxed)("constants", a.constants);
  f("relaxation", a.relaxation);
}

template <typename T>
void read(const Fields& f, RelaxWindowsGradientArguments<T>& a) {
  f("sides", a.sides)("A", a.A)("bias", a.bias)("relaxation", a.relaxation)("gradients", a.gradients);
  f("relaxed_gradient", a.relaxed_gradient)("constants_gradient", a.constants_gradient);
  f("A_gradient", a.A_gradient)("bias_gradient", a.bias_gradient);
}

template <typename T>
void read(const Fields& f, RelaxConvolveWindowsArguments<T>& a) {
  read(f, a.relax);
  f("convolution", a.convolution)("coefficients", a.coefficients)("arithmetic", a.arithmetic);
}

template <typename T>
void read(const Fields& f, ConcretizeWindowsArguments<T>& a) {
  f("sides", a.sides)("A", a.A)("region", a.region)("bounds", a.bounds);
}

template <typename T>
void read(const Fields& f, ConcretizeWindowsGradientArguments<T>& a) {
  f("sides", a.sides)("A", a.A)("region", a.region)("bounds_gradient", a.bounds_gradient)("A_gradient", a.A_gradient);
}

template <template <typename> class Arguments, typename T>
void launch(const Fields& fields, Index (*workspace_bytes)(const Arguments<T>&),
            cuda::Status (*start)(const Arguments<T>&, void*, cuda::Stream)) {
  Arguments<T> args = {};
  read(fields, args);
  const Workspace workspace(workspace_bytes(args));
  check(start(args, workspace.data(), nullptr));
}

}  // namespace lbp::emulate

#define LBP_BIND(op)                                                                    \
  module.def(#op, [](const pybind11::dict& dict) {                                      \
    const Fields fields(dict);                                                          \
    if (fields.get<bool>("float32")) {                                                  \
      launch(fields, &lbp::cuda::op##_workspace_bytes<float>, &lbp::cuda::op<float>);   \
    } else {                                                                            \
      launch(fields, &lbp::cuda::op##_workspace_bytes<double>, &lbp::cuda::op<double>); \
    }                                                                                   \
  })

LBP_EMULATED_BINDINGS(module) {
  using namespace lbp::emulate;
  LBP_BIND(ramp);
  LBP_BIND(ramp_gradient);
  LBP_BIND(ramp_interval);
  LBP_BIND(ramp_interval_gradient);
  LBP_BIND(bounding_lines);
  LBP_BIND(bounding_lines_gradient);
  LBP_BIND(relax_backward);
  LBP_BIND(relax_backward_gradient);
  LBP_BIND(split_interval);
  LBP_BIND(join_interval);
  LBP_BIND(relax_forward);
  LBP_BIND(relax_forward_gradient);
  LBP_BIND(concretize);
  LBP_BIND(concretize_gradient);
  LBP_BIND(concretize_forward);
  LBP_BIND(concretize_forward_gradient);
  LBP_BIND(concretize_forward_windows);
  LBP_BIND(concretize_forward_windows_gradient);
  LBP_BIND(relax_windows);
  LBP_BIND(relax_windows_gradient);
  LBP_BIND(relax_convolve_windows);
  LBP_BIND(concretize_windows);
  LBP_BIND(concretize_windows_gradient);
}
