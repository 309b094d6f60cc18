"""What chat models say before and after a page, in the languages they say it in.

Strict patterns are believed as they stand; loose ones, which a page may begin or end with too, only where the answer's
form says that they are talk: a blank line or a fence after a preamble, a preamble or a fence before a closing remark.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

__all__ = ["CLOSING", "LOOSE_CLOSING", "LOOSE_PREAMBLE", "PREAMBLE"]


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
