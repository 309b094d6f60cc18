"""What models are asked, word for word.

The makers' own prompts where they name some, else those of projects that have used a family for long.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["JUST_TRANSCRIBE", "NANONETS", "OLMOCR", "ROLMOCR", "TO_MARKDOWN", "TRANSCRIBE", "general_prompts"]

_FAITHFUL: Final = (
    "Write exactly what is written, in its own language and spelling, in reading order, line by "
    "line; do not correct, translate, summarize or invent anything. Write tables as Markdown "
    "tables. Where nothing can be made out, write [illegible]. Output only the text of the page, "
    "without any comment."
)
_CAPTION: Final = (
    "Describe this image in one or two sentences: what kind of picture or document it is, who or "
    'what is on it, where and when as far as it can be seen. Do not begin with "The image shows". '
    "Say nothing that cannot be seen. Output only the description."
)
_TAGS: Final = (
    "Describe this image in one sentence, and give 5 to 10 keywords for it, each of one or two words, "
    "most important first. Only what can be seen."
)

TO_MARKDOWN: Final = (  # docling's, for Qwen and Gemma
    "Convert this page to markdown. Do not miss any text and only output the bare markdown!"
)
JUST_TRANSCRIBE: Final = (  # paperless-gpt's beginning
    "Just transcribe the text in this image and preserve the formatting and layout (high quality OCR)."
)
TRANSCRIBE: Final = "Transcribe all text in this image."

OLMOCR: Final = (
    "Attached is one page of a document that you must process. Just return the plain text representation of this "
    "document as if you were reading it naturally. Convert equations to LateX and tables to HTML.\n"
    "If there are any figures or charts, label them with the following markdown syntax "
    "![Alt text describing the contents of the figure](page_startx_starty_width_height.png)\n"
    "Return your output as markdown, with a front matter section on top specifying values for the primary_language, "
    "is_rotation_valid, rotation_correction, is_table, and is_diagram parameters."
)
ROLMOCR: Final = "Return the plain text representation of this document as if you were reading it naturally.\n"
NANONETS: Final = (
    "Extract the text from the above document as if you were reading it naturally. Return the tables in html format. "
    "Return the equations in LaTeX representation. If there is an image in the document and image caption is not "
    "present, add a small description of the image inside the <img></img> tag; otherwise, add the image caption inside "
    "<img></img>. Watermarks should be wrapped in brackets. Ex: <watermark>OFFICIAL COPY</watermark>. Page numbers "
    "should be wrapped in brackets. Ex: <page_number>14</page_number> or <page_number>9/22</page_number>. Prefer using "
    "☐ and ☑ for check boxes."
)


def general_prompts(ocr: str) -> Mapping[str, str]:
    """All tasks, for a model that follows instructions.

    Args:
        ocr: Its first sentence; that nothing is to be invented is said behind it.
    """
    return {"ocr": f"{ocr} {_FAITHFUL}", "caption": _CAPTION, "tags": _TAGS}
