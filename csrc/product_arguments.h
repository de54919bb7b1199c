// What the launch functions of the fused products take, as in arguments.h: a Linear or Conv2d layer together with what
// comes in and what goes out.
#pragma once

#include "arguments.h"

namespace lbp {

// W [outputs, inputs], bias [outputs] or null.
template <typename T>
struct LinearLayer {
  Index inputs, outputs;
  const T* weight;
  const T* bias;
};

struct Extent {
  int height, width;
};

// A convolution of [channels, input] to [out_channels, output]; weight [out_channels, channels / groups, kernel], bias
// [out_channels] or null.
template <typename T>
struct ConvolutionLayer {
  int channels, out_channels, groups;
  Extent input, output, kernel, stride, padding, dilation;
  const T* weight;
  const T* bias;
};

// W c + bias -/+ (|W| r + margins) of the intervals [l, u] of `batch` examples, center c and widened radius r. With a
// margin, one for each row of W or output channel, bounds are rounded outward: the sums of a Linear layer are added up
// in blocks, and infinite bounds on the wrong side become NaN. Examples may have margins of their own besides.
template <typename T, typename Layer>
struct IntervalProductArguments {
  Index batch;
  Layer layer;
  const T* l;
  const T* u;
  T* lower;
  T* upper;
  Arithmetic arithmetic;  // outward: plain
  Widening<T> by = {};
  const T* margin = nullptr;
  const T* margin_of_example = nullptr;
};

// Forward linear bounds through a layer: W center, |W| radius. `rows` counts the rows of the matrices (B n0), and
// `bias_rows` those of the biases (B); radius and radius_bias, and with them their outputs, may be null.
template <typename T, typename Layer>
struct ForwardProductArguments {
  Index rows, bias_rows;
  Layer layer;
  const T* center;  // [rows, input of the layer]
  const T* radius;
  const T* center_bias;  // [bias_rows, input of the layer]
  const T* radius_bias;
  T* center_out;
  T* radius_out;
  T* center_bias_out;
  T* radius_bias_out;
  Arithmetic arithmetic;
};

// A center -/+ |A| radius, and the constants that the biases contribute.
template <typename T>
struct InsertForwardArguments {
  int sides;
  Index batch, rows, neurons, inputs;
  Coefficients<T> A;
  const T* center;  // [B, n0, n]
  const T* radius;  // or null: zero
  Index matrix_batch_stride;
  const T* center_bias;  // [B, n]
  const T* radius_bias;  // or null: zero
  Index bias_batch_stride;
  T* coefficients;    // [K, B, S, n0]
  double* constants;  // [K, B, S]
  Arithmetic arithmetic;
};

// The gradient of that with respect to A.
template <typename T>
struct InsertForwardGradientArguments {
  int sides;
  Index batch, rows, neurons, inputs;
  Coefficients<T> A;
  const T* center;  // [B, n0, n]
  const T* radius;  // or null: zero
  Index matrix_batch_stride;
  const T* center_bias;  // [B, n]
  const T* radius_bias;  // or null: zero
  Index bias_batch_stride;
  const T* coefficients_gradient;    // [K, B, S, n0]
  const double* constants_gradient;  // [K, B, S]
  T* A_gradient;                     // [K, B, S, n]
};

// A -> A' W through an activation and the layer below it, whose bias is `bias`: one per neuron.
template <typename T, typename Layer>
struct RelaxBackwardProductArguments {
  int sides;  // 0: no activation, of one side; the relaxation is not read
  Index batch, rows;
  Coefficients<T> A;  // [K, B, S, output of the layer]
  Relaxation<T> relaxation;
  Layer layer;
  T* coefficients;    // [K, B, S, input of the layer]
  double* constants;  // [K, B, S]
  Arithmetic arithmetic;
};

template <typename T>
using IntervalLinearProductArguments = IntervalProductArguments<T, LinearLayer<T>>;
template <typename T>
using IntervalConv2dArguments = IntervalProductArguments<T, ConvolutionLayer<T>>;
template <typename T>
using ForwardLinearArguments = ForwardProductArguments<T, LinearLayer<T>>;
template <typename T>
using ForwardConv2dArguments = ForwardProductArguments<T, ConvolutionLayer<T>>;
template <typename T>
using RelaxBackwardLinearArguments = RelaxBackwardProductArguments<T, LinearLayer<T>>;
template <typename T>
using RelaxBackwardConv2dArguments = RelaxBackwardProductArguments<T, ConvolutionLayer<T>>;

}  // namespace lbp
