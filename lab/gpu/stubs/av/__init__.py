"""Stands in for PyAV, which is too large to carry: enough for the host's video types to import."""

import importlib.abc
import importlib.machinery
import sys
import types


class _Module(types.ModuleType):
    __path__ = []  # noqa: RUF012 - what makes it a package

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (), {})
        setattr(self, name, made)
        return made


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, fullname, path=None, target=None):
        if fullname.startswith("av."):
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec):
        return _Module(spec.name)

    def exec_module(self, module):
        pass


sys.meta_path.insert(0, _Finder())


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    made = type(name, (), {})
    globals()[name] = made
    return made
