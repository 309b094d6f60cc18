"""Ask every page a question of your own: index cards become rows of a table.

    python examples/index_cards.py cards cards.csv --api-url http://127.0.0.1:5001

Needs a KoboldCpp (1.89 or later) with a vision model, and: pip install ".[records]"
"""

import argparse
import csv
import sys
from pathlib import Path

from pydantic import BaseModel, Field

from kobold_reader import KoboldReader
from kobold_reader.errors import KoboldReaderError

PROMPT = "This is an index card from the inventory of a museum. Copy its fields; null where the card has none."


class Card(BaseModel):
    """What to look for. KoboldCpp's grammar keeps the model to it, and every answer is checked against it."""

    number: str = Field(description="Inventory number, as written")
    thing: str = Field(description="What it is")
    material: str | None = None
    received: str | None = Field(default=None, description="Date of receipt, as written")
    value_kronor: int | None = None


def main() -> None:
    """Do what is said above."""
    parser = argparse.ArgumentParser(description="Read index cards into a table.")
    parser.add_argument("folder")
    parser.add_argument("table", type=Path)
    parser.add_argument("--api-url", default="http://127.0.0.1:5001", help="where KoboldCpp listens")
    parser.add_argument("--engine", default="koboldcpp", help="rapidocr reads printed text without a server")
    arguments = parser.parse_args()

    # Records are kept like readings: a second run asks only for new cards, or for all if prompt or schema have changed.
    reader = KoboldReader(
        api_url=arguments.api_url,
        engine=arguments.engine,  # only a model can tell what a card says where: rapidocr is refused
        prompts={"ocr": PROMPT},
        json_schema=Card.model_json_schema(),
        on_error="skip",
        show_progress=True,
    )
    with arguments.table.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, ["file", "page", *Card.model_fields])
        table.writeheader()
        for page in reader.lazy_load_data(arguments.folder):
            card = Card.model_validate_json(page.text)
            table.writerow(
                {"file": page.metadata["file_name"], "page": page.metadata["page_number"], **card.model_dump()}
            )
            print(f"{page.metadata['file_name']}: {card.number}, {card.thing}")


if __name__ == "__main__":
    try:
        main()
    except (KoboldReaderError, OSError) as err:
        sys.exit(str(err))
