#include "moe/dispatch.h"

#include <algorithm>
#include <numeric>

#include "core/backend.h"
#include "moe/cpu/dispatch.h"
#include "moe/cuda/dispatch.h"
#include "moe/wire.h"

namespace hysparse {

ExpertOrder order_by_expert(const Stream& stream, const Tensor& ids, std::int64_t num_experts,
                            std::int64_t rows) {
  const auto indices = [&](Shape shape) { return Tensor::empty(shape, DType::i32, ids.device()); };
  ExpertOrder order{indices({num_experts + 1}), indices({rows}), indices({rows}), indices(ids.shape())};
  HYSPARSE_LAUNCH(stream, order_by_expert,
                  {ids, order.offsets, order.sources, order.assignments, order.positions});
  return order;
}

namespace {

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
  const std::int64_t tokens = expert_ids.dim(0), slots = expert_ids.dim(1), most = std::min(slots, ep);
  const Device device = expert_ids.device();

  const Tensor owners = Tensor::empty({tokens, most}, DType::i32, device);
  const Tensor assignments = Tensor::empty({ep}, DType::i64, device);
  HYSPARSE_LAUNCH(stream, list_owners, expert_ids, local_experts, owners, assignments);
  const ExpertOrder order = order_by_expert(stream, owners, ep, owners.numel());

  // To and from each rank: rows and assignments.
  const Tensor counts = Tensor::empty({2 * ranks}, DType::i64, device);
  const Tensor sends = counts.slice(0, ranks), receives = counts.slice(ranks, 2 * ranks);
  HYSPARSE_LAUNCH(stream, count_destinations, order.offsets, assignments, copies, sends);
  const std::vector<std::int64_t> ones(static_cast<std::size_t>(ranks), 1);
  group.all_to_all(sends, ones, receives, ones);
  const std::vector<std::int64_t> read = counts.to_vector<std::int64_t>();
  for (std::int64_t i = 0; i < 2 * ranks; ++i) {
    const std::int64_t count = read[static_cast<std::size_t>(i)];
    (i < ranks ? send_rows_ : receive_rows_).push_back(count & 0xffffffff);
    if (i >= ranks) received_assignments_ += count >> 32;
  }

  const std::int64_t sent = total(send_rows_);
  tokens_ = Tensor::empty({sent}, DType::i32, device);
  local_ids_ = Tensor::empty({sent, slots}, DType::i32, device);
  positions_ = Tensor::empty({tokens, most * copies}, DType::i32, device);
  HYSPARSE_LAUNCH(stream, plan_rows,
                  {expert_ids, owners, order.offsets, order.positions, local_experts, copies, tokens_,
                   local_ids_, positions_});
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
  const WireRow row = WireRow::with_ids(x.dim(1), slots(), x.dtype());
  const Tensor packed = Tensor::empty({sent(), row.columns}, x.dtype(), x.device());
  HYSPARSE_LAUNCH(stream_, pack_rows, x, weights, local_ids_, tokens_, packed);
  Received result{exchange(packed), Tensor::empty({received(), slots()}, DType::i32, x.device()),
                  Tensor::empty({received(), slots()}, weights.dtype(), x.device()), received_assignments_};
  HYSPARSE_LAUNCH(stream_, unpack_slots, result.rows, x.dim(1), result.weights, result.ids);
  return result;
}

void Dispatch::return_gradient(const Tensor& rows, std::int64_t width, Gradient* dx, Gradient* dweights) const {
  const Tensor returned = give_back(rows);
  if (dx != nullptr) {
    const auto [buffer, add] = dx->target();
    HYSPARSE_LAUNCH(stream_, combine_rows, returned, positions_, buffer, add);
  }
  if (dweights != nullptr) {
    const auto [buffer, add] = dweights->target();
    HYSPARSE_LAUNCH(stream_, combine_slots, returned, width, positions_, buffer, add);
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
