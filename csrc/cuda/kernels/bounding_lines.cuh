// The four line parameters of every neuron, and their gradients: a block for every tile of every image.
#pragma once

#include "cuda/kernels/lines.cuh"

namespace lbp::cuda {

template <typename T>
struct BoundingLinesLaunch {
  BoundingLinesArguments<T> op;
  Tiling tiling;
};

// Blocks of a multiprocessor, few enough for the registers of the formulas.
template <typename T>
constexpr int kLineBlocks = sizeof(T) == 8 ? 2 : 3;

template <typename T, bool kAligned>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, kLineBlocks<T>) bounding_lines_kernel(const BoundingLinesLaunch<T> args) {
  LBP_SHARED(T, line_data, kLineTileSize<T>);
  const BoundingLinesArguments<T>& op = args.op;
  const Index tile = args.tiling.tile(), image = args.tiling.image(), row = image * op.neurons;
  const Own<T, kAligned> own(tile, op.neurons);
  const OwnLines<T> lines = load_lines<kAligned, T>(op.relaxation, image, tile, op.neurons, {line_data});
  Pack<T> lower_slope, lower_intercept, upper_slope, upper_intercept;
#pragma unroll
  for (int i = 0; i < kOwn<T>; ++i) {
    lower_slope[i] = lines.of[i].lower_slope;
    lower_intercept[i] = lines.of[i].lower_intercept;
    upper_slope[i] = lines.of[i].upper_slope;
    upper_intercept[i] = lines.of[i].upper_intercept;
  }
  own.store(op.lower_slope + row, lower_slope);
  own.store(op.lower_intercept + row, lower_intercept);
  own.store(op.upper_slope + row, upper_slope);
  own.store(op.upper_intercept + row, upper_intercept);
}

template <typename T>
struct BoundingLinesGradientLaunch {
  BoundingLinesGradientArguments<T> op;
  Tiling tiling;
};

template <typename T, bool kAligned>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 2) bounding_lines_gradient_kernel(const BoundingLinesGradientLaunch<T> args) {
  LBP_SHARED(T, line_data, kGradientTileSize<T>);
  const BoundingLinesGradientArguments<T>& op = args.op;
  const Index tile = args.tiling.tile(), image = args.tiling.image(), row = image * op.neurons;
  const Own<T, kAligned> own(tile, op.neurons);
  const Pack<T> lower_slope = own.load(op.lower_slope_gradient + row),
                lower_intercept = own.load(op.lower_intercept_gradient + row),
                upper_slope = own.load(op.upper_slope_gradient + row),
                upper_intercept = own.load(op.upper_intercept_gradient + row);
  OwnLines<T> to_lines;
#pragma unroll
  for (int i = 0; i < kOwn<T>; ++i)
    to_lines.of[i] = {lower_slope[i], lower_intercept[i], upper_slope[i], upper_intercept[i]};
  store_line_gradients<kAligned, T>(op.relaxation, image, tile, op.neurons, to_lines, op.gradients, {line_data});
}

}  // namespace lbp::cuda
