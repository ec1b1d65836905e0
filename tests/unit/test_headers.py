"""What files say of themselves: every field comes back, other versions are refused, defaults are known."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import pfstorer_core as pf
from pfstorer_core import CheckpointError, Restorer, RestorerHeader
from pfstorer_core.personalization.face import PersonFace
from pfstorer_core.personalization.pfstorer.header import PFStorerHeader

OTHER: dict[str, Any] = {
    "prediction_type": "v",
    "scale_factor": 0.7,
    "image_size": 96,
    "num_head_channels": 16,
    "lq_num_heads": 2,
    "norm_groups": 8,
    "preview": [[0.1, -0.2, 0.3]] * 5,
    "training": {"steps": 3, "stages": [{"lr": 1e-3}]},
    "architecture": "diffbir",
    "beta_start": 0.001,
    "beta_end": 0.02,
    "num_train_timesteps": 500,
    "rescale_betas_zero_snr": True,
    "condition": "control",
    "start": "noise",
    "size_rule": "fixed",
    "aligned": "FFHQ",
}
"""Of a restorer's header, each of another value than its default."""
PERSON: dict[str, Any] = {
    "base": "0123456789abcdef",
    "sites": ["output_blocks.4.1", "output_blocks.10.0"],
    "heads": [2, 3],
    "prediction_type": "eps",
    "prompt": "a portrait of *",
    "person": 4,
    "end": 5,
    "init_word": "face",
    "null_lq": "gray",
    "reference_timestep": "noised",
    "run_key": "f" * 32,
    "steps": 7,
    "losses": [0.5, 0.25],
    "training": {"lr": 0.1},
    "notice": "Of a drawn person.",
    "face": PersonFace("dlib", "0123456789abcdef" * 2, [0.6, -0.8], 2),
}


@pytest.mark.parametrize("name", OTHER)
def test_each_field_of_a_restorer_comes_back(name: str) -> None:
    for given in (RestorerHeader(**{name: OTHER[name]}), RestorerHeader(**OTHER)):
        assert getattr(given, name) != getattr(RestorerHeader(), name), "it is the default: the test is blind"
        found = RestorerHeader.from_file(given.to_metadata(), {}, "x.safetensors")
        assert found == given
        stored = {"pfstorer.header": given.to_tensor()}
        assert RestorerHeader.from_file({}, stored, "x.safetensors") == given


@pytest.mark.parametrize("name", PERSON)
def test_each_field_of_an_adapter_comes_back(name: str) -> None:
    header = PFStorerHeader(**PERSON)
    found = PFStorerHeader.from_file(header.to_metadata(), "ada.safetensors")
    assert getattr(found, name) == PERSON[name]
    assert found == header


def test_defaults_of_files_without_a_header_are_stablesr_s() -> None:
    """On Stable Diffusion 2.1."""
    header = RestorerHeader()
    assert header.scale_factor == 0.18215
    assert (header.num_head_channels, header.lq_num_heads, header.norm_groups) == (64, 4, 32)
    for name, kind, size in (
        ("stablesr_000117.ckpt", "eps", 512),
        ("stablesr_turbo.ckpt", "eps", 512),
        ("stablesr_768v_000139.ckpt", "v", 768),
        ("webui_768v_139.ckpt", "v", 768),
        ("face_stablesr.ckpt", "v", 512),
        ("mine_v-pred.safetensors", "v", 512),
        ("v2-1_512-ema-pruned.safetensors", "eps", 512),
    ):
        found = RestorerHeader.from_name(name)
        assert (found.prediction_type, found.image_size) == (kind, size), name


@pytest.mark.parametrize("version", ["2", "99", "0", "", None])
def test_other_versions_are_refused(tmp_path: Path, version: str | None) -> None:
    """In the files: of a restorer's header and of an adapter's."""
    metadata = RestorerHeader(**OTHER).to_metadata()
    person = PFStorerHeader(**PERSON).to_metadata()
    for entries in (metadata, person):
        if version is None:
            del entries["format_version"]
        else:
            entries["format_version"] = version
    said = "does not say which version" if version is None else "update the pack"
    with pytest.raises(CheckpointError, match=rf"x\.safetensors.*{said}"):
        RestorerHeader.from_file(metadata, {}, "x.safetensors")
    with pytest.raises(CheckpointError, match=rf"ada\.safetensors.*{said}"):
        PFStorerHeader.from_file(person, "ada.safetensors")
    save_file({"token.embedding": torch.zeros(1, 4)}, tmp_path / "ada.safetensors", person)
    with pytest.raises(CheckpointError, match=said):
        pf.load_identity_adapter(tmp_path / "ada.safetensors")


def test_what_a_later_version_added_is_left_out() -> None:
    for header, entry in ((RestorerHeader(**OTHER), "restorer"), (PFStorerHeader(**PERSON), "adapter")):
        metadata = header.to_metadata()
        metadata[entry] = json.dumps({**json.loads(metadata[entry]), "of_next_year": 1})
        if isinstance(header, RestorerHeader):
            assert RestorerHeader.from_file(metadata, {}, "x") == header
        else:
            assert PFStorerHeader.from_file(metadata, "x") == header


@pytest.mark.parametrize("change", [{"null_lq": "none"}, {"reference_timestep": "never"}])
def test_an_adapter_of_unknown_choices_cannot_be_made(change: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=next(iter(change.values()))):
        PFStorerHeader(**{**PERSON, **change})


def test_files_say_what_they_are(tmp_path: Path, restorer: Restorer) -> None:
    """Of fp16 tensors, with format, version and header in their metadata; a person's with its notice."""
    from harness.stand_in_adapter import stand_in_adapter

    path = tmp_path / "x.safetensors"
    pf.save_restorer(restorer, path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert {"format", "format_version", "restorer"} <= metadata.keys()
    assert {value.dtype for value in load_file(path).values()} == {torch.float16}
    assert pf.load_restorer(path).header == restorer.header

    photos = torch.randn(3, 4, 6, 6)
    adapter = stand_in_adapter(restorer, photos, gamma=0.5)
    adapter.save(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "pfstorer.identity_adapter"
    assert "Biometric" in json.loads(metadata["adapter"])["notice"]
    loaded = pf.load_identity_adapter(path)
    assert isinstance(loaded, pf.IdentityAdapter)
    torch.testing.assert_close(loaded.references, photos.half().float())
    torch.testing.assert_close(loaded.context, adapter.context.half().float())
    torch.testing.assert_close(loaded.token, adapter.token)
    for site, block in adapter.blocks.items():
        assert loaded.blocks[site].attn1.heads == block.attn1.heads
        for key, value in block.state_dict().items():
            torch.testing.assert_close(loaded.blocks[site].state_dict()[key], value.half().float())


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("architecture", "painter", "'painter', which is not known here"),
        ("size_rule", "fixed", "size_rule 'fixed', which stablesr does not have"),
        ("condition", "control", "condition 'control'"),
    ],
)
def test_what_no_code_here_restores_with_is_refused(
    tmp_path: Path, restorer: Restorer, field: str, value: str, words: str
) -> None:
    path = tmp_path / "later.safetensors"
    pf.save_restorer(replace(restorer, header=replace(restorer.header, **{field: value})), path)
    with pytest.raises(CheckpointError, match=words):
        pf.load_restorer(path)


def test_other_alignments_are_refused() -> None:
    assert RestorerHeader().aligned == "", "of files without a header"
    with pytest.raises(CheckpointError, match="aligned must be empty or FFHQ, got 'ArcFace'"):
        RestorerHeader(aligned="ArcFace")


def test_the_schedule_is_the_header_s() -> None:
    header = RestorerHeader(beta_start=0.001, beta_end=0.02, num_train_timesteps=500)
    assert len(header.schedule) == 500
    assert header.schedule.betas[0].item() == pytest.approx(0.001)
    assert header.schedule.betas[-1].item() == pytest.approx(0.02)
    with pytest.raises(CheckpointError, match="beta_start"):
        RestorerHeader(beta_start=0.03, beta_end=0.02)
    with pytest.raises(CheckpointError, match="make no noise schedule"):
        RestorerHeader(beta_start=0.4, beta_end=0.5, num_train_timesteps=100_000)


def test_a_rescaled_schedule_ends_where_the_host_s_does() -> None:
    """At comfy.model_sampling's last alpha_bar."""
    signal = RestorerHeader(prediction_type="v", rescale_betas_zero_snr=True).schedule.alphas_cumprod
    assert signal[-1] == 4.8973451890853435e-08
    assert signal[0] == RestorerHeader().schedule.alphas_cumprod[0]


@pytest.mark.parametrize("start", ["lq", "noise"])
def test_sampling_starts_as_the_header_says(restorer: Restorer, start: str) -> None:
    other = replace(restorer, header=replace(restorer.header, start=start))
    latent, noise, seen = torch.ones(1, 4, 8, 8), torch.zeros(1, 4, 8, 8), list[torch.Tensor]()

    def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return x

    other.sample(other.condition(latent), 1, noise, denoise=denoise)
    assert seen[0].any() == (start == "lq")
