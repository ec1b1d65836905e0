"""`python -m harness.archive [FILE]`: the registry's archive of the pack, as `comfy node publish` makes it.

That zips the files that git tracks, less those that .comfyignore names in .gitignore's syntax.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from . import CACHE, ROOT
from .console import HarnessError, run_main, say

IGNORE = ".comfyignore"
PLACEHOLDER = "example.org"
LARGEST = 5
"""Files that are named with their size."""


def main() -> None:
    path = Path(sys.argv[1]) if sys.argv[1:] else CACHE / "pfstorer.zip"
    names = build(path)
    say(f"{path}: {len(names)} files, {path.stat().st_size / 1e6:.1f} MB")
    for name in sorted(names, key=lambda name: -(ROOT / name).stat().st_size)[:LARGEST]:
        say(f"  {(ROOT / name).stat().st_size / 1e6:6.2f} MB  {name}")
    if PLACEHOLDER in (ROOT / "pyproject.toml").read_text(encoding="utf-8"):
        say(f"pyproject.toml still names {PLACEHOLDER}: put in the repository's address before publishing")


def build(path: Path) -> list[str]:
    """Write the archive; returns the names in it.

    Raises:
        HarnessError: this is no git repository, or a tracked file is not there.
    """
    tracked = git("ls-files")
    ignored = set(git("ls-files", "--cached", "--ignored", f"--exclude-from={IGNORE}"))
    names = [name for name in tracked if name not in ignored]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            if not (ROOT / name).is_file():  # the registry would leave it out and go on
                raise HarnessError(f"{name} is tracked by git and not there: restore or remove it")
            archive.write(ROOT / name, name)
    return names


def git(*arguments: str) -> list[str]:
    """The lines that git answers. Names that are not ASCII come quoted, as the registry gets them, too."""
    try:
        result = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise HarnessError("git is not installed, which knows the files that are published") from None
    except subprocess.CalledProcessError as error:
        raise HarnessError(f"{ROOT} is no git repository: {error.stderr.strip()}") from None
    return result.stdout.splitlines()


if __name__ == "__main__":
    run_main(main)
