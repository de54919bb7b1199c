// Sums over the rows of small layers in one launch. A thread has one neuron, and a block a strip of few: so few that
// the block's threads can share the rows of the strip among them, and add up their sums in shared memory. (A tile of
// tile.cuh has all rows of its neurons, or pieces of them that a second launch adds up.)
#pragma once

#include "cuda/kernels/tile.cuh"

namespace lbp::cuda {

struct Strips {
  Index rows, count;  // of an image
  int width;          // neurons of a strip, a power of two: kThreads / width threads share the rows of each

  LBP_DEVICE Index image() const { return quotient(blockIdx.x, count); }
  LBP_DEVICE Index neuron() const { return (blockIdx.x - image() * count) * width + int(threadIdx.x) % width; }
  // Every `groups`-th row from `group` on is the thread's.
  LBP_DEVICE int group() const { return int(threadIdx.x) / width; }
  LBP_DEVICE int groups() const { return kThreads / width; }
};

// Combines what the threads of a neuron, every `width`-th of the block, have; all of them get the result. `shared` has
// room for a value of each thread; all threads of the block take part.
template <typename Value, typename Combine>
LBP_DEVICE Value combine_groups(Value value, int width, Value* shared, const Combine& combine) {
  const int thread = int(threadIdx.x);
  shared[thread] = value;
  for (int threads = kThreads / 2; threads >= width; threads /= 2) {
    __syncthreads();
    if (thread < threads) shared[thread] = combine(shared[thread], shared[thread + threads]);
  }
  __syncthreads();
  return shared[thread % width];
}

}  // namespace lbp::cuda
