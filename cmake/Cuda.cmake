# What the library has for CUDA devices, from csrc/cuda: kernels compiled ahead of time by nvcc, or launchers that have
# them compiled just in time, on first use, by NVRTC. After this file `lbp_cuda_mode` is one of
#
#   ahead-of-time   the .cu files are CUDA sources
#   just-in-time    the .cu files are C++ sources with LBP_CUDA_JIT defined: neither nvcc nor any CUDA header is needed
#   none            csrc/cuda is left out
#
# In each case the library loads and works on a machine without a GPU or driver.

set(LBP_CUDA AUTO CACHE STRING
  "CUDA kernels: AUTO compiles them ahead of time beside a CUDA build of torch where nvcc is found, else just in time; ON insists on ahead of time, beside any torch; JIT on just in time; OFF leaves them out")
set_property(CACHE LBP_CUDA PROPERTY STRINGS AUTO ON JIT OFF)
# Machine code for A100, H100 and H200, B200, and consumer Blackwell.
set(LBP_CUDA_ARCHITECTURES "80;90;100;120" CACHE STRING
  "Compute capabilities that nvcc makes machine code for, as 80;90; `native`: those of this machine's GPUs")

string(TOUPPER "${LBP_CUDA}" lbp_cuda_wanted)
if(NOT lbp_cuda_wanted MATCHES "^(AUTO|ON|JIT|OFF)$")
  message(FATAL_ERROR "LBP_CUDA=${LBP_CUDA} is not one of AUTO, ON, JIT, OFF.")
endif()

set(lbp_cuda_mode just-in-time)
if(lbp_cuda_wanted STREQUAL "OFF")
  set(lbp_cuda_mode none)
elseif(lbp_cuda_wanted STREQUAL "ON" OR (lbp_cuda_wanted STREQUAL "AUTO" AND lbp_torch_cuda))
  set(CMAKE_CUDA_ARCHITECTURES OFF)  # the options stand below
  set(CMAKE_CUDA_RUNTIME_LIBRARY Static)  # the process may have no CUDA runtime, or torch's own of another version
  if(NOT CMAKE_CUDA_COMPILER)
    unset(CMAKE_CUDA_COMPILER CACHE)  # nvcc may have been installed since the last configuration
  endif()
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    enable_language(CUDA)
    set(CMAKE_CUDA_STANDARD 17)
    set(CMAKE_CUDA_STANDARD_REQUIRED ON)
    set(CMAKE_CUDA_EXTENSIONS OFF)
    set(lbp_cuda_mode ahead-of-time)
  elseif(lbp_cuda_wanted STREQUAL "ON")
    message(FATAL_ERROR "LBP_CUDA=ON needs nvcc, which is not found or compiles nothing. Put it on PATH, name it by "
                        "-DCMAKE_CUDA_COMPILER=/path/to/nvcc, or leave LBP_CUDA out: the kernels are then compiled just "
                        "in time.")
  endif()
endif()
message(STATUS "CUDA kernels: ${lbp_cuda_mode}")

# -fmad=false is nvcc's -ffp-contract=off (cmake/Settings.cmake says why); -use_fast_math and its parts stay out, which
# the next three, nvcc's defaults, say by name.
set(lbp_cuda_options
  -fmad=false
  -ftz=false
  -prec-div=true
  -prec-sqrt=true
  --expt-relaxed-constexpr
  -Werror=cross-execution-space-call
  "SHELL:-Xcompiler=-ffp-contract=off,-Wall,-Wextra")

if(lbp_cuda_mode STREQUAL "ahead-of-time")
  set(lbp_capabilities "${LBP_CUDA_ARCHITECTURES}")
  if(LBP_CUDA_ARCHITECTURES STREQUAL "native")
    execute_process(
      COMMAND nvidia-smi --query-gpu=compute_cap --format=csv,noheader
      OUTPUT_VARIABLE lbp_capabilities OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE lbp_no_gpu)
    if(lbp_no_gpu)
      message(FATAL_ERROR "LBP_CUDA_ARCHITECTURES=native: nvidia-smi names no GPU of this machine. Name compute "
                          "capabilities instead, as in LBP_CUDA_ARCHITECTURES=90.")
    endif()
    string(REPLACE "." "" lbp_capabilities "${lbp_capabilities}")
    string(REPLACE "\n" ";" lbp_capabilities "${lbp_capabilities}")
    list(REMOVE_DUPLICATES lbp_capabilities)
  endif()
  list(SORT lbp_capabilities COMPARE NATURAL)
  # The kernels ask for nothing that is newer than the oldest architecture, so the slow part, C++ to PTX, is done once
  # for all. The PTX goes into the library as well, for devices that come later.
  list(GET lbp_capabilities 0 lbp_oldest)
  list(TRANSFORM lbp_capabilities PREPEND "sm_" OUTPUT_VARIABLE lbp_machines)
  foreach(code IN LISTS lbp_machines ITEMS "compute_${lbp_oldest}")
    list(APPEND lbp_cuda_options "--generate-code=arch=compute_${lbp_oldest},code=${code}")
  endforeach()
  list(JOIN lbp_machines ", " lbp_cuda_architectures)
  string(APPEND lbp_cuda_architectures " and later")
  target_compile_options(lbp_settings INTERFACE "$<$<COMPILE_LANGUAGE:CUDA>:${lbp_cuda_options}>")
endif()

# lbp_add_cuda_launchers(<target to make> <sources>...): sets lbp_launcher_objects, for the linker.
function(lbp_add_cuda_launchers target)
  if(lbp_cuda_mode STREQUAL "none")
    set(lbp_launcher_objects "" PARENT_SCOPE)
    return()
  endif()
  add_library(${target} OBJECT ${ARGN})
  target_link_libraries(${target} PRIVATE lbp_settings)
  if(lbp_cuda_mode STREQUAL "just-in-time")
    # Kernels are parsed for their names; the pragmas in them are for nvcc.
    set_source_files_properties(${ARGN} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS -Wno-unknown-pragmas)
    file(GLOB lbp_compiled_headers CONFIGURE_DEPENDS
      csrc/*.h csrc/math/*.h csrc/cuda/*.cuh csrc/cuda/kernels/*.cuh)
    set(lbp_kernel_sources_script "${PROJECT_SOURCE_DIR}/cmake/KernelSources.cmake")
    add_custom_command(
      OUTPUT "${PROJECT_BINARY_DIR}/kernel_sources.cpp"
      COMMAND "${CMAKE_COMMAND}" "-Dcsrc=${PROJECT_SOURCE_DIR}/csrc" "-Doutput=${PROJECT_BINARY_DIR}/kernel_sources.cpp"
              -P "${lbp_kernel_sources_script}"
      DEPENDS ${lbp_compiled_headers} "${lbp_kernel_sources_script}"
      VERBATIM)
    target_sources(${target} PRIVATE csrc/cuda/compiled_kernel.cpp "${PROJECT_BINARY_DIR}/kernel_sources.cpp")
    target_compile_definitions(${target} PRIVATE LBP_CUDA_JIT=1)
  else()
    target_compile_definitions(${target} PRIVATE "LBP_CUDA_ARCHITECTURES=\"${lbp_cuda_architectures}\"")
  endif()
  set(lbp_launcher_objects $<TARGET_OBJECTS:${target}> PARENT_SCOPE)
endfunction()
