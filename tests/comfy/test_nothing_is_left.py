"""What every node of the pack keeps to: nothing of a run is left for the next.

Each graph is queued in one server, again with another seed, size or batch, cancelled in the middle, and once
more. A second server queues the same in the opposite order. What a node puts out must depend on its inputs
alone, to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from skimage import data

from harness import ROOT
from harness.client import ComfyClient, Event, Execution, ExecutionInterrupted
from harness.host import PACK, ComfyServer
from harness.stand_in_adapter import stand_in_adapter
from pfstorer_core import Restorer
from pfstorer_core.models import SwinIR, SwinIRConfig
from pfstorer_core.personalization.base import Adapter
from pfstorer_core.personalization.dual_pivot.adapter import DualPivotAdapter
from pfstorer_core.personalization.dual_pivot.header import DualPivotHeader
from pfstorer_core.personalization.dual_pivot.parameters import generator_names, guide_names
from pfstorer_core.personalization.face import face_of
from pfstorer_core.personalization.lora.adapter import LoRAAdapter, LoRAHeader
from pfstorer_core.personalization.lora.layers import flat
from pfstorer_core.personalization.weights import LowRank, changeable
from pfstorer_core.recognition import load_recognizer
from pfstorer_core.recognition.likeness import strangers
from pfstorer_core.restorers.diffbir.cleaner import Cleaner
from pfstorer_core.restorers.files import save_restorer

from ..unit.small import small_diffbir, small_prior, small_restorer
from .prompts import node, png

ONLOOKER = Path(__file__).parent / "onlooker"
DLIB = ROOT / "assets" / "face_recognizers" / "dlib_resnet29.safetensors"
SILENT = {"MODEL", "CLIP", "VAE", "UPSCALE_MODEL", "FACE_RECOGNIZER"}
"""Types that are seen in what is made with them."""


class Given(Enum):
    """Stands in a graph for what differs from run to run."""

    SEED = "seed"
    HEIGHT = "height"
    BATCH = "batch"


SEED, HEIGHT, BATCH = Given


@dataclass(frozen=True)
class Run:
    seed: int = 1
    height: int = 32
    batch: int = 1


FIRST = Run()
OTHERS = {frozenset({SEED}): Run(seed=2), frozenset({HEIGHT, BATCH}): Run(height=48, batch=2)}
"""By what differs."""
Graph = Mapping[str, Mapping[str, Any]]

# --- the table

STEPS = 2
SAMPLING = {"seed": SEED, "steps": STEPS, "cfg": 1.0, "sampler_name": "heun", "scheduler": "normal"}
"""Heun's method asks the network twice in each step but the last."""
PICTURE = {
    "photo": node("LoadImage", image="noise.png"),
    "sized": node("ImageScale", image=["photo", 0], upscale_method="bicubic", width=32, height=HEIGHT,
                  crop="disabled"),
    "image": node("RepeatImageBatch", image=["sized", 0], amount=BATCH),
}  # fmt: skip
STABLESR = {**PICTURE, "restorer": node("LoadBaseRestorer", checkpoint="stablesr.safetensors", dtype="fp32")}
DIFFBIR = {**PICTURE, "restorer": node("LoadBaseRestorer", checkpoint="v1_face.safetensors", dtype="fp32")}
CLR_FACE = {**PICTURE, "restorer": node("LoadBaseRestorer", checkpoint="clr_face.safetensors", dtype="fp32")}


def tiled(model: str = "restorer", **settings: Any) -> dict[str, Any]:
    given = {"image": ["image", 0], "upscale": 2.0, **SAMPLING, **settings}
    return node("TiledSRSampler", model=[model, 0], vae=["restorer", 2], **given)


def native(model: str, **conditioning: Any) -> dict[str, Any]:
    lq = {"model": [model, 0], "vae": ["restorer", 2], "image": ["image", 0], **conditioning}
    return {
        "lq": node("RestorationConditioning", **lq),
        "sampler": node("KSampler", model=[model, 0], positive=["lq", 0], negative=["lq", 1],
                        latent_image=["lq", 2], denoise=1.0, **SAMPLING),
        "restored": node("VAEDecode", samples=["sampler", 0], vae=["restorer", 2]),
    }  # fmt: skip


def person(name: str, model: str = "restorer", **settings: Any) -> dict[str, Any]:
    apply = {"model": [model, 0], "identity_adapter": [name, 0], "gamma": 1.0, **settings}
    return {
        name: node("LoadIdentityAdapter", name=f"{name}.safetensors"),
        f"with {name}": node("ApplyPersonalization", **apply),
    }


def guidance(model: str = "restorer", **settings: Any) -> dict[str, Any]:
    given = {"scale": 0.05, "space": "rgb", "vae": ["restorer", 2], **settings}
    return node("RestorationGuidance", model=[model, 0], **given)


def looking(model: str = "restorer", **settings: Any) -> dict[str, Any]:
    photos = {"photos.photo_0": ["image", 0], "photos.photo_1": ["photo", 0]}
    given = {"model": [model, 0], "vae": ["restorer", 2], "strength": 0.7, **photos, **settings}
    return node("ReferenceAttention", **given)


def learning(kind: str, restorer: Graph, **settings: Any) -> Graph:
    """Anew in every run: what was learned before would be found."""
    return {
        **restorer,
        "train": node(
            kind, model=["restorer", 0], clip=["restorer", 1], vae=["restorer", 2], name="learned",
            seed=SEED, batch=1, resume="restart", rank=2, preview_every=1000,
            **{"photos.photo_0": ["image", 0], **settings},
        ),
        "learned": node(
            "ApplyPersonalization", model=["restorer", 0], identity_adapter=["train", 0], gamma=1.0
        ),
        "restored": tiled("learned"),
    }  # fmt: skip


GRAPHS: dict[str, Graph] = {
    "stablesr": {
        **STABLESR,
        "text": node("CLIPTextEncode", clip=["restorer", 1], text="a face"),
        "part": node("SolidMask", value=1.0, width=32, height=HEIGHT),
        "restored": tiled(fidelity=0.5, positive=["text", 0], mask=["part", 0]),
    },
    "diffbir": {**DIFFBIR, "restored": tiled(fixed_noise=True, color_fix="adain")},
    "clr_face": {**CLR_FACE, "tiles": tiled(cfg=1.5, denoise=0.7, quantize=False), **native("restorer")},
    "upscale model as cleaner": {
        **DIFFBIR,
        "cleaner": node("UpscaleModelLoader", model_name="cleaner.safetensors"),
        "tiles": tiled(cleaner=["cleaner", 0]),
        **native("restorer", cleaner=["cleaner", 0]),
    },
    "tiles for native samplers": {
        **STABLESR,
        "large": node("ImageScaleBy", image=["image", 0], upscale_method="bicubic", scale_by=3.0),
        "tiling": node("RestorationTiling", model=["restorer", 0], tile=64, overlap=-1, tile_batch=2),
        **native("tiling", image=["large", 0]),
        "fixed": node(
            "RestorationColorFix", image=["restored", 0], reference=["image", 0], method="wavelet"
        ),
    },
    "guidance in pixels": {
        **STABLESR, "guided": guidance(loss="w_mse", repeats=2), **native("guided")
    },
    "guidance of diffbir": {
        **DIFFBIR,
        "guided": guidance(),
        "twice": guidance("guided", space="latent", rule="v1"),
        "restored": tiled("twice"),
    },
    "identity guidance": {
        **STABLESR,
        # A square is taken for a face, which these small networks show none of.
        "sized": node("ImageScale", image=["photo", 0], upscale_method="bicubic", width=HEIGHT,
                      height=HEIGHT, crop="disabled"),
        "recognizer": node("LoadFaceRecognizer", name="dlib_resnet29.safetensors"),
        "guided": node("FaceIdentityGuidance", model=["restorer", 0], vae=["restorer", 2],
                       recognizer=["recognizer", 0], strength=0.2, start_percent=0.0,
                       **{"photos.photo_0": ["photo", 0]}),
        **native("guided"),
        "report": node("IdentityGuidanceReport", model=["guided", 0], samples=["sampler", 0]),
    },
    "pfstorer": {
        **STABLESR,
        **person("ada"),
        "half": node("SolidMask", value=1.0, width=16, height=32),
        "none": node("SolidMask", value=0.0, width=32, height=32),
        "left": node(
            "MaskComposite", destination=["none", 0], source=["half", 0], x=0, y=0, operation="add"
        ),
        **person("bea", "with ada", mask=["left", 0], end_percent=0.5),
        "restored": tiled("with bea"),
        "kept": node("SaveIdentityAdapter", identity_adapter=["ada", 0], name="kept", portrait=["image", 0]),
    },
    "lora": {**STABLESR, **person("lora"), "restored": tiled("with lora")},
    "gammas": {
        **STABLESR,
        "ada": node("LoadIdentityAdapter", name="ada.safetensors"),
        "sheet": node("GammaSheet", model=["restorer", 0], identity_adapter=["ada", 0], gammas="0, 1.5",
                      vae=["restorer", 2], image=["image", 0], upscale=2.0, **SAMPLING),
    },
    "lora for some steps": {
        **STABLESR, **person("lora", start_percent=0.3, coarse=0.5), **native("with lora")
    },
    "dual_pivot": {**DIFFBIR, **person("dual_pivot"), "restored": tiled("with dual_pivot")},
    "dual_pivot for some steps": {
        **DIFFBIR, **person("dual_pivot", end_percent=0.6), **native("with dual_pivot")
    },
    "references": {**STABLESR, "looking": looking(), "restored": tiled("looking")},
    "references of diffbir": {
        **DIFFBIR,
        **person("dual_pivot", end_percent=0.6),
        "looking": looking("with dual_pivot", cfg=1.5, reference_timestep="noised", start_percent=0.3),
        **native("looking"),
    },
    "references of a prior": {
        **CLR_FACE, "looking": looking(cfg=1.5), "restored": tiled("looking", cfg=1.5, quantize=False)
    },
    "learning pfstorer": learning("TrainIdentityAdapter", STABLESR, method="pfstorer", steps=STEPS),
    "learning lora": learning("TrainIdentityAdapter", STABLESR, method="lora", steps=STEPS),
    # Without the class, whose pictures are drawn once for all runs.
    "learning dual_pivot": learning(
        "TrainDualPivot",
        {**DIFFBIR, "cleaner": node("UpscaleModelLoader", model_name="cleaner.safetensors")},
        class_word="woman", text_steps=STEPS, model_steps=STEPS, prior_weight=0.0, cleaner=["cleaner", 0],
    ),
    "faces": {
        "photo": node("LoadImage", image="face.png"),
        "sized": node("ImagePadForOutpaint", image=["photo", 0], left=0, top=HEIGHT, right=0, bottom=0,
                      feathering=0),
        "image": node("RepeatImageBatch", image=["sized", 0], amount=BATCH),
        "recognizer": node("LoadFaceRecognizer", name="dlib_resnet29.safetensors"),
        "found": node("RestorationFindFaces", image=["image", 0], detector="blazeface"),
        "crop": node("RestorationCropFace", image=["image", 0], face=1, context=0.6, bboxes=["found", 0],
                     align="FFHQ"),
        "other": node("ImageInvert", image=["crop", 0]),
        "checked": node(
            "CheckPhotos", size=128, **{"photos.photo_0": ["photo", 0], "photos.photo_1": ["image", 0]}
        ),
        "likeness": node(
            "LikenessReport", recognizer=["recognizer", 0], result=["image", 0], bad=["other", 0],
            **{"photos.photo_0": ["photo", 0], "photos.photo_1": ["crop", 0]},
        ),
        "pasted": node("RestorationPasteFace", image=["image", 0], face=["other", 0],
                       face_crop=["crop", 1], feather=0.1, strength=0.8),
    },
    "several people": {
        **STABLESR,
        "photo": node("LoadImage", image="face.png"),
        "two": node("ImageStitch", image1=["photo", 0], direction="right", match_image_size=True,
                    spacing_width=8, spacing_color="white", image2=["photo", 0]),
        "image": node("RepeatImageBatch", image=["two", 0], amount=BATCH),
        "ada": node("LoadIdentityAdapter", name="ada.safetensors"),
        "bea": node("LoadIdentityAdapter", name="bea.safetensors"),
        "chosen": node("ChooseIdentity", image=["image", 0], threshold=0.4, others="restore by the base",
                       **{"identity_adapters.identity_adapter_0": ["bea", 0],
                          "identity_adapters.identity_adapter_1": ["ada", 0]}),
        "crop": node("RestorationCropFace", image=["image", 0], face=1, context=0.0, bboxes=["chosen", 1]),
        "small": node("ImageScale", image=["crop", 0], upscale_method="bicubic", width=32, height=HEIGHT,
                      crop="disabled"),
        "with": node("ApplyPersonalization", model=["restorer", 0], identity_adapter=["chosen", 0],
                     gamma=1.0),
        "restored": tiled("with", image=["small", 0]),
        "back": node("ImageScale", image=["restored", 0], upscale_method="bicubic", width=32, height=32,
                     crop="disabled"),
        "pasted": node("RestorationPasteFace", image=["image", 0], face=["back", 0], face_crop=["crop", 1],
                       feather=0.1),
    },
    "degrade": {
        **PICTURE,
        "photo": node("ExamplePictures", example="P007: five photos"),
        "bad": node("DegradeImage", image=["image", 0], preset="severe", seed=SEED, keep_size=True),
    },
}  # fmt: skip


def prompt_of(graph: Graph, run: Run, schemas: Mapping[str, Any]) -> dict[str, Any]:
    """For this run, with a look at every output of every node."""

    def filled(value: Any) -> Any:
        return getattr(run, value.value) if isinstance(value, Given) else value

    prompt = {
        name: node(made["class_type"], **{key: filled(value) for key, value in made["inputs"].items()})
        for name, made in graph.items()
    }
    for name, made in graph.items():
        for slot, kind in enumerate(schemas[made["class_type"]]["output"]):
            if kind not in SILENT:
                prompt[f"{name} {slot}"] = node("Onlook", value=[name, slot])
    return prompt


def asked_for(graph: Graph) -> set[Given]:
    """What of a run the graph depends on."""
    return {value for made in graph.values() for value in made["inputs"].values() if isinstance(value, Given)}


# --- two servers


class Queue:
    """A server with all that the graphs need, and what it came to."""

    def __init__(self, server: ComfyServer, client: ComfyClient) -> None:
        self.client, self.schemas = client, client.object_info()
        furnish(server)
        photo = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)
        client.upload_image(png(photo), "noise.png")
        client.upload_image(png(data.astronaut()[20:220, 140:310]), "face.png")

    def run(
        self, graph: Graph, run: Run, cancel_at: int = 0, on_event: Callable[[Event], None] | None = None
    ) -> Execution:
        self.client.post("/onlooker", {"cancel_at": cancel_at})
        return self.client.run(prompt_of(graph, run, self.schemas), on_event)

    def looked(self) -> int:
        """How often the last prompt looked whether it was cancelled."""
        return self.client.post("/onlooker", {"cancel_at": 0}).json()["looked"]


def digests(execution: Execution) -> dict[str, str]:
    """What was put out, by node and slot."""
    found = {name: shown["digest"][0] for name, shown in execution.outputs.items() if "digest" in shown}
    assert found, "nothing was looked at"
    return found


@pytest.fixture(scope="module")
def queue() -> Iterator[Queue]:
    with ComfyServer(threads=1, stock=True, packs=[ONLOOKER]) as server, server.client() as client:
        yield Queue(server, client)


@pytest.fixture(scope="module")
def found() -> dict[tuple[str, Run], dict[str, str]]:
    """What the first server came to, by graph and run."""
    return {}


@pytest.mark.parametrize("name", GRAPHS)
def test_the_next_run_is_as_the_first(
    queue: Queue, found: dict[tuple[str, Run], dict[str, str]], name: str
) -> None:
    graph = GRAPHS[name]
    first = found[name, FIRST] = digests(queue.run(graph, FIRST))
    middle = queue.looked() // 2
    others = [run for changed, run in OTHERS.items() if changed & asked_for(graph)]
    for run in others:
        other = found[name, run] = digests(queue.run(graph, run))
        assert other.keys() == first.keys()
        assert other != first, "it changes nothing: the test is blind"
    there, again = cancelled(queue, graph, middle), queue.run(graph, FIRST)
    while there not in graph:  # it was one that only looks at what is put out
        queue.run(graph, others[-1])
        middle -= 1
        there, again = cancelled(queue, graph, middle), queue.run(graph, FIRST)
    assert there in again.ran, "the host gave what it had"
    assert digests(again) == first


def cancelled(queue: Queue, graph: Graph, at: int) -> str:
    """The node in which a run was cancelled, when it looked for the so many-th time."""
    with pytest.raises(ExecutionInterrupted, match="interrupted in node") as found:
        queue.run(graph, FIRST, cancel_at=at)
    said = str(found.value)
    return next((name for name in graph if said.endswith(f" {name}")), said)


def test_another_server_in_another_order_gives_the_same(
    found: dict[tuple[str, Run], dict[str, str]],
) -> None:
    with ComfyServer(threads=1, stock=True, packs=[ONLOOKER]) as server, server.client() as client:
        other = Queue(server, client)
        for (name, run), digests_there in reversed(found.items()):
            assert digests(other.run(GRAPHS[name], run)) == digests_there, (name, run)


@pytest.mark.parametrize(
    ("name", "sampler", "besides"), [("stablesr", "restored", 2), ("tiles for native samplers", "sampler", 0)]
)
def test_steps_are_counted_and_not_calls(queue: Queue, name: str, sampler: str, besides: int) -> None:
    """Where the progress bar is at the preview of each step; `besides` sampling there is coding of pixels."""
    seen, reached = list[tuple[int, int]](), list[tuple[int, int]]()

    def note(event: Any) -> None:
        if event["type"] == "progress" and event["data"]["node"] == sampler:
            seen.append((event["data"]["value"], event["data"]["max"]))
        if event["type"] == "preview":
            reached.append(seen[-1])

    queue.run(GRAPHS[name], Run(seed=3), on_event=note)
    whole = seen[-1][1]
    a_step = (whole - besides) // STEPS
    assert reached == [(besides // 2 + step * a_step, whole) for step in range(1, STEPS + 1)]
    assert seen == sorted(seen)
    assert seen[-1][0] == whole


def test_every_node_of_the_pack_is_in_a_graph(queue: Queue) -> None:
    ours = {name for name, info in queue.schemas.items() if info["python_module"] == f"custom_nodes.{PACK}"}
    assert ours
    assert not ours - {made["class_type"] for graph in GRAPHS.values() for made in graph.values()}


# --- what is on the servers


def furnish(server: ComfyServer) -> None:
    models = {
        name: server.base / "models" / name for name in ("restorers", "identity_adapters", "upscale_models")
    }
    for folder in models.values():
        folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    cleaner = SwinIR(SwinIRConfig(24, (2, 1), (2, 3), 8, 2, 16)).eval().requires_grad_(False)
    save_file(cleaner.state_dict(), models["upscale_models"] / "cleaner.safetensors")
    own = SwinIR(cleaner.config).eval().requires_grad_(False)
    stablesr = small_restorer()
    diffbir = replace(small_diffbir(), cleaner=Cleaner.of(own))
    save_restorer(stablesr, models["restorers"] / "stablesr.safetensors", torch.float32)
    prior = replace(small_prior(), cleaner=Cleaner.of(SwinIR(cleaner.config).eval().requires_grad_(False)))
    save_restorer(prior, models["restorers"] / "clr_face.safetensors", torch.float32)
    save_restorer(diffbir, models["restorers"] / "v1_face.safetensors", torch.float32)
    for name, adapter in people(stablesr, diffbir).items():
        adapter.save(models["identity_adapters"] / f"{name}.safetensors")


def people(stablesr: Restorer, diffbir: Restorer) -> dict[str, Adapter]:
    """An adapter or two of every method, which nobody has learned."""
    generator = torch.Generator().manual_seed(0)
    references = torch.randn(1, 4, 8, 8, generator=generator)

    def low_rank(weight: torch.Tensor) -> LowRank:
        up = 0.2 * torch.randn(len(weight), 2, *[1] * (weight.ndim - 2), generator=generator)
        return LowRank(up, 0.2 * torch.randn(2, *weight.shape[1:], generator=generator), 2.0)

    layers = {layer: low_rank(w) for layer, w in changeable(stablesr.unet).items() if ".attn" in layer}
    changes = [
        {name: low_rank(w) for name in names if (w := diffbir.unet.get_parameter(name)).ndim in (2, 4)}
        for names in (generator_names(diffbir.unet), guide_names(diffbir.unet, "lora"))
    ]
    lora = LoRAHeader(base=stablesr.fingerprint, prediction_type="v")
    pivots = DualPivotHeader(base=diffbir.fingerprint, prediction_type="eps", pivots="both")
    context = torch.randn(1, 3, diffbir.null_context.shape[-1], generator=generator)
    recognizer = load_recognizer(DLIB)
    faces = [
        face_of(recognizer, [photo])
        for photo in (torch.from_numpy(data.astronaut()).movedim(-1, 0) / 255, strangers()[0])
    ]
    bea = stand_in_adapter(stablesr, references.flip(-1), reference_timestep="noised", gamma=0.5)
    return {
        "ada": stand_in_adapter(stablesr, references, gamma=0.5).with_face(faces[0]),
        "bea": bea.with_face(faces[1]),
        "lora": LoRAAdapter(lora, {flat(layer): low for layer, low in layers.items()}),
        "dual_pivot": DualPivotAdapter(pivots, context, *changes),
    }
