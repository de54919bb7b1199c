// A convolution of window matrices. An entry of the windows of the result is a layer of its own: the sum of what the
// taps make of the layers of those entries that they bring there. These are laid out once, with channels last and their
// padding around them, so that what a tap reads at a position is one run of memory at a distance that all taps share.
// Positions are the lanes of the products, outputs their columns; nothing is multiplied that the result does not need.
#include <algorithm>
#include <vector>

#include "cpu/kernels/lane_products.h"
#include "cpu/kernels/table.h"
#include "cpu/kernels/tile.h"
#include "cpu/kernels/transpose.h"

namespace lbp::LBP_ISA {
namespace {

// Positions whose sums and whose operands stay in the second cache.
constexpr Index kMostPositions = 128;

// Channels that are laid out together: those of a line of the cache.
constexpr Index kTransposed = 16;

// The outputs of a group in blocks of columns, and how the weights lie: [groups, blocks, taps, inputs, width], zero
// where the last block is not full.
template <typename T>
struct Columns {
  Index inputs, outputs, width, blocks, taps;

  explicit Columns(const ConvolveWindowsArguments<T>& args)
      : inputs(args.channels / args.groups),
        outputs(args.outputs / args.groups),
        width(block_columns<T>(outputs)),
        blocks(quotient_up(outputs, width)),
        taps(args.kernel[0] * args.kernel[1]) {}

  Index tap_size() const { return inputs * width; }
};

template <typename T>
std::vector<T> packed_weight(const ConvolveWindowsArguments<T>& args, const Columns<T>& columns) {
  std::vector<T> packed(size_t(args.groups * columns.blocks * columns.taps * columns.tap_size()));
  parallel_for(args.groups * columns.blocks, columns.taps * columns.tap_size(), [&](Index first, Index last) {
    for (Index item = first; item < last; ++item) {
      const Index begin = item % columns.blocks * columns.width;
      const Index count = minimum(columns.width, columns.outputs - begin);
      const T* from = args.weight + (item / columns.blocks * columns.outputs + begin) * columns.inputs * columns.taps;
      T* to = packed.data() + item * columns.taps * columns.tap_size();
      for (Index o = 0; o < count; ++o) {
        for (Index input = 0; input < columns.inputs; ++input) {
          for (Index tap = 0; tap < columns.taps; ++tap)
            to[(tap * columns.inputs + input) * columns.width + o] = *from++;
        }
      }
    }
  });
  return packed;
}

// Lays out the layer [C, H, W] of an entry as [reach(0), reach(1), C], zero over the padding.
template <typename T>
void lay_out(const ConvolveWindowsArguments<T>& args, const T* from, T* to) {
  const Index channels = args.channels, reach = args.reach(1), left = minimum(args.padding[1], reach);
  const Index used = maximum(0, minimum(reach - left, args.width)), right = reach - left - used;
  for (Index y = 0; y < args.reach(0); ++y, to += reach * channels) {
    const Index row = y - args.padding[0];
    if (row < 0 || row >= args.height) {
      std::fill(to, to + reach * channels, T(0));
      continue;
    }
    std::fill(to, to + left * channels, T(0));
    transpose(from + row * args.width, args.height * args.width, channels, used, to + left * channels, channels,
              kTransposed);
    std::fill(to + (left + used) * channels, to + (left + used + right) * channels, T(0));
  }
}

// Where every position of the output begins to read a layer that is laid out.
template <typename T>
std::vector<Index> position_offsets(const ConvolveWindowsArguments<T>& args) {
  std::vector<Index> offsets;
  for (Index y = 0; y < args.output_height; ++y) {
    for (Index x = 0; x < args.output_width; ++x) {
      offsets.push_back((y * args.stride[0] * args.reach(1) + x * args.stride[1]) * args.channels);
    }
  }
  return offsets;
}

// Entries of the result's windows, at some positions.
template <typename T>
class EntrySums {
 public:
  EntrySums(const ConvolveWindowsArguments<T>& args, const Columns<T>& columns, const T* weight, const Index* offsets)
      : args_(args),
        columns_(columns),
        weight_(weight),
        offsets_(offsets),
        row_size_(args.groups * columns.blocks * columns.width),
        together_(maximum(1, kWeightBytes / (columns.tap_size() * Index(sizeof(T))))),
        sums_(size_t(kMostPositions * row_size_)),
        factors_(size_t(columns.taps)) {}

  // Writes positions [first, last) of entry (row, column) of a matrix whose layers are laid out.
  void run(const T* layers, Index row, Index column, Index first, Index last, T* result) {
    find_taps(layers, row, column);
    const Index count = Index(taps_.size());
    for (Index block = 0; block < args_.groups * columns_.blocks; ++block) {
      // At least once: an entry that no tap reaches is 0.
      for (Index tap = 0; tap == 0 || tap < count; tap += together_) {
        add(block, tap, minimum(tap + together_, count), first, last);
      }
    }
    const Index positions = args_.output_height * args_.output_width;
    for (Index group = 0; group < args_.groups; ++group) {
      transpose(sums_.data() + group * columns_.blocks * columns_.width, row_size_, last - first, columns_.outputs,
                result + group * columns_.outputs * positions + first, positions, kMostPositions);
    }
  }

 private:
  struct Tap {
    const T* layer;  // what it reads for the first position
    Index number;
  };

  void find_taps(const T* layers, Index row, Index column) {
    const Index layer_size = args_.reach(0) * args_.reach(1) * args_.channels;
    taps_.clear();
    for (Index i = 0; i < args_.kernel[0]; ++i) {
      const Index above = row - args_.step[0] * i;
      if (above < 0 || above >= args_.rows) continue;
      for (Index j = 0; j < args_.kernel[1]; ++j) {
        const Index before = column - args_.step[1] * j;
        if (before < 0 || before >= args_.columns) continue;
        const Index pixel = args_.dilation[0] * i * args_.reach(1) + args_.dilation[1] * j;
        taps_.push_back(
            {layers + (above * args_.columns + before) * layer_size + pixel * args_.channels, i * args_.kernel[1] + j});
      }
    }
  }

  // Adds the products of taps [tap, stop) to a block of columns; the first ones begin the sums.
  void add(Index block, Index tap, Index stop, Index first, Index last) {
    const Index channel = block / columns_.blocks * columns_.inputs;
    for (Index t = tap; t < stop; ++t) {
      const Tap& read = taps_[size_t(t)];
      factors_[size_t(t - tap)] = {read.layer + channel,
                                   weight_ + (block * columns_.taps + read.number) * columns_.tap_size()};
    }
    const Index positions = last - first, tiles = quotient_up(positions, kLanes);
    for (Index tile = 0; tile < tiles; ++tile) {
      const Index begin = positions * tile / tiles, end = positions * (tile + 1) / tiles;
      accumulate_lanes<T>(
          end - begin, factors_.data(), stop - tap, offsets_ + first + begin, columns_.inputs,
          {sums_.data() + begin * row_size_ + block * columns_.width, row_size_, columns_.width, tap > 0});
    }
  }

  const ConvolveWindowsArguments<T>& args_;
  const Columns<T>& columns_;
  const T* weight_;
  const Index* offsets_;
  const Index row_size_, together_;  // taps of which the weights of a block of columns stay in the first cache
  std::vector<T> sums_;              // [positions, groups, blocks, width]
  std::vector<Factors<T>> factors_;
  std::vector<Tap> taps_;
};

}  // namespace

template <typename T>
void convolve_windows(const ConvolveWindowsArguments<T>& args) {
  const Columns<T> columns(args);
  const std::vector<T> weight = packed_weight(args, columns);
  const std::vector<Index> offsets = position_offsets(args);
  const Index entries = args.rows * args.columns, layer_size = args.channels * args.height * args.width;
  const Index laid_out = args.reach(0) * args.reach(1) * args.channels;
  const Index positions = args.output_height * args.output_width, parts = quotient_up(positions, kMostPositions);
  const Index grown = args.grown(0) * args.grown(1);
  for (Index begin = 0; begin < args.matrices; begin += args.together) {
    const Index count = minimum(args.together, args.matrices - begin);
    parallel_for(count * entries, layer_size, [&](Index first, Index last) {
      for (Index i = first; i < last; ++i) {
        lay_out(args, args.windows + (begin * entries + i) * layer_size, args.layers + i * laid_out);
      }
    });
    parallel_for(count * grown * parts, args.outputs * positions * columns.inputs, [&](Index first, Index last) {
      EntrySums<T> sums(args, columns, weight.data(), offsets.data());
      for (Index i = first; i < last; ++i) {
        const Index part = i % parts, entry = i / parts % grown, matrix = i / parts / grown;
        sums.run(args.layers + matrix * entries * laid_out, entry / args.grown(1), entry % args.grown(1),
                 positions * part / parts, positions * (part + 1) / parts,
                 args.result + ((begin + matrix) * grown + entry) * args.outputs * positions);
      }
    });
  }
}

template void convolve_windows(const ConvolveWindowsArguments<float>&);
template void convolve_windows(const ConvolveWindowsArguments<double>&);

}  // namespace lbp::LBP_ISA
