// What a status of the launchers means, in words, and what the library holds for CUDA devices.
#pragma once

#include <string>

namespace lbp::cuda {

// A sentence about a status other than 0 (a cudaError_t, or what csrc/cuda/jit.h adds): its name and what to do.
std::string describe(int status);

// "ahead of time for 80-real 90-real", or "just in time".
std::string build();

}  // namespace lbp::cuda
