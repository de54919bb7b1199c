// Transposition of a matrix in memory: in blocks of whole vectors where instructions load parts of one, or of 4x4.
#pragma once

#include <utility>

#include "cpu/kernels/simd.h"
#include "cpu/kernels/tile.h"

namespace lbp::LBP_ISA {

// Numbers of two vectors, those of the second counted from the length of one on.
#if defined(__clang__)
#define LBP_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define LBP_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Order{__VA_ARGS__})
#endif

// to [4, 4] = the transposed from [4, 4].
template <typename T>
void transpose_block(const T* from, Index from_stride, T* to, Index to_stride) {
  typedef T Four __attribute__((vector_size(4 * sizeof(T))));
  typedef T Unaligned __attribute__((vector_size(4 * sizeof(T)), aligned(alignof(T))));
  using Order = decltype(Four{} < Four{});
  const auto load = [&](Index i, Four& value) { value = *reinterpret_cast<const Unaligned*>(from + i * from_stride); };
  const auto store = [&](Index i, const Four& value) { *reinterpret_cast<Unaligned*>(to + i * to_stride) = value; };
  Four a, b, c, d;
  load(0, a);
  load(1, b);
  load(2, c);
  load(3, d);
  const Four low_ab = LBP_SHUFFLE(a, b, 0, 4, 1, 5), high_ab = LBP_SHUFFLE(a, b, 2, 6, 3, 7);
  const Four low_cd = LBP_SHUFFLE(c, d, 0, 4, 1, 5), high_cd = LBP_SHUFFLE(c, d, 2, 6, 3, 7);
  store(0, LBP_SHUFFLE(low_ab, low_cd, 0, 1, 4, 5));
  store(1, LBP_SHUFFLE(low_ab, low_cd, 2, 3, 6, 7));
  store(2, LBP_SHUFFLE(high_ab, high_cd, 0, 1, 4, 5));
  store(3, LBP_SHUFFLE(high_ab, high_cd, 2, 3, 6, 7));
}

#if defined(__AVX512F__)

// Lanes of two vectors in turn, kStep of each: of both those whose number lacks the bit kStep, where kFirst, else those
// that have it.
template <bool kFirst, Index kStep, typename V, typename Order, size_t... kLane>
V interleaved(V a, V b, std::index_sequence<kLane...>) {
  constexpr Index kSize = Index(sizeof...(kLane));
  return LBP_SHUFFLE(
      a, b,
      (Index(kLane) & kStep ? kSize + Index(kLane) - (kFirst ? kStep : 0) : Index(kLane) + (kFirst ? 0 : kStep))...);
}

// Exchanges what lies off the diagonal of each block of 2 kStep rows and columns, then of larger ones.
template <Index kStep, typename V, Index kSize>
LBP_LANES inline void exchange(V (&rows)[kSize]) {
  if constexpr (kStep < kSize) {
    using Order = decltype(V{} < V{});
    constexpr auto kEvery = std::make_index_sequence<size_t(kSize)>();
#pragma GCC unroll 16
    for (Index i = 0; i < kSize; ++i) {
      if (i & kStep) continue;
      const V a = rows[i], b = rows[i + kStep];
      rows[i] = interleaved<true, kStep, V, Order>(a, b, kEvery);
      rows[i + kStep] = interleaved<false, kStep, V, Order>(a, b, kEvery);
    }
    exchange<2 * kStep>(rows);
  }
}

inline __m512 load_first(const float* from, Index count) {
  return _mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), from);
}
inline __m512d load_first(const double* from, Index count) {
  return _mm512_maskz_loadu_pd(__mmask8((1u << count) - 1), from);
}
inline void store_first(float* to, Index count, __m512 value) {
  _mm512_mask_storeu_ps(to, __mmask16((1u << count) - 1), value);
}
inline void store_first(double* to, Index count, __m512d value) {
  _mm512_mask_storeu_pd(to, __mmask8((1u << count) - 1), value);
}

// to [columns, rows] = the transposed from [rows, columns], at most as many of both as a vector has numbers.
template <typename T>
void transpose_tile(const T* from, Index from_stride, Index rows, Index columns, T* to, Index to_stride) {
  using V = typename Vector<T>::Type;
  constexpr Index kSize = Vector<T>::kSize;
  V tile[kSize] = {};
#pragma GCC unroll 16
  for (Index r = 0; r < kSize; ++r) {
    if (r < rows) tile[r] = V(load_first(from + r * from_stride, columns));
  }
  exchange<1>(tile);
#pragma GCC unroll 16
  for (Index c = 0; c < kSize; ++c) {
    if (c < columns) store_first(to + c * to_stride, rows, tile[c]);
  }
}

#endif

#undef LBP_SHUFFLE

// to [columns, rows] = the transposed from [rows, columns]; `together` rows, a multiple of 4, fill runs of `to` in
// turn, or as many as a vector has numbers.
template <typename T>
void transpose(const T* from, Index from_stride, Index rows, Index columns, T* to, Index to_stride,
               [[maybe_unused]] Index together) {
  if (rows < 4 || columns < 4) {
    for (Index c = 0; c < columns; ++c) {
      for (Index r = 0; r < rows; ++r) to[c * to_stride + r] = from[r * from_stride + c];
    }
    return;
  }
#if defined(__AVX512F__)
  constexpr Index kSize = Vector<T>::kSize;
  for (Index r = 0; r < rows; r += kSize) {
    for (Index c = 0; c < columns; c += kSize) {
      transpose_tile(from + r * from_stride + c, from_stride, minimum(kSize, rows - r), minimum(kSize, columns - c),
                     to + c * to_stride + r, to_stride);
    }
  }
#else
  // The last block of a row or column overlaps the one before.
  for (Index top = 0; top < rows; top += together) {
    const Index stop = minimum(top + together, rows);
    for (Index c = 0; c < columns; c += 4) {
      const Index column = minimum(c, columns - 4);
      for (Index r = top; r < stop; r += 4) {
        const Index row = minimum(r, rows - 4);
        transpose_block(from + row * from_stride + column, from_stride, to + column * to_stride + row, to_stride);
      }
    }
  }
#endif
}

}  // namespace lbp::LBP_ISA
