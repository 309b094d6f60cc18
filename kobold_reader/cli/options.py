"""The options that commands share, and how they become a KoboldReader."""

from __future__ import annotations

import functools
import inspect
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from kobold_reader.cli.output import show_log

if TYPE_CHECKING:
    from kobold_reader.reader import KoboldReader
    from kobold_reader.reading.transcriber import Transcriber

__all__ = ["ArchiveOption", "ArchivesOption", "ClusterOptions", "ReadingOptions", "ServerOptions", "with_options"]

URL_VARIABLE = "KOBOLD_READER_URL"
PASSWORD_VARIABLE = "KOBOLD_READER_PASSWORD"  # noqa: S105  (a variable's name)
ARCHIVE_VARIABLE = "KOBOLD_READER_ARCHIVE"
LEDGER_VARIABLE = "KOBOLD_READER_LEDGER"

ArchiveOption = Annotated[
    Path, typer.Option("--archive", metavar="DIR", envvar=ARCHIVE_VARIABLE, help="The archive's folder.")
]
ArchivesOption = Annotated[
    list[Path],
    typer.Option("--archive", metavar="DIR", envvar=ARCHIVE_VARIABLE, help="The archive's folder; may be repeated."),
]


class EngineName(StrEnum):
    """Engines."""

    koboldcpp = "koboldcpp"
    rapidocr = "rapidocr"


class TextLayerUse(StrEnum):
    """What to do with text layers."""

    auto = "auto"
    ignore = "ignore"
    only = "only"


class ImageKind(StrEnum):
    """What pictures are."""

    auto = "auto"
    photo = "photo"
    scan = "scan"


class Rotate(StrEnum):
    """How to turn pages, clockwise."""

    auto = "auto"
    deg_0 = "0"
    deg_90 = "90"
    deg_180 = "180"
    deg_270 = "270"


class Redo(StrEnum):
    """Which readings to make again."""

    outdated = "outdated"
    truncated = "truncated"
    looping = "looping"
    low_confidence = "low-confidence"
    low_resolution = "low-resolution"
    all = "all"


class OnError(StrEnum):
    """What becomes of failed pages."""

    raise_ = "raise"
    skip = "skip"
    mark = "mark"


def _list_of(text: str | None) -> list[str]:
    return [part for part in re.split(r"[,\s]+", text or "") if part]


@dataclass
class ServerOptions:
    """Where KoboldCpp is."""

    api_url: Annotated[
        list[str] | None,
        typer.Option("--api-url", metavar="URL", help="KoboldCpp; may be repeated. [env: KOBOLD_READER_URL]"),
    ] = None
    api_password: Annotated[
        str | None,
        typer.Option(
            "--api-password", metavar="P", help="What KoboldCpp's --password was set to. [env: KOBOLD_READER_PASSWORD]"
        ),
    ] = None
    api_password_file: Annotated[
        Path | None, typer.Option("--api-password-file", metavar="F", help="A file that holds it.")
    ] = None
    verbose: Annotated[
        int, typer.Option("-v", count=True, show_default=False, help="Say more on stderr; twice: everything.")
    ] = 0

    def given_urls(self) -> list[str]:
        """Return the servers that were named: those given, else the environment's."""
        return self.api_url or _list_of(os.environ.get(URL_VARIABLE))

    def urls(self) -> list[str]:
        """Return the servers: those named, else the default."""
        from kobold_reader.options import DEFAULT_URL

        return self.given_urls() or [DEFAULT_URL]

    def password(self) -> str | None:
        """Return the password: the one given, else the file's, else the environment's."""
        if self.api_password:
            return self.api_password
        if self.api_password_file:
            return _text_of(self.api_password_file, "--api-password-file")
        return os.environ.get(PASSWORD_VARIABLE) or None


@dataclass
class ReadingOptions(ServerOptions):
    """How pages are read."""

    engine: Annotated[EngineName, typer.Option(help="rapidocr reads printed text without a server.")] = (
        EngineName.koboldcpp
    )
    tasks: Annotated[str | None, typer.Option(metavar="LIST", help="ocr,caption,tags; left out: ocr,caption.")] = None
    pages: Annotated[str | None, typer.Option(metavar="RANGE", help="Pages of each file, like 1-3,7.")] = None
    sample: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Only N pages, spread evenly over everything.")
    ] = None
    hint: Annotated[
        str | None, typer.Option(metavar="TEXT", help='What is known of the pages: "Swedish letters, about 1900".')
    ] = None
    prompt: Annotated[
        list[str] | None,
        typer.Option(metavar="TASK=FILE", help="Your own wording for a task; may be repeated."),
    ] = None
    family: Annotated[str | None, typer.Option(metavar="NAME", help="Model family, if its name does not tell.")] = None
    visionmaxres: Annotated[
        int | None, typer.Option(metavar="N", min=64, help="What the server was started with.  [default: 1024]")
    ] = None
    rotate: Annotated[
        Rotate, typer.Option(help="Turn pages clockwise; auto: those on their side or head; 0: none.")
    ] = Rotate.auto
    text_layer: Annotated[TextLayerUse, typer.Option("--text-layer", help="Use a PDF's own text.")] = TextLayerUse.auto
    image_kind: Annotated[
        ImageKind | None,
        typer.Option(
            "--image-kind",
            help="What these pictures are, kept with each; auto: decided for each; left out: as kept, else decided.",
        ),
    ] = None
    pdf_password: Annotated[
        list[str] | None, typer.Option("--pdf-password", metavar="P", help="Tried on encrypted PDFs; may be repeated.")
    ] = None
    page_timeout: Annotated[
        float | None,
        typer.Option("--page-timeout", metavar="S", min=0.1, max=86_400, help="Seconds for one request."),
    ] = None
    wait_for_server: Annotated[
        str,
        typer.Option(
            "--wait-for-server", metavar="TIME", help="If none works any more: wait so long for one to come back."
        ),
    ] = "10m"
    stop_after: Annotated[
        str | None, typer.Option("--stop-after", metavar="TIME", help="Ask for no more pages after 7h, 90m or 300s.")
    ] = None
    ledger: Annotated[
        str | None,
        typer.Option(metavar="FILE|none", envvar=LEDGER_VARIABLE, help="Where readings are kept; none: nowhere."),
    ] = None
    redo: Annotated[Redo | None, typer.Option(help="Make kept readings again.")] = None
    on_error: Annotated[OnError, typer.Option("--on-error", help="What becomes of failed pages.")] = OnError.skip
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Send pages to a public address over plain http.")
    ] = False

    def reader(self) -> KoboldReader:
        """Return the reader that the options describe.

        Raises:
            ConfigError: An option is out of its range.
        """
        from kobold_reader.reader import KoboldReader

        return KoboldReader(api_url=self.urls(), api_password=self.password(), **self._arguments())

    def changes(self) -> dict[str, Any]:
        """Return the arguments of KoboldReader that were named, for a run that repeats past settings."""
        plain = type(self)()._arguments()  # noqa: SLF001  (another one of this very class)
        changes = {name: value for name, value in self._arguments().items() if value != plain[name]}
        return changes | ({"api_url": urls} if (urls := self.given_urls()) else {})

    def _arguments(self) -> dict[str, Any]:
        return {
            "engine": self.engine.value,
            "tasks": _list_of(self.tasks) or None,
            "pages": self.pages,
            "sample": self.sample,
            "hint": self.hint,
            "prompts": self._prompts(),
            "family": self.family,
            "visionmaxres": self.visionmaxres,
            "rotate": "auto" if self.rotate is Rotate.auto else int(self.rotate.value),
            "text_layer": self.text_layer.value,
            "image_kind": self.image_kind.value if self.image_kind else None,
            "pdf_passwords": self.pdf_password or [],
            "page_timeout_s": self.page_timeout,
            "outage_patience_s": _seconds(self.wait_for_server, "--wait-for-server"),
            "stop_after_s": _seconds(self.stop_after, "--stop-after"),
            "ledger": self.ledger,
            "redo": self.redo.value if self.redo else None,
            "on_error": self.on_error.value,
            "allow_remote": self.allow_remote,
        }

    def _prompts(self) -> dict[str, str]:
        prompts: dict[str, str] = {}
        for item in self.prompt or []:
            task, separator, name = item.partition("=")
            if not separator:
                raise typer.BadParameter(
                    f"{item!r}: write TASK=FILE, for example ocr=my-prompt.txt", param_hint="--prompt"
                )
            prompts[task] = _text_of(Path(name), "--prompt")
        return prompts


@dataclass
class ClusterOptions(ReadingOptions):
    """How pages are read, on this machine or past it."""

    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Read on a Ray cluster: HOST:6379, auto (the one that runs here), local (a new one).",
        ),
    ] = None

    @contextmanager
    def reading(self) -> Iterator[Callable[..., Transcriber]]:
        """Yield what makes a transcriber of a reader and a ledger: for this machine, or for the cluster named."""
        from kobold_reader.reader import KoboldReader

        if self.ray is None:
            yield KoboldReader.transcriber
            return
        from kobold_reader import cluster

        with cluster.session():
            yield functools.partial(cluster.transcriber, address=self.ray)


def _text_of(path: Path, option: str) -> str:
    """Return the text of a file that an option names; nothing of it shows up in an error."""
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
    except OSError as err:
        raise typer.BadParameter(f"{path} cannot be read ({err.strerror}).", param_hint=option) from err
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{path} is not text in UTF-8.", param_hint=option) from None
    if not text:
        raise typer.BadParameter(f"{path} is empty.", param_hint=option)
    return text


def _seconds(text: str | None, option: str) -> float | None:
    if text is None:
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([hms]?)\s*", text)
    if not found:
        raise typer.BadParameter(f"{text!r}: write 7h, 90m or 300s", param_hint=option)
    return float(found[1]) * {"h": 3600, "m": 60, "s": 1, "": 1}[found[2]]


@functools.cache
def _hints_of(kind: type[ServerOptions]) -> dict[str, Any]:
    """Return the annotations of a dataclass, evaluated once for all commands that share it: `--help` waits for it."""
    return get_type_hints(kind, include_extras=True)


def with_options(kind: type[ServerOptions]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the options of a dataclass, handed to it as one value named `options`."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        shared = _hints_of(kind)  # type: ignore[arg-type]  # mypy asks whether its instances are hashable
        hints = get_type_hints(command, include_extras=True)
        names = [field.name for field in fields(kind)]

        @functools.wraps(command)
        def wrapper(**arguments: Any) -> Any:
            options = kind(**{name: arguments.pop(name) for name in names})
            if options.verbose:
                show_log(options.verbose)
            return command(options=options, **arguments)

        own = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name])
            for name, parameter in inspect.signature(command).parameters.items()
            if name != "options"
        ]
        added = [
            inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=shared[field.name]
            )
            for field in fields(kind)
        ]
        wrapper.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
        wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *added]}
        return wrapper

    return decorate
