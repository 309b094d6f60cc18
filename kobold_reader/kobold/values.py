"""Requests to a server and its answers, as frozen values.

The field names and their traps are those of KoboldCpp's `/api/v1/generate`, measured on 1.115.1; differences of 1.76
are noted.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from kobold_reader.errors import ConfigError

Ending = Literal["eos", "stop_sequence", "length", "aborted"]

MAX_IMAGES = 4
"""Every version takes this many: 1.76 uses the first 4, 1.115.1 the last 16, and neither tells."""
IMAGE_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")

OFF: Mapping[str, object] = {
    "memory": "",
    "top_a": 0.0,
    "typical": 1.0,
    "tfs": 1.0,
    "nsigma": 0.0,
    "presence_penalty": 0.0,
    "xtc_probability": 0.0,
    "mirostat": 0,
    "dynatemp_range": 0.0,
    "smoothing_factor": 0.0,
    "sampler_order": [6, 0, 1, 3, 4, 2, 5],
    "banned_tokens": [],
    "logit_bias": {},
    "trim_stop": False,  # else the only sign of a hit is cut off
    "ban_eos_token": False,
    "use_default_badwordsids": False,  # an alias of ban_eos_token
    "bypass_eos": False,
    "render_special": False,
    "grammar_retain_state": False,
}
"""Sent although they are the defaults: `--gendefaults` of a server fills what is left out."""


@lru_cache(8)  # all questions about an image come back to back, so one for each server will do
def _quoted(image: bytes) -> bytes:
    """The image as a JSON string. `json` would take as long for it as a server for a short word, which would idle."""
    return b'"%b"' % base64.b64encode(image)


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One request for text; nothing is left to the defaults of the server."""

    prompt: str
    """The very text that the model continues, template tags included."""
    images: tuple[bytes, ...] = ()
    """Whole JPEG or PNG files, upright, without transparency. KoboldCpp ignores EXIF orientation, drops transparency
    unblended, and drops other formats without a word."""
    max_length: int = 2048
    """Limit of new tokens; the server cuts it to 80 % of its context."""
    temperature: float = 0.1
    """At 0 the log-probabilities say nothing (they are taken after the samplers); 0.1 with a fixed seed is nearly
    greedy, repeatable, and still shows doubt."""
    top_k: int = 0
    """0 switches it off."""
    top_p: float = 1.0
    min_p: float = 0.0
    rep_pen: float = 1.0
    dry_multiplier: float = 0.0
    sampler_seed: int = 1
    """0 and below are random; two calls in one second then answer alike."""
    stop_sequence: tuple[str, ...] = ()
    """Literal texts; the answer is cut before them."""
    logprobs: bool = False
    grammar: str | None = None
    """GBNF. The server silently ignores an invalid one."""
    replace_instruct_placeholders: bool = False
    """Whether the server replaces `{{[INPUT]}}` and its like."""
    reasoning_effort: str | None = None
    """Thinking budget: `none`, `minimal`, `low`, `medium`; since 1.112."""

    def body(self, genkey: str) -> bytes:
        """Return the JSON to send; an image that was sent a moment ago is not encoded again.

        Without `max_context_length`: a smaller value shrinks the window, and the image is dropped.

        Raises:
            ConfigError: The server would answer HTTP 200 and do something else than asked: no JPEG or PNG, too many
                images, no tokens to write, an empty stop sequence.
        """
        self._check()
        body: dict[str, object] = {
            **OFF,
            "prompt": self.prompt,
            "genkey": genkey,
            "max_length": self.max_length,
            "temperature": self.temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "min_p": self.min_p,
            "rep_pen": self.rep_pen,
            "dry_multiplier": self.dry_multiplier,
            "sampler_seed": self.sampler_seed,
            "stop_sequence": list(self.stop_sequence),
            "grammar": self.grammar or "",
            "replace_instruct_placeholders": self.replace_instruct_placeholders,
        }
        if self.logprobs:
            body["logprobs"] = True
        if self.reasoning_effort is not None:
            body["reasoning_effort"] = self.reasoning_effort
        rest = json.dumps(body, allow_nan=False).encode("ascii")
        return b'{"images": [%b], %b' % (b", ".join(map(_quoted, self.images)), rest[1:])

    def _check(self) -> None:
        if self.max_length < 1:
            raise ConfigError(f"max_length is {self.max_length}; it must be 1 or more.")
        if len(self.images) > MAX_IMAGES:
            raise ConfigError(
                f"{len(self.images)} images in one request; KoboldCpp would drop some of them silently. "
                f"Send at most {MAX_IMAGES}."
            )
        for number, image in enumerate(self.images, start=1):
            if not image.startswith(IMAGE_MAGIC):
                raise ConfigError(
                    f"Image {number} is neither JPEG nor PNG; KoboldCpp might drop it silently.",
                    hint="Convert it first (WebP, TIFF, AVIF and HEIC are never seen).",
                )
        if not all(self.stop_sequence):
            raise ConfigError("stop_sequence must be a tuple of texts, none of them empty.")


@dataclass(frozen=True, slots=True)
class Completion:
    """What the model wrote. The caller decides whether it is a reading of the page."""

    text: str
    """Without the stop sequence and what follows it; may be empty."""
    ending: Ending
    """`eos`: the model ended by itself. `stop_sequence`: one was hit. `length`: cut off, by `max_length` or a limit of
    the server. `aborted`: by us."""
    prompt_tokens: int | None = None
    """All that was read, image included; None before 1.77 and where the answer to an aborted request did not come."""
    completion_tokens: int | None = None
    """All that was written, the end token included; None as above."""
    logprobs: Mapping[str, Any] | None = None
    """As the server sent them: `content[]` of token, logprob, top_logprobs, and more."""
    elapsed_s: float = 0.0
    """From sending to the whole answer, time in the server's queue included."""


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a server reports about itself."""

    url: str
    """Without credentials."""
    model: str
    """Stem of the model's file, without `koboldcpp/`."""
    version: str
    """Dotted, as sent."""
    vision: bool
    """Whether a projector is loaded; before 1.97 only whether one was named."""
    protected: bool
    """Whether it asks for a password; ours was accepted then."""
    jinja: bool
    """Whether Jinja renders chat templates (`--jinja`)."""
    embeddings: bool
    """Whether an embedding model is loaded."""
    embedding_model: str | None
    """Its name, where told (not by every 1.115)."""
    context_tokens: int
    chat_template: str | None
    """Of the model's file; "" if it has none, None if the server cannot tell (before 1.79)."""
    text_model: bool = True
    """False if it runs without a language model (embeddings only)."""

    @property
    def version_tuple(self) -> tuple[int, ...]:
        """Comparable: (1, 76) < (1, 115, 1)."""
        return version_tuple(self.version)

    @property
    def counts_tokens(self) -> bool:
        """Whether answers carry token counts (since 1.77), the only proof that an image was seen."""
        return self.version_tuple >= (1, 77)


def version_tuple(version: str) -> tuple[int, ...]:
    """Return the leading dotted numbers of a version: "1.115.1-b2" → (1, 115, 1)."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


@dataclass(frozen=True, slots=True)
class ExpandedPrompt:
    """A prompt as the model gets it, and its length in tokens, the start token included."""

    text: str
    tokens: int
