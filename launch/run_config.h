/// The whole configuration of a training run as plain values: what the YAML file (docs/config.md) says after
/// base files, overrides and defaults. The values here are the defaults. Modules never see this struct: the
/// trainer fills theirs.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "model/config.h"
#include "model/layout.h"
#include "parallel/mesh.h"

namespace hysparse {

struct RunConfig {
  struct Run {
    std::string dir;  ///< checkpoints, metrics, logs; training resumes from it
    std::int64_t seed = 1234;
    std::optional<std::string> init_from;  ///< weights of a checkpoint or export, everything else fresh
  };

  /// Where model.layer_types came from.
  enum class Attention { full, hybrid_swa, hysparse };
  struct Layers {
    Attention attention = Attention::hysparse;
    std::int64_t followers = 3;  ///< of hybrid_ratio "1:followers"
    std::int64_t num_layers = 9;
    bool listed = false;  ///< layer_types was given; attention and followers are unused
  };

  enum class PipelineSchedule { one_f_one_b, interleaved };
  enum class ReduceDType { fp32, bf16 };
  struct Parallel {
    MeshConfig mesh;
    bool sequence_parallel = false;
    PipelineSchedule schedule = PipelineSchedule::one_f_one_b;
    std::int64_t virtual_stages = 1;
    ReduceDType grad_reduce_dtype = ReduceDType::fp32;
    bool share_gpu = false;
  };

  struct DataSource {
    std::string path;
    double weight = 1.0;
  };
  struct Data {
    std::vector<DataSource> train;  ///< several: a blend
    std::vector<DataSource> valid;  ///< none: no evaluation
    bool document_mask = false;
  };

  enum class DeviceChoice { automatic, cpu, cuda };        ///< never automatic after loading
  enum class DTypeChoice { automatic, fp64, fp32, bf16 };  ///< never automatic after loading
  enum class Nonfinite { skip, stop };
  using Recompute = hysparse::Recompute;
  struct Train {
    DeviceChoice device = DeviceChoice::automatic;
    DTypeChoice dtype = DTypeChoice::automatic;
    bool deterministic = false;
    bool balanced_routing = false;
    Nonfinite nonfinite = Nonfinite::stop;
    double collective_timeout_s = 600;
    std::int64_t seq_len = 256;
    std::int64_t micro_batch_size = 2;    ///< sequences per data-parallel replica and micro-batch
    std::int64_t global_batch_size = 16;  ///< sequences per step over all ranks
    std::int64_t steps = 300;
    Recompute recompute = Recompute::none;
    std::int64_t eval_every = 50;  ///< steps; 0: never
    std::int64_t eval_batches = 8;
  };

  enum class Optimizer { adamw, muon };
  enum class LearningRateSchedule { constant, cosine, wsd };
  struct Optim {
    Optimizer name = Optimizer::adamw;
    double lr = 3.0e-3;
    LearningRateSchedule schedule = LearningRateSchedule::wsd;
    std::int64_t warmup_steps = 20;
    std::int64_t decay_steps = 60;
    double min_lr_ratio = 0.1;
    std::vector<double> betas = {0.9, 0.95};  ///< two
    double eps = 1.0e-8;
    double weight_decay = 0.1;
    double clip_grad = 1.0;  ///< 0: no clipping
    double muon_momentum = 0.95;
    std::int64_t muon_ns_steps = 5;
    double muon_lr_scale = 1.0;
  };

  struct Checkpoint {
    std::int64_t every = 100;  ///< steps; 0: only after the last
    std::int64_t keep = 3;
    bool async = true;
  };

  Run run;
  ModelConfig model;  ///< complete: layer_types expanded, moe.has_correction_bias and moe.balanced_routing set
  Layers layers;
  Parallel parallel;
  Data data;
  Train train;
  Optim optim;
  Checkpoint checkpoint;

  /// Key path -> "file:line" or "command line", of the keys that were given: for messages.
  std::map<std::string, std::string> origins;

  /// f64, f32 or bf16, of train.dtype.
  DType dtype() const;
  /// Ranks along dp: world / (tp * cp * pp).
  std::int64_t data_parallel(int world) const;
  /// Micro-batches of one step on one rank: global_batch_size / (micro_batch_size * dp).
  std::int64_t micro_batches(int world) const;
};

}  // namespace hysparse
