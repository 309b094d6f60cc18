"""Asking a server what it is, and making sure that it is a KoboldCpp."""

from __future__ import annotations

from typing import Any

from kobold_reader.errors import ResponseFormatError, ServerStatusError
from kobold_reader.kobold.api import Api
from kobold_reader.kobold.values import ServerInfo

__all__ = ["ask_info"]

_NOT_FOUND = 404


def ask_info(api: Api) -> ServerInfo:
    """Ask; see `KoboldClient.info`.

    A protected server masks the name of its model, so the password is proved first: tokencount
    answers 401 at once, where generate would wait for its turn.
    """
    version = _version(api)
    protected = version.get("protected") is True
    if protected:
        api.count_tokens("x")
    model = api.get_object("/api/v1/model").get("result")
    if not isinstance(model, str):
        raise api.unexpected("names no model", model)
    template = _props(api).get("chat_template")
    embedding_model = version.get("embeddingModel")
    return ServerInfo(
        url=api.url,
        model=model.removeprefix("koboldcpp/"),
        version=str(version["version"]),
        vision=version.get("vision") is True,
        protected=protected,
        jinja=version.get("jinja") is True,
        embeddings=version.get("embeddings") is True,
        embedding_model=embedding_model if isinstance(embedding_model, str) and embedding_model else None,
        context_tokens=_context_tokens(api),
        chat_template=template if isinstance(template, str) else None,
        text_model=version.get("llm") is not False,
    )


def _version(api: Api) -> dict[str, Any]:
    try:
        version = api.get_object("/api/extra/version")
    except ServerStatusError as err:
        if err.status == _NOT_FOUND:
            raise _not_kobold(api, "it does not know /api/extra/version") from err
        raise
    except ResponseFormatError as err:
        why = err.message.removeprefix(f"{api.url}: ").rstrip(".")
        raise _not_kobold(api, why, hint=err.hint) from err
    if version.get("result") != "KoboldCpp" or not isinstance(version.get("version"), str):
        raise _not_kobold(api, f"it calls itself {str(version.get('result'))[:60]!r}")
    return version


def _not_kobold(api: Api, why: str, *, hint: str | None = None) -> ResponseFormatError:
    return ResponseFormatError(
        f"{api.url}: something answers there, but it is no KoboldCpp ({why}).",
        server=api.url,
        hint=hint or "Look at the port; KoboldCpp's own port is 5001.",
    )


def _props(api: Api) -> dict[str, Any]:
    """Since 1.79; {} before."""
    answer = api.get("/props")
    return {} if answer.status == _NOT_FOUND else api.as_object(answer)


def _context_tokens(api: Api) -> int:
    value = api.get_object("/api/extra/true_max_context_length").get("value")
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise api.unexpected("tells no context size", value)
    return value
