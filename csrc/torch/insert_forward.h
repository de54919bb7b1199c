// Coefficients and the forward linear bounds that are inserted into them, with every check that memory safety needs.
#pragma once

#include <optional>

#include "product_arguments.h"
#include "torch/tensors.h"

namespace lbp::binding {

template <typename T>
struct InsertionTensors {
  CoefficientsTensor<T> matrix;
  Index inputs;
  Batched<T> center, center_bias;
  std::optional<Batched<T>> radius, radius_bias;

  InsertionTensors(Device on, const Tensor& A, const Tensor& center_tensor, const OptionalTensor& radius_tensor,
                   const Tensor& center_bias_tensor, const OptionalTensor& radius_bias_tensor, int64_t sides)
      : matrix(coefficients<T>(A, sides)),
        inputs(checked_inputs(A, center_tensor, center_bias_tensor)),
        center(batched<T>(on, center_tensor, "center", matrix.batch, inputs * matrix.size)),
        center_bias(batched<T>(on, center_bias_tensor, "center_bias", matrix.batch, matrix.size)) {
    check_same_shape(radius_tensor, "radius", center_tensor, "center");
    check_same_shape(radius_bias_tensor, "radius_bias", center_bias_tensor, "center_bias");
    if (radius_tensor.has_value())
      radius = batched<T>(on, *radius_tensor, "radius", matrix.batch, inputs * matrix.size);
    if (radius_bias_tensor.has_value())
      radius_bias = batched<T>(on, *radius_bias_tensor, "radius_bias", matrix.batch, matrix.size);
  }

  // What the arguments of the op and of its gradient begin with.
  template <typename Arguments>
  Arguments arguments(int64_t sides) const {
    Arguments args = {};
    args.sides = int(sides);
    args.batch = matrix.batch;
    args.rows = matrix.rows;
    args.neurons = matrix.size;
    args.inputs = inputs;
    args.A = matrix.view;
    args.center = center.data;
    args.radius = radius ? radius->data : nullptr;
    args.matrix_batch_stride = center.stride;
    args.center_bias = center_bias.data;
    args.radius_bias = radius_bias ? radius_bias->data : nullptr;
    args.bias_batch_stride = center_bias.stride;
    return args;
  }

 private:
  static Index checked_inputs(const Tensor& A, const Tensor& center_tensor, const Tensor& center_bias_tensor) {
    STD_TORCH_CHECK(center_tensor.dim() >= 2, "center: expected [batch, inputs, ...]");
    check_layer(center_bias_tensor, "center_bias", A, 3);
    check_layer(center_bias_tensor, "center_bias", center_tensor, 2);
    return center_tensor.size(1);
  }
};

}  // namespace lbp::binding
