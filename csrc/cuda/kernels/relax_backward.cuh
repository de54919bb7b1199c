// A -> A' through an activation with the constants in the same pass, and the gradient, which computes the lines again.
//
// A thread keeps the lines of its neurons and walks down the rows of A.
#pragma once

#include "cuda/kernels/lines.cuh"
#include "cuda/kernels/reduce.cuh"
#include "cuda/kernels/slot.cuh"

namespace lbp::cuda {

// Packs of A that are read before the first of them is used.
constexpr int kRelaxSlots = 4;
// At a time on a multiprocessor, of rows of whole packs: three hide more of each other's waits, and have the registers.
template <typename T>
constexpr int kRelaxBlocks = sizeof(T) == 4 ? 3 : 2;

template <typename T>
struct RelaxBackwardLaunch {
  RelaxBackwardArguments<T> op;
  Tiling tiling;          // the rows of an image; its tiles are the groups below
  Index tiles_per_block;  // tiles that one block works on one after the other
  double* constants;      // [K B S, tile groups]: the result itself where there is one group
};

// Relaxes a thread's coefficients of a row, and adds what they take of the intercepts to the row's constant. Positive
// ones take the line of the own side; 0 counts as positive.
template <typename T>
LBP_DEVICE void relax_pack(Pack<T>& A, bool lower, const OwnLines<T>& lines, double& constant) {
#pragma unroll
  for (int i = 0; i < kOwn<T>; ++i) {
    const T a = A[i];
    const bool takes_lower = (a >= T(0)) == lower;
    const BoundingLines<T>& line = lines.of[i];
    constant = plus_product<T>(constant, a, takes_lower ? line.lower_intercept : line.upper_intercept);
    A[i] = a * (takes_lower ? line.lower_slope : line.upper_slope);
  }
}

// Adds up what the warps of a block have of the rows' constants. `warp_sums` is [slots, kWarps].
template <typename T, typename SlotOf>
LBP_DEVICE void store_constants(const RelaxBackwardLaunch<T>& args, const double* warp_sums, int slots,
                                const SlotOf& slot_of) {
  __syncthreads();
  for (int i = threadIdx.x; i < slots; i += kThreads) {
    double total = 0;
    for (int k = 0; k < kWarps; ++k) total += warp_sums[i * kWarps + k];
    args.constants[slot_of(i).out_row * args.tiling.tiles + args.tiling.tile()] = total;
  }
}

template <typename T, bool kAligned>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, kAligned ? kRelaxBlocks<T> : 2)
    relax_backward_kernel(const RelaxBackwardLaunch<T> args) {
  LBP_DYNAMIC_SHARED(double, warp_sums);  // [slots, kWarps]
  LBP_SHARED(T, line_data, kLineTileSize<T>);
  const RelaxBackwardArguments<T>& op = args.op;
  const Index image = args.tiling.image(), first_row = args.tiling.first_row();
  const int slots = int(slot_count(op.sides, args.tiling.last_row() - first_row));  // as shared memory has room for
  const int share = even_share<kRelaxSlots>(slots);
  const auto slot_of = [&](int slot) { return Slot<T>(op.A, op.sides, op.batch, op.rows, image, first_row, slot); };
  const Index first_tile = args.tiling.tile() * args.tiles_per_block;
  for (Index tile = first_tile;
       tile == first_tile || (tile < first_tile + args.tiles_per_block && tile * kTile<T> < op.neurons); ++tile) {
    const Own<T, kAligned> own(tile, op.neurons);
    Pack<T> A[kRelaxSlots];
    const auto load = [&](int begin) {
#pragma unroll
      for (int k = 0; k < kRelaxSlots; ++k) {
        if (k < share && begin + k < slots) A[k] = own.load(slot_of(begin + k).A);
      }
    };
    load(0);  // under way while the lines are computed
    const LineTile<T> shared_lines = {line_data};
    const OwnLines<T> slopes = load_lines<kAligned, T>(op.relaxation, image, tile, op.neurons, shared_lines);
    for (int begin = 0; begin < slots; begin += share) {
      double sums[kRelaxSlots];
      // From shared memory in every round: registers are scarce.
      const Pack<T> lower_intercept = shared_lines.template own_numbers<kAligned>(kLowerInterceptPlane);
      const Pack<T> upper_intercept = shared_lines.template own_numbers<kAligned>(kUpperInterceptPlane);
      const Pack<T> upper_slope = shared_lines.template own_numbers<kAligned>(kUpperSlopePlane);
      OwnLines<T> lines = slopes;
#pragma unroll
      for (int i = 0; i < kOwn<T>; ++i) {
        lines.of[i].upper_slope = upper_slope[i];
        lines.of[i].lower_intercept = lower_intercept[i];
        lines.of[i].upper_intercept = upper_intercept[i];
      }
#pragma unroll
      for (int k = 0; k < kRelaxSlots; ++k) {
        sums[k] = 0;
        if (k < share && begin + k < slots) {
          const Slot<T> slot = slot_of(begin + k);
          relax_pack(A[k], slot.lower, lines, sums[k]);
          own.store(op.relaxed + slot.out_row * op.neurons, A[k]);
        }
      }
      if (op.bias.data != nullptr) {
        const Pack<T> bias = load_per_neuron(op.bias, own);  // in every round anew: registers are scarce
#pragma unroll
        for (int k = 0; k < kRelaxSlots; ++k) {
          if (k < share && begin + k < slots) {
#pragma unroll
            for (int i = 0; i < kOwn<T>; ++i) sums[k] = plus_product<T>(sums[k], A[k][i], bias[i]);
          }
        }
      }
      load(begin + share);  // under way while the sums are added up
      const double sum = reduce_group(sums, Sum());
      int k = 0;
      if (holds_group_value<kRelaxSlots>(k) && k < share && begin + k < slots) {
        double& total = warp_sums[(begin + k) * kWarps + warp()];
        total = tile == first_tile ? sum : total + sum;
      }
    }
  }
  store_constants(args, warp_sums, slots, slot_of);
}

// For few rows of large layers: a thread adds up its part of every row's constant over the tiles of its block. It reads
// all rows of a tile at the same time, each as soon as that of the tile before is relaxed, so that reads are under way
// whatever it computes. Rows are whole packs.
template <typename T, bool kBothSides>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 2) relax_backward_few_kernel(const RelaxBackwardLaunch<T> args) {
  LBP_SHARED(double, warp_sums, kFewSlots* kWarps);
  LBP_SHARED(T, line_data, kLineTileSize<T>);
  const RelaxBackwardArguments<T>& op = args.op;
  const Index image = args.tiling.image(), side = op.batch * op.rows * op.neurons;
  const int slots = int(slot_count(op.sides, op.rows));
  const Index first_tile = args.tiling.tile() * args.tiles_per_block;
  const Index end = smaller((first_tile + args.tiles_per_block) * kTile<T>, op.neurons);
  double sums[kFewSlots] = {};
  const Own<T, true> first(first_tile, end);
  OwnBounds<T, true> bounds(op.relaxation, image, first);
  Pack<T> A[kFewSlots];
  SlotWalk<T, kBothSides> slot(op.A, op.rows, image, op.neurons);
#pragma unroll
  for (int k = 0; k < kFewSlots; ++k) {
    if (k < slots) A[k] = first.load(slot.A);
    slot.advance(k, op.A, op.neurons, side);
  }
  for (Index tile = first_tile; tile * kTile<T> < end; ++tile) {
    const OwnLines<T> lines = lines_within(bounds, op.relaxation, image, tile, op.neurons, LineTile<T>{line_data});
    const Own<T, true> own(tile, end), next(tile + 1, end);
    Pack<T> bias = {};
    if (op.bias.data != nullptr) bias = load_per_neuron(op.bias, own);
    bounds = OwnBounds<T, true>(op.relaxation, image, next);
    slot = SlotWalk<T, kBothSides>(op.A, op.rows, image, op.neurons);
#pragma unroll
    for (int k = 0; k < kFewSlots; ++k) {
      if (k < slots) {
        relax_pack(A[k], kBothSides ? k % 2 == 0 : is_lower(op.sides, 0), lines, sums[k]);
        own.store(op.relaxed + slot.out, A[k]);
        if (op.bias.data != nullptr) {
#pragma unroll
          for (int i = 0; i < kOwn<T>; ++i) sums[k] = plus_product<T>(sums[k], A[k][i], bias[i]);
        }
        A[k] = next.load(slot.A);
      }
      slot.advance(k, op.A, op.neurons, side);
    }
  }
#pragma unroll
  for (int k = 0; k < kFewSlots; k += 2) {
    double pair[2] = {sums[k], sums[k + 1]};
    const double sum = reduce_group(pair, Sum());
    int which = 0;
    if (holds_group_value<2>(which)) warp_sums[(k + which) * kWarps + warp()] = sum;
  }
  store_constants(args, warp_sums, slots,
                  [&](int number) { return Slot<T>(op.A, op.sides, op.batch, op.rows, image, 0, number); });
}

template <typename T>
struct RelaxBackwardGradientLaunch {
  RelaxBackwardGradientArguments<T> op;
  Tiling tiling;
  T* sums;  // [pieces, 5, B, n]: gradients of the lines and of the bias; null where one piece has all rows
};

// The gradients of a neuron's lines and bias, added up over rows.
template <typename T>
struct NeuronLineSums {
  BoundingLines<T> lines;
  T bias;
};

// Of a thread's neurons.
template <typename T>
struct LineSums {
  OwnLines<T> lines;
  Pack<T> bias;
};

// Adds the gradients of one coefficient to those of its neuron's lines and bias, and returns its own; `gradient` is
// that of the relaxed coefficient.
template <typename T>
LBP_DEVICE T relax_gradient(T a, T gradient, T to_constant, bool lower, const BoundingLines<T>& line,
                            BoundingLines<T>& sum, T& bias_sum) {
  const bool takes_lower = (a >= T(0)) == lower;
  const T slope = takes_lower ? line.lower_slope : line.upper_slope;
  const T intercept = takes_lower ? line.lower_intercept : line.upper_intercept;
  const T to_slope = gradient * a, to_intercept = to_constant * a;
  sum.lower_slope += takes_lower ? to_slope : T(0);
  sum.upper_slope += takes_lower ? T(0) : to_slope;
  sum.lower_intercept += takes_lower ? to_intercept : T(0);
  sum.upper_intercept += takes_lower ? T(0) : to_intercept;
  bias_sum += to_constant * a * slope;
  return gradient * slope + to_constant * intercept;
}

template <typename T, bool kAligned>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 2) relax_backward_gradient_kernel(const RelaxBackwardGradientLaunch<T> args) {
  constexpr int kSlots = 2;
  LBP_SHARED(T, line_data, kGradientTileSize<T>);
  const RelaxBackwardGradientArguments<T>& op = args.op;
  const Index tile = args.tiling.tile();
  const Own<T, kAligned> own(tile, op.neurons);
  const Index image = args.tiling.image(), first_row = args.tiling.first_row();
  const Index slots = slot_count(op.sides, args.tiling.last_row() - first_row);
  const auto slot_of = [&](Index slot) { return Slot<T>(op.A, op.sides, op.batch, op.rows, image, first_row, slot); };
  const OwnLines<T> lines = load_lines<kAligned, T>(op.relaxation, image, tile, op.neurons, {line_data});
  Pack<T> bias = {};
  if (op.bias.data != nullptr) bias = load_per_neuron(op.bias, own);
  LineSums<T> sums = {};
  for (Index begin = 0; begin < slots; begin += kSlots) {
    Pack<T> A[kSlots], to_relaxed[kSlots];
    T to_constant[kSlots];
#pragma unroll
    for (int k = 0; k < kSlots; ++k) {
      if (begin + k >= slots) break;
      const Slot<T> slot = slot_of(begin + k);
      A[k] = own.load(slot.A);
      to_relaxed[k] = own.load(op.relaxed_gradient + slot.out_row * op.neurons);
      to_constant[k] = T(read(op.constants_gradient + slot.out_row));
    }
#pragma unroll
    for (int k = 0; k < kSlots; ++k) {
      if (begin + k >= slots) break;
      const Slot<T> slot = slot_of(begin + k);
      Pack<T> to_A;
#pragma unroll
      for (int i = 0; i < kOwn<T>; ++i) {
        // The bias sees the relaxed coefficient, so its gradient joins that of the coefficient.
        T gradient = to_relaxed[k][i];
        if (op.bias.data != nullptr) gradient += to_constant[k] * bias[i];
        to_A[i] =
            relax_gradient(A[k][i], gradient, to_constant[k], slot.lower, lines.of[i], sums.lines.of[i], sums.bias[i]);
      }
      if (op.A_gradient != nullptr) own.store(op.A_gradient + slot.out_row * op.neurons, to_A);
    }
  }
  if (args.sums == nullptr) {
    store_line_gradients<kAligned, T>(op.relaxation, image, tile, op.neurons, sums.lines, op.gradients, {line_data});
    if (op.bias_gradient != nullptr) own.store(op.bias_gradient + image * op.neurons, sums.bias);
    return;
  }
  const Index count = op.batch * op.neurons;
  T* out = args.sums + 5 * args.tiling.piece() * count + image * op.neurons;
#pragma unroll
  for (int i = 0; i < kOwn<T>; ++i) {
    if (!own.has(i)) continue;
    T* const at = out + own.at(i);
    at[0] = sums.lines.of[i].lower_slope;
    at[count] = sums.lines.of[i].lower_intercept;
    at[2 * count] = sums.lines.of[i].upper_slope;
    at[3 * count] = sums.lines.of[i].upper_intercept;
    at[4 * count] = sums.bias[i];
  }
}

// Adds up what the pieces left, and writes the gradients of what the lines are made of: a thread for every neuron of
// every image.
template <typename T>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 2)
    relax_backward_gradient_finish_kernel(const RelaxBackwardGradientLaunch<T> args) {
  const RelaxBackwardGradientArguments<T>& op = args.op;
  const Index count = op.batch * op.neurons, at = Index(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= count) return;
  BoundingLines<T> to_lines = {};
  T to_bias = T(0);
  for (Index piece = 0; piece < args.tiling.pieces; ++piece) {
    const T* const in = args.sums + 5 * piece * count + at;
    to_lines.lower_slope += read(in);
    to_lines.lower_intercept += read(in + count);
    to_lines.upper_slope += read(in + 2 * count);
    to_lines.upper_intercept += read(in + 3 * count);
    to_bias += read(in + 4 * count);
  }
  const Index image = quotient(at, op.neurons), neuron = at - image * op.neurons;
  store_line_gradient(op.relaxation, image, op.neurons, neuron, to_lines, op.gradients);
  if (op.bias_gradient != nullptr) op.bias_gradient[at] = to_bias;
}

}  // namespace lbp::cuda
