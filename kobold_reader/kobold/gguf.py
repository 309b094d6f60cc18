"""GGUF files on a disk: language models, projectors, embedding models, told by their headers."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from kobold_reader.errors import CorruptSourceError, SourceError, SourceNotFoundError, UnsupportedSourceError
from kobold_reader.kobold.gguf_header import Header, read_header
from kobold_reader.kobold.projectors import AUDIO_KINDS, IMAGE_TOKENS, width_of

__all__ = ["EmbeddingModel", "GgufFile", "GgufModel", "GgufProjector", "Survey", "read_gguf", "survey"]

_EMBEDDING_ARCHITECTURES: Final = frozenset(
    {
        *("bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "modern-bert", "neo-bert"),
        *("eurobert", "gemma-embedding", "llama-embed", "t5encoder"),
    }
)
_RANK_POOLING: Final = 4
_SHOWN_PARTS: Final = 5
_PART: Final = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class GgufFile:
    """What all kinds of files have; by itself: a file that is none of the kinds below.

    Attributes:
        path: Of a split model, its first part: the one that KoboldCpp is given.
        architecture: `general.architecture`.
        name: `general.name`.
        basename: `general.basename`.
        size_label: `general.size_label`, like `7B`.
        size_bytes: All parts together.
        parts: Of how many files it consists.
    """

    path: Path
    architecture: str
    name: str
    basename: str
    size_label: str
    size_bytes: int
    parts: int

    @property
    def stem(self) -> str:
        """What a server reports, behind `koboldcpp/`."""
        return self.path.stem


@dataclass(frozen=True, slots=True)
class GgufModel(GgufFile):
    """A language model.

    Attributes:
        input_width: What a projector must deliver: its embedding length, once more for each deepstack layer.
        context_tokens: What it was trained for.
        chat_template: "" where the file has none.
        image_tokens: Those of the tokens that projectors are put between which its vocabulary holds.
        has_vocabulary: Whether the file lists its tokens at all.
    """

    input_width: int
    context_tokens: int | None
    chat_template: str
    image_tokens: frozenset[str]
    has_vocabulary: bool


@dataclass(frozen=True, slots=True)
class GgufProjector(GgufFile):
    """A projector (mmproj).

    Attributes:
        kind: Its type; "" for one that only hears.
        width: How wide the language model's input must be; None where the tensors do not tell.
        image_size_px: As the file says; what really reaches the encoder is up to the kind.
        patch_px: Side of a patch.
        has_tiles: Whether large images are cut (LLaVA 1.6).
        audio_kind: Its type for sound; "" where it is deaf.
        minicpmv_version: Which MiniCPM-V it is for.
        file_type: `general.file_type`.
    """

    kind: str
    width: int | None
    image_size_px: int | None
    patch_px: int | None
    has_tiles: bool
    audio_kind: str
    minicpmv_version: int | None
    file_type: int | None


@dataclass(frozen=True, slots=True)
class EmbeddingModel(GgufFile):
    """A model that turns text into vectors, for `--embeddingsmodel`."""

    dimensions: int | None
    context_tokens: int | None


@dataclass(frozen=True, slots=True)
class Survey:
    """What was found.

    Attributes:
        files: Each file or split set that could be told, in the order of their paths.
        errors: One for each file that could not, and each PATH without any.
        empty: The PATHs, as given, from which nothing could be taken.
    """

    files: Sequence[GgufFile]
    errors: Sequence[SourceError]
    empty: Sequence[Path]


def survey(paths: Iterable[Path]) -> Survey:
    """Look at files, and at all GGUF files in folders and below; never raises for a file.

    Raises:
        MissingExtraError: The gguf package is not installed.
    """
    files: dict[str, GgufFile] = {}
    errors: dict[str, SourceError] = {}
    empty = []
    for path in paths:
        taken = 0
        found, unreadable = _files_of(path)
        errors.update({str(error.source): error for error in unreadable})
        for one in _split_sets(found):
            first = str(one.path)
            if first not in files and first not in errors:
                try:
                    files[first] = _read_set(one)
                except SourceError as err:
                    errors[first] = err
            taken += first in files
        if not taken:
            empty.append(path)
    return Survey([files[name] for name in sorted(files)], [errors[name] for name in sorted(errors)], empty)


@dataclass(frozen=True, slots=True)
class _Set:
    """A file, or the files named as parts of one."""

    path: Path
    parts: Sequence[Path]
    missing: Sequence[int] = ()


def _files_of(path: Path) -> tuple[Sequence[Path], Sequence[SourceError]]:
    """The files of a PATH, and what of it cannot be read."""
    absolute = Path(os.path.abspath(path))  # noqa: PTH100  (symbolic links stay: a cache's real names are hashes)
    try:
        is_folder, is_there = absolute.is_dir(), absolute.exists()
    except OSError as err:
        return [], [_unreadable(absolute, err)]
    if is_folder:
        errors: list[SourceError] = []
        found = sorted(_walk(absolute, errors))
        if not found and not errors:
            errors.append(UnsupportedSourceError("holds no .gguf file.", source=str(absolute)))
        return found, errors
    if not is_there:
        return [], [SourceNotFoundError("there is no such file or folder.", source=str(absolute))]
    return [absolute], []


def _unreadable(path: Path, error: OSError) -> SourceError:
    return SourceError(f"cannot be read ({error.strerror or error}).", source=str(path))


def _walk(folder: Path, errors: list[SourceError]) -> Iterator[Path]:
    def note(error: OSError) -> None:
        errors.append(_unreadable(Path(error.filename or folder), error))

    seen = set()
    for parent, folders, names in os.walk(folder, onerror=note, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(parent, name) for name in names if name.lower().endswith(".gguf"))


def _split_sets(paths: Iterable[Path]) -> Iterator[_Set]:
    done = set()
    for path in paths:
        part = _PART.fullmatch(path.name)
        if part is None:
            yield _Set(path, [path])
            continue
        key = (path.parent, part["stem"], part["count"])
        if key in done:
            continue
        done.add(key)
        there = _parts_of(path.parent, part["stem"], part["count"])
        missing = sorted(set(range(1, int(part["count"]) + 1)) - set(there))
        yield _Set(there.get(1, path), [there[number] for number in sorted(there)], missing)


def _parts_of(folder: Path, stem: str, count: str) -> dict[int, Path]:
    """The parts that are there, by number."""
    names = (_PART.fullmatch(name) for name in os.listdir(folder))  # noqa: PTH208  (names only)
    return {
        int(found["number"]): folder / found.string
        for found in names
        if found and (found["stem"], found["count"]) == (stem, count)
    }


def _read_set(one: _Set) -> GgufFile:
    if one.missing:
        named = ", ".join(str(number) for number in one.missing[:_SHOWN_PARTS])
        more = f" and {len(one.missing) - _SHOWN_PARTS} more" if len(one.missing) > _SHOWN_PARTS else ""
        total = len(one.parts) + len(one.missing)
        text = (
            f"part {named}{more} of {total} is missing."
            if len(one.missing) == 1
            else (f"parts {named}{more} of {total} are missing.")
        )
        raise CorruptSourceError(text, source=str(one.path), hint="Put all parts into one folder.")
    first = read_gguf(one.parts[0], parts=len(one.parts))
    rest = [read_header(path) for path in one.parts[1:]]  # none of them may be cut short
    return replace(first, size_bytes=first.size_bytes + sum(header.size_bytes for header in rest))


def read_gguf(path: Path, parts: int = 1) -> GgufFile:
    """Tell what one GGUF file is, by its header.

    Args:
        path: The file; of a split model, its first part.
        parts: Of how many files it consists.

    Raises:
        SourceError: It cannot be read, is no GGUF, or is damaged; or it is a part without the others.
        MissingExtraError: The gguf package is not installed.
    """
    header = read_header(path, IMAGE_TOKENS)
    architecture = header.text("general.architecture")
    of = header.number("split.count") or 1
    if of > 1 and of != parts:
        raise CorruptSourceError(
            f"is one part of {of}, but its name does not say so.",
            source=str(path),
            hint=f"KoboldCpp finds the others by names like NAME-00001-of-{of:05d}.gguf.",
        )
    if not architecture:
        raise UnsupportedSourceError("does not say what model it is (no general.architecture).", source=str(path))
    common = (
        path,
        architecture,
        header.text("general.name"),
        header.text("general.basename"),
        header.text("general.size_label"),
        header.size_bytes,
        parts,
    )
    width = header.number(f"{architecture}.embedding_length")
    pooling = header.number(f"{architecture}.pooling_type") or 0
    kind = header.text("general.type") or "model"
    if architecture == "clip":
        return _projector(common, header)
    if kind not in {"model", "mmproj"} or not header.tensors or pooling == _RANK_POOLING:
        return GgufFile(*common)
    if architecture in _EMBEDDING_ARCHITECTURES or pooling:
        return EmbeddingModel(*common, width, header.number(f"{architecture}.context_length"))
    if width is None:  # image and speech models have no such key
        return GgufFile(*common)
    return GgufModel(
        *common,
        input_width=width * (1 + (header.number(f"{architecture}.n_deepstack_layers") or 0)),
        context_tokens=header.number(f"{architecture}.context_length"),
        chat_template=header.text("tokenizer.chat_template"),
        image_tokens=header.tokens,
        has_vocabulary="tokenizer.ggml.tokens" in header.lengths,
    )


def _projector(common: tuple[Path, str, str, str, str, int, int], header: Header) -> GgufProjector:
    named = header.text("clip.projector_type")
    kind = named or header.text("clip.vision.projector_type")
    audio_kind = named if named in AUDIO_KINDS else header.text("clip.audio.projector_type")
    if named in AUDIO_KINDS or (audio_kind and not kind):
        kind = ""
    elif not kind:
        kind = "mlp"
    if kind == "qwen2vl_merger" and header.is_set("clip.use_glu_mlp") and header.is_set("clip.use_rms_norm"):
        kind = "qwen2.5vl_merger"  # written before it had a name of its own
    return GgufProjector(
        *common,
        kind=kind,
        width=width_of(kind, header.tensors),
        image_size_px=header.number("clip.vision.image_size"),
        patch_px=header.number("clip.vision.patch_size"),
        has_tiles="clip.vision.image_grid_pinpoints" in header.lengths,
        audio_kind=audio_kind,
        minicpmv_version=header.number("clip.minicpmv_version"),
        file_type=header.number("general.file_type"),
    )
