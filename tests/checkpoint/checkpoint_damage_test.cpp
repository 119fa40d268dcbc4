/// Shards of many blocks: damage anywhere is found by the ranks that read it, or by the check of the rest, and
/// what is not needed is not read.
#include <cstring>
#include <random>

#include <gtest/gtest.h>

#include "checkpoint/reader.h"
#include "checkpoint/region.h"
#include "checkpoint/writer.h"
#include "core/plain_hdf5.h"
#include "tests/checkpoint/support.h"
#include "tests/data/temporary_directory.h"

namespace hysparse {
namespace {

namespace fs = std::filesystem;
using testing::TestTensor;

/// Rows longer and shorter than a block; the last one in columns, so that a block serves several ranks.
const std::vector<TestTensor> large{{"long", {3, 1'500'000}, DType::f32},
                                    {"norm", {77}, DType::bf16},
                                    {"short", {700, 40, 50}, DType::f32},
                                    {"wide", {512, 4096}, DType::f64}};

class CheckpointDamage : public ::testing::Test {
 protected:
  void SetUp() override {
    std::vector<Piece> pieces;
    std::mt19937 random(3);
    for (const TestTensor& tensor : large) {
      for (const Box& box : testing::random_partition(whole_box(tensor.shape), 3, random))
        pieces.push_back(testing::make_piece(tensor, 1, box));
    }
    CheckpointWriter writer(run_, 1, *world_);
    writer.save(testing::test_info(1), std::move(pieces), true);
    writer.finish();
    bytes_ = static_cast<std::int64_t>(fs::file_size(shard_));
  }

  void flip(std::int64_t at, int bit) {
    std::fstream file(shard_, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(at);
    const auto byte = static_cast<char>(file.get() ^ (1 << bit));
    file.seekp(at);
    file.put(byte);
  }

  /// What `ranks` ranks of `threads` threads would read: rows of each tensor, or columns; then the rest.
  void read_as(int ranks, int threads, bool columns) {
    for (int rank = 0; rank < ranks; ++rank) {
      CheckpointReader reader(step_, threads);
      std::vector<ReadRequest> requests;
      for (const TestTensor& tensor : large) {
        const int dim = columns ? tensor.shape.rank() - 1 : 0;
        Box box = whole_box(tensor.shape);
        const std::int64_t begin = tensor.shape[dim] * rank / ranks;
        box.offset.set(dim, begin);
        box.shape.set(dim, tensor.shape[dim] * (rank + 1) / ranks - begin);
        requests.push_back({tensor.name, box, Tensor::empty(box.shape, tensor.dtype)});
      }
      reader.read(requests);
      reader.verify_rest(rank, ranks);
      for (std::size_t i = 0; i < large.size(); ++i) {
        const Tensor expected = testing::box_values(large[i], 1, requests[i].box);
        EXPECT_EQ(
            std::memcmp(requests[i].out.raw(), expected.raw(), static_cast<std::size_t>(expected.bytes())), 0)
            << large[i].name;
      }
    }
  }
  bool found_by(int ranks, int threads, bool columns) {
    try {
      read_as(ranks, threads, columns);
      return false;
    } catch (const DamagedCheckpoint& error) {
      EXPECT_TRUE(contains(error.what(), shard_ + ": ")) << error.what();
      return true;
    }
  }

  TemporaryDirectory directory_;
  std::string run_ = directory_.path();
  std::string step_ = run_ + "/checkpoints/step-000001";
  std::string shard_ = step_ + "/shard-00000.h5";
  std::int64_t bytes_ = 0;
  std::unique_ptr<Communicator> world_ = local_communicator("world");
};

TEST_F(CheckpointDamage, AnyLayoutReadsTheSame) {
  for (const int ranks : {1, 2, 3, 5}) {
    for (const int threads : {1, 4}) {
      read_as(ranks, threads, false);
      read_as(ranks, threads, true);
    }
  }
  EXPECT_TRUE(CheckpointReader(step_, 3).problems().empty());
}

TEST_F(CheckpointDamage, AFlippedBitAnywhereIsFound) {
  std::mt19937_64 random(8);
  for (int round = 0; round < 12; ++round) {
    const auto at = static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(bytes_));
    const int bit = static_cast<int>(random() % 8);
    flip(at, bit);
    EXPECT_TRUE(found_by(1 + round % 3, 1 + round % 2, round % 4 == 0)) << at;
    const std::vector<std::string> problems = CheckpointReader(step_, 2).problems();
    ASSERT_EQ(problems.size(), 1u);
    EXPECT_TRUE(contains(problems[0], shard_ + ": damaged: checksum ")) << problems[0];
    EXPECT_FALSE(contains(problems[0], " more of its")) << problems[0];
    flip(at, bit);
  }
  EXPECT_FALSE(found_by(2, 2, false));
  flip(0, 0);
  flip(bytes_ - 1, 0);
  const std::vector<std::string> problems = CheckpointReader(step_, 2).problems();
  ASSERT_EQ(problems.size(), 1u);
  EXPECT_TRUE(contains(problems[0], "bytes 0 to 4194304")) << problems[0];
  EXPECT_TRUE(contains(problems[0], "(and 1 more of its")) << problems[0];
}

TEST_F(CheckpointDamage, ATruncatedShardIsFound) {
  std::mt19937_64 random(9);
  for (int round = 0; round < 5; ++round) {
    const auto left = static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(bytes_));
    fs::copy_file(shard_, run_ + "/copy");
    fs::resize_file(shard_, static_cast<std::uintmax_t>(left));
    EXPECT_TRUE(found_by(2, 2, false)) << left;
    fs::rename(run_ + "/copy", shard_);
  }
  // One that is cut after it was opened.
  CheckpointReader reader(step_, 2);
  fs::resize_file(shard_, static_cast<std::uintmax_t>(bytes_ / 2));
  EXPECT_THROW(reader.read("wide", DType::f64), DamagedCheckpoint);
}

/// Where the object headers of an HDF5 file begin and the checksum at the end of each lies.
std::vector<std::pair<std::size_t, std::size_t>> object_headers(const std::string& file) {
  std::vector<std::pair<std::size_t, std::size_t>> found;
  for (std::size_t at = file.find("OHDR"); at != std::string::npos; at = file.find("OHDR", at + 1)) {
    const auto flags = static_cast<unsigned>(file[at + 5]);
    std::size_t end = at + 6 + ((flags & 0x20U) != 0 ? 16 : 0) + ((flags & 0x10U) != 0 ? 4 : 0), size = 0;
    std::memcpy(&size, file.data() + end, std::size_t{1} << (flags & 3U));
    end += (std::size_t{1} << (flags & 3U)) + size;
    if (end + 4 <= file.size()) found.emplace_back(at, end);
  }
  return found;
}

TEST(CheckpointForged, AShardThatItsManifestAgreesWithIsReadOrRefused) {
  const TemporaryDirectory directory;
  const std::string& run = directory.path();
  const TestTensor tensor{"w", {4, 5}, DType::f32};
  const auto world = local_communicator("world");
  CheckpointWriter writer(run, 1, *world);
  writer.save(testing::test_info(1), {testing::make_piece(tensor, 1, whole_box(tensor.shape))}, false);
  const std::string step = checkpoints_directory(run) + "/" + step_name(1), shard = step + "/" + shard_name(0);
  Manifest manifest = read_manifest(step);
  const std::string bytes = read_file(shard);
  const auto headers = object_headers(bytes);
  ASSERT_FALSE(headers.empty());
  std::mt19937_64 random(11);
  int refused = 0;
  for (int round = 0; round < 400; ++round) {
    std::string forged = bytes;
    const auto [begin, end] = headers[random() % headers.size()];
    for (int n = 0; n < 1 + round % 4; ++n)
      forged[begin + random() % (end - begin)] = static_cast<char>(random() % 3 == 0 ? 0xff : random());
    const std::uint32_t checksum = hdf5_checksum(std::as_bytes(std::span(forged).subspan(begin, end - begin)));
    std::memcpy(forged.data() + end, &checksum, sizeof checksum);
    manifest.shards = {{static_cast<std::int64_t>(forged.size()),
                        {xxh3(forged.data(), static_cast<std::int64_t>(forged.size()))}}};
    testing::replace_file(shard, forged);
    testing::replace_file(step + "/" + std::string(manifest_file), manifest_text(manifest));
    refused += CheckpointReader(step).problems().empty() ? 0 : 1;
  }
  EXPECT_GE(refused, 200);  // the rest are changes of bytes that mean nothing
}

TEST_F(CheckpointDamage, OnlyWhatIsAskedForIsRead) {
  const Manifest manifest = read_manifest(step_);
  const StoredPiece& piece = manifest.tensors.at("wide").pieces.front();
  const std::int64_t end = piece.at + piece.box.shape.numel() * 8;
  // The blocks that rows of this piece lie in.
  Box rows = piece.box;
  rows.shape.set(0, 1);
  const Tensor out = Tensor::empty(rows.shape, DType::f64);
  const std::int64_t row_end = piece.at + rows.shape.numel() * 8;
  const std::int64_t first = piece.at / manifest.block_bytes, last = (row_end - 1) / manifest.block_bytes;
  ASSERT_LT((last + 1) * manifest.block_bytes, end);
  for (std::int64_t b = 0; b * manifest.block_bytes < bytes_; ++b) {
    if (b < first || b > last) flip(b * manifest.block_bytes, 1);
  }
  CheckpointReader reader(step_, 2);
  reader.read("wide", rows, out);
  EXPECT_EQ(testing::values_of(out), testing::values_of(testing::box_values(large[3], 1, rows)));
  EXPECT_THROW(reader.read("wide", DType::f64), DamagedCheckpoint);
}

}  // namespace
}  // namespace hysparse
