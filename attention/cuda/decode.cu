/// Attention of a few query tokens with the keys split over thread blocks: each leaves the sum over its keys
/// with its own maximum, a second kernel puts them together, in order: deterministic. f32 and bf16 alike, sums
/// in f32 on plain cores: what counts here is how fast keys and values are read. Overwrites out.
///
/// A thread block works on `Heads` heads of one group, so that a key is read once for them. For the oracle it
/// leaves the largest logit of every block and head; the choice then goes the way of the exact kernels.
#include "attention/cuda/attention.h"
#include "attention/cuda/choose.h"
#include "attention/cuda/decode.h"
#include "attention/cuda/problem.cuh"

namespace hysparse::cuda {
namespace {

constexpr int threads = 128;  ///< and the most keys of a tile
constexpr int most_columns = 256 / threads;

struct DecodeArguments {
  Problem problem;
  const void *q, *k, *v;
  int chunks;           ///< of the heads of a group
  int unit;             ///< keys of a unit: whole blocks for the oracle, one tile else; a block for large ones
  int split, splits;    ///< keys of a split (whole units), and their number
  int score_block;      ///< the oracle's block size; 0: no scores
  int columns;          ///< blocks of a row of scores
  float* sums;          ///< [rows, H, splits, E]
  float2* states;       ///< [rows, H, splits]: maximum, sum of the exponentials
  float* block_maxima;  ///< [rows, H, columns]
};

/// The keys that a query token sees, counted from 0.
class SeenKeys {
 public:
  __device__ __forceinline__ SeenKeys(const Problem& p, int token, int group)
      : position_(p.start + token), block_size_(p.block_size), key_rows_(p.key_rows) {
    if (p.blocks != nullptr) {
      const std::int64_t list = static_cast<std::int64_t>(token) * p.num_kv_heads + group;
      blocks_ = p.blocks + list * p.top;
      count_ = p.counts[list] * p.block_size;
    } else {
      first_ = max(0, position_ - p.window + 1);
      count_ = position_ + 1 - first_;
    }
  }
  __device__ __forceinline__ int count() const { return count_; }
  /// The row of seen key i < count(), -1 where a chosen block goes beyond the token.
  __device__ __forceinline__ int row(int i) const {
    if (blocks_ == nullptr) {
      const int key = first_ + i;
      return key < key_rows_ ? key : key % key_rows_;
    }
    const int key = blocks_[i / block_size_] * block_size_ + i % block_size_;
    return key <= position_ ? key : -1;
  }

 private:
  int position_, block_size_, key_rows_, count_, first_ = 0;
  const std::int32_t* blocks_ = nullptr;
};

/// logits[h] += query[h] . key for the features of a head; `query` [Heads][head_dim] in shared memory.
template <int Heads, class T>
__device__ __forceinline__ void dots(const float* query, const T* key, int head_dim, float (&logits)[Heads]) {
  constexpr int width = vector_width<T>;
  int e = 0;
  if (head_dim % width == 0) {
    for (; e < head_dim; e += width) {
      float x[width];
      load(key + e, x);
#pragma unroll
      for (int h = 0; h < Heads; ++h) {
#pragma unroll
        for (int i = 0; i < width; ++i) logits[h] = fmaf(query[h * head_dim + e + i], x[i], logits[h]);
      }
    }
    return;
  }
  for (; e < head_dim; ++e) {
    const float x = to_float(key[e]);
#pragma unroll
    for (int h = 0; h < Heads; ++h) logits[h] = fmaf(query[h * head_dim + e], x, logits[h]);
  }
}

/// What a thread block shares.
template <int Heads>
struct Shared {
  float logits[Heads][threads];  ///< then exp(logit - maximum)
  int rows[threads];             ///< of the tile's keys
  float maximum[Heads], sum[Heads], factor[Heads], block_maximum[Heads];
};

/// logits -> exponentials under the running maximum, which may grow: `factor` is what older sums take. A warp
/// per head.
template <int Heads>
__device__ __forceinline__ void exponentiate(Shared<Heads>& s) {
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  for (int h = static_cast<int>(threadIdx.x) / warp_size; h < Heads; h += threads / warp_size) {
    float most = -INFINITY;
    for (int i = lane; i < threads; i += warp_size) most = fmaxf(most, s.logits[h][i]);
    const float now = fmaxf(s.maximum[h], warp_max(most)), shift = now == -INFINITY ? 0.0f : now;
    float sum = 0;
    for (int i = lane; i < threads; i += warp_size) {
      const float x = expf(s.logits[h][i] - shift);
      s.logits[h][i] = x;
      sum += x;
    }
    sum = warp_sum(sum);
    if (lane == 0) {
      s.factor[h] = expf(s.maximum[h] - shift);
      s.sum[h] = s.sum[h] * s.factor[h] + sum;
      s.maximum[h] = now;
    }
  }
}

/// The largest logits of the blocks that lie in keys [tile, tile + tile_keys) of the unit [unit, ...). A warp
/// per block and head.
template <int Heads>
__device__ __forceinline__ void block_maxima(const DecodeArguments& a, Shared<Heads>& s, int token,
                                             int first_head, int heads, int unit, int tile, int tile_keys,
                                             bool last) {
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const bool parts = a.score_block > threads;  // a block has several tiles
  const int blocks = parts ? 1 : (tile_keys + a.score_block - 1) / a.score_block;
  for (int at = static_cast<int>(threadIdx.x) / warp_size; at < blocks * heads; at += threads / warp_size) {
    const int block = at / heads, h = at % heads;
    const int begin = parts ? 0 : block * a.score_block,
              end = parts ? tile_keys : min(begin + a.score_block, tile_keys);
    float most = -INFINITY;
    for (int i = begin + lane; i < end; i += warp_size) most = fmaxf(most, s.logits[h][i]);
    most = warp_max(most);
    if (lane != 0) continue;
    if (parts) {
      if (tile != unit) most = fmaxf(most, s.block_maximum[h]);
      s.block_maximum[h] = most;
      if (!last) continue;
    }
    const std::int64_t row = static_cast<std::int64_t>(token) * a.problem.num_heads + first_head + h;
    a.block_maxima[row * a.columns + unit / a.score_block + block] = most;
  }
}

template <class T, int Heads>
__global__ void __launch_bounds__(threads) decode_kernel(DecodeArguments a) {
  extern __shared__ float query[];  // [Heads][head_dim], scaled
  __shared__ Shared<Heads> s;
  const Problem& p = a.problem;
  const int thread = static_cast<int>(threadIdx.x), split = static_cast<int>(blockIdx.x);
  const int group = static_cast<int>(blockIdx.y) / a.chunks, token = static_cast<int>(blockIdx.z);
  const int in_group = static_cast<int>(blockIdx.y) % a.chunks * Heads;
  const int heads = min(Heads, p.group_size() - in_group), first_head = group * p.group_size() + in_group;
  const std::int64_t first_row = static_cast<std::int64_t>(token) * p.num_heads + first_head;
  const T* q = static_cast<const T*>(a.q) + first_row * p.head_dim;
  for (int i = thread; i < Heads * p.head_dim; i += threads)
    query[i] = i < heads * p.head_dim ? to_float(q[i]) * p.scale : 0.0f;
  if (thread < Heads) {
    s.maximum[thread] = -INFINITY;
    s.sum[thread] = 0;
  }
  const SeenKeys seen(p, token, group);
  const std::int64_t key_stride = static_cast<std::int64_t>(p.num_kv_heads) * p.head_dim;
  const T *k = static_cast<const T*>(a.k) + group * p.head_dim,
          *v = static_cast<const T*>(a.v) + group * p.head_dim;
  float sums[Heads][most_columns] = {};
  __syncthreads();

  const int begin = split * a.split, end = min(begin + a.split, seen.count());
  for (int unit = begin; unit < end; unit += a.unit) {
    const int unit_end = min(unit + a.unit, end);
    for (int tile = unit; tile < unit_end; tile += threads) {
      const int tile_keys = min(threads, unit_end - tile);
      const int row = thread < tile_keys ? seen.row(tile + thread) : -1;
      float logits[Heads] = {};
      if (row >= 0) dots<Heads>(query, k + row * key_stride, p.head_dim, logits);
      s.rows[thread] = row;
#pragma unroll
      for (int h = 0; h < Heads; ++h) s.logits[h][thread] = row >= 0 ? logits[h] : -INFINITY;
      __syncthreads();
      if (a.score_block > 0) {
        block_maxima(a, s, token, first_head, heads, unit, tile, tile_keys, tile + threads >= unit_end);
        __syncthreads();
      }
      exponentiate(s);
      __syncthreads();
#pragma unroll
      for (int j = 0; j < most_columns; ++j) {
        const int e = thread + j * threads;
        if (e >= p.head_dim) break;
#pragma unroll
        for (int h = 0; h < Heads; ++h) sums[h][j] *= s.factor[h];
#pragma unroll 8
        for (int i = 0; i < tile_keys; ++i) {
          const int from = s.rows[i];
          const float x = from >= 0 ? to_float(v[from * key_stride + e]) : 0.0f;
#pragma unroll
          for (int h = 0; h < Heads; ++h) sums[h][j] = fmaf(s.logits[h][i], x, sums[h][j]);
        }
      }
      __syncthreads();
    }
  }

  for (int h = 0; h < heads; ++h) {
    const std::int64_t at = (first_row + h) * a.splits + split;
    if (thread == 0) a.states[at] = {s.maximum[h], s.sum[h]};
  }
#pragma unroll
  for (int h = 0; h < Heads; ++h) {
    if (h >= heads) break;
    float* to = a.sums + ((first_row + h) * a.splits + split) * p.head_dim;
#pragma unroll
    for (int j = 0; j < most_columns; ++j) {
      const int e = thread + j * threads;
      if (e < p.head_dim) to[e] = sums[h][j];
    }
  }
}

/// A thread block per row (token * H + head): puts the splits together, with the sink; lse [rows, H].
template <class T>
__global__ void __launch_bounds__(threads)
    merge_kernel(DecodeArguments a, ParameterView sinks, T* out, float* lse) {
  const Problem& p = a.problem;
  const std::int64_t row = blockIdx.x;
  const float2* states = a.states + row * a.splits;
  const float sink = sinks.data != nullptr ? sinks[row % p.num_heads] : -INFINITY;
  float maximum = sink;
  for (int i = 0; i < a.splits; ++i) maximum = fmaxf(maximum, states[i].x);
  const float shift = maximum == -INFINITY ? 0.0f : maximum;
  float sum = expf(sink - shift);
  for (int i = 0; i < a.splits; ++i) sum += states[i].y * expf(states[i].x - shift);
  const float inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
  for (int e = static_cast<int>(threadIdx.x); e < p.head_dim; e += threads) {
    float x = 0;
    for (int i = 0; i < a.splits; ++i)
      x += a.sums[(row * a.splits + i) * p.head_dim + e] * expf(states[i].x - shift);
    out[row * p.head_dim + e] = from_float<T>(x * inverse);
  }
  if (threadIdx.x == 0) lse[row] = sum == 0.0f ? -INFINITY : maximum + logf(sum);
}

/// scores [rows, G, columns] = max over the group's heads of block maximum - lse; of blocks that are visible.
__global__ void score_kernel(DecodeArguments a, const float* lse, float* scores) {
  const Problem& p = a.problem;
  const std::int64_t index = blockIdx.x * static_cast<std::int64_t>(blockDim.x) + threadIdx.x;
  if (index >= static_cast<std::int64_t>(p.query_len) * p.num_kv_heads * a.columns) return;
  const int block = static_cast<int>(index % a.columns);
  const std::int64_t list = index / a.columns, token = list / p.num_kv_heads;
  float score = -INFINITY;
  if (static_cast<std::int64_t>(block) * a.score_block <= p.start + token) {
    for (int r = 0; r < p.group_size(); ++r) {
      const std::int64_t row = token * p.num_heads + list % p.num_kv_heads * p.group_size() + r;
      score = fmaxf(score, a.block_maxima[row * a.columns + block] - lse[row]);
    }
  }
  scores[index] = score;
}

template <class T>
void launch_decode(const Stream& stream, const DecodeArguments& a, int heads) {
  const Problem& p = a.problem;
  const Launch how{dim3(static_cast<unsigned>(a.splits), static_cast<unsigned>(p.num_kv_heads * a.chunks),
                        static_cast<unsigned>(p.query_len)),
                   dim3(threads), static_cast<std::int64_t>(heads) * p.head_dim * 4};
  if (heads == 1) return launch(stream, how, decode_kernel<T, 1>, a);
  if (heads == 4) return launch(stream, how, decode_kernel<T, 4>, a);
  launch(stream, how, decode_kernel<T, 8>, a);
}

/// Cuts the keys so that there are some thread blocks for every multiprocessor, of some tiles each.
void split_keys(DecodeArguments& a, std::int64_t most_keys) {
  const Problem& p = a.problem;
  constexpr std::int64_t blocks_per_multiprocessor = 8;
  const std::int64_t wanted = ceil_div(properties().multiprocessors * blocks_per_multiprocessor,
                                       std::int64_t{p.num_kv_heads} * a.chunks * p.query_len);
  const std::int64_t units = ceil_div(most_keys, a.unit);
  const std::int64_t per_split = std::max<std::int64_t>(1, ceil_div(units, std::max<std::int64_t>(1, wanted)));
  a.split = static_cast<int>(per_split * a.unit);
  a.splits = static_cast<int>(ceil_div(units, per_split));
}

}  // namespace

void decode_attention(const Stream& stream, const cpu::AttentionSizes& sizes, const cpu::KeyPattern& pattern,
                      const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& sinks, const Tensor& out,
                      const BlockLists* chosen) {
  HYSPARSE_CHECK(sizes.sequences == 1 && !pattern.documents.defined() &&
                     (chosen == nullptr || pattern.kind == cpu::KeyPattern::Kind::causal),
                 "{} sequences", sizes.sequences);
  const Tensor lse = Tensor::empty({sizes.query_len, sizes.num_heads}, DType::f32, stream.device);
  if (sizes.query_len > most_split_tokens)
    return cuda::attention_forward(stream, sizes, pattern, q, k, v, sinks, out, lse, chosen);
  const Problem p(sizes, pattern);
  if (p.query_rows() == 0) return;
  const int heads = p.group_size() == 1 ? 1 : p.group_size() <= 4 ? 4 : 8;
  DecodeArguments a{.problem = p,
                    .q = q.raw(),
                    .k = k.raw(),
                    .v = v.raw(),
                    .chunks = (p.group_size() + heads - 1) / heads,
                    .unit = threads,
                    .split = 0,
                    .splits = 0,
                    .score_block = 0,
                    .columns = 0,
                    .sums = nullptr,
                    .states = nullptr,
                    .block_maxima = nullptr};
  const std::int64_t last = sizes.start + sizes.query_len;
  Tensor maxima;
  if (chosen != nullptr) {
    const std::int64_t block = std::min<std::int64_t>(chosen->block_size, 1 << 29);
    a.score_block = static_cast<int>(block);
    a.unit = static_cast<int>(block > threads ? block : threads / block * block);
    a.columns = static_cast<int>(ceil_div(last, block));
    maxima = Tensor::empty({sizes.query_len, sizes.num_heads, a.columns}, DType::f32, stream.device);
    a.block_maxima = device_data<float>(maxima);
  }
  std::int64_t most_keys = std::min<std::int64_t>(last, p.window);
  if (p.blocks != nullptr) most_keys = std::max<std::int64_t>(1, std::int64_t{p.top} * p.block_size);
  split_keys(a, most_keys);
  const Tensor sums =
      Tensor::empty({sizes.query_len, sizes.num_heads, a.splits, sizes.head_dim}, DType::f32, stream.device);
  const Tensor states =
      Tensor::empty({sizes.query_len, sizes.num_heads, a.splits, 2}, DType::f32, stream.device);
  a.sums = device_data<float>(sums);
  a.states = reinterpret_cast<float2*>(device_data<float>(states));
  dispatch_compute(q.dtype(), [&]<class T>() {
    launch_decode<T>(stream, a, heads);
    launch(stream, {dim3(static_cast<unsigned>(p.query_rows() * p.num_heads)), dim3(threads)}, merge_kernel<T>,
           a, ParameterView::of(sinks), device_data<T>(out), device_data<float>(lse));
  });
  if (chosen == nullptr) return;
  const Tensor scores =
      Tensor::empty({sizes.query_len, sizes.num_kv_heads, a.columns}, DType::f32, stream.device);
  launch(stream, {dim3(static_cast<unsigned>(ceil_div(scores.numel(), threads))), dim3(threads)}, score_kernel,
         a, device_data<float>(lse), device_data<float>(scores));
  choose_for_groups(stream, scores, sizes.start, sizes.query_len, chosen->block_size, nullptr, chosen->blocks,
                    chosen->counts);
}

}  // namespace hysparse::cuda
