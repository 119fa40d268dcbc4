/// Which kernel serves a forward call.
#include <algorithm>

#include "attention/cuda/attention.h"
#include "attention/cuda/choose.h"
#include "attention/cuda/exact.h"
#include "attention/cuda/forward.cuh"

namespace hysparse::cuda {
namespace {

void forward_bf16(const Stream& stream, const Problem& problem, const Tensor& q, const Tensor& k,
                  const Tensor& v, const Tensor& sinks, const Tensor& out, const Tensor& lse,
                  const BlockLists* chosen, const Tensor& scores) {
  ForwardArguments a{.problem = problem,
                     .tiles = QueryTiles(problem, 16),
                     .tile_count = 0,
                     .q = device_data<bf16>(q),
                     .k = device_data<bf16>(k),
                     .v = device_data<bf16>(v),
                     .sinks = ParameterView::of(sinks),
                     .out = device_data<bf16>(out),
                     .lse = device_data<float>(lse),
                     .scoring = {}};
  ForwardKind kind = problem.blocks != nullptr ? ForwardKind::blocks : ForwardKind::span;
  if (chosen != nullptr) {
    kind = ForwardKind::scored;
    a.scoring.block_size = static_cast<int>(chosen->block_size);
    a.scoring.by_block = Divider(chosen->block_size);
    a.scoring.columns = static_cast<int>(ceil_div(problem.start + problem.query_len, chosen->block_size));
    if (scores.defined()) {
      HYSPARSE_CHECK(scores.dim(2) == a.scoring.columns, "scores {}", scores.shape().str());
      a.scoring.scores = device_data<float>(scores);
    } else {
      a.scoring.top = static_cast<int>(chosen->blocks.dim(2));
      a.scoring.blocks = device_data<std::int32_t>(chosen->blocks);
      a.scoring.counts = device_data<std::int32_t>(chosen->counts);
    }
  }
  if (problem.head_dim <= 32) return launch_forward<32>(stream, kind, a);
  if (problem.head_dim <= 64) return launch_forward<64>(stream, kind, a);
  if (problem.head_dim <= 128) return launch_forward<128>(stream, kind, a);
  launch_forward<256>(stream, kind, a);
}

void forward_exact(const Stream& stream, const Problem& problem, const Tensor& q, const Tensor& k,
                   const Tensor& v, const Tensor& sinks, const Tensor& out, const Tensor& lse,
                   const BlockLists* chosen, const Tensor& scores) {
  exact_forward(stream, problem, q, k, v, sinks, out, lse);
  if (chosen == nullptr) return;
  if (scores.defined()) return exact_scores(stream, problem, q, k, lse, chosen->block_size, scores);
  const std::int64_t columns = ceil_div(problem.start + problem.query_len, chosen->block_size);
  const Tensor own =
      Tensor::empty({problem.query_rows(), problem.num_kv_heads, columns}, DType::f32, stream.device);
  exact_scores(stream, problem, q, k, lse, chosen->block_size, own);
  choose_for_groups(stream, own, problem.start, problem.query_len, chosen->block_size, problem.documents,
                    chosen->blocks, chosen->counts);
}

}  // namespace

Problem::Problem(const cpu::AttentionSizes& sizes, const cpu::KeyPattern& pattern)
    : sequences(static_cast<int>(sizes.sequences)),
      query_len(static_cast<int>(sizes.query_len)),
      start(static_cast<int>(sizes.start)),
      key_rows(static_cast<int>(sizes.key_rows)),
      num_heads(static_cast<int>(sizes.num_heads)),
      num_kv_heads(static_cast<int>(sizes.num_kv_heads)),
      head_dim(static_cast<int>(sizes.head_dim)),
      window(1 << 30),
      block_size(0),
      top(0),
      blocks(nullptr),
      counts(nullptr),
      by_group(sizes.group_size()),
      scale(1.0f / std::sqrt(static_cast<float>(sizes.head_dim))),
      documents(device_data_or_null<std::int32_t>(pattern.documents)) {
  HYSPARSE_CHECK(
      documents == nullptr || (sizes.start == 0 && sizes.key_rows == sizes.query_len &&
                               pattern.documents.shape() == Shape{sizes.sequences * sizes.query_len}),
      "document starts {}", pattern.documents.shape().str());
  if (sizes.head_dim > 256) throw_error("head size {}: the GPU's attention takes up to 256", sizes.head_dim);
  // Rows and positions are counted in 32 bits.
  HYSPARSE_CHECK(sizes.sequences * sizes.query_len * sizes.num_heads < (std::int64_t{1} << 31) &&
                     sizes.start + sizes.query_len < (std::int64_t{1} << 29) &&
                     sizes.key_rows < (std::int64_t{1} << 29),
                 "{} x {} tokens, {} heads", sizes.sequences, sizes.query_len, sizes.num_heads);
  if (pattern.kind == cpu::KeyPattern::Kind::window)
    window = static_cast<int>(std::min<std::int64_t>(pattern.window, window));
  if (pattern.kind == cpu::KeyPattern::Kind::blocks) {
    HYSPARSE_CHECK(sizes.start + sizes.query_len <= sizes.key_rows, "chosen blocks in a ring of {}",
                   sizes.key_rows);
    block_size = static_cast<int>(std::min<std::int64_t>(pattern.blocks.block_size, 1 << 29));
    top = static_cast<int>(pattern.blocks.blocks.dim(2));
    blocks = device_data<std::int32_t>(pattern.blocks.blocks);
    counts = device_data<std::int32_t>(pattern.blocks.counts);
  }
}

void attention_forward(const Stream& stream, const cpu::AttentionSizes& sizes, const cpu::KeyPattern& pattern,
                       const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& sinks,
                       const Tensor& out, const Tensor& lse, const BlockLists* chosen, const Tensor& scores) {
  HYSPARSE_CHECK(chosen == nullptr ? !scores.defined() : pattern.kind == cpu::KeyPattern::Kind::causal);
  if (q.dtype() == DType::bf16 && sizes.head_dim % 16 != 0) {
    throw_error("head size {}: the GPU's attention in bf16 takes multiples of 16 (fp32 takes any)",
                sizes.head_dim);
  }
  const Problem problem(sizes, pattern);
  if (problem.query_rows() == 0) return;
  const auto forward = q.dtype() == DType::bf16 ? forward_bf16 : forward_exact;
  forward(stream, problem, q, k, v, sinks, out, lse, chosen, scores);
}

}  // namespace hysparse::cuda
