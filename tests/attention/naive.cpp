#include "tests/attention/naive.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "tests/core/gradient_check.h"

namespace hysparse::testing {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

/// Where documents start, by row of S*T.
class Starts {
 public:
  explicit Starts(const Case& c) : starts_(c.documents()) {}
  std::int64_t operator[](std::int64_t row) const {
    return starts_.defined() ? starts_.data<std::int32_t>()[row] : 0;
  }

 private:
  Tensor starts_;
};

/// Element accessors: q and out [row, h, e], k and v [row, g, e].
struct View {
  double* data;
  std::int64_t heads, head_dim;
  double* at(std::int64_t row, std::int64_t head) const { return data + (row * heads + head) * head_dim; }
};

double dot_product(const double* a, const double* b, std::int64_t n) {
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace

std::ostream& operator<<(std::ostream& os, const Case& c) {
  os << "S" << c.sequences << " T" << c.seq_len << " H" << c.num_heads << " G" << c.num_kv_heads << " E"
     << c.head_dim << " B" << c.block_size << " K" << c.top_blocks << " W" << c.window;
  return c.document > 0 ? os << " documents of " << c.document : os;
}

std::string case_name(const ::testing::TestParamInfo<Case>& parameter) {
  return fmt::format("case{}", parameter.index);
}

const std::vector<Case>& edge_cases() {
  static const std::vector<Case> cases = {
      {2, 70, 8, 2, 32, 16, 2, 32},    // the usual kind, T not a multiple of B
      {1, 1, 1, 1, 1, 1, 1, 1},        // one of everything
      {3, 1, 4, 2, 8, 16, 4, 32},      // one token
      {1, 33, 1, 1, 16, 8, 2, 8},      // H = G = 1
      {2, 40, 3, 3, 4, 8, 2, 5},       // R = 1
      {1, 50, 8, 1, 16, 8, 3, 16},     // R = 8
      {1, 37, 6, 2, 3, 5, 2, 7},       // R = 3, E odd, B = 5
      {1, 29, 20, 1, 5, 4, 3, 6},      // R = 20: tiles of less than one token's heads
      {1, 12, 70, 1, 2, 4, 2, 4},      // R above the lanes of a tile
      {2, 24, 4, 2, 8, 8, 2, 64},      // T < W
      {1, 40, 4, 2, 8, 8, 100, 16},    // K above the number of blocks
      {1, 40, 4, 2, 8, 8, 0, 16},      // K = 0
      {1, 45, 4, 2, 8, 1, 7, 16},      // B = 1
      {1, 45, 4, 2, 8, 64, 1, 16},     // one block
      {1, 300, 2, 1, 8, 100, 2, 130},  // blocks and windows longer than a segment
      {1, 45, 4, 2, 8, 8, 2, 1},       // W = 1
      {1, 150, 4, 2, 128, 16, 3, 32},  // E = 128
      {5, 19, 4, 2, 17, 4, 2, 3},      // E not a multiple of anything
  };
  return cases;
}

const std::vector<Case>& document_cases() {
  static const std::vector<Case> cases = [] {
    std::vector<Case> all;
    for (Case c : edge_cases()) {
      for (const std::int64_t document : {3 * c.block_size, c.seq_len / 3, std::int64_t{1}}) {
        c.document = document;
        if (document > 0 && (document > 1 || c.seq_len < 40)) all.push_back(c);
      }
    }
    return all;
  }();
  return cases;
}

Inputs random_inputs(const Case& c, std::uint64_t seed, double scale) {
  const std::int64_t tokens = c.sequences * c.seq_len;
  return {random_tensor({tokens, c.num_heads * c.head_dim}, seed, "q", scale),
          random_tensor({tokens, c.num_kv_heads * c.head_dim}, seed, "k", scale),
          random_tensor({tokens, c.num_kv_heads * c.head_dim}, seed, "v"),
          random_tensor({tokens, c.num_heads * c.head_dim}, seed, "dout"),
          random_tensor({c.num_heads}, seed, "sinks")};
}

Sees sees_all() {
  return [](std::int64_t, std::int64_t, std::int64_t) { return true; };
}

Sees sees_window(const Case& c) {
  return [c](std::int64_t row, std::int64_t, std::int64_t s) { return row % c.seq_len - s < c.window; };
}

Sees sees_blocks(const BlockLists& lists) {
  return [lists, chosen = to_vectors(lists)](std::int64_t row, std::int64_t group, std::int64_t s) {
    const auto& blocks = chosen[static_cast<std::size_t>(row * lists.counts.dim(1) + group)];
    return std::find(blocks.begin(), blocks.end(), static_cast<std::int32_t>(s / lists.block_size)) !=
           blocks.end();
  };
}

NaiveResult naive_attention(const Case& c, const Inputs& inputs, const Sees& sees, bool sinks) {
  const auto zeros_like = [](const Tensor& t) { return Tensor::zeros(t.shape(), DType::f64); };
  NaiveResult r{zeros_like(inputs.q), zeros_like(inputs.q), zeros_like(inputs.k), zeros_like(inputs.v),
                zeros_like(inputs.sinks)};
  const auto view = [&](const Tensor& t, std::int64_t heads) {
    return View{t.data<double>(), heads, c.head_dim};
  };
  const std::int64_t heads = c.num_heads, groups = c.num_kv_heads, size = c.head_dim;
  const View q = view(inputs.q, heads), k = view(inputs.k, groups), v = view(inputs.v, groups),
             dout = view(inputs.dout, heads);
  const View out = view(r.out, heads), dq = view(r.dq, heads), dk = view(r.dk, groups), dv = view(r.dv, groups);
  const double scale = 1.0 / std::sqrt(static_cast<double>(size));
  const Starts starts(c);
  for (std::int64_t row = 0; row < c.sequences * c.seq_len; ++row) {
    const std::int64_t t = row % c.seq_len, base = row - t;
    for (std::int64_t h = 0; h < heads; ++h) {
      const std::int64_t g = h / (heads / groups);
      const double sink = sinks ? inputs.sinks.data<double>()[h] : -infinity;
      std::vector<double> p(static_cast<std::size_t>(t + 1), -infinity);
      double top = sink;
      for (std::int64_t s = starts[row]; s <= t; ++s) {
        if (!sees(row, g, s)) continue;
        double& logit = p[static_cast<std::size_t>(s)];
        logit = scale * dot_product(q.at(row, h), k.at(base + s, g), size);
        top = std::max(top, logit);
      }
      if (top == -infinity) continue;
      const double sink_weight = std::exp(sink - top);
      double total = sink_weight;
      for (double& x : p) total += (x = std::exp(x - top));
      for (double& x : p) x /= total;
      for (std::int64_t s = 0; s <= t; ++s) {
        for (std::int64_t e = 0; e < size; ++e)
          out.at(row, h)[e] += p[static_cast<std::size_t>(s)] * v.at(base + s, g)[e];
      }
      const double delta = dot_product(dout.at(row, h), out.at(row, h), size);
      for (std::int64_t s = 0; s <= t; ++s) {
        const double weight = p[static_cast<std::size_t>(s)];
        const double ds = weight * (dot_product(dout.at(row, h), v.at(base + s, g), size) - delta) * scale;
        for (std::int64_t e = 0; e < size; ++e) {
          dv.at(base + s, g)[e] += weight * dout.at(row, h)[e];
          dq.at(row, h)[e] += ds * k.at(base + s, g)[e];
          dk.at(base + s, g)[e] += ds * q.at(row, h)[e];
        }
      }
      r.dsinks.data<double>()[h] -= sink_weight / total * delta;
    }
  }
  return r;
}

Tensor naive_scores(const Case& c, const Inputs& inputs) {
  const std::int64_t blocks = (c.seq_len + c.block_size - 1) / c.block_size, groups = c.num_kv_heads;
  const Tensor scores = Tensor::empty({c.sequences * c.seq_len, groups, blocks}, DType::f64);
  std::fill_n(scores.data<double>(), scores.numel(), -infinity);
  const View q{inputs.q.data<double>(), c.num_heads, c.head_dim},
      k{inputs.k.data<double>(), groups, c.head_dim};
  const Starts starts(c);
  for (std::int64_t row = 0; row < c.sequences * c.seq_len; ++row) {
    const std::int64_t t = row % c.seq_len, start = starts[row];
    for (std::int64_t h = 0; h < c.num_heads; ++h) {
      const std::int64_t g = h / (c.num_heads / groups);
      std::vector<double> logits;
      for (std::int64_t s = start; s <= t; ++s) {
        logits.push_back(dot_product(q.at(row, h), k.at(row - t + s, g), c.head_dim) /
                         std::sqrt(static_cast<double>(c.head_dim)));
      }
      const double top = *std::max_element(logits.begin(), logits.end());
      double total = 0;
      for (const double x : logits) total += std::exp(x - top);
      for (std::int64_t s = start; s <= t; ++s) {
        double& score = scores.data<double>()[(row * groups + g) * blocks + s / c.block_size];
        score = std::max(score, logits[static_cast<std::size_t>(s - start)] - top - std::log(total));
      }
    }
  }
  return scores;
}

std::vector<std::vector<std::int32_t>> naive_selection(const Case& c, const Tensor& scores) {
  std::vector<std::vector<std::int32_t>> chosen;
  const std::int64_t blocks = scores.dim(2);
  const Starts starts(c);
  for (std::int64_t list = 0; list < scores.dim(0) * scores.dim(1); ++list) {
    const double* score = scores.data<double>() + list * blocks;
    const std::int64_t row = list / c.num_kv_heads, t = row % c.seq_len,
                       first = starts[row] / c.block_size;  // visible: with a token of [start, t]
    std::vector<std::int32_t> order(static_cast<std::size_t>(t / c.block_size + 1 - first));
    std::iota(order.begin(), order.end(), static_cast<std::int32_t>(first));
    std::stable_sort(order.begin(), order.end(),
                     [&](std::int32_t a, std::int32_t b) { return score[a] > score[b]; });
    if (static_cast<std::int64_t>(order.size()) > c.top_blocks)
      order.resize(static_cast<std::size_t>(c.top_blocks));
    std::sort(order.begin(), order.end());
    chosen.push_back(order);
  }
  return chosen;
}

std::vector<std::vector<std::int32_t>> to_vectors(const BlockLists& lists) {
  std::vector<std::vector<std::int32_t>> chosen;
  const std::int64_t top = lists.blocks.dim(2);
  for (std::int64_t list = 0; list < lists.counts.numel(); ++list) {
    const std::int32_t* blocks = lists.blocks.data<std::int32_t>() + list * top;
    chosen.emplace_back(blocks, blocks + lists.counts.data<std::int32_t>()[list]);
    for (std::int64_t j = lists.counts.data<std::int32_t>()[list]; j < top; ++j) EXPECT_EQ(blocks[j], -1);
  }
  return chosen;
}

}  // namespace hysparse::testing
