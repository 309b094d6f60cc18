"""What can be asked of the server and of this machine, in plain words, and what to change.

Every finding is one line with what to do: the flag, and the field in KoboldCpp's launcher, where most people start it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from kobold_reader.embeddings import MiniLMEmbedding
from kobold_reader.errors import AuthenticationError, MissingExtraError, ServerError, TranscriptionError
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
)
from kobold_reader.kobold.values import version_tuple
from kobold_reader.options import TASKS
from kobold_reader.reading.due import long_side_px
from kobold_reader.reading.ledger import default_ledger_path
from kobold_reader.reading.selftest import (
    DEFAULT_VISIONMAXRES_PX,
    LARGEST_VISIONMAXRES_PX,
    UNLIMITED_BEFORE,
    SelfTest,
    self_test,
)

__all__ = ["Finding", "Level", "examine", "examine_machine", "examine_server"]

Level = Literal["ok", "advice", "problem"]
_Value = str | float | bool | None

RECOMMENDED_CONTEXT_TOKENS: Final = 8192
OLDEST_TESTED: Final = (1, 115)
SELF_TEST_LIMIT_S: Final = 900.0
"""For one request; a machine without a GPU needs minutes for a large image."""
PROMPT_TOKENS: Final = 200
_ALPACA: Final = "### Instruction:"
_WITHOUT_SELF_TEST: Final = "; no server reports this number, the self-test measures it"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what is so, and what to do about it."""

    about: str
    level: Level
    text: str
    remedy: str = ""
    server: str = ""
    """The server's address; "" for what concerns this machine."""
    values: Mapping[str, _Value] = field(default_factory=dict)
    """The numbers behind the text, units in their names."""


def examine(
    urls: Sequence[str],
    password: str | None,
    family: str | None,
    visionmaxres: int | None,
    *,
    with_self_test: bool = True,
    on_self_test: Callable[[str], None] | None = None,
) -> list[Finding]:
    """Return all findings about the servers and this machine; never raises for a server that is off.

    Args:
        urls: The servers.
        password: The same for all.
        family: Name of the model family; None: chosen by the model's name.
        visionmaxres: What the user says the servers were started with.
        with_self_test: Show them the test card as well, which takes some seconds.
        on_self_test: Called with the address before a server is shown the card.

    Raises:
        ConfigError: An address is none, or no family has that name.
    """
    findings: list[Finding] = []
    for url in urls:
        findings += examine_server(
            url, password, family, visionmaxres, with_self_test=with_self_test, on_self_test=on_self_test
        )
    return findings + examine_machine()


def examine_server(
    url: str,
    password: str | None = None,
    family: str | None = None,
    visionmaxres: int | None = None,
    *,
    with_self_test: bool = True,
    on_self_test: Callable[[str], None] | None = None,
) -> list[Finding]:
    """Return the findings about one server; a `problem` means that no page can be read there.

    Raises:
        ConfigError: The address is none, or no family has that name.
    """
    with KoboldClient(url, password=password) as client:
        try:
            info = client.info()
        except AuthenticationError as err:
            return [_about_password(err, password)]
        except ServerError as err:
            return [Finding("server", "problem", err.message, err.hint or "", client.url)]
        server = _Server(client, info)
        findings = [
            server.say("server", "ok", f"{info.url} answers: KoboldCpp {info.version}"),
            *server.about_address(),
            *server.about_version(),
        ]
        if not info.text_model:
            text = "no language model is loaded: nothing can read a page there"
            remedy = "Start it with a vision model, and its projector."
            return [*findings, server.say("model", "problem", text, remedy), server.about_embeddings()]
        chosen = choose_family(info, family)
        findings += [server.about_model(chosen), *server.about_template(chosen), server.about_vision()]
        tested: SelfTest | None = None
        if info.vision and with_self_test:
            if on_self_test:
                on_self_test(info.url)
            tested, finding = server.test(chosen, password)
            findings.append(finding)
        if info.vision:
            findings.append(server.about_resolution(chosen, visionmaxres, tested, is_tested=with_self_test))
        px = visionmaxres or (tested.visionmaxres_px if tested else None) or DEFAULT_VISIONMAXRES_PX
        return [*findings, server.about_context(chosen, px), server.about_embeddings()]


def _about_password(error: AuthenticationError, password: str | None) -> Finding:
    remedy = (
        f"Give the one it was started {SETTINGS['password'].remedy()}: in a file named by --api-password-file, or in "
        "the variable KOBOLD_READER_PASSWORD."
    )
    what = "the password is wrong" if password else "it asks for a password, and none was given"
    return Finding("server", "problem", f"{error.server}: {what}.", remedy, error.server or "")


class _Server:
    """One server that answers, and what is to be said of it."""

    def __init__(self, client: KoboldClient, info: ServerInfo) -> None:
        self._client = client
        self._info = info

    def say(self, about: str, level: Level, text: str, remedy: str = "", /, **values: _Value) -> Finding:
        return Finding(about, level, text, remedy, self._info.url, values)

    def about_address(self) -> list[Finding]:
        kind, protected = address_kind(self._info.url), self._info.protected
        findings = []
        if kind == "public":
            text = "this server is neither on this machine nor in a private network: the pages would travel there"
            remedy = "Use a server at home; over plain http nothing is sent there without --allow-remote."
            findings.append(self.say("address", "advice", text, remedy, kind=kind))
        else:
            text = "the server runs on this machine" if kind == "loopback" else "the server is in your own network"
            findings.append(self.say("address", "ok", f"{text}: no page leaves it", kind=kind))
        if protected:
            text = "it asks for a password, and takes the one given"
            findings.append(self.say("password", "ok", text, protected=True))
        elif kind != "loopback":
            text = "it asks for no password: whoever reaches it can use it"
            remedy = f"Start it {SETTINGS['password'].remedy('WORD')}."
            findings.append(self.say("password", "advice", text, remedy, protected=False))
        return findings

    def about_version(self) -> list[Finding]:
        info = self._info
        if info.version_tuple >= OLDEST_TESTED:
            return []
        lacks = [
            what
            for since, what in (
                ((1, 77), "token counts, so only a test card proves that it sees images"),
                ((1, 79), "the model's own chat template"),
                ((1, 87), "embeddings"),
            )
            if info.version_tuple < since
        ]
        text = f"KoboldCpp {info.version} is older than 1.115, the oldest that was measured"
        text += "".join(f"; it lacks {what}" for what in lacks[:1]) + "".join(f", and {what}" for what in lacks[1:])
        return [self.say("version", "advice", text, "Update KoboldCpp.", version=info.version)]

    def about_model(self, family: Family) -> Finding:
        info = self._info
        if not family.is_known:
            known = ", ".join(sorted(name for name in FAMILIES if FAMILIES[name].is_known))
            text = f"model {info.model}: its name tells no family, so general prompts and sizes are used"
            remedy = f"If it is one of the known families, name it with --family: {known}."
            return self.say("model", "advice", text, remedy, model=info.model, family=None)
        if info.version_tuple < version_tuple(family.min_version):
            text = f"model {info.model}, family {family.name}: KoboldCpp sees with it from {family.min_version} on"
            return self.say("model", "advice", text, "Update KoboldCpp.", model=info.model, family=family.name)
        tasks = ", ".join(task for task in TASKS if task in family.tasks)
        text = f"model {info.model}, family {family.name}: can do {tasks}"
        return self.say("model", "ok", text, model=info.model, family=family.name)

    def about_template(self, family: Family) -> list[Finding]:
        info, own_tags = self._info, f"the tags of family {family.name} are sent"
        if info.chat_template is None or family.forced:
            return [self.say("template", "ok", f"chat template: {own_tags}", template="family")]
        if info.chat_template == "":
            text = f"the model's file has no chat template: {own_tags}"
            return [self.say("template", "advice", text, "Right if the family is; --family names it.", template="none")]
        if info.jinja and family.is_known:
            return [self.say("template", "ok", f"chat template: --jinja is on, so {own_tags}", template="jinja")]
        try:
            expanded = self._client.expand([{"role": "user", "content": "Read."}]).text
        except ServerError:
            return [
                self.say("template", "ok", f"chat template: not told by this version; {own_tags}", template="family")
            ]
        if _ALPACA not in expanded:
            return [self.say("template", "ok", "chat template: the model's own is used", template="found")]
        if family.is_known:
            text = f"chat template: KoboldCpp does not know the model's own and would use Alpaca; {own_tags}"
            return [self.say("template", "ok", text, template="alpaca")]
        text = "chat template: KoboldCpp does not know the model's own and uses Alpaca, which suits few models"
        remedy = f"Start it {SETTINGS['chatcompletionsadapter'].remedy('NAME')}, or name the family with --family."
        return [self.say("template", "advice", text, remedy, template="alpaca")]

    def about_vision(self) -> Finding:
        if self._info.vision:
            return self.say("vision", "ok", "a projector is loaded: images are seen", vision=True)
        text = "no projector (mmproj) is loaded: every image would be dropped without a word"
        return self.say("vision", "problem", text, f"Start it {SETTINGS['mmproj'].remedy('FILE.gguf')}.", vision=False)

    def test(self, family: Family, password: str | None) -> tuple[SelfTest | None, Finding]:
        """Show it the test card; waits for the page that another run is reading there."""
        policy = RetryPolicy(attempts=2, busy_patience_s=60.0)
        pool = ServerPool([self._info.url], password=password, policy=policy)
        try:
            with pool, pool.lease() as lease:
                tested = self_test(lease, family, time_limit_s=SELF_TEST_LIMIT_S)
        except (ServerError, TranscriptionError) as err:
            return None, self.say("self-test", "problem", f"self-test: {err.message}", err.hint or "")
        except MissingExtraError as err:
            return None, self.say("self-test", "advice", f"self-test: {err.message}", err.hint or "")
        return tested, self._about_test(tested)

    def _about_test(self, tested: SelfTest) -> Finding:
        row = tested.smallest
        if row is None:
            seen = "its token counts say that it saw the picture, but " if tested.is_counted else ""
            text = f"self-test: {seen}not one word of the test card came back, not even in the largest letters"
            remedy = "Load the projector that was made for this very model, or take a model that reads."
            return self.say("self-test", "problem", text, remedy, smallest_pt=None, letter_px=None)
        text = f"self-test: print down to {row.size_pt} pt is read on a whole A4 page"
        if tested.is_smallest_of_card:
            text += ", the smallest on the card"
        if tested.letter_px:
            text += f" (small letters {tested.letter_px:g} px high)"
        return self.say("self-test", "ok", text, smallest_pt=row.size_pt, letter_px=tested.letter_px)

    def about_resolution(
        self, family: Family, given_px: int | None, tested: SelfTest | None, *, is_tested: bool
    ) -> Finding:
        """Say how large an image reaches the encoder, and what is known of it."""
        info = self._info
        useful_px = min(family.max_side_px, LARGEST_VISIONMAXRES_PX)
        measured_px = tested.visionmaxres_px if tested else None
        values: dict[str, _Value] = {"visionmaxres_px": given_px or measured_px, "measured_px": measured_px}
        remedy = (
            f"Start it {SETTINGS['visionmaxres'].remedy(str(LARGEST_VISIONMAXRES_PX))}, then run "
            "`kobold-reader doctor` again, which measures and remembers it."
        )
        if info.version_tuple < UNLIMITED_BEFORE:
            text = "images go to the encoder as they are sent: KoboldCpp shrinks none before 1.83"
            return self.say("resolution", "ok", text, **values)
        if useful_px <= DEFAULT_VISIONMAXRES_PX and family.is_known and family.image.kind == "fixed":
            text = f"the encoder of family {family.name} takes {useful_px} px: --visionmaxres makes no difference"
            return self.say("resolution", "ok", text, **values)
        if given_px and measured_px and _page_px(family, measured_px) < _page_px(family, min(given_px, useful_px)):
            text = f"you say {given_px} px, but the server shrinks images to about {measured_px} px"
            return self.say("resolution", "advice", text, remedy, **values)
        if given_px:
            text = f"images of up to {given_px} px are sent, as you say"
            return self.say("resolution", "ok", text, **values)
        if measured_px is None:
            told = "; this model's token counts do not tell it" if is_tested else _WITHOUT_SELF_TEST
            text = (
                f"unless it was told otherwise, this server shrinks every image to {DEFAULT_VISIONMAXRES_PX} px{told}"
            )
            remedy = (
                f"Start it {SETTINGS['visionmaxres'].remedy(str(LARGEST_VISIONMAXRES_PX))}, and read with "
                f"--visionmaxres {LARGEST_VISIONMAXRES_PX}."
            )
            return self.say("resolution", "advice", text, remedy, **values)
        text = f"images of up to {measured_px} px reach the encoder (measured)"
        if _page_px(family, measured_px) < _page_px(family, useful_px):
            text += ", too few for small print on a full page read whole"
            return self.say("resolution", "advice", text, remedy, **values)
        return self.say("resolution", "ok", text, **values)

    def about_context(self, family: Family, visionmaxres_px: int) -> Finding:
        info = self._info
        side = min(family.max_side_px, visionmaxres_px)
        image = image_tokens(family, side, side)
        answer = family.max_length["ocr"]
        needed = image + PROMPT_TOKENS + answer
        values: dict[str, _Value] = {"context_tokens": info.context_tokens, "needed_tokens": needed}
        text = f"context of {info.context_tokens} tokens"
        if info.context_tokens >= needed:
            text += f": enough for an image of up to {image} tokens and an answer of {answer}, a full page of text"
            return self.say("context", "ok", text, **values)
        remedy = f"Start it {SETTINGS['contextsize'].remedy(str(max(needed, RECOMMENDED_CONTEXT_TOKENS)))}."
        text += f": an image takes up to {image} of them, so a full page of text may be cut"
        return self.say("context", "advice", text, remedy, **values)

    def about_embeddings(self) -> Finding:
        if self._info.embeddings:
            name = self._info.embedding_model
            text = f"an embedding model is loaded ({name or 'name not told'})"
            return self.say("embeddings", "ok", text, embedding_model=name)
        text = "no embedding model is loaded (--embeddingsmodel); archives do not need one there"
        return self.say("embeddings", "ok", text, embedding_model=None)


def _page_px(family: Family, max_side_px: int) -> int:
    """Return the longest side, in px, of a whole A4 page for this family."""
    return long_side_px(210, 297, max_side_px, family.max_pixels)


def examine_machine() -> list[Finding]:
    """Return the findings about what is installed here, and where readings are kept."""
    findings = [Finding("ledger", "ok", f"readings are kept in {default_ledger_path()}")]
    for module, extra, what in (
        ("chromadb", "chroma", "searching by meaning (Chroma)"),
        ("rapidocr", "rapidocr", "reading printed text without a server (RapidOCR)"),
    ):
        if importlib.util.find_spec(module):
            findings.append(Finding(extra, "ok", f"installed: {what}"))
        else:
            findings.append(Finding(extra, "advice", f"not installed: {what}", f'pip install "kobold-reader[{extra}]"'))
    if MiniLMEmbedding.available():
        findings.append(Finding("minilm", "ok", "installed: the embedder MiniLM"))
    else:
        from kobold_reader.embeddings.minilm import INSTALL_HINT

        findings.append(Finding("minilm", "advice", "not installed: the embedder MiniLM", INSTALL_HINT))
    return findings
