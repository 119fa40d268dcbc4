/// Where weights come from: an export directory, a step directory of a checkpoint, or a run directory (its
/// latest step).
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "model/parameter_set.h"

namespace hysparse {

/// A part of a parameter (or of one expert of it), and where it goes.
struct SourceRead {
  const ParameterDeclaration* declaration;  ///< one of the model's
  Box box;                                  ///< global coordinates, not empty
  Tensor out;                               ///< box.shape.numel() elements, f32 or f64, on the host
};

class ModelSource {
 public:
  /// Throws Error, naming the path, when it is none of the three, or when what it holds is not sound.
  static std::unique_ptr<ModelSource> open(const std::string& path);
  virtual ~ModelSource() = default;

  const ModelConfig& config() const { return config_; }
  /// "export DIR" or "checkpoint DIR, step N".
  const std::string& description() const { return description_; }
  /// Tokens the model was trained to see at once; 0 when not known.
  std::int64_t max_position_embeddings() const { return max_position_embeddings_; }
  /// The tokenizer the model was trained with, as make_tokenizer() takes it; "" when not known.
  const std::string& tokenizer() const { return tokenizer_; }

  /// Of opening: a newer step that was passed over, and why.
  const std::vector<std::string>& warnings() const { return warnings_; }

  /// Fills every declared parameter's local box, converted to the set's dtype. Throws Error, naming file and
  /// parameter, for a missing one or another shape.
  virtual void load(ParameterSet& parameters) const = 0;
  /// Parts alone, so that nobody need hold the whole model. Throws as load does.
  virtual void read(std::span<const SourceRead> reads) const = 0;

 protected:
  ModelConfig config_;
  std::string description_;
  std::int64_t max_position_embeddings_ = 0;
  std::string tokenizer_ = "byte";
  std::vector<std::string> warnings_;
};

}  // namespace hysparse
