"""The comparison of a model's text with RapidOCR's reading of the same page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from kobold_reader.reading.results import Corners, LineBox, Reading, joined
from kobold_reader.reading.witness import ComparedLine, Comparison, Difference, compare, side_by_side

LETTER = """Skarvholm Boat Club
12 March 1954
Dear Axel,
the slates came on Tuesday with Johansson,
who wants 8.20 for the carting and will not
take less. Mrs Rosenfeldt sends her regards
and hopes that the roof is tight by Easter.
Yours, Lindqvist"""
OTHER = """Minutes of the annual meeting
The treasurer reported a deficit of forty kronor
and proposed to raise the harbour dues by half.
Nobody seconded the motion, which was withdrawn."""


def witness_of(text: str, *, score: float = 0.98, left: int = 1000, confidence: float | None = None) -> Reading:
    """A reading whose lines stand below one another; words apart by two blanks stand in columns."""
    lines: list[list[tuple[str, Corners, float | None]]] = []
    for number, line in enumerate(text.split("\n")):
        top = 500 + 400 * number
        pieces: list[tuple[str, Corners, float | None]] = []
        for column, piece in enumerate(line.split("  ")):
            x0, x1 = left + 3000 * column, left + 3000 * column + 100 * len(piece)
            pieces.append((piece, (x0, top, x1, top, x1, top + 300, x0, top + 300), score))
        lines.append(pieces)
    written, boxes = joined(lines)
    return Reading("ocr", "ok", written, "rapidocr", boxes=boxes, confidence=confidence or score)


WITNESS = witness_of(LETTER)


def faults(found: Comparison) -> dict[str, object]:
    return {name: value for name, value in found.findings.items() if name not in {"agreement", "support", "covered"}}


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(LETTER, id="as it is"),
        pytest.param(LETTER.replace("\n", " "), id="unwrapped"),
        pytest.param(LETTER.replace("Tuesday with", "Tues-\nday with"), id="hyphenated"),
        pytest.param(f"# **{LETTER}**", id="Markdown"),
        pytest.param(LETTER.upper(), id="capitals"),
        pytest.param("\n".join([*LETTER.split("\n")[4:], *LETTER.split("\n")[:4]]), id="another order"),
        pytest.param("<p>" + LETTER.replace("\n", "</p>\n<p>") + "</p>", id="HTML"),
    ],
)
def test_the_same_words_agree_however_they_are_set(text: str) -> None:
    found = compare(text, WITNESS)
    assert found.agreement is not None
    assert found.agreement > 0.97
    assert not faults(found)


@pytest.mark.parametrize("by_columns", [False, True])
def test_tables_agree_row_by_row_and_column_by_column(by_columns: bool) -> None:
    rows = [("Mooring of the schooner", "12.50"), ("Carting of slates", "8.20"), ("Harbour dues for May", "3.75")]
    page = witness_of("\n".join("  ".join(row) for row in rows))
    table = "| what | \n|---|---|\n" + "\n".join(f"| {name} | {sum_} |" for name, sum_ in rows)
    columns = "\n".join([*(name for name, _ in rows), *(sum_ for _, sum_ in rows)])
    found = compare(columns if by_columns else table.replace("| what | \n", ""), page)
    assert (found.agreement or 0) > 0.97
    assert not faults(found)


def test_a_translation_that_keeps_the_numbers_is_unsupported() -> None:
    lines = {
        "Insurance of the sloop Havfruen": "Versicherung der Schaluppe, gedeckt",
        "Signed in the presence of Mr Lind": "unter den Augen eines Zeugen",
        "thank you for your visit to us": "besuchen Sie uns bald wieder",
        "The policy ends with the year": "Sie gilt bis in den Dezember",
        "Goods sold are not returnable": "Umtausch ist ausgeschlossen",
    }
    page = "\n".join(f"{line}\nDues 4711{at}0331{at}" for at, line in enumerate(lines))
    text = "\n".join(f"{line}\nGeld 4711{at}0331{at}" for at, line in enumerate(lines.values()))
    assert compare(text, witness_of(page)).unsupported == tuple(lines.values())


def test_a_line_left_out_is_named() -> None:
    lines = LETTER.split("\n")
    found = compare("\n".join([*lines[:5], *lines[6:]]), WITNESS)
    assert faults(found) == {"missing": [lines[5]]}
    assert found.agreement is not None
    assert 0.8 < found.agreement < 0.95


def test_a_sentence_that_is_not_on_the_page_is_named() -> None:
    invented = "I enclose a photograph of the new boathouse."
    found = compare(f"{LETTER}\n{invented}", WITNESS)
    assert faults(found) == {"unsupported": [invented]}


def test_a_passage_written_twice_is_named_as_such() -> None:
    again = "\n".join(LETTER.split("\n")[3:7])
    found = compare(f"{LETTER}\n{again}", WITNESS)
    assert set(faults(found)) == {"repeated"}
    assert len(found.repeated) >= 3


def test_a_line_that_stands_twice_on_the_page_is_no_repetition_and_is_missed_when_it_stands_once() -> None:
    page = witness_of(f"{LETTER}\nGoods sold are not returnable\nThank you\nGoods sold are not returnable")
    text = f"{LETTER}\nGoods sold are not returnable\nThank you"
    assert not faults(compare(f"{text}\nGoods sold are not returnable", page))
    assert faults(compare(text, page)) == {"missing": ["Goods sold are not returnable"]}


@pytest.mark.parametrize(
    ("there", "read"), [("8.20", "8.70"), ("12 March 1954", "12 March 1934"), ("Rosenfeldt", "Robertson")]
)
def test_numbers_dates_and_names_that_differ_are_named_with_both_forms(there: str, read: str) -> None:
    found = compare(LETTER.replace(there, read), WITNESS)
    word = {"12 March 1954": Difference("1934", "1954")}.get(there, Difference(read, there))
    assert found.differences == (word,)
    assert faults(found) == {"differences": [{"text": word.text, "page": word.page}]}


def test_words_that_the_text_has_nearly_and_in_another_place_are_not_missing() -> None:
    """The cells of a row, each misread by a letter, which the text has column by column."""
    page = witness_of(f"{LETTER}\nDate  Tine Nun  OPT")
    text = f"{LETTER}\nDate\nOPT"
    assert not faults(compare(f"Time\n{text}\nNum", page))
    assert faults(compare(text, page)) == {"missing": ["Tine Nun"]}


def test_letters_that_the_witness_misreads_are_no_faults() -> None:
    misread = LETTER.replace("Tuesday", "Tuesdav").replace("Lindqvist", "Lindqvlst").replace("regards", "reqards")
    assert not faults(compare(LETTER, witness_of(misread)))


def test_a_text_of_another_page_has_no_support() -> None:
    found = compare(OTHER, WITNESS)
    assert found.is_of_another_page
    assert found.unsupported
    assert not compare(LETTER, WITNESS).is_of_another_page


def test_a_handwritten_letter_under_a_printed_head_is_of_this_page() -> None:
    """The witness sees the head alone, and the head is in the text."""
    head = witness_of("Skarvholm Boat Club\n12 March 1954")
    assert not compare(LETTER, head).is_of_another_page


@pytest.mark.parametrize(
    "page", [witness_of(LETTER, score=0.7), witness_of("No 12"), Reading("ocr", "no_text", "", "rapidocr")]
)
def test_it_abstains_where_it_cannot_read(page: Reading) -> None:
    found = compare(OTHER, page)
    assert found.agreement is None
    assert not found.is_of_another_page
    assert not faults(found)


def test_it_abstains_where_hardly_a_line_is_right_though_it_is_sure() -> None:
    """Fraktur and some hands: its scores are high, and there is an error in every line."""
    fraktur = LETTER.translate(str.maketrans("skBdy", "ftVbn"))
    found = compare(LETTER, witness_of(fraktur))
    assert found.agreement is None
    assert not faults(found)
    assert compare(OTHER, witness_of(fraktur)).is_of_another_page


def test_an_empty_text_on_a_written_page_agrees_with_nothing() -> None:
    found = compare("", WITNESS)
    assert found.agreement == 0
    assert found.missing


def test_what_it_reads_unsurely_excuses_what_has_no_support() -> None:
    """A line of handwriting among print."""
    lines = WITNESS.boxes
    smudged = tuple(box._replace(score=0.6) if number == 5 else box for number, box in enumerate(lines))
    text = WITNESS.text.replace(WITNESS.text[lines[5].start : lines[5].end], "Bring the keys when you come over")
    page = Reading("ocr", "ok", WITNESS.text, "rapidocr", boxes=smudged, confidence=0.95)
    assert not faults(compare(text, page))
    assert set(faults(compare(text, WITNESS))) == {"missing", "unsupported"}


def test_words_get_the_places_of_the_lines_they_stand_in() -> None:
    text = LETTER.replace("\n", " ").replace("Yours,", "**Yours,**")
    places = compare(text, WITNESS).places
    by_words = {text[place.start : place.end]: place.corners for place in places}
    truth = {WITNESS.text[box.start : box.end].rstrip(","): box.corners for box in WITNESS.boxes}
    for words in ("Skarvholm Boat Club", "the slates came on Tuesday with Johansson"):
        # RapidOCR's lines have a margin, here 45 to the sides and to top and bottom.
        assert by_words[words] == pytest.approx(truth[words], abs=46)


def test_a_part_of_a_line_gets_a_part_of_its_place() -> None:
    (place,) = compare("who wants 8.20", WITNESS).places
    whole = WITNESS.boxes[4].corners
    left, right = place.corners[0], place.corners[2]
    assert left == whole[0] + 36
    assert left < right < whole[0] + 0.45 * (whole[2] - whole[0])


def test_words_stand_where_rapidocr_saw_them() -> None:
    """Its words are known, so wide gaps and wide letters shift nothing; a word that it joined is shared out."""
    text, boxes = joined([[("who wants8.20 now", (1000, 500, 5000, 500, 5000, 800, 1000, 800), 0.98)]])
    page = Reading("ocr", "ok", text, "rapidocr", boxes=(boxes[0]._replace(words=(90, 1500, 5000, 8000, 9000, 9910)),))
    whole, part = (compare(read, page).places[-1] for read in ("who wants 8.20 now", "of them\n8.20 now"))
    assert (whole.corners[0], whole.corners[2]) == (1036, 4964)
    assert [1036 + 3928 * end / 10_000 for end in whole.words] == pytest.approx(
        [1036, 1600, 3000, part.corners[0], part.corners[0], 4200, 4600, 4964], abs=2
    )
    assert 3500 < part.corners[0] < 3900
    assert part.corners[2] == 4964


def test_equal_lines_and_numbers_get_their_places_in_order() -> None:
    """A receipt whose columns the text has one after the other, with the same article three times."""
    rows = [("Nails, 75 mm", "16.98"), ("Nails, 75 mm", "1.02"), ("Nails, 75 mm", "16.98"), ("Tar brush", "1.98")]
    text = "\n".join([*(name for name, _ in rows), *(amount for _, amount in rows)])
    page = witness_of("\n".join("  ".join(row) for row in rows))
    places = {text[: one.start].count("\n"): one for one in compare(text, page).places}
    assert [text[places[at].start : places[at].end] for at in range(8)] == text.split("\n")
    for at in range(8):
        row, column = at % 4, at // 4
        assert places[at].corners[:2] == pytest.approx((1000 + 3000 * column + 36, 500 + 400 * row + 36), abs=1)


def test_a_digit_has_no_place_in_another_number() -> None:
    page = witness_of("Rope, hemp  $1.10\nTar  $2.40")
    text = "Rope, hemp 1\nTar $2.40"
    assert [text[place.start : place.end] for place in compare(text, page).places] == ["Rope, hemp", "Tar", "2.40"]


def test_a_number_has_all_of_its_place_where_a_digit_of_it_is_taken_for_another_one() -> None:
    page = witness_of("Tar in a cask  $1.10")
    text = "Tar in a cask\n1\n$1.10"
    (place,) = (one for one in compare(text, page).places if text[one.start : one.end] == "1.10")
    assert place.corners[0] == pytest.approx(4000 + 36, abs=1)


def test_words_without_support_get_no_place() -> None:
    text = f"{LETTER}\nI enclose a photograph of the new boathouse."
    assert all(place.end <= len(LETTER) for place in compare(text, WITNESS).places)


def test_boxes_without_scores_count_as_sure() -> None:
    """Readings that an earlier release made have none."""
    boxes = tuple(LineBox(*box[:3]) for box in WITNESS.boxes)
    assert compare(LETTER, Reading("ocr", "ok", WITNESS.text, "rapidocr", boxes=boxes)).agreement == 1


# ── looked at again ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("again", "is_named"),
    [
        pytest.param(["who wants 8.20 for the carting and will not"] * 4, True, id="always the same"),
        pytest.param(["who wants 8.20 for the carting and will not", "who wants 8.70 for"], False, id="once another"),
        pytest.param(["who wants 8.70 for the carting and will not"] * 4, False, id="as the text has it"),
        pytest.param(None, False, id="not possible"),
    ],
)
def test_a_number_differs_if_every_further_look_reads_the_same(again: list[str] | None, is_named: bool) -> None:
    asked: list[Corners] = []

    def look(places: Sequence[Corners]) -> list[list[str]]:
        asked.extend(places)
        return [again for _ in places] if again else []

    unsure = replace(WITNESS, boxes=tuple(box._replace(score=0.9) for box in WITNESS.boxes))
    found = compare(LETTER.replace("8.20", "8.70"), unsure, look)
    assert asked == [WITNESS.boxes[4].corners]
    assert (found.differences == (Difference("8.70", "8.20"),)) is is_named


@pytest.mark.parametrize(
    ("last", "is_named"), [("GST @0%: $0.48", True), ("G5T @0%: $0.43", True), ("06T 0% 80.48", False)]
)
def test_a_single_digit_differs_only_if_every_further_look_reads_it_beside_the_same_letters(
    last: str, is_named: bool
) -> None:
    page = witness_of(f"{LETTER}\nGST @0%: $0.48")
    again = ["GST @0%: $0.48", "GST @ 0%: $0.48", last]
    found = compare(f"{LETTER}\nGST @6%: $0.48", page, lambda places: [again for _ in places])
    assert found.differences == ((Difference("6", "0"),) if is_named else ())


@pytest.mark.parametrize("again", [None, "12Quayside Street"])
def test_a_number_that_rapidocr_joins_to_a_name_excuses_no_other_name(again: str | None) -> None:
    page = witness_of(f"{LETTER}\n12Quayside Street")
    look = None if again is None else lambda places: [["12Quayside Street", again] for _ in places]
    found = compare(f"{LETTER}\n12 Kingside Street", page, look)
    assert found.differences == (Difference("Kingside", "Quayside"),)


@pytest.mark.parametrize(("again", "is_named"), [(None, False), ("21:2000 01", False), ("21:20 0001", True)])
def test_a_number_that_rapidocr_joins_to_the_next_one_does_not_differ(again: str | None, is_named: bool) -> None:
    page = witness_of(f"{LETTER}\n21:200001")
    look = None if again is None else lambda places: [["21:200001", again] for _ in places]
    found = compare(f"{LETTER}\n21:28 0001", page, look)
    assert found.differences == ((Difference("21:28", "21:20"),) if is_named else ())


def test_nothing_is_looked_at_again_where_nothing_is_in_dispute() -> None:
    def look(_: Sequence[Corners]) -> list[list[str]]:
        raise AssertionError

    assert compare(LETTER, WITNESS, look).agreement == 1
    assert compare(OTHER, WITNESS, look).is_of_another_page


def test_a_line_that_rapidocr_did_not_find_is_looked_for_between_its_neighbours() -> None:
    lines = LETTER.split("\n")
    lacking = replace(WITNESS, boxes=tuple(box for at, box in enumerate(WITNESS.boxes) if at != 5))
    place = WITNESS.boxes[5].corners

    def look(places: Sequence[Corners]) -> list[list[str]]:
        near = [abs(one[1] - place[1]) < 100 and abs(one[0] - place[0]) < 100 for one in places]
        assert any(near)
        return [["", lines[5] if is_near else "which is elsewhere"] for is_near in near]

    assert compare(LETTER, lacking).unsupported == (lines[5].split(". ")[1],)
    assert not faults(compare(LETTER, lacking, look))
    invented = LETTER.replace(lines[5], "The meeting was closed at half past nine.")
    assert compare(invented, lacking, look).unsupported == ("The meeting was closed at half past nine.",)


# ── side by side ─────────────────────────────────────────────────────────────────────────────────


def beside(text: str, page: str) -> list[tuple[str, str]]:
    return [(text[row.start : row.end], row.page) for row in side_by_side(text, witness_of(page))]


def row_of(text: str, page: str, number: int) -> ComparedLine:
    return side_by_side(text, witness_of(page))[number]


def test_each_line_stands_beside_what_rapidocr_read_of_it_wherever_lines_end() -> None:
    text = "# Skarvholm Boat Club, founded\nin 1921\n\nthe slates came on Tuesday by boat\nall were broken\n"
    text += "we paid 8.70 for them"
    page = "Skarvholm Boat Club, founded in 1921\nthe slates came on\nTuesday by boat\nwe paid  8.20  for them\n"
    page += "signed Lindqvist"
    assert beside(text, page) == [
        ("# Skarvholm Boat Club, founded", "Skarvholm Boat Club, founded"),
        ("in 1921", "in 1921"),
        ("the slates came on Tuesday by boat", "the slates came on Tuesday by boat"),
        ("all were broken", ""),
        ("we paid 8.70 for them", "we paid 8.20 for them"),
        ("", "signed Lindqvist"),
    ]
    rows = side_by_side(text, witness_of(page))
    assert [row.is_different for row in rows] == [False, False, False, True, True, True]
    assert "70" in text[slice(*rows[4].text_marks[-1])]
    assert "20" in rows[4].page[slice(*rows[4].page_marks[-1])]
    assert len(rows[2].boxes) == 2


def test_lines_with_equal_letters_are_not_different() -> None:
    text = "Till 2 Clerk 06 15:21\nANTIFOULING RED 2.5 L 184.00"
    rows = side_by_side(text, witness_of(f"the old till was sold\n{text}"))
    assert [row.page for row in rows if row.is_different] == ["the old till was sold"], "where the other Till is"


def test_a_line_is_taken_left_out_or_added() -> None:
    text, page = (
        "first line here\nan invented remark\nthird line here",
        "first line here\nthird line hers\nsigned by Bob",
    )
    assert row_of(text, page, 1).taken(text) == "first line here\nthird line here"
    assert row_of(text, page, 2).taken(text) == "first line here\nan invented remark\nthird line hers"
    assert row_of(text, page, 3).taken(text) == f"{text}\nsigned by Bob"
    assert row_of("", page, 0).taken("") == "first line here"
    before = "third line here\nsigned by Bob"
    assert row_of(before, "first of all\nthird line here\nsigned by Bob", 0).taken(before) == f"first of all\n{before}"


def filled(start: int) -> str:
    """A form whose numbers are others for each start."""
    items = ("slates", "tar and pitch", "rope of hemp", "brass lamps", "two anchors")
    rows = "\n".join(
        f"{item} of the best kind  {start + 37 * n}.{50 + n}  {start * 3 + n}.10" for n, item in enumerate(items)
    )
    head = "Knutholm Ship Chandlers, Quay Street\nall goods are paid in cash at the counter"
    return f"{head}\n{rows}\nfair wind and welcome back"


def test_another_page_of_the_same_form_is_of_another_page() -> None:
    other = compare(filled(412).replace("  ", " "), witness_of(filled(158)))
    assert other.support is not None
    assert other.support > 0.7, "most letters are the form's"
    assert other.numbers == 0
    assert other.is_of_another_page
    spaced = compare(filled(158).replace("  ", " ").replace(".", " "), witness_of(filled(158)))
    assert not spaced.is_of_another_page, "the digits are the same, written in another way"
    misread = compare(
        filled(412).replace("  ", " "), witness_of(filled(158)), lambda places: [["4", "1"]] * len(places)
    )
    assert not misread.is_of_another_page, "RapidOCR reads the numbers differently each time"
    one_wrong = compare(filled(158).replace("  ", " ").replace("158.50", "153.50"), witness_of(filled(158)))
    assert not one_wrong.is_of_another_page
    assert one_wrong.numbers is None
