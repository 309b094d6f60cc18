"""KoboldReader as people use it who know LlamaIndex, against the simulated server."""

from __future__ import annotations

import asyncio
import inspect
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import chromadb
import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from llama_index.core import SimpleDirectoryReader, node_parser
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import Field
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.node_parser import (
    NodeParser,
    SemanticSplitterNodeParser,
    SentenceSplitter,
    TokenTextSplitter,
)
from llama_index.core.schema import Document, MetadataMode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters, VectorStoreQuery
from llama_index.vector_stores.chroma import ChromaVectorStore
from PIL import Image, ImageDraw
from typing_extensions import override

from kobold_reader import KoboldReader, PagesFailedError
from kobold_reader.documents import to_metadata
from kobold_reader.errors import ConfigError, EmptyTranscriptionError, NoServerAvailableError, SourceNotFoundError
from kobold_reader.options import OPTIONS, ReadOptions, about
from kobold_reader.pages import PageChild, PageImages
from kobold_reader.reader import PageSkippedWarning
from kobold_reader.reading.ledger import Ledger
from tests import page_files
from tests.conftest import GROUND_TRUTH, ROOT, SAMPLES, page_text
from tests.kobold_simulator import BrainRequest, Fault, KoboldSimulator, RecordedRequest, ScriptBrain

pytestmark = pytest.mark.slow

MakeSimulator = Callable[..., KoboldSimulator]

TEXT_LAYER = SAMPLES / "yearbook" / "yearbook-1993.pdf"
BLANK = SAMPLES / "scans" / "scan0008.jpg"


def sheet(number: int) -> Image.Image:
    image = Image.new("L", (380, 500), 250)
    draw = ImageDraw.Draw(image)
    for line in range(40, 460, 20):
        draw.text((30, line), f"{number}. Entry of {line} kronor for the harbour", fill=10)
    draw.rectangle((300, 10, 300 + 15 * number, 30), fill=0)
    return image


@pytest.fixture(scope="session")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder: one file of three pages, and two of one page each, all different."""
    folder = tmp_path_factory.mktemp("scans")
    pages = [sheet(number) for number in range(1, 6)]
    pages[0].save(folder / "ledger.tif", save_all=True, append_images=pages[1:3])
    pages[3].save(folder / "receipt 1.jpg")
    pages[4].save(folder / "receipt 2.PNG")
    return folder


@pytest.fixture
def ledger_tif(scans: Path) -> Path:
    return scans / "ledger.tif"


@pytest.fixture
def reader(simulator: KoboldSimulator) -> Iterator[KoboldReader]:
    with KoboldReader(api_url=simulator.url, tasks=["ocr"]) as made:
        yield made


def empty_on_page(number: int) -> Callable[[RecordedRequest], Fault | None]:
    """A fault that leaves the n-th image without text, however often it is asked."""
    images: list[str] = []

    def fault(request: RecordedRequest) -> Fault | None:
        if not request.path.endswith("/api/v1/generate"):
            return None
        image = request.body["images"][0]["sha256"]
        if image not in images:
            images.append(image)
        return Fault.EMPTY_TEXT if images.index(image) == number - 1 else None

    return fault


def numbers(documents: list[Document]) -> list[int]:
    return [document.metadata["page_number"] for document in documents]


# ── four ways to load ─────────────────────────────────────────────────────────────────────────────


def test_load_data_gives_a_document_a_page(reader: KoboldReader, ledger_tif: Path) -> None:
    extra_info: dict[str, Any] = {"box": "7", "page_number": "wrong"}
    documents = reader.load_data(ledger_tif, extra_info=extra_info)

    assert numbers(documents) == [1, 2, 3]
    assert len({document.text for document in documents}) == 3
    assert len({document.id_ for document in documents}) == 3
    documents[0].metadata["box"] = "8"
    assert [document.metadata["box"] for document in documents] == ["8", "7", "7"]
    assert extra_info == {"box": "7", "page_number": "wrong"}, "the mapping was copied"
    assert not any(document.relationships for document in documents)


def test_lazy_load_data_gives_the_first_page_before_the_second_is_asked_for(
    simulator: KoboldSimulator, reader: KoboldReader, ledger_tif: Path
) -> None:
    pages = reader.lazy_load_data(ledger_tif)
    assert simulator.count() == 0, "nothing is asked before the first step"

    for number in (1, 2, 3):
        assert next(pages).metadata["page_number"] == number
        assert simulator.count() == number
    assert next(pages, None) is None


def test_a_lazy_run_left_early_keeps_what_it_read(
    simulator: KoboldSimulator, reader: KoboldReader, ledger_tif: Path
) -> None:
    pages = cast("Any", reader.lazy_load_data(ledger_tif))
    next(pages)
    pages.close()
    assert not [one for one in threading.enumerate() if one.name == "kobold-reader-ahead"]

    assert numbers(reader.load_data(ledger_tif)) == [1, 2, 3]
    assert simulator.count() == 3


async def heartbeat(beats: list[float]) -> None:
    while True:
        beats.append(asyncio.get_running_loop().time())
        await asyncio.sleep(0.01)


def longest_silence_s(beats: list[float]) -> float:
    return max(after - before for before, after in pairwise(beats))


def test_async_loading_leaves_the_loop_free(make_simulator: MakeSimulator, ledger_tif: Path) -> None:
    simulator = make_simulator(prompt_seconds=0.4)

    async def main() -> tuple[list[Document], list[Document], list[float]]:
        beats: list[float] = []
        heart = asyncio.create_task(heartbeat(beats))
        with KoboldReader(api_url=simulator.url, tasks=["ocr"], pages="1", ledger="none") as reader:
            whole = await reader.aload_data(ledger_tif)
            streamed = [document async for document in await reader.alazy_load_data(ledger_tif)]
        heart.cancel()
        return whole, streamed, beats

    whole, streamed, beats = asyncio.run(main())
    assert numbers(whole) == numbers(streamed) == [1]
    assert whole[0].id_ == streamed[0].id_
    assert simulator.count() == 2
    assert beats[-1] - beats[0] > 0.8
    assert longest_silence_s(beats) < 0.4, "never held up for as long as one page takes"


def test_an_async_stream_gives_each_page_as_it_comes(
    simulator: KoboldSimulator, reader: KoboldReader, ledger_tif: Path
) -> None:
    async def main() -> list[int]:
        return [simulator.count() async for _ in await reader.alazy_load_data(ledger_tif)]

    assert asyncio.run(main()) == [1, 2, 3]


def test_an_async_stream_can_be_iterated_with_plain_for_but_only_once(reader: KoboldReader, ledger_tif: Path) -> None:
    async def main() -> None:
        stream = await reader.alazy_load_data(ledger_tif)
        assert numbers(list(stream)) == [1, 2, 3]
        # It would be silently empty, or ask everything again.
        with pytest.raises(RuntimeError, match="only once"):
            list(stream)
        with pytest.raises(RuntimeError, match="only once"):
            [document async for document in stream]

    asyncio.run(main())


@pytest.mark.parametrize("how", ["aload_data", "alazy_load_data"])
def test_cancelling_the_task_aborts_the_job_on_the_server(
    simulator: KoboldSimulator, reader: KoboldReader, ledger_tif: Path, how: str
) -> None:
    simulator.fault(None, Fault.HANG)

    async def load() -> None:
        if how == "aload_data":
            await reader.aload_data(ledger_tif)
        else:
            async for _ in await reader.alazy_load_data(ledger_tif):
                pass

    async def main() -> None:
        task = asyncio.create_task(load())
        hangs = await asyncio.to_thread(simulator.wait_for, lambda: simulator.running and simulator.count() == 2)
        assert hangs
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(simulator.wait_for, lambda: not simulator.running)

    asyncio.run(main())
    assert simulator.count("/api/extra/abort") >= 1
    assert numbers(reader.load_data(ledger_tif)) == [1, 2, 3]
    assert simulator.count() == 4, "page 1 was kept; page 2 is asked again"


def test_leaving_an_async_stream_early_asks_nothing_more(
    simulator: KoboldSimulator, reader: KoboldReader, ledger_tif: Path
) -> None:
    async def main() -> None:
        async for document in await reader.alazy_load_data(ledger_tif):
            assert document.metadata["page_number"] == 1
            break

    asyncio.run(main())
    assert simulator.wait_for(lambda: not simulator.running)
    assert simulator.count() == 1


def test_many_files_loaded_at_once_take_turns(simulator: KoboldSimulator, scans: Path) -> None:
    """SimpleDirectoryReader.aload_data starts all files at once."""
    running: set[str] = set()
    most = 0
    watch = threading.Lock()

    class Watched(KoboldReader):
        @override
        def _load(self, *arguments: Any) -> list[Document]:
            nonlocal most
            with watch:
                running.add(str(arguments[0]))
                most = max(most, len(running))
            try:
                return super()._load(*arguments)
            finally:
                with watch:
                    running.discard(str(arguments[0]))

    async def main(reader: KoboldReader) -> list[list[Document]]:
        files = [scans / "receipt 1.jpg", scans / "receipt 2.PNG", scans / "ledger.tif", BLANK]
        return await asyncio.gather(*(reader.aload_data(file) for file in files))

    with Watched(api_url=simulator.url, tasks=["ocr"], pages="1", ledger="none") as reader:
        loaded = asyncio.run(main(reader))

    assert [len(documents) for documents in loaded] == [1, 1, 1, 0]
    assert most == 2, "the server reads one page while the next file is opened"
    assert simulator.in_flight_max == 1


# ── SimpleDirectoryReader ─────────────────────────────────────────────────────────────────────────


def directory_reader(folder: Path | str, reader: KoboldReader, **options: Any) -> SimpleDirectoryReader:
    return SimpleDirectoryReader(str(folder), file_extractor=cast("Any", reader.file_extractor()), **options)


def test_simple_directory_reader(reader: KoboldReader, simulator: KoboldSimulator, scans: Path) -> None:
    documents = directory_reader(scans, reader).load_data()
    direct = reader.load_data(scans)

    assert simulator.count() == 5
    assert [one.id_ for one in documents] == [one.id_ for one in direct]
    assert [one.text for one in documents] == [one.text for one in direct]
    assert {Path(one.metadata["file_path"]).name for one in documents} == {
        "ledger.tif",
        "receipt 1.jpg",
        "receipt 2.PNG",
    }
    assert all(one.metadata["page_status"] == "ok" for one in documents)
    shown = documents[0].get_content(metadata_mode=MetadataMode.EMBED)
    assert "file_path" not in shown
    assert "file_size" not in shown


def test_simple_directory_reader_async(reader: KoboldReader, simulator: KoboldSimulator, scans: Path) -> None:
    documents = asyncio.run(directory_reader(scans, reader).aload_data())

    assert len(documents) == 5
    assert simulator.count() == 5
    assert simulator.in_flight_max == 1


def test_simple_directory_reader_keeps_the_other_pages_of_a_file(
    reader: KoboldReader, simulator: KoboldSimulator, ledger_tif: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    simulator.fault_when = empty_on_page(2)

    with pytest.warns(PageSkippedWarning, match=r"ledger\.tif page 2: "):
        documents = directory_reader(ledger_tif.parent, reader, required_exts=[".tif"]).load_data()

    assert numbers(documents) == [1, 3]
    assert "Skipping" not in capsys.readouterr().out


def test_simple_directory_reader_ends_at_a_lost_server_if_told_so(
    reader: KoboldReader, simulator: KoboldSimulator, scans: Path
) -> None:
    simulator.stop()
    with pytest.raises(Exception, match="Error loading file") as caught:
        directory_reader(scans, reader, raise_on_error=True).load_data()
    assert isinstance(caught.value.__cause__, NoServerAvailableError)


def test_file_extractor_hands_out_changed_copies(reader: KoboldReader) -> None:
    extractor = reader.file_extractor(".pdf", ".tif", on_error="mark", hint="Swedish")

    assert sorted(extractor) == [".pdf", ".tif"]
    for one in extractor.values():
        assert isinstance(one, KoboldReader)
        assert (one.on_error, one.hint, one.api_url) == ("mark", "Swedish", reader.api_url)
    assert (reader.on_error, reader.hint) == ("raise", None)
    assert all(suffix == suffix.lower() for suffix in reader.file_extractor())


@pytest.mark.thorough
@pytest.mark.slow
def test_simple_directory_reader_with_workers(make_simulator: MakeSimulator, scans: Path) -> None:
    simulator = make_simulator(password="anchor")  # noqa: S106
    reader = KoboldReader(api_url=simulator.url, api_password="anchor", tasks=["ocr"])  # noqa: S106

    documents = directory_reader(scans, reader).load_data(num_workers=2)

    assert sorted(one.metadata["file_name"] for one in documents) == [
        *["ledger.tif"] * 3,
        "receipt 1.jpg",
        "receipt 2.PNG",
    ]
    assert simulator.count() == 5
    assert simulator.in_flight_max == 1, "two processes, one page at a time on the server"


@pytest.fixture
def memory(scans: Path) -> Iterator[MemoryFileSystem]:
    filesystem = fsspec.filesystem("memory")
    for name in ("ledger.tif", "receipt 1.jpg"):
        filesystem.pipe_file(f"/box/{name}", (scans / name).read_bytes())
    yield filesystem
    filesystem.rm("/box", recursive=True)


def test_files_in_memory(
    reader: KoboldReader, simulator: KoboldSimulator, scans: Path, memory: MemoryFileSystem
) -> None:
    documents = directory_reader("/box", reader, fs=memory).load_data()
    direct = reader.load_data("/box", fs=memory)
    by_url = reader.load_data("memory://box")
    local = reader.load_data([scans / "ledger.tif", scans / "receipt 1.jpg"])

    assert len(documents) == 4
    assert [one.id_ for one in documents] == [one.id_ for one in direct] == [one.id_ for one in by_url]
    assert [one.text for one in documents] == [one.text for one in local]
    assert {one.id_ for one in documents}.isdisjoint(one.id_ for one in local), "another place, another document"
    assert simulator.count() == 4, "the same content is asked once"


def test_a_local_filesystem_that_is_not_the_default_one(reader: KoboldReader, scans: Path) -> None:
    options = {"fs": LocalFileSystem(auto_mkdir=True), "required_exts": [".jpg"]}
    documents = directory_reader(scans, reader, **options).load_data()

    assert [one.id_ for one in documents] == [one.id_ for one in reader.load_data(scans / "receipt 1.jpg")]


# ── pipelines and stores ──────────────────────────────────────────────────────────────────────────


class CountingEmbedding(BaseEmbedding):
    """Embeds by the letters, and remembers what it was given."""

    texts: list[str] = Field(default_factory=list)

    @override
    def _get_text_embedding(self, text: str) -> list[float]:
        self.texts.append(text)
        return [float(text.count(letter)) for letter in "abcdefghijklmnopqrstuvwxyz0123456789"]

    @override
    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    @override
    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


@pytest.fixture
def chroma(tmp_path: Path) -> ChromaVectorStore:
    client = chromadb.PersistentClient(path=str(tmp_path / "chroma"))
    return ChromaVectorStore(chroma_collection=client.create_collection("pages", metadata={"hnsw:space": "cosine"}))


def test_a_pipeline_run_twice_embeds_nothing_twice(
    reader: KoboldReader, simulator: KoboldSimulator, chroma: ChromaVectorStore, ledger_tif: Path, tmp_path: Path
) -> None:
    embedding = CountingEmbedding()
    copy = tmp_path / "ledger.tif"
    copy.write_bytes(ledger_tif.read_bytes())
    pipeline = IngestionPipeline(
        transformations=[SentenceSplitter(chunk_size=128, chunk_overlap=0), embedding],
        docstore=SimpleDocumentStore(),
        docstore_strategy=DocstoreStrategy.UPSERTS,
        vector_store=chroma,
        disable_cache=True,
    )
    first = pipeline.run(documents=reader.load_data(copy))
    assert len(first) == len(embedding.texts) == 3

    again = pipeline.run(documents=KoboldReader(api_url=simulator.url, tasks=["ocr"]).load_data(str(copy)))
    assert list(again) == []
    assert len(embedding.texts) == 3
    assert chroma.client.count() == 3

    pages = [sheet(1), sheet(7), sheet(3)]
    pages[0].save(copy, save_all=True, append_images=pages[1:])
    third = pipeline.run(documents=reader.load_data(copy))
    assert len(third) == len(embedding.texts) - 3 == 3, "scanned anew: a file's checksum is in its metadata"
    assert chroma.client.count() == 3, "the old nodes are gone"
    assert simulator.count() == 6


def test_metadata_survives_chroma(reader: KoboldReader, chroma: ChromaVectorStore) -> None:
    letters = SAMPLES / "letters"
    photo = SAMPLES / "photos"
    documents = reader.load_data([letters, photo])
    nodes = SentenceSplitter(chunk_size=512)(documents)
    embedding = CountingEmbedding()
    chroma.add(list(embedding(nodes)))

    found = chroma.query(
        VectorStoreQuery(
            query_embedding=embedding.get_query_embedding("Lindqvist"),
            similarity_top_k=9,
            filters=MetadataFilters(filters=[MetadataFilter(key="page_number", value=2)]),
        )
    ).nodes
    assert found is not None
    assert [node.metadata for node in found] == [documents[1].metadata]
    everything = {node.ref_doc_id: node.metadata for node in chroma.get_nodes(None)}
    assert everything == {document.id_: document.metadata for document in documents}
    assert isinstance(everything[documents[-1].id_]["latitude"], float)


def test_metadata_survives_a_docstore_on_disk(reader: KoboldReader, ledger_tif: Path, tmp_path: Path) -> None:
    documents = reader.load_data(ledger_tif)
    store = SimpleDocumentStore()
    store.add_documents(documents)
    store.persist(str(tmp_path / "docstore.json"))

    kept = SimpleDocumentStore.from_persist_path(str(tmp_path / "docstore.json"))
    for document in documents:
        back = kept.get_document(document.id_)
        assert back is not None
        assert back.metadata == document.metadata
        assert back.hash == document.hash
        assert back.excluded_llm_metadata_keys == document.excluded_llm_metadata_keys


def is_splitter(kind: object) -> bool:
    return inspect.isclass(kind) and issubclass(kind, NodeParser) and not inspect.isabstract(kind)


def splitters() -> dict[str, NodeParser]:
    """Every splitter of llama-index-core that takes plain text and needs no library of its own."""
    found: dict[str, NodeParser] = {
        "SemanticSplitterNodeParser": SemanticSplitterNodeParser(embed_model=CountingEmbedding(), buffer_size=1)
    }
    for name in node_parser.__all__:
        kind: Any = getattr(node_parser, name)
        if not is_splitter(kind):
            continue
        options = {"chunk_size": 64, "chunk_overlap": 8} if kind in {SentenceSplitter, TokenTextSplitter} else {}
        try:
            splitter = kind.from_defaults(**options)
            if splitter.get_nodes_from_documents([Document(text="One sentence. And another.")]):
                found.setdefault(name, splitter)
        except (ImportError, TypeError, ValueError, AttributeError):
            continue
    return found


def test_metadata_fits_every_splitter(make_simulator: MakeSimulator, ledger_tif: Path) -> None:
    words = " ".join(f"Entry {number} of the harbour ledger." for number in range(60))
    simulator = make_simulator(brain=ScriptBrain(words))
    [document] = KoboldReader(api_url=simulator.url, tasks=["ocr"], pages="1").load_data(ledger_tif)
    found = splitters()
    assert {"SentenceSplitter", "TokenTextSplitter", "SentenceWindowNodeParser", "MarkdownNodeParser"} <= set(found)

    for name, splitter in found.items():
        nodes = splitter.get_nodes_from_documents([document])
        assert len(nodes) > 1 or name not in {"SentenceSplitter", "TokenTextSplitter", "SemanticSplitterNodeParser"}
        assert all(document.metadata.items() <= node.metadata.items() for node in nodes), name
        joined = " ".join(node.get_content() for node in nodes)
        assert all(f"Entry {number} " in joined for number in range(60)), f"{name}: no sentence is lost"


# ── as a LlamaIndex component ─────────────────────────────────────────────────────────────────────


@pytest.fixture
def configured(simulator: KoboldSimulator) -> KoboldReader:
    return KoboldReader(
        api_url=[simulator.url],
        api_password="anchor-and-rope",  # noqa: S106
        tasks=("ocr",),
        pages="1-2",
        prompts={"ocr": "Read it."},
        visionmaxres=768,
        rotate=90,
        pdf_passwords="key-of-the-box",
        ledger="none",
        on_error="mark",
        split=True,
    )


def test_to_dict_and_back_without_the_passwords(configured: KoboldReader) -> None:
    written = configured.to_dict()

    assert "anchor-and-rope" not in configured.to_json() + repr(configured) + str(configured)
    assert "key-of-the-box" not in configured.to_json() + repr(configured) + str(configured)
    assert written["class_name"] == "KoboldReader"
    back = KoboldReader.from_dict(written, api_password="anchor-and-rope", pdf_passwords=["key-of-the-box"])  # noqa: S106
    assert back.model_dump() == configured.model_dump()
    assert back.options == configured.options
    assert back.api_password == "anchor-and-rope"  # noqa: S105


@pytest.mark.parametrize("library", ["pickle", "cloudpickle"])
def test_a_reader_in_use_can_be_pickled(
    library: str, make_simulator: MakeSimulator, ledger_tif: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pickling = pytest.importorskip(library)
    simulator = make_simulator(password="anchor")  # noqa: S106
    reader = KoboldReader(api_url=simulator.url, api_password="anchor", tasks=["ocr"], pages="1", ledger="none")  # noqa: S106
    first = reader.load_data(ledger_tif)
    asyncio.run(reader.aload_data(ledger_tif))

    caplog.clear()

    back = pickling.loads(pickling.dumps(reader))

    assert caplog.messages == [], "LlamaIndex warns of what it drops"
    assert (back.model_dump(), back.api_password) == (reader.model_dump(), "anchor")
    assert [one.hash for one in back.load_data(ledger_tif)] == [one.hash for one in first]


def test_a_closed_reader_can_be_used_again(simulator: KoboldSimulator, ledger_tif: Path) -> None:
    reader = KoboldReader(api_url=simulator.url, tasks=["ocr"], pages="1", ledger="none")
    for _ in range(2):
        assert len(reader.load_data(ledger_tif)) == 1
        assert len(asyncio.run(reader.aload_data(ledger_tif))) == 1
        reader.close()
    assert simulator.count() == 4


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("base_url", "api_url"),
        ("api_base", "api_url"),
        ("api_key", "api_password"),
        ("timeout", "page_timeout_s"),
        ("cache_dir", "ledger"),
    ],
)
def test_names_from_elsewhere_are_answered_with_ours(wrong: str, right: str) -> None:
    with pytest.raises(ConfigError, match=f"no argument '{wrong}'; it is called '{right}'"):
        KoboldReader(**{wrong: "sesame"})  # type: ignore[arg-type]


def test_a_typo_is_answered_with_the_list() -> None:
    with pytest.raises(ConfigError, match=r"no argument 'visionmaxress'; its arguments are api_url, .*visionmaxres"):
        KoboldReader(visionmaxress=2048)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"tasks": ["ocr", "summary"]}, "'summary' is not a task"),
        ({"on_error": "ignore"}, "on_error"),
        ({"rotate": 45}, "rotate: Input should be 'auto', 0, 90, 180 or 270"),
        ({"pages": "3-1"}, "3-1"),
        ({"api_url": "ftp://host"}, "ftp"),
        ({"page_timeout_s": 0}, "page_timeout_s"),
        ({"redo": "everything"}, "redo"),
    ],
)
def test_wrong_values_are_refused_when_the_reader_is_made(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        KoboldReader(**arguments)


def test_the_arguments_are_the_options_each_documented() -> None:
    given = {name: field for name, field in KoboldReader.model_fields.items() if name != "is_remote"}
    assert list(given) == list(OPTIONS)
    assert all(given[name].description == about(name) for name in OPTIONS)
    assert KoboldReader().options == ReadOptions()
    assert set(OPTIONS) <= set(inspect.signature(KoboldReader).parameters)
    for where in (KoboldReader.__doc__, (ROOT / "docs" / "python.md").read_text(encoding="utf-8")):
        assert where is not None
        assert [name for name in OPTIONS if about(name) not in where] == []


if TYPE_CHECKING:
    # mypy reads this with the tests: it fails where a right call is refused, and where a wrong one is let pass.
    KoboldReader(api_url=["http://a:5001"], tasks=("ocr",), rotate=90, ledger=Path("x"), redo="low-confidence")
    KoboldReader(tasks=["ocr", "caption"], pages="1-3", prompts={"ocr": "Read it."}, page_timeout_s=60)
    KoboldReader(sample="three")  # type: ignore[arg-type]
    KoboldReader(redo="everything")  # type: ignore[arg-type]
    KoboldReader(base_url="http://a:5001")  # type: ignore[call-arg]


def test_a_refused_password_is_not_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        KoboldReader(api_password=["anchor-and-rope"])  # type: ignore[arg-type]
    assert "anchor-and-rope" not in f"{caught.value!r} {caught.value}"
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("url", "is_remote"), [("http://localhost:5001", False), ("http://192.168.1.7:5001", True), ("https://a.net", True)]
)
def test_is_remote_says_whether_pages_leave_the_machine(url: str, is_remote: bool) -> None:
    assert KoboldReader(api_url=url).is_remote is is_remote
    assert KoboldReader(api_url=url, engine="rapidocr").is_remote is False


def test_plain_http_to_a_public_address_is_refused(ledger_tif: Path) -> None:
    with pytest.raises(ConfigError, match="allow_remote=True"):
        KoboldReader(api_url="http://8.8.8.8:5001", ledger="none").load_data(ledger_tif)


def test_one_file_has_one_id_however_it_is_reached(
    reader: KoboldReader, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "box"
    folder.mkdir()
    file = folder / "receipt 1.jpg"
    file.write_bytes((scans / "receipt 1.jpg").read_bytes())
    (tmp_path / "way").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    ways: list[Any] = [
        file,
        str(file),
        "box/receipt 1.jpg",
        Path("box") / ".." / "box" / "receipt 1.jpg",
        folder,
        "box",
        "box/*.jpg",
        [str(file), folder],
        file.as_uri(),
        "way/receipt 1.jpg",
    ]

    loaded = [reader.load_data(way) for way in ways]
    loaded.append(directory_reader("box", reader).load_data())
    loaded.append(
        SimpleDirectoryReader(input_files=[str(file)], file_extractor=cast("Any", reader.file_extractor())).load_data()
    )

    assert [len(documents) for documents in loaded] == [1] * len(loaded)
    assert {documents[0].id_ for documents in loaded} == {loaded[0][0].id_}
    assert len({documents[0].text for documents in loaded}) == 1


# ── failed pages ──────────────────────────────────────────────────────────────────────────────────


def test_raise_finishes_and_keeps_all_other_pages(
    reader: KoboldReader, simulator: KoboldSimulator, ledger_tif: Path
) -> None:
    simulator.fault_when = empty_on_page(2)

    with pytest.raises(PagesFailedError) as caught:
        reader.load_data(ledger_tif)

    assert numbers(caught.value.documents) == [1, 3]
    (error,) = caught.value.errors
    assert isinstance(error, EmptyTranscriptionError)
    assert (error.source, error.page_number) == (str(ledger_tif), 2)
    asked = simulator.count()
    assert asked == 1 + 4 + 1

    simulator.fault_when = None
    assert numbers(reader.load_data(ledger_tif)) == [1, 2, 3]
    assert simulator.count() == asked + 1, "only the failed page was asked"


def test_raise_at_the_end_of_a_lazy_run(reader: KoboldReader, simulator: KoboldSimulator, ledger_tif: Path) -> None:
    simulator.fault_when = empty_on_page(1)
    documents: list[Document] = []

    with pytest.raises(PagesFailedError) as caught:
        documents.extend(reader.lazy_load_data(ledger_tif))

    assert numbers(documents) == [2, 3]
    assert caught.value.documents == []
    assert [error.page_number for error in caught.value.errors] == [1]


def test_raise_in_async_loading(reader: KoboldReader, simulator: KoboldSimulator, ledger_tif: Path) -> None:
    simulator.fault_when = empty_on_page(3)
    streamed: list[Document] = []

    async def stream() -> None:
        async for document in await reader.alazy_load_data(ledger_tif):
            streamed.append(document)  # noqa: PERF401  (those before the error count)

    with pytest.raises(PagesFailedError) as caught:
        asyncio.run(reader.aload_data(ledger_tif))
    assert numbers(caught.value.documents) == [1, 2]
    with pytest.raises(PagesFailedError):
        asyncio.run(stream())
    assert numbers(streamed) == [1, 2]


def test_skip_warns_of_each_page(simulator: KoboldSimulator, ledger_tif: Path) -> None:
    simulator.fault_when = empty_on_page(2)
    reader = KoboldReader(api_url=simulator.url, tasks=["ocr"], on_error="skip")

    with pytest.warns(PageSkippedWarning) as caught:
        documents = reader.load_data(ledger_tif)

    assert numbers(documents) == [1, 3]
    assert len(caught) == 1
    assert str(ledger_tif) in str(caught[0].message)
    assert "page 2" in str(caught[0].message)


def test_mark_gives_an_empty_document(simulator: KoboldSimulator, ledger_tif: Path) -> None:
    simulator.fault_when = empty_on_page(2)
    reader = KoboldReader(api_url=simulator.url, tasks=["ocr"], on_error="mark")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        documents = reader.load_data(ledger_tif)

    assert not caught
    assert numbers(documents) == [1, 2, 3]
    assert [one.metadata["page_status"] for one in documents] == ["ok", "failed", "ok"]
    failed = documents[1]
    assert failed.text == ""
    assert "gave no text" in failed.metadata["page_error"]
    assert "page_error" not in documents[0].metadata
    simulator.fault_when = None
    healed = reader.load_data(ledger_tif)[1]
    assert (healed.id_, healed.metadata["page_status"]) == (failed.id_, "ok")
    assert healed.hash != failed.hash


@pytest.fixture
def broken(scans: Path, tmp_path: Path) -> list[Path]:
    """A good file, one that is no image though its name says so, and a path that is not there."""
    good, bad = tmp_path / "good.jpg", tmp_path / "bad.jpg"
    good.write_bytes((scans / "receipt 1.jpg").read_bytes())
    bad.write_bytes(good.read_bytes()[:40])
    return [good, bad, tmp_path / "missing.pdf"]


def test_raise_names_files_that_cannot_be_read(reader: KoboldReader, broken: list[Path]) -> None:
    with pytest.raises(PagesFailedError) as caught:
        reader.load_data(broken)

    assert [one.metadata["file_name"] for one in caught.value.documents] == ["good.jpg"]
    assert sorted(Path(error.source or "").name for error in caught.value.errors) == ["bad.jpg", "missing.pdf"]


def test_skip_warns_of_files_that_cannot_be_read(simulator: KoboldSimulator, broken: list[Path]) -> None:
    reader = KoboldReader(api_url=simulator.url, tasks=["ocr"], on_error="skip")

    with pytest.warns(PageSkippedWarning) as caught:
        documents = reader.load_data(broken)

    assert [one.metadata["file_name"] for one in documents] == ["good.jpg"]
    said = " ".join(str(one.message) for one in caught)
    assert "bad.jpg" in said
    assert "missing.pdf" in said


def test_mark_marks_files_that_cannot_be_read(simulator: KoboldSimulator, broken: list[Path]) -> None:
    reader = KoboldReader(api_url=simulator.url, tasks=["ocr"], on_error="mark")

    documents = {one.metadata["file_name"]: one for one in reader.load_data(broken)}

    assert {name: one.metadata["page_status"] for name, one in documents.items()} == {
        "good.jpg": "ok",
        "bad.jpg": "failed",
        "missing.pdf": "failed",
    }
    for name in ("bad.jpg", "missing.pdf"):
        assert documents[name].text == ""
        assert documents[name].metadata["page_number"] == 0
        assert documents[name].metadata["page_error"]
        assert "page_id" not in documents[name].metadata, "nothing is known of its content"
    assert len({one.id_ for one in documents.values()}) == 3


@pytest.mark.parametrize("on_error", ["raise", "skip", "mark"])
def test_nothing_to_read_at_all_is_always_an_error(
    simulator: KoboldSimulator, tmp_path: Path, on_error: Literal["raise", "skip", "mark"]
) -> None:
    reader = KoboldReader(api_url=simulator.url, on_error=on_error)

    with pytest.raises(SourceNotFoundError):
        reader.load_data(tmp_path / "missing.pdf")


# ── parts, empty pages, text layers ───────────────────────────────────────────────────────────────


def test_split_gives_transcription_and_caption(simulator: KoboldSimulator, ledger_tif: Path) -> None:
    documents = KoboldReader(api_url=simulator.url, split=True, pages="1-2").load_data(ledger_tif)
    whole = KoboldReader(api_url=simulator.url, pages="1-2").load_data(ledger_tif)

    assert [(one.metadata["page_number"], one.metadata["page_part"]) for one in documents] == [
        (1, "ocr"),
        (1, "caption"),
        (2, "ocr"),
        (2, "caption"),
    ]
    assert documents[0].metadata["page_id"] == documents[1].metadata["page_id"]
    assert documents[0].metadata["page_id"] != documents[2].metadata["page_id"]
    assert len({one.id_ for one in [*documents, *whole]}) == 6
    assert not any(one.relationships for one in documents)
    assert documents[0].text.startswith("Text of a page")
    assert documents[1].text.startswith("A page")
    assert "text_source" not in documents[1].metadata
    assert whole[0].text == f"{documents[0].text}\n\n## Image description\n\n{documents[1].text}"
    assert simulator.count() == 4


TAGGED = {
    '"keywords"': '{"description": "A ledger of the harbour.", "keywords": ["ledger", "harbour", "ledgers"]}',
    "Describe": "A ledger.",
    "": "Entry of the harbour ledger.",
}


def test_tags_are_a_part_of_the_page_and_its_keywords(make_simulator: MakeSimulator, ledger_tif: Path) -> None:
    simulator = make_simulator(brain=ScriptBrain(TAGGED))

    def load(*tasks: str, split: bool = False) -> list[Document]:
        reader = KoboldReader(api_url=simulator.url, tasks=list(tasks), pages="1", split=split)
        return reader.load_data(ledger_tif)

    (whole,) = load("ocr", "caption", "tags")
    assert whole.text == (
        "Entry of the harbour ledger.\n\n## Image description\n\nA ledger.\n\n"
        "## Tags\n\nA ledger of the harbour.\n\nKeywords: ledger, harbour"
    )
    assert (whole.metadata["keywords"], whole.metadata["keywords_source"]) == ("ledger, harbour", "model")
    assert simulator.encodings == 1, "three tasks, one image"
    parts = load("ocr", "caption", "tags", split=True)
    assert [one.metadata["page_part"] for one in parts] == ["ocr", "caption", "tags"]
    assert parts[2].text == "A ledger of the harbour.\n\nKeywords: ledger, harbour"
    assert load("tags")[0].text == parts[2].text
    assert load("caption", "tags")[0].text == f"A ledger.\n\n## Tags\n\n{parts[2].text}"
    assert simulator.count() == 3
    assert "keywords" not in load("ocr")[0].metadata


def test_a_vocabulary_holds_tags_and_gives_the_words_above_them(
    make_simulator: MakeSimulator, ledger_tif: Path, tmp_path: Path
) -> None:
    simulator = make_simulator(brain=ScriptBrain(TAGGED))
    words = tmp_path / "words.txt"

    def load(text: str, **options: Any) -> Document:
        words.write_text(text, encoding="utf-8")
        reader = KoboldReader(api_url=simulator.url, tasks=["caption", "tags"], pages="1", vocabulary=words, **options)
        return reader.load_data(ledger_tif)[0]

    page = load("book\n\tledger\n\t\t{account book}\nport\n\t{harbour}\n", language="German", max_tags=2)
    assert page.metadata["keywords"] == "ledger, port"
    assert page.metadata["tag_paths"] == "book|ledger"
    asked = [request.body for request in simulator.requests if request.path.endswith("/generate")]
    assert asked[-1]["grammar"].splitlines()[1] == 'list ::= "[" ws (word ("," ws word){0,1})? ws "]"'
    assert "book, ledger, port" in asked[-1]["prompt"]
    assert all("Write in German." in body["prompt"] for body in asked)
    assert load("ledger\n", language="German", max_tags=2).metadata["keywords"] == "ledger"
    assert simulator.count() == 3, "the caption was not asked for again"


def test_keywords_that_people_wrote_stay_theirs(make_simulator: MakeSimulator, ledger_tif: Path) -> None:
    simulator = make_simulator(brain=ScriptBrain(TAGGED))
    (result,) = KoboldReader(api_url=simulator.url, tasks=["tags"], pages="1").read_pages(ledger_tif)

    written = replace(result, metadata={"keywords": "boats, nets", "keywords_source": "xmp"})

    metadata = to_metadata(written)
    assert (metadata["keywords"], metadata["keywords_source"]) == ("boats, nets", "xmp")
    assert to_metadata(result)["keywords_source"] == "model"


@pytest.mark.parametrize("split", [False, True])
def test_a_failed_caption_keeps_the_page(
    simulator: KoboldSimulator,
    ledger_tif: Path,
    split: bool,
) -> None:
    simulator.fault_when = lambda request: (
        Fault.EMPTY_TEXT if request.path.endswith("/api/v1/generate") and "Describe" in request.body["prompt"] else None
    )

    (document,) = KoboldReader(api_url=simulator.url, pages="1", split=split).load_data(ledger_tif)

    assert document.metadata["page_status"] == "ok"
    assert document.metadata["failed_tasks"] == "caption"
    assert document.text.startswith("Text of a page")
    assert "Image description" not in document.text
    asked = simulator.count()
    simulator.fault_when = None
    healed = KoboldReader(api_url=simulator.url, pages="1").load_data(ledger_tif)[0]
    assert "failed_tasks" not in healed.metadata
    assert "## Image description" in healed.text
    assert simulator.count() == asked + 1


def test_a_blank_page_gives_no_document_unless_asked_for(simulator: KoboldSimulator) -> None:
    assert KoboldReader(api_url=simulator.url).load_data(BLANK) == []

    (document,) = KoboldReader(api_url=simulator.url, include_empty=True).load_data(BLANK)

    assert document.text == ""
    assert document.metadata["page_status"] == "blank"
    assert "text_source" not in document.metadata
    assert "model" not in document.metadata
    assert simulator.count() == 0, "blank is decided on the image"


def test_a_page_without_lettering_gives_no_document_unless_asked_for(
    make_simulator: MakeSimulator, scans: Path
) -> None:
    simulator = make_simulator(brain=ScriptBrain("There is no text in the image."))
    file = scans / "receipt 1.jpg"
    assert KoboldReader(api_url=simulator.url, tasks=["ocr"]).load_data(file) == []

    (document,) = KoboldReader(api_url=simulator.url, tasks=["ocr"], include_empty=True).load_data(file)

    assert (document.text, document.metadata["page_status"]) == ("", "no_text")


def test_a_text_layer_answers_without_a_request(simulator: KoboldSimulator) -> None:
    with KoboldReader(api_url=simulator.url, pages="1,3") as reader:
        documents = reader.load_data(TEXT_LAYER)

    assert numbers(documents) == [1, 3]
    assert [one.metadata["page_label"] for one in documents] == ["i", "1"]
    assert {one.metadata["page_status"] for one in documents} == {"text_layer"}
    assert {one.metadata["text_source"] for one in documents} == {"text_layer"}
    truth = (GROUND_TRUTH / "yearbook" / "yearbook-1993.pdf.txt").read_text(encoding="utf-8").split("\f")
    assert [sorted(one.text.split()) for one in documents] == [sorted(truth[0].split()), sorted(truth[2].split())]
    assert all("model" not in one.metadata for one in documents)
    assert simulator.requests == [], "not even whether a server is there was asked"


def test_only_the_scans_of_a_mixed_pdf_are_asked_and_only_they_become_images(
    simulator: KoboldSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    imaged: set[int] = set()
    make = PageChild.page_images

    def noted(child: PageChild, page_number: int, *given: Any, **options: Any) -> PageImages:
        imaged.add(page_number)
        return make(child, page_number, *given, **options)

    monkeypatch.setattr(PageChild, "page_images", noted)
    documents = KoboldReader(api_url=simulator.url, tasks=["ocr"]).load_data(TEXT_LAYER)

    assert [one.metadata["page_status"] for one in documents] == ["text_layer", "ok", "text_layer", "ok"]
    assert simulator.count() == 2
    assert imaged == {2, 4}


def test_the_text_layer_can_be_ignored(make_simulator: MakeSimulator) -> None:
    def answer(request: BrainRequest) -> str:
        return f"From the image: {page_text(request)}"

    simulator = make_simulator(brain=ScriptBrain(answer))
    reader = KoboldReader(api_url=simulator.url, tasks=["ocr"], pages="1", text_layer="ignore")

    (document,) = reader.load_data(TEXT_LAYER)

    assert document.text.startswith("From the image")
    assert document.metadata["text_source"] == "ocr"


@pytest.mark.slow
def test_without_a_server_pages_that_need_none_are_given(tmp_path: Path) -> None:
    """The engine is lost: a text layer and a blank page go through, the scan is named and stays due."""
    scan = page_files.jpeg(page_files.printed_page(100, lines=12))
    steps = (page_files.text_on, page_files.scan_on(scan), page_files.blank_on, page_files.text_on)
    (tmp_path / "mixed.pdf").write_bytes(page_files.pdf(*steps))
    file = tmp_path / "mixed.pdf"
    reader = KoboldReader(api_url="http://127.0.0.1:9", ledger=str(tmp_path / "ledger.sqlite"), include_empty=True)

    documents: list[Document] = []
    with pytest.raises(NoServerAvailableError, match="nothing answers"):
        documents.extend(reader.lazy_load_data(file))
    assert [(one.metadata["page_number"], one.metadata["page_status"]) for one in documents] == [
        (1, "text_layer"),
        (3, "blank"),
        (4, "text_layer"),
    ]
    with pytest.warns(PageSkippedWarning, match=r"mixed\.pdf page 2: .*nothing answers") as warned:
        assert len(reader.changed(on_error="skip").load_data(file)) == 3
    assert len(warned) == 1
    marked = reader.changed(on_error="mark").load_data(file)
    assert [one.metadata["page_status"] for one in marked] == ["text_layer", "failed", "blank", "text_layer"]
    assert "nothing answers" in marked[1].metadata["page_error"]
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert not ledger.failures(), "it was not tried: it is due, and did not fail"
    with pytest.raises(NoServerAvailableError):
        reader.changed(on_error="skip", pages="2").load_data(file)
