// Intervals through a convolution: `W c + b -/+ (|W| r + margins)`, both sums from one read of the weights and in
// registers from the first product to the last.
#include <vector>

#include "cpu/kernels/image_layout.h"
#include "cpu/kernels/table.h"

namespace lbp::LBP_ISA {
namespace {

// Vectors of positions and output channels of one tile of sums: those of centers and of radii fill the registers.
constexpr Index kVectors = kVectorRegisters == 32 ? 2 : 1, kOutputs = 6;

// Writes centers and radii of `size` inputs from `at` on.
template <typename T>
void load_centers_and_radii(const IntervalConvolutionArguments<T>& args, Index at, Index size, T* __restrict center,
                            T* __restrict radius) {
  const T* first = args.first + at;
  const T* second = args.second + at;
  if (!args.of_ends || args.by.relative == T(0)) {
    load_pair(first, second, args.of_ends, size, center, radius);
  } else {
    const Widening<T> by = args.by;
    for (Index j = 0; j < size; ++j) {
      const T middle = interval_center(first[j], second[j]);
      center[j] = middle;
      radius[j] = widened(middle, interval_radius(first[j], second[j]), by);
    }
  }
}

// The results of output channels at vectors of positions.
template <typename T>
struct Tile {
  typename Vector<T>::Type first[kOutputs][kVectors], second[kOutputs][kVectors];
};

// What a tile of results is made of: where its positions begin in what is laid out, and the weights, `terms` of each
// output channel.
template <typename T>
struct TileSums {
  const IntervalConvolutionArguments<T>& args;
  const T* center[kVectors];
  const T* radius[kVectors];
  const Index* offsets;
  Index terms, output;
  T margin_of_example;

  // O output channels at V vectors of positions.
  template <int O, int V>
  void make(Tile<T>& tile) const {
    using Lanes = typename Vector<T>::Type;
    Lanes at_center[O][V], spread[O][V];
#pragma GCC unroll 6
    for (int o = 0; o < O; ++o) {
      const T bias = args.bias == nullptr ? T(0) : args.bias[output + o];
      const T margin = args.margin == nullptr ? T(0) : args.margin[output + o];
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) {
        at_center[o][v] = broadcast(bias);
        spread[o][v] = broadcast(margin);
      }
    }
    const T* const weight = args.weight + output * terms;
    for (Index k = 0; k < terms; ++k) {
      const Index at = offsets[k];
      Lanes c[V], r[V];
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) {
        c[v] = load_vector(center[v] + at);
        r[v] = load_vector(radius[v] + at);
      }
#pragma GCC unroll 6
      for (int o = 0; o < O; ++o) {
        const Lanes w = broadcast(weight[o * terms + k]), absolute_w = magnitude<T>(w);
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) {
          at_center[o][v] = multiply_add(w, c[v], at_center[o][v]);
          spread[o][v] = multiply_add(absolute_w, r[v], spread[o][v]);
        }
      }
    }
#pragma GCC unroll 6
    for (int o = 0; o < O; ++o) {
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) {
        const Lanes half = args.margin_of_example == nullptr ? spread[o][v] : spread[o][v] + margin_of_example;
        tile.first[o][v] = args.of_ends ? at_center[o][v] - half : at_center[o][v];
        tile.second[o][v] = args.of_ends ? at_center[o][v] + half : half;
      }
    }
  }

  template <int O = int(kOutputs)>
  void make(Index outputs, Index vectors, Tile<T>& tile) const {
    if constexpr (O > 1) {
      if (outputs < O) return make<O - 1>(outputs, vectors, tile);
    }
    if (vectors == kVectors) return make<O, int(kVectors)>(tile);
    make<O, 1>(tile);
  }
};

// The output rows of one band, of an image and group whose input is laid out.
template <typename T>
class Band {
 public:
  static constexpr Index kSize = Vector<T>::kSize;

  Band(const IntervalConvolutionArguments<T>& args, Index pitch, Index rows, const std::vector<Index>& offsets)
      : args_(args), positions_(rows, args.sizes.output_width, pitch, kSize), offsets_(offsets) {}

  void run(Index image, Index group, Index first_row, const T* center, const T* radius) const {
    const Index outputs = args_.sizes.outputs / args_.sizes.groups, blocks = quotient_up(outputs, kOutputs);
    const Index vectors = positions_.count();
    for (Index block = 0; block < blocks; ++block) {
      const Index begin = group * outputs + outputs * block / blocks;
      const Index end = group * outputs + outputs * (block + 1) / blocks;
      for (Index vector = 0; vector < vectors; vector += kVectors) {
        run_tile(image, first_row, begin, end - begin, vector, minimum(kVectors, vectors - vector), center, radius);
      }
    }
  }

 private:
  void run_tile(Index image, Index first_row, Index output, Index outputs, Index vector, Index vectors, const T* center,
                const T* radius) const {
    const T of_example = args_.margin_of_example == nullptr ? T(0) : args_.margin_of_example[image];
    TileSums<T> sums = {args_, {}, {}, offsets_.data(), Index(offsets_.size()), output, of_example};
    for (Index v = 0; v < vectors; ++v) {
      sums.center[v] = center + positions_.start(vector + v);
      sums.radius[v] = radius + positions_.start(vector + v);
    }
    Tile<T> tile;
    sums.make(outputs, vectors, tile);
    if (args_.of_ends && args_.margin != nullptr) keep_bounds(outputs, vectors, tile);
    const ConvolutionSizes& sizes = args_.sizes;
    const Index size = sizes.output_height * sizes.output_width;
    const Index channel = (image * sizes.outputs + output) * size + first_row * sizes.output_width;
    for (Index v = 0; v < vectors; ++v) {
      const Positions::Run* const end = positions_.first_run(vector + v + 1);
      for (const Positions::Run* run = positions_.first_run(vector + v); run < end; ++run) {
        T* first = args_.first_result + channel + run->to;
        T* second = args_.second_result + channel + run->to;
        for (Index o = 0; o < outputs; ++o, first += size, second += size) {
          store_lanes(first, tile.first[o][v], run->lane, run->count);
          store_lanes(second, tile.second[o][v], run->lane, run->count);
        }
      }
    }
  }

  // Infinite bounds on the wrong side are none: partial sums of a finite number may overflow.
  static void keep_bounds(Index outputs, Index vectors, Tile<T>& tile) {
    for (Index o = 0; o < outputs; ++o) {
      for (Index v = 0; v < vectors; ++v) {
        for (Index i = 0; i < kSize; ++i) {
          tile.first[o][v][i] = lower_end(tile.first[o][v][i], T(0), true);
          tile.second[o][v][i] = upper_end(tile.second[o][v][i], T(0), true);
        }
      }
    }
  }

  const IntervalConvolutionArguments<T>& args_;
  const Positions positions_;
  const std::vector<Index>& offsets_;
};

}  // namespace

template <typename T>
void convolve_intervals(const IntervalConvolutionArguments<T>& args) {
  const ConvolutionSizes& sizes = args.sizes;
  const Index groups = sizes.groups, outputs = sizes.outputs / groups, channels = sizes.channels / groups;
  const Bands<T> bands(sizes.batch * groups, channels, sizes.height, sizes.width, Reach(sizes), sizes.output_height,
                       sizes.output_width, outputs * channels * sizes.kernel[0] * sizes.kernel[1], args.threads, 2);
  const ImageLayout<T>& layout = bands.layout();
  const std::vector<Index> offsets = layout.offsets(sizes);
  const auto load = [&](Index at, Index size, T* to, Index distance) {
    load_centers_and_radii(args, at, size, to, to + distance);
  };
  bands.template for_each<2>(0, load, [&](Index layer, Index first, Index rows, const T* planes, T*) {
    const Band<T> band(args, layout.pitch(), rows, offsets);
    band.run(layer / groups, layer % groups, first, planes, planes + layout.size());
  });
}

template void convolve_intervals(const IntervalConvolutionArguments<float>&);
template void convolve_intervals(const IntervalConvolutionArguments<double>&);

}  // namespace lbp::LBP_ISA
