#include "data/document_encoder.h"

#include <algorithm>
#include <cstring>
#include <string_view>

#include "core/error.h"
#include "data/json_text.h"

namespace hysparse {
namespace {

/// Appends one document's ids to a chunk's.
class Appender {
 public:
  Appender(EncodedChunk& to, const Tokenizer& tokenizer, std::int64_t id_bytes, std::vector<std::int32_t>& ids)
      : to_(to),
        tokenizer_(tokenizer),
        id_bytes_(static_cast<std::size_t>(id_bytes)),
        ids_(ids),
        eos_(tokenizer.eos_id()),
        vocab_(static_cast<std::uint32_t>(tokenizer.vocab_size())) {}

  void append(std::string_view text) {
    if (text.empty()) {
      ++to_.empty_documents;
      return;
    }
    ids_.clear();
    tokenizer_.encode(text, ids_);
    ids_.push_back(eos_);
    std::uint32_t largest = 0;
    for (const std::int32_t id : ids_) largest = std::max(largest, static_cast<std::uint32_t>(id));
    HYSPARSE_CHECK(largest < vocab_, "tokenizer {} gave id {}, vocab_size {}", tokenizer_.name(), largest,
                   vocab_);
    const std::size_t begin = to_.ids.size(), count = ids_.size();
    to_.ids.resize(begin + count * id_bytes_);
    std::byte* out = to_.ids.data() + begin;
    if (id_bytes_ == 4) {
      std::memcpy(out, ids_.data(), count * 4);
    } else {
      for (std::size_t i = 0; i < count; ++i) {
        const auto narrow = static_cast<std::uint16_t>(ids_[i]);
        std::memcpy(out + i * 2, &narrow, 2);
      }
    }
    to_.lengths.push_back(static_cast<std::int64_t>(count));
    to_.text_bytes.push_back(static_cast<std::int64_t>(text.size()));
  }

 private:
  EncodedChunk& to_;
  const Tokenizer& tokenizer_;
  std::size_t id_bytes_;
  std::vector<std::int32_t>& ids_;
  std::int32_t eos_;
  std::uint32_t vocab_;
};

void encode_lines(std::string_view text, const std::string& text_key, EncodedChunk& encoded, Appender& to) {
  std::string scratch;
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    ++encoded.line_count;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    std::string_view document;
    try {
      document = json_text(line, text_key, scratch);
    } catch (const Error& error) {
      encoded.bad_lines.push_back({encoded.line_count, error.what()});
      continue;
    }
    to.append(document);
  }
}

}  // namespace

EncodedChunk encode_chunk(const DocumentChunk& chunk, const Tokenizer& tokenizer, const std::string& text_key,
                          std::int64_t id_bytes, std::vector<std::int32_t>& ids) {
  EncodedChunk encoded;
  encoded.lines = chunk.lines;
  encoded.from_start = chunk.from_start;
  encoded.file = chunk.file;
  encoded.read_bytes = chunk.read_bytes;
  encoded.next = chunk.next;
  encoded.ids.reserve(chunk.bytes.size() * static_cast<std::size_t>(id_bytes) / 2);
  Appender to(encoded, tokenizer, id_bytes, ids);
  if (chunk.lines) {
    encode_lines(chunk.bytes, text_key, encoded, to);
    return encoded;
  }
  std::int64_t begin = 0, file = chunk.file;
  for (const std::int64_t end : chunk.ends) {
    const std::string_view text(chunk.bytes.data() + begin, static_cast<std::size_t>(end - begin));
    if (text.find('\0') != std::string_view::npos) {
      encoded.not_text.push_back(file);
    } else {
      to.append(text);
    }
    begin = end;
    ++file;
  }
  return encoded;
}

DocumentEncoder::DocumentEncoder(DocumentReader reader, const Tokenizer& tokenizer, std::string text_key,
                                 std::int64_t id_bytes, int workers)
    : reader_(std::move(reader)),
      tokenizer_(tokenizer),
      text_key_(std::move(text_key)),
      id_bytes_(id_bytes),
      most_jobs_(static_cast<std::size_t>(workers) * 4 + 2),
      most_bytes_(std::int64_t{workers} * (64 << 20)) {
  HYSPARSE_CHECK(workers >= 1 && (id_bytes == 2 || id_bytes == 4));
  threads_.emplace_back([this] { read(); });
  for (int i = 0; i < workers; ++i) threads_.emplace_back([this] { work(); });
}

DocumentEncoder::~DocumentEncoder() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  room_.notify_all();
  to_do_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void DocumentEncoder::read() {
  for (bool more = true; more;) {
    {
      std::unique_lock lock(mutex_);
      room_.wait(lock, [&] {
        return stop_ || in_order_.empty() || (in_order_.size() < most_jobs_ && bytes_ < most_bytes_);
      });
      if (stop_) return;
    }
    auto job = std::make_shared<Job>();
    try {
      job->last = !reader_.next(job->raw);
    } catch (...) {
      job->problem = std::current_exception();
    }
    job->bytes = static_cast<std::int64_t>(job->raw.bytes.size());
    job->done = job->last || job->problem;
    more = !job->done;
    {
      const std::lock_guard lock(mutex_);
      bytes_ += job->bytes;
      in_order_.push_back(job);
      if (!job->done) waiting_.push_back(job);
    }
    to_do_.notify_one();
    done_.notify_one();
  }
}

void DocumentEncoder::work() {
  std::vector<std::int32_t> ids;
  while (true) {
    std::shared_ptr<Job> job;
    {
      std::unique_lock lock(mutex_);
      to_do_.wait(lock, [&] { return stop_ || !waiting_.empty(); });
      if (stop_) return;
      job = std::move(waiting_.front());
      waiting_.pop_front();
    }
    try {
      job->encoded = encode_chunk(job->raw, tokenizer_, text_key_, id_bytes_, ids);
      job->raw = {};
    } catch (...) {
      job->problem = std::current_exception();
    }
    constexpr std::size_t most_kept = 16 << 20;  // after one huge document
    if (ids.capacity() > most_kept) ids = {};
    {
      const std::lock_guard lock(mutex_);
      job->done = true;
    }
    done_.notify_one();
  }
}

bool DocumentEncoder::next(EncodedChunk& chunk) {
  std::shared_ptr<Job> job;
  {
    std::unique_lock lock(mutex_);
    done_.wait(lock, [&] { return !in_order_.empty() && in_order_.front()->done; });
    job = in_order_.front();
    if (job->problem) std::rethrow_exception(job->problem);
    if (job->last) return false;
    in_order_.pop_front();
    bytes_ -= job->bytes;
  }
  room_.notify_one();
  chunk = std::move(job->encoded);
  return true;
}

}  // namespace hysparse
