"""The rows of the benchmark of a CLR-Face prior: each a way to restore the same pictures."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from torch import Tensor

from pfstorer_core.diffusion.identity_guidance import IdentitySettings
from pfstorer_core.models.identity_mask import IdentityMask
from pfstorer_core.personalization.face_guidance import FaceGuidance
from pfstorer_core.personalization.identity import Identity
from pfstorer_core.personalization.reference_attention.references import References, ReferenceSettings
from pfstorer_core.restore import restore
from pfstorer_core.restorers.base import Restorer

from ..evaluation.cases import Case
from ..evaluation.gallery import Gallery
from ..evaluation.methods import Method, round_trip

STEPS = (1, 4, 8, 50)
"""Of the study of steps, beside those of all other rows."""
CFG = 1.5
STARTS = {"noise": {"start": "noise", "start_at": 1.0}, "lq": {"start": "lq"}}
"""Headers of a prior that starts from anything but the cleaned picture. A cleaner has no part in either."""
LED = f"references cfg {CFG:g}"
"""Led away from the prediction without photos."""


@dataclass(frozen=True)
class Row:
    """A way to restore.

    Attributes:
        over: the row that it is compared with, picture by picture; "" for none.
        guide: the recogniser that guided, whose own likeness is no proof of one.
    """

    method: Method
    over: str = "prior"
    guide: str = ""


@dataclass(frozen=True, eq=False)
class Studied:
    """What the rows are made of.

    Attributes:
        prior: a CLR-Face restorer.
        others: restorers to compare it with, by name, and their steps.
        galleries: of the recognisers that guide, by name.
        masks: of guidance, by name: of `MASKS`, or learned.
        photos: references [R, 3, S, S] of everyone, by number, and who is `next` to whom: another person of
            the same kind.
        steps, guided_steps: of the prior's rows.
    """

    prior: Restorer
    others: Mapping[str, tuple[Restorer, int]]
    galleries: Mapping[str, Gallery]
    masks: Mapping[str, IdentityMask | str]
    photos: Mapping[int, Tensor]
    next: Mapping[int, int]
    steps: int = 25
    guided_steps: int = 8
    settings: IdentitySettings = field(default_factory=IdentitySettings)

    def rows(self) -> dict[str, Row]:
        """All rows by name. `irn` is what the prior's cleaner makes."""
        return dict([*self._parts(), *self._starts(), *self._guided(), *self._references(), *self._others()])

    def _restored(self, case: Case, restorer: Restorer | None = None, steps: int = 0, **options) -> Tensor:
        return restore(
            restorer or self.prior, case.lq, upscale=1, steps=steps or self.steps, seed=case.seed, **options
        )

    def _parts(self) -> Iterator[tuple[str, Row]]:
        yield "input", Row(lambda case: case.lq, over="")
        yield "irn", Row(lambda case: self.prior.clean(case.lq).clamp(0, 1), over="input")
        yield "round_trip", Row(lambda case: round_trip(self.prior, case.hq), over="")
        yield "prior", Row(self._restored, over="irn")

    def _starts(self) -> Iterator[tuple[str, Row]]:
        for start, changed in STARTS.items():
            prior = replace(self.prior, header=replace(self.prior.header, **changed))
            yield f"start: {start}", Row(partial(self._restored, restorer=prior))
        for steps in sorted({*STEPS, self.guided_steps} - {self.steps}):
            yield _steps(steps), Row(partial(self._restored, steps=steps))
        yield f"cfg {CFG:g}", Row(partial(self._restored, cfg=CFG))

    def _guided(self) -> Iterator[tuple[str, Row]]:
        """By recogniser, whom towards, and mask. Masks are compared with none."""
        plain = "prior" if self.guided_steps == self.steps else _steps(self.guided_steps)
        for guide in self.galleries:
            for target in ("irn", "photos"):
                for name, mask in self.masks.items():
                    over = plain if mask == "none" else f"{guide} {target} none"
                    method = partial(self._towards, guide=guide, target=target, mask=mask)
                    yield f"{guide} {target} {name}", Row(method, over, guide)

    def _towards(self, case: Case, guide: str, target: str, mask: IdentityMask | str) -> Tensor:
        gallery = self.galleries[guide]
        person = gallery.people[case.person] if target == "photos" else None
        face = FaceGuidance(gallery.recognizer, person, self.settings, mask=mask)
        return self._restored(case, steps=self.guided_steps, face=face)

    def _references(self) -> Iterator[tuple[str, Row]]:
        """Own photos are compared with another person's."""
        for settings, name in ((ReferenceSettings(), "references"), (ReferenceSettings(cfg=CFG), LED)):
            own, other = (partial(self._looking, settings=settings, at=who) for who in ({}, self.next))
            yield f"other: {name}", Row(other)
            yield name, Row(own, over=f"other: {name}")

    def _looking(self, case: Case, settings: ReferenceSettings, at: Mapping[int, int]) -> Tensor:
        """At photos of whom the picture shows, or of the person whom that one is to look `at`."""
        photos = self.photos[at.get(case.person, case.person)]
        known = References.of(self.prior, list(photos), settings=settings)
        return self._restored(case, identities=[Identity(known)])

    def _others(self) -> Iterator[tuple[str, Row]]:
        for name, (restorer, steps) in self.others.items():
            yield name, Row(partial(self._restored, restorer=restorer, steps=steps))


def _steps(steps: int) -> str:
    return f"{steps} step{'s' if steps > 1 else ''}"


def matching(rows: Mapping[str, Row], names: Sequence[str]) -> dict[str, Row]:
    """Of all rows those that are named, * standing for anything.

    Raises:
        ValueError: no such row.
    """
    wanted = set[str]()
    for name in names:
        found = fnmatch.filter(rows, name)
        if not found:
            raise ValueError(f"No row named {name!r}; choose from {', '.join(rows)}.")
        wanted.update(found)
    return {name: row for name, row in rows.items() if name in wanted}


def with_compared(rows: Mapping[str, Row], wanted: Iterable[str]) -> dict[str, Row]:
    """Rows by name, and those that they are compared with."""
    wanted = set(wanted)
    while beside := {rows[name].over for name in wanted} & rows.keys() - wanted:
        wanted |= beside
    return {name: row for name, row in rows.items() if name in wanted}
