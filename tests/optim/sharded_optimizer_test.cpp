// The sharded optimizer on every mesh of np ranks against AdamW written out for one rank, under mpirun.
#include "optim/sharded_optimizer.h"

#include <map>

#include "tests/optim/sharded_case.h"
#include "tests/parallel/meshes.h"

namespace hysparse {
namespace {

using testing::meshes_of;
using testing::runtime;
using namespace sharded_case;

TEST(ShardedOptimizer, EqualsOneRankOnEveryMeshInFloat64) {
  constexpr double tolerance = 1e-12;  // sums of 24 terms and four steps of AdamW, values of order one
  for (const Mesh& mesh : meshes_of(runtime().world())) {
    Rank run(mesh, DType::f64, 2);
    for (int step = 1; step <= steps; ++step) {
      const double norm = run.step(step);
      const double expected = reference().norms[static_cast<std::size_t>(step - 1)];
      EXPECT_GT(expected, max_norm);  // clipping is part of the comparison
      EXPECT_NEAR(norm, expected, tolerance * expected) << mesh.str();
      run.expect_values(step, tolerance);
    }
    if (::testing::Test::HasFailure()) return;
  }
}

TEST(ShardedOptimizer, FollowsOneRankInFloat32) {
  constexpr double tolerance = 2e-5;  // single precision through four steps of 1e-2 each
  for (const Mesh& mesh : meshes_of(runtime().world())) {
    Rank run(mesh, DType::f32);
    for (int step = 1; step <= steps; ++step) {
      const double norm = run.step(step);
      EXPECT_NEAR(norm, reference().norms[static_cast<std::size_t>(step - 1)], 1e-6 * norm) << mesh.str();
      run.expect_values(step, tolerance);
    }
    if (::testing::Test::HasFailure()) return;
  }
}

TEST(ShardedOptimizer, IsBitwiseReproducibleWhateverTheThreads) {
  for (const Mesh& mesh : meshes_of(runtime().world())) {
    Rank a(mesh, DType::f32, 1), b(mesh, DType::f32, 3);
    for (int step = 1; step <= 2; ++step) ASSERT_EQ(a.step(step), b.step(step)) << mesh.str();
    ASSERT_TRUE(same_values(a, b)) << mesh.str();
  }
}

TEST(ShardedOptimizer, OwnedStateCoversEveryElementOnceAndHoldsIt) {
  for (const Mesh& mesh : meshes_of(runtime().world())) {
    Rank run(mesh, DType::f64);
    for (int step = 1; step <= steps; ++step) run.step(step);
    std::map<std::string, std::vector<std::int32_t>> counts;
    for (const FlatParameter& p : parameters(mesh))
      counts[p.name].resize(static_cast<std::size_t>(p.global_shape.numel()));
    for (const StatePiece& piece : run.optimizer.state()) {
      ASSERT_EQ(piece.value.numel(), piece.box.shape.numel());
      const Reference::State& expected = reference().states.at(piece.name);
      for_each_element(piece.global_shape, piece.global_box, [&](std::int64_t local, std::int64_t global) {
        const auto g = static_cast<std::size_t>(global);
        counts[piece.name][g] += piece.owner;
        ASSERT_NEAR(piece.value.data<double>()[local], expected.value[g], 1e-12);
        ASSERT_NEAR(piece.exp_avg.data<double>()[local], expected.exp_avg[g], 1e-12);
        ASSERT_NEAR(piece.exp_avg_sq.data<double>()[local], expected.exp_avg_sq[g], 1e-12);
      });
    }
    for (const auto& [name, count] : counts) {
      const Tensor total = Tensor::from(count, {static_cast<std::int64_t>(count.size())});
      run.groups.world->all_reduce(total);
      for (const std::int32_t c : total.to_vector<std::int32_t>()) ASSERT_EQ(c, 1) << mesh.str() << " " << name;
    }
    EXPECT_EQ(run.optimizer.steps(), steps);
  }
}

TEST(ShardedOptimizer, GoesOnFromLoadedState) {
  for (const Mesh& mesh : meshes_of(runtime().world())) {
    Rank whole(mesh, DType::f32), resumed(mesh, DType::f32);
    for (int step = 1; step <= 2; ++step) whole.step(step);
    const std::vector<StatePiece> from = whole.optimizer.state(), to = resumed.optimizer.state();
    ASSERT_EQ(from.size(), to.size());
    for (std::size_t i = 0; i < from.size(); ++i) {
      to[i].value.copy_from(from[i].value);
      to[i].exp_avg.copy_from(from[i].exp_avg);
      to[i].exp_avg_sq.copy_from(from[i].exp_avg_sq);
    }
    resumed.optimizer.set_steps(whole.optimizer.steps());
    resumed.optimizer.gather_parameters();
    ASSERT_TRUE(same_values(whole, resumed)) << mesh.str();
    for (int step = 3; step <= steps; ++step) ASSERT_EQ(whole.step(step), resumed.step(step));
    ASSERT_TRUE(same_values(whole, resumed)) << mesh.str();
  }
}

TEST(ShardedOptimizer, ValuesInBf16AreTheMasterRounded) {
  for (const Mesh& mesh : meshes_of(runtime().world())) {
    Rank exact(mesh, DType::f32), run(mesh, DType::bf16);
    // The state starts from f32 values that bf16 does not have.
    for (const StatePiece& piece : run.optimizer.state()) {
      for_each_element(piece.global_shape, piece.global_box, [&](std::int64_t local, std::int64_t global) {
        testing::set_element(piece.value, local, initial_value(piece.name, global));
      });
    }
    run.optimizer.gather_parameters();
    for (int step = 1; step <= steps; ++step) {
      const double norm = exact.step(step);
      ASSERT_NEAR(run.step(step), norm, 1e-14 * norm) << mesh.str();  // shards are cut elsewhere
      for (std::size_t b = 0; b < run.buffers.size(); ++b) {
        for (std::size_t e = 0; e < run.buffers[b]->entries().size(); ++e) {
          const Parameter master = exact.buffers[b]->parameter(e), value = run.buffers[b]->parameter(e);
          ASSERT_TRUE(same_bits(master.value.to(DType::bf16), value.value)) << mesh.str() << " " << value.name;
        }
      }
    }
    run.optimizer.take_values();
    for (const StatePiece& piece : run.optimizer.state())
      ASSERT_TRUE(same_bits(piece.value, piece.value.to(DType::bf16).to(DType::f32)));
  }
}

TEST(ShardedOptimizer, OneRankMakesNoCopies) {
  const Mesh mesh({}, runtime().world());
  if (mesh.size(Axis::dp) != 1) return;  // its shard is then not the whole
  Rank run(mesh, DType::f32);
  const std::int64_t before = memory_use().live_bytes;
  reset_memory_peak();
  run.optimizer.step(1e-3, 1.0);
  EXPECT_LT(memory_use().peak_bytes - before, 1000);  // the norm alone
  EXPECT_EQ(run.optimizer.state()[0].value.raw(), run.buffers[0]->values().raw());
}

}  // namespace
}  // namespace hysparse
