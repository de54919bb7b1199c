// Intervals through a convolution: `W c + b -/+ (|W| r + margins)`, both sums from one read of the weights and in
// registers from the first product to the last. An output row's neighbours read the same input, which is laid out once
// for a band of rows: with its padding around it, and the columns and rows that a stride brings together side by side,
// so that every tap reads at one distance from where the output's position begins.
#include <algorithm>
#include <memory>
#include <numeric>
#include <vector>

#include "cpu/kernels/simd.h"
#include "cpu/kernels/table.h"
#include "cpu/kernels/tile.h"

namespace lbp::LBP_ISA {
namespace {

// Vectors of positions and output channels of one tile of sums: those of centers and of radii fill the registers.
constexpr Index kVectors = kVectorRegisters == 32 ? 2 : 1, kOutputs = 6;

// What is laid out at a time leaves half of the second cache to weights and results.
constexpr Index kBandBytes = Index(512) << 10;

// The first, third, ... lane of two vectors.
template <typename T>
typename Vector<T>::Type every_other(typename Vector<T>::Type a, typename Vector<T>::Type b) {
  constexpr Index kSize = Vector<T>::kSize;
#if defined(__clang__)
  typename Vector<T>::Type result;
  for (Index i = 0; i < kSize; ++i) result[i] = 2 * i < kSize ? a[2 * i] : b[2 * i - kSize];
  return result;
#else
  decltype(a < b) lanes;
  for (Index i = 0; i < kSize; ++i) lanes[i] = int(2 * i);
  return __builtin_shuffle(a, b, lanes);
#endif
}

// Where a band of output rows finds its input: for every channel the planes [phases(0), phases(1)] of the rows and
// columns that are a stride apart.
template <typename T>
class Layout {
 public:
  static constexpr Index kSize = Vector<T>::kSize;

  Layout(const IntervalConvolutionArguments<T>& args, Index rows)
      : args_(args),
        channels_(args.channels / args.groups),
        phases_{phases_of(0), phases_of(1)},
        pitch_(args.output_width + args.dilation[1] * (args.kernel[1] - 1) / args.stride[1]),
        rows_(rows + args.dilation[0] * (args.kernel[0] - 1) / args.stride[0]),
        plane_((rows_ - 1) * pitch_ + (quotient_up(pitch_, kSize) + 1) * kSize),
        padded_width_((quotient_up(pitch_, kSize) * kSize + 1) * args.stride[1]) {}

  // The distance of a position from the one above.
  Index pitch() const { return pitch_; }
  // Numbers that the centers, or the radii, take; a vector may begin at the last position.
  Index size() const { return channels_ * phases_[0] * phases_[1] * plane_ + kVectors * kSize; }
  // Numbers of the room for a row with its padding.
  Index padded_width() const { return padded_width_; }

  // The distance from an output's position of what each term of its sum reads.
  std::vector<Index> offsets() const {
    std::vector<Index> result;
    result.reserve(size_t(channels_ * args_.kernel[0] * args_.kernel[1]));
    for (Index channel = 0; channel < channels_; ++channel) {
      for (Index i = 0; i < args_.kernel[0]; ++i) {
        for (Index j = 0; j < args_.kernel[1]; ++j) {
          const Index y = i * args_.dilation[0], x = j * args_.dilation[1];
          const Index phase = y % args_.stride[0] * phases_[1] + x % args_.stride[1];
          const Index at = y / args_.stride[0] * pitch_ + x / args_.stride[1];
          result.push_back((channel * phases_[0] * phases_[1] + phase) * plane_ + at);
        }
      }
    }
    return result;
  }

  // Writes centers and radii of what output rows from `first_row` on of an image and group read; `padded` is room for a
  // row of both, zero at first.
  void lay_out(Index image, Index group, Index first_row, T* padded, T* center, T* radius) const {
    const Index first_channel = (image * args_.groups + group) * channels_;
    for (Index channel = first_channel; channel < first_channel + channels_; ++channel) {
      for (Index phase = 0; phase < phases_[0]; ++phase) {
        for (Index row = 0; row < rows_; ++row) {
          const Index y = (first_row + row) * args_.stride[0] + phase - args_.padding[0];
          const bool inside = y >= 0 && y < args_.height;
          if (inside) load_row((channel * args_.height + y) * args_.width, padded);
          spread_row(padded, inside, row, center);
          spread_row(padded + padded_width_, inside, row, radius);
        }
        center += phases_[1] * plane_;
        radius += phases_[1] * plane_;
      }
    }
    std::fill(center, center + kVectors * kSize, T(0));
    std::fill(radius, radius + kVectors * kSize, T(0));
  }

 private:
  Index phases_of(int axis) const {
    return minimum(args_.stride[axis], args_.dilation[axis] * (args_.kernel[axis] - 1) + 1);
  }

  // Writes the input row that begins at `at` between its padding.
  void load_row(Index at, T* padded) const {
    const Index size = minimum(args_.width, padded_width_ - args_.padding[1]);
    const T* first = args_.first + at;
    const T* second = args_.second + at;
    T* __restrict center = padded + args_.padding[1];
    T* __restrict radius = center + padded_width_;
    if (!args_.of_ends) {
      for (Index j = 0; j < size; ++j) center[j] = first[j];
      for (Index j = 0; j < size; ++j) radius[j] = second[j];
    } else if (args_.by.relative == T(0)) {
      for (Index j = 0; j < size; ++j) {
        center[j] = interval_center(first[j], second[j]);
        radius[j] = interval_radius(first[j], second[j]);
      }
    } else {
      const Widening<T> by = args_.by;
      for (Index j = 0; j < size; ++j) {
        const T middle = interval_center(first[j], second[j]);
        center[j] = middle;
        radius[j] = widened(middle, interval_radius(first[j], second[j]), by);
      }
    }
  }

  // Writes a row of each plane, zeros for one outside, in whole vectors: the next row writes over what is too much.
  void spread_row(const T* padded, bool inside, Index row, T* planes) const {
    for (Index phase = 0; phase < phases_[1]; ++phase) {
      T* to = planes + phase * plane_ + row * pitch_;
      const Index end = row + 1 < rows_ ? pitch_ : pitch_ + kSize;
      for (Index j = 0; j < end; j += kSize) {
        if (!inside || j >= pitch_) {
          store_vector(to + j, typename Vector<T>::Type{});
        } else if (args_.stride[1] == 1) {
          store_vector(to + j, load_vector(padded + j));
        } else if (args_.stride[1] == 2) {
          const T* from = padded + 2 * j + phase;
          store_vector(to + j, every_other<T>(load_vector(from), load_vector(from + kSize)));
        } else {
          for (Index i = 0; i < kSize; ++i) to[j + i] = padded[(j + i) * args_.stride[1] + phase];
        }
      }
    }
  }

  const IntervalConvolutionArguments<T>& args_;
  const Index channels_, phases_[2], pitch_, rows_, plane_, padded_width_;
};

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

// Stores `count` lanes of a vector, from `lane` on.
template <typename T>
void store_lanes(T* to, const typename Vector<T>::Type& value, Index lane, Index count) {
#if defined(__AVX512F__)
  const unsigned lanes = ((1u << count) - 1) << lane;
  if constexpr (sizeof(T) == sizeof(float)) {
    _mm512_mask_storeu_ps(to - lane, __mmask16(lanes), __m512(value));
  } else {
    _mm512_mask_storeu_pd(to - lane, __mmask8(lanes), __m512d(value));
  }
#else
  for (Index i = 0; i < count; ++i) to[i] = value[lane + i];
#endif
}

// The vectors of positions of so many output rows: every row has its own, unless fewer run through rows and what lies
// between.
class Positions {
 public:
  // Lanes of a vector that belong to one row of the output, and where they go.
  struct Run {
    Index lane, count, to;
  };

  Positions(Index rows, Index width, Index pitch, Index size) {
    const Index of_row = quotient_up(width, size), end = (rows - 1) * pitch + width, through = quotient_up(end, size);
    if (rows * of_row <= through) {
      for (Index row = 0; row < rows; ++row) {
        for (Index i = 0; i < of_row; ++i) {
          // The last one of a row begins so that it ends there.
          const Index column = minimum(i * size, maximum(0, width - size));
          begin(row * pitch + column);
          runs_.push_back({0, minimum(size, width), row * width + column});
        }
      }
    } else {
      for (Index at = 0; at < end; at += size) {
        begin(at);
        for (Index row = at / pitch; row < rows && row * pitch < at + size; ++row) {
          const Index from = maximum(at, row * pitch), to = minimum(at + size, row * pitch + width);
          if (from < to) runs_.push_back({from - at, to - from, row * width + from - row * pitch});
        }
      }
    }
    first_run_.push_back(Index(runs_.size()));
  }

  Index count() const { return Index(starts_.size()); }
  Index start(Index vector) const { return starts_[size_t(vector)]; }
  const Run* first_run(Index vector) const { return runs_.data() + first_run_[size_t(vector)]; }

 private:
  void begin(Index start) {
    starts_.push_back(start);
    first_run_.push_back(Index(runs_.size()));
  }

  std::vector<Index> starts_, first_run_;
  std::vector<Run> runs_;
};

// The output rows of one band, of an image and group whose input is laid out.
template <typename T>
class Band {
 public:
  static constexpr Index kSize = Vector<T>::kSize;

  Band(const IntervalConvolutionArguments<T>& args, Index pitch, Index rows, const Index* offsets)
      : args_(args),
        positions_(rows, args.output_width, pitch, kSize),
        offsets_(offsets),
        terms_(args.channels / args.groups * args.kernel[0] * args.kernel[1]) {}

  void run(Index image, Index group, Index first_row, const T* center, const T* radius) const {
    const Index outputs = args_.outputs / args_.groups, blocks = quotient_up(outputs, kOutputs);
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
    TileSums<T> sums = {args_, {}, {}, offsets_, terms_, output, of_example};
    for (Index v = 0; v < vectors; ++v) {
      sums.center[v] = center + positions_.start(vector + v);
      sums.radius[v] = radius + positions_.start(vector + v);
    }
    Tile<T> tile;
    sums.make(outputs, vectors, tile);
    if (args_.of_ends && args_.margin != nullptr) keep_bounds(outputs, vectors, tile);
    const Index size = args_.output_height * args_.output_width;
    const Index channel = (image * args_.outputs + output) * size + first_row * args_.output_width;
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
  const Index* offsets_;
  const Index terms_;
};

}  // namespace

template <typename T>
void convolve_intervals(const IntervalConvolutionArguments<T>& args) {
  const Index layers = args.batch * args.groups, height = args.output_height;
  const Index outputs = args.outputs / args.groups,
              terms = args.channels / args.groups * args.kernel[0] * args.kernel[1];
  // Vectors of products of a row of the output, each a few of the numbers that a pass touches.
  const Index row_cost = quotient_up(args.output_width, Vector<T>::kSize) * outputs * terms;
  const Index threads = minimum(args.threads, maximum(1, layers * height * row_cost / kGrain));
  Index bands = minimum(height, threads / std::gcd(threads, layers));
  while (bands < height && 2 * Layout<T>(args, quotient_up(height, bands)).size() * Index(sizeof(T)) > kBandBytes)
    ++bands;
  const Index most_rows = quotient_up(height, bands);
  const Layout<T> layout(args, most_rows);
  const std::vector<Index> offsets = layout.offsets();
  parallel_for(layers * bands, most_rows * row_cost, [&](Index first, Index last) {
    const std::unique_ptr<T[]> center(new T[size_t(2 * layout.size())]);
    T* const radius = center.get() + layout.size();
    std::vector<T> padded(size_t(2 * layout.padded_width()));
    for (Index item = first; item < last; ++item) {
      const Index layer = item / bands, band = item % bands;
      const Index begin = height * band / bands, end = height * (band + 1) / bands;
      const Index image = layer / args.groups, group = layer % args.groups;
      layout.lay_out(image, group, begin, padded.data(), center.get(), radius);
      Band<T>(args, layout.pitch(), end - begin, offsets.data()).run(image, group, begin, center.get(), radius);
    }
  });
}

template void convolve_intervals(const IntervalConvolutionArguments<float>&);
template void convolve_intervals(const IntervalConvolutionArguments<double>&);

}  // namespace lbp::LBP_ISA
