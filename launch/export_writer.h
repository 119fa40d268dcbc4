/// Writing an export's weights: read in parts, converted, written at once, so that no rank holds more than a
/// part.
#pragma once

#include <string>
#include <vector>

#include "checkpoint/safetensors.h"
#include "export/format.h"
#include "launch/model_source.h"

namespace hysparse {

/// One tensor of an export.
struct ExportTensor {
  SafetensorsTensor stored;                           ///< name, dtype and shape as written
  ExportName ours;                                    ///< the part of a parameter
  const ParameterDeclaration* declaration = nullptr;  ///< null: zeros
};

/// All tensors of an export, in the order of the forward pass. `declarations` outlive the list. The correction
/// bias is f32 whatever the dtype: what it picks by is finer than bf16.
std::vector<ExportTensor> export_tensors(ExportFormat format, const ModelConfig& config,
                                         const std::vector<ParameterDeclaration>& declarations, DType dtype);

/// Writes the shards `rank`, `rank` + `ranks`, ... of an export to `directory`. Throws Error for what cannot be
/// read, Failure for what cannot be written.
void write_export_shards(const std::string& directory, const std::vector<ExportTensor>& tensors,
                         const std::vector<SafetensorsShard>& shards, const ModelSource& source, int rank,
                         int ranks);

}  // namespace hysparse
