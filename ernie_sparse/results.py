# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""What a command leaves and says: files of JSON, tables, pictures of training, and on what it ran."""

import hashlib
import json
import math
import os
import platform
import shlex
import subprocess
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import transformers

from .command_line import without_flag
from .errors import without_secrets
from .files import whole_file, write_text

if TYPE_CHECKING:
    from datasets import Dataset


class Record:
    """
    What a result cannot be run again without. Made when a command begins: what is edited while it goes on is not what runs.

    Args:
        prog (`str`): The command, such as `ernie-sparse finetune`.
        argv (`list[str]`): Its arguments. Where it goes on from is left out: the record runs from its beginning.
    """

    def __init__(self, prog: str, argv: list[str]):
        # Nor does it hold a secret.
        words = without_flag(without_flag(argv, "--resume-from-checkpoint"), "--hub-token")
        self.command = shlex.join([*prog.split(), *words])
        self.commit = commit()

    def environment(self) -> dict:
        """What this process runs on: the commit, the versions and the hardware."""
        return {"commit": self.commit, "versions": versions(), "hardware": hardware()}

    def facts(self) -> dict:
        """The command and what it runs on, for results.json."""
        return {"command": self.command, **self.environment()}


def environments(history: list[dict]) -> list[dict]:
    """
    What a training ran on, from which update (`step`): one entry, unless it went on after a stop with another commit, other
    versions or other hardware.
    """
    return [entry for entry in history if "hardware" in entry]


def commit() -> str | None:
    """The commit of these sources, `-dirty` where package or benchmarks have been changed; `None` outside a repository."""
    folder = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, check=True, timeout=30
        ).stdout.strip()

    try:
        # An installed copy may lie inside somebody else's repository.
        git("ls-files", "--error-unmatch", "__init__.py")
        changes = git("status", "--porcelain", "--", ".", ":(top,glob)benchmarks/**/*.py")
        return git("rev-parse", "HEAD") + ("-dirty" if changes else "")
    except (OSError, subprocess.SubprocessError):
        return None


def versions() -> dict[str, str]:
    """The versions of what a run needs."""
    from . import __version__

    return {
        "ernie-sparse": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def hardware() -> dict:
    """The processor, the threads, the memory and the GPU."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError, OSError):
        memory = None
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": None if memory is None else round(memory, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def as_json(content, is_data: bool = False) -> object:
    """
    What JSON can hold of `content`: numbers that are not finite become `None`, and passwords and tokens in URLs `***`.

    Args:
        is_data (`bool`): Whether it is what stands in the user's rows, of which every word stays.
    """
    if isinstance(content, Mapping):
        return {as_json(str(name), is_data): as_json(value, is_data) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [as_json(value, is_data) for value in content]
    content = content.item() if isinstance(content, np.generic) else content
    content = content.value if isinstance(content, Enum) else content
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if content is None or isinstance(content, bool | int):
        return content
    return str(content) if is_data else without_secrets(str(content))


def write_json(path: Path, content: Mapping, is_data: bool = False):
    """Write a file of JSON ([`as_json`]) as a whole or not at all, and its folder if need be."""
    write_text(path, json.dumps(as_json(content, is_data), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def file_digest(path: Path) -> str:
    """A digest of what a file holds."""
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def digest(content) -> str:
    """A short digest of text, or of values of JSON."""
    text = content if isinstance(content, str) else json.dumps(content, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).hexdigest()


def contents_digest(*parts: "Dataset") -> str:
    """A digest of the rows of some data sets: of what stands in them and in which order, not of how they are stored."""
    digest = hashlib.blake2b(digest_size=16)
    for rows in parts:
        digest.update(f"{len(rows)} {rows.column_names}".encode())
        for table in rows.with_format("arrow").iter(1000):
            for column in table.columns:
                _add_contents(digest, column.combine_chunks())
    return digest.hexdigest()


def _add_contents(digest, column):
    """Add an array of Arrow: its lists by their lengths and all that stands in them."""
    if column.null_count:
        digest.update(np.packbits(column.is_valid().to_numpy(zero_copy_only=False)))
    if hasattr(column, "value_lengths"):
        digest.update(column.value_lengths().fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64))
        _add_contents(digest, column.flatten())
    elif hasattr(column, "field"):
        for part in column.flatten():
            _add_contents(digest, part)
    else:
        values = column.to_numpy(zero_copy_only=False)
        digest.update(repr(values.tolist()).encode() if values.dtype == object else values.tobytes())


def print_table(rows: list[tuple[str, object]]):
    """Two aligned columns on standard output."""
    width = max(len(name) for name, _ in rows)
    print()
    for name, value in rows:
        print(f"  {name:<{width}}  {f'{value:.4f}' if isinstance(value, float) else without_secrets(str(value))}")
    print(flush=True)


def plot_history(history: list[dict], path: Path) -> bool:
    """Loss, task loss, consistency loss and evaluation loss over the steps, from Trainer's log; `False` when nothing was
    logged or matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    groups = [("loss", "task_loss", "eval_loss"), ("consistency_loss",)]
    curves = {name: _curve(history, name) for group in groups for name in group}
    groups = [group for group in groups if any(curves[name] for name in group)]
    if not groups:
        return False
    figure = Figure(figsize=(7, 1 + 2.5 * len(groups)), layout="constrained")
    for axes, group in zip(figure.subplots(len(groups), squeeze=False)[:, 0], groups, strict=True):
        for name in group:
            if curves[name]:
                axes.plot(*zip(*curves[name], strict=True), marker="o", markersize=3, label=name.replace("_", " "))
        axes.set(xlabel="step", ylabel="nats per prediction")
        axes.grid(alpha=0.3)
        axes.legend()
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    return True


def _curve(history: list[dict], name: str) -> list[tuple[int, float]]:
    return [(entry["step"], entry[name]) for entry in history if name in entry and math.isfinite(entry[name])]
