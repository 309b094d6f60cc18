"""All errors that a user can meet, grouped by what can be done about them.

A message says what happened, to which page of which file, why as far as known, and what to do next. Exceptions of other
libraries (requests, PyMuPDF, SQLite, Chroma) never leave the package that uses the library: they are raised as one of
these, `from` the original. Truncated and looping pages are no errors; they keep their text and get a status.

Errors cross process borders (the page child, Ray actors), so all fields are plain values.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, ClassVar

from typing_extensions import override


class KoboldReaderError(Exception):
    """Base of all errors of this package.

    Args:
        message: What happened, and to what.
        source: URI or path of the file.
        page_number: 1-based.
        server: URL without credentials.
        hint: What to do next.
    """

    retryable: ClassVar[bool] = False
    """Whether the same request, sent again unchanged, may succeed."""

    def __init__(
        self,
        message: str,
        *,
        source: str | None = None,
        page_number: int | None = None,
        server: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.source = source
        self.page_number = page_number
        self.server = server
        self.hint = hint

    @override
    def __str__(self) -> str:
        where = self.source or ""
        if self.page_number is not None:
            where = f"{where} page {self.page_number}".strip()
        text = f"{where}: {self.message}" if where else self.message
        return f"{text} {self.hint}" if self.hint else text

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        fields = {key: value for key, value in self.__dict__.items() if key != "__notes__"}
        return (_rebuild, (type(self), self.message, fields))

    def at(self, source: str | None, page_number: int | None = None) -> KoboldReaderError:
        """Fill in the file and page if they are missing; return the error itself."""
        self.source = self.source or source
        self.page_number = self.page_number if self.page_number is not None else page_number
        return self


def _rebuild(kind: type[KoboldReaderError], message: str, fields: dict[str, Any]) -> KoboldReaderError:
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    error.__dict__.update(fields)
    return error


class ConfigError(KoboldReaderError, ValueError):
    """An argument is wrong; the message says what is allowed.

    Args:
        message: What is wrong.
        argument: Its name in Python; the command line shows the option's name.
        more: As KoboldReaderError takes them.
    """

    def __init__(self, message: str, *, argument: str | None = None, **more: Any) -> None:
        super().__init__(message, **more)
        self.argument = argument

    @override
    def __str__(self) -> str:
        text = super().__str__()
        return f"{self.argument}: {text}" if self.argument else text


class MissingExtraError(KoboldReaderError, ImportError):
    """An optional part of the package is not installed; the hint has the command that installs it."""

    def __init__(self, extra: str, needed_for: str, *, hint: str | None = None) -> None:
        from kobold_reader.release import install_command  # looks into the installed package: only where it is needed

        super().__init__(
            f"{needed_for} needs an optional part that is not installed.",
            hint=hint or f"Install it with: {install_command(extra)}",
        )
        self.extra = extra


class LedgerError(KoboldReaderError):
    """The ledger cannot be opened or written (folder read-only, disk full, made by a newer release)."""


class StoreError(KoboldReaderError):
    """An archive folder cannot be opened or written, or was made with other settings."""


# ── files: nothing is wrong with the server, retrying cannot help ──────────────────────────────────


class SourceError(KoboldReaderError):
    """A file or page cannot be read."""


class SourceNotFoundError(SourceError):
    """No such file or folder."""


class UnsupportedSourceError(SourceError):
    """The file is of a kind that is not supported."""


class EncryptedSourceError(SourceError):
    """The file needs a password, or the passwords given do not open it."""


class CorruptSourceError(SourceError):
    """The file is empty, cut short, or not what its bytes claim to be."""


class PageProcessKilledError(CorruptSourceError):
    """The process that opens files was killed from outside: by someone, or by a system short of memory."""

    retryable = True


class PageRenderError(SourceError):
    """One page of a readable file cannot be turned into an image."""


class SidecarError(SourceError):
    """A sidecar is not XMP, is hostile, or cannot be written; it is left as it is."""


class UnexpectedError(SourceError):
    """Something failed on one file or page that nobody foresaw; the message has the exception's type and text."""


# ── servers ───────────────────────────────────────────────────────────────────────────────────────


class ServerError(KoboldReaderError):
    """A KoboldCpp server could not do what was asked."""


class ServerConnectionError(ServerError):
    """Refused, reset, unknown host: no answer came."""

    retryable = True


class ServerTimeoutError(ServerConnectionError):
    """No answer within the time limit; the job was aborted on the server."""


class ServerHungError(ServerConnectionError):
    """The server took the job and then showed no sign of work for far longer than it ever needs."""


class ServerChangedError(ServerConnectionError):
    """The server was restarted, with another model or other settings than the page was begun with."""


class ServerStatusError(ServerError):
    """The server answered with an HTTP error; `detail.type` and `detail.msg` are those of its answer."""

    def __init__(
        self,
        message: str,
        *,
        status: int,
        detail_type: str = "",
        detail_msg: str = "",
        **more: Any,
    ) -> None:
        super().__init__(message, **more)
        self.status = status
        self.detail_type = detail_type
        self.detail_msg = detail_msg


class ServerBusyError(ServerStatusError):
    """503: the server lets no more requests wait, or requests come too fast."""

    retryable = True
    retry_after_s: float | None = None
    """The time that the server gave, if any."""
    is_own_lock: bool = False
    """Whether the server is still closing the answer that it gave us a moment ago."""


class AuthenticationError(ServerStatusError):
    """401: the password is missing or wrong."""


class NoVisionModelError(ServerError):
    """The server has no projector (mmproj) loaded: it would drop every image silently."""


class BadRequestError(ServerStatusError):
    """The server will never accept the request (bad JSON, too large)."""


class ResponseFormatError(ServerError):
    """HTTP 200 with a body that is not an answer of KoboldCpp (`null`, HTML, cut JSON)."""

    retryable = True


class ContextTooSmallError(ServerError):
    """Image, prompt and answer do not fit the server's context: it would drop the image silently."""


class NoServerAvailableError(ServerError):
    """No server is left; `errors` holds the last error of each, by URL."""

    def __init__(self, message: str, *, errors: dict[str, KoboldReaderError] | None = None, **more: Any) -> None:
        super().__init__(message, **more)
        self.errors = errors or {}


class ClusterError(ServerError):
    """The Ray cluster cannot be joined, or was lost; what was read is kept."""


# ── answers that are no reading ────────────────────────────────────────────


class TranscriptionError(KoboldReaderError):
    """The model answered, but the answer is no reading of the page."""


class EmptyTranscriptionError(TranscriptionError):
    """The model gave no text for a page that has ink."""

    retryable = True


class ImageNotSeenError(TranscriptionError):
    """The server dropped the image: its prompt was no longer than the text alone."""


class PagesFailedError(KoboldReaderError):
    """Some pages failed; all others were finished and kept.

    `documents` has the LlamaIndex Documents of the pages that were read, `errors` one error per failed page or file.
    """

    def __init__(self, documents: Sequence[Any], errors: Sequence[KoboldReaderError]) -> None:
        shown = "; ".join(str(error) for error in errors[:3])
        more = f"; and {len(errors) - 3} more" if len(errors) > 3 else ""  # noqa: PLR2004
        super().__init__(
            f"{len(errors)} pages or files failed, {len(documents)} Documents were read and kept: {shown}{more}.",
            hint='They are in .errors, the Documents in .documents; on_error="skip" warns instead of raising.',
        )
        self.documents = list(documents)
        self.errors = list(errors)


def quoted(line: Sequence[str], *, is_windows: bool = sys.platform == "win32") -> str:
    """Return a command line, or a part of one, to be pasted into this system's shell."""
    # Most runs show no command.
    if is_windows:
        from subprocess import list2cmdline

        return list2cmdline(line)
    from shlex import join

    return join(line)


def archive_option(folder: object) -> str:
    """Return the option that names an archive's folder, to be pasted into this system's shell."""
    return quoted(["--archive", str(folder)])


def reason(error: BaseException) -> str:
    """Return what the system says of an error, without the number and the path that Python puts around it."""
    return getattr(error, "strerror", None) or str(error)
