"""Model families: what each wants to be asked, in which chat template, and what of an image it sees.

The data is in `families.toml` (prompts, encoders, families, recommendations) and `chat_templates.toml`. A prompt comes
with the token count of the very text that is sent: an image was seen if and only if the server then reports more prompt
tokens than that.
"""

from __future__ import annotations

import logging
import math
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from typing import Any, Literal, TypedDict, TypeVar

from typing_extensions import override

from kobold_reader.errors import BadRequestError, ConfigError, ResponseFormatError
from kobold_reader.kobold.client import KoboldClient
from kobold_reader.kobold.protocol import ExpandedPrompt, ServerInfo, version_tuple

log = logging.getLogger(__name__)

UNKNOWN = "unknown"
TOKENS_AROUND_IMAGE = 32
"""The server's own words around an image take 9 to 23 tokens (measured on 1.115.1)."""
REASONING_EFFORT_SINCE = (1, 112)
HINT = "What is known of these pages, to help in reading them, and not to be written down: {hint}."
MOST_OBLONG = 4
"""KoboldCpp puts bars beside an image that is more oblong than this."""


@dataclass(frozen=True, slots=True)
class ImageRule:
    """How many tokens an image becomes at most."""

    kind: Literal["fixed", "patches", "slices", "tiles"]
    """`fixed`: always `tokens`. `patches`: one per `patch_px` square, between `min_tokens` and `tokens`.
    `slices`: `tokens` for the overview and for each slice of about `patch_px` squared, up to `max_slices`.
    `tiles`: `tokens` for the overview and for each square of a grid of `patch_px`, up to `max_slices`."""
    tokens: int
    patch_px: int = 0
    min_tokens: int = 0
    max_slices: int = 0
    row_tokens: int = 0
    """After each row of patches (Pixtral's line break)."""
    longest_px: int = 0
    """The server first scales the longest side to this, up as well as down; 0: it does not."""


class Decoding(TypedDict, total=False):
    """Fields of GenerateRequest in which families differ; others keep their defaults."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    rep_pen: float
    dry_multiplier: float
    reasoning_effort: str | None


@dataclass(frozen=True, slots=True)
class Family:
    """What one model family needs to read a page."""

    name: str
    """What `--family` takes."""
    template: str
    """Name of its chat template, for people; "none": the text alone is the prompt."""
    user_start: str
    user_end: str
    assistant_start: str
    prompts: Mapping[str, str]
    """Instruction by task. An empty one is the maker's way, too."""
    image: ImageRule
    max_side_px: int
    """The longer side of what reaches the encoder of a page; more is not worth sending."""
    max_pixels: int | None = None
    patterns: tuple[str, ...] = ()
    """Regular expressions searched in the model's name, ignoring case."""
    marks: tuple[str, ...] = ()
    """For models without a telling name: texts that are all in the chat template of the model's file."""
    stop_sequence: tuple[str, ...] = ()
    adapter: str = ""
    """KoboldCpp's name for the template; "" where it has none."""
    takes_instructions: bool = True
    """False: it knows its maker's prompts only; a hint or another wording would take it out of its training."""
    trusts_server: bool = True
    """False where KoboldCpp takes the file's template for another one, or the maker's prompt is not what it writes."""
    thinking: Literal["none", "optional", "always"] = "none"
    """Whether it thinks before it answers, which costs tokens and helps no page."""
    no_think: str = ""
    """Written after `assistant_start`; ends the thinking before it begins."""
    max_length: Mapping[str, int] = field(default_factory=lambda: {"ocr": 2048, "caption": 256, "tags": 96})
    """Tokens of an answer, by task."""
    decoding: Decoding = field(default_factory=lambda: Decoding(temperature=0.1))
    min_px_per_inch: float | None = 85.0
    """A page below it is cut into tiles; None: never, the model was made for whole pages."""
    min_version: str = "1.76"
    """First KoboldCpp that can load it."""
    projector: str = ""
    """`clip.projector_type` of its mmproj."""
    language_model: str = ""
    """The language models it is built on, for people."""
    encoder: str = ""
    """Its image encoder and what reaches it, for people."""
    tested: bool = False
    """Whether a test drives it through the simulator; if not, the row is from papers only."""
    forced: bool = False
    """Chosen by the user against the model's name, so the family's own tags are used."""

    @property
    def is_known(self) -> bool:
        """Whether this is a family and not the general row for any other model."""
        return self.name != UNKNOWN

    @property
    def tasks(self) -> frozenset[str]:
        """What it can do; a model that only reads is never asked for a caption."""
        return frozenset(self.prompts)

    def matches(self, model: str) -> bool:
        """Tell whether the name of a model says that it is of this family."""
        return any(re.search(pattern, model, re.IGNORECASE) for pattern in self.patterns)

    def instruction(
        self, task: str, *, wording: str | None = None, hint: str | None = None, language: str | None = None
    ) -> str:
        """Return the text of the user's turn, with the user's own wording of the task and hint about the pages.

        `language` is that of what is written about a picture; a transcription keeps the page's own.

        Raises:
            ConfigError: The family takes neither wording nor hint.
        """
        if not self.takes_instructions and (wording or hint):
            what = "hint" if hint else f"prompt of your own ({task})"
            known = ", ".join(repr(prompt) if prompt else "an empty one" for prompt in self.prompts.values())
            raise ConfigError(
                f"a model of the family {self.name} takes no {what}: it was trained on its maker's prompts only "
                f"({known}), and answers others with loops or nothing.",
                hint="Leave out --hint and --prompt, or load a model that follows instructions.",
            )
        text = wording or self.prompts[task]
        if hint:
            text += f"\n{HINT.format(hint=hint.strip().rstrip('.'))}"
        return f"{text}\nWrite in {language}." if language and task != "ocr" else text

    def decoding_for(self, info: ServerInfo) -> Decoding:
        """Return fields for a request to this server: `GenerateRequest(…, **family.decoding_for(info))`.

        A model that can think is told not to, where the server knows that field (since 1.112).
        """
        if self.thinking == "none" or info.version_tuple < REASONING_EFFORT_SINCE:
            return self.decoding
        return {**self.decoding, "reasoning_effort": "none"}


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One model to try."""

    family: str
    model: str
    """Size and quantisation, as its files are called."""
    note: str
    """Why, and what to expect of it."""


# ── reading the tables ────────────────────────────────────────────────────────────────────────────


@cache
def read_toml(name: str) -> dict[str, Any]:
    """Read a TOML file of this package, once."""
    return tomllib.loads(files("kobold_reader.kobold").joinpath(name).read_text(encoding="utf-8"))


K = TypeVar("K")
V = TypeVar("V")


class LazyTable(Mapping[K, V]):
    """A mapping that is loaded at its first use, so that importing this package reads no file."""

    def __init__(self, load: Callable[[], Mapping[K, V]]) -> None:
        self._rows = cache(load)

    @override
    def __getitem__(self, key: K) -> V:
        return self._rows()[key]

    @override
    def __iter__(self) -> Iterator[K]:
        return iter(self._rows())

    @override
    def __len__(self) -> int:
        return len(self._rows())


def _tuples(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}


def _family(row: dict[str, Any]) -> Family:
    data = read_toml("families.toml")
    encoder = dict(data["encoders"][row.pop("encoder")])
    template = dict(read_toml("chat_templates.toml")[row.pop("template")])
    template.pop("known_by", None)
    fields = {"encoder": encoder.pop("name"), "template": template.pop("name"), **encoder, **template, **row}
    prompts = fields["prompts"]
    fields["prompts"] = {
        task: re.sub(r"\{(\w+)\}", lambda found: data["wording"][found[1]], text)
        for task, text in (data["prompts"][prompts] if isinstance(prompts, str) else prompts).items()
    }
    fields["image"] = ImageRule(**fields["image"])
    if fields.get("min_px_per_inch") == 0:
        fields["min_px_per_inch"] = None
    return Family(**_tuples(fields))


def _load_recommended() -> dict[int, tuple[Recommendation, ...]]:
    by_memory: dict[int, tuple[Recommendation, ...]] = {}
    for row in read_toml("families.toml")["recommended"]:
        memory_gb = row["memory_gb"]
        one = Recommendation(row["family"], row["model"], row["note"])
        by_memory[memory_gb] = (*by_memory.get(memory_gb, ()), one)
    return by_memory


def _load_families() -> dict[str, Family]:
    families: dict[str, Family] = {}
    for row in read_toml("families.toml")["family"]:
        try:
            families[row["name"]] = _family(dict(row))
        except (KeyError, TypeError) as err:
            raise ValueError(
                f"families.toml: the row {row['name']!r} lacks this or names what no table has: {err}"
            ) from err
    return families


FAMILIES: Mapping[str, Family] = LazyTable(_load_families)
"""By name, in the order in which a model's name is looked up; the last, "unknown", is for any other model."""
RECOMMENDED: Mapping[int, tuple[Recommendation, ...]] = LazyTable(_load_recommended)
"""Models to try by GB of graphics memory, best first."""


# ── choosing ──────────────────────────────────────────────────────────────────────────────────────


def family_of(model: str) -> Family:
    """Return the family of a model by its name; the general one, "unknown", if the name fits none."""
    return next((family for family in FAMILIES.values() if family.matches(model)), FAMILIES[UNKNOWN])


def choose_family(info: ServerInfo, override: str | None = None) -> Family:
    """Return the family that the user named, or that of the server's model.

    The model is known by its name, or else by the chat template in its file. For an unknown model this is the general
    family, with a warning in the log. A server that is too old for the family is logged too.

    Raises:
        ConfigError: No family has that name; the message lists them.
    """
    known = family_of(info.model)
    if override is not None:
        chosen = FAMILIES.get(override.strip().lower())
        if chosen is None:
            raise ConfigError(f"There is no model family {override!r}. Known: {', '.join(sorted(FAMILIES))}.")
        if chosen is not known or not known.is_known:
            chosen = replace(chosen, forced=True)
    else:
        chosen = known if known.is_known else _by_marks(info.chat_template or "") or known
        if not chosen.is_known:
            log.warning(
                "%s: the name of the model, %s, tells no family; sizes and prompts are general ones. --family chooses "
                "one of those that `kobold-reader models` lists.",
                info.url,
                info.model,
            )
    if info.version_tuple < version_tuple(chosen.min_version):
        log.warning(
            "%s: KoboldCpp %s is older than %s, the first that can load a model of the family %s. Update it, or choose "
            "another family with --family.",
            info.url,
            info.version,
            chosen.min_version,
            chosen.name,
        )
    return chosen


def _by_marks(chat_template: str) -> Family | None:
    """Return the family with most marks, of those whose marks are all in the template."""
    marked = [family for family in FAMILIES.values() if family.marks]
    fitting = [family for family in marked if all(mark in chat_template for mark in family.marks)]
    return max(fitting, key=lambda family: len(family.marks), default=None)


def _template_in(file_template: str) -> Mapping[str, str] | None:
    """Return the row of `chat_templates.toml` that the chat template of a model's file shows, if any."""
    rows = read_toml("chat_templates.toml").values()
    known = (row for row in rows if "known_by" in row and all(text in file_template for text in row["known_by"]))
    return next(known, None)


def image_tokens(family: Family, width_px: int, height_px: int) -> int:
    """Return how many tokens of context an image of that size takes at most, with all that is around it."""
    rule = family.image
    if rule.longest_px:
        scale = rule.longest_px / max(width_px, height_px)
        width_px, height_px = math.ceil(width_px * scale), math.ceil(height_px * scale)
    if rule.kind == "fixed":
        return rule.tokens + TOKENS_AROUND_IMAGE
    columns, rows = math.ceil(width_px / rule.patch_px), math.ceil(height_px / rule.patch_px)
    if rule.kind == "patches":
        most_rows = min(rows, math.isqrt(MOST_OBLONG * rule.tokens))
        patches = max(rule.min_tokens, min(rule.tokens, columns * rows))
        return patches + rule.row_tokens * most_rows + TOKENS_AROUND_IMAGE
    # The grid of slices may have one more than their area asks for.
    parts = columns * rows if rule.kind == "tiles" else math.ceil(width_px * height_px / rule.patch_px**2)
    if parts > 1:  # a single one needs no overview
        parts = 1 + min(rule.max_slices, parts + (rule.kind == "slices"))
    return rule.tokens * parts + TOKENS_AROUND_IMAGE


# ── the prompt ────────────────────────────────────────────────────────────────────────────────────

ALPACA = "### Instruction:"
"""KoboldCpp writes this for a template that it does not recognise, without telling."""
GLM_START = "[gMASK]<sop>"
GEMMA_4_THOUGHT = r"<|channel>thought\n<channel|>"
GEMMA_4_CHANNEL = ("<|channel>", "<channel|>")


def render_prompt(client: KoboldClient, info: ServerInfo, family: Family, instruction: str) -> ExpandedPrompt:
    """Return the whole prompt for one instruction, up to where the answer begins.

    The server's own template is used where it has one, since it knows the model's file. The family's tags are used
    where the server has no template or writes Alpaca, where it takes the template for another one
    (`Family.trusts_server`), before 1.115 (which expands no messages), with `--jinja` (templates for lists of parts
    write Python source into the prompt), and where the user chose the family. For an unknown family the tags are those
    in the chat template of the model's file, and `--jinja` is trusted, as no other tags are known. Placeholders
    (`{{[INPUT]}}`) are never sent: the server counts them, and not what they become. The client remembers the result
    until the server is asked about itself again.
    """
    key = (info.model, info.version, family.name, str(family.forced), instruction)
    if key not in client.prompt_cache:
        client.prompt_cache[key] = _render(client, info, family, instruction)
    return client.prompt_cache[key]


def _render(client: KoboldClient, info: ServerInfo, family: Family, instruction: str) -> ExpandedPrompt:
    is_general = not family.is_known and not family.forced
    shown = _template_in(info.chat_template or "") if is_general else None
    if info.chat_template and family.trusts_server and not family.forced and (is_general or not info.jinja):
        expanded = _expand(client, instruction)
        # Nothing speaks against Alpaca where neither the family nor the file shows another template.
        if expanded is not None and (ALPACA not in expanded.text or (is_general and shown is None)):
            text = _with_beginning(_with_opening(expanded.text, family), info)
            return expanded if text == expanded.text else _counted(client, text)
    if shown is not None:
        text = f"{shown['user_start']}{instruction}{shown['user_end']}{shown['assistant_start']}"
    else:
        text = f"{family.user_start}{instruction}{family.user_end}{family.assistant_start}{family.no_think}"
    return _counted(client, _with_beginning(text, info))


def _counted(client: KoboldClient, text: str) -> ExpandedPrompt:
    return ExpandedPrompt(text=text, tokens=client.count_tokens(text))


def _with_beginning(text: str, info: ServerInfo) -> str:
    """Return the prompt with what KoboldCpp would write before it for GLM 4 and the large Gemma 4.

    So it is counted with the text. Otherwise its tokens would be taken for those of an image, even if that was dropped.
    """
    template = info.chat_template or ""
    if GLM_START in template:
        return f"{GLM_START} {text.removeprefix(GLM_START).removeprefix(' ')}"
    if GEMMA_4_THOUGHT in template and not any(tag in text for tag in GEMMA_4_CHANNEL):
        return "".join(GEMMA_4_CHANNEL) + text
    return text


def _expand(client: KoboldClient, instruction: str) -> ExpandedPrompt | None:
    """Return the prompt in the server's template; None where it has none, or its prompt lacks the instruction."""
    try:
        expanded = client.expand([{"role": "user", "content": instruction}])
    except (ResponseFormatError, BadRequestError) as err:
        log.debug("%s does not expand templates: %s", client.url, err)
        return None
    return expanded if instruction.strip() in expanded.text else None


def _with_opening(text: str, family: Family) -> str:
    """Return the prompt with the start of the answer after it, past any thought.

    Tags other than the family's stay as they are: they come from an adapter that the user chose.
    """
    if family.user_start.strip() not in text:
        return text
    opening, no_think = family.assistant_start.strip(), family.no_think.strip()
    head, found, tail = text.rpartition(opening)
    if not found or family.user_start.strip() in tail:
        return f"{text}{family.assistant_start}{family.no_think}"
    if no_think in tail or not no_think.startswith(tail.strip()):
        return text  # the template itself begins the answer
    return f"{head}{family.assistant_start}{family.no_think}"
