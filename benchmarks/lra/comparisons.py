# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
The runs of docs/notebook/lra.md, one after the other by `python -m benchmarks.lra`, the most wanted first. What is done is skipped and
what was stopped goes on from its last checkpoint; what was measured is kept in `--results-dir`, of which
`python -m benchmarks.lra --report` makes the page. Flags that are not listed here go to every run.
"""

import argparse
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ernie_sparse.cli import run_command
from ernie_sparse.command_line import MOST_PROCESSES, ArgumentParser, check_least, check_most, check_seeds
from ernie_sparse.files import check_folder
from ernie_sparse.results import write_json

from . import PROG as RUN
from .models import MODELS
from .tasks import TASKS

PROG = f"{RUN}.comparisons"

# What a CPU has time for: a twelfth of the updates of ListOps, with the recipe's rows and rate.
SHORT = ("--max-steps", "400", "--warmup-steps", "0.1", "--validation-size", "500")

# The comparisons of models have the rest: one global block is what both have of their own, and `window` is `flat` without.
BOTTLENECK = {
    f"{name}-{number}-global": (
        *("--model", name, "--pattern", f"num_global_blocks={number}"),
        *("--eval-patterns", "none"),
    )
    for name, number in (("hst", 0), ("hst", 2), ("flat", 2), ("hst", 4), ("flat", 4))
}

# Runs by comparison, each a name and its flags.
COMPARISONS = {
    "models": {
        name: ("--model", name)
        for name in (
            *("hst", "bigbird", "hst-saor", "flat", "dense"),
            *("window", "bigbird-like", "longformer", "hst-rdrop"),
        )
    },
    "self-pretrained": {
        f"{name}-self-pretrained": ("--model", name, "--self-pretrain") for name in ("hst-saor", "hst", "dense")
    },
    "bottleneck": BOTTLENECK,
    "short-models": {
        f"short-{name}": ("--model", name, *SHORT)
        for name in ("hst", "hst-saor", "bigbird", "hst-rdrop", "flat", "dense", "bigbird-like", "window", "longformer")
    },
    "short-self-pretrained": {
        f"short-{name}-self-pretrained": ("--model", name, "--self-pretrain", *SHORT) for name in ("hst", "hst-saor")
    },
    "short-bottleneck": {f"short-{name}": (*flags, *SHORT) for name, flags in BOTTLENECK.items()},
}


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(
        prog=PROG, description=__doc__, allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--task", default="listops", choices=list(TASKS), help="of Long Range Arena")
    parser.add_argument("--data-dir", help="folder of the task's files; data/lra/TASK if none is given")
    parser.add_argument("--work-dir", default="runs/lra", help="where models are written")
    parser.add_argument("--results-dir", default="benchmarks/results/lra", help="what is kept of each run")
    parser.add_argument("--comparisons", nargs="+", default=list(COMPARISONS), choices=list(COMPARISONS))
    parser.add_argument("--models", nargs="+", choices=list(MODELS), help="only these models of the comparisons")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument(
        "--jobs", type=int, default=1, help="runs at a time, for a GPU that one such model does not fill"
    )
    parser.add_argument(
        "--at-last-update",
        action="store_true",
        help="of runs that are done here, test the last checkpoint beside the one the validation set chose",
    )
    args, args.flags = parser.parse_known_args(argv)
    check_least(args, {"jobs": 1})
    check_most(args, {"jobs": MOST_PROCESSES})
    check_seeds(args.seeds)
    for name in ("results_dir", "work_dir"):
        check_folder(Path(getattr(args, name)), f"--{name.replace('_', '-')}")
    return args


def run(name: str, flags: tuple[str, ...], seed: int, args: argparse.Namespace):
    """One run, unless it is there."""
    label = done = f"{args.task}/{name}-seed-{seed}"
    if args.at_last_update:
        label, flags = f"{done}-last-update", (*flags, "--load-best-model-at-end", "false")
    kept, out = Path(args.results_dir) / f"{label}.json", Path(args.work_dir) / label
    if kept.is_file():
        return
    if args.at_last_update:
        # A copy, so that the run stays what it is.
        shutil.copytree(Path(args.work_dir) / done, out, dirs_exist_ok=True)
    command = ["--task", args.task, *flags, *args.flags, "--seed", str(seed), "--output-dir", str(out)]
    if args.data_dir is not None:
        command += ["--data-dir", args.data_dir]
    command += ["--disable-tqdm", "true"]
    print(f"{label}: {RUN} {' '.join(command)}", flush=True)
    subprocess.run([sys.executable, "-m", "benchmarks.lra", *command], check=True)
    results = json.loads((out / "results.json").read_text())
    # The training losses are in the run's folder.
    write_json(kept, results | {"history": [evaluation(entry) for entry in results["history"] if "eval_loss" in entry]})


def evaluation(entry: dict) -> dict:
    """What a log says of the validation set, without how long that took."""
    return {name: entry[name] for name in ("step", "eval_loss", "eval_accuracy")}


def main(argv: list[str]):
    """Run `python -m benchmarks.lra.comparisons` with the arguments `argv`."""
    args = parse_arguments(argv)
    with ThreadPoolExecutor(args.jobs) as pool:
        runs = [
            pool.submit(run, name, flags, seed, args)
            for seed in args.seeds
            for comparison in args.comparisons
            for name, flags in COMPARISONS[comparison].items()
            if args.models is None or flags[1] in args.models
        ]
    failed = [error for error in (future.exception() for future in runs) if error is not None]
    for error in failed:
        print(error, file=sys.stderr)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    sys.exit(run_command(PROG, main, sys.argv[1:]))
