// Generation with bounded caches computes what the training forward computes, at every position of every golden
// export, however the tokens come.
#include "model/decoder.h"

#include <filesystem>

#include <gtest/gtest.h>

#include "core/memory.h"
#include "core/ops/linear.h"
#include "data/formats/raw_tokens.h"
#include "launch/config.h"
#include "launch/loaded_model.h"
#include "tests/core/gradient_check.h"

namespace hysparse {
namespace {

namespace fs = std::filesystem;

/// Float64 rounding through a few layers; the choices of blocks and experts are the same.
constexpr double tolerance = 1e-10;

/// A golden export, its tokens, and the logits [T, V] of the training forward.
struct Golden {
  explicit Golden(const fs::path& path) : loaded(path.string(), DType::f64, false) {
    const RawTokenFile file((path / "tokens.bin").string());
    tokens.resize(static_cast<std::size_t>(std::min<std::int64_t>(file.num_tokens(), 60)));
    file.read(0, tokens);
    const std::int64_t length = size();
    Tape tape(loaded.stream(), TapeOptions{.recording = false, .pack = {}});
    const Var hidden =
        loaded.model().hidden(tape, {Tensor::from(tokens, {length}), Tensor(), 1, length}, nullptr);
    expected = linear(tape, hidden, loaded.model().head()).value;
  }
  std::int64_t size() const { return static_cast<std::int64_t>(tokens.size()); }
  const ModelConfig& config() const { return loaded.source().config(); }
  std::span<const std::int32_t> part(std::int64_t begin, std::int64_t end) const {
    return std::span(tokens).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
  }
  /// Rows [begin, end) are what `logits` must be.
  void expect(const Tensor& logits, std::int64_t begin, std::int64_t end, const char* what) const {
    ASSERT_EQ(logits.dim(0), end - begin);
    for (std::int64_t t = begin; t < end; ++t) {
      ASSERT_LT(testing::relative_error(logits.slice(t - begin, t - begin + 1), expected.slice(t, t + 1)),
                tolerance)
          << what << ", position " << t;
    }
  }

  LoadedModel loaded;
  std::vector<std::int32_t> tokens;
  Tensor expected;
};

std::vector<fs::path> golden_exports() {
  std::vector<fs::path> paths;
  for (const auto& entry : fs::directory_iterator(fs::path(HYSPARSE_SOURCE_DIR) / "tests" / "golden")) {
    if (fs::exists(entry.path() / "tokens.bin")) paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  EXPECT_GE(paths.size(), 20u);
  return paths;
}

class GoldenDecoder : public ::testing::TestWithParam<fs::path> {};
INSTANTIATE_TEST_SUITE_P(Exports, GoldenDecoder, ::testing::ValuesIn(golden_exports()),
                         [](const auto& p) { return p.param.filename().string(); });

TEST_P(GoldenDecoder, AnyPiecesGiveTheTrainingForward) {
  const Golden golden(GetParam());
  const Decoder decoder(golden.loaded.model(), golden.loaded.stream());
  const std::int64_t length = golden.size();
  for (const std::vector<std::int64_t>& pieces : std::vector<std::vector<std::int64_t>>{
           {1}, {2}, {7}, {16}, {length}, {length - 1, 1}, {1, 5, 1, 1, 30, 2}}) {
    KvCache cache(golden.config(), length, DType::f64);
    for (std::int64_t t = 0, i = 0; t < length; ++i) {
      const std::int64_t end =
          std::min(length, t + std::max<std::int64_t>(1, pieces[static_cast<std::size_t>(i) % pieces.size()]));
      const Decoder::Piece piece{&cache, golden.part(t, end)};
      const std::string what = fmt::format("pieces of {}", fmt::join(pieces, ", "));
      golden.expect(decoder.forward({&piece, 1}, Decoder::Logits::all), t, end, what.c_str());
      t = end;
    }
    EXPECT_EQ(cache.tokens(), length);
  }
}

/// Sequences of different lengths that begin and end at different steps, some by one token, some by several.
TEST_P(GoldenDecoder, AnyBatchGivesTheTrainingForward) {
  const Golden golden(GetParam());
  const Decoder decoder(golden.loaded.model(), golden.loaded.stream());
  const std::int64_t count = 4;
  std::vector<KvCache> caches;
  for (std::int64_t s = 0; s < count; ++s)
    caches.emplace_back(golden.config(), golden.size() - 3 * s, DType::f64);
  for (std::int64_t step = 0, left = count; left > 0; ++step) {
    std::vector<Decoder::Piece> pieces;
    for (std::int64_t s = 0; s < count; ++s) {
      KvCache& cache = caches[static_cast<std::size_t>(s)];
      if (step < 2 * s || cache.tokens() == cache.capacity()) continue;
      const std::int64_t wanted = s == 0 ? 1 : s == 1 ? 9 : 1 + (step + s) % 3;
      pieces.push_back(
          {&cache, golden.part(cache.tokens(), std::min(cache.capacity(), cache.tokens() + wanted))});
    }
    left = static_cast<std::int64_t>(pieces.size());
    if (left == 0) break;
    const Tensor last = decoder.forward(pieces);
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      const auto row = static_cast<std::int64_t>(i), t = pieces[i].cache->tokens();
      golden.expect(last.slice(row, row + 1), t - 1, t, fmt::format("batch step {}", step).c_str());
    }
  }
  for (const KvCache& cache : caches) EXPECT_EQ(cache.tokens(), cache.capacity());
}

TEST_P(GoldenDecoder, CachesTakeTheBytesOfTheFormula) {
  const Golden golden(GetParam());
  for (const std::int64_t capacity : {1, 17, 4096}) {
    const KvReport measured = KvCache(golden.config(), capacity, DType::f32).measure(),
                   formula = kv_report(golden.config(), capacity, DType::f32);
    EXPECT_EQ(measured.total_bytes, formula.total_bytes);
    EXPECT_EQ(measured.full_attention_bytes, formula.full_attention_bytes);
    for (const auto& [type, kind] : formula.kinds) {
      EXPECT_EQ(measured.kinds.at(type).layers, kind.layers);
      EXPECT_EQ(measured.kinds.at(type).bytes, kind.bytes);
    }
  }
}

TEST(Decoder, MemoryOfAPromptIsBoundedByTheChunk) {
  const Golden golden(fs::path(HYSPARSE_SOURCE_DIR) / "tests" / "golden" / "moe_softmax_bias");
  const Decoder decoder(golden.loaded.model(), golden.loaded.stream());
  std::vector<std::int32_t> prompt;
  while (prompt.size() < 6000) prompt.insert(prompt.end(), golden.tokens.begin(), golden.tokens.end());
  const auto beside = [&](std::int64_t chunk) {
    KvCache cache(golden.config(), static_cast<std::int64_t>(prompt.size()), DType::f64);
    const std::int64_t before = memory_use().live_bytes;
    reset_memory_peak();
    decoder.prefill(cache, prompt, chunk);
    return memory_use().peak_bytes - before;
  };
  const std::int64_t small = beside(64), large = beside(6000);
  EXPECT_LT(4 * small, large) << small << " and " << large;
}

TEST(KvReport, IsThePapersForTheLargePreset) {
  const ModelConfig c =
      load_config(HYSPARSE_SOURCE_DIR "/configs/presets/80b-a3b-hysparse.yaml", {}, std::nullopt).model;
  const auto ratio = [&](std::int64_t tokens) {
    const KvReport r = kv_report(c, tokens, DType::bf16);
    return static_cast<double>(r.full_attention_bytes) / static_cast<double>(r.total_bytes);
  };
  EXPECT_NEAR(ratio(32768), 9.47, 0.01);
  EXPECT_NEAR(ratio(1 << 20), 9.8, 0.02);
  EXPECT_DOUBLE_EQ(ratio(100), 1.0);
  const KvReport r = kv_report(c, 1 << 20, DType::bf16);
  EXPECT_EQ(r.kinds.at(LayerType::full_attention).bytes, 5ll * 2 * 4 * 128 * 2 << 20);
  EXPECT_EQ(r.kinds.at(LayerType::sparse_attention).bytes, 44ll * 2 * 4 * 128 * 2 * 128);
}

}  // namespace
}  // namespace hysparse
