// Vectors of the widest registers of the instruction set, for products whose operands must stay in registers.
//
// A multiply-add is fused where the instruction set has it. Products with weights are rounded to nearest in any case;
// bounding lines are never computed with these.
#pragma once

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

#include <cstdint>
#include <type_traits>

#include "arguments.h"
#include "math/config.h"

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

// The magnitudes of a vector's numbers.
template <typename T>
typename Vector<T>::Type magnitude(typename Vector<T>::Type value) {
  using Bits = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  typedef Bits Mask __attribute__((vector_size(kVectorBytes)));
  const Mask all_but_sign = Mask{} + Bits(~(Bits(1) << (8 * sizeof(T) - 1)));
  return typename Vector<T>::Type(Mask(value) & all_but_sign);
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

inline double multiply_add(double a, double b, double accumulator) { return accumulator + a * b; }

// Half of a vector's lanes, 0 the lower and 1 the upper one, in float64. The masks are all lanes: GCC 12 warns of
// uninitialised values in the intrinsics without.
template <int kHalf>
Vector<double>::Type widened(Vector<float>::Type vector) {
#if defined(__AVX512F__)
  return Vector<double>::Type(_mm512_maskz_cvtps_pd(0xff, _mm512_maskz_extractf32x8_ps(0xff, __m512(vector), kHalf)));
#elif defined(__AVX2__) && defined(__FMA__)
  return Vector<double>::Type(_mm256_cvtps_pd(_mm256_extractf128_ps(__m256(vector), kHalf)));
#else
  return Vector<double>::Type{vector[2 * kHalf], vector[2 * kHalf + 1]};
#endif
}

// Reads a vector, or a single number, as V says.
template <typename V, typename T>
LBP_HOST_DEVICE V load(const T* from) {
  if constexpr (sizeof(V) == sizeof(T)) {
    return *from;
  } else {
    return load_vector(from);
  }
}

template <typename V, typename T>
LBP_HOST_DEVICE void save(T* to, V value) {
  if constexpr (sizeof(V) == sizeof(T)) {
    *to = value;
  } else {
    store_vector(to, value);
  }
}

// As many numbers as D has, in float64.
template <typename D, typename T>
LBP_HOST_DEVICE D load_wide(const T* from) {
  if constexpr (sizeof(D) == sizeof(double)) {
    return *from;
  } else if constexpr (sizeof(T) == sizeof(double)) {
    return load<D>(from);
  } else {
#if defined(__AVX512F__)
    return D(_mm512_maskz_cvtps_pd(0xff, _mm256_loadu_ps(from)));
#elif defined(__AVX2__) && defined(__FMA__)
    return D(_mm256_cvtps_pd(_mm_loadu_ps(from)));
#else
    return D{from[0], from[1]};
#endif
  }
}

// Calls body(j, zero) for a run of numbers: from j on lies a vector, or before `head` and behind the last whole vector
// a single number; `zero` is one of those. Bodies are to be inlined (LBP_LANES), so that their sums stay in registers.
template <typename T, typename Body>
LBP_HOST_DEVICE void for_lanes(Index head, Index size, const Body& body) {
  constexpr Index kSize = Vector<T>::kSize;
  const Index end = head + (size - head) / kSize * kSize;
  for (Index j = 0; j < head; ++j) body(j, T(0));
  for (Index j = head; j < end; j += kSize) body(j, typename Vector<T>::Type{});
  for (Index j = end; j < size; ++j) body(j, T(0));
}

#define LBP_LANES __attribute__((always_inline))

// A sum of products in float64, kept in registers: GCC keeps that of a loop over single numbers in memory.
template <typename T>
class WideSum {
 public:
  LBP_HOST_DEVICE void add_product(typename Vector<T>::Type a, typename Vector<T>::Type b) {
    if constexpr (sizeof(T) == sizeof(float)) {
      low_ = multiply_add(widened<0>(a), widened<0>(b), low_);
      high_ = multiply_add(widened<1>(a), widened<1>(b), high_);
    } else {
      low_ = multiply_add(a, b, low_);
    }
  }

  LBP_HOST_DEVICE void add_product(T a, T b) { rest_ += double(a) * double(b); }

  double total() const {
    const Vector<double>::Type both = low_ + high_;
    double sum = rest_;
    for (Index lane = 0; lane < Vector<double>::kSize; ++lane) sum += both[lane];
    return sum;
  }

 private:
  Vector<double>::Type low_ = {}, high_ = {};
  double rest_ = 0;
};

}  // namespace lbp::LBP_ISA
