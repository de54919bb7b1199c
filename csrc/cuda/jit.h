// The host's view of kernels that NVRTC compiles: launchers are compiled by g++ and name their kernels; the bodies are
// parsed here and never emitted. Included by runtime.cuh.
#pragma once

#include <cstddef>

#include "cuda/compiled_kernel.h"

#define LBP_KERNEL inline
#define LBP_SHARED(type, name, size) type* name = nullptr
#define LBP_DYNAMIC_SHARED(type, name) type* name = nullptr

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_size = 1, unsigned y_size = 1, unsigned z_size = 1) : x(x_size), y(y_size), z(z_size) {}
};

// What kernels use, declared so that their bodies parse.
extern const uint3 threadIdx, blockIdx;
extern const dim3 blockDim, gridDim;
void __syncthreads();
void __syncwarp(unsigned mask = 0xffffffffu);
unsigned __ballot_sync(unsigned mask, int predicate);
int __ffs(int bits);
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32);
template <typename T>
T atomicMax(T* address, T value);
template <typename T>
T atomicMin(T* address, T value);

namespace lbp::cuda {

// Starts the kernel on the current device, after compiling it where it is not there yet.
template <auto kernel, typename Arguments>
int launch(dim3 grid, dim3 block, std::size_t shared_bytes, void* stream, const Arguments& arguments) {
  return jit::Entry<kernel>::instance.launch({grid.x, grid.y, grid.z}, {block.x, block.y, block.z}, shared_bytes,
                                             stream, &arguments);
}

}  // namespace lbp::cuda
