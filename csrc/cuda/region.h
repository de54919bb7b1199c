// From a region that is known at run time to the kernels' compile-time kinds; host code.
#pragma once

#include "cuda/grid.h"
#include "cuda/kernels/concretize.cuh"

namespace lbp::cuda {

// Calls body with the kind of region.
template <typename T, typename Body>
Status with_region(const Region<T>& region, const Body& body) {
  if (region.x_U != nullptr) return body(Box());
  return with_norm(region.q, [&](auto norm) { return body(Ball<norm>()); });
}

// Calls body with the kind of region and whether whole packs are read. Of the norms that take powers there is one
// kernel.
template <typename T, typename Body>
Status with_region(const Region<T>& region, bool aligned, const Body& body) {
  return with_region(region, [&](auto kind) {
    if constexpr (kind.kNorm != Norm::kGeneral) {
      return with_flag(aligned, [&](auto flag) { return body(kind, flag); });
    } else {
      return body(kind, std::false_type());
    }
  });
}

// Whether the gradient needs the norm of a row.
template <typename T>
bool needs_norm(const Region<T>& region) {
  return region.x_U == nullptr && norm_kind(region.q) != Norm::kOne;
}

}  // namespace lbp::cuda
