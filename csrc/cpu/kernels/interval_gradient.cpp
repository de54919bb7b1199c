#include <vector>

#include "cpu/kernels/simd.h"
#include "cpu/kernels/stream.h"
#include "cpu/kernels/table.h"
#include "cpu/kernels/tile.h"

namespace lbp::LBP_ISA {
namespace {

// Rows of W that are worked on together: as many as the registers hold, their gradients beside them.
constexpr Index kRows = kVectorRegisters == 32 ? 4 : 2;

// Numbers of the examples in a strip of columns. They, and the gradients by them, stay in the first caches while the
// rows of W pass.
constexpr Index kStrip = 2048;

// A vector with the signs of others; 0 where they are 0.
template <typename T>
typename Vector<T>::Type times_sign(typename Vector<T>::Type value, typename Vector<T>::Type of) {
  const typename Vector<T>::Type zero = {};
  return of > zero ? value : (of < zero ? -value : zero);
}

// Center and radius of the gradients by the result, of the examples of each group of rows in turn: kRows of either.
template <typename T>
std::vector<T> turned_gradients(const IntervalLinearGradientArguments<T>& args) {
  std::vector<T> turned(size_t(quotient_up(args.outputs, kRows) * args.batch * 2 * kRows));
  for (Index example = 0; example < args.batch; ++example) {
    for (Index row = 0; row < args.outputs; ++row) {
      const T lower = args.lower_gradient[example * args.outputs + row];
      const T upper = args.upper_gradient[example * args.outputs + row];
      T* to = turned.data() + (row / kRows * args.batch + example) * 2 * kRows + row % kRows;
      to[0] = (lower + upper) / 2;
      to[kRows] = (upper - lower) / 2;
    }
  }
  return turned;
}

// A strip of columns: twice the centers and radii of the examples, and the gradients by these.
template <typename T>
class Strip {
 public:
  explicit Strip(const IntervalLinearGradientArguments<T>& args)
      : args_(args),
        width_(width_of(args)),
        // Of whole vectors.
        streamed_(is_streamed(args.outputs * args.inputs * Index(sizeof(T))) && args.inputs % Vector<T>::kSize == 0 &&
                  unaligned_head(args.inputs, args.weight_gradient) == 0),
        center_(numbers()),
        radius_(numbers()),
        to_center_(numbers()),
        to_radius_(numbers()) {}

  static Index width_of(const IntervalLinearGradientArguments<T>& args) {
    const Index wanted = minimum(kStrip / maximum(args.batch, 1), quotient_up(args.inputs, 4));
    return quotient_up(maximum(wanted, 1), Vector<T>::kSize) * Vector<T>::kSize;
  }

  void run(Index begin, const T* turned) {
    begin_ = begin;
    size_ = minimum(width_, args_.inputs - begin);
    load();
    for (Index row = 0; row < args_.outputs; row += kRows) {
      const T* of_rows = turned + row / kRows * args_.batch * 2 * kRows;
      with_flag(streamed_, [&](auto streamed) { add_rows<kRows, streamed>(row, of_rows); });
    }
    for (Index example = 0; example < args_.batch; ++example) {
      const T* __restrict center = to_center_.data() + example * width_;
      const T* __restrict radius = to_radius_.data() + example * width_;
      T* __restrict l = args_.l_gradient + example * args_.inputs + begin_;
      T* __restrict u = args_.u_gradient + example * args_.inputs + begin_;
      for (Index i = 0; i < size_; ++i) l[i] = center[i] - radius[i];
      for (Index i = 0; i < size_; ++i) u[i] = center[i] + radius[i];
    }
  }

 private:
  size_t numbers() const { return size_t(args_.batch * width_); }

  void load() {
    for (Index example = 0; example < args_.batch; ++example) {
      const T* __restrict l = args_.l + example * args_.inputs + begin_;
      const T* __restrict u = args_.u + example * args_.inputs + begin_;
      T* __restrict center = center_.data() + example * width_;
      T* __restrict radius = radius_.data() + example * width_;
      for (Index i = 0; i < size_; ++i) center[i] = l[i] + u[i];
      for (Index i = 0; i < size_; ++i) radius[i] = u[i] - l[i];
      for (Index i = size_; i < width_; ++i) center[i] = radius[i] = 0;
    }
    to_center_.assign(numbers(), T(0));
    to_radius_.assign(numbers(), T(0));
  }

  // R rows of W from `row` on, or what there is of them.
  template <Index R, bool kStreamed>
  void add_rows(Index row, const T* turned) {
    if constexpr (R > 1) {
      if (args_.outputs - row < R) return add_rows<R - 1, kStreamed>(row, turned);
    }
    constexpr Index kSize = Vector<T>::kSize;
    const T* weight = args_.weight + row * args_.inputs + begin_;
    T* weight_gradient = args_.weight_gradient + row * args_.inputs + begin_;
    Index at = 0;
    for (; at + kSize <= size_; at += kSize) {
      add_vectors<R, kStreamed>(weight + at, weight_gradient + at, args_.inputs, at, turned);
    }
    if (at == size_) return;
    T padded[R][kSize] = {}, padded_gradient[R][kSize];
    for (Index j = 0; j < R; ++j) {
      for (Index i = at; i < size_; ++i) padded[j][i - at] = weight[j * args_.inputs + i];
    }
    add_vectors<R, false>(padded[0], padded_gradient[0], kSize, at, turned);
    for (Index j = 0; j < R; ++j) {
      for (Index i = at; i < size_; ++i) weight_gradient[j * args_.inputs + i] = padded_gradient[j][i - at];
    }
  }

  // A vector of each of R rows, `stride` apart; `at` is its place in the strip.
  template <Index R, bool kStreamed>
  void add_vectors(const T* weight, T* weight_gradient, Index stride, Index at, const T* turned) {
    typename Vector<T>::Type w[R], absolute_w[R], through_center[R] = {}, through_radius[R] = {};
    for (Index j = 0; j < R; ++j) {
      w[j] = load_vector(weight + j * stride);
      absolute_w[j] = magnitude<T>(w[j]);
    }
    for (Index example = 0; example < args_.batch; ++example) {
      const T* gradients = turned + example * 2 * kRows;
      const Index place = example * width_ + at;
      const auto center = load_vector(center_.data() + place), radius = load_vector(radius_.data() + place);
      auto to_center = load_vector(to_center_.data() + place), to_radius = load_vector(to_radius_.data() + place);
      for (Index j = 0; j < R; ++j) {
        const auto by_center = broadcast(gradients[j]), by_radius = broadcast(gradients[kRows + j]);
        through_center[j] = multiply_add(by_center, center, through_center[j]);
        through_radius[j] = multiply_add(by_radius, radius, through_radius[j]);
        to_center = multiply_add(by_center, w[j], to_center);
        to_radius = multiply_add(by_radius, absolute_w[j], to_radius);
      }
      store_vector(to_center_.data() + place, to_center);
      store_vector(to_radius_.data() + place, to_radius);
    }
    for (Index j = 0; j < R; ++j) {
      const auto sum = through_center[j] + times_sign<T>(through_radius[j], w[j]);
      if constexpr (kStreamed) {
        stream_vector(weight_gradient + j * stride, sum);
      } else {
        store_vector(weight_gradient + j * stride, sum);
      }
    }
  }

  const IntervalLinearGradientArguments<T>& args_;
  const Index width_;
  const bool streamed_;
  Index begin_ = 0, size_ = 0;
  std::vector<T> center_, radius_, to_center_, to_radius_;  // [B, width]
};

}  // namespace

template <typename T>
void interval_linear_gradient(const IntervalLinearGradientArguments<T>& args) {
  const std::vector<T> turned = turned_gradients(args);
  const Index width = Strip<T>::width_of(args);
  parallel_for(quotient_up(args.inputs, width), width * args.outputs * args.batch, [&](Index first, Index last) {
    Strip<T> strip(args);
    for (Index number = first; number < last; ++number) strip.run(number * width, turned.data());
    finish_streaming();
  });
}

template void interval_linear_gradient(const IntervalLinearGradientArguments<float>&);
template void interval_linear_gradient(const IntervalLinearGradientArguments<double>&);

}  // namespace lbp::LBP_ISA
