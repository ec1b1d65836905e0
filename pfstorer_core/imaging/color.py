"""Colour fixes: give a restored image (content) back the colours of its low-quality input (style).

Diffusion at a low resolution shifts colours; StableSR (Wang et al. 2024, section 3.3) corrects them
afterwards. Both fixes take images [B, C, H, W] in any range (both in the same), of any size, and do
not clip.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from kornia.color import rgb_to_grayscale
from torch import Tensor

from .resizing import resize

WAVELET_LEVELS = 5
STRIP, STRIP_PIXELS = 512, 2**22
"""Rows of a picture that are fixed at once, fewer of a wide one."""
GREY = 1e-3
"""What the channels of a grey picture may differ by: less than a step of 8 bits."""

OnStrip = Callable[[], object]
"""Hears of every strip of a picture; what it raises stops the work."""


def adain_color_fix(content: Tensor, style: Tensor, on_strip: OnStrip = lambda: None) -> Tensor:
    """Give the content's channels the style's means and deviations (AdaIN, Huang & Belongie 2017).

    Args:
        content: [B, C, H, W].
        style: [B, C, h, w], or one for all, [1, C, h, w]; its size may be another one.

    Returns:
        [B, C, H, W], in the content's dtype.

    Raises:
        ValueError: if the batches or channels don't fit together.
    """
    _check_pair(content, style)
    content_mean, content_std = _channel_statistics(content)
    on_strip()
    style_mean, style_std = _channel_statistics(style)
    on_strip()
    result = _at_least_float32(content) - content_mean
    return result.div_(content_std).mul_(style_std).add_(style_mean).to(content.dtype)


def wavelet_color_fix(
    content: Tensor, style: Tensor, on_strip: OnStrip = lambda: None, *, levels: int = WAVELET_LEVELS
) -> Tensor:
    """The content's high frequencies on the style's low ones.

    Args:
        content: [B, C, H, W].
        style: [B, C, H, W], or one for all, [1, C, H, W].
        levels: of `wavelet_split`; more of them leave more of the content alone.

    Returns:
        [B, C, H, W], in the content's dtype.

    Raises:
        ValueError: if the sizes differ, or the batches or channels don't fit together.
    """
    _check_pair(content, style)
    if content.shape[-2:] != style.shape[-2:]:
        raise ValueError(
            "the wavelet colour fix needs images of one size, got content "
            f"{list(content.shape)} and style {list(style.shape)}; resize the style first"
        )
    # In strips, with as many rows about them as the blurs reach: a large picture would be there ten times.
    reach, height = 2**levels - 1, content.shape[-2]
    fixed = torch.empty_like(content)
    rows = _strip_rows(content)
    for top in range(0, height, rows):
        on_strip()
        bottom = min(top + rows, height)
        upper, lower = max(0, top - reach), min(height, bottom + reach)
        high, _ = wavelet_split(_at_least_float32(content[..., upper:lower, :]), levels)
        _, low = wavelet_split(_at_least_float32(style[..., upper:lower, :]), levels)
        fixed[..., top:bottom, :] = (high + low)[..., top - upper : bottom - upper, :]
    return fixed


def wavelet_split(image: Tensor, levels: int = WAVELET_LEVELS) -> tuple[Tensor, Tensor]:
    """Split an image into high and low frequencies, which add up to it.

    The à trous transform: blurred with dilations 1, 2, 4, ... What each blur takes away is one
    level of detail, and the sum of all these levels is just what all blurs together took away.

    Returns:
        (high, low), each of the image's shape, in its dtype.
    """
    low = _at_least_float32(image)
    for level in range(levels):
        low = blur(low, 2**level)
    return (image - low).to(image.dtype), low.to(image.dtype)


def blur(image: Tensor, dilation: int) -> Tensor:
    """Convolve with [1, 2, 1] ⊗ [1, 2, 1] / 16, dilated; edges are replicated.

    Args:
        image: [B, C, H, W]; sides may be shorter than the dilation.
    """
    # kornia has no dilated filter: its separable one, with zeros in between, takes 2 to 9 times as long.
    blurred = _at_least_float32(image)
    for pad in ((dilation, dilation, 0, 0), (0, 0, dilation, dilation)):
        axis = -1 if pad[0] else -2
        padded = F.pad(blurred, pad, mode="replicate")
        length = blurred.shape[axis]
        neighbours = padded.narrow(axis, 0, length) + padded.narrow(axis, 2 * dilation, length)
        blurred = (neighbours + 2 * blurred) / 4
    return blurred.to(image.dtype)


def _channel_statistics(image: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over the pixels, [B, C, 1, 1] each."""
    # The unbiased variance of a single pixel is 0 / 0.
    correction = 1 if image.shape[-2] * image.shape[-1] > 1 else 0
    variance, mean = torch.var_mean(
        _at_least_float32(image), dim=(-2, -1), correction=correction, keepdim=True
    )
    return mean, (variance + 1e-5).sqrt()


def _at_least_float32(image: Tensor) -> Tensor:
    return image.to(torch.promote_types(image.dtype, torch.float32))


def _check_pair(content: Tensor, style: Tensor) -> None:
    same_channels = content.ndim == style.ndim == 4 and content.shape[1] == style.shape[1]
    if not same_channels or style.shape[0] not in (1, content.shape[0]):
        raise ValueError(
            "expected content [B, C, H, W] and style [B or 1, C, h, w], got "
            f"{list(content.shape)} and {list(style.shape)}"
        )


COLOR_FIXES = {"wavelet": wavelet_color_fix, "adain": adain_color_fix}
"""The colour fixes by the name that users choose them by."""


def color_fix(content: Tensor, style: Tensor, method: str, on_strip: OnStrip = lambda: None) -> Tensor:
    """The fix of that name; a style of another size is resized to the content's first. A grey style makes the
    content grey: whatever colour it has was invented.

    Raises:
        ValueError: no fix of that name, or batches that don't fit together.
    """
    if method not in COLOR_FIXES:
        raise ValueError(f"No colour fix named {method!r}; choose one of {', '.join(COLOR_FIXES)}.")
    _check_pair(content, style)

    def one(picture: Tensor, like: Tensor) -> Tensor:
        grey = is_grey(like)
        of, like = (rgb_to_grayscale(_at_least_float32(picture)), like[:, :1]) if grey else (picture, like)
        fixed = COLOR_FIXES[method](of, resize(like, (of.shape[-2], of.shape[-1]), on_strip), on_strip)
        return fixed.expand_as(picture).contiguous() if grey else fixed

    styles = style.expand(len(content), -1, -1, -1)
    if len(content) == 1:
        return one(content, styles)
    fixed = torch.empty_like(content)
    for number, pair in enumerate(zip(content.split(1), styles.split(1), strict=True)):
        fixed[number] = one(*pair)[0]
    return fixed


def check_color_fix(name: str) -> None:
    """Raise ValueError unless it is "none" or one of `COLOR_FIXES`."""
    if name not in (*COLOR_FIXES, "none"):
        raise ValueError(f"No colour fix named {name!r}; choose one of {', '.join(COLOR_FIXES)} or none.")


def is_grey(picture: Tensor) -> bool:
    """Whether the channels [B, 3, H, W] are equal everywhere."""
    if picture.shape[1] != 3:
        return False
    strips = picture.split(_strip_rows(picture), -2)
    return all(bool(((strip[:, 1:] - strip[:, :1]).abs() <= GREY).all()) for strip in strips)


def _strip_rows(picture: Tensor) -> int:
    return max(64, min(STRIP, STRIP_PIXELS // picture.shape[-1]))
