#include <chrono>
#include <numeric>

#include "launch/bench.h"
#include "launch/run_device.h"

namespace hysparse {
namespace {

using Clock = std::chrono::steady_clock;

/// Every rank starts together; the time is this rank's.
BenchTimes time_collective(Communicator& group, const Stream& stream, const BenchRuns& runs,
                           const std::function<void()>& work) {
  BenchTimes times;
  for (std::int64_t i = 0; i < runs.warmup + runs.counted; ++i) {
    synchronize_device(stream);
    group.barrier();
    const auto start = Clock::now();
    work();
    synchronize_device(stream);
    const double ms = std::chrono::duration<double, std::milli>(Clock::now() - start).count();
    if (i >= runs.warmup) times.ms.push_back(ms);
  }
  return times;
}

std::string size_text(std::int64_t bytes) {
  constexpr std::int64_t mib = 1 << 20, kib = 1 << 10;
  return bytes >= mib ? fmt::format("{} MiB", bytes / mib) : fmt::format("{} KiB", bytes / kib);
}

}  // namespace

BenchResult bench_comm(Runtime& runtime, const RunConfig& config, const Stream& stream, const BenchRuns& runs) {
  const int world = runtime.world();
  if (world == 1) throw_error("bench comm: one rank has nobody to talk to; start it under mpirun -np N");
  // The group of all ranks that takes tensors of the device: dp, when nothing else splits the ranks.
  const ProcessGroups groups(runtime, Mesh(MeshConfig{}, world), stream.device);
  Communicator& group = *groups.dp_cp;
  BenchResult result;
  result.title = fmt::format("{} ranks, {}, {}", world, dtype_name(config.dtype()),
                             stream.device.is_cpu() ? "MPI" : "NCCL");
  const double n = world;
  constexpr std::int64_t least = 64 << 10, most = 64 << 20, factor = 8;
  for (std::int64_t bytes = least; bytes <= most; bytes *= factor) {
    const std::int64_t unit = world * (Storage::alignment / dtype_size(config.dtype()));
    const std::int64_t count = std::max(bytes / dtype_size(config.dtype()) / unit, std::int64_t{1}) * unit;
    const Tensor whole = Tensor::zeros({count}, config.dtype(), stream.device);
    const Tensor part = Tensor::zeros({count / world}, config.dtype(), stream.device);
    const Tensor other = Tensor::zeros({count}, config.dtype(), stream.device);
    const std::vector<std::int64_t> rows(static_cast<std::size_t>(world), count / world);
    const auto size = static_cast<double>(whole.bytes());
    const auto add = [&](const char* name, double bus, const std::function<void()>& work) {
      result.rows.push_back({fmt::format("{} {}", name, size_text(bytes)),
                             time_collective(group, stream, runs, work), 0, bus * size});
    };
    add("all_reduce", 2 * (n - 1) / n, [&] { group.all_reduce(whole); });
    add("reduce_scatter", (n - 1) / n, [&] { group.reduce_scatter(whole, part); });
    add("all_gather", (n - 1) / n, [&] { group.all_gather(part, whole); });
    add("all_to_all", (n - 1) / n, [&] { group.all_to_all(whole, rows, other, rows); });
  }
  return result;
}

}  // namespace hysparse
