#include "core/hdf5.h"

#include <algorithm>
#include <array>
#include <csignal>
#include <thread>

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/data/temporary_directory.h"

namespace hysparse {
namespace {

/// One dataset of each kind and one attribute of each.
void write_sample(const std::string& path) {
  Hdf5File file = Hdf5File::create(path);
  file.write("weights/a.b.weight", Tensor::from<float>({0, 1, 2, 3, 4, 5}, {2, 3}));
  file.write("double", Tensor::from<double>({1.5, -2.5}, {2}));
  file.write("half", Tensor::from<BFloat16>({BFloat16(1.0f), BFloat16(-3.0f)}, {1, 2, 1}));
  file.write("long", Tensor::from<std::int64_t>({-1, INT64_MAX}, {2, 1, 1, 1}));
  file.write("int", Tensor::from<std::int32_t>({-7}, {1}));
  file.write("bytes", Tensor::from<std::uint8_t>({255, 0, 7}, {3}));
  file.write("scalar", Tensor::from<double>({4.25}, {}));
  file.write("empty", Tensor::empty({3, 0}, DType::f32));
  const std::array<std::uint16_t, 3> words = {1, 2, 65535};
  const std::array<std::int64_t, 1> three = {3};
  file.write("words", Hdf5Type::u16, three, words.data());
  file.set_attribute("", "name", "héllo");
  file.set_attribute("", "nothing", "");
  file.set_attribute("", "signed", std::int64_t{-5});
  file.set_attribute("weights/a.b.weight", "unsigned", UINT64_MAX);
  file.set_attribute("weights/a.b.weight", "real", 0.1);
  const std::array<std::int64_t, 2> shape = {20, 30};
  file.set_attribute("weights/a.b.weight", "global_shape", shape);
  file.set_attribute("scalar", "global_shape", std::span<const std::int64_t>{});
  file.close_and_sync();
}

TEST(Hdf5, DatasetsRoundTrip) {
  const TemporaryDirectory dir;
  write_sample(dir / "a.h5");
  const Hdf5File file = Hdf5File::open(dir / "a.h5");
  EXPECT_EQ(file.size_bytes(), static_cast<std::int64_t>(std::filesystem::file_size(dir / "a.h5")));
  EXPECT_EQ(file.datasets(), (std::vector<std::string>{"bytes", "double", "empty", "half", "int", "long",
                                                       "scalar", "weights/a.b.weight", "words"}));
  const Tensor weight = file.read("weights/a.b.weight", DType::f32);
  EXPECT_EQ(weight.shape(), (Shape{2, 3}));
  EXPECT_EQ(weight.to_vector<float>(), (std::vector<float>{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(file.read("double", DType::f64).to_vector<double>(), (std::vector<double>{1.5, -2.5}));
  const Tensor half = file.read("half", DType::bf16);
  EXPECT_EQ(half.shape(), (Shape{1, 2, 1}));
  EXPECT_EQ(static_cast<float>(half.data<BFloat16>()[1]), -3.0f);
  EXPECT_EQ(file.read("long", DType::i64).to_vector<std::int64_t>(),
            (std::vector<std::int64_t>{-1, INT64_MAX}));
  EXPECT_EQ(file.read("int", DType::i32).to_vector<std::int32_t>(), (std::vector<std::int32_t>{-7}));
  EXPECT_EQ(file.read("bytes", DType::u8).to_vector<std::uint8_t>(), (std::vector<std::uint8_t>{255, 0, 7}));
  EXPECT_EQ(file.read("scalar", DType::f64).shape(), Shape{});
  EXPECT_EQ(file.read("scalar", DType::f64).data<double>()[0], 4.25);
  EXPECT_EQ(file.read("empty", DType::f32).shape(), (Shape{3, 0}));
}

TEST(Hdf5, AttributesRoundTrip) {
  const TemporaryDirectory dir;
  write_sample(dir / "a.h5");
  const Hdf5File file = Hdf5File::open(dir / "a.h5");
  const std::string weight = "weights/a.b.weight";
  EXPECT_EQ(file.string_attribute("", "name"), "héllo");
  EXPECT_EQ(file.string_attribute("", "nothing"), "");
  EXPECT_EQ(file.i64_attribute("", "signed"), -5);
  EXPECT_EQ(file.u64_attribute(weight, "unsigned"), UINT64_MAX);
  EXPECT_EQ(file.f64_attribute(weight, "real"), 0.1);
  EXPECT_EQ(file.i64s_attribute(weight, "global_shape"), (std::vector<std::int64_t>{20, 30}));
  EXPECT_TRUE(file.i64s_attribute("scalar", "global_shape").empty());
  EXPECT_TRUE(file.has_attribute("", "name"));
  EXPECT_FALSE(file.has_attribute("", "nam"));
  EXPECT_ERROR(file.string_attribute("", "signed"), "a.h5", "signed is not a string");
  EXPECT_ERROR(file.i64_attribute("", "name"), "a.h5", "name is not an integer");
  EXPECT_ERROR(file.i64_attribute(weight, "global_shape"), weight, "has 2 values, expected 1");
  EXPECT_ERROR(file.i64_attribute("", "absent"), "a.h5", "has no attribute absent");
}

TEST(Hdf5, SlabsAndOffsets) {
  const TemporaryDirectory dir;
  write_sample(dir / "a.h5");
  const Hdf5File file = Hdf5File::open(dir / "a.h5");
  const std::array<std::int64_t, 2> offset = {1, 1};
  EXPECT_EQ(file.read_slab("weights/a.b.weight", DType::f32, offset, {1, 2}).to_vector<float>(),
            (std::vector<float>{4, 5}));
  EXPECT_EQ(file.read_slab("weights/a.b.weight", DType::f32, offset, {0, 2}).numel(), 0);
  EXPECT_ERROR(file.read_slab("weights/a.b.weight", DType::f32, offset, {1, 3}), "a.h5",
               "does not hold [1, 3] at [1, 1]");
  const std::array<std::int64_t, 2> far = {INT64_MAX, 0};
  EXPECT_ERROR(file.read_slab("weights/a.b.weight", DType::f32, far, {1, 3}), "a.h5", "does not hold");

  const Hdf5DatasetInfo info = file.info("words");
  EXPECT_EQ(info.type, Hdf5Type::u16);
  EXPECT_EQ(info.dims, (std::vector<std::int64_t>{3}));
  const std::string bytes = read_file(dir / "a.h5");
  EXPECT_EQ(bytes.substr(static_cast<std::size_t>(info.offset_bytes), 6), (std::string{"\1\0\2\0\xFF\xFF", 6}));
  EXPECT_EQ(file.info("empty").offset_bytes, 0);
}

TEST(Hdf5, StreamingWrites) {
  const TemporaryDirectory dir;
  Hdf5File out = Hdf5File::create(dir / "b.h5");
  const std::array<std::int64_t, 1> size = {5};
  out.create_dataset("x", Hdf5Type::u32, size);
  for (std::int64_t i = 0; i < 5; ++i) {
    const std::array<std::int64_t, 1> one = {1};
    const auto value = static_cast<std::uint32_t>(i * i);
    out.write_slab("x", Hdf5Type::u32, std::span(&i, 1), one, &value);
  }
  out.close_and_sync();
  const Hdf5File file = Hdf5File::open(dir / "b.h5");
  std::array<std::uint32_t, 5> values{};
  const std::array<std::int64_t, 1> origin = {0};
  file.read_slab("x", Hdf5Type::u32, origin, size, values.data());
  EXPECT_EQ(values, (std::array<std::uint32_t, 5>{0, 1, 4, 9, 16}));
}

TEST(Hdf5, WrongRequestsAreErrors) {
  const TemporaryDirectory dir;
  write_sample(dir / "a.h5");
  const Hdf5File file = Hdf5File::open(dir / "a.h5");
  EXPECT_ERROR(file.read("double", DType::f32), "a.h5", "double holds f64, expected f32");
  EXPECT_ERROR(file.read("nowhere", DType::f32), "a.h5", "has no dataset nowhere");
  EXPECT_ERROR(file.read("weights", DType::f32), "a.h5", "has no dataset weights");
  EXPECT_ERROR(file.read("no/where", DType::f32), "a.h5", "has no dataset no/where");
  EXPECT_ERROR(file.read("", DType::f32), "a.h5", "has no dataset");
  EXPECT_TRUE(file.has_dataset("weights/a.b.weight"));
  EXPECT_FALSE(file.has_dataset("weights"));
}

TEST(Hdf5, FilesThatCannotBeOpenedAreErrors) {
  const TemporaryDirectory dir;
  EXPECT_ERROR(Hdf5File::open(dir / "missing.h5"), "missing.h5", "No such file");
  EXPECT_ERROR(Hdf5File::open(dir.path()), dir.path(), "not a regular file");
  write_file(dir / "empty.h5", "");
  EXPECT_ERROR(Hdf5File::open(dir / "empty.h5"), "empty.h5", "empty file");
  write_file(dir / "foreign.h5", "this is a text file and not HDF5");
  EXPECT_ERROR(Hdf5File::open(dir / "foreign.h5"), "foreign.h5", "not an HDF5 file");
  EXPECT_THROW(Hdf5File::create(dir / "no/such/directory.h5"), Failure);
}

TEST(Hdf5, TruncationAnywhereIsAnError) {
  const TemporaryDirectory dir;
  write_sample(dir / "a.h5");
  const std::string bytes = read_file(dir / "a.h5");
  for (std::size_t size = 0; size < bytes.size(); size += 37) {
    write_file(dir / "cut.h5", bytes.substr(0, size));
    EXPECT_ERROR(Hdf5File::open(dir / "cut.h5"), "cut.h5", "HDF5 file");
  }
}

/// Reads all there is. Whatever is wrong must be an Error.
void read_everything(const std::string& path) {
  const Hdf5File file = Hdf5File::open(path);
  for (const std::string& name : file.datasets()) {
    for (const DType dtype : {DType::f64, DType::f32, DType::bf16, DType::i64, DType::i32, DType::u8}) {
      if (file.info(name).type == hdf5_type_of(dtype)) file.read(name, dtype);
    }
  }
  for (const char* name : {"name", "nothing"}) file.string_attribute("", name);
  file.i64_attribute("", "signed");
  file.u64_attribute("weights/a.b.weight", "unsigned");
  file.i64s_attribute("weights/a.b.weight", "global_shape");
}

TEST(Hdf5, FlippedBytesNeverCrash) {
  const TemporaryDirectory dir;
  write_sample(dir / "a.h5");
  const std::string bytes = read_file(dir / "a.h5");
  int errors = 0;
  for (std::size_t at = 0; at < bytes.size(); at += 3) {
    std::string damaged = bytes;
    damaged[at] = static_cast<char>(damaged[at] ^ (at % 2 == 0 ? '\x01' : '\xFF'));
    write_file(dir / "damaged.h5", damaged);
    try {
      read_everything(dir / "damaged.h5");
    } catch (const Error& error) {
      EXPECT_TRUE(contains(error.what(), "damaged.h5")) << error.what();
      ++errors;
    }
  }
  EXPECT_GT(errors, 200);  // the structure has checksums; the elements have none here
}

/// A limit on file size stands for the disk that is full.
TEST(Hdf5, AFileThatCannotGrowIsOneFailureOfOneLineAndExitsInOrder) {
  const TemporaryDirectory dir;
  const auto write_and_exit = [&](rlim_t limit) {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit bytes{limit, limit};
    ::setrlimit(RLIMIT_FSIZE, &bytes);
    int status = 1;
    try {
      write_sample(dir / "a.h5");
    } catch (const Failure& failure) {
      fmt::print(stderr, "<{}>", failure.what());
      status = contains(failure.what(), "\n") ? 1 : 0;
    }
    std::exit(status);
  };
  for (const rlim_t limit : {1000, 2000, 3000})  // what the child prints goes to a file as well

    EXPECT_EXIT(write_and_exit(limit), ::testing::ExitedWithCode(0), "<.*a.h5: .*: File too large>") << limit;
}

TEST(Hdf5, CreateOverKeepsTheRoomOfTheFileThatIsThere) {
  const TemporaryDirectory dir;
  constexpr std::int64_t reserved = 1 << 20, used = 1 << 19;
  const auto blocks = [&] {
    struct stat status {};
    EXPECT_EQ(::stat((dir / "a.h5").c_str(), &status), 0);
    return status.st_blocks * 512;
  };
  {
    const int descriptor = ::open((dir / "a.h5").c_str(), O_CREAT | O_WRONLY, 0644);
    ASSERT_EQ(::posix_fallocate(descriptor, 0, reserved), 0);
    ::close(descriptor);
  }
  Hdf5File file = Hdf5File::create_over(dir / "a.h5");
  EXPECT_GE(blocks(), reserved);
  file.create_dataset("group/large", Hdf5Type::u8, std::array{used});
  file.write("small", Tensor::from<double>({1.5}, {1}));
  EXPECT_GE(blocks(), reserved);
  file.close_and_sync();
  EXPECT_GE(blocks(), used);
  EXPECT_LT(std::filesystem::file_size(dir / "a.h5"), used + 8192);

  const Hdf5File back = Hdf5File::open(dir / "a.h5");
  EXPECT_EQ(back.datasets(), (std::vector<std::string>{"group/large", "small"}));
  EXPECT_EQ(back.read("small", DType::f64).data<double>()[0], 1.5);
  EXPECT_EQ(back.info("group/large").offset_bytes % 64, 0);
  EXPECT_ERROR(Hdf5File::open(dir / "b.h5"), "b.h5", "No such file");
  EXPECT_THROW(Hdf5File::create_over(dir / "b.h5"), Failure);
}

TEST(Hdf5, ThreadsMayUseFilesOfTheirOwn) {
  const TemporaryDirectory dir;
  write_sample(dir / "a.h5");
  std::array<std::thread, 4> threads;
  std::array<bool, 4> good{};
  for (std::size_t i = 0; i < threads.size(); ++i) {
    threads[i] = std::thread([&, i] {
      for (int round = 0; round < 20; ++round) {
        const Hdf5File file = Hdf5File::open(dir / "a.h5");
        good[i] = file.read("double", DType::f64).data<double>()[1] == -2.5 && !file.has_dataset("nowhere");
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(std::all_of(good.begin(), good.end(), [](bool g) { return g; }));
}

}  // namespace
}  // namespace hysparse
