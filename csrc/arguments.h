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

// Windows of the input under the neurons of a layer: entry (c0, i, j) of the neuron at (y, x) of any channel belongs to
// the image's row `row_scale y + row_offset + i` and column `column_scale x + column_offset + j` of channel c0, or to
// nothing where that lies outside.
struct Windows {
  Index image_channels, image_rows, image_columns;
  Index rows, columns;
  Index channels, height, width;
  Index row_scale, column_scale, row_offset, column_offset;
};

// Forward linear bounds on windows over the region: l, u [B, C, H, W].
template <typename T>
struct ConcretizeForwardWindowsArguments {
  Index batch;
  Windows windows;
  const T* center;  // [B, C0, kh, kw, C, H, W]
  const T* radius;
  Index matrix_batch_stride;
  const T* center_bias;  // [B, C, H, W]
  const T* radius_bias;
  Index bias_batch_stride;
  Region<T> region;
  T* l;
  T* u;
  T* magnitude;  // [B, n], or null
};

// The gradients of entries outside the image are 0. CPU kernels do not write them: the arrays come filled with zeros.
template <typename T>
struct ConcretizeForwardWindowsGradientArguments {
  Index batch;
  Windows windows;
  const T* center;
  const T* radius;
  Index matrix_batch_stride;
  Region<T> region;
  const T* l_gradient;  // [B, C, H, W]
  const T* u_gradient;
  T* center_gradient;  // [B, C0, kh, kw, C, H, W]
  T* radius_gradient;  // or null
};

// A convolution of the layer [C, H, W] of a window matrix; all images and input channels are matrices of their own.
template <typename T>
struct ConvolveWindowsArguments {
  Index matrices, rows, columns;  // of windows of the layer
  Index channels, height, width, groups;
  Index outputs, output_height, output_width;
  Index kernel[2], stride[2], padding[2], dilation[2];
  Index step[2];     // by how much neighbouring taps move the window
  const T* windows;  // [matrices, rows, columns, C, H, W]
  const T* weight;   // [outputs, C / groups, kernel height, kernel width]
  Index together;    // matrices that are laid out at a time
  T* layers;         // room for [together, rows, columns, reach(0), reach(1), C], on the host
  T* result;         // [matrices, grown(0), grown(1), outputs, output_height, output_width]

  // Positions of the padded layer along an axis, from the first to the last that a tap meets.
  Index reach(int axis) const {
    const Index count = axis == 0 ? output_height : output_width;
    return stride[axis] * (count - 1) + dilation[axis] * (kernel[axis] - 1) + 1;
  }
  // Rows or columns of the windows of the result.
  Index grown(int axis) const { return (axis == 0 ? rows : columns) + step[axis] * (kernel[axis] - 1); }
};

// Rows A [B, S, C, H, W] of coefficients of a layer times a window matrix.
template <typename T>
struct AccumulateWindowsArguments {
  Index batch, rows;
  Windows windows;
  const T* A;
  Index A_batch_stride;  // 0 where the images share the rows
  const T* matrix;       // [B, C0, kh, kw, C, H, W]
  Index matrix_batch_stride;
  T* result;  // [B, n0, S]
};

// The same of many rows, with room on the host. Rows are filled up to whole blocks.
template <typename T>
struct AccumulateManyRowsArguments {
  AccumulateWindowsArguments<T> product;
  T* packed;  // [H W, padded_rows, C]: the rows of an image
  T* layers;  // [C0, kh, kw, W, C]: a row of the layer
  T* sums;    // [padded_rows, n0]

  Index blocks(Index columns) const { return (product.rows + columns - 1) / columns; }
  // A multiple of every kernel's block.
  Index padded_rows() const { return blocks(32) * 32; }
};

template <typename T>
struct AccumulateWindowsGradientArguments {
  Index batch, rows;
  Windows windows;
  const T* A;
  Index A_batch_stride;
  const T* matrix;
  Index matrix_batch_stride;
  const T* gradient;   // [B, n0, S]
  T* A_gradient;       // [B, S, C, H, W] or null
  T* matrix_gradient;  // [B, C0, kh, kw, C, H, W] or null
};

// Where a row of windowed coefficients stands: which row of A holds its numbers, which image it bounds, and the place
// of its window, which lies inside the layer.
struct WindowRow {
  Index source, image, top, left;
};

// Coefficients of a layer [C, h, w] of which each row holds a window only. Channels stand last.
template <typename T>
struct RowWindows {
  const T* data;  // [K, sources, height, width, C]
  Index side_stride, source_stride;
  Index rows, height, width, channels;
  Index layer_height, layer_width;
  const WindowRow* where;  // [rows]
  Index sources, images;   // that rows may name
};

// Whether a row names a source and an image, and its window lies in the layer. The host refuses others; rows in device
// memory are not looked at before a launch, and those that stand nowhere get NaN.
template <typename T>
LBP_HOST_DEVICE bool stands(const RowWindows<T>& A, const WindowRow& row) {
  return row.source >= 0 && row.source < A.sources && row.image >= 0 && row.image < A.images && row.top >= 0 &&
         row.top <= A.layer_height - A.height && row.left >= 0 && row.left <= A.layer_width - A.width;
}

// A -> A' as for dense coefficients. `lines` is room for the lines of one image, [h, w, 5, C], on the host.
template <typename T>
struct RelaxWindowsArguments {
  int sides;
  RowWindows<T> A;
  Relaxation<T> relaxation;  // l null: no activation
  PerNeuron<T> bias;         // data null: none
  T* lines;
  T* relaxed;         // [K, rows, height, width, C]
  double* constants;  // [K, rows]
};

template <typename T>
struct RelaxWindowsGradientArguments {
  int sides;
  RowWindows<T> A;
  Relaxation<T> relaxation;
  PerNeuron<T> bias;
  const T* relaxed_gradient;         // [K, rows, height, width, C]
  const double* constants_gradient;  // [K, rows]
  T* A_gradient;                     // [K, sources, height, width, C] or null
  RelaxationGradients<T> gradients;
  T* bias_gradient;  // [B, n] or null
};

// The convolution below an activation: A' of its output to coefficients of its input [C_in, h_in, w_in].
template <typename T>
struct WindowConvolution {
  const T* weight;  // [C, C_in / groups, kernel height, kernel width]
  Index inputs, groups;
  Index kernel[2], stride[2], padding[2], dilation[2];
  Index height, width;   // of the windows of the input
  const Index* corners;  // [rows, 2]: their first row and column
  T* packed;             // room for packed_weight_size() numbers, on the host
};

template <typename T>
struct RelaxConvolveWindowsArguments {
  RelaxWindowsArguments<T> relax;  // `relaxed` is not written
  WindowConvolution<T> convolution;
  T* coefficients;                             // [K, rows, height, width, C_in]
  Arithmetic arithmetic = Arithmetic::kPlain;  // of CUDA devices
};

// Extreme values over the region of windowed coefficients of the input, float64 [K, rows].
template <typename T>
struct ConcretizeWindowsArguments {
  int sides;
  RowWindows<T> A;
  Region<T> region;  // x [B, h, w, C]
  double* bounds;
};

template <typename T>
struct ConcretizeWindowsGradientArguments {
  int sides;
  RowWindows<T> A;
  Region<T> region;
  const double* bounds_gradient;  // [K, rows]
  T* A_gradient;                  // [K, sources, height, width, C]
};

}  // namespace lbp
