// A -> A' through an activation for windowed coefficients, with the constants in the same pass.
//
// The lines of all images are computed once, with channels last as A has them; then every warp reads those under the
// window of its row, for both sides.
#pragma once

#include "cuda/kernels/lines.cuh"
#include "cuda/kernels/windows.cuh"

namespace lbp::cuda {

// Lines and bias of a layer with channels last. Null pointers stand for the identity and for no bias.
template <typename T>
struct LayerLines {
  T* data;      // planes [4, B, h, w, C]: lower slope and intercept, upper slope and intercept
  T* bias;      // [h, w, C]
  Index count;  // of a plane

  LBP_HOST_DEVICE T* plane(int number) const { return data == nullptr ? nullptr : data + number * count; }
};

template <typename T>
struct LayerLinesLaunch {
  Relaxation<T> relaxation;  // l null: no activation
  PerNeuron<T> bias;
  Index images, pixels, channels;
  LayerLines<T> out;
};

// A thread for every neuron of every image, in the order in which they are written.
template <typename T>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 3) layer_lines_kernel(const LayerLinesLaunch<T> args) {
  const Index neurons = args.pixels * args.channels, at = Index(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= args.images * neurons) return;
  const Index image = quotient(at, neurons), inside = at - image * neurons;
  const Index pixel = quotient(inside, args.channels);
  const Index neuron = (inside - pixel * args.channels) * args.pixels + pixel;
  if (image == 0 && args.out.bias != nullptr) args.out.bias[inside] = load_per_neuron(args.bias, neuron);
  if (args.relaxation.l == nullptr) return;
  const BoundingLines<T> lines = neuron_lines(args.relaxation, image, neuron);
  args.out.plane(0)[at] = lines.lower_slope;
  args.out.plane(1)[at] = lines.lower_intercept;
  args.out.plane(2)[at] = lines.upper_slope;
  args.out.plane(3)[at] = lines.upper_intercept;
}

template <typename T>
struct RelaxWindowsLaunch {
  RelaxWindowsArguments<T> op;  // `relaxed` null: the constants alone
  LayerLines<T> lines;
  int warps_per_row;
};

// The lines and the bias under a lane's numbers.
template <typename T, bool kAligned>
struct LinesUnder {
  Pack<T> lower_slope, lower_intercept, upper_slope, upper_intercept, bias;

  LBP_DEVICE LinesUnder(const LayerLines<T>& lines, const RowWindows<T>& A, const WindowRow& where,
                        const WindowStep<T, kAligned>& numbers) {
    const Index begin = first_in_layer(A, where);
    const Index image = where.image * A.layer_height * A.layer_width * A.channels;
    const auto under = [&](const T* plane, Index offset, T missing) {
      return numbers.under(plane == nullptr ? nullptr : plane + offset, missing);
    };
    lower_slope = under(lines.plane(0), image + begin, T(1));
    lower_intercept = under(lines.plane(1), image + begin, T(0));
    upper_slope = under(lines.plane(2), image + begin, T(1));
    upper_intercept = under(lines.plane(3), image + begin, T(0));
    bias = under(lines.bias, begin, T(0));
  }
  LBP_DEVICE T slope(bool lower, int i) const { return lower ? lower_slope[i] : upper_slope[i]; }
  LBP_DEVICE T intercept(bool lower, int i) const { return lower ? lower_intercept[i] : upper_intercept[i]; }
};

// Pushes a step of both sides through their lines, and adds to the constants.
template <typename T, bool kAligned>
LBP_DEVICE void relax_step(const RelaxWindowsLaunch<T>& args, const WindowRow& where, Index row, Index step,
                           double (&constants)[2]) {
  const RowWindows<T>& A = args.op.A;
  const Index sides = side_count(args.op.sides);
  const WindowStep<T, kAligned> numbers(A, step);
  Pack<T> a[2];
#pragma unroll
  for (int side = 0; side < 2; ++side) {
    if (side < sides) a[side] = numbers.own.load(numbers_of(A, side, where));
  }
  const LinesUnder<T, kAligned> under(args.lines, A, where, numbers);
#pragma unroll
  for (int side = 0; side < 2; ++side) {
    if (side >= sides) break;
    const bool lower = is_lower(args.op.sides, side);
#pragma unroll
    for (int i = 0; i < kOwn<T>; ++i) {
      const T value = a[side][i];
      const bool takes_lower = (value >= T(0)) == lower;
      const T relaxed = value * under.slope(takes_lower, i);
      constants[side] += double(value) * double(under.intercept(takes_lower, i));
      constants[side] += double(relaxed) * double(under.bias[i]);
      a[side][i] = relaxed;
    }
    numbers.own.store_if(args.op.relaxed, (side * A.rows + row) * window_size(A), a[side]);
  }
}

template <typename T, bool kAligned>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 2) relax_windows_kernel(const RelaxWindowsLaunch<T> args) {
  LBP_SHARED(double, warp_sums, 2 * kWarps);
  const RelaxWindowsArguments<T>& op = args.op;
  const RowWindows<T>& A = op.A;
  const RowOfWarp own(args.warps_per_row);
  double constants[2] = {0, 0};
  if (own.row < A.rows) {
    const WindowRow where = read_row(A.where + own.row);
    if (stands(A, where)) {
      for_steps<2>(A, own, [&](Index step) { relax_step<T, kAligned>(args, where, own.row, step, constants); });
    } else {
      constants[0] = constants[1] = quiet_nan<double>();
      for_steps<1>(A, own, [&](Index step) {
        const Own<T, kAligned, kLanes> numbers(step, window_size(A));
        Pack<T> nothing;
        for (int i = 0; i < kOwn<T>; ++i) nothing[i] = quiet_nan<T>();
        for (Index side = 0; side < side_count(op.sides); ++side) {
          numbers.store_if(op.relaxed, (side * A.rows + own.row) * window_size(A), nothing);
        }
      });
    }
  }
  reduce_rows(constants, own, Sum(), warp_sums, [&](Index side, double constant) {
    if (own.row < A.rows && side < side_count(op.sides)) op.constants[side * A.rows + own.row] = constant;
  });
}

}  // namespace lbp::cuda
