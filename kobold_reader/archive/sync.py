"""Bring an archive to what the folders hold: new, changed, renamed and missing files.

Pages are read in a thread ahead of indexing, so that the server does not wait for embeddings. Nothing is removed by
default: files that are gone are marked as missing, counted, and still found.

A file is stamped once all its pages are in the archive. The stamp holds its size, its time of change, those of its
sidecars, and everything else that decides what is due. A later run passes over files whose stamps still fit, and looks
at each page of the rest.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from kobold_reader.archive.corrections import as_read
from kobold_reader.archive.rows import FILE_KEYS, UNREAD, PageRow, Place, version_of
from kobold_reader.archive.store import Catalog
from kobold_reader.archive.vector_index import BATCH_PAGES, Indexer
from kobold_reader.border import of_one_page
from kobold_reader.documents import EMBED_KEYS, page_id, to_metadata
from kobold_reader.errors import KoboldReaderError, UnexpectedError
from kobold_reader.options import ReadOptions
from kobold_reader.pages import Scalar, Selection, SourceFile, is_at, is_below, local_path
from kobold_reader.pages.sidecars import PHOTO_KINDS, people_say
from kobold_reader.pages.sources import sidecar_finder
from kobold_reader.reading.due import stand_in
from kobold_reader.reading.ledger import Ledger
from kobold_reader.reading.pipeline import Ahead
from kobold_reader.reading.results import PageResult
from kobold_reader.reading.survey import Outlook
from kobold_reader.reading.transcriber import Transcriber, lacks_witness
from kobold_reader.release import RELEASE

AHEAD_RESULTS: Final = 64
_BESIDE_TEXT: Final = ("status", "error", "metadata", "content_sha256", "as_read")
"""What may change of a page's row while its text, and so its words and vectors, stay."""
_HALF_READ: Final = ("looping", "truncated")
_HALF_A_COPY: Final = ("failed", "damaged")
"""They prove no new content: a file that is being copied looks like that."""
LEDGER_MARK: Final = "ledger_mark"
"""Under this key the catalog has the state of the ledger at the end of the last complete run."""


@dataclass(slots=True)
class SyncReport:
    """What a run of `sync` did."""

    files: int = 0
    new_files: int = 0
    changed_files: int = 0
    renamed_files: int = 0
    missing_files: int = 0
    pruned_files: int = 0
    vanished_files: int = 0
    """Known ones below a folder in which no file is left: not marked as missing, since an unmounted disk looks so."""
    unopened_files: int = 0
    """Files that cannot be opened."""
    pages: Counter[str] = field(default_factory=Counter)
    """By status."""
    read_pages: int = 0
    """Pages of which this run read something, or found the text layer, or found that they are blank."""
    kept_pages: int = 0
    """Pages that an earlier run had read."""
    indexed_pages: int = 0
    """Pages whose text is new or changed, and can be found from now on; a page without text is not counted."""
    reread_pages: int = 0
    """Pages that RapidOCR had read, and KoboldCpp has read now."""
    stand_in_pages: int = 0
    """Pages that keep RapidOCR's reading, because it is better than KoboldCpp's, or that one failed."""
    finished_pages: int = 0
    """The same of pages that an earlier, interrupted run had begun."""
    uncompared_pages: int = 0
    """Pages that the witness did not come to, since it is slower than the servers, or the run was ended."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Files not taken, by ending."""
    errors: list[KoboldReaderError] = field(default_factory=list)
    """One for each failed file and page."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values, under the names of the fields; errors as sentences."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return values | {
            "pages": dict(self.pages),
            "skipped": dict(self.skipped),
            "errors": [str(error) for error in self.errors],
        }

    def add(self, other: SyncReport) -> None:
        """Add another run's numbers."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(slots=True)
class _PageCount:
    """The pages of one file that were noted in this run."""

    expected: int
    statuses: Counter[str] = field(default_factory=Counter)
    is_spoiled: bool = False
    """Some of them failed and are to be tried again."""


class FileStamps:
    """The stamps of one run.

    No stamp is trusted if the last run was interrupted, or another process has written into the archive's ledger since.
    With the options `redo` and `sample` every page is looked at, and nothing is stamped.

    Attributes:
        passed: The pages, by status, of each file that was passed over, by URI.
    """

    def __init__(self, catalog: Catalog, ledger: Ledger, options: ReadOptions) -> None:
        self._catalog = catalog
        self._ledger = ledger
        self._options = options
        self._is_used = options.redo is None and options.sample is None
        self._last_family = self._read_last_family()
        self._key = self._make_key()
        self._stamps = catalog.stamps()
        self._is_trusted = self._is_used and catalog.meta(LEDGER_MARK) == ledger.mark()
        self._counts: dict[str, _PageCount] = {}
        self._complete: dict[str, tuple[SourceFile, Counter[str]]] = {}
        self.passed: dict[str, Counter[str]] = {}

    def rest(self, files: Sequence[SourceFile]) -> list[SourceFile]:
        """Return the files whose pages must be looked at, and remove their stamps; note the others in `passed`."""
        rest: list[SourceFile] = []
        for source in files:
            stamp, _, statuses = self._stamps.get(source.uri, "").partition(" ")
            if self._is_trusted and stamp == self._stamp(source):
                self.passed[source.uri] = Counter(json.loads(statuses))
            else:
                rest.append(source)
        stale = [source.uri for source in rest if self._stamps.pop(source.uri, "")]
        self._catalog.put_stamps(dict.fromkeys(stale, ""))
        return rest

    def note(self, result: PageResult) -> None:
        """Count a page's result, before it is indexed."""
        uri = result.source.uri
        if not self._is_used or not result.source.mtime_ns:  # without a time of change, only the bytes could tell
            return
        if uri not in self._counts:
            pages = sum(number in self._options.pages for number in range(1, result.total_pages + 1))
            self._counts[uri] = _PageCount(pages)
        count = self._counts[uri]
        count.statuses[result.status] += 1
        count.is_spoiled |= self._options.needs_witness and lacks_witness(result)
        count.is_spoiled |= bool(result.errors) or result.error is not None or result.page_number == 0
        if count.statuses.total() == count.expected and not count.is_spoiled:
            self._complete[uri] = result.source, count.statuses

    def note_stand_in(self, result: PageResult) -> None:
        """Count a noted page as `ok`, since its stand-in's text is shown in place of this result's."""
        if count := self._counts.get(result.source.uri):
            count.statuses.subtract([result.status])
            count.statuses["ok"] += 1

    def spoil(self, uri: str) -> None:
        """Count a file as not complete after all: one of its pages could not be indexed."""
        if uri in self._counts:
            self._counts[uri].is_spoiled = True
        self._complete.pop(uri, None)

    def note_again(self, result: PageResult) -> None:
        """Have the next run look at a file again: the witness's word about one of its pages came later."""
        self.spoil(result.source.uri)
        self._catalog.put_stamps({result.source.uri: ""})

    def take_complete(self) -> Mapping[str, tuple[SourceFile, Counter[str]]]:
        """Return the files of which every page was noted, by URI, once: they are not returned again."""
        taken, self._complete = self._complete, {}
        return taken

    def put(self, complete: Mapping[str, tuple[SourceFile, Counter[str]]]) -> None:
        """Stamp files whose every page is in the archive."""
        complete = {uri: done for uri, done in complete.items() if not self._counts[uri].is_spoiled}
        if not complete:
            return
        if self._last_family is None:  # known since a model was asked in this run
            self._last_family = self._read_last_family()
            self._key = self._make_key()
        self._catalog.put_stamps(
            {uri: f"{self._stamp(source)} {json.dumps(+pages)}" for uri, (source, pages) in complete.items()}
        )

    def begin(self) -> None:
        """Trust no stamp until the run has ended: a kill may leave pages under a name that their file had before."""
        self._catalog.set_meta(LEDGER_MARK, "")

    def end(self) -> None:
        """Record the state of the ledger: the run is complete."""
        self._catalog.set_meta(LEDGER_MARK, self._ledger.mark())

    def by_kind(self, files: Iterable[SourceFile]) -> dict[str, Counter[str]]:
        """Return the pages passed over, by kind of file and status."""
        found: dict[str, Counter[str]] = {}
        for source in files:
            if source.uri in self.passed:
                found.setdefault(source.kind, Counter()).update(self.passed[source.uri])
        return found

    def _stamp(self, source: SourceFile) -> str:
        beside = "".join(f"/{sidecar.size_bytes}/{sidecar.mtime_ns}" for sidecar in source.sidecars)
        return f"{self._key}/{source.size_bytes}/{source.mtime_ns}{beside}"

    def _read_last_family(self) -> str | None:
        """Return the family of the model that read last, if it decides which tasks are asked for."""
        return self._ledger.last_family(self._options.engine) if self._options.are_tasks_default else None

    def _make_key(self) -> str:
        """Return a hash of everything but the file that decides what is due and what a page's row looks like."""
        asked = self._options
        known = [
            RELEASE,
            asked.engine,
            asked.is_stand_in,
            self._last_family,
            {task: asked.key(task) for task in asked.tasks},
            asked.are_tasks_default,
            asked.text_layer,
            asked.needs_witness,
            asked.image_kind,
            str(asked.pages),
        ]
        return hashlib.sha256(json.dumps(known, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:32]


class Syncer:
    """One run over one selection of files.

    Args:
        catalog: The archive's rows.
        indexer: Writes vectors and words.
        ledger: The archive's ledger.
        options: The options of the run.
        transcriber: Reads the pages. Where `transcriber.lost` is set afterwards, those that need the engine are still
            due.
        on_page: Called for every page as soon as its reading is known.
    """

    def __init__(
        self,
        catalog: Catalog,
        indexer: Indexer,
        ledger: Ledger,
        options: ReadOptions,
        transcriber: Transcriber,
        on_page: Callable[[PageResult], None] | None = None,
    ) -> None:
        self._catalog = catalog
        self._indexer = indexer
        self._ledger = ledger
        self._options = options
        self._transcriber = transcriber
        self._on_page = on_page
        self._stamps = FileStamps(catalog, ledger, options)
        self._report = SyncReport()
        self._pending: list[PageRow] = []
        """Pages whose text is new or changed."""
        self._renamed: dict[str, PageRow] = {}
        """Pages of which the text is as before, and something else changed."""
        self._placed: set[str] = set()
        """URIs of files that this run has recorded or passed over."""
        self._sidecars = sidecar_finder()
        self._replaced: set[str] = set()
        """Ids of pages that were counted with the text of a stand-in, which is always `ok`."""
        self._left: set[str] = set()
        """Contents whose place has another content now."""

    def survey(self, files: Sequence[SourceFile]) -> Outlook:
        """Count the pages ahead; files whose stamps fit are not looked at."""
        outlook = self._transcriber.survey(self._stamps.rest(files))
        outlook.pass_over(len(self._stamps.passed), self._stamps.by_kind(files))
        return outlook

    def run(self, selection: Selection, cancel: threading.Event, *, prune: bool) -> SyncReport:
        """Read and index everything selected, then mark or remove what is gone."""
        report = self._report
        report.files = len(selection.files)
        report.errors += selection.errors
        self._stamps.begin()
        before = self._catalog.places()
        rest = self._stamps.rest(selection.files)
        report.pages += sum(self._stamps.passed.values(), Counter())
        report.kept_pages = report.pages.total()  # a file with a failed page is never passed over
        self._placed.update(self._stamps.passed)
        results = Ahead(self._transcriber.run(rest), AHEAD_RESULTS, on_close=cancel.set)
        with closing(results):
            try:
                for result in results:
                    self._take(result, before)
            except BaseException as err:
                # The error of a lost server comes after the last page, and is the caller's to raise.
                if err is not self._transcriber.lost:
                    # First stop the page that is being read: KoboldCpp's own embedder would wait for it.
                    cancel.set()
                    raise
            finally:
                self._flush()
        report.uncompared_pages = self._transcriber.uncompared_pages
        self._settle_gone(selection, before, prune=prune)
        self._stamps.end()
        report.pages = +report.pages  # without what was counted otherwise after all
        report.skipped = self._ledger.attachments_skipped(selection.files) + Counter(selection.skipped)
        return report

    def _take(self, result: PageResult, before: dict[str, Place]) -> None:
        if result.first_status:
            self._stamps.note_again(result)
        else:
            if self._on_page:
                self._on_page(result)
            self._stamps.note(result)
        try:
            with of_one_page("indexing it", result.source.path, result.page_number or None):
                self._note(result, before)
        except UnexpectedError as err:
            self._fail(result, err)
        if len(self._pending) >= BATCH_PAGES:
            self._flush()

    def _note(self, result: PageResult, before: dict[str, Place]) -> None:
        """Record where a page's file is, and what is to be done for the page."""
        self._place(result, before)
        if result.page_number == 0:
            self._report.unopened_files += 1
            self._count(result, is_corrected=False)
            return
        other = None if result.is_due else stand_in(self._ledger, self._options, result)
        own = result.readings.get("ocr")
        if other and own and own.status in _HALF_READ and len(own.text) <= len(other.text):
            if not result.first_status:
                self._stamps.note_stand_in(result)
                self._replaced.add(page_id(result.file_sha256, result.page_number))
            result = replace(result, readings={**result.readings, "ocr": other})
        row, old = self._rows(result)
        if result.first_status:
            self._report.pages.subtract(["ok" if row.page_id in self._replaced else result.first_status])
            self._report.pages[result.status] += 1
        else:
            self._count(result, is_corrected=row.as_read is not None)
            self._report.stand_in_pages += other is not None and _is_by_rapidocr(row)
            is_read = own is not None and own.engine == self._options.engine and not result.is_kept
            is_replaced = old is not None and _is_by_rapidocr(old) and not _is_by_rapidocr(row)
            self._report.reread_pages += is_read and is_replaced
        if old is None or old.indexed_as != row.version or _embedded(old) != _embedded(row):
            self._pending.append(row)
        elif any(getattr(old, name) != getattr(row, name) for name in _BESIDE_TEXT):
            self._renamed[row.page_id] = row

    def _fail(self, result: PageResult, error: UnexpectedError) -> None:
        """Note the error of a page of which no row can be made, at its file."""
        uri = result.source.uri
        self._report.errors.append(error)
        self._stamps.spoil(uri)
        metadata = {"file_name": result.source.name, "file_path": result.source.path}
        place = self._catalog.places().get(uri) or Place(uri, "", metadata)
        with suppress(UnexpectedError), of_one_page("noting its error", result.source.path):
            self._catalog.put_place(replace(place, error=str(error)))

    def _rows(self, result: PageResult) -> tuple[PageRow, PageRow | None]:
        """Return a page's row as it should be, and as it is; None where it is new."""
        first = self._catalog.first_place(result.file_sha256)
        if first and first.uri != result.source.uri:
            result = replace(result, beside=self._beside(first, result))
        parts = {
            task: result.readings[task].text
            for task in result.tasks
            if task in result.readings and result.readings[task].text and result.status != "failed"
        }
        row = PageRow(
            page_id=page_id(result.file_sha256, result.page_number),
            sha256=result.file_sha256,
            page_number=result.page_number,
            status=result.status,
            parts=parts,
            version=version_of(parts),
            metadata=dict(to_metadata(result)),
            uri=result.source.uri,
            error=str(result.error) if result.error else None,
            content_sha256=result.content_sha256,
        )
        if result.is_due and row.status == "failed":
            row = replace(row, status="due", metadata={**row.metadata, "page_status": "due"}, error=None)
        if first and first.uri != row.uri:
            row = row.at(first)
        old = self._catalog.page(row.page_id)
        if old is not None:
            read = as_read(old)
            if row.status == "due":
                row = read  # it was not tried, so what the last try gave is still true
            elif read.parts and row.status == "failed":
                # What was read of this content before is still true, and still found; the error is noted beside it.
                row = replace(read, error=row.error)
            row = replace(row, content_sha256=row.content_sha256 or old.content_sha256)
        return self._catalog.as_people_say(row), old

    def _beside(self, first: Place, copy: PageResult) -> Mapping[str, Scalar]:
        """Return what people wrote beside the place where a page is shown; beside its copy, if that is what is left."""
        photo = Path(local_path(first.uri))
        if copy.source.kind not in PHOTO_KINDS or not photo.is_file():
            return copy.beside
        return people_say(self._sidecars.read_of(photo))

    def _count(self, result: PageResult, *, is_corrected: bool) -> None:
        report = self._report
        status = "ok" if is_corrected and result.error else result.status
        report.pages[status] += result.page_number > 0
        report.kept_pages += result.is_kept and result.status != "failed"
        report.read_pages += not result.is_kept and result.status != "failed"
        if result.error is None:
            report.errors += list(result.errors.values())
        elif not is_corrected:  # a page that a person typed is no failure, even if nothing can read it
            report.errors.append(result.error)

    def _place(self, result: PageResult, before: dict[str, Place]) -> None:
        """Record where the file is: once a run, and once more when the first page of a new content was read."""
        uri = result.source.uri
        known = before.get(uri)
        if uri not in self._placed:
            self._placed.add(uri)
            place = self._placed_now(result, known)
            self._report.new_files += known is None
            if known is not None and known.sha256 != place.sha256:
                self._report.changed_files += 1
                self._left.add(known.sha256)
        elif known and known.former_sha256 and result.status not in _HALF_A_COPY:
            place = replace(known, former_sha256="")
        else:
            return
        if place != known:
            self._catalog.put_place(place)
            before[uri] = place

    def _placed_now(self, result: PageResult, known: Place | None) -> Place:
        everything = to_metadata(result)
        metadata: dict[str, Any] = {key: everything[key] for key in FILE_KEYS if key in everything}
        if result.page_number == 0:
            # A file that cannot be opened any more keeps the pages it had.
            sha256, former = (known.sha256, known.former_sha256) if known else ("", "")
            return Place(result.source.uri, sha256, metadata, error=str(result.error), former_sha256=former)
        former = ""
        if known and result.status in _HALF_A_COPY:
            is_new = known.sha256 != result.file_sha256
            has_read = any(row.status not in UNREAD for row in self._catalog.pages_of(known.sha256))
            former = known.former_sha256 or (known.sha256 if is_new and has_read else "")
        return Place(result.source.uri, result.file_sha256, metadata, former_sha256=former)

    def _flush(self) -> None:
        # Taken before indexing: if that fails, the next flush must not stamp these files.
        complete = self._stamps.take_complete()
        # A page that only the archive knew would lose its reading if a copy of it were forgotten after a kill.
        self._ledger.settle()
        if self._pending:
            rows = list({row.page_id: row for row in self._pending}.values())
            self._pending.clear()
            self._report.indexed_pages += self._indexer.index(rows)
        if self._renamed:
            known = {row.page_id for row in self._catalog.pages(list(self._renamed))}
            self._indexer.rename([row for row in self._renamed.values() if row.page_id in known])
            self._renamed.clear()
        for row in self._catalog.pages(list(self._indexer.failed)):
            self._stamps.spoil(row.uri)
        self._report.errors += self._indexer.failed.values()
        self._indexer.failed.clear()
        self._stamps.put(complete)

    def _settle_gone(self, selection: Selection, places: dict[str, Place], *, prune: bool) -> None:
        """Mark or remove the places below this run's folders at which there is no file any more."""
        seen = {source.uri for source in selection.files}
        # A folder that is absent or has no file that we take proves nothing: an unmounted disk looks like that.
        trusted = [root for root in selection.roots if any(is_below(uri, root) for uri in seen)]
        # A place that could not be looked at is not known to be gone, either.
        gone = [
            place
            for place in places.values()
            if place.uri not in seen
            and any(is_below(place.uri, root) for root in trusted)
            and not any(is_at(place.uri, path) for path in selection.unseen)
        ]
        emptied = [root for root in selection.roots if root not in trusted]
        self._report.vanished_files = sum(any(is_below(uri, root) for root in emptied) for uri in places)
        present = {place.sha256 for place in places.values() if place.uri in seen}
        moved = [place for place in gone if place.sha256 in present]
        missing = [place for place in gone if place.sha256 not in present]
        self._report.renamed_files = len(moved)
        self._report.new_files -= min(len(moved), self._report.new_files)
        self._catalog.remove_places([place.uri for place in moved])
        if prune and seen <= self._placed:  # else the run ended early: what is missing may have moved to what is left
            self._report.pruned_files = len(missing)
            self._catalog.remove_places([place.uri for place in missing])
        else:
            self._report.missing_files = len(missing)
            if newly := [place.uri for place in missing if not place.is_missing]:
                self._catalog.mark_missing(newly)
        self._show_at_first_place({place.sha256 for place in gone} | self._left)
        self._indexer.remove_orphans()

    def _show_at_first_place(self, contents: set[str]) -> None:
        """Give pages whose place is gone the metadata of the place that now shows their content."""
        for sha256 in contents:
            if first := self._catalog.first_place(sha256):
                rows = [row for row in self._catalog.pages_of(sha256) if row.uri != first.uri]
                self._indexer.rename([row.at(first) for row in rows])


def _is_by_rapidocr(row: PageRow) -> bool:
    """Tell whether a page's text is RapidOCR's, whose models are named after it."""
    return str(row.metadata.get("model")).startswith("rapidocr-")


def _embedded(row: PageRow) -> dict[str, Any]:
    """Return the metadata that is embedded with the text."""
    return {key: value for key, value in row.metadata.items() if key in EMBED_KEYS}
