// The bounding-line table (Lyu et al. 2021, sections 3 and 5, Table 2), the only copy that kernels use.
//
// In floating point every line is valid in exact arithmetic: its slope is whatever rounding made of it, and its
// intercept is then rounded outward (a line that is pinned to a point has its slope rounded outward first). All
// functions are free of branches: V is a number or a vector of numbers. Selections stand inside each other, each by one
// comparison, since to put masks together costs a vector unit more than to select once more.
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

template <typename V>
LBP_HOST_DEVICE V rounding_margin(V x) {
  using T = Element<V>;
  return T(kRoundings / 2) * Float<T>::epsilon * absolute(x) + Float<T>::smallest_normal;
}

template <typename V>
LBP_HOST_DEVICE V round_up(V x) {
  return x + rounding_margin(x);
}

template <typename V>
LBP_HOST_DEVICE V round_down(V x) {
  return x - rounding_margin(x);
}

// Keeps denominators away from 0, so that quotients and their gradients stay finite.
template <typename V>
LBP_HOST_DEVICE V floored(V gap) {
  using T = Element<V>;
  return larger(gap, constant<V>(T(4) * Float<T>::smallest_normal));
}

// A number of a quotient that not every status uses. On a GPU the others divide 1 by 1: 0, infinity and whatever else
// is out of range would send the whole warp through the slow path of the division.
template <typename V>
LBP_HOST_DEVICE V where_used([[maybe_unused]] Mask<V> used, V x) {
#if defined(__CUDA_ARCH__) || defined(LBP_EMULATE)
  return used ? x : constant<V>(1);
#else
  return x;
#endif
}

// Everything that values and gradients of the lines share; members that a status does not use hold arbitrary numbers.
template <typename V>
struct Neuron {
  V l, u, r, eta, complement;  // complement = 1 - eta
  V reached;                   // min(u, r): where the rising part ends
  V rise_gap, rise_share;      // chord from (l, eta l) to (reached, reached): slope eta + complement * rise_share
  V end_gap, end_share;        // chord from (b, b), b = max(l, 0), to (u, act(u)), u > r: eta + complement * end_share
  V width, across_share;       // chord from (l, eta l) to (u, act(u)), l < 0 < u: slope eta + complement * across_share
  V nan_or_zero;               // NaN where the lines are not defined
  Mask<V> negative, dead;      // l < 0; u <= 0
  Mask<V> beyond, before;      // u > r; l < r
};

// kBends: whether r may be finite. If not, three of six statuses, and the quotients that only they use, drop out.
template <bool kBends, typename V>
LBP_HOST_DEVICE Neuron<V> neuron(V l, V u, V r, V eta) {
  using T = Element<V>;
  const V zero = V{}, one = constant<V>(1), nan = constant<V>(quiet_nan<T>());
  Neuron<V> x;
  const auto ordered = l <= u;
  x.l = ordered ? l : u;
  x.u = ordered ? u : l;
  x.r = r;
  x.eta = eta;
  x.complement = one - eta;
  const V least = ramp_defined(one, eta) ? zero : nan;  // r must be above
  x.nan_or_zero = r > least ? (ordered ? zero : (u <= l ? zero : nan)) : nan;
  x.negative = x.l < zero;
  x.dead = x.u <= zero;
  if constexpr (kBends) {
    x.reached = smaller(x.u, r);
    x.beyond = x.u > r;
    x.before = x.l < r;
  } else {
    x.reached = x.u;
    x.beyond = one < zero;
    x.before = zero < one;
  }
  [[maybe_unused]] const Mask<V> crosses = x.dead ? zero < zero : x.negative;
  x.rise_gap = floored(where_used(crosses, x.reached - x.l));
  x.rise_share = where_used(crosses, x.reached) / x.rise_gap;
  const V begin = x.negative ? zero : x.l;
  x.end_gap = floored(where_used(x.beyond, x.u - begin));
  x.end_share = where_used(x.beyond, r - begin) / x.end_gap;
  x.width = floored(where_used(crosses, x.u - x.l));
  x.across_share = where_used(crosses, x.reached) / x.width;
  return x;
}

// Slope of the line from (l, eta l) to (reached, reached).
template <typename V>
LBP_HOST_DEVICE V rising_slope(const Neuron<V>& x) {
  return smaller(x.eta + x.complement * x.rise_share, constant<V>(1));
}

// Slope, rounded down, of the line from (max(l, 0), max(l, 0)) to (u, act(u)) where u > r; eta where l >= r too, as the
// share is then not positive.
template <typename V>
LBP_HOST_DEVICE V slope_to_end(const Neuron<V>& x) {
  return larger(round_down(x.eta + x.complement * x.end_share), x.eta);
}

// Largest admissible slope of a lower line through the origin: 1, or the slope to (u, act(u)) where u > r. Of neurons
// with l >= 0 it is the slope of the lower line.
template <typename V>
LBP_HOST_DEVICE V steepest_lower_slope(const Neuron<V>& x) {
  return x.beyond ? slope_to_end(x) : constant<V>(1);
}

// Largest admissible slope of an upper line through (r, r).
template <typename V>
LBP_HOST_DEVICE V steepest_upper_slope(const Neuron<V>& x) {
  return x.negative ? rising_slope(x) : constant<V>(1);
}

// Slope of the chord of a neuron that bends at r, whether or not it bends at 0 too.
template <typename V>
LBP_HOST_DEVICE V chord_slope(const Neuron<V>& x) {
  return x.eta + x.complement * (x.negative ? x.across_share : x.end_share);
}

// NaN stays NaN: both comparisons are false.
template <typename V>
LBP_HOST_DEVICE V clamped(V slope, V least, V most) {
  return slope < least ? least : (slope > most ? most : slope);
}

// Smallest intercept, rounded up, that keeps a line of this slope above the activation at l and at the end of the rise.
template <typename V>
LBP_HOST_DEVICE V upper_intercept(const Neuron<V>& x, V slope) {
  const V at_l = (slope - x.eta) * -x.l;
  const V at_end = (constant<V>(1) - slope) * x.reached;
  return round_up(larger(at_l, at_end));
}

// Of the lines through (r, r), adaptive takes the one of slope eta where the part beyond r is the longer one.
template <typename V>
LBP_HOST_DEVICE Mask<V> prefers_flat_upper(const Neuron<V>& x) {
  return x.u - x.r > x.r - x.l;
}

// Whether the upper line of a neuron with l < r < u has slope eta, through (u, act(u)).
template <Strategy kStrategy, typename V>
LBP_HOST_DEVICE Mask<V> takes_flat_upper(const Neuron<V>& x, [[maybe_unused]] const GivenLines<V>& given) {
  if constexpr (kStrategy == Strategy::kTight) {
    return x.before;
  } else if constexpr (kStrategy == Strategy::kSameSlope) {
    return V{} != V{};
  } else if constexpr (kStrategy == Strategy::kSlopes) {
    return given.has_upper ? V{} != V{} : prefers_flat_upper(x);
  } else {
    return prefers_flat_upper(x);
  }
}

template <typename V>
LBP_HOST_DEVICE Mask<V> prefers_flat_lower(const Neuron<V>& x) {
  return -x.l > x.u;
}

// Slope of the lower line of a neuron that crosses 0, through the origin; `most` is the largest admissible one.
template <Strategy kStrategy, typename V>
LBP_HOST_DEVICE V free_lower_slope(const Neuron<V>& x, V most, const GivenLines<V>& given) {
  if constexpr (kStrategy == Strategy::kTight || kStrategy == Strategy::kZero) {
    return x.eta;
  } else if constexpr (kStrategy == Strategy::kOne) {
    return most;
  } else if constexpr (kStrategy == Strategy::kSameSlope) {
    return clamped(x.eta + x.complement * x.across_share, x.eta, most);
  } else {
    const V adaptive = prefers_flat_lower(x) ? x.eta : most;
    if constexpr (kStrategy == Strategy::kSlopes) {
      return given.has_lower ? clamped(given.lower_slope, x.eta, most) : adaptive;
    } else {
      return adaptive;
    }
  }
}

}  // namespace detail

// The lines of one neuron. `given` is read by kSlopes and kLines only; kBends is false where r is known to be infinite.
template <Strategy kStrategy, bool kBends = true, typename V>
LBP_HOST_DEVICE BoundingLines<V> bounding_lines(V l, V u, V r, V eta, const GivenLines<V>& given) {
  using T = Element<V>;
  const V zero = V{}, one = constant<V>(1), nan = constant<V>(quiet_nan<T>());
  if constexpr (kStrategy == Strategy::kLines) {
    return {given.lower_slope, given.lower_intercept, given.upper_slope, given.upper_intercept};
  } else if constexpr (kStrategy == Strategy::kConstant) {
    const V low = l <= u ? l : u, high = l <= u ? u : l;
    const auto exact = eta == zero;
    const V at_low = ramp(low, r, eta), at_high = ramp(high, r, eta);
    const auto low_exact = exact | ((low >= zero) & (low <= r)), high_exact = exact | ((high >= zero) & (high <= r));
    const auto undefined = (l != l) | (u != u) | !ramp_defined(r, eta);
    const V slope = undefined ? nan : zero;
    return {slope, slope + (low_exact ? at_low : detail::round_down(at_low)), slope,
            slope + (high_exact ? at_high : detail::round_up(at_high))};
  } else {
    const detail::Neuron<V> x = detail::neuron<kBends>(l, u, r, eta);
    // The offset (1 - eta) r of the part beyond r, without a rounding error where eta is 0 or 1.
    const V offset = x.complement * r;
    const V margin = eta == zero ? zero : (eta == one ? zero : detail::rounding_margin(offset));
    const V offset_up = offset + margin, offset_down = offset - margin;

    BoundingLines<V> lines;
    const V most = detail::steepest_lower_slope(x);
    lines.lower_slope = x.negative ? detail::free_lower_slope<kStrategy>(x, most, given) : most;
    lines.lower_slope = x.dead ? eta : lines.lower_slope;
    const V at_l = x.before ? detail::round_down((one - most) * x.l) : offset_down;
    lines.lower_intercept = x.beyond ? (x.negative ? zero : at_l) : zero;

    // Above, a line from (l, act(l)) to the end of the rise, which is the activation itself where l >= 0: no intercept,
    // no rounding ...
    V slope = detail::steepest_upper_slope(x);
    if constexpr (kStrategy == Strategy::kSameSlope) {
      slope = x.beyond ? detail::clamped(detail::chord_slope(x), eta, slope) : slope;
    } else if constexpr (kStrategy == Strategy::kSlopes) {
      slope = given.has_upper ? (x.beyond ? detail::clamped(given.upper_slope, eta, slope) : slope) : slope;
    }
    const V above = detail::upper_intercept(x, slope);
    V intercept = x.negative ? above : (slope == one ? zero : above);
    // ... or, of neurons beyond r, one of slope eta through the end.
    if constexpr (kBends) {
      const auto flat = detail::takes_flat_upper<kStrategy>(x, given);
      slope = x.beyond ? (x.before ? (flat ? eta : slope) : eta) : slope;
      intercept = x.beyond ? (x.before ? (flat ? offset_up : intercept) : offset_up) : intercept;
    }
    lines.upper_slope = x.dead ? eta : slope;
    lines.upper_intercept = x.dead ? zero : intercept;

    const auto defined = x.nan_or_zero == zero;
    return {defined ? lines.lower_slope : nan, defined ? lines.lower_intercept : nan, defined ? lines.upper_slope : nan,
            defined ? lines.upper_intercept : nan};
  }
}

// The lines moved outward by |slope| per_slope + rest, room for the rounding errors of what is computed with them
// (docs/rounding.md, section 4). Three roundings, of which one is relative to the intercept.
template <typename V>
LBP_HOST_DEVICE BoundingLines<V> widened(const BoundingLines<V>& lines, V per_slope, V rest) {
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
template <Strategy kStrategy, bool kBends = true, typename V>
LBP_HOST_DEVICE LineGradients<V> bounding_lines_gradient(V l, V u, V r, V eta, const GivenLines<V>& given,
                                                         const BoundingLines<V>& gradient) {
  using T = Element<V>;
  const V zero = V{}, one = constant<V>(1);
  LineGradients<V> result = {zero, zero, zero, {zero, zero, zero, zero, false, false}};
  if constexpr (kStrategy == Strategy::kLines) {
    result.given = {
        gradient.lower_slope, gradient.lower_intercept, gradient.upper_slope, gradient.upper_intercept, true, true};
    return result;
  } else if constexpr (kStrategy == Strategy::kConstant) {
    const auto ordered = l <= u;
    const V low = ordered ? l : u, high = ordered ? u : l;
    const V at_low = gradient.lower_intercept * ramp_slope(low, r, eta);
    const V at_high = gradient.upper_intercept * ramp_slope(high, r, eta);
    result.l = ordered ? at_low : at_high;
    result.u = ordered ? at_high : at_low;
    result.r = gradient.lower_intercept * ramp_slope_in_r(low, r, eta) +
               gradient.upper_intercept * ramp_slope_in_r(high, r, eta);
    return result;
  } else {
    const detail::Neuron<V> x = detail::neuron<kBends>(l, u, r, eta);
    V gl = zero, gu = zero, gr = zero;

    // Gradients by slopes: of the steepest lower line of a neuron that crosses 0, or of the lower line of one with
    // l >= 0; and of the chord over 0. Those of dead neurons are dropped at the end.
    V toward_most = zero, toward_across = zero;
    const V lower = gradient.lower_slope;
    if constexpr (kStrategy == Strategy::kOne) {
      toward_most = lower;
    } else if constexpr (kStrategy == Strategy::kSameSlope) {
      toward_across = x.negative ? lower : zero;
    } else if constexpr (kStrategy == Strategy::kSlopes) {
      if (given.has_lower) {
        const V most = detail::steepest_lower_slope(x), asked = given.lower_slope;
        const V inside = asked >= eta ? (asked <= most ? lower : zero) : zero;
        result.given.lower_slope = x.negative ? (x.dead ? zero : inside) : zero;
        toward_most = asked > most ? lower : zero;
      } else {
        toward_most = detail::prefers_flat_lower(x) ? zero : lower;
      }
    } else if constexpr (kStrategy != Strategy::kTight && kStrategy != Strategy::kZero) {
      toward_most = detail::prefers_flat_lower(x) ? zero : lower;
    }
    toward_most = x.negative ? toward_most : lower;

    // The upper line from (l, eta l) to (reached, reached), intercept complement * -l * rise_share, unless one of slope
    // eta, or of a slope that is asked for, takes its place.
    V toward_rising = gradient.upper_slope, toward_intercept = gradient.upper_intercept * x.complement;
    if constexpr (kBends) {
      const V offset = toward_intercept;  // gradient by r of the intercept (1 - eta) r
      const auto flat = detail::takes_flat_upper<kStrategy>(x, given);
      gr = x.before ? (flat ? offset : zero) : offset + gradient.lower_intercept * x.complement;
      toward_rising = flat ? (x.beyond ? zero : toward_rising) : toward_rising;
      toward_intercept = flat ? (x.beyond ? zero : toward_intercept) : toward_intercept;
      if (kStrategy == Strategy::kSameSlope || (kStrategy == Strategy::kSlopes && given.has_upper)) {
        // Through (r, r), intercept (1 - slope) r: `pinned` is the gradient by the slope, that of the intercept
        // included.
        const V steepest = detail::steepest_upper_slope(x);
        const V asked = kStrategy == Strategy::kSameSlope ? detail::chord_slope(x) : given.upper_slope;
        const V slope = detail::clamped(asked, eta, steepest);
        const V pinned = gradient.upper_slope - gradient.upper_intercept * r;
        gr += x.before ? gradient.upper_intercept * (one - slope) : zero;
        toward_rising = x.beyond ? zero : toward_rising;
        toward_intercept = x.beyond ? zero : toward_intercept;
        if constexpr (kStrategy == Strategy::kSameSlope) {
          toward_across += x.beyond ? (x.negative ? pinned : zero) : zero;
          toward_most += x.negative ? zero : pinned;
        } else {
          const V inside = asked >= eta ? (asked <= steepest ? pinned : zero) : zero;
          result.given.upper_slope = x.beyond ? (x.before ? inside : zero) : zero;
          toward_rising = x.beyond ? (asked > steepest ? pinned : zero) : toward_rising;
        }
      }
      gr = x.beyond ? gr : zero;
    }

    // The share reached/(reached - l), reached = u or r, has the derivatives share/gap by l and (1 - share)/gap by
    // reached.
    [[maybe_unused]] const Mask<V> crosses = x.dead ? zero < zero : x.negative;
    const V per_rise = detail::where_used(crosses, one) / x.rise_gap, rest = one - x.rise_share;
    const V rising = toward_rising * x.complement * per_rise;
    V by_l = (rising - toward_intercept * x.rise_share) * x.rise_share;
    V by_reached = (rising + toward_intercept * rest) * rest, by_u = zero;
    if constexpr (kStrategy == Strategy::kSameSlope) {
      // The chord over 0: share reached/(u - l).
      const V across = detail::where_used(crosses, toward_across * x.complement) / x.width;
      by_l += across * x.across_share;
      by_reached += across;
      by_u = across * x.across_share;
    }
    gl += x.negative ? by_l : zero;
    gu += x.negative ? (x.beyond ? -by_u : by_reached - by_u) : zero;

    if constexpr (kBends) {
      gr += x.beyond ? (x.negative ? by_reached : zero) : zero;
      // The line from (b, b), b = max(l, 0), to (u, act(u)): share (r - b)/(u - b), intercept of right unstable neurons
      // complement * (1 - share) * l.
      const V per_end = detail::where_used(x.beyond, x.complement) / x.end_gap;
      const V by_slope = toward_most * per_end, by_intercept = gradient.lower_intercept * per_end;
      const V beyond_l = (by_intercept * x.u - by_slope) * (one - x.end_share);
      const V moved = x.negative ? by_slope : by_slope - by_intercept * x.l;
      gl += x.beyond ? (x.before ? (x.negative ? zero : beyond_l) : zero) : zero;
      gu -= x.beyond ? (x.before ? moved * x.end_share : zero) : zero;
      gr += x.beyond ? (x.before ? moved : zero) : zero;
    }

    gl = x.dead ? zero : gl;
    gu = x.dead ? zero : gu;
    const auto ordered = l <= u, defined = x.nan_or_zero == zero;
    const V nan = constant<V>(quiet_nan<T>());
    result.l = defined ? (ordered ? gl : gu) : nan;
    result.u = defined ? (ordered ? gu : gl) : nan;
    result.r = defined ? gr : nan;
    return result;
  }
}

}  // namespace lbp
