// The kernels by name, launch::ramp<T>(on, arguments) and so on: each runs where the op's tensors lie.
#pragma once

#include "cpu/launch.h"
#ifdef LBP_HAVE_CUDA
#include "cuda/launch.h"
#endif
#include "torch/cuda.h"
#include "torch/tensors.h"

namespace lbp::binding::launch {

// The CPU kernels of the instruction set in use.
template <typename T>
const cpu::Kernels<T>& cpu_kernels() {
  const char* error = nullptr;
  const cpu::InstructionSet* chosen = cpu::instruction_set(&error);
  STD_TORCH_CHECK(chosen != nullptr, error);
  if constexpr (std::is_same_v<T, float>) {
    return *chosen->single_precision;
  } else {
    return *chosen->double_precision;
  }
}

#ifdef LBP_HAVE_CUDA
#define LBP_RUN_ON_CUDA(name)                                                                         \
  if (on.is_cuda()) {                                                                                 \
    on_cuda(on, #name, cuda::name##_workspace_bytes(arguments),                                       \
            [&](void* workspace, void* stream) { return cuda::name(arguments, workspace, stream); }); \
    return;                                                                                           \
  }
#else
#define LBP_RUN_ON_CUDA(name)
#endif

// An op's function for the CPU and for CUDA devices.
#define LBP_LAUNCH_FUNCTION(name, Arguments)            \
  template <typename T>                                 \
  void name(Device on, const Arguments<T>& arguments) { \
    LBP_RUN_ON_CUDA(name)                               \
    cpu_kernels<T>().name(arguments);                   \
  }

// Of an op that has no CUDA kernel.
#define LBP_CPU_FUNCTION(name, Arguments)                                               \
  template <typename T>                                                                 \
  void name(Device on, const Arguments<T>& arguments) {                                 \
    STD_TORCH_CHECK(on.is_cpu(), "lbp::" #name ": there is a kernel for the CPU only"); \
    cpu_kernels<T>().name(arguments);                                                   \
  }

LBP_LAUNCH_FUNCTION(ramp, RampArguments)
LBP_LAUNCH_FUNCTION(ramp_gradient, RampGradientArguments)
LBP_LAUNCH_FUNCTION(ramp_interval, RampIntervalArguments)
LBP_LAUNCH_FUNCTION(ramp_interval_gradient, RampIntervalGradientArguments)
LBP_CPU_FUNCTION(status_counts, StatusCountsArguments)
LBP_LAUNCH_FUNCTION(bounding_lines, BoundingLinesArguments)
LBP_LAUNCH_FUNCTION(bounding_lines_gradient, BoundingLinesGradientArguments)
LBP_LAUNCH_FUNCTION(relax_backward, RelaxBackwardArguments)
LBP_LAUNCH_FUNCTION(relax_backward_gradient, RelaxBackwardGradientArguments)
LBP_CPU_FUNCTION(interval_linear, IntervalLinearArguments)
LBP_CPU_FUNCTION(interval_linear_gradient, IntervalLinearGradientArguments)
LBP_CPU_FUNCTION(convolve_intervals, IntervalConvolutionArguments)
LBP_CPU_FUNCTION(interval_convolution_input_gradient, IntervalConvolutionInputGradientArguments)
LBP_CPU_FUNCTION(convolution_weight_gradient, ConvolutionWeightGradientArguments)
LBP_CPU_FUNCTION(backward_convolution, BackwardConvolutionArguments)
LBP_CPU_FUNCTION(backward_convolution_gradient, BackwardConvolutionGradientArguments)
LBP_LAUNCH_FUNCTION(split_interval, SplitIntervalArguments)
LBP_LAUNCH_FUNCTION(join_interval, JoinIntervalArguments)
LBP_LAUNCH_FUNCTION(relax_forward, RelaxForwardArguments)
LBP_LAUNCH_FUNCTION(relax_forward_gradient, RelaxForwardGradientArguments)
LBP_CPU_FUNCTION(insert_forward, InsertForwardArguments)
LBP_CPU_FUNCTION(insert_forward_row_gradient, InsertForwardGradientArguments)
LBP_LAUNCH_FUNCTION(concretize, ConcretizeArguments)
LBP_LAUNCH_FUNCTION(concretize_gradient, ConcretizeGradientArguments)
LBP_LAUNCH_FUNCTION(concretize_forward, ConcretizeForwardArguments)
LBP_LAUNCH_FUNCTION(concretize_forward_gradient, ConcretizeForwardGradientArguments)
LBP_LAUNCH_FUNCTION(concretize_windows, ConcretizeWindowsArguments)
LBP_LAUNCH_FUNCTION(concretize_windows_gradient, ConcretizeWindowsGradientArguments)
LBP_LAUNCH_FUNCTION(relax_windows, RelaxWindowsArguments)
LBP_LAUNCH_FUNCTION(relax_windows_gradient, RelaxWindowsGradientArguments)
LBP_LAUNCH_FUNCTION(relax_convolve_windows, RelaxConvolveWindowsArguments)
LBP_CPU_FUNCTION(convolve_windows, ConvolveWindowsArguments)
LBP_CPU_FUNCTION(accumulate_windows, AccumulateWindowsArguments)
LBP_CPU_FUNCTION(accumulate_many_rows, AccumulateManyRowsArguments)
LBP_CPU_FUNCTION(accumulate_windows_gradient, AccumulateWindowsGradientArguments)
LBP_LAUNCH_FUNCTION(concretize_forward_windows, ConcretizeForwardWindowsArguments)
LBP_LAUNCH_FUNCTION(concretize_forward_windows_gradient, ConcretizeForwardWindowsGradientArguments)
#undef LBP_LAUNCH_FUNCTION
#undef LBP_RUN_ON_CUDA

}  // namespace lbp::binding::launch
