#include "launch/export_writer.h"

#include <algorithm>

#include "checkpoint/region.h"
#include "core/error.h"

namespace hysparse {
namespace {

/// What is read before it is written: the memory that an export takes.
constexpr std::int64_t bytes_at_once = 64 << 20;

/// Rows of an export's tensor.
struct Part {
  const ExportTensor* tensor;
  Box box;  // of the declaration, global coordinates
  std::int64_t rows;
};

Part part_of(const ExportTensor& t, std::int64_t begin, std::int64_t rows) {
  Box box = whole_box(t.ours.shape);
  box.offset.set(0, begin);
  box.shape.set(0, rows);
  if (t.ours.expert >= 0) {
    Box stacked{{t.ours.expert}, {1}};
    for (int d = 0; d < box.shape.rank(); ++d) {
      stacked.offset.push_back(box.offset[d]);
      stacked.shape.push_back(box.shape[d]);
    }
    box = stacked;
  }
  return {&t, box, rows};
}

class ShardStream {
 public:
  ShardStream(SafetensorsWriter writer, const ModelSource& source)
      : writer_(std::move(writer)), source_(source) {}

  void add(const ExportTensor& t) {
    const std::int64_t rows = t.ours.shape.numel() == 0 ? 0 : t.ours.shape[0];
    if (rows == 0) return;  // complete as it is
    const std::int64_t row_bytes = t.ours.shape.numel() / rows * dtype_size(DType::f32);
    const std::int64_t most = std::max<std::int64_t>(1, bytes_at_once / row_bytes);
    for (std::int64_t begin = 0; begin < rows; begin += most) {
      const Part part = part_of(t, begin, std::min(most, rows - begin));
      const std::int64_t bytes = part.rows * row_bytes;
      if (waiting_bytes_ + bytes > bytes_at_once) flush();
      waiting_.push_back(part);
      waiting_bytes_ += bytes;
    }
  }

  void finish() {
    flush();
    writer_.finish();
  }

 private:
  /// All at once: a block of a checkpoint that holds several of them is read once.
  void flush() {
    std::vector<Tensor> values;
    std::vector<SourceRead> reads;
    for (const Part& part : waiting_) {
      values.push_back(Tensor::zeros(part.box.shape, DType::f32));
      if (part.tensor->declaration != nullptr)
        reads.push_back({part.tensor->declaration, part.box, values.back()});
    }
    source_.read(reads);
    for (std::size_t i = 0; i < waiting_.size(); ++i) writer_.write(waiting_[i].tensor->stored.name, values[i]);
    waiting_.clear();
    waiting_bytes_ = 0;
  }

  SafetensorsWriter writer_;
  const ModelSource& source_;
  std::vector<Part> waiting_;
  std::int64_t waiting_bytes_ = 0;
};

}  // namespace

std::vector<ExportTensor> export_tensors(ExportFormat format, const ModelConfig& config,
                                         const std::vector<ParameterDeclaration>& declarations, DType dtype) {
  std::vector<ExportTensor> tensors;
  const auto add = [&](const ExportName& n, const ParameterDeclaration* declaration) {
    const bool bias = n.name.ends_with(".e_score_correction_bias");
    tensors.push_back(
        {{class_tensor_name(format, n.name), bias ? DType::f32 : dtype, n.shape}, n, declaration});
  };
  for (const ParameterDeclaration& d : declarations) {
    for (const ExportName& n : export_names({&d, 1})) add(n, &d);
  }
  for (const ExportName& n : zero_tensors(format, config)) add(n, nullptr);
  return tensors;
}

void write_export_shards(const std::string& directory, const std::vector<ExportTensor>& tensors,
                         const std::vector<SafetensorsShard>& shards, const ModelSource& source, int rank,
                         int ranks) {
  for (std::size_t s = static_cast<std::size_t>(rank); s < shards.size();
       s += static_cast<std::size_t>(ranks)) {
    std::vector<SafetensorsTensor> stored;
    for (std::size_t i = shards[s].first; i < shards[s].last; ++i) stored.push_back(tensors[i].stored);
    ShardStream stream(SafetensorsWriter::to_file(directory + "/" + shards[s].file, stored), source);
    for (std::size_t i = shards[s].first; i < shards[s].last; ++i) stream.add(tensors[i]);
    stream.finish();
  }
}

}  // namespace hysparse
