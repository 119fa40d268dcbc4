#include "attention/cuda/key_gradients.cuh"
#include "attention/cuda/query_gradients.cuh"

namespace hysparse::cuda {
template void launch_query_gradients<256>(const Stream&, const BackwardArguments&);
template void launch_key_gradients<256>(const Stream&, const BackwardArguments&, const KeyWork&);
}  // namespace hysparse::cuda
