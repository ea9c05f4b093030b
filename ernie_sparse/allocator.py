# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""What the C library does with the memory of tensors that are no longer there; it does nothing where that is not glibc."""

import ctypes
import os
import sys


def keep_freed_memory():
    """
    Have the memory that one step has freed given to the next one: by default large pieces go back to the system, whose new pages
    cost a tenth of a step on a CPU. What `GLIBC_TUNABLES` says stays.
    """
    library = _glibc()
    if library is not None and "GLIBC_TUNABLES" not in os.environ:
        trim_threshold, mmap_threshold, largest = -1, -3, 2**30
        for parameter in (mmap_threshold, trim_threshold):
            library.mallopt(parameter, largest)


def give_back_freed_memory():
    """Give the system back what has been freed until now."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    return library if hasattr(library, "gnu_get_libc_version") else None
