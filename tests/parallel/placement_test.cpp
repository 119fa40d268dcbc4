#include "parallel/placement.h"

#include <map>

#include <gtest/gtest.h>

#include "tests/parallel/meshes.h"

namespace hysparse {
namespace {

using testing::all_meshes;

/// Flat indices in `shape` of the elements of a box, in the box's row-major order.
std::vector<std::int64_t> indices_of(const Shape& shape, const Box& box) {
  std::vector<std::int64_t> result;
  for (std::int64_t i = 0; i < box.shape.numel(); ++i) {
    std::int64_t rest = i, index = 0, stride = 1;
    for (int d = shape.rank() - 1; d >= 0; --d) {
      index += (box.offset[d] + rest % box.shape[d]) * stride;
      rest /= box.shape[d];
      stride *= shape[d];
    }
    result.push_back(index);
  }
  return result;
}

TEST(BoxesOfRange, EveryRangeOfEverySmallShapeIsCoveredInOrder) {
  for (const Shape& shape : {Shape{}, Shape{1}, Shape{7}, Shape{3, 4}, Shape{1, 5}, Shape{5, 1}, Shape{2, 3, 4},
                             Shape{3, 1, 2}, Shape{2, 2, 3, 2}, Shape{1, 1, 1, 3}, Shape{2, 1, 3, 1}}) {
    for (std::int64_t begin = 0; begin <= shape.numel(); ++begin) {
      for (std::int64_t end = begin; end <= shape.numel(); ++end) {
        const std::vector<Box> boxes = boxes_of_range(shape, begin, end);
        ASSERT_LE(static_cast<int>(boxes.size()), std::max(1, 2 * shape.rank() - 1));
        std::int64_t next = begin;
        for (const Box& box : boxes) {
          ASSERT_GT(box.shape.numel(), 0);
          for (const std::int64_t index : indices_of(shape, box)) ASSERT_EQ(index, next++) << shape.str();
        }
        ASSERT_EQ(next, end) << shape.str() << " " << begin;
      }
    }
  }
}

TEST(BoxesOfRange, WholeRowsAreOneBox) {
  EXPECT_EQ(boxes_of_range({4, 6}, 0, 24), (std::vector<Box>{{{0, 0}, {4, 6}}}));
  EXPECT_EQ(boxes_of_range({4, 6}, 6, 18), (std::vector<Box>{{{1, 0}, {2, 6}}}));
  EXPECT_EQ(boxes_of_range({4, 6}, 4, 20),
            (std::vector<Box>{{{0, 4}, {1, 2}}, {{1, 0}, {2, 6}}, {{3, 0}, {1, 2}}}));
  EXPECT_TRUE(boxes_of_range({0, 6}, 0, 0).empty());
  EXPECT_THROW(boxes_of_range({4, 6}, 0, 25), CheckFailure);
}

TEST(Intersect, CommonPartOrNone) {
  Box common;
  EXPECT_TRUE(intersect({{0, 2}, {4, 4}}, {{3, 0}, {5, 3}}, &common));
  EXPECT_EQ(common, (Box{{3, 2}, {1, 1}}));
  EXPECT_FALSE(intersect({{0, 0}, {4, 4}}, {{4, 0}, {1, 4}}, &common));
  EXPECT_FALSE(intersect({{0, 0}, {4, 0}}, {{0, 0}, {4, 4}}, &common));
}

std::vector<AxisPlacement> placements_on(int axis_size, int dim) {
  std::vector<AxisPlacement> result{AxisPlacement::replicate(), AxisPlacement::replicate(Partial::partial)};
  for (int parts = 1; parts <= axis_size; ++parts) {
    if (axis_size % parts == 0) result.push_back(AxisPlacement::shard(dim, parts));
  }
  return result;
}

/// Every placement on a mesh: dense ones split on either dim, expert ones on the same or on different dims.
std::vector<Placement> placements_of(const Mesh& mesh) {
  std::vector<Placement> result;
  const int stage = mesh.size(Axis::pp) - 1;
  for (const int dim : {0, 1}) {
    for (const AxisPlacement& tp : placements_on(mesh.size(Axis::tp), dim)) {
      result.push_back({.mesh = MeshKind::dense, .tp = tp, .stage = stage});
    }
    for (const AxisPlacement& ep : placements_on(mesh.size(Axis::ep), 0)) {
      for (const AxisPlacement& etp : placements_on(mesh.size(Axis::etp), dim)) {
        result.push_back({.mesh = MeshKind::expert, .ep = ep, .etp = etp, .stage = stage});
      }
    }
  }
  return result;
}

TEST(Placement, OwnersTileTheParameterOncePerDataCoordinate) {
  const Shape global{24, 24};  // every axis of the worlds divides 24
  for (const Mesh& mesh : all_meshes()) {
    for (const Placement& p : placements_of(mesh)) {
      const Axis data = data_axis(p.mesh);
      std::map<int, std::vector<int>> counts;  // by data coordinate: how often each element is owned
      for (int rank = 0; rank < mesh.world(); ++rank) {
        if (!p.is_held(mesh, rank)) {
          ASSERT_FALSE(p.is_owner(mesh, rank));
          ASSERT_THROW(p.local_box(global, mesh, rank), CheckFailure);
          continue;
        }
        if (!p.is_owner(mesh, rank)) continue;
        std::vector<int>& count = counts[mesh.coordinate(data, rank)];
        count.resize(static_cast<std::size_t>(global.numel()));
        const Box box = p.local_box(global, mesh, rank);
        for (const std::int64_t i : indices_of(global, box)) ++count[static_cast<std::size_t>(i)];
      }
      ASSERT_EQ(static_cast<int>(counts.size()), mesh.size(data)) << mesh.str();
      for (const auto& [coordinate, count] : counts) {
        for (const int c : count) ASSERT_EQ(c, 1) << mesh.str();
      }
    }
  }
}

TEST(Placement, RanksOfADataGroupHoldTheSamePart) {
  const Shape global{24, 24};  // every axis of the worlds divides 24
  for (const Mesh& mesh : all_meshes()) {
    for (const Placement& p : placements_of(mesh)) {
      for (int rank = 0; rank < mesh.world(); ++rank) {
        if (!p.is_held(mesh, rank)) continue;
        for (const int other : mesh.group(data_axis(p.mesh), rank)) {
          ASSERT_EQ(p.local_box(global, mesh, rank), p.local_box(global, mesh, other)) << mesh.str();
          ASSERT_EQ(p.is_owner(mesh, rank), p.is_owner(mesh, other)) << mesh.str();
        }
      }
    }
  }
}

TEST(Placement, NonOwnersHoldACopyOfAnOwnersPart) {
  const Shape global{24, 24};  // every axis of the worlds divides 24
  for (const Mesh& mesh : all_meshes()) {
    for (const Placement& p : placements_of(mesh)) {
      for (int rank = 0; rank < mesh.world(); ++rank) {
        if (!p.is_held(mesh, rank)) continue;
        int owners = 0;
        for (int other = 0; other < mesh.world(); ++other) {
          const bool same_data =
              mesh.coordinate(data_axis(p.mesh), rank) == mesh.coordinate(data_axis(p.mesh), other);
          if (!same_data || !p.is_owner(mesh, other)) continue;
          owners += p.local_box(global, mesh, rank) == p.local_box(global, mesh, other);
        }
        ASSERT_EQ(owners, 1) << mesh.str();
      }
    }
  }
}

TEST(Placement, TwoStagesHoldTheSamePartsAndTheFirstOwnsThem) {
  const Shape global{24, 24};  // every axis of the worlds divides 24
  for (const Mesh& mesh : all_meshes()) {
    const int stages = mesh.size(Axis::pp), stage_ranks = mesh.size(Axis::stage);
    const int other = stages - 1;
    const Placement one{.tp = AxisPlacement::shard(0, mesh.size(Axis::tp))};
    Placement both = one;
    both.second_stage = other;
    ASSERT_EQ(both.is_tied(), stages > 1);
    for (int rank = 0; rank < mesh.world(); ++rank) {
      const int stage = mesh.coordinate(Axis::pp, rank);
      ASSERT_EQ(both.is_held(mesh, rank), stage == 0 || stage == other) << mesh.str();
      ASSERT_EQ(both.is_owner(mesh, rank), one.is_owner(mesh, rank)) << mesh.str();
      if (!both.is_held(mesh, rank)) continue;
      ASSERT_EQ(both.local_box(global, mesh, rank), one.local_box(global, mesh, rank % stage_ranks));
    }
  }
  EXPECT_FALSE(Placement{}.is_tied());
}

TEST(Placement, CopiesOfKeyAndValueHeadsLieOnConsecutiveRanks) {
  const Mesh mesh({.tp = 4}, 8);
  const Placement p{.tp = AxisPlacement::shard(0, 2)};
  for (const int rank : {0, 1, 4, 5}) EXPECT_EQ(p.local_box({8, 3}, mesh, rank), (Box{{0, 0}, {4, 3}}));
  for (const int rank : {2, 3, 6, 7}) EXPECT_EQ(p.local_box({8, 3}, mesh, rank), (Box{{4, 0}, {4, 3}}));
  EXPECT_TRUE(p.is_owner(mesh, 2));
  EXPECT_FALSE(p.is_owner(mesh, 3));
  EXPECT_EQ(p.partial_axes(mesh), std::vector<Axis>{Axis::tp});
}

TEST(Placement, PartialAxes) {
  const Mesh mesh({.tp = 2, .ep = 2, .etp = 2}, 4);
  const auto dense = [&](AxisPlacement tp) { return Placement{.tp = tp}.partial_axes(mesh); };
  EXPECT_TRUE(dense(AxisPlacement::replicate()).empty());
  EXPECT_TRUE(dense(AxisPlacement::shard(0, 2)).empty());
  EXPECT_EQ(dense(AxisPlacement::replicate(Partial::partial)), std::vector<Axis>{Axis::tp});
  EXPECT_EQ(dense(AxisPlacement::shard(0, 1)), std::vector<Axis>{Axis::tp});
  EXPECT_TRUE(Placement{.tp = AxisPlacement::replicate(Partial::partial)}.partial_axes(Mesh({}, 4)).empty());
  const Placement expert{.mesh = MeshKind::expert,
                         .tp = AxisPlacement::replicate(Partial::partial),
                         .ep = AxisPlacement::shard(0, 2),
                         .etp = AxisPlacement::replicate(Partial::partial)};
  EXPECT_EQ(expert.partial_axes(mesh), std::vector<Axis>{Axis::etp});
}

TEST(Placement, RefusesWhatDoesNotDivide) {
  const Mesh mesh({.tp = 4}, 4);
  EXPECT_THROW(Placement{.tp = AxisPlacement::shard(0, 4)}.local_box({6, 2}, mesh, 0), CheckFailure);
  EXPECT_THROW(Placement{.tp = AxisPlacement::shard(0, 3)}.local_box({6, 2}, mesh, 0), CheckFailure);
  EXPECT_THROW(Placement{.tp = AxisPlacement::shard(0, 0)}.local_box({6, 2}, mesh, 0), CheckFailure);
}

}  // namespace
}  // namespace hysparse
