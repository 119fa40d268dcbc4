#include "checkpoint/shard_reader.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>

#include "checkpoint/region.h"
#include "checkpoint/stored_dtype.h"

namespace hysparse {
namespace {

/// Blocks that a thread takes at once: a file is opened for each such part.
constexpr std::int64_t most_blocks = 8;

/// The rows of `part` (inside `piece`) that elements [first, last] of the piece lie in.
Box rows_between(const Box& piece, const Box& part, std::int64_t first, std::int64_t last) {
  if (piece.shape.rank() == 0) return part;
  const std::int64_t row = piece.shape.numel() / piece.shape[0];
  const std::int64_t begin = std::max(part.offset[0], piece.offset[0] + first / row);
  const std::int64_t end = std::min(part.offset[0] + part.shape[0], piece.offset[0] + last / row + 1);
  Box rows = part;
  rows.offset.set(0, begin);
  rows.shape.set(0, std::max<std::int64_t>(end - begin, 0));
  return rows;
}

/// Copies what the bytes [begin, begin + count) of the file, at `block`, hold of it.
void copy_from_block(const PieceCopy& copy, std::int64_t begin, std::int64_t count, const char* block) {
  const StoredPiece& piece = *copy.piece;
  const std::int64_t size = dtype_size(copy.tensor->dtype), out_size = dtype_size(copy.out.dtype());
  const std::int64_t numel = piece.box.shape.numel();
  const std::int64_t first = std::max<std::int64_t>((begin - piece.at) / size, 0);
  const std::int64_t last = std::min((begin + count - piece.at) / size, numel) - 1;
  if (begin + count <= piece.at || last < first) return;
  char* const out = static_cast<char*>(copy.out.raw());
  for_each_run(
      piece.box, copy.box, rows_between(piece.box, copy.part, first, last), [&](const ElementRun& run) {
        const std::int64_t from = std::max(run.source, first), to = std::min(run.source + run.count, last + 1);
        if (from >= to) return;
        convert_elements(stored_dtype(copy.tensor->dtype), block + (piece.at + from * size - begin),
                         copy.out.dtype(), out + (run.target + from - run.source) * out_size, to - from);
      });
}

}  // namespace

ShardReader::ShardReader(std::string step_directory, const Manifest& manifest, int threads)
    : directory_(std::move(step_directory)), manifest_(manifest), threads_(std::max(threads, 1)) {}

std::string ShardReader::path_of(int shard) const {
  return fmt::format("{}/{}", directory_, shard_name(shard));
}

void ShardReader::add_uses(const PieceCopy& copy, std::int64_t number, std::vector<Use>& uses) const {
  const std::int64_t size = dtype_size(copy.tensor->dtype), block = manifest_.block_bytes;
  std::int64_t next = 0;  // the first block not yet listed: runs come in the file's order
  for_each_run(copy.piece->box, copy.box, copy.part, [&](const ElementRun& run) {
    const std::int64_t begin = copy.piece->at + run.source * size, end = begin + run.count * size;
    for (std::int64_t b = std::max(begin / block, next); b * block < end; ++b) {
      uses.push_back({copy.piece->shard, b, number});
      next = b + 1;
    }
  });
}

void ShardReader::read(const std::vector<PieceCopy>& copies) const {
  std::vector<Use> uses;
  for (std::size_t i = 0; i < copies.size(); ++i) add_uses(copies[i], static_cast<std::int64_t>(i), uses);
  run(std::move(uses), copies);
}

void ShardReader::verify_rest(int rank, int ranks) const {
  std::vector<std::vector<bool>> used;
  for (const FileDigest& shard : manifest_.shards) used.emplace_back(shard.blocks.size());
  for (const auto& [name, tensor] : manifest_.tensors) {
    for (const StoredPiece& piece : tensor.pieces) {
      const std::int64_t end = piece.at + piece.box.shape.numel() * dtype_size(tensor.dtype);
      for (std::int64_t b = piece.at / manifest_.block_bytes; b * manifest_.block_bytes < end; ++b)
        used[static_cast<std::size_t>(piece.shard)][static_cast<std::size_t>(b)] = true;
    }
  }
  std::vector<Use> uses;
  for (std::size_t s = static_cast<std::size_t>(rank); s < used.size(); s += static_cast<std::size_t>(ranks)) {
    for (std::size_t b = 0; b < used[s].size(); ++b) {
      if (!used[s][b]) uses.push_back({static_cast<int>(s), static_cast<std::int64_t>(b), -1});
    }
  }
  run(std::move(uses), {});
}

void ShardReader::run(std::vector<Use> uses, const std::vector<PieceCopy>& copies) const {
  std::stable_sort(uses.begin(), uses.end(), [](const Use& a, const Use& b) {
    return a.shard != b.shard ? a.shard < b.shard : a.block < b.block;
  });
  std::vector<std::size_t> parts{0};  // where they begin
  for (std::size_t i = 1; i < uses.size(); ++i) {
    const Use& first = uses[parts.back()];
    if (uses[i].shard != first.shard || uses[i].block >= first.block + most_blocks) parts.push_back(i);
  }
  if (uses.empty()) return;
  parts.push_back(uses.size());
  std::int64_t buffer_bytes = 0;
  for (const Use& use : uses) buffer_bytes = std::max(buffer_bytes, bytes_of(use));

  // The failure of the first part counts: which one that is must not depend on the threads.
  std::atomic<std::size_t> next{0}, failed{parts.size()};
  std::exception_ptr failure;
  std::mutex mutex;
  const auto work = [&] {
    const auto buffer = std::make_unique_for_overwrite<char[]>(static_cast<std::size_t>(buffer_bytes));
    for (std::size_t i = next++; i + 1 < parts.size() && i < failed; i = next++) {
      try {
        run_part(&uses[parts[i]], uses.data() + parts[i + 1], copies, buffer.get());
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (i < failed) {
          failed = i;
          failure = std::current_exception();
        }
      }
    }
  };
  std::vector<std::thread> helpers;
  const std::size_t count = std::min(static_cast<std::size_t>(threads_), parts.size() - 1);
  for (std::size_t i = 1; i < count; ++i) helpers.emplace_back(work);
  work();
  for (std::thread& helper : helpers) helper.join();
  if (failure) std::rethrow_exception(failure);
}

std::int64_t ShardReader::bytes_of(const Use& use) const {
  const std::int64_t left =
      manifest_.shards[static_cast<std::size_t>(use.shard)].bytes - use.block * manifest_.block_bytes;
  return std::min(manifest_.block_bytes, left);
}

void ShardReader::run_part(const Use* begin, const Use* end, const std::vector<PieceCopy>& copies,
                           char* buffer) const {
  const int shard = begin->shard;
  const std::int64_t block_bytes = manifest_.block_bytes;
  try {
    const File file = File::open(path_of(shard));
    file.expect_reads(begin->block * block_bytes, ((end - 1)->block - begin->block + 1) * block_bytes);
    std::int64_t in_buffer = -1;
    for (const Use* use = begin; use < end; ++use) {
      const std::int64_t offset = use->block * block_bytes, count = bytes_of(*use);
      if (use->block != in_buffer) {
        file.read(offset, buffer, count);
        verify_block(shard, use->block, buffer, count);
        in_buffer = use->block;
      }
      if (use->copy >= 0) copy_from_block(copies[static_cast<std::size_t>(use->copy)], offset, count, buffer);
    }
  } catch (const DamagedCheckpoint&) {
    throw;
  } catch (const Error& error) {  // it was shortened or removed since it was looked at
    throw DamagedCheckpoint(error.what());
  } catch (const Failure& failure) {  // a device that cannot read it
    throw DamagedCheckpoint(failure.what());
  }
}

void ShardReader::verify_block(int shard, std::int64_t block, const char* bytes, std::int64_t count) const {
  const std::uint64_t expected =
      manifest_.shards[static_cast<std::size_t>(shard)].blocks[static_cast<std::size_t>(block)];
  const std::uint64_t found = xxh3(bytes, count);
  if (found == expected) return;
  const std::int64_t begin = block * manifest_.block_bytes;
  throw DamagedCheckpoint(fmt::format("{}: damaged: checksum {} of bytes {} to {}, the manifest says {}",
                                      path_of(shard), hex_text(found), begin, begin + count,
                                      hex_text(expected)));
}

std::string ShardReader::problem_of(int shard) const {
  std::vector<Use> all;
  const std::size_t blocks = manifest_.shards[static_cast<std::size_t>(shard)].blocks.size();
  for (std::size_t b = 0; b < blocks; ++b) all.push_back({shard, static_cast<std::int64_t>(b), -1});
  std::string first;
  try {
    run(all, {});
    return "";
  } catch (const DamagedCheckpoint& error) {
    first = error.what();
  }
  std::int64_t damaged = 0;  // once more, to count them
  for (const Use& use : all) {
    try {
      run({use}, {});
    } catch (const DamagedCheckpoint&) {
      ++damaged;
    }
  }
  return damaged > 1 ? fmt::format("{} (and {} more of its {} blocks)", first, damaged - 1, blocks) : first;
}

}  // namespace hysparse
