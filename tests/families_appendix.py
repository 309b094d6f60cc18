"""The docs' table of model families, made from the code's: `python -m tests.families_appendix` renews it."""

from __future__ import annotations

from pathlib import Path

from kobold_reader.kobold import FAMILIES, Family

PAGE = Path(__file__).parent.parent / "docs" / "koboldcpp.md"
_HEAD = "| family (`--family`) | language model | template | encoder | image sent | does | KoboldCpp | tested |"


def appendix() -> str:
    """The table in Markdown, in the order of the code's."""
    rows = [_row(family) for family in FAMILIES.values() if family.is_known]
    return "\n".join([_HEAD, "|---|---|---|---|---|---|---|---|", *rows])


def renew() -> None:
    """Replace the table in the docs."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(_HEAD)
    _, gap, after = rest.partition("\n\n")
    PAGE.write_text(f"{before}{appendix()}{gap or chr(10)}{after}", encoding="utf-8", newline="\n")


def _row(family: Family) -> str:
    size = f"{family.max_side_px} px"
    if family.max_pixels and family.max_pixels < family.max_side_px**2:
        size += f", {family.max_pixels / 1e6:.1f} MP"
    cells = (
        f"`{family.name}`",
        family.language_model,
        family.template,
        family.encoder,
        size,
        "reads" if family.tasks == {"ocr"} else "reads, describes",
        family.min_version,
        "yes" if family.tested else "no",
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    renew()
