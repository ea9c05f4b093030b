# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
A command that is killed at a call of a function, `python killed.py MODULE:NAME NUMBER before|after ARGUMENTS…`: nothing of
Python's runs afterwards, as in a power cut.
"""

import importlib
import os
import signal
import sys

import torch

from ernie_sparse import cli


def killed_at(place: str, number: int, when: str):
    module, _, path = place.partition(":")
    owner = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    function, calls = getattr(owner, name), [0]

    def counted(*args, **kwargs):
        calls[0] += 1
        if when == "before" and calls[0] == number:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **kwargs)
        if calls[0] == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, counted)


if __name__ == "__main__":
    torch.set_num_threads(1)
    killed_at(sys.argv[1], int(sys.argv[2]), sys.argv[3])
    sys.exit(cli.main(sys.argv[4:]))
