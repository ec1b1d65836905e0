"""Ids of nodes are one name space for all packs: of two packs with one id, only one has its node."""

import ast
import json
from pathlib import Path

from harness import ROOT

KNOWN = Path(__file__).parent / "data" / "known_node_ids.txt"
"""Ids of ComfyUI itself, of packs that many have, and of nodes for what ours are for; sorted."""
FROZEN = Path(__file__).parent / "data" / "node_names.json"
"""Of our nodes: id -> names of inputs and outputs; `tests/comfy/test_names.py` holds the nodes to it."""
GIVEN_UP = {"TiledDiffusion", "CropFace", "FindFaces", "PasteFace", "IdentityGuidance"}
"""Ours once, or nearly, and other packs' before."""


def ids() -> list[str]:
    """Written out in each node's Schema, so that one can search for them, and so that this sees them."""
    calls = [
        node
        for path in sorted((ROOT / "nodes").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "Schema"
    ]
    given = [keyword.value for call in calls for keyword in call.keywords if keyword.arg == "node_id"]
    assert len(given) == len(calls) >= 14
    return [ast.literal_eval(value) for value in given]


def test_no_id_is_another_pack_s() -> None:
    known = KNOWN.read_text().splitlines()
    assert known == sorted(set(known))
    assert {"KSampler", "FaceDetailer", "UltimateSDUpscale", "TiledDiffusion"} <= set(known)
    taken = {name.lower() for name in {*known, *GIVEN_UP}}
    assert [name for name in ids() if name.lower() in taken] == []


def test_ids_are_one_a_node() -> None:
    names = ids()
    assert len(names) == len(set(names))
    assert {name for name in names if not name.isidentifier() or not name.isascii()} == set()


def test_ids_are_frozen() -> None:
    """Else saved workflows do not find their nodes. A new node gets an entry in the list, for good: the test
    of the names writes it out."""
    frozen = list(json.loads(FROZEN.read_text(encoding="utf-8")))
    assert frozen == sorted(frozen)
    assert sorted(ids()) == frozen
