// The few functions of the CUDA driver that launching a kernel takes, from libcuda.so.1 as the driver installs it.
//
// Declared here and not taken from cuda.h: a library that compiles its kernels just in time is built without CUDA.
#pragma once

#include <string>

namespace lbp::cuda::jit {

using Result = int;  // CUresult
using Context = void*;
using Module = void*;
using Function = void*;

struct Driver {
  Result (*cuInit)(unsigned flags);
  Result (*cuGetErrorName)(Result error, const char** name);
  Result (*cuGetErrorString)(Result error, const char** text);
  Result (*cuDeviceGetAttribute)(int* value, int attribute, int device);
  Result (*cuDevicePrimaryCtxRetain)(Context* context, int device);
  Result (*cuCtxGetCurrent)(Context* context);
  Result (*cuCtxSetCurrent)(Context context);
  Result (*cuCtxGetDevice)(int* device);
  Result (*cuModuleLoadData)(Module* module, const void* image);
  Result (*cuModuleGetFunction)(Function* function, Module module, const char* symbol);
  Result (*cuFuncSetAttribute)(Function function, int attribute, int value);
  Result (*cuLaunchKernel)(Function function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                           unsigned block_y, unsigned block_z, unsigned shared_bytes, void* stream, void** arguments,
                           void** extra);
};

// Codes of CUdevice_attribute and CUfunction_attribute.
enum Attribute : int {
  kComputeCapabilityMajor = 75,
  kComputeCapabilityMinor = 76,
  kMaxDynamicSharedSize = 8,
};

// The driver, opened on the first call; null, with the reason in `error`, where it cannot be opened.
const Driver* driver(std::string* error);

}  // namespace lbp::cuda::jit
