/// A small mixture of experts with random weights, and its value by naive loops.
#pragma once

#include <cmath>

#include "core/random.h"
#include "moe/experts.h"
#include "tests/core/gradient_check.h"

namespace hysparse::testing {

struct MoeCase {
  std::int64_t experts, hidden_size, width;
  Parameter router, gate, up, down;

  MoeCase(std::int64_t x, std::int64_t d, std::int64_t f, DType dtype = DType::f64)
      : experts(x),
        hidden_size(d),
        width(f),
        router(random_parameter({x, d}, 11, "router", 0.5, dtype)),
        gate(random_parameter({x, f, d}, 11, "gate", 0.5, dtype)),
        up(random_parameter({x, f, d}, 11, "up", 0.5, dtype)),
        down(random_parameter({x, d, f}, 11, "down", 0.5, dtype)) {}

  ExpertWeights weights() const { return {&gate, &up, &down}; }
  std::vector<Parameter*> parameters() { return {&gate, &up, &down}; }
};

/// A routing with given ids and random weights, 0 where an id is -1.
inline Routing make_routing(const Tensor& ids, std::int64_t experts, DType dtype = DType::f64) {
  Routing routing;
  routing.expert_ids = routing.chosen_ids = ids;
  const Tensor w = random_tensor(ids.shape(), 12, "weights", 1.0, DType::f64);
  for (std::int64_t a = 0; a < ids.numel(); ++a) {
    if (ids.data<std::int32_t>()[a] < 0) w.data<double>()[a] = 0;
  }
  routing.weights = {w.to(dtype), nullptr};
  routing.expert_counts = Tensor::zeros({experts}, DType::i64);
  return routing;
}

/// Distinct random experts for every token.
inline Tensor random_ids(std::int64_t tokens, std::int64_t k, std::int64_t experts) {
  const Tensor ids = Tensor::empty({tokens, k}, DType::i32);
  const CounterRandom random(13, "ids");
  for (std::int64_t t = 0; t < tokens; ++t) {
    const auto first = static_cast<std::int64_t>(
        random.below(static_cast<std::uint64_t>(t), static_cast<std::uint64_t>(experts)));
    for (std::int64_t slot = 0; slot < k; ++slot) {
      ids.data<std::int32_t>()[t * k + slot] =
          static_cast<std::int32_t>((first + slot * (1 + t % 2 * (experts > 2 * k))) % experts);
    }
  }
  return ids;
}

inline Tensor naive_experts(const MoeCase& moe, const Tensor& x, const Tensor& ids, const Tensor& weights) {
  const std::int64_t d = moe.hidden_size, f = moe.width, k = ids.dim(1);
  const Tensor y = Tensor::zeros(x.shape(), DType::f64);
  for (std::int64_t a = 0; a < ids.numel(); ++a) {
    const std::int64_t e = ids.data<std::int32_t>()[a];
    if (e < 0) continue;
    const double* row = x.data<double>() + a / k * d;
    for (std::int64_t i = 0; i < f; ++i) {
      double g = 0, u = 0;
      for (std::int64_t j = 0; j < d; ++j) {
        g += moe.gate.value.data<double>()[(e * f + i) * d + j] * row[j];
        u += moe.up.value.data<double>()[(e * f + i) * d + j] * row[j];
      }
      const double h = g / (1 + std::exp(-g)) * u * weights.data<double>()[a];
      for (std::int64_t j = 0; j < d; ++j) {
        y.data<double>()[a / k * d + j] += moe.down.value.data<double>()[(e * d + j) * f + i] * h;
      }
    }
  }
  return y;
}

}  // namespace hysparse::testing
