"""What people's workflows name is frozen: ids of nodes, their inputs and outputs, in their order."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness import ROOT
from harness.client import ComfyClient

from ..unit.test_node_ids import FROZEN

Schemas = Mapping[str, Mapping[str, Any]]
BY_NAME = "Saved workflows give inputs by name, and the canvas fills them in by their place"
WHY = {
    "required": f"{BY_NAME}: one that is renamed, gone, moved or newly required breaks them",
    "optional": f"{BY_NAME}: one that is renamed, gone or moved breaks them",
    "outputs": "Saved workflows are wired by an output's place: one that is gone or moved breaks them",
}


@pytest.fixture
def ours(client: ComfyClient) -> Schemas:
    return {name: info for name, info in client.object_info().items() if info["category"] == "PFStorer"}


def inputs(schema: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """As a workflow names them, with their options; an input that grows has one name for all."""
    return {
        f"{name}.{options['template']['prefix']}*" if "template" in options else name: options
        for name, (_, options) in schema["input"].get(kind, {}).items()
    }


def names(schema: Mapping[str, Any]) -> dict[str, str]:
    """As in the list of frozen names."""
    kinds = {kind: list(inputs(schema, kind)) for kind in ("required", "optional")}
    return {kind: " ".join(found) for kind, found in {**kinds, "outputs": schema["output_name"]}.items()}


def test_ids_and_names_are_the_frozen_ones(ours: Schemas) -> None:
    frozen = json.loads(FROZEN.read_text(encoding="utf-8"))
    gone = [name for name in frozen if name not in ours]
    assert not gone, f"No node {gone} any more: workflows that people saved have it. Keep its id."
    for name, schema in ours.items():
        now = names(schema)
        entry = f"{json.dumps(name)}: {json.dumps(now, indent=1)}"
        assert name in frozen, f"New: think its names over, they stay for good, and add to {FROZEN}:\n{entry}"
        for kind, why in WHY.items():
            assert now[kind] == frozen[name][kind], (
                f"{name}, {kind}: {why}. Keep what is there (`display_name` changes a label alone). What is "
                f"new is optional and comes last; then {FROZEN} has:\n{entry}"
            )


def test_every_input_has_a_tooltip(ours: Schemas) -> None:
    given = {
        f"{name}.{key}": options
        for name, schema in ours.items()
        for kind in ("required", "optional")
        for key, options in inputs(schema, kind).items()
    }
    assert given
    assert [name for name, options in given.items() if not options.get("tooltip")] == []


def test_every_output_has_a_tooltip(ours: Schemas) -> None:
    given = {name: zip(s["output_name"], s["output_tooltips"], strict=True) for name, s in ours.items()}
    assert [f"{name}.{output}" for name, tips in given.items() for output, tip in tips if not tip] == []


def test_help_pages_exist_for_every_node(ours: Schemas) -> None:
    assert [name for name in ours if not Path(ROOT, "web", "docs", f"{name}.md").is_file()] == []
