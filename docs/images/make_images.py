"""Draws the pictures of the documentation as SVG, with Python's standard library alone.

    python3 docs/images/make_images.py        writes the .svg files beside itself
"""
import math
import os
import random
from xml.sax.saxutils import escape

INK, MUTED, LINE, PAGE, CARD = "#1d2530", "#5a6675", "#d5dbe5", "#f6f8fb", "#ffffff"
BLUE, ORANGE, TEAL, ROSE, VIOLET = "#2f5fd0", "#d97f1e", "#169684", "#b83a74", "#6f58c4"
BLUE_SOFT, ORANGE_SOFT, TEAL_SOFT, VIOLET_SOFT = "#e7eefc", "#fdf0df", "#e0f4f0", "#eeeafa"
FONT = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, 'DejaVu Sans', sans-serif"
MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"


class Svg:
    def __init__(self, width, height, title):
        self.width, self.height, self.title, self.parts = width, height, title, []

    def add(self, text):
        self.parts.append(text)

    def rect(self, x, y, w, h, fill=CARD, stroke=LINE, radius=8, width=1.2, dash=""):
        dash = f' stroke-dasharray="{dash}"' if dash else ""
        self.add(f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="{radius}" fill="{fill}" stroke="{stroke}" '
                 f'stroke-width="{width}"{dash}/>')

    def text(self, x, y, text, size=13, fill=INK, anchor="middle", weight=400, mono=False, italic=False):
        style = f' font-family="{MONO}"' if mono else ""
        style += ' font-style="italic"' if italic else ""
        self.add(f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{fill}" text-anchor="{anchor}" '
                 f'font-weight="{weight}"{style}>{escape(text)}</text>')

    def line(self, points, stroke=MUTED, width=1.6, arrow=True, dash=""):
        d = "M" + " L".join(f"{x:g} {y:g}" for x, y in points)
        self.path(d, stroke, width, arrow, dash)

    def path(self, d, stroke=MUTED, width=1.6, arrow=True, dash=""):
        dash = f' stroke-dasharray="{dash}"' if dash else ""
        head = f' marker-end="url(#a{stroke[1:]})"' if arrow else ""
        self.add(f'<path d="{d}" fill="none" stroke="{stroke}" stroke-width="{width}" stroke-linejoin="round"{dash}{head}/>')

    def cells(self, boxes, fill, opacity=1.0):
        """Many rectangles (x, y, w, h) of one colour as one path."""
        if boxes:
            d = "".join(f"M{x:g} {y:g}h{w:g}v{h:g}h{-w:g}z" for x, y, w, h in boxes)
            self.add(f'<path d="{d}" fill="{fill}" fill-opacity="{opacity:g}"/>')

    def save(self, name):
        markers = "".join(
            f'<marker id="a{c[1:]}" viewBox="0 0 10 10" refX="8.5" refY="5" markerWidth="7" markerHeight="7" '
            f'orient="auto-start-reverse"><path d="M0 0.8L9.5 5L0 9.2z" fill="{c}"/></marker>'
            for c in (INK, MUTED, BLUE, ORANGE, TEAL, ROSE, VIOLET))
        body = "\n".join(self.parts)
        path = os.path.join(os.path.dirname(os.path.abspath(__file__)), name)
        with open(path, "w", encoding="utf-8") as f:
            f.write(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
                    f'width="{self.width}" height="{self.height}" font-family="{FONT}" role="img">\n'
                    f'<title>{escape(self.title)}</title>\n<defs>{markers}</defs>\n'
                    f'<rect x="0.5" y="0.5" width="{self.width - 1}" height="{self.height - 1}" rx="14" fill="{PAGE}" '
                    f'stroke="{LINE}"/>\n{body}\n</svg>\n')


# ---- one hybrid block ---------------------------------------------------------------------------------------------------
def mask(svg, x, y, size, n, sees, colour):
    """A small attention mask: row t, column s, filled where sees(t, s)."""
    cell = size / n
    svg.rect(x, y, size, size, fill="#fbfcfe", stroke=LINE, radius=3)
    svg.cells([(x + s * cell, y + t * cell, cell - 0.7, cell - 0.7) for t in range(n) for s in range(t + 1) if sees(t, s)],
              colour, 0.9)


def hybrid_block():
    svg = Svg(1180, 830, "One hybrid block: a full-attention layer, its oracle, and the sparse layers that follow")
    # The model as a row of layers.
    svg.text(40, 44, "9 layers at hybrid_ratio 1:3: two hybrid blocks and a closing full layer", 15, weight=600, anchor="start")
    x, size, gap, kinds = 40, 52, 9, "FSSSFSSSF"
    for i, kind in enumerate(kinds):
        left = x + i * (size + gap)
        full = kind == "F"
        svg.rect(left, 62, size, 40, fill=BLUE if full else TEAL_SOFT, stroke=BLUE if full else TEAL, radius=7)
        svg.text(left + size / 2, 87, "full" if full else "sparse", 12.5, fill="#ffffff" if full else TEAL, weight=600)
    for i in (0, 4):
        first, last = x + i * (size + gap), x + (i + 3) * (size + gap) + size
        svg.path(f"M{first} 110v7H{last}v-7", MUTED, 1.3, arrow=False)
    svg.text(1140, 82, "full: every earlier token", 13, fill=BLUE, anchor="end", weight=600)
    svg.text(1140, 104, "sparse: blocks chosen by the full layer, and a window", 13, fill=TEAL, anchor="end", weight=600)

    # The block, larger.
    top = 160
    svg.add(f'<path d="M40 117H275L1150 {top}H30z" fill="#e9edf5" fill-opacity="0.75"/>')
    svg.rect(30, top, 1120, 322, fill="#eef2f8", stroke=LINE, radius=12)
    width, pitch = 248, 274
    lefts = [52 + i * pitch for i in range(4)]
    for i, left in enumerate(lefts):
        full = i == 0
        svg.rect(left, top + 20, width, 282, radius=10, stroke=BLUE if full else TEAL, width=1.6)
        svg.text(left + width / 2, top + 44, f"layer {i}: {'full' if full else 'sparse'} attention", 14,
                 fill=BLUE if full else TEAL, weight=700)
        if i:
            svg.line([(left - pitch + width + 2, top + 150), (left - 3, top + 150)], INK, 2.2)
        feed_forward = top + 262
        svg.rect(left + 18, feed_forward, width - 36, 28, fill=VIOLET_SOFT, stroke=VIOLET, radius=6)
        svg.text(left + width / 2, feed_forward + 19, "SwiGLU: dense or experts", 12.5, fill=VIOLET)
        svg.line([(left + width / 2, feed_forward - 15), (left + width / 2, feed_forward - 2)], MUTED, 1.4)
    svg.line([(12, top + 150), (lefts[0] - 3, top + 150)], INK, 2.2)
    svg.line([(lefts[3] + width + 2, top + 150), (1172, top + 150)], INK, 2.2)

    n, block, window = 16, 4, 4
    chosen = {t: sorted({[0, 0, 1, 0][t // block], [0, 1, 1, 2][(t // 2) % 4] if t // block else 0} & set(range(t // block + 1)))
              for t in range(n)}
    left = lefts[0]
    mask(svg, left + 68, top + 62, 112, n, lambda t, s: True, BLUE)
    svg.text(left + width / 2, top + 197, "softmax(q kᵀ / √E) v", 13)
    svg.text(left + width / 2, top + 217, "the row maxima of each block", 12, fill=MUTED)
    svg.text(left + width / 2, top + 233, "make the block lists", 12, fill=MUTED)
    for left in lefts[1:]:
        mask(svg, left + 20, top + 62, 92, n, lambda t, s: s // block in chosen[t], ORANGE)
        mask(svg, left + 136, top + 62, 92, n, lambda t, s: t - s < window, TEAL)
        svg.text(left + 66, top + 172, "chosen blocks", 12, fill=ORANGE, weight=600)
        svg.text(left + 182, top + 172, "window", 12, fill=TEAL, weight=600)
        svg.text(left + 66, top + 189, "oracle's K, V", 11.5, fill=MUTED)
        svg.text(left + 182, top + 189, "own k, v", 11.5, fill=MUTED)
        svg.path(f"M{left + 66} {top + 195}C{left + 66} {top + 212} {left + 96} {top + 214} {left + 108} {top + 219}", MUTED, 1.4)
        svg.path(f"M{left + 182} {top + 195}C{left + 182} {top + 212} {left + 152} {top + 214} {left + 140} {top + 219}", MUTED, 1.4)
        svg.text(left + width / 2, top + 233, "g₁ · far + g₂ · near", 13)

    # What flows from the oracle to its followers.
    bus = top + 350
    source = lefts[0]
    svg.text(source + 6, bus + 42, "K, V", 14, fill=BLUE, weight=700, anchor="start")
    svg.text(source + 6, bus + 59, "after norm and RoPE", 11.5, fill=MUTED, anchor="start")
    svg.text(source + 6, bus + 94, "block lists", 14, fill=ORANGE, weight=700, anchor="start")
    svg.text(source + 6, bus + 111, "per query token and group", 11.5, fill=MUTED, anchor="start")
    svg.text(source + 6, bus + 142, "dK, dV", 14, fill=ROSE, weight=700, anchor="start")
    svg.text(source + 6, bus + 159, "one sum over the block", 11.5, fill=MUTED, anchor="start")
    out = source + width - 42
    svg.line([(out, top + 304), (out, bus + 37), (lefts[3] + 52, bus + 37)], BLUE, 2.6, arrow=False)
    svg.line([(out - 20, top + 304), (out - 20, bus + 89), (lefts[3] + 80, bus + 89)], ORANGE, 2.6, arrow=False)
    svg.line([(lefts[3] + 108, bus + 137), (out + 20, bus + 137), (out + 20, top + 305)], ROSE, 1.8, dash="6 4")
    for left in lefts[1:]:
        svg.line([(left + 52, bus + 37), (left + 52, top + 305)], BLUE, 2.2)
        svg.line([(left + 80, bus + 89), (left + 80, top + 305)], ORANGE, 2.2)
        svg.line([(left + 108, top + 304), (left + 108, bus + 137)], ROSE, 1.8, arrow=False, dash="6 4")
    svg.text(lefts[3] + 124, bus + 67, "forward", 12, fill=MUTED, anchor="start", italic=True)
    svg.text(lefts[3] + 124, bus + 142, "backward", 12, fill=ROSE, anchor="start", italic=True)

    # Caches.
    base = bus + 196
    svg.text(40, base + 6, "key/value cache when generating, at T tokens of context", 15, weight=600, anchor="start")
    for i, left in enumerate(lefts):
        svg.rect(left, base + 22, width, 26, fill="#fbfcfe", stroke=LINE, radius=5)
        svg.rect(left, base + 22, width if i == 0 else 26, 26, fill=BLUE if i == 0 else TEAL, stroke="none", radius=5)
        svg.text(left + (width / 2 if i == 0 else 38), base + 40, "T tokens" if i == 0 else "W tokens", 12.5,
                 fill="#ffffff" if i == 0 else TEAL, anchor="middle" if i == 0 else "start", weight=600)
        svg.text(left + width / 2, base + 68, "2 · G · E · T" if i == 0 else "2 · G · E · min(W, T)", 12.5, fill=MUTED, mono=True)
    svg.text(40, base + 100, "T tokens, W window, G key/value heads, E head size. Gates g₁, g₂ = sigmoid(x W), per head or per feature. "
             "Sink logits not drawn.", 12, fill=MUTED, anchor="start")
    svg.save("hybrid_block.svg")


# ---- the oracle's choice --------------------------------------------------------------------------------------------------
def oracle():
    tokens, block, top, window, heads, features = 32, 4, 3, 4, 2, 6
    draw = random.Random(7)
    topic = [[draw.gauss(0, 1) for _ in range(features)] for _ in range(5)]
    keys, queries = [], []
    for s in range(tokens):
        centre = topic[draw.randrange(5)] if s % 3 == 0 else (keys[-1] if keys else topic[0])
        keys.append([0.9 * c + draw.gauss(0, 0.45) for c in centre])
    for t in range(tokens):
        about = keys[draw.randrange(t + 1)] if t % 2 else keys[t]
        queries.append([[1.1 * c + draw.gauss(0, 0.6) for c in about] for _ in range(heads)])
    best = [[0.0] * tokens for _ in range(tokens)]  # largest probability over the heads of the group
    for t in range(tokens):
        for h in range(heads):
            logits = [sum(a * b for a, b in zip(queries[t][h], keys[s])) / math.sqrt(features) for s in range(t + 1)]
            peak = max(logits)
            total = sum(math.exp(l - peak) for l in logits)
            for s in range(t + 1):
                best[t][s] = max(best[t][s], math.exp(logits[s] - peak) / total)
    blocks = tokens // block
    score = [[max(best[t][b * block:min((b + 1) * block, t + 1)], default=0.0) for b in range(blocks)] for t in range(tokens)]
    chosen = []
    for t in range(tokens):
        visible = range(t // block + 1)
        chosen.append(sorted(sorted(visible, key=lambda b: (-score[t][b], b))[:top]))

    svg = Svg(1180, 480, "How the oracle chooses blocks, and what a follower sees")
    cell, y = 10, 96
    side = cell * tokens
    shade = lambda p: min(6, int(7 * p ** 0.45))
    colours = ["#edf2fc", "#d3e0fa", "#adc5f4", "#83a6ec", "#5a87e0", "#2f5fd0", "#1c3f97"]

    def heading(x, number, first, second):
        svg.text(x, 40, f"{number}  {first}", 15, weight=700, anchor="start")
        svg.text(x, 62, second, 12.5, fill=MUTED, anchor="start")

    def frame(x, w):
        svg.rect(x, y, w, side, fill="#ffffff", stroke=LINE, radius=2)

    a, b, c = 60, 480, 800
    heading(a, "1", "full layer: probabilities", "largest over the group's heads, tile by tile")
    frame(a, side)
    for level in range(7):
        svg.cells([(a + s * cell, y + t * cell, cell, cell) for t in range(tokens) for s in range(t + 1)
                   if shade(best[t][s]) == level], colours[level])
    grid = [(a + i * block * cell, y, 0.6, side) for i in range(1, blocks)]
    svg.cells(grid, "#9aa7bb", 0.6)
    svg.text(a + side / 2, y + side + 22, f"key token s, in blocks of B = {block}", 12.5, fill=MUTED)
    svg.add(f'<text transform="translate({a - 14} {y + side / 2}) rotate(-90)" font-size="12.5" fill="{MUTED}" '
            'text-anchor="middle">query token t</text>')

    wide = 24
    heading(b, "2", "block maxima S[t, b]", f"the K = {top} largest, ties to the lower b")
    frame(b, wide * blocks)
    for level in range(7):
        svg.cells([(b + i * wide, y + t * cell, wide, cell) for t in range(tokens) for i in range(t // block + 1)
                   if shade(score[t][i]) == level], colours[level])
    for t in range(tokens):
        for i in chosen[t]:
            svg.add(f'<rect x="{b + i * wide + 1:g}" y="{y + t * cell + 1:g}" width="{wide - 2}" height="{cell - 2}" fill="none" '
                    f'stroke="{ORANGE}" stroke-width="1.8"/>')
    svg.text(b + wide * blocks / 2, y + side + 22, "block b", 12.5, fill=MUTED)

    heading(c, "3", "what each follower sees", "")
    for left, colour, label in ((c, ORANGE, "branch 1: oracle's K, V"), (c + 196, TEAL, f"branch 2: window {window}")):
        svg.rect(left, 51, 13, 13, fill=colour, stroke="none", radius=2)
        svg.text(left + 19, 62, label, 12, fill=MUTED, anchor="start")
    frame(c, side)
    svg.cells([(c + i * block * cell, y + t * cell, (min((i + 1) * block, t + 1) - i * block) * cell, cell)
               for t in range(tokens) for i in chosen[t]], ORANGE, 0.55)
    svg.cells([(c + max(0, t - window + 1) * cell, y + t * cell + 2, min(window, t + 1) * cell, cell - 4) for t in range(tokens)],
              TEAL, 0.85)
    svg.cells([(c + i * block * cell, y, 0.6, side) for i in range(1, blocks)], "#9aa7bb", 0.6)
    svg.text(c + side / 2, y + side + 22, "key token s", 12.5, fill=MUTED)
    for x0, x1 in ((a + side + 14, b - 14), (b + wide * blocks + 20, c - 20)):
        svg.line([(x0, y + side / 2), (x1, y + side / 2)], MUTED, 2)
    svg.text(60, 462, f"Random queries and keys, {tokens} tokens, {heads} heads in the group. Lists are ascending; where no more than K blocks "
             "are visible, all are chosen.", 12, fill=MUTED, anchor="start")
    svg.save("oracle.svg")


# ---- placement on four ranks ------------------------------------------------------------------------------------------------
def placement():
    svg = Svg(1180, 640, "Parameters, gradients and optimizer state on four ranks with ep = 2")
    svg.text(40, 42, "world 4 = dp 4 = edp 2 × ep 2, sixteen experts", 16, weight=700, anchor="start")
    width, pitch, top = 250, 280, 66
    lefts = [40 + i * pitch for i in range(4)]
    for r, left in enumerate(lefts):
        ep, edp = r % 2, r // 2
        svg.rect(left, top, width, 300, radius=10)
        svg.text(left + 16, top + 27, f"rank {r}", 15, weight=700, anchor="start")
        svg.text(left + width - 16, top + 27, f"dp {r} · edp {edp} · ep {ep}", 12.5, fill=MUTED, anchor="end", mono=True)
        for y, name, colour, soft, shards, own, what in (
                (top + 50, "dense parameters", BLUE, BLUE_SOFT, 4, r, "values the same on every rank"),
                (top + 176, f"experts {8 * ep} to {8 * ep + 7}", ORANGE, ORANGE_SOFT, 2, edp,
                 f"values the same on ranks {ep} and {ep + 2}")):
            svg.text(left + 16, y + 8, name, 13, fill=colour, weight=700, anchor="start")
            inner = width - 32
            for row, label in enumerate(("values", "gradients", "m, v")):
                top_row = y + 18 + row * 24
                piece = inner / shards
                if row < 2:
                    svg.rect(left + 16, top_row, inner, 18, fill=soft, stroke=colour, radius=4)
                else:
                    svg.rect(left + 16, top_row, inner, 18, fill="#fbfcfe", stroke=LINE, radius=4, dash="3 3")
                svg.rect(left + 16 + own * piece, top_row, piece, 18, fill=colour, stroke=colour, radius=4)
                place = left + 16 + (inner * 0.72 if own * 2 < shards else inner * 0.28)
                svg.text(place, top_row + 13.5, label, 11.5, fill=MUTED)
            svg.text(left + 16, y + 106, what, 12, fill=MUTED, anchor="start")

    def group(y, members, colour, label, centre):
        """Ranks joined into one group, with its name above the line."""
        xs = [lefts[m] + width / 2 for m in members]
        svg.line([(xs[0], y), (xs[-1], y)], colour, 2.4, arrow=False)
        for x in xs:
            svg.add(f'<circle cx="{x:g}" cy="{y}" r="5.5" fill="{colour}"/>')
        svg.text(centre, y - 11, label, 12.5, fill=colour, weight=700)

    y = 412
    between = [left + width / 2 + pitch / 2 for left in lefts[:3]]
    group(y, (0, 1), VIOLET, "ep: all-to-all of tokens", between[0])
    group(y, (2, 3), VIOLET, "ep: all-to-all of tokens", between[2])
    group(y + 52, (0, 2), ORANGE, "edp of experts 0 to 7", between[0])
    group(y + 92, (1, 3), ORANGE, "edp of experts 8 to 15", between[2])
    group(y + 142, (0, 1, 2, 3), BLUE, "dp: every rank, for the dense parameters", between[1])
    svg.text(40, y + 180, "Filled: this rank's shard of the optimizer. Along dp and edp: reduce-scatter of gradients before the update, all-gather of values after it.",
             12.5, fill=MUTED, anchor="start")
    svg.text(40, y + 202, "m, v: AdamW's moments, held for the shard alone. Along ep: every MoE layer, forward and backward.", 12.5, fill=MUTED, anchor="start")
    svg.save("placement.svg")


# ---- eight ranks on both meshes -------------------------------------------------------------------------------------------------
def mesh():
    svg = Svg(1180, 704, "Eight ranks on the dense mesh and on the mesh of experts")
    left, width, height = 150, 76, 34
    colours = [(BLUE, BLUE_SOFT), (ORANGE, ORANGE_SOFT), (TEAL, TEAL_SOFT), (VIOLET, VIOLET_SOFT)]

    def panel(top, title, axes, held):
        """axes: (name, size, stride of the rank, what is said); held: (label, by rank)."""
        svg.text(40, top, title, 16, weight=700, anchor="start")
        svg.text(40, top + 36, "rank", 13, fill=MUTED, anchor="start")
        for rank in range(8):
            svg.text(left + rank * width + width / 2 - 3, top + 36, str(rank), 14, weight=700)
        y = top + 50
        for name, size, stride, what in axes:
            svg.text(40, y + 22, f"{name} {size}", 14, anchor="start", weight=700)
            firsts = sorted({rank - rank // stride % size * stride for rank in range(8)})
            for rank in range(8):
                coordinate = rank // stride % size
                stroke, fill = colours[firsts.index(rank - coordinate * stride)]
                svg.rect(left + rank * width, y, width - 6, height, fill=fill, stroke=stroke, radius=6)
                svg.text(left + rank * width + width / 2 - 3, y + 22, str(coordinate), 14, fill=stroke, weight=700)
            svg.text(left + 8 * width + 14, y + 21, what, 12.5, fill=MUTED, anchor="start")
            y += height + 8
        for name, by_rank in held:
            svg.text(40, y + 14, name, 12.5, fill=MUTED, anchor="start")
            for rank, text in enumerate(by_rank):
                svg.text(left + rank * width + width / 2 - 3, y + 14, text, 12)
            y += 22

    experts = ["0 to 3", "4 to 7", "8 to 11", "12 to 15"]
    panel(46, "tp = 2, ep = 4:  8 = dp 4 × tp 2 = edp 2 × ep 4",
          [("tp", 2, 1, "pairs share heads, widths, vocabulary"),
           ("dp", 4, 2, "four shares of the batch; dense gradients"),
           ("ep", 4, 1, "folded over tp and dp; tokens to experts"),
           ("edp", 2, 4, "two copies of the experts; their gradients")],
          [("heads", ["0 to 3", "4 to 7"] * 4), ("experts", experts * 2)])
    panel(366, "tp = 2, pp = 2, ep = 4:  8 = pp 2 × dp 2 × tp 2 = pp 2 × edp 1 × ep 4",
          [("pp", 2, 4, "activations one way, their gradients back"),
           ("dp", 2, 2, "two shares of the batch; dense gradients"),
           ("tp", 2, 1, "pairs share heads, widths, vocabulary"),
           ("ep", 4, 1, "the whole stage; edp is 1, nothing to reduce")],
          [("layers", ["0 to 3"] * 4 + ["4 to 8"] * 4), ("heads", ["0 to 3", "4 to 7"] * 4), ("experts", experts * 2)])
    svg.text(40, 682, "Eight heads, sixteen experts, nine layers. In a row: one colour, one group; the number is the rank's coordinate in it.",
             12.5, fill=MUTED, anchor="start")
    svg.save("mesh.svg")


# ---- one layer under tensor parallelism -----------------------------------------------------------------------------------------
def tensor_parallel():
    svg = Svg(1180, 560, "One layer with experts under tensor parallelism, without and with sequence parallelism")
    part = 60
    columns = [(40, 84, "norm", None), (146, 96, "enter", ""), (264, 170, "attention", "this rank's heads"), (456, 104, "leave", ""),
               (582, 84, "norm", None), (688, 96, "split", ""), (806, 210, "router, experts", "this rank's tokens"), (1038, 102, "join", "")]
    lanes = [(60, "without sequence parallelism: the residual stream is whole on every rank", False,
              {"enter": ("nothing", "all_reduce"), "leave": ("all_reduce", "nothing"), "split": ("own rows", "all_gather"),
               "join": ("all_gather", "own rows")}),
             (314, "with sequence parallelism: each rank has its rows", True,
              {"enter": ("all_gather", "reduce_scatter"), "leave": ("reduce_scatter", "all_gather"), "split": ("nothing", "nothing"),
               "join": ("nothing", "nothing")})]
    for top, title, parts, operations in lanes:
        svg.text(40, top - 16, title, 16, weight=700, anchor="start")
        for i, (x, w, name, inside) in enumerate(columns):
            middle = top + part
            if i:
                svg.line([(columns[i - 1][0] + columns[i - 1][1] + 1, middle), (x - 2, middle)], INK, 1.8)
            if inside == "":
                forward, backward = operations[name]
                sends = [o for o in (forward, backward) if "_" in o]
                svg.rect(x, top + 16, w, 88, fill=ORANGE_SOFT if sends else "#fbfcfe", stroke=ORANGE if sends else LINE, radius=8,
                         dash="" if sends else "4 3")
                svg.text(x + w / 2, top + 38, name, 13.5, weight=700, fill=ORANGE if sends else MUTED)
                svg.text(x + w / 2, top + 64, forward, 12, fill=INK if "_" in forward else MUTED)
                svg.text(x + w / 2, top + 86, backward, 12, fill=ROSE if "_" in backward else MUTED)
                continue
            colour = BLUE if name == "attention" else VIOLET if "experts" in name else TEAL
            svg.rect(x, top + 16, w, 88, stroke=colour, radius=8, width=1.6)
            svg.text(x + w / 2, middle + (4.5 if inside is None else -4), name, 13.5, fill=colour, weight=700)
            if inside:
                svg.text(x + w / 2, middle + 17, inside, 12, fill=MUTED)
        # Rows that a rank of two works on.
        y = top + 122
        for x, w, name, inside in columns:
            if inside == "":
                continue
            half = "experts" in name or (parts and name == "norm")
            for row in range(4):
                mine = row < 2 or not half
                svg.rect(x + w / 2 - 30, y + row * 10, 60, 9, fill=(BLUE_SOFT if mine else "#fbfcfe"), stroke=BLUE if mine else LINE, radius=2)
        svg.text(40, y + 60, "rows that the first of two ranks works on", 12, fill=MUTED, anchor="start")
    svg.text(40, 536, "In the boxes of collectives: forward, then backward. Dense SwiGLU and shared experts lie between enter and leave, as attention does. "
             "Experts exchange rows on a group of their own.", 12, fill=MUTED, anchor="start")
    svg.save("tensor_parallel.svg")


# ---- pipeline schedules -------------------------------------------------------------------------------------------------------
def alternate(stages, micro_batches, chunks):
    """The forwards and backwards of each stage, as parallel/schedule.cpp makes them: (is forward, chunk, micro-batch)."""
    groups = max(1, micro_batches // stages)
    sizes = [micro_batches // groups + (g < micro_batches % groups) for g in range(groups)]
    first = [sum(sizes[:g]) for g in range(groups)]
    order = [(c, i) for g in range(groups) for c in range(chunks) for i in range(first[g], first[g] + sizes[g])]
    lists = []
    for stage in range(stages):
        ahead = stages - stage - 1 if chunks == 1 else 2 * (stages - stage - 1) + (chunks - 1) * max(sizes)
        ahead = min(ahead, len(order))
        forwards = [(True, c, i) for c, i in order]
        backwards = [(False, chunks - 1 - c, i) for c, i in order]
        actions = forwards[:ahead]
        for k, action in enumerate(backwards):
            actions += forwards[ahead + k:ahead + k + 1] + [action]
        lists.append(actions)
    return lists


def run_lists(lists, chunks):
    """Start times with forward 1 and backward 2, transfers free: by stage, (start, is forward, chunk, micro-batch)."""
    stages, done = len(lists), {}
    times, clock, at = [[] for _ in lists], [0] * stages, [0] * stages
    moved = True
    while moved:
        moved = False
        for s in range(stages):
            while at[s] < len(lists[s]):
                ahead, c, i = lists[s][at[s]]
                g = c * stages + s
                end_of_line = g == 0 if ahead else g == chunks * stages - 1
                needs = 0 if end_of_line else done.get((ahead, g - 1 if ahead else g + 1, i))
                if needs is None:
                    break
                start = max(clock[s], needs)
                times[s].append((start, ahead, c, i))
                clock[s] = done[ahead, g, i] = start + (1 if ahead else 2)
                at[s], moved = at[s] + 1, True
    return times, max(clock)


def pipeline():
    stages, micro_batches = 4, 8
    svg = Svg(1180, 640, "1F1B and interleaved 1F1B of four stages and eight micro-batches")
    left, row = 100, 40
    fills = {(True, 0): BLUE, (True, 1): "#8fb0ee", (False, 0): TEAL, (False, 1): "#85cdc2"}
    inks = {(True, 0): "#ffffff", (True, 1): INK, (False, 0): "#ffffff", (False, 1): INK}
    plans = [("1F1B: one chunk of layers per stage", 1, 60), ("interleaved: two chunks per stage, half as long", 2, 332)]
    for title, chunks, top in plans:
        times, total = run_lists(alternate(stages, micro_batches, chunks), chunks)
        unit = 1040 / 33 / chunks  # 33 units: the length of 1F1B
        bubble = (stages - 1) / (chunks * micro_batches + stages - 1)
        svg.text(40, top - 18, title, 16, weight=700, anchor="start")
        svg.text(1140, top - 18, f"waiting: {stages - 1} of {chunks * micro_batches + stages - 1} parts, {100 * bubble:.0f} %", 13,
                 fill=MUTED, anchor="end")
        for s in range(stages):
            y = top + s * row
            svg.text(40, y + 23, f"stage {s}", 13, anchor="start", weight=600)
            svg.rect(left, y + 2, total * unit, row - 6, fill="#e9edf3", stroke="none", radius=4)
            for start, ahead, c, i in times[s]:
                w = (1 if ahead else 2) * unit
                svg.rect(left + start * unit + 0.6, y + 2, w - 1.2, row - 6, fill=fills[ahead, c], stroke="none", radius=3)
                svg.text(left + (start * unit) + w / 2, y + 23, str(i), 11.5, fill=inks[ahead, c], weight=600)
        end = left + total * unit
        base = top + stages * row + 8
        svg.line([(left, base), (end, base)], MUTED, 1.2)
        svg.text((left + end) / 2, base + 18, "time", 12, fill=MUTED)
    y = 592
    for x, fill, label in ((40, BLUE, "forward, first chunk"), (240, fills[True, 1], "forward, second chunk"),
                           (450, TEAL, "backward, first chunk"), (660, fills[False, 1], "backward, second chunk"),
                           (880, "#d5dce6", "waiting")):
        svg.rect(x, y - 12, 16, 16, fill=fill, stroke="none", radius=3)
        svg.text(x + 24, y + 1, label, 12.5, anchor="start")
    svg.text(40, y + 30, "Numbers are micro-batches. Stage s has global chunks s and, interleaved, s + 4. A backward costs twice a forward; "
             "transfers cost nothing here.", 12, fill=MUTED, anchor="start")
    svg.save("pipeline.svg")


# ---- the partition of a hybrid model ------------------------------------------------------------------------------------------
def partition():
    """49 layers at 1:11 and 32768 tokens, sizes of configs/presets/80b-a3b-hysparse.yaml; costs as in model/partition.cpp."""
    width, rows_of_experts, q, kv, tokens = 2048, 512 + 3 * 8 * 512, 64 * 128, 4 * 128, 32768
    visible = lambda limit: (limit * (limit + 1) / 2 + (tokens - limit) * limit) / tokens
    gflops = lambda rows, keys: (6 * width * rows + 12 * q * keys) / 1e9
    full = gflops(2 * q + 2 * kv + rows_of_experts, visible(tokens))
    sparse = gflops(2 * q + 2 * kv + 2 * 64 + rows_of_experts, visible(1024) + visible(128))
    head = 6 * width * 151936 / 1e9
    layers = [full if i % 12 == 0 else sparse for i in range(49)]
    cuts = {2: (24,), 3: (12, 36), 4: (12, 24, 36), 5: (12, 24, 36, 48)}  # tests/model/partition_test.cpp
    svg = Svg(1180, 400, "Whole hybrid blocks over two to five stages")
    svg.text(40, 42, "49 layers at hybrid_ratio 1:11, by modelled cost: the cuts lie between blocks", 16, weight=700, anchor="start")
    left, unit = 100, 1040 / (sum(layers) + head)
    colours = [BLUE, TEAL, ORANGE, VIOLET, ROSE]

    def bar(y, height, pieces):
        x = left
        for cost, fill, label, ink in pieces:
            svg.rect(x + 0.6, y, cost * unit - 1.2, height, fill=fill, stroke="none", radius=3)
            if label:
                svg.text(x + cost * unit / 2, y + height / 2 + 4.5, label, 12, fill=ink, weight=600)
            x += cost * unit

    bar(66, 44, [(cost, BLUE if i % 12 == 0 else "#a9d8d0", "full" if i % 12 == 0 else "", "#ffffff") for i, cost in enumerate(layers)]
        + [(head, "#c9bfee", "head", INK)])
    svg.text(40, 93, "layers", 13, anchor="start", weight=600)
    svg.text(left, 132, f"a full layer costs {full:.2f} GFLOPs a token at {tokens} tokens, a sparse one {sparse:.2f}, the head {head:.2f}", 12.5,
             fill=MUTED, anchor="start")
    for stages, cut in cuts.items():
        y = 152 + (stages - 2) * 52
        bounds = (0,) + cut + (49,)
        costs = [sum(layers[a:b]) + (head if b == 49 else 0) for a, b in zip(bounds, bounds[1:])]
        svg.text(40, y + 24, f"pp {stages}", 13, anchor="start", weight=600)
        bar(y, 38, [(cost, colours[s], f"stage {s}: {cost:.1f}", "#ffffff") for s, cost in enumerate(costs)])
    svg.text(40, 384, "GFLOPs a token, forward and backward. Four blocks and the closing layer: a sixth stage is refused.", 12, fill=MUTED, anchor="start")
    svg.save("partition.svg")


# ---- verify --------------------------------------------------------------------------------------------------------------------
def verify():
    """What `hysparse verify` does: one rank and many layouts from the same start, and what is compared."""
    svg = Svg(1020, 400, "One rank and every layout start from the same values and data; losses, norms and gradients must agree")
    top, h = 60, 250
    svg.rect(40, top, 170, h, stroke=MUTED)
    svg.text(125, top + 30, "the same", 15, weight=700)
    for i, line in enumerate(("config", "initial values", "tokens", "order of the data", "five steps")):
        svg.text(125, top + 68 + 30 * i, line, 13)

    def ranks(x, y, columns, rows, cell, fills):
        for r in range(rows):
            for c in range(columns):
                svg.rect(x + c * (cell + 4), y + r * (cell + 4), cell, cell, fill=fills[r % len(fills)], stroke="none", radius=3)

    svg.rect(290, top, 270, 62, stroke=BLUE, width=1.6)
    ranks(310, top + 20, 1, 1, 22, (BLUE,))
    svg.text(348, top + 28, "one rank", 14, anchor="start", weight=700, fill=BLUE)
    svg.text(348, top + 47, "the reference", 12, anchor="start", fill=MUTED)
    rows = [("tp=4,sp,ep=2", 4, 1, (ORANGE,)), ("pp=3,recompute=layer", 3, 1, (TEAL,)), ("tp=2,pp=2,dp=2,ep=4", 4, 2, (TEAL, VIOLET))]
    for i, (name, columns, lines, fills) in enumerate(rows):
        y = top + 80 + 60 * i
        svg.rect(290, y, 270, 50, stroke=LINE)
        cell = 18 if lines == 1 else 14
        ranks(306, y + (25 - cell / 2 if lines == 1 else 9), columns, lines, cell, fills)
        svg.text(404, y + 30, name, 11.5, anchor="start", mono=True)
    svg.text(425, top + h + 24, "mpirun starts each; up to --np ranks", 12, fill=MUTED)
    svg.line([(211, top + 31), (287, top + 31)], MUTED)
    for i in range(3):
        svg.line([(211, top + 105 + 60 * i), (287, top + 105 + 60 * i)], MUTED)

    svg.rect(640, top, 340, h, stroke=INK, width=1.4)
    svg.text(810, top + 30, "compared", 15, weight=700)
    facts = [("each step", "loss", "1e-10"), ("", "gradient norm", "1e-10"), ("", "experts' load", "equal"),
             ("step 1", "gradient of every parameter", "1e-9"), ("", "its copies on other ranks", "1e-9"),
             ("", "elements with one owner", "all")]
    for i, (when, what, limit) in enumerate(facts):
        y = top + 66 + 31 * i
        svg.text(656, y, when, 12.5, anchor="start", fill=MUTED)
        svg.text(728, y, what, 13, anchor="start")
        svg.text(964, y, limit, 12.5, anchor="end", mono=True, fill=TEAL)
    svg.line([(561, top + 31), (637, top + 31)], BLUE)
    for i in range(3):
        svg.line([(561, top + 105 + 60 * i), (637, top + 105 + 60 * i)], MUTED)
    svg.text(810, top + h + 24, "relative, in float64; a gradient by its norm", 12, fill=MUTED)
    svg.text(40, 384, "A difference beyond the limit fails the layout, with the parameter's name. So does a rank that dies, hangs or "
             "prints an error.", 12.5, fill=MUTED, anchor="start")
    svg.save("verify.svg")


# ---- order of the samples -------------------------------------------------------------------------------------------------------
def blend_order(weights, count):
    """Earliest deadline first, as data/blend.h says: sample i of source k belongs to [(i-1)/p, i/p), rounded outwards."""
    total, given, order = sum(weights), [0] * len(weights), []
    for index in range(count):
        due = [(-(-(c + 1) * total // w), k) for k, (w, c) in enumerate(zip(weights, given)) if c * total // w <= index]
        k = min(due)[1]
        given[k] += 1
        order.append(k)
    return order


def sampling():
    svg = Svg(1000, 430, "From documents to samples: packing, windows, blends and document masks")
    colours = [BLUE, ORANGE, TEAL, ROSE, VIOLET]
    unit, left, height = 25, 190, 26
    lengths = [7, 6, 9, 3, 6]

    def documents(y, order):
        x = left
        for d in order:
            svg.rect(x, y, lengths[d] * unit, height, fill=colours[d], stroke="#ffffff", radius=4)
            svg.text(x + lengths[d] * unit / 2, y + 18, "abcde"[d], 13, fill="#ffffff", weight=700)
            x += lengths[d] * unit

    def label(y, text, detail):
        svg.text(30, y + 12, text, 13, anchor="start", weight=700)
        svg.text(30, y + 28, detail, 11.5, fill=MUTED, anchor="start")

    label(40, "documents", "as in the file")
    documents(42, range(5))
    order = [2, 4, 0, 3, 1]
    label(106, "one epoch", "permuted and packed")
    documents(108, order)
    seq_len, windows = 7, [2, 0, 3, 1]
    for w in range(4):
        x = left + w * seq_len * unit
        svg.path(f"M{x + 2:g} 140v8H{x + seq_len * unit - 2:g}v-8", INK, 1.4, arrow=False)
        svg.text(x + seq_len * unit / 2, 165, f"window {w}: sample {windows.index(w)}", 12)
    svg.text(left + 30 * unit, 152, "dropped", 11.5, fill=MUTED)
    svg.rect(left + 29 * unit, 105, 2 * unit, 32, fill="none", stroke=INK, radius=3, dash="3 3")

    # The second window with its documents' starts.
    begins, x = [], 0
    for d in order:
        begins.append(x)
        x += lengths[d]
    label(206, "window 1, masked", "inputs, starts, targets")
    for t in range(seq_len):
        at = seq_len + t
        owner = max(i for i, b in enumerate(begins) if b <= at)
        start = max(begins[owner] - seq_len, 0)
        last = at + 1 in begins
        x = left + t * 70
        svg.rect(x, 204, 62, 24, fill=colours[order[owner]], stroke="none", radius=4)
        svg.text(x + 31, 221, f"{'abcde'[order[owner]]}{at - begins[owner]}", 12.5, fill="#ffffff", weight=700)
        svg.text(x + 31, 246, str(start), 12.5, mono=True)
        following = max(i for i, b in enumerate(begins) if b <= at + 1)
        target = "-1" if last else f"{'abcde'[order[following]]}{at + 1 - begins[following]}"
        svg.text(x + 31, 266, target, 12.5, fill=ROSE if last else MUTED, mono=True)
    svg.text(left + 7 * 70 + 10, 246, "start of its document", 11.5, fill=MUTED, anchor="start")
    svg.text(left + 7 * 70 + 10, 266, "target; -1: not counted", 11.5, fill=MUTED, anchor="start")

    weights, names = [5, 3, 2], [BLUE, ORANGE, TEAL]
    label(310, "a blend", "weights 0.5, 0.3, 0.2")
    given = [0, 0, 0]
    for i, k in enumerate(blend_order(weights, 24)):
        x = left + i * 32
        svg.rect(x, 306, 28, 28, fill=names[k], stroke="none", radius=5)
        svg.text(x + 14, 325, str(given[k]), 12.5, fill="#ffffff", weight=700)
        given[k] += 1
    total = sum(weights)
    for k, w in enumerate(weights):
        y = 352 + k * 20
        for i in range(24 * w // total + 1):
            begin, end = i * total / w, min((i + 1) * total / w, 24)
            if begin >= 24:
                break
            svg.rect(left + begin * 32 + 1, y, (end - begin) * 32 - 4, 11, fill="none", stroke=names[k], radius=3)
    svg.text(30, 372, "each sample is drawn", 11.5, fill=MUTED, anchor="start")
    svg.text(30, 388, "inside a bar of its own", 11.5, fill=MUTED, anchor="start")
    svg.save("sampling.svg")


# ---- folders -------------------------------------------------------------------------------------------------------------------
def folders():
    svg = Svg(1000, 470, "Folders and the direction of dependencies")
    places = {
        "launch": (500, 50, 900, "command line, YAML, trainer, metrics", INK),
        "model": (330, 150, 300, "layers, declarations, decoder", TEAL),
        "attention": (180, 260, 210, "three kinds, RoPE, gates", BLUE),
        "moe": (400, 260, 190, "router, experts", VIOLET),
        "optim": (600, 260, 170, "AdamW, shards", ORANGE),
        "checkpoint": (805, 260, 200, "HDF5, safetensors", ROSE),
        "parallel": (555, 350, 420, "mesh, placement, communicators", TEAL),
        "data": (880, 350, 150, "tokens, windows", ORANGE),
        "core": (500, 432, 900, "tensor, tape, ops, CPU kernels, threads", BLUE),
    }
    top_of = lambda n: places[n][1] - 23
    bottom_of = lambda n: places[n][1] + 23
    edges = [("launch", "model", 330), ("launch", "optim", 600), ("launch", "checkpoint", 805), ("launch", "data", 930),
             ("model", "attention", 230), ("model", "moe", 400), ("attention", "core", 180), ("moe", "parallel", 400),
             ("optim", "parallel", 600), ("checkpoint", "parallel", 740), ("parallel", "core", 555), ("data", "core", 880)]
    for upper, lower, x in edges:
        svg.line([(x, bottom_of(upper) + 1), (x, top_of(lower) - 2)], MUTED, 1.6)
    for name, (x, y, w, what, colour) in places.items():
        svg.rect(x - w / 2, y - 23, w, 46, radius=8, stroke=colour, width=1.6)
        svg.text(x, y - 3, name + "/", 14, fill=colour, weight=700)
        svg.text(x, y + 15, what, 11.5, fill=MUTED)
    svg.save("folders.svg")


if __name__ == "__main__":
    hybrid_block()
    oracle()
    placement()
    mesh()
    tensor_parallel()
    pipeline()
    partition()
    verify()
    sampling()
    folders()
