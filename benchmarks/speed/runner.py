# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Task by task, length by length, all models side by side."""

import argparse
import datetime
import functools
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm
from transformers.utils import logging

from ernie_sparse import SparsePattern
from ernie_sparse.command_line import MOST_PROCESSES, ArgumentParser, check_least, check_most
from ernie_sparse.configuration_ernie_sparse import RANGES
from ernie_sparse.errors import InputError, input_errors
from ernie_sparse.files import check_folder
from ernie_sparse.results import Record, print_table, write_json

from . import PROG, report
from .measure import Case, LeftOut, cpu_peak, cuda_peak, free_memory, left_out_by, time_rounds
from .models import DEFAULT_MODELS, Sizes, canonical_name, note
from .tasks import TASKS, Row, Setup, Task, build_case, rows_of

DTYPES = ("float32", "bfloat16", "float16")
DEFAULT_LENGTHS = (512, 1024, 2048, 4096, 8192, 16384)
# And the field of a config that each of them stands for.
SIZE_FLAGS = {
    **{"layers": "num_hidden_layers", "heads": "num_attention_heads"},
    **{"hidden_size": "hidden_size", "vocab_size": "vocab_size"},
}
SHORTEST, LONGEST = 16, 2**20
EXAMPLES = f"""models:
  no-attention              the same model without attention: its layers with the identity on the values in its place; no
                            encoder with these linear layers can be faster, so time over it says what attention costs
  ernie-sparse:<backend>    ErnieSparseModel under --pattern, with attn_implementation sdpa or eager
  dense                     BERT, scaled_dot_product_attention over all tokens
  bigbird                   BigBird, blocks of 64, 3 random blocks; below 705 tokens it runs full attention by itself
  longformer                Longformer, window 512, the first token global; it pads to whole windows
  modernbert                ModernBERT, local and global layers as shipped, feed-forward at the others' cost; its local layers are
                            dense under a mask
  modernbert-flex           the same under flex_attention, which leaves out what the mask does; on a GPU, for training

tasks:
{chr(10).join(f"  {task.name:<27} {task.text}" for task in TASKS.values())}

Every model is built with the same width, depth, heads and vocabulary, with random weights: the figures are of speed and
memory, never of quality. A model that fails, or whose first step takes longer than --seconds-per-run, is left out there
and named in the tables; the others go on. Peak memory is that of one step on top of the built model, on a CPU measured
in a fresh process per task, model and length. Times mean something on a quiet machine only.

examples:
  {PROG} --lengths 512 2048 --layers 1 --tasks forward --no-memory
  {PROG} --models no-attention ernie-sparse:sdpa ernie-sparse:eager dense --lengths 1024 4096
  {PROG} --device cuda --dtype bfloat16 --batch-size 4 --lengths 4096 16384 65536
  {PROG} --tasks saor padding-training --pattern block_size=128,num_random_blocks=1
"""


@dataclass
class Plan:
    """
    What is measured, and how often.

    Args:
        budget (`float`): Seconds that a first step may take.
    """

    models: list[str]
    tasks: list[Task]
    lengths: list[int]
    setup: Setup = field(default_factory=Setup)
    runs: int = 5
    budget: float = 30.0
    with_memory: bool = True


def measure_length(task: Task, length: int, plan: Plan, left_out: dict[Row, LeftOut], on_cells=lambda cells: None):
    """
    The cells of one task and length. What cannot be better with longer inputs is added to `left_out`.

    Args:
        left_out (`dict[Row, LeftOut]`): What is not to be run, and why.
        on_cells (`Callable`): Called with the cells as far as they are known, whenever more is.
    """
    rows = rows_of(task, plan.models)
    outcomes = {row: left_out[row] for row in rows if row in left_out}
    cases: dict[Row, Case] = {}
    peaks, num_tokens = {}, {}

    def cells() -> list[dict]:
        found = []
        for row in rows:
            remark = note(row.model, length, task.attention_dropout)
            outcome = outcomes.get(row, LeftOut("not timed yet"))
            found.append(report.make_cell(task, row, length, remark, num_tokens.get(row), outcome, peaks.get(row)))
        report.add_ratios(found)
        return found

    has_memory = task.has_memory and plan.with_memory
    total = (len(rows) - len(outcomes)) * (plan.runs + 1 + has_memory)
    with tqdm(total=total, desc=f"{task.name}, {length:,} tokens", leave=False, disable=None) as bar:
        for row in rows if has_memory and plan.setup.device == "cpu" else ():
            if row not in outcomes:
                build = functools.partial(build_case, task, row, plan.setup)
                peaks[row] = cpu_peak(build, length, torch.get_num_threads(), plan.budget)
                if isinstance(peaks[row], LeftOut) and peaks[row].stays:
                    # What was too much for a process of its own is not tried in this one.
                    outcomes[row] = peaks[row]
                bar.update()
                on_cells(cells())
        for row in rows:
            if row not in outcomes:
                try:
                    cases[row] = build_case(task, row, plan.setup, length)
                except Exception as error:
                    outcomes[row] = left_out_by(error)
        num_tokens |= {row: case.num_tokens for row, case in cases.items()}
        if has_memory and plan.setup.device == "cuda":
            peaks |= {row: cuda_peak(case) for row, case in cases.items()}
        outcomes |= time_rounds(cases, plan.runs, plan.budget, tick=bar.update)
    cases.clear()
    free_memory()
    for row, outcome in outcomes.items():
        if isinstance(outcome, LeftOut):
            if outcome.stays:
                left_out[row] = outcome
            if has_memory:
                peaks.setdefault(row, outcome)
    finished = cells()
    on_cells(finished)
    return finished


def run(plan: Plan, results: dict, folder: Path):
    """Measure everything into `results["cells"]` and save it whenever more is known."""
    for task in plan.tasks:
        left_out = {}
        for length in plan.lengths:
            before = results["cells"]

            def on_cells(cells: list[dict], before=before):
                results["cells"] = before + cells
                write_json(folder / "results.json", results)

            for cell in measure_length(task, length, plan, left_out, on_cells):
                _print_cell(cell)


def _print_cell(cell: dict):
    words = [f"{cell['task']}, {cell['length']:,} tokens, {Row(cell['model'], cell['variant']).label}:"]
    if cell["seconds"] is None:
        words.append(f"left out: {cell['reason']}")
    else:
        words.append(f"{1000 * cell['median_seconds']:,.1f} ms")
        if cell["over_reference"] is not None:
            words.append(f"({cell['over_reference']:.2f} x {cell['reference']})")
    if cell["peak_memory_mib"] is not None:
        words.append(f"at most {cell['peak_memory_mib']:,.1f} MiB")
    print(*words, flush=True)


def main(argv: list[str]):
    """Run `python -m benchmarks.speed` with the arguments `argv`."""
    record = Record(PROG, argv)
    args = _parser().parse_args(argv)
    plan = _plan(args)
    folder = Path(args.output_dir)
    check_folder(folder, "--output-dir")
    folder.mkdir(parents=True, exist_ok=True)
    logging.set_verbosity_error()
    threads = torch.get_num_threads()
    torch.set_num_threads(args.threads or threads)
    settings = {**vars(args), "device": plan.setup.device, "pattern": str(plan.setup.sizes.pattern)}
    settings |= {"models": plan.models, "tasks": [task.name for task in plan.tasks], "lengths": plan.lengths}
    results = {
        **record.facts(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "complete": False,
        "settings": settings,
        "cells": [],
    }
    try:
        run(plan, results, folder)
    finally:
        torch.set_num_threads(threads)
    if not any(cell["seconds"] for cell in results["cells"]):
        raise InputError(f"nothing could be measured: {'; '.join(report.remarks(results['cells']))}")
    results["complete"] = True
    _finish(results, folder)


def _finish(results: dict, folder: Path):
    write_json(folder / "results.json", results)
    report.save_markdown(results, folder)
    print()
    for table in report.tables(results["cells"]):
        print(table.text(), end="\n\n")
    for line in report.remarks(results["cells"]):
        print(f"left out: {line}")
    print(report.ADVICE)
    rows = [("results", folder / "results.json"), ("tables", folder / "results.md")]
    picture = folder / "benchmark.png"
    if not report.plot(results, picture):
        rows.append(("picture", "needs matplotlib: pip install matplotlib"))
    elif picture.exists():
        rows.append(("picture", picture))
    print_table(rows)


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog=PROG,
        description="Time and peak memory over the length of the input: ERNIE-Sparse beside the same model without "
        "attention and beside the encoders of transformers. Ratios come first; they are of medians measured in turn in one process.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--lengths", type=int, nargs="+", default=list(DEFAULT_LENGTHS), metavar="N",
        help=f"tokens per document, up to 65536 and beyond where memory allows ({' '.join(map(str, DEFAULT_LENGTHS))})")  # fmt: skip
    add(
        "--models",
        nargs="+",
        default=list(DEFAULT_MODELS),
        metavar="MODEL",
        help=f"see below ({' '.join(DEFAULT_MODELS)})",
    )
    add("--tasks", nargs="+", metavar="TASK", help="see below (all that the models allow)")
    add("--runs", type=int, default=5, metavar="N", help="counted runs of each, after one that is not (5)")
    add("--seconds-per-run", type=float, default=30.0, metavar="S",
        help="a model whose first step takes longer is left out there and at longer lengths of the task (30)")  # fmt: skip
    add("--no-memory", action="store_true", help="measure time alone; much faster, since no processes are started")
    add("--batch-size", type=int, default=1, metavar="N",
        help="documents per step (1); the padding tasks take at least 4, and a multiple of 4")  # fmt: skip
    add("--pattern", default=str(SparsePattern()), metavar="TEXT",
        help="sparse pattern of ernie-sparse, such as block_size=128,num_window_blocks=5 (the default pattern)")  # fmt: skip
    add(
        "--hidden-size",
        type=int,
        default=768,
        metavar="N",
        help="width; the feed-forward part is 4 times as wide (768)",
    )
    add("--layers", type=int, default=2, metavar="N", help="layers of every model (2)")
    add("--heads", type=int, default=12, metavar="N", help="attention heads of every model (12)")
    add("--vocab-size", type=int, default=30522, metavar="N", help="vocabulary of every model (30522)")
    add("--device", default="auto", help="auto, cpu or cuda (auto: cuda where there is one)")
    add("--dtype", default="float32", help=f"{', '.join(DTYPES)}: of weights and computation (float32)")
    add("--threads", type=int, metavar="N", help="CPU threads (torch's default)")
    add("--output-dir", default="benchmark_output", metavar="DIR",
        help="where results.json, results.md and benchmark.png are written (benchmark_output)")  # fmt: skip
    return parser


def _plan(args: argparse.Namespace) -> Plan:
    """The plan that the arguments ask for, or an [`InputError`] that says what is wrong with them."""
    check_least(args, {**dict.fromkeys(("runs", "batch_size", "threads", *SIZE_FLAGS), 1), "vocab_size": 32})
    check_most(args, {"threads": MOST_PROCESSES, **{name: RANGES[field][1] for name, field in SIZE_FLAGS.items()}})
    _check("seconds_per_run", args.seconds_per_run, args.seconds_per_run > 0, "more than 0")
    for length in args.lengths:
        _check("lengths", length, SHORTEST <= length <= LONGEST, f"from {SHORTEST} to {LONGEST}")
    _check("dtype", args.dtype, args.dtype in DTYPES, f"one of {', '.join(DTYPES)}")
    _check("device", args.device, args.device in ("auto", "cpu", "cuda"), "one of auto, cpu, cuda")
    if args.hidden_size % args.heads:
        raise InputError(f"--hidden-size {args.hidden_size} is not a multiple of --heads {args.heads}")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch finds no GPU here")
    device = ("cuda" if torch.cuda.is_available() else "cpu") if args.device == "auto" else args.device
    models = list(dict.fromkeys(canonical_name(name) for name in args.models))
    lengths = sorted(set(args.lengths))
    with input_errors(about="--pattern"):
        pattern = SparsePattern.parse(args.pattern)
    sizes = Sizes(
        hidden_size=args.hidden_size,
        num_layers=args.layers,
        num_heads=args.heads,
        vocab_size=args.vocab_size,
        max_length=lengths[-1],
        pattern=pattern,
    )
    return Plan(
        models=models,
        tasks=_tasks(args.tasks, models),
        lengths=lengths,
        setup=Setup(sizes=sizes, device=device, dtype=args.dtype, batch_size=args.batch_size),
        runs=args.runs,
        budget=args.seconds_per_run,
        with_memory=not args.no_memory,
    )


def _check(name: str, value, is_allowed: bool, allowed: str):
    if not is_allowed:
        raise InputError(f"--{name.replace('_', '-')} {value} is not allowed: it must be {allowed}")


def _tasks(names: list[str] | None, models: list[str]) -> list[Task]:
    if names is None:
        return [task for task in TASKS.values() if rows_of(task, models)]
    for name in names:
        _check("tasks", name, name in TASKS, f"one of {', '.join(TASKS)}")
        if not rows_of(TASKS[name], models):
            raise InputError(f"--tasks {name} is about ernie-sparse: --models names none of it")
    return [TASKS[name] for name in dict.fromkeys(names)]
