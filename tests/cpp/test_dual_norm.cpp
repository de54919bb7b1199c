// The l_q norm of concretization: values, range and slopes.
#include "math/dual_norm.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "check.h"

namespace {

using lbp::Norm;

struct Row {
  double norm, sum, largest;
};

template <Norm kNorm>
Row measure(const std::vector<double>& a, double q) {
  Row row = {0, 0, 0};
  for (const double x : a) row.largest = std::max(row.largest, std::abs(x));
  for (const double x : a) {
    if constexpr (kNorm == Norm::kInfinity) {
      row.sum += std::abs(x) == row.largest ? 1 : 0;
    } else {
      row.sum += lbp::norm_term<kNorm>(x, lbp::inverse_scale(row.largest), q);
    }
  }
  row.norm = lbp::norm_of<kNorm>(row.sum, row.largest, q);
  return row;
}

bool close(double x, double y) { return std::abs(x - y) <= 1e-12 * std::max(std::abs(x), std::abs(y)); }

TEST(the_exponent_decides_the_kind) {
  CHECK(lbp::norm_kind(1.0) == Norm::kOne);
  CHECK(lbp::norm_kind(2.0) == Norm::kTwo);
  CHECK(lbp::norm_kind(0.0) == Norm::kInfinity);
  CHECK(lbp::norm_kind(3.0) == Norm::kGeneral);
  CHECK(lbp::norm_kind(1.5) == Norm::kGeneral);
}

TEST(norms_of_a_known_row) {
  const std::vector<double> a = {3, -4, 0};
  CHECK(measure<Norm::kOne>(a, 1).norm == 7);
  CHECK(close(measure<Norm::kTwo>(a, 2).norm, 5));
  CHECK(measure<Norm::kInfinity>(a, 0).norm == 4);
  CHECK(close(measure<Norm::kGeneral>(a, 3).norm, std::cbrt(91.0)));
  CHECK(close(measure<Norm::kGeneral>(a, 1.5).norm, std::pow(std::pow(3, 1.5) + 8, 2.0 / 3)));
}

TEST(tiny_and_huge_rows_keep_their_norm) {
  for (const double scale : {1e-300, 1e300}) {
    const std::vector<double> a = {3 * scale, -4 * scale};
    CHECK(close(measure<Norm::kTwo>(a, 2).norm, 5 * scale)) << scale;
    CHECK(close(measure<Norm::kGeneral>(a, 3).norm, std::cbrt(91.0) * scale)) << scale;
    CHECK(close(measure<Norm::kGeneral>(a, 40).norm, 4 * scale * std::pow(1 + std::pow(0.75, 40), 1.0 / 40))) << scale;
  }
}

template <Norm kNorm>
void check_zero_row(double q) {
  const Row row = measure<kNorm>({0, 0}, q);
  CHECK(row.norm == 0) << "q=" << q;
  CHECK(lbp::norm_slope<kNorm>(0, row.norm, row.sum, row.largest, q) == 0) << "q=" << q;
}

TEST(a_row_of_zeros_has_norm_and_slope_0) {
  check_zero_row<Norm::kOne>(1);
  check_zero_row<Norm::kTwo>(2);
  check_zero_row<Norm::kInfinity>(0);
  check_zero_row<Norm::kGeneral>(3);
  check_zero_row<Norm::kGeneral>(1.5);
}

template <Norm kNorm>
void check_slopes(double q) {
  const std::vector<double> a = {0.5, -2.0, 1.25};
  const Row row = measure<kNorm>(a, q);
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double step = 1e-6;
    std::vector<double> above = a, below = a;
    above[i] += step;
    below[i] -= step;
    const double difference = (measure<kNorm>(above, q).norm - measure<kNorm>(below, q).norm) / (2 * step);
    const double slope = lbp::norm_slope<kNorm>(a[i], row.norm, row.sum, row.largest, q);
    CHECK(std::abs(slope - difference) <= 1e-8) << "q=" << q << " entry " << i << ": " << slope << " " << difference;
  }
}

TEST(slopes_are_those_of_the_norm) {
  check_slopes<Norm::kOne>(1);
  check_slopes<Norm::kTwo>(2);
  check_slopes<Norm::kInfinity>(0);
  check_slopes<Norm::kGeneral>(3);
  check_slopes<Norm::kGeneral>(1.5);
}

TEST(ties_of_the_largest_entry_share_its_slope) {
  const Row row = measure<Norm::kInfinity>({2, -2, 1}, 0);
  CHECK(lbp::norm_slope<Norm::kInfinity>(2, row.norm, row.sum, row.largest, 0) == 0.5);
  CHECK(lbp::norm_slope<Norm::kInfinity>(-2, row.norm, row.sum, row.largest, 0) == -0.5);
  CHECK(lbp::norm_slope<Norm::kInfinity>(1, row.norm, row.sum, row.largest, 0) == 0);
}

}  // namespace

int main() { return check::run_all(); }
