/// Ways to lay the ranks of an mpirun out as edp groups of ep * etp ranks each, and one rank's part of a
/// MoeCase.
#pragma once

#include <algorithm>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "tests/moe/moe_case.h"
#include "tests/parallel/mpi_test.h"

namespace hysparse::testing {

struct ExpertLayout {
  int ep, etp;
  std::string str() const { return fmt::format("ep {} etp {}", ep, etp); }
};

/// All that fit the ranks of this run.
inline std::vector<ExpertLayout> expert_layouts() {
  std::vector<ExpertLayout> result;
  const int world = runtime().world();
  for (int ep = 1; ep <= world; ++ep) {
    for (int etp = 1; ep * etp <= world; ++etp) {
      if (world % (ep * etp) == 0) result.push_back({ep, etp});
    }
  }
  return result;
}

/// This rank's place in a layout, and its groups: `experts` of ep * etp consecutive ranks, `replicas` of those
/// with the same experts.
struct ExpertRanks {
  ExpertLayout layout;
  std::unique_ptr<Communicator> experts, replicas;

  explicit ExpertRanks(const ExpertLayout& l) : layout(l) {
    const int size = l.ep * l.etp, rank = runtime().rank();
    std::vector<int> mates(static_cast<std::size_t>(size)), same;
    std::iota(mates.begin(), mates.end(), rank / size * size);
    for (int r = rank % size; r < runtime().world(); r += size) same.push_back(r);
    experts = runtime().communicator("ep_etp", mates);
    replicas = runtime().communicator("edp", same);
  }

  /// This rank's experts and its part of their width, from [X, .., .., ] with the width in `width_dim`.
  Tensor part_of(const Tensor& whole, int width_dim) const {
    const std::int64_t local = whole.dim(0) / layout.ep, rows = whole.dim(1), columns = whole.dim(2);
    const std::int64_t first = experts->rank() / layout.etp * local, at = experts->rank() % layout.etp;
    const std::int64_t r = width_dim == 1 ? rows / layout.etp : rows,
                       c = width_dim == 2 ? columns / layout.etp : columns;
    const std::int64_t r0 = width_dim == 1 ? at * r : 0, c0 = width_dim == 2 ? at * c : 0;
    const Tensor part = Tensor::empty({local, r, c}, whole.dtype());
    const auto size = static_cast<std::size_t>(dtype_size(whole.dtype()));
    for (std::int64_t row = 0; row < local * r; ++row) {
      const std::int64_t from = ((first + row / r) * rows + r0 + row % r) * columns + c0;
      std::copy_n(static_cast<const char*>(whole.raw()) + static_cast<std::size_t>(from) * size,
                  static_cast<std::size_t>(c) * size,
                  static_cast<char*>(part.raw()) + static_cast<std::size_t>(row * c) * size);
    }
    return part;
  }

  /// The same case with this rank's experts; its gradients start at 0.
  MoeCase part_of(const MoeCase& whole) const {
    MoeCase mine = whole;
    const auto take = [&](const Parameter& p, int width_dim) {
      const Tensor value = part_of(p.value, width_dim);
      return Parameter{p.name, value, Tensor::zeros(value.shape(), value.dtype())};
    };
    mine.router.grad = Tensor::zeros(whole.router.grad.shape(), whole.router.grad.dtype());
    mine.gate = take(whole.gate, 1);
    mine.up = take(whole.up, 1);
    mine.down = take(whole.down, 2);
    return mine;
  }

  /// Sums the gradients of experts over replicas, then expects them to be this rank's part of whole's.
  void expect_expert_gradients(const MoeCase& mine, const MoeCase& whole, double tolerance) const {
    for (const Parameter* p : {&mine.gate, &mine.up, &mine.down}) replicas->all_reduce(p->grad);
    EXPECT_LE(relative_error(mine.gate.grad, part_of(whole.gate.grad, 1)), tolerance);
    EXPECT_LE(relative_error(mine.up.grad, part_of(whole.up.grad, 1)), tolerance);
    EXPECT_LE(relative_error(mine.down.grad, part_of(whole.down.grad, 2)), tolerance);
  }
};

inline std::int64_t sum_of(const std::vector<std::int64_t>& counts) {
  return std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
}

/// Every third rank has none, the others differ.
inline std::vector<std::int64_t> uneven_tokens() {
  std::vector<std::int64_t> tokens;
  for (int r = 0; r < runtime().world(); ++r) tokens.push_back(r % 3 == 1 ? 0 : 5 + 3 * r);
  return tokens;
}

}  // namespace hysparse::testing
