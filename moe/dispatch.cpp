#include "moe/dispatch.h"

#include <algorithm>
#include <numeric>

#include "core/backend.h"
#include "moe/cpu/dispatch.h"

namespace hysparse {

ExpertOrder order_by_expert(const Tensor& ids, std::int64_t num_experts) {
  ExpertOrder order;
  order.offsets.assign(static_cast<std::size_t>(num_experts) + 1, 0);
  const std::int32_t* id = ids.data<std::int32_t>();
  for (std::int64_t a = 0; a < ids.numel(); ++a) {
    HYSPARSE_CHECK(id[a] < num_experts, "expert {} of {}", id[a], num_experts);
    if (id[a] >= 0) ++order.offsets[static_cast<std::size_t>(id[a]) + 1];
  }
  std::partial_sum(order.offsets.begin(), order.offsets.end(), order.offsets.begin());
  std::vector<std::int64_t> next(order.offsets.begin(), order.offsets.end() - 1);
  order.sources = Tensor::empty({order.offsets.back()}, DType::i32);
  order.assignments = Tensor::empty({order.offsets.back()}, DType::i32);
  order.positions = Tensor::empty(ids.shape(), DType::i32);
  std::int32_t *sources = order.sources.data<std::int32_t>(),
               *assignments = order.assignments.data<std::int32_t>(),
               *positions = order.positions.data<std::int32_t>();
  const std::int64_t tokens = ids.dim(0), slots = ids.dim(1);
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int64_t a = t * slots; a < (t + 1) * slots; ++a) {
      if (id[a] < 0) {
        positions[a] = -1;
        continue;
      }
      const std::int64_t row = next[static_cast<std::size_t>(id[a])]++;
      positions[a] = static_cast<std::int32_t>(row);
      assignments[row] = static_cast<std::int32_t>(a);
      sources[row] = static_cast<std::int32_t>(t);
    }
  }
  return order;
}

namespace {

/// visit(ep_i) for every ep coordinate that holds an expert of a token, once, by the first slot that names it.
template <class Visit>
void for_each_owner(const std::int32_t* ids, std::int64_t slots, std::int64_t local_experts, Visit visit) {
  for (std::int64_t slot = 0; slot < slots; ++slot) {
    if (ids[slot] < 0) continue;
    const std::int64_t owner = ids[slot] / local_experts;
    const bool seen = std::any_of(ids, ids + slot, [&](std::int32_t earlier) {
      return earlier >= 0 && earlier / local_experts == owner;
    });
    if (!seen) visit(owner);
  }
}

std::int64_t total(const std::vector<std::int64_t>& rows) {
  return std::accumulate(rows.begin(), rows.end(), std::int64_t{0});
}

}  // namespace

Dispatch::Dispatch(const Stream& stream, const Tensor& expert_ids, std::int64_t num_experts,
                   Communicator& group, int etp)
    : stream_(stream), group_(&group) {
  const std::int64_t ranks = group.size(), copies = etp;
  HYSPARSE_CHECK(copies >= 1 && ranks % copies == 0 && num_experts % (ranks / copies) == 0,
                 "{} experts over {} ranks of {}, etp {}", num_experts, ranks, group.name(), copies);
  const std::int64_t ep = ranks / copies, local_experts = num_experts / ep;
  const std::int64_t tokens = expert_ids.dim(0), slots = expert_ids.dim(1);
  const std::int32_t* ids = expert_ids.data<std::int32_t>();

  std::vector<std::int64_t> count(static_cast<std::size_t>(ep), 0);  // tokens for each ep coordinate
  for (std::int64_t t = 0; t < tokens; ++t) {
    for_each_owner(ids + t * slots, slots, local_experts, [&](std::int64_t owner) {
      HYSPARSE_CHECK(owner < ep, "an expert beyond {}", num_experts);
      ++count[static_cast<std::size_t>(owner)];
    });
  }
  for (const std::int64_t n : count) send_rows_.insert(send_rows_.end(), static_cast<std::size_t>(copies), n);
  std::vector<std::int64_t> next(send_rows_.size(), 0);  // row, by rank
  std::exclusive_scan(send_rows_.begin(), send_rows_.end(), next.begin(), std::int64_t{0});

  const std::int64_t most = std::min(slots, ep) * copies;
  tokens_ = Tensor::empty({total(send_rows_)}, DType::i32);
  local_ids_ = Tensor::empty({total(send_rows_), slots}, DType::i32);
  positions_ = Tensor::empty({tokens, most}, DType::i32);
  for (std::int64_t t = 0; t < tokens; ++t) {
    const std::int32_t* id = ids + t * slots;
    std::int32_t *position = positions_.data<std::int32_t>() + t * most, *end = position + most;
    for_each_owner(id, slots, local_experts, [&](std::int64_t owner) {
      for (std::int64_t rank = owner * copies; rank < (owner + 1) * copies; ++rank) {
        const std::int64_t row = next[static_cast<std::size_t>(rank)]++;
        *position++ = static_cast<std::int32_t>(row);
        tokens_.data<std::int32_t>()[row] = static_cast<std::int32_t>(t);
        std::transform(id, id + slots, local_ids_.data<std::int32_t>() + row * slots, [&](std::int32_t e) {
          return e >= 0 && e / local_experts == owner ? static_cast<std::int32_t>(e % local_experts) : -1;
        });
      }
    });
    std::fill(position, end, -1);
  }

  receive_rows_.resize(send_rows_.size());
  const Tensor sends = Tensor::from(send_rows_, {ranks}), receives = Tensor::empty({ranks}, DType::i64);
  const std::vector<std::int64_t> ones(send_rows_.size(), 1);
  group.all_to_all(sends, ones, receives, ones);
  receive_rows_ = receives.to_vector<std::int64_t>();
}

std::int64_t Dispatch::received() const {
  return total(receive_rows_);
}

Tensor Dispatch::exchange(const Tensor& sent) const {
  const Tensor received_rows = Tensor::empty({received(), sent.dim(1)}, sent.dtype(), sent.device());
  group_->all_to_all(sent, send_rows_, received_rows, receive_rows_);
  return received_rows;
}

Tensor Dispatch::give_back(const Tensor& received_rows) const {
  const Tensor returned =
      Tensor::empty({sent(), received_rows.dim(1)}, received_rows.dtype(), received_rows.device());
  group_->all_to_all(received_rows, receive_rows_, returned, send_rows_);
  return returned;
}

Dispatch::Received Dispatch::send(const Tensor& x, const Tensor& weights) const {
  const Tensor packed = Tensor::empty({sent(), x.dim(1) + 2 * slots()}, x.dtype(), x.device());
  HYSPARSE_LAUNCH(stream_, pack_rows, x, weights, local_ids_, tokens_, packed);
  Received result{exchange(packed), Tensor::empty({received(), slots()}, DType::i32, x.device()),
                  Tensor::empty({received(), slots()}, x.dtype(), x.device())};
  HYSPARSE_LAUNCH(stream_, unpack_slots, result.rows, result.weights, result.ids);
  return result;
}

void Dispatch::return_gradient(const Tensor& rows, Gradient* dx, Gradient* dweights) const {
  const Tensor returned = give_back(rows);
  if (dx != nullptr) {
    const auto [buffer, add] = dx->target();
    HYSPARSE_LAUNCH(stream_, combine_rows, returned, positions_, buffer, add);
  }
  if (dweights != nullptr) {
    const auto [buffer, add] = dweights->target();
    HYSPARSE_LAUNCH(stream_, combine_rows, returned, positions_, buffer, add, rows.dim(1) - slots());
  }
}

Tensor Dispatch::combine(const Tensor& rows) const {
  const Tensor y = Tensor::empty({positions_.dim(0), rows.dim(1)}, rows.dtype(), rows.device());
  HYSPARSE_LAUNCH(stream_, combine_rows, give_back(rows), positions_, y, false);
  return y;
}

Tensor Dispatch::send_gradient(const Tensor& dy) const {
  const Tensor rows = Tensor::empty({sent(), dy.dim(1)}, dy.dtype(), dy.device());
  HYSPARSE_LAUNCH(stream_, gather_rows, dy, tokens_, rows);
  return exchange(rows);
}

}  // namespace hysparse
