"""ReadOptions: all options of a run over pages, each with its values, its default, and a sentence about it.

KoboldReader's arguments, the command line, the ledger's keys and the cluster all come from this one class.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, Literal, get_args

from typing_extensions import override

from kobold_reader.errors import ConfigError
from kobold_reader.vocabulary import Vocabulary

DEFAULT_URL: Final = "http://127.0.0.1:5001"
TASKS: Final = ("ocr", "caption", "tags")
"""In the order in which they are asked of one page (the image stays in the server's cache)."""
DEFAULT_TASKS: Final = ("ocr", "caption")
MOST_TAGS: Final = 30
"""More would fill the metadata of every chunk."""

EngineName = Literal["koboldcpp", "rapidocr"]
WitnessName = Literal["rapidocr", "auto", "none"]
TextLayerUse = Literal["auto", "ignore", "only"]
ImageKindUse = Literal["auto", "photo", "scan"]
Rotate = Literal["auto", 0, 90, 180, 270]
Redo = Literal["outdated", "truncated", "looping", "low-confidence", "low-resolution", "disagreeing", "all"]
OnError = Literal["raise", "skip", "mark"]

# Options of an archive; here, because the command line's help must not load the archive.
Mode = Literal["hybrid", "dense", "keyword"]
Match = Literal["exact", "similar", "related"]
Grouping = Literal["page", "file", "folder"]
GroupBy = Literal["file", "folder"]
ExportFormat = Literal["md", "txt", "jsonl", "pdf", "hocr", "alto"]
EMBEDDERS: Final = ("e5", "minilm", "koboldcpp", "none")
FASTEMBED: Final = "fastembed:"
"""Before the name of one of fastembed's models, in place of a name of `EMBEDDERS`."""


@dataclass(frozen=True, slots=True)
class PageRange:
    """1-based page numbers, as spans; the empty range means all pages."""

    spans: tuple[tuple[int, int | None], ...] = ()

    @classmethod
    def parse(cls, text: str | None) -> PageRange:
        """Read `1-3,7,10-` or `-5`; None or "" means all pages.

        Raises:
            ConfigError: Not a range, page 0, or a span that runs backwards.

        >>> 7 in PageRange.parse("1-3,7")
        True
        """
        if text is None or not text.strip():
            return cls()
        return cls(tuple(map(_span, text.split(","))))

    def __contains__(self, page_number: int) -> bool:
        return not self.spans or any(
            first <= page_number and (last is None or page_number <= last) for first, last in self.spans
        )

    @override
    def __str__(self) -> str:
        return ",".join(
            str(first) if first == last else f"{first}-{'' if last is None else last}" for first, last in self.spans
        )


def _span(part: str) -> tuple[int, int | None]:
    found = re.fullmatch(r"\s*(\d+)?\s*(-)?\s*(\d+)?\s*", part)
    if not found or not (found[1] or found[3]):
        examples = "write 7, 1-3,7 or 10- (page 10 and all after it)"
        raise ConfigError(f"{part.strip()!r} is not a page range; {examples}.", argument="pages")
    first = int(found[1]) if found[1] else 1
    last = (int(found[3]) if found[3] else None) if found[2] else first
    if first < 1 or (last is not None and last < first):
        why = "pages count from 1" if first < 1 else "a range runs forwards"
        raise ConfigError(f"{part.strip()!r} is not a page range: {why}; write 7, 1-3,7 or 10-.", argument="pages")
    return first, last


def _option(default: Any, about: str, *, elsewhere: tuple[str, ...] = (), is_secret: bool = False) -> Any:
    """Define an option: its default, what it does, and what other libraries call it."""
    metadata = {"about": about, "elsewhere": elsewhere, "is_secret": is_secret}
    if default == {}:
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, repr=not is_secret, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """The options of a run.

    Raises:
        ConfigError: A value is out of its range, or two options exclude each other; the message names them.
    """

    api_url: tuple[str, ...] = _option(
        (DEFAULT_URL,),
        "KoboldCpp's address; several servers with the same model are used at once.",
        elsewhere=("base_url", "api_base", "url", "endpoint", "host"),
    )
    api_password: str | None = _option(
        None, "What KoboldCpp's --password was set to.", elsewhere=("api_key", "password"), is_secret=True
    )
    allow_remote: bool = _option(False, "Send pages to a public address over plain http.")
    engine: EngineName = _option("koboldcpp", "rapidocr reads printed text without a server.")
    witness: WitnessName | None = _option(
        None,
        "rapidocr reads each page as well, on this machine, and what the model wrote is compared; "
        "auto: where it is installed, as far as it keeps up with the server; none: no witness.",
    )
    tasks: tuple[str, ...] = _option(  # None becomes the default in `__post_init__`
        None, "ocr, caption, tags; left out: ocr and caption, as far as the model can.", elsewhere=("task",)
    )
    pages: PageRange = _option(PageRange(), "Pages of each file, like 1-3,7; left out: all.")
    sample: int | None = _option(None, "Read only this number of pages, spread evenly over everything.")
    prompts: Mapping[str, str] = _option(
        {}, "Your own wording for a task, in place of the model family's.", elsewhere=("prompt",)
    )
    json_schema: Mapping[str, Any] | None = _option(
        None,
        "Each page becomes one JSON object of this schema, as prompts['ocr'] asks for; it is checked.",
        elsewhere=("schema", "grammar", "output_cls"),
    )
    hint: str | None = _option(None, 'What is known of the pages: "Swedish letters, about 1900".')
    language: str | None = _option(
        None, "The language of captions and tags, like German; what is transcribed keeps its own."
    )
    vocabulary: str | Path | None = _option(  # becomes the text of the list in `__post_init__`
        None, "A file with the keywords that tags may have, as Lightroom exports them."
    )
    max_tags: int | None = _option(None, "At most this many keywords a page; left out: 15.")
    family: str | None = _option(
        None, "Model family; left out: chosen by the model's name.", elsewhere=("model_family",)
    )
    visionmaxres: int | None = _option(
        None,
        "What the server was started with, px; left out: what doctor measured, else 1024.",
        elsewhere=("max_side_px", "max_image_size"),
    )
    rotate: Rotate = _option(
        "auto",
        "Turn pages clockwise; auto: those on their side or upside down; 0: as the file says.",
        elsewhere=("rotation",),
    )
    text_layer: TextLayerUse = _option(
        "auto", "A PDF's own text; auto: used where it is good; ignore: read images; only: ask no engine."
    )
    image_kind: ImageKindUse | None = _option(
        None, "Treat pictures as photos or scans; auto: decide for each; left out: as before, else decide."
    )
    pdf_passwords: tuple[str, ...] = _option((), "Tried on encrypted PDFs.", is_secret=True)
    page_timeout_s: float | None = _option(
        None,
        "Seconds for one request; left out: as long as the server shows any sign of work.",
        elsewhere=("timeout", "timeout_s"),
    )
    outage_patience_s: float = _option(0.0, "How long to wait for a server to come back when none works.")
    stop_after_s: float | None = _option(None, "Ask for no more pages after this time.")
    redo: Redo | None = _option(None, "Read pages with these readings again.")
    ledger: str | None = _option(
        None, "File where readings are kept; left out: the user's own; none: nowhere.", elsewhere=("cache", "cache_dir")
    )
    on_error: OnError = _option(
        "raise",
        "Failed pages: raise an error at the end, skip them with a warning, or mark them in the output.",
        elsewhere=("raise_on_error",),
    )
    split: bool = _option(False, "Transcription, caption and tags become Documents of their own.")
    include_empty: bool = _option(False, "Make Documents of blank pages too.")
    show_progress: bool = _option(False, "Show a progress bar on stderr.")

    are_tasks_default: bool = False
    """Tasks that the model cannot do are left out; where tasks were given, they are refused instead."""
    is_stand_in: bool = False
    """RapidOCR reads because no KoboldCpp answers: what that has read is kept, and the other tasks wait for it."""

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> ReadOptions:
        """Return options of plain values, as JSON, KoboldReader and the command line have them.

        Keys that are no options are left out, such as those that LlamaIndex adds to a reader's `to_dict`.
        """
        values = {name: given[name] for name in (*OPTIONS, "is_stand_in") if name in given}
        for name in ("api_url", "tasks", "pdf_passwords"):
            if values.get(name) is not None:
                values[name] = (values[name],) if isinstance(values[name], str) else tuple(values[name])
        if not isinstance(values.get("pages", PageRange()), PageRange):
            values["pages"] = PageRange.parse(values["pages"])
        if str(values.get("rotate")).isdigit():
            values["rotate"] = int(values["rotate"])
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return the options as plain values for JSON, without passwords; `of` takes them back."""
        plain = {name: getattr(self, name) for name, option in OPTIONS.items() if not option.metadata["is_secret"]}
        given = None if self.are_tasks_default else list(self.tasks)
        return plain | {"api_url": list(self.api_url), "tasks": given, "pages": str(self.pages) or None}

    def __post_init__(self) -> None:
        if self.tasks is None:
            only_ocr = self.engine == "rapidocr" or self.json_schema is not None
            object.__setattr__(self, "tasks", ("ocr",) if only_ocr else DEFAULT_TASKS)
            object.__setattr__(self, "are_tasks_default", True)
        object.__setattr__(self, "tasks", _checked_tasks(self.tasks, "tasks"))
        _checked_tasks(self.prompts or self.tasks, "prompts")
        choices = {"engine": EngineName, "rotate": Rotate, "text_layer": TextLayerUse, "image_kind": ImageKindUse}
        for name, values in (choices | {"redo": Redo, "on_error": OnError, "witness": WitnessName}).items():
            value, allowed = getattr(self, name), get_args(values)
            if value is not None and value not in allowed:
                raise ConfigError(f"{value!r} is not one of {', '.join(map(str, allowed))}.", argument=name)
        for name in ("sample", "page_timeout_s", "stop_after_s", "max_tags"):
            number = getattr(self, name)
            if number is not None and number <= 0:
                raise ConfigError(f"{number} must be greater than 0.", argument=name)
        if self.outage_patience_s < 0:
            raise ConfigError(f"{self.outage_patience_s} must be 0 or greater.", argument="outage_patience_s")
        if self.max_tags is not None and self.max_tags > MOST_TAGS:
            raise ConfigError(f"{self.max_tags} must be {MOST_TAGS} or less.", argument="max_tags")
        if self.vocabulary is not None:  # a remembered run, another machine and the key need the words, not the file
            object.__setattr__(self, "vocabulary", Vocabulary.of(self.vocabulary).text)
        if self.json_schema is not None:
            self._check_records()
            object.__setattr__(self, "text_layer", "ignore")

    def _check_records(self) -> None:
        needs = {
            "prompts={'ocr': …}, which says what to look for": "ocr" in self.prompts,
            "tasks=['ocr'], or none": self.tasks == ("ocr",),
            "a model (engine='koboldcpp')": self.engine == "koboldcpp",
            "the pages' images (text_layer='auto' or 'ignore')": self.text_layer != "only",
        }
        missing = [what for what, is_there in needs.items() if not is_there]
        if missing:
            raise ConfigError(f"json_schema needs {'; '.join(missing)}.")

    @property
    def of_koboldcpp(self) -> ReadOptions:
        """The options of the run for which this one stands in; it reads nothing again."""
        tasks: Any = None if self.are_tasks_default else self.tasks
        return replace(self, engine="koboldcpp", tasks=tasks, redo=None, is_stand_in=False)

    @property
    def has_witness(self) -> bool:
        """Tell whether pages are compared: RapidOCR is no witness of itself, nor of records."""
        is_wanted = self.witness not in {None, "none"}
        return is_wanted and self.engine != "rapidocr" and self.json_schema is None and "ocr" in self.tasks

    @property
    def needs_witness(self) -> bool:
        """Tell whether the run waits until every page was compared, those read earlier included."""
        return self.has_witness and self.witness != "auto"

    @property
    def rotate_deg(self) -> int | None:
        """Clockwise turn of every page; None: pages on their side or head are turned upright."""
        return None if self.rotate == "auto" else self.rotate

    @property
    def wordings(self) -> Mapping[str, str]:
        """The user's prompts by task; one for records shows the schema."""
        if self.json_schema is None:
            return self.prompts
        # A model that sees the schema writes better records; and pages become due when the schema changes.
        schema = json.dumps(self.json_schema, ensure_ascii=False)
        task = "Answer with one JSON object that fits this schema, and nothing else:"
        return {"ocr": f"{self.prompts['ocr']}\n\n{task}\n{schema}"}

    @property
    def words(self) -> Vocabulary | None:
        """The vocabulary of tags."""
        return None if self.vocabulary is None else Vocabulary.of(self.vocabulary)

    def key(self, task: str) -> str:
        """Return the key under which the ledger keeps readings of the task made with these options.

        A page is due where no reading has the key. So it is made only of options that change *how* a page is read, and
        that the user gave.
        """
        wording = self.wordings.get(task)
        given: dict[str, Any] = {
            "prompt": wording,
            "hint": self.hint,
            "family": self.family,
            "rotate_deg": self.rotate_deg,
        }
        if task != "ocr":
            given["language"] = self.language
        if task == "tags":
            given |= {"vocabulary": self.vocabulary, "max_tags": self.max_tags}
        given = {name: value for name, value in given.items() if value is not None}
        if not given:
            return "default"
        return hashlib.sha256(json.dumps(given, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:32]


def _checked_tasks(tasks: Iterable[str], argument: str) -> tuple[str, ...]:
    asked = tuple(dict.fromkeys(tasks))  # a task named twice would be asked twice
    if not asked:
        raise ConfigError(f"name at least one of {', '.join(TASKS)}.", argument=argument)
    for task in asked:
        if task not in TASKS:
            raise ConfigError(f"{task!r} is not a task; the tasks are {', '.join(TASKS)}.", argument=argument)
    return asked


OPTIONS: Final[Mapping[str, Field[Any]]] = {one.name: one for one in fields(ReadOptions) if one.metadata}
"""All options by name."""


def about(name: str) -> str:
    """Return the sentence that says what an option does."""
    return str(OPTIONS[name].metadata["about"])
