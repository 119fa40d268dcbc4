#include <algorithm>
#include <vector>

#include "core/thread_pool.h"
#include "moe/cpu/router.h"

namespace hysparse::cpu {

void balanced_choices(const Stream&, std::int64_t first_token, std::int64_t num_experts, const Tensor& ids) {
  std::int64_t expert = first_token * ids.dim(1) % num_experts;
  for (std::int64_t a = 0; a < ids.numel(); ++a) {
    ids.data<std::int32_t>()[a] = static_cast<std::int32_t>(expert);
    if (++expert == num_experts) expert = 0;
  }
}

void count_assignments(const Stream&, const Tensor& ids, const Tensor& counts) {
  const std::int32_t* id = ids.data<std::int32_t>();
  std::int64_t* count = counts.data<std::int64_t>();
  std::fill_n(count, counts.numel(), 0);
  for (std::int64_t a = 0; a < ids.numel(); ++a) ++count[id[a]];
}

void count_open_sequence(const Stream& stream, const Tensor& ids, std::int64_t sequence, const Tensor& counts) {
  const std::int64_t experts = counts.numel() - 1;
  count_assignments(stream, ids, counts.slice(0, experts));
  counts.data<std::int64_t>()[experts] = sequence;
}

void sum_open_sequence(const Stream&, const Tensor& gathered, std::int64_t ranks, std::int64_t sequence,
                       const Tensor& taken) {
  const std::int64_t experts = taken.numel();
  std::int64_t* sum = taken.data<std::int64_t>();
  std::fill_n(sum, experts, 0);
  for (std::int64_t rank = 0; rank < ranks; ++rank) {
    const std::int64_t* theirs = gathered.data<std::int64_t>() + rank * (experts + 1);
    if (theirs[experts] != sequence) continue;
    for (std::int64_t e = 0; e < experts; ++e) sum[e] += theirs[e];
  }
}

void drop_over_capacity(const Stream& stream, const DropOverCapacity& args) {
  const std::int64_t k = args.ids.dim(1), first_token = args.first_token, seq_len = args.seq_len;
  const std::int64_t end_token = first_token + args.ids.dim(0);
  const std::int64_t first = first_token / seq_len;  // sequence
  const std::int64_t sequences = args.ids.dim(0) == 0 ? 0 : (end_token + seq_len - 1) / seq_len - first;
  std::vector<std::int64_t> dropped(static_cast<std::size_t>(sequences), 0);
  dispatch_float(args.weights.dtype(), [&]<class T>() {
    std::int32_t* id = args.ids.data<std::int32_t>();
    T* w = args.weights.data<T>();
    stream.pool->parallel_tasks(sequences, [&](std::int64_t sequence) {
      std::vector<std::int64_t> counts(static_cast<std::size_t>(args.taken.numel()), 0);
      if (sequence == 0) counts = args.taken.to_vector<std::int64_t>();
      const std::int64_t begin = std::max((first + sequence) * seq_len, first_token) - first_token,
                         end = std::min((first + sequence + 1) * seq_len, end_token) - first_token;
      for (std::int64_t a = begin * k; a < end * k; ++a) {
        if (++counts[static_cast<std::size_t>(id[a])] <= args.capacity) continue;
        id[a] = -1;
        w[a] = T(0);
        ++dropped[static_cast<std::size_t>(sequence)];
      }
    });
  });
  std::int64_t total = 0;
  for (const std::int64_t n : dropped) total += n;
  *args.dropped.data<std::int64_t>() = total;
}

}  // namespace hysparse::cpu
