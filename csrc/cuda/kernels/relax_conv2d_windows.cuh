// Back-substitution of windowed coefficients through an activation and the Conv2d layer below it: a transposed
// convolution of A's windows, relaxed while they are loaded, as one gathered matrix product. The constants are those of
// relax_windows.cuh, whose lines this reads.
#pragma once

#include "cuda/kernels/relax_windows.cuh"
#include "cuda/kernels/residue.cuh"
#include "cuda/kernels/tile_product.cuh"

namespace lbp::cuda {

// The weights as the product reads them, [groups, kernel height, kernel width, C / groups, C_in / groups].
template <typename T>
struct PackWeightArguments {
  WindowConvolution<T> convolution;
  Index outputs;  // of a group, as `inputs`
  Index inputs;
  T* packed;
};

// Threads run over the planes of the weights, each of which lies in a few sectors.
template <typename T>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 4) pack_weight_kernel(const PackWeightArguments<T> args) {
  const Index entries = args.convolution.kernel[0] * args.convolution.kernel[1];
  const Index plane = Index(blockIdx.x) * kThreads + threadIdx.x, of_group = args.outputs * args.inputs;
  if (plane >= args.convolution.groups * of_group) return;
  const Index group = quotient(plane, of_group);
  const T* const weight = args.convolution.weight + plane * entries;
  T* const packed = args.packed + group * entries * of_group + plane - group * of_group;
  for (Index entry = 0; entry < entries; ++entry) packed[entry * of_group] = read(weight + entry);
}

// A product for every group of the convolution and residue class of pixels. Rows run over sides, rows of A and the
// pixels of the class in a window of the result, as many as any window has; columns over the group's input channels;
// the depth over the entries of the kernel and, fastest, the group's output channels, which lie side by side in A.
template <typename T>
struct WindowsProduct {
  using Scalar = T;
  static constexpr Pairing kPairing = Pairing::kSingle;
  static constexpr bool kLeftAlongDepth = true, kRightAlongDepth = false, kConstants = false, kFewRows = false,
                        kFewColumns = true, kRowsInPacks = false;
  // An entry of the kernel and a channel of A: the number that they read, counted from that of an entry of shift 0 in
  // the first channel, by rows and columns and in memory, there also of its slopes; and where their packed weights
  // begin.
  struct alignas(16) Entry {
    Index offset, slopes;
    int y, x;
    Index weight;  // negative beyond the depth
  };
  struct Stage {
    Entry entries[kStageDepth];
  };
  struct LeftLoad {
    T a, lower_slope, upper_slope;
  };
  struct LeftState {
    const T* row;     // of A's pixel that an entry of shift 0 meets, in the first channel
    const T* slopes;  // of the same neuron, lower ones; null without an activation
    int y, x;         // of that pixel
    bool lower;
  };
  using RightState = const T*;

  Index batches, rows, columns, depth;  // depth of the largest class
  RowWindows<T> A;
  int sides;
  LayerLines<T> lines;
  WindowConvolution<T> convolution;
  const T* packed;
  Index tall, wide;  // pixels of a class in a window of the result, at most
  T* coefficients;

  // Of one class.
  struct View {
    const WindowsProduct& of;
    int group, channels;  // of A in a group
    Residue vertical, horizontal;
    Index rows, columns, depth;

    struct Place {
      Index side, row;
      int down, across;  // which of the class's pixels
    };
    LBP_DEVICE Place place(Index row) const {
      const Index pixels = of.tall * of.wide, row_of_A = quotient(row, pixels), pixel = row - row_of_A * pixels;
      const Index side = row_of_A >= of.A.rows ? 1 : 0, down = quotient(pixel, of.wide);
      return {side, row_of_A - side * of.A.rows, int(down), int(pixel - down * of.wide)};
    }
    LBP_DEVICE ResiduePixels pixels_down(Index row) const {
      return {vertical, int(read(of.convolution.corners + 2 * row)), int(of.convolution.height)};
    }
    LBP_DEVICE ResiduePixels pixels_across(Index row) const {
      return {horizontal, int(read(of.convolution.corners + 2 * row + 1)), int(of.convolution.width)};
    }
    LBP_DEVICE LeftState left(Index row, Index) const {
      const LeftState nothing = {nullptr, nullptr, kOutside, 0, false};
      if (row >= rows) return nothing;
      const Place at = place(row);
      const WindowRow where = read_row(of.A.where + at.row);
      const ResiduePixels down = pixels_down(at.row), across = pixels_across(at.row);
      if (!stands(of.A, where) || at.down >= down.count || at.across >= across.count) return nothing;
      const int y = down.output + at.down - int(where.top), x = across.output + at.across - int(where.left);
      const Index slopes = where.image * of.A.layer_height * of.A.layer_width * of.A.channels +
                           first_in_layer(of.A, where) + (y * of.A.layer_width + x) * of.A.channels;
      return {numbers_of(of.A, at.side, where) + (y * of.A.width + x) * of.A.channels,
              of.lines.data == nullptr ? nullptr : of.lines.plane(0) + slopes, y, x, is_lower(of.sides, at.side)};
    }
    LBP_DEVICE RightState right(Index column, Index) const { return column < columns ? of.packed + column : nullptr; }

    LBP_DEVICE void prepare(Stage& stage, Index begin, int thread, int) const {
      if (thread >= kStageDepth) return;
      stage.entries[thread] = {0, 0, kOutside, 0, -1};
      if (begin + thread >= depth) return;
      const int k = int(begin) + thread, entry = k / channels, channel = k - entry * channels;
      const int y = vertical.first + entry / horizontal.entries * vertical.step;
      const int x = horizontal.first + entry % horizontal.entries * horizontal.step;
      const Index entries = of.convolution.kernel[0] * of.convolution.kernel[1];
      const Index weight = ((group * entries + y * of.convolution.kernel[1] + x) * channels + channel) * columns;
      const int up = vertical.shift(y), left = horizontal.shift(x), from = group * channels + channel;
      stage.entries[thread] = {from - (up * of.A.width + left) * of.A.channels,
                               from - (up * of.A.layer_width + left) * of.A.channels, -up, -left, weight};
    }

    template <int kCount>
    LBP_DEVICE void load_left(const LeftState& state, const Stage& stage, const Step& step,
                              LeftLoad (&loads)[kCount]) const {
      if (channels % kCount == 0) return load_channels(state, stage.entries[step.k], loads);
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        LeftLoad load[1];
        load_channels(state, stage.entries[step.k + i], load);
        loads[i] = load[0];
      }
    }

    // Of kCount neighbouring channels, which one entry of the kernel reads.
    template <int kCount>
    LBP_DEVICE void load_channels(const LeftState& state, const Entry& entry, LeftLoad (&loads)[kCount]) const {
#pragma unroll
      for (int i = 0; i < kCount; ++i) loads[i] = {T(0), T(1), T(1)};
      if (!is_inside(state.y + entry.y, state.x + entry.x, of.A)) return;
      T a[kCount];
      read_neighbours(state.row + entry.offset, kCount, a);
#pragma unroll
      for (int i = 0; i < kCount; ++i) loads[i].a = a[i];
      if (of.lines.data == nullptr) return;
      T lower[kCount], upper[kCount];
      read_neighbours(state.slopes + entry.slopes, kCount, lower);
      read_neighbours(state.slopes + 2 * of.lines.count + entry.slopes, kCount, upper);
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        loads[i].lower_slope = lower[i];
        loads[i].upper_slope = upper[i];
      }
    }

    LBP_DEVICE Pair<T> left_values(const LeftLoad& load, const LeftState& state, const Stage&, int, double&) const {
      return {load.a * ((load.a >= T(0)) == state.lower ? load.lower_slope : load.upper_slope), T(0)};
    }

    LBP_DEVICE void load_right(RightState column, const Stage& stage, const Step& step, Pair<T> (&loads)[1]) const {
      const Index at = stage.entries[step.k].weight;
      loads[0] = {column == nullptr || at < 0 ? T(0) : read(column + at), T(0)};
    }

    struct OutputRow {
      T* coefficients;  // null where the window has no such pixel
      bool stands;
      LBP_DEVICE void store(Index column, T sum, T) const {
        if (coefficients != nullptr) coefficients[column] = stands ? sum : quiet_nan<T>();
      }
    };
    LBP_DEVICE OutputRow output(Index row) const {
      const Place at = place(row);
      const ResiduePixels down = pixels_down(at.row), across = pixels_across(at.row);
      if (at.down >= down.count || at.across >= across.count) return {nullptr, false};
      const Index y = down.first + at.down * of.convolution.stride[0];
      const Index x = across.first + at.across * of.convolution.stride[1];
      const Index pixel = ((at.side * of.A.rows + at.row) * of.convolution.height + y) * of.convolution.width + x;
      return {of.coefficients + pixel * of.convolution.inputs + group * columns,
              stands(of.A, read_row(of.A.where + at.row))};
    }
    LBP_DEVICE void store_constant(Index, double) const {}
  };

  LBP_DEVICE View view(Index batch) const {
    const WindowConvolution<T>& c = convolution;
    const int across = int(c.stride[1]), classes = int(c.stride[0]) * across;
    const int group = int(batch) / classes, residue = int(batch) % classes;
    const int channels = int(A.channels) / int(c.groups);
    const Residue vertical(residue / across, int(c.kernel[0]), int(c.stride[0]), int(c.padding[0]), int(c.dilation[0]));
    const Residue horizontal(residue % across, int(c.kernel[1]), across, int(c.padding[1]), int(c.dilation[1]));
    return {*this,      group, channels, vertical,
            horizontal, rows,  columns,  Index(channels) * vertical.entries * horizontal.entries};
  }
};

}  // namespace lbp::cuda
