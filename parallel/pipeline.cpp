#include "parallel/pipeline.h"

#include <algorithm>
#include <map>
#include <memory>
#include <utility>

#include "core/error.h"

namespace hysparse {
namespace {

using Tensors = std::vector<Tensor>;
using Pendings = std::vector<std::unique_ptr<Pending>>;

/// One stage at work. Transfers that are under way when an exception passes are given up by their Pendings.
class Stage {
 public:
  Stage(const std::vector<Action>& actions, int stages, PipelineWork& work, Communicator& pp,
        const std::vector<TensorSpec>& boundary, Device device)
      : actions_(actions), stages_(stages), work_(work), pp_(pp), device_(device) {
    HYSPARSE_CHECK(pp.size() == stages, "{} stages, group {} of {}", stages, pp.name(), pp.size());
    activations_.specs = boundary;
    for (const TensorSpec& spec : boundary) {
      if (spec.has_gradient) gradients_.specs.push_back(spec);
    }
    for (std::size_t i = 0; i < actions.size(); ++i) {
      chunks_ = std::max(chunks_, actions[i].chunk + 1);
      if (is_receive(actions[i])) receives_.push_back(i);
    }
  }

  void run() {
    for (std::size_t i = 0; i < actions_.size(); ++i) {
      post_receives(i);
      execute(actions_[i]);
      drop_sent();
    }
    for (const auto& send : sends_) send->wait();
    sends_.clear();
    HYSPARSE_CHECK(activations_.idle() && gradients_.idle(), "a tensor was received or made and not used");
  }

 private:
  using Key = std::pair<int, int>;  // chunk, micro-batch

  struct Incoming {
    Tensors tensors;
    Pendings pending;  // empty when they are there
  };
  /// What crosses boundaries in one direction.
  struct Direction {
    std::vector<TensorSpec> specs;
    std::map<Key, Incoming> incoming;
    std::map<Key, Tensors> outgoing;  // made, not sent yet

    bool idle() const { return incoming.empty() && outgoing.empty(); }
  };

  static bool is_receive(const Action& a) {
    return a.kind == ActionKind::receive_activation || a.kind == ActionKind::receive_gradient;
  }
  int global(const Action& a) const { return a.chunk * stages_ + pp_.rank(); }
  bool is_first(const Action& a) const { return global(a) == 0; }
  bool is_last(const Action& a) const { return global(a) + 1 == chunks_ * stages_; }

  /// `boundary` b lies between global chunks b and b + 1.
  int tag(const Direction& direction, int boundary, std::size_t index) const {
    const bool is_gradient = &direction == &gradients_;
    const auto tensors = static_cast<int>(activations_.specs.size());
    return (2 * boundary + (is_gradient ? 1 : 0)) * tensors + static_cast<int>(index);
  }

  /// Those up to the current action, and the next one after it.
  void post_receives(std::size_t current) {
    while (posted_ < receives_.size() && (posted_ == 0 || receives_[posted_ - 1] <= current)) {
      const Action& a = actions_[receives_[posted_++]];
      if (a.kind == ActionKind::receive_activation) {
        receive(a, activations_, global(a) - 1);
      } else {
        receive(a, gradients_, global(a));
      }
    }
  }

  void execute(const Action& a) {
    switch (a.kind) {
      case ActionKind::receive_activation:
      case ActionKind::receive_gradient:
        return;  // posted; forward and backward wait
      case ActionKind::forward:
        return forward(a);
      case ActionKind::backward:
        return backward(a);
      case ActionKind::send_activation:
        return send(a, activations_, global(a));
      case ActionKind::send_gradient:
        return send(a, gradients_, global(a) - 1);
    }
  }

  void forward(const Action& a) {
    Tensors input = is_first(a) ? Tensors{} : take(a, activations_);
    Tensors output = work_.forward(a.chunk, a.micro_batch, std::move(input));
    give(a, activations_, std::move(output), is_last(a), a.chunk + 1);
  }

  void backward(const Action& a) {
    Tensors gradients = is_last(a) ? Tensors{} : take(a, gradients_);
    Tensors result = work_.backward(a.chunk, a.micro_batch, std::move(gradients));
    for (std::size_t i = 0; i < std::min(result.size(), gradients_.specs.size()); ++i) {
      const TensorSpec& spec = gradients_.specs[i];
      if (!result[i].defined()) result[i] = Tensor::zeros(spec.shape, spec.dtype, device_);
    }
    give(a, gradients_, std::move(result), is_first(a), a.chunk - 1);
  }

  /// Waits for what an action reads.
  Tensors take(const Action& a, Direction& direction) {
    const auto found = direction.incoming.find({a.chunk, a.micro_batch});
    HYSPARSE_CHECK(found != direction.incoming.end(), "nothing received for chunk {}, micro-batch {}", a.chunk,
                   a.micro_batch);
    for (const auto& pending : found->second.pending) pending->wait();
    Tensors tensors = std::move(found->second.tensors);
    direction.incoming.erase(found);
    return tensors;
  }

  /// Keeps what an action made until it is sent, or hands it to the next chunk where that is here.
  void give(const Action& a, Direction& direction, Tensors made, bool is_end, int next_chunk) {
    const std::size_t expected = is_end ? 0 : direction.specs.size();
    HYSPARSE_CHECK(made.size() == expected, "chunk {}, micro-batch {}: {} tensors for {}", a.chunk,
                   a.micro_batch, made.size(), expected);
    if (is_end) return;
    for (std::size_t i = 0; i < made.size(); ++i) {
      const TensorSpec& spec = direction.specs[i];
      HYSPARSE_CHECK(made[i].shape() == spec.shape && made[i].dtype() == spec.dtype,
                     "chunk {}, micro-batch {}, tensor {}: {} {} for {} {}", a.chunk, a.micro_batch, i,
                     made[i].shape().str(), dtype_name(made[i].dtype()), spec.shape.str(),
                     dtype_name(spec.dtype));
    }
    if (stages_ == 1) {
      direction.incoming[{next_chunk, a.micro_batch}] = {std::move(made), {}};
    } else {
      direction.outgoing[{a.chunk, a.micro_batch}] = std::move(made);
    }
  }

  void receive(const Action& a, Direction& direction, int boundary) {
    const MemoryScope scope(MemoryPurpose::communication);
    Incoming& in = direction.incoming[{a.chunk, a.micro_batch}];
    for (std::size_t i = 0; i < direction.specs.size(); ++i) {
      in.tensors.push_back(Tensor::empty(direction.specs[i].shape, direction.specs[i].dtype, device_));
      in.pending.push_back(pp_.receive(in.tensors.back(), a.peer, tag(direction, boundary, i)));
    }
  }

  void send(const Action& a, Direction& direction, int boundary) {
    const auto found = direction.outgoing.find({a.chunk, a.micro_batch});
    HYSPARSE_CHECK(found != direction.outgoing.end(), "nothing to send from chunk {}, micro-batch {}", a.chunk,
                   a.micro_batch);
    for (std::size_t i = 0; i < found->second.size(); ++i) {
      sends_.push_back(pp_.send(found->second[i], a.peer, tag(direction, boundary, i)));
    }
    direction.outgoing.erase(found);
  }

  /// Lets go of the tensors that have been sent.
  void drop_sent() {
    std::erase_if(sends_, [](const std::unique_ptr<Pending>& send) {
      if (!send->test()) return false;
      send->wait();
      return true;
    });
  }

  const std::vector<Action>& actions_;
  int stages_;
  PipelineWork& work_;
  Communicator& pp_;
  Device device_;
  int chunks_ = 1;
  std::vector<std::size_t> receives_;  // places in actions_
  std::size_t posted_ = 0;             // of receives_
  Direction activations_, gradients_;
  Pendings sends_;
};

}  // namespace

void run_pipeline(const std::vector<Action>& actions, int stages, PipelineWork& work, Communicator& pp,
                  const std::vector<TensorSpec>& boundary, Device device) {
  Stage(actions, stages, work, pp, boundary, device).run();
}

}  // namespace hysparse
