"""Questions with the pages that answer them: forty about the packaged samples, 144 about pages in six languages."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

LETTER = "letters/1954-lindqvist-letter.pdf"
FAX = "fax/1988-insurance.tif"
MINUTES = "minutes/1961 annual meeting.pdf"
YEARBOOK = "yearbook/yearbook-1993.pdf"
CARD = "scans/scan0007.jpg#1"
SLIP = "receipts/1987-05-12 chandler.jpg#1"
DUES = "ledger/1938-harbour-dues.pdf#1"
PHOTO = "photos/boathouse 1999.jpg#1"


@dataclass(frozen=True)
class Question:
    """What is asked, and the pages of which any is right."""

    kind: str
    text: str
    pages: tuple[str, ...]


PICTURES = {
    PHOTO: "A red wooden boathouse with a pitched roof stands at the edge of calm water under a pale evening sky. "
    "A small jetty leads to its door, a rowing boat is moored beside it, and its reflection shows in the bay.",
}
"""A caption as a vision model writes it: RapidOCR describes no picture."""


def _asked(kind: str, *pairs: tuple[str, str | tuple[str, ...]]) -> tuple[Question, ...]:
    return tuple(Question(kind, text, (pages,) if isinstance(pages, str) else pages) for text, pages in pairs)


QUESTIONS = (
    *_asked(
        "by meaning",
        ("a widow cannot sleep because of engine noise", f"{LETTER}#2"),
        ("how much did the insurer pay after the storm", (f"{FAX}#2", f"{FAX}#3")),
        ("rescue of shipwrecked sailors at night", f"{YEARBOOK}#4"),
        ("a cat that survived a sinking", f"{YEARBOOK}#4"),
        ("the clubhouse was destroyed by fire", f"{YEARBOOK}#3"),
        ("burglary of ropes and gear", f"{MINUTES}#2"),
        ("lessons for children who cannot swim", f"{MINUTES}#1"),
        ("an old man advised by his physician not to climb", f"{LETTER}#3"),
        ("shopping for paint and brushes", SLIP),
        ("an instrument for finding north", CARD),
    ),
    *_asked(
        "exact",
        ("1954/37-b", CARD),
        ("1954/37-a", f"{LETTER}#1"),
        ("LM-88-20417 schedule", f"{FAX}#3"),
        ("Schooner Fortuna", DUES),
        ("Bengt Zetterlund harbour", f"{FAX}#2"),
        ('"cork floats"', f"{MINUTES}#1"),
        ("355.50", SLIP),
        ("86300 kronor", f"{FAX}#3"),
        ("Tornblad 2216", CARD),
        ("Einar Rosenfeldt", f"{YEARBOOK}#4"),
    ),
    *_asked(
        "misread",
        ("Lindqvlst typewriter sextant", f"{LETTER}#1"),
        ("Zetteriund", (f"{FAX}#2", f"{FAX}#3")),
        ("Roscnfeldt", f"{YEARBOOK}#4"),
        ("Knutho1m chandlers", SLIP),
        ("antifou1ing", SLIP),
        ("Havsvaian", (f"{LETTER}#2", DUES)),
        ("Tornb1ad gimbals", CARD),
        ("honorarv member Ahlberq", f"{MINUTES}#2"),
        ("Margareta coastcr", f"{YEARBOOK}#4"),
        ("Falkenrnark claims", f"{FAX}#1"),
    ),
    *_asked(
        "by date",
        ("12.05.1987", SLIP),
        ("1988-10-18", (f"{FAX}#1", f"{FAX}#2")),
        ("11 March 1961", f"{MINUTES}#1"),
        ("14/09/1954", f"{LETTER}#1"),
        ("3.8.1954", CARD),
        ("17 maj 1931", f"{YEARBOOK}#3"),
    ),
    *_asked(
        "by picture",
        ("red wooden house by the sea", PHOTO),
        ("jetty and rowing boat in the evening", PHOTO),
        ("photograph of still water with a reflection", PHOTO),
        ("building at the shore at sunset", PHOTO),
    ),
)


def in_languages() -> tuple[dict[str, str], list[Question]]:
    """Return the pages of `languages.toml` by id, and the questions about them, by meaning, in each language."""
    table = tomllib.loads(Path(__file__).with_name("languages.toml").read_text(encoding="utf-8"))
    pages = {page_id: entry.pop("text").strip() for page_id, entry in table.items()}
    questions = [
        Question("same language" if page_id.startswith(language) else "other language", text, (page_id,))
        for page_id, entry in table.items()
        for language, text in entry.items()
    ]
    return pages, questions
