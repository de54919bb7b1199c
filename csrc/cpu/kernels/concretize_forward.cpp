#include "cpu/kernels/region.h"
#include "cpu/kernels/table.h"
#include "cpu/kernels/tile.h"

namespace lbp::LBP_ISA {
namespace {

// Neurons in a tile here: two sums in float64 each, beside the rows that stream past.
constexpr Index kSums = 512;

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

// Runs body(input i, row of center, row of radius) over the rows of one image's tile.
template <typename T, typename Arguments, typename Body>
void for_rows(const Arguments& args, Index image, Index begin, const Body& body) {
  for (Index i = 0; i < args.inputs; ++i) {
    const Index at = image * args.matrix_batch_stride + i * args.neurons + begin;
    const T* radius = args.radius;
    body(i, args.center + at, radius == nullptr ? nullptr : radius + at);
  }
}

template <typename T>
void box_sums(const ConcretizeForwardArguments<T>& args, Index image, Index begin, Index size, SumTile& sums) {
  const T* x_L = args.region.x_L + image * args.region.batch_stride;
  const T* x_U = args.region.x_U + image * args.region.batch_stride;
  sums.fill(0);
  for_rows<T>(args, image, begin, [&](Index i, const T* __restrict center, const T* __restrict radius) {
    const double low = extreme_point(x_L[i], x_U[i], true), high = extreme_point(x_L[i], x_U[i], false);
    if (radius == nullptr) {
      for (Index j = 0; j < size; ++j) {
        const double a = center[j];
        sums.lower[j] += a * (a >= 0 ? low : high);
        sums.upper[j] += a * (a >= 0 ? high : low);
      }
    } else {
      for (Index j = 0; j < size; ++j) {
        const double a = lower_coefficient(center, radius, j), b = upper_coefficient(center, radius, j);
        sums.lower[j] += a * (a >= 0 ? low : high);
        sums.upper[j] += b * (b >= 0 ? high : low);
      }
    }
  });
}

// The largest coefficient of every neuron; NaN sticks, since the comparison with it is false.
template <typename T, typename Arguments>
void largest_coefficients(const Arguments& args, Index image, Index begin, Index size, SumTile& largest) {
  largest.fill(0);
  for_rows<T>(args, image, begin, [&](Index, const T* __restrict center, const T* __restrict radius) {
    for (Index j = 0; j < size; ++j) {
      const double a = absolute(lower_coefficient(center, radius, j)),
                   b = absolute(upper_coefficient(center, radius, j));
      largest.lower[j] =
          largest.lower[j] >= a ? largest.lower[j] : (largest.lower[j] == largest.lower[j] ? a : largest.lower[j]);
      largest.upper[j] =
          largest.upper[j] >= b ? largest.upper[j] : (largest.upper[j] == largest.upper[j] ? b : largest.upper[j]);
    }
  });
}

// The dual norms of a tile of neurons, from the sums of their terms.
struct NormTile {
  SumTile norm, sum, largest;
};

template <typename T, typename Arguments>
void norms(const Arguments& args, Index image, Index begin, Index size, NormTile& tile) {
  const double q = args.region.q;
  with_norm(q, [&](auto kind) {
    if constexpr (kind != Norm::kOne) largest_coefficients<T>(args, image, begin, size, tile.largest);
    tile.sum.fill(0);
    if constexpr (kind != Norm::kInfinity) {
      for_rows<T>(args, image, begin, [&](Index, const T* __restrict center, const T* __restrict radius) {
        for (Index j = 0; j < size; ++j) {
          const double a = lower_coefficient(center, radius, j), b = upper_coefficient(center, radius, j);
          tile.sum.lower[j] += norm_term<kind>(a, kind == Norm::kOne ? 1.0 : inverse_scale(tile.largest.lower[j]), q);
          tile.sum.upper[j] += norm_term<kind>(b, kind == Norm::kOne ? 1.0 : inverse_scale(tile.largest.upper[j]), q);
        }
      });
    }
    for (Index j = 0; j < size; ++j) {
      tile.norm.lower[j] = norm_of<kind>(tile.sum.lower[j], tile.largest.lower[j], q);
      tile.norm.upper[j] = norm_of<kind>(tile.sum.upper[j], tile.largest.upper[j], q);
    }
  });
}

template <typename T>
void ball_sums(const ConcretizeForwardArguments<T>& args, Index image, Index begin, Index size, SumTile& sums) {
  const T* x0 = args.region.x_L + image * args.region.batch_stride;
  const double eps = args.region.eps[image * args.region.eps_stride];
  sums.fill(0);
  for_rows<T>(args, image, begin, [&](Index i, const T* __restrict center, const T* __restrict radius) {
    const double x = x0[i];
    for (Index j = 0; j < size; ++j) {
      sums.lower[j] += lower_coefficient(center, radius, j) * x;
      sums.upper[j] += upper_coefficient(center, radius, j) * x;
    }
  });
  NormTile tile;
  norms<T>(args, image, begin, size, tile);
  for (Index j = 0; j < size; ++j) {
    sums.lower[j] -= eps * tile.norm.lower[j];
    sums.upper[j] += eps * tile.norm.upper[j];
  }
}

}  // namespace

template <typename T>
void concretize_forward(const ConcretizeForwardArguments<T>& args) {
  const Index tiles = quotient_up(args.neurons, kSums);
  parallel_for(args.batch * tiles, 2 * (args.inputs + 1) * minimum(args.neurons, kSums), [&](Index first, Index last) {
    SumTile sums;
    for (Index item = first; item < last; ++item) {
      const Index image = item / tiles, begin = item % tiles * kSums, size = minimum(kSums, args.neurons - begin);
      if (args.region.x_U != nullptr) {
        box_sums(args, image, begin, size, sums);
      } else {
        ball_sums(args, image, begin, size, sums);
      }
      const T* center_bias = args.center_bias + image * args.bias_batch_stride + begin;
      const T* radius_bias =
          args.radius_bias == nullptr ? nullptr : args.radius_bias + image * args.bias_batch_stride + begin;
      for (Index j = 0; j < size; ++j) {
        args.l[image * args.neurons + begin + j] = T(sums.lower[j] + lower_coefficient(center_bias, radius_bias, j));
        args.u[image * args.neurons + begin + j] = T(sums.upper[j] + upper_coefficient(center_bias, radius_bias, j));
      }
    }
  });
}

namespace {

// The maximum norm shares its gradient among the ties of the largest coefficient: their number takes the place of the
// sum.
template <typename T>
void count_ties(const ConcretizeForwardGradientArguments<T>& args, Index image, Index begin, Index size,
                NormTile& tile) {
  tile.sum.fill(0);
  for_rows<T>(args, image, begin, [&](Index, const T* __restrict center, const T* __restrict radius) {
    for (Index j = 0; j < size; ++j) {
      tile.sum.lower[j] += absolute(lower_coefficient(center, radius, j)) == tile.largest.lower[j] ? 1 : 0;
      tile.sum.upper[j] += absolute(upper_coefficient(center, radius, j)) == tile.largest.upper[j] ? 1 : 0;
    }
  });
}

// Writes the gradients of one row of center and radius from the points at which lower and upper coefficient act.
template <typename T, typename Point>
void store_row(const ConcretizeForwardGradientArguments<T>& args, Index image, Index i, Index begin, Index size,
               const T* __restrict center, const T* __restrict radius, const Point& point) {
  const T* __restrict l_gradient = args.l_gradient + image * args.neurons + begin;
  const T* __restrict u_gradient = args.u_gradient + image * args.neurons + begin;
  const Index out = (image * args.inputs + i) * args.neurons + begin;
  for (Index j = 0; j < size; ++j) {
    const double lower = l_gradient[j] * point(lower_coefficient(center, radius, j), j, true);
    const double upper = u_gradient[j] * point(upper_coefficient(center, radius, j), j, false);
    args.center_gradient[out + j] = T(upper + lower);
    if (args.radius_gradient != nullptr) args.radius_gradient[out + j] = T(upper - lower);
  }
}

}  // namespace

template <typename T>
void concretize_forward_gradient(const ConcretizeForwardGradientArguments<T>& args) {
  const Index tiles = quotient_up(args.neurons, kSums);
  const Region<T>& region = args.region;
  parallel_for(args.batch * tiles, 4 * (args.inputs + 1) * minimum(args.neurons, kSums), [&](Index first, Index last) {
    NormTile tile;
    for (Index item = first; item < last; ++item) {
      const Index image = item / tiles, begin = item % tiles * kSums, size = minimum(kSums, args.neurons - begin);
      const T* x = region.x_L + image * region.batch_stride;
      if (region.x_U != nullptr) {
        const T* x_U = region.x_U + image * region.batch_stride;
        for_rows<T>(args, image, begin, [&](Index i, const T* center, const T* radius) {
          const double low = extreme_point(x[i], x_U[i], true), high = extreme_point(x[i], x_U[i], false);
          store_row(args, image, i, begin, size, center, radius,
                    [=](double a, Index, bool lower) { return (a >= 0) == lower ? low : high; });
        });
        continue;
      }
      const double eps = region.eps[image * region.eps_stride];
      norms<T>(args, image, begin, size, tile);
      if (norm_kind(region.q) == Norm::kInfinity) count_ties(args, image, begin, size, tile);
      with_norm(region.q, [&](auto kind) {
        for_rows<T>(args, image, begin, [&](Index i, const T* center, const T* radius) {
          store_row(args, image, i, begin, size, center, radius, [&](double a, Index j, bool lower) {
            return lower ? x[i] - eps * norm_slope<kind>(a, tile.norm.lower[j], tile.sum.lower[j],
                                                         tile.largest.lower[j], region.q)
                         : x[i] + eps * norm_slope<kind>(a, tile.norm.upper[j], tile.sum.upper[j],
                                                         tile.largest.upper[j], region.q);
          });
        });
      });
    }
  });
}

#define LBP_INSTANTIATE(T)                                                \
  template void concretize_forward(const ConcretizeForwardArguments<T>&); \
  template void concretize_forward_gradient(const ConcretizeForwardGradientArguments<T>&);

LBP_INSTANTIATE(float)
LBP_INSTANTIATE(double)

}  // namespace lbp::LBP_ISA
