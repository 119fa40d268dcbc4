#include "launch/bench.h"
#include "launch/trainer.h"

namespace hysparse {
namespace {

/// Keeps what the trainer reports of its steps.
class StepTimes final : public StepObserver {
 public:
  explicit StepTimes(std::int64_t warmup) : warmup_(warmup) {}

  void gradients(std::int64_t, ParameterSet&, const ProcessGroups&) override {}
  void stepped(const StepReport& report, const ProcessGroups&) override {
    last = report;
    if (report.step > warmup_) times.ms.push_back(report.seconds * 1e3);
  }

  BenchTimes times;
  StepReport last;

 private:
  std::int64_t warmup_;
};

}  // namespace

BenchResult bench_step(Runtime& runtime, const RunConfig& config, const BenchRuns& runs) {
  StepTimes observer(runs.warmup);
  std::string layout;
  {
    Trainer trainer(runtime, config, &observer);
    layout = Mesh(config.parallel.mesh, runtime.world()).str();
    trainer.run();
  }
  const double tokens = static_cast<double>(config.train.global_batch_size * config.train.seq_len);
  const double flops = tokens * model_flops_per_token(config.model, config.train.seq_len);
  const double ms = observer.times.median();
  BenchResult result;
  result.title =
      fmt::format("{} tokens a step ({} sequences of {}), {} layers, {}, {}",
                  config.train.global_batch_size * config.train.seq_len, config.train.global_batch_size,
                  config.train.seq_len, config.model.num_layers(), dtype_name(config.dtype()), layout);
  result.rows.push_back({"step", observer.times, flops, 0, {{"tokens/s", std::round(tokens / ms * 1e3)}}});
  result.extra["tokens_per_s"] = tokens / ms * 1e3;
  result.extra["loss"] = observer.last.loss;
  result.extra["grad_norm"] = observer.last.grad_norm;
  result.extra["memory_bytes"] = observer.last.memory_bytes;
  for (std::size_t i = 0; i < memory_purposes; ++i) {
    result.extra["memory"][memory_purpose_name(static_cast<MemoryPurpose>(i))] = observer.last.memory.bytes[i];
  }
  return result;
}

}  // namespace hysparse
