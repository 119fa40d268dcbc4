/// Rotary embedding with norm, gates, and a hybrid block's attention as a whole, on the GPU against the CPU.
#include <array>

#include "attention/attention.h"
#include "attention/cuda/gate.h"
#include "attention/cuda/rope.h"
#include "attention/gate.h"
#include "attention/rope.h"
#include "tests/attention/cuda_cases.h"

namespace hysparse::testing {
namespace {

struct RopeCase {
  std::int64_t rows, length, heads, head_dim, rotary_dim, start, document = 0;
};

TEST(CudaRope, EqualsTheCpu) {
  for (const RopeCase& c :
       {RopeCase{1, 1, 1, 16, 16, 0}, RopeCase{150, 50, 3, 128, 128, 0}, RopeCase{33, 33, 5, 64, 16, 900},
        RopeCase{70, 35, 2, 48, 20, 0}, RopeCase{40, 40, 4, 256, 64, 3}, RopeCase{19, 19, 7, 80, 0, 0},
        RopeCase{700, 700, 9, 128, 64, 0}, RopeCase{0, 1, 2, 32, 32, 0}, RopeCase{150, 50, 3, 128, 128, 0, 12},
        RopeCase{70, 35, 2, 48, 20, 0, 5}, RopeCase{40, 20, 3, 4, 4, 0}, RopeCase{60, 30, 2, 7, 2, 5},
        RopeCase{150, 50, 3, 12, 12, 0, 11}, RopeCase{64, 32, 16, 8, 8, 0, 9},
        RopeCase{45, 15, 3, 20, 10, 0, 4}, RopeCase{66, 33, 16, 24, 24, 0, 10}, RopeCase{65, 65, 1, 24, 16, 2},
        RopeCase{35, 35, 2, 256, 256, 0, 8}}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      for (const bool norm : {false, true}) {
        SCOPED_TRACE(::testing::Message()
                     << c.rows << " rows, " << c.heads << " heads of " << c.head_dim << ", rotary "
                     << c.rotary_dim << ", norm " << norm << " " << dtype_name(dtype));
        const Shape shape{c.rows, c.heads * c.head_dim};
        const Tensor x = random_for(dtype, shape, 21, "x"), dy = random_for(dtype, shape, 21, "dy"),
                     before = random_for(dtype, shape, 21, "before"),
                     weight = random_for(dtype, {c.head_dim}, 21, "w");
        const Tensor table = cpu::rope_table(cpu_stream(), 1e4, c.rotary_dim, c.start, c.length, DType::f32);
        const Tensor gpu_table = cuda::rope_table(gpu(), 1e4, c.rotary_dim, c.start, c.length, DType::f32);
        if (table.numel() > 0) {
          EXPECT_LE(gpu_error(gpu_table, table), 1e-6);
        }
        const Tensor documents = random_documents(c.rows / c.length, c.length, c.document);
        const cpu::NormRope op{c.head_dim, table, norm ? weight : Tensor(), 1e-6, documents},
            gpu_op{c.head_dim, gpu_table, norm ? on_gpu(weight, dtype) : Tensor(), 1e-6,
                   documents.defined() ? on_gpu(documents) : Tensor()};
        const Tensor y = Tensor::empty(shape, DType::f32), gpu_y = poisoned(shape, dtype);
        cpu::norm_rope_forward(cpu_stream(), op, x, y);
        cuda::norm_rope_forward(gpu(), gpu_op, on_gpu(x, dtype), gpu_y);
        if (c.rows > 0) {
          EXPECT_LE(gpu_error(gpu_y, y), bound_of(dtype));
        }
        for (const bool add : {false, true}) {
          const Tensor dx = before.clone(), gpu_dx = add ? on_gpu(before, dtype) : poisoned(shape, dtype);
          const Tensor dweight = random_tensor({c.head_dim}, 22, "dw", 1.0, DType::f32),
                       gpu_dweight = on_gpu(dweight);
          cpu::norm_rope_backward(cpu_stream(), op, x, dy, dx, add, norm ? dweight : Tensor());
          cuda::norm_rope_backward(gpu(), gpu_op, on_gpu(x, dtype), on_gpu(dy, dtype), gpu_dx, add,
                                   norm ? gpu_dweight : Tensor());
          if (c.rows > 0) {
            EXPECT_LE(gpu_error(gpu_dx, dx), bound_of(dtype));
          }
          EXPECT_LE(gpu_error(gpu_dweight, dweight), f32_bound);
        }
      }
    }
  }
}

TEST(CudaGate, EqualsTheCpu) {
  for (const std::array<std::int64_t, 3>& c : {std::array<std::int64_t, 3>{1, 1, 16},
                                               {77, 3, 48},
                                               {90, 16, 128},
                                               {9, 2, 256},
                                               {0, 4, 32},
                                               {50, 3, 4},
                                               {31, 2, 7},
                                               {65, 16, 20},
                                               {33, 5, 24},
                                               {1, 2, 8}}) {
    const auto [rows, heads, head_dim] = c;
    const Shape shape{rows, heads * head_dim}, headwise{rows, heads};
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const Tensor x[2] = {random_for(dtype, shape, 31, "x0"), random_for(dtype, shape, 31, "x1")},
                   dy = random_for(dtype, shape, 31, "dy");
      const Tensor by_head = random_for(dtype, headwise, 31, "headwise", 3.0),
                   by_element = random_for(dtype, shape, 31, "elementwise", 3.0);
      for (const auto& [first, second] :
           {std::pair{by_head, by_element}, {by_element, Tensor()}, {Tensor(), by_head}}) {
        SCOPED_TRACE(::testing::Message() << rows << " rows, " << heads << " heads of " << head_dim);
        const auto there = [&](const Tensor& t) { return t.defined() ? on_gpu(t, dtype) : Tensor(); };
        const std::vector<cpu::GateInput> here{{x[0], first}, {x[1], second}},
            gpu_inputs{{there(x[0]), there(first)}, {there(x[1]), there(second)}};
        for (const std::size_t branches : {1, 2}) {
          const Tensor y = Tensor::empty(shape, DType::f32), gpu_y = poisoned(shape, dtype);
          cpu::gated_sum_forward(cpu_stream(), std::span(here).first(branches), heads, y);
          cuda::gated_sum_forward(gpu(), std::span(gpu_inputs).first(branches), heads, gpu_y);
          if (rows > 0) {
            EXPECT_LE(gpu_error(gpu_y, y), bound_of(dtype));
          }
        }
        for (std::size_t b = 0; b < 2; ++b) {
          const Tensor& logits = here[b].logits;
          for (const bool add : {false, true}) {
            const Tensor dx = random_for(dtype, shape, 32, "dx"),
                         gpu_dx = add ? on_gpu(dx, dtype) : poisoned(shape, dtype);
            Tensor dlogits, gpu_dlogits;
            if (logits.defined()) {
              dlogits = random_for(dtype, logits.shape(), 32, "dlogits");
              gpu_dlogits = add ? on_gpu(dlogits, dtype) : poisoned(logits.shape(), dtype);
            }
            cpu::gated_sum_backward(cpu_stream(), here[b], heads, dy, dx, add, dlogits, add);
            cuda::gated_sum_backward(gpu(), gpu_inputs[b], heads, on_gpu(dy, dtype), gpu_dx, add, gpu_dlogits,
                                     add);
            if (rows == 0) continue;
            EXPECT_LE(gpu_error(gpu_dx, dx), bound_of(dtype));
            if (logits.defined()) {
              EXPECT_LE(gpu_error(gpu_dlogits, dlogits), bound_of(dtype));
            }
          }
        }
      }
    }
  }
}

struct HybridResult {
  Tensor out, dx, dweight, dsinks;
  BlockLists lists;
};

/// A full layer and a follower on its lists, K and V, both branches gated: values and gradients by the tape.
HybridResult hybrid(const Stream& stream, AttentionShape shape, const Tensor& x, const Tensor& dout,
                    const Tensor& weight_value, const Tensor& sink_value, DType dtype,
                    const BlockLists* replay) {
  const auto place = [&](const Tensor& t) { return t.to(dtype).to_device(stream.device); };
  const auto gradient = [&](const Tensor& t) {
    return Tensor::zeros(t.shape(), accumulation_dtype(dtype), stream.device);
  };
  const Parameter weight{"weight", place(weight_value), gradient(weight_value)},
      sinks{"sinks", place(sink_value), gradient(sink_value)};
  if (shape.documents.defined()) shape.documents = shape.documents.to_device(stream.device);
  Tape tape(stream);
  const Var in = tape.input(place(x));
  const RopeConfig rope{.theta = 1e4, .rotary_dim = shape.head_dim};
  const Var q = qk_norm_rope(tape, in, &weight, 1e-6, shape.head_dim, shape.seq_len, rope, 0, shape.documents);
  const Var k = tape.input(place(x).view({shape.tokens(), shape.num_heads * shape.head_dim}));
  const Var v = tape.input(place(dout));
  const FullAttentionResult full = full_attention(tape, q, k, v, shape, SelectionConfig{16, 3});
  const BlockLists& lists = replay != nullptr ? *replay : *full.blocks;
  const Var sparse = block_sparse_attention(tape, full.out, k, v, lists, &sinks, shape);
  const Var window = window_attention(tape, full.out, k, v, 20, &sinks, shape);
  const Var y = gated_sum(tape, std::vector<GatedBranch>{{sparse, in}, {window, q}}, shape.num_heads);
  tape.backward(y, place(dout));
  return {y.value, in.grad->value(), weight.grad, sinks.grad, *full.blocks};
}

TEST(CudaHybrid, TapeEqualsTheCpu) {
  for (const std::int64_t document : {0, 40}) {
    const AttentionShape shape{2, 150, 4, 4, 32, random_documents(2, 150, document)};
    const Tensor x = random_for(DType::f32, {300, 128}, 41, "x"),
                 dout = random_for(DType::f32, {300, 128}, 41, "dout"),
                 weight = random_for(DType::f32, {32}, 41, "weight"),
                 sinks = random_for(DType::f32, {4}, 41, "sinks");
    const HybridResult expected = hybrid(cpu_stream(), shape, x, dout, weight, sinks, DType::f32, nullptr);
    // The GPU's own lists may differ where scores are equal to rounding.
    const BlockLists lists = on_gpu(expected.lists);
    const HybridResult got = hybrid(gpu(), shape, x, dout, weight, sinks, DType::f32, &lists);
    EXPECT_EQ(got.lists.counts.to_vector<std::int32_t>(), expected.lists.counts.to_vector<std::int32_t>());
    EXPECT_LE(gpu_error(got.out, expected.out), f32_bound);
    EXPECT_LE(gpu_error(got.dx, expected.dx), f32_bound);
    EXPECT_LE(gpu_error(got.dweight, expected.dweight), f32_bound);
    EXPECT_LE(gpu_error(got.dsinks, expected.dsinks), f32_bound);
    // In bf16 inputs are rounded, and every op rounds its result: up to eight, one after the other, either way.
    const HybridResult rough = hybrid(gpu(), shape, x, dout, weight, sinks, DType::bf16, &lists);
    EXPECT_LE(gpu_error(rough.out, expected.out), 8 * bf16_bound);
    EXPECT_LE(gpu_error(rough.dx, expected.dx), 8 * bf16_bound);
    EXPECT_LE(gpu_error(rough.dweight, expected.dweight), 8 * bf16_bound);
    EXPECT_LE(gpu_error(rough.dsinks, expected.dsinks), 8 * bf16_bound);
  }
}

}  // namespace
}  // namespace hysparse::testing
