"""Makes the golden cases beside this file: small tokenizer.json files with texts, their ids and what decoding gives.

    pip install tokenizers; python3 tests/data/golden_tokenizers/make_golden.py

Where a token with a letter of Latin-1 was added, "decoded" is null: the package takes the letter for a byte.

The tokenizers package trains each on TEXT and encodes TEXTS (add_special_tokens=False). training.json: the merges that
its trainer finds in TEXT.
"""
import json
import os
import random

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

TEXT = """The quick brown fox jumps over the lazy dog; it's what they'll say they've seen, isn't it? I'm sure we'd agree.
    for (int i = 0; i < 1024; ++i) { total += values[i] * 3.14159; }\t// 2024-11-24, 1000000 tokens\r\n\r\n
Fa\u00e7ade, na\u00efve caf\u00e9, \u00dcbergr\u00f6\u00dfentr\u00e4ger stra\u00dfe \u00e4u\u00dfern. Les \u00e9l\u00e8ves o\u00f9 \u00eates-vous?
\u041c\u043e\u0441\u043a\u0432\u0430 \u0438 \u041c\u043e\u0441\u043a\u0432\u0435 \u0441\u043b\u043e\u0432\u043e \u0441\u043b\u043e\u0432\u0430. \u65e5\u672c\u8a9e\u306e\u6587\u7ae0\u3068\u65e5\u672c\u306e\u8a00\u8449\u3002\u4e2d\u6587\u7684\u6587\u672c\uff0c\u4e2d\u56fd\u3002
\ud55c\uad6d\uc5b4 \ubb38\uc7a5 \ud55c\uae00. the the the they them then there these    spaces\n\n\n  and lines   \n"""
TEXTS = [
    "", " ", "\n", "a", "'", "''", "'s", "'S", "it's IT'S it'\u017f they'LL THEY'll 'lx 'r", "The quick brown fox",
    "  two  spaces   three ", "tab\tand\r\nlines\n\n\nend\n", " \n \n x", "\u00a0no-break\u00a0 \u3000wide\u3000\u3000x", "\x0b\x0c\x85\u2028\u180e\ufeff",
    "1 12 123 1234 12345 a1b22c333 \u0663\u0664\u0665 \u00bd\u2167", "x = y+1; // !!!\n\n??? ...\r\n#", "caf\u00e9 cafe\u0301 e\u0301\u0323 e\u0323\u0301 \u1e69 s\u0323\u0307 \u212b \u1f71 \u0958",
    "\u1112\u1161\u11ab\uae00 \ud55c\uad6d\uc5b4", "\u65e5\u672c\u8a9e\u306e\u6587\u7ae0\u3002\u304b\u3099", "\u041c\u043e\u0441\u043a\u0432\u0430, \u0441\u043b\u043e\u0432\u043e", "emoji \U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea", "\x00\x01\x7f nul",
    "<|endoftext|>", "a<|endoftext|>b <|endoftext|> \n<|endoftext|><|endoftext|", "  <left>  x  <right>  y <both> z", "<left><right> <both>  <left>", "word words sword word. word_ \u00e9word wordword word",
    "caf\u00e9! cafe\u0301! xcafe\u0301!", "<abc><ab><abcd> <a <ab", "<norm> \u00e9<norm>", "the" * 60, "ab" * 150 + " " * 150 + "\n" * 120, "a" * 31 + " " + "b" * 32 + " " + "\u00e9" * 16,
]
GPT4O = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
HEAD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
LLAMA3, QWEN = HEAD + r"|\p{N}{1,3}" + TAIL, HEAD + r"|\p{N}" + TAIL
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern) if isinstance(pattern, str) else pattern[0], behavior, invert=invert)


def flagged():
    return [
        AddedToken("<left>", lstrip=True, normalized=False), AddedToken("<right>", rstrip=True, special=True),
        AddedToken("<both>", lstrip=True, rstrip=True), AddedToken("word", single_word=True), AddedToken("<norm>"),
        AddedToken("cafe\u0301!", normalized=True), AddedToken("<ab>"), AddedToken("<abc>", normalized=False),
        AddedToken("<abcd>", normalized=False), AddedToken(" z", normalized=False),
    ]


def cases():
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
    sequence = pre_tokenizers.Sequence
    yield "gpt2", dict(pre=gpt2)
    yield "gpt2_prefix_space", dict(pre=pre_tokenizers.ByteLevel(add_prefix_space=True), legacy=True)
    yield "llama3", dict(pre=sequence([split(LLAMA3), BYTES]), model=dict(ignore_merges=True))
    yield "qwen", dict(pre=sequence([split(QWEN), BYTES]), nfc=True)
    yield "added_tokens", dict(pre=sequence([split(QWEN), BYTES]), nfc=True, added=flagged())
    yield "gpt4o", dict(pre=sequence([split(GPT4O), BYTES]))
    yield "digits", dict(pre=sequence([pre_tokenizers.Digits(individual_digits=True), gpt2]))
    yield "behaviors", dict(
        pre=sequence([
            pre_tokenizers.Digits(individual_digits=False), split((" ",), "merged_with_next"), split(r"\s+", "contiguous"),
            split(r"[\u3000-\u30ff]+", "merged_with_previous"), split(r"\w+|[^\w\s]+|\s+|\S", "removed", True), gpt2,
        ])
    )
    yield "unknown", dict(pre=gpt2, alphabet=["a", "b", "\u0120"], model=dict(unk_token="[UNK]", fuse_unk=True), special=["[UNK]"])
    yield "missing_bytes", dict(pre=gpt2, alphabet=["a", "\u0120"])


def random_texts(texts):
    rng = random.Random(7)
    words = "".join(texts)
    return ["".join(rng.choice(words) for _ in range(rng.randrange(1, 60))) for _ in range(60)]


def make(name, pre, nfc=False, added=(), model=None, alphabet=None, special=(), legacy=False):
    tokenizer = Tokenizer(models.BPE(**(model or {})))
    tokenizer.pre_tokenizer = pre
    tokenizer.normalizer = normalizers.NFC() if nfc else None
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=480 if alphabet is None else 90, show_progress=False, special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if alphabet is None else alphabet,
        limit_alphabet=1000 if alphabet is None else 40,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.add_tokens([t for t in added if not t.special])
    tokenizer.add_special_tokens([t for t in added if t.special])
    file = json.loads(tokenizer.to_str())
    if legacy:
        file["model"]["merges"] = [" ".join(merge) for merge in file["model"]["merges"]]
    tokenizer = Tokenizer.from_str(json.dumps(file))
    texts = TEXTS + [TEXT] + random_texts(TEXTS)
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    latin = {i for i, token in tokenizer.get_added_tokens_decoder().items() if "caf" in token.content}
    out = {
        "made_by": f"tokenizers {tokenizers.__version__}",
        "tokenizer": file,
        "cases": [
            {"text": text, "ids": i, "decoded": None if latin & set(i) else tokenizer.decode(i, skip_special_tokens=False)}
            for text, i in zip(texts, ids)
        ],
    }
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), name + ".json")
    with open(path, "w", encoding="ascii") as to:
        json.dump(out, to, separators=(",", ":"))
        to.write("\n")


def make_training():
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
    styles = {
        "gpt2": gpt2,
        "llama3": pre_tokenizers.Sequence([split(LLAMA3), BYTES]),
        "qwen": pre_tokenizers.Sequence([split(QWEN), BYTES]),
    }
    out = {"text": TEXT, "vocab_size": 340, "merges": {}}
    for style, pre in styles.items():
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre
        tokenizer.normalizer = normalizers.NFC() if style == "qwen" else None
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=out["vocab_size"], min_frequency=2, show_progress=False, initial_alphabet=alphabet
        )
        tokenizer.train_from_iterator([TEXT], trainer)
        out["merges"][style] = json.loads(tokenizer.to_str())["model"]["merges"]
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "training.json")
    with open(path, "w", encoding="ascii") as to:
        json.dump(out, to, separators=(",", ":"))
        to.write("\n")


make_training()
for case_name, options in cases():
    make(case_name, **options)
