// A transposed convolution with a stride, along one axis: which entries of the kernel meet which pixels.
#pragma once

#include "cuda/kernels/tile.cuh"

namespace lbp::cuda {

// Along an axis, entries of the kernel that are `step` apart meet the same pixels. The first `count` of them begin as
// many classes, of `most` entries at most.
struct EntryClasses {
  int step, count, most;

  LBP_HOST_DEVICE EntryClasses(int kernel, int stride, int dilation) {
    step = 1;
    while (step * dilation % stride != 0) ++step;
    count = step < kernel ? step : kernel;
    most = (kernel + step - 1) / step;
  }
  LBP_DEVICE int entries(int kernel, int first) const { return (kernel - 1 - first) / step + 1; }
};

// The pixels y with y + padding = residue modulo the stride meet the same entries of the kernel: those whose place,
// dilation times entry, has that residue, every `step`-th from `first` on. An entry meets the pixel at the output
// (y + padding - dilation entry) / stride = output_of(y) - shift(entry), whole numbers.
struct Residue {
  int residue, stride, dilation, padding;
  int first, step, entries;

  LBP_DEVICE Residue(int class_residue, int kernel, int class_stride, int class_padding, int class_dilation)
      : residue(class_residue), stride(class_stride), dilation(class_dilation), padding(class_padding) {
    first = 0;
    while (first < kernel && first * dilation % stride != residue) ++first;
    step = EntryClasses(kernel, stride, dilation).step;
    entries = first < kernel ? (kernel - 1 - first) / step + 1 : 0;
  }

  LBP_DEVICE int shift(int entry) const { return (dilation * entry - residue) / stride; }
};

// The pixels of the class among `size` neighbours from pixel `begin` on.
struct ResiduePixels {
  int first, count;  // counted from `begin`; the next is a stride further
  int output;        // of the first; the next one's is one more

  LBP_DEVICE ResiduePixels(const Residue& of, int begin, int size) {
    first = (of.residue - of.padding - begin) % of.stride;
    if (first < 0) first += of.stride;
    count = first < size ? (size - 1 - first) / of.stride + 1 : 0;
    output = (begin + first + of.padding - of.residue) / of.stride;
  }
};

// Where an entry of the kernel reads along one axis, for the pixel `y` of the convolution's input; negative where it
// reads nothing.
template <typename Integer>
LBP_DEVICE Integer output_of_entry(Integer y, Integer entry, Integer stride, Integer padding, Integer dilation) {
  const Integer place = y + padding - dilation * entry;
  if (place < 0 || stride == 1) return place;
  const Integer output = Integer(quotient(place, stride));
  return output * stride == place ? output : -1;
}

}  // namespace lbp::cuda
