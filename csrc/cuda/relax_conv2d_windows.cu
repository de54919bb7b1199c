#include "cuda/kernels/relax_conv2d_windows.cuh"

#include "cuda/kernels/relax_few_conv2d.cuh"
#include "cuda/relax_windows.h"
#include "cuda/tile_plan.h"

namespace lbp::cuda {
namespace {

// The workspace holds the packed weights, the lines, and what the product takes, each in whole packs.
template <typename T>
Index packed_bytes(const WindowConvolution<T>& convolution, Index channels) {
  const Index weights = channels * (convolution.inputs / convolution.groups) * convolution.kernel[0] *
                        convolution.kernel[1] * Index(sizeof(T));
  return quotient_up(weights, 16) * 16;
}

template <typename T>
WindowsProduct<T> windows_product(const RelaxConvolveWindowsArguments<T>& args, const LayerLines<T>& lines,
                                  const T* packed) {
  const WindowConvolution<T>& c = args.convolution;
  const RowWindows<T>& A = args.relax.A;
  const EntryClasses down(int(c.kernel[0]), int(c.stride[0]), int(c.dilation[0]));
  const EntryClasses across(int(c.kernel[1]), int(c.stride[1]), int(c.dilation[1]));
  const Index tall = quotient_up(c.height, c.stride[0]), wide = quotient_up(c.width, c.stride[1]);
  return {c.groups * c.stride[0] * c.stride[1],
          slot_count(args.relax.sides, A.rows) * tall * wide,
          c.inputs / c.groups,
          A.channels / c.groups * down.most * across.most,
          A,
          args.relax.sides,
          lines,
          c,
          packed,
          tall,
          wide,
          args.coefficients};
}

template <typename T>
RelaxFewConvolveWindowsLaunch<T> few_rows(const RelaxConvolveWindowsArguments<T>& args) {
  const WindowConvolution<T>& c = args.convolution;
  return {args, larger(quotient_up(c.height * c.width * c.inputs, kThreads), Index(1))};
}

// Blocks of `few_rows` launches.
template <typename T>
Index few_blocks(const RelaxConvolveWindowsArguments<T>& args) {
  return slot_count(args.relax.sides, args.relax.A.rows) * few_rows(args).chunks;
}

// Whether the rows are few and short enough for one launch; tensor cores serve products.
template <typename T>
bool are_few(const RelaxConvolveWindowsArguments<T>& args) {
  const WindowConvolution<T>& c = args.convolution;
  const RowWindows<T>& A = args.relax.A;
  return args.arithmetic == Arithmetic::kPlain &&
         is_launch_bound_convolution(few_blocks(args), window_size(A),
                                     A.channels / c.groups * c.kernel[0] * c.kernel[1]);
}

}  // namespace

template <typename T>
Index relax_convolve_windows_workspace_bytes(const RelaxConvolveWindowsArguments<T>& args) {
  if (are_few(args)) return 0;
  return packed_bytes(args.convolution, args.relax.A.channels) + layer_lines_bytes(args.relax) +
         tiles_workspace_bytes(windows_product<T>(args, layer_lines(args.relax, nullptr), nullptr), args.arithmetic);
}

template <typename T>
Status relax_convolve_windows(const RelaxConvolveWindowsArguments<T>& args, void* workspace, Stream stream) {
  if (are_few(args)) {
    return LBP_LAUNCH_BLOCKS((relax_few_convolve_windows_kernel<T>), few_blocks(args),
                             std::size_t(window_size(args.relax.A)) * sizeof(T), stream, few_rows(args));
  }
  const WindowConvolution<T>& c = args.convolution;
  const Index channels = args.relax.A.channels, outputs = channels / c.groups, inputs = c.inputs / c.groups;
  auto* const bytes = static_cast<unsigned char*>(workspace);
  T* const packed = reinterpret_cast<T*>(bytes);
  const LayerLines<T> lines = layer_lines(args.relax, bytes + packed_bytes(c, channels));
  LBP_RETURN_IF_FAILED(relax_windows_through(args.relax, lines, stream));
  const PackWeightArguments<T> pack = {c, outputs, inputs, packed};
  LBP_RETURN_IF_FAILED(
      LBP_LAUNCH_BLOCKS((pack_weight_kernel<T>), quotient_up(channels * inputs, kThreads), 0, stream, pack));
  return launch_tiles(windows_product<T>(args, lines, packed), args.arithmetic,
                      bytes + packed_bytes(c, channels) + layer_lines_bytes(args.relax), stream);
}

LBP_INSTANTIATE_LAUNCHER(relax_convolve_windows, RelaxConvolveWindowsArguments);

}  // namespace lbp::cuda
