/// Values of the three attentions, forward and backward, against plain loops.
#include "attention/attention.h"

#include <cmath>
#include <limits>

#include "core/storage.h"
#include "tests/attention/naive.h"
#include "tests/core/gradient_check.h"

namespace hysparse::testing {
namespace {

/// By norm. Rounding of sums of a few hundred terms: about sqrt(terms) * eps times the size of the logits,
/// around 5.
constexpr double tolerance_f64 = 1e-12;
constexpr double tolerance_f32 = 3e-6;  // 25 eps

enum class Kind { full, sparse, window };

struct OpResult {
  Tensor out, dq, dk, dv, dsinks;
};

/// Runs the op in `dtype` on `threads` threads, forward and backward.
OpResult run_op(Kind kind, const Case& c, const Inputs& inputs, const BlockLists& lists, bool sinks,
                DType dtype, int threads = 2) {
  TestStream stream(threads);
  Tape tape(stream);
  const Var q = tape.input(inputs.q.to(dtype)), k = tape.input(inputs.k.to(dtype)),
            v = tape.input(inputs.v.to(dtype));
  Parameter sink{"sinks", inputs.sinks.to(dtype), Tensor::zeros(inputs.sinks.shape(), dtype)};
  const Parameter* used = sinks ? &sink : nullptr;
  Var out;
  if (kind == Kind::full) out = full_attention(tape, q, k, v, c.shape(), std::nullopt).out;
  if (kind == Kind::sparse) out = block_sparse_attention(tape, q, k, v, lists, used, c.shape());
  if (kind == Kind::window) out = window_attention(tape, q, k, v, c.window, used, c.shape());
  tape.backward(out, inputs.dout.to(dtype).clone());
  return {out.value, q.grad->value(), k.grad->value(), v.grad->value(), sink.grad};
}

BlockLists select(const Case& c, const Inputs& inputs, DType dtype = DType::f64, int threads = 2) {
  TestStream stream(threads);
  Tape tape(stream, {.recording = false});
  return *full_attention(tape, tape.constant(inputs.q.to(dtype)), tape.constant(inputs.k.to(dtype)),
                         tape.constant(inputs.v.to(dtype)), c.shape(), c.selection())
              .blocks;
}

void expect_close(const OpResult& actual, const NaiveResult& expected, double tolerance) {
  // Where nothing is seen the expected tensor is zero, and so must the other be.
  EXPECT_LE(relative_error(actual.out, expected.out), tolerance) << "out";
  EXPECT_LE(relative_error(actual.dv, expected.dv), tolerance) << "dv";
  // dq, dk and dsinks are differences of numbers of the size of delta, near one: by norm with a floor for what
  // cancels.
  const auto floored = [&](const Tensor& a, const Tensor& b, const char* what) {
    double difference = 0, norm = 0;
    const Tensor x = a.to(DType::f64);
    for (std::int64_t i = 0; i < b.numel(); ++i) {
      difference += std::pow(x.data<double>()[i] - b.data<double>()[i], 2);
      norm += std::pow(b.data<double>()[i], 2);
    }
    EXPECT_LE(std::sqrt(difference), 4 * tolerance * std::max(1.0, std::sqrt(norm))) << what;
  };
  floored(actual.dq, expected.dq, "dq");
  floored(actual.dk, expected.dk, "dk");
  floored(actual.dsinks, expected.dsinks, "dsinks");
}

class AttentionCases : public ::testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Edges, AttentionCases, ::testing::ValuesIn(edge_cases()), case_name);
INSTANTIATE_TEST_SUITE_P(Documents, AttentionCases, ::testing::ValuesIn(document_cases()), case_name);

TEST_P(AttentionCases, Full) {
  const Case c = GetParam();
  const Inputs inputs = random_inputs(c, 11);
  const NaiveResult expected = naive_attention(c, inputs, sees_all(), false);
  expect_close(run_op(Kind::full, c, inputs, {}, false, DType::f64), expected, tolerance_f64);
  expect_close(run_op(Kind::full, c, inputs, {}, false, DType::f32), expected, tolerance_f32);
}

TEST_P(AttentionCases, Window) {
  const Case c = GetParam();
  const Inputs inputs = random_inputs(c, 12);
  for (const bool sinks : {false, true}) {
    const NaiveResult expected = naive_attention(c, inputs, sees_window(c), sinks);
    expect_close(run_op(Kind::window, c, inputs, {}, sinks, DType::f64), expected, tolerance_f64);
    expect_close(run_op(Kind::window, c, inputs, {}, sinks, DType::f32), expected, tolerance_f32);
  }
}

TEST_P(AttentionCases, BlockSparse) {
  const Case c = GetParam();
  const Inputs inputs = random_inputs(c, 13);
  const BlockLists lists = select(c, random_inputs(c, 14));
  for (const bool sinks : {false, true}) {
    const NaiveResult expected = naive_attention(c, inputs, sees_blocks(lists), sinks);
    expect_close(run_op(Kind::sparse, c, inputs, lists, sinks, DType::f64), expected, tolerance_f64);
    expect_close(run_op(Kind::sparse, c, inputs, lists, sinks, DType::f32), expected, tolerance_f32);
  }
}

TEST_P(AttentionCases, Selection) {
  const Case c = GetParam();
  const Inputs inputs = random_inputs(c, 15, 2.0);
  const Tensor scores = naive_scores(c, inputs);
  const auto expected = naive_selection(c, scores);
  EXPECT_EQ(to_vectors(select(c, inputs)), expected);
  // In f32 a block may change places with one whose score is within rounding, and with no other.
  const auto chosen = to_vectors(select(c, inputs, DType::f32));
  for (std::size_t list = 0; list < expected.size(); ++list) {
    const double* score = scores.data<double>() + static_cast<std::int64_t>(list) * scores.dim(2);
    ASSERT_EQ(chosen[list].size(), expected[list].size());
    double worst = std::numeric_limits<double>::infinity(), worst_expected = worst;
    for (const std::int32_t b : chosen[list]) worst = std::min(worst, score[b]);
    for (const std::int32_t b : expected[list]) worst_expected = std::min(worst_expected, score[b]);
    if (expected[list].empty()) continue;
    EXPECT_GE(worst, worst_expected - 1e-5);
  }
}

TEST_P(AttentionCases, DoesNotDependOnThreads) {
  const Case c = GetParam();
  const Inputs inputs = random_inputs(c, 16);
  const BlockLists lists = select(c, inputs), lists3 = select(c, inputs, DType::f64, 3);
  EXPECT_EQ(to_vectors(lists), to_vectors(lists3));
  for (const Kind kind : {Kind::full, Kind::sparse, Kind::window}) {
    const OpResult one = run_op(kind, c, inputs, lists, true, DType::f64, 1);
    const OpResult three = run_op(kind, c, inputs, lists, true, DType::f64, 3);
    const OpResult again = run_op(kind, c, inputs, lists, true, DType::f64, 3);
    EXPECT_EQ(one.out.to_vector<double>(), three.out.to_vector<double>());
    EXPECT_EQ(one.dq.to_vector<double>(), three.dq.to_vector<double>());
    for (const auto& member : {&OpResult::dk, &OpResult::dv, &OpResult::dsinks}) {
      EXPECT_LE(relative_error(three.*member, one.*member), 1e-13);
      EXPECT_EQ((three.*member).to_vector<double>(), (again.*member).to_vector<double>());
    }
  }
}

TEST(Attention, ExactTiesGoToTheLowerBlock) {
  // Keys repeat with a period of one block, so that all full blocks score alike; some rows have a zero query.
  const Case c{1, 96, 4, 2, 7, 8, 3, 8};
  for (const DType dtype : {DType::f32, DType::f64}) {
    Inputs inputs = random_inputs(c, 21);
    double *k = inputs.k.data<double>(), *q = inputs.q.data<double>();
    const std::int64_t width = c.num_kv_heads * c.head_dim;
    for (std::int64_t i = c.block_size * width; i < inputs.k.numel(); ++i) k[i] = k[i - c.block_size * width];
    std::fill_n(q + 70 * c.num_heads * c.head_dim, c.num_heads * c.head_dim, 0.0);
    const auto chosen = to_vectors(select(c, inputs, dtype));
    for (std::int64_t t = c.block_size - 1; t < c.seq_len; ++t) {
      for (std::int64_t g = 0; g < c.num_kv_heads; ++g) {
        const auto& list = chosen[static_cast<std::size_t>(t * c.num_kv_heads + g)];
        const std::int32_t visible = static_cast<std::int32_t>(t / c.block_size) + 1;
        for (std::int32_t j = 0; j < std::min(visible, 3); ++j)
          EXPECT_EQ(list[static_cast<std::size_t>(j)], j) << "t " << t;
      }
    }
  }
}

TEST(Attention, HugeLogitsDoNotOverflow) {
  const Case c{1, 40, 4, 2, 16, 8, 2, 12};
  const Inputs inputs = random_inputs(c, 22, 60.0);  // logits of several thousand
  const BlockLists lists = select(c, inputs);
  EXPECT_EQ(to_vectors(lists), naive_selection(c, naive_scores(c, inputs)));
  expect_close(run_op(Kind::full, c, inputs, lists, false, DType::f64),
               naive_attention(c, inputs, sees_all(), false), 1e-10);
  for (const Kind kind : {Kind::full, Kind::sparse, Kind::window}) {
    const OpResult r = run_op(kind, c, inputs, lists, true, DType::f32);
    for (const Tensor& t : {r.out, r.dq, r.dk, r.dv}) {
      for (const float x : t.to_vector<float>()) ASSERT_TRUE(std::isfinite(x));
    }
  }
}

TEST(Attention, ExtremeSinks) {
  const Case c{1, 40, 4, 2, 16, 8, 2, 12};
  Inputs inputs = random_inputs(c, 23);
  const BlockLists lists = select(c, inputs);
  for (const Kind kind : {Kind::sparse, Kind::window}) {
    const Sees sees = kind == Kind::sparse ? sees_blocks(lists) : sees_window(c);
    for (const double sink : {-std::numeric_limits<double>::infinity(), -1e30}) {
      std::fill_n(inputs.sinks.data<double>(), c.num_heads, sink);
      expect_close(run_op(kind, c, inputs, lists, true, DType::f64), naive_attention(c, inputs, sees, false),
                   tolerance_f64);
      expect_close(run_op(kind, c, inputs, lists, true, DType::f32), naive_attention(c, inputs, sees, false),
                   tolerance_f32);
    }
    std::fill_n(inputs.sinks.data<double>(), c.num_heads, 1e30);  // takes all probability
    const OpResult all = run_op(kind, c, inputs, lists, true, DType::f32);
    for (const Tensor& t : {all.out, all.dq, all.dk, all.dv, all.dsinks}) {
      for (const float x : t.to_vector<float>()) ASSERT_EQ(x, 0.0f);
    }
  }
}

TEST(Attention, RowsThatSeeNothingGiveZeros) {
  const Case c{1, 20, 4, 2, 8, 4, 0, 4};
  const Inputs inputs = random_inputs(c, 24);
  for (const bool sinks : {false, true}) {
    const OpResult r = run_op(Kind::sparse, c, inputs, select(c, inputs), sinks, DType::f32);
    for (const Tensor& t : {r.out, r.dq, r.dk, r.dv, r.dsinks}) {
      for (const float x : t.to_vector<float>()) ASSERT_EQ(x, 0.0f);
    }
  }
}

TEST(Attention, NotANumberReachesTheOutputAndChoosesLegalBlocks) {
  const Case c{1, 64, 4, 2, 8, 8, 3, 8};
  const Inputs inputs = random_inputs(c, 25);
  inputs.k.data<double>()[10 * c.num_kv_heads * c.head_dim] = std::numeric_limits<double>::quiet_NaN();
  const BlockLists lists = select(c, inputs);
  const auto chosen = to_vectors(lists);
  for (std::size_t list = 0; list < chosen.size(); ++list) {
    const std::int32_t visible = static_cast<std::int32_t>(list) / 2 / 8 + 1;
    ASSERT_EQ(chosen[list].size(), static_cast<std::size_t>(std::min(visible, 3)));
    for (std::size_t j = 0; j < chosen[list].size(); ++j) {
      EXPECT_TRUE(chosen[list][j] < visible && (j == 0 || chosen[list][j] > chosen[list][j - 1]));
    }
  }
  const OpResult r = run_op(Kind::full, c, inputs, lists, false, DType::f64);
  EXPECT_TRUE(std::isnan(r.out.data<double>()[63 * c.num_heads * c.head_dim]));
  EXPECT_FALSE(std::isnan(r.out.data<double>()[9 * c.num_heads * c.head_dim]));
}

TEST(Attention, NoTokens) {
  const Case c{2, 0, 4, 2, 8, 8, 3, 8};
  const Inputs inputs = random_inputs(c, 26);
  const BlockLists lists = select(c, inputs);
  for (const Kind kind : {Kind::full, Kind::sparse, Kind::window}) {
    EXPECT_EQ(run_op(kind, c, inputs, lists, true, DType::f32).out.numel(), 0);
  }
}

/// Peak bytes of the full layer, forward and backward, above what q, k, v and dout take.
std::int64_t peak_of_full_layer(std::int64_t seq_len) {
  const Case c{1, seq_len, 4, 2, 16, 64, 4, 32};
  const Inputs f64 = random_inputs(c, 27);
  const Tensor q = f64.q.to(DType::f32), k = f64.k.to(DType::f32), v = f64.v.to(DType::f32),
               dout = f64.dout.to(DType::f32);
  TestStream stream(
      1);  // the scratch of several threads overlaps in time as it happens: not the same in each run
  reset_memory_peak();
  const std::int64_t before = memory_use().live_bytes;
  Tape tape(stream);
  const FullAttentionResult r =
      full_attention(tape, tape.input(q), tape.input(k), tape.input(v), c.shape(), c.selection());
  tape.backward(r.out, dout);
  return memory_use().peak_bytes - before;
}

TEST(Attention, MemoryOfTheFullLayerIsLinearInLength) {
  const std::int64_t at_1k = peak_of_full_layer(1024), at_2k = peak_of_full_layer(2048),
                     at_4k = peak_of_full_layer(4096);
  EXPECT_LE(at_2k, 2 * at_1k);
  EXPECT_LE(at_4k, 2 * at_2k);
  // Equal steps in length cost equal steps in memory.
  EXPECT_NEAR(static_cast<double>(at_4k - at_2k), 2.0 * static_cast<double>(at_2k - at_1k),
              0.02 * static_cast<double>(at_4k));
}

}  // namespace
}  // namespace hysparse::testing
