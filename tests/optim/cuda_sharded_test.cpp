// The sharded optimizer with everything on the GPU against the one on the CPU, under mpirun; the ranks share
// GPU 0.
#include "parallel/cuda/device_communicator.h"
#include "tests/core/gpu_test.h"
#include "tests/optim/sharded_case.h"

namespace hysparse {
namespace {

using testing::gpu;
using testing::gpu_error;
using testing::runtime;
using namespace sharded_case;

/// One of each kind for a number of ranks.
std::vector<MeshConfig> mesh_configs(int world) {
  if (world == 2) return {{}, {.tp = 2}, {.pp = 2}, {.ep = 2}, {.tp = 2, .etp = 2}};
  return {{.tp = 2}, {.tp = 4},          {.tp = 2, .pp = 2},
          {.ep = 4}, {.pp = 2, .ep = 2}, {.tp = 2, .ep = 2, .etp = 2}};
}

TEST(CudaShardedOptimizer, OverlappedStepsAreThoseOfTheCpu) {
  (void)gpu();
  share_gpu_between_ranks(runtime().rank());
  for (const MeshConfig& sizes : mesh_configs(runtime().world())) {
    const Mesh mesh(sizes, runtime().world());
    Rank cpu(mesh, DType::f32, 1, Buckets::by_parameter);
    const ProcessGroups groups(runtime(), mesh, gpu().device);
    const auto buffers = make_buffers(Buckets::by_parameter, mesh, DType::f32, gpu().device);
    for (std::size_t i = 0; i < buffers.size(); ++i) buffers[i]->values().copy_from(cpu.buffers[i]->values());
    ShardedOptimizer optimizer(gpu(), config, groups, pointers(buffers));
    for (int step = 1; step <= steps; ++step) {
      cpu.fill_gradients(step);
      for (std::size_t i = buffers.size(); i-- > 0;) {
        buffers[i]->gradients().copy_from(cpu.buffers[i]->gradients());
        if (i % 3 != 1) optimizer.start_reduce(i);  // some are left to reduce_gradients
        optimizer.progress();
      }
      const double expected = cpu.optimizer.step(rate(step), max_norm);
      optimizer.reduce_gradients();
      const double norm = optimizer.global_norm();
      constexpr double tolerance = 1e-5;  // f32, sums of 24 terms in another order, four steps
      EXPECT_NEAR(norm, expected, tolerance * expected) << mesh.str();
      optimizer.apply(rate(step), clip_scale(norm, max_norm));
      optimizer.start_gather();
      optimizer.wait_gathered(2);
      optimizer.wait_gathered();
      for (std::size_t i = 0; i < buffers.size(); ++i) {
        if (buffers[i]->entries().empty()) continue;
        EXPECT_LE(gpu_error(buffers[i]->values(), cpu.buffers[i]->values()), tolerance)
            << mesh.str() << " " << buffers[i]->entries()[0].declared.name << " step " << step;
      }
    }
    if (::testing::Test::HasFailure()) return;
  }
}

}  // namespace
}  // namespace hysparse
