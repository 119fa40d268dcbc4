#include "data/prefetch.h"

#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <thread>

#include "core/memory.h"
#include "tests/data/temporary_directory.h"

namespace hysparse {
namespace {

using std::chrono::milliseconds;

/// Window i holds i everywhere. Counts the windows it gave; slow or broken on request.
class NumberedWindows final : public WindowSource {
 public:
  std::int64_t seq_len() const override { return 4; }
  std::int64_t windows() const override { return 1'000'000; }
  void fill(std::int64_t index, std::int32_t* out, std::int32_t* document_starts) override {
    std::this_thread::sleep_for(pause);
    if (index == broken) throw_error("numbers.h5: token {} is 7, but vocab_size is 5", index);
    thread = std::this_thread::get_id();
    std::fill_n(out, 5, static_cast<std::int32_t>(index));
    if (document_starts != nullptr) std::fill_n(document_starts, 5, 0);
    ++given;
  }
  std::int64_t crossings(std::int64_t) override { return 0; }

  std::chrono::microseconds pause{0};
  std::int64_t broken = -1;
  std::atomic<std::int64_t> given{0};
  std::thread::id thread;
};

template <class Condition>
bool soon(Condition&& condition) {
  for (int i = 0; i < 5000 && !condition(); ++i) std::this_thread::sleep_for(milliseconds(1));
  return condition();
}

std::int32_t first_token(const StepBatch& step) {
  return step.micro_batches.at(0).inputs.data<std::int32_t>()[0];
}

TEST(Prefetcher, GivesTheStepsInOrderFromAnotherThread) {
  NumberedWindows windows;
  Loader loader(windows, {8, 2, 1, 2});
  Prefetcher prefetcher(loader, 16, 50);
  for (std::int64_t step = 0; step < 50; ++step) {
    const StepBatch batch = prefetcher.next();
    ASSERT_EQ(batch.micro_batches.size(), 2u);
    EXPECT_EQ(first_token(batch), 16 + step * 8 + 4);
    EXPECT_EQ(batch.targets, 8 * 4);
  }
  EXPECT_NE(windows.thread, std::this_thread::get_id());
  EXPECT_EQ(windows.given, 50 * 4) << "nothing beyond the last step is loaded";
  EXPECT_THROW(prefetcher.next(), CheckFailure);
}

TEST(Prefetcher, StaysAheadByNoMoreThanItMay) {
  NumberedWindows windows;
  Loader loader(windows, {4, 2, 0, 1});
  const std::int64_t before = memory_now().total();
  {
    Prefetcher prefetcher(loader, 0, 1000, 3);
    for (std::int64_t step = 0; step < 5; ++step) {
      ASSERT_TRUE(soon([&] { return prefetcher.loaded() == 3; }));
      std::this_thread::sleep_for(milliseconds(5));  // time to go too far
      EXPECT_EQ(windows.given, (step + 3) * 4);
      EXPECT_EQ(memory_now().total() - before, 3 * 2 * 2 * 2 * 4 * 4);  // steps, batches, tensors, rows, tokens
      prefetcher.next();
    }
  }
  EXPECT_EQ(memory_now().total(), before);
}

/// A step that takes longer than loading finds its batches there.
TEST(Prefetcher, AStepDoesNotWait) {
  NumberedWindows windows;
  windows.pause = std::chrono::microseconds(500);
  Loader loader(windows, {8, 8, 0, 1});  // 4 ms and more a step
  Prefetcher prefetcher(loader, 0, 20);
  for (int step = 0; step < 20; ++step) {
    ASSERT_TRUE(soon([&] { return prefetcher.loaded() > 0; }));  // "the step": as long as loading takes here
    const double before = prefetcher.waited_seconds();
    prefetcher.next();
    EXPECT_LT(prefetcher.waited_seconds() - before, 0.002) << "step " << step;
  }
}

TEST(Prefetcher, AnErrorComesInItsStepWithItsMessage) {
  NumberedWindows windows;
  windows.broken = 9;
  Loader loader(windows, {4, 4, 0, 1});
  std::string expected;
  try {
    loader.load(8);
  } catch (const Error& e) {
    expected = e.what();
  }
  EXPECT_EQ(expected, "numbers.h5: token 9 is 7, but vocab_size is 5");
  Prefetcher prefetcher(loader, 0, 10);
  EXPECT_EQ(first_token(prefetcher.next()), 0);
  EXPECT_EQ(first_token(prefetcher.next()), 4);
  for (int again = 0; again < 2; ++again) {
    try {
      prefetcher.next();
      FAIL() << "step 3 has a bad token";
    } catch (const Error& e) {
      EXPECT_EQ(e.what(), expected);
    }
  }
}

TEST(Prefetcher, EndsAtOnceWhenItIsNoLongerWanted) {
  NumberedWindows windows;
  Loader loader(windows, {4, 2, 0, 1});
  for (int i = 0; i < 50; ++i) {
    Prefetcher prefetcher(loader, 0, 1000);
    if (i % 2 == 0) prefetcher.next();
  }
  Prefetcher none(loader, 0, 0);
  EXPECT_THROW(none.next(), CheckFailure);
}

}  // namespace
}  // namespace hysparse
