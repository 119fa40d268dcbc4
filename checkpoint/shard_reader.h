/// Reading shards by blocks: only those that hold what is asked for, each once, verified before it is used, by
/// several threads.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "checkpoint/manifest.h"
#include "core/tensor.h"

namespace hysparse {

/// Elements of a piece on their way into `out`, which holds `box` densely.
struct PieceCopy {
  const StoredTensor* tensor;
  const StoredPiece* piece;
  Box part;  ///< which: inside the piece's box and `box`, not empty
  Box box;
  Tensor out;
};

class ShardReader {
 public:
  /// The manifest must outlive this.
  ShardReader(std::string step_directory, const Manifest& manifest, int threads);

  /// No two copies may write the same element. Throws DamagedCheckpoint, naming the shard, for the first block
  /// that is not what the manifest says or cannot be read.
  void read(const std::vector<PieceCopy>& copies) const;
  /// Verifies the blocks of every `ranks`-th shard from `rank` on that hold no piece's elements: between them,
  /// the ranks that read every piece have then verified every block. Throws DamagedCheckpoint.
  void verify_rest(int rank, int ranks) const;
  /// What is wrong with the bytes of a shard: one line, "" when nothing is.
  std::string problem_of(int shard) const;

 private:
  /// A block, and a copy that takes from it; -1: it is only verified.
  struct Use {
    int shard;
    std::int64_t block;
    std::int64_t copy;
  };
  void add_uses(const PieceCopy& copy, std::int64_t number, std::vector<Use>& uses) const;
  void run(std::vector<Use> uses, const std::vector<PieceCopy>& copies) const;
  /// Reads, verifies and copies the blocks of uses [begin, end), all of one shard.
  void run_part(const Use* begin, const Use* end, const std::vector<PieceCopy>& copies, char* buffer) const;
  /// In the block.
  std::int64_t bytes_of(const Use& use) const;
  void verify_block(int shard, std::int64_t block, const char* bytes, std::int64_t count) const;
  std::string path_of(int shard) const;

  std::string directory_;
  const Manifest& manifest_;
  int threads_;
};

}  // namespace hysparse
