#include "parallel/schedule.h"

#include <algorithm>
#include <optional>
#include <tuple>
#include <utility>

#include "core/error.h"

namespace hysparse {
namespace {

using enum ActionKind;

bool is_compute(const Action& action) {
  return action.kind == forward || action.kind == backward;
}

struct Sizes {
  int stages = 0, chunks = 0, micro_batches = 0;

  explicit Sizes(const Schedule& schedule) : stages(static_cast<int>(schedule.size())) {
    for (const auto& actions : schedule) {
      for (const Action& a : actions) {
        chunks = std::max(chunks, a.chunk + 1);
        micro_batches = std::max(micro_batches, a.micro_batch + 1);
      }
    }
  }
  int global_chunks() const { return stages * chunks; }
};

/// When each global chunk's data of each micro-batch are there; nothing where they are not yet.
class Arrivals {
 public:
  explicit Arrivals(const Sizes& sizes)
      : micro_batches_(sizes.micro_batches),
        times_(static_cast<std::size_t>(sizes.global_chunks() * sizes.micro_batches)) {}
  std::optional<double>& operator()(int global_chunk, int micro_batch) {
    return times_[static_cast<std::size_t>(global_chunk * micro_batches_ + micro_batch)];
  }

 private:
  int micro_batches_;
  std::vector<std::optional<double>> times_;
};

/// Runs lists of computations; with `transfers` data pass when their send comes, else at the end of what makes
/// them. Returns the ends of all actions.
class Simulator {
 public:
  Simulator(const Schedule& schedule, const ActionCosts& costs, bool transfers)
      : schedule_(schedule),
        costs_(costs),
        transfers_(transfers),
        sizes_(schedule),
        activations_(sizes_),
        gradients_(sizes_),
        forwarded_(sizes_),
        ends_(schedule.size()) {}

  std::vector<std::vector<double>> run() {
    for (bool moved = true; moved;) {
      moved = false;
      for (int stage = 0; stage < sizes_.stages; ++stage) {
        while (step(stage)) moved = true;
      }
    }
    for (std::size_t s = 0; s < ends_.size(); ++s) {
      HYSPARSE_CHECK(ends_[s].size() == schedule_[s].size(), "stage {} waits for ever at action {} of {}", s,
                     ends_[s].size(), schedule_[s].size());
    }
    return std::move(ends_);
  }

 private:
  /// Runs the next action of a stage; false when its data are not there, or nothing is left.
  bool step(int stage) {
    const auto& actions = schedule_[static_cast<std::size_t>(stage)];
    std::vector<double>& ends = ends_[static_cast<std::size_t>(stage)];
    if (ends.size() == actions.size()) return false;
    const Action& a = actions[ends.size()];
    const int global = a.chunk * sizes_.stages + stage;
    const double now = ends.empty() ? 0.0 : ends.back();
    double end = now;
    if (is_compute(a)) {
      const std::optional<double> data = ready(a, global);
      if (!data) return false;
      end = std::max(now, *data) + (a.kind == forward ? costs_.forward : costs_.backward);
      if (a.kind == forward) forwarded_(global, a.micro_batch) = end;
      if (!transfers_) pass_on(a.kind == forward, global, a.micro_batch, end);
    } else if (a.kind == send_activation || a.kind == send_gradient) {
      pass_on(a.kind == send_activation, global, a.micro_batch, end);
    }
    ends.push_back(end);
    return true;
  }

  std::optional<double> ready(const Action& a, int global) {
    if (a.kind == forward) return global == 0 ? 0.0 : activations_(global, a.micro_batch);
    if (!forwarded_(global, a.micro_batch)) return std::nullopt;
    return global + 1 == sizes_.global_chunks() ? 0.0 : gradients_(global, a.micro_batch);
  }

  void pass_on(bool ahead, int global, int micro_batch, double time) {
    if (ahead && global + 1 < sizes_.global_chunks()) activations_(global + 1, micro_batch) = time;
    if (!ahead && global > 0) gradients_(global - 1, micro_batch) = time;
  }

  const Schedule& schedule_;
  ActionCosts costs_;
  bool transfers_;
  Sizes sizes_;
  Arrivals activations_, gradients_, forwarded_;
  std::vector<std::vector<double>> ends_;
};

/// Adds the transfers to lists of computations. All events are put into one order, that of an ideal run: a
/// computation counts when it starts, a transfer, at sender and receiver, when what makes its data ends. Lists
/// cut from one order cannot wait in a circle, whatever the transfers wait for.
Schedule with_transfers(const Schedule& computations) {
  const Sizes sizes(computations);
  if (sizes.stages == 1) return computations;
  const ActionCosts costs;
  const auto ends = Simulator(computations, costs, false).run();
  struct Event {
    double time;
    bool computes;  // transfers at one time go first
    int stage;
    Action action;
  };
  std::vector<Event> events;
  for (int stage = 0; stage < sizes.stages; ++stage) {
    const auto& actions = computations[static_cast<std::size_t>(stage)];
    for (std::size_t i = 0; i < actions.size(); ++i) {
      const bool ahead = actions[i].kind == forward;
      const double end = ends[static_cast<std::size_t>(stage)][i];
      events.push_back({end - (ahead ? costs.forward : costs.backward), true, stage, actions[i]});
      const int global = actions[i].chunk * sizes.stages + stage, to = global + (ahead ? 1 : -1);
      if (to < 0 || to == sizes.global_chunks()) continue;
      Action send = actions[i];
      send.kind = ahead ? send_activation : send_gradient;
      send.peer = to % sizes.stages;
      events.push_back({end, false, stage, send});
    }
  }
  std::stable_sort(events.begin(), events.end(), [](const Event& a, const Event& b) {
    return std::tuple(a.time, a.computes, a.stage) < std::tuple(b.time, b.computes, b.stage);
  });
  Schedule schedule(computations.size());
  for (const Event& e : events) {
    schedule[static_cast<std::size_t>(e.stage)].push_back(e.action);
    if (e.computes) continue;
    const bool ahead = e.action.kind == send_activation;
    const int to = e.action.chunk * sizes.stages + e.stage + (ahead ? 1 : -1);
    schedule[static_cast<std::size_t>(e.action.peer)].push_back(
        {ahead ? receive_activation : receive_gradient, to / sizes.stages, e.action.micro_batch, e.stage});
  }
  return schedule;
}

/// The forwards of a stage in order: groups of micro-batches through each chunk.
std::vector<Action> forwards(int stages, int micro_batches, int chunks) {
  const int groups = std::max(1, micro_batches / stages);
  std::vector<Action> list;
  for (int group = 0, begin = 0; group < groups; ++group) {
    const int size = micro_batches / groups + (group < micro_batches % groups ? 1 : 0);
    for (int chunk = 0; chunk < chunks; ++chunk) {
      for (int i = begin; i < begin + size; ++i) list.push_back({forward, chunk, i, -1});
    }
    begin += size;
  }
  return list;
}

/// `ahead` forwards, then one forward and one backward in turn, then the rest of the backwards.
std::vector<Action> alternate(const std::vector<Action>& forward_list, int chunks, int ahead) {
  std::vector<Action> backwards = forward_list;
  for (Action& a : backwards) {
    a.kind = backward;
    a.chunk = chunks - 1 - a.chunk;
  }
  const auto total = static_cast<int>(forward_list.size());
  std::vector<Action> list(forward_list.begin(), forward_list.begin() + std::min(ahead, total));
  for (int i = 0; i < total; ++i) {
    if (ahead + i < total) list.push_back(forward_list[static_cast<std::size_t>(ahead + i)]);
    list.push_back(backwards[static_cast<std::size_t>(i)]);
  }
  return list;
}

void check_sizes(int stages, int micro_batches, int chunks) {
  HYSPARSE_CHECK(stages >= 1 && micro_batches >= 1 && chunks >= 1, "stages {}, micro-batches {}, chunks {}",
                 stages, micro_batches, chunks);
}

}  // namespace

Schedule one_f_one_b(int stages, int micro_batches) {
  check_sizes(stages, micro_batches, 1);
  Schedule schedule;
  for (int stage = 0; stage < stages; ++stage) {
    schedule.push_back(alternate(forwards(stages, micro_batches, 1), 1, stages - stage - 1));
  }
  return with_transfers(schedule);
}

int interleaved_group(int stages, int micro_batches) {
  const int groups = std::max(1, micro_batches / stages);
  return (micro_batches + groups - 1) / groups;
}

Schedule interleaved(int stages, int micro_batches, int chunks) {
  check_sizes(stages, micro_batches, chunks);
  if (chunks == 1) return one_f_one_b(stages, micro_batches);
  const int group = interleaved_group(stages, micro_batches);
  Schedule schedule;
  for (int stage = 0; stage < stages; ++stage) {
    const int ahead = 2 * (stages - stage - 1) + (chunks - 1) * group;
    schedule.push_back(alternate(forwards(stages, micro_batches, chunks), chunks, ahead));
  }
  return with_transfers(schedule);
}

Schedule forward_only(int stages, int micro_batches, int chunks) {
  check_sizes(stages, micro_batches, chunks);
  return with_transfers(Schedule(static_cast<std::size_t>(stages), forwards(stages, micro_batches, chunks)));
}

double bubble_fraction(int stages, int micro_batches, int chunks) {
  check_sizes(stages, micro_batches, chunks);
  return static_cast<double>(stages - 1) / static_cast<double>(chunks * micro_batches + stages - 1);
}

std::vector<int> most_held(const Schedule& schedule) {
  std::vector<int> most;
  for (const auto& actions : schedule) {
    int held = 0, peak = 0;
    for (const Action& a : actions) {
      held += a.kind == forward ? 1 : a.kind == backward ? -1 : 0;
      peak = std::max(peak, held);
    }
    most.push_back(peak);
  }
  return most;
}

Timeline simulate(const Schedule& schedule, const ActionCosts& costs) {
  Timeline timeline;
  timeline.ends = Simulator(schedule, costs, schedule.size() > 1).run();
  double work = 0;
  for (const auto& actions : schedule) {
    for (const Action& a : actions) {
      work += a.kind == forward ? costs.forward : a.kind == backward ? costs.backward : 0.0;
    }
  }
  for (const auto& ends : timeline.ends) {
    if (!ends.empty()) timeline.total = std::max(timeline.total, ends.back());
  }
  timeline.bubble = 1.0 - work / (static_cast<double>(schedule.size()) * timeline.total);
  return timeline;
}

}  // namespace hysparse
