#include "cuda/device.h"

#ifdef LBP_CUDA_JIT
#include "cuda/compiled_kernel.h"
#else
#include <cuda_runtime_api.h>
#endif

namespace lbp::cuda {
namespace {

// Codes that cudaError_t and CUresult share.
constexpr int kOutOfMemory = 2, kInsufficientDriver = 35, kNoBinaryForDevice = 209, kUnsupportedPtx = 222,
              kPtxCompilerMissing = 221, kFirstOfCapture = 900, kLastOfCapture = 907;
// Of launches that were not begun (cuda/grid.h).
constexpr int kTooManyBlocks = 9;

std::string advice(Status status) {
  if (status >= kFirstOfCapture && status <= kLastOfCapture) {
    return "; while a CUDA graph is captured, call the op once before the capture, so that its kernels are loaded";
  }
  switch (status) {
    case kOutOfMemory:
      return "; the device is out of memory: bound fewer rows or examples at a time, or free what other programs hold";
    case kTooManyBlocks:
      return "; a launch of more than 2^31 - 1 blocks: bound fewer rows or examples at a time";
    case kNoBinaryForDevice:
      return "; this device is not among the architectures that lbp's kernels were compiled for (" + build() +
             "): rebuild with LBP_CUDA_ARCHITECTURES=native on this machine, or without nvcc and with "
             "`pip install lbp[cupy]`, which compiles them just in time";
    case kUnsupportedPtx:
    case kPtxCompilerMissing:
      return "; the driver is older than the CUDA that lbp's kernels were compiled with, and this device needs it to "
             "compile them: update the driver, or rebuild lbp with LBP_CUDA_ARCHITECTURES=native";
    case kInsufficientDriver:
      return "; the driver is older than the CUDA that lbp was built with: update the driver";
    default:
      return "";
  }
}

}  // namespace

#ifdef LBP_CUDA_JIT

Status select_device(int index) { return jit::select_device(index); }

std::string describe(Status status) { return jit::error_text(status) + advice(status); }

std::string build() { return "just in time"; }

#else

// torch has its own copy of the CUDA runtime; this one is told, too.
Status select_device(int index) { return cudaSetDevice(index); }

std::string describe(Status status) {
  const auto error = static_cast<cudaError_t>(status);
  return std::string(cudaGetErrorName(error)) + ": " + cudaGetErrorString(error) + advice(status);
}

std::string build() { return "ahead of time for " LBP_CUDA_ARCHITECTURES; }

#endif

}  // namespace lbp::cuda
