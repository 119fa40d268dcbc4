/// The parameters as an export names them: every declaration once, stacked experts one by one.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "model/declaration.h"

namespace hysparse {

struct ExportName {
  std::string name;
  Shape shape;
  std::string declaration;   ///< name of the declaration it is (part of)
  std::int64_t expert = -1;  ///< index into dim 0 of a stacked declaration; -1: the whole

  /// This tensor's elements within a value of the whole declaration.
  Tensor of(const Tensor& whole) const;
};

std::vector<ExportName> export_names(std::span<const ParameterDeclaration> declarations);

}  // namespace hysparse
