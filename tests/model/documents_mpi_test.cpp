// Document masks where a model lies on several ranks: loss and gradients are those of one rank.
#include <cmath>

#include "core/thread_pool.h"
#include "model/parallel_model.h"
#include "tests/core/gradient_check.h"
#include "tests/model/documents_case.h"
#include "tests/parallel/mpi_test.h"

namespace hysparse::testing {
namespace {

constexpr double tolerance = 1e-12;

struct Layout {
  MeshConfig mesh;
  bool sequence_parallel;
};

/// With four ranks on tp two share each group of keys and values.
std::vector<Layout> layouts(int world) {
  std::vector<Layout> all{{{.tp = world}, false}, {{.tp = world}, true}};
  if (world == 2) all.push_back({{.pp = 2}, false});
  if (world == 4) all.push_back({{.tp = 2, .pp = 2}, true});
  return all;
}

/// The elements of a box of a row-major tensor of one or two dims.
Tensor part_of(const Tensor& whole, const Box& box) {
  const bool matrix = box.shape.rank() == 2;
  const std::int64_t rows = matrix ? box.shape[0] : 1, columns = box.shape[box.shape.rank() - 1];
  const std::int64_t width = whole.dim(whole.rank() - 1), row = matrix ? box.offset[0] : 0,
                     column = box.offset[box.shape.rank() - 1];
  const Tensor part = Tensor::empty(box.shape, DType::f64);
  for (std::int64_t r = 0; r < rows; ++r) {
    std::copy_n(whole.data<double>() + (row + r) * width + column, columns, part.data<double>() + r * columns);
  }
  return part;
}

struct Trained {
  double loss;
  std::unique_ptr<ParameterSet> parameters;
};

Trained train(const ModelConfig& c, const ProcessGroups& groups, const ModelLayout& layout, Recompute recompute,
              const std::vector<MicroBatch>& batches) {
  TestStream stream(1);
  Trained t;
  t.parameters = std::make_unique<ParameterSet>(c, groups.mesh, groups.rank, DType::f64, true, layout);
  t.parameters->initialize(7);
  ParallelModel model(c, *t.parameters, groups, stream, {.layout = layout, .recompute = recompute});
  std::int64_t targets = 0;
  for (const MicroBatch& batch : batches) targets += count_targets(batch);
  const StepSums sums = model.train(batches, {.cross_entropy = 1.0 / static_cast<double>(targets)});
  const Tensor loss = Tensor::from<double>({sums.loss / static_cast<double>(targets)}, {1});
  groups.world->all_reduce(loss);
  t.loss = loss.data<double>()[0];
  return t;
}

TEST(ModelDocuments, LayoutsAreOneRank) {
  const int world = runtime().world();
  const std::vector<MicroBatch> batches{packed_batch(2, {1, 37, 3, 50, 2, 35}),
                                        packed_batch(2, {64, 5, 5, 5, 49})};
  for (const LayerType follower : {LayerType::sparse_attention, LayerType::sliding_attention}) {
    const ModelConfig c = documents_config(follower);
    ParameterSet whole(c, Mesh(MeshConfig{}, 1), 0, DType::f64, true);
    whole.initialize(7);
    double expected = 0;
    {
      TestStream stream(1);
      const Model model(c, whole);
      const double targets = static_cast<double>(count_targets(batches[0]) + count_targets(batches[1]));
      for (const MicroBatch& batch : batches) {
        Tape tape(stream);
        const LossResult result = model.loss(tape, batch);
        const std::vector<Tape::Root> roots{{result.loss_sum, 1.0 / targets}};
        tape.backward(roots);
        expected += result.loss.data<double>()[0] / targets;
      }
    }
    for (const Layout& l : layouts(world)) {
      for (const Recompute recompute : {Recompute::none, Recompute::layer}) {
        const Mesh mesh(l.mesh, world);
        SCOPED_TRACE(mesh.str());
        const ProcessGroups groups(runtime(), mesh);
        const ModelLayout layout{partition(c, 128, l.mesh.pp, 1), l.sequence_parallel};
        const Trained got = train(c, groups, layout, recompute, batches);
        EXPECT_LE(std::abs(got.loss - expected), tolerance * expected);
        int compared = 0;
        for (const ParameterSet::Entry& entry : got.parameters->entries()) {
          const ParameterDeclaration& d = entry.declaration;
          if (!d.trainable || !d.placement.partial_axes(mesh).empty()) continue;  // those are summed elsewhere
          EXPECT_LE(relative_error(entry.parameter.grad, part_of(whole.get(d.name).grad, entry.box)), 1e-10)
              << d.name;
          ++compared;
        }
        EXPECT_GE(compared, 10);
      }
    }
  }
}

}  // namespace
}  // namespace hysparse::testing
