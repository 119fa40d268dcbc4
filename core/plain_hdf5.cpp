#include "core/plain_hdf5.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <optional>

#include "core/error.h"
#include "core/printable.h"

namespace hysparse {
namespace {

using Bytes = std::span<const std::byte>;

constexpr std::uint64_t undefined_address = ~std::uint64_t{0};
constexpr std::size_t superblock_bytes = 48, checksum_bytes = 4;
constexpr std::size_t most_blocks = 256, most_dims = 32;
constexpr std::size_t most_attribute_bytes = 64 << 10;

enum MessageType : int {
  nil = 0x00,
  dataspace = 0x01,
  link_info = 0x02,
  datatype = 0x03,
  link = 0x06,
  external_files = 0x07,
  layout = 0x08,
  filters = 0x0b,
  attribute_message = 0x0c,
  continuation = 0x10,
  symbol_table = 0x11,
  attribute_info = 0x15,
};

/// Takes little-endian numbers and runs of bytes off the front of some bytes; a read past the end leaves `good`
/// false and gives zeros.
struct Cursor {
  Bytes rest;
  bool good = true;

  Bytes take(std::uint64_t bytes) {
    if (bytes > rest.size()) {
      good = false;
      rest = {};
      return {};
    }
    const Bytes taken = rest.first(bytes);
    rest = rest.subspan(bytes);
    return taken;
  }
  std::uint64_t number(std::size_t bytes) {
    std::uint64_t value = 0;
    const Bytes taken = take(bytes);
    if (!taken.empty()) std::memcpy(&value, taken.data(), taken.size());
    return value;
  }
};

std::string_view text_of(Bytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

struct Datatype {
  int kind = -1;                          // 0 integer, 1 floating point, 3 string, 9 of variable length
  bool is_signed = false, plain = false;  // plain: little-endian, all bits used
  std::uint64_t size = 0;
};

std::optional<Datatype> datatype_of(Bytes data) {
  Cursor in{data};
  const std::uint64_t head = in.number(1), bits = in.number(3);
  Datatype type;
  type.kind = static_cast<int>(head & 0x0fU);
  type.size = in.number(4);
  if (type.kind == 0) {
    type.is_signed = (bits & 8U) != 0;
    const std::uint64_t offset = in.number(2), precision = in.number(2);
    type.plain = (bits & 1U) == 0 && offset == 0 && type.size <= 8 && precision == type.size * 8;
  } else if (type.kind == 1) {
    type.plain = (bits & 0x41U) == 0;  // not big-endian, not the order of the VAX
  }
  if (!in.good || type.size == 0) return std::nullopt;
  return type;
}

struct Dataspace {
  bool none = false;  // a null dataspace: no shape at all
  std::vector<std::uint64_t> dims;

  bool is_one() const {
    return !none && std::all_of(dims.begin(), dims.end(), [](std::uint64_t d) { return d == 1; });
  }
};

std::optional<Dataspace> dataspace_of(Bytes data) {
  Cursor in{data};
  const std::uint64_t version = in.number(1), rank = in.number(1);
  in.number(1);  // whether greatest sizes follow
  if (version != 1 && version != 2) return std::nullopt;
  Dataspace space;
  space.none = in.number(version == 1 ? 5 : 1) == 2 && version == 2;
  if (rank > most_dims) return std::nullopt;
  for (std::uint64_t d = 0; d < rank; ++d) space.dims.push_back(in.number(8));
  if (!in.good) return std::nullopt;
  return space;
}

std::optional<Hdf5Type> element_type(const Datatype& type) {
  if (!type.plain) return std::nullopt;
  if (type.kind == 1) {
    if (type.size == 8) return Hdf5Type::f64;
    return type.size == 4 ? std::optional(Hdf5Type::f32) : std::nullopt;
  }
  if (type.kind != 0) return std::nullopt;
  for (const Hdf5Type t :
       {Hdf5Type::i64, Hdf5Type::i32, Hdf5Type::u8, Hdf5Type::u16, Hdf5Type::u32, Hdf5Type::u64}) {
    const bool is_signed = t == Hdf5Type::i64 || t == Hdf5Type::i32;
    if (is_signed == type.is_signed && static_cast<std::uint64_t>(hdf5_type_size(t)) == type.size) return t;
  }
  return std::nullopt;
}

}  // namespace

std::uint32_t hdf5_checksum(Bytes bytes) {
  const auto rot = [](std::uint32_t x, unsigned k) { return x << k | x >> (32U - k); };
  std::uint32_t a = 0xdeadbeefU + static_cast<std::uint32_t>(bytes.size()), b = a, c = a;
  const auto add = [&](Bytes part) {
    std::array<std::uint32_t, 3> words{};
    std::memcpy(words.data(), part.data(), part.size());
    a += words[0];
    b += words[1];
    c += words[2];
  };
  const auto mix = [&](std::uint32_t& x, std::uint32_t& y, std::uint32_t& z, unsigned k) {
    x -= z;
    x ^= rot(z, k);
    z += y;
  };
  const auto finish = [&](std::uint32_t& x, std::uint32_t y, unsigned k) {
    x ^= y;
    x -= rot(y, k);
  };
  if (bytes.empty()) return c;
  constexpr std::size_t step = 12;
  for (; bytes.size() > step; bytes = bytes.subspan(step)) {
    add(bytes.first(step));
    mix(a, b, c, 4);
    mix(b, c, a, 6);
    mix(c, a, b, 8);
    mix(a, b, c, 16);
    mix(b, c, a, 19);
    mix(c, a, b, 4);
  }
  add(bytes);
  finish(c, b, 14);
  finish(a, c, 11);
  finish(b, a, 25);
  finish(c, b, 16);
  finish(a, c, 4);
  finish(b, a, 14);
  finish(c, b, 24);
  return c;
}

void PlainHdf5::damaged(std::string_view what) const {
  throw_error("{}: truncated or damaged HDF5 file: {}", path_, what);
}

void PlainHdf5::foreign(std::string_view what) const {
  throw_error("{}: an HDF5 file of a form that is not read: {} (hysparse prepare writes what is)", path_, what);
}

Bytes PlainHdf5::checked(std::uint64_t address, std::uint64_t bytes, std::string_view mark) const {
  if (address > file_.size() || bytes > file_.size() - address || bytes < mark.size() + checksum_bytes)
    damaged("an address is outside the file");
  const Bytes block = file_.subspan(address, bytes);
  if (!text_of(block).starts_with(mark)) damaged("no object header where one should be");
  const Bytes body = block.first(block.size() - checksum_bytes);
  if (Cursor{block.last(checksum_bytes)}.number(checksum_bytes) != hdf5_checksum(body))
    damaged("a checksum does not match");
  return body;
}

PlainHdf5::PlainHdf5(Bytes file, const std::string& path) : file_(file), path_(path) {
  constexpr std::string_view signature("\x89HDF\r\n\x1a\n", 8);
  if (file.empty()) throw_error("{}: empty file, not an HDF5 file", path);
  if (!text_of(file).starts_with(signature)) throw_error("{}: not an HDF5 file", path);
  Cursor in{file.subspan(signature.size())};
  const std::uint64_t version = in.number(1);
  if (in.good && version < 2) foreign("it has the format of before 1.8");
  if (version > 3) damaged("its version is not known");
  in = Cursor{checked(0, superblock_bytes, signature).subspan(signature.size() + 1)};
  if (in.number(1) != 8 || in.number(1) != 8) foreign("its addresses are not of 8 bytes");
  in.number(1);  // flags about writers
  if (in.number(8) != 0) foreign("its addresses do not begin at the file's begin");
  in.number(8);  // the address of more about the file
  if (in.number(8) > file.size()) damaged("the file ends before its contents do");
  for (const Message& message : object(in.number(8))) {
    if (message.type == link) read_link(message.data);
    if (message.type == attribute_message) read_attribute(message.data);
    if (message.type == symbol_table) foreign("it has the format of before 1.8");
  }
}

/// The messages of an object.
std::vector<PlainHdf5::Message> PlainHdf5::object(std::uint64_t address) const {
  constexpr std::string_view mark = "OHDR", more_mark = "OCHK";
  if (address > file_.size()) damaged("an address is outside the file");
  Cursor in{file_.subspan(address)};
  if (text_of(in.take(mark.size())) != mark || in.number(1) != 2)
    damaged("no object header where one should be");
  const std::uint64_t flags = in.number(1);
  in.take((flags & 0x20U) != 0 ? 16 : 0);  // times
  in.take((flags & 0x10U) != 0 ? 4 : 0);   // when attributes move to a heap
  const std::uint64_t size = in.number(std::size_t{1} << (flags & 3U));
  if (!in.good) damaged("an object header is cut off");
  const std::uint64_t prefix = file_.size() - address - in.rest.size();
  if (size > file_.size()) damaged("an object header is cut off");
  const bool ordered = (flags & 4U) != 0;
  std::vector<Message> messages;
  std::vector<Bytes> blocks;
  read_messages(checked(address, prefix + size + checksum_bytes, mark).subspan(prefix), ordered, messages,
                blocks);
  for (std::size_t i = 0; i < blocks.size(); ++i) {  // grows meanwhile
    if (blocks.size() > most_blocks) damaged("an object header has too many parts");
    Cursor where{blocks[i]};
    const std::uint64_t begin = where.number(8), bytes = where.number(8);
    if (!where.good) damaged("an object header is cut off");
    read_messages(checked(begin, bytes, more_mark).subspan(more_mark.size()), ordered, messages, blocks);
  }
  return messages;
}

void PlainHdf5::read_messages(Bytes block, bool ordered, std::vector<Message>& out,
                              std::vector<Bytes>& more) const {
  const std::size_t head = ordered ? 6 : 4;
  for (Cursor in{block}; in.rest.size() >= head;) {  // fewer bytes are a gap
    Message message;
    message.type = static_cast<int>(in.number(1));
    const std::uint64_t size = in.number(2), flags = in.number(1);
    in.take(ordered ? 2 : 0);
    message.data = in.take(size);
    if (!in.good) damaged("a message of an object header is cut off");
    if (message.type == nil) continue;
    if ((flags & 2U) != 0) foreign("it has shared messages");
    if (message.type == continuation) {
      more.push_back(message.data);
      continue;
    }
    if (message.type == link_info || message.type == attribute_info) {
      Cursor info{message.data};
      info.number(1);
      const std::uint64_t tracked = info.number(1) & 1U;
      const std::size_t index_bytes = message.type == link_info ? 8 : 2;
      info.take(tracked != 0 ? index_bytes : 0);
      const std::uint64_t heap = info.number(8);
      if (!info.good) damaged("a message of an object header is cut off");
      if (heap != undefined_address) foreign("it keeps names in a heap, as files with many objects do");
    }
    out.push_back(message);
  }
}

void PlainHdf5::read_link(Bytes data) {
  Cursor in{data};
  const std::uint64_t version = in.number(1), flags = in.number(1);
  const std::uint64_t kind = (flags & 8U) != 0 ? in.number(1) : 0;
  in.take((flags & 4U) != 0 ? 8 : 0);   // order of creation
  in.take((flags & 16U) != 0 ? 1 : 0);  // character set
  const std::string name(text_of(in.take(in.number(std::size_t{1} << (flags & 3U)))));
  if (!in.good || version != 1) damaged("a link is damaged");
  if (kind != 0) return;  // to a name, or into another file: nothing of ours
  const std::uint64_t address = in.number(8);
  if (!in.good) damaged("a link is damaged");
  if (!links_.emplace(name, address).second) damaged("a name appears twice");
}

void PlainHdf5::read_attribute(Bytes data) {
  Cursor in{data};
  const std::uint64_t version = in.number(1), flags = in.number(1);
  const std::uint64_t name_bytes = in.number(2), type_bytes = in.number(2), space_bytes = in.number(2);
  if (version != 3) foreign("it has the format of before 1.8");
  if ((flags & 3U) != 0) foreign("it has shared messages");
  in.number(1);  // character set
  std::string_view name = text_of(in.take(name_bytes));
  name = name.substr(0, name.find('\0'));
  Attribute attribute;
  attribute.type = in.take(type_bytes);
  attribute.space = in.take(space_bytes);
  attribute.data = in.rest;
  if (!in.good) damaged("an attribute is damaged");
  if (!attributes_.emplace(name, attribute).second) damaged("a name appears twice");
}

bool PlainHdf5::has_dataset(const std::string& name) const {
  const auto found = links_.find(name);
  if (found == links_.end()) return false;
  const std::vector<Message> messages = object(found->second);
  return std::any_of(messages.begin(), messages.end(), [](const Message& m) { return m.type == layout; });
}

Hdf5DatasetInfo PlainHdf5::info(const std::string& name) const {
  if (!has_dataset(name)) throw_error("{}: has no dataset {}", path_, name);
  std::optional<Datatype> type;
  std::optional<Dataspace> space;
  Bytes where;
  bool contiguous = true;
  for (const Message& message : object(links_.at(name))) {
    if (message.type == datatype) type = datatype_of(message.data);
    if (message.type == dataspace) space = dataspace_of(message.data);
    if (message.type == layout) where = message.data;
    if (message.type == filters || message.type == external_files) contiguous = false;
  }
  if (!type || !space) throw_error("{}: dataset {} is damaged: it has no type or no shape", path_, name);
  if (space->none) throw_error("{}: dataset {} has no shape", path_, name);
  Cursor in{where};
  const std::uint64_t version = in.number(1), kind = in.number(1);
  if (!in.good || version < 3 || version > 4)
    throw_error("{}: dataset {} is damaged: its layout is", path_, name);
  if (!contiguous || kind != 1) {
    throw_error("{}: dataset {} is chunked, filtered or external; it must be contiguous", path_, name);
  }
  const std::optional<Hdf5Type> element = element_type(*type);
  if (!element) {
    throw_error(
        "{}: dataset {} has an element type that is not supported (f64, f32, i64, i32, u8, u16, u32, u64; "
        "little-endian)",
        path_, name);
  }
  Hdf5DatasetInfo info{*element, {}, 0};
  // Against the file's size at once, without zeros, so that no product can overflow.
  const std::uint64_t size = file_.size();
  std::uint64_t bytes = static_cast<std::uint64_t>(hdf5_type_size(*element));
  for (const std::uint64_t d : space->dims) {
    if (d > size || (bytes *= std::max<std::uint64_t>(d, 1)) > size) {
      throw_error("{}: dataset {} [{}] is larger than the file", path_, name, fmt::join(space->dims, ", "));
    }
    info.dims.push_back(static_cast<std::int64_t>(d));
  }
  if (info.numel() == 0) return info;
  const std::uint64_t offset = in.number(8), stored = in.number(8);
  if (!in.good) throw_error("{}: dataset {} is damaged: its layout is", path_, name);
  if (offset == undefined_address) throw_error("{}: dataset {} was never written", path_, name);
  if (stored < bytes || offset > size || bytes > size - offset) {
    throw_error("{}: dataset {} reaches past the end of the file: the file is truncated or damaged", path_,
                name);
  }
  info.offset_bytes = static_cast<std::int64_t>(offset);
  return info;
}

const PlainHdf5::Attribute& PlainHdf5::attribute(const std::string& name) const {
  const auto found = attributes_.find(name);
  if (found == attributes_.end()) throw_error("{}: has no attribute {}", path_, name);
  return found->second;
}

std::string PlainHdf5::string_attribute(const std::string& name) const {
  const Attribute& found = attribute(name);
  const auto type = datatype_of(found.type);
  const auto space = dataspace_of(found.space);
  if (!type || !space) throw_error("{}: attribute {} is damaged", path_, name);
  if (type->kind == 9) {
    throw_error("{}: attribute {} is a string of variable length; only strings of fixed length are supported",
                path_, name);
  }
  if (type->kind != 3 || !space->is_one()) throw_error("{}: attribute {} is not a string", path_, name);
  if (type->size > most_attribute_bytes || type->size > found.data.size())
    throw_error("{}: attribute {} is damaged: {} bytes of {} are there", path_, name, found.data.size(),
                type->size);
  const std::string_view text = text_of(found.data.first(type->size));
  return std::string(text.substr(0, text.find('\0')));
}

std::int64_t PlainHdf5::i64_attribute(const std::string& name) const {
  const Attribute& found = attribute(name);
  const auto type = datatype_of(found.type);
  const auto space = dataspace_of(found.space);
  if (!type || !space) throw_error("{}: attribute {} is damaged", path_, name);
  if (type->kind != 0 || !type->plain) throw_error("{}: attribute {} is not an integer", path_, name);
  if (!space->is_one()) throw_error("{}: attribute {} does not have one value, as expected", path_, name);
  if (type->size > found.data.size()) throw_error("{}: attribute {} is damaged: it is cut off", path_, name);
  const std::uint64_t raw = Cursor{found.data}.number(type->size);
  if (!type->is_signed)
    return static_cast<std::int64_t>(std::min<std::uint64_t>(raw, INT64_MAX));  // as HDF5 converts
  const unsigned unused = 64U - 8U * static_cast<unsigned>(type->size);
  return static_cast<std::int64_t>(raw << unused) >> unused;
}

}  // namespace hysparse
