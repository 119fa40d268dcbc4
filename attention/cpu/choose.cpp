#include "attention/cpu/choose.h"

#include <algorithm>
#include <functional>
#include <vector>

#include "attention/cpu/select.h"

namespace hysparse::cpu {
namespace {

/// Rows that a thread takes at least.
constexpr std::int64_t row_grain = 16;

/// The blocks [first, end) that a row sees.
struct VisibleBlocks {
  std::int64_t first, end;
  std::int64_t count() const { return end - first; }
};

VisibleBlocks visible_blocks(std::int64_t row, std::int64_t seq_len, std::int64_t block_size,
                             const std::int32_t* documents) {
  return {documents != nullptr ? documents[row] / block_size : 0, row % seq_len / block_size + 1};
}

const std::int32_t* starts(const Tensor& documents) {
  return documents.defined() ? documents.data<std::int32_t>() : nullptr;
}

}  // namespace

void choose_blocks(const Stream& stream, const Tensor& scores, std::int64_t first, std::int64_t seq_len,
                   std::int64_t block_size, const Tensor& documents, const Tensor& blocks) {
  const std::int64_t parts = scores.dim(0), rows = scores.dim(1), width = scores.dim(2), top = blocks.dim(1);
  dispatch_float(scores.dtype(), [&]<class T>() {
    const T* in = scores.data<T>();
    const std::int32_t* from = starts(documents);
    std::int32_t* out = blocks.data<std::int32_t>();
    stream.pool->parallel_for(rows, row_grain, [=](std::int64_t begin, std::int64_t end) {
      std::vector<T> largest, ranked;
      for (std::int64_t r = begin; r < end; ++r) {
        const VisibleBlocks visible = visible_blocks(first + r, seq_len, block_size, from);
        if (visible.count() <= top) {
          list_all_blocks(visible.first, visible.end, top, out + r * top);
          continue;
        }
        if (top == 0) continue;
        largest.assign(in + r * width, in + r * width + visible.end);
        for (std::int64_t p = 1; p < parts; ++p) {
          const T* row = in + (p * rows + r) * width;
          for (std::int64_t b = visible.first; b < visible.end; ++b) {
            T& x = largest[static_cast<std::size_t>(b)];
            x = row[b] > x ? row[b] : x;
          }
        }
        ranked.assign(largest.begin() + visible.first, largest.end());
        std::nth_element(ranked.begin(), ranked.begin() + (top - 1), ranked.end(), std::greater<T>());
        const T threshold = ranked[static_cast<std::size_t>(top - 1)];
        const std::int64_t above =
            std::count_if(ranked.begin(), ranked.end(), [=](T x) { return x > threshold; });
        list_blocks<T>(largest.data(), 1, visible.first, visible.end, top, threshold, top - above,
                       out + r * top);
      }
    });
  });
}

void count_blocks(const Stream& stream, std::int64_t seq_len, std::int64_t block_size, const Tensor& documents,
                  std::int64_t top, const Tensor& counts) {
  const std::int32_t* from = starts(documents);
  std::int32_t* out = counts.data<std::int32_t>();
  stream.pool->parallel_for(counts.numel(), 1 << 12, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r)
      out[r] = static_cast<std::int32_t>(std::min(top, visible_blocks(r, seq_len, block_size, from).count()));
  });
}

}  // namespace hysparse::cpu
