// Extreme values of A x over a box or an l_p ball, center term and norm from one read of A; and the gradient.
//
// A thread keeps its coordinates of the region and walks down the rows of A.
#pragma once

#include "cuda/kernels/reduce.cuh"
#include "cuda/kernels/slot.cuh"
#include "cuda/kernels/strips.cuh"
#include "math/box.h"
#include "math/dual_norm.h"

namespace lbp::cuda {

// A box, or a ball by the kind of its dual norm. Over a box forward bounds may want the magnitudes of their neurons.
template <bool kIsBox, Norm kDualNorm, bool kWithMagnitude = false>
struct RegionKind {
  static constexpr bool kBox = kIsBox;
  static constexpr bool kMagnitude = kWithMagnitude;
  static constexpr Norm kNorm = kDualNorm;
  // Whether terms are relative to the largest entry.
  template <typename T>
  static constexpr bool kScaled = !kIsBox && kDualNorm != Norm::kOne && (sizeof(T) == 8 || kDualNorm != Norm::kTwo);
};
using Box = RegionKind<true, Norm::kOne>;
using BoxWithMagnitude = RegionKind<true, Norm::kOne, true>;
template <Norm kNorm>
using Ball = RegionKind<false, kNorm>;

// What is added up over a row: the center term (of a box the extreme value itself), and the norm's.
struct RowSum {
  double dot;
  NormSum norm;
};

// Exchanges no more than the kind of region needs.
template <typename Kind, bool kScaled>
struct PartOfRow {
  RowSum row;
};

template <typename Kind, bool kScaled>
LBP_DEVICE PartOfRow<Kind, kScaled> from_lane_xor(const PartOfRow<Kind, kScaled>& part, int step) {
  PartOfRow<Kind, kScaled> other = part;
  other.row.dot = from_lane_xor(part.row.dot, step);
  if constexpr (!Kind::kBox) other.row.norm.sum = from_lane_xor(part.row.norm.sum, step);
  if constexpr (kScaled) other.row.norm.largest = from_lane_xor(part.row.norm.largest, step);
  return other;
}

template <typename Kind, bool kScaled>
struct CombineRows {
  double q;
  LBP_DEVICE RowSum operator()(const RowSum& a, const RowSum& b) const {
    RowSum result = {a.dot + b.dot, a.norm};
    if constexpr (!Kind::kBox) result.norm = combined<Kind::kNorm, kScaled>(a.norm, b.norm, q);
    return result;
  }
  LBP_DEVICE PartOfRow<Kind, kScaled> operator()(const PartOfRow<Kind, kScaled>& a,
                                                 const PartOfRow<Kind, kScaled>& b) const {
    return {(*this)(a.row, b.row)};
  }
};

template <typename Kind, bool kScaled>
LBP_DEVICE RowSum empty_row() {
  return {0.0, empty_norm_sum<Kind::kNorm, kScaled>()};
}

template <typename T>
struct ConcretizeLaunch {
  ConcretizeArguments<T> op;
  Tiling tiling;          // the rows of an image; its tiles are the groups below
  Index tiles_per_block;  // tiles that one block works on one after the other
  RowSum* sums;           // [K B S, tile groups]; null where the bounds are written at once
};

// The norm of a row with the entries of a thread as well. Coordinates beyond the end are no ties of a row of zeros.
template <typename Kind, bool kScaled, typename T, typename Own>
LBP_DEVICE NormSum with_pack(NormSum row, const Pack<T>& a, const Own& own, double q) {
  if constexpr (Kind::kNorm == Norm::kInfinity) {
    // Largest entry and ties in the type of the entries; NaN is larger than everything.
    T largest = T(0);
#pragma unroll
    for (int i = 0; i < kOwn<T>; ++i) {
      const T magnitude = absolute(a[i]);
      largest = own.has(i) && !(magnitude <= largest) ? magnitude : largest;
      largest = magnitude == magnitude ? largest : magnitude;
    }
    int ties = 0;
#pragma unroll
    for (int i = 0; i < kOwn<T>; ++i) ties += own.has(i) && absolute(a[i]) == largest ? 1 : 0;
    return combined<Kind::kNorm, kScaled>(row, {double(ties), double(largest)}, q);
  } else {
#pragma unroll
    for (int i = 0; i < kOwn<T>; ++i) {
      if constexpr (Kind::kNorm == Norm::kTwo && !kScaled) {
        row.sum = plus_product<T>(row.sum, a[i], a[i]);  // beyond the end 0
      } else {
        if (own.has(i)) row = with_entry<Kind::kNorm, kScaled>(row, double(a[i]), q);
      }
    }
    return row;
  }
}

// The bound of a row from its sums.
template <typename Kind, typename T>
LBP_DEVICE double bound_of(const RowSum& sum, const Region<T>& region, Index image, bool lower) {
  if constexpr (Kind::kBox) {
    return sum.dot;
  } else {
    const double norm = norm_of<Kind::kNorm>(sum.norm.sum, sum.norm.largest, region.q);
    const double spread = read(region.eps + image * region.eps_stride) * norm;
    return sum.dot + (lower ? -spread : spread);
  }
}

// What the derivative of a row's bound by its entries needs of the whole row.
template <typename Kind>
struct RowNorm {
  static constexpr bool kNeeded = !Kind::kBox && Kind::kNorm != Norm::kOne;
  double norm = 0, sum = 0, largest = 0;

  RowNorm() = default;
  LBP_DEVICE RowNorm(const RowSum& row, double q)
      : norm(norm_of<Kind::kNorm>(row.norm.sum, row.norm.largest, q)), sum(row.norm.sum), largest(row.norm.largest) {}
  LBP_DEVICE double slope(double a, double q) const { return norm_slope<Kind::kNorm>(a, norm, sum, largest, q); }
};

// Of a row whose sums are in memory; null where the derivative does not need them.
template <typename Kind>
LBP_DEVICE RowNorm<Kind> read_row_norm(const RowSum* row, double q) {
  if constexpr (RowNorm<Kind>::kNeeded) {
    return {{0.0, {read(&row->norm.sum), read(&row->norm.largest)}}, q};
  } else {
    return {};
  }
}

// The derivative of a row's bound by its entry a: the point of the region where a acts. x_L is the center of a ball of
// radius eps.
template <typename Kind, typename T>
LBP_DEVICE double point_under(T a, T x_L, T x_U, bool lower, double eps, const RowNorm<Kind>& row, double q) {
  if constexpr (Kind::kBox) {
    return double(extreme_point(x_L, x_U, (a >= T(0)) == lower));
  } else {
    return double(x_L) + (lower ? -eps : eps) * row.slope(double(a), q);
  }
}

template <typename T, typename Kind, bool kAligned>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, kAligned && sizeof(T) == 4 && Kind::kNorm != Norm::kGeneral ? 3 : 2)
    concretize_kernel(const ConcretizeLaunch<T> args) {
  constexpr bool kScaled = Kind::template kScaled<T>;
  constexpr int kSlots = 4;
  using Part = PartOfRow<Kind, kScaled>;
  LBP_DYNAMIC_SHARED(RowSum, warp_sums);  // [slots, kWarps]
  const ConcretizeArguments<T>& op = args.op;
  const CombineRows<Kind, kScaled> combine = {op.region.q};
  const Index image = args.tiling.image(), first_row = args.tiling.first_row();
  const int slots = int(slot_count(op.sides, args.tiling.last_row() - first_row));  // as shared memory has room for
  const int share = even_share<kSlots>(slots);
  const auto slot_of = [&](int slot) { return Slot<T>(op.A, op.sides, op.batch, op.rows, image, first_row, slot); };
  const Index first_tile = args.tiling.tile() * args.tiles_per_block;
  const Index tiles = (op.inputs + kTile<T> - 1) / kTile<T>;
  for (Index tile = first_tile; tile == first_tile || (tile < first_tile + args.tiles_per_block && tile < tiles);
       ++tile) {
    const Own<T, kAligned> own(tile, op.inputs);
    Pack<T> A[kSlots];
    const auto load = [&](int begin) {
#pragma unroll
      for (int k = 0; k < kSlots; ++k) {
        if (k < share && begin + k < slots) A[k] = own.load(slot_of(begin + k).A);
      }
    };
    load(0);
    const Pack<T> x_L = own.load(op.region.x_L + image * op.region.batch_stride);
    double low[kOwn<T>], high[kOwn<T>];  // the center, of a ball
    Pack<T> x_U = x_L;
    if constexpr (Kind::kBox) x_U = own.load(op.region.x_U + image * op.region.batch_stride);
#pragma unroll
    for (int i = 0; i < kOwn<T>; ++i) {
      low[i] = Kind::kBox ? extreme_point(x_L[i], x_U[i], true) : x_L[i];
      high[i] = Kind::kBox ? extreme_point(x_L[i], x_U[i], false) : x_L[i];
    }
    for (int begin = 0; begin < slots; begin += share) {
      Part parts[kSlots];
#pragma unroll
      for (int k = 0; k < kSlots; ++k) {
        parts[k].row = empty_row<Kind, kScaled>();
        if (k < share && begin + k < slots) {
          RowSum& row = parts[k].row;
          const bool lower = slot_of(begin + k).lower;
#pragma unroll
          for (int i = 0; i < kOwn<T>; ++i) {
            const T a = A[k][i];
            row.dot = plus_product<T>(row.dot, a, (a >= T(0)) == lower ? low[i] : high[i]);
          }
          if constexpr (!Kind::kBox) row.norm = with_pack<Kind, kScaled>(row.norm, A[k], own, op.region.q);
        }
      }
      load(begin + share);  // under way while the sums are combined
      const Part part = reduce_group(parts, combine);
      int k = 0;
      if (holds_group_value<kSlots>(k) && k < share && begin + k < slots) {
        RowSum& total = warp_sums[(begin + k) * kWarps + warp()];
        total = tile == first_tile ? part.row : combine(total, part.row);
      }
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < slots; i += kThreads) {
    RowSum total = warp_sums[i * kWarps];
    for (int k = 1; k < kWarps; ++k) total = combine(total, warp_sums[i * kWarps + k]);
    const Slot<T> slot = slot_of(i);
    if (args.sums != nullptr) {
      args.sums[slot.out_row * args.tiling.tiles + args.tiling.tile()] = total;
    } else {
      op.bounds[slot.out_row] = bound_of<Kind>(total, op.region, image, slot.lower);
    }
  }
}

// From the sums of the tile groups to the bounds, or where `totals` is given to the sums of the rows: a warp for every
// row.
template <typename T>
struct ConcretizeFinishLaunch {
  ConcretizeArguments<T> op;
  const RowSum* sums;  // [K B S, groups]
  Index groups;
  RowSum* totals;  // [K B S] or null
};

template <typename T, typename Kind>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 2) concretize_finish_kernel(const ConcretizeFinishLaunch<T> args) {
  constexpr bool kScaled = Kind::template kScaled<T>;
  const ConcretizeArguments<T>& op = args.op;
  const CombineRows<Kind, kScaled> combine = {op.region.q};
  const Index row = Index(blockIdx.x) * kWarps + warp(), rows = op.batch * op.rows;
  if (row >= rows * side_count(op.sides)) return;
  PartOfRow<Kind, kScaled> total[1] = {{empty_row<Kind, kScaled>()}};
  for (Index group = lane(); group < args.groups; group += kLanes) {
    const RowSum* const part = args.sums + row * args.groups + group;
    total[0].row = combine(total[0].row, {read(&part->dot), {read(&part->norm.sum), read(&part->norm.largest)}});
  }
  const RowSum sum = reduce_group(total, combine).row;
  if (lane() != 0) return;
  if (args.totals != nullptr) {
    args.totals[row] = sum;
  } else {
    const Index side = quotient(row, rows), image = quotient(row - side * rows, op.rows);
    op.bounds[row] = bound_of<Kind>(sum, op.region, image, is_lower(op.sides, side));
  }
}

template <typename T>
struct ConcretizeGradientLaunch {
  ConcretizeGradientArguments<T> op;
  Tiling tiling;
  const RowSum* sums;  // [K B S]; null where the gradient does not need the norm
};

template <typename T, typename Kind, bool kAligned>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 2) concretize_gradient_kernel(const ConcretizeGradientLaunch<T> args) {
  constexpr int kSlots = kAligned ? 4 : 2;
  const ConcretizeGradientArguments<T>& op = args.op;
  const Index image = args.tiling.image(), first_row = args.tiling.first_row();
  const Index slots = slot_count(op.sides, args.tiling.last_row() - first_row);
  const Own<T, kAligned> own(args.tiling.tile(), op.inputs);
  const Pack<T> x_L = own.load(op.region.x_L + image * op.region.batch_stride);
  Pack<T> x_U = x_L;
  if constexpr (Kind::kBox) x_U = own.load(op.region.x_U + image * op.region.batch_stride);
  const double eps = Kind::kBox ? 0.0 : read(op.region.eps + image * op.region.eps_stride), q = op.region.q;
  for (Index begin = 0; begin < slots; begin += kSlots) {
    Pack<T> A[kSlots];
#pragma unroll
    for (int k = 0; k < kSlots; ++k) {
      if (begin + k >= slots) break;
      A[k] = own.load(Slot<T>(op.A, op.sides, op.batch, op.rows, image, first_row, begin + k).A);
    }
#pragma unroll
    for (int k = 0; k < kSlots; ++k) {
      if (begin + k >= slots) break;
      const Slot<T> slot(op.A, op.sides, op.batch, op.rows, image, first_row, begin + k);
      const double gradient = read(op.bounds_gradient + slot.out_row);
      const RowNorm<Kind> row = read_row_norm<Kind>(args.sums + slot.out_row, q);
#pragma unroll
      for (int i = 0; i < kOwn<T>; ++i) {
        A[k][i] = T(gradient * point_under<Kind>(A[k][i], x_L[i], x_U[i], slot.lower, eps, row, q));
      }
      own.store(op.A_gradient + slot.out_row * op.inputs, A[k]);
    }
  }
}

// For short rows, whose norm is needed: a block for every row of every image reads it twice, in one launch.
template <typename T>
struct ConcretizeRowGradientLaunch {
  ConcretizeGradientArguments<T> op;
};

template <typename T, typename Kind>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 2) concretize_row_gradient_kernel(const ConcretizeRowGradientLaunch<T> args) {
  static_assert(RowNorm<Kind>::kNeeded, "else one launch will do anyway");
  constexpr bool kScaled = Kind::template kScaled<T>;
  LBP_SHARED(RowSum, shared, kThreads);
  const ConcretizeGradientArguments<T>& op = args.op;
  const Region<T>& region = op.region;
  const double q = region.q;
  const Index slots = slot_count(op.sides, op.rows), image = quotient(blockIdx.x, slots);
  const Slot<T> slot(op.A, op.sides, op.batch, op.rows, image, 0, Index(blockIdx.x) - image * slots);
  RowSum sum = empty_row<Kind, kScaled>();
#pragma unroll 4
  for (Index i = threadIdx.x; i < op.inputs; i += kThreads) {
    sum.norm = with_entry<Kind::kNorm, kScaled>(sum.norm, double(read(slot.A + i)), q);
  }
  const RowNorm<Kind> norm(combine_groups(sum, 1, shared, CombineRows<Kind, kScaled>{q}), q);
  const double gradient = read(op.bounds_gradient + slot.out_row);
  const double eps = read(region.eps + image * region.eps_stride);
#pragma unroll 4
  for (Index i = threadIdx.x; i < op.inputs; i += kThreads) {
    const T x = read(region.x_L + image * region.batch_stride + i);
    op.A_gradient[slot.out_row * op.inputs + i] =
        T(gradient * point_under<Kind>(read(slot.A + i), x, x, slot.lower, eps, norm, q));
  }
}

}  // namespace lbp::cuda
