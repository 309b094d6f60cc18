r"""The file format of `export`, which `import` reads back: blocks of text, each under a mark with its page.

In .md a mark is an HTML comment on a line of its own, in .txt a rule, in .jsonl a value of the line's object. It has
the file's sha256, the page, a hash of the text as exported, the block's number, and a checksum of itself. So an edited
block is known without asking the archive, and a mark that was lost, doubled, moved or changed by a single character is
known as damaged: no text is ever taken for another page. A line of text that looks like a mark gets a backslash.

Changes that editors make by themselves do not count: other newlines, a byte order mark, spaces at line ends, empty
lines around a text.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kobold_reader.archive.corrections import bare, clean
from kobold_reader.documents import page_id
from kobold_reader.errors import ConfigError
from kobold_reader.options import ExportFormat

FORMATS: tuple[ExportFormat, ...] = ("md", "txt", "jsonl")
"""Those of this module."""
LAYOUT_ENDINGS: Final[Mapping[ExportFormat, str]] = {"pdf": ".ocr.pdf", "hocr": ".hocr", "alto": ".alto.xml"}
"""Those of `layouts.py`."""
TRANSCRIPTION = "ocr"

_SIGNS = {"md": ("<!-- ", " -->"), "txt": ("===== ", " =====")}
_LOOKS_LIKE = re.compile(r"(\s*)(\\*)(<!--|=+)\s*kobold-reader\b", re.IGNORECASE)
"""A line that may be meant as a mark, of either format; with a backslash (group 2) it is text."""
_END = "kobold-reader end"
_MARK = re.compile(
    r"kobold-reader page (?P<page_number>[1-9][0-9]*)(?: (?P<part>[a-z]+))? sha256=(?P<sha256>[0-9a-f]{64}) "
    r"text=(?P<exported>[0-9a-f]{16}) block=(?P<number>[0-9]+)/(?P<total>[0-9]+) status=(?P<status>[a-z_]+) "
    r"file=(?P<file>\".*\")"
)
_CHECKED = re.compile(r"(.*) check=([0-9a-f]{12})")
_BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


@dataclass(frozen=True, slots=True)
class Block:
    """One text of one page."""

    file: str
    """For people: the path below the folder that was indexed."""
    sha256: str
    page_number: int
    part: str
    """ocr: the transcription, the only part that can be corrected; caption, tags."""
    status: str
    text: str

    @property
    def page_id(self) -> str:
        """Id of its page in an archive."""
        return page_id(self.sha256, self.page_number)


@dataclass(frozen=True, slots=True)
class FoundBlock:
    """A block as a file has it now."""

    block: Block
    exported: str
    """`hash_of` the text as it was exported."""
    line: int
    """Line of its mark, 1-based."""
    number: int
    """The block's number in the file, 1-based."""
    total: int
    """How many blocks the file had."""

    @property
    def is_edited(self) -> bool:
        """Whether its text differs from the exported one."""
        return hash_of(self.block.text) != self.exported


class DamagedError(Exception):
    """A file of an export cannot be divided into its pages any more."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(f"line {line}: {why}")


def hash_of(text: str) -> str:
    """Return the hash of a block's text that its mark has."""
    return hashlib.sha256(bare(text).encode()).hexdigest()[:16]


def render(blocks: Sequence[Block], form: ExportFormat) -> str:
    r"""Return blocks as the text of one file, with `\n` newlines."""
    pieces = []
    for number, block in enumerate(blocks, start=1):
        mark = _mark(block, number, len(blocks))
        if form == "jsonl":
            pieces.append(json.dumps(_object(block, mark), ensure_ascii=False) + "\n")
            continue
        before, after = _SIGNS[form]
        pieces.append(f"{before}{mark}{after}\n\n")
        if text := clean(block.text):
            pieces.append("\n".join(_escaped(line) for line in text.split("\n")) + "\n\n")
    if form != "jsonl":
        pieces.append(f"{_END.join(_SIGNS[form])}\n")
    return "".join(pieces)


def _mark(block: Block, number: int, total: int) -> str:
    part = "" if block.part == TRANSCRIPTION else f" {block.part}"
    name = json.dumps(block.file, ensure_ascii=False).replace("--", "-\\u002d")  # "--" ends an HTML comment
    mark = (
        f"kobold-reader page {block.page_number}{part} sha256={block.sha256} text={hash_of(block.text)} "
        f"block={number}/{total} status={block.status} file={name}"
    )
    return f"{mark} check={_checksum(mark)}"


def _checksum(mark: str) -> str:
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


def decode(raw: bytes) -> str:
    r"""Return a file's text with `\n` newlines.

    Raises:
        DamagedError: It is neither UTF-8 nor marked as UTF-16.
    """
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if raw.startswith(mark)), "utf-8")
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as err:
        line = raw[: err.start].count(b"\n") + 1
        raise DamagedError(line, "this is not UTF-8; save the file as UTF-8.") from err
    return text.replace("\r\n", "\n").replace("\r", "\n")


def is_export(text: str) -> bool:
    """Tell whether a file was exported, damaged or not."""
    return _form_of(text) is not None


def _form_of(text: str) -> ExportFormat | None:
    lines = text.split("\n")
    first = next((line for line in lines if _is_mark(line)), None)
    if first is not None:
        return "md" if first.lstrip().startswith("<") else "txt"
    return "jsonl" if any(line.lstrip().startswith("{") and "kobold-reader page" in line for line in lines) else None


def _is_mark(line: str) -> bool:
    found = _LOOKS_LIKE.match(line)
    return found is not None and not found[2]


def parse(text: str) -> list[FoundBlock]:
    """Return the blocks of an export's text.

    Raises:
        DamagedError: Which text belongs to which page is not certain; nothing of the file must be taken.
    """
    form = _form_of(text)
    if form is None:
        raise DamagedError(1, "there is no mark of kobold-reader in this file.")
    found = list(_parse_objects(text) if form == "jsonl" else _parse_lines(text, form))
    if not found:
        raise DamagedError(1, "all marks of pages are missing.")
    total = found[0].total
    for expected, one in enumerate(found, start=1):
        if one.number < expected:
            raise DamagedError(one.line, f"this mark, number {one.number} of {one.total}, is there twice or was moved.")
        if one.number > expected:
            raise DamagedError(one.line, f"a mark is missing before this one, number {one.number} of {one.total}.")
        if one.total != total:
            raise DamagedError(one.line, "this mark is from another file.")
    if len(found) < total:
        raise DamagedError(found[-1].line, f"{total - len(found)} of {total} marks are missing after this one.")
    return found


def _parse_lines(text: str, form: ExportFormat) -> Iterator[FoundBlock]:
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
        if is_ended:
            raise DamagedError(number, "there is a mark after the one that says that the file ends.")
        if current is not None:
            yield _found(*current, "\n".join(lines))
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


def _parse_objects(text: str) -> Iterator[FoundBlock]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except ValueError as err:
            raise DamagedError(number, f"this is not JSON any more ({err}).") from err
        if not isinstance(found, dict) or not isinstance(found.get("text"), str):
            raise DamagedError(number, 'this is no object with a "text" any more.')
        one = _found(number, _read_mark(str(found.get("mark")), number), found["text"])
        if {**_object(one.block, found["mark"]), "text": found["text"]} != found:
            raise DamagedError(number, 'more than the "text" was changed.')
        yield one


def _read_mark(mark: str, line: int) -> re.Match[str]:
    checked = _CHECKED.fullmatch(mark)
    if checked is None or _checksum(checked[1]) != checked[2]:
        raise DamagedError(line, "this mark was changed.")
    found = _MARK.fullmatch(checked[1])
    if found is None:
        raise DamagedError(line, "this mark was made by another release of kobold-reader.")
    return found


def _found(line: int, mark: re.Match[str], text: str) -> FoundBlock:
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
    return FoundBlock(block, mark["exported"], line, int(mark["number"]), int(mark["total"]))
