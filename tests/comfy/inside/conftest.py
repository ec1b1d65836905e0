"""For tests in a process of their own, where ComfyUI is importable and the pack has a package name."""

import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]

# The host's modules lie at the top of sys.path (its nodes.py is not our nodes/), and read sys.argv.
sys.path.insert(0, str(ROOT / ".cache" / "ComfyUI"))
sys.argv = [
    "main.py",
    "--cpu",
    "--use-pytorch-cross-attention",
    "--base-directory",
    os.environ["PFSTORER_BASE"],
]
import comfy.options  # noqa: E402
import comfy_aimdo.control  # noqa: E402

comfy_aimdo.control.init()  # as the host's main.py does, before its modules that look for it

comfy.options.enable_args_parsing()

spec = importlib.util.spec_from_file_location(
    "pfstorer", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
)
assert spec is not None
assert spec.loader is not None
sys.modules["pfstorer"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["pfstorer"])
