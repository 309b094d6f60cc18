"""kobold-reader read."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path, PurePath
from typing import IO, TYPE_CHECKING, Annotated, Literal

import typer

from kobold_reader.cli.options import ClusterOptions, with_options
from kobold_reader.cli.output import harmless, notice, page_progress, program_to_type
from kobold_reader.errors import quoted, reason
from kobold_reader.progress import spell_skipped, spell_statuses

if TYPE_CHECKING:
    from kobold_reader.errors import KoboldReaderError
    from kobold_reader.reading.ledger import Ledger
    from kobold_reader.reading.results import PageResult
    from kobold_reader.session import ReadSession

OutputFormat = Literal["text", "jsonl", "html"]


@with_options(ClusterOptions)
def read(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Files, folders, patterns or URLs.")],
    options: ClusterOptions,
    output_format: Annotated[
        OutputFormat,
        typer.Option(
            "--format", help="jsonl: {id, text, metadata} a line; html: pages beside their text, about 70 kB a page."
        ),
    ] = "text",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write there instead of to stdout.")
    ] = None,
) -> int:
    """Read pages and write their text."""
    from kobold_reader.cli.outcome import (
        closing_code,
        count_if_interrupted,
        notice_no_such_pages,
        notice_pages_left,
        offer_rapidocr,
        saying_ways_on,
    )
    from kobold_reader.reading.ledger import default_ledger_path
    from kobold_reader.session import take

    if output_format == "html" and output is None and sys.stdout.isatty():
        raise typer.BadParameter("HTML is written to a file: name one with -o.", param_hint="--format html")
    pages: Counter[str] = Counter()
    due: list[PageResult] = []
    kept = 0
    options.refuse_tagless()
    session = options.session()
    with ExitStack() as stack:
        stack.enter_context(session)
        ledger = stack.enter_context(session.open_ledger())
        transcriber_of = stack.enter_context(options.reading())
        selection = take(paths, known=ledger.kind_of)
        errors: list[KoboldReaderError] = [*selection.errors]
        out = stack.enter_context(_destination(output))
        write = stack.enter_context(_writer(out, output_format, session, ledger, paths))
        progress = stack.enter_context(page_progress(is_wanted=not out.isatty()))
        if ledger.path == default_ledger_path() and not ledger.count()["files"]:
            notice(f"readings are kept in {ledger.path}")
        transcriber = transcriber_of(session, ledger, on_progress=progress.doing)
        outlook = transcriber.survey(selection.files, looks=False)  # to look at pages would delay the first result
        progress.expect(outlook.pages, outlook.pages - outlook.read_pages)
        if outlook.to_read_pages and options.ray is None:
            offer_rapidocr(session, progress)
        with (
            saying_ways_on(options),
            count_if_interrupted(pages, due),
            closing(transcriber.run(selection.files)) as results,
        ):
            for result in results:
                errors += [result.error] if result.error else result.errors.values()
                kept += result.is_kept
                if result.page_number:  # not a file that cannot be opened
                    pages["due" if result.is_due else result.status] += 1
                    due += [result] if result.is_due else []
                    progress.page_done(is_asked=result.is_asked)
                write(result)
        skipped = ledger.attachments_skipped(selection.files) + Counter(selection.skipped)
    notice_pages_left(options.stop_after, progress.left_pages)
    notice(spell_statuses(pages, kept))
    notice_no_such_pages(options.pages, pages, errors, len(selection.files))
    if skipped:
        notice(spell_skipped(skipped))
    usable = sum(pages.values()) - pages["failed"]
    place = quoted(["--ledger", options.ledger]) if options.ledger else ""
    named_by = None if options.ledger == "none" else f"{program_to_type()} status {place}".rstrip()
    taken_of = None if selection.files else selection.skipped
    return closing_code(errors, usable, options.on_error, named_by=named_by, taken_of=taken_of)


@contextmanager
def _writer(
    out: IO[str], output_format: OutputFormat, session: ReadSession, ledger: Ledger, paths: Sequence[str]
) -> Iterator[Callable[[PageResult], None]]:
    """Yield the function that writes one page in this format."""
    if output_format != "html":
        yield lambda result: _write(out, result, session.options.on_error, output_format)
        return
    from kobold_reader.html.pages import HtmlWriter
    from kobold_reader.reading.open_file import OpenFile

    title = ", ".join(PurePath(path).name or path for path in paths)
    with OpenFile(ledger, session.options.pdf_passwords) as opened, HtmlWriter(out, title, opened) as writer:
        yield writer.write


def _write(out: IO[str], result: PageResult, on_error: str, output_format: OutputFormat) -> None:
    from kobold_reader.documents import to_documents

    if output_format == "jsonl":
        for document in to_documents(result, include_empty=True, mark_failed=on_error == "mark"):
            line = {"id": document.id_, "text": document.text, "metadata": document.metadata}
            if reading := result.readings.get("ocr"):
                line |= {"witness": dict(reading.witness)} if reading.witness else {}
            out.write(json.dumps(line, ensure_ascii=False) + "\n")
    elif result.status != "failed" or on_error == "mark":
        number = f", page {result.page_number}" if result.page_number else ""
        page = f"--- {result.source.name}{number} ({result.status}) ---\n{result.text}\n\n"
        out.write(harmless(page) if out.isatty() else page)
    out.flush()


@contextmanager
def _destination(path: Path | None) -> Iterator[IO[str]]:
    """Yield stdout, or a file that replaces the one at `path` after everything was written.

    A link stays, and a device or a pipe is written to.
    """
    if path is None:
        yield sys.stdout
        return
    from kobold_reader.errors import ConfigError

    if path.is_dir():  # said before anything is read
        raise ConfigError(f"the output file {path} is a folder.", hint="Name a file with -o.")
    target = Path(os.path.realpath(path))
    is_file = target.is_file() or not target.exists()
    part = target.with_name(target.name + ".part") if is_file else target
    try:
        with part.open("w", encoding="utf-8", newline="\n") as stream:
            yield stream
        if is_file:
            os.replace(part, target)  # noqa: PTH105  (atomic on Windows too)
    except OSError as err:
        hint = "Name another one with -o; what was read is kept."
        raise ConfigError(f"the output file {path} cannot be written: {reason(err)}.", hint=hint) from err
    finally:
        if is_file:
            with suppress(OSError):  # of a folder that may not be entered
                part.unlink(missing_ok=True)
