# Writes a C++ source that says of which headers the launchers are, those that NVRTC compiles their kernels from:
#
#   cmake -D csrc=<folder> -D output=<file> -P KernelSources.cmake
#
# The digest is that of `sources_digest` in lbp/_jit.py.
file(GLOB headers RELATIVE "${csrc}" "${csrc}/*.h" "${csrc}/math/*.h")
file(GLOB_RECURSE kernels RELATIVE "${csrc}" "${csrc}/cuda/*.cuh")
set(names ${headers} ${kernels})
list(SORT names)
set(listing "")
foreach(name IN LISTS names)
  file(SHA256 "${csrc}/${name}" digest)
  string(APPEND listing "${digest}  ${name}\n")
endforeach()
string(SHA256 digest "${listing}")
file(WRITE "${output}"
  "extern \"C\" __attribute__((visibility(\"default\"))) const char* lbp_jit_sources() { return \"${digest}\"; }\n")
