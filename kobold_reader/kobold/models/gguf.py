"""GGUF files on a disk: language models, projectors, embedding models, told by their headers.

The header of a GGUF file: its keys and the shapes of its tensors, and nothing of what the tensors hold.

The file is read front to back with plain reads, and closed. The reader of the gguf package makes a numpy view of every
token (18 s and 545 MB for a vocabulary of 152,000 where this takes half a second), keeps the file mapped, and
follows the counts of a broken header without end. What is taken from that package is its table of tensor types.
"""

from __future__ import annotations

import os
import re
import stat
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Final

from kobold_reader.errors import (
    CorruptSourceError,
    MissingExtraError,
    SourceError,
    SourceNotFoundError,
    UnsupportedSourceError,
)
from kobold_reader.kobold.models.projectors import audio_kinds, image_tokens_known, width_of

__all__ = [
    "EmbeddingModel",
    "GgufFile",
    "GgufModel",
    "GgufProjector",
    "Header",
    "Survey",
    "Value",
    "read_gguf",
    "read_header",
    "survey",
]

Value = str | int | float | bool

_MAGIC: Final = b"GGUF"
_VERSIONS: Final = (2, 3)
_STRING: Final = 8
_ARRAY: Final = 9
_SCALARS: Final[Mapping[int, struct.Struct]] = {
    kind: struct.Struct(f"<{code}")
    for kind, code in zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True)
}
_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")

# Real files stay far below: 60 keys, 2,000 tensors, 800,000 strings (tokens and merges), templates of 20 kB.
_MAX_KEYS: Final = 10_000
_MAX_TENSORS: Final = 200_000
_MAX_STRINGS: Final = 4_000_000
_MAX_TEXT_BYTES: Final = 1_000_000
_MAX_NAME_BYTES: Final = 65_535
_MAX_KEPT_BYTES: Final = 32_000_000
_MAX_DIMENSIONS: Final = 4
_TOKENS: Final = "tokenizer.ggml.tokens"


@dataclass(frozen=True, slots=True)
class Header:
    """What the header of a GGUF file says.

    Attributes:
        fields: Keys with one value.
        lengths: Keys with a list of values: how many.
        tensors: Names and shapes, in GGUF's order: the first number is the length of a row.
        tokens: Those of the wanted tokens that the vocabulary holds.
        size_bytes: Of the whole file.
    """

    fields: Mapping[str, Value]
    lengths: Mapping[str, int]
    tensors: Mapping[str, tuple[int, ...]]
    tokens: frozenset[str]
    size_bytes: int

    def text(self, key: str) -> str:
        """The text under a key; "" where there is none."""
        value = self.fields.get(key)
        return value if isinstance(value, str) else ""

    def number(self, key: str) -> int | None:
        """The whole number under a key."""
        value = self.fields.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def is_set(self, key: str) -> bool:
        """Whether a key says yes."""
        return self.fields.get(key) is True


def read_header(path: Path, wanted_tokens: Collection[str] = ()) -> Header:
    """Read the header of one GGUF file; the file is closed afterwards, and of its tensors not a byte was read.

    Raises:
        SourceError: It cannot be read, is no GGUF, is of a kind that KoboldCpp does not load, is cut short, or its
            header makes no sense.
        MissingExtraError: The gguf package is not installed.
    """
    sizes = _tensor_sizes()
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise UnsupportedSourceError("is no file.", source=str(path))
        with path.open("rb", buffering=1 << 18) as stream:
            return _Walk(stream, status.st_size, sizes, frozenset(token.encode() for token in wanted_tokens)).header()
    except OSError as err:
        raise SourceError(f"cannot be read ({err.strerror or err}).", source=str(path)) from err
    except SourceError as err:
        raise err.at(str(path)) from None


def _tensor_sizes() -> Mapping[int, tuple[int, int]]:
    """Values in a block and bytes of a block, by type."""
    try:
        from gguf.constants import GGML_QUANT_SIZES
    except ImportError as err:
        raise MissingExtraError("gguf", "Looking into GGUF files") from err
    return {int(kind): size for kind, size in GGML_QUANT_SIZES.items()}


@dataclass(slots=True)
class _Walk:
    """One way through a header, which believes no count before the file could hold that many."""

    stream: BinaryIO
    size: int
    sizes: Mapping[int, tuple[int, int]]
    wanted: frozenset[bytes]
    fields: dict[str, Value] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    found: set[bytes] = field(default_factory=set)
    strings_left: int = _MAX_STRINGS
    kept_bytes_left: int = _MAX_KEPT_BYTES

    def header(self) -> Header:
        tensor_count, key_count = self._start()
        for _ in range(key_count):
            self._key()
        tensors, data_bytes = self._tensors(tensor_count)
        self._expect_data(data_bytes)
        tokens = frozenset(token.decode() for token in self.found)
        return Header(self.fields, self.lengths, tensors, tokens, self.size)

    def _start(self) -> tuple[int, int]:
        if self.size == 0:
            raise CorruptSourceError("is empty.")
        if self.stream.read(4) != _MAGIC:
            raise UnsupportedSourceError("is no GGUF file.")
        version = self._u32()
        if version and not version & 0xFFFF:
            raise UnsupportedSourceError("is a GGUF file for big-endian machines, which KoboldCpp does not load.")
        if version not in _VERSIONS:
            what = "too old" if version < _VERSIONS[0] else "newer than what is known here"
            raise UnsupportedSourceError(f"is a GGUF file of version {version}, {what}.")
        tensor_count, key_count = self._u64(), self._u64()
        if key_count > _MAX_KEYS or tensor_count > _MAX_TENSORS:
            raise _damaged(f"it claims {key_count} keys and {tensor_count} tensors")
        return tensor_count, key_count

    def _key(self) -> None:
        name = self._name()
        kind = self._u32()
        if kind == _STRING:
            self.fields[name] = self._text(_MAX_TEXT_BYTES)
        elif kind == _ARRAY:
            self._array(name)
        else:
            self.fields[name] = self._scalar(kind)

    def _array(self, name: str) -> None:
        kind, count = self._u32(), self._u64()
        self.lengths[name] = count
        if kind != _STRING:
            self._skip(count * self._layout(kind).size)
            return
        self.strings_left -= count
        if self.strings_left < 0:
            raise _damaged(f"{name!r} claims {count} texts")
        wanted = self.wanted if name == _TOKENS else frozenset()
        read, length_of = self.stream.read, _U64.unpack
        for _ in range(count):  # a vocabulary has 300,000 of these: no calls of our own in here
            head = read(8)
            length = length_of(head)[0] if len(head) == 8 else 0  # noqa: PLR2004
            if length > _MAX_TEXT_BYTES:
                raise _damaged(f"a text claims {length:,} bytes")
            text = read(length)
            if len(head) + len(text) < 8 + length:
                raise _short()
            if text in wanted:
                self.found.add(text)

    def _tensors(self, count: int) -> tuple[dict[str, tuple[int, ...]], int]:
        shapes: dict[str, tuple[int, ...]] = {}
        data_bytes = 0
        for _ in range(count):
            name = self._name()
            dimensions = self._u32()
            if dimensions > _MAX_DIMENSIONS:
                raise _damaged(f"the tensor {name!r} claims {dimensions} dimensions")
            shapes[name] = tuple(self._u64() for _ in range(dimensions))
            kind, offset = self._u32(), self._u64()
            values = 1
            for length in shapes[name]:
                values *= length
            # A type newer than the package is passed over: its size is not known.
            block, block_bytes = self.sizes.get(kind, (1, 0))
            data_bytes = max(data_bytes, offset + values // block * block_bytes)
        return shapes, data_bytes

    def _expect_data(self, data_bytes: int) -> None:
        if not data_bytes:
            return
        alignment = self.fields.get("general.alignment", 32)
        if isinstance(alignment, bool) or not isinstance(alignment, int) or alignment < 1:
            raise _damaged(f"its alignment is {alignment!r}")
        needed = -(-self.stream.tell() // alignment) * alignment + data_bytes
        if needed > self.size:
            raise CorruptSourceError(
                f"is cut short: {self.size:,} of {needed:,} bytes are there.", hint="Fetch it again."
            )

    def _name(self) -> str:
        return self._text(_MAX_NAME_BYTES)

    def _text(self, limit: int) -> str:
        length = self._u64()
        self.kept_bytes_left -= length
        if length > limit or self.kept_bytes_left < 0:
            raise _damaged(f"a text claims {length:,} bytes")
        return self._take(length).decode("utf-8", "replace")

    def _scalar(self, kind: int) -> Value:
        layout = self._layout(kind)
        value: Value = layout.unpack(self._take(layout.size))[0]
        return value

    def _layout(self, kind: int) -> struct.Struct:
        layout = _SCALARS.get(kind)
        if layout is None:  # also lists of lists, which GGUF allows and nobody writes
            raise _damaged(f"a value is of type {kind}")
        return layout

    def _u32(self) -> int:
        value: int = _U32.unpack(self._take(4))[0]
        return value

    def _u64(self) -> int:
        value: int = _U64.unpack(self._take(8))[0]
        return value

    def _take(self, count: int) -> bytes:
        found = self.stream.read(count)
        if len(found) < count:
            raise _short()
        return found

    def _skip(self, count: int) -> None:
        if count > self.size - self.stream.tell():
            raise _short()
        self.stream.seek(count, 1)


def _damaged(what: str) -> CorruptSourceError:
    return CorruptSourceError(f"has a damaged header: {what}.", hint="Fetch it again.")


def _short() -> CorruptSourceError:
    return CorruptSourceError("is cut short, or its header is damaged.", hint="Fetch it again.")


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
    header = read_header(path, image_tokens_known())
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
    audio_kind = named if named in audio_kinds() else header.text("clip.audio.projector_type")
    if named in audio_kinds() or (audio_kind and not kind):
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
