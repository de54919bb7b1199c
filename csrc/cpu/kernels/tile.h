// What the kernels share: neurons are worked on in tiles whose bounding lines stay in the first cache while the rows of
// a coefficient matrix stream past.
#pragma once

#include "arguments.h"
#include "cpu/parallel.h"
#include "dispatch.h"

#ifndef LBP_ISA
#error "compile the kernels with LBP_ISA naming the instruction set"
#endif

namespace lbp::LBP_ISA {

// Neurons in a tile: a multiple of every vector length, and a run of A long enough for the hardware to prefetch.
constexpr Index kTile = 1024;

// Items of work below which another thread does not pay.
constexpr Index kGrain = 32768;

inline Index minimum(Index a, Index b) { return a < b ? a : b; }
inline Index maximum(Index a, Index b) { return a > b ? a : b; }
inline Index quotient_up(Index a, Index b) { return (a + b - 1) / b; }

// One of two numbers, both of which are read in any case: loads behind a condition take three times as long.
template <typename T>
LBP_HOST_DEVICE T selected(bool first, T a, T b) {
  return first ? a : b;
}

// Runs body(begin, end) over pieces of [0, count); `cost` is the number of elements that one item touches.
template <typename Body>
void parallel_for(Index count, Index cost, const Body& body) {
  const Index grain = maximum(1, kGrain / maximum(1, cost));
  cpu::run_parallel(
      count, grain, [](Index begin, Index end, void* context) { (*static_cast<const Body*>(context))(begin, end); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

// Whether neuron j has its own number at data[j].
template <typename T>
bool has_value_per_neuron(const PerNeuron<T>& values) {
  return values.data != nullptr && values.count > 1 && values.inner == 1;
}

// Copies the values of neurons [begin, begin + size) into a tile.
template <typename T>
void load_per_neuron(const PerNeuron<T>& values, Index begin, Index size, T* __restrict tile) {
  if (values.data == nullptr || values.count == 1) {
    const T value = values.data == nullptr ? values.value : values.data[0];
    for (Index j = 0; j < size; ++j) tile[j] = value;
  } else if (has_value_per_neuron(values)) {
    const T* __restrict source = values.data + begin;
    for (Index j = 0; j < size; ++j) tile[j] = source[j];
  } else {
    for (Index j = 0; j < size;) {
      const Index channel = (begin + j) / values.inner;
      const Index end = minimum(size, (channel + 1) * values.inner - begin);
      const T value = values.data[channel % values.count];
      for (; j < end; ++j) tile[j] = value;
    }
  }
}

// The bounding lines of a tile of neurons.
template <typename T>
struct LineTile {
  alignas(64) T lower_slope[kTile];
  alignas(64) T lower_intercept[kTile];
  alignas(64) T upper_slope[kTile];
  alignas(64) T upper_intercept[kTile];
};

// Bounding lines of neurons in arrays of the caller.
template <typename T>
struct LinePointers {
  T* lower_slope;
  T* lower_intercept;
  T* upper_slope;
  T* upper_intercept;
};

template <typename T>
LinePointers<const T> pointers_to(const LineTile<T>& lines) {
  return {lines.lower_slope, lines.lower_intercept, lines.upper_slope, lines.upper_intercept};
}

// Computes the lines of neurons [begin, begin + size) of one image. Defined in lines.cpp.
template <typename T>
void load_lines(const Relaxation<T>& relaxation, Index image, Index begin, Index size, LineTile<T>& lines);
template <typename T>
void load_lines(const Relaxation<T>& relaxation, Index image, Index begin, Index size, const LinePointers<T>& lines);

// Writes the gradients of a tile's bounds, r and given lines from the gradients of its lines. Defined in lines.cpp.
template <typename T>
void store_line_gradients(const Relaxation<T>& relaxation, Index image, Index neurons, Index begin, Index size,
                          const LinePointers<const T>& line_gradients, const RelaxationGradients<T>& gradients);

inline Index side_count(int sides) { return sides == 3 ? 2 : 1; }
inline bool is_lower(int sides, Index side) { return sides == 1 || (sides == 3 && side == 0); }

}  // namespace lbp::LBP_ISA
