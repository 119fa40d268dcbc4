#include "launch/cli_tokenizer.h"

namespace hysparse {

ParsedCommand parse_tokenizer(Options& o, const std::vector<std::string>& arguments) {
  TokenizerTrainOptions train;
  std::string action;
  constexpr std::int64_t least = 256 + 3, most = 1 << 20;  // bytes and special tokens
  o.text("train", "train", action, "byte-level BPE, from text", true);
  o.list("--input", "FILE...", train.inputs,
         "text files, .jsonl files, either with .zst behind it, directories", true);
  o.integer("--vocab-size", train.vocab_size, least, most, "tokens, special ones included", true);
  o.text("--output", "tokenizer.json", train.output, "file to write", true);
  o.choice("--style", {"gpt2", "llama3", "qwen"}, train.style,
           "how text is split into words, and the special tokens [gpt2]");
  o.text("--text-key", "KEY", train.text_key, "where a JSONL object has its text [text]");
  o.integer("--workers", train.workers, 1, 1024, "threads that count words [1]");
  o.footer("\nThe same text gives the same file, whatever the number of threads.\n");
  if (auto help = o.parse(arguments)) return PrintText{*help};
  if (!action.empty() && action != "train") o.problem(fmt::format("{}: unknown; there is: train", action));
  o.finish();
  return train;
}

}  // namespace hysparse
