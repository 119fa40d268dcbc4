#include "launch/prepare.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "core/random.h"
#include "data/documents.h"
#include "data/token_file.h"
#include "data/tokenizer.h"
#include "tests/data/temporary_directory.h"

namespace hysparse {
namespace {

using Texts = std::vector<std::string>;

/// The documents of a token file as text; checks that each ends with eos.
Texts documents_of(const std::string& path) {
  const TokenFile file(path);
  const auto tokenizer = make_tokenizer("byte");
  Texts texts;
  for (std::int64_t d = 0; d < file.num_documents(); ++d) {
    std::vector<std::int32_t> ids(static_cast<std::size_t>(file.document_end(d) - file.document_begin(d)));
    file.read(file.document_begin(d), ids);
    EXPECT_EQ(ids.back(), tokenizer->eos_id());
    ids.pop_back();
    texts.push_back(tokenizer->decode(ids));
  }
  return texts;
}

PrepareConfig config_for(const TemporaryDirectory& dir, Texts inputs) {
  PrepareConfig config;
  config.inputs = std::move(inputs);
  config.output = dir / "out.h5";
  config.command = "hysparse prepare";
  return config;
}

Texts prepare_one(const TemporaryDirectory& dir, const std::string& name, const std::string& bytes) {
  write_file(dir / name, bytes);
  prepare(config_for(dir, {dir / name}));
  return documents_of(dir / "out.h5");
}

TEST(Prepare, ATextFileIsOneDocumentByteForByte) {
  const TemporaryDirectory dir;
  const std::string text = "line 1\r\nline 2\n\xFF\xC3\xA9 <|endoftext|>\n";
  EXPECT_EQ(prepare_one(dir, "a.txt", text), Texts{text});
  EXPECT_EQ(prepare_one(dir, "no_extension", "x"), Texts{"x"});
  const TokenFile file(dir / "out.h5");
  EXPECT_EQ(file.info().tokenizer, "byte");
  EXPECT_EQ(file.info().vocab_size, 320);
  EXPECT_EQ(file.info().command, "hysparse prepare");
}

TEST(Prepare, AJsonlFileIsOneDocumentALine) {
  const TemporaryDirectory dir;
  EXPECT_EQ(
      prepare_one(dir, "a.jsonl",
                  "{\"id\": 1, \"text\": \"one\\ntwo \\\"q\\\" \\\\ \\/ \\t\"}\r\n"
                  "\r\n"
                  "  {\"text\": \"h\\u00e9 \\ud83d\\ude00 \xC3\xA9 \\u0000!\", \"n\": {\"text\": \"no\"}}\n"
                  "\n"
                  "{\"text\": \"\"}\n"
                  "{\"text\": \"last, without a newline\"}"),
      (Texts{"one\ntwo \"q\" \\ / \t", std::string("h\xC3\xA9 \xF0\x9F\x98\x80 \xC3\xA9 \0!", 14),
             "last, without a newline"}));
}

TEST(Prepare, TextKey) {
  const TemporaryDirectory dir;
  write_file(dir / "a.jsonl", "{\"text\": \"no\", \"content\": \"yes\"}\n");
  PrepareConfig config = config_for(dir, {dir / "a.jsonl"});
  config.text_key = "content";
  prepare(config);
  EXPECT_EQ(documents_of(config.output), Texts{"yes"});
}

TEST(Prepare, BadLinesNameFileAndLine) {
  const TemporaryDirectory dir;
  const std::string good = "{\"text\": \"fine\"}\n";
  write_file(dir / "out.h5", "old");
  const auto expect = [&](const std::string& line, const std::string& part) {
    write_file(dir / "a.jsonl", good + "\n" + line + "\n" + "{bad too\n");
    EXPECT_ERROR(prepare(config_for(dir, {dir / "a.jsonl"})), "a.jsonl:3: ", part);
    EXPECT_EQ(read_file(dir / "out.h5"), "old");
  };
  expect("{\"text\": \"cut", "bad JSON");
  expect("not json", "bad JSON");
  expect("{\"text\": \"\xFF\"}", "bad JSON");
  expect("{\"text\": \"\\ud83d\"}", "bad JSON");
  expect("{\"text\": \"a\"} {\"text\": \"b\"}", "bad JSON");
  expect("{\"text\": \"a\", \"n\": 1e999}", "bad JSON");
  expect("[\"text\"]", "expected a JSON object, found array");
  expect("{\"txt\": \"a\"}", "no key \"text\"");
  expect("{\"text\": 3}", "\"text\" is number, expected a string");
  expect("{\"text\": null}", "\"text\" is null, expected a string");
  expect(std::string(100000, '['), "bad JSON");
}

TEST(Prepare, DirectoriesAreSortedAndTheOrderOfInputsDoesNotMatter) {
  const TemporaryDirectory dir;
  write_file(dir / "in/b/z.rst", "bz");
  write_file(dir / "in/a.txt", "a");
  write_file(dir / "in/b/y.txt", "by");
  write_file(dir / "in/b/.hidden", "hidden");
  write_file(dir / "in/.git/config", "hidden");
  write_file(dir / "in/c.jsonl", "{\"text\": \"c1\"}\n{\"text\": \"c2\"}\n");
  write_file(dir / "in/d.txt", "");
  write_file(dir / "in/e.png", std::string("\x89PNG\0\0", 6));
  write_file(dir / "more.txt", "more");
  const Texts expected = {"a", "by", "bz", "c1", "c2", "more"};
  const PrepareReport report = prepare(config_for(dir, {dir / "more.txt", dir / "in"}));
  EXPECT_EQ(documents_of(dir / "out.h5"), expected);
  prepare(config_for(dir, {dir / "in/b/../", dir / "in/a.txt", dir / "more.txt", dir / "in/"}));
  EXPECT_EQ(documents_of(dir / "out.h5"), expected);

  EXPECT_EQ(report.files, 7);
  EXPECT_EQ(report.train.documents, 6);
  EXPECT_EQ(report.train.bytes, 13);
  EXPECT_EQ(report.train.tokens, 19);
  EXPECT_EQ(report.empty_documents, 1);
  EXPECT_EQ(report.not_text, 1);
  EXPECT_EQ(report.first_not_text, dir / "in/e.png");
  EXPECT_FALSE(report.valid.has_value());
  EXPECT_TRUE(contains(report.str(), "6 documents, 13 bytes, 19 tokens, 0.684 bytes per token"))
      << report.str();
}

TEST(Prepare, WorkersDoNotChangeTheResult) {
  const TemporaryDirectory dir;
  const CounterRandom random(4, "workers");
  std::string lines;
  for (std::uint64_t d = 0; d < 3000; ++d) {  // 12 MB: several batches of work
    const std::string text(static_cast<std::size_t>(random.below(d, 8000)), static_cast<char>('a' + d % 26));
    lines += "{\"text\": \"" + text + "\"}\n";
  }
  write_file(dir / "a.jsonl", lines);
  PrepareConfig config = config_for(dir, {dir / "a.jsonl"});
  config.valid_output = dir / "valid.h5";
  prepare(config);
  const std::string one = read_file(config.output), one_valid = read_file(*config.valid_output);
  config.workers = 4;
  std::this_thread::sleep_for(
      std::chrono::milliseconds(1100));  // a time of one second's resolution in the file would show
  prepare(config);
  EXPECT_TRUE(read_file(config.output) == one);  // bitwise
  EXPECT_TRUE(read_file(*config.valid_output) == one_valid);
}

TEST(Prepare, TheSplitIsDisjointAndComplete) {
  const TemporaryDirectory dir;
  Texts all;
  for (int d = 0; d < 1000; ++d) {
    all.push_back(fmt::format("document {:04}", d));
    write_file(dir / fmt::format("in/{:04}.txt", d), all.back());
  }
  PrepareConfig config = config_for(dir, {dir / "in"});
  config.valid_output = dir / "valid.h5";
  const PrepareReport report = prepare(config);
  const Texts train = documents_of(config.output), valid = documents_of(*config.valid_output);
  EXPECT_TRUE(std::is_sorted(train.begin(), train.end()));
  EXPECT_TRUE(std::is_sorted(valid.begin(), valid.end()));
  Texts both = train;
  both.insert(both.end(), valid.begin(), valid.end());
  std::sort(both.begin(), both.end());
  EXPECT_EQ(both, all);
  // 1000 draws of chance 0.05: 50 with a standard deviation of 6.9; five of them allowed.
  EXPECT_NEAR(static_cast<double>(valid.size()), 50.0, 35.0);
  ASSERT_TRUE(report.valid.has_value());
  EXPECT_EQ(report.valid->documents, static_cast<std::int64_t>(valid.size()));
  EXPECT_EQ(report.train.documents + report.valid->documents, 1000);

  prepare(config);
  EXPECT_EQ(documents_of(*config.valid_output), valid);
}

TEST(Prepare, NoTextIsAnErrorAndNothingIsWritten) {
  const TemporaryDirectory dir;
  write_file(dir / "in/empty.txt", "");
  EXPECT_ERROR(prepare(config_for(dir, {dir / "in"})), "no text in 1 files", dir / "in");
  write_file(dir / "blank.jsonl", "\n \n");
  EXPECT_ERROR(prepare(config_for(dir, {dir / "blank.jsonl"})), "no text", "blank.jsonl");
  std::filesystem::create_directory(dir / "nothing");
  EXPECT_ERROR(prepare(config_for(dir, {dir / "nothing"})), "no text in 0 files", "nothing");
  write_file(dir / "one.txt", "one");
  PrepareConfig config = config_for(dir, {dir / "one.txt"});
  config.valid_output = dir / "valid.h5";
  EXPECT_ERROR(prepare(config), "would be empty", "of 1 documents");
  EXPECT_FALSE(std::filesystem::exists(dir / "out.h5"));
  EXPECT_FALSE(std::filesystem::exists(dir / "valid.h5"));
}

TEST(Prepare, RefusesBadOptions) {
  const TemporaryDirectory dir;
  write_file(dir / "a.txt", "text");
  const PrepareConfig good = config_for(dir, {dir / "a.txt"});
  const auto with = [&](auto&& change) {
    PrepareConfig config = good;
    change(config);
    return error_message([&] { prepare(config); });
  };
  EXPECT_TRUE(
      contains(with([&](PrepareConfig& c) { c.inputs = {dir / "missing.txt"}; }), "missing.txt: No such file"));
  EXPECT_TRUE(
      contains(with([&](PrepareConfig& c) { c.inputs = {"/dev/null"}; }), "neither a file nor a directory"));
  EXPECT_TRUE(contains(with([](PrepareConfig& c) { c.inputs.clear(); }), "--input"));
  EXPECT_TRUE(contains(with([](PrepareConfig& c) { c.tokenizer = "x/tokenizer.json"; }), "available: byte"));
  EXPECT_TRUE(contains(with([](PrepareConfig& c) { c.workers = 0; }), "--workers: 0"));
  EXPECT_TRUE(contains(with([](PrepareConfig& c) { c.valid_fraction = 1.0; }), "--valid-fraction: 1"));
  EXPECT_TRUE(
      contains(with([&](PrepareConfig& c) { c.output = dir / "no/out.h5"; }), "no/out.h5: cannot write in"));
  EXPECT_TRUE(contains(with([&](PrepareConfig& c) { c.output = dir / "a.txt"; }), "is an output and an input"));
  EXPECT_TRUE(contains(with([&](PrepareConfig& c) { c.valid_output = dir / "./out.h5"; }), "is also --output"));
  EXPECT_EQ(read_file(dir / "a.txt"), "text");
}

TEST(Prepare, BrokenLinksAndLoopsAreLeftOut) {
  const TemporaryDirectory dir;
  write_file(dir / "in/a.txt", "a");
  std::filesystem::create_symlink(dir / "gone.txt", dir / "in/broken.txt");  // left out: stands for no file
  std::filesystem::create_directory_symlink(dir / "in", dir / "in/loop");    // not followed
  prepare(config_for(dir, {dir / "in"}));
  EXPECT_EQ(documents_of(dir / "out.h5"), Texts{"a"});
  DocumentReader reader({dir / "gone.txt"});
  DocumentChunk chunk;
  EXPECT_ERROR(reader.next(chunk), "gone.txt", "No such file");
  DocumentReader lines({dir / "gone.jsonl"});
  EXPECT_ERROR(lines.next(chunk), "gone.jsonl", "No such file");
}

}  // namespace
}  // namespace hysparse
