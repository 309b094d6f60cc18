"""What can be asked of the server and of this machine, in plain words, and what to change.

Every finding is one line with what to do: the flag, and the field in KoboldCpp's launcher, where most people start it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from kobold_reader.embeddings import MiniLMEmbedding
from kobold_reader.errors import AuthenticationError, ServerError
from kobold_reader.kobold import (
    DEFAULT,
    SETTINGS,
    Family,
    KoboldClient,
    ServerInfo,
    address_kind,
    choose_family,
    image_tokens,
)
from kobold_reader.reading.koboldcpp import DEFAULT_VISIONMAXRES_PX
from kobold_reader.reading.ledger import default_ledger_path
from kobold_reader.reading.tasks import TASKS

__all__ = ["Finding", "Level", "examine", "examine_machine", "examine_server"]

Level = Literal["ok", "advice", "problem"]

RECOMMENDED_CONTEXT_TOKENS: Final = 8192
OLDEST_TESTED: Final = (1, 115)
RECOMMENDED_VISIONMAXRES: Final = "2048"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what is so, and what to do about it."""

    about: str
    level: Level
    text: str
    remedy: str = ""


def examine(urls: Sequence[str], password: str | None, family: str | None, visionmaxres: int | None) -> list[Finding]:
    """Return all findings about the servers and this machine; never raises for a server that is off.

    Raises:
        ConfigError: An address is none, or no family has that name.
    """
    findings = [finding for url in urls for finding in examine_server(url, password, family, visionmaxres)]
    return findings + examine_machine()


def examine_server(
    url: str, password: str | None = None, family: str | None = None, visionmaxres: int | None = None
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
            return [Finding("server", "problem", err.message, err.hint or "")]
    findings = [
        Finding("server", "ok", f"{info.url} answers: KoboldCpp {info.version}"),
        *_about_address(info),
        *_about_version(info),
    ]
    if not info.text_model:
        text = "no language model is loaded: nothing can read a page there"
        remedy = "Start it with a vision model, and its projector."
        return [*findings, Finding("model", "problem", text, remedy), *_about_embeddings(info)]
    chosen = choose_family(info, family)
    return [
        *findings,
        _about_model(info, chosen),
        *_about_vision(info, visionmaxres),
        _about_context(info, chosen),
        *_about_template(info),
        *_about_embeddings(info),
    ]


def _about_password(error: AuthenticationError, password: str | None) -> Finding:
    remedy = (
        f"Give the one it was started {SETTINGS['password'].remedy()}: in a file named by --api-password-file, or in "
        "the variable KOBOLD_READER_PASSWORD."
    )
    what = "the password is wrong" if password else "it asks for a password, and none was given"
    return Finding("server", "problem", f"{error.server}: {what}.", remedy)


def _about_address(info: ServerInfo) -> list[Finding]:
    kind = address_kind(info.url)
    if kind == "public":
        text = "this server is neither on this machine nor in a private network: the pages would travel there"
        return [Finding("address", "advice", text, "Use https, or a server at home.")]
    return []


def _about_version(info: ServerInfo) -> list[Finding]:
    if info.version_tuple >= OLDEST_TESTED:
        return []
    text = f"KoboldCpp {info.version} is older than 1.115, the oldest that was measured"
    if not info.counts_tokens:
        text += "; it returns no token counts, so nothing proves that an image was seen"
    return [Finding("version", "advice", text, "Update KoboldCpp.")]


def _about_model(info: ServerInfo, family: Family) -> Finding:
    if family.name == DEFAULT.name:
        text = f"model {info.model}: its name tells no family, so general prompts and sizes are used"
        return Finding("model", "advice", text, "If it is one of the known families, name it with --family.")
    tasks = ", ".join(task for task in TASKS if task in family.tasks)
    return Finding("model", "ok", f"model {info.model}, family {family.name}: can do {tasks}")


def _about_vision(info: ServerInfo, visionmaxres: int | None) -> list[Finding]:
    if not info.vision:
        text = "no projector (mmproj) is loaded: every image would be dropped without a word"
        return [Finding("vision", "problem", text, f"Start it {SETTINGS['mmproj'].remedy('FILE.gguf')}.")]
    findings = [Finding("vision", "ok", "a projector is loaded: images are seen")]
    if (visionmaxres or DEFAULT_VISIONMAXRES_PX) <= DEFAULT_VISIONMAXRES_PX:
        text = (
            f"unless it was told otherwise, this server shrinks every image to {DEFAULT_VISIONMAXRES_PX} px, "
            "too few for small print on a full page (no server reports this number)"
        )
        remedy = (
            f"Start it {SETTINGS['visionmaxres'].remedy(RECOMMENDED_VISIONMAXRES)}, and read with "
            f"--visionmaxres {RECOMMENDED_VISIONMAXRES}."
        )
        findings.append(Finding("resolution", "advice", text, remedy))
    return findings


def _about_context(info: ServerInfo, family: Family) -> Finding:
    side = min(family.max_side_px, DEFAULT_VISIONMAXRES_PX)
    image = image_tokens(family, side, side)
    needed = image + family.max_length["ocr"] + 200
    text = f"context of {info.context_tokens} tokens"
    if info.context_tokens >= needed:
        return Finding("context", "ok", f"{text}: enough for an image of up to {image} tokens and a full page of text")
    remedy = f"Start it {SETTINGS['contextsize'].remedy(str(max(needed, RECOMMENDED_CONTEXT_TOKENS)))}."
    text += f": an image takes up to {image} of them, so a full page of text may be cut"
    return Finding("context", "advice", text, remedy)


def _about_template(info: ServerInfo) -> list[Finding]:
    if info.chat_template == "":
        text = "the model's file has no chat template, so the family's own tags are sent"
        return [Finding("template", "advice", text, "Nothing to do if the family is right; --family names it.")]
    return []


def _about_embeddings(info: ServerInfo) -> list[Finding]:
    if info.embeddings:
        return [
            Finding("embeddings", "ok", f"an embedding model is loaded ({info.embedding_model or 'name not told'})")
        ]
    return []


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
