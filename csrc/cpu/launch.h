// The CPU kernels of one instruction set as a table of functions, and the choice among instruction sets.
#pragma once

#include "product_arguments.h"
#include "window_arguments.h"

namespace lbp::cpu {

template <typename T>
struct Kernels {
  void (*ramp)(const RampArguments<T>&);
  void (*ramp_gradient)(const RampGradientArguments<T>&);
  void (*ramp_interval)(const RampIntervalArguments<T>&);
  void (*ramp_interval_gradient)(const RampIntervalGradientArguments<T>&);
  void (*status_counts)(const StatusCountsArguments<T>&);
  void (*bounding_lines)(const BoundingLinesArguments<T>&);
  void (*bounding_lines_gradient)(const BoundingLinesGradientArguments<T>&);
  void (*relax_backward)(const RelaxBackwardArguments<T>&);
  void (*relax_backward_gradient)(const RelaxBackwardGradientArguments<T>&);
  void (*interval_linear)(const IntervalLinearArguments<T>&);
  void (*interval_linear_gradient)(const IntervalLinearGradientArguments<T>&);
  void (*convolve_intervals)(const IntervalConvolutionArguments<T>&);
  void (*interval_convolution_input_gradient)(const IntervalConvolutionInputGradientArguments<T>&);
  void (*convolution_weight_gradient)(const ConvolutionWeightGradientArguments<T>&);
  void (*backward_convolution)(const BackwardConvolutionArguments<T>&);
  void (*backward_convolution_gradient)(const BackwardConvolutionGradientArguments<T>&);
  void (*split_interval)(const SplitIntervalArguments<T>&);
  void (*join_interval)(const JoinIntervalArguments<T>&);
  void (*relax_forward)(const RelaxForwardArguments<T>&);
  void (*relax_forward_gradient)(const RelaxForwardGradientArguments<T>&);
  void (*insert_forward)(const InsertForwardArguments<T>&);
  void (*insert_forward_row_gradient)(const InsertForwardGradientArguments<T>&);
  void (*concretize)(const ConcretizeArguments<T>&);
  void (*concretize_gradient)(const ConcretizeGradientArguments<T>&);
  void (*concretize_windows)(const ConcretizeWindowsArguments<T>&);
  void (*concretize_windows_gradient)(const ConcretizeWindowsGradientArguments<T>&);
  void (*relax_windows)(const RelaxWindowsArguments<T>&);
  void (*relax_windows_gradient)(const RelaxWindowsGradientArguments<T>&);
  void (*relax_convolve_windows)(const RelaxConvolveWindowsArguments<T>&);
  // How many numbers the packed weight of a convolution of that many outputs takes.
  Index (*packed_weight_size)(const WindowConvolution<T>&, Index channels);
  void (*convolve_windows)(const ConvolveWindowsArguments<T>&);
  void (*accumulate_windows)(const AccumulateWindowsArguments<T>&);
  void (*accumulate_many_rows)(const AccumulateManyRowsArguments<T>&);
  void (*accumulate_windows_gradient)(const AccumulateWindowsGradientArguments<T>&);
  void (*concretize_forward)(const ConcretizeForwardArguments<T>&);
  void (*concretize_forward_gradient)(const ConcretizeForwardGradientArguments<T>&);
  void (*concretize_forward_windows)(const ConcretizeForwardWindowsArguments<T>&);
  void (*concretize_forward_windows_gradient)(const ConcretizeForwardWindowsGradientArguments<T>&);
};

struct InstructionSet {
  const char* name;
  bool (*supported)();
  const Kernels<float>* single_precision;
  const Kernels<double>* double_precision;
};

// The best instruction set that both this build and this processor have; LBP_CPU_CAPABILITY=portable|avx2|avx512 in the
// environment asks for another. Null, with a sentence in `error`, where that one cannot be had.
const InstructionSet* instruction_set(const char** error);

}  // namespace lbp::cpu
