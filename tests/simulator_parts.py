"""What the parts of the simulated KoboldCpp hand each other: faults, jobs, errors, words."""

import copy
import hashlib
import io
import json
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import InitVar, dataclass, field
from enum import Enum, auto
from typing import Any, ClassVar

from PIL import Image

from tests.simulator_model import clean_base64

MAX_BODY_BYTES = 32 * 1024 * 1024
MEDIA_INTRO_TOKENS = 7  # "\nAttached Media:\n" in the recorded models' tokenizer

BUSY = (503, "Server is busy; please try again later.", "service_unavailable")
NO_VISION = (503, "No Vision model loaded", "service_unavailable")
BAD_INPUT = (500, "Error parsing input.", "bad_input")
TOO_BIG = (500, "Payload is too big. Max payload size is 32MB.", "bad_input")
UNAUTHORIZED = {
    "detail": {
        "error": "Unauthorized",
        "msg": "Authentication key is missing or invalid.",
        "type": "unauthorized",
    }
}
NOT_FOUND = (
    "Error: KoboldCpp HTTP Server is running, but this endpoint does not exist. "
    "Please check the URL and METHOD.<br>"
    '<a href="/api">[Read API documentation here]</a><br><br>Current path: {path}'
)
ALLOWED_HEADERS = (
    "*, Accept, Content-Type, Content-Length, Cache-Control, Accept-Encoding, X-CSRF-Token, "
    "Client-Agent, X-Fields, Content-Type, Authorization, X-Requested-With, "
    "X-HTTP-Method-Override, apikey, genkey"
)


def detail(message: str, kind: str) -> dict[str, Any]:
    """The body of KoboldCpp's error answers."""
    return {"detail": {"msg": message, "type": kind}}


# --- faults -------------------------------------------------------------------------------------


class FaultKind(Enum):
    """What goes wrong; see the constants of `Fault`."""

    CLOSE = auto()
    RESET = auto()
    REPLY = auto()
    RESET_BODY = auto()
    TRUNCATED_JSON = auto()
    WRONG_LENGTH = auto()
    NOT_UTF8 = auto()
    EMPTY_TEXT = auto()
    ERROR = auto()
    HANG = auto()
    SLOW = auto()
    DROP_IMAGES = auto()
    NO_FINISH = auto()
    ENDLESS = auto()


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong with one request."""

    kind: FaultKind
    seconds: float = 0.0
    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()

    CLOSE: ClassVar["Fault"]
    """The connection ends without an answer, as when the process dies."""
    RESET: ClassVar["Fault"]
    """The same, with a TCP reset."""
    RESET_BODY: ClassVar["Fault"]
    """A TCP reset in the middle of the body."""
    TRUNCATED_JSON: ClassVar["Fault"]
    """Half the JSON, with the length of that half."""
    WRONG_LENGTH: ClassVar["Fault"]
    """Content-Length promises more than comes."""
    NOT_UTF8: ClassVar["Fault"]
    """A byte in the text that is not UTF-8."""
    HTML: ClassVar["Fault"]
    """A proxy's HTML page with status 200."""
    NULL: ClassVar["Fault"]
    """The body `null` with status 200: KoboldCpp's own answer to an exception inside."""
    EMPTY_TEXT: ClassVar["Fault"]
    """An empty answer that ends at once (one token: EOS)."""
    ERROR: ClassVar["Fault"]
    """finish_reason "error", no text, no counts, status 200: decoding failed."""
    BUSY: ClassVar["Fault"]
    """503: the queue is full."""
    NO_VISION: ClassVar["Fault"]
    """503: no vision model."""
    BAD_INPUT: ClassVar["Fault"]
    """500: the request was not JSON."""
    UNAUTHORIZED: ClassVar["Fault"]
    """401."""
    HANG: ClassVar["Fault"]
    """Holds the model until `release()`, an abort with its key, or `stop()`."""
    DROP_IMAGES: ClassVar["Fault"]
    """The images are dropped without a word."""
    NO_FINISH: ClassVar["Fault"]
    """A stream ends without its finish event, as was seen twice on the real server."""
    ENDLESS: ClassVar["Fault"]
    """Bytes without end, until the other side has enough."""

    @classmethod
    def rate_limit(cls, seconds: int) -> "Fault":
        """503 with the words of `--ratelimit`."""
        return cls._said(
            503,
            f"You are sending requests too quickly. Please try again in {seconds} seconds.",
            "service_unavailable",
        )

    @classmethod
    def slow(cls, seconds: float) -> "Fault":
        """The model stays silent for so long before its first token; an abort ends it."""
        return cls(FaultKind.SLOW, seconds=seconds)

    @classmethod
    def reply(
        cls,
        status: int,
        body: bytes | str,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> "Fault":
        """Any other answer."""
        data = body.encode() if isinstance(body, str) else body
        sent = tuple((headers or {}).items())
        return cls(FaultKind.REPLY, status=status, body=data, content_type=content_type, headers=sent)

    @classmethod
    def _said(cls, status: int, message: str, kind: str) -> "Fault":
        return cls.reply(status, json.dumps(detail(message, kind)))


for _kind in FaultKind:
    if _kind not in {FaultKind.REPLY, FaultKind.SLOW}:
        setattr(Fault, _kind.name, Fault(_kind))
Fault.HTML = Fault.reply(200, "<!DOCTYPE html>\n<html><body>Please wait.</body></html>", "text/html; charset=utf-8")
Fault.NULL = Fault.reply(200, "null")
Fault.BUSY = Fault.reply(BUSY[0], json.dumps(detail(*BUSY[1:])))
Fault.NO_VISION = Fault.reply(NO_VISION[0], json.dumps(detail(*NO_VISION[1:])))
Fault.BAD_INPUT = Fault.reply(BAD_INPUT[0], json.dumps(detail(*BAD_INPUT[1:])))
Fault.UNAUTHORIZED = Fault.reply(401, json.dumps(UNAUTHORIZED))


# --- what is remembered -------------------------------------------------------------------------


def without_images(body: Any) -> Any:
    """The body with every image replaced by its size, sha256 and length in bytes."""
    if not isinstance(body, dict):
        return body
    short = dict(body)
    if isinstance(body.get("images"), list):
        short["images"] = [image_facts(image) for image in body["images"]]
    if isinstance(body.get("image"), str):
        short["image"] = image_facts(body["image"])
    if isinstance(body.get("messages"), list):
        short["messages"] = copy.deepcopy(body["messages"])
        for message in short["messages"]:
            for part in message.get("content") or [] if isinstance(message, dict) else []:
                link = part.get("image_url") if isinstance(part, dict) else None
                if isinstance(link, dict) and str(link.get("url", "")).startswith("data:"):
                    link["url"] = image_facts(link["url"].partition(",")[2])
    return short


def image_facts(text: Any) -> Any:
    """Size as Pillow sees it (None: no image), sha256 and length of the decoded bytes."""
    if not isinstance(text, str):
        return text
    data = clean_base64(text)
    size = None
    with suppress(OSError, ValueError), Image.open(io.BytesIO(data)) as image:
        size = image.size
    return {"size": size, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


@dataclass
class RecordedRequest:
    """One HTTP request as it came; `status` is None where no answer was given (yet).

    What was sent is read when somebody asks for it, or when the model does: a server that queues a request has not
    looked into it, and whoever measures how soon the model starts must not wait for this bookkeeping.
    """

    method: str
    path: str
    headers: dict[str, str]
    raw: InitVar[bytes]
    time: float
    status: int | None = None

    def __post_init__(self, raw: bytes) -> None:
        self._unread: bytes | None = raw
        self._body: Any = None
        self._reading = threading.Lock()

    @property
    def body(self) -> Any:
        """What the JSON says, images as `image_facts`; None where nothing was sent, the text where it is not JSON."""
        with self._reading:
            if self._unread:
                try:
                    self._body = without_images(json.loads(self._unread))
                except ValueError:
                    self._body = self._unread.decode(errors="replace")
            self._unread = None
            return self._body

    def was_read(self, body: Any) -> None:
        """Take what somebody else has read in the JSON."""
        with self._reading:
            self._body, self._unread = without_images(body), None


@dataclass
class Job:
    """One generation: what the server knows of it while it waits and runs."""

    key: str = ""
    text: str = ""
    aborted: bool = False
    fault: Fault | None = None
    lost: Callable[[], bool] | None = None


@dataclass
class Task:
    """A request for text after KoboldCpp has read its fields."""

    prompt: str
    memory: str
    images: list[Any]
    max_length: int
    n_ctx: int
    stops: list[str]
    trim_stop: bool
    body: dict[str, Any]

    def flag(self, name: str, *, default: bool = False) -> bool:
        value = self.body.get(name)
        return default if value is None else bool(value)


@dataclass
class Media:
    views: list[Image.Image] = field(default_factory=list)
    tokens: int = 0
    broken: bool = False


@dataclass
class Done:
    """A finished generation."""

    text: str = ""
    stop_reason: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    logprobs: dict[str, Any] | None = None

    @property
    def finish_reason(self) -> str:
        """Only EOS says "stop"; a stop sequence, an abort and the limit all say "length"."""
        return {1: "stop", -2: "error"}.get(self.stop_reason, "length")


class GoneError(Exception):
    """The connection ends here, without (the rest of) an answer."""

    def __init__(self, *, reset: bool = False) -> None:
        super().__init__()
        self.reset = reset


class RefusedError(Exception):
    """The request is answered with an error."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(status)
        self.status = status
        self.body = body
