# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The page of results: tables and pictures made of the runs' results.json, each table between two marks of the page."""

import json
import statistics
import textwrap
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from ernie_sparse.command_line import ArgumentParser
from ernie_sparse.errors import InputError
from ernie_sparse.run import FILE_NAME
from ernie_sparse.trainer import SaorArguments

from ..pages import fill_page
from . import PROG
from .arguments import LraArguments
from .models import HST, MODELS, LraModel
from .tasks import TASKS

# What a file must hold to be a result.
KEYS = (
    "task",
    "model",
    "seed",
    "steps",
    "batch_size",
    "learning_rate",
    "warmup_steps",
    "rows",
    "accuracy",
    "chance",
    "constant_guess",
    "command",
    "hardware",
    "commit",
)
# Always in the table of accuracies, so that it is seen what has not been run.
SELF_PRETRAINED = ("hst", "hst-saor")
GLOBAL_BLOCKS = (0, 1, 2, 4)
HIERARCHY = {"with HST": True, "without HST": False}
REGULARISED = {"hst": "neither", "hst-rdrop": "R-Drop", "hst-saor": "SAOR"}


def main(argv: list[str]):
    """Run `python -m benchmarks.lra --report` with the arguments `argv`."""
    parser = ArgumentParser(prog=PROG, description=__doc__, allow_abbrev=False)
    parser.add_argument("--report", action="store_true", required=True)
    parser.add_argument("--results-dir", default="benchmarks/results/lra", metavar="DIR", help="(%(default)s)")
    parser.add_argument("--page", default="docs/notebook/lra.md", metavar="FILE", help="(%(default)s)")
    args = parser.parse_args(argv)
    cells, page = read_cells(args.results_dir), Path(args.page)
    tables = {
        "accuracy": accuracy_table(cells),
        "losses": loss_table(cells),
        "shorter": shorter_tables(cells),
        "bottleneck": bottleneck_tables(cells),
        "patterns": pattern_tables(cells),
        "runs": runs_table(cells),
    }
    # A page without places for the tables gets no pictures either.
    fill_page(page, tables)
    pictures = draw(cells, page.parent)
    for path in pictures:
        tables[path.stem.removeprefix("lra_")] += f"\n\n![The table as a picture]({path.name})"
    fill_page(page, tables)
    print(f"{page}: {len(cells)} runs of {args.results_dir}; pictures: {', '.join(map(str, pictures)) or 'none'}")


def read_cells(folder: str | Path) -> list[dict]:
    """
    The results below a folder, in the order of tasks, models and seeds.

    Raises:
        [`InputError`]: No such folder, or a file that is no result.
    """
    if not Path(folder).is_dir():
        raise InputError(f"--results-dir {folder}: there is no such folder")
    cells = []
    paths = {}
    for path in sorted(Path(folder).rglob("*.json")):
        if _is_beside_results(path.relative_to(folder)):
            continue
        try:
            cell = json.loads(path.read_text())
            _check_cell(cell)
        except (ValueError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is not a result of `{PROG}`: {error}") from None
        run = str(
            (
                setting(cell),
                # `window` is `flat` without global blocks: where there is a pattern, the name says no more.
                cell.get("pattern") or cell["model"],
                cell.get("saor"),
                pretrained_with(cell),
                cell["seed"],
            )
        )
        if run in paths:
            raise InputError(f"{path} and {paths[run]} are results of the same run: keep one of them")
        paths[run] = path
        cells.append(cell)
    tasks, models = list(TASKS), list(MODELS)
    return sorted(
        cells,
        key=lambda cell: (
            tasks.index(cell["task"]),
            -cell["steps"],
            bool(cell.get("changed")),
            models.index(cell["model"]),
            bool(cell.get("self_pretraining")),
            str(cell.get("pattern")),
            cell["seed"],
        ),
    )


def _is_beside_results(path: Path) -> bool:
    """What a run leaves beside its results."""
    inner = any(part == "self-pretraining" or part.startswith("checkpoint-") for part in path.parts)
    return inner or path.name == FILE_NAME


def _check_cell(cell: dict):
    """Raise a `ValueError` for what is no result of a run."""
    missing = [key for key in KEYS if key not in cell]
    if missing:
        raise ValueError(f"it has no {', '.join(missing)}")
    for name, names in (("task", TASKS), ("model", MODELS)):
        if cell[name] not in names:
            raise ValueError(f"{cell[name]!r} is no {name}")
    for name in ("accuracy", "chance", "constant_guess"):
        if not 0 <= cell[name] <= 1:
            raise ValueError(f"{name} is {cell[name]}: it must lie between 0 and 1")
    for name, low in {"steps": 1, "batch_size": 1, "seed": 0}.items():
        if not (isinstance(cell[name], int) and cell[name] >= low):
            raise ValueError(f"{name} is {cell[name]!r}: it must be a whole number of at least {low}")
    if not {"train", "test"} <= set(cell["rows"]) or not {"cpu", "threads"} <= set(cell["hardware"]):
        raise ValueError("its rows or its hardware are incomplete")
    # Raises what `read_cells` names where the history is none.
    validation_losses(cell)
    if not isinstance(cell.get("changed", {}), dict):
        raise ValueError(f"changed is {cell['changed']!r}: it must have names and values")


def has_whole_recipe(cell: dict) -> bool:
    """Whether a run had the task's whole recipe, on all the rows there were."""
    recipe = TASKS[cell["task"]].recipe
    own = (recipe.max_steps, recipe.batch_size, recipe.learning_rate, recipe.warmup_steps)
    return trained_with(cell) == (*own, "") and not cell.get("limits")


def trained_with(cell: dict) -> tuple:
    """A run's recipe, and what it did otherwise than the harness, which is nothing in most."""
    changed = ", ".join(f"{name} {value}" for name, value in cell.get("changed", {}).items())
    return cell["steps"], cell["batch_size"], cell["learning_rate"], cell["warmup_steps"], changed


def full_cells(cells: list[dict]) -> dict[str, list[dict]]:
    """Per task the runs of the whole recipe; where data of several sizes was read, those on most rows."""
    found = {task: [cell for cell in cells if cell["task"] == task and has_whole_recipe(cell)] for task in TASKS}
    most = {task: max(map(num_rows, group), default=None) for task, group in found.items()}
    return {task: [cell for cell in group if num_rows(cell) == most[task]] for task, group in found.items()}


def num_rows(cell: dict) -> tuple[int, int]:
    return cell["rows"]["train"], cell["rows"]["test"]


def rows_text(cell: dict) -> str:
    return " / ".join(f"{number:,}" for number in num_rows(cell))


def row_of(cell: dict) -> str | None:
    """
    The model whose row a run is of, if any: the one whose pattern and SAOR it had, by whatever name it was run, and
    self-pretrained by the recipe if at all.
    """
    if pretrained_with(cell) not in (None, (cell["steps"], LraArguments.self_pretrain_learning_rate)):
        return None
    found = (name for name, model in MODELS.items() if _had(cell, name, model))
    return next(found, None)


def _had(cell: dict, name: str, model: LraModel) -> bool:
    """Whether a run had a model's pattern and SAOR."""
    saor = None
    if model.saor_alpha:
        patterns = SaorArguments().saor_patterns if model.saor_patterns is None else list(model.saor_patterns)
        saor = {"alpha": model.saor_alpha, "patterns": patterns}
    same = cell["model"] == name if model.pattern is None else cell.get("pattern") == str(model.pattern)
    return same and cell.get("saor") == saor


def pretrained_with(cell: dict) -> tuple | None:
    """The recipe of a run's self-pretraining, if it had any."""
    pretraining = cell.get("self_pretraining")
    return pretraining and (pretraining.get("steps"), pretraining.get("learning_rate"))


def setting(cell: dict) -> tuple:
    """What runs must share to stand in one table."""
    return cell["task"], *trained_with(cell), *num_rows(cell)


def setting_text(key: tuple) -> str:
    task, steps, batch_size, learning_rate, warmup_steps, changed, train_rows, test_rows = key
    return (
        f"{task}, {steps:,} updates of {batch_size} rows, learning rate {learning_rate:g} after a warm-up of "
        f"{warmup_steps:,}, {f'{changed}, ' if changed else ''}{train_rows:,} training and {test_rows:,} test rows"
    )


def by_setting(cells: list[dict]) -> dict[tuple, list[dict]]:
    groups = defaultdict(list)
    for cell in cells:
        groups[setting(cell)].append(cell)
    return groups


def mean_text(values: list[float], scale: float = 100, digits: int = 1) -> str:
    """Mean and standard deviation over seeds, and how many there are; nothing where there are none."""
    if not values:
        return ""
    values = [scale * value for value in values]
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{spread} ({len(values)})"


def markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(header)} |", f"| --- |{' ---: |' * (len(header) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def row_names(cells: list[dict]) -> list[tuple[str, bool]]:
    """The rows of the table of accuracies: all models, and those self-pretrained that were run or ought to be."""
    pretrained = {cell["model"] for cell in cells if cell.get("self_pretraining")} | set(SELF_PRETRAINED)
    return [(name, False) for name in MODELS] + [(name, True) for name in MODELS if name in pretrained]


def of_row(cells: list[dict], name: str, is_pretrained: bool) -> list[dict]:
    """The runs that a row of a table is of."""
    own = [cell for cell in cells if row_of(cell) == name]
    return [cell for cell in own if bool(cell.get("self_pretraining")) == is_pretrained]


def accuracies(cells: list[dict], name: str, is_pretrained: bool) -> list[float]:
    return [cell["accuracy"] for cell in of_row(cells, name, is_pretrained)]


def accuracy_table(cells: list[dict]) -> str:
    """Test accuracies of the whole recipe, model by task; empty where nothing has been run."""
    full = full_cells(cells)
    sizes = [rows_text(full[task][0]) if full[task] else "" for task in TASKS]
    guesses = [100 * full[task][0]["constant_guess"] if full[task] else None for task in TASKS]
    rows = [
        ["training / test rows", *sizes, ""],
        ["chance", *(f"{100 / task.num_labels:.1f}" for task in TASKS.values()), ""],
        ["most frequent class", *("" if guess is None else f"{guess:.1f}" for guess in guesses), ""],
    ]
    for name, is_pretrained in row_names(cells):
        columns = [accuracies(full[task], name, is_pretrained) for task in TASKS]
        means = [statistics.fmean(100 * value for value in column) for column in columns if column]
        average = f"{statistics.fmean(means):.1f} over {len(means)}" if means else ""
        rows.append([row_title(name, is_pretrained), *map(mean_text, columns), average])
    return "\n\n".join([markdown(["model", *TASKS, "average over tasks"], rows), against_bigbird(full)])


def validation_losses(cell: dict) -> list[tuple[int, float]]:
    """Updates and the validation losses there, as far as a result has them."""
    evaluated = [entry for entry in cell.get("history", []) if {"step", "eval_loss"} <= entry.keys()]
    return [(entry["step"], entry["eval_loss"]) for entry in evaluated]


def loss_curves(cells: list[dict]) -> dict[tuple, dict[tuple[str, bool], list[list[tuple[int, float]]]]]:
    """The validation losses of the whole recipe's runs, by setting and row."""
    found = {}
    for group in full_cells(cells).values():
        rows = {row: list(filter(None, map(validation_losses, of_row(group, *row)))) for row in row_names(group)}
        if any(rows.values()):
            found[setting(group[0])] = {row: curves for row, curves in rows.items() if curves}
    return found


def loss_table(cells: list[dict]) -> str:
    """Validation losses where a training ended and at their lowest, of the whole recipe's runs."""
    parts = []
    for key, rows in loss_curves(cells).items():
        lines = []
        for row, curves in rows.items():
            ends, lows = [curve[-1][1] for curve in curves], [min(loss for _, loss in curve) for curve in curves]
            lines.append([row_title(*row), *(mean_text(values, scale=1, digits=3) for values in (ends, lows))])
        parts.append(markdown([setting_text(key), "validation loss at the end", "lowest"], lines))
    return "\n\n".join(parts) or "None yet."


def row_title(name: str, is_pretrained: bool) -> str:
    return f"`{name}`: {MODELS[name].what}{', self-pretrained' if is_pretrained else ''}"


def against_bigbird(full: dict[str, list[dict]]) -> str:
    """How far HST with SAOR is from BigBird over the tasks that both have run."""
    pairs = {task: [accuracies(cells, name, False) for name in ("hst-saor", "bigbird")] for task, cells in full.items()}
    both = {task: pair for task, pair in pairs.items() if all(pair)}
    if not both:
        return "HST with SAOR and BigBird have no task in common yet."
    gap = statistics.fmean(statistics.fmean(ours) - statistics.fmean(theirs) for ours, theirs in both.values())
    return f"HST with SAOR minus BigBird, on average over {', '.join(both)}: {100 * gap:+.1f} points."


def shorter_tables(cells: list[dict]) -> str:
    """As the table of accuracies, for runs of fewer updates or rows, a table per setting."""
    full = [cell for group in full_cells(cells).values() for cell in group]
    shorter = by_setting([cell for cell in cells if cell not in full and row_of(cell) is not None])
    parts = []
    for key, group in shorter.items():
        rows = [
            ["chance, most frequent class", f"{100 * group[0]['chance']:.1f}, {100 * group[0]['constant_guess']:.1f}"]
        ]
        for name, is_pretrained in row_names(group):
            values = accuracies(group, name, is_pretrained)
            if values:
                rows.append([row_title(name, is_pretrained), mean_text(values)])
        parts.append(markdown([setting_text(key), "test accuracy"], rows))
    return "\n\n".join(parts) or "None yet."


def bottleneck(cells: list[dict]) -> dict[tuple, dict[tuple[bool, int], list[dict]]]:
    """Runs by setting, then by hierarchy and number of global blocks, of the default pattern otherwise."""
    patterns = {
        str(HST.changed_by(f"num_global_blocks={number},hierarchical={str(hierarchical).lower()}")): (
            hierarchical,
            number,
        )
        for hierarchical in HIERARCHY.values()
        for number in GLOBAL_BLOCKS
    }
    plain = [cell for cell in cells if not cell.get("saor") and not cell.get("self_pretraining")]
    found = {}
    for key, group in by_setting([cell for cell in plain if cell.get("pattern") in patterns]).items():
        runs = defaultdict(list)
        for cell in group:
            runs[patterns[cell["pattern"]]].append(cell)
        if len({number for _, number in runs}) > 1:
            found[key] = runs
    return found


def bottleneck_tables(cells: list[dict]) -> str:
    """Accuracies by hierarchy and number of global blocks, and the validation losses at the end where all runs have them."""
    parts = []
    for key, runs in bottleneck(cells).items():
        rows, losses = [], []
        for title, is_hierarchical in HIERARCHY.items():
            groups = [runs[is_hierarchical, number] for number in GLOBAL_BLOCKS]
            rows.append([title, *(mean_text([run["accuracy"] for run in group]) for group in groups)])
            curves = [list(map(validation_losses, group)) for group in groups]
            ends = [[curve[-1][1] for curve in group] if all(group) else [] for group in curves]
            if any(ends):
                texts = (mean_text(values, scale=1, digits=3) for values in ends)
                losses.append([f"{title}: validation loss at the end", *texts])
        rows += losses
        parts.append(markdown([setting_text(key), *(f"{number} global" for number in GLOBAL_BLOCKS)], rows))
    return "\n\n".join(parts) or "None yet."


def pattern_changes(cells: list[dict]) -> dict[tuple, dict[str, dict[str, list[dict]]]]:
    """
    What other patterns did, by setting, regularisation and change of the pattern; where two regularisations were tested
    under any.
    """
    found = {}
    chosen = [cell for cell in cells if row_of(cell) in REGULARISED and cell.get("other_patterns")]
    for key, group in by_setting([cell for cell in chosen if not cell.get("self_pretraining")]).items():
        values = {name: defaultdict(list) for name in REGULARISED}
        for cell in group:
            name = row_of(cell)
            values[name]["own"].append({"accuracy": cell["accuracy"], "flipped": 0.0})
            for text, other in cell["other_patterns"].items():
                values[name][text].append(other)
        values = {name: changes for name, changes in values.items() if changes}
        if len(values) > 1:
            found[key] = values
    return found


def pattern_tables(cells: list[dict]) -> str:
    parts = []
    for key, values in pattern_changes(cells).items():
        changes = list(dict.fromkeys(text for found in values.values() for text in found))
        header = [setting_text(key)]
        header += [f"{REGULARISED[name]}: {what}" for name in values for what in ("accuracy", "answers changed")]
        rows = []
        for text in changes:
            row = ["the model's own pattern" if text == "own" else f"`{text}`"]
            for found in values.values():
                row += [mean_text([other[what] for other in found[text]]) for what in ("accuracy", "flipped")]
            rows.append(row)
        parts.append(markdown(header, rows))
    return "\n\n".join(parts) or "None yet."


def runs_table(cells: list[dict]) -> str:
    """Every run with what it needs to be done again."""
    rows = []
    for cell in cells:
        pretraining = cell.get("self_pretraining")
        steps = f"{pretraining['steps']:,} + {cell['steps']:,}" if pretraining else f"{cell['steps']:,}"
        accuracy = f"{100 * cell['accuracy']:.2f}"
        places = [environment_text(cell, text) for text in (commit_text, hardware_text)]
        rows.append([f"`{cell['command']}`", accuracy, str(cell["seed"]), steps, rows_text(cell), *places])
    header = ["command", "test accuracy", "seed", "updates", "training / test rows", "commit", "hardware"]
    return markdown(header, rows) if rows else "None yet."


def environment_text(cell: dict, text: Callable[[dict], str]) -> str:
    """What `text` says of what a run was trained on, and of its self-pretraining where that is something else."""
    own = by_update(cell.get("environments") or [cell], text)
    first = by_update((cell.get("self_pretraining") or {}).get("environments", []), text)
    return own if first in ("", own) else f"self-pretraining: {first}; then: {own}"


def by_update(environments: list[dict], text: Callable[[dict], str]) -> str:
    """What `text` says of environments, each with the update it began at where that is not the first."""
    parts = []
    for environment in environments:
        found, step = text(environment), environment.get("step", 0)
        if not parts or parts[-1][1] != found:
            parts.append((f"from update {step:,}: " if step and found else "", found))
    return "; ".join(start + found for start, found in parts)


def commit_text(environment: dict) -> str:
    digits, dash, changed = (environment["commit"] or "").partition("-")
    return digits[:9] + dash + changed


def hardware_text(environment: dict) -> str:
    hardware = environment["hardware"]
    return hardware.get("gpu") or f"{hardware['cpu']}, {hardware['threads']} thread(s)"


def draw(cells: list[dict], folder: Path) -> list[Path]:
    """The pictures, where there is something to show and matplotlib to show it with."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return []
    paths = []
    for name, groups, panel in (
        ("lra_losses.png", loss_curves(cells), _loss_panel),
        ("lra_bottleneck.png", bottleneck(cells), _bottleneck_panel),
        ("lra_patterns.png", pattern_changes(cells), _pattern_panel),
    ):
        if groups:
            figure = Figure(figsize=(7.5, 0.6 + 3.6 * len(groups)), layout="constrained")
            for axes, (key, values) in zip(
                figure.subplots(len(groups), squeeze=False)[:, 0], groups.items(), strict=True
            ):
                panel(axes, values)
                axes.set_title(textwrap.fill(setting_text(key), 100), fontsize=9)
                axes.legend(frameon=False, fontsize=9)
            figure.savefig(folder / name, dpi=130)
            paths.append(folder / name)
    return paths


def _loss_panel(axes, values: dict[tuple[str, bool], list[list[tuple[int, float]]]]):
    for (name, is_pretrained), curves in values.items():
        label = f"{name}{', self-pretrained' if is_pretrained else ''}"
        style = {"color": f"C{list(MODELS).index(name)}", "linestyle": "--" if is_pretrained else "-", "marker": "."}
        for number, curve in enumerate(curves):
            axes.plot(*zip(*curve, strict=True), **style, label=None if number else label)
    axes.set(xlabel="updates", ylabel="validation loss")
    axes.grid(alpha=0.3)


def _bottleneck_panel(axes, values: dict[tuple[bool, int], list[dict]]):
    for label, is_hierarchical in HIERARCHY.items():
        numbers = [number for number in GLOBAL_BLOCKS if values[is_hierarchical, number]]
        runs = [[100 * run["accuracy"] for run in values[is_hierarchical, number]] for number in numbers]
        spreads = [statistics.stdev(run) if len(run) > 1 else 0 for run in runs]
        axes.errorbar(numbers, [statistics.fmean(run) for run in runs], spreads, marker="o", capsize=3, label=label)
    # Without it the axis would show the noise of an accuracy as if it were a difference.
    guess = next(run["constant_guess"] for group in values.values() for run in group)
    axes.axhline(100 * guess, color="gray", linestyle=":", label="most frequent class")
    axes.set(xlabel="global blocks", ylabel="test accuracy, %", xticks=GLOBAL_BLOCKS)
    axes.grid(alpha=0.3)


def _pattern_panel(axes, values: dict[str, dict[str, list[dict]]]):
    changes = [text for text in dict.fromkeys(text for found in values.values() for text in found) if text != "own"]
    width = 0.8 / len(values)
    for number, (name, found) in enumerate(values.items()):
        heights = [
            100 * statistics.fmean(other["flipped"] for other in found[text]) if found[text] else 0 for text in changes
        ]
        places = [place + width * (number - (len(values) - 1) / 2) for place in range(len(changes))]
        axes.bar(places, heights, width, label=REGULARISED[name])
    axes.set_xticks(range(len(changes)), changes, rotation=20, ha="right", fontsize=8)
    axes.set_ylabel("answers changed, %")
    axes.grid(alpha=0.3, axis="y")
