#include "torch/cuda.h"

#ifdef LBP_HAVE_CUDA

#include <torch/csrc/stable/accelerator.h>

#include "cuda/device.h"

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

#else

namespace lbp::binding {

std::string cuda_build() { return "none"; }

}  // namespace lbp::binding

#endif
