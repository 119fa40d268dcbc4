#include "launch/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "launch/model_layout.h"
#include "launch/peak_flops.h"
#include "launch/run_device.h"
#include "launch/run_tokenizer.h"
#include "launch/stop_signal.h"
#include "launch/user_input.h"
#include "launch/validation.h"
#include "optim/schedule.h"
#include "parallel/whereabouts.h"

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

Stream agreed_stream(Runtime& runtime, const RunConfig& config, ThreadPool& pool) {
  Stream stream;
  runtime.agree([&] { stream = open_run_stream(config, runtime, pool); });
  return stream;
}

/// Communicators are created under the deadline too.
Runtime& with_timeout(Runtime& runtime, const RunConfig& config) {
  set_collective_timeout(config.train.collective_timeout_s);
  return runtime;
}

}  // namespace

Trainer::Trainer(Runtime& runtime, const RunConfig& config, StepObserver* observer)
    : runtime_(with_timeout(runtime, config)),
      config_(config),
      observer_(observer),
      pool_(default_thread_count(runtime.local_ranks())),
      stream_(agreed_stream(runtime, config, pool_)),
      groups_(runtime, Mesh(config.parallel.mesh, runtime.world()), stream_.device),
      parameters_(config.model, groups_.mesh, runtime.rank(), config.dtype(), true, model_layout(config),
                  stream_.device),
      optimizer_(stream_, adamw_config(config.optim), groups_, parameters_.buffers()),
      model_(config.model, parameters_, groups_, stream_,
             {.layout = model_layout(config),
              .interleaved = config.parallel.schedule == RunConfig::PipelineSchedule::interleaved,
              .recompute = config.train.recompute,
              .choices = observer != nullptr ? observer->choices() : nullptr,
              .before_forward = [this](std::int64_t layer) { await_parameters(layer); },
              .gradients_complete = [this](int chunk, std::int64_t layer) { start_reductions(chunk, layer); }}),
      balance_(config.model, parameters_) {
  runtime.agree(
      [&] { data_ = std::make_unique<TrainingData>(config_, groups_.dp->rank(), groups_.dp->size()); });
  start();
}

void Trainer::start() {
  if (observer_ != nullptr) {
    initialize_training_state(config_, parameters_, optimizer_, groups_);
    data_->start(0, config_.train.steps);
    return;
  }
  // Before anything there is looked at; a directory that is not there yet has no other run.
  runtime_.agree([&] {
    if (runtime_.rank() == 0) lock_ = RunLock::of_existing(config_.run.dir);
  });
  const TrainingStart start = load_training_state(runtime_, config_, *data_, parameters_, optimizer_, groups_);
  progress_ = start.progress;
  const double peak = measure_peak_flops(stream_) * runtime_.world();
  runtime_.agree([&] {
    if (runtime_.rank() != 0) return;
    if (!lock_ && progress_.step < config_.train.steps) {
      make_writable_directory("run.dir", config_.run.dir);
      lock_ = std::make_unique<RunLock>(config_.run.dir);
    }
    log_ = std::make_unique<RunLog>(config_, groups_.mesh, pool_.threads(), peak, start);
    if (const std::string why = keep_tokenizer(config_.run.dir, data_->info()); !why.empty())
      log_->message(why);
  });
  writer_ = open_checkpoint_writer(config_, groups_, parameters_, optimizer_);
  data_->start(progress_.samples, config_.train.steps - progress_.step);
}

void Trainer::run() {
  try {
    run_steps();
  } catch (const std::exception& e) {
    if (is_agreed(e)) {  // every rank ends in order: nothing may be under way
      optimizer_.wait_gathered();
      synchronize_device(stream_);
    }
    throw;
  }
}

void Trainer::run_steps() {
  reset_memory_peak(stream_.device);  // what the start needed is not the training's
  while (progress_.step < config_.train.steps && !stop_) {
    const auto start = Clock::now();
    StepReport report = train_step();
    report.seconds = seconds_since(start);
    report.valid_loss = maybe_validate();
    if (observer_ != nullptr) observer_->stepped(report, groups_);
    if (log_) log_->step(report);
    maybe_save(stop_ || progress_.step == config_.train.steps);
  }
  optimizer_.wait_gathered();
  if (writer_) writer_->finish();
  constexpr double worth_a_word = 1.0;
  if (log_ && data_->waited_seconds() > worth_a_word) {
    log_->message(fmt::format("waited {:.1f} s for the data to be loaded", data_->waited_seconds()));
  }
  if (log_) log_->finish(stop_ && progress_.step < config_.train.steps);
}

StepReport Trainer::train_step() {
  at_step(progress_.step + 1);
  parameters_.zero_gradients();
  StepBatch batch = load_batches();
  const std::int64_t targets = batch.targets;
  const StepSums sums = model_.train(micro_batches(std::move(batch)), objective(targets));
  at_layer(-1);
  balance_.add(sums.loads);
  optimizer_.reduce_gradients();
  if (observer_ != nullptr) observer_->gradients(progress_.step + 1, parameters_, groups_);
  StepReport result;
  result.grad_norm = optimizer_.global_norm();
  result.lr = learning_rate();
  const Totals totals = reduce_totals(sums.loss, targets);
  result.loss = totals.loss;
  result.memory_bytes = totals.memory_bytes;
  result.memory = memory_at_peak(stream_.device);
  stop_ = totals.stop;
  result.skipped = !std::isfinite(result.loss) || !std::isfinite(result.grad_norm);
  if (result.skipped && config_.train.nonfinite == RunConfig::Nonfinite::stop) {
    if (writer_) writer_->finish();   // the save under way, of an earlier step, is a good one
    throw AgreedFailure(fmt::format(  // every rank has the same sums
        "step {}: loss {} and gradient norm {} must be finite; the last checkpoint is intact (train.nonfinite: "
        "skip leaves such steps out)",
        progress_.step + 1, result.loss, result.grad_norm));
  }
  if (writer_) writer_->await_copy();  // what follows changes what is being saved
  if (!result.skipped) {
    optimizer_.apply(result.lr, clip_scale(result.grad_norm, config_.optim.clip_grad));
    optimizer_.start_gather();
  }
  result.load = balance_.finish_step(groups_, result.skipped);
  progress_.advance(config_.train.global_batch_size, config_.train.seq_len);
  result.step = progress_.step;
  result.tokens = progress_.tokens;
  return result;
}

StepBatch Trainer::load_batches() {
  StepBatch batch;
  // An id that the vocabulary does not hold may lie in one rank's windows alone.
  runtime_.agree([&] { batch = data_->next(); });
  return batch;
}

std::vector<MicroBatch> Trainer::micro_batches(StepBatch batch) const {
  std::vector<MicroBatch> micro_batches;
  const std::int64_t first = groups_.dp->rank() * config_.train.global_batch_size / groups_.dp->size();
  for (Batch& b : batch.micro_batches) {
    const auto before = static_cast<std::int64_t>(micro_batches.size()) * config_.train.micro_batch_size;
    micro_batches.push_back({std::move(b.inputs), std::move(b.targets), config_.train.micro_batch_size,
                             config_.train.seq_len, std::move(b.document_starts), first + before});
  }
  return micro_batches;
}

Objective Trainer::objective(std::int64_t targets) const {
  const auto sequences = static_cast<double>(config_.train.global_batch_size);
  const double tokens = sequences * static_cast<double>(config_.train.seq_len);
  Objective objective{.cross_entropy = 1.0 / static_cast<double>(std::max<std::int64_t>(1, targets))};
  double moe_layers = 0;
  for (std::int64_t i = 0; i < config_.model.num_layers(); ++i) moe_layers += config_.model.is_moe(i) ? 1 : 0;
  if (moe_layers > 0) {
    objective.load_balance = config_.model.moe->aux_loss / (sequences * moe_layers);
    objective.z = config_.model.moe->z_loss / (tokens * moe_layers);
  }
  return objective;
}

void Trainer::start_reductions(int chunk, std::int64_t layer) {
  // The last buckets first: backward has passed them first. A bucket with the embedding waits for its end.
  for (std::size_t i = parameters_.buckets().size(); i-- > 0;) {
    const ParameterSet::Bucket& bucket = parameters_.buckets()[i];
    if (bucket.chunk == chunk && bucket.first_layer >= layer) optimizer_.start_reduce(i);
  }
  optimizer_.progress();
}

void Trainer::await_parameters(std::int64_t layer) {
  for (std::size_t i = 0; i < parameters_.buckets().size(); ++i) {
    if (parameters_.buckets()[i].first_layer <= layer) optimizer_.wait_gathered(i);
  }
}

Trainer::Totals Trainer::reduce_totals(double local_loss, std::int64_t targets) {
  // One sum carries all: the loss, a stop request of any rank, and each rank's memory in a place of its own.
  const Tensor sums = Tensor::zeros({2 + runtime_.world()}, DType::f64);
  double* s = sums.data<double>();
  s[0] = local_loss;
  s[1] = stop_requested() ? 1.0 : 0.0;
  s[2 + runtime_.rank()] = static_cast<double>(memory_use(stream_.device).peak_bytes);
  groups_.world->all_reduce(sums);
  const double largest = *std::max_element(s + 2, s + sums.numel());
  return {s[0] / static_cast<double>(std::max<std::int64_t>(1, targets)), s[1] > 0,
          static_cast<std::int64_t>(largest)};
}

double Trainer::learning_rate() const {
  return hysparse::learning_rate(schedule_config(config_), progress_.step);
}

std::optional<double> Trainer::maybe_validate() {
  const std::int64_t every = config_.train.eval_every;
  const bool due = every > 0 && (progress_.step % every == 0 || progress_.step == config_.train.steps);
  if (data_->valid() == nullptr || !due || observer_ != nullptr) return std::nullopt;
  return validation_loss(model_, *data_->valid(), config_.train.eval_batches * config_.train.global_batch_size,
                         config_.data.document_mask, groups_);
}

void Trainer::maybe_save(bool last) {
  if (!writer_) return;
  writer_->poll();
  const std::int64_t every = config_.checkpoint.every;
  if (!last && (every == 0 || progress_.step % every != 0)) return;
  save_training_state(*writer_, config_, *data_, groups_, parameters_, optimizer_, progress_);
  constexpr double worth_a_word = 1.0;
  if (log_ && writer_->seconds_waited() > worth_a_word) {
    log_->message(
        fmt::format("waited {:.1f} s for the checkpoint before to be written: it takes longer than "
                    "checkpoint.every steps do",
                    writer_->seconds_waited()));
  }
}

}  // namespace hysparse
