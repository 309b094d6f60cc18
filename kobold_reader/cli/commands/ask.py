"""kobold-reader ask."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from kobold_reader.cli.options import ArchiveOption, ServerOptions, with_options
from kobold_reader.cli.output import harmless, notice, say, say_json
from kobold_reader.errors import ServerError

if TYPE_CHECKING:
    from kobold_reader.archive import Answer


@with_options(ServerOptions)
def ask(
    words: Annotated[list[str], typer.Argument(metavar="QUESTION...", help="What you want to know.")],
    archive: ArchiveOption,
    options: ServerOptions,
    limit: Annotated[int, typer.Option("-k", min=1, help="Give the model at most this many pages.")] = 5,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Send pages to a public address over plain http.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, when the answer is complete.")] = False,
) -> int:
    """Answer a question from the pages of an archive."""
    from kobold_reader.archive import Archive
    from kobold_reader.llm import KoboldLLM

    urls, password = options.urls(), options.password()
    llm = KoboldLLM(api_url=urls, api_password=password, allow_remote=allow_remote)
    notices: list[str] = []
    with (
        _saying_what_needs_no_server(),
        Archive.open(archive, api_url=urls, api_password=password) as opened,
        opened.ask_stream(" ".join(words), llm=llm, limit=limit, on_notice=notices.append) as stream,
    ):
        shown = len(notices)
        for text in notices:
            notice(text)
        for piece in stream:
            if not as_json:
                sys.stdout.write(harmless(piece) if sys.stdout.isatty() else piece)
                sys.stdout.flush()
        if not as_json:
            say()
        for text in notices[shown:]:
            notice(text)
    answer = stream.answer
    if answer.invented:
        numbers = ", ".join(f"[{number}]" for number in answer.invented)
        notice(f"the answer refers to {numbers}: there is no such page")
    if as_json:
        say_json(answer.to_json())
    else:
        _say_sources(answer)
    return 0


@contextmanager
def _saying_what_needs_no_server() -> Iterator[None]:
    try:
        yield
    except ServerError as err:
        err.hint = f"{err.hint or ''} `kobold-reader search` finds pages without a server.".lstrip()
        raise


def _say_sources(answer: Answer) -> None:
    if not answer.sources:
        return
    say("\nPages:" if answer.cited else "\nThe answer names no page; it was given these:")
    for number, hit in answer.sources:
        say(f"[{number}] {hit.file_name}, page {hit.page_number}\n    {hit.link}")
