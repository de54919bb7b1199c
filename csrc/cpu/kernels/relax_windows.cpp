#include <algorithm>
#include <utility>
#include <vector>

#include "cpu/kernels/lane_products.h"
#include "cpu/kernels/table.h"
#include "cpu/kernels/windows.h"

namespace lbp::LBP_ISA {

template <typename T>
void relax_windows(const RelaxWindowsArguments<T>& args) {
  const RowWindows<T>& A = args.A;
  const Index sides = side_count(args.sides), size = A.height * A.width * A.channels;
  const bool streamed = is_streamed(sides * A.rows * size * Index(sizeof(T)));
  const RelaxRow<T> relax = window_row_for(args, streamed);
  for_each_image(A.where, A.rows, [&](Index first_row, Index last_row) {
    load_image_lines(args, A.where[first_row].image, band_of(A, first_row, last_row));
    parallel_for(last_row - first_row, 2 * sides * size, [&](Index first, Index last) {
      for (Index row = first_row + first; row < first_row + last; ++row) {
        Lane<T> lanes[2] = {};
        for (Index side = 0; side < sides; ++side) {
          lanes[side] = lane_of(args, row, side, args.relaxed + (side * A.rows + row) * size);
        }
        relax_lanes(args, relax, A.where[row], lanes, 0, sides);
      }
      if (streamed) finish_streaming();
    });
  });
}

namespace {

// A block of rows holds several such groups of lanes, so that an entry of the kernel is read into the first cache for
// all of them, as far as their relaxed windows stay in the second.
constexpr Index kMostGroups = 8;
constexpr Index kBlockBytes = Index(128) << 10;
// Blocks that rows make before they make larger ones.
constexpr Index kFewBlocks = 16;

// How the weights of a group of channels are laid out: [blocks, taps, outputs, width], zero where the last block is not
// full. With many inputs each entry of the kernel is a tap whose columns are the inputs, and a pixel of the result
// gathers the taps that reach it. With few, the columns are all (entry, input) pairs of one tap, and a pixel of A
// scatters its products: the pairs of a row of the kernel lie side by side in the result.
struct Packing {
  bool scatter;
  Index taps, columns, width, blocks, outputs, inputs;

  template <typename T>
  static Packing of(const WindowConvolution<T>& conv, Index channels) {
    const Index entries = conv.kernel[0] * conv.kernel[1], inputs = conv.inputs / conv.groups;
    const Index gathered = padded<T>(inputs), scattered = padded<T>(entries * inputs);
    const bool scatter = conv.groups == 1 && conv.dilation[1] == 1 && 2 * scattered <= entries * gathered;
    const Index columns = scatter ? entries * inputs : inputs, width = block_columns<T>(columns);
    return {scatter, scatter ? 1 : entries, columns, width, quotient_up(columns, width), channels / conv.groups,
            inputs};
  }

  // Columns with those that fill the last block.
  template <typename T>
  static Index padded(Index columns) {
    const Index width = block_columns<T>(columns);
    return quotient_up(columns, width) * width;
  }

  Index tap_size() const { return outputs * width; }
  Index row_size() const { return blocks * width; }
};

template <typename T>
void pack_weight(const WindowConvolution<T>& conv, const Packing& packing) {
  const Index entries = conv.kernel[0] * conv.kernel[1], inputs = packing.inputs, outputs = packing.outputs;
  parallel_for(conv.groups * packing.blocks * packing.taps, packing.tap_size(), [&](Index first, Index last) {
    for (Index item = first; item < last; ++item) {
      const Index tap = item % packing.taps, block = item / packing.taps % packing.blocks,
                  group = item / packing.taps / packing.blocks;
      T* to = conv.packed + item * packing.tap_size();
      for (Index c = 0; c < packing.width; ++c) {
        const Index column = block * packing.width + c;
        const Index entry = packing.scatter ? column / inputs : tap, input = packing.scatter ? column % inputs : column;
        for (Index o = 0; o < outputs; ++o) {
          to[o * packing.width + c] =
              column < packing.columns ? conv.weight[((group * outputs + o) * inputs + input) * entries + entry] : T(0);
        }
      }
    }
  });
}

// Copies the columns of a block.
template <typename T>
void copy_columns(Index width, const T* from, T* to) {
  for (Index v = 0; v < width; v += Vector<T>::kSize) store_vector(to + v, load_vector(from + v));
}

// Adds few numbers: a row of the kernel, without a loop's way in and out of vectors.
template <typename T>
void add_few(Index count, const T* from, T* to) {
  typedef T Four __attribute__((vector_size(4 * sizeof(T)), aligned(alignof(T))));
  typedef T Two __attribute__((vector_size(2 * sizeof(T)), aligned(alignof(T))));
  for (; count >= 4; count -= 4, from += 4, to += 4) {
    *reinterpret_cast<Four*>(to) += *reinterpret_cast<const Four*>(from);
  }
  if (count >= 2) {
    *reinterpret_cast<Two*>(to) += *reinterpret_cast<const Two*>(from);
    from += 2;
    to += 2;
  }
  if (count % 2 != 0) *to += *from;
}

template <typename T>
bool are_zero(Index size, const T* values) {
  T others = T(0);
#pragma omp simd reduction(+ : others)
  for (Index i = 0; i < size; ++i) others += values[i] == T(0) ? T(0) : T(1);
  return others == T(0);
}

bool same_place(const WindowRow& a, const WindowRow& b) { return a.top == b.top && a.left == b.left; }

// Where the first entry of the kernel brings the first row and column of a window of A, in the window of the result.
struct Origin {
  Index row, column;

  template <typename T>
  static Origin of(const RelaxConvolveWindowsArguments<T>& args, Index row) {
    const WindowConvolution<T>& conv = args.convolution;
    const WindowRow& place = args.relax.A.where[row];
    return {place.top * conv.stride[0] - conv.padding[0] - conv.corners[2 * row],
            place.left * conv.stride[1] - conv.padding[1] - conv.corners[2 * row + 1]};
  }
  bool operator==(const Origin& other) const { return row == other.row && column == other.column; }
  bool operator<(const Origin& other) const { return row != other.row ? row < other.row : column < other.column; }
};

// Rows that go through the convolution together, [first, last) of `order`: their windows need not lie at one place, but
// the kernel meets them alike, as it does wherever the layer's border is far.
struct Block {
  Index first, last;
};

struct Blocks {
  std::vector<Index> order;  // of the rows of one image: those of an origin side by side
  std::vector<Block> blocks;
};

template <typename T>
Blocks blocks_of(const RelaxConvolveWindowsArguments<T>& args, Index first, Index last, Index most) {
  Blocks result;
  std::vector<Origin> origins;
  for (Index row = first; row < last; ++row) {
    result.order.push_back(row);
    origins.push_back(Origin::of(args, row));
  }
  const auto origin = [&](Index at) { return origins[size_t(result.order[size_t(at)] - first)]; };
  std::stable_sort(result.order.begin(), result.order.end(),
                   [&](Index a, Index b) { return origins[size_t(a - first)] < origins[size_t(b - first)]; });
  for (Index begin = 0; begin < last - first;) {
    Index end = begin + 1;
    while (end < last - first && origin(end) == origin(begin)) ++end;
    const Index rows = end - begin, count = quotient_up(rows, most);
    for (Index i = 0; i < count; ++i) {
      result.blocks.push_back({begin + rows * i / count, begin + rows * (i + 1) / count});
    }
    begin = end;
  }
  return result;
}

// Rows and sides are lanes; a lane's relaxed window is followed by a gap, so that lanes do not share sets of the cache.
template <typename T>
Index lane_stride_of(const RowWindows<T>& A) {
  return A.height * A.width * A.channels + 16;
}

// Few rows make blocks of a single group, so that threads share them.
template <typename T>
Index rows_of_a_block(const RowWindows<T>& A, Index sides, Index rows) {
  const Index groups = kBlockBytes / (kLanes * lane_stride_of(A) * Index(sizeof(T)));
  const Index most = maximum(1, maximum(1, minimum(groups, kMostGroups)) * kLanes / sides);
  return minimum(most, maximum(maximum(1, kLanes / sides), quotient_up(rows, kFewBlocks)));
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
        relax_(window_row_for(args.relax, false)),
        skip_zeros_(skip_zeros),
        pixels_(A_.height * A_.width),
        lane_stride_(lane_stride_of(A_)) {
    for (Index i = 0; i < kLanes; ++i) lane_offsets_[i] = i * lane_stride_;
  }

  // Rows order [block.first, block.last).
  void run(const Index* order, const Block& block) {
    relax(order + block.first, block.last - block.first);
    const Origin origin = Origin::of(args_, order[block.first]);
    origin_[0] = origin.row;
    origin_[1] = origin.column;
    if (packing_.scatter) {
      scatter();
    } else {
      columns_.clear();
      for (Index x = 0; x < conv_.width; ++x) {
        for (Index j = 0; j < conv_.kernel[1]; ++j) columns_.push_back(reached(x, j, 1));
      }
      gather();
    }
  }

 private:
  void relax(const Index* rows, Index number) {
    const Index sides = side_count(args_.relax.sides);
    count_ = number * sides;
    groups_ = quotient_up(count_, kLanes);
    together_ = quotient_up(count_, groups_);
    relaxed_.resize(size_t(count_ * lane_stride_));
    occupied_.assign(size_t(groups_ * pixels_), skip_zeros_ ? 0 : 1);
    lanes_.clear();
    for (Index i = 0; i < count_; ++i) {
      T* relaxed = relaxed_.data() + i * lane_stride_;
      lanes_.push_back(lane_of(args_.relax, rows[i / sides], i % sides, relaxed));
    }
    for (Index first = 0; first < number;) {
      const WindowRow& place = A_.where[rows[first]];
      Index last = first + 1;
      while (last < number && same_place(A_.where[rows[last]], place)) ++last;
      relax_lanes(args_.relax, relax_, place, lanes_.data(), first * sides, last * sides);
      first = last;
    }
    if (skip_zeros_) mark_occupied();
  }

  // Marks the pixels of each group of lanes at which a coefficient is not 0.
  void mark_occupied() {
    for (Index i = 0; i < count_; ++i) {
      char* occupied = occupied_.data() + i / together_ * pixels_;
      const T* relaxed = relaxed_.data() + i * lane_stride_;
      for (Index pixel = 0; pixel < pixels_; ++pixel, relaxed += A_.channels) {
        if (occupied[pixel] == 0) occupied[pixel] = !are_zero(A_.channels, relaxed);
      }
    }
  }

  // Sums of one pixel of a group of lanes: [kLanes, width].
  Index pixel_sums() const { return kLanes * packing_.width; }

  // The coefficients of a lane's result.
  T* out(Index lane) const {
    return args_.coefficients + lanes_[size_t(lane)].out * conv_.height * conv_.width * conv_.inputs;
  }

  // The outputs of one pixel of a group of lanes, from `channel` on.
  const T* outputs_at(Index group, Index pixel, Index channel) const {
    return relaxed_.data() + group * together_ * lane_stride_ + pixel * A_.channels + channel;
  }

  void multiply(Index group, const Factors<T>* factors, Index number, const Sums<T>& sums) const {
    accumulate_lanes<T>(minimum(together_, count_ - group * together_), factors, number, lane_offsets_,
                        packing_.outputs, sums);
  }

  // Row by row of the result: the entries of a row of the kernel, as many as fit in the first cache, serve all pixels
  // and lanes that they reach while they are there.
  void gather() {
    const Index tap_size = packing_.tap_size();
    const Index together = maximum(1, minimum(conv_.kernel[1], kWeightBytes / (tap_size * Index(sizeof(T)))));
    factors_.resize(size_t(conv_.kernel[1]));
    for (Index item = 0; item < conv_.groups * packing_.blocks; ++item) {
      const Index channels = item / packing_.blocks, column = item % packing_.blocks * packing_.width;
      const T* weight = conv_.packed + item * packing_.taps * tap_size;
      for (Index y = 0; y < conv_.height; ++y) {
        sums_.assign(size_t(groups_ * conv_.width * pixel_sums()), T(0));
        for (Index i = 0; i < conv_.kernel[0]; ++i) {
          const Index row = reached(y, i, 0);
          if (row < 0) continue;
          for (Index j = 0; j < conv_.kernel[1]; j += together) {
            add_row(row, j, minimum(j + together, conv_.kernel[1]), channels * packing_.outputs,
                    weight + i * conv_.kernel[1] * tap_size);
          }
        }
        write_row(y, channels * packing_.inputs + column, minimum(packing_.width, packing_.inputs - column));
      }
    }
  }

  // The row or column of A that entry `tap` of the kernel brings to a position of the result; -1: none.
  Index reached(Index position, Index tap, int axis) const {
    const Index scaled = position - origin_[axis] - tap * conv_.dilation[axis];
    const Index at = scaled / conv_.stride[axis];
    return scaled < 0 || scaled % conv_.stride[axis] != 0 || at >= (axis == 0 ? A_.height : A_.width) ? -1 : at;
  }

  // Adds the products of entries [first, last) of a row of the kernel with a row of A.
  void add_row(Index row, Index first, Index last, Index channel, const T* weight) {
    const Index tap_size = packing_.tap_size();
    for (Index x = 0; x < conv_.width; ++x) {
      for (Index group = 0; group < groups_; ++group) {
        Index number = 0;
        for (Index j = first; j < last; ++j) {
          const Index column = columns_[size_t(x * conv_.kernel[1] + j)], pixel = row * A_.width + column;
          if (column < 0 || occupied_[size_t(group * pixels_ + pixel)] == 0) continue;
          factors_[size_t(number++)] = {outputs_at(group, pixel, channel), weight + j * tap_size};
        }
        if (number == 0) continue;
        multiply(group, factors_.data(), number,
                 {sums_.data() + (group * conv_.width + x) * pixel_sums(), packing_.width, packing_.width, true});
      }
    }
  }

  void write_row(Index y, Index channel, Index count) const {
    for (Index lane = 0; lane < count_; ++lane) {
      const T* from = sums_.data() + lane / together_ * conv_.width * pixel_sums() + lane % together_ * packing_.width;
      T* to = out(lane) + y * conv_.width * conv_.inputs + channel;
      for (Index x = 0; x < conv_.width; ++x, from += pixel_sums(), to += conv_.inputs) {
        if (count == packing_.width) {
          copy_columns(count, from, to);
        } else {
          for (Index c = 0; c < count; ++c) to[c] = from[c];
        }
      }
    }
  }

  // Pixel by pixel of A: its products with the whole kernel, added row by row as far as they lie in the window.
  void scatter() {
    const Index inputs = packing_.inputs, row_size = conv_.kernel[1] * inputs;
    for (Index lane = 0; lane < count_; ++lane) {
      std::fill(out(lane), out(lane) + conv_.height * conv_.width * inputs, T(0));
    }
    const Index stride = packing_.row_size();  // between lanes of the products
    products_.resize(size_t(kLanes * stride));
    for (Index item = 0; item < groups_ * pixels_; ++item) {
      if (occupied_[size_t(item)] == 0) continue;
      const Index group = item / pixels_, pixel = item % pixels_;
      multiply_all(group, pixel, stride);
      const Index top = origin_[0] + pixel / A_.width * conv_.stride[0];
      const Index left = origin_[1] + pixel % A_.width * conv_.stride[1];
      const Index first = maximum(0, -left), last = minimum(conv_.kernel[1], conv_.width - left);
      for (Index i = 0; i < conv_.kernel[0]; ++i) {
        const Index y = top + i * conv_.dilation[0];
        if (y < 0 || y >= conv_.height || first >= last) continue;
        const Index first_lane = group * together_, lanes = minimum(together_, count_ - first_lane);
        for (Index lane = 0; lane < lanes; ++lane) {
          add_few((last - first) * inputs, products_.data() + lane * stride + i * row_size + first * inputs,
                  out(first_lane + lane) + (y * conv_.width + left + first) * inputs);
        }
      }
    }
  }

  // products [kLanes, columns] of a pixel of A with the whole kernel.
  void multiply_all(Index group, Index pixel, Index stride) {
    for (Index block = 0; block < packing_.blocks; ++block) {
      const Factors<T> factors = {outputs_at(group, pixel, 0), conv_.packed + block * packing_.tap_size()};
      multiply(group, &factors, 1, {products_.data() + block * packing_.width, stride, packing_.width, false});
    }
  }

  const RelaxConvolveWindowsArguments<T>& args_;
  const WindowConvolution<T>& conv_;
  const RowWindows<T>& A_;
  const Packing& packing_;
  const RelaxRow<T> relax_;
  const bool skip_zeros_;
  const Index pixels_, lane_stride_;
  Index lane_offsets_[kLanes];
  Index count_ = 0, groups_ = 0, together_ = 0;  // lanes, and groups of `together_`
  Index origin_[2] = {0, 0};                     // see Origin
  std::vector<Lane<T>> lanes_;
  std::vector<T> relaxed_, sums_, products_;
  std::vector<char> occupied_;
  std::vector<Index> columns_;  // [width, kernel width]: see reached()
  std::vector<Factors<T>> factors_;
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
  for_each_image(A.where, A.rows, [&](Index first_row, Index last_row) {
    load_image_lines(args.relax, A.where[first_row].image, band_of(A, first_row, last_row));
    const Blocks made = blocks_of(args, first_row, last_row, rows_of_a_block(A, sides, last_row - first_row));
    const Index count = Index(made.blocks.size());
    const Index lanes = quotient_up((last_row - first_row) * sides, count);
    parallel_for(count, lanes * A.height * A.width * A.channels * conv.inputs, [&](Index first, Index last) {
      BlockConvolution<T> convolution(args, packing, skip_zeros);
      for (Index i = first; i < last; ++i) convolution.run(made.order.data(), made.blocks[size_t(i)]);
    });
  });
}

template <typename T>
Index packed_weight_size(const WindowConvolution<T>& conv, Index channels) {
  const Packing packing = Packing::of(conv, channels);
  return conv.groups * packing.blocks * packing.taps * packing.tap_size();
}

#define LBP_INSTANTIATE(T)                                                       \
  template void relax_windows(const RelaxWindowsArguments<T>&);                  \
  template void relax_convolve_windows(const RelaxConvolveWindowsArguments<T>&); \
  template Index packed_weight_size(const WindowConvolution<T>&, Index);

LBP_INSTANTIATE(float)
LBP_INSTANTIATE(double)

}  // namespace lbp::LBP_ISA
