/// The instances of the forward kernel for one head size: a file each, as they take long to compile.
#pragma once

#include "attention/cuda/forward.cuh"

namespace hysparse::cuda {

template <int Columns>
void launch_forward(const Stream& stream, ForwardKind kind, const ForwardArguments& arguments) {
  switch (kind) {
    case ForwardKind::span:
      return launch_forward_kind<Columns, ForwardKind::span>(stream, arguments);
    case ForwardKind::scored:
      return launch_forward_kind<Columns, ForwardKind::scored>(stream, arguments);
    case ForwardKind::blocks:
      return launch_forward_kind<Columns, ForwardKind::blocks>(stream, arguments);
  }
}

}  // namespace hysparse::cuda
