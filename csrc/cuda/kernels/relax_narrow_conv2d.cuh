// The product of relax_conv2d.cuh for a Conv2d layer of few input channels, as a network's first has: a thread keeps
// all sums of its pixels in registers.
//
// A block has a row of A in a group's channels. It multiplies each pixel's relaxed coefficients by the weights of all
// entries of the kernel, a product [pixels, output channels] x [output channels, columns] that reads the row once;
// columns are the group's input channels times the entries. A number of the result is then the sum of what those pixels
// have for it that meet it under some entry, in the order of the entries.
#pragma once

#include "cuda/kernels/residue.cuh"
#include "cuda/kernels/slot.cuh"
#include "cuda/kernels/tile_product.cuh"
#include "product_arguments.h"

namespace lbp::cuda {

constexpr int kNarrowThreads = 512;
// Output channels that are read before the first of them is used, and those whose weights are in shared memory.
constexpr int kNarrowAhead = 4, kNarrowStage = 32;
// Sums that a thread has of each of its pixels, zeros beyond the layer's columns; and its pixels, by the registers.
constexpr int kNarrowColumns = 28, kNarrowMostColumns = 48;
constexpr int narrow_pixels(int columns) { return columns <= kNarrowColumns ? 2 : 1; }

template <typename T>
struct RelaxNarrowConv2dLaunch {
  RelaxBackwardConv2dArguments<T> op;  // whose constants are there
  const Pair<T>* slopes;               // [B, n]: lower, upper; null without an activation
};

// Blocks run over images, their slots, and the groups of each.
template <typename T, int kColumns>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(kNarrowThreads, 1) relax_narrow_conv2d_kernel(const RelaxNarrowConv2dLaunch<T> args) {
  constexpr int kPixels = narrow_pixels(kColumns);
  LBP_DYNAMIC_SHARED(T, products);  // [entries, pixels] of one input channel
  LBP_SHARED(T, weights, kNarrowStage * kColumns);
  const RelaxBackwardConv2dArguments<T>& op = args.op;
  const ConvolutionLayer<T>& layer = op.layer;
  const Index block = blockIdx.x, number = quotient(block, layer.groups), group = block - number * layer.groups;
  const Index slots = slot_count(op.sides, op.rows), image = quotient(number, slots);
  const Slot<T> slot(op.A, op.sides, op.batch, op.rows, image, 0, number - image * slots);
  const int pixels = layer.output.height * layer.output.width, outputs = layer.out_channels / layer.groups;
  const int entries = layer.kernel.height * layer.kernel.width, inputs = layer.channels / layer.groups;
  const int columns = inputs * entries;
  const Index first = group * outputs * pixels;
  const T* const weight = layer.weight + group * outputs * columns;
  const auto pixel = [](int i) { return i * kNarrowThreads + int(threadIdx.x); };
  const bool relaxed = args.slopes != nullptr;
  const T* A[kPixels];
  const Pair<T>* slopes[kPixels];
#pragma unroll
  for (int i = 0; i < kPixels; ++i) {
    const Index at = first + smaller(pixel(i), pixels - 1);  // beyond the layer's end sums go nowhere
    A[i] = slot.A + at;
    slopes[i] = relaxed ? args.slopes + image * layer.out_channels * pixels + at : nullptr;
  }

  T a[kNarrowAhead][kPixels], sums[kPixels][kColumns] = {};
  Pair<T> lines[kNarrowAhead][kPixels];
  const auto load = [&](int begin) {
#pragma unroll
    for (int k = 0; k < kNarrowAhead; ++k) {
      if (begin + k >= outputs) continue;
#pragma unroll
      for (int i = 0; i < kPixels; ++i) {
        a[k][i] = read(A[i] + k * pixels);
        lines[k][i] = relaxed ? read_pair(slopes[i] + k * pixels) : Pair<T>{T(1), T(1)};
      }
    }
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
      A[i] += kNarrowAhead * pixels;
      slopes[i] += relaxed ? kNarrowAhead * pixels : 0;
    }
  };
  load(0);
  for (int begin = 0; begin < outputs; begin += kNarrowAhead) {
    if (begin % kNarrowStage == 0) {
      __syncthreads();  // whoever still reads the weights before
#pragma unroll 1
      for (int i = int(threadIdx.x); i < kNarrowStage * kColumns; i += kNarrowThreads) {
        const int k = begin + i / kColumns, column = i % kColumns;
        weights[i] = k < outputs && column < columns ? read(weight + Index(k) * columns + column) : T(0);
      }
      __syncthreads();
    }
    T values[kNarrowAhead][kPixels];
#pragma unroll
    for (int k = 0; k < kNarrowAhead; ++k) {
      if (begin + k >= outputs) continue;
#pragma unroll
      for (int i = 0; i < kPixels; ++i) {
        values[k][i] = a[k][i] * ((a[k][i] >= T(0)) == slot.lower ? lines[k][i].first : lines[k][i].second);
      }
    }
    load(begin + kNarrowAhead);  // arrives while these are multiplied
    const T* const row = weights + begin % kNarrowStage * kColumns;
#pragma unroll
    for (int k = 0; k < kNarrowAhead; ++k) {
      if (begin + k >= outputs) continue;
#pragma unroll
      for (int j = 0; j < kColumns; j += kOwn<T>) {
        const Pack<T> pack = *reinterpret_cast<const Pack<T>*>(row + k * kColumns + j);
#pragma unroll
        for (int i = 0; i < kPixels; ++i) {
#pragma unroll
          for (int c = 0; c < kOwn<T>; ++c) sums[i][j + c] = multiply_add(values[k][i], pack[c], sums[i][j + c]);
        }
      }
    }
  }

  const int size = layer.input.height * layer.input.width;
  T* const coefficients = op.coefficients + (slot.out_row * layer.channels + group * inputs) * size;
  for (int channel = 0; channel < inputs; ++channel) {
    __syncthreads();  // whoever still reads the products before
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      const int entry = j - channel * entries;
      if (entry < 0 || entry >= entries) continue;
#pragma unroll
      for (int i = 0; i < kPixels; ++i) {
        if (pixel(i) < pixels) products[entry * pixels + pixel(i)] = sums[i][j];
      }
    }
    __syncthreads();
#pragma unroll 1
    for (int at = int(threadIdx.x); at < size; at += kNarrowThreads) {
      const int y = at / layer.input.width, x = at - y * layer.input.width;
      T sum = T(0);
#pragma unroll 1
      for (int i = 0; i < layer.kernel.height; ++i) {
        const int down = output_of_entry<int>(y, i, layer.stride.height, layer.padding.height, layer.dilation.height);
        if (down < 0 || down >= layer.output.height) continue;
        const T* const under = products + i * layer.kernel.width * pixels + down * layer.output.width;
        for (int j = 0; j < layer.kernel.width; ++j) {
          const int across = output_of_entry<int>(x, j, layer.stride.width, layer.padding.width, layer.dilation.width);
          if (across >= 0 && across < layer.output.width) sum += under[j * pixels + across];
        }
      }
      coefficients[Index(channel) * size + at] = sum;
    }
  }
}

}  // namespace lbp::cuda
