// What a checkpoint costs: how long a step is held up by a save, asynchronous against synchronous, and how fast
// a checkpoint is written and read, against dd with fsync on the same disk.
//   bench_checkpoint DIRECTORY [GB] [PIECES] [ROUNDS] [STEP_SECONDS]
// Memory: twice the checkpoint (its tensors, and the copy that an asynchronous save writes from). Files are
// dropped from the page cache before they are read.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

#include "checkpoint/reader.h"
#include "checkpoint/region.h"
#include "checkpoint/writer.h"
#include "core/storage.h"
#include "core/thread_pool.h"

namespace {

using namespace hysparse;
namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

double seconds_of(const std::function<void()>& body) {
  const auto start = Clock::now();
  body();
  return std::chrono::duration<double>(Clock::now() - start).count();
}

void drop_from_cache(const std::string& path) {
  const int file = ::open(path.c_str(), O_RDONLY);
  ::posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
  ::close(file);
}

double dd(const std::string& arguments) {
  return seconds_of([&] {
    if (std::system(fmt::format("dd bs=4M status=none {}", arguments).c_str()) != 0) std::exit(1);
  });
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// Work on one core that touches little memory: a training step, up to its update.
void compute(double seconds) {
  [[maybe_unused]] static volatile double sink = 0;
  double x = 1;
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  while (Clock::now() < end) {
    for (int i = 0; i < 10000; ++i) x = x * 1.0000001 + 1e-9;
  }
  sink = x;
}

struct Bench {
  std::string directory;
  std::int64_t pieces, rows;
  double step_seconds;
  std::unique_ptr<Communicator> world = local_communicator("world");
  std::vector<Tensor> tensors;

  std::int64_t bytes() const { return pieces * rows * 1024 * 4; }

  std::vector<Piece> make() const {
    std::vector<Piece> all;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const Shape shape{rows, 1024};
      all.push_back({fmt::format("optim/exp_avg/model.layers.{}.mlp.w{}", i / 10, i % 10), shape,
                     whole_box(shape), tensors[i]});
    }
    return all;
  }
  /// What the main thread waits for at one save: until save() is back, and for its copy before the update.
  double stall(CheckpointWriter& writer, std::int64_t step, bool async) const {
    CheckpointInfo info;
    info.step = step;
    double waited = seconds_of([&] { writer.save(info, make(), async); });
    if (async) {
      compute(step_seconds);
      waited += seconds_of([&] { writer.await_copy(); });
      for (const Tensor& tensor : tensors) tensor.data<float>()[0] += 1;  // the update
      while (writer.in_flight()) {
        compute(step_seconds);
        waited += seconds_of([&] { writer.poll(); });
      }
    }
    return waited;
  }
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    fmt::print(stderr, "usage: bench_checkpoint DIRECTORY [GB] [PIECES] [ROUNDS] [STEP_SECONDS]\n");
    return 2;
  }
  keep_freed_memory();
  const double gb = argc > 2 ? std::atof(argv[2]) : 1.0;
  const std::int64_t pieces = argc > 3 ? std::atoll(argv[3]) : 400;
  const int rounds = argc > 4 ? std::atoi(argv[4]) : 3;
  const fs::path directory = fs::path(argv[1]) / "bench-checkpoint";
  fs::create_directories(directory);
  Bench bench{directory, pieces, std::max<std::int64_t>(1, static_cast<std::int64_t>(gb * 1e9 / 4096) / pieces),
              argc > 5 ? std::atof(argv[5]) : 1.0};
  for (std::int64_t i = 0; i < pieces; ++i) {
    bench.tensors.push_back(Tensor::zeros({bench.rows, 1024}, DType::f32));
    float* x = bench.tensors.back().data<float>();
    for (std::int64_t j = 0; j < bench.rows * 1024; ++j) x[j] = static_cast<float>(j * 7 + i);
  }
  const auto size = static_cast<double>(bench.bytes()) / 1e9;
  const std::string file = directory / "dd.bin", source = directory / "source.bin";
  {  // the same bytes for dd, from the page cache
    std::FILE* out = std::fopen(source.c_str(), "wb");
    for (const Tensor& t : bench.tensors) std::fwrite(t.raw(), 1, static_cast<std::size_t>(t.bytes()), out);
    std::fclose(out);
  }
  CheckpointWriter writer(directory, 1, *bench.world);
  bench.stall(writer, 0, true);  // makes the memory of the copy
  std::vector<double> dd_write, dd_read, sync, async, load;
  const int threads = default_thread_count(1);
  std::int64_t step = 0;
  for (int round = 0; round < rounds;
       ++round) {  // in turn, so that a disk that changes its speed is fair to all
    // Making room takes time too (a disk that discards blocks, above all): in neither figure.
    const auto make_room = [&] {
      fs::remove(file);
      fs::remove_all(directory / "checkpoints" / step_name(step));
      ::sync();
    };
    make_room();
    dd_write.push_back(dd(fmt::format("if={} of={} conv=fsync", source, file)));
    make_room();
    sync.push_back(bench.stall(writer, ++step, false));
    async.push_back(bench.stall(writer, ++step, true));
    const std::string shard =
        fmt::format("{}/checkpoints/{}/shard-00000.h5", directory.string(), step_name(step));
    drop_from_cache(source);
    dd_read.push_back(dd(fmt::format("if={} of=/dev/null", source)));
    drop_from_cache(shard);
    load.push_back(seconds_of([&] {
      CheckpointReader reader(fs::path(shard).parent_path(), threads);
      std::vector<ReadRequest> requests;
      for (const Piece& piece : bench.make()) requests.push_back({piece.name, piece.box, piece.data});
      reader.read(requests);
    }));
    fmt::print(
        "round {}: dd write {:.2f} s, save {:.2f} s, async stall {:.4f} s, dd read {:.2f} s, load {:.2f} s\n",
        round, dd_write.back(), sync.back(), async.back(), dd_read.back(), load.back());
    std::fflush(stdout);
  }
  fs::remove_all(directory);
  const double save_s = median(sync), stall_s = median(async);
  fmt::print(
      "{:.2f} GB in {} pieces, {} threads, medians of {}\n"
      "dd with fsync  {:.2f} GB/s\nsave           {:.2f} GB/s   {:.2f} of dd\n"
      "dd, cold read  {:.2f} GB/s\nload           {:.2f} GB/s   {:.2f} of dd's read, {:.2f} of dd with fsync\n"
      "a step waits   {:.4f} s for an asynchronous save (steps of {} s), {:.2f} s for a synchronous one: "
      "{:.2f} %\n",
      size, pieces, threads, rounds, size / median(dd_write), size / save_s, median(dd_write) / save_s,
      size / median(dd_read), size / median(load), median(dd_read) / median(load),
      median(dd_write) / median(load), stall_s, bench.step_seconds, save_s, 100 * stall_s / save_s);
  return 0;
}
