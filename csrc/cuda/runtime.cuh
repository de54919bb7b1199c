// What kernels and launchers need of CUDA, for every compiler that sees them:
//
//   nvcc              device and host code, compiled ahead of time
//   NVRTC             device code, compiled on the user's machine (__CUDACC_RTC__; there are no standard headers)
//   LBP_CUDA_JIT      g++, the launchers that belong to NVRTC's kernels
//   LBP_EMULATE       g++, kernels and launchers for the host: tests/emulation runs one fiber per thread
//
// Kernels are written as for CUDA (threadIdx, __syncthreads, __shfl_xor_sync) but for four macros: LBP_KERNEL and
// LBP_LAUNCH_BOUNDS, LBP_SHARED and LBP_DYNAMIC_SHARED. A kernel takes one struct by value. Launchers start it by
// LBP_LAUNCH; each stands in csrc/cuda/<family>.cu, and its kernels in csrc/cuda/kernels/<family>.cuh.
#pragma once

#if defined(__CUDACC__)

#define LBP_DEVICE __device__ __forceinline__
// template <typename T>
// LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 2) scale_kernel(const ScaleArguments<T> args) { ... }
#define LBP_KERNEL __global__
#define LBP_LAUNCH_BOUNDS(threads, blocks_per_multiprocessor) __launch_bounds__(threads, blocks_per_multiprocessor)
// Uninitialised arrays of a block, aligned to 16 bytes. The size of a static one is a constant; a dynamic one, of which
// a kernel has at most one, has the size that the launch gives it.
#define LBP_SHARED(type, name, size) __shared__ __align__(16) type name[size]
#define LBP_DYNAMIC_SHARED(type, name)                          \
  extern __shared__ __align__(16) unsigned char name##_bytes[]; \
  type* name = reinterpret_cast<type*>(name##_bytes)

#else

#define LBP_DEVICE inline
#define LBP_LAUNCH_BOUNDS(threads, blocks_per_multiprocessor)
#if defined(LBP_EMULATE)
#include "emulation/emulate.h"
#elif defined(LBP_CUDA_JIT)
#include "cuda/jit.h"
#else
#error "compile with nvcc or NVRTC, or with one of LBP_EMULATE and LBP_CUDA_JIT"
#endif

#endif

#if !defined(__CUDACC_RTC__)

#include <cstddef>

#include "cuda/stream.h"
#if defined(__CUDACC__)
#include <cuda_runtime_api.h>
#endif

namespace lbp::cuda {

#if defined(__CUDACC__)
template <typename Arguments>
Status launch(void (*kernel)(Arguments), dim3 grid, dim3 block, std::size_t shared_bytes, Stream stream,
              const Arguments& arguments) {
  const void* function = reinterpret_cast<const void*>(kernel);
  if (shared_bytes > kDefaultSharedBytes) {
    LBP_RETURN_IF_FAILED(
        cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes)));
  }
  void* parameters[] = {const_cast<Arguments*>(&arguments)};
  return cudaLaunchKernel(function, grid, block, parameters, shared_bytes, static_cast<cudaStream_t>(stream));
}
// Starts a kernel, its name in parentheses, and returns the Status. Nothing is launched for an empty grid: launchers
// see to that.
#define LBP_LAUNCH(kernel, grid, block, shared_bytes, stream, arguments) \
  ::lbp::cuda::launch(kernel, grid, block, shared_bytes, stream, arguments)
#elif defined(LBP_EMULATE)
#define LBP_LAUNCH(kernel, grid, block, shared_bytes, stream, arguments) \
  ::lbp::emulate::launch<kernel>(grid, block, shared_bytes, stream, arguments)
#else
#define LBP_LAUNCH(kernel, grid, block, shared_bytes, stream, arguments) \
  ::lbp::cuda::launch<kernel>(grid, block, shared_bytes, stream, arguments)
#endif

}  // namespace lbp::cuda

#endif
