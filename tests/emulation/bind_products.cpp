// The fused products on NumPy arrays. Sizes come from the arrays; absent arrays are None.
#include "cuda/kernels/split_tf32.cuh"
#include "emulation/fields.h"

namespace lbp::emulate {
namespace {

template <typename T>
LinearLayer<T> linear_layer(const py::array& weight, const py::object& bias) {
  return {weight.shape(1), weight.shape(0), pointer<const T>(weight), pointer<const T>(bias)};
}

// stride, padding, dilation, input size, output size: two numbers each; groups.
struct Geometry {
  Extent stride, padding, dilation, input, output;
  int groups;
};

Geometry geometry_of(const std::vector<int>& numbers) {
  if (numbers.size() != 11) throw py::value_error("expected eleven numbers of geometry");
  const auto extent = [&](int i) { return Extent{numbers[2 * i], numbers[2 * i + 1]}; };
  return {extent(0), extent(1), extent(2), extent(3), extent(4), numbers[10]};
}

template <typename T>
ConvolutionLayer<T> convolution_layer(const py::array& weight, const py::object& bias,
                                      const std::vector<int>& numbers) {
  const Geometry geometry = geometry_of(numbers);
  return {int(weight.shape(1)) * geometry.groups,
          int(weight.shape(0)),
          geometry.groups,
          geometry.input,
          geometry.output,
          {int(weight.shape(2)), int(weight.shape(3))},
          geometry.stride,
          geometry.padding,
          geometry.dilation,
          pointer<const T>(weight),
          pointer<const T>(bias)};
}

// Calls body with a value of the array's type.
template <typename Body>
void with_type(const py::array& array, const Body& body) {
  if (array.dtype().is(py::dtype::of<float>())) return body(float());
  if (array.dtype().is(py::dtype::of<double>())) return body(double());
  throw py::type_error("expected an array of float32 or float64");
}

Arithmetic arithmetic(bool split) { return split ? Arithmetic::kSplit : Arithmetic::kPlain; }

template <typename Arguments>
void run_with_workspace(Index bytes, const Arguments& args,
                        cuda::Status (*launch)(const Arguments&, void*, cuda::Stream)) {
  const Workspace workspace(bytes);
  check(launch(args, workspace.data(), nullptr));
}

#define LBP_RUN(op, args) run_with_workspace(cuda::op##_workspace_bytes(args), args, &cuda::op)

// By how much intervals move outward: the widening of the input, and margins or None.
struct Outward {
  double relative, absolute;
  py::object margin, margin_of_example;

  template <typename Arguments>
  void add_to(Arguments& args) const {
    args.by.relative = decltype(args.by.relative)(relative);
    args.by.absolute = decltype(args.by.absolute)(absolute);
    args.margin = pointer<std::remove_pointer_t<decltype(args.margin)>>(margin);
    args.margin_of_example = pointer<std::remove_pointer_t<decltype(args.margin)>>(margin_of_example);
  }
};

void interval_linear(const py::array& l, const py::array& u, const py::array& weight, const py::object& bias,
                     const py::array& lower, const py::array& upper, bool split, const Outward& outward) {
  with_type(l, [&](auto type) {
    using T = decltype(type);
    IntervalLinearProductArguments<T> args = {l.shape(0),          linear_layer<T>(weight, bias),
                                              pointer<const T>(l), pointer<const T>(u),
                                              pointer<T>(lower),   pointer<T>(upper),
                                              arithmetic(split)};
    outward.add_to(args);
    LBP_RUN(interval_linear, args);
  });
}

// Of a layer of these sizes.
template <typename T>
Index interval_linear_workspace_bytes(Index batch, Index inputs, Index outputs, bool outward) {
  IntervalLinearProductArguments<T> args = {};
  args.batch = batch;
  args.layer.inputs = inputs;
  args.layer.outputs = outputs;
  const T margin = 0;
  if (outward) args.margin = &margin;
  return cuda::interval_linear_workspace_bytes(args);
}

void interval_conv2d(const py::array& l, const py::array& u, const py::array& weight, const py::object& bias,
                     const std::vector<int>& geometry, const py::array& lower, const py::array& upper, bool split,
                     const Outward& outward) {
  with_type(l, [&](auto type) {
    using T = decltype(type);
    IntervalConv2dArguments<T> args = {l.shape(0),          convolution_layer<T>(weight, bias, geometry),
                                       pointer<const T>(l), pointer<const T>(u),
                                       pointer<T>(lower),   pointer<T>(upper),
                                       arithmetic(split)};
    outward.add_to(args);
    LBP_RUN(interval_conv2d, args);
  });
}

// center, radius, center_bias, radius_bias of what comes in or goes out.
using Matrices = std::vector<py::object>;

template <typename T, typename Layer>
ForwardProductArguments<T, Layer> forward_arguments(const Matrices& in, const Layer& layer, const Matrices& out,
                                                    bool split) {
  const auto center = py::cast<py::array>(in[0]), center_bias = py::cast<py::array>(in[2]);
  return {center.shape(0) * center.shape(1),
          center_bias.shape(0),
          layer,
          pointer<const T>(in[0]),
          pointer<const T>(in[1]),
          pointer<const T>(in[2]),
          pointer<const T>(in[3]),
          pointer<T>(out[0]),
          pointer<T>(out[1]),
          pointer<T>(out[2]),
          pointer<T>(out[3]),
          arithmetic(split)};
}

void forward_linear(const Matrices& in, const py::array& weight, const py::object& bias, const Matrices& out,
                    bool split) {
  with_type(weight, [&](auto type) {
    using T = decltype(type);
    const auto args = forward_arguments<T>(in, linear_layer<T>(weight, bias), out, split);
    LBP_RUN(forward_linear, args);
  });
}

void forward_conv2d(const Matrices& in, const py::array& weight, const py::object& bias,
                    const std::vector<int>& geometry, const Matrices& out, bool split) {
  with_type(weight, [&](auto type) {
    using T = decltype(type);
    const auto args = forward_arguments<T>(in, convolution_layer<T>(weight, bias, geometry), out, split);
    LBP_RUN(forward_conv2d, args);
  });
}

// Strides of A [K, B, S, ...] in elements; an expanded dimension has stride 0.
template <typename T>
Coefficients<T> coefficients_of(const py::array& A) {
  const auto stride = [&](int i) { return Index(A.strides(i)) / Index(sizeof(T)); };
  return {pointer<const T>(A), stride(0), stride(1), stride(2)};
}

void insert_forward(const py::array& A, const Matrices& in, int sides, const py::array& coefficients,
                    const py::array& constants, bool split) {
  with_type(A, [&](auto type) {
    using T = decltype(type);
    const auto center = py::cast<py::array>(in[0]), center_bias = py::cast<py::array>(in[2]);
    const Index batch = A.shape(1), neurons = A.shape(3), inputs = center.shape(1);
    const InsertForwardArguments<T> args = {sides,
                                            batch,
                                            A.shape(2),
                                            neurons,
                                            inputs,
                                            coefficients_of<T>(A),
                                            pointer<const T>(in[0]),
                                            pointer<const T>(in[1]),
                                            center.shape(0) == 1 ? 0 : inputs * neurons,
                                            pointer<const T>(in[2]),
                                            pointer<const T>(in[3]),
                                            center_bias.shape(0) == 1 ? 0 : neurons,
                                            pointer<T>(coefficients),
                                            pointer<double>(constants),
                                            arithmetic(split)};
    LBP_RUN(insert_forward, args);
  });
}

// Of the fields of a Relaxation; None: no activation.
template <typename T>
Relaxation<T> relaxation_of(const py::object& fields) {
  Relaxation<T> relaxation = {};
  if (!fields.is_none()) read(Fields(fields), relaxation);
  return relaxation;
}

template <typename T, typename Layer>
RelaxBackwardProductArguments<T, Layer> relax_arguments(const py::array& A, const py::object& relaxation, int sides,
                                                        const Layer& layer, const py::array& coefficients,
                                                        const py::array& constants, bool split) {
  return {sides,
          A.shape(1),
          A.shape(2),
          coefficients_of<T>(A),
          relaxation_of<T>(relaxation),
          layer,
          pointer<T>(coefficients),
          pointer<double>(constants),
          arithmetic(split)};
}

void relax_backward_linear(const py::array& A, const py::object& relaxation, const py::array& weight,
                           const py::object& bias, int sides, const py::array& coefficients, const py::array& constants,
                           bool split) {
  with_type(A, [&](auto type) {
    using T = decltype(type);
    const auto args =
        relax_arguments<T>(A, relaxation, sides, linear_layer<T>(weight, bias), coefficients, constants, split);
    LBP_RUN(relax_backward_linear, args);
  });
}

void relax_backward_conv2d(const py::array& A, const py::object& relaxation, const py::array& weight,
                           const py::object& bias, const std::vector<int>& geometry, int sides,
                           const py::array& coefficients, const py::array& constants, bool split) {
  with_type(A, [&](auto type) {
    using T = decltype(type);
    const auto layer = convolution_layer<T>(weight, bias, geometry);
    const auto args = relax_arguments<T>(A, relaxation, sides, layer, coefficients, constants, split);
    LBP_RUN(relax_backward_conv2d, args);
  });
}

// What products with forward bounds, or through a layer, take for rows of one side and image, and sizes alone.
template <typename T>
Index insert_forward_workspace_bytes(Index rows, Index neurons, Index inputs) {
  InsertForwardArguments<T> args = {};
  args.sides = 1;
  args.batch = 1;
  args.rows = rows;
  args.neurons = neurons;
  args.inputs = inputs;
  return cuda::insert_forward_workspace_bytes(args);
}

template <typename T>
Index relax_backward_linear_workspace_bytes(Index rows, Index outputs, Index inputs) {
  RelaxBackwardLinearArguments<T> args = {};
  args.sides = 1;
  args.batch = 1;
  args.rows = rows;
  args.layer.outputs = outputs;
  args.layer.inputs = inputs;
  return cuda::relax_backward_linear_workspace_bytes(args);
}

template <typename T>
Index forward_conv2d_workspace_bytes(Index rows, const py::array& weight, const std::vector<int>& geometry) {
  ForwardConv2dArguments<T> args = {};
  args.rows = rows;
  args.layer = convolution_layer<T>(weight, py::none(), geometry);
  return cuda::forward_conv2d_workspace_bytes(args);
}

template <typename T>
Index interval_conv2d_workspace_bytes(Index batch, const py::array& weight, const std::vector<int>& geometry) {
  IntervalConv2dArguments<T> args = {};
  args.batch = batch;
  args.layer = convolution_layer<T>(weight, py::none(), geometry);
  return cuda::interval_conv2d_workspace_bytes(args);
}

template <typename T>
Index relax_backward_conv2d_workspace_bytes(Index rows, const py::array& weight, const std::vector<int>& geometry) {
  RelaxBackwardConv2dArguments<T> args = {};
  args.batch = 1;
  args.rows = rows;
  args.layer = convolution_layer<T>(weight, py::none(), geometry);
  return cuda::relax_backward_conv2d_workspace_bytes(args);
}

// The parts of float32 numbers that tensor cores multiply, and whether the numbers may be split.
void split_tf32(const py::array& numbers, const py::array& high, const py::array& low, const py::array& allowed) {
  for (Index i = 0; i < Index(numbers.size()); ++i) {
    const float x = pointer<const float>(numbers)[i];
    const cuda::SplitFloat parts = cuda::split(x);
    pointer<float>(high)[i] = parts.high;
    pointer<float>(low)[i] = parts.low;
    pointer<bool>(allowed)[i] = cuda::may_split(x);
  }
}

}  // namespace

LBP_EMULATED_BINDINGS(module) {
  module.def("split_tf32", &split_tf32);
  py::class_<Outward>(module, "Outward").def(py::init<double, double, py::object, py::object>());
  module.def("interval_linear", &interval_linear);
  module.def("interval_linear_workspace_bytes_4", &interval_linear_workspace_bytes<float>);
  module.def("interval_linear_workspace_bytes_8", &interval_linear_workspace_bytes<double>);
  module.def("interval_conv2d_workspace_bytes_4", &interval_conv2d_workspace_bytes<float>);
  module.def("interval_conv2d_workspace_bytes_8", &interval_conv2d_workspace_bytes<double>);
  module.def("relax_backward_conv2d_workspace_bytes_4", &relax_backward_conv2d_workspace_bytes<float>);
  module.def("relax_backward_conv2d_workspace_bytes_8", &relax_backward_conv2d_workspace_bytes<double>);
  module.def("insert_forward_workspace_bytes_4", &insert_forward_workspace_bytes<float>);
  module.def("insert_forward_workspace_bytes_8", &insert_forward_workspace_bytes<double>);
  module.def("relax_backward_linear_workspace_bytes_4", &relax_backward_linear_workspace_bytes<float>);
  module.def("relax_backward_linear_workspace_bytes_8", &relax_backward_linear_workspace_bytes<double>);
  module.def("forward_conv2d_workspace_bytes_4", &forward_conv2d_workspace_bytes<float>);
  module.def("forward_conv2d_workspace_bytes_8", &forward_conv2d_workspace_bytes<double>);
  module.def("interval_conv2d", &interval_conv2d);
  module.def("forward_linear", &forward_linear);
  module.def("forward_conv2d", &forward_conv2d);
  module.def("insert_forward", &insert_forward);
  module.def("relax_backward_linear", &relax_backward_linear);
  module.def("relax_backward_conv2d", &relax_backward_conv2d);
}

}  // namespace lbp::emulate
