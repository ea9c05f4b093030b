# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The tables and pictures of all results that there are: how near the goals are first."""

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ..speed.models import NO_ATTENTION
from ..speed.report import ADVICE, Table, plot, remarks, seconds_per_row, tables
from ..speed.tasks import TASKS
from .steps import OURS_SDPA

MODES = ("eager", "compiled")
# Kernels that a profile's table shows; its file has more.
SHOWN_KERNELS = 10


class Goal(NamedTuple):
    """
    What a figure has to reach, and what it aims at.

    Args:
        what (`str`)
        task (`str`): Of the speed benchmark.
        figure (`str`): One of [`FIGURES`].
        reach, aim (`float`)
        lengths (`tuple[int, ...]`): Where it holds; every length when there are none.
    """

    what: str
    task: str
    figure: str
    reach: float
    aim: float
    lengths: tuple[int, ...] = ()

    @property
    def is_at_most(self) -> bool:
        return self.figure == "memory"


def _throughput(ours: dict, none: dict, dense: dict | None) -> float | None:
    return _over(seconds_per_row(none), seconds_per_row(ours)) if none else None


def _dense_over_ours(ours: dict, none: dict | None, dense: dict | None) -> float | None:
    return _over(seconds_per_row(dense), seconds_per_row(ours)) if dense else None


def _memory(ours: dict, none: dict | None, dense: dict | None) -> float | None:
    if not none or ours["batch_size"] != none["batch_size"]:
        return None
    return _over(ours["peak_memory_mib"], none["peak_memory_mib"])


def _over(number: float | None, other: float | None) -> float | None:
    return number / other if number is not None and other else None


FIGURES = {"throughput": _throughput, "dense": _dense_over_ours, "memory": _memory}
GOALS = (
    *(Goal("throughput over no attention", task, "throughput", 0.80, 0.90) for task in ("training", "forward")),
    *(
        Goal("dense BERT's time over ours", task, "dense", *numbers, (length,))
        for length, numbers in ((512, (1 / 1.05, 1.0)), (4096, (1.5, 1.8)), (8192, (2.2, 2.7)), (32768, (6.0, 7.8)))
        for task in ("training", "forward")
    ),
    Goal("peak memory over no attention", "training", "memory", 1.15, 1.05),
)


def goal_rows(goal: Goal, mode: str, cells: list[dict]) -> Iterable[list[str]]:
    """A row of the table of goals for every length that was measured."""
    of_task = [cell for cell in cells if cell["task"] == goal.task]
    for length in sorted({cell["length"] for cell in of_task}):
        by_model = {cell["model"]: cell for cell in of_task if cell["length"] == length}
        if (goal.lengths and length not in goal.lengths) or OURS_SDPA not in by_model:
            continue
        found = FIGURES[goal.figure](*(by_model.get(name) for name in (OURS_SDPA, NO_ATTENTION, "dense")))
        texts = [f"{number:.2f}" for number in (goal.reach, goal.aim)]
        reached = "-" if found is None else _reached(goal, found)
        measured = "-" if found is None else f"{found:.2f}"
        yield [f"{goal.what}, {goal.task}, {mode}", f"{length:,}", measured, *texts, reached]


def _reached(goal: Goal, found: float) -> str:
    def holds(bound: float) -> bool:
        return found <= bound if goal.is_at_most else found >= bound

    if holds(goal.aim):
        return "aim"
    if holds(goal.reach):
        return "yes"
    distance = found / goal.reach - 1
    return f"no, {abs(distance):.0%} {'over' if goal.is_at_most else 'short'}"


def goal_table(results: dict[str, dict]) -> Table:
    rows = [
        row for goal in GOALS for mode in MODES for row in goal_rows(goal, mode, cells_of(results, mode))
    ]  # fmt: skip
    return Table("How near the goals are", ["what", "tokens", "measured", "to reach", "aim", "reached"], rows)


def cells_of(results: dict[str, dict], mode: str) -> list[dict]:
    """The cells of all steps of a mode, by length. Those of BigBird and Longformer that were measured apart come beside them."""
    cells = {}
    for name, content in results.items():
        if content["kind"] == "steps" and content["results"]["mode"] == mode:
            for cell in content["results"]["cells"]:
                key = (cell["task"], cell["length"], cell["model"], cell["variant"])
                # Ours stands in both, for the ratios of each; the one beside dense BERT is the one of the tables.
                if key not in cells or "-peers-" not in name:
                    cells[key] = cell
    return sorted(cells.values(), key=lambda cell: (list(TASKS).index(cell["task"]), cell["length"]))


def attention_tables(content: dict) -> list[Table]:
    ceilings, rows = content["results"]["ceilings"], content["results"]["rows"]
    title = (
        f"Attention of one layer alone; a large matrix product {ceilings['matmul_tflops']:.4g} TFLOP/s, a large copy "
        f"{ceilings['copy_tb_per_second']:.3g} TB/s"
    )
    header = ["attention", "tokens", "us", "TFLOP/s", "of the product"]
    lines = []
    for row in rows:
        name = f"{row['attention']}, {'forward and backward' if row['backward'] else 'forward'}"
        figures = [row["reason"][:40], "-", "-"] if row["seconds"] is None else _attention_figures(row)
        lines.append([name, f"{row['length']:,}", *figures])
    return [Table(title, header, lines)]


def _attention_figures(row: dict) -> list[str]:
    seconds = statistics.median(row["seconds"])
    return [f"{1e6 * seconds:,.0f}", f"{row['tflops']:.4g}", f"{row['share_of_matmul']:.1%}"]


def profile_tables(content: dict) -> list[Table]:
    found = []
    for name, profile in content["results"]["tables"].items():
        title = (
            f"Where {name} of {content['results']['length']:,} tokens goes: {profile['step_ms']:.4g} ms a step, kernels "
            f"{profile['kernels_ms']:.4g} ms"
        )
        rows = [
            [kernel["name"], f"{kernel['calls']:g}", f"{kernel['ms']:.4g}", f"{kernel['share']:.1%}"]
            for kernel in profile["kernels"][:SHOWN_KERNELS]
        ]
        found.append(Table(title, ["kernel", "calls", "ms", "share"], rows))
    return found


def longest_table(contents: list[dict]) -> Table:
    rows = []
    for content in contents:
        found, settings = content["results"], content["settings"]
        name = "with gradient checkpointing" if settings["checkpointing"] else "activations kept"
        more = "at least " if found["is_bound_of_search"] else ""
        rows.append([name, f"{settings['memory_bytes'] / 1e9:g} GB", f"{more}{found['longest']:,}"])
    return Table("The longest row that trains", ["training", "memory", "tokens"], rows)


def run_table(results: dict[str, dict]) -> Table:
    """What tests, Long Range Arena and fine-tuning came to."""
    rows = []
    for name, content in results.items():
        found = content["results"]
        if content["kind"] == "tests":
            rows.append([name, f"{found['tests']} tests, {found['failures']} failures, {found['errors']} errors"])
        elif content["kind"] in ("lra", "finetuning"):
            for label, kept in found["kept"].items():
                metrics = {"accuracy": kept["accuracy"]} if "accuracy" in kept else kept["splits"][kept["evaluated_on"]]
                numbers = [f"{key} {value:.4f}" for key, value in metrics.items() if isinstance(value, float)]
                rows.append([label, ", ".join(numbers)])
    return Table("Tests, Long Range Arena, fine-tuning", ["run", "result"], rows)


def source_table(results: dict[str, dict], failures: dict[str, dict], digests: dict[str, str]) -> Table:
    """What every figure comes from. A result whose digest is not that of the queue is of earlier kernels."""
    rows = []
    for name, content in [*results.items(), *((f"{name}: {c['error']}", c) for name, c in failures.items())]:
        is_now = digests.get(content["name"]) == content["digest"]
        kernels = "these" if is_now else "earlier, or other settings"
        gpu = content.get("hardware", {}).get("gpu") or "-"
        seconds = f"{content['wall_seconds']:g}"
        rows.append([name, (content["commit"] or "unknown")[:13], gpu, content["date"], kernels, seconds])
    return Table("Where the figures come from", ["measurement", "commit", "gpu", "date", "kernels", "seconds"], rows)


def all_tables(results: dict[str, dict], failures: dict[str, dict], digests: dict[str, str]) -> list[Table]:
    """Everything but what is empty."""

    def of_kind(kind: str) -> list[dict]:
        return [content for content in results.values() if content["kind"] == kind]

    found = [goal_table(results)]
    for mode in MODES:
        found += [table._replace(title=f"{mode}, {table.title}") for table in tables(cells_of(results, mode))]
    found += [table for content in of_kind("attention") for table in attention_tables(content)]
    found += [table for content in of_kind("profile") for table in profile_tables(content)]
    found += [longest_table(of_kind("longest")), run_table(results), source_table(results, failures, digests)]
    return [table for table in found if table.rows]


def write_report(folder: Path, results: dict[str, dict], failures: dict[str, dict], digests: dict[str, str]):
    """Write results.md and, where matplotlib is installed, a picture of each mode."""
    parts = ["# On a GPU", ADVICE]
    if not results:
        parts.append("Nothing has been measured yet.")
    parts += [table.markdown() for table in all_tables(results, failures, digests)]
    for mode in MODES:
        cells = cells_of(results, mode)
        if lines := remarks(cells):
            parts.append("\n".join([f"### Left out, {mode}", "", *(f"- {line}" for line in lines)]))
        picture = folder / f"{mode}.png"
        if any(cell["task"] in ("forward", "training") for cell in cells) and plot({"cells": cells}, picture):
            parts.append(f"![{mode}: time per thousand tokens and peak memory over length]({picture.name})")
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join(parts) + "\n"
    temporary = folder / "results.md.partial"
    temporary.write_text(text)
    temporary.replace(folder / "results.md")
