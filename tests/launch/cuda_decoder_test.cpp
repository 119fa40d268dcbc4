// Generation on the GPU in fp32 against the training forward on the GPU, at every position of the golden
// exports: prompts in pieces, then token by token (the kernels that split the keys), alone and in a batch.
#include <filesystem>

#include <gtest/gtest.h>

#include "core/ops/linear.h"
#include "data/formats/raw_tokens.h"
#include "launch/loaded_model.h"
#include "model/decoder.h"
#include "tests/core/gpu_test.h"

namespace hysparse::testing {
namespace {

namespace fs = std::filesystem;

/// fp32 through a few layers, sums in another order.
constexpr double tolerance = 1e-4;

TEST(CudaDecoder, LogitsEqualTheTrainingForward) {
  int cases = 0;
  for (const auto& entry : fs::directory_iterator(fs::path(HYSPARSE_SOURCE_DIR) / "tests" / "golden")) {
    if (!fs::exists(entry.path() / "tokens.bin")) continue;
    SCOPED_TRACE(entry.path().string());
    const Device device = gpu().device;
    LoadedModel loaded(entry.path().string(), DType::f32, false, device);
    const RawTokenFile file((entry.path() / "tokens.bin").string());
    std::vector<std::int32_t> tokens(static_cast<std::size_t>(std::min<std::int64_t>(file.num_tokens(), 60)));
    file.read(0, tokens);
    const auto length = static_cast<std::int64_t>(tokens.size());
    Tape tape(loaded.stream(), TapeOptions{.recording = false, .pack = {}});
    const Tensor ids = Tensor::from(tokens, {length}).to_device(device);
    const Var hidden = loaded.model().hidden(tape, {ids, Tensor(), 1, length}, nullptr);
    const Tensor expected = linear(tape, hidden, loaded.model().head()).value.to_device(Device{});

    const Decoder decoder(loaded.model(), loaded.stream());
    const ModelConfig& config = loaded.source().config();
    for (const std::int64_t prompt : {std::int64_t{1}, length / 2, length}) {
      KvCache a(config, length, DType::f32, device), b(config, length, DType::f32, device);
      const auto check = [&](const Tensor& logits, std::int64_t row, std::int64_t t) {
        ASSERT_LE(gpu_error(logits.slice(row, row + 1), expected.slice(t, t + 1)), tolerance)
            << "prompt of " << prompt << ", position " << t;
      };
      check(decoder.prefill(a, std::span(tokens).first(static_cast<std::size_t>(prompt)), 7), 0, prompt - 1);
      decoder.prefill(b, std::span(tokens).first(1), 7);
      for (std::int64_t t = prompt; t < length; ++t) {  // b goes along, prompt - 1 tokens behind
        const std::int64_t u = b.tokens();
        const std::vector<Decoder::Piece> pieces{
            {&a, std::span(tokens).subspan(static_cast<std::size_t>(t), 1)},
            {&b, std::span(tokens).subspan(static_cast<std::size_t>(u), 1)}};
        const Tensor logits = decoder.forward(pieces);
        check(logits, 0, t);
        check(logits, 1, u);
      }
    }
    ++cases;
  }
  EXPECT_GE(cases, 20);
}

}  // namespace
}  // namespace hysparse::testing
