// The launches that relax windows, for launchers that go on with the lines.
#pragma once

#include "cuda/kernels/relax_windows.cuh"
#include "cuda/window_rows.h"

namespace lbp::cuda {

// Room for the lines, in whole packs. Arguments are RelaxWindowsArguments or those of the gradient.
template <typename Arguments>
Index layer_lines_bytes(const Arguments& args) {
  const Index neurons = args.A.layer_height * args.A.layer_width * args.A.channels;
  const Index planes = (args.relaxation.l == nullptr ? 0 : 4 * args.A.images) + (args.bias.data == nullptr ? 0 : 1);
  return quotient_up(planes * neurons * Index(sizeof(*args.relaxation.l)), 16) * 16;
}

template <template <typename> class Arguments, typename T>
LayerLines<T> layer_lines(const Arguments<T>& args, void* workspace) {
  const Index neurons = args.A.layer_height * args.A.layer_width * args.A.channels;
  T* const data = static_cast<T*>(workspace);
  LayerLines<T> lines = {};
  if (args.bias.data != nullptr) lines.bias = data;
  if (args.relaxation.l != nullptr) {  // else rows may name any image
    lines.data = data + (args.bias.data == nullptr ? 0 : neurons);
    lines.count = args.A.images * neurons;
  }
  return lines;
}

// Computes the lines, then relaxes the windows, or adds up the constants alone where args.relaxed is null.
template <typename T>
Status relax_windows_through(const RelaxWindowsArguments<T>& args, const LayerLines<T>& lines, Stream stream);

}  // namespace lbp::cuda
