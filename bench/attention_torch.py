"""Times of the same attention ops in PyTorch eager, float32: batched matmul, mask, softmax. Companion of attention_cpu.cpp.

    python3 bench/attention_torch.py [threads] [sequences seq_len heads groups head_dim window block top_blocks]
"""
import sys
import time

import torch

args = [int(a) for a in sys.argv[1:]]
threads = args[0] if args else 2
S, T, H, G, E, W, B, K = (args[1:] + [8, 256, 8, 2, 32, 32, 16, 4][len(args[1:]):])[:8]
torch.set_num_threads(threads)
torch.manual_seed(1)
R, N = H // G, (T + B - 1) // B
q, dout, other = (torch.randn(S * T, H * E) for _ in range(3))
k, v = (torch.randn(S * T, G * E) for _ in range(2))
logits, sinks, weight = torch.randn(S * T, H), torch.randn(H), torch.randn(E)
t = torch.arange(T)
causal = t[None, :] <= t[:, None]
window = causal & (t[:, None] - t[None, :] < W)
hide = lambda mask: torch.zeros(mask.shape).masked_fill(~mask, float("-inf"))
causal_bias, window_bias = hide(causal), hide(window)
visible = (torch.arange(N) * B)[None, :] <= t[:, None]


def heads(q, k, v):
    """(S, G, R*T, E) queries of a group together against (S, G, T, E) keys: no copy of K and V per head."""
    q = q.view(S, T, G, R, E).permute(0, 2, 3, 1, 4).reshape(S, G, R * T, E)
    return q, k.view(S, T, G, E).transpose(1, 2), v.view(S, T, G, E).transpose(1, 2)


def attend(q, k, v, bias, sinks):
    q, k, v = heads(q, k, v)
    l = torch.matmul(q * E**-0.5, k.transpose(-1, -2)).view(S, G, R, T, T) + bias
    if sinks is not None:
        l = torch.cat([l, sinks.view(1, G, R, 1, 1).expand(S, G, R, T, 1)], -1)
    p = torch.softmax(l, -1)
    if sinks is not None:
        p = p[..., :-1]
    out = torch.matmul(p.reshape(S, G, R * T, T), v)
    return out.view(S, G, R, T, E).permute(0, 3, 1, 2, 4).reshape(S * T, H * E), p


def choose(p):
    """Block mask (S, G, T, N) by the K best of the block maxima."""
    p = torch.nn.functional.pad(p.detach(), (0, N * B - T)).view(S, G, R, T, N, B)
    s = p.amax(-1).amax(2).masked_fill(~visible, -1.0)
    chosen = torch.zeros(S, G, T, N, dtype=torch.bool).scatter_(-1, s.topk(min(K, N), -1).indices, True)
    return chosen & visible


def full(q, k, v):
    return attend(q, k, v, causal_bias, None)[0]


def full_select(q, k, v):
    out, p = attend(q, k, v, causal_bias, None)
    choose(p)
    return out


with torch.no_grad():
    chosen = choose(attend(q, k, v, causal_bias, None)[1])


def sparse(q, k, v, sinks):
    mask = chosen.repeat_interleave(B, -1)[..., :T] & causal  # once per layer, as a follower would
    return attend(q, k, v, hide(mask)[:, :, None], sinks)[0]


def windowed(q, k, v, sinks):
    return attend(q, k, v, window_bias, sinks)[0]


freq = 10000.0 ** (-torch.arange(0, E // 2) * 2.0 / E)
angle = t[:, None] * freq
cos, sin = angle.cos()[None, :, None], angle.sin()[None, :, None]


def norm_rope(x, weight):
    x = x.view(S, T, H, E)
    x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * weight
    a, b = x[..., : E // 2], x[..., E // 2 :]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).reshape(S * T, H * E)


def gates(a, b, la, lb):
    f = lambda x, l: x.view(S * T, H, E) * torch.sigmoid(l)[..., None]
    return (f(a, la) + f(b, lb)).reshape(S * T, H * E)


def measure(name, op, *inputs):
    forward, backward, start = [], [], time.perf_counter()
    while len(forward) < 15 or time.perf_counter() - start < 1:
        x = [i.clone().requires_grad_() for i in inputs]
        t0 = time.perf_counter()
        y = op(*x)
        t1 = time.perf_counter()
        y.backward(dout)
        t2 = time.perf_counter()
        forward.append(t1 - t0)
        backward.append(t2 - t1)
    median = lambda l: sorted(l)[len(l) // 2] * 1e3
    print(f"{name:24} forward {median(forward):8.3f} ms  backward {median(backward):8.3f} ms")


print(f"S {S} T {T} H {H} G {G} E {E} W {W} B {B} K {K}, {threads} threads")
measure("full", full, q, k, v)
measure("full with selection", full_select, q, k, v)
measure("block sparse", sparse, q, k, v, sinks)
measure("window", windowed, q, k, v, sinks)
measure("q norm and rope", norm_rope, q, weight)
measure("two headwise gates", gates, q, other, logits, logits)
