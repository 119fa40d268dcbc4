/// The products of one token's rows (heads) with its keys, in registers. Rows are `lda` apart, logits and
/// probabilities `ldp`; both have as many rows as the group has heads.
#pragma once

#include <span>
#include <vector>

#include "attention/cpu/token_rows.h"

namespace hysparse::cpu {

/// p[r, i * lanes + j] = sum_e a[r, e] * panel_i[e, j] for the token's panels i.
template <class T>
void rows_times_panels(std::int64_t rows, std::int64_t head_dim, const T* a, std::int64_t lda, const T* panels,
                       const std::vector<std::int64_t>& indices, T* p, std::int64_t ldp) {
  constexpr std::int64_t lanes = vector_lanes<T>;
  detail::in_pieces<4, 2, 1>(rows, [&]<int Rows>(std::int64_t r0) {
    detail::in_pieces<4, 2, 1>(static_cast<std::int64_t>(indices.size()), [&]<int Panels>(std::int64_t i0) {
      const T* from[Panels];
      detail::Vector<T> sum[Rows][Panels];
#pragma GCC unroll 4
      for (int i = 0; i < Panels; ++i) {
        from[i] = panels + indices[static_cast<std::size_t>(i0 + i)] * head_dim * lanes;
#pragma GCC unroll 4
        for (int r = 0; r < Rows; ++r) sum[r][i] = detail::Vector<T>{};
      }
      for (std::int64_t e = 0; e < head_dim; ++e) {
        detail::Vector<T> keys[Panels];
#pragma GCC unroll 4
        for (int i = 0; i < Panels; ++i) std::memcpy(&keys[i], from[i] + e * lanes, sizeof(keys[i]));
#pragma GCC unroll 4
        for (int r = 0; r < Rows; ++r) {
          const T x = a[(r0 + r) * lda + e];
#pragma GCC unroll 4
          for (int i = 0; i < Panels; ++i) sum[r][i] += x * keys[i];
        }
      }
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
        for (int i = 0; i < Panels; ++i)
          std::memcpy(p + (r0 + r) * ldp + (i0 + i) * lanes, &sum[r][i], sizeof(sum[r][i]));
      }
    });
  });
}

/// out[r, e] = sum over the token's keys s of p[r, s] * values[s, e]. out rows are `lda` apart; whole vectors
/// are written.
template <class T>
void rows_times_values(std::int64_t rows, std::int64_t head_dim, const T* p, std::int64_t ldp,
                       const std::vector<KeySpan>& spans, const T* values, std::int64_t ldv, T* out,
                       std::int64_t lda) {
  constexpr std::int64_t lanes = vector_lanes<T>;
  detail::in_pieces<4, 2, 1>(rows, [&]<int Rows>(std::int64_t r0) {
    detail::in_pieces<2, 1>((head_dim + lanes - 1) / lanes, [&]<int Vectors>(std::int64_t v0) {
      detail::Vector<T> sum[Rows][Vectors];
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 2
        for (int v = 0; v < Vectors; ++v) sum[r][v] = detail::Vector<T>{};
      }
      for (const KeySpan& span : spans) {
        const T* value = values + span.key * ldv + v0 * lanes;
        const T* weight = p + r0 * ldp + span.at;
        for (std::int64_t s = 0; s < span.count; ++s) {
          detail::Vector<T> row[Vectors];
#pragma GCC unroll 2
          for (int v = 0; v < Vectors; ++v) std::memcpy(&row[v], value + s * ldv + v * lanes, sizeof(row[v]));
#pragma GCC unroll 4
          for (int r = 0; r < Rows; ++r) {
            const T x = weight[r * ldp + s];
#pragma GCC unroll 2
            for (int v = 0; v < Vectors; ++v) sum[r][v] += x * row[v];
          }
        }
      }
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 2
        for (int v = 0; v < Vectors; ++v) {
          std::memcpy(out + (r0 + r) * lda + (v0 + v) * lanes, &sum[r][v], sizeof(sum[r][v]));
        }
      }
    });
  });
}

/// Where the rows of one token lie: its probabilities for the first key of a block, and its vectors.
struct Member {
  std::int64_t p, row;
};

/// sums[s, e] += sum over members m and heads r of p[m.p + r * ldp + s] * a[m.row + r * lda + e] for the `keys`
/// keys s of one block. Rows of sums are `lda` apart; whole vectors of them are written.
template <class T>
void add_member_products(std::int64_t rows, std::int64_t head_dim, std::int64_t keys,
                         std::span<const Member> members, const T* p, std::int64_t ldp, const T* a,
                         std::int64_t lda, T* sums) {
  constexpr std::int64_t lanes = vector_lanes<T>;
  detail::in_pieces<8, 4, 1>(keys, [&]<int Keys>(std::int64_t s0) {
    detail::in_pieces<2, 1>((head_dim + lanes - 1) / lanes, [&]<int Vectors>(std::int64_t v0) {
      T* to = sums + s0 * lda + v0 * lanes;
      detail::Vector<T> sum[Keys][Vectors];
#pragma GCC unroll 8
      for (int s = 0; s < Keys; ++s) {
#pragma GCC unroll 2
        for (int v = 0; v < Vectors; ++v) std::memcpy(&sum[s][v], to + s * lda + v * lanes, sizeof(sum[s][v]));
      }
      for (const Member& member : members) {
        for (std::int64_t r = 0; r < rows; ++r) {
          const T* weight = p + member.p + r * ldp + s0;
          const T* row = a + member.row + r * lda + v0 * lanes;
          detail::Vector<T> x[Vectors];
#pragma GCC unroll 2
          for (int v = 0; v < Vectors; ++v) std::memcpy(&x[v], row + v * lanes, sizeof(x[v]));
#pragma GCC unroll 8
          for (int s = 0; s < Keys; ++s) {
            const T w = weight[s];
#pragma GCC unroll 2
            for (int v = 0; v < Vectors; ++v) sum[s][v] += w * x[v];
          }
        }
      }
#pragma GCC unroll 8
      for (int s = 0; s < Keys; ++s) {
#pragma GCC unroll 2
        for (int v = 0; v < Vectors; ++v) std::memcpy(to + s * lda + v * lanes, &sum[s][v], sizeof(sum[s][v]));
      }
    });
  });
}

}  // namespace hysparse::cpu
