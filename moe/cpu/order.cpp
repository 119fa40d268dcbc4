#include <algorithm>
#include <numeric>
#include <vector>

#include "moe/cpu/dispatch.h"

namespace hysparse::cpu {

void order_by_expert(const Stream&, const OrderByExpert& args) {
  const std::int64_t experts = args.offsets.numel() - 1, tokens = args.ids.dim(0), slots = args.ids.dim(1);
  const std::int32_t* id = args.ids.data<std::int32_t>();
  std::int32_t* offsets = args.offsets.data<std::int32_t>();
  std::fill_n(offsets, experts + 1, 0);
  for (std::int64_t a = 0; a < tokens * slots; ++a) {
    HYSPARSE_CHECK(id[a] < experts, "expert {} of {}", id[a], experts);
    if (id[a] >= 0) ++offsets[id[a] + 1];
  }
  std::partial_sum(offsets, offsets + experts + 1, offsets);
  HYSPARSE_CHECK(offsets[experts] <= args.sources.numel(), "{} assignments in {} rows", offsets[experts],
                 args.sources.numel());
  std::vector<std::int32_t> next(offsets, offsets + experts);
  std::int32_t *sources = args.sources.data<std::int32_t>(),
               *assignments = args.assignments.data<std::int32_t>(),
               *positions = args.positions.data<std::int32_t>();
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int64_t a = t * slots; a < (t + 1) * slots; ++a) {
      if (id[a] < 0) {
        positions[a] = -1;
        continue;
      }
      const std::int32_t row = next[static_cast<std::size_t>(id[a])]++;
      positions[a] = row;
      assignments[row] = static_cast<std::int32_t>(a);
      sources[row] = static_cast<std::int32_t>(t);
    }
  }
}

void list_owners(const Stream&, const Tensor& ids, std::int64_t local_experts, const Tensor& owners,
                 const Tensor& assignments) {
  const std::int64_t tokens = ids.dim(0), slots = ids.dim(1), most = owners.dim(1), ep = assignments.numel();
  std::int64_t* count = assignments.data<std::int64_t>();
  std::fill_n(count, ep, 0);
  for (std::int64_t t = 0; t < tokens; ++t) {
    const std::int32_t* id = ids.data<std::int32_t>() + t * slots;
    std::int32_t *begin = owners.data<std::int32_t>() + t * most, *end = begin;
    for (std::int64_t slot = 0; slot < slots; ++slot) {
      if (id[slot] < 0) continue;
      const auto owner = static_cast<std::int32_t>(id[slot] / local_experts);
      HYSPARSE_CHECK(owner < ep, "expert {} of {}", id[slot], ep * local_experts);
      ++count[owner];
      if (std::find(begin, end, owner) == end) *end++ = owner;
    }
    std::fill(end, begin + most, -1);
  }
}

void count_destinations(const Stream&, const Tensor& offsets, const Tensor& assignments, std::int64_t copies,
                        const Tensor& counts) {
  const std::int32_t* offset = offsets.data<std::int32_t>();
  for (std::int64_t rank = 0; rank < counts.numel(); ++rank) {
    const std::int64_t owner = rank / copies, rows = offset[owner + 1] - offset[owner];
    counts.data<std::int64_t>()[rank] = rows + (assignments.data<std::int64_t>()[owner] << 32);
  }
}

void plan_rows(const Stream&, const PlanRows& args) {
  const std::int64_t tokens = args.ids.dim(0), slots = args.ids.dim(1), most = args.owners.dim(1);
  const std::int32_t *offsets = args.offsets.data<std::int32_t>(), *owners = args.owners.data<std::int32_t>(),
                     *order = args.owner_positions.data<std::int32_t>();
  std::int32_t* position = args.positions.data<std::int32_t>();
  for (std::int64_t t = 0; t < tokens; ++t) {
    const std::int32_t* id = args.ids.data<std::int32_t>() + t * slots;
    for (std::int64_t i = t * most; i < (t + 1) * most; ++i) {
      const std::int64_t owner = owners[i];
      for (std::int64_t copy = 0; copy < args.copies; ++copy) {
        if (owner < 0) {
          *position++ = -1;
          continue;
        }
        // Rows of earlier owners, for each of their ranks; of this owner's earlier ranks; of earlier tokens.
        const std::int64_t first = offsets[owner], count = offsets[owner + 1] - first;
        const std::int64_t row = first * args.copies + count * copy + (order[i] - first);
        *position++ = static_cast<std::int32_t>(row);
        args.tokens.data<std::int32_t>()[row] = static_cast<std::int32_t>(t);
        std::transform(id, id + slots, args.local_ids.data<std::int32_t>() + row * slots, [&](std::int32_t e) {
          return e >= 0 && e / args.local_experts == owner
                     ? static_cast<std::int32_t>(e - owner * args.local_experts)
                     : -1;
        });
      }
    }
  }
}

}  // namespace hysparse::cpu
