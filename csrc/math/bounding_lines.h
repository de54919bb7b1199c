// The bounding-line table (Lyu et al. 2021, sections 3 and 5, Table 2), the only copy that kernels use.
//
// In floating point every line is valid in exact arithmetic: its slope is whatever rounding made of it, and its
// intercept is then rounded outward (a line that is pinned to a point has its slope rounded outward first). All
// functions are free of branches, so that loops over neurons vectorise.
#pragma once

#include "math/config.h"
#include "math/ramp.h"

namespace lbp {

// The codes of lbp/strategies.py.
enum class Strategy : int {
  kConstant = 0,
  kTight = 1,
  kAdaptive = 2,
  kSameSlope = 3,
  kZero = 4,
  kOne = 5,
  kSlopes = 6,
  kLines = 7
};

// Whether lines, or their slopes, are given by the caller; other strategies read none.
LBP_HOST_DEVICE constexpr bool reads_given(Strategy strategy) {
  return strategy == Strategy::kSlopes || strategy == Strategy::kLines;
}

// lower_slope z + lower_intercept <= act(z) <= upper_slope z + upper_intercept on [l, u].
template <typename T>
struct BoundingLines {
  T lower_slope, lower_intercept, upper_slope, upper_intercept;
};

// Slopes asked for by the caller (kSlopes; a side without one gets the adaptive choice), or whole lines (kLines).
template <typename T>
struct GivenLines {
  T lower_slope, lower_intercept, upper_slope, upper_intercept;
  bool has_lower, has_upper;
};

// The status of a neuron: 0 left dead, 1 left unstable, 2 alive, 3 right unstable, 4 right dead, 5 unstable, of which
// the first that matches decides; 6 where a bound is NaN, or r is not positive.
template <typename T>
LBP_HOST_DEVICE int neuron_status(T l, T u, T r) {
  const T low = l <= u ? l : u, high = l <= u ? u : l;
  const bool negative = (low < T(0)), beyond = (high > r);
  int status = negative ? (beyond ? 5 : 1) : (beyond ? (low < r ? 3 : 4) : 2);
  status = high <= T(0) ? 0 : status;
  const bool defined = (l == l) & (u == u) & (r > T(0));
  return defined ? status : 6;
}

namespace detail {

// No formula below makes more roundings, each of at most epsilon / 2, than this between its inputs and its result.
constexpr int kRoundings = 8;

template <typename T>
LBP_HOST_DEVICE T round_up(T x) {
  return x + (T(kRoundings / 2) * Float<T>::epsilon * absolute(x) + Float<T>::smallest_normal);
}

template <typename T>
LBP_HOST_DEVICE T round_down(T x) {
  return x - (T(kRoundings / 2) * Float<T>::epsilon * absolute(x) + Float<T>::smallest_normal);
}

// Keeps denominators away from 0, so that quotients and their gradients stay finite.
template <typename T>
LBP_HOST_DEVICE T floored(T gap) {
  return larger(gap, T(4) * Float<T>::smallest_normal);
}

// A number of a quotient that not every status uses. On a GPU the others divide 1 by 1: 0, infinity and whatever else
// is out of range would send the whole warp through the slow path of the division.
template <typename T>
LBP_HOST_DEVICE T where_used([[maybe_unused]] bool used, T x) {
#if defined(__CUDA_ARCH__) || defined(LBP_EMULATE)
  return used ? x : T(1);
#else
  return x;
#endif
}

// Everything that values and gradients of the lines share; members that a status does not use hold arbitrary numbers.
template <typename T>
struct Neuron {
  T l, u, r, eta, complement;  // complement = 1 - eta
  T reached;                   // min(u, r): where the rising part ends
  T rise_gap, rise_share;      // chord from (l, eta l) to (reached, reached): slope eta + complement * rise_share
  T width, fall_share;         // chord from (l, l) to (u, act(u)), 0 <= l < r < u: slope eta + complement * fall_share
  T across_share;              // chord from (l, eta l) to (u, act(u)), l < 0 < u: slope eta + complement * across_share
  bool beyond, exact_offset;   // u > r; u > r, and (1 - eta) r carries no rounding error
  bool left_dead, left_unstable, alive, right_unstable, right_dead, unstable, undefined;
};

// kBends: whether r may be finite. If not, three of six statuses, and the quotients that only they use, drop out.
template <bool kBends, typename T>
LBP_HOST_DEVICE Neuron<T> neuron(T l, T u, T r, T eta) {
  Neuron<T> x;
  x.l = l <= u ? l : u;
  x.u = l <= u ? u : l;
  x.r = r;
  x.eta = eta;
  x.complement = T(1) - eta;
  x.reached = smaller(x.u, r);
  x.beyond = kBends && x.u > r;
  const bool negative = x.l < T(0), beyond = x.beyond;
  // Not of eta alone: GCC vectorises no selection by a condition that all neurons share.
  x.exact_offset = beyond & ((eta == T(0)) | (eta == T(1)));
  x.left_dead = x.u <= T(0);
  x.left_unstable = negative & !x.left_dead & !beyond;
  x.alive = !negative & !x.left_dead & !beyond;
  x.right_unstable = !negative & beyond & (x.l < r);
  x.right_dead = beyond & (x.l >= r);
  x.unstable = negative & beyond;
  x.undefined = (l != l) | (u != u) | !ramp_defined(r, eta);
  const bool crossing = x.left_unstable | x.unstable;
  x.rise_gap = floored(where_used(crossing, x.reached - x.l));
  x.rise_share = where_used(crossing, x.reached) / x.rise_gap;
  x.width = floored(where_used(crossing | x.right_unstable, x.u - x.l));
  x.fall_share = where_used(x.right_unstable, r - x.l) / x.width;
  x.across_share = where_used(crossing, x.reached) / x.width;
  return x;
}

// Slope of the line from (l, eta l) to (reached, reached).
template <typename T>
LBP_HOST_DEVICE T rising_slope(const Neuron<T>& x) {
  return smaller(x.eta + x.complement * x.rise_share, T(1));
}

// Slope, rounded down, of the chord of a right unstable neuron.
template <typename T>
LBP_HOST_DEVICE T falling_slope(const Neuron<T>& x) {
  return larger(round_down(x.eta + x.complement * x.fall_share), x.eta);
}

// Largest admissible slope of a lower line through the origin: 1, or the slope to (u, act(u)) where u > r.
template <typename T>
LBP_HOST_DEVICE T steepest_lower_slope(const Neuron<T>& x) {
  const T share = where_used(x.beyond, x.r) / floored(where_used(x.beyond, x.u));
  const T through_end = larger(round_down(x.eta + x.complement * share), x.eta);
  return x.beyond ? through_end : T(1);
}

// Largest admissible slope of an upper line through (r, r).
template <typename T>
LBP_HOST_DEVICE T steepest_upper_slope(const Neuron<T>& x) {
  return x.l < T(0) ? rising_slope(x) : T(1);
}

// Slope of the chord of a neuron that bends at r, whether or not it bends at 0 too.
template <typename T>
LBP_HOST_DEVICE T chord_slope(const Neuron<T>& x) {
  return x.eta + x.complement * (x.l < T(0) ? x.across_share : x.fall_share);
}

// NaN stays NaN: both comparisons are false.
template <typename T>
LBP_HOST_DEVICE T clamped(T slope, T least, T most) {
  return slope < least ? least : (slope > most ? most : slope);
}

// Smallest intercept, rounded up, that keeps a line of this slope above the activation at l and at the end of the rise.
template <typename T>
LBP_HOST_DEVICE T upper_intercept(const Neuron<T>& x, T slope) {
  const T at_l = (slope - x.eta) * -x.l;
  const T at_end = (T(1) - slope) * x.reached;
  return round_up(larger(at_l, at_end));
}

// Of the lines through (r, r), adaptive takes the one of slope eta where the part beyond r is the longer one.
template <typename T>
LBP_HOST_DEVICE bool prefers_flat_upper(const Neuron<T>& x) {
  return x.u - x.r > x.r - x.l;
}

template <typename T>
LBP_HOST_DEVICE bool prefers_flat_lower(const Neuron<T>& x) {
  return -x.l > x.u;
}

template <Strategy kStrategy, typename T>
LBP_HOST_DEVICE T free_lower_slope(const Neuron<T>& x, const GivenLines<T>& given) {
  if constexpr (kStrategy == Strategy::kTight || kStrategy == Strategy::kZero) {
    return x.eta;
  } else if constexpr (kStrategy == Strategy::kOne) {
    return steepest_lower_slope(x);
  } else if constexpr (kStrategy == Strategy::kSameSlope) {
    return clamped(x.eta + x.complement * x.across_share, x.eta, steepest_lower_slope(x));
  } else {
    const T most = steepest_lower_slope(x);
    const T adaptive = prefers_flat_lower(x) ? x.eta : most;
    if constexpr (kStrategy == Strategy::kSlopes) {
      return given.has_lower ? clamped(given.lower_slope, x.eta, most) : adaptive;
    } else {
      return adaptive;
    }
  }
}

}  // namespace detail

// The lines of one neuron. `given` is read by kSlopes and kLines only; kBends is false where r is known to be infinite.
template <Strategy kStrategy, bool kBends = true, typename T>
LBP_HOST_DEVICE BoundingLines<T> bounding_lines(T l, T u, T r, T eta, const GivenLines<T>& given) {
  if constexpr (kStrategy == Strategy::kLines) {
    return {given.lower_slope, given.lower_intercept, given.upper_slope, given.upper_intercept};
  } else if constexpr (kStrategy == Strategy::kConstant) {
    const T low = l <= u ? l : u, high = l <= u ? u : l;
    const bool exact = eta == T(0);
    const T at_low = ramp(low, r, eta), at_high = ramp(high, r, eta);
    const bool low_exact = exact | ((low >= T(0)) & (low <= r)), high_exact = exact | ((high >= T(0)) & (high <= r));
    const bool undefined = (l != l) | (u != u) | !ramp_defined(r, eta);
    const T zero = undefined ? quiet_nan<T>() : T(0);
    return {zero, zero + (low_exact ? at_low : detail::round_down(at_low)), zero,
            zero + (high_exact ? at_high : detail::round_up(at_high))};
  } else {
    const detail::Neuron<T> x = detail::neuron<kBends>(l, u, r, eta);
    const T offset = x.complement * r;
    const T offset_up = x.exact_offset ? offset : detail::round_up(offset);
    const T offset_down = x.exact_offset ? offset : detail::round_down(offset);

    BoundingLines<T> lines;
    lines.lower_slope = x.alive ? T(1) : eta;
    lines.lower_slope =
        x.left_unstable | x.unstable ? detail::free_lower_slope<kStrategy>(x, given) : lines.lower_slope;
    const T falling = detail::falling_slope(x);
    lines.lower_slope = x.right_unstable ? falling : lines.lower_slope;
    lines.lower_intercept = x.right_unstable ? detail::round_down((T(1) - falling) * x.l) : T(0);
    lines.lower_intercept = x.right_dead ? offset_down : lines.lower_intercept;

    const bool bent = x.right_unstable | x.unstable;
    T slope = eta;  // of the upper line of neurons that bend at r
    bool flat = true;
    if constexpr (kStrategy != Strategy::kTight) {
      const T steepest = detail::steepest_upper_slope(x);
      flat = detail::prefers_flat_upper(x);
      slope = flat ? eta : steepest;
      if constexpr (kStrategy == Strategy::kSameSlope) {
        slope = detail::clamped(detail::chord_slope(x), eta, steepest);
        flat = false;
      } else if constexpr (kStrategy == Strategy::kSlopes) {
        const bool chosen = given.has_upper;
        slope = chosen ? detail::clamped(given.upper_slope, eta, steepest) : slope;
        flat = flat & !chosen;
      }
    }
    slope = x.left_unstable ? detail::rising_slope(x) : slope;
    // A line of slope 1 through (r, r) is the activation itself on [0, r]: no intercept, no rounding.
    const bool identity = x.right_unstable & (slope == T(1));
    T intercept = identity ? T(0) : detail::upper_intercept(x, slope);
    intercept = bent & flat ? offset_up : intercept;
    lines.upper_slope = x.left_unstable | bent ? slope : (x.alive ? T(1) : eta);
    lines.upper_intercept = x.left_unstable | bent ? intercept : (x.right_dead ? offset_up : T(0));

    const T nan = quiet_nan<T>();
    return {x.undefined ? nan : lines.lower_slope, x.undefined ? nan : lines.lower_intercept,
            x.undefined ? nan : lines.upper_slope, x.undefined ? nan : lines.upper_intercept};
  }
}

// The lines moved outward by |slope| per_slope + rest, room for the rounding errors of what is computed with them
// (docs/rounding.md, section 4). Three roundings, of which one is relative to the intercept.
template <typename T>
LBP_HOST_DEVICE BoundingLines<T> widened(const BoundingLines<T>& lines, T per_slope, T rest) {
  return {lines.lower_slope, lines.lower_intercept - (absolute(lines.lower_slope) * per_slope + rest),
          lines.upper_slope, lines.upper_intercept + (absolute(lines.upper_slope) * per_slope + rest)};
}

// Gradients with respect to what the lines are made of.
template <typename T>
struct LineGradients {
  T l, u, r;
  GivenLines<T> given;
};

// Gradient of a function of the lines, from its gradient with respect to the four line parameters.
template <Strategy kStrategy, bool kBends = true, typename T>
LBP_HOST_DEVICE LineGradients<T> bounding_lines_gradient(T l, T u, T r, T eta, const GivenLines<T>& given,
                                                         const BoundingLines<T>& gradient) {
  const T zero = T(0);
  LineGradients<T> result = {zero, zero, zero, {zero, zero, zero, zero, false, false}};
  if constexpr (kStrategy == Strategy::kLines) {
    result.given = {
        gradient.lower_slope, gradient.lower_intercept, gradient.upper_slope, gradient.upper_intercept, true, true};
    return result;
  } else if constexpr (kStrategy == Strategy::kConstant) {
    const bool ordered = l <= u;
    const T low = ordered ? l : u, high = ordered ? u : l;
    const T at_low = gradient.lower_intercept * ramp_slope(low, r, eta);
    const T at_high = gradient.upper_intercept * ramp_slope(high, r, eta);
    result.l = ordered ? at_low : at_high;
    result.u = ordered ? at_high : at_low;
    result.r = gradient.lower_intercept * ramp_slope_in_r(low, r, eta) +
               gradient.upper_intercept * ramp_slope_in_r(high, r, eta);
    return result;
  } else {
    const detail::Neuron<T> x = detail::neuron<kBends>(l, u, r, eta);
    // Gradients with respect to each slope and share, collected per neuron; exactly one status applies.
    T gl = zero, gu = zero, gr = zero, given_lower = zero, given_upper = zero;
    const bool crossing = x.left_unstable | x.unstable;
    const bool bent = x.right_unstable | x.unstable;

    // Derivatives of the shares. Rising: share = reached/(reached - l), reached = u or r. Across: reached/(u - l).
    // Falling: (r - l)/(u - l).
    const T rise_in_end = detail::where_used(crossing, T(1) - x.rise_share) / x.rise_gap;
    const T rise_in_l = x.rise_share / x.rise_gap;

    // Lower line through the origin.
    T toward_most = zero;    // gradient with respect to the steepest admissible slope
    T toward_across = zero;  // ... the slope of the chord over 0
    T toward_rising = zero;  // ... the slope of the line from (l, eta l) to (reached, reached)
    T toward_falling = zero;
    const T lower = crossing ? gradient.lower_slope : zero;
    if constexpr (kStrategy == Strategy::kOne) {
      toward_most = lower;
    } else if constexpr (kStrategy == Strategy::kSameSlope) {
      toward_across = lower;
    } else if constexpr (kStrategy != Strategy::kTight && kStrategy != Strategy::kZero) {
      toward_most = detail::prefers_flat_lower(x) ? zero : lower;
      if constexpr (kStrategy == Strategy::kSlopes) {
        const bool chosen = given.has_lower;
        const T most = detail::steepest_lower_slope(x);
        const bool inside = (given.lower_slope >= eta) & (given.lower_slope <= most);
        given_lower = chosen & inside ? lower : zero;
        toward_most = chosen ? (given.lower_slope > most ? lower : zero) : toward_most;
      }
    }
    toward_most = x.unstable ? toward_most : zero;  // 1, a constant, where u <= r

    // Upper line of neurons that bend at r: offset (1 - eta) r where flat, else through (r, r) with a slope.
    bool flat = true;
    T pinned =
        zero;  // gradient with respect to the slope of a line held at (r, r), its intercept (1 - slope) r included
    if constexpr (kStrategy != Strategy::kTight) {
      flat = detail::prefers_flat_upper(x);
      bool through_bend = false;  // the slope is chosen: the intercept is (1 - slope) r
      T slope = eta;
      const T steepest = detail::steepest_upper_slope(x);
      if constexpr (kStrategy == Strategy::kSameSlope) {
        flat = false;
        through_bend = true;
        slope = detail::clamped(detail::chord_slope(x), eta, steepest);
      } else if constexpr (kStrategy == Strategy::kSlopes) {
        through_bend = given.has_upper;
        flat = flat & !through_bend;
        slope = through_bend ? detail::clamped(given.upper_slope, eta, steepest) : eta;
      }
      through_bend = through_bend & bent;
      pinned = through_bend ? gradient.upper_slope - gradient.upper_intercept * r : zero;
      gr += through_bend ? gradient.upper_intercept * (T(1) - slope) : zero;
      if constexpr (kStrategy == Strategy::kSameSlope) {
        toward_across += x.unstable ? pinned : zero;
        toward_falling += x.right_unstable ? pinned : zero;
      } else if constexpr (kStrategy == Strategy::kSlopes) {
        const bool inside = (given.upper_slope >= eta) & (given.upper_slope <= steepest);
        given_upper = through_bend & inside ? pinned : zero;
        toward_rising += through_bend & x.unstable & (given.upper_slope > steepest) ? pinned : zero;
      }
      // The line through (l, eta l) and (r, r), intercept complement * -l * rise_share.
      const bool chord = x.unstable & !flat & !through_bend;
      toward_rising += chord ? gradient.upper_slope : zero;
      gl += chord ? -gradient.upper_intercept * x.complement * x.rise_share * x.rise_share : zero;
      const T rest = T(1) - x.rise_share;
      gr += chord ? gradient.upper_intercept * x.complement * rest * rest : zero;
    }
    gr += (bent & flat) | x.right_dead ? gradient.upper_intercept * x.complement : zero;
    gr += x.right_dead ? gradient.lower_intercept * x.complement : zero;

    // Upper chord of a left unstable neuron.
    const T rest = T(1) - x.rise_share;
    toward_rising += x.left_unstable ? gradient.upper_slope : zero;
    gl += x.left_unstable ? -gradient.upper_intercept * x.complement * x.rise_share * x.rise_share : zero;
    gu += x.left_unstable ? gradient.upper_intercept * x.complement * rest * rest : zero;

    // Lower chord of a right unstable neuron, intercept complement * (1 - fall_share) * l.
    toward_falling += x.right_unstable ? gradient.lower_slope : zero;
    const T falling_intercept = detail::where_used(x.right_unstable, gradient.lower_intercept * x.complement) / x.width;
    const T intercept = x.right_unstable ? falling_intercept : zero;
    gl += x.right_unstable ? intercept * (T(1) - x.fall_share) * x.u : zero;
    gu += x.right_unstable ? intercept * x.l * x.fall_share : zero;
    gr -= x.right_unstable ? intercept * x.l : zero;

    const T end = detail::floored(detail::where_used(x.unstable, x.u));
    const bool steepest = x.unstable & (toward_most != zero);
    const T most = detail::where_used(steepest, toward_most * x.complement) / end;
    gr += steepest ? most : zero;
    gu -= steepest ? most * (detail::where_used(x.unstable, r) / end) : zero;

    const T rising = toward_rising * x.complement;
    gl += crossing ? rising * rise_in_l : zero;
    gu += x.left_unstable ? rising * rise_in_end : zero;
    gr += x.unstable ? rising * rise_in_end : zero;

    const T across = detail::where_used(crossing, toward_across * x.complement) / x.width;
    gl += crossing ? across * x.across_share : zero;
    gu += x.left_unstable ? across * (T(1) - x.across_share) : zero;
    gu -= x.unstable ? across * x.across_share : zero;
    gr += x.unstable ? across : zero;

    const T falling = detail::where_used(x.right_unstable, toward_falling * x.complement) / x.width;
    gl -= x.right_unstable ? falling * (T(1) - x.fall_share) : zero;
    gu -= x.right_unstable ? falling * x.fall_share : zero;
    gr += x.right_unstable ? falling : zero;

    const bool ordered = l <= u;
    const T nan = quiet_nan<T>();
    result.l = x.undefined ? nan : (ordered ? gl : gu);
    result.u = x.undefined ? nan : (ordered ? gu : gl);
    result.r = x.undefined ? nan : gr;
    result.given.lower_slope = given_lower;
    result.given.upper_slope = given_upper;
    return result;
  }
}

}  // namespace lbp
