/// A model with every kind of placement for the sharded optimizer, on any mesh, and AdamW written out for one
/// rank.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>

#include "core/random.h"
#include "core/thread_pool.h"
#include "optim/sharded_optimizer.h"
#include "tests/core/set_element.h"
#include "tests/parallel/mpi_test.h"

namespace hysparse::sharded_case {

inline constexpr int steps = 4;
inline constexpr int terms = 24;  // of each gradient's sum, dealt out to the ranks that hold a part of it
inline constexpr double max_norm = 20.0;
inline const AdamWConfig config{.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1};

inline double rate(int step) {
  return 1e-2 / step;
}

/// Every kind of placement: split, split in fewer parts than ranks, replicated with equal and partial
/// gradients, experts split on one or two dims, a later stage, two stages.
inline std::vector<FlatParameter> parameters(const Mesh& mesh) {
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
      {"tied", {24, 4}, {.tp = AxisPlacement::shard(0, tp), .second_stage = pp - 1}, false},
      {"experts_up", {12, 12, 3}, expert(AxisPlacement::shard(1, etp))},
      {"experts_norm", {12, 5}, expert(AxisPlacement::replicate(Partial::partial), pp - 1), false},
  };
}

inline double term_of(const std::string& name, int step, int term, std::int64_t element) {
  return CounterRandom(7, fmt::format("{}.{}.{}", name, step, term))
      .normal(static_cast<std::uint64_t>(element));
}

inline double initial_value(const std::string& name, std::int64_t element) {
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

inline const Reference& reference() {
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

/// How the parameters are cut into buffers.
enum class Buckets {
  by_kind,       ///< dense, tied, experts
  by_parameter,  ///< one for each parameter of the whole model, empty where it is not held
};

inline std::vector<std::unique_ptr<FlatBuffer>> make_buffers(Buckets buckets, const Mesh& mesh, DType dtype,
                                                             Device device = {}) {
  std::vector<std::vector<FlatParameter>> groups(buckets == Buckets::by_kind ? 3 : 0);
  for (const FlatParameter& p : parameters(mesh)) {
    if (buckets == Buckets::by_parameter) {
      groups.push_back({p});
    } else {
      groups[p.placement.mesh == MeshKind::expert ? 2 : p.name == "tied" ? 1 : 0].push_back(p);
    }
  }
  std::vector<std::unique_ptr<FlatBuffer>> buffers;
  for (const std::vector<FlatParameter>& g : groups)
    buffers.push_back(std::make_unique<FlatBuffer>(g.front().placement.mesh, g, mesh, testing::runtime().rank(),
                                                   dtype, true, device));
  return buffers;
}

inline std::vector<const FlatBuffer*> pointers(const std::vector<std::unique_ptr<FlatBuffer>>& buffers) {
  std::vector<const FlatBuffer*> result;
  for (const auto& b : buffers) result.push_back(b.get());
  return result;
}

/// One rank's model: flat buffers, groups and optimizer.
struct Rank {
  Rank(const Mesh& mesh, DType dtype, int threads = 1, Buckets buckets = Buckets::by_kind)
      : groups(testing::runtime(), mesh),
        pool(threads),
        buffers(make_buffers(buckets, mesh, dtype)),
        optimizer({Device{}, &pool, nullptr}, config, groups, pointers(buffers)) {
    for_each_parameter([](const FlatBuffer::Entry& e, const Parameter& p) {
      for_each_element(e.declared.global_shape, e.box, [&](std::int64_t local, std::int64_t global) {
        testing::set_element(p.value, local, initial_value(e.declared.name, global));
      });
    });
  }

  template <class F>
  void for_each_parameter(F&& f) {
    for (const auto& buffer : buffers) {
      for (std::size_t i = 0; i < buffer->entries().size(); ++i) f(buffer->entries()[i], buffer->parameter(i));
    }
  }

  /// This rank's share of the terms: dealt over the data coordinates, over the copies on partial axes, and over
  /// the stages of tied parameters.
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
      if (placement.is_tied()) {
        share = 2 * share + (mesh.coordinate(Axis::pp, rank) == placement.stage ? 0 : 1);
        shares *= 2;
      }
      for_each_element(e.declared.global_shape, e.box, [&](std::int64_t local, std::int64_t global) {
        double g = 0;
        for (int k = share; k < terms; k += shares) g += term_of(e.declared.name, step, k, global);
        testing::set_element(p.grad, local, g);
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
  std::vector<std::unique_ptr<FlatBuffer>> buffers;
  ShardedOptimizer optimizer;
};

inline bool same_bits(const Tensor& a, const Tensor& b) {
  return a.bytes() == b.bytes() &&
         (a.bytes() == 0 || std::memcmp(a.raw(), b.raw(), static_cast<std::size_t>(a.bytes())) == 0);
}

/// All values of two ranks with the same buffers.
inline bool same_values(const Rank& a, const Rank& b) {
  for (std::size_t i = 0; i < a.buffers.size(); ++i) {
    if (!same_bits(a.buffers[i]->values(), b.buffers[i]->values())) return false;
  }
  return true;
}

}  // namespace hysparse::sharded_case
