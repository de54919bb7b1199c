// Back-substitution through an activation and the Conv2d layer below it: a transposed convolution of A, which is
// relaxed while it is loaded.
//
// A neuron enters kernel height times kernel width products of every row of A. So its lines are computed once, by
// relax_constants_kernel, which leaves the slopes in the workspace and adds up the constants of the rows. What the
// product reads at each step of its depth is worked out once for all blocks, by arrange_transposed_kernel.
#pragma once

#include "cuda/kernels/lines.cuh"
#include "cuda/kernels/reduce.cuh"
#include "cuda/kernels/residue.cuh"
#include "cuda/kernels/slot.cuh"
#include "cuda/kernels/tile_product.cuh"
#include "product_arguments.h"

namespace lbp::cuda {

constexpr int kConstantRows = kFewSlots;
constexpr Index kConstantNeurons = 4096;  // of a block
// At a time on a multiprocessor.
template <typename T>
constexpr int kConstantBlocks = sizeof(T) == 4 ? 2 : 1;

// Of K S rows of every image; blocks run over images, then groups of kConstantRows rows, then chunks of neurons.
template <typename T>
struct RelaxConstantsArguments {
  RelaxBackwardConv2dArguments<T> args;
  Index neurons, row_groups, chunks;
  Pair<T>* slopes;  // [B, n]: lower, upper; null without an activation
  double* parts;    // [chunks, K, B, S]; the constants themselves where there is one chunk
};

template <typename T>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, kConstantBlocks<T>) relax_constants_kernel(const RelaxConstantsArguments<T> in) {
  LBP_SHARED(double, sums, kWarps* kConstantRows);
  const RelaxBackwardConv2dArguments<T>& args = in.args;
  const Index chunk = blockIdx.x % in.chunks, rest = blockIdx.x / in.chunks;
  const Index row_group = rest % in.row_groups, image = rest / in.row_groups;
  const Index first = row_group * kConstantRows;
  const Index rows = smaller(slot_count(args.sides, args.rows) - first, Index(kConstantRows));
  const auto slot_of = [&](int i) { return Slot<T>(args.A, args.sides, args.batch, args.rows, image, 0, first + i); };

  const T* A[kConstantRows];
  bool lower[kConstantRows];
  double constants[kConstantRows] = {};
#pragma unroll
  for (int i = 0; i < kConstantRows; ++i) {
    const Slot<T> slot = slot_of(i);
    A[i] = slot.A;
    lower[i] = slot.lower;
  }
  const Index begin = chunk * kConstantNeurons, end = smaller(in.neurons, begin + kConstantNeurons);
  const int pixels = args.layer.output.height * args.layer.output.width;
  for (Index neuron = begin + threadIdx.x; neuron < end; neuron += kThreads) {
    T a[kConstantRows];
#pragma unroll
    for (int i = 0; i < kConstantRows; ++i) a[i] = i < rows ? read(A[i] + neuron) : T(0);  // while lines are computed
    const double bias = args.layer.bias == nullptr ? 0.0 : double(read(args.layer.bias + quotient(neuron, pixels)));
    BoundingLines<T> lines = {T(1), T(0), T(1), T(0)};
    if (in.slopes != nullptr) {
      lines = neuron_lines(args.relaxation, image, neuron);
      if (row_group == 0) {
        in.slopes[image * in.neurons + neuron] = {lines.lower_slope, lines.upper_slope};
      }
    }
#pragma unroll
    for (int i = 0; i < kConstantRows; ++i) {
      if (i >= rows) continue;
      const bool takes_lower = (a[i] >= T(0)) == lower[i];
      const T value = a[i] * (takes_lower ? lines.lower_slope : lines.upper_slope);
      constants[i] = plus_product<T>(constants[i], a[i], takes_lower ? lines.lower_intercept : lines.upper_intercept);
      constants[i] = plus_product<T>(constants[i], value, bias);
    }
  }
#pragma unroll
  for (int i = 0; i < kConstantRows; i += 2) {
    double pair[2] = {constants[i], constants[i + 1]};
    const double sum = reduce_group(pair, Sum());
    int which = 0;
    if (holds_group_value<2>(which)) sums[warp() * kConstantRows + i + which] = sum;
  }
  __syncthreads();
  const int row = int(threadIdx.x);
  if (row >= rows) return;
  double constant = 0;
  for (int i = 0; i < kWarps; ++i) constant += sums[i * kConstantRows + row];
  in.parts[chunk * slot_count(args.sides, args.batch * args.rows) + slot_of(row).out_row] = constant;
}

// What one step of the depth reads: the output, counted from the one that an entry of shift 0 meets, in memory and by
// rows and columns.
struct alignas(16) TransposedStep {
  int offset, y, x;
};

LBP_DEVICE TransposedStep read_step(const TransposedStep* address) {
#if defined(__CUDA_ARCH__)
  const int4 loaded = __ldg(reinterpret_cast<const int4*>(address));
  return {loaded.x, loaded.y, loaded.z};
#else
  return *address;
#endif
}

// The depth of a layer's product in the workspace: the steps of every class of entries, and the weights in their order,
// so that threads side by side read neighbours. Beyond the depth of a class, steps are outside and weights zeros.
template <typename T>
struct TransposedDepth {
  Index size;             // of the largest class, in whole tiles
  TransposedStep* steps;  // [classes, size]
  T* weight;              // [groups, classes, size, C_in / groups]
};

template <typename T>
struct ArrangeTransposedArguments {
  ConvolutionLayer<T> layer;
  TransposedDepth<T> depth;
};

// An entry of the kernel along an axis, counted in its class, and the output it meets, from that of shift 0.
struct TransposedEntry {
  int entry, shift;

  LBP_DEVICE TransposedEntry(int first, int number, int step, int stride, int dilation)
      : entry(first + number * step), shift((dilation * entry - first * dilation % stride) / stride) {}
};

// Threads run over the planes of the weights, [C_out, C_in / groups]; those of the first column of the first group
// leave the steps.
template <typename T>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 4) arrange_transposed_kernel(const ArrangeTransposedArguments<T> args) {
  const ConvolutionLayer<T>& layer = args.layer;
  const Index columns = layer.channels / layer.groups, plane = Index(blockIdx.x) * kThreads + threadIdx.x;
  if (plane >= layer.out_channels * columns) return;
  const int row = int(quotient(plane, columns)), channels = layer.out_channels / layer.groups;
  const int group = row / channels, channel = row - group * channels;
  const Index column = plane - row * columns, size = args.depth.size;
  const T* const weight = layer.weight + plane * layer.kernel.height * layer.kernel.width;
  const EntryClasses down(layer.kernel.height, layer.stride.height, layer.dilation.height);
  const EntryClasses across(layer.kernel.width, layer.stride.width, layer.dilation.width);
  for (int of_class = 0; of_class < down.count * across.count; ++of_class) {
    const int top = of_class / across.count, left = of_class - top * across.count;
    const int tall = down.entries(layer.kernel.height, top), wide = across.entries(layer.kernel.width, left);
    const Index of_group = Index(group) * down.count * across.count + of_class;
    const auto put = [&](Index number, T value, const TransposedStep& step) {
      args.depth.weight[(of_group * size + number) * columns + column] = value;
      if (group == 0 && column == 0) args.depth.steps[of_class * size + number] = step;
    };
    for (int i = 0; i < tall * wide; ++i) {
      const TransposedEntry y(top, i / wide, down.step, layer.stride.height, layer.dilation.height);
      const TransposedEntry x(left, i % wide, across.step, layer.stride.width, layer.dilation.width);
      const int offset = (channel * layer.output.height - y.shift) * layer.output.width - x.shift;
      put(Index(channel) * tall * wide + i, read(weight + y.entry * layer.kernel.width + x.entry),
          {offset, -y.shift, -x.shift});
    }
    for (Index number = Index(channels) * tall * wide + channel; number < size; number += channels) {
      put(number, T(0), {0, kOutside, 0});
    }
  }
}

// A product for every group of the convolution and residue class of pixels: rows run over rows of A and the pixels of
// the class, columns over the group's input channels, the depth over its output channels and the entries of the kernel.
template <typename T, bool kRelaxed>
struct TransposedProduct {
  using Scalar = T;
  static constexpr Pairing kPairing = Pairing::kSingle;
  static constexpr bool kLeftAlongDepth = false, kRightAlongDepth = false, kConstants = false, kFewRows = false,
                        kFewColumns = true, kRowsInPacks = true;
  struct Stage {
    TransposedStep steps[kStageDepth];
  };
  struct LeftLoad {
    T a;
    Pair<T> slopes;
  };
  struct LeftState {
    const T* row;           // of the output that an entry of shift 0 meets, in the group's first channel
    const Pair<T>* slopes;  // of the same neuron
    int y, x;               // of that output
    bool lower;
  };
  using RightState = const T*;

  // Of one class.
  struct View {
    RelaxBackwardConv2dArguments<T> args;
    const Pair<T>* slopes;
    const TransposedStep* steps;
    const T* weight;
    int group;
    ResiduePixels down, across;
    Index rows, columns, depth, size;

    LBP_DEVICE Index neurons() const {
      return Index(args.layer.out_channels) * args.layer.output.height * args.layer.output.width;
    }
    LBP_DEVICE int group_channels() const { return args.layer.out_channels / args.layer.groups; }

    LBP_DEVICE LeftState left(Index row, Index) const {
      if (row >= rows) return {nullptr, nullptr, kOutside, 0, false};
      const int pixels = down.count * across.count;
      const Index row_of_A = quotient(row, pixels);
      const int pixel = int(row - row_of_A * pixels);
      const Index image_row = quotient(row_of_A, args.rows), side = image_row >= args.batch ? 1 : 0;
      const Index image = image_row - side * args.batch;
      const Index channel = Index(group) * group_channels() * args.layer.output.height * args.layer.output.width;
      const int y = down.output + pixel / across.count, x = across.output + pixel % across.count;
      const Index at = channel + Index(y) * args.layer.output.width + x;
      return {args.A.data + side * args.A.side_stride + image * args.A.batch_stride +
                  (row_of_A - image_row * args.rows) * args.A.row_stride + at,
              kRelaxed ? slopes + image * neurons() + at : nullptr, y, x, is_lower(args.sides, side)};
    }
    LBP_DEVICE RightState right(Index column, Index begin) const {
      return column < columns ? weight + begin * columns + column : nullptr;
    }

    LBP_DEVICE void prepare(Stage& stage, Index begin, int thread, int) const {
      if (thread >= kStageDepth) return;
      const bool exists = begin + thread < size;
      stage.steps[thread] = exists ? read_step(steps + begin + thread) : TransposedStep{0, kOutside, 0};
    }

    LBP_DEVICE void load_left(const LeftState& state, const Stage& stage, const Step& step,
                              LeftLoad (&loads)[1]) const {
      const TransposedStep at = stage.steps[step.k];
      loads[0] = {T(0), {T(0), T(0)}};
      if (!is_inside(state.y + at.y, state.x + at.x, args.layer.output)) return;
      loads[0].a = read(state.row + at.offset);
      if constexpr (kRelaxed) loads[0].slopes = read_pair(state.slopes + at.offset);
    }

    LBP_DEVICE Pair<T> left_values(const LeftLoad& load, const LeftState& state, const Stage&, int, double&) const {
      if constexpr (!kRelaxed) return {load.a, T(0)};
      return {load.a * ((load.a >= T(0)) == state.lower ? load.slopes.first : load.slopes.second), T(0)};
    }

    LBP_DEVICE void load_right(RightState column, const Stage&, const Step& step, Pair<T> (&loads)[1]) const {
      loads[0] = {column == nullptr ? T(0) : read(column + Index(unsigned(step.depth)) * Index(unsigned(columns))),
                  T(0)};
    }

    struct OutputRow {
      T* pixel;  // in the group's first channel
      Index pixels;
      LBP_DEVICE void store(Index column, T sum, T) const { pixel[column * pixels] = sum; }
      LBP_DEVICE void store(Index column, const Pack<T>& sums, const Pack<T>&) const {
        write_pack(pixel + column * pixels, sums);
      }
    };
    // All pixels are then of one class.
    LBP_DEVICE bool has_rows_in_packs() const {
      return args.layer.stride.height == 1 && args.layer.stride.width == 1 &&
             args.layer.input.height * args.layer.input.width % kOwn<T> == 0 && is_aligned(args.coefficients);
    }
    LBP_DEVICE OutputRow output(Index row) const {
      const ConvolutionLayer<T>& layer = args.layer;
      const int pixels = down.count * across.count;
      const Index row_of_A = quotient(row, pixels);
      const int pixel = int(row - row_of_A * pixels);
      const int y = down.first + pixel / across.count * layer.stride.height;
      const int x = across.first + pixel % across.count * layer.stride.width;
      const Index channel = row_of_A * layer.channels + group * columns;
      return {args.coefficients + (channel * layer.input.height + y) * layer.input.width + x,
              Index(layer.input.height) * layer.input.width};
    }
    LBP_DEVICE void store_constant(Index, double) const {}
  };

  Index batches, rows, columns, depth;  // rows and depth of the largest class
  Index filled;                         // of the batches, those that have a depth
  RelaxBackwardConv2dArguments<T> args;
  const Pair<T>* slopes;  // null without an activation
  TransposedDepth<T> arranged;

  LBP_DEVICE View view(Index batch) const {
    const ConvolutionLayer<T>& layer = args.layer;
    const int wide = layer.stride.width, classes = layer.stride.height * wide;
    const int group = int(batch) / classes, residue = int(batch) % classes;
    const Residue vertical(residue / wide, layer.kernel.height, layer.stride.height, layer.padding.height,
                           layer.dilation.height);
    const Residue horizontal(residue % wide, layer.kernel.width, layer.stride.width, layer.padding.width,
                             layer.dilation.width);
    const ResiduePixels down(vertical, 0, layer.input.height), across(horizontal, 0, layer.input.width);
    // Classes of entries are numbered by the first ones. Without entries there is no depth, and nothing is read.
    const int begun = EntryClasses(layer.kernel.width, wide, layer.dilation.width).count;
    const int of_class = vertical.entries * horizontal.entries == 0 ? 0 : vertical.first * begun + horizontal.first;
    const Index classes_with_entries = filled / layer.groups;
    return {args,
            slopes,
            arranged.steps + of_class * arranged.size,
            arranged.weight + (group * classes_with_entries + of_class) * arranged.size * columns,
            group,
            down,
            across,
            slot_count(args.sides, args.batch * args.rows) * down.count * across.count,
            columns,
            Index(layer.out_channels / layer.groups) * vertical.entries * horizontal.entries,
            arranged.size};
  }
};

}  // namespace lbp::cuda
