#include "launch/verify_choices.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "checkpoint/safetensors.h"

namespace hysparse {
namespace {

constexpr double hidden = -std::numeric_limits<double>::infinity();

std::string choices_path(const std::string& directory) {
  return directory + "/choices.safetensors";
}

std::string key(std::int64_t layer, const char* name) {
  return fmt::format("{}.{}", layer, name);
}

/// The largest gap between a score that is in `recorded` only and one that is in `own` only: how far a choice
/// is from one by rounding. 0 when both are the same sets.
double margin(const std::vector<std::int64_t>& recorded, const std::vector<std::int64_t>& own,
              const double* scores) {
  const auto missing = [](const std::vector<std::int64_t>& from, std::int64_t id) {
    return std::find(from.begin(), from.end(), id) == from.end();
  };
  double highest = hidden, lowest = -hidden;
  for (const std::int64_t id : recorded) {
    if (missing(own, id)) highest = std::max(highest, scores[id]);
  }
  for (const std::int64_t id : own) {
    if (missing(recorded, id)) lowest = std::min(lowest, scores[id]);
  }
  return highest == hidden ? 0.0 : highest - lowest;
}

/// Notes one choice; true when it would have been another.
void count(VerifyFlips& flips, const std::vector<std::int64_t>& recorded, const std::vector<std::int64_t>& own,
           const double* scores) {
  ++flips.choices;
  std::vector<std::int64_t> a = recorded, b = own;
  std::sort(a.begin(), a.end());
  std::sort(b.begin(), b.end());
  if (a == b) return;
  ++flips.flips;
  flips.largest_margin = std::max(flips.largest_margin, std::abs(margin(recorded, own, scores)));
}

/// Scores of all blocks for the rows of one group, as the oracle defines them (attention.h), in f64: out [rows,
/// N].
void block_scores(const AttentionShape& shape, const Tensor& q, const Tensor& k, const std::int32_t* starts,
                  std::int64_t group, std::int64_t block_size, double* out, std::int64_t out_stride) {
  const std::int64_t E = shape.head_dim, per_group = shape.num_heads / shape.num_kv_heads,
                     blocks = (shape.seq_len + block_size - 1) / block_size;
  const double scale = 1.0 / std::sqrt(static_cast<double>(E));
  const double* queries = q.data<double>();
  const double* keys = k.data<double>();
  std::vector<double> logits(static_cast<std::size_t>(shape.seq_len));
  for (std::int64_t row = 0; row < shape.tokens(); ++row) {
    const std::int64_t first = row / shape.seq_len * shape.seq_len, t = row - first;
    const std::int64_t start = starts == nullptr ? 0 : starts[row];
    double* scores = out + row * out_stride;
    std::fill_n(scores, blocks, hidden);
    for (std::int64_t head = group * per_group; head < (group + 1) * per_group; ++head) {
      const double* query = queries + (row * shape.num_heads + head) * E;
      double largest = hidden, sum = 0;
      for (std::int64_t s = start; s <= t; ++s) {
        const double* key_of = keys + ((first + s) * shape.num_kv_heads + group) * E;
        double dot = 0;
        for (std::int64_t e = 0; e < E; ++e) dot += query[e] * key_of[e];
        logits[static_cast<std::size_t>(s)] = dot * scale;
        largest = std::max(largest, dot * scale);
      }
      for (std::int64_t s = start; s <= t; ++s) sum += std::exp(logits[static_cast<std::size_t>(s)] - largest);
      const double lse = largest + std::log(sum);
      for (std::int64_t s = start; s <= t; ++s) {
        double& score = scores[s / block_size];
        score = std::max(score, logits[static_cast<std::size_t>(s)] - lse);
      }
    }
  }
}

/// Scores of one token's experts, without the bias.
void router_scores(RouterScoring scoring, const double* logits, std::int64_t experts, double* scores) {
  if (scoring == RouterScoring::sigmoid) {
    for (std::int64_t x = 0; x < experts; ++x) scores[x] = 1.0 / (1.0 + std::exp(-logits[x]));
    return;
  }
  const double largest = *std::max_element(logits, logits + experts);
  double sum = 0;
  for (std::int64_t x = 0; x < experts; ++x) sum += scores[x] = std::exp(logits[x] - largest);
  for (std::int64_t x = 0; x < experts; ++x) scores[x] /= sum;
}

std::vector<std::int64_t> ids_of(const double* values, std::int64_t count) {
  std::vector<std::int64_t> ids;
  for (std::int64_t i = 0; i < count; ++i) {
    if (values[i] >= 0) ids.push_back(static_cast<std::int64_t>(values[i]));
  }
  return ids;
}

std::vector<std::int64_t> ids_of(const std::int32_t* values, std::int64_t count) {
  return {values, values + count};
}

}  // namespace

Tensor& ChoiceRecorder::table(const std::string& name, const Shape& shape, double value) {
  Tensor& table = tables_[name];
  if (!table.defined()) {
    table = Tensor::empty(shape, DType::f64);
    std::fill_n(table.data<double>(), table.numel(), value);
  }
  return table;
}

void ChoiceRecorder::blocks(const Blocks& where, BlockLists& chosen) {
  if (stopped_) return;
  const AttentionShape& shape = where.shape;
  const std::int64_t rows = shape.tokens(), G = shape.num_kv_heads, K = chosen.blocks.dim(2),
                     N = (shape.seq_len + chosen.block_size - 1) / chosen.block_size;
  const Tensor lists = chosen.blocks.to_device(Device{}), counts = chosen.counts.to_device(Device{});
  double* ids = table(key(where.layer, "blocks"), {rows_, G, K}, -1).data<double>() + where.first_row * G * K;
  for (std::int64_t i = 0; i < rows * G; ++i) {
    for (std::int64_t j = 0; j < counts.data<std::int32_t>()[i]; ++j)
      ids[i * K + j] = lists.data<std::int32_t>()[i * K + j];
  }
  const Tensor q = where.q.to_device(Device{}).to(DType::f64), k = where.k.to_device(Device{}).to(DType::f64);
  const Tensor starts = shape.documents.defined() ? shape.documents.to_device(Device{}) : Tensor();
  double* scores =
      table(key(where.layer, "block_scores"), {rows_, G, N}, hidden).data<double>() + where.first_row * G * N;
  for (std::int64_t g = 0; g < G; ++g) {
    block_scores(shape, q, k, starts.defined() ? starts.data<std::int32_t>() : nullptr, g, chosen.block_size,
                 scores + g * N, G * N);
  }
}

Tensor ChoiceRecorder::experts(const Experts& where) {
  if (stopped_) return {};
  const Routing& routing = where.routing;
  const std::int64_t rows = routing.chosen_ids.dim(0), k = routing.chosen_ids.dim(1),
                     X = routing.logits.value.dim(1);
  const Tensor ids = routing.chosen_ids.to_device(Device{});
  double* to = table(key(where.layer, "experts"), {rows_, k}, -1).data<double>() + where.first_row * k;
  std::copy_n(ids.data<std::int32_t>(), rows * k, to);
  const Tensor logits = routing.logits.value.to_device(Device{}).to(DType::f64);
  const Tensor bias = where.bias.defined() ? where.bias.to_device(Device{}).to(DType::f64) : Tensor();
  double* out =
      table(key(where.layer, "expert_scores"), {rows_, X}, hidden).data<double>() + where.first_row * X;
  for (std::int64_t row = 0; row < rows; ++row, out += X) {
    router_scores(scoring_, logits.data<double>() + row * X, X, out);
    for (std::int64_t x = 0; bias.defined() && x < X; ++x) out[x] += bias.data<double>()[x];
  }
  return {};
}

void ChoiceRecorder::write(const std::string& directory) const {
  std::vector<SafetensorsTensor> tensors;
  for (const auto& [name, table] : tables_) tensors.push_back({name, DType::f64, table.shape()});
  SafetensorsWriter writer = SafetensorsWriter::to_file(choices_path(directory), tensors);
  for (const auto& [name, table] : tables_) writer.write(name, table);
  writer.finish();
}

ChoiceReplayer::ChoiceReplayer(const std::string& directory) {
  const SafetensorsReader reader(choices_path(directory));
  for (const SafetensorsEntry& e : reader.entries()) tables_[e.name] = reader.read(e.name, DType::f64);
}

const Tensor& ChoiceReplayer::table(std::int64_t layer, const char* name) const {
  const auto found = tables_.find(key(layer, name));
  HYSPARSE_CHECK(found != tables_.end(), "layer {} has no recorded {}", layer, name);
  return found->second;
}

void ChoiceReplayer::blocks(const Blocks& where, BlockLists& chosen) {
  if (stopped_) return;
  const Tensor &recorded = table(where.layer, "blocks"), &scores = table(where.layer, "block_scores");
  const std::int64_t rows = where.shape.tokens(), here = where.shape.num_kv_heads, G = recorded.dim(1),
                     K = recorded.dim(2), N = scores.dim(2);
  HYSPARSE_CHECK(chosen.blocks.dim(2) == K && where.first_group + here <= G,
                 "K {} for {}, groups {} + {} of {}", chosen.blocks.dim(2), K, where.first_group, here, G);
  const Tensor lists = chosen.blocks.to_device(Device{}).clone(),
               counts = chosen.counts.to_device(Device{}).clone();
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t g = 0; g < here; ++g) {
      const std::int64_t from = (where.first_row + row) * G + where.first_group + g, to = row * here + g;
      std::int32_t* list = lists.data<std::int32_t>() + to * K;
      std::int32_t& size = counts.data<std::int32_t>()[to];
      const std::vector<std::int64_t> wanted = ids_of(recorded.data<double>() + from * K, K);
      count(flips_, wanted, ids_of(list, size), scores.data<double>() + from * N);
      std::copy(wanted.begin(), wanted.end(), list);
      size = static_cast<std::int32_t>(wanted.size());
    }
  }
  chosen.blocks.copy_from(lists);
  chosen.counts.copy_from(counts);
}

Tensor ChoiceReplayer::experts(const Experts& where) {
  if (stopped_) return {};
  const Tensor &recorded = table(where.layer, "experts"), &scores = table(where.layer, "expert_scores");
  const Tensor own = where.routing.chosen_ids.to_device(Device{});
  const std::int64_t rows = own.dim(0), k = own.dim(1), X = scores.dim(1);
  const Tensor ids = Tensor::empty({rows, k}, DType::i32);
  for (std::int64_t row = 0; row < rows; ++row) {
    const double* wanted = recorded.data<double>() + (where.first_row + row) * k;
    count(flips_, ids_of(wanted, k), ids_of(own.data<std::int32_t>() + row * k, k),
          scores.data<double>() + (where.first_row + row) * X);
    std::copy_n(wanted, k, ids.data<std::int32_t>() + row * k);
  }
  return ids.to_device(where.routing.chosen_ids.device());
}

}  // namespace hysparse
