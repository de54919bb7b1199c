// What a launch on a CUDA device takes from torch: the device made current, its current stream, scratch memory, and an
// exception where something fails.
#pragma once

#include <functional>
#include <string>

#include "torch/tensors.h"

namespace lbp::binding {

// Calls body(workspace, stream) on the device, and throws a sentence about the op where the status it returns is not 0.
//
// The workspace of `bytes` bytes comes from torch's allocator, on that stream, and goes back to it at once: what the
// stream runs next may use the memory again, which is in order after the launch.
void on_cuda(Device on, const char* op, Index bytes, const std::function<int(void*, void*)>& body);

// How CUDA devices add up float32 products: by fused multiply-adds; LBP_CUDA_TENSOR_CORES=1 in the environment takes
// tensor cores with split operands, whose error has been tested on a model of them, and of Linear layers on an H100.
Arithmetic arithmetic();

// What the library has for CUDA devices: "ahead of time for ...", "just in time" or "none".
std::string cuda_build();

}  // namespace lbp::binding
