// The launch functions of the memory-bound kernels. Each takes one dictionary: the fields of its arguments by name,
// arrays for pointers, and "float32" for the type.
#include "emulation/bind.h"

namespace lbp::emulate {
namespace {

class Fields {
 public:
  explicit Fields(py::dict fields) : fields_(std::move(fields)) {}

  template <typename T>
  T* array(const char* name) const {
    return fields_.contains(name) ? pointer<T>(fields_[name]) : nullptr;
  }
  template <typename T = Index>
  T number(const char* name) const {
    return fields_[name].cast<T>();
  }
  Fields group(const char* name) const { return Fields(fields_[name].cast<py::dict>()); }

 private:
  py::dict fields_;
};

template <typename T>
PerNeuron<T> per_neuron(const Fields& fields) {
  return {fields.array<const T>("data"), fields.number("count"), fields.number("inner"), fields.number<T>("value")};
}

template <typename T>
Relaxation<T> relaxation(const Fields& fields) {
  return {fields.array<const T>("l"),
          fields.array<const T>("u"),
          fields.number("batch_stride"),
          per_neuron<T>(fields.group("r")),
          fields.number<T>("eta"),
          static_cast<Strategy>(fields.number<int>("strategy")),
          fields.array<const T>("lower_slope"),
          fields.array<const T>("lower_intercept"),
          fields.array<const T>("upper_slope"),
          fields.array<const T>("upper_intercept"),
          fields.number("given_batch_stride"),
          fields.array<const T>("eta_data")};
}

template <typename T>
RelaxationGradients<T> relaxation_gradients(const Fields& fields) {
  return {fields.array<T>("l_gradient"),
          fields.array<T>("u_gradient"),
          fields.array<T>("r_gradient"),
          fields.array<T>("lower_slope_gradient"),
          fields.array<T>("lower_intercept_gradient"),
          fields.array<T>("upper_slope_gradient"),
          fields.array<T>("upper_intercept_gradient")};
}

template <typename T>
Coefficients<T> coefficients(const Fields& fields) {
  return {fields.array<const T>("A"), fields.number("side_stride"), fields.number("A_batch_stride"),
          fields.number("row_stride")};
}

template <typename T>
Region<T> region(const Fields& fields) {
  return {fields.array<const T>("x_L"),      fields.array<const T>("x_U"), fields.number("region_batch_stride"),
          fields.array<const double>("eps"), fields.number("eps_stride"),  fields.number<double>("q")};
}

template <typename T>
void read(const Fields& f, RampArguments<T>& args) {
  args = {f.number("batch"),  f.number("neurons"), f.array<const T>("z"),       per_neuron<T>(f.group("r")),
          f.number<T>("eta"), f.array<T>("out"),   f.array<const T>("eta_data")};
}

template <typename T>
void read(const Fields& f, RampGradientArguments<T>& args) {
  args = {f.number("batch"),           f.number("neurons"),      f.array<const T>("z"),
          per_neuron<T>(f.group("r")), f.number<T>("eta"),       f.array<const T>("out_gradient"),
          f.array<T>("z_gradient"),    f.array<T>("r_gradient"), f.array<const T>("eta_data")};
}

template <typename T>
void read(const Fields& f, RampIntervalArguments<T>& args) {
  args = {f.number("batch"),           f.number("neurons"),         f.array<const T>("l"), f.array<const T>("u"),
          per_neuron<T>(f.group("r")), f.number<T>("eta"),          f.array<T>("lower"),   f.array<T>("upper"),
          f.array<Index>("counts"),    f.array<const T>("eta_data")};
}

template <typename T>
void read(const Fields& f, RampIntervalGradientArguments<T>& args) {
  args = {f.number("batch"),
          f.number("neurons"),
          f.array<const T>("l"),
          f.array<const T>("u"),
          per_neuron<T>(f.group("r")),
          f.number<T>("eta"),
          f.array<const T>("lower_gradient"),
          f.array<const T>("upper_gradient"),
          f.array<T>("l_gradient"),
          f.array<T>("u_gradient"),
          f.array<T>("r_gradient"),
          f.array<const T>("eta_data")};
}

template <typename T>
void read(const Fields& f, BoundingLinesArguments<T>& args) {
  args = {f.number("batch"),
          f.number("neurons"),
          relaxation<T>(f.group("relaxation")),
          f.array<T>("lower_slope"),
          f.array<T>("lower_intercept"),
          f.array<T>("upper_slope"),
          f.array<T>("upper_intercept")};
}

template <typename T>
void read(const Fields& f, BoundingLinesGradientArguments<T>& args) {
  args = {f.number("batch"),
          f.number("neurons"),
          relaxation<T>(f.group("relaxation")),
          f.array<const T>("to_lower_slope"),
          f.array<const T>("to_lower_intercept"),
          f.array<const T>("to_upper_slope"),
          f.array<const T>("to_upper_intercept"),
          relaxation_gradients<T>(f)};
}

template <typename T>
void read(const Fields& f, RelaxBackwardArguments<T>& args) {
  args = {f.number<int>("sides"),
          f.number("batch"),
          f.number("rows"),
          f.number("neurons"),
          coefficients<T>(f),
          relaxation<T>(f.group("relaxation")),
          per_neuron<T>(f.group("bias")),
          f.array<T>("relaxed"),
          f.array<double>("constants")};
}

template <typename T>
void read(const Fields& f, RelaxBackwardGradientArguments<T>& args) {
  args = {f.number<int>("sides"),
          f.number("batch"),
          f.number("rows"),
          f.number("neurons"),
          coefficients<T>(f),
          relaxation<T>(f.group("relaxation")),
          per_neuron<T>(f.group("bias")),
          f.array<const T>("relaxed_gradient"),
          f.array<const double>("constants_gradient"),
          f.array<T>("A_gradient"),
          relaxation_gradients<T>(f),
          f.array<T>("bias_gradient")};
}

template <typename T>
void read(const Fields& f, RelaxForwardArguments<T>& args) {
  args = {f.number("batch"),
          f.number("inputs"),
          f.number("neurons"),
          f.array<const T>("center"),
          f.array<const T>("radius"),
          f.number("matrix_batch_stride"),
          f.array<const T>("center_bias"),
          f.array<const T>("radius_bias"),
          f.number("bias_batch_stride"),
          relaxation<T>(f.group("relaxation")),
          f.array<T>("center_out"),
          f.array<T>("radius_out"),
          f.array<T>("center_bias_out"),
          f.array<T>("radius_bias_out")};
}

template <typename T>
void read(const Fields& f, RelaxForwardGradientArguments<T>& args) {
  args = {f.number("batch"),
          f.number("inputs"),
          f.number("neurons"),
          f.array<const T>("center"),
          f.array<const T>("radius"),
          f.number("matrix_batch_stride"),
          f.array<const T>("center_bias"),
          f.array<const T>("radius_bias"),
          f.number("bias_batch_stride"),
          relaxation<T>(f.group("relaxation")),
          f.array<const T>("center_out_gradient"),
          f.array<const T>("radius_out_gradient"),
          f.array<const T>("center_bias_out_gradient"),
          f.array<const T>("radius_bias_out_gradient"),
          f.array<T>("center_gradient"),
          f.array<T>("radius_gradient"),
          f.array<T>("center_bias_gradient"),
          f.array<T>("radius_bias_gradient"),
          relaxation_gradients<T>(f)};
}

template <typename T>
void read(const Fields& f, ConcretizeArguments<T>& args) {
  args = {f.number<int>("sides"), f.number("batch"), f.number("rows"),         f.number("inputs"),
          coefficients<T>(f),     region<T>(f),      f.array<double>("bounds")};
}

template <typename T>
void read(const Fields& f, ConcretizeGradientArguments<T>& args) {
  args = {f.number<int>("sides"),
          f.number("batch"),
          f.number("rows"),
          f.number("inputs"),
          coefficients<T>(f),
          region<T>(f),
          f.array<const double>("bounds_gradient"),
          f.array<T>("A_gradient")};
}

template <typename T>
void read(const Fields& f, ConcretizeForwardArguments<T>& args) {
  args = {f.number("batch"),
          f.number("inputs"),
          f.number("neurons"),
          f.array<const T>("center"),
          f.array<const T>("radius"),
          f.number("matrix_batch_stride"),
          f.array<const T>("center_bias"),
          f.array<const T>("radius_bias"),
          f.number("bias_batch_stride"),
          region<T>(f),
          f.array<T>("l"),
          f.array<T>("u")};
}

template <typename T>
void read(const Fields& f, ConcretizeForwardGradientArguments<T>& args) {
  args = {f.number("batch"),
          f.number("inputs"),
          f.number("neurons"),
          f.array<const T>("center"),
          f.array<const T>("radius"),
          f.number("matrix_batch_stride"),
          region<T>(f),
          f.array<const T>("l_gradient"),
          f.array<const T>("u_gradient"),
          f.array<T>("center_gradient"),
          f.array<T>("radius_gradient")};
}

template <template <typename> class Arguments, typename T>
void launch(const Fields& fields, Index (*workspace_bytes)(const Arguments<T>&),
            cuda::Status (*start)(const Arguments<T>&, void*, cuda::Stream)) {
  Arguments<T> args = {};
  read(fields, args);
  const Workspace workspace(workspace_bytes(args));
  check(start(args, workspace.data(), nullptr));
}

}  // namespace
}  // namespace lbp::emulate

#define LBP_BIND(op)                                                                    \
  module.def(#op, [](const pybind11::dict& dict) {                                      \
    const Fields fields(dict);                                                          \
    if (fields.number<bool>("float32")) {                                               \
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
  LBP_BIND(relax_forward);
  LBP_BIND(relax_forward_gradient);
  LBP_BIND(concretize);
  LBP_BIND(concretize_gradient);
  LBP_BIND(concretize_forward);
  LBP_BIND(concretize_forward_gradient);
}
