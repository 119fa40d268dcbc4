#include "model/partition.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "core/error.h"

namespace hysparse {
namespace {

constexpr double flops_per_weight = 6.0;  // one multiply-add in forward, two in backward

double as_double(std::int64_t n) {
  return static_cast<double>(n);
}

/// Mean over t < seq_len of min(t + 1, limit).
double mean_visible(std::int64_t limit, std::int64_t seq_len) {
  const double tokens = as_double(seq_len), most = as_double(std::min(limit, seq_len));
  return (most * (most + 1) / 2 + (tokens - most) * most) / tokens;
}

/// Rows of the projection that makes a gate.
std::int64_t gate_width(const ModelConfig& config, GateKind gate) {
  if (gate == GateKind::none) return 0;
  return gate == GateKind::headwise ? config.num_heads : config.num_heads * config.head_dim;
}

/// Weights of the attention's matrices, over the hidden size.
std::int64_t attention_rows(const ModelConfig& config, std::int64_t layer) {
  std::int64_t rows = 2 * config.num_heads * config.head_dim;  // q_proj, o_proj
  if (config.has_own_kv(layer)) rows += 2 * config.num_kv_heads * config.head_dim;
  const LayerType type = config.layer_types[static_cast<std::size_t>(layer)];
  if (type == LayerType::full_attention) rows += gate_width(config, config.full_attention_gate);
  if (type == LayerType::sparse_attention) rows += gate_width(config, config.attention_gate);
  if (config.has_window_branch(layer)) rows += gate_width(config, config.attention_gate);
  return rows;
}

/// Weights of the feed-forward's matrices that a token meets, over the hidden size.
std::int64_t feed_forward_rows(const ModelConfig& config, std::int64_t layer) {
  if (!config.is_moe(layer)) return 3 * config.intermediate_size;
  const MoeConfig& moe = *config.moe;
  return moe.num_experts + 3 * (moe.top_k + moe.shared_experts) * moe.intermediate_size;
}

double visible_keys(const ModelConfig& config, std::int64_t layer, std::int64_t seq_len) {
  const LayerType type = config.layer_types[static_cast<std::size_t>(layer)];
  double keys = 0;
  if (type == LayerType::full_attention) keys += mean_visible(seq_len, seq_len);
  if (type == LayerType::sparse_attention) keys += mean_visible(config.sparse_topk_tokens, seq_len);
  if (config.has_window_branch(layer)) keys += mean_visible(config.sliding_window, seq_len);
  return keys;
}

/// Costs of runs of atoms in whole units, for exact comparisons: sums of squares stay below 2^62.
class Costs {
 public:
  Costs(const ModelConfig& config, std::int64_t seq_len, const std::vector<ChunkRange>& atoms) {
    const std::vector<double> flops = chunk_flops(config, seq_len, atoms);
    double whole = 0;
    for (const double f : flops) whole += f;
    before_.push_back(0);
    for (const double f : flops) before_.push_back(before_.back() + std::llround(f / whole * units));
  }
  /// Of atoms [begin, end).
  std::int64_t operator()(std::size_t begin, std::size_t end) const { return before_[end] - before_[begin]; }

 private:
  static constexpr double units = 1 << 30;
  std::vector<std::int64_t> before_;
};

constexpr std::int64_t impossible = std::numeric_limits<std::int64_t>::max();

/// best[c][i]: the least value of cutting atoms i.. into the last c chunks, where `join` combines the cost of a
/// run with the value of the rest. `first_end[c][i]`: the end of the first run, the earliest of the best.
struct Cuts {
  std::vector<std::vector<std::int64_t>> best;
  std::vector<std::vector<std::size_t>> first_end;
};

template <class Join>
Cuts best_cuts(std::size_t atoms, std::size_t chunks, const Costs& costs, Join&& join) {
  Cuts cuts;
  cuts.best.assign(chunks + 1, std::vector<std::int64_t>(atoms + 1, impossible));
  cuts.first_end.assign(chunks + 1, std::vector<std::size_t>(atoms + 1, 0));
  cuts.best[0][atoms] = 0;
  for (std::size_t c = 1; c <= chunks; ++c) {
    for (std::size_t i = 0; i + c <= atoms; ++i) {
      for (std::size_t end = i + 1; end + (c - 1) <= atoms; ++end) {
        const std::int64_t rest = cuts.best[c - 1][end];
        const std::int64_t value = rest == impossible ? impossible : join(costs(i, end), rest);
        if (value >= cuts.best[c][i]) continue;
        cuts.best[c][i] = value;
        cuts.first_end[c][i] = end;
      }
    }
  }
  return cuts;
}

[[noreturn]] void refuse(std::size_t atoms, int stages, int virtual_stages) {
  const auto most = [&](int other) { return atoms / static_cast<std::size_t>(other); };
  const auto choices = [](std::size_t most_value) {
    return most_value == 1 ? std::string("1") : fmt::format("1 to {}", most_value);
  };
  const std::string makes =
      virtual_stages == 1
          ? fmt::format("parallel.pp: {}", stages)
          : fmt::format("parallel.pp: {} with parallel.virtual_stages: {}", stages, virtual_stages);
  std::vector<std::string> ways;
  if (most(virtual_stages) >= 1) {
    ways.push_back(fmt::format(
        "parallel.pp may be {}{}", choices(most(virtual_stages)),
        virtual_stages == 1 ? "" : fmt::format(" with parallel.virtual_stages: {}", virtual_stages)));
  }
  if (virtual_stages > 1 && most(stages) >= 1)
    ways.push_back(
        fmt::format("parallel.virtual_stages may be {} with parallel.pp: {}", choices(most(stages)), stages));
  if (virtual_stages > 1)
    ways.push_back(fmt::format("parallel.pp may be {} with parallel.virtual_stages: 1", choices(atoms)));
  throw_error(
      "{}: {} chunks of layers, but the model has only {} part{} to place (a full layer and the sparse layers "
      "that "
      "read its oracle stay together): {}",
      makes, stages * virtual_stages, atoms, atoms == 1 ? "" : "s", fmt::join(ways, "; or "));
}

}  // namespace

std::vector<ChunkRange> hybrid_atoms(const ModelConfig& config) {
  std::vector<ChunkRange> atoms;
  const std::int64_t layers = config.num_layers();
  const auto type = [&](std::int64_t i) { return config.layer_types[static_cast<std::size_t>(i)]; };
  for (std::int64_t first = 0; first < layers; first = atoms.back().last_layer) {
    std::int64_t end = first + 1;
    if (type(first) == LayerType::full_attention) {
      for (std::int64_t i = first + 1; i < layers && type(i) != LayerType::full_attention; ++i) {
        if (type(i) == LayerType::sparse_attention) end = i + 1;
      }
    }
    atoms.push_back({first, end});
  }
  return atoms;
}

double layer_flops(const ModelConfig& config, std::int64_t layer, std::int64_t seq_len) {
  const std::int64_t rows = attention_rows(config, layer) + feed_forward_rows(config, layer);
  return flops_per_weight * as_double(config.hidden_size * rows) +
         2 * flops_per_weight * as_double(config.num_heads * config.head_dim) *
             visible_keys(config, layer, seq_len);
}

double embedding_flops(const ModelConfig& config) {
  return 2.0 * as_double(config.hidden_size);
}

double head_flops(const ModelConfig& config) {
  return flops_per_weight * as_double(config.hidden_size * config.vocab_size);
}

std::vector<double> chunk_flops(const ModelConfig& config, std::int64_t seq_len,
                                const std::vector<ChunkRange>& chunks) {
  std::vector<double> flops;
  for (const ChunkRange& chunk : chunks) {
    double sum = 0;
    for (std::int64_t i = chunk.first_layer; i < chunk.last_layer; ++i) sum += layer_flops(config, i, seq_len);
    flops.push_back(sum);
  }
  flops.front() += embedding_flops(config);
  flops.back() += head_flops(config);
  return flops;
}

std::vector<ChunkRange> partition(const ModelConfig& config, std::int64_t seq_len, int stages,
                                  int virtual_stages) {
  HYSPARSE_CHECK(stages >= 1 && virtual_stages >= 1 && seq_len >= 1 && config.num_layers() >= 1,
                 "stages {}, virtual stages {}, seq_len {}, layers {}", stages, virtual_stages, seq_len,
                 config.num_layers());
  const std::vector<ChunkRange> atoms = hybrid_atoms(config);
  const std::size_t chunks = static_cast<std::size_t>(stages) * static_cast<std::size_t>(virtual_stages);
  if (chunks > atoms.size()) refuse(atoms.size(), stages, virtual_stages);

  const Costs costs(config, seq_len, atoms);
  const auto dearest = [](std::int64_t run, std::int64_t rest) { return std::max(run, rest); };
  const std::int64_t most = best_cuts(atoms.size(), chunks, costs, dearest).best[chunks][0];
  const Cuts cuts = best_cuts(atoms.size(), chunks, costs, [most](std::int64_t run, std::int64_t rest) {
    return run > most ? impossible : run * run + rest;
  });

  std::vector<ChunkRange> result;
  std::size_t begin = 0;
  for (std::size_t left = chunks; left > 0; --left) {
    const std::size_t end = cuts.first_end[left][begin];
    result.push_back({atoms[begin].first_layer, atoms[end - 1].last_layer});
    begin = end;
  }
  return result;
}

}  // namespace hysparse
