// `hysparse train`.
#include <filesystem>

#include "launch/commands.h"
#include "launch/config.h"
#include "launch/trainer.h"

namespace hysparse {
namespace {

void print_plan(const RunConfig& config, const Runtime& runtime) {
  if (runtime.rank() != 0) return;
  const ParameterCounts counts = count_parameters(config.model);
  fmt::print(
      "{} layers, {} parameters ({} active per token, {} in experts), {} steps of {} sequences of {} tokens: "
      "all is well\n",
      config.model.num_layers(), counts.total, counts.active, counts.experts, config.train.steps,
      config.train.global_batch_size, config.train.seq_len);
}

}  // namespace

int run_train(Runtime& runtime, const TrainOptions& options) {
  RunConfig config;
  runtime.agree([&] {
    config = load_config(options.config, options.overrides, runtime.world());
    default_thread_count(runtime.local_ranks());  // HYSPARSE_NUM_THREADS
  });
  if (options.dry_run) {
    runtime.agree([&] {
      TrainingData data(config, 0, static_cast<int>(config.data_parallel(runtime.world())));
      check_training_state(config, data);
    });
    print_plan(config, runtime);
    return 0;
  }
  Trainer(runtime, config).run();
  return 0;
}

}  // namespace hysparse
