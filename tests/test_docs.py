"""The docs cannot rot: README blocks run, every command, option, status and public name is there."""

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
from kobold_reader.cli.typer_app import app
from kobold_reader.reading.results import STATUSES
from tests.conftest import LETTER, ROOT, SAMPLES
from tests.kobold_simulator import KoboldSimulator

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS: Any = typer.main.get_command(app)


def test_the_readme_shows_the_library() -> None:
    assert len(BLOCKS) == 2


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
def test_every_command_is_in_the_readme_and_has_help(name: str) -> None:
    assert f"| `kobold-reader {name}" in README
    command = COMMANDS.commands[name]
    assert command.help
    assert all(getattr(parameter, "help", None) for parameter in command.params), "every option says what it does"


@pytest.mark.parametrize(
    "name", ["read", "index", "plan", "search", "ask", "web", "status", "models", "forget", "export", "import"]
)
def test_every_option_is_in_the_readme(name: str) -> None:
    options = [
        option for parameter in COMMANDS.commands[name].params for option in parameter.opts if option[:2] == "--"
    ]
    missing = {option for option in options if option not in README} - {"--output", "--help"}
    assert not missing


def test_every_status_is_explained() -> None:
    assert all(f"| `{status}` |" in README for status in STATUSES)


@pytest.mark.parametrize("name", kobold_reader.__all__)
def test_public_names_are_there_and_documented(name: str) -> None:
    found = getattr(kobold_reader, name)
    assert found.__doc__
    assert name in dir(kobold_reader)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Reader'"):
        _ = kobold_reader.Reader


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
        *("LICENSE", "CHANGELOG.md", "Makefile", ".ci", ".gitignore", ".pre-commit-config.yaml"),
    }
