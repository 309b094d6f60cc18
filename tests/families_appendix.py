"""The docs' table of model families, made from the table."""

from __future__ import annotations

from kobold_reader.kobold import FAMILIES, Family

__all__ = ["appendix"]


def appendix() -> str:
    """The table in Markdown, in the order of the code's.

    To renew docs/koboldcpp.md: `python -c "from tests.families_appendix import appendix; print(appendix())"`.
    """
    rows = [_row(family) for family in FAMILIES.values() if family.is_known]
    head = "| family (`--family`) | language model | template | encoder | image sent | does | KoboldCpp | tested |"
    return "\n".join([head, "|---|---|---|---|---|---|---|---|", *rows])


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
