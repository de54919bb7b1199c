// What the memory-bound kernels share: a thread owns a few neurons, 16 bytes of a row, and walks down the rows of a
// matrix, so that whatever belongs to the neurons stays in its registers.
#pragma once

#include "arguments.h"
#include "cuda/runtime.cuh"

namespace lbp::cuda {

constexpr int kThreads = 256;
constexpr int kLanes = 32;
constexpr int kWarps = kThreads / kLanes;
constexpr unsigned kAllLanes = 0xffffffffu;

// Numbers in 16 bytes, the widest access: as many neurons belong to a thread.
template <typename T>
constexpr int kOwn = 16 / sizeof(T);

// Neurons of a block.
template <typename T>
constexpr int kTile = kThreads * kOwn<T>;

// One row's numbers for the neurons of a thread.
template <typename T>
struct alignas(16) Pack {
  T value[kOwn<T>];
  LBP_DEVICE T& operator[](int i) { return value[i]; }
  LBP_DEVICE const T& operator[](int i) const { return value[i]; }
};

// Reads memory that no thread of the launch writes: the compiler may move such reads before writes, which keeps
// several in flight.
template <typename T>
LBP_DEVICE T read(const T* address) {
#if defined(__CUDA_ARCH__)
  return __ldg(address);
#else
  return *address;
#endif
}

template <typename T>
LBP_DEVICE Pack<T> read_pack(const T* address) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(T) == 4) {
    const float4 loaded = __ldg(reinterpret_cast<const float4*>(address));
    return {{loaded.x, loaded.y, loaded.z, loaded.w}};
  } else {
    const double2 loaded = __ldg(reinterpret_cast<const double2*>(address));
    return {{loaded.x, loaded.y}};
  }
#else
  return *reinterpret_cast<const Pack<T>*>(address);
#endif
}

// The compiler would store the numbers of a pack one by one.
template <typename T>
LBP_DEVICE void write_pack(T* address, const Pack<T>& pack) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(T) == 4) {
    __stwb(reinterpret_cast<float4*>(address), float4{pack[0], pack[1], pack[2], pack[3]});
  } else {
    __stwb(reinterpret_cast<double2*>(address), double2{pack[0], pack[1]});
  }
#else
  *reinterpret_cast<Pack<T>*>(address) = pack;
#endif
}

template <typename T>
LBP_DEVICE bool is_aligned(const T* address) {
  return reinterpret_cast<unsigned long long>(address) % 16 == 0;
}

// The neurons of a thread within the tile that kTogether threads, a block or a warp, work on: neighbours where all rows
// are aligned to 16 bytes, else kTogether apart, so that a warp reads neighbours in either case.
template <typename T, bool kAligned, int kTogether = kThreads>
struct Own {
  Index first, neurons;

  LBP_DEVICE Own(Index tile, Index neuron_count)
      : first(tile * kTogether * kOwn<T> + Index(threadIdx.x % kTogether) * (kAligned ? kOwn<T> : 1)),
        neurons(neuron_count) {}
  LBP_DEVICE Index at(int i) const { return first + (kAligned ? i : i * kTogether); }
  // Aligned rows hold whole packs.
  LBP_DEVICE bool has(int i) const { return (kAligned ? first : at(i)) < neurons; }

  // A row's numbers; `missing` for neurons beyond its end.
  LBP_DEVICE Pack<T> load(const T* row, T missing = T(0)) const {
    Pack<T> pack;
    if constexpr (kAligned) {
      if (first < neurons) return read_pack(row + first);
    }
#pragma unroll
    for (int i = 0; i < kOwn<T>; ++i) pack[i] = !kAligned && has(i) ? read(row + at(i)) : missing;
    return pack;
  }

  LBP_DEVICE void store(T* row, const Pack<T>& pack) const {
    if constexpr (kAligned) {
      if (first < neurons) write_pack(row + first, pack);
    } else {
#pragma unroll
      for (int i = 0; i < kOwn<T>; ++i) {
        if (has(i)) row[at(i)] = pack[i];
      }
    }
  }

  // Into a matrix that may be absent.
  LBP_DEVICE void store_if(T* matrix, Index row, const Pack<T>& pack) const {
    if (matrix != nullptr) store(matrix + row, pack);
  }
};

// a / b of numbers that are not negative; 64-bit division is slow, and seldom needed.
LBP_DEVICE Index quotient(Index a, Index b) { return ((a | b) >> 32) == 0 ? Index(unsigned(a) / unsigned(b)) : a / b; }

template <typename T, bool kAligned>
LBP_DEVICE Pack<T> load_per_neuron(const PerNeuron<T>& values, const Own<T, kAligned>& own) {
  Pack<T> pack;
  if (values.data == nullptr || values.count == 1) {
    // A layer without neurons may come without a value.
    const T value = values.data == nullptr ? values.value : (own.has(0) ? read(values.data) : T(1));
#pragma unroll
    for (int i = 0; i < kOwn<T>; ++i) pack[i] = value;
  } else if (values.inner == 1) {
    if (kAligned && is_aligned(values.data)) return own.load(values.data, T(1));
#pragma unroll
    for (int i = 0; i < kOwn<T>; ++i) pack[i] = own.has(i) ? read(values.data + own.at(i)) : T(1);
  } else {
    Index channel = quotient(own.first, values.inner), inside = own.first - channel * values.inner;
#pragma unroll
    for (int i = 0; i < kOwn<T>; ++i) {
      pack[i] = own.has(i) ? read(values.data + channel % values.count) : T(1);
      inside += kAligned ? 1 : kThreads;
      if (inside >= values.inner) {
        channel = kAligned ? channel + 1 : quotient(own.at(i + 1), values.inner);
        inside = own.at(i + 1) - channel * values.inner;
      }
    }
  }
  return pack;
}

// A slope eta that lies on the device takes the number's place.
template <typename T>
LBP_DEVICE T load_eta(T eta, const T* data) {
  return data == nullptr ? eta : read(data);
}

// Calls load(k, row) for kRows rows before use(k, row) for the first of them, which keeps their reads in flight
// together; and start() in between for the first ones, with which what it reads is in flight.
template <int kRows, typename Load, typename Start, typename Use>
LBP_DEVICE void for_rows(Index begin, Index end, const Load& load, const Start& start, const Use& use) {
  for (Index first = begin; first < end; first += kRows) {
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      if (first + k < end) load(k, first + k);
    }
    if (first == begin) start();
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      if (first + k < end) use(k, first + k);
    }
  }
}

// How blocks share the work: tiles of neurons, for each of them pieces of the rows, for each of them images. Tiles
// vary fastest, so that blocks that run together read neighbouring memory.
struct Tiling {
  Index rows, rows_per_piece;
  Index tiles, pieces;

  LBP_DEVICE Index tile() const { return Index(blockIdx.x) % tiles; }
  LBP_DEVICE Index piece() const { return Index(blockIdx.x) / tiles % pieces; }
  LBP_DEVICE Index image() const { return Index(blockIdx.x) / tiles / pieces; }
  LBP_DEVICE Index first_row() const { return piece() * rows_per_piece; }
  LBP_DEVICE Index last_row() const {
    const Index end = first_row() + rows_per_piece;
    return end < rows ? end : rows;
  }
};

}  // namespace lbp::cuda
