# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Tells other libraries of our models when somebody imports them: importing them here would take longer than all of ours."""

import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder
from types import ModuleType


class _Finder(MetaPathFinder):
    """Calls a function with one module as soon as that is imported."""

    def __init__(self, name: str, register: Callable[[ModuleType], None]):
        self.name, self.register = name, register

    def find_spec(self, name, path=None, target=None):
        spec = PathFinder.find_spec(name, path) if name == self.name else None
        if spec is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType):
                execute(module)
                self.register(module)

            spec.loader.exec_module = exec_module
        return spec


def when_imported(name: str, register: Callable[[ModuleType], None]):
    """Call `register` with the module of that name, now if it is imported, or when it is."""
    if name in sys.modules:
        register(sys.modules[name])
    else:
        sys.meta_path.insert(0, _Finder(name, register))
