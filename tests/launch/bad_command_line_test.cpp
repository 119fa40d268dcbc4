// The user's mistakes on the command line, and what it names: token files, outputs.
#include "tests/launch/bad_input.h"

namespace hysparse::testing {
namespace {

/// tokens.bin of these ids.
void write_raw(const std::string& path, const std::vector<std::int32_t>& ids) {
  write_file(path, {reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof(std::int32_t)});
}

TEST_F(BadInputTest, CommandLine) {
  with_run();
  const auto eval = [](const std::vector<std::string>& more) {
    std::vector<std::string> words = {"eval", "@/export", "--data", "@/valid.h5"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  };
  const auto raw = [](const std::vector<std::int32_t>& ids) {
    return [=](const std::string& place) { write_raw(place + "/tokens.bin", ids); };
  };
  const std::vector<std::string> eval_raw = {"eval",      "@/export", "--data", "@/case/tokens.bin",
                                             "--seq-len", "4"};
  expect_refused({
      {{}, {"a command is needed: train, prepare, ...(hysparse --help says more)"}},
      {{"trian"}, {"trian: unknown command; did you mean train?"}},
      {{"plan", "@/config.yaml"}, {"plan: not there yet; see README, Status"}},
      {{"--verbose"}, {"--verbose: unknown option; a command comes first: train, ..."}},
      {{"train"}, {"train: CONFIG.yaml is missing"}},
      {train({"--dryrun"}), {"train: --dryrun: unknown option; did you mean --dry-run?"}},
      {{"eval"},
       {"eval: CHECKPOINT|EXPORT is missing", "eval: --data DATA.h5|tokens.bin is missing",
        "eval: --seq-len N is missing"}},
      {eval({"--seq-len", "0"}), {"eval: --seq-len: 0: must be a positive integer"}},
      {eval({"--seq-len", "many"}), {"eval: --seq-len: many: must be a positive integer"}},
      {eval({"--seq-len"}), {"eval: --seq-len needs a value"}},
      {eval({"--seq-len", "8", "--seq-len", "9"}), {"eval: --seq-len: given 2 times; give it once"}},
      {eval({"--seq-len", "8", "--batches", "0"}), {"eval: --batches: 0: must be a positive integer"}},
      {eval({"--seq-len", "8", "--dtype", "bf16"}),
       {"--dtype: bf16: is for GPUs, of which there is none that can be used; must be fp32 or fp64"}},
      {eval({"--seq-len", "100000"}),
       {"--data: @/valid.h5: holds ... tokens, but seq_len 100000 needs at least 100001 (seq_len + 1)"}},
      {eval({"--seq-len", "8", "--grads", "@/case/none/g.safetensors"}),
       {"--grads: @/case/none/g.safetensors: cannot write in directory @/case/none: No such file or "
        "directory"}},
      {eval({"--seq-len", "8", "--grads", "@/text"}),
       {"--grads: @/text: is a directory, expected the name of a file to write"}},
      {eval({"--seq-len", "8", "--grads", "@/valid.h5"}), {"--grads: @/valid.h5: is the file of --data"}},
      {eval({"--seq-len", "8", "--grads", "@/export/model.safetensors"}),
       {"--grads: @/export/model.safetensors: is a name of the model's own files"}},
      {{"eval", "@/export", "--data", "@/none.h5", "--seq-len", "8"},
       {"--data: @/none.h5: cannot read it: No such file or directory"}},
      {{"eval", "@/export", "--data", "@/text", "--seq-len", "8"}, {"--data: @/text: not a regular file"}},
      {eval_raw, {"--data: @/case/tokens.bin: cannot read it: No such file or directory"}},
      {eval_raw, {"--data: @/case/tokens.bin: empty file, expected int32 tokens"}, raw({})},
      {eval_raw,
       {"--data: @/case/tokens.bin: 21 bytes are not whole int32 tokens (a multiple of 4 bytes)"},
       with_file("tokens.bin", std::string(21, '\0'))},
      {eval_raw,
       {"--data: @/case/tokens.bin: token 4 is 320; the model's vocabulary has ids 0 to 319"},
       raw({1, 2, 3, 4, 320})},
      {eval_raw, {"--data: @/case/tokens.bin: token 2 is -1: ids are >= 0"}, raw({1, 2, -1, 4, 5})},
      {eval_raw,
       {"--data: @/case/tokens.bin: holds 4 tokens, but seq_len 4 needs at least 5 (seq_len + 1)"},
       raw({1, 2, 3, 4})},
      {{"generate", "@/export"}, {"generate: --prompt TEXT is missing (or --prompts-file FILE)"}},
      {{"generate", "@/none", "--prompt", "a"},
       {"@/none: no such directory; give an export, a step directory or a run directory"}},
      {{"generate", "@/export", "--prompts-file", "@/none"}, {"--prompts-file: @/none: cannot read it"}},
      {{"generate", "@/export", "--prompts-file", "@/case/prompts"},
       {"--prompts-file: @/case/prompts: holds no line"},
       with_file("prompts", "")},
      {{"generate", "@/export", "--prompt", "a", "--kv-tokens", "9"},
       {"generate: --kv-tokens: says what a cache takes, and reads no prompt",
        "generate: --kv-tokens needs --report-kv"}},
      {{"generate", "@/export", "--prompt", "a", "--stop", "", "--prefill-chunk", "0", "--batch-size", "-1"},
       {"generate: --prefill-chunk: 0: must be a positive integer",
        "generate: --batch-size: -1: must be a positive integer", "generate: --stop: must not be empty"}},
      {{"generate", "@/export", "--prompt", "a", "--top-k", "-1", "--top-p", "0", "--min-p", "1.5",
        "--repetition-penalty", "0"},
       {"generate: --top-k: -1: must be an integer of at least 0",
        "generate: --top-p: 0: must be a number above 0, at most 1",
        "generate: --min-p: 1.5: must be a number from 0 to 1",
        "generate: --repetition-penalty: 0: must be a positive number"}},
      {{"generate", "@/export", "--prompt", "a", "--dtype", "bf16"},
       {"--dtype: bf16: is for GPUs, of which there is none that can be used; must be fp32 or fp64"}},
      {{"generate", "@/export", "--prompt", "a", "--max-tokens", "0"},
       {"generate: --max-tokens: 0: must be a positive integer"}},
      {{"generate", "@/export", "--prompt", "a", "--max-tokens", "2147483647"},
       {"--max-tokens: 2147483647: their keys and values take ... bytes, this machine has ..."}},
      {{"generate", "@/export", "--prompt", "a", "--max-tokens", "9223372036854775807"},
       {"generate: --max-tokens: 9223372036854775807: must be a positive integer (at most 2147483647)"}},
      {{"generate", "@/export", "--prompt", "a", "--temperature", "cold"},
       {"generate: --temperature: cold: must be a number of at least 0"}},
      {{"export", "@/run", "--output", "@/case/out", "--format", "qwen3_moe"},
       {"--format: qwen3_moe: model.attention: sparse_attention: Qwen3MoeForCausalLM has full attention only",
        "--format: qwen3_moe: model.moe.scoring: sigmoid: Qwen3MoeForCausalLM has a softmax router",
        "--format: qwen3_moe: model.moe.bias_update_rate: 0.01: Qwen3MoeForCausalLM has no correction bias (0 "
        "trains without)",
        "--format: qwen3_moe: model.moe.shared_experts: 1: Qwen3MoeForCausalLM has none"}},
      {{"export", "@/run", "--output", "@/case/out", "--tokenizer", "@/none"},
       {"--tokenizer: tokenizer @/none: unknown; available: byte, ..."}},
      {{"import", "@/export"},
       {"import: --config CONFIG.yaml is missing", "import: --output RUN_DIR is missing"}},
      {{"import", "@/export", "--config", "@/config.yaml", "--output", "@/case/out", "model.hidden_size=64"},
       {"model.hidden_size: 64: export @/export has 32"}},
      {{"export", "@/run", "--output", "@/case/out", "--dtype", "fp8"},
       {"export: --dtype: fp8: must be one of f32, bf16..."}},
  });
  // An empty prompt is none: it starts a document.
  EXPECT_EQ(run_hysparse(0, {"generate", directory() / "export", "--prompt", "", "--max-tokens", "3"}).status,
            0);
}

}  // namespace
}  // namespace hysparse::testing
