#include "attention/attention.h"

#include <algorithm>

#include "attention/cpu/attention.h"
#include "attention/cuda/attention.h"
#include "attention/shared_group.h"
#include "attention/target.h"
#include "core/backend.h"

namespace hysparse {
namespace {

cpu::AttentionSizes training_sizes(const AttentionShape& shape) {
  return {.sequences = shape.sequences,
          .query_len = shape.seq_len,
          .start = 0,
          .key_rows = shape.seq_len,
          .num_heads = shape.num_heads,
          .num_kv_heads = shape.num_kv_heads,
          .head_dim = shape.head_dim};
}

void check_inputs(const Var& q, const Var& k, const Var& v, const Parameter* sinks,
                  const AttentionShape& shape) {
  HYSPARSE_CHECK(shape.num_kv_heads >= 1 && shape.num_heads >= 1 && shape.num_heads % shape.num_kv_heads == 0,
                 "{} heads, {} groups", shape.num_heads, shape.num_kv_heads);
  const Shape queries{shape.tokens(), shape.num_heads * shape.head_dim};
  const Shape keys{shape.tokens(), shape.num_kv_heads * shape.head_dim};
  HYSPARSE_CHECK(q.shape() == queries && k.shape() == keys && v.shape() == keys,
                 "q {} k {} v {}, wanted {} and {}", q.shape().str(), k.shape().str(), v.shape().str(),
                 queries.str(), keys.str());
  const DType dtype = q.value.dtype();
  HYSPARSE_CHECK(k.value.dtype() == dtype && v.value.dtype() == dtype);
  HYSPARSE_CHECK(sinks == nullptr ||
                     (sinks->value.shape() == Shape{shape.num_heads} &&
                      (sinks->value.dtype() == dtype || sinks->value.dtype() == accumulation_dtype(dtype))),
                 "sinks {}", sinks->value.shape().str());
  const Tensor& documents = shape.documents;
  HYSPARSE_CHECK(
      !documents.defined() || (documents.dtype() == DType::i32 && documents.shape() == Shape{shape.tokens()}),
      "document starts {}", documents.shape().str());
  HYSPARSE_CHECK((!q.grad || (q.grad != k.grad && q.grad != v.grad)) && (!k.grad || k.grad != v.grad),
                 "q, k and v share a gradient");
}

/// Attention under any pattern, forward and backward. Keeps q, k, v, out and lse [S*T, H].
Var attend(Tape& tape, const char* name, const Var& q, const Var& k, const Var& v, cpu::KeyPattern pattern,
           const Parameter* sinks, const AttentionShape& shape, const BlockLists* chosen,
           const Tensor& scores = {}) {
  check_inputs(q, k, v, sinks, shape);
  pattern.documents = shape.documents;
  const cpu::AttentionSizes sizes = training_sizes(shape);
  const Var sink = sinks != nullptr ? tape.parameter(*sinks) : Var{};
  const Tensor value = Tensor::empty(q.shape(), q.value.dtype(), q.value.device());
  const Tensor lse =
      Tensor::empty({shape.tokens(), shape.num_heads}, accumulation_dtype(q.value.dtype()), q.value.device());
  HYSPARSE_LAUNCH(tape.stream(), attention_forward, sizes, pattern, q.value, k.value, v.value, sink.value,
                  value, lse, chosen, scores);
  const Var out = tape.output(value, {q, k, v, sink});
  if (!out.requires_grad()) return out;
  tape.record(
      name, {out},
      [stream = tape.stream(), sizes, pattern, q_saved = tape.save(q.value), k_saved = tape.save(k.value),
       v_saved = tape.save(v.value), out_saved = tape.save(value), lse_saved = tape.save(lse),
       sink = sink.value, dq = q.grad, dk = k.grad, dv = v.grad, dsink = sink.grad, dout = out.grad] {
        const Tensor q_value = q_saved.get(), k_value = k_saved.get(), v_value = v_saved.get();
        const cpu::AttentionGradients gradients{.q = target_or_scratch(dq, q_value),
                                                .k = target_or_scratch(dk, k_value),
                                                .v = target_or_scratch(dv, v_value),
                                                .sinks = dsink ? dsink->value() : Tensor()};
        HYSPARSE_LAUNCH(stream, attention_backward, sizes, pattern, q_value, k_value, v_value, sink,
                        out_saved.get(), lse_saved.get(), dout->value(), gradients);
      });
  return out;
}

}  // namespace

BlockLists empty_block_lists(const SelectionConfig& selection, std::int64_t query_rows,
                             std::int64_t num_kv_heads, std::int64_t keys, Device device) {
  HYSPARSE_CHECK(selection.block_size >= 1 && selection.top_blocks >= 0, "block size {}, top {}",
                 selection.block_size, selection.top_blocks);
  const std::int64_t blocks = (keys + selection.block_size - 1) / selection.block_size;
  const std::int64_t top = std::min(selection.top_blocks, blocks);
  return {.block_size = selection.block_size,
          .blocks = Tensor::empty({query_rows, num_kv_heads, top}, DType::i32, device),
          .counts = Tensor::empty({query_rows, num_kv_heads}, DType::i32, device)};
}

FullAttentionResult full_attention(Tape& tape, const Var& q, const Var& k, const Var& v,
                                   const AttentionShape& shape, const std::optional<SelectionConfig>& selection,
                                   const SharedGroup& shared) {
  FullAttentionResult result;
  Tensor scores;
  if (selection) {
    result.blocks =
        empty_block_lists(*selection, shape.tokens(), shape.num_kv_heads, shape.seq_len, q.value.device());
    if (shared.ranks > 1) scores = empty_scores(*result.blocks, shape, accumulation_dtype(q.value.dtype()));
  }
  result.out = attend(tape, "full_attention", q, k, v, {.kind = cpu::KeyPattern::Kind::causal}, nullptr, shape,
                      result.blocks ? &*result.blocks : nullptr, scores);
  if (scores.defined()) choose_together(tape.stream(), scores, shape, shared, *result.blocks);
  return result;
}

Var block_sparse_attention(Tape& tape, const Var& q, const Var& k, const Var& v, const BlockLists& blocks,
                           const Parameter* sinks, const AttentionShape& shape) {
  HYSPARSE_CHECK(blocks.block_size >= 1 && blocks.blocks.rank() == 3 &&
                     blocks.blocks.dim(0) == shape.tokens() && blocks.blocks.dim(1) == shape.num_kv_heads &&
                     blocks.counts.shape() == (Shape{shape.tokens(), shape.num_kv_heads}),
                 "blocks {} counts {}", blocks.blocks.shape().str(), blocks.counts.shape().str());
  return attend(tape, "block_sparse_attention", q, k, v,
                {.kind = cpu::KeyPattern::Kind::blocks, .blocks = blocks}, sinks, shape, nullptr);
}

Var window_attention(Tape& tape, const Var& q, const Var& k, const Var& v, std::int64_t window,
                     const Parameter* sinks, const AttentionShape& shape) {
  HYSPARSE_CHECK(window >= 1, "window {}", window);
  return attend(tape, "window_attention", q, k, v, {.kind = cpu::KeyPattern::Kind::window, .window = window},
                sinks, shape, nullptr);
}

}  // namespace hysparse
