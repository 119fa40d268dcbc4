#include "model/parallel_model.h"

#include "attention/documents.h"
#include "core/ops/scalar.h"
#include "core/ops/vocabulary.h"

namespace hysparse {

/// The micro-batches under way on this stage.
class ParallelModel::Work final : public PipelineWork {
 public:
  Work(ParallelModel& owner, std::span<const MicroBatch> batches, const Objective* objective)
      : owner_(owner), objective_(objective), backwards_left_(owner.chunks_.size()) {
    for (std::size_t& left : backwards_left_) left = batches.size();
    for (const MicroBatch& batch : batches) take(batch);
  }

  std::vector<Tensor> forward(int chunk, int micro_batch, std::vector<Tensor> input) override {
    const Model& model = *owner_.chunks_[static_cast<std::size_t>(chunk)];
    const MicroBatch& batch = batches_[static_cast<std::size_t>(micro_batch)];
    Flight flight;
    flight.tape = std::make_unique<Tape>(owner_.stream_, TapeOptions{.recording = objective_ != nullptr});
    Boundary in;
    if (!model.is_first()) in.hidden = flight.tape->input(std::move(input.at(0)));
    flight.in = in.hidden.grad;
    const Boundary out = model.forward(*flight.tape, batch, std::move(in), &flight.result);
    flight.out = out.hidden.grad;
    add(flight.result, model.is_last());
    std::vector<Tensor> output;
    if (!model.is_last()) output.push_back(out.hidden.value);
    if (objective_ != nullptr) flights_.emplace(std::pair(chunk, micro_batch), std::move(flight));
    return output;
  }

  std::vector<Tensor> backward(int chunk, int micro_batch, std::vector<Tensor> gradients) override {
    const auto at = flights_.find({chunk, micro_batch});
    HYSPARSE_CHECK(at != flights_.end(), "chunk {}, micro-batch {}", chunk, micro_batch);
    Flight flight = std::move(at->second);
    flights_.erase(at);
    last_backward_ = --backwards_left_[static_cast<std::size_t>(chunk)] == 0;
    if (flight.out) flight.out->accumulate(owner_.stream_, std::move(gradients.at(0)));
    std::vector<Tape::Root> roots;
    if (flight.result.loss_sum.value.defined())
      roots.push_back({flight.result.loss_sum, objective_->cross_entropy});
    for (const Var& v : flight.result.load_balance) roots.push_back({v, objective_->load_balance});
    for (const Var& v : flight.result.z) roots.push_back({v, objective_->z});
    flight.tape->backward(roots);
    if (!flight.in) return {};
    HYSPARSE_CHECK(flight.in->defined(), "chunk {}, micro-batch {}: no gradient", chunk, micro_batch);
    return {flight.in->value()};
  }

  bool last_backward() const { return last_backward_; }
  StepSums take_sums() {
    if (loss_.defined()) sums_.loss = scalar_value(loss_);
    return std::move(sums_);
  }

 private:
  struct Flight {
    std::unique_ptr<Tape> tape;
    std::shared_ptr<Gradient> in, out;  // of the boundaries; null at the ends of the model
    LossResult result;
  };

  /// Checks the ids and document starts, which ops on a GPU do not, and brings them to the stream's device.
  void take(MicroBatch batch) {
    const Device device = owner_.stream_.device;
    const std::int64_t vocabulary = owner_.config_.vocab_size;
    check_tokens(batch.tokens, "model.embed_tokens.weight", vocabulary);
    const char* head = owner_.config_.tie_embeddings ? "model.embed_tokens.weight" : "lm_head.weight";
    const std::int64_t counted = check_targets(batch.targets, head, vocabulary);
    if (owner_.counts_loss()) sums_.targets += counted;
    batch.tokens = batch.tokens.to_device(device);
    batch.targets = batch.targets.to_device(device);
    if (batch.documents.defined()) {
      check_documents(batch.documents, batch.sequences, batch.seq_len);
      batch.documents = batch.documents.to_device(device);
    }
    batches_.push_back(std::move(batch));
  }

  void add(const LossResult& result, bool last_chunk) {
    if (last_chunk && owner_.counts_loss()) {
      if (!loss_.defined()) loss_ = Tensor::zeros({1}, DType::f64, owner_.stream_.device);
      add_in_place(owner_.stream_, loss_, result.loss);
    }
    for (const RoutingLoad& load : result.loads) {
      const auto same = std::find_if(sums_.loads.begin(), sums_.loads.end(),
                                     [&](const RoutingLoad& l) { return l.layer == load.layer; });
      if (same == sums_.loads.end()) {
        sums_.loads.push_back({load.layer, load.expert_counts.clone(), load.dropped.clone()});
        continue;
      }
      add_in_place(owner_.stream_, same->expert_counts, load.expert_counts);
      add_in_place(owner_.stream_, same->dropped, load.dropped);
    }
  }

  ParallelModel& owner_;
  std::vector<MicroBatch> batches_;                // on the stream's device
  const Objective* objective_;                     // null: evaluation
  std::vector<std::size_t> backwards_left_;        // per chunk
  bool last_backward_ = false;                     // the backward under way is its chunk's last
  std::map<std::pair<int, int>, Flight> flights_;  // by chunk and micro-batch
  Tensor loss_;                                    // f64 [1], on the stream's device
  StepSums sums_;
};

ParallelModel::ParallelModel(const ModelConfig& config, const ParameterSet& parameters,
                             const ProcessGroups& groups, const Stream& stream, ParallelModelOptions options)
    : config_(config), parameters_(parameters), groups_(groups), stream_(stream), options_(std::move(options)) {
  const int stages = groups.pp->size(), stage = groups.pp->rank();
  if (options_.layout.chunks.empty()) options_.layout.chunks = {{0, config.num_layers()}};
  const auto chunks = static_cast<int>(options_.layout.chunks.size());
  HYSPARSE_CHECK(chunks % stages == 0, "{} chunks on {} stages", chunks, stages);
  for (int chunk = stage; chunk < chunks; chunk += stages) {
    ModelOptions of_chunk;
    of_chunk.tp = TensorParallel(*groups.tp, options_.layout.sequence_parallel);
    of_chunk.experts = {groups.experts.get(), groups.mesh.size(Axis::etp)};
    of_chunk.recompute = options_.recompute;
    of_chunk.choices = options_.choices;
    of_chunk.chunk = options_.layout.chunks[static_cast<std::size_t>(chunk)];
    of_chunk.before_forward = options_.before_forward;
    of_chunk.after_backward = [this, chunk](std::int64_t layer) {
      if (options_.gradients_complete && work_ != nullptr && work_->last_backward())
        options_.gradients_complete(chunk, layer);
    };
    chunks_.push_back(std::make_unique<Model>(config, parameters, std::move(of_chunk)));
  }
}

ParallelModel::~ParallelModel() = default;

bool ParallelModel::counts_loss() const {
  return groups_.tp->rank() == 0 && chunks_.back()->is_last();
}

StepSums ParallelModel::run(std::span<const MicroBatch> batches, const Objective* objective) {
  HYSPARSE_CHECK(!batches.empty());
  const MemoryScope scope(MemoryPurpose::activations);
  const int stages = groups_.pp->size(), stage = groups_.pp->rank();
  const auto count = static_cast<int>(batches.size()), chunks = static_cast<int>(chunks_.size());
  Schedule schedule = objective == nullptr   ? forward_only(stages, count, chunks)
                      : options_.interleaved ? interleaved(stages, count, chunks)
                                             : one_f_one_b(stages, count);
  const int split = options_.layout.sequence_parallel ? groups_.tp->size() : 1;
  const std::int64_t rows = batches[0].sequences * batches[0].seq_len / split;
  const std::vector<TensorSpec> boundary{{Shape{rows, config_.hidden_size}, parameters_.dtype(), true}};
  Work work(*this, batches, objective);
  work_ = &work;
  run_pipeline(schedule[static_cast<std::size_t>(stage)], stages, work, *groups_.pp, boundary, stream_.device);
  work_ = nullptr;
  return work.take_sums();
}

StepSums ParallelModel::train(std::span<const MicroBatch> batches, const Objective& objective) {
  return run(batches, &objective);
}

StepSums ParallelModel::evaluate(std::span<const MicroBatch> batches) {
  return run(batches, nullptr);
}

}  // namespace hysparse
