// Tensors and their memory on the GPU.
#include <cmath>

#include "core/cpu/elementwise.h"
#include "core/cuda/elementwise.h"
#include "core/cuda/scalar.h"
#include "core/ops/scalar.h"
#include "tests/core/gpu_test.h"

namespace hysparse::testing {
namespace {

TEST(CudaTensor, TravelsToTheGpuAndBack) {
  const Tensor t = random_tensor({5, 7}, 1, "t", 1.0, DType::f32);
  const Tensor there = on_gpu(t);
  EXPECT_EQ(there.device(), gpu().device);
  EXPECT_EQ(there.to_vector<float>(), t.to_vector<float>());
  EXPECT_EQ(there.slice(2, 4).to_vector<float>(), t.slice(2, 4).to_vector<float>());
  const Tensor copy = there.clone();
  there.zero_();
  EXPECT_EQ(copy.to_vector<float>(), t.to_vector<float>());
  EXPECT_EQ(there.to_vector<float>(), std::vector<float>(35));
  there.slice(1, 2).copy_from(t.slice(0, 1));
  EXPECT_EQ(there.slice(1, 2).to_vector<float>(), t.slice(0, 1).to_vector<float>());
  EXPECT_TRUE(Tensor::zeros({0, 3}, DType::f32, gpu().device).to_vector<float>().empty());
  EXPECT_EQ(Tensor::zeros({9}, DType::i64, gpu().device).to_vector<std::int64_t>(),
            std::vector<std::int64_t>(9));
}

TEST(CudaTensor, ConvertsAsOnTheCpu) {
  for (const std::int64_t n : {0, 1, 7, 1024, 100003}) {
    const Tensor wide = random_tensor({n}, 2, "wide");
    for (const DType from : {DType::f64, DType::f32, DType::bf16}) {
      for (const DType to : {DType::f64, DType::f32, DType::bf16}) {
        const Tensor x = wide.to(from), expected = x.to(to);
        const Tensor got = on_gpu(x).to(to).to_device(Device{});
        ASSERT_EQ(got.dtype(), to);
        ASSERT_EQ(0, n == 0 ? 0 : std::memcmp(got.raw(), expected.raw(), static_cast<std::size_t>(got.bytes())))
            << dtype_name(from) << " to " << dtype_name(to) << ", " << n;
      }
    }
  }
}

TEST(CudaTensor, IsCountedApartFromTheCpu) {
  (void)gpu();
  const MemoryUse cpu_before = memory_use(), before = memory_use(gpu().device);
  {
    const Tensor t = Tensor::empty({1000}, DType::f32, gpu().device);
    EXPECT_EQ(memory_use(gpu().device).live_bytes, before.live_bytes + 4000);
    EXPECT_GE(memory_use(gpu().device).peak_bytes, before.live_bytes + 4000);
    EXPECT_EQ(memory_use().live_bytes, cpu_before.live_bytes);
  }
  EXPECT_EQ(memory_use(gpu().device).live_bytes, before.live_bytes);
  reset_memory_peak(gpu().device);
  EXPECT_EQ(memory_use(gpu().device).peak_bytes, before.live_bytes);
}

TEST(CudaTensor, SaysWhenTheGpuIsFull) {
  (void)gpu();
  try {
    (void)Tensor::empty({std::int64_t{1} << 42}, DType::u8, gpu().device);
    FAIL() << "4 TiB were there";
  } catch (const Failure& failure) {
    EXPECT_NE(std::string(failure.what()).find("out of memory on cuda:0: 4398046511104 bytes asked for"),
              std::string::npos)
        << failure.what();
  }
  // The failed try leaves nothing behind.
  EXPECT_EQ(on_gpu(Tensor::from<float>({3}, {1})).to_vector<float>(), std::vector<float>{3});
}

TEST(CudaTensor, RefusesAGpuThatIsNotThere) {
  (void)gpu();
  EXPECT_THROW(cuda::open_stream(cuda::device_count()), CheckFailure);
  EXPECT_GT(cuda::properties().multiprocessors, 0);
}

TEST(CudaElementwise, AddsEveryDtype) {
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16}) {
    for (const std::int64_t n : {0, 1, 5, 4096, 70001}) {
      const Tensor a = random_for(dtype, {n + 1}, 3, "a"), b = random_for(dtype, {n + 1}, 3, "b");
      // Whole tensors, and slices of them that no vector access fits.
      for (const std::int64_t begin : {0, 1}) {
        const Tensor expected = Tensor::empty({n + 1 - begin}, DType::f32);
        const Tensor da = on_gpu(a, dtype).slice(begin, n + 1), db = on_gpu(b, dtype).slice(begin, n + 1);
        TestStream stream;
        cpu::add(stream, a.slice(begin, n + 1), b.slice(begin, n + 1), expected);
        const Tensor out = poisoned(expected.shape(), dtype);
        cuda::add(gpu(), da, db, out);
        EXPECT_LE(gpu_error(out, expected), bound_of(dtype)) << dtype_name(dtype) << " " << n;
        cuda::add_in_place(gpu(), da, db);
        EXPECT_LE(gpu_error(da, expected), bound_of(dtype)) << dtype_name(dtype) << " " << n;
      }
    }
  }
  const Tensor counts = on_gpu(Tensor::from<std::int64_t>({1, 2, 3}, {3}));
  cuda::add_in_place(gpu(), counts, on_gpu(Tensor::from<std::int64_t>({10, 20, 1ll << 40}, {3})));
  EXPECT_EQ(counts.to_vector<std::int64_t>(), (std::vector<std::int64_t>{11, 22, (1ll << 40) + 3}));
}

TEST(CudaScalar, SumsInDouble) {
  for (const std::int64_t n : {0, 1, 31, 1025, 200000}) {
    const Tensor terms = random_tensor({n}, 4, "terms");
    double expected = 0, magnitude = 1e-300;
    for (const double t : terms.to_vector<double>()) {
      expected += t;
      magnitude += std::abs(t);
    }
    const Tensor total = poisoned({1}, DType::f64);
    cuda::sum_terms(gpu(), on_gpu(terms), total);
    const double first = scalar_value(total);
    EXPECT_NEAR(first, expected, 1e-13 * magnitude);
    cuda::sum_terms(gpu(), on_gpu(terms), total);
    EXPECT_EQ(scalar_value(total), first);
  }
  const Tensor filled = poisoned({300}, DType::f32);
  cuda::fill(gpu(), filled, 0.1);
  EXPECT_EQ(filled.to_vector<float>(), std::vector<float>(300, 0.1f));
  EXPECT_EQ(scalar_value(scalar_tensor(0.1, DType::f64, gpu().device)), 0.1);
}

}  // namespace
}  // namespace hysparse::testing
