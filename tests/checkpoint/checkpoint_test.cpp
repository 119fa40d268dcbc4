#include "checkpoint/checkpoint.h"

#include <thread>

#include <gtest/gtest.h>

#include "checkpoint/reader.h"
#include "checkpoint/region.h"
#include "checkpoint/step_directories.h"
#include "checkpoint/writer.h"
#include "core/hdf5.h"
#include "tests/checkpoint/support.h"
#include "tests/data/temporary_directory.h"

namespace hysparse {
namespace {

namespace fs = std::filesystem;
using testing::expect_checkpoint;
using testing::test_info;
using testing::test_tensors;
using testing::TestTensor;
using testing::values_of;
using testing::whole_pieces;

class Checkpoint : public ::testing::Test {
 protected:
  /// The newest checkpoint; fails the test when finding it gave a warning.
  std::string latest() {
    std::vector<std::string> warnings;
    const auto found = find_latest(run_, &warnings);
    EXPECT_TRUE(warnings.empty()) << warnings.front();
    EXPECT_TRUE(found.has_value());
    return found.value_or("");
  }
  void expect_latest(std::int64_t step) {
    EXPECT_EQ(latest(), run_ + "/checkpoints/" + step_name(step));
    CheckpointReader reader(latest());
    expect_checkpoint(reader, step);
  }
  /// Names in RUN/checkpoints, sorted.
  std::vector<std::string> names() const {
    std::vector<std::string> all;
    for (const auto& entry : fs::directory_iterator(run_ + "/checkpoints"))
      all.push_back(entry.path().filename());
    std::sort(all.begin(), all.end());
    return all;
  }

  TemporaryDirectory directory_;
  std::string run_ = directory_.path();
  std::unique_ptr<Communicator> world_ = local_communicator("world");
};

TEST_F(Checkpoint, RoundTrip) {
  CheckpointWriter writer(run_, 3, *world_);
  writer.save(test_info(100), whole_pieces(100), false);
  EXPECT_FALSE(writer.in_flight());
  expect_latest(100);
  EXPECT_EQ(names(), (std::vector<std::string>{"latest", "step-000100"}));

  const CheckpointReader reader(latest());
  const CheckpointInfo expected = test_info(100), &info = reader.info();
  EXPECT_EQ(info.tokens_seen, expected.tokens_seen);
  EXPECT_EQ(info.seed, expected.seed);
  EXPECT_EQ(info.layout, expected.layout);
  EXPECT_EQ(info.mesh, expected.mesh);
  EXPECT_EQ(info.data_state, expected.data_state);
  EXPECT_EQ(info.config, expected.config);
  EXPECT_EQ(info.versions, expected.versions);
  for (const TensorInfo& tensor : reader.tensors()) EXPECT_TRUE(reader.contains(tensor.name));
  EXPECT_FALSE(reader.contains("model"));
  CheckpointReader(latest()).verify();
}

TEST_F(Checkpoint, ShardsAreHdf5WithNamedAttributes) {
  CheckpointWriter writer(run_, 3, *world_);
  const TestTensor tensor{"model.w", {6, 4}, DType::bf16};
  writer.save(
      test_info(1),
      {testing::make_piece(tensor, 1, {{0, 0}, {2, 4}}), testing::make_piece(tensor, 1, {{2, 0}, {4, 4}})},
      false);
  const Hdf5File shard = Hdf5File::open(latest() + "/shard-00000.h5");
  EXPECT_EQ(shard.datasets(), (std::vector<std::string>{"model.w", "model.w@1"}));
  EXPECT_EQ(shard.i64s_attribute("model.w@1", "global_shape"), (std::vector<std::int64_t>{6, 4}));
  EXPECT_EQ(shard.i64s_attribute("model.w@1", "offset"), (std::vector<std::int64_t>{2, 0}));
  EXPECT_EQ(shard.string_attribute("model.w@1", "dtype"), "bf16");
  EXPECT_EQ(shard.i64_attribute("", "step"), 1);
  const Tensor stored = shard.read("model.w@1", DType::bf16);
  EXPECT_EQ(values_of(stored), values_of(testing::box_values(tensor, 1, {{2, 0}, {4, 4}})));
}

TEST_F(Checkpoint, AnyPartitionReadsAsAnyOther) {
  std::mt19937 random(5);
  CheckpointWriter writer(run_, 1, *world_);
  for (int round = 0; round < 12; ++round) {
    std::vector<Piece> pieces;
    for (const TestTensor& tensor : test_tensors()) {
      for (const Box& box : testing::random_partition(whole_box(tensor.shape), 1 + round, random)) {
        pieces.push_back(testing::make_piece(tensor, round, box));
      }
      if (round % 3 == 0 && tensor.shape.numel() > 0) {  // copies of what other pieces hold
        pieces.push_back(testing::make_piece(tensor, round, testing::random_box(tensor.shape, random)));
      }
    }
    std::shuffle(pieces.begin(), pieces.end(), random);
    writer.save(test_info(round), std::move(pieces), round % 2 == 0);
    writer.finish();
    CheckpointReader reader(latest());
    expect_checkpoint(reader, round);
    for (const TestTensor& tensor : test_tensors()) {
      for (int i = 0; i < 20; ++i) {
        const Box box = testing::random_box(tensor.shape, random);
        const Tensor expected = testing::box_values(tensor, round, box);
        const Tensor found =
            Tensor::empty(box.shape, is_float(tensor.dtype) && i % 2 == 0 ? DType::f64 : tensor.dtype);
        reader.read(tensor.name, box, found);
        ASSERT_EQ(values_of(found), values_of(expected))
            << tensor.name << " " << box.shape.str() << box.offset.str();
      }
    }
  }
}

TEST_F(Checkpoint, LargePiecesReadInWindows) {
  // Rows longer and shorter than the read buffer; columns that skip through it.
  const TestTensor tensor{"w", {5, 400'000}, DType::f32};
  CheckpointWriter writer(run_, 1, *world_);
  writer.save(test_info(1), {testing::make_piece(tensor, 1, whole_box(tensor.shape))}, false);
  CheckpointReader reader(latest());
  for (const Box& box :
       {whole_box(tensor.shape), Box{{1, 3}, {3, 399'990}}, Box{{0, 7}, {5, 11}}, Box{{4, 0}, {1, 400'000}}}) {
    for (const DType dtype : {DType::f32, DType::f64, DType::bf16}) {
      const Tensor found = Tensor::empty(box.shape, dtype);
      reader.read("w", box, found);
      ASSERT_EQ(values_of(found), values_of(testing::box_values(tensor, 1, box)));
    }
  }
}

TEST_F(Checkpoint, AsyncHasItsOwnCopyOnceItWasAwaited) {
  CheckpointWriter writer(run_, 3, *world_);
  EXPECT_TRUE(writer.poll());
  std::vector<Piece> pieces = whole_pieces(7);
  writer.await_copy();  // of nothing
  writer.save(test_info(7), pieces, true);
  writer.await_copy();
  for (const Piece& piece : pieces) piece.data.zero_();
  EXPECT_TRUE(writer.in_flight());
  while (!writer.poll()) std::this_thread::yield();
  EXPECT_FALSE(writer.in_flight());
  expect_latest(7);

  // A new save completes the one in flight.
  writer.save(test_info(8), whole_pieces(8), true);
  writer.save(test_info(9), whole_pieces(9), true);
  EXPECT_NE(latest(), run_ + "/checkpoints/step-000007");
  EXPECT_GE(writer.seconds_waited(), 0);
  writer.finish();
  expect_latest(9);
}

TEST_F(Checkpoint, AWriterDestroyedInFlightLeavesAWholeCheckpointOrNone) {
  {
    CheckpointWriter writer(run_, 3, *world_);
    writer.save(test_info(1), whole_pieces(1), false);
    writer.save(test_info(2), whole_pieces(2), true);
  }
  const bool complete = latest().ends_with("2");  // it may have been faster
  expect_latest(complete ? 2 : 1);
  const CheckpointWriter writer(run_, 3, *world_);
  std::vector<std::string> expected{"latest", "step-000001"};
  if (complete) expected.emplace_back("step-000002");
  EXPECT_EQ(names(), expected);
}

TEST_F(Checkpoint, CompletesWithoutTheMainThread) {
  CheckpointWriter writer(run_, 3, *world_);
  writer.save(test_info(1), whole_pieces(1), true);
  const std::string manifest = run_ + "/checkpoints/step-000001/manifest.json";
  while (!fs::exists(run_ + "/checkpoints/latest")) std::this_thread::yield();
  EXPECT_TRUE(fs::exists(manifest));
  expect_latest(1);
  writer.finish();
  EXPECT_EQ(names(), (std::vector<std::string>{"latest", "step-000001"}));
}

TEST_F(Checkpoint, KeepCountsWholeCheckpoints) {
  CheckpointWriter writer(run_, 2, *world_);
  for (const std::int64_t step : {1, 2}) writer.save(test_info(step), whole_pieces(step), false);
  fs::resize_file(run_ + "/checkpoints/step-000002/shard-00000.h5", 100);
  writer.save(test_info(3), whole_pieces(3), false);  // 2 does not count: 1 stays
  EXPECT_EQ(names(), (std::vector<std::string>{"latest", "step-000001", "step-000002", "step-000003"}));
  writer.save(test_info(4), whole_pieces(4), false);  // 3 and 4 do
  EXPECT_EQ(names(), (std::vector<std::string>{"latest", "step-000003", "step-000004"}));
  expect_latest(4);
}

TEST_F(Checkpoint, KeepsTheNewest) {
  CheckpointWriter writer(run_, 2, *world_);
  for (const std::int64_t step : {10, 20, 30, 1'234'567})
    writer.save(test_info(step), whole_pieces(step), false);
  EXPECT_EQ(names(), (std::vector<std::string>{"latest", "step-000030", "step-1234567"}));
  expect_latest(1'234'567);

  // Gone back to an earlier step: what lies ahead is not touched, the new one is the latest.
  writer.save(test_info(25), whole_pieces(25), false);
  expect_latest(25);
  EXPECT_EQ(names(), (std::vector<std::string>{"latest", "step-000025", "step-000030", "step-1234567"}));
}

TEST_F(Checkpoint, ReplacesAStep) {
  CheckpointWriter writer(run_, 1, *world_);
  writer.save(test_info(5), whole_pieces(4), false);
  writer.save(test_info(5), whole_pieces(5), false);
  expect_latest(5);
  EXPECT_EQ(names(), (std::vector<std::string>{"latest", "step-000005"}));
}

TEST_F(Checkpoint, NamesOfSteps) {
  EXPECT_EQ(step_name(100), "step-000100");
  EXPECT_EQ(step_of_name("step-000100"), 100);
  EXPECT_EQ(step_of_name("step-1234567"), 1'234'567);
  for (const char* name : {"step-100", "step-000100.tmp", "step-0000100", "step--00001", "step-00010x", "step-",
                           "latest", "", "step-99999999999999999999", "../step-000100"}) {
    EXPECT_FALSE(step_of_name(name).has_value()) << name;
  }
}

TEST_F(Checkpoint, StatesThatAKilledSaveLeaves) {
  const std::string checkpoints = run_ + "/checkpoints";
  const auto copy = [&](const std::string& from, const std::string& to) {
    fs::copy(checkpoints + "/" + from, checkpoints + "/" + to, fs::copy_options::recursive);
  };
  const auto start = [&] {
    fs::remove_all(checkpoints);
    CheckpointWriter writer(run_, 3, *world_);
    writer.save(test_info(1), whole_pieces(1), false);
    writer.save(test_info(2), whole_pieces(2), false);
  };
  const std::vector<std::string> clean{"latest", "step-000001", "step-000002"};
  const auto expect_cleaned = [&](std::int64_t step) {
    expect_latest(step);
    const CheckpointWriter writer(run_, 3, *world_);
    expect_latest(step);
    EXPECT_EQ(names(), clean);
  };

  start();  // while shards are written
  copy("step-000002", "step-000003.tmp");
  fs::remove(checkpoints + "/step-000003.tmp/manifest.json");
  expect_cleaned(2);

  start();  // after the manifest, before the rename
  copy("step-000002", "step-000003.tmp");
  expect_cleaned(2);

  start();  // after the rename, before `latest`
  write_file(checkpoints + "/latest", "step-000001\n");
  write_file(checkpoints + "/latest.tmp", "step-0");
  expect_cleaned(1);

  start();  // replacing a step: the old one moved away
  copy("step-000002", "step-000002.tmp");
  fs::rename(checkpoints + "/step-000002", checkpoints + "/step-000002.replaced");
  EXPECT_EQ(latest(), checkpoints + "/step-000002.replaced");
  { const CheckpointWriter writer(run_, 3, *world_); }
  expect_cleaned(2);

  start();  // replacing a step: the new one in place
  copy("step-000001", "step-000002.replaced");
  expect_cleaned(2);

  start();  // removing an old step
  copy("step-000001", "step-000000.removed");
  fs::remove(checkpoints + "/step-000000.removed/shard-00000.h5");
  expect_cleaned(2);
}

TEST_F(Checkpoint, FindLatestFallsBackWithAWarning) {
  const std::string checkpoints = run_ + "/checkpoints";
  std::vector<std::string> warnings;
  EXPECT_FALSE(find_latest(run_, &warnings).has_value());
  EXPECT_FALSE(find_latest(run_ + "/nowhere", &warnings).has_value());
  fs::create_directories(checkpoints + "/step-000007");  // without a manifest: not there
  EXPECT_FALSE(find_latest(run_, &warnings).has_value());
  EXPECT_TRUE(warnings.empty());
  fs::remove(checkpoints + "/step-000007");

  CheckpointWriter writer(run_, 9, *world_);
  for (const std::int64_t step : {1, 2, 3}) writer.save(test_info(step), whole_pieces(step), false);
  const auto falls_back_to = [&](std::int64_t step, const std::string& reason) {
    warnings.clear();
    const auto found = find_latest(run_, &warnings);
    ASSERT_TRUE(found.has_value());
    EXPECT_EQ(*found, checkpoints + "/" + step_name(step));
    ASSERT_GE(warnings.size(), 2u);
    EXPECT_TRUE(contains(warnings.front(), reason)) << warnings.front();
    EXPECT_TRUE(contains(warnings.back(), *found)) << warnings.back();
  };

  for (const char* text : {"", "step-3", "../../etc", "/", "step-000003.tmp", "step-000003 ", "\x01\x02"}) {
    write_file(checkpoints + "/latest", text);
    falls_back_to(3, "is not the name of a step");
  }
  write_file(checkpoints + "/latest", std::string(1000, 'x'));
  falls_back_to(3, "1000 bytes");
  write_file(checkpoints + "/latest", "step-000009\n");
  falls_back_to(3, "step-000009");
  fs::remove(checkpoints + "/latest");
  falls_back_to(3, "latest");

  write_file(checkpoints + "/latest", "step-000003\n");
  fs::resize_file(checkpoints + "/step-000003/shard-00000.h5", 100);
  falls_back_to(2, "truncated");
  fs::remove(checkpoints + "/step-000002/shard-00000.h5");
  falls_back_to(1, "truncated");

  // What reading found counts like what looking finds.
  write_file(checkpoints + "/step-000007/manifest.json", "{}");
  const std::vector<StepState> states = list_checkpoints(run_);
  ASSERT_EQ(states.size(), 4u);
  EXPECT_EQ(states[0].fault, "");
  EXPECT_TRUE(contains(states[1].fault, "No such file")) << states[1].fault;
  EXPECT_TRUE(states[2].latest);
  EXPECT_TRUE(contains(states[3].fault, "no checksum")) << states[3].fault;
  fs::remove_all(checkpoints + "/step-000007");
  warnings.clear();
  EXPECT_ERROR(
      [&] {
        try {
          find_latest(run_, &warnings, {{checkpoints + "/step-000001", "flipped"}});
        } catch (const Error& error) {
          throw Error(error.problems().back());
        }
      }(),
      "flipped", "no complete checkpoint");

  // Nothing complete: an error, not a new beginning.
  write_file(checkpoints + "/step-000001/manifest.json", "{}");
  try {
    find_latest(run_, &warnings);
    FAIL() << "no Error was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.problems().size(), 3u) << error.what();
    EXPECT_TRUE(contains(error.what(), "no complete checkpoint")) << error.what();
  }
}

TEST_F(Checkpoint, ResolveTakesAStepOrARun) {
  std::vector<std::string> warnings;
  EXPECT_ERROR(resolve_checkpoint(run_ + "/none", &warnings), "none", "no such directory");
  EXPECT_ERROR(resolve_checkpoint(run_, &warnings), run_, "neither a run directory");
  CheckpointWriter writer(run_, 2, *world_);
  writer.save(test_info(1), whole_pieces(1), false);
  writer.save(test_info(2), whole_pieces(2), false);
  EXPECT_EQ(resolve_checkpoint(run_, &warnings), run_ + "/checkpoints/step-000002");
  EXPECT_EQ(resolve_checkpoint(run_ + "/checkpoints/step-000001", &warnings),
            run_ + "/checkpoints/step-000001");
}

}  // namespace
}  // namespace hysparse
