"""What `verify` finds: files of every layout that loads, and each check where what it looks at is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from harness import ROOT
from harness.stand_ins import own
from pfstorer_core import Restorer
from pfstorer_core.checkpoints import layouts
from pfstorer_core.checkpoints.layouts import CLEANER, LAYOUTS
from pfstorer_core.checkpoints.parts import AUTOENCODER, CONTROL, SWINIR, TEXT, UNET
from pfstorer_core.checkpoints.tensors import read_layout
from pfstorer_core.models import SwinIR, SwinIRConfig
from pfstorer_core.personalization import identity
from pfstorer_core.personalization.registry import methods
from pfstorer_core.personalization.training import default_settings, train_identity_adapter
from pfstorer_core.restorers.changes import NO_CHANGES
from pfstorer_core.restorers.diffbir.variants import VARIANTS
from pfstorer_core.restorers.keys import NULL_CONTEXT
from pfstorer_core.training.progress import Progress
from pfstorer_core.verification import Report, Settings, verify
from pfstorer_core.verification import checks as made
from pfstorer_core.verification import given as files
from pfstorer_core.verification import subject as subjects
from pfstorer_core.verification.checks import CHECKS, LAST, PERSON_CHECKS
from pfstorer_core.verification.context import FIGURES, MEAN, STD, looks_trained
from pfstorer_core.verification.pictures import bad_picture, good_picture, likeness, psnr
from pfstorer_core.verification.report import FAILED, NOT_APPLICABLE, PASSED, without_places
from pfstorer_core.verification.settings import NotApplicable
from pfstorer_core.verification.subject import Subject

from . import small
from .small import bare, base_keys, is_autoencoder, is_fusion, select, write

TINY = ROOT / "assets" / "pfstorer_tiny.safetensors"
CPU = Settings(torch.device("cpu"), torch.float32, steps=1)
QUICK = replace(CPU, quick=True)
FILES = [check.name for check in CHECKS if check.quick]
PERSON = [check.name for check in PERSON_CHECKS]
KEPT = "the good picture is kept"
FINITE, RESTORED = "weights finite", "both pictures restored, finite"
PREDICTS = "U-Net predicts what is said of it"

Tensors = Mapping[str, Tensor]


def outcomes(report: Report) -> dict[str, str]:
    return {result.name: result.outcome for result in report.results}


def value(report: Report, name: str) -> str:
    return next(result.value for result in report.results if result.name == name)


@pytest.fixture(scope="module")
def diffbir() -> dict[str, Tensor]:
    """As face_full_v1.ckpt has them."""
    full = small.published(small.small_diffbir())
    torch.manual_seed(2)
    return full | SWINIR.prefixed(SwinIR(SwinIRConfig(12, (2, 1), (2, 3), 4, 2, 8)).state_dict())


def no_vae(tensors: Tensors) -> dict[str, Tensor]:
    return select(tensors, lambda key: not key.startswith((AUTOENCODER.prefix, TEXT.prefix)))


CLR_FACE = small.small_prior()
PRIOR = UNET.prefixed(CLR_FACE.unet.state_dict()) | AUTOENCODER.prefixed(CLR_FACE.autoencoder.state_dict())
PRIOR_STAGE = select(PRIOR, is_autoencoder)
LAID_OUT: dict[str, Callable[[Tensors, Tensors], dict[str, Tensors]]] = {
    "RESTORER": lambda stablesr, _: {"stablesr_000117.ckpt": stablesr},
    "OWN_WEIGHTS": lambda stablesr, _: {
        "v2-1_512.ckpt": select(stablesr, base_keys),
        "stablesr_own.ckpt": select(stablesr, own),
    },
    "MODEL": lambda stablesr, _: {"stablesr.ckpt": stablesr, "stablesr_saved.ckpt": no_vae(stablesr)},
    "CFW": lambda stablesr, _: {
        "stablesr.ckpt": select(stablesr, lambda key: not is_fusion(key)),
        "vqgan_cfw.ckpt": bare(select(stablesr, is_autoencoder)) | small.LOSS,
    },
    "DIFFBIR": lambda _, diffbir: {"face_full_v1.ckpt": diffbir},
    "CONTROL_NETWORK": lambda stablesr, diffbir: {
        "v2-1_512.ckpt": select(stablesr, base_keys),
        "v1_face.ckpt": CONTROL.of(diffbir),
    },
    "DIFFBIR_MODEL": lambda _, diffbir: {
        "face_full_v1.ckpt": diffbir,
        "face_saved.ckpt": select(no_vae(diffbir), lambda key: not key.startswith(SWINIR.prefix)),
    },
    "PRIOR": lambda *_: {"refldm.ckpt": PRIOR},
    "PRIOR_MODEL": lambda *_: {"refldm.ckpt": no_vae(PRIOR), "vqgan.ckpt": bare(PRIOR_STAGE)},
    "FIRST_STAGE": lambda *_: {"refldm.ckpt": PRIOR, "vqgan.ckpt": bare(PRIOR_STAGE) | small.LOSS},
    "CLEANER": lambda _, diffbir: {
        "v1_face_all.ckpt": select(diffbir, lambda key: not key.startswith(SWINIR.prefix)),
        "face_swinir_v1.ckpt": SWINIR.of(diffbir),
    },
}
"""Files of each layout with what makes it a restorer."""


HEADERS = {
    "stablesr": small.HEADER,
    "clr_face": CLR_FACE.header,
    "diffbir": replace(VARIANTS["v1_face"], image_size=32),
}


def put(folder: Path, name: str, tensors: Tensors) -> Path:
    """A file with a header, for pictures of 32 pixels."""
    controlled = any(key.startswith(("control_model.", "zero_convs.")) for key in tensors)
    without_text = layouts.ATTENTION in tensors
    header = HEADERS["diffbir" if controlled else "clr_face" if without_text else "stablesr"]
    return write(folder / f"{name}.safetensors", tensors, header)


def test_there_is_a_case_for_every_layout_that_loads() -> None:
    tried = {getattr(layouts, name).name for name in LAID_OUT} | {layouts.BASE.name}
    assert tried == {layout.name for layout in (*LAYOUTS, CLEANER)}


@pytest.mark.parametrize("name", LAID_OUT)
def test_every_layout_is_restored_with_and_looked_at(
    name: str, tensors: Tensors, diffbir: Tensors, tmp_path: Path
) -> None:
    """Small networks of no size that anybody published learned nothing, which is seen, and only that."""
    contents = LAID_OUT[name](tensors, diffbir)
    report = verify([put(tmp_path, *content) for content in contents.items()], CPU)
    assert getattr(layouts, name).name in report.to_markdown()
    found = outcomes(report)
    of_diffbir = any(fact.startswith("control network:") for file in report.files for fact in file.facts)
    assert found["zero convolutions trained"] == (PASSED if of_diffbir else NOT_APPLICABLE)
    assert found.pop("cleaner keeps the good picture") == (
        FAILED if (of_diffbir and name != "CONTROL_NETWORK") or name == "CLEANER" else NOT_APPLICABLE
    )
    context = "the empty prompt's context"
    assert found[context] == (NOT_APPLICABLE if contents.keys() & {"refldm.ckpt"} else PASSED)
    needed = {*FILES, RESTORED, "U-Net in fp16 near fp32"} - {"zero convolutions trained", context}
    assert {found[each] for each in needed} == {PASSED}
    assert {found[each] for each in (KEPT, PREDICTS, "autoencoder keeps the good picture")} == {FAILED}


ALONE = {
    "v2-1_512.ckpt": ("Stable Diffusion alone cannot restore", PREDICTS),
    "own.ckpt": ("no restorer and no Stable Diffusion", ""),
    "v1_face.ckpt": ("no restorer and no Stable Diffusion", "zero convolutions trained"),
    "vqgan_cfw.ckpt": ("no restorer and no Stable Diffusion", "with CFW, too (fidelity 1)"),
    "fusion.ckpt": ("no restorer and no Stable Diffusion", ""),
    "face_swinir_v1.ckpt": ("no restorer and no Stable Diffusion", "cleaner keeps the good picture"),
}
"""Files that cannot restore: why not, and what is measured all the same."""


@pytest.mark.parametrize("name", ALONE)
def test_what_cannot_restore_is_looked_at_as_far_as_it_goes(
    name: str, tensors: Tensors, diffbir: Tensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subjects, "good_picture", lambda side: good_picture(64))
    monkeypatch.setattr(subjects, "bad_picture", lambda side: bad_picture(64))
    contents = {
        "v2-1_512.ckpt": select(tensors, base_keys),
        "own.ckpt": select(tensors, own),
        "v1_face.ckpt": CONTROL.of(diffbir),
        "vqgan_cfw.ckpt": bare(select(tensors, is_autoencoder)),
        "fusion.ckpt": bare(select(tensors, is_fusion)),
        "face_swinir_v1.ckpt": SWINIR.of(diffbir),
    }
    report = verify([put(tmp_path, name, contents[name])], CPU)
    why, measured = ALONE[name]
    found = outcomes(report)
    assert {found[each] for each in FILES[:3]} == {PASSED}
    assert {found[each] for each in (RESTORED, KEPT, "files belong together")} == {NOT_APPLICABLE}
    assert why in value(report, RESTORED)
    assert not measured or found[measured] != NOT_APPLICABLE


def test_a_cleaner_of_another_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "BSRNet.ckpt", {"model.0.weight": torch.zeros(4, 3, 3, 3)})
    monkeypatch.setattr(subjects, "load_cleaner", lambda *_: lambda picture: picture)
    report = verify([path], CPU)
    assert outcomes(report)["cleaner keeps the good picture"] == PASSED
    assert "a cleaner of another architecture" in report.to_markdown()
    for ruin in (torch.zeros_like, lambda picture: picture + float("nan")):
        monkeypatch.setattr(subjects, "load_cleaner", lambda *_, ruin=ruin: ruin)
        assert outcomes(verify([path], CPU))["cleaner keeps the good picture"] == FAILED


def test_a_cleaner_cleans_for_stablesr_too(diffbir: Tensors, tmp_path: Path) -> None:
    """As `restore --cleaner` does it."""
    restorer = write(tmp_path / "stablesr.safetensors", small.published(small.small_restorer()))
    cleaner = write(tmp_path / "face_swinir_v1.ckpt", SWINIR.of(diffbir))
    subject = Subject([files.read_given(path, lambda: None) for path in (restorer, cleaner)], CPU, print)
    assert subject.restorer(torch.float32).cleaner is not None


@pytest.fixture(scope="module", params=[*methods()])
def person(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A restorer and an adapter of each method that acts, as files."""
    folder = tmp_path_factory.mktemp("person")
    restorer = small.small_diffbir() if request.param == "dual_pivot" else small.small_restorer()
    own_settings: dict[str, Any] = {"class_pictures": 1} if request.param == "dual_pivot" else {}
    settings = replace(
        default_settings(request.param), steps=1, batch=1, pool=1, bf16=False, preview_every=0, **own_settings
    )
    adapter = train_identity_adapter(restorer, [torch.rand(3, 40, 40)], settings)
    shaken = {k: v + 0.15 * torch.randn_like(v) for k, v in adapter.tensors().items()}
    load = methods()[request.param].load
    load(shaken, adapter.header.to_metadata(), "").save(folder / "ada_from_bolton.safetensors")
    stored = small.published(restorer) | {NULL_CONTEXT: restorer.null_context}
    without_text = select(stored, lambda key: not key.startswith(TEXT.prefix))
    write(folder / "base.safetensors", without_text, restorer.header)
    return folder / "base.safetensors", folder / "ada_from_bolton.safetensors"


def test_adapters_of_every_method(person: tuple[Path, Path]) -> None:
    report = verify(person, CPU)
    assert {outcomes(report)[name] for name in PERSON} == {PASSED}
    assert outcomes(report)["the empty prompt's context"] == PASSED
    alone = verify(person[1:], CPU)
    assert {outcomes(alone)[name] for name in PERSON} == {NOT_APPLICABLE}
    assert outcomes(alone)[FINITE] == PASSED


def test_an_adapter_that_does_nothing_or_leaves_something_behind_is_seen(
    person: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def behind(self: identity.Identity, restorer: Restorer) -> Any:
        next(restorer.unet.parameters()).data.add_(0.01)
        return SimpleNamespace(prepare=lambda timestep: NO_CHANGES)

    monkeypatch.setattr(identity.Identity, "bound", behind)
    report = verify(person, CPU)
    assert outcomes(report)["gamma 0 is the base"] == FAILED
    assert not value(report, "gamma 0 is the base").startswith("0 of")
    monkeypatch.setattr(
        identity.Identity, "bound", lambda *_: SimpleNamespace(prepare=lambda timestep: NO_CHANGES)
    )
    report = verify(person, CPU)
    assert outcomes(report)["gamma 0 is the base"] == PASSED
    assert outcomes(report)["gamma 1 changes the picture"] == FAILED


def test_an_adapter_of_another_base(person: tuple[Path, Path], tmp_path: Path) -> None:
    base = (
        small.small_diffbir()
        if "control" in str(read_layout(person[0])[0].keys())
        else small.small_restorer()
    )
    for weight in base.unet.parameters():
        weight.data = weight.data.flip(0)
    stored = small.published(base) | {NULL_CONTEXT: base.null_context}
    other = write(tmp_path / "other.safetensors", stored, base.header)
    report = verify([other, person[1], person[1]], QUICK)
    assert outcomes(report)["adapter belongs to the restorer (file 2)"] == NOT_APPLICABLE
    report = verify([other, person[1]], CPU)
    assert outcomes(report)["adapter belongs to the restorer"] == FAILED
    assert "trained on another base" in value(report, "adapter belongs to the restorer")


def test_weights_that_are_not_finite(
    tensors: Tensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever they lie in the file, and only where a network uses them."""
    broken = dict(tensors)
    key = "model.diffusion_model.out.2.weight"
    broken[key] = broken[key].clone()
    broken[key].flatten()[5] = float("nan")
    buffers = {
        "cond_stage_model.attn_mask": torch.full((2,), -torch.inf),
        "betas": torch.full((2,), torch.nan),
    }
    report = verify([put(tmp_path, "a.ckpt", broken | buffers)], CPU)
    assert outcomes(report)[FINITE] == FAILED
    assert value(report, FINITE).startswith("1 of ")
    assert value(report, FINITE).endswith(key)
    rest = [result for result in report.results if result.name not in FILES]
    assert rest[0].outcome == FAILED
    assert "NaN" in rest[0].value
    assert {result.outcome for result in rest[1:]} == {NOT_APPLICABLE}
    assert "failed above" in rest[1].value
    monkeypatch.setattr(files, "MAPPED", 2**23)
    assert outcomes(verify([write(tmp_path / "a.ckpt", broken)], QUICK))[FINITE] == FAILED
    assert outcomes(verify([write(tmp_path / "b.ckpt", {**tensors, **buffers})], QUICK))[FINITE] == PASSED


def test_what_is_wrong_with_files_is_in_the_report(
    tensors: Tensors, diffbir: Tensors, tmp_path: Path
) -> None:
    (tmp_path / "Ada's secrets").mkdir()
    folder = tmp_path / "Ada's secrets"
    shaped = dict(tensors)
    shaped["model.diffusion_model.out.2.bias"] = torch.zeros(5)
    still = {key: torch.zeros_like(v) if "zero_convs.1" in key else v for key, v in diffbir.items()}
    contents: dict[str, tuple[Tensors, str, str]] = {
        "lovelace.ckpt": (shaped, "names and shapes", "out.2.bias [5] instead of [4]"),
        "bolton.ckpt": (diffbir, "files belong together", "choose the variant (v1_face"),
        "v2_face.ckpt": (still, "zero convolutions trained", "1 of 7 are zero"),
        "lora_|`@x.ckpt": (
            {"input_hint_block.0.weight": torch.zeros(1)},
            "files of known kinds",
            "is a ControlNet, which cannot restore",
        ),
    }
    for name, (stored, check, said) in contents.items():
        report = verify([write(folder / name, stored)], QUICK)
        assert outcomes(report)[check] == FAILED, name
        assert said in value(report, check)
        text = report.to_markdown()
        for secret in ("Ada", "secrets", "lovelace", "bolton", "lora_", str(tmp_path)):
            assert secret not in text
        assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1
    (folder / "torn.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    report = verify([folder / "torn.safetensors"], QUICK)
    assert "file 1 (9 bytes) cannot be read" in report.to_markdown()


def test_folders_and_names_are_taken_out_of_a_text() -> None:
    paths = [Path("/home/ada/a.ckpt"), Path("models/v1.ckpt"), Path("C/v1.ckpt.old")]
    text = without_places(
        "a.ckpt in /home/ada/a.ckpt, v1.ckpt; v1.ckpt.old or /opt/x/y.py: `C:\\U\\ada\\z` 1/2", paths
    )
    assert text == "file 1 in file 1, file 2; file 3 or …: `…` 1/2"
    assert without_places("SwinIR / BSRNet, and/or a.b/c", []) == "SwinIR / BSRNet, and/or a.b/c"


# --- the checks themselves


class Told(Subject):
    """A subject of which everything is told."""

    def __init__(self, **facts: Any) -> None:
        super().__init__([], CPU, lambda progress: None)
        self.facts = facts

    def seen(self, which: str) -> Tensor:
        return good_picture(64) if which == "good" else bad_picture(64)

    def restored(self, which: str) -> Tensor:
        return self.facts[which]

    def predictions(self, dtype: torch.dtype) -> list[Tensor]:
        return self._fact(self.facts["predictions"][dtype])

    def decoded(self, dtype: torch.dtype) -> Tensor:
        return self._fact(self.facts["decoded"][dtype])

    def _fact(self, fact: Any) -> Any:
        if isinstance(fact, Exception):
            raise fact
        return fact

    @property
    def text(self) -> dict[str, Tensor]:
        return self.facts["text"]

    @property
    def stored_context(self) -> Tensor | None:
        return self.facts["stored"]

    @property
    def computed_context(self) -> Tensor:
        return self.facts["computed"]


def pictures(good: Tensor | None = None, bad: Tensor | None = None) -> Told:
    told = Told()
    enlarged = torch.nn.functional.interpolate(told.seen("bad"), scale_factor=4)
    told.facts = {
        "good": told.seen("good") if good is None else good,
        "bad": enlarged if bad is None else bad,
    }
    return told


def test_a_restorer_that_ruins_a_good_picture_is_seen() -> None:
    good = good_picture(64)
    noise = torch.rand(good.shape, generator=torch.Generator().manual_seed(0))
    assert made.good_stays(pictures()).holds
    assert made.good_stays(pictures(good * 0.9 + 0.05)).holds, "a tint is no ruin"
    assert not made.good_stays(pictures(good + 0.3)).holds, "but a burnt picture is one"
    for ruined in (noise, good.flip(-2), torch.full_like(good, 0.5), 0.35 * good + 0.65 * noise):
        assert not made.good_stays(pictures(ruined)).holds
        assert not made.bad_stays_itself(pictures(bad=ruined)).holds
    assert made.bad_stays_itself(pictures()).holds
    blotches = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    blotched = (good + 0.16 * torch.nn.functional.interpolate(blotches, size=64)).clamp(0, 1)
    assert psnr(blotched, good) > made.KEPT_DB
    assert not made.good_stays(pictures(blotched)).holds, "it shows something else"


def test_the_same_picture_whatever_is_seen() -> None:
    assert made.sees_its_picture(pictures()).holds
    same = good_picture(64)
    assert not made.sees_its_picture(pictures(same, same)).holds
    between = 0.4 * same + 0.6 * pictures().facts["bad"]
    assert likeness(between, same) > 0 < likeness(between, bad_picture(64))
    assert not made.sees_its_picture(pictures(between, between)).holds
    other = pictures()
    assert not made.sees_its_picture(pictures(other.facts["bad"], other.facts["good"])).holds


def test_pictures_that_are_not_finite() -> None:
    assert made.restores(pictures()).holds
    assert not made.restores(pictures(bad=torch.full((1, 3, 4, 4), torch.inf))).holds


def test_pictures_come_along_and_are_two() -> None:
    assert good_picture(512).shape == (1, 3, 512, 512)
    assert bad_picture(512).shape == (1, 3, 128, 128)
    assert likeness(good_picture(128), bad_picture(512)) < 0.5
    assert psnr(good_picture(128), good_picture(128) + 0.1) == pytest.approx(20, abs=0.5)


@pytest.mark.parametrize(("apart", "outcome"), [(0.01, True), (0.1, False), (float("inf"), False)])
def test_fp16_near_fp32(apart: float, outcome: bool) -> None:
    exact = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    told = Told(
        predictions={torch.float32: [exact, exact], torch.float16: [exact, exact * (1 + apart)]},
        decoded={torch.float32: torch.zeros(1, 3, 4, 4), torch.float16: torch.full((1, 3, 4, 4), apart)},
    )
    assert made.near_in_fp16(told).holds is outcome
    assert made.decodes_in_fp16(told).holds is outcome


def test_a_device_without_fp16_says_so() -> None:
    refused = RuntimeError("\"slow_conv2d_cpu\" not implemented for 'Half'")
    told = Told(predictions={torch.float32: [torch.ones(1)], torch.float16: refused})
    with pytest.raises(NotApplicable, match="does not calculate in fp16"):
        made.near_in_fp16(told)
    told.facts["predictions"][torch.float16] = RuntimeError("shapes differ")
    with pytest.raises(RuntimeError, match="shapes differ"):
        made.near_in_fp16(told)


def tower(positions: Tensor) -> dict[str, Tensor]:
    """Of Stable Diffusion 2.1's size, of which only shapes and positions count."""
    from pfstorer_core.models import TextTowerConfig

    shapes = TEXT.expected(TextTowerConfig())
    return {key: value for key, value in shapes.items()} | {"model.positional_embedding": positions}


def known_context() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    context = torch.randn(1, 77, 1024, generator=generator)
    context = (context - context.mean()) / context.std() * STD + MEAN
    for row, figures in FIGURES.items():
        context[0, row, : len(figures)] = torch.tensor(figures)
    return context


def test_the_empty_prompt_s_context_has_the_figures_that_are_known() -> None:
    smooth = torch.linspace(0, 1, 77)[:, None] + torch.ones(77, 1024)
    drawn = torch.randn(77, 1024, generator=torch.Generator().manual_seed(1))
    assert looks_trained(tower(smooth))
    assert not looks_trained(tower(drawn))
    assert sum(sum(figures) for figures in FIGURES.values()) == pytest.approx(-4.6896, abs=1e-5)
    right, told = known_context(), Told(text=tower(smooth), stored=None)
    told.facts["computed"] = right
    assert made.empty_prompt(told).holds
    wrong: dict[str, Callable[[Tensor], Tensor]] = {
        "rows": lambda c: c.roll(1, 1),
        "scale": lambda c: 1.2 * c,
        "drawn": lambda c: torch.randn(c.shape, generator=torch.Generator().manual_seed(2)),
    }
    for what, change in wrong.items():
        told.facts["computed"] = change(right)
        if what == "scale":
            with pytest.raises(NotApplicable, match="trained further"):
                made.empty_prompt(told)
            continue
        assert not made.empty_prompt(told).holds, what
        with pytest.raises(NotApplicable, match="random weights"):
            made.empty_prompt(Told(text=tower(drawn), stored=None, computed=told.facts["computed"]))
    shifted = right.clone()
    shifted[0, 76, 3] += 0.06
    told.facts["computed"] = shifted
    with pytest.raises(NotApplicable, match=r"differs by 0\.06"):
        made.empty_prompt(told)
    told.facts |= {"computed": right, "stored": right + 0.1}
    assert "the stored one differs by 0.1" in made.empty_prompt(told).value
    assert not made.empty_prompt(told).holds
    assert made.empty_prompt(Told(text={}, stored=right)).holds
    with pytest.raises(NotApplicable, match="neither a text tower"):
        made.empty_prompt(Told(text={}, stored=None))
    assert "no figures" in made.empty_prompt(Told(text={}, stored=torch.ones(1, 2, 64))).value
    assert not made.empty_prompt(Told(text={}, stored=torch.full((1, 2, 64), torch.nan))).holds


def test_another_prediction_type_is_seen_and_told() -> None:
    for kind, holds in (("v", True), ("eps", False)):
        settings = replace(CPU, prediction_type=kind)
        given = [files.read_given(TINY)]
        measured = made.predicts(Subject(given, settings, lambda progress: None))
        assert measured.holds is holds
        assert ("it predicts v, say so by --prediction-type" in measured.value) is not holds


# --- running


def test_it_can_be_stopped_at_every_step(tensors: Tensors, tmp_path: Path) -> None:
    """Also by an exception that a check would take for its own."""
    path = put(tmp_path, "stablesr.ckpt", tensors)
    told: list[Progress] = []
    verify([path], CPU, told.append)
    stages = dict.fromkeys(progress.stage for progress in told)
    assert [*stages] == [
        "files", "checks", "predictions, float32", "the good picture", "the bad picture",
        "predictions, float16",
    ]  # fmt: skip
    for stage in ("files", "checks", "the good picture"):

        def stop(progress: Progress, stage: str = stage) -> None:
            if progress.stage == stage:
                raise ValueError(f"stopped at {stage}")

        with pytest.raises(ValueError, match=f"stopped at {stage}"):
            verify([path], CPU, stop)


def test_short_memory_is_no_fault_of_the_files(
    tensors: Tensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(subjects, "load_restorer", full)
    report = verify([put(tmp_path, "stablesr.ckpt", tensors)], CPU)
    assert not report.failed
    assert "not enough memory" in value(report, "autoencoder keeps the good picture")


def test_wrong_requests_are_refused_before_any_work(tensors: Tensors, tmp_path: Path) -> None:
    path = write(tmp_path / "a.ckpt", tensors)
    with pytest.raises(ValueError, match="name a file"):
        verify([], CPU)
    with pytest.raises(ValueError, match="steps must be 1 or more"):
        verify([path], replace(CPU, steps=0))
    with pytest.raises(ValueError, match="several restorers"):
        verify([path, path], QUICK)
    with pytest.raises(FileNotFoundError, match=r"none\.ckpt"):
        verify([tmp_path / "none.ckpt"], QUICK)


def test_quick_uses_no_network(tensors: Tensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subjects, "load_restorer", lambda *_, **__: pytest.fail("it was loaded"))
    report = verify([put(tmp_path, "stablesr.ckpt", tensors)], QUICK)
    left_out = {result.name for result in report.results if result.value == "left out by --quick"}
    assert left_out == {check.name for check in (*CHECKS, *LAST) if not check.quick}
    assert "5 checks passed" in report.to_markdown()
