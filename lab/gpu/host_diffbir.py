"""F: DiffBIR in the real ComfyUI: the samplers, guidance through its layers, a person in two pivots."""

from __future__ import annotations

from pathlib import Path

from pfstorer_core.personalization.dual_pivot.class_pictures import folder_of
from pfstorer_core.personalization.dual_pivot.settings import DualPivotTraining
from pfstorer_core.personalization.folder import UNFINISHED

from .host import Graph, learning, native, node, personal, run_all, tiled, write_restorer
from .server import Server
from .session import Session

FILE = "diffbir.safetensors"


def guided(seed: int, steps: int, **options: object) -> Graph:
    graph = native(seed, steps, FILE)
    graph["guide"] = node("RestorationGuidance", model=["restorer", 0], scale=0.05, **options)
    graph["sample"]["inputs"]["model"] = ["guide", 0]
    return graph


def plan() -> list[tuple[str, float, Graph]]:
    """As `host.plan`."""
    return [
        ("diffbir_load_and_5", 0, tiled(1, 5, file=FILE)),
        ("diffbir_again_5", 0, tiled(2, 5, file=FILE)),
        ("diffbir_native_5", 1, native(3, 5, FILE)),
        ("diffbir_guided_5", 2, guided(4, 5, space="latent")),
        ("diffbir_guided_rgb_2", 3, guided(5, 2, space="rgb", vae=["restorer", 2])),
        ("diffbir_train_3", 12, learning(3, 1, FILE, "ben", method="dual_pivot", preview_every=1000)),
        ("diffbir_learned_person_5", 4, personal(6, 5, "ben.safetensors", FILE)),
    ]  # fmt: skip


def of_diffbir(session: Session, server: Server) -> None:
    with session.attempt("F", "class_pictures"):
        write_class(session, server.base / "models" / "identity_adapters")
    write_restorer(session, server, session.diffbir, FILE)
    run_all(session, server, plan())


def write_class(session: Session, adapters: Path) -> None:
    """One picture of the class under the names of all, since drawing them takes minutes."""
    settings = DualPivotTraining()
    folder = folder_of(session.diffbir, settings.class_prompt, 0, adapters / UNFINISHED)
    folder.mkdir(parents=True)
    picture = adapters.parents[1] / "input" / "large.png"
    for number in range(settings.class_pictures):
        (folder / f"{number:04d}.png").hardlink_to(picture)
