#include "cpu/kernels/stream.h"
#include "cpu/kernels/table.h"
#include "cpu/kernels/tile.h"

namespace lbp::LBP_ISA {
namespace {

// Runs body(image, begin, size, r of the tile, state) over tiles of [B, n]; every thread makes a state for its tiles.
template <typename T, typename MakeState, typename Body>
void for_tiles(Index batch, Index neurons, const PerNeuron<T>& r, const MakeState& make_state, const Body& body) {
  const Index tiles = quotient_up(neurons, kTile);
  // Where r lies as the kernels read it, tiles go in the order of memory; else a tile of r is made for all images.
  const bool in_place = r.data != nullptr && r.count == neurons && r.inner == 1;
  parallel_for(batch * tiles, minimum(neurons, kTile), [&](Index first, Index last) {
    alignas(64) T r_tile[kTile];
    auto state = make_state();
    Index loaded = -1;
    for (Index item = first; item < last; ++item) {
      const Index tile = in_place ? item % tiles : item / batch, image = in_place ? item / tiles : item % batch;
      const Index begin = tile * kTile, size = minimum(kTile, neurons - begin);
      if (!in_place && tile != loaded) load_per_neuron(r, begin, size, r_tile);
      loaded = tile;
      body(image, begin, size, in_place ? r.data + begin : r_tile, state);
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

// Neurons whose lines are computed and written past the caches at a time, few enough for the writes to drain during the
// next.
constexpr Index kStreamedRun = 128;

struct Nothing {};

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
  const Index tiles = quotient_up(args.neurons, kTile);
  parallel_for(tiles, args.batch * minimum(args.neurons, kTile), [&](Index first, Index last) {
    alignas(64) T r[kTile], r_sum[kTile];
    for (Index tile = first; tile < last; ++tile) {
      const Index begin = tile * kTile, size = minimum(kTile, args.neurons - begin);
      load_per_neuron(args.r, begin, size, r);
      for (Index j = 0; j < size; ++j) r_sum[j] = T(0);
      for (Index image = 0; image < args.batch; ++image) {
        const Index at = image * args.neurons + begin;
        const T* __restrict z = args.z + at;
        const T* __restrict gradient = args.out_gradient + at;
        const T eta = args.eta;
        if (args.z_gradient != nullptr) {
          T* __restrict out = args.z_gradient + at;
          for (Index j = 0; j < size; ++j) out[j] = gradient[j] * ramp_slope(z[j], r[j], eta);
        }
        if (args.r_gradient != nullptr) {
          for (Index j = 0; j < size; ++j) r_sum[j] += gradient[j] * ramp_slope_in_r(z[j], r[j], eta);
        }
      }
      if (args.r_gradient != nullptr) {
        for (Index j = 0; j < size; ++j) args.r_gradient[begin + j] = r_sum[j];
      }
    }
  });
}

template <typename T>
void ramp_interval(const RampIntervalArguments<T>& args) {
  if (args.counts != nullptr) {
    for (int status = 0; status < 6; ++status) args.counts[status] = 0;
  }
  const bool streamed = is_streamed(2 * args.batch * args.neurons * Index(sizeof(T)));
  const auto run = streamed ? ramp_run<true, T> : ramp_run<false, T>;
  const auto body = [&](Index image, Index begin, Index size, const T* r, StatusCounts& counts) {
    const Index at = image * args.neurons + begin;
    run(size, args.l + at, r, args.eta, args.lower + at);
    run(size, args.u + at, r, args.eta, args.upper + at);
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
  const Index tiles = quotient_up(args.neurons, kTile);
  parallel_for(tiles, 2 * args.batch * minimum(args.neurons, kTile), [&](Index first, Index last) {
    alignas(64) T r[kTile], r_sum[kTile];
    for (Index tile = first; tile < last; ++tile) {
      const Index begin = tile * kTile, size = minimum(kTile, args.neurons - begin);
      load_per_neuron(args.r, begin, size, r);
      for (Index j = 0; j < size; ++j) r_sum[j] = T(0);
      for (Index image = 0; image < args.batch; ++image) {
        const Index at = image * args.neurons + begin;
        const T* __restrict l = args.l + at;
        const T* __restrict u = args.u + at;
        const T* __restrict lower_gradient = args.lower_gradient + at;
        const T* __restrict upper_gradient = args.upper_gradient + at;
        T* __restrict l_gradient = args.l_gradient + at;
        T* __restrict u_gradient = args.u_gradient + at;
        const T eta = args.eta;
        for (Index j = 0; j < size; ++j) {
          l_gradient[j] = lower_gradient[j] * ramp_slope(l[j], r[j], eta);
          u_gradient[j] = upper_gradient[j] * ramp_slope(u[j], r[j], eta);
        }
        if (args.r_gradient != nullptr) {
          for (Index j = 0; j < size; ++j) {
            r_sum[j] += lower_gradient[j] * ramp_slope_in_r(l[j], r[j], eta) +
                        upper_gradient[j] * ramp_slope_in_r(u[j], r[j], eta);
          }
        }
      }
      if (args.r_gradient != nullptr) {
        for (Index j = 0; j < size; ++j) args.r_gradient[begin + j] = r_sum[j];
      }
    }
  });
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
