// `hysparse export`: a checkpoint as a Hugging Face directory (config.json, safetensors, tokenizer and
// generation config).
#include <filesystem>
#include <fstream>

#include "checkpoint/checkpoint.h"
#include "checkpoint/safetensors.h"
#include "launch/commands.h"
#include "launch/loaded_model.h"
#include "launch/user_input.h"
#include "model/export_names.h"
#include "model/hf_config.h"

namespace hysparse {
namespace {

namespace fs = std::filesystem;

DType export_dtype(const std::string& name) {
  if (name == "f32") return DType::f32;
  if (name == "bf16") return DType::bf16;
  throw_error("--dtype: {}: must be f32 or bf16", name);
}

void require_format(const std::string& format) {
  if (format == "auto" || format == "hysparse") return;
  throw_error("--format: {}: only auto and hysparse are there yet (README, Status)", format);
}

/// Under a temporary name first, so that a reader never sees half a file.
void write_text(const fs::path& path, const std::string& text) {
  const fs::path partial = path.string() + ".tmp";
  std::ofstream out(partial, std::ios::binary);
  out << text;
  out.close();
  if (!out) throw_failure("{}: cannot be written", partial.string());
  fs::rename(partial, path);
}

/// An export beside checkpoints would be taken for the model of the run.
void require_own_directory(const std::string& output, const std::string& checkpoint) {
  std::error_code error;
  if (fs::exists(checkpoints_directory(output), error) || is_step_directory(output)) {
    throw_error("--output: {}: holds checkpoints; an export needs a directory of its own", output);
  }
  if (fs::equivalent(output, checkpoint, error)) throw_error("--output: {}: is the model to export", output);
}

}  // namespace

int run_export(Runtime& runtime, const ExportOptions& options) {
  require_one_rank(runtime, "export");
  const DType dtype = export_dtype(options.dtype);
  require_format(options.format);
  const LoadedModel loaded(options.checkpoint, DType::f32, false);
  require_own_directory(options.output, options.checkpoint);
  make_writable_directory("--output", options.output);

  std::vector<ParameterDeclaration> declarations;
  for (const ParameterSet::Entry& e : loaded.parameters().entries()) declarations.push_back(e.declaration);
  const std::vector<ExportName> names = export_names(declarations);
  std::vector<SafetensorsTensor> tensors;
  for (const ExportName& n : names) tensors.push_back({n.name, dtype, n.shape});
  SafetensorsWriter writer = SafetensorsWriter::to_directory(options.output, tensors);
  for (const ExportName& n : names) writer.write(n.name, n.of(loaded.parameters().get(n.declaration).value));
  writer.finish();

  const fs::path directory = options.output;
  write_text(directory / "generation_config.json", "{\n  \"do_sample\": false\n}\n");
  write_text(directory / "config.json",
             model_config_to_json(loaded.source().config(), loaded.source().max_position_embeddings(),
                                  options.dtype == "f32" ? "float32" : "bfloat16"));
  fmt::print("{} -> {} ({} tensors, {})\n", loaded.source().description(), options.output, names.size(),
             options.dtype);
  return 0;
}

}  // namespace hysparse
