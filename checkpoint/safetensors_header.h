/// The header of a safetensors file: between safetensors_reader.cpp and safetensors_writer.cpp only.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/safetensors.h"

namespace hysparse::safetensors {

inline constexpr std::int64_t max_header_bytes = 100'000'000;
inline constexpr std::string_view single_file = "model.safetensors";
inline constexpr std::string_view index_file = "model.safetensors.index.json";

/// The JSON of `tensors` in order, padded with spaces to a multiple of 8 bytes.
std::string make_header(std::span<const SafetensorsTensor> tensors);

/// The entries of a header, in the order of their data, with offsets from the beginning of the data, which must
/// be `data_bytes` long. Throws Error naming `path`.
std::vector<SafetensorsEntry> parse_header(std::string_view json, std::int64_t data_bytes,
                                           const std::string& path);

}  // namespace hysparse::safetensors
