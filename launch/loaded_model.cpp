#include "launch/loaded_model.h"

#include <cstdio>

namespace hysparse {

LoadedModel::LoadedModel(const std::string& path, DType dtype, bool gradients)
    : pool_(default_thread_count(1)), source_(ModelSource::open(path)) {
  for (const std::string& warning : source_->warnings()) fmt::print(stderr, "hysparse: warning: {}\n", warning);
  parameters_ = std::make_unique<ParameterSet>(source_->config(), Mesh(MeshConfig{}, 1), 0, dtype, gradients);
  source_->load(*parameters_);
  model_ = std::make_unique<Model>(source_->config(), *parameters_);
}

void require_one_rank(Runtime& runtime, const char* command) {
  runtime.agree([&] {
    if (runtime.world() == 1) return;
    throw_error("{}: runs on one rank, mpirun started {}; leave mpirun out", command, runtime.world());
  });
}

}  // namespace hysparse
