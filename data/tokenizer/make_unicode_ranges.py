"""Writes unicode_ranges.inc beside this file: what the tokenizers package takes for letters, numbers and marks.

    pip install tokenizers unicodedata2; python3 data/tokenizer/make_unicode_ranges.py

The package's parts follow different versions of Unicode (its regular expressions, Rust's standard library, its
normalizer), and the system's libraries follow others again, so the package itself is asked about every code point.
"""
import os

import tokenizers
import unicodedata2
from tokenizers import Regex, normalizers, pre_tokenizers

CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
CHUNK = 4096


def matched(pre_tokenizer):
    """The code points that come out alone when they stand between letters."""
    found = set()
    for i in range(0, len(CODE_POINTS), CHUNK):
        text = "".join("a" + chr(c) for c in CODE_POINTS[i : i + CHUNK]) + "a"
        found.update(ord(w) for w, _ in pre_tokenizer.pre_tokenize_str(text) if len(w) == 1 and w != "a")
    return found


def letters():
    """\\p{L} leaves what is no letter, removed letters apart."""
    split = pre_tokenizers.Split(Regex(r"\p{L}"), "removed")
    found = set(CODE_POINTS)
    for i in range(0, len(CODE_POINTS), CHUNK):
        text = "".join(map(chr, CODE_POINTS[i : i + CHUNK]))
        for word, _ in split.pre_tokenize_str(text):
            found.difference_update(map(ord, word))
    return found


def newer_than_nfc():
    """Marks and composed letters of later versions of Unicode, which the package's NFC leaves where they are."""
    nfc, nfd = normalizers.NFC().normalize_str, normalizers.NFD().normalize_str
    found = set()
    for c in CODE_POINTS:
        x = chr(c)
        if unicodedata2.combining(x):
            probes = ("q" + x + "\u0334", "q\u0345" + x)
            if all(nfc(p) == p for p in probes):
                found.add(c)
        decomposition = unicodedata2.decomposition(x)
        if decomposition and not decomposition.startswith("<") and nfd(x) == x:
            found.add(c)
    return found


def ranges(code_points):
    out = []
    for c in sorted(code_points):
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def table(name, comment, code_points):
    lines, line = [], " "
    for low, high in ranges(code_points):
        item = f" {{0x{low:x}, 0x{high:x}}},"
        if len(line) + len(item) > 112:
            lines.append(line)
            line = " "
        line += item
    return f"/// {comment}\nconstexpr CodePointRange {name}[] = {{\n" + "\n".join(lines + [line]) + "\n};\n"


numbers = matched(pre_tokenizers.Split(Regex(r"\p{N}"), "isolated"))
digits = matched(pre_tokenizers.Digits(individual_digits=True))
assert numbers <= digits
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "unicode_ranges.inc"), "w") as out:
    out.write(f"// Written by make_unicode_ranges.py from tokenizers {tokenizers.__version__}.\n// clang-format off\n")
    out.write(table("letter_ranges", "\\p{L} of its regular expressions.", letters()))
    out.write(table("number_ranges", "\\p{N} of its regular expressions.", numbers))
    out.write(table("more_digit_ranges", "What its Digits takes besides.", digits - numbers))
    out.write(table("newer_than_nfc_ranges", "Marks and composed letters that its NFC does not know.", newer_than_nfc()))
