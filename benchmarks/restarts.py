# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
`python -m benchmarks.restarts`: a small pretraining that is killed with SIGKILL at random moments and started again by the same
command, with rows that stream and rows that are written first. Says how far its losses are from those of a run that was never
killed.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ernie_sparse.cli import run_command
from ernie_sparse.command_line import ArgumentParser, check_least
from ernie_sparse.files import check_folder
from ernie_sparse.results import Record, file_digest, print_table, write_json
from ernie_sparse.run import FILE_NAME
from ernie_sparse.training_checkpoints import all_checkpoints, last_checkpoint

PROG = "python -m benchmarks.restarts"
SIZES = "hidden_size=32,num_hidden_layers=2,num_attention_heads=2,intermediate_size=32"
STEPS = 240
MODES = {
    "streamed": ("--streaming", "true", "--dataloader-num-workers", "2"),
    "written": ("--packing", "concatenate"),
}


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(prog=PROG, description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of each of the two runs, at least")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--results-dir", default="benchmarks/results/restarts", help="what is kept of a run")
    args = parser.parse_args(argv)
    check_least(args, {"kills": 1})
    check_folder(Path(args.results_dir), "--results-dir")
    return args


def write_corpus(folder: Path) -> str:
    draw = random.Random(0)
    words = [f"{first}{second}" for first in ("har", "le", "win", "sto") for second in ("bour", "mon", "ter", "ne")]
    for number in range(20):
        lines = (" ".join(draw.choices(words, k=draw.randint(3, 60))) for _ in range(40))
        (folder / f"text-{number}.txt").write_text("\n".join(lines))
    return str(folder / "text-*.txt")


def command(corpus: str, out: Path, mode: str) -> list[str]:
    words = [sys.executable, "-m", "ernie_sparse", "pretrain", "--train-file", corpus, "--sample-by", "line"]
    words += ["--train-tokenizer", "300", "--config", SIZES, "--max-length", "128", "--masking", "span"]
    words += ["--max-steps", str(STEPS), "--save-strategy", "steps", "--save-steps", "10", "--logging-steps", "1"]
    words += ["--eval-strategy", "no", "--disable-tqdm", "true", "--report-to", "none", "--output-dir", str(out)]
    return [*words, *MODES[mode]]


def start(words: list[str]) -> subprocess.Popen:
    # A session of its own: its workers die with it.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    quiet = subprocess.DEVNULL
    return subprocess.Popen(words, env=environment, stdout=quiet, stderr=quiet, start_new_session=True)


def losses(out: Path) -> dict[int, float]:
    history = json.loads((out / "results.json").read_text())["history"]
    return {entry["step"]: entry["loss"] for entry in history if "loss" in entry}


def started(words: list[str], out: Path) -> subprocess.Popen:
    """A command that has just said what run it is: one that goes on does so when it has read its checkpoint."""
    said = out / FILE_NAME
    before = said.stat().st_mtime_ns if said.is_file() else None
    process = start(words)
    while process.poll() is None and (said.stat().st_mtime_ns if said.is_file() else None) == before:
        time.sleep(0.02)
    return process


def killed_once(words: list[str], out: Path, after: float) -> dict | None:
    """Start a command and kill it so many seconds later; `None` where it has come to its end by then."""
    process = started(words, out)
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        found = all_checkpoints(out)
        whole = last_checkpoint(out)
        return {
            "seconds": round(after, 2),
            "newest": found[0].name if found else None,
            "newest with a state": Path(whole).name if whole else None,
        }
    if process.returncode:
        raise RuntimeError(f"{' '.join(words)} ended with exit code {process.returncode}")
    return None


def compare(mode: str, corpus: str, folder: Path, kills: int, draw: random.Random) -> dict:
    whole = folder / f"{mode}-whole"
    process, begun = started(command(corpus, whole, mode), whole), time.monotonic()
    if process.wait():
        raise RuntimeError(f"{whole} ended with exit code {process.returncode}")
    seconds = time.monotonic() - begun
    expected, moments, differences, same_weights, runs = losses(whole), [], [], True, 0
    while len(moments) < kills or not differences:
        runs += 1
        out = folder / f"{mode}-{runs}"
        while (moment := killed_once(command(corpus, out, mode), out, draw.uniform(0, seconds / 3))) is not None:
            moments.append(moment)
            print(f"{mode}: kill {len(moments)}, {moment}", flush=True)
        found = losses(out)
        if found.keys() != expected.keys():
            raise RuntimeError(f"{out} has losses of {len(found)} updates, and {len(expected)} are expected")
        differences.append(max(abs(found[step] - loss) for step, loss in expected.items()))
        same_weights &= file_digest(out / "model.safetensors") == file_digest(whole / "model.safetensors")
    return {
        "kills": moments,
        "runs": runs,
        "steps": STEPS,
        "largest_difference": max(differences),
        "same_weights": same_weights,
    }


def main(argv: list[str]):
    """Run `python -m benchmarks.restarts` with the arguments `argv`."""
    args = parse_arguments(argv)
    record, draw = Record(PROG, argv), random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = write_corpus(folder)
        found = {mode: compare(mode, corpus, folder, args.kills, draw) for mode in MODES}
    write_json(Path(args.results_dir) / "results.json", {"modes": found, "seed": args.seed, **record.facts()})
    for mode, of_mode in found.items():
        torn = sum(moment["newest"] != moment["newest with a state"] for moment in of_mode["kills"])
        print_table(
            [
                (f"{mode}: kills", f"{len(of_mode['kills'])}, in {of_mode['runs']} runs of {STEPS} updates"),
                ("in the midst of a checkpoint", torn),
                ("largest difference of a loss", f"{of_mode['largest_difference']:.1e}"),
                ("weights at the end", "the same" if of_mode["same_weights"] else "others"),
            ]
        )


if __name__ == "__main__":
    sys.exit(run_command(PROG, main, sys.argv[1:]))
