#include "tests/attention/cuda_cases.h"

#include <ostream>
#include <thread>

#include "attention/cuda/attention.h"

namespace hysparse::testing {
namespace {

Gradient::Target target(const Tensor& like, const Tensor* before) {
  if (before != nullptr) return {before->clone(), true};
  return {like.clone(), false};
}

}  // namespace

std::ostream& operator<<(std::ostream& os, const GpuCase& c) {
  return os << c.sequences << " x " << c.seq_len << " tokens, " << c.num_heads << "/" << c.num_kv_heads
            << " heads of " << c.head_dim << ", " << c.top_blocks << " blocks of " << c.block_size
            << ", window " << c.window << ", documents of " << c.document;
}

Stream cpu_stream() {
  static TestStream stream(static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, 16u)));
  return stream;
}

GpuInputs::GpuInputs(const GpuCase& c, DType dtype, std::uint64_t seed) {
  const Shape queries{c.rows(), c.num_heads * c.head_dim}, keys{c.rows(), c.num_kv_heads * c.head_dim};
  q = random_for(dtype, queries, seed, "q", 1.5);
  k = random_for(dtype, keys, seed, "k");
  v = random_for(dtype, keys, seed, "v");
  sinks = random_for(dtype, {c.num_heads}, seed, "sinks");
  dout = random_for(dtype, queries, seed, "dout");
}

BlockLists on_gpu(const BlockLists& lists) {
  return {lists.block_size, on_gpu(lists.blocks), on_gpu(lists.counts)};
}

cpu::KeyPattern on_gpu(const cpu::KeyPattern& pattern) {
  cpu::KeyPattern there = pattern;
  if (pattern.blocks.blocks.defined()) there.blocks = on_gpu(pattern.blocks);
  if (pattern.documents.defined()) there.documents = on_gpu(pattern.documents);
  return there;
}

AttentionRun run_cpu(const GpuCase& c, const GpuInputs& inputs, const cpu::KeyPattern& pattern, bool sinks,
                     DType dtype, const GpuInputs* before) {
  const Tensor sink = sinks ? inputs.sinks : Tensor();
  AttentionRun run{.out = Tensor::empty(inputs.q.shape(), DType::f32),
                   .lse = Tensor::empty({c.rows(), c.num_heads}, DType::f32)};
  cpu::attention_forward(cpu_stream(), c.sizes(), pattern, inputs.q, inputs.k, inputs.v, sink, run.out, run.lse,
                         nullptr);
  const cpu::AttentionGradients gradients{.q = target(inputs.q, before != nullptr ? &before->q : nullptr),
                                          .k = target(inputs.k, before != nullptr ? &before->k : nullptr),
                                          .v = target(inputs.v, before != nullptr ? &before->v : nullptr),
                                          .sinks = sinks ? Tensor::zeros({c.num_heads}, DType::f32) : Tensor()};
  cpu::attention_backward(cpu_stream(), c.sizes(), pattern, inputs.q, inputs.k, inputs.v, sink,
                          run.out.to(dtype).to(DType::f32), run.lse, inputs.dout, gradients);
  run.dq = gradients.q.buffer;
  run.dk = gradients.k.buffer;
  run.dv = gradients.v.buffer;
  run.dsinks = gradients.sinks;
  return run;
}

AttentionRun run_gpu(const GpuCase& c, const GpuInputs& inputs, const cpu::KeyPattern& pattern, bool sinks,
                     DType dtype, const GpuInputs* before, const AttentionRun& reference) {
  const Tensor q = on_gpu(inputs.q, dtype), k = on_gpu(inputs.k, dtype), v = on_gpu(inputs.v, dtype);
  const Tensor sink = sinks ? on_gpu(inputs.sinks, dtype) : Tensor();
  const cpu::KeyPattern there = on_gpu(pattern);
  AttentionRun run{.out = poisoned(q.shape(), dtype), .lse = poisoned({c.rows(), c.num_heads}, DType::f32)};
  cuda::attention_forward(gpu(), c.sizes(), there, q, k, v, sink, run.out, run.lse, nullptr);
  const auto gradient = [&](const Tensor& like, const Tensor* old) -> Gradient::Target {
    if (old != nullptr) return {on_gpu(*old, dtype), true};
    return {poisoned(like.shape(), dtype), false};
  };
  const cpu::AttentionGradients gradients{
      .q = gradient(q, before != nullptr ? &before->q : nullptr),
      .k = gradient(k, before != nullptr ? &before->k : nullptr),
      .v = gradient(v, before != nullptr ? &before->v : nullptr),
      .sinks = sinks ? Tensor::zeros({c.num_heads}, DType::f32, gpu().device) : Tensor()};
  cuda::attention_backward(gpu(), c.sizes(), there, q, k, v, sink, on_gpu(reference.out, dtype),
                           on_gpu(reference.lse), on_gpu(inputs.dout, dtype), gradients);
  run.dq = gradients.q.buffer;
  run.dk = gradients.k.buffer;
  run.dv = gradients.v.buffer;
  run.dsinks = gradients.sinks;
  return run;
}

BlockLists choose_on_cpu(const GpuCase& c, const GpuInputs& inputs) {
  const BlockLists lists =
      empty_block_lists({c.block_size, c.top_blocks}, c.rows(), c.num_kv_heads, c.seq_len, Device{});
  const Tensor out = Tensor::empty(inputs.q.shape(), DType::f32);
  const Tensor lse = Tensor::empty({c.rows(), c.num_heads}, DType::f32);
  cpu::attention_forward(cpu_stream(), c.sizes(),
                         {.kind = cpu::KeyPattern::Kind::causal, .documents = c.documents()}, inputs.q,
                         inputs.k, inputs.v, {}, out, lse, &lists);
  return lists;
}

}  // namespace hysparse::testing
