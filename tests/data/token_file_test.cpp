#include "data/token_file.h"

#include <array>
#include <cstring>
#include <numeric>

#include "core/hdf5.h"
#include "core/random.h"
#include "data/formats/raw_tokens.h"
#include "data/token_writer.h"
#include "tests/data/temporary_directory.h"

namespace hysparse {
namespace {

const TokenFileInfo byte_info{"byte", "0123456789abcdef", 320, 256, "hysparse prepare --input x"};

using Documents = std::vector<std::vector<std::int32_t>>;

void write_documents(const std::string& path, const Documents& documents,
                     const TokenFileInfo& info = byte_info) {
  TokenWriter writer(path, info);
  for (const auto& document : documents) writer.append_document(document);
  writer.finish();
  writer.commit();
}

std::vector<std::int32_t> read_all(const TokenStream& tokens) {
  std::vector<std::int32_t> all(static_cast<std::size_t>(tokens.num_tokens()));
  tokens.read(0, all);
  return all;
}

/// A token file as somebody else might write it.
struct Foreign {
  std::vector<std::uint16_t> tokens = {1, 2, 256, 3, 256};
  std::vector<std::uint64_t> doc_ends = {3, 5};
  std::int64_t vocab_size = 320;
  std::int64_t eos_id = 256;

  void write(const std::string& path) const {
    Hdf5File file = Hdf5File::create(path);
    const auto num_tokens = static_cast<std::int64_t>(tokens.size());
    const auto num_documents = static_cast<std::int64_t>(doc_ends.size());
    file.write("tokens", Hdf5Type::u16, std::span(&num_tokens, 1), tokens.data());
    file.write("doc_ends", Hdf5Type::u64, std::span(&num_documents, 1), doc_ends.data());
    file.set_attribute("", "tokenizer", "byte");
    file.set_attribute("", "tokenizer_hash", "0");
    file.set_attribute("", "vocab_size", vocab_size);
    file.set_attribute("", "eos_id", eos_id);
    file.set_attribute("", "command", "by hand");
    file.close_and_sync();
  }
};

TEST(TokenFile, RoundTrip) {
  const TemporaryDirectory dir;
  write_documents(dir / "a.h5", {{1, 2, 256}, {256}, {0, 319, 255, 256}});
  const TokenFile file(dir / "a.h5");
  EXPECT_EQ(file.num_tokens(), 8);
  EXPECT_EQ(file.num_documents(), 3);
  EXPECT_EQ(read_all(file), (std::vector<std::int32_t>{1, 2, 256, 256, 0, 319, 255, 256}));
  EXPECT_EQ(file.document_begin(0), 0);
  EXPECT_EQ(file.document_end(1), 4);
  EXPECT_EQ(file.document_begin(2), 4);
  EXPECT_EQ(file.info().tokenizer, "byte");
  EXPECT_EQ(file.info().tokenizer_hash, "0123456789abcdef");
  EXPECT_EQ(file.info().vocab_size, 320);
  EXPECT_EQ(file.info().eos_id, 256);
  EXPECT_EQ(file.info().command, "hysparse prepare --input x");
  EXPECT_EQ(check_ids(file), 319);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}),
            1);  // nothing temporary is left
}

TEST(TokenFile, WideIdsAndManyBuffers) {
  const TemporaryDirectory dir;
  const CounterRandom random(3, "wide");
  TokenFileInfo info = byte_info;
  info.vocab_size = 100000;
  Documents documents(5);
  std::vector<std::int32_t> all;
  for (std::size_t d = 0; d < documents.size(); ++d) {  // 2.4 MB: more than the writer's buffer
    for (std::uint64_t i = 0; i < 120000; ++i) {
      documents[d].push_back(static_cast<std::int32_t>(random.below(d * 120000 + i, 100000)));
    }
    all.insert(all.end(), documents[d].begin(), documents[d].end());
  }
  write_documents(dir / "wide.h5", documents, info);
  const TokenFile file(dir / "wide.h5");
  EXPECT_EQ(read_all(file), all);
  EXPECT_EQ(Hdf5File::open(dir / "wide.h5").info("tokens").type, Hdf5Type::u32);
  std::vector<std::int32_t> part(7);
  file.read(123456, part);
  EXPECT_TRUE(std::equal(part.begin(), part.end(), all.begin() + 123456));
}

TEST(TokenWriter, AnOutputAppearsWholeOrNotAtAll) {
  const TemporaryDirectory dir;
  write_file(dir / "a.h5", "old");
  {
    TokenWriter writer(dir / "a.h5", byte_info);
    writer.append_document(std::array{1, 2});
    writer.finish();
    EXPECT_EQ(read_file(dir / "a.h5"), "old");
  }
  EXPECT_EQ(read_file(dir / "a.h5"), "old");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 1);
  write_documents(dir / "a.h5", {{1, 2}});
  EXPECT_EQ(TokenFile(dir / "a.h5").num_tokens(), 2);
}

TEST(TokenWriter, RefusesOutputsItCannotWrite) {
  const TemporaryDirectory dir;
  EXPECT_ERROR(TokenWriter(dir / "no/such/a.h5", byte_info), "no/such/a.h5", "No such file or directory");
  EXPECT_ERROR(TokenWriter(dir.path(), byte_info), dir.path(), "is a directory");
  write_file(dir / "file", "x");
  EXPECT_ERROR(TokenWriter(dir / "file/a.h5", byte_info), "file/a.h5", "Not a directory");
}

TEST(TokenFile, RefusesWhatIsNoTokenFile) {
  const TemporaryDirectory dir;
  EXPECT_ERROR(TokenFile(dir / "missing.h5"), "missing.h5", "No such file");
  write_file(dir / "text.h5", "hello, this is text");
  EXPECT_ERROR(TokenFile(dir / "text.h5"), "text.h5", "not an HDF5 file");
  Hdf5File other = Hdf5File::create(dir / "other.h5");
  other.write("weights", Tensor::zeros({3}, DType::f32));
  other.close_and_sync();
  EXPECT_ERROR(TokenFile(dir / "other.h5"), "other.h5", "no dataset tokens");
}

TEST(TokenFile, RefusesWrongElementTypesAndShapes) {
  const TemporaryDirectory dir;
  const std::array<std::int64_t, 1> two = {2};
  const std::array<std::int64_t, 2> two_dims = {2, 1};
  const std::array<std::uint64_t, 2> ends = {1, 2};
  const auto make = [&](const std::string& name, Hdf5Type tokens, std::span<const std::int64_t> dims,
                        Hdf5Type doc_ends) {
    Hdf5File file = Hdf5File::create(dir / name);
    file.write("tokens", tokens, dims, ends.data());
    file.write("doc_ends", doc_ends, two, ends.data());
    file.close_and_sync();
  };
  make("a.h5", Hdf5Type::i32, two, Hdf5Type::u64);
  EXPECT_ERROR(TokenFile(dir / "a.h5"), "a.h5", "tokens holds i32, expected u16 or u32");
  make("b.h5", Hdf5Type::u16, two, Hdf5Type::i64);
  EXPECT_ERROR(TokenFile(dir / "b.h5"), "b.h5", "doc_ends holds i64, expected u64");
  make("c.h5", Hdf5Type::u16, two_dims, Hdf5Type::u64);
  EXPECT_ERROR(TokenFile(dir / "c.h5"), "c.h5", "tokens has 2 dims, expected 1");
  make("d.h5", Hdf5Type::u16, two, Hdf5Type::u64);
  EXPECT_ERROR(TokenFile(dir / "d.h5"), "d.h5", "has no attribute tokenizer");
}

TEST(TokenFile, RefusesWrongContents) {
  const TemporaryDirectory dir;
  const std::string path = dir / "a.h5";
  Foreign{}.write(path);
  EXPECT_EQ(TokenFile(path).num_documents(), 2);
  Foreign{.doc_ends = {3, 3}}.write(path);
  EXPECT_ERROR(TokenFile(path), "a.h5", "doc_ends[1] is 3 after 3: not increasing");
  Foreign{.doc_ends = {0, 5}}.write(path);
  EXPECT_ERROR(TokenFile(path), "a.h5", "doc_ends[0] is 0 after 0");
  Foreign{.doc_ends = {3, 6}}.write(path);
  EXPECT_ERROR(TokenFile(path), "a.h5", "doc_ends[1] is 6, past the 5 tokens");
  Foreign{.doc_ends = {UINT64_MAX}}.write(path);
  EXPECT_ERROR(TokenFile(path), "a.h5", "past the 5 tokens");
  Foreign{.doc_ends = {3, 4}}.write(path);
  EXPECT_ERROR(TokenFile(path), "a.h5", "last document ends at 4, but there are 5 tokens");
  Foreign{.vocab_size = 0}.write(path);
  EXPECT_ERROR(TokenFile(path), "a.h5", "vocab_size is 0");
  Foreign{.vocab_size = INT64_MAX}.write(path);
  EXPECT_ERROR(TokenFile(path), "a.h5", "vocab_size is 9223372036854775807");
  Foreign{.eos_id = 320}.write(path);
  EXPECT_ERROR(TokenFile(path), "a.h5", "eos_id is 320, allowed 0..319");
  Foreign{.tokens = {}, .doc_ends = {}}.write(path);
  EXPECT_ERROR(TokenFile(path), "a.h5", "has no tokens");
}

TEST(TokenFile, IdsOutsideTheVocabularyAreFoundWhenRead) {
  const TemporaryDirectory dir;
  Foreign{.tokens = {1, 2, 300, 3, 256}, .vocab_size = 257}.write(dir / "a.h5");
  const TokenFile file(dir / "a.h5");
  std::array<std::int32_t, 2> part{};
  file.read(0, part);
  EXPECT_ERROR(file.read(1, part), "a.h5", "token 2 is 300, but vocab_size is 257");
  EXPECT_ERROR(check_ids(file), "a.h5", "token 2 is 300");
}

TEST(TokenFile, TruncationAnywhereIsAnError) {
  const TemporaryDirectory dir;
  write_documents(dir / "a.h5", {{1, 2, 256}, {3, 4, 5, 256}});
  const std::string bytes = read_file(dir / "a.h5");
  for (std::size_t size = 0; size < bytes.size(); size += 7) {
    write_file(dir / "cut.h5", bytes.substr(0, size));
    EXPECT_ERROR(TokenFile(dir / "cut.h5"), "cut.h5", "HDF5 file");
  }
}

TEST(TokenFile, FlippedBytesNeverCrash) {
  const TemporaryDirectory dir;
  write_documents(dir / "a.h5", {{1, 2, 256}, {3, 4, 5, 256}});
  const std::string bytes = read_file(dir / "a.h5");
  int errors = 0;
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    std::string damaged = bytes;
    damaged[at] = static_cast<char>(damaged[at] ^ (at % 2 == 0 ? '\x01' : '\xFF'));
    write_file(dir / "damaged.h5", damaged);
    try {
      const TokenFile file(dir / "damaged.h5");
      check_ids(file);
      EXPECT_EQ(file.num_tokens(), 7);
    } catch (const Error& error) {
      EXPECT_TRUE(contains(error.what(), "damaged.h5")) << error.what();
      ++errors;
    }
  }
  EXPECT_GT(errors, 200);  // the structure has checksums; the tokens have only their vocabulary
}

TEST(RawTokenFile, ReadsInt32) {
  const TemporaryDirectory dir;
  const std::array<std::int32_t, 4> ids = {5, 0, 70000, 2};
  write_file(dir / "tokens.bin", std::string(reinterpret_cast<const char*>(ids.data()), sizeof ids));
  const auto tokens = open_token_dataset(dir / "tokens.bin");
  EXPECT_EQ(tokens->num_tokens(), 4);
  EXPECT_EQ(read_all(*tokens), (std::vector<std::int32_t>{5, 0, 70000, 2}));
  EXPECT_EQ(check_ids(*tokens), 70000);
}

TEST(RawTokenFile, RefusesBadFiles) {
  const TemporaryDirectory dir;
  EXPECT_ERROR(RawTokenFile(dir / "missing.bin"), "missing.bin", "No such file");
  EXPECT_ERROR(RawTokenFile(dir.path()), dir.path(), "not a regular file");
  write_file(dir / "empty.bin", "");
  EXPECT_ERROR(RawTokenFile(dir / "empty.bin"), "empty.bin", "empty file");
  write_file(dir / "odd.bin", "12345");
  EXPECT_ERROR(RawTokenFile(dir / "odd.bin"), "odd.bin", "5 bytes are not whole int32 tokens");
  write_file(dir / "negative.bin", std::string("\1\0\0\0\xFF\xFF\xFF\xFF", 8));
  EXPECT_ERROR(check_ids(RawTokenFile(dir / "negative.bin")), "negative.bin", "token 1 is -1");
}

TEST(OpenTokenDataset, GoesByTheName) {
  const TemporaryDirectory dir;
  write_documents(dir / "a.h5", {{1, 2, 256}});
  EXPECT_EQ(open_token_dataset(dir / "a.h5")->num_tokens(), 3);
  write_file(dir / "b.h5", "12345678");
  EXPECT_ERROR(open_token_dataset(dir / "b.h5"), "b.h5", "not an HDF5 file");
}

}  // namespace
}  // namespace hysparse
