// accumulate_windows_few_rows, its gradient, and accumulate_windows_many_rows: from tensors to the kernels.
#include "torch/ops.h"
#include "torch/windows.h"

namespace lbp::binding {
namespace {

// Rows [1 or B, S, C, H, W] and a window matrix [1 or B, C0, kh, kw, C, H, W] of one layer.
template <typename T>
struct RowsAndWindows {
  Index batch, inputs;
  Windows windows;
  Batched<T> rows, matrix;

  RowsAndWindows(Device on, const Tensor& A, const Tensor& entries, const std::vector<int64_t>& image,
                 const std::vector<int64_t>& scale, const std::vector<int64_t>& offset)
      : batch(common_batch({checked_rows(A, entries).size(0), entries.size(0)})),
        inputs(image_size(image, entries)),
        windows(windows_of(entries, image[1], image[2], scale, offset)),
        rows(batched<T>(on, A, "rows", batch, trailing_size(A, 1))),
        matrix(batched<T>(on, entries, "windows", batch, trailing_size(entries, 1))) {}

  static const Tensor& checked_rows(const Tensor& A, const Tensor& entries) {
    check_window_matrix(entries, "windows");
    STD_TORCH_CHECK(
        A.dim() == 5 && A.size(2) == entries.size(4) && A.size(3) == entries.size(5) && A.size(4) == entries.size(6),
        "rows: expected [batch, rows, ", entries.size(4), ", ", entries.size(5), ", ", entries.size(6),
        "], the layer of the windows");
    return A;
  }

  static Index image_size(const std::vector<int64_t>& image, const Tensor& entries) {
    check_image(image, entries);
    const Index pixels = image[1] * image[2];
    STD_TORCH_CHECK(pixels == 0 || image[0] <= kMost * kMost / pixels, "image: expected at most ", kMost * kMost,
                    " numbers, got ", image[0], " x ", image[1], " x ", image[2]);
    return image[0] * pixels;
  }
};

}  // namespace

Tensor accumulate_windows_few_rows(Tensor rows, Tensor windows, std::vector<int64_t> image, std::vector<int64_t> scale,
                                   std::vector<int64_t> offset) {
  return with_type(windows, "accumulate_windows_few_rows", [&](auto type, Device on) {
    using T = decltype(type);
    const RowsAndWindows<T> in(on, rows, windows, image, scale, offset);
    Tensor result = empty<T>(windows, {in.batch, in.inputs, rows.size(1)});
    launch::accumulate_windows<T>(on, {in.batch, rows.size(1), in.windows, in.rows.data, in.rows.stride, in.matrix.data,
                                       in.matrix.stride, result.mutable_data_ptr<T>()});
    return result;
  });
}

Tensor accumulate_windows_many_rows(Tensor rows, Tensor windows, std::vector<int64_t> image, std::vector<int64_t> scale,
                                    std::vector<int64_t> offset) {
  return with_type(windows, "accumulate_windows_many_rows", [&](auto type, Device on) {
    using T = decltype(type);
    const RowsAndWindows<T> in(on, rows, windows, image, scale, offset);
    Tensor result = empty<T>(windows, {in.batch, in.inputs, rows.size(1)});
    AccumulateManyRowsArguments<T> args = {
        {in.batch, rows.size(1), in.windows, in.rows.data, in.rows.stride, in.matrix.data, in.matrix.stride, nullptr},
        nullptr,
        nullptr,
        nullptr};
    if (result.numel() == 0) return result;
    const Windows& w = in.windows;
    Tensor packed = empty<T>(windows, {w.height * w.width, args.padded_rows(), w.channels});
    Tensor layers = empty<T>(windows, {w.image_channels, w.rows, w.columns, w.width, w.channels});
    Tensor sums = empty<T>(windows, {args.padded_rows(), in.inputs});
    args.product.result = result.mutable_data_ptr<T>();
    args.packed = packed.numel() == 0 ? nullptr : packed.mutable_data_ptr<T>();
    args.layers = layers.numel() == 0 ? nullptr : layers.mutable_data_ptr<T>();
    args.sums = sums.mutable_data_ptr<T>();
    launch::accumulate_many_rows<T>(on, args);
    return result;
  });
}

std::tuple<Tensor, Tensor> accumulate_windows_few_rows_gradient(Tensor gradient, Tensor rows, Tensor windows,
                                                                std::vector<int64_t> image, std::vector<int64_t> scale,
                                                                std::vector<int64_t> offset, bool need_rows,
                                                                bool need_windows) {
  return with_type(windows, "accumulate_windows_few_rows_gradient", [&](auto type, Device on) {
    using T = decltype(type);
    const RowsAndWindows<T> in(on, rows, windows, image, scale, offset);
    STD_TORCH_CHECK(gradient.dim() == 3 && gradient.size(0) == in.batch && gradient.size(1) == in.inputs &&
                        gradient.size(2) == rows.size(1),
                    "gradient: expected [", in.batch, ", ", in.inputs, ", ", rows.size(1), "]");
    const Tensor arriving = checked<T>(on, gradient, "gradient", gradient.numel());
    const auto output = [&](const Tensor& like, bool needed) {
      std::vector<int64_t> sizes = {0};
      if (needed) {
        sizes = sizes_of(like);
        sizes[0] = in.batch;
      }
      return empty<T>(windows, sizes);
    };
    Tensor to_rows = output(rows, need_rows), to_windows = output(windows, need_windows);
    launch::accumulate_windows_gradient<T>(
        on, {in.batch, rows.size(1), in.windows, in.rows.data, in.rows.stride, in.matrix.data, in.matrix.stride,
             arriving.const_data_ptr<T>(), need_rows ? to_rows.mutable_data_ptr<T>() : nullptr,
             need_windows ? to_windows.mutable_data_ptr<T>() : nullptr});
    return std::make_tuple(to_rows, to_windows);
  });
}

}  // namespace lbp::binding
