// The bounding lines of every strategy and status: valid without any rounding, and as tight as the paper's table
// (Lyu et al. 2021, sections 3 and 5).
#include "math/bounding_lines.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <random>
#include <vector>

#include "check.h"
#include "exact.h"

namespace {

using lbp::BoundingLines;
using lbp::GivenLines;
using lbp::Strategy;

constexpr Strategy kDerived[] = {Strategy::kConstant, Strategy::kTight, Strategy::kAdaptive, Strategy::kSameSlope,
                                 Strategy::kZero,     Strategy::kOne,   Strategy::kSlopes};

template <typename T>
BoundingLines<T> lines_of(Strategy strategy, T l, T u, T r, T eta, const GivenLines<T>& given) {
  switch (strategy) {
    case Strategy::kConstant:
      return lbp::bounding_lines<Strategy::kConstant>(l, u, r, eta, given);
    case Strategy::kTight:
      return lbp::bounding_lines<Strategy::kTight>(l, u, r, eta, given);
    case Strategy::kAdaptive:
      return lbp::bounding_lines<Strategy::kAdaptive>(l, u, r, eta, given);
    case Strategy::kSameSlope:
      return lbp::bounding_lines<Strategy::kSameSlope>(l, u, r, eta, given);
    case Strategy::kZero:
      return lbp::bounding_lines<Strategy::kZero>(l, u, r, eta, given);
    case Strategy::kOne:
      return lbp::bounding_lines<Strategy::kOne>(l, u, r, eta, given);
    case Strategy::kSlopes:
      return lbp::bounding_lines<Strategy::kSlopes>(l, u, r, eta, given);
    case Strategy::kLines:
      return lbp::bounding_lines<Strategy::kLines>(l, u, r, eta, given);
  }
  return {};
}

template <typename T>
const GivenLines<T> kNothingGiven = {T(0), T(0), T(0), T(0), false, false};

// Sign of (slope z + intercept) - act(z), where act takes its three parts at z, without rounding.
template <typename T>
double line_minus_ramp(T slope, T intercept, T z, T r, T eta) {
  if (std::isinf(intercept)) return static_cast<double>(intercept);
  exact::Sum sum;
  sum.add_product(slope, z).add(intercept);
  if (z <= 0) {
    sum.add_product(-eta, z);
  } else if (z <= r) {
    sum.add(-z);
  } else {
    sum.add_product(-eta, z).add(-r).add_product(eta, r);
  }
  return sum.leading();
}

// Line and activation are both linear between these points of [l, u].
template <typename T>
std::vector<T> corners(T l, T u, T r) {
  const T low = std::min(l, u), high = std::max(l, u);
  std::vector<T> points = {low, high};
  if (low <= 0 && 0 <= high) points.push_back(0);
  if (low <= r && r <= high) points.push_back(r);
  return points;
}

template <typename T>
void check_valid(Strategy strategy, T l, T u, T r, T eta, const GivenLines<T>& given) {
  const BoundingLines<T> lines = lines_of(strategy, l, u, r, eta, given);
  for (const T z : corners(l, u, r)) {
    const double below = line_minus_ramp(lines.lower_slope, lines.lower_intercept, z, r, eta);
    const double above = line_minus_ramp(lines.upper_slope, lines.upper_intercept, z, r, eta);
    // A NaN line fails both comparisons: a defined neuron has defined lines.
    CHECK(below <= 0 && above >= 0) << "strategy " << static_cast<int>(strategy) << " status "
                                    << lbp::neuron_status(l, u, r) << " at z=" << z << ": l=" << l << " u=" << u
                                    << " r=" << r << " eta=" << eta << " lower " << lines.lower_slope << " "
                                    << lines.lower_intercept << " (" << below << ") upper " << lines.upper_slope << " "
                                    << lines.upper_intercept << " (" << above << ")";
  }
}

template <typename T>
void check_every_strategy(T l, T u, T r, T eta, T lower_slope, T upper_slope) {
  for (const Strategy strategy : kDerived) check_valid(strategy, l, u, r, eta, kNothingGiven<T>);
  check_valid<T>(Strategy::kSlopes, l, u, r, eta, {lower_slope, T(0), upper_slope, T(0), true, true});
  check_valid<T>(Strategy::kSlopes, l, u, r, eta, {lower_slope, T(0), upper_slope, T(0), true, false});
  check_valid<T>(Strategy::kSlopes, l, u, r, eta, {lower_slope, T(0), upper_slope, T(0), false, true});
}

// Numbers of both signs whose exponents are spread evenly, with 0 and small integers among them.
template <typename T>
class Numbers {
 public:
  Numbers(unsigned seed, int exponents) : engine_(seed), exponent_(-exponents, exponents) {}
  T operator()() {
    if (engine_() % 16 == 0) return T(static_cast<int>(engine_() % 5) - 2);
    const T sign = engine_() % 2 == 0 ? T(1) : T(-1);
    return sign * std::ldexp(T(1) + fraction_(engine_), exponent_(engine_));
  }
  T share() { return engine_() % 4 == 0 ? T(engine_() % 2) : fraction_(engine_); }
  // A number near x, so that differences cancel.
  T near(T x) { return x * (T(1) + T(static_cast<int>(engine_() % 9) - 4) * std::numeric_limits<T>::epsilon()); }
  bool sometimes() { return engine_() % 4 == 0; }

 private:
  std::mt19937 engine_;
  std::uniform_int_distribution<int> exponent_;
  std::uniform_real_distribution<T> fraction_{T(0), T(1)};
};

template <typename T>
void check_random(unsigned seed, int exponents, int count) {
  Numbers<T> number(seed, exponents);
  for (int i = 0; i < count; ++i) {
    T l = number();
    T u = number.sometimes() ? number.near(l) : number();
    T r = std::abs(number.sometimes() ? number.near(u) : number());
    if (r == 0 || number.sometimes()) r = std::numeric_limits<T>::infinity();
    check_every_strategy(l, u, r, number.share(), number(), number());
  }
}

TEST(random_lines_are_valid_in_float32) {
  check_random<float>(1, 6, 30000);
  check_random<float>(2, 60, 10000);
}

TEST(random_lines_are_valid_in_float64) {
  check_random<double>(3, 6, 30000);
  check_random<double>(4, 200, 10000);
}

TEST(lines_are_valid_on_the_edges_of_float32) {
  using Limits = std::numeric_limits<float>;
  std::vector<float> bounds = {0.0f, -0.0f};
  for (const float x : {Limits::denorm_min(), 5e-39f, Limits::min(), 3e-38f, 1e-30f, 1e-4f, 1.0f,
                        std::nextafter(1.0f, 2.0f), 3.0f, 1e10f, 1e30f, Limits::max()}) {
    bounds.push_back(x);
    bounds.push_back(-x);
  }
  const float below_one = std::nextafter(1.0f, 0.0f);
  for (const float l : bounds) {
    for (const float u : bounds) {
      for (const float r : {Limits::denorm_min(), Limits::min(), 1e-4f, below_one, 1.0f, 3.0f, 1e30f, Limits::max(),
                            Limits::infinity()}) {
        for (const float eta : {0.0f, Limits::denorm_min(), 1e-8f, 0.3f, below_one, 1.0f}) {
          check_every_strategy(l, u, r, eta, 0.3f, 0.7f);
        }
      }
    }
  }
}

// Paper's table for a neuron of each status; the free lines are those of the tight and of the adaptive strategy.
struct Row {
  const char* status;
  double l, u;
  BoundingLines<double> tight, adaptive;
};

TEST(lines_are_those_of_the_table) {
  const double r = 1.0, eta = 0.25, b = 0.75;
  const std::vector<Row> rows = {
      {"left dead", -2, -1, {eta, 0, eta, 0}, {eta, 0, eta, 0}},
      {"left dead at 0", -2, 0, {eta, 0, eta, 0}, {eta, 0, eta, 0}},
      {"left unstable, |l| > u", -1.5, 0.5, {eta, 0, 0.4375, 0.28125}, {eta, 0, 0.4375, 0.28125}},
      {"left unstable, |l| <= u", -0.5, 0.5, {eta, 0, 0.625, 0.1875}, {1, 0, 0.625, 0.1875}},
      {"alive", 0.25, 0.75, {1, 0, 1, 0}, {1, 0, 1, 0}},
      {"alive on both ends", 0, 1, {1, 0, 1, 0}, {1, 0, 1, 0}},
      {"right unstable, u - r > r - l", 0.5, 2.5, {0.4375, 0.28125, eta, b}, {0.4375, 0.28125, eta, b}},
      {"right unstable, u - r <= r - l", 0.5, 1.5, {0.625, 0.1875, eta, b}, {0.625, 0.1875, 1, 0}},
      {"right dead", 1, 3, {eta, b, eta, b}, {eta, b, eta, b}},
      {"unstable, left part longer", -3, 2, {eta, 0, eta, b}, {eta, 0, 0.4375, 0.5625}},
      {"unstable, right part longer", -1, 4, {eta, 0, eta, b}, {0.4375, 0, eta, b}},
  };
  for (const Row& row : rows) {
    const BoundingLines<double> tight = lines_of(Strategy::kTight, row.l, row.u, r, eta, kNothingGiven<double>);
    const BoundingLines<double> adaptive = lines_of(Strategy::kAdaptive, row.l, row.u, r, eta, kNothingGiven<double>);
    const double tolerance = 1e-14;
    for (const auto& [got, expected] : {std::pair(tight, row.tight), std::pair(adaptive, row.adaptive)}) {
      CHECK(std::abs(got.lower_slope - expected.lower_slope) <= tolerance) << row.status << " " << got.lower_slope;
      CHECK(std::abs(got.lower_intercept - expected.lower_intercept) <= tolerance)
          << row.status << " " << got.lower_intercept;
      CHECK(std::abs(got.upper_slope - expected.upper_slope) <= tolerance) << row.status << " " << got.upper_slope;
      CHECK(std::abs(got.upper_intercept - expected.upper_intercept) <= tolerance)
          << row.status << " " << got.upper_intercept;
    }
  }
}

TEST(lines_touch_the_activation) {
  // Rounding outward must not cost more than a few units in the last place of the numbers involved.
  Numbers<float> number(5, 6);
  for (int i = 0; i < 30000; ++i) {
    const float a = number(), b = number(), r = std::abs(number()), eta = number.share();
    const float l = std::min(a, b), u = std::max(a, b);
    if (r == 0) continue;
    const double scale = std::max({std::abs(l), std::abs(u), std::min(r, u)});
    for (const Strategy strategy : {Strategy::kTight, Strategy::kAdaptive, Strategy::kZero, Strategy::kOne}) {
      const BoundingLines<float> lines = lines_of(strategy, l, u, r, eta, kNothingGiven<float>);
      double lowest_gap = std::numeric_limits<double>::infinity(), highest_gap = lowest_gap;
      for (const float z : corners(l, u, r)) {
        lowest_gap = std::min(lowest_gap, -line_minus_ramp(lines.lower_slope, lines.lower_intercept, z, r, eta));
        highest_gap = std::min(highest_gap, line_minus_ramp(lines.upper_slope, lines.upper_intercept, z, r, eta));
      }
      const double tolerance = 2e-6 * scale;
      CHECK(lowest_gap <= tolerance && highest_gap <= tolerance)
          << "strategy " << static_cast<int>(strategy) << ": l=" << l << " u=" << u << " r=" << r << " eta=" << eta
          << " gaps " << lowest_gap << " " << highest_gap;
    }
  }
}

TEST(gradients_stay_finite_on_the_edges) {
  const BoundingLines<float> one = {1.0f, 1.0f, 1.0f, 1.0f};
  const float tiny = std::numeric_limits<float>::denorm_min(), infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> bounds = {-1e10f, -1.0f, -1e-30f, -tiny, 0.0f, tiny, 1e-30f, 1.0f, 1e10f};
  for (const float l : bounds) {
    for (const float u : bounds) {
      for (const float r : {1e-4f, 1.0f, infinity}) {
        for (const float eta : {0.0f, 0.3f, 1.0f}) {
          for (const auto& gradient :
               {lbp::bounding_lines_gradient<Strategy::kTight>(l, u, r, eta, kNothingGiven<float>, one),
                lbp::bounding_lines_gradient<Strategy::kAdaptive>(l, u, r, eta, kNothingGiven<float>, one),
                lbp::bounding_lines_gradient<Strategy::kSameSlope>(l, u, r, eta, kNothingGiven<float>, one),
                lbp::bounding_lines_gradient<Strategy::kOne>(l, u, r, eta, kNothingGiven<float>, one)}) {
            CHECK(std::isfinite(gradient.l) && std::isfinite(gradient.u) && std::isfinite(gradient.r))
                << "l=" << l << " u=" << u << " r=" << r << " eta=" << eta << " gradients " << gradient.l << " "
                << gradient.u << " " << gradient.r;
            CHECK(std::isfinite(r) || gradient.r == 0.0f) << "l=" << l << " u=" << u << " gradient " << gradient.r;
          }
        }
      }
    }
  }
}

bool same(float a, float b) { return a == b || (std::isnan(a) && std::isnan(b)); }

template <Strategy kStrategy>
void check_without_bend(float l, float u, float eta, const GivenLines<float>& given) {
  const float r = std::numeric_limits<float>::infinity();
  const BoundingLines<float> one = {0.5f, -1.0f, 2.0f, 3.0f};
  const auto any = lbp::bounding_lines<kStrategy>(l, u, r, eta, given);
  const auto none = lbp::bounding_lines<kStrategy, false>(l, u, r, eta, given);
  CHECK(same(any.lower_slope, none.lower_slope) && same(any.lower_intercept, none.lower_intercept) &&
        same(any.upper_slope, none.upper_slope) && same(any.upper_intercept, none.upper_intercept))
      << "strategy " << static_cast<int>(kStrategy) << ": l=" << l << " u=" << u << " eta=" << eta;
  const auto to_any = lbp::bounding_lines_gradient<kStrategy>(l, u, r, eta, given, one);
  const auto to_none = lbp::bounding_lines_gradient<kStrategy, false>(l, u, r, eta, given, one);
  CHECK(same(to_any.l, to_none.l) && same(to_any.u, to_none.u) && same(to_any.r, to_none.r) &&
        same(to_any.given.lower_slope, to_none.given.lower_slope) &&
        same(to_any.given.upper_slope, to_none.given.upper_slope))
      << "strategy " << static_cast<int>(kStrategy) << ": l=" << l << " u=" << u << " eta=" << eta;
}

TEST(an_infinite_bending_point_may_be_known_beforehand) {
  const float infinity = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> bounds = {-infinity, -1e10f, -1.0f, -1e-40f, 0.0f, 1e-40f, 1.0f, 1e10f, infinity, nan};
  const GivenLines<float> chosen = {0.3f, 0.0f, 0.7f, 0.0f, true, true};
  for (const float l : bounds) {
    for (const float u : bounds) {
      for (const float eta : {0.0f, 0.3f, 1.0f, 2.0f, nan}) {
        check_without_bend<Strategy::kConstant>(l, u, eta, kNothingGiven<float>);
        check_without_bend<Strategy::kTight>(l, u, eta, kNothingGiven<float>);
        check_without_bend<Strategy::kAdaptive>(l, u, eta, kNothingGiven<float>);
        check_without_bend<Strategy::kSameSlope>(l, u, eta, kNothingGiven<float>);
        check_without_bend<Strategy::kOne>(l, u, eta, kNothingGiven<float>);
        check_without_bend<Strategy::kSlopes>(l, u, eta, chosen);
      }
    }
  }
}

TEST(constant_lines_are_the_values_at_the_ends) {
  const BoundingLines<double> lines = lines_of(Strategy::kConstant, -2.0, 3.0, 1.0, 0.0, kNothingGiven<double>);
  CHECK(lines.lower_slope == 0 && lines.lower_intercept == 0) << lines.lower_intercept;
  CHECK(lines.upper_slope == 0 && lines.upper_intercept == 1) << lines.upper_intercept;
}

TEST(slopes_beyond_the_admissible_range_are_clamped) {
  const GivenLines<double> steep = {5.0, 0.0, 5.0, 0.0, true, true}, flat = {-5.0, 0.0, -5.0, 0.0, true, true};
  const BoundingLines<double> most = lines_of(Strategy::kSlopes, -1.0, 2.0, 1.0, 0.25, steep);
  CHECK(std::abs(most.lower_slope - 0.625) <= 1e-14 && std::abs(most.upper_slope - 0.625) <= 1e-14)
      << most.lower_slope << " " << most.upper_slope;
  const BoundingLines<double> least = lines_of(Strategy::kSlopes, -1.0, 2.0, 1.0, 0.25, flat);
  CHECK(least.lower_slope == 0.25 && least.upper_slope == 0.25) << least.lower_slope << " " << least.upper_slope;
}

TEST(given_lines_are_used_as_they_are) {
  const BoundingLines<double> lines = lines_of<double>(Strategy::kLines, -1, 2, 1, 0, {-1, -2, -3, 4, true, true});
  CHECK(lines.lower_slope == -1 && lines.lower_intercept == -2);
  CHECK(lines.upper_slope == -3 && lines.upper_intercept == 4);
}

TEST(swapped_bounds_mean_their_hull) {
  for (const Strategy strategy : kDerived) {
    const BoundingLines<float> swapped = lines_of(strategy, 0.6f, -0.5f, 0.4f, 0.1f, kNothingGiven<float>);
    const BoundingLines<float> ordered = lines_of(strategy, -0.5f, 0.6f, 0.4f, 0.1f, kNothingGiven<float>);
    CHECK(swapped.lower_slope == ordered.lower_slope && swapped.lower_intercept == ordered.lower_intercept);
    CHECK(swapped.upper_slope == ordered.upper_slope && swapped.upper_intercept == ordered.upper_intercept);
  }
}

TEST(statuses_are_decided_by_the_first_match) {
  const float infinity = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  CHECK(lbp::neuron_status(-2.0f, -1.0f, 1.0f) == 0);
  CHECK(lbp::neuron_status(0.0f, 0.0f, 1.0f) == 0);
  CHECK(lbp::neuron_status(-1.0f, 1.0f, 1.0f) == 1);
  CHECK(lbp::neuron_status(0.0f, 1.0f, 1.0f) == 2);
  CHECK(lbp::neuron_status(0.0f, 2.0f, 1.0f) == 3);
  CHECK(lbp::neuron_status(1.0f, 2.0f, 1.0f) == 4);
  CHECK(lbp::neuron_status(-1.0f, 2.0f, 1.0f) == 5);
  CHECK(lbp::neuron_status(-1.0f, 2.0f, infinity) == 1);
  CHECK(lbp::neuron_status(nan, 2.0f, 1.0f) == 6);
  CHECK(lbp::neuron_status(-1.0f, nan, 1.0f) == 6);
  for (const float r : {0.0f, -1.0f, nan}) {
    for (const float u : {-1.0f, 0.0f, 2.0f}) CHECK(lbp::neuron_status(-2.0f, u, r) == 6) << "u=" << u << " r=" << r;
  }
}

TEST(undefined_neurons_have_nan_lines) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float cases[][4] = {{nan, 1, 1, 0}, {-1, nan, 1, 0}, {-1, 1, nan, 0},   {-1, 1, 1, nan},
                            {-1, 1, 0, 0},  {-1, 1, -1, 0},  {-1, 1, 1, -0.1f}, {-1, 1, 1, 1.1f}};
  for (const auto& [l, u, r, eta] : cases) {
    for (const Strategy strategy : kDerived) {
      const BoundingLines<float> lines = lines_of(strategy, l, u, r, eta, kNothingGiven<float>);
      CHECK(std::isnan(lines.lower_slope) && std::isnan(lines.lower_intercept) && std::isnan(lines.upper_slope) &&
            std::isnan(lines.upper_intercept))
          << "strategy " << static_cast<int>(strategy) << ": l=" << l << " u=" << u << " r=" << r << " eta=" << eta;
    }
  }
}

}  // namespace

int main() { return check::run_all(); }
