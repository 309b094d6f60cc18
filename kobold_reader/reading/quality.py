"""Is this answer a reading of the page? Pure functions over text."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["is_refusal", "tidy"]

_WHAT: Final = r"(text|words|writing|lettering|content)( or \w+)?"
_IT: Final = r"(provided |given |attached )?(image|picture|page|photo|photograph|document|scan)"
_DO: Final = r"(see|read|view|process|transcribe|detect|find|make out)"
_SEEN: Final = r"(visible|present|found|detected|shown|readable|legible|to transcribe|that i can see)"
_HOW: Final = r"(visible |legible |readable |discernible )?"
_REFUSALS: Final = (
    rf"(there (is|are|appears to be|seems to be) )?no {_HOW}{_WHAT}( {_SEEN})?( (in|on|within) (this|the) {_IT})?",
    rf"(the|this) {_IT} (contains|has|shows) no {_HOW}{_WHAT}",
    rf"(the|this) {_IT} (does not|doesn't) (contain|have|show) any {_HOW}{_WHAT}",
    rf"(this|the) {_IT} (is|appears to be|seems to be) (completely |entirely )?(blank|empty)",
    rf"(i('m| am) sorry,? (but )?)?i ?(cannot|can't|can not|am unable to|'m unable to) {_DO}\b[^.\n]{{0,80}}",
    r"(please )?(provide|upload|attach|share) (the|an|your) image\b[^.\n]{0,60}",
    r"\W*(no text|blank page|empty page|n/?a|none|null)\W*",
    # German, French, Spanish, Swedish, Chinese, Japanese
    r"(auf dem bild|in diesem bild|auf der seite) ist kein(e|en)? (text|schrift)( zu (sehen|erkennen))?",
    r"(es ist )?keine? (lesbarer? )?(text|schrift)( (auf|in) (dem|diesem) bild)?( (vorhanden|sichtbar|erkennbar))?",
    r"(das bild|die seite) (enthält keinen? text|ist leer)",
    r"(il n['’]y a )?aucun texte( (visible|lisible))?( (dans|sur) (l['’]|cette |la )(image|page))?",
    r"(l['’]image|la page) (ne contient (pas de|aucun) texte|est (vide|vierge))",
    r"(no hay|ningún) texto( (visible|legible))?( en (la|esta) (imagen|página))?",
    r"(la|esta) (imagen|página) (no contiene texto|está (vacía|en blanco))",
    r"(det finns )?ingen (synlig |läsbar )?text( (i|på) (bilden|sidan))?",
    r"(bilden|sidan) (innehåller ingen text|är (tom|blank))",
    r"(抱歉|对不起|對不起)?[，,。]?(这张|該|该)?(图片|圖片|图像|圖像|图|页面)?(中|里|上)?(没有|沒有|无|無)(任何)?(可见|可見|可识别)?的?(文字|文本)(内容)?",
    r"(この)?(画像|ページ)(に|には|内に)(は)?(文字|テキスト)(が|は)?(ありません|含まれていません|見当たりません)",
)
_REFUSAL: Final = re.compile(
    r"[\s*_`'\"\[(]*(" + "|".join(_REFUSALS) + r")[\s.!。！*_`'\"\])]*",
    re.IGNORECASE,
)


def is_refusal(text: str) -> bool:
    """Tell whether the whole answer says that there is nothing to read.

    A page that merely contains such a sentence is not one: the whole answer has to be it.

    >>> is_refusal("There is no text in the image.")
    True
    >>> is_refusal("There is no text in the image of 1954, wrote Lindqvist.")
    False
    """
    return _REFUSAL.fullmatch(text.strip()) is not None


def tidy(text: str) -> str:
    """Strip what is no part of a page: outer white space, blanks at line ends, NULs and stray carriage returns."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\x00", "")
    return "\n".join(line.rstrip() for line in text.split("\n")).strip()
