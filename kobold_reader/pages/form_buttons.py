"""The ticks and choices of a PDF form in its text: `[x]`, `[ ]`, and a group of radio buttons by its chosen value.

A tick is painted as a letter of a font of signs, a 3 or an l, at the end of the page's text; an empty box as nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import pymupdf

_TYPES = (pymupdf.PDF_WIDGET_TYPE_CHECKBOX, pymupdf.PDF_WIDGET_TYPE_RADIOBUTTON)
_HIDDEN_FLAGS = 2 | 32  # hidden, not shown on the screen
_NAMELESS = re.compile(r"\d*|choice\d+|yes|on|true|off", re.IGNORECASE)
_MAX_GAP = 4.0  # heights of the box to the words that belong to it
_SAME_ROW = 0.5  # of the box's height


@dataclass(slots=True)
class _Line:
    box: pymupdf.Rect
    text: str
    before: list[str] = field(default_factory=list)
    behind: list[str] = field(default_factory=list)

    def with_ticks(self) -> str:
        return " ".join([*self.before, self.text, *self.behind])


def text_with_buttons(document: Any, page: Any, text: str, flags: int) -> str:
    """The page's text with its ticks and choices; `text` itself, read with these flags, where the page has none."""
    buttons = [button for button in page.widgets(types=_TYPES) if not _is_hidden(document, button)]
    if not buttons:
        return text
    lines = [
        _Line(pymupdf.Rect(line["bbox"]), "".join(span["text"] for span in line["spans"]).replace("\x00", ""))
        for block in page.get_text("dict", flags=flags)["blocks"]
        for line in block.get("lines", ())
    ]
    # What lies in a button is its sign.
    lines = [line for line in lines if not any(_middle(line.box) in button.rect for button in buttons)]
    left_over: list[str] = []
    chosen: dict[str, str] = {}
    for button in buttons:
        is_on = _is_on(document, button)
        label = _line_beside(lines, button.rect)
        name = str(button.field_label or button.field_name or "").strip()
        if button.field_type == pymupdf.PDF_WIDGET_TYPE_RADIOBUTTON:
            value = _state(document, button)
            if is_on:
                chosen[name] = label.text.strip() if label is not None and _NAMELESS.fullmatch(value) else value
            continue
        tick = "[x]" if is_on else "[ ]"
        if label is None:
            left_over.append(f"{tick} {name}".strip())
        elif label.box.x0 >= button.rect.x0:
            label.before.append(tick)
        else:
            label.behind.append(tick)
    left_over += [f"{name}: {value}" if name else value for name, value in chosen.items()]
    return "\n".join([*(line.with_ticks() for line in lines), *left_over]).strip()


def _line_beside(lines: list[_Line], box: Any) -> _Line | None:
    """The nearest line on the button's row; of two, the one to the right."""
    near: list[tuple[float, int]] = []
    for number, line in enumerate(lines):
        overlap = min(line.box.y1, box.y1) - max(line.box.y0, box.y0)
        if overlap < _SAME_ROW * min(box.height, line.box.height) or not line.text.strip():
            continue
        is_right = line.box.x1 > box.x1
        gap = line.box.x0 - box.x1 if is_right else box.x0 - line.box.x1
        if -box.width <= gap <= _MAX_GAP * box.height:
            near.append((gap if is_right else gap + _MAX_GAP * box.height, number))
    return lines[min(near)[1]] if near else None


def _middle(box: Any) -> pymupdf.Point:
    return pymupdf.Point((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2)


def _is_hidden(document: Any, button: Any) -> bool:
    kind, value = document.xref_get_key(button.xref, "F")
    return kind == "int" and bool(int(value) & _HIDDEN_FLAGS)


def _is_on(document: Any, button: Any) -> bool:
    kind, state = document.xref_get_key(button.xref, "AS")
    if kind == "name":
        return bool(state != "/Off")
    return str(button.field_value) not in {"Off", "False", "None", ""}


def _state(document: Any, button: Any) -> str:
    """The value that a button stands for, as its group names it."""
    kind, state = document.xref_get_key(button.xref, "AS")
    if kind == "name" and state != "/Off":
        return str(state).removeprefix("/")
    return str(button.on_state() or "")
