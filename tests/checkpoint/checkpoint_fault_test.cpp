/// Damaged, lying and foreign checkpoints, and disks that take no more.
#include <csignal>
#include <cstring>

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "checkpoint/manifest.h"
#include "checkpoint/reader.h"
#include "checkpoint/region.h"
#include "checkpoint/writer.h"
#include "core/hdf5.h"
#include "tests/checkpoint/support.h"
#include "tests/data/temporary_directory.h"

namespace hysparse {
namespace {

namespace fs = std::filesystem;
using testing::expect_checkpoint;
using testing::replace_file;
using testing::test_info;
using testing::whole_pieces;

class CheckpointFaults : public ::testing::Test {
 protected:
  void SetUp() override {
    CheckpointWriter writer(run_, 3, *world_);
    writer.save(test_info(1), whole_pieces(1), false);
    manifest_bytes_ = read_file(manifest_);
    shard_bytes_ = read_file(shard_);
  }
  void restore() {
    replace_file(manifest_, manifest_bytes_);
    replace_file(shard_, shard_bytes_);
  }
  /// Replaces a part of the manifest and gives it the checksum that fits.
  void lie(const std::string& from, const std::string& to) {
    std::string text = manifest_bytes_;
    const std::size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    text.replace(at, from.size(), to);
    const std::size_t seal = text.rfind("  \"checksum\"");
    text.resize(seal);
    replace_file(manifest_, text + "  \"checksum\": \"xxh3:" + xxh3_hex(text) + "\"\n}\n");
  }
  /// Replaces the shard's file, with a manifest that fits its bytes.
  void replace_shard() {
    Manifest manifest = parse_manifest(manifest_bytes_, manifest_);
    manifest.shards[0] = digest_file(shard_, manifest.block_bytes);
    replace_file(manifest_, manifest_text(manifest));
  }
  /// Everything that checking finds, as one text.
  std::string problems() {
    try {
      return fmt::format("{}", fmt::join(CheckpointReader(step_).problems(), "\n"));
    } catch (const DamagedCheckpoint& error) {
      return error.what();
    }
  }
  void read_all() {
    CheckpointReader reader(step_);
    for (const TensorInfo& tensor : reader.tensors()) reader.read(tensor.name, tensor.dtype);
  }

  TemporaryDirectory directory_;
  std::string run_ = directory_.path();
  std::string step_ = run_ + "/checkpoints/step-000001";
  std::string manifest_ = step_ + "/manifest.json";
  std::string shard_ = step_ + "/shard-00000.h5";
  std::string manifest_bytes_, shard_bytes_;
  std::unique_ptr<Communicator> world_ = local_communicator("world");
};

TEST_F(CheckpointFaults, MissingFiles) {
  fs::remove(shard_);
  EXPECT_ERROR(read_all(), shard_, "manifest lists it");
  restore();
  fs::remove(manifest_);
  EXPECT_ERROR(read_all(), manifest_, "No such file");
  EXPECT_ERROR(CheckpointReader(run_ + "/nowhere"), run_ + "/nowhere/manifest.json", "No such file");
}

TEST_F(CheckpointFaults, EveryTruncationIsFound) {
  for (std::size_t bytes = 0; bytes < shard_bytes_.size(); bytes += bytes < 3000 ? 37 : 401) {
    replace_file(shard_, shard_bytes_.substr(0, bytes));
    EXPECT_ERROR(read_all(), shard_, "truncated or damaged");
  }
  replace_file(shard_, shard_bytes_ + "x");
  EXPECT_ERROR(read_all(), shard_, "truncated or damaged");
  restore();
  for (std::size_t bytes = 0; bytes < manifest_bytes_.size(); bytes += 7) {
    replace_file(manifest_, manifest_bytes_.substr(0, bytes));
    EXPECT_ERROR(read_all(), manifest_, "damaged");
  }
}

TEST_F(CheckpointFaults, EveryFlippedBitIsFound) {
  for (std::size_t at = 0; at < shard_bytes_.size(); at += 13) {
    std::string bytes = shard_bytes_;
    bytes[at] = static_cast<char>(bytes[at] ^ (1 << (at % 8)));
    replace_file(shard_, bytes);
    EXPECT_ERROR(read_all(), shard_, "damaged: checksum");
    EXPECT_ERROR(CheckpointReader(step_).verify(), shard_, "damaged: checksum");
  }
  restore();
  for (std::size_t at = 0; at < manifest_bytes_.size(); ++at) {
    std::string bytes = manifest_bytes_;
    bytes[at] = static_cast<char>(bytes[at] ^ (1 << (at % 8)));
    replace_file(manifest_, bytes);
    EXPECT_ERROR(read_all(), manifest_, "damaged");
  }
  restore();
  read_all();
}

TEST_F(CheckpointFaults, ForeignFiles) {
  replace_file(shard_, std::string(shard_bytes_.size(), 'x'));
  EXPECT_ERROR(read_all(), shard_, "damaged: checksum");
  replace_shard();
  EXPECT_ERROR(CheckpointReader(step_).verify(), shard_, "not an HDF5 file");
  {
    Hdf5File other = Hdf5File::create(shard_);
    other.write("tokens", Tensor::zeros({4000}, DType::i64));
    other.close_and_sync();
  }
  replace_shard();
  EXPECT_ERROR(CheckpointReader(step_).verify(), shard_, "has no dataset model.embed_tokens.weight");
  replace_file(manifest_, "Call me Ishmael.");
  EXPECT_ERROR(read_all(), manifest_, "no checksum at its end");
}

TEST_F(CheckpointFaults, ShardsOfAnotherShape) {
  std::vector<Piece> pieces = whole_pieces(1);
  const auto write_shard = [&](const Shape& dims, DType dtype, std::vector<std::int64_t> global,
                               std::vector<std::int64_t> at) {
    const std::string name = "model.embed_tokens.weight";
    Hdf5File other = Hdf5File::create(shard_);
    other.write(name, Tensor::zeros(dims, dtype));
    other.set_attribute(name, "dtype", dtype_name(dtype));
    other.set_attribute(name, "global_shape", global);
    other.set_attribute(name, "offset", at);
    other.write("padding", Tensor::zeros({9000}, DType::u8));
    other.close_and_sync();
    replace_shard();
  };
  write_shard({19, 8}, DType::f64, {19, 8}, {0, 0});
  EXPECT_TRUE(contains(problems(), shard_ + ": dataset model.embed_tokens.weight is")) << problems();
  EXPECT_TRUE(contains(problems(), "not the piece f32 [19, 8] at [0, 0] of [19, 8]")) << problems();
  write_shard({8, 19}, DType::f32, {19, 8}, {0, 0});
  EXPECT_TRUE(contains(problems(), shard_ + ": dataset model.embed_tokens.weight is")) << problems();
  EXPECT_TRUE(contains(problems(), "not the piece f32 [19, 8] at [0, 0] of [19, 8]")) << problems();
  write_shard({19, 8}, DType::f32, {38, 8}, {0, 0});
  EXPECT_TRUE(contains(problems(), shard_ + ": dataset model.embed_tokens.weight is")) << problems();
  EXPECT_TRUE(contains(problems(), "not the piece f32 [19, 8] at [0, 0] of [19, 8]")) << problems();
  write_shard({19, 8}, DType::f32, {19, 8}, {1, 0});
  EXPECT_TRUE(contains(problems(), shard_ + ": dataset model.embed_tokens.weight is")) << problems();
  EXPECT_TRUE(contains(problems(), "not the piece f32 [19, 8] at [0, 0] of [19, 8]")) << problems();
}

TEST_F(CheckpointFaults, LyingManifests) {
  const std::size_t begin = manifest_bytes_.find("\"model.embed_tokens.weight\": ");
  const std::string embedding = manifest_bytes_.substr(begin, manifest_bytes_.find('\n', begin) - begin - 1);
  const std::string place = std::to_string(
      parse_manifest(manifest_bytes_, manifest_).tensors.at("model.embed_tokens.weight").pieces[0].at);
  struct Lie {
    const char* text;  // AT: where the piece is
    const char* reason;
  };
  // Found when the manifest is read, or when the tensor is.
  for (const Lie& lie : {
           Lie{R"({"dtype":"f32","shape":[19,8],"pieces":[]})", "no shard holds [19, 8] at [0, 0]"},
           Lie{R"({"dtype":"f32","shape":[20,8],"pieces":[[0,0,AT,[0,0],[19,8]]]})",
               "no shard holds [1, 8] at [19, 0]"},
           Lie{R"({"dtype":"f32","shape":[1000000000000,8],"pieces":[[0,0,AT,[0,0],[19,8]]]})",
               "no shard holds"},
           Lie{R"({"dtype":"f32","shape":[19,8],"pieces":[[1,0,AT,[0,0],[19,8]]]})",
               "in shard 1, which there is not"},
           Lie{R"({"dtype":"f32","shape":[19,8],"pieces":[[0,0,AT,[1,0],[19,8]]]})",
               "has a piece [19, 8] at [1, 0]"},
           Lie{R"({"dtype":"f32","shape":[19,8],"pieces":[[0,0,AT,[0],[19]]]})", "has a piece [19] at [0]"},
           Lie{R"({"dtype":"f32","shape":[19,8],"pieces":[[0,0,AT,[0,-1],[19,8]]]})", "not a whole number"},
           Lie{R"({"dtype":"f32","shape":[19,8],"pieces":[[0,0,-8,[0,0],[19,8]]]})", "not a whole number"},
           Lie{R"({"dtype":"f32","shape":[19,8],"pieces":[[0,0,9223372036854775800,[0,0],[19,8]]]})",
               "reaches past the end of shard 0"},
           Lie{R"({"dtype":"f32","shape":[19,8],"pieces":[[0,0,1,[0,0],[19,8]]]})", "inside an element"},
           Lie{R"({"dtype":"f32","shape":[19,8],"pieces":[[0,0,AT,[0,0]]]})", "not of five parts"},
           Lie{R"({"dtype":"f32","shape":[19,8],"pieces":7})", "not a list"},
           Lie{R"({"dtype":"f32","shape":[4294967296,4294967296],"pieces":[]})", "too large"},
           Lie{R"({"dtype":"f32","shape":[1,1,1,1,1],"pieces":[]})", "at most 4 sizes"},
           Lie{R"({"dtype":"f32","shape":[99999,99999],"pieces":[[0,0,0,[0,0],[99999,99999]]]})",
               "reaches past the end of shard 0"},
           Lie{R"({"dtype":"f31","shape":[19,8],"pieces":[]})", "unknown dtype 'f31'"},
           Lie{R"({"shape":[19,8],"pieces":[]})", "has no 'dtype'"},
           Lie{"[]", "has no 'dtype'"},
       }) {
    std::string text = lie.text;
    if (const std::size_t at = text.find("AT"); at != std::string::npos) text.replace(at, 2, place);
    this->lie(embedding, "\"model.embed_tokens.weight\": " + text);
    EXPECT_ERROR(CheckpointReader(step_).read("model.embed_tokens.weight", DType::f32), step_, lie.reason);
    EXPECT_TRUE(contains(problems(), lie.reason)) << lie.text << ": " << problems();
  }
  // Found when the manifest is compared with the shard: reading would give other elements of the same file.
  for (const Lie& lie : {
           Lie{R"({"dtype":"f32","shape":[19,8],"pieces":[[0,0,AT,[0,0],[19,7]],[0,1,AT,[0,7],[19,1]]]})",
               "not the piece"},
           Lie{R"({"dtype":"f32","shape":[19,8],"pieces":[[0,3,AT,[0,0],[19,8]]]})",
               "has no dataset model.embed_tokens.weight@3"},
           Lie{R"({"dtype":"i32","shape":[19,8],"pieces":[[0,0,AT,[0,0],[19,8]]]})",
               "not the piece i32 [19, 8]"},
           Lie{R"({"dtype":"f32","shape":[19,8],"pieces":[[0,0,0,[0,0],[19,8]]]})", "lists at byte 0"},
       }) {
    std::string text = lie.text;
    for (std::size_t at = text.find("AT"); at != std::string::npos; at = text.find("AT"))
      text.replace(at, 2, place);
    this->lie(embedding, "\"model.embed_tokens.weight\": " + text);
    EXPECT_TRUE(contains(problems(), lie.reason)) << lie.text << ": " << problems();
  }
  lie("\"file\":\"shard-00000.h5\"", "\"file\":\"../shard-00000.h5\"");
  EXPECT_ERROR(read_all(), manifest_, "named '../shard-00000.h5'");
  lie("\"xxh3\":\"", "\"xxh3\":\"\\u0007");
  EXPECT_ERROR(read_all(), manifest_, "xxh3 has 17 digits");
  lie("\"xxh3\":\"", "\"xxh3\":\"0123456789abcdef");
  EXPECT_ERROR(read_all(), manifest_, "xxh3 has 32 digits");
  lie("\"xxh3\":\"" + manifest_bytes_.substr(manifest_bytes_.find("\"xxh3\":\"") + 8, 3),
      "\"xxh3\":\"\\u0007+-");
  EXPECT_ERROR(read_all(), manifest_, "not 16 hexadecimal digits");
  lie("\"xxh3\":\"", "\"xxh3\":7, \"xxh4\":\"");
  EXPECT_ERROR(read_all(), manifest_, "xxh3 is not a string");
  lie("\"bytes\":", "\"bytes\":1");
  EXPECT_ERROR(read_all(), shard_, "truncated or damaged");
  lie("\"bytes\":", "\"bytes\":9000000000000000000, \"byte\":");
  EXPECT_ERROR(read_all(), manifest_, "xxh3 has 16 digits");
  lie("\"block_bytes\": ", "\"block_bytes\": 99");
  EXPECT_ERROR(read_all(), manifest_, "block_bytes is 994194304");
  lie("\"block_bytes\": 4194304", "\"block_bytes\": 0");
  EXPECT_ERROR(read_all(), manifest_, "block_bytes is 0");
  lie("\"version\": 2", "\"version\": 1");
  EXPECT_ERROR(read_all(), manifest_, "format version 1, this program reads version 2");
  lie("hysparse checkpoint", "another checkpoint");
  EXPECT_ERROR(read_all(), manifest_, "not a hysparse checkpoint");
  lie("\"step\": 1,", "\"step\": -1,");
  EXPECT_ERROR(read_all(), manifest_, "step is not a whole number");
  lie("\"step\": 1,", "\"step\": 1, \"step\": 2,");
  EXPECT_ERROR(read_all(), manifest_, "'step' appears twice");
  lie("\"step\": 1,", "");
  EXPECT_ERROR(read_all(), manifest_, "has no 'step'");
  lie("\"mesh\": {", "\"mesh\": {\"tp\": \"two\",");
  EXPECT_ERROR(read_all(), manifest_, "mesh tp is not a whole number");
}

TEST_F(CheckpointFaults, CheckpointOfAnotherModel) {
  CheckpointReader reader(step_);
  std::vector<TensorInfo> expected = reader.tensors();
  reader.require(expected);
  expected[0].global_shape = {19, 9};
  EXPECT_ERROR(reader.require(expected), step_, "model.embed_tokens.weight is [19, 8], expected [19, 9]");
  expected[0] = {"model.extra", {3}, DType::f32};
  EXPECT_ERROR(reader.require(expected), step_, "has no tensor model.extra [3]");
  for (int i = 0; i < 20; ++i) expected.push_back({"model.extra" + std::to_string(i), {3}, DType::f32});
  try {
    reader.require(expected);
    FAIL() << "no Error was thrown";
  } catch (const Error& error) {
    ASSERT_EQ(error.problems().size(), 1u);
    EXPECT_TRUE(contains(error.what(), "has no tensor model.extra [3] (and 20 more")) << error.what();
  }
  EXPECT_ERROR(reader.read("model.extra", DType::f32), step_, "has no tensor model.extra");
  EXPECT_ERROR(reader.read("state.counts", DType::f32), "state.counts", "i32, which cannot be read as f32");
  EXPECT_ERROR(reader.read("model.norm.weight", {{10}, {4}}, Tensor::empty({4}, DType::f32)),
               "model.norm.weight is [13]", "does not contain [4] at [10]");
  EXPECT_ERROR(reader.read("model.norm.weight", {{0, 0}, {2, 2}}, Tensor::empty({2, 2}, DType::f32)),
               "model.norm.weight is [13]", "does not contain [2, 2]");
}

TEST_F(CheckpointFaults, SavesThatLeaveElementsOut) {
  CheckpointWriter writer(run_, 3, *world_);
  const testing::TestTensor tensor{"w", {6, 4}, DType::f32};
  EXPECT_THROW(writer.save(test_info(2), {testing::make_piece(tensor, 2, {{0, 0}, {6, 3}})}, false), Failure);
  EXPECT_THROW(
      writer.save(test_info(2), {{"w", {6, 4}, {{5, 0}, {2, 4}}, Tensor::zeros({2, 4}, DType::f32)}}, false),
      Failure);
  EXPECT_THROW(
      writer.save(test_info(2), {{"w", {6, 4}, {{0, 0}, {6, 4}}, Tensor::zeros({6, 3}, DType::f32)}}, false),
      Failure);
  EXPECT_FALSE(writer.in_flight());
  EXPECT_FALSE(fs::exists(run_ + "/checkpoints/step-000002.tmp"));
  writer.save(test_info(2), whole_pieces(2), false);
  CheckpointReader reader(run_ + "/checkpoints/step-000002");
  expect_checkpoint(reader, 2);
}

TEST_F(CheckpointFaults, LatestThatCannotBeWritten) {
  fs::remove(run_ + "/checkpoints/latest");
  fs::create_directories(run_ + "/checkpoints/latest/in the way");
  CheckpointWriter writer(run_, 3, *world_);
  EXPECT_THROW(writer.save(test_info(2), whole_pieces(2), false), Failure);
  std::vector<std::string> warnings;
  EXPECT_EQ(find_latest(run_, &warnings), run_ + "/checkpoints/step-000002");  // which is complete
  EXPECT_FALSE(warnings.empty());
  EXPECT_THROW(CheckpointWriter("/dev/null/run", 3, *world_), Failure);
}

/// Runs `body` in a child process and returns its exit status: 0 passed, 1 failed a test, 3 threw.
int in_child(const std::function<void()>& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    int status = 3;
    try {
      body();
      status = ::testing::Test::HasFailure() ? 1 : 0;
    } catch (const std::exception& error) {
      fmt::print(stderr, "{}\n", error.what());
    }
    std::_Exit(status);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST_F(CheckpointFaults, AFullDiskLeavesTheCheckpointBefore) {
  // A limit on file size stands for the disk: below the shard, the manifest, nothing.
  for (const std::int64_t limit : {0, 100, 1000, 3000, 5000, 20'000}) {
    for (const bool async : {false, true}) {
      EXPECT_EQ(in_child([&] {
                  std::signal(SIGXFSZ, SIG_IGN);
                  const rlimit bytes{static_cast<rlim_t>(limit), static_cast<rlim_t>(limit)};
                  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &bytes), 0);
                  CheckpointWriter writer(run_, 1, *world_);
                  const testing::TestTensor large{"large", {100, 100}, DType::f64};
                  std::vector<Piece> pieces = whole_pieces(2);
                  pieces.push_back(testing::make_piece(large, 2, whole_box(large.shape)));
                  EXPECT_THROW(
                      {
                        writer.save(test_info(2), pieces, async);
                        writer.finish();
                      },
                      Failure);
                  EXPECT_FALSE(writer.in_flight());
                }),
                0)
          << limit;
      std::vector<std::string> warnings;
      EXPECT_EQ(find_latest(run_, &warnings), step_);
      EXPECT_TRUE(warnings.empty());
      CheckpointReader reader(step_);
      expect_checkpoint(reader, 1);
      EXPECT_FALSE(fs::exists(run_ + "/checkpoints/step-000002.tmp"));
    }
  }
}

}  // namespace
}  // namespace hysparse
