"""What the benchmark of the published layouts refuses."""

import math
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image

from harness import stand_ins
from harness.client import Execution
from lab.benchmarks import layouts

CASE = layouts.CASES["v2.pth"]
LOG = "model weight dtype torch.bfloat16, manual cast: None\nmodel_type EPS\n"


def picture(side: int = layouts.SIDE, flat: bool = False) -> bytes:
    file = BytesIO()
    gradient = Image.new("L", (256, 256), 128) if flat else Image.linear_gradient("L")
    gradient.convert("RGB").resize((side, side)).save(file, "PNG")
    return file.getvalue()


def told(variant: str) -> Execution:
    return Execution("1", texts=[("restorer", f"Taken for diffbir {variant}: eps, tiles of 512 pixels.")])


def test_what_restores_is_accepted() -> None:
    layouts.check(CASE, told("v2"), LOG, picture())


@pytest.mark.parametrize(
    ("variant", "log", "shown", "said"),
    [
        ("v1_face", LOG, picture(), "the node says 'Taken for diffbir v1_face"),
        ("v2.1", LOG, picture(), "the node says 'Taken for diffbir v2.1"),
        ("v2", LOG.replace("EPS", "V_PREDICTION"), picture(), "did not say model_type EPS"),
        ("v2", LOG + "unet missing: ['a']", picture(), "keys are missing"),
        ("v2", LOG + "unet unexpected: ['a']", picture(), "keys are unexpected"),
        ("v2", LOG.replace("bfloat16", "float32"), picture(), "weights are not bf16"),
        ("v2", LOG, picture(64), "the picture has the shape"),
        ("v2", LOG, picture(flat=True), "the picture shows nothing"),
    ],
)
def test_what_went_wrong_is_told(variant: str, log: str, shown: bytes, said: str) -> None:
    with pytest.raises(RuntimeError, match=said):
        layouts.check(CASE, told(variant), log, shown)


def test_only_the_stand_ins_of_one_case_are_kept(tmp_path: Path) -> None:
    for source in {source for _, source in CASE.files.values()}:
        (tmp_path / source).touch()
    (tmp_path / "face_full_v1.ckpt").touch()
    kept = layouts.prepared(CASE, tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept.values()) == sorted(tmp_path / name for name in kept)


@pytest.mark.parametrize("name", ["face_full_v1.ckpt", "dual_pivot.ckpt"])
def test_the_stand_in_of_a_full_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = stand_ins.diffbir_shapes()
    assert (len(shapes), sum(map(math.prod, shapes.values()))) == (2405, 1_723_207_823)
    encoder, control = "cond_encoder.encoder.norm_out.weight", "control_model.zero_convs.0.0.bias"
    index = "preprocess_model.layers.0.residual_group.blocks.0.attn.relative_position_index"
    chosen = {key: shapes[key] for key in ("betas", encoder, control, index)}
    monkeypatch.setattr(stand_ins, "diffbir_shapes", lambda: chosen)
    stand_ins.FILES[name](tmp_path / name)
    tensors = torch.load(tmp_path / name)
    tensors = tensors if name.startswith("dual") else tensors["state_dict"]
    assert {key: tuple(value.shape) for key, value in tensors.items()} == chosen
    autoencoder = encoder.replace("cond_encoder", "first_stage_model")
    assert torch.equal(tensors[encoder], stand_ins.formula(autoencoder, chosen[encoder]))
    assert torch.equal(tensors[control], stand_ins.formula("zero_convs.0.0.bias", chosen[control]))
    assert not tensors[index].is_floating_point()
    assert (tmp_path / name).stat().st_size < 100_000
