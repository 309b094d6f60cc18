"""Text as HTML: escaped, with marks, with Markdown and HTML tables laid out, otherwise exactly as it was read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from markupsafe import Markup

from kobold_reader.reading.results import Reading

# U+202D and U+202E turn the order of letters around: an amount would be shown as another one.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202d\u202e\ud800-\udfff]")
# The end of a line that is so long that it is prose, before another line of text that begins no item of a list.
_SOFT_BREAK = re.compile(r"(?<=[^\n]{40})\n(?=[^\W\d_])")
_CELL_END = re.compile(r"(?<!\\)\|")
# A line of cells, a line of dashes, more lines of cells. Possessive: no text makes this slow.
_TABLE = re.compile(
    r"""^(?=[^\n]*\|)[^\n]*+\n
    [^\S\n]*+\|?(?:[^\S\n]*+:?-++:?[^\S\n]*+\|)++(?:[^\S\n]*+:?-++:?[^\S\n]*+)?\|?[^\S\n]*+$
    (?:\n(?=[^\n]*\|)[^\n]*+)*+""",
    re.MULTILINE | re.VERBOSE,
)
# An HTML table without another one inside; the answer may be cut off in it.
_HTML_TABLE = re.compile(r"<table\b[^<>]*>(?:(?!<table\b).)*?(?:</table\s*>|\Z)", re.IGNORECASE | re.DOTALL)
_TABLE_TAG = re.compile(r"<(/?)(table|caption|thead|tbody|tfoot|tr|th|td|br)\b([^<>]*)>", re.IGNORECASE)
_TABLE_TAGS = re.compile(rf"(?:{_TABLE_TAG.pattern}\s*)+", re.IGNORECASE)
_TABLE_RULE = re.compile(r"(?:\|\s*)?\|(?:\s*:?-{3,}:?\s*\|)+(?:\s*\|)?")
_SPAN = re.compile(r"""\b(colspan|rowspan)\s*=\s*["']?([1-9]\d?)\b""", re.IGNORECASE)


def without_controls(text: str) -> str:
    """Return text with a replacement character for each control character and lone surrogate."""
    return _CONTROL.sub("\ufffd", text)


def escaped(text: str) -> Markup:
    """Return text that is safe anywhere in HTML."""
    return Markup(escape(without_controls(text)))  # noqa: S704


@dataclass(frozen=True, slots=True)
class Mark:
    """A part of a text that is highlighted."""

    start: int
    end: int
    kind: str
    """CSS class; doubtful words have none."""
    hint: str = ""
    """Shown under the pointer, or at a tap."""
    line: int | None = None
    """Number of the page's line that the mark covers; such a mark is not visible by itself."""


def doubtful_marks(reading: Reading) -> list[Mark]:
    """Return the marks of a reading's doubtful words, without places outside its text."""
    marks: list[Mark] = []
    last = 0
    for word in sorted(reading.doubtful, key=lambda word: int(word.get("start", 0))):
        start, end, rival = int(word.get("start", 0)), int(word.get("end", 0)), str(word.get("rival", ""))
        if last <= start < end <= len(reading.text):
            marks.append(Mark(start, end, "", f"or: {rival}" if rival else "doubtful"))
            last = end
    return marks


def reading_html(reading: Reading) -> Markup:
    """Return a reading's text, with its doubtful words marked and their alternatives as hints."""
    return marked_html(reading.text, doubtful_marks(reading))


def marked_html(text: str, marks: Iterable[Mark]) -> Markup:
    """Return a text with its tables laid out and parts of it marked; marks may overlap."""
    marks = sorted(marks, key=lambda mark: (mark.start, mark.end))
    blocks = []
    end = 0
    for table in [*_tables(text), None]:
        between = text[end : table.start if table else None]
        if block := between.strip("\n"):  # the empty lines around a table are its margin
            start = end + between.index(block)
            blocks.append(f'<div class="text" dir="auto">{_marked(text, start, start + len(block), marks)}</div>')
        if table:
            blocks.append(_table_html(text, table, marks))
            end = table.end
    return Markup("\n".join(blocks))  # noqa: S704


@dataclass(slots=True)
class _Cell:
    tag: str
    """th or td."""
    pieces: list[tuple[int, int]]
    """Start and end of each line in the text."""
    spans: str = ""
    """Attributes."""


@dataclass(frozen=True, slots=True)
class _Table:
    start: int
    end: int
    rows: list[list[_Cell]]
    head: int = 0
    """Number of the first rows that are the head."""


def without_table_tags(text: str) -> str:
    """Return a passage with a dot between the cells of an HTML table, and without the rules of Markdown tables."""
    return _TABLE_RULE.sub("|", _TABLE_TAGS.sub(" · ", text))


def _tables(text: str) -> list[_Table]:
    tables = [table for found in _HTML_TABLE.finditer(text) if (table := _html_table(text, found))]
    for found in _TABLE.finditer(text):
        if not any(table.start < found.end() and found.start() < table.end for table in tables):
            tables.append(_markdown_table(text, found))
    return sorted(tables, key=lambda table: table.start)


def _markdown_table(text: str, found: re.Match[str]) -> _Table:
    rows = []
    start = found.start()
    for number, line in enumerate(found[0].split("\n")):
        tag = "td" if number else "th"
        rows.append([_Cell(tag, [cell]) for cell in _cells(text, start, start + len(line))])
        start += len(line) + 1
    del rows[1]  # the rule
    return _Table(found.start(), found.end(), rows, head=1)


def _html_table(text: str, found: re.Match[str]) -> _Table | None:
    """Return the cells of an HTML table, for a table of our own; None where it holds text outside of its cells.

    Any other tag is text.
    """
    rows: list[list[_Cell]] = []
    cell: _Cell | None = None
    end = found.start()
    for tag in [*_TABLE_TAG.finditer(text, found.start(), found.end()), None]:
        start = tag.start() if tag else found.end()
        if cell is not None:
            cell.pieces.append((end, start))
        elif text[end:start].strip():
            return None
        if tag is None:
            break
        end = tag.end()
        name, is_closing = tag[2].lower(), bool(tag[1])
        if name == "br":
            continue
        cell = None
        if is_closing:
            continue
        if name in {"tr", "caption"} or (name in {"th", "td"} and not rows):
            rows.append([])
        if name in {"th", "td", "caption"}:
            spans = {key.lower(): number for key, number in _SPAN.findall(tag[3])}
            cell = _Cell(
                "th" if name == "th" else "td", [], "".join(f' {key}="{number}"' for key, number in spans.items())
            )
            rows[-1].append(cell)
    rows = [row for row in rows if row]
    return _Table(found.start(), found.end(), rows) if rows else None


def _table_html(text: str, table: _Table, marks: Sequence[Mark]) -> str:
    def row_html(row: Iterable[_Cell]) -> str:
        cells = ((cell, "<br>".join(_marked(text, *piece, marks).strip() for piece in cell.pieces)) for cell in row)
        return f"<tr>{''.join(f'<{cell.tag}{cell.spans}>{html}</{cell.tag}>' for cell, html in cells)}</tr>"

    head, body = ("".join(map(row_html, rows)) for rows in (table.rows[: table.head], table.rows[table.head :]))
    head = f"<thead>{head}</thead>\n" if head else ""
    return f'<div class="table"><table dir="auto">{head}<tbody>{body}</tbody></table></div>'


def _cells(text: str, start: int, end: int) -> list[tuple[int, int]]:
    bounds = [start, *(start + bar.end() for bar in _CELL_END.finditer(text[start:end])), end + 1]
    cells = [(first, last - 1) for first, last in pairwise(bounds)]
    for edge in (0, -1):
        if cells and not text[slice(*cells[edge])].strip():
            del cells[edge]
    return cells


def _marked(text: str, start: int, end: int, marks: Iterable[Mark]) -> str:
    """Escape a part of a text, cut where marks begin and end; each piece gets all marks that cover it.

    The ends of long lines have the class `wrap`: a narrow window may flow the text over them.
    """
    inside = [mark for mark in marks if mark.start < end and mark.end > start]
    bounds = {bound for mark in inside for bound in (mark.start, mark.end) if start < bound < end}
    breaks = {found.start() for found in _SOFT_BREAK.finditer(text, start, end)}
    bounds |= breaks | {at + 1 for at in breaks}
    pieces = []
    for first, last in pairwise(sorted({start, end, *bounds})):
        html = _piece(text[first:last], [mark for mark in inside if mark.start <= first and mark.end >= last])
        pieces.append(f'<span class="wrap">{html}</span>' if first in breaks else html)
    return "".join(pieces)


def _piece(text: str, marks: Sequence[Mark]) -> str:
    html = escaped(text)
    if not marks:
        return html
    line = next((mark.line for mark in marks if mark.line is not None), None)
    attributes = "" if line is None else f' data-line="{line}"'
    if all(mark.line is not None for mark in marks):
        return f"<span{attributes}>{html}</span>"
    kinds = " ".join(dict.fromkeys(mark.kind for mark in marks if mark.kind))
    hint = next((mark.hint for mark in marks if mark.hint), "")
    if hint:
        attributes = f' tabindex="0" title="{escaped(hint)}"{attributes}'
    if kinds:
        attributes = f' class="{escaped(kinds)}"{attributes}'
    return f"<mark{attributes}>{html}</mark>"
