"""What the model wrote around the page goes, what stands on the page stays, and every character knows where it was."""

from __future__ import annotations

import re
import tomllib
from importlib import resources

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kobold_reader.kobold import FAMILIES
from kobold_reader.reading.cleaning import clean, tidy

PAGE = "Dear Axel,\nthe slates came on Tuesday."
INSTRUCTION = "Convert this page to markdown. Do not miss any text and only output the bare markdown! Say [illegible]."

PLACE = "<|det|>[[1, 2, 3, 4]]<|/det|>"
FRONT_MATTER = (
    "primary_language: en\nis_rotation_valid: True\nrotation_correction: 0\nis_table: False\nis_diagram: False\n"
)

AROUND = [
    # thoughts, matched, opened by the template, in other families' marks
    f"<think>A letter, it seems.\n\nLet me read it.</think>\n\n{PAGE}",
    f"A letter, it seems.\n</think>\n\n{PAGE}",
    f"<thinking>hm</thinking>{PAGE}",
    f"◁think▷hm◁/think▷{PAGE}",
    f"[THINK]hm[/THINK]{PAGE}",
    f"<|channel>thought\nhm<channel|>{PAGE}",
    f"<think>\n\n</think>\n\n```markdown\n{PAGE}\n```",
    # fences
    f"```markdown\n{PAGE}\n```",
    f"```\n{PAGE}\n```\n",
    f"~~~md\n{PAGE}\n~~~",
    f"```markdown\n{PAGE}",
    f"```markdown\n{PAGE}\n```\n\nThat is everything that can be made out.",
    # preambles
    f"Here is the transcription:\n\n{PAGE}",
    f"Here's the text:\n```\n{PAGE}\n```",
    f"Sure! Here's the transcribed text from the image:\n\n{PAGE}",
    f"Sure, here is the text of the document:\n{PAGE}",
    f"Okay, here is the text from the image in Markdown format:\n\n{PAGE}",
    f"**Here is the transcription of the handwritten letter:**\n\n---\n\n{PAGE}",
    f"Certainly! Below is the complete transcription of the provided image: {PAGE}",
    f"Here is a detailed description of the image:\n{PAGE}",
    f"Hier ist die Transkription des Bildes:\n{PAGE}",
    f"Gerne! Hier ist der vollständige Text der Seite:\n\n{PAGE}",
    f"Voici la transcription du texte de l'image :\n\n{PAGE}",
    f"Bien sûr ! Voici le texte de la page :\n\n{PAGE}",
    f"Aquí está la transcripción de la imagen:\n{PAGE}",
    f"¡Claro! Aquí tienes el texto:\n\n{PAGE}",
    f"Certo! Ecco la trascrizione del testo nell'immagine:\n\n{PAGE}",
    f"Claro! Aqui está a transcrição da imagem:\n\n{PAGE}",
    f"Natuurlijk! Hier is de tekst van de afbeelding:\n{PAGE}",
    f"Här är transkriptionen av bilden:\n\n{PAGE}",
    f"Конечно! Вот текст с изображения:\n{PAGE}",
    f"以下是图片中的文字内容：\n{PAGE}",
    f"好的，以下是图片中的所有文字：\n\n{PAGE}",
    f"以下は画像のテキストです：\n{PAGE}",
    # closing remarks
    f"{PAGE}\n\nLet me know if you need any help with the transcription!",
    f"{PAGE}\n\n---\n\nThis is the complete transcription of the provided image.",
    f"Sure, here is the text of the document:\n\n{PAGE}\n\nI hope this helps!",
    f"```markdown\n{PAGE}\n\nNote: some words are hard to read in the image.\n```",
    # template tags written as text
    f"{PAGE}<|im_end|>",
    f"{PAGE}\n</s>",
    f"{PAGE}<end_of_turn>\n<start_of_turn>user\nRead the next one.<end_of_turn>",
    f"{PAGE}<|im_end|>\n<|im_start|>user\nAnother",
    f"{PAGE}\n### Response:",
    f"### Response:\n{PAGE}",
    f"{PAGE}\nASSISTANT:",
    f"ASSISTANT: {PAGE}",
    f"{PAGE}<｜end▁of▁sentence｜>",
    # OCR models
    f"<|ref|>title<|/ref|>{PLACE}\nDear Axel,\n<|ref|>the slates came on Tuesday.<|/ref|>{PLACE}",
    f"---\n{FRONT_MATTER}---\n{PAGE}",
    (
        "<|ref|>text<|/ref|><|det|>[[12, 30, 400, 60]]<|/det|>\nDear Axel,\n"
        "<|box_start|>(12,30),(400,60)<|box_end|> the slates came on Tuesday."
    ),
    "<|object_ref_start|>Dear Axel,<|object_ref_end|><|box_start|>(1,3),(40,6)<|box_end|>\nthe slates came on Tuesday.",
    "<ref>Dear Axel,</ref><box>[[1, 2, 30, 40]]</box>\nthe slates came on Tuesday.<quad>(1,2),(3,2),(3,4),(1,4)</quad>",
    "Dear Axel,<loc_12><loc_30><loc_400><loc_60>the slates came on Tuesday.<loc_12><loc_70><loc_400><loc_90>",
    (
        "<text><loc_1><loc_3><loc_40><loc_6>Dear Axel,</text><text><loc_1><loc_8><loc_40><loc_9>"
        "the slates came on Tuesday.</text>"
    ),
    f"{PAGE}\n<|det|>[[12, 30",
    # special tokens, wherever they are
    "Dear <|vision_start|>Axel,<|image_pad|>\n<image>\nthe slates<end_of_utterance> came on <eos>Tuesday.</s>",
    f"<|START_RESPONSE|>{PAGE}<|END_RESPONSE|><|END_OF_TURN_TOKEN|>",
    f"<fim_middle>{PAGE}<unused3>",
    f"{PAGE}<|im_en",
    f"{PAGE}<end_of_tu",
    (
        "<doctag><unordered_list><list_item><loc_1><loc_3><loc_40><loc_6>Dear Axel,</list_item>\n"
        "<list_item><loc_1><loc_8><loc_40><loc_9>the slates came on Tuesday.</list_item></unordered_list>\n</doctag>"
    ),
    # JSON around the page
    '{"text": "Dear Axel,\\nthe slates came on Tuesday."}',
    '```json\n{"text": "Dear Axel,\\nthe slates came on Tuesday."}\n```',
    'Here is the text:\n\n```json\n{\n "transcription": "Dear Axel,\\nthe slates came on Tuesday."\n}\n```',
    (
        '{"primary_language": "en", "is_rotation_valid": true, "rotation_correction": 0, "is_table": false,'
        ' "is_diagram": false, "natural_text": "Dear Axel,\\nthe slates came on Tuesday."}'
    ),
    (
        '[{"bbox_2d": [12, 30, 400, 60], "text_content": "Dear Axel,"},'
        ' {"bbox_2d": [12, 70, 400, 90], "text_content": "the slates came on Tuesday."}]'
    ),
    (
        '[{"bbox": [1, 2, 3, 4], "category": "Picture"}, {"bbox": [1, 5, 3, 9], "category": "Text",'
        ' "text": "Dear Axel,"}, {"bbox": [1, 9, 3, 12], "category": "Text", "text": "the slates came on Tuesday."}]'
    ),
    '{"lines": [{"text": "Dear Axel,"}, {"text": "the slates came on Tuesday."}]}',
    '{"text": "Dear Axel,\\nthe slates came on Tuesday.',
    '{"text": ["Dear Axel,", "the slates came on Tuesday."], "language": "en"}',
    '```json\n{"lines": ["Dear Axel,", "the slates came on Tuesday."]}\n```',
    '{"Text": "Dear Axel,"}\n{"Text": "the slates came on Tuesday."}',
    (
        '{"bbox_2d": [12, 30, 400, 60], "text_content": "Dear Axel,"},\n'
        '{"bbox_2d": [12, 70, 400, 90], "text_content": "the slates came on Tuesday."}'
    ),
    (
        '[{"bbox_2d": [12, 30, 400, 60], "label": "Dear Axel,"},'
        ' {"bbox_2d": [12, 70, 400, 90], "label": "the slates came on Tuesday."}]'
    ),
    '["Dear Axel,", "the slates came on Tuesday."]',
    "['Dear Axel,', 'the slates came on Tuesday.']",
    "{'text': \"Dear Axel,\\nthe slates came on Tuesday.\", 'language': None}",
    "[{'bbox_2d': [12, 30, 400, 60], 'text': 'Dear Axel,'}, {'text': 'the slates came on Tuesday.'}]",
    # a tag around the page
    f"<transcription>\n{PAGE}\n</transcription>",
    f"<OCR>{PAGE}</OCR>",
    f"<s>{PAGE}</s>",
    '```json\n{"text": "Dear Axel,\\nthe slates came on Tuesday."}',
    # the instruction again
    f"{INSTRUCTION}\n\n{PAGE}",
    f"Convert this page to markdown.\n{PAGE}",
    f"[INST] {INSTRUCTION} [/INST] {PAGE}",
    f"<s>[INST] {INSTRUCTION} [/INST]\n{PAGE}</s>",
    # all at once
    f"<think>hm</think>\nSure! Here is the text:\n\n```markdown\n{PAGE}\n```\n\nI hope this helps!<|im_end|>\n",
]


@pytest.mark.parametrize("answer", AROUND)
def test_what_stands_around_the_page_goes(answer: str) -> None:
    assert clean(answer, INSTRUCTION).text == PAGE


@pytest.mark.parametrize(
    "page",
    [
        "Here is the transcription of the hearing:\nMr. Smith: I saw nothing.\nJudge: Go on.",
        "Here is the transcription of the hearing:\n\nMr. Smith: I saw nothing.",
        "Here is the text:\nIn the beginning was the word.",
        "This is the text of the treaty:\n\nArticle 1",
        "Dies ist der Text des Vertrags:\n\n§ 1",
        "Sure! said Axel. Here is the slate.",
        "The tag <think> opens a thought and </think> closes it.\nThe next tag is another.",
        "It is used so:\n```xml\n<think>\nhello\n</think>\n```\nand not otherwise.",
        "1. <think>\n2. hello\n3. </think>\n4. bye",
        "```python\nprint(1)\n```\nThen run\n```\nmake\n```",
        "Run\n```\nmake\n```",
        "Note: transcribed by A. Smith.\n\nNote: transcribed from the original image of 1931.",
        "Dear Sir,\nall is well.\n\nPlease let me know if you need anything else.",
        "All is well.\n\nI hope this helps!",
        "The price is <s>12</s>",
        "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\nHi<|im_end|>",
        "The template:\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\nHi<|im_end|>",
        "ASSISTANT: The doctor will see you.\nUSER: At last.",
        "### Instruction:\nFold the slip.\n\n### Response:\nFold here.",
        "---\ntitle: The slates\n---\nDear Axel",
        '{"name": "axel", "text": "hello"}',
        '{"text": "hello"} is what the program prints.',
        '{"name": "axel", "lines": ["hello"]}',
        "[INST] Fold the slip. [/INST] Fold here.",
        '["a", "b"] is a list.',
        "['tis the season",
        '["one"]',
        '[{"label": "Name"}, {"label": "Street"}]',
        "<text>\n<line>hello</line>\n</text>",
        "The <s>slates</s> came <s>late</s>",
        "Use <|",
        "[1] See the letter of 1931.",
        "{Axel} and [Johann]",
        "A `<image>` token stands for the picture.",
        "Write:\n```\n<|image_pad|> &amp;\n```\nand not otherwise.",
        "An ampersand & its entity &amp; are two things.",
        "See <ref>Smith 1931</ref> and <box>12</box>.",
        "a < b and c > d & e",
        "Each page ends in its number:\n```\n<page_number>3</page_number>\n```\nas shown.",
        "Convert this page to something better.",
        "Output only the text of the page, wrote the printer.",
    ],
)
def test_what_only_looks_so_stays(page: str) -> None:
    assert clean(page, INSTRUCTION).text == page


def test_a_thought_without_end_is_no_answer_yet() -> None:
    assert clean("<think>A letter, it seems. Let me").text == ""
    assert clean("<think>A letter.</think>").text == ""


def test_talk_alone_is_no_answer() -> None:
    assert clean("Sure! Here is the transcription of the image:").text == ""
    assert clean("Here is the transcription:\n\n```\n```").text == ""


def test_entities_are_decoded_outside_of_code() -> None:
    answer = "Smith &amp; Sons &lt;Lindby&gt; &#8364;&nbsp;100 `&amp;`"
    assert clean(answer).text == "Smith & Sons <Lindby> € 100 `&amp;`"


def test_tables_of_doctags_become_rows() -> None:
    table = "<otsl><loc_1><loc_2><loc_30><loc_40><ched>Name<ched>Sum<nl><fcel>Axel<ecel><nl></otsl>"
    assert clean(f"<doctag>{table}</doctag>").text == "|Name|Sum\n|Axel|"


def test_commands_of_latex_in_json_keep_their_letters() -> None:
    assert clean(r'{"text": "\frac{1}{2} \beta"}').text == r"\frac{1}{2} \beta"


def test_what_json_escapes_is_written_out() -> None:
    answer = '{"text": "\\"Axel\\"\\t\\u00e5ngare \\ud83d\\ude00 \\\\ \\(x\\)"}'
    assert clean(answer).text == '"Axel"\tångare 😀 \\ \\(x\\)'
    assert clean(answer, is_json=True).text == answer


@pytest.mark.parametrize("answer", ['{"text": ""}', '{"natural_text": null}', '```json\n{"text": ""}\n```'])
def test_an_empty_envelope_holds_no_page(answer: str) -> None:
    assert clean(answer).text == ""


def _marks() -> list[str]:
    return sorted({mark for family in FAMILIES.values() for mark in family.stop_sequence if mark.startswith("<")})


@pytest.mark.parametrize("mark", _marks())
def test_the_end_marks_of_every_family_go(mark: str) -> None:
    assert clean(f"Dear Axel,{mark}\nthe slates came on Tuesday.{mark}").text == PAGE


def test_the_content_of_tags_that_name_it_is_kept() -> None:
    answer = f"<watermark>COPY</watermark>\n{PAGE}\n<page_number>9/22</page_number>"
    assert clean(answer).text == f"COPY\n{PAGE}\n9/22"


MARKERS = st.sampled_from(
    [
        *(
            "<think>",
            "</think>",
            "```",
            "```markdown\n",
            "\n```\n",
            "Here is the transcription:",
            "\n\n",
            "\n",
            "<|im_end|>",
        ),
        *(
            "<|im_start|>",
            "</s>",
            "<s>",
            "ASSISTANT:",
            "Sure! ",
            "---\n",
            "I hope this helps!",
            INSTRUCTION,
            "\r\n",
            "\r",
        ),
        *("&amp;", "&", '{"text": "', '"}', "<loc_12><loc_13><loc_20><loc_30>", "<image>", "<|box_start|>(1,2)"),
        *("<page_number>3</page_number>", f"<|ref|>text<|/ref|>{PLACE}", "\x00", " ", "以下是图片中的文字：\n"),
    ]
)


@given(st.lists(MARKERS | st.text(max_size=8), max_size=14).map("".join))
def test_cleaning_twice_is_cleaning_once(answer: str) -> None:
    once = clean(answer, INSTRUCTION)
    assert clean(once.text, INSTRUCTION).text == once.text


@given(st.lists(MARKERS | st.text(max_size=8), max_size=14).map("".join))
def test_every_character_knows_where_it_stood(answer: str) -> None:
    page = clean(answer, INSTRUCTION)
    assert len(page.origin) == len(page.text)
    assert list(page.origin) == sorted(set(page.origin))
    for char, at in zip(page.text, page.origin, strict=True):
        assert char == answer[at].replace("\r", "\n") or answer[at] in '&<\\"', "or it was decoded"


WORD = re.compile(r"\w+")


@given(st.text(st.characters(exclude_characters="<>[]{}&`~#:：。◁"), max_size=200))
def test_a_text_without_any_marker_is_untouched(text: str) -> None:
    assert clean(text).text == tidy(text)


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=20), max_size=12).map("\n".join))
@example("0\x000")
def test_no_word_between_the_markers_is_lost(text: str) -> None:
    """Whatever a page holds: inside a fence after a preamble comes out what comes out without them."""
    if "```" in text or not clean(text).text:
        return
    written = text.replace("\x00", "")  # no character of a page, so it parts no words
    assert set(WORD.findall(clean(f"<think>hm</think>{text}").text)) <= set(WORD.findall(written))
    assert clean(f"Sure! Here is the transcription of the image:\n\n{text}\n").text in {
        clean(text).text,
        clean("\n\n" + clean(text).text).text,
    }


# ── the file of phrases ───────────────────────────────────────────────────────────────────────────

PHRASES = tomllib.loads((resources.files("kobold_reader.reading") / "chat_phrases.toml").read_text(encoding="utf-8"))
TALK = {"opens", "no_text", "unseen", "asks", "refused", "polite", "describes"}
PREAMBLE_PARTS = {"sure", "here_is", "the_text", "of", "image", "paper"}


@pytest.mark.parametrize("language", PHRASES["languages"], ids=lambda language: language["name"])
def test_the_phrases_of_a_language_are_complete(language: dict[str, str | list[str]]) -> None:
    keys = set(language) - {"name", "sure_closings", "closings"} - TALK
    assert keys in ({"preamble"}, PREAMBLE_PARTS), "a preamble, whole or in its six parts, and no unknown key"
    assert {type(value) for key, value in language.items() if key not in {"name", "preamble"}} == {list}
    for value in language.values():
        for phrase in [value] if isinstance(value, str) else value:
            assert phrase, "an empty phrase would match everything"
            assert set(re.findall("<([a-z]+)>", phrase)) <= set(PHRASES["parts"])
            re.compile(phrase, re.IGNORECASE)


def test_every_language_is_heard() -> None:
    spoken = [
        "Here is the text of the image:",
        "Natürlich! Hier ist der Text aus dem Bild:",
        "Voici la transcription de l’image :",
        "Claro, aquí está el texto de la imagen:",
        "Ecco il testo dell’immagine:",
        "Aqui está o texto da imagem:",
        "Hier is de tekst van de afbeelding:",
        "Här är texten från bilden:",
        "Вот текст с изображения:",
        "以下是图片中的文字内容：",
        "以下は画像内のテキストです：",
    ]
    assert len(spoken) == len(PHRASES["languages"])
    for preamble in spoken:
        assert clean(f"{preamble}\n\n{PAGE}").text == PAGE, preamble
