"""Lets an interpreter run without some of the installed distributions: neither importable nor listed."""

import importlib.machinery
import importlib.metadata
import json
import re
import sys


def hide(text):
    """`text` is JSON: {"distributions": [canonical name, ...], "modules": [dotted name, ...]}."""
    hidden = json.loads(text)
    distributions, modules = frozenset(hidden["distributions"]), frozenset(hidden["modules"])

    class Visible(importlib.machinery.PathFinder):
        """What is hidden is not found, which is all that a missing package does."""

        @classmethod
        def find_spec(cls, fullname, path=None, target=None):
            return None if fullname in modules else super().find_spec(fullname, path, target)

        @classmethod
        def find_distributions(cls, *arguments, **options):
            for found in super().find_distributions(*arguments, **options):
                if re.sub(r"[-_.]+", "-", found.metadata["Name"] or "").lower() not in distributions:
                    yield found

    finder = importlib.machinery.PathFinder
    sys.meta_path[:] = [Visible if entry is finder else entry for entry in sys.meta_path]
