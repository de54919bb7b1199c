// How launchers choose grids and kernels; host code.
#pragma once

#include "cuda/kernels/slot.cuh"
#include "cuda/kernels/strips.cuh"
#include "cuda/launch.h"
#include "dispatch.h"

namespace lbp::cuda {

constexpr Status kInvalidConfiguration = 9;
constexpr Index kMostBlocks = 0x7fffffff;

// Blocks that fill the largest chips several times over. A constant, so that results do not depend on the device.
constexpr Index kManyBlocks = 2048;
// Blocks that run at the same time on the largest chips.
constexpr Index kBlocksAtATime = 528;

inline Index quotient_up(Index a, Index b) { return (a + b - 1) / b; }

template <typename T>
Index tile_count(Index neurons) {
  return quotient_up(neurons, kTile<T>);
}

// Splits rows into pieces of at least `least_rows`, so that there are about `blocks` blocks in all images together;
// a piece has at most `most_rows`.
inline Tiling tiling(Index tiles, Index rows, Index images, Index least_rows, Index blocks = kManyBlocks,
                     Index most_rows = 0x7fffffff) {
  const Index wanted = quotient_up(blocks, larger<Index>(1, tiles * images));
  const Index rows_per_piece = smaller<Index>(larger<Index>(least_rows, quotient_up(rows, wanted)), most_rows);
  return {rows, rows_per_piece, tiles, larger<Index>(1, quotient_up(rows, rows_per_piece))};
}

// Launch-bound sizes, at which an op takes one launch. A launch costs 2 to 4 us. In that time 4e12 bytes/s move six
// matrices, the most that an op has, of kLaunchBoundBytes each; and a thread that reads eight rows at a time, 0.7 us
// from memory, comes through kRowsOfThread of them, so that strips of one neuron take kThreads times as many.
constexpr Index kLaunchBoundBytes = Index(2) << 20, kRowsOfThread = 32;
constexpr Index kLaunchBoundRows = 2 * kRowsOfThread * kThreads;

#if defined(LBP_EMULATE)
inline bool small_layers_take_one_launch = true;  // tests reach the kernels of large layers with small ones
#else
constexpr bool small_layers_take_one_launch = true;
#endif

template <typename T>
bool is_launch_bound(Index rows, Index neurons, Index images) {
  return small_layers_take_one_launch && rows <= kLaunchBoundRows &&
         rows * neurons * images * Index(sizeof(T)) <= kLaunchBoundBytes;
}

// Tiles for sums over rows. Where a row has one tile, or a launch-bound layer's rows a few, a block has all tiles of
// its rows, and so their sums, in one launch; there are no more such blocks than run at the same time on the largest
// chips, since each computes the lines again. Of other rows every block has one tile.
struct RowTiling {
  Tiling tiling;
  Index tiles_per_block;
};

// How many tiles are few: as many as a block reads, one after the other, while others would be launched. On an H100
// nine rows of one image take `relax_backward` 6 us with one tile, 18 to 24 us with eight in a block, and 10 us with 25
// to 64 in blocks of their own; `concretize` 5 us, 11 us and 8 to 10 us, and its gradient for balls, which without has
// three launches, 5, 11 and 14 us.
constexpr Index kTilesToRelax = 2, kTilesToEvaluate = 4, kTilesOfGradient = 8;

// `slots` are the rows of both sides.
template <typename T>
bool has_rows_in_one_block(Index size, Index slots, Index images, Index few_tiles) {
  const Index tiles = tile_count<T>(size);
  return tiles <= 1 || (tiles <= few_tiles && is_launch_bound<T>(slots, size, images));
}

template <typename T>
RowTiling row_tiling(Index size, int sides, Index rows, Index images, Index most_rows, Index few_tiles) {
  constexpr Index kLeastRows = 4;
  const Index tiles = larger<Index>(1, tile_count<T>(size));
  if (has_rows_in_one_block<T>(size, slot_count(sides, rows), images, few_tiles)) {
    return {tiling(1, rows, images, 1, kBlocksAtATime, most_rows), tiles};
  }
  return {tiling(tiles, rows, images, kLeastRows, kManyBlocks, most_rows), 1};
}

// Where row_tiling would give every block one tile of kFewSlots or fewer: blocks with several tiles, whose threads add
// up over them.
template <typename T>
bool takes_few_slots(Index size, int sides, Index rows, Index images, Index few_tiles) {
  const Index slots = slot_count(sides, rows);
  return slots <= kFewSlots && !has_rows_in_one_block<T>(size, slots, images, few_tiles);
}

// Blocks come in waves of those that run at the same time, of which a wave with few blocks takes as long as a full one.
// Of so many waves that a block has the fewest tiles in all of them together, and one more for what it does besides.
template <typename T>
RowTiling few_slots_tiling(Index size, Index rows, Index images) {
  constexpr Index kAtATime = kBlocksAtATime / 2, kMostWaves = 8;
  const Index tiles = tile_count<T>(size);
  Index chosen = tiles, least = 0;
  for (Index waves = 1; waves <= kMostWaves; ++waves) {
    const Index groups = smaller(waves * kAtATime / larger<Index>(images, 1), tiles);
    if (groups == 0) continue;
    const Index tiles_per_block = quotient_up(tiles, groups), cost = waves * (tiles_per_block + 1);
    if (least != 0 && cost >= least) continue;
    chosen = tiles_per_block;
    least = cost;
  }
  return {{rows, rows, quotient_up(tiles, chosen), 1}, chosen};
}

// The widest strips of which a thread has no more than kRowsOfThread rows.
inline Strips strips_of(Index rows, Index neurons) {
  int width = kThreads;
  while (width > 1 && rows * width > kRowsOfThread * kThreads) width /= 2;
  return {rows, quotient_up(neurons, width), width};
}

// A transposed convolution of few rows in one launch: blocks that run at a time, of which each relaxes a row of
// `numbers` and whose threads add up `terms` products each, in about the time of two launches.
constexpr Index kMostNumbersOfFewRows = 8 * kThreads;

inline bool is_launch_bound_convolution(Index blocks, Index numbers, Index terms) {
  return small_layers_take_one_launch && blocks <= 2 * kBlocksAtATime && numbers <= kMostNumbersOfFewRows &&
         terms <= 512;
}

// Of one image.
inline Index blocks_of(const Tiling& tiling) { return tiling.tiles * tiling.pieces; }

// Whether all pointers (null is left out) are aligned to 16 bytes.
template <typename... Pointers>
bool all_aligned(const Pointers*... pointers) {
  return ((reinterpret_cast<unsigned long long>(pointers) % 16 == 0) && ...);
}

// Whether all numbers, sizes or strides of T, are whole packs.
template <typename T, typename... Numbers>
bool whole_packs(Numbers... numbers) {
  return ((Index(numbers) % kOwn<T> == 0) && ...);
}

template <typename T>
bool is_aligned(const Coefficients<T>& A) {
  return all_aligned(A.data) && whole_packs<T>(A.side_stride, A.batch_stride, A.row_stride);
}

// Of the bounds; given lines are read one by one.
template <typename T>
bool is_aligned(const Relaxation<T>& relaxation) {
  return all_aligned(relaxation.l, relaxation.u) && whole_packs<T>(relaxation.batch_stride);
}

template <typename T>
bool is_aligned(const RelaxationGradients<T>& gradients) {
  return all_aligned(gradients.l, gradients.u, gradients.r);
}

// LBP_LAUNCH of a row of blocks; nothing for none.
#define LBP_LAUNCH_ROW(kernel, blocks, threads, shared_bytes, stream, arguments) \
  ((blocks) == 0                                                                 \
       ? ::lbp::cuda::kSuccess                                                   \
       : ((blocks) > ::lbp::cuda::kMostBlocks                                    \
              ? ::lbp::cuda::kInvalidConfiguration                               \
              : LBP_LAUNCH(kernel, dim3(unsigned(blocks)), dim3(unsigned(threads)), shared_bytes, stream, arguments)))

// The same with kThreads threads in each.
#define LBP_LAUNCH_BLOCKS(kernel, blocks, shared_bytes, stream, arguments) \
  LBP_LAUNCH_ROW(kernel, blocks, ::lbp::cuda::kThreads, shared_bytes, stream, arguments)

}  // namespace lbp::cuda
