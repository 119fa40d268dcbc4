/// What the backward kernels share: dK and dV of one sequence and group (a slab) are summed by one thread in a
/// fixed order. Where there are too few slabs to fill the threads, the query tokens of each are dealt to
/// several parts with sums of their own, which are then added in order.
#pragma once

#include <algorithm>

#include "attention/cpu/tiles.h"

namespace hysparse::cpu {

template <class T>
struct BackwardData {
  const T *q, *k, *v, *sinks, *out, *lse, *dout;  ///< sinks: null where no gradient of them is wanted
  T* dq;
  bool add_dq;
};

/// One task: part `part` of `parts` of a slab. dk and dv are laid out like k and v; `add_` false: the slab's
/// elements are not yet initialised. dsinks [R], added to; null without.
template <class T>
struct SlabTask {
  std::int64_t sequence, group, part, parts;
  T *dk, *dv;
  bool add_dk, add_dv;
  T* dsinks;
};

/// Parts of each slab, so that tasks fill the threads evenly; at most `most`.
inline std::int64_t count_parts(std::int64_t slabs, std::int64_t most, std::int64_t threads) {
  std::int64_t parts = 1;
  while (parts < most && slabs * parts % threads != 0 && slabs * parts < 4 * threads) ++parts;
  return parts;
}

/// target (+)= sum of `parts` arrays of its size, in order.
template <class T>
void add_parts(const Stream& stream, const T* partial, std::int64_t parts, const Gradient::Target& target) {
  T* out = target.buffer.data<T>();
  const std::int64_t count = target.buffer.numel();
  stream.pool->parallel_for(count, 1 << 14, [=, add = target.add](std::int64_t begin, std::int64_t end) {
    for (std::int64_t p = 0; p < parts; ++p) {
      const T* in = partial + p * count;
      if (p == 0 && !add) {
        std::copy(in + begin, in + end, out + begin);
      } else {
        for (std::int64_t i = begin; i < end; ++i) out[i] += in[i];
      }
    }
  });
}

/// Calls worker.run(slab_task, data) for every part of every slab, each thread with a worker made by make(),
/// and adds up. `most_parts`: how many parts a slab can be cut into.
template <class T, class Make>
void run_backward(const Stream& stream, const AttentionSizes& sizes, std::int64_t most_parts,
                  const BackwardData<T>& data, const AttentionGradients& gradients, const Make& make) {
  const std::int64_t group = sizes.group_size(), slabs = sizes.sequences * sizes.num_kv_heads;
  const std::int64_t parts = count_parts(slabs, most_parts, stream.pool->threads());
  const Gradient::Target &dk = gradients.k, &dv = gradients.v;
  const std::int64_t partial = parts > 1 ? dk.buffer.numel() : 0;
  const Scratch<T> dk_parts(parts * partial), dv_parts(parts * partial);
  const std::int64_t sink_count = data.sinks != nullptr ? slabs * parts * group : 0;
  const Scratch<T> dsinks(sink_count);
  std::fill_n(static_cast<T*>(dsinks), sink_count, T(0));
  parallel_workers(stream, slabs * parts, make, [&](auto& worker, std::int64_t task) {
    const std::int64_t slab = task / parts, part = task % parts;
    worker.run(SlabTask<T>{.sequence = slab / sizes.num_kv_heads,
                           .group = slab % sizes.num_kv_heads,
                           .part = part,
                           .parts = parts,
                           .dk = parts > 1 ? dk_parts + part * partial : dk.buffer.data<T>(),
                           .dv = parts > 1 ? dv_parts + part * partial : dv.buffer.data<T>(),
                           .add_dk = parts == 1 && dk.add,
                           .add_dv = parts == 1 && dv.add,
                           .dsinks = sink_count > 0 ? dsinks + task * group : nullptr},
               data);
  });
  if (parts > 1) {
    add_parts<T>(stream, dk_parts, parts, dk);
    add_parts<T>(stream, dv_parts, parts, dv);
  }
  if (sink_count == 0) return;
  T* total = gradients.sinks.data<T>();
  for (std::int64_t task = 0; task < slabs * parts; ++task) {
    T* head = total + task / parts % sizes.num_kv_heads * group;
    for (std::int64_t r = 0; r < group; ++r) head[r] += dsinks[task * group + r];
  }
}

}  // namespace hysparse::cpu
