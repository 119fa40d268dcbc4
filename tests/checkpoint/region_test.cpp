#include "checkpoint/region.h"

#include <set>

#include <gtest/gtest.h>

#include "tests/checkpoint/support.h"

namespace hysparse {
namespace {

/// Flat global indices of a box's elements.
std::set<std::int64_t> elements(const Shape& shape, const Box& box) {
  std::set<std::int64_t> all;
  for_each_run(whole_box(shape), box, box, [&](const ElementRun& run) {
    for (std::int64_t i = 0; i < run.count; ++i) all.insert(run.source + i);
  });
  return all;
}

const std::vector<Shape> shapes = {{}, {7}, {4, 5}, {3, 4, 5}, {2, 3, 2, 4}};

TEST(Region, SubtractLeavesTheOtherElementsOnce) {
  std::mt19937 random(1);
  for (const Shape& shape : shapes) {
    for (int round = 0; round < 200; ++round) {
      const Box from = testing::random_box(shape, random), cut = testing::random_box(shape, random);
      std::set<std::int64_t> expected = elements(shape, from);
      for (const std::int64_t i : elements(shape, cut)) expected.erase(i);
      std::set<std::int64_t> found;
      std::int64_t count = 0;
      for (const Box& part : subtract(from, cut)) {
        count += part.shape.numel();
        found.merge(elements(shape, part));
      }
      EXPECT_EQ(found, expected);
      EXPECT_EQ(count, static_cast<std::int64_t>(expected.size()));
    }
  }
}

TEST(Region, IsEmptyWhenAllElementsAreRemoved) {
  std::mt19937 random(2);
  for (const Shape& shape : shapes) {
    for (int round = 0; round < 100; ++round) {
      Region region(whole_box(shape));
      std::set<std::int64_t> left = elements(shape, whole_box(shape));
      for (int i = 0; i < 6; ++i) {
        const Box box = testing::random_box(shape, random);
        std::set<std::int64_t> common;
        for (const Box& part : region.common(box)) {
          for (const std::int64_t e : elements(shape, part)) EXPECT_TRUE(common.insert(e).second);
        }
        for (const std::int64_t e : common) EXPECT_TRUE(left.contains(e));
        std::size_t expected = 0;
        for (const std::int64_t e : elements(shape, box)) expected += left.count(e);
        EXPECT_EQ(common.size(), expected);
        for (const std::int64_t e : elements(shape, box)) left.erase(e);
        region.remove(box);
        EXPECT_EQ(region.empty(), left.empty());
      }
    }
  }
}

TEST(Region, RunsMapCommonElementsOfTwoBoxes) {
  std::mt19937 random(3);
  for (const Shape& shape : shapes) {
    for (int round = 0; round < 200; ++round) {
      const Box source = testing::random_box(shape, random), target = testing::random_box(shape, random);
      Box common;
      if (source.shape.numel() == 0 || target.shape.numel() == 0 || !intersect(source, target, &common))
        continue;
      // Global indices of the elements of each box, in its own order.
      const auto order = [&](const Box& box) {
        std::vector<std::int64_t> indices(static_cast<std::size_t>(box.shape.numel()));
        for_each_run(whole_box(shape), box, box, [&](const ElementRun& run) {
          for (std::int64_t i = 0; i < run.count; ++i) {
            indices[static_cast<std::size_t>(run.target + i)] = run.source + i;
          }
        });
        return indices;
      };
      const std::vector<std::int64_t> from = order(source), to = order(target);
      std::set<std::int64_t> copied;
      for_each_run(source, target, common, [&](const ElementRun& run) {
        for (std::int64_t i = 0; i < run.count; ++i) {
          EXPECT_EQ(from[static_cast<std::size_t>(run.source + i)],
                    to[static_cast<std::size_t>(run.target + i)]);
          EXPECT_TRUE(copied.insert(from[static_cast<std::size_t>(run.source + i)]).second);
        }
      });
      EXPECT_EQ(copied, elements(shape, common));
    }
  }
}

TEST(Region, RunsAreAsLongAsTheyCanBe) {
  int runs = 0;
  const Box box = whole_box({6, 4, 5});
  const Box rows{{2, 0, 0}, {3, 4, 5}};
  for_each_run(box, rows, rows, [&](const ElementRun& run) {
    ++runs;
    EXPECT_EQ(run.source, 40);
    EXPECT_EQ(run.target, 0);
    EXPECT_EQ(run.count, 60);
  });
  EXPECT_EQ(runs, 1);
}

}  // namespace
}  // namespace hysparse
