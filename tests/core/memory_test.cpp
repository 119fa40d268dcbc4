// Whose the memory is: scopes, threads, and a table that sums to the peak.
#include "core/memory.h"

#include <array>

#include <gtest/gtest.h>

#include "core/tensor.h"
#include "core/thread_pool.h"

namespace hysparse::testing {
namespace {

TEST(Memory, EveryBlockIsCountedUnderItsPurpose) {
  const MemoryTable before = memory_now();
  Tensor weights, inner;
  {
    const MemoryScope scope(MemoryPurpose::parameters);
    weights = Tensor::zeros({256}, DType::f32);
    const MemoryScope nested(MemoryPurpose::optimizer);
    inner = Tensor::zeros({64}, DType::f64);
  }
  EXPECT_EQ(current_memory_purpose(), MemoryPurpose::other);
  const MemoryTable now = memory_now();
  EXPECT_EQ(now.of(MemoryPurpose::parameters) - before.of(MemoryPurpose::parameters), 1024);
  EXPECT_EQ(now.of(MemoryPurpose::optimizer) - before.of(MemoryPurpose::optimizer), 512);
  {
    const MemoryScope scope(MemoryPurpose::data);  // a block leaves by the purpose it came with
    weights = {};
    inner = {};
  }
  EXPECT_EQ(memory_now().bytes, before.bytes);
}

TEST(Memory, TheTableIsThatOfThePeakAndSumsToIt) {
  reset_memory_peak();
  const std::int64_t before = memory_use().live_bytes;
  {
    const MemoryScope scope(MemoryPurpose::activations);
    const Tensor a = Tensor::zeros({1000}, DType::f32);
    const MemoryScope backward(MemoryPurpose::backward);
    const Tensor b = Tensor::zeros({500}, DType::f32);
  }
  {
    const MemoryScope scope(MemoryPurpose::data);  // less than there was
    const Tensor c = Tensor::zeros({1200}, DType::f32);
  }
  const MemoryTable table = memory_at_peak();
  EXPECT_EQ(memory_use().peak_bytes, before + 6000);
  EXPECT_EQ(table.total(), memory_use().peak_bytes);
  EXPECT_EQ(table.of(MemoryPurpose::activations), 4000);
  EXPECT_EQ(table.of(MemoryPurpose::backward), 2000);
  EXPECT_EQ(table.of(MemoryPurpose::data), 0);
}

TEST(Memory, ThreadsOfThePoolAllocateForTheirCaller) {
  ThreadPool pool(4);
  std::array<Tensor, 4> made;
  const std::int64_t before = memory_now().of(MemoryPurpose::activations);
  {
    const MemoryScope scope(MemoryPurpose::activations);
    pool.parallel_for(4, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i)
        made[static_cast<std::size_t>(i)] = Tensor::zeros({16}, DType::f32);
    });
  }
  EXPECT_EQ(memory_now().of(MemoryPurpose::activations) - before, 4 * 64);
}

TEST(Memory, TheTableAsText) {
  MemoryTable table;
  EXPECT_EQ(table.str(), "");
  table.bytes[static_cast<std::size_t>(MemoryPurpose::parameters)] = 512;
  table.bytes[static_cast<std::size_t>(MemoryPurpose::backward)] = 3ll << 29;
  EXPECT_EQ(table.str(), "backward 1.5 GiB, parameters 512 B");
  EXPECT_EQ(table.total(), (3ll << 29) + 512);
}

}  // namespace
}  // namespace hysparse::testing
