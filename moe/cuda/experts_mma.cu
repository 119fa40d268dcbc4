#include "moe/cuda/experts_mma.h"
#include "moe/cuda/gradient_products.cuh"
#include "moe/cuda/rows.cuh"

namespace hysparse::cuda {
namespace {

/// Two blocks share a multiprocessor: one sums while the other begins or ends a tile.
template <class Product>
__global__ void __launch_bounds__(mma_threads, 2) product_kernel(const __grid_constant__ Product product) {
  extern __shared__ __align__(128) unsigned char shared[];
  int* firsts = reinterpret_cast<int*>(shared + pipeline_bytes + source_bytes);
  const auto grid_of = [&](int rows) { return product.grid(rows); };
  const int tiles = make_schedule(product.rows, firsts, grid_of);
  const auto stages = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  for (int t = static_cast<int>(blockIdx.x); t < tiles; t += static_cast<int>(gridDim.x)) {
    const ExpertTile tile = find_tile(product.rows, firsts, t, grid_of);
    WarpSums sums;
    typename Product::Source source = product.source(tile, stages + pipeline_bytes);
    sum_tile<Product::a_fastest, Product::b_fastest>(source, product.steps(tile), stages, sums);
    product.finish(tile, sums);
  }
}

template <class Product>
void run(const Stream& stream, const Product& product) {
  launch(stream,
         {dim3(static_cast<unsigned>(2 * properties().multiprocessors)), dim3(mma_threads),
          pipeline_bytes + source_bytes + schedule_bytes(product.rows.experts)},
         product_kernel<Product>, product);
}

/// dslots = the sum of a row's parts, for the rows there are.
__global__ void sum_parts(RowsOfExperts rows, const float* parts, int count, float* dslots) {
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (row >= rows.offsets[rows.experts]) return;
  float sum = 0;
  for (int i = 0; i < count; ++i) sum += parts[row * count + i];
  dslots[row] = sum;
}

bool fits(std::int64_t hidden_size, std::int64_t width, std::initializer_list<Tensor> rows) {
  if (hidden_size % 8 != 0 || width % 8 != 0) return false;
  for (const Tensor& t : rows) {
    if (t.dtype() != DType::bf16 || t.dim(1) % 8 != 0 || !aligned_to(16, t.raw())) return false;
  }
  return true;
}
bool is_aligned(const cpu::ExpertWeightTensors& weights) {
  return aligned_to(16, weights.gate.raw(), weights.up.raw(), weights.down.raw());
}
bool is_aligned_or_undefined(const Tensor& t) {
  return !t.defined() || aligned_to(16, t.raw());
}

int narrow(std::int64_t n) {
  HYSPARSE_CHECK(n >= 0 && n < (1 << 30) / 16, "{}", n);  // 16 rows of bf16 in bytes are an int
  return static_cast<int>(n);
}

}  // namespace

namespace mma {

bool can_run(const cpu::ExpertsForward& args) {
  return fits(args.out.dim(1), args.gate.dim(1), {args.x, args.gate, args.up, args.out}) &&
         is_aligned(args.weights);
}
bool can_run(const cpu::ExpertsBackward& args) {
  return fits(args.drows.dim(1), args.gate.dim(1),
              {args.dout, args.gate, args.up, args.drows, args.dgate, args.dup, args.hidden}) &&
         is_aligned(args.weights);
}
bool can_run(const cpu::ExpertsWeightGradient& args) {
  return fits(hidden_size_of(args), args.dgate.dim(1),
              {args.x, args.dout, args.dgate, args.dup, args.hidden}) &&
         is_aligned_or_undefined(args.dweights.gate) && is_aligned_or_undefined(args.dweights.up) &&
         is_aligned_or_undefined(args.dweights.down);
}

void experts_forward(const Stream& stream, const cpu::ExpertsForward& args) {
  if (args.out.dim(0) == 0) return;
  const RowsOfExperts rows = rows_on_device(args.rows);
  const int hidden_size = narrow(args.out.dim(1)), width = narrow(args.gate.dim(1));
  const Tensor hidden = Tensor::empty(args.gate.shape(), DType::bf16, args.gate.device());
  run(stream, GateUpProduct{rows, device_data<bf16>(args.x), device_data<bf16>(args.weights.gate),
                            device_data<bf16>(args.weights.up), device_data<float>(args.slot_weights),
                            device_data<bf16>(args.gate), device_data<bf16>(args.up), device_data<bf16>(hidden),
                            hidden_size, width, narrow(args.x.dim(1))});
  run(stream, DownProduct{rows, device_data<bf16>(hidden), device_data<bf16>(args.weights.down),
                          device_data<bf16>(args.out), hidden_size, width});
}

void experts_backward(const Stream& stream, const cpu::ExpertsBackward& args) {
  const std::int64_t m = args.drows.dim(0);
  if (m == 0) return;
  const RowsOfExperts rows = rows_on_device(args.rows);
  const int hidden_size = narrow(args.drows.dim(1)), width = narrow(args.gate.dim(1));
  const int parts = HiddenGradientProduct::parts(width);
  const Tensor dslot_parts = Tensor::empty({m, parts}, DType::f32, args.gate.device());
  run(stream,
      HiddenGradientProduct{rows, device_data<bf16>(args.dout), device_data<bf16>(args.weights.down),
                            device_data<bf16>(args.gate), device_data<bf16>(args.up),
                            device_data<float>(args.slot_weights), device_data<bf16>(args.dgate),
                            device_data<bf16>(args.dup), device_data<bf16>(args.hidden),
                            device_data<float>(dslot_parts), hidden_size, width, narrow(args.dout.dim(1))});
  launch(stream, {dim3(static_cast<unsigned>(ceil_div(m, 256))), dim3(256)}, sum_parts, rows,
         device_data<float>(dslot_parts), parts, device_data<float>(args.dslots));
  run(stream, RowGradientProduct{rows, device_data<bf16>(args.dgate), device_data<bf16>(args.dup),
                                 device_data<bf16>(args.weights.gate), device_data<bf16>(args.weights.up),
                                 device_data<bf16>(args.drows), hidden_size, width});
}

void experts_weight_gradient(const Stream& stream, const cpu::ExpertsWeightGradient& args) {
  if (args.dgate.dim(0) == 0) return;
  const int hidden_size = narrow(hidden_size_of(args)), width = narrow(args.dgate.dim(1));
  const int x_stride = narrow(args.x.dim(1)), dout_stride = narrow(args.dout.dim(1));
  const auto *x = device_data<bf16>(args.x), *dout = device_data<bf16>(args.dout);
  WeightGradientProduct product{rows_on_device(args.rows), {}, 0};
  const auto add = [&](const Tensor& dweight, const WeightGradientProduct::Part& part) {
    if (!dweight.defined()) return;
    product.parts[product.count] = part;
    product.parts[product.count++].c = device_data<float>(dweight);
  };
  add(args.dweights.gate,
      {device_data<bf16>(args.dgate), x, nullptr, width, x_stride, width, hidden_size, false});
  add(args.dweights.up, {device_data<bf16>(args.dup), x, nullptr, width, x_stride, width, hidden_size, false});
  add(args.dweights.down,
      {dout, device_data<bf16>(args.hidden), nullptr, dout_stride, width, hidden_size, width, true});
  if (product.count > 0) run(stream, product);
}

}  // namespace mma
}  // namespace hysparse::cuda
