// Forward linear bounds center -/+ radius over a box or an l_p ball, both bounds from one read; and the gradient.
//
// Inputs are rows: a thread adds up its neurons while it walks down them, and no two threads share a sum.
#pragma once

#include "cuda/kernels/concretize.cuh"

namespace lbp::cuda {

// The sums of one neuron: with the lower coefficients center - radius, with the upper ones, and of the magnitudes.
struct NeuronSum {
  RowSum lower, upper;
  double magnitude;
};

template <typename Kind, bool kScaled>
LBP_DEVICE NeuronSum empty_neuron() {
  return {empty_row<Kind, kScaled>(), empty_row<Kind, kScaled>(), 0.0};
}

template <typename Kind, bool kScaled>
struct CombineNeurons {
  CombineRows<Kind, kScaled> rows;
  LBP_DEVICE NeuronSum operator()(const NeuronSum& a, const NeuronSum& b) const {
    const double magnitude = Kind::kMagnitude ? a.magnitude + b.magnitude : 0.0;
    return {rows(a.lower, b.lower), rows(a.upper, b.upper), magnitude};
  }
};

// Sums of the pieces of the inputs, as arrays [kPerNeuron, B, n] each, of which a kind of region uses the first.
struct NeuronSums {
  static constexpr Index kPerNeuron = 6;
  double* data;
  Index count;  // B n

  // Over a box there are no norms: the magnitude takes the place of the first.
  template <typename Kind, bool kScaled>
  LBP_DEVICE void put(Index piece, Index neuron, const NeuronSum& sum) const {
    double* const at = data + kPerNeuron * piece * count + neuron;
    at[0] = sum.lower.dot;
    at[count] = sum.upper.dot;
    if constexpr (Kind::kMagnitude) at[2 * count] = sum.magnitude;
    if constexpr (!Kind::kBox) {
      at[2 * count] = sum.lower.norm.sum;
      at[3 * count] = sum.upper.norm.sum;
    }
    if constexpr (kScaled) {
      at[4 * count] = sum.lower.norm.largest;
      at[5 * count] = sum.upper.norm.largest;
    }
  }
  template <typename Kind, bool kScaled>
  LBP_DEVICE NeuronSum get(Index piece, Index neuron) const {
    const double* const at = data + kPerNeuron * piece * count + neuron;
    NeuronSum sum = empty_neuron<Kind, kScaled>();
    sum.lower.dot = read(at);
    sum.upper.dot = read(at + count);
    if constexpr (Kind::kMagnitude) sum.magnitude = read(at + 2 * count);
    if constexpr (!Kind::kBox) {
      sum.lower.norm.sum = read(at + 2 * count);
      sum.upper.norm.sum = read(at + 3 * count);
    }
    if constexpr (kScaled) {
      sum.lower.norm.largest = read(at + 4 * count);
      sum.upper.norm.largest = read(at + 5 * count);
    }
    return sum;
  }
};

template <typename T>
struct ConcretizeForwardLaunch {
  ConcretizeForwardArguments<T> op;
  Tiling tiling;
  NeuronSums sums;  // data null: the bounds are written at once
};

template <typename T>
LBP_DEVICE double lower_coefficient(T center, T radius, bool has_radius) {
  return has_radius ? double(center) - double(radius) : double(center);
}

template <typename T>
LBP_DEVICE double upper_coefficient(T center, T radius, bool has_radius) {
  return has_radius ? double(center) + double(radius) : double(center);
}

// The ends of one input's interval; of a ball both are its center.
struct InputEnds {
  double low, high;
};

template <typename Kind, typename T>
LBP_DEVICE InputEnds input_ends(const Region<T>& region, Index at) {
  const T x_L = read(region.x_L + at);
  if constexpr (Kind::kBox) {
    const T x_U = read(region.x_U + at);
    return {extreme_point(x_L, x_U, true), extreme_point(x_L, x_U, false)};
  } else {
    return {x_L, x_L};
  }
}

// Adds the coefficient of one input to a neuron's row.
template <typename Kind, bool kScaled>
LBP_DEVICE void add_coefficient(RowSum& row, double a, double smallest, double largest, double q) {
  row.dot += a * (a >= 0 ? smallest : largest);
  if constexpr (!Kind::kBox) row.norm = with_entry<Kind::kNorm, kScaled>(row.norm, a, q);
}

// Adds the coefficients of one input to both rows of a neuron.
template <typename Kind, bool kScaled, typename T>
LBP_DEVICE void add_coefficients(NeuronSum& sum, T center, T radius, bool has_radius, const InputEnds& x, double q) {
  add_coefficient<Kind, kScaled>(sum.lower, lower_coefficient(center, radius, has_radius), x.low, x.high, q);
  add_coefficient<Kind, kScaled>(sum.upper, upper_coefficient(center, radius, has_radius), x.high, x.low, q);
  if constexpr (Kind::kMagnitude) {
    const double size = absolute(double(center)) + (has_radius ? absolute(double(radius)) : 0.0);
    sum.magnitude += size * largest_magnitude_between(x.low, x.high);
  }
}

// Writes l and u of one neuron.
template <typename Kind, typename T>
LBP_DEVICE void store_bounds(const ConcretizeForwardArguments<T>& op, Index image, Index neuron, const NeuronSum& sum) {
  const Index bias = image * op.bias_batch_stride + neuron, out = image * op.neurons + neuron;
  const T center = read(op.center_bias + bias);
  const bool has_radius = op.radius_bias != nullptr;
  const T radius = has_radius ? read(op.radius_bias + bias) : T(0);
  op.l[out] = T(bound_of<Kind>(sum.lower, op.region, image, true) + lower_coefficient(center, radius, has_radius));
  op.u[out] = T(bound_of<Kind>(sum.upper, op.region, image, false) + upper_coefficient(center, radius, has_radius));
  if constexpr (Kind::kMagnitude) op.magnitude[out] = T(sum.magnitude);
}

// Writes the bounds of a thread's neurons, or to `out` the sums of a piece.
template <typename Kind, typename T, bool kAligned>
LBP_DEVICE void store_sums(const ConcretizeForwardArguments<T>& op, const NeuronSums& out, Index piece, Index image,
                           const Own<T, kAligned>& own, const NeuronSum (&sums)[kOwn<T>]) {
#pragma unroll
  for (int i = 0; i < kOwn<T>; ++i) {
    if (!own.has(i)) continue;
    if (out.data != nullptr) {
      out.put<Kind, Kind::template kScaled<T>>(piece, image * op.neurons + own.at(i), sums[i]);
    } else {
      store_bounds<Kind>(op, image, own.at(i), sums[i]);
    }
  }
}

template <typename T, typename Kind, bool kAligned>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 1) concretize_forward_kernel(const ConcretizeForwardLaunch<T> args) {
  constexpr bool kScaled = Kind::template kScaled<T>;
  constexpr int kRows = kAligned && !kScaled ? 4 : 1;
  const ConcretizeForwardArguments<T>& op = args.op;
  const Region<T>& region = op.region;
  const Index image = args.tiling.image(), end = args.tiling.last_row();
  const Own<T, kAligned> own(args.tiling.tile(), op.neurons);
  const Index matrix = image * op.matrix_batch_stride, corner = image * region.batch_stride;
  const bool has_radius = op.radius != nullptr;
  NeuronSum sums[kOwn<T>];
#pragma unroll
  for (int i = 0; i < kOwn<T>; ++i) sums[i] = empty_neuron<Kind, kScaled>();
  for (Index first = args.tiling.first_row(); first < end; first += kRows) {
    Pack<T> center[kRows], radius[kRows];
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      if (first + k >= end) break;
      center[k] = own.load(op.center + matrix + (first + k) * op.neurons);
      if (has_radius) radius[k] = own.load(op.radius + matrix + (first + k) * op.neurons);
    }
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      if (first + k >= end) break;
      const InputEnds x = input_ends<Kind>(region, corner + first + k);
#pragma unroll
      for (int i = 0; i < kOwn<T>; ++i) {
        add_coefficients<Kind, kScaled>(sums[i], center[k][i], has_radius ? radius[k][i] : T(0), has_radius, x,
                                        region.q);
      }
    }
  }
  store_sums<Kind>(op, args.sums, args.tiling.piece(), image, own, sums);
}

// From the sums of the pieces to the bounds, or where `totals` is given to the sums of all inputs: a thread for every
// neuron of every image.
template <typename T>
struct ConcretizeForwardFinishLaunch {
  ConcretizeForwardArguments<T> op;
  NeuronSums sums;
  Index pieces;
  NeuronSums totals;  // data null: write the bounds
};

template <typename T, typename Kind>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 2)
    concretize_forward_finish_kernel(const ConcretizeForwardFinishLaunch<T> args) {
  constexpr bool kScaled = Kind::template kScaled<T>;
  const ConcretizeForwardArguments<T>& op = args.op;
  const CombineNeurons<Kind, kScaled> combine = {{op.region.q}};
  const Index at = Index(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= op.batch * op.neurons) return;
  NeuronSum total = empty_neuron<Kind, kScaled>();
  for (Index piece = 0; piece < args.pieces; ++piece) {
    total = combine(total, args.sums.template get<Kind, kScaled>(piece, at));
  }
  if (args.totals.data != nullptr) {
    args.totals.template put<Kind, kScaled>(0, at, total);
  } else {
    const Index image = quotient(at, op.neurons);
    store_bounds<Kind>(op, image, at - image * op.neurons, total);
  }
}

template <typename T>
struct ConcretizeForwardGradientLaunch {
  ConcretizeForwardGradientArguments<T> op;
  Tiling tiling;
  NeuronSums sums;  // of all inputs; data null where the gradient does not need the norms
};

// What the gradient of one neuron's bounds by its coefficients needs of all of them.
template <typename Kind>
struct NeuronNorms {
  RowNorm<Kind> lower, upper;

  template <bool kScaled>
  LBP_DEVICE void load(const NeuronSums& sums, Index neuron, double q) {
    if constexpr (RowNorm<Kind>::kNeeded) {
      const NeuronSum sum = sums.get<Kind, kScaled>(0, neuron);
      lower = RowNorm<Kind>(sum.lower, q);
      upper = RowNorm<Kind>(sum.upper, q);
    }
  }
};

// Replaces center and radius of one input by their gradients, from those of the neuron's bounds.
template <typename Kind, typename T>
LBP_DEVICE void replace_by_gradients(T& center, T& radius, bool has_radius, T to_l, T to_u, const InputEnds& x,
                                     const NeuronNorms<Kind>& norms, double eps, double q) {
  const double a = lower_coefficient(center, radius, has_radius), b = upper_coefficient(center, radius, has_radius);
  // Where the bound's coefficient acts: the derivative of the bound by it.
  double a_point = a >= 0 ? x.low : x.high, b_point = b >= 0 ? x.high : x.low;
  if constexpr (!Kind::kBox) {
    a_point = x.low - eps * norms.lower.slope(a, q);
    b_point = x.low + eps * norms.upper.slope(b, q);
  }
  const double to_a = to_l * a_point, to_b = to_u * b_point;
  center = T(to_b + to_a);
  radius = T(to_b - to_a);
}

// What a thread keeps of its neurons while it walks down the inputs: the gradients of their bounds, and their norms.
template <typename T, typename Kind, bool kAligned>
struct NeuronGradients {
  Own<T, kAligned> own;
  Index image, matrix, out;  // where the image's matrices, and their gradients, begin
  bool has_radius;
  double eps;
  Pack<T> to_l, to_u;
  NeuronNorms<Kind> norms[kOwn<T>];

  template <typename Launch>
  LBP_DEVICE explicit NeuronGradients(const Launch& args)
      : own(args.tiling.tile(), args.op.neurons),
        image(args.tiling.image()),
        matrix(image * args.op.matrix_batch_stride),
        out(image * args.op.inputs * args.op.neurons),
        has_radius(args.op.radius != nullptr),
        eps(Kind::kBox ? 0.0 : radius_of(args.op.region, image)),
        to_l(own.load(args.op.l_gradient + image * args.op.neurons)),
        to_u(own.load(args.op.u_gradient + image * args.op.neurons)) {
#pragma unroll
    for (int i = 0; i < kOwn<T>; ++i) {
      if (own.has(i))
        norms[i].template load<Kind::template kScaled<T>>(args.sums, image * args.op.neurons + own.at(i),
                                                          args.op.region.q);
    }
  }

  // Replaces center and radius of one input, whose interval has the ends x, by their gradients at neuron i.
  LBP_DEVICE void replace(int i, T& center, T& radius, const InputEnds& x, double q) const {
    replace_by_gradients(center, radius, has_radius, to_l[i], to_u[i], x, norms[i], eps, q);
  }
};

template <typename T, typename Kind, bool kAligned>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 1)
    concretize_forward_gradient_kernel(const ConcretizeForwardGradientLaunch<T> args) {
  const ConcretizeForwardGradientArguments<T>& op = args.op;
  const Region<T>& region = op.region;
  const Index end = args.tiling.last_row();
  const NeuronGradients<T, Kind, kAligned> neurons(args);
  const Own<T, kAligned>& own = neurons.own;
#pragma unroll 2
  for (Index input = args.tiling.first_row(); input < end; ++input) {
    const Index row = input * op.neurons;
    Pack<T> center = own.load(op.center + neurons.matrix + row), radius = {};
    if (neurons.has_radius) radius = own.load(op.radius + neurons.matrix + row);
    const InputEnds x = input_ends<Kind>(region, neurons.image * region.batch_stride + input);
#pragma unroll
    for (int i = 0; i < kOwn<T>; ++i) neurons.replace(i, center[i], radius[i], x, region.q);
    own.store(op.center_gradient + neurons.out + row, center);
    own.store_if(op.radius_gradient, neurons.out + row, radius);
  }
}

}  // namespace lbp::cuda
