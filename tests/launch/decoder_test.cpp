// Generation with the bounded cache computes what the training forward computes, at every position of every
// golden export.
#include "model/decoder.h"

#include <filesystem>

#include <gtest/gtest.h>

#include "core/ops/linear.h"
#include "data/formats/raw_tokens.h"
#include "launch/loaded_model.h"
#include "tests/core/gradient_check.h"

namespace hysparse {
namespace {

namespace fs = std::filesystem;

/// Float64 rounding through a few layers; the choices of blocks and experts are the same.
constexpr double tolerance = 1e-10;

TEST(Decoder, LogitsEqualTheTrainingForwardAtEveryPosition) {
  int cases = 0;
  for (const auto& entry : fs::directory_iterator(fs::path(HYSPARSE_SOURCE_DIR) / "tests" / "golden")) {
    if (!fs::exists(entry.path() / "tokens.bin")) continue;
    LoadedModel loaded(entry.path().string(), DType::f64, false);
    const RawTokenFile file((entry.path() / "tokens.bin").string());
    const std::int64_t length = std::min<std::int64_t>(file.num_tokens(), 60);
    std::vector<std::int32_t> tokens(static_cast<std::size_t>(length));
    file.read(0, tokens);

    Tape tape(loaded.stream(), TapeOptions{.recording = false, .pack = {}});
    const Var hidden =
        loaded.model().hidden(tape, {Tensor::from(tokens, {length}), Tensor(), 1, length}, nullptr);
    const Tensor expected = linear(tape, hidden, loaded.model().head()).value;

    Decoder decoder(loaded.model(), loaded.stream(), DType::f64, length);
    for (std::int64_t t = 0; t < length; ++t) {
      const Tensor logits = decoder.step(tokens[static_cast<std::size_t>(t)]);
      const Tensor row = expected.slice(t, t + 1).view(logits.shape());
      ASSERT_LT(testing::relative_error(logits, row), tolerance) << entry.path() << " position " << t;
    }
    EXPECT_EQ(decoder.cache_bytes(), kv_report(loaded.source().config(), length, DType::f64).total_bytes);
    ++cases;
  }
  EXPECT_GE(cases, 20);
}

TEST(KvReport, IsThePapersForTheLargePreset) {
  ModelConfig c;
  c.layer_types = layer_types_from_ratio(49, 11, LayerType::sparse_attention);
  c.num_heads = 64;
  c.num_kv_heads = 4;
  c.head_dim = 128;
  c.sliding_window = 128;
  const auto ratio = [&](std::int64_t tokens) {
    const KvReport r = kv_report(c, tokens, DType::bf16);
    return static_cast<double>(r.full_attention_bytes) / static_cast<double>(r.total_bytes);
  };
  EXPECT_NEAR(ratio(32768), 9.47, 0.01);
  EXPECT_NEAR(ratio(1 << 20), 9.8, 0.02);
  EXPECT_DOUBLE_EQ(ratio(100), 1.0);
}

}  // namespace
}  // namespace hysparse
