#include "checkpoint/safetensors.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "core/strict_json.h"
#include "tests/data/temporary_directory.h"

namespace hysparse {
namespace {

namespace fs = std::filesystem;

Tensor ramp(Shape shape, DType dtype, double first = 0) {
  const Tensor t = Tensor::empty(shape, DType::f64);
  for (std::int64_t i = 0; i < t.numel(); ++i) t.data<double>()[i] = first + static_cast<double>(i);
  return t.to(dtype);
}

const std::vector<SafetensorsTensor> three = {
    {"b", DType::f32, {3, 4}}, {"a\"\n\xc3\xa9", DType::bf16, {5}}, {"scalar", DType::f64, {}}};

void write_three(SafetensorsWriter writer) {
  writer.write("b", ramp({3, 4}, DType::f32));
  writer.write("a\"\n\xc3\xa9", ramp({5}, DType::f64, 0.5));
  writer.write("scalar", ramp({}, DType::f64, -7));
  writer.finish();
}

void expect_three(const SafetensorsReader& reader) {
  ASSERT_EQ(reader.entries().size(), 3u);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(reader.entries()[i].name, three[i].name);
    EXPECT_EQ(reader.entries()[i].dtype, stored_dtype(three[i].dtype));
    EXPECT_EQ(reader.entries()[i].shape, three[i].shape);
  }
  EXPECT_EQ(reader.read("b", DType::f32).to_vector<float>(), ramp({3, 4}, DType::f32).to_vector<float>());
  EXPECT_EQ(reader.read("b", DType::f64).to_vector<double>(), ramp({3, 4}, DType::f64).to_vector<double>());
  EXPECT_EQ(reader.read("a\"\n\xc3\xa9", DType::f64).to_vector<double>(),
            ramp({5}, DType::f64, 0.5).to_vector<double>());
  EXPECT_EQ(reader.read("scalar", DType::f32).to_vector<float>(), std::vector<float>{-7});
  EXPECT_EQ(reader.read_rows("b", 1, 3, DType::f64).to_vector<double>(),
            ramp({2, 4}, DType::f64, 4).to_vector<double>());
  EXPECT_EQ(reader.read_rows("b", 2, 2, DType::f32).shape(), (Shape{0, 4}));
  EXPECT_EQ(reader.find("c"), nullptr);
}

TEST(Safetensors, FileRoundTrip) {
  const TemporaryDirectory directory;
  write_three(SafetensorsWriter::to_file(directory / "grads.safetensors", three));
  expect_three(SafetensorsReader(directory / "grads.safetensors"));
  EXPECT_FALSE(fs::exists(directory / "grads.safetensors.tmp"));
}

TEST(Safetensors, BytesAreTheFormat) {
  const TemporaryDirectory directory;
  auto writer =
      SafetensorsWriter::to_file(directory / "f", {{"x", DType::f32, {2}}, {"y", DType::bf16, {1, 1}}});
  writer.write("x", Tensor::from<float>({1, -2}, {2}));
  writer.write("y", Tensor::from<float>({3}, {1, 1}));
  writer.finish();
  std::string header =
      R"({"__metadata__":{"format":"pt"},"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
      R"("y":{"dtype":"BF16","shape":[1,1],"data_offsets":[8,10]}})";
  while (header.size() % 8 != 0) header += ' ';
  std::string expected(8, '\0');
  expected[0] = static_cast<char>(header.size());
  expected += header;
  expected += std::string("\x00\x00\x80\x3f\x00\x00\x00\xc0\x40\x40", 10);
  EXPECT_EQ(read_file(directory / "f"), expected);
}

TEST(Safetensors, DirectoryHoldsOneFileWhenItFits) {
  const TemporaryDirectory directory;
  write_three(SafetensorsWriter::to_directory(directory.path(), three));
  EXPECT_TRUE(fs::exists(directory / "model.safetensors"));
  EXPECT_FALSE(fs::exists(directory / "model.safetensors.index.json"));
  expect_three(SafetensorsReader(directory.path()));
}

TEST(Safetensors, ShardsWithIndex) {
  const TemporaryDirectory directory;
  write_file(directory / "model.safetensors", "of an earlier export");
  write_three(SafetensorsWriter::to_directory(directory.path(), three, 58));  // 48 + 10, then 8
  expect_three(SafetensorsReader(directory.path()));
  EXPECT_FALSE(fs::exists(directory / "model.safetensors"));
  EXPECT_EQ(SafetensorsReader(directory / "model-00001-of-00002.safetensors").entries().size(), 2u);
  const auto index = parse_json(read_file(directory / "model.safetensors.index.json"), "index");
  EXPECT_EQ(index["metadata"]["total_size"], 66);
  EXPECT_EQ(index["weight_map"].size(), 3u);
  EXPECT_EQ(index["weight_map"]["scalar"], "model-00002-of-00002.safetensors");

  // And back to one file.
  write_three(SafetensorsWriter::to_directory(directory.path(), three));
  EXPECT_FALSE(fs::exists(directory / "model.safetensors.index.json"));
  expect_three(SafetensorsReader(directory.path()));
}

TEST(Safetensors, ATensorLargerThanAShardHasItsOwn) {
  const TemporaryDirectory directory;
  write_three(SafetensorsWriter::to_directory(directory.path(), three, 1));
  EXPECT_TRUE(fs::exists(directory / "model-00003-of-00003.safetensors"));
  expect_three(SafetensorsReader(directory.path()));
}

TEST(Safetensors, TensorsComeInPartsAndMayBeEmpty) {
  const TemporaryDirectory directory;
  const std::vector<SafetensorsTensor> tensors = {{"none", DType::f32, {0, 3}},
                                                  {"x", DType::f64, {5, 3}},
                                                  {"nothing", DType::f32, {4, 0}},
                                                  {"i", DType::i64, {2}},
                                                  {"void", DType::u8, {0}}};
  for (const std::int64_t shard_bytes : {std::int64_t{1}, SafetensorsWriter::max_shard_bytes}) {
    auto writer = SafetensorsWriter::to_directory(directory.path(), tensors, shard_bytes);
    const Tensor x = ramp({5, 3}, DType::f32);
    writer.write("x", x.slice(0, 2));
    writer.write("x", x.slice(2, 2));
    writer.write("x", x.slice(2, 5));
    writer.write("i", Tensor::from<std::int64_t>({1, -2}, {2}));
    writer.finish();
    const SafetensorsReader reader(directory.path());
    EXPECT_EQ(reader.entries().size(), 5u);
    EXPECT_EQ(reader.read("x", DType::f64).to_vector<double>(), x.to(DType::f64).to_vector<double>());
    EXPECT_EQ(reader.read("i", DType::i64).to_vector<std::int64_t>(), (std::vector<std::int64_t>{1, -2}));
    EXPECT_EQ(reader.read("nothing", DType::f32).shape(), (Shape{4, 0}));
    EXPECT_EQ(reader.read_rows("nothing", 1, 3, DType::f32).shape(), (Shape{2, 0}));
    EXPECT_EQ(reader.read("none", DType::bf16).numel(), 0);
  }
}

TEST(Safetensors, LargeTensorsConvertInParts) {
  const TemporaryDirectory directory;
  const std::int64_t rows = 3001, columns = 701;  // more than one buffer, a multiple of none
  const Tensor x = Tensor::empty({rows, columns}, DType::f32);
  for (std::int64_t i = 0; i < x.numel(); ++i) x.data<float>()[i] = static_cast<float>(i % 251);
  auto writer = SafetensorsWriter::to_file(directory / "f", {{"x", DType::bf16, x.shape()}});
  writer.write("x", x);
  writer.finish();
  const SafetensorsReader reader(directory / "f");
  EXPECT_EQ(reader.read("x", DType::f32).to_vector<float>(), x.to_vector<float>());
  EXPECT_EQ(reader.read_rows("x", 7, 2990, DType::f32).to_vector<float>(), x.slice(7, 2990).to_vector<float>());
}

TEST(Safetensors, NoTensorsIsAFile) {
  const TemporaryDirectory directory;
  auto writer = SafetensorsWriter::to_directory(directory.path(), {});
  writer.finish();
  EXPECT_TRUE(SafetensorsReader(directory.path()).entries().empty());
}

TEST(Safetensors, UnfinishedWriterLeavesTheOldFile) {
  const TemporaryDirectory directory;
  write_three(SafetensorsWriter::to_directory(directory.path(), three));
  {
    auto writer = SafetensorsWriter::to_directory(directory.path(), three, 1);
    writer.write("b", ramp({3, 4}, DType::f32));
    writer.write("a\"\n\xc3\xa9", ramp({5}, DType::f32));
  }
  expect_three(SafetensorsReader(directory.path()));
  EXPECT_EQ(std::distance(fs::directory_iterator(directory.path()), fs::directory_iterator()), 1);
}

TEST(Safetensors, WriterChecksItsCaller) {
  const TemporaryDirectory directory;
  auto writer = SafetensorsWriter::to_file(directory / "f", three);
  EXPECT_THROW(writer.write("scalar", ramp({}, DType::f32)), CheckFailure);
  EXPECT_THROW(writer.write("b", ramp({13}, DType::f32)), CheckFailure);
  EXPECT_THROW(writer.finish(), CheckFailure);
  EXPECT_THROW(SafetensorsWriter::to_file(directory / "g", {{"x", DType::f32, {}}, {"x", DType::f32, {}}}),
               CheckFailure);
  EXPECT_THROW(SafetensorsWriter::to_file(directory / "missing/f", three), Failure);
}

}  // namespace
}  // namespace hysparse
