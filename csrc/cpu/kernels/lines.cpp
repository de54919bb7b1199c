// The bounding lines of neurons, and their gradients, in a file of its own: each formula is compiled once for tiles and
// once for arrays of the caller, and cmake/InstructionSets.cmake keeps GCC from turning its selections into branches,
// which are eight times slower.
#include "cpu/kernels/tile.h"
#include "dispatch.h"

namespace lbp::LBP_ISA {
namespace {

// Copies what the caller gives of the lines of neurons, 0 where that is nothing.
template <typename T, typename Lines>
void load_given(const Relaxation<T>& relaxation, Index image, Index begin, Index size, Lines& lines) {
  const auto load = [&](const T* source, T* __restrict tile) {
    if (source != nullptr) source += image * relaxation.given_batch_stride + begin;
    for (Index j = 0; j < size; ++j) tile[j] = source == nullptr ? T(0) : source[j];
  };
  load(relaxation.lower_slope, lines.lower_slope);
  load(relaxation.lower_intercept, lines.lower_intercept);
  load(relaxation.upper_slope, lines.upper_slope);
  load(relaxation.upper_intercept, lines.upper_intercept);
}

// What the lines of a tile of neurons are computed from.
template <typename T>
struct LineInputs {
  const T* l;
  const T* u;
  T eta;
  alignas(64) T r[kTile];
  // Of given slopes: these, and 1 where there are any. The caller gives them to all neurons or to none, but GCC
  // vectorises no selection by a condition that all neurons share.
  LineTile<T> given;
  alignas(64) T has_lower[kTile];
  alignas(64) T has_upper[kTile];

  LineInputs(const Relaxation<T>& relaxation, Index image, Index begin, Index size)
      : l(relaxation.l + image * relaxation.batch_stride + begin),
        u(relaxation.u + image * relaxation.batch_stride + begin),
        eta(relaxation.eta) {
    load_per_neuron(relaxation.r, begin, size, r);
    if (relaxation.strategy != Strategy::kSlopes) return;
    load_given(relaxation, image, begin, size, given);
    const T lower = relaxation.lower_slope == nullptr ? T(0) : T(1);
    const T upper = relaxation.upper_slope == nullptr ? T(0) : T(1);
    for (Index j = 0; j < size; ++j) has_lower[j] = lower;
    for (Index j = 0; j < size; ++j) has_upper[j] = upper;
  }
};

template <Strategy kStrategy, typename T>
LBP_HOST_DEVICE GivenLines<T> given_slopes(const LineInputs<T>& inputs, Index j) {
  if constexpr (kStrategy == Strategy::kSlopes) {
    return {inputs.given.lower_slope[j], T(0), inputs.given.upper_slope[j], T(0), inputs.has_lower[j] != T(0),
            inputs.has_upper[j] != T(0)};
  } else {
    return {};
  }
}

// Lines of neuron j of a tile. Loops over neurons call functions, as structs of their own keep them from being
// vectorised.
template <Strategy kStrategy, bool kBends, typename T, typename Lines>
LBP_HOST_DEVICE void load_line(Index j, T l, T u, T r, const LineInputs<T>& inputs, Lines& lines) {
  const BoundingLines<T> line =
      lbp::bounding_lines<kStrategy, kBends>(l, u, r, inputs.eta, given_slopes<kStrategy>(inputs, j));
  lines.lower_slope[j] = line.lower_slope;
  lines.lower_intercept[j] = line.lower_intercept;
  lines.upper_slope[j] = line.upper_slope;
  lines.upper_intercept[j] = line.upper_intercept;
}

template <typename T, typename Lines>
LBP_HOST_DEVICE void widen_line(Index j, T per_slope, T rest, Lines& lines) {
  const BoundingLines<T> line =
      widened<T>({lines.lower_slope[j], lines.lower_intercept[j], lines.upper_slope[j], lines.upper_intercept[j]},
                 per_slope, rest);
  lines.lower_intercept[j] = line.lower_intercept;
  lines.upper_intercept[j] = line.upper_intercept;
}

// Calls body with the strategy and whether neurons bend: those of ReLU and LeakyReLU, whose r is infinite, do not.
template <typename T, typename Body>
void with_kind_of_lines(const Relaxation<T>& relaxation, const Body& body) {
  const bool bends = relaxation.r.data != nullptr || relaxation.r.value <= Float<T>::largest;
  with_strategy(relaxation.strategy, [&](auto strategy) { with_flag(bends, [&](auto b) { body(strategy, b); }); });
}

// Moves the lines of neurons outward.
template <bool kShared, typename T, typename Lines>
void widen_lines(const LineMargins<T>& margins, Index image, Index begin, Index size, Lines& lines) {
  const T* __restrict per_slope = margins.per_slope + image * margins.per_slope_batch_stride + begin;
  const T* __restrict rest = margins.rest + image * margins.rest_batch_stride + (kShared ? 0 : begin);
#pragma omp simd
  for (Index j = 0; j < size; ++j) widen_line(j, per_slope[j], rest[kShared ? 0 : j], lines);
}

// Gradients of the bounds and r of a tile.
template <typename T>
struct BoundsTile {
  alignas(64) T l[kTile];
  alignas(64) T u[kTile];
  alignas(64) T r[kTile];
};

template <Strategy kStrategy, bool kBends, typename T>
LBP_HOST_DEVICE void line_gradient(Index j, T l, T u, T r, const LineInputs<T>& inputs,
                                   const LineTile<T>& line_gradients, BoundsTile<T>& bounds, LineTile<T>& given_lines) {
  const BoundingLines<T> gradient = {line_gradients.lower_slope[j], line_gradients.lower_intercept[j],
                                     line_gradients.upper_slope[j], line_gradients.upper_intercept[j]};
  const LineGradients<T> result = lbp::bounding_lines_gradient<kStrategy, kBends>(
      l, u, r, inputs.eta, given_slopes<kStrategy>(inputs, j), gradient);
  bounds.l[j] = result.l;
  bounds.u[j] = result.u;
  bounds.r[j] = result.r;
  if constexpr (reads_given(kStrategy)) {
    given_lines.lower_slope[j] = result.given.lower_slope;
    given_lines.lower_intercept[j] = result.given.lower_intercept;
    given_lines.upper_slope[j] = result.given.upper_slope;
    given_lines.upper_intercept[j] = result.given.upper_intercept;
  }
}

template <typename T, typename Lines>
void compute_lines(const Relaxation<T>& relaxation, Index image, Index begin, Index size, Lines& lines) {
  if (relaxation.strategy == Strategy::kLines) {
    load_given(relaxation, image, begin, size, lines);
  } else {
    const LineInputs<T> inputs(relaxation, image, begin, size);
    with_kind_of_lines(relaxation, [&](auto strategy, auto bends) {
#pragma omp simd
      for (Index j = 0; j < size; ++j) {
        load_line<strategy, bends>(j, inputs.l[j], inputs.u[j], inputs.r[j], inputs, lines);
      }
    });
  }
  if (relaxation.margins.per_slope == nullptr) return;
  with_flag(relaxation.margins.rest_stride == 0,
            [&](auto is_shared) { widen_lines<is_shared>(relaxation.margins, image, begin, size, lines); });
}

}  // namespace

template <typename T>
void load_lines(const Relaxation<T>& relaxation, Index image, Index begin, Index size, LineTile<T>& lines) {
  compute_lines(relaxation, image, begin, size, lines);
}

template <typename T>
void load_lines(const Relaxation<T>& relaxation, Index image, Index begin, Index size, const LinePointers<T>& lines) {
  compute_lines(relaxation, image, begin, size, lines);
}

template <typename T>
void store_line_gradients(const Relaxation<T>& relaxation, Index image, Index neurons, Index begin, Index size,
                          const LineTile<T>& line_gradients, const RelaxationGradients<T>& gradients) {
  const LineInputs<T> inputs(relaxation, image, begin, size);
  with_kind_of_lines(relaxation, [&](auto strategy, auto bends) {
    BoundsTile<T> bounds;
    LineTile<T> given;
#pragma omp simd
    for (Index j = 0; j < size; ++j) {
      line_gradient<strategy, bends>(j, inputs.l[j], inputs.u[j], inputs.r[j], inputs, line_gradients, bounds, given);
    }
    const auto store = [&](T* target, const T* tile) {
      if (target == nullptr) return;
      T* __restrict out = target + image * neurons + begin;
      for (Index j = 0; j < size; ++j) out[j] = tile[j];
    };
    store(gradients.l, bounds.l);
    store(gradients.u, bounds.u);
    store(gradients.r, bounds.r);
    if constexpr (reads_given(strategy)) {
      store(gradients.lower_slope, given.lower_slope);
      store(gradients.lower_intercept, given.lower_intercept);
      store(gradients.upper_slope, given.upper_slope);
      store(gradients.upper_intercept, given.upper_intercept);
    }
  });
}

#define LBP_INSTANTIATE(T)                                                                                 \
  template void load_lines(const Relaxation<T>&, Index, Index, Index, LineTile<T>&);                       \
  template void load_lines(const Relaxation<T>&, Index, Index, Index, const LinePointers<T>&);             \
  template void store_line_gradients(const Relaxation<T>&, Index, Index, Index, Index, const LineTile<T>&, \
                                     const RelaxationGradients<T>&);

LBP_INSTANTIATE(float)
LBP_INSTANTIATE(double)

}  // namespace lbp::LBP_ISA
