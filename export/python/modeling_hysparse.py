"""HySparse models for Hugging Face transformers 5: AutoModelForCausalLM.from_pretrained(DIR, trust_remote_code=True).

What is computed (docs/oracle.md of hysparse says it in full): a full layer attends to every earlier token and, from its
attention probabilities, chooses blocks of tokens for the sparse layers that follow. A sparse layer attends to the
chosen blocks with the full layer's keys and values, and to a short window with its own; each branch has learnable sinks
in its softmax and a sigmoid gate. So the cache holds all keys of the few full layers, and of the others a window.

Shapes: B batch, T new tokens, S all tokens so far, H query heads, G key/value heads, R = H/G, E head size.

Batches of unequal length: pad at the left to generate, at either side to score (attention_mask 0 there). The grid of
blocks begins at each sequence's first token, so padding changes nothing.
"""

import inspect
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from .configuration_hysparse import HySparseConfig

# What generate() calls the cache depends on the version of transformers.
CACHE_NAME = (
    "cache"
    if "cache" in inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters
    else "past_key_values"
)
# Attention takes as many queries at a time as give this many logits: on a CPU what stays in its caches.
LOGITS_AT_ONCE = {"cpu": 1 << 19, "other": 1 << 26}
# In a window fewer: each chunk computes the logits of its queries with window + WINDOW_QUERIES keys.
WINDOW_QUERIES = 256


def at_least_float32(x):
    """Softmax, norms, rotation and routing are computed in float32 (float64 in a float64 model)."""
    return x if x.dtype == torch.float64 else x.float()


# --------------------------------------------------------------------------------------------------------------- cache
class WindowLayer(DynamicLayer):
    """Keys and values of the last `window` - 1 tokens: what the next token's window reaches beside itself."""

    is_sliding = True
    is_croppable = False

    def __init__(self, window):
        super().__init__()
        self.window = window
        self.cumulative_length = 0

    def update(self, key_states, value_states, *args, **kwargs):
        """Returns the kept keys and values followed by the new ones."""
        keys, values = super().update(key_states, value_states)
        self.cumulative_length += key_states.shape[-2]
        first = max(0, keys.shape[-2] - (self.window - 1))
        # A copy: a view would keep the whole prompt's memory.
        self.keys, self.values = keys[..., first:, :].clone(), values[..., first:, :].clone()
        return keys, values

    def get_seq_length(self, *args, **kwargs):
        return self.cumulative_length

    def get_mask_sizes(self, query_length, *args, **kwargs):
        held = 0 if self.keys is None else self.keys.shape[-2]
        return held + query_length, self.cumulative_length - held

    def get_max_length(self):
        return self.window

    def get_max_cache_shape(self):
        return self.window

    def crop(self, tokens):
        raise NotImplementedError("a HySparse cache cannot go back: its windows have forgotten what was before")


class HySparseCache(Cache):
    """Every token of the full layers (and of sparse layers that do not share), windows of the others, nothing of layers
    without keys of their own."""

    def __init__(self, config):
        super().__init__(
            layers=[
                DynamicLayer()
                if config.keeps_all_keys(layer) or not config.has_own_kv(layer)
                else WindowLayer(config.sliding_window)
                for layer in range(config.num_hidden_layers)
            ]
        )

    def nbytes(self):
        tensors = [t for layer in self.layers for t in (layer.keys, layer.values) if t is not None]
        return sum(t.numel() * t.element_size() for t in tensors)


# ----------------------------------------------------------------------------------------------------------- attention
class Place(NamedTuple):
    """Where the new tokens are: they are slots [past, past + T) of the sequence."""

    past: int
    start: torch.Tensor | None  # [B] slots of padding at the left, None without any

    def slots(self, first, last, device):
        """[B or 1, last - first]: position of slots in their sequence, negative in the padding."""
        slots = torch.arange(first, last, device=device)[None]
        return slots if self.start is None else slots - self.start[:, None]


class Oracle(NamedTuple):
    """What a full layer hands to the sparse layers after it."""

    keys: torch.Tensor  # [B, G, S, E]
    values: torch.Tensor
    blocks: torch.Tensor | None  # [B, G, T, K] indices of the chosen blocks, -1 where fewer are visible


def attend(q, k, v, mask, sinks=None, scores=False):
    """q [B, G, R, T, E], k and v [B, G, S, E], mask broadcastable to [B, G, R, T, S], sinks [H] or None.

    Returns the output [B, G, R, T, E] and, with `scores`, the logarithm of the largest probability that any head of the
    group gives each token, [B, G, T, S].
    """
    B, G, R, T, E = q.shape
    logits = at_least_float32(((q * E**-0.5).reshape(B, G, R * T, E) @ k.transpose(-1, -2)).view(B, G, R, T, -1))
    logits = logits.masked_fill(~mask, float("-inf"))
    weights = torch.softmax(logits, -1).to(v.dtype)
    out = (weights.view(B, G, R * T, -1) @ v).view(B, G, R, T, E)
    lse = logits.logsumexp(-1, keepdim=True) if scores or sinks is not None else None
    if sinks is not None:  # one more logit in the denominator, with no value: exp(lse) / (exp(lse) + exp(sink))
        out = out * torch.sigmoid(lse - at_least_float32(sinks).view(1, G, R, 1, 1)).to(out.dtype)
    # Of rows that see nothing, in the padding, alone.
    out = out.nan_to_num(0.0)
    return out, (logits.detach() - lse.detach()).amax(2) if scores else None


def chunks(q, keys):
    """Ranges of queries whose logits fit LOGITS_AT_ONCE."""
    B, G, R, T, _ = q.shape
    most = LOGITS_AT_ONCE["cpu" if q.device.type == "cpu" else "other"]
    size = max(1, most // max(1, B * G * R * keys))
    return [(first, min(T, first + size)) for first in range(0, T, size)]


def full_attention(q, k, v, place, block=0, top=0):
    """Causal attention. With `block` also the indices of the `top` best blocks of each token and key/value head: those
    with the largest probability that any head of the group gives any of their tokens, ties to the lower index."""
    outs, picks = [], []
    for first, last in chunks(q, k.shape[2]):
        reach = place.past + last  # later tokens are seen by none of these
        query = place.slots(place.past + first, reach, q.device)
        key = place.slots(0, reach, q.device)
        mask = (key[:, None, :] <= query[:, :, None]) & (key[:, None, :] >= 0)
        part = q[:, :, :, first:last]
        out, scores = attend(part, k[:, :, :reach], v[:, :, :reach], mask[:, None, None], scores=block > 0)
        outs.append(out)
        if block:
            picks.append(choose_blocks(scores, query, key, block, top))
    if not block:
        return torch.cat(outs, 3), None
    most = max(p.shape[-1] for p in picks)
    return torch.cat(outs, 3), torch.cat([F.pad(p, (0, most - p.shape[-1]), value=-1) for p in picks], 2)


def choose_blocks(scores, query, key, block, top):
    """scores [B, G, T, S]: logarithm of the largest probability in the group -> [B, G, T, K] block indices or -1.
    query [B or 1, T] and key [B or 1, S]: positions."""
    B, G, T, S = scores.shape
    count = (S + block - 1) // block
    if key.shape[0] == 1:  # no padding
        blocks = F.pad(scores, (0, count * block - S), value=float("-inf")).view(B, G, T, count, block).amax(-1)
    else:
        block_of = (key.clamp(min=0) // block)[:, None, None, :].expand(B, G, T, S)
        blocks = torch.full((B, G, T, count), float("-inf"), dtype=scores.dtype, device=scores.device)
        blocks = blocks.scatter_reduce(3, block_of, scores, "amax")
    # A block whose first token is visible may be chosen, whatever its score; the sort is stable.
    visible = (torch.arange(count, device=scores.device) * block)[None, None, :] <= query[:, :, None]
    blocks = blocks.clamp(min=torch.finfo(blocks.dtype).min).masked_fill(~visible[:, None], float("-inf"))
    order = torch.sort(blocks, dim=-1, descending=True, stable=True)
    indices = order.indices[..., :top]
    return indices.masked_fill(order.values[..., :top] == float("-inf"), -1)


def block_attention(q, k, v, blocks, place, block, sinks):
    """Attention to the tokens of the chosen blocks up to the query's own."""
    S = k.shape[2]
    if q.shape[3] == 1:
        return gathered_attention(q, k, v, blocks, place, block, sinks)
    outs = []
    for first, last in chunks(q, S):
        reach = place.past + last
        query = place.slots(place.past + first, reach, q.device)
        key = place.slots(0, reach, q.device)
        picked = blocks[:, :, first:last]
        count = (reach + block - 1) // block
        chosen = torch.zeros(*picked.shape[:3], count + 1, dtype=torch.bool, device=q.device)
        chosen.scatter_(3, picked.masked_fill(picked < 0, count), True)  # the last one is for "none"
        if key.shape[0] == 1:  # no padding
            chosen = chosen.repeat_interleave(block, -1)[..., :reach]
        else:
            chosen = chosen.gather(3, (key.clamp(min=0) // block)[:, None, None, :].expand(*picked.shape[:3], reach))
        visible = (key[:, None, :] <= query[:, :, None]) & (key[:, None, :] >= 0)
        mask = chosen & visible[:, None]
        out, _ = attend(q[:, :, :, first:last], k[:, :, :reach], v[:, :, :reach], mask[:, :, None], sinks)
        outs.append(out)
    return torch.cat(outs, 3)


def gathered_attention(q, k, v, blocks, place, block, sinks):
    """The same for one new token: takes the chosen tokens out, so that the cost does not grow with S."""
    B, G, S, E = k.shape
    picked = blocks[:, :, 0]  # [B, G, K]
    position = (picked[..., None] * block + torch.arange(block, device=q.device)).flatten(2)
    slot = position if place.start is None else position + place.start[:, None, None]
    mask = (picked >= 0).repeat_interleave(block, -1) & (slot <= place.past)
    index = slot.clamp(0, S - 1)[..., None].expand(B, G, -1, E)
    out, _ = attend(q, k.gather(2, index), v.gather(2, index), mask[:, :, None, None, :], sinks)
    return out


def window_attention(q, k, v, place, window, sinks):
    """Attention to the last `window` tokens. k, v: the last tokens of the sequence, new ones included."""
    T, held = q.shape[3], k.shape[2]
    total = place.past + T
    outs = []
    for begin in range(0, T, WINDOW_QUERIES):
        end = min(T, begin + WINDOW_QUERIES)
        low = max(place.past + begin - window + 1, total - held)  # first slot that any of these sees
        query = torch.arange(place.past + begin, place.past + end, device=q.device)
        key = torch.arange(low, place.past + end, device=q.device)
        mask = ((key[None, :] <= query[:, None]) & (query[:, None] - key[None, :] < window))[None]
        if place.start is not None:
            mask = mask & (key[None, :] >= place.start[:, None])[:, None, :]
        part = slice(low - (total - held), place.past + end - (total - held))
        out, _ = attend(q[:, :, :, begin:end], k[:, :, part], v[:, :, part], mask[:, None, None], sinks)
        outs.append(out)
    return torch.cat(outs, 3)


def rotate(x, cos, sin):
    """Rotary embedding, half-split: feature i pairs with i + half.
    x [B, heads, T, E]; cos, sin [B or 1, 1, T, half]."""
    half = cos.shape[-1]
    if half == 0:
        return x
    a, b, rest = at_least_float32(x).split([half, half, x.shape[-1] - 2 * half], -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1).to(x.dtype)


class HySparseRMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        y = at_least_float32(x)
        return self.weight * (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype)


class HySparseAttention(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.config, self.layer, self.kind = config, layer, config.layer_types[layer]
        D, E, H, G = config.hidden_size, config.head_dim, config.num_attention_heads, config.num_key_value_heads
        self.q_proj = nn.Linear(D, H * E, bias=False)
        self.o_proj = nn.Linear(H * E, D, bias=False)
        if config.use_qk_norm:
            self.q_norm = HySparseRMSNorm(E, config.rms_norm_eps)
        self.own_kv = config.has_own_kv(layer)
        if self.own_kv:
            self.k_proj = nn.Linear(D, G * E, bias=False)
            self.v_proj = nn.Linear(D, G * E, bias=False)
            if config.use_qk_norm:
                self.k_norm = HySparseRMSNorm(E, config.rms_norm_eps)
        if self.kind == "full_attention":
            self.gate_proj = self.gate(config.full_attention_gate)
        if self.kind == "sparse_attention":
            self.sparse_gate_proj = self.gate(config.attention_gate)
            self.sparse_sinks = nn.Parameter(torch.zeros(H)) if config.attention_sinks else None
        if config.has_window(layer):
            self.window_gate_proj = self.gate(config.attention_gate)
            self.window_sinks = nn.Parameter(torch.zeros(H)) if config.attention_sinks else None

    def gate(self, kind):
        c = self.config
        width = {"none": 0, "headwise": c.num_attention_heads, "elementwise": c.num_attention_heads * c.head_dim}[kind]
        return nn.Linear(c.hidden_size, width, bias=False) if width else None

    def heads(self, x, projection, norm):
        """[B, heads, T, E]."""
        y = projection(x).view(*x.shape[:2], -1, self.config.head_dim)
        if norm and self.config.use_qk_norm:
            y = getattr(self, norm)(y)
        return y.transpose(1, 2)

    def gated(self, out, x, gate):
        """out [B, G, R, T, E] -> [B, T, H, E], times one sigmoid a head or one a feature."""
        out = out.flatten(1, 2).transpose(1, 2)
        if gate is None:
            return out
        return out * torch.sigmoid(gate(x)).view(*out.shape[:3], -1)

    def forward(self, x, rotary, place, oracle, cache):
        c = self.config
        q = rotate(self.heads(x, self.q_proj, "q_norm"), *rotary).unflatten(1, (c.num_key_value_heads, -1))
        k = v = None
        if self.own_kv:
            k = rotate(self.heads(x, self.k_proj, "k_norm"), *rotary)
            v = self.heads(x, self.v_proj, None)
            if cache is not None:
                k, v = cache.update(k, v, self.layer)
        if self.kind == "full_attention":
            block, top = 0, 0
            if c.feeds_followers(self.layer):
                block, top = c.sparse_block_size, c.sparse_topk_tokens // c.sparse_block_size
            out, blocks = full_attention(q, k, v, place, block, top)
            out = self.gated(out, x, self.gate_proj)
            oracle = Oracle(k, v, blocks)
        elif self.kind == "sliding_attention":
            out = window_attention(q, k, v, place, c.sliding_window, self.window_sinks)
            out = self.gated(out, x, self.window_gate_proj)
        else:
            far = (oracle.keys, oracle.values) if c.share_kv else (k, v)
            out = block_attention(q, *far, oracle.blocks, place, c.sparse_block_size, self.sparse_sinks)
            out = self.gated(out, x, self.sparse_gate_proj)
            if c.sparse_window_branch:
                near = (oracle.keys, oracle.values) if c.share_kv_window else (k, v)
                near = window_attention(q, *near, place, c.sliding_window, self.window_sinks)
                out = out + self.gated(near, x, self.window_gate_proj)
        return self.o_proj(out.flatten(2)), oracle


# -------------------------------------------------------------------------------------------------------- feed-forward
class HySparseMLP(nn.Module):
    def __init__(self, hidden, width):
        super().__init__()
        self.gate_proj = nn.Linear(hidden, width, bias=False)
        self.up_proj = nn.Linear(hidden, width, bias=False)
        self.down_proj = nn.Linear(width, hidden, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class HySparseRouter(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.zeros(config.num_experts, config.hidden_size))
        # Only picks; zeros where the export has none.
        self.register_buffer("e_score_correction_bias", torch.zeros(config.num_experts))

    def forward(self, x):
        """x [N, D] -> experts [N, k] and their weights [N, k]; ties go to the lower expert."""
        c = self.config
        logits = F.linear(at_least_float32(x), at_least_float32(self.weight))
        scores = torch.sigmoid(logits) if c.scoring_func == "sigmoid" else torch.softmax(logits, -1)
        picked = scores.detach() + self.e_score_correction_bias.to(scores.dtype)
        experts = torch.sort(picked, dim=-1, descending=True, stable=True).indices[:, : c.num_experts_per_tok]
        weights = scores.gather(-1, experts)
        if c.norm_topk_prob:
            weights = weights / weights.sum(-1, keepdim=True)
        return experts, weights * c.routed_scaling_factor


class HySparseMoE(nn.Module):
    def __init__(self, config):
        super().__init__()
        D, width = config.hidden_size, config.moe_intermediate_size
        self.gate = HySparseRouter(config)
        self.experts = nn.ModuleList([HySparseMLP(D, width) for _ in range(config.num_experts)])
        self.shared_experts = HySparseMLP(D, config.n_shared_experts * width) if config.n_shared_experts else None

    def forward(self, x):
        flat = x.reshape(-1, x.shape[-1])
        experts, weights = self.gate(flat)
        # The rows of each expert, one after another.
        order = experts.flatten().argsort(stable=True)
        counts = torch.bincount(experts.flatten(), minlength=len(self.experts)).tolist()
        out = torch.zeros_like(at_least_float32(flat))
        for expert, rows in zip(self.experts, order.split(counts)):
            if len(rows):
                token = rows // experts.shape[1]
                out = out.index_add(0, token, expert(flat[token]) * weights.flatten()[rows, None])
        out = out.to(x.dtype).view_as(x)
        return out if self.shared_experts is None else out + self.shared_experts(x)


# --------------------------------------------------------------------------------------------------------------- model
class HySparseDecoderLayer(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.input_layernorm = HySparseRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = HySparseAttention(config, layer)
        self.post_attention_layernorm = HySparseRMSNorm(config.hidden_size, config.rms_norm_eps)
        moe = config.is_moe(layer)
        self.mlp = HySparseMoE(config) if moe else HySparseMLP(config.hidden_size, config.intermediate_size)

    def forward(self, x, rotary, place, oracle, cache):
        out, oracle = self.self_attn(self.input_layernorm(x), rotary, place, oracle, cache)
        x = x + out
        return x + self.mlp(self.post_attention_layernorm(x)), oracle


class HySparsePreTrainedModel(PreTrainedModel):
    config_class = HySparseConfig
    base_model_prefix = "model"
    _no_split_modules = ["HySparseDecoderLayer"]
    _keep_in_fp32_modules_strict = ["e_score_correction_bias"]
    _keys_to_ignore_on_load_missing = [r"mlp\.gate\.e_score_correction_bias"]
    # Sparse layers that read only shared keys and values may come with projections of their own.
    _keys_to_ignore_on_load_unexpected = [r"self_attn\.(k_proj|v_proj|k_norm|window_gate_proj|window_sinks)"]

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        elif isinstance(module, HySparseRMSNorm):
            nn.init.ones_(module.weight)
        elif isinstance(module, HySparseRouter):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
            nn.init.zeros_(module.e_score_correction_bias)
        elif isinstance(module, HySparseAttention):
            for name in ("sparse_sinks", "window_sinks"):
                if getattr(module, name, None) is not None:
                    nn.init.zeros_(getattr(module, name))


class HySparseModel(HySparsePreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([HySparseDecoderLayer(config, i) for i in range(config.num_hidden_layers)])
        self.norm = HySparseRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_init()

    def rotary(self, position_ids):
        """cos and sin [B or 1, 1, T, rotated / 2]; angles in float64 where there is such a thing."""
        c = self.config
        exact = torch.float32 if position_ids.device.type == "mps" else torch.float64
        half = int(c.head_dim * c.partial_rotary_factor) // 2
        frequency = c.rope_theta ** (-torch.arange(half, dtype=exact, device=position_ids.device) / max(1, half))
        angle = position_ids[:, None, :, None].to(exact) * frequency
        target = torch.float64 if self.embed_tokens.weight.dtype == torch.float64 else torch.float32
        return angle.cos().to(target), angle.sin().to(target)

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        cache=None,
        past_key_values=None,
        inputs_embeds=None,
        use_cache=None,
        output_hidden_states=None,
        return_dict=None,
        **kwargs,
    ):
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        cache = cache if cache is not None else past_key_values
        if cache is None and (self.config.use_cache if use_cache is None else use_cache) and not self.training:
            cache = HySparseCache(self.config)
        if cache is not None and not isinstance(cache, HySparseCache):
            raise ValueError(f"cache: {type(cache).__name__}: must be a HySparseCache (or leave it out)")
        past = cache.get_seq_length() if cache is not None else 0
        place = Place(past, padding_at_the_left(attention_mask, past + x.shape[1]))
        if position_ids is None:
            position_ids = place.slots(past, past + x.shape[1], x.device).clamp(min=0)
        rotary = self.rotary(position_ids)
        hidden, oracle = [x], None
        for layer in self.layers:
            x, oracle = layer(x, rotary, place, oracle, cache)
            hidden.append(x)
        output = BaseModelOutputWithPast(
            last_hidden_state=self.norm(x), hidden_states=tuple(hidden) if output_hidden_states else None
        )
        output[CACHE_NAME] = cache
        return output


def padding_at_the_left(attention_mask, length):
    """[B] slots before each sequence's first token, None when there are none. Padding at the right needs no mask."""
    if attention_mask is None:
        return None
    if attention_mask.dim() != 2 or attention_mask.shape[1] != length:
        raise ValueError(f"attention_mask: {tuple(attention_mask.shape)}: must be [batch, {length}]: zeros for padding")
    start = (attention_mask != 0).int().argmax(1)  # a sequence of padding alone: 0
    return start if bool(start.any()) else None


class HySparseForCausalLM(HySparsePreTrainedModel, GenerationMixin):
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config):
        super().__init__(config)
        self.model = HySparseModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.model.embed_tokens

    def get_output_embeddings(self):
        return self.lm_head

    def forward(self, input_ids=None, labels=None, logits_to_keep=0, **kwargs):
        """labels [B, T]: the ids themselves (they are shifted here), -100 where there is no target."""
        count = kwargs.pop("num_items_in_batch", None)
        output = self.model(input_ids=input_ids, **kwargs)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(output.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, self.config.vocab_size, num_items_in_batch=count)
        result = CausalLMOutputWithPast(loss=loss, logits=logits, hidden_states=output.hidden_states)
        result[CACHE_NAME] = output[CACHE_NAME]
        return result

    def _prepare_cache_for_generation(self, generation_config, model_kwargs, *args, **kwargs):
        """generate() asks for its cache here."""
        if generation_config.cache_implementation is not None:
            raise ValueError("cache_implementation: a HySparse model has a cache of its own")
        if model_kwargs.get(CACHE_NAME) is None and generation_config.use_cache is not False:
            model_kwargs[CACHE_NAME] = HySparseCache(self.config)
