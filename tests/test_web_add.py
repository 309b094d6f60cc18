"""Adding files in the browser: which folders, what becomes of files that are sent, and the run that indexes them."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pymupdf
import pytest
from starlette.testclient import TestClient

from kobold_reader import Archive
from kobold_reader.archive.folder import LOCK
from kobold_reader.errors import ConfigError
from kobold_reader.web import Adding, add, make_app
from kobold_reader.web.add import put_beside, safe_name
from kobold_reader.web.runs import Runs
from tests.conftest import LETTER, SAMPLES
from tests.kobold_simulator import Fault, KoboldSimulator
from tests.test_ask import write_pdf
from tests.test_web import ACCESS, HERE, Seen

MakeSimulator = Callable[..., KoboldSimulator]


class Site:
    """The page of an archive into which files are added."""

    def __init__(self, archive: Archive, adding: Adding, api_url: str) -> None:
        app, self.close = make_app(archive, ACCESS, changes={"api_url": [api_url]}, adding=adding)
        self.archive = archive
        self.client = TestClient(app, HERE, follow_redirects=False)
        self.client.cookies.set(ACCESS.cookie, ACCESS.session, domain="127.0.0.1")
        self.runs: Runs = app.state.runs

    def post(self, path: str, **fields: str) -> Any:
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Origin": HERE}
        return self.client.post(path, content=urlencode({"token": ACCESS.change_token, **fields}), headers=headers)

    def send(self, *files: tuple[str, bytes], **fields: str) -> Any:
        sent = {"token": ACCESS.change_token} | fields
        return self.client.post(
            "/add/files", data=sent, files=[("files", file) for file in files], headers={"Origin": HERE}
        )

    def seen(self, address: str = "/add") -> str:
        return " ".join(Seen(self.client.get(address).text).text.split())


@contextmanager
def adding_to(folder: Path, adding: Adding, api_url: str = "http://127.0.0.1:9") -> Iterator[Site]:
    with Archive.open(folder, create=True, embedder="none") as archive:
        site = Site(archive, adding, api_url)
        try:
            yield site
        finally:
            site.close()


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A folder of a PDF with its own text, and of a folder with scans."""
    (tmp_path / "scans" / "letters").mkdir(parents=True)
    write_pdf(tmp_path / "scans" / "minutes.pdf", "Nystrand replaced forty slates of the boathouse roof on Tuesday.")
    (tmp_path / "scans" / "letters" / "letter.pdf").write_bytes(LETTER.read_bytes())
    (tmp_path / "scans" / "film.mov").write_bytes(b"x")
    return tmp_path / "scans"


# ── which folders ─────────────────────────────────────────────────────────────────────────────────


def test_the_picker_shows_folders_and_counts_files(scans: Path, tmp_path: Path) -> None:
    with adding_to(tmp_path / "archive", Adding(folders=(scans,))) as site:
        html = site.client.get("/add").text
        assert "1 file that can be read here, and those in 1 folder" in Seen(html).text
        [inside] = re.findall(r'href="(/add\?folder=[^"]+)" data-hit>letters<', html)
        html = site.client.get(inside).text
        assert f'name="folder" value="{scans.resolve() / "letters"}"' in html
        assert re.findall(r'<a href="[^"]+">(\w+)</a> /', html) == ["scans"], "and no way above"


def test_only_what_was_allowed_is_shown_or_indexed(scans: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (scans / "out").symlink_to(secret)
    with adding_to(tmp_path / "archive", Adding(folders=(scans,))) as site:
        for path in (secret, scans / ".." / "secret", scans / "out", Path("/"), scans / "nothing", "x\0y"):
            answer = site.client.get("/add", params={"folder": str(path)})
            assert answer.status_code == 409
            assert re.search("not among the folders|there is no folder", Seen(answer.text).text), path
            assert site.post("/add/index", folder=str(path)).status_code == 409
        assert site.runs.now is None
    with adding_to(tmp_path / "archive", Adding()) as site:
        assert "start the page with --add FOLDER" in site.seen()
        assert site.post("/add/index", folder=str(scans)).status_code == 409
        assert site.send(("a.pdf", b"%PDF")).status_code == 404


def test_whoever_sits_at_this_machine_may_type_any_folder(scans: Path) -> None:
    anywhere = Adding(is_anywhere=True)
    assert anywhere.roots == (Path.home(),)
    assert anywhere.allowed(str(scans / "letters" / "..")) == scans.resolve()
    assert Adding(folders=(scans,)).allowed(str(scans / "letters")) == scans.resolve() / "letters"
    with pytest.raises(ConfigError, match="--add"):
        Adding(folders=(scans / "letters",)).allowed(str(scans))


# ── the run ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_a_folder_is_indexed_and_what_failed_is_named(
    scans: Path, tmp_path: Path, make_simulator: MakeSimulator
) -> None:
    (scans / "broken.pdf").write_bytes(b"%PDF-1.7 nothing")
    server = make_simulator()
    with adding_to(tmp_path / "archive", Adding(folders=(scans,)), server.url) as site:
        assert site.post("/add/index", folder=str(scans)).headers["location"] == "/add"
        site.runs.join(60)
        now = site.client.get("/run").json()
        assert (now["running"], now["done"], now["total"]) == (False, 4, 4)
        assert now["counts"].startswith("4 of 4 pages · ")
        seen = site.seen()
        assert "Done, but for 1 error." in seen
        assert "3 files: 3 new; 4 pages indexed" in seen
        assert "skipped: 1 .mov" in seen
        assert f"{scans.resolve() / 'broken.pdf'}: The file cannot be opened as a PDF" in seen
        assert "minutes.pdf" in site.seen("/?q=slates")
        [address] = re.findall(r'<a href="([^"]+)">Its pages<', site.client.get("/add").text)
        assert "4 pages" in " ".join(site.seen(address).split())
        before = server.count()
        assert site.post("/add/index").headers["location"] == "/add", "all of it again"
        site.runs.join(60)
        assert "3 files: none changed" in site.seen()
        assert server.count() == before, "nothing is asked twice"
    with Archive.open(tmp_path / "archive") as archive:
        kept = archive.settings_of(scans)
        assert (kept["api_url"], kept["outage_patience_s"]) == ([server.url], 600.0), "the command line goes on with it"


@pytest.mark.slow
def test_a_run_is_watched_stopped_and_gone_on_with(scans: Path, tmp_path: Path, make_simulator: MakeSimulator) -> None:
    server = make_simulator()
    hangs = True
    server.fault_when = lambda request: Fault.HANG if hangs and request.path.endswith("/generate") else None
    with adding_to(tmp_path / "archive", Adding(folders=(scans,)), server.url) as site:
        site.post("/add/index", folder=str(scans / "letters"))
        assert server.wait_for(lambda: server.running, 60)
        site.post("/add/stop")
        site.runs.join(60)
        assert "none changed" not in site.seen(), "it came to no page"
        assert server.wait_for(lambda: not server.running)

        site.post("/add/index", folder=str(scans))
        assert server.wait_for(lambda: server.running, 60)
        html = site.client.get("/add").text
        assert "<progress" in html
        assert "data-running" in html
        assert '<noscript><meta http-equiv="refresh"' in html, "without scripts it is looked at again"
        answer = site.post("/add/index", folder=str(scans))
        assert answer.status_code == 409
        assert "One at a time" in answer.text
        assert site.client.get("/run").json()["running"]

        assert site.post("/add/stop").headers["location"] == "/add"
        site.runs.join(60)
        assert server.wait_for(lambda: not server.running), "the job is aborted"
        assert "Stopped. What was read is kept" in site.seen()
        assert "minutes.pdf" in site.seen("/?q=slates")
        hangs = False
        site.post("/add/index", folder=str(scans))
        site.runs.join(60)
        assert "Done." in site.seen()
        assert "letter.pdf" in site.seen("/?q=Lindqvist")


@pytest.mark.slow
def test_another_run_is_shown_and_refuses_this_one(scans: Path, tmp_path: Path) -> None:
    held = "import sys, filelock\nwith filelock.FileLock(sys.argv[1]):\n    print('held', flush=True); sys.stdin.read()"
    with adding_to(tmp_path / "archive", Adding(folders=(scans,))) as site:
        assert "Another program" not in site.seen()
        command = [sys.executable, "-c", held, str(tmp_path / "archive" / LOCK)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            assert "Another program is writing to this archive" in site.seen()
            site.post("/add/index", folder=str(scans))
            site.runs.join(60)
            assert "another process is writing to the archive" in site.seen()
            other.communicate("")
        assert "Another program" not in site.seen()
        assert site.archive.status().files == 0


@pytest.mark.slow
def test_without_a_server_rapidocr_is_offered_and_the_rest_can_go_on(scans: Path, tmp_path: Path) -> None:
    pytest.importorskip("rapidocr")
    with adding_to(tmp_path / "archive", Adding(folders=(scans,))) as site:
        site.post("/add/index", folder=str(scans))
        site.runs.join(60)
        html = site.client.get("/add").text
        assert "No KoboldCpp answers at http://127.0.0.1:9. Read with RapidOCR instead?" in Seen(html).text
        ways = re.findall(r'<form method="post" action="/add/index">(.*?)</form>', html, re.DOTALL)
        forms = [dict(re.findall(r'name="(\w+)" value="([^"]*)"', way)) for way in ways]
        assert [one.get("engine", one.get("anyway")) for one in forms[:3]] == ["rapidocr", "1", None]
        assert {one["folder"] for one in forms[:3]} == {str(scans.resolve())}
        assert site.archive.status().files == 0, "nothing was begun"

        site.post("/add/index", **{name: value for name, value in forms[1].items() if name != "token"})
        site.runs.join(60)
        seen = site.seen()
        assert "4 of 4 pages · 3 due" in seen
        assert "nothing answers there" in seen
        assert "minutes.pdf" in site.seen("/?q=slates"), "what needs no server was read"
        failed = site.seen("/failed")
        assert "3 pages still to be read: no server could be used." in failed
        assert "Every page was read" not in failed

        (scans / "letters" / "letter.pdf").unlink()
        site.post("/add/index", **{name: value for name, value in forms[0].items() if name != "token"})
        site.runs.join(60)
        kept = site.archive.settings_of(scans)
        assert kept["engine"] == "koboldcpp", "it stood in this once"


@pytest.mark.slow
def test_without_a_server_rapidocr_is_offered_for_a_page_that_is_read_again(tmp_path: Path) -> None:
    """In an archive that RapidOCR had read in place of a server, a locked scan could be unlocked and not be read."""
    pytest.importorskip("rapidocr")
    right, scans = "right-Pa55word", tmp_path / "scans"
    scans.mkdir()
    with pymupdf.open() as document:
        page = document.new_page()
        page.insert_image(page.rect, filename=SAMPLES / "scans" / "scan0007.jpg")
        document.save(scans / "locked.pdf", encryption=pymupdf.PDF_ENCRYPT_AES_256, owner_pw="o", user_pw=right)
    with adding_to(tmp_path / "archive", Adding(folders=(scans,))) as site:
        site.post("/add/index", folder=str(scans))
        site.runs.join(60)
        [action] = re.findall(r'action="(/file/[^"]+)"', site.client.get("/failed").text)
        site.post(action, password=right)
        site.runs.join(60)
        html = site.client.get("/failed").text
        assert "Read with RapidOCR instead?" in Seen(html).text
        assert html.count(f'action="{action}"') == 2, "the offer, and the failed file as it was"
        site.post(action, engine="rapidocr")
        site.runs.join(60)
        assert "It was read, and can be found." in site.seen("/failed")
        assert [page.metadata["page_status"] for page in site.archive.pages()] == ["ok"]
        assert site.archive.settings_of(scans)["engine"] == "koboldcpp", "it stood in this once"


# ── files that are sent ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("letter.pdf", "letter.pdf"),
        ("Brief ö 第.PDF", "Brief ö 第.PDF"),
        ("../../etc/passwd.jpg", "passwd.jpg"),
        ("C:\\Users\\me\\scan.jpg", "scan.jpg"),
        ("CON.pdf", "_CON.pdf"),
        ("nul", "_nul"),
        (".hidden.pdf", "hidden.pdf"),
        ("a:b*c?.png", "a_b_c_.png"),
        ("evil\u202egpj.pdf", "evil_gpj.pdf"),
        ("line\nbreak.pdf", "line_break.pdf"),
        ("", "file"),
        ("..", "file"),
    ],
)
def test_names_are_made_safe(name: str, kept: str) -> None:
    assert safe_name(name) == kept


def test_long_names_keep_their_ending() -> None:
    name = safe_name("ö" * 300 + ".pdf")
    assert name.endswith("ö.pdf")
    assert len(name.encode()) < 200


def test_no_file_is_replaced(tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    for number in range(3):
        part = inbox / "part"
        part.write_text(str(number))
        put_beside(part, inbox, "a.pdf")
    assert {one.name: one.read_text() for one in inbox.iterdir()} == {
        "a.pdf": "0",
        "a (2).pdf": "1",
        "a (3).pdf": "2",
    }


@pytest.mark.slow
def test_files_that_are_sent_are_saved_and_indexed(scans: Path, tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    data = (scans / "minutes.pdf").read_bytes()
    with adding_to(tmp_path / "archive", Adding(inbox=inbox)) as site:
        assert "Drop files here" in site.seen()
        answer = site.send(("../minutes.pdf", data), ("notes.docx", b"PK"), ("minutes.pdf", data + b"\n"))
        assert answer.headers["location"] == "/add"
        seen = site.seen()
        assert "Saved: minutes.pdf, minutes (2).pdf." in seen
        assert "Not taken: notes.docx." in seen
        assert "Saved" not in site.seen(), "it is said once"
        site.runs.join(60)
        assert {one.name: one.read_bytes() for one in inbox.iterdir()} == {
            "minutes.pdf": data,
            "minutes (2).pdf": data + b"\n",
        }
        assert not list(tmp_path.glob("*.pdf"))
        assert "minutes.pdf" in site.seen("/?q=slates")


def test_what_does_not_come_from_our_form_or_is_too_large_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    (inbox / ".kobold-reader-upload-0011").write_bytes(b"left by a server that was killed")
    with adding_to(tmp_path / "archive", Adding(inbox=inbox)) as site:
        assert list(inbox.iterdir()) == []
        assert site.send(("a.pdf", b"%PDF"), token="guessed").status_code == 403  # noqa: S106
        late = (
            '--b\r\nContent-Disposition: form-data; name="files"; filename="a.pdf"\r\n\r\n%PDF\r\n'
            f'--b\r\nContent-Disposition: form-data; name="token"\r\n\r\n{ACCESS.change_token}\r\n--b--\r\n'
        )
        headers = {"Origin": HERE, "Content-Type": "multipart/form-data; boundary=b"}
        assert site.client.post("/add/files", content=late, headers=headers).headers["location"] == "/add"
        assert "No file was sent." in site.seen(), "the token came too late"
        cut = late.replace("files", "token", 1).replace('; filename="a.pdf"', "").replace("%PDF", ACCESS.change_token)
        cut = cut.split("--b--")[0].replace('name="token"\r\n\r\n', 'name="files"; filename="b.pdf"\r\n\r\n')
        answer = site.client.post("/add/files", content=cut[:-4] + "x", headers=headers)
        assert answer.status_code == 400
        assert "did not arrive whole" in Seen(answer.text).text
        assert list(inbox.iterdir()) == []
        monkeypatch.setattr(add, "UPLOAD_BYTES", 10_000)
        answer = site.send(("a.pdf", b"%PDF" + bytes(20_000)))
        assert answer.status_code == 413
        assert "That is too much at once: at most 10 kB. Send fewer files." in Seen(answer.text).text
        assert site.client.post("/add/files", content=b"x", headers={"Origin": HERE}).status_code == 415
        foreign = {"Origin": "http://evil.example"}
        assert site.client.post("/add/files", files={"files": ("a.pdf", b"")}, headers=foreign).status_code == 403
        assert list(inbox.iterdir()) == []
        assert site.runs.now is None


# ── locked files ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_a_locked_pdf_is_opened_by_a_password_that_nothing_keeps(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    wrong, right = "wrong-Pa55word", "right-Pa55wörd <b>"
    scans = tmp_path / "scans"
    scans.mkdir()
    write_pdf(tmp_path / "open.pdf", "Nystrand replaced forty slates of the boathouse roof on Tuesday.")
    with pymupdf.open(tmp_path / "open.pdf") as document:
        document.save(scans / "locked.pdf", encryption=pymupdf.PDF_ENCRYPT_AES_256, owner_pw="o", user_pw=right)
    answers, said = [], []
    with adding_to(tmp_path / "archive", Adding(folders=(scans,))) as site:
        site.post("/add/index", folder=str(scans))
        site.runs.join(60)
        for password in (wrong, right):
            html = site.client.get("/failed").text
            answers.append(html)
            assert 'type="password" name="password"' in html
            assert "This PDF is locked." in html or "None of the passwords" in html
            assert "--pdf-password" not in html, "there is a field for it"
            [action] = re.findall(r'action="(/file/[^"]+)"', html)
            answers.append(site.post(action, password=password).text)
            site.runs.join(60)
            said.append(site.client.get("/run").json()["sentence"])
        assert said == ["None of the passwords given opens this PDF.", "It was read, and can be found."]
        answers.append(site.client.get("/failed").text)
        assert "/file/" not in answers[-1]
        assert "locked.pdf" in site.seen("/?q=slates")
        page = next(site.archive.pages())
        assert site.client.get(f"/image/{page.page_id}/small").status_code == 200, "its picture is shown, too"
        site.post("/add/index")
        site.runs.join(60)
        answers += [site.client.get(path).text for path in ("/add", "/run", "/about", f"/page/{page.page_id}")]
    written = [one.read_bytes() for one in tmp_path.rglob("*") if one.is_file()]
    assert len(written) > 3
    for secret in (wrong[:10], right[:10]):  # what follows could be escaped
        assert not any(secret.encode() in data or secret.encode("utf-16-le") in data for data in written)
        assert secret not in caplog.text
        assert not any(secret in answer for answer in answers)
