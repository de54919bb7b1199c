// A layer's forward linear bounds in the place of the layer: A center -/+ |A| radius, with the constants that the
// biases contribute, from one read of A.
#pragma once

#include "cuda/kernels/slot.cuh"
#include "cuda/kernels/tile_product.cuh"
#include "product_arguments.h"

namespace lbp::cuda {

// A product for every image, or one for all where they share the matrices. Rows run over sides, then the product's
// images, then the rows of the specification; columns are the inputs; the depth is the neurons.
template <typename T>
struct InsertProduct {
  using Scalar = T;
  static constexpr Pairing kPairing = Pairing::kRightPair;
  static constexpr bool kLeftAlongDepth = true, kRightAlongDepth = true, kConstants = true, kFewRows = true,
                        kFewColumns = false, kRowsInPacks = false;
  struct Stage {
    T center_bias[kStageDepth], radius_bias[kStageDepth];
  };
  using LeftLoad = T;
  struct LeftState {
    const T* row;  // null outside the product
    bool lower;
  };
  struct RightState {
    const T* center;  // null outside the product
    const T* radius;  // or where it is zero
  };

  Index batches, rows, columns, depth;
  InsertForwardArguments<T> args;
  Index images;  // of one product
  Index first_image;

  LBP_DEVICE InsertProduct view(Index batch) const {
    InsertProduct product = *this;
    product.first_image = batch * images;
    return product;
  }

  // Where a row is, as numbers of its side, image and row of the specification.
  struct Place {
    Index side, image, row;
  };
  LBP_DEVICE Place place(Index row) const {
    const Index of_side = images * args.rows, side = row >= of_side ? 1 : 0, rest = row - side * of_side;
    const Index image = quotient(rest, args.rows);
    return {side, first_image + image, rest - image * args.rows};
  }

  LBP_DEVICE LeftState left(Index row, Index begin) const {
    if (row >= rows) return {nullptr, false};
    const Place at = place(row);
    return {args.A.data + at.side * args.A.side_stride + at.image * args.A.batch_stride + at.row * args.A.row_stride +
                begin,
            is_lower(args.sides, at.side)};
  }
  LBP_DEVICE RightState right(Index column, Index begin) const {
    if (column >= columns) return {nullptr, nullptr};
    const Index at = first_image * args.matrix_batch_stride + column * depth + begin;
    return {args.center + at, args.radius == nullptr ? nullptr : args.radius + at};
  }

  LBP_DEVICE void prepare(Stage& stage, Index begin, int thread, int) const {
    const Index k = begin + thread, at = first_image * args.bias_batch_stride + k;
    if (thread >= kStageDepth) return;
    stage.center_bias[thread] = k < depth ? args.center_bias[at] : T(0);
    stage.radius_bias[thread] = k < depth && args.radius_bias != nullptr ? args.radius_bias[at] : T(0);
  }

  template <int kCount>
  LBP_DEVICE void load_left(const LeftState& state, const Stage&, const Step& step, LeftLoad (&loads)[kCount]) const {
    load_row(state.row, step, loads);
  }

  LBP_DEVICE Pair<T> left_values(LeftLoad a, const LeftState& state, const Stage& stage, int k,
                                 double& constant) const {
    const double spread = double(absolute(a)) * double(stage.radius_bias[k]);
    constant = double(a) * double(stage.center_bias[k]) + (state.lower ? -spread : spread);
    return {a, T(0)};
  }

  template <int kCount>
  LBP_DEVICE void load_right(const RightState& state, const Stage&, const Step& step, Pair<T> (&loads)[kCount]) const {
    load_rows(state.center, state.radius, step, loads);
  }

  struct OutputRow {
    T* coefficients;
    bool lower;
    LBP_DEVICE void store(Index column, T first, T second) const {
      coefficients[column] = lower ? first - second : first + second;
    }
  };
  LBP_DEVICE OutputRow output(Index row) const {
    const Place at = place(row);
    return {args.coefficients + ((at.side * args.batch + at.image) * args.rows + at.row) * columns,
            is_lower(args.sides, at.side)};
  }
  LBP_DEVICE void store_constant(Index row, double constant) const {
    const Place at = place(row);
    args.constants[(at.side * args.batch + at.image) * args.rows + at.row] = constant;
  }
};

}  // namespace lbp::cuda
