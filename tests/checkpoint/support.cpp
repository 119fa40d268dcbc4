#include "tests/checkpoint/support.h"

#include <algorithm>

#include <gtest/gtest.h>

#include "checkpoint/region.h"
#include "core/random.h"
#include "tests/core/set_element.h"
#include "tests/data/temporary_directory.h"

namespace hysparse::testing {

std::vector<TestTensor> test_tensors() {
  return {{"model.embed_tokens.weight", {19, 8}, DType::f32},
          {"model.layers.0.mlp.experts.weight", {5, 3, 7}, DType::f32},
          {"model.norm.weight", {13}, DType::bf16},
          {"optim/exp_avg/model.embed_tokens.weight", {19, 8}, DType::f64},
          {"optim/exp_avg/model.layers.0.mlp.experts.weight", {5, 3, 7}, DType::f32},
          {"optim/steps", {}, DType::i64},
          {"state.counts", {2, 3, 4, 5}, DType::i32},
          {"state.flags", {6}, DType::u8},
          {"state.nothing", {0, 4}, DType::f32}};
}

double element(const std::string& name, std::int64_t step, std::int64_t i) {
  const auto mixed = hash_name(name) ^ (static_cast<std::uint64_t>(step) * 0x9e3779b97f4a7c15u) ^
                     (static_cast<std::uint64_t>(i) * 0xc2b2ae3d27d4eb4fu);
  return static_cast<double>((mixed * 0xff51afd7ed558ccdu) >> 57);  // 0 to 127
}

Tensor box_values(const TestTensor& tensor, std::int64_t step, const Box& box) {
  const Tensor values = Tensor::empty(box.shape, tensor.dtype);
  for_each_run(whole_box(tensor.shape), box, box, [&](const ElementRun& run) {
    for (std::int64_t i = 0; i < run.count; ++i)
      set_element(values, run.target + i, element(tensor.name, step, run.source + i));
  });
  return values;
}

void replace_file(const std::string& path, const std::string& bytes) {
  std::filesystem::remove(path);
  write_file(path, bytes);
}

Piece make_piece(const TestTensor& tensor, std::int64_t step, const Box& box) {
  return {tensor.name, tensor.shape, box, box_values(tensor, step, box)};
}

std::vector<Box> random_partition(const Box& box, int most, std::mt19937& random) {
  std::vector<Box> parts{box};
  while (static_cast<int>(parts.size()) < most) {
    const std::size_t which = random() % parts.size();
    if (box.shape.rank() == 0) break;
    const int dim = static_cast<int>(random() % static_cast<unsigned>(box.shape.rank()));
    const std::int64_t size = parts[which].shape[dim];
    if (size < 2) {
      if (random() % 4 == 0) break;
      continue;
    }
    const std::int64_t cut = 1 + static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(size - 1));
    Box rest = parts[which];
    parts[which].shape.set(dim, cut);
    rest.offset.set(dim, rest.offset[dim] + cut);
    rest.shape.set(dim, size - cut);
    parts.push_back(rest);
  }
  std::shuffle(parts.begin(), parts.end(), random);
  return parts;
}

Box random_box(const Shape& shape, std::mt19937& random) {
  Box box = whole_box(shape);
  for (int d = 0; d < shape.rank(); ++d) {
    const auto begin = static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(shape[d] + 1));
    const auto size = static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(shape[d] - begin + 1));
    box.offset.set(d, begin);
    box.shape.set(d, size);
  }
  return box;
}

std::vector<Piece> whole_pieces(std::int64_t step) {
  std::vector<Piece> pieces;
  for (const TestTensor& tensor : test_tensors())
    pieces.push_back(make_piece(tensor, step, whole_box(tensor.shape)));
  return pieces;
}

CheckpointInfo test_info(std::int64_t step) {
  CheckpointInfo info;
  info.step = step;
  info.tokens_seen = 4096 * step;
  info.seed = 0xfedcba9876543210u;
  info.layout = "world 1 = pp 1 x dp 1";
  info.mesh = {{"pp", 1}, {"dp", 1}};
  info.data_state = {{"sample", std::to_string(7 * step)}};
  info.config = "run:\n  seed: 1 # \"quoted\" \xc3\xa9\n";
  info.versions = {{"hysparse", "0.1.0"}};
  return info;
}

std::vector<double> values_of(const Tensor& tensor) {
  std::vector<double> values;
  for (std::int64_t i = 0; i < tensor.numel(); ++i) {
    switch (tensor.dtype()) {
      case DType::i64:
        values.push_back(static_cast<double>(tensor.data<std::int64_t>()[i]));
        break;
      case DType::i32:
        values.push_back(tensor.data<std::int32_t>()[i]);
        break;
      case DType::u8:
        values.push_back(tensor.data<std::uint8_t>()[i]);
        break;
      default:
        return tensor.to(DType::f64).to_vector<double>();
    }
  }
  return values;
}

void expect_checkpoint(CheckpointReader& reader, std::int64_t step) {
  EXPECT_EQ(reader.info().step, step);
  EXPECT_EQ(reader.tensors().size(), test_tensors().size());
  for (const TestTensor& tensor : test_tensors()) {
    const Tensor expected = box_values(tensor, step, whole_box(tensor.shape));
    EXPECT_EQ(values_of(reader.read(tensor.name, tensor.dtype)), values_of(expected)) << tensor.name;
  }
}

}  // namespace hysparse::testing
