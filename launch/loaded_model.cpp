#include "launch/loaded_model.h"

#include <cstdio>

#include "launch/run_device.h"

namespace hysparse {

LoadedModel::LoadedModel(const std::string& path, DType dtype, bool gradients, Device device)
    : pool_(default_thread_count(1)), source_(ModelSource::open(path)), stream_(open_device(device, pool_)) {
  for (const std::string& warning : source_->warnings()) fmt::print(stderr, "hysparse: warning: {}\n", warning);
  const auto on = [&](Device where, DType as, bool with_gradients) {
    return std::make_unique<ParameterSet>(source_->config(), Mesh(MeshConfig{}, 1), 0, as, with_gradients,
                                          ModelLayout{}, where);
  };
  parameters_ = on(device, dtype, gradients);
  if (device.is_cpu()) {
    source_->load(*parameters_);
  } else {  // files are read into host memory
    const auto read = on(Device{}, DType::f32, false);
    source_->load(*read);
    for (const ParameterSet::Entry& entry : parameters_->entries()) {
      const Tensor& value = entry.parameter.value;
      value.copy_from(read->get(entry.declaration.name).value.to(value.dtype()));
    }
  }
  model_ = std::make_unique<Model>(source_->config(), *parameters_);
}

void require_one_rank(Runtime& runtime, const char* command) {
  runtime.agree([&] {
    if (runtime.world() == 1) return;
    throw_error("{}: runs on one rank, mpirun started {}; leave mpirun out", command, runtime.world());
  });
}

}  // namespace hysparse
