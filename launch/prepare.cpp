#include "launch/prepare.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <set>
#include <utility>

#include <sys/stat.h>

#include "core/error.h"
#include "core/random.h"
#include "data/document_encoder.h"
#include "data/token_writer.h"
#include "data/tokenizer.h"
#include "launch/prepare_progress.h"
#include "launch/prepare_state.h"

namespace hysparse {
namespace {

using Clock = std::chrono::steady_clock;
using FileId = std::pair<dev_t, ino_t>;

std::optional<FileId> file_id(const std::string& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) return std::nullopt;
  return FileId{status.st_dev, status.st_ino};
}

bool same_path(const std::string& a, const std::string& b) {
  std::error_code error;
  return std::filesystem::weakly_canonical(a, error) == std::filesystem::weakly_canonical(b, error);
}

TokenFormat format_of(const PrepareConfig& config, const std::string& output) {
  return config.format.value_or(token_format_of_name(output));
}

std::vector<std::string> outputs_of(const PrepareConfig& config) {
  std::vector<std::string> outputs = {config.output};
  if (config.valid_output) outputs.push_back(*config.valid_output);
  return outputs;
}

void check(const PrepareConfig& config) {
  std::vector<std::string> problems;
  if (config.inputs.empty()) problems.emplace_back("--input: give at least one file or directory");
  if (config.output.empty()) problems.emplace_back("--output: give the name of the file to write");
  if (config.workers < 1) problems.push_back(fmt::format("--workers: {} must be at least 1", config.workers));
  if (!(config.valid_fraction > 0 && config.valid_fraction < 1)) {
    problems.push_back(fmt::format("--valid-fraction: {} must be between 0 and 1", config.valid_fraction));
  }
  if (config.valid_output &&
      same_path(token_output_files(*config.valid_output, format_of(config, *config.valid_output))[0],
                token_output_files(config.output, format_of(config, config.output))[0])) {
    problems.push_back(fmt::format("--valid-output: {} is also --output", *config.valid_output));
  }
  if (!problems.empty()) throw Error(std::move(problems));
}

/// The input files without our own temporary ones; what identifies them, for a later run.
struct Inputs {
  std::vector<std::string> files;
  std::int64_t bytes = 0;  ///< 0: not known
  bool stdin_among = false;
  std::uint64_t identity = 0;
};

Inputs find_inputs(const PrepareConfig& config) {
  std::set<FileId> ours, outputs;
  const auto insert = [](std::set<FileId>& set, const std::string& path) {
    if (const auto id = file_id(path)) set.insert(*id);
  };
  const std::string state = prepare_state_path(config.output);
  for (const std::string& file : {state, state + ".new"}) insert(ours, file);
  for (const std::string& output : outputs_of(config)) {
    for (const std::string& file : token_partial_files(output, format_of(config, output))) insert(ours, file);
    for (const std::string& file : token_output_files(output, format_of(config, output))) insert(outputs, file);
  }
  Inputs inputs;
  for (std::string& file : list_input_files(config.inputs)) {
    struct stat status {};
    if (file == "-") {
      inputs.stdin_among = true;
    } else if (::stat(file.c_str(), &status) == 0) {
      const FileId id{status.st_dev, status.st_ino};
      if (ours.count(id) > 0) continue;
      if (outputs.count(id) > 0) throw_error("{}: is an output and an input", file);
    }
    inputs.bytes += status.st_size;
    inputs.identity = hash_name(fmt::format("{:016x} {} {} {}.{}", inputs.identity, file, status.st_size,
                                            status.st_mtim.tv_sec, status.st_mtim.tv_nsec));
    inputs.files.push_back(std::move(file));
  }
  if (inputs.stdin_among) inputs.bytes = 0;
  return inputs;
}

/// Of all that decides the result.
std::string job_of(const PrepareConfig& config, const Inputs& inputs, const Tokenizer& tokenizer) {
  std::string text = fmt::format("1 {:016x} {} {} {} {} {}", inputs.identity, tokenizer.name(),
                                 tokenizer.hash(), tokenizer.eos_id(), config.text_key, config.skip_bad_lines);
  for (const std::string& output : outputs_of(config)) {
    text += fmt::format(" {} {}", output, token_format_name(format_of(config, output)));
  }
  if (config.valid_output) text += fmt::format(" {}", config.valid_fraction);
  return fmt::format("{:016x}", hash_name(text));
}

class PrepareRun {
 public:
  PrepareRun(const PrepareConfig& config, bool show_progress)
      : config_(config),
        show_progress_(show_progress),
        tokenizer_(make_tokenizer(config.tokenizer, config.eos)),
        inputs_(find_inputs(config)),
        state_path_(prepare_state_path(config.output)) {
    state_.job = job_of(config, inputs_, *tokenizer_);
    open_writers();
    state_.report.files = static_cast<std::int64_t>(inputs_.files.size());
    state_.report.train.path = config.output;
    if (config.valid_output && !state_.report.valid) state_.report.valid.emplace();
    if (state_.report.valid) state_.report.valid->path = *config.valid_output;
  }

  PrepareReport run() {
    try {
      encode();
      finish();
    } catch (const Error&) {  // the next run will have another input: nothing to go on with
      discard();
      throw;
    }
    return state_.report;
  }

 private:
  TokenFileInfo info() const {
    return {tokenizer_->name(), tokenizer_->hash(), tokenizer_->vocab_size(), tokenizer_->eos_id(),
            config_.command};
  }
  std::unique_ptr<TokenWriter> writer(const std::string& output, const TokenWriterState& state) const {
    return std::make_unique<TokenWriter>(output, info(), format_of(config_, output), state);
  }

  void open_writers() {
    if (auto saved = inputs_.stdin_among
                         ? std::nullopt
                         : load_prepare_state(state_path_, state_.job,
                                              static_cast<std::int64_t>(inputs_.files.size()))) {
      try {
        train_ = writer(config_.output, saved->train);
        if (config_.valid_output) valid_ = writer(*config_.valid_output, saved->valid);
        keep_files();
        state_ = std::move(*saved);
        resumed_ = true;
        return;
      } catch (const Error&) {  // its files are gone; or an error that comes again now
        train_.reset();
        valid_.reset();
      }
    }
    train_ = writer(config_.output, {});
    if (config_.valid_output) valid_ = writer(*config_.valid_output, {});
    std::remove(state_path_.c_str());
  }

  void keep_files() {
    train_->keep();
    if (valid_) valid_->keep();
  }
  void discard() {
    train_->discard();
    if (valid_) valid_->discard();
    std::remove(state_path_.c_str());
  }

  void save() {
    state_.train = train_->sync();
    if (valid_) state_.valid = valid_->sync();
    save_prepare_state(state_path_, state_);
    keep_files();
  }

  void encode() {
    PrepareProgress progress(state_.read_bytes);
    if (resumed_ && show_progress_) {
      progress.message(fmt::format("going on where an earlier run ended: {} documents, {} bytes read",
                                   train_->num_documents() + (valid_ ? valid_->num_documents() : 0),
                                   state_.read_bytes));
    }
    DocumentReaderOptions options;
    options.stdin_lines = config_.stdin_lines;
    options.begin = state_.next;
    DocumentEncoder encoder(DocumentReader(inputs_.files, options), *tokenizer_, config_.text_key,
                            train_->id_bytes(), config_.workers);
    const CounterRandom random(0, "prepare.valid");
    Clock::time_point saved = Clock::now();
    for (EncodedChunk chunk; encoder.next(chunk);) {
      take(chunk, random);
      if (show_progress_) show(progress);
      const std::chrono::duration<double> since = Clock::now() - saved;
      if (!inputs_.stdin_among && since.count() >= config_.seconds_between_saves) {
        save();
        saved = Clock::now();
      }
    }
  }

  void show(PrepareProgress& progress) const {
    const PrepareReport& report = state_.report;
    progress.update({state_.read_bytes, inputs_.bytes,
                     report.train.documents + (report.valid ? report.valid->documents : 0),
                     report.train.tokens + (report.valid ? report.valid->tokens : 0)});
  }

  void take(const EncodedChunk& chunk, const CounterRandom& random) {
    const std::string& path = inputs_.files[static_cast<std::size_t>(chunk.file)];
    PrepareReport& report = state_.report;
    if (chunk.from_start) state_.line = 0;
    for (const EncodedChunk::BadLine& bad : chunk.bad_lines) {
      const std::string text = fmt::format("{}:{}: {}", path, state_.line + bad.line, bad.problem);
      if (!config_.skip_bad_lines) throw_error("{}; --skip-bad-lines leaves such lines out", text);
      if (report.first_bad_lines.size() < PrepareReport::most_bad_lines) report.first_bad_lines.push_back(text);
      ++report.bad_lines;
    }
    state_.line += chunk.line_count;
    report.empty_documents += chunk.empty_documents;
    if (report.not_text == 0 && !chunk.not_text.empty()) {
      report.first_not_text = inputs_.files[static_cast<std::size_t>(chunk.not_text.front())];
    }
    report.not_text += static_cast<std::int64_t>(chunk.not_text.size());
    append(chunk, random);
    state_.next = chunk.next;
    state_.read_bytes = chunk.read_bytes;
  }

  /// Neighbours that go to the same output go in one piece.
  void append(const EncodedChunk& chunk, const CounterRandom& random) {
    const std::size_t documents = chunk.lengths.size();
    const auto held_out = [&] { return valid_ && random.uniform(state_.draws++) < config_.valid_fraction; };
    std::size_t id_begin = 0;
    bool next = documents > 0 && held_out();
    for (std::size_t begin = 0; begin < documents;) {
      const bool to_valid = next;
      PrepareReport::Part& part = to_valid ? *state_.report.valid : state_.report.train;
      std::int64_t tokens = 0;
      std::size_t end = begin;
      do {
        tokens += chunk.lengths[end];
        part.bytes += chunk.text_bytes[end];
        ++end;
        next = end < documents && held_out();
      } while (end < documents && next == to_valid);
      const auto bytes = static_cast<std::size_t>(tokens * train_->id_bytes());
      (to_valid ? *valid_ : *train_)
          .append_documents(std::span(chunk.ids).subspan(id_begin, bytes),
                            std::span(chunk.lengths).subspan(begin, end - begin));
      part.documents += static_cast<std::int64_t>(end - begin);
      part.tokens += tokens;
      id_begin += bytes;
      begin = end;
    }
  }

  void check_not_empty() const {
    const PrepareReport& report = state_.report;
    const std::int64_t documents = report.train.documents + (report.valid ? report.valid->documents : 0);
    if (documents == 0) {
      throw_error("--input: no text in {} files of {}", report.files, fmt::join(config_.inputs, " "));
    }
    for (const PrepareReport::Part* part : {&report.train, report.valid ? &*report.valid : nullptr}) {
      if (part != nullptr && part->documents == 0) {
        throw_error(
            "{}: would be empty: --valid-fraction {} of {} documents leaves it none; give more documents or "
            "another fraction",
            part->path, config_.valid_fraction, documents);
      }
    }
  }

  void finish() {
    check_not_empty();
    train_->finish();
    if (valid_) valid_->finish();
    train_->commit();
    if (valid_) valid_->commit();
    std::remove(state_path_.c_str());
  }

  const PrepareConfig& config_;
  bool show_progress_;
  std::unique_ptr<Tokenizer> tokenizer_;
  Inputs inputs_;
  std::string state_path_;
  PrepareState state_;
  std::unique_ptr<TokenWriter> train_, valid_;
  bool resumed_ = false;
};

std::string left_out(const PrepareReport& report) {
  std::string text;
  if (report.empty_documents > 0) text += fmt::format(", left out {} empty documents", report.empty_documents);
  if (report.not_text > 0) {
    text += fmt::format(", left out {} files that are not text (NUL bytes), the first {}", report.not_text,
                        report.first_not_text);
  }
  if (report.bad_lines > 0) text += fmt::format(", left out {} bad lines:", report.bad_lines);
  for (const std::string& line : report.first_bad_lines) text += "\n  " + line;
  if (report.bad_lines > static_cast<std::int64_t>(report.first_bad_lines.size())) text += "\n  ...";
  return text;
}

}  // namespace

PrepareReport prepare(const PrepareConfig& config, bool show_progress) {
  check(config);
  return PrepareRun(config, show_progress).run();
}

std::string PrepareReport::str() const {
  std::string text = fmt::format("read {} files{}", files, left_out(*this));
  for (const Part* part : {&train, valid ? &*valid : nullptr}) {
    if (part == nullptr) continue;
    text += fmt::format(
        "\n{}: {} documents, {} bytes, {} tokens, {:.3f} bytes per token", part->path, part->documents,
        part->bytes, part->tokens,
        static_cast<double>(part->bytes) / static_cast<double>(std::max<std::int64_t>(part->tokens, 1)));
  }
  return text;
}

}  // namespace hysparse
