// The reader without the HDF5 library against the library.
#include "core/plain_hdf5.h"

#include <array>
#include <limits>

#include "tests/data/temporary_directory.h"

namespace hysparse {
namespace {

PlainHdf5 parse(const std::string& bytes) {
  return {std::as_bytes(std::span(bytes)), "a.h5"};
}

TEST(PlainHdf5, ReadsWhatTheLibraryReads) {
  const TemporaryDirectory dir;
  const std::string path = dir / "a.h5";
  const std::array<double, 8> data{};
  {
    Hdf5File file = Hdf5File::create(path);
    const std::array<std::int64_t, 1> eight = {8};
    for (const Hdf5Type type : {Hdf5Type::f64, Hdf5Type::i32, Hdf5Type::u8, Hdf5Type::u16, Hdf5Type::u64}) {
      file.write(std::string(hdf5_type_name(type)), type, eight, data.data());
    }
    const std::array<std::int64_t, 3> cube = {2, 2, 2}, none = {2, 0, 4};
    file.write("cube", Hdf5Type::f32, cube, data.data());
    file.write("none", Hdf5Type::i64, none, data.data());
    file.write("scalar", Hdf5Type::u32, {}, data.data());
    file.set_attribute("", "text", std::string_view("hysparse prepare"));
    file.set_attribute("", "empty", std::string_view());
    file.set_attribute("", "long", std::string_view(std::string(60'000, 'x')));  // in a block of its own
    file.set_attribute("", "negative", std::int64_t{-5});
    file.set_attribute("", "least", std::numeric_limits<std::int64_t>::min());
    file.set_attribute("", "unsigned", std::uint64_t{7});
    file.set_attribute("", "most", std::numeric_limits<std::uint64_t>::max());
    file.set_attribute("", "real", 0.5);
    file.close_and_sync();
  }
  const std::string bytes = read_file(path);
  const PlainHdf5 plain = parse(bytes);
  const Hdf5File library = Hdf5File::open(path);
  for (const std::string& name : library.datasets()) {
    ASSERT_TRUE(plain.has_dataset(name)) << name;
    const Hdf5DatasetInfo ours = plain.info(name), theirs = library.info(name);
    EXPECT_EQ(ours.type, theirs.type) << name;
    EXPECT_EQ(ours.dims, theirs.dims) << name;
    EXPECT_EQ(ours.offset_bytes, theirs.offset_bytes) << name;
  }
  for (const char* name : {"text", "empty", "long"}) {
    EXPECT_EQ(plain.string_attribute(name), library.string_attribute("", name)) << name;
  }
  for (const char* name : {"negative", "least", "unsigned", "most"}) {
    EXPECT_EQ(plain.i64_attribute(name), library.i64_attribute("", name)) << name;
  }
  EXPECT_FALSE(plain.has_dataset("other"));
  EXPECT_ERROR(plain.info("other"), "a.h5", "has no dataset other");
  EXPECT_ERROR(plain.string_attribute("other"), "a.h5", "has no attribute other");
  EXPECT_ERROR(plain.string_attribute("negative"), "a.h5", "negative is not a string");
  EXPECT_ERROR(plain.i64_attribute("text"), "a.h5", "text is not an integer");
  EXPECT_ERROR(plain.i64_attribute("real"), "a.h5", "real is not an integer");
}

TEST(PlainHdf5, RefusesByNameWhatItDoesNotRead) {
  const TemporaryDirectory dir;
  const std::array<std::int64_t, 1> one = {1};
  const std::int64_t value = 1;
  {
    Hdf5File file = Hdf5File::create(dir / "group.h5");
    file.write("group/inner", Hdf5Type::i64, one, &value);
    file.close_and_sync();
  }
  const std::string group = read_file(dir / "group.h5");
  EXPECT_FALSE(parse(group).has_dataset("group"));
  EXPECT_FALSE(parse(group).has_dataset("inner"));
  {
    Hdf5File file = Hdf5File::create(dir / "many.h5");
    for (int i = 0; i < 40; ++i) file.write(fmt::format("d{}", i), Hdf5Type::i64, one, &value);
    file.close_and_sync();
  }
  const std::string many = read_file(dir / "many.h5");
  EXPECT_ERROR(parse(many), "a.h5", "keeps names in a heap");
  std::string old = many;
  old[8] = '\0';  // the version
  EXPECT_ERROR(parse(old), "a.h5", "the format of before 1.8");
  EXPECT_ERROR(parse(""), "a.h5", "empty file, not an HDF5 file");
  EXPECT_ERROR(parse("abc"), "a.h5", "not an HDF5 file");
}

}  // namespace
}  // namespace hysparse
