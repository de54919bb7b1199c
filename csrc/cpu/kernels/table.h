// The kernels of one instruction set; launch.h describes them.
#pragma once

#include "product_arguments.h"
#include "window_arguments.h"

namespace lbp::LBP_ISA {

template <typename T>
void ramp(const RampArguments<T>& args);
template <typename T>
void ramp_gradient(const RampGradientArguments<T>& args);
template <typename T>
void ramp_interval(const RampIntervalArguments<T>& args);
template <typename T>
void ramp_interval_gradient(const RampIntervalGradientArguments<T>& args);
template <typename T>
void status_counts(const StatusCountsArguments<T>& args);
template <typename T>
void bounding_lines(const BoundingLinesArguments<T>& args);
template <typename T>
void bounding_lines_gradient(const BoundingLinesGradientArguments<T>& args);
template <typename T>
void relax_backward(const RelaxBackwardArguments<T>& args);
template <typename T>
void relax_backward_gradient(const RelaxBackwardGradientArguments<T>& args);
template <typename T>
void interval_linear(const IntervalLinearArguments<T>& args);
template <typename T>
void interval_linear_gradient(const IntervalLinearGradientArguments<T>& args);
template <typename T>
void convolve_intervals(const IntervalConvolutionArguments<T>& args);
template <typename T>
void interval_convolution_input_gradient(const IntervalConvolutionInputGradientArguments<T>& args);
template <typename T>
void convolution_weight_gradient(const ConvolutionWeightGradientArguments<T>& args);
template <typename T>
void backward_convolution(const BackwardConvolutionArguments<T>& args);
template <typename T>
void backward_convolution_gradient(const BackwardConvolutionGradientArguments<T>& args);
template <typename T>
void split_interval(const SplitIntervalArguments<T>& args);
template <typename T>
void join_interval(const JoinIntervalArguments<T>& args);
template <typename T>
void relax_forward(const RelaxForwardArguments<T>& args);
template <typename T>
void relax_forward_gradient(const RelaxForwardGradientArguments<T>& args);
template <typename T>
void insert_forward(const InsertForwardArguments<T>& args);
template <typename T>
void insert_forward_row_gradient(const InsertForwardGradientArguments<T>& args);
template <typename T>
void concretize(const ConcretizeArguments<T>& args);
template <typename T>
void concretize_gradient(const ConcretizeGradientArguments<T>& args);
template <typename T>
void concretize_windows(const ConcretizeWindowsArguments<T>& args);
template <typename T>
void concretize_windows_gradient(const ConcretizeWindowsGradientArguments<T>& args);
template <typename T>
void relax_windows(const RelaxWindowsArguments<T>& args);
template <typename T>
void relax_windows_gradient(const RelaxWindowsGradientArguments<T>& args);
template <typename T>
void relax_convolve_windows(const RelaxConvolveWindowsArguments<T>& args);
template <typename T>
Index packed_weight_size(const WindowConvolution<T>& convolution, Index channels);
template <typename T>
void convolve_windows(const ConvolveWindowsArguments<T>& args);
template <typename T>
void accumulate_windows(const AccumulateWindowsArguments<T>& args);
template <typename T>
void accumulate_many_rows(const AccumulateManyRowsArguments<T>& args);
template <typename T>
void accumulate_windows_gradient(const AccumulateWindowsGradientArguments<T>& args);
template <typename T>
void concretize_forward(const ConcretizeForwardArguments<T>& args);
template <typename T>
void concretize_forward_gradient(const ConcretizeForwardGradientArguments<T>& args);
template <typename T>
void concretize_forward_windows(const ConcretizeForwardWindowsArguments<T>& args);
template <typename T>
void concretize_forward_windows_gradient(const ConcretizeForwardWindowsGradientArguments<T>& args);

}  // namespace lbp::LBP_ISA
