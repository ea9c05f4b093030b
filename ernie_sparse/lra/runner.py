# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""`ernie-sparse lra`: Long Range Arena, its data, its models in one harness, and the page of results."""

import copy
import dataclasses
import math
from collections import Counter
from pathlib import Path

import numpy as np
from datasets import DatasetDict
from transformers import AutoModelForMaskedLM, TrainingArguments, set_seed

from ..running import (
    OPTIMIZATION,
    RUN,
    ArgumentParser,
    RunArguments,
    check_same_run,
    finish,
    given,
    last_checkpoint,
    longest_first,
    parse_arguments,
    print_table,
    resume_point,
    train,
    training_facts,
    write_json,
)
from ..trainer import SaorArguments, SaorTrainer
from . import data, report
from .arguments import USAGE, LraArguments
from .make import GENERATED, SIZES
from .models import MODELS, LraClassifier, build_config, encoder_of
from .tasks import TASKS
from .training import DocumentCollator, accuracy, self_pretrained

# How every run is trained and its checkpoint chosen, as far as no flag says otherwise.
HARNESS = {
    "eval_strategy": "steps",
    "save_strategy": "steps",
    # Shares of all updates.
    "eval_steps": 0.1,
    "save_steps": 0.1,
    "load_best_model_at_end": True,
    "metric_for_best_model": "accuracy",
    "train_sampling_strategy": "group_by_length",
    "remove_unused_columns": False,
    "label_names": ["labels"],
}
# What beside the recipe, by its flag, makes a run one that is not compared with those of the harness.
COMPARED = (
    *OPTIMIZATION,
    *("bf16", "fp16", "eval_strategy", "eval_steps", "load_best_model_at_end", "metric_for_best_model"),
)


def main(argv: list[str]):
    """Run `ernie-sparse lra` with the arguments `argv`."""
    if "--list" in argv:
        print(list_tasks_and_models())
    elif any(word.partition("=")[0] == "--make" for word in argv):
        make_data(argv)
    elif "--report" in argv:
        report.main(argv)
    else:
        run(argv)


def list_tasks_and_models() -> str:
    lines = ["tasks:"]
    for name, task in TASKS.items():
        recipe = task.recipe
        documents = f"{task.num_documents} x {task.max_length:,}" if task.num_documents > 1 else f"{task.max_length:,}"
        lines += [
            f"  {name:<12} {task.what}",
            f"  {'':<12} {documents} symbols, {task.num_labels} classes; {recipe.max_steps:,} updates of "
            f"{recipe.batch_size} rows",
            f"  {'':<12} {data.where_to_get(name)}",
        ]
    return "\n".join([*lines, "models:", *(f"  {name:<12} {model.what}" for name, model in MODELS.items())])


def make_data(argv: list[str]):
    """Write the files of a task that is generated."""
    parser = ArgumentParser(prog="ernie-sparse lra", allow_abbrev=False)
    parser.add_argument("--make", required=True, metavar="TASK", help=" or ".join(GENERATED))
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the files")
    for flag in ("train", "validation", "test"):
        parser.add_argument(f"--{flag}-size", type=int, metavar="N", help="rows; the official number if not given")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the draw (0)")
    args = parser.parse_args(argv)
    if args.make not in GENERATED:
        raise ValueError(f"--make {args.make!r}: {' and '.join(GENERATED)} can be made")
    if args.seed < 0:
        raise ValueError(f"--seed {args.seed}: it must be at least 0")
    given_sizes = zip(SIZES[args.make], (args.train_size, args.validation_size, args.test_size), strict=True)
    sizes = {split: size for split, size in given_sizes if size is not None}
    paths = GENERATED[args.make](args.out, args.seed, sizes)
    print_table([(path.name, path) for path in paths])


def read_arguments(argv: list[str]) -> tuple[LraArguments, SaorArguments, TrainingArguments]:
    """All arguments; the task's recipe, the model's SAOR and a folder of their names stand in for what is not given."""
    known = given(argv, "--task", "--model", "--seed", "--output-dir", "--num-train-epochs")
    defaults = {
        "seed": 0,
        "saor_seed": known.seed or 0,
        **HARNESS,
    }
    if known.task in TASKS and known.model in MODELS:
        recipe, model = TASKS[known.task].recipe, MODELS[known.model]
        defaults |= {
            "max_steps": recipe.max_steps,
            "learning_rate": recipe.learning_rate,
            "warmup_steps": recipe.warmup,
            "per_device_train_batch_size": recipe.batch_size,
            "per_device_eval_batch_size": recipe.batch_size,
            "saor_alpha": model.saor_alpha,
        }
        if model.saor_patterns is not None:
            defaults["saor_patterns"] = list(model.saor_patterns)
    if known.output_dir is None:
        argv = [*argv, "--output-dir", "runs"]
    args, saor, training = parse_arguments(argv, "lra", USAGE, __doc__, LraArguments, defaults=defaults)
    if known.num_train_epochs is not None or training.max_steps < 1:
        raise ValueError(f"runs are counted in updates, --max-steps {training.max_steps}: at least 1, and no epochs")
    if training.metric_for_best_model not in ("accuracy", "eval_accuracy", "loss", "eval_loss"):
        raise ValueError(f"--metric-for-best-model {training.metric_for_best_model}: it is accuracy or loss")
    if training.push_to_hub:
        raise ValueError("--push-to-hub: these models are for comparison and are no checkpoints of transformers")
    training.remove_unused_columns = False
    # transformers warns of a checkpoint that has them in updates where the arguments have shares.
    training.eval_steps = in_updates(training.eval_steps, training.max_steps)
    training.save_steps = in_updates(training.save_steps, training.max_steps)
    if known.output_dir is None:
        words = [args.model, args.pattern, "self-pretrained" if args.self_pretrain else None, f"seed-{training.seed}"]
        training.output_dir = str(Path("runs/lra", args.task, "-".join(filter(None, words))))
    return args, saor, training


def in_updates(interval: float, max_steps: int) -> int:
    """An interval that may be a share of all updates."""
    return math.ceil(interval * max_steps) if interval < 1 else int(interval)


def identity(args: LraArguments, saor: SaorArguments, training: TrainingArguments) -> dict:
    """What makes a run the one it is: with another of these it does not go on in the same folder."""
    same = ("task", "model", "pattern", "data_dir", "train_size", "validation_size", "test_size")
    pretraining = ("self_pretrain", "self_pretrain_steps", "self_pretrain_learning_rate")
    return {
        **{name: getattr(args, name) for name in (*same, *pretraining)},
        **training_facts(training),
        **dataclasses.asdict(saor),
    }


def changed_settings(training: TrainingArguments) -> dict:
    """What of `COMPARED` a run has otherwise than the harness."""
    usual = {field.name: field.default for field in dataclasses.fields(RunArguments)} | HARNESS
    usual["eval_steps"] = in_updates(usual["eval_steps"], training.max_steps)
    found = {name: getattr(training, name) for name in COMPARED}
    return {name: value for name, value in found.items() if value != usual[name]}


def going_on(args: LraArguments, saor: SaorArguments, training: TrainingArguments) -> str | None:
    """
    The checkpoint that this run goes on from, if any.

    Raises:
        `ValueError`: The output folder holds another run, or what `resume_point` finds.
    """
    out = Path(training.output_dir)
    asked = training.resume_from_checkpoint
    if asked not in (None, "last") and Path(asked).resolve().parent != out.resolve():
        raise ValueError(
            f"--resume-from-checkpoint {asked} is not in the run's folder {out}: last is the newest one there"
        )
    has_pretraining = (out / "self-pretraining").is_dir()
    if has_pretraining or last_checkpoint(out):
        check_same_run(out, identity(args, saor, training))
    if asked == "last" and has_pretraining and last_checkpoint(out) is None:
        # That training goes on by itself.
        training.resume_from_checkpoint = None
    return resume_point(training)


def build_encoder(args: LraArguments, rows: DatasetDict, training: TrainingArguments) -> tuple:
    """The encoder to train, new or self-pretrained, and the facts of its self-pretraining, if any."""
    task, model = TASKS[args.task], MODELS[args.model]
    pattern = (
        None if model.pattern is None else model.pattern.changed_by(args.pattern) if args.pattern else model.pattern
    )
    config = build_config(args.model, task, pattern)
    if not args.self_pretrain:
        return encoder_of(AutoModelForMaskedLM.from_config(config)), None
    own = copy.copy(training)
    own.output_dir = str(Path(training.output_dir) / "self-pretraining")
    own.max_steps = args.self_pretrain_steps or training.max_steps
    own.save_steps = math.ceil(training.save_steps * own.max_steps / training.max_steps)
    own.learning_rate = args.self_pretrain_learning_rate
    own.eval_strategy, own.load_best_model_at_end = "no", False
    masked_lm, facts = self_pretrained(config, task, model, rows["train"], own)
    # What follows draws alike whether that was trained just now or by an earlier run.
    set_seed(training.seed)
    return encoder_of(masked_lm), facts


def run(argv: list[str]):
    """One cell of the table: train a model on a task, test the checkpoint that was best on the validation set."""
    args, saor, training = read_arguments(argv)
    task, model = TASKS[args.task], MODELS[args.model]
    if saor.saor_alpha > 0 and model.pattern is None:
        raise ValueError(
            f"--saor-alpha {saor.saor_alpha}: {args.model} is transformers' own and has no pattern to perturb"
        )
    checkpoint = going_on(args, saor, training)
    with training.main_process_first(desc="reading the documents"):
        rows = data.load_task(args.task, args.data_dir, args.limits())
    for split in ("validation", "test"):
        rows[split] = longest_first(rows[split])
    if training.process_index == 0:
        write_json(Path(training.output_dir) / RUN, identity(args, saor, training))
    set_seed(training.seed)
    encoder, self_pretraining = build_encoder(args, rows, training)
    trainer = SaorTrainer(
        model=LraClassifier(encoder, task.num_documents, task.num_labels),
        args=training,
        saor=saor,
        train_dataset=rows["train"],
        eval_dataset=rows["validation"],
        data_collator=DocumentCollator(task, model.min_length),
        compute_metrics=accuracy,
    )
    train(trainer, checkpoint)
    trainer.save_model()
    results = {
        "task": args.task,
        "model": args.model,
        "self_pretraining": self_pretraining,
        "seed": training.seed,
        "steps": trainer.state.global_step,
        "batch_size": training.train_batch_size * training.gradient_accumulation_steps * training.world_size,
        "learning_rate": training.learning_rate,
        "warmup_steps": training.get_warmup_steps(training.max_steps),
        "changed": changed_settings(training),
        "saor": {"alpha": saor.saor_alpha, "patterns": saor.saor_patterns} if saor.saor_alpha else None,
        "rows": {split: len(split_rows) for split, split_rows in rows.items()},
        # Those that left something out.
        "limits": {split: size for split, size in args.limits().items() if size == len(rows[split])},
        "parameters": sum(weight.numel() for weight in trainer.model.parameters()),
        **evaluate(trainer, rows, args),
    }
    if trainer.is_world_process_zero():
        finish("lra", argv, training.output_dir, results, table(results), trainer.state.log_history)


def evaluate(trainer: SaorTrainer, rows: DatasetDict, args: LraArguments) -> dict:
    """Accuracy on the validation and the test set, what knows nothing would have, and what other patterns change."""
    validation = trainer.predict(rows["validation"]).metrics["test_accuracy"]
    output = trainer.predict(rows["test"])
    labels, chosen = np.asarray(rows["test"]["labels"]), output.predictions.argmax(-1)
    results = {
        "accuracy": output.metrics["test_accuracy"],
        "validation_accuracy": validation,
        "chance": 1 / TASKS[args.task].num_labels,
        "constant_guess": max(Counter(labels.tolist()).values()) / len(labels),
        "pattern": None,
        "other_patterns": {},
    }
    config = trainer.accelerator.unwrap_model(trainer.model).config
    if MODELS[args.model].pattern is None:
        return results
    own = config.pattern
    results["pattern"] = str(own)
    if own.hierarchical:
        for text in args.eval_patterns:
            config.pattern = own.changed_by(text)
            other = trainer.predict(rows["test"])
            results["other_patterns"][text] = {
                "accuracy": other.metrics["test_accuracy"],
                "flipped": float((other.predictions.argmax(-1) != chosen).mean()),
            }
        config.pattern = own
    return results


def table(results: dict) -> list[tuple[str, object]]:
    """What is printed of a run."""
    lines = [
        ("task", results["task"]),
        ("model", f"{MODELS[results['model']].what} ({results['parameters']:,} parameters)"),
        *([("pattern", results["pattern"])] if results["pattern"] else []),
        ("updates", f"{results['steps']:,} of {results['batch_size']} rows"),
        ("test accuracy", f"{results['accuracy']:.4f} on {results['rows']['test']:,} rows"),
        ("validation accuracy", results["validation_accuracy"]),
        ("chance", f"{results['chance']:.4f}, the most frequent class {results['constant_guess']:.4f}"),
    ]
    for text, other in results["other_patterns"].items():
        lines.append((f"under {text}", f"{other['accuracy']:.4f}, {other['flipped']:.1%} of the answers change"))
    return lines
