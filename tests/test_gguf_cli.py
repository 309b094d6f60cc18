"""`kobold-reader models` as people use it."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kobold_reader.cli import app as cli
from kobold_reader.kobold import FAMILIES, RECOMMENDED
from tests.gguf_files import write_gguf, write_model, write_projector, write_qwen, write_qwen_projector


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


Models = Callable[..., Outcome]


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Models:
    """Run `kobold-reader models` in this process."""

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["kobold-reader", "models", *map(str, arguments)])
        capsys.readouterr()
        code = cli.run()
        outcome = Outcome(code, *capsys.readouterr())
        assert "Traceback" not in outcome.out + outcome.err
        assert "\x1b" not in outcome.out, "plain where no terminal is"
        return outcome

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as they grow: two pairs, a doubtful one, an embedder, things that do not belong, broken ones."""
    root = tmp_path / "models"
    write_qwen(root / "qwen")
    write_qwen_projector(root / "qwen")
    write_model(root / "llava-v1.5-7b-Q4_K.gguf", "llama", 4096, llama__context_length=4096)
    write_model(root / "Meta-Llama-3-8B-Instruct.gguf", "llama", 4096)
    write_projector(
        root / "mmproj-model-f16.gguf", "", {"mm.2.weight": (8, 4096)}, general__file_type=1, general__name="clip-vit"
    )
    write_projector(root / "mmproj-ultravox.gguf", "ultravox", {"mm.a.mlp.2.weight": (8, 8)})
    write_projector(root / "lone" / "mmproj-gemma.gguf", "gemma3", {"mm.input_projection.weight": (3840, 8)})
    write_gguf(root / "nomic.gguf", "nomic-bert", {"nomic-bert.embedding_length": 768})
    write_gguf(root / "flux.gguf", "flux")
    (root / "notes.gguf").write_text("not a model", encoding="utf-8")
    half = write_qwen(root, "half")
    half.write_bytes(half.read_bytes()[:-1])
    return root


def test_a_folder_is_explained(models: Models, folder: Path) -> None:
    said = models(folder)
    qwen = Path("qwen", "Qwen2.5-VL-7B-Instruct-Q4_K_M.gguf")
    assert f"fits: {qwen} + {Path('qwen', 'mmproj-Qwen2.5-VL-7B-f16.gguf')}\n" in said.out
    assert "fits: llava-v1.5-7b-Q4_K.gguf + mmproj-model-f16.gguf\n" in said.out
    assert "template   none in the file: Vicuna is forced" in said.out
    assert "family     qwen2.5-vl" in said.out
    assert "doubtful: Meta-Llama-3-8B-Instruct.gguf + mmproj-model-f16.gguf\n" in said.out
    told = {
        "mmproj-model-f16.gguf: ": "mmproj-llava-v1.5-7b-f16.gguf would",
        "mmproj-gemma": "a language model 3840 wide (gemma3)",
        "mmproj-ultravox.gguf: ": "only hears (ultravox)",
        "nomic.gguf: ": "(nomic-bert, 768 dimensions): --embeddingsmodel",
        "flux.gguf: ": "neither",
    }
    missing = [file for file, fact in told.items() if not re.search(re.escape(file) + ".*" + re.escape(fact), said.out)]
    assert not missing
    half, notes = said.err.splitlines()
    assert half.startswith(f"kobold-reader: {folder / 'half.gguf'}: ")
    assert "575 of 576 bytes" in half
    assert notes.startswith(f"kobold-reader: {folder / 'notes.gguf'}: ")
    assert said.code == 5, "something was read, and some files failed"


def test_the_line_can_be_pasted(models: Models, folder: Path) -> None:
    pasted = [shlex.split(line) for line in models(folder / "qwen").out.splitlines() if "koboldcpp --" in line]
    assert pasted == [models(folder / "qwen", "--json").json()["pairs"][0]["command"]]
    assert pasted[0][1:3] == ["--model", str(folder / "qwen" / "Qwen2.5-VL-7B-Instruct-Q4_K_M.gguf")]


def test_json_names_everything(models: Models, folder: Path) -> None:
    found = models(folder, "--json").json()
    assert list(found) == ["models", "projectors", "pairs", "embedding_models", "others", "problems"]
    assert {model["family"] for model in found["models"]} == {"qwen2.5-vl", "llava-1.5", "unknown"}
    assert Counter(pair["verdict"] for pair in found["pairs"]) == {"fits": 2, "doubtful": 1, "does not load": 6}
    assert all(bool(pair["command"]) == (pair["verdict"] != "does not load") for pair in found["pairs"])
    assert all(bool(pair["why"]) == (pair["verdict"] != "fits") for pair in found["pairs"])
    assert [one["kind"] for one in found["projectors"]] == ["gemma3", "mlp", "", "qwen2.5vl_merger"]
    assert [(Path(one["file"]).name, one["why"].split(":")[0]) for one in found["problems"]] == [
        ("half.gguf", "is cut short"),
        ("notes.gguf", "is not a GGUF file."),
    ]


def test_two_that_do_not_load_together_say_their_widths(models: Models, tmp_path: Path) -> None:
    said = models(write_qwen(tmp_path, width=2048), write_qwen_projector(tmp_path))
    assert "does not load: Qwen2.5-VL-7B-Instruct-Q4_K_M.gguf + mmproj-Qwen2.5-VL-7B-f16.gguf" in said.out
    assert "the model is 2048 wide, the projector is for 3584" in said.out
    assert "no projector here fits it; it needs one for 2048" in said.out
    assert "koboldcpp --model" not in said.out
    assert said.code == 0


def test_an_unknown_family_is_told_what_to_do(models: Models, tmp_path: Path) -> None:
    said = models(write_qwen(tmp_path, "finetune"), write_qwen_projector(tmp_path))
    assert re.search(r"family +unknown: .*--family", said.out)


@pytest.mark.parametrize("name", ["gone.gguf", "empty", "notes.gguf"])
def test_a_path_from_which_nothing_can_be_taken_is_exit_3(models: Models, tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.gguf").write_text("x", encoding="utf-8")
    said = models(write_qwen(tmp_path), tmp_path / name)
    assert said.code == 3
    assert str(tmp_path / name) in said.err
    assert "Qwen2.5-VL" in said.out, "the others are shown"


def test_without_the_extra_it_is_exit_6(models: Models, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf.constants", None)
    said = models(folder)
    assert (said.code, said.out) == (6, "")
    assert '[gguf]"' in said.err
    assert models().code == 0, "the families need no extra"


def test_a_configuration_of_the_one_pair_that_fits(models: Models, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "ocr.kcpps"
    said = models(folder / "qwen", "--kcpps", path)
    assert said.code == 0
    assert f"koboldcpp --config {path}" in said.err
    assert json.loads(path.read_text(encoding="utf-8"))["mmproj"].endswith("mmproj-Qwen2.5-VL-7B-f16.gguf")
    again = models(folder / "qwen", "--kcpps", path)
    assert (again.code, again.out) == (2, "")
    assert "is not overwritten" in again.err


def test_a_configuration_needs_one_pair(models: Models, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "ocr.kcpps"
    several = models(folder, "--kcpps", path)
    assert several.code == 2
    assert "2 pairs fit. Name the two files" in several.err
    assert models(folder / "lone", "--kcpps", path).code == 2
    assert models("--kcpps", path).code == 2
    assert not path.exists()
    doubtful = models(folder / "Meta-Llama-3-8B-Instruct.gguf", folder / "mmproj-model-f16.gguf", "--kcpps", path)
    assert doubtful.code == 0
    assert "doubtful: equally wide, but nothing" in doubtful.err
    assert path.exists()


def test_names_cannot_steer_the_output(models: Models, tmp_path: Path) -> None:
    write_qwen(tmp_path, "[red]bold[/red] [link=x]")
    said = models(tmp_path)
    assert "[red]bold[/red] [link=x].gguf" in said.out


@pytest.mark.timeout(60)
@pytest.mark.parametrize("count", [15, pytest.param(100, marks=pytest.mark.thorough)])
def test_many_files(models: Models, tmp_path: Path, count: int) -> None:
    for number in range(count):
        write_qwen(tmp_path, f"Qwen2.5-VL-{number:03d}", 1000 + number)
        write_qwen_projector(tmp_path, f"mmproj-Qwen2.5-VL-{number:03d}", 1000 + number)
    said = models(tmp_path)
    assert said.out.count("fits: ") == count
    assert f"The other {count * count - count} pairs do not load" in said.out
    assert len(models(tmp_path, "--json").json()["pairs"]) == count * count


def test_without_a_path_the_families_are_listed(models: Models) -> None:
    said = models()
    rows = [line.partition(" ")[0] for line in said.out.splitlines()]
    assert [name for name in rows if name in FAMILIES] == [name for name in FAMILIES if FAMILIES[name].is_known]
    assert all(f"worth trying with {memory} GB" in said.out for memory in RECOMMENDED)
    found = models("--json").json()
    assert [family["name"] for family in found["families"]] == [name for name in FAMILIES if FAMILIES[name].is_known]
    assert list(found["families"][0]) == [
        *("name", "language_model", "encoder", "max_side_px", "tasks", "min_version", "tested"),
    ]
    assert {int(memory) for memory in found["recommended"]} == set(RECOMMENDED)


def test_recommended_families_exist() -> None:
    assert {one.family for models in RECOMMENDED.values() for one in models} <= FAMILIES.keys()


def test_a_table_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from kobold_reader.cli.output import say_table

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    say_table(("family", "what"), [("llava-1.6-nous-hermes-yi", "many words " * 20), ("\x1b[2J", "x")])
    out = re.sub(r"\x1b\[\d*m", "", capsys.readouterr().out)
    assert all(len(line) <= 80 for line in out.splitlines())
    assert "llava-1.6-nous-hermes-yi  many" in out
    assert "\x1b" not in out
