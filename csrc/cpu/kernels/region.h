// What evaluating linear bounds over the input region needs, whichever way the coefficients lie in memory.
#pragma once

#include "arguments.h"
#include "dispatch.h"
#include "math/box.h"

namespace lbp::LBP_ISA {

// The radius of the ball around an image.
template <typename T>
double radius_of(const Region<T>& region, Index image) {
  return region.eps_data == nullptr ? region.eps : region.eps_data[image * region.eps_stride];
}

}  // namespace lbp::LBP_ISA
