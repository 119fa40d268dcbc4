#include "attention/cuda/launch_forward.cuh"

namespace hysparse::cuda {
template void launch_forward<128>(const Stream&, ForwardKind, const ForwardArguments&);
}
