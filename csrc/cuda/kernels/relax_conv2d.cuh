// Back-substitution through an activation and the Conv2d layer below it: a
// transposed convolution of A, which is relaxed while it is loaded.
//
// A neuron enters kernel height times kernel width products of every row of A.
// So its lines are computed once, by relax_constants_kernel, which leaves the
// slopes in the workspace and adds up the constants of the rows.
#pragma once

#include "cuda/kernels/relaxation.cuh"
#include "cuda/kernels/tile_product.cuh"
#include "product_arguments.h"

namespace lbp::cuda {

constexpr int kConstantThreads = 256, kConstantRows = 8;
constexpr Index kConstantNeurons = 4096;  // of a block

// Of K S rows of every image; blocks run over images, then groups of
// kConstantRows rows, then chunks of neurons.
template <typename T>
struct RelaxConstantsArguments {
  RelaxBackwardConv2dArguments<T> args;
  Index neurons, row_groups, chunks;
  T* slopes;      // [2, B, n]: lower, upper; null without an activation
  double* parts;  // [chunks, K, B, S]
};

template <typename T>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(kConstantThreads, 1) relax_constants_kernel(const RelaxConstantsArguments<T> in) {
  constexpr int kWarps = kConstantThreads / 32;
  LBP_SHARED(double, sums, kWarps* kConstantRows);
  const RelaxBackwardConv2dArguments<T>& args = in.args;
  const int thread = int(threadIdx.x);
  const Index chunk = blockIdx.x % in.chunks, rest = blockIdx.x / in.chunks;
  const Index row_group = rest % in.row_groups, image = rest / in.row_groups;
  const Index rows = (args.sides == 3 ? 2 : 1) * args.rows;  // of an image

  const T* A[kConstantRows];
  bool lower[kConstantRows];
  double constants[kConstantRows] = {};
#pragma unroll
  for (int i = 0; i < kConstantRows; ++i) {
    const Index row = row_group * kConstantRows + i, side = row >= args.rows ? 1 : 0;
    A[i] = row < rows ? args.A.data + side * args.A.side_stride + image * args.A.batch_stride +
                            (row - side * args.rows) * args.A.row_stride
                      : nullptr;
    lower[i] = args.sides == 1 || (args.sides == 3 && side == 0);
  }
  const Index begin = chunk * kConstantNeurons;
  const Index end = smaller(in.neurons, begin + kConstantNeurons);
  const int pixels = args.layer.output.height * args.layer.output.width;
  for (Index neuron = begin + thread; neuron < end; neuron += kConstantThreads) {
    const double bias = args.layer.bias == nullptr ? 0.0 : double(args.layer.bias[divide(neuron, pixels)]);
    BoundingLines<T> lines = {T(1), T(0), T(1), T(0)};
    if (in.slopes != nullptr) {
      lines = neuron_lines(args.relaxation, image, neuron);
      if (row_group == 0) {
        in.slopes[image * in.neurons + neuron] = lines.lower_slope;
        in.slopes[(args.batch + image) * in.neurons + neuron] = lines.upper_slope;
      }
    }
#pragma unroll
    for (int i = 0; i < kConstantRows; ++i) {
      if (A[i] == nullptr) continue;
      const T a = A[i][neuron];
      const bool lower_line = (a >= T(0)) == lower[i];
      const T value = a * (lower_line ? lines.lower_slope : lines.upper_slope);
      constants[i] += double(a) * double(lower_line ? lines.lower_intercept : lines.upper_intercept);
      constants[i] += double(value) * bias;
    }
  }
#pragma unroll
  for (int i = 0; i < kConstantRows; ++i) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) constants[i] += __shfl_xor_sync(0xffffffffu, constants[i], step);
    if (thread % 32 == 0) sums[thread / 32 * kConstantRows + i] = constants[i];
  }
  __syncthreads();
  const Index row = row_group * kConstantRows + thread;
  if (thread >= kConstantRows || row >= rows) return;
  double constant = 0;
  for (int warp = 0; warp < kWarps; ++warp) constant += sums[warp * kConstantRows + thread];
  const Index side = row >= args.rows ? 1 : 0;
  const Index at = (side * args.batch + image) * args.rows + row - side * args.rows;
  in.parts[chunk * (rows * args.batch) + at] = constant;
}

struct SumConstantsArguments {
  Index count, chunks;
  const double* parts;  // [chunks, count]
  double* constants;    // [count]
};

LBP_KERNEL void LBP_LAUNCH_BOUNDS(kConstantThreads, 1) sum_constants_kernel(const SumConstantsArguments args) {
  const Index at = Index(blockIdx.x) * kConstantThreads + threadIdx.x;
  if (at >= args.count) return;
  double constant = 0;
  for (Index chunk = 0; chunk < args.chunks; ++chunk) constant += args.parts[chunk * args.count + at];
  args.constants[at] = constant;
}

// With a stride, the pixels y of one residue class, y + padding = residue
// modulo the stride, meet the same entries of the kernel: those whose place,
// dilation times entry, has that residue, every `step`-th from `first` on. The
// entry meets the pixel at the output (y + padding - dilation entry) / stride =
// output_of(y) - shift(entry), whole numbers.
struct Residue {
  int residue, stride, dilation;
  int first, step, entries;  // of the kernel
  int pixel, pixels;         // the first pixel of the class, and how many there are
  int output;                // of the first pixel; the next pixel's is one more

  LBP_DEVICE int shift(int entry) const { return (dilation * entry - residue) / stride; }

  LBP_DEVICE Residue(int class_residue, int input, int kernel, int class_stride, int padding, int class_dilation)
      : residue(class_residue), stride(class_stride), dilation(class_dilation) {
    first = 0;
    while (first < kernel && first * dilation % stride != residue) ++first;
    step = 1;
    while (step * dilation % stride != 0) ++step;
    entries = first < kernel ? (kernel - 1 - first) / step + 1 : 0;
    pixel = (residue - padding) % stride;
    if (pixel < 0) pixel += stride;
    pixels = pixel < input ? (input - 1 - pixel) / stride + 1 : 0;
    output = (pixel + padding - residue) / stride;
  }
};

// A product for every group of the convolution and residue class of pixels:
// rows run over rows of A and the pixels of the class, columns over the group's
// input channels, the depth over its output channels and the entries of the
// kernel.
template <typename T>
struct TransposedProduct {
  using Scalar = T;
  static constexpr Pairing kPairing = Pairing::kSingle;
  static constexpr bool kLeftAlongDepth = false, kRightAlongDepth = false, kConstants = false;
  struct Stage {
    Index offset[16];  // of the neuron that an entry reads, from the row's first
                       // channel of the group
    Index weight[16];
    int y[16], x[16];  // shifts
  };
  struct LeftLoad {
    T a, lower_slope, upper_slope;
  };
  struct LeftState {
    const T* row;          // null outside the product
    const T* lower_slope;  // of the same neurons; null without an activation
    const T* upper_slope;
    int y, x;  // of the output that an entry of shift 0 meets
    bool lower;
  };
  using RightState = const T*;

  // Of one class.
  struct View {
    RelaxBackwardConv2dArguments<T> args;
    const T* slopes;
    int group;
    Residue vertical, horizontal;
    Index rows, columns, depth;

    LBP_DEVICE Index neurons() const {
      return Index(args.layer.out_channels) * args.layer.output.height * args.layer.output.width;
    }
    LBP_DEVICE int group_channels() const { return args.layer.out_channels / args.layer.groups; }

    LBP_DEVICE LeftState left(Index row) const {
      if (row >= rows) return {nullptr, nullptr, nullptr, 0, 0, false};
      const int pixels = vertical.pixels * horizontal.pixels;
      const Index row_of_A = divide(row, pixels);
      const int pixel = int(row - row_of_A * pixels);
      const Index image_row = divide(row_of_A, args.rows), side = image_row >= args.batch ? 1 : 0;
      const Index image = image_row - side * args.batch;
      const Index channel = Index(group) * group_channels() * args.layer.output.height * args.layer.output.width;
      const T* data = args.A.data + side * args.A.side_stride + image * args.A.batch_stride +
                      (row_of_A - image_row * args.rows) * args.A.row_stride + channel;
      const T* slope = slopes == nullptr ? nullptr : slopes + image * neurons() + channel;
      return {data,
              slope,
              slope == nullptr ? nullptr : slope + args.batch * neurons(),
              vertical.output + pixel / horizontal.pixels,
              horizontal.output + pixel % horizontal.pixels,
              args.sides == 1 || (args.sides == 3 && side == 0)};
    }
    LBP_DEVICE RightState right(Index column) const {
      return column < columns ? args.layer.weight + column * args.layer.kernel.height * args.layer.kernel.width
                              : nullptr;
    }

    LBP_DEVICE void prepare(Stage& stage, Index begin, int count, Index, int thread, int) const {
      if (thread >= count) return;
      const ConvolutionLayer<T>& layer = args.layer;
      const Index k = begin + thread, entries = larger(vertical.entries * horizontal.entries, 1);
      const Index channel = divide(k, entries);
      const int entry = int(k - channel * entries), across = larger(horizontal.entries, 1);
      const int ky = vertical.first + entry / across * vertical.step;
      const int kx = horizontal.first + entry % across * horizontal.step;
      stage.offset[thread] = channel * layer.output.height * layer.output.width;
      stage.weight[thread] =
          ((group * group_channels() + channel) * columns * layer.kernel.height + ky) * layer.kernel.width + kx;
      stage.y[thread] = vertical.shift(ky);
      stage.x[thread] = horizontal.shift(kx);
    }

    LBP_DEVICE LeftLoad load_left(const LeftState& state, const Stage& stage, int k, Index depth_or_none) const {
      const LeftLoad nothing = {T(0), T(1), T(1)};
      if (depth_or_none < 0 || state.row == nullptr) return nothing;
      const ConvolutionLayer<T>& layer = args.layer;
      const int y = state.y - stage.y[k], x = state.x - stage.x[k];
      if (y < 0 || y >= layer.output.height || x < 0 || x >= layer.output.width) return nothing;
      const Index at = stage.offset[k] + Index(y) * layer.output.width + x;
      if (state.lower_slope == nullptr) return {state.row[at], T(1), T(1)};
      return {state.row[at], state.lower_slope[at], state.upper_slope[at]};
    }

    LBP_DEVICE Pair<T> left_values(const LeftLoad& load, const LeftState& state, const Stage&, int, double&) const {
      return {load.a * ((load.a >= T(0)) == state.lower ? load.lower_slope : load.upper_slope), T(0)};
    }

    LBP_DEVICE Pair<T> load_right(RightState column, const Stage& stage, int k, Index depth_or_none) const {
      return {column == nullptr || depth_or_none < 0 ? T(0) : column[stage.weight[k]], T(0)};
    }

    LBP_DEVICE void store(Index row, Index column, T sum, T) const {
      const ConvolutionLayer<T>& layer = args.layer;
      const int pixels = vertical.pixels * horizontal.pixels;
      const Index row_of_A = divide(row, pixels);
      const int pixel = int(row - row_of_A * pixels);
      const int y = vertical.pixel + pixel / horizontal.pixels * layer.stride.height;
      const int x = horizontal.pixel + pixel % horizontal.pixels * layer.stride.width;
      const Index channel = row_of_A * layer.channels + group * columns + column;
      args.coefficients[(channel * layer.input.height + y) * layer.input.width + x] = sum;
    }
    LBP_DEVICE void store_constant(Index, double) const {}
  };

  Index batches, rows, columns, depth;  // rows and depth of the largest class
  RelaxBackwardConv2dArguments<T> args;
  const T* slopes;

  LBP_DEVICE View view(Index batch) const {
    const ConvolutionLayer<T>& layer = args.layer;
    const int across = layer.stride.width, classes = layer.stride.height * across;
    const int group = int(batch) / classes, residue = int(batch) % classes;
    const Residue vertical(residue / across, layer.input.height, layer.kernel.height, layer.stride.height,
                           layer.padding.height, layer.dilation.height);
    const Residue horizontal(residue % across, layer.input.width, layer.kernel.width, layer.stride.width,
                             layer.padding.width, layer.dilation.width);
    const Index sides = args.sides == 3 ? 2 : 1;
    return {args,       slopes,
            group,      vertical,
            horizontal, sides * args.batch * args.rows * vertical.pixels * horizontal.pixels,
            columns,    Index(layer.out_channels / layer.groups) * vertical.entries * horizontal.entries};
  }
};

}  // namespace lbp::cuda
