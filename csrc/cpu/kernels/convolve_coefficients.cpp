// Coefficients through a convolution: its transposed convolution, and the convolution that is the gradient of that.
// Results of the transposed one that are a stride apart are sums of A's neighbours as those of a convolution are, with
// the taps of the kernel that meet there.
#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "cpu/kernels/image_layout.h"
#include "cpu/kernels/table.h"

namespace lbp::LBP_ISA {
namespace {

// Output channels of a tile of sums, and its vectors of positions: together they fill the registers, and are enough
// that no sum waits for itself. Coefficients have one part, intervals two: `W center` and `|W| radius`.
constexpr int most_outputs(int parts) { return kVectorRegisters == 32 && parts == 1 ? 8 : 6; }
constexpr int most_vectors(int outputs, int parts) {
  if (parts == 2) return outputs <= 2 ? (kVectorRegisters == 32 ? 4 : 2) : (kVectorRegisters == 32 ? 2 : 1);
  if (outputs <= 2) return kVectorRegisters == 32 ? 8 : 4;
  return kVectorRegisters == 32 ? 3 : 2;
}

// The sums of output channels at vectors of positions.
template <typename T, int kParts>
struct Results {
  typename Vector<T>::Type sums[kParts][most_outputs(kParts)][most_vectors(1, kParts)];
};

// Where the sums of a tile begin in what is laid out, and the distances, weights and first value of their terms.
template <typename T, int kParts>
struct Sums {
  const T* from[most_vectors(1, kParts)];
  Index distance;  // of the parts
  const std::vector<Index>& offsets;
  const T* weight;   // [outputs, terms]
  const T* initial;  // [outputs] or null

  template <int O, int V>
  void make(Results<T, kParts>& results) const {
    using Lanes = typename Vector<T>::Type;
    const Index terms = Index(offsets.size());
    Lanes sums[kParts][O][V];
#pragma GCC unroll 8
    for (int o = 0; o < O; ++o) {
      const Lanes first = broadcast(initial == nullptr ? T(0) : initial[o]);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sums[0][o][v] = first;
      if constexpr (kParts == 2) {
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sums[1][o][v] = Lanes{};
      }
    }
    for (Index k = 0; k < terms; ++k) {
      const Index at = offsets[size_t(k)];
      Lanes x[kParts][V];
#pragma GCC unroll 2
      for (int part = 0; part < kParts; ++part) {
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) x[part][v] = load_vector(from[v] + part * distance + at);
      }
#pragma GCC unroll 8
      for (int o = 0; o < O; ++o) {
        const Lanes w = broadcast(weight[o * terms + k]);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sums[0][o][v] = multiply_add(w, x[0][v], sums[0][o][v]);
        if constexpr (kParts == 2) {
          const Lanes absolute_w = magnitude<T>(w);
#pragma GCC unroll 8
          for (int v = 0; v < V; ++v) sums[1][o][v] = multiply_add(absolute_w, x[1][v], sums[1][o][v]);
        }
      }
    }
#pragma GCC unroll 2
    for (int part = 0; part < kParts; ++part) {
#pragma GCC unroll 8
      for (int o = 0; o < O; ++o) {
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) results.sums[part][o][v] = sums[part][o][v];
      }
    }
  }

  template <int O = most_outputs(kParts), int V = most_vectors(O, kParts)>
  void make(Index outputs, Index vectors, Results<T, kParts>& results) const {
    if constexpr (O > 1) {
      if (outputs < O) return make<O - 1>(outputs, vectors, results);
    }
    if constexpr (V > 1) {
      if (vectors < V) return make<O, V - 1>(outputs, vectors, results);
    }
    make<O, V>(results);
  }
};

// What sums are made of: the parts of what is laid out, and of each output channel `terms` weights.
template <typename T>
struct Operands {
  const T* planes;
  Index distance;  // of the parts
  const std::vector<Index>& offsets;
  const T* weight;   // [outputs, terms]
  const T* initial;  // [outputs] or null
};

// Where sums go: each channel's `plane` numbers behind the one before, of each part. Of ends: the two as
// `center -/+ radius`.
template <typename T, int kParts>
struct Destination {
  T* to[kParts];
  Index plane;
  bool of_ends;
};

// Writes the sums of `outputs` channels at all positions.
template <typename T, int kParts>
void write_sums(const Positions& positions, const Operands<T>& of, Index outputs, const Destination<T, kParts>& at) {
  const Index blocks = quotient_up(outputs, most_outputs(kParts)), vectors = positions.count();
  const Index terms = Index(of.offsets.size());
  for (Index block = 0; block < blocks; ++block) {
    const Index begin = outputs * block / blocks, count = outputs * (block + 1) / blocks - begin;
    const Index tiles = quotient_up(vectors, most_vectors(int(count), kParts));
    const T* initial = of.initial == nullptr ? nullptr : of.initial + begin;
    Sums<T, kParts> sums = {{}, of.distance, of.offsets, of.weight + begin * terms, initial};
    for (Index tile = 0; tile < tiles; ++tile) {
      const Index first = vectors * tile / tiles, width = vectors * (tile + 1) / tiles - first;
      for (Index v = 0; v < width; ++v) sums.from[v] = of.planes + positions.start(first + v);
      Results<T, kParts> results;
      sums.make(count, width, results);
      if constexpr (kParts == 2) {
        for (Index o = 0; o < count && at.of_ends; ++o) {
          for (Index v = 0; v < width; ++v) {
            const auto center = results.sums[0][o][v], radius = results.sums[1][o][v];
            results.sums[0][o][v] = center - radius;
            results.sums[1][o][v] = center + radius;
          }
        }
      }
      for (Index v = 0; v < width; ++v) {
        const Positions::Run* const end = positions.first_run(first + v + 1);
        for (const Positions::Run* run = positions.first_run(first + v); run < end; ++run) {
          for (int part = 0; part < kParts; ++part) {
            T* to = at.to[part] + begin * at.plane + run->to;
            for (Index o = 0; o < count; ++o) {
              store_lanes(to + o * at.plane, results.sums[part][o][v], run->lane, run->count);
            }
          }
        }
      }
    }
  }
}

// One axis of a transposed convolution. The results at phase + stride q, q < count, are sums of A at q + shift over the
// taps that meet there.
struct Axis {
  struct Tap {
    Index index, shift;
  };

  Axis(const ConvolutionSizes& sizes, int axis) : stride(sizes.stride[axis]) {
    const Index size = axis == 0 ? sizes.height : sizes.width;
    count = quotient_up(size, stride);
    Index last = 0;
    taps.resize(size_t(minimum(stride, size)));
    for (Index phase = 0; phase < Index(taps.size()); ++phase) {
      for (Index i = 0; i < sizes.kernel[axis]; ++i) {
        const Index distance = phase + sizes.padding[axis] - i * sizes.dilation[axis];
        if (distance % stride != 0) continue;
        taps[size_t(phase)].push_back({i, distance / stride});
        before = maximum(before, -(distance / stride));
        last = maximum(last, distance / stride);
      }
    }
    span = before + last;
  }

  Index stride, count;
  Index before = 0, span = 0;  // how far sums reach before q, and in all
  std::vector<std::vector<Tap>> taps;
};

// What the results of one phase of rows and of columns are made of.
template <typename T>
struct Phase {
  std::vector<Index> taps;      // of the kernel
  std::vector<Index> offsets;   // of every output channel's taps
  std::unique_ptr<T[]> weight;  // [groups, channels of a group, terms]
};

template <typename T>
std::vector<Phase<T>> phases_of(const ConvolutionSizes& sizes, const ImageLayout<T>& layout, const Axis& rows,
                                const Axis& columns) {
  std::vector<Phase<T>> result;
  for (const std::vector<Axis::Tap>& of_row : rows.taps) {
    for (const std::vector<Axis::Tap>& of_column : columns.taps) {
      Phase<T> phase;
      std::vector<Index> offsets;
      for (const Axis::Tap& row : of_row) {
        for (const Axis::Tap& column : of_column) {
          phase.taps.push_back(row.index * sizes.kernel[1] + column.index);
          offsets.push_back(layout.offset(rows.before + row.shift, columns.before + column.shift));
        }
      }
      phase.offsets = layout.of_channels(offsets);
      phase.weight.reset(new T[size_t(sizes.channels) * phase.offsets.size()]);
      result.push_back(std::move(phase));
    }
  }
  return result;
}

// Writes each phase's weights, a few channels at a time, whose lines stay in the caches.
template <typename T>
void pack_weight(const ConvolutionSizes& sizes, const T* weight, const std::vector<Phase<T>>& phases) {
  constexpr Index kChannels = 16;
  const Index outputs = sizes.outputs / sizes.groups, channels = sizes.channels / sizes.groups;
  const Index kernel = sizes.kernel[0] * sizes.kernel[1], blocks = quotient_up(channels, kChannels);
  parallel_for(sizes.groups * blocks, kChannels * outputs * kernel, [&](Index first, Index last) {
    for (Index item = first; item < last; ++item) {
      const Index group = item / blocks, begin = item % blocks * kChannels, end = minimum(channels, begin + kChannels);
      for (const Phase<T>& phase : phases) {
        const Index taps = Index(phase.taps.size());
        const Index* const of_kernel = phase.taps.data();
        for (Index output = 0; output < outputs && taps > 0; ++output) {
          for (Index channel = begin; channel < end; ++channel) {
            const T* __restrict from = weight + ((group * outputs + output) * channels + channel) * kernel;
            T* __restrict to = phase.weight.get() + ((group * channels + channel) * outputs + output) * taps;
            for (Index tap = 0; tap < taps; ++tap) to[tap] = from[of_kernel[tap]];
          }
        }
      }
    }
  });
}

// Writes a row of results from those of each phase of columns, which are `distance` apart.
template <typename T>
void weave(const T* __restrict phases, Index distance, Index stride, Index width, T* __restrict to) {
  if (stride == 2 && width > 1) {
    const T* __restrict second = phases + distance;
    for (Index j = 0; j < width / 2; ++j) {
      to[2 * j] = phases[j];
      to[2 * j + 1] = second[j];
    }
    if (width % 2 == 1) to[width - 1] = phases[width / 2];
    return;
  }
  for (Index phase = 0; phase < minimum(stride, width); ++phase, phases += distance) {
    for (Index j = phase; j < width; j += stride) to[j] = phases[j / stride];
  }
}

// The results of a band of rows of one image and group whose coefficients, or intervals, are laid out.
template <typename T, int kParts>
class TransposedBand {
 public:
  TransposedBand(const ConvolutionSizes& sizes, const Axis& rows, const Axis& columns,
                 const std::vector<Phase<T>>& phases, Index pitch, Index first, Index count)
      : sizes_(sizes),
        rows_(rows),
        columns_(columns),
        phases_(phases),
        positions_(count, columns.count, pitch, Vector<T>::kSize),
        first_(first),
        count_(count),
        channels_(sizes.channels / sizes.groups) {}

  // Writes [channels of a group, height, width] of each part, the parts of `planes` `distance` apart; `room` for what
  // is not yet woven.
  void write(const T* planes, Index distance, Index group, bool of_ends, T* room, T* const (&result)[kParts]) const {
    const Index plane = sizes_.height * sizes_.width, phases = Index(columns_.taps.size());
    const Index of_phase = count_ * columns_.count, of_part = channels_ * phases * of_phase;
    for (Index y = 0; y < Index(rows_.taps.size()); ++y) {
      const Index first_row = y + first_ * rows_.stride;
      const Index rows = minimum(count_, quotient_up(sizes_.height - first_row, rows_.stride));
      const bool in_place = rows_.stride == 1 && columns_.stride == 1;
      for (Index x = 0; x < phases; ++x) {
        const Phase<T>& phase = phases_[size_t(y * phases + x)];
        const T* weight = phase.weight.get() + group * channels_ * Index(phase.offsets.size());
        Destination<T, kParts> at = {{}, in_place ? plane : phases * of_phase, of_ends};
        for (int part = 0; part < kParts; ++part) {
          at.to[part] = in_place ? result[part] + first_row * sizes_.width : room + part * of_part + x * of_phase;
        }
        write_sums<T, kParts>(positions_, {planes, distance, phase.offsets, weight, nullptr}, channels_, at);
      }
      if (in_place) continue;
      for (Index channel = 0; channel < kParts * channels_; ++channel) {
        T* to = result[channel / channels_] + channel % channels_ * plane + first_row * sizes_.width;
        for (Index row = 0; row < rows; ++row) {
          weave(room + channel * phases * of_phase + row * columns_.count, of_phase, columns_.stride, sizes_.width,
                to + row * rows_.stride * sizes_.width);
        }
      }
    }
  }

 private:
  const ConvolutionSizes& sizes_;
  const Axis &rows_, &columns_;
  const std::vector<Phase<T>>& phases_;
  const Positions positions_;
  const Index first_, count_, channels_;
};

// Transposes the convolution of all images. load(at, size, to, distance) as `Bands::for_each` wants it;
// begin(image) is called once for each.
template <typename T, int kParts, typename Load, typename Begin>
void transpose_convolution(const ConvolutionSizes& sizes, Index threads, const T* weight, bool of_ends,
                           T* const (&result)[kParts], const Load& load, const Begin& begin) {
  const Index groups = sizes.groups, channels = sizes.channels / groups, outputs = sizes.outputs / groups;
  const Axis rows(sizes, 0), columns(sizes, 1);
  const Reach reach({rows.before, columns.before}, {rows.span, columns.span});
  const Bands<T> bands(sizes.batch * groups, outputs, sizes.output_height, sizes.output_width, reach, rows.count,
                       columns.count, outputs * channels * sizes.kernel[0] * sizes.kernel[1], threads, kParts);
  const std::vector<Phase<T>> phases = phases_of(sizes, bands.layout(), rows, columns);
  pack_weight(sizes, weight, phases);
  const Index room = kParts * channels * Index(columns.taps.size()) * bands.most_rows() * columns.count;
  bands.template for_each<kParts>(room, load, [&](Index layer, Index first, Index count, const T* planes, T* woven) {
    const Index image = layer / groups, group = layer % groups;
    if (group == 0 && first == 0) begin(image);
    const TransposedBand<T, kParts> band(sizes, rows, columns, phases, bands.layout().pitch(), first, count);
    T* to[kParts];
    for (int part = 0; part < kParts; ++part) to[part] = result[part] + layer * channels * sizes.height * sizes.width;
    band.write(planes, bands.layout().size(), group, of_ends, woven, to);
  });
}

// The constant `A b` of one image.
template <typename T>
double constant_of(const BackwardConvolutionArguments<T>& args, Index image) {
  if (args.bias == nullptr) return 0;
  const Index plane = args.sizes.output_height * args.sizes.output_width;
  const T* A = args.A + image * args.sizes.outputs * plane;
  WideSum<T> sum;
  for (Index output = 0; output < args.sizes.outputs; ++output, A += plane) {
    const T b = args.bias[output];
    for_lanes<T>(0, plane, [&](Index j, auto lanes) LBP_LANES {
      using V = decltype(lanes);
      if constexpr (sizeof(V) == sizeof(T)) {
        sum.add_product(A[j], b);
      } else {
        sum.add_product(load_vector(A + j), broadcast(b));
      }
    });
  }
  return sum.total();
}

}  // namespace

template <typename T>
void backward_convolution(const BackwardConvolutionArguments<T>& args) {
  const auto load = [&](Index at, Index size, T* to, Index) { std::copy_n(args.A + at, size, to); };
  const auto begin = [&](Index image) { args.constants[image] = constant_of(args, image); };
  transpose_convolution<T, 1>(args.sizes, args.threads, args.weight, false, {args.result}, load, begin);
}

template <typename T>
void interval_convolution_input_gradient(const IntervalConvolutionInputGradientArguments<T>& args) {
  const auto load = [&](Index at, Index size, T* to, Index distance) {
    load_pair(args.first_gradient + at, args.second_gradient + at, args.of_ends, size, to, to + distance);
  };
  transpose_convolution<T, 2>(args.sizes, args.threads, args.weight, args.of_ends,
                              {args.first_result, args.second_result}, load, [](Index) {});
}

template <typename T>
void backward_convolution_gradient(const BackwardConvolutionGradientArguments<T>& args) {
  const ConvolutionSizes& sizes = args.sizes;
  const Index groups = sizes.groups, channels = sizes.channels / groups, outputs = sizes.outputs / groups;
  const Index height = sizes.output_height, width = sizes.output_width;
  const Bands<T> bands(sizes.batch * groups, channels, sizes.height, sizes.width, Reach(sizes), height, width,
                       outputs * channels * sizes.kernel[0] * sizes.kernel[1], args.threads, 1);
  const std::vector<Index> offsets = bands.layout().offsets(sizes);
  const auto load = [&](Index at, Index size, T* to, Index) { std::copy_n(args.gradient + at, size, to); };
  bands.template for_each<1>(0, load, [&](Index layer, Index first, Index rows, const T* planes, T*) {
    const Index image = layer / groups, first_output = layer % groups * outputs;
    std::vector<T> initial(static_cast<size_t>(outputs), T(0));
    for (Index output = 0; output < outputs && args.bias != nullptr; ++output) {
      initial[size_t(output)] = T(args.constants_gradient[image]) * args.bias[first_output + output];
    }
    const Positions positions(rows, width, bands.layout().pitch(), Vector<T>::kSize);
    const T* weight = args.weight + first_output * Index(offsets.size());
    write_sums<T, 1>(positions, {planes, bands.layout().size(), offsets, weight, initial.data()}, outputs,
                     {{args.A_gradient + (layer * outputs * height + first) * width}, height * width, false});
  });
}

template void backward_convolution(const BackwardConvolutionArguments<float>&);
template void backward_convolution(const BackwardConvolutionArguments<double>&);
template void interval_convolution_input_gradient(const IntervalConvolutionInputGradientArguments<float>&);
template void interval_convolution_input_gradient(const IntervalConvolutionInputGradientArguments<double>&);
template void backward_convolution_gradient(const BackwardConvolutionGradientArguments<float>&);
template void backward_convolution_gradient(const BackwardConvolutionGradientArguments<double>&);

}  // namespace lbp::LBP_ISA
