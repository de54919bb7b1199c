// Products of a few vectors, the lanes, with a block of columns of matrices, added up in registers.
#pragma once

#include "cpu/kernels/simd.h"

namespace lbp::LBP_ISA {

// Lanes multiplied together: one broadcast of each, times two vectors of columns, fill the registers.
constexpr Index kLanes = kVectorRegisters == 32 ? 12 : 6;
constexpr Index kVectors = 2;

// Of the columns that neighbouring factors multiply in one go: half of the first cache.
constexpr Index kWeightBytes = Index(16) << 10;

template <typename T>
constexpr Index kColumns = kVectors * Vector<T>::kSize;

// What is multiplied: [terms] of every lane, and a matrix [terms, kColumns].
template <typename T>
struct Factors {
  const T* lanes;
  const T* weight;
};

// Where the sums of some lanes stand: those of a lane side by side, and whether products are added to what is there.
template <typename T>
struct Sums {
  T* data;
  Index stride;
  bool begun;
};

// sums [kCount, kColumns] += lanes [kCount, terms] weight [terms, kColumns], for several factors in turn; lane i lies
// offsets[i] behind the first. The products are added up first, then to what is there: sums of calls are sums of sums,
// and a call is one rounding for those before (docs/rounding.md counts them).
template <typename T, int kCount>
void accumulate(const Factors<T>* factors, Index number, const Index* offsets, Index terms, const Sums<T>& sums) {
  using V = typename Vector<T>::Type;
  constexpr Index kSize = Vector<T>::kSize;
  V total[kCount][kVectors] = {};
  for (Index n = 0; n < number; ++n) {
    const T* weight = factors[n].weight;
    const T* a[kCount];
#pragma GCC unroll 12
    for (int i = 0; i < kCount; ++i) a[i] = factors[n].lanes + offsets[i];
    for (Index t = 0; t < terms; ++t, weight += kColumns<T>) {
      const V w0 = load_vector(weight), w1 = load_vector(weight + kSize);
#pragma GCC unroll 12
      for (int i = 0; i < kCount; ++i) {
        const V lane = broadcast(a[i][t]);
        total[i][0] = multiply_add(lane, w0, total[i][0]);
        total[i][1] = multiply_add(lane, w1, total[i][1]);
      }
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < kCount; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      T* sum = sums.data + i * sums.stride + v * kSize;
      store_vector(sum, sums.begun ? load_vector(sum) + total[i][v] : total[i][v]);
    }
  }
}

template <typename T, int kCount = int(kLanes)>
void accumulate_lanes(Index count, const Factors<T>* factors, Index number, const Index* offsets, Index terms,
                      const Sums<T>& sums) {
  if constexpr (kCount > 1) {
    if (count < kCount) return accumulate_lanes<T, kCount - 1>(count, factors, number, offsets, terms, sums);
  }
  accumulate<T, kCount>(factors, number, offsets, terms, sums);
}

}  // namespace lbp::LBP_ISA
