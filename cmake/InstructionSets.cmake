# The CPU kernels, compiled once per instruction set; csrc/cpu chooses among them at run time.
#
# Each pass defines LBP_ISA, the namespace lbp::LBP_ISA of its kernels: portable, avx2 or avx512. The other sources of
# csrc/cpu are told by LBP_HAVE_AVX2 and LBP_HAVE_AVX512 what was compiled.

set(lbp_isa_portable_flags "")
set(lbp_isa_avx2_flags -mavx2 -mfma)
set(lbp_isa_avx512_flags -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mprefer-vector-width=512)

# lbp_add_cpu_kernels(<target with the rest of csrc/cpu> <variable that receives the objects> <sources>...)
#
# The objects must be linked after everything else and in the order given. An inline function outside namespace
# lbp::LBP_ISA (of the standard library, say) can be emitted in several objects, and the linker keeps the first copy:
# in the order baseline, portable, avx2, avx512 it never holds an instruction that a caller's processor may lack.
function(lbp_add_cpu_kernels dispatcher objects_variable)
  set(instruction_sets portable)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
    list(APPEND instruction_sets avx2 avx512)
    target_compile_definitions(${dispatcher} PRIVATE LBP_HAVE_AVX2=1 LBP_HAVE_AVX512=1)
  endif()
  set(objects "")
  foreach(isa IN LISTS instruction_sets)
    if(ARGN)
      add_library(lbp_kernels_${isa} OBJECT ${ARGN})
      target_link_libraries(lbp_kernels_${isa} PRIVATE lbp_settings)
      target_compile_definitions(lbp_kernels_${isa} PRIVATE LBP_ISA=${isa})
      target_compile_options(lbp_kernels_${isa} PRIVATE ${lbp_isa_${isa}_flags})
      list(APPEND objects $<TARGET_OBJECTS:lbp_kernels_${isa}>)
    endif()
  endforeach()
  set(${objects_variable} ${objects} PARENT_SCOPE)
endfunction()
