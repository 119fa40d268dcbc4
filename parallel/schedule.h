/// Pipeline schedules as data: for each stage the list of what it does, in order. Made from sizes alone and
/// tested without a model; run_pipeline (parallel/pipeline.h) executes any list. docs/pipeline.md shows them.
///
/// The layers are cut into stages * chunks parts, "global chunks"; global chunk g lies on stage g % stages as
/// its chunk g / stages. Each micro-batch goes forward through all of them and backward the other way.
#pragma once

#include <cstdint>
#include <vector>

namespace hysparse {

enum class ActionKind : std::uint8_t {
  receive_activation,  ///< what chunk `chunk` reads in forward, from `peer`
  forward,
  send_activation,   ///< what chunk `chunk` made in forward, to `peer`
  receive_gradient,  ///< of what chunk `chunk` made, from `peer`
  backward,
  send_gradient,  ///< of what chunk `chunk` read, to `peer`
};

/// A receive says by when it must have been posted: its data are not needed before the forward or backward of
/// the same chunk and micro-batch. A send starts and does not wait.
struct Action {
  ActionKind kind = ActionKind::forward;
  int chunk = 0;  ///< on this stage; the global chunk is chunk * stages + stage
  int micro_batch = 0;
  int peer = -1;  ///< the other stage of a transfer

  friend bool operator==(const Action&, const Action&) = default;
};

/// By stage.
using Schedule = std::vector<std::vector<Action>>;

// All take stages >= 1, micro_batches >= 1, chunks >= 1, and give each (chunk, micro-batch) one forward and,
// but for forward_only, one backward. Transfers lie in the lists such that they never wait for each other in a
// circle, even where every send would block until its receive is posted and every receive until its send
// starts.

/// One forward, one backward (PipeDream-flush): stage s runs min(m, p - s - 1) forwards ahead, then alternates;
/// it never holds more than p - s micro-batches.
Schedule one_f_one_b(int stages, int micro_batches);

/// 1F1B over `chunks` chunks per stage (Narayanan et al., 2021). Micro-batches go through each chunk in groups
/// of N = interleaved_group(p, m): p where p divides m, else a little more, so that every group is at least as
/// long as the pipeline. Stage s runs min(v m, 2 (p - s - 1) + (v - 1) N) forwards ahead and holds at most one
/// chunk more. Any number of micro-batches; below p the pipeline cannot be filled. One chunk: one_f_one_b.
Schedule interleaved(int stages, int micro_batches, int chunks);

/// The longest group of micro-batches that `interleaved` sends through a chunk: m spread evenly over
/// max(1, floor(m / p)) groups.
int interleaved_group(int stages, int micro_batches);

/// Evaluation: forwards alone, in interleaved's order.
Schedule forward_only(int stages, int micro_batches, int chunks);

/// (p - 1) / (v m + p - 1): the share of a step that a stage waits when all chunks cost the same. one_f_one_b
/// has it for any m, interleaved for m >= p; no schedule has less.
double bubble_fraction(int stages, int micro_batches, int chunks = 1);

/// Most (chunk, micro-batch) that are forwarded and not yet backwarded at once on each stage, in units of
/// chunks: what the stage keeps for backward.
std::vector<int> most_held(const Schedule& schedule);

/// How long things take; transfers take no time.
struct ActionCosts {
  double forward = 1.0;
  double backward = 2.0;
};

/// When every action of a schedule ends, for equal chunks.
struct Timeline {
  std::vector<std::vector<double>> ends;  ///< by stage and action
  double total = 0;                       ///< until the last stage is done
  double bubble = 0;                      ///< 1 - work / (stages * total)
};

/// Runs a schedule with costs. Throws CheckFailure when some action waits for ever.
Timeline simulate(const Schedule& schedule, const ActionCosts& costs = {});

}  // namespace hysparse
