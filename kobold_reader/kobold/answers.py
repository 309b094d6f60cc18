"""From HTTP status and body to a value or a named error. Pure; tested against recorded answers.

KoboldCpp says little by status: 503 is three things, 500 means a bad request, and 200 may carry
`null`, an empty result or an internal error. So everything is judged by its body.

How KoboldCpp's own settings are called, so that every message names them alike.

Most users start KoboldCpp through its launcher window and never see a command line; a remedy that
names only the flag does not help them.

A model that thinks aloud: what it says to itself is no part of the answer.

Families that are known to think are told not to. These blocks come from models that do it all the same, or that
nobody knows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlsplit

from kobold_reader.errors import (
    AuthenticationError,
    BadRequestError,
    NoVisionModelError,
    ResponseFormatError,
    ServerBusyError,
    ServerError,
    ServerStatusError,
)
from kobold_reader.kobold.values import Completion, Ending, GenerateRequest

__all__ = [
    "SETTINGS",
    "ServerSetting",
    "classify_error",
    "excerpt",
    "no_vision_error",
    "parse_generate",
    "parse_json",
    "spoken",
    "without_begun",
]


@dataclass(frozen=True, slots=True)
class ServerSetting:
    """One setting of the server: its flag, and its field and tab in the launcher."""

    flag: str
    field: str
    tab: str

    def remedy(self, value: str = "") -> str:
        """What to do, for both kinds of user; continues a sentence that begins with "start it"."""
        with_value = f" {value}" if value else ""
        return f'with {self.flag}{with_value} (launcher: "{self.field}" in "{self.tab}")'


SETTINGS: Final = MappingProxyType(
    {
        "mmproj": ServerSetting("--mmproj", "Vision mmproj", "Loaded Files"),
        "visionmaxres": ServerSetting("--visionmaxres", "Vision MaxRes", "Loaded Files"),
        "embeddingsmodel": ServerSetting("--embeddingsmodel", "Embeds Model", "Loaded Files"),
        "chatcompletionsadapter": ServerSetting("--chatcompletionsadapter", "Chat Adapter", "Loaded Files"),
        "contextsize": ServerSetting("--contextsize", "Context Size", "Quick Launch"),
        "multiuser": ServerSetting("--multiuser", "Multiuser Queue", "Network"),
        "maxrequestsize": ServerSetting("--maxrequestsize", "Max Req. Size (MB)", "Network"),
        "password": ServerSetting("--password", "Password", "Network"),
    }
)
"""By name; as the launcher of 2026 writes them (older ones: "Multiuser Mode", "LLaVA mmproj")."""


_BLOCKS: Final = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|channel>thought", "<channel|>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)
"""How a thought begins and ends, by maker."""
_CLOSED: Final = re.compile(
    "|".join(f"{re.escape(start)}.*?{re.escape(end)}" for start, end in _BLOCKS), re.DOTALL | re.IGNORECASE
)
_OPEN: Final = re.compile("(?:" + "|".join(re.escape(start) for start, _ in _BLOCKS) + ").*", re.DOTALL | re.IGNORECASE)
_CLOSE: Final = re.compile(".*(?:" + "|".join(re.escape(end) for _, end in _BLOCKS) + ")", re.DOTALL | re.IGNORECASE)


def spoken(text: str, *, prompt: str = "", is_whole: bool = True) -> str:
    """Return what was said without the thoughts before and within it.

    Args:
        text: The answer, or the answer so far.
        prompt: What it continues: some templates begin the thought themselves.
        is_whole: False while more may come: an end that may be the beginning of a tag is held back.

    >>> spoken("<think>Slates, then.</think>The roof.")
    'The roof.'
    >>> spoken("The roof. <thi", is_whole=False)
    'The roof. '
    """
    begun = next((start for start, _ in _BLOCKS if prompt.rstrip().endswith(start)), "")
    text = _CLOSED.sub("", begun + text)
    if is_whole:
        text = _CLOSE.sub("", text)  # its beginning was in nobody's sight
    text = _OPEN.sub("", text)
    return text if is_whole else without_begun(text, (start for start, _ in _BLOCKS))


def without_begun(text: str, tags: Iterable[str]) -> str:
    """Return a text that goes on without an end that may be the beginning of one of the tags.

    >>> without_begun("The roof.<|im_", ["<|im_end|>"])
    'The roof.'
    """
    lower, tags = text.casefold(), [tag.casefold() for tag in tags]
    longest = max((len(tag) for tag in tags), default=0)
    for length in range(min(longest, len(text)), 0, -1):
        if any(tag.startswith(lower[-length:]) for tag in tags):
            return text[:-length]
    return text


_EXCERPT_BYTES: Final = 500
_LONGEST_TOKEN_CHARS: Final = 256
"""Runs of blanks or dashes are single tokens in many vocabularies, the longest about 128 long."""

_RATE_LIMIT: Final = re.compile(r"try again in (\d+(?:\.\d+)?) second", re.IGNORECASE)
_HTTP_OK: Final = 200
_GATEWAY_HINT: Final = "It may be loading its model: wait a minute and start again, or look at its console."
_BUSY_HINTS: Final[Mapping[int, str]] = {
    502: _GATEWAY_HINT,
    503: f"If it stays so, start it {SETTINGS['multiuser'].remedy('10')}.",
    504: _GATEWAY_HINT,
}


def excerpt(body: bytes) -> str:
    """The first 500 bytes, printable on every terminal."""
    shown = body[:_EXCERPT_BYTES].decode("utf-8", "backslashreplace")
    return json.dumps(shown)[1:-1] + ("…" if len(body) > _EXCERPT_BYTES else "")


def parse_json(status: int, headers: Mapping[str, str], body: bytes, url: str) -> object:
    """The decoded body of a 200 answer.

    Raises:
        ServerError: Another status (see `classify_error`), or a body that is cut or no JSON.
    """
    if status != _HTTP_OK:
        raise classify_error(status, body, url, headers=headers)
    promised = _header(headers, "content-length")
    if promised.isdecimal() and not _header(headers, "content-encoding"):
        missing = int(promised) - len(body)
        if missing:
            raise _no_answer(url, f"is {missing:+d} bytes off the length it promised", body)
    try:
        return json.loads(body.decode("utf-8"))
    except UnicodeDecodeError as err:
        raise _no_answer(url, "is not UTF-8", body) from err
    except (ValueError, RecursionError) as err:
        if body.lstrip()[:1] == b"<":
            raise _no_answer(url, "is a web page, not the answer of a KoboldCpp", body) from err
        raise _no_answer(url, "is no JSON, or was cut off", body) from err


def parse_generate(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    request: GenerateRequest,
    *,
    url: str = "the server",
    elapsed_s: float = 0.0,
    aborted: bool = False,
) -> Completion:
    """Read the answer of `/api/v1/generate`.

    `finish_reason` is "stop" for the end token alone; "length" stands for the token limit, a hit
    stop sequence and an abort alike (1.76 and 1.115.1). A hit stop sequence is told by its text,
    which `trim_stop: false` leaves near the end: a stop inside a token is followed by the rest of
    that token. An empty text is returned as it is.

    Args:
        status: HTTP status.
        headers: Of the answer.
        body: Raw bytes of the answer.
        request: What was asked.
        url: The server, for messages.
        elapsed_s: Passed through.
        aborted: Whether we sent an abort for this request.

    Raises:
        ServerError: Any status but 200; as ResponseFormatError also a 200 without a usable result,
            `finish_reason` "error" included (the server failed inside; sent again it may work).
            Never a part of a text.
    """
    answer = parse_json(status, headers, body, url)
    if answer is None:
        raise _no_answer(url, "is `null`: the server stumbled over the request", body)
    results = answer.get("results") if isinstance(answer, dict) else None
    result = results[0] if isinstance(results, list) and len(results) == 1 else None
    if not isinstance(result, dict) or not isinstance(result.get("text"), str):
        raise _no_answer(url, "holds no single result with a text", body)
    finish = result.get("finish_reason")
    if finish == "error":
        raise _no_answer(
            url,
            "reports an error inside KoboldCpp (its console says more; often the context is too "
            "small for image and answer)",
            body,
        )
    if finish not in ("stop", "length"):
        raise _no_answer(url, f"ends for an unknown reason ({finish!r:.40})", body)
    logprobs = result.get("logprobs")
    if logprobs is not None and not isinstance(logprobs, dict):
        raise _no_answer(url, "has log-probabilities of an unknown form", body)
    text, ending = _cut(_without_surrogates(result["text"]), finish, request, aborted=aborted)
    return Completion(
        text=text,
        ending=ending,
        prompt_tokens=_count(result, "prompt_tokens", url, body),
        completion_tokens=_count(result, "completion_tokens", url, body),
        logprobs=logprobs,
        elapsed_s=elapsed_s,
    )


def _cut(text: str, finish: str, request: GenerateRequest, *, aborted: bool) -> tuple[str, Ending]:
    if finish == "stop":
        return text, "eos"
    hits = []
    for stop in request.stop_sequence:
        found = text.find(stop, max(0, len(text) - len(stop) - _LONGEST_TOKEN_CHARS))
        if found >= 0:
            hits.append(found)
    if hits:
        return text[: min(hits)], "stop_sequence"
    return text, "aborted" if aborted else "length"


def _count(result: Mapping[str, Any], name: str, url: str, body: bytes) -> int | None:
    value = result.get(name)
    if value is None:  # before 1.77
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise _no_answer(url, f"has no number in {name}", body)
    return value


def _without_surrogates(text: str) -> str:
    """Half a surrogate pair is valid JSON, and breaks every file it is written to."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _header(headers: Mapping[str, str], name: str) -> str:
    return next((value for key, value in headers.items() if key.lower() == name), "")


def _no_answer(url: str, why: str, body: bytes) -> ResponseFormatError:
    got = f" It begins: {excerpt(body)}" if body else " It is empty."
    return ResponseFormatError(f"{url}: the answer {why}.{got}", server=url)


def no_vision_error(url: str) -> NoVisionModelError:
    """No projector is loaded; says how to load one, for both kinds of user."""
    return NoVisionModelError(
        f"{url}: KoboldCpp runs without a vision projector and would drop every image silently.",
        server=url,
        hint=f"Start it {SETTINGS['mmproj'].remedy('FILE')}, with the file made for its model.",
    )


def classify_error(status: int, body: bytes, url: str, *, headers: Mapping[str, str] | None = None) -> ServerError:
    """Name the error of an answer that is not 200.

    Returns an error instead of raising it, so that the caller decides what follows.
    """
    if 300 <= status < 400:  # noqa: PLR2004
        where = _location(_header(headers or {}, "location"))
        return ResponseFormatError(
            f"{url}: redirected{where}; redirects are not followed, pages must not go elsewhere.",
            server=url,
            hint="Give the address it leads to, if that is right.",
        )
    kind, msg = _detail(body)
    told = f" ({msg})" if msg else ""
    if status == 401:  # noqa: PLR2004
        return AuthenticationError(
            f"{url}: the password is missing or wrong.",
            status=status,
            detail_type=kind,
            detail_msg=msg,
            server=url,
            hint="Give the one KoboldCpp was started with (--api-password-file, or KOBOLD_READER_PASSWORD).",
        )
    if status in (429, 502, 503, 504):
        return _busy(status, kind, msg, url)
    if kind == "bad_input" or status in (400, 413, 422):
        too_big = status == 413 or "too big" in msg.lower()  # noqa: PLR2004
        return BadRequestError(
            f"{url}: the request was refused{told}.",
            status=status,
            detail_type=kind,
            detail_msg=msg,
            server=url,
            hint=f"Send a smaller image, or start it {SETTINGS['maxrequestsize'].remedy('64')}." if too_big else None,
        )
    if status == 404:  # noqa: PLR2004
        return ServerStatusError(
            f"{url}: something answers there, but it does not know KoboldCpp's API (404).",
            status=status,
            server=url,
            hint="Look at the port and the path; KoboldCpp's own port is 5001.",
        )
    return ServerStatusError(
        f"{url}: HTTP {status}{told or ': ' + excerpt(body)}.",
        status=status,
        detail_type=kind,
        detail_msg=msg,
        server=url,
        hint="The console of the server says more.",
    )


def _busy(status: int, kind: str, msg: str, url: str) -> ServerError:
    if "no vision model" in msg.lower() or "no llava model" in msg.lower():
        return no_vision_error(url)
    wait = _RATE_LIMIT.search(msg)
    if wait or status == 429:  # noqa: PLR2004
        why = "requests come faster than it allows"
    elif status == 503:  # noqa: PLR2004
        why = "it is busy, its queue is full"
    else:
        why = f"the router or proxy in front of KoboldCpp has no answer from it (HTTP {status})"
    error = ServerBusyError(
        f"{url}: {why}.",
        status=status,
        detail_type=kind,
        detail_msg=msg,
        server=url,
        hint=_BUSY_HINTS.get(status) if not wait else None,
    )
    error.retry_after_s = float(wait.group(1)) if wait else None
    return error


def _detail(body: bytes) -> tuple[str, str]:
    """`detail.type` and `detail.msg`, as far as they are there."""
    try:
        answer = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        return "", ""
    detail = answer.get("detail") if isinstance(answer, dict) else None
    if not isinstance(detail, dict):
        return "", ""
    kind, msg = detail.get("type"), detail.get("msg")
    return (
        kind[:100] if isinstance(kind, str) else "",
        msg[:_EXCERPT_BYTES] if isinstance(msg, str) else "",
    )


def _location(location: str) -> str:
    """Where a redirect leads, without what may be secret in it."""
    try:
        parts = urlsplit(location)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return ""
    where = f"{parts.scheme}://{host}{parts.path}" if host else parts.path
    return f" to {where[:200]}" if where else ""
