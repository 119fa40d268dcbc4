// Orders and rows on the GPU against the CPU: indices exactly.
#include "core/backend.h"
#include "moe/cpu/dispatch.h"
#include "moe/cuda/dispatch.h"
#include "moe/dispatch.h"
#include "tests/moe/cuda_moe_test.h"

namespace hysparse::testing {
namespace {

struct Ids {
  std::string name;
  std::int64_t experts;
  Tensor ids;
};

std::vector<Ids> all_ids() {
  return {{"few", 4, random_ids(10, 2, 4)},
          {"many", 64, random_ids(3001, 8, 64)},
          {"wide", 512, random_ids(1025, 10, 512)},
          {"dropped", 7, with_dropped(random_ids(900, 3, 7), 4)},
          {"all_to_one", 9, repeated(5000, {4})},
          {"two_experts", 300, repeated(1500, {299, 0})},
          {"all_dropped", 5, repeated(33, {-1, -1})},
          {"one_expert", 1, repeated(50, {0})},
          {"thousands", 5000, random_ids(400, 6, 5000)},
          {"no_tokens", 6, random_ids(0, 2, 6)},
          {"one_token", 6, random_ids(1, 1, 6)}};
}

std::int64_t kept(const Tensor& ids) {
  std::int64_t n = 0;
  for (const std::int32_t id : ids.to_vector<std::int32_t>()) n += id >= 0;
  return n;
}

TEST(ExpertOrderCuda, IsLikeTheCpu) {
  TestStream cpu;
  for (const Ids& c : all_ids()) {
    SCOPED_TRACE(c.name);
    const std::int64_t rows = kept(c.ids);
    const ExpertOrder expected = order_by_expert(cpu, c.ids, c.experts, rows);
    for (const std::int64_t bound : {rows, c.ids.numel()}) {
      const ExpertOrder got = order_by_expert(gpu(), on_gpu(c.ids), c.experts, bound);
      expect_same_ids(got.offsets, expected.offsets);
      expect_same_ids(got.positions, expected.positions);
      expect_same_ids(got.sources.slice(0, rows), expected.sources);
      expect_same_ids(got.assignments.slice(0, rows), expected.assignments);
    }
  }
}

TEST(RowsCuda, AreLikeTheCpu) {
  TestStream cpu;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const std::int64_t width : {1, 5, 8, 64, 100, 2056}) {
      SCOPED_TRACE(fmt::format("{} {}", dtype_name(dtype), width));
      const std::int64_t tokens = 130, k = 6, experts = 16;
      const Tensor ids = with_dropped(random_ids(tokens, k, experts), 5);
      const ExpertOrder order = order_by_expert(cpu, ids, experts, kept(ids));
      const Tensor positions = on_gpu(order.positions);
      const std::int64_t m = order.rows();

      const Tensor x = random_for(dtype, {tokens, width}, 1, "x");
      const Tensor gathered = Tensor::empty({m, width}, DType::f32), gathered_gpu = poisoned({m, width}, dtype);
      cpu::gather_rows(cpu, x, order.sources, gathered);
      cuda::gather_rows(gpu(), on_gpu(x, dtype), on_gpu(order.sources), gathered_gpu);
      EXPECT_EQ(gpu_error(gathered_gpu, gathered), 0);

      const Tensor rows = random_for(dtype, {m, width}, 1, "rows"),
                   values = random_for(DType::f32, {m}, 1, "v");
      for (const bool add : {false, true}) {
        const Tensor out = x.clone(), out_gpu = on_gpu(x, dtype);
        cpu::combine_rows(cpu, rows, order.positions, out, add);
        cuda::combine_rows(gpu(), on_gpu(rows, dtype), positions, out_gpu, add);
        EXPECT_LE(gpu_error(out_gpu, out), bound_of(dtype));
        const Tensor taken = random_for(DType::f32, {tokens, k}, 2, "taken"), taken_gpu = on_gpu(taken);
        cpu::take_values(cpu, values, order.positions, taken, add);
        cuda::take_values(gpu(), on_gpu(values), positions, taken_gpu, add);
        EXPECT_EQ(taken_gpu.to_vector<float>(), taken.to_vector<float>());
      }
    }
  }
}

/// Ids and weights in rows of bf16 too: exact, beyond what its numbers hold.
TEST(RowsCuda, CarryIdsAndWeightsExactly) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const std::int64_t width : {3, 8, 40}) {
      SCOPED_TRACE(fmt::format("{} {}", dtype_name(dtype), width));
      const std::int64_t tokens = 70, k = 10;
      const Tensor ids = with_dropped(random_ids(tokens, k, 100000), 7);
      std::vector<std::int32_t> identity(static_cast<std::size_t>(tokens));
      for (std::size_t t = 0; t < identity.size(); ++t) identity[t] = static_cast<std::int32_t>(t);
      const Tensor each = Tensor::from(identity, {tokens}), alone = Tensor::from(identity, {tokens, 1});
      const Tensor x = random_for(dtype, {tokens, width}, 1, "x"),
                   w = random_for(DType::f32, {tokens, k}, 1, "w");
      const Tensor packed = poisoned({tokens, WireRow::with_ids(width, k, dtype).columns}, dtype);
      cuda::pack_rows(gpu(), on_gpu(x, dtype), on_gpu(w), on_gpu(ids), on_gpu(each), packed);
      const Tensor w_back = poisoned({tokens, k}, DType::f32), ids_back = poisoned({tokens, k}, DType::i32);
      cuda::unpack_slots(gpu(), packed, width, w_back, ids_back);
      EXPECT_EQ(w_back.to_vector<float>(), w.to_vector<float>());
      expect_same_ids(ids_back, ids);
      const Tensor x_back = poisoned({tokens, width}, dtype);
      cuda::combine_rows(gpu(), packed, on_gpu(alone), x_back, false);
      EXPECT_EQ(gpu_error(x_back, x), 0);

      // The way back: rows in the order of tokens, one value a row.
      const Tensor rows = poisoned({tokens, WireRow::without_ids(width, 1, dtype).columns}, dtype),
                   value = random_for(DType::f32, {tokens}, 1, "v"), back = poisoned({tokens, 1}, DType::f32);
      cuda::pack_gradients(gpu(), on_gpu(x, dtype), on_gpu(value), on_gpu(alone), rows);
      cuda::combine_slots(gpu(), rows, width, on_gpu(alone), back, false);
      EXPECT_EQ(back.to_vector<float>(), value.to_vector<float>());
      cuda::combine_rows(gpu(), rows, on_gpu(alone), x_back, false);
      EXPECT_EQ(gpu_error(x_back, x), 0);
    }
  }
}

TEST(PlanRowsCuda, IsLikeTheCpu) {
  TestStream cpu;
  for (const std::int64_t ep : {1, 4, 64}) {
    for (const std::int64_t copies : {1, 3}) {
      SCOPED_TRACE(fmt::format("ep {} etp {}", ep, copies));
      const std::int64_t tokens = 515, k = 6, local = 8, most = std::min(k, ep);
      const Tensor ids = with_dropped(random_ids(tokens, k, local * ep), 3);
      const auto run = [&](const Stream& stream, auto list, auto count, auto plan) {
        const auto empty = [&](Shape shape, DType dtype) { return Tensor::zeros(shape, dtype, stream.device); };
        const Tensor here = ids.to_device(stream.device), owners = empty({tokens, most}, DType::i32),
                     assignments = empty({ep}, DType::i64), counts = empty({ep * copies}, DType::i64);
        list(stream, here, local, owners, assignments);
        const ExpertOrder order = order_by_expert(stream, owners, ep, owners.numel());
        count(stream, order.offsets, assignments, copies, counts);
        std::int64_t n = 0;
        for (const std::int64_t c : counts.template to_vector<std::int64_t>()) n += c & 0xffffffff;
        cpu::PlanRows p{here,
                        owners,
                        order.offsets,
                        order.positions,
                        local,
                        copies,
                        empty({n}, DType::i32),
                        empty({n, k}, DType::i32),
                        empty({tokens, most * copies}, DType::i32)};
        plan(stream, p);
        return std::vector<Tensor>{owners, p.tokens, p.local_ids, p.positions, counts};
      };
      const auto expected = run(cpu, cpu::list_owners, cpu::count_destinations, cpu::plan_rows);
      const auto got = run(gpu(), cuda::list_owners, cuda::count_destinations, cuda::plan_rows);
      for (std::size_t i = 0; i < 4; ++i) expect_same_ids(got[i], expected[i]);
      expect_same_counts(got[4], expected[4]);
    }
  }
}

// The whole way in a group of one, which sends to itself.
TEST(DispatchCuda, InAGroupOfOneIsLikeTheCpu) {
  const std::int64_t tokens = 91, k = 4, experts = 300, width = 24;
  const Tensor ids = with_dropped(random_ids(tokens, k, experts), 6);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    SCOPED_TRACE(dtype_name(dtype));
    const Tensor x = random_for(dtype, {tokens, width}, 1, "x"),
                 w = random_for(DType::f32, {tokens, k}, 1, "w");
    const auto run = [&](const Stream& stream, DType row_dtype) {
      const auto there = [&](const Tensor& t) { return t.to(row_dtype).to_device(stream.device); };
      const auto group = local_communicator("ep");
      const Dispatch dispatch(stream, ids.to_device(stream.device), experts, *group, 1);
      const Dispatch::Received here = dispatch.send(there(x), w.to_device(stream.device));
      EXPECT_EQ(here.assignments, kept(ids));
      const Tensor rows = random_for(dtype, {dispatch.received(), width}, 1, "rows"),
                   values = random_for(DType::f32, {here.assignments}, 1, "values");
      const Tensor y = dispatch.combine(there(rows)), sent = dispatch.send_gradient(there(x));
      const ExpertOrder order = order_by_expert(stream, here.ids, experts, here.assignments);
      const Tensor drows = there(random_for(dtype, {here.assignments, width}, 1, "drows"));
      const Tensor back = Tensor::empty(
          {dispatch.received(), WireRow::without_ids(width, k, row_dtype).columns}, row_dtype, stream.device);
      HYSPARSE_LAUNCH(stream, pack_gradients, drows, values.to_device(stream.device), order.positions, back);
      Gradient dx({tokens, width}, row_dtype, stream.device), dw({tokens, k}, DType::f32, stream.device);
      dispatch.return_gradient(back, width, &dx, &dw);
      return std::vector<Tensor>{y, sent, dx.value(), dw.value(), here.weights};
    };
    TestStream cpu;
    const auto expected = run(cpu, DType::f32), got = run(gpu(), dtype);
    for (std::size_t i = 0; i < expected.size(); ++i)
      EXPECT_LE(gpu_error(got[i], expected[i]), bound_of(dtype)) << i;
  }
}

}  // namespace
}  // namespace hysparse::testing
