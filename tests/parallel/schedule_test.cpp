// The lists of every schedule of up to 8 stages, 16 micro-batches and 4 chunks, without a model.
#include "parallel/schedule.h"

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include <gtest/gtest.h>

#include "core/error.h"

namespace hysparse {
namespace {

using enum ActionKind;

constexpr int most_stages = 8, most_micro_batches = 16, most_chunks = 4;

struct Case {
  std::string name;
  int stages, micro_batches, chunks;
  bool has_backward;
  Schedule schedule;
};

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (int p = 1; p <= most_stages; ++p) {
    for (int m = 1; m <= most_micro_batches; ++m) {
      cases.push_back({"1f1b", p, m, 1, true, one_f_one_b(p, m)});
      for (int v = 1; v <= most_chunks; ++v) {
        cases.push_back({"interleaved", p, m, v, true, interleaved(p, m, v)});
        cases.push_back({"forward_only", p, m, v, false, forward_only(p, m, v)});
      }
    }
  }
  for (Case& c : cases) c.name += fmt::format(" p={} m={} v={}", c.stages, c.micro_batches, c.chunks);
  return cases;
}

bool is_send(const Action& a) {
  return a.kind == send_activation || a.kind == send_gradient;
}
bool is_receive(const Action& a) {
  return a.kind == receive_activation || a.kind == receive_gradient;
}
/// Boundary b lies between global chunks b and b + 1.
int boundary_of(const Action& a, int stage, int stages) {
  const int global = a.chunk * stages + stage;
  return a.kind == send_activation || a.kind == receive_gradient ? global : global - 1;
}

/// The messages of a kind that go over one boundary, in the order of one side's list.
using Messages = std::map<std::tuple<int, int, int, bool>, std::vector<int>>;  // from, to, boundary, gradient

Messages messages(const Schedule& schedule, bool (*side)(const Action&)) {
  Messages result;
  const auto p = static_cast<int>(schedule.size());
  for (int stage = 0; stage < p; ++stage) {
    for (const Action& a : schedule[static_cast<std::size_t>(stage)]) {
      if (!side(a)) continue;
      const bool is_gradient = a.kind == send_gradient || a.kind == receive_gradient;
      const int from = is_send(a) ? stage : a.peer, to = is_send(a) ? a.peer : stage;
      result[{from, to, boundary_of(a, stage, p), is_gradient}].push_back(a.micro_batch);
    }
  }
  return result;
}

TEST(Schedule, EveryReceiveHasItsSendInTheSameOrder) {
  for (const Case& c : all_cases()) {
    const Messages sent = messages(c.schedule, is_send), received = messages(c.schedule, is_receive);
    ASSERT_EQ(sent, received) << c.name;
    const auto boundaries = static_cast<std::size_t>(c.stages == 1 ? 0 : c.stages * c.chunks - 1);
    ASSERT_EQ(sent.size(), boundaries * (c.has_backward ? 2 : 1)) << c.name;
    for (const auto& [way, list] : sent) {
      const auto [from, to, boundary, is_gradient] = way;
      ASSERT_EQ(is_gradient ? to : from, boundary % c.stages) << c.name;
      ASSERT_EQ(is_gradient ? from : to, (boundary + 1) % c.stages) << c.name;
      ASSERT_TRUE(std::is_sorted(list.begin(), list.end())) << c.name;
      ASSERT_EQ(list.size(), static_cast<std::size_t>(c.micro_batches)) << c.name;
    }
  }
}

TEST(Schedule, EachChunkRunsEachMicroBatchOnceInALegalOrder) {
  for (const Case& c : all_cases()) {
    const int last = c.stages * c.chunks - 1;
    for (int stage = 0; stage < c.stages; ++stage) {
      // What has happened to (chunk, micro-batch) on this stage.
      std::set<std::pair<int, int>> have[6];
      const auto had = [&](ActionKind kind, const Action& a) {
        return have[static_cast<int>(kind)].contains({a.chunk, a.micro_batch});
      };
      for (const Action& a : c.schedule[static_cast<std::size_t>(stage)]) {
        const int global = a.chunk * c.stages + stage;
        const bool alone = c.stages == 1;
        ASSERT_FALSE(had(a.kind, a)) << c.name;
        ASSERT_TRUE(a.chunk >= 0 && a.chunk < c.chunks && a.micro_batch >= 0 &&
                    a.micro_batch < c.micro_batches);
        if (a.kind == forward) {
          ASSERT_TRUE(alone || global == 0 || had(receive_activation, a)) << c.name;
        }
        if (a.kind == backward) {
          ASSERT_TRUE(had(forward, a)) << c.name;
          ASSERT_TRUE(alone || global == last || had(receive_gradient, a)) << c.name;
        }
        if (a.kind == send_activation) {
          ASSERT_TRUE(global < last && had(forward, a)) << c.name;
        }
        if (a.kind == send_gradient) {
          ASSERT_TRUE(global > 0 && had(backward, a)) << c.name;
        }
        have[static_cast<int>(a.kind)].insert({a.chunk, a.micro_batch});
      }
      const auto each = static_cast<std::size_t>(c.chunks * c.micro_batches);
      ASSERT_EQ(have[static_cast<int>(forward)].size(), each) << c.name;
      ASSERT_EQ(have[static_cast<int>(backward)].size(), c.has_backward ? each : 0) << c.name;
      for (int chunk = 0; chunk < c.chunks; ++chunk) {  // gradients add up in the order of micro-batches
        int forwards = 0, backwards = 0;
        for (const Action& a : c.schedule[static_cast<std::size_t>(stage)]) {
          if (a.chunk != chunk) continue;
          if (a.kind == forward) {
            ASSERT_EQ(a.micro_batch, forwards++) << c.name;
          }
          if (a.kind == backward) {
            ASSERT_EQ(a.micro_batch, backwards++) << c.name;
          }
        }
      }
    }
  }
}

/// How transfers wait for each other.
enum class Transfers {
  buffered,       ///< sends go off, receives wait for them
  until_posted,   ///< sends block until the receive's place in the other list is reached; receives do not wait
  until_the_end,  ///< both block until the other side is there, as MPI_Ssend and MPI_Recv
};

/// Runs the lists; the number of actions left when nothing moves any more.
std::size_t left_over(const Schedule& schedule, Transfers transfers) {
  const auto p = static_cast<int>(schedule.size());
  std::vector<std::size_t> next(schedule.size());
  int last = 0;  // global chunk
  for (const auto& list : schedule) {
    for (const Action& a : list) last = std::max(last, (a.chunk + 1) * p - 1);
  }
  using Message = std::tuple<int, int, bool>;  // boundary, micro-batch, gradient
  std::set<Message> sent, posted;
  const auto message = [&](const Action& a, int stage) {
    return Message{boundary_of(a, stage, p), a.micro_batch,
                   a.kind == send_gradient || a.kind == receive_gradient};
  };
  const auto at = [&](int stage) -> const Action* {
    const auto& list = schedule[static_cast<std::size_t>(stage)];
    const std::size_t i = next[static_cast<std::size_t>(stage)];
    return i < list.size() ? &list[i] : nullptr;
  };
  const auto waits_at = [&](int stage, const Message& m, bool (*side)(const Action&)) {
    const Action* a = at(stage);
    return a != nullptr && side(*a) && message(*a, stage) == m;
  };
  const auto can_go = [&](int stage, const Action& a) {
    if (is_send(a)) {
      const Message m = message(a, stage);
      if (transfers == Transfers::until_posted) return posted.contains(m);
      if (transfers == Transfers::until_the_end) return posted.contains(m) || waits_at(a.peer, m, is_receive);
      return true;
    }
    if (is_receive(a)) {
      return transfers == Transfers::until_posted || sent.contains(message(a, stage)) ||
             (transfers == Transfers::until_the_end && waits_at(a.peer, message(a, stage), is_send));
    }
    // Computations: their data must have been sent (receives come before them in the list).
    const int global = a.chunk * p + stage;
    const int boundary = a.kind == forward ? global - 1 : global;
    const bool outside = p == 1 || boundary < 0 || boundary == last;
    return outside || sent.contains({boundary, a.micro_batch, a.kind == backward});
  };
  for (bool moved = true; moved;) {
    moved = false;
    for (int stage = 0; stage < p; ++stage) {
      for (const Action* a = at(stage); a != nullptr && can_go(stage, *a); a = at(stage)) {
        if (is_send(*a)) sent.insert(message(*a, stage));
        if (is_receive(*a)) posted.insert(message(*a, stage));
        ++next[static_cast<std::size_t>(stage)];
        moved = true;
      }
    }
  }
  std::size_t left = 0;
  for (std::size_t s = 0; s < schedule.size(); ++s) left += schedule[s].size() - next[s];
  return left;
}

TEST(Schedule, NeverWaitsInACircleHoweverTransfersWait) {
  for (const Case& c : all_cases()) {
    for (const Transfers t : {Transfers::buffered, Transfers::until_posted, Transfers::until_the_end}) {
      ASSERT_EQ(left_over(c.schedule, t), 0u) << c.name << " transfers " << static_cast<int>(t);
    }
  }
}

TEST(Schedule, ACircleIsSeen) {
  // Both send first; only buffers save them.
  const Schedule crossed{{{forward, 0, 0}, {send_activation, 0, 0, 1}, {receive_activation, 1, 0, 1}},
                         {{receive_activation, 0, 0, 0}, {forward, 0, 0}, {send_activation, 0, 0, 0}}};
  EXPECT_EQ(left_over(crossed, Transfers::until_the_end), 0u);
  Schedule bad = crossed;
  std::swap(bad[0][1], bad[0][2]);  // stage 0 wants the answer before it asks
  EXPECT_GT(left_over(bad, Transfers::buffered), 0u);
  const Schedule both{{{send_activation, 0, 0, 1}, {receive_gradient, 0, 0, 1}},
                      {{send_gradient, 0, 0, 0}, {receive_activation, 0, 0, 0}}};
  EXPECT_EQ(left_over(both, Transfers::buffered), 0u);
  EXPECT_GT(left_over(both, Transfers::until_posted), 0u);
  EXPECT_THROW(simulate({{{backward, 0, 0}}}), CheckFailure);
}

TEST(Schedule, OneFOneBHoldsAsManyMicroBatchesAsStagesFollow) {
  for (int p = 1; p <= most_stages; ++p) {
    for (int m = 1; m <= most_micro_batches; ++m) {
      const std::vector<int> held = most_held(one_f_one_b(p, m));
      for (int s = 0; s < p; ++s) ASSERT_EQ(held[static_cast<std::size_t>(s)], std::min(m, p - s));
    }
  }
}

TEST(Schedule, InterleavedHoldsWhatItsFormulaSays) {
  for (int p = 1; p <= most_stages; ++p) {
    for (int m = 1; m <= most_micro_batches; ++m) {
      const int group = interleaved_group(p, m);
      ASSERT_TRUE(m < p ? group == m : group >= p && group < 2 * p);
      if (m % p == 0) {
        ASSERT_EQ(group, p);
      }
      for (int v = 2; v <= most_chunks; ++v) {
        const std::vector<int> held = most_held(interleaved(p, m, v));
        for (int s = 0; s < p; ++s) {
          ASSERT_EQ(held[static_cast<std::size_t>(s)], std::min(v * m, 2 * (p - s - 1) + (v - 1) * group + 1))
              << p << " " << m << " " << v;
        }
      }
    }
  }
}

/// Sums of a few hundred ones and twos are exact; the fractions are not.
constexpr double rounding = 1e-12;

TEST(Schedule, BubbleIsAsTheFormulaSays) {
  for (const Case& c : all_cases()) {
    const double simulated = simulate(c.schedule).bubble,
                 formula = bubble_fraction(c.stages, c.micro_batches, c.chunks);
    if (c.chunks == 1 || c.micro_batches >= c.stages) {
      ASSERT_NEAR(simulated, formula, rounding) << c.name;
    } else {
      ASSERT_GT(simulated, formula - rounding) << c.name;
    }
  }
}

TEST(Schedule, InterleavedFillsThePipelineForMoreMicroBatches) {
  for (int p = 2; p <= most_stages; p += 3) {
    for (int m = p; m <= 70; ++m) {
      ASSERT_NEAR(simulate(interleaved(p, m, 3)).bubble, bubble_fraction(p, m, 3), rounding) << p << " " << m;
    }
  }
}

TEST(Schedule, FormulaAtKnownSizes) {
  EXPECT_EQ(bubble_fraction(1, 5), 0.0);
  EXPECT_EQ(bubble_fraction(4, 1), 0.75);
  EXPECT_EQ(bubble_fraction(4, 4, 1), 3.0 / 7.0);
  EXPECT_EQ(bubble_fraction(4, 8, 2), 3.0 / 19.0);
}

TEST(Schedule, OfTwoStagesByHand) {
  const Schedule expected{
      {{forward, 0, 0},
       {send_activation, 0, 0, 1},
       {forward, 0, 1},
       {send_activation, 0, 1, 1},
       {receive_gradient, 0, 0, 1},
       {backward, 0, 0},
       {receive_gradient, 0, 1, 1},
       {backward, 0, 1}},
      {{receive_activation, 0, 0, 0},
       {forward, 0, 0},
       {receive_activation, 0, 1, 0},
       {backward, 0, 0},
       {send_gradient, 0, 0, 0},
       {forward, 0, 1},
       {backward, 0, 1},
       {send_gradient, 0, 1, 0}},
  };
  EXPECT_EQ(one_f_one_b(2, 2), expected);
}

TEST(Schedule, OneStageComputesAlone) {
  EXPECT_EQ(one_f_one_b(1, 2),
            (Schedule{{{forward, 0, 0}, {backward, 0, 0}, {forward, 0, 1}, {backward, 0, 1}}}));
  EXPECT_EQ(forward_only(1, 1, 2), (Schedule{{{forward, 0, 0}, {forward, 1, 0}}}));
}

}  // namespace
}  // namespace hysparse
