/// A model with its weights on this process alone: what eval, generate and export work on.
#pragma once

#include <memory>
#include <string>

#include "core/thread_pool.h"
#include "launch/model_source.h"
#include "model/model.h"
#include "parallel/process_group.h"

namespace hysparse {

class LoadedModel {
 public:
  /// Opens `path` (an export, a step directory or a run directory) and loads its weights as `dtype` (bf16 on a
  /// GPU only) to `device`; with gradient buffers when `gradients`. Throws Error. Warnings of the source go to
  /// stderr.
  LoadedModel(const std::string& path, DType dtype, bool gradients, Device device = {});

  const ModelSource& source() const { return *source_; }
  const Model& model() const { return *model_; }
  const ParameterSet& parameters() const { return *parameters_; }
  const Stream& stream() const { return stream_; }

 private:
  ThreadPool pool_;
  std::unique_ptr<ModelSource> source_;
  Stream stream_;
  std::unique_ptr<ParameterSet> parameters_;
  std::unique_ptr<Model> model_;
};

/// Throws Error when there is more than one rank: eval, generate and export run on one. Collective.
void require_one_rank(Runtime& runtime, const char* command);

}  // namespace hysparse
