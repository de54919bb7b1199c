// What the launch functions take: raw pointers, sizes and strides, no framework. The same for host and for device
// memory.
//
// K sides (lower, upper), B batch, S specification rows, n neurons of a layer (its shape flattened), n0 input size.
// Strides count elements; a stride of 0 repeats the data (a specification shared by all images, say). The last
// dimension of every array is contiguous. Absent arrays are null.
#pragma once

#include "math/bounding_lines.h"
#include "math/interval.h"

namespace lbp {

using Index = long long;

// How float32 products are added up on CUDA devices: by fused multiply-adds, or on tensor cores with operands split
// into two parts (csrc/cuda/kernels/split_tf32.cuh). float64 knows the first only.
enum class Arithmetic : int { kPlain = 0, kSplit = 1 };

// A value per neuron that may repeat: neuron j has data[(j / inner) % count]. Scalars have count 1, channels inner = h
// w. Without data every neuron has `value`.
template <typename T>
struct PerNeuron {
  const T* data;
  Index count, inner;
  T value = T(0);
};

// By how much lines move outward: |slope| per_slope + rest, per_slope [B, n] and rest [B, n] or [B], two arrays that
// are there together. They count as constants: gradients are those of the lines.
template <typename T>
struct LineMargins {
  const T* per_slope = nullptr;
  const T* rest = nullptr;
  Index per_slope_batch_stride = 0;
  Index rest_batch_stride = 0;
  Index rest_stride = 0;  // 1, or 0 where all neurons of an image share one number
};

// What the bounding lines of a layer are made of. l, u and the given lines are [B, n].
template <typename T>
struct Relaxation {
  const T* l;
  const T* u;
  Index batch_stride;  // of l and u: n, or 0 where one image's bounds serve the whole batch
  PerNeuron<T> r;
  T eta;
  Strategy strategy;
  const T* lower_slope;
  const T* lower_intercept;
  const T* upper_slope;
  const T* upper_intercept;
  Index given_batch_stride;
  const T* eta_data = nullptr;  // device memory only: where eta lies, if it is not the number
  LineMargins<T> margins = {};
};

// Gradients of a Relaxation, each [B, n] or null.
template <typename T>
struct RelaxationGradients {
  T* l;
  T* u;
  T* r;
  T* lower_slope;
  T* lower_intercept;
  T* upper_slope;
  T* upper_intercept;
};

// Coefficients A [K, B, S, n] of the sides of a bound: bit 0 of `sides` lower, bit 1 upper.
template <typename T>
struct Coefficients {
  const T* data;
  Index side_stride, batch_stride, row_stride;
};

// out = ramp(z), z [B, n].
template <typename T>
struct RampArguments {
  Index batch, neurons;
  const T* z;
  PerNeuron<T> r;
  T eta;
  T* out;
  const T* eta_data = nullptr;  // as in Relaxation
};

// Gradients of `ramp`: z_gradient [B, n] and r_gradient [n], each or null.
template <typename T>
struct RampGradientArguments {
  Index batch, neurons;
  const T* z;
  PerNeuron<T> r;
  T eta;
  const T* out_gradient;
  T* z_gradient;
  T* r_gradient;
  const T* eta_data = nullptr;  // as in Relaxation
};

// Images of the ends of [l, u], and how many neurons have each status (null: not asked for).
template <typename T>
struct RampIntervalArguments {
  Index batch, neurons;
  const T* l;
  const T* u;
  PerNeuron<T> r;
  T eta;
  T* lower;
  T* upper;
  Index* counts;                // [6]
  const T* eta_data = nullptr;  // as in Relaxation
};

// How many neurons have each status.
template <typename T>
struct StatusCountsArguments {
  Index batch, neurons;
  const T* l;
  const T* u;
  PerNeuron<T> r;
  Index* counts;  // [6]
};

template <typename T>
struct RampIntervalGradientArguments {
  Index batch, neurons;
  const T* l;
  const T* u;
  PerNeuron<T> r;
  T eta;
  const T* lower_gradient;
  const T* upper_gradient;
  T* l_gradient;
  T* u_gradient;
  T* r_gradient;                // [n] or null
  const T* eta_data = nullptr;  // as in Relaxation
};

// The four line parameters, each [B, n].
template <typename T>
struct BoundingLinesArguments {
  Index batch, neurons;
  Relaxation<T> relaxation;
  T* lower_slope;
  T* lower_intercept;
  T* upper_slope;
  T* upper_intercept;
};

template <typename T>
struct BoundingLinesGradientArguments {
  Index batch, neurons;
  Relaxation<T> relaxation;
  const T* lower_slope_gradient;
  const T* lower_intercept_gradient;
  const T* upper_slope_gradient;
  const T* upper_intercept_gradient;
  RelaxationGradients<T> gradients;
};

// A -> A', and the constants that the lines' intercepts and the bias of the layer below contribute.
template <typename T>
struct RelaxBackwardArguments {
  int sides;
  Index batch, rows, neurons;
  Coefficients<T> A;
  Relaxation<T> relaxation;
  PerNeuron<T> bias;  // data null: none
  T* relaxed;         // [K, B, S, n]
  double* constants;  // [K, B, S]
};

template <typename T>
struct RelaxBackwardGradientArguments {
  int sides;
  Index batch, rows, neurons;
  Coefficients<T> A;
  Relaxation<T> relaxation;
  PerNeuron<T> bias;
  const T* relaxed_gradient;         // [K, B, S, n]
  const double* constants_gradient;  // [K, B, S]
  T* A_gradient;                     // [K, B, S, n] or null
  RelaxationGradients<T> gradients;
  T* bias_gradient;  // [B, n] or null
};

// Forward linear bounds center -/+ radius through an activation. radius and radius_bias may be null: zero.
template <typename T>
struct RelaxForwardArguments {
  Index batch, inputs, neurons;
  const T* center;  // [B, n0, n]
  const T* radius;
  Index matrix_batch_stride;  // of center and radius: n0 n or 0
  const T* center_bias;       // [B, n]
  const T* radius_bias;
  Index bias_batch_stride;
  Relaxation<T> relaxation;
  T* center_out;
  T* radius_out;
  T* center_bias_out;
  T* radius_bias_out;
};

template <typename T>
struct RelaxForwardGradientArguments {
  Index batch, inputs, neurons;
  const T* center;
  const T* radius;
  Index matrix_batch_stride;
  const T* center_bias;
  const T* radius_bias;
  Index bias_batch_stride;
  Relaxation<T> relaxation;
  const T* center_out_gradient;
  const T* radius_out_gradient;
  const T* center_bias_out_gradient;
  const T* radius_bias_out_gradient;
  T* center_gradient;  // [B, n0, n] or null, as the following
  T* radius_gradient;
  T* center_bias_gradient;
  T* radius_bias_gradient;
  RelaxationGradients<T> gradients;
};

// W center + bias -/+ (|W| radius + margins) for a few examples, from one read of W.
template <typename T>
struct IntervalLinearArguments {
  Index batch, inputs, outputs;
  const T* center;  // [B, inputs]
  const T* radius;
  const T* weight;             // [outputs, inputs]
  const T* bias;               // [outputs] or null
  const T* margin;             // [outputs] or null; where given, infinite bounds on the wrong side become NaN
  const T* margin_of_example;  // [B] or null
  T* lower;                    // [B, outputs]
  T* upper;
};

// The gradients of that by bounds and W, from those by its results.
template <typename T>
struct IntervalLinearGradientArguments {
  Index batch, inputs, outputs;
  const T* lower_gradient;  // [B, outputs]
  const T* upper_gradient;
  const T* l;  // [B, inputs]
  const T* u;
  const T* weight;  // [outputs, inputs]
  T* l_gradient;    // [B, inputs]
  T* u_gradient;
  T* weight_gradient;  // [outputs, inputs]
};

// The sizes of a convolution of images, from [B, channels, height, width] to [B, outputs, output_height, output_width].
struct ConvolutionSizes {
  Index batch, channels, height, width, groups;
  Index outputs, output_height, output_width;
  Index kernel[2], stride[2], padding[2], dilation[2];
};

// Intervals through a convolution, W center + bias -/+ (|W| radius + margins), or the two sums alone.
template <typename T>
struct IntervalConvolutionArguments {
  ConvolutionSizes sizes;
  Index threads;
  bool of_ends;    // whether `first` and `second` are lower and upper bounds, as the results, or centers and radii
  Widening<T> by;  // of the radii, where they are made of bounds
  const T* first;  // [B, channels, height, width]
  const T* second;
  const T* weight;             // [outputs, channels / groups, kernel height, kernel width]
  const T* bias;               // [outputs] or null
  const T* margin;             // [outputs] or null; where given, infinite bounds on the wrong side become NaN
  const T* margin_of_example;  // [B] or null
  T* first_result;             // [B, outputs, output_height, output_width]
  T* second_result;
};

// Coefficients through the transposed convolution: `A W` and the constants `A b`.
template <typename T>
struct BackwardConvolutionArguments {
  ConvolutionSizes sizes;
  Index threads;
  const T* A;         // [B, outputs, output_height, output_width]
  const T* weight;    // [outputs, channels / groups, kernel height, kernel width]
  const T* bias;      // [outputs] or null
  T* result;          // [B, channels, height, width]
  double* constants;  // [B]
};

// The gradient of A from those of both: `gradient W^T + constants_gradient b`.
template <typename T>
struct BackwardConvolutionGradientArguments {
  ConvolutionSizes sizes;
  Index threads;
  const T* gradient;                 // [B, channels, height, width]
  const double* constants_gradient;  // [B]
  const T* weight;
  const T* bias;  // or null
  T* A_gradient;  // [B, outputs, output_height, output_width]
};

// The gradient of intervals through a convolution by their ends, or by centers and radii: `W^T center -/+ |W|^T
// radius`.
template <typename T>
struct IntervalConvolutionInputGradientArguments {
  ConvolutionSizes sizes;
  Index threads;
  bool of_ends;             // as in IntervalConvolutionArguments
  const T* first_gradient;  // [B, outputs, output_height, output_width]
  const T* second_gradient;
  const T* weight;  // [outputs, channels / groups, kernel height, kernel width]
  T* first_result;  // [B, channels, height, width]
  T* second_result;
};

// The gradient by the weight of a convolution, or of intervals through it.
template <typename T>
struct ConvolutionWeightGradientArguments {
  ConvolutionSizes sizes;
  Index threads;
  bool of_ends;              // of intervals, as in IntervalConvolutionArguments
  const T* first_gradient;   // [B, outputs, output_height, output_width]
  const T* second_gradient;  // null, as `second`, for a convolution alone
  const T* first;            // [B, channels, height, width]
  const T* second;
  const T* weight;     // [outputs, channels / groups, kernel height, kernel width]; its signs are read
  T* weight_gradient;  // like weight
};

// Center and radius of intervals, the radii widened.
template <typename T>
struct SplitIntervalArguments {
  Index count;
  Widening<T> by;
  const T* l;
  const T* u;
  T* center;
  T* radius;
};

// Intervals from center and radius.
template <typename T>
struct JoinIntervalArguments {
  Index count;
  bool outward;  // whether infinite bounds on the wrong side become NaN
  const T* center;
  const T* radius;
  T* lower;
  T* upper;
};

// The input region: the box [x_L, x_U], or the l_p ball of radius eps around x0, p by its dual exponent q (infinity:
// 0).
template <typename T>
struct Region {
  const T* x_L;  // [B, n0]; x0 for a ball
  const T* x_U;  // null for a ball
  Index batch_stride;
  double eps;              // where eps_data is null
  const double* eps_data;  // [B] or one value, or null
  Index eps_stride;
  double q;
};

// Extreme values of A x over the region, float64 [K, B, S].
template <typename T>
struct ConcretizeArguments {
  int sides;
  Index batch, rows, inputs;
  Coefficients<T> A;
  Region<T> region;
  double* bounds;
};

template <typename T>
struct ConcretizeGradientArguments {
  int sides;
  Index batch, rows, inputs;
  Coefficients<T> A;
  Region<T> region;
  const double* bounds_gradient;  // [K, B, S]
  T* A_gradient;                  // [K, B, S, n0]
};

// Forward linear bounds over the region: l, u [B, n]; over a box also the magnitudes `(|center| + |radius|) |x|`, |x|
// the largest of every input, where they are wanted.
template <typename T>
struct ConcretizeForwardArguments {
  Index batch, inputs, neurons;
  const T* center;  // [B, n0, n]
  const T* radius;
  Index matrix_batch_stride;
  const T* center_bias;  // [B, n]
  const T* radius_bias;
  Index bias_batch_stride;
  Region<T> region;
  T* l;
  T* u;
  T* magnitude;  // [B, n], or null
};

template <typename T>
struct ConcretizeForwardGradientArguments {
  Index batch, inputs, neurons;
  const T* center;
  const T* radius;
  Index matrix_batch_stride;
  Region<T> region;
  const T* l_gradient;  // [B, n]
  const T* u_gradient;
  T* center_gradient;  // [B, n0, n]
  T* radius_gradient;  // or null
};

}  // namespace lbp
