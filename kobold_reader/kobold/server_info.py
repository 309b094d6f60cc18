"""Asking a server what it is, and making sure that it is a KoboldCpp."""

from __future__ import annotations

from typing import Any

from kobold_reader.errors import ResponseFormatError, ServerError, ServerStatusError
from kobold_reader.kobold.transport import HttpAnswer, Transport
from kobold_reader.kobold.values import ServerInfo, version_tuple

OLDEST_VERSION = "1.76"
"""Older ones lack too much of what is needed (projectors, aborting one job) or answer otherwise."""
OK, NOT_FOUND = 200, 404


def ask_info(server: Transport) -> ServerInfo:
    """Ask a server what it is; see `KoboldClient.info`.

    A protected server masks the name of its model, so the password is proved first: tokencount answers 401 at once,
    where generate would wait for its turn.
    """
    version = _version(server)
    if version_tuple(version["version"]) < version_tuple(OLDEST_VERSION):
        raise ServerError(
            f"{server.url}: KoboldCpp {version['version']} is too old; {OLDEST_VERSION} is the oldest that can read "
            "pages.",
            server=server.url,
            hint="Update KoboldCpp: it is one file, and the same models go on working.",
        )
    protected = version.get("protected") is True
    if protected:
        count_tokens(server, "x")
    model = ask_model(server)
    props = server.exchange("/props")  # since 1.79
    template = None if props.status == NOT_FOUND else server.as_object(props).get("chat_template")
    embedding_model = version.get("embeddingModel")
    context = server.get("/api/extra/true_max_context_length")
    return ServerInfo(
        url=server.url,
        model=model,
        version=str(version["version"]),
        vision=version.get("vision") is True,
        protected=protected,
        jinja=version.get("jinja") is True,
        embeddings=version.get("embeddings") is True,
        embedding_model=embedding_model if isinstance(embedding_model, str) and embedding_model else None,
        context_tokens=natural_number(server, context, "tells no context size"),
        chat_template=template if isinstance(template, str) else None,
        text_model=version.get("llm") is not False,
    )


def ask_model(server: Transport) -> str:
    """Return the stem of the model's file; one quick request."""
    model = server.get("/api/v1/model").get("result")
    if not isinstance(model, str):
        raise server.unexpected("names no model", model)
    return model.removeprefix("koboldcpp/")


def count_tokens(server: Transport, text: str) -> int:
    """Return the tokens of this very text, the start token included."""
    answer = server.post("/api/extra/tokencount", {"prompt": text, "special": True})
    return natural_number(server, answer, "holds no token count")


def natural_number(server: Transport, answer: dict[str, Any], otherwise: str) -> int:
    """Return `value` of an answer; raise a ResponseFormatError that says `otherwise` if it is no count."""
    value = answer.get("value")
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise server.unexpected(otherwise, value)
    return value


def _version(server: Transport) -> dict[str, Any]:
    try:
        version = server.get("/api/extra/version")
    except ServerStatusError as err:
        if err.status == NOT_FOUND:
            raise _not_koboldcpp(server, "it does not know /api/extra/version") from err
        raise
    except ResponseFormatError as err:
        why = err.message.removeprefix(f"{server.url}: ").partition(". It begins")[0].rstrip(".")
        raise _not_koboldcpp(server, why, hint=err.hint) from err
    name = version.get("result")
    if name != "KoboldCpp" or not isinstance(version.get("version"), str):
        why = f"it calls itself {name[:60]!r}" if isinstance(name, str) else "it does not say what it is"
        raise _not_koboldcpp(server, why)
    return version


def _not_koboldcpp(server: Transport, why: str, *, hint: str | None = None) -> ResponseFormatError:
    other = "" if hint else _other_server(server)
    if other:
        return ResponseFormatError(
            f"{server.url}: {other} answers there, not KoboldCpp.",
            server=server.url,
            hint="kobold-reader needs KoboldCpp, which reads the same GGUF files; its own port is 5001.",
        )
    return ResponseFormatError(
        f"{server.url}: something answers there, but it is no KoboldCpp ({why}).",
        server=server.url,
        hint=hint or "Look at the address and the port: KoboldCpp's own port is 5001.",
    )


def _other_server(server: Transport) -> str:
    """The name of a well-known server that is no KoboldCpp; "" for anything else."""
    try:
        root = server.exchange("/")
        if root.status == OK and root.body.strip() == b"Ollama is running":
            return "Ollama"
        models = server.exchange("/v1/models")
        if "llama.cpp" in _server_header(root) + _server_header(models):
            return "llama.cpp's own server"
        if isinstance(server.as_object(models).get("data"), list):
            return "an OpenAI-compatible server (vLLM, LM Studio or another)"
    except ServerError:
        pass  # not one of these
    return ""


def _server_header(answer: HttpAnswer) -> str:
    return next((value for name, value in answer.headers.items() if name.lower() == "server"), "")
