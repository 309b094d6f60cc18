"""Export of pages with the place of each line: searchable PDFs, hOCR and ALTO.

These files are not imported again. One that was changed since is not overwritten: its last line has a hash of the rest.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape, quoteattr

from kobold_reader.archive.corrections import as_read
from kobold_reader.archive.rows import PageRow
from kobold_reader.errors import CorruptSourceError, StoreError
from kobold_reader.html.text import without_table_tags
from kobold_reader.options import ExportFormat
from kobold_reader.pages import PageFacts, PlacedText, SourceFile
from kobold_reader.reading.open_file import OpenFile
from kobold_reader.reading.results import SHARES, LineBox, Reading, corners_on_page
from kobold_reader.release import RELEASE

_MARKUP: Final = re.compile(
    r"^\s{0,3}#{1,6}\s+|^\s*>\s|\*\*|(?<!\w)__|__(?!\w)|^\s*[|:\s-]{3,}$|\s*\|\s*|^```\w*$|<br\s*/?>", re.MULTILINE
)
_NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MARGIN: Final = 0.08
_FULL_LINE: Final = 0.02
"""Share of the page's height that a line without a place takes, at most."""
_DPI: Final = 300
"""Of the units of hOCR and ALTO where a page is no picture."""


@dataclass(frozen=True, slots=True)
class PageLines:
    """The lines of one page, in reading order."""

    lines: tuple[PlacedText, ...]
    unplaced: int
    """How many of them stand where their neighbours leave room, as their place is not known."""


def page_lines(row: PageRow, reading: Reading | None, turned_deg: int) -> PageLines:
    """Return the lines of a page's transcription, correction included, with their places.

    `turned_deg` is the clockwise turn, beyond the file's own, with which the page was read.
    """
    text = row.parts.get("ocr", "")
    boxes = _boxes_of(row, reading) if reading is not None else ()
    pieces = [(plain, box) for part, box in _pieces(text, boxes) if (plain := _plain(part))]
    places = [
        None if box is None else _unturned([share / SHARES for share in box.corners], turned_deg) for _, box in pieces
    ]
    lines = [
        PlacedText(part, place, tuple(end / SHARES for end in box.words) if box is not None else ())
        for (part, box), place in zip(pieces, _all_placed(places), strict=True)
    ]
    return PageLines(tuple(lines), places.count(None))


def _boxes_of(row: PageRow, reading: Reading) -> Sequence[LineBox]:
    """Return the places in a page's text as it is now: those of the reading, moved along with a correction."""
    text = row.parts.get("ocr", "")
    if reading.text == text:
        return reading.boxes
    if reading.text != as_read(row).parts.get("ocr", ""):
        return ()
    moved = _moved(reading.text, text)
    spans = [moved(box.start, box.end) for box in reading.boxes]
    return [
        box._replace(start=start, end=end)
        for box, (start, end) in zip(reading.boxes, spans, strict=True)
        if start < end
    ]


def _moved(before: str, after: str) -> Callable[[int, int], tuple[int, int]]:
    """Return the function that tells from where to where in `after` a span of `before` is."""
    codes = difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes()

    def moved(start: int, end: int) -> tuple[int, int]:
        kind, old, _, new, _ = next(code for code in codes if code[1] <= start < code[2])
        new_start = new + (start - old if kind == "equal" else 0)
        kind, old, _, new, new_end = next(code for code in codes if code[1] <= end - 1 < code[2])
        return new_start, new + (end - old) if kind == "equal" else new_end

    return moved


def _pieces(text: str, boxes: Sequence[LineBox]) -> Iterator[tuple[str, LineBox | None]]:
    """Yield the text line by line: each piece with its place, and what stands between two places without any.

    Signs without a letter go with the piece beside them in their line.
    """
    held: tuple[str, LineBox | None] = ("", None)
    done = 0
    for box in (*boxes, None):
        behind, *lines = text[done : box.start if box else len(text)].split("\n")
        if held[1] is not None and not _has_letter(behind):
            held = held[0] + behind, held[1]
            behind = ""
        yield held
        for line in (behind, *lines[:-1]):
            yield line, None
        lead = lines[-1] if lines else ""
        if box is None or _has_letter(lead):
            yield lead, None
            lead = ""
        if box is not None:
            content = " ".join(text[box.start : box.end].split("\n"))
            held, done = (lead + content, box), box.end


def _has_letter(text: str) -> bool:
    return any(map(str.isalnum, text))


def _plain(text: str) -> str:
    """Return a line without Markdown, tags, and characters that XML cannot hold."""
    return " ".join(_MARKUP.sub(" ", without_table_tags(_NOT_XML.sub(" ", text))).split()).strip("· ")


def _unturned(corners: Sequence[float], turned_deg: int) -> tuple[float, ...]:
    """Return corners on the page as its file shows it, from those on the page turned clockwise."""
    points = list(zip(corners[::2], corners[1::2], strict=True))
    for _ in range(turned_deg // 90 % 4):
        points = [(y, 1 - x) for x, y in points]
    return tuple(number for point in points for number in point)


def _all_placed(places: Sequence[tuple[float, ...] | None]) -> Iterator[tuple[float, ...]]:
    """Give each line without a place the room between its neighbours that have one."""
    at = 0
    while at < len(places):
        place = places[at]
        if place is not None:
            yield place
            at += 1
            continue
        count = next((n for n in range(1, len(places) - at) if places[at + n] is not None), len(places) - at)
        before = places[at - 1] if at else None
        after = places[at + count] if at + count < len(places) else None
        left, top, right, bottom = _room(before, after)
        step = (bottom - top) / count
        for number in range(count):
            low = top + step * number + min(step, _FULL_LINE)
            yield (left, top + step * number, right, top + step * number, right, low, left, low)
        at += count


def _room(before: tuple[float, ...] | None, after: tuple[float, ...] | None) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of what lies between two pieces; their own place where nothing does."""
    known = [one for one in (before, after) if one is not None]
    xs = [x for one in known for x in one[::2]] or [_MARGIN, 1 - _MARGIN]
    top = max(before[1::2]) if before else _MARGIN / 2
    bottom = min(after[1::2]) if after else 1 - _MARGIN / 2
    if bottom > top:
        return min(xs), top, max(xs), bottom
    ys = [y for one in known for y in one[1::2]]
    if before and after and (left := max(before[::2])) < (right := min(after[::2])):  # in one line
        return left, min(ys), right, max(ys)
    return min(xs), min(ys), max(xs), max(ys)


# ── files ────────────────────────────────────────────────────────────────────────────────────────


class LayoutWriter:
    """Writes one file for each document, with its lines where they stand; the caller closes `opened`."""

    def __init__(
        self,
        opened: OpenFile,
        form: ExportFormat,
        readings: Callable[[Sequence[PageRow]], Mapping[str, Mapping[str, Reading]]],
    ) -> None:
        self._opened = opened
        self._form = form
        self._readings = readings
        self.unplaced = 0
        """Lines without a place so far."""

    def write(self, source: SourceFile, rows: Sequence[PageRow], part: Path) -> tuple[str, ...]:
        """Write the file of a document to `part`, and return sentences for its reader.

        Raises:
            SourceError: The document cannot be opened, or was changed since it was read.
        """
        file = self._opened.facts(source)
        known = {row.page_number: row for row in rows if row.sha256 == file.sha256}
        if rows and not known:
            raise CorruptSourceError(
                "The file was changed since its pages were read.",
                source=source.path,
                hint="`kobold-reader index` reads it as it is now; then export again.",
            )
        pages = range(1, file.total_pages + 1)
        notices: tuple[str, ...] = ()
        if self._form == "pdf":
            notices = self._opened.copy_with_text(
                source, file, part, (self._lines(known.get(number), source) for number in pages)
            )
            if any("attachment" in row.metadata for row in known.values()):
                notices += ("It has attached files: they are in the copy as they were, without added text.",)
        else:
            write = _write_hocr if self._form == "hocr" else _write_alto
            shown = ((self._facts(source, number), self._lines(known.get(number), source)) for number in pages)
            write(part, source.path, shown)
        seal(part, self._form)
        return notices

    def _facts(self, source: SourceFile, number: int) -> PageFacts:
        return self._opened.page_facts(source, self._opened.facts(source), number)

    def _lines(self, row: PageRow | None, source: SourceFile) -> Sequence[PlacedText]:
        if row is None or (self._form == "pdf" and (row.status == "text_layer" or "attachment" in row.metadata)):
            return ()  # its own text is in the copy, and so is the attached file as it was
        read = as_read(row)
        reading = self._readings([read])[row.page_id].get("ocr")
        if reading is None and read.status == "text_layer":
            reading = self._own_text(read, source)
        turned = reading.rotation_deg - self._facts(source, row.page_number).rotation_deg if reading else 0
        found = page_lines(row, reading, turned)
        self.unplaced += found.unplaced
        return found.lines

    def _own_text(self, row: PageRow, source: SourceFile) -> Reading:
        """Return the text of a page that has its own, with the places of its lines."""
        facts, text = self._facts(source, row.page_number), row.parts.get("ocr", "")
        boxes: list[LineBox] = []
        for line in self._opened.text_lines(source, self._opened.facts(source), row.page_number):
            words = r"\s+".join(map(re.escape, line.text.split()))
            found = words and re.compile(words).search(text, boxes[-1].end if boxes else 0)
            if found:
                left, top, right, bottom = line.box
                corners = corners_on_page((left, top, right, top, right, bottom, left, bottom))
                boxes.append(LineBox(*found.span(), corners))
        return Reading("ocr", "text_layer", text, "pdf", boxes=tuple(boxes), rotation_deg=facts.rotation_deg)


def _size(facts: PageFacts) -> tuple[int, int]:
    """Return width and height in px of the page's picture, or of the page at 300 dpi."""
    if facts.width_px:
        return facts.width_px, facts.height_px
    return round((facts.width_pt or 0) / 72 * _DPI), round((facts.height_pt or 0) / 72 * _DPI)


def _box(corners: Sequence[float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    xs, ys = [x * size[0] for x in corners[::2]], [y * size[1] for y in corners[1::2]]
    return round(min(xs)), round(min(ys)), round(max(xs)), round(max(ys))


def _words(line: PlacedText, size: tuple[int, int]) -> Iterator[tuple[str, tuple[int, int, int, int]]]:
    """Yield the words of a line with their boxes; where these are not known, shared out by the number of letters."""
    words = line.text.split(" ")
    ends = line.words
    if len(ends) != 2 * len(words):
        stops = [0, *accumulate(len(word) + 1 for word in words)]
        ends = tuple(stop / max(stops[-1] - 1, 1) for pair in pairwise(stops) for stop in (pair[0], pair[1] - 1))
    (left, top), (right, right_top), (right_low, low), (left_low, left_bottom) = (
        line.corners[at : at + 2] for at in range(0, 8, 2)
    )
    for word, first, last in zip(words, ends[::2], ends[1::2], strict=True):
        yield (
            word,
            _box(
                (
                    *(left + (right - left) * first, top + (right_top - top) * first),
                    *(left + (right - left) * last, top + (right_top - top) * last),
                    *(left_low + (right_low - left_low) * last, left_bottom + (low - left_bottom) * last),
                    *(left_low + (right_low - left_low) * first, left_bottom + (low - left_bottom) * first),
                ),
                size,
            ),
        )


def _write_hocr(part: Path, name: str, pages: Iterable[tuple[PageFacts, Sequence[PlacedText]]]) -> None:
    """Write hOCR 1.2 (kba.github.io/hocr-spec)."""
    with part.open("w", encoding="utf-8", newline="\n") as file:
        file.write(
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            '<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN" '
            '"http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd">\n'
            f'<html xmlns="http://www.w3.org/1999/xhtml">\n<head>\n<title>{escape(name)}</title>\n'
            '<meta http-equiv="Content-Type" content="text/html;charset=utf-8"/>\n'
            f'<meta name="ocr-system" content="kobold-reader {RELEASE}"/>\n'
            '<meta name="ocr-capabilities" content="ocr_page ocr_line ocrx_word"/>\n</head>\n<body>\n'
        )
        for facts, lines in pages:
            number, size = facts.page_number, _size(facts)
            title = quoteattr(f'image "{name}"; bbox 0 0 {size[0]} {size[1]}; ppageno {number - 1}')
            file.write(f'<div class="ocr_page" id="page_{number}" title={title}>\n')
            for at, line in enumerate(lines, start=1):
                box = " ".join(map(str, _box(line.corners, size)))
                file.write(f'<span class="ocr_line" id="line_{number}_{at}" title="bbox {box}">')
                words = (
                    f'<span class="ocrx_word" title="bbox {" ".join(map(str, place))}">{escape(word)}</span>'
                    for word, place in _words(line, size)
                )
                file.write(" ".join(words) + "</span>\n")
            file.write("</div>\n")
        file.write("</body>\n</html>\n")


def _write_alto(part: Path, name: str, pages: Iterable[tuple[PageFacts, Sequence[PlacedText]]]) -> None:
    """Write ALTO 4.4 (loc.gov/standards/alto), in pixels of the page's picture."""
    with part.open("w", encoding="utf-8", newline="\n") as file:
        file.write(
            '<?xml version="1.0" encoding="UTF-8"?>\n<alto xmlns="http://www.loc.gov/standards/alto/ns-v4#" '
            'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:schemaLocation="http://www.loc.gov/standards/'
            'alto/ns-v4# http://www.loc.gov/standards/alto/v4/alto-4-4.xsd" SCHEMAVERSION="4.4">\n'
            "<Description><MeasurementUnit>pixel</MeasurementUnit>"
            f"<sourceImageInformation><fileName>{escape(name)}</fileName></sourceImageInformation>"
            '<Processing ID="PROC1"><processingSoftware><softwareName>kobold-reader</softwareName>'
            f"<softwareVersion>{escape(RELEASE)}</softwareVersion></processingSoftware></Processing></Description>\n"
            "<Layout>\n"
        )
        for facts, lines in pages:
            number, size = facts.page_number, _size(facts)
            whole = f'WIDTH="{size[0]}" HEIGHT="{size[1]}"'
            file.write(f'<Page ID="page_{number}" PHYSICAL_IMG_NR="{number}" {whole}>')
            file.write(f'<PrintSpace HPOS="0" VPOS="0" {whole}>')
            if lines:
                file.write(f'<TextBlock ID="block_{number}" HPOS="0" VPOS="0" {whole}>\n')
                for at, line in enumerate(lines, start=1):
                    file.write(f'<TextLine ID="line_{number}_{at}" {_place(_box(line.corners, size))}>')
                    words = (
                        f"<String CONTENT={quoteattr(word)} {_place(place)}/>" for word, place in _words(line, size)
                    )
                    file.write("<SP/>".join(words) + "</TextLine>\n")
                file.write("</TextBlock>")
            file.write("</PrintSpace></Page>\n")
        file.write("</Layout>\n</alto>\n")


def _place(box: tuple[int, int, int, int]) -> str:
    left, top, right, bottom = box
    return f'HPOS="{left}" VPOS="{top}" WIDTH="{right - left}" HEIGHT="{bottom - top}"'


# ── seals ────────────────────────────────────────────────────────────────────────────────────────

_SEAL: Final = re.compile(rb"\n(?:%|<!--) kobold-reader sha256:([0-9a-f]{64})(?: -->)?\n\Z")
_SEAL_BYTES: Final = 128


def seal(path: Path, form: ExportFormat) -> None:
    """Append a hash of the file to it, in a comment that its readers pass over."""
    with path.open("rb+") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        start, end = ("%", "") if form == "pdf" else ("<!--", " -->")
        file.seek(0, os.SEEK_END)
        file.write(f"\n{start} kobold-reader sha256:{digest}{end}\n".encode())


def check_sealed(path: Path) -> None:
    """Raise StoreError unless a file is just as an export wrote it."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _SEAL_BYTES))
        found = _SEAL.search(file.read())
        if found is not None:
            file.seek(0)
            digest = hashlib.sha256()
            left = size - len(found[0])
            while left and (piece := file.read(min(left, 1 << 20))):
                digest.update(piece)
                left -= len(piece)
            if digest.hexdigest() == found[1].decode():
                return
    raise StoreError(
        "it is not as kobold-reader wrote it, and is not overwritten.", hint="Export to another folder, or remove it."
    )
