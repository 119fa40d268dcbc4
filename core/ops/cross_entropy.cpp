#include "core/ops/cross_entropy.h"

#include <algorithm>

#include "core/backend.h"
#include "core/cpu/cross_entropy.h"
#include "core/cpu/matmul.h"
#include "core/ops/scalar.h"

namespace hysparse {
namespace {

using cpu::Transpose;

constexpr std::int64_t chunk_bytes = 8 << 20;
constexpr std::int64_t min_chunk_tokens = 64;

/// Calls body(begin, end, logits) for the chunks of tokens, with the logits of each: `kept` where that holds
/// all of them.
template <class F>
void for_each_chunk(const Stream& stream, const Tensor& x, const Tensor& head, const Tensor& kept, F&& body) {
  const std::int64_t tokens = x.dim(0), row_bytes = head.dim(0) * dtype_size(x.dtype());
  if (kept.defined()) return body(0, tokens, kept);
  const std::int64_t most = std::max(min_chunk_tokens, chunk_bytes / std::max<std::int64_t>(1, row_bytes));
  const Tensor buffer = Tensor::empty({std::min(tokens, most), head.dim(0)}, x.dtype(), x.device());
  for (std::int64_t begin = 0; begin < tokens; begin += most) {
    const std::int64_t end = std::min(tokens, begin + most);
    const Tensor logits = buffer.slice(0, end - begin);
    HYSPARSE_LAUNCH(stream, matmul, Transpose::no, Transpose::yes, x.slice(begin, end), head, logits, false);
    body(begin, end, logits);
  }
}

std::int64_t count_targets(const Tensor& targets, const Parameter& head, std::int64_t vocabulary) {
  std::int64_t count = 0;
  for (std::int64_t t = 0; t < targets.numel(); ++t) {
    const std::int32_t id = targets.data<std::int32_t>()[t];
    if (id >= vocabulary) {
      throw_error("target {} has id {}; the vocabulary of {} has ids 0 to {}", t, id, head.name,
                  vocabulary - 1);
    }
    count += id >= 0;
  }
  return count;
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
  result.targets = count_targets(targets, head, rows.size);
  const Tensor lse = Tensor::empty({x.dim(0)}, x.value.dtype(), x.value.device());
  const Tensor losses = Tensor::empty({x.dim(0)}, DType::f64, x.value.device());
  const Tensor whole = gather ? forward_part(stream, x.value, head.value, targets, rows, gather, lse, losses)
                              : forward(stream, x.value, head.value, targets, lse, losses);
  for (std::int64_t t = 0; t < losses.numel(); ++t) result.loss += losses.data<double>()[t];
  const Tensor sum = scalar_tensor(result.loss, x.value.dtype(), x.value.device());

  const Var parameter = tape.parameter(head);
  result.loss_sum = tape.output(sum, {x, parameter});
  if (!result.loss_sum.requires_grad()) return result;
  tape.record("linear_cross_entropy", {result.loss_sum},
              [stream, saved = tape.save(x.value), head = head.value, targets, first = rows.first,
               lse = tape.save(lse), kept = whole.defined() ? tape.save(whole) : Saved(), dx = x.grad,
               dhead = parameter.grad, dloss = result.loss_sum.grad] {
                const Tensor saved_x = saved.get(), row_lse = lse.get();
                const double scale = scalar_value(dloss->value());
                const auto target = dx ? dx->target() : Gradient::Target{};
                for_each_chunk(stream, saved_x, head, kept.get(),
                               [&](std::int64_t begin, std::int64_t end, const Tensor& logits) {
                                 HYSPARSE_LAUNCH(stream, cross_entropy_backward, logits,
                                                 targets.slice(begin, end), first, row_lse.slice(begin, end),
                                                 scale);
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
