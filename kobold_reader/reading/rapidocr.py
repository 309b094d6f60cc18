"""RapidOcrEngine: reads printed text on the CPU, without a server.

It cannot read handwriting, write captions, or keep Markdown structure. It finds printed lines; a page without any has
`no_text`. Its models come with the rapidocr package; nothing is downloaded.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any, NamedTuple

from kobold_reader.errors import MissingExtraError, TranscriptionError
from kobold_reader.pages import Box, ImageBudget, PageImages, PageView, reading_order
from kobold_reader.reading.cleaning import tidy
from kobold_reader.reading.page_reader import EngineFacts, PageJob, TaskOutcome
from kobold_reader.reading.results import SHARES, Corners, Reading, corners_on_page, joined, words_along
from kobold_reader.release import RELEASE

MAX_SIDE_PX = 2000
"""RapidOCR itself shrinks anything larger to this; sent at this size, pages are resampled only once."""


BAND_ASPECT = 3.0
"""A page longer than this many times its width, and than `MAX_SIDE_PX`, is read in bands of these proportions."""
_OVERLAP = 0.3  # of the width: higher than the largest print of a receipt
_CUT_PX = 3  # a line that reaches the edge of its band is cut there
_SAME = 0.5  # a piece of which the pieces of another band cover this share is read there

_WIDE_GAP = 0.8  # in heights of a line's box: words so far apart are in two cells, or columns
_PAPER = 0.12  # in the same: what RapidOCR leaves around a line


_LOOKS = ((1.0, 0.15, 1.0), (2.0, 0.25, 1.0), (2.0, 0.1, 1.4), (0.7, 0.1, 1.0))
"""Ways to look at a line again: its size, the paper around it in heights, contrast. In doubt they read differently."""

BUDGET = ImageBudget(max_side_px=MAX_SIDE_PX, max_aspect=BAND_ASPECT)
NAME = "rapidocr"


@dataclass(frozen=True, slots=True)
class _ReadLine:
    """A line of writing, or a piece of one."""

    text: str
    score: float
    corners: Any
    """Of its box, in px of the view; an array of four points."""
    words: tuple[int, ...]
    """As in `LineBox`."""
    band: int = 0
    is_cut: bool = False
    """At the edge of its band."""

    @property
    def area(self) -> float:
        """Of its box, in square px."""
        (x0, y0), (x1, y1), (x2, y2), (x3, y3) = self.corners.tolist()
        return float(abs((x2 - x0) * (y3 - y1) - (x3 - x1) * (y2 - y0)) / 2)


_Placed = tuple[str, Corners, float, tuple[int, ...]]
"""A piece of a line with its place, score and words, as `joined` takes it."""


class RapidOcrEngine:
    """Reads printed text with RapidOCR; `ocr` only.

    Args:
        threads: Cores that it may use; None: all.
    """

    parallel = 1

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads
        self._lock = threading.Lock()
        self._ocr: Any = None
        self._facts: EngineFacts | None = None

    def prepare(self, cancel: threading.Event | None = None) -> EngineFacts:  # noqa: ARG002  (nothing to wait for)
        """Load the models (about 2 s, once).

        Raises:
            MissingExtraError: rapidocr or onnxruntime is not installed.
        """
        with self._lock:
            if self._facts is None:
                try:
                    from rapidocr import RapidOCR
                except ImportError as err:
                    raise MissingExtraError("rapidocr", "The engine RapidOCR") from err
                params: dict[str, Any] = {"Global.log_level": "error"}
                if self._threads:
                    params["EngineConfig.onnxruntime.intra_op_num_threads"] = self._threads
                self._ocr = RapidOCR(params=params)
                self._facts = EngineFacts(
                    model=f"rapidocr-{version('rapidocr')}",
                    family=None,
                    tasks=frozenset({"ocr"}),
                    budget=BUDGET,
                )
        return self._facts

    def read(self, job: PageJob) -> Mapping[str, TaskOutcome]:
        """Read the printed text of one page; see `Engine.read`."""
        facts = self.prepare()
        outcomes: dict[str, TaskOutcome] = {}
        for task in job.tasks:
            if task != "ocr":
                outcomes[task] = TranscriptionError(f"RapidOCR reads printed text only; it cannot do {task!r}.")
                continue
            outcomes[task] = outcome = self._read_text(job, facts)
            if job.on_progress:
                job.on_progress(task, len(outcome.text) if isinstance(outcome, Reading) else 0)
        return outcomes

    def _read_text(self, job: PageJob, facts: EngineFacts) -> TaskOutcome:
        started_s = time.monotonic()
        views = job.images.views
        lines: list[list[_Placed]] = []
        scores: list[tuple[float, int]] = []
        try:
            for view in views:
                lines += self._lines(view, scores)
        except Exception as err:  # noqa: BLE001  (OpenCV and onnxruntime raise what they like; it is this page's error)
            return TranscriptionError(f"RapidOCR failed on this page: {type(err).__name__}: {err}")
        text, boxes = joined(lines)
        letters = sum(length for _, length in scores)
        return Reading(
            task="ocr",
            status="ok" if text else "no_text",
            text=text,
            engine=NAME,
            model=facts.model,
            release=RELEASE,
            view_sizes=tuple((view.width_px, view.height_px) for view in views),
            effective_px=max(max(view.width_px, view.height_px) for view in views),
            boxes=boxes,
            rotation_deg=views[0].rotation_deg,
            confidence=round(sum(score * length for score, length in scores) / letters, 4) if letters else None,
            elapsed_s=time.monotonic() - started_s,
        )

    def _lines(self, view: PageView, scores: list[tuple[float, int]]) -> list[list[_Placed]]:
        """Return the lines in reading order, in pieces with places and scores; adds score and length of each piece."""
        found = self._pieces(view.image) if view.height_px <= MAX_SIDE_PX else self._pieces_of_bands(view)
        boxes: list[Box] = [
            (float(min(xs)), float(min(ys)), float(max(xs)), float(max(ys)))
            for xs, ys in (piece.corners.T for piece in found)
        ]
        scores += [(piece.score, len(piece.text)) for piece in found]
        size = view.width_px, view.height_px
        pieces = [
            (
                tidy(piece.text),
                corners_on_page((piece.corners / size).ravel().tolist(), view.box),
                round(piece.score, 3),
                piece.words,
            )
            for piece in found
        ]
        letters = [unicodedata.bidirectional(letter) for piece in found for letter in piece.text if letter.isalpha()]
        right_to_left = sum(direction in {"R", "AL"} for direction in letters) * 2 > len(letters)
        order = reading_order(boxes, view.width_px, right_to_left=right_to_left)
        return [[pieces[index] for index in line] for line in order]

    def _pieces(self, image: Any) -> list[_ReadLine]:
        """Read an image: encoded, or the pixels of a band."""
        # The line classifier turns upright typewritten lines on their head: recall 0.90 with it, 0.99 without.
        # RapidOCR keeps what it was told last: `look` asks for no detection.
        found = self._ocr(image, use_det=True, use_cls=False, use_rec=True, return_word_box=True)
        if found.boxes is None or found.txts is None:
            return []
        lines = zip(found.txts, found.scores, found.boxes, found.word_results, strict=True)
        return [
            piece
            for text, score, corners, words in lines
            for piece in in_pieces(str(text), float(score), corners, words)
        ]

    def _pieces_of_bands(self, view: PageView) -> list[_ReadLine]:
        """Read a long page, as a till receipt is, in bands that overlap by more than a line; none is read twice."""
        import cv2
        import numpy as np

        pixels: Any = cv2.imdecode(np.frombuffer(view.image, np.uint8), cv2.IMREAD_COLOR)
        height, width = pixels.shape[:2]
        band_px = min(MAX_SIDE_PX, round(BAND_ASPECT * width))
        overlap_px = round(_OVERLAP * width)
        last = math.ceil((height - band_px) / (band_px - overlap_px))
        found: list[_ReadLine] = []
        for band in range(last + 1):
            top = round(band * (height - band_px) / max(1, last))
            for piece in self._pieces(pixels[top : top + band_px]):
                highest, lowest = piece.corners[:, 1].min(), piece.corners[:, 1].max()
                is_cut = bool((band and highest <= _CUT_PX) or (band < last and lowest >= band_px - _CUT_PX))
                corners = piece.corners + np.array([0, top], np.float32)
                found.append(replace(piece, corners=corners, band=band, is_cut=is_cut))
        kept: list[_ReadLine] = []
        for piece in sorted(found, key=lambda one: (one.is_cut, -one.area)):
            others = (one for one in kept if one.band != piece.band)
            shared = sum(cv2.intersectConvexConvex(one.corners, piece.corners)[0] for one in others)
            if shared < _SAME * piece.area:
                kept.append(piece)
        return kept

    def look(self, images: PageImages, places: Sequence[Corners]) -> list[list[str]]:
        """Read single lines again, each in several ways; what is sure is read alike in all of them.

        Raises:
            TranscriptionError: The picture cannot be used.
        """
        import cv2
        import numpy as np

        self.prepare()
        view = images.views[0]
        try:
            pixels: Any = cv2.imdecode(np.frombuffer(view.image, np.uint8), cv2.IMREAD_COLOR)
            lines = [_points_in(view, corners) for corners in places]
            return [[self._line(pixels, points, *way) for way in _LOOKS] for points in lines]
        except Exception as err:
            raise TranscriptionError(f"RapidOCR failed on this page: {type(err).__name__}: {err}") from err

    def _line(
        self, pixels: Any, corners: Sequence[tuple[float, float]], scale: float, around: float, contrast: float
    ) -> str:
        import cv2
        import numpy as np

        begin, end, _, below = corners
        wide, high = math.dist(begin, end), math.dist(begin, below)
        if min(wide, high) < 1:
            return ""
        paper = around * high
        upright = np.array(
            [(paper, paper), (paper + wide, paper), (paper + wide, paper + high), (paper, paper + high)], np.float32
        )
        move = cv2.getPerspectiveTransform(np.array(corners, np.float32), upright * np.float32(scale))
        size = round((wide + 2 * paper) * scale), round((high + 2 * paper) * scale)
        line = cv2.warpPerspective(pixels, move, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        line = cv2.convertScaleAbs(line, alpha=contrast, beta=128 * (1 - contrast))
        found = self._ocr(line, use_det=False, use_cls=False, use_rec=True)
        return str(found.txts[0]) if getattr(found, "txts", None) else ""

    def close(self) -> None:
        """Free the memory of the models."""
        with self._lock:
            self._ocr = None
            self._facts = None


def in_pieces(text: str, score: float, corners: Any, words: Iterable[tuple[str, float, Any]]) -> Iterator[_ReadLine]:
    """Cut a line at its wide gaps: RapidOCR takes cells of a table for one line if they are near enough.

    RapidOCR's words end at white space, and also at a gap and where Chinese begins.
    """
    import numpy as np

    first, second, third, fourth = corners
    wide, high = math.dist(first, second), math.dist(first, fourth)
    pieces: list[list[_SeenWord]] = []
    at = 0
    for word, _, points in words:
        shares = (np.array(points) - first) @ (second - first) / wide**2
        start = text.index(word, at)
        found = _SeenWord(start, at := start + len(word), float(shares.min()), float(shares.max()))
        before = pieces[-1][-1] if pieces else None
        if before is None or (found.left - before.right) * wide > _WIDE_GAP * high:
            pieces.append([found])
        elif found.start > before.end:
            pieces[-1].append(found)
        else:
            pieces[-1][-1] = before._replace(end=found.end, right=found.right)
    if not pieces:
        yield _ReadLine(text, score, corners, ())
        return
    paper = min(_PAPER * high / wide, _PAPER)
    # No letter is lost, even if no word that is told has it.
    bounds = [0, *(piece[0].start for piece in pieces[1:]), len(text)]
    for piece, bound in zip(pieces, itertools.pairwise(bounds), strict=True):
        left = 0.0 if piece is pieces[0] else piece[0].left - paper
        right = 1.0 if piece is pieces[-1] else piece[-1].right + paper
        places = [first + left * (second - first), first + right * (second - first)]
        places += [fourth + right * (third - fourth), fourth + left * (third - fourth)]
        # At both ends the line's box is nearer to the letters: RapidOCR takes wide ones for narrow.
        ends = [left + paper, *[end for one in piece for end in (one.left, one.right)][1:-1], right - paper]
        along = words_along(ends, left, right) if wide > high else ()  # else it is vertical
        yield _ReadLine(text[slice(*bound)].strip(), score, np.array(places, np.float32), along)


class _SeenWord(NamedTuple):
    """A span of a line's text, and where it stands along the line, in shares of its length."""

    start: int
    end: int
    left: float
    right: float


def _points_in(view: PageView, corners: Corners) -> list[tuple[float, float]]:
    """Return corners on the page as points in a view, in px."""
    left, top, right, bottom = view.box
    return [
        ((x / SHARES - left) / (right - left) * view.width_px, (y / SHARES - top) / (bottom - top) * view.height_px)
        for x, y in zip(corners[::2], corners[1::2], strict=True)
    ]
