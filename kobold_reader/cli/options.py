"""The options that commands share: where the server is, and how pages are read (`ReadOptions` on the command line)."""

from __future__ import annotations

import functools
import inspect
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_type_hints

import typer

from kobold_reader.cli.output import show_log
from kobold_reader.options import (
    DEFAULT_TASKS,
    DEFAULT_URL,
    MOST_TAGS,
    OPTIONS,
    EngineName,
    ImageKindUse,
    OnError,
    ReadOptions,
    Redo,
    TextLayerUse,
    WitnessName,
    about,
)

if TYPE_CHECKING:
    from kobold_reader.reading.transcriber import Transcriber
    from kobold_reader.session import ReadSession

URL_VARIABLE = "KOBOLD_READER_URL"
PASSWORD_VARIABLE = "KOBOLD_READER_PASSWORD"  # noqa: S105  (a variable's name)
ARCHIVE_VARIABLE = "KOBOLD_READER_ARCHIVE"
LEDGER_VARIABLE = "KOBOLD_READER_LEDGER"
WITNESS_VARIABLE = "KOBOLD_READER_WITNESS"


_OTHER_NAMES = {
    "folder": "--in",
    "limit": "-k",
    "outage_patience_s": "--wait-for-server",
    "page_timeout_s": "--page-timeout",
    "prompts": "--prompt",
    "stop_after_s": "--stop-after",
}


def option_of(argument: str) -> str:
    """Return the option that sets an argument of the library."""
    return _OTHER_NAMES.get(argument) or f"--{argument.replace('_', '-')}"


class RapidOcrAgreed(Exception):  # noqa: N818  (it is an answer)
    """The user agreed that RapidOCR reads: the command begins again with it."""


ArchiveOption = Annotated[
    Path, typer.Option("--archive", metavar="DIR", envvar=ARCHIVE_VARIABLE, help="The archive's folder.")
]
ArchivesOption = Annotated[
    list[Path],
    typer.Option("--archive", metavar="DIR", envvar=ARCHIVE_VARIABLE, help="The archive's folder; may be repeated."),
]

PdfPasswordOption = Annotated[
    list[str] | None, typer.Option("--pdf-password", metavar="P", help="Tried on encrypted PDFs; may be repeated.")
]


@dataclass
class ServerOptions:
    """Where KoboldCpp is."""

    api_url: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help=f"{about('api_url')} May be repeated. [env: {URL_VARIABLE}]"),
    ] = None
    api_password: Annotated[
        str | None, typer.Option(metavar="P", help=f"{about('api_password')} [env: {PASSWORD_VARIABLE}]")
    ] = None
    api_password_file: Annotated[Path | None, typer.Option(metavar="F", help="A file that holds the password.")] = None
    verbose: Annotated[
        int, typer.Option("-v", count=True, show_default=False, help="Say more on stderr; twice: everything.")
    ] = 0

    def given_urls(self) -> list[str]:
        """Return the servers that the user named: those given, else the environment's."""
        return self.api_url or _list_of(os.environ.get(URL_VARIABLE))

    def urls(self) -> list[str]:
        """Return the servers: those named, else the default."""
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

    usual_witness: ClassVar[WitnessName | None] = None
    """Where neither this run nor a past one that it repeats was told."""
    engine: Annotated[EngineName, typer.Option(help=about("engine"))] = "koboldcpp"
    tasks: Annotated[str | None, typer.Option(metavar="LIST", help=about("tasks"))] = None
    pages: Annotated[str | None, typer.Option(metavar="RANGE", help=about("pages"))] = None
    sample: Annotated[int | None, typer.Option(metavar="N", min=1, help=about("sample"))] = None
    hint: Annotated[str | None, typer.Option(metavar="TEXT", help=about("hint"))] = None
    language: Annotated[str | None, typer.Option(metavar="NAME", help=about("language"))] = None
    vocabulary: Annotated[Path | None, typer.Option(metavar="FILE", help=about("vocabulary"))] = None
    max_tags: Annotated[int | None, typer.Option(metavar="N", min=1, max=MOST_TAGS, help=about("max_tags"))] = None
    witness: Annotated[WitnessName | None, typer.Option(envvar=WITNESS_VARIABLE, help=about("witness"))] = None
    prompt: Annotated[
        list[str] | None, typer.Option(metavar="TASK=FILE", help=f"{about('prompts')} May be repeated.")
    ] = None
    family: Annotated[str | None, typer.Option(metavar="NAME", help=about("family"))] = None
    visionmaxres: Annotated[int | None, typer.Option(metavar="N", min=64, help=about("visionmaxres"))] = None
    rotate: Annotated[Literal["auto", "0", "90", "180", "270"], typer.Option(help=about("rotate"))] = "auto"
    text_layer: Annotated[TextLayerUse, typer.Option(help=about("text_layer"))] = "auto"
    image_kind: Annotated[ImageKindUse | None, typer.Option(help=about("image_kind"))] = None
    pdf_password: Annotated[
        list[str] | None, typer.Option(metavar="P", help=f"{about('pdf_passwords')} May be repeated.")
    ] = None
    page_timeout: Annotated[
        float | None, typer.Option(metavar="S", min=0.1, max=86_400, help=about("page_timeout_s"))
    ] = None
    wait_for_server: Annotated[str, typer.Option(metavar="TIME", help=about("outage_patience_s"))] = "10m"
    stop_after: Annotated[
        str | None, typer.Option(metavar="TIME", help=f"{about('stop_after_s')} For example 7h, 90m or 300s.")
    ] = None
    ledger: Annotated[str | None, typer.Option(metavar="FILE|none", envvar=LEDGER_VARIABLE, help=about("ledger"))] = (
        None
    )
    redo: Annotated[Redo | None, typer.Option(help=about("redo"))] = None
    on_error: Annotated[OnError, typer.Option(help=about("on_error"))] = "skip"
    allow_remote: Annotated[bool, typer.Option("--allow-remote", help=about("allow_remote"))] = False
    is_stand_in: bool = field(default=False, init=False)
    """RapidOCR reads because the user agreed to it when no server answered; the next run wants KoboldCpp again."""

    def session(self) -> ReadSession:
        """Return the session that the options describe; raise ConfigError where one is out of its range."""
        from kobold_reader.session import ReadSession

        server = {"api_url": self.urls(), "api_password": self.password()}
        witness = {"witness": self.witness or self.usual_witness}
        return ReadSession(ReadOptions.of(self._arguments() | server | witness))

    def refuse_tagless(self) -> None:
        """Raise typer.BadParameter if an option is of tags and no tags are asked for: now, not in the morning."""
        given = [name for name, value in (("--vocabulary", self.vocabulary), ("--max-tags", self.max_tags)) if value]
        if given and "tags" not in _list_of(self.tasks):
            also = ",".join([*(_list_of(self.tasks) or DEFAULT_TASKS), "tags"])
            raise typer.BadParameter(f"no tags are asked for. Add --tasks {also}", param_hint=", ".join(given))

    def changes(self) -> dict[str, Any]:
        """Return the options that differ from the defaults, for a run that repeats past settings."""
        plain = type(self)()._arguments()  # noqa: SLF001  (another one of this very class)
        changes = {name: value for name, value in self._arguments().items() if value != plain[name]}
        return changes | ({"api_url": urls} if (urls := self.given_urls()) else {})

    def _arguments(self) -> dict[str, Any]:
        """Return the values of `ReadOptions`, without the server's."""
        alike = {one.name: getattr(self, one.name) for one in fields(ReadingOptions) if one.name in OPTIONS}
        del alike["api_url"], alike["api_password"]
        return alike | {
            "tasks": _list_of(self.tasks) or None,
            "sample": self.sample or None,
            "is_stand_in": self.is_stand_in,
            "prompts": self._prompts(),
            "pdf_passwords": self.pdf_password or [],
            "page_timeout_s": self.page_timeout,
            "outage_patience_s": _seconds(self.wait_for_server, "--wait-for-server"),
            "stop_after_s": _seconds(self.stop_after, "--stop-after"),
        }

    def _prompts(self) -> dict[str, str]:
        prompts: dict[str, str] = {}
        for item in self.prompt or []:
            task, separator, name = item.partition("=")
            if not separator:
                raise typer.BadParameter(
                    f"{item!r} is not TASK=FILE; write for example ocr=my-prompt.txt", param_hint="--prompt"
                )
            prompts[task] = _text_of(Path(name), "--prompt")
        return prompts


@dataclass
class ClusterOptions(ReadingOptions):
    """How pages are read, on this machine or on a cluster."""

    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Read on a Ray cluster: HOST:6379, auto (the one that runs here), local (a new one).",
        ),
    ] = None

    @contextmanager
    def reading(self) -> Iterator[Callable[..., Transcriber]]:
        """Yield a function that makes a transcriber of a session and a ledger, on this machine or on the cluster."""
        from kobold_reader.session import ReadSession

        if self.ray is None:
            yield ReadSession.transcriber
            return
        from kobold_reader import cluster

        with cluster.session():
            yield functools.partial(cluster.transcriber, address=self.ray)


def _list_of(text: str | None) -> list[str]:
    return [part for part in re.split(r"[,\s]+", text or "") if part]


def _text_of(path: Path, option: str) -> str:
    """Return the text of a file that an option names; no error shows its content."""
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
        raise typer.BadParameter(f"{text!r} is not a time; write 7h, 90m or 300s", param_hint=option)
    return float(found[1]) * {"h": 3600, "m": 60, "s": 1, "": 1}[found[2]]


@functools.cache
def _hints_of(kind: type[ServerOptions]) -> dict[str, Any]:
    """Return the evaluated annotations of a dataclass; cached, because `--help` waits for them."""
    return get_type_hints(kind, include_extras=True)


def with_options(kind: type[ServerOptions]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the options of a dataclass, handed to it as one value named `options`."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def wrapper(**arguments: Any) -> Any:
            options = kind(**{one.name: arguments.pop(one.name) for one in fields(kind) if one.init})
            if options.verbose:
                show_log(options.verbose)
            try:
                return command(options=options, **arguments)
            except RapidOcrAgreed:
                assert isinstance(options, ReadingOptions)  # noqa: S101  (only such options are offered it)
                stand_in = replace(options, engine="rapidocr")
                stand_in.is_stand_in = True
                return command(options=stand_in, **arguments)

        hints = get_type_hints(command, include_extras=True) | _hints_of(kind)  # type: ignore[arg-type]  # is hashable
        defaults = {name: one.default for name, one in inspect.signature(command).parameters.items()}
        del defaults["options"]
        defaults |= {one.name: one.default for one in fields(kind) if one.init}
        parameters = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[name])
            for name, default in defaults.items()
        ]
        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {one.name: one.annotation for one in parameters}
        return wrapper

    return decorate
