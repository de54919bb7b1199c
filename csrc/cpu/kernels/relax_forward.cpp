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

// Rows of the matrices, `stride` numbers apart, with the gradients of what became of them, and where theirs are written
// (null: not wanted).
template <typename T>
struct GradientRows {
  const T *center, *radius, *to_center, *to_radius;
  T *center_gradient, *radius_gradient;
  Index stride;
};

// Rows whose gradients are taken together: a sum is read and written once for all of them.
constexpr Index kRowsTogether = 4;

// Adds the gradients of R rows with respect to the scales, row after row, and writes those of the rows.
template <Index R, bool kRadius, typename T>
void scale_rows_gradient(Index size, const ScaleTile<T>& scales, const GradientRows<T>& rows, ScaleTile<T>& sums) {
  for_lanes<T>(0, size, [&](Index j, auto zero) LBP_LANES {
    using V = decltype(zero);
    const V center_to_center = load<V>(scales.center_to_center + j);
    const V center_to_radius = load<V>(scales.center_to_radius + j);
    const V radius_to_center = load<V>(scales.radius_to_center + j);
    const V radius_to_radius = load<V>(scales.radius_to_radius + j);
    V to_center_to_center = load<V>(sums.center_to_center + j),
      to_center_to_radius = load<V>(sums.center_to_radius + j);
    V to_radius_to_center = load<V>(sums.radius_to_center + j),
      to_radius_to_radius = load<V>(sums.radius_to_radius + j);
    for (Index row = 0; row < R; ++row) {
      const Index at = row * rows.stride + j;
      const V to_center = load<V>(rows.to_center + at), to_radius = load<V>(rows.to_radius + at);
      const V center = load<V>(rows.center + at);
      to_center_to_center += to_center * center;
      to_center_to_radius += to_radius * center;
      if (rows.center_gradient != nullptr) {
        save(rows.center_gradient + at, V(to_center * center_to_center + to_radius * center_to_radius));
      }
      if constexpr (kRadius) {
        const V radius = load<V>(rows.radius + at);
        to_radius_to_center += to_center * radius;
        to_radius_to_radius += to_radius * radius;
        if (rows.radius_gradient != nullptr) {
          save(rows.radius_gradient + at, V(to_center * radius_to_center + to_radius * radius_to_radius));
        }
      }
    }
    save(sums.center_to_center + j, to_center_to_center);
    save(sums.center_to_radius + j, to_center_to_radius);
    save(sums.radius_to_center + j, to_radius_to_center);
    save(sums.radius_to_radius + j, to_radius_to_radius);
  });
}

template <Index R, typename T>
void add_rows_gradient(Index size, const ScaleTile<T>& scales, const GradientRows<T>& rows, ScaleTile<T>& sums) {
  with_flag(rows.radius != nullptr,
            [&](auto has_radius) { scale_rows_gradient<R, has_radius>(size, scales, rows, sums); });
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
      const auto rows_from = [&](Index row) -> GradientRows<T> {
        const Index in = image * args.matrix_batch_stride + row * args.neurons + begin;
        const Index out = (image * args.inputs + row) * args.neurons + begin;
        return {args.center + in,
                offset(args.radius, in),
                args.center_out_gradient + out,
                args.radius_out_gradient + out,
                offset(args.center_gradient, out),
                offset(args.radius_gradient, out),
                args.neurons};
      };
      Index row = 0;
      for (; row + kRowsTogether <= args.inputs; row += kRowsTogether) {
        add_rows_gradient<kRowsTogether>(size, scales, rows_from(row), sums);
      }
      for (; row < args.inputs; ++row) add_rows_gradient<1>(size, scales, rows_from(row), sums);
      const Index in = image * args.bias_batch_stride + begin, out = image * args.neurons + begin;
      const T* to_center = args.center_bias_out_gradient + out;
      const T* to_radius = args.radius_bias_out_gradient + out;
      add_rows_gradient<1>(size, scales,
                           {args.center_bias + in, offset(args.radius_bias, in), to_center, to_radius,
                            offset(args.center_bias_gradient, out), offset(args.radius_bias_gradient, out), 0},
                           sums);
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
