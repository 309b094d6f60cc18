"""Archive: one folder that knows what was read and finds it again.

One process writes at a time; any number search meanwhile, and see new pages with the next query.
"""

from __future__ import annotations

import functools
import json
import logging
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from glob import has_magic
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import unquote

from kobold_reader.archive import corrections, tags
from kobold_reader.archive.duplicates import Alike, Duplicates
from kobold_reader.archive.embedders import (
    OWN,
    Embedder,
    ServerAccess,
    asked_name,
    choose_embedder,
    of_model,
    record_of,
)
from kobold_reader.archive.folder import (
    CATALOG,
    LEDGER,
    BusyError,
    Traces,
    check_folder,
    is_locked,
    locked,
    make_folder,
)
from kobold_reader.archive.rows import UNREAD, PageOutline, PageRow, Place
from kobold_reader.archive.store import Catalog
from kobold_reader.archive.tags import TagStatistics
from kobold_reader.archive.vector_index import (
    SPEED,
    Indexer,
    VectorIndex,
    measure_embedding,
)
from kobold_reader.archive.vectors import ChromaServer
from kobold_reader.documents import page_id
from kobold_reader.errors import (
    ConfigError,
    KoboldReaderError,
    LedgerError,
    MissingExtraError,
    ServerError,
    SourceError,
    SourceNotFoundError,
    StoreError,
    archive_option,
)
from kobold_reader.files import is_writable
from kobold_reader.options import ExportFormat, GroupBy, Grouping, Mode, ReadOptions
from kobold_reader.pages import Selection, as_uri, expanded, is_at, is_text, local_uri, select
from kobold_reader.reading.ledger import Ledger, default_ledger_path
from kobold_reader.reading.results import PageResult, Reading, Status

if TYPE_CHECKING:
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.llms import LLM
    from llama_index.core.query_engine import RetrieverQueryEngine

    from kobold_reader.archive.ask import Answer, AnswerStream
    from kobold_reader.archive.export import ExportReport, ImportReport
    from kobold_reader.archive.query_engine import ArchiveRetriever
    from kobold_reader.archive.search import Hit, Hits
    from kobold_reader.archive.sidecars import Change, SidecarOptions, SidecarReport
    from kobold_reader.archive.sync import SyncReport
    from kobold_reader.llm import KoboldLLM
    from kobold_reader.reader import KoboldReader
    from kobold_reader.reading.survey import Outlook
    from kobold_reader.reading.transcriber import Transcriber
    from kobold_reader.session import Paths, ReadSession

log = logging.getLogger(__name__)


class Doubt(NamedTuple):
    """A page that a person should look at."""

    page_id: str
    file_path: str
    page_number: int
    status: Status
    why: str
    """The reasons in a few words; "" where the status is all."""


@dataclass(frozen=True, slots=True)
class ArchiveStatus:
    """What an archive holds."""

    pages: dict[str, int]
    """By status."""
    files: int
    missing_files: tuple[str, ...]
    failed: tuple[tuple[str, int, str], ...]
    """(path, page number, why), also where only a further task of a page failed; page 0: the file as a whole."""
    embedder: str
    unfinished_pages: int
    """Begun by a run that was interrupted; the next `index` finishes them."""
    corrections: int
    """Pages that people corrected."""


class Forgotten(NamedTuple):
    """How much `Archive.forget` removed."""

    pages: int
    readings: int
    corrections: int


class Archive:
    """One archive folder. Use `Archive.open`; safe to search from several threads.

    Example:
        >>> from kobold_reader import Archive, KoboldReader
        >>> with Archive.open("my-archive", create=True) as archive:  # doctest: +SKIP
        ...     archive.sync("scans", reader=KoboldReader())
        ...     archive.search("Lindqvist 1954")[0].link
    """

    def __init__(self, folder: Path, catalog: Catalog, access: ServerAccess, index: VectorIndex) -> None:
        self.folder = folder
        self._catalog = catalog
        self._access = access
        self._index = index
        self._duplicates = Duplicates(catalog)
        self._traces: Traces | None = None
        """Of a new archive, which goes if its first run fails with nothing read."""

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        create: bool = False,
        embedder: str | None = None,
        embed_model: BaseEmbedding | None = None,
        api_url: str | Sequence[str] = "http://127.0.0.1:5001",
        api_password: str | None = None,
        chroma_url: str | None = None,
    ) -> Self:
        """Open an archive.

        Args:
            folder: The archive's folder.
            create: Make an archive if there is none.
            embedder: For a new archive: `e5`, `minilm`, `koboldcpp`, `none`, or `fastembed:MODEL`, which downloads the
                model; None: MiniLM if it is installed, else e5, else words only. An archive keeps its embedder; asking
                for another one is refused.
            embed_model: Any LlamaIndex embedding model in place of `embedder`. The archive records its class and
                model name; whoever opens the archive again gives it again.
            api_url: KoboldCpp, which embeds (`koboldcpp`) and answers questions.
            api_password: The password of that server.
            chroma_url: A Chroma server for the vectors; all else stays in the folder. The archive remembers it. If its
                vectors were elsewhere before, the next `sync` makes them there, without reading a page.

        Raises:
            StoreError: No archive there (and not `create`), one of another format, or the folder is on a network share.
            MissingExtraError: The embedder asked for is not installed.
            ServerError: KoboldCpp's embedder was asked for and cannot be reached.
            ConfigError: The archive was made with another embedder, or has no vectors to put on a server.
        """
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise StoreError(f"{folder} is a file, and an archive is a folder.", hint="Name a folder with --archive.")
        access = ServerAccess((api_url,) if isinstance(api_url, str) else tuple(api_url), api_password)
        exists = False
        if (folder / CATALOG).is_file():
            with closing(Catalog(folder / CATALOG)) as made:
                exists = made.meta("embedder") is not None  # it is written last
        if not exists and not create:
            hint = f"Make one with: kobold-reader index PATH {archive_option(folder)}"
            raise StoreError(f"there is no archive in {folder}.", hint=hint)
        if not exists or is_writable(folder / CATALOG):
            check_folder(folder)
        # Chosen before anything is written: a missing extra leaves no half-made archive behind.
        chosen = None if exists else _choose(embedder, embed_model, access)
        traces = None if exists else Traces(folder)
        if chroma_url is not None and not exists:
            ChromaServer.chosen(chroma_url, has_vectors=chosen is not None)
        make_folder(folder)
        catalog = Catalog(folder / CATALOG)
        archive = cls(folder, catalog, access, VectorIndex(folder, catalog, access, chosen))
        archive._traces = traces
        with ExitStack() as opened:
            opened.push(archive)
            if not exists:
                catalog.set_meta("embedder", record_of(chosen))
            elif embed_model is not None:
                archive._index.use(of_model(embed_model, archive._index.record()))
            elif embedder is not None and embedder != (kept := asked_name(archive._index.record())):
                raise ConfigError(
                    f"the archive {folder} was made with the embedder {kept!r}, not {embedder!r}.",
                    hint="Leave --embedder out, or make the vectors anew with --reembed.",
                )
            if chroma_url is not None:
                with archive._locked():
                    archive._index.move_to(chroma_url)
            opened.pop_all()
        return archive

    @property
    def is_read_only(self) -> bool:
        """Whether nothing in it may be written here: a read-only medium, another user's folder."""
        return self._catalog.is_read_only

    def close(self) -> None:
        """Release all files."""
        self._index.close()
        self._catalog.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, KoboldReaderError):
            self.discard_if_empty()
        self.close()

    def is_being_written(self) -> bool:
        """Tell whether a run, of this process or another one, holds the archive for writing."""
        return is_locked(self.folder)

    def discard_if_empty(self) -> None:
        """Close and remove the archive, if it was made by this object and no page was read into it.

        Folders that were there before stay, with everything in them.
        """
        if self._traces is None or self._catalog.has_read_pages() or self.count_readings():
            return
        with suppress(BusyError):  # it is another process's by now
            with self._locked():
                self.close()
            self._traces.remove()
            self._traces = None

    def count_readings(self, engine: str | None = None) -> int:
        """Count the readings in the archive's own ledger, or those of one engine."""
        with self._own_ledger() as ledger:
            return ledger.count_readings(engine) if ledger else 0

    # ── writing ──────────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the archive for writing; raises BusyError if another process does, StoreError if it is read-only."""
        self._catalog.refuse_changes()
        with locked(self.folder):
            try:
                yield
            finally:
                self._index.end_writing()

    @contextmanager
    def _writing(self) -> Iterator[Indexer]:
        """Hold the archive for writing, after finishing what a killed `forget` began."""
        with self._locked():
            self._end_erasing()
            self._catalog.renew_words()
            yield self._index.begin_writing()

    def open_ledger(self, options: ReadOptions) -> Ledger:
        """Open the archive's ledger, which falls back to the ledger that the options name, read-only."""
        behind = None
        if options.ledger != "none":
            path = Path(options.ledger) if options.ledger else default_ledger_path()
            behind = Ledger(path, read_only=True) if path.is_file() else None
        return Ledger(self.folder / LEDGER, fallback=behind)

    def sync(
        self,
        paths: str | Path | Iterable[str | Path] | None = None,
        *,
        reader: KoboldReader | ReadSession | None = None,
        changes: Mapping[str, Any] | None = None,
        defaults: Mapping[str, Any] | None = None,
        prune: bool = False,
        remember: bool = True,
        cancel: threading.Event | None = None,
        on_page: Callable[[PageResult], None] | None = None,
        on_start: Callable[[ReadSession, Outlook], None] | None = None,
        on_progress: Callable[[str], None] | None = None,
        make_transcriber: Callable[..., Transcriber] | None = None,
    ) -> SyncReport:
        """Read what is new or changed, and index it; mark what is gone as missing.

        Args:
            paths: Files, folders, patterns; None: those of past runs.
            reader: None: as in past runs, else KoboldReader's defaults.
            changes: KoboldReader arguments in which this run differs from past ones, where `reader` is None.
            defaults: KoboldReader arguments of which past runs said nothing, where `reader` is None.
            prune: Remove what is missing, only below these paths, and never where a folder is absent or empty.
            remember: Whether the next run without paths repeats these paths and settings.
            cancel: Set by another thread to stop; what was read until then is indexed.
            on_page: Called for every page when its reading is known.
            on_start: Called with the session and the work ahead of it, before the first page is read; once for each
                group of paths that past runs read with the same settings.
            on_progress: Called with a line of text while a page is being read.
            make_transcriber: In place of `ReadSession.transcriber`; `cluster.transcriber` reads on other machines.

        Raises:
            SourceError: No file was found at the paths.
            ServerError: No server could go on. All pages that needed none were indexed before.
            MissingExtraError: As ServerError, of an engine that is not installed.
            StoreError: Another process is writing, or the disk is full.
        """
        from kobold_reader.archive.sync import Syncer, SyncReport
        from kobold_reader.session import ReadSession

        session = reader if reader is None or isinstance(reader, ReadSession) else reader.session
        runs = self._runs(paths, session, changes, defaults)
        make_transcriber = make_transcriber or ReadSession.transcriber
        total = SyncReport()
        failed: list[SourceError] = []
        lost: KoboldReaderError | None = None
        for some, its_session in runs:
            stop, options = cancel or threading.Event(), its_session.options
            with self._writing() as indexer, self.open_ledger(options) as ledger:
                selection = select(some, known=ledger.kind_of)
                self._say_what_is_kept(selection)
                if selection.errors and not selection.files:
                    failed.append(selection.errors[0])
                    continue
                total.finished_pages += indexer.finish()
                if remember:
                    self._remember(some, options)
                transcriber = make_transcriber(
                    its_session, ledger, cancel=stop, on_progress=on_progress, hands_out_again=True
                )
                syncer = Syncer(self._catalog, indexer, ledger, options, transcriber, on_page)
                if on_start:
                    outlook = syncer.survey(selection.files)
                    outlook.forecast = its_session.forecast(outlook, ledger)
                    outlook.indexing_s = self._indexing_s(outlook.contents, ledger)
                    on_start(its_session, outlook)
                total.add(syncer.run(selection, stop, prune=prune))
                lost = lost or transcriber.lost
        if lost:
            raise lost
        if len(failed) == len(runs):
            raise failed[0]
        total.errors += failed
        return total

    def _say_what_is_kept(self, selection: Selection) -> None:
        """Add to the errors of known files that are not there any more what becomes of their pages."""
        known = self._catalog.places() if selection.errors else {}
        for error, uri in zip(selection.errors, selection.unseen, strict=True):
            if uri in known and isinstance(error, SourceNotFoundError):
                error.hint = "Its pages stay in the archive; `kobold-reader forget` removes them."

    def _indexing_s(self, contents: set[str], ledger: Ledger) -> float | None:
        """Return how long it takes to index those of these contents that are new.

        The pages of the last run tell it; in a new archive, a few passages that are embedded to measure it.
        """
        from kobold_reader.reading.survey import MEASURED_PAGES

        speed, new = self._catalog.meta(SPEED), contents - self._catalog.indexed_contents()
        if speed and new:
            return len(new) * float(speed)
        if len(new) >= MEASURED_PAGES and self._index.record()["kind"] == "minilm":
            with suppress(MissingExtraError):  # the run will report it
                return measure_embedding(self._index.embedder(), ledger, new)
        return None

    def _runs(
        self,
        paths: str | Path | Iterable[str | Path] | None,
        session: ReadSession | None,
        changes: Mapping[str, Any] | None,
        defaults: Mapping[str, Any] | None,
    ) -> list[tuple[list[str | Path], ReadSession]]:
        """Return the paths to read with the session of each; remembered paths with the same settings together."""
        from kobold_reader.session import ReadSession

        roots = self._catalog.roots()
        groups: dict[str, list[str | Path]] = {}
        if paths is not None:
            groups[""] = [paths] if isinstance(paths, str | Path) else list(paths)
        else:
            for path, settings in roots.items():
                groups.setdefault("" if session else json.dumps(settings, sort_keys=True), []).append(path)
        if not any(groups.values()):
            raise ConfigError(f"the archive {self.folder} remembers no paths yet: name what to index.")

        def session_of(some: Iterable[str | Path]) -> ReadSession:
            kept = next((settings for path in some if (settings := roots.get(root_name(path)))), {})
            told = {name: value for name, value in kept.items() if value is not None}
            given = {**(defaults or {}), **told, **(changes or {}), "api_password": self._access.password}
            return ReadSession(ReadOptions.of(given))

        return [(some, session or session_of(some)) for some in groups.values()]

    def _remember(self, paths: Iterable[str | Path], options: ReadOptions) -> None:
        # `redo` and `stop_after_s` are asked for once: remembered, every later run would repeat them.
        asked_once = {"redo", "stop_after_s"} | ({"image_kind"} if options.image_kind == "auto" else set())
        settings = {name: value for name, value in options.to_dict().items() if name not in asked_once}
        known = self._catalog.roots() if options.is_stand_in else {}  # the next run wants KoboldCpp there again
        for path in paths:
            if root_name(path) not in known:
                self._catalog.remember_root(root_name(path), settings)

    def reembed(
        self,
        embedder: str | None = None,
        *,
        embed_model: BaseEmbedding | None = None,
        chroma_url: str | None = None,
    ) -> int:
        """Make all vectors anew, without reading a page; returns the number of pages with text.

        The arguments are those of `open`; None: the same as before.

        Raises:
            MissingExtraError | ServerError: The embedder cannot be used; nothing was changed.
        """
        if embedder is None and embed_model is None and self._index.record()["kind"] == OWN:
            chosen = self._index.embedder()
        else:
            kept = asked_name(self._index.record()) if embed_model is None else None
            chosen = _choose(embedder or kept, embed_model, self._access)
        if chroma_url is not None:
            ChromaServer.chosen(chroma_url, has_vectors=chosen is not None)
        with self._locked():
            # From here on a kill leaves all pages unfinished: the next run continues.
            begun = self._catalog.begin([row for row in self._catalog.every_page() if row.status not in UNREAD])
            self._index.replace(chosen)
            if chroma_url is not None:
                self._index.move_to(chroma_url)
            indexed = self._index.begin_writing().index(begun)
            if self._catalog.is_erasing:  # the old vectors were removed as a whole
                self._catalog.erase_deleted()
        return indexed

    def forget(self, uris: Sequence[str]) -> Forgotten:
        """Remove files with their pages, words, vectors, readings and corrections, also from the bytes of all files.

        Pages that another known file also shows are kept. The other pages' vectors are copied, about 700 chunks a
        second. After a kill nothing of the files can be found; the next `forget` or `sync` erases the bytes.

        Chroma 1.5.9 writes uninitialized memory into the unused part of its graph, at the first use after opening. A
        process that had these pages in memory, such as a web server, a notebook or this one, may therefore write scraps
        of them again while it goes on: end it. `reembed` in a new process removes such scraps. Vectors on a Chroma
        server are deleted there; the bytes of that server's files are not erased.

        Raises:
            StoreError: Another process is writing, or the disk is full.
            ServerError: A copy of a forgotten file remains. Its pages must be split again by KoboldCpp's embedder,
                which does not answer.
        """
        with self._locked(), Ledger(self.folder / LEDGER) as ledger:
            contents = {content for uri in uris for content in ledger.contents_of(uri)}
            readings, corrected = ledger.forget(uris), self._catalog.count_corrections()
            pages = self._catalog.forget(uris, contents, ledger.knows)
            known = self._catalog.places()
            for root in self._catalog.roots():
                address = as_uri(root)
                if any(is_at(uri, address) for uri in uris) and not any(is_at(uri, address) for uri in known):
                    self._catalog.forget_root(root)
            self._end_erasing()
            return Forgotten(pages, readings, corrected - self._catalog.count_corrections())

    def _end_erasing(self) -> None:
        """Erase what was forgotten from the bytes of all files, also after a killed `forget`."""
        if not self._catalog.is_erasing:
            return
        moved = [
            row.at(place)
            for row in self._catalog.pages_at_lost_places()
            if (place := self._catalog.first_place(row.sha256)) is not None
        ]
        if moved:  # copies of what was forgotten stay
            self._index.begin_writing().rename(moved)
        self._index.erase_deleted()
        self._catalog.erase_deleted()

    # ── corrections ──────────────────────────────────────────────────────────────────────────────

    def correct(self, page_id: str, text: str | None) -> None:
        """Replace a page's transcription by a person's text, which is found at once and is kept over any reading.

        The correction belongs to what the page shows: copies of the file have it too, and it stays through renames,
        `redo` and `reembed`. While another run is indexing, or the embedder's server is off, the page is found by its
        words, and the next run makes its vectors.

        Args:
            page_id: As in `Hit.page_id`.
            text: The whole page's text, without its image description; "": the page has none. None, or the text as it
                was read, takes the correction back.

        Raises:
            ConfigError: There is no such page, or the text cannot be recorded.
            StoreError: The archive cannot be written.
        """
        self._correctable(page_id)
        if self._catalog.correct({page_id: text}):
            self._index_corrected([page_id])

    def uncorrect(self, page_id: str) -> None:
        """Take a page's correction back, if it has one: its text is again as it was read."""
        self.correct(page_id, None)

    def _index_corrected(self, page_ids: Sequence[str]) -> None:
        """Make the vectors of pages just corrected, if that is possible now."""
        try:
            with self._locked():
                self._index.begin_writing().index(self._catalog.unfinished_of(page_ids))
        except (BusyError, ServerError, MissingExtraError) as err:
            log.info("the next run makes the vectors of what was corrected: %s", err)

    def rename_tags(self, names: Mapping[str, str]) -> int:
        """Give tags other names, on every page and in one step; later readings get them too. Returns how many pages.

        Several tags with one new name are merged. Only the model's tags change: keywords that people wrote into a file
        stay as they are there. While another run is indexing, that run or the next one makes the vectors.

        Args:
            names: The new name by the old one, in any case of letters.

        Raises:
            ConfigError: A name is empty or holds a comma.
            StoreError: The archive cannot be written.
        """
        changed = self._catalog.rename_tags(tags.checked(names))
        if changed:
            self._index_corrected(changed)
        return len(changed)

    def tags(self) -> TagStatistics:
        """Return how often each tag is used, by the model and by people, and which are nearly the same."""
        return tags.statistics(self._catalog.keywords())

    def rotate(self, page_id: str, rotation_deg: int | None) -> None:
        """Turn the picture of a page, wherever it is shown; nothing is read anew.

        It belongs to what the page shows, as a correction does, so it stays through renames, `redo` and `reembed`.

        Args:
            page_id: As in `Hit.page_id`.
            rotation_deg: The clockwise turn of the picture that the file stores, a multiple of 90, as `rotation_deg` in
                a page's metadata; None: as the page was read.

        Raises:
            ConfigError: There is no such page, it could never be opened, or it is not a multiple of 90.
            StoreError: The archive cannot be written.
        """
        if rotation_deg is not None and rotation_deg % 90:
            raise ConfigError(f"rotation_deg: {rotation_deg} is not a multiple of 90.")
        content = self._correctable(page_id).content_sha256
        with self._catalog.transaction("rotate") as db:  # without the writer's lock: searches see nothing of it
            corrections.rotate(db, content, None if rotation_deg is None else rotation_deg % 360)

    def rotations(self, pages: Iterable[PageRow]) -> dict[str, int]:
        """Return how people turned the pictures of pages, by page id, of those that they turned; see `rotate`."""
        contents = {page.page_id: page.content_sha256 for page in pages if page.content_sha256}
        with self._catalog.reading() as db:
            turned = corrections.rotations(db, contents.values())
        return {page_id: turned[content] for page_id, content in contents.items() if content in turned}

    def _correctable(self, page_id: str) -> PageRow:
        row = self._catalog.page(page_id)
        if row is None:
            raise ConfigError(
                f"there is no page {page_id!r} in the archive {self.folder}.",
                hint="A page's id changes with its file: search again.",
            )
        corrections.check_correctable(row)
        return row

    def worth_a_look(self) -> list[Doubt]:
        """Return the pages that a person should look at, the most doubtful first, failed ones last.

        They are those that the witness agrees with little, that were cut, or whose words are doubtful. A page that was
        corrected, or whose text `approve` was told to be right, is not among them; of copies there is one.
        """
        found: dict[str, Doubt] = {}
        with self._catalog.reading() as db:
            approvals = corrections.approvals(db)
        with self._readings_kept() as ledger:
            doubtful = {page_id(one.sha256, one.page_number): one for one in (ledger.worth_a_look() if ledger else ())}
        for one, content, path, number, text in self._catalog.as_they_were_read(list(doubtful)):
            # The ledger may also have a reading with other settings, or of another model.
            is_shown = text == doubtful[one].text
            if is_shown and (content not in approvals or approvals[content] != corrections.text_sha256(text)):
                found.setdefault(content, Doubt(one, path, number, doubtful[one].status, doubtful[one].why))
        failed = (row for row in self._catalog.failed() if row.status == "failed")
        return [
            *found.values(),
            *(Doubt(row.page_id, row.path, row.page_number, "failed", "") for row in failed),
        ]

    def approve(self, page_id: str) -> None:
        """Remember that a person found the text of a page right, for as long as it is this text.

        Raises:
            ConfigError: There is no such page, or it could never be opened.
            StoreError: The archive cannot be written.
        """
        row = self._correctable(page_id)
        with self._catalog.transaction("approve") as db:
            corrections.approve(db, row.content_sha256, row.parts.get("ocr", ""))

    def second_reading(self, page: PageRow) -> Reading | None:
        """Return what the witness read on a page; None where it did not read it."""
        from kobold_reader.reading.second_reader import witness_key

        options = ReadOptions.of(self.settings_of(page.uri))
        with self._readings_kept() as ledger:
            return ledger.reading(page.content_sha256, "ocr", "rapidocr", witness_key(options)) if ledger else None

    def correction(self, page_id: str) -> corrections.Correction | None:
        """Return what a person wrote in place of a page's transcription, if anything."""
        row = self._catalog.page(page_id)
        return self._catalog.correction(row.content_sha256) if row is not None else None

    def text_as_read(self, page_id: str) -> str:
        """Return a page's transcription as it was read, also of a corrected page; "" where there is none."""
        row = self._catalog.page(page_id)
        return corrections.read_text(row) if row is not None else ""

    def write_sidecars(
        self,
        paths: Paths | None = None,
        options: SidecarOptions | None = None,
        *,
        on_change: Change | None = None,
    ) -> SidecarReport:
        """Write what is known of photos into their XMP sidecars, and leave what people wrote there.

        Args:
            paths: Photos, or folders of them; None: the paths of past runs.
            options: How.
            on_change: Told of each change before it is made: the sidecar, what it held, and what it will hold.

        Raises:
            SourceError: No file was found at the paths.
        """
        from kobold_reader.archive.sidecars import Sidecars
        from kobold_reader.session import take

        with Ledger(self.folder / LEDGER, read_only=True) as ledger:
            selection = take(list(self._catalog.roots()) if paths is None else paths, known=ledger.kind_of)
            return Sidecars(options, on_change).write(selection, ledger, self._catalog)

    def export(
        self,
        folder: str | Path,
        *,
        to: ExportFormat = "md",
        group_by: GroupBy = "file",
        pdf_passwords: Sequence[str] = (),
    ) -> ExportReport:
        """Write all texts to files in a folder.

        `md`, `txt` and `jsonl` are for people to read and to edit for `import_corrections`. `pdf` makes a copy of each
        PDF or picture as a PDF whose text can be searched and copied; `hocr` and `alto` are the text with the place of
        each line, for other programs. One file is written for each file, or of texts for each folder (`group_by`). An
        existing file is overwritten only if nothing is lost by it: it is as it was exported, or everything edited in it
        was imported. `pdf_passwords` are tried on encrypted files.

        Raises:
            ConfigError: The folder is a file, or `to` or `group_by` is unknown, or they do not go together.
        """
        from kobold_reader.archive.export import Exporter
        from kobold_reader.archive.export_format import LAYOUT_ENDINGS

        exporter = Exporter(self._catalog, Path(folder), to, group_by)
        if to not in LAYOUT_ENDINGS:
            return exporter.run()
        from kobold_reader.archive.layouts import LayoutWriter
        from kobold_reader.reading.open_file import OpenFile

        with Ledger(None) as facts, OpenFile(facts, tuple(pdf_passwords)) as opened:
            return exporter.run(LayoutWriter(opened, to, self.readings))

    def exported(self, page_ids: Sequence[str], *, to: str = "md") -> str:
        """Return some pages as the text of one file, in this order, as `export` writes them, or as a table (`csv`).

        Raises:
            ConfigError: `to` is unknown.
        """
        from kobold_reader.archive.export import exported

        return exported(self._catalog, page_ids, to)

    def import_corrections(self, folder: str | Path) -> ImportReport:
        """Import the edits in a folder of exported files, or in one of them, as corrections.

        A file whose marks are damaged is left aside as a whole. A page that was corrected elsewhere since the export
        keeps that correction.

        Raises:
            SourceError: There is no export.
            StoreError: The archive cannot be written.
        """
        from kobold_reader.archive.export import Importer

        report = Importer(self._catalog).run(Path(folder))
        if changed := report.corrected + report.taken_back:
            self._index_corrected(changed)
        return report

    # ── searching ────────────────────────────────────────────────────────────────────────────────

    def search(
        self,
        query: str,
        *,
        limit: int = 5,
        mode: Mode = "hybrid",
        where: Sequence[str] = (),
        since: str | None = None,
        until: str | None = None,
        folder: str | Path | None = None,
        by: Grouping = "page",
        all_copies: bool = False,
        related: bool = False,
        on_notice: Callable[[str], None] = log.warning,
    ) -> Hits:
        """Return the pages found for a query, best first.

        Args:
            query: Words, names, numbers, "quoted phrases", or a question.
            limit: At most this number of pages, or with `by` of groups. `Hits.total` says how many are found.
            mode: `hybrid`; `dense`: by meaning alone; `keyword`: pages that hold all the words.
            where: Conditions on metadata: `KEY=VALUE`, `KEY=A..B`, `KEY=~WORD`.
            since: Pages of this year, month or day (`1954`, `1954-03`, `1954-03-12`) or later. A page's day is that of
                its `date_taken`, else `date_digitized`, `creation_date`, `last_modified_date`.
            until: Pages of this year, month or day or earlier.
            folder: Pages of files in it or below: a path, or any part of one (`letters`, `letters/1954`).
            by: `file` or `folder`: bring their hits together, best first, at most five pages of each.
            all_copies: Return each of several pages that show the same (copies, photos that look alike); else only the
                best of them, which names the others in `Hit.alike`. The same holds with `by`.
            related: Also return pages that are merely near (`Hit.match` is `related`), behind those found.
            on_notice: Called with a line of text for people when the embedder cannot be reached and only words are
                searched.

        Raises:
            ConfigError: Empty query, unknown mode, key or folder; a date of another shape.
        """
        from kobold_reader.archive.filters import parse_filter
        from kobold_reader.archive.search import Hits, Searcher

        if not self._catalog.has_read_pages():
            here = archive_option(self.folder)
            on_notice(f"the archive {self.folder} is empty. Add files with: kobold-reader index PATH {here}")
            if failed := self._catalog.count_failed():
                on_notice(f"{failed} could not be read. To see why: kobold-reader status {here}")
            return Hits()
        searcher = Searcher(self._catalog, self._index.search(mode, on_notice), self._duplicates)
        filter_ = parse_filter(where, since=since, until=until, folder=folder)
        return searcher.search(
            query, limit=limit, mode=mode, filter_=filter_, by=by, all_copies=all_copies, related=related
        )

    def like(
        self,
        picture: str | Path,
        *,
        limit: int = 5,
        mode: Mode = "hybrid",
        where: Sequence[str] = (),
        since: str | None = None,
        until: str | None = None,
        folder: str | Path | None = None,
        by: Grouping = "page",
        all_copies: bool = False,
        related: bool = False,
        on_notice: Callable[[str], None] = log.warning,
    ) -> Hits:
        """Return the photos that look like a picture, then those whose descriptions say the like, best first.

        No server is asked. A picture that is not in the archive has the description of the photo that looks the same,
        else what people wrote into its file; if there is neither, only looks are compared.

        Args:
            picture: A file, in the archive or not, or a page's id.
            limit: This and all further options are those of `search`.
            mode: `keyword` compares looks and words, without vectors.
            where: Conditions on metadata.
            since: Earliest day.
            until: Latest day.
            folder: Where the files are.
            by: How hits are grouped.
            all_copies: Whether each of several that show the same is returned.
            related: Whether those that are merely near are returned.
            on_notice: Called when the embedder cannot be reached.

        Raises:
            SourceError: The file cannot be opened.
            ConfigError: As `search`.
        """
        from kobold_reader.archive.filters import parse_filter
        from kobold_reader.archive.picture import Picture
        from kobold_reader.archive.search import Searcher

        row = self._catalog.page(picture) if isinstance(picture, str) else None
        asked = Picture.at(picture, self._catalog) if row is None else Picture.of(row)
        searcher = Searcher(self._catalog, self._index.search(mode, on_notice), self._duplicates)
        filter_ = parse_filter(where, since=since, until=until, folder=folder)
        return searcher.like(asked, limit=limit, filter_=filter_, by=by, all_copies=all_copies, related=related)

    def duplicates(self) -> list[tuple[Alike, ...]]:
        """Return groups of pages that show the same: copies of a file, one scan in several files, photos nearly alike.

        The largest file of each group comes first. Of copies of a file with many pages only the first page is named.
        """
        return self._duplicates.groups()

    def alike(self, page_id: str) -> tuple[Alike, ...]:
        """Return all pages that show the same as a page, without the page itself."""
        row = self._catalog.page(page_id)
        return self._duplicates.alike(row) if row is not None else ()

    def piles(self) -> dict[str, list[str]]:
        """Return all groups of pages that show the same, by the id of each page in one: cheap, without their files."""
        return self._duplicates.piles()

    def copies(self) -> dict[str, int]:
        """Return in how many places a page is, by page id, where there is more than one."""
        return self._catalog.copies()

    def as_retriever(self, *, limit: int = 5, mode: Mode = "hybrid", **narrowed: Any) -> ArchiveRetriever:
        """Return a LlamaIndex retriever over `search`, one node a page; `narrowed` are further options of `search`.

        Behind the pages found it returns those that may be related, unless `related=False`; a node's metadata has its
        `match`.
        """
        from kobold_reader.archive.query_engine import ArchiveRetriever

        return ArchiveRetriever(functools.partial(self.search, limit=limit, mode=mode, **{"related": True, **narrowed}))

    def as_query_engine(
        self,
        llm: LLM | None = None,
        *,
        limit: int = 5,
        where: Sequence[str] = (),
        streaming: bool = False,
        on_notice: Callable[[str], None] = log.warning,
    ) -> RetrieverQueryEngine:
        """Return LlamaIndex's query engine over `search`, which answers from pages that fit the model's context.

        Options are those of `search`; `on_notice` is also called for pages that do not fit the context, and for a cut
        answer. Without `llm` the model of this archive's KoboldCpp answers, never LlamaIndex's own default.
        """
        from kobold_reader.archive.query_engine import query_engine

        retriever = self.as_retriever(limit=limit, where=where, on_notice=on_notice)
        return query_engine(retriever, llm or self.llm(), on_notice, streaming=streaming)

    def ask(self, question: str, **options: Any) -> Answer:
        """Answer a question as `ask_stream` does, with the same options, but return the whole answer at once."""
        with self.ask_stream(question, **options) as stream:
            for _ in stream:
                pass
            return stream.answer

    def ask_stream(
        self,
        question: str,
        *,
        llm: LLM | None = None,
        limit: int = 5,
        where: Sequence[str] = (),
        on_notice: Callable[[str], None] = log.warning,
        **narrowed: Any,
    ) -> AnswerStream:
        """Find pages for a question, and return the answer as a stream of text.

        Options are those of `as_query_engine`; `narrowed` are further options of `search`. The model is given the pages
        found and, behind them, those that may be related. If there are neither, no request is sent.

        Raises:
            ConfigError: An empty question.
            ContextTooSmallError: Not even a part of one page fits.
            ServerError: No server can answer.
        """
        from kobold_reader.archive.query_engine import ArchiveRetriever, query_engine, stream_answer

        hits: dict[str, Hit] = {}

        def search(query: str) -> Sequence[Hit]:
            options = {"related": True, **narrowed}
            found = self.search(query, limit=limit, where=where, on_notice=on_notice, **options)
            hits.update({hit.page_id: hit for hit in found})
            return found

        engine = query_engine(ArchiveRetriever(search), llm or self.llm(), on_notice, streaming=True)
        return stream_answer(engine, hits, question)

    def llm(self) -> KoboldLLM:
        """Return the model of this archive's KoboldCpp; no server is contacted yet."""
        from kobold_reader.llm import KoboldLLM

        return KoboldLLM(api_url=list(self._access.urls), api_password=self._access.password)

    @property
    def embed_model(self) -> Any:
        """The LlamaIndex embed_model of this archive, for `VectorStoreIndex.from_vector_store`.

        Raises:
            ConfigError: An archive of words only.
        """
        return self._embedder().make_model()

    @property
    def chroma_collection(self) -> Any:
        """Chroma's collection `pages`, for `ChromaVectorStore(chroma_collection=…)`.

        Raises:
            ConfigError: An archive of words only.
        """
        return self._index.vectors(self._embedder()).collection

    def _embedder(self) -> Any:
        embedder = self._index.embedder()
        if embedder is None:
            raise ConfigError(
                f"the archive {self.folder} has words only, no vectors.",
                hint="index --reembed --embedder e5 makes them.",
            )
        return embedder

    # ── what it holds ────────────────────────────────────────────────────────────────────────────

    def page(self, page_id: str) -> PageRow | None:
        """Return one page by its id."""
        return self._catalog.page(page_id)

    def pages_by_id(self, page_ids: Sequence[str]) -> list[PageRow]:
        """Return pages by their ids, in this order, unknown ones left out."""
        return self._catalog.pages(page_ids)

    def pages(self) -> Iterator[PageRow]:
        """Yield all pages by file and page number."""
        return self._catalog.every_page()

    def outlines(self, length: int) -> Iterator[PageOutline]:
        """Yield all pages by file and page number, of each text the first `length` characters."""
        return self._catalog.outlines(length)

    def pages_of(self, file_sha256: str) -> list[PageRow]:
        """Return the pages of a file's content in page order."""
        return self._catalog.pages_of(file_sha256)

    def failed_pages(self, limit: int = -1) -> list[PageRow]:
        """Return the pages that failed at the last try, also those that keep an earlier reading; -1: all."""
        return self._catalog.failed(limit)

    def count_failed(self) -> int:
        """Count the pages and the files that failed at the last try; cheap in any archive."""
        return self._catalog.count_failed()

    def failed_places(self) -> list[Place]:
        """Return the files that could not be opened."""
        return self._catalog.failed_places()

    def has_places(self) -> bool:
        """Tell whether any file is known, also one that cannot be opened; cheap in any archive."""
        return self._catalog.count_places() > 0

    def uris(self) -> list[str]:
        """Return the URIs of all files that the archive knows, also those that were pruned."""
        with self._own_ledger() as ledger:
            return list(dict.fromkeys([*self._catalog.places(), *(ledger.uris() if ledger else ())]))

    def settings_of(self, path: str | Path) -> dict[str, Any]:
        """Return the KoboldReader settings that a path was read with; {} if it never was.

        They are its own, or those of the nearest folder or pattern above.
        """
        roots, name = self._catalog.roots(), root_name(path)
        above = [name] if name in roots else [root for root in roots if _covers(as_uri(root), as_uri(name))]
        return roots[max(above, key=len)] if above else {}

    def readings(self, pages: Collection[PageRow]) -> dict[str, dict[str, Reading]]:
        """Return the readings that the texts of pages come from, by page id and task; none where they are not known."""
        found: dict[str, dict[str, Reading]] = {page.page_id: {} for page in pages}
        with self._readings_kept() as ledger:
            if ledger is not None:
                for page in pages:
                    for task, text in page.parts.items():
                        reading = ledger.reading_of_text(page.content_sha256, task, text)
                        found[page.page_id] |= {task: reading} if reading is not None else {}
        return found

    @contextmanager
    def _own_ledger(self) -> Iterator[Ledger | None]:
        """Open the archive's ledger for looking; None where there is none yet."""
        path = self.folder / LEDGER
        with Ledger(path, read_only=True) if path.is_file() else nullcontext() as ledger:
            yield ledger

    @contextmanager
    def _readings_kept(self) -> Iterator[Ledger | None]:
        """Open the archive's ledger for looking; None where it cannot be used: pages can be shown without readings."""
        with ExitStack() as opened:
            ledger = None
            with suppress(LedgerError):
                ledger = opened.enter_context(self._own_ledger())
            with suppress(LedgerError):
                yield ledger

    def to_dataframe(self) -> Any:
        """Return a pandas DataFrame with one row a page: file, status, length of the text, confidence, dates, link.

        Columns are named as the metadata of Documents; `text_length` is in characters. Copies of a file have one row;
        a file that cannot be opened has one too, as page 0.

        Raises:
            MissingExtraError: The extra `notebook` is not installed.
        """
        from kobold_reader.archive.export import to_frame

        return to_frame(self._catalog.every_page(), self._catalog.places().values())

    def has_read_pages(self) -> bool:
        """Tell whether any page was read into the archive; cheap in any archive."""
        return self._catalog.has_read_pages()

    @property
    def generation(self) -> int:
        """Grows with every change that a search could see, whichever process makes it."""
        return self._catalog.generation

    def status(self) -> ArchiveStatus:
        """Return what the archive holds."""
        failed = [(row.path, row.page_number, row.error or "") for row in self._catalog.failed()]
        failed += [(place.path, 0, place.error or "") for place in self.failed_places()]
        failed += self._failed_tasks()
        return ArchiveStatus(
            pages=self._catalog.count_by_status(),
            files=self._catalog.count_places(),
            missing_files=tuple(place.path for place in self._catalog.missing_places()),
            failed=tuple(failed),
            embedder=self.embedder,
            unfinished_pages=self._catalog.count_unfinished(),
            corrections=self._catalog.count_corrections(),
        )

    def _failed_tasks(self) -> Iterator[tuple[str, int, str]]:
        """Yield (path, page number, why) of what failed on pages whose text stands all the same."""
        places = self._catalog.places()
        with self._readings_kept() as ledger:
            for failure in ledger.failures() if ledger else ():
                place = places.get(failure.uri)
                row = self._catalog.page(page_id(place.sha256, failure.page_number)) if place else None
                # A row with an error is named by that; a text that a person typed needs no transcription.
                if place and row and not row.error and not (row.as_read and failure.task == corrections.PART):
                    yield place.path, failure.page_number, failure.message

    @property
    def embedder(self) -> str:
        """What makes its vectors, and in brackets with which model; `none` where it has none."""
        record = self._index.record()
        return record["kind"] if record["kind"] == "none" else f"{record['kind']} ({record['name']})"


def _choose(name: str | None, model: BaseEmbedding | None, access: ServerAccess) -> Embedder | None:
    if model is None:
        return choose_embedder(name, access)
    if name is not None:
        raise ConfigError("embedder and embed_model cannot be given together.")
    return of_model(model)


def root_name(path: str | Path) -> str:
    """Return a path as it is remembered: absolute, so that another working directory changes nothing.

    A path that is no text is remembered as its URI.
    """
    text = str(path)
    if "://" in text:
        return text
    absolute = str(expanded(text).absolute())
    return absolute if is_text(absolute) else local_uri(absolute)


def _covers(root: str, uri: str) -> bool:
    """Tell whether a run over `root`, a folder or a pattern, took this file."""
    if is_at(uri, root):
        return True
    pattern, place = unquote(root), PurePosixPath(unquote(uri))
    if "**" in pattern:
        return fnmatchcase(str(place), str(PurePosixPath(pattern.replace("**/", "*"))))
    return has_magic(pattern) and any(some.match(pattern) for some in (place, *place.parents))
