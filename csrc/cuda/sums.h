// Second launches: sums over what the blocks of a first one left in the workspace.
#pragma once

#include "cuda/launch.h"

namespace lbp::cuda {

// out[i] = sum of in[i, 0 ... count - 1]; T is double or Index.
template <typename T>
Status sum_rows(const T* in, T* out, Index rows, Index count, Stream stream);

// out[i] = sum of in[0 ... count - 1, i]; T is float or double.
template <typename T>
Status sum_columns(const T* in, T* out, Index columns, Index count, Stream stream);

}  // namespace lbp::cuda
