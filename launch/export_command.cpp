// `hysparse export`: a checkpoint as a Hugging Face directory: config.json, generation_config.json,
// safetensors, tokenizer and, for HySparse models, the Python files of the class. It is made beside its place
// and put there as a whole.
#include <cstdio>
#include <filesystem>
#include <map>

#include <fcntl.h>

#include "checkpoint/checkpoint.h"
#include "checkpoint/file.h"
#include "core/thread_pool.h"
#include "export/python_files.h"
#include "export/tokenizer_files.h"
#include "launch/commands.h"
#include "launch/export_writer.h"
#include "launch/user_input.h"

namespace hysparse {
namespace {

namespace fs = std::filesystem;

/// A name in `directory` that no export has; "" when there is none.
std::string foreign_name(const fs::path& directory) {
  for (const auto& entry : fs::directory_iterator(directory)) {
    const std::string name = entry.path().filename().string();
    const bool weights =
        name.starts_with("model") &&
        (name.ends_with(".safetensors") || name.ends_with(".tmp") || name == "model.safetensors.index.json");
    bool known = weights || name == "config.json" || name == "generation_config.json" ||
                 name == "tokenizer.json" || name == "tokenizer_config.json" || name == "__pycache__";
    for (const PythonFile& file : python_files()) known = known || name == file.name;
    if (!known) return name;
  }
  return "";
}

/// Where the export goes, and where it is made.
struct Place {
  fs::path output;
  fs::path made;
};

Place place_of(const std::string& output) {
  if (output.empty()) throw_error("--output: give the name of a directory");
  fs::path path = fs::absolute(output).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  return {path, path.string() + ".tmp"};
}

/// Refuses a directory that holds anything but an earlier export, or that cannot be made. Leaves nothing there.
void require_place(const ExportOptions& options, const Place& place) {
  std::error_code error;
  if (fs::exists(checkpoints_directory(place.output), error) || is_step_directory(place.output)) {
    throw_error("--output: {}: holds checkpoints; an export needs a directory of its own", options.output);
  }
  if (fs::equivalent(options.output, options.checkpoint, error))
    throw_error("--output: {}: is the model to export", options.output);
  const bool is_new = !fs::exists(place.output, error);
  make_writable_directory("--output", options.output);
  if (is_new) fs::remove(place.output, error);
  for (const fs::path& path : {place.output, place.made}) {
    if (!fs::is_directory(path, error)) continue;
    const std::string name = foreign_name(path);
    if (!name.empty()) {
      throw_error("--output: {}: holds {}, which is of no export; an export needs a directory of its own",
                  path.string(), name);
    }
  }
  const std::string parent = place.output.parent_path().string();
  const std::string reason = why_not_writable(parent);
  if (!reason.empty())
    throw_error("--output: {}: cannot write in directory {}: {}", options.output, parent, reason);
}

ExportFormat export_format(const ExportOptions& options, const ModelConfig& config) {
  if (options.format == "auto") return natural_format(config);
  const ExportFormat format = export_format_from(options.format).value();
  std::vector<std::string> problems = obstacles(format, config);
  for (std::string& p : problems) p = fmt::format("--format: {}: {}", options.format, p);
  if (!problems.empty()) throw Error(problems);
  return format;
}

/// Null when there is none to write.
std::unique_ptr<Tokenizer> export_tokenizer(const ExportOptions& options, const ModelSource& source) {
  const std::string name = options.tokenizer.value_or(source.tokenizer());
  if (name.empty() || name == "none") return nullptr;
  auto tokenizer = with_key("--tokenizer", [&] { return make_tokenizer(name); });
  const std::int64_t ids = tokenizer->vocab_size();
  if (ids > source.config().vocab_size && name != "byte") {
    throw_error("--tokenizer: {}: has {} ids, the model's vocabulary {}", name, ids,
                source.config().vocab_size);
  }
  if (name == "byte" && source.config().vocab_size <= tokenizer->eos_id()) return nullptr;
  return tokenizer;
}

/// What every rank knows before anything is written.
struct ExportPlan {
  std::unique_ptr<ModelSource> source;
  ExportFormat format = ExportFormat::hysparse;
  std::unique_ptr<Tokenizer> tokenizer;
  std::vector<ParameterDeclaration> declarations;
  std::vector<ExportTensor> tensors;
  std::vector<SafetensorsTensor> stored;
  std::vector<SafetensorsShard> shards;
  Place place;
};

ExportPlan make_plan(const ExportOptions& options) {
  ExportPlan plan;
  plan.source = ModelSource::open(options.checkpoint);
  const ModelConfig& config = plan.source->config();
  plan.format = export_format(options, config);
  plan.tokenizer = export_tokenizer(options, *plan.source);
  plan.place = place_of(options.output);
  plan.declarations = declare_parameters(config, {});
  plan.tensors = export_tensors(plan.format, config, plan.declarations,
                                options.dtype == "bf16" ? DType::bf16 : DType::f32);
  for (const ExportTensor& t : plan.tensors) plan.stored.push_back(t.stored);
  plan.shards = safetensors_shards(plan.stored, options.shard_bytes);
  return plan;
}

void write_small_files(const ExportPlan& plan, const ExportOptions& options) {
  const std::string directory = plan.place.made.string();
  ExportConfig more;
  more.max_position_embeddings = plan.source->max_position_embeddings();
  more.dtype = options.dtype == "bf16" ? "bfloat16" : "float32";
  if (plan.tokenizer && plan.tokenizer->eos_id() >= 0) more.eos_token_id = plan.tokenizer->eos_id();
  if (plan.tokenizer) write_tokenizer_files(directory, *plan.tokenizer, more.max_position_embeddings);
  if (plan.shards.size() > 1) {
    write_file_atomically(directory + "/model.safetensors.index.json",
                          safetensors_index(plan.stored, plan.shards));
  }
  if (plan.format == ExportFormat::hysparse) {
    for (const PythonFile& file : python_files())
      write_file_atomically(fmt::format("{}/{}", directory, file.name), file.text);
  }
  write_file_atomically(directory + "/generation_config.json", generation_config_json(more));
  write_file_atomically(directory + "/config.json",
                        class_config_json(plan.format, plan.source->config(), more));
}

/// The export takes its place; one that was there goes in the same moment, where the file system can.
void put_in_place(const Place& place) {
  std::error_code error;
  if (fs::exists(place.output, error)) {
    if (::renameat2(AT_FDCWD, place.made.c_str(), AT_FDCWD, place.output.c_str(), RENAME_EXCHANGE) == 0) {
      sync_directory(place.output.parent_path().string());
      fs::remove_all(place.made, error);
      return;
    }
    fs::remove_all(place.output);
  }
  rename_durably(place.made.string(), place.output.string());
}

}  // namespace

int run_export(Runtime& runtime, const ExportOptions& options) {
  ExportPlan plan;
  runtime.agree([&] {
    default_thread_count(runtime.local_ranks());
    plan = make_plan(options);
    if (runtime.rank() == 0) require_place(options, plan.place);
  });
  runtime.agree([&] {
    if (runtime.rank() != 0) return;
    for (const std::string& warning : plan.source->warnings())
      fmt::print(stderr, "hysparse: warning: {}\n", warning);
    std::error_code error;
    fs::remove_all(plan.place.made, error);
    fs::create_directory(plan.place.made);
    if (!plan.tokenizer) {
      fmt::print(
          stderr,
          "hysparse: warning: {}: its tokenizer is not known, the export has none; --tokenizer names it\n",
          plan.source->description());
    }
  });
  try {
    runtime.agree([&] {
      write_export_shards(plan.place.made.string(), plan.tensors, plan.shards, *plan.source, runtime.rank(),
                          runtime.world());
    });
    runtime.agree([&] {
      if (runtime.rank() != 0) return;
      write_small_files(plan, options);
      put_in_place(plan.place);
    });
  } catch (...) {
    std::error_code ignored;
    if (runtime.rank() == 0) fs::remove_all(plan.place.made, ignored);
    throw;
  }
  if (runtime.rank() == 0) {
    fmt::print("{} -> {} ({}, {} tensors, {}, {} file{})\n", plan.source->description(), options.output,
               export_class_name(plan.format), plan.tensors.size(), options.dtype, plan.shards.size(),
               plan.shards.size() == 1 ? "" : "s");
  }
  return 0;
}

}  // namespace hysparse
