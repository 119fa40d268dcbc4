#include "checkpoint/safetensors_header.h"

#include <algorithm>
#include <limits>
#include <unordered_set>

#include "core/error.h"
#include "core/strict_json.h"

namespace hysparse::safetensors {
namespace {

using nlohmann::json;

/// One tensor as the header says, not believed yet.
struct Claim {
  std::string name, dtype;
  std::vector<std::uint64_t> shape, data_offsets;
  bool has_dtype = false, has_shape = false, has_offsets = false;
};

/// Takes the events of the parser; accepts nothing but the structure of a header, so that memory stays in
/// proportion to the number of tensors whatever the bytes are. Stops at the first fault.
class HeaderReader : public nlohmann::json_sax<json> {
 public:
  std::vector<Claim> claims;
  std::string fault;

  bool null() override { return unexpected("null"); }
  bool boolean(bool) override { return unexpected("a boolean"); }
  bool number_integer(number_integer_t value) override {
    return unexpected(fmt::format("the number {}", value));
  }
  bool number_float(number_float_t, const string_t& text) override {
    return unexpected("the number " + printable(text));
  }
  bool binary(binary_t&) override { return unexpected("a binary value"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ != Place::array) return unexpected(fmt::format("the number {}", value));
    std::vector<std::uint64_t>& values = field_ == "shape" ? claims.back().shape : claims.back().data_offsets;
    const std::size_t limit = field_ == "shape" ? Shape::max_rank : 2;
    if (values.size() == limit) return fail(fmt::format("{} has more than {} values", where(), limit));
    values.push_back(value);
    return true;
  }

  bool string(string_t& value) override {
    if (place_ == Place::metadata) return true;
    if (place_ != Place::tensor || field_ != "dtype")
      return unexpected("the string '" + printable(value) + "'");
    claims.back().dtype = std::move(value);
    return true;
  }

  bool start_object(std::size_t) override {
    if (place_ == Place::outside) {
      place_ = Place::top;
    } else if (place_ == Place::top) {
      place_ = in_metadata_ ? Place::metadata : Place::tensor;
      if (!in_metadata_) claims.push_back({.name = name_});
    } else {
      return unexpected("an object");
    }
    return true;
  }

  bool key(string_t& key) override {
    if (place_ == Place::top) {
      if (!names_.insert(key).second) return fail("tensor '" + printable(key) + "' appears twice");
      in_metadata_ = key == "__metadata__";
      name_ = std::move(key);
      field_.clear();
      return true;
    }
    if (place_ == Place::metadata) {
      return metadata_.insert(key).second || fail("__metadata__ key '" + printable(key) + "' appears twice");
    }
    Claim& claim = claims.back();
    bool* seen = key == "dtype"          ? &claim.has_dtype
                 : key == "shape"        ? &claim.has_shape
                 : key == "data_offsets" ? &claim.has_offsets
                                         : nullptr;
    if (seen == nullptr)
      return fail(fmt::format("tensor '{}' has an unknown key '{}'", printable(name_), printable(key)));
    if (*seen) return fail(fmt::format("tensor '{}' has '{}' twice", printable(name_), key));
    *seen = true;
    field_ = std::move(key);
    return true;
  }

  bool end_object() override {
    if (place_ == Place::tensor) {
      const Claim& claim = claims.back();
      if (!claim.has_dtype || !claim.has_shape || !claim.has_offsets || claim.data_offsets.size() != 2) {
        return fail(fmt::format("tensor '{}' needs dtype, shape and two data_offsets", printable(name_)));
      }
    }
    place_ = place_ == Place::top ? Place::outside : Place::top;
    return true;
  }

  bool start_array(std::size_t) override {
    if (place_ != Place::tensor || field_ == "dtype") return unexpected("an array");
    place_ = Place::array;
    return true;
  }
  bool end_array() override {
    place_ = Place::tensor;
    return true;
  }

  bool parse_error(std::size_t, const std::string&, const json::exception& error) override {
    return fail("not valid JSON: " + json_reason(error));
  }

 private:
  enum class Place { outside, top, metadata, tensor, array };

  std::string where() const {
    if (place_ == Place::outside) return "the header";
    if (place_ == Place::metadata || in_metadata_) return "__metadata__";
    return field_.empty() ? fmt::format("tensor '{}'", printable(name_))
                          : fmt::format("{} of tensor '{}'", field_, printable(name_));
  }
  bool fail(std::string reason) {
    fault = std::move(reason);
    return false;
  }
  bool unexpected(const std::string& what) { return fail(fmt::format("{} cannot be {}", where(), what)); }

  Place place_ = Place::outside;
  bool in_metadata_ = false;
  std::string name_, field_;
  std::unordered_set<std::string> names_, metadata_;
};

/// Bytes the claim's shape and dtype need; throws on overflow.
std::int64_t claimed_bytes(const Claim& claim, StoredDType dtype, const std::string& path) {
  std::int64_t bytes = stored_size(dtype);
  for (const std::uint64_t size : claim.shape) {
    if (size > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()) ||
        __builtin_mul_overflow(bytes, static_cast<std::int64_t>(size), &bytes)) {
      throw_error("{}: tensor '{}': shape [{}] is too large", path, printable(claim.name),
                  fmt::join(claim.shape, ", "));
    }
  }
  return bytes;
}

}  // namespace

std::string make_header(std::span<const SafetensorsTensor> tensors) {
  std::string header = R"({"__metadata__":{"format":"pt"})";
  std::int64_t offset = 0;
  for (const SafetensorsTensor& tensor : tensors) {
    const std::int64_t end = offset + tensor.shape.numel() * dtype_size(tensor.dtype);
    header += fmt::format(R"(,{}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                          json(tensor.name).dump(), stored_name(stored_dtype(tensor.dtype)),
                          fmt::join(tensor.shape.begin(), tensor.shape.end(), ","), offset, end);
    offset = end;
  }
  header += '}';
  header.append((8 - header.size() % 8) % 8, ' ');
  return header;
}

std::vector<SafetensorsEntry> parse_header(std::string_view text, std::int64_t data_bytes,
                                           const std::string& path) {
  if (text.empty() || text.front() != '{')
    throw_error("{}: header does not start with '{{': not a safetensors file", path);
  HeaderReader reader;
  if (!parse_events(text, &reader)) throw_error("{}: header: {}", path, reader.fault);

  std::vector<Claim>& claims = reader.claims;
  std::stable_sort(claims.begin(), claims.end(),
                   [](const Claim& a, const Claim& b) { return a.data_offsets < b.data_offsets; });
  std::vector<SafetensorsEntry> entries;
  entries.reserve(claims.size());
  std::uint64_t position = 0;
  for (Claim& claim : claims) {
    const auto dtype = stored_dtype_of_name(claim.dtype);
    if (!dtype)
      throw_error("{}: tensor '{}': unknown dtype '{}'", path, printable(claim.name), printable(claim.dtype));
    const auto bytes = static_cast<std::uint64_t>(claimed_bytes(claim, *dtype, path));
    const std::uint64_t begin = claim.data_offsets[0], end = claim.data_offsets[1];
    if (end < begin || end - begin != bytes) {
      throw_error("{}: tensor '{}': data_offsets [{}, {}] do not hold the {} bytes of {} [{}]", path,
                  printable(claim.name), begin, end, bytes, claim.dtype, fmt::join(claim.shape, ", "));
    }
    if (begin != position) {
      throw_error("{}: tensor '{}': data begins at {}, {} is expected ({})", path, printable(claim.name), begin,
                  position, begin < position ? "tensors overlap" : "there is a hole");
    }
    position = end;
    Shape shape;
    for (const std::uint64_t size : claim.shape) shape.push_back(static_cast<std::int64_t>(size));
    entries.push_back({std::move(claim.name), *dtype, shape, 0, static_cast<std::int64_t>(begin)});
  }
  if (position != static_cast<std::uint64_t>(data_bytes)) {
    throw_error("{}: the header describes {} bytes of data, the file holds {} ({})", path, position, data_bytes,
                position > static_cast<std::uint64_t>(data_bytes) ? "truncated" : "too long");
  }
  return entries;
}

}  // namespace hysparse::safetensors
