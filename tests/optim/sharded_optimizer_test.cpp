// The sharded optimizer on every mesh of np ranks against AdamW written out for one rank, under mpirun.
#include "optim/sharded_optimizer.h"

#include <cmath>
#include <cstring>
#include <map>

#include "core/random.h"
#include "core/thread_pool.h"
#include "tests/parallel/meshes.h"
#include "tests/parallel/mpi_test.h"

namespace hysparse {
namespace {

using testing::meshes_of;
using testing::runtime;

constexpr int steps = 4;
constexpr int terms = 24;  // of each gradient's sum, dealt out to the ranks that hold a part of it
constexpr double max_norm = 20.0;
const AdamWConfig config{.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1};

double rate(int step) {
  return 1e-2 / step;
}

/// Every kind of placement: split, split in fewer parts than ranks, replicated with equal and partial
/// gradients, experts split on one or two dims, a later stage.
std::vector<FlatParameter> parameters(const Mesh& mesh) {
  const int tp = mesh.size(Axis::tp), ep = mesh.size(Axis::ep), etp = mesh.size(Axis::etp),
            pp = mesh.size(Axis::pp);
  const auto dense = [](AxisPlacement placement, int stage = 0) {
    return Placement{.tp = placement, .stage = stage};
  };
  const auto expert = [&](AxisPlacement placement, int stage = 0) {
    return Placement{
        .mesh = MeshKind::expert, .ep = AxisPlacement::shard(0, ep), .etp = placement, .stage = stage};
  };
  return {
      {"embedding", {24, 5}, dense(AxisPlacement::shard(0, tp)), false},
      {"output", {7, 12}, dense(AxisPlacement::shard(1, tp))},
      {"keys", {12, 3}, dense(AxisPlacement::shard(0, tp % 2 == 0 ? tp / 2 : 1))},
      {"norm", {11}, dense(AxisPlacement::replicate()), false},
      {"query_norm", {13}, dense(AxisPlacement::replicate(Partial::partial)), false},
      {"last_stage", {6, 6}, dense(AxisPlacement::replicate(), pp - 1)},
      {"experts_up", {12, 12, 3}, expert(AxisPlacement::shard(1, etp))},
      {"experts_norm", {12, 5}, expert(AxisPlacement::replicate(Partial::partial), pp - 1), false},
  };
}

double term_of(const std::string& name, int step, int term, std::int64_t element) {
  return CounterRandom(7, fmt::format("{}.{}.{}", name, step, term))
      .normal(static_cast<std::uint64_t>(element));
}

double initial_value(const std::string& name, std::int64_t element) {
  return CounterRandom(1, name).normal(static_cast<std::uint64_t>(element));
}

/// AdamW over whole parameters, element by element, from the sums of all terms.
struct Reference {
  struct State {
    std::vector<double> value, exp_avg, exp_avg_sq;
  };
  std::map<std::string, State> states;
  std::vector<double> norms;
  std::vector<std::map<std::string, std::vector<double>>> values;  // after each step

  Reference() {
    const std::vector<FlatParameter> declared = parameters(Mesh({}, 1));
    for (const FlatParameter& p : declared) {
      const auto n = static_cast<std::size_t>(p.global_shape.numel());
      State& s = states[p.name];
      s.exp_avg.resize(n);
      s.exp_avg_sq.resize(n);
      for (std::size_t i = 0; i < n; ++i)
        s.value.push_back(initial_value(p.name, static_cast<std::int64_t>(i)));
    }
    for (int step = 1; step <= steps; ++step) {
      std::map<std::string, std::vector<double>> grads;
      double squares = 0;
      for (const FlatParameter& p : declared) {
        for (std::int64_t i = 0; i < p.global_shape.numel(); ++i) {
          double g = 0;
          for (int k = 0; k < terms; ++k) g += term_of(p.name, step, k, i);
          grads[p.name].push_back(g);
          squares += g * g;
        }
      }
      norms.push_back(std::sqrt(squares));
      const double clip = std::min(1.0, max_norm / (norms.back() + 1e-6));
      for (const FlatParameter& p : declared) {
        State& s = states[p.name];
        for (std::size_t i = 0; i < s.value.size(); ++i) {
          const double g = clip * grads[p.name][i];
          if (p.weight_decay) s.value[i] *= 1 - rate(step) * config.weight_decay;
          s.exp_avg[i] = config.beta1 * s.exp_avg[i] + (1 - config.beta1) * g;
          s.exp_avg_sq[i] = config.beta2 * s.exp_avg_sq[i] + (1 - config.beta2) * g * g;
          const double m = s.exp_avg[i] / (1 - std::pow(config.beta1, step));
          const double v = s.exp_avg_sq[i] / (1 - std::pow(config.beta2, step));
          s.value[i] -= rate(step) * m / (std::sqrt(v) + config.eps);
        }
        values.resize(static_cast<std::size_t>(step));
        values.back()[p.name] = s.value;
      }
    }
  }
};

const Reference& reference() {
  static const Reference result;
  return result;
}

/// Calls f(index in the box, flat index in the global tensor).
template <class F>
void for_each_element(const Shape& global, const Box& box, F&& f) {
  for (std::int64_t i = 0; i < box.shape.numel(); ++i) {
    std::int64_t rest = i, index = 0, stride = 1;
    for (int d = global.rank() - 1; d >= 0; --d) {
      index += (box.offset[d] + rest % box.shape[d]) * stride;
      rest /= box.shape[d];
      stride *= global[d];
    }
    f(i, index);
  }
}

/// One rank's model: flat buffers, groups and optimizer.
struct Rank {
  Rank(const Mesh& mesh, DType dtype, int threads = 1)
      : groups(runtime(), mesh),
        pool(threads),
        dense(MeshKind::dense, parameters(mesh), mesh, runtime().rank(), dtype),
        experts(MeshKind::expert, parameters(mesh), mesh, runtime().rank(), dtype),
        optimizer({Device{}, &pool, nullptr}, config, groups, {&dense, &experts}) {
    for_each_parameter([](const FlatBuffer::Entry& e, const Parameter& p) {
      for_each_element(e.declared.global_shape, e.box, [&](std::int64_t local, std::int64_t global) {
        set(p.value, local, initial_value(e.declared.name, global));
      });
    });
  }

  template <class F>
  void for_each_parameter(F&& f) {
    for (const FlatBuffer* buffer : {&dense, &experts}) {
      for (std::size_t i = 0; i < buffer->entries().size(); ++i) f(buffer->entries()[i], buffer->parameter(i));
    }
  }

  static void set(const Tensor& t, std::int64_t i, double value) {
    if (t.dtype() == DType::f64)
      t.data<double>()[i] = value;
    else
      t.data<float>()[i] = static_cast<float>(value);
  }

  /// This rank's share of the terms: dealt over the data coordinates and, on partial axes, over the copies.
  void fill_gradients(int step) {
    const Mesh& mesh = groups.mesh;
    const int rank = groups.rank;
    for_each_parameter([&](const FlatBuffer::Entry& e, const Parameter& p) {
      const Placement& placement = e.declared.placement;
      int shares = mesh.size(data_axis(placement.mesh)),
          share = mesh.coordinate(data_axis(placement.mesh), rank);
      const std::vector<Axis> partial = placement.partial_axes(mesh);
      for (const auto& [axis, on_axis] : placement.model_axes()) {
        if (std::find(partial.begin(), partial.end(), axis) == partial.end()) continue;
        const int copies = mesh.size(axis) / (on_axis.sharded ? on_axis.parts : 1);
        share = share * copies + mesh.coordinate(axis, rank) % copies;
        shares *= copies;
      }
      for_each_element(e.declared.global_shape, e.box, [&](std::int64_t local, std::int64_t global) {
        double g = 0;
        for (int k = share; k < terms; k += shares) g += term_of(e.declared.name, step, k, global);
        set(p.grad, local, g);
      });
    });
  }

  double step(int number) {
    fill_gradients(number);
    return optimizer.step(rate(number), max_norm);
  }

  void expect_values(int step, double tolerance) {
    for_each_parameter([&](const FlatBuffer::Entry& e, const Parameter& p) {
      const std::vector<double>& expected =
          reference().values[static_cast<std::size_t>(step - 1)].at(e.declared.name);
      const Tensor value = p.value.to(DType::f64);
      double worst = 0;
      for_each_element(e.declared.global_shape, e.box, [&](std::int64_t local, std::int64_t global) {
        worst =
            std::max(worst, std::abs(value.data<double>()[local] - expected[static_cast<std::size_t>(global)]));
      });
      EXPECT_LT(worst, tolerance) << groups.mesh.str() << " " << e.declared.name << " step " << step;
    });
  }

  ProcessGroups groups;
  ThreadPool pool;
  FlatBuffer dense, experts;
  ShardedOptimizer optimizer;
};

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.bytes() == b.bytes() && std::memcmp(a.raw(), b.raw(), static_cast<std::size_t>(a.bytes())) == 0;
}

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
    ASSERT_TRUE(same_bits(a.dense.values(), b.dense.values())) << mesh.str();
    ASSERT_TRUE(same_bits(a.experts.values(), b.experts.values())) << mesh.str();
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
    ASSERT_TRUE(same_bits(whole.dense.values(), resumed.dense.values()));
    for (int step = 3; step <= steps; ++step) ASSERT_EQ(whole.step(step), resumed.step(step));
    ASSERT_TRUE(same_bits(whole.dense.values(), resumed.dense.values())) << mesh.str();
    ASSERT_TRUE(same_bits(whole.experts.values(), resumed.experts.values())) << mesh.str();
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
  EXPECT_EQ(run.optimizer.state()[0].value.raw(), run.dense.values().raw());
}

}  // namespace
}  // namespace hysparse
