"""The ledger: what it keeps, what it never returns, what it survives."""

from __future__ import annotations

import functools
import random
import sqlite3.dbapi2
import stat
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kobold_reader.archive.store import Catalog
from kobold_reader.errors import EmptyTranscriptionError, LedgerError
from kobold_reader.pages import FileFacts, PageFacts, SourceFile
from kobold_reader.reading.ledger import KnownPage, Ledger, default_ledger_path
from kobold_reader.reading.results import LineBox, Reading

SOURCE = SourceFile("file:///scans/a.pdf", "/scans/a.pdf", "a.pdf", "/scans", 10, 20, None, None, "pdf", True)
FILE = FileFacts(sha256="f" * 64, kind="pdf", total_pages=2, is_repaired=False, metadata={"title": "Minutes"})
READING = Reading(
    task="ocr",
    status="ok",
    text="Åke wrote: “§ 1”\n\t漢字",
    engine="koboldcpp",
    model="m",
    prompt="Read.",
    decoding={"temperature": 0.1, "sampler_seed": 1},
    view_sizes=((724, 1024),),
    effective_px=1024,
    image_verified=True,
    confidence=0.9,
    doubtful=({"start": 0, "end": 3, "rival": "Ake"},),
    boxes=(
        LineBox(0, 16, (100, 200, 9000, 210, 9000, 500, 100, 490)),
        LineBox(17, 20, (0, 0, 1, 0, 1, 1, 0, 1), 0.9, (0, 10_000)),
    ),
)


def facts(number: int = 1, content: str = "c") -> PageFacts:
    return PageFacts(
        page_number=number,
        page_label=str(number),
        content_sha256=content * 64,
        width_pt=595.0,
        height_pt=842.0,
        width_px=1000,
        height_px=1400,
        text="",
        text_layer="none",
        image_coverage=1.0,
        rotation_deg=0,
        metadata={},
    )


def content_of(number: int) -> str:
    return chr(0x4E00 + number)


def record(ledger: Ledger, reading: Reading = READING, source: SourceFile = SOURCE, content: str = "c") -> None:
    ledger.remember_file(source, FILE)
    page = KnownPage(facts(content=content), is_blank=False)
    ledger.record(source, FILE.sha256, page, {reading.task: reading}, {reading.task: "default"}, {})


def test_what_goes_in_comes_out_equal(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "ledger.sqlite"
    with Ledger(path) as ledger:
        record(ledger)
    with Ledger(path) as ledger:
        assert ledger.reading("c" * 64, "ocr", "koboldcpp", "default") == READING
        assert ledger.document(FILE.sha256) == FILE
        assert ledger.pages(FILE.sha256, range(1, 100)) == {1: KnownPage(facts(), is_blank=False)}
        assert ledger.page(FILE.sha256, 1) == KnownPage(facts(), is_blank=False)
        assert ledger.page(FILE.sha256, 2) is None
        assert ledger.sha256_of(SOURCE) == FILE.sha256


@given(text=st.text(min_size=1), prompt=st.text(), confidence=st.floats(0, 1) | st.none())
def test_any_text_survives(text: str, prompt: str, confidence: float | None) -> None:
    reading = replace(READING, text=text, prompt=prompt, confidence=confidence)
    try:
        text.encode()
        prompt.encode()
    except UnicodeEncodeError:
        return  # lone surrogates are no text; nothing that decodes UTF-8 makes them
    with Ledger(None) as ledger:
        record(ledger, reading)
        assert ledger.reading("c" * 64, "ocr", "koboldcpp", "default") == reading


@pytest.mark.parametrize("change", [{"size_bytes": 11}, {"mtime_ns": 21}, {"mtime_ns": 0}])
def test_a_changed_file_is_not_known(change: dict[str, int]) -> None:
    with Ledger(None) as ledger:
        record(ledger)
        assert ledger.sha256_of(replace(SOURCE, **change)) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "other", [("d" * 64, "ocr", "koboldcpp", "default"), ("c" * 64, "caption", "koboldcpp", "default"),
              ("c" * 64, "ocr", "rapidocr", "default"), ("c" * 64, "ocr", "koboldcpp", "other")],
)  # fmt: skip
def test_a_reading_made_otherwise_is_no_hit(other: tuple[str, str, str, str]) -> None:
    with Ledger(None) as ledger:
        record(ledger)
        assert ledger.reading(*other) is None


def test_failures_are_named_and_never_a_hit() -> None:
    with Ledger(None) as ledger:
        ledger.remember_file(SOURCE, FILE)
        error = EmptyTranscriptionError("nothing came").at("/scans/a.pdf", 1)
        ledger.record(SOURCE, FILE.sha256, KnownPage(facts(), None), {}, {}, {"ocr": error})
        assert ledger.reading("c" * 64, "ocr", "koboldcpp", "default") is None
        [failure] = ledger.failures()
        assert (failure.uri, failure.page_number, failure.kind) == (SOURCE.uri, 1, "EmptyTranscriptionError")
        assert "nothing came" in failure.message
        record(ledger)
        assert ledger.failures() == []


def test_the_fallback_is_read_and_copied(tmp_path: Path) -> None:
    with Ledger(tmp_path / "default.sqlite") as default:
        record(default)
    with Ledger(tmp_path / "own.sqlite", fallback=Ledger(tmp_path / "default.sqlite", read_only=True)) as own:
        assert own.sha256_of(SOURCE) == FILE.sha256
        assert own.page(FILE.sha256, 1) == own.pages(FILE.sha256, range(1, 100))[1]
        assert own.reading("c" * 64, "ocr", "koboldcpp", "default") == READING
    with Ledger(tmp_path / "own.sqlite") as alone:
        assert alone.reading("c" * 64, "ocr", "koboldcpp", "default") == READING
        assert alone.document(FILE.sha256) == FILE


def test_copies_of_the_fallback_are_written_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One commit, and one wait for the disk, for so many rows and not for each."""
    count = 40
    monkeypatch.setattr("kobold_reader.reading.ledger.PUT_OFF_ROWS", 50)
    monkeypatch.setattr("kobold_reader.reading.ledger.PUT_OFF_S", 1000)
    with Ledger(tmp_path / "default.sqlite") as default:
        default.remember_file(SOURCE, FILE)
        record_pages(default, range(1, count + 1))
    own_path = tmp_path / "own.sqlite"
    with Ledger(own_path, fallback=Ledger(tmp_path / "default.sqlite", read_only=True)) as own:
        with closing(sqlite3.connect(own_path)) as watching:
            states = set()
            assert own.sha256_of(SOURCE) == FILE.sha256
            assert len(own.pages(FILE.sha256, range(1, 100))) == count
            for number in range(1, count + 1):
                assert own.reading(content_of(number) * 64, "ocr", "koboldcpp", "default") == READING
                states.add(watching.execute("PRAGMA data_version").fetchone())  # another after each commit of others
        assert 2 <= len(states) <= 3, "80 rows and more"
    with Ledger(own_path) as alone:
        counted = {"files": 1, "pages": count, "text_layer": 0, "blank": 0, "failed": 0, "ok": count}
        assert alone.count() == counted
        assert alone.document(FILE.sha256) == FILE


def look_at(ledger: Ledger, number: int, **changed: Any) -> tuple[SourceFile, FileFacts]:
    """Record a file of one page, as it is found where nothing has to be read."""
    source = replace(SOURCE, uri=f"file:///scans/{number}.pdf")
    file = replace(FILE, sha256=content_of(number) * 64, total_pages=1)
    ledger.remember_file(source, file)
    ledger.remember_pages(file.sha256, [KnownPage(replace(facts(content=content_of(number)), **changed), None)])
    return source, file


def seen_by_others(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        return int(db.execute("SELECT count(*) FROM files JOIN pages USING (sha256)").fetchone()[0])


def test_files_that_were_only_looked_at_are_written_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One wait for the disk for many small files; what is not written yet is known all the same."""
    monkeypatch.setattr("kobold_reader.reading.ledger.PUT_OFF_S", 1000)
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        for number in range(30):
            source, file = look_at(ledger, number)
            assert seen_by_others(path) == 0
        copy = replace(source, uri="file:///scans/copy.pdf")
        assert ledger.sha256_of(copy) is None
        assert ledger.sha256_of(source) == file.sha256
        assert ledger.document(file.sha256) == file
        assert set(ledger.pages(file.sha256, range(1, 100))) == {1}
        look_at(ledger, 30)
        assert ledger.count()["pages"] == 31
        look_at(ledger, 31)
        record(ledger)
        assert seen_by_others(path) == 33, "what was put off goes with the next page that is read"
        look_at(ledger, 32)
    assert seen_by_others(path) == 34


def test_what_is_put_off_waits_no_longer_than_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        monkeypatch.setattr("kobold_reader.reading.ledger.PUT_OFF_S", 0)
        look_at(ledger, 1)
        assert seen_by_others(path) == 1
        monkeypatch.setattr("kobold_reader.reading.ledger.PUT_OFF_S", 1000)
        monkeypatch.setattr("kobold_reader.reading.ledger.PUT_OFF_ROWS", 40)
        for number in range(2, 12):
            look_at(ledger, number)
        assert seen_by_others(path) == 11


def test_a_page_that_cannot_be_kept_is_no_fault_of_those_put_off_with_it(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        look_at(ledger, 1)
        with pytest.raises(UnicodeEncodeError):
            look_at(ledger, 2, page_label="\udcff")
        look_at(ledger, 3)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert [len(ledger.pages(content_of(number) * 64, range(1, 100))) for number in (1, 2, 3)] == [1, 0, 1]


def test_a_copy_never_replaces_what_was_read_since(tmp_path: Path) -> None:
    with Ledger(tmp_path / "default.sqlite") as default:
        record(default)
    newer = replace(READING, text="read again")
    with Ledger(tmp_path / "own.sqlite", fallback=Ledger(tmp_path / "default.sqlite", read_only=True)) as own:
        assert own.reading("c" * 64, "ocr", "koboldcpp", "default") == READING
        record(own, newer)
        assert own.reading("c" * 64, "ocr", "koboldcpp", "default") == newer
    with Ledger(tmp_path / "own.sqlite") as alone:
        assert alone.reading("c" * 64, "ocr", "koboldcpp", "default") == newer


def test_forgetting_leaves_no_word_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    secret = replace(READING, text="the forgotten sentence")
    with Ledger(path) as ledger:
        record(ledger, secret)
        assert ledger.forget([SOURCE.uri]) == 1
        assert ledger.uris() == []
        assert ledger.reading("c" * 64, "ocr", "koboldcpp", "default") is None
    written = b"".join(file.read_bytes() for file in tmp_path.iterdir() if file.is_file())
    assert b"forgotten sentence" not in written


def test_forgetting_keeps_what_another_file_shares() -> None:
    copy = replace(SOURCE, uri="file:///scans/copy.pdf")
    with Ledger(None) as ledger:
        record(ledger)
        record(ledger, source=copy)
        assert ledger.forget([SOURCE.uri]) == 0
        assert ledger.reading("c" * 64, "ocr", "koboldcpp", "default") == READING
        assert ledger.forget([copy.uri]) == 1


@pytest.mark.parametrize(
    ("found", "said"), [(99, r"newer release.*Update kobold-reader"), (1, r"format 1, which no release.*Move it away")]
)
@pytest.mark.parametrize("read_only", [False, True])
def test_a_file_of_another_format_is_refused_with_a_sentence(
    found: int, said: str, read_only: bool, tmp_path: Path
) -> None:
    path = tmp_path / "ledger.sqlite"
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {found}")
    db.close()
    before = path.read_bytes()
    with pytest.raises(LedgerError, match=said):
        Ledger(path, read_only=read_only)
    assert path.read_bytes() == before, "it was left alone"


@pytest.fixture
def format_2(tmp_path: Path) -> Path:
    """A ledger as it was before there was a witness."""
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        record(ledger)
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP INDEX readings_doubtful")
        db.execute("ALTER TABLE readings DROP COLUMN witness")
        db.execute("PRAGMA user_version = 2")
        db.commit()
    return path


def test_a_ledger_without_a_witness_is_taken_over(format_2: Path) -> None:
    for _ in range(2):
        with Ledger(format_2) as ledger:
            assert ledger.reading("c" * 64, "ocr", "koboldcpp", "default") == READING
            heard = replace(READING, witness={"agreement": 0.5})
            ledger.keep("c" * 64, "heard", heard)
            assert ledger.reading("c" * 64, "ocr", "koboldcpp", "heard") == heard
            assert [one.agreement for one in ledger.worth_a_look()] == [0.5]
    with closing(sqlite3.connect(format_2)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (3,)


def test_a_ledger_without_a_witness_is_read_where_it_may_not_be_changed(format_2: Path, tmp_path: Path) -> None:
    before = format_2.read_bytes()
    with Ledger(format_2, read_only=True) as ledger:
        assert ledger.reading("c" * 64, "ocr", "koboldcpp", "default") == READING
        assert ledger.worth_a_look() == []
        assert ledger.count()["pages"] == 1
    behind = Ledger(format_2, read_only=True)
    with Ledger(tmp_path / "own.sqlite", fallback=behind) as ledger:
        assert ledger.reading("c" * 64, "ocr", "koboldcpp", "default") == READING
    assert format_2.read_bytes() == before


def record_pages(ledger: Ledger, numbers: Iterable[int]) -> None:
    for number in numbers:
        page = KnownPage(facts(number, content_of(number)), is_blank=False)
        ledger.record(SOURCE, FILE.sha256, page, {"ocr": READING}, {"ocr": "default"}, {})


def recorded(ledger: Ledger) -> list[int]:
    """The numbers of all pages that are there, each of them whole."""
    assert ledger.path is not None
    with closing(sqlite3.connect(ledger.path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    known = ledger.pages(FILE.sha256, range(1, 100))
    for page in known.values():
        assert ledger.reading(page.facts.content_sha256, "ocr", "koboldcpp", "default") == READING
    return sorted(known)


def test_a_full_disk_is_said_and_costs_the_one_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second failure was "cannot rollback": the first had ended the transaction already."""
    opened: list[sqlite3.Connection] = []

    class Noted(sqlite3.Connection):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            opened.append(self)

    monkeypatch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Noted))
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.remember_file(SOURCE, FILE)
        its_own = opened[0]
        its_own.execute("PRAGMA max_page_count = 40")
        with pytest.raises(LedgerError, match=r"is full.*Check that .* the disk is not full"):
            record_pages(ledger, range(1, 1000))
        kept = len(recorded(ledger))
        assert kept > 5
        for _ in range(2):
            with pytest.raises(LedgerError, match="is full"):
                record_pages(ledger, [kept + 1])
        assert recorded(ledger) == list(range(1, kept + 1))
        its_own.execute("PRAGMA max_page_count = 100000")
        record_pages(ledger, [kept + 1])
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert recorded(ledger) == list(range(1, kept + 2))


@pytest.mark.parametrize("make", [Ledger, Catalog])
def test_a_commit_waits_until_it_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], Ledger | Catalog]
) -> None:
    """The other tests do without."""
    opened: list[sqlite3.Connection] = []

    def connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
        opened.append(sqlite3.dbapi2.connect(*arguments, **options))
        return opened[-1]

    monkeypatch.setattr(sqlite3, "connect", connect)
    with closing(make(tmp_path / "a.sqlite")):
        full = 2
        assert [database.execute("PRAGMA synchronous").fetchone() for database in opened] == [(full,)]


def test_power_lost_at_any_byte_of_a_commit_costs_that_page_at_most(tmp_path: Path) -> None:
    """What a crash leaves: the file and its log as they were, the log cut or spoilt anywhere behind the last fsync."""
    path, chance = tmp_path / "ledger.sqlite", random.Random(1)
    log = Path(f"{path}-wal")
    with Ledger(path) as ledger:
        ledger.remember_file(SOURCE, FILE)
        for number in range(1, 9):
            safe_bytes = log.stat().st_size
            record_pages(ledger, [number])
            before = path.read_bytes(), log.read_bytes()
            for _ in range(6):
                cut = chance.randrange(safe_bytes, len(before[1]) + 1)
                rest = bytes(chance.randbytes(len(before[1]) - cut)) if chance.random() < 0.5 else b""
                crashed = tmp_path / "crashed.sqlite"
                Path(f"{crashed}-shm").unlink(missing_ok=True)
                crashed.write_bytes(before[0])
                Path(f"{crashed}-wal").write_bytes(before[1][:cut] + rest)
                with Ledger(crashed) as left:
                    kept = recorded(left)
                    assert kept in (list(range(1, number)), list(range(1, number + 1))), (number, cut)
                    record_pages(left, [number])
                    assert recorded(left) == list(range(1, number + 1))


def test_power_lost_within_a_checkpoint_costs_nothing(tmp_path: Path) -> None:
    """While the log is copied into the file, the file alone is torn; the log makes it whole."""
    path, chance = tmp_path / "ledger.sqlite", random.Random(2)
    with Ledger(path) as ledger:
        ledger.remember_file(SOURCE, FILE)
        for number in range(1, 13):
            record_pages(ledger, [number])
        old, log = path.read_bytes(), Path(f"{path}-wal").read_bytes()
        with closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA wal_checkpoint(FULL)")
        new = path.read_bytes()
    assert len(new) > len(old)
    for _ in range(20):
        pages = [
            (new if chance.random() < 0.5 else old)[start : start + 4096].ljust(4096, b"\0")
            for start in range(0, len(new), 4096)
        ]
        crashed = tmp_path / "crashed.sqlite"
        Path(f"{crashed}-shm").unlink(missing_ok=True)
        crashed.write_bytes(b"".join(pages))
        Path(f"{crashed}-wal").write_bytes(log)
        with Ledger(crashed) as left:
            assert recorded(left) == list(range(1, 13))


def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(LedgerError, match=r"cannot be used.*damaged, or not a ledger"):
        Ledger(path)
    assert path.read_bytes().startswith(b"this is no database"), "it was left alone"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no file modes")
def test_others_cannot_read_it(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite"):
        pass
    assert stat.S_IMODE((tmp_path / "ledger.sqlite").stat().st_mode) == 0o600


def test_the_default_place_is_in_the_home_folder(home: Path) -> None:
    assert default_ledger_path().is_relative_to(home)
    assert default_ledger_path().name == "ledger.sqlite"


KILLED = """
import sys
from pathlib import Path
from tests.test_reading_ledger import READING, SOURCE, FILE, facts
from kobold_reader.reading.ledger import KnownPage, Ledger
ledger = Ledger(Path(sys.argv[1]))
ledger.remember_file(SOURCE, FILE)
for number in range(1, 10000):
    page = KnownPage(facts(number, chr(0x4E00 + number)), is_blank=False)
    ledger.record(SOURCE, FILE.sha256, page, {"ocr": READING}, {"ocr": "default"}, {})
    print(number, flush=True)
"""


def test_kill_9_loses_nothing_that_was_recorded(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    root = Path(__file__).parent.parent
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True, cwd=root
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if int(line) == 25:
                child.kill()
                break
    with Ledger(path) as ledger:
        kept = ledger.pages(FILE.sha256, range(1, 100))
        assert len(kept) >= 25
        for number, page in kept.items():
            assert ledger.reading(page.facts.content_sha256, "ocr", "koboldcpp", "default") == READING, number
