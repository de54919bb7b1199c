// From Python to the arguments of the launch functions. Every bind_<family>.cpp registers its functions by
// LBP_EMULATED_BINDINGS(module) { module.def(...); }.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "cuda/launch.h"
#include "emulation/emulate.h"

namespace lbp::emulate {

namespace py = pybind11;

using Bind = void (*)(py::module_&);

inline std::vector<Bind>& bindings() {
  static std::vector<Bind> registered;
  return registered;
}

struct Registration {
  explicit Registration(Bind bind) { bindings().push_back(bind); }
};

#define LBP_EMULATED_BINDINGS(module)                                    \
  static void bind_functions(pybind11::module_& module);                 \
  static const lbp::emulate::Registration registration(&bind_functions); \
  static void bind_functions(pybind11::module_& module)

// The address of an array's data; null for None. The caller sees to sizes and strides.
template <typename T>
T* pointer(const py::handle& array) {
  if (array.is_none()) return nullptr;
  const auto typed = py::cast<py::array>(array);
  if (!typed.dtype().is(py::dtype::of<std::remove_const_t<T>>()))
    throw py::type_error("expected an array of " + std::string(py::str(py::dtype::of<std::remove_const_t<T>>())) +
                         ", got " + std::string(py::str(typed.dtype())));
  return static_cast<T*>(const_cast<void*>(typed.data()));
}

// Scratch memory of exactly the size asked for, filled with NaN.
class Workspace {
 public:
  explicit Workspace(Index bytes) : data_(bytes > 0 ? std::malloc(std::size_t(bytes)) : nullptr, &std::free) {
    if (bytes > 0) std::memset(data_.get(), 0xff, std::size_t(bytes));
  }
  void* data() const { return data_.get(); }

 private:
  std::unique_ptr<void, decltype(&std::free)> data_;
};

inline void check(cuda::Status status) {
  if (status != cuda::kSuccess) throw Error("the launch returned cudaError_t " + std::to_string(status));
}

}  // namespace lbp::emulate
