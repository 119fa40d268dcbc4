#include "core/hdf5.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <hdf5.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/hdf5_internal.h"

#if defined(__SANITIZE_ADDRESS__)
/// HDF5 1.10 itself loses memory when it refuses a damaged file; the leak sanitizer need not say so.
extern "C" const char* __lsan_default_suppressions();
extern "C" const char* __lsan_default_suppressions() {
  return "leak:libhdf5";
}
#endif

namespace hysparse {

static_assert(std::is_same_v<hid_t, std::int64_t>, "Hdf5Handle holds a hid_t");

std::int64_t hdf5_type_size(Hdf5Type type) {
  switch (type) {
    case Hdf5Type::f64:
    case Hdf5Type::i64:
    case Hdf5Type::u64:
      return 8;
    case Hdf5Type::f32:
    case Hdf5Type::i32:
    case Hdf5Type::u32:
      return 4;
    case Hdf5Type::u16:
      return 2;
    case Hdf5Type::u8:
      return 1;
  }
  HYSPARSE_CHECK(false, "type {}", static_cast<int>(type));
  return 0;
}

std::string_view hdf5_type_name(Hdf5Type type) {
  switch (type) {
    case Hdf5Type::f64:
      return "f64";
    case Hdf5Type::f32:
      return "f32";
    case Hdf5Type::i64:
      return "i64";
    case Hdf5Type::i32:
      return "i32";
    case Hdf5Type::u8:
      return "u8";
    case Hdf5Type::u16:
      return "u16";
    case Hdf5Type::u32:
      return "u32";
    case Hdf5Type::u64:
      return "u64";
  }
  return "?";
}

Hdf5Type hdf5_type_of(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return Hdf5Type::f64;
    case DType::f32:
      return Hdf5Type::f32;
    case DType::bf16:
      return Hdf5Type::u16;
    case DType::i64:
      return Hdf5Type::i64;
    case DType::i32:
      return Hdf5Type::i32;
    case DType::u8:
      return Hdf5Type::u8;
  }
  HYSPARSE_CHECK(false, "dtype {}", static_cast<int>(dtype));
  return Hdf5Type::u8;
}

std::int64_t Hdf5DatasetInfo::numel() const {
  std::int64_t n = 1;
  for (const std::int64_t d : dims) n *= d;
  return n;
}

Hdf5Handle::Hdf5Handle(Hdf5Handle&& other) noexcept
    : id_(std::exchange(other.id_, -1)), close_(std::exchange(other.close_, nullptr)) {}

Hdf5Handle& Hdf5Handle::operator=(Hdf5Handle&& other) noexcept {
  if (this != &other) {
    reset();
    id_ = std::exchange(other.id_, -1);
    close_ = std::exchange(other.close_, nullptr);
  }
  return *this;
}

bool Hdf5Handle::reset() noexcept {
  if (id_ < 0) return true;
  return close_(std::exchange(id_, -1)) >= 0;
}

namespace hdf5_internal {

void quiet() {
  // At exit HDF5 would close a file again whose closing has failed (a full disk), and crash. Ours are closed by
  // their owners.
  static const bool no_exit_handler = H5dont_atexit() >= 0;
  static_cast<void>(no_exit_handler);
  static thread_local const bool done = [] {  // the error stack and its printing are per thread
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
    return true;
  }();
  static_cast<void>(done);
}

namespace {

/// HDF5's text about a system call that failed has two lines and addresses in it: what failed, and errno's
/// text.
std::string without_addresses(const std::string& text) {
  constexpr std::string_view mark = "error message = '";
  const std::size_t begin = text.find(mark), time = text.find(": time = ");
  const std::size_t end = begin == std::string::npos ? begin : text.find('\'', begin + mark.size());
  if (end == std::string::npos || time == std::string::npos) return text;
  return text.substr(0, time) + ": " + text.substr(begin + mark.size(), end - begin - mark.size());
}

}  // namespace

std::string reason() {
  std::string innermost = "no reason given";
  H5Ewalk2(
      H5E_DEFAULT, H5E_WALK_DOWNWARD,
      [](unsigned, const H5E_error2_t* error, void* out) -> herr_t {
        if (error->desc != nullptr && *error->desc != '\0') *static_cast<std::string*>(out) = error->desc;
        return 0;
      },
      &innermost);
  return without_addresses(innermost);
}

std::int64_t element_type(Hdf5Type type) {
  switch (type) {
    case Hdf5Type::f64:
      return H5T_IEEE_F64LE;
    case Hdf5Type::f32:
      return H5T_IEEE_F32LE;
    case Hdf5Type::i64:
      return H5T_STD_I64LE;
    case Hdf5Type::i32:
      return H5T_STD_I32LE;
    case Hdf5Type::u8:
      return H5T_STD_U8LE;
    case Hdf5Type::u16:
      return H5T_STD_U16LE;
    case Hdf5Type::u32:
      return H5T_STD_U32LE;
    case Hdf5Type::u64:
      return H5T_STD_U64LE;
  }
  HYSPARSE_CHECK(false, "type {}", static_cast<int>(type));
  return -1;
}

}  // namespace hdf5_internal

namespace {

using hdf5_internal::quiet;
using hdf5_internal::reason;

constexpr std::array<unsigned char, 8> signature = {0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n'};

/// Throws what keeps `path` from being opened: an Error. Returns its size.
std::int64_t check_is_hdf5(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw_error("{}: cannot read it: {}", path, std::strerror(errno));
  struct stat status {};
  std::array<unsigned char, 8> head{};
  const bool known = ::fstat(fd, &status) == 0;
  const bool regular = known && S_ISREG(status.st_mode);
  const ssize_t got = regular ? ::pread(fd, head.data(), head.size(), 0) : 0;
  ::close(fd);
  if (!regular) throw_error("{}: not a regular file", path);
  if (status.st_size == 0) throw_error("{}: empty file, not an HDF5 file", path);
  if (got != static_cast<ssize_t>(head.size()) || head != signature) throw_error("{}: not an HDF5 file", path);
  return status.st_size;
}

/// How files are written: the 1.8 format, what is `aligned_from` bytes long or longer begins at a multiple
/// of 64. Invalid when HDF5 fails.
Hdf5Handle write_access(hsize_t aligned_from = 256) {
  Hdf5Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  const bool good = access.valid() && H5Pset_libver_bounds(access.id(), H5F_LIBVER_V18, H5F_LIBVER_V18) >= 0 &&
                    H5Pset_alignment(access.id(), aligned_from, Storage::alignment) >= 0;
  return good ? std::move(access) : Hdf5Handle();
}

/// Without times.
Hdf5Handle create_file(const std::string& path, const Hdf5Handle& access) {
  const Hdf5Handle creation(H5Pcreate(H5P_FILE_CREATE), H5Pclose);
  if (!access.valid() || !creation.valid() || H5Pset_obj_track_times(creation.id(), false) < 0) return {};
  return {H5Fcreate(path.c_str(), H5F_ACC_TRUNC, creation.id(), access.id()), H5Fclose};
}

/// The bytes of a file without datasets, made in memory; none when that fails.
std::vector<char> empty_file() {
  const int fd = ::memfd_create("empty.h5", MFD_CLOEXEC);
  if (fd < 0) return {};
  std::vector<char> bytes;
  struct stat status {};
  if (create_file(fmt::format("/proc/self/fd/{}", fd), write_access()).reset() && ::fstat(fd, &status) == 0) {
    bytes.resize(static_cast<std::size_t>(status.st_size));
    if (::pread(fd, bytes.data(), bytes.size(), 0) != status.st_size) bytes.clear();
  }
  ::close(fd);
  return bytes;
}

}  // namespace

Hdf5File Hdf5File::create(const std::string& path) {
  quiet();
  Hdf5File file;
  file.path_ = path;
  file.file_ = create_file(path, write_access());
  if (!file.file_.valid()) throw_failure("{}: cannot create it: {}", path, reason());
  return file;
}

Hdf5File Hdf5File::create_over(const std::string& path) {
  quiet();
  const std::vector<char> bytes = empty_file();
  const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (fd < 0) throw_failure("{}: cannot open for writing: {}", path, std::strerror(errno));
  const ssize_t wrote = ::pwrite(fd, bytes.data(), bytes.size(), 0);
  const int error = errno;
  ::close(fd);
  if (wrote < 0) throw_failure("{}: cannot write: {}", path, std::strerror(error));
  Hdf5File file;
  file.path_ = path;
  const Hdf5Handle access = write_access(1);
  if (wrote > 0 && wrote == static_cast<ssize_t>(bytes.size()) && access.valid() &&
      H5Pset_file_locking(access.id(), false, true) >= 0) {
    file.file_ = {H5Fopen(path.c_str(), H5F_ACC_RDWR, access.id()), H5Fclose};
  }
  if (!file.file_.valid()) throw_failure("{}: cannot create it: {}", path, reason());
  return file;
}

Hdf5File Hdf5File::open(const std::string& path) {
  quiet();
  Hdf5File file;
  file.path_ = path;
  file.size_bytes_ = check_is_hdf5(path);
  Hdf5Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  if (access.valid() && H5Pset_file_locking(access.id(), false, true) >= 0) {
    file.file_ = {H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.id()), H5Fclose};
  }
  if (!file.file_.valid()) throw_error("{}: truncated or damaged HDF5 file: {}", path, reason());
  return file;
}

void Hdf5File::close_and_sync() {
  quiet();
  HYSPARSE_CHECK(file_.valid(), "{} is closed", path_);
  if (H5Fflush(file_.id(), H5F_SCOPE_GLOBAL) < 0) throw_failure("{}: cannot write it: {}", path_, reason());
  if (!file_.reset()) throw_failure("{}: cannot close it: {}", path_, reason());
  const int fd = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  const bool synced = fd >= 0 && ::fsync(fd) == 0;
  const int error = errno;
  if (fd >= 0) ::close(fd);
  if (!synced) throw_failure("{}: cannot sync it to disk: {}", path_, std::strerror(error));
}

}  // namespace hysparse
