// Kernels as objects: what a launcher that the host's compiler sees has in place of CUDA's table of kernels.
#pragma once

#include <cstddef>
#include <string>

namespace lbp::cuda {

// `Kernel instance`, constructed from a text that ends with the kernel's name when the library is loaded, for every
// kernel that a launcher names.
template <typename Kernel, auto kKernel>
struct Named {
  static const char* signature() { return __PRETTY_FUNCTION__; }
  static Kernel instance;
};

template <typename Kernel, auto kKernel>
Kernel Named<Kernel, kKernel>::instance(Named<Kernel, kKernel>::signature());

// As a C++ expression, lbp::cuda::some_kernel<float, 4>: the kernel in "... auto kKernel = lbp::cuda::NAME]" (GCC) or
// "... kKernel = &lbp::cuda::NAME]" (Clang); either may leave out the namespace that it is in itself.
inline std::string name_of_kernel(const char* signature) {
  const std::string text = signature, key = "kKernel = ", space = "lbp::cuda::";
  std::size_t begin = text.find(key) + key.size();
  if (text[begin] == '&') ++begin;
  const std::string name = text.substr(begin, text.rfind(']') - begin);
  return name.rfind(space, 0) == 0 ? name : space + name;
}

}  // namespace lbp::cuda
