// A convolution of window matrices. An entry of the windows of the result is a layer of its own: the sum of what the
// taps make of the layers of those entries that they bring there. These are laid out once, with channels last and their
// padding around them, so that what a tap reads at a position is one run of memory at a distance that all taps share.
// Positions are the lanes of the products, outputs their columns; nothing is multiplied that the result does not need,
// nor at positions whose windows have the entry outside the image.
#include <algorithm>
#include <vector>

#include "cpu/kernels/forward_rows.h"
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

// Lays out the layer [C, H, W] of an entry as [reach(0), reach(1), C], zero over the padding: kTransposed channels at a
// time, whose planes are read from beginning to end.
template <typename T>
void lay_out(const ConvolveWindowsArguments<T>& args, const T* from, T* to) {
  const Index channels = args.channels, reach = args.reach(1), left = minimum(args.padding[1], reach);
  const Index used = maximum(0, minimum(reach - left, args.width)), right = reach - left - used;
  const Index plane = args.height * args.width;
  for (Index y = 0; y < args.reach(0); ++y) {
    const Index row = y - args.padding[0];
    T* line = to + y * reach * channels;
    if (row < 0 || row >= args.height) {
      std::fill(line, line + reach * channels, T(0));
    } else {
      std::fill(line, line + left * channels, T(0));
      std::fill(line + (left + used) * channels, line + (left + used + right) * channels, T(0));
    }
  }
  const Index top = minimum(args.padding[0], args.reach(0)),
              bottom = minimum(args.reach(0), args.padding[0] + args.height);
  for (Index channel = 0; channel < channels; channel += kTransposed) {
    const Index count = minimum(kTransposed, channels - channel);
    for (Index y = top; y < bottom; ++y) {
      transpose(from + channel * plane + (y - args.padding[0]) * args.width, plane, count, used,
                to + (y * reach + left) * channels + channel, channels, kTransposed);
    }
  }
}

// A part of the work: one entry of a matrix's windows, at some rows and columns of the output.
struct Part {
  Index matrix, row, column, top, bottom, left, right;

  Index positions() const { return (bottom - top) * (right - left); }
};

// Positions of the output.
struct Positions {
  Inside down, across;

  Index rows() const { return maximum(0, down.stop - down.first); }
  Index columns() const { return maximum(0, across.stop - across.first); }
  Index count() const { return rows() * columns(); }
};

// The entries of the windows of all matrices that are laid out together, in parts of at most kMostPositions.
template <typename T>
class Parts {
 public:
  Parts(const ConvolveWindowsArguments<T>& args, Index matrices)
      : args_(args),
        across_(quotient_up(args.output_width, kMostPositions)),
        down_(quotient_up(args.output_height, kMostPositions / quotient_up(args.output_width, across_))) {
    const Index count = matrices * args.grown(0) * args.grown(1) * down_ * across_;
    costs_.reserve(size_t(count + 1));
    for (Index i = 0; i < count; ++i) costs_.push_back(costs_.back() + 1 + positions((*this)[i]).count());
  }

  // Work of all parts; an entry that nothing is multiplied for takes some too.
  Index cost() const { return costs_.back(); }

  // Number of the first part that begins at or behind so much of the work.
  Index behind(Index cost) const { return std::lower_bound(costs_.begin(), costs_.end(), cost) - costs_.begin(); }

  Part operator[](Index number) const {
    const Index across = number % across_, down = number / across_ % down_, entry = number / across_ / down_;
    const auto row = [&](Index n) { return args_.output_height * n / down_; };
    const auto column = [&](Index n) { return args_.output_width * n / across_; };
    const Index columns = args_.grown(1);
    return {entry / columns / args_.grown(0),
            entry / columns % args_.grown(0),
            entry % columns,
            row(down),
            row(down + 1),
            column(across),
            column(across + 1)};
  }

  // Those of a part that have the entry on the image.
  Positions positions(const Part& part) const {
    return {inside(0, part.top, part.bottom, part.row), inside(1, part.left, part.right, part.column)};
  }

 private:
  Inside inside(int axis, Index begin, Index end, Index entry) const {
    if (!args_.has_image) return {begin, end, 1, 0, end};
    return {begin, end, args_.scale[axis], args_.offset[axis] + entry, args_.image[axis]};
  }

  const ConvolveWindowsArguments<T>& args_;
  const Index across_, down_;       // parts of an entry
  std::vector<Index> costs_ = {0};  // of all parts before each, and of all
};

// Sums of one part after the other.
template <typename T>
class EntrySums {
 public:
  EntrySums(const ConvolveWindowsArguments<T>& args, const Columns<T>& columns, const T* weight)
      : args_(args),
        columns_(columns),
        weight_(weight),
        row_size_(args.groups * columns.blocks * columns.width),
        together_(maximum(1, kWeightBytes / maximum(1, columns.tap_size() * Index(sizeof(T))))),
        sums_(size_t(kMostPositions * row_size_)),
        factors_(size_t(columns.taps)) {}

  // Writes a part of a matrix whose layers are laid out.
  void run(const T* layers, const Part& part, const Positions& positions, T* result) {
    const Index width = args_.output_width;
    if (positions.count() < part.positions()) clear(part, result);
    if (positions.count() == 0) return;
    find_taps(layers, part.row, part.column);
    find_offsets(positions);
    const Index count = Index(taps_.size());
    for (Index block = 0; block < args_.groups * columns_.blocks; ++block) {
      // At least once: an entry that no tap reaches is 0.
      for (Index tap = 0; tap == 0 || tap < count; tap += together_) {
        add(block, tap, minimum(tap + together_, count), positions.count());
      }
    }
    // Whole rows are one run.
    const bool whole = positions.columns() == width;
    const Index runs = whole ? 1 : positions.rows(), length = positions.count() / runs;
    for (Index run = 0; run < runs; ++run) {
      write(run * length, length, result + (positions.down.first + run) * width + positions.across.first);
    }
  }

 private:
  struct Tap {
    const T* layer;  // what it reads for the first position
    Index number;
  };

  void clear(const Part& part, T* result) const {
    const Index width = args_.output_width;
    for (Index output = 0; output < args_.outputs; ++output) {
      for (Index y = part.top; y < part.bottom; ++y) {
        T* row = result + (output * args_.output_height + y) * width;
        std::fill(row + part.left, row + part.right, T(0));
      }
    }
  }

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

  // Where every position begins to read a layer that is laid out.
  void find_offsets(const Positions& positions) {
    Index* offset = offsets_;
    for (Index y = positions.down.first; y < positions.down.stop; ++y) {
      for (Index x = positions.across.first; x < positions.across.stop; ++x) {
        *offset++ = (y * args_.stride[0] * args_.reach(1) + x * args_.stride[1]) * args_.channels;
      }
    }
  }

  // Adds the products of taps [tap, stop) to a block of columns; the first ones begin the sums.
  void add(Index block, Index tap, Index stop, Index positions) {
    const Index channel = block / columns_.blocks * columns_.inputs;
    for (Index t = tap; t < stop; ++t) {
      const Tap& read = taps_[size_t(t)];
      factors_[size_t(t - tap)] = {read.layer + channel,
                                   weight_ + (block * columns_.taps + read.number) * columns_.tap_size()};
    }
    const Index tiles = quotient_up(positions, kLanes);
    for (Index tile = 0; tile < tiles; ++tile) {
      const Index begin = positions * tile / tiles, end = positions * (tile + 1) / tiles;
      accumulate_lanes<T>(
          end - begin, factors_.data(), stop - tap, offsets_ + begin, columns_.inputs,
          {sums_.data() + begin * row_size_ + block * columns_.width, row_size_, columns_.width, tap > 0});
    }
  }

  // Writes the sums of neighbouring positions, from one on, to all outputs.
  void write(Index position, Index count, T* result) const {
    const Index size = args_.output_height * args_.output_width;
    for (Index group = 0; group < args_.groups; ++group) {
      transpose(sums_.data() + position * row_size_ + group * columns_.blocks * columns_.width, row_size_, count,
                columns_.outputs, result + group * columns_.outputs * size, size, kMostPositions);
    }
  }

  const ConvolveWindowsArguments<T>& args_;
  const Columns<T>& columns_;
  const T* weight_;
  const Index row_size_, together_;  // taps of which the weights of a block of columns stay in the first cache
  Index offsets_[kMostPositions];
  std::vector<T> sums_;  // [positions, groups, blocks, width]
  std::vector<Factors<T>> factors_;
  std::vector<Tap> taps_;
};

}  // namespace

template <typename T>
void convolve_windows(const ConvolveWindowsArguments<T>& args) {
  const Columns<T> columns(args);
  const std::vector<T> weight = packed_weight(args, columns);
  const Index entries = args.rows * args.columns, layer_size = args.channels * args.height * args.width;
  const Index laid_out = args.reach(0) * args.reach(1) * args.channels;
  const Index entry_size = args.outputs * args.output_height * args.output_width;
  for (Index begin = 0; begin < args.matrices; begin += args.together) {
    const Index count = minimum(args.together, args.matrices - begin);
    parallel_for(count * entries, layer_size, [&](Index first, Index last) {
      for (Index i = first; i < last; ++i) {
        lay_out(args, args.windows + (begin * entries + i) * layer_size, args.layers + i * laid_out);
      }
    });
    const Parts<T> parts(args, count);
    parallel_for(parts.cost(), args.outputs * columns.inputs, [&](Index first, Index last) {
      EntrySums<T> sums(args, columns, weight.data());
      for (Index i = parts.behind(first); i < parts.behind(last); ++i) {
        const Part part = parts[i];
        const Index entry = ((begin + part.matrix) * args.grown(0) + part.row) * args.grown(1) + part.column;
        sums.run(args.layers + part.matrix * entries * laid_out, part, parts.positions(part),
                 args.result + entry * entry_size);
      }
    });
  }
}

template void convolve_windows(const ConvolveWindowsArguments<float>&);
template void convolve_windows(const ConvolveWindowsArguments<double>&);

}  // namespace lbp::LBP_ISA
