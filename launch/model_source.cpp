#include "launch/model_source.h"

#include <filesystem>

#include "core/error.h"
#include "launch/checkpoint_source.h"
#include "launch/export_source.h"

namespace hysparse {

namespace fs = std::filesystem;

std::unique_ptr<ModelSource> ModelSource::open(const std::string& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) {
    throw_error("{}: {}; give an export, a step directory or a run directory", path,
                fs::exists(path, error) ? "not a directory" : "no such directory");
  }
  const fs::path directory = path;
  if (fs::exists(directory / "config.json", error)) return open_export_source(path);
  if (fs::exists(directory / "model.safetensors", error) ||
      fs::exists(directory / "model.safetensors.index.json", error)) {
    throw_error("{}: an export without its config.json", path);
  }
  return open_checkpoint_source(path);
}

}  // namespace hysparse
