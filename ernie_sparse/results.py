# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""What a command leaves and says: files of JSON, tables, pictures of training, and on what it ran."""

import json
import math
import os
import platform
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path

import torch
import transformers

from .command_line import without_flag


class Record:
    """
    What a result cannot be run again without. Made when a command begins: what is edited while it goes on is not what runs.

    Args:
        prog (`str`): The command, such as `ernie-sparse finetune`.
        argv (`list[str]`): Its arguments. Where it goes on from is left out: the record runs from its beginning.
    """

    def __init__(self, prog: str, argv: list[str]):
        self.command = shlex.join([*prog.split(), *without_flag(argv, "--resume-from-checkpoint")])
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


def write_json(path: Path, content: Mapping):
    """Write a file of JSON as a whole or not at all, and its folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.partial")
    temporary.write_text(json.dumps(content, indent=2, default=str, ensure_ascii=False) + "\n")
    temporary.replace(path)


def print_table(rows: list[tuple[str, object]]):
    """Two aligned columns on standard output."""
    width = max(len(name) for name, _ in rows)
    print()
    for name, value in rows:
        print(f"  {name:<{width}}  {f'{value:.4f}' if isinstance(value, float) else value}")
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
        axes.set(xlabel="step", ylabel="nats per prediction", ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120)
    return True


def _curve(history: list[dict], name: str) -> list[tuple[int, float]]:
    return [(entry["step"], entry[name]) for entry in history if name in entry and math.isfinite(entry[name])]
