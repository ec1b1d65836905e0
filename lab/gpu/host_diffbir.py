"""F: DiffBIR in the real ComfyUI: the samplers, guidance through its layers, a person in two pivots."""

from __future__ import annotations

from .host import Graph, learning, native, node, personal, run_all, tiled, write_restorer
from .server import Server
from .session import Session

FILE = "diffbir.safetensors"


def guided(seed: int, steps: int, **options: object) -> Graph:
    graph = native(seed, steps, FILE)
    graph["guide"] = node("RestorationGuidance", model=["restorer", 0], scale=0.05, **options)
    graph["sample"]["inputs"]["model"] = ["guide", 0]
    return graph


def pivots(text_steps: int, model_steps: int) -> Graph:
    graph = learning(1, 1, FILE, "ben", preview_every=1000)
    given = {name: value for name, value in graph["train"]["inputs"].items() if name != "steps"}
    graph["train"] = node("TrainDualPivot", class_word="person", text_steps=text_steps,
                          model_steps=model_steps, class_pictures=1, **given)  # fmt: skip
    return graph


def plan() -> list[tuple[str, float, Graph]]:
    """As `host.plan`."""
    return [
        ("diffbir_load_and_5", 0, tiled(1, 5, file=FILE)),
        ("diffbir_again_5", 0, tiled(2, 5, file=FILE)),
        ("diffbir_native_5", 1, native(3, 5, FILE)),
        ("diffbir_guided_5", 2, guided(4, 5, space="latent")),
        ("diffbir_guided_rgb_2", 3, guided(5, 2, space="rgb", vae=["restorer", 2])),
        ("diffbir_train_3", 12, pivots(2, 1)),
        ("diffbir_learned_person_5", 4, personal(6, 5, "ben.safetensors", FILE)),
    ]  # fmt: skip


def of_diffbir(session: Session, server: Server) -> None:
    write_restorer(session, server, session.diffbir, FILE)
    run_all(session, server, plan())
