// The dispatch itself: adjoints, and what is sent against the formula in moe/dispatch.h.
#include <set>
#include <utility>

#include "moe/dispatch.h"
#include "tests/moe/moe_ranks.h"

namespace hysparse::testing {
namespace {

constexpr std::int64_t experts = 12, hidden_size = 5, width = 12;

double dot(const Tensor& a, const Tensor& b) {
  EXPECT_EQ(a.shape(), b.shape());
  double total = 0;
  for (std::int64_t i = 0; i < a.numel(); ++i) total += a.data<double>()[i] * b.data<double>()[i];
  return total;
}

/// The first `columns` of t.
Tensor first_columns(const Tensor& t, std::int64_t columns) {
  const Tensor result = Tensor::empty({t.dim(0), columns}, DType::f64);
  for (std::int64_t i = 0; i < result.numel(); ++i) {
    result.data<double>()[i] = t.data<double>()[i / columns * t.dim(1) + i % columns];
  }
  return result;
}

/// Ids of this rank's tokens, some dropped.
Tensor my_ids(std::int64_t tokens, std::int64_t k) {
  const Tensor ids =
      random_ids(tokens + runtime().rank(), k, experts).slice(runtime().rank(), tokens + runtime().rank());
  for (std::int64_t a = 4; a < ids.numel(); a += 5) ids.data<std::int32_t>()[a] = -1;
  return ids;
}

std::int64_t my_tokens() {
  return uneven_tokens()[static_cast<std::size_t>(runtime().rank())];
}

Tensor of_this_rank(Shape shape, const char* name) {
  return random_tensor(shape, 100 + static_cast<std::uint64_t>(runtime().rank()), name);
}

/// <f(x), y> - <x, f*(y)> over the group, against its terms.
void expect_adjoint(Communicator& group, double forward, double backward) {
  const Tensor sums = Tensor::from<double>({forward, backward}, {2});
  group.all_reduce(sums);
  const double* s = sums.data<double>();
  EXPECT_NEAR(s[0], s[1], 1e-12 * (1 + std::abs(s[0])));
}

TEST(Dispatch, SendAndReturnGradientAreAdjoint) {
  TestStream stream;
  for (const ExpertLayout& layout : expert_layouts()) {
    SCOPED_TRACE(layout.str());
    const ExpertRanks ranks(layout);
    const std::int64_t k = 3, tokens = my_tokens();
    const Tensor ids = my_ids(tokens, k), x = of_this_rank({tokens, hidden_size}, "x"),
                 weights = of_this_rank({tokens, k}, "weights");
    const Dispatch dispatch(stream, ids, experts, *ranks.experts, layout.etp);
    const Dispatch::Received here = dispatch.send(x, weights);
    ASSERT_EQ(here.rows.dim(0), dispatch.received());

    // A gradient of every received feature, and of every weight whose expert is here.
    const Tensor rows = of_this_rank({dispatch.received(), hidden_size + k}, "rows");
    double forward = dot(first_columns(here.rows, hidden_size), first_columns(rows, hidden_size));
    for (std::int64_t a = 0; a < here.ids.numel(); ++a) {
      double& drow = rows.data<double>()[a / k * (hidden_size + k) + hidden_size + a % k];
      if (here.ids.data<std::int32_t>()[a] < 0) drow = 0;
      forward += here.weights.data<double>()[a] * drow;
    }
    Gradient dx(x.shape(), DType::f64, {}), dweights(weights.shape(), DType::f64, {});
    dispatch.return_gradient(rows, hidden_size, &dx, &dweights);
    expect_adjoint(*ranks.experts, forward, dot(x, dx.value()) + dot(weights, dweights.value()));
    // Again: adds.
    const Tensor once = dx.value().clone(), once_weights = dweights.value().clone();
    dispatch.return_gradient(rows, hidden_size, &dx, &dweights);
    add_in_place(stream, once, once);
    add_in_place(stream, once_weights, once_weights);
    EXPECT_LE(relative_error(dx.value(), once), 1e-14);
    EXPECT_LE(relative_error(dweights.value(), once_weights), 1e-14);
  }
}

TEST(Dispatch, CombineAndSendGradientAreAdjoint) {
  TestStream stream;
  for (const ExpertLayout& layout : expert_layouts()) {
    SCOPED_TRACE(layout.str());
    const ExpertRanks ranks(layout);
    const std::int64_t tokens = my_tokens();
    const Dispatch dispatch(stream, my_ids(tokens, 2), experts, *ranks.experts, layout.etp);
    const Tensor rows = of_this_rank({dispatch.received(), hidden_size}, "rows"),
                 dy = of_this_rank({tokens, hidden_size}, "dy");
    const double forward = dot(dispatch.combine(rows), dy);
    expect_adjoint(*ranks.experts, forward, dot(rows, dispatch.send_gradient(dy)));
  }
}

TEST(Dispatch, OneCopyForEachRankThatHoldsAnExpert) {
  TestStream stream;
  const std::int64_t k = 4, tokens = my_tokens();
  const Tensor ids = my_ids(tokens, k);
  for (const ExpertLayout& layout : expert_layouts()) {
    SCOPED_TRACE(layout.str());
    const ExpertRanks ranks(layout);
    std::int64_t expected = 0, assignments = 0;
    for (std::int64_t t = 0; t < tokens; ++t) {
      std::set<std::int64_t> holders;
      for (std::int64_t slot = 0; slot < k; ++slot) {
        const std::int64_t e = ids.data<std::int32_t>()[t * k + slot];
        if (e < 0) continue;
        ++assignments;
        for (int part = 0; part < layout.etp; ++part) {
          holders.insert(e / (experts / layout.ep) * layout.etp + part);
        }
      }
      expected += static_cast<std::int64_t>(holders.size());
    }
    const Dispatch dispatch(stream, ids, experts, *ranks.experts, layout.etp);
    EXPECT_EQ(dispatch.sent(), expected);
    const Tensor sums = Tensor::from<std::int64_t>({dispatch.sent(), dispatch.received(), assignments, 0}, {4});
    const Dispatch::Received here =
        dispatch.send(of_this_rank({tokens, hidden_size}, "x"), of_this_rank({tokens, k}, "weights"));
    for (std::int64_t a = 0; a < here.ids.numel(); ++a) {
      const std::int32_t id = here.ids.data<std::int32_t>()[a];
      ASSERT_LT(id, experts / layout.ep);
      sums.data<std::int64_t>()[3] += id >= 0;
    }
    ranks.experts->all_reduce(sums);
    EXPECT_EQ(sums.data<std::int64_t>()[0], sums.data<std::int64_t>()[1]);
    // Every assignment arrives once on each of its expert's etp ranks.
    EXPECT_EQ(sums.data<std::int64_t>()[2] * layout.etp, sums.data<std::int64_t>()[3]);
  }
}

TEST(Dispatch, SendsWhatTheFormulaSays) {
  TestStream stream;
  for (const DType dtype : {DType::f64, DType::f32}) {
    for (const ExpertLayout& layout : expert_layouts()) {
      SCOPED_TRACE(layout.str());
      const ExpertRanks ranks(layout);
      Communicator& group = *ranks.experts;
      if (group.size() == 1) continue;
      const std::int64_t k = 4, tokens = my_tokens(), s = dtype_size(dtype);
      const MoeCase mine = ranks.part_of(MoeCase(experts, hidden_size, width, dtype));
      Routing routing = make_routing(my_ids(tokens, k), experts, dtype);
      Tape tape(stream);
      routing.weights = tape.input(routing.weights.value);
      const Var x = tape.input(random_tensor({tokens, hidden_size}, 1, "x", 1.0, dtype));
      const Dispatch counted(stream, routing.expert_ids, experts, group, layout.etp);
      const std::int64_t n = counted.sent(), r = counted.received();
      EXPECT_EQ(group.traffic().at("all_to_all").bytes, 8 * group.size());

      auto sent = [&, before = group.traffic().at("all_to_all").bytes]() mutable {
        const std::int64_t now = group.traffic().at("all_to_all").bytes;
        return now - std::exchange(before, now);
      };
      const Var y = moe_experts(tape, x, routing, mine.weights(), experts, group, layout.etp);
      EXPECT_EQ(sent(), 8 * group.size() + n * (hidden_size + 2 * k) * s + r * hidden_size * s);
      tape.backward(y, random_tensor(y.shape(), 1, "dy", 1.0, dtype));
      EXPECT_EQ(sent(), n * hidden_size * s + r * (hidden_size + k) * s);
      EXPECT_EQ(group.traffic().size(), 1u);
    }
  }
}

}  // namespace
}  // namespace hysparse::testing
