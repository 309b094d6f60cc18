"""Files of an export, their names, and what an import takes from them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kobold_reader import Archive
from kobold_reader.archive.export import relative_names, safe_paths
from kobold_reader.archive.rows import PageRow, version_of
from kobold_reader.documents import page_id
from kobold_reader.errors import ConfigError, SourceNotFoundError, StoreError, UnsupportedSourceError
from tests.archive_rows import catalog_of, put

SCANS = Path.home().anchor + "scans"
LETTER, CARD = f"{Path(SCANS).as_uri()}/letters/1954.pdf", f"{Path(SCANS).as_uri()}/card.jpg"


def put_page(archive: Archive, uri: str, number: int, parts: dict[str, str], content: str = "", **fields: Any) -> str:
    sha256 = hashlib.sha256(uri.encode()).hexdigest()
    row = PageRow(
        page_id=page_id(sha256, number),
        sha256=sha256,
        page_number=number,
        status="ok" if parts else "blank",
        parts=parts,
        version=version_of(parts),
        metadata={"file_path": uri, "page_number": number, "page_status": "ok", "text_source": "ocr"},
        uri=uri,
        content_sha256=content or f"{sha256}{number}",
    )
    put(archive, replace(row, **fields))
    return row.page_id


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    """Three pages of a letter, one of them blank, and a card with its description."""
    with Archive.open(tmp_path / "archive", create=True, embedder="none") as archive:
        with catalog_of(archive) as catalog:
            catalog.remember_root(SCANS, {})
        put_page(archive, LETTER, 1, {"ocr": "Dear Axel,\nthe harbor duse are paid."})
        put_page(archive, LETTER, 2, {"ocr": "Yours, Lindqvist"})
        put_page(archive, LETTER, 3, {})
        put_page(archive, CARD, 1, {"ocr": "Greetings", "caption": "A lighthouse."})
        yield archive


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_bytes().decode()
    assert text.count(old) == 1
    path.write_bytes(text.replace(old, new).encode())


def texts(archive: Archive) -> dict[str, str]:
    return {row.page_id: row.parts.get("ocr", "") for row in archive.pages()}


MD = "letters/1954.pdf.md"


# ── export ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("to", ["md", "txt", "jsonl"])
def test_folders_as_they_lie(archive: Archive, tmp_path: Path, to: Any) -> None:
    out = tmp_path / "out"
    report = archive.export(out, to=to)
    assert files(out) == {f"letters/1954.pdf.{to}", f"card.jpg.{to}"}
    assert (len(report.written), report.pages, report.unchanged_files, report.errors) == (2, 4, 0, [])
    again = archive.export(out, to=to)
    assert (again.written, again.unchanged_files) == ([], 2)
    assert b"\r" not in (out / f"card.jpg.{to}").read_bytes()


def test_what_stands_in_the_file(archive: Archive, tmp_path: Path) -> None:
    archive.export(tmp_path / "out")
    lines = (tmp_path / "out" / MD).read_text(encoding="utf-8").split("\n")
    sha256 = hashlib.sha256(LETTER.encode()).hexdigest()
    assert lines[0].startswith(f"<!-- kobold-reader page 1 sha256={sha256} text=")
    assert 'status=ok file="letters/1954.pdf" check=' in lines[0]
    assert lines[1:4] == ["", "Dear Axel,", "the harbor duse are paid."]
    assert lines[-2:] == ["<!-- kobold-reader end -->", ""]
    card = (tmp_path / "out" / "card.jpg.md").read_text(encoding="utf-8")
    assert card.index("Greetings") < card.index("kobold-reader page 1 caption") < card.index("A lighthouse.")


def test_one_file_for_each_folder(archive: Archive, tmp_path: Path) -> None:
    report = archive.export(tmp_path / "out", group_by="folder")
    assert files(tmp_path / "out") == {"letters.md", "scans.md"}
    assert report.pages == 4
    edit(tmp_path / "out" / "letters.md", "duse", "dues")
    assert len(archive.import_corrections(tmp_path / "out").corrected) == 1


def test_nothing_of_the_users_is_written_over(archive: Archive, tmp_path: Path) -> None:
    out = tmp_path / "out"
    archive.export(out)
    edit(out / MD, "duse", "dues")
    (out / "card.jpg.md").write_text("My own notes.", encoding="utf-8")
    edited = (out / MD).read_bytes()
    report = archive.export(out)
    assert report.written == []
    said = sorted(str(error) for error in report.errors)
    assert "card.jpg.md: it was not written by kobold-reader" in said[0]
    assert "1954.pdf.md: page 1, line 1, " in said[1]
    assert "not imported" in said[1]
    assert (out / MD).read_bytes() == edited
    assert (out / "card.jpg.md").read_text(encoding="utf-8") == "My own notes."

    archive.import_corrections(out)
    assert archive.export(out).written == [out / MD], "what was edited is in the archive: nothing is lost"
    assert b"dues" in (out / MD).read_bytes()

    edit(out / MD, "page 2 ", "page 7 ")
    [_, error] = archive.export(out).errors
    assert "was changed and is damaged" in str(error)
    assert not [name for name in files(out) if name.endswith(".part")]


def test_a_folder_that_cannot_be_written(archive: Archive, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(ConfigError, match="is a file"):
        archive.export(tmp_path / "file")
    with pytest.raises(StoreError, match="cannot be written"):
        archive.export(tmp_path / "file" / "out")
    with pytest.raises(ConfigError, match="to: 'docx' is not one of md, txt, jsonl, pdf"):
        archive.export(tmp_path / "out", to="docx")  # type: ignore[arg-type]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letters").write_text("in the way", encoding="utf-8")
    report = archive.export(tmp_path / "out")
    assert len(report.written) == 1
    assert "1954.pdf.md: it cannot be written" in str(report.errors[0])


# ── names ─────────────────────────────────────────────────────────────────────────────────────────


def test_names_below_the_folders_that_were_indexed() -> None:
    roots = ["file:///a/scans", "file:///a/scans/letters", "file:///b/scans", "file:///c/*.pdf", "s3://bucket/x"]
    names = relative_names(
        [
            "file:///a/scans/letters/1.pdf",
            "file:///b/scans/letters/1.pdf",
            "file:///c/some/2.pdf",
            "s3://bucket/x/%C3%85sa%20L.jpg",
        ],
        roots,
    )
    assert list(map(str, names.values())) == ["letters/1.pdf", "letters/1.pdf", "some/2.pdf", "Åsa L.jpg"]
    paths = safe_paths(names, ".md")
    assert str(paths["file:///a/scans/letters/1.pdf"]) == "letters/1.pdf.md"
    assert str(paths["file:///b/scans/letters/1.pdf"]).startswith("letters/1.pdf~")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("con.pdf", "_con.pdf.md"),
        ("Aux/lpt1", "_Aux/_lpt1.md"),
        ("letters./a ", "letters_/a_.md"),
        ('what? "1954": <a|b>*.pdf', "what_ _1954__ _a_b__.pdf.md"),
        ("con²", "con².md"),
        ("../x", "._/x.md"),
        ("new\nline", "new_line.md"),
    ],
)
def test_names_that_windows_takes(name: str, expected: str) -> None:
    assert str(safe_paths({"k": PurePosixPath(name)}, ".md")["k"]) == expected


name_texts = st.one_of(st.text(min_size=1, max_size=9), st.text(min_size=1, max_size=3).map(lambda text: text * 99))


@settings(max_examples=60)
@given(st.lists(name_texts, min_size=1, max_size=4, unique=True))
def test_no_two_names_are_one_file_and_none_is_too_long(names: list[str]) -> None:
    by_key = {name: PurePosixPath(name.upper() if number % 2 else name) for number, name in enumerate(names)}
    paths = list(safe_paths(by_key, ".jsonl").values())
    assert len({str(path).casefold() for path in paths}) == len(paths)
    for path in paths:
        assert not path.is_absolute()
        assert ".." not in path.parts
        assert all(len(part.encode()) <= 200 and part[-1] not in ". " for part in path.parts)


# ── import ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("to", ["md", "txt", "jsonl"])
def test_only_what_was_edited_becomes_a_correction(archive: Archive, tmp_path: Path, to: Any) -> None:
    out = tmp_path / "out"
    archive.export(out, to=to)
    (out / "notes.txt").write_text("My own notes.", encoding="utf-8")
    report = archive.import_corrections(out)
    assert (report.files, report.other_files, report.pages, report.corrected) == (2, 1, 4, [])
    assert archive.status().corrections == 0

    edit(out / f"letters/1954.pdf.{to}", "duse", "dues")
    before = texts(archive)
    report = archive.import_corrections(out)
    [changed] = report.corrected
    assert texts(archive) == before | {changed: "Dear Axel,\nthe harbor dues are paid."}
    assert archive.search("dues", limit=1)[0].page_id == changed
    assert archive.import_corrections(out).corrected == [], "once more changes nothing"


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters="\n"), max_size=40))
def test_any_text_comes_back_as_that_pages(archive: Archive, tmp_path: Path, text: str) -> None:
    before = texts(archive)
    [second] = [key for key in before if before[key] and key.endswith("-2")]
    archive.correct(second, text)
    first = next(key for key in before if key == second[:-1] + "1")
    out = tmp_path / hashlib.sha256(text.encode()).hexdigest()
    archive.export(out)
    assert archive.import_corrections(out).corrected == []
    edit(out / MD, "duse", "dues")
    assert archive.import_corrections(out).corrected == [first]
    assert texts(archive) == before | {second: text.strip(), first: "Dear Axel,\nthe harbor dues are paid."}
    archive.uncorrect(first)
    archive.uncorrect(second)
    assert texts(archive) == before


def test_a_text_put_back_takes_the_correction_back(archive: Archive, tmp_path: Path) -> None:
    out = tmp_path / "out"
    before = texts(archive)
    archive.export(out)
    edit(out / MD, "duse", "dues")
    archive.import_corrections(out)
    edit(out / MD, "dues", "duse")
    report = archive.import_corrections(out)
    assert (len(report.taken_back), report.corrected) == (1, [])
    assert texts(archive) == before
    assert archive.status().corrections == 0


def test_an_older_export_takes_no_later_correction_back(archive: Archive, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    archive.export(old)
    archive.export(new)
    edit(new / MD, "duse", "dues")
    [page] = archive.import_corrections(new).corrected
    corrected = texts(archive)
    report = archive.import_corrections(old)
    assert (report.taken_back, report.corrected, report.errors) == ([], [], [])
    assert texts(archive) == corrected

    edit(old / MD, "duse", "debts")
    [error] = archive.import_corrections(old).errors
    assert "1954.pdf.md: page 1, line 1: " in str(error)
    assert "later correction" in str(error)
    assert texts(archive) == corrected
    archive.correct(page, "Made on the screen.")
    edit(new / MD, "dues", "fees")
    assert "later correction" in str(archive.import_corrections(new).errors[0])
    assert texts(archive)[page] == "Made on the screen."


def test_a_new_reading_is_no_edit(archive: Archive, tmp_path: Path) -> None:
    archive.export(tmp_path / "out")
    put_page(archive, LETTER, 2, {"ocr": "Yours truly, Lindqvist"})
    report = archive.import_corrections(tmp_path / "out")
    assert (report.corrected, report.errors) == ([], [])
    assert "Yours truly, Lindqvist" in texts(archive).values()


def test_an_emptied_and_a_typed_page(archive: Archive, tmp_path: Path) -> None:
    out = tmp_path / "out"
    archive.export(out)
    edit(out / MD, "Yours, Lindqvist\n", "")
    edit(out / MD, "<!-- kobold-reader end -->", "In pencil: Axel\n\n<!-- kobold-reader end -->")
    report = archive.import_corrections(out)
    assert len(report.corrected) == 2
    assert archive.status().pages == {"no_text": 1, "ok": 3}
    assert archive.search("pencil", limit=1)[0].page_number == 3


def test_a_description_is_not_corrected(archive: Archive, tmp_path: Path) -> None:
    archive.export(tmp_path / "out")
    edit(tmp_path / "out" / "card.jpg.md", "A lighthouse.", "A windmill.")
    report = archive.import_corrections(tmp_path / "out")
    assert report.corrected == []
    assert "card.jpg.md: page 1, line 5: the caption " in str(report.errors[0])


def test_a_damaged_file_is_rejected_as_a_whole_and_the_others_are_taken(archive: Archive, tmp_path: Path) -> None:
    out = tmp_path / "out"
    archive.export(out)
    edit(out / MD, "duse", "dues")
    edit(out / MD, "page 3 ", "page 2 ")
    edit(out / "card.jpg.md", "Greetings", "Greetings from Skagen")
    report = archive.import_corrections(out)
    assert len(report.corrected) == 1
    assert "Greetings from Skagen" in texts(archive).values()
    assert not any("dues" in text for text in texts(archive).values())
    [error] = report.errors
    assert "1954.pdf.md: line 10: this mark was changed" in str(error)


def test_a_page_that_is_not_in_this_archive(archive: Archive, tmp_path: Path) -> None:
    out = tmp_path / "out"
    archive.export(out)
    with Archive.open(tmp_path / "other", create=True, embedder="none") as other:
        report = other.import_corrections(out)
        assert (report.files, report.errors) == (2, []), "nothing was edited: nothing is lost"
        edit(out / MD, "Yours", "Mine")
        [error] = other.import_corrections(out).errors
        assert "line 6: page 2 of letters/1954.pdf, sha256 " in str(error)
        assert "is not in this archive" in str(error)


def test_two_pages_that_show_the_same(archive: Archive, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for number in (4, 5):
        put_page(archive, LETTER, number, {"ocr": "The same stamp"}, content="c" * 64)
    archive.export(out)
    text = (out / MD).read_bytes().decode()
    for new in (["A stamp", "A stamp"], ["One stamp", "Two stamps"], ["A last stamp", "The same stamp"]):
        edited = text
        for one in new:
            edited = edited.replace("The same stamp\n", f"{one} \n", 1)
        (out / MD).write_bytes(edited.encode())
        report = archive.import_corrections(out)
        assert len(report.corrected) == 1
        assert sorted(texts(archive).values()).count(new[0]) == 2
        assert len(report.errors) == (new[1] == "Two stamps")
    (out / MD).write_bytes(text.replace("The same stamp\n", "1\n", 1).replace("The same stamp\n", "2\n").encode())
    [error] = archive.import_corrections(out).errors
    assert "the same as page 4" in str(error)
    (out / MD).write_bytes(text.replace("The same stamp\n", "Once more\n", 1).encode())
    assert len(archive.import_corrections(out).corrected) == 1
    assert archive.import_corrections(out).taken_back == [], "the block that was left alone does not speak for both"


def test_nothing_to_import(archive: Archive, tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match="no such file or folder"):
        archive.import_corrections(tmp_path / "nowhere")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.md").write_text("x", encoding="utf-8")
    with pytest.raises(UnsupportedSourceError, match="no file that kobold-reader exported"):
        archive.import_corrections(tmp_path / "out")
