"""Trains the quickstart model in PyTorch eager on the CPU: the anchor that the speed of `hysparse train` is compared with.

    python3 bench/torch_quickstart.py --config CONFIG.yaml --tokens FILE [--threads N] [--steps N] [--warmup N]
    python3 bench/torch_quickstart.py --check tests/golden/moe_sigmoid_bias [...]

A fair anchor: the model of torch_model.py, AdamW, clipping by global norm, the same configuration. CONFIG.yaml is a
resolved configuration (hysparse train ... --print-config); FILE is read as bytes, one token each. Prints one JSON line with
the tokens per second of the steps after the warm-up, and their median.
"""
import argparse
import json
import os
import statistics
import sys
import time

import numpy as np
import torch
from torch import nn

from torch_model import Masks, Model, Moe, export_names


# ------------------------------------------------------------------------------------------------------------- config
def from_yaml(path):
    """A resolved training configuration as the keys of config.json, plus what training needs."""
    import yaml

    with open(path) as f:
        run = yaml.safe_load(f)
    m = run["model"]
    kinds = m.get("layer_types")
    if not kinds:
        period = int(str(m["hybrid_ratio"]).split(":")[1]) + 1
        follower = {"full": "full", "hybrid_swa": "sliding", "hysparse": "sparse"}[m["attention"]]
        last = m["num_layers"] - 1
        kinds = [f"{'full' if i % period == 0 or i == last else follower}_attention" for i in range(m["num_layers"])]
    config = {"layer_types": kinds, "num_hidden_layers": len(kinds), "num_attention_heads": m["num_heads"],
              "num_key_value_heads": m["num_kv_heads"], "rope_theta": m["rope"]["theta"],
              "partial_rotary_factor": m["rope"]["partial"], "tie_word_embeddings": m["tie_embeddings"]}  # fmt: skip
    for key in ("vocab_size", "hidden_size", "head_dim", "intermediate_size", "sliding_window", "sparse_block_size",
                "sparse_topk_tokens", "attention_gate", "full_attention_gate", "attention_sinks", "use_qk_norm", "share_kv",
                "share_kv_window", "sparse_window_branch", "rms_norm_eps", "init_std"):  # fmt: skip
        config[key] = m[key]
    moe = m.get("moe")
    if moe:
        names = {"num_experts": "num_experts", "num_experts_per_tok": "top_k", "moe_intermediate_size": "intermediate_size",
                 "n_shared_experts": "shared_experts", "first_k_dense_replace": "first_k_dense", "scoring_func": "scoring",
                 "norm_topk_prob": "normalize_top_k", "routed_scaling_factor": "routed_scaling",
                 "bias_update_rate": "bias_update_rate"}  # fmt: skip
        config.update({ours: moe[theirs] for ours, theirs in names.items()})
    return config, run["train"], run["optim"]


# --------------------------------------------------------------------------------------------------------------- speed
def train(args):
    config, training, optim = from_yaml(args.config)
    torch.manual_seed(1234)
    seq_len, batch = training["seq_len"], training["global_batch_size"]
    micro = args.micro_batch or batch
    text = np.fromfile(args.tokens, np.uint8)
    model, masks = Model(config), Masks(config, seq_len)
    decay = [p for p in model.parameters() if p.dim() == 2 and p is not model.embedding]
    plain = [p for p in model.parameters() if p.dim() == 1 or p is model.embedding]
    optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": optim["weight_decay"]},
                                   {"params": plain, "weight_decay": 0.0}],
                                  lr=optim["lr"], betas=tuple(optim["betas"]), eps=optim["eps"], foreach=args.foreach)  # fmt: skip
    generator = np.random.default_rng(1)
    speeds = []
    for step in range(args.warmup + args.steps):
        starts = generator.integers(0, len(text) - seq_len - 1, batch)
        ids = torch.from_numpy(np.stack([text[s : s + seq_len + 1] for s in starts]).astype(np.int64))
        began = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for part in ids.split(micro):
            loss = model.loss(part, masks) * (len(part) / batch)
            loss.backward()
            total += loss.item()
        nn.utils.clip_grad_norm_(model.parameters(), optim["clip_grad"])
        optimizer.step()
        for layer in model.layers:
            if isinstance(layer.feed_forward, Moe):
                layer.feed_forward.balance(config["bias_update_rate"])
        speeds.append(batch * seq_len / (time.perf_counter() - began))
        if args.verbose:
            print(f"step {step} loss {total:.4f} tokens/s {speeds[-1]:.0f}", file=sys.stderr)
    timed = speeds[args.warmup :]
    print(json.dumps({"tokens_per_s": statistics.median(timed), "all_tokens_per_s": timed, "loss": total,
                      "threads": args.threads, "steps": args.steps, "micro_batch": micro, "torch": torch.__version__,
                      "parameters": sum(p.numel() for p in model.parameters())}))  # fmt: skip


# --------------------------------------------------------------------------------------------------------------- check
def check(folder):
    """Loss and gradients of a golden case in float64 against the reference's, and the loss in float32."""
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "golden"))
    import reference

    exported = reference.load(folder)
    with open(os.path.join(folder, "golden.json")) as f:
        golden = json.load(f)
    expected = reference.read_safetensors(os.path.join(folder, "grads.safetensors"))
    seq_len, ids = golden["seq_len"], reference.read_tokens(os.path.join(folder, "tokens.bin"))
    ids = torch.stack([ids[s : s + seq_len + 1] for s in range(0, len(ids) - seq_len, seq_len)])
    losses = {}
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        model, masks = Model(exported.c), Masks(exported.c, seq_len)
        with torch.no_grad():
            for tensor, names in export_names(model):
                tensor.copy_(torch.cat([exported.w[name] for name in names]))
            for index, layer in enumerate(model.layers):
                bias = exported.w.get(f"model.layers.{index}.mlp.gate.e_score_correction_bias")
                if bias is not None:
                    layer.feed_forward.bias.copy_(bias)
        loss = model.loss(ids, masks)
        losses[dtype] = abs(loss.item() / golden["loss"] - 1.0)
    loss.backward()
    worst = 0.0
    for tensor, names in export_names(model):
        want = torch.cat([expected.pop(name) for name in names])
        got = torch.zeros_like(want) if tensor.grad is None else tensor.grad
        worst = max(worst, ((got - want).norm() / want.norm().clamp(min=1e-12)).item())
    good = losses[torch.float64] < 1e-12 and losses[torch.float32] < 1e-5 and worst < 1e-10 and not expected
    print(f"{'ok    ' if good else 'FAILED'} {os.path.basename(os.path.normpath(folder)):26s} relative differences: "
          f"loss fp64 {losses[torch.float64]:.1e}, loss fp32 {losses[torch.float32]:.1e}, worst gradient fp64 {worst:.1e}")  # fmt: skip
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config")
    parser.add_argument("--tokens")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--micro-batch", type=int, help="sequences at once (default: the whole global batch)")
    parser.add_argument("--foreach", action="store_true", help="AdamW over lists of tensors")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--check", nargs="+", metavar="CASE", help="compare with golden cases instead of timing")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.check:
        sys.exit(0 if all([check(folder) for folder in args.check]) else 1)
    if not args.config or not args.tokens:
        parser.error("--config and --tokens are needed (or --check)")
    train(args)


if __name__ == "__main__":
    main()
