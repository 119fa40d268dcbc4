/// Collective saves under mpirun: each rank writes its pieces, any rank reads any box, failures are agreed on.
#include <csignal>
#include <cstring>
#include <filesystem>

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include "checkpoint/agreement.h"
#include "checkpoint/reader.h"
#include "checkpoint/region.h"
#include "checkpoint/writer.h"
#include "parallel/process_group.h"
#include "tests/checkpoint/support.h"
#include "tests/data/temporary_directory.h"

namespace hysparse {
namespace {

using testing::expect_checkpoint;
using testing::test_info;
using testing::test_tensors;
using testing::TestTensor;

Communicator* world = nullptr;

/// One directory for all ranks: rank 0's.
class SharedDirectory {
 public:
  SharedDirectory() : name_(Tensor::zeros({256}, DType::u8)) {
    if (world->rank() == 0) {
      own_ = std::make_unique<TemporaryDirectory>();
      std::memcpy(name_.raw(), own_->path().c_str(), own_->path().size());
    }
    world->broadcast(name_, 0);
  }
  ~SharedDirectory() { world->barrier(); }
  std::string path() const { return static_cast<const char*>(name_.raw()); }

 private:
  Tensor name_;
  std::unique_ptr<TemporaryDirectory> own_;
};

/// The pieces of a random partition that fall to this rank; the same partition on all ranks.
std::vector<Piece> own_pieces(std::int64_t step, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<Piece> pieces;
  for (const TestTensor& tensor : test_tensors()) {
    for (const Box& box : testing::random_partition(whole_box(tensor.shape), 2 * world->size(), random)) {
      if (static_cast<int>(random() % static_cast<unsigned>(world->size())) == world->rank()) {
        pieces.push_back(testing::make_piece(tensor, step, box));
      }
    }
  }
  return pieces;
}

std::string latest(const SharedDirectory& run) {
  std::vector<std::string> warnings;
  const auto found = find_latest(run.path(), &warnings);
  EXPECT_TRUE(warnings.empty()) << warnings.front();
  EXPECT_TRUE(found.has_value());
  return found.value_or("");
}

TEST(CheckpointMpi, RanksSaveTheirPiecesAndReadAnyBox) {
  const SharedDirectory run;
  CheckpointWriter writer(run.path(), 2, *world);
  for (std::int64_t step = 1; step <= 6; ++step) {
    writer.save(test_info(step), own_pieces(step, static_cast<unsigned>(step)), step % 2 == 0);
    writer.finish();
    CheckpointReader reader(latest(run));
    expect_checkpoint(reader, step);
    std::mt19937 random(static_cast<unsigned>(100 * step + world->rank()));
    for (const TestTensor& tensor : test_tensors()) {
      const Box box = testing::random_box(tensor.shape, random);
      const Tensor found = Tensor::empty(box.shape, tensor.dtype);
      reader.read(tensor.name, box, found);
      EXPECT_EQ(testing::values_of(found), testing::values_of(testing::box_values(tensor, step, box)));
    }
    reader.verify();
    world->barrier();
  }
}

TEST(CheckpointMpi, AsyncCompletesAtAPollOnAllRanksAtOnce) {
  const SharedDirectory run;
  CheckpointWriter writer(run.path(), 2, *world);
  for (std::int64_t step = 1; step <= 5; ++step) {
    writer.save(test_info(step), own_pieces(step, 9), true);
    EXPECT_TRUE(writer.in_flight());
    const Tensor polls = Tensor::zeros({1}, DType::i64);
    while (!writer.poll()) ++polls.data<std::int64_t>()[0];
    const std::int64_t own = polls.data<std::int64_t>()[0];
    world->all_reduce(polls);
    EXPECT_EQ(polls.data<std::int64_t>()[0], own * world->size());
    CheckpointReader reader(latest(run));
    expect_checkpoint(reader, step);
    world->barrier();
  }
}

TEST(CheckpointMpi, OneRanksFailureIsEveryRanks) {
  const SharedDirectory run;
  CheckpointWriter writer(run.path(), 2, *world);
  writer.save(test_info(1), own_pieces(1, 1), false);

  // The last rank may not write files of any size.
  const int last = world->size() - 1;
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  for (const bool async : {false, true}) {
    if (world->rank() == last) {
      const rlimit none{64, before.rlim_max};
      ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &none), 0);
    }
    std::string message;
    try {
      writer.save(test_info(2), own_pieces(2, 2), async);
      writer.finish();
    } catch (const Failure& failure) {
      message = failure.what();
    }
    if (world->rank() == last) {
      ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
    }
    EXPECT_TRUE(contains(message, "shard-0000" + std::to_string(last))) << message;
    EXPECT_TRUE(world->size() == 1 || contains(message, "rank " + std::to_string(last) + ":")) << message;
    CheckpointReader reader(latest(run));
    expect_checkpoint(reader, 1);
    world->barrier();
  }

  // A tensor of which ranks believe different shapes, and one that nobody saves whole.
  std::vector<Piece> pieces = own_pieces(3, 3);
  const std::int64_t rows = 4 + world->rank();
  pieces.push_back({"w", {rows}, {{0}, {rows}}, Tensor::zeros({rows}, DType::f32)});
  if (world->size() > 1) {
    EXPECT_THROW(writer.save(test_info(3), pieces, false), Failure);
  }
  pieces.back() = {"w", {100}, {{world->rank()}, {1}}, Tensor::zeros({1}, DType::f32)};
  EXPECT_THROW(writer.save(test_info(3), pieces, false), Failure);

  pieces.pop_back();
  writer.save(test_info(4), own_pieces(4, 4), false);
  CheckpointReader reader(latest(run));
  expect_checkpoint(reader, 4);
  world->barrier();
}

TEST(CheckpointMpi, ADirectoryThatOneRankDoesNotSeeIsRefused) {
  const SharedDirectory run;
  require_shared_directory(*world, run.path());
  if (world->size() == 1) return;  // nobody to share it with
  const bool last = world->rank() == world->size() - 1;
  try {
    require_shared_directory(*world, last ? run.path() + "/elsewhere" : run.path(), 0.1);
    ADD_FAILURE() << "nothing thrown";
  } catch (const AgreedFailure& e) {
    const std::string expected = "rank " + std::to_string(world->size() - 1) + ": " + run.path() + "/elsewhere";
    EXPECT_TRUE(contains(e.what(), expected)) << e.what();
  }
  world->barrier();
  EXPECT_TRUE(std::filesystem::is_empty(run.path()));
}

TEST(CheckpointMpi, ACheckpointOfManyPiecesKeepsOneManifest) {
  const SharedDirectory run;
  const TestTensor tensor{"w", {64, 96}, DType::f32};
  std::vector<Piece> pieces;
  const std::int64_t numel = tensor.shape.numel(), part = numel / world->size() / 7 + 1;
  for (std::int64_t begin = 0, i = 0; begin < numel;
       begin += part, ++i) {  // flat ranges dealt to ranks, as of an optimizer
    if (i % world->size() != world->rank()) continue;
    for (const Box& box : boxes_of_range(tensor.shape, begin, std::min(numel, begin + part))) {
      pieces.push_back(testing::make_piece(tensor, 1, box));
    }
  }
  CheckpointWriter writer(run.path(), 1, *world);
  writer.save(test_info(1), std::move(pieces), true);
  writer.finish();
  CheckpointReader reader(latest(run));
  EXPECT_EQ(testing::values_of(reader.read("w", DType::f64)),
            testing::values_of(testing::box_values(tensor, 1, whole_box(tensor.shape))));
}

}  // namespace
}  // namespace hysparse

int main(int argc, char** argv) {
  hysparse::Runtime runtime(&argc, &argv);
  ::testing::InitGoogleTest(&argc, argv);
  int ranks = 0;
  for (int i = 1; i < argc; ++i) {
    if (std::strncmp(argv[i], "--ranks=", 8) == 0) ranks = std::atoi(argv[i] + 8);
  }
  if (runtime.world() != ranks) {
    fmt::print(stderr, "{} ranks, {} are expected\n", runtime.world(), ranks);
    return 1;
  }
  std::vector<int> all(static_cast<std::size_t>(ranks));
  for (int r = 0; r < ranks; ++r) all[static_cast<std::size_t>(r)] = r;
  const auto world = runtime.communicator("world", all);
  hysparse::world = world.get();
  if (runtime.rank() != 0)
    delete ::testing::UnitTest::GetInstance()->listeners().Release(
        ::testing::UnitTest::GetInstance()->listeners().default_result_printer());
  const int failed = RUN_ALL_TESTS();
  // Any rank's failed test fails the run.
  const auto total = hysparse::Tensor::from<std::int64_t>({failed}, {1});
  world->all_reduce(total);
  return total.data<std::int64_t>()[0] == 0 ? 0 : 1;
}
