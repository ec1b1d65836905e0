"""The noise schedule of a discrete-time diffusion model, and every formula that needs nothing else.

Notation (DDPM, Ho et al. 2020): alpha_bar_t, here `alphas_cumprod`, is the share of the signal's
variance that is left at time t, and

    x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) noise                              (eq. 4).

Coefficients are derived in float64 and applied in the dtype of the sample, at least float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, repeat
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

PredictionType = Literal["eps", "v"]
"""What a network's output means: the noise (DDPM), or the velocity of Salimans & Ho 2022."""

TERMINAL_SIGNAL = 4.8973451890853435e-08
"""alpha_bar in place of a terminal 0, where sigma would be infinite: ComfyUI's, so that both sample alike."""


class Posterior(NamedTuple):
    """The Gaussian q(x_{i-1} | x_i, x_0)."""

    mean: Tensor
    variance: Tensor
    log_variance: Tensor


@dataclass(frozen=True, eq=False)
class Schedule:
    """`alphas_cumprod` at N indices, the cleanest first, and the time steps they stand for.

    A sampler counts in indices 0...N-1; a network is always told the *original* time step,
    `timesteps[index]`. Every buffer below is derived from `alphas_cumprod`, in its dtype.

    Args:
        alphas_cumprod: [N], strictly decreasing, inside (0, 1); the last may be 0 (zero terminal SNR), where
            only a v network knows what to do.
        timesteps: [N] int64, strictly increasing.

    Raises:
        ValueError: if either is not as described.
    """

    alphas_cumprod: Tensor
    timesteps: Tensor

    def __post_init__(self) -> None:
        signal, times = self.alphas_cumprod, self.timesteps
        if signal.ndim != 1 or signal.shape != times.shape or not len(signal):
            raise ValueError(
                "alphas_cumprod and timesteps must be vectors of one length, at least 1; "
                f"got shapes {list(signal.shape)} and {list(times.shape)}"
            )
        if not (times.diff() > 0).all():
            raise ValueError(f"timesteps must increase strictly, got {times.tolist()}")
        if not (signal[-1] >= 0 and signal[0] < 1 and (signal.diff() < 0).all()):
            raise ValueError("alphas_cumprod must decrease strictly and lie between 0 and 1")

    @classmethod
    def scaled_linear(
        cls,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        steps: int = 1000,
        dtype: torch.dtype = torch.float64,
    ) -> Schedule:
        """Betas linear in their square root; the defaults are Stable Diffusion's.

        Args:
            dtype: of the derived buffers. The betas themselves are always computed in float64.
        """
        if not (0 < beta_start <= beta_end < 1 and steps >= 1):
            raise ValueError(
                "expected 0 < beta_start <= beta_end < 1 and steps >= 1, "
                f"got {beta_start}, {beta_end}, {steps}"
            )
        betas = torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float64) ** 2
        return cls((1 - betas).cumprod(0).to(dtype), torch.arange(steps))

    def zero_terminal_snr(self, terminal: float = TERMINAL_SIGNAL) -> Schedule:
        """This schedule without any signal at its end (Lin et al. 2024, algorithm 1): sqrt(alpha_bar) is
        shifted and scaled so that it keeps its first value and ends at 0.

        Args:
            terminal: the last alpha_bar; 0 is the exact one, which an eps network cannot start from.
        """
        signal = self.alphas_cumprod.sqrt()
        rescaled = ((signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])).square()
        return Schedule(torch.cat([rescaled[:-1], rescaled.new_tensor([terminal])]), self.timesteps)

    def respaced(self, steps: int | Sequence[int]) -> Schedule:
        """The schedule of a sampler that visits only some of this one's indices.

        Args:
            steps: a number N, for N indices spread evenly from the first to the last (only the last
                when N = 1: one step has to start at full noise), or the increasing indices
                themselves, such as `space_timesteps` gives.
        """
        if isinstance(steps, int):
            indices = [len(self) - 1] if steps == 1 else space_timesteps(len(self), [steps])
        else:
            indices = list(steps)
            if not indices or min(indices) < 0 or max(indices) >= len(self):
                raise ValueError(f"steps must be indices from 0 to {len(self) - 1}, got {indices}")
        return Schedule(self.alphas_cumprod[indices], self.timesteps[indices])

    def __len__(self) -> int:
        return len(self.timesteps)

    # Buffers, each [N].

    @cached_property
    def alphas_cumprod_prev(self) -> Tensor:
        return F.pad(self.alphas_cumprod[:-1], (1, 0), value=1.0)

    @cached_property
    def betas(self) -> Tensor:
        return 1 - self.alphas_cumprod / self.alphas_cumprod_prev

    @cached_property
    def sqrt_alphas_cumprod(self) -> Tensor:
        return self.alphas_cumprod.sqrt()

    @cached_property
    def sqrt_one_minus_alphas_cumprod(self) -> Tensor:
        return (1 - self.alphas_cumprod).sqrt()

    @cached_property
    def log_one_minus_alphas_cumprod(self) -> Tensor:
        return (1 - self.alphas_cumprod).log()

    @cached_property
    def sqrt_recip_alphas_cumprod(self) -> Tensor:
        return self.alphas_cumprod.rsqrt()

    @cached_property
    def sqrt_recipm1_alphas_cumprod(self) -> Tensor:
        return (1 / self.alphas_cumprod - 1).sqrt()

    @cached_property
    def posterior_variance(self) -> Tensor:
        """The smaller of DDPM's two fixed variances (beta tilde, eq. 7); 0 at index 0."""
        return self.betas * (1 - self.alphas_cumprod_prev) / (1 - self.alphas_cumprod)

    @cached_property
    def posterior_log_variance_clipped(self) -> Tensor:
        return self.posterior_variance.clamp(min=1e-20).log()

    @cached_property
    def posterior_mean_coef1(self) -> Tensor:
        """The factor of x_0 in the posterior mean (DDPM eq. 7)."""
        return self.betas * self.alphas_cumprod_prev.sqrt() / (1 - self.alphas_cumprod)

    @cached_property
    def posterior_mean_coef2(self) -> Tensor:
        """The factor of x_i in the posterior mean (DDPM eq. 7)."""
        return (1 - self.alphas_cumprod_prev) * (1 - self.betas).sqrt() / (1 - self.alphas_cumprod)

    @cached_property
    def _placed(self) -> dict[tuple[int, torch.dtype, torch.device], tuple[Tensor, Tensor]]:
        """Buffers, and what they are where they were asked for: to bring one there waits for the device."""
        return {}

    def _at(self, buffer: Tensor, index: int | Tensor, x: Tensor) -> Tensor:
        """`buffer[index]`, shaped to broadcast against x [B, ...], in x's dtype, at least float32."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        key = id(buffer), dtype, x.device
        source, values = self._placed.get(key, (None, buffer))
        if source is not buffer:  # in a copy of the schedule, another one may have had this id
            with torch.inference_mode(False):
                values = buffer.to(dtype).to(x.device)
            self._placed[key] = buffer, values
        return values[index].reshape(-1, *[1] * (x.ndim - 1))

    # --- formulae. x, x0, noise: [B, ...]; index: one for all, or a tensor [B]
    # --------------------------

    def q_sample(self, x0: Tensor, index: int | Tensor, noise: Tensor) -> Tensor:
        """The forward process (DDPM eq. 4): x0 noised to `index`."""
        signal = self._at(self.sqrt_alphas_cumprod, index, x0)
        return signal * x0 + self._at(self.sqrt_one_minus_alphas_cumprod, index, x0) * noise

    def velocity(self, x0: Tensor, index: int | Tensor, noise: Tensor) -> Tensor:
        """The target of a v network (Salimans & Ho 2022):
        sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) x0."""
        signal = self._at(self.sqrt_alphas_cumprod, index, x0)
        return signal * noise - self._at(self.sqrt_one_minus_alphas_cumprod, index, x0) * x0

    def target(
        self, x0: Tensor, index: int | Tensor, noise: Tensor, prediction_type: PredictionType
    ) -> Tensor:
        """What a network of this prediction type should answer for `q_sample(x0, index, noise)`."""
        _check_prediction_type(prediction_type)
        return noise if prediction_type == "eps" else self.velocity(x0, index, noise)

    def predict_x0(
        self, x: Tensor, index: int | Tensor, output: Tensor, prediction_type: PredictionType
    ) -> Tensor:
        """The clean sample that a network's output at x implies (not clipped).

        Raises:
            ValueError: an unknown prediction type, or eps in a schedule that ends at alpha_bar 0.
        """
        _check_prediction_type(prediction_type)
        if prediction_type == "eps":
            if self.alphas_cumprod[-1] == 0:
                raise ValueError(
                    "an eps network cannot tell x0 from pure noise, at which this schedule ends: take a v "
                    "network, or give the last alpha_bar a value above 0"
                )
            scale, shift = self.sqrt_recip_alphas_cumprod, self.sqrt_recipm1_alphas_cumprod
        else:
            scale, shift = self.sqrt_alphas_cumprod, self.sqrt_one_minus_alphas_cumprod
        return self._at(scale, index, x) * x - self._at(shift, index, x) * output

    def predict_eps(
        self, x: Tensor, index: int | Tensor, output: Tensor, prediction_type: PredictionType
    ) -> Tensor:
        """The noise that a network's output at x implies."""
        _check_prediction_type(prediction_type)
        if prediction_type == "eps":
            return output
        signal = self._at(self.sqrt_alphas_cumprod, index, x)
        return signal * output + self._at(self.sqrt_one_minus_alphas_cumprod, index, x) * x

    def noise_between(self, x: Tensor, index: int | Tensor, x0: Tensor) -> Tensor:
        """The noise that x is made with where x0 is its clean sample (DDPM eq. 4 solved for it)."""
        signal = self._at(self.sqrt_alphas_cumprod, index, x)
        return (x - signal * x0) / self._at(self.sqrt_one_minus_alphas_cumprod, index, x)

    def posterior(self, x0: Tensor, x: Tensor, index: int | Tensor) -> Posterior:
        """q(x_{i-1} | x_i = x, x_0 = x0), DDPM eq. 6 and 7.

        Returns:
            The mean [B, ...], and the variance and its logarithm (clipped below at that of 1e-20),
            which broadcast against the mean.
        """
        of_x0, of_x = self.posterior_mean_coef1, self.posterior_mean_coef2
        mean = self._at(of_x0, index, x) * x0 + self._at(of_x, index, x) * x
        return Posterior(
            mean,
            self._at(self.posterior_variance, index, x),
            self._at(self.posterior_log_variance_clipped, index, x),
        )


def space_timesteps(total: int, spacing: str | Sequence[int]) -> list[int]:
    """Which of `total` time steps a sampler visits (Nichol & Dhariwal 2021).

    Args:
        spacing: "ddimN": N steps at an integer stride from 0 (Song et al. 2021); or the number of
            steps in each of several sections of equal length, evenly spaced with both ends included
            (a section with one step takes its first). [N] is N steps from 0 to total - 1.

    Returns:
        Increasing time steps in 0...total - 1.

    Raises:
        ValueError: if a section has fewer time steps than are asked of it, or no stride gives N
            steps.
    """
    if isinstance(spacing, str):
        count = spacing.removeprefix("ddim")
        if not spacing.startswith("ddim") or not count.isdecimal():
            raise ValueError(f"a spacing in words is 'ddimN', such as 'ddim50'; got {spacing!r}")
        for stride in range(1, total + 1):
            if len(range(0, total, stride)) == int(count):
                return list(range(0, total, stride))
        raise ValueError(f"no integer stride visits exactly {count} of {total} time steps")

    if not spacing:
        raise ValueError("spacing names no section; give a number of steps, such as [50]")
    start, steps = 0, list[int]()
    for section, count in enumerate(spacing):
        size = total // len(spacing) + (section < total % len(spacing))
        if not 1 <= count <= size:
            raise ValueError(f"cannot take {count} steps from {size} time steps; ask for 1 to {size}")
        # Adding strides up, rather than multiplying, decides where a half-way step falls for some N
        # (21, 27, ...) exactly as in the samplers that the published models were tuned and measured
        # with.
        stride = (size - 1) / (count - 1) if count > 1 else 1.0
        steps += [start + round(offset) for offset in accumulate(repeat(stride, count - 1), initial=0.0)]
        start += size
    return steps


def _check_prediction_type(prediction_type: str) -> None:
    if prediction_type not in get_args(PredictionType):
        raise ValueError(f"prediction_type must be 'eps' or 'v', got {prediction_type!r}")
