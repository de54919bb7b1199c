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

template <typename T>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 4) pack_weight_kernel(const PackWeightArguments<T> args) {
  const Index entries = args.convolution.kernel[0] * args.convolution.kernel[1];
  const Index at = Index(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= args.convolution.groups * entries * args.outputs * args.inputs) return;
  const Index input = at % args.inputs, output = at / args.inputs % args.outputs;
  const Index entry = at / args.inputs / args.outputs % entries, group = at / args.inputs / args.outputs / entries;
  args.packed[at] =
      read(args.convolution.weight + ((group * args.outputs + output) * args.inputs + input) * entries + entry);
}

// A product for every group of the convolution and residue class of pixels. Rows run over sides, rows of A and the
// pixels of the class in a window of the result, as many as any window has; columns over the group's input channels;
// the depth over the entries of the kernel and, fastest, the group's output channels, which lie side by side in A.
template <typename T>
struct WindowsProduct {
  using Scalar = T;
  static constexpr Pairing kPairing = Pairing::kSingle;
  static constexpr bool kLeftAlongDepth = true, kRightAlongDepth = false, kConstants = false, kFewRows = false,
                        kFewColumns = true;
  struct Stage {
    Index weight[kMostDepth];          // where the depth's row of packed weights begins
    int y[kMostDepth], x[kMostDepth];  // shifts
    int channel[kMostDepth];           // in A
  };
  struct LeftLoad {
    T a, lower_slope, upper_slope;
  };
  struct LeftState {
    const T* row;  // null outside the product
    Index slopes;  // where the slopes begin under the window
    int y, x;      // of A's pixel that an entry of shift 0 meets
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
    int group;
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
    LBP_DEVICE int group_channels() const { return int(quotient(of.A.channels, of.convolution.groups)); }

    LBP_DEVICE LeftState left(Index row) const {
      const LeftState nothing = {nullptr, 0, 0, 0, false};
      if (row >= rows) return nothing;
      const Place at = place(row);
      const WindowRow where = read_row(of.A.where + at.row);
      const ResiduePixels down = pixels_down(at.row), across = pixels_across(at.row);
      if (!stands(of.A, where) || at.down >= down.count || at.across >= across.count) return nothing;
      const Index image = of.lines.data == nullptr ? 0 : where.image;
      return {numbers_of(of.A, at.side, where),
              image * of.A.layer_height * of.A.layer_width * of.A.channels + first_in_layer(of.A, where),
              down.output + at.down - int(where.top), across.output + at.across - int(where.left),
              is_lower(of.sides, at.side)};
    }
    LBP_DEVICE RightState right(Index column) const { return column < columns ? of.packed + column : nullptr; }

    LBP_DEVICE void prepare(Stage& stage, Index begin, int count, Index, int thread, int) const {
      if (thread >= count) return;
      const int k = int(begin) + thread, channels = group_channels(), wide = larger(horizontal.entries, 1);
      const int entry = k / channels, channel = k - entry * channels;
      const int y = vertical.first + entry / wide * vertical.step;
      const int x = horizontal.first + entry % wide * horizontal.step;
      const Index entries = of.convolution.kernel[0] * of.convolution.kernel[1];
      stage.weight[thread] = ((group * entries + y * of.convolution.kernel[1] + x) * channels + channel) * columns;
      stage.y[thread] = vertical.shift(y);
      stage.x[thread] = horizontal.shift(x);
      stage.channel[thread] = group * channels + channel;
    }

    LBP_DEVICE LeftLoad load_left(const LeftState& state, const Stage& stage, int k, Index depth_or_none) const {
      const LeftLoad nothing = {T(0), T(1), T(1)};
      if (depth_or_none < 0 || state.row == nullptr) return nothing;
      const int y = state.y - stage.y[k], x = state.x - stage.x[k];
      if (y < 0 || y >= of.A.height || x < 0 || x >= of.A.width) return nothing;
      const T a = read(state.row + (y * of.A.width + x) * of.A.channels + stage.channel[k]);
      if (of.lines.data == nullptr) return {a, T(1), T(1)};
      const Index at = state.slopes + (y * of.A.layer_width + x) * of.A.channels + stage.channel[k];
      return {a, read(of.lines.plane(0) + at), read(of.lines.plane(2) + at)};
    }

    LBP_DEVICE Pair<T> left_values(const LeftLoad& load, const LeftState& state, const Stage&, int, double&) const {
      return {load.a * ((load.a >= T(0)) == state.lower ? load.lower_slope : load.upper_slope), T(0)};
    }

    LBP_DEVICE Pair<T> load_right(RightState column, const Stage& stage, int k, Index depth_or_none) const {
      return {column == nullptr || depth_or_none < 0 ? T(0) : read(column + stage.weight[k]), T(0)};
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
    const Residue vertical(residue / across, int(c.kernel[0]), int(c.stride[0]), int(c.padding[0]), int(c.dilation[0]));
    const Residue horizontal(residue % across, int(c.kernel[1]), across, int(c.padding[1]), int(c.dilation[1]));
    return {*this,
            group,
            vertical,
            horizontal,
            rows,
            columns,
            quotient(A.channels, c.groups) * vertical.entries * horizontal.entries};
  }
};

}  // namespace lbp::cuda
