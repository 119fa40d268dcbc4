#include "launch/generate_report.h"

#include "core/memory.h"

namespace hysparse {
namespace {

using Json = nlohmann::ordered_json;

double ratio(const KvReport& report) {
  return static_cast<double>(report.full_attention_bytes) /
         static_cast<double>(std::max<std::int64_t>(1, report.total_bytes));
}

void add(KvReport& sum, const KvReport& one) {
  for (const auto& [type, kind] : one.kinds) {
    sum.kinds[type].layers = kind.layers;
    sum.kinds[type].bytes += kind.bytes;
  }
  sum.total_bytes += one.total_bytes;
  sum.full_attention_bytes += one.full_attention_bytes;
}

/// `measured`: null where there are no tensors.
Json json_of(const KvReport& formula, const KvReport* measured, DType dtype) {
  Json kinds = Json::object();
  for (const auto& [type, kind] : formula.kinds) {
    Json& j = kinds[layer_type_name(type)] = {{"layers", kind.layers}, {"bytes", kind.bytes}};
    if (measured != nullptr) j["measured_bytes"] = measured->kinds.at(type).bytes;
  }
  Json j{{"dtype", dtype_name(dtype)}, {"kinds", kinds}, {"bytes", formula.total_bytes}};
  if (measured != nullptr) j["measured_bytes"] = measured->total_bytes;
  j["full_attention_bytes"] = formula.full_attention_bytes;
  j["ratio"] = ratio(formula);
  return j;
}

void print_table(const ModelConfig& config, const KvReport& formula, const KvReport* measured) {
  const auto line = [&](const std::string& name, const std::string& layers, std::int64_t bytes,
                        const std::string& rest) {
    fmt::print("  {:<18} {:>4} {:<6} {:>16} bytes{}\n", name, layers, layers.empty() ? "" : "layers", bytes,
               rest);
  };
  const auto allocated = [&](std::int64_t bytes) {
    return measured != nullptr ? fmt::format(" {:>16} allocated", bytes) : std::string();
  };
  for (const auto& [type, kind] : formula.kinds) {
    line(layer_type_name(type), std::to_string(kind.layers), kind.bytes,
         allocated(measured != nullptr ? measured->kinds.at(type).bytes : 0));
  }
  line("together", "", formula.total_bytes, allocated(measured != nullptr ? measured->total_bytes : 0));
  line("all layers full", std::to_string(config.num_layers()), formula.full_attention_bytes,
       fmt::format(", {:.2f} times as much", ratio(formula)));
}

struct Totals {
  KvReport formula, measured;
  std::int64_t tokens = 0, capacity = 0;
  Totals(const ModelConfig& config, const Generation& generation, DType dtype) {
    for (const Continuation& c : generation.continuations) {
      tokens += c.cached_tokens;
      capacity += c.cache_capacity;
      add(formula, kv_report(config, c.cache_capacity, dtype));
      add(measured, c.cache);
    }
  }
};

}  // namespace

Json kv_json(const ModelConfig& config, std::int64_t tokens, DType dtype) {
  Json j{{"tokens", tokens}};
  j.update(json_of(kv_report(config, tokens, dtype), nullptr, dtype));
  return j;
}

void print_kv(const ModelConfig& config, std::int64_t tokens, DType dtype) {
  fmt::print("keys and values of {} tokens, {}:\n", tokens, dtype_name(dtype));
  print_table(config, kv_report(config, tokens, dtype), nullptr);
}

Json kv_json(const ModelConfig& config, const Generation& generation, DType dtype) {
  const Totals totals(config, generation, dtype);
  Json j{{"tokens", totals.tokens}, {"capacity", totals.capacity}};
  j.update(json_of(totals.formula, &totals.measured, dtype));
  return j;
}

void print_kv(const ModelConfig& config, const Generation& generation, DType dtype) {
  const Totals totals(config, generation, dtype);
  fmt::print("\nkeys and values of {} sequence{} with room for {} tokens ({} used), {}:\n",
             generation.continuations.size(), generation.continuations.size() == 1 ? "" : "s", totals.capacity,
             totals.tokens, dtype_name(dtype));
  print_table(config, totals.formula, &totals.measured);
}

}  // namespace hysparse
