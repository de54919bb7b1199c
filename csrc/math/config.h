// What the formulas need to know about the compiler: host, CUDA, or CUDA compiled at run time (which has no standard
// headers).
#pragma once

#if defined(__CUDACC__)
#define LBP_HOST_DEVICE __host__ __device__ __forceinline__
#elif defined(__GNUC__) && !defined(LBP_EMULATE)
// Never emitted out of line: the same header is compiled for several instruction sets into one library, and a shared
// copy of a function could be the one that the processor cannot run.
#define LBP_HOST_DEVICE inline __attribute__((always_inline))
#else
#define LBP_HOST_DEVICE inline
#endif

namespace lbp {

// Limits of the floating-point types as constants that every compiler accepts.
template <typename T>
struct Float;

template <>
struct Float<float> {
  static constexpr float epsilon = 1.1920928955078125e-07f;           // 2^-23
  static constexpr float smallest_normal = 1.17549435082228751e-38f;  // 2^-126
  static constexpr float largest = 3.40282346638528860e+38f;          // (2 - 2^-23) 2^127
};

template <>
struct Float<double> {
  static constexpr double epsilon = 2.220446049250313e-16;            // 2^-52
  static constexpr double smallest_normal = 2.2250738585072014e-308;  // 2^-1022
  static constexpr double largest = 1.7976931348623157e+308;          // (2 - 2^-52) 2^1023
};

// Formulas take a number, or on a CPU a vector of numbers with operators (cpu/kernels/simd.h), for which conditions are
// masks. Of a vector the numbers' type:
template <typename V, bool kIsVector = (sizeof(V) > sizeof(double))>
struct ElementOf {
  using Type = V;
};

template <typename V>
struct ElementOf<V, true> {
  using Type = decltype(V{}[0] + 0);
};

template <typename V>
using Element = typename ElementOf<V>::Type;

template <typename V>
using Mask = decltype(V{} < V{});

// The number, or a vector of it; not of -0.
template <typename V>
LBP_HOST_DEVICE V constant(Element<V> number) {
  return V{} + number;
}

// NaN stays NaN. No branch on the sign: one instruction, or on a GPU none, as it belongs to the one that uses it.
template <typename T>
LBP_HOST_DEVICE T absolute(T x) {
#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
  if constexpr (sizeof(T) == sizeof(float)) {
    return ::fabsf(x);
  } else {
    return ::fabs(x);
  }
#else
  if constexpr (sizeof(T) > sizeof(double)) {  // a vector: without its bits of signs
    return T(Mask<T>(x) & ~Mask<T>(-T{}));
  } else if constexpr (sizeof(T) == sizeof(float)) {
    return __builtin_fabsf(x);
  } else {
    return __builtin_fabs(x);
  }
#endif
}

template <typename T>
LBP_HOST_DEVICE T smaller(T x, T y) {
  return x < y ? x : y;
}

template <typename T>
LBP_HOST_DEVICE T larger(T x, T y) {
  return x > y ? x : y;
}

template <typename T>
LBP_HOST_DEVICE T quiet_nan() {
#if defined(__CUDACC_RTC__)  // has no builtins of the host's
  return T(__int_as_float(0x7fc00000));
#else
  return T(__builtin_nanf(""));
#endif
}

}  // namespace lbp
