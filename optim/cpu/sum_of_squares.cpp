#include "optim/cpu/sum_of_squares.h"

#include <algorithm>
#include <vector>

#include "core/thread_pool.h"

namespace hysparse::cpu {
namespace {

constexpr std::int64_t block = 1 << 13;  // elements summed by one task
constexpr int lanes = 16;

template <class T>
double sum_block(const T* x, std::int64_t n) {
  double partial[lanes] = {};
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    for (int l = 0; l < lanes; ++l) {
      const auto value = static_cast<double>(x[i + l]);
      partial[l] += value * value;
    }
  }
  for (int l = 0; i < n; ++i, ++l) partial[l] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  double sum = 0;
  for (const double p : partial) sum += p;
  return sum;
}

}  // namespace

void sum_of_squares(const Stream& stream, const Tensor& x, std::span<const Range> ranges, const Tensor& sum) {
  std::vector<Range> blocks;
  for (const Range& r : ranges) {
    for (std::int64_t begin = r.begin; begin < r.end; begin += block)
      blocks.push_back({begin, std::min(begin + block, r.end)});
  }
  std::vector<double> sums(blocks.size());
  dispatch_float(x.dtype(), [&]<class T>() {
    const T* data = x.data<T>();
    stream.pool->parallel_for(
        static_cast<std::int64_t>(blocks.size()), 4, [&](std::int64_t begin, std::int64_t end) {
          for (auto b = static_cast<std::size_t>(begin); b < static_cast<std::size_t>(end); ++b) {
            sums[b] = sum_block(data + blocks[b].begin, blocks[b].end - blocks[b].begin);
          }
        });
  });
  double total = 0;
  for (const double s : sums) total += s;
  *sum.data<double>() = total;
}

}  // namespace hysparse::cpu
