"""The types of settings and records are those of the schema and of what is written."""

from typing import Any, Literal, Union, get_type_hints

import pytest
import yaml
from conftest import REPOSITORY

from desi_fits_to_parquet.settings import Settings

SCHEMA = yaml.safe_load((REPOSITORY / "config/schema.yaml").read_text())

KINDS = {"string": str, "integer": int, "number": float, "boolean": bool, "null": None}


def hint(setting: dict[str, Any]) -> Any:
    """The type of what a part of the schema allows; names within a list are plain text."""
    if "$ref" in setting:
        return hint(SCHEMA["$defs"][setting["$ref"].removeprefix("#/$defs/")])
    if "anyOf" in setting:
        return Union[tuple(hint(form) for form in setting["anyOf"])]  # noqa: UP007
    if "enum" in setting:
        return Literal[tuple(setting["enum"])]
    if "const" in setting:
        return Literal[setting["const"]]
    kinds = setting["type"] if isinstance(setting["type"], list) else [setting["type"]]
    items = setting.get("items", {})
    item = str if "enum" in items else hint(items) if items else None
    return Union[tuple(list[item] if kind == "array" else KINDS[kind] for kind in kinds)]  # noqa: UP007


def plain(kind: Any) -> Any:
    """A type in the one form that `hint` makes: `Literal[None, "a"]` for `Literal["a"] | None`."""
    members = getattr(kind, "__args__", ())
    values = [v for m in members if getattr(m, "__origin__", None) is Literal for v in m.__args__]
    rest = {m for m in members if getattr(m, "__origin__", None) is not Literal}
    if getattr(kind, "__origin__", None) in (Literal, list) or not members:
        return kind
    if values and rest == {type(None)}:
        return Literal[(None, *values)]
    return kind


@pytest.mark.parametrize("section", SCHEMA["properties"])
def test_the_types_of_a_section_are_those_of_the_schema(section: str) -> None:
    part, kind = SCHEMA["properties"][section], get_type_hints(Settings)[section]
    if part.get("type") != "object":
        assert kind == hint(part)
        return
    declared = {name: plain(found) for name, found in get_type_hints(kind).items()}
    assert declared == {name: hint(setting) for name, setting in part["properties"].items()}


def test_the_sections_are_those_of_the_schema() -> None:
    assert list(Settings.__annotations__) == list(SCHEMA["properties"])
