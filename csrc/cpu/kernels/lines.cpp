// The bounding lines of neurons, and their gradients, in a file of its own: each formula is compiled once for tiles and
// once for arrays of the caller. The formulas are made of selections: written for vectors, they stay that.
#include "cpu/kernels/simd.h"
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

// Whether neurons may bend: those of ReLU and LeakyReLU, whose r is infinite, do not.
template <typename T>
bool bends(const Relaxation<T>& relaxation) {
  return relaxation.r.data != nullptr || relaxation.r.value <= Float<T>::largest;
}

// What the lines of a tile of neurons are computed from.
template <typename T>
struct LineInputs {
  const T* l;
  const T* u;
  const T* r;  // where it lies, or r_tile; not there of neurons that do not bend, which share r_value
  T r_value, eta;
  const T *lower_slope, *upper_slope;  // null: not given
  alignas(64) T r_tile[kTile];

  LineInputs(const Relaxation<T>& relaxation, Index image, Index begin, Index size)
      : l(relaxation.l + image * relaxation.batch_stride + begin),
        u(relaxation.u + image * relaxation.batch_stride + begin),
        r(nullptr),
        r_value(relaxation.r.value),
        eta(relaxation.eta),
        lower_slope(relaxation.lower_slope),
        upper_slope(relaxation.upper_slope) {
    if (has_value_per_neuron(relaxation.r)) {
      r = relaxation.r.data + begin;
    } else if (bends(relaxation)) {
      load_per_neuron(relaxation.r, begin, size, r_tile);
      r = r_tile;
    }
    const Index given = image * relaxation.given_batch_stride + begin;
    if (lower_slope != nullptr) lower_slope += given;
    if (upper_slope != nullptr) upper_slope += given;
  }
};

// What all neurons share, apart from where results are written: the compiler would read it again after every write.
template <typename T>
struct Shared {
  T r, eta;
  explicit Shared(const LineInputs<T>& inputs) : r(inputs.r_value), eta(inputs.eta) {}
};

// Of a vector of neurons, or a single one: what their lines are computed from.
template <Strategy kStrategy, bool kBends, typename V>
struct NeuronInputs {
  V l, u, r, eta;
  GivenLines<V> given = {V{}, V{}, V{}, V{}, false, false};

  template <typename T>
  LBP_HOST_DEVICE NeuronInputs(const LineInputs<T>& inputs, Shared<T> shared, Index j)
      : l(load<V>(inputs.l + j)), u(load<V>(inputs.u + j)), r(constant<V>(shared.r)), eta(constant<V>(shared.eta)) {
    if constexpr (kBends) r = load<V>(inputs.r + j);
    if constexpr (kStrategy == Strategy::kSlopes) {
      given.has_lower = inputs.lower_slope != nullptr;
      given.has_upper = inputs.upper_slope != nullptr;
      if (given.has_lower) given.lower_slope = load<V>(inputs.lower_slope + j);
      if (given.has_upper) given.upper_slope = load<V>(inputs.upper_slope + j);
    }
  }
};

template <Strategy kStrategy, bool kBends, typename T, typename Lines>
void store_lines(const LineInputs<T>& inputs, Index size, Lines& lines) {
  const Shared<T> shared(inputs);
  for_lanes<T>(0, size, [&, shared](Index j, auto zero) LBP_LANES {
    using V = decltype(zero);
    const NeuronInputs<kStrategy, kBends, V> x(inputs, shared, j);
    const BoundingLines<V> line = lbp::bounding_lines<kStrategy, kBends>(x.l, x.u, x.r, x.eta, x.given);
    save(lines.lower_slope + j, line.lower_slope);
    save(lines.lower_intercept + j, line.lower_intercept);
    save(lines.upper_slope + j, line.upper_slope);
    save(lines.upper_intercept + j, line.upper_intercept);
  });
}

template <typename T, typename Lines>
LBP_HOST_DEVICE void widen_line(Index j, T per_slope, T rest, Lines& lines) {
  const BoundingLines<T> line =
      lbp::widened<T>({lines.lower_slope[j], lines.lower_intercept[j], lines.upper_slope[j], lines.upper_intercept[j]},
                      per_slope, rest);
  lines.lower_intercept[j] = line.lower_intercept;
  lines.upper_intercept[j] = line.upper_intercept;
}

// Calls body with the strategy and whether neurons bend.
template <typename T, typename Body>
void with_kind_of_lines(const Relaxation<T>& relaxation, const Body& body) {
  with_strategy(relaxation.strategy,
                [&](auto strategy) { with_flag(bends(relaxation), [&](auto b) { body(strategy, b); }); });
}

// Moves the lines of neurons outward.
template <bool kShared, typename T, typename Lines>
void widen_lines(const LineMargins<T>& margins, Index image, Index begin, Index size, Lines& lines) {
  const T* __restrict per_slope = margins.per_slope + image * margins.per_slope_batch_stride + begin;
  const T* __restrict rest = margins.rest + image * margins.rest_batch_stride + (kShared ? 0 : begin);
#pragma omp simd
  for (Index j = 0; j < size; ++j) widen_line(j, per_slope[j], rest[kShared ? 0 : j], lines);
}

// Where the gradients of a run of neurons are written; scratch memory in place of those that are not wanted.
template <typename T>
struct GradientRun {
  T *l, *u, *r;
  LinePointers<T> given;
};

template <Strategy kStrategy, bool kBends, typename T>
void store_gradients(const LineInputs<T>& inputs, Index size, const LinePointers<const T>& line_gradients,
                     const GradientRun<T>& run) {
  const Shared<T> shared(inputs);
  for_lanes<T>(0, size, [&, shared](Index j, auto zero) LBP_LANES {
    using V = decltype(zero);
    const NeuronInputs<kStrategy, kBends, V> x(inputs, shared, j);
    const BoundingLines<V> gradient = {
        load<V>(line_gradients.lower_slope + j), load<V>(line_gradients.lower_intercept + j),
        load<V>(line_gradients.upper_slope + j), load<V>(line_gradients.upper_intercept + j)};
    const LineGradients<V> result =
        lbp::bounding_lines_gradient<kStrategy, kBends>(x.l, x.u, x.r, x.eta, x.given, gradient);
    save(run.l + j, result.l);
    save(run.u + j, result.u);
    save(run.r + j, result.r);
    if constexpr (reads_given(kStrategy)) {
      save(run.given.lower_slope + j, result.given.lower_slope);
      save(run.given.lower_intercept + j, result.given.lower_intercept);
      save(run.given.upper_slope + j, result.given.upper_slope);
      save(run.given.upper_intercept + j, result.given.upper_intercept);
    }
  });
}

template <typename T, typename Lines>
void compute_lines(const Relaxation<T>& relaxation, Index image, Index begin, Index size, Lines& lines) {
  if (relaxation.strategy == Strategy::kLines) {
    load_given(relaxation, image, begin, size, lines);
  } else {
    const LineInputs<T> inputs(relaxation, image, begin, size);
    with_kind_of_lines(relaxation,
                       [&](auto strategy, auto bends) { store_lines<strategy, bends>(inputs, size, lines); });
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
                          const LinePointers<const T>& line_gradients, const RelaxationGradients<T>& gradients) {
  const LineInputs<T> inputs(relaxation, image, begin, size);
  alignas(64) T unwanted[kTile];
  const auto place = [&](T* target) { return target == nullptr ? unwanted : target + image * neurons + begin; };
  const GradientRun<T> run = {place(gradients.l),
                              place(gradients.u),
                              place(gradients.r),
                              {place(gradients.lower_slope), place(gradients.lower_intercept),
                               place(gradients.upper_slope), place(gradients.upper_intercept)}};
  with_kind_of_lines(relaxation, [&](auto strategy, auto bends) {
    store_gradients<strategy, bends>(inputs, size, line_gradients, run);
  });
}

#define LBP_INSTANTIATE(T)                                                                                           \
  template void load_lines(const Relaxation<T>&, Index, Index, Index, LineTile<T>&);                                 \
  template void load_lines(const Relaxation<T>&, Index, Index, Index, const LinePointers<T>&);                       \
  template void store_line_gradients(const Relaxation<T>&, Index, Index, Index, Index, const LinePointers<const T>&, \
                                     const RelaxationGradients<T>&);

LBP_INSTANTIATE(float)
LBP_INSTANTIATE(double)

}  // namespace lbp::LBP_ISA
