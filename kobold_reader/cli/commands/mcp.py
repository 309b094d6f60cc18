"""kobold-reader mcp."""

from __future__ import annotations

import sys
from contextlib import ExitStack, suppress
from typing import Annotated

import typer

from kobold_reader.cli.options import ArchivesOption, PdfPasswordOption, ServerOptions, with_options
from kobold_reader.cli.output import notice, say


@with_options(ServerOptions)
def mcp(
    archive: ArchivesOption,
    options: ServerOptions,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Answer over HTTP on this machine at this port (0: any free one)."),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(envvar="KOBOLD_READER_MCP_TOKEN", help="The secret that --port asks for, else a new one."),
    ] = None,
    pdf_password: PdfPasswordOption = None,
) -> int:
    """Let agents search an archive (Model Context Protocol).

    The archive is only read. Without --port it speaks through standard input and output, as a client expects of a
    program that it starts.
    """
    from kobold_reader.archive import Archive
    from kobold_reader.errors import MissingExtraError

    try:
        from kobold_reader.mcp import ArchiveTools
        from kobold_reader.web import Access, WebServer
    except ModuleNotFoundError as err:
        if (err.name or "").partition(".")[0] not in {"mcp", "mcp_types", "starlette", "uvicorn"}:
            raise
        raise MissingExtraError("mcp", "The server for agents") from err

    with ExitStack() as stack:
        opened = [
            stack.enter_context(Archive.open(path, api_url=options.urls(), api_password=options.password()))
            for path in archive
        ]
        tools = stack.enter_context(ArchiveTools(opened, pdf_passwords=pdf_password or ()))
        if port is None:
            tools.server.run()
            return 0
        http = stack.enter_context(WebServer(port=port))
        access = Access(port=http.port, **({"token": token} if token else {}))
        say(f"http://127.0.0.1:{http.port}/mcp\nAuthorization: Bearer {access.token}")
        sys.stdout.flush()  # a program that reads them through a pipe is waiting
        notice("Ctrl-C ends it.")
        with suppress(KeyboardInterrupt):  # the usual end of a server
            http.run(tools.http_app(access))
    return 0
