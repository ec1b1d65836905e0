"""Translations of the nodes: `locales/<language>/nodeDefs.json`, which the host merges into its own."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from harness import ROOT
from harness.client import ComfyClient

Schema = Mapping[str, Any]
Texts = dict[str, str]
LANGUAGES = ("ja", "zh")
SPECIAL = re.compile(r"[{}@|]")
"""Syntax of the canvas's messages: a text that has one of these is shown in parts, or not at all."""
KEPT = re.compile(r"\d+(?:\.\d+)?|\w*(?:[_/]|\.(?=\w))[\w./]*\w", re.ASCII)
"""Numbers, and what names files, folders, values and inputs."""


@pytest.fixture
def ours(client: ComfyClient) -> Mapping[str, Schema]:
    return {name: info for name, info in client.object_info().items() if info["category"] == "PFStorer"}


def read(language: str) -> dict[str, Any]:
    return json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))


def inputs(schema: Schema) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for kind in ("required", "optional"):
        for name, (_, options) in schema["input"].get(kind, {}).items():
            yield name, options


def sockets(name: str, options: Mapping[str, Any]) -> list[str]:
    """Of an input that grows: the canvas looks for a tooltip of each, and knows no other."""
    grows = options.get("template", {"max": 0})
    return [f"{name}_{grows['prefix']}{number}" for number in range(grows["max"])]


def texts(schema: Schema) -> Texts:
    """All that is translated, by its place in the file. What an output is called where it is called as its
    type, the host translates."""
    found = {"display_name": schema["display_name"], "description": schema["description"]}
    for name, options in inputs(schema):
        found |= {f"inputs.{name}.name": "", f"inputs.{name}.tooltip": options["tooltip"]}
        found |= {f"inputs.{socket}.tooltip": options["tooltip"] for socket in sockets(name, options)}
    outputs = zip(schema["output_name"], schema["output"], schema["output_tooltips"], strict=True)
    for number, (name, kind, tooltip) in enumerate(outputs):
        found |= {f"outputs.{number}.tooltip": tooltip}
        found |= {f"outputs.{number}.name": ""} if name != kind else {}
    return found


def flat(entry: Mapping[str, Any], path: str = "") -> Texts:
    parts = [flat(value, f"{path}{key}.") if isinstance(value, Mapping) else {path + key: value}
             for key, value in entry.items()]  # fmt: skip
    return {key: text for part in parts for key, text in part.items()}


@pytest.mark.parametrize("language", LANGUAGES)
def test_everything_is_translated_and_nothing_else(ours: Mapping[str, Schema], language: str) -> None:
    translated = read(language)
    assert set(translated) == set(ours)
    for name, schema in ours.items():
        english, found = texts(schema), flat(translated[name])
        assert set(found) == set(english), (
            f"{name}: add to locales/{language} what is new, delete what is gone"
        )
        for place, text in found.items():
            assert text.strip() == text != "", (name, place)
            assert not SPECIAL.search(text), (name, place)
            kept: list[str] = KEPT.findall(english[place])
            kept = [found.get(f"inputs.{word}.name", word) for word in kept]
            words = KEPT.findall(text)
            lost = [word for word in kept if word not in (words if word.isascii() else text)]
            assert not lost, f"{name}, {place}: {lost} of the English text are not in: {text}"
            assert text.isascii() <= place.endswith(".name"), f"{name}, {place} is not translated: {text}"


def test_sockets_of_growing_inputs_have_their_tooltip_in_english(ours: Mapping[str, Schema]) -> None:
    """The canvas does not take it from the schema."""
    wanted = {
        name: {"inputs": {s: {"tooltip": o["tooltip"]} for i, o in inputs(schema) for s in sockets(i, o)}}
        for name, schema in ours.items()
    }
    assert read("en") == {name: entry for name, entry in wanted.items() if entry["inputs"]}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_node_has_a_help_page_that_names_the_files_of_the_english_one(
    ours: Mapping[str, Schema], language: str
) -> None:
    """`docs/<node>/<language>.md`; where there is none the canvas shows `docs/<node>.md`, never an en.md."""
    pages = [*(ROOT / "web" / "docs").glob(f"*/{language}.md")]
    assert {page.parent.name for page in pages} == {*ours}
    for page in pages:
        text, english = (path.read_text(encoding="utf-8") for path in (page, page.parent.with_suffix(".md")))
        assert text.startswith(f"# {read(language)[page.parent.name]['display_name']}\n")
        assert [code for code in re.findall(r"`[^`]+`", text) if code not in english] == [], page
