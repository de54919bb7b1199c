// The kernels by name, launch::ramp<T>(on, arguments) and so on: each runs where the op's tensors lie.
#pragma once

#include "cpu/launch.h"
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

#define LBP_KERNEL(name, Arguments)                     \
  template <typename T>                                 \
  void name(Device on, const Arguments<T>& arguments) { \
    STD_TORCH_CHECK(on.is_cpu(), #name ": CPU only");   \
    cpu_kernels<T>().name(arguments);                   \
  }

LBP_KERNEL(ramp, RampArguments)
LBP_KERNEL(ramp_gradient, RampGradientArguments)
LBP_KERNEL(ramp_interval, RampIntervalArguments)
LBP_KERNEL(ramp_interval_gradient, RampIntervalGradientArguments)
LBP_KERNEL(bounding_lines, BoundingLinesArguments)
LBP_KERNEL(bounding_lines_gradient, BoundingLinesGradientArguments)
LBP_KERNEL(relax_backward, RelaxBackwardArguments)
LBP_KERNEL(relax_backward_gradient, RelaxBackwardGradientArguments)
LBP_KERNEL(interval_linear, IntervalLinearArguments)
LBP_KERNEL(relax_forward, RelaxForwardArguments)
LBP_KERNEL(relax_forward_gradient, RelaxForwardGradientArguments)
LBP_KERNEL(concretize, ConcretizeArguments)
LBP_KERNEL(concretize_gradient, ConcretizeGradientArguments)
LBP_KERNEL(concretize_forward, ConcretizeForwardArguments)
LBP_KERNEL(concretize_forward_gradient, ConcretizeForwardGradientArguments)
#undef LBP_KERNEL

}  // namespace lbp::binding::launch
