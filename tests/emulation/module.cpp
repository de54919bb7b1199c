// The Python module lbp_emulated: the CUDA launch functions on NumPy arrays, run by the emulator.
#include "emulation/bind.h"

PYBIND11_MODULE(lbp_emulated, module) {
  module.doc() = "The CUDA kernels on the host: one fiber per thread, under AddressSanitizer and UBSan.";
  module.def("set_seed", &lbp::emulate::set_seed, "Order of the threads; 0: as they are numbered.");
  for (const auto bind : lbp::emulate::bindings()) bind(module);
}
