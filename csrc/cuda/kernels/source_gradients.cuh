// Gradients of what rows of windowed coefficients share. Rows share sources, and windows overlap: so a warp gathers
// what belongs to its part of a source, or to its neurons, from all rows in their order, instead of every row adding to
// what it shares.
#pragma once

#include "cuda/kernels/windows.cuh"

namespace lbp::cuda {

struct RowRange {
  Index first, end;
};

// Among which rows those of every source, then those of every image, are; without data, all rows. Mostly each row has a
// source of its own, and rows of an image stand side by side, so that looking at all of them would be the larger part
// of the work.
struct RowRanges {
  Index* first;  // [sources + images]
  Index* last;
  Index sources;

  LBP_DEVICE RowRange of_source(Index source, Index rows) const { return get(source, rows); }
  LBP_DEVICE RowRange of_image(Index image, Index rows) const { return get(sources + image, rows); }
  LBP_DEVICE RowRange get(Index number, Index rows) const {
    if (first == nullptr) return {0, rows};
    return {read(first + number), read(last + number) + 1};
  }
};

struct RowRangesLaunch {
  const WindowRow* where;
  Index rows, sources, images;
  RowRanges out;
};

// Calls body(row, where) in order for the rows of a range that stand somewhere and that are wanted. All lanes of the
// warp take part.
template <typename T, typename Wanted, typename Body>
LBP_DEVICE void for_wanted_rows(const RowWindows<T>& A, const RowRange& range, const Wanted& wanted, const Body& body) {
  for (Index first = range.first; first < range.end; first += kLanes) {
    const Index row = first + lane();
    bool chosen = false;
    if (row < range.end) {
      const WindowRow where = read_row(A.where + row);
      chosen = stands(A, where) && wanted(where);
    }
    for (unsigned found = __ballot_sync(kAllLanes, chosen); found != 0; found &= found - 1) {
      const Index next = first + __ffs(int(found)) - 1;
      body(next, read_row(A.where + next));
    }
  }
}

// A row that shares a source, at one step of a warp through it.
template <typename T>
struct SourceRow {
  Index row;
  WindowRow where;
  const WindowStep<T, false>& numbers;
  const Pack<T> (&a)[2];  // of the source, by sides
};

// A warp has a step through a source.
template <typename T>
LBP_DEVICE Index source_of_warp(const RowWindows<T>& A) {
  return quotient(Index(blockIdx.x) * kWarps + warp(), step_count(A));
}

// Writes the gradients of A, added up over the rows of every source: a warp for every step through every source.
// add(SourceRow, Sum sums[2][]) adds those of one row.
template <typename Sum, typename T, typename Add>
LBP_DEVICE void add_by_sources(const RowWindows<T>& A, int sides, const RowRanges& ranges, T* A_gradient,
                               const Add& add) {
  const Index steps = step_count(A), item = Index(blockIdx.x) * kWarps + warp();
  if (item >= A.sources * steps) return;  // the whole warp
  const Index source = source_of_warp(A);
  const WindowStep<T, false> numbers(A, item - source * steps);
  Pack<T> a[2];
  Sum sums[2][kOwn<T>] = {};
#pragma unroll
  for (int side = 0; side < 2; ++side) {
    if (side < side_count(sides)) a[side] = numbers.own.load(A.data + side * A.side_stride + source * A.source_stride);
  }
  for_wanted_rows(
      A, ranges.of_source(source, A.rows), [source](const WindowRow& where) { return where.source == source; },
      [&](Index row, const WindowRow& where) { add(SourceRow<T>{row, where, numbers, a}, sums); });
#pragma unroll
  for (int side = 0; side < 2; ++side) {
    if (side >= side_count(sides)) break;
    Pack<T> gradient;
#pragma unroll
    for (int i = 0; i < kOwn<T>; ++i) gradient[i] = T(sums[side][i]);
    numbers.own.store(A_gradient + (side * A.sources + source) * window_size(A), gradient);
  }
}

}  // namespace lbp::cuda
