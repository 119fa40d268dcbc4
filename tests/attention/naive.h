/// Attention in plain loops and float64, written from the model's definition: what the kernels are compared
/// with.
#pragma once

#include <functional>
#include <ostream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "attention/attention.h"
#include "tests/attention/documents.h"

namespace hysparse::testing {

/// One problem size; fields as in attention/attention.h. `document`: mean length of documents, 0 without masks.
struct Case {
  std::int64_t sequences, seq_len, num_heads, num_kv_heads, head_dim, block_size, top_blocks, window,
      document = 0;
  Tensor documents() const { return random_documents(sequences, seq_len, document); }
  AttentionShape shape() const { return {sequences, seq_len, num_heads, num_kv_heads, head_dim, documents()}; }
  SelectionConfig selection() const { return {block_size, top_blocks}; }
};
std::ostream& operator<<(std::ostream& os, const Case& c);
/// "case3": the test's name for the fourth case.
std::string case_name(const ::testing::TestParamInfo<Case>& parameter);

/// Sizes at every edge, without documents, and the same with.
const std::vector<Case>& edge_cases();
const std::vector<Case>& document_cases();

struct Inputs {
  Tensor q, k, v, dout, sinks;  ///< f64
};
Inputs random_inputs(const Case& c, std::uint64_t seed, double scale = 1.0);

/// Whether the query token `row` (of S*T) and group see the key at position s of its sequence and document, s
/// <= t.
using Sees = std::function<bool(std::int64_t row, std::int64_t group, std::int64_t s)>;
Sees sees_all();
Sees sees_window(const Case& c);
Sees sees_blocks(const BlockLists& lists);

struct NaiveResult {
  Tensor out, dq, dk, dv, dsinks;  ///< f64
};
/// Forward and, for inputs.dout, backward. `sinks` false: no sink.
NaiveResult naive_attention(const Case& c, const Inputs& inputs, const Sees& sees, bool sinks);

/// The score of every block [S*T, G, N]: max over heads and visible tokens of logit - lse; -inf for blocks not
/// visible.
Tensor naive_scores(const Case& c, const Inputs& inputs);
/// The K visible blocks of highest score by a stable sort, ascending, for each row and group.
std::vector<std::vector<std::int32_t>> naive_selection(const Case& c, const Tensor& scores);
/// The chosen blocks of each row and group.
std::vector<std::vector<std::int32_t>> to_vectors(const BlockLists& lists);

}  // namespace hysparse::testing
