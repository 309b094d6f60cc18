"""XMP: what people wrote into it, and how our words get into a sidecar and out again.

All functions take bytes and return bytes, and raise SidecarError where these are not XMP, or hostile. Nothing here
opens a file, asks a model or knows an archive:

- `without_ours(data)` is what people and their programs wrote; `metadata.read_xmp` reads values from it.
- `merge(data, words)` puts our words in, in place of those of an earlier run. The same words again change no byte.
- `rename(data, {"automobile": "car"})` renames keywords of ours, and of nobody else.
- `remove(data)` takes out exactly what was put in; None: nothing is left that is not in the photo, the file can go.
- `begin(embedded, words)` makes the sidecar of a photo that has none.

`pages/sidecars.py` tells which files are the sidecars of a photo, and writes them.

Texts are spliced into the very bytes, at the places that a parser (expat) reports. So whatever is not ours stays byte
for byte: unknown namespaces, develop settings, comments, processing instructions, quotes and indentation. Our namespace
holds what of each property is ours: `kobold:subject` lists our keywords in `dc:subject`, and so on. Other programs keep
it when they write the sidecar anew, so ours are told from people's also then.

A packet is XML from a stranger: a document type is refused, so no entity is ever expanded and nothing is fetched.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final, Literal, NamedTuple
from xml.parsers import expat
from xml.sax.saxutils import escape

from kobold_reader.errors import SidecarError
from kobold_reader.pages.values import Embedded
from kobold_reader.release import RELEASE

NAMESPACE: Final = "https://kobold-reader.invalid/xmp/1.0/"
"""Of what is ours. A name and no address: nobody can own a domain that ends in `.invalid`."""
PREFIX: Final = "kobold"
PARENT: Final = "AI"
MAX_BYTES: Final = 16_000_000
"""Lightroom's masks make sidecars of some megabytes."""
MAX_DEPTH: Final = 64
MAX_PARTS: Final = 50_000
"""Elements and attributes."""
LEVEL: Final = "|"
"""Between the levels of a keyword, as Lightroom writes it: `vehicle|car`."""

_RDF: Final = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_XML: Final = "http://www.w3.org/XML/1998/namespace"
_DC: Final = "http://purl.org/dc/elements/1.1/"
_XMP: Final = "http://ns.adobe.com/xap/1.0/"
_EXIF: Final = "http://ns.adobe.com/exif/1.0/"

Form = Literal["Alt", "Bag", "Seq", "text"]


class _Property(NamedTuple):
    prefix: str
    namespace: str
    form: Form


_PROPERTIES: Final[Mapping[str, _Property]] = {
    "title": _Property("dc", _DC, "Alt"),
    "description": _Property("dc", _DC, "Alt"),
    "creator": _Property("dc", _DC, "Seq"),
    "subject": _Property("dc", _DC, "Bag"),
    "hierarchicalSubject": _Property("lr", "http://ns.adobe.com/lightroom/1.0/", "Bag"),
    "TagsList": _Property("digiKam", "http://www.digikam.org/ns/1.0/", "Seq"),
    "CreatorTool": _Property("xmp", _XMP, "text"),
    "Rating": _Property("xmp", _XMP, "text"),
    "DateTimeOriginal": _Property("exif", _EXIF, "text"),
    "GPSLatitude": _Property("exif", _EXIF, "text"),
    "GPSLongitude": _Property("exif", _EXIF, "text"),
}
"""By local name; these are unique."""
_LISTS: Final = ("subject", "hierarchicalSubject", "TagsList")
_TEXTS: Final = ("title", "description")

Overwrite = Literal["description", "title"]
Record = dict[str, list[str]]
"""What is ours in a sidecar, as our namespace holds it, by local name.

Under the name of a property: what of its values is ours. `keywords`, `parent`: the keywords as given, also those that a
person had written too. `above`: the words above ours in hierarchies; darktable adds them to `dc:subject`, and where
nobody had them there before, they are ours too. `former_description`: the person's text that ours replaced. `made`:
properties that were not there before. `unwanted`: keywords and texts that were ours and that somebody took out since:
they stay out. `file`: a hash of the whole sidecar before our words came in, if the file is ours. `model date release`:
who wrote it.
"""
_RECORD_TEXTS: Final = frozenset(
    "title description CreatorTool former_title former_description parent file model date release".split()  # noqa: SIM905
)
_NOT_COMPARED: Final = frozenset({"date", "release"})


@dataclass(frozen=True, slots=True)
class Words:
    """What the model says about a photo."""

    keywords: tuple[str, ...] = ()
    """A keyword may have levels: `vehicle|car`."""
    description: str = ""
    title: str = ""
    model: str = ""
    parent: str | None = None
    """The keyword above ours in hierarchies, `|` or `/` between its levels; "": none; None: as before, else `AI`."""

    def __bool__(self) -> bool:
        return bool(self.keywords or self.description or self.title)


# ── contents ─────────────────────────────────────────────────────────────────────────────────────


def without_ours(data: bytes) -> bytes:
    """Return a sidecar, or the packet in a photo, with nothing but what people and their programs wrote."""
    document = _Document(data)
    record = document.record()
    return document.without(record) if record else data


def merge(
    data: bytes,
    words: Words,
    *,
    overwrite: Collection[Overwrite] = (),
    with_title: bool = False,
    is_file_ours: bool = False,
) -> bytes:
    """Put our words into a sidecar, in place of those that are there; return the very same bytes if nothing changes.

    Args:
        data: The sidecar.
        words: Ours.
        overwrite: Which texts of people to replace by ours; theirs are kept in our namespace, and `remove` puts them
            back. Texts that were replaced once stay replaced.
        with_title: Put the title in, too; once it is there, it is renewed in any case.
        is_file_ours: The sidecar is a new one, which `remove` takes away.
    """
    document = _Document(data)
    old = document.record()
    if not (with_title or "title" in old):
        words = replace(words, title="")
    bare = _Document(document.without(old)) if old else document
    new = _wanted(words, old, document, bare, overwrite)
    if _compared(old) == _compared(new) and document.holds(old):
        return data
    if not new:
        return bare.content()
    now = datetime.now(UTC).replace(microsecond=0).isoformat()
    new |= {"date": [now], "release": [RELEASE]} | ({"file": [_hash(data)]} if is_file_ours else {})
    return bare.with_values({name: values for name, values in new.items() if name in _PROPERTIES}, new)


def rename(data: bytes, names: Mapping[str, str]) -> bytes:
    """Rename keywords of ours; return the very same bytes where none of them is there.

    Args:
        data: The sidecar.
        names: New by old keyword, or by its last level; capitals count for nothing.
    """
    record = _Document(data).record()
    folded = {old.casefold(): new for old, new in names.items()}
    words = _words_of(record)
    renamed = tuple(dict.fromkeys(_renamed(keyword, folded) for keyword in words.keywords))
    return data if renamed == words.keywords else merge(data, replace(words, keywords=renamed))


def remove(data: bytes) -> bytes | None:
    """Take out what was put in; None where nothing else is left, so that the file can go."""
    document = _Document(data)
    record = document.record()
    if not record:
        return data
    rest = document.without(record)
    return None if record.get("file") == [_hash(rest)] else rest


def begin(embedded: Embedded, words: Words, *, with_title: bool = False) -> bytes:
    """Return the sidecar of a photo that has none: all that is embedded in the photo, and our words.

    Programs that find a sidecar look no further, so what the photo says itself must be in it. `remove` knows that the
    file itself is ours.
    """
    packet = embedded.packet.strip("\x00 \r\n\t").encode("utf-8", "replace")
    try:
        document = _Document(without_ours(packet))
    except SidecarError:
        document = _Document(_EMPTY)
    told = {name: list(filter(None, map(_plain, values))) for name, values in embedded.values.items()}
    missing = {name: values for name, values in told.items() if values and not document.values(name)}
    known = _folds(document.values("subject"))
    if keywords := [keyword for keyword in told.get("subject", ()) if _folded(keyword) not in known]:
        missing["subject"] = keywords
    base = document.with_values(missing) if missing else document.content()
    return merge(base, words, with_title=with_title, is_file_ours=True)


_EMPTY: Final = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="{_RDF}">
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>
""".encode()


def _hash(data: bytes) -> str:
    return sha256(data).hexdigest()[:32]


def _words_of(record: Record) -> Words:
    texts = {name: next(iter(record.get(name, ())), "") for name in (*_TEXTS, "model", "parent")}
    return Words(tuple(record.get("keywords", ())), **texts)


def _renamed(keyword: str, names: Mapping[str, str]) -> str:
    if keyword.casefold() in names:
        return names[keyword.casefold()]
    above, level, leaf = keyword.rpartition(LEVEL)
    return above + level + names.get(leaf.casefold(), leaf)


def _leaf(keyword: str) -> str:
    return keyword.rpartition(LEVEL)[2]


def _in_digikam(path: str) -> str:
    return path.replace("/", "∕").replace(LEVEL, "/")  # there `/` is between levels, so a keyword can have none


def _in_lightroom(path: str) -> str:
    return path.replace("/", LEVEL)


def _compared(record: Record) -> dict[str, list[str]]:
    return {name: values for name, values in record.items() if name not in _NOT_COMPARED}


def _wanted(words: Words, old: Record, now: _Document, bare: _Document, overwrite: Collection[Overwrite]) -> Record:
    """Return what shall be ours in a sidecar: the record without date and release; {}: nothing.

    Args:
        words: What is to be in it.
        old: What was put in before.
        now: The sidecar as it is.
        bare: The sidecar without ours.
        overwrite: Which texts of people to replace.
    """
    unwanted = dict.fromkeys([*old.get("unwanted", ()), *now.taken_out(old)])
    keywords = list(dict.fromkeys(filter(None, map(_path, words.keywords))))
    parent = next(iter(old.get("parent", [PARENT if not old else ""]))) if words.parent is None else words.parent
    parent = _path(_in_lightroom(parent))
    new = _wanted_lists(keywords, parent, unwanted, old, bare)
    for name in _TEXTS:
        text, person = _plain(getattr(words, name)), bare.text(name)
        is_replaced = name in overwrite or f"former_{name}" in old
        if text and f"dc:{name}" not in unwanted and (not person or (is_replaced and _folded(person) != _folded(text))):
            new |= {name: [text]} | ({f"former_{name}": [person]} if person else {})
    if not any(new.values()):
        return {}
    if not bare.values("CreatorTool"):
        new["CreatorTool"] = [f"kobold-reader {RELEASE}" if "CreatorTool" not in old else old["CreatorTool"][0]]
    kept = {name for name in old.get("made", ()) if name in _LISTS}  # made by us, and filled by others since
    new["made"] = [name for name in _PROPERTIES if new.get(name) and (name in kept or not bare.has(name))]
    new |= {"keywords": keywords, "parent": [parent], "model": [_plain(words.model)], "unwanted": list(unwanted)}
    if "file" in old:
        new["file"] = old["file"]
    return {name: values for name, values in new.items() if any(values)}


def _wanted_lists(
    keywords: Iterable[str], parent: str, unwanted: Iterable[str], old: Record, bare: _Document
) -> Record:
    """Return what shall be ours in the lists of keywords, `above` included."""
    subject, tags, hierarchies = (bare.values(name) for name in ("subject", "TagsList", "hierarchicalSubject"))
    theirs = {_folded(_leaf(_in_lightroom(value))) for value in (*subject, *tags, *hierarchies)} | _folds(unwanted)
    ours = [keyword for keyword in keywords if _folded(_leaf(keyword)) not in theirs]
    new: Record = {"subject": list(dict.fromkeys(map(_leaf, ours)))}
    if not ours:
        return new
    paths = [parent + LEVEL + keyword if parent else keyword for keyword in ours]
    above = dict.fromkeys(level for path in paths for level in path.split(LEVEL)[:-1])
    new["above"] = [level for level in above if _folded(level) not in _folds(subject)]
    # A program that finds its own list looks for keywords nowhere else, so a new list must hold people's keywords too.
    made = old.get("made", ())
    paths_before: list[str] = []
    tags_before: list[str] = []
    if not hierarchies or "hierarchicalSubject" in made:
        paths_before = [path for path in map(_in_lightroom, tags) if path not in hierarchies] or subject
    if not tags or "TagsList" in made:
        tags_before = list(map(_in_digikam, hierarchies or subject))
    new["hierarchicalSubject"] = _once([*paths_before, *paths], hierarchies)
    new["TagsList"] = _once([*tags_before, *map(_in_digikam, paths)], tags)
    return new


def _once(values: Iterable[str], known: Collection[str]) -> list[str]:
    return [value for value in dict.fromkeys(values) if value not in known]


_ILLEGAL: Final = re.compile("[^\t\n\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]+")


def _plain(text: str) -> str:
    """Return a text that XML can hold."""
    return _ILLEGAL.sub(" ", text).strip()


def _path(keyword: str) -> str:
    """Return a keyword without empty levels."""
    return LEVEL.join(filter(None, (_plain(level) for level in keyword.split(LEVEL))))


def _folded(text: str) -> str:
    """Return what makes two values the same; programs that write a sidecar anew also change white space."""
    return " ".join(text.split()).casefold()


def _folds(values: Iterable[str]) -> set[str]:
    return set(map(_folded, values))


# ── the document ─────────────────────────────────────────────────────────────────────────────────

_TAG: Final = re.compile(rb"""<(?:[^>"']++|"[^"]*+"|'[^']*+')*+>""")
_ATTRIBUTE: Final = re.compile(rb"""\s+([^\s=>/]+)\s*=\s*("[^"]*"|'[^']*')""")
_SPACE: Final = b" \t\r\n"


class _Attribute(NamedTuple):
    name: str
    """`{namespace}local`; of a declaration `xmlns:prefix`."""
    value: str
    start: int
    """With the white space before it."""
    value_start: int
    end: int


@dataclass(slots=True)
class _Element:
    name: str
    """`{namespace}local`."""
    written: bytes
    """The name as it is written."""
    start: int
    inside: int
    """End of its start tag."""
    attributes: list[_Attribute]
    scope: Mapping[str, str]
    """Namespaces by prefix."""
    stop: int = 0
    """Start of its end tag; equal to `end` where it has none (`<a/>`)."""
    end: int = 0
    children: list[_Element] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All text in it; a value may be an element deeper, beside what is said about it."""
        return " ".join(filter(None, ("".join(self.pieces).strip(), *(child.text for child in self.children))))

    @property
    def is_empty_tag(self) -> bool:
        """Whether it is written as `<a/>`."""
        return self.stop == self.end

    def attribute(self, name: str) -> _Attribute | None:
        return next((one for one in self.attributes if one.name == name), None)

    def beside(self, local: str) -> bytes:
        """Return another name with the same prefix."""
        prefix, colon, _ = self.written.rpartition(b":")
        return prefix + colon + local.encode()


class _Edit(NamedTuple):
    start: int
    end: int
    put: bytes


def _name(namespace: str, local: str) -> str:
    return f"{{{namespace}}}{local}"


def _name_of(name: str) -> str:
    return _name(_PROPERTIES[name].namespace, name)


_DESCRIPTION: Final = _name(_RDF, "Description")
_LI: Final = _name(_RDF, "li")
_OF_NO_PROPERTY: Final = frozenset({_name(_RDF, "about"), "about"})
_ARRAYS: Final = tuple(_name(_RDF, form) for form in ("Alt", "Bag", "Seq"))


class _Document:
    """A parsed sidecar, over its bytes in UTF-8."""

    def __init__(self, data: bytes) -> None:
        self._encoding, self._data = _to_utf8(data)
        root = _Parser(self._data).root
        rdf = [one for one in (root, *root.children) if one.name == _name(_RDF, "RDF")]
        if not rdf:
            raise SidecarError(
                f"It is not XMP: its outermost element is {root.written.decode()!r}, without rdf:RDF in it."
            )
        self._root, self._rdf = root, rdf[0]
        self._descriptions = [one for one in self._rdf.children if one.name == _DESCRIPTION]

    def content(self) -> bytes:
        """Return the sidecar as it was given."""
        return self._edited(())

    # ── what it says ─────────────────────────────────────────────────────────────────────────────

    def _find(self, name: str) -> _Element | _Attribute | None:
        """Return a property of the photo; it may be written as an attribute."""
        for description in self._descriptions:
            for child in description.children:
                if child.name == name:
                    return child
            if (attribute := description.attribute(name)) is not None:
                return attribute
        return None

    def has(self, name: str) -> bool:
        """Tell whether a property is there, even if it is empty."""
        return self._find(_name_of(name)) is not None

    def values(self, name: str) -> list[str]:
        """Return the values of a property that are not empty; of a text in several languages, all."""
        return list(filter(None, _values(self._find(_name_of(name)))))

    def text(self, name: str) -> str:
        """Return a text in the language that is shown if no other is asked for; "" where there is none."""
        found = self._find(_name_of(name))
        shown = _shown_item(found)
        return shown.text if shown is not None else next(iter(self.values(name)), "")

    def record(self) -> Record:
        """Return what is ours; {}: nothing."""
        found: Record = {}
        for description in self._descriptions:
            for one in _parts(description):
                namespace, _, local = one.name[1:].rpartition("}")
                if namespace == NAMESPACE and (values := list(filter(None, _values(one)))):
                    found.setdefault(local, values)
        return found

    def holds(self, record: Record) -> bool:
        """Tell whether all that was put in is still there."""
        lists = all(_folds(record.get(name, ())) <= _folds(self.values(name)) for name in _LISTS)
        texts = all(_folded(self.text(name)) == _folded(record[name][0]) for name in _TEXTS if name in record)
        return lists and texts

    def taken_out(self, record: Record) -> list[str]:
        """Return keywords and names of texts that were put in and that somebody took out.

        Where nothing of ours is left, a program has written the sidecar without it, and nobody has decided anything.
        """
        gone = [word for word in record.get("subject", ()) if _folded(word) not in _folds(self.values("subject"))]
        gone_texts = [f"dc:{name}" for name in _TEXTS if name in record and not self.text(name)]
        kept_texts = [
            name for name in _TEXTS if name in record and _folded(self.text(name)) == _folded(record[name][0])
        ]
        is_something_left = len(gone) < len(record.get("subject", ())) or kept_texts
        return [*gone, *gone_texts] if is_something_left else []

    # ── what is changed ──────────────────────────────────────────────────────────────────────────

    def without(self, record: Record) -> bytes:
        """Return the sidecar without what is ours."""
        edits: list[_Edit] = []
        made = record.get("made", ())
        for name in _LISTS:
            found = self._find(_name_of(name))
            ours = [*record.get(name, ()), *(record.get("above", ()) if name == "subject" else ())]
            if isinstance(found, _Element) and ours:
                edits += self._list_without(found, ours, is_made=name in made)
        for name in _TEXTS:
            found = self._find(_name_of(name))
            if name in record and _folded(self.text(name)) == _folded(record[name][0]):
                edits += self._text_without(found, record.get(f"former_{name}", [""])[0], is_made=name in made)
        tool = self._find(_name_of("CreatorTool"))
        if tool is not None and "CreatorTool" in made and _values(tool) == record.get("CreatorTool"):
            edits.append(self._gone(tool))
        for description in self._descriptions:
            edits += [self._gone(one) for one in _parts(description) if one.name.startswith(_name(NAMESPACE, ""))]
        edits += self._emptied(edits)
        for element in (self._root, self._rdf, *self._descriptions):
            declared = [one for one in element.attributes if one.name.startswith("xmlns:") and one.value == NAMESPACE]
            edits += map(self._gone, declared)
        return self._edited(edits)

    def _list_without(self, found: _Element, ours: Sequence[str], *, is_made: bool) -> list[_Edit]:
        gone: list[_Element] = []
        items = _items(found)
        for value in ours:
            same = (item for item in items if item not in gone and _folded(item.text) == _folded(value))
            gone += [item for item in [next(same, None)] if item is not None]
        if is_made and len(gone) == len(items):
            return [self._gone(found)]
        return list(map(self._gone, gone))

    def _text_without(self, found: _Element | _Attribute | None, former: str, *, is_made: bool) -> list[_Edit]:
        if found is None:
            return []
        shown = _shown_item(found)
        if is_made:
            return [self._gone(found if shown is None or len(_items(found)) == 1 else shown)]
        return [self._with_text(found, former)]

    def _emptied(self, edits: Sequence[_Edit]) -> list[_Edit]:
        """Return the removal of each description of which nothing is left."""
        gone = {(edit.start, edit.end) for edit in edits if not edit.put}
        emptied = []
        for description in self._descriptions:
            parts = _parts(description)
            left = [one for one in parts if self._gone(one)[:2] not in gone]
            names = {one.name for one in left}
            if len(left) < len(parts) and all(name in _OF_NO_PROPERTY or name.startswith("xmlns") for name in names):
                emptied.append(self._gone(description))
        return emptied

    def with_values(self, values: Mapping[str, Sequence[str]], record: Record | None = None) -> bytes:
        """Return the sidecar with values added to lists, texts in place of what was there, and a record of ours."""
        edits: list[_Edit] = []
        block: list[tuple[str, _Property, Sequence[str]]] = []
        for name, some in values.items():
            found = self._find(_name_of(name))
            if found is None:
                block.append((name, _PROPERTIES[name], some))
            elif _PROPERTIES[name].form in {"Bag", "Seq"}:
                edits.append(self._longer(found, name, some))
            else:
                edits.append(self._with_text(found, some[0]))
        for name, some in (record or {}).items():
            block.append((name, _Property(PREFIX, NAMESPACE, "text" if name in _RECORD_TEXTS else "Bag"), some))
        if block:
            edits.append(self._with_block(block))
        return self._edited(edits)

    def _longer(self, found: _Element | _Attribute, name: str, values: Sequence[str]) -> _Edit:
        """Return the edit that adds values to a list, indented like those before."""
        array = _array(found)
        if array is not None and isinstance(found, _Element):
            last = array.children[-1] if array.children else None
            gap = self._data[self._gone(last).start : last.start] if last is not None else b""
            items = b"".join(gap + _item(array.beside("li"), value) for value in values)
            place = array.inside if last is None else last.end
            return _filled(array, items) if array.is_empty_tag else _Edit(place, place, items)
        if isinstance(found, _Attribute) or found.text or found.children:
            raise _odd_form(name, "is not a list")
        return _filled(found, b"".join(self._array_of(_PROPERTIES[name].form, values, b"")))

    def _with_text(self, found: _Element | _Attribute, text: str) -> _Edit:
        """Return the edit that puts a text in place of the one that is there, in the form that this one has."""
        if isinstance(found, _Attribute):
            return _Edit(found.value_start, found.end, _quoted(text))
        array, shown, name = _array(found), _shown_item(found), found.name.rpartition("}")[2]
        if (shown or array or found).children:
            raise _odd_form(name, "is not plain text")
        if shown is not None:
            return _filled(shown, _escaped(text))
        if array is not None:
            return _filled(array, _item(array.beside("li"), text, b' xml:lang="x-default"'))
        if found.text or _PROPERTIES[name].form != "Alt":
            return _filled(found, _escaped(text))
        return _filled(found, b"".join(self._array_of("Alt", [text], b"")))

    def _array_of(self, form: Form, values: Sequence[str], gap: bytes) -> list[bytes]:
        language = b' xml:lang="x-default"' if form == "Alt" else b""
        deeper = gap + b" " if gap else gap
        tag = b"rdf:" + form.encode()
        items = [deeper + _item(b"rdf:li", value, language) for value in values]
        return [gap, b"<", tag, self._rdf_declared, b">", *items, gap, b"</", tag, b">"]

    @property
    def _rdf_declared(self) -> bytes:
        """Return the declaration of the prefix rdf, where it is not that of the sidecar."""
        return b"" if self._rdf.scope.get("rdf") == _RDF else f' xmlns:rdf="{_RDF}"'.encode()

    def _with_block(self, block: Sequence[tuple[str, _Property, Sequence[str]]]) -> _Edit:
        """Return the edit that adds a description with properties after the last one."""
        newline = b"\r\n" if b"\r\n" in self._data else b"\n"
        last = self._rdf.children[-1] if self._rdf.children else None
        before = self._data[self._gone(last).start : last.start] if last is not None else newline + b"  "
        gap = newline + before.rpartition(b"\n")[2]
        every = (attribute for description in self._descriptions for attribute in description.attributes)
        about = next((attribute.value for attribute in every if attribute.name in _OF_NO_PROPERTY), "")
        names = {prefix: namespace for _, (prefix, namespace, _), _ in block}
        parts = [gap, b"<rdf:Description", self._rdf_declared, b" rdf:about=", _quoted(about)]
        parts += [gap + f'  xmlns:{prefix}="{namespace}"'.encode() for prefix, namespace in names.items()]
        parts.append(b">")
        for name, (prefix, _, form), values in block:
            tag = f"{prefix}:{name}".encode()
            inner = [_escaped(values[0])] if form == "text" else self._array_of(form, values, gap + b"  ")
            end = gap + b" " if form != "text" else b""
            parts += [gap, b" <", tag, b">", *inner, end, b"</", tag, b">"]
        parts += [gap, b"</rdf:Description>"]
        text = b"".join(parts)
        return _filled(self._rdf, text) if last is None and self._rdf.is_empty_tag else self._after(last, text)

    def _after(self, last: _Element | None, text: bytes) -> _Edit:
        place = last.end if last is not None else self._rdf.inside
        return _Edit(place, place, text)

    def _gone(self, one: _Element | _Attribute) -> _Edit:
        """Return the edit that removes an element or an attribute with the white space before it."""
        start = one.start
        if isinstance(one, _Element):
            while self._data[start - 1] in _SPACE:
                start -= 1
        return _Edit(start, one.end, b"")

    def _edited(self, edits: Iterable[_Edit]) -> bytes:
        parts: list[bytes] = []
        place = 0
        for edit in sorted(edits, key=lambda edit: (edit.start, -edit.end)):
            if edit.start >= place:  # else it is inside of what is gone
                parts += [self._data[place : edit.start], edit.put]
                place = edit.end
        whole = b"".join([*parts, self._data[place:]])
        return whole if self._encoding == "utf-8" else whole.decode().encode(self._encoding)


def _parts(description: _Element) -> list[_Element | _Attribute]:
    """Return what holds the properties of a description."""
    return [*description.attributes, *description.children]


def _odd_form(name: str, what: str) -> SidecarError:
    hint = "Save it anew with the program that wrote it."
    return SidecarError(f"Its {_PROPERTIES[name].prefix}:{name} {what}.", hint=hint)


def _array(found: _Element | _Attribute | None) -> _Element | None:
    children = found.children if isinstance(found, _Element) else []
    return next((child for child in children if child.name in _ARRAYS), None)


def _items(found: _Element | _Attribute | None) -> list[_Element]:
    array = _array(found)
    return [child for child in array.children if child.name == _LI] if array is not None else []


def _values(found: _Element | _Attribute | None) -> list[str]:
    if found is None:
        return []
    if isinstance(found, _Attribute):
        return [found.value.strip()]
    return [item.text for item in _items(found)] if _array(found) is not None else [found.text]


def _shown_item(found: _Element | _Attribute | None) -> _Element | None:
    """Return the item of a text that is shown if no language is asked for."""
    items = _items(found)
    for item in items:
        language = item.attribute(_name(_XML, "lang"))
        if language is not None and language.value == "x-default":
            return item
    return next(iter(items), None)


def _escaped(text: str) -> bytes:
    return escape(text).encode()


def _quoted(text: str) -> bytes:
    return b'"' + escape(text, {'"': "&quot;", "\n": "&#10;", "\t": "&#9;"}).encode() + b'"'


def _item(tag: bytes, text: str, attributes: bytes = b"") -> bytes:
    return b"".join([b"<", tag, attributes, b">", _escaped(text), b"</", tag, b">"])


def _filled(element: _Element, inner: bytes) -> _Edit:
    """Return the edit that replaces what is in an element."""
    if not element.is_empty_tag:
        return _Edit(element.inside, element.stop, inner)
    return _Edit(element.end - 2, element.end, b"".join([b">", inner, b"</", element.written, b">"]))


def _to_utf8(data: bytes) -> tuple[str, bytes]:
    """Return the encoding of a sidecar, and its bytes in UTF-8."""
    if len(data) > MAX_BYTES:
        raise SidecarError(f"It is larger than a sidecar ever is ({len(data):,} bytes; the most are {MAX_BYTES:,}).")
    if not data.strip(b"\x00 \r\n\t"):
        raise SidecarError("It is empty.", hint="Remove it, and a new one is written.")
    encoding = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}.get(data[:2], "utf-8")
    try:
        return encoding, data.decode(encoding).encode()
    except UnicodeError as error:
        raise SidecarError(f"It is not text in {encoding.upper()} ({error}).") from error


class _Parser:
    """Makes elements of a document in UTF-8, with their places in its bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._open: list[_Element] = []
        self._count = 0
        self._root: _Element | None = None
        self._parser = expat.ParserCreate("utf-8")
        self._parser.ordered_attributes = True
        self._parser.buffer_text = True
        self._parser.XmlDeclHandler = self._declaration
        self._parser.StartDoctypeDeclHandler = self._doctype
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text
        try:
            self._parser.Parse(data, True)
        except expat.ExpatError as error:
            raise SidecarError(
                f"It is not XML ({error}).", hint="The program that wrote it may be able to repair it."
            ) from error

    @property
    def root(self) -> _Element:
        assert self._root is not None  # noqa: S101  (expat has found one)
        return self._root

    @staticmethod
    def _declaration(_version: str, encoding: str | None, _standalone: int) -> None:
        if encoding and encoding.lower() not in {"utf-8", "utf8", "utf-16", "utf-16le", "utf-16be"}:
            raise SidecarError(f"Its encoding is {encoding}; XMP is written in UTF-8 or UTF-16.")

    @staticmethod
    def _doctype(*_: object) -> None:
        raise SidecarError("It has a document type, which XMP never has.", hint="It may be meant to do harm.")

    def _start(self, written: str, listed: list[str]) -> None:
        self._count += 1 + len(listed) // 2
        if len(self._open) >= MAX_DEPTH or self._count > MAX_PARTS:
            raise SidecarError("It is nested too deeply, or has too many parts.", hint="It may be meant to do harm.")
        above = self._open[-1] if self._open else None
        scope = above.scope if above is not None else {"xml": _XML}
        pairs = list(zip(listed[::2], listed[1::2], strict=True))
        declared = {name[6:]: value for name, value in pairs if name == "xmlns" or name.startswith("xmlns:")}
        if declared:
            scope = {**scope, **declared}
        start = self._parser.CurrentByteIndex
        tag = _TAG.match(self._data, start)
        assert tag is not None  # noqa: S101  (expat has found it there)
        attributes = [
            _Attribute(_expanded(name, scope, is_attribute=True), value, at.start(), at.start(2), at.end())
            for (name, value), at in zip(pairs, _ATTRIBUTE.finditer(self._data, start, tag.end()), strict=True)
        ]
        element = _Element(
            _expanded(written, scope), written.encode(), start, tag.end(), attributes=attributes, scope=scope
        )
        if above is None:
            self._root = element
        else:
            above.children.append(element)
        self._open.append(element)

    def _end(self, _: str) -> None:
        element = self._open.pop()
        element.stop = self._parser.CurrentByteIndex
        is_empty = element.stop == element.inside and self._data[element.inside - 2 : element.inside] == b"/>"
        element.end = element.stop if is_empty else self._data.index(b">", element.stop) + 1

    def _text(self, text: str) -> None:
        if self._open:
            self._open[-1].pieces.append(text)


def _expanded(written: str, scope: Mapping[str, str], *, is_attribute: bool = False) -> str:
    """Return `{namespace}local`; a declaration of a namespace keeps its name."""
    prefix, colon, local = written.rpartition(":")
    if prefix == "xmlns" or written == "xmlns":
        return written
    if not colon:
        return written if is_attribute else _name(scope.get("", ""), local)
    if prefix not in scope:
        raise SidecarError(f"It is not XML: it does not say what the prefix {prefix!r} means.")
    return _name(scope[prefix], local)
