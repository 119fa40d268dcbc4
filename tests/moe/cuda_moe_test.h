/// What the GPU tests of moe/ share.
#pragma once

#include "moe/experts.h"
#include "tests/core/gpu_test.h"
#include "tests/moe/moe_case.h"

namespace hysparse::testing {

/// Relative errors by norm of what a layer of experts makes: up to six values in a row are rounded to bf16,
/// each by 2^-8 / sqrt(3) of itself in the mean square; twice sqrt(6) of that where few elements are averaged
/// over.
inline double experts_bound(DType dtype) {
  return dtype == DType::bf16 ? 2 * std::sqrt(6.0 / 3.0) * 0x1p-8 : f32_bound;
}

inline void expect_same_ids(const Tensor& gpu, const Tensor& cpu) {
  EXPECT_EQ(gpu.shape(), cpu.shape());
  EXPECT_EQ(gpu.to_vector<std::int32_t>(), cpu.to_vector<std::int32_t>());
}
inline void expect_same_counts(const Tensor& gpu, const Tensor& cpu) {
  EXPECT_EQ(gpu.to_vector<std::int64_t>(), cpu.to_vector<std::int64_t>());
}

/// Every `stride`-th assignment is dropped.
inline Tensor with_dropped(const Tensor& ids, std::int64_t stride) {
  const Tensor result = ids.clone();
  for (std::int64_t a = 1; a < ids.numel(); a += stride) result.data<std::int32_t>()[a] = -1;
  return result;
}
/// Every token's slots name the same experts.
inline Tensor repeated(std::int64_t tokens, const std::vector<std::int32_t>& slots) {
  std::vector<std::int32_t> ids;
  for (std::int64_t t = 0; t < tokens; ++t) ids.insert(ids.end(), slots.begin(), slots.end());
  return Tensor::from(ids, {tokens, static_cast<std::int64_t>(slots.size())});
}

}  // namespace hysparse::testing
