#include <algorithm>
#include <vector>

#include "cpu/kernels/row_norm.h"
#include "cpu/kernels/simd.h"
#include "cpu/kernels/stream.h"
#include "cpu/kernels/table.h"

namespace lbp::LBP_ISA {
namespace {

// The ends of the intervals of a box in order.
template <typename T>
void load_ends(Index size, const T* __restrict x_L, const T* __restrict x_U, T* __restrict low, T* __restrict high) {
#pragma omp simd
  for (Index i = 0; i < size; ++i) {
    low[i] = extreme_point(x_L[i], x_U[i], true);
    high[i] = extreme_point(x_L[i], x_U[i], false);
  }
}

// sum_i a_i x_i with every x_i at the end that makes the sum smallest (lower) or largest. Meanwhile the caches are
// asked for what is read next: rows lie pages apart, where the hardware does not look ahead.
template <typename T>
double box_row(Index size, const T* a, const T* next_a, const T* low, const T* high, bool lower) {
  const T* at_positive = lower ? low : high;
  const T* at_negative = lower ? high : low;
  WideSum<T> sum;
  for_lanes<T>(0, size, [&](Index i, auto zero) LBP_LANES {
    using V = decltype(zero);
    __builtin_prefetch(next_a + i);
    const V value = load<V>(a + i);
    sum.add_product(value, value >= zero ? load<V>(at_positive + i) : load<V>(at_negative + i));
  });
  return sum.total();
}

template <typename T>
double dot_row(Index size, const T* a, const T* x) {
  WideSum<T> sum;
  for_lanes<T>(0, size, [&](Index i, auto zero) LBP_LANES {
    using V = decltype(zero);
    sum.add_product(load<V>(a + i), load<V>(x + i));
  });
  return sum.total();
}

// A row of an image, of those of all sides.
template <typename Arguments>
auto row_of(const Arguments& args, Index image, Index row) {
  const auto& A = args.A;
  return A.data + row / args.rows * A.side_stride + image * A.batch_stride + row % args.rows * A.row_stride;
}

// Rows that take turns on a tile of the box, whose ends stay in the first cache while they stream past.
constexpr Index kRowsOfBox = 8;

// The rows of all sides in pieces of about the same size, some for every thread where there are few images.
struct RowsOfBox {
  Index batch, rows, pieces, each;

  template <typename Arguments>
  explicit RowsOfBox(const Arguments& args) : batch(args.batch), rows(side_count(args.sides) * args.rows) {
    pieces = maximum(quotient_up(rows, kRowsOfBox), batch < 4 ? minimum(rows, 4) : 1);
    each = quotient_up(rows, maximum(pieces, 1));
  }

  Index count() const { return batch * pieces; }
  Index image(Index item) const { return item / pieces; }
  Index first(Index item) const { return minimum(item % pieces * each, rows); }
  Index last(Index item) const { return minimum(first(item) + each, rows); }
};

template <typename T>
void concretize_box(const ConcretizeArguments<T>& args) {
  const RowsOfBox rows(args);
  const Region<T>& region = args.region;
  parallel_for(rows.count(), rows.each * args.inputs, [&](Index first, Index last) {
    alignas(64) T low[kTile], high[kTile];
    for (Index item = first; item < last; ++item) {
      const Index image = rows.image(item), first_row = rows.first(item), count = rows.last(item) - first_row;
      const Index box = image * region.batch_stride;
      double sums[kRowsOfBox] = {};
      for (Index begin = 0; begin < args.inputs; begin += kTile) {
        const Index size = minimum(kTile, args.inputs - begin);
        load_ends(size, region.x_L + box + begin, region.x_U + box + begin, low, high);
        const auto row_at = [&](Index i) { return row_of(args, image, first_row + i) + begin; };
        for (Index i = 0; i < count; ++i) {
          const bool lower = is_lower(args.sides, (first_row + i) / args.rows);
          sums[i] += box_row(size, row_at(i), row_at(minimum(i + 1, count - 1)), low, high, lower);
        }
      }
      for (Index i = 0; i < count; ++i) {
        const Index side = (first_row + i) / args.rows, row = (first_row + i) % args.rows;
        args.bounds[(side * args.batch + image) * args.rows + row] = sums[i];
      }
    }
  });
}

}  // namespace

template <typename T>
void concretize(const ConcretizeArguments<T>& args) {
  const Index sides = side_count(args.sides);
  const Region<T>& region = args.region;
  if (region.x_U != nullptr) return concretize_box(args);
  parallel_for(sides * args.batch * args.rows, args.inputs, [&](Index first, Index last) {
    for (Index item = first; item < last; ++item) {
      const Index row = item % args.rows, image = item / args.rows % args.batch, side = item / args.rows / args.batch;
      const bool lower = is_lower(args.sides, side);
      const T* a = row_of(args, image, side * args.rows + row);
      const double spread = radius_of(region, image) * row_norm(args.inputs, a, region.q).norm;
      const double at_center = dot_row(args.inputs, a, region.x_L + image * region.batch_stride);
      args.bounds[item] = at_center + (lower ? -spread : spread);
    }
  });
}

namespace {

// The gradient of a run of coefficients over a box, `gradient` times the ends that they take. What is read next: see
// `box_row`.
template <bool kStreamed, typename T>
void box_gradient_run(Index size, const T* a, const T* next_a, const T* at_positive, const T* at_negative, T gradient,
                      T* out) {
  for_lanes<T>(kStreamed ? unaligned_head(size, out) : 0, size, [=](Index i, auto zero) LBP_LANES {
    using V = decltype(zero);
    __builtin_prefetch(next_a + i);
    const V end = load<V>(a + i) >= zero ? load<V>(at_positive + i) : load<V>(at_negative + i);
    store<kStreamed>(out + i, V(gradient * end));
  });
}

template <bool kStreamed, typename T>
void concretize_box_gradient(const ConcretizeGradientArguments<T>& args) {
  const RowsOfBox rows(args);
  const Region<T>& region = args.region;
  parallel_for(rows.count(), rows.each * args.inputs, [&](Index first, Index last) {
    alignas(64) T low[kTile], high[kTile];
    for (Index item = first; item < last; ++item) {
      const Index image = rows.image(item), box = image * region.batch_stride;
      for (Index begin = 0; begin < args.inputs; begin += kTile) {
        const Index size = minimum(kTile, args.inputs - begin);
        load_ends(size, region.x_L + box + begin, region.x_U + box + begin, low, high);
        for (Index row = rows.first(item); row < rows.last(item); ++row) {
          const Index next = minimum(row + 1, rows.last(item) - 1);
          const bool lower = is_lower(args.sides, row / args.rows);
          const Index bound = (row / args.rows * args.batch + image) * args.rows + row % args.rows;
          box_gradient_run<kStreamed>(size, row_of(args, image, row) + begin, row_of(args, image, next) + begin,
                                      lower ? low : high, lower ? high : low, T(args.bounds_gradient[bound]),
                                      args.A_gradient + bound * args.inputs + begin);
        }
      }
    }
    if (kStreamed) finish_streaming();
  });
}

// The gradient of a row over the ball of p = infinity: `gradient` times the center, or the end that a coefficient
// takes.
template <bool kStreamed, typename T>
void cube_gradient_run(Index size, const T* a, const T* x, T gradient, T eps, T* out) {
  for_lanes<T>(kStreamed ? unaligned_head(size, out) : 0, size, [=](Index i, auto zero) LBP_LANES {
    using V = decltype(zero);
    const V coefficient = load<V>(a + i), at_zero = coefficient * zero;  // NaN of NaN
    const V below = coefficient < zero ? zero - eps : at_zero;
    store<kStreamed>(out + i, V(gradient * (load<V>(x + i) + (coefficient > zero ? zero + eps : below))));
  });
}

// The gradient of a row over a ball.
template <typename T>
void ball_gradient_row(Index size, const T* __restrict a, const T* __restrict x, double gradient, double eps, double q,
                       bool streamed, T* __restrict out) {
  if (norm_kind(q) == Norm::kOne) {
    return with_flag(streamed,
                     [&](auto past_caches) { cube_gradient_run<past_caches>(size, a, x, T(gradient), T(eps), out); });
  }
  with_norm(q, [&](auto kind) {
    const RowNorm result = row_norm_for_slope(size, a, q);
    const auto write = [&](Index begin, Index end, T* __restrict to) {
      if constexpr (kind == Norm::kTwo && sizeof(T) == sizeof(float)) {
        // Norms of float32 numbers are 0 or so far from it that their inverse is finite.
        const double scale = result.norm > 0 ? eps / result.norm : 0.0;
        for (Index i = begin; i < end; ++i) to[i - begin] = T(gradient * (double(x[i]) + scale * double(a[i])));
      } else {
        for (Index i = begin; i < end; ++i) {
          const double slope = norm_slope<kind>(double(a[i]), result.norm, result.sum, result.largest, q);
          to[i - begin] = T(gradient * (double(x[i]) + eps * slope));
        }
      }
    };
    if (!streamed) return write(0, size, out);
    alignas(64) T run[kTile];
    for (Index begin = 0; begin < size; begin += kTile) {
      const Index end = minimum(begin + kTile, size);
      write(begin, end, run);
      stream(end - begin, run, out + begin);
    }
  });
}

}  // namespace

template <typename T>
void concretize_gradient(const ConcretizeGradientArguments<T>& args) {
  const Index sides = side_count(args.sides), items = sides * args.batch * args.rows;
  const Region<T>& region = args.region;
  const bool streamed = is_streamed(items * args.inputs * Index(sizeof(T)));
  if (region.x_U != nullptr) {
    return streamed ? concretize_box_gradient<true>(args) : concretize_box_gradient<false>(args);
  }
  parallel_for(items, args.inputs, [&](Index first, Index last) {
    for (Index item = first; item < last; ++item) {
      const Index row = item % args.rows, image = item / args.rows % args.batch, side = item / args.rows / args.batch;
      const double eps = radius_of(region, image) * (is_lower(args.sides, side) ? -1.0 : 1.0);
      ball_gradient_row(args.inputs, row_of(args, image, side * args.rows + row),
                        region.x_L + image * region.batch_stride, args.bounds_gradient[item], eps, region.q, streamed,
                        args.A_gradient + item * args.inputs);
    }
    if (streamed) finish_streaming();
  });
}

namespace {

// The part of the region under a window as one run of numbers. Neighbouring rows mostly stand at one place, whose part
// is gathered once for all of them.
template <typename T>
class RegionWindow {
 public:
  explicit RegionWindow(const ConcretizeWindowsArguments<T>& args)
      : args_(args), run_(args.A.width * args.A.channels), low_(size_t(args.A.height * run_)) {
    if (args.region.x_U != nullptr) high_.resize(low_.size());
  }

  void move_to(const WindowRow& where) {
    if (where.image == image_ && where.top == top_ && where.left == left_) return;
    image_ = where.image;
    top_ = where.top;
    left_ = where.left;
    const RowWindows<T>& A = args_.A;
    // With channels last, a row of pixels is one run of numbers in the window and in the image.
    for (Index y = 0; y < A.height; ++y) {
      const Index at = image_ * args_.region.batch_stride + ((top_ + y) * A.layer_width + left_) * A.channels;
      if (args_.region.x_U == nullptr) {
        std::copy_n(args_.region.x_L + at, run_, low_.data() + y * run_);
      } else {
        load_ends(run_, args_.region.x_L + at, args_.region.x_U + at, low_.data() + y * run_, high_.data() + y * run_);
      }
    }
  }

  // Of a ball the center.
  const T* low() const { return low_.data(); }
  const T* high() const { return high_.data(); }

 private:
  const ConcretizeWindowsArguments<T>& args_;
  const Index run_;
  std::vector<T> low_, high_;
  Index image_ = -1, top_ = 0, left_ = 0;
};

}  // namespace

template <typename T>
void concretize_windows(const ConcretizeWindowsArguments<T>& args) {
  const RowWindows<T>& A = args.A;
  const Region<T>& region = args.region;
  const Index sides = side_count(args.sides), size = A.height * A.width * A.channels;
  parallel_for(sides * A.rows, size, [&](Index first, Index last) {
    RegionWindow<T> window(args);
    for (Index item = first; item < last; ++item) {
      const Index side = item / A.rows;
      const WindowRow where = A.where[item % A.rows];
      const bool lower = is_lower(args.sides, side);
      const T* a = A.data + side * A.side_stride + where.source * A.source_stride;
      window.move_to(where);
      if (region.x_U != nullptr) {
        args.bounds[item] = box_row(size, a, a, window.low(), window.high(), lower);
      } else {
        const double spread = radius_of(region, where.image) * row_norm(size, a, region.q).norm;
        args.bounds[item] = dot_row(size, a, window.low()) + (lower ? -spread : spread);
      }
    }
  });
}

#define LBP_INSTANTIATE(T)                                                  \
  template void concretize(const ConcretizeArguments<T>&);                  \
  template void concretize_gradient(const ConcretizeGradientArguments<T>&); \
  template void concretize_windows(const ConcretizeWindowsArguments<T>&);

LBP_INSTANTIATE(float)
LBP_INSTANTIATE(double)

}  // namespace lbp::LBP_ISA
