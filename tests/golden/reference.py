"""The semantics of the model family in plain PyTorch (1.13 or newer), CPU, float64: slow and exact.

Every rule that two implementations could read differently is decided here, once. It loads an export (config.json and
safetensors) and computes logits and the language-model loss; autograd gives the gradients. Standing alone on purpose:
it shares nothing with the C++ code that it judges.

    python3 tests/golden/reference.py EXPORT_DIR tokens.bin [--seq-len N] [--logits out.npy] [--grads out.npz]

tokens.bin: little-endian int32 token ids. Prints one JSON line: {"loss": nats per token, "tokens": count, ...}.

Shapes: T tokens, D hidden, H query heads, G key/value heads (groups), E head size, B block size, N = ceil(T/B) blocks,
X experts, k active experts. One sequence at a time; no batch axis.
"""
import argparse
import json
import math
import os
import struct

import numpy as np
import torch
import torch.nn.functional as F


# ---------------------------------------------------------------------------------------------------------------- parts
def rms_norm(x, weight, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def rope(x, theta, rotary_dim):
    """x (T, heads, E). Rotates the first rotary_dim features, half-split: feature i pairs with i + rotary_dim/2."""
    if rotary_dim == 0:
        return x
    half = rotary_dim // 2
    frequency = theta ** (-torch.arange(half, dtype=x.dtype) * 2.0 / rotary_dim)
    angle = torch.arange(x.shape[0], dtype=x.dtype)[:, None] * frequency[None, :]
    cos, sin = angle.cos()[:, None, :], angle.sin()[:, None, :]
    a, b, rest = x[..., :half], x[..., half:rotary_dim], x[..., rotary_dim:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)


def softmax_with_sink(logits, sink):
    """logits (..., S) with -inf where masked; sink broadcastable to (..., 1), or None.

    The sink is one more logit that takes probability mass and has no value. A row that sees nothing gives zeros.
    """
    top = logits.max(-1, keepdim=True).values
    top = torch.where(torch.isinf(top), torch.zeros_like(top), top)
    if sink is not None:
        top = torch.maximum(top, sink.expand_as(top))
    weight = torch.exp(logits - top.detach())
    total = weight.sum(-1, keepdim=True)
    if sink is not None:
        total = total + torch.exp(sink - top.detach())
    return weight / torch.where(total == 0, torch.ones_like(total), total)


def masked_attention(q, k, v, mask, sink=None):
    """q (T,H,E), k and v (T,G,E), mask (G,T,T) with True = visible. Returns (T,H,E) and probabilities (H,T,T)."""
    heads, per_group = q.shape[1], q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(per_group, 1), v.repeat_interleave(per_group, 1)
    logits = torch.einsum("the,she->hts", q, k) / math.sqrt(q.shape[2])
    logits = logits.masked_fill(~mask.repeat_interleave(per_group, 0), float("-inf"))
    p = softmax_with_sink(logits, None if sink is None else sink.view(heads, 1, 1))
    return torch.einsum("hts,she->the", p, v), p


def block_scores(probabilities, groups, block):
    """The oracle's scores: probabilities (H,T,T) of the full layer -> (G,T,N), the largest probability that any head of
    the group gives any visible token of the block. Not differentiated."""
    H, T, _ = probabilities.shape
    n = (T + block - 1) // block
    p = F.pad(probabilities.detach(), (0, n * block - T))
    return p.view(groups, H // groups, T, n, block).amax(-1).amax(1)


def select_blocks(scores, block, top):
    """The `top` best blocks among those a query may see (first token <= query). scores (G,T,N) -> bool (G,T,N).

    Ties go to the lower block index. Where no more than `top` blocks are visible, all of them are selected.
    """
    _, T, N = scores.shape
    visible = ((torch.arange(N) * block)[None, :] <= torch.arange(T)[:, None])[None]
    order = torch.sort(scores.masked_fill(~visible, -1.0), dim=-1, descending=True, stable=True).indices[..., :top]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, order, True) & visible


def swiglu(x, gate, up, down):
    return (F.silu(x @ gate.T) * (x @ up.T)) @ down.T


# ---------------------------------------------------------------------------------------------------------------- model
class HySparse:
    """config: the keys of config.json; weights: name -> tensor. `observe(kind, layer, values)`, when set, is given each
    choice's scores: kind "blocks" with scores (G,T,N), kind "experts" with what is sorted (T,X)."""

    def __init__(self, config, weights, observe=None):
        self.c, self.w, self.observe = config, weights, observe

    # -- attention -----------------------------------------------------------------------------------------------------
    def project(self, x, layer):
        """q, k, v after norm and rotary embedding; k and v are None for a sparse layer that reads no keys of its own."""
        c, p = self.c, f"model.layers.{layer}.self_attn."
        T, E, rotary = x.shape[0], c["head_dim"], int(c["head_dim"] * c.get("partial_rotary_factor", 1.0))

        def heads(name):
            return (x @ self.w[p + name].T).view(T, -1, E)

        def norm_and_rotate(y, norm):
            if c.get("use_qk_norm", False):
                y = rms_norm(y, self.w[p + norm], c["rms_norm_eps"])
            return rope(y, c["rope_theta"], rotary)

        q = norm_and_rotate(heads("q_proj.weight"), "q_norm.weight")
        if p + "k_proj.weight" not in self.w:
            return q, None, None
        return q, norm_and_rotate(heads("k_proj.weight"), "k_norm.weight"), heads("v_proj.weight")

    def gated(self, out, x, layer, name):
        """out (T,H,E) times the sigmoid gate: one value a head or one a feature; as it is where the weight is absent."""
        weight = self.w.get(f"model.layers.{layer}.self_attn.{name}.weight")
        if weight is None:
            return out
        return out * torch.sigmoid(x @ weight.T).view(out.shape[0], out.shape[1], -1)

    def attention(self, x, layer, oracle):
        """Returns the layer's output (T,D) and the oracle (k, v, selected blocks) for the layers that follow."""
        c, p = self.c, f"model.layers.{layer}.self_attn."
        T, G, B = x.shape[0], c["num_key_value_heads"], c["sparse_block_size"]
        position = torch.arange(T)
        causal = (position[None, :] <= position[:, None])[None].expand(G, T, T)
        window = causal & (position[:, None] - position[None, :] < c["sliding_window"])[None]
        q, k, v = self.project(x, layer)
        kind = c["layer_types"][layer]
        if kind == "full_attention":
            out, probabilities = masked_attention(q, k, v, causal)
            out = self.gated(out, x, layer, "gate_proj")
            scores = block_scores(probabilities, G, B)
            oracle = (k, v, select_blocks(scores, B, c["sparse_topk_tokens"] // B))
            if self.observe:
                self.observe("blocks", layer, scores)
        elif kind == "sliding_attention":
            out, _ = masked_attention(q, k, v, window, self.w.get(p + "window_sinks"))
            out = self.gated(out, x, layer, "window_gate_proj")
        elif kind == "sparse_attention":
            shared_k, shared_v, blocks = oracle
            far_k, far_v = (shared_k, shared_v) if c.get("share_kv", True) else (k, v)
            tokens = blocks.repeat_interleave(B, -1)[..., :T] & causal
            far, _ = masked_attention(q, far_k, far_v, tokens, self.w.get(p + "sparse_sinks"))
            out = self.gated(far, x, layer, "sparse_gate_proj")
            if c.get("sparse_window_branch", True):
                near_k, near_v = (shared_k, shared_v) if c.get("share_kv_window", False) else (k, v)
                near, _ = masked_attention(q, near_k, near_v, window, self.w.get(p + "window_sinks"))
                out = out + self.gated(near, x, layer, "window_gate_proj")
        else:
            raise ValueError(f"layer {layer}: unknown layer type {kind!r}")
        return out.reshape(T, -1) @ self.w[p + "o_proj.weight"].T, oracle

    # -- mixture of experts --------------------------------------------------------------------------------------------
    def route(self, x, layer):
        """Expert ids (T,k), weights (T,k), scores (T,X). Ties go to the lower expert; the correction bias only picks."""
        c, p = self.c, f"model.layers.{layer}.mlp.gate."
        logits = x @ self.w[p + "weight"].T
        scores = torch.sigmoid(logits) if c.get("scoring_func", "softmax") == "sigmoid" else torch.softmax(logits, -1)
        picked = scores.detach()
        if p + "e_score_correction_bias" in self.w:
            picked = picked + self.w[p + "e_score_correction_bias"].detach()
        if self.observe:
            self.observe("experts", layer, picked)
        ids = torch.sort(picked, dim=-1, descending=True, stable=True).indices[:, : c["num_experts_per_tok"]]
        weight = scores.gather(-1, ids)
        if c.get("norm_topk_prob", True):
            weight = weight / weight.sum(-1, keepdim=True)
        return ids, weight * c.get("routed_scaling_factor", 1.0), scores

    def feed_forward(self, x, layer):
        p = f"model.layers.{layer}.mlp."

        def mlp(x, prefix):
            return swiglu(x, *(self.w[f"{p}{prefix}{name}_proj.weight"] for name in ("gate", "up", "down")))

        if p + "gate.weight" not in self.w:
            return mlp(x, "")
        ids, weight, _ = self.route(x, layer)
        out = torch.zeros_like(x)
        for expert in range(self.c["num_experts"]):
            token, slot = torch.nonzero(ids == expert, as_tuple=True)
            if len(token):
                out = out.index_add(0, token, mlp(x[token], f"experts.{expert}.") * weight[token, slot, None])
        if p + "shared_experts.gate_proj.weight" in self.w:
            out = out + mlp(x, "shared_experts.")
        return out

    def load_balance_loss(self, x, layer):
        """Switch auxiliary loss of one sequence: X * sum_e f_e P_e, f_e the share of the T*k assignments that went to e,
        P_e the mean router probability of e. Training averages it over sequences and layers."""
        ids, _, scores = self.route(x, layer)
        experts = self.c["num_experts"]
        share = torch.bincount(ids.flatten(), minlength=experts).to(x.dtype) / ids.numel()
        return experts * (share * (scores / scores.sum(-1, keepdim=True)).mean(0)).sum()

    # -- whole model ---------------------------------------------------------------------------------------------------
    def logits(self, tokens):
        c, w = self.c, self.w
        x = w["model.embed_tokens.weight"][tokens]
        oracle = None
        for layer in range(c["num_hidden_layers"]):
            p = f"model.layers.{layer}."
            out, oracle = self.attention(rms_norm(x, w[p + "input_layernorm.weight"], c["rms_norm_eps"]), layer, oracle)
            x = x + out
            x = x + self.feed_forward(rms_norm(x, w[p + "post_attention_layernorm.weight"], c["rms_norm_eps"]), layer)
        head = w["model.embed_tokens.weight"] if c.get("tie_word_embeddings") else w["lm_head.weight"]
        return rms_norm(x, w["model.norm.weight"], c["rms_norm_eps"]) @ head.T

    def loss(self, tokens):
        """Mean next-token cross entropy, in nats, over the T-1 predicted tokens of one sequence."""
        return F.cross_entropy(self.logits(tokens[:-1]), tokens[1:])

    def mean_loss(self, tokens, seq_len):
        """Mean loss of the windows of seq_len + 1 tokens at stride seq_len, and how many windows there were."""
        starts = range(0, len(tokens) - seq_len, seq_len)
        return torch.stack([self.loss(tokens[s : s + seq_len + 1]) for s in starts]).mean(), len(starts)


# ---------------------------------------------------------------------------------------------------------------- files
DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32}


def read_safetensors(path):
    """name -> float64 tensor."""
    with open(path, "rb") as f:
        (size,) = struct.unpack("<Q", f.read(8))
        header = json.loads(f.read(size))
        data = f.read()
    tensors = {}
    for name, info in header.items():
        if name == "__metadata__":
            continue
        raw = data[slice(*info["data_offsets"])]
        if info["dtype"] == "BF16":
            array = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            array = np.frombuffer(raw, DTYPES[info["dtype"]])
        tensors[name] = torch.from_numpy(array.astype(np.float64).reshape(info["shape"]))
    return tensors


def load(export_dir):
    with open(os.path.join(export_dir, "config.json")) as f:
        config = json.load(f)
    files = ["model.safetensors"]
    index = os.path.join(export_dir, "model.safetensors.index.json")
    if os.path.exists(index):
        with open(index) as f:
            files = sorted(set(json.load(f)["weight_map"].values()))
    weights = {}
    for name in files:
        weights.update(read_safetensors(os.path.join(export_dir, name)))
    return HySparse(config, weights)


def read_tokens(path):
    return torch.from_numpy(np.fromfile(path, "<i4").astype(np.int64))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("export_dir")
    parser.add_argument("tokens")
    parser.add_argument("--seq-len", type=int)
    parser.add_argument("--logits", help="write the first window's logits here (npy)")
    parser.add_argument("--grads", help="write the gradients here (npz)")
    args = parser.parse_args()
    model, ids = load(args.export_dir), read_tokens(args.tokens)
    seq_len = args.seq_len or len(ids) - 1
    if args.grads:
        for tensor in model.w.values():
            tensor.requires_grad_(True)
    loss, sequences = model.mean_loss(ids, seq_len)
    if args.logits:
        np.save(args.logits, model.logits(ids[:seq_len]).detach().numpy())
    if args.grads:
        loss.backward()
        np.savez(args.grads, **{k: v.grad.numpy() for k, v in model.w.items() if v.grad is not None})
    print(json.dumps({"loss": loss.item(), "tokens": seq_len * sequences, "sequences": sequences}))


if __name__ == "__main__":
    main()
