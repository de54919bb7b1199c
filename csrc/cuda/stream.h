// What a launch takes and returns besides its arguments.
#pragma once

#include <cstddef>

namespace lbp::cuda {

using Stream = void*;  // a cudaStream_t (the same as a CUstream)
using Status = int;    // a cudaError_t or the CUresult of the same value; 0 is success

constexpr Status kSuccess = 0;

// Dynamic shared memory that a kernel gets without asking for more.
constexpr std::size_t kDefaultSharedBytes = 48 * 1024;

}  // namespace lbp::cuda

#define LBP_RETURN_IF_FAILED(call) \
  if (const ::lbp::cuda::Status status_of_call = call; status_of_call != ::lbp::cuda::kSuccess) return status_of_call
