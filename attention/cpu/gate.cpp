#include "attention/cpu/gate.h"

#include "attention/cpu/tiles.h"
#include "core/cpu/math.h"

namespace hysparse::cpu {
namespace {

/// Rows of a part at least, and rows whose gates are computed at once.
constexpr std::int64_t chunk_rows = 32;

/// Calls body(begin, end) for pieces of at most chunk_rows rows, on all threads.
template <class Body>
void for_chunks(const Stream& stream, std::int64_t rows, const Body& make_body) {
  stream.pool->parallel_for(rows, chunk_rows, [&](std::int64_t begin, std::int64_t end) {
    auto body = make_body();
    for (std::int64_t row = begin; row < end; row += chunk_rows) body(row, std::min(end, row + chunk_rows));
  });
}

template <class T>
void sigmoids(const T* logits, std::int64_t count, T* out) {
  for (std::int64_t i = 0; i < count; ++i) out[i] = sigmoid(logits[i]);
}

/// out (+)= value, without reading `out` when it is fresh.
template <class T>
void put(T& out, T value, bool add) {
  out = add ? out + value : value;
}

template <class T>
struct Branch {
  explicit Branch(const GateInput& input)
      : x(input.x.defined() ? input.x.data<T>() : nullptr),
        logits(input.logits.defined() ? input.logits.data<T>() : nullptr),
        gates_per_row(input.logits.defined() ? input.logits.dim(1) : 0) {}
  const T *x, *logits;
  std::int64_t gates_per_row;
};

/// y (+)= gates * x, element by element.
template <class T>
void add_product(const T* gates, const T* x, std::int64_t count, bool add, T* y) {
  if (add) {
    for (std::int64_t e = 0; e < count; ++e) y[e] += gates[e] * x[e];
  } else {
    for (std::int64_t e = 0; e < count; ++e) y[e] = gates[e] * x[e];
  }
}

/// y (+)= gate * x for rows [begin, end); gates holds those rows' gates.
template <class T>
void apply(const Branch<T>& branch, const T* gates, std::int64_t heads, std::int64_t width, std::int64_t begin,
           std::int64_t end, const T* x, bool add, T* y) {
  const std::int64_t count = (end - begin) * width, first = begin * width, head_dim = width / heads;
  if (branch.logits == nullptr) {
    scale_row(x + first, count, T(1), add, y + first);
  } else if (branch.gates_per_row == width) {
    add_product(gates, x + first, count, add, y + first);
  } else {
    for (std::int64_t i = 0; i < (end - begin) * heads; ++i) {
      scale_row(x + first + i * head_dim, head_dim, gates[i], add, y + first + i * head_dim);
    }
  }
}

}  // namespace

void gated_sum_forward(const Stream& stream, std::span<const GateInput> branches, std::int64_t num_heads,
                       const Tensor& y) {
  dispatch_float(y.dtype(), [&]<class T>() {
    const std::int64_t width = y.dim(1);
    for_chunks(stream, y.dim(0), [&] {
      return [&, gates = Scratch<T>(chunk_rows * width)](std::int64_t begin, std::int64_t end) {
        bool add = false;
        for (const GateInput& input : branches) {
          const Branch<T> branch(input);
          const std::int64_t per_row = branch.gates_per_row;
          sigmoids<T>(branch.logits + begin * per_row, (end - begin) * per_row, gates);
          apply<T>(branch, gates, num_heads, width, begin, end, branch.x, add, y.data<T>());
          add = true;
        }
      };
    });
  });
}

void gated_sum_backward(const Stream& stream, const GateInput& branch_input, std::int64_t num_heads,
                        const Tensor& dy, const Tensor& dx, bool add_dx, const Tensor& dlogits,
                        bool add_dlogits) {
  dispatch_float(dy.dtype(), [&]<class T>() {
    const std::int64_t width = dy.dim(1), head_dim = width / num_heads;
    const Branch<T> branch(branch_input);
    const T* dout = dy.data<T>();
    for_chunks(stream, dy.dim(0), [&] {
      return [&, gates = Scratch<T>(chunk_rows * width)](std::int64_t begin, std::int64_t end) {
        const std::int64_t per_row = branch.gates_per_row;
        sigmoids<T>(branch.logits + begin * per_row, (end - begin) * per_row, gates);
        apply<T>(branch, gates, num_heads, width, begin, end, dout, add_dx, dx.data<T>());
        if (branch.logits == nullptr) return;
        T* dgate = dlogits.data<T>() + begin * per_row;
        const T *x = branch.x + begin * width, *g = dout + begin * width, *gate = gates;
        if (per_row == width) {
          for (std::int64_t i = 0; i < (end - begin) * width; ++i)
            put(dgate[i], gate[i] * (T(1) - gate[i]) * g[i] * x[i], add_dlogits);
          return;
        }
        for (std::int64_t i = 0; i < (end - begin) * num_heads; ++i) {
          put(dgate[i], gate[i] * (T(1) - gate[i]) * dot(g + i * head_dim, x + i * head_dim, head_dim),
              add_dlogits);
        }
      };
    });
  });
}

}  // namespace hysparse::cpu
