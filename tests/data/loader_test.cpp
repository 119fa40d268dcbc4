#include "data/loader.h"

#include <memory>

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
  }

  /// Inputs and targets of a step, micro-batch after micro-batch, rank after rank.
  Tokens step_tokens(std::int64_t step, std::int64_t micro_batch, int dp_size) {
    Tokens tokens;
    for (int rank = 0; rank < dp_size; ++rank) {
      TokenSampler sampler(*file_, seq_len, 3);  // fresh: as if the run had just resumed
      Loader loader(sampler, {global_batch, micro_batch, rank, dp_size});
      for (std::int64_t m = 0; m < loader.micro_batches(); ++m) {
        const Batch batch = loader.load(step * global_batch, m);
        EXPECT_EQ(batch.inputs.shape(), (Shape{micro_batch * seq_len}));
        EXPECT_EQ(batch.targets.shape(), (Shape{micro_batch * seq_len}));
        for (std::int64_t i = 0; i < batch.inputs.numel(); ++i) {
          tokens.push_back(batch.inputs.data<std::int32_t>()[i]);
          tokens.push_back(batch.targets.data<std::int32_t>()[i]);
        }
      }
    }
    return tokens;
  }

  TemporaryDirectory dir_;
  std::unique_ptr<TokenFile> file_;
};

TEST_F(LoaderTest, EveryLayoutSeesTheSameSamplesInTheSameOrder) {
  for (std::int64_t step = 0; step < 9; ++step) {  // crosses two epochs
    Tokens expected;
    TokenSampler sampler(*file_, seq_len, 3);
    for (std::int64_t i = step * global_batch; i < (step + 1) * global_batch; ++i) {
      Tokens window(seq_len + 1);
      sampler.fill(i, window.data());
      for (std::size_t t = 0; t < seq_len; ++t) expected.insert(expected.end(), {window[t], window[t + 1]});
    }
    for (const int dp_size : {1, 2, 4}) {
      for (const std::int64_t micro_batch : {1, 2}) {
        EXPECT_EQ(step_tokens(step, micro_batch, dp_size), expected) << "step " << step << " dp " << dp_size;
      }
    }
  }
}

TEST_F(LoaderTest, ResumesAtAnyStep) {
  TokenSampler unbroken_sampler(*file_, seq_len, 3);
  Loader unbroken(unbroken_sampler, {global_batch, 2, 1, 2});
  for (std::int64_t step = 0; step < 10; ++step) {
    TokenSampler resumed_sampler(*file_, seq_len, 3);
    Loader resumed(resumed_sampler, {global_batch, 2, 1, 2});
    for (std::int64_t m = 0; m < unbroken.micro_batches(); ++m) {
      const Batch a = unbroken.load(step * global_batch, m), b = resumed.load(step * global_batch, m);
      EXPECT_EQ(a.inputs.to_vector<std::int32_t>(), b.inputs.to_vector<std::int32_t>());
      EXPECT_EQ(a.targets.to_vector<std::int32_t>(), b.targets.to_vector<std::int32_t>());
    }
  }
}

TEST_F(LoaderTest, EvaluationReadsInOrder) {
  SequentialWindows windows(*file_, seq_len);
  Loader loader(windows, {4, 2, 1, 2});
  const Batch batch = loader.load(4, 0);  // windows 6 and 7
  Tokens expected(2 * seq_len);
  for (std::size_t i = 0; i < expected.size(); ++i) expected[i] = static_cast<std::int32_t>(36 + i);
  EXPECT_EQ(batch.inputs.to_vector<std::int32_t>(), expected);
  EXPECT_ERROR(loader.load(26, 0), "a.h5", "holds 27 windows");
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
