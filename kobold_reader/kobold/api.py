"""JSON objects to and from one server; everything that answers at once, even while it generates."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from kobold_reader.errors import ConfigError, ResponseFormatError
from kobold_reader.kobold.answers import excerpt, parse_json
from kobold_reader.kobold.transport import Answer, Transport

__all__ = ["QUEUE_READ_S", "QUICK_READ_S", "READ_S", "Api"]

READ_S: Final = 30.0
QUICK_READ_S: Final = 5.0
"""For progress and aborts: better none than a late one."""

QUEUE_READ_S: Final = 2 * 60 * 60.0
"""For what waits in the server's queue: silently, with nine others before it."""


class Api:
    """Exchanges of JSON objects; safe to use from several threads."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.url = transport.url
        self.closed = False

    def get(self, path: str, *, read_timeout_s: float = READ_S) -> Answer:
        """The unjudged answer."""
        self.refuse_if_closed()
        return self.transport.exchange(path, read_timeout_s=read_timeout_s)

    def get_object(self, path: str, *, read_timeout_s: float = READ_S) -> dict[str, Any]:
        """GET an object."""
        return self.as_object(self.get(path, read_timeout_s=read_timeout_s))

    def post(self, path: str, body: Mapping[str, object], *, read_timeout_s: float = READ_S) -> dict[str, Any]:
        """POST an object, get one."""
        self.refuse_if_closed()
        answer = self.transport.exchange(path, _dump(body), read_timeout_s=read_timeout_s)
        return self.as_object(answer)

    def as_object(self, answer: Answer) -> dict[str, Any]:
        """The object in an answer; a ServerError if it holds none."""
        value = parse_json(answer.status, answer.headers, answer.body, self.url)
        if not isinstance(value, dict):
            raise self.unexpected("is no JSON object", value)
        return value

    def unexpected(self, why: str, value: object) -> ResponseFormatError:
        """An error that shows what came instead."""
        shown = excerpt(repr(value).encode("utf-8", "backslashreplace"))
        return ResponseFormatError(f"{self.url}: the answer {why}: {shown}.", server=self.url)

    def refuse_if_closed(self) -> None:
        """Raise a ConfigError after `close`."""
        if self.closed:
            raise ConfigError(f"{self.url}: this client is closed.", server=self.url)

    def count_tokens(self, text: str) -> int:
        """Tokens of this very text, the start token included."""
        return self.token_count(self.post("/api/extra/tokencount", {"prompt": text, "special": True}))

    def token_count(self, answer: Mapping[str, Any]) -> int:
        """`value` of an answer of tokencount."""
        value = answer.get("value")
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self.unexpected("holds no token count", value)
        return value


def _dump(body: Mapping[str, object]) -> bytes:
    """JSON in ASCII."""
    return json.dumps(body, allow_nan=False).encode("ascii")
