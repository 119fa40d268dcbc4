/// Backward of block-sparse attention by token; the formulas are in attention_backward.cpp. Sums dK and dV of a
/// slab chunk by chunk of its tokens.
#include <cmath>

#include "attention/cpu/token_kernels.h"
#include "core/cpu/math.h"

namespace hysparse::cpu {
namespace {

/// Bytes of probabilities and their gradients that a worker keeps before it sums them into dK and dV.
constexpr std::int64_t kept_bytes = 1 << 18;

/// P and dS of a chunk of tokens are kept; then each block sums over the tokens of the chunk that chose it (the
/// inverse of the lists), so that dK and dV are read and written once per chunk instead of once per token.
template <class T>
class TokenBackward {
 public:
  TokenBackward(const AttentionSizes& sizes, const KeyPattern& pattern, const PackedKeys<T>& keys,
                const PackedKeys<T>& values)
      : sizes_(sizes),
        keys_(keys),
        values_(values),
        row_width_(round_up_to_lanes<T>(sizes.head_dim)),
        block_size_(pattern.blocks.block_size),
        scale_(T(1) / std::sqrt(static_cast<T>(sizes.head_dim))),
        token_keys_(sizes, pattern, vector_lanes<T>),
        p_width_(token_keys_.max_width()),
        chunk_(std::clamp<std::int64_t>(
            kept_bytes / std::max<std::int64_t>(
                             1, 2 * sizes.group_size() * p_width_ * static_cast<std::int64_t>(sizeof(T))),
            1, 32)),
        members_(static_cast<std::size_t>((sizes.key_rows + block_size_ - 1) / block_size_)),
        query_(chunk_ * sizes.group_size() * row_width_),
        dout_(chunk_ * sizes.group_size() * row_width_),
        dquery_(sizes.group_size() * row_width_),
        p_(chunk_ * sizes.group_size() * p_width_),
        dp_(chunk_ * sizes.group_size() * p_width_),
        dk_(sizes.key_rows * row_width_),
        dv_(sizes.key_rows * row_width_) {
    std::fill_n(static_cast<T*>(query_), chunk_ * sizes.group_size() * row_width_, T(0));
    std::fill_n(static_cast<T*>(dout_), chunk_ * sizes.group_size() * row_width_, T(0));
  }

  void run(const SlabTask<T>& task, const BackwardData<T>& data) {
    std::fill_n(static_cast<T*>(dk_), sizes_.key_rows * row_width_, T(0));
    std::fill_n(static_cast<T*>(dv_), sizes_.key_rows * row_width_, T(0));
    const std::int64_t begin = sizes_.query_len * task.part / task.parts;
    const std::int64_t end = sizes_.query_len * (task.part + 1) / task.parts;
    for (std::int64_t first = begin; first < end; first += chunk_) {
      for (std::int64_t slot = 0; slot < std::min(chunk_, end - first); ++slot) {
        run_token(task, slot, first + slot, data);
      }
      sum_blocks();
    }
    flush(task, dk_, task.add_dk, task.dk);
    flush(task, dv_, task.add_dv, task.dv);
  }

 private:
  /// dQ of one token; P and dS go to the token's slot.
  void run_token(const SlabTask<T>& task, std::int64_t slot, std::int64_t token, const BackwardData<T>& data) {
    const std::int64_t heads = sizes_.group_size(), head_dim = sizes_.head_dim;
    const std::int64_t slab = task.sequence * sizes_.num_kv_heads + task.group;
    const std::int64_t first =
        (task.sequence * sizes_.query_len + token) * sizes_.num_heads + task.group * heads;
    T *query = query_ + slot * heads * row_width_, *dout = dout_ + slot * heads * row_width_;
    T *probabilities = p_ + slot * heads * p_width_, *gradients = dp_ + slot * heads * p_width_;
    for (std::int64_t r = 0; r < heads; ++r) {
      scale_row(data.q + (first + r) * head_dim, head_dim, scale_, false, query + r * row_width_);
      scale_row(data.dout + (first + r) * head_dim, head_dim, T(1), false, dout + r * row_width_);
    }
    token_keys_.set(task.sequence, task.group, token);
    const std::int64_t width = token_keys_.width();
    rows_times_panels<T>(heads, head_dim, query, row_width_, keys_.panels(slab), token_keys_.panels(),
                         probabilities, p_width_);
    token_keys_.mask<T>(probabilities, heads, p_width_);
    rows_times_panels<T>(heads, head_dim, dout, row_width_, values_.panels(slab), token_keys_.panels(),
                         gradients, p_width_);
    for (std::int64_t r = 0; r < heads; ++r) {
      const T delta = dot<T>(dout + r * row_width_, data.out + (first + r) * head_dim, head_dim);
      const T sum = data.lse[first + r];
      const T lse = sum == -std::numeric_limits<T>::infinity() ? T(0) : sum;  // saw nothing: every p is 0
      T *p = probabilities + r * p_width_, *dp = gradients + r * p_width_;
      for (std::int64_t i = 0; i < width; ++i) {
        p[i] = exp(p[i] - lse);
        dp[i] = p[i] * (dp[i] - delta);
      }
      if (task.dsinks != nullptr) task.dsinks[r] -= exp(data.sinks[task.group * heads + r] - lse) * delta;
    }
    rows_times_values<T>(heads, head_dim, gradients, p_width_, token_keys_.spans(), keys_.rows(slab),
                         keys_.row_stride(), dquery_, row_width_);
    for (std::int64_t r = 0; r < heads; ++r) {
      scale_row(dquery_ + r * row_width_, head_dim, scale_, data.add_dq, data.dq + (first + r) * head_dim);
    }
    add_members(slot);
  }

  /// Enters the token into its blocks' lists of members. Blocks that it sees only in part are summed at once.
  void add_members(std::int64_t slot) {
    const std::int64_t heads = sizes_.group_size(), head_dim = sizes_.head_dim;
    for (const KeySpan& span : token_keys_.spans()) {
      const std::int64_t end = span.key + span.count;
      for (std::int64_t key = span.key, block = key / block_size_, next = 0; key < end; key = next, ++block) {
        next = std::min(end, (block + 1) * block_size_);
        const std::int64_t at = span.at + key - span.key, seen = next - key;
        if (seen == std::min(block_size_, sizes_.key_rows - block * block_size_)) {
          members_[static_cast<std::size_t>(block)].push_back(
              {slot * heads * p_width_ + at, slot * heads * row_width_});
          continue;
        }
        const std::int64_t p = slot * heads * p_width_ + at, row = slot * heads * row_width_;
        const Member alone[] = {{p, row}};
        add_member_products<T>(heads, head_dim, seen, alone, p_, p_width_, dout_, row_width_,
                               dv_ + key * row_width_);
        add_member_products<T>(heads, head_dim, seen, alone, dp_, p_width_, query_, row_width_,
                               dk_ + key * row_width_);
      }
    }
  }

  void sum_blocks() {
    const std::int64_t heads = sizes_.group_size(), head_dim = sizes_.head_dim;
    for (std::size_t b = 0; b < members_.size(); ++b) {
      if (members_[b].empty()) continue;
      const std::int64_t key = static_cast<std::int64_t>(b) * block_size_;
      const std::int64_t keys = std::min(block_size_, sizes_.key_rows - key);
      add_member_products<T>(heads, head_dim, keys, members_[b], p_, p_width_, dout_, row_width_,
                             dv_ + key * row_width_);
      add_member_products<T>(heads, head_dim, keys, members_[b], dp_, p_width_, query_, row_width_,
                             dk_ + key * row_width_);
      members_[b].clear();
    }
  }

  void flush(const SlabTask<T>& task, const T* sums, bool add, T* buffer) const {
    const std::int64_t stride = sizes_.num_kv_heads * sizes_.head_dim;
    T* slab = buffer + task.sequence * sizes_.key_rows * stride + task.group * sizes_.head_dim;
    for (std::int64_t row = 0; row < sizes_.key_rows; ++row) {
      scale_row(sums + row * row_width_, sizes_.head_dim, T(1), add, slab + row * stride);
    }
  }

  const AttentionSizes& sizes_;
  const PackedKeys<T>&keys_, &values_;
  const std::int64_t row_width_, block_size_;
  const T scale_;
  TokenKeys token_keys_;
  const std::int64_t p_width_, chunk_;
  std::vector<std::vector<Member>> members_;  // of each block, tokens of the chunk
  Scratch<T> query_, dout_;                   // [chunk, R, row_width], beyond E zero
  Scratch<T> dquery_;                         // [R, row_width]
  Scratch<T> p_, dp_;                         // [chunk, R, p_width]
  Scratch<T> dk_, dv_;                        // [T, row_width], sums of the task
};

}  // namespace

template <class T>
void token_rows_backward(const Stream& stream, const AttentionSizes& sizes, const KeyPattern& pattern,
                         const BackwardData<T>& data, const AttentionGradients& gradients) {
  const PackedKeys<T> keys(stream, sizes, data.k, true, true), values(stream, sizes, data.v, true, false);
  const std::int64_t chunks = (sizes.query_len + token_chunk - 1) / token_chunk;
  run_backward<T>(stream, sizes, chunks, data, gradients,
                  [&] { return TokenBackward<T>(sizes, pattern, keys, values); });
}

template void token_rows_backward<float>(const Stream&, const AttentionSizes&, const KeyPattern&,
                                         const BackwardData<float>&, const AttentionGradients&);
template void token_rows_backward<double>(const Stream&, const AttentionSizes&, const KeyPattern&,
                                          const BackwardData<double>&, const AttentionGradients&);

}  // namespace hysparse::cpu
