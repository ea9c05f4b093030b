# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""A process for every measurement: one that crashes or takes too long does not take the others along."""

import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from transformers.utils import logging

from ernie_sparse.results import hardware, versions

from . import ROOT

# How much of a process's output stands in its failure.
TAIL_LINES = 30
# What a process may take to clear up once it has said what it found.
END_SECONDS = 5
# Between two signs of life of a process that says nothing.
QUIET_SECONDS = 60


class Outcome(NamedTuple):
    """What a process found, or why it found nothing, with the end of its output."""

    found: dict | None
    error: str | None = None
    tail: list[str] = ()


def context(on_gpu: bool) -> multiprocessing.context.BaseContext:
    """
    Where processes come from. Each is a fork of one that has imported everything and done nothing, so that none waits for imports
    and each begins without a GPU in use; or, where the GPU cannot be used behind a fork, a process from scratch.
    """
    # The one that forks is started with this environment alone.
    paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    # To ask whether there is a GPU must not begin to use it.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["benchmarks.gpu_queue.queue", __name__])
    if on_gpu:
        process = found.Process(target=_use_gpu)
        process.start()
        process.join()
        if process.exitcode:
            return multiprocessing.get_context("spawn")
    return found


def _use_gpu():
    torch.zeros(1, device="cuda").cpu()


def launch(
    measure: Callable[[dict, Callable], dict],
    settings: dict,
    limit: float,
    say: Callable[[str], None],
    processes: multiprocessing.context.BaseContext,
) -> Outcome:
    """
    `measure(settings, say)` in a process of its own, which is ended, with all it has started, after `limit` seconds.

    Args:
        measure (`Callable`): A function of a module.
        say (`Callable`): Called with every line of progress.
        processes (`BaseContext`): [`context`].
    """
    start, last = time.monotonic(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        receiver, sender = multiprocessing.Pipe(duplex=False)
        process = processes.Process(target=_measure, args=(sender, measure, settings, str(log)))
        process.start()
        sender.close()
        outcome = None
        try:
            while outcome is None:
                now = time.monotonic()
                if now - start > limit:
                    outcome = Outcome(None, f"stopped after {now - start:.0f} s, its share of the time")
                elif receiver.poll(min(1.0, max(0.0, start + limit - now))):
                    last = now
                    word, content = _received(receiver, process)
                    if word == "say":
                        say(content)
                    else:
                        outcome = Outcome(content) if word == "found" else Outcome(None, content)
                        process.join(END_SECONDS)
                elif now - last > QUIET_SECONDS:
                    last = now
                    say(f"… {now - start:.0f} s")
        finally:
            _end(process)
            receiver.close()
        if outcome.error is None:
            return outcome
        lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
        return outcome._replace(tail=lines[-TAIL_LINES:])


def _received(receiver, process) -> tuple[str, object]:
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        code = process.exitcode
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return "error", f"the process ended with {how}"


def _end(process):
    """The process and what it has started, once it is known what came of it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()
    process.join()


def _measure(sender, measure: Callable[[dict, Callable], dict], settings: dict, log: str):
    """What a process does: its output goes to `log`, and what is to be seen to `sender`."""
    os.setsid()
    sys.stdout.flush()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    sys.stdout, sys.stderr = (os.fdopen(os.dup(stream), "w", buffering=1) for stream in (1, 2))
    logging.set_verbosity_error()
    torch.manual_seed(settings.get("seed", 0))
    try:
        results = measure(settings, lambda text: sender.send(("say", text)))
        facts = {"versions": {**versions(), **_more_versions()}, "hardware": hardware()}
        sender.send(("found", {**facts, "results": results}))
    except Exception as error:
        traceback.print_exc()
        text = " ".join(str(error).split())
        sender.send(("error", f"{type(error).__name__}: {text[:300]}"))
    finally:
        sender.close()


def _more_versions() -> dict[str, str | None]:
    try:
        from triton import __version__ as triton
    except ImportError:
        triton = None
    return {"triton": triton, "cuda": torch.version.cuda}
