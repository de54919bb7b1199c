#include "cuda/compiled_kernel.h"

#include <dlfcn.h>

#include <cstring>
#include <map>
#include <mutex>
#include <utility>

#include "cuda/driver.h"
#include "cuda/stream.h"

#define LBP_EXPORT extern "C" __attribute__((visibility("default")))

namespace lbp::cuda::jit {
namespace {

// What the compiler is asked for, and its answer.
struct Request {
  std::string image, symbol, refusal;
};

// Answers through lbp_jit_answer or lbp_jit_refuse before it returns.
using Compiler = void (*)(void* request, const char* kernel, int major, int minor);
Compiler compiler = nullptr;

CompiledKernel* registry = nullptr;

thread_local std::string unavailable_because;

int unavailable(std::string reason) {
  unavailable_because = std::move(reason);
  return kUnavailable;
}

const Driver* open_driver(std::string* error) {
  void* const library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    *error = std::string("the CUDA driver cannot be opened (") + dlerror() + ")";
    return nullptr;
  }
  static Driver found = {};
  bool complete = true;
  const auto resolve = [&](auto& function, const char* name) {
    void* const address = dlsym(library, name);
    if (address == nullptr) {
      if (complete) *error = std::string("the CUDA driver has no function ") + name;
      complete = false;
    }
    std::memcpy(&function, &address, sizeof(address));
  };
#define LBP_RESOLVE(name) resolve(found.name, #name)
  LBP_RESOLVE(cuInit);
  LBP_RESOLVE(cuGetErrorName);
  LBP_RESOLVE(cuGetErrorString);
  LBP_RESOLVE(cuDeviceGetAttribute);
  LBP_RESOLVE(cuDevicePrimaryCtxRetain);
  LBP_RESOLVE(cuCtxGetCurrent);
  LBP_RESOLVE(cuCtxSetCurrent);
  LBP_RESOLVE(cuCtxGetDevice);
  LBP_RESOLVE(cuModuleLoadData);
  LBP_RESOLVE(cuModuleGetFunction);
  LBP_RESOLVE(cuFuncSetAttribute);
  LBP_RESOLVE(cuLaunchKernel);
#undef LBP_RESOLVE
  return complete ? &found : nullptr;
}

}  // namespace

const Driver* driver(std::string* error) {
  static std::string reason;
  static const Driver* const opened = open_driver(&reason);
  if (opened == nullptr) *error = reason;
  return opened;
}

namespace {

// The kernel's function on a device, compiled and loaded where this is its first launch there.
int compile_and_load(const Driver& cuda, const std::string& name, int device, Function* function) {
  if (compiler == nullptr) return unavailable("no compiler is registered: `import lbp` registers it");
  int major = 0, minor = 0;
  LBP_RETURN_IF_FAILED(cuda.cuDeviceGetAttribute(&major, kComputeCapabilityMajor, device));
  LBP_RETURN_IF_FAILED(cuda.cuDeviceGetAttribute(&minor, kComputeCapabilityMinor, device));
  Request request;
  compiler(&request, name.c_str(), major, minor);
  if (!request.refusal.empty()) return unavailable(std::move(request.refusal));
  if (request.image.empty()) return unavailable("the compiler of " + name + " gave no answer");
  Module module = nullptr;
  LBP_RETURN_IF_FAILED(cuda.cuModuleLoadData(&module, request.image.data()));
  return cuda.cuModuleGetFunction(function, module, request.symbol.c_str());
}

// Functions by kernel and device. Compiling happens outside the lock: it takes Python's, and a second thread that
// compiles the same kernel costs time only.
int function_of(const Driver& cuda, const CompiledKernel* kernel, int device, Function* function) {
  static std::mutex mutex;
  static std::map<std::pair<const CompiledKernel*, int>, Function> loaded;
  const auto key = std::make_pair(kernel, device);
  {
    const std::lock_guard<std::mutex> lock(mutex);
    const auto found = loaded.find(key);
    if (found != loaded.end()) {
      *function = found->second;
      return 0;
    }
  }
  LBP_RETURN_IF_FAILED(compile_and_load(cuda, kernel->name(), device, function));
  const std::lock_guard<std::mutex> lock(mutex);
  loaded.emplace(key, *function);
  return 0;
}

}  // namespace

CompiledKernel::CompiledKernel(const char* signature) : name_(name_of_kernel(signature)), next_(registry) {
  registry = this;
}

const CompiledKernel* registered_kernels() { return registry; }

const CompiledKernel* next(const CompiledKernel* kernel) { return kernel->next_; }

int CompiledKernel::launch(Extent grid, Extent block, std::size_t shared_bytes, void* stream, const void* argument) {
  std::string reason;
  const Driver* const cuda = driver(&reason);
  if (cuda == nullptr) return unavailable(std::move(reason));
  int device = 0;
  LBP_RETURN_IF_FAILED(cuda->cuCtxGetDevice(&device));
  Function function = nullptr;
  LBP_RETURN_IF_FAILED(function_of(*cuda, this, device, &function));
  if (shared_bytes > kDefaultSharedBytes) {
    LBP_RETURN_IF_FAILED(cuda->cuFuncSetAttribute(function, kMaxDynamicSharedSize, int(shared_bytes)));
  }
  void* arguments[] = {const_cast<void*>(argument)};
  return cuda->cuLaunchKernel(function, grid.x, grid.y, grid.z, block.x, block.y, block.z, unsigned(shared_bytes),
                              stream, arguments, nullptr);
}

int select_device(int index) {
  std::string reason;
  const Driver* const cuda = driver(&reason);
  if (cuda == nullptr) return unavailable(std::move(reason));
  LBP_RETURN_IF_FAILED(cuda->cuInit(0));
  Context context = nullptr;
  LBP_RETURN_IF_FAILED(cuda->cuCtxGetCurrent(&context));
  int current = -1;
  if (context != nullptr) LBP_RETURN_IF_FAILED(cuda->cuCtxGetDevice(&current));
  if (current == index) return 0;
  // torch holds the context as well, so that it lives as long as the process.
  LBP_RETURN_IF_FAILED(cuda->cuDevicePrimaryCtxRetain(&context, index));
  return cuda->cuCtxSetCurrent(context);
}

std::string error_text(int status) {
  if (status == kUnavailable) return unavailable_because;
  std::string reason;
  const Driver* const cuda = driver(&reason);
  const char *name = nullptr, *text = nullptr;
  if (cuda == nullptr || cuda->cuGetErrorName(status, &name) != 0 || cuda->cuGetErrorString(status, &text) != 0) {
    return "CUDA error " + std::to_string(status);
  }
  return std::string(name) + ": " + text;
}

}  // namespace lbp::cuda::jit

// What lbp/_jit.py calls. Strings are UTF-8.

LBP_EXPORT void lbp_jit_set_compiler(lbp::cuda::jit::Compiler compiler) { lbp::cuda::jit::compiler = compiler; }

LBP_EXPORT void lbp_jit_answer(void* request, const char* image, std::size_t bytes, const char* symbol) {
  auto* const asked = static_cast<lbp::cuda::jit::Request*>(request);
  asked->image.assign(image, bytes);
  asked->symbol = symbol;
}

LBP_EXPORT void lbp_jit_refuse(void* request, const char* reason) {
  static_cast<lbp::cuda::jit::Request*>(request)->refusal = reason;
}

// The name of the kernel with this number among those that the library may launch; null where there are fewer.
LBP_EXPORT const char* lbp_jit_kernel(std::size_t number) {
  const lbp::cuda::jit::CompiledKernel* kernel = lbp::cuda::jit::registered_kernels();
  for (; kernel != nullptr && number > 0; --number) kernel = next(kernel);
  return kernel == nullptr ? nullptr : kernel->name().c_str();
}
