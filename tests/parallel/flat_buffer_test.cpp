#include "parallel/flat_buffer.h"

#include <gtest/gtest.h>

#include "core/error.h"

namespace hysparse {
namespace {

std::vector<FlatParameter> parameters(int tp = 1, int ep = 1) {
  const auto dense = [&](int stage) { return Placement{.tp = AxisPlacement::shard(0, tp), .stage = stage}; };
  const Placement experts{.mesh = MeshKind::expert, .ep = AxisPlacement::shard(0, ep)};
  return {{"embedding", {10, 7}, dense(0), false},
          {"experts", {4, 3, 5}, experts},
          {"norm", {9}, {}, false},
          {"later", {6, 6}, dense(1)},
          {"scalar", {}, {}},
          {"matrix", {16, 16}, dense(0)}};
}

TEST(FlatBuffer, HoldsThisKindAndStageInOrder) {
  const Mesh mesh({.tp = 2, .pp = 2, .ep = 2}, 8);
  const FlatBuffer buffer(MeshKind::dense, parameters(2, 2), mesh, 1, DType::f32);
  std::vector<std::string> names;
  for (const FlatBuffer::Entry& e : buffer.entries()) names.push_back(e.declared.name);
  EXPECT_EQ(names, (std::vector<std::string>{"embedding", "norm", "scalar", "matrix"}));
  EXPECT_EQ(buffer.entries()[0].box, (Box{{5, 0}, {5, 7}}));
  EXPECT_EQ(FlatBuffer(MeshKind::expert, parameters(2, 2), mesh, 1, DType::f32).entries().size(), 1u);
  EXPECT_EQ(FlatBuffer(MeshKind::dense, parameters(2, 2), mesh, 4, DType::f32).entries()[0].declared.name,
            "later");
  EXPECT_EQ(FlatBuffer(MeshKind::expert, parameters(2, 2), mesh, 4, DType::f32).numel(), 0);
}

TEST(FlatBuffer, OfTiedParametersIsTheSameOnBothStages) {
  const Mesh mesh({.tp = 2, .pp = 3}, 12);
  const std::vector<FlatParameter> tied{
      {"embedding", {10, 7}, {.tp = AxisPlacement::shard(0, 2), .second_stage = 2}, false}};
  for (int rank = 0; rank < 4; ++rank) {
    const FlatBuffer first(MeshKind::dense, tied, mesh, rank, DType::f32);
    const FlatBuffer middle(MeshKind::dense, tied, mesh, rank + 4, DType::f32);
    const FlatBuffer last(MeshKind::dense, tied, mesh, rank + 8, DType::f32);
    EXPECT_EQ(middle.numel(), 0);
    EXPECT_EQ(first.numel(), last.numel());
    EXPECT_EQ(first.shard_begin(), last.shard_begin());
    EXPECT_EQ(first.entries().at(0).box, last.entries().at(0).box);
  }
}

TEST(FlatBuffer, WithoutGradientsHoldsValuesAlone) {
  const std::int64_t before = memory_use().live_bytes;
  const FlatBuffer buffer(MeshKind::dense, parameters(), Mesh({}, 1), 0, DType::f32, false);
  EXPECT_EQ(memory_use().live_bytes - before, buffer.values().bytes());
  EXPECT_FALSE(buffer.parameter("matrix").grad.defined());
  EXPECT_TRUE(buffer.parameter("matrix").value.defined());
}

TEST(FlatBuffer, ParametersAndShardsAreAlignedAndPlacesDoNotDependOnShards) {
  for (const DType dtype : {DType::f32, DType::f64, DType::bf16}) {
    const FlatBuffer one(MeshKind::dense, parameters(), Mesh({}, 1), 0, dtype);
    for (const int world : {1, 2, 3, 5}) {
      for (int rank = 0; rank < world; ++rank) {
        const FlatBuffer buffer(MeshKind::dense, parameters(), Mesh({}, world), rank, dtype);
        const std::int64_t unit = Storage::alignment / dtype_size(dtype);
        EXPECT_EQ(buffer.shard_numel() * world, buffer.numel());
        EXPECT_EQ(buffer.shard_begin() % unit, 0);
        for (std::size_t i = 0; i < buffer.entries().size(); ++i) {
          EXPECT_EQ(buffer.entries()[i].begin % unit, 0);
          EXPECT_EQ(buffer.entries()[i].begin, one.entries()[i].begin);
          const Parameter p = buffer.parameter(i);
          EXPECT_EQ(reinterpret_cast<std::uintptr_t>(p.value.raw()) % Storage::alignment, 0u);
          EXPECT_EQ(reinterpret_cast<std::uintptr_t>(p.grad.raw()) % Storage::alignment, 0u);
          EXPECT_EQ(p.value.dtype(), dtype);
          EXPECT_EQ(p.grad.dtype(), dtype == DType::f64 ? DType::f64 : DType::f32);
        }
      }
    }
  }
}

TEST(FlatBuffer, ParametersAreViewsThatDoNotOverlap) {
  const FlatBuffer buffer(MeshKind::dense, parameters(), Mesh({}, 1), 0, DType::f32);
  double sum = 0;
  for (std::size_t i = 0; i < buffer.entries().size(); ++i) {
    const Parameter p = buffer.parameter(i);
    EXPECT_EQ(p.value.shape(), buffer.entries()[i].box.shape);
    for (std::int64_t j = 0; j < p.value.numel(); ++j) p.value.data<float>()[j] += static_cast<float>(i + 1);
    sum += static_cast<double>((i + 1) * static_cast<std::size_t>(p.value.numel()));
  }
  double total = 0;
  for (const float v : buffer.values().to_vector<float>()) total += static_cast<double>(v);
  EXPECT_EQ(total, sum);
  EXPECT_EQ(buffer.parameter("norm").value.data<float>()[0], 2.0f);
  EXPECT_THROW(buffer.parameter("experts"), CheckFailure);
}

TEST(FlatBuffer, PiecesOfAnyRangeCoverItOnceWithoutPadding) {
  const FlatBuffer buffer(MeshKind::dense, parameters(), Mesh({}, 2), 0, DType::f64);
  for (std::int64_t begin = 0; begin <= buffer.numel(); begin += 3) {
    for (std::int64_t end = begin; end <= buffer.numel(); end += 5) {
      std::vector<int> covered(static_cast<std::size_t>(buffer.numel()));
      for (const FlatBuffer::Piece& p : buffer.pieces(begin, end)) {
        ASSERT_LT(p.begin, p.end);
        const std::int64_t first = buffer.entries()[p.entry].begin;
        for (std::int64_t i = p.begin; i < p.end; ++i) ++covered[static_cast<std::size_t>(first + i)];
      }
      std::vector<int> expected(covered.size());
      for (const FlatBuffer::Entry& e : buffer.entries()) {
        for (std::int64_t i = e.begin; i < e.begin + e.numel; ++i) {
          expected[static_cast<std::size_t>(i)] = i >= begin && i < end;
        }
      }
      ASSERT_EQ(covered, expected) << begin << " " << end;
    }
  }
}

TEST(FlatBuffer, ShardPiecesOfAllRanksCoverEveryParameterOnce) {
  for (const int world : {1, 2, 3, 4, 7}) {
    std::vector<std::int64_t> covered(4);
    for (int rank = 0; rank < world; ++rank) {
      const FlatBuffer buffer(MeshKind::dense, parameters(), Mesh({}, world), rank, DType::f32);
      for (const FlatBuffer::Piece& p : buffer.shard_pieces()) covered[p.entry] += p.end - p.begin;
    }
    const FlatBuffer buffer(MeshKind::dense, parameters(), Mesh({}, 1), 0, DType::f32);
    for (std::size_t i = 0; i < buffer.entries().size(); ++i)
      EXPECT_EQ(covered[i], buffer.entries()[i].numel) << world;
  }
}

}  // namespace
}  // namespace hysparse
