"""Ways to learn a person, and what was learned already: the rows of the benchmark of personalization."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path

from torch import Tensor

from pfstorer_core.personalization.base import Adapter, Knowledge
from pfstorer_core.personalization.dual_pivot.settings import DualPivotTraining
from pfstorer_core.personalization.identity import Identity
from pfstorer_core.personalization.lora.train import LoRATraining, trained_layers
from pfstorer_core.personalization.objective import PersonTraining
from pfstorer_core.personalization.pfstorer.adapter import IdentityAdapter
from pfstorer_core.personalization.pfstorer.settings import AdapterTraining
from pfstorer_core.personalization.pfstorer.sites import default_sites, new_blocks
from pfstorer_core.personalization.pfstorer.start import AdapterStart
from pfstorer_core.personalization.photos import Photos
from pfstorer_core.personalization.reference_attention.references import References, ReferenceSettings
from pfstorer_core.personalization.registry import load_identity_adapter
from pfstorer_core.personalization.training import train_identity_adapter
from pfstorer_core.restore import restore
from pfstorer_core.restorers.base import Restorer

from ..evaluation import CaseSettings, draw_case
from ..evaluation.cases import Case
from ..evaluation.methods import Method, standard_methods

LOOKS = {
    "references": ReferenceSettings(),
    "references_cfg": ReferenceSettings(cfg=1.5),
    "references_noised": ReferenceSettings(timestep="noised"),
    "references_no_adain": ReferenceSettings(adain=False),
}
"""Rows of photos that are looked at."""

STARTED = ("start", "pfstorer_start")
"""Rows of adapters that begin with a start: of it and the photos alone, and learned from there."""

Whose = Callable[[Case], Case]
"""Whose adapter is taken for a case's pictures."""


@dataclass(frozen=True)
class Learned:
    """Adapters of people, learned when they are asked for."""

    restorer: Restorer
    cases: CaseSettings
    settings: AdapterTraining
    folder: Path
    sampling_steps: int
    diffbir: Restorer | None = None
    """The restorer under a control network, for Dual-Pivot Tuning."""
    pivots: DualPivotTraining = field(default_factory=DualPivotTraining)
    find: Callable[[int, str], Case] | None = None
    """Person of a number, under a preset; None draws them."""
    start: AdapterStart | None = None
    """What the adapters of `STARTED` begin with."""

    def case(self, person: int, preset: str) -> Case:
        return self.find(person, preset) if self.find else draw_case(self.cases, person, preset)

    def base_of(self, method: str) -> Restorer:
        """What a method's adapters change; raises ValueError where it is not there."""
        if method != DualPivotTraining.method:
            return self.restorer
        if self.diffbir is None:
            raise ValueError("Dual-Pivot Tuning needs a control network: name one by --control.")
        return self.diffbir

    def owner_note(self, method: str, preset: str, person: object) -> Path:
        """Where it is kept how much a row's pictures look like the owner of another person's adapter."""
        sampled = self.folder / f"{self.sampling_steps}_steps_{self.cases.draws}_draws"
        return sampled / f"{method.replace(':', '-')}-{preset}-{person}.owner"

    def adapter(self, name: str, settings: PersonTraining, case: Case) -> Adapter:
        path = self.folder / f"{name}-{case.person}.safetensors"
        if not path.exists():
            with learning(path) as work:
                photos = list(case.references)
                restorer = self.base_of(settings.method)
                # Pictures of the class are the same for everybody.
                shared, start = self.folder, self.start if name in STARTED else None
                train_identity_adapter(
                    restorer, photos, settings, folder=work, shared=shared, start=start
                ).save(path)
        return load_identity_adapter(path)

    def restored(
        self, case: Case, adapter: Knowledge, gamma: float, restorer: Restorer | None = None
    ) -> Tensor:
        """By the restorer, or by the one that an adapter changes."""
        if restorer is None:
            assert isinstance(adapter, Adapter)
            restorer = self.base_of(adapter.header.method)
        return restore(
            restorer,
            case.lq,
            upscale=1,
            steps=self.sampling_steps,
            seed=case.seed,
            identities=[Identity(adapter, gamma)],
        )

    def neighbour(self, case: Case) -> Case:
        """The next person, under the same preset."""
        return self.case(case.person ^ 1, case.preset)


@contextmanager
def learning(path: Path) -> Iterator[Path]:
    """A folder to train in for the file `path`, beside which the seconds are noted, all tries together."""
    work, note, start = path.with_suffix(".unfinished"), path.with_suffix(".seconds"), time.perf_counter()
    before = float(note.read_text()) if note.exists() else 0.0
    try:
        yield work
    finally:
        note.write_text(f"{before + time.perf_counter() - start:.1f}")
    shutil.rmtree(work, ignore_errors=True)


def lora_of_equal_size(restorer: Restorer, settings: AdapterTraining) -> LoRATraining:
    """The same training of a LoRA with about as many parameters as the blocks have."""
    sites = list(settings.sites) or default_sites(restorer.unet)
    blocks = new_blocks(restorer.unet, sites, 0).values()
    parameters = sum(p.numel() for block in blocks for p in block.parameters())
    per_rank = sum(len(w) + w[0].numel() for w in trained_layers(restorer.unet, "all").values())
    shared = {one.name: getattr(settings, one.name) for one in fields(PersonTraining)}
    return LoRATraining(**shared, rank=max(1, round(parameters / per_rank)), targets="all", lambda_gen=0.0)


def methods_of(learned: Learned, gamma: float) -> dict[str, Method]:
    """All rows by name, at one strength; `other:` rows take the next person's adapter."""
    own = learned.settings
    variants: dict[str, PersonTraining] = {
        "lora": lora_of_equal_size(learned.restorer, own),
        "token": replace(own, blocks=False, gradients="full"),
        "vico": replace(own, gamma=False),
        "pfstorer_no_gen": replace(own, lambda_gen=0.0),
        "pfstorer": own,
        "pfstorer_same": replace(own, reference_timestep="same"),
        "pfstorer_noised": replace(own, reference_timestep="noised"),
    }

    if learned.diffbir:
        variants |= {
            "text_pivot": replace(learned.pivots, pivots="text", steps=learned.pivots.text_steps("both")),
            "model_pivot": replace(
                learned.pivots,
                pivots="model",
                steps=learned.pivots.steps - learned.pivots.text_steps("both"),
            ),
            "dual_pivot": replace(learned.pivots, pivots="both"),
        }

    if learned.start:
        variants |= {"start": replace(own, steps=0), "pfstorer_start": own}

    def personal(name: str, whose: Whose, case: Case) -> Tensor:
        return learned.restored(case, learned.adapter(name, variants[name], whose(case)), gamma)

    def wrong_refs(name: str, case: Case) -> Tensor:
        """Another person's photos as references of the person's own blocks."""
        other = learned.case(case.person + 1000, case.preset)
        latents = Photos.of(learned.restorer, list(other.references)).latents
        return learned.restored(case, replace(own_adapter(name, case), references=latents), gamma)

    def no_refs(name: str, case: Case) -> Tensor:
        adapter = own_adapter(name, case)
        return learned.restored(case, replace(adapter, references=adapter.references[:0]), gamma)

    def own_adapter(name: str, case: Case) -> IdentityAdapter:
        adapter = learned.adapter(name, variants[name], case)
        assert isinstance(adapter, IdentityAdapter)
        return adapter

    def looking(base: Restorer, settings: ReferenceSettings, whose: Whose, case: Case) -> Tensor:
        """Without training: the restorer looks at the photos that others are learned from."""
        references = References.of(base, list(whose(case).references), settings=settings)
        return learned.restored(case, references, gamma, base)

    rows: dict[str, Method] = {}
    for name in ("pfstorer", *(STARTED if learned.start else ())):
        prefix = "" if name == "pfstorer" else f"{name}_"
        rows[f"{prefix}wrong_refs"] = partial(wrong_refs, name)
        rows[f"{prefix}no_refs"] = partial(no_refs, name)
    bases = {"": learned.restorer} | ({"diffbir_": learned.diffbir} if learned.diffbir else {})
    for prefix, whose in (("", itself), ("other:", learned.neighbour)):
        rows |= {f"{prefix}{name}": partial(personal, name, whose) for name in variants}
        for kind, base in bases.items():
            rows |= {f"{prefix}{kind}{n}": partial(looking, base, s, whose) for n, s in LOOKS.items()}
    if learned.diffbir:
        rows["diffbir"] = standard_methods(learned.diffbir, learned.sampling_steps)["base"]
    return {**standard_methods(learned.restorer, learned.sampling_steps), **rows}


def itself(case: Case) -> Case:
    return case


def method_named(learned: Learned, name: str, gamma: float) -> Method:
    """A row; `pfstorer@0.5` is `pfstorer` at that strength.

    Raises:
        ValueError: no such row.
    """
    kind, _, strength = name.partition("@")
    known = methods_of(learned, float(strength) if strength else gamma)
    if kind not in known:
        raise ValueError(f"no method {kind!r}; choose from {', '.join(known)}")
    return known[kind]
