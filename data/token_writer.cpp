#include "data/token_writer.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <limits>

#include "core/error.h"
#include "core/hdf5.h"
#include "data/formats/llmc.h"

namespace hysparse {
namespace {

constexpr std::int64_t chunk_bytes = 1 << 20;
constexpr std::size_t most_command_bytes = 4096;  // an attribute holds 64 KiB
/// Where HDF5 puts the first dataset of a file that begins with it. Were it to put it elsewhere, the ids would
/// be copied.
constexpr std::int64_t hdf5_front_bytes = 2240;

std::int64_t front_bytes(TokenFormat format) {
  if (format == TokenFormat::hdf5) return hdf5_front_bytes;
  return format == TokenFormat::llmc ? llmc_header_bytes : 0;
}

const std::string& require_no_directory(const std::string& path) {
  if (std::error_code ignored; std::filesystem::is_directory(path, ignored)) {
    throw_error("{}: is a directory, expected the name of a file to write", path);
  }
  return path;
}

/// Hands the bytes of a file on in chunks: body(offset, data, bytes).
template <class Body>
void for_chunks(PartialFile& file, Body&& body) {
  std::vector<std::byte> chunk(static_cast<std::size_t>(chunk_bytes));
  for (std::int64_t offset = 0; offset < file.bytes(); offset += chunk_bytes) {
    const std::int64_t bytes = std::min(chunk_bytes, file.bytes() - offset);
    file.read(offset, chunk.data(), bytes);
    body(offset, chunk.data(), bytes);
  }
}

void copy_to_dataset(PartialFile& from, Hdf5File& file, const std::string& name, Hdf5Type type) {
  const std::int64_t size = hdf5_type_size(type);
  for_chunks(from, [&](std::int64_t offset, const std::byte* data, std::int64_t bytes) {
    const std::int64_t begin = offset / size, count = bytes / size;
    file.write_slab(name, type, std::span(&begin, 1), std::span(&count, 1), data);
  });
}

/// Calls body(tokens of the document) for each.
template <class Body>
void for_documents(PartialFile& doc_ends, Body&& body) {
  std::uint64_t previous = 0;
  for_chunks(doc_ends, [&](std::int64_t, const std::byte* data, std::int64_t bytes) {
    for (std::int64_t i = 0; i < bytes / 8; ++i) {
      const auto end = load_element<std::uint64_t>(data, i);
      body(static_cast<std::int64_t>(end - previous));
      previous = end;
    }
  });
}

template <class T>
void append_value(PartialFile& file, T value) {
  file.append(&value, sizeof value);
}

std::string with_ending(const std::string& path, std::string_view ending) {
  for (const std::string_view known : {".idx", ".bin"}) {
    if (path.ends_with(known)) return path.substr(0, path.size() - known.size()) + std::string(ending);
  }
  return path + std::string(ending);
}

}  // namespace

TokenFormat token_format_of_name(const std::string& path) {
  if (path.ends_with(".idx")) return TokenFormat::megatron;
  if (path.ends_with(".ds")) return TokenFormat::datatrove;
  if (path.ends_with(".bin")) return TokenFormat::llmc;
  return TokenFormat::hdf5;
}

std::vector<std::string> token_output_files(const std::string& path, TokenFormat format) {
  if (format == TokenFormat::megatron) return {with_ending(path, ".bin"), with_ending(path, ".idx")};
  if (format == TokenFormat::datatrove) return {path, path + ".metadata", path + ".index"};
  return {path};
}

std::vector<std::string> token_partial_files(const std::string& path, TokenFormat format) {
  const std::vector<std::string> outputs = token_output_files(path, format);
  std::vector<std::string> partial = {outputs[0] + ".partial-ends", outputs[0] + ".partial-copy"};
  for (const std::string& output : outputs) partial.push_back(output + ".partial");
  return partial;
}

TokenWriter::TokenWriter(const std::string& path, TokenFileInfo info, TokenFormat format,
                         const TokenWriterState& resume)
    : path_(require_no_directory(path)),
      info_(std::move(info)),
      format_(format),
      outputs_(token_output_files(path, format)),
      id_bytes_(info_.vocab_size > 65536 ? 4 : 2),
      ids_(require_no_directory(outputs_[0]) + ".partial", path, front_bytes(format),
           resume.tokens * id_bytes_),
      doc_ends_(outputs_[0] + ".partial-ends", path, 0, resume.documents * 8),
      num_tokens_(resume.tokens) {
  HYSPARSE_CHECK(format != TokenFormat::raw);
  if (info_.command.size() > most_command_bytes) {
    info_.command.resize(most_command_bytes);
    info_.command += " ...";
  }
  std::replace(info_.command.begin(), info_.command.end(), '\0', ' ');
}

TokenWriter::~TokenWriter() {
  if (keep_) return;
  for (const std::string& file : token_partial_files(path_, format_)) std::remove(file.c_str());
}

void TokenWriter::append_document(std::span<const std::int32_t> tokens) {
  HYSPARSE_CHECK(!tokens.empty() && !finished_);
  std::int32_t lowest = 0, highest = 0;
  for (const std::int32_t id : tokens) {
    lowest = std::min(lowest, id);
    highest = std::max(highest, id);
  }
  HYSPARSE_CHECK(lowest >= 0 && highest < info_.vocab_size, "ids {}..{}, vocab_size {}", lowest, highest,
                 info_.vocab_size);
  const auto length = static_cast<std::int64_t>(tokens.size());
  if (id_bytes_ == 4) return append_documents(std::as_bytes(tokens), std::span(&length, 1));
  narrow_.resize(tokens.size());
  for (std::size_t i = 0; i < tokens.size(); ++i) narrow_[i] = static_cast<std::uint16_t>(tokens[i]);
  append_documents(std::as_bytes(std::span(narrow_)), std::span(&length, 1));
}

void TokenWriter::append_documents(std::span<const std::byte> ids, std::span<const std::int64_t> lengths) {
  ids_.append(ids.data(), static_cast<std::int64_t>(ids.size()));
  ends_.clear();
  const std::int64_t before = num_tokens_;
  for (const std::int64_t length : lengths) {
    HYSPARSE_CHECK(length > 0);
    num_tokens_ += length;
    ends_.push_back(static_cast<std::uint64_t>(num_tokens_));
  }
  HYSPARSE_CHECK((num_tokens_ - before) * id_bytes_ == static_cast<std::int64_t>(ids.size()));
  doc_ends_.append(ends_.data(), static_cast<std::int64_t>(ends_.size() * sizeof(std::uint64_t)));
}

TokenWriterState TokenWriter::sync() {
  ids_.sync();
  doc_ends_.sync();
  return {num_tokens_, num_documents()};
}

template <class Fill>
void TokenWriter::write_beside(const std::string& output, Fill&& fill) {
  PartialFile file(output + ".partial", path_);
  fill(file);
  file.sync();
  renames_.emplace_back(file.path(), output);
}

void TokenWriter::finish_hdf5() {
  constexpr std::int64_t metadata_bytes = 64 << 10;
  ids_.reserve(num_documents() * 8 + metadata_bytes);  // HDF5 does not get over a full disk
  const Hdf5Type type = id_bytes_ == 4 ? Hdf5Type::u32 : Hdf5Type::u16;
  const std::int64_t documents = num_documents();
  const auto complete = [&](Hdf5File& file) {
    file.set_attribute("", "tokenizer", info_.tokenizer);
    file.set_attribute("", "tokenizer_hash", info_.tokenizer_hash);
    file.set_attribute("", "vocab_size", info_.vocab_size);
    file.set_attribute("", "eos_id", static_cast<std::int64_t>(info_.eos_id));
    file.set_attribute("", "command", info_.command);
    file.create_dataset("doc_ends", Hdf5Type::u64, std::span(&documents, 1));
    copy_to_dataset(doc_ends_, file, "doc_ends", Hdf5Type::u64);
    file.close_and_sync();
  };
  const std::string name = "tokens", copy = outputs_[0] + ".partial-copy";
  const Hdf5NewDataset tokens{name, type, std::span(&num_tokens_, 1), {}, {}};
  { const PartialFile empty(copy, path_); }
  // Tried on a file of holes first: HDF5 cuts a file off behind what it knows of.
  if (Hdf5File::create_over(copy).create_dataset(tokens) == hdf5_front_bytes) {
    Hdf5File file = Hdf5File::create_over(ids_.path());  // writes around the ids that are there
    file.create_dataset(tokens);
    complete(file);
    renames_.emplace_back(ids_.path(), outputs_[0]);
    return;
  }
  Hdf5File file = Hdf5File::create(copy);
  file.create_dataset(tokens);
  copy_to_dataset(ids_, file, name, type);
  complete(file);
  renames_.emplace_back(copy, outputs_[0]);
}

void TokenWriter::finish_megatron() {
  // A length is an int32: a longer document becomes several sequences.
  constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max();
  const auto sequences_of = [](std::int64_t tokens) { return (tokens + most - 1) / most; };
  std::int64_t sequences = 0;
  for_documents(doc_ends_, [&](std::int64_t tokens) { sequences += sequences_of(tokens); });
  renames_.emplace_back(ids_.path(), outputs_[0]);
  write_beside(outputs_[1], [&](PartialFile& index) {
    index.append("MMIDIDX\0\0", 9);
    append_value<std::uint64_t>(index, 1);
    append_value<std::uint8_t>(index, id_bytes_ == 4 ? 4 : 8);  // int32, uint16
    append_value<std::int64_t>(index, sequences);
    append_value<std::int64_t>(index, num_documents() + 1);
    for_documents(doc_ends_, [&](std::int64_t tokens) {
      for (; tokens > 0; tokens -= most) append_value(index, static_cast<std::int32_t>(std::min(tokens, most)));
    });
    std::int64_t pointer = 0;
    for_documents(doc_ends_, [&](std::int64_t tokens) {
      for (; tokens > 0; tokens -= most) {
        append_value(index, pointer);
        pointer += std::min(tokens, most) * id_bytes_;
      }
    });
    std::int64_t bound = 0;
    append_value(index, bound);
    for_documents(doc_ends_, [&](std::int64_t tokens) {
      bound += sequences_of(tokens);
      append_value(index, bound);
    });
  });
}

void TokenWriter::finish_datatrove() {
  renames_.emplace_back(ids_.path(), outputs_[0]);
  write_beside(outputs_[1], [&](PartialFile& metadata) {
    const std::string text = fmt::format("{}|{}\n{}\n{:.1f} MT", info_.tokenizer, id_bytes_, num_tokens_,
                                         static_cast<double>(num_tokens_) / 1e6);
    metadata.append(text.data(), static_cast<std::int64_t>(text.size()));
  });
  write_beside(outputs_[2], [&](PartialFile& index) {
    for_chunks(doc_ends_,
               [&](std::int64_t, const std::byte* data, std::int64_t bytes) { index.append(data, bytes); });
  });
}

void TokenWriter::finish_llmc() {
  constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max();
  if (num_tokens_ > most) {
    throw_error(
        "{}: {} tokens, but an llm.c file holds at most {}: prepare fewer documents into each, or choose "
        "another --format",
        path_, num_tokens_, most);
  }
  const bool wide = id_bytes_ == 4;
  std::array<std::int32_t, llmc_header_bytes / 4> header{};
  header[0] = wide ? llmc_magic_u32 : llmc_magic_u16;
  header[1] = wide ? llmc_version_u32 : llmc_version_u16;
  header[2] = static_cast<std::int32_t>(num_tokens_);
  header[8] = llmc_tag;
  header[9] = info_.eos_id;
  header[10] = static_cast<std::int32_t>(info_.vocab_size);
  ids_.write_front(header.data(), llmc_header_bytes);
  renames_.emplace_back(ids_.path(), outputs_[0]);
}

void TokenWriter::finish() {
  HYSPARSE_CHECK(num_tokens_ > 0 && !finished_);
  ids_.sync();
  switch (format_) {
    case TokenFormat::hdf5:
      finish_hdf5();
      break;
    case TokenFormat::megatron:
      finish_megatron();
      break;
    case TokenFormat::datatrove:
      finish_datatrove();
      break;
    default:
      finish_llmc();
      ids_.sync();
  }
  finished_ = true;
}

void TokenWriter::commit() {
  HYSPARSE_CHECK(finished_);
  if (outputs_.size() > 1) std::remove(outputs_.back().c_str());  // no old index over new ids
  for (const auto& [temporary, output] : renames_) {
    if (std::rename(temporary.c_str(), output.c_str()) != 0) {
      throw_failure("{}: cannot rename {} to it: {}", output, temporary, std::strerror(errno));
    }
  }
  sync_directory_of(outputs_[0]);
  discard();  // what is left is of no use
}

}  // namespace hysparse
