// From a region that is known at run time to the kernels' compile-time kinds; host code.
#pragma once

#include "cuda/grid.h"
#include "cuda/kernels/concretize.cuh"

namespace lbp::cuda {

// Calls body with the kind of region and whether whole packs are read. Norms that are seldom used have one kernel.
template <typename T, typename Body>
Status with_region(const Region<T>& region, bool aligned, const Body& body) {
  const auto with_alignment = [&](auto kind) {
    return with_flag(aligned, [&](auto flag) { return body(kind, flag); });
  };
  if (region.x_U != nullptr) return with_alignment(Box());
  switch (norm_kind(region.q)) {
    case Norm::kOne:
      return with_alignment(Ball<Norm::kOne>());
    case Norm::kTwo:
      return with_alignment(Ball<Norm::kTwo>());
    case Norm::kInfinity:
      return body(Ball<Norm::kInfinity>(), std::false_type());
    case Norm::kGeneral:
      break;
  }
  return body(Ball<Norm::kGeneral>(), std::false_type());
}

// Whether the gradient needs the norm of a row.
template <typename T>
bool needs_norm(const Region<T>& region) {
  return region.x_U == nullptr && norm_kind(region.q) != Norm::kOne;
}

}  // namespace lbp::cuda
