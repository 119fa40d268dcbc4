#include "core/device.h"

#include <fmt/format.h>

namespace hysparse {

std::string Device::str() const {
  return is_cpu() ? "cpu" : fmt::format("cuda:{}", index);
}

}  // namespace hysparse
