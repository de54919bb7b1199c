#include <algorithm>
#include <utility>
#include <vector>

#include "cpu/kernels/simd.h"
#include "cpu/kernels/table.h"
#include "cpu/kernels/windows.h"

namespace lbp::LBP_ISA {

template <typename T>
void relax_windows(const RelaxWindowsArguments<T>& args) {
  const RowWindows<T>& A = args.A;
  const Index sides = side_count(args.sides), pixels = A.height * A.width, size = pixels * A.channels;
  for_each_image(A.where, A.rows, [&](Index first_row, Index last_row) {
    load_image_lines(args, A.where[first_row].image);
    parallel_for(sides * (last_row - first_row), 2 * size, [&](Index first, Index last) {
      std::vector<char> occupied(static_cast<size_t>(pixels));
      for (Index item = first; item < last; ++item) {
        const Index side = item % sides, row = first_row + item / sides, out = side * A.rows + row;
        args.constants[out] =
            relax_window(args, side, row, args.relaxed + out * size, reinterpret_cast<bool*>(occupied.data()));
      }
    });
  });
}

namespace {

// Rows multiplied together: one broadcast of each, times two vectors of columns, fill the registers.
constexpr Index kLanes = kVectorRegisters == 32 ? 12 : 6;
constexpr Index kVectors = 2;

// A block of rows holds several such groups of lanes, so that an entry of the kernel is read into the first cache for
// all of them, as far as their relaxed windows stay in the second.
constexpr Index kMostGroups = 8;
constexpr Index kBlockBytes = Index(128) << 10;

template <typename T>
constexpr Index kColumns = kVectors * Vector<T>::kSize;

// Sums of one pixel: [kLanes, kColumns].
template <typename T>
constexpr Index kSums = kLanes * kColumns<T>;

// How the weights of a group of channels are laid out: [blocks, taps, outputs, kColumns], zero where the last block is
// not full. With many inputs each entry of the kernel is a tap whose columns are the inputs, and a pixel of the result
// gathers the taps that reach it. With few, the columns are all (entry, input) pairs of one tap, and a pixel of A
// scatters its products: the pairs of a row of the kernel lie side by side in the result.
struct Packing {
  bool scatter;
  Index taps, columns, blocks, outputs, inputs;

  template <typename T>
  static Packing of(const WindowConvolution<T>& conv, Index channels) {
    const Index entries = conv.kernel[0] * conv.kernel[1], inputs = conv.inputs / conv.groups;
    const Index gathered = quotient_up(inputs, kColumns<T>), scattered = quotient_up(entries * inputs, kColumns<T>);
    const bool scatter = conv.groups == 1 && conv.dilation[1] == 1 && 2 * scattered <= entries * gathered;
    return {scatter,
            scatter ? 1 : entries,
            scatter ? entries * inputs : inputs,
            scatter ? scattered : gathered,
            channels / conv.groups,
            inputs};
  }

  template <typename T>
  Index tap_size() const {
    return outputs * kColumns<T>;
  }
};

template <typename T>
void pack_weight(const WindowConvolution<T>& conv, const Packing& packing) {
  const Index entries = conv.kernel[0] * conv.kernel[1], inputs = packing.inputs, outputs = packing.outputs;
  parallel_for(conv.groups * packing.blocks * packing.taps, packing.tap_size<T>(), [&](Index first, Index last) {
    for (Index item = first; item < last; ++item) {
      const Index tap = item % packing.taps, block = item / packing.taps % packing.blocks,
                  group = item / packing.taps / packing.blocks;
      T* to = conv.packed + item * packing.tap_size<T>();
      for (Index c = 0; c < kColumns<T>; ++c) {
        const Index column = block * kColumns<T> + c;
        const Index entry = packing.scatter ? column / inputs : tap, input = packing.scatter ? column % inputs : column;
        for (Index o = 0; o < outputs; ++o) {
          to[o * kColumns<T> + c] =
              column < packing.columns ? conv.weight[((group * outputs + o) * inputs + input) * entries + entry] : T(0);
        }
      }
    }
  });
}

// sums [kLanes, kColumns] += lanes [kCount, outputs] weight [outputs, kColumns].
template <typename T, int kCount>
void accumulate(const T* lanes, Index lane_stride, Index outputs, const T* weight, T* sums) {
  using V = typename Vector<T>::Type;
  constexpr Index kSize = Vector<T>::kSize;
  V total[kCount][kVectors];
  const T* a[kCount];
#pragma GCC unroll 12
  for (int i = 0; i < kCount; ++i) {
    a[i] = lanes + i * lane_stride;
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) total[i][v] = load_vector(sums + i * kColumns<T> + v * kSize);
  }
  for (Index o = 0; o < outputs; ++o, weight += kColumns<T>) {
    const V w0 = load_vector(weight), w1 = load_vector(weight + kSize);
#pragma GCC unroll 12
    for (int i = 0; i < kCount; ++i) {
      total[i][0] = multiply_add(a[i][o], w0, total[i][0]);
      total[i][1] = multiply_add(a[i][o], w1, total[i][1]);
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < kCount; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) store_vector(sums + i * kColumns<T> + v * kSize, total[i][v]);
  }
}

template <typename T, int kCount = int(kLanes)>
void accumulate_lanes(Index count, const T* lanes, Index lane_stride, Index outputs, const T* weight, T* sums) {
  if constexpr (kCount > 1) {
    if (count < kCount) return accumulate_lanes<T, kCount - 1>(count, lanes, lane_stride, outputs, weight, sums);
  }
  accumulate<T, kCount>(lanes, lane_stride, outputs, weight, sums);
}

// Along one axis: an entry of the kernel brings the pixels [first, last) of a window to `at`, `at + stride`, ... in the
// window of the result, whose size is `limit`; it would bring pixel 0 to `shift`.
struct Reach {
  Index first, last, at;
};

Reach reach(Index shift, Index stride, Index size, Index limit) {
  const Index first = shift >= 0 ? 0 : quotient_up(-shift, stride);
  const Index last = minimum(size, shift >= limit ? 0 : quotient_up(limit - shift, stride));
  return {first, maximum(first, last), shift + first * stride};
}

bool same_place(const WindowRow& a, const WindowRow& b) { return a.top == b.top && a.left == b.left; }

// Neighbouring rows whose windows lie at the same places.
struct Block {
  Index first, last;
};

// Splits the rows of one image into blocks of at most `most` rows.
template <typename T>
std::vector<Block> blocks_of(const RelaxConvolveWindowsArguments<T>& args, Index first, Index last, Index most) {
  const WindowRow* where = args.relax.A.where;
  const Index* corners = args.convolution.corners;
  std::vector<Block> blocks;
  while (first < last) {
    Index end = first + 1;
    while (end < last && end - first < most && same_place(where[end], where[first]) &&
           corners[2 * end] == corners[2 * first] && corners[2 * end + 1] == corners[2 * first + 1]) {
      ++end;
    }
    blocks.push_back({first, end});
    first = end;
  }
  return blocks;
}

// Rows and sides are lanes; a lane's relaxed window is followed by a gap, so that lanes do not share sets of the cache.
template <typename T>
Index lane_stride_of(const RowWindows<T>& A) {
  return A.height * A.width * A.channels + 16;
}

template <typename T>
Index rows_of_a_block(const RowWindows<T>& A, Index sides) {
  const Index groups = kBlockBytes / (kLanes * lane_stride_of(A) * Index(sizeof(T)));
  return maximum(1, maximum(1, minimum(groups, kMostGroups)) * kLanes / sides);
}

// The lanes of one block on their way through the convolution.
template <typename T>
class BlockConvolution {
 public:
  BlockConvolution(const RelaxConvolveWindowsArguments<T>& args, const Packing& packing, bool skip_zeros)
      : args_(args),
        conv_(args.convolution),
        A_(args.relax.A),
        packing_(packing),
        skip_zeros_(skip_zeros),
        pixels_(A_.height * A_.width),
        lane_stride_(lane_stride_of(A_)) {}

  void run(const Block& block) {
    relax(block);
    const WindowRow place = A_.where[block.first];
    const Index from[] = {place.top, place.left};
    for (int i = 0; i < 2; ++i) {
      origin_[i] = from[i] * conv_.stride[i] - conv_.padding[i] - conv_.corners[2 * block.first + i];
    }
    if (packing_.scatter) {
      scatter();
    } else {
      gather();
    }
  }

 private:
  void relax(const Block& block) {
    const Index sides = side_count(args_.relax.sides), out_size = conv_.height * conv_.width * conv_.inputs;
    lanes_ = (block.last - block.first) * sides;
    groups_ = quotient_up(lanes_, kLanes);
    relaxed_.resize(size_t(lanes_ * lane_stride_));
    occupied_.assign(size_t(groups_ * pixels_), skip_zeros_ ? 0 : 1);
    out_.resize(size_t(lanes_));
    for (Index lane = 0; lane < lanes_; ++lane) {
      const Index side = lane % sides, row = block.first + lane / sides, at = side * A_.rows + row;
      char* occupied = occupied_.data() + lane / kLanes * pixels_;
      args_.relax.constants[at] = relax_window(args_.relax, side, row, relaxed_.data() + lane * lane_stride_,
                                               reinterpret_cast<bool*>(occupied));
      out_[size_t(lane)] = args_.coefficients + at * out_size;
    }
  }

  // Adds one tap's products for the outputs of one pixel of A from `channel` on to the sums of a group of lanes.
  void multiply(Index group, Index pixel, Index channel, const T* weight, T* sums) const {
    const Index first = group * kLanes;
    accumulate_lanes<T>(minimum(kLanes, lanes_ - first),
                        relaxed_.data() + first * lane_stride_ + pixel * A_.channels + channel, lane_stride_,
                        packing_.outputs, weight, sums);
  }

  // Row by row of the result: each entry of the kernel serves all pixels and lanes that it reaches while it is in the
  // first cache.
  void gather() {
    const Index tap_size = packing_.template tap_size<T>();
    for (Index item = 0; item < conv_.groups * packing_.blocks; ++item) {
      const Index channels = item / packing_.blocks, column = item % packing_.blocks * kColumns<T>;
      const T* weight = conv_.packed + item * packing_.taps * tap_size;
      for (Index y = 0; y < conv_.height; ++y) {
        sums_.assign(size_t(groups_ * conv_.width * kSums<T>), T(0));
        for (Index i = 0; i < conv_.kernel[0]; ++i) {
          const Index scaled = y - origin_[0] - i * conv_.dilation[0], row = scaled / conv_.stride[0];
          if (scaled < 0 || scaled % conv_.stride[0] != 0 || row >= A_.height) continue;
          for (Index j = 0; j < conv_.kernel[1]; ++j) {
            const Reach across = reach(origin_[1] + j * conv_.dilation[1], conv_.stride[1], A_.width, conv_.width);
            add_row(row, across, channels * packing_.outputs, weight + (i * conv_.kernel[1] + j) * tap_size);
          }
        }
        write_row(y, channels * packing_.inputs + column, minimum(kColumns<T>, packing_.inputs - column));
      }
    }
  }

  void add_row(Index row, const Reach& across, Index channel, const T* weight) {
    for (Index group = 0; group < groups_; ++group) {
      const char* occupied = occupied_.data() + group * pixels_;
      T* sums = sums_.data() + (group * conv_.width + across.at) * kSums<T>;
      for (Index x = across.first; x < across.last; ++x, sums += conv_.stride[1] * kSums<T>) {
        const Index pixel = row * A_.width + x;
        if (occupied[pixel] != 0) multiply(group, pixel, channel, weight, sums);
      }
    }
  }

  void write_row(Index y, Index channel, Index count) const {
    for (Index lane = 0; lane < lanes_; ++lane) {
      const T* from = sums_.data() + lane / kLanes * conv_.width * kSums<T> + lane % kLanes * kColumns<T>;
      T* to = out_[size_t(lane)] + y * conv_.width * conv_.inputs + channel;
      for (Index x = 0; x < conv_.width; ++x, from += kSums<T>, to += conv_.inputs) {
        if (count == kColumns<T>) {
          std::copy(from, from + kColumns<T>, to);
        } else {
          std::copy(from, from + count, to);
        }
      }
    }
  }

  // Pixel by pixel of A: its products with the whole kernel, added row by row as far as they lie in the window.
  void scatter() {
    const Index inputs = packing_.inputs, row_size = conv_.kernel[1] * inputs;
    for (T* out : out_) std::fill(out, out + conv_.height * conv_.width * inputs, T(0));
    products_.resize(size_t(kLanes * packing_.blocks * kColumns<T>));
    for (Index item = 0; item < groups_ * pixels_; ++item) {
      if (occupied_[size_t(item)] == 0) continue;
      const Index group = item / pixels_, pixel = item % pixels_;
      multiply_all(group, pixel);
      const Index top = origin_[0] + pixel / A_.width * conv_.stride[0];
      const Index left = origin_[1] + pixel % A_.width * conv_.stride[1];
      const Index first = maximum(0, -left), last = minimum(conv_.kernel[1], conv_.width - left);
      for (Index i = 0; i < conv_.kernel[0]; ++i) {
        const Index y = top + i * conv_.dilation[0];
        if (y < 0 || y >= conv_.height || first >= last) continue;
        for (Index lane = group * kLanes; lane < minimum(lanes_, (group + 1) * kLanes); ++lane) {
          const T* __restrict from =
              products_.data() + lane % kLanes * packing_.blocks * kColumns<T> + i * row_size + first * inputs;
          T* __restrict to = out_[size_t(lane)] + (y * conv_.width + left + first) * inputs;
          for (Index c = 0; c < (last - first) * inputs; ++c) to[c] += from[c];
        }
      }
    }
  }

  // products [kLanes, columns] of a pixel of A with the whole kernel.
  void multiply_all(Index group, Index pixel) {
    alignas(64) T sums[kSums<T>];
    for (Index block = 0; block < packing_.blocks; ++block) {
      std::fill(sums, sums + kSums<T>, T(0));
      multiply(group, pixel, 0, conv_.packed + block * packing_.template tap_size<T>(), sums);
      for (Index lane = 0; lane < kLanes; ++lane) {
        std::copy(sums + lane * kColumns<T>, sums + (lane + 1) * kColumns<T>,
                  products_.data() + (lane * packing_.blocks + block) * kColumns<T>);
      }
    }
  }

  const RelaxConvolveWindowsArguments<T>& args_;
  const WindowConvolution<T>& conv_;
  const RowWindows<T>& A_;
  const Packing& packing_;
  const bool skip_zeros_;
  const Index pixels_, lane_stride_;
  Index lanes_ = 0, groups_ = 0;
  Index origin_[2] = {0, 0};  // where the first entry of the kernel brings the first row and column of a window
  std::vector<T> relaxed_, sums_, products_;
  std::vector<char> occupied_;
  std::vector<T*> out_;
};

}  // namespace

template <typename T>
void relax_convolve_windows(const RelaxConvolveWindowsArguments<T>& args) {
  const WindowConvolution<T>& conv = args.convolution;
  const RowWindows<T>& A = args.relax.A;
  const Index sides = side_count(args.relax.sides);
  const Packing packing = Packing::of(conv, A.channels);
  pack_weight(conv, packing);
  // A coefficient of 0 is skipped, unless a weight is no number: 0 times that is no number either.
  const Index weights = A.channels * (conv.inputs / conv.groups) * conv.kernel[0] * conv.kernel[1];
  const bool skip_zeros = std::all_of(conv.weight, conv.weight + weights, [](T w) { return w - w == T(0); });
  const Index most = rows_of_a_block(A, sides);
  for_each_image(A.where, A.rows, [&](Index first_row, Index last_row) {
    load_image_lines(args.relax, A.where[first_row].image);
    const std::vector<Block> blocks = blocks_of(args, first_row, last_row, most);
    parallel_for(Index(blocks.size()), A.height * A.width * A.channels * conv.inputs, [&](Index first, Index last) {
      BlockConvolution<T> convolution(args, packing, skip_zeros);
      for (Index i = first; i < last; ++i) convolution.run(blocks[size_t(i)]);
    });
  });
}

template <typename T>
Index packed_weight_size(const WindowConvolution<T>& conv, Index channels) {
  const Packing packing = Packing::of(conv, channels);
  return conv.groups * packing.blocks * packing.taps * packing.tap_size<T>();
}

#define LBP_INSTANTIATE(T)                                                       \
  template void relax_windows(const RelaxWindowsArguments<T>&);                  \
  template void relax_convolve_windows(const RelaxConvolveWindowsArguments<T>&); \
  template Index packed_weight_size(const WindowConvolution<T>&, Index);

LBP_INSTANTIATE(float)
LBP_INSTANTIATE(double)

}  // namespace lbp::LBP_ISA
