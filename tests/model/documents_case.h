/// A small model in float64 and batches packed from documents, for the tests of document masks.
#pragma once

#include <vector>

#include "core/random.h"
#include "model/model.h"
#include "tests/attention/documents.h"

namespace hysparse::testing {

/// Seven layers with the given followers between the full ones.
inline ModelConfig documents_config(LayerType follower) {
  ModelConfig c;
  c.layer_types = layer_types_from_ratio(7, 2, follower);
  c.vocab_size = 64;
  c.hidden_size = 48;
  c.num_heads = 4;
  c.num_kv_heads = 2;
  c.head_dim = 16;
  c.intermediate_size = 96;
  c.sliding_window = 12;
  c.sparse_block_size = 8;
  c.sparse_topk_tokens = 24;
  c.init_std = 0.2;  // attention far from uniform
  return c;
}

/// S sequences of random tokens in documents of `lengths`; the target of a document's last token is none.
inline MicroBatch packed_batch(std::int64_t sequences, const std::vector<std::int64_t>& lengths) {
  const Tensor documents = documents_of_lengths(sequences, lengths);
  const std::int64_t tokens = documents.numel();
  MicroBatch batch{Tensor::empty({tokens}, DType::i32), Tensor::empty({tokens}, DType::i32), sequences,
                   tokens / sequences, documents};
  const CounterRandom random(11, "tokens");
  for (std::int64_t i = 0; i < tokens; ++i) {
    const auto id = [&](std::int64_t n) {
      return static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(n), 64));
    };
    const bool last = i + 1 == tokens || documents.data<std::int32_t>()[i + 1] == (i + 1) % batch.seq_len;
    batch.tokens.data<std::int32_t>()[i] = id(i);
    batch.targets.data<std::int32_t>()[i] = last ? -1 : id(i + 1);
  }
  return batch;
}

/// Targets that count.
inline std::int64_t count_targets(const MicroBatch& batch) {
  std::int64_t count = 0;
  for (std::int64_t i = 0; i < batch.targets.numel(); ++i) count += batch.targets.data<std::int32_t>()[i] >= 0;
  return count;
}

}  // namespace hysparse::testing
