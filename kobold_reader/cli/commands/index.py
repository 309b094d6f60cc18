"""kobold-reader index."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from kobold_reader.cli.exit_codes import EXIT_OK, EXIT_PARTIAL, EXIT_SOURCE
from kobold_reader.cli.options import WITNESS_VARIABLE, ArchiveOption, ClusterOptions, with_options
from kobold_reader.cli.output import notice, page_progress, program_to_type, say_json
from kobold_reader.errors import archive_option
from kobold_reader.options import EMBEDDERS, FASTEMBED, TASKS, ReadOptions, WitnessName, about
from kobold_reader.progress import (
    PageProgress,
    spell_about,
    spell_count,
    spell_forecast,
    spell_kinds,
    spell_skipped,
    spell_statuses,
)

if TYPE_CHECKING:
    from kobold_reader.archive import Archive, SyncReport
    from kobold_reader.archive.sidecars import SidecarReport
    from kobold_reader.reading.results import PageResult
    from kobold_reader.reading.survey import Outlook
    from kobold_reader.session import ReadSession

LEAST_INDEXING_S = 10
"""A shorter time is not worth a line."""
FIRST_PAGES = 5
"""The time left is first reported after this many pages, if the model's speed was unknown."""


@dataclass
class IndexOptions(ClusterOptions):
    """How pages are read; the witness reads along."""

    usual_witness: ClassVar[WitnessName | None] = "auto"
    witness: Annotated[
        WitnessName | None, typer.Option(envvar=WITNESS_VARIABLE, show_default="auto", help=about("witness"))
    ] = None


@with_options(IndexOptions)
def index(
    archive: ArchiveOption,
    options: IndexOptions,
    paths: Annotated[
        list[str] | None, typer.Argument(metavar="[PATH...]", help="Left out: the paths and settings of past runs.")
    ] = None,
    embedder: Annotated[
        str | None,
        typer.Option(
            metavar=f"[{'|'.join(EMBEDDERS)}|{FASTEMBED}MODEL]",
            help="For a new archive; left out: minilm if installed, else e5, else words only.",
        ),
    ] = None,
    chroma_url: Annotated[
        str | None,
        typer.Option("--chroma-url", metavar="URL", help="Keep the vectors on a Chroma server; remembered."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="What the run did, as JSON.")] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Remove files that are gone, below these PATHs.")] = False,
    sidecars: Annotated[
        bool, typer.Option("--sidecars", help="Then write the XMP sidecars of the photos, as `sidecars` does.")
    ] = False,
    reembed: Annotated[bool, typer.Option("--reembed", help="Make all vectors anew; reads no page.")] = False,
) -> int:
    """Read what is new or changed, and index it."""
    from kobold_reader.archive import Archive
    from kobold_reader.archive.folder import CATALOG, LEDGER
    from kobold_reader.cli.commands.sidecars import notice_sidecars
    from kobold_reader.cli.outcome import (
        closing_code,
        count_if_interrupted,
        find_lower_resolution,
        notice_no_such_pages,
        notice_pages_left,
        saying_ways_on,
    )
    from kobold_reader.session import take

    if paths:
        options.refuse_tagless()
    if paths and not (archive / CATALOG).exists() and not (selection := take(paths)).files:
        return closing_code([], 0, options.on_error, named_by=None, taken_of=selection.skipped)
    pages: Counter[str] = Counter()
    due: list[PageResult] = []
    beside: SidecarReport | None = None

    with (
        options.reading() as transcriber_of,
        Archive.open(
            archive,
            create=bool(paths),
            embedder=None if reembed else embedder,
            api_url=options.urls(),
            api_password=options.password(),
            chroma_url=None if reembed else chroma_url,
        ) as opened,
    ):
        if reembed:
            count = opened.reembed(embedder, chroma_url=chroma_url)
            kind = opened.embedder
            made = "no vectors any more" if kind == "none" else f"vectors made anew for {spell_count(count, 'page')}"
            notice(f"{made} ({kind})")
            if not paths:
                return 0
        _notice_words_only(opened)
        _keep_what_koboldcpp_read(opened, paths or [], options)
        _notice_left_out(opened, paths or [], options)
        with saying_ways_on(options), page_progress() as progress, count_if_interrupted(pages, due):
            report = opened.sync(
                paths or None,
                reader=options.session() if paths else None,
                changes=options.changes(),
                defaults={"witness": options.usual_witness},
                prune=prune,
                on_start=lambda session, outlook: _begin(session, outlook, progress, options),
                on_page=lambda result: _count(result, pages, due, progress),
                on_progress=progress.doing,
                make_transcriber=transcriber_of,
            )
        is_empty = not opened.has_read_pages()
        if is_empty and report.errors:
            opened.discard_if_empty()
        elif sidecars:
            beside = opened.write_sidecars(paths)
            said = set(map(str, report.errors))
            beside.errors = [error for error in beside.errors if str(error) not in said]
    notice_no_such_pages(options.pages, report.pages, report.errors, report.files)
    notice_pages_left(options.stop_after, progress.left_pages)
    if as_json:
        say_json(report.to_json() | ({"sidecars": beside.to_json()} if beside else {}))
    _notice_report(report, options)
    if beside:
        notice_sidecars(beside)
    if not is_empty:
        notice(f'search with: {program_to_type()} search "..." {archive_option(archive)}')
    if lower := find_lower_resolution(archive / LEDGER, options.urls()):
        notice(str(lower))
    return _closing_code(report, beside, options, f"{program_to_type()} status {archive_option(archive)}")


def _notice_words_only(opened: Archive) -> None:
    """Say what an archive without vectors lacks."""
    if opened.embedder != "none":
        return
    from kobold_reader.archive.embedders import usual_embedder
    from kobold_reader.embeddings.minilm_model import install_hint

    if (usual := usual_embedder()) != "none":
        notice(f"words only: this archive has no vectors. To make them, add --reembed --embedder {usual}")
    else:
        why = "no embedder is installed, so this archive has no vectors."
        notice(f"words only: {why} {install_hint()}")


def _keep_what_koboldcpp_read(opened: Archive, paths: Sequence[str], options: IndexOptions) -> None:
    """Let RapidOCR read only what KoboldCpp has not, unless it was chosen for these paths or all is read again."""
    if options.engine != "rapidocr" or options.is_stand_in or options.redo == "all":
        return
    is_usual = bool(paths) and all(opened.settings_of(path).get("engine") == "rapidocr" for path in paths)
    if not is_usual and opened.count_readings("koboldcpp"):
        options.is_stand_in = True
        notice("pages that KoboldCpp read are kept as they are. To read all pages with RapidOCR, add --redo all")


def _notice_left_out(opened: Archive, paths: Sequence[str], options: IndexOptions) -> None:
    """Say which tasks of past runs this one does not ask for: the archive holds what was asked for last."""
    if options.engine == "rapidocr":
        return
    asked = options.session().options.tasks if paths else ()
    settings = filter(None, map(opened.settings_of, paths))
    past = {task for one in settings for task in ReadOptions.of(one).tasks}
    if left := [task for task in TASKS if task in past and task not in asked]:
        also = ",".join([*asked, *left])
        notice(
            f"earlier runs also asked for {', '.join(left)}, which this run takes out of the archive. To keep it, add "
            f"--tasks {also}; nothing is read twice"
        )


def _closing_code(report: SyncReport, beside: SidecarReport | None, options: ClusterOptions, named_by: str) -> int:
    from kobold_reader.cli.outcome import closing_code

    usable = sum(report.pages.values()) - report.pages["failed"]
    taken_of = None if report.files or report.vanished_files else report.skipped
    if code := closing_code(report.errors, usable, options.on_error, named_by=named_by, taken_of=taken_of):
        return code
    if not report.files:
        return EXIT_SOURCE
    return EXIT_PARTIAL if beside and beside.errors else EXIT_OK


def _begin(session: ReadSession, outlook: Outlook, progress: PageProgress, options: IndexOptions) -> None:
    from kobold_reader.cli.outcome import offer_rapidocr

    files, pages = spell_count(outlook.files, "file"), spell_count(outlook.pages, "page")
    notice(f"{files}, {pages}: {spell_kinds(outlook.by_kind)}")
    if outlook.to_read_pages and options.ray is None:
        offer_rapidocr(session, progress)
    progress.expect(outlook.pages - outlook.passed_pages, outlook.pages - outlook.read_pages)
    if forecast := outlook.forecast:
        timed = spell_count(forecast.timed_pages, "page")
        notice(f"{spell_forecast(forecast)}, by {timed} that {forecast.model or 'the engine'} read before")
    elif outlook.to_read_pages > FIRST_PAGES:
        notice(f"the time is estimated after the first {FIRST_PAGES} pages (`kobold-reader plan` estimates it before)")
    if outlook.indexing_s and outlook.indexing_s > max(LEAST_INDEXING_S, forecast.seconds if forecast else 0):
        about = spell_about(outlook.indexing_s)
        notice(f"indexing takes longer than reading: about {about}, as measured on this machine")
    progress.is_forecast = bool(forecast)


def _count(result: PageResult, pages: Counter[str], due: list[PageResult], progress: PageProgress) -> None:
    if not result.page_number:
        return  # a file that cannot be opened: its pages were not counted as expected
    if result.is_due:
        due.append(result)
    pages["due" if result.is_due else result.status] += 1
    progress.page_done(is_asked=result.is_asked)
    if progress.read_pages == FIRST_PAGES and result.is_asked and not progress.is_forecast and progress.left_s:
        progress.is_forecast = True
        left = spell_count(progress.left_pages, "page")
        notice(f"{left} left: about {spell_about(progress.left_s)}, by the first {FIRST_PAGES}")


def _notice_report(report: SyncReport, options: IndexOptions) -> None:
    if report.pages or not report.vanished_files:
        notice(spell_statuses(report.pages, report.kept_pages))
    counts = {
        "new": report.new_files,
        "changed": report.changed_files,
        "renamed or moved": report.renamed_files,
        "missing (still found; --prune removes them)": report.missing_files,
        "removed": report.pruned_files,
        "that cannot be opened": report.unopened_files,
    }
    changes = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    files = spell_count(report.files, "file") + (f": {changes}" if changes else ", none changed")
    if report.files:
        texts = f"{spell_count(report.indexed_pages, 'page')} with new text indexed"
        notice(f"{files}; {texts if report.indexed_pages else 'no page has new text'}")
    if report.vanished_files:
        files = spell_count(report.vanished_files, "file")
        notice(
            f"no file is left of {files}. Is a disk not mounted? Their pages stay in the archive and can "
            f"be found. To remove them: {program_to_type()} forget PATH"
        )
    if report.reread_pages:
        notice(f"KoboldCpp read {spell_count(report.reread_pages, 'page')} again that RapidOCR had read")
    if report.stand_in_pages:
        pages = spell_count(report.stand_in_pages, "page")
        notice(f"{pages} {'keeps' if report.stand_in_pages == 1 else 'keep'} RapidOCR's text, which is better")
    if options.is_stand_in and report.read_pages:
        notice("when KoboldCpp answers, the next `index` without --engine reads these pages again")
    if report.finished_pages:
        notice(f"{spell_count(report.finished_pages, 'page')} read by an interrupted run indexed first")
    if report.uncompared_pages:
        pages = spell_count(report.uncompared_pages, "page")
        notice(f"{pages} not compared with the witness, which is slower than the server: --witness rapidocr does it")
    if report.skipped:
        notice(spell_skipped(report.skipped))
