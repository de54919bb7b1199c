// The rows of coefficients A [K, B, S, n] in the order in which a block takes them: both sides of a row one after the
// other, so that what they share is read once. Slot s of a piece is side s % K of its row s / K.
#pragma once

#include "cuda/kernels/tile.cuh"

namespace lbp::cuda {

LBP_HOST_DEVICE Index side_count(int sides) { return sides == 3 ? 2 : 1; }

LBP_HOST_DEVICE bool is_lower(int sides, Index side) { return (sides & 1) != 0 && side == 0; }

LBP_HOST_DEVICE Index slot_count(int sides, Index rows) { return side_count(sides) * rows; }

// So many slots make a kernel of their own: the margins of ten classes, or ten outputs.
constexpr int kFewSlots = 10;

// A row of A and of its results.
template <typename T>
struct Slot {
  const T* A;
  Index out_row;  // of [K B S]
  bool lower;

  LBP_DEVICE Slot(const Coefficients<T>& coefficients, int sides, Index batch, Index rows, Index image, Index first_row,
                  Index slot) {
    const Index side = sides == 3 ? slot & 1 : 0, row = first_row + (sides == 3 ? slot >> 1 : slot);
    A = coefficients.data + side * coefficients.side_stride + image * coefficients.batch_stride +
        row * coefficients.row_stride;
    out_row = (side * batch + image) * rows + row;
    lower = is_lower(sides, side);
  }
};

// An image's slots one after the other: the address of each from the one before, by additions alone.
template <typename T, bool kBothSides>
struct SlotWalk {
  const T* A;
  Index out;  // where the slot's row begins in results [K, B, S, size]

  LBP_DEVICE SlotWalk(const Coefficients<T>& coefficients, Index rows, Index image, Index size)
      : A(coefficients.data + image * coefficients.batch_stride), out(image * rows * size) {}

  // From slot `k` to the next; `side` numbers are a side's results.
  LBP_DEVICE void advance(int k, const Coefficients<T>& coefficients, Index size, Index side) {
    const bool to_upper = kBothSides && k % 2 == 0;
    if (kBothSides) A += to_upper ? coefficients.side_stride : -coefficients.side_stride;
    if (kBothSides) out += to_upper ? side : -side;
    if (to_upper) return;
    A += coefficients.row_stride;
    out += size;
  }
};

}  // namespace lbp::cuda
