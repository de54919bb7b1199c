// Windowed coefficients as the kernels take them, checked.
#pragma once

#include <algorithm>
#include <vector>

#include "torch/tensors.h"
#include "window_arguments.h"

namespace lbp::binding {

// Sizes and steps of windows above this are refused: products of two are numbers still, and CUDA kernels count places
// in 32 bits.
constexpr Index kMost = Index(1) << 30;

inline bool is_size(Index number) { return number >= 0 && number <= kMost; }
inline bool is_step(Index number) { return number >= 1 && number <= kMost; }
inline bool is_place(Index number) { return number >= -kMost && number <= kMost; }

// Integers [R, columns], contiguous.
inline Tensor checked_integers(Device on, const Tensor& tensor, const char* name, int64_t columns) {
  STD_TORCH_CHECK(tensor.dim() == 2 && tensor.size(1) == columns, name, ": expected an int64 tensor [rows, ", columns,
                  "]");
  return checked<int64_t>(on, tensor, name, tensor.numel());
}

inline void check_window_matrix(const Tensor& matrix, const char* name) {
  STD_TORCH_CHECK(matrix.dim() == 7, name, ": expected [batch, channels, rows, columns, *layer], got ", matrix.dim(),
                  " dimensions");
  for (int64_t i = 0; i < matrix.dim(); ++i) {
    STD_TORCH_CHECK(is_size(matrix.size(i)), name, ": expected at most ", kMost, " along dimension ", i, ", got ",
                    matrix.size(i));
  }
}

// Where windows lie, as the schema has it.
inline void check_places(const std::vector<int64_t>& scale, const std::vector<int64_t>& offset) {
  STD_TORCH_CHECK(scale.size() == 2 && offset.size() == 2, "scale and offset: expected two numbers each");
  STD_TORCH_CHECK(is_step(scale[0]) && is_step(scale[1]), "scale: expected numbers of 1 to ", kMost, ", got ", scale[0],
                  " and ", scale[1]);
  STD_TORCH_CHECK(is_place(offset[0]) && is_place(offset[1]), "offset: expected numbers of -", kMost, " to ", kMost,
                  ", got ", offset[0], " and ", offset[1]);
}

// Channels, rows and columns of the input under a window matrix.
inline void check_image(const std::vector<int64_t>& image, const Tensor& matrix) {
  const int64_t channels = matrix.size(1);
  STD_TORCH_CHECK(image.size() == 3 && image[0] == channels, "image: expected ", channels,
                  " channels, rows and columns");
  STD_TORCH_CHECK(is_size(image[1]) && is_size(image[2]), "image: expected ", channels,
                  " channels, rows and columns of 0 to ", kMost, ", got ", image[1], " and ", image[2]);
}

// The windows that a matrix [B, C0, kh, kw, C, H, W] holds of an image of so many rows and columns.
inline Windows windows_of(const Tensor& matrix, int64_t image_rows, int64_t image_columns,
                          const std::vector<int64_t>& scale, const std::vector<int64_t>& offset) {
  check_places(scale, offset);
  for (size_t axis = 0; axis < 2; ++axis) {
    const Index count = matrix.size(int64_t(5 + axis)),
                last = scale[axis] * std::max<Index>(count - 1, 0) + offset[axis];
    STD_TORCH_CHECK(last <= kMost, "scale: the last of ", count, " windows begins at ", last, ", expected at most ",
                    kMost);
  }
  return {matrix.size(1), image_rows,     image_columns, matrix.size(2), matrix.size(3), matrix.size(4),
          matrix.size(5), matrix.size(6), scale[0],      scale[1],       offset[0],      offset[1]};
}

template <typename T>
struct WindowsTensor {
  Tensor storage, rows;
  RowWindows<T> view;

  // A [K, sources, height, width, C] of a layer [C, layer_height, layer_width], and rows int64 [R, 4]. Rows and sides
  // of A may have any stride. A window that leaves the layer, or a row that names no source or image, is refused on the
  // CPU; on another device, which would have to stop for that, the kernels give it NaN.
  WindowsTensor(Device on, const Tensor& A, const Tensor& where, Index layer_height, Index layer_width, Index channels,
                Index batch, int64_t sides) {
    STD_TORCH_CHECK(sides >= 1 && sides <= 3, "sides: expected 1 (lower), 2 (upper) or 3 (both), got ", sides);
    STD_TORCH_CHECK(A.dim() == 5 && A.size(0) == (sides == 3 ? 2 : 1) && A.size(4) == channels, "A: expected [",
                    sides == 3 ? 2 : 1, ", rows, height, width, ", channels, "] for these sides");
    rows = checked_integers(on, where, "rows", 4);
    const Index height = A.size(2), width = A.size(3);
    const bool contiguous = (channels == 1 || A.stride(4) == 1) && (width == 1 || A.stride(3) == channels) &&
                            (height == 1 || A.stride(2) == width * channels);
    storage = contiguous ? A : torch::stable::contiguous(A);
    static_assert(sizeof(WindowRow) == 4 * sizeof(int64_t), "rows are read as they lie in memory");
    view = {storage.numel() == 0 ? nullptr : storage.const_data_ptr<T>(),
            storage.stride(0),
            storage.stride(1),
            rows.size(0),
            height,
            width,
            channels,
            layer_height,
            layer_width,
            rows.numel() == 0 ? nullptr : reinterpret_cast<const WindowRow*>(rows.const_data_ptr<int64_t>()),
            A.size(1),
            batch};
    for (Index i = 0; on.is_cpu() && i < view.rows; ++i) {
      const WindowRow row = view.where[i];
      STD_TORCH_CHECK(stands(view, row), "rows: row ", i, " is (source ", row.source, ", image ", row.image,
                      ", window at ", row.top, ", ", row.left, "), which does not fit ", A.size(1), " sources, ", batch,
                      " images and a window of ", height, " x ", width, " in a layer of ", layer_height, " x ",
                      layer_width);
    }
  }
};

}  // namespace lbp::binding
