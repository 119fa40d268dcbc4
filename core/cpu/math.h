/// Elementary functions that GCC vectorises: branch-free, inlined, the same result in every lane and loop tail.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace hysparse::cpu {

/// e^x. f32: below 2 ulp on [-87, 88], 0 below (so exp(-inf) = 0), inf above; NaN gives NaN. f64: std::exp.
/// Cody-Waite reduction x = n ln2 + r, |r| <= ln2 / 2, Taylor polynomial of degree 7 in r, scaled by 2^n in two
/// steps.
inline float exp(float x) {
  const float clamped = x < -104.0f ? -104.0f : (x > 89.0f ? 89.0f : x);
  // Adding and taking away 1.5 * 2^23 rounds to the nearest integer.
  const float shifted = clamped * 1.442695040888963f + 12582912.0f;
  const float n = shifted - 12582912.0f;
  float r = clamped - n * 0.693145751953125f;
  r = r - n * 1.428606765330187e-6f;
  float p = 1.98412698e-4f;
  p = p * r + 1.38888889e-3f;
  p = p * r + 8.33333333e-3f;
  p = p * r + 4.16666667e-2f;
  p = p * r + 1.66666667e-1f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const std::int32_t e = std::bit_cast<std::int32_t>(shifted) - std::bit_cast<std::int32_t>(12582912.0f);
  const std::int32_t e1 = e >> 1, e2 = e - e1;
  return p * std::bit_cast<float>((e1 + 127) << 23) * std::bit_cast<float>((e2 + 127) << 23);
}
inline double exp(double x) {
  return std::exp(x);
}

/// 1 / (1 + e^-x).
template <class T>
inline T sigmoid(T x) {
  return T(1) / (T(1) + exp(-x));
}

}  // namespace hysparse::cpu
