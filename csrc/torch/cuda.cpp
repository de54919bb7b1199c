#include "torch/cuda.h"

#include <cstdlib>

namespace lbp::binding {

Arithmetic arithmetic() {
  static const char* wanted = std::getenv("LBP_CUDA_TENSOR_CORES");
  static const bool split = wanted != nullptr && std::string(wanted) == "1";
  return split ? Arithmetic::kSplit : Arithmetic::kPlain;
}

}  // namespace lbp::binding

#ifdef LBP_HAVE_CUDA

#include <torch/csrc/stable/accelerator.h>

#include "cuda/device.h"
#include "torch/ops.h"

// Only a torch with CUDA has this function: weak, so that the library loads beside any other.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device, void** stream);

namespace lbp::binding {

void on_cuda(Device on, const char* op, Index bytes, const std::function<int(void*, void*)>& body) {
  STD_TORCH_CHECK(&aoti_torch_get_current_cuda_stream != nullptr, op, ": this torch was built without CUDA");
  const torch::stable::accelerator::DeviceGuard guard(on.index());
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(on.index(), &stream));
  Tensor workspace;
  if (bytes > 0) workspace = empty_on(on, {bytes}, ScalarType::Byte);
  int status = cuda::select_device(on.index());
  if (status == 0) status = body(bytes > 0 ? workspace.mutable_data_ptr() : nullptr, stream);
  STD_TORCH_CHECK(status == 0, "lbp::", op, " on cuda:", on.index(), " failed: ", cuda::describe(status));
}

std::string cuda_build() { return cuda::build(); }

}  // namespace lbp::binding

// The bindings that serve the CPU as well; the fused products have some of their own.
STABLE_TORCH_LIBRARY_IMPL(lbp, CUDA, library) {
  library.impl("ramp", TORCH_BOX(&lbp::binding::ramp));
  library.impl("ramp_gradient", TORCH_BOX(&lbp::binding::ramp_gradient));
  library.impl("ramp_interval", TORCH_BOX(&lbp::binding::ramp_interval));
  library.impl("ramp_interval_gradient", TORCH_BOX(&lbp::binding::ramp_interval_gradient));
  library.impl("bounding_lines", TORCH_BOX(&lbp::binding::bounding_lines));
  library.impl("bounding_lines_gradient", TORCH_BOX(&lbp::binding::bounding_lines_gradient));
  library.impl("relax_backward", TORCH_BOX(&lbp::binding::relax_backward));
  library.impl("relax_backward_gradient", TORCH_BOX(&lbp::binding::relax_backward_gradient));
  library.impl("split_interval", TORCH_BOX(&lbp::binding::split_interval));
  library.impl("join_interval", TORCH_BOX(&lbp::binding::join_interval));
  library.impl("relax_forward", TORCH_BOX(&lbp::binding::relax_forward));
  library.impl("relax_forward_gradient", TORCH_BOX(&lbp::binding::relax_forward_gradient));
  library.impl("concretize", TORCH_BOX(&lbp::binding::concretize));
  library.impl("concretize_gradient", TORCH_BOX(&lbp::binding::concretize_gradient));
  library.impl("concretize_windows", TORCH_BOX(&lbp::binding::concretize_windows));
  library.impl("concretize_windows_gradient", TORCH_BOX(&lbp::binding::concretize_windows_gradient));
  library.impl("relax_windows", TORCH_BOX(&lbp::binding::relax_windows));
  library.impl("relax_windows_gradient", TORCH_BOX(&lbp::binding::relax_windows_gradient));
  library.impl("relax_backward_conv2d_windows", TORCH_BOX(&lbp::binding::relax_backward_conv2d_windows));
  library.impl("backward_conv2d_windows", TORCH_BOX(&lbp::binding::backward_conv2d_windows));
  library.impl("concretize_forward", TORCH_BOX(&lbp::binding::concretize_forward));
  library.impl("concretize_forward_gradient", TORCH_BOX(&lbp::binding::concretize_forward_gradient));
  library.impl("concretize_forward_windows", TORCH_BOX(&lbp::binding::concretize_forward_windows));
  library.impl("concretize_forward_windows_gradient", TORCH_BOX(&lbp::binding::concretize_forward_windows_gradient));
}

#else

namespace lbp::binding {

std::string cuda_build() { return "none"; }

}  // namespace lbp::binding

#endif
