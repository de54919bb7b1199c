#include "torch/tensors.h"

#include <algorithm>
#include <string>
#include <type_traits>

#include "cpu/large_pages.h"

namespace lbp::binding {
namespace {

// Bytes from which on the first touch of an array's pages is worth a call to the system.
constexpr size_t kLargeArray = size_t(4) << 20;

template <typename T>
constexpr ScalarType scalar_type() {
  return std::is_same_v<T, float> ? ScalarType::Float
                                  : (std::is_same_v<T, double> ? ScalarType::Double : ScalarType::Long);
}

std::string text_of(const std::vector<int64_t>& sizes) {
  std::string text = "[";
  for (std::size_t i = 0; i < sizes.size(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(sizes[i]);
  return text + "]";
}

std::string shape_of(const Tensor& tensor) { return text_of(sizes_of(tensor)); }

std::string device_name(Device device) {
  if (device.is_cpu()) return "the CPU";
  return (device.is_cuda() ? "cuda:" : "another device, ") + std::to_string(device.index());
}

void check_device(Device on, const Tensor& tensor, const char* name) {
  const Device device = tensor.device();
  // A device of the CPU has no index that means something.
  const bool same = device.type() == on.type() && (on.is_cpu() || device.index() == on.index());
  STD_TORCH_CHECK(same, name, ": expected a tensor on ", device_name(on), " like the other arguments, got one on ",
                  device_name(device));
}

void check_type(Device on, const Tensor& tensor, const char* name, ScalarType type) {
  check_device(on, tensor, name);
  STD_TORCH_CHECK(tensor.scalar_type() == type, name, ": expected ", torch::headeronly::toString(type),
                  " like the other arguments, got ", torch::headeronly::toString(tensor.scalar_type()));
}

Tensor as_contiguous(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

// A new tensor without PyTorch's dispatcher, through which it takes longer than a small layer's kernel.
Tensor empty_on_cpu(const std::vector<int64_t>& sizes, ScalarType type) {
  std::vector<int64_t> strides(sizes.size());
  uint64_t stride = 1;
  for (std::size_t i = sizes.size(); i-- > 0; stride *= uint64_t(std::max<int64_t>(sizes[i], 1))) {
    strides[i] = int64_t(stride);
  }
  const int32_t code = torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
  AtenTensorHandle result = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(int64_t(sizes.size()), sizes.data(), strides.data(), code,
                                                  aoti_torch_device_type_cpu(), 0, &result));
  return Tensor(result);
}

}  // namespace

std::vector<int64_t> sizes_of(const Tensor& tensor) {
  const auto sizes = tensor.sizes();
  return {sizes.begin(), sizes.end()};
}

Index trailing_size(const Tensor& tensor, int64_t first) {
  Index size = 1;
  for (int64_t i = first; i < tensor.dim(); ++i) size *= tensor.size(i);
  return size;
}

Index common_batch(std::initializer_list<Index> sizes) {
  for (const Index size : sizes) {
    if (size != 1) return size;
  }
  return 1;
}

void check_layer(const Tensor& tensor, const char* name, const Tensor& like, int64_t first) {
  bool same = tensor.dim() - 1 == like.dim() - first;
  for (int64_t i = first; same && i < like.dim(); ++i) same = tensor.size(i - first + 1) == like.size(i);
  STD_TORCH_CHECK(same, name, ": expected a batch of the layer's shape as in ", shape_of(like), ", got shape ",
                  shape_of(tensor));
}

void check_same_shape(const OptionalTensor& tensor, const char* name, const Tensor& like, const char* of) {
  STD_TORCH_CHECK(!tensor.has_value() || sizes_of(*tensor) == sizes_of(like), name, ": expected the shape of ", of,
                  ", ", shape_of(like), ", got ", shape_of(*tensor));
}

Tensor empty_of(const Tensor& like, std::vector<int64_t> sizes, ScalarType type) {
  return empty_on(like.device(), std::move(sizes), type);
}

Tensor empty_on(Device on, std::vector<int64_t> sizes, ScalarType type) {
  try {
    Tensor result = on.is_cpu() ? empty_on_cpu(sizes, type) : torch::stable::empty(sizes, type, std::nullopt, on);
    const size_t bytes = size_t(result.numel()) * size_t(result.element_size());
    if (on.is_cpu() && bytes >= kLargeArray) cpu::prefer_large_pages(result.mutable_data_ptr(), bytes);
    return result;
  } catch (const std::exception&) {  // it names a function of the ABI, not what went wrong
    STD_TORCH_CHECK(false, "cannot allocate a ", torch::headeronly::toString(type), " tensor of shape ", text_of(sizes),
                    " on ", device_name(on),
                    on.is_cpu() ? ": out of memory"
                                : ": out of memory, or an error of the device before, after which no allocation works",
                    "; bound fewer rows or examples at a time");
  }
}

template <typename T>
Tensor empty(const Tensor& like, std::vector<int64_t> sizes) {
  return empty_of(like, std::move(sizes), scalar_type<T>());
}

template <typename T>
Tensor checked(Device on, const Tensor& tensor, const char* name, Index numel) {
  check_type(on, tensor, name, scalar_type<T>());
  STD_TORCH_CHECK(tensor.numel() == numel, name, ": expected ", numel, " elements, got shape ", shape_of(tensor));
  return as_contiguous(tensor);
}

template <typename T>
Batched<T> batched(Device on, const Tensor& tensor, const char* name, Index batch, Index size) {
  check_type(on, tensor, name, scalar_type<T>());
  const Index own_batch = tensor.dim() == 0 ? 0 : tensor.size(0);
  STD_TORCH_CHECK((own_batch == batch || own_batch == 1) && trailing_size(tensor, 1) == size, name,
                  ": expected a batch of ", batch, " (or 1) and ", size, " values each, got shape ", shape_of(tensor));
  Tensor storage = as_contiguous(tensor);
  // A null pointer means absent; a tensor without elements is there, though nothing is read from it.
  static const T none = T(0);
  const T* data = storage.numel() == 0 ? &none : storage.const_data_ptr<T>();
  return {storage, data, own_batch == 1 ? 0 : size};
}

template <typename T>
PerNeuron<T> PerNeuronTensor<T>::view() const {
  return {has_storage ? storage.const_data_ptr<T>() : nullptr, count, inner, value};
}

template <typename T>
PerNeuronTensor<T> per_neuron(Device on, double value, const OptionalTensor& tensor, const char* name, Index neurons) {
  PerNeuronTensor<T> result;
  if (!tensor.has_value()) {
    result.value = T(value);
    return result;
  }
  check_type(on, *tensor, name, scalar_type<T>());
  const Index count = tensor->numel();
  STD_TORCH_CHECK(count == 1 || count == neurons || (count > 0 && neurons % count == 0 && tensor->size(0) == count),
                  name, ": expected one value, one per channel or one for each of ", neurons, " neurons, got shape ",
                  shape_of(*tensor));
  result.storage = as_contiguous(*tensor);
  result.has_storage = true;
  result.count = count == 0 ? 1 : count;
  result.inner = count <= 1 || neurons == 0 ? 1 : neurons / count;
  return result;
}

template <typename T>
Eta<T> outer_slope(Device on, const RampParameters& parameters) {
  double eta = parameters.eta;
  if (parameters.eta_tensor.has_value()) {
    const Tensor& tensor = *parameters.eta_tensor;
    STD_TORCH_CHECK(tensor.numel() == 1, "eta: expected a number or a tensor with one element, got shape ",
                    shape_of(tensor));
    if (!tensor.is_cpu()) {
      check_device(on, tensor, "eta");
      const Tensor storage = torch::stable::to(tensor, scalar_type<T>());
      return {T(0), storage, storage.template const_data_ptr<T>()};
    }
    eta = with_type(tensor, "eta", [&](auto type, Device) { return double(*tensor.const_data_ptr<decltype(type)>()); });
  }
  STD_TORCH_CHECK(eta >= 0 && eta <= 1, "eta must lie in [0, 1], got ", eta);
  return {T(eta), {}, nullptr};
}

// The margins of the lines of a layer; what they point to is added to the storage.
template <typename T>
LineMargins<T> line_margins(Device on, const RelaxationTensors& tensors, Index batch, Index neurons,
                            std::vector<Tensor>& storage) {
  STD_TORCH_CHECK(tensors.margin_per_slope.has_value() == tensors.margin.has_value(),
                  "margin_per_slope and margin: expected both or none");
  if (!tensors.margin.has_value()) return {};
  const Batched<T> per_slope = batched<T>(on, *tensors.margin_per_slope, "margin_per_slope", batch, neurons);
  const bool shared = neurons != 1 && trailing_size(*tensors.margin, 1) == 1;
  const Batched<T> rest = batched<T>(on, *tensors.margin, "margin", batch, shared ? 1 : neurons);
  storage.push_back(per_slope.storage);
  storage.push_back(rest.storage);
  return {per_slope.data, rest.data, per_slope.stride, rest.stride, shared ? 0 : 1};
}

template <typename T>
OwnedRelaxation<T> relaxation(Device on, const RelaxationTensors& tensors, Index batch, Index neurons) {
  OwnedRelaxation<T> result;
  if (tensors.l.dim() > 0) check_layer(tensors.u, "u", tensors.l, 1);
  const Batched<T> l = batched<T>(on, tensors.l, "l", batch, neurons),
                   u = batched<T>(on, tensors.u, "u", batch, neurons);
  STD_TORCH_CHECK(l.stride == u.stride, "l and u: expected the same shape, got ", shape_of(tensors.l), " and ",
                  shape_of(tensors.u));
  STD_TORCH_CHECK(tensors.strategy >= 0 && tensors.strategy <= 7, "strategy: expected a code from 0 to 7, got ",
                  tensors.strategy);
  result.storage = {l.storage, u.storage};
  result.r = per_neuron<T>(on, tensors.ramp.r, tensors.ramp.r_tensor, "r", neurons);

  Index given_stride = 0;
  bool any_given = false;
  const auto given = [&](const OptionalTensor& tensor, const char* name) -> const T* {
    if (!tensor.has_value()) return nullptr;
    const Batched<T> lines = batched<T>(on, *tensor, name, batch, neurons);
    STD_TORCH_CHECK(!any_given || lines.stride == given_stride, name,
                    ": expected the batch size of the other given lines, got shape ", shape_of(*tensor));
    any_given = true;
    given_stride = lines.stride;
    result.storage.push_back(lines.storage);
    return lines.data;
  };
  const T* lower_slope = given(tensors.lower_slope, "lower_slope");
  const T* lower_intercept = given(tensors.lower_intercept, "lower_intercept");
  const T* upper_slope = given(tensors.upper_slope, "upper_slope");
  const T* upper_intercept = given(tensors.upper_intercept, "upper_intercept");
  const Strategy strategy = static_cast<Strategy>(tensors.strategy);
  STD_TORCH_CHECK(strategy != Strategy::kLines || (lower_slope && lower_intercept && upper_slope && upper_intercept),
                  "strategy 'lines' takes all four of lower_slope, lower_intercept, upper_slope, upper_intercept");
  result.eta = outer_slope<T>(on, tensors.ramp);
  result.view = {l.data,
                 u.data,
                 l.stride,
                 result.r.view(),
                 result.eta.value,
                 strategy,
                 lower_slope,
                 lower_intercept,
                 upper_slope,
                 upper_intercept,
                 given_stride,
                 result.eta.data,
                 line_margins<T>(on, tensors, batch, neurons, result.storage)};
  return result;
}

template <typename T>
CoefficientsTensor<T> coefficients(const Tensor& A, int64_t sides) {
  check_type(A.device(), A, "A", scalar_type<T>());
  STD_TORCH_CHECK(sides >= 1 && sides <= 3, "sides: expected 1 (lower), 2 (upper) or 3 (both), got ", sides);
  STD_TORCH_CHECK(A.dim() >= 3 && A.size(0) == (sides == 3 ? 2 : 1), "A: expected [", sides == 3 ? 2 : 1,
                  ", batch, rows, ...] for these sides, got shape ", shape_of(A));
  const Index size = trailing_size(A, 3);
  // Rows must be contiguous; the first three dimensions may have any stride, 0 included.
  Index expected = 1;
  bool rows_contiguous = true;
  for (int64_t i = A.dim() - 1; i >= 3; --i) {
    rows_contiguous = rows_contiguous && (A.size(i) == 1 || A.stride(i) == expected);
    expected *= A.size(i);
  }
  const Tensor storage = rows_contiguous ? A : torch::stable::contiguous(A);
  return {storage,
          A.size(1),
          A.size(2),
          size,
          {storage.const_data_ptr<T>(), storage.stride(0), storage.stride(1), storage.stride(2)}};
}

#define LBP_INSTANTIATE(T)                                                                              \
  template Tensor empty<T>(const Tensor&, std::vector<int64_t>);                                        \
  template Tensor checked<T>(Device, const Tensor&, const char*, Index);                                \
  template Batched<T> batched<T>(Device, const Tensor&, const char*, Index, Index);                     \
  template struct PerNeuronTensor<T>;                                                                   \
  template PerNeuronTensor<T> per_neuron<T>(Device, double, const OptionalTensor&, const char*, Index); \
  template Eta<T> outer_slope<T>(Device, const RampParameters&);                                        \
  template OwnedRelaxation<T> relaxation<T>(Device, const RelaxationTensors&, Index, Index);            \
  template CoefficientsTensor<T> coefficients<T>(const Tensor&, int64_t);

LBP_INSTANTIATE(float)
LBP_INSTANTIATE(double)
#undef LBP_INSTANTIATE
template Tensor checked<int64_t>(Device, const Tensor&, const char*, Index);

}  // namespace lbp::binding
