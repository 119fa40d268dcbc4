/// HDF5 files as this project writes them, read without the HDF5 library, which crashes on hostile files: a
/// group of datasets with few links and attributes, in the file itself and not in trees or heaps.
///
/// What is read: superblock 2 or 3, object headers of version 2 with their checksums, links and attributes that
/// the headers hold, contiguous datasets. Everything else is refused by name, also what the library could read:
/// the old format (superblock 0 and 1), strings of variable length, chunks, filters.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/hdf5.h"

namespace hysparse {

/// The checksum of HDF5's metadata: lookup3 by Bob Jenkins, hashlittle() with 0.
std::uint32_t hdf5_checksum(std::span<const std::byte> bytes);

class PlainHdf5 {
 public:
  /// `file`, all of it, must outlive the reader; `path` begins the messages. Throws Error: not HDF5, truncated,
  /// damaged, of a form that is not read.
  PlainHdf5(std::span<const std::byte> file, const std::string& path);

  const std::string& path() const { return path_; }
  /// Whether the root group holds a dataset of that name. Throws Error when what it holds is damaged.
  bool has_dataset(const std::string& name) const;
  /// As Hdf5File::info().
  Hdf5DatasetInfo info(const std::string& name) const;
  /// Attributes of the root group, as Hdf5File's.
  std::string string_attribute(const std::string& name) const;
  std::int64_t i64_attribute(const std::string& name) const;

 private:
  struct Message {
    int type = 0;
    std::span<const std::byte> data;
  };
  struct Attribute {
    std::span<const std::byte> type, space, data;
  };

  std::vector<Message> object(std::uint64_t address) const;
  void read_messages(std::span<const std::byte> block, bool ordered, std::vector<Message>& out,
                     std::vector<std::span<const std::byte>>& more) const;
  void read_link(std::span<const std::byte> data);
  void read_attribute(std::span<const std::byte> data);
  const Attribute& attribute(const std::string& name) const;
  std::span<const std::byte> checked(std::uint64_t address, std::uint64_t bytes, std::string_view mark) const;
  [[noreturn]] void damaged(std::string_view what) const;
  [[noreturn]] void foreign(std::string_view what) const;

  std::span<const std::byte> file_;
  std::string path_;
  std::map<std::string, std::uint64_t> links_;  // name -> address of the object's header
  std::map<std::string, Attribute> attributes_;
};

}  // namespace hysparse
