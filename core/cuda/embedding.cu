#include <bit>

#include <cub/device/device_radix_sort.cuh>

#include "core/cuda/embedding.h"
#include "core/cuda/kernel.cuh"

namespace hysparse::cuda {
namespace {

constexpr int threads = 128;

/// One block per token.
template <class T, int N>
__global__ void forward_kernel(std::int64_t width, std::int64_t held, std::int64_t first,
                               const std::int32_t* ids, const T* table, T* out) {
  const std::int64_t token = blockIdx.x, row = ids[token] - first;
  const bool here = row >= 0 && row < held;
  const T* from = table + row * width;
  T* to = out + token * width;
  for (std::int64_t i = threadIdx.x * N; i < width; i += blockDim.x * N) {
    Vector<T, N> v{};
    if (here) v = *reinterpret_cast<const Vector<T, N>*>(from + i);
    *reinterpret_cast<Vector<T, N>*>(to + i) = v;
  }
}

__global__ void iota_kernel(int n, std::int32_t* out) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) out[i] = i;
}

/// dtable[id] += the rows of dout of the tokens with this id, which lie side by side in `order`, in that order:
/// blockIdx.x is the place of the first of them, and blocks of other places have nothing to do. blockIdx.y
/// takes `threads` * N columns.
template <class T, int N>
__global__ void backward_kernel(std::int64_t tokens, std::int64_t width, std::int64_t held, std::int64_t first,
                                const std::int32_t* sorted_ids, const std::int32_t* order, const T* dout,
                                float* dtable) {
  const std::int64_t begin = blockIdx.x;
  const std::int32_t id = sorted_ids[begin];
  const std::int64_t row = id - first;
  if ((begin > 0 && sorted_ids[begin - 1] == id) || row < 0 || row >= held) return;
  const std::int64_t column = (static_cast<std::int64_t>(blockIdx.y) * threads + threadIdx.x) * N;
  if (column >= width) return;
  std::int64_t end = begin + 1, behind = tokens;  // the first place of another id: in (begin, tokens]
  while (end < behind) {
    const std::int64_t middle = (end + behind) / 2;
    if (sorted_ids[middle] == id) {
      end = middle + 1;
    } else {
      behind = middle;
    }
  }
  float* out = dtable + row * width + column;
  float sum[N], term[N];
  load<N>(out, sum);
  const T* from = dout + column;
#pragma unroll 8
  for (std::int64_t at = begin; at < end; ++at) {
    load<N>(from + order[at] * width, term);
#pragma unroll
    for (int j = 0; j < N; ++j) sum[j] += term[j];
  }
  store<N>(out, sum);
}

/// ids sorted, and the tokens they came from: those of one id in their order.
struct Sorted {
  Tensor ids, tokens;
};
Sorted sort_by_id(const Stream& stream, const Tensor& ids, std::int64_t vocabulary) {
  const int n = static_cast<int>(ids.numel());
  const Device device = ids.device();
  const Tensor places = Tensor::empty(ids.shape(), DType::i32, device);
  launch(stream, {static_cast<unsigned>(ceil_div(n, 256)), 256}, iota_kernel, n,
         device_data<std::int32_t>(places));
  const Sorted sorted{Tensor::empty(ids.shape(), DType::i32, device),
                      Tensor::empty(ids.shape(), DType::i32, device)};
  const auto sort = [&](void* scratch, std::size_t& bytes) {
    HYSPARSE_CUDA_CHECK(cub::DeviceRadixSort::SortPairs(
        scratch, bytes, reinterpret_cast<const std::uint32_t*>(device_data<std::int32_t>(ids)),
        reinterpret_cast<std::uint32_t*>(device_data<std::int32_t>(sorted.ids)),
        device_data<std::int32_t>(places), device_data<std::int32_t>(sorted.tokens), n, 0,
        static_cast<int>(std::bit_width(static_cast<std::uint64_t>(vocabulary))), stream_of(stream)));
  };
  std::size_t bytes = 0;
  sort(nullptr, bytes);
  const Tensor scratch = Tensor::empty({static_cast<std::int64_t>(bytes)}, DType::u8, device);
  sort(scratch.raw(), bytes);
  return sorted;
}

}  // namespace

void embedding_forward(const Stream& stream, const Tensor& ids, const Tensor& table, std::int64_t first,
                       const Tensor& out) {
  const std::int64_t width = table.dim(1), held = table.dim(0);
  if (width == 0) return;
  const auto* id = device_data<std::int32_t>(ids);
  dispatch_compute(table.dtype(), [&]<class T>() {
    const T* from = device_data<T>(table);
    T* to = device_data<T>(out);
    const Launch how{static_cast<unsigned>(ids.numel()), threads};
    constexpr int n = vector_width<T>;
    if (width % n == 0 && aligned_to(16, from, to)) {
      launch(stream, how, forward_kernel<T, n>, width, held, first, id, from, to);
    } else {
      launch(stream, how, forward_kernel<T, 1>, width, held, first, id, from, to);
    }
  });
}

void embedding_backward(const Stream& stream, const Tensor& ids, const Tensor& dout, std::int64_t first,
                        const Tensor& dtable) {
  const std::int64_t width = dtable.dim(1), held = dtable.dim(0), tokens = ids.numel();
  if (tokens == 0 || width == 0) return;
  // Ids are those of the whole vocabulary, of which the table may hold a part: any i32.
  const Sorted sorted = sort_by_id(stream, ids, INT32_MAX);
  const auto *id = device_data<std::int32_t>(sorted.ids), *order = device_data<std::int32_t>(sorted.tokens);
  float* to = device_data<float>(dtable);
  dispatch_compute(dout.dtype(), [&]<class T>() {
    const T* from = device_data<T>(dout);
    const auto run = [&]<int N>(decltype(&backward_kernel<T, N>) kernel) {
      const Launch how{{static_cast<unsigned>(tokens), static_cast<unsigned>(ceil_div(width, threads * N))},
                       threads};
      launch(stream, how, kernel, tokens, width, held, first, id, order, from, to);
    };
    if (width % 4 == 0 && aligned_to(4 * sizeof(T), from) && aligned_to(16, to)) {
      run.template operator()<4>(backward_kernel<T, 4>);
    } else {
      run.template operator()<1>(backward_kernel<T, 1>);
    }
  });
}

}  // namespace hysparse::cuda
