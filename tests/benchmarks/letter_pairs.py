"""Makes `kobold_reader/pages/letter_pairs.toml`: how common pairs of letters and single characters are.

    pip download --no-deps langdetect jieba opencc-python-reimplemented   # unpack them into FOLDER
    python -m tests.benchmarks.letter_pairs FOLDER > kobold_reader/pages/letter_pairs.toml

The counts are those of langdetect's language profiles (Apache-2.0, from Wikipedia). A script's value of a pair is the
root of the mean square over its languages: a pair of one language counts nearly as much as one of all. Chinese
characters are jieba's (MIT), with their traditional forms from OpenCC (Apache-2.0).
"""

from __future__ import annotations

import json
import math
import sys
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path

SCRIPTS = {
    "LATIN": "af ca cs cy da de en es et fi fr hr hu id it lt lv nl no pl pt ro sk sl so sq sv sw tl tr vi",
    "CYRILLIC": "bg mk ru uk",
    "GREEK": "el",
    "ARABIC": "ar fa ur",
    "HEBREW": "he",
    "DEVANAGARI": "hi mr ne",
    "BENGALI": "bn",
    "GURMUKHI": "pa",
    "GUJARATI": "gu",
    "TAMIL": "ta",
    "TELUGU": "te",
    "KANNADA": "kn",
    "MALAYALAM": "ml",
    "THAI": "th",
}
RAREST_BITS = 16
"""A pair that is one in 2 ** 16 has level 0; each level is twice as common, up to 9."""
LEAST_LEVEL = 2
HIRAGANA = "のにはをたがでてとしれさいるりかなもまくこすうきあおつらっよんわけめせみえちそやゃ"
RARER_KANA = (
    "だじどばゆほひょろねぎぶべごげびへむずよふぬぐざゅぼぞアイウエオカキクケコサシスセソタチツテトナニネノハヒフヘホ"
    "マミムメモヤユヨラリルレロワンーァィェォュョャガギグゲゴザジズゼゾダデドバパビピブプベペボポッヴ"
)
"""By our own judgement."""
HAN = (300, 900)
"""Chinese characters of the first and of the second level."""
HANGUL = (150, 600)


def normal(pair: str, script: str) -> str | None:
    """Return the pair as the reader sees it; None where it is of another script."""
    pair = unicodedata.normalize("NFKC", pair.casefold())
    for letter in pair:
        is_letter = unicodedata.category(letter)[0] in "LM" and unicodedata.name(letter, "").startswith(script)
        if letter != " " and not is_letter:
            return None
        if script in {"ARABIC", "HEBREW"} and unicodedata.category(letter) == "Mn":
            return None
    return pair if len(pair) == 2 else None


def levels(profiles: Path, script: str) -> dict[str, dict[str, int]]:
    """Return first letter → second letter → level."""
    squares: dict[str, float] = defaultdict(float)
    languages = SCRIPTS[script].split()
    for language in languages:
        counted: Counter[str] = Counter()
        for text, count in json.loads((profiles / language).read_text("utf-8"))["freq"].items():
            if len(text) == 2 and (pair := normal(text, script)):
                counted[pair] += count
        total = sum(counted.values())
        for pair, count in counted.items():
            squares[pair] += (count / total) ** 2
    found: dict[str, dict[str, int]] = {}
    for pair, square in squares.items():
        level = min(9, round(math.log2(math.sqrt(square / len(languages))) + RAREST_BITS))
        if level >= LEAST_LEVEL:
            found.setdefault(pair[0], {})[pair[1]] = level
    return found


def row(seconds: dict[str, int]) -> str:
    """`9en8rs`: each digit is the level of the letters behind it."""
    parts = []
    for level in range(9, 0, -1):
        letters = "".join(sorted(letter for letter, its in seconds.items() if its == level))
        parts += [f"{level}{letters}"] if letters else []
    return "".join(parts)


def most_common(counts: Counter[str], sizes: tuple[int, int]) -> tuple[str, str]:
    """Return the most common characters and those that follow."""
    ordered = [character for character, _ in counts.most_common(sizes[1])]
    return "".join(ordered[: sizes[0]]), "".join(ordered[sizes[0] :])


def hangul(profiles: Path) -> tuple[str, str]:
    """Return Korean syllables, common and less common."""
    counts = Counter(
        {
            text: count
            for text, count in json.loads((profiles / "ko").read_text("utf-8"))["freq"].items()
            if len(text) == 1 and "\uac00" <= text <= "\ud7a3"
        }
    )
    return most_common(counts, HANGUL)


def han(folder: Path) -> list[str]:
    """Return Chinese characters, common and less common, each with its traditional forms."""
    counts: Counter[str] = Counter()
    for line in next(folder.rglob("jieba/dict.txt")).read_text("utf-8").splitlines():
        word, count, *_ = line.split()
        for character in word:
            if "\u4e00" <= character <= "\u9fff":
                counts[character] += int(count)
    traditional = {}
    for line in next(folder.rglob("STCharacters.txt")).read_text("utf-8").splitlines():
        one, forms = line.split("\t")
        traditional[one] = forms.replace(" ", "")
    return [
        "".join(dict.fromkeys("".join(one + traditional.get(one, "") for one in part)))
        for part in most_common(counts, HAN)
    ]


def main(folder: Path) -> None:
    """Print the file."""
    profiles = next(folder.rglob("langdetect/profiles"))
    print("# How common pairs of letters are, by script; made by tests/benchmarks/letter_pairs.py from")
    print("# langdetect's profiles (Apache-2.0), jieba's word counts (MIT) and OpenCC's table (Apache-2.0).")
    print(
        '# e = "9nr8lst" says that en and er have level 9, el, es and et level 8. A pair of the next level is twice as'
    )
    print('# common. " " is the edge of a word.')
    for script in SCRIPTS:
        print(f"\n[pairs.{script.lower()}]")
        for first, seconds in sorted(levels(profiles, script).items()):
            print(f"{json.dumps(first, ensure_ascii=False)} = {json.dumps(row(seconds), ensure_ascii=False)}")
    print("\n# Characters that are common by themselves, and less common ones.\n[characters]")
    for name, parts in (("kana", (HIRAGANA, RARER_KANA)), ("hangul", hangul(profiles)), ("han", han(folder))):
        print(f'{name} = ["{parts[0]}",\n  "{parts[1]}"]')


if __name__ == "__main__":
    main(Path(sys.argv[1]))
