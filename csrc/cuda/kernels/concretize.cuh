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

LBP_DEVICE RowSum from_lane_xor(const RowSum& row, int step) {
  return {from_lane_xor(row.dot, step), {from_lane_xor(row.norm.sum, step), from_lane_xor(row.norm.largest, step)}};
}

template <typename Kind, bool kScaled>
struct CombineRows {
  double q;
  LBP_DEVICE RowSum operator()(const RowSum& a, const RowSum& b) const {
    RowSum result = {a.dot + b.dot, a.norm};
    if constexpr (!Kind::kBox) result.norm = combined<Kind::kNorm, kScaled>(a.norm, b.norm, q);
    return result;
  }
};

template <typename Kind, bool kScaled>
LBP_DEVICE RowSum empty_row() {
  return {0.0, empty_norm_sum<Kind::kNorm, kScaled>()};
}

// What a thread or a warp has added up of a row of T.
template <typename T, typename Kind>
struct PartOfRow {
  static constexpr bool kScaled = Kind::template kScaled<T>;
  RowSum row;

  LBP_DEVICE static PartOfRow empty() { return {empty_row<Kind, kScaled>()}; }
  LBP_DEVICE double& dot() { return row.dot; }
  LBP_DEVICE const RowSum& sum() const { return row; }
  // The norm of a thread's entries. Coordinates beyond the end are no ties of a row of zeros.
  template <typename Own>
  LBP_DEVICE void add_norm(const Pack<T>& a, const Own& own, double q) {
#pragma unroll
    for (int i = 0; i < kOwn<T>; ++i) {
      if constexpr (Kind::kNorm == Norm::kTwo && !kScaled) {
        row.norm.sum = plus_product<T>(row.norm.sum, a[i], a[i]);  // beyond the end 0
      } else {
        if (own.has(i)) row.norm = with_entry<Kind::kNorm, kScaled>(row.norm, double(a[i]), q);
      }
    }
  }
};

template <typename T, typename Kind>
LBP_DEVICE PartOfRow<T, Kind> combined_parts(const PartOfRow<T, Kind>& a, const PartOfRow<T, Kind>& b, double q) {
  return {CombineRows<Kind, PartOfRow<T, Kind>::kScaled>{q}(a.row, b.row)};
}

// Exchanges no more than the kind of region needs.
template <typename T, typename Kind>
LBP_DEVICE PartOfRow<T, Kind> from_lane_xor(const PartOfRow<T, Kind>& part, int step) {
  PartOfRow<T, Kind> other = part;
  other.row.dot = from_lane_xor(part.row.dot, step);
  if constexpr (!Kind::kBox) other.row.norm.sum = from_lane_xor(part.row.norm.sum, step);
  if constexpr (PartOfRow<T, Kind>::kScaled) other.row.norm.largest = from_lane_xor(part.row.norm.largest, step);
  return other;
}

// Of float32 entries the largest, and how many are as large, in 32 bits each.
template <>
struct PartOfRow<float, Ball<Norm::kInfinity>> {
  double product;
  float largest;
  int ties;

  LBP_DEVICE static PartOfRow empty() { return {0.0, 0.0f, 0}; }
  LBP_DEVICE double& dot() { return product; }
  LBP_DEVICE RowSum sum() const { return {product, {double(ties), double(largest)}}; }
  LBP_DEVICE void add_entry(float magnitude, int count) {
    // NaN is larger than everything.
    const bool keeps = largest >= magnitude || !(largest == largest);
    const float before = largest;
    largest = keeps ? largest : magnitude;
    ties = (before == largest ? ties : 0) + (magnitude == largest ? count : 0);
  }
  template <typename Own>
  LBP_DEVICE void add_norm(const Pack<float>& a, const Own& own, double) {
#pragma unroll
    for (int i = 0; i < kOwn<float>; ++i) {
      if (own.has(i)) add_entry(absolute(a[i]), 1);
    }
  }
};

LBP_DEVICE PartOfRow<float, Ball<Norm::kInfinity>> combined_parts(PartOfRow<float, Ball<Norm::kInfinity>> a,
                                                                  const PartOfRow<float, Ball<Norm::kInfinity>>& b,
                                                                  double) {
  a.product += b.product;
  a.add_entry(b.largest, b.ties);
  return a;
}

LBP_DEVICE PartOfRow<float, Ball<Norm::kInfinity>> from_lane_xor(const PartOfRow<float, Ball<Norm::kInfinity>>& part,
                                                                 int step) {
  PartOfRow<float, Ball<Norm::kInfinity>> other;
  other.product = from_lane_xor(part.product, step);
  other.largest = __shfl_xor_sync(kAllLanes, part.largest, step);
  other.ties = __shfl_xor_sync(kAllLanes, part.ties, step);
  return other;
}

template <typename T, typename Kind>
struct CombineParts {
  double q;
  LBP_DEVICE PartOfRow<T, Kind> operator()(const PartOfRow<T, Kind>& a, const PartOfRow<T, Kind>& b) const {
    return combined_parts(a, b, q);
  }
};

template <typename T>
struct ConcretizeLaunch {
  ConcretizeArguments<T> op;
  Tiling tiling;          // the rows of an image; its tiles are the groups below
  Index tiles_per_block;  // tiles that one block works on one after the other
  RowSum* sums;           // [K B S, tile groups]; null where the bounds are written at once
};

// The radius of the ball around an image.
template <typename T>
LBP_DEVICE double radius_of(const Region<T>& region, Index image) {
  return region.eps_data == nullptr ? region.eps : read(region.eps_data + image * region.eps_stride);
}

// The bound of a row from its sums.
template <typename Kind, typename T>
LBP_DEVICE double bound_of(const RowSum& sum, const Region<T>& region, Index image, bool lower) {
  if constexpr (Kind::kBox) {
    return sum.dot;
  } else {
    const double norm = norm_of<Kind::kNorm>(sum.norm.sum, sum.norm.largest, region.q);
    const double spread = radius_of(region, image) * norm;
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

// What a thread reads of a region for its coordinates.
template <typename T, typename Kind>
struct OwnRegion {
  Pack<T> x_L, x_U;

  template <typename Own>
  LBP_DEVICE OwnRegion(const Own& own, const Region<T>& region, Index image)
      : x_L(own.load(region.x_L + image * region.batch_stride)), x_U(x_L) {
    if constexpr (Kind::kBox) x_U = own.load(region.x_U + image * region.batch_stride);
  }
};

// The coordinates of a thread within a region: of a ball its center.
template <typename T, typename Kind>
struct OwnCorners {
  double low[kOwn<T>], high[kOwn<T>];

  LBP_DEVICE explicit OwnCorners(const OwnRegion<T, Kind>& own) {
#pragma unroll
    for (int i = 0; i < kOwn<T>; ++i) {
      low[i] = Kind::kBox ? extreme_point(own.x_L[i], own.x_U[i], true) : own.x_L[i];
      high[i] = Kind::kBox ? extreme_point(own.x_L[i], own.x_U[i], false) : own.x_L[i];
    }
  }

  // Adds a thread's entries of a row to what it has of it.
  template <typename Own>
  LBP_DEVICE void add(PartOfRow<T, Kind>& part, const Pack<T>& A, bool lower, const Own& own, double q) const {
#pragma unroll
    for (int i = 0; i < kOwn<T>; ++i) {
      part.dot() = plus_product<T>(part.dot(), A[i], (A[i] >= T(0)) == lower ? low[i] : high[i]);
    }
    if constexpr (!Kind::kBox) part.add_norm(A, own, q);
  }
};

// Adds up what the warps of a block have of its rows, and writes the bounds, or the sums where other blocks have more.
// `warp_sums` is [slots, kWarps].
template <typename T, typename Kind, typename SlotOf>
LBP_DEVICE void store_rows(const ConcretizeLaunch<T>& args, const RowSum* warp_sums, int slots, Index image,
                           const SlotOf& slot_of) {
  const CombineRows<Kind, Kind::template kScaled<T>> combine = {args.op.region.q};
  __syncthreads();
  for (int i = threadIdx.x; i < slots; i += kThreads) {
    RowSum total = warp_sums[i * kWarps];
    for (int k = 1; k < kWarps; ++k) total = combine(total, warp_sums[i * kWarps + k]);
    const Slot<T> slot = slot_of(i);
    if (args.sums != nullptr) {
      args.sums[slot.out_row * args.tiling.tiles + args.tiling.tile()] = total;
    } else {
      args.op.bounds[slot.out_row] = bound_of<Kind>(total, args.op.region, image, slot.lower);
    }
  }
}

template <typename T, typename Kind, bool kAligned>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 2) concretize_kernel(const ConcretizeLaunch<T> args) {
  constexpr int kSlots = kAligned && !Kind::template kScaled<T> ? 8 : 4;
  // Over a box, whose sums cost less, reading ahead made blocks wait for each other: 0.29 ms instead of 0.20 on an H100
  // for 4,096 rows of 32,768 numbers. Powers need the registers.
  constexpr bool kAhead = !Kind::kBox && Kind::kNorm != Norm::kGeneral;
  using Part = PartOfRow<T, Kind>;
  LBP_DYNAMIC_SHARED(RowSum, warp_sums);  // [slots, kWarps]
  const ConcretizeArguments<T>& op = args.op;
  const double q = op.region.q;
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
    if constexpr (kAhead) load(0);
    const OwnCorners<T, Kind> corners(OwnRegion<T, Kind>(own, op.region, image));
    for (int begin = 0; begin < slots; begin += share) {
      if constexpr (!kAhead) load(begin);
      Part parts[kSlots];
#pragma unroll
      for (int k = 0; k < kSlots; ++k) {
        parts[k] = Part::empty();
        if (k < share && begin + k < slots) corners.add(parts[k], A[k], slot_of(begin + k).lower, own, q);
      }
      if constexpr (kAhead) load(begin + share);  // under way while the sums are combined
      const Part part = reduce_group(parts, CombineParts<T, Kind>{q});
      int k = 0;
      if (holds_group_value<kSlots>(k) && k < share && begin + k < slots) {
        RowSum& total = warp_sums[(begin + k) * kWarps + warp()];
        const CombineRows<Kind, Kind::template kScaled<T>> combine = {q};
        total = tile == first_tile ? part.sum() : combine(total, part.sum());
      }
    }
  }
  store_rows<T, Kind>(args, warp_sums, slots, image, slot_of);
}

// For few rows of large regions: a thread adds up its part of every row over the tiles of its block. It reads all rows
// of a tile at the same time, each as soon as that of the tile before is added, where that leaves registers enough.
template <typename T, typename Kind, bool kBothSides>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 2) concretize_few_kernel(const ConcretizeLaunch<T> args) {
  LBP_SHARED(RowSum, warp_sums, kFewSlots * kWarps);
  const ConcretizeArguments<T>& op = args.op;
  const Index image = args.tiling.image(), side = op.batch * op.rows * op.inputs;
  const int slots = int(slot_count(op.sides, op.rows));
  const Index first_tile = args.tiling.tile() * args.tiles_per_block;
  const Index end = smaller((first_tile + args.tiles_per_block) * kTile<T>, op.inputs);
  PartOfRow<T, Kind> parts[kFewSlots];
#pragma unroll
  for (int k = 0; k < kFewSlots; ++k) parts[k] = PartOfRow<T, Kind>::empty();
  constexpr bool kAhead = Kind::kNorm != Norm::kInfinity;
  Pack<T> A[kFewSlots];
  const auto load = [&](const Own<T, true>& own) {
    SlotWalk<T, kBothSides> slot(op.A, op.rows, image, op.inputs);
#pragma unroll
    for (int k = 0; k < kFewSlots; ++k) {
      if (k < slots) A[k] = own.load(slot.A);
      slot.advance(k, op.A, op.inputs, side);
    }
  };
  const Own<T, true> first(first_tile, end);
  if (kAhead) load(first);
  OwnRegion<T, Kind> region(first, op.region, image);
  for (Index tile = first_tile; tile * kTile<T> < end; ++tile) {
    const Own<T, true> own(tile, end), next(tile + 1, end);
    if (!kAhead) load(own);
    const OwnCorners<T, Kind> corners(region);
    region = OwnRegion<T, Kind>(next, op.region, image);
    SlotWalk<T, kBothSides> slot(op.A, op.rows, image, op.inputs);
#pragma unroll
    for (int k = 0; k < kFewSlots; ++k) {
      if (k < slots) {
        corners.add(parts[k], A[k], kBothSides ? k % 2 == 0 : is_lower(op.sides, 0), own, op.region.q);
        if (kAhead) A[k] = next.load(slot.A);
      }
      slot.advance(k, op.A, op.inputs, side);
    }
  }
#pragma unroll
  for (int k = 0; k < kFewSlots; k += 2) {
    PartOfRow<T, Kind> pair[2] = {parts[k], parts[k + 1]};
    const PartOfRow<T, Kind> part = reduce_group(pair, CombineParts<T, Kind>{op.region.q});
    int which = 0;
    if (holds_group_value<2>(which)) warp_sums[(k + which) * kWarps + warp()] = part.sum();
  }
  store_rows<T, Kind>(args, warp_sums, slots, image,
                      [&](int number) { return Slot<T>(op.A, op.sides, op.batch, op.rows, image, 0, number); });
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
  RowSum total[1] = {empty_row<Kind, kScaled>()};
  for (Index group = lane(); group < args.groups; group += kLanes) {
    const RowSum* const part = args.sums + row * args.groups + group;
    total[0] = combine(total[0], {read(&part->dot), {read(&part->norm.sum), read(&part->norm.largest)}});
  }
  const RowSum sum = reduce_group(total, combine);
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
  const double eps = Kind::kBox ? 0.0 : radius_of(op.region, image), q = op.region.q;
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
  const double eps = radius_of(region, image);
#pragma unroll 4
  for (Index i = threadIdx.x; i < op.inputs; i += kThreads) {
    const T x = read(region.x_L + image * region.batch_stride + i);
    op.A_gradient[slot.out_row * op.inputs + i] =
        T(gradient * point_under<Kind>(read(slot.A + i), x, x, slot.lower, eps, norm, q));
  }
}

}  // namespace lbp::cuda
