// Choices recorded in one run and taken in another: what is recorded is what was chosen, with the scores that
// explain it; another choice is counted, with its margin, and replaced.
#include "launch/verify_choices.h"

#include <algorithm>
#include <filesystem>

#include <gtest/gtest.h>

#include "core/random.h"
#include "core/thread_pool.h"
#include "tests/launch/program.h"

namespace hysparse::testing {
namespace {

constexpr std::int64_t heads = 4, groups = 2, head_dim = 8, seq_len = 40, sequences = 2, block = 8, top = 2;

Tensor normal(const Shape& shape, const char* name) {
  const CounterRandom random(3, name);
  const Tensor t = Tensor::empty(shape, DType::f32);
  for (std::int64_t i = 0; i < t.numel(); ++i)
    t.data<float>()[i] = static_cast<float>(random.normal(static_cast<std::uint64_t>(i)));
  return t;
}

/// One full layer's choice on all groups, recorded in `directory`.
class VerifyChoices : public ::testing::Test {
 protected:
  VerifyChoices() {
    Tape tape({Device{}, &pool_, nullptr});
    const FullAttentionResult result = full_attention(tape, tape.input(q_), tape.input(k_), tape.input(k_),
                                                      shape_, SelectionConfig{block, top});
    chosen_ = *result.blocks;
    ChoiceRecorder recorder(2 * rows, RouterScoring::sigmoid);
    recorder.blocks({5, rows, 0, q_, k_, shape_}, chosen_);
    recorder.write(directory_.path().string());
  }

  static constexpr std::int64_t rows = sequences * seq_len;
  ThreadPool pool_{1};
  const WorkDirectory directory_;
  const AttentionShape shape_{sequences, seq_len, heads, groups, head_dim};
  const Tensor q_ = normal({rows, heads*head_dim}, "q"), k_ = normal({rows, groups*head_dim}, "k");
  BlockLists chosen_;
};

TEST_F(VerifyChoices, TheSameChoicesAreNoFlips) {
  ChoiceReplayer replayer(directory_.path().string());
  BlockLists own{block, chosen_.blocks.clone(), chosen_.counts.clone()};
  replayer.blocks({5, rows, 0, q_, k_, shape_}, own);
  EXPECT_EQ(replayer.flips().choices, rows * groups);
  EXPECT_EQ(replayer.flips().flips, 0);
  EXPECT_EQ(replayer.flips().largest_margin, 0);
  EXPECT_EQ(own.blocks.to_vector<std::int32_t>(), chosen_.blocks.to_vector<std::int32_t>());
}

/// Every list of the last rows, which see all five blocks, with its blocks exchanged for others: the margins
/// are those of a real choice, positive, since what was recorded has the largest scores.
TEST_F(VerifyChoices, AnotherChoiceIsCountedAndReplaced) {
  ChoiceReplayer replayer(directory_.path().string());
  // As a rank that holds group 1 alone.
  const AttentionShape half{sequences, seq_len, heads / 2, 1, head_dim};
  const Tensor blocks = Tensor::zeros({rows, 1, top}, DType::i32),
               counts = Tensor::zeros({rows, 1}, DType::i32);
  const std::int32_t* recorded = chosen_.blocks.data<std::int32_t>();
  std::int64_t changed = 0;
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int32_t* list = recorded + (row * groups + 1) * top;
    const std::int32_t count = chosen_.counts.data<std::int32_t>()[row * groups + 1];
    std::copy_n(list, top, blocks.data<std::int32_t>() + row * top);
    counts.data<std::int32_t>()[row] = count;
    if (row % seq_len < 4 * block) continue;
    std::int32_t other = 0;
    while (std::find(list, list + count, other) != list + count) ++other;
    blocks.data<std::int32_t>()[row * top] = other;
    ++changed;
  }
  BlockLists own{block, blocks, counts};
  replayer.blocks({5, rows, 1, q_, k_, half}, own);
  EXPECT_EQ(replayer.flips().choices, rows);
  EXPECT_EQ(replayer.flips().flips, changed);
  EXPECT_GT(replayer.flips().largest_margin, 0.1);  // of scores that differ by about one
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t i = 0; i < counts.data<std::int32_t>()[row]; ++i)
      EXPECT_EQ(own.blocks.data<std::int32_t>()[row * top + i], recorded[(row * groups + 1) * top + i]);
  }
}

/// Scores in f64 put what the op chose in f32 on top, for every row and group: margins mean what they say.
TEST_F(VerifyChoices, RecordedScoresExplainTheChoice) {
  for (std::int64_t group = 0; group < groups; ++group) {
    ChoiceReplayer replayer(directory_.path().string());
    const AttentionShape half{sequences, seq_len, heads / 2, 1, head_dim};
    BlockLists first{block, Tensor::zeros({rows, 1, top}, DType::i32), Tensor::zeros({rows, 1}, DType::i32)};
    for (std::int64_t row = 0; row < rows; ++row) {  // the blocks that are not chosen, as far as they go
      const std::int32_t* list = chosen_.blocks.data<std::int32_t>() + (row * groups + group) * top;
      const std::int32_t count = chosen_.counts.data<std::int32_t>()[row * groups + group];
      const auto visible = static_cast<std::int32_t>(row % seq_len / block + 1);
      std::int32_t& size = first.counts.data<std::int32_t>()[row];
      for (std::int32_t b = 0; b < visible && size < count; ++b) {
        if (std::find(list, list + count, b) == list + count)
          first.blocks.data<std::int32_t>()[row * top + size++] = b;
      }
      for (std::int32_t i = 0; size < count; ++i)
        first.blocks.data<std::int32_t>()[row * top + size++] = list[i];
    }
    replayer.blocks({5, rows, group, q_, k_, half}, first);
    EXPECT_GT(replayer.flips().flips, rows / 4);
    EXPECT_GT(replayer.flips().largest_margin, 0);
  }
}

TEST_F(VerifyChoices, ExpertsWithTheirBias) {
  const std::int64_t experts = 6, slots = 2, tokens = 16;
  const Tensor x = normal({tokens, 12}, "x"), weight = normal({experts, 12}, "router"),
               bias = normal({experts}, "bias");
  MoeConfig config{.num_experts = experts, .top_k = slots};
  Tape tape({Device{}, &pool_, nullptr});
  const Parameter gate{"gate", weight, Tensor()};
  const Routing routing = route(tape, tape.input(x), gate, bias, config, tokens);
  ChoiceRecorder recorder(2 * tokens, RouterScoring::sigmoid);
  EXPECT_FALSE(recorder.experts({2, 0, routing, bias}).defined());
  EXPECT_FALSE(recorder.experts({2, tokens, routing, bias}).defined());
  const WorkDirectory directory;
  recorder.write(directory.path().string());

  ChoiceReplayer replayer(directory.path().string());
  const Tensor same = replayer.experts({2, tokens, routing, bias});
  EXPECT_EQ(same.to_vector<std::int32_t>(), routing.chosen_ids.to_vector<std::int32_t>());
  EXPECT_EQ(replayer.flips().flips, 0);
  // Without the bias other experts win; all of their margins are below what the bias can move.
  const Routing other = route(tape, tape.input(x), gate, Tensor(), config, tokens);
  const Tensor instead = replayer.experts({2, 0, other, Tensor()});
  EXPECT_EQ(instead.to_vector<std::int32_t>(), routing.chosen_ids.to_vector<std::int32_t>());
  EXPECT_GT(replayer.flips().flips, 0);
  EXPECT_GT(replayer.flips().largest_margin, 0);
  const std::vector<float> b = bias.to_vector<float>();
  EXPECT_LT(replayer.flips().largest_margin,
            *std::max_element(b.begin(), b.end()) - *std::min_element(b.begin(), b.end()));
  replayer.stop();
  EXPECT_FALSE(replayer.experts({2, 0, other, Tensor()}).defined());
}

}  // namespace
}  // namespace hysparse::testing
