// Work split over PyTorch's threads; the kernels know no more of PyTorch than this.
#pragma once

#include "arguments.h"

namespace lbp::cpu {

// Calls body(begin, end, context) on pieces of [0, count), each of at least `grain` items. Defined by the binding.
void run_parallel(Index count, Index grain, void (*body)(Index, Index, void*), void* context);

}  // namespace lbp::cpu
