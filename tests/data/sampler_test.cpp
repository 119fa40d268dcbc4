#include "data/sampler.h"

#include <algorithm>
#include <map>
#include <set>
#include <span>

#include "core/random.h"
#include "data/token_file.h"
#include "data/token_writer.h"
#include "tests/data/temporary_directory.h"

namespace hysparse {
namespace {

using Window = std::vector<std::int32_t>;

/// Documents of 1..40 tokens; each token its own id, so that a window shows where its tokens come from.
std::int64_t write_numbered(const std::string& path, int documents) {
  TokenFileInfo info{"byte", "0", 1 << 20, 0, ""};
  TokenWriter writer(path, info);
  const CounterRandom random(9, "lengths");
  std::int32_t next = 0;
  for (int d = 0; d < documents; ++d) {
    Window document(static_cast<std::size_t>(1 + random.below(static_cast<std::uint64_t>(d), 40)));
    for (std::int32_t& id : document) id = next++;
    writer.append_document(document);
  }
  writer.finish();
  writer.commit();
  return next;
}

Window window_of(WindowSource& source, std::int64_t index) {
  Window window(static_cast<std::size_t>(source.seq_len() + 1));
  source.fill(index, window.data(), nullptr);
  return window;
}

class SamplerTest : public ::testing::Test {
 protected:
  SamplerTest() : num_tokens_(write_numbered(dir_ / "a.h5", 60)), file_(dir_ / "a.h5") {}
  TemporaryDirectory dir_;
  std::int64_t num_tokens_;
  TokenFile file_;
};

class SamplerEpochTest : public SamplerTest, public ::testing::WithParamInterface<std::int64_t> {};

TEST_P(SamplerEpochTest, AnEpochCoversEachTokenOnceButTheDroppedWindow) {
  const std::int64_t seq_len = GetParam();
  TokenSampler sampler(file_, seq_len, 17);
  EXPECT_EQ(sampler.windows(), (num_tokens_ - 1) / seq_len);
  for (std::int64_t epoch = 0; epoch < 3; ++epoch) {
    std::map<std::int32_t, std::int32_t> follower;  // target -> the token before it
    std::set<std::int32_t> inputs;
    for (std::int64_t i = 0; i < sampler.windows(); ++i) {
      const Window window = window_of(sampler, epoch * sampler.windows() + i);
      for (std::size_t t = 0; t + 1 < window.size(); ++t) {
        EXPECT_TRUE(inputs.insert(window[t]).second) << "token " << window[t] << " is an input twice";
        EXPECT_TRUE(follower.emplace(window[t + 1], window[t]).second)
            << "token " << window[t + 1] << " is a target twice";
      }
    }
    EXPECT_EQ(static_cast<std::int64_t>(follower.size()), sampler.windows() * seq_len);
    // Inside a document every target follows its own predecessor: documents are packed whole.
    std::set<std::int32_t> begins;
    for (std::int64_t d = 0; d < file_.num_documents(); ++d)
      begins.insert(static_cast<std::int32_t>(file_.document_begin(d)));
    for (const auto& [target, input] : follower) {
      EXPECT_TRUE(begins.contains(target) || input == target - 1) << input << " before " << target;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(SeqLen, SamplerEpochTest, ::testing::Values(1, 2, 7, 64, 200));

TEST_F(SamplerTest, TheOrderIsAPureFunctionOfTheIndex) {
  TokenSampler in_order(file_, 16, 5), jumping(file_, 16, 5);
  std::vector<Window> windows;
  const std::int64_t count = 3 * in_order.windows() + 2;
  for (std::int64_t i = 0; i < count; ++i) windows.push_back(window_of(in_order, i));
  const CounterRandom random(1, "jumps");
  for (std::uint64_t jump = 0; jump < 300; ++jump) {
    const auto i = static_cast<std::int64_t>(random.below(jump, static_cast<std::uint64_t>(count)));
    EXPECT_EQ(window_of(jumping, i), windows[static_cast<std::size_t>(i)]) << "index " << i;
  }
}

TEST_F(SamplerTest, EpochsAndSeedsDiffer) {
  TokenSampler sampler(file_, 16, 5), other(file_, 16, 6);
  std::vector<Window> first, second, other_seed;
  for (std::int64_t i = 0; i < sampler.windows(); ++i) {
    first.push_back(window_of(sampler, i));
    other_seed.push_back(window_of(other, i));
  }
  for (std::int64_t i = 0; i < sampler.windows(); ++i)
    second.push_back(window_of(sampler, sampler.windows() + i));
  EXPECT_NE(first, second);
  EXPECT_NE(first, other_seed);
  std::sort(first.begin(), first.end());
  std::sort(second.begin(), second.end());
  EXPECT_NE(first, second);  // the documents are packed anew, not only visited in another order
}

TEST_F(SamplerTest, DataShorterThanAWindowIsAnError) {
  EXPECT_ERROR(TokenSampler(file_, num_tokens_, 1), std::to_string(num_tokens_) + " tokens",
               "at least " + std::to_string(num_tokens_ + 1));
  EXPECT_ERROR(SequentialWindows(file_, num_tokens_), "a.h5", std::to_string(num_tokens_) + " tokens");
  TokenSampler whole(file_, num_tokens_ - 1, 1);
  EXPECT_EQ(whole.windows(), 1);
  Window window = window_of(whole, 4);
  std::sort(window.begin(), window.end());
  for (std::size_t i = 0; i < window.size(); ++i) EXPECT_EQ(window[i], static_cast<std::int32_t>(i));
}

/// What the starts of a window must be: the numbers of its tokens tell their documents.
Window expected_starts(const Window& window, const TokenDataset& file) {
  Window starts(window.size(), 0);
  for (std::size_t t = 1; t < window.size(); ++t) {
    const bool same = file.document_of(window[t]) == file.document_of(window[t - 1]);
    starts[t] = same ? starts[t - 1] : static_cast<std::int32_t>(t);
  }
  return starts;
}

TEST_F(SamplerTest, DocumentStartsAreWhereDocumentsBegin) {
  for (const std::int64_t seq_len : {1, 2, 7, 64, 200}) {
    TokenSampler sampler(file_, seq_len, 17);
    SequentialWindows in_order(file_, seq_len);
    for (WindowSource* source : {static_cast<WindowSource*>(&sampler), static_cast<WindowSource*>(&in_order)}) {
      for (std::int64_t i = 0; i < source->windows(); ++i) {
        Window window(static_cast<std::size_t>(seq_len + 1)), starts(window.size());
        source->fill(i, window.data(), starts.data());
        const Window expected = expected_starts(window, file_);
        ASSERT_EQ(starts, expected) << "seq_len " << seq_len << " window " << i;
        std::int64_t crossings = 0;
        for (std::int32_t t = 1; t <= seq_len; ++t) crossings += starts[static_cast<std::size_t>(t)] == t;
        ASSERT_EQ(source->crossings(i), crossings) << "seq_len " << seq_len << " window " << i;
      }
    }
  }
}

/// Documents of given lengths over tokens that count up; some may be empty.
class CountingTokens final : public TokenDataset {
 public:
  explicit CountingTokens(std::vector<std::int64_t> lengths) {
    for (const std::int64_t length : lengths) ends_.push_back((ends_.empty() ? 0 : ends_.back()) + length);
  }
  const std::string& path() const override { return path_; }
  TokenFormat format() const override { return TokenFormat::megatron; }
  const TokenFileInfo& info() const override { return info_; }
  TokenType type() const override { return TokenType::i32; }
  std::int64_t num_tokens() const override { return ends_.back(); }
  std::int64_t num_documents() const override { return static_cast<std::int64_t>(ends_.size()); }
  std::int64_t document_end(std::int64_t i) const override { return ends_[static_cast<std::size_t>(i)]; }
  void read(std::int64_t begin, std::span<std::int32_t> out) const override {
    for (std::int32_t& id : out) id = static_cast<std::int32_t>(begin++);
  }

 private:
  std::string path_ = "counting";
  TokenFileInfo info_;
  std::vector<std::int64_t> ends_;
};

TEST(SamplerDocuments, OnesWithoutTokensAreNowhere) {
  const CountingTokens file({0, 0, 3, 0, 5, 0, 0, 0, 4, 1, 0, 1, 6, 0, 0});
  for (const std::int64_t seq_len : {1, 2, 3, 6, 19}) {
    TokenSampler sampler(file, seq_len, 3);
    SequentialWindows in_order(file, seq_len);
    for (WindowSource* source : {static_cast<WindowSource*>(&sampler), static_cast<WindowSource*>(&in_order)}) {
      for (std::int64_t i = 0; i < 4 * source->windows(); ++i) {
        if (source == &in_order && i >= source->windows()) break;
        Window window(static_cast<std::size_t>(seq_len + 1)), starts(window.size());
        source->fill(i, window.data(), starts.data());
        ASSERT_EQ(starts, expected_starts(window, file)) << "seq_len " << seq_len << " window " << i;
        std::int64_t crossings = 0;
        for (std::int32_t t = 1; t <= seq_len; ++t) crossings += starts[static_cast<std::size_t>(t)] == t;
        ASSERT_EQ(source->crossings(i), crossings);
      }
    }
  }
}

TEST_F(SamplerTest, ABlendTakesEachSourceInItsOwnOrder) {
  write_numbered(dir_ / "b.h5", 25);
  const TokenFile other(dir_ / "b.h5");
  const std::vector<double> weights{0.7, 0.3};
  std::vector<std::unique_ptr<WindowSource>> sources;
  sources.push_back(std::make_unique<TokenSampler>(file_, 16, 5));
  sources.push_back(std::make_unique<TokenSampler>(other, 16, 5));
  BlendedWindows blend(std::move(sources), weights);
  TokenSampler first(file_, 16, 5), second(other, 16, 5);
  Blend order(weights);
  std::vector<std::int64_t> given(2, 0);
  const std::int64_t count = 3 * (first.windows() + second.windows());  // some epochs of each
  for (std::int64_t i = 0; i < count; ++i) {
    const Blend::Draw draw = order.at(i);
    EXPECT_EQ(draw.sample, given[static_cast<std::size_t>(draw.source)]++);  // none is left out, none twice
    EXPECT_EQ(window_of(blend, i), window_of(draw.source == 0 ? first : second, draw.sample)) << i;
    EXPECT_EQ(blend.crossings(i), (draw.source == 0 ? first : second).crossings(draw.sample)) << i;
  }
  EXPECT_LT(blend.windows(), count);
  const std::vector<std::int64_t> used = order.samples(blend.windows());
  EXPECT_LE(used[0], first.windows());
  EXPECT_LE(used[1], second.windows());
}

TEST_F(SamplerTest, SequentialWindowsAreInOrder) {
  SequentialWindows windows(file_, 10);
  EXPECT_EQ(windows.windows(), (num_tokens_ - 1) / 10);
  for (std::int64_t i = 0; i < windows.windows(); ++i) {
    const Window window = window_of(windows, i);
    for (std::int64_t t = 0; t <= 10; ++t) EXPECT_EQ(window[static_cast<std::size_t>(t)], i * 10 + t);
  }
  Window out(11);
  EXPECT_ERROR(windows.fill(windows.windows(), out.data(), nullptr), "a.h5", "fewer batches");
}

}  // namespace
}  // namespace hysparse
