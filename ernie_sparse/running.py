# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""What the training verbs share: arguments, where to go on, loading a checkpoint, and what is left when they are done."""

import argparse
import csv
import dataclasses
import json
import math
import os
import platform
import re
import shlex
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import datasets
import numpy as np
import torch
import transformers
from datasets import Dataset, DatasetDict
from transformers import AutoConfig, HfArgumentParser, Trainer, TrainerCallback, TrainingArguments

from .configuration_ernie_sparse import ErnieSparseConfig
from .sparse_pattern import SparsePattern
from .trainer import SaorArguments


class ArgumentParser(argparse.ArgumentParser):
    """Of a verb: what is wrong is raised, without the usage before it, and `--help` is pointed at."""

    def error(self, message: str):
        raise ValueError(f"{message} ({self.prog} --help shows every flag)")


class _DataclassParser(ArgumentParser, HfArgumentParser):
    """As [`ArgumentParser`], of dataclasses."""


@dataclass
class RunArguments(TrainingArguments):
    """transformers' `TrainingArguments`, all of them, with the defaults of a command-line run."""

    _argument_group_name: ClassVar[str] = "training: every flag of transformers.TrainingArguments"

    output_dir: str = field(metadata={"help": "Where checkpoints, the final model and results.json are written."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: no, steps or epoch."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to write a checkpoint: no, steps or epoch."})
    save_total_limit: int | None = field(default=2, metadata={"help": "How many checkpoints to keep."})
    logging_steps: float = field(default=50, metadata={"help": "Log every so many steps (below 1: a share of all)."})
    resume_from_checkpoint: str | None = field(
        default=None,
        metadata={"help": "Go on from a checkpoint: 'last' for the newest one in --output-dir, or its folder."},
    )

    def __post_init__(self):
        if not torch.accelerator.is_available():
            self.use_cpu = True
            self.dataloader_pin_memory = False
        super().__post_init__()
        # Trainer would stumble over them later, when something has been written.
        at_least_one = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
        not_negative = ("learning_rate", "weight_decay", "max_grad_norm", "dataloader_num_workers", "num_train_epochs")
        check_least(self, {**dict.fromkeys(at_least_one, 1), **dict.fromkeys(not_negative, 0)})


def check_least(arguments, least: Mapping[str, float]):
    """Raise a `ValueError` for a field of `arguments` that is set and is not at least what `least` has for it."""
    for name, low in least.items():
        value = getattr(arguments, name)
        # So that nan is refused as well.
        if value is not None and not value >= low:
            raise ValueError(f"--{name.replace('_', '-')} {value}: it must be at least {low}")


def parse_arguments(
    argv: list[str], verb: str, usage: str, description: str, *dataclass_types, defaults: Mapping | None = None
) -> tuple:
    """The filled dataclasses of a verb's command line, those given, then SAOR's and the training's; `defaults` stand in
    for their own."""
    parser = _DataclassParser(
        [*dataclass_types, SaorArguments, RunArguments],
        prog=f"ernie-sparse {verb}",
        usage=f"ernie-sparse {verb} {usage}",
        description=description,
        allow_abbrev=False,
    )
    parser.set_defaults(**(defaults or {}))
    *filled, unknown = parser.parse_args_into_dataclasses(argv, look_for_args_file=False, return_remaining_strings=True)
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return tuple(filled)


def given(argv: list[str], *flags: str) -> argparse.Namespace:
    """What stands on the command line for some flags, before anything else is looked at."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flag in flags:
        parser.add_argument(flag, flag.replace("-", "_").replace("__", "--", 1))
    return parser.parse_known_args(argv)[0]


def last_checkpoint(folder: str | Path) -> str | None:
    """The newest complete checkpoint in a folder, if any."""

    def step(path: Path) -> int:
        number = path.name.removeprefix("checkpoint-")
        return int(number) if number.isdecimal() else -1

    paths = sorted(Path(folder).glob("checkpoint-*"), key=step, reverse=True)
    return next((str(path) for path in paths if step(path) >= 0 and _is_complete(path)), None)


def _is_complete(checkpoint: Path) -> bool:
    # Trainer writes its state last: a kill before or meanwhile leaves none that can be read.
    try:
        return "global_step" in json.loads((checkpoint / "trainer_state.json").read_text())
    except (OSError, ValueError):
        return False


def resume_point(args: RunArguments) -> str | None:
    """
    The checkpoint to go on from, if any.

    Raises:
        `ValueError`: The output folder holds checkpoints of an earlier run and nothing says whether to go on from them;
            or the checkpoint asked for does not exist.
    """
    output_dir = Path(args.output_dir)
    if output_dir.exists() and not output_dir.is_dir():
        raise ValueError(f"--output-dir {output_dir} is a file")
    last = last_checkpoint(output_dir)
    asked = args.resume_from_checkpoint
    if asked is None:
        if last is not None:
            raise ValueError(
                f"--output-dir {output_dir} holds checkpoints of an earlier run: pass --resume-from-checkpoint last to "
                "go on from the newest one, or name another folder"
            )
        return None
    if asked != "last":
        if not Path(asked).is_dir():
            raise ValueError(f"--resume-from-checkpoint {asked}: there is no such folder")
        if not _is_complete(Path(asked)):
            raise ValueError(f"--resume-from-checkpoint {asked}: its trainer_state.json is missing or cut off")
        return asked
    if last is None:
        raise ValueError(f"--resume-from-checkpoint last: there is no complete checkpoint in {output_dir}")
    return last


# What a run is, in its folder.
RUN = "run.json"


def check_same_run(folder: str | Path, identity: Mapping):
    """
    Raise a `ValueError` where `folder` holds another run than the one that `identity` describes, of which that run has left
    a description too.
    """
    path = Path(folder) / RUN
    if path.is_file():
        # As JSON has it.
        earlier, own = json.loads(path.read_text()), json.loads(json.dumps(identity))
        changed = [
            f"{key} {earlier.get(key)} and not {value}" for key, value in own.items() if earlier.get(key) != value
        ]
        if changed:
            raise ValueError(f"--output-dir {folder} holds another run, of {', '.join(changed)}: name another folder")


class _Progress(TrainerCallback):
    """
    Notes that a training has begun: everything of a checkpoint but the random state has been read by then. The log says what
    each stretch of it ran on. Where something is left to go on from, the folder says of which run.
    """

    def __init__(self, identity: Mapping | None):
        self.identity = identity
        self.has_begun = False

    def on_train_begin(self, args, state, control, **kwargs):
        self.has_begun = True
        ground = run_ground()
        earlier = stretches(state.log_history)
        if state.global_step < state.max_steps and not (earlier and earlier[-1].items() >= ground.items()):
            # In the log, a checkpoint carries it along, and forgets what came after the checkpoint.
            state.log_history.append({"step": state.global_step, **ground})

    def on_save(self, args, state, control, **kwargs):
        if self.identity is not None and state.is_world_process_zero:
            write_json(Path(args.output_dir) / RUN, self.identity)

    on_train_end = on_save


def train(trainer: Trainer, checkpoint: str | None, identity: Mapping | None = None):
    """
    Train, from a checkpoint if one is given. `identity` is what [`check_same_run`] is to compare when this goes on later.

    Raises:
        `ValueError`: A checkpoint that cannot be read or is another model's; else what the training raises.
    """
    progress = _Progress(identity)
    trainer.add_callback(progress)
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except Exception as error:
        if checkpoint is None or progress.has_begun:
            raise
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{checkpoint} is damaged or another model's: {type(error).__name__}: {reason}") from error


def check_checkpoint(name: str, argument: str):
    """Raise a `ValueError` where `name` can only be a local checkpoint folder, and is none."""
    if Path(name).is_dir():
        if not (Path(name) / "config.json").is_file():
            raise ValueError(f"{argument} {name}: there is no config.json in this folder")
    elif Path(name).exists():
        raise ValueError(f"{argument} {name} is a file: a checkpoint is a folder")
    elif name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ValueError(f"{argument} {name}: there is no such folder")


def load_config(model: str, pattern: str | None) -> ErnieSparseConfig:
    """The config of an ERNIE-Sparse checkpoint (folder or hub id), under another pattern if one is given."""
    check_checkpoint(model, "--model")
    config = AutoConfig.from_pretrained(model)
    if not isinstance(config, ErnieSparseConfig):
        raise ValueError(f"--model {model} is a {config.model_type} checkpoint: an ernie_sparse one is needed")
    if pattern is not None:
        config.pattern = SparsePattern.parse(pattern)
    return config


def load_raw_dataset(
    files: Mapping[str, list[str] | None],
    hub_name: str | None,
    hub_config: str | None,
    sample_by: str | None = None,
    text_columns: Iterable[str] = (),
) -> DatasetDict:
    """
    The rows by split: from local files (csv, json, jsonl, parquet; any other file as text cut into documents by
    `sample_by`, when that is given) or from a hub data set or a local folder in its layout. In csv the cells of
    `text_columns` are text even where all of them are numbers.

    Raises:
        `ValueError`: Both or neither are given, or a file is missing, empty, of an unknown kind or unreadable.
    """
    files = {split: paths for split, paths in files.items() if paths}
    if bool(files) == bool(hub_name):
        raise ValueError("give either --train-file (and --validation-file) or --dataset")
    if hub_name:
        return datasets.load_dataset(hub_name, hub_config)
    for path in (path for paths in files.values() for path in paths):
        check_file(path)
    return DatasetDict({split: _load_files(split, paths, sample_by, text_columns) for split, paths in files.items()})


def check_file(path: str | Path):
    """Raise a `ValueError` where `path` is no file, or an empty one."""
    if Path(path).is_dir():
        raise ValueError(f"{path} is a folder: a file is needed")
    if not Path(path).is_file():
        raise ValueError(f"{path}: there is no such file")
    if Path(path).stat().st_size == 0:
        raise ValueError(f"{path} is empty")


def csv_options(paths: Iterable[str | Path], text_columns: Iterable[str]) -> dict:
    """
    How csv is read: an empty cell is missing, `NA`, `None` or `null` in one is what somebody wrote, and digits in one of
    `text_columns` are no number.

    Raises:
        `ValueError`: Two columns of one name, of which pandas would rename one.
    """
    for path in paths:
        with open(path, newline="", encoding="utf-8-sig") as file:
            header = next((row for row in csv.reader(file) if row), [])
        twice = [name for name, count in Counter(header).items() if name and count > 1]
        if twice:
            raise ValueError(f"the header of {path} names the column {twice[0]!r} twice")
    return {"keep_default_na": False, "na_values": [""], "converters": dict.fromkeys(text_columns, str)}


def _load_files(split: str, paths: list[str], sample_by: str | None, text_columns: Iterable[str]) -> Dataset:
    tables = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
    kinds = {tables.get(Path(path).suffix.lower(), "text") for path in paths}
    kind = kinds.pop()
    if kinds or (kind == "text" and sample_by is None):
        also = "" if sample_by is None else "text, "
        raise ValueError(f"{', '.join(paths)}: give {also}csv, json, jsonl or parquet files, in each split of one kind")
    try:
        options = csv_options(paths, text_columns) if kind == "csv" else {}
        if kind == "text":
            options = {"sample_by": sample_by}
        return datasets.load_dataset(kind, data_files={split: paths}, split=split, **options)
    except Exception as error:
        cause = error.__cause__ or error
        if "corresponds to no data" in str(cause):
            cause = "it has no rows"
        raise ValueError(f"could not read {', '.join(paths)} as {kind}: {cause}") from error


def finish(
    verb: str,
    argv: list[str],
    output_dir: str,
    results: dict,
    rows: list[tuple[str, object]],
    history: list[dict],
):
    """Write `results.json` and, where matplotlib is installed, `training.png`, and print the table of `rows`."""
    out = Path(output_dir)
    content = {**results, **run_facts(verb, argv), "stretches": stretches(history)}
    write_json(out / "results.json", {**content, "history": [entry for entry in history if "hardware" not in entry]})
    rows = [*rows, ("results", out / "results.json")]
    if plot_history(history, out / "training.png"):
        rows.append(("training curves", out / "training.png"))
    print_table(rows)


def run_facts(verb: str, argv: list[str]) -> dict:
    """What a result cannot be run again without: the command from its beginning, the commit, the versions and the hardware."""
    return {"command": shlex.join(["ernie-sparse", verb, *_without_resuming(argv)]), **run_ground()}


def run_ground() -> dict:
    """What this process runs on: the commit, the versions and the hardware."""
    return {"commit": COMMIT, "versions": versions(), "hardware": hardware()}


def stretches(history: list[dict]) -> list[dict]:
    """
    What a training ran on, from which update (`step`): once, unless it went on after a stop with another commit, other
    versions or other hardware. One that began before such notes were made has none from its first update.
    """
    return [entry for entry in history if "hardware" in entry]


def _without_resuming(argv: list[str]) -> list[str]:
    """A command line that needs no checkpoint."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--resume-from-checkpoint", "--resume_from_checkpoint")
    return parser.parse_known_args(argv)[1]


def longest_first(rows: Dataset) -> Dataset:
    """The rows by falling `length`: what memory is needed is needed at once, and batches hold rows of a length."""
    # `Dataset.sort` calls pyarrow in a way of which pyarrow warns.
    return rows.select(np.argsort(-np.asarray(rows["length"]), kind="stable"))


def subset(rows: Dataset, count: int | None, seed: int) -> Dataset:
    """At most `count` rows, drawn by `seed`, in their order; all of them when `count` is `None`."""
    if count is None or count >= len(rows):
        return rows
    return rows.select(np.sort(np.random.default_rng(seed).permutation(len(rows))[:count]))


def write_json(path: Path, content: Mapping):
    """Write a file of JSON as a whole or not at all, and its folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.partial")
    temporary.write_text(json.dumps(content, indent=2, default=str, ensure_ascii=False) + "\n")
    temporary.replace(path)


def fill_page(page: Path, tables: Mapping[str, str]):
    """
    Write each table into a page of Markdown, between its marks `<!-- begin NAME -->` and `<!-- end NAME -->`.

    Raises:
        `ValueError`: No such page, or one that has no place for a table.
    """
    if not page.is_file():
        raise ValueError(f"{page}: there is no such file")
    text = page.read_text()
    for name, table in tables.items():
        marks = re.compile(rf"(<!-- begin {re.escape(name)} -->\n).*?(<!-- end {re.escape(name)} -->)", re.DOTALL)
        if not marks.search(text):
            raise ValueError(
                f"{page} has no place for a table: the lines <!-- begin {name} --> and <!-- end {name} -->"
            )
        text = marks.sub(lambda match, table=table: f"{match[1]}{table}\n{match[2]}", text)
    page.write_text(text)


def print_table(rows: list[tuple[str, object]]):
    """Two aligned columns on standard output."""
    width = max(len(name) for name, _ in rows)
    print()
    for name, value in rows:
        print(f"  {name:<{width}}  {f'{value:.4f}' if isinstance(value, float) else value}")
    print(flush=True)


def plot_history(history: list[dict], path: Path) -> bool:
    """Loss, task loss, consistency loss and evaluation loss over the steps; `False` when nothing was logged or
    matplotlib is not installed."""
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


def versions() -> dict[str, str]:
    """The versions of what a run stands on."""
    from . import __version__

    return {
        "ernie-sparse": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def hardware() -> dict:
    """What the run stands on."""
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


def commit() -> str | None:
    """The commit of this package's sources, `-dirty` where they have been changed; `None` outside a repository."""
    folder = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, check=True, timeout=30
        ).stdout.strip()

    try:
        # An installed copy may lie inside somebody else's repository.
        git("ls-files", "--error-unmatch", "__init__.py")
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None


# Now, when the sources are read: what is edited while a run goes on is not what runs.
COMMIT = commit()


def as_dict(*arguments) -> dict:
    """The fields of some argument dataclasses, for results.json."""
    return {f.name: getattr(args, f.name) for args in arguments for f in dataclasses.fields(args)}


# The flags of transformers that make an update what it is, beside the recipe of rows and rate.
OPTIMIZATION = (
    *("optim", "optim_args", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm"),
    *("lr_scheduler_type", "lr_scheduler_kwargs", "label_smoothing_factor", "neftune_noise_alpha"),
    "train_sampling_strategy",
)


def training_facts(training: TrainingArguments) -> dict:
    """What a training was done with."""
    names = ("seed", "learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size")
    names += ("gradient_accumulation_steps", "warmup_steps")
    return {name: getattr(training, name) for name in names + OPTIMIZATION}
