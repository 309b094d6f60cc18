"""The docs cannot rot: blocks run, links lead somewhere, every command, option, status and public name is there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

import kobold_reader
from kobold_reader.cli.app import make_app
from kobold_reader.pages.sources import TAKEN
from kobold_reader.reading.results import STATUSES
from tests.conftest import LETTER, ROOT, SAMPLES
from tests.kobold_simulator import KoboldSimulator

README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")
TESTS = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py"))
COMMANDS: Any = typer.main.get_command(make_app())


def test_the_readme_shows_the_library() -> None:
    assert len(BLOCKS) == 2


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS, ids=["documents", "archive"])
def test_readme_blocks_run(
    block: str, simulator: KoboldSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scans").mkdir()
    shutil.copy(LETTER, tmp_path / "scans")
    monkeypatch.chdir(tmp_path)
    # The one thing that cannot be as written is where the server listens.
    block = block.replace("http://127.0.0.1:5001", simulator.url)
    block = block.replace("KoboldLLM()", f"KoboldLLM(api_url={simulator.url!r})")
    block = block.replace('KoboldReader(on_error="skip")', f'KoboldReader(api_url={simulator.url!r}, on_error="skip")')
    exec(compile(block, "README.md", "exec"), {})  # noqa: S102
    assert simulator.count() >= 6


@pytest.mark.parametrize("name", sorted(COMMANDS.commands))
def test_every_command_and_its_options_are_documented_and_tested(name: str) -> None:
    command, row = COMMANDS.commands[name], f"| `kobold-reader {name}"
    options = [option for parameter in command.params for option in parameter.opts if option[:2] == "--"]
    lacking = [
        *([] if row in DOCS["commands"] else [f"docs/commands.md has no row {row}"]),
        *([] if command.help else ["the function has no docstring, which is the command's help"]),
        *(f"{one.name} has no help" for one in command.params if not getattr(one, "help", None)),
        *(
            f"docs/commands.md does not name {one}"
            for one in options
            if one not in DOCS["commands"] + "--output --help"
        ),
        *([] if re.search(rf'[\[( ]"{name}"[],)]', TESTS) else [f'no test runs it: kobold("{name}", …)']),
    ]
    assert not lacking, "\n".join(lacking)


def test_every_status_is_explained() -> None:
    assert all(f"| `{status}` |" in DOCS["formats"] for status in STATUSES)


def test_every_kind_of_file_is_named() -> None:
    kinds = re.split(r", | and ", TAKEN.removesuffix(" are."))
    assert len(kinds) > 10
    assert [kind for kind in kinds if kind.removeprefix("camera ") not in DOCS["formats"]] == []


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda path: path.name
)
def test_every_link_leads_somewhere(path: Path) -> None:
    for target, anchor in LINK.findall(path.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        found = (path.parent / target).resolve() if target else path
        assert found.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", found.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles}, anchor


def test_pages_that_messages_name_exist() -> None:
    for path in (ROOT / "kobold_reader").rglob("*.py"):
        for name in re.findall(r"\bdocs/(\w+)\.md", path.read_text(encoding="utf-8")):
            assert name in DOCS, f"{path.name} names docs/{name}.md"


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    config = ROOT / "docs" / "site" / "mkdocs.yml"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-f", str(config), "-d", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    home = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "No page is ever lost" in home
    assert not re.search(r'(?:src|href)="https?://(?!github\.com|squidfunk|www\.mkdocs)', home), (
        "nothing comes from elsewhere"
    )


@pytest.mark.parametrize("name", kobold_reader.__all__)
def test_public_names_are_there_and_documented(name: str) -> None:
    found = getattr(kobold_reader, name)
    assert found.__doc__
    assert name in dir(kobold_reader)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Reader'"):
        _ = kobold_reader.Reader  # type: ignore[attr-defined]


def test_importing_the_package_is_cheap() -> None:
    heavy = ("pymupdf", "PIL", "requests", "llama_index", "chromadb")
    code = f"import sys, kobold_reader; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_samples_are_small_and_have_their_truth() -> None:
    files = [path for path in SAMPLES.parent.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 5_000_000
    for path in SAMPLES.rglob("*"):
        if path.is_file():
            assert (SAMPLES.parent / "ground_truth" / f"{path.relative_to(SAMPLES)}.txt").is_file(), path


def test_the_top_level_holds_only_what_belongs_there() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    top = {line.split("/")[0] for line in listed.stdout.splitlines()}
    assert top <= {
        *("pyproject.toml", "README.md", "kobold_reader", "notebooks", "tests", "examples"),
        *("docs", "LICENSE", "CHANGELOG.md", "Makefile", ".ci", ".gitignore", ".pre-commit-config.yaml"),
    }
