// The CUDA launch functions: the counterpart of csrc/cpu/launch.h for device memory. All pointers in the arguments are
// the device's.
//
// Each op has two functions, for float and double:
//
//   Index <op>_workspace_bytes(args)           bytes of scratch memory, aligned to 16, that the launch wants; often 0
//   Status <op>(args, workspace, stream)       enqueues the op on the current device, and returns without waiting
//
// Launches allocate nothing and synchronise with nothing, so they can be captured in a graph; the workspace is free
// again for whatever the stream runs next. Grids depend on the sizes alone, and no sum depends on the order in which
// threads run: results are the same in every run and on every device.
#pragma once

#include "cuda/stream.h"
#include "window_arguments.h"

#define LBP_DECLARE_LAUNCHER(op, Arguments)             \
  template <typename T>                                 \
  Index op##_workspace_bytes(const Arguments<T>& args); \
  template <typename T>                                 \
  Status op(const Arguments<T>& args, void* workspace, Stream stream)

// At the end of a launcher's file.
#define LBP_INSTANTIATE_LAUNCHER(op, Arguments)                  \
  template Index op##_workspace_bytes(const Arguments<float>&);  \
  template Index op##_workspace_bytes(const Arguments<double>&); \
  template Status op(const Arguments<float>&, void*, Stream);    \
  template Status op(const Arguments<double>&, void*, Stream)

namespace lbp::cuda {

LBP_DECLARE_LAUNCHER(ramp, RampArguments);
LBP_DECLARE_LAUNCHER(ramp_gradient, RampGradientArguments);
LBP_DECLARE_LAUNCHER(ramp_interval, RampIntervalArguments);
LBP_DECLARE_LAUNCHER(ramp_interval_gradient, RampIntervalGradientArguments);
LBP_DECLARE_LAUNCHER(bounding_lines, BoundingLinesArguments);
LBP_DECLARE_LAUNCHER(bounding_lines_gradient, BoundingLinesGradientArguments);
LBP_DECLARE_LAUNCHER(relax_backward, RelaxBackwardArguments);
LBP_DECLARE_LAUNCHER(relax_backward_gradient, RelaxBackwardGradientArguments);
LBP_DECLARE_LAUNCHER(split_interval, SplitIntervalArguments);
LBP_DECLARE_LAUNCHER(join_interval, JoinIntervalArguments);
LBP_DECLARE_LAUNCHER(relax_forward, RelaxForwardArguments);
LBP_DECLARE_LAUNCHER(relax_forward_gradient, RelaxForwardGradientArguments);
LBP_DECLARE_LAUNCHER(concretize, ConcretizeArguments);
LBP_DECLARE_LAUNCHER(concretize_gradient, ConcretizeGradientArguments);
LBP_DECLARE_LAUNCHER(concretize_forward, ConcretizeForwardArguments);
LBP_DECLARE_LAUNCHER(concretize_forward_gradient, ConcretizeForwardGradientArguments);
LBP_DECLARE_LAUNCHER(relax_windows, RelaxWindowsArguments);
LBP_DECLARE_LAUNCHER(relax_windows_gradient, RelaxWindowsGradientArguments);
LBP_DECLARE_LAUNCHER(relax_convolve_windows, RelaxConvolveWindowsArguments);
LBP_DECLARE_LAUNCHER(concretize_windows, ConcretizeWindowsArguments);
LBP_DECLARE_LAUNCHER(concretize_windows_gradient, ConcretizeWindowsGradientArguments);
LBP_DECLARE_LAUNCHER(concretize_forward_windows, ConcretizeForwardWindowsArguments);
LBP_DECLARE_LAUNCHER(concretize_forward_windows_gradient, ConcretizeForwardWindowsGradientArguments);

}  // namespace lbp::cuda

#include "cuda/launch_products.h"
