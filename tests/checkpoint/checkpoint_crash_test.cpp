/// A process that saves checkpoints is killed at random moments: whatever is left, find_latest finds a
/// checkpoint that is whole, and never an older one than before.
#include <chrono>
#include <csignal>
#include <thread>

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "checkpoint/reader.h"
#include "checkpoint/region.h"
#include "checkpoint/writer.h"
#include "tests/checkpoint/support.h"
#include "tests/data/temporary_directory.h"

namespace hysparse {
namespace {

/// Saves steps first, first + 1, ... until killed; every third replaces the step before it. `ready` is written
/// to when the first begins.
[[noreturn]] void save_forever(const std::string& run, std::int64_t first, int keep, int ready) {
  try {
    const auto world = local_communicator("world");
    CheckpointWriter writer(run, keep, *world);
    if (::write(ready, "x", 1) != 1) std::_Exit(4);
    for (std::int64_t step = first;; ++step) {
      for (int again = 0; again < (step % 3 == 0 ? 2 : 1); ++again) {
        writer.save(testing::test_info(step), testing::whole_pieces(step), step % 2 == 0);
      }
      while (!writer.poll()) std::this_thread::yield();
    }
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
  }
  std::_Exit(5);
}

TEST(CheckpointCrash, KilledAnywhereTheLatestIsWhole) {
  constexpr int rounds = 30;
  const TemporaryDirectory directory;
  std::mt19937 random(6);
  // Kills come within the time of a few saves, however fast the disk.
  const auto before = std::chrono::steady_clock::now();
  {
    const auto world = local_communicator("world");
    CheckpointWriter(directory.path(), 1, *world).save(testing::test_info(1), testing::whole_pieces(1), false);
  }
  const auto save_us =
      std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - before).count();
  std::int64_t newest = 1;
  for (int round = 0; round < rounds; ++round) {
    const int keep = 1 + round % 3;
    int ready[2];
    ASSERT_EQ(::pipe(ready), 0);
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) save_forever(directory.path(), newest + 1, keep, ready[1]);
    ::close(ready[1]);
    char byte = 0;
    ASSERT_EQ(::read(ready[0], &byte, 1), 1);
    ::close(ready[0]);
    std::this_thread::sleep_for(
        std::chrono::microseconds(static_cast<std::int64_t>(random() % 3001) * save_us / 1000));
    ::kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the child ended by itself";

    std::vector<std::string> warnings;
    const auto latest = find_latest(directory.path(), &warnings);
    EXPECT_TRUE(warnings.empty()) << warnings.front();
    ASSERT_TRUE(latest.has_value());
    CheckpointReader reader(*latest);
    reader.verify();
    EXPECT_GE(reader.info().step, newest);
    newest = reader.info().step;
    testing::expect_checkpoint(reader, newest);
  }
  EXPECT_GT(newest, 1 + rounds / 6);  // not all kills came before the first save
}

}  // namespace
}  // namespace hysparse
