"""`mcp`: an archive's tools, called by the protocol's own client in this process, over stdio and over HTTP."""

from __future__ import annotations

import base64
import json
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pymupdf
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, ImageContent, TextContent

from kobold_reader import Archive, KoboldReader
from kobold_reader.mcp import ArchiveTools
from kobold_reader.web import Access, WebServer
from tests.kobold_simulator import KoboldSimulator, ScriptBrain
from tests.test_ask import write_pdf

MakeSimulator = Callable[..., KoboldSimulator]
SLATES = "Nystrand replaced forty slates of the boathouse and was paid 88 kronor."
QUESTION = "Who replaced the slates of the boathouse?"


def make_archive(folder: Path, **files: list[str]) -> Path:
    (folder / "scans").mkdir(parents=True)
    for name, pages in files.items():
        write_pdf(folder / "scans" / f"{name}.pdf", *pages)
    with Archive.open(folder / "archive", create=True, embedder="none") as archive:
        archive.sync(folder / "scans", reader=KoboldReader(text_layer="only", tasks=["ocr"], ledger="none"))
    return folder / "archive"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of words that nobody changes."""
    return make_archive(tmp_path_factory.mktemp("mcp"), roof=["Minutes of March.", SLATES], fish=["Herring."])


@pytest.fixture
def tools(folder: Path) -> Iterator[ArchiveTools]:
    with Archive.open(folder) as archive, ArchiveTools([archive]) as tools:
        yield tools


def called(server: Any, do: Callable[[Client], Awaitable[Any]]) -> Any:
    """Return what a client of the server gets."""

    async def run() -> Any:
        async with Client(server) as client:
            return await do(client)

    return anyio.run(run)


def call(server: Any, tool: str, **arguments: Any) -> CallToolResult:
    result: CallToolResult = called(server, lambda client: client.call_tool(tool, arguments))
    return result


def told(result: CallToolResult) -> Any:
    assert not result.is_error, result.content
    first = result.content[0]
    assert isinstance(first, TextContent)
    return json.loads(first.text)


def refused(result: CallToolResult) -> str:
    assert result.is_error
    first = result.content[0]
    assert isinstance(first, TextContent)
    return first.text


def test_an_agent_finds_a_page_and_leafs_through_its_file(tools: ArchiveTools) -> None:
    listed = called(tools.server, lambda client: client.list_tools())
    assert sorted(tool.name for tool in listed.tools) == ["ask", "list", "page", "search"]
    assert all(tool.annotations.read_only_hint for tool in listed.tools)
    assert all(tool.description and "self" not in tool.input_schema["properties"] for tool in listed.tools)

    hit = told(call(tools.server, "search", query="forty slates"))["hits"][0]
    assert (hit["file_name"], hit["page_number"]) == ("roof.pdf", 2)
    assert hit["link"].endswith("roof.pdf#page=2")

    page = told(call(tools.server, "page", page_id=hit["page_id"]))
    assert page["text"] == SLATES
    assert page["status"] == "text_layer"
    before = told(call(tools.server, "page", page_id=page["previous_page_id"]))
    assert (before["text"], before["next_page_id"]) == ("Minutes of March.", hit["page_id"])


def test_a_page_is_shown_with_its_picture(tools: ArchiveTools) -> None:
    (hit,) = told(call(tools.server, "search", query="slates", limit=1))["hits"]

    _, image = call(tools.server, "page", page_id=hit["page_id"], with_image=True).content

    assert isinstance(image, ImageContent)
    assert image.mime_type == "image/jpeg"
    picture = pymupdf.Pixmap(base64.b64decode(image.data))
    assert picture.height > picture.width > 600, "large enough to read"


def test_files_are_listed_by_folder_in_portions(tools: ArchiveTools) -> None:
    everything = told(call(tools.server, "list"))
    assert everything["archives"] == ["archive"]
    assert [(one["file_name"], one["total_pages"]) for one in everything["files"]] == [("fish.pdf", 1), ("roof.pdf", 2)]

    some = told(call(tools.server, "list", start=1, limit=1))
    assert (some["total_files"], [one["file_name"] for one in some["files"]]) == (2, ["roof.pdf"])
    assert told(call(tools.server, "list", folder="nowhere"))["files"] == []
    assert "no page is in 'nowhere'; the folders are scans" in refused(
        call(tools.server, "search", query="herring", folder="nowhere")
    )


def test_wrong_arguments_are_told_in_plain_words(tools: ArchiveTools) -> None:
    assert "A page's id changes with its file" in refused(call(tools.server, "page", page_id="no-such"))
    assert "there is no archive 'attic'; there are: archive." in refused(call(tools.server, "list", archive="attic"))
    assert "the query is empty" in refused(call(tools.server, "search", query=" "))
    assert "less than or equal to 50" in refused(call(tools.server, "search", query="slates", limit=5000))
    assert "1954-13" in refused(call(tools.server, "search", query="slates", since="1954-13"))


def test_a_page_whose_file_is_gone_keeps_its_text(tmp_path: Path) -> None:
    path = make_archive(tmp_path, roof=[SLATES])
    (tmp_path / "scans" / "roof.pdf").unlink()
    with Archive.open(path) as archive, ArchiveTools([archive]) as tools:
        (hit,) = told(call(tools.server, "search", query="slates"))["hits"]

        page = call(tools.server, "page", page_id=hit["page_id"], with_image=True)

        assert len(page.content) == 1
        assert told(page)["text"] == SLATES
        assert "not there any more" in told(page)["image_error"]


def test_several_archives_are_searched_as_one(folder: Path, tmp_path: Path) -> None:
    other = make_archive(tmp_path, cows=["Nine cows and no slates."])
    with Archive.open(folder) as first, Archive.open(other) as second, ArchiveTools([first, second]) as tools:
        hits = told(call(tools.server, "search", query="slates"))["hits"][:2]
        assert {hit["file_name"] for hit in hits} == {"roof.pdf", "cows.pdf"}
        names = told(call(tools.server, "list"))["archives"]
        assert names == [str(folder), str(other)], "both folders are called archive"
        (hit,) = told(call(tools.server, "search", query="slates", archive=names[1]))["hits"]
        assert hit["file_name"] == "cows.pdf"
        assert "Which archive?" in refused(call(tools.server, "ask", question=QUESTION))


def test_the_archives_own_model_answers_with_its_pages(folder: Path, make_simulator: MakeSimulator) -> None:
    kobold = make_simulator(brain=ScriptBrain(lambda _: "Nystrand did [1]."))
    with Archive.open(folder, api_url=kobold.url) as archive, ArchiveTools([archive]) as tools:
        answer = told(call(tools.server, "ask", question=QUESTION))

    assert answer["answer"] == "Nystrand did [1]."
    assert [page["file_name"] for page in answer["pages"]] == ["roof.pdf"]


def test_without_a_server_the_agent_is_told_so(tools: ArchiveTools) -> None:
    assert "127.0.0.1:5001" in refused(call(tools.server, "ask", question=QUESTION))


def test_an_agent_that_stops_waiting_frees_the_server(folder: Path, make_simulator: MakeSimulator) -> None:
    kobold = make_simulator(brain=ScriptBrain(lambda _: "Nystrand did it, slate by slate. " * 40), tokens_per_s=10)

    async def give_up(client: Client) -> None:
        with anyio.move_on_after(1.5) as wait:
            await client.call_tool("ask", {"question": QUESTION})
        assert wait.cancelled_caught

    with Archive.open(folder, api_url=kobold.url) as archive, ArchiveTools([archive]) as tools:
        called(tools.server, give_up)
        assert kobold.wait_for(lambda: kobold.count("/api/extra/abort") >= 1)


@pytest.mark.slow
def test_over_standard_input_and_output(folder: Path) -> None:
    command = StdioServerParameters(
        command=sys.executable,
        args=["-m", "kobold_reader", "mcp", "--archive", str(folder)],
        env={name: value for name, value in os.environ.items() if name.startswith(("HOME", "XDG", "COVERAGE"))},
    )

    (hit,) = told(call(stdio_client(command), "search", query="herring"))["hits"]
    assert hit["file_name"] == "fish.pdf"


@pytest.mark.slow
def test_over_http_only_with_the_token(folder: Path) -> None:
    with Archive.open(folder) as archive, ArchiveTools([archive]) as tools, WebServer(port=0) as server:
        access = Access(port=server.port)
        serving = threading.Thread(target=server.run, args=(tools.http_app(access),))
        serving.start()
        url = f"http://127.0.0.1:{server.port}/mcp"

        def post(**headers: str) -> int:
            request = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
            return httpx2.post(
                url, json=request, headers={"Accept": "application/json, text/event-stream", **headers}
            ).status_code

        try:
            token = {"Authorization": f"Bearer {access.token}"}
            assert post() == 403
            assert post(Authorization="Bearer guessed") == 403
            assert post(Host="evil.example", **token) == 421
            assert post(Origin="https://evil.example", **token) == 403
            assert post(**token) == 200

            async def search(headers: dict[str, str]) -> Any:
                async with (
                    httpx2.AsyncClient(headers=headers) as http,
                    Client(streamable_http_client(url, http_client=http)) as client,
                ):
                    return told(await client.call_tool("search", {"query": "herring"}))

            assert anyio.run(search, token)["hits"][0]["file_name"] == "fish.pdf"
        finally:
            server.stop()
            serving.join()
