// The gradient by a convolution's weight, and by that of intervals through it: `to_center center^T + sign(W) *
// to_radius radius^T` over all positions, both from one pass. The lanes are output channels, whose gradients are turned
// a few rows of positions at a time; sums stay in registers over these.
#include <algorithm>
#include <memory>
#include <vector>

#include "cpu/kernels/image_layout.h"
#include "cpu/kernels/table.h"
#include "cpu/kernels/transpose.h"

namespace lbp::LBP_ISA {
namespace {

// Vectors of output channels of a tile of sums, and its terms: together they fill the registers, and are enough that no
// sum waits for itself.
constexpr Index kVectors = kVectorRegisters == 32 ? 2 : 1;
constexpr int most_terms(int parts, int vectors) {
  const int terms = (kVectorRegisters == 32 ? 24 : 12) / (parts * vectors);
  return terms > 12 ? 12 : terms;
}

// What is turned at a time stays in the second cache beside what is laid out and the sums.
constexpr Index kPanelBytes = Index(80) << 10;

// Terms of a sum that are written at a time.
constexpr Index kTermsAtOnce = 64;

// How the work is divided: images into bands of rows, all bands into `splits` with sums of their own, and the panels of
// a group's output channels into `shares`, each of which lays out what it reads.
struct Division {
  Index panels, shares, splits, bands;
};

template <typename T, int kParts>
class WeightGradient {
 public:
  static constexpr Index kSize = Vector<T>::kSize;

  explicit WeightGradient(const ConvolutionWeightGradientArguments<T>& args)
      : args_(args),
        sizes_(args.sizes),
        channels_(sizes_.channels / sizes_.groups),
        outputs_(sizes_.outputs / sizes_.groups),
        terms_(channels_ * sizes_.kernel[0] * sizes_.kernel[1]),
        vectors_(vectors_of(outputs_)),
        lanes_(vectors_ * kSize),
        chunk_rows_(minimum(sizes_.output_height,
                            maximum(1, kPanelBytes / (Index(sizeof(T)) * kParts * lanes_ * sizes_.output_width)))),
        division_(divided()),
        layout_(layout_of(quotient_up(sizes_.output_height, division_.bands))),
        offsets_(layout_.offsets(sizes_)),
        sums_(new T[size_t(division_.splits * sizes_.groups * division_.panels * panel_size())]) {}

  void run() const {
    const Index shares = division_.shares, splits = division_.splits, groups = sizes_.groups;
    parallel_for(groups * shares * splits, kGrain, [&](Index first, Index last) {
      Room room(*this);
      for (Index task = first; task < last; ++task) {
        const Index split = task % splits, share = task / splits % shares, group = task / splits / shares;
        const Index begin = division_.panels * share / shares, end = division_.panels * (share + 1) / shares;
        add(split, group, begin, end, room);
        if (splits > 1) continue;
        for (Index panel = begin; panel < end; ++panel) write(group, panel, 0, terms_, room);
      }
    });
    if (splits == 1) return;
    const Index blocks = quotient_up(terms_, kTermsAtOnce);
    parallel_for(groups * division_.panels * blocks, splits * kParts * lanes_ * kTermsAtOnce,
                 [&](Index first, Index last) {
                   Room room(*this);
                   for (Index item = first; item < last; ++item) {
                     const Index of_group = item / blocks, begin = item % blocks * kTermsAtOnce;
                     write(of_group / division_.panels, of_group % division_.panels, begin,
                           minimum(terms_, begin + kTermsAtOnce), room);
                   }
                 });
  }

 private:
  // What a thread works with.
  struct Room {
    explicit Room(const WeightGradient& gradient)
        : planes(new T[size_t(kParts * gradient.layout_.size())]),
          padded(size_t(kParts * gradient.layout_.padded_width())),
          panel(size_t(gradient.positions() * kParts * gradient.lanes_)),
          rows(size_t(kParts * gradient.lanes_ * maximum(gradient.positions(), kTermsAtOnce))) {}

    std::unique_ptr<T[]> planes;
    std::vector<T> padded;
    std::vector<T> panel;  // [positions, parts, lanes]
    std::vector<T> rows;   // of the panel, before they are turned, or of the sums, after that
  };

  // Of one vector, or of three, none is half idle.
  static Index vectors_of(Index outputs) {
    const Index vectors = quotient_up(outputs, kSize);
    return vectors == 1 || vectors == 3 ? 1 : kVectors;
  }

  ImageLayout<T> layout_of(Index rows) const {
    return ImageLayout<T>(channels_, sizes_.height, sizes_.width, Reach(sizes_), rows, sizes_.output_width);
  }

  Index positions() const { return chunk_rows_ * sizes_.output_width; }
  Index panel_size() const { return terms_ * kParts * lanes_; }

  Division divided() const {
    const Index height = sizes_.output_height, batch = sizes_.batch;
    const Index panels = quotient_up(outputs_, lanes_);
    const Index work = batch * height * sizes_.output_width * terms_ * quotient_up(sizes_.outputs, kSize) * kParts;
    const Index busy = minimum(args_.threads, maximum(1, work / kGrain)), wanted = quotient_up(busy, sizes_.groups);
    // In positions of a panel: laying a row out, and that sums of their own are written and read once more.
    const Reach reach(sizes_);
    const Index of_row = quotient_up(reach.phases[0] * reach.phases[1] * (sizes_.output_width + reach.span[1]),
                                     sizes_.kernel[0] * sizes_.kernel[1] * vectors_);
    constexpr Index kOfSums = 32, kFewImages = 16;
    Division best = {panels, 1, 1, 1};
    Index least = 0;
    for (Index shares = 1; shares <= minimum(wanted, panels); ++shares) {
      const Index splits = minimum(quotient_up(wanted, shares), batch * height);
      const Index rows = quotient_up(batch * height, splits);
      const Index of_panel = rows * sizes_.output_width + (splits > 1 ? kOfSums : 0);
      const Index cost = quotient_up(panels, shares) * of_panel + rows * of_row;
      if (shares > 1 && cost >= least) continue;
      least = cost;
      // Few images are halved, or more than that, where not all splits have as many.
      const bool is_uneven = batch % splits != 0 && batch < kFewImages * splits;
      best = {panels, shares, splits, is_uneven ? minimum(height, splits) : 1};
    }
    while (best.bands < height &&
           kParts * layout_of(quotient_up(height, best.bands)).size() * Index(sizeof(T)) > kBandBytes) {
      ++best.bands;
    }
    return best;
  }

  T* sums(Index split, Index group, Index panel) const {
    return sums_.get() + ((split * sizes_.groups + group) * division_.panels + panel) * panel_size();
  }

  // Adds up a split's bands for panels [begin, end) of a group.
  void add(Index split, Index group, Index begin, Index end, Room& room) const {
    const Index bands = division_.bands, items = sizes_.batch * bands, height = sizes_.output_height;
    const Index from = items * split / division_.splits, to = items * (split + 1) / division_.splits;
    bool is_first = true;
    for (Index item = from; item < to; ++item) {
      const Index image = item / bands, band = item % bands;
      const Index first_row = height * band / bands, last_row = height * (band + 1) / bands;
      layout_.template lay_out<kParts>((image * sizes_.groups + group) * channels_, first_row,
                                       [&](Index at, Index size, T* padded) {
                                         if constexpr (kParts == 1) {
                                           std::copy_n(args_.first + at, size, padded);
                                         } else {
                                           load_pair(args_.first + at, args_.second + at, args_.of_ends, size, padded,
                                                     padded + layout_.padded_width());
                                         }
                                       },
                                       room.padded.data(), room.planes.get());
      for (Index row = first_row; row < last_row; row += chunk_rows_) {
        const Index rows = minimum(chunk_rows_, last_row - row);
        const T* planes = room.planes.get() + (row - first_row) * layout_.pitch();
        for (Index panel = begin; panel < end; ++panel) {
          turn(image, group, panel, row, rows, room);
          add_products(room.panel.data(), rows, planes, is_first, sums(split, group, panel));
        }
        is_first = false;
      }
    }
  }

  // Writes the gradients of a panel's output channels, a position's next to one another.
  void turn(Index image, Index group, Index panel, Index row, Index rows, Room& room) const {
    const Index first = panel * lanes_, count = minimum(lanes_, outputs_ - first);
    const Index plane = sizes_.output_height * sizes_.output_width, size = rows * sizes_.output_width;
    const Index channel = (image * sizes_.groups + group) * outputs_ + first;
    const Index at = channel * plane + row * sizes_.output_width, stride = kParts * lanes_;
    if (count < lanes_) std::fill(room.panel.begin(), room.panel.end(), T(0));
    if (kParts == 2 && args_.of_ends) {
      for (Index o = 0; o < count; ++o) {
        T* const to = room.rows.data() + o * size;
        load_pair(args_.first_gradient + at + o * plane, args_.second_gradient + at + o * plane, true, size, to,
                  to + lanes_ * size);
      }
      for (int part = 0; part < kParts; ++part) {
        transpose(room.rows.data() + part * lanes_ * size, size, count, size, room.panel.data() + part * lanes_, stride,
                  kSize);
      }
      return;
    }
    for (int part = 0; part < kParts; ++part) {
      const T* from = part == 0 ? args_.first_gradient : args_.second_gradient;
      transpose(from + at, plane, count, size, room.panel.data() + part * lanes_, stride, kSize);
    }
  }

  void add_products(const T* panel, Index rows, const T* planes, bool is_first, T* to) const {
    const int most = most_terms(kParts, int(vectors_));
    const Index blocks = quotient_up(terms_, most);
    for (Index block = 0; block < blocks; ++block) {
      const Index begin = terms_ * block / blocks, count = terms_ * (block + 1) / blocks - begin;
      const Tile tile = {panel,
                         planes,
                         layout_.size(),
                         offsets_.data() + begin,
                         rows,
                         sizes_.output_width,
                         layout_.pitch(),
                         is_first,
                         to + begin * kParts * lanes_};
      if (vectors_ == kVectors) {
        tile.template add<int(kVectors)>(count);
      } else {
        tile.template add<1>(count);
      }
    }
  }

  struct Tile {
    const T* panel;
    const T* planes;
    Index distance;  // of the parts
    const Index* offsets;
    Index rows, width, pitch;
    bool is_first;
    T* to;

    template <int V, int K = most_terms(kParts, V)>
    void add(Index terms) const {
      if constexpr (K > 1) {
        if (terms < K) return add<V, K - 1>(terms);
      }
      using Lanes = typename Vector<T>::Type;
      Lanes sums[kParts][K][V] = {};
      const T* gradients = panel;
      for (Index row = 0; row < rows; ++row) {
        const T* at[kParts];
        for (int part = 0; part < kParts; ++part) at[part] = planes + row * pitch + part * distance;
        for (Index j = 0; j < width; ++j, gradients += kParts * V * kSize) {
#pragma GCC unroll 2
          for (int part = 0; part < kParts; ++part) {
            Lanes by[V];
#pragma GCC unroll 2
            for (int v = 0; v < V; ++v) by[v] = load_vector(gradients + (part * V + v) * kSize);
#pragma GCC unroll 12
            for (int k = 0; k < K; ++k) {
              const Lanes x = broadcast(at[part][offsets[k] + j]);
#pragma GCC unroll 2
              for (int v = 0; v < V; ++v) sums[part][k][v] = multiply_add(x, by[v], sums[part][k][v]);
            }
          }
        }
      }
      T* sum = to;
#pragma GCC unroll 12
      for (int k = 0; k < K; ++k) {
#pragma GCC unroll 2
        for (int part = 0; part < kParts; ++part) {
#pragma GCC unroll 2
          for (int v = 0; v < V; ++v, sum += kSize) {
            store_vector(sum, is_first ? sums[part][k][v] : load_vector(sum) + sums[part][k][v]);
          }
        }
      }
    }
  };

  // Writes the gradient by the terms [begin, end) of a panel's output channels from the sums of all splits.
  void write(Index group, Index panel, Index begin, Index end, Room& room) const {
    const Index first = panel * lanes_, count = minimum(lanes_, outputs_ - first), stride = kParts * lanes_;
    for (Index term = begin; term < end; term += kTermsAtOnce) {
      const Index size = minimum(kTermsAtOnce, end - term);
      T* const __restrict total = sums(0, group, panel) + term * stride;
      for (Index split = 1; split < division_.splits; ++split) {
        const T* __restrict other = sums(split, group, panel) + term * stride;
        for (Index i = 0; i < size * stride; ++i) total[i] += other[i];
      }
      T* const turned = room.rows.data();
      transpose(total, stride, size, stride, turned, size, kSize);
      for (Index o = 0; o < count; ++o) {
        const Index at = (group * outputs_ + first + o) * terms_ + term;
        const T* __restrict center = turned + o * size;
        T* __restrict to = args_.weight_gradient + at;
        if constexpr (kParts == 1) {
          std::copy_n(center, size, to);
        } else {
          const T* __restrict radius = center + lanes_ * size;
          const T* __restrict weight = args_.weight + at;
          const T scale = args_.of_ends ? T(2) : T(1);  // the gradients by ends are half of those by center and radius
          for (Index i = 0; i < size; ++i) {
            const T w = weight[i], r = radius[i];
            to[i] = scale * (center[i] + (w > 0 ? r : (w < 0 ? -r : T(0))));
          }
        }
      }
    }
  }

  const ConvolutionWeightGradientArguments<T>& args_;
  const ConvolutionSizes& sizes_;
  const Index channels_, outputs_, terms_, vectors_, lanes_, chunk_rows_;
  const Division division_;
  const ImageLayout<T> layout_;
  const std::vector<Index> offsets_;
  const std::unique_ptr<T[]> sums_;  // [splits, groups, panels, terms, parts, lanes]
};

}  // namespace

template <typename T>
void convolution_weight_gradient(const ConvolutionWeightGradientArguments<T>& args) {
  // Of a convolution alone there is one part, of intervals there are two: centers and radii.
  if (args.second == nullptr) {
    WeightGradient<T, 1>(args).run();
  } else {
    WeightGradient<T, 2>(args).run();
  }
}

template void convolution_weight_gradient(const ConvolutionWeightGradientArguments<float>&);
template void convolution_weight_gradient(const ConvolutionWeightGradientArguments<double>&);

}  // namespace lbp::LBP_ISA
