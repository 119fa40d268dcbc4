/// HDF5 files as this project uses them: little-endian, contiguous, unfiltered datasets of up to four dims (so
/// that they can be mapped by their offset), and small attributes. Our files have the 1.8 format, whose
/// metadata carries checksums: a flipped byte in it is an error, not a surprise. They hold no times: same
/// contents, same bytes (groups aside). HDF5 itself prints nothing.
///
/// Reading throws Error (file missing, foreign, truncated, damaged, or not what was asked for), writing throws
/// Failure; messages begin with the file's name. Calls from several threads are serialised by HDF5's own lock;
/// one Hdf5File belongs to one thread at a time.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.h"

namespace hysparse {

/// Element types as stored. A bf16 tensor is stored as u16: the reader must know (a dtype attribute says so).
enum class Hdf5Type : std::uint8_t { f64, f32, i64, i32, u8, u16, u32, u64 };

/// Bytes of one element.
std::int64_t hdf5_type_size(Hdf5Type type);
/// "f64", "u16", ...
std::string_view hdf5_type_name(Hdf5Type type);
/// How a tensor's elements are stored.
Hdf5Type hdf5_type_of(DType dtype);

/// One HDF5 identifier, closed with its owner.
class Hdf5Handle {
 public:
  using Close = int (*)(std::int64_t);
  Hdf5Handle() = default;
  /// Owns `id` when it is >= 0; a negative one (HDF5's failure) is kept as invalid.
  Hdf5Handle(std::int64_t id, Close close) : id_(id), close_(close) {}
  ~Hdf5Handle() { reset(); }
  Hdf5Handle(Hdf5Handle&& other) noexcept;
  Hdf5Handle& operator=(Hdf5Handle&& other) noexcept;

  bool valid() const { return id_ >= 0; }
  std::int64_t id() const { return id_; }
  /// Closes now; false when HDF5 says that closing failed.
  bool reset() noexcept;

 private:
  std::int64_t id_ = -1;
  Close close_ = nullptr;
};

struct Hdf5DatasetInfo {
  Hdf5Type type;
  std::vector<std::int64_t> dims;
  /// Of the first element in the file; 0 when there is none.
  std::int64_t offset_bytes;

  std::int64_t numel() const;
  std::int64_t bytes() const { return numel() * hdf5_type_size(type); }
};

/// A dataset to be made. Elements not written yet are undefined.
struct Hdf5NewDataset {
  struct Numbers {
    const char* name;
    std::span<const std::int64_t> values;
  };
  struct Text {
    const char* name;
    std::string_view value;  ///< without NUL bytes
  };
  const std::string& name;
  Hdf5Type type;
  std::span<const std::int64_t> dims;
  std::span<const Numbers> numbers;
  std::span<const Text> texts;
};

class Hdf5File {
 public:
  /// A new file for writing, in place of one that is there. Datasets of 256 bytes or more begin at
  /// multiples of 64.
  static Hdf5File create(const std::string& path);
  /// The same, over a file that is there and in the disk blocks that it has: a file whose room was reserved
  /// (checkpoint/file.h) keeps it until close_and_sync cuts off what was not used. HDF5 does not get over a
  /// disk that fills up while it writes. All datasets begin at multiples of 64 bytes.
  static Hdf5File create_over(const std::string& path);
  /// An existing file for reading. Takes no file lock (files are written under a temporary name and renamed).
  static Hdf5File open(const std::string& path);

  const std::string& path() const { return path_; }
  /// Size when opened for reading.
  std::int64_t size_bytes() const { return size_bytes_; }

  /// Writes out what is pending, closes, and syncs the file to disk. Without it the destructor closes and
  /// ignores errors.
  void close_and_sync();

  // ---- datasets; a name may hold groups ("optimizer/exp_avg/lm_head.weight"), made as needed ----
  void write(const std::string& name, const Tensor& tensor);
  void write(const std::string& name, Hdf5Type type, std::span<const std::int64_t> dims, const void* data);
  /// Elements not written yet are undefined.
  void create_dataset(const std::string& name, Hdf5Type type, std::span<const std::int64_t> dims);
  /// The same with its attributes, several times as fast as set_attribute by set_attribute. Returns the offset
  /// of its first element in the file, 0 when there is none.
  std::int64_t create_dataset(const Hdf5NewDataset& dataset);
  /// Writes the box [offset, offset + count) of a dataset; `data` is dense, of `type`, which must be the
  /// dataset's.
  void write_slab(const std::string& name, Hdf5Type type, std::span<const std::int64_t> offset,
                  std::span<const std::int64_t> count, const void* data);

  bool has_dataset(const std::string& name) const;
  /// Names of all datasets in all groups, sorted, without a leading slash.
  std::vector<std::string> datasets() const;
  /// Throws Error also when the dataset is chunked, filtered, of another element type, or reaches past the
  /// file's end.
  Hdf5DatasetInfo info(const std::string& name) const;
  /// The whole dataset; Error when it is not stored as `dtype` is, or has more than four dims.
  Tensor read(const std::string& name, DType dtype) const;
  /// The box [offset, offset + shape); Error when it reaches out of the dataset.
  Tensor read_slab(const std::string& name, DType dtype, std::span<const std::int64_t> offset,
                   const Shape& shape) const;
  /// The box into memory for as many elements of `type`.
  void read_slab(const std::string& name, Hdf5Type type, std::span<const std::int64_t> offset,
                 std::span<const std::int64_t> count, void* data) const;

  // ---- attributes, of a dataset, or of the file where object is "" ----
  // A name must be new on the object. Strings hold no NUL byte; an attribute holds less than 64 KiB. Strings of
  // variable length, of other programs, are refused: HDF5 1.10 keeps them in a heap without checksums, and
  // crashes on a damaged one.
  void set_attribute(const std::string& object, const std::string& name, std::string_view value);
  void set_attribute(const std::string& object, const std::string& name, std::int64_t value);
  void set_attribute(const std::string& object, const std::string& name, std::uint64_t value);
  void set_attribute(const std::string& object, const std::string& name, double value);
  void set_attribute(const std::string& object, const std::string& name, std::span<const std::int64_t> values);
  bool has_attribute(const std::string& object, const std::string& name) const;
  std::string string_attribute(const std::string& object, const std::string& name) const;
  std::int64_t i64_attribute(const std::string& object, const std::string& name) const;
  std::uint64_t u64_attribute(const std::string& object, const std::string& name) const;
  double f64_attribute(const std::string& object, const std::string& name) const;
  std::vector<std::int64_t> i64s_attribute(const std::string& object, const std::string& name) const;

 private:
  struct Attribute;
  Hdf5Handle make_dataset(const std::string& name, Hdf5Type type, std::span<const std::int64_t> dims);
  Attribute open_attribute(const std::string& object, const std::string& name) const;
  void write_attribute(const std::string& object, const std::string& name, std::int64_t type,
                       std::int64_t space, const void* data);
  /// `owner` ("dataset x: ") begins what a message says after the path.
  void write_text(const Hdf5Handle& parent, const std::string& owner, const std::string& name,
                  std::string_view value);
  void write_numbers(const Hdf5Handle& parent, const std::string& owner, const std::string& name,
                     std::span<const std::int64_t> values);
  void write_value(const Hdf5Handle& parent, const std::string& owner, const std::string& name,
                   std::int64_t type, std::int64_t space, const void* data);
  /// Reads a numeric attribute of `expected` elements (-1: any number up to 8 Ki), converted to the memory
  /// type.
  template <class T>
  std::vector<T> read_numbers(const std::string& object, const std::string& name, std::int64_t expected) const;
  Hdf5Handle open_object(const std::string& object) const;
  Hdf5Handle open_dataset(const std::string& name) const;
  void check_box(const std::string& name, Hdf5Type type, std::span<const std::int64_t> offset,
                 std::span<const std::int64_t> count) const;

  std::string path_;
  std::int64_t size_bytes_ = 0;
  Hdf5Handle file_;
};

}  // namespace hysparse
