/// `hysparse bench`: how fast this machine does a training step, the attentions, a MoE layer and the
/// collectives, with the sizes of a config.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "launch/run_config.h"
#include "parallel/process_group.h"

namespace hysparse {

struct BenchRuns {
  std::int64_t warmup = 3;  ///< not counted
  std::int64_t counted = 10;
};

/// Times of one thing done several times, in milliseconds.
struct BenchTimes {
  std::vector<double> ms;
  double median() const;
  double least() const;
  double most() const;
};

/// A row of the table that every benchmark prints: a name, its time, and what was done in it.
struct BenchRow {
  std::string name;
  BenchTimes times;
  double flops = 0;  ///< 0: no arithmetic worth counting
  double bytes = 0;  ///< moved; 0: not counted
  nlohmann::json extra = nlohmann::json::object();
};
struct BenchResult {
  std::string title;  ///< sizes, device, dtype, ranks
  std::vector<BenchRow> rows;
  nlohmann::json extra = nlohmann::json::object();  ///< members of the JSON object beside "rows"
};
std::string bench_table(const BenchResult& result);
nlohmann::json bench_json(const BenchResult& result);

/// Whole training steps of the config on its own layout, from initial values, nothing written: tokens/s, TFLOPS
/// of the model (no recompute counted), memory by purpose. Collective.
BenchResult bench_step(Runtime& runtime, const RunConfig& config, const BenchRuns& runs);
/// Full attention with and without the oracle's choice, block-sparse and window attention, forward and
/// backward, of micro_batch_size sequences. One rank.
BenchResult bench_attention(const RunConfig& config, const Stream& stream, const BenchRuns& runs);
/// Router, experts and their backward on micro_batch_size * seq_len tokens. The experts lie over all ranks.
/// Collective.
BenchResult bench_moe(Runtime& runtime, const RunConfig& config, const Stream& stream, const BenchRuns& runs);
/// all_reduce, reduce_scatter, all_gather, all_to_all over all ranks, 64 KiB to 64 MiB; bus bandwidth as
/// nccl-tests defines it. Collective.
BenchResult bench_comm(Runtime& runtime, const RunConfig& config, const Stream& stream, const BenchRuns& runs);

}  // namespace hysparse
