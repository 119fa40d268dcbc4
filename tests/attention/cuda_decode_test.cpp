/// Attention of a few new tokens on the GPU against cpu::, with the keys split and without.
#include "attention/cuda/decode.h"
#include "tests/attention/cuda_cases.h"

namespace hysparse::testing {
namespace {

using Kind = cpu::KeyPattern::Kind;

/// New tokens from position `start` on; keys in `ring` rows (0: all).
struct DecodeCase {
  std::int64_t tokens, start, num_heads, num_kv_heads, head_dim, block_size, top_blocks, window;
  std::int64_t keys() const { return start + tokens; }
  cpu::AttentionSizes sizes(std::int64_t rows) const {
    return {1, tokens, start, rows, num_heads, num_kv_heads, head_dim};
  }
};

const std::vector<DecodeCase> cases{
    {1, 0, 4, 2, 32, 16, 2, 8},          // the first token
    {1, 63, 8, 2, 64, 64, 1, 64},        // the last of a block
    {1, 64, 8, 2, 64, 64, 1, 64},        // the first of one
    {1, 1000, 16, 1, 128, 64, 4, 128},   // two chunks of heads
    {1, 5000, 64, 4, 128, 64, 16, 128},  // the large preset's heads
    {2, 700, 3, 3, 64, 24, 3, 1000},     // one head per group, blocks of 24, window above the keys
    {4, 997, 10, 2, 80, 5, 7, 33},       // blocks of 5
    {4, 130, 4, 1, 256, 128, 2, 100},    // rows that see different numbers of blocks
    {1, 2000, 6, 2, 48, 300, 2, 50},     // blocks of several tiles
    {3, 40000, 8, 2, 64, 64, 8, 64},     // several units per split
    {9, 400, 8, 2, 64, 16, 4, 50},       // the kernels of training
    {2, 500, 8, 8, 32, 64, 0, 64},       // no blocks
    {4, 100, 16, 1, 64, 256, 3, 1},      // a block larger than all keys, a window of one
};

/// Head sizes that only fp32 takes.
const std::vector<DecodeCase> odd_cases{
    {1, 0, 2, 1, 4, 8, 2, 3},           {1, 201, 4, 2, 7, 16, 3, 40},
    {3, 333, 16, 1, 20, 64, 100, 1000},  // more blocks wanted than there are
    {2, 150, 6, 6, 24, 24, 2, 5},       {1, 130, 2, 1, 250, 128, 1, 60},
    {6, 90, 4, 2, 8, 16, 2, 30},  // the kernels of training
};

class CudaDecodeAttention : public ::testing::TestWithParam<std::tuple<DecodeCase, DType>> {
 protected:
  CudaDecodeAttention()
      : c(std::get<0>(GetParam())),
        dtype(std::get<1>(GetParam())),
        q(random_for(dtype, {c.tokens, c.num_heads * c.head_dim}, 1, "q", 1.5)),
        k(random_for(dtype, {c.keys(), c.num_kv_heads * c.head_dim}, 1, "k")),
        v(random_for(dtype, k.shape(), 1, "v")),
        sinks(random_for(dtype, {c.num_heads}, 1, "sinks")) {}

  void compare(std::int64_t rows, const cpu::KeyPattern& pattern, bool with_sinks) const {
    const Tensor expected = Tensor::empty(q.shape(), DType::f32), out = poisoned(q.shape(), dtype);
    const Tensor keys = ring(k, rows), values = ring(v, rows), sink = with_sinks ? sinks : Tensor();
    cpu::decode_attention(cpu_stream(), c.sizes(rows), pattern, q, keys, values, sink, expected, nullptr);
    cuda::decode_attention(gpu(), c.sizes(rows), on_gpu(pattern), on_gpu(q, dtype), on_gpu(keys, dtype),
                           on_gpu(values, dtype), with_sinks ? on_gpu(sink, dtype) : sink, out, nullptr);
    EXPECT_LE(gpu_error(out, expected), bound_of(dtype));
  }
  BlockLists lists() const {
    return empty_block_lists({c.block_size, c.top_blocks}, c.tokens, c.num_kv_heads, c.keys(), Device{});
  }
  BlockLists choose_on_cpu() const {
    const BlockLists chosen = lists();
    cpu::decode_attention(cpu_stream(), c.sizes(c.keys()), {.kind = Kind::causal}, q, k, v, {},
                          Tensor::empty(q.shape(), DType::f32), &chosen);
    return chosen;
  }

  const DecodeCase c;
  const DType dtype;
  const Tensor q, k, v, sinks;

 private:
  /// The last `rows` tokens, each in the row of its position modulo rows.
  static Tensor ring(const Tensor& all, std::int64_t rows) {
    if (rows == all.dim(0)) return all;
    const Tensor to = Tensor::empty({rows, all.dim(1)}, all.dtype());
    for (std::int64_t p = all.dim(0) - rows; p < all.dim(0); ++p)
      to.slice(p % rows, p % rows + 1).copy_from(all.slice(p, p + 1));
    return to;
  }
};

TEST_P(CudaDecodeAttention, Causal) {
  for (const bool with_sinks : {false, true}) compare(c.keys(), {.kind = Kind::causal}, with_sinks);
}

TEST_P(CudaDecodeAttention, Window) {
  for (const bool with_sinks : {false, true}) {
    const cpu::KeyPattern pattern{.kind = Kind::window, .window = c.window};
    compare(c.keys(), pattern, with_sinks);
    compare(std::min(c.keys(), c.window + c.tokens - 1), pattern, with_sinks);
  }
}

TEST_P(CudaDecodeAttention, Blocks) {
  for (const bool with_sinks : {false, true})
    compare(c.keys(), {.kind = Kind::blocks, .blocks = choose_on_cpu()}, with_sinks);
}

/// The lists of the CPU, but for blocks whose scores are equal to rounding: few of them at random.
TEST_P(CudaDecodeAttention, Oracle) {
  const BlockLists expected = choose_on_cpu(), like = lists();
  const BlockLists chosen{c.block_size, poisoned(like.blocks.shape(), DType::i32),
                          poisoned(like.counts.shape(), DType::i32)};
  cuda::decode_attention(gpu(), c.sizes(c.keys()), {.kind = Kind::causal}, on_gpu(q, dtype), on_gpu(k, dtype),
                         on_gpu(v, dtype), {}, poisoned(q.shape(), dtype), &chosen);
  EXPECT_EQ(chosen.counts.to_vector<std::int32_t>(), expected.counts.to_vector<std::int32_t>());
  const auto found = chosen.blocks.to_vector<std::int32_t>(),
             wanted = expected.blocks.to_vector<std::int32_t>();
  std::size_t different = 0;
  for (std::size_t i = 0; i < found.size(); ++i) different += found[i] != wanted[i];
  EXPECT_LE(different, found.size() / 50);
}

INSTANTIATE_TEST_SUITE_P(Sizes, CudaDecodeAttention,
                         ::testing::Combine(::testing::ValuesIn(cases),
                                            ::testing::Values(DType::f32, DType::bf16)),
                         [](const auto& parameter) {
                           return std::string(dtype_name(std::get<1>(parameter.param))) + "_" +
                                  std::to_string(parameter.index / 2);
                         });

INSTANTIATE_TEST_SUITE_P(OddHeadSizes, CudaDecodeAttention,
                         ::testing::Combine(::testing::ValuesIn(odd_cases), ::testing::Values(DType::f32)),
                         [](const auto& parameter) { return "f32_" + std::to_string(parameter.index); });

/// Equal keys have equal scores: the lowest blocks are chosen. Twice, with the same bits.
TEST(CudaDecodeOracle, TiesGoToTheLowerBlock) {
  const DecodeCase c{3, 700, 8, 2, 64, 16, 4, 1};
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Tensor q = on_gpu(random_for(dtype, {c.tokens, c.num_heads * c.head_dim}, 2, "q"), dtype);
    const Tensor keys = random_for(dtype, {c.keys(), c.num_kv_heads * c.head_dim}, 2, "k"),
                 v = on_gpu(random_for(dtype, keys.shape(), 2, "v"), dtype);
    for (std::int64_t t = 1; t < c.keys(); ++t) keys.slice(t, t + 1).copy_from(keys.slice(0, 1));
    const Tensor k = on_gpu(keys, dtype);
    std::vector<float> before;
    for (int run = 0; run < 2; ++run) {
      const BlockLists chosen{c.block_size, poisoned({c.tokens, c.num_kv_heads, c.top_blocks}, DType::i32),
                              poisoned({c.tokens, c.num_kv_heads}, DType::i32)};
      const Tensor out = poisoned(q.shape(), dtype);
      cuda::decode_attention(gpu(), c.sizes(c.keys()), {.kind = Kind::causal}, q, k, v, {}, out, &chosen);
      const std::vector<std::int32_t> blocks = chosen.blocks.to_vector<std::int32_t>();
      for (std::size_t i = 0; i < blocks.size(); ++i) EXPECT_EQ(blocks[i], static_cast<std::int32_t>(i % 4));
      const std::vector<float> values = out.to(DType::f32).to_vector<float>();
      if (run == 1) {
        EXPECT_EQ(values, before);
      }
      before = values;
    }
  }
}

}  // namespace
}  // namespace hysparse::testing
