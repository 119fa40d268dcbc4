/// Balancing without an auxiliary loss (Wang et al., 2024: arXiv 2408.15664), and load figures for the metrics.
#pragma once

#include <cstdint>

#include "core/tensor.h"

namespace hysparse {

/// bias_e += rate * sign(mean load - load_e). bias [X], f32 or f64, on any device; counts i64 [X] on the CPU,
/// the assignments per expert of the whole global batch, before dropping (sum Routing::expert_counts over
/// micro-batches and the data-parallel ranks).
void update_correction_bias(const Tensor& bias, const Tensor& counts, double rate);

/// The choices of balanced routing, i32 [end - begin, k] on the CPU, of tokens [begin, end) of all: slot i of
/// token t goes to expert (t * k + i) % num_experts. Tokens are numbered over the whole batch, so that slices
/// choose what one rank would.
Tensor balanced_choices(std::int64_t begin, std::int64_t end, std::int64_t top_k, std::int64_t num_experts);

/// How evenly the experts of one layer were used.
struct LoadMetrics {
  double max_over_mean = 1;     ///< largest load over the mean; 1 is balanced, X the worst with top_k = 1
  double dropped_fraction = 0;  ///< of all assignments
};
/// counts i64 [X] as above; dropped assignments of the same tokens. No assignments: {1, 0}.
LoadMetrics load_metrics(const Tensor& counts, std::int64_t dropped);

}  // namespace hysparse
