#!/usr/bin/env python3
"""A training step of a full-attention mixture-of-experts model in PyTorch, as fast as PyTorch alone makes it: the baseline
that `hysparse bench step` is compared with on a GPU.

torch.compile, cuDNN attention (grouped heads), grouped_mm experts, fused AdamW; bf16 compute. Weights are bf16 with f32
gradients kept by nobody (--weights bf16: the fastest) or f32 masters cast in the step (--weights fp32: the same numerics
as hysparse's).

  bench/torch_step.py [--layers 6] [--experts 64] [--seq-len 8192] [--sequences 2] [--vocab 32768] [--weights bf16|fp32]
                      [--steps 10] [--warmup 4] [--no-compile] [--json]

Needs PyTorch 2.8 or newer and an NVIDIA GPU. Prints tokens/s and TFLOPS of the model (6 per active parameter and token, 12
per head size and visible key).
"""
import argparse
import json
import math
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

grouped_mm = getattr(F, "grouped_mm", None) or torch._grouped_mm


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--layers", type=int, default=6)
    p.add_argument("--experts", type=int, default=64)
    p.add_argument("--top-k", type=int, default=8)
    p.add_argument("--hidden", type=int, default=2048)
    p.add_argument("--ffn", type=int, default=512)
    p.add_argument("--heads", type=int, default=64)
    p.add_argument("--kv-heads", type=int, default=4)
    p.add_argument("--head-dim", type=int, default=128)
    p.add_argument("--vocab", type=int, default=32768)
    p.add_argument("--seq-len", type=int, default=8192)
    p.add_argument("--sequences", type=int, default=2)
    p.add_argument("--weights", choices=["bf16", "fp32"], default="bf16")
    p.add_argument("--steps", type=int, default=10)
    p.add_argument("--warmup", type=int, default=4)
    p.add_argument("--no-compile", action="store_true")
    p.add_argument("--device", default="cuda")
    p.add_argument("--json", action="store_true")
    return p.parse_args()


def rms_norm(x, weight):
    return F.rms_norm(x, (x.shape[-1],), weight.to(x.dtype), 1e-6)


def matrix(*shape, scale=0.02):
    return nn.Parameter(torch.randn(*shape) * scale)


class Attention(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.a = a
        self.qkv = matrix((a.heads + 2 * a.kv_heads) * a.head_dim, a.hidden)
        self.out = matrix(a.hidden, a.heads * a.head_dim, scale=0.02 / math.sqrt(2 * a.layers))
        self.q_norm, self.k_norm = nn.Parameter(torch.ones(a.head_dim)), nn.Parameter(torch.ones(a.head_dim))

    def forward(self, x, cos, sin):
        a = self.a
        S, T, _ = x.shape
        q, k, v = F.linear(x, self.qkv.to(x.dtype)).view(S, T, -1, a.head_dim).split(
            [a.heads, a.kv_heads, a.kv_heads], 2)

        def rotate(y, weight):
            y = rms_norm(y, weight).float()
            first, second = y.chunk(2, -1)
            return (y * cos + torch.cat([-second, first], -1) * sin).to(x.dtype).transpose(1, 2)

        with sdpa_kernel(attention_backends(x)):
            y = F.scaled_dot_product_attention(rotate(q, self.q_norm), rotate(k, self.k_norm), v.transpose(1, 2),
                                               is_causal=True, enable_gqa=True)
        return F.linear(y.transpose(1, 2).reshape(S, T, -1), self.out.to(x.dtype))


def attention_backends(x):
    return [SDPBackend.CUDNN_ATTENTION] if x.is_cuda else [SDPBackend.MATH]


class Experts(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.a = a
        self.router = matrix(a.experts, a.hidden)
        self.gate_up = matrix(a.experts, 2 * a.ffn, a.hidden)
        self.down = matrix(a.experts, a.hidden, a.ffn, scale=0.02 / math.sqrt(2 * a.layers))

    def forward(self, x):
        a = self.a
        rows = x.reshape(-1, a.hidden)
        scores = F.linear(rows.float(), self.router.float()).sigmoid()
        # Balanced: token t's slots go to experts (t * k + slot) mod X; the weights stay the router's.
        slots = torch.arange(rows.shape[0] * a.top_k, device=x.device)
        ids = (slots % a.experts).view(-1, a.top_k)
        weights = scores.gather(1, ids)
        weights = weights / weights.sum(-1, keepdim=True)
        flat = ids.flatten()
        order = torch.argsort(flat, stable=True)
        inverse = torch.argsort(order)
        ends = torch.cumsum(torch.bincount(flat, minlength=a.experts), 0).to(torch.int32)
        packed = rows[order // a.top_k]
        gate, up = grouped_mm(packed, self.gate_up.to(x.dtype).transpose(-2, -1), offs=ends).chunk(2, -1)
        y = grouped_mm(F.silu(gate) * up, self.down.to(x.dtype).transpose(-2, -1), offs=ends)
        y = y[inverse].view(-1, a.top_k, a.hidden)
        return (y * weights.to(x.dtype).unsqueeze(-1)).sum(1).view_as(x)


class Layer(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.attention, self.experts = Attention(a), Experts(a)
        self.norms = nn.ParameterList([nn.Parameter(torch.ones(a.hidden)) for _ in range(2)])

    def forward(self, x, cos, sin):
        x = x + self.attention(rms_norm(x, self.norms[0]), cos, sin)
        return x + self.experts(rms_norm(x, self.norms[1]))


class Model(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.embedding, self.head = matrix(a.vocab, a.hidden), matrix(a.vocab, a.hidden)
        self.layers = nn.ModuleList([Layer(a) for _ in range(a.layers)])
        self.norm = nn.Parameter(torch.ones(a.hidden))

    def forward(self, tokens, targets, cos, sin):
        x = F.embedding(tokens, self.embedding).to(torch.bfloat16)
        for layer in self.layers:
            x = layer(x, cos, sin)
        logits = F.linear(rms_norm(x, self.norm), self.head.to(x.dtype))
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def angles(a, device):
    frequency = 640000.0 ** (-torch.arange(0, a.head_dim, 2, device=device) / a.head_dim)
    angle = torch.cat([torch.outer(torch.arange(a.seq_len, device=device), frequency)] * 2, -1)[None, :, None]
    return angle.cos(), angle.sin()


def flops_per_token(a):
    attention = a.hidden * a.head_dim * (2 * a.heads + 2 * a.kv_heads)
    experts = 3 * a.hidden * a.ffn * a.top_k + a.hidden * a.experts
    pairs = 12 * a.heads * a.head_dim * (a.seq_len + 1) / 2
    return 6 * (a.layers * (attention + experts) + a.vocab * a.hidden) + a.layers * pairs


def main():
    a = arguments()
    torch.manual_seed(1)
    device = torch.device(a.device)
    model = Model(a).to(device=device, dtype=torch.bfloat16 if a.weights == "bf16" else torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), fused=device.type == "cuda")
    cos, sin = angles(a, device)

    def loss_of(tokens, targets):
        return model(tokens, targets, cos, sin)

    loss_of = loss_of if a.no_compile else torch.compile(loss_of)
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    times, loss = [], None
    for step in range(a.warmup + a.steps):
        tokens = torch.randint(a.vocab, (a.sequences, a.seq_len + 1), device=device)
        wait()
        start = time.perf_counter()
        loss = loss_of(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss = loss.item()  # a trainer reads it as well
        wait()
        if step >= a.warmup:
            times.append(time.perf_counter() - start)
    seconds = statistics.median(times)
    tokens_per_s = a.sequences * a.seq_len / seconds
    result = {
        "tokens_per_s": tokens_per_s,
        "ms": seconds * 1e3,
        "ms_least": min(times) * 1e3,
        "tflops": tokens_per_s * flops_per_token(a) / 1e12,
        "loss": loss,
        "weights": a.weights,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "memory_bytes": torch.cuda.max_memory_allocated() if device.type == "cuda" else None,
    }
    if a.json:
        print(json.dumps(result))
    else:
        print(f"{result['device']}, torch {torch.__version__}: {tokens_per_s:.0f} tokens/s, {seconds * 1e3:.1f} ms a step, "
              f"{result['tflops']:.1f} TFLOPS, loss {loss:.4f}")


if __name__ == "__main__":
    main()
