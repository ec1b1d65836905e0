"""The pictures of README and docs that come from the shipped workflows: `python -m harness.docs`.

Those of figures come from the commands that stand beside them.
"""

from __future__ import annotations

from PIL import Image

from . import ROOT, demo, person
from .api_files import read_api
from .client import ComfyClient
from .console import run_main
from .host import ComfyServer
from .picture import side_by_side

DOCS = ROOT / "docs"


def main() -> None:
    with ComfyServer(cpu=not demo.has_gpu()) as server, server.client() as client:
        for name, make in demo.own_sheets(learn=False).items():
            demo.write_sheet(make(client), DOCS / f"{name}.png")
        demo.write_sheet(restored_group(client), DOCS / "group.png")


def restored_group(client: ComfyClient) -> Image.Image:
    """*Restore a group*, before and after."""
    prompt = read_api("restore_a_group")
    large, paste = (person.the_node(prompt, kind) for kind in ("ImageScaleBy", "RestorationPasteFace"))
    wanted = {"before": (large, 0), "after": (paste, 0)}
    made = person.saved(client, prompt, wanted, demo.progress_printer)
    return side_by_side([(name, pictures[0]) for name, pictures in made.items()])


if __name__ == "__main__":
    run_main(main)
