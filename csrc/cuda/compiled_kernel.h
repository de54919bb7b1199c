// Kernels compiled just in time: what a launch does in a library that was built without nvcc.
//
// The host compiler instantiates a launcher with LBP_CUDA_JIT defined, and every kernel that it names adds itself to a
// registry when the library is loaded. A launch asks the registered compiler (lbp/_jit.py: NVRTC) for the machine code
// of its kernel and this device, once, and starts it through the driver, libcuda.so.1, which is opened on the first
// launch: nothing here needs a header or a library of CUDA.
#pragma once

#include <cstddef>
#include <string>

#include "cuda/named_kernel.h"

namespace lbp::cuda::jit {

struct Extent {
  unsigned x, y, z;
};

class CompiledKernel {
 public:
  // As `Named` in named_kernel.h constructs it.
  explicit CompiledKernel(const char* signature);

  // As a C++ expression, lbp::cuda::some_kernel<float, 4>: what NVRTC compiles.
  const std::string& name() const { return name_; }

  // Starts the kernel on the current device with its one argument, a struct passed by value. Returns a CUresult, whose
  // codes for the errors that concern a launch are those of cudaError_t, or kUnavailable.
  int launch(Extent grid, Extent block, std::size_t shared_bytes, void* stream, const void* argument);

 private:
  std::string name_;
  CompiledKernel* next_;  // in the registry
  friend const CompiledKernel* registered_kernels();
  friend const CompiledKernel* next(const CompiledKernel*);
};

// The registry, in no particular order; null ends it.
const CompiledKernel* registered_kernels();
const CompiledKernel* next(const CompiledKernel* kernel);

template <auto kKernel>
using Entry = Named<CompiledKernel, kKernel>;

// Makes the primary context of a device current on this thread; 0, or the error.
int select_device(int index);

// Not a code of CUDA's: the driver, the compiler or its machine code cannot be had; error_text() says which and why.
constexpr int kUnavailable = -1;

// Name and text of a status; of kUnavailable the reason for the last one on this thread.
std::string error_text(int status);

}  // namespace lbp::cuda::jit
