#include "model/export_names.h"

namespace hysparse {

Tensor ExportName::of(const Tensor& whole) const {
  return expert < 0 ? whole : whole.slice(expert, expert + 1).view(shape);
}

std::vector<ExportName> export_names(std::span<const ParameterDeclaration> declarations) {
  std::vector<ExportName> names;
  for (const ParameterDeclaration& d : declarations) {
    if (!d.stacked_experts) {
      names.push_back({d.name, d.shape, d.name, -1});
      continue;
    }
    const Shape one{d.shape[1], d.shape[2]};
    for (std::int64_t e = 0; e < d.shape[0]; ++e) names.push_back({expert_name(d.name, e), one, d.name, e});
  }
  return names;
}

}  // namespace hysparse
