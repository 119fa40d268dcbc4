// `hysparse import`: an export as the checkpoint of step 0 of a run that goes on training it, also as a model
// with other kinds of attention.
#include <cstdio>
#include <filesystem>
#include <numeric>

#include "checkpoint/region.h"
#include "checkpoint/writer.h"
#include "core/thread_pool.h"
#include "export/tokenizer_files.h"
#include "launch/commands.h"
#include "launch/config.h"
#include "launch/converted_source.h"
#include "launch/run_lock.h"
#include "launch/user_input.h"

namespace hysparse {
namespace {

namespace fs = std::filesystem;

/// This rank's share of every parameter: rows of dim 0, in f32 (f64 where the run computes in it).
std::vector<Piece> read_share(const ModelSource& source, const std::vector<ParameterDeclaration>& declarations,
                              DType dtype, int rank, int ranks) {
  std::vector<Piece> pieces;
  for (const ParameterDeclaration& d : declarations) {
    Box box = whole_box(d.shape);
    const std::int64_t rows = d.shape[0];
    box.offset.set(0, rows * rank / ranks);
    box.shape.set(0, rows * (rank + 1) / ranks - box.offset[0]);
    if (box.shape.numel() == 0) continue;
    const Piece piece{d.name, d.shape, box, Tensor::empty(box.shape, dtype)};
    const SourceRead read{&d, box, piece.data};
    source.read({&read, 1});
    pieces.push_back(piece);
  }
  return pieces;
}

void require_new_run(const std::string& output) {
  std::error_code error;
  if (!fs::exists(output, error)) return;
  if (!list_checkpoints(output).empty())
    throw_error("--output: {}: holds checkpoints; an import needs a run directory of its own", output);
}

CheckpointInfo step_zero(const RunConfig& config, const ModelSource& source, int ranks) {
  CheckpointInfo info;
  info.seed = static_cast<std::uint64_t>(config.run.seed);
  info.layout = fmt::format("import on {} rank{}", ranks, ranks == 1 ? "" : "s");
  info.data_state = {{"samples", "0"}, {"optimizer_steps", "0"}, {"imported", source.description()}};
  info.data_state["tokenizer"] = source.tokenizer();
  info.config = config_yaml(config);
  info.versions = {{"hysparse", "0.1.0"}};
  return info;
}

/// RUN/tokenizer, as a run keeps it.
void keep_source_tokenizer(const std::string& output, const std::string& name) {
  if (name.empty() || name == "byte") return;
  try {
    const auto tokenizer = make_tokenizer(name);
    const std::string directory = (fs::path(output) / "tokenizer").string();
    fs::create_directories(directory);
    write_tokenizer_files(directory, *tokenizer, 0);
  } catch (const Error& e) {
    fmt::print(stderr, "hysparse: warning: {}; the run has no tokenizer\n", e.what());
  }
}

}  // namespace

int run_import(Runtime& runtime, const ImportOptions& options) {
  RunConfig config;
  std::unique_ptr<ModelSource> source;
  std::vector<ParameterDeclaration> declarations;
  runtime.agree([&] {
    default_thread_count(runtime.local_ranks());
    config = load_config(options.config, options.overrides, std::nullopt);
    source = convert(ModelSource::open(options.source), config.model);
    declarations = declare_parameters(config.model, {});
    require_new_run(options.output);
    make_writable_directory("--output", options.output);
  });
  std::unique_ptr<RunLock> lock;
  runtime.agree([&] {
    if (runtime.rank() == 0) lock = std::make_unique<RunLock>(options.output);
  });
  std::vector<Piece> pieces;
  runtime.agree([&] {
    const DType dtype = config.dtype() == DType::f64 ? DType::f64 : DType::f32;
    pieces = read_share(*source, declarations, dtype, runtime.rank(), runtime.world());
  });
  {
    std::vector<int> ranks(static_cast<std::size_t>(runtime.world()));
    std::iota(ranks.begin(), ranks.end(), 0);
    const auto world = runtime.communicator("world", ranks);
    CheckpointWriter writer(options.output, static_cast<int>(config.checkpoint.keep), *world);
    writer.save(step_zero(config, *source, runtime.world()), std::move(pieces), false);
  }
  if (runtime.rank() == 0) {
    keep_source_tokenizer(options.output, source->tokenizer());
    fmt::print("{} -> {}, step 0 ({} parameters); go on with: hysparse train {} run.dir={}\n",
               source->description(), options.output, count_parameters(config.model).total, options.config,
               options.output);
  }
  return 0;
}

}  // namespace hysparse
