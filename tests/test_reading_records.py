"""Pages read into records: what is demanded, what is checked, what is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest

from kobold_reader import KoboldReader
from kobold_reader.errors import ConfigError, MissingExtraError, PagesFailedError
from kobold_reader.reading.records import RecordForm
from tests.conftest import SAMPLES
from tests.kobold_simulator import KoboldSimulator, ScriptBrain

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"number": {"type": "string"}, "year": {"type": ["integer", "null"]}, "rest": {"$ref": "#/$defs/r"}},
    "required": ["number"],
    "$defs": {"r": {"type": "array", "items": {"type": "string"}}},
}
CARD = SAMPLES / "scans" / "scan0007.jpg"
PROMPTS = {"ocr": "Which number?"}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"number": "37-b", "year": 1954, "rest": ["a"]}', None),
        ('{"number": "37-b", "year": null}', None),
        ('{"number": "37', "it is not JSON"),
        ("The number is 37-b.", "it is not JSON"),
        ('{"year": 1954}', "'number' is a required property"),
        ('{"number": 37}', r"$.number: 37 is not of type 'string'"),
        ('{"number": "a", "rest": [1]}', "$.rest[0]"),
        ('["37-b"]', "is not of type 'object'"),
    ],
)
def test_faults(text: str, fault: str | None) -> None:
    found = RecordForm(SCHEMA).fault(text)
    assert (found is None) if fault is None else (found is not None and fault in found)


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": "no such type"}, "is not a JSON Schema"),
        ({"type": "array"}, "must be that of an object"),
        ({"type": "object", "properties": {"a": {"$ref": "https://example.org/a.json"}}}, "nothing is fetched"),
    ],
)
def test_schemas_that_are_refused(schema: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        KoboldReader(prompts=PROMPTS, json_schema=schema)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({}, r"prompts=\{'ocr'"),
        ({"prompts": PROMPTS, "tasks": ["ocr", "caption"]}, r"tasks=\['ocr'\]"),
        ({"prompts": PROMPTS, "engine": "rapidocr"}, "a model"),
        ({"prompts": PROMPTS, "text_layer": "only"}, "images"),
    ],
)
def test_what_records_need(arguments: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=f"json_schema needs .*{why}"):
        KoboldReader(json_schema=SCHEMA, **arguments)


def test_without_jsonschema_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    with pytest.raises(MissingExtraError, match=r"install .*\[records\]"):
        RecordForm(SCHEMA)


@pytest.mark.slow
def test_a_page_becomes_a_record_once(make_simulator: Callable[..., KoboldSimulator]) -> None:
    simulator = make_simulator(brain=ScriptBrain('{"number": "37-b", "year": 1954}'))

    def read(schema: dict[str, Any]) -> list[str]:
        reader = KoboldReader(api_url=simulator.url, prompts=PROMPTS, json_schema=schema)
        again = KoboldReader.from_dict(reader.to_dict())
        return [document.text for document in again.load_data(CARD)]

    assert [json.loads(text) for text in read(SCHEMA) + read(SCHEMA)] == [{"number": "37-b", "year": 1954}] * 2
    assert simulator.count() == 1
    body = next(request.body for request in simulator.requests if request.path.endswith("/generate"))
    assert json.loads(body["grammar"]) == SCHEMA
    assert "Which number?" in body["prompt"]
    assert body["grammar"] in body["prompt"], "the model sees what is wanted of it"
    read({**SCHEMA, "required": ["number", "year"]})
    assert simulator.count() == 2, "another schema is another question"


@pytest.mark.slow
def test_a_text_layer_is_no_record(make_simulator: Callable[..., KoboldSimulator]) -> None:
    simulator = make_simulator(brain=ScriptBrain('{"number": "37-b"}'))
    reader = KoboldReader(api_url=simulator.url, prompts=PROMPTS, json_schema=SCHEMA, pages="1")

    (document,) = reader.load_data(SAMPLES / "minutes")

    assert json.loads(document.text) == {"number": "37-b"}


@pytest.mark.slow
def test_what_is_no_record_is_a_failed_page(make_simulator: Callable[..., KoboldSimulator]) -> None:
    simulator = make_simulator(brain=ScriptBrain("The number is 37-b."))
    reader = KoboldReader(api_url=simulator.url, prompts=PROMPTS, json_schema=SCHEMA)

    with pytest.raises(PagesFailedError, match="gave no record of the schema asked for, 4 times: it is not JSON"):
        reader.load_data(CARD)
    assert simulator.count() == 4
