"""What is looked at: the files as one restorer, and what it makes of pictures, when a check asks for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..checkpoints.errors import StateDict
from ..checkpoints.layouts import BASE
from ..checkpoints.parts import AUTOENCODER, TEXT, UNET
from ..checkpoints.parts.base import META
from ..checkpoints.tensors import load_exactly, read_layout
from ..models import Autoencoder
from ..personalization.base import Adapter
from ..personalization.identity import Identity
from ..personalization.registry import load_identity_adapter
from ..restore import restore
from ..restorers.base import Restorer
from ..restorers.condition import UNCONDITIONAL
from ..restorers.context import null_context
from ..restorers.diffbir.cleaner import Cleaner, load_cleaner
from ..restorers.files import RestorerFile, load_restorer, open_restorer
from ..restorers.keys import NULL_CONTEXT
from ..restorers.registry import header_of
from ..training.progress import Progress
from .given import ADDON, CHECKPOINT, CLEANS, PERSON, GivenFile
from .pictures import ENLARGED, bad_picture, good_picture
from .settings import NotApplicable, Settings

T = TypeVar("T")

TIMES = (0.4, 0.8)
"""Time steps at which the network is asked, as shares of all."""
SEED = 0


class Subject:
    """The files and what is made of them. What could not be made once is not tried again.

    Args:
        ask: called after each step of what takes long; raise in it to stop.
    """

    def __init__(
        self, files: Sequence[GivenFile], settings: Settings, ask: Callable[[Progress], object]
    ) -> None:
        self.files, self.settings, self.ask = files, settings, ask
        self.adapters = [file for file in files if file.role == PERSON]
        self._made: dict[str, Any] = {}
        self._broken: set[str] = set()
        self._placed: tuple[torch.dtype, Restorer] | None = None

    def once(self, what: str, make: Callable[[], T]) -> T:
        """What `attempt` answers, which is kept."""
        if what not in self._made:
            self._made[what] = self.attempt(what, make)
        return self._made[what]

    def attempt(self, what: str, make: Callable[[], T]) -> T:
        """What `make` answers; raises what it raises, and later on only that it failed."""
        if what in self._broken:
            raise NotApplicable(f"{what} failed above")
        try:
            return make()
        except NotApplicable:
            raise
        except Exception:
            self._broken.add(what)
            raise

    # --- files

    def of_role(self, role: str) -> list[GivenFile]:
        return [file for file in self.files if file.role == role]

    @property
    def checkpoint(self) -> GivenFile:
        found = self.of_role(CHECKPOINT)
        if len(found) != 1:
            raise NotApplicable("no restorer and no Stable Diffusion among the files")
        return found[0]

    @property
    def draws_only(self) -> bool:
        """Whether there is Stable Diffusion alone, which cannot restore."""
        return self.checkpoint.layout is BASE and not self._addons

    @property
    def _addons(self) -> list[Path]:
        return [file.path for file in self.of_role(ADDON)]

    @property
    def opened(self) -> RestorerFile:
        """The files as one restorer, nothing loaded yet."""
        if self.draws_only:
            raise NotApplicable("Stable Diffusion alone cannot restore: give what goes on top of it, too")
        return self.once("the files together", self._open)

    def _open(self) -> RestorerFile:
        s = self.settings
        file = open_restorer(self.checkpoint.path, self._addons, s.prediction_type, s.variant)
        file.check_fit()
        return file

    def _tensors(self) -> StateDict:
        return read_layout(self.checkpoint.path)[0]

    # --- the text tower

    @property
    def text(self) -> StateDict:
        return TEXT.of(self._tensors())

    @property
    def stored_context(self) -> Tensor | None:
        return self._tensors().get(NULL_CONTEXT)

    @property
    def computed_context(self) -> Tensor:
        return self.once("the empty prompt's context", lambda: null_context(self.text))

    # --- networks

    def restorer(self, dtype: torch.dtype) -> Restorer:
        """The networks in that number format; only one at a time is in memory. Stable Diffusion alone is one
        that nothing is given to."""
        if self._placed is None or self._placed[0] is not dtype:
            self._placed = None
            name = str(dtype).removeprefix("torch.")
            self._placed = dtype, self.attempt(f"loading as {name}", lambda: self._load(dtype))
        return self._placed[1]

    def _load(self, dtype: torch.dtype) -> Restorer:
        s = self.settings
        if self.draws_only:
            return self._generator(dtype)
        _ = self.opened
        loaded = load_restorer(
            self.checkpoint.path,
            *self._addons,
            device=s.device,
            dtype=dtype,
            prediction_type=s.prediction_type,
            variant=s.variant,
        )
        given = self.of_role(CLEANS)
        if given:
            loaded = replace(loaded, cleaner=load_cleaner(given[0].path, s.device, dtype))
        return loaded

    def _generator(self, dtype: torch.dtype) -> Restorer:
        tensors, metadata, layout = read_layout(self.checkpoint.path)
        header = header_of(metadata, tensors, self.checkpoint.path.name, layout)
        if self.settings.prediction_type is not None:
            header = replace(header, prediction_type=self.settings.prediction_type)
        placement = {"device": self.settings.device, "dtype": dtype}
        unet = UNET.build(UNET.config_from(UNET.of(tensors), header), META)
        load_exactly(unet, UNET.of(tensors), UNET.title, placement=placement)
        autoencoder = self._autoencoder(tensors, placement)
        context = self.computed_context.to(self.settings.device, dtype)
        return Restorer(unet.eval().requires_grad_(False), autoencoder, context, header)

    def _autoencoder(self, tensors: StateDict, placement: dict[str, Any]) -> Autoencoder:
        weights = AUTOENCODER.of(tensors)
        autoencoder = AUTOENCODER.build(AUTOENCODER.config_from(weights), META)
        load_exactly(autoencoder, weights, AUTOENCODER.title, placement=placement)
        return autoencoder.eval().requires_grad_(False)

    @property
    def autoencoder(self) -> Autoencoder:
        """The restorer's, or one that was given alone."""
        if self.of_role(CHECKPOINT):
            return self.restorer(self.settings.dtype).autoencoder
        for file in self.of_role(ADDON):
            tensors = read_layout(file.path)[0]
            if AUTOENCODER.key in tensors:
                placement = {"device": self.settings.device, "dtype": self.settings.dtype}
                return self.once("the autoencoder", lambda: self._autoencoder(tensors, placement))  # noqa: B023
        raise NotApplicable("no whole autoencoder among the files")

    @property
    def cleaner(self) -> Callable[[Tensor], Tensor]:
        """One that was given, or else the restorer's own."""
        s, given = self.settings, self.of_role(CLEANS)
        if given:
            return self.once("the cleaner", lambda: load_cleaner(given[0].path, s.device, s.dtype))
        found = self.restorer(s.dtype).cleaner
        if not isinstance(found, Cleaner):
            raise NotApplicable("no cleaner among the files")
        return found

    # --- what they make of pictures

    @property
    def side(self) -> int:
        """Of the pictures: that which the restorer was trained on."""
        return 512 if not self.of_role(CHECKPOINT) else self.restorer(self.at_hand).header.image_size

    @property
    def at_hand(self) -> torch.dtype:
        """The number format of the networks that are in memory."""
        return self._placed[0] if self._placed else self.settings.dtype

    def latent(self) -> Tensor:
        """Of the good picture [1, C, h, w], fp32 on the CPU: the same for all number formats."""
        dtype = self.settings.dtype
        return self.once(
            "encoding the good picture",
            lambda: self.restorer(dtype).encode(good_picture(self.side).to(self.settings.device)).cpu(),
        )

    def asked(self, restorer: Restorer) -> list[tuple[Tensor, Tensor, Tensor]]:
        """(x_t, t, noise) for each of `TIMES`, the same for all number formats."""
        z, asked = self.latent().to(self.settings.device), []
        for share in TIMES:
            t = torch.tensor([round(share * (restorer.header.num_train_timesteps - 1))])
            noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(int(t))).to(z)
            t = t.to(self.settings.device)
            asked.append((restorer.noised(z, t, noise), t, noise))
        return asked

    def predictions(self, dtype: torch.dtype) -> list[Tensor]:
        """Of the network for the good picture, fp32."""
        name = str(dtype).removeprefix("torch.")
        _ = self.latent()
        return self.once(f"predictions in {name}", lambda: self._predict(dtype))

    @torch.no_grad()
    def _predict(self, dtype: torch.dtype) -> list[Tensor]:
        restorer, z = self.restorer(dtype), self.latent().to(self.settings.device, dtype)
        picture = self.seen("good").to(z)
        condition = UNCONDITIONAL if self.draws_only else restorer.condition(z, pictures=picture)
        found = []
        for number, (x, t, _) in enumerate(self.asked(restorer)):
            found.append(restorer.denoise(x.to(dtype), t, condition).float())
            self.ask(Progress(f"predictions, {str(dtype).removeprefix('torch.')}", number + 1, len(TIMES)))
        return found

    def decoded(self, dtype: torch.dtype) -> Tensor:
        """The good picture's latent as a picture again."""
        name, z = str(dtype).removeprefix("torch."), self.latent().to(self.settings.device)
        with torch.no_grad():
            return self.once(f"decoding in {name}", lambda: self.restorer(dtype).decode(z))

    def seen(self, which: str) -> Tensor:
        """The picture "good" or "bad" as it is given to the restorer."""
        return good_picture(self.side) if which == "good" else bad_picture(self.side)

    def restored(self, which: str) -> Tensor:
        """What the restorer makes of one of them, in no other colours than its own."""
        return self.once(f"restoring the {which} picture", lambda: self._restore(which))

    def _restore(self, which: str, *identities: Identity) -> Tensor:
        _ = self.opened
        called = f"the {which} picture" + "".join(f", gamma {identity.gamma:g}" for identity in identities)
        return restore(
            self.restorer(self.settings.dtype),
            self.seen(which),
            upscale=1 if which == "good" else ENLARGED,
            identities=identities,
            steps=self.settings.steps,
            seed=SEED,
            color_fix="none",
            on_step=lambda step: self.ask(Progress(called, step.number + 1, step.total)),
        )

    # --- people

    def adapter(self, file: GivenFile) -> Adapter:
        number = self.files.index(file) + 1
        return self.once(f"the adapter of file {number}", lambda: load_identity_adapter(file.path))

    def acted(self, file: GivenFile, gamma: float) -> Tensor:
        """What the restorer makes of the bad picture with a person at that gamma."""
        number = self.files.index(file) + 1
        return self.once(
            f"restoring with file {number}, gamma {gamma:g}",
            lambda: self._restore("bad", Identity(self.adapter(file), gamma)),
        )
