#include "launch/prepare_state.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "data/partial_file.h"

namespace hysparse {
namespace {

using Json = nlohmann::json;

Json part_json(const PrepareReport::Part& part) {
  return {{"documents", part.documents}, {"bytes", part.bytes}, {"tokens", part.tokens}};
}

PrepareReport::Part read_part(const Json& json) {
  PrepareReport::Part part;
  part.documents = json.at("documents").get<std::int64_t>();
  part.bytes = json.at("bytes").get<std::int64_t>();
  part.tokens = json.at("tokens").get<std::int64_t>();
  return part;
}

}  // namespace

std::string prepare_state_path(const std::string& output) {
  return output + ".partial-state";
}

void save_prepare_state(const std::string& path, const PrepareState& state) {
  const PrepareReport& report = state.report;
  Json json = {{"job", state.job},
               {"file", state.next.file},
               {"offset", state.next.offset},
               {"line", state.line},
               {"draws", state.draws},
               {"read_bytes", state.read_bytes},
               {"train", part_json(report.train)},
               {"empty_documents", report.empty_documents},
               {"bad_lines", report.bad_lines},
               {"first_bad_lines", report.first_bad_lines},
               {"not_text", report.not_text},
               {"first_not_text", report.first_not_text}};
  if (report.valid) json["valid"] = part_json(*report.valid);
  // Names may be any bytes.
  const std::string text = json.dump(-1, ' ', false, Json::error_handler_t::replace);
  const std::string temporary = path + ".new";
  {
    PartialFile file(temporary, path);
    file.append(text.data(), static_cast<std::int64_t>(text.size()));
    file.sync();
  }
  if (std::rename(temporary.c_str(), path.c_str()) != 0) {
    throw_failure("{}: cannot rename {} to it: {}", path, temporary, std::strerror(errno));
  }
  sync_directory_of(path);
}

std::optional<PrepareState> load_prepare_state(const std::string& path, const std::string& job,
                                               std::int64_t files) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return std::nullopt;
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  try {
    const Json json = Json::parse(text);
    PrepareState state;
    state.job = json.at("job").get<std::string>();
    if (state.job != job) return std::nullopt;
    state.next = {json.at("file").get<std::int64_t>(), json.at("offset").get<std::int64_t>()};
    state.line = json.at("line").get<std::int64_t>();
    state.draws = json.at("draws").get<std::uint64_t>();
    state.read_bytes = json.at("read_bytes").get<std::int64_t>();
    PrepareReport& report = state.report;
    report.train = read_part(json.at("train"));
    if (json.contains("valid")) report.valid = read_part(json.at("valid"));
    report.empty_documents = json.at("empty_documents").get<std::int64_t>();
    report.bad_lines = json.at("bad_lines").get<std::int64_t>();
    report.first_bad_lines = json.at("first_bad_lines").get<std::vector<std::string>>();
    report.not_text = json.at("not_text").get<std::int64_t>();
    report.first_not_text = json.at("first_not_text").get<std::string>();
    state.train = {report.train.tokens, report.train.documents};
    if (report.valid) state.valid = {report.valid->tokens, report.valid->documents};
    const auto lowest =
        std::min({state.next.file, state.next.offset, state.line, state.read_bytes, state.train.tokens,
                  state.train.documents, state.valid.tokens, state.valid.documents});
    constexpr std::int64_t most_tokens = std::int64_t{1} << 56;  // times the bytes of an id, it fits
    const auto highest =
        std::max({state.train.tokens, state.train.documents, state.valid.tokens, state.valid.documents});
    if (lowest < 0 || highest > most_tokens || state.next.file > files) return std::nullopt;
    return state;
  } catch (const Json::exception&) {
    return std::nullopt;
  }
}

}  // namespace hysparse
