"""The quickstart model in PyTorch eager on the CPU: the anchor that the speed of `hysparse train` is compared with.

A fair one: float32, whole batches, grouped attention by batched matmul, additive masks and softmax, experts by one gather
per expert and one index_add, weights of an expert's gate and up projection in one matrix, AdamW, clipping by global norm.
The architecture is tests/golden/reference.py's; --check shows that both give one loss and one set of gradients.

    python3 bench/torch_quickstart.py --config CONFIG.yaml --tokens FILE [--threads N] [--steps N] [--warmup N]
    python3 bench/torch_quickstart.py --check tests/golden/moe_sigmoid_bias [...]

CONFIG.yaml is a resolved configuration (hysparse train ... --print-config); FILE is read as bytes, one token each. Prints
one JSON line with the median tokens per second of the steps after the warm-up.

Dimensions: S sequences, T tokens, D hidden, H heads, G groups, R = H/G, E head size, N blocks, X experts.
"""
import argparse
import json
import math
import os
import statistics
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

NEGATIVE = float("-inf")


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


# --------------------------------------------------------------------------------------------------------------- parts
def additive(visible):
    return torch.zeros(visible.shape).masked_fill_(~visible, NEGATIVE)


class Masks:
    """What depends on the sequence length alone: additive masks, visible blocks, rotary angles."""

    def __init__(self, config, seq_len):
        position = torch.arange(seq_len)
        distance = position[:, None] - position[None, :]
        self.causal = additive(distance >= 0)
        self.window = additive((distance >= 0) & (distance < config["sliding_window"]))
        self.block = config["sparse_block_size"]
        self.blocks = (seq_len + self.block - 1) // self.block
        self.hidden_blocks = (torch.arange(self.blocks) * self.block)[None, :] > position[:, None]
        self.rotary = int(config["head_dim"] * config["partial_rotary_factor"])
        frequency = config["rope_theta"] ** (-torch.arange(self.rotary // 2) * 2.0 / max(self.rotary, 1))
        angle = position[:, None] * frequency[None, :]
        self.cos, self.sin = torch.cat([angle.cos()] * 2, -1), torch.cat([angle.sin()] * 2, -1)


def rms_norm(x, weight, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def rotate(x_SHTE, masks):
    if masks.rotary == 0:
        return x_SHTE
    x, rest = x_SHTE[..., : masks.rotary], x_SHTE[..., masks.rotary :]
    a, b = x.chunk(2, -1)
    x = x * masks.cos + torch.cat([-b, a], -1) * masks.sin
    return torch.cat([x, rest], -1) if rest.shape[-1] else x


def attention(q_SHTE, k_SGTE, v_SGTE, mask, sink_H=None):
    """mask: additive, [T,T] or [S,G,T,T]. Returns [S,H,T,E] and the probabilities [S,G,R,T,T]."""
    S, H, T, E = q_SHTE.shape
    G = k_SGTE.shape[1]
    R = H // G
    q = q_SHTE.reshape(S, G, R * T, E)
    logits = (q @ k_SGTE.transpose(-1, -2)).view(S, G, R, T, T)
    mask = mask if mask.dim() == 2 else mask[:, :, None]
    logits = torch.add(mask, logits, alpha=1.0 / math.sqrt(E))
    if sink_H is None:
        p = torch.softmax(logits, -1)
    else:
        sink = sink_H.view(1, G, R, 1, 1).expand(S, G, R, T, 1)
        p = torch.softmax(torch.cat([logits, sink], -1), -1)[..., :-1]
    return (p.reshape(S, G, R * T, T) @ v_SGTE).view(S, H, T, E), p


@torch.no_grad()
def chosen_tokens(p_SGRTT, top, masks):
    """The additive mask [S,G,T,T] of the tokens in the best `top` blocks of each query and group."""
    S, G, R, T, _ = p_SGRTT.shape
    p = F.pad(p_SGRTT, (0, masks.blocks * masks.block - T)) if T % masks.block else p_SGRTT
    scores = p.reshape(S, G, R, T, masks.blocks, masks.block).amax((2, 5)).masked_fill_(masks.hidden_blocks, -1.0)
    best = scores.topk(min(top, masks.blocks), -1).indices
    blocks = torch.full_like(scores, NEGATIVE).scatter_(-1, best, 0.0)
    return blocks.repeat_interleave(masks.block, -1)[..., :T] + masks.causal


# -------------------------------------------------------------------------------------------------------------- layers
def matrix(rows, columns):
    return nn.Parameter(torch.empty(rows, columns))


class Attention(nn.Module):
    def __init__(self, c, kind):
        super().__init__()
        self.c, self.kind = c, kind
        D, E, H, G = c["hidden_size"], c["head_dim"], c["num_attention_heads"], c["num_key_value_heads"]
        sparse, full = kind == "sparse_attention", kind == "full_attention"
        self.window = kind == "sliding_attention" or (sparse and c["sparse_window_branch"])
        self.own_kv = not sparse or not c["share_kv"] or (self.window and not c["share_kv_window"])
        self.q_proj, self.o_proj = matrix(H * E, D), matrix(D, H * E)
        if self.own_kv:
            self.k_proj, self.v_proj = matrix(G * E, D), matrix(G * E, D)
        if c["use_qk_norm"]:
            self.q_norm = nn.Parameter(torch.ones(E))
            if self.own_kv:
                self.k_norm = nn.Parameter(torch.ones(E))
        gate = c["full_attention_gate"] if full else c["attention_gate"]
        rows = {"none": 0, "headwise": H, "elementwise": H * E}[gate]
        for name, wanted in (("gate_proj", full), ("sparse_gate_proj", sparse), ("window_gate_proj", self.window)):
            self.register_parameter(name, matrix(rows, D) if wanted and rows else None)
        for name, wanted in (("sparse_sinks", sparse), ("window_sinks", self.window)):
            self.register_parameter(name, nn.Parameter(torch.zeros(H)) if wanted and c["attention_sinks"] else None)

    def heads(self, x, weight, norm):
        S, T, _ = x.shape
        y = F.linear(x, weight).view(S, T, -1, self.c["head_dim"])
        if norm is not None:
            y = rms_norm(y, norm, self.c["rms_norm_eps"])
        return y.transpose(1, 2)

    def gated(self, out_SHTE, x, weight):
        out = out_SHTE.transpose(1, 2)
        if weight is None:
            return out
        return out * torch.sigmoid(F.linear(x, weight)).view(*out.shape[:3], -1)

    def forward(self, x, oracle, masks):
        c = self.c
        q = rotate(self.heads(x, self.q_proj, getattr(self, "q_norm", None)), masks)
        k = v = None
        if self.own_kv:
            k = rotate(self.heads(x, self.k_proj, getattr(self, "k_norm", None)), masks)
            v = self.heads(x, self.v_proj, None)
        if self.kind == "full_attention":
            out, p = attention(q, k, v, masks.causal)
            out = self.gated(out, x, self.gate_proj)
            top = c["sparse_topk_tokens"] // c["sparse_block_size"]
            oracle = (k, v, chosen_tokens(p.detach(), top, masks) if self.emits_oracle else None)
        elif self.kind == "sliding_attention":
            out = self.gated(attention(q, k, v, masks.window, self.window_sinks)[0], x, self.window_gate_proj)
        else:
            shared_k, shared_v, chosen = oracle
            far_k, far_v = (shared_k, shared_v) if c["share_kv"] else (k, v)
            out = self.gated(attention(q, far_k, far_v, chosen, self.sparse_sinks)[0], x, self.sparse_gate_proj)
            if self.window:
                near_k, near_v = (shared_k, shared_v) if c["share_kv_window"] else (k, v)
                near = attention(q, near_k, near_v, masks.window, self.window_sinks)[0]
                out = out + self.gated(near, x, self.window_gate_proj)
        return F.linear(out.reshape(*x.shape[:2], -1), self.o_proj), oracle


class Mlp(nn.Module):
    def __init__(self, hidden, width):
        super().__init__()
        self.gate_up, self.down = matrix(2 * width, hidden), matrix(hidden, width)

    def forward(self, x):
        gate, up = F.linear(x, self.gate_up).chunk(2, -1)
        return F.linear(F.silu(gate) * up, self.down)


class Moe(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        D, X, width = c["hidden_size"], c["num_experts"], c["moe_intermediate_size"]
        self.router = matrix(X, D)
        self.register_buffer("bias", torch.zeros(X))
        self.experts = nn.ModuleList(Mlp(D, width) for _ in range(X))
        self.shared = Mlp(D, c["n_shared_experts"] * width) if c["n_shared_experts"] else None
        self.load = None

    def forward(self, x_STD):
        c, x = self.c, x_STD.flatten(0, 1)
        logits = F.linear(x, self.router)
        scores = torch.sigmoid(logits) if c["scoring_func"] == "sigmoid" else torch.softmax(logits, -1)
        ids = (scores.detach() + self.bias).topk(c["num_experts_per_tok"], -1).indices
        weight = scores.gather(-1, ids)
        if c["norm_topk_prob"]:
            weight = weight / weight.sum(-1, keepdim=True)
        weight = (weight * c["routed_scaling_factor"]).flatten()
        expert, order = ids.flatten().sort()
        token = torch.div(order, ids.shape[1], rounding_mode="floor")
        self.load = torch.bincount(expert, minlength=c["num_experts"])
        tokens_of = token.split(self.load.tolist())
        y = torch.cat([mlp(x[rows]) for mlp, rows in zip(self.experts, tokens_of) if len(rows)])
        out = torch.zeros_like(x).index_add(0, token, y * weight[order, None])
        if self.shared is not None:
            out = out + self.shared(x)
        return out.view_as(x_STD)

    @torch.no_grad()
    def balance(self, rate):
        load = self.load.float()
        self.bias += rate * torch.sign(load.mean() - load)


class Layer(nn.Module):
    def __init__(self, c, index):
        super().__init__()
        self.eps = c["rms_norm_eps"]
        self.input_norm, self.post_norm = nn.Parameter(torch.ones(c["hidden_size"])), nn.Parameter(torch.ones(c["hidden_size"]))
        self.attention = Attention(c, c["layer_types"][index])
        followers = "".join(c["layer_types"][index + 1 :]).split("full_attention")[0]
        self.attention.emits_oracle = "sparse_attention" in followers
        moe = "num_experts" in c and index >= c["first_k_dense_replace"]
        self.feed_forward = Moe(c) if moe else Mlp(c["hidden_size"], c["intermediate_size"])

    def forward(self, x, oracle, masks):
        out, oracle = self.attention(rms_norm(x, self.input_norm, self.eps), oracle, masks)
        x = x + out
        return x + self.feed_forward(rms_norm(x, self.post_norm, self.eps)), oracle


class Model(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.embedding = matrix(c["vocab_size"], c["hidden_size"])
        self.layers = nn.ModuleList(Layer(c, i) for i in range(c["num_hidden_layers"]))
        self.norm = nn.Parameter(torch.ones(c["hidden_size"]))
        self.head = self.embedding if c["tie_word_embeddings"] else matrix(c["vocab_size"], c["hidden_size"])
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=c.get("init_std", 0.02))

    def loss(self, ids_ST1, masks):
        x = F.embedding(ids_ST1[:, :-1], self.embedding)
        oracle = None
        for layer in self.layers:
            x, oracle = layer(x, oracle, masks)
        logits = F.linear(rms_norm(x, self.norm, self.c["rms_norm_eps"]), self.head)
        return F.cross_entropy(logits.flatten(0, 1), ids_ST1[:, 1:].flatten())


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
    print(json.dumps({"tokens_per_s": statistics.median(speeds[args.warmup :]), "loss": total, "threads": args.threads,
                      "steps": args.steps, "micro_batch": micro, "torch": torch.__version__,
                      "parameters": sum(p.numel() for p in model.parameters())}))  # fmt: skip


# --------------------------------------------------------------------------------------------------------------- check
def export_names(model):
    """Yields the model's tensors with the names that make them up in an export (more than one: stacked by rows)."""
    yield model.embedding, ["model.embed_tokens.weight"]
    yield model.norm, ["model.norm.weight"]
    if model.head is not model.embedding:
        yield model.head, ["lm_head.weight"]

    def mlp(module, prefix):
        yield module.gate_up, [prefix + "gate_proj.weight", prefix + "up_proj.weight"]
        yield module.down, [prefix + "down_proj.weight"]

    for index, layer in enumerate(model.layers):
        p = f"model.layers.{index}."
        yield layer.input_norm, [p + "input_layernorm.weight"]
        yield layer.post_norm, [p + "post_attention_layernorm.weight"]
        for name, tensor in layer.attention.named_parameters():
            yield tensor, [p + "self_attn." + name + ("" if name.endswith("sinks") else ".weight")]
        block = layer.feed_forward
        if isinstance(block, Mlp):
            yield from mlp(block, p + "mlp.")
            continue
        yield block.router, [p + "mlp.gate.weight"]
        for expert, module in enumerate(block.experts):
            yield from mlp(module, f"{p}mlp.experts.{expert}.")
        if block.shared is not None:
            yield from mlp(block.shared, p + "mlp.shared_experts.")


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
