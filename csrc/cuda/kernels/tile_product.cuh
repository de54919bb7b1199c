// Matrix products whose operands are computed while they are loaded: the kernel behind every affine step. What is
// multiplied, and where the sums go, is a Product (affine_linear.cuh and its neighbours), a struct with
//
//   Scalar, kPairing                    float or double; which sums (Pairing)
//   kLeftAlongDepth, kRightAlongDepth   whether consecutive depths of an operand lie side by side in memory
//   kConstants                          whether rows have a constant, a float64 sum over the depth
//   kFewRows, kFewColumns               whether there may be so few of them that flat, or narrow tiles pay
//   kRowsInPacks                        whether sums below one another may lie side by side in memory
//   Stage                               what a block computes once for kStageDepth depths, in shared memory
//   batches                             independent products of up to `rows` x `columns`, `depth` deep
//   View view(Index batch) const        one of them:
//
//     rows, columns, depth              its own size
//     LeftState left(Index row, Index begin) const   where a row of the left operand is, from a depth on; of columns
//     RightState right(Index column, Index begin) const
//     void prepare(Stage&, Index begin, int thread, int threads) const
//     void load_left(LeftState, Stage, Step, LeftLoad (&loads)[kCount]) const            reads memory
//     Pair<T> left_values(LeftLoad, LeftState, Stage, int k, double& constant) const     what is multiplied
//     void load_right(RightState, Stage, Step, Pair<T> (&loads)[kCount]) const
//     OutputRow output(Index row) const                                                  where sums of a row go:
//       void store(Index column, T first, T second) const, also of Pack<T> where has_rows_in_packs()
//     void store_constant(Index row, double constant) const
//
// A load brings kCount steps of the depth, one where they do not lie side by side. States of rows and columns outside
// the product, and depths outside it, load zeros.
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

// Writes a thread's sums of a block's tile where the product wants them, or with several splits to the workspace.
template <typename Product, typename View, typename Sums>
LBP_DEVICE void store_sums(const TileArguments<Product>& args, const View& view, const Sums& sums, int thread,
                           Index row_begin, Index column_begin, Index part) {
  using T = typename Product::Scalar;
  constexpr int kProducts = Product::kPairing == Pairing::kSingle ? 1 : 2;
  const auto put = [&](int own_row, const auto& for_each_column) {
    const Index row = row_begin + own_row;
    if (row >= view.rows) return;
    const auto output = view.output(row);
    for_each_column([&](int own_column, const auto& first, const auto& second) {
      const Index column = column_begin + own_column;
      if (column < view.columns) output.store(column, first, second);
    });
  };
  const auto put_part = [&](int own_row, const auto& for_each_column) {
    const Index row = row_begin + own_row, size = args.product.rows * args.product.columns;
    if (row >= view.rows) return;
    T* const target = args.plan.sums + part * kProducts * size + row * args.product.columns;
    for_each_column([&](int own_column, T first, T second) {
      const Index column = column_begin + own_column;
      if (column >= view.columns) return;
      target[column] = first;
      if constexpr (kProducts == 2) target[size + column] = second;
    });
  };
  if (args.plan.splits > 1) return sums.for_each_row(thread, put_part);
  if constexpr (Product::kRowsInPacks && !Sums::kChecksOperands) {
    if (view.has_rows_in_packs()) return sums.for_each_pack(thread, put);
  }
  sums.for_each_row(thread, put);
}

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
  // One tile is multiplied while the next is stored; a stage is computed while the tiles of another are loaded.
  LBP_SHARED(T, left, 2 * kLeftPlanes * kLeftPlane);
  LBP_SHARED(T, right, 2 * kRightPlanes * kRightPlane);
  LBP_SHARED(typename Product::Stage, stages, 2);
  LBP_SHARED(int, irregular, 3);

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
  const int part_depth = end <= begin ? 0 : int(end - begin), tiles = (part_depth + Shape::kDepth - 1) / Shape::kDepth;
  const bool constants_wanted = Product::kConstants && column_begin == 0;

  const int row_of_tile = LeftLoading::position(thread), column_of_tile = RightLoading::position(thread);
  const typename Product::LeftState row_state = view.left(row_begin + row_of_tile, begin);
  const typename Product::RightState column_state = view.right(column_begin + column_of_tile, begin);
  typename Product::LeftLoad left_loads[LeftLoading::kLoads][LeftLoading::kCount];
  Pair<T> right_loads[RightLoading::kLoads][RightLoading::kCount];
  double constant = 0;
  Sums sums;

  const auto prepare = [&](int stage) {
    const int turn = (thread + stage * kStageDepth) % Shape::kThreads;  // each time another warp's
    view.prepare(stages[stage % 2], begin + Index(stage) * kStageDepth, turn, Shape::kThreads);
  };
  const auto load = [&](int tile) {
    const typename Product::Stage& stage = stages[tile / Shape::kTilesOfStage % 2];
    const int before = tile % Shape::kTilesOfStage * Shape::kDepth;
    const int depth = tile * Shape::kDepth, count = smaller(part_depth - depth, Shape::kDepth);
#pragma unroll
    for (int i = 0; i < LeftLoading::kLoads; ++i) {
      const int k = LeftLoading::depth(thread, i);
      view.load_left(row_state, stage, Step{before + k, depth + k, count - k}, left_loads[i]);
    }
#pragma unroll
    for (int i = 0; i < RightLoading::kLoads; ++i) {
      const int k = RightLoading::depth(thread, i);
      view.load_right(column_state, stage, Step{before + k, depth + k, count - k}, right_loads[i]);
    }
  };
  const auto store = [&](int tile) {
    const typename Product::Stage& stage = stages[tile / Shape::kTilesOfStage % 2];
    const int before = tile % Shape::kTilesOfStage * Shape::kDepth;
    bool regular = true;
    const auto put = [&](T value, T* target) {
      *target = value;
      if constexpr (Sums::kChecksOperands) regular = regular & may_split(value);
    };
    T* const left_column = left + tile % 2 * kLeftPlanes * kLeftPlane + row_of_tile;
#pragma unroll
    for (int i = 0; i < LeftLoading::kLoads; ++i) {
#pragma unroll
      for (int j = 0; j < LeftLoading::kCount; ++j) {
        const int k = LeftLoading::depth(thread, i) + j;
        double of_this = 0;
        const Pair<T> values = view.left_values(left_loads[i][j], row_state, stage, before + k, of_this);
        if (constants_wanted) constant += of_this;
        put(values.first, left_column + k * Shape::kRowPitch);
        if constexpr (kLeftPlanes == 2) put(values.second, left_column + kLeftPlane + k * Shape::kRowPitch);
      }
    }
    T* const right_column = right + tile % 2 * kRightPlanes * kRightPlane + column_of_tile;
#pragma unroll
    for (int i = 0; i < RightLoading::kLoads; ++i) {
#pragma unroll
      for (int j = 0; j < RightLoading::kCount; ++j) {
        const int k = RightLoading::depth(thread, i) + j;
        put(right_loads[i][j].first, right_column + k * Shape::kColumnPitch);
        if constexpr (kRightPlanes == 2) {
          put(right_loads[i][j].second, right_column + kRightPlane + k * Shape::kColumnPitch);
        }
      }
    }
    if (Sums::kChecksOperands && !regular) atomicMax(&irregular[tile % 3], 1);
  };

  if (tiles > 0) {
    if (thread < 3) irregular[thread] = 0;
    prepare(0);
    __syncthreads();
    load(0);
    store(0);
    __syncthreads();
  }
  for (int tile = 0; tile < tiles; ++tile) {
    if (tile + 1 < tiles) load(tile + 1);  // arrives while this tile is multiplied
    if (tile % Shape::kTilesOfStage == 0 && tile + Shape::kTilesOfStage < tiles) {
      prepare(tile / Shape::kTilesOfStage + 1);
    }
    if (Sums::kChecksOperands && thread == 0) irregular[(tile + 2) % 3] = 0;
    sums.add_tile(left + tile % 2 * kLeftPlanes * kLeftPlane, right + tile % 2 * kRightPlanes * kRightPlane, thread,
                  irregular[tile % 3] == 0);
    if (tile + 1 < tiles) store(tile + 1);
    __syncthreads();
  }

  const Index part = split * args.product.batches + batch;
  store_sums(args, view, sums, thread, row_begin, column_begin, part);
  if constexpr (Product::kConstants) {
    static_assert(Product::kLeftAlongDepth, "neighbouring lanes share a row");
    if (!constants_wanted) return;
#pragma unroll
    for (int step = LeftLoading::kSharing / 2; step > 0; step /= 2) {
      constant += __shfl_xor_sync(0xffffffffu, constant, step);
    }
    const Index row = row_begin + row_of_tile;
    if (thread % LeftLoading::kSharing != 0 || row >= view.rows) return;
    if (plan.splits == 1) {
      view.store_constant(row, constant);
    } else {
      plan.constants[part * args.product.rows + row] = constant;
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
#pragma unroll 8
  for (int split = 0; split < args.plan.splits; ++split) {
    const Index part = split * product.batches + batch;
    for (int i = 0; i < kProducts; ++i)
      sums[i] += read(args.plan.sums + (part * kProducts + i) * size + row * product.columns + column);
    if (Product::kConstants && column == 0) constant += read(args.plan.constants + part * product.rows + row);
  }
  view.output(row).store(column, sums[0], sums[kProducts - 1]);
  if constexpr (Product::kConstants) {
    if (column == 0) view.store_constant(row, constant);
  }
}

}  // namespace lbp::cuda
