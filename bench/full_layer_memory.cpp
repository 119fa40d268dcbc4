/// Peak memory of a full-attention layer with the oracle's selection, forward and backward, by sequence length.
///   cmake --build DIR --target bench_full_layer_memory && DIR/bench_full_layer_memory [heads groups head_dim
///   block top]
#include <cstdlib>

#include "attention/attention.h"
#include "core/thread_pool.h"

namespace hysparse {
namespace {

std::int64_t peak_bytes(const Stream& stream, AttentionShape shape, const SelectionConfig& selection) {
  const Shape wide{shape.tokens(), shape.num_heads * shape.head_dim};
  const Shape narrow{shape.tokens(), shape.num_kv_heads * shape.head_dim};
  reset_memory_peak();
  const std::int64_t before = memory_use().live_bytes;
  Tape tape(stream);
  const FullAttentionResult result = full_attention(
      tape, tape.input(Tensor::zeros(wide, DType::f32)), tape.input(Tensor::zeros(narrow, DType::f32)),
      tape.input(Tensor::zeros(narrow, DType::f32)), shape, selection);
  tape.backward(result.out, Tensor::zeros(wide, DType::f32));
  return memory_use().peak_bytes - before;
}

}  // namespace
}  // namespace hysparse

int main(int argc, char** argv) {
  using namespace hysparse;
  std::int64_t v[] = {8, 2, 32, 16, 4};
  for (int i = 1; i < argc && i <= 5; ++i) v[i - 1] = std::atoll(argv[i]);
  ThreadPool pool(2);
  const Stream stream{Device{}, &pool, nullptr};
  fmt::print("full layer, {} heads, {} groups, head size {}, blocks of {}, top {}, f32, 2 threads\n", v[0],
             v[1], v[2], v[3], v[4]);
  std::int64_t last = 0;
  for (const std::int64_t tokens : {2048, 4096, 8192}) {
    const std::int64_t peak = peak_bytes(stream, {1, tokens, v[0], v[1], v[2]}, {v[3], v[4]});
    fmt::print("T = {:5}: peak {:10} bytes, {:7.1f} per token{}\n", tokens, peak,
               static_cast<double>(peak) / static_cast<double>(tokens),
               last == 0 ? ""
                         : fmt::format(", {:.2f} times the half",
                                       static_cast<double>(peak) / static_cast<double>(last)));
    last = peak;
  }
  return 0;
}
