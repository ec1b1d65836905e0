"""The registry's archive of the pack: what is in it, and that it runs where nothing else of ours is."""

import json
import zipfile
from fnmatch import fnmatch
from io import BytesIO
from pathlib import Path

import pytest
import requests
from PIL import Image

from harness import ROOT, archive
from harness.client import ComfyClient
from harness.console import HarnessError
from harness.host import PACK, ComfyServer

NEEDED = {
    "__init__.py", "pyproject.toml", "requirements.txt", "LICENSE", "README.md", "nodes/__init__.py",
    "assets/pfstorer_tiny.safetensors", "assets/pfstorer_tiny_diffbir.safetensors",
    "assets/face_recognizers/dlib_resnet29.safetensors",
    "assets/pfstorer_tiny_clr_face.safetensors",
    "assets/identity_masks/pfstorer_tiny_clr_face_predicted.safetensors",
    "assets/identity_adapters/P007.safetensors", "assets/identity_adapters/P007_lora.safetensors",
    "assets/identity_adapters/P007_dual_pivot.safetensors",
    "pfstorer_core/models/data/clip_merges.txt.gz", "workflows/3 Restore a person.json",
    "workflows/3 Restore a person.jpg", "workflows/Restore a person.app.json",
    "workflows/api/restore_and_upscale.json",
    "web/docs/LoadBaseRestorer.md", "web/docs/LoadBaseRestorer/zh.md", "locales/zh/nodeDefs.json",
    "pfstorer_core/imaging/faces/data/blazeface.safetensors",
    "pfstorer_core/imaging/faces/data/blazeface.LICENSE.txt",
    "pfstorer_core/models/data/clip_merges.LICENSE.txt", "assets/examples/P007_bad.png",
    "assets/examples/LICENSE.txt", "subgraphs/Restore Faces.json",
}  # fmt: skip
UNWANTED = (
    "tests/*", "harness/*", "lab/*", ".*", "assets/*judges*", "assets/*/drawn*", "docs/*.png", "docs/*.json",
    "assets/registry/*", "Makefile", "requirements-dev.txt", "*.pyc",
)  # fmt: skip
MEGABYTES = 95
"""At most; nearly all of it are the embedded networks."""


@pytest.fixture(scope="module")
def zipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "node.zip"
    archive.build(path)
    return path


def test_it_holds_what_runs_and_no_more(zipped: Path) -> None:
    with zipfile.ZipFile(zipped) as opened:
        names = set(opened.namelist())
    assert sorted(NEEDED - names) == []
    assert [name for name in names if any(fnmatch(name, pattern) for pattern in UNWANTED)] == []
    assert zipped.stat().st_size < MEGABYTES * 1e6
    large = {name for name in names if (ROOT / name).stat().st_size > 0.5e6}
    assert {Path(name).suffix for name in large} == {".safetensors"}


def test_a_tracked_file_that_is_gone_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "ROOT", tmp_path)
    with pytest.raises(HarnessError, match="is no git repository"):
        archive.build(tmp_path / "node.zip")
    monkeypatch.setattr(archive, "git", lambda *arguments: [] if "--ignored" in arguments else ["gone.py"])
    with pytest.raises(HarnessError, match=r"gone\.py is tracked by git and not there"):
        archive.build(tmp_path / "node.zip")


def test_it_runs_in_a_fresh_comfyui(zipped: Path, tmp_path: Path) -> None:
    pack = tmp_path / "custom_nodes" / PACK
    with zipfile.ZipFile(zipped) as opened:
        opened.extractall(pack)
    prompt = json.loads((pack / "workflows" / "api" / "restore_a_person.json").read_text(encoding="utf-8"))
    with ComfyServer(threads=1, stock=True, base=tmp_path) as server, server.client() as client:
        assert not pack.is_symlink()
        for made in prompt.values():
            if made["class_type"] == "GammaSheet":
                made["inputs"]["steps"] = 1
        images = client.run(prompt).images()
        assert images
        assert all(Image.open(BytesIO(client.view(one))).size[0] >= 48 for one in images)
        assert_front_end_finds_it(client)
        assert "Traceback" not in server.log.read_text(errors="replace")


def assert_front_end_finds_it(client: ComfyClient) -> None:
    """Help pages and templates are served from the archive's folders."""
    help_page = requests.get(f"{client.url}/extensions/{PACK}/docs/LoadBaseRestorer.md", timeout=30)
    assert help_page.ok
    assert "3 Restore a person" in client.get("/workflow_templates")[PACK]
