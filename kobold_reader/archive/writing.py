"""What changes an archive: reading what lies in the folders, making its vectors anew, forgetting files."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kobold_reader.archive.chroma_server import check_server
from kobold_reader.archive.embedder import EmbedderKind, choose_embedder
from kobold_reader.archive.opened import OpenArchive
from kobold_reader.archive.settled import Settled
from kobold_reader.archive.sync import Syncer, SyncReport, is_at
from kobold_reader.errors import ConfigError, SourceError
from kobold_reader.pages import Selection, local_uri, select
from kobold_reader.reader import KoboldReader
from kobold_reader.reading.ledger import Ledger
from kobold_reader.reading.outlook import Outlook, forecast_by_ledger
from kobold_reader.reading.results import PageResult
from kobold_reader.reading.transcriber import Transcriber

__all__ = ["WritingArchive", "root_name"]


class WritingArchive(OpenArchive):
    """An archive that takes files in, and lets go of them."""

    def sync(
        self,
        paths: str | Path | Iterable[str | Path] | None = None,
        *,
        reader: KoboldReader | None = None,
        changes: Mapping[str, Any] | None = None,
        prune: bool = False,
        remember: bool = True,
        cancel: threading.Event | None = None,
        on_page: Callable[[PageResult], None] | None = None,
        on_start: Callable[[Selection, Outlook], None] | None = None,
        on_progress: Callable[[str], None] | None = None,
        make_transcriber: Callable[..., Transcriber] = KoboldReader.transcriber,
    ) -> SyncReport:
        """Read what is new or changed, and index it; what is gone is marked missing.

        Args:
            paths: Files, folders, patterns; None: those of past runs.
            reader: What to read with; None: as in past runs, else KoboldReader's defaults.
            changes: KoboldReader arguments in which this run differs from past ones, where `reader` is None.
            prune: Remove what is missing, only below these paths, and never where a folder is absent or empty.
            remember: The next run without paths repeats these paths and settings.
            cancel: Set by another thread to stop; what was read until then is indexed.
            on_page: Called for every page when its reading is known.
            on_start: Called with what lies ahead, before the first page is read; where past runs had different
                settings, once for the paths of each.
            on_progress: Called with a line of text while a page is being read.
            make_transcriber: Called with reader, ledger and options, as `KoboldReader.transcriber`;
                `cluster.transcriber` reads on other machines.

        Raises:
            SourceError: Nothing could be taken from the paths.
            ServerError: No server can go on; what was read and indexed is kept.
            StoreError: Another process is writing, or the disk is full.
        """
        roots = self._catalog.roots()
        if paths is None and reader is None and len(groups := _by_settings(roots)) > 1:
            return self._sync_each(
                groups,
                changes=changes,
                prune=prune,
                remember=remember,
                cancel=cancel,
                on_page=on_page,
                on_start=on_start,
                on_progress=on_progress,
                make_transcriber=make_transcriber,
            )
        chosen = _as_list(paths) if paths is not None else list(roots)
        if not chosen:
            msg = f"the archive {self.folder} remembers no paths yet: name what to index."
            raise ConfigError(msg)
        if reader is None:
            kept = next((settings for path in chosen if (settings := roots.get(root_name(path)))), {})
            reader = KoboldReader.from_dict({**kept, **(changes or {}), "api_password": self._access.password})
        cancel = cancel or threading.Event()
        with self._writing() as indexer, self.open_ledger(reader) as ledger:
            selection = select(chosen, known=ledger.kind_of)
            if selection.errors and not selection.files:
                raise selection.errors[0]
            finished = indexer.finish()
            # To read anew, or not for long, is asked for once; kept, every later run would do the same.
            asked_once = {"redo", "stop_after_s"} | ({"image_kind"} if reader.image_kind == "auto" else set())
            settings = {name: value for name, value in reader.to_dict().items() if name not in asked_once}
            for path in chosen if remember else ():
                self._catalog.remember_root(root_name(path), settings)
            transcriber = make_transcriber(reader, ledger, cancel=cancel, on_progress=on_progress)
            settled = Settled(self._catalog, ledger, reader.settings(), reader.engine)
            if on_start:
                outlook = transcriber.survey(settled.rest(selection.files))
                outlook.pass_over(len(settled.passed), settled.by_kind(selection.files))
                outlook.forecast = forecast_by_ledger(
                    outlook, ledger, reader.make_engine(), reader.settings(), servers=reader.servers
                )
                on_start(selection, outlook)
            settled.begin()
            syncer = Syncer(self._catalog, indexer, settled, on_page)
            report = syncer.run(selection, transcriber, cancel, prune=prune)
            settled.end()
        report.finished_pages = finished
        return report

    def _sync_each(self, groups: Sequence[Sequence[str]], **options: Any) -> SyncReport:
        """Repeat past runs whose settings differ, each with its own."""
        total = SyncReport()
        failed: list[SourceError] = []
        for group in groups:
            try:
                total.add(self.sync(group, **options))
            except SourceError as err:
                failed.append(err)
        if len(failed) == len(groups):
            raise failed[0]
        total.errors += failed
        return total

    def reembed(self, embedder: EmbedderKind | None = None, *, chroma_url: str | None = None) -> int:
        """Make all vectors anew, with another embedder if one is named, without reading a page; returns the pages.

        Args:
            embedder: As `open` takes it; None: the one there is.
            chroma_url: As `open` takes it; None: where they are.

        Raises:
            MissingExtraError | ServerError: The embedder cannot be used; nothing was changed.
        """
        kind = embedder or self._meaning.record()["kind"]
        chosen = choose_embedder(kind, self._access)
        if chroma_url is not None:
            check_server(chroma_url, has_vectors=chosen is not None)
        with self._locked():
            rows = [row for row in self._catalog.every_page() if row.status != "failed"]
            # From here on a kill leaves all pages unfinished: the next opening goes on.
            begun = self._catalog.begin(rows)
            self._meaning.replace(chosen)
            if chroma_url is not None:
                self._meaning.move_to(chroma_url)
            self._meaning.begin_writing().index(begun)
            if self._catalog.is_erasing:  # the old vectors are gone as a whole
                self._catalog.erase_deleted()
        return len(begun)

    def forget(self, uris: Sequence[str]) -> int:
        """Remove files with their pages, words, vectors, readings and corrections, down to the bytes.

        Returns how many pages went. What a copy shows, of another file that is known, stays.

        The other pages' vectors are copied, about 700 chunks a second. A kill on the way leaves nothing that can be
        found; the next `forget` or `sync` erases the bytes.

        Raises:
            StoreError: Another process is writing, or the disk is full.
            ServerError: A copy of a forgotten file stays, and the embedder, which has to cut its pages, is KoboldCpp's
                and does not answer.
        """
        with self._locked(), Ledger(self.folder / "ledger.sqlite") as ledger:
            contents = {content for uri in uris for content in ledger.contents_of(uri)}
            ledger.forget(uris)
            removed = self._catalog.forget(uris, contents, ledger.knows)
            for root in self._catalog.roots():
                at = root if "://" in root else local_uri(root)
                if any(is_at(uri, at) for uri in uris) and not any(is_at(uri, at) for uri in self._catalog.places()):
                    self._catalog.forget_root(root)
            self._end_erasing()
        return removed


def _by_settings(roots: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Return the remembered paths, those with the same settings together."""
    groups: dict[str, list[str]] = {}
    for path, settings in roots.items():
        groups.setdefault(json.dumps(settings, sort_keys=True), []).append(path)
    return list(groups.values())


def _as_list(paths: str | Path | Iterable[str | Path]) -> list[str | Path]:
    return [paths] if isinstance(paths, str | Path) else list(paths)


def root_name(path: str | Path) -> str:
    """Return a path as it is remembered: absolute, so that another working directory changes nothing."""
    text = str(path)
    if "://" in text:
        return text
    return str((Path(text).expanduser() if text.startswith("~") else Path(text)).absolute())
