"""KoboldReader: the LlamaIndex face of the package, a thin one over the transcriber."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
import warnings
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, Self

from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr, ValidationError
from llama_index.core.readers.base import BasePydanticReader, BaseReader
from llama_index.core.schema import BaseComponent, Document
from typing_extensions import override

from kobold_reader.documents import failed_document, to_documents
from kobold_reader.errors import ConfigError, KoboldReaderError, PagesFailedError
from kobold_reader.kobold import ServerPool, address_kind, check_way
from kobold_reader.options import DEFAULT_TASKS, PageRange
from kobold_reader.pages import KnownKind, Selection, SourceFile, select
from kobold_reader.reading.due import ImageKindUse, ReadSettings, Redo, TextLayerUse
from kobold_reader.reading.engine import Engine
from kobold_reader.reading.koboldcpp import KoboldEngine
from kobold_reader.reading.ledger import Ledger, default_ledger_path
from kobold_reader.reading.rapidocr import RapidOcrEngine
from kobold_reader.reading.records import RecordForm
from kobold_reader.reading.results import PageResult
from kobold_reader.reading.transcriber import Transcriber
from kobold_reader.stream import DocumentStream

__all__ = ["DEFAULT_URL", "KoboldReader", "PageSkippedWarning"]

log = logging.getLogger(__name__)

DEFAULT_URL: Final = "http://127.0.0.1:5001"

Paths = str | Path | Sequence[str | Path]

_OTHER_NAMES: Final[Mapping[str, str]] = {
    "base_url": "api_url",
    "api_base": "api_url",
    "url": "api_url",
    "endpoint": "api_url",
    "host": "api_url",
    "api_key": "api_password",
    "password": "api_password",
    "prompt": "prompts",
    "task": "tasks",
    "schema": "json_schema",
    "grammar": "json_schema",
    "output_cls": "json_schema",
    "max_side_px": "visionmaxres",
    "max_image_size": "visionmaxres",
    "timeout": "page_timeout_s",
    "timeout_s": "page_timeout_s",
    "cache": "ledger",
    "cache_dir": "ledger",
    "model_family": "family",
    "rotation": "rotate",
    "language": "hint",
    "raise_on_error": "on_error",
}
"""What people call our arguments elsewhere; these names are answered with the right one."""


class PageSkippedWarning(UserWarning):
    """A page or file failed and was skipped, as `on_error="skip"` asks."""


class KoboldReader(BasePydanticReader):
    """Reads scanned PDFs and images page by page through KoboldCpp, one Document a page.

    Nothing is asked twice: readings are kept in a ledger and found again for the same page content. Unknown arguments
    are refused. The reader can be pickled (the password goes along, to worker processes of LlamaIndex); `to_dict`
    leaves passwords out. Safe to use from several threads.

    Example:
        >>> from kobold_reader import KoboldReader
        >>> documents = KoboldReader().load_data("letters/1954.pdf")  # doctest: +SKIP
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    api_url: str | list[str] = Field(
        default=DEFAULT_URL, description="One KoboldCpp server, or several running the same model: all read at once."
    )
    api_password: str | None = Field(default=None, exclude=True, repr=False, description="What --password was set to.")
    engine: Literal["koboldcpp", "rapidocr"] = Field(
        default="koboldcpp", description="rapidocr: printed text only, no server."
    )
    tasks: list[str] | None = Field(
        default=None, description="ocr, caption, tags; left out: ocr and caption, as far as the model can."
    )
    pages: str | None = Field(default=None, description="Which pages of each file, like 1-3,7; left out: all.")
    sample: int | None = Field(default=None, description="Read only so many pages, spread evenly over everything.")
    prompts: dict[str, str] = Field(default_factory=dict, description="Wording by task in place of the family's.")
    json_schema: dict[str, Any] | None = Field(
        default=None,
        description="Each page becomes one JSON object of this schema, as prompts['ocr'] asks for; checked.",
    )
    hint: str | None = Field(default=None, description="What is known of the pages: language, time, names.")
    family: str | None = Field(default=None, description="Model family; left out: chosen by the model's name.")
    visionmaxres: int | None = Field(
        default=None,
        description="What the server was started with, px; left out: its default 1024.",
    )
    rotate: Literal["auto"] | int = Field(
        default="auto",
        description="auto: pages on their side or head are turned; or 0 (as the file says), 90, 180, 270 clockwise.",
    )
    text_layer: TextLayerUse = Field(
        default="auto",
        description="auto: a good text layer answers; ignore: read images; only: ask no engine.",
    )
    image_kind: ImageKindUse | None = Field(
        default=None,
        description="photo, scan: what all pictures are, kept with each; auto: decided for each; left out: as kept.",
    )
    pdf_passwords: list[str] = Field(
        default_factory=list, exclude=True, repr=False, description="Tried on encrypted files."
    )
    page_timeout_s: float | None = Field(
        default=None, description="Limit for one request; left out: as long as the server shows any sign of work."
    )
    outage_patience_s: float = Field(
        default=0.0, ge=0, description="If all servers that worked are gone: wait so many seconds for one to come back."
    )
    stop_after_s: float | None = Field(default=None, description="Ask for no more pages after so many seconds.")
    redo: Redo | None = Field(default=None, description="Which kept readings to make again.")
    ledger: str | None = Field(
        default=None,
        description="File of kept readings; left out: the user's own; 'none': keep nothing.",
    )
    on_error: Literal["raise", "skip", "mark"] = Field(default="raise", description="What becomes of failed pages.")
    split: bool = Field(default=False, description="Transcription, caption and tags as Documents of their own.")
    include_empty: bool = Field(default=False, description="Documents for blank pages too.")
    allow_remote: bool = Field(default=False, description="Send pages to a public address over plain http.")
    show_progress: bool = Field(default=False, description="A progress bar on stderr.")

    _engine: Engine | None = PrivateAttr(default=None)
    _engine_lock: Any = PrivateAttr(default_factory=threading.Lock)
    _threads: ThreadPoolExecutor | None = PrivateAttr(default=None)

    DEFAULT_SUFFIXES: ClassVar[tuple[str, ...]] = (
        ".pdf",
        ".jpg",
        ".jpeg",
        ".png",
        ".tif",
        ".tiff",
        ".webp",
        ".bmp",
        ".gif",
        ".jp2",
        ".heic",
        ".heif",
        ".avif",
        ".cbz",
        ".epub",
        ".xps",
    )

    def __init__(self, **arguments: Any) -> None:
        for name, right in _OTHER_NAMES.items():
            if name in arguments:
                msg = f"KoboldReader has no argument {name!r}; it is called {right!r}."
                raise ConfigError(msg)
        unknown = sorted(set(arguments) - set(type(self).model_fields))
        if unknown:
            names = ", ".join(name for name in type(self).model_fields if name != "is_remote")
            msg = f"KoboldReader has no argument {', '.join(map(repr, unknown))}; its arguments are {names}."
            raise ConfigError(msg)
        for name in ("tasks", "pdf_passwords"):
            if isinstance(arguments.get(name), str | tuple):
                value = arguments[name]
                arguments[name] = [value] if isinstance(value, str) else list(value)
        if isinstance(arguments.get("ledger"), Path):
            arguments["ledger"] = str(arguments["ledger"])
        try:
            super().__init__(**arguments)
        except ValidationError as err:
            # Pydantic quotes the input, which may be a password: name only the argument and what is wrong.
            wrong = "; ".join(
                f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in err.errors(include_input=False)
            )
            msg = f"KoboldReader: {wrong}."
            raise ConfigError(msg) from None
        self.is_remote = self.engine == "koboldcpp" and any(address_kind(url) != "loopback" for url in self.api_urls)
        self.settings()

    @classmethod
    @override
    def class_name(cls) -> str:
        """Name in LlamaIndex's serialised form."""
        return "KoboldReader"

    @override
    def __getstate__(self) -> dict[str, Any]:
        # Past LlamaIndex's own, which tries to pickle every private attribute and warns of each that cannot be;
        # connections and locks are made anew where the copy is used.
        state: dict[str, Any] = super(BaseComponent, self).__getstate__()
        return {**state, "__pydantic_private__": None}

    # ── what the arguments mean ──────────────────────────────────────────────────────────────────

    @property
    def api_urls(self) -> list[str]:
        """The servers, as a list."""
        return [self.api_url] if isinstance(self.api_url, str) else list(self.api_url)

    @property
    def servers(self) -> int:
        """How many work at once."""
        return 1 if self.engine == "rapidocr" else len(set(self.api_urls))

    def settings(self) -> ReadSettings:
        """Return what the arguments ask of every page.

        Raises:
            ConfigError: An argument is out of its range.
        """
        form = self._form()
        every = ("ocr",) if self.engine == "rapidocr" or form else DEFAULT_TASKS
        return ReadSettings(
            tasks=tuple(self.tasks) if self.tasks else every,
            are_tasks_default=not self.tasks,
            text_layer="ignore" if form else self.text_layer,  # a text is no record
            image_kind=self.image_kind,
            rotate_deg=None if self.rotate == "auto" else self.rotate,
            pages=PageRange.parse(self.pages),
            sample=self.sample,
            prompts=self._wordings(form),
            hint=self.hint,
            family=self.family,
            redo=self.redo,
            passwords=tuple(self.pdf_passwords),
            page_timeout_s=self.page_timeout_s,
            stop_after_s=self.stop_after_s,
        )

    def make_engine(self) -> Engine:
        """Return the engine, made at first use; no server is contacted yet.

        Raises:
            ConfigError: A public address over plain http without `allow_remote`, or no address at all.
        """
        with self._engine_lock:
            if self._engine is None:
                self._engine = RapidOcrEngine() if self.engine == "rapidocr" else self._kobold_engine()
            return self._engine

    def _kobold_engine(self) -> KoboldEngine:
        check_way(self.api_urls, allow_remote=self.allow_remote)
        form = self._form()
        return KoboldEngine(
            ServerPool(self.api_urls, password=self.api_password, outage_patience_s=self.outage_patience_s),
            family=self.family,
            prompts=self._wordings(form),
            hint=self.hint,
            visionmaxres=self.visionmaxres,
            page_timeout_s=self.page_timeout_s,
            form=form,
        )

    def _form(self) -> RecordForm | None:
        """Return the form of the records asked for, if any."""
        if self.json_schema is None:
            return None
        needs = {
            "prompts={'ocr': …}, which says what to look for": "ocr" in self.prompts,
            "tasks=['ocr'], or none": self.tasks in (None, ["ocr"]),
            "a model (engine='koboldcpp')": self.engine == "koboldcpp",
            "the pages' images (text_layer='auto' or 'ignore')": self.text_layer != "only",
        }
        missing = [what for what, is_there in needs.items() if not is_there]
        if missing:
            msg = f"json_schema needs {'; '.join(missing)}."
            raise ConfigError(msg)
        return RecordForm(self.json_schema)

    def _wordings(self, form: RecordForm | None) -> dict[str, str]:
        return {"ocr": form.wording(self.prompts["ocr"])} if form else self.prompts

    def open_ledger(self) -> Ledger:
        """Open the ledger that the arguments name; the caller closes it."""
        if self.ledger == "none":
            return Ledger(None)
        return Ledger(Path(self.ledger) if self.ledger else default_ledger_path())

    def close(self) -> None:
        """Give back connections and models; the reader can be used again."""
        with self._engine_lock:
            if self._engine is not None:
                self._engine.close()
                self._engine = None
            if self._threads is not None:
                self._threads.shutdown(wait=False)
                self._threads = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ── reading ──────────────────────────────────────────────────────────────────────────────────

    def transcriber(self, ledger: Ledger, **options: Any) -> Transcriber:
        """Return a transcriber with this reader's engine and settings; options as `Transcriber` takes them."""
        return Transcriber(self.make_engine(), ledger, self.settings(), **options)

    def read_pages(self, file: Paths, *, fs: Any = None, cancel: threading.Event | None = None) -> Iterator[PageResult]:
        """Yield a PageResult for every page, failed ones too, in page order.

        Args:
            file: A file, a folder, a glob pattern, or a list of them.
            fs: An fsspec filesystem that the paths belong to; None: this machine's files.
            cancel: Set by another thread to stop.

        Raises:
            SourceError: Nothing could be taken from `file`.
            ServerError: No server can be used; what was yielded before is kept in the ledger.
        """
        with self.open_ledger() as ledger:
            selection = take(file, fs, known=ledger.kind_of)
            yield from self.transcriber(ledger, cancel=cancel).run(selection.files)

    @override
    def lazy_load_data(
        self, file: Paths, extra_info: Mapping[str, Any] | None = None, fs: Any = None
    ) -> Iterator[Document]:
        """Yield Documents page by page; the first before the second page is asked for.

        Args:
            file: A file, a folder, a glob pattern, or a list of them.
            extra_info: Metadata to add to every Document; the mapping is copied.
            fs: An fsspec filesystem that the paths belong to.

        Raises:
            PagesFailedError: With `on_error="raise"`, after the last page; `.documents` is empty here (they were
                yielded).
            SourceError: Nothing could be taken from `file`.
            ServerError: No server can be used.
        """
        yield from self._documents(file, extra_info, fs, None)

    def _documents(
        self,
        file: Paths,
        extra_info: Mapping[str, Any] | None,
        fs: Any,
        cancel: threading.Event | None,
    ) -> Generator[Document, None, None]:
        with self.open_ledger() as ledger:
            selection = take(file, fs, known=ledger.kind_of)
            failed: list[KoboldReaderError] = list(selection.errors)
            for error in selection.errors:
                self._warn(error)
                if self.on_error == "mark":
                    yield failed_document(error, extra_info)
            # A stream that is left early must end its helper thread before the ledger is closed.
            with closing(self.transcriber(ledger, cancel=cancel).run(selection.files)) as results:
                for result in self._shown(results, selection.files):
                    if result.error:
                        failed.append(result.error)
                        self._warn(result.error)
                    yield from to_documents(
                        result,
                        split=self.split,
                        include_empty=self.include_empty,
                        mark_failed=self.on_error == "mark",
                        extra_info=extra_info,
                    )
        if failed and self.on_error == "raise":
            raise PagesFailedError([], failed)

    def _warn(self, error: KoboldReaderError) -> None:
        if self.on_error == "skip":
            warnings.warn(f"skipped: {error}", PageSkippedWarning, stacklevel=4)

    def _shown(self, results: Iterator[PageResult], files: Sequence[SourceFile]) -> Iterator[PageResult]:
        if not self.show_progress:
            return results
        from tqdm.auto import tqdm

        return iter(tqdm(results, desc=f"{len(files)} files", unit=" pages"))

    @override
    def load_data(self, file: Paths, extra_info: Mapping[str, Any] | None = None, fs: Any = None) -> list[Document]:
        """Return the Documents of all pages; arguments and errors as `lazy_load_data`.

        Raises:
            PagesFailedError: With `on_error="raise"` where pages failed; `.documents` holds all others.
        """
        return self._load(file, extra_info, fs, None)

    def _load(
        self,
        file: Paths,
        extra_info: Mapping[str, Any] | None,
        fs: Any,
        cancel: threading.Event | None,
    ) -> list[Document]:
        documents: list[Document] = []
        try:
            documents.extend(self._documents(file, extra_info, fs, cancel))
        except PagesFailedError as err:
            raise PagesFailedError(documents, err.errors) from None
        return documents

    @override
    async def aload_data(
        self, file: Paths, extra_info: Mapping[str, Any] | None = None, fs: Any = None
    ) -> list[Document]:
        """Like `load_data`, without blocking the event loop.

        Cancelling the task aborts the running job on the server. SimpleDirectoryReader starts all its files at once:
        of this reader's calls, no more run at a time than keep its servers busy; the others wait.
        """
        cancel = threading.Event()
        load = functools.partial(self._load, file, extra_info, fs, cancel)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._loaders(), load)
        finally:
            cancel.set()

    def _loaders(self) -> ThreadPoolExecutor:
        """Return the threads of `aload_data`: one file is opened while each server has another one's page."""
        with self._engine_lock:
            if self._threads is None:
                size = 1 if self.engine == "rapidocr" else len(self.api_urls) + 1
                self._threads = ThreadPoolExecutor(size, thread_name_prefix="kobold-reader-load")
            return self._threads

    @override
    async def alazy_load_data(
        self, file: Paths, extra_info: Mapping[str, Any] | None = None, fs: Any = None
    ) -> DocumentStream:
        """Return a stream of Documents to iterate with `async for` (never blocks the loop) or plain `for`."""
        cancel = threading.Event()
        return DocumentStream(lambda: self._documents(file, extra_info, fs, cancel), cancel)

    def file_extractor(self, *suffixes: str, **changes: Any) -> dict[str, BaseReader]:
        """Return a `file_extractor` for SimpleDirectoryReader, by default with `on_error="skip"`.

        SimpleDirectoryReader drops a whole file on any exception; with "skip" only the failed pages are missing. A
        lost server still costs whole files, which it only prints: give it `raise_on_error=True`, then that ends the
        run.

        Args:
            suffixes: Endings in lower case, with the dot; none: all that are taken.
            changes: Arguments in which the handed-out reader differs from this one.
        """
        arguments = {name: getattr(self, name) for name in type(self).model_fields if name != "is_remote"}
        reader = type(self)(**{**arguments, "on_error": "skip", **changes})
        return dict.fromkeys(suffixes or self.DEFAULT_SUFFIXES, reader)


def take(file: Paths, fs: Any = None, *, known: KnownKind | None = None) -> Selection:
    """Select the files that a path, a pattern or a list of them means; `known` as `select` takes it.

    Raises:
        SourceError: Nothing at all could be taken; the first reason.
    """
    paths: Iterable[str | Path] = [file] if isinstance(file, str | Path) or not isinstance(file, Iterable) else file
    selection = select(paths, fs=fs, known=known)
    if selection.errors and not selection.files:
        raise selection.errors[0]
    return selection
