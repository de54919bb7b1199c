// What the launch functions of ops on windows take, as in arguments.h: forward bounds of which a neuron has entries for
// a window of the input only, and rows of back-substitution of which each has coefficients for a window of a layer
// only.
#pragma once

#include "arguments.h"

namespace lbp {

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
  bool has_image;    // else one that holds every window
  Index image[2];    // rows and columns; entries of the result's windows outside are 0
  Index scale[2];    // distance of the windows of neighbouring positions of the result
  Index offset[2];   // first row and column of the first of those
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

// A -> A' as for dense coefficients. `lines` is room for the lines of one image, [h, 5, w, C], on the host.
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
