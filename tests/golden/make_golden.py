"""Makes the golden cases beside this file: random tiny models, with loss and gradients by reference.py in float64.

    python3 tests/golden/make_golden.py [CASE ...]      (Debian: python3-torch python3-numpy)

Each case is a folder with config.json, model.safetensors (float32 weights), tokens.bin (int32), golden.json and
grads.safetensors (float64: d(mean loss)/d(parameter), every parameter but the correction bias, zeros for an expert that
no token reached). Weights are drawn so that norms, gates, sinks, routers and bias matter. Choices of blocks and experts
jump under rounding, so seeds are tried until every choice of the case is clear: its margin, the gap between the last
one chosen and the first one left relative to the former, is above MARGIN, and float32 arithmetic reproduces every
gradient to ROUNDING. Parameters that a variant never reads are not written. A layer that chooses must not see equal
keys in two blocks: without rotary embedding a layer that mixes tokens goes before it.
"""
import json
import os
import struct
import sys

import numpy as np
import torch

import reference

MARGIN = 3e-4  # of choices, relative
ROUNDING = 1e-5  # of the worst gradient when reference.py itself runs in float32, relative by norm
SEEDS = 200
FULL, SPARSE, SLIDING = "full_attention", "sparse_attention", "sliding_attention"

BASE = {
    "architectures": ["HySparseForCausalLM"], "model_type": "hysparse", "torch_dtype": "float32",
    "vocab_size": 32, "hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4,
    "intermediate_size": 6, "rope_theta": 100.0, "partial_rotary_factor": 1.0, "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False, "layer_types": [FULL, SPARSE, SPARSE], "sliding_window": 12,
    "sparse_block_size": 8, "sparse_topk_tokens": 24, "attention_gate": "headwise", "full_attention_gate": "none",
    "attention_sinks": True, "use_qk_norm": True, "share_kv": True, "share_kv_window": False,
    "sparse_window_branch": True, "max_position_embeddings": 128,
}  # fmt: skip
MOE = {
    "moe_intermediate_size": 3, "num_experts": 5, "num_experts_per_tok": 2, "n_shared_experts": 0,
    "first_k_dense_replace": 0, "norm_topk_prob": True, "scoring_func": "sigmoid", "routed_scaling_factor": 1.0,
}  # fmt: skip


# name -> (sequences, T, changes to BASE). "bias" and "idle_expert" steer the drawing and are not written to config.json.
CASES = {
    "full_dense": (2, 40, {"layer_types": [FULL, FULL], "use_qk_norm": False}),
    "full_gate_headwise": (2, 45, {"layer_types": [FULL, FULL], "full_attention_gate": "headwise"}),
    "sliding_only": (3, 41, {"layer_types": [SLIDING, SLIDING], "attention_gate": "elementwise"}),
    "sparse_headwise": (2, 61, {}),
    "sparse_elementwise": (2, 50, {"layer_types": [FULL, SPARSE, FULL], "attention_gate": "elementwise",
                                   "full_attention_gate": "elementwise"}),
    "bare": (3, 44, {"layer_types": [FULL, SPARSE, FULL], "attention_gate": "none", "attention_sinks": False,
                     "use_qk_norm": False}),
    "explicit_mix": (2, 53, {"layer_types": [SLIDING, FULL, SPARSE, SLIDING, SPARSE, FULL, SPARSE]}),
    "many_followers": (2, 66, {"layer_types": [FULL, SPARSE, SPARSE, SPARSE, SPARSE, FULL]}),
    "own_kv": (2, 52, {"share_kv": False}),
    "shared_kv_window": (2, 52, {"share_kv_window": True}),
    "crossed_kv": (2, 52, {"layer_types": [FULL, SPARSE], "share_kv": False, "share_kv_window": True}),
    "no_window_branch": (2, 52, {"sparse_window_branch": False}),
    "own_kv_no_window_branch": (2, 52, {"layer_types": [FULL, SPARSE], "share_kv": False,
                                        "sparse_window_branch": False, "attention_sinks": False}),
    "one_head_odd_sizes": (3, 47, {"num_attention_heads": 1, "num_key_value_heads": 1, "vocab_size": 37,
                                   "sparse_block_size": 5, "sparse_topk_tokens": 12, "sliding_window": 7,
                                   "head_dim": 8, "partial_rotary_factor": 0.5}),
    "many_heads_no_rope": (2, 43, {"layer_types": [SLIDING, FULL, SPARSE], "num_attention_heads": 8,
                                   "hidden_size": 20, "partial_rotary_factor": 0.0}),
    "short_sequence": (3, 11, {"layer_types": [FULL, SPARSE, SLIDING], "sliding_window": 16,
                               "sparse_block_size": 4, "sparse_topk_tokens": 32}),
    "moe_sigmoid_bias": (2, 49, {**MOE, "layer_types": [FULL, SPARSE, FULL], "bias": True,
                                 "first_k_dense_replace": 1, "routed_scaling_factor": 1.5, "idle_expert": 3}),
    "moe_softmax_shared": (2, 49, {**MOE, "scoring_func": "softmax", "n_shared_experts": 2, "norm_topk_prob": False,
                                   "routed_scaling_factor": 2.5, "layer_types": [FULL, SPARSE, FULL]}),
    "moe_softmax_bias": (2, 42, {**MOE, "bias": True, "scoring_func": "softmax", "layer_types": [FULL, SPARSE, FULL],
                                 "num_experts_per_tok": 3, "full_attention_gate": "headwise"}),
    "moe_top1_tied_sparse_last": (2, 55, {**MOE, "num_experts_per_tok": 1, "norm_topk_prob": False, "bias": True,
                                          "tie_word_embeddings": True, "layer_types": [FULL, SPARSE, FULL, SPARSE],
                                          "attention_gate": "elementwise", "n_shared_experts": 1}),
}  # fmt: skip


def parameter_scales(config, bias):
    """name -> (shape, kind of draw). Kinds: linear, norm, logit, embedding, head, bias."""
    c, out = config, {}
    D, E, V = c["hidden_size"], c["head_dim"], c["vocab_size"]
    H, G = c["num_attention_heads"], c["num_key_value_heads"]

    def mlp(prefix, width):
        out[prefix + "gate_proj.weight"] = out[prefix + "up_proj.weight"] = ((width, D), "linear")
        out[prefix + "down_proj.weight"] = ((D, width), "linear")

    def gate(name, kind):
        if kind != "none":
            out[name] = ((H if kind == "headwise" else H * E, D), "linear")

    out["model.embed_tokens.weight"] = ((V, D), "embedding")
    for layer, kind in enumerate(c["layer_types"]):
        p = f"model.layers.{layer}."
        a = p + "self_attn."
        window = kind == SLIDING or (kind == SPARSE and c["sparse_window_branch"])
        own_kv = kind != SPARSE or not c["share_kv"] or (window and not c["share_kv_window"])
        out[p + "input_layernorm.weight"] = out[p + "post_attention_layernorm.weight"] = ((D,), "norm")
        out[a + "q_proj.weight"] = ((H * E, D), "linear")
        out[a + "o_proj.weight"] = ((D, H * E), "linear")
        if own_kv:
            out[a + "k_proj.weight"] = out[a + "v_proj.weight"] = ((G * E, D), "linear")
        if c["use_qk_norm"]:
            out[a + "q_norm.weight"] = ((E,), "norm")
            if own_kv:
                out[a + "k_norm.weight"] = ((E,), "norm")
        if kind == FULL:
            gate(a + "gate_proj.weight", c["full_attention_gate"])
        for branch, exists in (("sparse", kind == SPARSE), ("window", window)):
            if exists:
                gate(f"{a}{branch}_gate_proj.weight", c["attention_gate"])
                if c["attention_sinks"]:
                    out[f"{a}{branch}_sinks"] = ((H,), "logit")
        if "num_experts" in c and layer >= c["first_k_dense_replace"]:
            width = c["moe_intermediate_size"]
            out[p + "mlp.gate.weight"] = ((c["num_experts"], D), "linear")
            if bias:
                out[p + "mlp.gate.e_score_correction_bias"] = ((c["num_experts"],), "bias")
            for expert in range(c["num_experts"]):
                mlp(f"{p}mlp.experts.{expert}.", width)
            if c["n_shared_experts"]:
                mlp(p + "mlp.shared_experts.", c["n_shared_experts"] * width)
        else:
            mlp(p + "mlp.", c["intermediate_size"])
    out["model.norm.weight"] = ((D,), "norm")
    if not c["tie_word_embeddings"]:
        out["lm_head.weight"] = ((V, D), "head")
    return out


def draw(generator, shape, kind):
    """float32 values, as float64: what a reader of the float32 file sees."""
    normal = generator.standard_normal(shape)
    value = {
        "linear": lambda: normal * (1.3 / np.sqrt(shape[-1])),
        "head": lambda: normal * (1.3 / np.sqrt(shape[-1])),
        "embedding": lambda: normal * 0.8,
        "norm": lambda: 1.0 + 0.3 * normal,
        "logit": lambda: normal,
        "bias": lambda: normal * 0.2,
    }[kind]()
    return torch.from_numpy(value.astype(np.float32).astype(np.float64))


def choice_margin(kind, values, config):
    """The smallest relative gap between the last one chosen and the first one left, over all rows that choose."""
    if kind == "blocks":
        top = config["sparse_topk_tokens"] // config["sparse_block_size"]
        _, tokens, blocks = values.shape
        visible = (torch.arange(blocks) * config["sparse_block_size"])[None, :] <= torch.arange(tokens)[:, None]
        values = values.masked_fill(~visible[None], -1.0)
    else:
        top = config["num_experts_per_tok"]
    if values.shape[-1] <= top:
        return float("inf")
    ordered = torch.sort(values, dim=-1, descending=True).values
    last, first_left = ordered[..., top - 1], ordered[..., top]
    gap = (last - first_left) / last.abs()
    if kind == "blocks":
        gap = gap[first_left >= 0]  # the others see no more blocks than they may choose
    return gap.min().item() if gap.numel() else float("inf")


def write_safetensors(path, tensors, dtype, numpy_type):
    header, blobs, offset = {"__metadata__": {"format": "pt"}}, [], 0
    for name in sorted(tensors):
        blob = tensors[name].detach().numpy().astype(numpy_type).tobytes()
        header[name] = {"dtype": dtype, "shape": list(tensors[name].shape), "data_offsets": [offset, offset + len(blob)]}
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def gradients(loss, weights):
    """name -> gradient, zeros where the loss does not depend on the parameter; the correction bias has none."""
    names = [n for n in weights if not n.endswith("e_score_correction_bias")]
    found = torch.autograd.grad(loss, [weights[n] for n in names], allow_unused=True)
    return {n: torch.zeros_like(weights[n]) if g is None else g for n, g in zip(names, found)}


def evaluate(config, weights, tokens, seq_len, observe=None):
    weights = {n: w.detach().requires_grad_(True) for n, w in weights.items()}
    loss, _ = reference.HySparse(config, weights, observe).mean_loss(tokens, seq_len)
    return loss, gradients(loss, weights)


def attempt(config, seq_len, sequences, bias, idle_expert, seed):
    """One draw: weights, tokens, loss, gradients and {"blocks", "experts": smallest margins, "rounding": float32's}."""
    generator = np.random.Generator(np.random.Philox(seed))
    weights = {n: draw(generator, s, kind) for n, (s, kind) in parameter_scales(config, bias).items()}
    if idle_expert is not None:
        for name, value in weights.items():
            if name.endswith("e_score_correction_bias"):
                value[idle_expert] = -4.0
    tokens = torch.from_numpy(generator.integers(0, config["vocab_size"], seq_len * sequences + 1))
    found = {"blocks": float("inf"), "experts": float("inf")}
    sparse = [i for i, kind in enumerate(config["layer_types"]) if kind == SPARSE]
    full = [i for i, kind in enumerate(config["layer_types"]) if kind == FULL]
    read = {max(f for f in full if f < s) for s in sparse}  # full layers whose choice some layer reads

    def observe(kind, layer, values):
        if kind == "experts" or layer in read:
            found[kind] = min(found[kind], choice_margin(kind, values.detach(), config))

    loss, grads = evaluate(config, weights, tokens, seq_len, observe)
    _, rounded = evaluate(config, {n: w.float() for n, w in weights.items()}, tokens, seq_len)
    found["rounding"] = max(((rounded[n] - g).norm() / g.norm()).item() for n, g in grads.items() if g.norm() > 0)
    return weights, tokens, loss, grads, found


def make(root, name):
    sequences, seq_len, changes = CASES[name]
    changes = dict(changes)
    bias, idle_expert = changes.pop("bias", False), changes.pop("idle_expert", None)
    config = {**BASE, **changes}
    config["num_hidden_layers"] = len(config["layer_types"])
    for seed in range(1, SEEDS):
        weights, tokens, loss, grads, found = attempt(config, seq_len, sequences, bias, idle_expert, seed)
        if min(found["blocks"], found["experts"]) > MARGIN and found["rounding"] < ROUNDING:
            break
    else:
        sys.exit(f"{name}: no seed below {SEEDS} gives margins above {MARGIN} and float32 gradients to {ROUNDING}")
    folder = os.path.join(root, name)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(config, f, indent=1, sort_keys=True)
        f.write("\n")
    with open(os.path.join(folder, "golden.json"), "w") as f:
        json.dump({"loss": loss.item(), "seq_len": seq_len, "sequences": sequences, "seed": seed}, f)
        f.write("\n")
    tokens.numpy().astype("<i4").tofile(os.path.join(folder, "tokens.bin"))
    write_safetensors(os.path.join(folder, "model.safetensors"), weights, "F32", "<f4")
    write_safetensors(os.path.join(folder, "grads.safetensors"), grads, "F64", "<f8")
    norm, where = min((g.norm().item(), n) for n, g in grads.items() if g.norm() > 0)
    print(f"{name:26s} seed {seed:3d}  loss {loss.item():.6f}  parameters {sum(w.numel() for w in weights.values()):5d}  "
          f"margin of blocks {found['blocks']:.1e}, experts {found['experts']:.1e}; float32 {found['rounding']:.1e}; "
          f"smallest gradient norm {norm:.1e} ({where})")  # fmt: skip


def main():
    root = os.path.dirname(os.path.abspath(__file__))
    for name in sys.argv[1:] or CASES:
        if name not in CASES:
            sys.exit(f"{name}: no such case; there are {', '.join(CASES)}")
        make(root, name)


if __name__ == "__main__":
    main()
