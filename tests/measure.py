"""How a reading is measured against ground truth: order-free token scores, and the character error rate."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter


def tokens(text: str) -> Counter[str]:
    """Words and numbers, case folded, order left out."""
    return Counter(re.findall(r"\w+", unicodedata.normalize("NFC", text).casefold()))


def recall(truth: str, found: str) -> float:
    """Share of the truth's tokens that were found."""
    wanted = tokens(truth)
    return sum((wanted & tokens(found)).values()) / max(1, wanted.total())


def precision(truth: str, found: str) -> float:
    """Share of the tokens found that are true."""
    given = tokens(found)
    return sum((given & tokens(truth)).values()) / max(1, given.total())


def character_error_rate(truth: str, found: str) -> float:
    """Levenshtein distance on letters and digits, over the truth's length."""
    first, second = letters(truth), letters(found)
    row = list(range(len(second) + 1))
    for index, letter in enumerate(first, start=1):
        above, row[0] = row[0], index
        for column, other in enumerate(second, start=1):
            above, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, above + (letter != other))
    return row[-1] / max(1, len(first))


def letters(text: str) -> str:
    """Letters and digits alone, case folded."""
    return "".join(re.findall(r"\w", unicodedata.normalize("NFC", text).casefold()))
