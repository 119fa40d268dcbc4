// safetensors: a file, and the index of a directory.
#include "checkpoint/safetensors.h"

#include <string>

#include "tests/fuzz/support.h"
#include "tests/fuzz/targets.h"
#include "tests/fuzz/temporary_files.h"

namespace hysparse::fuzz {
namespace {

/// Length, header, data.
std::string file_of(std::string_view header, std::string_view data) {
  std::string file(8, '\0');
  const std::uint64_t length = header.size();
  std::memcpy(file.data(), &length, sizeof length);
  return file.append(header).append(data);
}

void read_everything(const SafetensorsReader& reader) {
  for (const SafetensorsEntry& entry : reader.entries()) {
    HYSPARSE_CHECK(reader.find(entry.name) != nullptr, "{} is not found", entry.name);
    for (const DType dtype : {DType::f32, DType::f64, DType::bf16, DType::i64, DType::u8}) {
      accept_or_refuse([&] { static_cast<void>(reader.read(entry.name, dtype)); });
    }
    if (entry.shape.rank() > 0 && entry.shape[0] > 0) {
      accept_or_refuse([&] {
        static_cast<void>(reader.read_rows(entry.name, entry.shape[0] - 1, entry.shape[0], DType::f32));
      });
    }
  }
}

/// A directory of two shards, with a file outside that no index may reach.
struct Model {
  TemporaryFolder root;
  std::string directory = root / "model";
  Model() {
    std::filesystem::create_directory(directory);
    std::filesystem::create_directory(directory + "/sub.safetensors");
    const std::string one = file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                                    R"("b":{"dtype":"BF16","shape":[1,2],"data_offsets":[8,12]}})",
                                    std::string(12, '\1'));
    write_file(directory + "/model-00001-of-00002.safetensors", one);
    write_file(directory + "/model-00002-of-00002.safetensors",
               file_of(R"({"c":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}})", "abc"));
    write_file(root / "outside.safetensors",
               file_of(R"({"outside":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}})", "abc"));
  }
};

}  // namespace

/// The header, then after a NUL byte the data; what does not begin with `{` is the file as it is.
void safetensors_file(std::string_view input) {
  static const TemporaryFolder folder;
  const std::size_t end = input.find('\0');
  const bool parts = input.starts_with('{') && end != std::string_view::npos;
  const std::string path = folder / "model.safetensors";
  write_file(path, parts ? file_of(input.substr(0, end), input.substr(end + 1)) : std::string(input));
  accept_or_refuse([&] { read_everything(SafetensorsReader(path)); });
}

void safetensors_index(std::string_view input) {
  static const Model model;
  write_file(model.directory + "/model.safetensors.index.json", input);
  accept_or_refuse([&] {
    const SafetensorsReader reader(model.directory);
    for (const SafetensorsEntry& entry : reader.entries()) {
      const std::string& file = reader.file_of(entry);
      HYSPARSE_CHECK(
          std::filesystem::canonical(file).parent_path() == std::filesystem::canonical(model.directory),
          "{} is read from {}", entry.name, file);
    }
    read_everything(reader);
  });
}

}  // namespace hysparse::fuzz
