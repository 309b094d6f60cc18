"""KoboldLLM and KoboldEmbedding as LlamaIndex components, against the simulated server."""

from __future__ import annotations

import asyncio
import json
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.llms import ChatMessage, MessageRole
from llama_index.core.prompts import PromptTemplate
from llama_index.core.schema import TextNode

from kobold_reader import KoboldEmbedding, KoboldLLM
from kobold_reader.errors import (
    AuthenticationError,
    ConfigError,
    ContextTooSmallError,
    NoServerAvailableError,
    ResponseFormatError,
)
from tests.kobold_simulator import BrainRequest, Fault, KoboldSimulator, ScriptBrain

pytestmark = pytest.mark.slow

MakeSimulator = Callable[..., KoboldSimulator]

WORD = "anchor-and-rope"
ANSWER = "The slates came on Tuesday."


@pytest.fixture
def server(make_simulator: MakeSimulator) -> KoboldSimulator:
    """A server with a language model and an embedding model."""
    return make_simulator(brain=ScriptBrain(f"  {ANSWER}\n"), embeddings_model="nomic-embed")


@pytest.fixture
def llm(server: KoboldSimulator) -> KoboldLLM:
    return KoboldLLM(api_url=server.url)


@pytest.fixture
def embedding(server: KoboldSimulator) -> KoboldEmbedding:
    return KoboldEmbedding(api_url=server.url)


def prompts(server: KoboldSimulator) -> list[str]:
    """What was sent, less the tags of the template around it."""
    found = []
    for request in server.requests:
        if request.path.endswith("/api/v1/generate"):
            prompt = request.body["prompt"]
            assert prompt.startswith("<|im_start|>user\n"), "under the server's template"
            assert prompt.endswith("<|im_end|>\n<|im_start|>assistant\n")
            assert prompt.count("<|im_start|>") == 2
            found.append(prompt.split("user\n", 1)[1].rsplit("<|im_end|>", 1)[0].strip())
    return found


# ── KoboldLLM ─────────────────────────────────────────────────────────────────────────────────────


def test_complete_applies_the_template(llm: KoboldLLM, server: KoboldSimulator) -> None:
    response = llm.complete("When did the slates come?")

    assert response.text == ANSWER
    assert response.raw["ending"] == "eos"
    assert prompts(server) == ["When did the slates come?"]
    body = next(request.body for request in server.requests if request.path.endswith("/generate"))
    assert body["temperature"] == 0.1
    assert body["max_length"] == 1024
    assert body["trim_stop"] is False
    assert body["images"] == []


def test_an_unknown_model_is_named_once(make_simulator: MakeSimulator, caplog: pytest.LogCaptureFixture) -> None:
    """A question looks at the server some five times."""
    llm = KoboldLLM(api_url=make_simulator(model="foo").url)
    llm.server()
    llm.count_tokens("When did the slates come?")
    llm.complete("When did the slates come?")
    assert caplog.text.count("tells no family") == 1


def test_a_formatted_prompt_is_sent_as_it_stands(llm: KoboldLLM, server: KoboldSimulator) -> None:
    llm.complete("Once upon a time", formatted=True, max_length=12, temperature=0.7, stop=["END"])

    body = server.requests[-1].body
    assert body["prompt"] == "Once upon a time"
    assert (body["max_length"], body["temperature"]) == (12, 0.7)
    assert "END" in body["stop_sequence"]


def test_chat_applies_the_template_once(llm: KoboldLLM, server: KoboldSimulator) -> None:
    question = ChatMessage(role=MessageRole.USER, content="When did the slates come?")

    response = llm.chat([question])

    assert (response.message.role, response.message.content) == (MessageRole.ASSISTANT, ANSWER)
    assert prompts(server) == ["When did the slates come?"]


def test_a_conversation_becomes_one_instruction(llm: KoboldLLM, server: KoboldSimulator) -> None:
    llm.chat(
        [
            ChatMessage(role=MessageRole.SYSTEM, content="Answer briefly."),
            ChatMessage(role=MessageRole.USER, content="Who roofed the church?"),
            ChatMessage(role=MessageRole.ASSISTANT, content="Lindqvist."),
            ChatMessage(role=MessageRole.USER, content="When?"),
        ]
    )

    assert prompts(server) == [
        "Answer briefly.\n\nuser: Who roofed the church?\n\nassistant: Lindqvist.\n\nuser: When?"
    ]


def test_streams_end_with_the_whole_answer(llm: KoboldLLM) -> None:
    question = ChatMessage(role=MessageRole.USER, content="When?")
    completions = list(llm.stream_complete("When?"))
    chats = list(llm.stream_chat([question]))

    assert "".join(one.delta or "" for one in completions) == completions[-1].text == ANSWER
    assert "".join(one.delta or "" for one in chats) == chats[-1].message.content == ANSWER


def test_predict_applies_the_template(llm: KoboldLLM, server: KoboldSimulator) -> None:
    """What query engines call."""
    assert llm.predict(PromptTemplate("What came on {day}?"), day="Tuesday") == ANSWER
    assert prompts(server) == ["What came on Tuesday?"]


def test_async_calls_leave_the_loop_free(make_simulator: MakeSimulator) -> None:
    simulator = make_simulator(brain=ScriptBrain(ANSWER))
    llm = KoboldLLM(api_url=simulator.url)
    question = [ChatMessage(role=MessageRole.USER, content="When?")]

    async def last_delta(stream: Any) -> str:
        return str([piece.delta async for piece in stream][-1])

    async def main() -> list[str]:
        calls = [
            lambda: llm.acomplete("When?"),
            lambda: llm.achat(question),
            lambda: llm.astream_complete("When?"),
            lambda: llm.astream_chat(question),
        ]
        answers = []
        for call in calls:
            simulator.fault(Fault.HANG)

            async def ask(call: Callable[[], Any] = call) -> str:
                response = await call()
                if hasattr(response, "__aiter__"):
                    return await last_delta(response)
                return str(response.text if hasattr(response, "text") else response.message.content)

            task = asyncio.create_task(ask())
            # Only a free loop gets here while the server hangs.
            assert await asyncio.to_thread(simulator.wait_for, lambda: simulator.running)
            simulator.release()
            answers.append(await task)
        return answers

    assert asyncio.run(main()) == [ANSWER] * 4


def test_an_empty_answer_is_an_error(llm: KoboldLLM, server: KoboldSimulator) -> None:
    server.fault(Fault.EMPTY_TEXT)

    with pytest.raises(ResponseFormatError, match="empty answer"):
        llm.complete("When?")


def test_a_prompt_that_fills_the_context_is_not_sent(make_simulator: MakeSimulator) -> None:
    simulator = make_simulator(brain=ScriptBrain(ANSWER), context_size=512)
    llm = KoboldLLM(api_url=simulator.url)

    assert llm.complete("word " * 350).text == ANSWER
    body = simulator.requests[-1].body
    assert body["max_length"] < 512 - 350, "shorter, so that the beginning of the prompt is not dropped"
    for formatted in (False, True):
        with pytest.raises(ContextTooSmallError, match=r"context_window=512.*--contextsize 1024"):
            llm.complete("word " * 600, formatted=formatted)
    assert simulator.count() == 1


def test_no_server_is_an_error_that_names_it(llm: KoboldLLM, server: KoboldSimulator) -> None:
    server.stop()
    with pytest.raises(NoServerAvailableError, match=server.url):
        llm.complete("When?")


@pytest.mark.parametrize("kind", [KoboldLLM, KoboldEmbedding])
def test_to_dict_and_pickle(kind: Any, make_simulator: MakeSimulator, caplog: pytest.LogCaptureFixture) -> None:
    simulator = make_simulator(brain=ScriptBrain(ANSWER), embeddings_model="nomic-embed", password=WORD)
    used = kind(api_url=[simulator.url], api_password=WORD)

    def use(one: Any) -> Any:
        return one.complete("When?").text if kind is KoboldLLM else one.get_text_embedding("When?")

    first = use(used)
    assert WORD not in json.dumps(used.to_dict()) + repr(used) + str(used)
    written = used.to_dict()
    assert written["class_name"] == kind.__name__
    assert use(kind.from_dict(written, api_password=WORD)) == first
    with pytest.raises((AuthenticationError, NoServerAvailableError)):
        use(kind.from_dict(written))
    caplog.clear()
    back = pickle.loads(pickle.dumps(used))  # noqa: S301
    assert caplog.messages == [], "LlamaIndex warns of what it drops"
    assert use(back) == first


# ── KoboldEmbedding ───────────────────────────────────────────────────────────────────────────────


def test_vectors_come_in_order_and_in_batches(embedding: KoboldEmbedding, server: KoboldSimulator) -> None:
    texts = [f"Entry {number} of the harbour ledger" for number in range(70)]

    vectors = embedding.get_text_embedding_batch(texts)

    assert [len(vector) for vector in vectors] == [96] * 70
    assert all(math.isclose(math.hypot(*vector), 1.0, abs_tol=1e-3) for vector in vectors)
    assert server.count("/v1/embeddings") == 3, "32 texts a request"
    assert vectors[41] == embedding.get_text_embedding(texts[41]) == embedding.get_query_embedding(texts[41])
    assert embedding.loaded_model() == "nomic-embed"


def test_async_vectors_go_in_batches_too(embedding: KoboldEmbedding, server: KoboldSimulator) -> None:
    texts = ["roof", "harbour", "harbour dues"]

    vectors = asyncio.run(embedding.aget_text_embedding_batch(texts))

    assert server.count("/v1/embeddings") == 1
    assert vectors == embedding.get_text_embedding_batch(texts)
    assert asyncio.run(embedding.aget_query_embedding("roof")) == vectors[0]


def test_an_empty_vector_is_an_error(embedding: KoboldEmbedding) -> None:
    with pytest.raises(ContextTooSmallError, match=r"no vector for text 1.*--embeddingsmaxctx"):
        embedding.get_text_embedding_batch(["a good text", ""])


def test_a_text_too_long_for_the_model_is_embedded_in_parts(embedding: KoboldEmbedding) -> None:
    head, tail = "harbour " * 600, "quince " * 600
    plain, long = embedding.get_text_embedding_batch([head, head + tail])
    assert math.isclose(math.hypot(*long), 1.0, abs_tol=1e-3)
    assert not any(math.isnan(number) for number in long)
    assert sum(a * b for a, b in zip(plain, long, strict=True)) < 0.95
    assert embedding.get_text_embedding("a good text") == embedding.get_text_embedding_batch(["a good text", head])[0]


def test_without_an_embedding_model(make_simulator: MakeSimulator) -> None:
    simulator = make_simulator()
    embedding = KoboldEmbedding(api_url=simulator.url)

    for call in (embedding.loaded_model, lambda: embedding.get_text_embedding("roof")):
        with pytest.raises(ConfigError) as caught:
            call()
        assert "--embeddingsmodel FILE.gguf" in str(caught.value)
        assert '(launcher: "Embeds Model" in "Loaded Files")' in str(caught.value)
    assert simulator.count("/v1/embeddings") == 0


def test_an_index_and_a_query_engine_stay_on_the_server(make_simulator: MakeSimulator) -> None:
    def answer(request: BrainRequest) -> str:
        return ANSWER if "slates" in request.prompt else "I do not know."

    simulator = make_simulator(brain=ScriptBrain(answer), embeddings_model="nomic-embed")
    nodes = [TextNode(text="Forty slates came on Tuesday."), TextNode(text="Nine cows showed blisters.")]
    index = VectorStoreIndex(nodes, embed_model=KoboldEmbedding(api_url=simulator.url))
    engine = index.as_query_engine(llm=KoboldLLM(api_url=simulator.url), similarity_top_k=1)

    response = engine.query("When did the slates come?")

    assert str(response) == ANSWER
    (prompt,) = prompts(simulator)
    assert "Forty slates came" in prompt
    assert "Nine cows" not in prompt
    assert [one.node.node_id for one in response.source_nodes] == [nodes[0].node_id]
