// Transposition of a matrix in memory, in blocks of 4x4.
#pragma once

#include "cpu/kernels/tile.h"

namespace lbp::LBP_ISA {

// Numbers of two vectors of four, those of the second counted from 4 on.
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

#undef LBP_SHUFFLE

// to [columns, rows] = the transposed from [rows, columns]; `together` rows, a multiple of 4, fill runs of `to` in
// turn.
template <typename T>
void transpose(const T* from, Index from_stride, Index rows, Index columns, T* to, Index to_stride, Index together) {
  if (rows < 4 || columns < 4) {
    for (Index c = 0; c < columns; ++c) {
      for (Index r = 0; r < rows; ++r) to[c * to_stride + r] = from[r * from_stride + c];
    }
    return;
  }
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
}

}  // namespace lbp::LBP_ISA
