"""ReadSession: what a run over pages needs, made from its options; KoboldReader and the command line each hold one.

It knows no LlamaIndex, so commands that make no Document start without it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from kobold_reader.errors import MissingExtraError, ServerConnectionError, ServerError
from kobold_reader.kobold import KoboldClient, ServerPool, check_way, normalize_url
from kobold_reader.options import ReadOptions
from kobold_reader.pages import KnownKind, Selection, select
from kobold_reader.reading.ledger import Ledger, default_ledger_path
from kobold_reader.reading.page_reader import Engine, LocalPageReader
from kobold_reader.reading.records import RecordForm
from kobold_reader.reading.results import PageResult
from kobold_reader.reading.survey import Forecast, Outlook, forecast
from kobold_reader.reading.transcriber import Transcriber

Paths = str | Path | Sequence[str | Path]


class ReadSession:
    """The engine, the ledger and the transcriber that the options of a run mean; safe to use from several threads.

    Args:
        options: The options of the run.
        engine: Reads the pages in place of the engine that the options name.

    Raises:
        ConfigError: `json_schema` is not a JSON schema, or an address is not a URL.
        MissingExtraError: `json_schema` is given, and the extra `records` is not installed.
    """

    def __init__(self, options: ReadOptions, *, engine: Engine | None = None) -> None:
        self.options = options
        for url in options.api_url:
            normalize_url(url)  # raises where it is none
        self._form = None if options.json_schema is None else RecordForm(options.json_schema)
        self._lock = threading.Lock()
        self._engine = engine

    def engine(self) -> Engine:
        """Return the engine, made at first use; no server is contacted yet.

        Raises:
            ConfigError: A public address over plain http without `allow_remote`, or no address at all.
        """
        with self._lock:
            if self._engine is None:
                self._engine = self._make_engine()
            return self._engine

    def _make_engine(self) -> Engine:
        # The engines are imported here, because most commands ask none.
        options = self.options
        if options.engine == "rapidocr":
            from kobold_reader.reading.rapidocr import RapidOcrEngine

            return RapidOcrEngine()
        from kobold_reader.reading.koboldcpp import KoboldEngine

        check_way(options.api_url, allow_remote=options.allow_remote)
        pool = ServerPool(options.api_url, password=options.api_password, outage_patience_s=options.outage_patience_s)
        return KoboldEngine(pool, options, form=self._form)

    def is_unanswered(self) -> bool:
        """Tell whether KoboldCpp is to read, and nobody listens at any of its addresses."""
        if self.options.engine != "koboldcpp":
            return False
        for url in self.options.api_url:
            try:
                with KoboldClient(url, password=self.options.api_password) as client:
                    client.info()
            except ServerConnectionError:
                continue
            except ServerError:
                pass  # something answers there, and the run says what is wrong with it
            return False
        return True

    def open_ledger(self) -> Ledger:
        """Open the ledger that the options name; the caller closes it."""
        name = self.options.ledger
        return Ledger(None if name == "none" else Path(name) if name else default_ledger_path())

    def transcriber(self, ledger: Ledger, *, options: ReadOptions | None = None, **more: Any) -> Transcriber:
        """Return a transcriber with this engine, these options unless others are given, and `more` arguments."""
        options = options or self.options
        return Transcriber(LocalPageReader(self.engine(), options.rotate_deg), ledger, options, **more)

    def forecast(self, outlook: Outlook, ledger: Ledger, *, asks_server: bool = True) -> Forecast | None:
        """Return how long the pages ahead will take, by the ledger's readings with this engine and these options.

        Readings of these very pages tell more than those of others, so they alone count where there are enough of them.
        Readings by the loaded model count; without `asks_server`, or where no server answers, those by the last one.
        """
        if not outlook.due_tasks:
            return None
        model = None
        if asks_server:
            with suppress(ServerError, MissingExtraError):  # the run will report it
                model = self.engine().prepare().model
        keys = {task: self.options.key(task) for task in outlook.due_tasks}
        timings = ledger.timings(self.options.engine, keys, model)
        of_these = [timing for timing in timings if timing.content_sha256 in outlook.contents]
        servers = 1 if self.options.engine == "rapidocr" else len(set(self.options.api_url))
        own = forecast(outlook.due_tasks, of_these, servers=servers)
        if own and own.timed_pages >= 3:  # noqa: PLR2004
            return own
        return forecast(outlook.due_tasks, timings, servers=servers)

    def read_pages(self, file: Paths, *, fs: Any = None, cancel: threading.Event | None = None) -> Iterator[PageResult]:
        """Yield a PageResult for every page, failed ones too, in page order; another thread may set `cancel` to stop.

        Raises:
            SourceError: Nothing could be taken from `file`.
            ServerError: No server can be used; what was yielded before is kept in the ledger.
        """
        with self.open_ledger() as ledger:
            selection = take(file, fs, known=ledger.kind_of)
            yield from self.transcriber(ledger, cancel=cancel).run(selection.files)

    def close(self) -> None:
        """Give back connections and models; the session can be used again."""
        with self._lock:
            if self._engine is not None:
                self._engine.close()
                self._engine = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def take(file: Paths, fs: Any = None, *, known: KnownKind | None = None) -> Selection:
    """Select the files that a path, a pattern or a list of them means; `known` as `select` takes it.

    Raises:
        SourceError: Nothing was selected; this is the first reason.
    """
    paths: Iterable[str | Path] = [file] if isinstance(file, str | Path) or not isinstance(file, Iterable) else file
    selection = select(paths, fs=fs, known=known)
    if selection.errors and not selection.files:
        raise selection.errors[0]
    return selection
