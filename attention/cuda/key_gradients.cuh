/// dK and dV by tiles of 64 keys (backward.cuh). A tile's products are transposed, S^T = K Q^T, so that the
/// probabilities of 16 keys stay in the registers of one warp. The rows that see the tile's list of keys (its
/// tokens times the heads of the group) come one after the other, whatever tokens they are of.
#pragma once

#include "attention/cuda/backward.cuh"
#include "attention/cuda/mma.cuh"

namespace hysparse::cuda {

template <int Columns, bool Documents>
struct KeyGradientTiling {
  static constexpr int warps = key_tile / 16, threads = warps * warp_size;
  static constexpr int queries = Columns > 128 ? 32 : 64;    ///< rows of a step
  static constexpr int out = Columns > 128 ? 128 : Columns;  ///< columns of dk, dv that a thread block sums
  static constexpr int blocks_per_multiprocessor = Columns > 128 ? 1 : 2;
  static constexpr int tables = 3;
  static constexpr int shared_bytes =
      (2 * key_tile + 4 * queries) * Columns * 2 + 2 * queries * 8 + tables * queries * (Documents ? 12 : 8);
};

template <int Columns, bool Documents>
__global__ void __launch_bounds__((KeyGradientTiling<Columns, Documents>::threads),
                                  (KeyGradientTiling<Columns, Documents>::blocks_per_multiprocessor))
    key_gradient_kernel(const __grid_constant__ BackwardArguments a) {
  using Tiling = KeyGradientTiling<Columns, Documents>;
  constexpr int queries = Tiling::queries, out_columns = Tiling::out, tables = Tiling::tables;
  extern __shared__ __align__(128) char shared[];
  const Problem& p = a.problem;
  const KeyWorkView& work = a.work;
  const int item = static_cast<int>(blockIdx.x);
  if (item >= work.item_start[work.lists]) return;
  int list = 0;  // the last that starts at or before the item
  for (int low = 0, high = work.lists; high - low > 1;) {
    const int middle = (low + high) / 2;
    (work.item_start[middle] <= item ? low : high) = middle;
    list = low;
  }
  const int chunk = item - work.item_start[list];
  const bool cut = work.item_start[list + 1] - work.item_start[list] > 1;
  const int slab = list / work.lists_per_slab, sequence = slab / p.num_kv_heads, group = slab % p.num_kv_heads;
  const int list_key = (list - slab * work.lists_per_slab) * work.list_keys;
  const int first_key = list_key + static_cast<int>(blockIdx.y) * key_tile;
  const int key_count = min(min(key_tile, list_key + work.list_keys - first_key), p.key_rows - first_key);
  if (key_count <= 0) return;

  // Rows [row, row_end) of the list, of which row r is that of token r / R and head r % R.
  const bool listed = work.tokens != nullptr;
  const std::int32_t* tokens = listed ? work.tokens + work.token_start[list] : nullptr;
  int list_tokens = listed ? work.token_start[list + 1] - work.token_start[list]
                           : min(p.query_len - list_key, work.list_keys - 1 + p.window);
  if constexpr (Documents) {
    if (!listed) list_tokens = span_tokens(p, sequence, list_key, work.list_keys);
  }
  const int group_size = p.by_group.divisor();
  const int row_begin = min(chunk * work.chunk, list_tokens) * group_size;
  const int row_end =
      min(static_cast<std::int64_t>(list_tokens), (chunk + std::int64_t{1}) * work.chunk) * group_size;
  const int steps = (row_end - row_begin + queries - 1) / queries;

  const int thread = static_cast<int>(threadIdx.x), lane = thread % warp_size,
            warp_row = thread / warp_size * 16;
  constexpr std::uint32_t key_bytes = key_tile * Columns * 2, row_bytes = queries * Columns * 2;
  const std::uint32_t k_tile = shared_address(shared), row_tiles = k_tile + 2 * key_bytes;
  char* const after_tiles = shared + 2 * key_bytes + 4 * row_bytes;
  RowStats* const stats = reinterpret_cast<RowStats*>(after_tiles);  // [2][queries]
  int2* const table =
      reinterpret_cast<int2*>(after_tiles + 2 * queries * 8);               // [tables][queries]: row, position
  int* const documents = reinterpret_cast<int*>(table + tables * queries);  // [tables][queries], with Documents

  const auto find_row = [&](int step) -> int2 {
    const int r = row_begin + step * queries + thread;
    if (r >= row_end) return {-1, -1};
    const int index = p.by_group.divide(r), head = r - index * group_size;
    const int token = listed ? tokens[index] : list_key + index;
    return {(sequence * p.query_len + token) * p.num_heads + group * group_size + head, token};
  };
  const auto find_document = [&](int2 row) { return row.y < 0 ? 0 : p.starts(sequence)[row.y]; };
  const auto load_rows = [&](int step) {
    const bf16* const from[] = {a.q, a.dout};
    const int2* rows = table + step % tables * queries;
    constexpr int chunks = Columns / 8, rows_at_once = Tiling::threads / chunks;
    const int column = thread % chunks, first = thread / chunks;
    const bool inside = column * 8 < p.head_dim;
    const std::uint32_t to = row_tiles + static_cast<std::uint32_t>(step & 1) * 2 * row_bytes;
#pragma unroll
    for (int i = 0; i < queries / rows_at_once; ++i) {
      const int m = first + i * rows_at_once, row = rows[m].x;
      const bool valid = inside && row >= 0;
      const std::int64_t offset = valid ? static_cast<std::int64_t>(row) * p.head_dim + column * 8 : 0;
      const std::uint32_t at = to + chunk_offset<Columns>(m, column);
      copy_async_16(at, from[0] + offset, valid);
      copy_async_16(at + row_bytes, from[1] + offset, valid);
    }
    if (thread < queries) {
      const int row = rows[thread].x;
      copy_async_8(shared_address(stats + (step & 1) * queries + thread), a.stats + max(row, 0), row >= 0);
    }
  };

  if (thread < queries) {
    table[thread] = find_row(0);
    table[queries + thread] = find_row(1);
    if constexpr (Documents) {
      documents[thread] = find_document(table[thread]);
      documents[queries + thread] = find_document(table[queries + thread]);
    }
  }
  const std::int64_t key_stride = static_cast<std::int64_t>(p.num_kv_heads) * p.head_dim;
  const std::int64_t key_base =
      (static_cast<std::int64_t>(sequence) * p.key_rows + first_key) * key_stride + group * p.head_dim;
  const bf16* const keys[] = {a.k, a.v};
  load_tiles<Columns, key_tile, Tiling::threads>(
      k_tile, key_bytes, keys, p.head_dim,
      [&](int i) -> std::int64_t { return i < key_count ? key_base + i * key_stride : -1; });
  __syncthreads();
  if (steps > 0) load_rows(0);
  commit_copies();

  float dk[1][out_columns / 8][4] = {}, dv[1][out_columns / 8][4] = {};
  const LaneAddress k_rows[1] = {deep_rows<Columns>(k_tile, warp_row)};
  const LaneAddress v_rows[1] = {{k_rows[0].base + key_bytes, k_rows[0].chunk}};
  const int first_chunk = static_cast<int>(blockIdx.z) * (out_columns / 8);
  const float to_exponent = p.scale * 1.4426950408889634f;
  const bool idle = warp_row >= key_count;
  for (int step = 0; step < steps; ++step) {
    wait_for_copies<0>();
    __syncthreads();
    if (step + 1 < steps) load_rows(step + 1);
    commit_copies();
    int2 ahead;
    int document_ahead = 0;
    if (thread < queries) {
      ahead = find_row(step + 2);
      if constexpr (Documents) document_ahead = find_document(ahead);
    }
    if (!idle) {
      const std::uint32_t q_tile = row_tiles + static_cast<std::uint32_t>(step & 1) * 2 * row_bytes;
      const std::uint32_t dout_tile = q_tile + row_bytes;
      const RowStats* of_row = stats + (step & 1) * queries + lane % 4 * 2;
      const int2* rows = table + step % tables * queries;
      float s[1][queries / 8][4], dp[1][queries / 8][4];
      rows_times_rows<Columns, 1, queries / 16>(s, k_rows, wide_rows<Columns>(q_tile, 0));
      const int* row_documents = documents + step % tables * queries;
      const int last = rows[queries - 1].y;
      // Tokens ascend over the rows, and so do the starts of their documents.
      if (rows[0].y < first_key + key_tile - 1 || last < 0 || last - p.window >= first_key ||
          (Documents && row_documents[queries - 1] > first_key)) {
        const int key = first_key + warp_row + lane / 4;
#pragma unroll
        for (int n = 0; n < queries / 8; ++n) {
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            const int position = rows[8 * n + lane % 4 * 2 + j % 2].y, at = key + j / 2 * 8;
            if (at > position || at <= position - p.window ||
                (Documents && at < row_documents[8 * n + lane % 4 * 2 + j % 2]))
              s[0][n][j] = -INFINITY;
          }
        }
      }
      rows_times_rows<Columns, 1, queries / 16>(dp, v_rows, wide_rows<Columns>(dout_tile, 0));
#pragma unroll
      for (int n = 0; n < queries / 8; ++n) {
        const float4 two = *reinterpret_cast<const float4*>(of_row + 8 * n);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const float lse = j % 2 == 0 ? two.x : two.z, delta = j % 2 == 0 ? two.y : two.w;
          s[0][n][j] = exp2_fast(fmaf(s[0][n][j], to_exponent, -lse));
          dp[0][n][j] = s[0][n][j] * (dp[0][n][j] - delta);
        }
      }
      scores_times_rows<Columns, 1, queries / 16, out_columns / 16>(dv, s, deep_rows<Columns>(dout_tile, 0),
                                                                    first_chunk);
      scores_times_rows<Columns, 1, queries / 16, out_columns / 16>(dk, dp, deep_rows<Columns>(q_tile, 0),
                                                                    first_chunk);
    }
    if (thread < queries) {
      table[(step + 2) % tables * queries + thread] = ahead;
      if constexpr (Documents) documents[(step + 2) % tables * queries + thread] = document_ahead;
    }
  }
  wait_for_copies<0>();
  __syncthreads();

  const int first_column = first_chunk * 8, columns = min(out_columns, p.head_dim - first_column);
  if (cut) {
    const std::int64_t slot = work.slot_start[list] + chunk;
    float* to = a.partial +
                ((slot * gridDim.y + blockIdx.y) * 2 * key_tile + warp_row + lane / 4) * p.head_dim +
                first_column + lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < out_columns / 8; ++n) {
      if (8 * n >= columns) break;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float* at = to + static_cast<std::int64_t>(half) * 8 * p.head_dim + 8 * n;
        *reinterpret_cast<float2*>(at) = {dk[0][n][2 * half] * p.scale, dk[0][n][2 * half + 1] * p.scale};
        *reinterpret_cast<float2*>(at + static_cast<std::int64_t>(key_tile) * p.head_dim) = {
            dv[0][n][2 * half], dv[0][n][2 * half + 1]};
      }
    }
    return;
  }
  const float scale[1][2] = {{p.scale, p.scale}}, one[1][2] = {{1.0f, 1.0f}};
  store_accumulators<Columns>(shared, warp_row, dk, scale);
  store_accumulators<Columns>(shared + key_bytes, warp_row, dv, one);
  const auto key_of = [&](bf16* of) {
    return [&, of](int i) -> bf16* {
      return i < key_count ? of + key_base + i * key_stride + first_column : nullptr;
    };
  };
  write_rows<Columns, 16>(shared, warp_row, columns, a.add_dk, key_of(a.dk));
  write_rows<Columns, 16>(shared + key_bytes, warp_row, columns, a.add_dv, key_of(a.dv));
}

template <int Columns>
void launch_key_gradients(const Stream& stream, const BackwardArguments& a, const KeyWork& work) {
  using Tiling = KeyGradientTiling<Columns, false>;
  const bool documents = a.problem.documents != nullptr;
  const unsigned tiles = static_cast<unsigned>(ceil_div(work.view.list_keys, key_tile));
  launch(stream,
         {dim3(static_cast<unsigned>(work.max_items), tiles, Columns / Tiling::out), dim3(Tiling::threads),
          documents ? KeyGradientTiling<Columns, true>::shared_bytes : Tiling::shared_bytes},
         documents ? key_gradient_kernel<Columns, true> : key_gradient_kernel<Columns, false>, a);
}

}  // namespace hysparse::cuda
