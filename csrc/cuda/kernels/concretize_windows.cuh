// Extreme values over a box or an l_p ball of windowed coefficients of the input, and the gradient.
#pragma once

#include "cuda/kernels/concretize.cuh"
#include "cuda/kernels/source_gradients.cuh"

namespace lbp::cuda {

template <typename T>
struct ConcretizeWindowsLaunch {
  ConcretizeWindowsArguments<T> op;
  int warps_per_row;
  RowSum* sums;  // [K, rows]; null where the bounds are written
};

// Images have one or three channels, so that numbers are read one by one.
template <typename T, typename Kind>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 2) concretize_windows_kernel(const ConcretizeWindowsLaunch<T> args) {
  using Part = PartOfRow<T, Kind>;
  LBP_SHARED(Part, warp_sums, 2 * kWarps);
  const ConcretizeWindowsArguments<T>& op = args.op;
  const RowWindows<T>& A = op.A;
  const Region<T>& region = op.region;
  const CombineParts<T, Kind> combine = {region.q};
  const Index sides = side_count(op.sides);
  const RowOfWarp own(args.warps_per_row);
  WindowRow where = {};
  bool stands_somewhere = false;
  if (own.row < A.rows) {
    where = read_row(A.where + own.row);
    stands_somewhere = stands(A, where);
  }
  Part sums[2] = {Part::empty(), Part::empty()};
  if (stands_somewhere) {
    const Index begin = where.image * region.batch_stride + first_in_layer(A, where);
    for_steps<1>(A, own, [&](Index step) {
      const WindowStep<T, false> numbers(A, step);
      Pack<T> a[2];
#pragma unroll
      for (int side = 0; side < 2; ++side) {
        if (side < sides) a[side] = numbers.own.load(numbers_of(A, side, where));
      }
      const Pack<T> x_L = numbers.under(region.x_L + begin, T(0));
      const Pack<T> x_U = numbers.under(Kind::kBox ? region.x_U + begin : nullptr, T(0));
#pragma unroll
      for (int side = 0; side < 2; ++side) {
        if (side >= sides) break;
        const bool lower = is_lower(op.sides, side);
#pragma unroll
        for (int i = 0; i < kOwn<T>; ++i) {
          const T value = a[side][i];
          const T x = Kind::kBox ? extreme_point(x_L[i], x_U[i], (value >= T(0)) == lower) : x_L[i];
          sums[side].dot() = plus_product<T>(sums[side].dot(), value, x);
        }
        if constexpr (!Kind::kBox) sums[side].add_norm(a[side], numbers.own, region.q);
      }
    });
  }
  reduce_rows(sums, own, combine, warp_sums, [&](Index side, const Part& sum) {
    if (own.row >= A.rows || side >= sides) return;
    const Index out = side * A.rows + own.row;
    if (args.sums != nullptr) {
      args.sums[out] = sum.sum();
    } else {
      const bool lower = is_lower(op.sides, side);
      op.bounds[out] = stands_somewhere ? bound_of<Kind>(sum.sum(), region, where.image, lower) : quiet_nan<double>();
    }
  });
}

template <typename T>
struct ConcretizeWindowsGradientLaunch {
  ConcretizeWindowsGradientArguments<T> op;
  RowRanges ranges;
  const RowSum* sums;  // [K, rows]; null where the gradient does not need the norms, or each warp those of its source
};

// The norm of one side of a source, for all lanes of a warp.
template <typename Kind, typename T>
LBP_DEVICE RowNorm<Kind> norm_of_source(const RowWindows<T>& A, Index side, Index source, double q) {
  constexpr bool kScaled = Kind::template kScaled<T>;
  const T* const numbers = A.data + side * A.side_stride + source * A.source_stride;
  const CombineRows<Kind, kScaled> combine = {q};
  RowSum sum[1] = {empty_row<Kind, kScaled>()};
  for (Index i = lane(); i < window_size(A); i += kLanes) {
    sum[0].norm = with_entry<Kind::kNorm, kScaled>(sum[0].norm, double(read(numbers + i)), q);
  }
  return {reduce_group(sum, combine), q};
}

template <typename T, typename Kind>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 1)
    concretize_windows_gradient_kernel(const ConcretizeWindowsGradientLaunch<T> args) {
  const ConcretizeWindowsGradientArguments<T>& op = args.op;
  const RowWindows<T>& A = op.A;
  const Region<T>& region = op.region;
  RowNorm<Kind> norms[2];
  if constexpr (RowNorm<Kind>::kNeeded) {
    if (args.sums == nullptr) {
      const Index source = source_of_warp(A);
#pragma unroll
      for (int side = 0; side < 2; ++side) {
        if (source < A.sources && side < side_count(op.sides))
          norms[side] = norm_of_source<Kind>(A, side, source, region.q);
      }
    }
  }
  add_by_sources<double>(A, op.sides, args.ranges, op.A_gradient, [&](const SourceRow<T>& at, auto& sums) {
    const Index begin = at.where.image * region.batch_stride + first_in_layer(A, at.where);
    const Pack<T> x_L = at.numbers.under(region.x_L + begin, T(0));
    const Pack<T> x_U = at.numbers.under(Kind::kBox ? region.x_U + begin : nullptr, T(0));
    const double eps = Kind::kBox ? 0.0 : radius_of(region, at.where.image);
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      if (side >= side_count(op.sides)) break;
      const Index row = side * A.rows + at.row;
      const double gradient = read(op.bounds_gradient + row);
      const RowNorm<Kind> norm = args.sums == nullptr ? norms[side] : read_row_norm<Kind>(args.sums + row, region.q);
#pragma unroll
      for (int i = 0; i < kOwn<T>; ++i) {
        sums[side][i] +=
            gradient * point_under<Kind>(at.a[side][i], x_L[i], x_U[i], is_lower(op.sides, side), eps, norm, region.q);
      }
    }
  });
}

}  // namespace lbp::cuda
