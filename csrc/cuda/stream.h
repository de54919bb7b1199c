// What a launch takes and returns besides its arguments.
#pragma once

namespace lbp::cuda {

using Stream = void*;  // a cudaStream_t (the same as a CUstream)
using Status = int;    // a cudaError_t; 0 is success

constexpr Status kSuccess = 0;

}  // namespace lbp::cuda
