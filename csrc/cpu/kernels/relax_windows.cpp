#include <algorithm>
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

// Rows worked on together: one broadcast of each, times two vectors of outputs, fill the registers.
constexpr Index kLanes = kVectorRegisters == 32 ? 12 : 6;
constexpr Index kVectors = 2;

// Neighbouring rows whose windows lie at the same places.
struct Block {
  Index first, last;
};

// An entry of the kernel that reaches a pixel: where the pixel's coefficients and the entry's weights begin.
struct Tap {
  Index from, weight;
};

template <typename T>
constexpr Index kColumns = kVectors * Vector<T>::kSize;

// The weight as [groups, blocks of columns, kernel height, kernel width, outputs of a group, columns], zero where a
// group's last block is not full.
template <typename T>
void pack_weight(const WindowConvolution<T>& conv, Index channels) {
  const Index inputs = conv.inputs / conv.groups, outputs = channels / conv.groups,
              taps = conv.kernel[0] * conv.kernel[1];
  const Index blocks = quotient_up(inputs, kColumns<T>);
  parallel_for(conv.groups * blocks * taps, outputs * kColumns<T>, [&](Index first, Index last) {
    for (Index item = first; item < last; ++item) {
      const Index tap = item % taps, block = item / taps % blocks, group = item / taps / blocks;
      T* to = conv.packed + item * outputs * kColumns<T>;
      for (Index o = 0; o < outputs; ++o) {
        for (Index c = 0; c < kColumns<T>; ++c) {
          const Index input = block * kColumns<T> + c;
          to[o * kColumns<T> + c] =
              input < inputs ? conv.weight[((group * outputs + o) * inputs + input) * taps + tap] : T(0);
        }
      }
    }
  });
}

// Sums over taps and outputs for `kCount` lanes at one pixel; `valid` columns are written.
template <typename T, int kCount>
void accumulate(const T* const* lanes, const Tap* taps, Index tap_count, Index outputs, const T* weight, T* const* out,
                Index valid) {
  using V = typename Vector<T>::Type;
  constexpr Index kSize = Vector<T>::kSize;
  V sums[kCount][kVectors];
#pragma GCC unroll 12
  for (int i = 0; i < kCount; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) sums[i][v] = V{};
  }
  for (Index t = 0; t < tap_count; ++t) {
    const T* w = weight + taps[t].weight;
    const T* a[kCount];
#pragma GCC unroll 12
    for (int i = 0; i < kCount; ++i) a[i] = lanes[i] + taps[t].from;
    for (Index o = 0; o < outputs; ++o, w += kColumns<T>) {
      const V w0 = load_vector(w), w1 = load_vector(w + kSize);
#pragma GCC unroll 12
      for (int i = 0; i < kCount; ++i) {
        sums[i][0] = multiply_add(a[i][o], w0, sums[i][0]);
        sums[i][1] = multiply_add(a[i][o], w1, sums[i][1]);
      }
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < kCount; ++i) {
    if (valid == kColumns<T>) {
      store_vector(out[i], sums[i][0]);
      store_vector(out[i] + kSize, sums[i][1]);
    } else {
      alignas(64) T whole[kColumns<T>];
      store_vector(whole, sums[i][0]);
      store_vector(whole + kSize, sums[i][1]);
      for (Index c = 0; c < valid; ++c) out[i][c] = whole[c];
    }
  }
}

template <typename T, int kCount = int(kLanes)>
void accumulate_lanes(Index count, const T* const* lanes, const Tap* taps, Index tap_count, Index outputs,
                      const T* weight, T* const* out, Index valid) {
  if constexpr (kCount > 1) {
    if (count < kCount) {
      return accumulate_lanes<T, kCount - 1>(count, lanes, taps, tap_count, outputs, weight, out, valid);
    }
  }
  accumulate<T, kCount>(lanes, taps, tap_count, outputs, weight, out, valid);
}

// Along one axis: which entries of the kernel bring a window's position to position `at` of the input, as pairs of the
// entry and the position within the window.
void reaching(Index at, Index kernel, Index stride, Index padding, Index dilation, Index first, Index size,
              std::vector<std::pair<Index, Index>>& found) {
  found.clear();
  for (Index entry = 0; entry < kernel; ++entry) {
    const Index scaled = at + padding - entry * dilation;
    if (scaled < 0 || scaled % stride != 0) continue;
    const Index position = scaled / stride - first;
    if (position >= 0 && position < size) found.emplace_back(entry, position);
  }
}

bool same_place(const WindowRow& a, const WindowRow& b) { return a.top == b.top && a.left == b.left; }

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

// Room for the relaxed windows of one block.
template <typename T>
struct Scratch {
  std::vector<T> relaxed;
  std::vector<char> occupied;
  std::vector<Tap> taps;
  std::vector<std::vector<std::pair<Index, Index>>> columns;
  std::vector<std::pair<Index, Index>> rows;
};

template <typename T>
void convolve_block(const RelaxConvolveWindowsArguments<T>& args, const Block& block, bool skip_zeros,
                    Scratch<T>& scratch) {
  const WindowConvolution<T>& conv = args.convolution;
  const RowWindows<T>& A = args.relax.A;
  const Index sides = side_count(args.relax.sides), pixels = A.height * A.width, size = pixels * A.channels;
  const Index stride = size + 16;  // no multiple of a page: the lanes would share sets of the cache
  const Index count = (block.last - block.first) * sides;
  scratch.relaxed.resize(size_t(kLanes * stride));
  scratch.occupied.assign(size_t(pixels), skip_zeros ? 0 : 1);
  const T* lanes[kLanes];
  T* out[kLanes];
  const Index out_size = conv.height * conv.width * conv.inputs;
  for (Index lane = 0; lane < count; ++lane) {
    const Index side = lane % sides, row = block.first + lane / sides, at = side * A.rows + row;
    T* relaxed = scratch.relaxed.data() + lane * stride;
    args.relax.constants[at] =
        relax_window(args.relax, side, row, relaxed, reinterpret_cast<bool*>(scratch.occupied.data()));
    lanes[lane] = relaxed;
    out[lane] = args.coefficients + at * out_size;
  }
  const WindowRow place = A.where[block.first];
  const Index top = conv.corners[2 * block.first], left = conv.corners[2 * block.first + 1];
  scratch.columns.resize(size_t(conv.width));
  for (Index x = 0; x < conv.width; ++x) {
    reaching(left + x, conv.kernel[1], conv.stride[1], conv.padding[1], conv.dilation[1], place.left, A.width,
             scratch.columns[size_t(x)]);
  }
  const Index inputs = conv.inputs / conv.groups, outputs = A.channels / conv.groups;
  const Index column_blocks = quotient_up(inputs, kColumns<T>), weights = outputs * kColumns<T>;
  const Index taps_of_block = conv.kernel[0] * conv.kernel[1] * weights;
  for (Index group = 0; group < conv.groups; ++group) {
    for (Index column = 0; column < column_blocks; ++column) {
      const T* packed = conv.packed + (group * column_blocks + column) * taps_of_block;
      const Index first_input = group * inputs + column * kColumns<T>;
      const Index valid = minimum(kColumns<T>, inputs - column * kColumns<T>);
      for (Index y = 0; y < conv.height; ++y) {
        reaching(top + y, conv.kernel[0], conv.stride[0], conv.padding[0], conv.dilation[0], place.top, A.height,
                 scratch.rows);
        for (Index x = 0; x < conv.width; ++x) {
          scratch.taps.clear();
          for (const auto& [entry_y, row] : scratch.rows) {
            for (const auto& [entry_x, at] : scratch.columns[size_t(x)]) {
              const Index pixel = row * A.width + at;
              if (scratch.occupied[size_t(pixel)] == 0) continue;
              scratch.taps.push_back(
                  {pixel * A.channels + group * outputs, (entry_y * conv.kernel[1] + entry_x) * weights});
            }
          }
          T* to[kLanes];
          for (Index lane = 0; lane < count; ++lane)
            to[lane] = out[lane] + (y * conv.width + x) * conv.inputs + first_input;
          accumulate_lanes<T>(count, lanes, scratch.taps.data(), Index(scratch.taps.size()), outputs, packed, to,
                              valid);
        }
      }
    }
  }
}

}  // namespace

template <typename T>
void relax_convolve_windows(const RelaxConvolveWindowsArguments<T>& args) {
  const WindowConvolution<T>& conv = args.convolution;
  const RowWindows<T>& A = args.relax.A;
  pack_weight(conv, A.channels);
  // A coefficient of 0 is skipped, unless a weight is no number: 0 times that is no number either.
  const Index weights = A.channels * (conv.inputs / conv.groups) * conv.kernel[0] * conv.kernel[1];
  const bool skip_zeros = std::all_of(conv.weight, conv.weight + weights, [](T w) { return w - w == T(0); });
  const Index most = maximum(1, kLanes / side_count(args.relax.sides));
  for_each_image(A.where, A.rows, [&](Index first_row, Index last_row) {
    load_image_lines(args.relax, A.where[first_row].image);
    const std::vector<Block> blocks = blocks_of(args, first_row, last_row, most);
    parallel_for(Index(blocks.size()), A.height * A.width * A.channels * conv.inputs, [&](Index first, Index last) {
      Scratch<T> scratch;
      for (Index i = first; i < last; ++i) convolve_block(args, blocks[size_t(i)], skip_zeros, scratch);
    });
  });
}

template <typename T>
Index packed_weight_size(const WindowConvolution<T>& conv, Index channels) {
  return conv.groups * quotient_up(conv.inputs / conv.groups, kColumns<T>) * conv.kernel[0] * conv.kernel[1] *
         (channels / conv.groups) * kColumns<T>;
}

#define LBP_INSTANTIATE(T)                                                       \
  template void relax_windows(const RelaxWindowsArguments<T>&);                  \
  template void relax_convolve_windows(const RelaxConvolveWindowsArguments<T>&); \
  template Index packed_weight_size(const WindowConvolution<T>&, Index);

LBP_INSTANTIATE(float)
LBP_INSTANTIATE(double)

}  // namespace lbp::LBP_ISA
