"""Make the sample archive: the papers of a boat club that never was, as scans.

Run it as `python examples/make_samples.py [OUT_DIR]`. It writes `archive/` (the files to be
read), `ground_truth/` (the true text of every page, pages separated by a form feed) and a
`README.md`. Without OUT_DIR these go to where the package keeps them.

Every name, firm, place, number and amount is invented. All drawing is seeded, so a second run
with the same versions of numpy, Pillow and PyMuPDF gives the same bytes.
"""

from __future__ import annotations

import argparse
import io
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pymupdf
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from PIL.TiffImagePlugin import AppendingTiffWriter, IFDRational

Array = npt.NDArray[np.float32]
Rng = np.random.Generator

DEFAULT_OUT: Final = Path(__file__).resolve().parents[1] / "kobold_reader" / "_samples"

# --------------------------------------------------------------------------------------------
# What stands on the pages
# --------------------------------------------------------------------------------------------

LETTER_PAGES: Final[tuple[tuple[str, ...], ...]] = (
    (
        ">Skarvholm, 14 September 1954",
        "Dear Ingrid,",
        (
            "Thank you for your card from the mountains. I ought to have answered in July, but you "
            "know how a summer goes here: the days are long and there is never one of them left "
            "over. Now the nets are hung up, it is dark by seven, and I sit in the boathouse with "
            "the lamp and the old typewriter."
        ),
        (
            "You asked what has become of Father's things. The sextant is with me. The ship's bell "
            "and the two compasses I have given to the club, and Sandell has entered them in his "
            "book, the bell as 1954/36 and the large compass as 1954/37-a, so that nobody can say "
            "afterwards that they were only lent. The bell hangs by the door already. The children "
            "ring it when they think I am not looking."
        ),
        (
            "The new slipway was ready on Midsummer Eve. The Nystrand brothers built it, and it "
            "came to 2,340 kronor, which is 190 more than they had promised us. Ekdahl turned "
            "every receipt over twice before he would pay. But it is a fine piece of work, oak "
            "below and larch above, and it will carry anything up to six tons. The first to be "
            "hauled up was the pilot's cutter, with the schoolmaster and half the town hanging on "
            "to the rope."
        ),
    ),
    (
        "^- 2 -",
        (
            "One matter has given me more trouble than all the rest together. In May the Nystrands "
            "put a two-cylinder diesel into Torsten Hallgren's fishing boat, and he leaves the "
            "quay at half past four every morning. Mrs Wiklund, who has the yellow house just "
            "above, has been down to see me three times. She says the thumping goes straight "
            "through her bedroom wall, that the cups rattle on their hooks, and that she has not "
            "slept one whole night since Whitsun. The last time she wept."
        ),
        (
            "I promised her that I would have a word with Torsten. He answered that the herring "
            "do not wait for widows to finish dreaming. We sat on his fish boxes for an hour and "
            "said nothing, as is his way, and then he offered this: he will row the boat out past "
            "the mole before he starts up, as long as the weather is fair. He has kept to it for "
            "two weeks. Yesterday a basket of herring stood on her steps."
        ),
        (
            "Of the boats I can tell you that Havsvalan leaks no longer. I took out four strakes "
            "on the port side and found the old repair from the year of the ice, done with tin and "
            "tar and good hope. She has been in the water since 9 June, and Karin, who is "
            "fourteen, has learned to steer her."
        ),
        "You would not know the harbour now. There are nineteen boats in it, and",
    ),
    (
        "^- 3 -",
        "only seven of them have sails.",
        (
            "About the money you sent: the 150 kronor went to the roof, as you wished. I bought "
            "400 tiles from the rectory barn, and there were enough left over for the wash-house. "
            "The rain of last week came down on the outside of the roof only, which is where it "
            "belongs."
        ),
        (
            "Doctor Ahlberg says that my hip is what one may expect at sixty-three and that I "
            "should keep off ladders. I told him that he should then come and paint the gable "
            "himself. It is to be red again. The tin of ochre from Knutholm's still stands where "
            "you left it."
        ),
        (
            "Come at Christmas if the ferry is running. Your room is dry, and there is a stove in "
            "it now. Bring the photographs of Mother if you have found them; Karin would like to "
            "see whom she takes after."
        ),
        "Your brother",
        "~",
        "Axel Lindqvist",
        "P.S. Do not let them sell you a new oilskin. Mine will do for you as well.",
    ),
)

MINUTES_HEAD: Final = (
    "SKARVHOLM BOAT CLUB",
    "Minutes of the Annual General Meeting",
    "held in the boathouse on Saturday 11 March 1961 at 3 p.m.",
)
MINUTES: Final[tuple[str, ...]] = (
    (
        "§ 1. The chairman, Axel Lindqvist, opened the meeting and welcomed thirty-one members. "
        "A minute's silence was kept for the late harbour master, August Hallgren."
    ),
    "§ 2. It was found that notice had been given in due time by a bill on the boathouse door.",
    (
        "§ 3. Karl-Erik Sandell was chosen to keep the minutes. Märta Wiklund and Gustav Nystrand "
        "were chosen to check them and to count the votes."
    ),
    (
        "§ 4. The report of the committee was read. Forty-four boats were moored in the harbour "
        "during the year, six more than in 1959. The dredging of the north basin was finished in "
        "October at a depth of 2.1 metres."
    ),
    (
        "§ 5. The treasurer, Olof Ekdahl, presented the accounts. Receipts amounted to 6,418 "
        "kronor and expenses to 5,972 kronor. The balance of 446 kronor is carried forward. The "
        "auditors had found every voucher in its place."
    ),
    "§ 6. The committee was freed from liability for the past year.",
    (
        "§ 7. The yearly fee was set at 35 kronor for grown members and 10 kronor for those under "
        "sixteen. A proposal by Mr Tornblad to raise it to 40 kronor was lost by twelve votes to "
        "nineteen."
    ),
    (
        "§ 8. Elections. Axel Lindqvist was chosen again as chairman for one year. Sandell, "
        "Ekdahl and Nystrand were chosen again for two years. In place of Elsa Ahlberg, who had "
        "asked to be released, the meeting chose Karin Lindqvist."
    ),
    (
        "§ 9. Winter storage. Since the shed holds only fourteen boats, lots shall be drawn each "
        "year on the first Sunday in September. Boats under five metres are to lie upside down "
        "behind the shed. Anyone who leaves a boat on the slipway after 15 October pays 5 kronor "
        "for each day."
    ),
    (
        "§ 10. The lantern on the mole. Gustav Nystrand told of the night of 2 December, when two "
        "boats missed the entrance because the flame had blown out. The meeting agreed to apply "
        "for electric light and to set aside 800 kronor for the cable."
    ),
    (
        "§ 11. Swimming school. Karin Lindqvist offered to teach the children of members in July, "
        "free of charge. Twenty-two names were put on the list the same evening. Ropes and cork "
        "floats are to be bought for no more than 60 kronor."
    ),
    (
        "§ 12. The regatta. The day was fixed as 5 August. The cup given by the Knutholm firm "
        "shall be sailed for in three classes. No one may win it who has not paid the fee."
    ),
    (
        "§ 13. A letter from the parish was read, asking that no tarring be done during service "
        "hours. The members promised to show consideration when the wind lies in the south-west."
    ),
    ("§ 14. Mr Tornblad asked who had the key to the flag cupboard. It could not be found out during the meeting."),
    (
        "§ 15. The committee was asked to find out what a telephone in the boathouse would cost. "
        "Mr Ahlberg thought that a man goes to sea in order not to be rung up, and was applauded."
    ),
    (
        "§ 16. Drinking water. The well behind the shed was tested in May and found good. The pump "
        "handle is to be taken off from November to March. Hans Rydell looks after it against an "
        "allowance of 15 kronor a year."
    ),
    (
        "§ 17. Theft. During the autumn two anchors and a coil of new hemp rope went missing from "
        "the open racks. The harbour master is to walk his round at ten in the evening as well, "
        "and strangers are to be asked their errand."
    ),
    (
        "§ 18. Honorary member. In view of thirty years of service the meeting made Elsa Ahlberg "
        "the first honorary member of the club. She thanked in a few words and asked to go on "
        "paying her fee."
    ),
    (
        "§ 19. The next meeting was fixed for Saturday 10 March 1962, unless the ice lies, in "
        "which case the skating comes first."
    ),
    (
        "§ 20. The chairman thanked all present and closed the meeting at half past five. Coffee "
        "was served by the ladies' circle, and 23 kronor were collected for the lifeboat."
    ),
)
MINUTES_SIGN: Final = ("Karl-Erik Sandell", "Checked: Märta Wiklund   Gustav Nystrand")


class Due(NamedTuple):
    """One line of the ledger; the amount is in öre."""

    date: str
    who: str
    what: str
    amount: int


_MOORINGS: Final = (
    ("T. Hallgren, Svanen", 1250),
    ("A. Lindqvist, Havsvalan", 850),
    ("G. Nystrand, Lotsen", 850),
    ("O. Ekdahl, Tärnan", 625),
    ("Widow Tornblad, Ejdern", 625),
)
LEDGER_HEAD: Final = ("Harbour Dues", "Skarvholm, year 1938", "Folio 12")
LEDGER_COLUMNS: Final = ("Date", "No.", "Name and boat", "For", "Kr.")
LEDGER: Final[tuple[Due, ...]] = (
    *(Due("2 May", who, "Mooring, May", amount) for who, amount in _MOORINGS),
    Due("14 May", "Schooner Fortuna", "Quay, 3 nights", 1800),
    *(Due("1 June", who, "Mooring, June", amount) for who, amount in _MOORINGS),
    Due("19 June", "T. Hallgren, Svanen", "Crane, one lift", 725),
    *(Due("1 July", who, "Mooring, July", amount) for who, amount in _MOORINGS),
    Due("9 July", "Schooner Fortuna", "Quay, 2 nights", 1200),
    Due("22 July", "G. Nystrand, Lotsen", "Nets left on quay", 300),
    *(Due("1 Aug.", who, "Mooring, August", amount) for who, amount in _MOORINGS),
)

RECEIPT: Final[tuple[str, ...]] = (
    "^KNUTHOLM SHIP CHANDLERS",
    "^Quay Street 9, Skarvholm",
    "^Telephone 218",
    "",
    "Receipt 004417    12 MAY 1987",
    "Till 2  Clerk 06        15:21",
    "------------------------------",
    "ANTIFOULING RED 2.5 L|184.00",
    "SHACKLE GALV. 8 MM|",
    "   4 x 6.50|26.00",
    "ROPE POLYESTER 12 MM|",
    "   15 M x 4.20|63.00",
    "LINSEED OIL 1 L|31.50",
    "BRUSH FLAT 50 MM|18.75",
    "BRUSH FLAT 50 MM|18.75",
    "SANDPAPER NO. 120|",
    "   6 x 2.25|13.50",
    "------------------------------",
    "TOTAL KR|355.50",
    "CASH|400.00",
    "CHANGE|44.50",
    "",
    "VAT INCLUDED 23.46 %|67.55",
    "",
    "^GOODS EXCHANGED WITHIN",
    "^14 DAYS WITH THIS SLIP",
    "^FAIR WIND AND WELCOME BACK",
)

CARD_HEAD: Final = "SKARVHOLM BOAT CLUB   INVENTORY"
CARD: Final[tuple[tuple[str, str], ...]] = (
    ("No.", "1954/37-b"),
    ("Object", "Boat compass in gimbals, the smaller of two"),
    ("Maker", "A. Tornblad, Vesterby, stamped 2216"),
    ("Material", "Brass bowl, dry card, oak box with sliding lid"),
    ("Measures", "Bowl 118 mm, box 210 x 210 x 165 mm"),
    ("Received", "3 August 1954, gift of Axel Lindqvist"),
    ("Place", "Cupboard 2, upper shelf"),
    ("Value", "85 kronor"),
    ("Condition", "Glass cracked at the rim. Needle sluggish."),
    ("Remarks", "Stood in the pilot boat Ejdern until 1929."),
    ("", "Lent to the school 12 April 1957,"),
    ("", "returned 2 May 1957 without the lid."),
)

FAX_STAMP: Final = "18-OCT-88 09:{minute}  LIGHTSHIP MUTUAL VESTERBY       PAGE 0{page}/03"
FAX_LETTERHEAD: Final = ("LIGHTSHIP MUTUAL", "Marine Insurance · Vesterby · Telefax 4410")
FAX_COVER: Final[tuple[str, ...]] = (
    "To:       Skarvholm Boat Club",
    "          Mrs Birgit Ekdahl, chairwoman",
    "From:     Stig Falkenmark, claims",
    "Date:     18 October 1988",
    "Pages:    3 with this one",
    "Subject:  Claim LM-88-20417",
    "",
    "Dear Mrs Ekdahl,",
    "",
    "Please find with this sheet our decision on",
    "the damage of 11 October and the schedule of",
    "our surveyor. Kindly return the schedule with",
    "your signature before the end of the month.",
    "",
    "Should a page be missing or hard to read,",
    "ring me on 4412 and I will send it once more.",
    "",
    "Stig Falkenmark",
)
FAX_LETTER: Final[tuple[str, ...]] = (
    "Claim LM-88-20417                18 October 1988",
    "",
    "Our surveyor, Bengt Zetterlund, visited the",
    "harbour on 14 October. He reports as follows.",
    "",
    "In the night of 11 October the wind stood in",
    "from the south-east with gusts of 34 metres a",
    "second. The water rose 1.4 metres above the",
    "mean and lifted the floating jetty off its",
    "chains. The jetty then broke against the mole",
    "and carried away the lower part of the slipway.",
    "",
    "Three boats were lost. The shed lost a third",
    "of its roof. Nobody was hurt.",
    "",
    "The policy covers jetty, slipway and shed. It",
    "does not cover the boats, which their owners",
    "must claim each from his own insurer. After",
    "the excess of 5,000 kronor we shall pay out",
    "81,300 kronor to the account of the club.",
    "",
    "Stig Falkenmark",
)
FAX_TABLE_HEAD: Final = ("SCHEDULE OF DAMAGE", "Claim LM-88-20417, surveyed 14 October 1988")
FAX_TABLE: Final[tuple[tuple[str, str], ...]] = (
    ("Floating jetty, 24 metres", "38,500"),
    ("Chains and ground tackle", "6,200"),
    ("Slipway, lower 7 metres", "21,900"),
    ("Winch, cleaning and oil", "1,450"),
    ("Shed roof, 62 square metres", "15,800"),
    ("Clearing of wreckage", "2,450"),
)
FAX_TOTALS: Final = (("Total kronor", "86,300"), ("Less excess", "5,000"), ("To be paid", "81,300"))
FAX_TABLE_SIGN: Final = ("Surveyor: Bengt Zetterlund", "For the club:")

BOOK_TITLE: Final[tuple[tuple[str, float, str], ...]] = (
    ("Skarvholm Boat Club", 30, "tibo"),
    ("Yearbook 1993", 20, "tiro"),
    ("Sixty-two years by the water", 13, "tiit"),
    ("Printed for the members in 150 copies", 10, "tiro"),
)
FOREWORD_HEAD: Final = "Foreword"
FOREWORD: Final[tuple[str, ...]] = (
    (
        "When I was asked to write a few lines for this yearbook, I went down to the boathouse to "
        "look for the old papers. They lay where Karl-Erik Sandell had put them: in a herring box "
        "under the workbench, wrapped in sailcloth and perfectly dry."
    ),
    (
        "There were letters and ledgers, a fax with the teeth of the machine still in its margin, "
        "and a receipt for red paint that must have been used on the very wall I was leaning "
        "against. Somebody had kept them all, and nobody had ever read them twice."
    ),
    (
        "This book is an attempt to read them twice. Where a name could not be made out, we have "
        "left a gap. Where we have guessed, we say so."
    ),
    (
        "My thanks go to Karin Lindqvist, who taught three generations to swim and who remembers "
        "what the papers leave out."
    ),
)
FOREWORD_SIGN: Final = ("Skarvholm in March 1993", "Birgit Ekdahl")
ARTICLE_HEAD: Final = "The first boathouse"
ARTICLE: Final[tuple[str, ...]] = (
    (
        "The club was founded on 17 May 1931 by eleven men and one woman, Elsa Ahlberg, who kept "
        "the list of members for thirty years. The first boathouse was a salt store, bought from "
        "the bankrupt estate of the merchant Rydell for 425 kronor and moved across the ice in "
        "February 1932 on sledges, behind six horses."
    ),
    (
        "It burned down on the night of 8 January 1940. The present house was raised on the same "
        "stones the following summer. The timber was given by the sawmill; the red colour was "
        "chosen by a vote of fourteen to three."
    ),
)
OFFICERS_HEAD: Final = "Chairmen and chairwomen of the club"
OFFICERS: Final[tuple[tuple[str, str], ...]] = (
    ("1931-1945", "August Hallgren"),
    ("1945-1966", "Axel Lindqvist"),
    ("1966-1979", "Gustav Nystrand"),
    ("1979-1984", "Karin Lindqvist"),
    ("1984-", "Birgit Ekdahl"),
)
CUTTING_HEAD: Final = ("Three saved from", "the Skarv shoal")
CUTTING_DATE: Final = "The Vesterby Courier, Tuesday 4 November 1947"
CUTTING_WORN: Final = ("Rosenfeldt", "Roscnfeldt")  # a worn type: its e prints as a c
CUTTING: Final[tuple[str, ...]] = (
    (
        "SKARVHOLM. The coaster Margareta, with a cargo of bricks, struck the Skarv shoal shortly "
        "after midnight on Sunday in thick snow. Her lights had failed, and the skipper, Einar "
        "Rosenfeldt, took the glow of the sawmill for the harbour."
    ),
    (
        "Two members of the boat club heard the shouting from the mole. Gustav Nystrand and a lad "
        "of seventeen rowed out in an open boat and took off the skipper, the mate and the cook, "
        "one after the other, by a line made fast to the rail. The vessel went down before four "
        "in the morning."
    ),
    (
        "The cook, who could not swim, saved the ship's cat inside his coat. All four were given "
        "soup by the pilot's wife."
    ),
)

README_TEXT: Final = """\
# The sample archive

The papers of the Skarvholm Boat Club, 1938 to 1999: what a small society might keep in a box
under the workbench. **Everything in it is invented and generated.** There is no such town, club,
firm or family; no page is a scan of real paper, and the photograph was painted by a program.
Any likeness to real persons is chance.

- `archive/` is the folder that gets read.
- `ground_truth/` holds, for every file of `archive/`, its true text: the same path with
  `.txt` added, UTF-8, pages separated by a form feed. It is empty for the blank sheet and for
  the photograph, which have no writing. Running heads and page numbers are included,
  signatures by hand are not. The cells of one table row are on one line. If a type is
  worn, the truth is what the printer meant: the newspaper's Rosenfeldt looks like Roscnfeldt.

| file | pages | what it is good for |
| --- | --- | --- |
| `letters/1954-lindqvist-letter.pdf` | 3 | typewriter, uneven ink, a sentence over a page break |
| `minutes/1961 annual meeting.pdf` | 2 | two columns: the left one is read to its end first |
| `ledger/1938-harbour-dues.pdf` | 1 | a ruled table whose lines repeat |
| `receipts/1987-05-12 chandler.jpg` | 1 | a narrow till slip |
| `scans/scan0007.jpg` | 1 | a card that lies on its side, with nothing in the file to say so |
| `scans/scan0008.jpg` | 1 | an empty sheet, its other side shining through |
| `fax/1988-insurance.tif` | 3 | bilevel at 204 x 196 dpi and at 204 x 98 dpi, then grey at 150 |
| `yearbook/yearbook-1993.pdf` | 4 | pages i, ii, 1, 2; i and 1 hold text, ii and 2 are scans |
| `photos/boathouse 1999.jpg` | 1 | camera data, a place, and orientation 6 |

`examples/make_samples.py` in the source distribution makes all of it again.

Licence: MIT, like the rest of the project.
"""

# --------------------------------------------------------------------------------------------
# Noise, paper and light
# --------------------------------------------------------------------------------------------


def f32(values: npt.ArrayLike) -> Array:
    """Numbers as 32-bit floats."""
    return np.asarray(values, dtype=np.float32)


def _resized(array: Array, width: int, height: int) -> Array:
    """An array brought to another size, smoothly."""
    image = Image.fromarray(array).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.float32)


def clouds(rng: Rng, shape: tuple[int, int], cell: float, octaves: int = 3) -> Array:
    """Smooth noise of about unit size whose largest blobs are `cell` pixels wide."""
    height, width = shape
    total = np.zeros(shape, dtype=np.float32)
    for octave in range(octaves):
        step = max(1.0, cell / 2**octave)
        rows, columns = int(height / step) + 3, int(width / step) + 3
        grid = rng.standard_normal((rows, columns)).astype(np.float32)
        total += _resized(grid, width, height) * np.float32(0.5**octave)
    return total / np.float32(1.1)


def blurred(array: Array, radius: float) -> Array:
    """An array of 0 to 1 after a Gaussian blur."""
    image = Image.fromarray((np.clip(array, 0, 1) * 255).astype(np.uint8))
    image = image.filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(image, dtype=np.float32) / np.float32(255)


def paper(rng: Rng, shape: tuple[int, int], tone: float, specks: int = 40) -> Array:
    """An empty sheet: a tone, blotches, fibres and specks of dirt."""
    sheet = np.full(shape, tone, dtype=np.float32)
    sheet += clouds(rng, shape, 500, 2) * np.float32(2.2)
    sheet += clouds(rng, shape, 16, 3) * np.float32(1.0)
    height, width = shape
    marks = Image.new("L", (width, height), 0)
    draw = ImageDraw.Draw(marks)
    for _ in range(specks * 3):
        x, y = float(rng.uniform(0, width)), float(rng.uniform(0, height))
        dx, dy = (float(v) for v in rng.normal(0, 7, 2))
        draw.line((x, y, x + dx, y + dy), fill=int(rng.integers(10, 26)))
    for _ in range(specks):
        x, y = float(rng.uniform(0, width)), float(rng.uniform(0, height))
        size = float(rng.exponential(0.7)) + 0.4
        draw.ellipse((x, y, x + size, y + size), fill=int(rng.integers(50, 190)))
    sheet -= np.asarray(marks.filter(ImageFilter.GaussianBlur(0.6)), dtype=np.float32)
    return sheet


def aged(rng: Rng, sheet: Array, strength: float) -> Array:
    """The sheet, browner towards its edges, as paper gets in a box."""
    height, width = sheet.shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    edge = np.minimum(np.minimum(x, width - x), np.minimum(y, height - y))
    edge = edge + clouds(rng, sheet.shape, 160, 5) * np.float32(14) + np.float32(8)
    return f32(sheet - strength * np.exp(-np.maximum(edge, 0) / 45))


def folds(rng: Rng, sheet: Array, rows: Sequence[float], columns: Sequence[float] = ()) -> Array:
    """The sheet with creases at these fractions of its height and width."""
    height, width = sheet.shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    wobble = clouds(rng, sheet.shape, 120, 2)
    for across, places, extent in ((y, rows, height), (x, columns, width)):
        for place in places:
            gap = across - np.float32(place * extent) + wobble
            sheet = f32(sheet - 15 * np.exp(-((gap - 1.5) ** 2) / 2.5))
            sheet = f32(sheet + 7 * np.exp(-((gap + 2) ** 2) / 6))
            shade = np.where(gap > 0, np.exp(-np.abs(gap) / np.float32(70)), np.float32(0))
            sheet = f32(sheet - 6 * shade)
    return sheet


def ring_stain(sheet: Array, x: float, y: float, radius: float, strength: float) -> Array:
    """The sheet with the ring of a coffee cup on it, stronger on one side."""
    height, width = sheet.shape
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    dx, dy = columns - np.float32(x), rows - np.float32(y)
    angle = np.arctan2(dy, dx)
    distance = np.hypot(dx, dy) - np.float32(radius) * (1 + np.float32(0.012) * np.sin(angle * 3))
    uneven = 0.55 + 0.45 * np.sin(angle + 0.8) * np.cos(angle * 2.3)
    ring = np.exp(-(distance**2) / 14) + 0.35 * np.exp(-((distance + 9) ** 2) / 60)
    inside = 0.12 / (1 + np.exp(np.clip(distance / 4, -30, 30)))
    return f32(sheet - strength * (ring * uneven + inside))


def damp_stain(rng: Rng, sheet: Array, x: float, y: float, radius: float) -> Array:
    """The sheet with a dried patch of water: a faint inside, a darker rim."""
    height, width = sheet.shape
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    ragged = clouds(rng, sheet.shape, radius * 0.6, 4) * np.float32(radius * 0.16)
    distance = np.hypot(columns - np.float32(x), rows - np.float32(y)) + ragged - radius
    inside = 1 / (1 + np.exp(np.clip(distance / 3, -30, 30)))
    rim = np.exp(-((distance + 3) ** 2) / 24)
    return f32(sheet - 5 * inside - 9 * rim)


def punched(sheet: Array, centres: Sequence[tuple[float, float]], radius: float) -> Array:
    """The sheet with punch holes; what lies under it is dark and the rim throws a shadow."""
    height, width = sheet.shape
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    for x, y in centres:
        distance = np.hypot(columns - np.float32(x), rows - np.float32(y))
        hole = 1 / (1 + np.exp(np.clip((distance - radius) * 1.6, -30, 30)))
        lit = np.hypot(columns - np.float32(x + 2.5), rows - np.float32(y + 2.5))
        floor = 70 + 26 / (1 + np.exp(np.clip((lit - radius) * 0.9, -30, 30)))
        sheet = f32(sheet * (1 - hole) + floor * hole)
    return sheet


def warped(image: Array, rng: Rng, degrees: float, shift: tuple[float, float], fill: float) -> Array:
    """The image turned, moved and a little wavy, as a sheet lies on the glass."""
    height, width = image.shape
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    angle = np.deg2rad(degrees)
    x, y = columns - width / 2 - shift[0], rows - height / 2 - shift[1]
    source_x = np.cos(angle) * x + np.sin(angle) * y + width / 2
    source_y = -np.sin(angle) * x + np.cos(angle) * y + height / 2
    source_x += clouds(rng, image.shape, 700, 1) * np.float32(1.2)
    source_y += clouds(rng, image.shape, 700, 1) * np.float32(1.6)
    left, top = np.floor(source_x).astype(int), np.floor(source_y).astype(int)
    part_x, part_y = source_x - left, source_y - top
    padded = np.pad(image, 1, constant_values=fill)

    def at(row: npt.NDArray[Any], column: npt.NDArray[Any]) -> Array:
        picked: Array = padded[np.clip(row + 1, 0, height + 1), np.clip(column + 1, 0, width + 1)]
        return picked

    upper = at(top, left) * (1 - part_x) + at(top, left + 1) * part_x
    lower = at(top + 1, left) * (1 - part_x) + at(top + 1, left + 1) * part_x
    return f32(upper * (1 - part_y) + lower * part_y)


@dataclass(frozen=True)
class Glass:
    """How a sheet was scanned."""

    skew: float = 0.5
    shift: tuple[float, float] = (3.0, 2.0)
    bed: float = 60.0
    blur: float = 0.65
    noise: float = 3.2
    light: float = 9.0
    spine: float = 0.0  # the shadow along the left edge, as of a bound volume


def scanned(sheet: Array, rng: Rng, glass: Glass) -> Image.Image:
    """What the scanner makes of a sheet."""
    height, width = sheet.shape
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    if glass.spine:
        sheet = f32(sheet - glass.spine * np.exp(-columns / (width * 0.035)))
    image = warped(sheet, rng, glass.skew, glass.shift, glass.bed)
    slope = (columns / width - 0.5) * 0.7 + (rows / height - 0.5) * 0.5
    image = image - np.float32(glass.light) * slope + clouds(rng, sheet.shape, 900, 1) * 1.5
    picture = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    image = np.asarray(picture.filter(ImageFilter.GaussianBlur(glass.blur)), dtype=np.float32)
    streaks = rng.normal(0, 0.5, (1, width))
    image = f32(image + rng.normal(0, glass.noise, image.shape) + streaks)
    return Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))


# --------------------------------------------------------------------------------------------
# Ink
# --------------------------------------------------------------------------------------------


@cache
def face(name: str, size: int) -> ImageFont.FreeTypeFont:
    """One of the fonts PyMuPDF carries, at a size in pixels."""
    return ImageFont.truetype(io.BytesIO(pymupdf.Font(name).buffer), size)


@dataclass
class Typewriter:
    """A machine with its habits: some types strike high, some faint, some are clogged."""

    rng: Rng
    size: int = 25
    pitch: float = 15.0
    face: str = "cour"
    habits: dict[str, tuple[float, float, float]] = field(default_factory=dict)

    def habit(self, letter: str) -> tuple[float, float, float]:
        """How far aside, how far up and how strongly this type strikes."""
        if letter not in self.habits:
            aside, up = (float(v) for v in self.rng.normal(0, 0.45, 2))
            self.habits[letter] = (aside, up, float(self.rng.uniform(0.78, 1.0)))
        return self.habits[letter]


class Sheet:
    """One page being inked, drawn at twice its size. All measures are in final pixels."""

    def __init__(self, width: int, height: int, rng: Rng) -> None:
        self.width, self.height, self.rng = width, height, rng
        self.layer: Array = np.zeros((height * 2, width * 2), dtype=np.float32)

    def _stamp(self, mask: Array, x: int, y: int) -> None:
        """Put a mask of ink down with its top left corner at x, y of the large layer."""
        rows, columns = self.layer.shape
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + mask.shape[1], columns), min(y + mask.shape[0], rows)
        if right > left and bottom > top:
            spot = self.layer[top:bottom, left:right]
            np.maximum(spot, mask[top - y : bottom - y, left - x : right - x], out=spot)

    def text(self, x: float, y: float, words: str, font: str, size: float, *, density: float = 0.95) -> None:
        """Print words with the top of their line at y."""
        drawn = face(font, round(size * 2))
        width = int(drawn.getlength(words)) + 12
        image = Image.new("L", (width, round(size * 2.9)), 0)
        ImageDraw.Draw(image).text((4, 0), words, fill=255, font=drawn)
        mask = np.asarray(image, dtype=np.float32) / np.float32(255) * np.float32(density)
        self._stamp(mask, round(x * 2) - 4, round(y * 2))

    def centred(self, y: float, words: str, font: str, size: float) -> None:
        """Print words in the middle of the sheet."""
        self.text((self.width - length(words, font, size)) / 2, y, words, font, size)

    def typed(self, x: float, y: float, words: str, machine: Typewriter) -> None:
        """Type words letter by letter."""
        rng = machine.rng
        drawn = face(machine.face, machine.size * 2)
        for place, letter in enumerate(words):
            if letter == " ":
                continue
            aside, up, strength = machine.habit(letter)
            image = Image.new("L", (machine.size * 2, machine.size * 3), 0)
            pen = ImageDraw.Draw(image)
            pen.text((8, 4), letter, fill=255, font=drawn, stroke_width=1, stroke_fill=200)
            mask = np.asarray(image, dtype=np.float32) / np.float32(255)
            force = strength * float(rng.uniform(0.82, 1.0))
            top, bottom = (float(v) for v in rng.uniform(0.8, 1.08, 2))
            slope = np.linspace(top, bottom, mask.shape[0], dtype=np.float32)[:, None]
            dx = aside + float(rng.normal(0, 0.3))
            dy = up + float(rng.normal(0, 0.3))
            left = round((x + place * machine.pitch + dx) * 2) - 8
            self._stamp(np.clip(mask * slope * force, 0, 1), left, round((y + dy) * 2) - 4)

    def rule(self, box: tuple[float, float, float, float], width: float, density: float) -> None:
        """Draw a straight line from x0, y0 to x1, y1, horizontal or vertical."""
        x0, y0, x1, y1 = box
        columns = max(1, round((x1 - x0) * 2)) if x1 > x0 else max(1, round(width * 2))
        rows = max(1, round((y1 - y0) * 2)) if y1 > y0 else max(1, round(width * 2))
        self._stamp(np.full((rows, columns), density, np.float32), round(x0 * 2), round(y0 * 2))

    def scrawl(self, x: float, y: float, width: float, height: float) -> None:
        """Sign by hand: a tall first letter, then loops that flatten out."""
        image = Image.new("L", (self.width * 2, self.height * 2), 0)
        pen = ImageDraw.Draw(image)
        t = np.linspace(0, 1, 1200)
        loops = float(self.rng.uniform(5.5, 9.5))
        knots = np.linspace(0, 1, 14)
        tall = np.interp(t, knots, self.rng.choice([0.3, 0.36, 0.45, 0.95], 14))
        wide = np.interp(t, knots, self.rng.uniform(0.4, 1.5, 14))
        drift = np.interp(t, knots, self.rng.uniform(-0.06, 0.1, 14))
        swell = tall * (1 - 0.55 * t) + 0.75 * np.exp(-t * 11)
        round_ = 6.283 * loops * (t + 0.02 * np.sin(t * 17))
        path_y = height * (drift - swell * (0.5 + 0.5 * np.sin(round_)) - t * 0.3)
        path_x = x + width * (t + 0.034 * wide * np.sin(round_ + 1.25)) - path_y * 0.28
        path_y = path_y + y
        speed = np.hypot(np.gradient(path_x), np.gradient(path_y))
        thick = np.clip(2.3 - speed * 0.35, 0.7, 2.2)
        for px, py, radius in zip(path_x * 2, path_y * 2, thick, strict=True):
            pen.ellipse((px - radius, py - radius, px + radius, py + radius), fill=205)
        tail_y = (y + height * 0.12) * 2
        pen.line((x * 2, tail_y, (x + width * 1.05) * 2, tail_y - height * 0.5), fill=170, width=2)
        self._stamp(np.asarray(image, dtype=np.float32) / np.float32(255), 0, 0)

    def ink(self, spread: float = 0.7, patchy: float = 0.16, grain: float = 0.1) -> Array:
        """The ink on the page at its final size: soaked in, patchy and grainy."""
        soaked = blurred(self.layer, spread) * np.float32(1.12)
        small = Image.fromarray((np.clip(soaked, 0, 1) * 255).astype(np.uint8))
        small = small.resize((self.width, self.height), Image.Resampling.BOX)
        ink = np.asarray(small, dtype=np.float32) / np.float32(255)
        shape = (self.height, self.width)
        ink = ink * (1 - np.float32(patchy) * np.clip(clouds(self.rng, shape, 150, 2), 0, 1.6))
        ink = ink * (1 - np.float32(grain) * np.abs(clouds(self.rng, shape, 2.2, 1)))
        return f32(np.clip(ink, 0, 1))


def length(words: str, font: str, size: float) -> float:
    """How wide words are in print."""
    return face(font, round(size * 2)).getlength(words) / 2


def inked(sheet: Array, ink: Array, black: float = 38.0, through: Array | None = None) -> Array:
    """Ink on a sheet, and under it what shines through of the other side (`through`)."""
    if through is not None:
        back = blurred(through[:, ::-1], 2.2)
        sheet = sheet - np.float32(26) * back
    return (sheet * (1 - ink) + np.float32(black) * ink).astype(np.float32)


def wrapped(words: str, fits: Callable[[str], bool]) -> list[str]:
    """A paragraph broken into lines that fit."""
    lines: list[str] = []
    line = ""
    for word in words.split():
        longer = f"{line} {word}".strip()
        if line and not fits(longer):
            lines.append(line)
            line = word
        else:
            line = longer
    return [*lines, line]


# --------------------------------------------------------------------------------------------
# Files
# --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Page:
    """A page of the archive and the text that stands on it."""

    image: Image.Image
    text: str


def jpeg(image: Image.Image, quality: int, dpi: int, exif: Image.Exif | None = None) -> bytes:
    """An image as JPEG bytes."""
    out = io.BytesIO()
    extra: dict[str, Any] = {} if exif is None else {"exif": exif}
    image.save(out, "JPEG", quality=quality, optimize=True, dpi=(dpi, dpi), **extra)
    return out.getvalue()


def pdf_bytes(document: pymupdf.Document, title: str, date: str) -> bytes:
    """A PDF with fixed dates and a fixed identifier."""
    stamp = f"D:{date}120000Z"
    document.set_metadata(
        {
            "title": title,
            "producer": "Skarvholm Scan Station 2.1",
            "creator": "",
            "creationDate": stamp,
            "modDate": stamp,
        }
    )
    mark = title.encode("utf-8").hex().ljust(32, "0")[:32]
    document.xref_set_key(-1, "ID", f"[<{mark}><{mark}>]")
    data: bytes = document.tobytes(garbage=3, deflate=True, no_new_id=True)
    return data


def scan_page(document: pymupdf.Document, image: Image.Image, dpi: int, quality: int) -> None:
    """Add a page that is one JPEG and nothing else."""
    width, height = image.width * 72 / dpi, image.height * 72 / dpi
    page = document.new_page(width=width, height=height)
    page.insert_image(page.rect, stream=jpeg(image, quality, dpi))


def scan_pdf(pages: Sequence[Page], title: str, date: str, dpi: int, quality: int) -> bytes:
    """A PDF of scanned pages."""
    document = pymupdf.open()
    for page in pages:
        scan_page(document, page.image, dpi, quality)
    return pdf_bytes(document, title, date)


# --------------------------------------------------------------------------------------------
# The letter
# --------------------------------------------------------------------------------------------

A4: Final = (1240, 1754)  # at 150 dpi
LEADING: Final = 49.0  # double-spaced


def typed_lines(paragraphs: Sequence[str], columns: int) -> list[str]:
    """A typed page as lines; '>' ranges right, '^' centres, '~' keeps room for a signature."""
    lines: list[str] = []
    for paragraph in paragraphs:
        mark, rest = paragraph[0], paragraph[1:]
        if mark == ">":
            lines += [rest.rjust(columns), ""]
        elif mark == "^":
            lines += [rest.center(columns).rstrip(), ""]
        elif mark == "~":
            lines += ["~", ""]
        else:
            lines += [*wrapped(paragraph, lambda line: len(line) <= columns), ""]
    return lines[:-1]


def letter() -> tuple[bytes, list[str]]:
    """The letter of 1954: three typed pages, folded twice, punched and filed."""
    rng = np.random.default_rng(1954)
    machine = Typewriter(rng)
    width, height = A4
    inks: list[Array] = []
    texts: list[str] = []
    for paragraphs in LETTER_PAGES:
        sheet = Sheet(width, height, rng)
        lines = typed_lines(paragraphs, 64)
        y = 128.0
        for line in lines:
            if line == "~":
                sheet.scrawl(170, y + 34, 300, 62)
            else:
                sheet.typed(152 + float(rng.normal(0, 0.7)), y, line, machine)
            y += LEADING
        texts.append("\n".join(line.strip() for line in lines if line != "~"))
        inks.append(sheet.ink(0.85, 0.16, 0.2))
    pages: list[Page] = []
    skews = (0.55, -0.8, 0.35)
    for number, (ink, text) in enumerate(zip(inks, texts, strict=True)):
        base = aged(rng, paper(rng, (height, width), 239 - number * 3), 20)
        base = folds(rng, base, (0.335, 0.665))
        if number == 1:
            base = ring_stain(base, 905, 1415, 118, 26)
        if number == 2:
            base = damp_stain(rng, base, 1120, 1500, 210)
        base = inked(base, ink, through=inks[number - 1] * np.float32(0.5))
        base = punched(base, ((71, height / 2 - 236), (71, height / 2 + 236)), 17)
        glass = Glass(skew=skews[number], shift=(5, 4 - number * 4), light=9, blur=0.7)
        pages.append(Page(scanned(base, rng, glass), text))
    return scan_pdf(pages, "Letter", "19981103", 150, 62), texts


# --------------------------------------------------------------------------------------------
# The minutes
# --------------------------------------------------------------------------------------------

SERIF_SIZE: Final = 27.0
SERIF_STEP: Final = 34.0
SERIF_GAP: Final = 12.0


def justified(sheet: Sheet, x: float, y: float, line: str, width: float, *, last: bool) -> None:
    """Print a line of serif type, stretched to the width unless it ends a paragraph."""
    words = line.split()
    natural = sum(length(word, "tiro", SERIF_SIZE) for word in words)
    gaps = max(1, len(words) - 1)
    space = length(" ", "tiro", SERIF_SIZE) if last else (width - natural) / gaps
    for word in words:
        sheet.text(x, y, word, "tiro", SERIF_SIZE)
        x += length(word, "tiro", SERIF_SIZE) + space


def column_lines(paragraphs: Sequence[str], width: float) -> list[tuple[str, bool]]:
    """Lines of a column, each with whether it ends its paragraph; '' parts paragraphs."""
    lines: list[tuple[str, bool]] = []
    for paragraph in paragraphs:
        broken = wrapped(paragraph, lambda line: length(line, "tiro", SERIF_SIZE) <= width)
        lines += [(line, False) for line in broken[:-1]]
        lines += [(broken[-1], True), ("", True)]
    return lines[:-1]


def print_column(sheet: Sheet, x: float, y: float, lines: Sequence[tuple[str, bool]], width: float) -> float:
    """Print lines below one another and say where the last one ended."""
    for line, last in lines:
        if line:
            justified(sheet, x, y, line, width, last=last)
        y += SERIF_STEP if line else SERIF_GAP
    return y


def column_depth(lines: Sequence[tuple[str, bool]]) -> float:
    """How deep lines will stand."""
    return sum(SERIF_STEP if line else SERIF_GAP for line, _ in lines)


def take_column(lines: list[tuple[str, bool]], depth: float) -> list[tuple[str, bool]]:
    """Take as many lines from the front as fit; no column begins with a gap."""
    taken: list[tuple[str, bool]] = []
    while lines and not lines[0][0]:
        lines.pop(0)
    while lines and column_depth([*taken, lines[0]]) <= depth:
        taken.append(lines.pop(0))
    return taken


def plain(lines: Sequence[tuple[str, bool]]) -> str:
    """Column lines as text."""
    return "\n".join(line for line, _ in lines).strip()


def minutes() -> tuple[bytes, list[str]]:
    """The minutes of 1961: printed in two columns, stapled, scanned from the volume."""
    rng = np.random.default_rng(1961)
    width, height = A4
    column, left, gutter = 488.0, 112.0, 46.0
    right = left + column + gutter
    lines = column_lines(MINUTES, column)
    first, second = Sheet(width, height, rng), Sheet(width, height, rng)

    first.centred(118, MINUTES_HEAD[0], "tibo", 42)
    first.centred(176, MINUTES_HEAD[1], "tiit", 32)
    first.centred(222, MINUTES_HEAD[2], "tiro", 25)
    first.rule((left, 274, right + column, 274), 1.5, 0.8)
    one, two = take_column(lines, 1310), take_column(lines, 1310)
    print_column(first, left, 300, one, column)
    print_column(first, right, 300, two, column)
    first.rule((left + column + gutter / 2, 306, left + column + gutter / 2, 1610), 1, 0.6)
    first.centred(1648, "1", "tiro", 22)

    half = column_depth(lines) / 2 + 25
    three, four = take_column(lines, half), take_column(lines, 1400)
    second.text(left, 96, "Annual General Meeting 1961", "tiit", 24)
    second.rule((left, 134, right + column, 134), 1.2, 0.7)
    depth = print_column(second, left, 160, three, column)
    print_column(second, right, 160, four, column)
    second.rule((left + column + gutter / 2, 166, left + column + gutter / 2, depth), 1, 0.6)
    second.scrawl(left + 20, depth + 105, 260, 50)
    second.text(left, depth + 126, MINUTES_SIGN[0], "tiit", 25)
    second.scrawl(right - 220, depth + 205, 230, 42)
    second.scrawl(right + 90, depth + 205, 250, 48)
    second.text(right - 320, depth + 226, MINUTES_SIGN[1], "tiit", 25)
    second.centred(1648, "2", "tiro", 22)

    texts = [
        "\n".join((*MINUTES_HEAD, "", plain(one), "", plain(two), "", "1")),
        "\n".join(
            (
                "Annual General Meeting 1961",
                "",
                plain(three),
                "",
                plain(four),
                "",
                *MINUTES_SIGN,
                "",
                "2",
            )
        ),
    ]
    inks = [sheet.ink(0.75, 0.13, 0.12) for sheet in (first, second)]
    pages: list[Page] = []
    for number, (ink, text) in enumerate(zip(inks, texts, strict=True)):
        base = aged(rng, paper(rng, (height, width), 233), 24)
        base = folds(rng, base, (), (0.5,) if number else ())
        if number:
            base = damp_stain(rng, base, 330, 1480, 170)
        base = inked(base, ink, 44, through=inks[1 - number] * np.float32(0.75))
        glass = Glass(skew=(-0.6, 0.9)[number], shift=(-2, 5), spine=(70.0, 25.0)[number], light=10)
        pages.append(Page(scanned(base, rng, glass), text))
    return scan_pdf(pages, "Minutes 1961", "19981103", 150, 60), texts


# --------------------------------------------------------------------------------------------
# The ledger
# --------------------------------------------------------------------------------------------


def kronor(amount: int) -> str:
    """Öre as the ledger writes them."""
    return f"{amount // 100}.{amount % 100:02d}"


def handwritten(sheet: Sheet, x: float, y: float, words: str, size: float) -> None:
    """Write words with a steel nib: letters dance a little and the ink comes and goes."""
    rng = sheet.rng
    pressure = float(rng.uniform(0.78, 0.95))
    for letter in words:
        pressure = float(np.clip(pressure + rng.normal(0, 0.04), 0.66, 1.0))
        sheet.text(x, y + float(rng.normal(0, 0.55)), letter, "tiit", size, density=pressure)
        x += length(letter, "tiit", size) + 0.6 + float(rng.normal(0, 0.25))


def ledger() -> tuple[bytes, list[str]]:
    """The harbour dues of 1938: a ruled page, written by hand."""
    rng = np.random.default_rng(1938)
    width, height = A4
    sheet = Sheet(width, height, rng)
    edges = (100.0, 236.0, 312.0, 700.0, 1010.0, 1150.0)
    top, step = 268.0, 46.0
    bottom = top + step * (len(LEDGER) + 3)

    sheet.centred(92, LEDGER_HEAD[0], "tibo", 50)
    sheet.centred(160, LEDGER_HEAD[1], "tiro", 29)
    sheet.text(1010, 110, LEDGER_HEAD[2], "tiit", 27)
    for x in edges:
        sheet.rule((x, top - 52, x, bottom), 1.3, 0.45)
    sheet.rule((edges[4] + 5, top - 52, edges[4] + 5, bottom), 1.0, 0.4)
    sheet.rule((edges[0], top - 52, edges[-1], top - 52), 2.4, 0.6)
    for x, title in zip(edges, LEDGER_COLUMNS, strict=False):
        sheet.text(x + 14, top - 44, title, "tibo", 25)
    for row in range(len(LEDGER) + 4):
        y = top + row * step
        sheet.rule((edges[0], y, edges[-1], y), 1.2, 0.5 if row == 0 else 0.28)

    def amount(y: float, value: int) -> None:
        figure = kronor(value)
        handwritten(sheet, edges[5] - 16 - length(figure, "tiit", 30) - len(figure), y, figure, 30)

    rows = ["  ".join(LEDGER_COLUMNS)]
    for number, due in enumerate(LEDGER, start=1):
        y = top + (number - 1) * step + 8
        for x, cell in zip(edges, (due.date, str(number), due.who, due.what), strict=False):
            handwritten(sheet, x + 12, y, cell, 30)
        amount(y, due.amount)
        rows.append(f"{due.date}  {number}  {due.who}  {due.what}  {kronor(due.amount)}")
    total = sum(due.amount for due in LEDGER)
    y = top + len(LEDGER) * step + 8
    handwritten(sheet, edges[3] + 12, y + step, "Carried forward", 30)
    amount(y + step, total)
    sheet.rule((edges[4] + 12, y + 2 * step - 10, edges[5] - 6, y + 2 * step - 10), 1.6, 0.85)
    rows.append(f"Carried forward  {kronor(total)}")

    text = "\n".join((LEDGER_HEAD[2], LEDGER_HEAD[0], LEDGER_HEAD[1], "", *rows))
    base = aged(rng, paper(rng, (height, width), 230, 70), 34)
    base = damp_stain(rng, base, 120, 1640, 240)
    ink = sheet.ink(0.7, 0.1, 0.1)
    base = inked(base, ink, 46, through=np.roll(ink, 23, axis=0) * np.float32(0.6))
    glass = Glass(skew=-0.45, shift=(-3, -4), spine=85, light=12, blur=0.7)
    page = Page(scanned(base, rng, glass), text)
    return scan_pdf([page], "Harbour dues 1938", "19981104", 150, 62), [text]


# --------------------------------------------------------------------------------------------
# The receipt, the card, the empty sheet
# --------------------------------------------------------------------------------------------


def receipt_lines() -> list[str]:
    """The till slip as lines of thirty letters."""
    lines: list[str] = []
    for line in RECEIPT:
        if line.startswith("^"):
            lines.append(line[1:].center(30).rstrip())
        elif "|" in line:
            name, price = line.split("|")
            lines.append(name.ljust(30 - len(price)) + price)
        else:
            lines.append(line)
    return lines


def receipt() -> tuple[bytes, list[str]]:
    """A till slip, crumpled, torn off askew, on the open scanner."""
    rng = np.random.default_rng(1987)
    width, height = 620, 1300
    sheet = Sheet(width, height, rng)
    machine = Typewriter(rng, size=26, pitch=16.2, face="cobo")
    lines = receipt_lines()
    for row, line in enumerate(lines):
        sheet.typed(64, 96 + row * 39, line, machine)
    ink = sheet.ink(0.8, 0.3, 0.3)
    ribbon = 0.82 + 0.12 * np.sin(np.arange(height, dtype=np.float32) / 95.0)[:, None]
    base = paper(rng, (height, width), 236, 15)
    base = folds(rng, base, (0.27, 0.61), (0.52,))
    crumple = clouds(rng, (height, width), 210, 3)
    base = f32(base + (np.roll(crumple, 6, axis=1) - crumple) * 24)
    base = inked(base, ink * ribbon.astype(np.float32), 62)

    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    teeth = np.abs((columns / 9) % 2 - 1) * 7
    torn = clouds(rng, (height, width), 30, 3) * 2
    outside = (rows < 40 + teeth + columns * 0.02) | (rows > 1242 + torn + columns * 0.035)
    outside |= (columns < 32) | (columns > 590)
    edge = blurred(outside.astype(np.float32), 7)
    base = f32(base - 30 * np.clip(edge - 0.2, 0, 1))
    base = f32(np.where(outside, 92 + clouds(rng, (height, width), 300, 2) * 4, base))
    shadow = blurred(np.roll(~outside, (6, 7), axis=(0, 1)).astype(np.float32), 6)
    base = f32(np.where(outside, base - 45 * shadow, base))
    image = scanned(base, rng, Glass(skew=1.1, shift=(0, 0), bed=92, light=14, noise=2.6))
    text = "\n".join(line.strip() for line in lines).strip()
    return jpeg(image, 66, 150), [text]


def card() -> tuple[bytes, list[str]]:
    """An index card, typed, and laid on the glass sideways."""
    rng = np.random.default_rng(37)
    width, height = 1240, 874
    sheet = Sheet(width, height, rng)
    machine = Typewriter(rng, size=27, pitch=15.6)
    sheet.text(84, 58, CARD_HEAD, "hebo", 31)
    sheet.rule((84, 108, width - 84, 108), 2.4, 0.8)
    lines = [CARD_HEAD, ""]
    for row, (label, value) in enumerate(CARD):
        y = 136 + row * 56
        sheet.text(84, y + 4, label, "helv", 22, density=0.8)
        sheet.typed(270, y, value, machine)
        sheet.rule((264, y + 38, width - 84, y + 38), 1, 0.35)
        lines.append(f"{label}  {value}".strip())
    base = aged(rng, paper(rng, (height, width), 224, 70), 26)
    base = ring_stain(base, 1085, 690, 92, 20)
    base = inked(base, sheet.ink(0.85, 0.18, 0.2), 42)
    base = punched(base, ((width / 2, height - 34),), 12)
    image = scanned(base, rng, Glass(skew=-0.7, shift=(4, -3), bed=48, light=8))
    return jpeg(image.transpose(Image.Transpose.ROTATE_270), 64, 150), ["\n".join(lines)]


def empty_sheet() -> tuple[bytes, list[str]]:
    """The empty back of a typed sheet: its front shines through, too faint to be read."""
    rng = np.random.default_rng(8)
    width, height = A4
    sheet = Sheet(width, height, rng)
    machine = Typewriter(rng)
    for row, line in enumerate(typed_lines(LETTER_PAGES[1], 64)):
        sheet.typed(152, 128 + row * LEADING, line, machine)
    front = blurred(sheet.ink()[:, ::-1], 3.4)
    base = aged(rng, paper(rng, (height, width), 237, 90), 20)
    base = folds(rng, base, (0.335, 0.665)) - np.float32(11) * front
    base = damp_stain(rng, base, 260, 330, 190)
    base = punched(base, ((width - 71, height / 2 - 236), (width - 71, height / 2 + 236)), 17)
    image = scanned(base, rng, Glass(skew=0.7, shift=(-6, 7), light=16, blur=0.8))
    return jpeg(image, 58, 150), [""]


# --------------------------------------------------------------------------------------------
# The fax
# --------------------------------------------------------------------------------------------


def bilevel(rng: Rng, sheet: Sheet, threshold: float) -> Image.Image:
    """What comes out of a fax machine: black or white, ragged edges, specks, a bad row or two."""
    ink = blurred(sheet.layer[::2, ::2], 0.8)
    ragged = ink + rng.normal(0, 0.085, ink.shape) + clouds(rng, ink.shape, 300, 2) * 0.03
    black = ragged > threshold
    height, width = ink.shape
    for _ in range(110):
        y, x = int(rng.integers(0, height - 3)), int(rng.integers(0, width - 3))
        black[y : y + int(rng.integers(1, 3)), x : x + int(rng.integers(1, 4))] = True
    for _ in range(3):
        y, x = int(rng.integers(0, height)), int(rng.integers(0, width // 2))
        black[y, x : x + int(rng.integers(60, 500))] ^= True
    black[:, width - 9 : width - 7] = rng.random((height, 2)) < 0.5
    return Image.fromarray((~black).astype(np.uint8) * 255).convert("1", dither=Image.Dither.NONE)


def fax_stamp(sheet: Sheet, page: int) -> str:
    """Put the sender's line on top of a page."""
    words = FAX_STAMP.format(minute=41 + page, page=page)
    sheet.text(60, 22, words, "cobo", 31)
    return " ".join(words.split())


def fax_letterhead(sheet: Sheet, y: float) -> float:
    """Put the insurer's head on a page and say where it ends."""
    sheet.text(200, y, FAX_LETTERHEAD[0], "hebo", 62)
    sheet.text(200, y + 84, FAX_LETTERHEAD[1], "helv", 33)
    sheet.rule((200, y + 142, 1560, y + 142), 5, 1)
    return y + 190


def fax_text(rng: Rng, page: int, lines: Sequence[str], head: bool) -> tuple[Sheet, str]:
    """A typed fax page at 204 x 196 dpi."""
    sheet = Sheet(1728, 2156, rng)
    machine = Typewriter(rng, size=40, pitch=24.0, face="cobo")
    stamp = fax_stamp(sheet, page)
    y = fax_letterhead(sheet, 130) + 40 if head else 210.0
    for line in lines:
        sheet.typed(200, y, line, machine)
        y += 66
    sheet.scrawl(760, y + 30, 420, 90)
    words = [*FAX_LETTERHEAD, ""] if head else []
    return sheet, "\n".join((stamp, *words, *(" ".join(line.split()) for line in lines)))


def fax_schedule(rng: Rng) -> Page:
    """The surveyor's schedule: kept in grey, at 150 dpi."""
    width, height = A4
    sheet = Sheet(width, height, rng)
    machine = Typewriter(rng, size=27, pitch=15.8)
    sheet.text(140, 150, FAX_TABLE_HEAD[0], "hebo", 42)
    sheet.text(140, 214, FAX_TABLE_HEAD[1], "helv", 27)
    left, middle, right, top, step = 140.0, 820.0, 1090.0, 300.0, 62.0
    rows = [*FAX_TABLE, *FAX_TOTALS]
    for row, (name, figure) in enumerate(rows):
        y = top + row * step
        sheet.rule((left, y, right, y), 2.5 if row in {0, len(FAX_TABLE)} else 1.2, 0.7)
        sheet.typed(left + 18, y + 16, name, machine)
        sheet.typed(right - 24 - 15.8 * len(figure), y + 16, figure, machine)
    bottom = top + len(rows) * step
    sheet.rule((left, bottom, right, bottom), 2.5, 0.7)
    for x in (left, middle, right):
        sheet.rule((x, top, x, bottom), 1.6, 0.7)
    sheet.typed(140, bottom + 120, FAX_TABLE_SIGN[0], machine)
    sheet.scrawl(620, bottom + 150, 300, 60)
    sheet.typed(140, bottom + 250, FAX_TABLE_SIGN[1], machine)
    sheet.rule((380, bottom + 276, 1000, bottom + 276), 1.2, 0.6)
    base = aged(rng, paper(rng, (height, width), 228, 50), 12)
    base = folds(rng, base, (0.5,))
    base = inked(base, sheet.ink(0.8, 0.16, 0.2), 62)
    image = scanned(base, rng, Glass(skew=0.6, shift=(2, 5), light=12, bed=80))
    lines = [*FAX_TABLE_HEAD, "", *(f"{name}  {figure}" for name, figure in rows)]
    return Page(image, "\n".join((*lines, "", *FAX_TABLE_SIGN)))


def fax() -> tuple[bytes, list[str]]:
    """A fax of three pages in one TIFF: fine, standard (flat pixels), and a grey copy."""
    rng = np.random.default_rng(1988)
    cover, cover_text = fax_text(rng, 1, FAX_COVER, head=True)
    body, body_text = fax_text(rng, 2, FAX_LETTER, head=False)
    schedule = fax_schedule(rng)
    fine = bilevel(rng, cover, 0.42)
    full = bilevel(rng, body, 0.42)
    standard = full.convert("L").resize((full.width, full.height // 2), Image.Resampling.BOX)
    standard = standard.point(lambda value: 255 if value > 140 else 0).convert("1")
    out = io.BytesIO()
    frames: list[tuple[Image.Image, dict[str, Any]]] = [
        (fine, {"compression": "group4", "dpi": (204, 196)}),
        (standard, {"compression": "group4", "dpi": (204, 98)}),
        (schedule.image, {"compression": "jpeg", "quality": 60, "dpi": (150, 150)}),
    ]
    with AppendingTiffWriter(out, new=True) as writer:
        for image, options in frames:
            image.save(writer, format="TIFF", **options)
            writer.newFrame()
    return out.getvalue(), [cover_text, body_text, schedule.text]


# --------------------------------------------------------------------------------------------
# The yearbook
# --------------------------------------------------------------------------------------------

BOOK_PAGE: Final = (420.0, 595.0)  # A5 in points


def book_title(page: pymupdf.Page) -> str:
    """Page i: the title, born digital."""
    heights = (190, 232, 262, 520)
    for (words, size, font), y in zip(BOOK_TITLE, heights, strict=True):
        x = (BOOK_PAGE[0] - pymupdf.get_text_length(words, fontname=font, fontsize=size)) / 2
        page.insert_text((x, y), words, fontname=font, fontsize=size)
    page.draw_line((150, 290), (270, 290), width=0.8)
    return "\n".join(words for words, _, _ in BOOK_TITLE)


def book_article(page: pymupdf.Page) -> str:
    """Page 1: an article and a table, born digital."""
    page.insert_text((52, 72), ARTICLE_HEAD, fontname="tibo", fontsize=18)
    lines: list[str] = []
    for paragraph in ARTICLE:
        lines += [*wrapped(paragraph, lambda line: length(line, "tiro", 11) <= 312), ""]
    y = 104
    for line in lines:
        page.insert_text((52, y), line, fontname="tiro", fontsize=11)
        y += 15
    page.insert_text((52, y + 18), OFFICERS_HEAD, fontname="tibo", fontsize=12)
    y += 28
    for years, name in OFFICERS:
        page.draw_line((52, y), (368, y), width=0.4)
        page.insert_text((58, y + 14), years, fontname="tiro", fontsize=11)
        page.insert_text((150, y + 14), name, fontname="tiro", fontsize=11)
        y += 20
    page.draw_line((52, y), (368, y), width=0.4)
    page.insert_text((207, 560), "1", fontname="tiro", fontsize=10)
    table = (f"{years}  {name}" for years, name in OFFICERS)
    return "\n".join((ARTICLE_HEAD, "", *lines, OFFICERS_HEAD, *table, "", "1"))


def book_foreword(rng: Rng) -> Page:
    """Page ii: the foreword, scanned from the printed book."""
    width, height = 1050, 1488  # A5 at 180 dpi
    sheet = Sheet(width, height, rng)
    sheet.text(130, 150, FOREWORD_HEAD, "tibo", 46)
    lines = column_lines(FOREWORD, 790)
    y = print_column(sheet, 130, 250, lines, 790)
    sheet.text(130, y + 50, FOREWORD_SIGN[0], "tiro", SERIF_SIZE)
    sheet.scrawl(560, y + 150, 270, 62)
    sheet.text(560, y + 168, FOREWORD_SIGN[1], "tiit", SERIF_SIZE)
    sheet.centred(1400, "ii", "tiro", 23)
    ink = sheet.ink(0.7, 0.1, 0.08)
    base = inked(paper(rng, (height, width), 231, 25), ink, 40, through=ink * np.float32(0.35))
    image = scanned(base, rng, Glass(skew=-0.5, shift=(-3, 4), spine=95, light=8, bed=70))
    return Page(image, "\n".join((FOREWORD_HEAD, "", plain(lines), "", *FOREWORD_SIGN, "", "ii")))


def book_cutting(rng: Rng) -> Page:
    """Page 2: a newspaper cutting, pasted in and scanned."""
    width, height = 1050, 1488
    sheet = Sheet(width, height, rng)
    sheet.text(208, 196, CUTTING_HEAD[0], "tibo", 62)
    sheet.text(208, 266, CUTTING_HEAD[1], "tibo", 62)
    sheet.rule((208, 352, 842, 352), 1.6, 0.8)
    lines = column_lines(CUTTING, 634)
    print_column(sheet, 208, 378, [(line.replace(*CUTTING_WORN), last) for line, last in lines], 634)
    ink = sheet.ink(1.0, 0.12, 0.3)
    shape = (height, width)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    rough = clouds(rng, shape, 90, 2) * 3
    end = 378 + column_depth(lines) + 40
    inside = (columns > 168 + rough) & (columns < 886 + rough + rows * 0.008)
    inside &= (rows > 160 + rough) & (rows < end + rough - columns * 0.012)
    back = paper(rng, shape, 230, 25)
    shadow = blurred(np.roll(inside, (5, 4), axis=(0, 1)).astype(np.float32), 4)
    news = f32(paper(rng, shape, 208, 160) - 6 * np.abs(clouds(rng, shape, 3, 1)))
    news = inked(news, ink, 58, through=np.roll(ink, 15, axis=0) * np.float32(0.9))
    base = f32(np.where(inside, news, back - 55 * shadow))
    note = Sheet(width, height, rng)
    handwritten(note, 208, 98, CUTTING_DATE, 29)
    note.centred(1400, "2", "tiro", 23)
    base = inked(base, note.ink(0.7, 0.1, 0.1), 52)
    image = scanned(base, rng, Glass(skew=0.4, shift=(4, 3), spine=60, light=9, bed=70))
    return Page(image, "\n".join((CUTTING_DATE, "", *CUTTING_HEAD, "", plain(lines), "", "2")))


def yearbook() -> tuple[bytes, list[str]]:
    """The yearbook: pages i and 1 hold text, ii and 2 are scans."""
    rng = np.random.default_rng(1993)
    document = pymupdf.open()
    width, height = BOOK_PAGE
    title = book_title(document.new_page(width=width, height=height))
    foreword = book_foreword(rng)
    scan_page(document, foreword.image, 180, 58)
    article = book_article(document.new_page(width=width, height=height))
    cutting = book_cutting(rng)
    scan_page(document, cutting.image, 180, 58)
    document.set_page_labels(
        [
            {"startpage": 0, "prefix": "", "style": "r", "firstpagenum": 1},
            {"startpage": 2, "prefix": "", "style": "D", "firstpagenum": 1},
        ]
    )
    data = pdf_bytes(document, "Skarvholm Boat Club Yearbook 1993", "19930402")
    return data, [title, foreword.text, article, cutting.text]


# --------------------------------------------------------------------------------------------
# The photograph
# --------------------------------------------------------------------------------------------

SCENE: Final = (900, 1200)  # as one sees it; everything is painted at twice that
HORIZON: Final = 560.0
Colour = tuple[int, int, int]
Points = Sequence[tuple[float, float]]


class Canvas:
    """A picture painted at twice its size; measures are in final pixels."""

    def __init__(self, pixels: Array) -> None:
        self.image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        self.draw = ImageDraw.Draw(self.image)

    def shape(self, points: Points, colour: Colour) -> None:
        """Fill a polygon."""
        self.draw.polygon([(x * 2, y * 2) for x, y in points], fill=colour)

    def line(self, points: Points, colour: Colour, width: float) -> None:
        """Draw a line."""
        self.draw.line([(x * 2, y * 2) for x, y in points], fill=colour, width=round(width * 2))

    def pixels(self) -> Array:
        """The picture as an array."""
        return np.asarray(self.image, dtype=np.float32)

    def rough(self, points: Points, texture: Array) -> None:
        """Multiply what lies inside a polygon by a texture."""
        mask = Image.new("L", self.image.size, 0)
        ImageDraw.Draw(mask).polygon([(x * 2, y * 2) for x, y in points], fill=255)
        inside = np.asarray(mask, dtype=np.float32)[:, :, None] / np.float32(255)
        pixels = self.pixels()
        changed = pixels * (1 - inside) + pixels * texture[:, :, None] * inside
        self.image = Image.fromarray(np.clip(changed, 0, 255).astype(np.uint8))
        self.draw = ImageDraw.Draw(self.image)

    def shade(self, points: Points, amount: float, soft: float, texture: Array | None) -> None:
        """Darken a polygon with soft edges; a texture breaks the shadow up."""
        mask = Image.new("L", self.image.size, 0)
        ImageDraw.Draw(mask).polygon([(x * 2, y * 2) for x, y in points], fill=255)
        soft_mask = mask.filter(ImageFilter.GaussianBlur(soft * 2))
        part = np.asarray(soft_mask, dtype=np.float32) / np.float32(255)
        if texture is not None:
            part = np.clip(part * (1 + texture * 0.8), 0, 1)
        pixels = self.pixels() * (1 - amount * part)[:, :, None]
        self.image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        self.draw = ImageDraw.Draw(self.image)


def ripples(rng: Rng, cell: float) -> Array:
    """Small waves, wider than they are high, as a texture of the large picture."""
    width, height = SCENE[0] * 2, SCENE[1] * 2
    return _resized(clouds(rng, (height, width // 5), cell, 3), width, height)


def mixed(low: Sequence[float], high: Sequence[float], part: Array) -> Array:
    """Two colours blended by an array of 0 to 1."""
    first, second = np.array(low, np.float32), np.array(high, np.float32)
    return (first + (second - first) * part[..., None]).astype(np.float32)


def photo_sky(rng: Rng) -> Array:
    """An evening sky with thin clouds."""
    width, height = SCENE[0] * 2, SCENE[1] * 2
    down = np.clip(np.arange(height, dtype=np.float32) / (HORIZON * 2), 0, 1)
    part = np.broadcast_to(down[:, None] ** 1.25, (height, width)).astype(np.float32)
    sky = mixed((96, 134, 176), (240, 228, 206), part)
    bank = _resized(clouds(rng, (height, width // 5), 190, 5), width, height)
    cover = 1 / (1 + np.exp(-(bank - 0.35 + 0.5 * (0.6 - part)) * 3.2))
    cover = (cover * (0.75 - 0.25 * part)).astype(np.float32)
    lit = clouds(rng, (height, width), 150, 4) * 6
    white = mixed((208, 206, 212), (255, 236, 210), part) + lit[:, :, None]
    return (sky * (1 - cover[..., None]) + white * cover[..., None]).astype(np.float32)


def shoreline() -> Array:
    """For every column of the large picture, the row where land or air meets water."""
    x = np.arange(SCENE[0] * 2, dtype=np.float32) / 2
    step = np.clip((x - 330) / 190, 0, 1)
    smooth = step * step * (3 - 2 * step)
    bumps = np.sin(x / 17) * 2.2 + np.sin(x / 6.3) * 1.2
    return (HORIZON + smooth * (142 + (x - 520) * 0.05 + bumps)).astype(np.float32)


def photo_land(rng: Rng, canvas: Canvas) -> None:
    """Far islands, the wooded shore and the granite under the boathouse."""
    xs = np.arange(0, SCENE[0] + 1, 2)
    for base, rise, colour, start in (
        (HORIZON, 16.0, (128, 140, 150), 0),
        (HORIZON, 26.0, (92, 108, 112), 190),
    ):
        bumps = clouds(rng, (1, len(xs)), 70, 5)[0]
        fade = np.clip((xs - start) / 120, 0, 1)
        tops = base - np.abs(bumps + 0.7) * rise * fade
        outline = [(float(x), float(y)) for x, y in zip(xs, tops, strict=True)]
        canvas.shape([*outline, (SCENE[0], HORIZON + 2), (0, HORIZON + 2)], colour)
    ground = [(398, 568), (440, 550), (520, 538), (660, 516), (SCENE[0], 500), (SCENE[0], 760)]
    canvas.shape([*ground, (398, 720)], (62, 68, 46))
    leaves(rng, canvas, (396, 490, 532, 604), 900)
    for x in np.sort(rng.uniform(560, 920, 150)):
        tall = float(rng.uniform(70, 190)) * min(1.0, (x - 520) / 160)
        foot = 520.0 + float(rng.uniform(-6, 40))
        green = int(rng.integers(38, 66))
        colour = (green - 8, green + 6, green - 10)
        for level in range(9):
            part = level / 9
            half = (1 - part) * tall * 0.17 * float(rng.uniform(0.6, 1.25)) + 1.5
            y = foot - tall * part
            lean = float(rng.normal(0, 2))
            points = [(x - half, y + 6), (x + lean, y - tall * 0.16), (x + half, y + 6)]
            canvas.shape(points, colour)
            lit = (colour[0] + 20, colour[1] + 16, colour[2] + 6)
            tip = (x + lean - half * 0.2, y - tall * 0.1)
            canvas.shape([(x - half, y + 6), tip, (x - half * 0.35, y + 5)], lit)
    leaves(rng, canvas, (838, 906, 572, 662), 1300)
    shore = shoreline()
    line = [(float(x), float(shore[int(x * 2)])) for x in range(345, SCENE[0], 3)]
    ridge = clouds(rng, (1, len(line)), 30, 4)[0]
    crest: list[tuple[float, float]] = []
    for (x, y), bump in zip(line, ridge, strict=True):
        lift = float(np.clip((x - 345) / 110, 0, 1)) * (74 + float(bump) * 11)
        crest.append((x, y - lift))
    rock = [*crest, (SCENE[0], 760), *reversed(line)]
    canvas.shape(rock, (158, 142, 130))
    size = (SCENE[1] * 2, SCENE[0] * 2)
    grain = 1 + clouds(rng, size, 60, 5) * 0.17 + clouds(rng, size, 6, 2) * 0.07
    cracks = np.abs(clouds(rng, size, 120, 4))
    grain *= np.where(cracks < 0.035, 0.62, 1.0)
    rows = np.arange(size[0], dtype=np.float32)[:, None]
    wet = np.clip((shore[None, :] * 2 - rows) / 44, 0, 1)
    grain *= 0.42 + 0.58 * wet
    canvas.rough(rock, grain.astype(np.float32))


def leaves(rng: Rng, canvas: Canvas, box: tuple[float, float, float, float], many: int) -> None:
    """Bushes: many small blots, the upper ones catching the light."""
    left, right, top, bottom = box
    for _ in range(many):
        x, y = float(rng.uniform(left, right)), float(rng.beta(2.2, 1.2)) * (bottom - top) + top
        size = float(rng.uniform(0.8, 2.8))
        sun = float(np.clip(1.25 - (y - top) / (bottom - top) + rng.normal(0, 0.25), 0.2, 1.5))
        colour = (round(66 * sun + 14), round(80 * sun + 14), round(36 * sun + 12))
        spot = [(x - size, y), (x, y - size * 1.2), (x + size, y - 1), (x + size * 0.4, y + size)]
        canvas.shape(spot, colour)


def boards(rng: Rng, pitch: float, strength: float) -> Array:
    """Upright boards as a texture of the large picture."""
    width, height = SCENE[0] * 2, SCENE[1] * 2
    x = np.arange(width, dtype=np.float32)
    tones = 1 + rng.normal(0, 0.05, width // int(pitch) + 2)
    tone = tones[(x / pitch).astype(int)]
    gap = np.where((x % pitch) < 2.2, 1 - strength, 1.0)
    streaks = 1 + _resized(clouds(rng, (height // 20, width), 4, 2), width, height) * 0.05
    return f32(streaks * (tone * gap)[None, :])


def photo_house(rng: Rng, canvas: Canvas) -> None:
    """The red boathouse, its gable in the evening sun, its long side in the shade."""
    gable = [(470, 652), (470, 486), (560, 398), (650, 486), (650, 652)]
    side = [(650, 652), (650, 486), (858, 500), (858, 640)]
    roof = [(556, 386), (792, 412), (878, 506), (658, 492)]
    for x in (476, 520, 600, 644):
        canvas.shape([(x - 7, 690), (x - 7, 648), (x + 7, 648), (x + 7, 690)], (88, 80, 76))
    canvas.shape([(470, 668), (470, 648), (858, 638), (858, 655)], (46, 40, 38))
    canvas.shape(gable, (172, 58, 44))
    canvas.rough(gable, boards(rng, 15, 0.45))
    canvas.shape(side, (112, 38, 34))
    canvas.rough(side, boards(rng, 13, 0.4))
    canvas.shape([(650, 486), (858, 500), (858, 516), (650, 506)], (64, 24, 24))
    canvas.shape(roof, (84, 76, 78))
    size = (SCENE[1] * 2, SCENE[0] * 2)
    tiles = np.arange(size[0], dtype=np.float32)[:, None] % 15
    slope = np.where(tiles < 3, 0.72, 1.0) * (1 + clouds(rng, size, 12, 3) * 0.12)
    canvas.rough(roof, slope.astype(np.float32))
    canvas.line([(462, 494), (560, 390), (658, 494)], (232, 222, 206), 7)
    canvas.line([(462, 498), (560, 395), (658, 498)], (120, 84, 74), 2)
    for x in (473, 647):
        canvas.line([(x, 490), (x, 650)], (226, 214, 198), 6)
    canvas.line([(855, 502), (855, 640)], (150, 142, 140), 5)
    doors = [(512, 652), (512, 532), (608, 532), (608, 652)]
    canvas.shape(doors, (52, 62, 60))
    canvas.rough(doors, boards(rng, 17, 0.35))
    canvas.line([(510, 653), (510, 530), (610, 530), (610, 653)], (222, 210, 194), 5)
    canvas.line([(560, 532), (560, 652)], (30, 34, 34), 2)
    canvas.shape([(542, 444), (542, 486), (578, 486), (578, 444)], (56, 66, 80))
    canvas.shape([(544, 446), (559, 446), (559, 464), (544, 464)], (206, 190, 158))
    window = [(542, 444), (542, 486), (578, 486), (578, 444), (542, 444)]
    canvas.line(window, (230, 220, 206), 4)
    canvas.line([(560, 444), (560, 486)], (230, 220, 206), 2.5)
    canvas.line([(542, 465), (578, 465)], (230, 220, 206), 2.5)
    for x in (706, 782):
        pane = [(x, 544), (x, 588), (x + 34, 588), (x + 34, 545)]
        canvas.shape(pane, (50, 58, 66))
        canvas.line([*pane, pane[0]], (156, 148, 146), 4)
        canvas.line([(x + 17, 545), (x + 17, 588)], (156, 148, 146), 2.5)
    canvas.line([(424, 622), (424, 366)], (206, 200, 192), 3)
    flag = [(425, 370), (446, 379), (468, 374), (492, 388), (468, 392), (446, 396), (425, 389)]
    canvas.shape(flag, (206, 196, 184))
    canvas.shape([(425, 376), (492, 387), (474, 390), (425, 384)], (150, 52, 46))
    leaves(rng, canvas, (384, 474, 616, 662), 700)
    leaves(rng, canvas, (634, 716, 636, 676), 420)
    eaves = [(470, 486), (560, 398), (650, 486), (650, 512), (560, 426), (470, 512)]
    canvas.shade(eaves, 0.4, 3, None)
    canvas.shade([(470, 600), (650, 600), (650, 654), (470, 654)], 0.25, 14, None)
    canvas.shade([(652, 486), (860, 500), (860, 528), (652, 520)], 0.45, 4, None)
    canvas.shade([(455, 640), (870, 630), (870, 668), (455, 678)], 0.4, 6, None)


def photo_water(rng: Rng, scene: Array) -> Array:
    """The harbour: the scene mirrored, broken up by small waves."""
    height, width, _ = scene.shape
    shore = shoreline()[None, :] * 2
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    depth = np.maximum(rows - HORIZON * 2, 0) / (height - HORIZON * 2)
    waves = np.zeros((height, width), dtype=np.float32)
    for near, cell, squeeze in ((0.05, 10, 5), (0.3, 26, 5), (0.75, 60, 4)):
        field_ = _resized(clouds(rng, (height, width // squeeze), cell / 2, 6), width, height)
        waves += field_ * np.exp(-(((depth - near) / 0.27) ** 2))
    below = np.maximum(rows - shore, 0)
    shift = waves * (0.5 + 37 * depth)
    source = np.clip(2 * shore - rows - below * 0.05 - np.abs(shift), 0, height - 1)
    aside = np.clip(columns + waves * (2 + 12 * depth), 0, width - 1)
    mirror = scene[source.astype(int), aside.astype(int)]
    deep = mixed((112, 132, 142), (34, 58, 66), np.sqrt(depth))
    far = np.exp(-depth / np.float32(0.07)) * np.clip((900 - columns) / 200, 0, 1)
    clear = (0.74 - 0.38 * depth + 0.1 * waves - 0.5 * far)[..., None]
    water = mirror * clear + deep * (1 - clear)
    water = water + (waves * (3 + 15 * depth))[..., None]
    sun = np.exp(-(((columns - 330) / 520) ** 2)) * np.clip(depth * 9 - 0.2, 0, 1)
    glint = np.clip(waves - 1.2, 0, 1) * 95 * sun
    water = water + glint[..., None] * np.array((1.0, 0.9, 0.7), np.float32)
    edge = np.exp(-(((rows - shore) / 5) ** 2)) * (columns > 690)
    water = water * (1 - 0.45 * edge[..., None])
    return np.where((rows >= shore)[..., None], water, scene).astype(np.float32)


def photo_far_boats(rng: Rng, canvas: Canvas) -> None:
    """Two yachts at their moorings."""
    for x, y, size in ((176.0, 604.0, 1.0), (292.0, 584.0, 0.6)):
        hull = [(-46, -9), (50, -12), (38, 3), (-38, 3)]
        canvas.shape([(x + a * size, y + b * size) for a, b in hull], (228, 224, 216))
        canvas.line([(x - 40 * size, y + 2), (x + 40 * size, y + 2)], (44, 56, 70), 2.4 * size)
        cabin = [(-18, -10), (-14, -19), (16, -19), (22, -11)]
        canvas.shape([(x + a * size, y + b * size) for a, b in cabin], (196, 186, 172))
        canvas.line([(x + 6 * size, y - 12), (x + 6 * size, y - 128 * size)], (74, 62, 54), 1.6)
        canvas.line([(x + 6 * size, y - 126 * size), (x + 49 * size, y - 12)], (96, 92, 92), 0.5)
        canvas.line([(x + 6 * size, y - 126 * size), (x - 45 * size, y - 9)], (96, 92, 92), 0.5)
        boom = [(x + 6 * size, y - 24 * size), (x - 40 * size, y - 21 * size)]
        canvas.line(boom, (206, 200, 188), 3.4 * size)
        mirror = [(x - 40 * size, y + 4), (x + 40 * size, y + 4), (x, y + 44 * size)]
        canvas.shade(mirror, -0.3, 4 * size, ripples(rng, 5))
        mast = [(x + 4 * size, y + 6), (x + 8 * size, y + 6), (x + 6 * size, y + 120 * size)]
        canvas.shade(mast, 0.5, 1.2, ripples(rng, 4))


def photo_jetty(rng: Rng, canvas: Canvas) -> None:
    """The jetty, running from the boathouse to one's feet."""
    near_left, near_right, far_left, far_right, far = 20.0, 318.0, 446.0, 480.0, 684.0

    def edge(part: float) -> tuple[float, float, float]:
        left = far_left + (near_left - far_left) * part
        right = far_right + (near_right - far_right) * part
        return left, right, far + (SCENE[1] + 14 - far) * part

    waves = ripples(rng, 14)
    canvas.shade([(470, 700), (318, 1204), (452, 1204), (482, 720)], 0.5, 9, waves)
    for part in (0.02, 0.05, 0.1, 0.19, 0.34, 0.62):
        left, right, y = edge(part)
        wide, tall = 3 + 17 * part, 14 + 118 * part
        for x in (left + wide * 0.4, right - wide * 0.4):
            post = [(x - wide, y), (x - wide, y + tall), (x + wide, y + tall), (x + wide, y)]
            canvas.shape(post, (44, 38, 34))
            foot = [(x - wide, y + tall), (x + wide, y + tall), (x, y + tall * 1.9)]
            canvas.shade(foot, 0.55, 1 + 3 * part, waves)
    start, end = edge(0.0), edge(1.0)
    drop = [(start[0], start[2] + 5), (end[0] - 6, end[2] + 40), (end[1] + 8, end[2] + 40)]
    canvas.shape([*drop, (start[1], start[2] + 6)], (36, 32, 30))
    bounds = [0.0]
    while bounds[-1] < 1:
        bounds.append(bounds[-1] + 0.004 + 0.042 * bounds[-1])
    for upper, lower in itertools.pairwise(bounds):
        left, right, y = edge(upper)
        left_2, right_2, y_2 = edge(lower - (lower - upper) * 0.1)
        jut = float(rng.normal(0, 4)) * lower
        tone = int(rng.integers(128, 172)) - round(16 * lower)
        plank = [(left + jut, y), (right + jut, y), (right_2 + jut, y_2), (left_2 + jut, y_2)]
        canvas.shape(plank, (tone + 10, tone, tone - 14))
        shade = (tone - 70, tone - 74, tone - 80)
        canvas.line([(left_2 + jut, y_2), (right_2 + jut, y_2)], shade, 0.5 + 3.5 * lower)
    deck = [(start[0], start[2]), (start[1], start[2]), (end[1], end[2]), (end[0], end[2])]
    size = (SCENE[1] * 2, SCENE[0] * 2)
    grain = _resized(clouds(rng, (size[0], size[1] // 12), 5, 3), size[1], size[0])
    canvas.rough(deck, (1 + grain * 0.09 + clouds(rng, size, 90, 3) * 0.06).astype(np.float32))


def curve(points: Points, steps: int = 40) -> list[tuple[float, float]]:
    """A Bézier curve through its first and last point."""
    t = np.linspace(0, 1, steps)[:, None]
    level = [np.array(point, dtype=np.float64)[None, :] * np.ones((steps, 1)) for point in points]
    while len(level) > 1:
        level = [a * (1 - t) + b * t for a, b in itertools.pairwise(level)]
    return [(float(x), float(y)) for x, y in level[0]]


def photo_rowing_boat(rng: Rng, canvas: Canvas) -> None:
    """A clinker-built rowing boat, moored in front."""
    near = curve([(478, 902), (520, 968), (690, 988), (842, 884)])
    far = curve([(478, 902), (560, 872), (720, 868), (842, 884)])
    keel = curve([(478, 902), (506, 1030), (720, 1052), (842, 884)])
    shadow = curve([(470, 960), (540, 1120), (760, 1110), (850, 930)])
    size = (SCENE[1] * 2, SCENE[0] * 2)
    canvas.shade([*shadow, (842, 900), (478, 910)], 0.62, 9, ripples(rng, 12))
    bright = curve([(520, 1010), (560, 1100), (720, 1096), (810, 980)])
    canvas.shade([*bright, (760, 985), (560, 1000)], -0.55, 10, ripples(rng, 9))
    canvas.shade([*keel, (842, 896), (478, 914)], 0.5, 4, None)
    canvas.shape([*near, *reversed(keel)], (214, 208, 196))
    for share in (0.28, 0.52, 0.76):
        pairs = zip(near, keel, strict=True)
        strake = [(a + (c - a) * share, b + (d - b) * share) for (a, b), (c, d) in pairs]
        canvas.line(strake, (150, 144, 136), 1.6)
    pairs = zip(near, keel, strict=True)
    band = [(a + (c - a) * 0.14, b + (d - b) * 0.14) for (a, b), (c, d) in pairs]
    canvas.line(band, (40, 74, 110), 7)
    water = [(a, b) for a, b in keel if b > 905]
    canvas.line(water, (70, 66, 60), 4)
    canvas.shape([*near, *reversed(far)], (126, 86, 54))
    inner = [(660 + (x - 660) * 0.9, 914 + (y - 914) * 0.72) for x, y in [*near, *far[::-1]]]
    canvas.shape(inner, (84, 60, 42))
    canvas.shade([*far, *inner[60:30:-1]], 0.45, 5, None)
    hull = [*far, *reversed(keel)]
    canvas.rough(hull, (1 + clouds(rng, size, 60, 4) * 0.05).astype(np.float32))
    for left, right, wide in (((566, 936), (588, 889), 12), ((690, 944), (700, 882), 13)):
        x, y = left
        a, b = right
        seat = [(x, y), (x + wide * 1.7, y + 3), (a + wide, b), (a, b)]
        canvas.shape(seat, (164, 122, 80))
        canvas.line([(x, y + 1), (x + wide * 1.7, y + 4)], (70, 46, 32), 2.5)
    canvas.shade([(480, 930), (560, 990), (690, 1010), (800, 960), (640, 1040)], 0.25, 9, None)
    canvas.line(near, (176, 130, 84), 4)
    canvas.line(far, (150, 108, 70), 3)
    canvas.line([(540, 905), (776, 934)], (190, 158, 112), 4.5)
    canvas.line([(560, 926), (800, 902)], (182, 150, 106), 4.5)
    canvas.line(curve([(480, 904), (430, 960), (380, 930), (322, 1010)]), (196, 186, 164), 2)


def lens(rng: Rng, pixels: Array) -> Image.Image:
    """What a small camera of its day makes of the view: glow, softness, vignette, grain."""
    picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    picture = picture.rotate(1.3, Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(1.7))
    inset = (round(SCENE[0] * 0.06), round(SCENE[1] * 0.045))
    crop = (inset[0], inset[1], SCENE[0] * 2 - inset[0], SCENE[1] * 2 - inset[1])
    picture = picture.crop(crop).resize(SCENE, Image.Resampling.LANCZOS)
    picture = picture.filter(ImageFilter.UnsharpMask(1.6, 45, 0))
    view = np.asarray(picture, dtype=np.float32)
    glow = np.asarray(picture.filter(ImageFilter.GaussianBlur(22)), dtype=np.float32)
    view = view + np.clip(glow - 150, 0, 255) * 0.22
    height, width, _ = view.shape
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    out = np.hypot((columns - width / 2) / width, (rows - height / 2) / height)
    view = view * (1.04 - 0.62 * out**2.2)[..., None]
    view = 255 * np.clip(view / 255, 0, 1) ** 1.04
    view = (view - 128) * 1.1 + 133
    grey = view.mean(axis=2, keepdims=True)
    view = (grey + (view - grey) * 0.84) * np.array((1.03, 1.0, 0.95), np.float32)
    grain = rng.normal(0, 3.6, (height, width, 1)) + rng.normal(0, 2.2, view.shape)
    view = view + clouds(rng, (height, width), 1.6, 1)[..., None] * 2.0 + grain
    return Image.fromarray(np.clip(view, 0, 255).astype(np.uint8))


def camera_data() -> Image.Exif:
    """What the camera wrote down: itself, the hour, the place (open water) and how it was held."""
    exif = Image.Exif()
    exif[0x010F] = "Solstad Optik"
    exif[0x0110] = "Havet D2"
    exif[0x0112] = 6
    exif[0x0131] = "D2 firmware 1.04"
    exif[0x0132] = "1999:07:18 19:42:10"
    detail = exif.get_ifd(0x8769)
    detail[0x9003] = "1999:07:18 19:42:10"
    detail[0x9004] = "1999:07:18 19:42:10"
    detail[0x829A] = IFDRational(1, 125)
    detail[0x829D] = IFDRational(56, 10)
    detail[0x920A] = IFDRational(72, 10)
    detail[0x8827] = 100
    place = exif.get_ifd(0x8825)
    place[1], place[2] = "N", (IFDRational(57), IFDRational(31), IFDRational(1240, 100))
    place[3], place[4] = "E", (IFDRational(17), IFDRational(48), IFDRational(3660, 100))
    return exif


def photograph() -> tuple[bytes, list[str]]:
    """The boathouse on a July evening, taken with the camera held upright."""
    rng = np.random.default_rng(1999)
    canvas = Canvas(photo_sky(rng))
    photo_land(rng, canvas)
    photo_house(rng, canvas)
    canvas = Canvas(photo_water(rng, canvas.pixels()))
    photo_far_boats(rng, canvas)
    photo_jetty(rng, canvas)
    photo_rowing_boat(rng, canvas)
    view = lens(rng, canvas.pixels())
    stored = view.transpose(Image.Transpose.ROTATE_90)
    return jpeg(stored, 82, 72, camera_data()), [""]


# --------------------------------------------------------------------------------------------
# The archive
# --------------------------------------------------------------------------------------------

SAMPLES: Final[dict[str, Callable[[], tuple[bytes, list[str]]]]] = {
    "letters/1954-lindqvist-letter.pdf": letter,
    "minutes/1961 annual meeting.pdf": minutes,
    "ledger/1938-harbour-dues.pdf": ledger,
    "receipts/1987-05-12 chandler.jpg": receipt,
    "scans/scan0007.jpg": card,
    "scans/scan0008.jpg": empty_sheet,
    "fax/1988-insurance.tif": fax,
    "yearbook/yearbook-1993.pdf": yearbook,
    "photos/boathouse 1999.jpg": photograph,
}


def make(out: Path) -> None:
    """Write the whole archive into a folder."""
    total = 0
    for name, build in SAMPLES.items():
        data, pages = build()
        target = out / "archive" / name
        truth = out / "ground_truth" / f"{name}.txt"
        for path in (target, truth):
            path.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        words = "\f".join(page.strip() for page in pages)
        truth.write_bytes((words + "\n" if words else "").encode())
        total += len(data)
        print(f"{len(data) / 1000:8.0f} kB  {len(pages)} p.  {name}")
    (out / "README.md").write_bytes(README_TEXT.encode())
    print(f"{total / 1000:8.0f} kB  in all, in {out}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make the sample archive: the papers of a boat club that never was.")
    parser.add_argument("out", nargs="?", type=Path, default=DEFAULT_OUT, help="left out: where the package keeps it")
    make(parser.parse_args().out)
