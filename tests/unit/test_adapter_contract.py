"""What an adapter of any method keeps to, on every kind of small restorer; and that a method is a folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import pfstorer_core as pf
from harness import ROOT
from pfstorer_core import Identity, IdentityAdapter, Restorer, load_identity_adapter, load_restorer
from pfstorer_core import personalization as folder_of_methods
from pfstorer_core.checkpoints.errors import CheckpointError
from pfstorer_core.checkpoints.reading import read_metadata
from pfstorer_core.checkpoints.tensors import read_checkpoint
from pfstorer_core.diffusion.schedule import Schedule
from pfstorer_core.models import Autoencoder
from pfstorer_core.personalization.base import Adapter
from pfstorer_core.personalization.header import FIRST_METHOD, HEADER_ENTRY
from pfstorer_core.personalization.objective import PersonTraining
from pfstorer_core.personalization.registry import methods
from pfstorer_core.personalization.training import default_settings, run_key, train_identity_adapter
from pfstorer_core.restorers.changes import Changes
from pfstorer_core.training.progress import Progress

from .small import VQ, small_diffbir, small_prior, small_restorer

TOY = "toy"
NAMES = sorted([*methods(), TOY])
KINDS = ("eps", "v", "control", "prior")
"""Restorers: StableSR's of two predictions, DiffBIR's, and CLR-Face's, which reads no text."""
READS_TEXT = ("dual_pivot",)
"""Methods that need one."""
COMMON = {"steps": 3, "batch": 1, "pool": 2, "lr": 1e-2, "bf16": False, "preview_every": 0}
"""Settings that every method has."""
OWN: dict[str, dict[str, Any]] = {"dual_pivot": {"class_pictures": 1}}
"""What would take long, by the methods that have it."""

SEEN = 0.001
"""The least change of a picture that a test looks at."""
NOWHERE = {1: 0.0, 2: 0.0, 4: 0.0}
"""Factors of a U-Net with three levels."""
LQ = torch.rand(1, 3, 8, 12, generator=torch.Generator().manual_seed(2))


class Stopped(BaseException):
    """As ComfyUI's own interruption, which is no Exception."""


@dataclass(frozen=True, eq=False)
class Case:
    """An adapter of a method, that acts, and the restorer that it was trained on.

    Attributes:
        base: what the restorer makes of `LQ` without it.
        acted: and with it.
    """

    restorer: Restorer
    adapter: Adapter
    base: Tensor
    acted: Tensor


@pytest.fixture(scope="module", autouse=True)
def toy() -> Iterator[None]:
    """The toy is a method for as long as its folder is among those that are searched."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            folder_of_methods,
            "__path__",
            [*folder_of_methods.__path__, str(Path(__file__).parent / "toy_methods")],
        )
        yield
    sys.modules.pop(f"{folder_of_methods.__name__}.{TOY}", None)
    if hasattr(folder_of_methods, TOY):
        delattr(folder_of_methods, TOY)


@pytest.fixture(scope="module")
def photos() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, side, side + 8, generator=generator) for side in (40, 56)]


@pytest.fixture(
    scope="module",
    params=[(name, kind) for kind in KINDS for name in NAMES if kind != "prior" or name not in READS_TEXT],
    ids="-".join,
)
def case(request: pytest.FixtureRequest, photos: list[Tensor]) -> Case:
    name, kind = request.param
    restorer = restorer_of(kind)
    before = state(restorer)
    adapter = perturbed(train_identity_adapter(restorer, photos, settings(name)), 3)
    assert unchanged(restorer, before), "the training changes the restorer"
    return Case(restorer, adapter, restored(restorer), restored(restorer, Identity(adapter)))


def restorer_of(kind: str) -> Restorer:
    if kind == "control":
        return small_diffbir()
    if kind == "prior":
        # Not to the entries of a codebook, between which pictures jump.
        return replace(small_prior(), autoencoder=Autoencoder(replace(VQ, codebook=0)).eval())
    small = small_restorer()
    return replace(small, header=replace(small.header, prediction_type=kind))


def settings(method: str) -> PersonTraining[Any]:
    return replace(default_settings(method), **COMMON, **OWN.get(method, {}))


def perturbed(adapter: Adapter, seed: int) -> Adapter:
    """With weights that act, whatever its method calls them."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: value + 0.15 * torch.randn(value.shape, generator=generator)
        for name, value in adapter.tensors().items()
    }
    return methods()[adapter.header.method].load(tensors, adapter.header.to_metadata(), "perturbed")


def restored(restorer: Restorer, *identities: Identity) -> Tensor:
    return pf.restore(restorer, LQ, upscale=4, steps=2, identities=identities, color_fix="none")


def first_x0(restorer: Restorer, *identities: Identity) -> Tensor:
    """What the first step takes the clean latent for [1, C, 8, 12], without DiffBIR's padding."""
    seen: list[Tensor] = []
    pf.restore(restorer, LQ, upscale=4, steps=2, identities=identities, on_step=lambda s: seen.append(s.x0))
    return seen[0][..., :8, :12]


def state(restorer: Restorer) -> dict[str, Tensor]:
    networks = {"unet": restorer.unet, "autoencoder": restorer.autoencoder, "text": restorer.text}
    return {
        f"{part}.{key}": value.clone()
        for part, network in networks.items()
        if network is not None
        for key, value in network.state_dict().items()
    }


def unchanged(restorer: Restorer, before: dict[str, Tensor]) -> bool:
    now = state(restorer)
    return now.keys() == before.keys() and all(torch.equal(now[key], before[key]) for key in before)


def same_tensors(one: Adapter, other: Adapter) -> bool:
    a, b = one.tensors(), other.tensors()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def size(change: Tensor) -> float:
    return float(change.abs().max())


def test_it_acts_and_without_it_the_base_is_as_it_was(case: Case) -> None:
    assert size(case.acted - case.base) > SEEN, "it does nothing: all tests here are blind"
    before, tensors = state(case.restorer), deepcopy(case.adapter.tensors())
    again = restored(case.restorer, Identity(case.adapter))
    assert torch.equal(again, case.acted), "two times are not the same"
    assert torch.equal(restored(case.restorer), case.base)
    assert torch.equal(restored(case.restorer, Identity(case.adapter, 0.0)), case.base)
    assert unchanged(case.restorer, before)
    assert all(torch.equal(value, tensors[key]) for key, value in case.adapter.tensors().items())


def test_strength_goes_from_the_base_on(case: Case) -> None:
    half, double = (restored(case.restorer, Identity(case.adapter, gamma)) for gamma in (0.5, 2.0))
    faint = restored(case.restorer, Identity(case.adapter, 1e-4))
    assert size(faint - case.base) < 0.1 * size(case.acted - case.base)
    assert min(size(half - other) for other in (case.base, case.acted)) > SEEN / 10
    assert min(size(double - other) for other in (case.base, case.acted)) > SEEN / 10


def test_factors_of_0_everywhere_are_the_base(case: Case) -> None:
    assert torch.equal(restored(case.restorer, Identity(case.adapter, factors=NOWHERE)), case.base)
    ones = dict.fromkeys(NOWHERE, 1.0)
    assert torch.equal(restored(case.restorer, Identity(case.adapter, factors=ones)), case.acted)


def test_its_kinds_are_what_it_changes(case: Case) -> None:
    changes = case.adapter.bind(case.restorer.unet, case.restorer.schedule).prepare(500)
    kinds = {kind for kind in ("sites", "weights", "guidance") if getattr(changes, kind)}
    kinds |= set() if changes.context is None else {"context"}
    unread = set() if case.restorer.null_context.numel() else {"context"}
    assert kinds == case.adapter.kinds - unread
    assert isinstance(changes, Changes)


def test_its_file_is_the_same_person(case: Case, tmp_path: Path) -> None:
    file = tmp_path / "person.safetensors"
    case.adapter.save(file)
    loaded = load_identity_adapter(file)
    assert type(loaded) is type(case.adapter)
    assert loaded.header == case.adapter.header
    assert {value.dtype for value in loaded.tensors().values()} == {torch.float32}
    again = restored(case.restorer, Identity(loaded))
    assert size(again - case.acted) < 0.05 * size(case.acted - case.base)


def test_another_base_is_refused(case: Case) -> None:
    torch.manual_seed(9)
    unet = deepcopy(case.restorer.unet)
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    other = replace(case.restorer, unet=unet)
    with pytest.raises(ValueError, match="trained on another base") as refused:
        restored(other, Identity(case.adapter))
    assert case.restorer.fingerprint in str(refused.value)
    assert other.fingerprint in str(refused.value)


def test_an_area_changes_its_part_and_not_the_rest(case: Case) -> None:
    """Of the first step's clean latent, whose rest is still the base's: later steps and the decoder look at
    the whole picture."""
    half, none, full = torch.zeros(1, 1, 8, 12), torch.zeros(1, 1, 8, 12), torch.ones(1, 1, 8, 12)
    half[..., :6] = 1
    adapter = case.adapter
    base, *found = (
        first_x0(case.restorer, *people)
        for people in ([], *([Identity(adapter, area=a)] for a in (half, none, full)))
    )
    left, nowhere, whole = found
    changed = left[..., :5] - base[..., :5]
    torch.testing.assert_close(changed, whole[..., :5] - base[..., :5], rtol=0, atol=1e-4)
    assert size(changed) > SEEN
    torch.testing.assert_close(left[..., 7:], base[..., 7:], rtol=0, atol=1e-5)
    torch.testing.assert_close(nowhere, base, rtol=0, atol=1e-5)


def test_bf16_is_a_copy(case: Case) -> None:
    tensors = deepcopy(case.adapter.tensors())
    small = case.restorer
    other = replace(
        small,
        unet=deepcopy(small.unet).bfloat16(),
        autoencoder=deepcopy(small.autoencoder).bfloat16(),
        null_context=small.null_context.bfloat16(),
    )
    moved = case.adapter.to("cpu", torch.bfloat16)
    assert type(moved) is type(case.adapter)
    assert moved.header == case.adapter.header
    found, base = restored(other, Identity(moved)), restored(other)
    assert torch.equal(found, restored(other, Identity(case.adapter)))
    assert size(found - base) > SEEN
    now = case.adapter.tensors()
    assert all(now[key].dtype == torch.float32 and torch.equal(now[key], tensors[key]) for key in tensors)


def test_two_at_once_act_both_in_any_order(case: Case) -> None:
    one, two = Identity(case.adapter), Identity(perturbed(case.adapter, 4), 0.5)
    both = restored(case.restorer, one, two)
    for single in (case.acted, restored(case.restorer, two)):
        assert size(both - single) > SEEN
    torch.testing.assert_close(restored(case.restorer, two, one), both, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("name", "kind"), [*((name, "v") for name in NAMES), ("dual_pivot", "control")])
def test_a_training_that_was_stopped_goes_on(
    name: str, kind: str, photos: list[Tensor], tmp_path: Path
) -> None:
    restorer = restorer_of(kind)

    def stop(progress: Progress) -> None:
        if progress.step == 2:
            raise Stopped

    steps: list[int] = []
    how = settings(name)
    whole = train_identity_adapter(restorer, photos, how)
    with pytest.raises(Stopped):
        train_identity_adapter(restorer, photos, how, folder=tmp_path, on_progress=stop)
    parts = train_identity_adapter(
        restorer, photos, how, folder=tmp_path, on_progress=lambda p: steps.append(p.step)
    )
    assert steps == [2, 3]
    assert parts.header == whole.header
    assert same_tensors(parts, whole)
    header = whole.header
    assert (header.method, header.steps, len(header.losses)) == (name, 3, 3)
    assert (header.base, header.prediction_type) == (restorer.fingerprint, restorer.header.prediction_type)
    assert header.run_key == run_key(restorer.fingerprint, photos, how)
    longer = replace(how, steps=5)
    further = train_identity_adapter(restorer, photos, longer, begun=whole)
    assert (further.header.steps, further.header.losses[:3]) == (5, header.losses)
    assert not same_tensors(further, whole), "steps learn nothing"


def test_run_keys_of_methods_differ(photos: list[Tensor]) -> None:
    @dataclass(frozen=True)
    class One(PersonTraining[Any]):
        method: ClassVar[str] = "one"

    @dataclass(frozen=True)
    class Two(PersonTraining[Any]):
        method: ClassVar[str] = "two"

    @dataclass(frozen=True)
    class First(PersonTraining[Any]):
        method: ClassVar[str] = FIRST_METHOD

    tried: Sequence[PersonTraining[Any]] = [One(), Two(), First(), *map(settings, NAMES)]
    assert len({run_key("0" * 16, photos, each) for each in tried}) == len(tried)


@pytest.fixture
def written(case: Case, tmp_path: Path) -> tuple[Path, dict[str, str]]:
    file = tmp_path / "person.safetensors"
    case.adapter.save(file)
    return file, dict(read_metadata(file))


def with_header(file: Path, metadata: dict[str, str], **changed: str) -> Path:
    tensors, _ = read_checkpoint(file)
    header = {**json.loads(metadata[HEADER_ENTRY]), **changed}
    save_file(tensors, file.with_name("other.safetensors"), {**metadata, HEADER_ENTRY: json.dumps(header)})
    return file.with_name("other.safetensors")


def test_what_is_not_known_is_refused(case: Case, written: tuple[Path, dict[str, str]]) -> None:
    file, metadata = written
    assert load_identity_adapter(with_header(file, metadata)).header == case.adapter.header
    with pytest.raises(
        CheckpointError, match=r"other\.safetensors is of the method 'nobody', which is not"
    ) as no:
        load_identity_adapter(with_header(file, metadata, method="nobody"))
    assert all(name in str(no.value) for name in (*NAMES, "update the pack"))
    with pytest.raises(CheckpointError, match=r"other\.safetensors.*method"):
        load_identity_adapter(with_header(file, metadata, method="../nobody"))
    newer = {**metadata, "format_version": "99"}
    with pytest.raises(CheckpointError, match=r"made by a newer PFStorer.*format 99.*update the pack"):
        load_identity_adapter(with_header(file, newer))


def test_a_file_that_names_no_method_is_of_the_first(tmp_path: Path) -> None:
    """As all did before there were others."""
    tensors, metadata = read_checkpoint(ROOT / "assets" / "identity_adapters" / "drawn_person.safetensors")
    header = json.loads(metadata[HEADER_ENTRY])
    del header["method"]
    file = tmp_path / "old.safetensors"
    save_file(tensors, file, {**metadata, HEADER_ENTRY: json.dumps(header)})
    adapter = load_identity_adapter(file)
    assert isinstance(adapter, IdentityAdapter)
    assert adapter.header.method == FIRST_METHOD == "pfstorer"


def test_a_restorer_of_before_is_what_all_were_then() -> None:
    file = ROOT / "assets" / "pfstorer_tiny.safetensors"
    fields = json.loads(read_metadata(file)["restorer"])
    assert not {"architecture", "beta_start", "start", "condition"} & fields.keys(), "the test is blind"
    restorer = load_restorer(file)
    header = restorer.header
    assert (header.architecture, header.start, header.condition) == ("stablesr", "lq", "sft")
    assert (header.beta_schedule, header.size_rule) == ("scaled_linear", "tiled")
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2  # Stable Diffusion's
    torch.testing.assert_close(restorer.schedule.betas.double(), betas, rtol=1e-4, atol=1e-9)
    assert isinstance(restorer.schedule, Schedule)


def test_a_method_is_a_folder() -> None:
    assert methods()[TOY].title == "Toy"
    assert type(settings(TOY)).__module__ == f"{folder_of_methods.__name__}.{TOY}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder_of_methods, "__path__", list(folder_of_methods.__path__)[:-1])
        assert TOY not in methods()
