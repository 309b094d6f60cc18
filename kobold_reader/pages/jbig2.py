"""What is in a JBIG2 stream, found without decoding it (ITU-T T.88, chapter 7)."""

from __future__ import annotations

import struct

_UNKNOWN_LENGTH = 0xFFFFFFFF
_LEAST_HEADER = 11
_LONG_FORM = 7
_TEXT = frozenset({4, 6, 7})
_GENERIC = frozenset({38, 39})  # immediate: every decoder draws them
_OTHERS = frozenset({0, 16, 48, 49, 50, 51, 52, 53, 62})  # dictionaries, marks of page and file
_HUFFMAN, _REFINED, _TEMPLATE_1 = 0x01, 0x02, 0x8000


def demanding_segments(data: bytes) -> int | None:
    """The number of segments that paint and that not every decoder draws: text, halftones, refinements.

    None where the last segment ends too early, or the bytes are no JBIG2.
    """
    count = at = 0
    try:
        while at + _LEAST_HEADER <= len(data):  # fewer bytes are padding
            number, flags, referred = struct.unpack_from(">IBB", data, at)
            at += 6
            referred >>= 5
            if referred == _LONG_FORM:
                referred = struct.unpack_from(">I", data, at - 1)[0] & 0x1FFFFFFF
                at += 3 + (referred + 8) // 8
            at += referred * (1 if number <= 0x100 else 2 if number <= 0x10000 else 4)  # noqa: PLR2004 - T.88, 7.2.5
            at += 4 if flags & 0x40 else 1
            (length,) = struct.unpack_from(">I", data, at)
            at += 4
            kind = flags & 0x3F
            if length == _UNKNOWN_LENGTH:  # a generic region up to the stream's end
                return count
            is_empty = kind in _TEXT and _text_instances(data, at) == 0
            count += kind not in _GENERIC | _OTHERS and not is_empty
            at += length
    except struct.error:
        return None
    return count if at <= len(data) else None


def _text_instances(data: bytes, at: int) -> int:
    """The number of symbols that the text region at this place paints."""
    (flags,) = struct.unpack_from(">H", data, at + 17)
    at += 19
    at += 2 if flags & _HUFFMAN else 0
    at += 4 if flags & _REFINED and not flags & _TEMPLATE_1 else 0
    return int(struct.unpack_from(">I", data, at)[0])
