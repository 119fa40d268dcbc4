#include "launch/schema.h"
#include "launch/schema_fields.h"

namespace hysparse {
namespace {

using namespace schema_fields;  // NOLINT: the table below is written in these words
using Config = RunConfig;

constexpr Bounds positive{.min_exclusive = true};
constexpr Bounds not_negative{};
constexpr Bounds share{.max = 1.0};
constexpr Bounds below_one{.max = 1.0, .max_exclusive = true};
constexpr std::int64_t max_count = std::int64_t{1} << 53;  // steps, seeds: exact as a double too

void run_keys(std::vector<SchemaKey>& t) {
  t.push_back(text("run.dir", HYSPARSE_FIELD(run.dir),
                   "run directory: checkpoints, metrics, logs; training resumes from it"));
  t.push_back(
      integer("run.seed", HYSPARSE_FIELD(run.seed), 0, max_count, "seed of initial values and data order"));
  t.push_back(optional_text(
      "run.init_from", HYSPARSE_FIELD(run.init_from),
      "checkpoint or export whose weights to start from, with fresh optimizer, schedule and data"));
}

void model_keys(std::vector<SchemaKey>& t) {
  const Words<GateKind> gates = {
      {GateKind::none, "none"}, {GateKind::headwise, "headwise"}, {GateKind::elementwise, "elementwise"}};
  t.push_back(choice<Config::Attention>(
      "model.attention", HYSPARSE_FIELD(layers.attention),
      {{Config::Attention::full, "full"},
       {Config::Attention::hybrid_swa, "hybrid_swa"},
       {Config::Attention::hysparse, "hysparse"}},
      "kind of the layers that hybrid_ratio makes followers: full, sliding or sparse"));
  t.push_back(hybrid_ratio_key());
  t.push_back(layer_types_key());
  t.push_back(integer("model.num_layers", HYSPARSE_FIELD(layers.num_layers), 1, 100000, "layers"));
  t.push_back(integer("model.vocab_size", HYSPARSE_FIELD(model.vocab_size), 1, max_size,
                      "a multiple of 64, at least the tokenizer's"));
  t.push_back(integer("model.hidden_size", HYSPARSE_FIELD(model.hidden_size), 1, max_size,
                      "width of the residual stream"));
  t.push_back(integer("model.num_heads", HYSPARSE_FIELD(model.num_heads), 1, max_size,
                      "query heads, a multiple of num_kv_heads"));
  t.push_back(integer("model.num_kv_heads", HYSPARSE_FIELD(model.num_kv_heads), 1, max_size,
                      "key/value heads (groups)"));
  t.push_back(integer("model.head_dim", HYSPARSE_FIELD(model.head_dim), 1, max_size, "size of one head"));
  t.push_back(integer("model.intermediate_size", HYSPARSE_FIELD(model.intermediate_size), 1, max_size,
                      "width of dense feed-forward layers"));
  t.push_back(integer("model.sliding_window", HYSPARSE_FIELD(model.sliding_window), 1, max_size,
                      "tokens a window sees, the query's own included"));
  t.push_back(integer("model.sparse_block_size", HYSPARSE_FIELD(model.sparse_block_size), 1, max_size,
                      "tokens of one block of the oracle"));
  t.push_back(integer("model.sparse_topk_tokens", HYSPARSE_FIELD(model.sparse_topk_tokens), 1, max_size,
                      "tokens of the blocks selected per query and group, a multiple of the block size"));
  t.push_back(choice<GateKind>("model.attention_gate", HYSPARSE_FIELD(model.attention_gate), gates,
                               "output gates of sparse and sliding layers"));
  t.push_back(choice<GateKind>("model.full_attention_gate", HYSPARSE_FIELD(model.full_attention_gate), gates,
                               "output gate of full layers"));
  t.push_back(boolean("model.attention_sinks", HYSPARSE_FIELD(model.attention_sinks),
                      "learnable sink logit per head in sparse and window attention"));
  t.push_back(boolean("model.use_qk_norm", HYSPARSE_FIELD(model.use_qk_norm), "RMSNorm on queries and keys"));
  t.push_back(boolean("model.share_kv", HYSPARSE_FIELD(model.share_kv),
                      "the sparse branch reads the oracle's keys and values (false: the layer's own)"));
  t.push_back(boolean("model.share_kv_window", HYSPARSE_FIELD(model.share_kv_window),
                      "the window branch of sparse layers reads the oracle's keys and values too"));
  t.push_back(boolean("model.sparse_window_branch", HYSPARSE_FIELD(model.sparse_window_branch),
                      "sparse layers have a window branch"));
  t.push_back(
      number("model.rope.theta", HYSPARSE_FIELD(model.rope_theta), positive, "base of the rotary frequencies"));
  t.push_back(number("model.rope.partial", HYSPARSE_FIELD(model.rope_partial), share,
                     "share of head_dim that is rotated"));
  t.push_back(number("model.rms_norm_eps", HYSPARSE_FIELD(model.rms_norm_eps), not_negative,
                     "epsilon of every RMSNorm"));
  t.push_back(
      boolean("model.tie_embeddings", HYSPARSE_FIELD(model.tie_embeddings), "the head is the embedding table"));
  t.push_back(
      number("model.init_std", HYSPARSE_FIELD(model.init_std), not_negative,
             "standard deviation of initial weights; o_proj and down_proj divide it by sqrt(2 layers)"));
}

void moe_keys(std::vector<SchemaKey>& t) {
  t.push_back(integer("model.moe.num_experts", HYSPARSE_FIELD(model.moe->num_experts), 1, 1 << 20,
                      "routed experts of a layer"));
  t.push_back(integer("model.moe.top_k", HYSPARSE_FIELD(model.moe->top_k), 1, 1 << 20, "experts per token"));
  t.push_back(integer("model.moe.intermediate_size", HYSPARSE_FIELD(model.moe->intermediate_size), 1, max_size,
                      "width of one expert"));
  t.push_back(integer("model.moe.shared_experts", HYSPARSE_FIELD(model.moe->shared_experts), 0, 1 << 20,
                      "experts that see every token"));
  t.push_back(integer("model.moe.first_k_dense", HYSPARSE_FIELD(model.moe->first_k_dense), 0, 100000,
                      "layers at the bottom that stay dense"));
  t.push_back(choice<RouterScoring>("model.moe.scoring", HYSPARSE_FIELD(model.moe->scoring),
                                    {{RouterScoring::softmax, "softmax"}, {RouterScoring::sigmoid, "sigmoid"}},
                                    "scores of the router"));
  t.push_back(boolean("model.moe.normalize_top_k", HYSPARSE_FIELD(model.moe->normalize_top_k),
                      "weights of the chosen experts sum to 1"));
  t.push_back(number("model.moe.routed_scaling", HYSPARSE_FIELD(model.moe->routed_scaling), positive,
                     "factor on the weights"));
  t.push_back(number("model.moe.bias_update_rate", HYSPARSE_FIELD(model.moe->bias_update_rate), not_negative,
                     "step of the correction bias that balances the load; 0: no correction bias"));
  t.push_back(number("model.moe.aux_loss", HYSPARSE_FIELD(model.moe->aux_loss), not_negative,
                     "coefficient of the load-balance loss"));
  t.push_back(number("model.moe.z_loss", HYSPARSE_FIELD(model.moe->z_loss), not_negative,
                     "coefficient of the router z-loss"));
  t.push_back(number("model.moe.capacity_factor", HYSPARSE_FIELD(model.moe->capacity_factor), not_negative,
                     "tokens an expert takes per sequence, over the even share; 0: dropless"));
}

void parallel_keys(std::vector<SchemaKey>& t) {
  t.push_back(small_integer("parallel.tp", HYSPARSE_FIELD(parallel.mesh.tp),
                            "tensor-parallel ranks; divides heads, vocabulary and widths"));
  t.push_back(small_integer("parallel.pp", HYSPARSE_FIELD(parallel.mesh.pp),
                            "pipeline stages; at most one per hybrid block"));
  t.push_back(small_integer("parallel.cp", HYSPARSE_FIELD(parallel.mesh.cp),
                            "context-parallel ranks; reserved, 1 for now"));
  t.push_back(small_integer("parallel.ep", HYSPARSE_FIELD(parallel.mesh.ep),
                            "expert-parallel ranks; divides the world and the experts"));
  t.push_back(small_integer("parallel.etp", HYSPARSE_FIELD(parallel.mesh.etp),
                            "tensor-parallel ranks inside an expert; divides moe.intermediate_size"));
  t.push_back(boolean("parallel.sequence_parallel", HYSPARSE_FIELD(parallel.sequence_parallel),
                      "split the tokens over tp outside attention and feed-forward; needs seq_len % tp == 0"));
  t.push_back(choice<Config::PipelineSchedule>(
      "parallel.schedule", HYSPARSE_FIELD(parallel.schedule),
      {{Config::PipelineSchedule::one_f_one_b, "1f1b"}, {Config::PipelineSchedule::interleaved, "interleaved"}},
      "pipeline schedule; interleaved takes several chunks per stage"));
  t.push_back(integer("parallel.virtual_stages", HYSPARSE_FIELD(parallel.virtual_stages), 1, max_size,
                      "model chunks per pipeline stage; above 1 with schedule: interleaved"));
  t.push_back(
      choice<Config::ReduceDType>("parallel.grad_reduce_dtype", HYSPARSE_FIELD(parallel.grad_reduce_dtype),
                                  {{Config::ReduceDType::fp32, "fp32"}, {Config::ReduceDType::bf16, "bf16"}},
                                  "dtype of the gradient reduction (fp64 runs reduce in fp64); fp32 for now"));
  t.push_back(boolean("parallel.share_gpu", HYSPARSE_FIELD(parallel.share_gpu),
                      "tests: several ranks on one GPU; false for now"));
}

void data_keys(std::vector<SchemaKey>& t) {
  t.push_back(sources_key("data.train", HYSPARSE_FIELD(data.train), true,
                          "training tokens (`hysparse prepare` makes them), or a blend of several by weights"));
  t.push_back(sources_key("data.valid", HYSPARSE_FIELD(data.valid), false,
                          "validation tokens, or a blend; null: no evaluation"));
  t.push_back(
      boolean("data.document_mask", HYSPARSE_FIELD(data.document_mask),
              "keep attention inside a document and restart positions there; no loss across documents"));
}

void train_keys(std::vector<SchemaKey>& t) {
  t.push_back(choice<Config::DeviceChoice>("train.device", HYSPARSE_FIELD(train.device),
                                           {{Config::DeviceChoice::automatic, "auto"},
                                            {Config::DeviceChoice::cpu, "cpu"},
                                            {Config::DeviceChoice::cuda, "cuda"}},
                                           "where to compute; auto: a GPU when the build and the machine have "
                                           "one and one rank runs; cuda: one rank for now"));
  t.push_back(choice<Config::DTypeChoice>(
      "train.dtype", HYSPARSE_FIELD(train.dtype),
      {{Config::DTypeChoice::automatic, "auto"},
       {Config::DTypeChoice::fp64, "fp64"},
       {Config::DTypeChoice::fp32, "fp32"},
       {Config::DTypeChoice::bf16, "bf16"}},
      "compute dtype; auto: fp32 on the CPU, bf16 on a GPU; fp64 on the CPU only, for proofs"));
  t.push_back(boolean("train.deterministic", HYSPARSE_FIELD(train.deterministic),
                      "bitwise equal runs on one layout; the CPU always is, for a fixed thread count"));
  t.push_back(boolean("train.balanced_routing", HYSPARSE_FIELD(train.balanced_routing),
                      "benchmarks: force equal expert load"));
  t.push_back(choice<Config::Nonfinite>(
      "train.nonfinite", HYSPARSE_FIELD(train.nonfinite),
      {{Config::Nonfinite::skip, "skip"}, {Config::Nonfinite::stop, "stop"}},
      "on a loss or gradient norm that is not finite: skip the update, or stop the run"));
  t.push_back(number("train.collective_timeout_s", HYSPARSE_FIELD(train.collective_timeout_s), positive,
                     "seconds a collective may wait before the run ends with a message"));
  t.push_back(
      integer("train.seq_len", HYSPARSE_FIELD(train.seq_len), 1, max_size, "tokens of a training window"));
  t.push_back(integer("train.micro_batch_size", HYSPARSE_FIELD(train.micro_batch_size), 1, max_size,
                      "sequences per data-parallel replica and micro-batch"));
  t.push_back(integer("train.global_batch_size", HYSPARSE_FIELD(train.global_batch_size), 1, max_size,
                      "sequences per step over all ranks, a multiple of micro_batch_size * dp"));
  t.push_back(
      integer("train.steps", HYSPARSE_FIELD(train.steps), 1, max_count, "optimizer steps of the whole run"));
  t.push_back(choice<Recompute>(
      "train.recompute", HYSPARSE_FIELD(train.recompute),
      {{Recompute::none, "none"}, {Recompute::selective, "selective"}, {Recompute::layer, "layer"}},
      "what backward computes again instead of keeping: nothing, attention and feed-forward, or whole layers; "
      "the results are the same"));
  t.push_back(integer("train.eval_every", HYSPARSE_FIELD(train.eval_every), 0, max_count,
                      "steps between evaluations; 0: never"));
  t.push_back(integer("train.eval_batches", HYSPARSE_FIELD(train.eval_batches), 1, max_size,
                      "global batches of one evaluation"));
}

void optim_keys(std::vector<SchemaKey>& t) {
  t.push_back(choice<Config::Optimizer>(
      "optim.name", HYSPARSE_FIELD(optim.name),
      {{Config::Optimizer::adamw, "adamw"}, {Config::Optimizer::muon, "muon"}}, "optimizer; adamw for now"));
  t.push_back(number("optim.lr", HYSPARSE_FIELD(optim.lr), not_negative, "peak learning rate"));
  t.push_back(choice<Config::LearningRateSchedule>(
      "optim.schedule", HYSPARSE_FIELD(optim.schedule),
      {{Config::LearningRateSchedule::constant, "constant"},
       {Config::LearningRateSchedule::cosine, "cosine"},
       {Config::LearningRateSchedule::wsd, "wsd"}},
      "learning rate after warm-up: constant, cosine to the end, or stable then decay"));
  t.push_back(integer("optim.warmup_steps", HYSPARSE_FIELD(optim.warmup_steps), 0, max_count,
                      "steps of linear warm-up"));
  t.push_back(integer("optim.decay_steps", HYSPARSE_FIELD(optim.decay_steps), 0, max_count,
                      "steps of the final decay (wsd)"));
  t.push_back(number("optim.min_lr_ratio", HYSPARSE_FIELD(optim.min_lr_ratio), share,
                     "final learning rate over lr (cosine, wsd)"));
  t.push_back(number_list("optim.betas", HYSPARSE_FIELD(optim.betas), 2, below_one,
                          "decay of AdamW's first and second moment"));
  t.push_back(number("optim.eps", HYSPARSE_FIELD(optim.eps), positive, "epsilon of AdamW"));
  t.push_back(number("optim.weight_decay", HYSPARSE_FIELD(optim.weight_decay), not_negative,
                     "decoupled; not on norms, sinks, biases, embeddings"));
  t.push_back(number("optim.clip_grad", HYSPARSE_FIELD(optim.clip_grad), not_negative,
                     "largest global gradient norm; 0: no clipping"));
  t.push_back(
      number("optim.muon.momentum", HYSPARSE_FIELD(optim.muon_momentum), below_one, "momentum of Muon"));
  t.push_back(integer("optim.muon.ns_steps", HYSPARSE_FIELD(optim.muon_ns_steps), 1, 100,
                      "Newton-Schulz steps of Muon"));
  t.push_back(number("optim.muon.lr_scale", HYSPARSE_FIELD(optim.muon_lr_scale), positive,
                     "factor on lr for matrices under Muon; the rest stays AdamW"));
}

void checkpoint_keys(std::vector<SchemaKey>& t) {
  t.push_back(integer("checkpoint.every", HYSPARSE_FIELD(checkpoint.every), 0, max_count,
                      "steps between checkpoints; 0: only after the last step"));
  t.push_back(
      integer("checkpoint.keep", HYSPARSE_FIELD(checkpoint.keep), 1, max_size, "newest checkpoints to keep"));
  t.push_back(boolean("checkpoint.async", HYSPARSE_FIELD(checkpoint.async),
                      "write in the background while training goes on"));
}

}  // namespace

const std::vector<SchemaKey>& schema() {
  static const std::vector<SchemaKey> table = [] {
    std::vector<SchemaKey> t;
    for (const auto add :
         {run_keys, model_keys, moe_keys, parallel_keys, data_keys, train_keys, optim_keys, checkpoint_keys}) {
      add(t);
    }
    return t;
  }();
  return table;
}

}  // namespace hysparse
