/// Forward of block-sparse attention by token: overwrites out and lse of its own tokens.
#include <cmath>

#include "attention/cpu/token_kernels.h"
#include "core/cpu/math.h"

namespace hysparse::cpu {
namespace {

template <class T>
class TokenForward {
 public:
  TokenForward(const AttentionSizes& sizes, const KeyPattern& pattern, const ForwardData<T>& data,
               const PackedKeys<T>& keys, const PackedKeys<T>& values)
      : sizes_(sizes),
        data_(data),
        keys_(keys),
        values_(values),
        row_width_(round_up_to_lanes<T>(sizes.head_dim)),
        scale_(T(1) / std::sqrt(static_cast<T>(sizes.head_dim))),
        token_keys_(sizes, pattern, vector_lanes<T>),
        query_(sizes.group_size() * row_width_),
        out_(sizes.group_size() * row_width_),
        inverse_sum_(sizes.group_size()),
        p_(sizes.group_size() * token_keys_.max_width()) {}

  void run(std::int64_t sequence, std::int64_t group, std::int64_t token) {
    const std::int64_t heads = sizes_.group_size(), head_dim = sizes_.head_dim;
    const std::int64_t slab = sequence * sizes_.num_kv_heads + group;
    const std::int64_t first = (sequence * sizes_.query_len + token) * sizes_.num_heads + group * heads;
    for (std::int64_t r = 0; r < heads; ++r) {
      scale_row(data_.q + (first + r) * head_dim, head_dim, scale_, false, query_ + r * row_width_);
    }
    token_keys_.set(sequence, group, token);
    const std::int64_t width = token_keys_.width();
    rows_times_panels<T>(heads, head_dim, query_, row_width_, keys_.panels(slab), token_keys_.panels(), p_,
                         width);
    token_keys_.mask<T>(p_, heads, width);
    for (std::int64_t r = 0; r < heads; ++r) {
      data_.lse[first + r] =
          exponentiate(p_ + r * width, width, data_.sinks != nullptr ? data_.sinks[group * heads + r] : lowest,
                       inverse_sum_[r]);
    }
    rows_times_values<T>(heads, head_dim, p_, width, token_keys_.spans(), values_.rows(slab),
                         values_.row_stride(), out_, row_width_);
    for (std::int64_t r = 0; r < heads; ++r) {
      scale_row(out_ + r * row_width_, head_dim, inverse_sum_[r], false, data_.out + (first + r) * head_dim);
    }
  }

 private:
  static constexpr T lowest = -std::numeric_limits<T>::infinity();

  /// Logits become exp(logit - maximum); returns lse and the factor that makes them probabilities.
  T exponentiate(T* p, std::int64_t width, T sink, T& inverse_sum) {
    constexpr std::int64_t lanes = vector_lanes<T>;
    detail::Vector<T> x, top = detail::Vector<T>{} + sink, total{};
    for (std::int64_t i = 0; i < width; i += lanes) {
      std::memcpy(&x, p + i, sizeof(x));
      top = x > top ? x : top;
    }
    const T maximum = detail::max_lanes<T>(top), shift = maximum == lowest ? T(0) : maximum;
    for (std::int64_t i = 0; i < width; ++i) p[i] = exp(p[i] - shift);
    for (std::int64_t i = 0; i < width; i += lanes) {
      std::memcpy(&x, p + i, sizeof(x));
      total += x;
    }
    const T sum = detail::sum_lanes<T>(total) + exp(sink - shift);
    inverse_sum = sum == T(0) ? T(0) : T(1) / sum;
    return sum == T(0) ? lowest : maximum + std::log(sum);
  }

  const AttentionSizes& sizes_;
  const ForwardData<T>& data_;
  const PackedKeys<T>&keys_, &values_;
  const std::int64_t row_width_;
  const T scale_;
  TokenKeys token_keys_;
  Scratch<T> query_, out_;  // [R, row_width]
  Scratch<T> inverse_sum_;  // [R]
  Scratch<T> p_;            // [R, width]
};

}  // namespace

template <class T>
void token_rows_forward(const Stream& stream, const AttentionSizes& sizes, const KeyPattern& pattern,
                        const ForwardData<T>& data) {
  const PackedKeys<T> keys(stream, sizes, data.k, true, false), values(stream, sizes, data.v, false, true);
  const std::int64_t chunks = (sizes.query_len + token_chunk - 1) / token_chunk;
  parallel_workers(
      stream, sizes.sequences * sizes.num_kv_heads * chunks,
      [&] { return TokenForward<T>(sizes, pattern, data, keys, values); },
      [&](TokenForward<T>& worker, std::int64_t task) {
        const std::int64_t slab = task / chunks, begin = task % chunks * token_chunk;
        for (std::int64_t token = begin; token < std::min(begin + token_chunk, sizes.query_len); ++token) {
          worker.run(slab / sizes.num_kv_heads, slab % sizes.num_kv_heads, token);
        }
      });
}

template void token_rows_forward<float>(const Stream&, const AttentionSizes&, const KeyPattern&,
                                        const ForwardData<float>&);
template void token_rows_forward<double>(const Stream&, const AttentionSizes&, const KeyPattern&,
                                         const ForwardData<double>&);

}  // namespace hysparse::cpu
