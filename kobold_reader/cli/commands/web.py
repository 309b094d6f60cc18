"""kobold-reader web."""

from __future__ import annotations

import socket
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kobold_reader.cli.options import ArchiveOption, PdfPasswordOption, ServerOptions, with_options
from kobold_reader.cli.output import notice, say

if TYPE_CHECKING:
    from kobold_reader.web import Access


@with_options(ServerOptions)
def web(
    archive: ArchiveOption,
    options: ServerOptions,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8642,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Listen there; any but the default lets other machines in.")
    ] = "127.0.0.1",
    pdf_password: PdfPasswordOption = None,
    add: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER",
            exists=True,
            file_okay=False,
            help="Only this folder may be added in the browser; may be repeated. Left out: any, if no other machine "
            "can reach the page.",
        ),
    ] = None,
    inbox: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", file_okay=False, help="Files sent through the browser are saved there and indexed."
        ),
    ] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> int:
    """Search in the browser, ask, correct, add files; Ctrl-C ends it."""
    from kobold_reader.archive import Archive
    from kobold_reader.errors import MissingExtraError

    try:
        from kobold_reader.web import Access, Adding, WebServer, make_app
    except ModuleNotFoundError as err:
        if (err.name or "").partition(".")[0] not in {"starlette", "uvicorn", "python_multipart"}:
            raise
        raise MissingExtraError("web", "The search page") from err

    with (
        Archive.open(
            archive, create=bool(add or inbox), api_url=options.urls(), api_password=options.password()
        ) as opened,
        WebServer(host, port) as server,
    ):
        access = Access(host=host, port=server.port)
        with suppress(KeyboardInterrupt), ExitStack() as ending:  # Ctrl-C is the usual end of a server
            _announce(access, open_browser=open_browser)  # requests wait for the first answer
            app, close = make_app(
                opened,
                access,
                changes={"api_url": urls} if (urls := options.given_urls()) else {},
                api_password=options.password(),
                pdf_passwords=pdf_password or (),
                adding=Adding(
                    folders=tuple(folder.absolute() for folder in add or ()),
                    inbox=inbox.absolute() if inbox else None,
                    is_anywhere=access.is_loopback and not add,
                ),
            )
            ending.callback(close)
            if opened.is_read_only:
                notice(f"{archive} is read-only here: its pages can be searched and shown, not corrected or added to.")
            server.run(app)
    return 0


def _announce(access: Access, *, open_browser: bool) -> None:
    if not access.is_loopback:
        notice(
            f"warning: other machines can reach this page at {access.host} port {access.port}. Anyone who has the "
            "address with its token can read and correct the whole archive and add to it, and the connection is not "
            "encrypted."
        )
    is_everywhere = access.host in {"0.0.0.0", "::"}  # noqa: S104
    urls = [access.url(name) for name in (["127.0.0.1", socket.gethostname()] if is_everywhere else [access.host])]
    say("\n".join(urls))
    sys.stdout.flush()  # a program that reads them through a pipe is waiting
    notice("Ctrl-C ends it.")
    if open_browser:
        import webbrowser

        webbrowser.open(urls[0])
