// Forward linear bounds on windows of the input, over a box or an l_p ball; and the gradient. As for dense rows, but
// every neuron reads the part of the image under its own window: what lies beside the image is not read, and its
// gradient is 0.
#pragma once

#include "cuda/kernels/concretize_forward.cuh"
#include "window_arguments.h"

namespace lbp::cuda {

// The entries of all windows, (c0, i, j), one after the other.
struct WindowEntry {
  int channel, row, column;

  LBP_DEVICE WindowEntry(const Windows& windows, Index number) : channel(0), row(0), column(0) {
    if (number == 0) return;  // windows without entries have no columns to divide by
    const Index rows = quotient(number, windows.columns);
    channel = int(quotient(rows, windows.rows));
    row = int(rows - channel * windows.rows);
    column = int(number - rows * windows.columns);
  }
  LBP_DEVICE void advance(const Windows& windows) {
    if (++column < windows.columns) return;
    column = 0;
    if (++row < windows.rows) return;
    row = 0;
    ++channel;
  }
};

// Where the window of a neuron begins.
struct NeuronWindow {
  int row, column;

  NeuronWindow() = default;
  LBP_DEVICE NeuronWindow(const Windows& windows, Index neuron) {
    const Index line = quotient(neuron, windows.width), x = neuron - line * windows.width;
    const Index y = line - quotient(line, windows.height) * windows.height;
    row = int(windows.row_scale * y + windows.row_offset);
    column = int(windows.column_scale * x + windows.column_offset);
  }

  // The number of the image that an entry belongs to; negative beside the image.
  LBP_DEVICE Index at(const Windows& windows, const WindowEntry& entry) const {
    const int y = row + entry.row, x = column + entry.column;
    if (y < 0 || y >= windows.image_rows || x < 0 || x >= windows.image_columns) return -1;
    return (entry.channel * windows.image_rows + y) * windows.image_columns + x;
  }
};

// Those of a thread's neurons.
template <typename T>
struct OwnWindows {
  NeuronWindow of[kOwn<T>];

  LBP_DEVICE OwnWindows(const Windows& windows, const Own<T, false>& own) {
#pragma unroll
    for (int i = 0; i < kOwn<T>; ++i) of[i] = NeuronWindow(windows, own.has(i) ? own.at(i) : 0);
  }
  LBP_DEVICE Index at(const Windows& windows, const WindowEntry& entry, int i) const {
    return of[i].at(windows, entry);
  }
};

template <typename T>
struct ConcretizeForwardWindowsLaunch {
  ConcretizeForwardArguments<T> op;  // its inputs are the entries of a window
  Windows windows;
  Tiling tiling;
  NeuronSums sums;  // data null: the bounds are written at once
};

template <typename T, typename Kind>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 1)
    concretize_forward_windows_kernel(const ConcretizeForwardWindowsLaunch<T> args) {
  constexpr bool kScaled = Kind::template kScaled<T>;
  const ConcretizeForwardArguments<T>& op = args.op;
  const Index image = args.tiling.image(), end = args.tiling.last_row();
  const Own<T, false> own(args.tiling.tile(), op.neurons);
  const OwnWindows<T> where(args.windows, own);
  const Index matrix = image * op.matrix_batch_stride, corner = image * op.region.batch_stride;
  const bool has_radius = op.radius != nullptr;
  NeuronSum sums[kOwn<T>];
#pragma unroll
  for (int i = 0; i < kOwn<T>; ++i) sums[i] = empty_neuron<Kind, kScaled>();
  WindowEntry entry(args.windows, args.tiling.first_row());
  for (Index number = args.tiling.first_row(); number < end; ++number, entry.advance(args.windows)) {
    const Index row = matrix + number * op.neurons;
    Index at[kOwn<T>];
    Pack<T> center, radius;
    InputEnds x[kOwn<T>];
#pragma unroll
    for (int i = 0; i < kOwn<T>; ++i) {
      at[i] = own.has(i) ? where.at(args.windows, entry, i) : -1;
      if (at[i] < 0) continue;
      center[i] = read(op.center + row + own.at(i));
      radius[i] = has_radius ? read(op.radius + row + own.at(i)) : T(0);
      x[i] = input_ends<Kind>(op.region, corner + at[i]);
    }
#pragma unroll
    for (int i = 0; i < kOwn<T>; ++i) {
      if (at[i] < 0) continue;
      add_coefficients<Kind, kScaled>(sums[i], center[i], radius[i], has_radius, x[i], op.region.q);
    }
  }
  store_sums<Kind>(op, args.sums, args.tiling.piece(), image, own, sums);
}

template <typename T>
struct ConcretizeForwardWindowsGradientLaunch {
  ConcretizeForwardGradientArguments<T> op;  // as above
  Windows windows;
  Tiling tiling;
  NeuronSums sums;  // of all entries; data null where the gradient does not need the norms
};

template <typename T, typename Kind>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 1)
    concretize_forward_windows_gradient_kernel(const ConcretizeForwardWindowsGradientLaunch<T> args) {
  const ConcretizeForwardGradientArguments<T>& op = args.op;
  const Region<T>& region = op.region;
  const Index end = args.tiling.last_row();
  const NeuronGradients<T, Kind, false> neurons(args);
  const Own<T, false>& own = neurons.own;
  const OwnWindows<T> where(args.windows, own);
  WindowEntry entry(args.windows, args.tiling.first_row());
  for (Index number = args.tiling.first_row(); number < end; ++number, entry.advance(args.windows)) {
    const Index row = number * op.neurons;
#pragma unroll
    for (int i = 0; i < kOwn<T>; ++i) {
      if (!own.has(i)) continue;
      const Index at = where.at(args.windows, entry, i);
      const Index in = neurons.matrix + row + own.at(i), out = neurons.out + row + own.at(i);
      T center = T(0), radius = T(0);
      if (at >= 0) {
        center = read(op.center + in);
        if (neurons.has_radius) radius = read(op.radius + in);
        const InputEnds x = input_ends<Kind>(region, neurons.image * region.batch_stride + at);
        neurons.replace(i, center, radius, x, region.q);
      }
      op.center_gradient[out] = center;
      if (op.radius_gradient != nullptr) op.radius_gradient[out] = radius;
    }
  }
}

}  // namespace lbp::cuda
