# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""What a fine-tuning leaves beside the model: results, predictions, a picture, a model card, tables."""

import functools
import json
import statistics
from collections import Counter
from pathlib import Path

import numpy as np
from accelerate import PartialState

from .. import model_card
from ..errors import input_errors
from ..files import whole_file
from ..model_card import CardFacts, Score
from ..results import Record, as_json, print_table, write_json
from ..run import Run
from .answer_spans import predictions_as_json
from .classification import LONGER

MOST_CLASSES = 30
NAMED_ROWS = 20
SHOWN_CLASSES = 6


def collect(job, facts: dict, results: dict, state) -> dict:
    """Everything about a run for results.json; the metrics of the last split also by their own names."""
    last = results[job.last]
    return {
        **last,
        "evaluated_on": job.last,
        "largest_class": largest_class(job),
        "rows": {split: len(rows) for split, rows in job.rows.items()},
        "features": {split: len(rows) for split, rows in job.features.items()},
        "also_in_train": job.repeated,
        "notes": {
            split: {note: {"count": len(ids), "first": ids[:NAMED_ROWS]} for note, ids in notes.items() if ids}
            for split, notes in job.notes.items()
        },
        "splits": results,
        "task": job.name,
        "seed": facts["seed"],
        "steps": state.global_step,
        "pattern": str(job.config.pattern),
        "max_length": job.settings.max_length,
        "arguments": facts,
    }


def largest_class(job) -> float | None:
    """The share of the largest class in the last split: what a constant answer gets."""
    if job.task.task_type != "single_label":
        return None
    labels = Counter(job.rows[job.last]["label"])
    return max(labels.values()) / labels.total()


def with_hub_metric(metric, predictions: list[dict], rows, settings) -> dict[str, float]:
    """A metric of the hub, where predictions are classes or numbers."""
    if settings.task_type == "regression":
        pairs = ([p["value"] for p in predictions], list(rows["label"]))
    else:
        numbers = {name: number for number, name in enumerate(settings.label_names)}
        pairs = ([numbers[p["label"]] for p in predictions], [numbers[label] for label in rows["label"]])
    with input_errors(Exception, about=f"the metric {metric.name}"):
        found = metric.compute(predictions=pairs[0], references=pairs[1])
    return {f"hub_{name}": value for name, value in found.items()}


def write(job, run: Run, results: dict, predictions: dict[str, list[dict]], history: list[dict]):
    """Predictions of every split, picture, card, results.json and the final table."""
    out = run.folder
    for split, rows in predictions.items():
        lines = (json.dumps(as_json(row, is_data=True), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        with (
            whole_file(out / f"predictions-{split}.jsonl") as temporary,
            open(temporary, "w", encoding="utf-8") as file,
        ):
            file.writelines(lines)
        if job.task.task_type == "question_answering":
            write_json(out / f"answers-{split}.json", predictions_as_json(rows), is_data=True)
    rows = [
        ("task", job.name),
        ("rows", _counts(results["rows"])),
        *([("classes", _classes(job.settings.label_names))] if job.settings.label_names else []),
        ("steps", results["steps"]),
        *(
            (f"{split}: {note}", entry["count"])
            for split, notes in results["notes"].items()
            for note, entry in notes.items()
        ),
        *((f"{split} rows also in train", count) for split, count in results["also_in_train"].items() if count),
        *((f"{job.last} {name}", value) for name, value in numbers(results["splits"][job.last]).items()),
    ]
    if results["largest_class"] is not None:
        rows.append(("always the largest class", results["largest_class"]))
    pictures = {"predictions.png": functools.partial(draw, job, predictions[job.last])}
    run.finish(results, [*rows, ("model", out)], history, pictures)


def before_training(job) -> list[tuple[str, object]]:
    """What a run says of its task and its rows."""
    facts = [("task", job.name if job.name != "own files" else job.task.task_type.replace("_", " "))]
    facts.append(("rows", _counts({split: len(rows) for split, rows in job.rows.items()})))
    if job.settings.label_names:
        facts.append(("classes", _classes(job.settings.label_names)))
    limit = job.settings.max_length
    if "document_length" in job.features["train"].column_names:
        longer = {
            split: np.unique(np.asarray(rows["document"])[np.asarray(rows["document_length"]) > limit]).size
            for split, rows in job.features.items()
        }
        what = {"windows": "read in windows"}.get(
            job.settings.long_documents, f"only the {job.settings.long_documents} is read"
        )
        facts.append((f"longer than {limit:,} tokens", _counts(longer) + (f": {what}" if any(longer.values()) else "")))
    else:
        facts.append(("tokens per row", f"up to {limit:,}"))
    for split, notes in job.notes.items():
        facts += [(f"{split}: {note}", len(ids)) for note, ids in notes.items() if ids and note != LONGER]
    return [*facts, ("pattern", job.config.pattern)]


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{split} {count:,}" for split, count in counts.items())


def _classes(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:SHOWN_CLASSES])
    return shown if len(names) <= SHOWN_CLASSES else f"{shown}, … ({len(names)} in all)"


def numbers(results: dict, prefix: str = "") -> dict[str, float]:
    """The numbers of nested results, `longer_than_512 accuracy` for what lies deeper."""
    flat = {}
    for name, value in results.items():
        if isinstance(value, dict):
            flat.update(numbers(value, f"{prefix}{name} "))
        elif isinstance(value, int | float):
            flat[f"{prefix}{name}"] = float(value)
    return flat


def write_seeds(job, record: Record, parent: Run, results: dict[int, dict]) -> dict:
    """Mean and standard deviation over the seeds; the first process writes them as results.json and prints a table."""
    splits = {}
    for split in next(iter(results.values()))["splits"]:
        metrics = [numbers(result["splits"][split]) for result in results.values()]
        mean = {name: statistics.fmean(m[name] for m in metrics) for name in metrics[0]}
        std = {name: statistics.stdev(m[name] for m in metrics) if len(metrics) > 1 else 0.0 for name in metrics[0]}
        splits[split] = {"mean": mean, "std": std}
    mean, std = splits[job.last]["mean"], splits[job.last]["std"]
    nested = {name: value for name, value in mean.items() if " " not in name}
    everything = {
        **nested,
        "evaluated_on": job.last,
        "mean": mean,
        "std": std,
        "splits": splits,
        "seeds": {str(seed): result["splits"] for seed, result in results.items()},
        "largest_class": largest_class(job),
        **record.facts(),
    }
    if parent.is_main_process:
        path = parent.folder / "results.json"
        parent.write_identity()
        write_json(path, everything)
        rows = [(f"{job.last} {name}", f"{mean[name]:.4f} ± {std[name]:.4f}") for name in mean]
        print_table([("seeds", ", ".join(map(str, results))), *rows, ("results", path)])
    return everything


def write_glue(record: Record, folder: Path, results: dict[str, dict], missing: list[str], average) -> dict:
    """Each task's metrics and their average, as results.json and a table."""
    scores = {}
    for name, result in results.items():
        for split, metrics in result["splits"].items():
            task = "mnli_mismatched" if split == "validation_mismatched" else name
            # The task's own metrics, over all documents.
            found = numbers(metrics.get("mean", metrics)).items()
            scores[task] = {m: v for m, v in found if m != "loss" and " " not in m and not m.startswith("hub_")}
    everything = {"average": average(scores), "tasks": scores, "missing": missing, **record.facts()}
    if not PartialState().is_main_process:
        return everything
    write_json(folder / "results.json", everything)
    rows = [(name, ", ".join(f"{m} {value:.4f}" for m, value in metrics.items())) for name, metrics in scores.items()]
    rows.append((f"average over {len(results)} of 9 tasks", everything["average"]))
    if missing:
        rows.append(("without data", ", ".join(missing)))
    print_table(rows)
    return everything


def write_card(job, folder: Path, name: str, model, results: dict, args):
    """The model card, with the metrics of the last split."""
    scores = [
        Score(metric, value, results["intervals"].get(metric))
        for metric, value in numbers(results["splits"][job.last]).items()
        if metric != "loss"
    ]
    counts = results["rows"]
    facts = CardFacts(
        about=f"An ERNIE-Sparse encoder fine-tuned on {job.name}: {job.task.task_type.replace('_', ' ')}.",
        facts={
            "trained on": f"{counts['train']:,} rows, {results['steps']:,} steps, seed {results['seed']}",
            "tokens per row": f"up to {job.settings.max_length:,}",
            **({"classes": _classes(job.settings.label_names)} if job.settings.label_names else {}),
        },
        source=args.model,
        data=job.task.hub[0] if job.task.hub and job.name != "own files" else args.dataset,
        evaluated_on=f"{job.name}, {job.last}: {counts[job.last]:,} rows",
        split=job.last,
        scores=scores,
        limits=["One training with one seed: another one differs by more than these intervals say."],
        usage="Files of any size: `ernie-sparse predict --model DIR --input-file rows.csv --output-file predictions.csv`.",
    )
    model_card.write_card(folder, name, model, facts)


def draw(job, predictions: list[dict], path: Path) -> bool:
    """
    A confusion matrix and the reliability of the probabilities (single labels), or predicted over true values (regression);
    `False` where there is nothing to draw or no matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    rows, task_type = job.rows[job.last], job.task.task_type
    figure = Figure(figsize=(9, 4) if task_type == "single_label" else (5, 4), layout="constrained")
    if task_type == "single_label" and len(job.settings.label_names) <= MOST_CLASSES:
        matrix, reliability = figure.subplots(1, 2)
        _draw_confusion(matrix, predictions, rows["label"], job.settings.label_names)
        _draw_reliability(reliability, predictions, rows["label"])
    elif task_type == "regression":
        axes = figure.subplots()
        axes.scatter(rows["label"], [p["value"] for p in predictions], s=8, alpha=0.5)
        axes.axline((np.mean(rows["label"]),) * 2, slope=1, color="grey", linewidth=1)
        axes.set(xlabel="true value", ylabel="predicted value")
    else:
        return False
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    return True


def _draw_confusion(axes, predictions: list[dict], labels, names: tuple[str, ...]):
    from sklearn.metrics import ConfusionMatrixDisplay

    display = ConfusionMatrixDisplay.from_predictions(
        list(labels), [p["label"] for p in predictions], labels=list(names), ax=axes, cmap="Blues", colorbar=False
    )
    display.ax_.tick_params(axis="x", rotation=45 if len(names) > 3 else 0)
    for text in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        # A dollar sign in a name begins no formula.
        text.set_parse_math(False)


def _draw_reliability(axes, predictions: list[dict], labels):
    """How often the chosen class is right, over its probability: on the diagonal, probabilities mean what they say."""
    probabilities = np.array([p["score"] for p in predictions])
    is_right = np.array([p["label"] == label for p, label in zip(predictions, labels, strict=True)])
    bins = np.minimum((probabilities * 10).astype(int), 9)
    filled = [b for b in range(10) if (bins == b).any()]
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1)
    axes.scatter(
        [probabilities[bins == b].mean() for b in filled],
        [is_right[bins == b].mean() for b in filled],
        s=[20 + 200 * (bins == b).mean() for b in filled],
    )
    axes.set(xlabel="probability of the chosen class", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
