/// The oracle's choice on the GPU, and attention of new tokens against a cache.
#include <algorithm>

#include "attention/cuda/attention.h"
#include "attention/cuda/choose.h"
#include "tests/attention/cuda_cases.h"

namespace hysparse::testing {
namespace {

using Kind = cpu::KeyPattern::Kind;

/// Scores are differences of logits and lse of up to 100 in f32: blocks whose scores are closer may change
/// places.
constexpr float margin = 1e-4f;

struct Choice {
  Tensor out, lse, scores;
  BlockLists lists;
};

cpu::AttentionSizes sizes_from(const GpuCase& c, std::int64_t start) {
  return {c.sequences, c.seq_len, start, start + c.seq_len, c.num_heads, c.num_kv_heads, c.head_dim};
}

/// Expects the lists to be of the right lengths, ascending, and of the largest scores.
void expect_best(const BlockLists& lists, const Tensor& scores, std::int64_t start, std::int64_t seq_len,
                 const Tensor& documents) {
  const std::vector<std::int32_t> blocks = lists.blocks.to_vector<std::int32_t>();
  const std::vector<std::int32_t> counts = lists.counts.to_vector<std::int32_t>();
  const std::vector<float> all = scores.to_vector<float>();
  const auto groups = static_cast<std::size_t>(scores.dim(1)),
             columns = static_cast<std::size_t>(scores.dim(2));
  const auto top = static_cast<std::size_t>(lists.blocks.dim(2));
  for (std::size_t list = 0; list < counts.size(); ++list) {
    const auto row = static_cast<std::int64_t>(list / groups);
    const std::int64_t document = documents.defined() ? documents.data<std::int32_t>()[row] : 0;
    const auto first = static_cast<std::size_t>(document / lists.block_size),
               end = static_cast<std::size_t>((start + row % seq_len) / lists.block_size) + 1;
    const std::size_t count = std::min(end - first, top);
    ASSERT_EQ(counts[list], static_cast<std::int32_t>(count)) << "list " << list;
    std::vector<bool> chosen(end, false);
    float least = std::numeric_limits<float>::infinity(), most_left = -least;
    for (std::size_t i = 0; i < top; ++i) {
      const std::int32_t b = blocks[list * top + i];
      if (i >= count) {
        ASSERT_EQ(b, -1) << "list " << list;
        continue;
      }
      ASSERT_TRUE(b >= static_cast<std::int32_t>(first) && b < static_cast<std::int32_t>(end) &&
                  (i == 0 || b > blocks[list * top + i - 1]))
          << "list " << list << " entry " << i << ": " << b;
      chosen[static_cast<std::size_t>(b)] = true;
      least = std::min(least, all[list * columns + static_cast<std::size_t>(b)]);
    }
    for (std::size_t b = first; b < end; ++b) {
      if (!chosen[b]) most_left = std::max(most_left, all[list * columns + b]);
    }
    if (count > 0) {
      ASSERT_GE(least, most_left - margin) << "list " << list;
    }
  }
}

TEST(CudaChoose, BestBlocksAndTheirScores) {
  for (const GpuCase& c : {GpuCase{1, 1, 1, 1, 32, 64, 1, 1}, GpuCase{2, 250, 16, 1, 128, 64, 2, 1},
                           GpuCase{1, 257, 6, 2, 32, 24, 3, 1}, GpuCase{3, 70, 5, 1, 48, 5, 4, 1},
                           GpuCase{1, 300, 16, 4, 128, 16, 6, 1}, GpuCase{1, 190, 32, 2, 16, 64, 0, 1},
                           GpuCase{1, 150, 4, 1, 80, 32, 100, 1}, GpuCase{1, 200, 16, 1, 256, 64, 2, 1},
                           GpuCase{1, 900, 8, 2, 64, 128, 2, 1}, GpuCase{1, 2100, 2, 1, 32, 4, 64, 1},
                           GpuCase{2, 650, 16, 1, 128, 64, 2, 1, 200}, GpuCase{1, 257, 6, 2, 32, 24, 3, 1, 90},
                           GpuCase{1, 300, 16, 4, 128, 16, 3, 1, 70}, GpuCase{1, 900, 8, 2, 64, 128, 2, 1, 400},
                           GpuCase{3, 70, 5, 1, 48, 5, 4, 1, 30}, GpuCase{1, 2100, 2, 1, 32, 4, 64, 1, 700},
                           GpuCase{1, 500, 16, 1, 256, 64, 1, 1, 150}}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      for (const std::int64_t start : {0, 77}) {
        if (start > 0 && (c.sequences > 1 || c.document > 0)) continue;
        SCOPED_TRACE(::testing::Message() << c << " from " << start << " " << dtype_name(dtype));
        const GpuCase keys{c.sequences, start + c.seq_len, c.num_heads, c.num_kv_heads, c.head_dim, 1, 1, 1};
        const GpuInputs inputs(c, dtype, 11), cache(keys, dtype, 12);
        const cpu::AttentionSizes sizes = sizes_from(c, start);
        const cpu::KeyPattern causal{.kind = Kind::causal, .documents = c.documents()},
            gpu_causal = on_gpu(causal);
        const BlockLists lists = empty_block_lists({c.block_size, c.top_blocks}, c.rows(), c.num_kv_heads,
                                                   start + c.seq_len, Device{});
        const std::int64_t columns = (start + c.seq_len + c.block_size - 1) / c.block_size;
        const Shape score_shape{c.rows(), c.num_kv_heads, columns};
        const Tensor expected = Tensor::empty(score_shape, DType::f32),
                     out = Tensor::empty(inputs.q.shape(), DType::f32),
                     lse = Tensor::empty({c.rows(), c.num_heads}, DType::f32);
        cpu::attention_forward(cpu_stream(), sizes, causal, inputs.q, cache.k, cache.v, {}, out, lse, &lists,
                               expected);

        const Tensor q = on_gpu(inputs.q, dtype), k = on_gpu(cache.k, dtype), v = on_gpu(cache.v, dtype);
        const Tensor gpu_out = poisoned(q.shape(), dtype), gpu_lse = poisoned(lse.shape(), DType::f32);
        const BlockLists chosen{c.block_size, poisoned(lists.blocks.shape(), DType::i32),
                                poisoned(lists.counts.shape(), DType::i32)};
        cuda::attention_forward(gpu(), sizes, gpu_causal, q, k, v, {}, gpu_out, gpu_lse, &chosen);
        EXPECT_LE(gpu_error(gpu_out, out), bound_of(dtype));
        expect_best(chosen, expected, start, c.seq_len, causal.documents);

        const Tensor scores = poisoned(score_shape, DType::f32);
        cuda::attention_forward(gpu(), sizes, gpu_causal, q, k, v, {}, gpu_out, gpu_lse, &chosen, scores);
        const std::vector<float> got = scores.to_vector<float>(), wanted = expected.to_vector<float>();
        for (std::size_t i = 0; i < got.size(); ++i) {
          if (std::isinf(wanted[i])) {
            ASSERT_EQ(got[i], wanted[i]) << "score " << i;
          } else {
            ASSERT_NEAR(got[i], wanted[i], margin) << "score " << i;
          }
        }
      }
    }
  }
}

/// Equal keys have equal scores: the lowest blocks are chosen.
TEST(CudaChoose, TiesGoToTheLowerBlock) {
  const GpuCase c{1, 400, 8, 2, 64, 16, 4, 1};
  for (const DType dtype : {DType::f32, DType::bf16}) {
    GpuInputs inputs(c, dtype, 13);
    for (std::int64_t t = 1; t < c.seq_len; ++t) inputs.k.slice(t, t + 1).copy_from(inputs.k.slice(0, 1));
    const BlockLists chosen{c.block_size, poisoned({c.rows(), 2, 4}, DType::i32),
                            poisoned({c.rows(), 2}, DType::i32)};
    const Tensor q = on_gpu(inputs.q, dtype), k = on_gpu(inputs.k, dtype);
    cuda::attention_forward(gpu(), c.sizes(), {.kind = Kind::causal}, q, k, k, {}, poisoned(q.shape(), dtype),
                            poisoned({c.rows(), 8}, DType::f32), &chosen);
    const std::vector<std::int32_t> blocks = chosen.blocks.to_vector<std::int32_t>();
    for (std::size_t i = 64 * 8; i < blocks.size(); ++i) ASSERT_EQ(blocks[i], static_cast<std::int32_t>(i % 4));
  }
}

/// Scores of several ranks, with ties and blocks that nobody likes.
TEST(CudaChoose, FromScores) {
  for (const std::int64_t columns : {1, 7, 64, 700}) {
    constexpr std::int64_t parts = 3, rows = 50, block = 4;
    const std::int64_t seq_len = columns * block, first = std::max<std::int64_t>(0, seq_len - rows);
    const Tensor scores = random_tensor({parts, rows, columns}, 14, "scores", 3.0, DType::f32);
    for (std::int64_t i = 0; i < scores.numel(); ++i) {
      float& x = scores.data<float>()[i];
      x = i % 11 == 0 ? -std::numeric_limits<float>::infinity() : std::round(x);
    }
    for (const std::int64_t top : {0, 1, 5, 64}) {
      const std::int64_t most = std::min(top, columns);
      const Tensor expected = Tensor::empty({rows, most}, DType::i32),
                   blocks = poisoned({rows, most}, DType::i32);
      for (const Tensor& documents : {Tensor(), random_documents((first + rows) / seq_len + 2, seq_len, 20)}) {
        const Tensor there = documents.defined() ? on_gpu(documents) : Tensor();
        cpu::choose_blocks(cpu_stream(), scores, first, seq_len, block, documents, expected);
        cuda::choose_blocks(gpu(), on_gpu(scores), first, seq_len, block, there, blocks);
        EXPECT_EQ(blocks.to_vector<std::int32_t>(), expected.to_vector<std::int32_t>());
        const Tensor counts = Tensor::empty({2 * seq_len, 1}, DType::i32),
                     gpu_counts = poisoned({2 * seq_len, 1}, DType::i32);
        cpu::count_blocks(cpu_stream(), seq_len, block, documents, most, counts);
        cuda::count_blocks(gpu(), seq_len, block, there, most, gpu_counts);
        EXPECT_EQ(gpu_counts.to_vector<std::int32_t>(), counts.to_vector<std::int32_t>());
      }
    }
  }
}

/// A window over a ring of keys, and chosen blocks, from a position.
TEST(CudaDecode, RingAndBlocks) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const std::int64_t tokens : {1, 5, 40}) {
      const GpuCase c{1, tokens, 8, 2, 64, 16, 4, 50};
      const std::int64_t start = 301, ring = 100;
      const GpuInputs inputs(c, dtype, 15), cache({1, start + tokens, 8, 2, 64, 1, 1, 1}, dtype, 16);
      const Tensor q = on_gpu(inputs.q, dtype), out = Tensor::empty(inputs.q.shape(), DType::f32),
                   lse = Tensor::empty({tokens, 8}, DType::f32), gpu_out = poisoned(q.shape(), dtype),
                   gpu_lse = poisoned({tokens, 8}, DType::f32);
      const auto compare = [&](const cpu::AttentionSizes& sizes, const cpu::KeyPattern& pattern,
                               const Tensor& k, const Tensor& v) {
        const cpu::KeyPattern there = on_gpu(pattern);
        cpu::attention_forward(cpu_stream(), sizes, pattern, inputs.q, k, v, inputs.sinks, out, lse, nullptr);
        cuda::attention_forward(gpu(), sizes, there, q, on_gpu(k, dtype), on_gpu(v, dtype),
                                on_gpu(inputs.sinks, dtype), gpu_out, gpu_lse, nullptr);
        EXPECT_LE(gpu_error(gpu_out, out), bound_of(dtype));
        EXPECT_LE(gpu_error(gpu_lse, lse), 1e-5);
      };
      cpu::AttentionSizes sizes = sizes_from(c, start);
      BlockLists lists = empty_block_lists({16, 4}, tokens, 2, start + tokens, Device{});
      for (std::int64_t i = 0; i < lists.blocks.numel(); ++i)
        lists.blocks.data<std::int32_t>()[i] =
            static_cast<std::int32_t>(i % 4 * 6 + i / 8 % 3 - (i % 4 == 3 ? 2 : 0));
      std::fill_n(lists.counts.data<std::int32_t>(), lists.counts.numel(), 4);
      compare(sizes, {.kind = Kind::blocks, .blocks = lists}, cache.k, cache.v);
      sizes.key_rows = ring;
      compare(sizes, {.kind = Kind::window, .window = 50}, cache.k.slice(0, ring), cache.v.slice(0, ring));
    }
  }
}

}  // namespace
}  // namespace hysparse::testing
