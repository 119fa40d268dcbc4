/// The commands of the program: what the command line hands to each, and where each begins. Every rank calls
/// its command with the same options. A command returns the exit status (0, or 1 when what it was to check does
/// not hold), or throws: Error for what the user got wrong (status 2), anything else for what failed while
/// running (status 1).
///
/// Across ranks, work that can fail by the user's mistake runs inside runtime.agree(), so that the problems
/// come once and no rank is left waiting; an Error that one rank throws elsewhere ends every rank at once.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "launch/data_inspection.h"
#include "launch/generation.h"
#include "launch/prepare.h"
#include "parallel/process_group.h"

namespace hysparse {

/// train CONFIG.yaml [key.path=value ...]. (--print-config is answered by the command line itself.)
struct TrainOptions {
  std::string config;                  ///< path of the YAML file
  std::vector<std::string> overrides;  ///< "key.path=value"
  bool print_config = false;           ///< print the resolved config and stop
  bool dry_run = false;                ///< check everything, build the model, train nothing, write nothing
};

/// data inspect PATH
struct DataInspectOptions {
  InspectConfig config;
  bool json = false;
};

/// eval CHECKPOINT|EXPORT --data DATA.h5|tokens.bin --seq-len N
struct EvalOptions {
  std::string model;  ///< a run directory, a step directory or an export directory
  std::string data;
  std::int64_t seq_len = 0;
  std::optional<std::int64_t> batches;  ///< windows to read at most; absent: all
  std::string dtype = "fp32";           ///< fp64 | fp32 | bf16
  std::string device = "auto";          ///< auto | cpu | cuda
  std::optional<std::string> grads;     ///< safetensors file for d(mean loss)/d(parameter)
  std::optional<std::string> logits;    ///< safetensors file for the logits of the windows
  bool document_mask = false;
  bool json = false;
};

/// export CHECKPOINT --output DIR
struct ExportOptions {
  std::string checkpoint;  ///< a run directory (its latest step), a step directory or an export
  std::string output;
  std::string dtype = "f32";             ///< f32 | bf16
  std::string format = "auto";           ///< auto | hysparse | qwen3_moe | mixtral | glm4_moe | qwen3
  std::optional<std::string> tokenizer;  ///< byte | a tokenizer.json | none; absent: the run's own
  std::int64_t shard_bytes = 5'000'000'000;
};

/// import HF_DIR --config CONFIG.yaml --output RUN_DIR [key.path=value ...]
struct ImportOptions {
  std::string source;  ///< an export of any format
  std::string config;
  std::vector<std::string> overrides;
  std::string output;  ///< run directory to make
};

/// generate CHECKPOINT|EXPORT --prompt TEXT
struct GenerateOptions {
  std::string model;                        ///< as in EvalOptions; for kv_tokens also a config, CONFIG.yaml
  std::vector<std::string> prompts;         ///< of the command line, before those of the file
  std::optional<std::string> prompts_file;  ///< one of a line
  GenerationConfig generation;
  std::string dtype = "fp32";             ///< fp64 | fp32 | bf16
  std::string device = "auto";            ///< auto | cpu | cuda
  bool report_kv = false;                 ///< print the caches' bytes by layer kind
  std::optional<std::int64_t> kv_tokens;  ///< only say what the cache of so many tokens takes
  bool json = false;
};

/// verify CONFIG.yaml --layouts all|quick|"tp=2,pp=2;dp=4" [key.path=value ...]
struct VerifyOptions {
  std::string config;
  std::vector<std::string> overrides;
  std::string layouts = "quick";
  int np = 8;              ///< ranks that a layout may have
  std::int64_t steps = 5;  ///< to train and compare
  double timeout_s = 300;  ///< of one layout's run
  bool json = false;
};

/// verify-layout CONFIG.yaml --output DIR [key.path=value ...]: one layout's run, which verify starts under
/// mpirun.
struct VerifyLayoutOptions {
  std::string config;
  std::vector<std::string> overrides;
  std::string output;                         ///< directory for launch/verify_result.h
  bool record_choices = false;                ///< into output (launch/verify_choices.h)
  std::optional<std::string> replay_choices;  ///< from the output of a run that recorded them
};

/// bench step|attention|moe|comm [CONFIG.yaml] [key.path=value ...]
struct BenchOptions {
  std::string what;                   ///< step | attention | moe | comm
  std::optional<std::string> config;  ///< absent: the quickstart's sizes
  std::vector<std::string> overrides;
  std::int64_t steps = 10;  ///< counted, of whatever is measured
  std::int64_t warmup = 3;
  bool json = false;
};

/// checkpoint verify|info DIR
struct CheckpointOptions {
  std::string action;     ///< verify | info
  std::string directory;  ///< a run directory or a step directory
  bool json = false;
};

/// tokenizer train --input FILE... --vocab-size N --output tokenizer.json
struct TokenizerTrainOptions {
  std::vector<std::string> inputs;
  std::int64_t vocab_size = 0;
  std::string output;
  std::string style = "gpt2";  ///< gpt2 | llama3 | qwen
  std::string text_key = "text";
  int workers = 1;
};

int run_train(Runtime& runtime, const TrainOptions& options);
int run_prepare(Runtime& runtime, const PrepareConfig& options);
int run_data_inspect(Runtime& runtime, const DataInspectOptions& options);
int run_eval(Runtime& runtime, const EvalOptions& options);
int run_export(Runtime& runtime, const ExportOptions& options);
int run_import(Runtime& runtime, const ImportOptions& options);
int run_generate(Runtime& runtime, const GenerateOptions& options);
/// Returns 1 when a layout is not equal to one rank.
int run_verify(Runtime& runtime, const VerifyOptions& options);
int run_bench(Runtime& runtime, const BenchOptions& options);
/// Returns 1 when verify finds damage.
int run_checkpoint(Runtime& runtime, const CheckpointOptions& options);
int run_tokenizer_train(Runtime& runtime, const TokenizerTrainOptions& options);
int run_verify_layout(Runtime& runtime, const VerifyLayoutOptions& options);

}  // namespace hysparse
