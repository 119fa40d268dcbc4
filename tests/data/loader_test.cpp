#include "data/loader.h"

#include <memory>
#include <set>

#include "data/token_file.h"
#include "data/token_writer.h"
#include "tests/data/temporary_directory.h"

namespace hysparse {
namespace {

using Tokens = std::vector<std::int32_t>;

class LoaderTest : public ::testing::Test {
 protected:
  static constexpr std::int64_t seq_len = 6, global_batch = 8;

  LoaderTest() {
    TokenWriter writer(dir_ / "a.h5", {"byte", "0", 100000, 0, ""});
    for (std::int32_t d = 0; d < 12;
         ++d) {  // 12 documents of 14 tokens: 27 windows an epoch, no multiple of the batch
      Tokens document;
      for (std::int32_t t = 0; t < 14; ++t) document.push_back(d * 14 + t);
      writer.append_document(document);
    }
    writer.finish();
    writer.commit();
    file_ = std::make_unique<TokenFile>(dir_ / "a.h5");
    TokenWriter second(dir_ / "b.h5", {"byte", "0", 100000, 0, ""});
    for (std::int32_t d = 0; d < 30; ++d)
      second.append_document(Tokens(static_cast<std::size_t>(1 + d % 7), 1000 + d));
    second.finish();
    second.commit();
    other_ = std::make_unique<TokenFile>(dir_ / "b.h5");
  }

  /// The tests' samples: a blend of two files and three epochs or so, or one file.
  std::unique_ptr<WindowSource> samples(bool blend) {
    auto first = std::make_unique<TokenSampler>(*file_, seq_len, 3);
    if (!blend) return first;
    std::vector<std::unique_ptr<WindowSource>> sources;
    sources.push_back(std::move(first));
    sources.push_back(std::make_unique<TokenSampler>(*other_, seq_len, 3));
    return std::make_unique<BlendedWindows>(std::move(sources), std::vector<double>{0.61, 0.39});
  }

  /// Inputs, targets and document starts of a step, micro-batch after micro-batch, rank after rank.
  Tokens step_tokens(std::int64_t step, std::int64_t micro_batch, int dp_size, bool blend, bool mask) {
    Tokens tokens;
    for (int rank = 0; rank < dp_size; ++rank) {
      const auto source = samples(blend);  // fresh: as if the run had just resumed
      Loader loader(*source, {global_batch, micro_batch, rank, dp_size, mask});
      const StepBatch loaded = loader.load(step * global_batch);
      EXPECT_EQ(static_cast<std::int64_t>(loaded.micro_batches.size()), loader.micro_batches());
      targets_.insert(loaded.targets);
      for (const Batch& batch : loaded.micro_batches) {
        EXPECT_EQ(batch.inputs.shape(), (Shape{micro_batch * seq_len}));
        EXPECT_EQ(batch.targets.shape(), (Shape{micro_batch * seq_len}));
        for (std::int64_t i = 0; i < batch.inputs.numel(); ++i) {
          tokens.push_back(batch.inputs.data<std::int32_t>()[i]);
          tokens.push_back(batch.targets.data<std::int32_t>()[i]);
          if (mask) tokens.push_back(batch.document_starts.data<std::int32_t>()[i]);
        }
      }
    }
    return tokens;
  }

  TemporaryDirectory dir_;
  std::unique_ptr<TokenFile> file_, other_;
  std::set<std::int64_t> targets_;  // of the steps' batches, as the ranks count them
};

TEST_F(LoaderTest, EveryLayoutSeesTheSameSamplesInTheSameOrder) {
  for (const bool blend : {false, true}) {
    for (const bool mask : {false, true}) {
      const auto source = samples(blend);              // one for all steps: as if the run had never stopped
      for (std::int64_t step = 0; step < 9; ++step) {  // crosses epochs
        Tokens expected;
        std::int64_t counted = 0;
        for (std::int64_t i = step * global_batch; i < (step + 1) * global_batch; ++i) {
          Tokens window(seq_len + 1), starts(seq_len + 1);
          source->fill(i, window.data(), starts.data());
          for (std::size_t t = 0; t < seq_len; ++t) {
            const bool crosses = mask && starts[t + 1] == static_cast<std::int32_t>(t + 1);
            expected.insert(expected.end(), {window[t], crosses ? -1 : window[t + 1]});
            if (mask) expected.push_back(starts[t]);
            counted += crosses ? 0 : 1;
          }
        }
        targets_.clear();
        for (const int dp_size : {1, 2, 4}) {
          for (const std::int64_t micro_batch : {1, 2}) {
            EXPECT_EQ(step_tokens(step, micro_batch, dp_size, blend, mask), expected)
                << "step " << step << " dp " << dp_size << " blend " << blend << " mask " << mask;
          }
        }
        EXPECT_EQ(targets_, std::set<std::int64_t>{counted}) << "every rank counts the same";
      }
    }
  }
}

TEST_F(LoaderTest, AStepMayHaveNoTargetsThatCount) {
  TokenWriter writer(dir_ / "c.h5", {"byte", "0", 100000, 0, ""});
  for (std::int32_t d = 0; d < 100; ++d) writer.append_document(Tokens{d});
  writer.finish();
  writer.commit();
  const TokenFile file(dir_ / "c.h5");
  TokenSampler sampler(file, seq_len, 3);
  Loader loader(sampler, {global_batch, 2, 1, 2, true});
  const StepBatch step = loader.load(0);
  EXPECT_EQ(step.targets, 0);
  for (const Batch& batch : step.micro_batches) {
    EXPECT_EQ(batch.targets.to_vector<std::int32_t>(), Tokens(2 * seq_len, -1));
    for (std::int64_t t = 0; t < 2 * seq_len; ++t)
      EXPECT_EQ(batch.document_starts.data<std::int32_t>()[t], t % seq_len);
  }
}

TEST_F(LoaderTest, EvaluationReadsInOrder) {
  SequentialWindows windows(*file_, seq_len);
  Loader loader(windows, {4, 2, 1, 2});
  const StepBatch step = loader.load(4);  // windows 6 and 7
  ASSERT_EQ(step.micro_batches.size(), 1u);
  EXPECT_FALSE(step.micro_batches[0].document_starts.defined());
  EXPECT_EQ(step.targets, 4 * seq_len);
  Tokens expected(2 * seq_len);
  for (std::size_t i = 0; i < expected.size(); ++i) expected[i] = static_cast<std::int32_t>(36 + i);
  EXPECT_EQ(step.micro_batches[0].inputs.to_vector<std::int32_t>(), expected);
  EXPECT_ERROR(loader.load(26), "a.h5", "holds 27 windows");
  const Batch last = load_windows(windows, 26, 27, 2, true);  // a row too many
  for (std::int64_t t = 0; t < seq_len; ++t) {
    EXPECT_EQ(last.targets.data<std::int32_t>()[seq_len + t], -1);
    EXPECT_EQ(last.document_starts.data<std::int32_t>()[seq_len + t], 0);
  }
}

TEST_F(LoaderTest, RefusesBatchSizesThatDoNotFit) {
  TokenSampler sampler(*file_, seq_len, 3);
  EXPECT_ERROR(Loader(sampler, {8, 3, 0, 1}), "global_batch_size 8", "micro_batch_size 3 * dp 1 = 3");
  EXPECT_ERROR(Loader(sampler, {2, 2, 0, 2}), "global_batch_size 2", "= 4");
  EXPECT_ERROR(Loader(sampler, {0, 1, 0, 1}), "global_batch_size 0", "at least 1");
  EXPECT_ERROR(Loader(sampler, {4, -2, 0, 1}), "micro_batch_size -2", "at least 1");
  EXPECT_THROW(Loader(sampler, {4, 2, 2, 2}), CheckFailure);
}

}  // namespace
}  // namespace hysparse
