// Centers and radii through a Conv2d layer as an implicit matrix product, with one read of the weights for both:
// intervals, and the forward linear bounds of LBP. Every group is a product: its rows are the output's pixels (of all
// images), its columns the group's output channels, and its depth the entries of the kernel (of all input channels).
#pragma once

#include "cuda/kernels/tile_product.cuh"
#include "product_arguments.h"

namespace lbp::cuda {

template <typename T, bool kInterval>
struct ConvolutionProduct {
  using Scalar = T;
  static constexpr Pairing kPairing = Pairing::kLeftPair;
  static constexpr bool kLeftAlongDepth = false, kRightAlongDepth = true, kConstants = false, kFewRows = false,
                        kFewColumns = true, kRowsInPacks = true;
  // Where an entry of the kernel reads, relative to the pixel's first one, in memory and by rows and columns.
  struct alignas(16) Entry {
    int offset, y, x;
  };
  struct Stage {
    Entry entries[kStageDepth];
  };
  using LeftLoad = Pair<T>;
  struct LeftState {
    const T* first;   // of the pixel's first entry in the group's first channel
    const T* second;  // or null where the radius is zero
    int y, x;         // of that entry, outside the image where it is padding
  };
  using RightState = const T*;

  Index batches, rows, columns, depth;
  ConvolutionLayer<T> layer;
  Index images;    // of the matrix; images of the biases follow
  const T* first;  // l, or the center
  const T* second;
  const T* first_bias;
  const T* second_bias;
  T* first_out;  // lower, or the center
  T* second_out;
  T* first_bias_out;
  T* second_bias_out;
  Index group;
  Widening<T> by;
  const T* margin;             // of intervals that are rounded outward
  const T* margin_of_example;  // or null

  LBP_DEVICE ConvolutionProduct view(Index batch) const {
    ConvolutionProduct product = *this;
    product.group = batch;
    return product;
  }

  LBP_DEVICE LeftState left(Index row, Index) const {
    if (row >= rows) return {nullptr, nullptr, kOutside, 0};
    const int pixels = layer.output.height * layer.output.width;
    const Index image = quotient(row, pixels);
    const int pixel = int(row - image * pixels);
    const int y = pixel / layer.output.width * layer.stride.height - layer.padding.height;
    const int x = pixel % layer.output.width * layer.stride.width - layer.padding.width;
    const bool matrix = image < images;
    const Index size = Index(layer.input.height) * layer.input.width;
    const Index at =
        ((matrix ? image : image - images) * layer.channels + group * (layer.channels / layer.groups)) * size +
        Index(y) * layer.input.width + x;
    const T* radius = matrix ? second : second_bias;
    return {(matrix ? first : first_bias) + at, radius == nullptr ? nullptr : radius + at, y, x};
  }
  LBP_DEVICE RightState right(Index column, Index begin) const {
    return column < columns ? layer.weight + (group * columns + column) * depth + begin : nullptr;
  }

  LBP_DEVICE void prepare(Stage& stage, Index begin, int thread, int) const {
    if (thread >= kStageDepth) return;
    stage.entries[thread] = {0, kOutside, 0};
    if (begin + thread >= depth) return;
    const int k = int(begin) + thread, entries = layer.kernel.height * layer.kernel.width;
    const int channel = k / entries, entry = k - channel * entries;
    const int y = entry / layer.kernel.width * layer.dilation.height;
    const int x = entry % layer.kernel.width * layer.dilation.width;
    stage.entries[thread] = {(channel * layer.input.height + y) * layer.input.width + x, y, x};
  }

  LBP_DEVICE void load_left(const LeftState& state, const Stage& stage, const Step& step, LeftLoad (&loads)[1]) const {
    const Entry entry = stage.entries[step.k];
    loads[0] = {T(0), T(0)};
    const bool inside = is_inside(state.y + entry.y, state.x + entry.x, layer.input);
    if (inside) loads[0].first = read(state.first + entry.offset);
    if constexpr (kInterval) {
      // Both lie in memory alike: a second pointer would take registers that the sums need.
      if (inside) loads[0].second = read(second + (state.first + entry.offset - first));
    } else {
      if (inside & (state.second != nullptr)) loads[0].second = read(state.second + entry.offset);
    }
  }

  LBP_DEVICE Pair<T> left_values(const LeftLoad& load, const LeftState&, const Stage&, int, double&) const {
    if constexpr (kInterval) {
      return center_and_radius(load.first, load.second, by);
    } else {
      return load;
    }
  }

  template <int kCount>
  LBP_DEVICE void load_right(RightState row, const Stage&, const Step& step, Pair<T> (&loads)[kCount]) const {
    load_rows<kCount, T>(row, nullptr, step, loads);
  }

  // A pixel of the output, in all channels.
  struct OutputRow {
    const ConvolutionProduct& of;
    T* first;     // in the group's first channel
    T* second;    // or null
    bool matrix;  // not of the biases
    T margin_of_example;
    int pixels;

    // What is stored of a sum and of the one by magnitudes.
    LBP_DEVICE Pair<T> results(Index column, T center, T radius) const {
      const Index channel = of.group * of.columns + column;
      const T offset = of.layer.bias == nullptr ? T(0) : of.layer.bias[channel];
      if constexpr (!kInterval) return {matrix ? center : center + offset, radius};
      const bool outward = of.margin != nullptr;
      if (outward) radius += of.margin[channel];
      if (of.margin_of_example != nullptr) radius += margin_of_example;
      return {lower_end(center + offset, radius, outward), upper_end(center + offset, radius, outward)};
    }

    LBP_DEVICE void store(Index column, T center, T radius) const {
      const Pair<T> values = results(column, center, radius);
      first[column * pixels] = values.first;
      if (kInterval || second != nullptr) second[column * pixels] = values.second;
    }
    LBP_DEVICE void store(Index column, const Pack<T>& centers, const Pack<T>& radii) const {
      Pack<T> firsts, seconds;
#pragma unroll
      for (int i = 0; i < kOwn<T>; ++i) {
        const Pair<T> values = results(column, centers[i], radii[i]);
        firsts[i] = values.first;
        seconds[i] = values.second;
      }
      write_pack(first + column * pixels, firsts);
      if (kInterval || second != nullptr) write_pack(second + column * pixels, seconds);
    }
  };
  LBP_DEVICE bool has_rows_in_packs() const {
    return layer.output.height * layer.output.width % kOwn<T> == 0 && is_aligned(first_out) && is_aligned(second_out) &&
           is_aligned(first_bias_out) && is_aligned(second_bias_out);
  }
  LBP_DEVICE OutputRow output(Index row) const {
    const int pixels = layer.output.height * layer.output.width;
    const Index image = quotient(row, pixels);
    const bool matrix = image < images;
    const Index at =
        ((matrix ? image : image - images) * layer.out_channels + group * columns) * pixels + row - image * pixels;
    T* const radius_out = matrix ? second_out : second_bias_out;
    return {*this,
            (matrix ? first_out : first_bias_out) + at,
            radius_out == nullptr ? nullptr : radius_out + at,
            matrix,
            margin_of_example == nullptr ? T(0) : margin_of_example[image],
            pixels};
  }
  LBP_DEVICE void store_constant(Index, double) const {}
};

}  // namespace lbp::cuda
