#include "launch/tensorboard.h"

#include <array>
#include <bit>
#include <chrono>
#include <filesystem>

#include <unistd.h>

#include "core/error.h"

namespace hysparse {
namespace {

constexpr std::array<std::uint32_t, 256> crc_table = [] {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1u) != 0 ? 0x82f63b78u : 0u);
    table[byte] = crc;
  }
  return table;
}();

/// The low `bytes` bytes of a value, little-endian.
std::string little_endian(std::uint64_t value, int bytes) {
  std::string text;
  for (int i = 0; i < bytes; ++i) text.push_back(static_cast<char>((value >> (8 * i)) & 0xff));
  return text;
}

std::string varint(std::uint64_t value) {
  std::string text;
  for (; value >= 0x80; value >>= 7) text.push_back(static_cast<char>((value & 0x7f) | 0x80));
  text.push_back(static_cast<char>(value));
  return text;
}

// Fields in protobuf's wire format: the key is the field's number and wire type (0 varint, 1 fixed64, 2 bytes,
// 5 fixed32).
std::string key(std::uint32_t field, std::uint32_t wire_type) {
  return varint((field << 3) | wire_type);
}
std::string varint_field(std::uint32_t field, std::uint64_t value) {
  return key(field, 0) + varint(value);
}
std::string double_field(std::uint32_t field, double value) {
  return key(field, 1) + little_endian(std::bit_cast<std::uint64_t>(value), 8);
}
std::string bytes_field(std::uint32_t field, const std::string& bytes) {
  return key(field, 2) + varint(bytes.size()) + bytes;
}
std::string float_field(std::uint32_t field, float value) {
  return key(field, 5) + little_endian(std::bit_cast<std::uint32_t>(value), 4);
}

double wall_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string event(std::int64_t step, const std::string& content) {
  return double_field(1, wall_time()) + varint_field(2, static_cast<std::uint64_t>(step)) + content;
}

std::string host_name() {
  char name[256] = {};
  return ::gethostname(name, sizeof(name) - 1) == 0 ? std::string(name) : std::string("localhost");
}

}  // namespace

std::uint32_t crc32c(std::string_view bytes) {
  std::uint32_t crc = 0xffffffffu;
  for (const char c : bytes) crc = (crc >> 8) ^ crc_table[(crc ^ static_cast<unsigned char>(c)) & 0xffu];
  return crc ^ 0xffffffffu;
}

std::uint32_t masked_crc32c(std::string_view bytes) {
  return std::rotr(crc32c(bytes), 15) + 0xa282ead8u;
}

std::vector<Scalar> step_scalars(const StepMetrics& m) {
  std::vector<Scalar> scalars = {
      {"loss/train", m.loss},
      {"grad_norm", m.grad_norm},
      {"lr", m.lr},
      {"throughput/tokens_per_s", m.tokens_per_s},
      {"memory/max_bytes", static_cast<double>(m.memory_bytes)},
  };
  if (m.valid_loss) scalars.emplace_back("loss/valid", *m.valid_loss);
  if (m.mfu) scalars.emplace_back("throughput/mfu", *m.mfu);
  for (const auto& load : m.moe_load) {
    scalars.emplace_back(fmt::format("moe/layer_{}/load_max_over_mean", load.layer), load.max_over_mean);
  }
  if (!m.moe_load.empty()) scalars.emplace_back("moe/dropped", m.moe_dropped);
  if (m.all_to_all_ms) scalars.emplace_back("time/all_to_all_ms", *m.all_to_all_ms);
  if (m.pipeline_bubble) scalars.emplace_back("pipeline/bubble", *m.pipeline_bubble);
  return scalars;
}

EventWriter::EventWriter(const std::string& directory, std::int64_t resume_step) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) throw_failure("{}: cannot make the directory: {}", directory, error.message());
  const std::string stem = fmt::format("{}/events.out.tfevents.{:010}.{}.{}", directory,
                                       static_cast<std::int64_t>(wall_time()), host_name(), ::getpid());
  std::string path = stem + ".0";
  for (int i = 1; std::filesystem::exists(path); ++i) path = fmt::format("{}.{}", stem, i);
  file_ = std::make_unique<AppendFile>(path, AppendFile::Mode::create_new);
  write_record(event(0, bytes_field(3, "brain.Event:2")));
  // SessionLog{1: status START}: a reader drops the steps from here on that it has seen in older files.
  if (resume_step > 0) write_record(event(resume_step + 1, bytes_field(7, varint_field(1, 1))));
}

void EventWriter::write(std::int64_t step, const std::vector<Scalar>& scalars) {
  std::string summary;
  for (const auto& [tag, value] : scalars) {
    summary += bytes_field(1, bytes_field(1, tag) + float_field(2, static_cast<float>(value)));
  }
  write_record(event(step, bytes_field(5, summary)));
}

void EventWriter::write_record(const std::string& bytes) {
  const std::string length = little_endian(bytes.size(), 8);
  file_->write(length + little_endian(masked_crc32c(length), 4) + bytes +
               little_endian(masked_crc32c(bytes), 4));
}

}  // namespace hysparse
