// The launch functions of the fused products; see launch.h.
#pragma once

#include "cuda/stream.h"
#include "product_arguments.h"

namespace lbp::cuda {

LBP_DECLARE_LAUNCHER(interval_linear, IntervalLinearProductArguments);
LBP_DECLARE_LAUNCHER(interval_conv2d, IntervalConv2dArguments);
LBP_DECLARE_LAUNCHER(forward_linear, ForwardLinearArguments);
LBP_DECLARE_LAUNCHER(forward_conv2d, ForwardConv2dArguments);
LBP_DECLARE_LAUNCHER(insert_forward, InsertForwardArguments);
LBP_DECLARE_LAUNCHER(relax_backward_linear, RelaxBackwardLinearArguments);
LBP_DECLARE_LAUNCHER(relax_backward_conv2d, RelaxBackwardConv2dArguments);

}  // namespace lbp::cuda
