# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The command: a run through the queue, its list, its tables, and its results in one file."""

import argparse
import functools
import time
from pathlib import Path

import torch
from transformers.utils import logging

from ernie_sparse.command_line import ArgumentParser
from ernie_sparse.errors import InputError
from ernie_sparse.results import Record, print_table

from . import PROG, report
from .processes import context, launch
from .queue import Measurement, build_queue
from .schedule import Forecast, Run, by_reason, say
from .store import Store

OUTPUT_DIR, TINY_OUTPUT_DIR = "benchmarks/results/gpu", "benchmark_output/gpu-tiny"
LRA_RESULTS_DIR = "benchmarks/results/lra"
EXAMPLES = f"""The queue, the most wanted first: the tests marked gpu; which kernels our time goes into; attention alone beside the
card's ceilings; steps of whole models, eager and compiled, beside the same model without attention, dense BERT on flash
attention, ModernBERT, BigBird and Longformer; the longest row that trains; fine-tuning and the cells of Long Range Arena that have not
been run. Each runs in a process of its own and leaves NAME.json, written whole or not at all; nothing is started whose
expected time is longer than what is left. What has a result of these kernels and settings is skipped.

Data of the last two kinds lie in --data-dir: imdb/, squad/ and triviaqa/ (parquet in the Hub's columns), source/ (the BERT-like
checkpoint to convert) and lra/TASK/.

examples:
  {PROG} --list
  {PROG} --minutes 12
  {PROG} --minutes 5 --only attention training-4096 --again
  {PROG} --minutes 12 --commit 23bf277 --bundle results.json   # from a copy without its history, to take one file along
  {PROG} --unbundle results.json
  {PROG} --report
  {PROG} --minutes 5 --tiny                                    # every kind in little time, on a CPU as well
"""


def main(argv: list[str]):
    """Run `python -m benchmarks.gpu` with the arguments `argv`."""
    start = time.monotonic()
    record = Record(PROG, argv)
    args = _parser().parse_args(argv)
    if args.minutes is not None and args.minutes <= 0:
        raise InputError(f"--minutes {args.minutes:g}: more than 0")
    logging.set_verbosity_error()
    store = Store(Path(args.output_dir or (TINY_OUTPUT_DIR if args.tiny else OUTPUT_DIR)), Path(args.lra_results_dir))
    if store.folder.exists() and not store.folder.is_dir():
        raise InputError(f"--output-dir {store.folder} is a file")
    on_gpu = torch.cuda.is_available()
    queue = build_queue(args.tiny, "cuda" if on_gpu or not args.tiny else "cpu", store.lra_results)
    digests = {measurement.name: measurement.digest() for measurement in queue}
    if args.only:
        queue = _picked(queue, args.only)
    if args.list:
        show(queue, store, Path(args.data_dir))
        return
    if args.minutes is None and not (args.report or args.bundle or args.unbundle):
        raise InputError(f"--minutes is missing: how long may it take? ({PROG} --help shows every flag)")
    if args.minutes is not None and not on_gpu and not args.tiny:
        raise InputError(
            "torch finds no GPU here (--tiny runs every kind of measurement on a CPU, for figures of nothing)"
        )
    if args.unbundle:
        for name in store.unbundle(Path(args.unbundle)):
            say(f"kept: {name}")

    def finish():
        report.write_report(store.folder, store.results(), store.failures(), digests)
        if args.bundle:
            store.bundle(Path(args.bundle))

    if args.minutes is not None:
        measure(args, queue, store, record, start, finish)
    finish()
    goals = report.goal_table(store.results())
    if goals.rows:
        print(f"\n{goals.text()}")
    rows = [("tables", store.folder / "results.md")]
    print_table([*rows, *([("bundle", args.bundle)] if args.bundle else [])])


def measure(args: argparse.Namespace, queue: list[Measurement], store: Store, record: Record, start: float, finish):
    """Measure what fits, and say in the end what was left out."""
    folders = {"data_dir": str(Path(args.data_dir).resolve()), "work_dir": str(Path(args.work_dir).resolve())}
    run = Run(
        store=store,
        # Imports have taken some of it.
        seconds=60 * args.minutes - (time.monotonic() - start),
        options=folders,
        facts={"commit": record.commit or args.commit},
        flags=["--tiny"] * args.tiny + (["--data-dir", args.data_dir] if args.data_dir != "gpu_data" else []),
        launch=functools.partial(launch, processes=context(torch.cuda.is_available())),
        clock=time.monotonic,
        on_result=finish,
        again=args.again,
    )
    left_out = run.through(queue)
    say(f"{len(run.measured)} measured, {len(left_out)} left out")
    for line in by_reason(left_out):
        say(f"  {line}")


def show(queue: list[Measurement], store: Store, data_dir: Path):
    """Print the queue: what each measurement is expected to take, and whether it is done or what stands in its way."""
    results, failures = store.results(), store.failures()
    forecast = Forecast(list(results.values()))
    total, rows = 0.0, []
    for measurement in queue:
        before, hindrance = results.get(measurement.name), measurement.hindrance(data_dir)
        seconds = forecast.seconds(measurement)
        if before and before["digest"] == measurement.digest():
            state = f"done {before['date'][:10]}, commit {(before['commit'] or 'unknown')[:7]}"
        else:
            state = hindrance or ("to do; there is a result of earlier kernels" if before else "to do")
            total += 0 if hindrance else seconds
            if measurement.name in failures:
                state += f"; failed before: {failures[measurement.name]['error'][:60]}"
        rows.append((measurement.name, f"{seconds:5.0f} s  {state}"))
    print_table(rows)
    say(f"  {total / 60:.0f} minutes to do, as far as nothing stands in the way")


def _picked(queue: list[Measurement], names: list[str]) -> list[Measurement]:
    by_name = {measurement.name: measurement for measurement in queue}
    for name in names:
        if name not in by_name:
            raise InputError(f"--only {name}: it is not in the queue, which {PROG} --list shows")
    return [by_name[name] for name in dict.fromkeys(names)]


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog=PROG,
        description="Everything that has to be measured on a GPU, in the time there is.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--minutes", type=float, metavar="M", help="how long it may take, from the start of the command")
    add("--only", nargs="+", metavar="NAME", help="only these measurements, in this order")
    add("--again", action="store_true", help="measure what has a result as well")
    add("--tiny", action="store_true", help="every kind of measurement in little time, on a CPU as well")
    add("--list", action="store_true", help="show the queue, and measure nothing")
    add("--report", action="store_true", help="write the tables of what is there, and measure nothing")
    add("--output-dir", metavar="DIR", help=f"where results are kept ({OUTPUT_DIR}; {TINY_OUTPUT_DIR} with --tiny)")
    add("--bundle", metavar="FILE", help="write all results into one file as well, after every measurement")
    add("--unbundle", metavar="FILE", help="keep the results that such a file holds")
    add("--commit", metavar="HASH", help="what is said of the sources where they have no history beside them")
    add("--data-dir", default="gpu_data", metavar="DIR", help="data of fine-tuning and Long Range Arena (gpu_data)")
    add("--work-dir", default="runs/gpu", metavar="DIR", help="where their runs are written (runs/gpu)")
    add(
        "--lra-results-dir",
        default=LRA_RESULTS_DIR,
        metavar="DIR",
        help=f"which of its cells have been run, and where new ones are kept ({LRA_RESULTS_DIR})",
    )
    return parser
