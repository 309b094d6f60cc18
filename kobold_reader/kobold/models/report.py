"""Which of some GGUF files go together, and how to start KoboldCpp with them: for people, as JSON, as a .kcpps file."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kobold_reader.errors import ConfigError
from kobold_reader.kobold.families import family_of
from kobold_reader.kobold.models.gguf import (
    KINDS,
    EmbeddingModel,
    GgufFile,
    GgufModel,
    GgufProjector,
    ProjectorKind,
    survey,
)
from kobold_reader.kobold.models.pairing import (
    Pair,
    better_name,
    guess_template,
    is_made_to_see,
    min_version,
    pair_up,
    wants,
    what_it_sees,
)

CONTEXT_TOKENS = 16_384
VISIONMAXRES_PX = 2048
LINE_VERSION = "1.112"
"""First KoboldCpp that knows all these arguments."""


def settings(pair: Pair) -> dict[str, str | int | bool]:
    """Return KoboldCpp's arguments for reading pages with a pair, by the names that its configurations use."""
    kind = KINDS.get(pair.projector.kind, ProjectorKind(""))
    chosen: dict[str, str | int | bool] = {
        "model_param": str(pair.model.path),
        "mmproj": str(pair.projector.path),
        "contextsize": min(CONTEXT_TOKENS, pair.model.context_tokens or CONTEXT_TOKENS),
        "visionmaxres": VISIONMAXRES_PX,
    }
    if kind.vision_tokens:
        chosen["visionmintokens"], chosen["visionmaxtokens"] = kind.vision_tokens
    chosen["batchsize"] = kind.batch_tokens
    return {**chosen, "noshift": True, "quiet": True, **pair.template.settings}


def arguments(chosen: Mapping[str, str | int | bool]) -> list[str]:
    """Return the command line with KoboldCpp's arguments."""
    line = ["koboldcpp"]
    for name, value in chosen.items():
        line.append("--model" if name == "model_param" else f"--{name}")
        if value is not True:
            line.append(str(value))
    return line


def quoted(line: Sequence[str], *, is_windows: bool = sys.platform == "win32") -> str:
    """Return a command line to be pasted into this system's shell."""
    return subprocess.list2cmdline(line) if is_windows else shlex.join(line)


def command(pair: Pair) -> str:
    """Return the line that starts KoboldCpp with a pair."""
    return quoted(arguments(settings(pair)))


def write_kcpps(path: Path, chosen: Mapping[str, str | int | bool]) -> None:
    """Write a KoboldCpp configuration: whole, or not at all, and never over an existing file.

    Raises:
        ConfigError: The file exists, or cannot be written.
    """
    if path.exists() or path.is_symlink():
        raise ConfigError(f"{path} exists already, and is not overwritten.", hint="Name another file, or remove it.")
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_text(json.dumps(chosen, ensure_ascii=False, indent=1) + "\n", encoding="utf-8", newline="\n")
        os.replace(part, path)  # noqa: PTH105  (atomic on Windows too)
    except OSError as err:
        raise ConfigError(f"{path} cannot be written ({err.strerror or err}).", hint="Name another file.") from err
    finally:
        part.unlink(missing_ok=True)


SHOWN_NAMES = 6


class ModelReport:
    """The models and projectors in some files and folders, and their pairs.

    Args:
        paths: Files, or folders of them.

    Raises:
        MissingExtraError: The gguf package is not installed.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._roots = [os.path.abspath(path) for path in paths]  # noqa: PTH100  (as the files were found)
        found = survey(paths)
        self.errors = found.errors
        self.empty = found.empty
        self.models = [one for one in found.files if isinstance(one, GgufModel)]
        self.projectors = [one for one in found.files if isinstance(one, GgufProjector)]
        self.embedding_models = [one for one in found.files if isinstance(one, EmbeddingModel)]
        self.others = [one for one in found.files if not isinstance(one, GgufModel | GgufProjector | EmbeddingModel)]
        self.pairs = pair_up(self.models, self.projectors)

    def model_rows(self) -> list[tuple[str, str, str, str]]:
        """Return a row for each language model: name, architecture, width, family."""
        return [
            (self._name(model), model.architecture, str(model.input_width), family_of(model.stem).name)
            for model in self.models
        ]

    def lines(self) -> Iterator[str]:
        """Yield what to tell about pairs, projectors and other files."""
        for pair in self.pairs:
            if pair.verdict == "fits" or (len(self.pairs) == 1 and pair.verdict == "doubtful"):
                yield from self._about_pair(pair)
        yield from self._about_failed_pairs()
        paired = {pair.model.path for pair in self.pairs if pair.verdict != "does not load"}
        for model in self.models:
            if model.path not in paired and is_made_to_see(model):
                yield f"\n{self._name(model)}: no projector here fits it; it needs one for {model.input_width}"
        for projector in self.projectors:
            yield from self._about_projector(projector)
        for embedder in self.embedding_models:
            about = f"{embedder.architecture}, {embedder.dimensions or '?'} dimensions"
            yield f"\n{self._name(embedder)}: an embedding model ({about}): --embeddingsmodel FILE"
        for other in self.others:
            yield f"\n{self._name(other)}: neither a language model nor a projector ({other.architecture})"

    def _about_failed_pairs(self) -> Iterator[str]:
        if len(self.pairs) > 1:
            doubts: dict[tuple[str, str], list[str]] = {}
            for pair in self._with_verdict("doubtful"):
                doubts.setdefault((self._name(pair.projector), pair.why), []).append(self._name(pair.model))
            for (projector, why), models in doubts.items():
                more = f" and {len(models) - SHOWN_NAMES} more" if len(models) > SHOWN_NAMES else ""
                yield f"\ndoubtful: {', '.join(models[:SHOWN_NAMES])}{more} + {projector}\n  {why}"
        refused = self._with_verdict("does not load")
        if len(refused) > SHOWN_NAMES:
            yield f"\nThe other {len(refused)} pairs do not load: one is wider than the other (--json names them)."
        else:
            for pair in refused:
                yield f"\ndoes not load: {self._name(pair.model)} + {self._name(pair.projector)}\n  {pair.why}"

    def _with_verdict(self, verdict: str) -> list[Pair]:
        return [pair for pair in self.pairs if pair.verdict == verdict]

    def _about_pair(self, pair: Pair) -> Iterator[str]:
        family = pair.family.name
        if not pair.family.is_known:
            family += ": its file name tells none; rename it, or name one with --family"
        since = f"{min_version(pair)} or later" if min_version(pair) else "later than 1.115.1"
        yield f"\n{pair.verdict}: {self._name(pair.model)} + {self._name(pair.projector)}"
        if pair.why:
            yield f"  {pair.why}"
        yield f"  projector  {pair.projector.kind}, for models {pair.projector.width or '?'} wide"
        yield f"  image      {what_it_sees(pair.projector)}"
        yield f"  KoboldCpp  {since} (for the line below: {LINE_VERSION})"
        yield f"  template   {pair.template.text}"
        yield f"  family     {family}"
        yield f"  {command(pair)}"

    def _about_projector(self, projector: GgufProjector) -> Iterator[str]:
        name = self._name(projector)
        if not projector.kind:
            yield f"\n{name}: a projector that only hears ({projector.audio_kind}); it cannot read pages"
            return
        fits = self._fitting(projector)
        if not fits:
            yield f"\n{name}: no model here is known to fit it; it {wants(projector)}"
        if better := better_name(projector, fits):
            yield f"\n{name}: its name tells nothing; {better} would"

    def _fitting(self, projector: GgufProjector) -> list[GgufModel]:
        return [pair.model for pair in self.pairs if pair.projector is projector and pair.verdict == "fits"]

    def _name(self, file: GgufFile) -> str:
        """A file's path below the PATH it was found in."""
        for root in self._roots:
            if file.path.is_relative_to(root) and str(file.path) != root:
                return str(file.path.relative_to(root))
        return file.path.name

    def facts(self) -> dict[str, Any]:
        """Return everything for a program."""
        return {
            "models": [
                {
                    "file": str(model.path),
                    "architecture": model.architecture,
                    "width": model.input_width,
                    "context_tokens": model.context_tokens,
                    "family": family_of(model.stem).name,
                    "has_template": bool(model.chat_template),
                    "template_rule": guess_template(model.chat_template),
                    "parts": model.parts,
                    "size_bytes": model.size_bytes,
                }
                for model in self.models
            ],
            "projectors": [
                {
                    "file": str(projector.path),
                    "kind": projector.kind,
                    "audio_kind": projector.audio_kind,
                    "width": projector.width,
                    "image_size_px": projector.image_size_px,
                    "image": what_it_sees(projector) if projector.kind else "",
                    "wants": wants(projector) if projector.kind else "",
                    "fits": [str(model.path) for model in self._fitting(projector)],
                    "better_name": better_name(projector, self._fitting(projector)),
                }
                for projector in self.projectors
            ],
            "pairs": [
                {
                    "model": str(pair.model.path),
                    "projector": str(pair.projector.path),
                    "verdict": pair.verdict,
                    "why": pair.why,
                    "family": pair.family.name,
                    "min_version": min_version(pair),
                    "template": pair.template.text,
                    "command": [] if pair.verdict == "does not load" else arguments(settings(pair)),
                }
                for pair in self.pairs
            ],
            "embedding_models": [
                {
                    "file": str(model.path),
                    "architecture": model.architecture,
                    "dimensions": model.dimensions,
                    "context_tokens": model.context_tokens,
                }
                for model in self.embedding_models
            ],
            "others": [{"file": str(other.path), "architecture": other.architecture} for other in self.others],
            "problems": [
                {"file": error.source, "why": f"{error.message} {error.hint or ''}".strip()} for error in self.errors
            ],
        }
