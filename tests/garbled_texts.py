"""Labelled text layers: right ones from a file, and garbled ones made of them by what really happens to PDFs."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

RIGHT = Path(__file__).with_name("right_text_layers.txt")
HELD_OUT = Path(__file__).with_name("right_text_layers_held_out.txt")
ENOUGH_LETTERS = 40

# A part of the code of Kruti Dev, a font for Hindi whose characters are Latin letters and signs.
KRUTI_DEV = dict(
    zip(
        "कगचजटडतदनपफबमयरलवसहािीुूेैंखघणथधभशषअआइईउऊएओौो।्ृछझठढ",
        [
            *"dxptVMrnuiQce;jyolgkfhqwsSa",
            *("[k", "?k", ".k", "Fk", "/k", "Hk", "'k", '"k', "v", "vk", "b", "bZ", "m", "Å", ",", "vks", "kS", "ks"),
            *"A~`N>B<",
        ],
        strict=True,
    )
)
HALF = dict(zip("कगचजतनपबमलवस", "DXPTRUICEYOL", strict=True))


@dataclass(frozen=True)
class Chunk:
    script: str
    text: str
    kind: str = "right"


def right_chunks(path: Path = RIGHT) -> list[Chunk]:
    chunks = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            script, text = line.split("\t")
            chunks.append(Chunk(script, text.replace("\\n", "\n").replace("\\t", "\t").replace("\\\\", "\\")))
    return chunks


def shifted(text: str, by: int) -> str:
    """A constant added to every code, as where glyph numbers are taken for characters."""
    return "".join(chr(max(33, ord(one) + by)) if "!" <= one <= "~" else one for one in text)


def moved(text: str, by: int) -> str:
    """As `shifted`, in other scripts."""
    return "".join(chr(ord(one) + by) if ord(one) > 0x370 else one for one in text)


def permuted(text: str, seed: int = 0) -> str:
    """Every letter another one, as where a subset of a font is numbered anew."""
    letters = sorted({one for one in text.casefold() if one.isalpha()} | set("abcdefghijklmnopqrstuvwxyz"))
    if not all(one < "\u0250" or "\u1e00" <= one <= "\u1eff" for one in letters):
        letters = [one for one in letters if one > "z"]
    else:
        letters = [one for one in letters if one <= "z"]
    others = list(letters)
    random.Random(f"{seed}{text}").shuffle(others)
    table = dict(zip(letters, others, strict=True))
    return "".join(table.get(one.casefold(), one).upper() if one.isupper() else table.get(one, one) for one in text)


def decoded(code: str, wrong: str) -> Callable[[str], str]:
    """Bytes of one code page read as another."""
    return lambda text: text.encode(code, "replace").decode(wrong, "replace")


def kruti_dev(text: str) -> str:
    for letter, half in HALF.items():
        text = text.replace(letter + "\u094d", half)
    return "".join(KRUTI_DEV.get(one, one if one.isascii() else "") for one in text)


def codes(form: str) -> Callable[[str], str]:
    """Names of glyphs instead of characters."""
    return lambda text: " ".join("".join(form.format(ord(one) % 256) for one in word) for word in text.split())


ANY: dict[str, Callable[[str], str]] = {
    "private use": lambda text: "".join(chr(0xF000 + ord(one) % 256) if one > " " else one for one in text),
    "(cid:12)": codes("(cid:{})"),
    "/g12": codes("/g{}"),
    "control codes": lambda text: "".join(chr(1 + ord(one) % 8) if one > " " else one for one in text),
    "replacement characters": lambda text: "".join("\ufffd" if one.isalpha() else one for one in text),
    "utf-8 as cp1252": decoded("utf-8", "cp1252"),
    "letters permuted": permuted,
}


def backwards(text: str) -> str:
    """Each line from its end, as the glyphs of a mirrored page stand."""
    return "\n".join(line[::-1] for line in text.split("\n"))


LATIN: dict[str, Callable[[str], str]] = {
    **{f"shifted by {by}": partial(shifted, by=by) for by in (-31, -29, -28, -3, -1, 1, 3, 5, 13, 29)},
    **{f"permuted {seed}": partial(permuted, seed=seed) for seed in range(1, 4)},
    "# for spaces": lambda text: text.replace(" ", "#").replace("-", "="),
    "no spaces": lambda text: "".join(text.split()),
    "a space behind each letter": lambda text: " ".join("".join(text.split())),
}
KINDS: dict[str, dict[str, Callable[[str], str]]] = {
    "latin": LATIN,
    "code": {name: change for name, change in LATIN.items() if "space" not in name},
    "table": {name: change for name, change in LATIN.items() if "space" not in name},
    "cyrillic": {
        "backwards": backwards,
        "cp1251 as Latin-1": decoded("cp1251", "latin-1"),
        "koi8-r as cp1251": decoded("koi8-r", "cp1251"),
        "cp1251 as koi8-r": decoded("cp1251", "koi8-r"),
        "cp866 as cp1251": decoded("cp866", "cp1251"),
        "utf-8 as cp1251": decoded("utf-8", "cp1251"),
        "moved": partial(moved, by=3),
        "# for spaces": LATIN["# for spaces"],
    },
    "greek": {
        "backwards": backwards,
        "cp1253 as Latin-1": decoded("cp1253", "latin-1"),
        "utf-8 as cp1253": decoded("utf-8", "cp1253"),
        "moved": partial(moved, by=2),
    },
    "arabic": {
        "cp1256 as cp1252": decoded("cp1256", "cp1252"),
        "iso8859-6 as Latin-1": decoded("iso8859-6", "latin-1"),
        "backwards": backwards,
        "moved": partial(moved, by=1),
    },
    "hebrew": {
        "cp1255 as Latin-1": decoded("cp1255", "latin-1"),
        "backwards": backwards,
        "moved": partial(moved, by=1),
        "7-bit code": partial(moved, by=0x60 - 0x5D0),
    },
    "devanagari": {"Kruti Dev": kruti_dev, "moved": partial(moved, by=3)},
    "thai": {"tis-620 as Latin-1": decoded("tis-620", "latin-1"), "moved": partial(moved, by=2)},
    "chinese": {
        "gbk as Latin-1": decoded("gbk", "latin-1"),
        "utf-8 as gbk": decoded("utf-8", "gbk"),
        "big5 as gbk": decoded("big5", "gbk"),
        "gbk as big5": decoded("gbk", "big5"),
        "moved": partial(moved, by=5),
    },
    "japanese": {
        "shift_jis as Latin-1": decoded("shift_jis", "latin-1"),
        "shift_jis as gbk": decoded("shift_jis", "gbk"),
        "utf-8 as shift_jis": decoded("utf-8", "shift_jis"),
        "euc_jp as shift_jis": decoded("euc_jp", "shift_jis"),
        "moved": partial(moved, by=5),
    },
    "korean": {
        "euc_kr as Latin-1": decoded("euc_kr", "latin-1"),
        "euc_kr as gbk": decoded("euc_kr", "gbk"),
        "utf-8 as cp949": decoded("utf-8", "cp949"),
        "moved": partial(moved, by=7),
    },
    "other": {},
}
NOT_FOR = {  # hardly a letter changes
    "letters permuted": {"chinese", "japanese", "korean", "other"},
    "utf-8 as cp1252": {"latin", "code", "table"},
}


def garbled_chunks(rounds: int = 1, path: Path = RIGHT) -> list[Chunk]:
    """So many of each right chunk that has enough letters, the ways taken in turn."""
    chunks = []
    turns: dict[str, int] = {}
    for _ in range(rounds):
        for chunk in right_chunks(path):
            words = [word for word in chunk.text.split() if word.isalpha()]
            if sum(map(len, words)) < ENOUGH_LETTERS and chunk.script in {"code", "table"}:
                continue
            own = {**KINDS[chunk.script], **ANY}
            ways = [name for name in own if chunk.script not in NOT_FOR.get(name, ())]
            turn = turns.get(chunk.script, -1) + 1
            turns[chunk.script] = turn
            name = ways[turn % len(ways)]
            chunks.append(Chunk(chunk.script, own[name](chunk.text), name))
    return chunks
