// Back-substitution through an activation and the Linear layer below it: A is relaxed while it is loaded for the
// product with W, and the constants are added up in the same pass.
#pragma once

#include "cuda/kernels/lines.cuh"
#include "cuda/kernels/slot.cuh"
#include "cuda/kernels/tile_product.cuh"
#include "product_arguments.h"

namespace lbp::cuda {

constexpr int kMostImages = 8;  // whose lines a block keeps at a time

// Products of `images` images each (at most kMostImages where that is more than one); rows run over images, then sides,
// then the rows of the specification; columns are the inputs of the layer, and the depth its outputs, the neurons.
template <typename T>
struct RelaxLinearProduct {
  using Scalar = T;
  static constexpr Pairing kPairing = Pairing::kSingle;
  static constexpr bool kLeftAlongDepth = true, kRightAlongDepth = false, kConstants = true, kFewRows = true,
                        kFewColumns = false, kRowsInPacks = false;
  struct Stage {
    BoundingLines<T> lines[kMostImages][kStageDepth];
    T bias[kStageDepth];
  };
  using LeftLoad = T;
  struct LeftState {
    const T* row;  // null outside the product
    int image;     // of the product
    bool lower;
  };
  using RightState = const T*;

  Index batches, rows, columns, depth;
  RelaxBackwardLinearArguments<T> args;
  Index images;
  Index first_image;

  LBP_DEVICE RelaxLinearProduct view(Index batch) const {
    RelaxLinearProduct product = *this;
    product.first_image = batch * images;
    product.images = smaller(images, args.batch - product.first_image);
    product.rows = product.images * slot_count(args.sides, args.rows);
    return product;
  }

  struct Place {
    Index image, side, row;
  };
  LBP_DEVICE Place place(Index row) const {
    const Index of_image = slot_count(args.sides, args.rows), image = quotient(row, of_image),
                rest = row - image * of_image;
    const Index side = rest >= args.rows ? 1 : 0;
    return {image, side, rest - side * args.rows};
  }

  LBP_DEVICE LeftState left(Index row, Index begin) const {
    if (row >= rows) return {nullptr, 0, false};
    const Place at = place(row);
    return {args.A.data + at.side * args.A.side_stride + (first_image + at.image) * args.A.batch_stride +
                at.row * args.A.row_stride + begin,
            int(at.image), is_lower(args.sides, at.side)};
  }
  LBP_DEVICE RightState right(Index column, Index begin) const {
    return column < columns ? args.layer.weight + begin * columns + column : nullptr;
  }

  LBP_DEVICE void prepare(Stage& stage, Index begin, int thread, int threads) const {
    for (int item = thread; item < int(images) * kStageDepth; item += threads) {
      const int image = item / kStageDepth, at = item % kStageDepth;
      const Index k = begin + at;
      BoundingLines<T> lines = {T(0), T(0), T(0), T(0)};
      if (k < depth) lines = neuron_lines(args.relaxation, first_image + image, k);
      stage.lines[image][at] = lines;
      if (image == 0) stage.bias[at] = k < depth && args.layer.bias != nullptr ? args.layer.bias[k] : T(0);
    }
  }

  template <int kCount>
  LBP_DEVICE void load_left(const LeftState& state, const Stage&, const Step& step, LeftLoad (&loads)[kCount]) const {
    load_row(state.row, step, loads);
  }

  LBP_DEVICE Pair<T> left_values(LeftLoad a, const LeftState& state, const Stage& stage, int k,
                                 double& constant) const {
    const BoundingLines<T>& lines = stage.lines[state.image][k];
    const bool lower_line = (a >= T(0)) == state.lower;  // A = 0 counts as positive, NaN as negative
    const T value = a * (lower_line ? lines.lower_slope : lines.upper_slope);
    const T intercept = lower_line ? lines.lower_intercept : lines.upper_intercept;
    constant = double(a) * double(intercept) + double(value) * double(stage.bias[k]);
    return {value, T(0)};
  }

  LBP_DEVICE void load_right(RightState column, const Stage&, const Step& step, Pair<T> (&loads)[1]) const {
    loads[0] = {column == nullptr || step.count <= 0 ? T(0) : read(column + step.depth * columns), T(0)};
  }

  LBP_DEVICE Index output_row(Index row) const {
    const Place at = place(row);
    return (at.side * args.batch + first_image + at.image) * args.rows + at.row;
  }
  struct OutputRow {
    T* coefficients;
    LBP_DEVICE void store(Index column, T sum, T) const { coefficients[column] = sum; }
  };
  LBP_DEVICE OutputRow output(Index row) const { return {args.coefficients + output_row(row) * columns}; }
  LBP_DEVICE void store_constant(Index row, double constant) const { args.constants[output_row(row)] = constant; }
};

}  // namespace lbp::cuda
