/// Reductions in a fixed order that GCC vectorises: 16 partial results, joined pairwise. The result depends on
/// the number of terms only.
#pragma once

#include <cstdint>

namespace hysparse::cpu {

inline constexpr int lanes = 16;

/// The sum of term(i) for i in [0, n).
template <class T, class F>
inline T lane_sum(std::int64_t n, F&& term) {
  T s[lanes] = {};
  const std::int64_t whole = n - n % lanes;
  for (std::int64_t i = 0; i < whole; i += lanes) {
    for (int l = 0; l < lanes; ++l) s[l] += term(i + l);
  }
  for (std::int64_t i = whole; i < n; ++i) s[i & (lanes - 1)] += term(i);
  for (int half = lanes / 2; half > 0; half /= 2) {
    for (int l = 0; l < half; ++l) s[l] += s[l + half];
  }
  return s[0];
}

/// The largest of x[0, n), n >= 1. NaN is passed over (all NaN: NaN).
template <class T>
inline T lane_max(std::int64_t n, const T* x) {
  T m[lanes];
  for (int l = 0; l < lanes; ++l) m[l] = x[0];
  const std::int64_t whole = n - n % lanes;
  for (std::int64_t i = 0; i < whole; i += lanes) {
    for (int l = 0; l < lanes; ++l) m[l] = m[l] >= x[i + l] ? m[l] : x[i + l];
  }
  for (std::int64_t i = whole; i < n; ++i)
    m[i & (lanes - 1)] = m[i & (lanes - 1)] >= x[i] ? m[i & (lanes - 1)] : x[i];
  for (int half = lanes / 2; half > 0; half /= 2) {
    for (int l = 0; l < half; ++l) m[l] = m[l] >= m[l + half] ? m[l] : m[l + half];
  }
  return m[0];
}

}  // namespace hysparse::cpu
