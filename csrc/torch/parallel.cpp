#include "cpu/parallel.h"

#include <torch/csrc/stable/ops.h>

namespace lbp::cpu {

namespace {

struct Call {
  void (*body)(Index, Index, void*);
  void* context;
};

}  // namespace

void run_parallel(Index count, Index grain, void (*body)(Index, Index, void*), void* context) {
  if (count <= 0) return;
  Call call = {body, context};
  TORCH_ERROR_CODE_CHECK(torch_parallel_for(
      0, count, grain,
      [](int64_t begin, int64_t end, void* data) {
        const Call* pending = static_cast<const Call*>(data);
        pending->body(begin, end, pending->context);
      },
      &call));
}

}  // namespace lbp::cpu
