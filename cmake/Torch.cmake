# `lbp_torch`: PyTorch's stable ABI, from the torch that the given Python has.
#
# find_package(Torch) is not used: it needs a complete CUDA toolkit beside a CUDA build of torch, while the stable ABI
# needs two header folders and three libraries.

find_package(Python COMPONENTS Interpreter REQUIRED)

# find_spec does not import torch, which would take seconds.
execute_process(
  COMMAND "${Python_EXECUTABLE}" -c
    "import importlib.metadata as m, importlib.util as u, runpy; print(m.version('torch')); root = u.find_spec('torch').submodule_search_locations[0]; print(root); print(runpy.run_path(root + '/version.py')['cuda'] or 'OFF')"
  RESULT_VARIABLE lbp_torch_status
  OUTPUT_VARIABLE lbp_torch_answer
  ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
if(NOT lbp_torch_status EQUAL 0)
  message(FATAL_ERROR "PyTorch is missing: ${Python_EXECUTABLE} has no torch. Install it with "
                      "`${Python_EXECUTABLE} -m pip install 'torch>=2.11'`, or name another Python by -DPython_EXECUTABLE=...")
endif()
string(REPLACE "\n" ";" lbp_torch_answer "${lbp_torch_answer}")
list(GET lbp_torch_answer 0 lbp_torch_version)
list(GET lbp_torch_answer 1 lbp_torch_root)
list(GET lbp_torch_answer 2 lbp_torch_cuda)  # the version of CUDA, OFF for a CPU build
if(lbp_torch_version VERSION_LESS 2.11)
  message(FATAL_ERROR "PyTorch ${lbp_torch_version} is too old: lbp needs torch>=2.11, "
                      "`${Python_EXECUTABLE} -m pip install --upgrade 'torch>=2.11'` installs it.")
endif()
message(STATUS "PyTorch ${lbp_torch_version} (CUDA: ${lbp_torch_cuda}): ${lbp_torch_root}")

add_library(lbp_torch INTERFACE)
target_include_directories(lbp_torch SYSTEM INTERFACE "${lbp_torch_root}/include")
# The ABI of torch 2.11, whichever later torch the headers come from: the library then loads in 2.11 and all that follow.
target_compile_definitions(lbp_torch INTERFACE TORCH_TARGET_VERSION=0x020b000000000000)
target_link_directories(lbp_torch INTERFACE "${lbp_torch_root}/lib")
# --no-as-needed: the registrations refer to all three, also where a linker sees no symbol that it needs.
target_link_options(lbp_torch INTERFACE "-Wl,-rpath-link,${lbp_torch_root}/lib" -Wl,--no-undefined)
target_link_libraries(lbp_torch INTERFACE -Wl,--no-as-needed -ltorch -ltorch_cpu -lc10)
