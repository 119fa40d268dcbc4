/// Attention on the GPU against cpu::, forward and backward, for every pattern, on fresh random inputs.
#include <cmath>

#include "attention/cuda/attention.h"
#include "tests/attention/cuda_cases.h"

namespace hysparse::testing {
namespace {

using Kind = cpu::KeyPattern::Kind;

/// lse is f32 in both dtypes, of logits summed from the same products: |logit| stays under 100, where an ulp is
/// 2^-17; the exponentials' approximation is as small.
constexpr double lse_bound = 1e-5;
/// Sums over all tokens of terms of both signs.
constexpr double sinks_bound = 1e-4;

/// S, T, H, G, E, B, K, window, documents.
const std::vector<GpuCase> cases{
    {1, 1, 1, 1, 32, 64, 1, 1},         // one token
    {2, 37, 4, 4, 64, 8, 2, 5},         // one head per group, T below a tile
    {1, 200, 16, 4, 128, 64, 2, 128},   // four heads per group
    {2, 150, 16, 1, 128, 64, 2, 100},   // sixteen
    {1, 130, 8, 2, 64, 16, 4, 1000},    // window above T
    {1, 257, 6, 2, 32, 24, 3, 17},      // three heads per group, blocks of 24
    {3, 70, 5, 1, 48, 5, 4, 64},        // five, blocks of 5, head size between the kernels'
    {1, 190, 32, 2, 16, 64, 0, 33},     // no blocks
    {1, 150, 4, 1, 80, 32, 100, 20},    // more blocks wanted than there are
    {1, 130, 16, 1, 256, 64, 2, 80},    // the largest head size
    {1, 90, 8, 4, 144, 128, 2, 7},      // T below a block
    {2, 270, 16, 1, 128, 128, 2, 200},  // blocks of two tiles; lists that are cut
    {1, 100, 160, 1, 64, 16, 2, 40},    // more heads per group than a tile's rows
    {2, 37, 4, 4, 64, 8, 2, 5, 10},     // documents within a tile
    {1, 50, 4, 2, 32, 8, 2, 20, 2},     // of a token or two
    {1, 300, 16, 4, 128, 64, 2, 128, 90}, {2, 270, 16, 1, 128, 128, 2, 200, 60},
    {1, 257, 6, 2, 32, 24, 3, 17, 50},    {3, 170, 5, 1, 48, 5, 4, 64, 40},
    {1, 330, 16, 1, 256, 64, 2, 80, 100}, {1, 100, 160, 1, 64, 16, 2, 40, 30},
    {2, 1, 2, 1, 32, 64, 1, 1, 1},        // one token, a document
    {1, 130, 8, 2, 64, 16, 4, 1000, 40},  // window above T and documents
    {1, 90, 32, 2, 16, 64, 0, 33, 50},    // no blocks, documents
    {1, 150, 4, 1, 80, 32, 100, 20, 45},  // all visible blocks of documents
    {1, 65, 4, 4, 128, 64, 2, 64, 20},    // T one more than a tile's keys and a block
};

/// Head sizes that only fp32 takes.
const std::vector<GpuCase> odd_cases{
    {2, 37, 4, 2, 4, 8, 2, 5},
    {1, 70, 3, 1, 7, 5, 3, 20},
    {1, 100, 4, 4, 8, 16, 2, 33, 30},
    {1, 50, 2, 1, 1, 8, 2, 9},
    {1, 1, 16, 1, 20, 8, 2, 5},            // one token
    {2, 66, 16, 1, 20, 64, 2, 100, 25},    // sixteen heads per group, window above T
    {1, 130, 3, 3, 24, 24, 100, 129, 40},  // one head per group, more blocks wanted than there are
    {1, 65, 4, 2, 24, 16, 0, 7, 20},       // no blocks
    {1, 45, 2, 1, 250, 16, 2, 20, 15},     // a lane's last element in some lanes only
};

class CudaAttention : public ::testing::TestWithParam<std::tuple<GpuCase, DType>> {};

void compare(const GpuCase& c, const GpuInputs& inputs, const cpu::KeyPattern& pattern, bool sinks,
             DType dtype) {
  GpuInputs before = inputs;
  before.q = inputs.dout;
  before.k = inputs.v;
  before.v = inputs.k;
  for (const bool add : {false, true}) {
    const AttentionRun expected = run_cpu(c, inputs, pattern, sinks, dtype, add ? &before : nullptr);
    const AttentionRun run = run_gpu(c, inputs, pattern, sinks, dtype, add ? &before : nullptr, expected);
    const double bound = bound_of(dtype);
    EXPECT_LE(gpu_error(run.out, expected.out), bound);
    EXPECT_LE(gpu_error(run.dv, expected.dv), bound);
    if (c.seq_len > 1 || add) {  // with one key, dq and dk are zero but for rounding
      EXPECT_LE(gpu_error(run.dq, expected.dq), bound);
      EXPECT_LE(gpu_error(run.dk, expected.dk), bound);
    }
    if (sinks) {
      EXPECT_LE(gpu_error(run.dsinks, expected.dsinks), sinks_bound);
    }
    const std::vector<float> lse = run.lse.to_vector<float>(), expected_lse = expected.lse.to_vector<float>();
    for (std::size_t i = 0; i < lse.size(); ++i) {
      if (std::isinf(expected_lse[i])) {
        ASSERT_EQ(lse[i], expected_lse[i]) << "row " << i;
      } else {
        ASSERT_NEAR(lse[i], expected_lse[i], lse_bound * (10 + std::abs(expected_lse[i]))) << "row " << i;
      }
    }
  }
}

TEST_P(CudaAttention, Causal) {
  const auto& [c, dtype] = GetParam();
  compare(c, GpuInputs(c, dtype, 1), {.kind = Kind::causal, .documents = c.documents()}, false, dtype);
}

TEST_P(CudaAttention, Window) {
  const auto& [c, dtype] = GetParam();
  for (const bool sinks : {false, true})
    compare(c, GpuInputs(c, dtype, 2), {.kind = Kind::window, .window = c.window, .documents = c.documents()},
            sinks, dtype);
}

TEST_P(CudaAttention, Blocks) {
  const auto& [c, dtype] = GetParam();
  const GpuInputs inputs(c, dtype, 3);
  for (const bool sinks : {false, true})
    compare(c, inputs, {.kind = Kind::blocks, .blocks = choose_on_cpu(c, inputs), .documents = c.documents()},
            sinks, dtype);
}

INSTANTIATE_TEST_SUITE_P(Sizes, CudaAttention,
                         ::testing::Combine(::testing::ValuesIn(cases),
                                            ::testing::Values(DType::f32, DType::bf16)),
                         [](const auto& parameter) {
                           return std::string(dtype_name(std::get<1>(parameter.param))) + "_" +
                                  std::to_string(parameter.index / 2);
                         });

INSTANTIATE_TEST_SUITE_P(OddHeadSizes, CudaAttention,
                         ::testing::Combine(::testing::ValuesIn(odd_cases), ::testing::Values(DType::f32)),
                         [](const auto& parameter) { return "f32_" + std::to_string(parameter.index); });

TEST(CudaAttentionSizes, HeadSizesThatBf16DoesNotTake) {
  for (const std::int64_t head_dim : {4, 8, 20, 24}) {
    const GpuCase c{1, 20, 2, 1, head_dim, 4, 2, 5};
    const GpuInputs inputs(c, DType::bf16, 1);
    EXPECT_THROW(run_gpu(c, inputs, {.kind = Kind::causal}, false, DType::bf16, nullptr,
                         run_cpu(c, inputs, {.kind = Kind::causal}, false, DType::bf16, nullptr)),
                 Error)
        << head_dim;
  }
}

/// Every token chooses the first block, whose list is cut into several sums, and its own.
TEST(CudaAttentionLists, PopularBlock) {
  const GpuCase c{2, 600, 8, 1, 64, 32, 2, 1};
  BlockLists lists =
      empty_block_lists({c.block_size, c.top_blocks}, c.rows(), c.num_kv_heads, c.seq_len, Device{});
  for (std::int64_t row = 0; row < c.rows(); ++row) {
    const auto own = static_cast<std::int32_t>(row % c.seq_len / c.block_size);
    lists.blocks.data<std::int32_t>()[2 * row] = 0;
    lists.blocks.data<std::int32_t>()[2 * row + 1] = own > 0 ? own : -1;
    lists.counts.data<std::int32_t>()[row] = own > 0 ? 2 : 1;
  }
  for (const DType dtype : {DType::f32, DType::bf16})
    compare(c, GpuInputs(c, dtype, 4), {.kind = Kind::blocks, .blocks = lists}, true, dtype);
}

/// Long lists of keys, cut into several sums, that documents shorten; the last document is the longest.
TEST(CudaAttentionLists, DocumentsShortenThem) {
  const GpuCase c{1, 1500, 8, 1, 64, 32, 3, 700};
  const Tensor documents = documents_of_lengths(1, {64, 1, 127, 100, 8, 1200});
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const GpuInputs inputs(c, dtype, 9);
    compare(c, inputs, {.kind = Kind::causal, .documents = documents}, false, dtype);
    compare(c, inputs, {.kind = Kind::window, .window = c.window, .documents = documents}, true, dtype);
  }
}

/// Logits far apart: the running maximum moves, and nothing overflows.
TEST(CudaAttentionValues, LargeLogits) {
  const GpuCase c{1, 300, 8, 2, 64, 16, 3, 70};
  for (const DType dtype : {DType::f32, DType::bf16}) {
    GpuInputs inputs(c, dtype, 5);
    inputs.q = random_for(dtype, inputs.q.shape(), 5, "large", 20.0);
    inputs.sinks = random_for(dtype, inputs.sinks.shape(), 5, "large sinks", 20.0);
    const AttentionRun expected =
        run_cpu(c, inputs, {.kind = Kind::window, .window = c.window}, true, dtype, nullptr);
    const AttentionRun run =
        run_gpu(c, inputs, {.kind = Kind::window, .window = c.window}, true, dtype, nullptr, expected);
    EXPECT_LE(gpu_error(run.out, expected.out), bound_of(dtype));
  }
}

/// Two runs give the same bits.
TEST(CudaAttentionValues, Deterministic) {
  const GpuCase c{1, 540, 8, 1, 128, 64, 3, 100};
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const GpuInputs inputs(c, dtype, 6);
    for (const cpu::KeyPattern& pattern :
         {cpu::KeyPattern{.kind = Kind::causal},
          cpu::KeyPattern{.kind = Kind::blocks, .blocks = choose_on_cpu(c, inputs)}}) {
      const AttentionRun expected = run_cpu(c, inputs, pattern, true, dtype, nullptr);
      const AttentionRun a = run_gpu(c, inputs, pattern, true, dtype, nullptr, expected);
      const AttentionRun b = run_gpu(c, inputs, pattern, true, dtype, nullptr, expected);
      for (const auto& [x, y] : {std::pair{a.out, b.out}, {a.dq, b.dq}, {a.dk, b.dk}, {a.dv, b.dv}}) {
        EXPECT_EQ(x.to(DType::f32).to_vector<float>(), y.to(DType::f32).to_vector<float>());
      }
      EXPECT_EQ(a.dsinks.to_vector<float>(), b.dsinks.to_vector<float>());
    }
  }
}

TEST(CudaAttentionSizes, HeadSizesThatAreTooLarge) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const GpuCase c{1, 4, 1, 1, 272, 4, 1, 1};
    const GpuInputs inputs(c, dtype, 7);
    const Tensor q = on_gpu(inputs.q, dtype);
    EXPECT_THROW(cuda::attention_forward(gpu(), c.sizes(), {.kind = Kind::causal}, q, q, q, {},
                                         poisoned(q.shape(), dtype), poisoned({4, 1}, DType::f32), nullptr),
                 Error)
        << dtype_name(dtype);
  }
}

TEST(CudaAttentionValues, NoTokens) {
  const GpuCase c{0, 7, 2, 1, 32, 4, 1, 1};
  const GpuInputs inputs(c, DType::f32, 8);
  const cpu::KeyPattern pattern{.kind = Kind::causal};
  EXPECT_EQ(run_gpu(c, inputs, pattern, false, DType::bf16, nullptr,
                    {.out = inputs.q, .lse = Tensor::empty({0, 2}, DType::f32)})
                .out.numel(),
            0);
}

}  // namespace
}  // namespace hysparse::testing
