"""From HTTP status and body to a value or a named error. Pure; tested against recorded answers.

KoboldCpp says little by status: 503 is three things, 500 means a bad request, and 200 may carry `null`, an empty result
or an internal error. So everything is judged by its body.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal
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
from kobold_reader.kobold.settings import SETTINGS
from kobold_reader.kobold.values import Completion, Ending, GenerateRequest

EXCERPT_BYTES = 500
LONGEST_TOKEN_CHARS = 256
"""Runs of blanks or dashes are single tokens in many vocabularies, the longest about 128 long."""
RATE_LIMIT = re.compile(r"try again in (\d+(?:\.\d+)?) second", re.IGNORECASE)


def parse_json(status: int, headers: Mapping[str, str], body: bytes, url: str) -> object:
    """Decode the body of a 200 answer.

    Raises:
        ServerError: Another status (see `classify_error`), or a body that is cut or no JSON.
    """
    if status != 200:  # noqa: PLR2004
        raise classify_error(status, body, url, headers=headers)
    promised = _header(headers, "content-length")
    if promised.isdecimal() and not _header(headers, "content-encoding") and int(promised) != len(body):
        raise _no_answer(url, f"is {int(promised) - len(body):+d} bytes off the length it promised", body)
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

    `finish_reason` is "stop" for the end token alone; it is "length" for the token limit, a hit stop sequence and an
    abort alike (1.76 and 1.115.1). A hit stop sequence is told by its text, which `trim_stop: false` leaves near the
    end: a stop inside a token is followed by the rest of that token. An empty text is returned as it is.

    Args:
        status: HTTP status.
        headers: Of the answer.
        body: Raw bytes of the answer.
        request: What was asked.
        url: The server, for messages.
        elapsed_s: Passed through.
        aborted: Whether we sent an abort for this request.

    Raises:
        ServerError: Any status but 200; as ResponseFormatError also a 200 without a usable result, `finish_reason`
            "error" included (the server failed inside; sent again it may work). Never a part of a text.
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
            "reports an error inside KoboldCpp (its console says more; often the context is too small for image and "
            "answer)",
            body,
        )
    if finish not in ("stop", "length"):
        raise _no_answer(url, f"ends for an unknown reason ({finish!r:.40})", body)
    logprobs = result.get("logprobs")
    if logprobs is not None and not isinstance(logprobs, dict):
        raise _no_answer(url, "has log-probabilities of an unknown form", body)
    counts: dict[Literal["prompt_tokens", "completion_tokens"], int | None] = {}
    for name in ("prompt_tokens", "completion_tokens"):
        count = counts[name] = result.get(name)  # None before 1.77
        if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 0):
            raise _no_answer(url, f"has no number in {name}", body)
    # Half a surrogate pair is valid JSON, and breaks every file it is written to.
    text = result["text"].encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    text, ending = _cut_at_stop(text, finish, request, aborted=aborted)
    return Completion(text=text, ending=ending, logprobs=logprobs, elapsed_s=elapsed_s, **counts)


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


def _header(headers: Mapping[str, str], name: str) -> str:
    return next((value for key, value in headers.items() if key.lower() == name), "")


def _no_answer(url: str, why: str, body: bytes) -> ResponseFormatError:
    got = f" It begins: {excerpt(body)}" if body else " It is empty."
    return ResponseFormatError(f"{url}: the answer {why}.{got}", server=url)


def no_vision_error(url: str) -> NoVisionModelError:
    """Return the error for a server without a projector, with the remedy for both kinds of user."""
    return NoVisionModelError(
        f"{url}: KoboldCpp runs without a vision projector and would drop every image silently.",
        server=url,
        hint=f"Start it {SETTINGS['mmproj'].remedy('FILE')}, with the file made for its model.",
    )


def classify_error(status: int, body: bytes, url: str, *, headers: Mapping[str, str] | None = None) -> ServerError:
    """Return the error that an answer other than 200 stands for."""
    kind, msg = _detail(body)
    told = f" ({msg})" if msg else ""
    facts: dict[str, Any] = {"status": status, "detail_type": kind, "detail_msg": msg, "server": url}
    if 300 <= status < 400:  # noqa: PLR2004
        where = _location(_header(headers or {}, "location"))
        return ResponseFormatError(
            f"{url}: redirected{where}; redirects are not followed, pages must not go elsewhere.",
            server=url,
            hint="Give the address it leads to, if that is right.",
        )
    if status == 401:  # noqa: PLR2004
        return AuthenticationError(
            f"{url}: the password is missing or wrong.",
            **facts,
            hint="Give the one KoboldCpp was started with (--api-password-file, or KOBOLD_READER_PASSWORD).",
        )
    if status in (429, 502, 503, 504):
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
    return ServerStatusError(
        f"{url}: HTTP {status}{told or ': ' + excerpt(body)}.", **facts, hint="The console of the server says more."
    )


def _busy(status: int, msg: str, url: str, facts: dict[str, Any]) -> ServerError:
    if "no vision model" in msg.lower() or "no llava model" in msg.lower():
        return no_vision_error(url)
    wait = RATE_LIMIT.search(msg)
    hint = None
    if wait or status == 429:  # noqa: PLR2004
        why = "requests come faster than it allows"
    elif status == 503:  # noqa: PLR2004
        why = "it is busy, its queue is full"
        hint = f"If it stays so, start it {SETTINGS['multiuser'].remedy('10')}."
    else:
        why = f"the router or proxy in front of KoboldCpp has no answer from it (HTTP {status})"
        hint = "It may be loading its model: wait a minute and start again, or look at its console."
    error = ServerBusyError(f"{url}: {why}.", **facts, hint=hint)
    error.retry_after_s = float(wait[1]) if wait else None
    return error


def _detail(body: bytes) -> tuple[str, str]:
    """`detail.type` and `detail.msg`, as far as they exist."""
    try:
        answer = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        return "", ""
    detail = answer.get("detail") if isinstance(answer, dict) else None
    kind, msg = (detail.get("type"), detail.get("msg")) if isinstance(detail, dict) else ("", "")
    return kind[:100] if isinstance(kind, str) else "", msg[:EXCERPT_BYTES] if isinstance(msg, str) else ""


def _location(location: str) -> str:
    """Where a redirect leads, without what may be secret in it."""
    try:
        parts = urlsplit(location)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return ""
    where = f"{parts.scheme}://{host}{parts.path}" if host else parts.path
    return f" to {where[:200]}" if where else ""


# ── models that think aloud ───────────────────────────────────────────────────────────────────────

# Families that are known to think are told not to. These blocks come from models that do it all the same, or that are
# unknown.
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
ANY_START = "|".join(map(re.escape, STARTS))
ANY_END = "|".join(re.escape(end) for _, end in THOUGHTS)
CLOSED = re.compile(
    "|".join(f"{re.escape(start)}.*?{re.escape(end)}" for start, end in THOUGHTS), re.DOTALL | re.IGNORECASE
)
FROM_START = re.compile(f"(?:{ANY_START}).*", re.DOTALL | re.IGNORECASE)
TO_END = re.compile(f".*(?:{ANY_END})", re.DOTALL | re.IGNORECASE)


def spoken(text: str, *, prompt: str = "", is_whole: bool = True) -> str:
    """Return an answer without the thoughts before and within it.

    Args:
        text: The answer, or the answer so far.
        prompt: What it continues: some templates begin the thought themselves.
        is_whole: False while more may come: an end that may be the beginning of a tag is held back.

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
