// The bounding lines of a block's neurons, computed from l, u and r and kept in shared memory until each thread takes
// those of its own neurons; and their gradients.
//
// The strategy is chosen at run time, in one place of a kernel: the formulas are long, and compiling them for every
// strategy, neuron of a thread and kernel would take minutes.
#pragma once

#include "cuda/kernels/tile.cuh"

namespace lbp::cuda {

// `call` is an expression of kStrategy.
#define LBP_SWITCH_STRATEGY(strategy, call)                \
  switch (strategy) {                                      \
    case Strategy::kConstant: {                            \
      constexpr Strategy kStrategy = Strategy::kConstant;  \
      return call;                                         \
    }                                                      \
    case Strategy::kTight: {                               \
      constexpr Strategy kStrategy = Strategy::kTight;     \
      return call;                                         \
    }                                                      \
    case Strategy::kSameSlope: {                           \
      constexpr Strategy kStrategy = Strategy::kSameSlope; \
      return call;                                         \
    }                                                      \
    case Strategy::kZero: {                                \
      constexpr Strategy kStrategy = Strategy::kZero;      \
      return call;                                         \
    }                                                      \
    case Strategy::kOne: {                                 \
      constexpr Strategy kStrategy = Strategy::kOne;       \
      return call;                                         \
    }                                                      \
    case Strategy::kSlopes: {                              \
      constexpr Strategy kStrategy = Strategy::kSlopes;    \
      return call;                                         \
    }                                                      \
    case Strategy::kLines: {                               \
      constexpr Strategy kStrategy = Strategy::kLines;     \
      return call;                                         \
    }                                                      \
    default: {                                             \
      constexpr Strategy kStrategy = Strategy::kAdaptive;  \
      return call;                                         \
    }                                                      \
  }

// What the lines of one neuron are made of.
template <typename T>
struct Neuron {
  T l, u, r, eta;
  GivenLines<T> given;
};

// The value of one neuron.
template <typename T>
LBP_DEVICE T load_per_neuron(const PerNeuron<T>& values, Index neuron) {
  if (values.data == nullptr) return values.value;
  if (values.count == 1) return read(values.data);
  if (values.inner == 1) return read(values.data + neuron);
  return read(values.data + quotient(neuron, values.inner) % values.count);
}

template <typename T>
LBP_DEVICE Neuron<T> load_neuron(const Relaxation<T>& relaxation, Index image, Index neuron) {
  const Index at = image * relaxation.batch_stride + neuron, given_at = image * relaxation.given_batch_stride + neuron;
  const auto given = [given_at](const T* data) { return data == nullptr ? T(0) : read(data + given_at); };
  return {read(relaxation.l + at),
          read(relaxation.u + at),
          load_per_neuron(relaxation.r, neuron),
          load_eta(relaxation.eta, relaxation.eta_data),
          {given(relaxation.lower_slope), given(relaxation.lower_intercept), given(relaxation.upper_slope),
           given(relaxation.upper_intercept), relaxation.lower_slope != nullptr, relaxation.upper_slope != nullptr}};
}

template <typename T>
LBP_DEVICE BoundingLines<T> lines_of(Strategy strategy, const Neuron<T>& x) {
  LBP_SWITCH_STRATEGY(strategy, lbp::bounding_lines<kStrategy>(x.l, x.u, x.r, x.eta, x.given))
}

// The lines of one neuron.
template <typename T>
LBP_DEVICE BoundingLines<T> neuron_lines(const Relaxation<T>& relaxation, Index image, Index neuron) {
  return lines_of(relaxation.strategy, load_neuron(relaxation, image, neuron));
}

template <typename T>
LBP_DEVICE LineGradients<T> line_gradients_of(Strategy strategy, const Neuron<T>& x, const BoundingLines<T>& to_lines) {
  LBP_SWITCH_STRATEGY(strategy, lbp::bounding_lines_gradient<kStrategy>(x.l, x.u, x.r, x.eta, x.given, to_lines))
}

#undef LBP_SWITCH_STRATEGY

// Four numbers for every neuron of a block's tile, in shared memory.
template <typename T>
struct LineTile {
  T* data;  // [4, kTile]

  LBP_DEVICE void put(int neuron, const BoundingLines<T>& lines) const {
    data[neuron] = lines.lower_slope;
    data[kTile<T> + neuron] = lines.lower_intercept;
    data[2 * kTile<T> + neuron] = lines.upper_slope;
    data[3 * kTile<T> + neuron] = lines.upper_intercept;
  }
  LBP_DEVICE BoundingLines<T> get(int neuron) const {
    return {data[neuron], data[kTile<T> + neuron], data[2 * kTile<T> + neuron], data[3 * kTile<T> + neuron]};
  }
};

template <typename T>
constexpr int kLineTileSize = 4 * kTile<T>;

// The lines of a thread's neurons.
template <typename T>
struct OwnLines {
  BoundingLines<T> of[kOwn<T>];
};

// Position within the tile of neuron i of this thread.
template <typename T, bool kAligned>
LBP_DEVICE int tile_position(int i) {
  return kAligned ? int(threadIdx.x) * kOwn<T> + i : i * kThreads + int(threadIdx.x);
}

// Computes the lines of a tile and returns those of the thread's own neurons; all threads of the block take part.
// Lines of neurons beyond the layer's end are zero, so that they add nothing to a sum.
template <bool kAligned, typename T>
LBP_DEVICE OwnLines<T> load_lines(const Relaxation<T>& relaxation, Index image, Index tile, Index neurons,
                                  const LineTile<T>& shared) {
  const Index begin = tile * kTile<T>;
  __syncthreads();  // whoever still reads the tile before
  Index next = begin + threadIdx.x;
  Neuron<T> x = {};
  if (next < neurons) x = load_neuron(relaxation, image, next);
#pragma unroll 1
  for (int i = 0; i < kOwn<T>; ++i) {
    const Neuron<T> current = x;
    const bool inside = next < neurons;
    next += kThreads;
    if (i + 1 < kOwn<T> && next < neurons) x = load_neuron(relaxation, image, next);
    shared.put(tile_position<T, false>(i), inside ? lines_of(relaxation.strategy, current) : BoundingLines<T>{});
  }
  __syncthreads();
  OwnLines<T> lines;
#pragma unroll
  for (int i = 0; i < kOwn<T>; ++i) lines.of[i] = shared.get(tile_position<T, kAligned>(i));
  return lines;
}

// Writes the gradients of one neuron's bounds, r and given lines from the gradients of its lines.
template <typename T>
LBP_DEVICE void store_line_gradient(const Relaxation<T>& relaxation, Index image, Index neurons, Index neuron,
                                    const BoundingLines<T>& to_lines, const RelaxationGradients<T>& gradients) {
  const LineGradients<T> result =
      line_gradients_of(relaxation.strategy, load_neuron(relaxation, image, neuron), to_lines);
  const Index out = image * neurons + neuron;
  const auto store = [out](T* data, T value) {
    if (data != nullptr) data[out] = value;
  };
  store(gradients.l, result.l);
  store(gradients.u, result.u);
  store(gradients.r, result.r);
  if (relaxation.strategy == Strategy::kSlopes || relaxation.strategy == Strategy::kLines) {
    store(gradients.lower_slope, result.given.lower_slope);
    store(gradients.lower_intercept, result.given.lower_intercept);
    store(gradients.upper_slope, result.given.upper_slope);
    store(gradients.upper_intercept, result.given.upper_intercept);
  }
}

// The same for a tile, from the gradients of each thread's own neurons; all threads of the block take part.
template <bool kAligned, typename T>
LBP_DEVICE void store_line_gradients(const Relaxation<T>& relaxation, Index image, Index tile, Index neurons,
                                     const OwnLines<T>& to_lines, const RelaxationGradients<T>& gradients,
                                     const LineTile<T>& shared) {
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kOwn<T>; ++i) shared.put(tile_position<T, kAligned>(i), to_lines.of[i]);
  __syncthreads();
#pragma unroll 1
  for (int i = 0; i < kOwn<T>; ++i) {
    const int position = tile_position<T, false>(i);
    const Index neuron = tile * kTile<T> + position;
    if (neuron < neurons) store_line_gradient(relaxation, image, neurons, neuron, shared.get(position), gradients);
  }
}

}  // namespace lbp::cuda
