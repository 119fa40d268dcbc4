// prepare: formats, packed input, bad lines, kills, progress; and data inspect.
#include <csignal>
#include <thread>

#include <nlohmann/json.hpp>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zstd.h>

#include "core/random.h"
#include "data/token_writer.h"
#include "launch/data_inspection.h"
#include "launch/prepare.h"
#include "launch/prepare_progress.h"
#include "launch/prepare_state.h"
#include "tests/data/temporary_directory.h"

namespace hysparse {
namespace {

using Texts = std::vector<std::string>;

Texts documents_of(const std::string& path) {
  const auto data = open_token_dataset(path);
  Texts texts;
  for (std::int64_t d = 0; d < data->num_documents(); ++d) {
    std::vector<std::int32_t> ids(static_cast<std::size_t>(data->document_end(d) - data->document_begin(d)));
    data->read(data->document_begin(d), ids);
    EXPECT_EQ(ids.back(), 256);
    ids.pop_back();
    texts.push_back(make_tokenizer("byte")->decode(ids));
  }
  return texts;
}

PrepareConfig config_for(const TemporaryDirectory& dir, const std::string& input,
                         const std::string& output = "out.h5") {
  PrepareConfig config;
  config.inputs = {input};
  config.output = dir / output;
  config.command = "hysparse prepare";
  return config;
}

std::int64_t files_in(const TemporaryDirectory& dir) {
  return std::distance(std::filesystem::directory_iterator(dir.path()), {});
}

TEST(PrepareFormats, ByNameAndByOption) {
  const TemporaryDirectory dir;
  write_file(dir / "a.jsonl", "{\"text\":\"one\"}\n{\"text\":\"two\"}\n");
  const auto made = [&](const std::string& output, std::optional<TokenFormat> format, const std::string& open) {
    PrepareConfig config = config_for(dir, dir / "a.jsonl", output);
    config.format = format;
    prepare(config);
    EXPECT_EQ(documents_of(dir / open), (Texts{"one", "two"}));
    return open_token_dataset(dir / open)->format();
  };
  EXPECT_EQ(made("a.h5", {}, "a.h5"), TokenFormat::hdf5);
  EXPECT_EQ(made("a", {}, "a"), TokenFormat::hdf5);
  EXPECT_EQ(made("b.idx", {}, "b"), TokenFormat::megatron);
  EXPECT_EQ(made("c", TokenFormat::megatron, "c.bin"), TokenFormat::megatron);
  EXPECT_EQ(made("d.ds", {}, "d.ds"), TokenFormat::datatrove);
  EXPECT_EQ(made("e.bin", {}, "e.bin"), TokenFormat::llmc);
  PrepareConfig config = config_for(dir, dir / "a.jsonl", "b.bin");
  config.format = TokenFormat::megatron;
  config.valid_output = dir / "b.idx";
  EXPECT_ERROR(prepare(config), "--valid-output", "is also --output");
  config.valid_output.reset();
  config.inputs = {dir / "b.idx"};  // the index is a text without NUL bytes to nobody, but it is an output
  EXPECT_ERROR(prepare(config), "b.idx", "is an output and an input");
}

TEST(PrepareInput, ZstdAndItsDamage) {
  const TemporaryDirectory dir;
  const std::string lines = "{\"text\":\"one\"}\n{\"text\":\"two\"}";
  std::string packed(1000, '\0');
  packed.resize(ZSTD_compress(packed.data(), packed.size(), lines.data(), lines.size(), 3));
  write_file(dir / "a.jsonl.zst", packed);
  prepare(config_for(dir, dir / "a.jsonl.zst"));
  EXPECT_EQ(documents_of(dir / "out.h5"), (Texts{"one", "two"}));
  write_file(dir / "a.jsonl.zst", packed.substr(0, packed.size() - 3));
  EXPECT_ERROR(prepare(config_for(dir, dir / "a.jsonl.zst")), "a.jsonl.zst", "cut off");
  EXPECT_EQ(documents_of(dir / "out.h5"), (Texts{"one", "two"}));
  EXPECT_EQ(files_in(dir), 2);
}

TEST(PrepareBadLines, SkippedOnlyWhenAllowed) {
  const TemporaryDirectory dir;
  std::string lines;
  for (int i = 0; i < 100000; ++i) {  // several chunks, so that line numbers are those of the file
    const bool bad = i % 5000 == 1234;
    lines += bad ? "{\"text\": 1}\n" : fmt::format("{{\"text\":\"document number {}\"}}\n", i);
  }
  write_file(dir / "in/a.jsonl", lines);
  write_file(dir / "in/b.jsonl", "{\"text\":\"x\"}\nbad\n");
  PrepareConfig config = config_for(dir, dir / "in");
  config.workers = 2;
  EXPECT_ERROR(prepare(config), "a.jsonl:1235: \"text\" is number", "--skip-bad-lines");
  EXPECT_FALSE(std::filesystem::exists(config.output));
  config.skip_bad_lines = true;
  const PrepareReport report = prepare(config);
  EXPECT_EQ(report.train.documents, 100000 - 20 + 1);
  EXPECT_EQ(report.bad_lines, 21);
  ASSERT_EQ(report.first_bad_lines.size(), PrepareReport::most_bad_lines);
  EXPECT_TRUE(contains(report.first_bad_lines[9], "a.jsonl:46235: ")) << report.first_bad_lines[9];
  EXPECT_TRUE(contains(report.str(), "left out 21 bad lines:\n  ")) << report.str();
  write_file(dir / "in/a.jsonl", "");
  EXPECT_TRUE(contains(prepare(config).str(), "b.jsonl:2: bad JSON"));
}

/// 8 MB in 4 files of every kind.
void write_inputs(const TemporaryDirectory& dir) {
  const CounterRandom random(5, "kills");
  std::string lines;
  for (std::uint64_t d = 0; d < 6000; ++d) {
    lines +=
        fmt::format("{{\"text\":\"{}\"}}\n", std::string(random.below(d, 1000) + (d % 7 == 0 ? 0 : 1), 'a'));
    if (d % 100 == 50) lines += "bad line\n";
  }
  write_file(dir / "in/a.jsonl", lines);
  write_file(dir / "in/b.txt", std::string(100, 'b'));
  std::string packed(ZSTD_compressBound(lines.size()), '\0');
  packed.resize(ZSTD_compress(packed.data(), packed.size(), lines.data(), lines.size(), 1));
  write_file(dir / "in/c.jsonl.zst", packed);
  for (int i = 0; i < 20; ++i) write_file(dir / fmt::format("in/d/{:02}.txt", i), std::string(90000, 'd'));
}

PrepareConfig kill_config(const TemporaryDirectory& dir, const std::string& name, TokenFormat format) {
  PrepareConfig config = config_for(dir, dir / "in", name + "/train.out");
  std::filesystem::create_directories(dir / name);
  config.format = format;
  config.valid_output = dir / (name + "/valid.out");
  config.valid_fraction = 0.3;
  config.skip_bad_lines = true;
  config.workers = 2;
  config.seconds_between_saves = 0;  // after every chunk
  return config;
}

class PrepareKills : public testing::TestWithParam<TokenFormat> {};

TEST_P(PrepareKills, TheNextRunGoesOnToTheSameBytes) {
  const TemporaryDirectory dir;
  write_inputs(dir);
  const PrepareConfig whole = kill_config(dir, "whole", GetParam()),
                      config = kill_config(dir, "killed", GetParam());
  const auto begin = std::chrono::steady_clock::now();
  const PrepareReport expected = prepare(whole);
  const auto usual =
      std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - begin);
  const CounterRandom random(6, "when");
  int kills = 0, resumed = 0;
  for (std::uint64_t round = 0; round < 12; ++round) {
    resumed += std::filesystem::exists(prepare_state_path(config.output));
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      try {
        prepare(config);
        ::_exit(0);
      } catch (...) {
        ::_exit(1);
      }
    }
    const auto wait = static_cast<double>(usual.count()) * random.uniform(round);
    std::this_thread::sleep_for(std::chrono::microseconds(static_cast<std::int64_t>(wait)));
    ::kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status) || (WIFEXITED(status) && WEXITSTATUS(status) == 0));
    kills += WIFSIGNALED(status);
    const std::string last = token_output_files(config.output, GetParam()).back();
    if (std::filesystem::exists(last)) {  // whole or not there
      EXPECT_EQ(open_token_dataset(last)->num_documents(), expected.train.documents);
    }
  }
  EXPECT_GT(kills, 0);
  RecordProperty("kills", kills);
  RecordProperty("resumed", resumed);
  const PrepareReport report = prepare(config);
  EXPECT_EQ(report.bad_lines, expected.bad_lines);
  EXPECT_EQ(report.first_bad_lines, expected.first_bad_lines);
  EXPECT_EQ(report.empty_documents, expected.empty_documents);
  EXPECT_EQ(report.train.bytes, expected.train.bytes);
  EXPECT_EQ(report.valid->tokens, expected.valid->tokens);
  for (const char* name : {"train.out", "valid.out"}) {
    const auto files = token_output_files(dir / "killed/" + name, GetParam());
    const auto same = token_output_files(dir / "whole/" + name, GetParam());
    for (std::size_t i = 0; i < files.size(); ++i)
      EXPECT_TRUE(read_file(files[i]) == read_file(same[i])) << files[i];
  }
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir / "killed"), {}),
            std::distance(std::filesystem::directory_iterator(dir / "whole"), {}));
}

INSTANTIATE_TEST_SUITE_P(Formats, PrepareKills,
                         testing::Values(TokenFormat::hdf5, TokenFormat::megatron, TokenFormat::datatrove,
                                         TokenFormat::llmc),
                         [](const auto& test) { return std::string(token_format_name(test.param)); });

/// Runs until the first state is saved, then dies.
void leave_a_state(const PrepareConfig& config) {
  const pid_t child = ::fork();
  if (child == 0) {
    try {
      prepare(config);
    } catch (...) {
    }
    ::_exit(0);
  }
  while (!std::filesystem::exists(prepare_state_path(config.output))) {
    ASSERT_EQ(::waitpid(child, nullptr, WNOHANG), 0) << "it was done before the kill";
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
}

TEST(PrepareResume, AStateOfOtherInputsOrOptionsIsOfNoUse) {
  const TemporaryDirectory dir;
  write_inputs(dir);
  PrepareConfig config = kill_config(dir, "a", TokenFormat::hdf5);
  const auto expect_right = [&] {
    PrepareConfig fresh = config;
    fresh.output = dir / "fresh.h5";
    fresh.valid_output = dir / "fresh-valid.h5";
    prepare(config);
    prepare(fresh);
    EXPECT_TRUE(read_file(config.output) == read_file(fresh.output));
    EXPECT_TRUE(read_file(*config.valid_output) == read_file(*fresh.valid_output));
  };
  leave_a_state(config);
  write_file(dir / "in/b.txt", "changed");
  expect_right();
  leave_a_state(config);
  config.valid_fraction = 0.2;
  expect_right();
  leave_a_state(config);
  write_file(prepare_state_path(config.output), "{\"job\": 7, damaged");
  expect_right();
  leave_a_state(config);
  std::filesystem::resize_file(config.output + ".partial", 100);  // holds less than the state says
  expect_right();
  leave_a_state(config);
  std::filesystem::remove(*config.valid_output + ".partial-ends");
  expect_right();
}

TEST(PrepareResume, AfterAFullDisk) {
  const TemporaryDirectory dir;
  write_inputs(dir);
  const PrepareConfig whole = kill_config(dir, "whole", TokenFormat::hdf5);
  const PrepareConfig config = kill_config(dir, "full", TokenFormat::hdf5);
  prepare(whole);
  const auto bytes = std::filesystem::file_size(whole.output);
  // The first limit is reached while encoding, the second where HDF5's own parts go.
  for (const std::uintmax_t limit : {bytes / 2, bytes - 100}) {
    const pid_t child = ::fork();
    if (child == 0) {
      ::signal(SIGXFSZ, SIG_IGN);
      const rlimit most{limit, limit};
      ::setrlimit(RLIMIT_FSIZE, &most);
      int status = 0;
      try {
        prepare(config);
      } catch (const Failure& failure) {
        status = contains(failure.what(), config.output + ".partial: cannot write: ") ? 3 : 4;
      } catch (...) {
        status = 5;
      }
      ::_exit(status);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), 3);
    EXPECT_FALSE(std::filesystem::exists(config.output));
    EXPECT_TRUE(std::filesystem::exists(prepare_state_path(config.output)));
  }
  prepare(config);
  EXPECT_TRUE(read_file(config.output) == read_file(whole.output));
  EXPECT_TRUE(read_file(*config.valid_output) == read_file(*whole.valid_output));
}

TEST(PrepareState, DamagedNumbersAreOfNoUse) {
  const TemporaryDirectory dir;
  PrepareState state;
  state.job = "job";
  state.next = {2, 5};
  state.train = {7, 1};
  state.report.train.tokens = 7;
  state.report.train.documents = 1;
  const std::string path = dir / "state";
  const auto loads = [&](const auto& change) {
    PrepareState changed = state;
    change(changed);
    save_prepare_state(path, changed);
    return load_prepare_state(path, "job", 3).has_value();
  };
  EXPECT_TRUE(loads([](PrepareState&) {}));
  EXPECT_FALSE(load_prepare_state(path, "other", 3).has_value());
  EXPECT_FALSE(load_prepare_state(path, "job", 1).has_value());
  EXPECT_FALSE(load_prepare_state(dir / "none", "job", 3).has_value());
  EXPECT_FALSE(loads([](PrepareState& s) { s.next.file = 4; }));
  EXPECT_FALSE(loads([](PrepareState& s) { s.next.offset = -1; }));
  EXPECT_FALSE(loads([](PrepareState& s) { s.report.train.tokens = -1; }));
  EXPECT_FALSE(loads([](PrepareState& s) { s.report.train.tokens = std::int64_t{1} << 60; }));
  write_file(path, read_file(path).substr(0, 40));
  EXPECT_FALSE(load_prepare_state(path, "job", 3).has_value());
}

TEST(PrepareResume, TemporaryFilesAmongTheInputsAreLeftOut) {
  const TemporaryDirectory dir;
  write_inputs(dir);
  PrepareConfig config = kill_config(dir, "a", TokenFormat::hdf5);
  prepare(config);
  const std::string expected = read_file(config.output);
  config.output = dir / "in/out.h5";
  config.valid_output = dir / "in/valid.h5";
  leave_a_state(config);
  prepare(config);
  EXPECT_TRUE(read_file(config.output) == expected);
}

TEST(PrepareProgress, Lines) {
  EXPECT_EQ(prepare_progress_line({3 << 20, 12 << 20, 1234, 5678901}, 1 << 20, 2.0),
            "25%  3 MiB of 12 MiB  1.05 MB/s  0:09 left  1.23k documents  5.68M tokens");
  EXPECT_EQ(prepare_progress_line({3 << 20, 0, 5, 10}, 0, 1.0), "3 MiB  3.15 MB/s  5 documents  10 tokens");
  EXPECT_EQ(prepare_progress_line({0, 100, 0, 0}, 0, 0.0), "0%  0 B of 100 B  0 MB/s  0 documents  0 tokens");
  char* text = nullptr;
  std::size_t size = 0;
  std::FILE* out = ::open_memstream(&text, &size);
  {
    PrepareProgress progress(0, out, [] { return 20; });
    progress.update({50, 100, 1, 2});
    progress.message("a line");
  }
  std::fclose(out);
  EXPECT_EQ(std::string(text, size).substr(0, 10), "\r\x1b[2K50%  ");
  EXPECT_TRUE(contains(std::string(text, size), "\r\x1b[2Ka line\n"));
  std::free(text);
}

TEST(DataInspection, FiguresSamplesAndHistogram) {
  const TemporaryDirectory dir;
  write_file(dir / "a.jsonl", "{\"text\":\"one\\ntwo\\u0007\"}\n{\"text\":\"h\\u00e9llo\"}\n{\"text\":\"" +
                                  std::string(5000, 'x') + "\"}\n");
  prepare(config_for(dir, dir / "a.jsonl"));
  const DataInspection found = inspect_data({.path = dir / "out.h5", .sample_tokens = 8, .check_ids = true});
  EXPECT_EQ(found.tokens, 9 + 7 + 5001);
  EXPECT_EQ(found.documents, 3);
  EXPECT_EQ(found.shortest, 7);
  EXPECT_EQ(found.longest, 5001);
  EXPECT_EQ(found.lengths[3], 1);   // 7
  EXPECT_EQ(found.lengths[4], 1);   // 9
  EXPECT_EQ(found.lengths[13], 1);  // 5001
  EXPECT_EQ(found.median, 15);
  EXPECT_EQ(found.largest_id, 256);
  ASSERT_EQ(found.samples.size(), 3u);
  EXPECT_EQ(found.samples[1].text, "h\xC3\xA9llo<|endoftext|>");
  const std::string text = inspection_text(found);
  for (const std::string part :
       {"format         hdf5, ids stored as u16", "documents      3", "vocabulary     320",
        "tokenizer      byte", "end of text    256", "  one\\ntwo\\x07 ...",
        "4,096-8,191  ########################################  1"}) {
    EXPECT_TRUE(contains(text, part)) << part << "\n" << text;
  }
  const auto json = nlohmann::json::parse(inspection_json(found));
  EXPECT_EQ(json["tokens"], 5017);
  EXPECT_EQ(json["samples"][2]["document"], 2);
  EXPECT_EQ(json["lengths"][2], (nlohmann::json{{"from", 4096}, {"to", 8191}, {"documents", 1}}));
  EXPECT_TRUE(inspect_data({.path = dir / "out.h5", .samples = 0}).samples.empty());
}

TEST(DataInspection, WithoutATokenizerAndWithoutDocuments) {
  const DataInspection found = inspect_data({.path = "golden/megatron_u16"});
  EXPECT_TRUE(contains(found.tokenizer_problem, "does not say its tokenizer"));
  EXPECT_FALSE(found.samples[0].text.has_value());
  EXPECT_TRUE(contains(inspection_text(found), "ids only: ")) << inspection_text(found);
  EXPECT_TRUE(nlohmann::json::parse(inspection_json(found))["vocab_size"].is_null());
  const DataInspection decoded =
      inspect_data({.path = "golden/megatron_u16", .tokenizer = "byte", .samples = 5});
  EXPECT_EQ(decoded.samples[2].text, "<65535>");
  const TemporaryDirectory dir;
  write_file(dir / "a.ds", "");
  write_file(dir / "a.ds.index", "");
  EXPECT_TRUE(contains(inspection_text(inspect_data({.path = dir / "a.ds"})), "documents      0"));
  EXPECT_ERROR(inspect_data({.path = dir / "none.h5"}), "none.h5", "No such file");
}

}  // namespace
}  // namespace hysparse
