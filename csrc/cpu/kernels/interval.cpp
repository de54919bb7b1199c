#include <utility>

#include "cpu/kernels/simd.h"
#include "cpu/kernels/stream.h"
#include "cpu/kernels/table.h"
#include "cpu/kernels/tile.h"

namespace lbp::LBP_ISA {
namespace {

constexpr Index kBlock = kSumBlock;

// Rows of W and examples of one tile of sums.
constexpr Index kRows = 16, kExamples = 16;

// A block of the centers and radii of a tile's examples side by side. Where layers are as wide as a power of two, the
// examples themselves lie so far apart that a cache has room for few of them.
template <typename T>
struct ExampleBlock {
  alignas(64) T center[kExamples][kBlock];
  alignas(64) T radius[kExamples][kBlock];

  void load(const IntervalLinearArguments<T>& args, Index first, Index examples, Index begin, Index size) {
    for (Index k = 0; k < examples; ++k) {
      const T* __restrict c = args.center + (first + k) * args.inputs + begin;
      const T* __restrict r = args.radius + (first + k) * args.inputs + begin;
      for (Index i = 0; i < size; ++i) center[k][i] = c[i];
      for (Index i = 0; i < size; ++i) radius[k][i] = r[i];
    }
  }
};

// The sums of a tile, `W c` and `|W| r`, each a vector whose lanes are still to be added up.
template <typename T>
struct TileSums {
  typename Vector<T>::Type at_center[kRows][kExamples], spread[kRows][kExamples];
};

// Adds the products of a block of R rows of W from `row` on and E examples from `example` on; `weight` is the first
// row.
template <Index R, Index E, typename T>
void add_products(const T* weight, Index stride, Index vectors, const ExampleBlock<T>& block, Index row, Index example,
                  TileSums<T>& sums) {
  typename Vector<T>::Type at_center[R][E] = {}, spread[R][E] = {};
  for (Index i = 0; i < vectors; ++i) {
    const Index at = i * Vector<T>::kSize;
    typename Vector<T>::Type w[R], absolute_w[R];
    for (Index j = 0; j < R; ++j) {
      w[j] = load_vector(weight + j * stride + at);
      absolute_w[j] = magnitude<T>(w[j]);
    }
    for (Index k = 0; k < E; ++k) {
      const auto c = load_vector(block.center[example + k] + at), r = load_vector(block.radius[example + k] + at);
      for (Index j = 0; j < R; ++j) {
        at_center[j][k] = multiply_add(w[j], c, at_center[j][k]);
        spread[j][k] = multiply_add(absolute_w[j], r, spread[j][k]);
      }
    }
  }
  for (Index j = 0; j < R; ++j) {
    for (Index k = 0; k < E; ++k) {
      sums.at_center[row + j][example + k] += at_center[j][k];
      sums.spread[row + j][example + k] += spread[j][k];
    }
  }
}

// Rows that are multiplied together, as many as the registers hold with the sums of two examples.
constexpr Index kRowsTogether = kVectorRegisters == 32 ? 4 : 2;

// The same for `rows` of them and a number of examples.
template <Index R, typename T>
void add_rows(Index rows, const T* weight, Index stride, Index vectors, const ExampleBlock<T>& block, Index row,
              Index examples, TileSums<T>& sums) {
  if constexpr (R > 1) {
    if (rows < R) return add_rows<R - 1>(rows, weight, stride, vectors, block, row, examples, sums);
  }
  Index example = 0;
  for (; example + 1 < examples; example += 2) {
    add_products<R, 2>(weight, stride, vectors, block, row, example, sums);
  }
  if (example < examples) add_products<R, 1>(weight, stride, vectors, block, row, example, sums);
}

// The same for all rows and examples of a tile: a few rows stay in the first cache while the examples pass.
template <typename T>
void add_products_of_tile(const T* weight, Index stride, Index vectors, const ExampleBlock<T>& block, Index rows,
                          Index examples, TileSums<T>& sums) {
  for (Index row = 0; row < rows; row += kRowsTogether) {
    add_rows<kRowsTogether>(rows - row, weight + row * stride, stride, vectors, block, row, examples, sums);
  }
}

// Writes two numbers that a pair of others makes, for a run of pairs.
template <typename T, typename Make>
void write_both(Index size, const T* a, const T* b, T* first, T* second, bool streamed, const Make& make) {
  // A vector of both is streamed at a time.
  const Index head = unaligned_head(size, first);
  with_flag(streamed && head == unaligned_head(size, second), [&](auto past_caches) {
    for_lanes<T>(past_caches ? head : 0, size, [&](Index i, auto zero) LBP_LANES {
      using V = decltype(zero);
      const auto made = make(load<V>(a + i), load<V>(b + i));
      store<past_caches>(first + i, V(made.first));
      store<past_caches>(second + i, V(made.second));
    });
  });
}

template <typename T>
T sum_of_lanes(typename Vector<T>::Type value) {
  T sum = value[0];
  for (Index i = 1; i < Vector<T>::kSize; ++i) sum += value[i];
  return sum;
}

}  // namespace

template <typename T>
void interval_linear(const IntervalLinearArguments<T>& args) {
  const Index whole = args.inputs / Vector<T>::kSize * Vector<T>::kSize;
  const auto tile = [&](Index first_row, Index first_example) {
    const Index rows = minimum(args.outputs - first_row, kRows);
    const Index examples = minimum(args.batch - first_example, kExamples);
    const T* weight = args.weight + first_row * args.inputs;
    const T* center = args.center + first_example * args.inputs;
    const T* radius = args.radius + first_example * args.inputs;
    TileSums<T> sums = {};
    ExampleBlock<T> block;
    for (Index begin = 0; begin < whole; begin += kBlock) {
      const Index size = minimum(whole - begin, kBlock);
      block.load(args, first_example, examples, begin, size);
      add_products_of_tile(weight + begin, args.inputs, size / Vector<T>::kSize, block, rows, examples, sums);
    }
    for (Index row = 0; row < rows; ++row) {
      const T bias = args.bias == nullptr ? T(0) : args.bias[first_row + row];
      const T margin = args.margin == nullptr ? T(0) : args.margin[first_row + row];
      for (Index example = 0; example < examples; ++example) {
        T at_center = sum_of_lanes<T>(sums.at_center[row][example]);
        T spread = sum_of_lanes<T>(sums.spread[row][example]);
        for (Index i = whole; i < args.inputs; ++i) {
          const T w = weight[row * args.inputs + i];
          at_center += w * center[example * args.inputs + i];
          spread += absolute(w) * radius[example * args.inputs + i];
        }
        spread += margin;
        if (args.margin_of_example != nullptr) spread += args.margin_of_example[first_example + example];
        const Index out = (first_example + example) * args.outputs + first_row + row;
        args.lower[out] = lower_end(at_center + bias, spread, args.margin != nullptr);
        args.upper[out] = upper_end(at_center + bias, spread, args.margin != nullptr);
      }
    }
  };
  parallel_for(quotient_up(args.outputs, kRows), kRows * args.inputs * args.batch, [&](Index first, Index last) {
    for (Index group = first; group < last; ++group) {
      for (Index example = 0; example < args.batch; example += kExamples) tile(group * kRows, example);
    }
  });
}

template <typename T>
void split_interval(const SplitIntervalArguments<T>& args) {
  const Widening<T> by = args.by;
  const bool streamed = is_streamed(2 * args.count * Index(sizeof(T)));
  parallel_for(quotient_up(args.count, kTile), kTile, [&](Index first, Index last) {
    const Index begin = first * kTile, size = minimum(args.count, last * kTile) - begin;
    const T* __restrict l = args.l + begin;
    const T* __restrict u = args.u + begin;
    T* __restrict center = args.center + begin;
    T* __restrict radius = args.radius + begin;
    if (by.relative == T(0)) {
      write_both(size, l, u, center, radius, streamed, [](auto low, auto high) LBP_LANES {
        return std::pair(interval_center(low, high), interval_radius(low, high));
      });
    } else {
      for (Index i = 0; i < size; ++i) {
        const T middle = interval_center(l[i], u[i]), half = interval_radius(l[i], u[i]);
        center[i] = middle;
        radius[i] = widened(middle, half, by);
      }
    }
    if (streamed) finish_streaming();
  });
}

template <typename T>
void join_interval(const JoinIntervalArguments<T>& args) {
  const bool streamed = is_streamed(2 * args.count * Index(sizeof(T)));
  parallel_for(quotient_up(args.count, kTile), kTile, [&](Index first, Index last) {
    const Index begin = first * kTile, size = minimum(args.count, last * kTile) - begin;
    const T* __restrict center = args.center + begin;
    const T* __restrict radius = args.radius + begin;
    T* __restrict lower = args.lower + begin;
    T* __restrict upper = args.upper + begin;
    if (args.outward) {
      for (Index i = 0; i < size; ++i) {
        const T middle = center[i], half = radius[i];
        lower[i] = lower_end(middle, half, true);
        upper[i] = upper_end(middle, half, true);
      }
    } else {
      write_both(size, center, radius, lower, upper, streamed,
                 [](auto middle, auto half) LBP_LANES { return std::pair(middle - half, middle + half); });
    }
    if (streamed) finish_streaming();
  });
}

#define LBP_INSTANTIATE(T)                                          \
  template void interval_linear(const IntervalLinearArguments<T>&); \
  template void split_interval(const SplitIntervalArguments<T>&);   \
  template void join_interval(const JoinIntervalArguments<T>&);

LBP_INSTANTIATE(float)
LBP_INSTANTIATE(double)

}  // namespace lbp::LBP_ISA
