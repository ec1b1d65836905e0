"""Templates as apps: who sees no nodes puts none in place of another, so one is there for their picture."""

from __future__ import annotations

from dataclasses import replace

from .parts import EXAMPLE, NODE_WIDTH, App, Group, Links, Node, Template

INPUTS = (
    ("image", "example", "Example"),
    ("which", "switch", "My own picture instead"),
    ("own", "image", "My own picture"),
)
"""Of every app, before its own."""
NODES = (
    Node("own", "LoadImage", "Load Image: your own", {"image": EXAMPLE}, (NODE_WIDTH, 320)),
    Node("which", "ComfySwitchNode", "The example, or your own"),
)
LINKS: Links = (("image", "IMAGE", "which", "on_false"), ("own", "IMAGE", "which", "on_true"))


def as_app(template: Template, app: App) -> Template:
    """A template whose picture is *Example Pictures*' or the user's, with the inputs that its app shows."""
    [[first], *stacks] = template.stacks
    assert first.columns == (("welcome", "image"),)
    return replace(
        template,
        nodes=(*(node for node in template.nodes if node.name != "welcome"), *NODES),
        links=(
            *(("which", "output", *to) if source == ["image", "IMAGE"] else (*source, *to)
              for *source, to in ((node, output, to) for node, output, *to in template.links)),
            *LINKS,
        ),
        stacks=((Group(first.caption, (("own", "image", "which"),)),), *stacks),
        app=replace(app, inputs=(*INPUTS, *app.inputs)),
    )  # fmt: skip
