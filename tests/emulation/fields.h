// Structs of arguments from Python dictionaries: their fields by name, arrays for pointers, dictionaries for structs.
#pragma once

#include <pybind11/stl.h>

#include "emulation/bind.h"

namespace lbp::emulate {

class Fields {
 public:
  explicit Fields(py::dict fields) : fields_(std::move(fields)) {}

  template <typename V>
  V get(const char* name) const {
    return fields_[name].cast<V>();
  }

  // Reads a field into a member of the same name; a pointer whose array is missing becomes null.
  template <typename V>
  const Fields& operator()(const char* name, V& member) const {
    if constexpr (std::is_pointer_v<V>) {
      member = fields_.contains(name) ? pointer<std::remove_pointer_t<V>>(fields_[name]) : nullptr;
    } else if constexpr (std::is_enum_v<V>) {
      member = static_cast<V>(get<int>(name));
    } else if constexpr (std::is_arithmetic_v<V>) {
      member = get<V>(name);
    } else if constexpr (std::is_array_v<V>) {
      const auto values = get<std::vector<Index>>(name);
      std::copy(values.begin(), values.end(), std::begin(member));
    } else {
      read(Fields(get<py::dict>(name)), member);
    }
    return *this;
  }

 private:
  py::dict fields_;
};

template <typename T>
void read(const Fields& f, PerNeuron<T>& a) {
  f("data", a.data)("count", a.count)("inner", a.inner)("value", a.value);
}

// The members of a line, or of its gradient.
template <typename Lines>
void read_lines(const Fields& f, Lines& a) {
  f("lower_slope", a.lower_slope)("lower_intercept", a.lower_intercept);
  f("upper_slope", a.upper_slope)("upper_intercept", a.upper_intercept);
}

template <typename T>
void read(const Fields& f, LineMargins<T>& a) {
  f("per_slope", a.per_slope)("rest", a.rest)("per_slope_batch_stride", a.per_slope_batch_stride);
  f("rest_batch_stride", a.rest_batch_stride)("rest_stride", a.rest_stride);
}

template <typename T>
void read(const Fields& f, Relaxation<T>& a) {
  f("l", a.l)("u", a.u)("batch_stride", a.batch_stride)("r", a.r)("eta", a.eta)("strategy", a.strategy);
  f("given_batch_stride", a.given_batch_stride)("eta_data", a.eta_data)("margins", a.margins);
  read_lines(f, a);
}

}  // namespace lbp::emulate
