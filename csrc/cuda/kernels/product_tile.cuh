// How a block's threads share the tiles of a matrix product: who loads which element, and who adds up which products.
//
// A tile of the left operand is kept as [depth][rows], one of the right operand as [depth][columns], both in shared
// memory. An operand may have two planes: a center and a radius, say.
#pragma once

#include "cuda/kernels/split_tf32.cuh"
#include "cuda/kernels/tile.cuh"
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

template <typename T>
LBP_DEVICE Pair<T> read_pair(const Pair<T>* address) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(T) == 4) {
    const float2 loaded = __ldg(reinterpret_cast<const float2*>(address));
    return {loaded.x, loaded.y};
  } else {
    const double2 loaded = __ldg(reinterpret_cast<const double2*>(address));
    return {loaded.x, loaded.y};
  }
#else
  return *address;
#endif
}

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
  return (unsigned(y) < unsigned(image.height)) & (unsigned(x) < unsigned(image.width));
}

// A row or an entry of a kernel that lies outside of every image, wherever the other is.
constexpr int kOutside = -(1 << 30);

constexpr int kStageDepth = 32;  // of a few tiles, for which a block keeps what belongs to each step of the depth

// Rows and columns of a block's tile, its depth, and the rows and columns of it that one thread adds up. Between the
// steps of the depth lie kSpare numbers more: with 4, lanes that store neighbours along the depth reach 32 banks; with
// 8, those that read a fragment of the tensor cores. Blocks at a time: as many as have 512 threads unless given.
template <int kRowsOfTile, int kColumnsOfTile, int kDepthOfTile, int kRowsOfThread, int kColumnsOfThread,
          int kSpare = 4, int kBlocksAtATime = 0>
struct TileShape {
  static constexpr int kRows = kRowsOfTile, kColumns = kColumnsOfTile, kDepth = kDepthOfTile;
  static constexpr int kThreadRows = kRowsOfThread, kThreadColumns = kColumnsOfThread;
  static constexpr int kThreads = (kRows / kThreadRows) * (kColumns / kThreadColumns);
  // On a multiprocessor: what one of them waits for is hidden behind the products of another.
  static constexpr int kBlocks = kBlocksAtATime != 0 ? kBlocksAtATime : 512 / kThreads;
  static constexpr int kTilesOfStage = kStageDepth / kDepth;
  static_assert(kStageDepth % kDepth == 0 && kTilesOfStage >= 2, "a stage is ready before its first tile is loaded");
  static constexpr int kRowPitch = kRows + kSpare, kColumnPitch = kColumns + kSpare;
};

// Which elements of a tile, kSize long and kDepth deep, a thread loads: all for one position. Consecutive threads take
// what is consecutive in memory: kCount neighbours each along the depth, in one load, or positions along the size.
template <int kSize, int kDepth, int kThreads, bool kAlongDepth>
struct TileLoading {
  static constexpr int kElements = kSize * kDepth / kThreads;
  static constexpr int kCount = kAlongDepth ? kElements : 1;
  static constexpr int kLoads = kElements / kCount;
  static constexpr int kSharing = kDepth / kElements;  // neighbouring threads that have the same position
  static_assert(kSize * kDepth % kThreads == 0, "every thread loads as many elements");
  static_assert(kAlongDepth ? kDepth % kElements == 0 : kThreads % kSize == 0, "a thread has one position");

  LBP_DEVICE static int position(int thread) { return kAlongDepth ? thread / kSharing : thread % kSize; }
  LBP_DEVICE static int depth(int thread, int load) {
    return kAlongDepth ? thread % kSharing * kElements : load * (kThreads / kSize) + thread / kSize;
  }
};

// The first of the steps of the depth that a load brings: in its stage, counted from the block's first one, and how
// many there are from there on, none perhaps.
struct Step {
  int k;
  int depth;
  int count;
};

// kCount neighbours in memory, of which `count` exist; the others are zeros.
template <int kCount, typename T>
LBP_DEVICE void read_neighbours(const T* source, int count, T (&values)[kCount]) {
  constexpr int kLength = kCount < kOwn<T> ? kCount : kOwn<T>;
  static_assert(kCount % kLength == 0, "whole vectors");
  if (count < kCount || reinterpret_cast<unsigned long long>(source) % (kLength * sizeof(T)) != 0) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) values[i] = i < count ? read(source + i) : T(0);
    return;
  }
#pragma unroll
  for (int i = 0; i < kCount; i += kLength) {
    if constexpr (kLength == kOwn<T>) {
      const Pack<T> pack = read_pack(source + i);
#pragma unroll
      for (int lane = 0; lane < kLength; ++lane) values[i + lane] = pack[lane];
    } else if constexpr (kLength == 2) {
      const Pair<T> pair = read_pair(reinterpret_cast<const Pair<T>*>(source + i));
      values[i] = pair.first;
      values[i + 1] = pair.second;
    } else {
      values[i] = read(source + i);
    }
  }
}

// A step's numbers in a row that lies along the depth; zeros where the row is null.
template <int kCount, typename T>
LBP_DEVICE void load_row(const T* row, const Step& step, T (&values)[kCount]) {
  if (row != nullptr) return read_neighbours(row + step.depth, step.count, values);
#pragma unroll
  for (int i = 0; i < kCount; ++i) values[i] = T(0);
}

template <int kCount, typename T>
LBP_DEVICE void load_rows(const T* first, const T* second, const Step& step, Pair<T> (&values)[kCount]) {
  T firsts[kCount], seconds[kCount];
  load_row(first, step, firsts);
  load_row(second, step, seconds);
#pragma unroll
  for (int i = 0; i < kCount; ++i) values[i] = {firsts[i], seconds[i]};
}

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
  static constexpr int kBlocks = Shape::kBlocks;
  static constexpr int kRows = Shape::kThreadRows, kColumns = Shape::kThreadColumns;
  static constexpr int kAcross = Shape::kColumns / kColumns;  // threads side by side
  // A thread's columns are vectors of kVector neighbours, kStride apart, so that threads side by side read neighbours.
  static constexpr int kVector = 4, kVectors = kColumns / kVector, kStride = kAcross * kVector;
  // Steps of the depth whose order the compiler chooses: all of a tile, but where it would read so far ahead that sums
  // were pushed out of their registers.
  static constexpr bool kManySums = kRows * kColumns * (kTwo ? 2 : 1) * sizeof(T) > 128;
  static constexpr int kUnrolled = kManySums && kPairing == Pairing::kRightPair ? 2 : Shape::kDepth;

  T first[kRows][kColumns] = {};
  T second[kTwo ? kRows : 1][kTwo ? kColumns : 1] = {};

  LBP_DEVICE void add_tile(const T* left, const T* right, int thread, bool) {
    left += thread / kAcross * kRows;
    right += thread % kAcross * kVector;
#pragma unroll kUnrolled
    for (int k = 0; k < Shape::kDepth; ++k) {
      T y[kVectors][kVector], radius[kVectors][kVector];
      read_columns(right + k * Shape::kColumnPitch, y);
      if constexpr (kPairing == Pairing::kRightPair) {
        read_columns(right + (Shape::kDepth + k) * Shape::kColumnPitch, radius);
      }
#pragma unroll
      for (int row = 0; row < kRows; row += 4) {
        T x[4];
        read_vectors(left + k * Shape::kRowPitch + row, x);
        add_products<false, false>(x, y, &first[row]);
        if constexpr (kPairing == Pairing::kRightPair) add_products<true, false>(x, radius, &second[row]);
        if constexpr (kPairing == Pairing::kLeftPair) {
          read_vectors(left + (Shape::kDepth + k) * Shape::kRowPitch + row, x);
          add_products<false, true>(x, y, &second[row]);
        }
      }
    }
  }

  // Calls body(row, for_each_column) for every row that this thread has sums of, or the first of every pack of rows;
  // for_each_column(store) then calls store(column, first, second) for each of them, numbers or packs.
  template <typename Body>
  LBP_DEVICE void for_each_pack(int thread, const Body& body) const {
    static_assert(kRows % kOwn<T> == 0, "whole packs");
#pragma unroll
    for (int i = 0; i < kRows; i += kOwn<T>) {
      body(thread / kAcross * kRows + i, [&](const auto& store) {
#pragma unroll
        for (int j = 0; j < kColumns; ++j) {
          Pack<T> firsts, seconds;
#pragma unroll
          for (int k = 0; k < kOwn<T>; ++k) {
            firsts[k] = first[i + k][j];
            seconds[k] = kTwo ? second[kTwo ? i + k : 0][kTwo ? j : 0] : T(0);
          }
          store(column(thread, j), firsts, seconds);
        }
      });
    }
  }
  template <typename Body>
  LBP_DEVICE void for_each_row(int thread, const Body& body) const {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      body(thread / kAcross * kRows + i, [&](const auto& store) {
#pragma unroll
        for (int j = 0; j < kColumns; ++j) {
          store(column(thread, j), first[i][j], kTwo ? second[kTwo ? i : 0][kTwo ? j : 0] : T(0));
        }
      });
    }
  }

 private:
  LBP_DEVICE static int column(int thread, int j) {
    return j / kVector * kStride + thread % kAcross * kVector + j % kVector;
  }

  LBP_DEVICE static void read_columns(const T* source, T (&values)[kVectors][kVector]) {
#pragma unroll
    for (int i = 0; i < kVectors; ++i) read_vectors(source + i * kStride, values[i]);
  }

  template <bool kLeftMagnitude, bool kRightMagnitude>
  LBP_DEVICE static void add_products(const T (&x)[4], const T (&y)[kVectors][kVector], T (*sums)[kColumns]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        const T factor = y[j / kVector][j % kVector];
        sums[i][j] = multiply_add(kLeftMagnitude ? absolute(x[i]) : x[i], kRightMagnitude ? absolute(factor) : factor,
                                  sums[i][j]);
      }
    }
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
