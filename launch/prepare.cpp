#include "launch/prepare.h"

#include <algorithm>
#include <exception>
#include <filesystem>
#include <memory>

#include "core/error.h"
#include "core/random.h"
#include "core/thread_pool.h"
#include "data/documents.h"
#include "data/token_writer.h"
#include "data/tokenizer.h"

namespace hysparse {
namespace {

constexpr std::int64_t batch_bytes_per_worker = 4 << 20;

/// A document on its way: read in order, decoded and encoded by any thread, written in order.
struct Work {
  RawDocument raw;
  std::int64_t text_bytes = 0;
  std::vector<std::int32_t> ids;
  std::exception_ptr problem;
};

void encode(Work& work, const Tokenizer& tokenizer, const std::string& text_key) {
  try {
    const std::string text = document_text(std::move(work.raw), text_key);
    work.text_bytes = static_cast<std::int64_t>(text.size());
    if (text.empty()) return;
    tokenizer.encode(text, work.ids);
    work.ids.push_back(tokenizer.eos_id());
  } catch (...) {
    work.problem = std::current_exception();
  }
}

std::vector<Work> read_batch(DocumentReader& reader, std::int64_t bytes) {
  std::vector<Work> batch;
  for (Work work; bytes > 0 && reader.next(work.raw); work = {}) {
    bytes -= static_cast<std::int64_t>(work.raw.bytes.size()) + 1;
    batch.push_back(std::move(work));
  }
  return batch;
}

bool same_path(const std::string& a, const std::string& b) {
  std::error_code error;
  return std::filesystem::weakly_canonical(a, error) == std::filesystem::weakly_canonical(b, error);
}

void check(const PrepareConfig& config) {
  std::vector<std::string> problems;
  if (config.inputs.empty()) problems.emplace_back("--input: give at least one file or directory");
  if (config.output.empty()) problems.emplace_back("--output: give the name of the file to write");
  if (config.workers < 1) problems.push_back(fmt::format("--workers: {} must be at least 1", config.workers));
  if (!(config.valid_fraction > 0 && config.valid_fraction < 1)) {
    problems.push_back(fmt::format("--valid-fraction: {} must be between 0 and 1", config.valid_fraction));
  }
  if (config.valid_output && same_path(*config.valid_output, config.output)) {
    problems.push_back(fmt::format("--valid-output: {} is also --output", *config.valid_output));
  }
  if (!problems.empty()) throw Error(std::move(problems));
}

/// One output: its writer and its figures.
class Output {
 public:
  Output(const std::string& path, const TokenFileInfo& info, const std::vector<std::string>& inputs)
      : writer_(path, info) {
    part_.path = path;
    for (const std::string& input : inputs) {
      if (std::error_code error; std::filesystem::equivalent(input, path, error))
        throw_error("{}: is an output and an input", path);
    }
  }
  void append(const Work& work) {
    writer_.append_document(work.ids);
    ++part_.documents;
    part_.bytes += work.text_bytes;
    part_.tokens += static_cast<std::int64_t>(work.ids.size());
  }
  TokenWriter& writer() { return writer_; }
  const PrepareReport::Part& part() const { return part_; }

 private:
  TokenWriter writer_;
  PrepareReport::Part part_;
};

void check_not_empty(const PrepareConfig& config, const Output& train, const Output* valid,
                     std::int64_t files) {
  const std::int64_t documents = train.part().documents + (valid ? valid->part().documents : 0);
  if (documents == 0) throw_error("--input: no text in {} files of {}", files, fmt::join(config.inputs, " "));
  for (const Output* output : {&train, valid}) {
    if (output != nullptr && output->part().documents == 0) {
      throw_error(
          "{}: would be empty: --valid-fraction {} of {} documents leaves it none; give more documents or "
          "another fraction",
          output->part().path, config.valid_fraction, documents);
    }
  }
}

}  // namespace

PrepareReport prepare(const PrepareConfig& config) {
  check(config);
  const std::unique_ptr<Tokenizer> tokenizer = make_tokenizer(config.tokenizer);
  const std::vector<std::string> files = list_input_files(config.inputs);
  const TokenFileInfo info{tokenizer->name(), tokenizer->hash(), tokenizer->vocab_size(), tokenizer->eos_id(),
                           config.command};
  Output train(config.output, info, files);
  std::optional<Output> valid;
  if (config.valid_output) valid.emplace(*config.valid_output, info, files);

  PrepareReport report;
  report.files = static_cast<std::int64_t>(files.size());
  ThreadPool pool(config.workers);
  DocumentReader reader(files);
  const CounterRandom random(0, "prepare.valid");
  std::uint64_t index = 0;
  while (true) {
    std::vector<Work> batch = read_batch(reader, batch_bytes_per_worker * config.workers);
    if (batch.empty()) break;
    pool.parallel_tasks(static_cast<std::int64_t>(batch.size()), [&](std::int64_t i) {
      encode(batch[static_cast<std::size_t>(i)], *tokenizer, config.text_key);
    });
    for (const Work& work : batch) {
      if (work.problem) std::rethrow_exception(work.problem);
      if (work.ids.empty()) {
        ++report.empty_documents;
        continue;
      }
      const bool held_out = valid && random.uniform(index++) < config.valid_fraction;
      (held_out ? *valid : train).append(work);
    }
  }

  report.not_text = reader.skipped();
  check_not_empty(config, train, valid ? &*valid : nullptr, report.files);
  train.writer().finish();
  if (valid) valid->writer().finish();
  train.writer().commit();
  if (valid) valid->writer().commit();
  report.train = train.part();
  if (valid) report.valid = valid->part();
  return report;
}

std::string PrepareReport::str() const {
  std::string text = fmt::format("read {} files", files);
  if (empty_documents > 0) text += fmt::format(", left out {} empty documents", empty_documents);
  if (!not_text.empty()) {
    text += fmt::format(", left out {} files that are not text (NUL bytes), the first {}", not_text.size(),
                        not_text.front());
  }
  for (const Part* part : {&train, valid ? &*valid : nullptr}) {
    if (part == nullptr) continue;
    text += fmt::format("\n{}: {} documents, {} bytes, {} tokens", part->path, part->documents, part->bytes,
                        part->tokens);
  }
  return text;
}

}  // namespace hysparse
