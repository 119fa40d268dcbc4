#include "moe/dispatch.h"

#include <numeric>

namespace hysparse {
namespace {

/// Assignments per expert, those dropped left out.
Tensor count_kept(const Tensor& expert_ids, std::int64_t num_experts) {
  const Tensor counts = Tensor::zeros({num_experts}, DType::i64);
  const std::int32_t* id = expert_ids.data<std::int32_t>();
  for (std::int64_t a = 0; a < expert_ids.numel(); ++a) {
    HYSPARSE_CHECK(id[a] < num_experts, "expert {} of {}", id[a], num_experts);
    if (id[a] >= 0) ++counts.data<std::int64_t>()[id[a]];
  }
  return counts;
}

/// Counting sort by expert: assignments and positions.
void sort_by_expert(const Tensor& expert_ids, const Tensor& counts, DispatchPlan& plan) {
  const std::int64_t experts = counts.numel();
  const std::int64_t* count = counts.data<std::int64_t>();
  std::vector<std::int64_t> next(static_cast<std::size_t>(experts), 0);
  std::exclusive_scan(count, count + experts, next.begin(), std::int64_t{0});
  plan.assignments = Tensor::empty({std::accumulate(count, count + experts, std::int64_t{0})}, DType::i32);
  plan.positions = Tensor::empty(expert_ids.shape(), DType::i32);
  const std::int32_t* id = expert_ids.data<std::int32_t>();
  std::int32_t *assignments = plan.assignments.data<std::int32_t>(),
               *positions = plan.positions.data<std::int32_t>();
  for (std::int64_t a = 0; a < expert_ids.numel(); ++a) {
    if (id[a] < 0) {
      positions[a] = -1;
      continue;
    }
    const std::int64_t row = next[static_cast<std::size_t>(id[a])]++;
    positions[a] = static_cast<std::int32_t>(row);
    assignments[row] = static_cast<std::int32_t>(a);
  }
}

/// Sorted rows of the experts of this rank, when rows are tokens.
void plan_alone(std::int64_t slots, const Tensor& counts, DispatchPlan& plan) {
  for (const std::int64_t n : counts.to_vector<std::int64_t>()) plan.offsets.push_back(plan.offsets.back() + n);
  plan.sources = Tensor::empty({plan.sent()}, DType::i32);
  for (std::int64_t row = 0; row < plan.sent(); ++row) {
    plan.sources.data<std::int32_t>()[row] =
        static_cast<std::int32_t>(plan.assignments.data<std::int32_t>()[row] / slots);
  }
}

/// The same when rows come from `ranks` ranks; received i64 [ranks, local experts] counts them.
void plan_received(const std::int64_t* received, std::int64_t ranks, std::int64_t local_experts,
                   DispatchPlan& plan) {
  std::vector<std::int64_t> first(static_cast<std::size_t>(ranks * local_experts),
                                  0);  // received row of each run
  const std::int64_t rows = std::accumulate(received, received + ranks * local_experts, std::int64_t{0});
  std::exclusive_scan(received, received + ranks * local_experts, first.begin(), std::int64_t{0});
  plan.sources = Tensor::empty({rows}, DType::i32);
  std::int32_t* source = plan.sources.data<std::int32_t>();
  for (std::int64_t expert = 0; expert < local_experts; ++expert) {
    std::int64_t end = plan.offsets.back();
    for (std::int64_t run = expert; run < ranks * local_experts; run += local_experts) {
      std::iota(source + end, source + end + received[run],
                static_cast<std::int32_t>(first[static_cast<std::size_t>(run)]));
      end += received[run];
    }
    plan.offsets.push_back(end);
  }
}

}  // namespace

DispatchPlan plan_dispatch(const Tensor& expert_ids, std::int64_t num_experts, Communicator& ep) {
  const std::int64_t ranks = ep.size();
  HYSPARSE_CHECK(num_experts % ranks == 0, "{} experts over {} ranks of {}", num_experts, ranks, ep.name());
  DispatchPlan plan;
  plan.offsets = {0};
  const Tensor counts = count_kept(expert_ids, num_experts);
  sort_by_expert(expert_ids, counts, plan);
  if (ranks == 1) {
    plan_alone(expert_ids.dim(1), counts, plan);
    return plan;
  }
  const std::int64_t local_experts = num_experts / ranks;
  const Tensor received = Tensor::empty({num_experts}, DType::i64);
  const std::vector<std::int64_t> each(static_cast<std::size_t>(ranks), local_experts);
  ep.all_to_all(counts, each, received, each);
  const std::int64_t *sends = counts.data<std::int64_t>(), *receives = received.data<std::int64_t>();
  for (std::int64_t rank = 0; rank < ranks; ++rank) {
    const std::int64_t begin = rank * local_experts, end = begin + local_experts;
    plan.send_rows.push_back(std::accumulate(sends + begin, sends + end, std::int64_t{0}));
    plan.receive_rows.push_back(std::accumulate(receives + begin, receives + end, std::int64_t{0}));
  }
  plan_received(receives, ranks, local_experts, plan);
  return plan;
}

}  // namespace hysparse
