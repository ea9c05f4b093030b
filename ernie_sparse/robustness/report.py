# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The report: a table on the screen, a page, a picture and a file of JSON."""

from pathlib import Path

from ..files import whole_file, write_text
from ..results import print_table, write_json

FILES = ("robustness.json", "robustness.md", "robustness.png")

HEAD = ("pattern", "score", "95 % of it", "kept", "flips", "mean KL", "dropped", "keys", "cost", "time", "memory")

EXPLAINED = """\
- **score**: {metric}, with the interval that holds 95 % of it by bootstrap over documents. **kept**: the share of the own
  pattern's score.
- **flips**: the share of all predictions that differ from those under the own pattern, right or wrong. **mean KL**: the
  symmetric KL divergence ½ (KL(p‖q) + KL(q‖p)) between the output distributions under the two patterns, per prediction.
- **dropped**: of the attention that tokens pay to tokens when all of them see each other (same weights, blocks and
  representatives), the share that falls where the pattern does not look; the mean over layers, heads and tokens {attention}.
- **keys**: how many keys the query of a token meets. **cost**: multiplications and additions of the layers, counted.
  **time** and **memory** {measured}. The last three are multiples of the own pattern's.
"""


def rows_of(results: dict) -> list[tuple[str, ...]]:
    """The table, a row per pattern."""
    return [tuple(_cells(entry)) for entry in results["patterns"]]


def _cells(entry: dict) -> list[str]:
    low, high = entry.get("interval") or (None, None)
    return [
        entry["name"],
        _number(entry.get("score"), ".4f"),
        "-" if low is None else f"{low:.4f} to {high:.4f}",
        _number(entry.get("retention"), ".1f", " %"),
        _number(None if entry["flips"] is None else 100 * entry["flips"], ".1f", " %"),
        _number(entry["mean_kl"], ".2g"),
        _number(None if entry["dropped_attention"] is None else 100 * entry["dropped_attention"], ".1f", " %"),
        _number(entry["keys_per_query"], ",.0f"),
        *(_number(entry[name], ".2f") for name in ("relative_cost", "relative_time", "relative_memory")),
    ]


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"


def said(results: dict) -> list[str]:
    """What was found, in sentences."""
    own, *others = results["patterns"]
    lines = []
    scored = [entry for entry in others if entry.get("retention") is not None]
    if scored:
        worst = min(scored, key=lambda entry: entry["retention"])
        lines.append(
            f"Of the own pattern's {results['metric']}, {_number(own['score'], '.4f')}, every other pattern keeps at least "
            f"{worst['retention']:.1f} %: the least is kept under {worst['name']}."
        )
    flipped = [entry for entry in others if entry["flips"] is not None]
    if flipped:
        most = max(flipped, key=lambda entry: entry["flips"])
        where = "" if most["flips"] == 0 else f", under {most['name']}"
        lines.append(f"At most {100 * most['flips']:.1f} % of the predictions flip{where}.")
    if "choice" in results:
        lines += said_of_choice(results["choice"], results)
    return lines


def said_of_choice(choice: dict, results: dict) -> list[str]:
    """What the dial found, in sentences."""
    epsilon, metric = f"{choice['epsilon']:g} points", results["metric"]
    if choice["pattern"] is None:
        cheaper = {name: lost for name, lost in choice["losses"].items() if lost["cost"] < 1}
        if not cheaper:
            return ["Nothing was chosen: none of the patterns is cheaper than the own one."]
        name, lost = min(cheaper.items(), key=lambda item: item[1]["at_most"])
        return [
            f"Nothing was chosen: of no cheaper pattern can it be said with 95 % confidence that it loses at most {epsilon} of "
            f"{metric}. The nearest is {name}: it loses {lost['points']:.2f} points here, and at most {lost['at_most']:.2f} with "
            "that confidence. More documents narrow this down."
        ]
    entry = next(entry for entry in results["patterns"] if entry["name"] == choice["name"])
    lost = choice["losses"][choice["name"]]
    lines = [
        f"The cheapest pattern that loses at most {epsilon} of {metric} with 95 % confidence is {choice['name']} "
        f"({choice['pattern']}): it loses {lost['points']:.2f} points here, and at most {lost['at_most']:.2f} with that "
        f"confidence. It saves {100 * (1 - entry['relative_cost']):.0f} % of the operations{_measured_of(entry)}."
    ]
    if "test" in choice:
        test = choice["test"]
        flips = "" if test["flips"] is None else f", and {100 * test['flips']:.1f} % of the predictions flip"
        lines.append(
            f"On {test['documents']:,} test documents {metric} is {test['score']:.4f} with it and {test['own_score']:.4f} with the "
            f"own pattern: it loses {test['loss']:.2f} points (at most {test['loss_at_most']:.2f} with 95 % confidence){flips}."
        )
    if "saved_in" in choice:
        lines.append(f"The model with this pattern is in {choice['saved_in']}.")
    return lines


def _measured_of(entry: dict) -> str:
    if entry["relative_time"] is None:
        return ""
    memory = "" if entry["relative_memory"] is None else f" and {entry['relative_memory']:.2f} times the memory"
    return f"; measured here it takes {entry['relative_time']:.2f} times the time{memory}"


def page(results: dict) -> str:
    """robustness.md."""
    own = results["patterns"][0]
    table = [HEAD, ["---"] * len(HEAD), *rows_of(results)]
    attention = results["attention"]
    where = (
        f"of the first {attention['tokens']:,} tokens of {attention['documents']} documents"
        if attention["documents"]
        else "(not measured here)"
    )
    measured = "were not measured here"
    if own["seconds_per_document"] is not None:
        memory = own["peak_memory_mib"]
        beside = "" if memory is None else f" and {memory:,.0f} MiB beside the model for its longest batch"
        measured = (
            f"are measured: the own pattern takes {1000 * own['seconds_per_document']:.3g} ms per document{beside}"
        )
    explained = EXPLAINED.format(
        metric=results["metric"] or "none, for there are no labels",
        attention=where,
        measured=measured,
    )
    facts = results["hardware"]
    return "\n".join(
        [
            f"# {Path(results['model']).name} under other sparse patterns",
            "",
            f"The own pattern is `{results['own_pattern']}`. Measured on {results['documents']:,} documents, in "
            f"{results['inputs']:,} inputs of {results['mean_length']:,.0f} tokens on average and {results['longest']:,} at most; no "
            "weight was changed.",
            "",
            *(f"- {line}" for line in said(results)),
            "",
            *(f"| {' | '.join(row)} |" for row in table),
            "",
            *(f"{name} was left out: {reason}." for name, reason in results["left_out"].items()),
            *([""] if results["left_out"] else []),
            explained,
            f"Command: `{results['command']}`; seed {results['arguments']['seed']}; commit {results['commit']}; "
            + ", ".join(f"{name} {version}" for name, version in results["versions"].items())
            + f"; {facts['cpu']}, {facts['threads']} threads, GPU {facts['gpu'] or 'none'}.",
            "",
        ]
    )


def write(folder: Path, results: dict):
    """Write page, picture and JSON, this last, and print the table."""
    path, text, picture = (folder / name for name in FILES)
    has_picture = draw(results, picture)
    write_text(text, page(results))
    write_json(path, results)
    table = [HEAD, *rows_of(results)]
    widths = [max(len(row[i]) for row in table) for i in range(len(HEAD))]
    print()
    for row in table:
        cells = [
            f"{row[0]:<{widths[0]}}",
            *(f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)),
        ]
        print(f"  {'  '.join(cells)}")
    print()
    for line in said(results):
        print(f"  {line}")
    for name, reason in results["left_out"].items():
        print(f"  {name} was left out: {reason}.")
    print_table([("how to read it", text), ("results", path), *([("picture", picture)] if has_picture else [])])


def draw(results: dict, path: Path) -> bool:
    """Score over cost, the own pattern marked, and bars of flips and KL; `False` without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    entries = results["patterns"]
    panels = [_draw_scores] if results["metric"] else []
    panels += [_draw_flips] if entries[0]["flips"] is not None else []
    panels.append(_draw_divergence)
    figure = Figure(figsize=(1.5 + 3.6 * len(panels), 1.4 + 0.34 * len(entries)), layout="constrained")
    name = Path(results["model"]).name
    figure.suptitle(f"{name} under other sparse patterns, {results['documents']:,} documents", parse_math=False)
    for number, (axes, panel) in enumerate(zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True)):
        panel(axes, results)
        if panel is not _draw_scores:
            # The first pattern on top.
            axes.set(ylim=(len(entries) - 0.4, -0.6))
            axes.set_yticks(
                range(len(entries)), [_numbered(i, entries) for i in range(len(entries))] if number <= 1 else []
            )
            axes.grid(axis="x", alpha=0.3)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    return True


def _numbered(number: int, entries: list[dict]) -> str:
    return f"{entries[number]['name']} ({number})" if number else "own pattern"


def _draw_scores(axes, results: dict):
    """Points with intervals; they are numbered, for names would lie on one another."""
    entries = results["patterns"]
    own = entries[0]["score"]
    places = {}
    for number, entry in enumerate(entries):
        place, (low, high) = (entry["relative_cost"], entry["score"]), entry["interval"]
        bars = [[max(0.0, entry["score"] - low)], [max(0.0, high - entry["score"])]]
        style = {"color": "C0", "marker": "o", "alpha": 0.9}
        if number == 0:
            style = {"color": "C3", "marker": "*", "markersize": 13, "zorder": 3}
        else:
            places.setdefault(tuple(round(value, 3) for value in place), []).append(str(number))
        axes.errorbar(*([value] for value in place), yerr=bars, capsize=2, elinewidth=0.8, **style)
    for place, numbers in places.items():
        axes.annotate(", ".join(numbers), place, (4, 4), textcoords="offset points", fontsize=9)
    axes.axhline(own, color="C3", linewidth=0.8, linestyle=":")
    axes.axvline(1, color="C3", linewidth=0.8, linestyle=":")
    axes.set(xlabel="cost, as a multiple of the own pattern's (star)", ylabel=results["metric"].replace("_", " "))
    axes.grid(alpha=0.3)


def _draw_flips(axes, results: dict):
    _bars(axes, [100 * entry["flips"] for entry in results["patterns"]], "{:.1f}")
    axes.set(xlabel="predictions that flip, %")


def _draw_divergence(axes, results: dict):
    _bars(axes, [entry["mean_kl"] for entry in results["patterns"]], "{:.2g}")
    axes.set(xlabel="mean symmetric KL, nats")


def _bars(axes, values: list[float], form: str):
    bars = axes.barh(range(len(values)), values, color=["C3", *["C0"] * (len(values) - 1)], height=0.65)
    axes.bar_label(bars, [form.format(value) for value in values], padding=3, fontsize=8)
    axes.set_xlim(0, 1.18 * max(values) or 1)
    axes.locator_params(axis="x", nbins=4)
