/// The Python files of a hysparse export: the model class for transformers (export/python/).
#pragma once

#include <array>
#include <string_view>

namespace hysparse {

struct PythonFile {
  std::string_view name;
  std::string_view text;
};

/// configuration_hysparse.py and modeling_hysparse.py.
const std::array<PythonFile, 2>& python_files();

}  // namespace hysparse
