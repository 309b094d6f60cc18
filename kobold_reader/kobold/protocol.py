"""KoboldCpp's requests and answers: what is sent, and how an HTTP answer becomes a value or a named error.

Fields are those of `/api/v1/generate`, measured on 1.115.1; differences of 1.76 are noted. The HTTP status tells
little: 503 is three things, 500 means a bad request, and 200 may carry `null`, an empty result or an internal error. So
the body decides. Messages name KoboldCpp's settings by their flag and by their name in its launcher, because most users
never see a command line.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, Literal
from urllib.parse import urlsplit

from typing_extensions import TypeIs

from kobold_reader.errors import (
    AuthenticationError,
    BadRequestError,
    ConfigError,
    NoVisionModelError,
    ResponseFormatError,
    ServerBusyError,
    ServerError,
    ServerStatusError,
)

MIN_ANSWER_TOKENS = 256
"""A context that leaves less room than this for the answer cannot hold a page."""
CONTEXT_MARGIN_TOKENS = 4
"""KoboldCpp drops every image where image tokens + max_length + 4 exceed its context."""


@dataclass(frozen=True, slots=True)
class ServerSetting:
    """One setting of the server: its flag, and its field and tab in the launcher."""

    flag: str
    field: str
    tab: str

    def remedy(self, value: str = "") -> str:
        """Return what to do, for both kinds of user; continues a sentence that begins with "start it"."""
        with_value = f" {value}" if value else ""
        return f'with {self.flag}{with_value} (launcher: "{self.field}" in "{self.tab}")'


SETTINGS: Mapping[str, ServerSetting] = {
    "mmproj": ServerSetting("--mmproj", "Vision mmproj", "Loaded Files"),
    "visionmaxres": ServerSetting("--visionmaxres", "Vision MaxRes", "Loaded Files"),
    "embeddingsmodel": ServerSetting("--embeddingsmodel", "Embeds Model", "Loaded Files"),
    "chatcompletionsadapter": ServerSetting("--chatcompletionsadapter", "Chat Adapter", "Loaded Files"),
    "contextsize": ServerSetting("--contextsize", "Context Size", "Quick Launch"),
    "multiuser": ServerSetting("--multiuser", "Multiuser Queue", "Network"),
    "maxrequestsize": ServerSetting("--maxrequestsize", "Max Req. Size (MB)", "Network"),
    "password": ServerSetting("--password", "Password", "Network"),
}
"""By name; as the launcher of 2026 writes them (older ones: "Multiuser Mode", "LLaVA mmproj")."""


Ending = Literal["eos", "stop_sequence", "length", "aborted"]

MAX_IMAGES = 4
"""Every version takes this many: 1.76 uses the first 4, 1.115.1 the last 16, and neither reports it."""
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
    """One request for text, independent of the server's defaults."""

    prompt: str
    """The very text that the model continues, template tags included."""
    images: tuple[bytes, ...] = ()
    """Whole JPEG or PNG files, upright, without transparency. KoboldCpp ignores EXIF orientation, drops transparency
    unblended, and drops other formats without a word."""
    max_length: int = 2048
    """Limit of new tokens; the server cuts it to 80 % of its context."""
    temperature: float = 0.1
    """At 0 the log-probabilities are useless (they are taken after the samplers); 0.1 with a fixed seed is nearly
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
        """Return the JSON to send; the base64 of the last images is kept for their next requests.

        Without `max_context_length`: a smaller value shrinks the window, and the image is dropped.

        Raises:
            ConfigError: The server would answer HTTP 200 and do something else than asked: no JPEG or PNG, too many
                images, no tokens to write, an empty stop sequence.
        """
        self._check()
        body = {**OFF, **{field.name: getattr(self, field.name) for field in fields(self)}}
        body.update(genkey=genkey, grammar=self.grammar or "")
        del body["images"]
        if not self.logprobs:
            del body["logprobs"]
        if self.reasoning_effort is None:
            del body["reasoning_effort"]
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
    """The text of the model. The caller decides whether it is a reading of the page."""

    text: str
    """Cut before the stop sequence; may be empty."""
    ending: Ending
    """`eos`: the model ended by itself. `stop_sequence`: one was hit. `length`: cut off, by `max_length` or a limit of
    the server. `aborted`: by us."""
    prompt_tokens: int | None = None
    """Image included; None before 1.77 and where no answer to an aborted request came."""
    completion_tokens: int | None = None
    """The end token included; None as above."""
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
    """Whether it asks for a password; it has accepted ours then."""
    jinja: bool
    """Whether Jinja renders chat templates (`--jinja`)."""
    embeddings: bool
    """Whether an embedding model is loaded."""
    embedding_model: str | None
    """Its name, where the server reports it (not every 1.115 does)."""
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

    @property
    def max_answer_tokens(self) -> int:
        """The longest answer to ask for: KoboldCpp cuts `max_length` to 80 % of its context without a word."""
        return int(self.context_tokens * 0.75)


def version_tuple(version: str) -> tuple[int, ...]:
    """Return the leading dotted numbers of a version: "1.115.1-b2" → (1, 115, 1)."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


@dataclass(frozen=True, slots=True)
class ExpandedPrompt:
    """A prompt as the model gets it, and its length in tokens, the start token included."""

    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """The server's answer with any status."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def header(self, name: str) -> str:
        """Return the header of that name in lower case; "" where there is none."""
        return next((value for key, value in self.headers.items() if key.lower() == name), "")


EXCERPT_BYTES = 500
LONGEST_TOKEN_CHARS = 256
"""Runs of blanks or dashes are single tokens in many vocabularies, the longest about 128 long."""


def parse_json(answer: HttpAnswer, url: str) -> object:
    """Decode the body of a 200 answer.

    Raises:
        ServerError: Another status (see `classify_error`), or a body that is cut or no JSON.
    """
    if answer.status != 200:  # noqa: PLR2004
        raise classify_error(answer, url)
    body, promised = answer.body, answer.header("content-length")
    if promised.isdecimal() and not answer.header("content-encoding") and int(promised) != len(body):
        raise _unusable(url, f"is {int(promised) - len(body):+d} bytes off the length it promised", body)
    try:
        return json.loads(body.decode("utf-8"))
    except UnicodeDecodeError as err:
        raise _unusable(url, "is not UTF-8", body) from err
    except (ValueError, RecursionError) as err:
        is_html = _is_html(body)
        why = "is a web page" if is_html else "is not JSON, or was cut off"
        raise _unusable(url, why, body) from err


def parse_generate(
    answer: HttpAnswer,
    request: GenerateRequest,
    *,
    url: str = "the server",
    elapsed_s: float = 0.0,
    aborted: bool = False,
) -> Completion:
    """Read the answer of `/api/v1/generate`.

    `finish_reason` is "stop" for the end token alone; it is "length" for the token limit, a hit stop sequence and an
    abort alike (1.76 and 1.115.1). A hit stop sequence is found by its text, which `trim_stop: false` leaves near the
    end: a stop inside a token is followed by the rest of that token. An empty text is returned as it is.

    `url` is for messages, `elapsed_s` is passed through, `aborted` tells that we sent an abort for this request.

    Raises:
        ServerError: Any status but 200; as ResponseFormatError also a 200 without a usable result, `finish_reason`
            "error" included (the server failed inside; sent again it may work).
    """
    body, value = answer.body, parse_json(answer, url)
    if value is None:
        raise _unusable(url, "is `null`: the server could not handle the request", body)
    results = value.get("results") if isinstance(value, dict) else None
    result = results[0] if isinstance(results, list) and len(results) == 1 else None
    if not isinstance(result, dict) or not isinstance(result.get("text"), str):
        raise _unusable(url, "holds no single result with a text", body)
    finish = result.get("finish_reason")
    if finish == "error":
        why = "reports an error inside KoboldCpp (its console says more; often the context is too small for image and "
        raise _unusable(url, f"{why}answer)", body)
    if finish not in ("stop", "length"):
        raise _unusable(url, f"ends for an unknown reason ({finish!r:.40})", body)
    logprobs = result.get("logprobs")
    if logprobs is not None and not isinstance(logprobs, dict):
        raise _unusable(url, "has log-probabilities of an unknown form", body)
    for name in ("prompt_tokens", "completion_tokens"):  # None before 1.77
        if result.get(name) is not None and not is_count(result[name]):
            raise _unusable(url, f"has no number in {name}", body)
    # Half a surrogate pair is valid JSON, and breaks every file it is written to.
    text = result["text"].encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    text, ending = _cut_at_stop(text, finish, request, aborted=aborted)
    return Completion(text, ending, result.get("prompt_tokens"), result.get("completion_tokens"), logprobs, elapsed_s)


def _is_html(body: bytes) -> bool:
    return body.lstrip()[:1] == b"<"


def is_count(value: object) -> TypeIs[int]:
    """Tell whether a value from JSON is a whole number of 0 or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _cut_at_stop(text: str, finish: str, request: GenerateRequest, *, aborted: bool) -> tuple[str, Ending]:
    if finish == "stop":
        return text, "eos"
    hits = [text.find(stop, max(0, len(text) - len(stop) - LONGEST_TOKEN_CHARS)) for stop in request.stop_sequence]
    if any(hit >= 0 for hit in hits):
        return text[: min(hit for hit in hits if hit >= 0)], "stop_sequence"
    return text, "aborted" if aborted else "length"


def excerpt(body: bytes) -> str:
    """Return the first 500 bytes, printable on every terminal."""
    shown = body[:EXCERPT_BYTES].decode("utf-8", "backslashreplace")
    return json.dumps(shown)[1:-1] + ("…" if len(body) > EXCERPT_BYTES else "")


def _unusable(url: str, why: str, body: bytes) -> ResponseFormatError:
    got = f" It begins: {excerpt(body)}" if body else " It is empty."
    return ResponseFormatError(f"{url}: the answer {why}.{got}", server=url)


def no_vision_error(url: str) -> NoVisionModelError:
    """Return the error for a server without a projector, with the remedy for both kinds of user."""
    return NoVisionModelError(
        f"{url}: KoboldCpp runs without a vision projector and would drop every image silently.",
        server=url,
        hint=f"Start it {SETTINGS['mmproj'].remedy('FILE')}, with the file made for its model.",
    )


def classify_error(answer: HttpAnswer, url: str) -> ServerError:
    """Return the error for an answer with another status than 200."""
    status = answer.status
    kind, msg = _detail(answer.body)
    told = f" ({msg})" if msg else ""
    facts: dict[str, Any] = {"status": status, "detail_type": kind, "detail_msg": msg, "server": url}
    if 300 <= status < 400:  # noqa: PLR2004
        return ResponseFormatError(
            f"{url}: redirected{_location(answer)}; redirects are not followed, pages must not go elsewhere.",
            server=url,
            hint="If KoboldCpp is there, give that address.",
        )
    if status == 401:  # noqa: PLR2004
        return AuthenticationError(
            f"{url}: the password is missing or wrong.",
            **facts,
            hint="Give the one KoboldCpp was started with (--api-password-file, or KOBOLD_READER_PASSWORD).",
        )
    if status in (429, 502, 503, 504):
        if "no vision model" in msg.lower() or "no llava model" in msg.lower():
            return no_vision_error(url)
        return _busy(status, msg, url, facts)
    if kind == "bad_input" or status in (400, 413, 422):
        is_too_big = status == 413 or "too big" in msg.lower()  # noqa: PLR2004
        remedy = f"Send a smaller image, or start it {SETTINGS['maxrequestsize'].remedy('64')}."
        return BadRequestError(f"{url}: the request was refused{told}.", **facts, hint=remedy if is_too_big else None)
    if status == 404:  # noqa: PLR2004
        return ServerStatusError(
            f"{url}: something answers there, but it does not know KoboldCpp's API (404).",
            **facts,
            hint="Look at the port and the path; KoboldCpp's own port is 5001.",
        )
    shown = told or (" with a web page" if _is_html(answer.body) else f": {excerpt(answer.body)}")
    return ServerStatusError(
        f"{url}: it answered HTTP {status}{shown}.", **facts, hint="The console of the server says more."
    )


def _busy(status: int, msg: str, url: str, facts: dict[str, Any]) -> ServerBusyError:
    wait = re.search(r"try again in (\d+(?:\.\d+)?) second", msg, re.IGNORECASE)
    hint = None
    if wait or status == 429:  # noqa: PLR2004
        why = "requests come faster than it allows"
    elif status == 503:  # noqa: PLR2004
        why = "it is busy with another request, and lets no more of them wait"
        hint = f"If it stays so, start it {SETTINGS['multiuser'].remedy('10')}."
    else:
        why = f"the router or proxy in front of KoboldCpp has no answer from it (HTTP {status})"
        hint = "It may be loading its model: wait a minute and start again, or look at its console."
    error = ServerBusyError(f"{url}: {why}.", **facts, hint=hint)
    error.retry_after_s = float(wait[1]) if wait else None
    return error


def _detail(body: bytes) -> tuple[str, str]:
    """Return `detail.type` and `detail.msg`; "" where they are missing."""
    try:
        detail = json.loads(body.decode("utf-8"))["detail"]
        kind, msg = detail.get("type"), detail.get("msg")
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return "", ""
    return kind[:100] if isinstance(kind, str) else "", msg[:EXCERPT_BYTES] if isinstance(msg, str) else ""


def _location(answer: HttpAnswer) -> str:
    """Return where a redirect leads, without what may be secret in it."""
    try:
        parts = urlsplit(answer.header("location"))
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return ""
    where = f"{parts.scheme}://{host}{parts.path}" if host else parts.path
    return f" to {where[:200]}" if where else ""


# ── models that think aloud ───────────────────────────────────────────────────────────────────────

# Families that are known to think are told not to. Some think all the same, and so do unknown models.
THOUGHTS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|channel>thought", "<channel|>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)
"""How a thought begins and ends, by maker."""
STARTS = [start for start, _ in THOUGHTS]
CLOSED, FROM_START, TO_END = (
    re.compile(
        "|".join(pattern.format(re.escape(start), re.escape(end)) for start, end in THOUGHTS), re.DOTALL | re.IGNORECASE
    )
    for pattern in ("{}.*?{}", "{}.*", ".*{1}")
)


def spoken(text: str, *, prompt: str = "", is_whole: bool = True) -> str:
    """Return an answer without the thoughts before and within it.

    Args:
        text: The answer, or the answer so far.
        prompt: The prompt before it: some templates begin the thought themselves.
        is_whole: False while more may come; an end that may be the beginning of a tag is held back then.

    >>> spoken("<think>Slates, then.</think>The roof.")
    'The roof.'
    >>> spoken("The roof. <thi", is_whole=False)
    'The roof. '
    """
    begun = next((start for start in STARTS if prompt.rstrip().endswith(start)), "")
    text = CLOSED.sub("", begun + text)
    if is_whole:
        text = TO_END.sub("", text)  # the thought began out of sight
    text = FROM_START.sub("", text)
    return text if is_whole else without_begun(text, STARTS)


def without_begun(text: str, tags: Iterable[str]) -> str:
    """Return an unfinished text without an end that may be the beginning of one of the tags.

    >>> without_begun("The roof.<|im_", ["<|im_end|>"])
    'The roof.'
    """
    lower, tags = text.casefold(), [tag.casefold() for tag in tags]
    longest = min(len(text), max(map(len, tags), default=0))
    begun = (length for length in range(longest, 0, -1) if any(tag.startswith(lower[-length:]) for tag in tags))
    return text[: len(text) - next(begun, 0)]
