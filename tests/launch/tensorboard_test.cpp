// Event files, read back by a reader written here from the format's description.
#include "launch/tensorboard.h"

#include <bit>
#include <cstring>
#include <filesystem>
#include <map>
#include <stdexcept>

#include <gtest/gtest.h>

#include "tests/launch/text_files.h"

namespace hysparse {
namespace {

using testing::TextFiles;

TEST(Crc32c, KnownVectors) {
  // RFC 3720, B.4, and the check value of the polynomial.
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(crc32c(""), 0u);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43u);
  std::string ascending;
  for (int i = 0; i < 32; ++i) ascending.push_back(static_cast<char>(i));
  EXPECT_EQ(crc32c(ascending), 0x46dd794eu);
}

TEST(Crc32c, Mask) {
  // crc 0: only the constant is left.
  EXPECT_EQ(masked_crc32c(""), 0xa282ead8u);
  EXPECT_EQ(masked_crc32c("123456789"), ((0xe3069283u >> 15) | (0xe3069283u << 17)) + 0xa282ead8u);
}

template <class T>
T take(std::string_view& bytes) {
  if (bytes.size() < sizeof(T)) throw std::runtime_error("truncated");
  T value;
  std::memcpy(&value, bytes.data(), sizeof(T));
  bytes.remove_prefix(sizeof(T));
  return value;
}

std::uint64_t take_varint(std::string_view& bytes) {
  std::uint64_t value = 0;
  for (int shift = 0;; shift += 7) {
    const auto byte = take<std::uint8_t>(bytes);
    value |= static_cast<std::uint64_t>(byte & 0x7f) << shift;
    if (byte < 0x80) return value;
  }
}

/// One message: numbers by field as their bits, submessages and strings by field in order.
struct Message {
  std::map<std::uint64_t, std::uint64_t> numbers;
  std::map<std::uint64_t, std::vector<std::string>> bytes;
};

Message parse_message(std::string_view text) {
  Message message;
  while (!text.empty()) {
    const std::uint64_t key = take_varint(text);
    switch (key & 7) {
      case 0:
        message.numbers[key >> 3] = take_varint(text);
        break;
      case 1:
        message.numbers[key >> 3] = take<std::uint64_t>(text);
        break;
      case 5:
        message.numbers[key >> 3] = take<std::uint32_t>(text);
        break;
      case 2: {
        const std::uint64_t size = take_varint(text);
        if (size > text.size()) throw std::runtime_error("truncated");
        message.bytes[key >> 3].emplace_back(text.substr(0, size));
        text.remove_prefix(size);
        break;
      }
      default:
        throw std::runtime_error("unknown wire type");
    }
  }
  return message;
}

std::vector<Message> read_events(const std::string& path) {
  const std::string file = TextFiles::read(path);
  std::string_view rest = file;
  std::vector<Message> events;
  while (!rest.empty()) {
    const std::string_view length_bytes = rest.substr(0, 8);
    const auto length = take<std::uint64_t>(rest);
    EXPECT_EQ(take<std::uint32_t>(rest), masked_crc32c(length_bytes));
    const std::string_view bytes = rest.substr(0, length);
    rest.remove_prefix(length);
    EXPECT_EQ(take<std::uint32_t>(rest), masked_crc32c(bytes));
    events.push_back(parse_message(bytes));
  }
  return events;
}

std::map<std::string, float> scalars_of(const Message& event) {
  std::map<std::string, float> scalars;
  const Message summary = parse_message(event.bytes.at(5).at(0));
  for (const std::string& value : summary.bytes.at(1)) {
    const Message v = parse_message(value);
    scalars[v.bytes.at(1).at(0)] = std::bit_cast<float>(static_cast<std::uint32_t>(v.numbers.at(2)));
  }
  return scalars;
}

TEST(EventWriter, ReadsBack) {
  const TextFiles files;
  EventWriter writer(files.path("tb/run"), 0);
  StepMetrics m;
  m.step = 300;
  m.loss = 2.5;
  m.grad_norm = 0.75;
  m.lr = 0.003;
  m.tokens_per_s = 1000;
  m.memory_bytes = 1 << 20;
  m.mfu = 0.5;
  m.moe_load = {{1, 1.25}};
  m.moe_dropped = 0.125;
  m.valid_loss = 2.25;
  m.all_to_all_ms = 4;
  m.pipeline_bubble = 0.1;
  writer.write(m.step, step_scalars(m));
  writer.write(std::int64_t{1} << 40, {{"x", -1.5}});
  const auto events = read_events(writer.path());
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[0].bytes.at(3).at(0), "brain.Event:2");
  EXPECT_GT(std::bit_cast<double>(events[1].numbers.at(1)), 1.7e9);  // seconds since 1970
  EXPECT_EQ(events[1].numbers.at(2), 300u);
  const std::map<std::string, float> expected = {{"loss/train", 2.5f},
                                                 {"loss/valid", 2.25f},
                                                 {"grad_norm", 0.75f},
                                                 {"lr", 0.003f},
                                                 {"throughput/mfu", 0.5f},
                                                 {"throughput/tokens_per_s", 1000.f},
                                                 {"memory/max_bytes", 1048576},
                                                 {"moe/dropped", 0.125f},
                                                 {"moe/layer_1/load_max_over_mean", 1.25f},
                                                 {"time/all_to_all_ms", 4.f},
                                                 {"pipeline/bubble", 0.1f}};
  EXPECT_EQ(scalars_of(events[1]), expected);
  EXPECT_EQ(events[2].numbers.at(2), std::uint64_t{1} << 40);
  EXPECT_EQ(scalars_of(events[2]), (std::map<std::string, float>{{"x", -1.5f}}));
}

TEST(EventWriter, AbsentFiguresHaveNoTag) {
  const auto scalars = step_scalars(StepMetrics{});
  for (const auto& [tag, value] : scalars) {
    EXPECT_TRUE(tag != "loss/valid" && tag != "throughput/mfu" && !tag.starts_with("moe/")) << tag;
  }
}

TEST(EventWriter, ResumeTellsReadersToForget) {
  const TextFiles files;
  const EventWriter first(files.path("tb"), 0);
  const EventWriter second(files.path("tb"), 100);
  EXPECT_NE(first.path(), second.path());
  EXPECT_EQ(std::filesystem::path(first.path()).filename().string().rfind("events.out.tfevents.", 0), 0u);
  const auto events = read_events(second.path());
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[1].numbers.at(2), 101u);
  EXPECT_EQ(parse_message(events[1].bytes.at(7).at(0)).numbers.at(1), 1u);  // SessionLog START
}

}  // namespace
}  // namespace hysparse
