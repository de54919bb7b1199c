// Writing past the caches. An ordinary write reads its cache line first; of a result that no cache can hold until
// someone reads it, that is a third of the traffic.
#pragma once

#include <cstdint>

#include "cpu/kernels/simd.h"
#include "cpu/kernels/tile.h"

namespace lbp::LBP_ISA {

// Whether a result of so many bytes is written past the caches.
inline bool is_streamed(Index bytes) { return bytes >= Index(24) << 20; }

// Of a run of numbers, those before the first place that a vector can be streamed to.
template <typename T>
Index unaligned_head(Index size, const T* to) {
  const Index misaligned = Index(reinterpret_cast<std::uintptr_t>(to) / sizeof(T)) % Vector<T>::kSize;
  return minimum(size, (Vector<T>::kSize - misaligned) % Vector<T>::kSize);
}

#if defined(__AVX512F__)
inline void stream_vector(float* to, Vector<float>::Type value) { _mm512_stream_ps(to, __m512(value)); }
inline void stream_vector(double* to, Vector<double>::Type value) { _mm512_stream_pd(to, __m512d(value)); }
#elif defined(__AVX2__) && defined(__FMA__)
inline void stream_vector(float* to, Vector<float>::Type value) { _mm256_stream_ps(to, __m256(value)); }
inline void stream_vector(double* to, Vector<double>::Type value) { _mm256_stream_pd(to, __m256d(value)); }
#else
template <typename T>
void stream_vector(T* to, typename Vector<T>::Type value) {
  store_vector(to, value);
}
#endif

// Orders streamed writes before all that follows; every thread calls it before it is done.
inline void finish_streaming() {
#if defined(__AVX2__)
  _mm_sfence();
#endif
}

// Writes a vector past the caches, if asked to, or a single number.
template <bool kStreamed, typename V, typename T>
LBP_HOST_DEVICE void store(T* to, V value) {
  if constexpr (kStreamed && sizeof(V) > sizeof(T)) {
    stream_vector(to, value);
  } else {
    save(to, value);
  }
}

// Copies a run of numbers, past the caches.
template <typename T>
void stream(Index size, const T* __restrict from, T* __restrict to) {
  for_lanes<T>(unaligned_head(size, to), size,
               [=](Index j, auto lanes) LBP_LANES { store<true>(to + j, load<decltype(lanes)>(from + j)); });
}

}  // namespace lbp::LBP_ISA
