"""What people wrote into a picture as XMP: keywords, titles, names of persons.

The packet is XML from a stranger, so nothing in it is ever expanded: a document type, and with it
every entity of its own, ends the reading.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from xml.parsers import expat

__all__ = ["Xmp", "xmp_of_bytes"]

_MAX_BYTES: Final = 4_000_000
_MAX_DEPTH: Final = 64
_MAX_VALUES: Final = 2_000

_RDF: Final = "http://www.w3.org/1999/02/22-rdf-syntax-ns# "
_PROPERTIES: Final = {
    "http://purl.org/dc/elements/1.1/ title": "title",
    "http://purl.org/dc/elements/1.1/ description": "description",
    "http://purl.org/dc/elements/1.1/ creator": "author",
    "http://purl.org/dc/elements/1.1/ subject": "keywords",
    "http://ns.adobe.com/pdf/1.3/ Keywords": "pdf_keywords",
    "http://ns.adobe.com/lightroom/1.0/ hierarchicalSubject": "paths",
    "http://www.digikam.org/ns/1.0/ TagsList": "paths",
    "http://ns.adobe.com/xap/1.0/ Rating": "rating",
    "http://iptc.org/std/Iptc4xmpExt/2008-02-29/ PersonInImage": "persons",
    "http://ns.microsoft.com/photo/1.2/t/Region# PersonDisplayName": "persons",
    "http://www.metadataworkinggroup.com/schemas/regions/ Name": "region_name",
    "http://www.metadataworkinggroup.com/schemas/regions/ Type": "region_type",
}
_LANGUAGE: Final = "http://www.w3.org/XML/1998/namespace lang"


class _RefusedError(Exception):
    """The packet asks for what XMP has no need of."""


_XMP_ERRORS: Final = (expat.ExpatError, _RefusedError, ValueError, LookupError)


@dataclass(slots=True)
class Xmp:
    """Values by our own names (`title description author keywords paths rating persons`), in order."""

    values: dict[str, list[str]] = field(default_factory=dict)

    def of(self, name: str) -> list[str]:
        """All values of a property; none where it is not there."""
        return self.values.get(name, [])


class _Reader:
    def __init__(self) -> None:
        self.found = Xmp()
        self._names: list[str] = []  # of the open elements
        self._texts: list[list[str]] = []
        self._regions: list[dict[str, str]] = [{}]
        self._is_default: list[bool] = []
        self._count = 0

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        if len(self._names) >= _MAX_DEPTH:
            raise _RefusedError("nested too deeply")
        self._names.append(name)
        self._texts.append([])
        self._regions.append({})
        self._is_default.append(attributes.get(_LANGUAGE) == "x-default")
        for key, value in attributes.items():
            self._take(_PROPERTIES.get(key), value, self._regions[-1])

    def text(self, data: str) -> None:
        if self._texts:
            self._texts[-1].append(data)

    def end(self, name: str) -> None:
        text = "".join(self._texts.pop()).strip()
        self._names.pop()
        region = self._regions.pop()
        is_default = self._is_default.pop()
        if region.get("region_name") and region.get("region_type", "Face") == "Face":
            self._add("persons", region["region_name"])
        if not text:
            return
        if name == f"{_RDF}li":  # an item of the nearest property around it
            owner = next((above for above in reversed(self._names) if not above.startswith(_RDF)), "")
            self._take(_PROPERTIES.get(owner), text, {}, first=is_default)
        else:
            self._take(_PROPERTIES.get(name), text, self._regions[-1])

    def _take(self, key: str | None, value: str, region: dict[str, str], *, first: bool = False) -> None:
        if key in {"region_name", "region_type"}:
            region[key] = value.strip()
        elif key is not None:
            self._add(key, value, first=first)

    def _add(self, key: str, value: str, *, first: bool = False) -> None:
        values = self.found.values.setdefault(key, [])
        self._count += 1
        if self._count > _MAX_VALUES:
            raise _RefusedError("too many values")
        value = value.strip()
        if value and value not in values:
            values.insert(0 if first else len(values), value)


def _refuse(*_: object) -> None:
    raise _RefusedError("a document type of its own")


def _read_xmp(packet: bytes | str) -> Xmp:
    """Read an XMP packet.

    Raises:
        expat.ExpatError: It is no XML; with the other `_XMP_ERRORS`, what cannot be believed.
    """
    data = packet.encode() if isinstance(packet, str) else packet
    data = data.strip(b"\x00 \r\n\t")
    if len(data) > _MAX_BYTES:
        raise _RefusedError("too long")
    reader = _Reader()
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    parser.StartDoctypeDeclHandler = _refuse
    parser.EntityDeclHandler = _refuse
    parser.Parse(data, True)
    return reader.found


def xmp_of_bytes(packet: bytes | str | None) -> Xmp:
    """A packet's values; none where it cannot be parsed."""
    if not packet:
        return Xmp()
    try:
        return _read_xmp(packet)
    except _XMP_ERRORS:
        return Xmp()
