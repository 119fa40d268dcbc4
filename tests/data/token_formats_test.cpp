// Foreign token files: those that their own writers made (tests/data/golden, by tests/data/compare_formats),
// ours read back, and damaged ones.
#include <array>
#include <cstring>
#include <limits>

#include "core/random.h"
#include "data/formats/datatrove.h"
#include "data/formats/llmc.h"
#include "data/formats/megatron.h"
#include "data/token_dataset.h"
#include "data/token_file.h"
#include "data/token_writer.h"
#include "tests/data/temporary_directory.h"

namespace hysparse {
namespace {

using Documents = std::vector<std::vector<std::int32_t>>;

Documents read_documents(const TokenDataset& data) {
  Documents documents;
  for (std::int64_t d = 0; d < data.num_documents(); ++d) {
    documents.emplace_back(static_cast<std::size_t>(data.document_end(d) - data.document_begin(d)));
    data.read(data.document_begin(d), documents.back());
  }
  EXPECT_EQ(data.num_documents() == 0 ? 0 : data.document_end(data.num_documents() - 1), data.num_tokens());
  return documents;
}

Documents read_documents(const std::string& path) {
  return read_documents(*open_token_dataset(path));
}

template <class T>
void put(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
}

/// An .idx by its parts.
struct Index {
  std::string magic{"MMIDIDX\0\0", 9};
  std::uint64_t version = 1;
  std::uint8_t code = 8;
  std::vector<std::int32_t> lengths = {2, 0, 3};
  std::vector<std::int64_t> pointers = {0, 4, 4};
  std::vector<std::int64_t> documents = {0, 2, 3};
  std::optional<std::uint64_t> sequences, bounds;
  std::string tail;

  std::string bytes() const {
    std::string out = magic;
    put(out, version);
    put(out, code);
    put(out, sequences.value_or(lengths.size()));
    put(out, bounds.value_or(documents.size()));
    for (const auto v : lengths) put(out, v);
    for (const auto v : pointers) put(out, v);
    for (const auto v : documents) put(out, v);
    return out + tail;
  }
};

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

std::string index_error(const Index& index, std::int64_t bin_bytes = 10) {
  return error_message([&] { MegatronIndex(bytes_of(index.bytes()), bin_bytes, "a.idx"); });
}

TEST(Golden, FilesOfTheirOwnWriters) {
  const Documents narrow = {{1, 2, 3}, {}, {65535}, {0, 5}, {7}}, wide = {{1, 2, 3}, {}, {70000}, {0, 5}, {7}};
  EXPECT_EQ(read_documents("golden/megatron_u16"), narrow);
  EXPECT_EQ(read_documents("golden/megatron_u16.bin"), narrow);
  EXPECT_EQ(read_documents("golden/megatron_i32.idx"), wide);  // two sequences a document, with modes
  EXPECT_EQ(read_documents("golden/datatrove_u16.ds"), narrow);
  EXPECT_EQ(read_documents("golden/datatrove_u32.ds.index"), wide);
  const auto data = open_token_dataset("golden/megatron_u16");
  EXPECT_EQ(data->format(), TokenFormat::megatron);
  EXPECT_EQ(data->type(), TokenType::u16);
  EXPECT_EQ(data->info().vocab_size, 0);
  EXPECT_EQ(data->info().eos_id, -1);
  EXPECT_EQ(open_token_dataset("golden/datatrove_u32.ds")->type(), TokenType::u32);
  EXPECT_EQ(open_token_dataset("golden/datatrove_u32.ds")->info().tokenizer, "");
  const std::array<std::int64_t, 7> owners = {0, 0, 0, 2, 3, 3, 4};  // document 1 has no tokens
  for (std::size_t t = 0; t < owners.size(); ++t) {
    EXPECT_EQ(data->document_of(static_cast<std::int64_t>(t)), owners[t]);
  }
}

TEST(Megatron, RefusesWhatDoesNotFit) {
  EXPECT_EQ(MegatronIndex(bytes_of(Index{}.bytes()), 10, "a.idx").num_documents(), 2);
  const auto expect = [](const std::string& message, const std::string& part) {
    EXPECT_TRUE(contains(message, "a.idx: ") && contains(message, part)) << message;
  };
  constexpr std::uint64_t huge = std::numeric_limits<std::uint64_t>::max();
  expect(index_error({.magic = std::string("MMIDIDX\0\1", 9)}), "not a Megatron index");
  expect(index_error({.version = 2}), "version 2, known is 1");
  expect(index_error({.code = 6}), "holds f64");
  expect(index_error({.code = 7}), "holds f32");
  expect(index_error({.code = 9}), "type code 9 is not known");
  expect(index_error({.sequences = 4}), "cannot hold");
  expect(index_error({.sequences = huge}), "cannot hold");
  expect(index_error({.sequences = huge / 12 + 1}), "cannot hold");
  expect(index_error({.bounds = huge}), "cannot hold");
  expect(index_error({.bounds = huge / 8 + 1}), "cannot hold");
  expect(index_error({.bounds = 2}), "8 bytes are left over");
  expect(index_error({.lengths = {}, .pointers = {}, .documents = {}}), "no document bounds");
  expect(index_error({.tail = "x"}), "1 bytes are left over");
  expect(index_error({.lengths = {2, -1, 4}}), "sequence 1 has length -1");
  expect(index_error({.pointers = {0, 2, 4}}), "sequence 1 begins at byte 2, expected 4");
  expect(index_error({.pointers = {2, 4, 4}}), "sequence 0 begins at byte 2, expected 0");
  expect(index_error({.lengths = {2, 0, 4}}), "ends at byte 12, past the 10 bytes");
  expect(index_error({.lengths = {std::numeric_limits<std::int32_t>::max(), 0, 0}}), "past the 10 bytes");
  expect(index_error({}, 12), "have 10 bytes, but the .bin has 12");
  expect(index_error({}, 0), "past the 0 bytes");
  expect(index_error({.documents = {1, 2, 3}}), "document bound 0 is 1");
  expect(index_error({.documents = {0, -1, 3}}), "document bound 1 is -1");
  expect(index_error({.documents = {0, 4, 3}}), "document bound 1 is 4");
  expect(index_error({.documents = {0, 3, 2}}), "document bound 2 is 2");
  expect(index_error({.documents = {0, 1, 2}}), "last document ends at sequence 2 of 3");
}

TEST(Megatron, EdgeSizes) {
  const TemporaryDirectory dir;
  const auto write = [&](const Index& index, const std::string& bin) {
    write_file(dir / "a.idx", index.bytes());
    write_file(dir / "a.bin", bin);
    return read_documents(dir / "a");
  };
  EXPECT_EQ(write({.lengths = {}, .pointers = {}, .documents = {0}}, ""), Documents{});
  EXPECT_EQ(write({.lengths = {}, .pointers = {}, .documents = {0, 0}}, ""), Documents{{}});
  EXPECT_EQ(write({.lengths = {0}, .pointers = {0}, .documents = {0, 1}}, ""), Documents{{}});
  EXPECT_EQ(write({.lengths = {1}, .pointers = {0}, .documents = {0, 1}}, std::string("\1\2", 2)),
            Documents{{0x201}});
  EXPECT_EQ(write({.lengths = {1}, .pointers = {0}, .documents = {0, 0, 1, 1}}, std::string("\1\0", 2)),
            (Documents{{}, {1}, {}}));
  EXPECT_EQ(write({.tail = std::string(3, '\0')}, std::string(10, '\0')), (Documents{{0, 0}, {0, 0, 0}}));
  std::filesystem::remove(dir / "a.bin");
  EXPECT_ERROR(open_token_dataset(dir / "a"), "a.bin", "No such file");
  write_file(dir / "a.idx", "");
  write_file(dir / "a.bin", "");
  EXPECT_ERROR(open_token_dataset(dir / "a.idx"), "a.idx", "not a Megatron index");
  std::filesystem::rename(dir / "a.idx", dir / "moved");
  write_file(dir / "moved", Index{}.bytes());
  EXPECT_ERROR(open_token_dataset(dir / "moved"), "moved", "does not end in .idx");
}

TEST(Megatron, BadIdsAreFoundWhenRead) {
  const TemporaryDirectory dir;
  std::string ids;
  for (const std::int64_t id : {std::int64_t{5}, std::int64_t{-2}, std::int64_t{1} << 31}) put(ids, id);
  write_file(dir / "a.idx", Index{.code = 5, .lengths = {3}, .pointers = {0}, .documents = {0, 1}}.bytes());
  write_file(dir / "a.bin", ids);
  const auto data = open_token_dataset(dir / "a", {.vocab_size = 5});
  std::array<std::int32_t, 1> out{};
  EXPECT_ERROR(data->read(0, out), "a.bin", "token 0 is 5, but vocab_size is 5");
  const auto free = open_token_dataset(dir / "a");
  free->read(0, out);
  EXPECT_EQ(out[0], 5);
  EXPECT_ERROR(free->read(1, out), "a.bin", "token 1 is -2: ids are >= 0");
  EXPECT_ERROR(free->read(2, out), "a.bin", "token 2 is 2147483648, past int32");
}

std::string ends_of(const std::vector<std::uint64_t>& ends) {
  std::string bytes;
  for (const std::uint64_t end : ends) put(bytes, end);
  return bytes;
}

TEST(Datatrove, RefusesWhatDoesNotFit) {
  const auto error = [](const std::string& index, std::int64_t ids_bytes, const std::string& metadata = "") {
    return error_message([&] { DatatroveIndex(bytes_of(index), metadata, ids_bytes, "a.ds.index"); });
  };
  const auto expect = [](const std::string& message, const std::string& part) {
    EXPECT_TRUE(contains(message, "a.ds.index: ") && contains(message, part)) << message;
  };
  expect(error("1234567", 4), "7 bytes are not whole");
  expect(error(ends_of({3, 2}), 4), "document 1 ends at 2, before it begins at 3");
  expect(error(ends_of({5}), 4), "document 0 ends at id 5, past the 4 bytes");
  expect(error(ends_of({std::numeric_limits<std::uint64_t>::max()}), 4), "past the 4 bytes");
  expect(error(ends_of({2, 3}), 8), "neither 2 nor 4");
  expect(error(ends_of({}), 2), "neither 2 nor 4");
  expect(error(ends_of({0, 0}), 2), "neither 2 nor 4");
  expect(error(ends_of({2}), 4, "gpt2|4\n2\n"), "ids of 2 bytes by the index, of 4 by the metadata");
  const std::string two = ends_of({2});
  EXPECT_EQ(DatatroveIndex(bytes_of(two), "a|b|2\n2\n2 T", 4, "x").tokenizer(), "a|b");
  EXPECT_EQ(DatatroveIndex(bytes_of(two), "anything", 8, "x").type(), TokenType::u32);
  EXPECT_EQ(DatatroveIndex(bytes_of(two), "x|99999999999999999999", 4, "x").tokenizer(), "");
}

TEST(Datatrove, EdgeSizes) {
  const TemporaryDirectory dir;
  write_file(dir / "a.ds", "");
  EXPECT_ERROR(open_token_dataset(dir / "a.ds"), "a.ds.index", "No such file");
  write_file(dir / "a.ds.index", "");
  EXPECT_EQ(read_documents(dir / "a.ds"), Documents{});
  write_file(dir / "a.ds.index", ends_of({0, 0}));
  EXPECT_EQ(read_documents(dir / "a.ds"), (Documents{{}, {}}));
  write_file(dir / "a.ds", std::string("\xFF\xFF", 2));
  write_file(dir / "a.ds.index", ends_of({0, 1, 1}));
  EXPECT_EQ(read_documents(dir / "a.ds"), (Documents{{}, {65535}, {}}));
  write_file(dir / "a.ds.metadata", std::string(1 << 20, 'x'));
  EXPECT_ERROR(open_token_dataset(dir / "a.ds"), "a.ds.metadata", "1048576 bytes");
}

std::string llmc_file(std::int32_t magic, std::int32_t version, std::int32_t count, const std::string& ids,
                      const std::vector<std::int32_t>& ours = {}) {
  std::string bytes(llmc_header_bytes, '\0');
  const std::array head = {magic, version, count};
  std::memcpy(bytes.data(), head.data(), sizeof head);
  std::memcpy(bytes.data() + 32, ours.data(), ours.size() * 4);
  return bytes + ids;
}

template <class T>
std::string ids_of(const std::vector<T>& ids) {
  std::string bytes;
  for (const T id : ids) put(bytes, id);
  return bytes;
}

TEST(Llmc, DocumentsBeginWithTheEndOfTextToken) {
  const TemporaryDirectory dir;
  write_file(dir / "a.bin", llmc_file(20240520, 1, 6, ids_of<std::uint16_t>({50256, 1, 2, 50256, 50256, 3})));
  EXPECT_EQ(read_documents(dir / "a.bin"), (Documents{{50256, 1, 2}, {50256}, {50256, 3}}));
  EXPECT_EQ(open_token_dataset(dir / "a.bin")->info().eos_id, 50256);
  write_file(dir / "a.bin", llmc_file(20240801, 7, 4, ids_of<std::uint32_t>({5, 128000, 70000, 6})));
  EXPECT_EQ(read_documents(dir / "a.bin"), (Documents{{5}, {128000, 70000, 6}}));
  write_file(dir / "a.bin", llmc_file(20240520, 1, 2, ids_of<std::uint16_t>({1, 2})));
  EXPECT_EQ(read_documents(dir / "a.bin"), (Documents{{1, 2}}));
  write_file(dir / "a.bin", llmc_file(20240520, 1, 0, ""));
  EXPECT_EQ(read_documents(dir / "a.bin"), Documents{});
}

TEST(Llmc, RefusesWhatDoesNotFit) {
  const auto expect = [](const std::string& file, const std::string& part) {
    const std::string message = error_message([&] { LlmcTokens(bytes_of(file), "a.bin"); });
    EXPECT_TRUE(contains(message, "a.bin: ") && contains(message, part)) << message;
  };
  const std::string one = ids_of<std::uint16_t>({1});
  expect(llmc_file(20240520, 1, 1, one).substr(0, 1000), "truncated: 1000 bytes");
  expect(llmc_file(20240520, 2, 1, one), "not an llm.c token file");
  expect(llmc_file(20240520, 1, 2, one), "says 2 ids of 2 bytes, but 2 bytes follow");
  expect(llmc_file(20240520, 1, -1, one), "says -1 ids");
  expect(llmc_file(20240520, 1, std::numeric_limits<std::int32_t>::max(), one), "says 2147483647 ids");
  expect(llmc_file(20240801, 7, 1, one), "of 4 bytes, but 2 bytes follow");
  expect(llmc_file(20240520, 1, 1, one, {llmc_tag, 320, 320}), "eos_id 320 and vocab_size 320");
  expect(llmc_file(20240520, 1, 1, one, {llmc_tag, -1, 320}), "eos_id -1");
  expect(llmc_file(20240520, 1, 1, one, {llmc_tag, 0, -1}), "vocab_size -1");
}

TEST(OpenTokenDataset, SaysWhatAnUnknownFileIsNot) {
  const TemporaryDirectory dir;
  write_file(dir / "a.txt", "hello");
  EXPECT_ERROR(open_token_dataset(dir / "a.txt"), "a.txt", "not a token dataset: neither HDF5, Megatron");
  EXPECT_ERROR(open_token_dataset(dir / "none"), "none", "No such file");
  EXPECT_ERROR(open_token_dataset(dir.path()), dir.path(), "not a regular file");
  write_file(dir / "a.idx", "not an index");  // says nothing of a .bin that is raw
  write_file(dir / "a.bin", std::string("\1\0\0\0", 4));
  EXPECT_EQ(open_token_dataset(dir / "a.bin")->format(), TokenFormat::raw);
}

/// Every prefix and every flipped byte of a foreign file: an Error that names it, or a file that reads.
template <class Write>
void damage(const std::string& bytes, std::size_t stride, Write&& read_with) {
  const auto attempt = [&](const std::string& damaged) {
    try {
      const auto data = read_with(damaged);
      check_ids(*data);
      read_documents(*data);
    } catch (const Error& error) {
      EXPECT_TRUE(contains(error.what(), "damaged")) << error.what();
    }
  };
  for (std::size_t size = 0; size < bytes.size(); size += stride) attempt(bytes.substr(0, size));
  for (std::size_t at = 0; at < bytes.size(); at += stride) {
    for (const char mask : {'\x01', '\x80', '\xFF'}) {
      std::string damaged = bytes;
      damaged[at] = static_cast<char>(damaged[at] ^ mask);
      attempt(damaged);
    }
  }
}

TEST(Damage, NeverCrashes) {
  const TemporaryDirectory dir;
  const auto through = [&](const std::string& name, const std::string& open) {
    return [&dir, name, open](const std::string& bytes) {
      write_file(dir / name, bytes);
      return open_token_dataset(dir / open);
    };
  };
  std::filesystem::copy("golden/megatron_i32.bin", dir / "damaged.bin");
  damage(read_file("golden/megatron_i32.idx"), 1, through("damaged.idx", "damaged.idx"));
  std::filesystem::copy("golden/datatrove_u16.ds", dir / "damaged.ds");
  std::filesystem::copy("golden/datatrove_u16.ds.metadata", dir / "damaged.ds.metadata");
  damage(read_file("golden/datatrove_u16.ds.index"), 1, through("damaged.ds.index", "damaged.ds"));
  std::filesystem::remove(dir / "damaged.idx");
  damage(llmc_file(20240520, 1, 3, ids_of<std::uint16_t>({1, 256, 2}), {llmc_tag, 256, 320}), 7,
         through("damaged.bin", "damaged.bin"));
}

// ---- our writers ----

void write_documents(const std::string& path, const Documents& documents, const TokenFileInfo& info,
                     TokenFormat format) {
  TokenWriter writer(path, info, format);
  for (const auto& document : documents) writer.append_document(document);
  writer.finish();
  writer.commit();
}

TEST(TokenWriter, EveryFormatOnBothSidesOfTheBorder) {
  constexpr std::array formats = {TokenFormat::hdf5, TokenFormat::megatron, TokenFormat::datatrove,
                                  TokenFormat::llmc};
  for (const TokenFormat format : formats) {
    for (const std::int64_t vocab : {2, 65536, 65537, 100000}) {
      const TemporaryDirectory dir;
      const auto top = static_cast<std::int32_t>(vocab - 1);
      const TokenFileInfo info{"some", "0123456789abcdef", vocab, 1, "command"};
      const Documents documents = {{1}, {0, top, 1}, {0, 1}};
      const std::string path = dir / "a.out";
      write_documents(path, documents, info, format);
      const auto outputs = token_output_files(path, format);
      EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}),
                static_cast<std::ptrdiff_t>(outputs.size()));  // nothing temporary is left
      if (format == TokenFormat::datatrove || format == TokenFormat::megatron) {
        std::filesystem::permissions(outputs[0], std::filesystem::perms::owner_read);
      }
      const auto data = open_token_dataset(format == TokenFormat::megatron ? outputs[1] : path);
      EXPECT_EQ(data->format(), format);
      if (format != TokenFormat::llmc || vocab > 2) {  // with two ids every second token ends a document
        EXPECT_EQ(read_documents(*data), documents) << token_format_name(format) << " " << vocab;
      }
      const bool wide = vocab > 65536;
      EXPECT_EQ(token_type_size(data->type()), wide ? 4 : 2);
      const bool says = format == TokenFormat::hdf5 || format == TokenFormat::llmc;
      EXPECT_EQ(data->info().vocab_size, says ? vocab : 0);
      EXPECT_EQ(data->info().eos_id, says ? 1 : -1);
    }
  }
}

TEST(TokenWriter, ThePlaceOfTheIdsInAnHdf5FileIsTheExpectedOne) {
  const TemporaryDirectory dir;
  TokenWriter writer(dir / "a.h5", {"byte", "", 320, 256, ""});
  writer.append_document(std::array{1, 2});
  writer.finish();
  EXPECT_EQ(read_file(dir / "a.h5.partial").substr(1, 3), "HDF");  // else the ids were copied to another file
}

TEST(TokenWriter, GoesOnWhereAnotherWasKilled) {
  const TokenFileInfo info{"byte", "h", 320, 256, "command"};
  const Documents documents = {{1, 2, 256}, {3, 256}, {4, 5, 6, 256}};
  for (const TokenFormat format :
       {TokenFormat::hdf5, TokenFormat::megatron, TokenFormat::datatrove, TokenFormat::llmc}) {
    const TemporaryDirectory dir;
    write_documents(dir / "whole", documents, info, format);
    TokenWriterState state;
    {
      TokenWriter writer(dir / "a", info, format);
      writer.append_document(documents[0]);
      state = writer.sync();
      writer.append_document(std::vector<std::int32_t>(5000, 7));  // after the state: to be forgotten
      writer.finish();
      writer.keep();
    }
    {
      TokenWriter writer(dir / "a", info, format, state);
      EXPECT_EQ(writer.num_documents(), 1);
      for (std::size_t d = 1; d < documents.size(); ++d) writer.append_document(documents[d]);
      writer.finish();
      writer.commit();
    }
    const auto outputs = token_output_files(dir / "a", format),
               whole = token_output_files(dir / "whole", format);
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      EXPECT_TRUE(read_file(outputs[i]) == read_file(whole[i])) << outputs[i];
    }
    EXPECT_ERROR(TokenWriter(dir / "a", info, format, state), "a", "expected at least");
  }
}

TEST(TokenWriter, OneProcessAtATime) {
  const TemporaryDirectory dir;
  const TokenFileInfo info{"byte", "h", 320, 256, "command"};
  TokenWriter writer(dir / "a.h5", info);
  EXPECT_ERROR(TokenWriter(dir / "a.h5", info), "a.h5", "another process is writing it");
  writer.append_document(std::array{1});
  writer.finish();
  writer.commit();
  EXPECT_EQ(read_documents(dir / "a.h5"), Documents{{1}});
}

}  // namespace
}  // namespace hysparse
