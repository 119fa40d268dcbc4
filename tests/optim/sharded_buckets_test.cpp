// The sharded optimizer over many buffers: overlap, tied parameters, what is communicated; under mpirun.
#include "core/error.h"
#include "tests/optim/sharded_case.h"
#include "tests/parallel/meshes.h"

namespace hysparse {
namespace {

using testing::meshes_of;
using testing::runtime;
using namespace sharded_case;

/// A step as the trainer makes it: sums start from the last buffer on while backward runs, values are gathered
/// while the next forward runs. Returns the norm.
double overlapped_step(Rank& run, int number) {
  run.fill_gradients(number);
  for (std::size_t i = run.buffers.size(); i-- > 0;) {
    if (i % 3 == 1) continue;  // some are left to reduce_gradients
    run.optimizer.start_reduce(i);
    run.optimizer.start_reduce(i);  // again: nothing
    run.optimizer.progress();
  }
  run.optimizer.reduce_gradients();
  const double norm = run.optimizer.global_norm();
  run.optimizer.apply(rate(number), clip_scale(norm, max_norm));
  run.optimizer.start_gather();
  run.optimizer.progress();
  run.optimizer.wait_gathered(2);
  run.optimizer.wait_gathered(2);
  run.optimizer.wait_gathered(0);
  return norm;
}

TEST(ShardedBuckets, OverlapChangesNoBit) {
  for (const Mesh& mesh : meshes_of(runtime().world())) {
    Rank a(mesh, DType::f32, 1, Buckets::by_parameter), b(mesh, DType::f32, 1, Buckets::by_parameter);
    for (int step = 1; step <= steps; ++step) {
      ASSERT_EQ(a.step(step), overlapped_step(b, step)) << mesh.str();
    }
    b.optimizer.wait_gathered();
    ASSERT_TRUE(same_values(a, b)) << mesh.str();
  }
}

TEST(ShardedBuckets, EqualOneRankOnEveryMeshInFloat64) {
  constexpr double tolerance = 1e-12;  // sums of 24 terms and four steps of AdamW, values of order one
  for (const Mesh& mesh : meshes_of(runtime().world())) {
    Rank run(mesh, DType::f64, 2, Buckets::by_parameter);
    for (int step = 1; step <= steps; ++step) {
      const double expected = reference().norms[static_cast<std::size_t>(step - 1)];
      EXPECT_NEAR(overlapped_step(run, step), expected, tolerance * expected) << mesh.str();
      run.optimizer.wait_gathered();
      run.expect_values(step, tolerance);
    }
    if (::testing::Test::HasFailure()) return;
  }
}

TEST(ShardedBuckets, CutsChangeNoBitOfAnUnclippedStep) {
  for (const Mesh& mesh : meshes_of(runtime().world())) {
    Rank a(mesh, DType::f32), b(mesh, DType::f32, 1, Buckets::by_parameter);
    for (Rank* run : {&a, &b}) {
      for (int step = 1; step <= 2; ++step) {
        run->fill_gradients(step);
        run->optimizer.step(rate(step), 0.0);
      }
    }
    std::map<std::string, Tensor> values;
    a.for_each_parameter(
        [&](const FlatBuffer::Entry& e, const Parameter& p) { values[e.declared.name] = p.value; });
    b.for_each_parameter([&](const FlatBuffer::Entry& e, const Parameter& p) {
      ASSERT_TRUE(same_bits(values.at(e.declared.name), p.value)) << mesh.str() << " " << e.declared.name;
    });
  }
}

TEST(ShardedBuckets, CopiesOfTiedParametersStayBitwiseEqual) {
  for (const Mesh& mesh : meshes_of(runtime().world())) {
    for (const Buckets buckets : {Buckets::by_kind, Buckets::by_parameter}) {
      Rank run(mesh, DType::f32, 2, buckets);
      for (int step = 1; step <= steps; ++step) {
        run.step(step);
        const Tensor first = Tensor::zeros({24 / mesh.size(Axis::tp), 4}, DType::f32);
        Tensor own;
        run.for_each_parameter([&](const FlatBuffer::Entry& e, const Parameter& p) {
          if (e.declared.name == "tied") own = p.value;
        });
        if (run.groups.pp->rank() == 0) first.copy_from(own);
        run.groups.pp->broadcast(first, 0);
        const bool held = run.groups.pp->rank() == 0 || run.groups.pp->rank() == mesh.size(Axis::pp) - 1;
        ASSERT_EQ(own.defined(), held);
        ASSERT_TRUE(!held || same_bits(first, own)) << mesh.str() << " step " << step;
      }
    }
  }
}

TEST(ShardedBuckets, SumsOfATiedBufferWaitForReduceGradients) {
  for (const Mesh& mesh : meshes_of(runtime().world())) {
    Rank run(mesh, DType::f32);
    run.fill_gradients(1);
    for (std::size_t i = 0; i < 3; ++i) run.optimizer.start_reduce(i);
    const auto calls = [&] {
      const auto& traffic = run.groups.dp_cp->traffic();
      return traffic.contains("reduce_scatter") ? traffic.at("reduce_scatter").calls : 0;
    };
    const bool tied = mesh.size(Axis::pp) > 1 && run.buffers[1]->numel() > 0;
    EXPECT_EQ(calls(), tied ? 1 : 2);
    run.optimizer.reduce_gradients();
    EXPECT_EQ(calls(), 2);
    const bool ends = run.groups.pp->rank() == 0 || run.groups.pp->rank() == mesh.size(Axis::pp) - 1;
    EXPECT_EQ(run.groups.pp->traffic().contains("send"), ends && mesh.size(Axis::pp) > 1) << mesh.str();
  }
}

TEST(ShardedBuckets, PartialReplicasAreSummedOnShardsAlone) {
  for (const Mesh& mesh : meshes_of(runtime().world())) {
    Rank run(mesh, DType::f64);
    run.step(1);
    for (const Axis axis : {Axis::tp, Axis::ep, Axis::etp}) {
      // Each element once over the ranks that hold the shards of one copy; parameters in parts below the axis
      // size once for each part.
      std::int64_t expected = 0;
      for (const FlatParameter& p : parameters(mesh)) {
        const std::vector<Axis> axes = p.placement.partial_axes(mesh);
        if (std::find(axes.begin(), axes.end(), axis) == axes.end()) continue;
        for (const auto& [model_axis, on_axis] : p.placement.model_axes()) {
          if (model_axis != axis) continue;
          for (int rank = 0; rank < mesh.world(); ++rank) {
            if (!p.placement.is_held(mesh, rank) || mesh.coordinate(data_axis(p.placement.mesh), rank) != 0)
              continue;
            expected += p.placement.local_box(p.global_shape, mesh, rank).shape.numel() *
                        (on_axis.sharded ? on_axis.parts : 1) * dtype_size(DType::f64);
          }
        }
      }
      const auto& traffic = run.groups.axis(axis).traffic();
      const Tensor bytes = Tensor::from<std::int64_t>(
          {traffic.contains("all_reduce") ? traffic.at("all_reduce").bytes : 0}, {1});
      run.groups.world->all_reduce(bytes);
      EXPECT_EQ(bytes.data<std::int64_t>()[0], expected) << mesh.str() << " " << axis_name(axis);
    }
  }
}

TEST(ShardedBuckets, RefusesTiedParametersBesideOthers) {
  const Mesh mesh({.pp = runtime().world()}, runtime().world());
  if (mesh.size(Axis::pp) == 1) return;  // nothing is tied then
  const ProcessGroups groups(runtime(), mesh);
  ThreadPool pool(1);
  const FlatBuffer mixed(MeshKind::dense, parameters(mesh), mesh, runtime().rank(), DType::f32);
  const auto make = [&] {
    const ShardedOptimizer optimizer({Device{}, &pool, nullptr}, config, groups, {&mixed});
  };
  if (mixed.entries().size() > 1) {
    EXPECT_THROW(make(), CheckFailure);
  }
}

TEST(ShardedBuckets, OneRankStartsNothingAndMakesNoCopies) {
  const Mesh mesh({}, runtime().world());
  if (mesh.size(Axis::dp) != 1) return;  // there is something to send then
  Rank run(mesh, DType::f32);
  run.fill_gradients(1);
  const std::int64_t before = memory_use().live_bytes;
  reset_memory_peak();
  overlapped_step(run, 1);
  EXPECT_LT(memory_use().peak_bytes - before, 1000);  // the norm alone
}

}  // namespace
}  // namespace hysparse
