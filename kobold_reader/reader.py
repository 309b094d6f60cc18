"""KoboldReader: scanned files become LlamaIndex Documents."""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import MISSING
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from llama_index.core.bridge.pydantic import (
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from llama_index.core.readers.base import BasePydanticReader, BaseReader
from llama_index.core.schema import BaseComponent, Document
from typing_extensions import override

from kobold_reader.documents import failed_document, to_documents
from kobold_reader.errors import ConfigError, KoboldReaderError, PagesFailedError
from kobold_reader.kobold import address_kind
from kobold_reader.options import (
    DEFAULT_URL,
    OPTIONS,
    EngineName,
    ImageKindUse,
    OnError,
    ReadOptions,
    Redo,
    Rotate,
    TextLayerUse,
    WitnessName,
    about,
)
from kobold_reader.reading.ledger import Ledger
from kobold_reader.reading.results import PageResult
from kobold_reader.reading.transcriber import LOST, Transcriber
from kobold_reader.session import Paths, ReadSession, take
from kobold_reader.stream import DocumentStream


class PageSkippedWarning(UserWarning):
    """A page or file failed and was skipped, as `on_error="skip"` asks."""


def _option(name: str, **default: Any) -> Any:
    """Return the pydantic field of an option, with its default unless another one is given."""
    option = OPTIONS[name]
    if not default:
        default = {"default": option.default} if option.default is not MISSING else {"default_factory": dict}
    return Field(
        description=option.metadata["about"],
        exclude=option.metadata["is_secret"] or None,
        repr=not option.metadata["is_secret"],
        **default,
    )


class KoboldReader(BasePydanticReader):
    """Reads scanned PDFs and images page by page through KoboldCpp, one Document for each page.

    Nothing is asked twice: readings are kept in a ledger and found again for the same page content. Unknown arguments
    are refused. The reader can be pickled, with its password, for worker processes of LlamaIndex; `to_dict` leaves
    passwords out. Safe to use from several threads.

    Example:
        >>> from kobold_reader import KoboldReader
        >>> documents = KoboldReader().load_data("letters/1954.pdf")  # doctest: +SKIP
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    api_url: str | Sequence[str] = _option("api_url", default=DEFAULT_URL)
    api_password: str | None = _option("api_password")
    allow_remote: bool = _option("allow_remote")
    engine: EngineName = _option("engine")
    witness: WitnessName | None = _option("witness")
    tasks: Sequence[str] | None = _option("tasks")
    pages: str | None = _option("pages", default=None)
    sample: int | None = _option("sample")
    prompts: Mapping[str, str] = _option("prompts")
    json_schema: Mapping[str, Any] | None = _option("json_schema")
    hint: str | None = _option("hint")
    language: str | None = _option("language")
    vocabulary: str | Path | None = _option("vocabulary")
    max_tags: int | None = _option("max_tags")
    family: str | None = _option("family")
    visionmaxres: int | None = _option("visionmaxres")
    rotate: Rotate = _option("rotate")
    text_layer: TextLayerUse = _option("text_layer")
    image_kind: ImageKindUse | None = _option("image_kind")
    pdf_passwords: Sequence[str] = _option("pdf_passwords", default_factory=list)
    page_timeout_s: float | None = _option("page_timeout_s")
    outage_patience_s: float = _option("outage_patience_s")
    stop_after_s: float | None = _option("stop_after_s")
    redo: Redo | None = _option("redo")
    ledger: str | Path | None = _option("ledger")
    on_error: OnError = _option("on_error")
    split: bool = _option("split")
    include_empty: bool = _option("include_empty")
    show_progress: bool = _option("show_progress")

    _session: ReadSession | None = PrivateAttr(default=None)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)
    _threads: ThreadPoolExecutor | None = PrivateAttr(default=None)

    DEFAULT_SUFFIXES: ClassVar[tuple[str, ...]] = tuple(
        ".pdf .jpg .jpeg .png .tif .tiff .webp .bmp .gif .jp2 .heic .heif .avif .cbz .epub .xps".split()  # noqa: SIM905  (one word a line otherwise)
    )

    if not TYPE_CHECKING:  # type checkers and editors take the signature from the fields

        def __init__(self, **arguments: Any) -> None:
            self._check_names(arguments)
            try:
                super().__init__(**arguments)
            except ValidationError as err:
                # Pydantic quotes the input, which may be a password: name only the argument and what is wrong.
                wrong = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in err.errors(include_input=False)]
                raise ConfigError(f"KoboldReader: {'; '.join(wrong)}.") from None
            is_local = all(address_kind(url) == "loopback" for url in self.api_urls)
            self.is_remote = self.engine == "koboldcpp" and not is_local
            ReadSession(self.options)  # raises where two arguments exclude each other, or the schema is none

    @field_validator("api_url", "tasks", "pdf_passwords", "rotate", "ledger", "vocabulary", mode="before")
    @classmethod
    def _as_kept(cls, value: Any, info: ValidationInfo) -> Any:
        """Accept a single task or password, tuples, degrees as text, and paths; keep them as JSON has them."""
        match info.field_name, value:
            case (("tasks" | "pdf_passwords"), str()):
                return [value]
            case "rotate", str() if value.isdigit():
                return int(value)
            case (("ledger" | "vocabulary"), Path()):
                return str(value)
            case _, tuple():
                return list(value)
        return value

    @classmethod
    def _check_names(cls, arguments: Mapping[str, Any]) -> None:
        for name, option in OPTIONS.items():
            for other in option.metadata["elsewhere"]:
                if other in arguments:
                    raise ConfigError(f"KoboldReader has no argument {other!r}; it is called {name!r}.")
        unknown = sorted(set(arguments) - set(cls.model_fields))
        if unknown:
            raise ConfigError(
                f"KoboldReader has no argument {', '.join(map(repr, unknown))}; its arguments are {', '.join(OPTIONS)}."
            )

    @classmethod
    @override
    def class_name(cls) -> str:
        """Name in LlamaIndex's serialised form."""
        return "KoboldReader"

    @override
    def __getstate__(self) -> dict[str, Any]:
        # LlamaIndex's own tries to pickle every private attribute and warns of each that cannot be; connections and
        # locks are made anew where the copy is used.
        state: dict[str, Any] = super(BaseComponent, self).__getstate__()
        return {**state, "__pydantic_private__": None}

    # ── what the arguments mean ──────────────────────────────────────────────────────────────────

    @property
    def options(self) -> ReadOptions:
        """The arguments as the modules below the reader take them.

        Raises:
            ConfigError: An argument is out of its range.
        """
        return ReadOptions.of({name: getattr(self, name) for name in OPTIONS})

    @property
    def api_urls(self) -> list[str]:
        """The servers, as a list."""
        return [self.api_url] if isinstance(self.api_url, str) else list(self.api_url)

    @property
    def session(self) -> ReadSession:
        """What reads with these arguments; it holds the engine, which is made at first use."""
        options = self.options
        with self._lock:
            if self._session is None or self._session.options != options:
                self._session = ReadSession(options)
            return self._session

    def open_ledger(self) -> Ledger:
        """Open the ledger that the arguments name; the caller closes it."""
        return self.session.open_ledger()

    def close(self) -> None:
        """Give back connections and models; the reader can be used again."""
        with self._lock:
            if self._session is not None:
                self._session.close()
                self._session = None
            if self._threads is not None:
                self._threads.shutdown(wait=False)
                self._threads = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ── reading ──────────────────────────────────────────────────────────────────────────────────

    def transcriber(self, ledger: Ledger, **more: Any) -> Transcriber:
        """Return a transcriber as `ReadSession.transcriber` does."""
        return self.session.transcriber(ledger, **more)

    def read_pages(self, file: Paths, *, fs: Any = None, cancel: threading.Event | None = None) -> Iterator[PageResult]:
        """Yield a PageResult for every page, as `ReadSession.read_pages` does."""
        return self.session.read_pages(file, fs=fs, cancel=cancel)

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
            PagesFailedError: With `on_error="raise"`, after the last page; `.documents` is empty, as they were yielded.
            SourceError: Nothing could be taken from `file`.
            ServerError: No server can be used; raised after the pages that need none. With "mark" those that need one
                are marked, and with "skip" they are skipped, as long as there is any other page.
        """
        yield from self._documents(file, extra_info, fs, None)

    def _documents(
        self, file: Paths, extra_info: Mapping[str, Any] | None, fs: Any, cancel: threading.Event | None
    ) -> Generator[Document, None, None]:
        with self.open_ledger() as ledger:
            selection = take(file, fs, known=ledger.kind_of)
            failed: list[KoboldReaderError] = list(selection.errors)
            for error in selection.errors:
                self._warn(error)
                if self.on_error == "mark":
                    yield failed_document(error, extra_info)
            # A stream that is left early must end the transcriber's thread before the ledger is closed.
            with closing(self.transcriber(ledger, cancel=cancel).run(selection.files)) as results:
                is_any_usable = False
                due: list[KoboldReaderError] = []
                try:
                    for result in self._with_progress(results, len(selection.files)):
                        is_any_usable |= result.status != "failed"
                        if result.error:
                            failed.append(result.error)
                            due += [result.error] if result.is_due else []
                        if result.error and not result.is_due:
                            self._warn(result.error)
                        yield from to_documents(
                            result,
                            split=self.split,
                            include_empty=self.include_empty,
                            mark_failed=self.on_error == "mark",
                            extra_info=extra_info,
                        )
                except LOST:
                    if self.on_error == "raise" or (self.on_error == "skip" and not is_any_usable):
                        raise
                    for lost in due:
                        self._warn(lost)
        if failed and self.on_error == "raise":
            raise PagesFailedError([], failed)

    def _warn(self, error: KoboldReaderError) -> None:
        if self.on_error == "skip":
            warnings.warn(f"skipped: {error}", PageSkippedWarning, stacklevel=4)

    def _with_progress(self, results: Iterator[PageResult], files: int) -> Iterator[PageResult]:
        if not self.show_progress:
            return results
        from tqdm.auto import tqdm

        return iter(tqdm(results, desc=f"{files} files", unit=" pages"))

    @override
    def load_data(self, file: Paths, extra_info: Mapping[str, Any] | None = None, fs: Any = None) -> list[Document]:
        """Return the Documents of all pages; arguments and errors as `lazy_load_data`.

        Raises:
            PagesFailedError: With `on_error="raise"` where pages failed; `.documents` holds all others.
        """
        return self._load(file, extra_info, fs, None)

    def _load(
        self, file: Paths, extra_info: Mapping[str, Any] | None, fs: Any, cancel: threading.Event | None
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

        Cancelling the task aborts the running job on the server. SimpleDirectoryReader starts all its files at once; a
        thread for each server, and one more to open the next file, read them.
        """
        cancel = threading.Event()
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._loaders(), self._load, file, extra_info, fs, cancel)
        finally:
            cancel.set()

    def _loaders(self) -> ThreadPoolExecutor:
        with self._lock:
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
        lost server still costs whole files, which it only prints; its `raise_on_error=True` ends the run instead.

        Args:
            suffixes: Endings in lower case, with the dot; none: all that kobold-reader takes.
            changes: Other values for arguments of the reader that is handed out.
        """
        return dict.fromkeys(suffixes or self.DEFAULT_SUFFIXES, self.changed(**{"on_error": "skip", **changes}))

    def changed(self, **arguments: Any) -> Self:
        """Return a new reader with other values of these arguments."""
        return type(self)(**{**{name: getattr(self, name) for name in OPTIONS}, **arguments})


_ARGUMENTS = "".join(f"        {name}: {about(name)}\n" for name in OPTIONS)
KoboldReader.__doc__ = f"{KoboldReader.__doc__}\n    Args:\n{_ARGUMENTS}"
