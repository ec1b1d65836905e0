"""The checks: what is measured of the files, and what it must be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from ..checkpoints.layouts import CLEANER
from ..checkpoints.parts import CONTROL, TEXT
from ..checkpoints.tensors import read_layout
from ..checkpoints.words import first_keys
from ..models import TextTowerConfig
from .context import ALIKE, SHAPE, TOLERANCE, differences, looks_trained
from .given import UNKNOWN, GivenFile, not_finite
from .pictures import likeness, psnr
from .settings import NotApplicable
from .subject import Subject

KEPT_DB, KEPT_LIKENESS = 16.0, 0.9
"""A restorer that works keeps a good picture far better, in a few steps and without a colour fix, too; one
that predicts something else than its header says, or does not see the picture, is below both."""
ROUND_TRIP_DB = 22.0
CLEANED_DB = 20.0
UNEXPLAINED = 0.5
"""Share of the target's energy that a prediction may miss; networks that learned nothing are at 1 or more."""
FP16_ERROR, FP16_DB = 0.05, 30.0


@dataclass(frozen=True)
class Measured:
    """What was found, in words, and whether it is as it must be."""

    value: str
    holds: bool


T = TypeVar("T")


@dataclass(frozen=True)
class Check(Generic[T]):
    """One thing that must hold.

    Attributes:
        limit: what must hold, in words.
        measure: finds it out; raises `NotApplicable`, and anything else where it does not hold.
        quick: needs no picture to be restored.
    """

    name: str
    limit: str
    measure: Callable[[T], Measured]
    quick: bool = False


@dataclass(frozen=True)
class Person:
    """An adapter among the files of a subject."""

    subject: Subject
    file: GivenFile


# --- files


def known(s: Subject) -> Measured:
    unknown = [file.kind for file in s.files if file.role == UNKNOWN]
    return Measured("; ".join(unknown) or f"{len(s.files)} of {len(s.files)}", not unknown)


def fitting(s: Subject) -> Measured:
    faults = [fault for file in s.files for fault in file.faults]
    return Measured("; ".join(faults) or "all as the architectures have them", not faults)


def finite_weights(s: Subject) -> Measured:
    count, wrong = 0, list[str]()
    for file in s.files:
        if file.role != UNKNOWN:
            looked_at, found = not_finite(file.path)
            count, wrong = count + looked_at, wrong + found
    said = f"{len(wrong)} of {count} are not: {first_keys(wrong)}" if wrong else f"all of {count} tensors"
    return Measured(said, not wrong)


def joined(s: Subject) -> Measured:
    header = s.opened.header
    said = f"{header.architecture} {header.variant}".strip()
    return Measured(f"{said}, predicts {header.prediction_type}, {header.image_size} pixels", True)


def zero_convolutions(s: Subject) -> Measured:
    last = [value for file in s.files if file.layout for value in _zero_convolutions(file)]
    if not last:
        raise NotApplicable("no control network among the files")
    still = sum(not value.any() for value in last)
    return Measured(f"{still} of {len(last)} are zero", not still)


def _zero_convolutions(file: GivenFile) -> list[Tensor]:
    weights = CONTROL.of(read_layout(file.path, (CLEANER,))[0])
    names = ("zero_convs.", "middle_block_out.")
    return [value for key, value in weights.items() if key.startswith(names) and key.endswith(".weight")]


def empty_prompt(s: Subject) -> Measured:
    text, stored = s.text, s.stored_context
    if not text and stored is None:
        raise NotApplicable("neither a text tower nor a stored context in the checkpoint")
    context = s.computed_context if text else stored
    assert context is not None
    if text and stored is not None:
        apart = float((context - stored.float()).abs().max())
        if apart > TOLERANCE:
            return Measured(f"the stored one differs by {apart:.3g} from the text tower's", False)
    if tuple(context.shape) != SHAPE or (text and TEXT.config_from(text) != TextTowerConfig()):
        return Measured(f"finite, {list(context.shape)}; not of SD 2.1's size: no figures", _finite(context))
    apart, correlation = differences(context)
    said = f"differs by {apart:.3g}, correlation {correlation:.3f}"
    if apart <= TOLERANCE:
        return Measured(said, True)
    if correlation >= ALIKE:
        raise NotApplicable(f"{said}: near SD 2.1's, so of a text tower that was trained further")
    if not (looks_trained(text) if text else correlation > 0.5):
        raise NotApplicable(f"{said}: not of SD 2.1's text tower, or of random weights")
    return Measured(said, False)


# --- networks


def round_trip(s: Subject) -> Measured:
    return _kept(s, 0.0)


def round_trip_with_cfw(s: Subject) -> Measured:
    if not s.autoencoder.config.cfw:
        raise NotApplicable("no CFW layers among the files")
    return _kept(s, 1.0)


@torch.no_grad()
def _kept(s: Subject, fidelity: float) -> Measured:
    network, good = s.autoencoder, s.seen("good")
    weight = next(network.parameters())
    seen = (2 * good - 1).to(weight)
    decoded = network.decode(network.encode(seen), seen if fidelity else None, fidelity)
    found = psnr((decoded.float().cpu() + 1) / 2, good)
    return Measured(_decibels(found), _finite(decoded) and found >= ROUND_TRIP_DB)


def cleaned(s: Subject) -> Measured:
    clean, good = s.cleaner, s.seen("good")
    kept, bad = clean(good), clean(s.seen("bad"))
    found = psnr(kept, good)
    return Measured(_decibels(found), _finite(kept) and _finite(bad) and found >= CLEANED_DB)


def predicts(s: Subject) -> Measured:
    found = s.predictions(s.settings.dtype)
    restorer = s.restorer(s.settings.dtype)
    z, own = s.latent().to(s.settings.device), restorer.header.prediction_type
    missed = {"eps": 0.0, "v": 0.0}
    for kind in ("eps", "v"):
        for prediction, (_, t, noise) in zip(found, s.asked(restorer), strict=True):
            target = restorer.schedule.target(z, t, noise, kind)
            missed[kind] = max(missed[kind], _relative(prediction, target) ** 2)
    other = "v" if own == "eps" else "eps"
    said = f"misses {own} by {missed[own]:.3f}"
    if missed[own] > UNEXPLAINED >= missed[other]:
        said += f", and {other} by {missed[other]:.3f}: it predicts {other}, say so by --prediction-type"
    return Measured(said, missed[own] <= UNEXPLAINED)


def near_in_fp16(s: Subject) -> Measured:
    halves, singles = _both(s, s.predictions)
    found = max(_relative(half, single) for half, single in zip(halves, singles, strict=True))
    return Measured(f"{100 * found:.2g} %", found <= FP16_ERROR)


def decodes_in_fp16(s: Subject) -> Measured:
    half, single = _both(s, s.decoded)
    found = psnr(half, single)
    return Measured(_decibels(found), _finite(half) and found >= FP16_DB)


def _both(s: Subject, made: Callable[[torch.dtype], T]) -> tuple[T, T]:
    """In fp16 and in fp32, what is in memory first."""
    found = {}
    for dtype in sorted((torch.float16, torch.float32), key=lambda dtype: dtype is not s.at_hand):
        try:
            found[dtype] = made(dtype)
        except RuntimeError as error:
            if dtype is torch.float16 and "not implemented" in str(error):
                raise NotApplicable("this device does not calculate in fp16") from error
            raise
    return found[torch.float16], found[torch.float32]


# --- restorations


def restores(s: Subject) -> Measured:
    """`restore` raises where a prediction or the result is not finite."""
    pictures = [s.restored(which) for which in ("good", "bad")]
    return Measured("all values", all(map(_finite, pictures)))


def good_stays(s: Subject) -> Measured:
    restored, good = s.restored("good"), s.seen("good")
    decibels, alike = psnr(restored, good), likeness(restored, good)
    return Measured(
        f"{_decibels(decibels)}, likeness {alike:.2f}", decibels >= KEPT_DB and alike >= KEPT_LIKENESS
    )


def bad_stays_itself(s: Subject) -> Measured:
    alike = likeness(s.restored("bad"), s.seen("bad"))
    return Measured(f"likeness {alike:.2f}", alike >= KEPT_LIKENESS)


def sees_its_picture(s: Subject) -> Measured:
    good, bad = s.restored("good"), s.restored("bad")
    own = min(likeness(good, s.seen("good")), likeness(bad, s.seen("bad")))
    other = max(likeness(good, s.seen("bad")), likeness(bad, s.seen("good")))
    return Measured(f"{own:.2f} against {other:.2f}", own > other)


# --- people


def belongs(person: Person) -> Measured:
    restorer = person.subject.restorer(person.subject.settings.dtype)
    adapter = person.subject.adapter(person.file)
    adapter.check_base(restorer.fingerprint)
    adapter.check_fit(restorer.unet, restorer.header.image_size)
    return Measured("it fits" + ("" if adapter.header.base else ", and does not say its base"), True)


def acts(person: Person) -> Measured:
    acted, base = person.subject.acted(person.file, 1.0), person.subject.restored("bad")
    return Measured(f"differs by {float((acted - base).abs().mean()):.2g}", not torch.equal(acted, base))


def gamma_zero(person: Person) -> Measured:
    """After it has acted, so that what it may have left behind is seen, too."""
    base = person.subject.restored("bad")
    _ = person.subject.acted(person.file, 1.0)
    apart = (person.subject.acted(person.file, 0.0) - base).abs()
    return Measured(f"{int((apart > 0).sum())} of {apart.numel()} values differ", not apart.any())


def _finite(values: Tensor) -> bool:
    return bool(values.isfinite().all())


def _relative(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected.float()).norm() / expected.float().norm())


def _decibels(value: float) -> str:
    return f"{value:.1f} dB"


CHECKS: tuple[Check[Subject], ...] = (
    Check("files of known kinds", "all", known, quick=True),
    Check("names and shapes", "as the architectures have them", fitting, quick=True),
    Check("weights finite", "all", finite_weights, quick=True),
    Check("files belong together", "one restorer", joined, quick=True),
    Check("zero convolutions trained", "none is zero", zero_convolutions, quick=True),
    Check("the empty prompt's context", f"SD 2.1's figures within {TOLERANCE:g}", empty_prompt, quick=True),
    Check("autoencoder keeps the good picture", f"{ROUND_TRIP_DB:g} dB", round_trip),
    Check("with CFW, too (fidelity 1)", f"{ROUND_TRIP_DB:g} dB", round_trip_with_cfw),
    Check("cleaner keeps the good picture", f"{CLEANED_DB:g} dB", cleaned),
    Check("U-Net predicts what is said of it", f"misses at most {UNEXPLAINED:g} of it", predicts),
    Check("both pictures restored, finite", "all values", restores),
    Check("the good picture is kept", f"{KEPT_DB:g} dB, likeness {KEPT_LIKENESS:g}", good_stays),
    Check("the bad one still shows the same", f"likeness {KEPT_LIKENESS:g}", bad_stays_itself),
    Check("each is more like itself than like the other", "likeness", sees_its_picture),
)
PERSON_CHECKS: tuple[Check[Person], ...] = (
    Check("adapter belongs to the restorer", "same base, fits", belongs),
    Check("gamma 1 changes the picture", "it does, and stays finite", acts),
    Check("gamma 0 is the base", "bit for bit", gamma_zero),
)
LAST: tuple[Check[Subject], ...] = (
    Check("U-Net in fp16 near fp32", f"{100 * FP16_ERROR:g} %", near_in_fp16),
    Check("decoder in fp16 near fp32", f"{FP16_DB:g} dB", decodes_in_fp16),
)
"""They need other number formats, for which all is loaded anew."""
