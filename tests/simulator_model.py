"""The model behind the simulated KoboldCpp: its tokens, its eyes, and what it answers.

Nothing here knows the client. The numbers were measured on KoboldCpp 1.115.1 (see the
recordings beside the tests) unless a sentence says otherwise.
"""

import base64
import binascii
import hashlib
import io
import itertools
import math
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL import Image, ImageStat

from tests.simulator_projectors import Projector

__all__ = [
    "ADAPTERS",
    "Adapter",
    "Answer",
    "Brain",
    "BrainRequest",
    "EyesBrain",
    "Projector",
    "ScriptBrain",
    "Tokenizer",
    "clean_base64",
    "decode_image",
    "guess_adapter",
]

CHAIN_TEXT = " The image shows a photo of cat sitting on wooden table near window."

# --- tokens -------------------------------------------------------------------------------------

_PRETOKEN = re.compile(
    r"<\|[^|<>\s]+\|>|<(?:start|end)_of_(?:turn|image)>|</?s>|\[/?INST\]|\{\{\[|\]\}\}|\n"
    r"|\[gMASK\]|<sop>|<\|channel>|<channel\|>"
    r"| ?[^\W\d_]+| ?\d{1,3}| +(?= \S)| +|[^\S\n ]| ?([^\w\s]|_)\1*|.",
    re.DOTALL,
)
_SPECIAL = re.compile(r"<\|[^|<>\s]+\|>|<(?:start|end)_of_turn>|</s>")

# How the tokenizer of the recorded models cut these words; any other word follows the rule below.
_WORDS: dict[str, tuple[str, ...]] = {
    "Describe": ("Des", "c", "rib", "e"),
    "Hello": ("H", "el", "lo"),
    "Hi": ("H", "i"),
    "Different": ("D", "if", "fer", "ent"),
    " Instruction": (" Instruction",),
    " story": (" st", "ory"),
    " helper": (" help", "er"),
    "Read": ("Re", "ad"),
    "Give": ("G", "ive"),
    "Be": ("B", "e"),
    " brief": (" b", "ri", "ef"),
}
_IDS: dict[str, int] = {
    "<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2, "'": 10, "(": 11, ")": 12, ",": 15,
    ".": 17, "1": 20, "B": 37, "H": 43, "_": 66, "a": 68, "c": 70, "e": 72, "\n": 202, " if": 300,
    "lo": 313, " b": 337, "user": 408, " 1": 440, "assistant": 451, "ri": 520, "el": 1001,
    "]}}": 1178, "{{[": 1319, "END": 1670, "rib": 1966, "SYSTEM": 1991, "OUTPUT": 2284,
    "INPUT": 2358, " Image": 2938, "hi": 3173, "Des": 3695, "ef": 4095, "Attached": 4445,
    " world": 5493,
}  # fmt: skip
_FIRST_FREE_ID = 6000
_LONGEST_WORD = 9  # characters; a longer word is cut into pieces of six


def is_special(text: str) -> bool:
    """Whether the text is one special token, which KoboldCpp treats as an end of the answer."""
    return _SPECIAL.fullmatch(text) is not None


class Tokenizer:
    """A deterministic tokenizer that agrees with the recorded token counts and ids."""

    def __init__(self, counts: Mapping[str, int] | None = None) -> None:
        """`counts`: texts and words whose number of tokens (less BOS) is known from elsewhere."""
        self._counts = dict(counts or {})
        self._ids = dict(_IDS)
        self._texts = {number: piece for piece, number in _IDS.items()}
        self._lock = threading.Lock()

    def pieces(self, text: str) -> list[str]:
        """Cut a text into its tokens; joined they are the text again."""
        if text in self._counts:
            return cut_into(text, self._counts[text])
        found: list[str] = []
        for match in _PRETOKEN.finditer(text):
            word = match.group()
            if word in self._counts:
                found.extend(cut_into(word, self._counts[word]))
            elif word in _WORDS:
                found.extend(_WORDS[word])
            elif len(word) <= _LONGEST_WORD or word[-1] in " >":
                found.append(word)
            else:
                found.extend(word[at : at + 6] for at in range(0, len(word), 6))
        return found

    def id_of(self, piece: str) -> int:
        """The number of a token, given out on first sight."""
        with self._lock:
            if piece not in self._ids:
                number = _FIRST_FREE_ID + len(self._ids)
                self._ids[piece] = number
                self._texts[number] = piece
            return self._ids[piece]

    def text_of(self, number: int, *, special: bool = True) -> str:
        """The text of a token; special ones vanish when not asked for."""
        text = self._texts.get(number, "")
        return "" if number <= 2 and not special else text


def cut_into(text: str, count: int) -> list[str]:
    """Cut a text into exactly `count` pieces, the last ones empty when it is too short."""
    bounds = [round(index * len(text) / count) for index in range(count + 1)] if count else [0]
    return [text[start:end] for start, end in itertools.pairwise(bounds)]


# --- templates ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Adapter:
    """The tags KoboldCpp puts around a turn; read in the adapters of KoboldCpp 1.115.1."""

    system_start: str = ""
    system_end: str = ""
    user_start: str = ""
    user_end: str = ""
    assistant_start: str = ""
    assistant_end: str = ""
    assistant_gen: str = ""
    """Opens the answer in place of assistant_start."""

    @property
    def opening(self) -> str:
        """What stands before the answer."""
        return self.assistant_gen or self.assistant_start


ADAPTERS: dict[str, Adapter] = {
    "ChatML": Adapter(
        "<|im_start|>system\n", "<|im_end|>\n", "<|im_start|>user\n", "<|im_end|>\n",
        "<|im_start|>assistant\n", "<|im_end|>\n",
    ),
    "ChatML-NoThink": Adapter(
        "<|im_start|>system\n", "<|im_end|>\n", "<|im_start|>user\n", "<|im_end|>\n",
        "<|im_start|>assistant\n<think>\n\n</think>\n", "<|im_end|>\n",
    ),
    "Gemma-3": Adapter(
        "<start_of_turn>user\n", "<end_of_turn>\n", "<start_of_turn>user\n", "<end_of_turn>\n",
        "<start_of_turn>model\n", "<end_of_turn>\n",
    ),
    "Gemma-4-E2B-E4B": Adapter(
        "<|turn>system\n", "<turn|>\n", "<|turn>user\n", "<turn|>\n", "<|turn>model\n", "<turn|>\n"
    ),
    "Gemma-4-26B-31B": Adapter(
        "<|turn>system\n", "<turn|>\n", "<|turn>user\n", "<turn|>\n", "<|turn>model\n", "<turn|>\n",
        "<|turn>model\n<|channel>thought\n<channel|>",
    ),
    "GLM-4": Adapter("<|system|>\n", "", "<|user|>\n", "", "<|assistant|>\n", ""),
    "GLM-4.7": Adapter("<|system|>\n", "", "<|user|>\n", "", "<|assistant|><think>", ""),
    "Granite-4": Adapter(
        "<|start_of_role|>system<|end_of_role|>", "<|end_of_text|>\n",
        "<|start_of_role|>user<|end_of_role|>", "<|end_of_text|>\n",
        "<|start_of_role|>assistant<|end_of_role|>", "<|end_of_text|>\n",
    ),
    "Llama-3": Adapter(
        "<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>",
        "<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>",
    ),
    "Mistral-Tekken": Adapter(
        "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[INST]", "", "[/INST]", "</s>"
    ),
    "Mistral-NonTekken": Adapter("[INST] ", "", "[INST] ", "", "[/INST] ", "</s>", "[/INST]"),
    "Phi-3": Adapter(
        "<|system|>\n", "<|end|>\n", "<|user|>\n", "<|end|>\n", "<|assistant|>\n", "<|end|>\n"
    ),
    "Vicuna": Adapter("", "\n\n", "USER: ", "\n", "ASSISTANT: ", "</s>\n"),
    "Alpaca": Adapter(
        "", "\n\n", "\n### Instruction:\n", "\n\n", "\n### Response:\n", "</s>\n\n"
    ),
}  # fmt: skip

_GUESSES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("<|im_start|>assistant", "<|im_end|>", "<|im_sep|>"), "ChatML"),
    (("<start_of_image>", "<start_of_turn>", "<end_of_turn>"), "Gemma-3"),
    (("<image_soft_token>", "<start_of_turn>model", "<end_of_turn>"), "Gemma-3"),
    (("<|turn>model", "<|think|>", "<|channel>thought\\n<channel|>"), "Gemma-4-26B-31B"),
    (("<|turn>model", "<|think|>"), "Gemma-4-E2B-E4B"),
    (("<|start_header_id|>assistant<|end_header_id|>",), "Llama-3"),
    (("<|start_of_role|>system<|end_of_role|>",), "Granite-4"),
    (("[/INST]", "[SYSTEM_PROMPT]"), "Mistral-Tekken"),
    (("[/INST]", '"[INST] " + system_message'), "Mistral-NonTekken"),
    (("[gMASK]<sop>", "content.split('</think>')"), "GLM-4.7"),
    (("[gMASK]<sop>",), "GLM-4"),
    (("<|system|>", "<|user|>"), "Phi-3"),
    (("[/INST]",), "Mistral-NonTekken"),
    (("<|im_start|>assistant", "<|im_end|>"), "ChatML"),
)
"""AutoGuess of KoboldCpp 1.115.1, as far as vision models meet it, in its order."""


def guess_adapter(chat_template: str) -> Adapter:
    """AutoGuess: the first adapter whose marks all stand in the model's template, else Alpaca."""
    for marks, name in _GUESSES:
        if all(mark in chat_template for mark in marks):
            return ADAPTERS[name]
    return ADAPTERS["Alpaca"]


# --- images -------------------------------------------------------------------------------------

_BASE64_HEAD = re.compile(r"[A-Za-z0-9+/]*")
# stb_image's formats as Pillow names them: no WebP, TIFF, AVIF, HEIC or JPEG 2000.
_STB_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TGA", "PSD", "PPM")


def clean_base64(text: str) -> bytes:
    """Decode as KoboldCpp does: it stops at the first foreign character, padding is optional."""
    matched = _BASE64_HEAD.match(text)
    head = matched.group() if matched else ""
    head = head[: len(head) - (1 if len(head) % 4 == 1 else 0)]
    try:
        return base64.b64decode(head + "=" * (-len(head) % 4))
    except binascii.Error:
        return b""


def decode_image(data: bytes) -> Image.Image | None:
    """Decode as stb_image does (EXIF ignored, alpha dropped, a cut JPEG is grey), else None."""
    for tail in (b"", b"\xff\xd9") if data[:2] == b"\xff\xd8" else (b"",):
        try:
            with Image.open(io.BytesIO(data + tail), formats=_STB_FORMATS) as opened:
                opened.load()
                return _to_rgb(opened)
        except (OSError, ValueError, SyntaxError, EOFError):
            continue
    return None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        eight_bit = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
        return eight_bit.convert("RGB")
    if image.mode == "P":
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


# --- brains -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """A whole answer: exact tokens, whether it ends, and where the model hesitated.

    With `ends=False` the pieces repeat for ever: a model that loops. `rivals` names, per token
    index, another token and its probability relative to the chosen one at temperature 1.
    """

    pieces: Sequence[str]
    ends: bool = True
    rivals: Mapping[int, tuple[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class BrainRequest:
    """What the model is shown: the expanded prompt and the pixels that reach its encoder."""

    prompt: str
    images: list[Image.Image]
    body: dict[str, Any]
    so_far: str = ""

    @property
    def task_hint(self) -> str:
        """ "tags", "caption" or "ocr", guessed from the words of the prompt."""
        words = self.prompt.lower()
        if "keyword" in words or re.search(r"\btags?\b", words):
            return "tags"
        return "caption" if "describe" in words or "caption" in words else "ocr"


class Brain(Protocol):
    """Whatever answers a request."""

    def answer(self, request: BrainRequest) -> str | Answer:
        """The whole answer, however long; the server cuts it."""
        ...


Script = Sequence[str | Answer] | Mapping[str, str | Answer] | Callable[[BrainRequest], str | Answer]


class ScriptBrain:
    """Answers from a list (in order, the last for ever), a dict (first key in the prompt), a call.

    A prompt that already holds the beginning of the last answer is a continuation: the same
    answer again. A dict's key "" answers what no other key does.
    """

    def __init__(self, script: Script | str = CHAIN_TEXT) -> None:
        self._script: Script = [script] if isinstance(script, str) else script
        self._next = 0
        self._last: str | Answer = ""

    def answer(self, request: BrainRequest) -> str | Answer:
        """The scripted answer to this request."""
        if callable(self._script):
            return self._script(request)
        if isinstance(self._script, Mapping):
            keys = [key for key in self._script if key and key in request.prompt]
            return self._script[keys[0]] if keys else self._script.get("", CHAIN_TEXT)
        last = self._last if isinstance(self._last, str) else "".join(self._last.pieces)
        if last and isinstance(self._last, Answer) and not self._last.ends:
            last *= len(request.so_far) // len(last) + 2
        if request.so_far and last.lstrip().startswith(request.so_far.lstrip()):
            return self._last
        self._last = self._script[min(self._next, len(self._script) - 1)]
        self._next += 1
        return self._last


class EyesBrain:
    """Reads with RapidOCR the very pixels that would reach the encoder; results are kept."""

    NOTHING = "There is no text in the image."

    def __init__(self) -> None:
        self._engine: Any = None
        self._lock = threading.Lock()
        self._read: dict[str, str] = {}

    def answer(self, request: BrainRequest) -> str:
        """The text of the images, or for a caption one sentence of measured facts."""
        if not request.images:
            return "I cannot see any image. Please provide the image."
        texts = [self.read(image) for image in request.images]
        if request.task_hint == "caption":
            return _caption(request.images[-1], texts[-1])
        if request.task_hint == "tags":
            return ", ".join(_facts(request.images[-1], texts[-1]))
        return "\n".join(text for text in texts if text) or self.NOTHING

    def read(self, image: Image.Image) -> str:
        """The lines of one picture, from top to bottom, each from left to right."""
        key = hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()
        with self._lock:
            if key not in self._read:
                self._read[key] = self._recognise(image)
            return self._read[key]

    def _recognise(self, image: Image.Image) -> str:
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
        import numpy as np
        from rapidocr import RapidOCR

        if self._engine is None:
            self._engine = RapidOCR(params={"Global.log_level": "error"})
        found = self._engine(np.asarray(image)[:, :, ::-1].copy())
        if found.boxes is None or found.txts is None:
            return ""
        return lines_of(
            [
                (float(box[:, 0].min()), float(box[:, 1].min()), float(box[:, 1].max()), text)
                for box, text in zip(found.boxes, found.txts, strict=True)
            ]
        )


def lines_of(boxes: Sequence[tuple[float, float, float, str]]) -> str:
    """Order boxes (left, top, bottom, text) into lines."""
    lines: list[list[tuple[float, float, float, str]]] = []
    for box in sorted(boxes, key=lambda box: box[1] + box[2]):
        middle = (box[1] + box[2]) / 2
        if lines and lines[-1][0][1] <= middle <= lines[-1][0][2]:
            lines[-1].append(box)
        else:
            lines.append([box])
    return "\n".join(" ".join(box[3] for box in sorted(line)) for line in lines)


_COLOURS = {
    "black": (0, 0, 0), "white": (255, 255, 255), "grey": (128, 128, 128), "red": (200, 40, 40),
    "green": (40, 160, 60), "blue": (40, 80, 200), "yellow": (230, 210, 60),
    "brown": (120, 80, 40), "beige": (225, 205, 165),
}  # fmt: skip


def _facts(image: Image.Image, text: str) -> list[str]:
    mean = ImageStat.Stat(image).mean
    colour = min(_COLOURS, key=lambda name: math.dist(mean, _COLOURS[name]))
    light = "bright" if sum(mean) / 3 > 170 else "dark" if sum(mean) / 3 < 85 else "dim"
    width, height = image.size
    shape = "wide" if width > height else "tall" if height > width else "square"
    return [light, colour, shape, "lettering" if text else "no lettering"]


def _caption(image: Image.Image, text: str) -> str:
    light, colour, shape, lettering = _facts(image, text)
    width, height = image.size
    return f"A {light}, mostly {colour} {shape} picture of {width} by {height} pixels with {lettering} in it."
