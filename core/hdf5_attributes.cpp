#include <algorithm>

#include <hdf5.h>

#include "core/hdf5.h"
#include "core/hdf5_internal.h"

namespace hysparse {

using hdf5_internal::element_type;
using hdf5_internal::quiet;
using hdf5_internal::reason;

namespace {

constexpr std::int64_t most_bytes = 64 * 1024;

std::string owner(const std::string& object) {
  return object.empty() ? std::string() : fmt::format("dataset {}: ", object);
}

}  // namespace

struct Hdf5File::Attribute {
  Hdf5Handle handle, type, space;
  std::int64_t numel = 0;
};

Hdf5Handle Hdf5File::open_object(const std::string& object) const {
  quiet();
  if (!object.empty()) return open_dataset(object);
  Hdf5Handle root(H5Oopen(file_.id(), "/", H5P_DEFAULT), H5Oclose);
  if (!root.valid()) throw_error("{}: damaged HDF5 file: {}", path_, reason());
  return root;
}

Hdf5File::Attribute Hdf5File::open_attribute(const std::string& object, const std::string& name) const {
  const Hdf5Handle parent = open_object(object);
  if (H5Aexists(parent.id(), name.c_str()) <= 0) {
    throw_error("{}: {}has no attribute {}", path_, owner(object), name);
  }
  Attribute attribute;
  attribute.handle = {H5Aopen(parent.id(), name.c_str(), H5P_DEFAULT), H5Aclose};
  if (attribute.handle.valid()) {
    attribute.type = {H5Aget_type(attribute.handle.id()), H5Tclose};
    attribute.space = {H5Aget_space(attribute.handle.id()), H5Sclose};
  }
  attribute.numel = attribute.space.valid() ? H5Sget_simple_extent_npoints(attribute.space.id()) : -1;
  if (!attribute.type.valid() || attribute.numel < 0) {
    throw_error("{}: {}attribute {} is damaged: {}", path_, owner(object), name, reason());
  }
  return attribute;
}

void Hdf5File::write_value(const Hdf5Handle& parent, const std::string& owner, const std::string& name,
                           std::int64_t type, std::int64_t space, const void* data) {
  const Hdf5Handle attribute(H5Acreate2(parent.id(), name.c_str(), type, space, H5P_DEFAULT, H5P_DEFAULT),
                             H5Aclose);
  if (!attribute.valid() || H5Awrite(attribute.id(), type, data) < 0) {
    throw_failure("{}: {}cannot write attribute {}: {}", path_, owner, name, reason());
  }
}

void Hdf5File::write_text(const Hdf5Handle& parent, const std::string& owner, const std::string& name,
                          std::string_view value) {
  HYSPARSE_CHECK(value.find('\0') == std::string_view::npos, "attribute {} holds a NUL byte", name);
  const std::string text(value);
  const Hdf5Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
  const Hdf5Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  if (!type.valid() || !space.valid() || H5Tset_size(type.id(), text.size() + 1) < 0 ||
      H5Tset_cset(type.id(), H5T_CSET_UTF8) < 0) {
    throw_failure("{}: {}attribute {}: {}", path_, owner, name, reason());
  }
  write_value(parent, owner, name, type.id(), space.id(), text.c_str());
}

void Hdf5File::write_numbers(const Hdf5Handle& parent, const std::string& owner, const std::string& name,
                             std::span<const std::int64_t> values) {
  const hsize_t size = values.size();
  const Hdf5Handle space(H5Screate_simple(1, &size, nullptr), H5Sclose);
  static constexpr std::int64_t none = 0;
  write_value(parent, owner, name, H5T_STD_I64LE, space.id(), values.empty() ? &none : values.data());
}

void Hdf5File::write_attribute(const std::string& object, const std::string& name, std::int64_t type,
                               std::int64_t space, const void* data) {
  write_value(open_object(object), owner(object), name, type, space, data);
}

void Hdf5File::set_attribute(const std::string& object, const std::string& name, std::string_view value) {
  quiet();
  write_text(open_object(object), owner(object), name, value);
}

void Hdf5File::set_attribute(const std::string& object, const std::string& name, std::int64_t value) {
  quiet();
  const Hdf5Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  write_attribute(object, name, H5T_STD_I64LE, space.id(), &value);
}

void Hdf5File::set_attribute(const std::string& object, const std::string& name, std::uint64_t value) {
  quiet();
  const Hdf5Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  write_attribute(object, name, H5T_STD_U64LE, space.id(), &value);
}

void Hdf5File::set_attribute(const std::string& object, const std::string& name, double value) {
  quiet();
  const Hdf5Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  write_attribute(object, name, H5T_IEEE_F64LE, space.id(), &value);
}

void Hdf5File::set_attribute(const std::string& object, const std::string& name,
                             std::span<const std::int64_t> values) {
  quiet();
  write_numbers(open_object(object), owner(object), name, values);
}

bool Hdf5File::has_attribute(const std::string& object, const std::string& name) const {
  return H5Aexists(open_object(object).id(), name.c_str()) > 0;
}

std::string Hdf5File::string_attribute(const std::string& object, const std::string& name) const {
  const Attribute attribute = open_attribute(object, name);
  if (H5Tget_class(attribute.type.id()) != H5T_STRING || attribute.numel != 1) {
    throw_error("{}: {}attribute {} is not a string", path_, owner(object), name);
  }
  if (H5Tis_variable_str(attribute.type.id()) > 0) {
    throw_error("{}: {}attribute {} is a string of variable length; only strings of fixed length are supported",
                path_, owner(object), name);
  }
  const auto size = static_cast<std::int64_t>(H5Tget_size(attribute.type.id()));
  if (size <= 0 || size > most_bytes) {
    throw_error("{}: {}attribute {} has {} bytes, at most {} are supported", path_, owner(object), name, size,
                most_bytes);
  }
  std::string value(static_cast<std::size_t>(size), '\0');
  if (H5Aread(attribute.handle.id(), attribute.type.id(), value.data()) < 0) {
    throw_error("{}: {}attribute {} is damaged: {}", path_, owner(object), name, reason());
  }
  value.resize(std::min(value.find('\0'), value.size()));
  return value;
}

template <class T>
std::vector<T> Hdf5File::read_numbers(const std::string& object, const std::string& name,
                                      std::int64_t expected) const {
  const Attribute attribute = open_attribute(object, name);
  constexpr bool is_real = std::is_floating_point_v<T>;
  const H5T_class_t kind = H5Tget_class(attribute.type.id());
  if (kind != H5T_INTEGER && !(is_real && kind == H5T_FLOAT)) {
    throw_error("{}: {}attribute {} is not {}", path_, owner(object), name,
                is_real ? "a number" : "an integer");
  }
  if (expected >= 0 ? attribute.numel != expected : attribute.numel > most_bytes / 8) {
    throw_error("{}: {}attribute {} has {} values, expected {}", path_, owner(object), name, attribute.numel,
                expected >= 0 ? fmt::format("{}", expected) : fmt::format("at most {}", most_bytes / 8));
  }
  std::vector<T> values(static_cast<std::size_t>(attribute.numel));
  const Hdf5Type memory = is_real ? Hdf5Type::f64 : (std::is_signed_v<T> ? Hdf5Type::i64 : Hdf5Type::u64);
  if (!values.empty() && H5Aread(attribute.handle.id(), element_type(memory), values.data()) < 0) {
    throw_error("{}: {}attribute {} is damaged: {}", path_, owner(object), name, reason());
  }
  return values;
}

std::int64_t Hdf5File::i64_attribute(const std::string& object, const std::string& name) const {
  return read_numbers<std::int64_t>(object, name, 1)[0];
}

std::uint64_t Hdf5File::u64_attribute(const std::string& object, const std::string& name) const {
  return read_numbers<std::uint64_t>(object, name, 1)[0];
}

double Hdf5File::f64_attribute(const std::string& object, const std::string& name) const {
  return read_numbers<double>(object, name, 1)[0];
}

std::vector<std::int64_t> Hdf5File::i64s_attribute(const std::string& object, const std::string& name) const {
  return read_numbers<std::int64_t>(object, name, -1);
}

}  // namespace hysparse
