#include "cuda/sums.h"

#include "cuda/grid.h"
#include "cuda/kernels/reduce.cuh"

namespace lbp::cuda {

template <typename T>
Status sum_rows(const T* in, T* out, Index rows, Index count, Stream stream) {
  const SumRowsArguments<T> launch = {in, out, rows, count};
  return LBP_LAUNCH_BLOCKS((sum_rows_kernel<T>), quotient_up(rows, kWarps), 0, stream, launch);
}

template <typename T>
Status sum_columns(const T* in, T* out, Index columns, Index count, Stream stream) {
  const SumColumnsArguments<T> launch = {in, out, columns, count};
  return LBP_LAUNCH_BLOCKS((sum_columns_kernel<T>), quotient_up(columns, kThreads), 0, stream, launch);
}

template Status sum_rows(const double*, double*, Index, Index, Stream);
template Status sum_rows(const Index*, Index*, Index, Index, Stream);
template Status sum_columns(const float*, float*, Index, Index, Stream);
template Status sum_columns(const double*, double*, Index, Index, Stream);

}  // namespace lbp::cuda
