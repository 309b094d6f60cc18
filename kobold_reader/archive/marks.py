r"""The files of `export`, which `import` reads back: blocks of text, each under a mark that says what it is.

In .md a mark is a line with an HTML comment, in .txt a rule, in .jsonl a value of the line's object. It carries the
file's sha256, the page, a hash of the text as exported, the block's number, and a checksum of itself: a block is known
to be edited without asking the archive, and a mark that was lost, doubled, moved or changed by a single character is
known as such, so that no text is ever taken for another page. A line of text that looks like a mark gets a backslash.

What editors do is no change: other newlines, a byte order mark, spaces at line ends, empty lines around a text.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kobold_reader.archive.corrections import bare, clean
from kobold_reader.errors import ConfigError
from kobold_reader.options import ExportFormat

__all__ = ["FORMATS", "Block", "DamagedError", "FoundBlock", "decode", "is_export", "parse", "render"]

FORMATS: Final[tuple[ExportFormat, ...]] = ("md", "txt", "jsonl")

_SIGNS: Final = {"md": ("<!-- ", " -->"), "txt": ("===== ", " =====")}
_LOOKS_LIKE: Final = re.compile(r"(\s*)(\\*)(<!--|=+)\s*kobold-reader\b", re.IGNORECASE)
"""What somebody may have meant as a mark, of either format; group 2 says that it is text."""
_END: Final = "kobold-reader end"
_MARK: Final = re.compile(
    r"kobold-reader page (?P<page_number>[1-9][0-9]*)(?: (?P<part>[a-z]+))? sha256=(?P<sha256>[0-9a-f]{64}) "
    r"text=(?P<exported>[0-9a-f]{16}) block=(?P<number>[0-9]+)/(?P<total>[0-9]+) status=(?P<status>[a-z_]+) "
    r"file=(?P<file>\".*\")"
)
_CHECKED: Final = re.compile(r"(.*) check=([0-9a-f]{12})")
_BYTE_ORDER_MARKS: Final = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
TRANSCRIPTION: Final = "ocr"


@dataclass(frozen=True, slots=True)
class Block:
    """One text of one page."""

    file: str
    """For people: the path below the folder that was indexed."""
    sha256: str
    """Of that file."""
    page_number: int
    part: str
    """ocr: the transcription, the only one that can be corrected; caption, tags."""
    status: str
    text: str


@dataclass(frozen=True, slots=True)
class FoundBlock:
    """A block as it stands in a file now."""

    block: Block
    exported: str
    """`hash_of` the text as it was exported."""
    line: int
    """Of its mark."""

    @property
    def is_edited(self) -> bool:
        """Whether its text is another than was exported."""
        return hash_of(self.block.text) != self.exported


class DamagedError(Exception):
    """A file of an export cannot be told apart into its pages any more.

    Args:
        line: 1-based.
        why: What is wrong there.
    """

    def __init__(self, line: int, why: str) -> None:
        super().__init__(f"line {line}: {why}")


def hash_of(text: str) -> str:
    """Return what a mark says of its block's text."""
    return hashlib.sha256(bare(text).encode()).hexdigest()[:16]


# ── writing ───────────────────────────────────────────────────────────────────────────────────────


def render(blocks: Sequence[Block], form: ExportFormat) -> str:
    r"""Return blocks as the text of one file, with `\n` newlines."""
    marks = [_mark(block, number, len(blocks)) for number, block in enumerate(blocks, start=1)]
    if form == "jsonl":
        objects = [_object(block, mark) for block, mark in zip(blocks, marks, strict=True)]
        return "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in objects)
    before, after = _SIGNS[form]
    pieces = []
    for block, mark in zip(blocks, marks, strict=True):
        pieces.append(f"{before}{mark}{after}\n\n")
        if text := clean(block.text):
            pieces.append("\n".join(_escaped(line) for line in text.split("\n")) + "\n\n")
    return f"{''.join(pieces)}{before}{_END}{after}\n"


def _mark(block: Block, number: int, total: int) -> str:
    part = "" if block.part == TRANSCRIPTION else f" {block.part}"
    name = json.dumps(block.file, ensure_ascii=False).replace("--", "-\\u002d")  # "--" ends an HTML comment
    mark = (
        f"kobold-reader page {block.page_number}{part} sha256={block.sha256} text={hash_of(block.text)} "
        f"block={number}/{total} status={block.status} file={name}"
    )
    return f"{mark} check={_check(mark)}"


def _check(mark: str) -> str:
    return hashlib.sha256(mark.encode()).hexdigest()[:12]


def _object(block: Block, mark: str) -> dict[str, Any]:
    return {
        "file": block.file,
        "file_sha256": block.sha256,
        "page_number": block.page_number,
        "page_part": block.part,
        "page_status": block.status,
        "text": clean(block.text),
        "mark": mark,
    }


def _escaped(line: str) -> str:
    found = _LOOKS_LIKE.match(line)
    return f"{found[1]}\\{line[found.end(1) :]}" if found else line


def _unescaped(line: str) -> str:
    found = _LOOKS_LIKE.match(line)
    return f"{found[1]}{line[found.end(1) + 1 :]}" if found else line


# ── reading back ──────────────────────────────────────────────────────────────────────────────────


def decode(raw: bytes) -> str:
    r"""Return a file's text with `\n` newlines.

    Raises:
        DamagedError: It was saved in an encoding that says nothing of itself.
    """
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if raw.startswith(mark)), "utf-8")
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as err:
        line = raw[: err.start].count(b"\n") + 1
        raise DamagedError(line, "this is no UTF-8; save the file as UTF-8.") from err
    return text.replace("\r\n", "\n").replace("\r", "\n")


def form_of(text: str) -> ExportFormat | None:
    """Return the format of an export, damaged or not, whatever its name; None for any other file."""
    lines = text.split("\n")
    first = next((line for line in lines if _is_mark(line)), None)
    if first is not None:
        return "md" if first.lstrip().startswith("<") else "txt"
    return "jsonl" if any(line.lstrip().startswith("{") and "kobold-reader page" in line for line in lines) else None


def is_export(text: str) -> bool:
    """Tell whether somebody's file holds marks of ours."""
    return form_of(text) is not None


def _is_mark(line: str) -> bool:
    found = _LOOKS_LIKE.match(line)
    return found is not None and not found[2]


def parse(text: str) -> list[FoundBlock]:
    """Return the blocks of an export's text.

    Raises:
        DamagedError: It cannot be told for certain which text belongs to which page; nothing of it must be taken.
    """
    form = form_of(text)
    if form is None:
        raise DamagedError(1, "there is no mark of kobold-reader in this file.")
    found = list(_parse_objects(text) if form == "jsonl" else _parse_lines(text, form))
    _check_order(found)
    return [one for one, _, _ in found]


_Numbered = tuple[FoundBlock, int, int]
"""With its number and how many there should be."""


def _parse_lines(text: str, form: ExportFormat) -> Iterator[_Numbered]:
    before, after = _SIGNS[form]
    current: tuple[int, re.Match[str]] | None = None
    lines: list[str] = []
    is_ended = False
    for number, line in enumerate(text.split("\n"), start=1):
        if not _is_mark(line):
            if line.strip() and (current is None or is_ended):
                where = "after the last mark" if is_ended else "before the first mark"
                raise DamagedError(number, f"there is text {where}, which belongs to no page.")
            lines.append(_unescaped(line))
            continue
        if current is not None and not is_ended:
            yield _found(*current, "\n".join(lines))
        if is_ended:
            raise DamagedError(number, "there is a mark after the one that says that the file ends.")
        mark = line.strip()
        lines = []
        if mark == f"{before}{_END}{after}":
            is_ended = True
        elif mark.startswith(before) and mark.endswith(after):
            current = number, _read_mark(mark[len(before) : -len(after)], number)
        else:
            raise DamagedError(number, "this mark was changed.")
    if not is_ended:
        raise DamagedError(text.count("\n") + 1, "the mark that says that the file ends is missing.")


def _parse_objects(text: str) -> Iterator[_Numbered]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except ValueError as err:
            raise DamagedError(number, f"this is no JSON any more ({err}).") from err
        if not isinstance(found, dict) or not isinstance(found.get("text"), str):
            raise DamagedError(number, 'this is no object with a "text" any more.')
        one = _found(number, _read_mark(str(found.get("mark")), number), found["text"])
        if {**_object(one[0].block, found["mark"]), "text": found["text"]} != found:
            raise DamagedError(number, 'more than the "text" was changed.')
        yield one


def _read_mark(mark: str, line: int) -> re.Match[str]:
    checked = _CHECKED.fullmatch(mark)
    if checked is None or _check(checked[1]) != checked[2]:
        raise DamagedError(line, "this mark was changed.")
    found = _MARK.fullmatch(checked[1])
    if found is None:
        raise DamagedError(line, "this mark was made by another release of kobold-reader.")
    return found


def _found(line: int, mark: re.Match[str], text: str) -> _Numbered:
    try:
        text = clean(text)
    except ConfigError as err:
        raise DamagedError(line, str(err)) from err
    block = Block(
        file=json.loads(mark["file"]),
        sha256=mark["sha256"],
        page_number=int(mark["page_number"]),
        part=mark["part"] or TRANSCRIPTION,
        status=mark["status"],
        text=text,
    )
    return FoundBlock(block, mark["exported"], line), int(mark["number"]), int(mark["total"])


def _check_order(found: Sequence[_Numbered]) -> None:
    """Check that all marks are there, once and in the order in which they were written."""
    for expected, (one, number, total) in enumerate(found, start=1):
        if number < expected:
            raise DamagedError(one.line, f"this mark, number {number} of {total}, stands twice, or not in its place.")
        if number > expected:
            raise DamagedError(one.line, f"a mark is missing before this one, number {number} of {total}.")
        if total != found[0][2]:
            raise DamagedError(one.line, "this mark is from another file.")
    if found and len(found) < found[0][2]:
        missing = found[0][2] - len(found)
        raise DamagedError(found[-1][0].line, f"{missing} of {found[0][2]} marks are missing after this one.")
    if not found:
        raise DamagedError(1, "all marks of pages are missing.")
