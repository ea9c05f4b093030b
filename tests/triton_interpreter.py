# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Triton's interpreter, which runs kernels on a CPU: kernels have to be defined behind this, and its faults are mended."""

import importlib.util
import os
from importlib.metadata import version


def use():
    """Nothing where Triton is not installed, or is older than 3.6 (torch before 2.10 brings that), whose interpreter is another."""
    if importlib.util.find_spec("triton") is None or tuple(map(int, version("triton").split(".")[:2])) < (3, 6):
        return
    os.environ["TRITON_INTERPRET"] = "1"
    from triton.runtime import interpreter

    patch_tensor, patch, restore = (
        interpreter._patch_lang_tensor,
        interpreter._patch_lang,
        interpreter._LangPatchScope.restore,
    )
    patched = set()

    def patch_tensor_for_numpy(tensor, scope):
        # As `int` of an array of one number, which numpy refuses from 2.4 on.
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    def patch_once(function):
        # Once per launch, and not on every call of a function by a kernel: that takes most of the time.
        modules = frozenset(id(value) for value in function.__globals__.values() if type(value) is type(os))
        if modules in patched:
            return None
        patched.add(modules)
        return patch(function)

    def forget(scope):
        patched.clear()
        restore(scope)

    interpreter._patch_lang_tensor = patch_tensor_for_numpy
    interpreter._patch_lang = patch_once
    interpreter._LangPatchScope.restore = forget
