// From PyTorch tensors to the arguments of the launch functions, with every check that memory safety needs.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cmath>
#include <initializer_list>
#include <optional>
#include <vector>

#include "arguments.h"

namespace lbp::binding {

using torch::headeronly::ScalarType;
using torch::stable::Device;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

// The parameters of an activation as the schema has them: each a number, or a tensor that takes its place.
struct RampParameters {
  double r;
  OptionalTensor r_tensor;
  double eta;
  OptionalTensor eta_tensor;
};

// The bounds of a layer and the choice of lines as the schema has them.
struct RelaxationTensors {
  Tensor l, u;
  RampParameters ramp;
  int64_t strategy;
  OptionalTensor lower_slope, lower_intercept, upper_slope, upper_intercept;
  OptionalTensor margin_per_slope, margin;
};

// The input region as the schema has it: eps is a number, or a tensor that takes its place.
struct RegionTensors {
  Tensor x;
  OptionalTensor x_U;
  double eps;
  OptionalTensor eps_tensor;
  double p;
};

// A tensor of the given type and number of elements, contiguous, on the device that the op runs on; `name` is for the
// message.
template <typename T>
Tensor checked(Device on, const Tensor& tensor, const char* name, Index numel);

// A view [batch, size] of a tensor whose first dimension may be 1 for a batch of any size.
template <typename T>
struct Batched {
  Tensor storage;
  const T* data;
  Index stride;  // 0 where one entry serves the whole batch
};

template <typename T>
Batched<T> batched(Device on, const Tensor& tensor, const char* name, Index batch, Index size);

// r or a bias: one value, one per channel, or one per neuron of a layer with n neurons.
template <typename T>
struct PerNeuronTensor {
  T value = T(0);
  Tensor storage;
  bool has_storage = false;
  PerNeuron<T> view() const;
  Index count = 1, inner = 1;
};

template <typename T>
PerNeuronTensor<T> per_neuron(Device on, double value, const OptionalTensor& tensor, const char* name, Index neurons);

// The slope eta. A number, or a tensor on the CPU, which is read here; refused outside [0, 1]. A tensor on another
// device is left to the kernels, which give NaN outside [0, 1], so that nothing waits for the device.
template <typename T>
struct Eta {
  T value = T(0);
  Tensor storage;
  const T* data = nullptr;
};

template <typename T>
Eta<T> outer_slope(Device on, const RampParameters& parameters);

// Relaxation with the tensors that its pointers refer to.
template <typename T>
struct OwnedRelaxation {
  std::vector<Tensor> storage;
  PerNeuronTensor<T> r;
  Eta<T> eta;
  Relaxation<T> view;
};

template <typename T>
OwnedRelaxation<T> relaxation(Device on, const RelaxationTensors& tensors, Index batch, Index neurons);

// The batch that first dimensions of these sizes broadcast to: a size of 1 serves any batch.
Index common_batch(std::initializer_list<Index> sizes);

// Refuses a tensor whose sizes after its batch are not those of `like` from dimension `first` on: the same number of
// values in another shape would be read as other neurons.
void check_layer(const Tensor& tensor, const char* name, const Tensor& like, int64_t first);

// Refuses a tensor, where there is one, whose sizes are not those of another, as of a radius and its center.
void check_same_shape(const OptionalTensor& tensor, const char* name, const Tensor& like, const char* of);

// Product of the sizes from dimension `first` on.
Index trailing_size(const Tensor& tensor, int64_t first);

// A [K, B, S, ...] with contiguous rows; expanded dimensions stay expanded.
template <typename T>
struct CoefficientsTensor {
  Tensor storage;
  Index batch, rows, size;
  Coefficients<T> view;
};

template <typename T>
CoefficientsTensor<T> coefficients(const Tensor& A, int64_t sides);

// New tensors of the type T like a given one.
template <typename T>
Tensor empty(const Tensor& like, std::vector<int64_t> sizes);
Tensor empty_of(const Tensor& like, std::vector<int64_t> sizes, ScalarType type);
Tensor empty_on(Device on, std::vector<int64_t> sizes, ScalarType type);
std::vector<int64_t> sizes_of(const Tensor& tensor);

// Calls body with a value of the tensor's type, float or double, and with the device that the op runs on: the tensor's.
template <typename Body>
auto with_type(const Tensor& tensor, const char* op, const Body& body) {
  if (tensor.scalar_type() == ScalarType::Float) return body(float(), tensor.device());
  STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Double, op, ": expected float32 or float64 tensors, got ",
                  torch::headeronly::toString(tensor.scalar_type()));
  return body(double(), tensor.device());
}

}  // namespace lbp::binding
