"""The model family in PyTorch eager, written for speed: float32 or float64, whole batches.

Grouped attention by batched matmul, additive masks and softmax; block scores by a maximum over the probabilities; experts
by one gather per expert and one index_add, the weights of gate and up projection in one matrix. The architecture is
tests/golden/reference.py's; torch_quickstart.py --check shows that both give one loss and one set of gradients.

Dimensions: S sequences, T tokens, D hidden, H heads, G groups, R = H/G, E head size, N blocks, X experts.
"""
import math

import torch
import torch.nn.functional as F
from torch import nn

NEGATIVE = float("-inf")


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


# --------------------------------------------------------------------------------------------------------------- names
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
