#include "attention/cuda/launch_forward.cuh"

namespace hysparse::cuda {
template void launch_forward<32>(const Stream&, ForwardKind, const ForwardArguments&);
}
