// Products of a few vectors, the lanes, with a block of columns of matrices, added up in registers.
#pragma once

#include "cpu/kernels/simd.h"
#include "cpu/kernels/tile.h"

namespace lbp::LBP_ISA {

// Lanes multiplied together: one broadcast of each, times two vectors of columns, fill the registers.
constexpr Index kLanes = kVectorRegisters == 32 ? 12 : 6;

// Of the columns that neighbouring factors multiply in one go: half of the first cache.
constexpr Index kWeightBytes = Index(16) << 10;

// Columns of a block, and those of one that is a single vector wide.
template <typename T>
constexpr Index kNarrow = Vector<T>::kSize;
template <typename T>
constexpr Index kColumns = 2 * kNarrow<T>;

// The columns that blocks take of so many: a narrow block is 0.6 of the work of a whole one.
template <typename T>
Index block_columns(Index columns) {
  return 3 * quotient_up(columns, kNarrow<T>) < 5 * quotient_up(columns, kColumns<T>) ? kNarrow<T> : kColumns<T>;
}

// What is multiplied: [terms] of every lane, and a matrix [terms, columns].
template <typename T>
struct Factors {
  const T* lanes;
  const T* weight;
};

// Where the sums of some lanes stand: those of a lane side by side, as many as a block has columns, and whether
// products are added to what is there.
template <typename T>
struct Sums {
  T* data;
  Index stride;
  Index columns;
  bool begun;
};

// sums [kCount, columns] += lanes [kCount, terms] weight [terms, columns], for several factors in turn; lane i lies
// offsets[i] behind the first. The products are added up first, then to what is there: sums of calls are sums of sums,
// and a call is one rounding for those before (docs/rounding.md counts them). The second vector of a narrow block's
// sums is of every other term.
template <typename T, int kCount, bool kWhole>
void accumulate(const Factors<T>* factors, Index number, const Index* offsets, Index terms, const Sums<T>& sums) {
  using V = typename Vector<T>::Type;
  constexpr Index kSize = Vector<T>::kSize, kStep = kWhole ? 1 : 2;
  V total[kCount][2] = {};
  for (Index n = 0; n < number; ++n) {
    const T* weight = factors[n].weight;
    const T* a[kCount];
#pragma GCC unroll 12
    for (int i = 0; i < kCount; ++i) a[i] = factors[n].lanes + offsets[i];
    Index t = 0;
    for (; t + kStep <= terms; t += kStep, weight += kColumns<T>) {
      const V w0 = load_vector(weight), w1 = load_vector(weight + kSize);
#pragma GCC unroll 12
      for (int i = 0; i < kCount; ++i) {
        total[i][0] = multiply_add(broadcast(a[i][t]), w0, total[i][0]);
        total[i][1] = multiply_add(broadcast(a[i][t + kStep - 1]), w1, total[i][1]);
      }
    }
    if (!kWhole && t < terms) {
      const V w = load_vector(weight);
#pragma GCC unroll 12
      for (int i = 0; i < kCount; ++i) total[i][0] = multiply_add(broadcast(a[i][t]), w, total[i][0]);
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < kCount; ++i) {
    T* sum = sums.data + i * sums.stride;
    if constexpr (kWhole) {
      store_vector(sum, sums.begun ? load_vector(sum) + total[i][0] : total[i][0]);
      store_vector(sum + kSize, sums.begun ? load_vector(sum + kSize) + total[i][1] : total[i][1]);
    } else {
      const V both = total[i][0] + total[i][1];
      store_vector(sum, sums.begun ? load_vector(sum) + both : both);
    }
  }
}

template <typename T, int kCount = int(kLanes)>
void accumulate_lanes(Index count, const Factors<T>* factors, Index number, const Index* offsets, Index terms,
                      const Sums<T>& sums) {
  if constexpr (kCount > 1) {
    if (count < kCount) return accumulate_lanes<T, kCount - 1>(count, factors, number, offsets, terms, sums);
  }
  if (sums.columns == kColumns<T>) return accumulate<T, kCount, true>(factors, number, offsets, terms, sums);
  accumulate<T, kCount, false>(factors, number, offsets, terms, sums);
}

}  // namespace lbp::LBP_ISA
