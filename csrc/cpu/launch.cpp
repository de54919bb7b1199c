#include "cpu/launch.h"

#include <cstdlib>
#include <cstring>

namespace lbp {

#define LBP_DECLARE_KERNELS(isa)                      \
  namespace isa {                                     \
  extern const cpu::Kernels<float> single_precision;  \
  extern const cpu::Kernels<double> double_precision; \
  }

LBP_DECLARE_KERNELS(portable)
#ifdef LBP_HAVE_AVX2
LBP_DECLARE_KERNELS(avx2)
#endif
#ifdef LBP_HAVE_AVX512
LBP_DECLARE_KERNELS(avx512)
#endif
#undef LBP_DECLARE_KERNELS

namespace cpu {
namespace {

// Best first.
const InstructionSet kInstructionSets[] = {
#ifdef LBP_HAVE_AVX512
    {"avx512",
     [] {
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
     },
     &avx512::single_precision, &avx512::double_precision},
#endif
#ifdef LBP_HAVE_AVX2
    {"avx2", [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }, &avx2::single_precision,
     &avx2::double_precision},
#endif
    {"portable", [] { return true; }, &portable::single_precision, &portable::double_precision},
};

const InstructionSet* choose(const char** error) {
  const char* wanted = std::getenv("LBP_CPU_CAPABILITY");
  for (const InstructionSet& candidate : kInstructionSets) {
    if (wanted != nullptr && std::strcmp(wanted, candidate.name) != 0) continue;
    if (candidate.supported()) return &candidate;
  }
  *error =
      "LBP_CPU_CAPABILITY names an instruction set that this processor or this build does not have; "
      "unset it or set it to portable";
  return nullptr;
}

}  // namespace

const InstructionSet* instruction_set(const char** error) {
  static const char* message = nullptr;
  static const InstructionSet* const chosen = choose(&message);
  *error = message;
  return chosen;
}

}  // namespace cpu
}  // namespace lbp
