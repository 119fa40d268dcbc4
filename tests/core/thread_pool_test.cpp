#include "core/thread_pool.h"

#include <cstdlib>
#include <numeric>
#include <stdexcept>

#include <gtest/gtest.h>

#include "core/error.h"

namespace hysparse {
namespace {

TEST(ThreadPool, EveryItemRunsOnceInRangesOfTheGrain) {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    for (const std::int64_t count : {0, 1, 2, 7, 64, 1000}) {
      for (const std::int64_t grain : {0, 1, 10, 5000}) {
        std::vector<int> hits(static_cast<std::size_t>(count), 0);
        std::atomic<int> ranges{0};
        pool.parallel_for(count, grain, [&](std::int64_t begin, std::int64_t end) {
          EXPECT_LT(begin, end);
          ++ranges;
          for (std::int64_t i = begin; i < end; ++i) ++hits[static_cast<std::size_t>(i)];
        });
        EXPECT_EQ(std::accumulate(hits.begin(), hits.end(), 0), count);
        EXPECT_LE(ranges, threads);
        if (grain == 5000) {
          EXPECT_LE(ranges, 1);
        }
      }
    }
  }
}

TEST(ThreadPool, TasksRunOnce) {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    for (const std::int64_t count : {0, 1, 3, 100}) {
      std::vector<int> hits(static_cast<std::size_t>(count), 0);
      pool.parallel_tasks(count, [&](std::int64_t task) { ++hits[static_cast<std::size_t>(task)]; });
      for (const int h : hits) EXPECT_EQ(h, 1);
    }
  }
}

TEST(ThreadPool, ManySmallJobsInARow) {
  ThreadPool pool(3);
  std::atomic<std::int64_t> sum{0};
  const int jobs = 5000;
  for (int job = 0; job < jobs; ++job) {
    pool.parallel_for(3, 1, [&](std::int64_t begin, std::int64_t end) { sum += end - begin; });
    pool.parallel_tasks(2, [&](std::int64_t task) { sum += task; });
  }
  EXPECT_EQ(sum, jobs * 4);
}

TEST(ThreadPool, AnExceptionOfAnyPartIsRethrownAndThePoolLives) {
  ThreadPool pool(4);
  for (std::int64_t bad = 0; bad < 4; ++bad) {
    const auto body = [&](std::int64_t begin, std::int64_t) {
      if (begin == bad) throw std::runtime_error("part");
    };
    EXPECT_THROW(pool.parallel_for(4, 1, body), std::runtime_error);
    EXPECT_THROW(pool.parallel_tasks(4, [&](std::int64_t task) { body(task, task); }), std::runtime_error);
    std::atomic<int> ran{0};
    pool.parallel_for(4, 1, [&](std::int64_t, std::int64_t) { ++ran; });
    EXPECT_EQ(ran, 4);
  }
}

TEST(ThreadPool, AllPartsThrowAndTheNextJobIsClean) {
  ThreadPool pool(4);
  EXPECT_THROW(pool.parallel_for(4, 1, [](std::int64_t, std::int64_t) { throw std::runtime_error("each"); }),
               std::runtime_error);
  EXPECT_NO_THROW(pool.parallel_for(4, 1, [](std::int64_t, std::int64_t) {}));
}

TEST(ThreadPool, PoolsComeAndGo) {
  for (int i = 0; i < 50; ++i) {
    ThreadPool pool(3);
    if (i % 2 == 0) pool.parallel_for(3, 1, [](std::int64_t, std::int64_t) {});
  }
}

TEST(DefaultThreadCount, ReadsTheVariableOrTheCores) {
  ::setenv("HYSPARSE_NUM_THREADS", "3", 1);
  EXPECT_EQ(default_thread_count(2), 3);
  for (const char* wrong : {"0", "-1", "two", "3x", ""}) {
    ::setenv("HYSPARSE_NUM_THREADS", wrong, 1);
    EXPECT_THROW(default_thread_count(1), Error) << wrong;
  }
  ::unsetenv("HYSPARSE_NUM_THREADS");
  EXPECT_GE(default_thread_count(1), 1);
  EXPECT_EQ(default_thread_count(1'000'000), 1);
}

}  // namespace
}  // namespace hysparse
