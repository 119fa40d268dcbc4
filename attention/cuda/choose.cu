#include "attention/cuda/choose.h"
#include "attention/cuda/select.cuh"

namespace hysparse::cuda {
namespace {

struct ChooseArguments {
  const float* scores;  ///< [parts, rows, groups, columns]
  std::int64_t rows;    ///< query tokens
  int parts, groups, columns, top, block_size;
  std::int64_t first, seq_len, start;  ///< row r is token (first + r) % seq_len, at position `start` + that
  const std::int32_t* documents;       ///< starts of all S*T rows; null without
  std::int32_t *blocks, *counts;       ///< counts: null where not wanted
};

/// A warp per list.
__global__ void choose_kernel(ChooseArguments a) {
  const std::int64_t list = (blockIdx.x * static_cast<std::int64_t>(blockDim.x) + threadIdx.x) / warp_size;
  if (list >= a.rows * a.groups) return;
  const std::int64_t row = a.first + list / a.groups;
  const int first = a.documents != nullptr ? a.documents[row] / a.block_size : 0;  // block
  const int visible = static_cast<int>((a.start + row % a.seq_len) / a.block_size) + 1 - first;
  if (a.counts != nullptr && threadIdx.x % warp_size == 0) a.counts[list] = min(a.top, visible);
  std::int32_t* out = a.blocks + list * a.top;
  if (visible <= a.top) return list_all_blocks(first, visible, a.top, out);
  const std::int64_t part_size = a.rows * a.groups * a.columns;
  const float* scores = a.scores + list * a.columns + first;
  list_top_blocks(
      first, visible, a.top,
      [&](int b) {
        float largest = scores[b];
        for (int part = 1; part < a.parts; ++part) largest = fmaxf(largest, scores[part * part_size + b]);
        return largest;
      },
      out);
}

__global__ void count_kernel(std::int64_t rows, std::int64_t seq_len, std::int64_t block_size,
                             const std::int32_t* documents, std::int64_t top, std::int32_t* counts) {
  const std::int64_t row = blockIdx.x * static_cast<std::int64_t>(blockDim.x) + threadIdx.x;
  if (row >= rows) return;
  const std::int64_t first = documents != nullptr ? documents[row] / block_size : 0;
  counts[row] = static_cast<std::int32_t>(min(top, row % seq_len / block_size + 1 - first));
}

void launch_choose(const Stream& stream, const ChooseArguments& a) {
  constexpr int threads = 128;
  launch(stream, {dim3(static_cast<unsigned>(ceil_div(a.rows * a.groups, threads / warp_size))), dim3(threads)},
         choose_kernel, a);
}

}  // namespace

void choose_blocks(const Stream& stream, const Tensor& scores, std::int64_t first, std::int64_t seq_len,
                   std::int64_t block_size, const Tensor& documents, const Tensor& blocks) {
  launch_choose(stream, {.scores = device_data<float>(scores),
                         .rows = scores.dim(1),
                         .parts = static_cast<int>(scores.dim(0)),
                         .groups = 1,
                         .columns = static_cast<int>(scores.dim(2)),
                         .top = static_cast<int>(blocks.dim(1)),
                         .block_size = static_cast<int>(block_size),
                         .first = first,
                         .seq_len = seq_len,
                         .start = 0,
                         .documents = device_data_or_null<std::int32_t>(documents),
                         .blocks = device_data<std::int32_t>(blocks),
                         .counts = nullptr});
}

void count_blocks(const Stream& stream, std::int64_t seq_len, std::int64_t block_size, const Tensor& documents,
                  std::int64_t top, const Tensor& counts) {
  launch(stream, {dim3(static_cast<unsigned>(ceil_div(counts.numel(), 256))), dim3(256)}, count_kernel,
         counts.numel(), seq_len, block_size, device_data_or_null<std::int32_t>(documents), top,
         device_data<std::int32_t>(counts));
}

void choose_for_groups(const Stream& stream, const Tensor& scores, std::int64_t start, std::int64_t seq_len,
                       std::int64_t block_size, const std::int32_t* documents, const Tensor& blocks,
                       const Tensor& counts) {
  launch_choose(stream, {.scores = device_data<float>(scores),
                         .rows = scores.dim(0),
                         .parts = 1,
                         .groups = static_cast<int>(scores.dim(1)),
                         .columns = static_cast<int>(scores.dim(2)),
                         .top = static_cast<int>(blocks.dim(2)),
                         .block_size = static_cast<int>(block_size),
                         .first = 0,
                         .seq_len = seq_len,
                         .start = start,
                         .documents = documents,
                         .blocks = device_data<std::int32_t>(blocks),
                         .counts = device_data<std::int32_t>(counts)});
}

}  // namespace hysparse::cuda
