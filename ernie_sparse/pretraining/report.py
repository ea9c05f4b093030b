# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""What a pretraining leaves beside its model: results.json, the page report.md, picture and card."""

import math
from collections.abc import Mapping

from ..files import write_text
from ..model_card import CardFacts, Score, write_card
from ..run import Run
from ..training_arguments import RunArguments
from .arguments import PretrainArguments
from .trainer import OTHER_PATTERNS, PretrainTrainer

# What the model card calls it.
REGULARISED = {"r-drop": "R-Drop", "saor": "SAOR", "alignment": "layer alignment"}
# Of report.md: so many evaluations are shown, evenly spaced, and the last one.
MOST_ROWS = 20


def perplexity(loss: float) -> float:
    return math.exp(min(loss, 700.0))


def finish(
    args: PretrainArguments,
    training: RunArguments,
    run: Run,
    facts: dict,
    preparation: Mapping[str, dict],
    trainer: PretrainTrainer,
    metrics: dict[str, float],
):
    """
    Results, table, picture, page and card; and the model on the hub, where that is asked for.

    Args:
        facts (`dict`): What the run was asked to do.
        preparation (`Mapping[str, dict]`): By split, what was written; of rows that stream nothing is.
        metrics (`dict[str, float]`): Of the last evaluation.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    account = preparation.get("train")
    results = {
        "eval_loss": metrics["eval_loss"],
        "perplexity": perplexity(metrics["eval_loss"]),
        "accuracy": metrics["eval_accuracy"],
        **{f"perplexity_{name}": perplexity(metrics[f"eval_loss_{name}"]) for name in OTHER_PATTERNS},
        "steps": trainer.state.global_step,
        "tokens": trainer.state.num_input_tokens_seen,
        "max_length": args.max_length or model.config.max_position_embeddings,
        "training_rows": None if account is None else len(trainer.train_dataset),
        "validation_rows": len(trainer.eval_dataset),
        "preparation": preparation,
        "skipped_in_stream": trainer.skipped if account is None else None,
        "arguments": facts,
    }
    history = trainer.state.log_history
    table = summary(results, model.num_parameters(), history)
    write_card(run.folder, training.hub_model_id or run.folder.name, model, card_of(args, training, results))
    page = run.folder / "report.md"
    run.finish(results, [*table, ("report", page), ("model", training.output_dir)], history)
    write_text(page, page_of(table, history, (run.folder / "training.png").is_file()))
    if training.push_to_hub:
        trainer.push_to_hub(has_card=True)


def summary(results: dict, parameters: int, history: list[dict]) -> list[tuple[str, object]]:
    account, rows = results["preparation"].get("train"), results["training_rows"]
    speeds = [entry["train_tokens_per_second"] for entry in history if "train_tokens_per_second" in entry]
    return [
        ("parameters", f"{parameters:,}"),
        ("training rows", "as they stream" if rows is None else f"{rows:,} of {results['max_length']:,} tokens"),
        ("prepared", described(account) if account else skipped_in_words(results["skipped_in_stream"] or {})),
        ("steps", results["steps"]),
        ("tokens trained on", f"{results['tokens']:,}" + (f", {speeds[-1]:,.0f} per second" if speeds else "")),
        ("validation loss", results["eval_loss"]),
        ("validation perplexity", results["perplexity"]),
        *((f"perplexity, {words}", results[f"perplexity_{name}"]) for name, words in OTHER_PATTERNS.items()),
        ("masked tokens found", f"{100 * results['accuracy']:.1f} %"),
    ]


def described(account: dict) -> str:
    """An account of what was prepared, in words."""
    parts = [f"{account['documents']:,} documents or parts of one, {account['tokens']:,} tokens"]
    if account["seconds"]:
        parts += [f"{account['tokens'] / account['seconds']:,.0f} tokens per second"]
    return "; ".join([*parts, skipped_in_words(account["skipped"])])


def skipped_in_words(skipped: Mapping[str, int]) -> str:
    unread = sum(count for name, count in skipped.items() if name != "empty")
    counted = ((skipped.get("empty"), "empty documents"), (unread, "rows that could not be read"))
    parts = [f"{count:,} {what}" for count, what in counted if count]
    return f"{' and '.join(parts)} left out" if parts else "nothing left out"


def page_of(table: list[tuple[str, object]], history: list[dict], has_picture: bool) -> str:
    """report.md: what was trained, the curve, and the evaluations."""
    lines = ["# Pretraining", "", "| | |", "| --- | --- |"]
    lines += [f"| {name} | {f'{value:.4f}' if isinstance(value, float) else value} |" for name, value in table]
    if has_picture:
        lines += ["", "![Losses over the steps](training.png)"]
    # Once for each step: the last one may have been evaluated as an epoch's and as the end's.
    evaluated = [*{entry["step"]: entry for entry in history if "eval_loss" in entry}.values()]
    spacing = math.ceil(len(evaluated) / MOST_ROWS)
    lines += ["", f"| step | loss | perplexity | {' | '.join(OTHER_PATTERNS.values())} | masked tokens found |"]
    lines += [f"| ---: | ---: | ---: | {'---: | ' * len(OTHER_PATTERNS)}---: |"]
    for entry in evaluated[::-1][::spacing][::-1]:
        others = (f"{perplexity(entry[f'eval_loss_{name}']):.2f}" for name in OTHER_PATTERNS)
        cells = [
            *(f"{entry['step']:,}", f"{entry['eval_loss']:.4f}", f"{perplexity(entry['eval_loss']):.2f}", *others),
            f"{100 * entry['eval_accuracy']:.1f} %",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "Perplexity is that of masked tokens of rows that were held out, under the model's own pattern and, beside it, under two",
        "others. `results.json` has all numbers, the command, the commit and the hardware.",
    ]
    return "\n".join(lines) + "\n"


def card_of(args: PretrainArguments, training: RunArguments, results: dict) -> CardFacts:
    steps, rows, arm = results["steps"], results["training_rows"], results["arguments"]["regularization"]
    read = "rows" if rows is None else f"{rows:,} rows"
    return CardFacts(
        about="An ERNIE-Sparse encoder, pretrained to predict masked tokens"
        + (f" with {REGULARISED[arm]} (alpha {results['arguments']['saor_alpha']:g})." if arm != "none" else "."),
        facts={
            "trained on": f"{read} of {results['max_length']:,} tokens, {steps:,} steps, seed {training.seed}",
        },
        source=args.model,
        data=args.dataset,
        evaluated_on=f"{results['validation_rows']:,} rows that were held out",
        scores=[Score("loss", results["eval_loss"]), Score("perplexity", results["perplexity"])],
        limits=["One training with one seed."],
    )
