// Few rows of coefficients times forward linear bounds, and the gradient with respect to those rows. What these take is
// the reading of the matrices, which is done once.
#include "cpu/kernels/simd.h"
#include "cpu/kernels/table.h"
#include "cpu/kernels/tile.h"

namespace lbp::LBP_ISA {
namespace {

// Rows that pass together, and the neurons for which they stay in a cache meanwhile.
constexpr Index kRows = 16, kBlock = 512;

// Inputs whose rows of the matrices one thread reads.
constexpr Index kInputs = 16;

// Inputs and rows of a tile of sums in registers.
constexpr Index kInputsTogether = kVectorRegisters == 32 ? 4 : 2, kRowsTogether = kVectorRegisters == 32 ? 4 : 3;

// A block of rows, and what widens the bound on their side: -|a| for lower bounds, |a| for upper ones.
template <typename T>
struct RowBlock {
  alignas(64) T a[kRows][kBlock];
  alignas(64) T spread[kRows][kBlock];

  void load(const T* A, Index stride, bool lower, Index rows, Index size) {
    for (Index row = 0; row < rows; ++row, A += stride) {
      const T* __restrict from = A;
      for (Index j = 0; j < size; ++j) {
        const T magnitude = from[j] < T(0) ? -from[j] : from[j];
        a[row][j] = from[j];
        spread[row][j] = lower ? -magnitude : magnitude;
      }
    }
  }
};

// Vectors of sums whose lanes are still to be added up.
template <typename T>
struct TileSums {
  typename Vector<T>::Type of[kInputs][kRows];
};

// Adds the products of a block of I inputs from `input` on and R rows from `row` on. Center and radius begin at the
// first of these inputs.
template <Index I, Index R, bool kRadius, typename T>
void add_products(const T* center, const T* radius, Index stride, Index vectors, const RowBlock<T>& block, Index input,
                  Index row, TileSums<T>& sums) {
  typename Vector<T>::Type of[I][R];
  for (Index i = 0; i < I; ++i) {
    for (Index k = 0; k < R; ++k) of[i][k] = sums.of[input + i][row + k];
  }
  for (Index v = 0; v < vectors; ++v) {
    const Index at = v * Vector<T>::kSize;
    typename Vector<T>::Type c[I], r[I];
    for (Index i = 0; i < I; ++i) {
      c[i] = load_vector(center + i * stride + at);
      if constexpr (kRadius) r[i] = load_vector(radius + i * stride + at);
    }
    for (Index k = 0; k < R; ++k) {
      const auto a = load_vector(block.a[row + k] + at);
      for (Index i = 0; i < I; ++i) of[i][k] = multiply_add(c[i], a, of[i][k]);
      if constexpr (kRadius) {
        const auto spread = load_vector(block.spread[row + k] + at);
        for (Index i = 0; i < I; ++i) of[i][k] = multiply_add(r[i], spread, of[i][k]);
      }
    }
  }
  for (Index i = 0; i < I; ++i) {
    for (Index k = 0; k < R; ++k) sums.of[input + i][row + k] = of[i][k];
  }
}

// The same for as many inputs and rows as there are, up to those that registers hold.
template <Index I, Index R, bool kRadius, typename T>
void add_tile(Index inputs, Index rows, const T* center, const T* radius, Index stride, Index vectors,
              const RowBlock<T>& block, Index input, Index row, TileSums<T>& sums) {
  if constexpr (I > 1) {
    if (inputs < I)
      return add_tile<I - 1, R, kRadius>(inputs, rows, center, radius, stride, vectors, block, input, row, sums);
  }
  if constexpr (R > 1) {
    if (rows < R)
      return add_tile<I, R - 1, kRadius>(inputs, rows, center, radius, stride, vectors, block, input, row, sums);
  }
  add_products<I, R, kRadius>(center, radius, stride, vectors, block, input, row, sums);
}

template <typename T>
T sum_of_lanes(typename Vector<T>::Type value) {
  T sum = value[0];
  for (Index lane = 1; lane < Vector<T>::kSize; ++lane) sum += value[lane];
  return sum;
}

// Rows [S, n] of an image and side, and the matrices of the image.
template <typename T>
class ImageRows {
 public:
  ImageRows(const InsertForwardArguments<T>& args, Index side, Index image)
      : args_(args),
        lower_(is_lower(args.sides, side)),
        A_(args.A.data + side * args.A.side_stride + image * args.A.batch_stride),
        center_(args.center + image * args.matrix_batch_stride),
        radius_(args.radius == nullptr ? nullptr : args.radius + image * args.matrix_batch_stride),
        center_bias_(args.center_bias + image * args.bias_batch_stride),
        radius_bias_(args.radius_bias == nullptr ? nullptr : args.radius_bias + image * args.bias_batch_stride),
        first_(side * args.batch + image) {}

  // Writes the coefficients of inputs [begin, end).
  void insert(Index begin, Index end) const {
    for (Index row = 0; row < args_.rows; row += kRows) {
      const Index rows = minimum(kRows, args_.rows - row);
      if (radius_ == nullptr) {
        insert<false>(row, rows, begin, end - begin);
      } else {
        insert<true>(row, rows, begin, end - begin);
      }
    }
  }

  // Writes the constants, in float64.
  void add_biases() const {
    for (Index row = 0; row < args_.rows; ++row) {
      const T* A = A_ + row * args_.A.row_stride;
      WideSum<T> at_center, spread;
      for_lanes<T>(0, args_.neurons, [&](Index j, auto zero) LBP_LANES {
        using V = decltype(zero);
        const V a = load<V>(A + j);
        at_center.add_product(a, load<V>(center_bias_ + j));
        if (radius_bias_ != nullptr) spread.add_product(V(a < zero ? -a : a), load<V>(radius_bias_ + j));
      });
      const double width = spread.total();
      args_.constants[first_ * args_.rows + row] = at_center.total() + (lower_ ? -width : width);
    }
  }

 private:
  template <bool kRadius>
  void insert(Index first_row, Index rows, Index first_input, Index inputs) const {
    const Index n = args_.neurons, whole = n / Vector<T>::kSize * Vector<T>::kSize;
    const T* const A = A_ + first_row * args_.A.row_stride;
    const T* const center = center_ + first_input * n;
    const T* const radius = kRadius ? radius_ + first_input * n : nullptr;
    TileSums<T> sums;
    for (Index i = 0; i < inputs; ++i) {
      for (Index row = 0; row < rows; ++row) sums.of[i][row] = typename Vector<T>::Type{};
    }
    RowBlock<T> block;
    for (Index begin = 0; begin < whole; begin += kBlock) {
      const Index size = minimum(whole - begin, kBlock);
      block.load(A + begin, args_.A.row_stride, lower_, rows, size);
      for (Index i = 0; i < inputs; i += kInputsTogether) {
        const Index at = i * n + begin;
        for (Index row = 0; row < rows; row += kRowsTogether) {
          add_tile<kInputsTogether, kRowsTogether, kRadius>(inputs - i, rows - row, center + at,
                                                            kRadius ? radius + at : nullptr, n, size / Vector<T>::kSize,
                                                            block, i, row, sums);
        }
      }
    }
    block.load(A + whole, args_.A.row_stride, lower_, rows, n - whole);
    for (Index row = 0; row < rows; ++row) {
      T* to = args_.coefficients + (first_ * args_.rows + first_row + row) * args_.inputs + first_input;
      for (Index i = 0; i < inputs; ++i) {
        T sum = sum_of_lanes<T>(sums.of[i][row]);
        for (Index j = whole; j < n; ++j) {
          sum += block.a[row][j - whole] * center[i * n + j];
          if constexpr (kRadius) sum += block.spread[row][j - whole] * radius[i * n + j];
        }
        to[i] = sum;
      }
    }
  }

  const InsertForwardArguments<T>& args_;
  const bool lower_;
  const T *A_, *center_, *radius_, *center_bias_, *radius_bias_;
  const Index first_;
};

// Neurons of a tile of gradients, whose sums stay in a cache while the matrices pass: as many as leave work for two
// threads.
constexpr Index kNeurons = 256;
inline Index neurons_of_tile(Index neurons) {
  return minimum(kNeurons, maximum(kNeurons / 4, quotient_up(neurons, 32) * 16));
}

// Inputs whose products are added to a sum at a time.
constexpr Index kAdded = 8;

// The gradients of a tile of a few rows: what comes through the centers, and through the radii.
template <typename T>
struct GradientTile {
  alignas(64) T at_center[kRows][kNeurons];
  alignas(64) T spread[kRows][kNeurons];
};

// Adds g[i] matrix[i] of I inputs, whose rows lie `stride` apart, to a run of sums.
template <Index I, typename T>
void add_inputs(Index size, const T* g, const T* matrix, Index stride, T* sums) {
  for_lanes<T>(0, size, [=](Index j, auto zero) LBP_LANES {
    using V = decltype(zero);
    V sum = load<V>(sums + j);
    for (Index i = 0; i < I; ++i) sum = multiply_add(V(g[i] - zero), load<V>(matrix + i * stride + j), sum);
    save(sums + j, sum);
  });
}

template <Index I, typename T>
void add_few_inputs(Index inputs, Index size, const T* g, const T* matrix, Index stride, T* sums) {
  if constexpr (I > 1) {
    if (inputs < I) return add_few_inputs<I - 1>(inputs, size, g, matrix, stride, sums);
  }
  add_inputs<I>(size, g, matrix, stride, sums);
}

}  // namespace

template <typename T>
void insert_forward(const InsertForwardArguments<T>& args) {
  const Index sides = side_count(args.sides);
  // Of each image a piece per few inputs, and one for the constants.
  const Index pieces = quotient_up(args.inputs, kInputs) + 1;
  parallel_for(sides * args.batch * pieces, kInputs * args.neurons, [&](Index first, Index last) {
    for (Index item = first; item < last; ++item) {
      const Index layer = item / pieces, piece = item % pieces;
      const ImageRows<T> rows(args, layer / args.batch, layer % args.batch);
      if (piece == 0) {
        rows.add_biases();
      } else {
        rows.insert((piece - 1) * kInputs, minimum(args.inputs, piece * kInputs));
      }
    }
  });
}

template <typename T>
void insert_forward_row_gradient(const InsertForwardGradientArguments<T>& args) {
  const Index sides = side_count(args.sides), width = neurons_of_tile(args.neurons);
  const Index tiles = quotient_up(args.neurons, width);
  const bool widens = args.radius != nullptr || args.radius_bias != nullptr;
  parallel_for(sides * args.batch * tiles, args.rows * args.inputs * width / kAdded, [&](Index first, Index last) {
    GradientTile<T> tile;
    for (Index item = first; item < last; ++item) {
      const Index layer = item / tiles, begin = item % tiles * width, image = layer % args.batch;
      const Index size = minimum(width, args.neurons - begin), n = args.neurons;
      const bool lower = is_lower(args.sides, layer / args.batch);
      const T* center = args.center + image * args.matrix_batch_stride + begin;
      const T* radius = args.radius == nullptr ? nullptr : args.radius + image * args.matrix_batch_stride + begin;
      const T* center_bias = args.center_bias + image * args.bias_batch_stride + begin;
      const T* radius_bias =
          args.radius_bias == nullptr ? nullptr : args.radius_bias + image * args.bias_batch_stride + begin;
      for (Index first_row = 0; first_row < args.rows; first_row += kRows) {
        const Index rows = minimum(kRows, args.rows - first_row), out_row = layer * args.rows + first_row;
        for (Index row = 0; row < rows; ++row) {
          const T constant = T(args.constants_gradient[out_row + row]);
          for (Index j = 0; j < size; ++j) tile.at_center[row][j] = constant * center_bias[j];
          for (Index j = 0; j < size && widens; ++j) {
            tile.spread[row][j] = radius_bias == nullptr ? T(0) : constant * radius_bias[j];
          }
        }
        for (Index i = 0; i < args.inputs; i += kAdded) {
          for (Index row = 0; row < rows; ++row) {
            const T* g = args.coefficients_gradient + (out_row + row) * args.inputs + i;
            add_few_inputs<kAdded>(args.inputs - i, size, g, center + i * n, n, tile.at_center[row]);
            if (radius == nullptr) continue;
            add_few_inputs<kAdded>(args.inputs - i, size, g, radius + i * n, n, tile.spread[row]);
          }
        }
        for (Index row = 0; row < rows; ++row) {
          const T* A = args.A.data + layer / args.batch * args.A.side_stride + image * args.A.batch_stride +
                       (first_row + row) * args.A.row_stride + begin;
          T* to = args.A_gradient + (out_row + row) * n + begin;
          const T *at_center = tile.at_center[row], *spread = tile.spread[row];
          for (Index j = 0; j < size; ++j) {
            // 0 counts as positive, as in the relaxation.
            const bool adds = (A[j] >= T(0)) != lower;
            to[j] = widens ? at_center[j] + (adds ? spread[j] : -spread[j]) : at_center[j];
          }
        }
      }
    }
  });
}

#define LBP_INSTANTIATE(T)                                        \
  template void insert_forward(const InsertForwardArguments<T>&); \
  template void insert_forward_row_gradient(const InsertForwardGradientArguments<T>&);

LBP_INSTANTIATE(float)
LBP_INSTANTIATE(double)

}  // namespace lbp::LBP_ISA
