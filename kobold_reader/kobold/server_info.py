"""Asking a server what it is, and making sure that it is a KoboldCpp."""

from __future__ import annotations

from typing import Any, Final

from kobold_reader.errors import ResponseFormatError, ServerError, ServerStatusError
from kobold_reader.kobold.api import Api
from kobold_reader.kobold.transport import Answer
from kobold_reader.kobold.values import ServerInfo, version_tuple

__all__ = ["OLDEST_VERSION", "ask_info", "ask_model"]

OLDEST_VERSION: Final = (1, 76)
"""Before it, too much of what is needed is missing (projectors, aborting one job) or answers otherwise."""
_NOT_FOUND: Final = 404
_OK: Final = 200


def ask_info(api: Api) -> ServerInfo:
    """Ask; see `KoboldClient.info`.

    A protected server masks the name of its model, so the password is proved first: tokencount
    answers 401 at once, where generate would wait for its turn.
    """
    version = _version(api)
    if version_tuple(version["version"]) < OLDEST_VERSION:
        oldest = ".".join(map(str, OLDEST_VERSION))
        raise ServerError(
            f"{api.url}: KoboldCpp {version['version']} is too old; {oldest} is the oldest that can read pages.",
            server=api.url,
            hint="Update KoboldCpp: it is one file, and the same models go on working.",
        )
    protected = version.get("protected") is True
    if protected:
        api.count_tokens("x")
    model = ask_model(api)
    template = _props(api).get("chat_template")
    embedding_model = version.get("embeddingModel")
    return ServerInfo(
        url=api.url,
        model=model,
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


def ask_model(api: Api) -> str:
    """The stem of the model's file; one quick request."""
    model = api.get_object("/api/v1/model").get("result")
    if not isinstance(model, str):
        raise api.unexpected("names no model", model)
    return model.removeprefix("koboldcpp/")


def _version(api: Api) -> dict[str, Any]:
    try:
        version = api.get_object("/api/extra/version")
    except ServerStatusError as err:
        if err.status == _NOT_FOUND:
            raise _not_kobold(api, "it does not know /api/extra/version") from err
        raise
    except ResponseFormatError as err:
        why = err.message.removeprefix(f"{api.url}: ").partition(". It begins")[0].rstrip(".")
        raise _not_kobold(api, why, hint=err.hint) from err
    if version.get("result") != "KoboldCpp" or not isinstance(version.get("version"), str):
        name = version.get("result")
        raise _not_kobold(
            api, f"it calls itself {name[:60]!r}" if isinstance(name, str) else "it does not say what it is"
        )
    return version


def _not_kobold(api: Api, why: str, *, hint: str | None = None) -> ResponseFormatError:
    other = "" if hint else _other_server(api)
    if other:
        return ResponseFormatError(
            f"{api.url}: {other} answers there, not KoboldCpp.",
            server=api.url,
            hint="kobold-reader needs KoboldCpp, which reads the same GGUF files; its own port is 5001.",
        )
    return ResponseFormatError(
        f"{api.url}: something answers there, but it is no KoboldCpp ({why}).",
        server=api.url,
        hint=hint or "Look at the address and the port: KoboldCpp's own port is 5001.",
    )


def _other_server(api: Api) -> str:
    """The name of a well-known server that is no KoboldCpp, "" for anything else."""
    try:
        root = api.get("/")
        if root.status == _OK and root.body.strip() == b"Ollama is running":
            return "Ollama"
        models = api.get("/v1/models")
        if "llama.cpp" in _server_header(root) + _server_header(models):
            return "llama.cpp's own server"
        if isinstance(api.as_object(models).get("data"), list):
            return "an OpenAI-compatible server (vLLM, LM Studio or another)"
    except ServerError:
        pass  # whoever it is, it is not one of these
    return ""


def _server_header(answer: Answer) -> str:
    return next((value for name, value in answer.headers.items() if name.lower() == "server"), "")


def _props(api: Api) -> dict[str, Any]:
    """Since 1.79; {} before."""
    answer = api.get("/props")
    return {} if answer.status == _NOT_FOUND else api.as_object(answer)


def _context_tokens(api: Api) -> int:
    value = api.get_object("/api/extra/true_max_context_length").get("value")
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise api.unexpected("tells no context size", value)
    return value
