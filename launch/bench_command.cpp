// `hysparse bench`.
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "core/thread_pool.h"
#include "launch/bench.h"
#include "launch/commands.h"
#include "launch/config.h"
#include "launch/config_tree.h"
#include "launch/run_device.h"
#include "launch/scratch_directory.h"
#include "launch/verify_tokens.h"

namespace hysparse {
namespace {

/// What is measured where no config is given: the sizes of the quickstart's model.
constexpr const char* default_config = "run: {dir: unused}\nmodel: {moe: {num_experts: 16}}\n";

/// The config with what a benchmark sets itself; every rank has a token file of its own, all the same.
RunConfig bench_config(const BenchOptions& options, const ScratchDirectory& scratch, int world) {
  std::string path = options.config.value_or(scratch / "default.yaml");
  if (!options.config) std::ofstream(path) << default_config;
  const std::string tokens = scratch / "tokens.h5";
  std::vector<std::string> overrides = options.overrides;
  for (const std::string& o :
       {fmt::format("train.steps={}", options.warmup + options.steps), std::string("train.eval_every=0"),
        std::string("checkpoint.every=0"), "data.train=" + tokens}) {
    overrides.push_back(o);
  }
  const bool step = options.what == "step";
  // The rules between the layout and the number of ranks are a step's.
  RunConfig config = load_config(path, overrides, step ? std::optional<int>(world) : std::nullopt);
  if (step) {
    const std::int64_t read = config.train.steps * config.train.global_batch_size * config.train.seq_len + 1;
    write_random_tokens(tokens, config.model.vocab_size, read);
  }
  return config;
}

}  // namespace

int run_bench(Runtime& runtime, const BenchOptions& options) {
  std::optional<ScratchDirectory> scratch;
  RunConfig config;
  runtime.agree([&] {
    if (options.what == "attention" && runtime.world() > 1)
      throw_error("bench attention: runs on one rank; start it without mpirun");
    scratch.emplace("hysparse-bench");
    config = bench_config(options, *scratch, runtime.world());
  });
  const BenchRuns runs{options.warmup, options.steps};
  BenchResult result;
  if (options.what == "step") {
    result = bench_step(runtime, config, runs);
  } else {
    ThreadPool pool(default_thread_count(runtime.local_ranks()));
    Stream stream;
    runtime.agree([&] { stream = open_run_stream(config, runtime, pool); });
    result = options.what == "attention" ? bench_attention(config, stream, runs)
             : options.what == "moe"     ? bench_moe(runtime, config, stream, runs)
                                         : bench_comm(runtime, config, stream, runs);
  }
  if (runtime.rank() != 0) return 0;
  result.extra["bench"] = options.what;
  fmt::print("{}", options.json ? bench_json(result).dump() + "\n" : bench_table(result));
  return 0;
}

}  // namespace hysparse
