/// Hostile and damaged safetensors files: each fault is one Error that names the file and what is wrong.
#include <cstring>
#include <random>

#include <gtest/gtest.h>

#include "checkpoint/safetensors.h"
#include "tests/checkpoint/support.h"
#include "tests/data/temporary_directory.h"

namespace hysparse {
namespace {

using testing::replace_file;

std::string file_of(const std::string& header, std::size_t data_bytes, std::uint64_t header_bytes) {
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &header_bytes, 8);
  return bytes + header + std::string(data_bytes, '\1');
}
std::string file_of(const std::string& header, std::size_t data_bytes) {
  return file_of(header, data_bytes, header.size());
}

/// A header of one f32 tensor "x" with the given rest.
std::string x(const std::string& shape, const std::string& offsets, const std::string& dtype = "F32") {
  return R"({"x":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}";
}

struct Fault {
  const char* what;
  std::string bytes;
  const char* reason;
};

std::vector<Fault> faults() {
  const std::string good = x("[2]", "[0,8]");
  const std::string two = R"("shape":[1],"data_offsets":)";
  return {
      {"empty file", "", "too few"},
      {"seven bytes", "1234567", "too few"},
      {"no header", std::string(8, '\0'), "does not start with '{'"},
      {"a text file", "Call me Ishmael. Some years ago", "at most 100000000"},
      {"header longer than allowed", file_of(good, 8, 100'000'001), "at most 100000000"},
      {"header length of all ones", file_of(good, 8, ~std::uint64_t{0}), "at most 100000000"},
      {"header longer than the file", file_of(good, 8, good.size() + 9), "truncated"},
      {"header cut", file_of(good, 8, good.size() - 1), "not valid JSON"},
      {"header starts with a space", file_of(" " + good, 8), "does not start with '{'"},
      {"header is a list", file_of("[]", 0), "does not start with '{'"},
      {"zero bytes as padding", file_of(good + std::string(3, '\0'), 8), "not valid JSON"},
      {"text after the object", file_of(good + "{}", 8), "not valid JSON"},
      {"bad UTF-8", file_of("{\"\xff\":{}}", 0), "not valid JSON"},
      {"data cut", file_of(good, 7), "truncated"},
      {"no data", file_of(good, 0), "truncated"},
      {"too much data", file_of(good, 9), "too long"},
      {"hole before", file_of(x("[2]", "[4,12]"), 12), "hole"},
      {"overlap",
       file_of(R"({"x":{"dtype":"F32",)" + two + R"([0,4]},"y":{"dtype":"F32",)" + two + R"([0,4]}})", 4),
       "overlap"},
      {"hole between",
       file_of(R"({"x":{"dtype":"F32",)" + two + R"([0,4]},"y":{"dtype":"F32",)" + two + R"([5,9]}})", 9),
       "hole"},
      {"offsets backwards", file_of(x("[2]", "[8,0]"), 8), "do not hold"},
      {"offsets of another size", file_of(x("[3]", "[0,8]"), 8), "do not hold the 12 bytes"},
      {"offsets wrap around", file_of(x("[2]", "[18446744073709551615,7]"), 8), "do not hold"},
      {"one offset", file_of(x("[2]", "[0]"), 8), "two data_offsets"},
      {"three offsets", file_of(x("[2]", "[0,8,8]"), 8), "more than 2"},
      {"negative offset", file_of(x("[2]", "[-8,0]"), 8), "cannot be the number -8"},
      {"fractional offset", file_of(x("[2]", "[0,8.0]"), 8), "cannot be the number 8.0"},
      {"offset beyond 64 bits", file_of(x("[2]", "[0,18446744073709551616]"), 8), "cannot be the number"},
      {"shape product overflows", file_of(x("[4294967296,4294967296]", "[0,0]"), 0), "too large"},
      {"shape product overflows to the right size", file_of(x("[4611686018427387906]", "[0,8]"), 8),
       "too large"},
      {"size beyond 63 bits", file_of(x("[9223372036854775808]", "[0,0]"), 0), "too large"},
      {"overflow hidden by a zero", file_of(x("[4294967296,4294967296,0]", "[0,0]"), 0), "too large"},
      {"negative size", file_of(x("[-2]", "[0,8]"), 8), "cannot be the number -2"},
      {"five dims", file_of(x("[1,1,1,1,2]", "[0,8]"), 8), "more than 4"},
      {"nested shape", file_of(x("[[2]]", "[0,8]"), 8), "cannot be an array"},
      {"shape is a number", file_of(x("2", "[0,8]"), 8), "shape of tensor 'x' cannot be the number 2"},
      {"shape is a string", file_of(x("\"2\"", "[0,8]"), 8), "cannot be the string '2'"},
      {"unknown dtype", file_of(x("[2]", "[0,8]", "F31"), 8), "unknown dtype 'F31'"},
      {"dtype in lower case", file_of(x("[2]", "[0,8]", "f32"), 8), "unknown dtype 'f32'"},
      {"dtype is a number", file_of(R"({"x":{"dtype":3,"shape":[2],"data_offsets":[0,8]}})", 8),
       "dtype of tensor 'x'"},
      {"dtype is a list", file_of(R"({"x":{"dtype":["F32"],"shape":[2],"data_offsets":[0,8]}})", 8),
       "cannot be an array"},
      {"no dtype", file_of(R"({"x":{"shape":[2],"data_offsets":[0,8]}})", 8), "needs dtype"},
      {"no shape", file_of(R"({"x":{"dtype":"F32","data_offsets":[0,8]}})", 8), "needs dtype, shape"},
      {"no offsets", file_of(R"({"x":{"dtype":"F32","shape":[2]}})", 8), "data_offsets"},
      {"unknown key", file_of(R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"z":0}})", 8),
       "unknown key 'z'"},
      {"key twice", file_of(R"({"x":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8),
       "twice"},
      {"tensor twice",
       file_of(R"({"x":{"dtype":"F32",)" + two + R"([0,4]},"x":{"dtype":"F32",)" + two + R"([4,8]}})", 8),
       "'x' appears twice"},
      {"tensor is a number", file_of(R"({"x":7})", 0), "tensor 'x' cannot be the number 7"},
      {"tensor is null", file_of(R"({"x":null})", 0), "cannot be null"},
      {"tensor is true", file_of(R"({"x":true})", 0), "cannot be a boolean"},
      {"tensor is a list", file_of(R"({"x":[]})", 0), "cannot be an array"},
      {"object within a tensor", file_of(R"({"x":{"dtype":{}}})", 0), "cannot be an object"},
      {"metadata is a list", file_of(R"({"__metadata__":[]})", 0), "__metadata__ cannot be an array"},
      {"metadata holds a number", file_of(R"({"__metadata__":{"a":1}})", 0),
       "__metadata__ cannot be the number 1"},
      {"metadata key twice", file_of(R"({"__metadata__":{"a":"1","a":"1"}})", 0), "'a' appears twice"},
      {"metadata twice", file_of(R"({"__metadata__":{},"__metadata__":{}})", 0), "appears twice"},
      {"deeply nested", file_of("{\"x\":" + std::string(1'000'000, '['), 0), "cannot be an array"},
  };
}

TEST(SafetensorsFaults, EachIsNamed) {
  const TemporaryDirectory directory;
  for (const Fault& fault : faults()) {
    SCOPED_TRACE(fault.what);
    replace_file(directory / "f.safetensors", fault.bytes);
    EXPECT_ERROR(SafetensorsReader(directory / "f.safetensors"), directory / "f.safetensors", fault.reason);
  }
}

TEST(SafetensorsFaults, WhatIsAllowedIsRead) {
  const TemporaryDirectory directory;
  const auto entries = [&](const std::string& bytes) {
    replace_file(directory / "f", bytes);
    return SafetensorsReader(directory / "f").entries();
  };
  EXPECT_EQ(entries(file_of("{}", 0)).size(), 0u);
  EXPECT_EQ(entries(file_of(R"({"__metadata__":{"a":"b"}})", 0)).size(), 0u);
  EXPECT_EQ(entries(file_of(x("[2]", "[0,8]") + "     ", 8)).size(), 1u);
  EXPECT_EQ(entries(file_of(x("[0,9]", "[0,0]"), 0)).at(0).shape, (Shape{0, 9}));
  EXPECT_EQ(entries(file_of(x("[]", "[0,1]", "F8_E4M3"), 1)).at(0).dtype, StoredDType::f8_e4m3);
  // Listed out of order, and a tensor without elements between two others.
  const auto sorted = entries(file_of(
      R"({"c":{"dtype":"U8","shape":[2],"data_offsets":[1,3]},"b":{"dtype":"U8","shape":[0],"data_offsets":[1,1]},)"
      R"("a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
      3));
  ASSERT_EQ(sorted.size(), 3u);
  EXPECT_EQ(sorted[0].name + sorted[1].name + sorted[2].name, "abc");
}

TEST(SafetensorsFaults, DTypesThatDoNotConvert) {
  const TemporaryDirectory directory;
  replace_file(directory / "f", file_of(x("[2]", "[0,2]", "F8_E5M2"), 2));
  const SafetensorsReader reader(directory / "f");
  EXPECT_ERROR(reader.read("x", DType::f32), directory / "f", "F8_E5M2, which cannot be read as f32");
  EXPECT_ERROR(reader.read("y", DType::f32), directory / "f", "has no tensor 'y'");
}

TEST(SafetensorsFaults, EveryTruncationIsFound) {
  const TemporaryDirectory directory;
  const std::string good = file_of(x("[2]", "[0,8]"), 8);
  for (std::size_t bytes = 0; bytes < good.size(); ++bytes) {
    replace_file(directory / "f", good.substr(0, bytes));
    EXPECT_THROW(SafetensorsReader(directory / "f"), Error) << bytes;
  }
}

TEST(SafetensorsFaults, RandomBytesInTheHeaderNeverCrash) {
  const TemporaryDirectory directory;
  auto writer =
      SafetensorsWriter::to_file(directory / "good", {{"x", DType::f32, {3, 2}}, {"y", DType::f64, {1}}});
  writer.write("x", Tensor::zeros({3, 2}, DType::f32));
  writer.write("y", Tensor::zeros({1}, DType::f32));
  writer.finish();
  const std::string good = read_file(directory / "good");
  std::mt19937 random(4);
  int refused = 0;
  constexpr int rounds = 2000;
  for (int round = 0; round < rounds; ++round) {
    std::string bad = good;
    for (int change = 0; change < 1 + round % 3; ++change) {
      bad[random() % bad.size()] =
          static_cast<char>(random() % 3 == 0 ? random() % 256 : "0123456789{}[],:\""[random() % 17]);
    }
    replace_file(directory / "bad", bad);
    try {
      const SafetensorsReader reader(directory / "bad");
      for (const SafetensorsEntry& entry : reader.entries()) reader.read(entry.name, DType::f32);
    } catch (const Error& error) {
      EXPECT_TRUE(contains(error.what(), directory / "bad")) << error.what();
      ++refused;
    }
  }
  EXPECT_GT(refused, rounds / 3);  // the others changed a name or data
}

TEST(SafetensorsFaults, IndexFiles) {
  const TemporaryDirectory directory;
  replace_file(directory / "secret.safetensors", file_of(x("[2]", "[0,8]"), 8));
  const std::string model = directory / "model";
  const std::string index = model + "/model.safetensors.index.json";
  replace_file(model + "/s.safetensors", file_of(x("[2]", "[0,8]"), 8));
  const auto with = [&](const std::string& text) {
    replace_file(index, text);
    return error_message([&] { SafetensorsReader reader(model); });
  };
  const auto map = [](const std::string& file) { return R"({"weight_map":{"x":")" + file + R"("}})"; };
  for (const char* file :
       {"../secret.safetensors", "/etc/passwd", "a/../s.safetensors", ".safetensors", "", "..", "s.bin",
        "sub/s.safetensors", "s.safetensors\\u0000", "..\\\\secret.safetensors"}) {
    const std::string message = with(map(file));
    EXPECT_TRUE(contains(message, index) && contains(message, "plain name")) << message;
  }
  EXPECT_TRUE(contains(with(map("missing.safetensors")), "missing.safetensors: cannot open"));
  EXPECT_TRUE(contains(with(R"({"weight_map":{"y":"s.safetensors"}})"), "tensor 'y' is not in s.safetensors"));
  EXPECT_TRUE(
      contains(with(R"({"weight_map":{"x":"s.safetensors","x":"s.safetensors"}})"), "'x' appears twice"));
  EXPECT_TRUE(contains(with(R"({"weight_map":{"x":3}})"), "not a string"));
  EXPECT_TRUE(contains(with(R"({"weight_map":[]})"), "no weight_map object"));
  EXPECT_TRUE(contains(with(R"([])"), "no weight_map object"));
  EXPECT_TRUE(contains(with("{"), "not valid JSON"));
  EXPECT_TRUE(contains(with(""), "not valid JSON"));
  replace_file(index, map("s.safetensors"));
  EXPECT_EQ(SafetensorsReader(model).entries().size(), 1u);

  std::filesystem::remove(index);
  std::filesystem::remove(model + "/s.safetensors");
  EXPECT_ERROR(SafetensorsReader(model), model, "holds neither model.safetensors nor");
  EXPECT_ERROR(SafetensorsReader(directory / "nowhere"), "nowhere", "cannot open");
}

}  // namespace
}  // namespace hysparse
