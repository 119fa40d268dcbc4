#include "parallel/ordered_sum.h"

#include <algorithm>

namespace hysparse::cpu {
namespace {

/// Elements summed at a time: in the first-level cache, and read in full before out is written.
constexpr std::int64_t block = 1024;

template <class T, class Accumulator>
void sum(std::span<const void* const> sources, std::int64_t n, T* out) {
  Accumulator acc[block];
  for (std::int64_t begin = 0; begin < n; begin += block) {
    const std::int64_t count = std::min(block, n - begin);
    for (std::size_t r = 0; r < sources.size(); ++r) {
      const T* source = static_cast<const T*>(sources[r]) + begin;
      if (r == 0) {
        for (std::int64_t i = 0; i < count; ++i) acc[i] = static_cast<Accumulator>(source[i]);
      } else {
        for (std::int64_t i = 0; i < count; ++i)
          acc[i] = static_cast<Accumulator>(acc[i] + static_cast<Accumulator>(source[i]));
      }
    }
    for (std::int64_t i = 0; i < count; ++i) out[begin + i] = static_cast<T>(acc[i]);
  }
}

}  // namespace

void ordered_sum(DType dtype, std::span<const void* const> sources, std::int64_t n, void* out) {
  switch (dtype) {
    case DType::f64:
      return sum<double, double>(sources, n, static_cast<double*>(out));
    case DType::f32:
      return sum<float, float>(sources, n, static_cast<float*>(out));
    case DType::bf16:
      return sum<BFloat16, float>(sources, n, static_cast<BFloat16*>(out));
    case DType::i64:
      return sum<std::int64_t, std::int64_t>(sources, n, static_cast<std::int64_t*>(out));
    case DType::i32:
      return sum<std::int32_t, std::int32_t>(sources, n, static_cast<std::int32_t*>(out));
    case DType::u8:
      return sum<std::uint8_t, std::uint8_t>(sources, n, static_cast<std::uint8_t*>(out));
  }
}

}  // namespace hysparse::cpu
