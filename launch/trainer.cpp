#include "launch/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "launch/peak_flops.h"
#include "launch/stop_signal.h"
#include "launch/user_input.h"
#include "launch/validation.h"
#include "optim/schedule.h"

namespace hysparse {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

AdamWConfig adamw_config(const RunConfig::Optim& optim) {
  return {
      .beta1 = optim.betas[0], .beta2 = optim.betas[1], .eps = optim.eps, .weight_decay = optim.weight_decay};
}

ScheduleConfig schedule_config(const RunConfig& config) {
  static constexpr ScheduleKind kinds[] = {ScheduleKind::constant, ScheduleKind::cosine, ScheduleKind::wsd};
  return {.kind = kinds[static_cast<int>(config.optim.schedule)],
          .lr = config.optim.lr,
          .warmup_steps = config.optim.warmup_steps,
          .decay_steps = config.optim.decay_steps,
          .min_lr_ratio = config.optim.min_lr_ratio,
          .steps = config.train.steps};
}

}  // namespace

Trainer::Trainer(Runtime& runtime, const RunConfig& config)
    : runtime_(runtime),
      config_(config),
      pool_(default_thread_count(runtime.local_ranks())),
      stream_{Device{}, &pool_, nullptr},
      groups_(runtime, Mesh(config.parallel.mesh, runtime.world())),
      parameters_(config.model, groups_.mesh, runtime.rank(), config.dtype(), true),
      model_(config.model, parameters_),
      optimizer_(stream_, adamw_config(config.optim), groups_, {&parameters_.dense(), &parameters_.experts()}),
      balance_(config.model, parameters_) {
  set_collective_timeout(config.train.collective_timeout_s);
  runtime.agree(
      [&] { data_ = std::make_unique<TrainingData>(config_, groups_.dp->rank(), groups_.dp->size()); });
  start();
}

void Trainer::start() {
  const TrainingStart start = load_training_state(runtime_, config_, parameters_, optimizer_);
  progress_ = start.progress;
  const double peak = measure_peak_flops(stream_) * runtime_.world();
  runtime_.agree([&] {
    if (runtime_.rank() == 0)
      log_ = std::make_unique<RunLog>(config_, groups_.mesh, pool_.threads(), peak, start);
  });
  writer_ = std::make_unique<CheckpointWriter>(config_.run.dir, static_cast<int>(config_.checkpoint.keep),
                                               *groups_.world);
}

void Trainer::run() {
  while (progress_.step < config_.train.steps && !stop_) {
    const auto start = Clock::now();
    StepReport report = train_step();
    report.seconds = seconds_since(start);
    report.valid_loss = maybe_validate();
    if (log_) log_->step(report);
    maybe_save(stop_ || progress_.step == config_.train.steps);
  }
  writer_->finish();
  if (log_) log_->finish(stop_ && progress_.step < config_.train.steps);
}

StepReport Trainer::train_step() {
  set_collective_context(fmt::format("step {}", progress_.step + 1));
  parameters_.zero_gradients();
  double loss_sum = 0;
  for (const Batch& batch : load_batches()) {
    const LossResult micro = accumulate(batch);
    loss_sum += micro.loss;
    balance_.add(micro.loads);
  }
  optimizer_.reduce_gradients();
  StepReport result;
  result.grad_norm = optimizer_.global_norm();
  result.lr = learning_rate();
  const Totals totals = reduce_totals(loss_sum);
  result.loss = totals.loss;
  result.memory_bytes = totals.memory_bytes;
  stop_ = totals.stop;
  result.skipped = !std::isfinite(result.loss) || !std::isfinite(result.grad_norm);
  if (result.skipped && config_.train.nonfinite == RunConfig::Nonfinite::stop) {
    writer_->finish();                // the save under way, of an earlier step, is a good one
    throw AgreedFailure(fmt::format(  // every rank has the same sums
        "step {}: loss {} and gradient norm {} must be finite; the last checkpoint is intact (train.nonfinite: "
        "skip leaves such steps out)",
        progress_.step + 1, result.loss, result.grad_norm));
  }
  if (!result.skipped) {
    optimizer_.apply(result.lr, clip_scale(result.grad_norm, config_.optim.clip_grad));
    optimizer_.gather_parameters();
  }
  result.load = balance_.finish_step(*groups_.dp, result.skipped);
  progress_.advance(config_.train.global_batch_size, config_.train.seq_len);
  result.step = progress_.step;
  result.tokens = progress_.tokens;
  return result;
}

std::vector<Batch> Trainer::load_batches() {
  std::vector<Batch> batches;
  runtime_.agree([&] {  // an id that the vocabulary does not hold may lie in one rank's windows alone
    with_key("data.train", [&] {
      for (std::int64_t m = 0; m < data_->train().micro_batches(); ++m)
        batches.push_back(data_->train().load(progress_.samples, m));
    });
  });
  return batches;
}

LossResult Trainer::accumulate(const Batch& batch) {
  const auto sequences = static_cast<double>(config_.train.global_batch_size);
  const double tokens = sequences * static_cast<double>(config_.train.seq_len);
  Tape tape(stream_);
  LossResult result = model_.loss(tape, batch.inputs, batch.targets, config_.train.micro_batch_size,
                                  config_.train.seq_len, *groups_.ep);
  // Divided by global counts here, so that every reduction after this is a sum.
  std::vector<Tape::Root> roots{{result.loss_sum, 1.0 / tokens}};
  const auto layers = static_cast<double>(result.loads.size());
  for (const Var& v : result.load_balance)
    roots.push_back({v, config_.model.moe->aux_loss / (sequences * layers)});
  for (const Var& v : result.z) roots.push_back({v, config_.model.moe->z_loss / (tokens * layers)});
  tape.backward(roots);
  return result;
}

Trainer::Totals Trainer::reduce_totals(double local_loss) {
  // One sum carries all: the loss, a stop request of any rank, and each rank's memory in a place of its own.
  const Tensor sums = Tensor::zeros({2 + runtime_.world()}, DType::f64);
  double* s = sums.data<double>();
  s[0] = local_loss;
  s[1] = stop_requested() ? 1.0 : 0.0;
  s[2 + runtime_.rank()] = static_cast<double>(memory_use().peak_bytes);
  groups_.world->all_reduce(sums);
  const auto tokens = static_cast<double>(config_.train.global_batch_size * config_.train.seq_len);
  const double largest = *std::max_element(s + 2, s + sums.numel());
  return {s[0] / tokens, s[1] > 0, static_cast<std::int64_t>(largest)};
}

double Trainer::learning_rate() const {
  return hysparse::learning_rate(schedule_config(config_), progress_.step);
}

std::optional<double> Trainer::maybe_validate() {
  const std::int64_t every = config_.train.eval_every;
  const bool due = every > 0 && (progress_.step % every == 0 || progress_.step == config_.train.steps);
  if (data_->valid() == nullptr || !due) return std::nullopt;
  return validation_loss(model_, *data_->valid(), config_.train.eval_batches * config_.train.global_batch_size,
                         stream_, *groups_.dp, *groups_.ep);
}

void Trainer::maybe_save(bool last) {
  writer_->poll();
  const std::int64_t every = config_.checkpoint.every;
  if (!last && (every == 0 || progress_.step % every != 0)) return;
  save_training_state(*writer_, config_, groups_, parameters_, optimizer_, progress_);
}

}  // namespace hysparse
