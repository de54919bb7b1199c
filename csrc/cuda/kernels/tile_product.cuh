// Matrix products whose operands are computed while they are loaded: the kernel behind every affine step. What is
// multiplied, and where the sums go, is a Product (affine_linear.cuh and its neighbours), a struct with
//
//   Scalar, kPairing                    float or double; which sums (Pairing)
//   kLeftAlongDepth, kRightAlongDepth   whether consecutive depths of an operand lie side by side in memory
//   kConstants                          whether rows have a constant, a float64 sum over the depth
//   kFewRows, kFewColumns               whether there may be so few of them that flat, or narrow tiles pay
//   Stage                               what a block computes once for a tile's depths, in shared memory
//   batches                             independent products of up to `rows` x `columns`, `depth` deep
//   View view(Index batch) const        one of them:
//
//     rows, columns, depth              its own size
//     LeftState left(Index row) const   where a row of the left operand is; of columns likewise
//     RightState right(Index column) const
//     void prepare(Stage&, Index begin, int depth, Index row_begin, int thread, int threads) const
//     LeftLoad load_left(LeftState, Stage, int k, Index depth) const                     reads memory
//     Pair<T> left_values(LeftLoad, LeftState, Stage, int k, double& constant) const     what is multiplied
//     Pair<T> load_right(RightState, Stage, int k, Index depth) const
//     OutputRow output(Index row) const                                                  where sums of a row go:
//       void store(Index column, T first, T second) const
//     void store_constant(Index row, double constant) const
//
// States of rows and columns outside the product, and depths outside it, load zeros.
#pragma once

#include "cuda/kernels/product_tile.cuh"
#include "cuda/kernels/tile.cuh"

namespace lbp::cuda {

// How a launch cuts a product into blocks. With more than one split, every block adds up a part of the depth only and
// writes to `sums` [splits, batches, kProducts, rows, columns] and `constants` [splits, batches, rows];
// finish_product_kernel adds the parts in their order.
template <typename T>
struct TilePlan {
  Index row_tiles, column_tiles;
  int splits;
  Index split_depth;  // a multiple of the tile's depth
  T* sums;
  double* constants;
};

template <typename Product>
struct TileArguments {
  Product product;
  TilePlan<typename Product::Scalar> plan;
};

template <typename Product, typename Sums>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(Sums::Tile::kThreads, Sums::kBlocks)
    tile_product_kernel(const TileArguments<Product> args) {
  using T = typename Product::Scalar;
  using Shape = typename Sums::Tile;
  using LeftLoading = TileLoading<Shape::kRows, Shape::kDepth, Shape::kThreads, Product::kLeftAlongDepth>;
  using RightLoading = TileLoading<Shape::kColumns, Shape::kDepth, Shape::kThreads, Product::kRightAlongDepth>;
  constexpr int kLeftPlane = Shape::kDepth * Shape::kRowPitch, kRightPlane = Shape::kDepth * Shape::kColumnPitch;
  constexpr int kLeftPlanes = Product::kPairing == Pairing::kLeftPair ? 2 : 1;
  constexpr int kRightPlanes = Product::kPairing == Pairing::kRightPair ? 2 : 1;
  LBP_SHARED(T, left, kLeftPlanes * kLeftPlane);
  LBP_SHARED(T, right, kRightPlanes * kRightPlane);
  // More than one of each: a tile's is written while that of the last one is still read, and what a tile's loads need
  // while the tile before it is loaded.
  LBP_SHARED(typename Product::Stage, stages, 3);
  LBP_SHARED(int, irregular, 2);

  const int thread = int(threadIdx.x);
  const TilePlan<T>& plan = args.plan;
  Index block = blockIdx.x;
  const Index column_begin = block % plan.column_tiles * Shape::kColumns;
  block /= plan.column_tiles;
  const Index row_begin = block % plan.row_tiles * Shape::kRows;
  block /= plan.row_tiles;
  const Index split = block % plan.splits, batch = block / plan.splits;

  const auto view = args.product.view(batch);
  if (row_begin >= view.rows || column_begin > larger(view.columns - 1, Index(0))) return;  // the whole block
  const Index begin = split * plan.split_depth;
  const Index end = view.depth < begin + plan.split_depth ? view.depth : begin + plan.split_depth;
  const int tiles = end <= begin ? 0 : int((end - begin + Shape::kDepth - 1) / Shape::kDepth);
  const bool constants_wanted = Product::kConstants && column_begin == 0;

  typename Product::LeftState rows[LeftLoading::kStates];
  typename Product::RightState columns[RightLoading::kStates];
#pragma unroll
  for (int i = 0; i < LeftLoading::kStates; ++i) rows[i] = view.left(row_begin + LeftLoading::position(thread, i));
#pragma unroll
  for (int i = 0; i < RightLoading::kStates; ++i)
    columns[i] = view.right(column_begin + RightLoading::position(thread, i));

  typename Product::LeftLoad left_loads[LeftLoading::kPasses];
  Pair<T> right_loads[RightLoading::kPasses];
  double constants[LeftLoading::kStates] = {};
  Sums sums;

  const auto prepare = [&](int tile) {
    view.prepare(stages[tile % 3], begin + Index(tile) * Shape::kDepth, Shape::kDepth, row_begin, thread,
                 Shape::kThreads);
  };
  const auto load = [&](int tile) {
    const typename Product::Stage& stage = stages[tile % 3];
    const Index depth = begin + Index(tile) * Shape::kDepth;
#pragma unroll
    for (int i = 0; i < LeftLoading::kPasses; ++i) {
      const int k = LeftLoading::depth(thread, i);
      left_loads[i] = view.load_left(rows[LeftLoading::state(i)], stage, k, depth + k < end ? depth + k : -1);
    }
#pragma unroll
    for (int i = 0; i < RightLoading::kPasses; ++i) {
      const int k = RightLoading::depth(thread, i);
      right_loads[i] = view.load_right(columns[RightLoading::state(i)], stage, k, depth + k < end ? depth + k : -1);
    }
  };

  if (tiles > 0) {
    if (thread < 2) irregular[thread] = 0;
    prepare(0);
    if (tiles > 1) prepare(1);
    __syncthreads();
    load(0);
  }
  for (int tile = 0; tile < tiles; ++tile) {
    bool regular = true;
#pragma unroll
    for (int i = 0; i < LeftLoading::kPasses; ++i) {
      const int k = LeftLoading::depth(thread, i), state = LeftLoading::state(i);
      double constant = 0;
      const Pair<T> values = view.left_values(left_loads[i], rows[state], stages[tile % 3], k, constant);
      if (constants_wanted) constants[state] += constant;
      T* target = left + k * Shape::kRowPitch + LeftLoading::position(thread, i);
      target[0] = values.first;
      if constexpr (kLeftPlanes == 2) target[kLeftPlane] = values.second;
      if constexpr (Sums::kChecksOperands) {
        regular = regular & may_split(values.first);
        if constexpr (kLeftPlanes == 2) regular = regular & may_split(values.second);
      }
    }
#pragma unroll
    for (int i = 0; i < RightLoading::kPasses; ++i) {
      T* target = right + RightLoading::depth(thread, i) * Shape::kColumnPitch + RightLoading::position(thread, i);
      target[0] = right_loads[i].first;
      if constexpr (kRightPlanes == 2) target[kRightPlane] = right_loads[i].second;
      if constexpr (Sums::kChecksOperands) {
        regular = regular & may_split(right_loads[i].first);
        if constexpr (kRightPlanes == 2) regular = regular & may_split(right_loads[i].second);
      }
    }
    if (Sums::kChecksOperands && !regular) atomicMax(&irregular[tile % 2], 1);
    __syncthreads();
    if (tile + 1 < tiles) load(tile + 1);  // arrives while this tile is multiplied
    if (tile + 2 < tiles) prepare(tile + 2);
    sums.add_tile(left, right, thread, irregular[tile % 2] == 0);
    __syncthreads();
    if (thread == 0) irregular[tile % 2] = 0;
  }

  const bool whole = plan.splits == 1;
  const Index part = split * args.product.batches + batch;
  constexpr int kProducts = Product::kPairing == Pairing::kSingle ? 1 : 2;
  sums.for_each_row(thread, [&](int row_of_tile, const auto& for_each_column) {
    const Index row = row_begin + row_of_tile;
    if (row >= view.rows) return;
    if (whole) {
      const auto output = view.output(row);
      for_each_column([&](int column_of_tile, T first, T second) {
        const Index column = column_begin + column_of_tile;
        if (column < view.columns) output.store(column, first, second);
      });
    } else {
      const Index size = args.product.rows * args.product.columns;
      T* const target = plan.sums + part * kProducts * size + row * args.product.columns;
      for_each_column([&](int column_of_tile, T first, T second) {
        const Index column = column_begin + column_of_tile;
        if (column >= view.columns) return;
        target[column] = first;
        if constexpr (kProducts == 2) target[size + column] = second;
      });
    }
  });
  if constexpr (Product::kConstants) {
    static_assert(Product::kLeftAlongDepth, "the eight lanes that share a row add up its constant");
    if (!constants_wanted) return;
#pragma unroll
    for (int i = 0; i < LeftLoading::kStates; ++i) {
#pragma unroll
      for (int step = 4; step > 0; step /= 2) constants[i] += __shfl_xor_sync(0xffffffffu, constants[i], step);
      const Index row = row_begin + LeftLoading::position(thread, i);
      if (thread % 8 != 0 || row >= view.rows) continue;
      if (whole) {
        view.store_constant(row, constants[i]);
      } else {
        plan.constants[part * args.product.rows + row] = constants[i];
      }
    }
  }
}

// One sum of a product for each thread, from the parts of its splits.
template <typename Product>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 1) finish_product_kernel(const TileArguments<Product> args) {
  using T = typename Product::Scalar;
  constexpr int kProducts = Product::kPairing == Pairing::kSingle ? 1 : 2;
  const Product& product = args.product;
  const Index size = product.rows * product.columns, at = Index(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= product.batches * size) return;
  const Index batch = quotient(at, size), rest = at - batch * size;
  const Index row = quotient(rest, product.columns), column = rest - row * product.columns;
  const auto view = product.view(batch);
  if (row >= view.rows || column >= view.columns) return;
  T sums[kProducts] = {};
  double constant = 0;
  for (int split = 0; split < args.plan.splits; ++split) {
    const Index part = split * product.batches + batch;
    for (int i = 0; i < kProducts; ++i)
      sums[i] += args.plan.sums[(part * kProducts + i) * size + row * product.columns + column];
    if (Product::kConstants && column == 0) constant += args.plan.constants[part * product.rows + row];
  }
  view.output(row).store(column, sums[0], sums[kProducts - 1]);
  if constexpr (Product::kConstants) {
    if (column == 0) view.store_constant(row, constant);
  }
}

}  // namespace lbp::cuda
