// The bounding lines of a block's neurons, computed from l, u and r and kept in shared memory until each thread takes
// those of its own neurons; and their gradients. Threads hand over numbers within their warp only: no warp waits for
// another.
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
  bool widened;  // by |slope| margin_per_slope + margin
  T margin_per_slope, margin;
};

// The value of one neuron.
template <typename T>
LBP_DEVICE T load_per_neuron(const PerNeuron<T>& values, Index neuron) {
  if (values.data == nullptr) return values.value;
  if (values.count == 1) return read(values.data);
  if (values.inner == 1) return read(values.data + neuron);
  return read(values.data + quotient(neuron, values.inner) % values.count);
}

// A neuron whose bounds and bending point are there.
template <typename T>
LBP_DEVICE Neuron<T> load_neuron(const Relaxation<T>& relaxation, Index image, Index neuron, T l, T u, T r) {
  const T eta = load_eta(relaxation.eta, relaxation.eta_data);
  // Mostly that is all: the addresses of the rest are a tenth of the instructions of some kernels.
  if (!reads_given(relaxation.strategy) && relaxation.margins.per_slope == nullptr) {
    return {l, u, r, eta, {T(0), T(0), T(0), T(0), false, false}, false, T(0), T(0)};
  }
  const Index given_at = image * relaxation.given_batch_stride + neuron;
  const auto given = [given_at](const T* data) { return data == nullptr ? T(0) : read(data + given_at); };
  const LineMargins<T>& margins = relaxation.margins;
  const bool widened = margins.per_slope != nullptr;
  return {l,
          u,
          r,
          eta,
          {given(relaxation.lower_slope), given(relaxation.lower_intercept), given(relaxation.upper_slope),
           given(relaxation.upper_intercept), relaxation.lower_slope != nullptr, relaxation.upper_slope != nullptr},
          widened,
          widened ? read(margins.per_slope + image * margins.per_slope_batch_stride + neuron) : T(0),
          widened ? read(margins.rest + image * margins.rest_batch_stride + neuron * margins.rest_stride) : T(0)};
}

template <typename T>
LBP_DEVICE Neuron<T> load_neuron(const Relaxation<T>& relaxation, Index image, Index neuron) {
  const Index at = image * relaxation.batch_stride + neuron;
  return load_neuron(relaxation, image, neuron, read(relaxation.l + at), read(relaxation.u + at),
                     load_per_neuron(relaxation.r, neuron));
}

template <typename T>
LBP_DEVICE BoundingLines<T> table_lines(Strategy strategy, const Neuron<T>& x) {
  // ReLU and LeakyReLU with the lines that most methods take: a third of the instructions.
  if (strategy == Strategy::kAdaptive && x.r > Float<T>::largest) {
    return lbp::bounding_lines<Strategy::kAdaptive, false>(x.l, x.u, x.r, x.eta, x.given);
  }
  LBP_SWITCH_STRATEGY(strategy, lbp::bounding_lines<kStrategy>(x.l, x.u, x.r, x.eta, x.given))
}

template <typename T>
LBP_DEVICE BoundingLines<T> lines_of(Strategy strategy, const Neuron<T>& x) {
  const BoundingLines<T> lines = table_lines(strategy, x);
  return x.widened ? widened(lines, x.margin_per_slope, x.margin) : lines;
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

// The planes of a LineTile.
constexpr int kLowerSlopePlane = 0, kLowerInterceptPlane = 1, kUpperSlopePlane = 2, kUpperInterceptPlane = 3;

// Numbers of every neuron of a block's tile, in shared memory. A thread reads and writes those of its own neurons by 16
// bytes, and works on neurons of its warp a stride apart: neighbours of the other lanes', one formula after the other.
// Where rows are not aligned these are its own.
template <typename T>
struct LineTile {
  T* data;  // planes [4 or 7, kTile], aligned to 16 bytes

  LBP_DEVICE T& at(int plane, int neuron) const { return data[plane * kTile<T> + neuron]; }
  LBP_DEVICE void put(int neuron, const BoundingLines<T>& lines) const {
    at(kLowerSlopePlane, neuron) = lines.lower_slope;
    at(kLowerInterceptPlane, neuron) = lines.lower_intercept;
    at(kUpperSlopePlane, neuron) = lines.upper_slope;
    at(kUpperInterceptPlane, neuron) = lines.upper_intercept;
  }
  LBP_DEVICE BoundingLines<T> get(int neuron) const {
    return {at(kLowerSlopePlane, neuron), at(kLowerInterceptPlane, neuron), at(kUpperSlopePlane, neuron),
            at(kUpperInterceptPlane, neuron)};
  }

  // One number for each of a thread's own neurons.
  template <bool kAligned>
  LBP_DEVICE Pack<T> own_numbers(int plane) const {
    Pack<T> pack;
    if constexpr (kAligned) {
      pack = *reinterpret_cast<const Pack<T>*>(own_pack(plane));
    } else {
#pragma unroll
      for (int i = 0; i < kOwn<T>; ++i) pack[i] = at(plane, position<false>(i));
    }
    return pack;
  }
  template <bool kAligned>
  LBP_DEVICE void put_own_numbers(int plane, const Pack<T>& pack) const {
    if constexpr (kAligned) {
      *reinterpret_cast<Pack<T>*>(own_pack(plane)) = pack;
    } else {
#pragma unroll
      for (int i = 0; i < kOwn<T>; ++i) at(plane, position<false>(i)) = pack[i];
    }
  }

  // Neuron i that a thread works on.
  template <bool kAligned>
  LBP_DEVICE static int position(int i) {
    const int thread = int(threadIdx.x), lane = thread % kLanes;
    return kAligned ? (thread - lane) * kOwn<T> + i * kLanes + lane : i * kThreads + thread;
  }

 private:
  LBP_DEVICE T* own_pack(int plane) const { return data + plane * kTile<T> + int(threadIdx.x) * kOwn<T>; }
};

// Between accesses to a LineTile by different lanes.
template <bool kAligned>
LBP_DEVICE void hand_over() {
  if constexpr (kAligned) __syncwarp();
}

template <typename T>
constexpr int kLineTileSize = 4 * kTile<T>;
// With the bounds and bending points of the neurons beside the gradients of their lines.
template <typename T>
constexpr int kGradientTileSize = 7 * kTile<T>;

// The lines of a thread's neurons.
template <typename T>
struct OwnLines {
  BoundingLines<T> of[kOwn<T>];
};

// The bounds and bending points of a thread's neurons by 16-byte reads, all on their way before the first is used.
// Where rows are not aligned, each thread reads them when it needs them.
template <typename T, bool kAligned>
struct OwnBounds {
  LBP_DEVICE OwnBounds(const Relaxation<T>&, Index, const Own<T, kAligned>&) {}
  LBP_DEVICE void put(const LineTile<T>&, int) const {}
};

template <typename T>
struct OwnBounds<T, true> {
  Pack<T> l, u, r;

  LBP_DEVICE OwnBounds(const Relaxation<T>& relaxation, Index image, const Own<T, true>& own)
      : l(own.load(relaxation.l + image * relaxation.batch_stride)),
        u(own.load(relaxation.u + image * relaxation.batch_stride)),
        r(load_per_neuron(relaxation.r, own)) {}

  // Into three planes.
  LBP_DEVICE void put(const LineTile<T>& shared, int first_plane) const {
    shared.template put_own_numbers<true>(first_plane, l);
    shared.template put_own_numbers<true>(first_plane + 1, u);
    shared.template put_own_numbers<true>(first_plane + 2, r);
  }
};

// A neuron by its position in the tile, whose OwnBounds all lanes have put there.
template <bool kAligned, typename T>
LBP_DEVICE Neuron<T> staged_neuron(const Relaxation<T>& relaxation, Index image, Index tile, int position,
                                   const LineTile<T>& shared, int first_plane) {
  const Index neuron = tile * kTile<T> + position;
  if constexpr (kAligned) {
    return load_neuron(relaxation, image, neuron, shared.at(first_plane, position),
                       shared.at(first_plane + 1, position), shared.at(first_plane + 2, position));
  } else {
    return load_neuron(relaxation, image, neuron);
  }
}

// Computes the lines of a tile from its bounds and returns those of the thread's own neurons; all threads of the warp
// take part. Lines of neurons beyond the layer's end are zero, so that they add nothing to a sum.
template <bool kAligned, typename T>
LBP_DEVICE OwnLines<T> lines_within(const OwnBounds<T, kAligned>& bounds, const Relaxation<T>& relaxation, Index image,
                                    Index tile, Index neurons, const LineTile<T>& shared) {
  const auto position = [](int i) { return LineTile<T>::template position<kAligned>(i); };
  hand_over<kAligned>();  // whoever still reads the tile before
  bounds.put(shared, 0);
  hand_over<kAligned>();
  const auto inside = [&](int i) { return tile * kTile<T> + position(i) < neurons; };
  const auto load = [&](int i) { return staged_neuron<kAligned>(relaxation, image, tile, position(i), shared, 0); };
#pragma unroll 1
  for (int i = 0; i < kOwn<T>; ++i) {
    // In the place of the bounds, which no other thread reads.
    shared.put(position(i), inside(i) ? lines_of(relaxation.strategy, load(i)) : BoundingLines<T>{});
  }
  hand_over<kAligned>();
  Pack<T> planes[4];
#pragma unroll
  for (int plane = 0; plane < 4; ++plane) planes[plane] = shared.template own_numbers<kAligned>(plane);
  OwnLines<T> lines;
#pragma unroll
  for (int i = 0; i < kOwn<T>; ++i) lines.of[i] = {planes[0][i], planes[1][i], planes[2][i], planes[3][i]};
  return lines;
}

// The same with the bounds read here.
template <bool kAligned, typename T>
LBP_DEVICE OwnLines<T> load_lines(const Relaxation<T>& relaxation, Index image, Index tile, Index neurons,
                                  const LineTile<T>& shared) {
  const OwnBounds<T, kAligned> bounds(relaxation, image, Own<T, kAligned>(tile, neurons));
  return lines_within(bounds, relaxation, image, tile, neurons, shared);
}

// Writes the gradients of one neuron's given lines from the gradients of its lines; returns those of l, u and r.
template <typename T>
LBP_DEVICE LineGradients<T> store_given_gradients(const Relaxation<T>& relaxation, Index out, const Neuron<T>& neuron,
                                                  const BoundingLines<T>& to_lines,
                                                  const RelaxationGradients<T>& gradients) {
  const LineGradients<T> result = line_gradients_of(relaxation.strategy, neuron, to_lines);
  const auto store = [out](T* data, T value) {
    if (data != nullptr) data[out] = value;
  };
  if (reads_given(relaxation.strategy)) {
    store(gradients.lower_slope, result.given.lower_slope);
    store(gradients.lower_intercept, result.given.lower_intercept);
    store(gradients.upper_slope, result.given.upper_slope);
    store(gradients.upper_intercept, result.given.upper_intercept);
  }
  return result;
}

// Writes the gradients of one neuron's bounds, r and given lines.
template <typename T>
LBP_DEVICE void store_line_gradient(const Relaxation<T>& relaxation, Index image, Index neurons, Index neuron,
                                    const BoundingLines<T>& to_lines, const RelaxationGradients<T>& gradients) {
  const Index out = image * neurons + neuron;
  const LineGradients<T> result =
      store_given_gradients(relaxation, out, load_neuron(relaxation, image, neuron), to_lines, gradients);
  if (gradients.l != nullptr) gradients.l[out] = result.l;
  if (gradients.u != nullptr) gradients.u[out] = result.u;
  if (gradients.r != nullptr) gradients.r[out] = result.r;
}

// The same for a tile, from the gradients of each thread's own neurons; all threads of the warp take part. The tile
// in shared memory has kGradientTileSize numbers.
template <bool kAligned, typename T>
LBP_DEVICE void store_line_gradients(const Relaxation<T>& relaxation, Index image, Index tile, Index neurons,
                                     const OwnLines<T>& to_lines, const RelaxationGradients<T>& gradients,
                                     const LineTile<T>& shared) {
  constexpr int kBounds = 4;  // the first plane behind the lines
  Pack<T> planes[4];
#pragma unroll
  for (int i = 0; i < kOwn<T>; ++i) {
    planes[0][i] = to_lines.of[i].lower_slope;
    planes[1][i] = to_lines.of[i].lower_intercept;
    planes[2][i] = to_lines.of[i].upper_slope;
    planes[3][i] = to_lines.of[i].upper_intercept;
  }
  const Own<T, kAligned> own(tile, neurons);
  hand_over<kAligned>();
  OwnBounds<T, kAligned>(relaxation, image, own).put(shared, kBounds);
#pragma unroll
  for (int plane = 0; plane < 4; ++plane) shared.template put_own_numbers<kAligned>(plane, planes[plane]);
  hand_over<kAligned>();
#pragma unroll 1
  for (int i = 0; i < kOwn<T>; ++i) {
    const int position = LineTile<T>::template position<kAligned>(i);
    const Index neuron = tile * kTile<T> + position;
    if (neuron >= neurons) break;
    const Neuron<T> x = staged_neuron<kAligned>(relaxation, image, tile, position, shared, kBounds);
    const LineGradients<T> result =
        store_given_gradients(relaxation, image * neurons + neuron, x, shared.get(position), gradients);
    // In the place of the gradients of the lines, which no other thread reads.
    shared.at(0, position) = result.l;
    shared.at(1, position) = result.u;
    shared.at(2, position) = result.r;
  }
  hand_over<kAligned>();
  const Index row = image * neurons;
  own.store_if(gradients.l, row, shared.template own_numbers<kAligned>(0));
  own.store_if(gradients.u, row, shared.template own_numbers<kAligned>(1));
  own.store_if(gradients.r, row, shared.template own_numbers<kAligned>(2));
}

}  // namespace lbp::cuda
