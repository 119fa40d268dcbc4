#include "attention/cpu/choose.h"

#include <algorithm>
#include <functional>
#include <vector>

#include "attention/cpu/select.h"

namespace hysparse::cpu {
namespace {

/// Rows that a thread takes at least.
constexpr std::int64_t row_grain = 16;

std::int64_t visible_blocks(std::int64_t row, std::int64_t seq_len, std::int64_t block_size) {
  return row % seq_len / block_size + 1;
}

}  // namespace

void choose_blocks(const Stream& stream, const Tensor& scores, std::int64_t first, std::int64_t seq_len,
                   std::int64_t block_size, const Tensor& blocks) {
  const std::int64_t parts = scores.dim(0), rows = scores.dim(1), width = scores.dim(2), top = blocks.dim(1);
  dispatch_float(scores.dtype(), [&]<class T>() {
    const T* in = scores.data<T>();
    std::int32_t* out = blocks.data<std::int32_t>();
    stream.pool->parallel_for(rows, row_grain, [=](std::int64_t begin, std::int64_t end) {
      std::vector<T> largest, ranked;
      for (std::int64_t r = begin; r < end; ++r) {
        const std::int64_t visible = visible_blocks(first + r, seq_len, block_size);
        if (visible <= top) {
          list_all_blocks(visible, top, out + r * top);
          continue;
        }
        if (top == 0) continue;
        largest.assign(in + r * width, in + r * width + visible);
        for (std::int64_t p = 1; p < parts; ++p) {
          const T* row = in + (p * rows + r) * width;
          for (std::int64_t b = 0; b < visible; ++b) {
            T& x = largest[static_cast<std::size_t>(b)];
            x = row[b] > x ? row[b] : x;
          }
        }
        ranked = largest;
        std::nth_element(ranked.begin(), ranked.begin() + (top - 1), ranked.end(), std::greater<T>());
        const T threshold = ranked[static_cast<std::size_t>(top - 1)];
        const std::int64_t above =
            std::count_if(largest.begin(), largest.end(), [=](T x) { return x > threshold; });
        list_blocks<T>(largest.data(), 1, visible, top, threshold, top - above, out + r * top);
      }
    });
  });
}

void count_blocks(const Stream& stream, std::int64_t seq_len, std::int64_t block_size, std::int64_t top,
                  const Tensor& counts) {
  std::int32_t* out = counts.data<std::int32_t>();
  stream.pool->parallel_for(counts.numel(), 1 << 12, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r)
      out[r] = static_cast<std::int32_t>(std::min(top, visible_blocks(r, seq_len, block_size)));
  });
}

}  // namespace hysparse::cpu
