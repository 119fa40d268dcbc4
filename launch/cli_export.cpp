#include "launch/cli_export.h"

namespace hysparse {

ParsedCommand parse_export(Options& o, const std::vector<std::string>& arguments) {
  ExportOptions options;
  o.text("CHECKPOINT", "DIR", options.checkpoint, "run directory (latest step), step directory or export",
         true);
  o.text("--output", "DIR", options.output, "export directory to write", true);
  o.choice("--dtype", {"f32", "bf16"}, options.dtype, "dtype of the weights [f32]");
  o.choice("--format", {"auto", "hysparse", "qwen3_moe", "mixtral", "glm4_moe", "qwen3"}, options.format,
           "model class of the export; auto: a stock class that holds the model, else hysparse [auto]");
  o.text("--tokenizer", "byte|FILE|none", options.tokenizer, "the tokenizer to put beside it [the run's own]");
  o.integer("--shard-bytes", options.shard_bytes, 1, Options::no_limit, "of a file at most [5000000000]");
  o.footer("\nUnder mpirun the ranks share the files. No rank holds more of the model than a small part.\n");
  if (auto help = o.parse(arguments)) return PrintText{*help};
  o.finish();
  return options;
}

ParsedCommand parse_import(Options& o, const std::vector<std::string>& arguments) {
  ImportOptions options;
  o.text("HF_DIR", "DIR", options.source,
         "export of hysparse, or of Qwen3, Qwen3-MoE, Mixtral or GLM4-MoE from transformers", true);
  o.list("OVERRIDE", "key.path=value", options.overrides, "overrides of single keys; the value is YAML");
  o.text("--config", "CONFIG.yaml", options.config, "the run that is to go on training it", true);
  o.text("--output", "RUN_DIR", options.output, "run directory to make, with a checkpoint of step 0", true);
  o.footer(
      "\nThe sizes of the config must be the source's. Its attention may be another: full layers become sparse "
      "or\nsliding ones, with gates and sinks that keep the loss near the source's.\n");
  if (auto help = o.parse(arguments)) return PrintText{*help};
  o.finish();
  return options;
}

}  // namespace hysparse
