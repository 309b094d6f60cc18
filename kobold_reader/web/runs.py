"""Runs over the archive that the browser asks for: new files, and pages that are read again; one at a time.

A run is a thread of the server, so it goes on when the browser is closed, and ends as Ctrl-C ends the command line's.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kobold_reader.archive import Archive, SyncReport
from kobold_reader.errors import ConfigError, KoboldReaderError
from kobold_reader.html.pages import explained
from kobold_reader.options import ReadOptions
from kobold_reader.pages import local_path, shown
from kobold_reader.progress import PageProgress, spell_about, spell_count, spell_skipped, spell_statuses
from kobold_reader.reading.results import PageResult
from kobold_reader.reading.survey import Outlook
from kobold_reader.session import ReadSession
from kobold_reader.web.views import in_browser

CLOSING_S = 15.0
"""How long the end of the server waits for what still runs."""
PATIENCE_S = 600.0
"""How long a run over new files waits for a server that restarts, as the command line does."""
MOST_ERRORS = 20
"""Errors of files and pages that are named."""


@dataclass(frozen=True, slots=True)
class RunStatus:
    """The run that goes on, or the last one."""

    name: str
    """File and page, or what is indexed."""
    is_running: bool
    sentence: str
    """What is being done, the outcome, or why it failed."""
    has_failed: bool = False
    is_index: bool = False
    path: str = ""
    """What is indexed; "": all that was indexed before."""
    again: str = ""
    """The address that reads this page or file again; "" for an index."""
    needs_server: bool = False
    """It was not begun: no KoboldCpp answers, and RapidOCR could read."""
    total_pages: int = 0
    done_pages: int = 0
    by_status: Mapping[str, int] = field(default_factory=dict)
    """Pages done; `due`: those that need a server which is not there."""
    minute_pages: float = 0.0
    """Pages done in a minute, on average."""
    left: str = ""
    """The time left, in words."""
    lines: tuple[str, ...] = ()
    """The report of a run that has ended."""
    errors: tuple[str, ...] = ()

    @property
    def counts(self) -> str:
        """The pages done, in words."""
        if not self.total_pages:
            return ""
        parts = [f"{self.done_pages} of {spell_count(self.total_pages, 'page')}"]
        parts += [f"{count} {name}" for name in ("failed", "due") if (count := self.by_status.get(name))]
        if self.minute_pages:
            parts.append(f"{self.minute_pages:.0f} a minute" if self.minute_pages >= 1 else "less than 1 a minute")
        return " · ".join([*parts, *([self.left] if self.left else [])])

    def to_json(self) -> dict[str, Any]:
        """Return what the page shows while it is open."""
        return {
            "running": self.is_running,
            "sentence": self.sentence,
            "counts": self.counts,
            "done": self.done_pages,
            "total": self.total_pages,
        }


class NeedsServerError(Exception):
    """Raised within a run that is not begun, as no server answers."""


class Runs:
    """Reads pages in a thread, with the settings that they were read with, one run at a time.

    Args:
        archive: Holds the pages.
        changes: options of `ReadOptions` that differ from the run that read a page before.
        api_password: Password of the server; an archive does not remember it.
        pdf_passwords: Tried on encrypted files; kept in memory alone.
    """

    def __init__(
        self, archive: Archive, changes: Mapping[str, Any], api_password: str | None, pdf_passwords: Sequence[str]
    ) -> None:
        self._archive = archive
        self._changes = dict(changes)
        self._api_password = api_password
        self._pdf_passwords = list(pdf_passwords)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._cancel = threading.Event()  # the run also sets it when it ends
        self._is_stopped = False
        self.now: RunStatus | None = None
        """None until the first run."""

    def _options(self, settings: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        secrets = {"api_password": self._api_password, "pdf_passwords": list(self._pdf_passwords)}
        return {**settings, **self._changes, "on_error": "skip", **more, **secrets}

    def add_password(self, password: str) -> None:
        """Try another password on encrypted files from now on; it is kept in memory alone."""
        self._pdf_passwords.append(password)

    # ── what can be asked for ────────────────────────────────────────────────────────────────────

    def reread(self, uri: str, page_number: int, name: str, *, again: str, engine: str = "") -> None:
        """Begin to read a page (1-based; 0: all pages of a file that could not be opened) again.

        Args:
            uri: Of the file.
            page_number: Of the page.
            name: What it is called.
            again: The address that does this.
            engine: As in `index`.

        Raises:
            ConfigError: Another run goes on, or the archive does not know how this page was read.
        """
        settings = self._archive.settings_of(uri)
        if not settings:
            hint = "`kobold-reader index PATH --archive DIR` reads it again."
            raise ConfigError(f"The archive does not know how {name} was read.", hint=hint)
        once: dict[str, Any] = {"pages": str(page_number) if page_number else None, "sample": None}
        once |= {"engine": engine, "is_stand_in": True} if engine else {}
        session = ReadSession(ReadOptions.of(self._options(settings, **once, outage_patience_s=0.0)))  # the user waits

        def read() -> str:
            report = self._archive.sync(
                local_path(uri),
                reader=session,
                remember=False,
                cancel=self._cancel,
                on_start=_refuse_unanswered,
                on_progress=self._say,
            )
            if report.errors:
                raise report.errors[0]
            return "It was read, and can be found."

        self._start(RunStatus(name, is_running=True, sentence="waiting for the server", again=again), session, read)

    def index(self, path: Path | None, *, engine: str = "", is_agreed: bool = False) -> None:
        """Begin to index a folder or a file; None: all that was indexed before.

        Args:
            path: Read as before, else as the folder above it was, else by default.
            engine: `rapidocr`: it stands in for a server that is not there, this once.
            is_agreed: Go on where no server answers, with the pages that need none.

        Raises:
            ConfigError: Another run goes on.
        """
        more = {"engine": engine, "is_stand_in": True} if engine else {}
        session = None
        if path is not None:
            told = {name: value for name, value in self._archive.settings_of(path).items() if value is not None}
            settings = {"outage_patience_s": PATIENCE_S, "witness": "auto", **told}
            session = ReadSession(ReadOptions.of(self._options(settings, **more)))
        name = shown(str(path)) if path else "everything that was indexed before"
        status = RunStatus(name, is_running=True, sentence="looking at the files", is_index=True, path=str(path or ""))
        progress, pages = PageProgress(), Counter[str]()
        started_s = time.monotonic()

        def begin(its_session: ReadSession, outlook: Outlook) -> None:
            nonlocal started_s
            started_s = time.monotonic()
            if not is_agreed:
                _refuse_unanswered(its_session, outlook)
            progress.expect(outlook.pages - outlook.passed_pages, outlook.pages - outlook.read_pages)
            self._set(total_pages=progress.total_pages, sentence="reading")

        def count(result: PageResult) -> None:
            if result.page_number:
                pages["due" if result.is_due else result.status] += 1
                progress.page_done(is_asked=result.is_asked)
            left_s = progress.left_s
            self._set(
                done_pages=progress.done_pages,
                by_status=dict(pages),
                minute_pages=60 * progress.done_pages / max(0.1, time.monotonic() - started_s),
                left="" if not left_s else f"about {spell_about(left_s)} left",
                sentence=f"{result.source.name}, page {result.page_number}" if result.page_number else "reading",
            )

        def read() -> str:
            report = self._archive.sync(
                path,
                reader=session,
                changes=None if session else self._options({}, **more),
                cancel=self._cancel,
                on_start=begin,
                on_page=count,
                on_progress=self._say,
            )
            self._set(lines=tuple(_lines(report)), errors=tuple(map(in_browser, report.errors[:MOST_ERRORS])))
            if not report.files:
                return "There are no files of a supported kind."
            return "Done." if not report.errors else f"Done, but for {spell_count(len(report.errors), 'error')}."

        self._start(status, session, read)

    def stop(self) -> None:
        """End the run: what was read is kept and found, and the next run goes on from there."""
        self._is_stopped = True
        self._cancel.set()

    # ── the thread ───────────────────────────────────────────────────────────────────────────────

    def _start(self, status: RunStatus, session: ReadSession | None, read: Callable[[], str]) -> None:
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                raise ConfigError(
                    "Pages are being read already.", hint="One at a time: wait until it is done, or stop it."
                )
            self.now = status
            self._is_stopped = False
            self._cancel = threading.Event()
            self._thread = threading.Thread(
                target=self._run, args=(session, read), name="kobold-reader-run", daemon=True
            )
            self._thread.start()

    def _run(self, session: ReadSession | None, read: Callable[[], str]) -> None:
        try:
            sentence, has_failed = read(), False
        except NeedsServerError as err:
            self._set(needs_server=True)
            sentence, has_failed = str(err), True
        except KoboldReaderError as err:
            sentence, has_failed = in_browser(explained(err)), True  # its file is named beside it
        except Exception as err:
            self._set(is_running=False, sentence=f"Internal error ({err!r}).", has_failed=True)
            raise
        finally:
            if session is not None:
                session.close()
        if self._is_stopped:
            sentence, has_failed = "Stopped. What was read is kept; the next run goes on from there.", True
        self._set(is_running=False, sentence=sentence, has_failed=has_failed)

    def _say(self, text: str) -> None:
        self._set(sentence=text)

    def _set(self, **values: Any) -> None:
        if self.now:
            self.now = replace(self.now, **values)

    def join(self, timeout_s: float | None = None) -> None:
        """Wait until nothing is being read."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def close(self) -> None:
        """Abort the job on the server, and wait for the thread to end."""
        self.stop()
        self.join(CLOSING_S)


def _refuse_unanswered(session: ReadSession, outlook: Outlook) -> None:
    """Raise NeedsServerError where pages wait for a KoboldCpp that does not answer, and RapidOCR could read them."""
    if outlook.to_read_pages and find_spec("rapidocr") is not None and session.is_unanswered():
        raise NeedsServerError(
            f"No KoboldCpp answers at {', '.join(session.options.api_url)}. Read with RapidOCR instead? It reads "
            "printed text and describes no pictures; KoboldCpp reads these pages again when it is there."
        )


def _lines(report: SyncReport) -> list[str]:
    """Return a report in words, a line each."""
    counts = {
        "new": report.new_files,
        "changed": report.changed_files,
        "renamed or moved": report.renamed_files,
        "missing": report.missing_files,
    }
    changes = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    files, indexed = spell_count(report.files, "file"), spell_count(report.indexed_pages, "page")
    lines = []
    if report.pages or changes:  # a run may be stopped before the first page
        lines = [
            spell_statuses(report.pages, report.kept_pages),
            f"{files}: {changes or 'none changed'}; {indexed} indexed",
        ]
    return lines + ([spell_skipped(report.skipped)] if report.skipped else [])
