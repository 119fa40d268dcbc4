/// What the fuzzers run: one function for each kind of file that comes from elsewhere. Each takes bytes that
/// may be anything, reads them as the program does, and uses what was accepted. Only Error is an answer
/// (docs/fuzzing.md); everything else that comes out is a finding.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

namespace hysparse::fuzz {

void config_yaml(std::string_view input);
void datatrove_index(std::string_view input);
void export_config(std::string_view input);
void jsonl(std::string_view input);
void llmc_tokens(std::string_view input);
void manifest(std::string_view input);
void megatron_index(std::string_view input);
void safetensors_file(std::string_view input);
void safetensors_index(std::string_view input);
void token_file(std::string_view input);
void tokenizer_json(std::string_view input);

}  // namespace hysparse::fuzz
