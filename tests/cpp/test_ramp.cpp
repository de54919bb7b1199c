// ParamRamp, its slopes and its domain (Lyu et al. 2021, section 5).
#include "math/ramp.h"

#include <cmath>
#include <limits>

#include "check.h"

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

TEST(ramp_has_three_parts) {
  CHECK(lbp::ramp(-2.0f, 1.0f, 0.25f) == -0.5f);
  CHECK(lbp::ramp(0.5f, 1.0f, 0.25f) == 0.5f);
  CHECK(lbp::ramp(3.0f, 1.0f, 0.25f) == 1.5f);
  CHECK(lbp::ramp(0.0f, 1.0f, 0.25f) == 0.0f);
  CHECK(lbp::ramp(1.0f, 1.0f, 0.25f) == 1.0f);
}

TEST(infinite_r_is_leaky_relu) {
  for (const float z : {-3e38f, -1.0f, 0.0f, 1.0f, 3e38f}) {
    CHECK(lbp::ramp(z, kInfinity, 0.0f) == (z > 0 ? z : 0.0f)) << z;
    CHECK(lbp::ramp(z, kInfinity, 0.5f) == (z > 0 ? z : 0.5f * z)) << z;
    CHECK(lbp::ramp_slope(z, kInfinity, 0.5f) == (z > 0 ? 1.0f : 0.5f)) << z;
    CHECK(lbp::ramp_slope_in_r(z, kInfinity, 0.5f) == 0.0f) << z;
  }
}

TEST(slopes_are_taken_from_the_left_at_the_bends) {
  CHECK(lbp::ramp_slope(0.0f, 1.0f, 0.25f) == 0.25f);
  CHECK(lbp::ramp_slope(1.0f, 1.0f, 0.25f) == 1.0f);
  CHECK(lbp::ramp_slope_in_r(1.0f, 1.0f, 0.25f) == 0.0f);
  CHECK(lbp::ramp_slope_in_r(2.0f, 1.0f, 0.25f) == 0.75f);
}

TEST(ramp_never_falls_from_one_float_to_the_next) {
  // Beyond r = 3.3 the sum of eta z and (1 - eta) r would fall for eta = 0.1.
  for (const float r : {1e-4f, 0.3f, 1.0f, 3.3f, 7.77f}) {
    for (const float eta : {0.0f, 1e-8f, 0.01f, 0.1f, 0.3f, 0.99999994f, 1.0f}) {
      for (float start : {-0.1f, 0.0f, r}) {
        float z = std::nextafter(start, -kInfinity);
        for (int step = 0; step < 200; ++step) {
          const float next = std::nextafter(z, kInfinity);
          CHECK(lbp::ramp(z, r, eta) <= lbp::ramp(next, r, eta)) << "z=" << z << " r=" << r << " eta=" << eta;
          z = next;
        }
      }
    }
  }
}

TEST(outside_its_domain_the_value_is_nan) {
  for (const float r : {0.0f, -1.0f, kNan}) CHECK(std::isnan(lbp::ramp(0.5f, r, 0.0f))) << r;
  for (const float eta : {-0.1f, 1.1f, kNan}) CHECK(std::isnan(lbp::ramp(0.5f, 1.0f, eta))) << eta;
  CHECK(std::isnan(lbp::ramp(kNan, 1.0f, 0.0f)));
  CHECK(std::isnan(lbp::ramp(kNan, kInfinity, 0.5f)));
}

}  // namespace

int main() { return check::run_all(); }
