"""kobold-reader read."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path, PurePath
from typing import IO, TYPE_CHECKING, Annotated, Literal

import typer

from kobold_reader.cli.options import ClusterOptions, with_options

if TYPE_CHECKING:
    from kobold_reader.reader import KoboldReader
    from kobold_reader.reading.ledger import Ledger
    from kobold_reader.reading.results import PageResult


Format = Literal["text", "jsonl", "html"]


@with_options(ClusterOptions)
def read(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Files, folders, patterns or URLs.")],
    options: ClusterOptions,
    output_format: Annotated[
        Format,
        typer.Option(
            "--format", help="jsonl: {id, text, metadata} a line; html: pages beside their text, about 70 kB a page."
        ),
    ] = "text",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write there instead of to stdout.")
    ] = None,
) -> int:
    """Read pages and write their text."""
    from kobold_reader.cli.outcome import Outcome, said_if_cut_short, said_if_stopped
    from kobold_reader.cli.output import page_progress
    from kobold_reader.reader import take

    if output_format == "html" and output is None and sys.stdout.isatty():
        raise typer.BadParameter("a page of pictures is for a file: name one with -o.", param_hint="--format html")
    reader = options.reader()
    with ExitStack() as open_now:
        open_now.enter_context(reader)
        ledger = open_now.enter_context(reader.open_ledger())
        transcriber_of = open_now.enter_context(options.reading())
        selection = take(paths, known=ledger.kind_of)
        out = open_now.enter_context(_destination(output))
        write = open_now.enter_context(_writer(out, output_format, reader, ledger, paths))
        progress = open_now.enter_context(page_progress(is_wanted=not out.isatty()))
        outcome = Outcome(selection, ledger)
        transcriber = transcriber_of(reader, ledger, on_progress=progress.doing)
        outlook = transcriber.survey(selection.files, looks=False)  # the first page is wanted soon
        progress.expect(outlook.pages, outlook.pages - outlook.read_pages)
        with said_if_cut_short(outcome.pages), closing(transcriber.run(selection.files)) as results:
            for result in results:
                outcome.take(result)
                if result.page_number:
                    progress.page_done(is_kept=result.is_kept)
                write(result)
    said_if_stopped(options.stop_after, progress.left_pages)
    return outcome.end(reader.on_error)


@contextmanager
def _writer(
    out: IO[str], output_format: Format, reader: KoboldReader, ledger: Ledger, paths: Sequence[str]
) -> Iterator[Callable[[PageResult], None]]:
    """Yield what writes one page in the format asked for."""
    if output_format != "html":
        yield lambda result: _write(out, result, reader, output_format)
        return
    from kobold_reader.html import HtmlWriter
    from kobold_reader.reading.open_file import OpenFile

    title = ", ".join(PurePath(path).name or path for path in paths)
    with OpenFile(ledger, tuple(reader.pdf_passwords)) as opened, HtmlWriter(out, title, opened) as writer:
        yield writer.write


def _write(out: IO[str], result: PageResult, reader: KoboldReader, output_format: Format) -> None:
    from kobold_reader.cli.output import harmless
    from kobold_reader.documents import to_documents

    if output_format == "jsonl":
        for document in to_documents(result, include_empty=True, mark_failed=reader.on_error == "mark"):
            line = {"id": document.id_, "text": document.text, "metadata": document.metadata}
            out.write(json.dumps(line, ensure_ascii=False) + "\n")
    elif result.status != "failed" or reader.on_error == "mark":
        number = f", page {result.page_number}" if result.page_number else ""  # 0: the file as a whole
        page = f"--- {result.source.name}{number} ({result.status}) ---\n{result.text}\n\n"
        out.write(harmless(page) if out.isatty() else page)
    out.flush()


@contextmanager
def _destination(path: Path | None) -> Iterator[IO[str]]:
    """Yield stdout, or a file that appears whole at the end or not at all."""
    if path is None:
        yield sys.stdout
        return
    from kobold_reader.errors import ConfigError

    part = path.with_name(path.name + ".part")
    try:
        with part.open("w", encoding="utf-8", newline="\n") as stream:
            yield stream
        os.replace(part, path)  # noqa: PTH105  (atomic on Windows too)
    except OSError as err:
        msg = f"the output file {path} cannot be written: {err}."
        raise ConfigError(msg, hint="Name another one with -o; what was read is kept.") from err
    finally:
        part.unlink(missing_ok=True)
