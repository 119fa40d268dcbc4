/// What the tests of the GPU's attention share: one problem, its inputs, and runs of it by either backend.
#pragma once

#include <vector>

#include "attention/cpu/attention.h"
#include "tests/attention/documents.h"
#include "tests/core/gpu_test.h"

namespace hysparse::testing {

/// Fields as in attention/attention.h. `document`: mean length of documents, 0 without masks.
struct GpuCase {
  std::int64_t sequences, seq_len, num_heads, num_kv_heads, head_dim, block_size, top_blocks, window,
      document = 0;
  cpu::AttentionSizes sizes() const {
    return {sequences, seq_len, 0, seq_len, num_heads, num_kv_heads, head_dim};
  }
  std::int64_t rows() const { return sequences * seq_len; }
  Tensor documents() const { return random_documents(sequences, seq_len, document); }
};
std::ostream& operator<<(std::ostream& os, const GpuCase& c);

/// f32 numbers on the CPU that `dtype` has all of.
struct GpuInputs {
  Tensor q, k, v, sinks, dout;
  GpuInputs(const GpuCase& c, DType dtype, std::uint64_t seed);
};

/// On the CPU, in f32.
struct AttentionRun {
  Tensor out, lse;
  Tensor dq, dk, dv, dsinks;
};

/// Lists and documents on the GPU.
BlockLists on_gpu(const BlockLists& lists);
cpu::KeyPattern on_gpu(const cpu::KeyPattern& pattern);

/// Forward by cpu::, and backward given its out rounded to `dtype`. `before`: what the gradients are added to;
/// undefined tensors: they are overwritten.
AttentionRun run_cpu(const GpuCase& c, const GpuInputs& inputs, const cpu::KeyPattern& pattern, bool sinks,
                     DType dtype, const GpuInputs* before);
/// The same by cuda:: with tensors of `dtype`, its backward given `reference`'s out and lse.
AttentionRun run_gpu(const GpuCase& c, const GpuInputs& inputs, const cpu::KeyPattern& pattern, bool sinks,
                     DType dtype, const GpuInputs* before, const AttentionRun& reference);

/// The choice of cpu::attention_forward.
BlockLists choose_on_cpu(const GpuCase& c, const GpuInputs& inputs);

/// Threads for the CPU's side.
Stream cpu_stream();

}  // namespace hysparse::testing
