/// Decoding against a cache gives what training forward gives at each position.
#include "attention/decode.h"

#include "tests/attention/naive.h"
#include "tests/core/gradient_check.h"

namespace hysparse::testing {
namespace {

constexpr double tolerance = 1e-12;

class DecodeCases : public ::testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Edges, DecodeCases, ::testing::ValuesIn(edge_cases()), case_name);

/// A ring of `rows` rows that holds the tokens before `end` that fit, the newest last.
Tensor ring_of(const Tensor& tokens, std::int64_t end, std::int64_t rows) {
  const Tensor ring = random_tensor({rows, tokens.dim(1)}, 99, "stale");
  for (std::int64_t p = std::max<std::int64_t>(0, end - rows); p < end; ++p) {
    ring.slice(p % rows, p % rows + 1).copy_from(tokens.slice(p, p + 1));
  }
  return ring;
}

TEST_P(DecodeCases, EqualsTrainingForward) {
  Case c = GetParam();
  c.sequences = 1;
  const Inputs inputs = random_inputs(c, 51);
  TestStream stream;
  Tape tape(stream, {.recording = false});
  const Var q = tape.constant(inputs.q), k = tape.constant(inputs.k), v = tape.constant(inputs.v);
  const Parameter sinks{"sinks", inputs.sinks, {}};
  const FullAttentionResult full = full_attention(tape, q, k, v, c.shape(), c.selection());
  const auto lists = to_vectors(*full.blocks);
  const Var sparse = block_sparse_attention(tape, q, k, v, *full.blocks, &sinks, c.shape());
  const Var window = window_attention(tape, q, k, v, c.window, &sinks, c.shape());

  // One token at a time, then in pieces of seven.
  for (const std::int64_t piece : {1, 7}) {
    for (std::int64_t t = 0; t < c.seq_len; t += piece) {
      const std::int64_t end = std::min(c.seq_len, t + piece);
      const DecodeShape shape{c.num_heads, c.num_kv_heads, c.head_dim, t};
      const Tensor query = inputs.q.slice(t, end);
      // The cache is larger than what it holds; what is beyond must not matter.
      const Tensor k_cache = random_tensor({c.seq_len + 3, inputs.k.dim(1)}, 52, "k"),
                   v_cache = random_tensor(k_cache.shape(), 52, "v");
      k_cache.slice(0, end).copy_from(inputs.k.slice(0, end));
      v_cache.slice(0, end).copy_from(inputs.v.slice(0, end));

      const DecodeFullResult decoded = decode_full(stream, query, k_cache, v_cache, shape, c.selection());
      ASSERT_LE(relative_error(decoded.out, full.out.value.slice(t, end)), tolerance) << "t " << t;
      const auto chosen = to_vectors(*decoded.blocks);
      for (std::size_t i = 0; i < chosen.size(); ++i) {
        ASSERT_EQ(chosen[i], lists[static_cast<std::size_t>(t * c.num_kv_heads) + i]) << "t " << t;
      }
      const Tensor decoded_sparse =
          decode_sparse(stream, query, k_cache, v_cache, *decoded.blocks, inputs.sinks, shape);
      ASSERT_LE(relative_error(decoded_sparse, sparse.value.slice(t, end)), tolerance) << "t " << t;

      const Tensor contiguous = decode_window(stream, query, k_cache, v_cache, c.window, inputs.sinks, shape);
      ASSERT_LE(relative_error(contiguous, window.value.slice(t, end)), tolerance) << "t " << t;
      for (const std::int64_t spare : {0, 5}) {
        const std::int64_t rows = c.window + piece - 1 + spare;
        const Tensor ring = decode_window(stream, query, ring_of(inputs.k, end, rows),
                                          ring_of(inputs.v, end, rows), c.window, inputs.sinks, shape);
        ASSERT_LE(relative_error(ring, window.value.slice(t, end)), tolerance)
            << "t " << t << " ring of " << rows;
      }
    }
  }
}

TEST(Decode, WithoutSinksAndInSinglePrecision) {
  const Case c{1, 70, 8, 2, 32, 16, 2, 32};
  const Inputs inputs = random_inputs(c, 53);
  const Tensor q = inputs.q.to(DType::f32), k = inputs.k.to(DType::f32), v = inputs.v.to(DType::f32);
  TestStream stream;
  Tape tape(stream, {.recording = false});
  const Var window = window_attention(tape, tape.constant(q), tape.constant(k), tape.constant(v), c.window,
                                      nullptr, c.shape());
  const DecodeShape shape{c.num_heads, c.num_kv_heads, c.head_dim, c.seq_len - 1};
  const Tensor last = q.slice(c.seq_len - 1, c.seq_len);
  EXPECT_LE(relative_error(decode_window(stream, last, k, v, c.window, {}, shape),
                           window.value.slice(c.seq_len - 1, c.seq_len)),
            1e-6);
}

TEST(Decode, RefusesACacheThatIsTooSmall) {
  const Case c{1, 20, 4, 2, 8, 4, 2, 8};
  const Inputs inputs = random_inputs(c, 54);
  TestStream stream;
  const DecodeShape shape{c.num_heads, c.num_kv_heads, c.head_dim, 19};
  const Tensor q = inputs.q.slice(19, 20), k = inputs.k.slice(0, 7);
  EXPECT_THROW(decode_window(stream, q, k, k, 8, {}, shape), CheckFailure);
  EXPECT_THROW(decode_full(stream, q, k, k, shape, std::nullopt), CheckFailure);
}

}  // namespace
}  // namespace hysparse::testing
