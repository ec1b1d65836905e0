"""How the files of a Dual-Pivot result of the release come together, against what its scripts made."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pfstorer_core.checkpoints.header import RestorerHeader
from pfstorer_core.checkpoints.layouts import with_prefixes
from pfstorer_core.checkpoints.parts import AUTOENCODER, CONTROL, SWINIR, UNET
from pfstorer_core.models import ControlConfig
from pfstorer_core.restorers.diffbir.start import new_control
from pfstorer_core.restorers.diffbir.variants import VARIANTS
from pfstorer_core.restorers.files import RestorerFile, open_restorer
from pfstorer_core.restorers.keys import file_tensors

from . import diffbir, golden
from .networks import chosen

NAME = "diffbir_assembly"
INPUTS = golden.metadata(NAME)["inputs"]
CONDITION_ENCODER = "cond_encoder."
"""Of the release: a copy of the VAE's encoder, which restorers here have but once."""


@pytest.fixture(scope="module")
def given() -> dict[str, dict[str, Tensor]]:
    return {name: diffbir.by_rule(entries) for name, entries in INPUTS.items()}


@pytest.fixture(scope="module")
def renamed(given: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """Stable Diffusion's file with the U-Net and the VAE of the one that DreamBooth made."""
    trained = with_prefixes(given["dreambooth"])
    own = (UNET.prefix, AUTOENCODER.prefix)
    return given["sd"] | {key: value for key, value in trained.items() if key.startswith(own)}


def assert_sums(value: Tensor, expected: Tensor, what: str) -> None:
    found = [value.double().sum().item(), value.double().abs().sum().item()]
    assert found == pytest.approx(expected.tolist(), rel=1e-9, abs=1e-9), what


def expected_of(part: str) -> dict[str, Tensor]:
    """Sums by key."""
    header, sums = golden.metadata(NAME), golden.tensors(NAME)[f"{part}.sums"]
    keys = [entry if isinstance(entry, str) else entry[0] for entry in header[f"{part}_keys"]]
    return dict(zip(keys, sums, strict=True))


def save(tensors: dict[str, Tensor], path: Path, header: RestorerHeader | None = None) -> Path:
    save_file(tensors, path, header.to_metadata() if header else None)
    return path


HEADER = replace(VARIANTS["v1_face"], num_head_channels=golden.metadata(NAME)["config"]["num_head_channels"])
"""What the published files need none for: heads of another width."""


def test_what_diffusers_brought_back_gets_the_checkpoint_s_names(renamed: dict[str, Tensor]) -> None:
    expected = expected_of("renamed")
    assert {*renamed} == {*expected}
    for key, sums in expected.items():
        assert_sums(renamed[key], sums, key)


@pytest.fixture(scope="module")
def assembled(
    given: dict[str, dict[str, Tensor]], renamed: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory
) -> RestorerFile:
    folder: Path = tmp_path_factory.mktemp("assembly")
    control = save(CONTROL.of(given["full"]), folder / "v1_face.safetensors", HEADER)
    cleaner = save(given["swinir"], folder / "face_swinir_v1.safetensors")
    return open_restorer(save(renamed, folder / "sd.safetensors"), [control, cleaner])


def test_files_on_top_of_each_other_are_the_combined_one(assembled: RestorerFile) -> None:
    """But for what is made anew here: the schedule, and the copy of the encoder."""
    assert assembled.header == HEADER
    header, expected = golden.metadata(NAME), expected_of("combined")
    found: dict[str, Tensor] = file_tensors(
        assembled.unet, assembled.autoencoder, assembled.text, torch.zeros(1), assembled.cleaner
    )
    copies: dict[str, str] = {
        key: AUTOENCODER.prefix + key.removeprefix(CONDITION_ENCODER)
        for key in expected
        if key.startswith(CONDITION_ENCODER)
    }
    made_anew = {key for key in expected if "." not in key}
    assert {*found} - {"null_context"} == {*expected} - {*copies} - made_anew
    assert {*copies.values()} < {*found}
    for key, shape, dtype in header["combined_keys"]:
        if key not in made_anew:
            value = found[str(copies.get(key, key))]
            assert (list(value.shape), f"torch.{dtype}") == (shape, str(value.dtype)), key
            assert_sums(value, expected[key], key)


def test_every_tensor_comes_from_its_source(given: dict[str, dict[str, Tensor]]) -> None:
    """The text tower and the schedule from Stable Diffusion's own file, not from DreamBooth's."""
    header, expected = golden.metadata(NAME), expected_of("combined")
    for (key, sums), source in zip(expected.items(), header["combined_source"], strict=True):
        name, again = source.partition(" ")[::2]
        tensors = with_prefixes(given[name]) if again else given[name]
        own = key.replace(CONDITION_ENCODER, AUTOENCODER.prefix) if name == "dreambooth" else key
        assert_sums(tensors[own.removeprefix(SWINIR.prefix) if name == "swinir" else own], sums, key)


def test_the_combined_file_of_the_release_loads(
    given: dict[str, dict[str, Tensor]], assembled: RestorerFile, renamed: dict[str, Tensor], tmp_path: Path
) -> None:
    vae = AUTOENCODER.of(renamed)
    encoder = {
        CONDITION_ENCODER + key: value for key, value in vae.items() if key.startswith(("enc", "quant"))
    }
    whole = (
        given["full"]
        | renamed
        | {k: v.clone() for k, v in encoder.items()}
        | SWINIR.prefixed(given["swinir"])
    )
    assert {*whole} == {*expected_of("combined")}
    file = open_restorer(save(whole, tmp_path / "face_full_v1.safetensors", HEADER))
    assert file.header == assembled.header
    for name in ("unet", "autoencoder", "text", "cleaner"):
        ours, theirs = getattr(file, name), getattr(assembled, name)
        assert {*ours} == {*theirs}
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items()), name


def test_a_new_control_network_comes_from_the_u_net(given: dict[str, dict[str, Tensor]]) -> None:
    """Its encoder, without a look at the hint, and nothing that would reach the U-Net."""
    header, sums = golden.metadata(NAME), golden.group(NAME, "control_from_unet")
    sizes = header["config"]
    channels = {"in_channels": sizes["in_channels"] + sizes["hint_channels"]}
    unet = UNET.of(given["sd"])
    found = new_control(unet, ControlConfig(**chosen(sizes, ControlConfig) | channels))
    shapes = dict(header["control_from_unet_keys"])
    assert {key: list(value.shape) for key, value in found.items()} == shapes
    for key, expected in zip(shapes, sums["sums"], strict=True):
        value = found[key]
        assert_sums(value, expected, key)
        kind = header["control_from_unet_kind"][key]
        if kind == "zero":
            assert not value.any(), key
        elif kind == "copied":
            assert torch.equal(value, unet[key]), key
        else:
            assert torch.equal(value, sums["first_conv"]), kind
