// The collectives of tensor parallelism: values and adjoints by inner products, and layers between them against
// the same layers on one rank.
#include "parallel/tensor_parallel.h"

#include <algorithm>
#include <numeric>

#include "core/ops/add.h"
#include "core/ops/linear.h"
#include "core/ops/rms_norm.h"
#include "core/ops/swiglu.h"
#include "tests/core/gradient_check.h"
#include "tests/parallel/mpi_test.h"

namespace hysparse::testing {
namespace {

/// Sums of a few hundred terms of size one in another order.
constexpr double tolerance = 1e-12;
constexpr std::int64_t hidden_size = 5, width = 12;  // the width divides by every number of ranks

std::unique_ptr<Communicator> world_group() {
  std::vector<int> ranks(static_cast<std::size_t>(runtime().world()));
  std::iota(ranks.begin(), ranks.end(), 0);
  return runtime().communicator("tp", ranks);
}

/// Whether all ranks have the same bits.
bool same_everywhere(Communicator& group, const Tensor& t) {
  const Tensor first = t.clone();
  group.broadcast(first, 0);
  return first.to_vector<double>() == t.to_vector<double>();
}

/// How a tensor lies on the ranks.
enum class Layout {
  whole,  ///< the same on all: counts once in an inner product
  own,    ///< each rank has one of its own
  rows,   ///< each rank has its slice of the rows
};

Tensor random_in(Layout layout, std::int64_t tokens, const TensorParallel& tp, const std::string& name) {
  if (layout == Layout::own) return random_tensor({tokens, hidden_size}, 1 + tp.rank(), name);
  const Tensor whole = random_tensor({tokens, hidden_size}, 1, name);
  const TokenSlice own = tp.slice(tokens);
  return layout == Layout::whole ? whole : whole.slice(own.begin, own.end).clone();
}

double inner_product(Layout layout, Communicator& group, const Tensor& a, const Tensor& b) {
  HYSPARSE_CHECK(a.shape() == b.shape(), "{} {}", a.shape().str(), b.shape().str());
  const Tensor sum = Tensor::zeros({1}, DType::f64);
  for (std::int64_t i = 0; i < a.numel(); ++i) *sum.data<double>() += a.data<double>()[i] * b.data<double>()[i];
  if (layout != Layout::whole) group.all_reduce(sum);
  return *sum.data<double>();
}

struct OpUnderTest {
  const char* name;
  bool sequence_parallel;
  Layout from, to;
  std::function<Var(const TensorParallel&, Tape&, const Var&, std::int64_t tokens)> apply;
  /// Its value by definition: x of every rank -> the whole, or the sum.
  bool sums;
};

std::vector<OpUnderTest> ops() {
  const auto enter = [](const TensorParallel& tp, Tape& t, const Var& x, std::int64_t) {
    return tp.enter(t, x);
  };
  const auto leave = [](const TensorParallel& tp, Tape& t, const Var& x, std::int64_t) {
    return tp.leave(t, x);
  };
  const auto split = [](const TensorParallel& tp, Tape& t, const Var& x, std::int64_t) {
    return tp.split(t, x);
  };
  const auto join = [](const TensorParallel& tp, Tape& t, const Var& x, std::int64_t n) {
    return tp.join(t, x, n);
  };
  return {{"enter", false, Layout::whole, Layout::own, enter, false},
          {"enter", true, Layout::rows, Layout::own, enter, false},
          {"leave", false, Layout::own, Layout::whole, leave, true},
          {"leave", true, Layout::own, Layout::rows, leave, true},
          {"split", false, Layout::whole, Layout::rows, split, false},
          {"split", true, Layout::rows, Layout::rows, split, false},
          {"join", false, Layout::rows, Layout::whole, join, false},
          {"join", true, Layout::rows, Layout::rows, join, false}};
}

/// The rows that the op must give on this rank.
Tensor expected_value(const OpUnderTest& op, std::int64_t tokens, const TensorParallel& tp) {
  Tensor whole = random_tensor({tokens, hidden_size}, 1, "x");
  for (int r = 1; op.sums && r < tp.size(); ++r) {
    const Tensor term = random_tensor({tokens, hidden_size}, 1 + r, "x");
    for (std::int64_t i = 0; i < whole.numel(); ++i) whole.data<double>()[i] += term.data<double>()[i];
  }
  const TokenSlice own = tp.slice(tokens);
  return op.to == Layout::rows ? whole.slice(own.begin, own.end) : whole;
}

/// <f(x), y> = <x, f*(y)>, also where x has a gradient already.
void expect_adjoint(const OpUnderTest& op, Communicator& group, std::int64_t tokens, bool used_before) {
  SCOPED_TRACE(
      fmt::format("{} sp {} tokens {} used before {}", op.name, op.sequence_parallel, tokens, used_before));
  const TensorParallel tp(group, op.sequence_parallel);
  TestStream stream;
  Tape tape(stream);
  const Var x = tape.input(random_in(op.from, tokens, tp, "x"));
  const Var y = op.apply(tp, tape, x, tokens);
  ASSERT_EQ(y.value.to_vector<double>(), expected_value(op, tokens, tp).to_vector<double>());
  if (!y.requires_grad() || y.grad == x.grad) {  // the identity
    ASSERT_EQ(y.value.raw(), x.value.raw());
    return;
  }
  const Tensor before = random_in(op.from, tokens, tp, "before"), dy = random_in(op.to, tokens, tp, "dy");
  if (used_before) x.grad->accumulate(stream, before.clone());
  tape.backward(y, dy.clone());
  EXPECT_FALSE(y.grad->defined()) << "the gradient is kept";
  const Tensor dx = x.grad->value();
  if (op.from == Layout::whole) {
    EXPECT_TRUE(same_everywhere(group, dx));
  }
  const double forward = inner_product(op.to, group, y.value, dy);
  double backward = inner_product(op.from, group, x.value, dx);
  if (used_before) backward -= inner_product(op.from, group, x.value, before);
  EXPECT_NEAR(forward, backward, tolerance * static_cast<double>(1 + tokens * hidden_size * group.size()));
}

TEST(TensorParallel, ValuesAndAdjoints) {
  const auto group = world_group();
  for (const OpUnderTest& op : ops()) {
    for (const std::int64_t tokens : {0, 1, 2, 7, 12, 2400}) {
      if (op.sequence_parallel && tokens % group->size() != 0) continue;
      for (const bool used_before : {false, true}) expect_adjoint(op, *group, tokens, used_before);
    }
  }
}

TEST(TensorParallel, AGroupOfOneIsAlone) {
  const auto group = local_communicator("tp");
  TestStream stream;
  for (const bool sequence_parallel : {false, true}) {
    for (const TensorParallel& tp : {TensorParallel(), TensorParallel(*group, sequence_parallel)}) {
      Tape tape(stream);
      const Var x = tape.input(random_tensor({3, hidden_size}, 1, "x"));
      for (const Var& y : {tp.enter(tape, x), tp.leave(tape, x), tp.split(tape, x), tp.join(tape, x, 3)}) {
        EXPECT_EQ(y.value.raw(), x.value.raw());
        EXPECT_EQ(y.grad, x.grad);
      }
      EXPECT_EQ(tape.size(), 0u);
      EXPECT_EQ(tp.group(), nullptr);
      EXPECT_EQ(tp.slice(7).group, nullptr);
      EXPECT_EQ(tp.slice(7).end, 7);
    }
  }
  EXPECT_TRUE(group->traffic().empty());
}

TEST(TensorParallel, SlicesCoverTheTokensInOrder) {
  const auto group = world_group();
  const TensorParallel tp(*group, false);
  for (const std::int64_t tokens : {0, 1, 3, 12, 1001}) {
    const TokenSlice own = tp.slice(tokens);
    const Tensor ends = Tensor::from<std::int64_t>({own.begin, own.end}, {1, 2});
    const Tensor all = Tensor::zeros({group->size(), 2}, DType::i64);
    group->all_gather(ends, all);
    const std::vector<std::int64_t> v = all.to_vector<std::int64_t>();
    EXPECT_EQ(v.front(), 0);
    EXPECT_EQ(v.back(), tokens);
    for (std::size_t i = 0; i + 1 < v.size(); ++i) {
      EXPECT_LE(v[i], v[i + 1]);
      EXPECT_LE(v[i + 1] - v[i], i % 2 == 1 ? 0 : tokens / group->size() + 1) << i;
    }
    EXPECT_EQ(own.total, tokens);
  }
  if (group->size() > 1) {
    EXPECT_THROW(TensorParallel(*group, true).slice(group->size() + 1), CheckFailure);
  }
}

/// A layer with every op in it: x + down(swiglu(gate(n), up(n))) with n = norm(x), then the sum and a norm that
/// works token by token.
struct Layer {
  Parameter norm = random_parameter({hidden_size}, 3, "norm");
  Parameter gate = random_parameter({width, hidden_size}, 3, "gate"),
            up = random_parameter({width, hidden_size}, 3, "up"),
            down = random_parameter({hidden_size, width}, 3, "down");
  Parameter token_norm = random_parameter({hidden_size}, 3, "token_norm");

  /// The shard of a rank: rows of gate and up, columns of down.
  Layer shard(int rank, int size) const {
    const std::int64_t part = width / size, first = part * rank;
    Layer s;
    s.gate.value = gate.value.slice(first, first + part).clone();
    s.up.value = up.value.slice(first, first + part).clone();
    s.down.value = columns(down.value, first, part);
    for (Parameter* p : s.parameters()) p->grad = Tensor::zeros(p->value.shape(), DType::f64);
    return s;
  }
  static Tensor columns(const Tensor& t, std::int64_t first, std::int64_t count) {
    const Tensor out = Tensor::empty({t.dim(0), count}, DType::f64);
    for (std::int64_t r = 0; r < t.dim(0); ++r) {
      std::copy_n(t.data<double>() + r * t.dim(1) + first, count, out.data<double>() + r * count);
    }
    return out;
  }
  std::vector<Parameter*> parameters() { return {&norm, &gate, &up, &down, &token_norm}; }

  Var forward(Tape& tape, const Var& x, const TensorParallel& tp, std::int64_t tokens) const {
    const Var n = tp.enter(tape, rms_norm(tape, x, norm, 1e-5));
    const Var h = swiglu(tape, linear(tape, n, gate), linear(tape, n, up));
    const Var sum = add(tape, x, tp.leave(tape, linear(tape, h, down)));
    return add(tape, sum, tp.join(tape, rms_norm(tape, tp.split(tape, sum), token_norm, 1e-5), tokens));
  }
};

struct Result {
  Tensor y, dx;
};

Result run(std::vector<Layer>& layers, const Tensor& x, const Tensor& dy, const TensorParallel& tp,
           std::int64_t tokens, bool apart) {
  TestStream stream;
  Tape tape(stream);
  const Var input = tape.input(x.clone());
  Var y = input;
  for (const Layer& layer : layers) y = layer.forward(tape, y, tp, tokens);
  if (apart) {
    const Var root = tape.output(Tensor::from<double>({0}, {1}), {y});
    tape.record("objective", {root}, [&] { y.grad->accumulate(stream, dy.clone()); });
    const Tape::Root seed{root, 1.0};
    tape.backward_inputs({&seed, 1});
    tape.backward_weights();
  } else {
    tape.backward(y, dy.clone());
  }
  return {y.value, input.grad->value()};
}

void expect_like_one_rank(Communicator& group, bool sequence_parallel, std::int64_t tokens, bool apart) {
  SCOPED_TRACE(fmt::format("sp {} tokens {} apart {}", sequence_parallel, tokens, apart));
  const TensorParallel tp(group, sequence_parallel);
  const Tensor x = random_tensor({tokens, hidden_size}, 4, "x"),
               dy = random_tensor({tokens, hidden_size}, 4, "dy");
  std::vector<Layer> whole(2), mine;
  for (Layer& layer : whole) mine.push_back(layer.shard(tp.rank(), tp.size()));
  const Result expected = run(whole, x, dy, {}, tokens, apart);

  TokenSlice rows{nullptr, 0, tokens, tokens};
  if (sequence_parallel) rows = tp.slice(tokens);
  const Result got =
      run(mine, x.slice(rows.begin, rows.end), dy.slice(rows.begin, rows.end), tp, tokens, apart);
  EXPECT_LE(relative_error(got.y, expected.y.slice(rows.begin, rows.end)), tolerance);
  EXPECT_LE(relative_error(got.dx, expected.dx.slice(rows.begin, rows.end)), tolerance);
  if (!sequence_parallel) {
    EXPECT_TRUE(same_everywhere(group, got.y));
    EXPECT_TRUE(same_everywhere(group, got.dx));
  }
  const std::int64_t part = width / tp.size(), first = part * tp.rank();
  for (std::size_t l = 0; l < whole.size(); ++l) {
    EXPECT_LE(relative_error(mine[l].gate.grad, whole[l].gate.grad.slice(first, first + part)), tolerance);
    EXPECT_LE(relative_error(mine[l].up.grad, whole[l].up.grad.slice(first, first + part)), tolerance);
    EXPECT_LE(relative_error(mine[l].down.grad, Layer::columns(whole[l].down.grad, first, part)), tolerance);
    // Replicas: what sees the rank's tokens alone has a term of a sum, the others the whole.
    if (sequence_parallel) group.all_reduce(mine[l].norm.grad);
    group.all_reduce(mine[l].token_norm.grad);
    EXPECT_LE(relative_error(mine[l].norm.grad, whole[l].norm.grad), tolerance);
    EXPECT_LE(relative_error(mine[l].token_norm.grad, whole[l].token_norm.grad), tolerance);
  }
}

TEST(TensorParallel, LayersAreThoseOfOneRank) {
  const auto group = world_group();
  for (const bool sequence_parallel : {false, true}) {
    for (const std::int64_t tokens : {0, 1, 7, 12, 36}) {
      if (sequence_parallel && tokens % group->size() != 0) continue;
      for (const bool apart : {false, true}) expect_like_one_rank(*group, sequence_parallel, tokens, apart);
    }
  }
}

/// Bytes of one enter and leave, forward and backward: rows * D * 8, over tp where rows are split.
TEST(TensorParallel, Traffic) {
  const auto group = world_group();
  if (group->size() == 1) return;  // a group of one is alone: see above
  const std::int64_t tokens = 12, whole = tokens * hidden_size * 8, part = whole / group->size();
  for (const bool sequence_parallel : {false, true}) {
    const auto before = group->traffic();
    const TensorParallel tp(*group, sequence_parallel);
    TestStream stream;
    Tape tape(stream);
    const Var x = tape.input(random_in(sequence_parallel ? Layout::rows : Layout::whole, tokens, tp, "x"));
    const Var y = tp.leave(tape, tp.enter(tape, x));
    tape.backward(y, y.value.clone());
    const auto bytes = [&](const char* operation) {
      const auto was = before.find(operation), is = group->traffic().find(operation);
      return (is == group->traffic().end() ? 0 : is->second.bytes) -
             (was == before.end() ? 0 : was->second.bytes);
    };
    EXPECT_EQ(bytes("all_reduce"), sequence_parallel ? 0 : 2 * whole);
    EXPECT_EQ(bytes("all_gather"), sequence_parallel ? 2 * part : 0);
    EXPECT_EQ(bytes("reduce_scatter"), sequence_parallel ? 2 * whole : 0);
  }
}

TEST(TensorParallel, EvaluationKeepsNothing) {
  const auto group = world_group();
  for (const bool sequence_parallel : {false, true}) {
    const TensorParallel tp(*group, sequence_parallel);
    TestStream stream;
    Tape tape(stream, {.recording = false});
    const Var x = tape.constant(random_in(sequence_parallel ? Layout::rows : Layout::whole, 12, tp, "x"));
    const Var y = tp.leave(tape, tp.enter(tape, tp.join(tape, tp.split(tape, x), 12)));
    EXPECT_FALSE(y.requires_grad());
    EXPECT_EQ(tape.size(), 0u);
  }
}

}  // namespace
}  // namespace hysparse::testing
