"""RapidOCR as the witness of what a model writes: the real one, beside the simulated server."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from PIL import Image, ImageDraw, ImageFont
from typer.testing import CliRunner
from typing_extensions import override

from kobold_reader import Archive, KoboldReader
from kobold_reader.cli.app import make_app
from kobold_reader.options import ReadOptions
from kobold_reader.pages import PageImages, PageView
from kobold_reader.reading import second_reader
from kobold_reader.reading.ledger import Ledger
from kobold_reader.reading.page_reader import PageJob
from kobold_reader.reading.rapidocr import RapidOcrEngine
from kobold_reader.reading.results import Corners, PageResult, Reading
from kobold_reader.reading.second_reader import witness_key
from kobold_reader.reading.witness import letters_of
from kobold_reader.reading.witness_process import WitnessProcess
from tests.kobold_simulator import BrainRequest, KoboldSimulator, ScriptBrain

pytest.importorskip("rapidocr")
pytestmark = pytest.mark.slow

LINES = {
    "a": ("Skarvholm Boat Club", "the slates came on Tuesday", "Carting of slates 8.20"),
    "b": ("Minutes of the meeting", "the treasurer was absent", "Harbour dues 12.50"),
    "c": ("Insurance of the sloop", "the policy ends in October", "Premium paid 48.75"),
}
LETTER = (
    "Dear Margaret, thank you for the recipe.",
    "We baked it on Sunday with Uncle William,",
    "and nothing of it was left by the evening.",
)


class OnceReading(RapidOcrEngine):
    """Reads each image once for all tests, as loading it takes two seconds, and an image half a second."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[bytes, Any] = {}

    @override
    def read(self, job: PageJob) -> Any:
        image = job.images.views[0].image
        if image not in self.known:
            self.known[image] = super().read(job)
        return self.known[image]


@pytest.fixture(scope="session")
def engine() -> OnceReading:
    return OnceReading()


@pytest.fixture(autouse=True)
def loaded(engine: OnceReading, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The pages that RapidOCR reads, by file."""
    read: list[str] = []

    class Shared(WitnessProcess):
        """In this process: another one would load RapidOCR for each test, and take minutes on a busy machine."""

        @override
        def read(self, job: PageJob) -> Any:
            read.append(Path(job.source).stem)
            return engine.read(job)["ocr"]

        @override
        def look(self, images: PageImages, places: Sequence[Corners]) -> list[list[str]]:
            return engine.look(images, places)

    monkeypatch.setattr(second_reader, "WitnessProcess", Shared)
    return read


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    font = ImageFont.load_default(size=22)
    for number, (name, lines) in enumerate(LINES.items()):
        image = Image.new("L", (420 + 140 * number, 400), 250)  # by its width the model knows the page
        for at, line in enumerate(lines):
            ImageDraw.Draw(image).text((30, 30 + 45 * at), line, fill=10, font=font)
        image.save(folder / f"{name}.png")
    return folder


@pytest.fixture
def server(make_simulator: Callable[..., KoboldSimulator]) -> Callable[..., KoboldSimulator]:
    def make(**answers: str | list[str]) -> KoboldSimulator:
        """A model that answers with the true text, or with what is given for a page, one after the other."""
        given: dict[str, list[str]] = {
            name: list(answer) if isinstance(answer, list) else [answer] for name, answer in answers.items()
        }

        def answer(request: BrainRequest) -> str:
            name = "abc"[round((request.images[0].width - 420) / 140)]
            left = given.get(name, [])
            return (left.pop(0) if len(left) > 1 else left[0]) if left else "\n".join(LINES[name])

        return make_simulator(brain=ScriptBrain(answer))

    return make


def read(scans: Path, url: str, ledger: Path, **options: Any) -> dict[str, PageResult]:
    arguments: dict[str, Any] = {
        "api_url": url,
        "ledger": str(ledger),
        "tasks": ["ocr"],
        "rotate": 0,
        "witness": "rapidocr",
    }
    with KoboldReader(**(arguments | options)) as reader:
        return {Path(result.source.path).stem: result for result in reader.read_pages(scans)}


def test_a_reading_is_kept_with_the_witness_s_word_and_asked_of_neither_twice(
    scans: Path, server: Callable[..., KoboldSimulator], tmp_path: Path, loaded: list[str]
) -> None:
    lines = LINES["b"]
    simulator = server(b="\n".join((lines[0], lines[2].replace("12.50", "17.50"))))
    results = read(scans, simulator.url, tmp_path / "ledger")
    assert [result.status for result in results.values()] == ["ok"] * 3
    assert results["a"].readings["ocr"].witness == {"agreement": 1.0, "support": 1.0, "covered": 1.0}
    found = results["b"].readings["ocr"].witness
    assert found is not None
    assert found["missing"] == [lines[1]]
    assert found["differences"] == [{"text": "17.50", "page": "12.50"}]
    assert 0.5 < found["agreement"] < 0.9

    asked = len(simulator.requests)
    again = read(scans, simulator.url, tmp_path / "ledger")
    assert {name: result.readings for name, result in again.items()} == {
        name: result.readings for name, result in results.items()
    }
    assert len(simulator.requests) == asked
    assert sorted(loaded) == ["a", "b", "c"]


def test_a_line_is_looked_at_again_the_way_it_was_read(
    scans: Path, server: Callable[..., KoboldSimulator], tmp_path: Path
) -> None:
    """A photo that lies on its side in its file."""
    with Image.open(scans / "b.png") as image:
        exif = Image.Exif()
        exif[0x0112] = 6
        image.transpose(Image.Transpose.ROTATE_90).save(scans / "b.jpg", exif=exif, quality=95)
    for name in "abc":
        (scans / f"{name}.png").unlink()
    simulator = server(b="\n".join(LINES["b"]).replace("12.50", "17.50"))
    found = read(scans, simulator.url, tmp_path / "ledger")["b"].readings["ocr"].witness
    assert found is not None
    assert found["differences"] == [{"text": "17.50", "page": "12.50"}]


def test_the_words_of_a_model_get_their_places(
    scans: Path, server: Callable[..., KoboldSimulator], tmp_path: Path
) -> None:
    reading = read(scans, server().url, tmp_path / "ledger")["a"].readings["ocr"]
    shown = {reading.text[box.start : box.end]: box.corners for box in reading.boxes}
    assert list(shown) == list(LINES["a"])
    left, top, right, *_ = shown["the slates came on Tuesday"]
    assert left == pytest.approx(30 / 420 * 10_000, abs=150)
    assert top == pytest.approx(75 / 400 * 10_000, abs=300)
    assert right > 7000


def test_a_text_of_another_page_is_asked_for_once_more_and_never_ok(
    scans: Path, server: Callable[..., KoboldSimulator], tmp_path: Path
) -> None:
    wrong = "\n".join(LETTER)
    simulator = server(a=[wrong, "\n".join(LINES["a"])], c=wrong)
    results = read(scans, simulator.url, tmp_path / "ledger")
    assert results["a"].status == "ok"
    assert results["a"].text == "\n".join(LINES["a"])
    assert results["a"].readings["ocr"].attempts == 2
    assert results["c"].status == "unsupported"
    assert results["c"].text == wrong
    assert results["c"].readings["ocr"].attempts == 2
    count = len(simulator.requests)
    assert read(scans, simulator.url, tmp_path / "ledger")["c"].status == "unsupported"
    assert len(simulator.requests) == count, "kept, and not asked for again"
    simulator.brain = ScriptBrain("\n".join(LINES["c"]))
    redone = read(scans, simulator.url, tmp_path / "ledger", redo="disagreeing")
    assert redone["c"].status == "ok"
    assert redone["a"].is_kept


def test_a_run_without_a_witness_is_followed_by_one_that_asks_the_server_nothing(
    scans: Path, server: Callable[..., KoboldSimulator], tmp_path: Path, loaded: list[str]
) -> None:
    simulator = server()
    plain = read(scans, simulator.url, tmp_path / "ledger", witness=None)
    assert plain["a"].readings["ocr"].witness is None
    assert not loaded
    count = len(simulator.requests)
    heard = read(scans, simulator.url, tmp_path / "ledger")
    assert heard["a"].readings["ocr"].witness is not None
    assert len(simulator.requests) == count
    assert len(loaded) == 3


def test_copies_share_the_witness_s_word(
    scans: Path, server: Callable[..., KoboldSimulator], tmp_path: Path, loaded: list[str]
) -> None:
    (scans / "copy of a.png").write_bytes((scans / "a.png").read_bytes())
    results = read(scans, server().url, tmp_path / "ledger")
    assert results["copy of a"].readings["ocr"].witness == results["a"].readings["ocr"].witness is not None
    assert sorted(loaded) == ["a", "b", "c"]


def test_a_page_that_the_witness_cannot_read_says_why(
    scans: Path,
    server: Callable[..., KoboldSimulator],
    tmp_path: Path,
    engine: OnceReading,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("an odd image")

    monkeypatch.setattr(engine, "known", {})
    monkeypatch.setattr(engine, "_lines", fail)
    results = read(scans, server().url, tmp_path / "ledger")
    found = results["a"].readings["ocr"].witness
    assert found is not None
    assert found["agreement"] is None
    assert "an odd image" in found["error"]
    assert results["a"].status == "ok"


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """The witness falls behind until this is set, and no result may wait."""
    monkeypatch.setattr("kobold_reader.reading.transcriber.WAITING_PAGES_SOON", 0)
    held, gave = threading.Event(), second_reader.SecondReader._read  # noqa: SLF001

    def slowly(self: Any, case: Any, *more: Any) -> Any:
        held.wait(10)
        return gave(self, case, *more)

    monkeypatch.setattr(second_reader.SecondReader, "_read", slowly)
    return held


def test_an_archive_indexes_pages_that_wait_and_adds_the_word_in_the_same_run(
    scans: Path, server: Callable[..., KoboldSimulator], tmp_path: Path, late: threading.Event
) -> None:
    seen: list[PageResult] = []

    def note(result: PageResult) -> None:
        seen.append(result)
        if len(seen) == 3:
            late.set()

    reader = KoboldReader(api_url=server(c="\n".join(LETTER)).url, tasks=["ocr"], rotate=0, witness="rapidocr")
    with Archive.open(tmp_path / "archive", create=True, embedder="none") as archive:
        report = archive.sync(scans, reader=reader, on_page=note)
        assert [result.readings["ocr"].witness for result in seen] == [None] * 3
        assert report.pages == {"ok": 2, "unsupported": 1}
        rows = {Path(row.uri).stem: row for row in archive.pages()}
        assert rows["a"].metadata["witness_agreement"] == 1
        assert rows["c"].status == "unsupported"
        assert [hit.metadata["page_status"] for hit in archive.search("recipe")] == ["unsupported"]
        report = archive.sync()
        assert report.pages == {"ok": 2, "unsupported": 1}
        assert not report.indexed_pages


def test_a_page_that_waits_with_the_text_of_a_stand_in_is_counted_once(
    scans: Path, server: Callable[..., KoboldSimulator], tmp_path: Path, late: threading.Event
) -> None:
    seen: list[PageResult] = []

    def note(result: PageResult) -> None:
        seen.append(result)
        if len(seen) == 3:
            late.set()

    options: dict[str, Any] = {"tasks": ["ocr"], "rotate": 0, "on_error": "skip"}
    url = server(c="Premium. " * 600).url
    with Archive.open(tmp_path / "archive", create=True, embedder="none") as archive:
        archive.sync(scans, reader=KoboldReader(engine="rapidocr", **options), remember=False)
        again = KoboldReader(api_url=url, witness="rapidocr", **options)
        report = archive.sync(scans, reader=again, on_page=note)
        assert [result.status for result in seen] == ["ok", "ok", "looping"]
        assert report.pages == {"ok": 3}
        assert report.pages == archive.status().pages


@pytest.fixture
def usual(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of the tests, nothing turns the witness off."""
    monkeypatch.setattr("kobold_reader.reading.transcriber.is_installed", lambda: True)
    monkeypatch.delenv("KOBOLD_READER_WITNESS")


@pytest.mark.usefixtures("usual")
def test_index_has_a_witness_where_rapidocr_is_installed_and_read_has_none(
    scans: Path, server: Callable[..., KoboldSimulator], tmp_path: Path, loaded: list[str]
) -> None:
    simulator = server()
    asked = ["--api-url", simulator.url, "--tasks", "ocr", "--rotate", "0"]
    assert (
        CliRunner().invoke(make_app(), ["read", str(scans / "a.png"), *asked, "-o", str(tmp_path / "a.md")]).exit_code
        == 0
    )
    none = ["index", str(scans), "--archive", str(tmp_path / "none"), "--embedder", "none", "--witness", "none"]
    assert CliRunner().invoke(make_app(), [*none, *asked]).exit_code == 0
    assert not loaded
    usual = ["index", str(scans), "--archive", str(tmp_path / "usual"), "--embedder", "none", "--ledger", "none"]
    done = CliRunner().invoke(make_app(), [*usual, *asked])
    assert done.exit_code == 0
    assert sorted(loaded) == ["a", "b", "c"]
    with Archive.open(tmp_path / "usual") as archive:
        assert [row.metadata["witness_agreement"] for row in archive.pages()] == [1.0] * 3
    loaded.clear()
    assert CliRunner().invoke(make_app(), ["index", "--archive", str(tmp_path / "none")]).exit_code == 0
    assert CliRunner().invoke(make_app(), ["index", "--archive", str(tmp_path / "usual")]).exit_code == 0
    assert not loaded, "nothing was read, so nothing was compared"


@pytest.mark.usefixtures("usual")
def test_a_repeated_run_has_the_witness_unless_a_past_one_was_told_none(
    scans: Path, server: Callable[..., KoboldSimulator], tmp_path: Path, loaded: list[str]
) -> None:
    url = server().url
    again = ["index", "--redo", "all", "--archive"]
    told: list[tuple[str, Literal["none"] | None, bool]] = [("unsaid", None, True), ("none", "none", False)]
    for name, witness, is_compared in told:
        with Archive.open(tmp_path / name, create=True, embedder="none") as archive:
            archive.sync(
                scans, reader=KoboldReader(api_url=url, tasks=["ocr"], rotate=0, ledger="none", witness=witness)
            )
        loaded.clear()
        assert CliRunner().invoke(make_app(), [*again, str(tmp_path / name)]).exit_code == 0
        assert bool(loaded) is is_compared
    assert CliRunner().invoke(make_app(), [*again, str(tmp_path / "none"), "--witness", "auto"]).exit_code == 0
    assert sorted(loaded) == ["a", "b", "c"]


@pytest.mark.usefixtures("usual")
def test_index_leaves_pages_uncompared_that_the_witness_does_not_come_to_and_says_so(
    scans: Path,
    server: Callable[..., KoboldSimulator],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    loaded: list[str],
) -> None:
    monkeypatch.setattr("kobold_reader.reading.transcriber.WAITING_PAGES_SOON", 0)
    gave, leave = second_reader.SecondReader._next, threading.Event()  # noqa: SLF001
    left, was_left = second_reader.SecondReader.leave, set[str]()

    def note(self: Any, content_sha256: str) -> None:
        left(self, content_sha256)
        was_left.add(content_sha256)
        if len(was_left) == len(LINES):
            leave.set()

    def late(self: Any) -> Any:
        leave.wait(10)
        return gave(self)

    with monkeypatch.context() as slow:
        slow.setattr(second_reader.SecondReader, "_next", late)
        slow.setattr(second_reader.SecondReader, "leave", note)
        simulator = server()
        arguments = [
            "--api-url",
            simulator.url,
            "--tasks",
            "ocr",
            "--rotate",
            "0",
            "--archive",
            str(tmp_path / "archive"),
        ]
        done = CliRunner().invoke(make_app(), ["index", str(scans), *arguments, "--embedder", "none"])
    assert done.exit_code == 0
    assert "3 pages not compared with the witness" in done.stderr
    assert not loaded
    count = simulator.count()
    again = CliRunner().invoke(make_app(), ["index", str(scans), *arguments])
    assert again.exit_code == 0
    assert not loaded, "it reads along with the server, and the server has nothing to do"
    full = CliRunner().invoke(make_app(), ["index", str(scans), *arguments, "--witness", "rapidocr", "--json"])
    assert json.loads(full.stdout)["uncompared_pages"] == 0
    assert sorted(loaded) == ["a", "b", "c"]
    assert simulator.count() == count
    with Archive.open(tmp_path / "archive") as archive:
        assert [row.metadata["witness_agreement"] for row in archive.pages()] == [1.0] * 3


@pytest.mark.usefixtures("usual")
def test_plan_times_the_witness(scans: Path, server: Callable[..., KoboldSimulator]) -> None:
    arguments = ["plan", str(scans), "--api-url", server().url, "--tasks", "ocr", "--rotate", "0", "--sample", "2"]
    said = CliRunner().invoke(make_app(), arguments).stdout
    assert "the witness, beside the reading: about " in said
    assert "slower than the server" in said
    found = json.loads(CliRunner().invoke(make_app(), [*arguments, "--json"]).stdout)
    assert found["witness_s"] > 0
    plain = json.loads(CliRunner().invoke(make_app(), [*arguments, "--json", "--witness", "none"]).stdout)
    assert plain["witness_s"] is None


def test_a_ledger_counts_pages_by_what_the_model_read(
    scans: Path, server: Callable[..., KoboldSimulator], tmp_path: Path
) -> None:
    read(scans, server(c="\n".join(LETTER)).url, tmp_path / "ledger")
    with Ledger(tmp_path / "ledger", read_only=True) as ledger:
        counts = ledger.count()
        look = ledger.worth_a_look()
    assert {name: counts.get(name) for name in ("ok", "unsupported")} == {"ok": 2, "unsupported": 1}
    assert [(Path(one.uri).stem, one.status) for one in look] == [("c", "unsupported")]
    said = CliRunner().invoke(make_app(), ["status", "--ledger", str(tmp_path / "ledger")]).stdout
    assert f"worth a look: {scans / 'c.png'} page 1: unsupported, the witness agrees with 0." in said


def test_a_reading_by_rapidocr_is_taken_as_the_witness_s(
    scans: Path, server: Callable[..., KoboldSimulator], tmp_path: Path, loaded: list[str]
) -> None:
    with KoboldReader(engine="rapidocr", ledger=str(tmp_path / "ledger"), rotate=0) as reader:
        list(reader.read_pages(scans))
    loaded.clear()
    assert read(scans, server().url, tmp_path / "ledger")["a"].readings["ocr"].witness
    assert not loaded


def test_the_command_line_writes_what_was_found(
    scans: Path, server: Callable[..., KoboldSimulator], tmp_path: Path
) -> None:
    simulator = server(a=f"{LINES['a'][0]}\nnothing of that kind happened here\n{LINES['a'][2]}")
    arguments = ["read", str(scans / "a.png"), "--api-url", simulator.url, "--tasks", "ocr", "--rotate", "0"]
    more = ["--witness", "rapidocr", "--format", "jsonl", "--ledger", str(tmp_path / "ledger")]
    done = CliRunner().invoke(make_app(), [*arguments, *more])
    line = json.loads(done.stdout.strip().splitlines()[-1])
    assert line["metadata"]["witness_agreement"] == line["witness"]["agreement"] < 1
    assert line["witness"]["missing"] or line["witness"]["unsupported"]


@pytest.mark.thorough
def test_a_process_of_its_own_reads_as_rapidocr_does_and_its_end_costs_one_page(engine: OnceReading) -> None:
    image = Image.new("L", (420, 140), 250)
    ImageDraw.Draw(image).text((30, 30), LINES["a"][0], fill=10, font=ImageFont.load_default(size=22))
    data = io.BytesIO()
    image.save(data, "PNG")
    job = PageJob("a.png", 1, ("ocr",), PageImages((PageView(data.getvalue(), "image/png", 420, 140, None, 0),), False))
    with WitnessProcess() as process:
        read = process.read(job)
        own = engine.read(job)["ocr"]
        assert isinstance(read, Reading)
        assert replace(read, elapsed_s=0.0) == replace(own, elapsed_s=0.0)
        assert read.text == LINES["a"][0]
        (again,) = process.look(job.images, [read.boxes[0].corners])
        assert len(again) > 1
        assert {letters_of(seen).text for seen in again} == {letters_of(read.text).text}
        broken = process.read(
            replace(job, images=replace(job.images, views=(replace(job.images.views[0], image=b"no"),)))
        )
        assert "RapidOCR failed on this page" in str(broken)
        process.close()
        assert "ended while it read this page" in str(process.read(job))
    with WitnessProcess(timeout_s=0.05) as process:  # its start alone takes longer
        assert "took longer than 0.05 s" in str(process.read(job))


def test_what_the_user_asks_of_the_model_changes_nothing_for_the_witness() -> None:
    plain = ReadOptions()
    assert witness_key(replace(plain, hint="Swedish", prompts={"ocr": "Read."})) == witness_key(plain)
    assert witness_key(replace(plain, rotate=90)) != witness_key(plain)
    assert replace(plain, witness="rapidocr").key("ocr") == plain.key("ocr")
