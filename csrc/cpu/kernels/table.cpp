#include "cpu/kernels/table.h"

#include "cpu/launch.h"

namespace lbp::LBP_ISA {
namespace {

template <typename T>
constexpr cpu::Kernels<T> table() {
  return {ramp<T>,
          ramp_gradient<T>,
          ramp_interval<T>,
          ramp_interval_gradient<T>,
          status_counts<T>,
          bounding_lines<T>,
          bounding_lines_gradient<T>,
          relax_backward<T>,
          relax_backward_gradient<T>,
          interval_linear<T>,
          interval_linear_gradient<T>,
          convolve_intervals<T>,
          interval_convolution_input_gradient<T>,
          convolution_weight_gradient<T>,
          backward_convolution<T>,
          backward_convolution_gradient<T>,
          split_interval<T>,
          join_interval<T>,
          relax_forward<T>,
          relax_forward_gradient<T>,
          insert_forward<T>,
          insert_forward_row_gradient<T>,
          concretize<T>,
          concretize_gradient<T>,
          concretize_windows<T>,
          concretize_windows_gradient<T>,
          relax_windows<T>,
          relax_windows_gradient<T>,
          relax_convolve_windows<T>,
          packed_weight_size<T>,
          convolve_windows<T>,
          accumulate_windows<T>,
          accumulate_many_rows<T>,
          accumulate_windows_gradient<T>,
          concretize_forward<T>,
          concretize_forward_gradient<T>,
          concretize_forward_windows<T>,
          concretize_forward_windows_gradient<T>};
}

}  // namespace

extern const cpu::Kernels<float> single_precision;
extern const cpu::Kernels<double> double_precision;
const cpu::Kernels<float> single_precision = table<float>();
const cpu::Kernels<double> double_precision = table<double>();

}  // namespace lbp::LBP_ISA
