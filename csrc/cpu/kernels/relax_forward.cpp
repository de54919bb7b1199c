#include "cpu/kernels/stream.h"
#include "cpu/kernels/table.h"
#include "cpu/kernels/tile.h"
#include "math/forward_scales.h"

namespace lbp::LBP_ISA {
namespace {

// ForwardScales of a tile of neurons.
template <typename T>
struct ScaleTile {
  alignas(64) T center_to_center[kTile];
  alignas(64) T radius_to_center[kTile];
  alignas(64) T center_to_radius[kTile];
  alignas(64) T radius_to_radius[kTile];
};

template <typename T>
void load_scales(const LineTile<T>& lines, Index size, ScaleTile<T>& scales) {
  for (Index j = 0; j < size; ++j) {
    const ForwardScales<T> scale = forward_scales(lines.lower_slope[j], lines.upper_slope[j]);
    scales.center_to_center[j] = scale.center_to_center;
    scales.radius_to_center[j] = scale.radius_to_center;
    scales.center_to_radius[j] = scale.center_to_radius;
    scales.radius_to_radius[j] = scale.radius_to_radius;
  }
}

// One row of the matrices over one tile. Past the caches, these are asked meanwhile for the row `ahead` of it: rows lie
// pages apart, where the hardware does not look ahead.
template <bool kRadius, bool kStreamed, typename T>
void scale_run(Index size, const ScaleTile<T>& scales, const T* center, const T* radius, Index ahead, T* center_out,
               T* radius_out) {
  for_lanes<T>(kStreamed ? unaligned_head(size, center_out) : 0, size, [&](Index j, auto zero) LBP_LANES {
    using V = decltype(zero);
    if constexpr (kStreamed) __builtin_prefetch(center + ahead + j);
    const V c = load<V>(center + j);
    V middle = load<V>(scales.center_to_center + j) * c, half = load<V>(scales.center_to_radius + j) * c;
    if constexpr (kRadius) {
      if constexpr (kStreamed) __builtin_prefetch(radius + ahead + j);
      const V r = load<V>(radius + j);
      middle += load<V>(scales.radius_to_center + j) * r;
      half += load<V>(scales.radius_to_radius + j) * r;
    }
    store<kStreamed>(center_out + j, middle);
    store<kStreamed>(radius_out + j, half);
  });
}

template <typename T>
void scale_row(Index size, const ScaleTile<T>& scales, const T* center, const T* radius, Index ahead, T* center_out,
               T* radius_out, bool streamed) {
  // A vector of both results is streamed at a time.
  streamed = streamed && unaligned_head(size, center_out) == unaligned_head(size, radius_out);
  with_flag(streamed, [&](auto past_caches) {
    with_flag(radius != nullptr, [&](auto has_radius) {
      scale_run<has_radius, past_caches>(size, scales, center, radius, ahead, center_out, radius_out);
    });
  });
}

// Adds one row's gradients with respect to the scales, and writes those of center and radius (null: not wanted).
template <typename T>
void scale_row_gradient(Index size, const ScaleTile<T>& scales, const T* __restrict center, const T* __restrict radius,
                        const T* __restrict to_center, const T* __restrict to_radius, ScaleTile<T>& sums,
                        T* __restrict center_gradient, T* __restrict radius_gradient) {
  for (Index j = 0; j < size; ++j) {
    sums.center_to_center[j] += to_center[j] * center[j];
    sums.center_to_radius[j] += to_radius[j] * center[j];
  }
  if (radius != nullptr) {
    for (Index j = 0; j < size; ++j) {
      sums.radius_to_center[j] += to_center[j] * radius[j];
      sums.radius_to_radius[j] += to_radius[j] * radius[j];
    }
  }
  if (center_gradient != nullptr) {
    for (Index j = 0; j < size; ++j) {
      center_gradient[j] = to_center[j] * scales.center_to_center[j] + to_radius[j] * scales.center_to_radius[j];
    }
  }
  if (radius_gradient != nullptr) {
    for (Index j = 0; j < size; ++j) {
      radius_gradient[j] = to_center[j] * scales.radius_to_center[j] + to_radius[j] * scales.radius_to_radius[j];
    }
  }
}

template <typename T>
const T* offset(const T* data, Index by) {
  return data == nullptr ? nullptr : data + by;
}

template <typename T>
T* offset(T* data, Index by) {
  return data == nullptr ? nullptr : data + by;
}

}  // namespace

template <typename T>
void relax_forward(const RelaxForwardArguments<T>& args) {
  const Index tiles = quotient_up(args.neurons, kTile);
  const bool streamed = is_streamed(2 * args.batch * args.inputs * args.neurons * Index(sizeof(T)));
  parallel_for(args.batch * tiles, 2 * (args.inputs + 1) * minimum(args.neurons, kTile), [&](Index first, Index last) {
    LineTile<T> lines;
    ScaleTile<T> scales;
    for (Index item = first; item < last; ++item) {
      const Index image = item / tiles, begin = item % tiles * kTile, size = minimum(kTile, args.neurons - begin);
      load_lines(args.relaxation, image, begin, size, lines);
      load_scales(lines, size, scales);
      for (Index row = 0; row < args.inputs; ++row) {
        const Index in = image * args.matrix_batch_stride + row * args.neurons + begin;
        const Index out = (image * args.inputs + row) * args.neurons + begin;
        const Index ahead = row + 1 < args.inputs ? args.neurons : 0;
        scale_row(size, scales, args.center + in, offset(args.radius, in), ahead, args.center_out + out,
                  args.radius_out + out, streamed);
      }
      const Index in = image * args.bias_batch_stride + begin, out = image * args.neurons + begin;
      T* center_bias = args.center_bias_out + out;
      T* radius_bias = args.radius_bias_out + out;
      scale_row(size, scales, args.center_bias + in, offset(args.radius_bias, in), 0, center_bias, radius_bias, false);
      for (Index j = 0; j < size; ++j) {
        center_bias[j] += center_intercept(lines.lower_intercept[j], lines.upper_intercept[j]);
        radius_bias[j] += radius_intercept(lines.lower_intercept[j], lines.upper_intercept[j]);
      }
    }
    if (streamed) finish_streaming();
  });
}

template <typename T>
void relax_forward_gradient(const RelaxForwardGradientArguments<T>& args) {
  const Index tiles = quotient_up(args.neurons, kTile);
  parallel_for(args.batch * tiles, 4 * (args.inputs + 1) * minimum(args.neurons, kTile), [&](Index first, Index last) {
    LineTile<T> lines;
    ScaleTile<T> scales, sums;
    for (Index item = first; item < last; ++item) {
      const Index image = item / tiles, begin = item % tiles * kTile, size = minimum(kTile, args.neurons - begin);
      load_lines(args.relaxation, image, begin, size, lines);
      load_scales(lines, size, scales);
      sums = ScaleTile<T>();
      for (Index row = 0; row < args.inputs; ++row) {
        const Index in = image * args.matrix_batch_stride + row * args.neurons + begin;
        const Index out = (image * args.inputs + row) * args.neurons + begin;
        scale_row_gradient(size, scales, args.center + in, offset(args.radius, in), args.center_out_gradient + out,
                           args.radius_out_gradient + out, sums, offset(args.center_gradient, out),
                           offset(args.radius_gradient, out));
      }
      const Index in = image * args.bias_batch_stride + begin, out = image * args.neurons + begin;
      const T* to_center = args.center_bias_out_gradient + out;
      const T* to_radius = args.radius_bias_out_gradient + out;
      scale_row_gradient(size, scales, args.center_bias + in, offset(args.radius_bias, in), to_center, to_radius, sums,
                         offset(args.center_bias_gradient, out), offset(args.radius_bias_gradient, out));
      LineTile<T> gradients;
      for (Index j = 0; j < size; ++j) {
        const ForwardScales<T> to_scales = {sums.center_to_center[j], sums.radius_to_center[j],
                                            sums.center_to_radius[j], sums.radius_to_radius[j]};
        const BoundingLines<T> to_lines =
            forward_scales_gradient(lines.lower_slope[j], lines.upper_slope[j], to_scales, to_center[j], to_radius[j]);
        gradients.lower_slope[j] = to_lines.lower_slope;
        gradients.lower_intercept[j] = to_lines.lower_intercept;
        gradients.upper_slope[j] = to_lines.upper_slope;
        gradients.upper_intercept[j] = to_lines.upper_intercept;
      }
      store_line_gradients(args.relaxation, image, args.neurons, begin, size, pointers_to(gradients), args.gradients);
    }
  });
}

#define LBP_INSTANTIATE(T)                                      \
  template void relax_forward(const RelaxForwardArguments<T>&); \
  template void relax_forward_gradient(const RelaxForwardGradientArguments<T>&);

LBP_INSTANTIATE(float)
LBP_INSTANTIATE(double)

}  // namespace lbp::LBP_ISA
