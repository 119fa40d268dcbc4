// What a child process may do, and what its parent hears of it.
#include "core/child_process.h"

#include <atomic>
#include <csignal>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "core/error.h"

namespace hysparse {
namespace {

std::string failure_of(const std::function<std::string()>& body, const ChildLimits& limits = {}) {
  try {
    in_child_process(body, limits);
  } catch (const Failure& e) {
    return e.what();
  }
  return "none";
}

TEST(ChildProcess, ReturnsWhatTheBodyDoesHoweverLong) {
  EXPECT_EQ(in_child_process([] { return std::string(); }), "");
  const std::string text(3'000'000, 'x');  // more than a pipe holds
  EXPECT_EQ(in_child_process([&] { return text; }), text);
}

TEST(ChildProcess, LeavesTheParentsMemoryAlone) {
  int value = 1;
  EXPECT_EQ(in_child_process([&] { return std::to_string(++value); }), "2");
  EXPECT_EQ(value, 1);
}

TEST(ChildProcess, TellsWhatTheBodyThrew) {
  EXPECT_EQ(failure_of([]() -> std::string { throw_error("no such thing"); }), "no such thing");
}

TEST(ChildProcess, SurvivesAnEndByASignal) {
  for (const int signal : {SIGSEGV, SIGABRT, SIGKILL}) {
    const std::string failure = failure_of([signal] {
      raise(signal);
      return std::string("went on");
    });
    EXPECT_TRUE(failure.starts_with("ended by signal " + std::to_string(signal) + " (")) << failure;
  }
}

TEST(ChildProcess, EndsABodyThatHangs) {
  const std::string failure = failure_of(
      []() -> std::string {
        std::atomic<int> turns{0};
        for (;;) ++turns;
      },
      {.seconds = 1});
  EXPECT_TRUE(failure.starts_with("ended by signal " + std::to_string(SIGXCPU) + " (")) << failure;
}

TEST(ChildProcess, RefusesMemoryWithoutBound) {
  EXPECT_NE(failure_of(
                [] {
                  std::vector<std::string> kept;
                  for (int i = 0; i < 64; ++i) kept.emplace_back(std::size_t{16} << 20, 'x');
                  return std::to_string(kept.size());
                },
                {.more_bytes = std::int64_t{64} << 20}),
            "none");
}

}  // namespace
}  // namespace hysparse
