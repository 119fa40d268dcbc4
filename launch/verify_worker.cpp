#include "launch/verify_worker.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "launch/commands.h"
#include "launch/config.h"
#include "launch/trainer.h"
#include "launch/user_input.h"
#include "parallel/box.h"

namespace hysparse {
namespace {

constexpr std::array axes = {Axis::world, Axis::stage, Axis::pp, Axis::dp,  Axis::cp,    Axis::tp,
                             Axis::dp_cp, Axis::edp,   Axis::ep, Axis::etp, Axis::ep_etp};
constexpr std::array operations = {"all_reduce", "reduce_scatter", "all_gather", "all_to_all",
                                   "broadcast",  "send",           "receive",    "barrier"};

/// What this rank has put into the groups of more than one rank since they were made.
TrafficTable traffic_of(const ProcessGroups& groups) {
  TrafficTable table;
  for (const Axis axis : axes) {
    const Communicator& group = groups.axis(axis);
    if (group.size() > 1) table[group.name()] = group.traffic();
  }
  return table;
}

/// a - b, which grew into a.
TrafficTable difference(TrafficTable a, const TrafficTable& b) {
  for (const auto& [group, counts] : b) {
    for (const auto& [operation, t] : counts) {
      a[group][operation].calls -= t.calls;
      a[group][operation].bytes -= t.bytes;
    }
  }
  return a;
}

/// Sums over the world; operations that nobody called are left out.
TrafficTable sum_over_ranks(const TrafficTable& own, const ProcessGroups& groups) {
  const Tensor sums =
      Tensor::zeros({static_cast<std::int64_t>(2 * axes.size() * operations.size())}, DType::f64);
  const auto visit = [&](auto&& body) {  // body(group, operation, calls and bytes in `sums`)
    double* cell = sums.data<double>();
    for (const Axis axis : axes) {
      for (const char* operation : operations) {
        body(groups.axis(axis).name(), operation, cell);
        cell += 2;
      }
    }
  };
  visit([&](const std::string& group, const char* operation, double* cell) {
    const auto of_group = own.find(group);
    if (of_group == own.end()) return;
    const auto found = of_group->second.find(operation);
    if (found == of_group->second.end()) return;
    cell[0] = static_cast<double>(found->second.calls);
    cell[1] = static_cast<double>(found->second.bytes);
  });
  groups.world->all_reduce(sums);
  TrafficTable total;
  visit([&](const std::string& group, const char* operation, const double* cell) {
    if (cell[0] == 0) return;
    total[group][operation] = {static_cast<std::int64_t>(cell[0]), static_cast<std::int64_t>(cell[1])};
  });
  return total;
}

VerifyFlips sum_over_ranks(const VerifyFlips& own, const ProcessGroups& groups) {
  const int ranks = groups.world->size();
  const Tensor sums = Tensor::zeros({2 + ranks}, DType::f64);  // each rank's margin in a place of its own
  double* s = sums.data<double>();
  s[0] = static_cast<double>(own.choices);
  s[1] = static_cast<double>(own.flips);
  s[2 + groups.world->rank()] = own.largest_margin;
  groups.world->all_reduce(sums);
  return {static_cast<std::int64_t>(s[0]), static_cast<std::int64_t>(s[1]),
          *std::max_element(s + 2, s + 2 + ranks)};
}

/// A piece of a parameter's reduced gradient on this rank, and where it lies in the whole.
struct GradientPiece {
  Tensor values;  // flat
  Box global;
  bool owner;
};

std::map<std::string, std::vector<GradientPiece>> pieces_of(const ParameterSet& parameters,
                                                            const ProcessGroups& groups) {
  std::map<std::string, std::vector<GradientPiece>> pieces;
  for (const FlatBuffer* buffer : parameters.buffers()) {
    const Tensor shard = buffer->gradient_shard().to_device(Device{});
    for (const FlatBuffer::Piece& piece : buffer->shard_pieces()) {
      const FlatBuffer::Entry& entry = buffer->entries()[piece.entry];
      std::int64_t begin = entry.begin + piece.begin - buffer->shard_begin();
      for (Box box : boxes_of_range(entry.box.shape, piece.begin, piece.end)) {
        const std::int64_t end = begin + box.shape.numel();
        for (int d = 0; d < box.shape.rank(); ++d) box.offset.set(d, entry.box.offset[d] + box.offset[d]);
        pieces[entry.declared.name].push_back(
            {shard.slice(begin, end), box, entry.declared.placement.is_owner(groups.mesh, groups.rank)});
        begin = end;
      }
    }
  }
  return pieces;
}

/// One parameter's gradient from the pieces of all ranks. Collective.
VerifyGradient assemble(const ParameterDeclaration& declaration, const std::vector<GradientPiece>& pieces,
                        DType dtype, Communicator& world) {
  VerifyGradient gradient{declaration.name, Tensor::zeros(declaration.shape, dtype)};
  const Tensor figures = Tensor::zeros({2}, DType::f64);  // elements with an owner; squares of differences
  double* f = figures.data<double>();
  dispatch_float(dtype, [&]<class T>() {
    T* whole = gradient.value.data<T>();
    for (const GradientPiece& piece : pieces) {
      if (!piece.owner) continue;
      const T* values = piece.values.data<T>();
      for_each_element(declaration.shape, piece.global,
                       [&](std::int64_t local, std::int64_t index) { whole[index] = values[local]; });
      f[0] += static_cast<double>(piece.global.shape.numel());
    }
    world.all_reduce(gradient.value);
    for (const GradientPiece& piece : pieces) {
      if (piece.owner) continue;
      const T* values = piece.values.data<T>();
      for_each_element(declaration.shape, piece.global, [&](std::int64_t local, std::int64_t index) {
        const double d = static_cast<double>(values[local]) - static_cast<double>(whole[index]);
        f[1] += d * d;
      });
    }
  });
  world.all_reduce(figures);
  gradient.owned = static_cast<std::int64_t>(f[0]);
  gradient.copies = std::sqrt(f[1]);
  return gradient;
}

}  // namespace

ChoiceHook* VerifyRecorder::choices() {
  if (recorder_) return &*recorder_;
  return replayer_ ? &*replayer_ : nullptr;
}

void VerifyRecorder::gradients(std::int64_t step, ParameterSet& parameters, const ProcessGroups& groups) {
  if (step != 1) return;
  if (recorder_) recorder_->stop();
  if (replayer_) {
    replayer_->stop();
    result_.flips = sum_over_ranks(replayer_->flips(), groups);
  }
  const TrafficTable before = traffic_of(groups);
  const auto pieces = pieces_of(parameters, groups);
  static const std::vector<GradientPiece> none;
  for (const ParameterDeclaration& declaration : parameters.declarations()) {
    if (!declaration.trainable) continue;
    const auto own = pieces.find(declaration.name);
    result_.gradients.push_back(assemble(declaration, own == pieces.end() ? none : own->second,
                                         parameters.dtype() == DType::f64 ? DType::f64 : DType::f32,
                                         *groups.world));
  }
  counted_ = difference(traffic_of(groups), before);  // not the step's own
}

void VerifyRecorder::stepped(const StepReport& report, const ProcessGroups& groups) {
  VerifyStep step{report.loss, report.grad_norm, {}};
  for (const ExpertBalance::LayerLoad& layer : report.load.layers) step.load.push_back(layer.max_over_mean);
  step.load.push_back(report.load.dropped);
  result_.steps.push_back(std::move(step));
  const TrafficTable now = traffic_of(groups);
  result_.traffic = difference(now, counted_);
  counted_ = now;
  groups_ = &groups;
}

VerifyResult VerifyRecorder::finish() {
  HYSPARSE_CHECK(groups_ != nullptr, "no step was watched");
  result_.traffic = sum_over_ranks(result_.traffic, *groups_);
  return std::move(result_);
}

int run_verify_layout(Runtime& runtime, const VerifyLayoutOptions& options) {
  RunConfig config;
  runtime.agree([&] {
    config = load_config(options.config, options.overrides, runtime.world());
    default_thread_count(runtime.local_ranks());  // HYSPARSE_NUM_THREADS
    if (runtime.rank() == 0) make_writable_directory("--output", options.output);
  });
  VerifyRecorder recorder;
  runtime.agree([&] {
    if (options.record_choices) {
      recorder.record_choices(config.train.global_batch_size * config.train.seq_len,
                              config.model.moe ? config.model.moe->scoring : RouterScoring::sigmoid);
    } else if (options.replay_choices) {
      recorder.replay_choices(*options.replay_choices);
    }
  });
  Trainer trainer(runtime, config, &recorder);
  trainer.run();
  const VerifyResult result = recorder.finish();
  runtime.agree([&] {
    if (runtime.rank() != 0) return;
    write_result(options.output, result);
    if (recorder.recorded() != nullptr) recorder.recorded()->write(options.output);
  });
  return 0;
}

}  // namespace hysparse
