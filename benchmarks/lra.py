# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
The runs of docs/lra.md, one after the other by `ernie-sparse lra`, the most wanted first. What is done is skipped and what
was stopped goes on from its last checkpoint; what was measured is kept in `--results-dir`, of which
`ernie-sparse lra --report` makes the page.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from ernie_sparse.running import last_checkpoint, write_json

# Bottleneck and sensitivity at a budget that a CPU has: fewer updates, the same rows.
SHORT = ("--max-steps", "2000")

COMPARISONS = {
    "models": [("--model", name) for name in ("hst", "bigbird", "hst-saor", "flat", "dense")]
    + [("--model", name) for name in ("window", "bigbird-like", "longformer", "hst-rdrop")],
    "self-pretrained": [("--model", name, "--self-pretrain") for name in ("hst-saor", "hst", "dense")],
    "bottleneck": [
        ("--model", model, *pattern, *SHORT)
        # One is what they have of their own.
        for pattern in ((), *(("--pattern", f"num_global_blocks={number}") for number in (0, 2, 4)))
        for model in ("hst", "flat")
    ],
    "patterns": [("--model", model, *SHORT) for model in ("hst", "hst-saor", "hst-rdrop")],
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--task", default="listops", help="of Long Range Arena")
    parser.add_argument("--data-dir", help="folder of the task's files; data/lra/TASK if none is given")
    parser.add_argument("--work-dir", default="runs/lra", help="where models are written")
    parser.add_argument("--results-dir", default="benchmarks/results/lra", help="what is kept of each run")
    parser.add_argument("--comparisons", nargs="+", default=list(COMPARISONS), choices=list(COMPARISONS))
    parser.add_argument("--models", nargs="+", help="only these models of the comparisons")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    return parser.parse_args()


def run(flags: tuple[str, ...], seed: int, args: argparse.Namespace):
    """One run, unless it is there."""
    words = [word.removeprefix("--") for word in flags if word != "--model"]
    label = f"{args.task}/{'-'.join([*words, 'seed', str(seed)])}"
    kept, out = Path(args.results_dir) / f"{label}.json", Path(args.work_dir) / label
    if kept.is_file():
        return
    command = ["lra", "--task", args.task, *flags, "--seed", str(seed), "--output-dir", str(out)]
    if args.data_dir is not None:
        command += ["--data-dir", args.data_dir]
    if last_checkpoint(out) is not None:
        command += ["--resume-from-checkpoint", "last"]
    print(f"{label}: ernie-sparse {' '.join(command)}", flush=True)
    subprocess.run([sys.executable, "-m", "ernie_sparse", *command, "--disable-tqdm", "true"], check=True)
    results = json.loads((out / "results.json").read_text())
    # The curve is in the run's folder.
    write_json(kept, {key: value for key, value in results.items() if key != "history"})


def main():
    args = parse_arguments()
    for seed in args.seeds:
        for name in args.comparisons:
            for flags in COMPARISONS[name]:
                if args.models is None or flags[1] in args.models:
                    run(flags, seed, args)


if __name__ == "__main__":
    main()
