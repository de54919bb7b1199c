// Exact sums of products of floating-point numbers, so that a test can decide an inequality without any rounding.
#pragma once

#include <array>
#include <cmath>

namespace exact {

// Holds a sum as numbers that do not overlap, smallest first (Shewchuk 1997, grow-expansion). Exact as long as nothing
// overflows and no product of two numbers falls below 2^-960, or is a product of two floats.
class Sum {
 public:
  Sum& add(double x) {
    int kept = 0;
    for (int i = 0; i < count_; ++i) {
      const double part = parts_[i];
      const double sum = x + part;
      const double tail = sum - x;
      const double error = (x - (sum - tail)) + (part - tail);
      if (error != 0) parts_[kept++] = error;
      x = sum;
    }
    if (x != 0) parts_[kept++] = x;
    count_ = kept;
    return *this;
  }

  Sum& add_product(double a, double b) {
    const double product = a * b;
    return add(std::fma(a, b, -product)).add(product);
  }

  // The sign decides, and the largest part has it.
  double leading() const { return count_ == 0 ? 0.0 : parts_[count_ - 1]; }

 private:
  // One part at most per addition.
  std::array<double, 16> parts_;
  int count_ = 0;
};

}  // namespace exact
