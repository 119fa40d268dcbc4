#include "parallel/tensor_parallel.h"

#include "core/error.h"

namespace hysparse {
namespace {

std::int64_t slice_begin(std::int64_t total, int rank, int size) {
  return total * rank / size;
}

Tensor empty_rows(const Tensor& like, std::int64_t rows) {
  return Tensor::empty({rows, like.dim(1)}, like.dtype(), like.device());
}

/// Lets `write` fill a buffer that is added to the gradient: the gradient's own where that is fresh.
template <class F>
void contribute(const Stream& stream, Gradient& gradient, F&& write) {
  const auto [buffer, add] = gradient.target();
  if (!add) return write(buffer);
  const Tensor scratch = Tensor::empty(buffer.shape(), buffer.dtype(), buffer.device());
  write(scratch);
  add_in_place(stream, buffer, scratch);
}

/// Gives the gradient of `from`, which ends here, to `to`.
void hand_on(const Stream& stream, Gradient& from, Gradient& to) {
  Tensor g = from.value();
  from.release();
  to.accumulate(stream, std::move(g));
}

/// all <- the ranks' slices of its rows, in order of rank. Slices of unequal length travel padded with zeros.
void gather_rows(Communicator& group, const Tensor& own, const Tensor& all) {
  const std::int64_t total = all.dim(0);
  const int size = group.size();
  if (total % size == 0) return group.all_gather(own, all);
  const std::int64_t longest = total / size + 1;
  const Tensor padded = empty_rows(own, longest), gathered = empty_rows(own, longest * size);
  padded.slice(0, own.dim(0)).copy_from(own);
  padded.slice(own.dim(0), longest).zero_();
  group.all_gather(padded, gathered);
  for (int r = 0; r < size; ++r) {
    const std::int64_t begin = slice_begin(total, r, size), end = slice_begin(total, r + 1, size);
    all.slice(begin, end).copy_from(gathered.slice(r * longest, r * longest + end - begin));
  }
}

void check_matrix(const Var& x) {
  HYSPARSE_CHECK(x.value.rank() == 2, "{}", x.shape().str());
}

}  // namespace

TensorParallel::TensorParallel(Communicator& group, bool sequence_parallel) {
  if (group.size() == 1) return;
  group_ = &group;
  sequence_parallel_ = sequence_parallel;
}

Var TensorParallel::enter(Tape& tape, const Var& x) const {
  if (group_ == nullptr) return x;
  check_matrix(x);
  const Stream stream = tape.stream();
  if (!sequence_parallel_) {
    const Var out = tape.output(x.value, {x});
    if (!out.requires_grad()) return out;
    tape.record("tensor_parallel_enter", {out}, [stream, group = group_, dx = x.grad, dout = out.grad] {
      group->all_reduce(dout->value());
      hand_on(stream, *dout, *dx);
    });
    return out;
  }
  const Tensor all = empty_rows(x.value, x.dim(0) * size());
  gather_rows(*group_, x.value, all);
  const Var out = tape.output(all, {x});
  if (!out.requires_grad()) return out;
  tape.record("tensor_parallel_enter", {out}, [stream, group = group_, dx = x.grad, dout = out.grad] {
    contribute(stream, *dx, [&](const Tensor& rows) { group->reduce_scatter(dout->value(), rows); });
    dout->release();
  });
  return out;
}

Var TensorParallel::leave(Tape& tape, const Var& y) const {
  if (group_ == nullptr) return y;
  check_matrix(y);
  const Stream stream = tape.stream();
  if (!sequence_parallel_) {
    const Tensor sum = y.value.clone();
    group_->all_reduce(sum);
    const Var out = tape.output(sum, {y});
    if (!out.requires_grad()) return out;
    tape.record("tensor_parallel_leave", {out},
                [stream, dy = y.grad, dout = out.grad] { hand_on(stream, *dout, *dy); });
    return out;
  }
  HYSPARSE_CHECK(y.dim(0) % size() == 0, "{} rows over {} ranks", y.dim(0), size());
  const Tensor rows = empty_rows(y.value, y.dim(0) / size());
  group_->reduce_scatter(y.value, rows);
  const Var out = tape.output(rows, {y});
  if (!out.requires_grad()) return out;
  tape.record("tensor_parallel_leave", {out}, [stream, group = group_, dy = y.grad, dout = out.grad] {
    contribute(stream, *dy, [&](const Tensor& all) { gather_rows(*group, dout->value(), all); });
    dout->release();
  });
  return out;
}

Var TensorParallel::split(Tape& tape, const Var& x) const {
  if (group_ == nullptr || sequence_parallel_) return x;
  check_matrix(x);
  const TokenSlice own = slice(x.dim(0));
  // A copy, so that what is saved of the slice does not keep the other rows.
  const Var out = tape.output(x.value.slice(own.begin, own.end).clone(), {x});
  if (!out.requires_grad()) return out;
  tape.record("tensor_parallel_split", {out},
              [stream = tape.stream(), group = group_, dx = x.grad, dout = out.grad] {
                contribute(stream, *dx, [&](const Tensor& all) { gather_rows(*group, dout->value(), all); });
                dout->release();
              });
  return out;
}

Var TensorParallel::join(Tape& tape, const Var& x, std::int64_t tokens) const {
  if (group_ == nullptr || sequence_parallel_) return x;
  check_matrix(x);
  const TokenSlice own = slice(tokens);
  HYSPARSE_CHECK(x.dim(0) == own.end - own.begin, "{} rows of {} tokens on rank {} of {}", x.dim(0), tokens,
                 rank(), size());
  const Tensor all = empty_rows(x.value, tokens);
  gather_rows(*group_, x.value, all);
  const Var out = tape.output(all, {x});
  if (!out.requires_grad()) return out;
  tape.record("tensor_parallel_join", {out}, [stream = tape.stream(), own, dx = x.grad, dout = out.grad] {
    dx->accumulate(stream, dout->value().slice(own.begin, own.end).clone());
    dout->release();
  });
  return out;
}

TokenSlice TensorParallel::slice(std::int64_t tokens) const {
  if (group_ == nullptr) return {nullptr, 0, tokens, tokens};
  HYSPARSE_CHECK(!sequence_parallel_ || tokens % size() == 0, "{} tokens over {} ranks", tokens, size());
  return {group_, slice_begin(tokens, rank(), size()), slice_begin(tokens, rank() + 1, size()), tokens};
}

}  // namespace hysparse
