# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""What a benchmark leaves: cells with their ratios, tables of them, facts about the run, and a picture."""

import statistics
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from .measure import LeftOut
from .models import MODERNBERT_FLEX, NO_ATTENTION, is_ours
from .tasks import TASKS, Row, Task

ADVICE = (
    "Ratios are of medians that were measured side by side, round by round. Times and tokens per second mean something "
    "on a quiet machine only, and only there are they to be compared with those of another run. Peak memory is that of "
    "one step, its gradients included, on top of the built model."
)
# Okabe and Ito's palette, which stays apart for every kind of colour vision; vermilion is ours alone.
COLOURS = {
    NO_ATTENTION: "#8C8C8C",
    "dense": "#0072B2",
    "bigbird": "#009E73",
    "longformer": "#CC79A7",
    "modernbert": "#E69F00",
    MODERNBERT_FLEX: "#56B4E9",
}
MARKERS = {NO_ATTENTION: "", "dense": "s", "bigbird": "^", "longformer": "v", "modernbert": "D", MODERNBERT_FLEX: "P"}
OURS_COLOURS = ("#D55E00", "#7A3600", "#F2A36B")


def make_cell(task: Task, row: Row, length: int, note: str | None, num_tokens: int | None, outcome, peak) -> dict:
    """A cell as results.json holds it. `outcome` are the seconds of all runs or why there are none, `peak` likewise."""
    cell = {"task": task.name, "length": length, "model": row.model, "variant": row.variant, "note": note}
    cell |= {"reason": None, "seconds": None, "memory_reason": None, "peak_memory_mib": None}
    if isinstance(outcome, LeftOut):
        cell["reason"] = outcome.reason
    else:
        median = statistics.median(outcome)
        cell |= {"seconds": outcome, "median_seconds": median, "min_seconds": min(outcome)}
        cell |= {"num_tokens": num_tokens, "tokens_per_second": num_tokens / median}
    cell["memory_reason" if isinstance(peak, LeftOut) else "peak_memory_mib"] = getattr(peak, "reason", peak)
    return cell


def add_ratios(cells: list[dict]):
    """
    To each of the cells of one task and length: its median over that of its reference, and of ours. Where batches are not of
    one size, cells have a `batch_size`, and it is the time per row that is compared.
    """
    medians = {Row(cell["model"], cell["variant"]): seconds_per_row(cell) for cell in cells}
    ours = next((row for row in medians if is_ours(row.model)), None)
    for cell in cells:
        variants = TASKS[cell["task"]].variants
        reference = Row(cell["model"], variants[0]) if variants else Row(NO_ATTENTION)
        cell["reference"] = variants[0] if variants else NO_ATTENTION
        cell["over_reference"] = _ratio(seconds_per_row(cell), medians.get(reference))
        is_peer = not variants and cell["model"] != NO_ATTENTION
        cell["over_ours"] = _ratio(seconds_per_row(cell), medians.get(ours)) if is_peer else None


def seconds_per_row(cell: dict) -> float | None:
    """The median over the rows of the batch, where it is known how many these are; `None` for what was left out."""
    return None if cell["seconds"] is None else cell["median_seconds"] / cell.get("batch_size", 1)


def _ratio(seconds: float | None, reference: float | None) -> float | None:
    return seconds / reference if seconds is not None and reference else None


class Table(NamedTuple):
    """A title, the names of the columns and the rows, all as text."""

    title: str
    header: list[str]
    rows: list[list[str]]

    def text(self) -> str:
        lines = [self.header, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        first, *others = widths
        return "\n".join(
            [
                self.title,
                *(
                    "  ".join([f"  {line[0]:<{first}}", *(f"{c:>{w}}" for c, w in zip(line[1:], others, strict=True))])
                    for line in lines
                ),
            ]
        )

    def markdown(self) -> str:
        lines = [self.header, ["---", *["---:"] * (len(self.header) - 1)], *self.rows]
        return "\n".join([f"### {self.title}", "", *(f"| {' | '.join(line)} |" for line in lines)])


def tables(cells: list[dict]) -> list[Table]:
    """Ratios of all tasks first, then tokens per second, then memory."""
    by_task = {name: [cell for cell in cells if cell["task"] == name] for name in TASKS}
    by_task = {name: found for name, found in by_task.items() if found}
    found = []
    for name, of_task in by_task.items():
        reference = of_task[0]["reference"]
        if TASKS[name].variants or any(cell["model"] == NO_ATTENTION for cell in of_task):
            found.append(_table(f"{name}: time over {reference}", of_task, "over_reference", f"{{:.2f}} x {reference}"))
        ours = next((cell["model"] for cell in of_task if is_ours(cell["model"])), None)
        peers = [cell for cell in of_task if cell["model"] not in (NO_ATTENTION, ours)]
        if ours and peers and not TASKS[name].variants:
            found.append(_table(f"{name}: time over {ours}", peers, "over_ours", "{:.2f} x ours"))
    for name, of_task in by_task.items():
        found.append(_table(f"{name}: tokens per second", of_task, "tokens_per_second", "{:,.0f}"))
    for name, of_task in by_task.items():
        if any(cell["peak_memory_mib"] is not None or cell["memory_reason"] for cell in of_task):
            found.append(_table(f"{name}: peak memory in MiB", of_task, "peak_memory_mib", "{:,.1f}"))
    return found


def _table(title: str, cells: list[dict], field: str, form: str) -> Table:
    lengths = sorted({cell["length"] for cell in cells})
    rows = {}
    for cell in cells:
        label = Row(cell["model"], cell["variant"]).label
        reason = cell["memory_reason" if field == "peak_memory_mib" else "reason"]
        rows.setdefault(label, {})[cell["length"]] = _cell_text(
            cell[field] if field in cell else None, reason, cell, form
        )
    header = ["tokens", *(f"{length:,}" for length in lengths)]
    return Table(title, header, [[label, *(row.get(n, "-") for n in lengths)] for label, row in rows.items()])


def _cell_text(value: float | None, reason: str | None, cell: dict, form: str) -> str:
    if value is None:
        # What does not fit is said in full under the tables.
        return "-" if reason is None else reason if len(reason) <= 16 else "failed"
    return form.format(value) + (f" ({cell['note']})" if cell["note"] else "")


def remarks(cells: list[dict]) -> list[str]:
    """Everything that was left out, in full: one line for each model and reason, with the tasks and lengths."""
    places = {}
    for cell in cells:
        for what, reason in (("", cell["reason"]), ("memory: ", cell["memory_reason"])):
            if reason and not (what and reason == cell["reason"]):
                tasks = places.setdefault(f"{cell['model']}: {what}{reason}", {})
                tasks.setdefault(cell["task"], {})[f"{cell['length']:,}"] = None
    return [
        f"{line} ({'; '.join(' at '.join((task, ', '.join(lengths))) for task, lengths in tasks.items())} tokens)"
        for line, tasks in places.items()
    ]


def facts(results: dict) -> list[tuple[str, str]]:
    """The lines on top of the tables."""
    machine, settings = results["hardware"], results["settings"]
    memory = "" if machine["memory_gib"] is None else f", memory {machine['memory_gib']} GiB"
    model = f"hidden size {settings['hidden_size']}, layers {settings['layers']}, heads {settings['heads']}"
    rows = [
        ("command", results["command"]),
        ("commit", results["commit"] or "unknown"),
        ("date", results["date"]),
        ("processor", f"{machine['cpu']}, cores {machine['cores']}, threads {machine['threads']}{memory}"),
        *([("gpu", machine["gpu"])] if machine["gpu"] else []),
        ("versions", ", ".join(f"{k} {v}" for k, v in results["versions"].items())),
        ("models", f"{model}, vocabulary {settings['vocab_size']}, weights from seed 0"),
        ("pattern", settings["pattern"]),
        ("steps", f"{settings['dtype']} on {settings['device']}, batch {settings['batch_size']} (padding: at least 4)"),
        ("runs", f"medians of {settings['runs']} after one that is not counted"),
    ]
    return rows if results["complete"] else [*rows, ("not complete", "the run was stopped or is still going on")]


def save_markdown(results: dict, folder: Path):
    """Write results.md: the facts, the tables, and what was left out."""
    tasks = [f"- `{name}`: {task.text}" for name, task in TASKS.items() if name in results["settings"]["tasks"]]
    parts = [
        "# Time and memory over length",
        "\n".join(
            f"- {name}: {f'`{value}`' if name in ('command', 'pattern') else value}" for name, value in facts(results)
        ),
        ADVICE,
        "\n".join(tasks),
        *(table.markdown() for table in tables(results["cells"])),
    ]
    left_out = remarks(results["cells"])
    if left_out:
        parts.append("\n".join(["### Left out", "", *(f"- {line}" for line in left_out)]))
    (folder / "results.md").write_text("\n\n".join(parts) + "\n")


def plot(results: dict, path: Path) -> bool:
    """
    Per task two panels, time per token and peak memory over length; `False` when matplotlib is not installed. Nothing is
    drawn, and the answer is `True`, when neither `forward` nor `training` ran.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    cells = [cell for cell in results["cells"] if cell["task"] in ("forward", "training")]
    tasks = list(dict.fromkeys(cell["task"] for cell in cells))
    if not tasks:
        return True
    has_memory = any(cell["peak_memory_mib"] for cell in cells)
    figure = Figure(figsize=(11 if has_memory else 6.5, 0.9 + 3.7 * len(tasks)), layout="constrained")
    grid = figure.subplots(len(tasks), 1 + has_memory, squeeze=False)
    for task, axes in zip(tasks, grid, strict=True):
        of_task = [cell for cell in cells if cell["task"] == task]
        times = [(cell, _milliseconds(cell)) for cell in of_task]
        _panel(axes[0], times, f"{task}: time", "ms per 1,000 tokens")
        if has_memory:
            memory = [(cell, cell["peak_memory_mib"]) for cell in of_task]
            _panel(axes[1], memory, f"{task}: peak memory of a step", "MiB", is_log=True)
    drawn = (line for axes in grid.flat for line in axes.get_lines() if line.get_linestyle() != "None")
    lines = dict(sorted({line.get_label(): line for line in drawn}.items(), key=lambda item: not is_ours(item[0])))
    if lines:
        figure.legend(lines.values(), lines.keys(), loc="outside upper center", ncols=min(6, len(lines)), frameon=False)
    notes = {f"hollow: {cell['model']} at {cell['length']:,}, {cell['note']}": None for cell in cells if cell["note"]}
    for cell in cells:
        if cell["reason"]:
            reason = _cell_text(None, cell["reason"], cell, "")
            notes[f"not drawn: {cell['task']} of {cell['model']} at {cell['length']:,}, {reason}"] = None
    if notes:
        figure.supxlabel(textwrap.fill("; ".join(notes), 170), fontsize=8, color="#555555")
    figure.savefig(path, dpi=130)
    return True


def _milliseconds(cell: dict) -> float | None:
    return 1e6 * cell["median_seconds"] / cell["num_tokens"] if cell["seconds"] else None


def _panel(axes, values: Iterable[tuple[dict, float | None]], title: str, unit: str, is_log: bool = False):
    values = [(cell, value) for cell, value in values if value]
    models = dict.fromkeys(cell["model"] for cell, _ in values)
    ours = [model for model in models if is_ours(model)]
    # Ours last, so that nothing is drawn over it.
    for model in sorted(models, key=lambda model: (is_ours(model), model != NO_ATTENTION)):
        points = [(cell["length"], value, cell["note"]) for cell, value in values if cell["model"] == model]
        style = {"color": COLOURS.get(model), "marker": MARKERS.get(model, "o"), "linewidth": 1.5, "markersize": 5}
        if model == NO_ATTENTION:
            style["linestyle"] = "--"
        elif model in ours:
            style |= {"color": OURS_COLOURS[ours.index(model) % len(OURS_COLOURS)], "linewidth": 3, "markersize": 7}
        xs, ys, notes = zip(*points, strict=True)
        axes.plot(xs, ys, label=model, **style)
        hollow = [(x, y) for x, y, note in zip(xs, ys, notes, strict=True) if note]
        if hollow:
            look = {"marker": style["marker"], "markersize": style["markersize"], "markeredgecolor": style["color"]}
            axes.plot(*zip(*hollow, strict=True), linestyle="", markerfacecolor="white", markeredgewidth=1.5, **look)
    lengths = sorted({cell["length"] for cell, _ in values})
    axes.set_xscale("log")
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axes.minorticks_off()
    if is_log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:,g}")
    else:
        axes.set_ylim(bottom=0)
    axes.set_title(title, loc="left", fontsize=11)
    axes.set(xlabel="tokens", ylabel=unit)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
