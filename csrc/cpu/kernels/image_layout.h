// Images as sums over windows read them, and where the results go. An output row's neighbours read the same input,
// which is laid out once for a band of rows: with its padding around it, and the columns and rows that a stride brings
// together side by side, so that every term of a sum reads at one distance from where the output's position begins.
#pragma once

#include <memory>
#include <vector>

#include "cpu/kernels/simd.h"
#include "cpu/kernels/tile.h"

namespace lbp::LBP_ISA {

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

// How far the sums of an output's position reach into the input: of it, the planes of rows and columns that are a
// stride apart, from `padding` rows before the first one on, and of every plane as many rows and columns as there are
// positions, and `span` more.
struct Reach {
  Index stride[2], phases[2], padding[2], span[2];

  // Of a convolution.
  explicit Reach(const ConvolutionSizes& sizes) {
    for (int i = 0; i < 2; ++i) {
      const Index last = sizes.dilation[i] * (sizes.kernel[i] - 1);
      stride[i] = sizes.stride[i];
      phases[i] = minimum(sizes.stride[i], last + 1);
      padding[i] = sizes.padding[i];
      span[i] = last / sizes.stride[i];
    }
  }

  // Of sums over neighbours.
  Reach(const Index (&before)[2], const Index (&more)[2])
      : stride{1, 1}, phases{1, 1}, padding{before[0], before[1]}, span{more[0], more[1]} {}
};

// The input of a band of output rows: for every channel of one group the planes [phases[0], phases[1]].
template <typename T>
class ImageLayout {
 public:
  static constexpr Index kSize = Vector<T>::kSize;

  // Of `channels` of images [channels, height, width], for `rows` rows of `columns` positions.
  ImageLayout(Index channels, Index height, Index width, const Reach& reach, Index rows, Index columns)
      : channels_(channels),
        height_(height),
        width_(width),
        reach_(reach),
        pitch_(columns + reach.span[1]),
        rows_(rows + reach.span[0]),
        plane_((rows_ - 1) * pitch_ + (quotient_up(pitch_, kSize) + 1) * kSize),
        padded_width_((quotient_up(pitch_, kSize) * kSize + 1) * reach.stride[1]) {}

  // The distance of a position from the one above.
  Index pitch() const { return pitch_; }
  // Numbers that the layout takes; a vector may begin at the last position.
  Index size() const { return channels_ * reach_.phases[0] * reach_.phases[1] * plane_; }
  // Numbers of the room for a row with its padding.
  Index padded_width() const { return padded_width_; }

  // The distance from where a position begins of row y and column x of the first channel's padded rows.
  Index offset(Index y, Index x) const {
    const Index *stride = reach_.stride, *phases = reach_.phases;
    const Index phase = y % stride[0] * phases[1] + x % stride[1];
    return phase * plane_ + y / stride[0] * pitch_ + x / stride[1];
  }

  // The distances of every channel's terms, from those of the first one's.
  std::vector<Index> of_channels(const std::vector<Index>& first) const {
    const Index channel_size = reach_.phases[0] * reach_.phases[1] * plane_;
    std::vector<Index> result;
    result.reserve(size_t(channels_) * first.size());
    for (Index channel = 0; channel < channels_; ++channel) {
      for (const Index at : first) result.push_back(channel * channel_size + at);
    }
    return result;
  }

  // The distances of what each term of a convolution's sum reads.
  std::vector<Index> offsets(const ConvolutionSizes& sizes) const {
    std::vector<Index> first;
    for (Index i = 0; i < sizes.kernel[0]; ++i) {
      for (Index j = 0; j < sizes.kernel[1]; ++j) {
        first.push_back(offset(i * sizes.dilation[0], j * sizes.dilation[1]));
      }
    }
    return of_channels(first);
  }

  // Lays out what output rows from `first_row` on read of the channels from `first_channel` on, counted through all
  // images. load(at, size, columns) writes the `size` numbers at `at` of each of kParts arrays, the parts
  // padded_width() apart; `padded` is room for a row of each, zero at first, and the parts of `planes` are size()
  // apart.
  template <int kParts, typename Load>
  void lay_out(Index first_channel, Index first_row, const Load& load, T* padded, T* planes) const {
    const Index columns = minimum(width_, padded_width_ - reach_.padding[1]);
    T* to = planes;
    for (Index channel = first_channel; channel < first_channel + channels_; ++channel) {
      // In the order in which the rows lie in memory.
      for (Index row = 0; row < rows_; ++row) {
        for (Index phase = 0; phase < reach_.phases[0]; ++phase) {
          const Index y = (first_row + row) * reach_.stride[0] + phase - reach_.padding[0];
          const bool inside = y >= 0 && y < height_;
          if (inside) load((channel * height_ + y) * width_, columns, padded + reach_.padding[1]);
          for (int part = 0; part < kParts; ++part) {
            spread_row(padded + part * padded_width_, inside, row,
                       to + phase * reach_.phases[1] * plane_ + part * size());
          }
        }
      }
      to += reach_.phases[0] * reach_.phases[1] * plane_;
    }
  }

 private:
  // Writes a row of each plane, zeros for one outside, in whole vectors: the next row writes over what is too much.
  void spread_row(const T* padded, bool inside, Index row, T* planes) const {
    for (Index phase = 0; phase < reach_.phases[1]; ++phase) {
      T* to = planes + phase * plane_ + row * pitch_;
      const Index end = row + 1 < rows_ ? pitch_ : pitch_ + kSize;
      for (Index j = 0; j < end; j += kSize) {
        if (!inside || j >= pitch_) {
          store_vector(to + j, typename Vector<T>::Type{});
        } else if (reach_.stride[1] == 1) {
          store_vector(to + j, load_vector(padded + j));
        } else if (reach_.stride[1] == 2) {
          const T* from = padded + 2 * j + phase;
          store_vector(to + j, every_other<T>(load_vector(from), load_vector(from + kSize)));
        } else {
          for (Index i = 0; i < kSize; ++i) to[j + i] = padded[(j + i) * reach_.stride[1] + phase];
        }
      }
    }
  }

  const Index channels_, height_, width_;
  const Reach reach_;
  const Index pitch_, rows_, plane_, padded_width_;
};

// Writes `size` centers and radii: two arrays as they are, or made of them where they are ends.
template <typename T>
void load_pair(const T* first, const T* second, bool of_ends, Index size, T* __restrict center, T* __restrict radius) {
  if (!of_ends) {
    for (Index j = 0; j < size; ++j) center[j] = first[j];
    for (Index j = 0; j < size; ++j) radius[j] = second[j];
    return;
  }
  for (Index j = 0; j < size; ++j) {
    center[j] = interval_center(first[j], second[j]);
    radius[j] = interval_radius(first[j], second[j]);
  }
}

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

  // How many vectors of `size` lanes.
  static Index vectors(Index rows, Index width, Index pitch, Index size) {
    return minimum(rows * quotient_up(width, size), quotient_up((rows - 1) * pitch + width, size));
  }

  Positions(Index rows, Index width, Index pitch, Index size) {
    const Index of_row = quotient_up(width, size), end = (rows - 1) * pitch + width;
    if (rows * of_row == vectors(rows, width, pitch, size)) {
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

// The output rows of all images and groups of them (layers), taken in bands.
template <typename T>
class Bands {
 public:
  // Layers have `channels` inputs [height, width] each, and rows x columns positions, at each of which `products` are
  // added up; `parts` arrays are laid out.
  Bands(Index layers, Index channels, Index height, Index width, const Reach& reach, Index rows, Index columns,
        Index products, Index threads, int parts)
      : layers_(layers),
        channels_(channels),
        rows_(rows),
        // Vectors of products of a row, each a few of the numbers that a pass touches.
        row_cost_(quotient_up(columns, Vector<T>::kSize) * products),
        count_(count_of(columns, threads, parts,
                        [&](Index count) { return ImageLayout<T>(channels, height, width, reach, count, columns); })),
        layout_(channels, height, width, reach, most_rows(), columns) {}

  const ImageLayout<T>& layout() const { return layout_; }
  // Rows of the highest band.
  Index most_rows() const { return quotient_up(rows_, count_); }

  // Lays each band out and calls body(layer, first row, rows, planes, room), with room for as many numbers more; parts
  // are layout().size() apart. load(at, size, columns, distance) as `ImageLayout::lay_out` wants it, the parts
  // `distance` apart.
  template <int kParts, typename Load, typename Body>
  void for_each(Index room, const Load& load, const Body& body) const {
    parallel_for(layers_ * count_, most_rows() * row_cost_, [&](Index first, Index last) {
      const Index laid_out = kParts * layout_.size(), distance = layout_.padded_width();
      const std::unique_ptr<T[]> planes(new T[size_t(laid_out + room)]);
      std::vector<T> padded(size_t(kParts * distance));
      for (Index item = first; item < last; ++item) {
        const Index layer = item / count_, band = item % count_;
        const Index begin = rows_ * band / count_, end = rows_ * (band + 1) / count_;
        layout_.template lay_out<kParts>(
            layer * channels_, begin, [&](Index at, Index size, T* to) { load(at, size, to, distance); }, padded.data(),
            planes.get());
        body(layer, begin, end - begin, planes.get(), planes.get() + laid_out);
      }
    });
  }

 private:
  // How many bands: so that all threads are done soonest which have work, and that what is laid out stays in a cache.
  template <typename LayoutOf>
  Index count_of(Index columns, Index threads, int parts, const LayoutOf& layout_of) const {
    const Index busy = minimum(threads, maximum(1, layers_ * rows_ * row_cost_ / kGrain));
    Index bands = 1, least = 0;
    for (Index count = 1; count <= minimum(busy, rows_); ++count) {
      const Index rows = quotient_up(rows_, count);
      const Index vectors = Positions::vectors(rows, columns, layout_of(rows).pitch(), Vector<T>::kSize);
      const Index longest = quotient_up(layers_ * count, busy) * vectors;
      if (count > 1 && longest >= least) continue;
      bands = count;
      least = longest;
    }
    const auto bytes = [&] { return parts * layout_of(quotient_up(rows_, bands)).size() * Index(sizeof(T)); };
    while (bands < rows_ && bytes() > kBandBytes) ++bands;
    return bands;
  }

  const Index layers_, channels_, rows_, row_cost_, count_;
  const ImageLayout<T> layout_;
};

}  // namespace lbp::LBP_ISA
