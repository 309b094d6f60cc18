"""The header of a GGUF file: its keys and the shapes of its tensors, and nothing of what the tensors hold.

The file is read front to back with plain reads, and closed. The reader of the gguf package makes a numpy view of every
token (18 s and 545 MB for a vocabulary of 152,000 where this takes half a second), keeps the file mapped, and
follows the counts of a broken header without end. What is taken from that package is its table of tensor types.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from kobold_reader.errors import CorruptSourceError, MissingExtraError, SourceError, UnsupportedSourceError

__all__ = ["Header", "Value", "read_header"]

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
