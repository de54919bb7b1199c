// insert_forward of few rows, and its gradient with respect to them, on the CPU: from tensors to the kernels.
#include "torch/insert_forward.h"

#include "torch/ops.h"

namespace lbp::binding {

std::tuple<Tensor, Tensor> insert_forward_few_rows(Tensor A, Tensor center, OptionalTensor radius, Tensor center_bias,
                                                   OptionalTensor radius_bias, int64_t sides) {
  return with_type(A, "insert_forward_few_rows", [&](auto type, Device on) {
    using T = decltype(type);
    const InsertionTensors<T> in(on, A, center, radius, center_bias, radius_bias, sides);
    Tensor out = empty<T>(A, {A.size(0), A.size(1), A.size(2), in.inputs});
    Tensor constants = empty<double>(A, {A.size(0), A.size(1), A.size(2)});
    auto args = in.template arguments<InsertForwardArguments<T>>(sides);
    args.coefficients = out.mutable_data_ptr<T>();
    args.constants = constants.mutable_data_ptr<double>();
    launch::insert_forward<T>(on, args);
    return std::make_tuple(out, constants);
  });
}

Tensor insert_forward_few_rows_gradient(Tensor coefficients_gradient, Tensor constants_gradient, Tensor A,
                                        Tensor center, OptionalTensor radius, Tensor center_bias,
                                        OptionalTensor radius_bias, int64_t sides) {
  return with_type(A, "insert_forward_few_rows_gradient", [&](auto type, Device on) {
    using T = decltype(type);
    const InsertionTensors<T> in(on, A, center, radius, center_bias, radius_bias, sides);
    const Index rows = A.size(0) * A.size(1) * A.size(2);
    const Tensor to_out = checked<T>(on, coefficients_gradient, "coefficients_gradient", rows * in.inputs);
    const Tensor to_constants = checked<double>(on, constants_gradient, "constants_gradient", rows);
    Tensor to_A = empty<T>(A, sizes_of(A));
    auto args = in.template arguments<InsertForwardGradientArguments<T>>(sides);
    args.coefficients_gradient = to_out.const_data_ptr<T>();
    args.constants_gradient = to_constants.const_data_ptr<double>();
    args.A_gradient = to_A.mutable_data_ptr<T>();
    launch::insert_forward_row_gradient<T>(on, args);
    return to_A;
  });
}

}  // namespace lbp::binding
