// The device that a launch goes to, and what its status means in words.
#pragma once

#include <string>

#include "cuda/stream.h"

namespace lbp::cuda {

// Makes a device current on this thread for launches, whoever else in the process uses CUDA.
Status select_device(int index);

// A sentence about a status other than 0: its name and what to do.
std::string describe(Status status);

// What the library holds for CUDA devices: "ahead of time for sm_80 sm_90", or "just in time".
std::string build();

}  // namespace lbp::cuda
