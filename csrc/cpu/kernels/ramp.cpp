#include <algorithm>
#include <array>
#include <cstddef>

#include "cpu/kernels/stream.h"
#include "cpu/kernels/table.h"
#include "cpu/kernels/tile.h"

namespace lbp::LBP_ISA {
namespace {

struct Nothing {};

// Runs body(image, begin, size, r of the tile, state) over tiles of [B, n] in the order of memory; every thread makes a
// state for its tiles.
template <typename T, typename MakeState, typename Body>
void for_tiles(Index batch, Index neurons, const PerNeuron<T>& r, const MakeState& make_state, const Body& body) {
  const Index tiles = quotient_up(neurons, kTile);
  const bool in_place = has_value_per_neuron(r) && r.count == neurons, is_one = r.data == nullptr || r.count == 1;
  parallel_for(batch * tiles, minimum(neurons, kTile), [&](Index first, Index last) {
    alignas(64) T r_tile[kTile];
    auto state = make_state();
    if (is_one) load_per_neuron(r, 0, minimum(neurons, kTile), r_tile);
    Index loaded = -1;
    for (Index item = first; item < last; ++item) {
      const Index tile = item % tiles, begin = tile * kTile, size = minimum(kTile, neurons - begin);
      if (!in_place && !is_one && tile != loaded) load_per_neuron(r, begin, size, r_tile);
      loaded = tile;
      body(item / tiles, begin, size, in_place ? r.data + begin : r_tile, state);
    }
    finish_streaming();
  });
}

// The activation over one tile.
template <bool kStreamed, typename T>
void ramp_run(Index size, const T* z, const T* r, T eta, T* out) {
  for_lanes<T>(kStreamed ? unaligned_head(size, out) : 0, size, [=](Index j, auto lanes) LBP_LANES {
    using V = decltype(lanes);
    store<kStreamed>(out + j, lbp::ramp(load<V>(z + j), load<V>(r + j), eta));
  });
}

// The activation at both ends of a tile of intervals.
template <typename T>
void ramp_interval_run(Index size, const T* l, const T* u, const T* r, T eta, T* lower, T* upper, bool streamed) {
  // A vector of both is streamed at a time.
  const Index head = unaligned_head(size, lower);
  with_flag(streamed && head == unaligned_head(size, upper), [&](auto past_caches) {
    for_lanes<T>(past_caches ? head : 0, size, [&](Index j, auto lanes) LBP_LANES {
      using V = decltype(lanes);
      const V bend = load<V>(r + j);
      store<past_caches>(lower + j, lbp::ramp(load<V>(l + j), bend, eta));
      store<past_caches>(upper + j, lbp::ramp(load<V>(u + j), bend, eta));
    });
  });
}

// Pre-activations [B, n], the gradient with respect to their activations, and where that with respect to them goes
// (null: nowhere).
template <typename T>
struct GradientArrays {
  const T* z;
  const T* gradient;
  T* out;

  GradientArrays at(Index offset) const { return {z + offset, gradient + offset, out == nullptr ? out : out + offset}; }
};

// The gradients over one tile, of as many arrays as there are; those with respect to r are added to r_sum (null: not
// asked for). Meanwhile the caches are asked for what lies `ahead`.
template <bool kStreamed, typename T, std::size_t kArrays>
void ramp_gradient_run(Index head, Index size, const std::array<GradientArrays<T>, kArrays>& arrays, const T* r, T eta,
                       T* r_sum, Index ahead) {
  with_flag(r_sum != nullptr, [&](auto adds_up) {
    for_lanes<T>(head, size, [&](Index j, auto zero) LBP_LANES {
      using V = decltype(zero);
      const V bend = load<V>(r + j), outer = zero + eta;
      V in_r = zero;
      for (const GradientArrays<T>& to : arrays) {
        const V z = load<V>(to.z + j), gradient = load<V>(to.gradient + j);
        if (to.out != nullptr) store<kStreamed>(to.out + j, V(gradient * ramp_slope(z, bend, outer)));
        if constexpr (adds_up) {
          __builtin_prefetch(to.z + j + ahead);
          __builtin_prefetch(to.gradient + j + ahead);
          in_r += gradient * ramp_slope_in_r(z, bend, outer);
        }
      }
      if constexpr (adds_up) save(r_sum + j, V(load<V>(r_sum + j) + in_r));
    });
  });
}

template <typename T, std::size_t kArrays, typename Arguments>
void ramp_gradients(const Arguments& args, const std::array<GradientArrays<T>, kArrays>& arrays) {
  const Index batch = args.batch, neurons = args.neurons;
  const bool streamed = is_streamed(Index(kArrays) * batch * neurons * Index(sizeof(T)));
  const auto run = [&](Index at, Index size, const T* r, T* r_sum, Index ahead) {
    std::array<GradientArrays<T>, kArrays> here;
    for (std::size_t i = 0; i < kArrays; ++i) here[i] = arrays[i].at(at);
    const Index head = unaligned_head(size, here[0].out);
    with_flag(streamed && head == unaligned_head(size, here[kArrays - 1].out), [&](auto past_caches) {
      ramp_gradient_run<past_caches>(past_caches ? head : 0, size, here, r, args.eta, r_sum, ahead);
    });
  };
  if (args.r_gradient == nullptr) {
    const auto body = [&](Index image, Index begin, Index size, const T* r, Nothing&) {
      run(image * neurons + begin, size, r, nullptr, 0);
    };
    return for_tiles(batch, neurons, args.r, [] { return Nothing(); }, body);
  }
  parallel_for(quotient_up(neurons, kTile), Index(kArrays) * batch * minimum(neurons, kTile),
               [&](Index first, Index last) {
                 alignas(64) T r[kTile], r_sum[kTile];
                 for (Index tile = first; tile < last; ++tile) {
                   const Index begin = tile * kTile, size = minimum(kTile, neurons - begin);
                   load_per_neuron(args.r, begin, size, r);
                   std::fill_n(r_sum, size, T(0));
                   for (Index image = 0; image < batch; ++image) {
                     // Images lie pages apart, where the hardware does not look ahead.
                     run(image * neurons + begin, size, r, r_sum, image + 1 < batch ? neurons : 0);
                   }
                   std::copy_n(r_sum, size, args.r_gradient + begin);
                 }
                 finish_streaming();
               });
}

// Neurons whose lines are computed and written past the caches at a time, few enough for the writes to drain during the
// next.
constexpr Index kStreamedRun = 128;

// How many neurons a thread has met of each status; added to the counts of all threads when it is done.
class StatusCounts {
 public:
  explicit StatusCounts(Index* all) : all_(all) {}
  StatusCounts(const StatusCounts&) = delete;
  StatusCounts& operator=(const StatusCounts&) = delete;

  ~StatusCounts() {
    for (int status = 0; all_ != nullptr && status < 6; ++status) {
      __atomic_fetch_add(&all_[status], counts_[status], __ATOMIC_RELAXED);
    }
  }

  // Adds the neurons of a tile.
  template <typename T>
  void add(Index size, const T* __restrict l, const T* __restrict u, const T* __restrict r) {
    // Of `neuron_status`, conditions that need no order among each other; what remains follows from these.
    int defined = 0, dead = 0, crossing = 0, bent = 0, beyond = 0, unstable = 0;
#pragma omp simd reduction(+ : defined, dead, crossing, bent, beyond, unstable)
    for (Index j = 0; j < size; ++j) {
      const T low = l[j] <= u[j] ? l[j] : u[j], high = l[j] <= u[j] ? u[j] : l[j];
      const bool is_defined = (l[j] == l[j]) & (u[j] == u[j]) & (r[j] > T(0));
      const bool crosses = is_defined & (low < T(0)) & (high > T(0)), bends = is_defined & (high > r[j]);
      defined += is_defined;
      dead += is_defined & (high <= T(0));
      crossing += crosses;
      bent += bends;
      beyond += bends & (low >= r[j]);
      unstable += crosses & bends;
    }
    const int left = crossing - unstable, right = bent - beyond - unstable;
    const int found[6] = {dead, left, defined - dead - left - bent, right, beyond, unstable};
    for (int status = 0; status < 6; ++status) counts_[status] += found[status];
  }

 private:
  Index* all_;
  Index counts_[6] = {};
};

}  // namespace

template <typename T>
void ramp(const RampArguments<T>& args) {
  const bool streamed = is_streamed(args.batch * args.neurons * Index(sizeof(T)));
  const auto run = streamed ? ramp_run<true, T> : ramp_run<false, T>;
  const auto body = [&](Index image, Index begin, Index size, const T* r, Nothing&) {
    const Index at = image * args.neurons + begin;
    run(size, args.z + at, r, args.eta, args.out + at);
  };
  for_tiles(args.batch, args.neurons, args.r, [] { return Nothing(); }, body);
}

template <typename T>
void ramp_gradient(const RampGradientArguments<T>& args) {
  ramp_gradients<T, 1>(args, {{{args.z, args.out_gradient, args.z_gradient}}});
}

template <typename T>
void ramp_interval(const RampIntervalArguments<T>& args) {
  if (args.counts != nullptr) {
    for (int status = 0; status < 6; ++status) args.counts[status] = 0;
  }
  const bool streamed = is_streamed(2 * args.batch * args.neurons * Index(sizeof(T)));
  const auto body = [&](Index image, Index begin, Index size, const T* r, StatusCounts& counts) {
    const Index at = image * args.neurons + begin;
    ramp_interval_run(size, args.l + at, args.u + at, r, args.eta, args.lower + at, args.upper + at, streamed);
    if (args.counts != nullptr) counts.add(size, args.l + at, args.u + at, r);
  };
  for_tiles(args.batch, args.neurons, args.r, [&] { return StatusCounts(args.counts); }, body);
}

template <typename T>
void status_counts(const StatusCountsArguments<T>& args) {
  for (int status = 0; status < 6; ++status) args.counts[status] = 0;
  const auto body = [&](Index image, Index begin, Index size, const T* r, StatusCounts& counts) {
    const Index at = image * args.neurons + begin;
    counts.add(size, args.l + at, args.u + at, r);
  };
  for_tiles(args.batch, args.neurons, args.r, [&] { return StatusCounts(args.counts); }, body);
}

template <typename T>
void ramp_interval_gradient(const RampIntervalGradientArguments<T>& args) {
  ramp_gradients<T, 2>(
      args, {{{args.l, args.lower_gradient, args.l_gradient}, {args.u, args.upper_gradient, args.u_gradient}}});
}

template <typename T>
void bounding_lines(const BoundingLinesArguments<T>& args) {
  const bool streamed = is_streamed(4 * args.batch * args.neurons * Index(sizeof(T)));
  const Index run = streamed ? kStreamedRun : kTile, runs = quotient_up(args.neurons, run);
  parallel_for(args.batch * runs, 6 * minimum(args.neurons, run), [&](Index first, Index last) {
    LineTile<T> lines;
    for (Index item = first; item < last; ++item) {
      const Index image = item / runs, begin = item % runs * run, size = minimum(run, args.neurons - begin);
      const Index out = image * args.neurons + begin;
      if (!streamed) {
        load_lines<T>(
            args.relaxation, image, begin, size,
            {args.lower_slope + out, args.lower_intercept + out, args.upper_slope + out, args.upper_intercept + out});
        continue;
      }
      load_lines(args.relaxation, image, begin, size, lines);
      stream(size, lines.lower_slope, args.lower_slope + out);
      stream(size, lines.lower_intercept, args.lower_intercept + out);
      stream(size, lines.upper_slope, args.upper_slope + out);
      stream(size, lines.upper_intercept, args.upper_intercept + out);
    }
    if (streamed) finish_streaming();
  });
}

template <typename T>
void bounding_lines_gradient(const BoundingLinesGradientArguments<T>& args) {
  const Index tiles = quotient_up(args.neurons, kTile);
  parallel_for(args.batch * tiles, 8 * minimum(args.neurons, kTile), [&](Index first, Index last) {
    for (Index item = first; item < last; ++item) {
      const Index image = item / tiles, begin = item % tiles * kTile, size = minimum(kTile, args.neurons - begin);
      const Index in = image * args.neurons + begin;
      store_line_gradients<T>(args.relaxation, image, args.neurons, begin, size,
                              {args.lower_slope_gradient + in, args.lower_intercept_gradient + in,
                               args.upper_slope_gradient + in, args.upper_intercept_gradient + in},
                              args.gradients);
    }
  });
}

#define LBP_INSTANTIATE(T)                                                       \
  template void ramp(const RampArguments<T>&);                                   \
  template void ramp_gradient(const RampGradientArguments<T>&);                  \
  template void ramp_interval(const RampIntervalArguments<T>&);                  \
  template void ramp_interval_gradient(const RampIntervalGradientArguments<T>&); \
  template void status_counts(const StatusCountsArguments<T>&);                  \
  template void bounding_lines(const BoundingLinesArguments<T>&);                \
  template void bounding_lines_gradient(const BoundingLinesGradientArguments<T>&);

LBP_INSTANTIATE(float)
LBP_INSTANTIATE(double)

}  // namespace lbp::LBP_ISA
