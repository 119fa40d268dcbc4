#include <chrono>
#include <numeric>

#include "attention/attention.h"
#include "core/random.h"
#include "launch/bench.h"
#include "launch/run_device.h"
#include "moe/experts.h"
#include "moe/router.h"

namespace hysparse {
namespace {

using Clock = std::chrono::steady_clock;

/// Standard normal values of `dtype`: a run of them over and over.
Tensor normal(const Shape& shape, DType dtype, Device device, const char* name, double std = 1.0) {
  constexpr std::int64_t run = 1 << 18, stride = 7;
  const CounterRandom random(1, name);
  std::vector<float> values(run);
  for (std::int64_t i = 0; i < run; ++i) {
    values[static_cast<std::size_t>(i)] =
        static_cast<float>(std * random.normal(static_cast<std::uint64_t>(i)));
  }
  const Tensor t = Tensor::empty(shape, DType::f32);
  for (std::int64_t i = 0; i < t.numel(); ++i)
    t.data<float>()[i] = values[static_cast<std::size_t>(i * stride % run)];
  return t.to(dtype).to_device(device);
}

/// Times forward and backward of one op apart: `forward` records on the tape it is given and returns its
/// result, whose gradient is `dout`.
struct OpTimes {
  BenchTimes forward, backward;
};
OpTimes time_op(const Stream& stream, const BenchRuns& runs, const Tensor& dout,
                const std::function<Var(Tape&)>& forward) {
  OpTimes times;
  for (std::int64_t i = 0; i < runs.warmup + runs.counted; ++i) {
    Tape tape(stream);
    synchronize_device(stream);
    const auto start = Clock::now();
    const Var out = forward(tape);
    synchronize_device(stream);
    const auto middle = Clock::now();
    tape.backward(out, dout.clone());
    synchronize_device(stream);
    if (i < runs.warmup) continue;
    times.forward.ms.push_back(std::chrono::duration<double, std::milli>(middle - start).count());
    times.backward.ms.push_back(std::chrono::duration<double, std::milli>(Clock::now() - middle).count());
  }
  return times;
}

/// Pairs of a query and a key that it sees, over all heads, with at most `most` keys each.
double pairs(const AttentionShape& shape, std::int64_t most) {
  double sum = 0;
  for (std::int64_t t = 0; t < shape.seq_len; ++t) sum += static_cast<double>(std::min(t + 1, most));
  return sum * static_cast<double>(shape.sequences * shape.num_heads);
}

Parameter parameter(const std::string& name, Tensor value) {
  const Tensor grad = Tensor::zeros(value.shape(), accumulation_dtype(value.dtype()), value.device());
  return {name, std::move(value), grad};
}

std::string device_name(const RunConfig& config) {
  return config.train.device == RunConfig::DeviceChoice::cuda ? "cuda" : "cpu";
}

}  // namespace

BenchResult bench_attention(const RunConfig& config, const Stream& stream, const BenchRuns& runs) {
  const ModelConfig& m = config.model;
  const AttentionShape shape{config.train.micro_batch_size, config.train.seq_len, m.num_heads, m.num_kv_heads,
                             m.head_dim};
  const SelectionConfig selection{m.sparse_block_size, m.sparse_topk_tokens / m.sparse_block_size};
  const DType dtype = config.dtype();
  const Shape queries{shape.tokens(), m.num_heads * m.head_dim},
      keys{shape.tokens(), m.num_kv_heads * m.head_dim};
  const auto random = [&](const Shape& s, const char* name) { return normal(s, dtype, stream.device, name); };
  const Tensor q = random(queries, "q"), k = random(keys, "k"), v = random(keys, "v"),
               dout = random(queries, "dout");
  const Parameter sinks =
      parameter("sinks", normal({m.num_heads}, accumulation_dtype(dtype), stream.device, "sinks"));

  BenchResult result;
  result.title =
      fmt::format("{} x {} tokens, {}/{} heads of {}, window {}, {} blocks of {}, {} on {}", shape.sequences,
                  shape.seq_len, m.num_heads, m.num_kv_heads, m.head_dim, m.sliding_window,
                  selection.top_blocks, selection.block_size, dtype_name(dtype), device_name(config));
  const auto add = [&](const std::string& name, double seen, const std::function<Var(Tape&)>& forward) {
    const OpTimes times = time_op(stream, runs, dout, forward);
    // Two products of E per pair forward, five backward.
    const double flops = 4.0 * static_cast<double>(m.head_dim) * seen;
    result.rows.push_back({name + " forward", times.forward, flops});
    result.rows.push_back({name + " backward", times.backward, 2.5 * flops});
  };
  const double all = pairs(shape, shape.seq_len);
  std::optional<BlockLists> chosen;
  add("full", all, [&](Tape& tape) {
    return full_attention(tape, tape.input(q), tape.input(k), tape.input(v), shape, std::nullopt).out;
  });
  add("full, choosing", all, [&](Tape& tape) {
    FullAttentionResult r = full_attention(tape, tape.input(q), tape.input(k), tape.input(v), shape, selection);
    chosen = std::move(r.blocks);
    return r.out;
  });
  add("sparse", pairs(shape, m.sparse_topk_tokens), [&](Tape& tape) {
    return block_sparse_attention(tape, tape.input(q), tape.input(k), tape.input(v), *chosen, &sinks, shape);
  });
  add("window", pairs(shape, m.sliding_window), [&](Tape& tape) {
    return window_attention(tape, tape.input(q), tape.input(k), tape.input(v), m.sliding_window, &sinks, shape);
  });
  return result;
}

BenchResult bench_moe(Runtime& runtime, const RunConfig& config, const Stream& stream, const BenchRuns& runs) {
  if (!config.model.moe) throw_error("model.moe: missing; bench moe needs experts");
  MoeConfig moe = *config.model.moe;
  const int world = runtime.world();
  if (moe.num_experts % world != 0) {
    throw_error("model.moe.num_experts: {}: must be a multiple of the {} ranks", moe.num_experts, world);
  }
  std::vector<int> ranks(static_cast<std::size_t>(world));
  std::iota(ranks.begin(), ranks.end(), 0);
  const auto group = runtime.communicator("ep", ranks);
  const std::int64_t tokens = config.train.micro_batch_size * config.train.seq_len,
                     D = config.model.hidden_size, F = moe.intermediate_size, here = moe.num_experts / world;
  const DType dtype = config.dtype();
  const auto random = [&](const Shape& s, const char* name, double std) {
    return normal(s, dtype, stream.device, name, std);
  };
  const Tensor x = random({tokens, D}, "x", 1.0), dout = random({tokens, D}, "dout", 1.0);
  constexpr double std = 0.02;
  const Parameter router = parameter("router", random({moe.num_experts, D}, "router", std)),
                  gate = parameter("gate", random({here, F, D}, "gate", std)),
                  up = parameter("up", random({here, F, D}, "up", std)),
                  down = parameter("down", random({here, D, F}, "down", std));
  BenchResult result;
  result.title = fmt::format("{} tokens of {} a rank, {} experts of {}, top {}, {} ranks, {} on {}{}", tokens,
                             D, moe.num_experts, F, moe.top_k, world, dtype_name(dtype), device_name(config),
                             moe.balanced_routing ? ", balanced routing" : "");
  const OpTimes times = time_op(stream, runs, dout, [&](Tape& tape) {
    const Var input = tape.input(x);
    const Routing routing = route(tape, input, router, Tensor(), moe, config.train.seq_len);
    return moe_experts(tape, input, routing, {&gate, &up, &down}, moe.num_experts, *group);
  });
  const double flops = 6.0 * static_cast<double>(tokens * moe.top_k) * static_cast<double>(D * F) +
                       2.0 * static_cast<double>(tokens * D) * static_cast<double>(moe.num_experts);
  result.rows.push_back({"layer forward", times.forward, flops});
  result.rows.push_back({"layer backward", times.backward, 2 * flops});
  return result;
}

}  // namespace hysparse
