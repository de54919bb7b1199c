// The sizes of a convolution as the schema has them.
#pragma once

#include "torch/ops.h"

namespace lbp::binding {

// Of images of the given shape [batch, channels, height, width]; `op` is for the message.
ConvolutionSizes convolution_sizes(const char* op, const std::vector<int64_t>& shape, const Tensor& weight,
                                   LBP_CONVOLUTION_PARAMETERS);

}  // namespace lbp::binding
