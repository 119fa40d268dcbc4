#include "core/ops/cross_entropy.h"

#include <algorithm>

#include "core/backend.h"
#include "core/cpu/cross_entropy.h"
#include "core/cpu/matmul.h"
#include "core/cpu/scalar.h"
#include "core/cuda/cross_entropy.h"
#include "core/cuda/matmul.h"
#include "core/cuda/scalar.h"

namespace hysparse {
namespace {

using cpu::Transpose;

constexpr std::int64_t min_chunk_tokens = 64;

std::int64_t chunk_tokens(const Tensor& x, const Tensor& head) {
  constexpr std::int64_t in_cache = 8 << 20, fills_gpu = 256 << 20;
  const std::int64_t row_bytes = std::max<std::int64_t>(1, head.dim(0) * dtype_size(x.dtype()));
  if (x.device().is_cpu()) return std::max(min_chunk_tokens, in_cache / row_bytes);
  // Each chunk reads and writes the whole gradient of the head: of chunks of its size that is little beside
  // their product.
  const std::int64_t most = std::max(fills_gpu, head.numel() * dtype_size(DType::f32)) / row_bytes;
  constexpr std::int64_t tile = 128;  // of rows, in the product
  return std::max(min_chunk_tokens, most < tile ? most : most / tile * tile);
}

/// Calls body(begin, end, logits) for the chunks of tokens, with the logits of each: `kept` where that holds
/// all of them.
template <class F>
void for_each_chunk(const Stream& stream, const Tensor& x, const Tensor& head, const Tensor& kept, F&& body) {
  const std::int64_t tokens = x.dim(0), most = chunk_tokens(x, head);
  if (kept.defined()) return body(0, tokens, kept);
  const Tensor buffer = Tensor::empty({std::min(tokens, most), head.dim(0)}, x.dtype(), x.device());
  for (std::int64_t begin = 0; begin < tokens; begin += most) {
    const std::int64_t end = std::min(tokens, begin + most);
    const Tensor logits = buffer.slice(0, end - begin);
    HYSPARSE_LAUNCH(stream, matmul, Transpose::no, Transpose::yes, x.slice(begin, end), head, logits, false);
    body(begin, end, logits);
  }
}

/// Fills lse [T] and losses f64 [T]. Returns the logits where one chunk holds all.
Tensor forward(const Stream& stream, const Tensor& x, const Tensor& head, const Tensor& targets,
               const Tensor& lse, const Tensor& losses) {
  Tensor whole;
  for_each_chunk(stream, x, head, {}, [&](std::int64_t begin, std::int64_t end, const Tensor& logits) {
    if (end - begin == x.dim(0)) whole = logits;
    HYSPARSE_LAUNCH(stream, cross_entropy_forward, logits, targets.slice(begin, end), lse.slice(begin, end),
                    losses.slice(begin, end));
  });
  return whole;
}

/// The same from one part of the vocabulary.
Tensor forward_part(const Stream& stream, const Tensor& x, const Tensor& head, const Tensor& targets,
                    const VocabularyRows& rows, const GatherParts& gather, const Tensor& lse,
                    const Tensor& losses) {
  Tensor whole;
  const Tensor part = Tensor::empty({x.dim(0), 2}, DType::f64, x.device());
  for_each_chunk(stream, x, head, {}, [&](std::int64_t begin, std::int64_t end, const Tensor& logits) {
    if (end - begin == x.dim(0)) whole = logits;
    HYSPARSE_LAUNCH(stream, cross_entropy_part, logits, targets.slice(begin, end), rows.first,
                    part.slice(begin, end));
  });
  HYSPARSE_LAUNCH(stream, cross_entropy_merge, gather(part), targets, lse, losses);
  return whole;
}

CrossEntropy cross_entropy(Tape& tape, const Var& x, const Parameter& head, const Tensor& targets,
                           const VocabularyRows& rows, const GatherParts& gather) {
  HYSPARSE_CHECK(x.value.rank() == 2 && head.value.rank() == 2 && x.dim(1) == head.value.dim(1), "x {}, {} {}",
                 x.shape().str(), head.name, head.value.shape().str());
  HYSPARSE_CHECK(targets.rank() == 1 && targets.dtype() == DType::i32 && targets.dim(0) == x.dim(0),
                 "x {}, targets {}", x.shape().str(), targets.shape().str());
  HYSPARSE_CHECK(rows.first >= 0 && rows.first + head.value.dim(0) <= rows.size, "{}: rows {} + {} of {}",
                 head.name, rows.first, head.value.dim(0), rows.size);
  const Stream stream = tape.stream();
  CrossEntropy result;
  if (targets.device().is_cpu()) check_targets(targets, head.name, rows.size);
  const DType sums = accumulation_dtype(x.value.dtype());
  const Tensor lse = Tensor::empty({x.dim(0)}, sums, x.value.device());
  const Tensor losses = Tensor::empty({x.dim(0)}, DType::f64, x.value.device());
  const Tensor whole = gather ? forward_part(stream, x.value, head.value, targets, rows, gather, lse, losses)
                              : forward(stream, x.value, head.value, targets, lse, losses);
  result.loss = Tensor::empty({1}, DType::f64, x.value.device());
  HYSPARSE_LAUNCH(stream, sum_terms, losses, result.loss);

  const Var parameter = tape.parameter(head);
  result.loss_sum = tape.output(result.loss.to(sums), {x, parameter});
  if (!result.loss_sum.requires_grad()) return result;
  tape.record("linear_cross_entropy", {result.loss_sum},
              [stream, saved = tape.save(x.value), head = head.value, targets, first = rows.first,
               lse = tape.save(lse), kept = whole.defined() ? tape.save(whole) : Saved(), dx = x.grad,
               dhead = parameter.grad, dloss = result.loss_sum.grad] {
                const Tensor saved_x = saved.get(), row_lse = lse.get();
                const auto target = dx ? dx->target() : Gradient::Target{};
                for_each_chunk(stream, saved_x, head, kept.get(),
                               [&](std::int64_t begin, std::int64_t end, const Tensor& logits) {
                                 HYSPARSE_LAUNCH(stream, cross_entropy_backward, logits,
                                                 targets.slice(begin, end), first, row_lse.slice(begin, end),
                                                 dloss->value());
                                 if (dx) {
                                   HYSPARSE_LAUNCH(stream, matmul, Transpose::no, Transpose::no, logits, head,
                                                   target.buffer.slice(begin, end), target.add);
                                 }
                                 if (dhead) {
                                   HYSPARSE_LAUNCH(stream, matmul, Transpose::yes, Transpose::no, logits,
                                                   saved_x.slice(begin, end), dhead->value(), true);
                                 }
                               });
              });
  return result;
}

}  // namespace

CrossEntropy linear_cross_entropy(Tape& tape, const Var& x, const Parameter& head, const Tensor& targets) {
  return cross_entropy(tape, x, head, targets, {.first = 0, .size = head.value.dim(0)}, {});
}

CrossEntropy linear_cross_entropy(Tape& tape, const Var& x, const Parameter& head, const Tensor& targets,
                                  const VocabularyRows& rows, const GatherParts& gather) {
  HYSPARSE_CHECK(gather, "{}", head.name);
  return cross_entropy(tape, x, head, targets, rows, gather);
}

}  // namespace hysparse
