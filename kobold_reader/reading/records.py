"""Records: a page is read as JSON of the user's schema, asked for with a grammar and checked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from kobold_reader.errors import ConfigError, MissingExtraError


class RecordForm:
    """The form that an answer must have.

    KoboldCpp makes a grammar of the schema (since 1.89), but silently ignores one that it cannot use, and an answer may
    be cut off, so every answer is checked.

    Args:
        schema: JSON Schema of an object, as `model_json_schema()` of a pydantic model gives it.

    Raises:
        ConfigError: It is no schema, or not one of an object, or it refers to another file or address.
        MissingExtraError: jsonschema is not installed.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        try:
            from jsonschema import Draft202012Validator
            from jsonschema.exceptions import SchemaError
            from referencing import Registry
        except ImportError as err:
            raise MissingExtraError("records", "json_schema") from err
        try:
            Draft202012Validator.check_schema(schema)
        except SchemaError as err:
            raise ConfigError(f"json_schema is not a JSON Schema: {err.message:.200}.") from err
        if schema.get("type") != "object":
            raise ConfigError('json_schema must be that of an object ("type": "object"): a record has named fields.')
        outside = next((ref for ref in _references(schema) if not ref.startswith("#")), None)
        if outside is not None:
            raise ConfigError(
                f"json_schema refers to {outside!r}, and nothing is fetched from elsewhere: put it under $defs."
            )
        self.grammar = json.dumps(schema, ensure_ascii=False)
        """The value for `GenerateRequest.grammar`."""
        self._validator = Draft202012Validator(schema, registry=Registry())

    def fault(self, text: str) -> str | None:
        """Return why an answer is no such record; None if it is one."""
        try:
            record = json.loads(text)
        except ValueError as err:
            return f"it is not JSON ({err})"
        error = min(self._validator.iter_errors(record), key=lambda one: one.json_path, default=None)
        return None if error is None else f"{error.json_path}: {error.message:.200}"


def _references(schema: object) -> Iterator[str]:
    if isinstance(schema, Mapping):
        for key, value in schema.items():
            if key in {"$ref", "$dynamicRef"} and isinstance(value, str):
                yield value
            else:
                yield from _references(value)
    elif isinstance(schema, list | tuple):
        for value in schema:
            yield from _references(value)
