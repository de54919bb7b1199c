// Forward linear bounds center -/+ radius through an activation, and the gradient.
//
// A thread keeps the scales of its neurons and walks down the rows of center and radius; the first piece of an image
// has the biases too.
#pragma once

#include "cuda/kernels/lines.cuh"
#include "math/forward_scales.h"

namespace lbp::cuda {

// Rows of center and radius that are read before the first of them is used.
constexpr int kForwardRows = 4;

template <typename T>
struct OwnScales {
  ForwardScales<T> of[kOwn<T>];

  LBP_DEVICE explicit OwnScales(const OwnLines<T>& lines) {
#pragma unroll
    for (int i = 0; i < kOwn<T>; ++i) of[i] = forward_scales(lines.of[i].lower_slope, lines.of[i].upper_slope);
  }
};

// Turns a row of center and radius into that of the activation.
template <typename T>
LBP_DEVICE void scale_row(const OwnScales<T>& scales, Pack<T>& center, Pack<T>& radius) {
#pragma unroll
  for (int i = 0; i < kOwn<T>; ++i) {
    const ForwardScales<T>& scale = scales.of[i];
    const T c = center[i], r = radius[i];
    center[i] = scale.center_to_center * c + scale.radius_to_center * r;
    radius[i] = scale.center_to_radius * c + scale.radius_to_radius * r;
  }
}

// The same without a radius: no 0 times an infinite slope.
template <typename T>
LBP_DEVICE void scale_row(const OwnScales<T>& scales, Pack<T>& center, Pack<T>& radius, bool has_radius) {
  if (has_radius) {
    scale_row(scales, center, radius);
  } else {
#pragma unroll
    for (int i = 0; i < kOwn<T>; ++i) {
      radius[i] = scales.of[i].center_to_radius * center[i];
      center[i] = scales.of[i].center_to_center * center[i];
    }
  }
}

template <typename T>
struct RelaxForwardLaunch {
  RelaxForwardArguments<T> op;
  Tiling tiling;
};

template <typename T, bool kAligned>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 1) relax_forward_kernel(const RelaxForwardLaunch<T> args) {
  LBP_SHARED(T, line_data, kLineTileSize<T>);
  const RelaxForwardArguments<T>& op = args.op;
  const Index tile = args.tiling.tile(), image = args.tiling.image(), end = args.tiling.last_row();
  const Own<T, kAligned> own(tile, op.neurons);
  const OwnLines<T> lines = load_lines<kAligned, T>(op.relaxation, image, tile, op.neurons, {line_data});
  const OwnScales<T> scales(lines);
  const Index in = image * op.matrix_batch_stride, out = image * op.inputs * op.neurons;
  const bool has_radius = op.radius != nullptr;
  for (Index first = args.tiling.first_row(); first < end; first += kForwardRows) {
    Pack<T> center[kForwardRows], radius[kForwardRows];
#pragma unroll
    for (int k = 0; k < kForwardRows; ++k) {
      if (first + k >= end) break;
      center[k] = own.load(op.center + in + (first + k) * op.neurons);
      if (has_radius) radius[k] = own.load(op.radius + in + (first + k) * op.neurons);
    }
#pragma unroll
    for (int k = 0; k < kForwardRows; ++k) {
      if (first + k >= end) break;
      scale_row(scales, center[k], radius[k], has_radius);
      own.store(op.center_out + out + (first + k) * op.neurons, center[k]);
      own.store(op.radius_out + out + (first + k) * op.neurons, radius[k]);
    }
  }
  if (args.tiling.piece() == 0) {
    const Index bias_in = image * op.bias_batch_stride, bias_out = image * op.neurons;
    Pack<T> center = own.load(op.center_bias + bias_in), radius;
    if (op.radius_bias != nullptr) radius = own.load(op.radius_bias + bias_in);
    scale_row(scales, center, radius, op.radius_bias != nullptr);
#pragma unroll
    for (int i = 0; i < kOwn<T>; ++i) {
      center[i] += center_intercept(lines.of[i].lower_intercept, lines.of[i].upper_intercept);
      radius[i] += radius_intercept(lines.of[i].lower_intercept, lines.of[i].upper_intercept);
    }
    own.store(op.center_bias_out + bias_out, center);
    own.store(op.radius_bias_out + bias_out, radius);
  }
}

template <typename T>
struct RelaxForwardGradientLaunch {
  RelaxForwardGradientArguments<T> op;
  Tiling tiling;
  T* sums;  // [pieces, 4, B, n]: gradients of the scales; null where one piece has all rows
};

// Adds the gradients with respect to the scales, and turns those of the results into those of center and radius.
template <typename T>
LBP_DEVICE void scale_gradient(const ForwardScales<T>& scale, T center, T radius, T& to_center, T& to_radius,
                               ForwardScales<T>& sum) {
  const T to_c = to_center, to_r = to_radius;
  sum.center_to_center += to_c * center;
  sum.center_to_radius += to_r * center;
  sum.radius_to_center += to_c * radius;
  sum.radius_to_radius += to_r * radius;
  to_center = to_c * scale.center_to_center + to_r * scale.center_to_radius;
  to_radius = to_c * scale.radius_to_center + to_r * scale.radius_to_radius;
}

// The same for a row of a thread's neurons.
template <typename T>
LBP_DEVICE void scale_row_gradient(const OwnScales<T>& scales, const Pack<T>& center, const Pack<T>& radius,
                                   Pack<T>& to_center, Pack<T>& to_radius, ForwardScales<T> (&sums)[kOwn<T>]) {
#pragma unroll
  for (int i = 0; i < kOwn<T>; ++i) {
    scale_gradient(scales.of[i], center[i], radius[i], to_center[i], to_radius[i], sums[i]);
  }
}

template <typename T, bool kAligned>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 1) relax_forward_gradient_kernel(const RelaxForwardGradientLaunch<T> args) {
  constexpr int kRows = kForwardRows / 2;
  LBP_SHARED(T, line_data, kGradientTileSize<T>);
  const RelaxForwardGradientArguments<T>& op = args.op;
  const Index tile = args.tiling.tile(), image = args.tiling.image(), end = args.tiling.last_row();
  const Own<T, kAligned> own(tile, op.neurons);
  const OwnLines<T> lines = load_lines<kAligned, T>(op.relaxation, image, tile, op.neurons, {line_data});
  const OwnScales<T> scales(lines);
  const Index in = image * op.matrix_batch_stride, out = image * op.inputs * op.neurons;
  ForwardScales<T> sums[kOwn<T>] = {};
  for (Index first = args.tiling.first_row(); first < end; first += kRows) {
    Pack<T> center[kRows], radius[kRows], to_center[kRows], to_radius[kRows];
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      if (first + k >= end) break;
      const Index row = (first + k) * op.neurons;
      center[k] = own.load(op.center + in + row);
      radius[k] = Pack<T>{};
      if (op.radius != nullptr) radius[k] = own.load(op.radius + in + row);
      to_center[k] = own.load(op.center_out_gradient + out + row);
      to_radius[k] = own.load(op.radius_out_gradient + out + row);
    }
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      if (first + k >= end) break;
      const Index row = out + (first + k) * op.neurons;
      scale_row_gradient(scales, center[k], radius[k], to_center[k], to_radius[k], sums);
      own.store_if(op.center_gradient, row, to_center[k]);
      own.store_if(op.radius_gradient, row, to_radius[k]);
    }
  }
  const Index bias_in = image * op.bias_batch_stride, bias_out = image * op.neurons;
  if (args.tiling.piece() == 0) {
    const Pack<T> center = own.load(op.center_bias + bias_in);
    Pack<T> radius = {};
    if (op.radius_bias != nullptr) radius = own.load(op.radius_bias + bias_in);
    Pack<T> to_center = own.load(op.center_bias_out_gradient + bias_out),
            to_radius = own.load(op.radius_bias_out_gradient + bias_out);
    scale_row_gradient(scales, center, radius, to_center, to_radius, sums);
    own.store_if(op.center_bias_gradient, bias_out, to_center);
    own.store_if(op.radius_bias_gradient, bias_out, to_radius);
  }
  if (args.sums == nullptr) {
    const Pack<T> to_center = own.load(op.center_bias_out_gradient + bias_out),
                  to_radius = own.load(op.radius_bias_out_gradient + bias_out);
    OwnLines<T> to_lines;
#pragma unroll
    for (int i = 0; i < kOwn<T>; ++i) {
      to_lines.of[i] = forward_scales_gradient(lines.of[i].lower_slope, lines.of[i].upper_slope, sums[i], to_center[i],
                                               to_radius[i]);
    }
    store_line_gradients<kAligned, T>(op.relaxation, image, tile, op.neurons, to_lines, op.gradients, {line_data});
    return;
  }
  const Index count = op.batch * op.neurons;
#pragma unroll
  for (int i = 0; i < kOwn<T>; ++i) {
    if (!own.has(i)) continue;
    T* const at = args.sums + 4 * args.tiling.piece() * count + image * op.neurons + own.at(i);
    at[0] = sums[i].center_to_center;
    at[count] = sums[i].radius_to_center;
    at[2 * count] = sums[i].center_to_radius;
    at[3 * count] = sums[i].radius_to_radius;
  }
}

// Adds up what the pieces left, and writes the gradients of what the lines are made of: a thread for every neuron of
// every image.
template <typename T>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 2)
    relax_forward_gradient_finish_kernel(const RelaxForwardGradientLaunch<T> args) {
  const RelaxForwardGradientArguments<T>& op = args.op;
  const Index count = op.batch * op.neurons, at = Index(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= count) return;
  ForwardScales<T> sum = {};
  for (Index piece = 0; piece < args.tiling.pieces; ++piece) {
    const T* const in = args.sums + 4 * piece * count + at;
    sum.center_to_center += read(in);
    sum.radius_to_center += read(in + count);
    sum.center_to_radius += read(in + 2 * count);
    sum.radius_to_radius += read(in + 3 * count);
  }
  const Index image = quotient(at, op.neurons), neuron = at - image * op.neurons;
  const BoundingLines<T> lines = lines_of(op.relaxation.strategy, load_neuron(op.relaxation, image, neuron));
  const BoundingLines<T> to_lines =
      forward_scales_gradient(lines.lower_slope, lines.upper_slope, sum, read(op.center_bias_out_gradient + at),
                              read(op.radius_bias_out_gradient + at));
  store_line_gradient(op.relaxation, image, op.neurons, neuron, to_lines, op.gradients);
}

}  // namespace lbp::cuda
