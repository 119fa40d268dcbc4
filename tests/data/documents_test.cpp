#include "data/documents.h"

#include <set>

#include <unistd.h>
#include <zstd.h>

#include "core/random.h"
#include "tests/data/temporary_directory.h"

namespace hysparse {
namespace {

std::string packed(const std::string& bytes) {
  std::string out(ZSTD_compressBound(bytes.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), bytes.data(), bytes.size(), 3));
  return out;
}

std::string unpacked(const std::string& path, std::int64_t piece = 1000) {
  const auto source = open_byte_source(path);
  std::string bytes, part(static_cast<std::size_t>(piece), '\0');
  while (const std::int64_t got = source->read(part.data(), piece)) {
    bytes.append(part, 0, static_cast<std::size_t>(got));
  }
  EXPECT_EQ(source->file_bytes(), static_cast<std::int64_t>(std::filesystem::file_size(path)));
  return bytes;
}

std::string some_text(std::size_t bytes) {
  const CounterRandom random(2, "documents");
  std::string text;
  while (text.size() < bytes) text += static_cast<char>('a' + random.below(text.size(), 26));
  return text;
}

TEST(ByteSource, Zstd) {
  const TemporaryDirectory dir;
  const std::string text = some_text(500000) + std::string(500000, 'x');
  for (const std::string& bytes : {std::string(), std::string("x"), text}) {
    write_file(dir / "a.zst", packed(bytes));
    EXPECT_TRUE(unpacked(dir / "a.zst") == bytes);
    EXPECT_TRUE(unpacked(dir / "a.zst", 1 << 22) == bytes);
    write_file(dir / "two.zst", packed(bytes) + packed("more"));  // frames one after another
    EXPECT_TRUE(unpacked(dir / "two.zst", 77) == bytes + "more");
  }
  const std::string whole = packed(text);
  for (const std::size_t size :
       {std::size_t{0}, std::size_t{1}, std::size_t{5}, whole.size() / 2, whole.size() - 1}) {
    write_file(dir / "cut.zst", whole.substr(0, size));
    EXPECT_ERROR(unpacked(dir / "cut.zst"), "cut.zst", "cut off in the middle");
  }
  write_file(dir / "bad.zst", "this is no zstd");
  EXPECT_ERROR(unpacked(dir / "bad.zst"), "bad.zst", "no valid zstd");
}

/// All lines and files, and the position behind each chunk.
std::pair<std::string, std::vector<ReadPosition>> read_all(const std::vector<std::string>& files,
                                                           DocumentReaderOptions options) {
  DocumentReader reader(files, options);
  DocumentChunk chunk;
  std::pair<std::string, std::vector<ReadPosition>> all;
  while (reader.next(chunk)) {
    EXPECT_EQ(chunk.lines, chunk.ends.empty());
    if (!chunk.lines) {
      EXPECT_EQ(chunk.ends.back(), static_cast<std::int64_t>(chunk.bytes.size()));
    }
    all.first += chunk.bytes;
    all.second.push_back(chunk.next);
  }
  return all;
}

TEST(DocumentReader, ChunksOfAnySizeAndAStartAnywhere) {
  const TemporaryDirectory dir;
  std::string lines;
  for (int i = 0; i < 100; ++i) lines += std::string(static_cast<std::size_t>(i * 7 % 50), 'l') + "\n";
  write_file(dir / "a.jsonl", lines);
  write_file(dir / "b.txt", "text b");
  write_file(dir / "c.txt", "");
  write_file(dir / "d.txt", some_text(300));
  write_file(dir / "e.jsonl.zst", packed(lines + "no newline"));
  write_file(dir / "f.jsonl", "");
  write_file(dir / "g.txt.zst", packed("text g"));
  const std::vector<std::string> files = list_input_files({dir.path()});
  ASSERT_EQ(files.size(), 7u);
  const std::string all = lines + "text b" + some_text(300) + lines + "no newline" + "text g";
  for (const std::int64_t size : {1, 13, 100, 1000, 1 << 20}) {
    DocumentReaderOptions options;
    options.chunk_bytes = size;
    const auto [bytes, positions] = read_all(files, options);
    EXPECT_EQ(bytes, all);
    std::set<std::pair<std::int64_t, std::int64_t>> seen;
    for (const ReadPosition& position : positions) {
      EXPECT_TRUE(seen.emplace(position.file, position.offset).second);
      options.begin = position;
      const std::string rest = read_all(files, options).first;
      EXPECT_TRUE(all.ends_with(rest));
    }
    EXPECT_EQ(positions.back().file, 7);
  }
  DocumentReaderOptions beyond;
  beyond.begin = {0, 1 << 20};
  EXPECT_ERROR(read_all(files, beyond), "a.jsonl", "ends at byte");
}

TEST(DocumentReader, StandardInput) {
  const TemporaryDirectory dir;
  for (const bool as_lines : {true, false}) {
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    const int before = ::dup(STDIN_FILENO);
    ::dup2(ends[0], STDIN_FILENO);
    ASSERT_EQ(::write(ends[1], "one\ntwo\n", 8), 8);
    ::close(ends[1]);
    DocumentReaderOptions options;
    options.stdin_lines = as_lines;
    DocumentReader reader(list_input_files({"-", "-"}), options);
    DocumentChunk chunk;
    EXPECT_TRUE(reader.next(chunk));
    EXPECT_EQ(chunk.bytes, "one\ntwo\n");
    EXPECT_EQ(chunk.lines, as_lines);
    EXPECT_FALSE(reader.next(chunk));
    ::dup2(before, STDIN_FILENO);
    ::close(before);
    ::close(ends[0]);
  }
}

}  // namespace
}  // namespace hysparse
