"""GGUF files: language models, projectors and embedding models, recognised by their headers.

A header has keys with values, and the names and shapes of the tensors; their contents are not read. The reader of the
gguf package makes a numpy view of every token (18 s and 545 MB for a vocabulary of 152,000 where this takes half a
second), keeps the file mapped, and follows the counts of a broken header without end. So only its table of tensor types
is used here. The kinds of projectors that KoboldCpp loads are in `projectors.toml`.
"""

from __future__ import annotations

import math
import os
import re
import stat
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from kobold_reader.errors import (
    CorruptSourceError,
    MissingExtraError,
    SourceError,
    SourceNotFoundError,
    UnsupportedSourceError,
    reason,
)
from kobold_reader.kobold.families import read_toml


@dataclass(frozen=True, slots=True)
class ProjectorKind:
    """One kind of projector; the fields are explained in `projectors.toml`."""

    name: str
    width_from: Sequence[tuple[str, int]] = ()
    architectures: frozenset[str] = frozenset()
    min_version: str = "1.115"
    image: str = ""
    image_token: str = ""
    vision_tokens: tuple[int, int] | None = None
    batch_tokens: int = 1024
    needs_template: bool = True


@cache
def projector_kinds() -> Mapping[str, ProjectorKind]:
    """Return the kinds of projectors that KoboldCpp loads, by `clip.projector_type`."""
    kinds = {}
    for name, row in read_toml("projectors.toml")["kinds"].items():
        fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
        fields["architectures"] = frozenset(row.get("architectures", ()))
        kinds[name] = ProjectorKind(name, **fields)
    return kinds


def width_of(kind: str, tensors: Mapping[str, tuple[int, ...]]) -> int | None:
    """Return how wide a language model's input must be for a projector of that kind; None if unknown.

    The tensors tell. `clip.vision.projection_dim` does not: in LLaVA's and MobileVLM's files it is CLIP's own.
    """
    rule = projector_kinds().get(kind)
    found = rule.width_from if rule else ()
    width = next((tensors[name][axis] for name, axis in found if len(tensors.get(name, ())) > axis), None)
    if width is not None and kind == "qwen3vl_merger":  # each deepstack layer is one more input beside the first
        width *= 1 + len({match[1] for name in tensors if (match := re.match(r"v\.deepstack\.(\d+)\.", name))})
    return width


Value = str | int | float | bool

# ── headers ───────────────────────────────────────────────────────────────────────────────────────

VERSIONS = (2, 3)
STRING, ARRAY = 8, 9
SCALARS: Mapping[int, struct.Struct] = {
    kind: struct.Struct(f"<{code}")
    for kind, code in zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True)
}
U32, U64 = struct.Struct("<I"), struct.Struct("<Q")

# Real files stay far below: 60 keys, 2,000 tensors, 800,000 strings (tokens and merges), templates of 20 kB.
MAX_KEYS = 10_000
MAX_TENSORS = 200_000
MAX_STRINGS = 4_000_000
MAX_TEXT_BYTES = 1_000_000
MAX_NAME_BYTES = 65_535
MAX_KEPT_BYTES = 32_000_000
MAX_DIMENSIONS = 4
TOKENS = "tokenizer.ggml.tokens"


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a GGUF file."""

    fields: Mapping[str, Value]
    """Keys with one value."""
    lengths: Mapping[str, int]
    """Length of each list of values, by key."""
    tensors: Mapping[str, tuple[int, ...]]
    """Names and shapes, in GGUF's order: the first number is the length of a row."""
    tokens: frozenset[str]
    """The wanted tokens that are in the vocabulary."""
    size_bytes: int
    """Of the whole file."""

    def text(self, key: str) -> str:
        """Return the text under a key; "" where there is none."""
        value = self.fields.get(key)
        return value if isinstance(value, str) else ""

    def number(self, key: str) -> int | None:
        """Return the whole number under a key."""
        value = self.fields.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None


def read_header(path: Path, wanted_tokens: Collection[str] = ()) -> Header:
    """Read the header of one GGUF file; the file is closed afterwards.

    Raises:
        SourceError: It cannot be read, is no GGUF, is of a kind that KoboldCpp does not load, is cut short, or its
            header makes no sense.
        MissingExtraError: The gguf package is not installed.
    """
    try:
        from gguf.constants import GGML_QUANT_SIZES
    except ImportError as err:
        raise MissingExtraError("gguf", "Looking into GGUF files") from err
    tensor_types = {int(kind): size for kind, size in GGML_QUANT_SIZES.items()}
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise UnsupportedSourceError("is not a file.", source=str(path))
        with path.open("rb", buffering=1 << 18) as stream:
            wanted = frozenset(token.encode() for token in wanted_tokens)
            return _HeaderReader(stream, status.st_size, tensor_types, wanted).read()
    except OSError as err:
        raise _unreadable(path, err) from err
    except SourceError as err:
        raise err.at(str(path)) from None


@dataclass(slots=True)
class _HeaderReader:
    """Reads one header; checks each count against the size of the file or a limit first."""

    stream: BinaryIO
    size: int
    tensor_types: Mapping[int, tuple[int, int]]
    """Values in a block and bytes of a block, by type."""
    wanted: frozenset[bytes]
    fields: dict[str, Value] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    found: set[bytes] = field(default_factory=set)
    strings_left: int = MAX_STRINGS
    kept_bytes_left: int = MAX_KEPT_BYTES

    def read(self) -> Header:
        if self.size == 0:
            raise CorruptSourceError("is empty.")
        if self.stream.read(4) != b"GGUF":
            raise UnsupportedSourceError("is not a GGUF file.")
        version = self._number(U32)
        if version and not version & 0xFFFF:
            raise UnsupportedSourceError("is a GGUF file for big-endian machines, which KoboldCpp does not load.")
        if version not in VERSIONS:
            what = "too old" if version < VERSIONS[0] else "newer than what is known here"
            raise UnsupportedSourceError(f"is a GGUF file of version {version}, {what}.")
        tensor_count, key_count = self._number(U64), self._number(U64)
        if key_count > MAX_KEYS or tensor_count > MAX_TENSORS:
            raise _damaged(f"it claims {key_count} keys and {tensor_count} tensors")
        for _ in range(key_count):
            self._read_key()
        tensors = self._read_tensors(tensor_count)
        tokens = frozenset(token.decode() for token in self.found)
        return Header(self.fields, self.lengths, tensors, tokens, self.size)

    def _read_key(self) -> None:
        name = self._text(MAX_NAME_BYTES)
        kind = self._number(U32)
        if kind == STRING:
            self.fields[name] = self._text(MAX_TEXT_BYTES)
        elif kind == ARRAY:
            self._read_array(name)
        else:
            self.fields[name] = self._number(_layout(kind))

    def _read_array(self, name: str) -> None:
        kind, count = self._number(U32), self._number(U64)
        self.lengths[name] = count
        if kind != STRING:
            skipped = count * _layout(kind).size
            if skipped > self.size - self.stream.tell():
                raise _short()
            self.stream.seek(skipped, 1)
            return
        self.strings_left -= count
        if self.strings_left < 0:
            raise _damaged(f"{name!r} claims {count} texts")
        wanted = self.wanted if name == TOKENS else frozenset()
        read, length_of = self.stream.read, U64.unpack
        for _ in range(count):  # a vocabulary has 300,000 of these: no calls of our own in here
            head = read(8)
            length = length_of(head)[0] if len(head) == 8 else 0  # noqa: PLR2004
            if length > MAX_TEXT_BYTES:
                raise _damaged(f"a text claims {length:,} bytes")
            text = read(length)
            if len(head) + len(text) < 8 + length:
                raise _short()
            if text in wanted:
                self.found.add(text)

    def _read_tensors(self, count: int) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        data_bytes = 0
        for _ in range(count):
            name = self._text(MAX_NAME_BYTES)
            dimensions = self._number(U32)
            if dimensions > MAX_DIMENSIONS:
                raise _damaged(f"the tensor {name!r} claims {dimensions} dimensions")
            shapes[name] = tuple(self._number(U64) for _ in range(dimensions))
            kind, offset = self._number(U32), self._number(U64)
            # A type newer than the package is passed over: its size is not known.
            block, block_bytes = self.tensor_types.get(kind, (1, 0))
            data_bytes = max(data_bytes, offset + math.prod(shapes[name]) // block * block_bytes)
        if data_bytes:
            alignment = self.fields.get("general.alignment", 32)
            if isinstance(alignment, bool) or not isinstance(alignment, int) or alignment < 1:
                raise _damaged(f"its alignment is {alignment!r}")
            needed = -(-self.stream.tell() // alignment) * alignment + data_bytes
            if needed > self.size:
                raise CorruptSourceError(
                    f"is cut short: {self.size:,} of {needed:,} bytes are there.", hint="Fetch it again."
                )
        return shapes

    def _text(self, limit: int) -> str:
        length = self._number(U64)
        self.kept_bytes_left -= length
        if length > limit or self.kept_bytes_left < 0:
            raise _damaged(f"a text claims {length:,} bytes")
        return self._take(length).decode("utf-8", "replace")

    def _number(self, layout: struct.Struct) -> Any:
        return layout.unpack(self._take(layout.size))[0]

    def _take(self, count: int) -> bytes:
        found = self.stream.read(count)
        if len(found) < count:
            raise _short()
        return found


def _unreadable(path: Path, error: OSError) -> SourceError:
    return SourceError(f"cannot be read ({reason(error)}).", source=str(path))


def _layout(kind: int) -> struct.Struct:
    if kind not in SCALARS:  # also lists of lists, which GGUF allows and no program writes
        raise _damaged(f"a value is of type {kind}")
    return SCALARS[kind]


def _damaged(what: str) -> CorruptSourceError:
    return CorruptSourceError(f"has a damaged header: {what}.", hint="Fetch it again.")


def _short() -> CorruptSourceError:
    return CorruptSourceError("is cut short, or its header is damaged.", hint="Fetch it again.")


# ── what a file is ────────────────────────────────────────────────────────────────────────────────

RANK_POOLING = 4


@dataclass(frozen=True, slots=True)
class GgufFile:
    """Facts of every kind of file. A file of this very class is of none of the kinds below."""

    path: Path
    """Of a split model, its first part: the one that KoboldCpp is given."""
    architecture: str
    """`general.architecture`; the next three are `general.*` too."""
    name: str
    basename: str
    size_label: str
    size_bytes: int
    """All parts together."""
    parts: int

    @property
    def stem(self) -> str:
        """The model's name on a server, after `koboldcpp/`."""
        return self.path.stem


@dataclass(frozen=True, slots=True)
class GgufModel(GgufFile):
    """A language model."""

    input_width: int
    """The width of a projector for it: the embedding length, once more for each deepstack layer."""
    context_tokens: int | None
    chat_template: str
    image_tokens: frozenset[str]
    """Those tokens of its vocabulary that some server puts around an image."""
    has_vocabulary: bool
    """Whether the file lists its tokens at all."""


@dataclass(frozen=True, slots=True)
class GgufProjector(GgufFile):
    """A projector (mmproj)."""

    kind: str
    """Its type; "" for one that only hears."""
    width: int | None
    """How wide the language model's input must be; None where the tensors do not tell."""
    image_size_px: int | None
    """As the file says; what really reaches the encoder depends on the kind."""
    patch_px: int | None
    has_tiles: bool
    """Whether large images are cut (LLaVA 1.6)."""
    audio_kind: str
    """Its type for sound; "" for none."""
    minicpmv_version: int | None
    file_type: int | None
    """`general.file_type`."""


@dataclass(frozen=True, slots=True)
class EmbeddingModel(GgufFile):
    """A model that turns text into vectors, for `--embeddingsmodel`."""

    dimensions: int | None
    context_tokens: int | None


def read_gguf(path: Path, parts: int = 1) -> GgufFile:
    """Tell what one GGUF file is, by its header; of a model split into several `parts`, `path` is the first.

    Raises:
        SourceError: It cannot be read, is no GGUF, or is damaged; or it is a part without the others.
        MissingExtraError: The gguf package is not installed.
    """
    header = read_header(path, {kind.image_token for kind in projector_kinds().values()} - {""})
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
    common: dict[str, Any] = {
        "path": path,
        "architecture": architecture,
        **{key: header.text(f"general.{key}") for key in ("name", "basename", "size_label")},
        "size_bytes": header.size_bytes,
        "parts": parts,
    }
    width = header.number(f"{architecture}.embedding_length")
    context_tokens = header.number(f"{architecture}.context_length")
    pooling = header.number(f"{architecture}.pooling_type") or 0
    kind = header.text("general.type") or "model"
    if architecture == "clip":
        return _projector(common, header)
    if kind not in {"model", "mmproj"} or not header.tensors or pooling == RANK_POOLING:
        return GgufFile(**common)
    if architecture in read_toml("projectors.toml")["embedding_architectures"] or pooling:
        return EmbeddingModel(**common, dimensions=width, context_tokens=context_tokens)
    if width is None:  # image and speech models have no such key
        return GgufFile(**common)
    return GgufModel(
        **common,
        input_width=width * (1 + (header.number(f"{architecture}.n_deepstack_layers") or 0)),
        context_tokens=context_tokens,
        chat_template=header.text("tokenizer.chat_template"),
        image_tokens=header.tokens,
        has_vocabulary=TOKENS in header.lengths,
    )


def _projector(common: Mapping[str, Any], header: Header) -> GgufProjector:
    named = header.text("clip.projector_type")
    only_hears = named in read_toml("projectors.toml")["audio_kinds"]
    audio_kind = named if only_hears else header.text("clip.audio.projector_type")
    kind = "" if only_hears else named or header.text("clip.vision.projector_type")
    if not kind and not audio_kind:
        kind = "mlp"
    flags = [header.fields.get(f"clip.{name}") for name in ("use_glu_mlp", "use_rms_norm")]
    if kind == "qwen2vl_merger" and flags == [True, True]:
        kind = "qwen2.5vl_merger"  # written before it had a name of its own
    return GgufProjector(
        **common,
        kind=kind,
        width=width_of(kind, header.tensors),
        image_size_px=header.number("clip.vision.image_size"),
        patch_px=header.number("clip.vision.patch_size"),
        has_tiles="clip.vision.image_grid_pinpoints" in header.lengths,
        audio_kind=audio_kind,
        minicpmv_version=header.number("clip.minicpmv_version"),
        file_type=header.number("general.file_type"),
    )


# ── files in folders ──────────────────────────────────────────────────────────────────────────────

PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)
SHOWN_PARTS = 5


@dataclass(frozen=True, slots=True)
class Survey:
    """The GGUF files that were found."""

    files: Sequence[GgufFile]
    """Each readable file or split set, ordered by path."""
    errors: Sequence[SourceError]
    """One for each unreadable file, and each PATH without any file."""
    empty: Sequence[Path]
    """The PATHs, as given, without a readable file."""


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
        errors.update({str(error.source): _as_typed(error, path) for error in unreadable})
        for first, parts, missing in _split_sets(found):
            name = str(first)
            if name not in files and name not in errors:
                try:
                    files[name] = _read_set(first, parts, missing)
                except SourceError as err:
                    errors[name] = _as_typed(err, path)
            taken += name in files
        if not taken:
            empty.append(path)
    return Survey([files[name] for name in sorted(files)], [errors[name] for name in sorted(errors)], empty)


def _as_typed(error: SourceError, path: Path) -> SourceError:
    """Name the file below the PATH as it was typed."""
    source, root = Path(str(error.source)), Path(os.path.abspath(path))  # noqa: PTH100  (as in `_files_of`)
    if source.is_relative_to(root):
        error.source = str(path / source.relative_to(root))
    return error


def _files_of(path: Path) -> tuple[Sequence[Path], Sequence[SourceError]]:
    """Return the files of a PATH, and an error for each part that cannot be read."""
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


def _split_sets(paths: Iterable[Path]) -> Iterator[tuple[Path, Sequence[Path], Sequence[int]]]:
    """Yield for each file, or set of parts of one: the first part, all parts, and the numbers of missing ones."""
    done = set()
    for path in paths:
        part = PART.fullmatch(path.name)
        if part is None:
            yield path, [path], []
            continue
        key = (path.parent, part["stem"], part["count"])
        if key in done:
            continue
        done.add(key)
        names = (PART.fullmatch(name) for name in os.listdir(path.parent))  # noqa: PTH208  (names only)
        there = {
            int(found["number"]): path.parent / found.string
            for found in names
            if found and (found["stem"], found["count"]) == (part["stem"], part["count"])
        }
        missing = sorted(set(range(1, int(part["count"]) + 1)) - set(there))
        yield there.get(1, path), [there[number] for number in sorted(there)], missing


def _read_set(first: Path, parts: Sequence[Path], missing: Sequence[int]) -> GgufFile:
    if missing:
        named = ", ".join(map(str, missing[:SHOWN_PARTS]))
        more = f" and {len(missing) - SHOWN_PARTS} more" if len(missing) > SHOWN_PARTS else ""
        of = f"{named}{more} of {len(parts) + len(missing)}"
        text = f"part {of} is missing." if len(missing) == 1 else f"parts {of} are missing."
        raise CorruptSourceError(text, source=str(first), hint="Put all parts into one folder.")
    file = read_gguf(parts[0], parts=len(parts))
    rest = [read_header(path) for path in parts[1:]]  # none of them may be cut short
    return replace(file, size_bytes=file.size_bytes + sum(header.size_bytes for header in rest))
