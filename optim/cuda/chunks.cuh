/// Ranges of flat tensors cut into chunks of a fixed number of elements, the work of one block.
#pragma once

#include <vector>

#include "core/cuda/kernel.cuh"

namespace hysparse::cuda {

/// On the device, one row per range that is not empty: number of its first chunk, begin, end, flag.
struct RangeTable {
  const std::int64_t* rows;
  int ranges;
  std::int64_t chunks;
};

/// `flag(range)` comes along.
template <class Ranges, class Flag>
Tensor range_rows(const Ranges& ranges, std::int64_t per_chunk, Device device, RangeTable& table, Flag&& flag) {
  std::vector<std::int64_t> rows;
  table = {};
  for (const auto& r : ranges) {
    if (r.begin >= r.end) continue;
    rows.insert(rows.end(), {table.chunks, r.begin, r.end, flag(r)});
    table.chunks += ceil_div(r.end - r.begin, per_chunk);
    ++table.ranges;
  }
  const Tensor there = Tensor::from(rows, {table.ranges, 4}).to_device(device);
  table.rows = there.data<std::int64_t>();
  return there;
}

struct Chunk {
  std::int64_t begin, end;
  bool flag;
};

__device__ __forceinline__ Chunk chunk_at(const RangeTable& table, std::int64_t number,
                                          std::int64_t per_chunk) {
  int low = 0, high = table.ranges;  // the last range whose first chunk is not after `number`
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (table.rows[4 * middle] <= number) {
      low = middle;
    } else {
      high = middle;
    }
  }
  const std::int64_t* row = table.rows + 4 * low;
  const std::int64_t begin = row[1] + (number - row[0]) * per_chunk;
  return {begin, min(begin + per_chunk, row[2]), row[3] != 0};
}

}  // namespace hysparse::cuda
