#include "cpu/kernels/ends_under_windows.h"
#include "cpu/kernels/forward_rows.h"
#include "cpu/kernels/region.h"
#include "cpu/kernels/simd.h"
#include "cpu/kernels/table.h"
#include "cpu/kernels/tile.h"

namespace lbp::LBP_ISA {
namespace {

// Sums over the input for a tile of neurons, one pair per neuron.
struct SumTile {
  alignas(64) double lower[kSums];
  alignas(64) double upper[kSums];

  void fill(double value) {
    for (Index j = 0; j < kSums; ++j) lower[j] = upper[j] = value;
  }
};

// The lower and upper coefficient of neuron j: center -/+ radius, added up in float64.
template <typename T>
LBP_HOST_DEVICE double lower_coefficient(const T* center, const T* radius, Index j) {
  return radius == nullptr ? double(center[j]) : double(center[j]) - double(radius[j]);
}

template <typename T>
LBP_HOST_DEVICE double upper_coefficient(const T* center, const T* radius, Index j) {
  return radius == nullptr ? double(center[j]) : double(center[j]) + double(radius[j]);
}

// The sums over a box for a tile of neurons; those of the magnitudes `(|center| + |radius|) |x|` where they are wanted.
struct BoxTile {
  SumTile sums;
  alignas(64) double magnitude[kSums];
};

// Adds the terms of a coefficient center -/+ radius of an input in [low, high] to the sums of its neuron.
template <bool kMagnitude>
void add_box_terms(double center, double radius, double low, double high, double& lower, double& upper,
                   double& magnitude) {
  const double a = center - radius, b = center + radius;
  lower += a * (a >= 0 ? low : high);
  upper += b * (b >= 0 ? high : low);
  if constexpr (kMagnitude) magnitude += (absolute(center) + absolute(radius)) * largest_magnitude_between(low, high);
}

// The terms of one input for neurons side by side.
template <bool kMagnitude, typename T>
void add_input(Index count, const T* __restrict center, const T* __restrict radius, double low, double high,
               double* __restrict lower, double* __restrict upper, double* __restrict magnitude) {
  if (radius == nullptr) {
#pragma omp simd
    for (Index j = 0; j < count; ++j) {
      add_box_terms<kMagnitude>(center[j], 0.0, low, high, lower[j], upper[j], magnitude[j]);
    }
  } else {
#pragma omp simd
    for (Index j = 0; j < count; ++j) {
      add_box_terms<kMagnitude>(center[j], radius[j], low, high, lower[j], upper[j], magnitude[j]);
    }
  }
}

// The terms of one entry of the windows of neurons side by side. What lies over the padding is selected away: it may be
// anything.
template <bool kMagnitude, typename T, typename Flag>
void add_entry(Index count, const T* __restrict center, const T* __restrict radius, const Flag* __restrict inside,
               const double* __restrict low, const double* __restrict high, double* __restrict lower,
               double* __restrict upper, double* __restrict magnitude) {
  if (radius == nullptr) {
#pragma omp simd
    for (Index j = 0; j < count; ++j) {
      const T c = center[j];
      add_box_terms<kMagnitude>(inside[j] != 0 ? c : T(0), 0.0, low[j], high[j], lower[j], upper[j], magnitude[j]);
    }
  } else {
#pragma omp simd
    for (Index j = 0; j < count; ++j) {
      const T c = center[j], r = radius[j];
      add_box_terms<kMagnitude>(inside[j] != 0 ? c : T(0), inside[j] != 0 ? r : T(0), low[j], high[j], lower[j],
                                upper[j], magnitude[j]);
    }
  }
}

template <bool kMagnitude, typename T>
void box_sums(const Region<T>& region, const DenseTile<T>& tile, BoxTile& box) {
  tile.for_segments([&](const Segment<T>& segment, auto) {
    const Index at = tile.image * region.batch_stride + segment.input;
    add_input<kMagnitude>(
        segment.count, segment.center, segment.radius, extreme_point(region.x_L[at], region.x_U[at], true),
        extreme_point(region.x_L[at], region.x_U[at], false), box.sums.lower, box.sums.upper, box.magnitude);
  });
}

template <bool kMagnitude, typename T>
void box_sums(const Region<T>& region, const WindowTile<T>& tile, BoxTile& box) {
  EndsUnderWindows<T> ends(region, tile);
  ends.for_entries([&](Index entry, Index first, Index stop) {
    for (Index number = 0; number < tile.channels; ++number) {
      const Index at = tile.at(entry, number, tile.top, tile.left) + first, to = number * tile.places() + first;
      const Segment<T> segment = tile.matrices.segment(tile.image, 0, at, to, stop - first, 0);
      add_entry<kMagnitude>(segment.count, segment.center, segment.radius, ends.inside + first, ends.low + first,
                            ends.high + first, box.sums.lower + to, box.sums.upper + to, box.magnitude + to);
    }
  });
}

// The largest coefficient of every neuron; NaN sticks, since the comparison with it is false.
template <typename T, typename Tile>
void largest_coefficients(const Tile& tile, SumTile& largest) {
  largest.fill(0);
  const auto take = [](double& so_far, double value) {
    so_far = so_far >= value ? so_far : (so_far == so_far ? value : so_far);
  };
  tile.for_segments([&](const Segment<T>& segment, auto) {
    for (Index j = 0; j < segment.count; ++j) {
      take(largest.lower[segment.first + j], absolute(lower_coefficient(segment.center, segment.radius, j)));
      take(largest.upper[segment.first + j], absolute(upper_coefficient(segment.center, segment.radius, j)));
    }
  });
}

// The dual norms of a tile of neurons, from the sums of their terms.
struct NormTile {
  SumTile norm, sum, largest;
};

// Whether the terms of a norm are added up without a look at all coefficients before: those of the l_1 norm, and
// squares of sums of two float32 numbers, which need no scale in float64.
template <Norm kNorm, typename T>
constexpr bool kUnscaled = kNorm == Norm::kOne || (kNorm == Norm::kTwo && sizeof(T) == sizeof(float));

// Rows of dense matrices that are read side by side, so that their sums go through registers once for all of them.
constexpr Index kRowsAtOnce = 4;

// Adds rows of dense matrices, `stride` apart: the coefficients times a point, and the terms of their norms.
template <Norm kNorm, bool kRadius, bool kPoint, Index kRows, typename T>
void add_rows(Index size, Index stride, const T* center, const T* radius, const T* point, SumTile& sums,
              SumTile& terms) {
  for_lanes<double>(0, size, [&](Index j, auto zero) LBP_LANES {
    using D = decltype(zero);
    const auto term = [](D a, D sum) LBP_LANES {
      if constexpr (kNorm == Norm::kOne) return sum + absolute(a);
      return multiply_add(a, a, sum);
    };
    D lower = zero, upper = zero;
    if constexpr (kPoint) lower = load<D>(sums.lower + j), upper = load<D>(sums.upper + j);
    D lower_terms = load<D>(terms.lower + j), upper_terms = load<D>(terms.upper + j);
    for (Index row = 0; row < kRows; ++row) {
      const D middle = load_wide<D>(center + row * stride + j);
      D half = zero;
      if constexpr (kRadius) half = load_wide<D>(radius + row * stride + j);
      const D a = middle - half, b = middle + half;
      if constexpr (kPoint) {
        const D x = constant<D>(point[row]);
        lower = multiply_add(a, x, lower), upper = multiply_add(b, x, upper);
      }
      lower_terms = term(a, lower_terms), upper_terms = term(b, upper_terms);
    }
    if constexpr (kPoint) save(sums.lower + j, lower), save(sums.upper + j, upper);
    save(terms.lower + j, lower_terms), save(terms.upper + j, upper_terms);
  });
}

// Adds the terms of the norms of a dense tile, and, where there is a point, the coefficients times that.
template <Norm kNorm, bool kPoint, typename T>
void add_tile(const DenseTile<T>& tile, const T* point, SumTile& sums, SumTile& terms) {
  const auto add = [&](Index input, auto rows) {
    const Segment<T> row = tile.matrices.segment(tile.image, 0, input * tile.neurons + tile.begin, 0, tile.size, input);
    with_flag(row.radius != nullptr, [&](auto has_radius) {
      add_rows<kNorm, has_radius, kPoint, rows>(tile.size, tile.neurons, row.center, row.radius, point + input, sums,
                                                terms);
    });
  };
  Index input = 0;
  for (; input + kRowsAtOnce <= tile.inputs; input += kRowsAtOnce) add(input, Step<kRowsAtOnce>());
  for (; input < tile.inputs; ++input) add(input, Step<1>());
}

// The norms of a tile from the sums of their terms.
template <Norm kNorm>
void finish_norms(Index size, double q, NormTile& result) {
  for (Index j = 0; j < size; ++j) {
    result.norm.lower[j] = norm_of<kNorm>(result.sum.lower[j], result.largest.lower[j], q);
    result.norm.upper[j] = norm_of<kNorm>(result.sum.upper[j], result.largest.upper[j], q);
  }
}

template <typename T, typename Tile>
void norms(double q, const Tile& tile, NormTile& result) {
  with_norm(q, [&](auto kind) {
    if constexpr (kUnscaled<kind, T>) {
      result.largest.fill(1);
    } else {
      largest_coefficients<T>(tile, result.largest);
    }
    result.sum.fill(0);
    if constexpr (kUnscaled<kind, T> && std::is_same_v<Tile, DenseTile<T>>) {
      add_tile<kind, false, T>(tile, nullptr, result.sum, result.sum);
    } else if constexpr (kind != Norm::kInfinity) {
      const auto term = [=](double a, double largest) {
        return norm_term<kind>(a, kind == Norm::kOne ? 1.0 : inverse_scale(largest), q);
      };
      tile.for_segments([&](const Segment<T>& segment, auto) {
        for (Index j = 0; j < segment.count; ++j) {
          const Index at = segment.first + j;
          const double a = lower_coefficient(segment.center, segment.radius, j);
          const double b = upper_coefficient(segment.center, segment.radius, j);
          result.sum.lower[at] += term(a, result.largest.lower[at]);
          result.sum.upper[at] += term(b, result.largest.upper[at]);
        }
      });
    }
    finish_norms<kind>(tile.size, q, result);
  });
}

// The coefficients of a tile times the center of the ball.
template <typename T, typename Tile>
void center_sums(const Region<T>& region, const Tile& tile, SumTile& sums) {
  tile.for_segments([&](const Segment<T>& segment, auto step) {
    const T* x = region.x_L + tile.image * region.batch_stride + segment.input;
    for (Index j = 0; j < segment.count; ++j) {
      const double point = x[j * step];
      sums.lower[segment.first + j] += lower_coefficient(segment.center, segment.radius, j) * point;
      sums.upper[segment.first + j] += upper_coefficient(segment.center, segment.radius, j) * point;
    }
  });
}

template <typename T, typename Tile>
void ball_sums(const Region<T>& region, const Tile& tile, SumTile& sums) {
  NormTile tile_norms;
  sums.fill(0);
  with_norm(region.q, [&](auto kind) {
    if constexpr (kUnscaled<kind, T> && std::is_same_v<Tile, DenseTile<T>>) {
      // One pass over the matrices for both sums.
      tile_norms.largest.fill(1);
      tile_norms.sum.fill(0);
      add_tile<kind, true>(tile, region.x_L + tile.image * region.batch_stride, sums, tile_norms.sum);
      finish_norms<kind>(tile.size, region.q, tile_norms);
    } else {
      center_sums(region, tile, sums);
      norms<T>(region.q, tile, tile_norms);
    }
  });
  const double eps = radius_of(region, tile.image);
  for (Index j = 0; j < tile.size; ++j) {
    sums.lower[j] -= eps * tile_norms.norm.lower[j];
    sums.upper[j] += eps * tile_norms.norm.upper[j];
  }
}

// l and u of all neurons, from rows of either kind; `args` says what is the same for both.
template <typename T, typename Rows, typename Arguments>
void bounds_of_rows(const Rows& rows, Index neurons, const Arguments& args) {
  const Index tiles = rows.tiles();
  parallel_for(args.batch * tiles, 2 * rows.cost(), [&](Index first, Index last) {
    BoxTile box;
    SumTile& sums = box.sums;
    for (Index item = first; item < last; ++item) {
      const auto tile = rows.tile(item / tiles, item % tiles);
      if (args.region.x_U == nullptr) {
        ball_sums(args.region, tile, sums);
      } else if (args.magnitude == nullptr) {
        sums.fill(0);
        box_sums<false>(args.region, tile, box);
      } else {
        box = {};
        box_sums<true>(args.region, tile, box);
      }
      const Index in = tile.image * args.bias_batch_stride + tile.begin, out = tile.image * neurons + tile.begin;
      const T* center_bias = args.center_bias + in;
      const T* radius_bias = args.radius_bias == nullptr ? nullptr : args.radius_bias + in;
      for (Index j = 0; j < tile.size; ++j) {
        args.l[out + j] = T(sums.lower[j] + lower_coefficient(center_bias, radius_bias, j));
        args.u[out + j] = T(sums.upper[j] + upper_coefficient(center_bias, radius_bias, j));
      }
      if (args.magnitude != nullptr) {
        for (Index j = 0; j < tile.size; ++j) args.magnitude[out + j] = T(box.magnitude[j]);
      }
    }
  });
}

// The maximum norm shares its gradient among the ties of the largest coefficient: their number takes the place of the
// sum.
template <typename T, typename Tile>
void count_ties(const Tile& tile, NormTile& norms) {
  norms.sum.fill(0);
  tile.for_segments([&](const Segment<T>& segment, auto) {
    for (Index j = 0; j < segment.count; ++j) {
      const Index at = segment.first + j;
      const double a = absolute(lower_coefficient(segment.center, segment.radius, j));
      const double b = absolute(upper_coefficient(segment.center, segment.radius, j));
      norms.sum.lower[at] += a == norms.largest.lower[at] ? 1 : 0;
      norms.sum.upper[at] += b == norms.largest.upper[at] ? 1 : 0;
    }
  });
}

// Writes the gradients of a segment of center and radius: those of the bounds, where counts(j), times the points at
// which the lower and the upper coefficients act, lower_point(a, j) and upper_point(a, j).
template <typename T, typename Arguments, typename LowerPoint, typename UpperPoint, typename Counts>
void store_segment(const Arguments& args, const T* l_gradient, const T* u_gradient, const Segment<T>& segment,
                   const LowerPoint& lower_point, const UpperPoint& upper_point, const Counts& counts) {
  const T* __restrict to_l = l_gradient + segment.first;
  const T* __restrict to_u = u_gradient + segment.first;
  const T* __restrict center = segment.center;
  const T* __restrict radius = segment.radius;
  T* __restrict to_center = args.center_gradient + segment.out;
  if (radius == nullptr) {
#pragma omp simd
    for (Index j = 0; j < segment.count; ++j) {
      const double a = center[j];
      const T to_lower = selected(counts(j), to_l[j], T(0)), to_upper = selected(counts(j), to_u[j], T(0));
      to_center[j] = T(to_upper * upper_point(a, j) + to_lower * lower_point(a, j));
    }
  } else {
    T* __restrict to_radius = args.radius_gradient + segment.out;
#pragma omp simd
    for (Index j = 0; j < segment.count; ++j) {
      const T to_lower = selected(counts(j), to_l[j], T(0)), to_upper = selected(counts(j), to_u[j], T(0));
      const double lower = to_lower * lower_point(lower_coefficient(center, radius, j), j);
      const double upper = to_upper * upper_point(upper_coefficient(center, radius, j), j);
      to_center[j] = T(upper + lower);
      to_radius[j] = T(upper - lower);
    }
  }
}

// The gradients of a tile's coefficients over a box.
template <typename T, typename Arguments>
void store_box_gradients(const Arguments& args, const DenseTile<T>& tile, const T* l_gradient, const T* u_gradient) {
  tile.for_segments([&](const Segment<T>& segment, auto) {
    const Index at = tile.image * args.region.batch_stride + segment.input;
    const double low = extreme_point(args.region.x_L[at], args.region.x_U[at], true),
                 high = extreme_point(args.region.x_L[at], args.region.x_U[at], false);
    store_segment(
        args, l_gradient, u_gradient, segment, [=](double a, Index) { return a >= 0 ? low : high; },
        [=](double a, Index) { return a >= 0 ? high : low; }, [](Index) { return true; });
  });
}

template <typename T, typename Arguments>
void store_box_gradients(const Arguments& args, const WindowTile<T>& tile, const T* l_gradient, const T* u_gradient) {
  EndsUnderWindows<T> ends(args.region, tile);
  ends.for_entries([&](Index entry, Index first, Index stop) {
    const auto* inside = ends.inside + first;
    const double *low = ends.low + first, *high = ends.high + first;
    for (Index number = 0; number < tile.channels; ++number) {
      const Index at = tile.at(entry, number, tile.top, tile.left) + first, to = number * tile.places() + first;
      store_segment(
          args, l_gradient, u_gradient, tile.matrices.segment(tile.image, tile.image_size(), at, to, stop - first, 0),
          [=](double a, Index j) { return selected(a >= 0, low[j], high[j]); },
          [=](double a, Index j) { return selected(a >= 0, high[j], low[j]); },
          [=](Index j) { return inside[j] != 0; });
    }
  });
}

// The same over a Euclidean ball, whose norms have the slope a / norm: a quotient of each neuron instead of each
// coefficient. Norms of float32 numbers are 0 or so far from it that their inverse is finite.
template <typename T, typename Tile, typename Arguments>
void store_euclidean_gradients(const Arguments& args, const Tile& tile, const T* l_gradient, const T* u_gradient,
                               double eps, const SumTile& norm) {
  SumTile scale;
  for (Index j = 0; j < tile.size; ++j) {
    scale.lower[j] = norm.lower[j] > 0 ? eps / norm.lower[j] : 0.0;
    scale.upper[j] = norm.upper[j] > 0 ? eps / norm.upper[j] : 0.0;
  }
  tile.for_segments([&](const Segment<T>& segment, auto step) {
    const T* x = args.region.x_L + tile.image * args.region.batch_stride + segment.input;
    const double *scale_l = scale.lower + segment.first, *scale_u = scale.upper + segment.first;
    store_segment(
        args, l_gradient, u_gradient, segment, [=](double a, Index j) { return x[j * step] - a * scale_l[j]; },
        [=](double a, Index j) { return x[j * step] + a * scale_u[j]; }, [](Index) { return true; });
  });
}

// The gradients of a tile's coefficients over a ball, from their norms.
template <typename T, typename Tile, typename Arguments>
void store_ball_gradients(const Arguments& args, const Tile& tile, const T* l_gradient, const T* u_gradient,
                          const NormTile& norms) {
  const Region<T>& region = args.region;
  const double eps = radius_of(region, tile.image), q = region.q;
  with_norm(q, [&](auto kind) {
    if constexpr (kind == Norm::kTwo && kUnscaled<kind, T>) {
      store_euclidean_gradients(args, tile, l_gradient, u_gradient, eps, norms.norm);
      return;
    }
    tile.for_segments([&](const Segment<T>& segment, auto step) {
      const T* x = region.x_L + tile.image * region.batch_stride + segment.input;
      const Index first = segment.first;
      const double *norm_l = norms.norm.lower + first, *norm_u = norms.norm.upper + first;
      const double *sum_l = norms.sum.lower + first, *sum_u = norms.sum.upper + first;
      const double *largest_l = norms.largest.lower + first, *largest_u = norms.largest.upper + first;
      store_segment(
          args, l_gradient, u_gradient, segment,
          [=](double a, Index j) {
            return x[j * step] - eps * norm_slope<kind>(a, norm_l[j], sum_l[j], largest_l[j], q);
          },
          [=](double a, Index j) {
            return x[j * step] + eps * norm_slope<kind>(a, norm_u[j], sum_u[j], largest_u[j], q);
          },
          [](Index) { return true; });
    });
  });
}

template <typename T, typename Rows, typename Arguments>
void gradients_of_rows(const Rows& rows, Index neurons, const Arguments& args) {
  const Index tiles = rows.tiles();
  const Region<T>& region = args.region;
  parallel_for(args.batch * tiles, 4 * rows.cost(), [&](Index first, Index last) {
    NormTile tile_norms;
    for (Index item = first; item < last; ++item) {
      const auto tile = rows.tile(item / tiles, item % tiles);
      const T* l_gradient = args.l_gradient + tile.image * neurons + tile.begin;
      const T* u_gradient = args.u_gradient + tile.image * neurons + tile.begin;
      if (region.x_U != nullptr) {
        store_box_gradients(args, tile, l_gradient, u_gradient);
        continue;
      }
      norms<T>(region.q, tile, tile_norms);
      if (norm_kind(region.q) == Norm::kInfinity) count_ties<T>(tile, tile_norms);
      store_ball_gradients(args, tile, l_gradient, u_gradient, tile_norms);
    }
  });
}

// Neurons of a tile whose matrices are read twice, for the norms and for their slopes: so few that what was read first
// is in the second cache still, unless that leaves runs too short for the hardware to look ahead.
template <typename T>
Index read_twice_width(Index inputs) {
  constexpr Index kSecondCache = Index(1) << 20, kShortest = 128;
  const Index fitting = kSecondCache / maximum(1, 2 * inputs * Index(sizeof(T)));
  Index width = kSums;
  while (width > fitting && width > kShortest) width /= 2;
  return width > fitting ? kSums : width;
}

template <typename T, typename Arguments>
DenseRows<T> dense_rows(const Arguments& args) {
  return {{args.center, args.radius, args.matrix_batch_stride}, args.inputs, args.neurons};
}

template <typename T, typename Arguments>
WindowRows<T> window_rows(const Arguments& args) {
  return {{args.center, args.radius, args.matrix_batch_stride}, args.windows};
}

Index neurons_of(const Windows& windows) { return windows.channels * windows.height * windows.width; }

}  // namespace

template <typename T>
void concretize_forward(const ConcretizeForwardArguments<T>& args) {
  bounds_of_rows<T>(dense_rows<T>(args), args.neurons, args);
}

template <typename T>
void concretize_forward_gradient(const ConcretizeForwardGradientArguments<T>& args) {
  DenseRows<T> rows = dense_rows<T>(args);
  // Gradients over a box need no norms, and read the matrices once.
  if (args.region.x_U == nullptr) rows.width = read_twice_width<T>(args.inputs);
  gradients_of_rows<T>(rows, args.neurons, args);
}

template <typename T>
void concretize_forward_windows(const ConcretizeForwardWindowsArguments<T>& args) {
  bounds_of_rows<T>(window_rows<T>(args), neurons_of(args.windows), args);
}

template <typename T>
void concretize_forward_windows_gradient(const ConcretizeForwardWindowsGradientArguments<T>& args) {
  gradients_of_rows<T>(window_rows<T>(args), neurons_of(args.windows), args);
}

#define LBP_INSTANTIATE(T)                                                                 \
  template void concretize_forward(const ConcretizeForwardArguments<T>&);                  \
  template void concretize_forward_gradient(const ConcretizeForwardGradientArguments<T>&); \
  template void concretize_forward_windows(const ConcretizeForwardWindowsArguments<T>&);   \
  template void concretize_forward_windows_gradient(const ConcretizeForwardWindowsGradientArguments<T>&);

LBP_INSTANTIATE(float)
LBP_INSTANTIATE(double)

}  // namespace lbp::LBP_ISA
