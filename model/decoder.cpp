#include "model/decoder.h"

#include <algorithm>

#include "attention/decode.h"
#include "core/ops/embedding.h"
#include "core/ops/linear.h"
#include "model/layer_forward.h"

namespace hysparse {
namespace {

Tensor value_or_none(const Parameter* parameter) {
  return parameter != nullptr ? parameter->value : Tensor();
}

/// Copies rows into a ring, where the row of position p is p % capacity: those that stay there.
void append(const Tensor& ring, std::int64_t position, const Tensor& rows) {
  const std::int64_t capacity = ring.dim(0), end = position + rows.dim(0);
  for (std::int64_t p = std::max(position, end - capacity); p < end;) {
    const std::int64_t to = p % capacity, count = std::min(end - p, capacity - to);
    ring.slice(to, to + count).copy_from(rows.slice(p - position, p - position + count));
    p += count;
  }
}

/// The rows of the `kept` positions before `position`, then `rows`.
Tensor unrolled(const Tensor& ring, std::int64_t position, std::int64_t kept, const Tensor& rows) {
  const std::int64_t capacity = ring.dim(0);
  const Tensor all = Tensor::empty({kept + rows.dim(0), rows.dim(1)}, rows.dtype(), rows.device());
  for (std::int64_t done = 0; done < kept;) {
    const std::int64_t from = (position - kept + done) % capacity,
                       count = std::min(kept - done, capacity - from);
    all.slice(done, done + count).copy_from(ring.slice(from, from + count));
    done += count;
  }
  all.slice(kept, all.dim(0)).copy_from(rows);
  return all;
}

/// One call of forward: rows of all pieces together, attention piece by piece.
class DecoderRun {
 public:
  struct Sequence {
    std::int64_t position;    ///< of its first new token
    std::int64_t begin, end;  ///< its rows
    std::vector<const LayerCache*> layers;
    std::optional<BlockLists> blocks;  ///< the last full layer's choice
  };

  DecoderRun(const Model& model, const Stream& stream, std::vector<Sequence> sequences)
      : model_(model),
        c_(model.config()),
        tape_(stream, {.recording = false}),
        sequences_(std::move(sequences)) {}

  /// The final hidden states, normed, of all rows.
  Var hidden(const Tensor& tokens) {
    ResidualStream x{embedding(tape_, tokens, model_.embedding()), Var{}};
    const Tensor rotation = positions(x.hidden.value.dtype());
    for (std::size_t i = 0; i < model_.layers().size(); ++i) {
      const Layer& layer = model_.layers()[i];
      x.delta = attention(i, norm(tape_, x, *layer.input_norm, c_.rms_norm_eps), rotation);
      const Var normed = norm(tape_, x, *layer.post_attention_norm, c_.rms_norm_eps);
      // To the router each token is a sequence of its own: no capacity is ever short.
      x.delta = layer.feed_forward.forward(tape_, normed, {.count = tokens.dim(0)}, {}, {}).out;
    }
    return norm(tape_, x, model_.final_norm(), c_.rms_norm_eps);
  }

  Tensor logits(const Var& hidden) { return linear(tape_, hidden, model_.head()).value; }

 private:
  const Stream& stream() const { return tape_.stream(); }

  /// The rows' angles.
  Tensor positions(DType dtype) {
    const RopeConfig rope = model_.layers()[0].attention.rope();
    const auto of = [&](const Sequence& s) {
      return rope_table(stream(), rope, s.position, s.end - s.begin, dtype);
    };
    if (sequences_.size() == 1 || rope.rotary_dim == 0) return of(sequences_[0]);
    const Tensor all =
        Tensor::empty({sequences_.back().end, rope.rotary_dim}, accumulation_dtype(dtype), stream().device);
    for (const Sequence& s : sequences_) all.slice(s.begin, s.end).copy_from(of(s));
    return all;
  }

  Var attention(std::size_t index, const Var& x, const Tensor& rotation) {
    const AttentionLayer& layer = model_.layers()[index].attention;
    const AttentionLayer::Projections own = layer.project(tape_, x, rotation);
    const bool full = layer.type() == LayerType::full_attention;
    const auto branch = [&](bool there) {
      return there ? Tensor::empty(own.q.shape(), own.q.value.dtype(), stream().device) : Tensor();
    };
    const Tensor first = branch(layer.type() != LayerType::sliding_attention),
                 window = branch(layer.has_window_branch());
    for (Sequence& s : sequences_) {
      const auto rows = [&s](const Tensor& t) { return t.defined() ? t.slice(s.begin, s.end) : t; };
      const Rows mine{rows(own.q.value), rows(own.k.value), rows(own.v.value), rows(first), rows(window)};
      const bool ring = is_ring(*s.layers[index], s);
      if (window.defined() && ring) ring_window(index, s, mine);
      if (own.k.value.defined()) {
        append(s.layers[index]->k, s.position, mine.k);
        append(s.layers[index]->v, s.position, mine.v);
      }
      if (full) full_attention(index, s, mine);
      if (layer.type() == LayerType::sparse_attention) sparse(index, s, mine);
      if (window.defined() && !ring) whole_window(index, s, mine);
    }
    if (full) oracle_layer_ = index;
    const auto result = [&](const Tensor& t) { return t.defined() ? tape_.constant(t) : Var{}; };
    return layer.finish(tape_, x, result(first), result(window));
  }

  /// One sequence's.
  struct Rows {
    Tensor q, k, v, first, window;
  };

  DecodeShape shape(std::int64_t position) const {
    return {c_.num_heads, c_.num_kv_heads, c_.head_dim, position};
  }

  void full_attention(std::size_t index, Sequence& s, const Rows& rows) const {
    const LayerCache& cache = *s.layers[index];
    std::optional<SelectionConfig> selection;
    if (model_.layers()[index].feeds_followers)
      selection = SelectionConfig{c_.sparse_block_size, c_.top_blocks()};
    s.blocks = decode_full(stream(), rows.q, cache.k, cache.v, shape(s.position), selection, rows.first).blocks;
  }

  void sparse(std::size_t index, const Sequence& s, const Rows& rows) const {
    const LayerCache& source = *s.layers[c_.share_kv ? oracle_layer_ : index];
    decode_sparse(stream(), rows.q, source.k, source.v, *s.blocks,
                  value_or_none(model_.layers()[index].attention.sparse_sinks()), shape(s.position),
                  rows.first);
  }

  /// Whether the new tokens push out ones that the first of them still see.
  bool is_ring(const LayerCache& cache, const Sequence& s) const {
    const std::int64_t count = s.end - s.begin;
    return cache.capacity > 0 && count > 1 && s.position + count > cache.capacity;
  }

  /// Before the new tokens are in the ring: over a copy of what the first one sees, and the new ones.
  void ring_window(std::size_t index, const Sequence& s, const Rows& rows) const {
    const LayerCache& cache = *s.layers[index];
    const std::int64_t kept = std::min(s.position, c_.sliding_window - 1);
    decode_window(stream(), rows.q, unrolled(cache.k, s.position, kept, rows.k),
                  unrolled(cache.v, s.position, kept, rows.v), c_.sliding_window, window_sinks(index),
                  shape(kept), rows.window);
  }

  void whole_window(std::size_t index, const Sequence& s, const Rows& rows) const {
    const bool shared =
        model_.layers()[index].attention.type() == LayerType::sparse_attention && c_.share_kv_window;
    const LayerCache& source = *s.layers[shared ? oracle_layer_ : index];
    decode_window(stream(), rows.q, source.k, source.v, c_.sliding_window, window_sinks(index),
                  shape(s.position), rows.window);
  }

  Tensor window_sinks(std::size_t index) const {
    return value_or_none(model_.layers()[index].attention.window_sinks());
  }

  const Model& model_;
  const ModelConfig& c_;
  Tape tape_;
  std::vector<Sequence> sequences_;
  std::size_t oracle_layer_ = 0;  // the last full layer passed
};

/// Of each piece the last row.
Tensor last_rows(const Tensor& all, std::span<const Decoder::Piece> pieces) {
  if (all.dim(0) == static_cast<std::int64_t>(pieces.size())) return all;
  const Tensor last =
      Tensor::empty({static_cast<std::int64_t>(pieces.size()), all.dim(1)}, all.dtype(), all.device());
  std::int64_t end = 0;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    end += static_cast<std::int64_t>(pieces[i].tokens.size());
    const auto row = static_cast<std::int64_t>(i);
    last.slice(row, row + 1).copy_from(all.slice(end - 1, end));
  }
  return last;
}

}  // namespace

Tensor Decoder::forward(std::span<const Piece> pieces, Logits logits) const {
  HYSPARSE_CHECK(!pieces.empty());
  std::vector<DecoderRun::Sequence> sequences;
  std::vector<std::int32_t> ids;
  for (const Piece& piece : pieces) {
    const auto count = static_cast<std::int64_t>(piece.tokens.size());
    HYSPARSE_CHECK(count >= 1 && piece.cache->tokens() + count <= piece.cache->capacity(),
                   "{} tokens after {} of {}", count, piece.cache->tokens(), piece.cache->capacity());
    const auto begin = static_cast<std::int64_t>(ids.size());
    ids.insert(ids.end(), piece.tokens.begin(), piece.tokens.end());
    sequences.push_back({piece.cache->tokens(), begin, begin + count, {}, std::nullopt});
    for (const LayerCache& layer : piece.cache->layers_) sequences.back().layers.push_back(&layer);
  }
  DecoderRun run(model_, stream_, std::move(sequences));
  const Tensor tokens = Tensor::from(ids, {static_cast<std::int64_t>(ids.size())}).to_device(stream_.device);
  Var hidden = run.hidden(tokens);
  if (logits == Logits::last) hidden.value = last_rows(hidden.value, pieces);
  for (const Piece& piece : pieces) piece.cache->tokens_ += static_cast<std::int64_t>(piece.tokens.size());
  return run.logits(hidden);
}

Tensor Decoder::prefill(KvCache& cache, std::span<const std::int32_t> tokens, std::int64_t chunk) const {
  HYSPARSE_CHECK(!tokens.empty() && chunk >= 1, "{} tokens in pieces of {}", tokens.size(), chunk);
  Tensor logits;
  while (!tokens.empty()) {
    const std::size_t count = std::min(tokens.size(), static_cast<std::size_t>(chunk));
    const Piece piece{&cache, tokens.first(count)};
    logits = forward({&piece, 1});
    tokens = tokens.subspan(count);
  }
  return logits;
}

}  // namespace hysparse
