#include <algorithm>
#include <cctype>
#include <numeric>
#include <utility>

#include <fmt/format.h>

#include "core/backend.h"
#include "launch/config.h"
#include "launch/model_layout.h"
#include "launch/schema.h"

namespace hysparse {
namespace {

/// Names of config.json, in which the model's own rules speak, and the keys they are here.
const std::vector<std::pair<std::string, std::string>>& model_names() {
  static const std::vector<std::pair<std::string, std::string>> names = {
      {"num_hidden_layers", "model.num_layers"},
      {"num_attention_heads", "model.num_heads"},
      {"num_key_value_heads", "model.num_kv_heads"},
      {"rope_theta", "model.rope.theta"},
      {"partial_rotary_factor", "model.rope.partial"},
      {"tie_word_embeddings", "model.tie_embeddings"},
      {"moe_intermediate_size", "model.moe.intermediate_size"},
      {"num_experts", "model.moe.num_experts"},
      {"num_experts_per_tok", "model.moe.top_k"},
      {"n_shared_experts", "model.moe.shared_experts"},
      {"first_k_dense_replace", "model.moe.first_k_dense"},
      {"norm_topk_prob", "model.moe.normalize_top_k"},
      {"scoring_func", "model.moe.scoring"},
      {"routed_scaling_factor", "model.moe.routed_scaling"},
      {"capacity_factor", "model.moe.capacity_factor"},
  };
  return names;
}

bool is_name_char(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_';
}

/// A problem of model_problems() with its names translated; the keys it involves are appended to `keys`, the
/// first being the one at fault.
std::string translate(const std::string& problem, std::vector<std::string>& keys) {
  std::string result;
  for (std::size_t i = 0; i < problem.size();) {
    std::size_t end = i;
    while (end < problem.size() && is_name_char(problem[end])) ++end;
    if (end == i) {
      result += problem[i++];
      continue;
    }
    const std::string word = problem.substr(i, end - i);
    const auto& names = model_names();
    const auto found = std::find_if(names.begin(), names.end(), [&](const auto& n) { return n.first == word; });
    const std::string path = found != names.end() ? found->second : "model." + word;
    if (find_key(path) != nullptr) {
      keys.push_back(path);
      result += path;
    } else {
      result += word;
    }
    i = end;
  }
  return result;
}

/// Collects problems; knows where keys were given and which values to leave alone.
class Checker {
 public:
  Checker(const RunConfig& config, const std::set<std::string>& broken) : config_(config), broken_(broken) {}

  std::vector<std::string> problems;

  bool usable(const std::vector<std::string>& keys) const {
    return std::none_of(keys.begin(), keys.end(),
                        [&](const std::string& key) { return names_key(broken_, key); });
  }

  /// "where: " of a key that was given, else nothing.
  std::string where(const std::string& key) const {
    const auto found = config_.origins.find(key);
    return found == config_.origins.end() ? "" : found->second + ": ";
  }

  /// The problem of keys[0], unless `good` or one of the keys is broken.
  void require(bool good, const std::vector<std::string>& keys, const std::string& what) {
    if (good || !usable(keys)) return;
    RunConfig copy = config_;
    problems.push_back(
        fmt::format("{}{}: {}: {}", where(keys[0]), keys[0], find_key(keys[0])->write(copy), what));
  }

  void not_there_yet(bool wanted, const std::string& key, const std::string& what) {
    require(!wanted, {key}, what);
  }

 private:
  const RunConfig& config_;
  const std::set<std::string>& broken_;
};

/// "8", or "8 or 16": the multiples of `unit` around `value`.
std::string nearest_multiples(std::int64_t value, std::int64_t unit) {
  const std::int64_t below = value / unit * unit;
  return below < 1 ? fmt::format("{}", unit) : fmt::format("{} or {}", below, below + unit);
}

void check_model(const RunConfig& config, Checker& checker) {
  const ModelConfig& m = config.model;
  checker.require(m.vocab_size % 64 == 0, {"model.vocab_size"},
                  fmt::format("must be a multiple of 64; nearest: {}", nearest_multiples(m.vocab_size, 64)));
  checker.require(
      m.sparse_topk_tokens % m.sparse_block_size == 0, {"model.sparse_topk_tokens", "model.sparse_block_size"},
      fmt::format("must be a multiple of model.sparse_block_size ({}); nearest: {}", m.sparse_block_size,
                  nearest_multiples(m.sparse_topk_tokens, m.sparse_block_size)));
  for (const std::string& problem : model_problems(m)) {
    std::vector<std::string> keys;
    const std::string text = translate(problem, keys);
    if (!checker.usable(keys)) continue;
    checker.problems.push_back(keys.empty() ? "model: " + text : checker.where(keys[0]) + text);
  }
}

void check_not_there_yet(const RunConfig& config, std::optional<int> world, Checker& checker) {
  const RunConfig::Parallel& p = config.parallel;
  checker.not_there_yet(p.mesh.cp > 1, "parallel.cp", "context parallelism is not there yet; must be 1");
  checker.not_there_yet(p.grad_reduce_dtype == RunConfig::ReduceDType::bf16, "parallel.grad_reduce_dtype",
                        "reducing gradients in bf16 is not there yet; must be fp32");
  checker.not_there_yet(p.share_gpu, "parallel.share_gpu",
                        cuda_build ? "several ranks on GPUs are not there yet; must be false"
                                   : "this build has no GPU backend; must be false");
  const bool cuda = config.train.device == RunConfig::DeviceChoice::cuda;
  checker.not_there_yet(cuda && !cuda_build, "train.device",
                        "this build has no GPU backend; must be cpu or auto");
  checker.not_there_yet(cuda && cuda_build && world.value_or(1) > 1, "train.device",
                        "several ranks on GPUs are not there yet; start one rank, or let it be cpu");
  checker.not_there_yet(cuda && config.train.dtype == RunConfig::DTypeChoice::fp64, "train.dtype",
                        "fp64 is for the CPU (train.device: cpu); on a GPU it must be bf16, fp32 or auto");
  checker.not_there_yet(
      config.train.dtype == RunConfig::DTypeChoice::bf16 && config.train.device == RunConfig::DeviceChoice::cpu,
      "train.dtype", "bf16 is for GPUs; on the CPU it must be fp32, fp64 or auto");
  checker.not_there_yet(config.optim.name == RunConfig::Optimizer::muon, "optim.name",
                        "Muon is not there yet; must be adamw");
}

/// "one of 1, 2, 4": the divisors of a number.
std::string divisors_of(std::int64_t number) {
  std::vector<std::int64_t> divisors;
  for (std::int64_t d = 1; d <= number; ++d) {
    if (number % d == 0) divisors.push_back(d);
  }
  return fmt::format("one of {}", fmt::join(divisors, ", "));
}

void check_experts(const RunConfig& config, Checker& checker) {
  const MeshConfig& mesh = config.parallel.mesh;
  if (!config.model.moe) {
    const std::string absent = "the model has no experts (model.moe is absent); must be ";
    checker.require(mesh.ep == 1, {"parallel.ep", "model.moe"}, absent + "1");
    checker.require(mesh.etp == 1, {"parallel.etp", "model.moe"}, absent + "1");
    checker.require(!config.train.balanced_routing, {"train.balanced_routing", "model.moe"}, absent + "false");
    return;
  }
  const std::int64_t experts = config.model.moe->num_experts, width = config.model.moe->intermediate_size;
  checker.require(mesh.ep >= 1 && experts % mesh.ep == 0, {"parallel.ep", "model.moe.num_experts"},
                  fmt::format("must divide model.moe.num_experts ({}): {}", experts, divisors_of(experts)));
  checker.require(mesh.etp >= 1 && width % mesh.etp == 0, {"parallel.etp", "model.moe.intermediate_size"},
                  fmt::format("must divide model.moe.intermediate_size ({}): {}", width, divisors_of(width)));
}

/// What tp ranks share: heads, groups, vocabulary, widths, and with sequence parallelism the tokens.
void check_tensor_parallel(const RunConfig& config, Checker& checker) {
  const ModelConfig& m = config.model;
  const std::int64_t tp = config.parallel.mesh.tp;
  if (tp < 2) return;
  const auto divides = [&](std::int64_t number, const std::string& key, const std::string& what) {
    checker.require(number % tp == 0, {"parallel.tp", key},
                    fmt::format("must divide {} ({}): {}", what, number, divisors_of(number)));
  };
  divides(m.num_heads, "model.num_heads", "model.num_heads");
  if (m.vocab_size % 64 == 0) divides(m.vocab_size, "model.vocab_size", "model.vocab_size");
  checker.require(
      m.num_kv_heads % tp == 0 || tp % m.num_kv_heads == 0, {"parallel.tp", "model.num_kv_heads"},
      fmt::format("must divide model.num_kv_heads ({0}), or be a multiple of it ({0} groups are then "
                  "held by several ranks each)",
                  m.num_kv_heads));
  bool dense = false;
  for (std::int64_t i = 0; i < m.num_layers(); ++i) dense = dense || !m.is_moe(i);
  if (dense) divides(m.intermediate_size, "model.intermediate_size", "model.intermediate_size");
  if (m.moe && m.moe->shared_experts > 0) {
    divides(m.moe->shared_experts * m.moe->intermediate_size, "model.moe.intermediate_size",
            "model.moe.shared_experts * model.moe.intermediate_size");
  }
  if (config.parallel.sequence_parallel) {
    checker.require(config.train.seq_len % tp == 0, {"train.seq_len", "parallel.tp"},
                    fmt::format("parallel.sequence_parallel needs a multiple of parallel.tp ({}); nearest: {}",
                                tp, nearest_multiples(config.train.seq_len, tp)));
  }
}

void check_pipeline(const RunConfig& config, Checker& checker) {
  const RunConfig::Parallel& p = config.parallel;
  const bool interleaved = p.schedule == RunConfig::PipelineSchedule::interleaved;
  checker.require(p.virtual_stages == 1 || (interleaved && p.mesh.pp > 1),
                  {"parallel.virtual_stages", "parallel.schedule", "parallel.pp"},
                  "several chunks per stage are for parallel.schedule: interleaved with parallel.pp above 1; "
                  "else it must be 1");
  const std::vector<std::string> keys = {"parallel.pp",       "parallel.virtual_stages", "model.hybrid_ratio",
                                         "model.layer_types", "model.num_layers",        "train.seq_len"};
  if (!checker.usable(keys) || !checker.problems.empty() || p.mesh.pp < 1 || p.virtual_stages < 1) return;
  try {
    model_layout(config);
  } catch (const Error& e) {
    for (const std::string& problem : e.problems())
      checker.problems.push_back(checker.where("parallel.pp") + problem);
  }
}

/// The mesh and the batch: rules about the number of ranks. Sizes that are refused above are not judged again.
void check_layout(const RunConfig& config, std::optional<int> world, Checker& checker) {
  const MeshConfig& mesh = config.parallel.mesh;
  const std::vector<std::string> mesh_keys = {"parallel.tp", "parallel.pp", "parallel.cp", "parallel.ep",
                                              "parallel.etp"};
  bool sizes_usable = checker.usable(mesh_keys) && mesh.cp == 1;
  for (const int size : {mesh.tp, mesh.pp, mesh.ep, mesh.etp}) sizes_usable = sizes_usable && size >= 1;
  if (world && sizes_usable) {
    try {
      Mesh(mesh, *world);
    } catch (const Error& e) {
      std::string where;  // of the first size that was given
      for (const std::string& key : mesh_keys) where = where.empty() ? checker.where(key) : where;
      for (const std::string& problem : e.problems()) checker.problems.push_back(where + problem);
      return;  // dp is not a whole number
    }
  }
  const std::vector<std::string> batch_keys = {"train.global_batch_size", "train.micro_batch_size"};
  const std::int64_t micro = config.train.micro_batch_size, global = config.train.global_batch_size;
  if (!world) {
    checker.require(global % micro == 0, batch_keys,
                    fmt::format("must be a multiple of train.micro_batch_size ({}) * dp; nearest: {}", micro,
                                nearest_multiples(global, micro)));
  } else if (sizes_usable) {
    const std::int64_t dp = config.data_parallel(*world);
    checker.require(global % (micro * dp) == 0, batch_keys,
                    fmt::format("must be a multiple of train.micro_batch_size {} * dp {} = {}; nearest: {}",
                                micro, dp, micro * dp, nearest_multiples(global, micro * dp)));
  }
}

}  // namespace

DType RunConfig::dtype() const {
  switch (train.dtype) {
    case DTypeChoice::fp64:
      return DType::f64;
    case DTypeChoice::bf16:
      return DType::bf16;
    case DTypeChoice::fp32:
    case DTypeChoice::automatic:
      break;
  }
  return DType::f32;
}

std::int64_t RunConfig::data_parallel(int world) const {
  return world / (parallel.mesh.tp * parallel.mesh.cp * parallel.mesh.pp);
}

std::int64_t RunConfig::micro_batches(int world) const {
  return train.global_batch_size / (train.micro_batch_size * data_parallel(world));
}

std::vector<std::string> validate(const RunConfig& config, std::optional<int> world,
                                  const std::set<std::string>& broken) {
  Checker checker(config, broken);
  check_model(config, checker);
  check_not_there_yet(config, world, checker);
  check_experts(config, checker);
  check_tensor_parallel(config, checker);
  check_pipeline(config, checker);
  check_layout(config, world, checker);
  return checker.problems;
}

}  // namespace hysparse
