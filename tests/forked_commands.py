# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""A command in a fork of this process, which has imported everything once; what may happen to it, and what it may answer."""

import os
import re
import shlex
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import datasets
from tqdm import tqdm

from ernie_sparse import cli

# After so long a command hangs.
SECONDS = 120
# But for what torch logs where it is told of a worker's end within an import.
BEGIN_OF_TRACEBACK = re.compile(r"(?<!\] )Traceback \(most recent call last\)")
# Of Python's own thread that hands tensors on, in the process that is left, when the other one is gone; and what Python says of an
# iterator of torch's that was never finished and is thrown away.
OTHERS_TRACEBACK = re.compile(
    r"(Traceback \(most recent call last\):\n  File \"[^\n]*resource_sharer\.py|Exception ignored in[^\n]*\n)"
    r".*?\n\w+Error[^\n]*",
    re.DOTALL,
)


class Answer(NamedTuple):
    code: int
    text: str


class Found(Exception):
    """What must not be."""


class Lost(Found):
    """What is no longer there, or cannot be had any more."""


def run(
    folder: Path, words: tuple[str, ...], prepare: Callable = lambda: None, meddle: Callable = lambda pid, seconds: None
) -> Answer:
    """
    A command in a fork of this process.

    Args:
        folder (`Path`): Where it starts.
        words (`tuple[str, ...]`): The command.
        prepare (`Callable`): Called in the fork before the command.
        meddle (`Callable`): Called again and again beside it, with its process id and the seconds since it began.
    """
    ours, its = os.pipe()
    os.set_blocking(ours, False)
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        _be_command(folder, words, prepare, its)
    os.close(its)
    begin, text, status, is_late = time.monotonic(), b"", None, False
    while status is None:
        text += _read(ours)
        ended, code = os.waitpid(pid, os.WNOHANG)
        if ended:
            status = os.waitstatus_to_exitcode(code)
        elif time.monotonic() - begin > SECONDS:
            is_late = True
            os.killpg(pid, signal.SIGKILL)
        else:
            meddle(pid, time.monotonic() - begin)
        time.sleep(0.005)
    try:
        # Processes that it has left behind.
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    text += _read(ours)
    os.close(ours)
    answer = Answer(status, text.decode(errors="replace"))
    with (folder / "answers.txt").open("a", errors="backslashreplace") as file:
        file.write(f"$ ernie-sparse {shlex.join(words)}\n{answer.text}\nexit code {status}\n\n")
    if is_late:
        raise Found(f"hangs: {last_line(answer.text)}")
    return answer


def _read(pipe: int) -> bytes:
    try:
        return os.read(pipe, 1 << 20)
    except BlockingIOError:
        return b""


def _be_command(folder: Path, words: tuple[str, ...], prepare: Callable, pipe: int):
    code = 1
    try:
        os.setsid()
        for number in (1, 2):
            os.dup2(pipe, number)
        os.close(pipe)
        # These may have been of files, in which one can seek.
        sys.stdout, sys.stderr = (open(number, "w", errors="backslashreplace", closefd=False) for number in (1, 2))
        os.chdir(folder)
        datasets.config.HF_DATASETS_CACHE = folder / "cache"
        # The lock of its bars is one of all forks otherwise, and a killed one may have taken it along.
        tqdm.set_lock(threading.RLock())
        prepare()
        code = cli.main(list(words))
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        # Before or after the command itself, which is Python's own.
        code = 128 + signal.SIGINT
    except BaseException:
        traceback.print_exc()
    finally:
        # Too late to stop anything.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            # Whatever happens: it must not come back as another process of the pool.
            os._exit(code)


def last_line(text: str) -> str:
    lines = [line for line in text.replace("\r", "\n").split("\n") if line.strip()]
    return lines[-1][:300] if lines else ""


def check_answer(answer: Answer, *signals: int):
    """Raise [`Found`] for an answer that no command may give, whatever happens to it."""
    if BEGIN_OF_TRACEBACK.search(OTHERS_TRACEBACK.sub("", answer.text)):
        raise Found(f"traceback: {last_line(answer.text)}")
    if answer.code not in (0, 2, *(-number for number in signals), *(128 + number for number in signals)):
        raise Found(f"exit code {answer.code}: {last_line(answer.text)}")
    if answer.code == 2:
        # A bar's line ends in no line feed.
        errors = [line for line in answer.text.split("\n") if ": error: " in line]
        if len(errors) != 1 or not errors[0].startswith("ernie-sparse "):
            raise Found(f"{len(errors)} lines of errors: {errors or last_line(answer.text)}")
