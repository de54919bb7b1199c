// Vectors of the widest registers of the instruction set, for products whose operands must stay in registers.
//
// A multiply-add is fused where the instruction set has it. Products with weights are rounded to nearest in any case;
// bounding lines are never computed with these.
#pragma once

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "arguments.h"

namespace lbp::LBP_ISA {

#if defined(__AVX512F__)
constexpr Index kVectorBytes = 64, kVectorRegisters = 32;
#elif defined(__AVX2__) && defined(__FMA__)
constexpr Index kVectorBytes = 32, kVectorRegisters = 16;
#else
constexpr Index kVectorBytes = 16, kVectorRegisters = 16;
#endif

template <typename T>
struct Vector {
  typedef T Type __attribute__((vector_size(kVectorBytes)));
  typedef T Unaligned __attribute__((vector_size(kVectorBytes), aligned(alignof(T))));
  static constexpr Index kSize = kVectorBytes / Index(sizeof(T));
};

template <typename T>
typename Vector<T>::Type load_vector(const T* from) {
  return *reinterpret_cast<const typename Vector<T>::Unaligned*>(from);
}

template <typename T>
void store_vector(T* to, typename Vector<T>::Type value) {
  *reinterpret_cast<typename Vector<T>::Unaligned*>(to) = value;
}

// A number in every lane.
template <typename T>
typename Vector<T>::Type broadcast(T number) {
  return number - typename Vector<T>::Type{};  // -0 - 0 is -0
}

// accumulator + a * b.
inline Vector<float>::Type multiply_add(Vector<float>::Type a, Vector<float>::Type b, Vector<float>::Type accumulator) {
#if defined(__AVX512F__)
  return Vector<float>::Type(_mm512_fmadd_ps(__m512(a), __m512(b), __m512(accumulator)));
#elif defined(__AVX2__) && defined(__FMA__)
  return Vector<float>::Type(_mm256_fmadd_ps(__m256(a), __m256(b), __m256(accumulator)));
#else
  return accumulator + a * b;
#endif
}

inline Vector<double>::Type multiply_add(Vector<double>::Type a, Vector<double>::Type b,
                                         Vector<double>::Type accumulator) {
#if defined(__AVX512F__)
  return Vector<double>::Type(_mm512_fmadd_pd(__m512d(a), __m512d(b), __m512d(accumulator)));
#elif defined(__AVX2__) && defined(__FMA__)
  return Vector<double>::Type(_mm256_fmadd_pd(__m256d(a), __m256d(b), __m256d(accumulator)));
#else
  return accumulator + a * b;
#endif
}

}  // namespace lbp::LBP_ISA
