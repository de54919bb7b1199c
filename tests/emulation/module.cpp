// The Python module lbp_emulated: the CUDA launch functions on NumPy arrays, run by the emulator.
#include <pybind11/stl.h>

#include <map>
#include <utility>

#include "cuda/grid.h"
#include "emulation/bind.h"

static std::map<std::string, bool> kernels() {
  std::map<std::string, bool> launched;
  for (const lbp::emulate::Kernel* kernel : lbp::emulate::Kernel::all())
    launched[kernel->name()] = kernel->was_launched();
  return launched;
}

static std::vector<std::string> take_launches() { return std::exchange(lbp::emulate::Kernel::launches(), {}); }

PYBIND11_MODULE(lbp_emulated, module) {
  module.doc() = "The CUDA kernels on the host: one fiber per thread, under AddressSanitizer and UBSan.";
  module.def("set_seed", &lbp::emulate::set_seed, "Order of the threads; 0: as they are numbered.");
  module.def(
      "set_one_launch", [](bool wanted) { lbp::cuda::small_layers_take_one_launch = wanted; },
      "Whether small layers take one launch, or the launches of large ones.");
  module.def("kernels", &kernels, "All kernels that launchers name, and whether each was launched.");
  module.def("take_launches", &take_launches, "The kernels that were launched since the last call, in order.");
  for (const auto bind : lbp::emulate::bindings()) bind(module);
}
