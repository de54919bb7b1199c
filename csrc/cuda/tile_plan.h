// How products of tile_product.cuh are cut into blocks, and their launch.
#pragma once

#include <type_traits>

#include "cuda/grid.h"
#include "cuda/kernels/tile_product.cuh"
#include "product_arguments.h"

namespace lbp::cuda {

// Multiprocessors of an H100, over which blocks are spread; a constant, so that results are the same on every device.
constexpr Index kMultiprocessors = 132;
// So many blocks have sums of their own where the depth is split.
constexpr Index kMostSplitBlocks = 4 * kMultiprocessors;
// A sum whose parts have a longest length has no more parts than that length asks for, or so many: p parts of d terms
// round d + p - 1 times, and whoever bounds that counts so many parts (docs/rounding.md, section 12).
constexpr Index kMostCountedParts = 264;
// A product less deep is one launch.
constexpr Index kLeastDepthToSplit = 256;

// A sum that may be one chain of multiply-adds as long as a block can count.
constexpr Index kAnyLength = Index(1) << 30;

// Tiles. Tall ones reuse what they read most; flat ones serve products of few rows (a specification, a small batch),
// whose cost is reading the other operand; narrow ones products of few columns (the channels of an image, or of one of
// many groups); square ones are for two sums on tensor cores, and for float64, where a tall tile would take more
// registers than there are. A thread's sums read as many numbers of each operand from shared memory as they have rows
// and columns, rows of a left pair twice. With 8 x 8 of them it reads the least for a multiply-add, but half as many
// threads keep a multiprocessor busy only where there are several blocks for each; and what lies along the depth they
// would read with gaps between them.
template <typename T>
struct Tiles;

// Tall tiles from which three blocks and more are at work on each multiprocessor most of the time.
constexpr Index kManyTiles = 6 * kMultiprocessors;

template <>
struct Tiles<float> {
  using Tall = TileShape<128, 64, 8, 8, 4>;
  using TallOfLeftPair = TileShape<128, 64, 8, 4, 8>;
  using TallOfManyBlocks = TileShape<128, 64, 8, 8, 8, 4, 3>;
  using Flat = TileShape<32, 128, 8, 4, 4>;
  using Narrow = TileShape<128, 16, 8, 4, 4>;
  // On tensor cores.
  using SplitTall = TileShape<128, 64, 16, 8, 4, 8>;
  using SplitSquare = TileShape<64, 64, 16, 4, 4, 8>;
  using SplitFlat = TileShape<32, 128, 16, 4, 4, 8>;
};

template <>
struct Tiles<double> {
  using Tall = TileShape<64, 64, 8, 4, 4>;
  using Flat = TileShape<32, 128, 8, 4, 4>;
};

template <typename Sums>
struct Kind {
  using Type = Sums;
};

// Tiles of a product, without those of batches that have no depth.
template <typename Shape, typename Product>
Index filled_tiles(const Product& product) {
  return product.filled * quotient_up(product.rows, Shape::kRows) * quotient_up(product.columns, Shape::kColumns);
}

// Calls body with the sums (a Kind) for a product. Where rows are pixels, there are always many.
template <typename Product, typename Body>
auto with_sums(const Product& product, Arithmetic arithmetic, const Body& body) {
  using T = typename Product::Scalar;
  using Tall = typename Tiles<T>::Tall;
  using Flat = typename Tiles<T>::Flat;
  constexpr Pairing kPairing = Product::kPairing;
  const bool flat = product.rows <= Flat::kRows;
  if constexpr (std::is_same_v<T, float>) {
    if (arithmetic == Arithmetic::kSplit) {
      using Split = Tiles<float>;
      using Large = std::conditional_t<kPairing == Pairing::kSingle, Split::SplitTall, Split::SplitSquare>;
      if constexpr (Product::kFewRows) {
        if (flat) return body(Kind<SplitSums<Split::SplitFlat, kPairing>>());
      }
      return body(Kind<SplitSums<Large, kPairing>>());
    }
  }
  if constexpr (Product::kFewRows) {
    if (flat) return body(Kind<PlainSums<T, Flat, kPairing>>());
  }
  if constexpr (Product::kFewColumns && std::is_same_v<T, float>) {
    using Narrow = Tiles<float>::Narrow;
    if (product.columns <= Narrow::kColumns) return body(Kind<PlainSums<T, Narrow, kPairing>>());
  }
  if constexpr (std::is_same_v<T, float> && kPairing == Pairing::kLeftPair) {
    return body(Kind<PlainSums<T, Tiles<float>::TallOfLeftPair, kPairing>>());
  } else {
    if constexpr (std::is_same_v<T, float> && kPairing == Pairing::kSingle && !Product::kLeftAlongDepth) {
      using Many = Tiles<float>::TallOfManyBlocks;
      if (filled_tiles<Many>(product) >= kManyTiles) return body(Kind<PlainSums<T, Many, kPairing>>());
    }
    return body(Kind<PlainSums<T, Tall, kPairing>>());
  }
}

// Into how many parts the depth of a product is split, at least `least` and else at most `most`: of `blocks` blocks
// that go through `steps` tiles of it, and add up `sums` numbers together. Costs are counted in steps, about a
// microsecond on an H100. Tall tiles keep a multiprocessor busy, so that two blocks on one take as long as one after
// the other; smaller ones wait for memory, and run as many at a time as there is room for.
template <typename Shape>
Index best_splits(Index blocks, Index steps, Index least, Index most, Index sums) {
  constexpr bool kTall = Shape::kRows * Shape::kColumns >= 128 * 64;
  constexpr Index kAtATime = kMultiprocessors * (kTall ? 1 : 512 / Shape::kThreads);
  constexpr Index kAroundSteps = 3;       // what a block does before and after, in steps
  constexpr Index kSecondLaunch = 4;      // which adds the parts up
  constexpr Index kSumsInStep = 1 << 19;  // that are written, and read again
  Index chosen = least, least_cost = 0;
  for (Index splits = least; splits == least || (splits * blocks <= kMostSplitBlocks && splits <= most); ++splits) {
    const Index of_block = quotient_up(steps, splits) + kAroundSteps;
    const Index adding_up = splits == 1 ? 0 : kSecondLaunch + splits * sums / kSumsInStep;
    const Index cost = quotient_up(blocks * splits, kAtATime) * of_block + adding_up;
    if (splits > least && cost >= least_cost) continue;
    chosen = splits;
    least_cost = cost;
  }
  return chosen;
}

template <typename Shape, typename Product>
TilePlan<typename Product::Scalar> plan_tiles(const Product& product, Index longest_part, void* workspace) {
  using T = typename Product::Scalar;
  TilePlan<T> plan = {quotient_up(product.rows, Shape::kRows),
                      quotient_up(product.columns, Shape::kColumns),
                      1,
                      quotient_up(product.depth, Shape::kDepth) * Shape::kDepth,
                      nullptr,
                      nullptr};
  constexpr Index kProducts = Product::kPairing == Pairing::kSingle ? 1 : 2;
  const Index blocks = product.batches * plan.row_tiles * plan.column_tiles;
  const Index least = product.depth > longest_part ? quotient_up(product.depth, longest_part) : 1;
  Index splits = least;
  if (blocks > 0 && product.depth >= kLeastDepthToSplit) {
    const Index steps = quotient_up(product.depth, Shape::kDepth);
    const Index most = longest_part < kAnyLength ? larger(least, smaller(steps, kMostCountedParts)) : steps;
    splits =
        best_splits<Shape>(blocks, steps, least, most, kProducts * product.batches * product.rows * product.columns);
  }
  if (splits > 1) {
    plan.split_depth = quotient_up(quotient_up(product.depth, splits), Shape::kDepth) * Shape::kDepth;
    plan.splits = int(quotient_up(product.depth, plan.split_depth));
  }
  if (Product::kConstants && plan.column_tiles == 0) plan.column_tiles = 1;  // no columns have constants, too
  const Index constants = Product::kConstants ? plan.splits * product.batches * product.rows : 0;
  plan.constants = static_cast<double*>(workspace);
  plan.sums = reinterpret_cast<T*>(plan.constants + constants);
  return plan;
}

template <typename Product>
Index tiles_workspace_bytes(const Product& product, Arithmetic arithmetic, Index longest_part = kAnyLength) {
  return with_sums(product, arithmetic, [&](auto kind) -> Index {
    const auto plan = plan_tiles<typename decltype(kind)::Type::Tile>(product, longest_part, nullptr);
    if (plan.splits == 1) return 0;
    constexpr Index kProducts = Product::kPairing == Pairing::kSingle ? 1 : 2;
    constexpr Index kConstantBytes = Product::kConstants ? sizeof(double) : 0;
    const Index parts = plan.splits * product.batches * product.rows;
    return parts * (kConstantBytes + kProducts * product.columns * Index(sizeof(typename Product::Scalar)));
  });
}

template <typename Product>
Status launch_tiles(const Product& product, Arithmetic arithmetic, void* workspace, Stream stream,
                    Index longest_part = kAnyLength) {
  return with_sums(product, arithmetic, [&](auto kind) -> Status {
    using Sums = typename decltype(kind)::Type;
    using Shape = typename Sums::Tile;
    const TileArguments<Product> args = {product, plan_tiles<Shape>(product, longest_part, workspace)};
    const Index blocks = product.batches * args.plan.splits * args.plan.row_tiles * args.plan.column_tiles;
    LBP_RETURN_IF_FAILED(
        LBP_LAUNCH_ROW((tile_product_kernel<Product, Sums>), blocks, Shape::kThreads, 0, stream, args));
    if (args.plan.splits == 1) return kSuccess;
    const Index finishing = quotient_up(product.batches * product.rows * product.columns, kThreads);
    return LBP_LAUNCH_BLOCKS((finish_product_kernel<Product>), finishing, 0, stream, args);
  });
}

}  // namespace lbp::cuda
