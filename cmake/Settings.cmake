# Compiler, warnings and floating-point rules that every target shares through `lbp_settings`.

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()

set(CMAKE_CXX_STANDARD 17)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
# The process has loaded torch's libraries before ours: a path of the build machine has no place in the file.
set(CMAKE_SKIP_RPATH ON)

find_program(LBP_CCACHE ccache)
mark_as_advanced(LBP_CCACHE)
if(LBP_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER "${LBP_CCACHE}")
endif()

add_library(lbp_settings INTERFACE)
target_include_directories(lbp_settings INTERFACE "${PROJECT_SOURCE_DIR}/csrc")
# Of the host compiler; those of nvcc stand in cmake/Cuda.cmake. The list is one generator expression for C++ alone.
set(lbp_cxx_options
  # Targets whose code is compiled about as often as it runs set LBP_OPTIMIZATION.
  $<IF:$<BOOL:$<TARGET_PROPERTY:LBP_OPTIMIZATION>>,$<TARGET_PROPERTY:LBP_OPTIMIZATION>,-O3>
  # A bound is a statement about rounded arithmetic, so the compiler keeps every operation as it is written:
  # -ffp-contract=off  a*b+c is not fused unless the code says fma: the same bound on every instruction set, and a
  #                    line that was checked to be valid is the line that is evaluated.
  # No other relaxation of floating point may be added. -ffast-math and its parts assume that there is no NaN and no
  # infinity, while a NaN bound means "not verified" and an infinite r is ReLU; reassociation undoes outward rounding.
  -ffp-contract=off
  # These two change no result: nothing here reads errno or the exception flags, and vectorisation needs them.
  -fno-math-errno -fno-trapping-math
  # Sums whose order does not matter say so themselves (#pragma omp simd reduction); no OpenMP runtime is involved.
  -fopenmp-simd
  -Wall -Wextra -Wshadow
  -Wno-unknown-pragmas  # `#pragma unroll` is nvcc's
  -Werror=return-type -Werror=uninitialized -Werror=sign-compare -Werror=switch
  -Werror=shadow -Werror=unused-variable -Werror=unused-function -Werror=unused-result -Werror=reorder
  # Messages show csrc/... instead of the folder that the library was built in.
  "-ffile-prefix-map=${PROJECT_SOURCE_DIR}/=")
target_compile_options(lbp_settings INTERFACE "$<$<COMPILE_LANGUAGE:CXX>:${lbp_cxx_options}>")

if(LBP_SANITIZE)
  # To load the library in Python: LD_PRELOAD=$(g++ -print-file-name=libasan.so)
  target_compile_options(lbp_settings INTERFACE
    -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all)
  target_link_options(lbp_settings INTERFACE -fsanitize=address,undefined)
endif()
