// `hysparse eval`: loss of a checkpoint or export on a token file, and its gradients.
#include <algorithm>
#include <cstdio>
#include <filesystem>

#include <nlohmann/json.hpp>

#include "checkpoint/safetensors.h"
#include "launch/commands.h"
#include "launch/evaluate.h"
#include "launch/loaded_model.h"
#include "launch/run_device.h"
#include "launch/user_input.h"
#include "model/export_names.h"

namespace hysparse {
namespace {

namespace fs = std::filesystem;

DType eval_dtype(const std::string& name) {
  if (name == "fp64") return DType::f64;
  if (name == "fp32") return DType::f32;
  if (name == "bf16") return DType::bf16;
  throw_error("--dtype: {}: must be fp64, fp32 or bf16", name);
}

/// d(mean loss)/d(parameter) under the export's names.
void write_gradients(const LoadedModel& loaded, const std::string& path, DType dtype) {
  std::vector<ParameterDeclaration> trainable;
  for (const ParameterSet::Entry& e : loaded.parameters().entries()) {
    if (e.declaration.trainable) trainable.push_back(e.declaration);
  }
  const std::vector<ExportName> names = export_names(trainable);
  std::vector<SafetensorsTensor> tensors;
  for (const ExportName& n : names) tensors.push_back({n.name, dtype, n.shape});
  SafetensorsWriter writer = SafetensorsWriter::to_file(path, tensors);
  for (const ExportName& n : names)
    writer.write(n.name, n.of(loaded.parameters().get(n.declaration).grad).to_device(Device{}));
  writer.finish();
}

/// The logits of the windows that were read: "window.N" [seq_len, V].
void write_logits(const LoadedModel& loaded, WindowSource& source, std::int64_t windows,
                  const std::string& path, DType dtype) {
  std::vector<SafetensorsTensor> tensors;
  const Shape shape{source.seq_len(), loaded.source().config().vocab_size};
  for (std::int64_t i = 0; i < windows; ++i) tensors.push_back({fmt::format("window.{}", i), dtype, shape});
  SafetensorsWriter writer = SafetensorsWriter::to_file(path, tensors);
  for (std::int64_t i = 0; i < windows; ++i)
    writer.write(tensors[static_cast<std::size_t>(i)].name,
                 window_logits(loaded.model(), source, i, loaded.stream()));
  writer.finish();
}

/// The vocabulary that a dataset says it has, against the model's.
void require_vocabulary(const TokenDataset& tokens, const ModelConfig& config) {
  if (tokens.info().vocab_size > config.vocab_size) {
    throw_error("--data: {}: its vocabulary has {} ids, the model's {}", tokens.path(),
                tokens.info().vocab_size, config.vocab_size);
  }
}

/// The ids of the windows that will be read: a raw file says nothing of its vocabulary.
void require_ids(const TokenStream& tokens, std::int64_t count, const ModelConfig& config) {
  std::vector<std::int32_t> ids(static_cast<std::size_t>(std::min<std::int64_t>(count, 1 << 18)));
  for (std::int64_t begin = 0; begin < count; begin += static_cast<std::int64_t>(ids.size())) {
    ids.resize(
        static_cast<std::size_t>(std::min<std::int64_t>(count - begin, static_cast<std::int64_t>(ids.size()))));
    tokens.read(begin, ids);
    const auto bad =
        std::find_if(ids.begin(), ids.end(), [&](std::int32_t id) { return id >= config.vocab_size; });
    if (bad != ids.end()) {
      throw_error("{}: token {} is {}; the model's vocabulary has ids 0 to {}", tokens.path(),
                  begin + (bad - ids.begin()), *bad, config.vocab_size - 1);
    }
  }
}

/// Refuses, before any work, a name for a file to write that cannot be written or that is an input.
void require_output(const EvalOptions& options, const char* key, const std::optional<std::string>& file) {
  if (!file) return;
  require_writable_file(key, *file);
  std::error_code error;
  if (fs::equivalent(*file, options.data, error)) throw_error("{}: {}: is the file of --data", key, *file);
  const fs::path parent = fs::path(*file).parent_path();
  const bool beside = fs::equivalent(parent.empty() ? "." : parent, options.model, error);
  if (beside && fs::path(*file).filename().string().starts_with("model"))
    throw_error("{}: {}: is a name of the model's own files", key, *file);
}

}  // namespace

int run_eval(Runtime& runtime, const EvalOptions& options) {
  require_one_rank(runtime, "eval");
  const DType dtype = eval_dtype(options.dtype);
  const Device device = choose_device("--device", options.device, dtype);
  if (options.seq_len < 1) throw_error("--seq-len: {}: must be at least 1", options.seq_len);
  if (options.batches && *options.batches < 1)
    throw_error("--batches: {}: must be at least 1", *options.batches);
  require_output(options, "--grads", options.grads);
  require_output(options, "--logits", options.logits);
  if (options.logits && options.document_mask)
    throw_error("--logits: {}: not with --document-mask", *options.logits);
  const auto tokens = with_key("--data", [&] { return open_token_dataset(options.data); });
  if (options.document_mask && tokens->format() == TokenFormat::raw)
    throw_error("--document-mask: {}: int32 tokens do not say where documents begin", options.data);
  LoadedModel loaded(options.model, dtype, options.grads.has_value(), device);
  require_vocabulary(*tokens, loaded.source().config());
  SequentialWindows windows = with_key("--data", [&] { return SequentialWindows(*tokens, options.seq_len); });
  const std::int64_t count = std::min(options.batches.value_or(windows.windows()), windows.windows());
  with_key("--data", [&] { require_ids(*tokens, count * options.seq_len + 1, loaded.source().config()); });
  const Evaluation result = evaluate(loaded.model(), windows, count, loaded.stream(), options.grads.has_value(),
                                     options.document_mask);
  if (options.grads) write_gradients(loaded, *options.grads, dtype == DType::f64 ? DType::f64 : DType::f32);
  const DType written = dtype == DType::f64 ? DType::f64 : DType::f32;
  if (options.logits) write_logits(loaded, windows, count, *options.logits, written);
  if (options.json) {
    const nlohmann::ordered_json line{
        {"loss", result.loss},           {"tokens", result.tokens},
        {"sequences", result.sequences}, {"model", loaded.source().description()},
        {"dtype", options.dtype},        {"device", device.is_cpu() ? "cpu" : "cuda"},
        {"seq_len", options.seq_len}};
    fmt::print("{}\n", line.dump());
  } else {
    fmt::print("{}\n{} windows of {} tokens from {}\nloss {:.6f} nats per token\n",
               loaded.source().description(), result.sequences, options.seq_len, options.data, result.loss);
  }
  return 0;
}

}  // namespace hysparse
