#include "launch/data_inspection.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "data/stream_decoder.h"
#include "launch/user_input.h"

namespace hysparse {
namespace {

/// The tokenizer to decode with; nullptr, and why, when none is known.
std::unique_ptr<Tokenizer> find_tokenizer(const InspectConfig& config, const TokenFileInfo& info,
                                          std::string& problem) {
  if (config.tokenizer)
    return with_key("--tokenizer", [&] { return make_tokenizer(*config.tokenizer, config.eos); });
  if (info.tokenizer.empty()) {
    problem = "the file does not say its tokenizer (--tokenizer gives one)";
    return nullptr;
  }
  try {
    auto tokenizer = make_tokenizer(info.tokenizer, config.eos);
    if (info.tokenizer_hash.empty() || tokenizer->hash() == info.tokenizer_hash) return tokenizer;
    problem = fmt::format("tokenizer {} is not what it was when the file was made (hash {}, then {})",
                          info.tokenizer, tokenizer->hash(), info.tokenizer_hash);
  } catch (const Error& error) {
    problem = fmt::format("{} (--tokenizer gives another)", error.what());
  }
  return nullptr;
}

std::string decode(const Tokenizer& tokenizer, const std::vector<std::int32_t>& ids) {
  StreamDecoder decoder(tokenizer);
  std::string text;
  for (const std::int32_t id : ids) {
    text += id < tokenizer.vocab_size() ? decoder.push(id) : fmt::format("<{}>", id);
  }
  return text + decoder.finish();
}

void measure_lengths(const TokenDataset& data, DataInspection& found) {
  std::int64_t begin = 0;
  for (std::int64_t d = 0; d < data.num_documents(); ++d) {
    const std::int64_t end = data.document_end(d), length = end - begin;
    begin = end;
    found.shortest = d == 0 ? length : std::min(found.shortest, length);
    found.longest = std::max(found.longest, length);
    ++found.lengths[static_cast<std::size_t>(std::bit_width(static_cast<std::uint64_t>(length)))];
  }
  std::int64_t below = 0;
  for (std::size_t i = 0; i < found.lengths.size(); ++i) {
    below += found.lengths[i];
    if (2 * below < data.num_documents() || data.num_documents() == 0) continue;
    found.median = std::min((std::int64_t{1} << std::min<std::size_t>(i, 62)) - 1, found.longest);
    break;
  }
}

/// One line of text without what would break the line or the terminal.
std::string one_line(std::string_view text) {
  std::string line;
  for (const char c : text) {
    if (c == '\n') {
      line += "\\n";
    } else if (c == '\t') {
      line += "\\t";
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) {
      line += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    } else {
      line += c;
    }
  }
  return line;
}

std::string grouped(std::int64_t value) {
  std::string digits = fmt::format("{}", value);
  for (auto at = static_cast<std::int64_t>(digits.size()) - 3; at > 0; at -= 3) {
    digits.insert(static_cast<std::size_t>(at), 1, ',');
  }
  return digits;
}

std::string range_text(std::size_t i) {
  if (i <= 1) return grouped(static_cast<std::int64_t>(i));
  const std::int64_t low = std::int64_t{1} << (i - 1);
  return fmt::format("{}-{}", grouped(low), grouped(low + (low - 1)));
}

std::string histogram_text(const DataInspection& found) {
  constexpr std::int64_t most_cells = 40;
  const auto& lengths = found.lengths;
  const auto filled = [](std::int64_t n) { return n > 0; };
  const auto first = std::find_if(lengths.begin(), lengths.end(), filled) - lengths.begin();
  const auto last = lengths.rend() - std::find_if(lengths.rbegin(), lengths.rend(), filled);
  const std::int64_t most = *std::max_element(lengths.begin(), lengths.end());
  std::string text = "tokens a document\n";
  for (auto i = static_cast<std::size_t>(first); i < static_cast<std::size_t>(last); ++i) {
    const double share = static_cast<double>(lengths[i]) / static_cast<double>(most);
    const auto cells = lengths[i] == 0 ? 0 : std::max<std::int64_t>(1, std::llround(share * most_cells));
    text += fmt::format("  {:>27}  {:<40}  {}\n", range_text(i),
                        std::string(static_cast<std::size_t>(cells), '#'), grouped(lengths[i]));
  }
  return text;
}

nlohmann::json sample_json(const DataInspection::Sample& sample) {
  nlohmann::json json = {{"document", sample.document}, {"tokens", sample.tokens}, {"ids", sample.ids}};
  if (sample.text) json["text"] = *sample.text;
  return json;
}

}  // namespace

DataInspection inspect_data(const InspectConfig& config) {
  const auto data = open_token_dataset(config.path);
  DataInspection found;
  found.path = data->path();
  found.format = token_format_name(data->format());
  found.type = token_type_name(data->type());
  found.info = data->info();
  found.tokens = data->num_tokens();
  found.documents = data->num_documents();
  measure_lengths(*data, found);
  if (config.check_ids) found.largest_id = check_ids(*data);
  const std::unique_ptr<Tokenizer> tokenizer = find_tokenizer(config, found.info, found.tokenizer_problem);
  const std::int64_t count = std::min(config.samples, found.documents);
  for (std::int64_t i = 0; i < count; ++i) {
    DataInspection::Sample sample;
    sample.document = found.documents / count * i + found.documents % count * i / count;
    const std::int64_t begin = data->document_begin(sample.document);
    sample.tokens = data->document_end(sample.document) - begin;
    sample.ids.resize(static_cast<std::size_t>(std::min(sample.tokens, config.sample_tokens)));
    data->read(begin, sample.ids);
    if (tokenizer) sample.text = decode(*tokenizer, sample.ids);
    found.samples.push_back(std::move(sample));
  }
  return found;
}

std::string inspection_text(const DataInspection& found) {
  const auto known = [](const std::string& text) { return text.empty() ? std::string("not known") : text; };
  std::string text =
      fmt::format("{}\nformat         {}, ids stored as {}\n", found.path, found.format, found.type);
  text +=
      fmt::format("tokens         {}\ndocuments      {}\n", grouped(found.tokens), grouped(found.documents));
  text += fmt::format("vocabulary     {}\n",
                      found.info.vocab_size > 0 ? grouped(found.info.vocab_size) : "not known");
  text += fmt::format("tokenizer      {}\n", known(found.info.tokenizer));
  text += fmt::format("end of text    {}\n",
                      found.info.eos_id >= 0 ? fmt::format("{}", found.info.eos_id) : "not known");
  if (!found.info.command.empty()) text += fmt::format("made by        {}\n", one_line(found.info.command));
  if (found.largest_id) text += fmt::format("largest id     {}\n", *found.largest_id);
  if (found.documents > 0) {
    text += fmt::format("lengths        {} to {}, half of the documents at most {}\n\n",
                        grouped(found.shortest), grouped(found.longest), grouped(found.median));
    text += histogram_text(found);
  }
  if (!found.samples.empty() && !found.tokenizer_problem.empty()) {
    text += fmt::format("\nids only: {}\n", found.tokenizer_problem);
  }
  for (const DataInspection::Sample& sample : found.samples) {
    const bool cut = static_cast<std::int64_t>(sample.ids.size()) < sample.tokens;
    text += fmt::format("\ndocument {} ({} tokens)\n  {}{}\n", sample.document, grouped(sample.tokens),
                        sample.text ? one_line(*sample.text) : fmt::format("{}", fmt::join(sample.ids, " ")),
                        cut ? " ..." : "");
  }
  return text;
}

std::string inspection_json(const DataInspection& found) {
  nlohmann::json json = {{"path", found.path},           {"format", found.format},
                         {"type", found.type},           {"tokens", found.tokens},
                         {"documents", found.documents}, {"shortest", found.shortest},
                         {"longest", found.longest},     {"median_at_most", found.median}};
  json["vocab_size"] = found.info.vocab_size > 0 ? nlohmann::json(found.info.vocab_size) : nlohmann::json();
  json["eos_id"] = found.info.eos_id >= 0 ? nlohmann::json(found.info.eos_id) : nlohmann::json();
  json["tokenizer"] = found.info.tokenizer.empty() ? nlohmann::json() : nlohmann::json(found.info.tokenizer);
  json["tokenizer_hash"] =
      found.info.tokenizer_hash.empty() ? nlohmann::json() : nlohmann::json(found.info.tokenizer_hash);
  json["command"] = found.info.command.empty() ? nlohmann::json() : nlohmann::json(found.info.command);
  if (found.largest_id) json["largest_id"] = *found.largest_id;
  json["lengths"] = nlohmann::json::array();
  for (std::size_t i = 0; i < found.lengths.size(); ++i) {
    if (found.lengths[i] == 0) continue;
    const std::uint64_t low = i == 0 ? 0 : std::uint64_t{1} << (i - 1);
    json["lengths"].push_back(
        {{"from", low}, {"to", i == 0 ? 0 : low + (low - 1)}, {"documents", found.lengths[i]}});
  }
  json["samples"] = nlohmann::json::array();
  for (const DataInspection::Sample& sample : found.samples) json["samples"].push_back(sample_json(sample));
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace hysparse
