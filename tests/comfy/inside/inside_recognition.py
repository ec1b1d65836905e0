"""Recognisers in the host: the core's numbers, and gradients in its inference mode."""

from pathlib import Path

import comfy.model_management as mm
import folder_paths
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from pfstorer.nodes.check_photos import CheckPhotos
from pfstorer.nodes.examples import ExamplePictures
from pfstorer.nodes.host.folders import ASSETS
from pfstorer.nodes.host.recognition import HostedRecognizer
from pfstorer.nodes.likeness import LikenessReport
from pfstorer.nodes.recognition import LoadFaceRecognizer
from pfstorer.pfstorer_core.models.iresnet import IResNet, IResNetConfig
from pfstorer.pfstorer_core.recognition import Recognizer, cosines
from pfstorer.pfstorer_core.recognition.likeness import strangers
from safetensors.torch import save_file
from torch import Tensor


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> IResNet:
    torch.manual_seed(0)
    network = IResNet(IResNetConfig(4, (4, 6, 8, 8), (1, 1, 1, 1), 10)).eval().requires_grad_(False)
    save_file(network.state_dict(), tmp_path / "own.safetensors")
    (tmp_path / "w600k_r50.onnx").write_bytes(b"\x08")
    found = ([str(tmp_path)], {".safetensors", ".onnx"})
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "face_recognizers", found)
    return network


def loaded() -> HostedRecognizer:
    with torch.inference_mode():
        return LoadFaceRecognizer.execute("own.safetensors").args[0]


def picture(seed: int = 0) -> Tensor:
    return torch.rand(1, 3, 60, 50, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_the_core_s_numbers_from_a_queued_prompt(network: IResNet) -> None:
    hosted = loaded()
    expected = Recognizer(network).embed(picture())
    with torch.inference_mode():
        torch.testing.assert_close(hosted.loaded().embed(picture()), expected)
    assert hosted.name == "own"
    assert not hosted.patcher.is_dynamic()


def test_gradients_flow_although_the_host_moved_the_weights_in_inference_mode(network: IResNet) -> None:
    hosted = loaded()
    with torch.inference_mode():
        hosted.loaded()
        # A move to another device makes new tensors, in the mode in which it is made.
        for module in hosted.recognizer.network.modules():
            for name, value in module.named_parameters(recurse=False):
                setattr(module, name, torch.nn.Parameter(value.clone(), requires_grad=False))
            for name, value in module.named_buffers(recurse=False):
                setattr(module, name, value.clone())
        with torch.inference_mode(False), torch.enable_grad():
            pictures = picture().requires_grad_()
            loss = cosines(hosted.embed(pictures), hosted.embed(picture(1))).sum()
            (gradient,) = torch.autograd.grad(loss, pictures)
    assert gradient.abs().sum() > 0


def test_the_host_puts_it_away(network: IResNet) -> None:
    hosted = loaded()
    hosted.loaded()
    assert hosted.patcher in [entry.model for entry in mm.current_loaded_models]
    mm.unload_all_models()
    assert hosted.patcher not in [entry.model for entry in mm.current_loaded_models]


def test_programs_are_refused(network: IResNet) -> None:
    with pytest.raises(ValueError, match=r"^w600k_r50\.onnx is an ONNX file, .*convert-recognizer"):
        LoadFaceRecognizer.execute("w600k_r50.onnx")
    with pytest.raises(FileNotFoundError, match=r"No file named none\.pth"):
        LoadFaceRecognizer.execute("none.pth")


def test_a_report_says_by_whom_the_result_was_guided(network: IResNet) -> None:
    hosted, other = loaded(), loaded()
    with torch.no_grad():
        other.recognizer.network.get_parameter("fc.weight").mul_(2)
    model = ModelPatcher(torch.nn.Linear(1, 1), torch.device("cpu"), torch.device("cpu"))
    guided = model.clone()
    guided.set_additional_models("guide", [loaded().patcher])  # loaded once more
    photo = (strangers()[:1].movedim(1, -1), strangers()[1:2].movedim(1, -1))
    given = {"photo_0": photo[0], "photo_1": photo[1]}
    for chosen, warned in ((model, False), (guided, True)):
        with torch.inference_mode():
            said, sheet = LikenessReport.execute(
                other, photo[0], given, bad=photo[0][:, ::4, ::4], second=hosted, model=chosen
            ).args
        assert said.count("Likeness by own") == 2
        assert said.count("is guided by own") == warned
        assert sheet.shape[-1] == 3
    with pytest.raises(ValueError, match=r"different numbers of pictures \(bad 2, result 1\)"):
        LikenessReport.execute(hosted, photo[0], given, bad=torch.cat(photo))


def test_photos_that_are_fit_are_passed_on_and_none_of_them_is_an_empty_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As separate batches of several sizes, and as the host gives a list."""
    found = ([str(ASSETS / "face_recognizers")], {".safetensors"})
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "face_recognizers", found)
    own, wrong = (ExamplePictures.execute(f"{who}: five photos").args[0] for who in ("P007", "P008"))
    with torch.inference_mode():
        photos, sheet, report = CheckPhotos.execute(
            {"photo_0": [own, wrong[2:3, :300]], "photo_1": [torch.full((1, 200, 300, 3), 0.5)]}, size=[256]
        ).args
    assert photos.shape == (5, 512, 512, 3)
    assert sheet.shape[-1] == 3
    verdicts = [line.split(" (")[0] for line in report.splitlines()]
    assert verdicts[:7] == [
        *(f"Photo {number}: good" for number in range(1, 6)),
        "Photo 6: leave out, another person", "Photo 7: leave out, no face is found.",
    ]  # fmt: skip
    nothing, sheet, _ = CheckPhotos.execute({"photo_0": [torch.full((1, 200, 300, 3), 0.5)]}).args
    assert "Check Photos says why" in nothing.message
    assert sheet.shape[-1] == 3
    with pytest.raises(ValueError, match="size got a list of 2 different values"):
        CheckPhotos.execute({"photo_0": [own]}, size=[256, 512])
