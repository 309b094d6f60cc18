"""Headers of GGUF files: what they say, and what broken and hostile ones come to."""

from __future__ import annotations

import os
import struct
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import gguf
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kobold_reader.errors import CorruptSourceError, MissingExtraError, SourceError, UnsupportedSourceError
from kobold_reader.kobold.gguf import read_header
from tests.gguf_files import CHATML, write_gguf, write_qwen

MEGABYTE = 1_000_000

holes = sys.platform != "win32"
"""Whether a file may be larger than what it takes on the disk."""


@contextmanager
def little_memory() -> Iterator[None]:
    """No header, whatever it claims, costs more than a few megabytes."""
    tracemalloc.start()
    yield
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * MEGABYTE


def test_keys_shapes_and_tokens(tmp_path: Path) -> None:
    fields = {"a.text": "Ærø", "a.number": 7, "a.flag": True, "a.list": [1, 2, 3]}
    path = write_gguf(tmp_path / "x.gguf", "llama", fields, {"mm.2.weight": (16, 32)}, ["a", "<img>", "b"])
    header = read_header(path, {"<img>", "[IMG]"})
    assert (header.text("a.text"), header.number("a.number"), header.fields["a.flag"]) == ("Ærø", 7, True)
    assert header.lengths["a.list"] == 3
    assert header.tensors == {"mm.2.weight": (16, 32)}
    assert header.tokens == {"<img>"}
    assert (header.text("a.number"), header.number("a.text"), header.number("a.flag")) == ("", None, None)


def test_the_shapes_are_those_the_gguf_package_reads(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x.gguf", "clip", {}, {"mm.2.weight": (64, 96), "mm.2.bias": (96,)})
    theirs = {tensor.name: tuple(tensor.shape.tolist()) for tensor in gguf.GGUFReader(path).tensors}
    assert dict(read_header(path).tensors) == theirs


@pytest.mark.skipif(not holes, reason="the file would take its whole size")
def test_a_file_of_9_gigabytes_is_not_read(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "large.gguf", "llama", {"x": "y"}, {"a": (65536, 65536), "b": (512, 512)})
    assert path.stat().st_size > 8 << 30
    with little_memory():
        assert set(read_header(path).tensors) == {"a", "b"}
    os.truncate(path, path.stat().st_size - 512 * 512 * 2)
    with pytest.raises(CorruptSourceError, match=r"cut short: [\d,]+ of [\d,]+ bytes"):
        read_header(path)


def test_a_real_vocabulary_costs_next_to_nothing(tmp_path: Path) -> None:
    tokens = [f"token {number}" for number in range(20_000)]
    path = write_gguf(tmp_path / "x.gguf", "llama", {"after": "the tokens"}, None, [*tokens, "[IMG_END]"])
    with little_memory():
        header = read_header(path, {"[IMG_END]"})
    assert header.lengths["tokenizer.ggml.tokens"] == 20_001
    assert header.tokens == {"[IMG_END]"}


def test_cut_anywhere_it_is_named(tmp_path: Path, whole: bytes) -> None:
    cut = tmp_path / "cut.gguf"
    for length in range(0, len(whole), 3):
        cut.write_bytes(whole[:length])
        with pytest.raises(SourceError, match=r"is empty|is not a GGUF|cut short") as caught:
            read_header(cut)
        assert str(cut) in str(caught.value)


U32, U64 = struct.Struct("<I"), struct.Struct("<Q")
HUGE = U64.pack(1 << 60)
KEY = U64.pack(1) + b"k"


def header_of(tensors: int, keys: int, rest: bytes = b"") -> bytes:
    return b"GGUF" + U32.pack(3) + U64.pack(tensors) + U64.pack(keys) + rest + bytes(4096)


HOSTILE = {
    "keys without end": header_of(0, 1 << 62),
    "tensors without end": header_of(1 << 62, 0),
    "a key's name without end": header_of(0, 1, HUGE),
    "a text without end": header_of(0, 1, KEY + U32.pack(8) + HUGE),
    "a list of bytes without end": header_of(0, 1, KEY + U32.pack(9) + U32.pack(0) + HUGE),
    "a list of texts without end": header_of(0, 1, KEY + U32.pack(9) + U32.pack(8) + HUGE),
    "a list of lists without end": header_of(0, 1, KEY + U32.pack(9) + U32.pack(9) + HUGE),
    "a type that is none": header_of(0, 1, KEY + U32.pack(77)),
    "a tensor of a million dimensions": header_of(1, 0, KEY + U32.pack(1_000_000)),
    "a tensor as large as the universe": header_of(1, 0, KEY + U32.pack(4) + HUGE * 4 + U32.pack(0) + U64.pack(0)),
    "no alignment": header_of(
        1,
        1,
        U64.pack(17)
        + b"general.alignment"
        + U32.pack(4)
        + U32.pack(0)
        + KEY
        + U32.pack(1)
        + U64.pack(4)
        + U32.pack(0)
        + U64.pack(0),
    ),
}


@pytest.mark.timeout(10)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers_are_refused_at_once(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(HOSTILE[name])
    if holes:
        os.truncate(path, 64 << 30)  # so that the file might hold a lot
    with little_memory(), pytest.raises(CorruptSourceError, match=r"damaged|cut short"):
        read_header(path)


@pytest.mark.timeout(20)
def test_texts_that_add_up_are_refused(tmp_path: Path) -> None:
    one = KEY + U32.pack(8) + U64.pack(900_000) + bytes(900_000)
    path = tmp_path / "x.gguf"
    with path.open("wb") as stream:
        stream.write(b"GGUF" + U32.pack(3) + U64.pack(0) + U64.pack(9_000))
        stream.writelines(one for _ in range(40))
    with little_memory(), pytest.raises(CorruptSourceError, match="a text claims"):
        read_header(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_qwen(tmp_path_factory.mktemp("gguf")).read_bytes()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(4, 400), st.integers(0, 255)), min_size=1, max_size=6))
def test_damaged_bytes_never_raise_anything_else(tmp_path: Path, whole: bytes, changes: list[tuple[int, int]]) -> None:
    path = tmp_path / "x.gguf"
    damaged = bytearray(whole)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    path.write_bytes(damaged)
    with suppress(SourceError):
        read_header(path)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (b"%PDF-1.7 and so on and on and on", "not a GGUF"),
        (b"GGUF" + U32.pack(1) + bytes(64), "version 1, too old"),
        (b"GGUF" + U32.pack(9) + bytes(64), "version 9, newer than"),
    ],
    ids=["empty", "a PDF", "too old", "too new"],
)
def test_what_is_no_gguf_says_so(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=why):
        read_header(path)


def test_files_for_big_endian_machines_are_named(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x.gguf", "llama", {}, endian=gguf.GGUFEndian.BIG)
    with pytest.raises(UnsupportedSourceError, match="big-endian"):
        read_header(path)


def test_a_type_newer_than_the_package_is_no_damage(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x.gguf", "llama", {"general.alignment": 64}, {"new.weight": (32, 32)})
    content = path.read_bytes()
    place = content.index(b"new.weight") + len("new.weight") + 4 + 2 * 8
    path.write_bytes(content[:place] + U32.pack(9999) + content[place + 4 :])
    assert read_header(path).tensors == {"new.weight": (32, 32)}


@pytest.mark.skipif(sys.platform == "win32", reason="pipes with names")
@pytest.mark.timeout(10)
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.gguf")
    with pytest.raises(UnsupportedSourceError, match="is not a file"):
        read_header(tmp_path / "x.gguf")


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files as Linux shows them")
def test_files_are_closed(tmp_path: Path) -> None:
    good = write_qwen(tmp_path)
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(good.read_bytes()[:100])
    before = len(list(Path("/proc/self/fd").iterdir()))
    kept = [read_header(good) for _ in range(20)]
    for _ in range(20):
        with pytest.raises(SourceError):
            read_header(bad)
    mapped = Path("/proc/self/maps").read_text(encoding="utf-8")
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert str(tmp_path) not in mapped
    assert kept[0].text("tokenizer.chat_template") == CHATML


def test_without_the_package_the_line_that_installs_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_qwen(tmp_path)
    monkeypatch.setitem(sys.modules, "gguf.constants", None)
    with pytest.raises(MissingExtraError, match=r"pip install .*\[gguf\]"):
        read_header(path)
