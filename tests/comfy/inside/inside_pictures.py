"""IMAGE and MASK as they come in: of any kind that the host has; what is wrong with one is said."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.model_management as mm
import comfy.samplers
import comfy.utils
import pytest
import torch
from inside_identity import adapter  # noqa: F401 - a fixture
from inside_model import path, restorer  # noqa: F401 - fixtures
from pfstorer.nodes.apply import ApplyPersonalization
from pfstorer.nodes.color import RestorationColorFix
from pfstorer.nodes.condition import RestorationConditioning
from pfstorer.nodes.degrade import DegradeImage
from pfstorer.nodes.examples import EXAMPLES, ExamplePictures
from pfstorer.nodes.gamma_sheet import GammaSheet, gammas_of
from pfstorer.nodes.host import pixels
from pfstorer.nodes.host.images import from_image, from_mask, to_image
from pfstorer.nodes.host.model import build_model
from pfstorer.nodes.host.sampling import check_samples
from pfstorer.nodes.host.vae import build_vae
from pfstorer.nodes.sample import TiledSRSampler
from pfstorer.pfstorer_core.imaging import resizing
from pfstorer.pfstorer_core.restorers.files import open_restorer
from torch import Tensor

MADE = {"upscale": 1.0, "steps": 1, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal", "seed": 0}


@pytest.fixture
def model(path: Path) -> Any:  # noqa: F811
    return build_model(open_restorer(path), torch.float32)


@pytest.fixture(scope="module")
def vae(path: Path) -> Any:  # noqa: F811
    return build_vae(open_restorer(path))


def broken(value: float, rows: int = 3, channels: int = 3) -> Tensor:
    """Pictures of which the second is broken in two places."""
    image = torch.rand(rows, 32, 40, channels)
    image[1, 5, 7:9, 0] = value
    return image


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_images_of_any_kind_come_in_as_float_rgb(channels: int, dtype: torch.dtype) -> None:
    image = torch.rand(2, 5, 7, channels).to(dtype)
    pixels = from_image(image)
    assert (pixels.shape, pixels.dtype) == ((2, 3, 5, 7), torch.float32)
    assert torch.equal(to_image(pixels)[..., 0], image[..., 0].float())


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (torch.rand(2, 5, 7, 2), "photo has 2 channels"),
        (torch.rand(2, 5, 7, 5), "photo has 5 channels"),
        (torch.rand(0, 5, 7, 3), r"photo holds no picture: it is a tensor of shape \[0, 5, 7, 3\]"),
        (torch.rand(5, 7, 3), r"photo is no IMAGE .* shape \[5, 7, 3\]"),
        (torch.ones(1, 5, 7, 3, dtype=torch.uint8), "photo is no IMAGE .* format uint8"),
        (None, "photo is no IMAGE .* NoneType"),
        (broken(float("nan")), r"input photo holds .*not numbers.*: 2 in picture 2 of 3"),
        (broken(float("inf"), 2, 4), "2 in picture 2 of 2"),
    ],
)
def test_what_is_no_image_is_refused_in_a_sentence(image: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        from_image(image, "photo")


def test_masks_of_any_kind() -> None:
    for mask in (torch.ones(4, 6), torch.ones(1, 4, 6, dtype=torch.bool), torch.full((1, 1, 4, 6), 7.0)):
        assert torch.equal(from_mask(mask), torch.ones(1, 1, 4, 6))
    for mask, said in ((torch.ones(0, 4, 6), "holds no mask"), (torch.ones(3), "no MASK"), ([1], "a list")):
        with pytest.raises(ValueError, match=said):
            from_mask(mask)
    with pytest.raises(ValueError, match="12 in mask 2 of 2"):
        from_mask(torch.stack([torch.zeros(3, 4), torch.full((3, 4), torch.nan)]))


def test_every_node_refuses_what_is_not_a_number(model: Any, vae: Any, adapter: Any) -> None:  # noqa: F811
    good, bad = torch.rand(3, 32, 40, 3), broken(float("nan"))
    mask = bad[..., 0]
    calls = [
        ("image", lambda: TiledSRSampler.execute(model, vae, bad, **MADE)),
        ("mask", lambda: TiledSRSampler.execute(model, vae, good, **MADE, mask=mask)),
        ("image", lambda: RestorationConditioning.execute(model, vae, bad)),
        ("image", lambda: RestorationColorFix.execute(bad, good, "wavelet")),
        ("reference", lambda: RestorationColorFix.execute(good, bad, "adain")),
        ("image", lambda: DegradeImage.execute(bad, "light", 0)),
        ("mask", lambda: ApplyPersonalization.execute(model, adapter, 1.0, mask)),
    ]
    for name, call in calls:
        with pytest.raises(ValueError, match=f"The input {name} holds .* 2 of 3"):
            call()
    prompt = [[torch.full((1, 3, 24), torch.nan), {}]]
    with pytest.raises(ValueError, match="positive or negative holds"):
        RestorationConditioning.execute(model, vae, good, prompt)


def test_an_empty_mask_is_said(model: Any, vae: Any, adapter: Any) -> None:  # noqa: F811
    image, nothing = torch.rand(2, 32, 40, 3), torch.zeros(2, 32, 40)
    with pytest.raises(ValueError, match=r"input mask is empty.*act nowhere"):
        ApplyPersonalization.execute(model, adapter, 1.0, nothing)
    with pytest.raises(ValueError, match=r"input mask is empty.*nothing would be restored"):
        TiledSRSampler.execute(model, vae, image, **MADE, mask=nothing)


def test_what_overflows_later_is_told_apart(model: Any, vae: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scheduler's, the sampler's, the VAE's; fp16 is blamed where it is used."""
    image, nan = torch.rand(1, 32, 40, 3), torch.full((1, 4, 8, 8), torch.nan)
    with pytest.raises(ValueError, match=r"scheduler kl_optimal gives .* for steps 1: choose more"):
        TiledSRSampler.execute(model, vae, image, **{**MADE, "scheduler": "kl_optimal"})
    check_samples(nan.nan_to_num(), model, "euler", "normal")
    with pytest.raises(ValueError, match="in float32: choose another sampler than euler"):
        check_samples(nan, model, "euler", "normal")
    monkeypatch.setattr(model.model, "get_dtype_inference", lambda: torch.float16)
    with pytest.raises(ValueError, match="in fp16 attention can overflow"):
        check_samples(nan, model, "euler", "normal")
    monkeypatch.setattr(vae.first_stage_model, "encode", lambda x: x.new_full((1, 4, 8, 10), torch.nan))
    with pytest.raises(ValueError, match=r"VAE came to .* in encoding"):
        pixels.encode(vae, torch.rand(1, 3, 32, 40))
    monkeypatch.setattr(vae, "vae_dtype", torch.float16)
    monkeypatch.setattr(vae.first_stage_model, "decode", lambda z: torch.full((1, 3, 32, 40), torch.nan))
    with pytest.raises(ValueError, match=r"in decoding.*--fp32-vae"):
        pixels.decode(vae, torch.rand(1, 4, 8, 10), torch.rand(1, 3, 32, 40), 0.0)


def test_every_scheduler_has_noise_levels_for_two_steps(model: Any) -> None:
    from pfstorer.nodes.host.sampling import check_noise_levels

    for scheduler in comfy.samplers.KSampler.SCHEDULERS:
        check_noise_levels(model, 2, "euler", scheduler)


def test_one_reference_for_all_or_one_for_each() -> None:
    images, references = torch.rand(3, 8, 8, 3), torch.rand(3, 5, 9, 3)
    each = RestorationColorFix.execute(images, references, "adain").args[0]
    alone = [
        RestorationColorFix.execute(images[i : i + 1], references[i : i + 1], "adain").args[0]
        for i in range(3)
    ]
    torch.testing.assert_close(each, torch.cat(alone))
    one = RestorationColorFix.execute(images, references[:1], "wavelet").args[0]
    torch.testing.assert_close(
        one[:1], RestorationColorFix.execute(images[:1], references[:1], "wavelet").args[0]
    )
    for number, count in ((2, 3), (3, 1)):
        with pytest.raises(ValueError, match=f"{number} pictures in reference do not fit {count} in image"):
            RestorationColorFix.execute(images[:count], references[:number], "wavelet")


def test_latents_that_the_model_cannot_read_are_said(model: Any) -> None:
    good, conds = torch.rand(2, 4, 8, 8), model.model.extra_conds
    conds(noise=good, latent_image=good, lq_latent=good, device="cpu")
    bad = good.clone()
    bad[1, 0, 0, 0] = torch.inf
    for name, latent, lq in (("LATENT", bad, good), ("conditioning", good, bad)):
        with pytest.raises(ValueError, match=rf"input {name} holds.*1 in latent 2 of 2"):
            conds(noise=good, latent_image=latent, lq_latent=lq, device="cpu")
    for name, latent, lq in (
        ("LATENT", torch.rand(2, 16, 8, 8), good),
        ("LATENT", torch.rand(2, 4, 3, 8, 8), good),
        ("conditioning", good, torch.rand(2, 8, 8, 8)),
    ):
        with pytest.raises(ValueError, match=rf"{name} is of another restorer.*\[B, 4, height, width\]"):
            conds(noise=latent, latent_image=latent, lq_latent=lq, device="cpu")


def interrupted(work: Callable[[], object]) -> bool:
    """Whether the work stops when the user has cancelled."""
    mm.interrupt_current_processing()
    try:
        work()
    except mm.InterruptProcessingException:
        return True
    finally:
        mm.interrupt_current_processing(False)
    return False


def test_cancelling_is_heard_by_every_long_work_on_pictures(
    model: Any, vae: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = torch.rand(1, 64, 96, 3)
    assert interrupted(lambda: RestorationColorFix.execute(pictures, pictures, "wavelet"))
    assert interrupted(lambda: RestorationColorFix.execute(pictures, pictures, "adain"))
    assert interrupted(lambda: DegradeImage.execute(pictures, "light", 0))
    assert interrupted(lambda: RestorationConditioning.execute(model, vae, pictures))
    monkeypatch.setattr(resizing, "AT_ONCE", 100)
    monkeypatch.setattr("pfstorer.nodes.host.starts.encode", lambda *_: pytest.fail("it came too far"))
    assert interrupted(lambda: TiledSRSampler.execute(model, vae, pictures, **MADE | {"upscale": 2.0}))


def test_examples_are_pictures_of_one_size_and_their_truth() -> None:
    shapes = {}
    for example in EXAMPLES:
        image, truth = ExamplePictures.execute(example).args
        assert 0 <= image.min() < image.max() <= 1
        shapes[example] = tuple(image.shape), tuple(truth.shape)
    for person in ("P007", "P008", "P004"):
        assert shapes[f"{person}: bad picture"] == ((1, 128, 128, 3), (1, 256, 256, 3))
        assert shapes[f"{person}: five photos"] == ((5, 320, 320, 3), (5, 320, 320, 3))
        assert shapes[f"{person}: before and after"] == ((2, 256, 256, 3), (1, 256, 256, 3))
    assert shapes["group: bad picture"] == ((1, 260, 436, 3), (1, 520, 872, 3))
    before, after = ExamplePictures.execute("P008: before and after").args[0]
    truth = ExamplePictures.execute("P008: bad picture").args[1]
    assert torch.equal(after, truth[0])
    assert not torch.equal(before, after)
    with pytest.raises(ValueError, match="no example P003: choose one of P007: bad picture, "):
        ExamplePictures.execute("P003")


def test_a_gamma_sheet_is_each_strength_by_itself_under_one_bar(
    model: Any,
    vae: Any,
    adapter: Any,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = torch.rand(2, 16, 24, 3, generator=torch.Generator().manual_seed(0))
    expected = [
        TiledSRSampler.execute(one, vae, image, **MADE).args[0]
        for one in (ApplyPersonalization.execute(model, adapter, 1.5).args[0], model)
    ]
    seen = []
    hook = lambda done, whole, preview, node_id=None: seen.append((done, whole))  # noqa: E731
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
    sheet, pictures = GammaSheet.execute(model, adapter, "1.5; 0", image, vae=vae, **MADE).args
    assert torch.equal(pictures, torch.cat(expected))
    assert not torch.equal(*expected)
    # Two rows of three pictures, each with its caption.
    assert sheet.shape == (1, 2 * (16 + 26) + 6, 3 * (24 + 6) + 6, 3)
    bad = sheet[0, 26:42, 6:30]
    torch.testing.assert_close(bad, image[0], rtol=0, atol=1 / 255)
    assert seen == sorted(seen)
    assert len({whole for _, whole in seen}) == 1
    assert seen[-1][0] == seen[-1][1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Give 1 to 12 gammas"),
        ("0, strong", "numbers with commas"),
        ("0, 2.5", "from 0 to 2, got 2.5"),
        ("nan", "from 0 to 2, got nan"),
        (" ".join(str(n / 10) for n in range(13)), "got 13"),
    ],
)
def test_what_is_no_list_of_gammas_is_said_before_any_work(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        GammaSheet.execute(None, None, text, torch.zeros(1, 8, 8, 3))
    assert gammas_of("0,1 ; 0.5 1") == [0, 1, 0.5]
