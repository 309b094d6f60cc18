"""Export and import are a pair: what nobody edited is no change, and no text is ever taken for another page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kobold_reader.archive.corrections import bare, clean
from kobold_reader.archive.export_format import FORMATS, Block, DamagedError, decode, is_export, parse, render
from kobold_reader.options import ExportFormat

MARK_LINE = re.compile(r"^(?:<!-- |===== )kobold-reader page .* check=[0-9a-f]{12} (?:-->|=====)$", re.MULTILINE)
forms = st.sampled_from(FORMATS)
NASTY = [
    "<!-- kobold-reader page 3 -->",
    "  <!--kobold-reader end -->",
    "\\<!-- kobold-reader",
    "\\\\===== KOBOLD-READER end =====",
    "===== kobold-reader end =====",
    '{"mark": "kobold-reader page 1"}',
    "# A heading",
    "",
    "\x0c",
    "\u2028\x85",
    "\r",
    "two  ",
]
lines = st.one_of(st.sampled_from(NASTY), st.text(st.characters(exclude_categories=["Cs"]), max_size=12))
texts = st.lists(lines, max_size=5).map("\n".join)


@st.composite
def block_lists(draw: st.DrawFn) -> list[Block]:
    found = []
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8))
        sha256 = draw(st.text("0123456789abcdef", min_size=64, max_size=64))
        for page_number in range(1, draw(st.integers(1, 3)) + 1):
            parts = ["ocr", "caption"][: draw(st.integers(1, 2))]
            found += [Block(name, sha256, page_number, part, "ok", draw(texts)) for part in parts]
    return found


def cleaned(blocks: list[Block]) -> list[Block]:
    return [replace(block, text=clean(block.text)) for block in blocks]


def as_an_editor(text: str, *, crlf: bool, mark: bool, spaces: bool) -> bytes:
    """What editors do to a file that nobody edits."""
    if spaces:
        text = "\n".join(line.rstrip(" \t") for line in text.split("\n")).rstrip("\n")
    if crlf:
        text = text.replace("\n", "\r\n")
    return text.encode("utf-8-sig" if mark else "utf-8")


@given(block_lists(), forms, st.booleans(), st.booleans(), st.booleans())
def test_what_nobody_edited_is_no_change(
    blocks: list[Block], form: ExportFormat, crlf: bool, mark: bool, spaces: bool
) -> None:
    raw = as_an_editor(render(blocks, form), crlf=crlf, mark=mark, spaces=spaces)
    found = parse(decode(raw))
    assert [replace(one.block, text=bare(one.block.text)) for one in found] == [
        replace(block, text=bare(block.text)) for block in blocks
    ]
    assert not any(one.is_edited for one in found)


@given(block_lists(), forms, texts, st.data())
def test_an_edit_is_taken_for_just_that_block(
    blocks: list[Block], form: ExportFormat, text: str, data: st.DataObject
) -> None:
    number = data.draw(st.integers(0, len(blocks) - 1))
    edited = list(blocks)
    edited[number] = replace(blocks[number], text=text)
    # The text as a person would type it, under the marks as they were exported.
    exported, again = render(blocks, form), render(edited, form)
    if form == "jsonl":
        objects = [json.loads(line) for line in exported.split("\n")[:-1]]
        objects[number]["text"] = text
        again = "\n".join(map(json.dumps, objects))
    else:
        marks = iter(MARK_LINE.findall(exported))
        again = MARK_LINE.sub(lambda _: next(marks), again)
    found = parse(decode(again.encode()))
    assert [one.block for one in found] == cleaned(edited)
    changed = {place for place, one in enumerate(found) if one.is_edited}
    assert changed == ({number} if bare(text) != bare(blocks[number].text) else set())


DAMAGES: dict[str, Callable[[list[str], int, int], list[str]]] = {
    "deleted": lambda lines, at, _: lines[:at] + lines[at + 1 :],
    "doubled": lambda lines, at, _: [*lines[: at + 1], lines[at], *lines[at + 1 :]],
    "moved": lambda lines, at, other: [
        lines[other] if number == at else lines[at] if number == other else line for number, line in enumerate(lines)
    ],
    "a character less": lambda lines, at, other: [
        *lines[:at],
        lines[at][: other % len(lines[at])] + lines[at][other % len(lines[at]) + 1 :],
        *lines[at + 1 :],
    ],
    "a character other": lambda lines, at, other: [
        *lines[:at],
        lines[at][: other % len(lines[at])] + "7" + lines[at][other % len(lines[at]) + 1 :],
        *lines[at + 1 :],
    ],
    "cut off": lambda lines, at, _: lines[:at],
}


@given(block_lists(), forms, st.sampled_from(sorted(DAMAGES)), st.data())
def test_no_damage_to_a_mark_moves_a_text_to_another_page(
    blocks: list[Block], form: ExportFormat, damage: str, data: st.DataObject
) -> None:
    lines = render(blocks, form).split("\n")
    marks = [
        number
        for number, line in enumerate(lines)
        if "kobold-reader" in line and (form == "jsonl" or re.match(r"<!-- kob|===== kob", line))
    ]
    at = data.draw(st.sampled_from(marks))
    other = data.draw(st.sampled_from(marks)) if damage == "moved" else data.draw(st.integers(0, 400))
    try:
        found = parse("\n".join(DAMAGES[damage](lines, at, other)))
    except DamagedError:
        return
    # Not refused: then nothing was lost, and only the damaged block's own text can be another one (in .jsonl it stands
    # on the line of its mark).
    assert [replace(one.block, text="") for one in found] == [replace(block, text="") for block in blocks]
    changed = [number for number, one in enumerate(found) if one.is_edited]
    assert len(changed) <= (1 if form == "jsonl" and damage.startswith("a character") else 0)


BLOCKS = [Block("letters/1954.pdf", "a" * 64, number, "ocr", "ok", f"Text {number}.") for number in (1, 2, 3)]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda text: "Dear reader,\n" + text, "line 1: there is text before the first mark"),
        (lambda text: text + "\nMy notes", "line 15: there is text after the last mark"),
        (lambda text: text.replace("page 2 ", "page 4 "), "line 5: this mark was changed"),
        (lambda text: text.replace("sha256=a", "sha256=b", 1), "line 1: this mark was changed"),
        (lambda text: re.sub(r"<!-- kobold-reader page 2.*\n", "", text), "line 8: a mark is missing before this one"),
        (lambda text: re.sub(r"<!-- kobold-reader page 3[^$]*?\n\n", "", text), "line 5: 1 of 3 marks are missing"),
        (lambda text: text + text, "line 14: there is a mark after the one that says"),
        (lambda text: text.replace("<!-- kobold-reader end -->", ""), "ends is missing"),
        (lambda text: text[:-30], "ends is missing"),
        (lambda text: text.replace("block=2/3 ", ""), "line 5: this mark was changed"),
        (lambda text: text[-27:], "line 1: all marks of pages are missing"),
    ],
)
def test_the_damage_is_said_with_its_line(change: Callable[[str], str], why: str) -> None:
    with pytest.raises(DamagedError) as caught:
        parse(change(render(BLOCKS, "md")))
    assert why in str(caught.value)


def test_a_mark_from_another_file_is_refused() -> None:
    text = render(BLOCKS, "md").split("\n")
    other = render(BLOCKS[:2], "md").split("\n")
    text[4] = other[4]
    with pytest.raises(DamagedError, match="line 5: this mark is from another file"):
        parse("\n".join(text))


def test_what_is_damaged_in_json() -> None:
    lines = render(BLOCKS, "jsonl").split("\n")
    for change, why in [
        (lines[0].replace('"page_number": 1', '"page_number": 2'), 'more than the "text" was changed'),
        (lines[0][:-1], "not JSON any more"),
        (lines[0].replace('"text"', '"words"', 1), 'no object with a "text"'),
        (lines[0].replace("Text 1.", "\\ud800"), "half of one"),
    ]:
        with pytest.raises(DamagedError, match=f"line 1: .*{why}"):
            parse("\n".join([change, *lines[1:]]))
    assert set(json.loads(lines[0])) == {
        "file",
        "file_sha256",
        "page_number",
        "page_part",
        "page_status",
        "text",
        "mark",
    }


def test_encodings() -> None:
    text = render([replace(BLOCKS[0], text="Bjørk")], "md")
    assert [one.is_edited for one in parse(decode(text.encode("utf-16")))] == [False]
    with pytest.raises(DamagedError, match="line 3: this is not UTF-8"):
        decode(text.encode("cp1252"))


def test_what_is_no_export() -> None:
    assert not is_export("# Notes\nSee `kobold-reader page 3`.\n\\<!-- kobold-reader page 1 -->\n")
    assert not is_export('{"name": "kobold-reader"}\n')
    for form in FORMATS:
        assert is_export(render(BLOCKS, form))
