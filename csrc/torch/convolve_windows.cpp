// convolve_windows_laid_out: from tensors to the kernel.
#include "torch/ops.h"
#include "torch/windows.h"

namespace lbp::binding {
namespace {

// The sizes of a convolution of windows [B, C0, kh, kw, C, H, W] with weight [C_out, C / groups, rows, columns].
template <typename T>
ConvolveWindowsArguments<T> sizes_of_convolution(const Tensor& windows, const Tensor& weight,
                                                 const std::vector<int64_t>& image, const std::vector<int64_t>& scale,
                                                 const std::vector<int64_t>& offset, const std::vector<int64_t>& stride,
                                                 const std::vector<int64_t>& padding,
                                                 const std::vector<int64_t>& dilation, int64_t groups) {
  check_window_matrix(windows, "windows");
  check_places(scale, offset);
  STD_TORCH_CHECK(stride.size() == 2 && padding.size() == 2 && dilation.size() == 2,
                  "stride, padding and dilation: expected two numbers each");
  if (!image.empty()) check_image(image, windows);
  STD_TORCH_CHECK(groups >= 1 && windows.size(4) % groups == 0, "groups: expected a divisor of ", windows.size(4),
                  " channels, got ", groups);
  STD_TORCH_CHECK(weight.dim() == 4 && weight.size(1) * groups == windows.size(4) && weight.size(0) % groups == 0,
                  "weight: expected [C_out, ", windows.size(4) / groups, ", rows, columns], C_out a multiple of ",
                  groups, " groups");
  ConvolveWindowsArguments<T> args = {};
  args.has_image = !image.empty();
  args.matrices = windows.size(0) * windows.size(1);
  args.rows = windows.size(2);
  args.columns = windows.size(3);
  args.channels = windows.size(4);
  args.height = windows.size(5);
  args.width = windows.size(6);
  args.groups = groups;
  args.outputs = weight.size(0);
  Index counts[2] = {};
  for (int i = 0; i < 2; ++i) {
    const size_t axis = size_t(i);
    STD_TORCH_CHECK(is_step(stride[axis]) && is_step(dilation[axis]) && is_size(padding[axis]),
                    "stride and dilation: expected 1 to ", kMost, "; padding: 0 to ", kMost);
    args.kernel[i] = weight.size(2 + i);
    STD_TORCH_CHECK(is_step(args.kernel[i]), "weight: expected a kernel of 1 to ", kMost, " rows and columns, got ",
                    weight.size(2), " x ", weight.size(3));
    args.stride[i] = stride[axis];
    args.padding[i] = padding[axis];
    args.dilation[i] = dilation[axis];
    args.step[i] = scale[axis] * dilation[axis];
    args.image[i] = image.empty() ? 0 : image[axis + 1];
    args.scale[i] = scale[axis] * stride[axis];
    args.offset[i] = offset[axis] - scale[axis] * padding[axis];
    const Index room = windows.size(5 + i) + 2 * padding[axis] - dilation[axis] * (args.kernel[i] - 1) - 1;
    STD_TORCH_CHECK(room >= 0, "weight: the kernel of ", weight.size(2), " x ", weight.size(3),
                    " does not fit in the padded layer");
    counts[i] = room / stride[axis] + 1;
  }
  args.output_height = counts[0];
  args.output_width = counts[1];
  return args;
}

}  // namespace

Tensor convolve_windows_laid_out(Tensor windows, Tensor weight, std::vector<int64_t> image, std::vector<int64_t> scale,
                                 std::vector<int64_t> offset, LBP_CONVOLUTION_PARAMETERS, int64_t together) {
  return with_type(windows, "convolve_windows_laid_out", [&](auto type, Device on) {
    using T = decltype(type);
    auto args = sizes_of_convolution<T>(windows, weight, image, scale, offset, stride, padding, dilation, groups);
    STD_TORCH_CHECK(together >= 1, "together: expected at least 1, got ", together);
    const Tensor entries = checked<T>(on, windows, "windows", windows.numel());
    const Tensor kernel = checked<T>(on, weight, "weight", weight.numel());
    Tensor result = empty<T>(windows, {windows.size(0), windows.size(1), args.grown(0), args.grown(1), args.outputs,
                                       args.output_height, args.output_width});
    if (result.numel() == 0) return result;
    args.together = std::min<Index>(together, args.matrices);
    Tensor layers =
        empty<T>(windows, {args.together, args.rows, args.columns, args.reach(0), args.reach(1), args.channels});
    args.windows = entries.numel() == 0 ? nullptr : entries.const_data_ptr<T>();
    args.weight = kernel.numel() == 0 ? nullptr : kernel.const_data_ptr<T>();
    args.layers = layers.numel() == 0 ? nullptr : layers.mutable_data_ptr<T>();
    args.result = result.mutable_data_ptr<T>();
    launch::convolve_windows<T>(on, args);
    return result;
  });
}

}  // namespace lbp::binding
