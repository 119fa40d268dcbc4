#include "data/documents.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include <nlohmann/json.hpp>

#include "core/error.h"

namespace hysparse {
namespace {

namespace fs = std::filesystem;

void list_directory(const fs::path& directory, std::vector<std::string>& files) {
  std::error_code error;
  for (fs::recursive_directory_iterator it(directory, error), end; !error && it != end; it.increment(error)) {
    const bool hidden = it->path().filename().string().starts_with('.');
    std::error_code unknown;  // a broken link is no regular file
    if (hidden && it->is_directory(unknown)) it.disable_recursion_pending();
    if (!hidden && it->is_regular_file(unknown)) files.push_back(it->path().string());
  }
  if (error) throw_error("{}: cannot list it: {}", directory.string(), error.message());
}

bool is_jsonl(const std::string& path) {
  return path.ends_with(".jsonl");
}

std::string read_whole(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw_error("{}: cannot read it: {}", path, std::strerror(errno));
  std::string bytes;
  std::error_code ignored;
  if (const auto size = fs::file_size(path, ignored); !ignored) bytes.reserve(size);
  char chunk[1 << 16];
  while (file.read(chunk, sizeof chunk) || file.gcount() > 0)
    bytes.append(chunk, static_cast<std::size_t>(file.gcount()));
  if (file.bad()) throw_error("{}: cannot read it: {}", path, std::strerror(errno));
  return bytes;
}

/// nlohmann's message without its identifier and its "at line 1".
std::string parse_message(const std::string& what) {
  const std::size_t column = what.find("column ");
  return column == std::string::npos ? what : what.substr(column);
}

}  // namespace

std::vector<std::string> list_input_files(const std::vector<std::string>& inputs) {
  std::vector<std::string> files;
  for (const std::string& input : inputs) {
    std::error_code error;
    const fs::file_status status = fs::status(input, error);
    if (fs::is_directory(status)) {
      list_directory(input, files);
    } else if (fs::is_regular_file(status)) {
      files.push_back(input);
    } else {
      throw_error("{}: {}", input, error ? error.message() : "neither a file nor a directory");
    }
  }
  for (std::string& file : files) file = fs::path(file).lexically_normal().string();
  std::sort(files.begin(), files.end());
  files.erase(std::unique(files.begin(), files.end()), files.end());
  return files;
}

bool DocumentReader::next_line(RawDocument& document) {
  while (std::getline(lines_, document.bytes)) {
    ++line_;
    if (document.bytes.find_first_not_of(" \t\r") == std::string::npos) continue;
    document.path = files_[next_file_ - 1];
    document.line = line_;
    return true;
  }
  if (lines_.bad())
    throw_error("{}:{}: cannot read it: {}", files_[next_file_ - 1], line_ + 1, std::strerror(errno));
  lines_.close();
  return false;
}

bool DocumentReader::next(RawDocument& document) {
  while (true) {
    if (lines_.is_open() && next_line(document)) return true;
    if (next_file_ == files_.size()) return false;
    const std::string& path = files_[next_file_++];
    if (is_jsonl(path)) {
      lines_ = std::ifstream(path, std::ios::binary);
      if (!lines_.is_open()) throw_error("{}: cannot read it: {}", path, std::strerror(errno));
      line_ = 0;
      continue;
    }
    document = {read_whole(path), path, 0};
    if (document.bytes.find('\0') == std::string::npos) return true;
    skipped_.push_back(path);
  }
}

std::string document_text(RawDocument document, const std::string& text_key) {
  if (document.line == 0) return std::move(document.bytes);
  const auto bad = [&](const std::string& problem) {
    throw_error("{}:{}: {}", document.path, document.line, problem);
  };
  try {
    nlohmann::json object = nlohmann::json::parse(document.bytes);
    if (!object.is_object()) bad(fmt::format("expected a JSON object, found {}", object.type_name()));
    const auto entry = object.find(text_key);
    if (entry == object.end()) bad(fmt::format("the object has no key \"{}\" (--text-key)", text_key));
    if (!entry->is_string()) bad(fmt::format("\"{}\" is {}, expected a string", text_key, entry->type_name()));
    return std::move(entry->get_ref<std::string&>());
  } catch (const nlohmann::json::parse_error& error) {
    bad(fmt::format("bad JSON: {}", parse_message(error.what())));
  } catch (const nlohmann::json::out_of_range& error) {  // a number that no double holds
    bad(fmt::format("bad JSON: {}", parse_message(error.what())));
  }
  return {};
}

}  // namespace hysparse
