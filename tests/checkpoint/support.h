/// Checkpoints for tests: tensors whose elements are known functions of name, step and position, cut into
/// random pieces.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/reader.h"

namespace hysparse::testing {

struct TestTensor {
  std::string name;
  Shape shape;
  DType dtype;
};

/// Tensors of every rank from 0 to 4, several dtypes, one without elements.
std::vector<TestTensor> test_tensors();

/// The element at flat index `i` of a tensor at a step: a small integer, so exact in every dtype.
double element(const std::string& name, std::int64_t step, std::int64_t i);

/// The elements of a box.
Tensor box_values(const TestTensor& tensor, std::int64_t step, const Box& box);

/// Puts a new file in the place of an old one. (Emptying and rewriting one makes some file systems sync it.)
void replace_file(const std::string& path, const std::string& bytes);

/// A piece of a tensor at a step.
Piece make_piece(const TestTensor& tensor, std::int64_t step, const Box& box);

/// Cuts a box at random into at most `most` boxes that partition it.
std::vector<Box> random_partition(const Box& box, int most, std::mt19937& random);
/// A random box in a tensor; sometimes empty.
Box random_box(const Shape& shape, std::mt19937& random);

/// All tensors of a step, each in one piece.
std::vector<Piece> whole_pieces(std::int64_t step);
CheckpointInfo test_info(std::int64_t step);

/// Elements as doubles, of any dtype.
std::vector<double> values_of(const Tensor& tensor);

/// Reads all of a checkpoint of test_tensors() and compares every element; records test failures.
void expect_checkpoint(CheckpointReader& reader, std::int64_t step);

}  // namespace hysparse::testing
