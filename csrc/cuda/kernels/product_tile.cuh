// How a block's threads share the tiles of a matrix product: who loads which element, and who adds up which products.
//
// A tile of the left operand is kept as [depth][rows], one of the right operand as [depth][columns], both in shared
// memory. An operand may have two planes: a center and a radius, say.
#pragma once

#include "cuda/kernels/split_tf32.cuh"
#include "cuda/runtime.cuh"
#include "math/interval.h"

namespace lbp::cuda {

// The sums that a product adds up: left right alone, or a second one beside it.
enum class Pairing {
  kSingle,     // left right
  kLeftPair,   // left.first right,  left.second |right|
  kRightPair,  // left right.first,  |left| right.second
};

template <typename T>
struct alignas(2 * sizeof(T)) Pair {
  T first, second;
};

// Of an interval, its radius widened. What is 0, padding say, stays 0: devices do not flush, so nothing of it is lost.
template <typename T>
LBP_DEVICE Pair<T> center_and_radius(T l, T u, const Widening<T>& by) {
  const T center = interval_center(l, u), radius = interval_radius(l, u);
  const bool as_it_is = (by.relative == T(0)) | ((l == T(0)) & (u == T(0)));
  return {center, as_it_is ? radius : widened(center, radius, by)};
}

// Whether a pixel lies in an image; negative numbers are large ones without their sign.
template <typename Size>
LBP_DEVICE bool is_inside(int y, int x, const Size& image) {
  return unsigned(y) < unsigned(image.height) && unsigned(x) < unsigned(image.width);
}

constexpr int kMostDepth = 16;  // of a tile, for which a product keeps what belongs to each step of the depth

// Rows and columns of a block's tile, its depth, and the rows and columns of it that one thread adds up.
template <int kRowsOfTile, int kColumnsOfTile, int kDepthOfTile, int kRowsOfThread, int kColumnsOfThread>
struct TileShape {
  static constexpr int kRows = kRowsOfTile, kColumns = kColumnsOfTile, kDepth = kDepthOfTile;
  static constexpr int kThreadRows = kRowsOfThread, kThreadColumns = kColumnsOfThread;
  static constexpr int kThreads = (kRows / kThreadRows) * (kColumns / kThreadColumns);
  static_assert(kDepth <= kMostDepth, "a product keeps what belongs to each step of the depth");
  // Eight elements more than the tile: the lanes of a fragment of the tensor cores then read 32 banks.
  static constexpr int kRowPitch = kRows + 8, kColumnPitch = kColumns + 8;
};

// Which element of a tile, kSize long and kDepth deep, a thread loads in each of its passes. Consecutive threads take
// what is consecutive in memory: positions along the size, or (8 at a time, a sector of memory) along the depth.
template <int kSize, int kDepth, int kThreads, bool kAlongDepth>
struct TileLoading {
  static constexpr int kPasses = kSize * kDepth / kThreads;
  static constexpr int kStates = kAlongDepth ? 8 * kSize / kThreads : 1;  // different positions of one thread
  static_assert(kSize * kDepth % kThreads == 0, "every thread loads as many elements");
  static_assert(kAlongDepth ? 8 * kSize % kThreads == 0 && kDepth % 8 == 0 : kThreads % kSize == 0,
                "a thread comes back to the same positions");

  LBP_DEVICE static int position(int thread, int pass) {
    const int element = pass * kThreads + thread;
    return kAlongDepth ? element / 8 % kSize : element % kSize;
  }
  LBP_DEVICE static int depth(int thread, int pass) {
    const int element = pass * kThreads + thread;
    return kAlongDepth ? element % 8 + 8 * (element / (8 * kSize)) : element / kSize;
  }
  LBP_DEVICE static int state(int pass) { return pass % kStates; }
};

// kCount numbers from shared memory by 16-byte accesses.
template <int kCount, typename T>
LBP_DEVICE void read_vectors(const T* source, T (&values)[kCount]) {
  constexpr int kLength = 16 / int(sizeof(T));
  static_assert(kCount % kLength == 0, "whole vectors");
  struct alignas(16) Vector {
    T lanes[kLength];
  };
#pragma unroll
  for (int i = 0; i < kCount / kLength; ++i) {
    const Vector vector = *reinterpret_cast<const Vector*>(source + i * kLength);
#pragma unroll
    for (int lane = 0; lane < kLength; ++lane) values[i * kLength + lane] = vector.lanes[lane];
  }
}

LBP_DEVICE float multiply_add(float x, float y, float z) { return ::fmaf(x, y, z); }
LBP_DEVICE double multiply_add(double x, double y, double z) { return ::fma(x, y, z); }

// The sums of a block's tile, with fused multiply-adds; every thread has a rectangle of them.
template <typename T, typename Shape, Pairing kPairing>
struct PlainSums {
  using Tile = Shape;
  static constexpr bool kTwo = kPairing != Pairing::kSingle;
  static constexpr bool kChecksOperands = false;
  // At a time on a multiprocessor: what one of them waits for is hidden behind the products of another.
  static constexpr int kBlocks = sizeof(T) == 4 ? 512 / Shape::kThreads : 1;
  static constexpr int kRows = Shape::kThreadRows, kColumns = Shape::kThreadColumns;
  static constexpr int kAcross = Shape::kColumns / kColumns;  // threads side by side

  T first[kRows][kColumns] = {};
  T second[kTwo ? kRows : 1][kTwo ? kColumns : 1] = {};

  LBP_DEVICE void add_tile(const T* left, const T* right, int thread, bool) {
    left += thread / kAcross * kRows;
    right += thread % kAcross * kColumns;
    for (int k = 0; k < Shape::kDepth; ++k) {
      T x[kRows], y[kColumns];
      read_vectors(left + k * Shape::kRowPitch, x);
      read_vectors(right + k * Shape::kColumnPitch, y);
      add_products(x, y, first);
      if constexpr (kPairing == Pairing::kLeftPair) {
        T radius[kRows];
        read_vectors(left + (Shape::kDepth + k) * Shape::kRowPitch, radius);
        take_magnitudes(y);
        add_products(radius, y, second);
      } else if constexpr (kPairing == Pairing::kRightPair) {
        T radius[kColumns];
        read_vectors(right + (Shape::kDepth + k) * Shape::kColumnPitch, radius);
        take_magnitudes(x);
        add_products(x, radius, second);
      }
    }
  }

  // Calls body(row, for_each_column) for every row that this thread has sums of; for_each_column(store) then calls
  // store(column, first, second) for each of them.
  template <typename Body>
  LBP_DEVICE void for_each_row(int thread, const Body& body) const {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      body(thread / kAcross * kRows + i, [&](const auto& store) {
#pragma unroll
        for (int j = 0; j < kColumns; ++j) {
          store(thread % kAcross * kColumns + j, first[i][j], kTwo ? second[kTwo ? i : 0][kTwo ? j : 0] : T(0));
        }
      });
    }
  }

 private:
  LBP_DEVICE static void add_products(const T (&x)[kRows], const T (&y)[kColumns], T (&sums)[kRows][kColumns]) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int j = 0; j < kColumns; ++j) sums[i][j] = multiply_add(x[i], y[j], sums[i][j]);
    }
  }

  template <int kCount>
  LBP_DEVICE static void take_magnitudes(T (&values)[kCount]) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) values[i] = absolute(values[i]);
  }
};

// The same sums on tensor cores, by splitting operands. A tile's sums start from zero and are added to the totals in
// float32: tensor cores cut sums off instead of rounding them, and over a long depth that would drift.
template <typename Shape, Pairing kPairing>
struct SplitSums {
  using Tile = Shape;
  static constexpr bool kTwo = kPairing != Pairing::kSingle;
  static constexpr bool kChecksOperands = true;
  static constexpr int kBlocks = 1;
  static constexpr int kWarpRows = 32,
                       kWarpColumns = Shape::kRows * Shape::kColumns / Shape::kThreads;  // of one warp
  static constexpr int kAcross = Shape::kColumns / kWarpColumns;
  static constexpr int kHigh = kWarpRows / 16,
                       kWide = kWarpColumns / 8;  // fragments of a warp
  static_assert(kWarpColumns % 8 == 0 && Shape::kThreads == 32 * (Shape::kRows / kWarpRows) * kAcross,
                "every warp has its own part of the tile");

  float first[kHigh][kWide][4] = {};
  float second[kTwo ? kHigh : 1][kTwo ? kWide : 1][4] = {};

  // `regular`: every operand of the tile may be split; otherwise, and on devices without such products, the sums are
  // those of plain float32.
  LBP_DEVICE void add_tile(const float* left, const float* right, int thread, bool regular) {
    if (!kHasTf32 || !regular) return add_plain_tile(left, right, thread);
    add_products<false, false>(left, right, thread, first);
    // One after the other: the fragments of both would not fit into the registers.
    if constexpr (kPairing == Pairing::kLeftPair) {
      add_products<false, true>(left + Shape::kDepth * Shape::kRowPitch, right, thread, second);
    } else if constexpr (kPairing == Pairing::kRightPair) {
      add_products<true, false>(left, right + Shape::kDepth * Shape::kColumnPitch, thread, second);
    }
  }

  // As for plain sums; a fragment has two columns of each of two rows.
  template <typename Body>
  LBP_DEVICE void for_each_row(int thread, const Body& body) const {
#pragma unroll
    for (int i = 0; i < 2 * kHigh; ++i) {
      body(row(thread, i / 2, i % 2 * 2), [&](const auto& store) {
#pragma unroll
        for (int j = 0; j < 2 * kWide; ++j) {
          const int c = i % 2 * 2 + j % 2;
          store(column(thread, j / 2, c), first[i / 2][j / 2][c],
                kTwo ? second[kTwo ? i / 2 : 0][kTwo ? j / 2 : 0][c] : 0.0f);
        }
      });
    }
  }

 private:
  LBP_DEVICE static int warp_row(int thread) { return thread / 32 / kAcross * kWarpRows; }
  LBP_DEVICE static int warp_column(int thread) { return thread / 32 % kAcross * kWarpColumns; }
  LBP_DEVICE static int row(int thread, int i, int c) {
    return warp_row(thread) + 16 * i + thread % 32 / 4 + c / 2 * 8;
  }
  LBP_DEVICE static int column(int thread, int j, int c) {
    return warp_column(thread) + 8 * j + 2 * (thread % 4) + c % 2;
  }

  template <bool kLeftMagnitude, bool kRightMagnitude>
  LBP_DEVICE static void add_products(const float* left, const float* right, int thread,
                                      float (&sums)[kHigh][kWide][4]) {
    constexpr int kSteps = Shape::kDepth / 8;
    const int g = thread % 32 / 4, t = thread % 4;
    const float* rows = left + warp_row(thread) + g + t * Shape::kRowPitch;
    const float* columns = right + warp_column(thread) + g + t * Shape::kColumnPitch;
#pragma unroll
    for (int i = 0; i < kHigh; ++i) {
      SplitFloat x[kSteps][4];
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
#pragma unroll
        for (int part = 0; part < 4; ++part) {
          const int k = 8 * step + part / 2 * 4, row = 16 * i + part % 2 * 8;
          x[step][part] = split<kLeftMagnitude>(rows[k * Shape::kRowPitch + row]);
        }
      }
#pragma unroll
      for (int j = 0; j < kWide; ++j) {
        float high[4] = {}, low[4] = {};
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
          const float* source = columns + 8 * step * Shape::kColumnPitch + 8 * j;
          const SplitFloat y[2] = {split<kRightMagnitude>(source[0]),
                                   split<kRightMagnitude>(source[4 * Shape::kColumnPitch])};
          multiply_split(high, low, x[step], y);
        }
#pragma unroll
        for (int c = 0; c < 4; ++c) sums[i][j][c] += high[c] + low[c];
      }
    }
  }

  LBP_DEVICE void add_plain_tile(const float* left, const float* right, int thread) {
    constexpr int kLeftPlane = Shape::kDepth * Shape::kRowPitch, kRightPlane = Shape::kDepth * Shape::kColumnPitch;
    for (int k = 0; k < Shape::kDepth; ++k) {
      const float* rows = left + k * Shape::kRowPitch;
      const float* columns = right + k * Shape::kColumnPitch;
#pragma unroll
      for (int i = 0; i < kHigh; ++i) {
#pragma unroll
        for (int j = 0; j < kWide; ++j) {
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            const float x = rows[row(thread, i, c)], y = columns[column(thread, j, c)];
            first[i][j][c] = multiply_add(x, y, first[i][j][c]);
            if constexpr (kPairing == Pairing::kLeftPair) {
              second[i][j][c] = multiply_add(rows[kLeftPlane + row(thread, i, c)], absolute(y), second[i][j][c]);
            } else if constexpr (kPairing == Pairing::kRightPair) {
              second[i][j][c] = multiply_add(absolute(x), columns[kRightPlane + column(thread, j, c)], second[i][j][c]);
            }
          }
        }
      }
    }
  }
};

}  // namespace lbp::cuda
