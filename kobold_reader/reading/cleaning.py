"""What the model wrote around the page goes; what stands on the page stays.

Thoughts, fences, preambles, closing remarks, tags of templates and of OCR models: each goes only where the evidence
says that the model, not the paper, wrote it: its place in the answer, its exact wording, what stands beside it. A page
that speaks of such things keeps them. In doubt a line too many stays: that is ugly, the other way would be a loss.

A text that remembers, through every cut, where in the model's answer each of its characters stood.

Is this answer a reading of the page? Pure functions over text.

What chat models say before and after a page, in the languages they say it in.

Strict patterns are believed as they stand; loose ones, which a page may begin or end with too, only where the answer's
form says that they are talk: a blank line or a fence after a preamble, a preamble or a fence before a closing remark.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Self

__all__ = ["CLOSING", "LOOSE_CLOSING", "LOOSE_PREAMBLE", "PREAMBLE", "Traced", "clean", "is_refusal", "tidy"]


@dataclass(frozen=True, slots=True)
class Traced:
    """What is left of an answer; cleaning only ever takes away."""

    text: str
    origin: Sequence[int]
    """For each character: its position in the answer."""

    @classmethod
    def of(cls, answer: str) -> Self:
        """The whole answer."""
        return cls(answer, range(len(answer)))

    def only(self, start: int, end: int) -> Traced:
        """The characters from `start` to `end`."""
        return Traced(self.text[start:end], self.origin[start:end])

    def at(self, places: Sequence[int]) -> Traced:
        """The characters at those positions, which ascend."""
        return Traced("".join(self.text[place] for place in places), [self.origin[place] for place in places])

    def keep(self, is_kept: Callable[[int], bool]) -> Traced:
        """The characters at the positions that pass."""
        return self.at([place for place in range(len(self.text)) if is_kept(place)])


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


@dataclass(frozen=True, slots=True)
class _Language:
    """The parts of "Sure! Here is the transcription of the image:", each an alternation."""

    sure: str
    here_is: str
    the_text: str
    of: str
    image: str
    """Only a model calls a page that …"""
    paper: str
    """… but this may stand on one."""


_LANGUAGES: Final = (
    _Language(
        sure=r"sure(?: thing)?|certainly|of course|okay|ok|absolutely|great|alright",
        here_is=r"here(?:['’]s| is| are)|this is|below is|the following is",
        the_text=(
            r"(?:(?:the|a|an|your|my|all)\s+)+(?:[\w-]+\s+){0,3}?(?:transcription|transcript|text|contents?|markdown"
            r"|ocr(?: output| result)?|description|caption|conversion|version|keywords|json)"
        ),
        of=r"(?:of|from|in|on|for|visible in|shown in|extracted from|transcribed from)\s+(?:(?:the|this|your)\s+)?",
        image=(
            r"(?:\w+ )?(?:image|picture|photo(?:graph)?|scan|screenshot)"
            r"|(?:scanned|handwritten|provided|attached|given) \w+"
        ),
        paper=r"page|document|file|letter|text|form|receipt|table|markdown(?: format)?",
    ),
    _Language(
        sure=r"gerne|natürlich|klar|selbstverständlich|sicher|okay|ok",
        here_is=r"hier (?:ist|folgt|kommt|sind)|(?:dies|das) ist|nachfolgend(?: ist)?|es folgt",
        the_text=(
            r"(?:die|der|das|eine?|den)\s+(?:\w+\s+){0,2}?(?:transkription|transkript|abschrift|umschrift"
            r"|text(?:inhalt)?|inhalt|beschreibung|bildbeschreibung)"
        ),
        of=r"(?:aus dem|aus der|auf dem|auf der|in dem|in der|des|der|vom|von|im|aus)\s+",
        image=r"(?:\w+ )?(?:bild(?:es|s)?|foto(?:s)?|scans?|aufnahme)",
        paper=r"seite|dokuments?|textes|briefe?s|datei|markdown(?:-format)?",
    ),
    _Language(
        sure=r"bien sûr|certainement|d['’]accord|avec plaisir|voilà",
        here_is=r"voici|ci-dessous|ceci est|c['’]est",
        the_text=r"(?:la|le|une?|votre)\s+(?:transcription|texte|contenu|description)(?:\s+\w+)?",
        of=r"(?:de la |de l['’]|du |de |sur la |sur l['’]|dans la |dans l['’]|de cette |figurant sur l['’])",
        image=r"(?:image|photo(?:graphie)?|numérisation)(?: fournie)?",
        paper=r"page|document|lettre|texte|fichier",
    ),
    _Language(
        sure=r"¡?claro(?: que sí)?|¡?por supuesto|desde luego",
        here_is=r"aquí (?:está|tienes?|te dejo)|est[ae] es|a continuación(?: se muestra| está)?,?",
        the_text=r"(?:la|el|una?)\s+(?:transcripción|texto|contenido|descripción)(?:\s+(?!de)\w+)?",
        of=r"(?:de la |del |de |en la |en el )",
        image=r"(?:imagen|foto(?:grafía)?)(?: proporcionada)?",
        paper=r"página|documento|carta|texto|archivo",
    ),
    _Language(
        sure=r"certo|certamente|va bene",
        here_is=r"ecco|di seguito|questa è|questo è",
        the_text=r"(?:la|il|una?)\s+(?:trascrizione|testo|contenuto|descrizione)(?:\s+(?!d)\w+)?",
        of=r"(?:dell['’]|della |del |di |nell['’]|nella |nel |dall['’])",
        image=r"(?:immagine|foto(?:grafia)?)(?: fornita)?",
        paper=r"pagina|documento|lettera|testo",
    ),
    _Language(
        sure=r"claro|certamente|com certeza",
        here_is=r"aqui está|segue|est[ae] é|abaixo está",
        the_text=r"(?:a|o|uma?)\s+(?:transcrição|texto|conteúdo|descrição)(?:\s+(?!d)\w+)?",
        of=r"(?:da |do |de |na |no )",
        image=r"(?:imagem|foto(?:grafia)?)(?: fornecida)?",
        paper=r"página|documento|carta|texto",
    ),
    _Language(
        sure=r"natuurlijk|zeker|graag",
        here_is=r"hier is|hier volgt|dit is|hieronder staat",
        the_text=r"(?:de|een|het)\s+(?:\w+\s+)?(?:transcriptie|tekst|inhoud|beschrijving)",
        of=r"(?:van|op|uit|in)\s+(?:de|het|deze)\s+",
        image=r"afbeelding|foto|scan",
        paper=r"pagina|document|brief|tekst",
    ),
    _Language(
        sure=r"självklart|visst|javisst|absolut|självfallet",
        here_is=r"här (?:är|kommer|följer)|detta är|det här är|nedan följer",
        the_text=r"(?:en\s+)?(?:den\s+)?(?:\w+\s+)?(?:transkriptionen?|transkriberingen?|avskriften|texten|innehållet|beskrivningen?)",
        of=r"(?:av|från|på|i)\s+(?:den\s+)?",
        image=r"(?:\w+ )?(?:bilden|fotot|fotografiet|skanningen)",
        paper=r"sidan|dokumentet|brevet|texten",
    ),
    _Language(
        sure=r"конечно|хорошо",
        here_is=r"вот|ниже приведена?",
        the_text=r"(?:транскрипция|расшифровка|текст|содержание|описание)",
        of=r"(?:с|на|из)?\s*",
        image=r"изображени[яи]|фотографии|скана",
        paper=r"страницы|документа|текста",
    ),
)
_CHINESE: Final = (
    r"(?:好的|当然|當然)?[，,。！!]?\s*(?:以下|下面|这|這)(?:是|为|為)(?:该|這張|这张|此)?(?:图片|圖片|图像|圖像|照片|页面|頁面)?(?:中|上|里)?(?:的)?"
    r"(?:所有|全部)?(?:文字|文本|内容|內容|转录|轉錄|转写|识别结果|描述)(?:内容|內容|结果|文本)?"
)
_JAPANESE: Final = (
    r"(?:はい|もちろん)?[、。,]?\s*(?:以下(?:は|が|に)|こちらが|これは)、?(?:この)?(?:画像|写真|ページ)(?:内|上|に含まれる|に書かれている|から抽出した)?の?"
    r"(?:テキスト|文字|内容|文章|文字起こし|説明)(?:の?文字起こし|を転記したもの)?(?:です|になります)?"
)
_EAST: Final = re.compile(rf"\s*(?:{_CHINESE}|{_JAPANESE})\s*[：:。]\s*(?:\n|\Z)")

_MARKS: Final = r"[\s*_#>\"“]*"
_COLON: Final = r"\s?(?:,? (?:in|as) (?:plain |bare )?(?:markdown|text)(?: format)?)?\s?[:：][*_]*"


def _strict() -> str:
    whole = []
    for one in _LANGUAGES:
        here = rf"(?:{one.here_is})\s+{one.the_text}"
        whole.append(rf"(?:{one.sure})\s?[!,.:]*\s+{here}(?:\s+{one.of}(?:{one.image}|{one.paper})){{0,2}}")
        whole.append(rf"{here}(?:\s+{one.of}(?:{one.paper}))?\s+{one.of}(?:{one.image})")
    return "|".join(whole)


def _loose() -> str:
    return "|".join(rf"(?:{one.here_is})\s+{one.the_text}(?:\s+{one.of}(?:{one.paper}))?" for one in _LANGUAGES)


PREAMBLE: Final = re.compile(
    rf"(?:{_MARKS}(?:{_strict()}){_COLON}[^\S\n]*\n?|{_EAST.pattern})",
    re.IGNORECASE,
)
LOOSE_PREAMBLE: Final = re.compile(
    rf"{_MARKS}(?:{_loose()}){_COLON}[^\S\n]*(?=\n[^\S\n]*\n|\n`{{3}}|\n-{{3,}}|\Z)",
    re.IGNORECASE,
)

_LAST: Final = r"\n[^\S\n]*\n(?:[-*_]{3,}[^\S\n]*\n\s*)?[*_(\[]*"
_REST: Final = r"[^\n]{0,250}\s*\Z"
CLOSING: Final = re.compile(
    _LAST
    + r"(?:(?:please )?let me know if (?:you|there)[^\n]{0,120}(?:transcri|image|ocr|markdown|formatting)"
    + r"|(?:this is|the above is|above is) (?:the|a) (?:\w+ )?(?:transcription|text|content)\w* (?:of|from|in) "
    + r"(?:the|this) (?:\w+ )?image"
    + r"|i (?:have|['’]ve) transcribed (?:the|all)[^\n]{0,80}(?:image|page|document))"
    + _REST,
    re.IGNORECASE,
)
LOOSE_CLOSING: Final = re.compile(
    _LAST
    + r"(?:(?:please )?let me know if|i hope this helps|if you (?:need|have|want|would like)|(?:please )?feel free to"
    + r"|note:?[*_]* [^\n]{0,200}(?:transcri|\bocr\b|legib|image)"
    + r"|lassen sie mich wissen|lass mich wissen|ich hoffe,? das hilft|wenn sie (?:noch|weitere)|hinweis:"
    + r"|n['’]hésitez pas|j['’]espère que|si vous (?:avez|souhaitez)|no dudes|espero que|si necesitas?|avísame"
    + r"|fammi sapere|se hai bisogno|me avise|se precisar|laat (?:me|het me) weten|hör av dig|låt mig veta|säg till om"
    + r"|дайте знать|если вам|希望(?:这|這|对)|如果您|如有|如需|ご不明|お役に立て|何か)"
    + _REST,
    re.IGNORECASE,
)


_THOUGHT: Final = r"think|thinking|thought|reasoning"
_OPENED: Final = re.compile(
    rf"\s*(?:<(?P<tag>{_THOUGHT})>|\[THINK\]|◁think▷|<\|channel>thought|<\|begin_of_thought\|>)", re.IGNORECASE
)
_CLOSED: Final = re.compile(
    rf"(?:</(?:{_THOUGHT})>|\[/THINK\]|◁/think▷|<channel\|>|<\|end_of_thought\|>)", re.IGNORECASE
)
_AT_LINE_END: Final = re.compile(r"[ \t]*(?:\n|\Z)")

_END_TAG: Final = (
    r"<\|(?:im_end|endoftext|end_of_text|eot_id|eot|eom_id|end|return)\|>|<end_of_turn>|<turn\|>|<｜end▁of▁sentence｜>"
    r"|<eos>|</s>|\[/INST\]|<\|(?:endofassistant|end_of_utterance)\|>|<end_of_utterance>"
)
_START_TAG: Final = (
    r"<\|im_start\|>|<start_of_turn>|<\|turn>|<\|start_header_id\|>|<\|(?:user|assistant|system)\|>|<｜User｜>|\[INST\]"
)
_ROLE: Final = r"### ?(?:Response|Instruction|Input|Assistant|Human):|(?:ASSISTANT|USER|HUMAN):"
_ENDS: Final = re.compile(rf"(?:{_END_TAG}|{_START_TAG}|(?:^|(?<=\n))(?:{_ROLE}))\s*\Z")
_NEXT_TURN: Final = re.compile(rf"(?:{_END_TAG})\s*(?:{_START_TAG})")
_STARTED: Final = re.compile(_START_TAG)
_BEGINS: Final = re.compile(
    rf"\s*(?:{_END_TAG}|(?:{_START_TAG})(?:assistant|model)\n?|<\|assistant\|>|### ?(?:Response|Assistant):|ASSISTANT:)"
)

_FENCE: Final = re.compile(r"^(`{3,}|~{3,})[ \t]*([\w+-]*)[ \t]*$", re.MULTILINE)
_PAGE_KINDS: Final = frozenset({"", "markdown", "md", "text", "txt", "plaintext", "plain", "html", "json", "yaml"})
_CHATTY_KINDS: Final = frozenset({"markdown", "md", "text", "plaintext"})
_LONGEST_REMARK: Final = 300

_LABEL: Final = (
    r"title|sub_title|text|image|table|figure|header|footer|caption|image_caption|table_caption|figure_title|formula"
    r"|equation|list|page_number|reference|code|stamp|seal|table_footnote|aside_text"
)
_GROUNDED: Final = re.compile(r"<\|ref\|>(.*?)<\|/ref\|><\|det\|>\[\[.*?\]\]<\|/det\|>\n?", re.DOTALL)
_IS_LABEL: Final = re.compile(_LABEL, re.IGNORECASE)
_FRONT_MATTER: Final = re.compile(
    r"\s*---[ \t]*\n(?:(?:primary_language|is_rotation_valid|rotation_correction|is_table|is_diagram):[^\n]*\n)+"
    r"---[ \t]*(?:\n|\Z)"
)
_WRAPPED: Final = re.compile(r"<(page_number|watermark|signature)>([^<>\n]{1,200})</\1>")
_RULE: Final = re.compile(r"\s*(?:[-*_]{3,}[ \t]*(?:\n|\Z))?")
_SHORTEST_ECHO: Final = 25
_SENTENCE: Final = re.compile(r".{25,}?[.!?:](?=\s|$)", re.DOTALL)


def clean(answer: str, instruction: str = "") -> Traced:
    r"""Return the page in an answer: "" where the model has not come to it, or said nothing of it.

    Doing it twice changes nothing more.

    Args:
        answer: As it came.
        instruction: What was asked; a model that repeats it is not reading.

    >>> clean("<think>A letter.</think>```markdown\nDear Axel\n```").text
    'Dear Axel'
    >>> clean("The tag <think> opens a thought.").text
    'The tag <think> opens a thought.'
    """
    page = _tidy(Traced.of(answer))
    while True:
        before = len(page.text)
        page = _without_thoughts(page)
        page = _without_turns(page)
        page = _without_markup(page)
        page = _without_echo(page, instruction)
        page = _tidy(_without_chatter(page))
        if len(page.text) == before:
            return page


def _without_thoughts(page: Traced) -> Traced:
    """Thoughts come first; their opening tag may be part of the prompt, and so missing."""
    opened = _OPENED.match(page.text)
    closed = _CLOSED.search(page.text, opened.end() if opened else 0)
    if opened is not None:
        return page.only(closed.end(), len(page.text)) if closed else page.only(0, 0)
    if closed is None or not _AT_LINE_END.match(page.text, closed.end()):
        return page
    before = page.text[: closed.start()]
    in_code = len(_FENCE.findall(before)) % 2 == 1 or before.count("`") % 2 == 1
    opened_on_page = re.search(rf"<(?:{_THOUGHT})\b", before, re.IGNORECASE)
    return page if in_code or opened_on_page else page.only(closed.end(), len(page.text))


def _without_turns(page: Traced) -> Traced:
    """Tags of the template at both ends, and the next turn that the model made up.

    A page that prints such tags prints those that begin a turn too, before those that end it.
    """
    begins = _BEGINS.match(page.text)
    if begins is not None and not re.search(r"^USER:", page.text, re.MULTILINE):
        page = page.only(begins.end(), len(page.text))
    following = _NEXT_TURN.search(page.text)
    if following is not None and not _STARTED.search(page.text[: following.start()]):
        page = page.only(0, following.start())
    ends = _ENDS.search(page.text)
    if ends is None or _STARTED.search(page.text[: ends.start()]):
        return page
    is_struck = ends.group().strip() == "</s>" and page.text.count("<s>") >= page.text.count("</s>")
    return page if is_struck else page.only(0, ends.start())


def _without_markup(page: Traced) -> Traced:
    """What OCR models write about a page: front matter, places on it, and names for its parts."""
    front = _FRONT_MATTER.match(page.text)
    if front is not None:
        page = page.only(front.end(), len(page.text))
    gone: set[int] = set()
    for found in _GROUNDED.finditer(page.text):
        place = set(range(*found.span()))
        gone |= place if _IS_LABEL.fullmatch(found.group(1).strip()) else place - set(range(*found.span(1)))
        if page.text[found.end() - 1] == "\n" and not _IS_LABEL.fullmatch(found.group(1).strip()):
            gone.discard(found.end() - 1)
    code = [range(one.start(), other.end()) for one, other in _fenced(page.text)]
    for found in _WRAPPED.finditer(page.text):
        if not any(found.start() in lines for lines in code):
            gone |= set(range(*found.span())) - set(range(*found.span(2)))
    return page.keep(lambda at: at not in gone) if gone else page


def _fenced(text: str) -> list[tuple[re.Match[str], re.Match[str]]]:
    fences = list(_FENCE.finditer(text))
    return list(zip(fences[::2], fences[1::2], strict=False))


def _without_echo(page: Traced, instruction: str) -> Traced:
    """The instruction again, whole, or from its first sentence on."""
    text = page.text.lstrip()
    lead = len(page.text) - len(text)
    sentences = _SENTENCE.match(instruction.strip())
    for echo in (instruction.strip(), sentences.group() if sentences else ""):
        if len(echo) < _SHORTEST_ECHO:
            continue
        words = re.match(r"\s+".join(re.escape(word) for word in echo.split()) + r"(?!\w)", text)
        if words is not None:
            return page.only(lead + words.end(), len(page.text))
    return page


def _without_chatter(page: Traced) -> Traced:
    """Preamble, fence, closing remark. One of the first two makes the last more likely: less is asked of it then."""
    text = page.text
    is_chatty = False
    preamble = PREAMBLE.match(text) or LOOSE_PREAMBLE.match(text)
    if preamble is not None:
        rule = _RULE.match(text, preamble.end())
        page = page.only(rule.end() if rule else preamble.end(), len(text))
        is_chatty = True
    unfenced = _unfenced(page)
    is_chatty = is_chatty or unfenced is not page
    page = unfenced
    closing = CLOSING.search(page.text) or (LOOSE_CLOSING.search(page.text) if is_chatty else None)
    if closing is not None and page.text[: closing.start()].strip():
        page = page.only(0, closing.start())
    return page


def _unfenced(page: Traced) -> Traced:
    """The inside of a fence around the whole page; fences of the page's own code stay."""
    fences = list(_FENCE.finditer(page.text))
    if not fences or page.text[: fences[0].start()].strip():
        return page
    opening, kind = fences[0], fences[0].group(2).lower()
    closing = _closing(fences, is_page=kind in _CHATTY_KINDS)
    if closing is None:  # the answer was cut, or the model forgot it
        alone = len(fences) == 1 and kind in {"markdown", "md"}
        return page.only(opening.end(), len(page.text)) if alone else page
    after = page.text[closing.end() :].strip()
    is_remark = kind in _CHATTY_KINDS and "\n" not in after and len(after) <= _LONGEST_REMARK
    if after and not is_remark:
        return page
    return page.only(opening.end(), closing.start())


def _closing(fences: list[re.Match[str]], *, is_page: bool) -> re.Match[str] | None:
    """The fence that closes the first one, or None where others stand between that are no pairs within it."""
    marks = fences[0].group(1)
    if len(fences) == 2:  # noqa: PLR2004
        return fences[1] if fences[1].group(1) == marks and not fences[1].group(2) else None
    inner = fences[1:-1]
    is_nested = len(inner) % 2 == 0 and all(
        one.group(2) and not two.group(2) for one, two in zip(inner[::2], inner[1::2], strict=True)
    )
    last = fences[-1]
    return last if is_page and is_nested and len(fences) > 1 and not last.group(2) else None


def _tidy(page: Traced) -> Traced:
    """As `quality.tidy`."""
    text = page.text
    if "\0" in text or "\r" in text:
        page = page.keep(lambda at: text[at] != "\0" and text[at : at + 2] != "\r\n")
        page = Traced(page.text.replace("\r", "\n"), page.origin)
    kept: list[int] = []
    start = 0
    for line in page.text.split("\n"):
        kept.extend(range(start, start + len(line.rstrip())))
        start += len(line) + 1
        kept.append(start - 1)
    kept.pop()
    while kept and page.text[kept[-1]].isspace():
        kept.pop()
    first = next((number for number, at in enumerate(kept) if not page.text[at].isspace()), len(kept))
    return page.at(kept[first:])
