#include "checkpoint/file.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "checkpoint/stored_dtype.h"
#include "core/strict_json.h"
#include "tests/data/temporary_directory.h"

namespace hysparse {
namespace {

TEST(File, ReadsWhatWasWritten) {
  const TemporaryDirectory directory;
  File file = File::create(directory / "f");
  file.write(3, "abc", 3);
  file.sync();
  EXPECT_EQ(file.size(), 6);
  file.close();
  const File again = File::open(directory / "f");
  std::string text(6, 'x');
  again.read(0, text.data(), 6);
  EXPECT_EQ(text, std::string("\0\0\0abc", 6));
  EXPECT_ERROR(again.read(4, text.data(), 3), directory / "f", "ends at byte 6");
}

TEST(File, RefusesWhatIsNoRegularFile) {
  const TemporaryDirectory directory;
  EXPECT_ERROR(File::open(directory / "missing"), "missing", "No such file");
  EXPECT_ERROR(File::open(directory.path()), directory.path(), "not a regular file");
  EXPECT_ERROR(File::open("/dev/zero"), "/dev/zero", "not a regular file");
}

TEST(File, FullDeviceIsAFailure) {
  File full = File::create("/dev/full");
  EXPECT_THROW(full.write(0, "abc", 3), Failure);
  EXPECT_THROW(File::create("/nonexistent/f"), Failure);
}

TEST(File, AtomicWriteReplacesAndLeavesNothingElse) {
  const TemporaryDirectory directory;
  write_file_atomically(directory / "f", "one");
  write_file_atomically(directory / "f", "two");
  EXPECT_EQ(read_file(directory / "f"), "two");
  EXPECT_FALSE(std::filesystem::exists(directory / "f.tmp"));
  std::filesystem::create_directories(directory / "d/full");
  EXPECT_THROW(write_file_atomically(directory / "d", "three"), Failure);
  EXPECT_FALSE(std::filesystem::exists(directory / "d.tmp"));
}

TEST(File, DigestOfAFileIsThatOfItsBytes) {
  const TemporaryDirectory directory;
  for (const std::size_t size : {0, 1, 100, 5'000'000}) {
    std::string bytes(size, 'a');
    for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(i * 31 % 251);
    write_file(directory / "f", bytes);
    const std::size_t block = 4096;
    const FileDigest digest = digest_file(directory / "f", block);
    EXPECT_EQ(digest.bytes, static_cast<std::int64_t>(size));
    ASSERT_EQ(digest.blocks.size(), (size + block - 1) / block);
    for (std::size_t i = 0; i < digest.blocks.size(); ++i)
      EXPECT_EQ(hex_text(digest.blocks[i]), xxh3_hex(bytes.substr(i * block, block)));
  }
  EXPECT_EQ(xxh3_hex(""), "2d06800538d394c2");  // XXH3_64bits of nothing, as xxhsum -H3 prints it
}

TEST(StrictJson, RefusesDuplicateKeysDepthAndSyntax) {
  EXPECT_EQ(parse_json(R"({"a": [1, {"b": null}], "c": "d"})", "f").dump(), R"({"a":[1,{"b":null}],"c":"d"})");
  EXPECT_EQ(parse_json("3", "f"), 3);
  EXPECT_ERROR(parse_json(R"({"a": 1, "a": 2})", "the/file"), "the/file", "'a' appears twice");
  EXPECT_ERROR(parse_json(R"([{"a": {"b\n": 1, "b\n": 2}}])", "the/file"), "the/file",
               "'b\\x0a' appears twice");
  EXPECT_ERROR(parse_json(std::string(100'000, '['), "the/file"), "the/file", "nested deeper than 16");
  for (const char* text : {"", "{", "{}}", "[1,]", "{\"a\"}", "nul", "\"\xff\"", "{\"a\":1e999}", "\x01"}) {
    EXPECT_ERROR(parse_json(text, "the/file"), "the/file", "not valid JSON");
  }
  EXPECT_ERROR(parse_json(std::string_view("{}\0", 3), "the/file"), "the/file", "not valid JSON: NUL byte");
}

TEST(StoredDType, HalfPrecisionConvertsExactly) {
  for (int bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    float found = 0;
    convert_elements(StoredDType::f16, &half, DType::f32, &found, 1);
    const int exponent = (bits >> 10) & 31, mantissa = bits & 1023;
    const double magnitude = exponent == 31
                                 ? (mantissa == 0 ? std::numeric_limits<double>::infinity() : std::nan(""))
                             : exponent == 0 ? std::ldexp(mantissa, -24)
                                             : std::ldexp(1024 + mantissa, exponent - 25);
    if (std::isnan(magnitude)) {
      ASSERT_TRUE(std::isnan(found)) << bits;
    } else {
      ASSERT_EQ(found, static_cast<float>(magnitude) * (bits & 0x8000 ? -1 : 1)) << bits;
    }
    ASSERT_EQ(std::signbit(found), (bits & 0x8000) != 0) << bits;
  }
}

TEST(StoredDType, KnowsWhatConverts) {
  EXPECT_TRUE(converts(StoredDType::f16, DType::bf16));
  EXPECT_TRUE(converts(StoredDType::boolean, DType::u8));
  EXPECT_FALSE(converts(StoredDType::i64, DType::i32));
  EXPECT_FALSE(converts(StoredDType::f32, DType::i32));
  EXPECT_FALSE(converts(StoredDType::f8_e4m3, DType::f32));
  for (const char* name : {"F64", "F32", "F16", "BF16", "F8_E4M3", "I64", "U16", "BOOL"}) {
    EXPECT_EQ(stored_name(stored_dtype_of_name(name).value()), name);
  }
  EXPECT_FALSE(stored_dtype_of_name("f32").has_value());
}

}  // namespace
}  // namespace hysparse
