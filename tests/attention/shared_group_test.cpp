// Full attention whose groups' heads lie on several ranks: outputs, lists and gradients are those of one rank
// with all heads.
#include <algorithm>
#include <numeric>

#include "attention/attention.h"
#include "tests/attention/naive.h"
#include "tests/core/gradient_check.h"
#include "tests/parallel/mpi_test.h"

namespace hysparse::testing {
namespace {

/// The same kernels on other tiles: sums of a few hundred terms in another order.
constexpr double tolerance = 1e-12;

/// `num_heads` and `num_kv_heads` count all ranks'. Heads divide by 4 ranks, rows often do not.
std::vector<Case> cases() {
  return {
      {2, 35, 8, 1, 8, 4, 3, 8},           // 70 rows
      {2, 35, 8, 2, 8, 4, 3, 8},           //
      {1, 131, 16, 2, 16, 16, 4, 8},       // several tiles, R = 8 on one rank
      {3, 1, 4, 1, 4, 4, 2, 8},            // fewer rows than 4 ranks
      {1, 1, 4, 2, 4, 1, 1, 1},            // one row
      {1, 45, 12, 1, 3, 1, 7, 16},         // blocks of one token, R = 3 or 6 on one rank
      {5, 19, 4, 2, 17, 4, 2, 3},          // R = 1 on one rank at 4 ranks
      {1, 40, 4, 1, 8, 8, 100, 16},        // K above the number of blocks
      {1, 40, 4, 1, 8, 8, 0, 16},          // K = 0
      {1, 45, 4, 2, 8, 64, 1, 16},         // one block
      {1, 300, 4, 1, 8, 100, 2, 16},       // blocks longer than a segment
      {2, 35, 8, 1, 8, 4, 3, 8, 9},        // documents
      {1, 131, 16, 2, 16, 16, 4, 8, 40},   //
      {1, 300, 4, 1, 8, 100, 1, 16, 150},  //
      {3, 7, 4, 1, 4, 2, 1, 8, 1},         // of a token or two
  };
}

/// A rank's place: its heads, and the mates of their group.
struct Place {
  std::unique_ptr<Communicator> tp;
  SharedGroup shared;
  std::int64_t group = 0, first_head = 0, heads = 0;
};

Place place_of(const Case& c) {
  Runtime& mpi = runtime();
  std::vector<int> ranks(static_cast<std::size_t>(mpi.world()));
  std::iota(ranks.begin(), ranks.end(), 0);
  Place p;
  p.tp = mpi.communicator("tp", ranks);
  const int mates = mpi.world() / static_cast<int>(c.num_kv_heads);
  p.shared = {p.tp.get(), mpi.rank() / mates * mates, mates};
  p.group = mpi.rank() / mates;
  p.heads = c.num_heads / mpi.world();
  p.first_head = p.heads * mpi.rank();
  return p;
}

/// Columns [first, first + count) of a matrix.
Tensor columns(const Tensor& t, std::int64_t first, std::int64_t count) {
  const Tensor out = Tensor::empty({t.dim(0), count}, t.dtype());
  dispatch_float(t.dtype(), [&]<class T>() {
    for (std::int64_t r = 0; r < t.dim(0); ++r) {
      std::copy_n(t.data<T>() + r * t.dim(1) + first, count, out.data<T>() + r * count);
    }
  });
  return out;
}

struct Result {
  Tensor out, dq, dk, dv;
  BlockLists blocks;
};

Result run(const Inputs& inputs, const AttentionShape& shape, const SelectionConfig& selection,
           const SharedGroup& shared) {
  TestStream stream;
  Tape tape(stream);
  const Var q = tape.input(inputs.q), k = tape.input(inputs.k), v = tape.input(inputs.v);
  const FullAttentionResult full = full_attention(tape, q, k, v, shape, selection, shared);
  tape.backward(full.out, inputs.dout.clone());
  return {full.out.value, q.grad->value(), k.grad->value(), v.grad->value(), *full.blocks};
}

/// This rank's heads and its copy of their group.
Inputs part_of(const Inputs& whole, const Case& c, const Place& p) {
  const std::int64_t width = p.heads * c.head_dim, first = p.first_head * c.head_dim;
  return {columns(whole.q, first, width),
          columns(whole.k, p.group * c.head_dim, c.head_dim),
          columns(whole.v, p.group * c.head_dim, c.head_dim),
          columns(whole.dout, first, width),
          {}};
}

AttentionShape part_shape(const Case& c, const Place& p) {
  return {c.sequences, c.seq_len, p.heads, 1, c.head_dim, c.documents()};
}

/// The lists of one group of `lists`.
BlockLists lists_of_group(const BlockLists& lists, std::int64_t group) {
  const std::int64_t rows = lists.blocks.dim(0), top = lists.blocks.dim(2);
  BlockLists one{lists.block_size, Tensor::empty({rows, 1, top}, DType::i32),
                 Tensor::empty({rows, 1}, DType::i32)};
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::int64_t list = r * lists.blocks.dim(1) + group;
    std::copy_n(lists.blocks.data<std::int32_t>() + list * top, top, one.blocks.data<std::int32_t>() + r * top);
    one.counts.data<std::int32_t>()[r] = lists.counts.data<std::int32_t>()[list];
  }
  return one;
}

void expect_same_lists(const BlockLists& got, const BlockLists& expected) {
  EXPECT_EQ(got.block_size, expected.block_size);
  EXPECT_EQ(got.blocks.shape(), expected.blocks.shape());
  EXPECT_EQ(got.blocks.to_vector<std::int32_t>(), expected.blocks.to_vector<std::int32_t>());
  EXPECT_EQ(got.counts.to_vector<std::int32_t>(), expected.counts.to_vector<std::int32_t>());
}

/// Whether the lists are the first mate's, bit by bit.
void expect_mates_agree(const Place& p, const BlockLists& lists) {
  for (const Tensor& t : {lists.blocks, lists.counts}) {
    const Tensor all = Tensor::empty({p.tp->size(), t.numel()}, DType::i32);
    p.tp->all_gather(t.view({t.numel()}), all);
    EXPECT_EQ(t.to_vector<std::int32_t>(),
              all.slice(p.shared.first, p.shared.first + 1).to_vector<std::int32_t>());
  }
}

/// The sum over the mates: others add zeros in a place of their own.
Tensor sum_over_mates(const Place& p, const Case& c, const Tensor& t) {
  const Tensor groups = Tensor::zeros({c.num_kv_heads, t.dim(0), t.dim(1)}, DType::f64);
  groups.slice(p.group, p.group + 1).copy_from(t.view({1, t.dim(0), t.dim(1)}));
  p.tp->all_reduce(groups);
  return groups.slice(p.group, p.group + 1).view(t.shape());
}

TEST(SharedGroup, IsOneRankWithAllHeads) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(c);
    const Place p = place_of(c);
    const Inputs inputs = random_inputs(c, 51);
    const Result expected = run(inputs, c.shape(), c.selection(), {});
    const Result got = run(part_of(inputs, c, p), part_shape(c, p), c.selection(), p.shared);
    expect_same_lists(got.blocks, lists_of_group(expected.blocks, p.group));
    expect_mates_agree(p, got.blocks);
    const std::int64_t first = p.first_head * c.head_dim, width = p.heads * c.head_dim;
    EXPECT_LE(relative_error(got.out, columns(expected.out, first, width)), tolerance);
    EXPECT_LE(relative_error(got.dq, columns(expected.dq, first, width)), tolerance);
    const std::int64_t key = p.group * c.head_dim;
    EXPECT_LE(relative_error(sum_over_mates(p, c, got.dk), columns(expected.dk, key, c.head_dim)), tolerance);
    EXPECT_LE(relative_error(sum_over_mates(p, c, got.dv), columns(expected.dv, key, c.head_dim)), tolerance);
  }
}

/// By the definition, not by the kernels.
TEST(SharedGroup, ListsAreThoseOfTheNaiveScores) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(c);
    const Place p = place_of(c);
    const Inputs inputs = random_inputs(c, 52);
    const auto expected = naive_selection(c, naive_scores(c, inputs));
    const auto got = to_vectors(run(part_of(inputs, c, p), part_shape(c, p), c.selection(), p.shared).blocks);
    for (std::size_t r = 0; r < got.size(); ++r) {
      EXPECT_EQ(got[r],
                expected[r * static_cast<std::size_t>(c.num_kv_heads) + static_cast<std::size_t>(p.group)])
          << "row " << r;
    }
  }
}

/// In f32 a near tie may fall otherwise than on one rank, but for all mates alike.
TEST(SharedGroup, MatesAgreeInF32) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(c);
    const Place p = place_of(c);
    Inputs inputs = part_of(random_inputs(c, 53), c, p);
    for (Tensor* t : {&inputs.q, &inputs.k, &inputs.v, &inputs.dout}) *t = t->to(DType::f32);
    expect_mates_agree(p, run(inputs, part_shape(c, p), c.selection(), p.shared).blocks);
  }
}

/// Keys that repeat: blocks score the same, with and without one above them behind, and the lowest are chosen.
TEST(SharedGroup, ExactTiesGoToTheLowerBlock) {
  const Case c{2, 35, 8, 1, 8, 4, 3, 8};
  const Place p = place_of(c);
  Inputs inputs = random_inputs(c, 54);
  for (std::int64_t r = 0; r < inputs.k.dim(0); ++r) {
    const double factor = r % 35 / 4 == 4 ? 2.0 : 1.0;
    for (std::int64_t e = 0; e < 8; ++e)
      inputs.k.data<double>()[r * 8 + e] = factor * inputs.k.data<double>()[e];
  }
  const auto expected = naive_selection(c, naive_scores(c, inputs));
  EXPECT_EQ(expected[15], (std::vector<std::int32_t>{0, 1, 2}));
  EXPECT_EQ(expected[34], (std::vector<std::int32_t>{0, 1, 4}));
  EXPECT_EQ(to_vectors(run(part_of(inputs, c, p), part_shape(c, p), c.selection(), p.shared).blocks), expected);
}

/// Scores to the mates and lists back, and nothing where nobody shares or nothing is chosen.
TEST(SharedGroup, Traffic) {
  const Case c{2, 35, 8, 1, 8, 4, 3, 8};
  const Place p = place_of(c);
  const Inputs inputs = part_of(random_inputs(c, 55), c, p);
  TestStream stream;
  Tape tape(stream, {.recording = false});
  const auto call = [&](const std::optional<SelectionConfig>& selection, const SharedGroup& shared) {
    full_attention(tape, tape.constant(inputs.q), tape.constant(inputs.k), tape.constant(inputs.v),
                   part_shape(c, p), selection, shared);
  };
  call(std::nullopt, p.shared);
  call(c.selection(), {p.tp.get(), p.tp->rank(), 1});
  EXPECT_TRUE(p.tp->traffic().empty());
  call(c.selection(), p.shared);
  const std::int64_t rows = 70, blocks = 9, mates = p.shared.ranks, mate = p.tp->rank() - p.shared.first;
  const std::int64_t own = rows * (mate + 1) / mates - rows * mate / mates;
  EXPECT_EQ(p.tp->traffic().at("all_to_all").calls, 2);
  EXPECT_EQ(p.tp->traffic().at("all_to_all").bytes, rows * blocks * 8 + mates * own * 3 * 4);
  EXPECT_EQ(p.tp->traffic().size(), 1u);
}

}  // namespace
}  // namespace hysparse::testing
