# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Long Range Arena in one harness: making the data, training and testing a cell of the table, and the page of results."""

import copy
import math
from collections import Counter
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from datasets import DatasetDict
from transformers import AutoModelForMaskedLM, TrainingArguments, set_seed

from ernie_sparse.command_line import ArgumentParser, CommandParser, check_least
from ernie_sparse.errors import InputError, input_errors
from ernie_sparse.files import check_folder
from ernie_sparse.results import Record, print_table
from ernie_sparse.run import Run
from ernie_sparse.tables import longest_first
from ernie_sparse.trainer import SaorArguments, SaorTrainer
from ernie_sparse.training_arguments import OPTIMIZATION, RunArguments, training_facts

from . import PROG, data, report
from .arguments import USAGE, LraArguments, LraRunArguments
from .device_rows import DeviceRows
from .graphs import CudaGraphs, GraphedTrainer, check_graphs
from .make import GENERATED, SIZES
from .models import MODELS, LraClassifier, build_config, encoder_of
from .tasks import TASKS
from .training import DocumentCollator, accuracy, has_begun, self_pretrained

# How every run is trained and its checkpoint chosen, as far as no flag says otherwise.
HARNESS = {
    "seed": 0,
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
# Where it goes in a run's folder.
SELF_PRETRAINING = "self-pretraining"
# What beside the recipe, by its flag, makes a run one that is not compared with those of the harness.
COMPARED = (
    *OPTIMIZATION,
    *("bf16", "fp16", "eval_strategy", "eval_steps", "load_best_model_at_end", "metric_for_best_model"),
)


def main(argv: list[str]):
    """Run `python -m benchmarks.lra` with the arguments `argv`."""
    if "--list" in argv:
        print(list_tasks_and_models())
    elif any(word.partition("=")[0] == "--make" for word in argv):
        make_data(argv)
    elif "--report" in argv:
        report.main(argv)
    else:
        train_and_test(argv)


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
    parser = ArgumentParser(prog=PROG, allow_abbrev=False)
    parser.add_argument("--make", required=True, metavar="TASK", help=" or ".join(GENERATED))
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the files")
    for flag in ("train", "validation", "test"):
        parser.add_argument(f"--{flag}-size", type=int, metavar="N", help="rows; the official number if not given")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the draw (0)")
    args = parser.parse_args(argv)
    if args.make not in GENERATED:
        raise InputError(f"--make {args.make!r}: {' and '.join(GENERATED)} can be made")
    check_least(args, {"seed": 0, **dict.fromkeys(("train_size", "validation_size", "test_size"), 1)})
    check_folder(Path(args.out), "--out")
    given_sizes = zip(SIZES[args.make], (args.train_size, args.validation_size, args.test_size), strict=True)
    sizes = {split: size for split, size in given_sizes if size is not None}
    paths = GENERATED[args.make](args.out, args.seed, sizes)
    print_table([(path.name, path) for path in paths])


def read_arguments(argv: list[str]) -> tuple[LraArguments, SaorArguments, LraRunArguments]:
    """All arguments; the task's recipe, the model's SAOR and a folder of their names stand in for what is not given."""
    parser = CommandParser(PROG, USAGE, __doc__, LraArguments, SaorArguments, LraRunArguments, defaults=HARNESS)
    given = parser.given(argv)
    for name, known in (("task", TASKS), ("model", MODELS)):
        if given[name] not in known:
            raise InputError(f"--{name} {given[name]!r} is not one of {', '.join(known)}")
    task, model = TASKS[given["task"]], MODELS[given["model"]]
    seed = given.get("seed", HARNESS["seed"])
    words = [given["model"], given.get("pattern"), given.get("self_pretrain") and "self-pretrained", f"seed-{seed}"]
    recipe = {
        "output_dir": str(Path("runs/lra", given["task"], "-".join(filter(None, words)))),
        "saor_seed": seed,
        "max_steps": task.recipe.max_steps,
        "learning_rate": task.recipe.learning_rate,
        "warmup_steps": task.recipe.warmup,
        "per_device_train_batch_size": task.recipe.batch_size,
        "per_device_eval_batch_size": task.recipe.batch_size,
        "saor_alpha": model.saor_alpha,
    }
    if model.saor_patterns is not None:
        recipe["saor_patterns"] = list(model.saor_patterns)
    args, saor, training = parser.fill(given, recipe)
    if "num_train_epochs" in given or training.max_steps < 1:
        raise InputError(f"runs are counted in updates, --max-steps {training.max_steps}: at least 1, and no epochs")
    if training.metric_for_best_model not in ("accuracy", "eval_accuracy", "loss", "eval_loss"):
        raise InputError(f"--metric-for-best-model {training.metric_for_best_model}: it is accuracy or loss")
    if training.push_to_hub:
        raise InputError("--push-to-hub: these models are for comparison and are no checkpoints of transformers")
    if saor.saor_alpha > 0 and model.pattern is None:
        raise InputError(
            f"--saor-alpha {saor.saor_alpha}: {args.model} is transformers' own and has no pattern to perturb"
        )
    if args.cuda_graphs:
        if len(saor_facts(saor) or {}) > 2:
            raise InputError("--cuda-graphs: of regularisations it has SAOR with patterns and a weight alone")
        check_graphs(args.model, model, training)
    training.remove_unused_columns = False
    # transformers warns of a checkpoint that has them in updates where the arguments have shares.
    training.eval_steps = in_updates(training.eval_steps, training.max_steps)
    training.save_steps = in_updates(training.save_steps, training.max_steps)
    return args, saor, training


def in_updates(interval: float, max_steps: int) -> int:
    """An interval that may be a share of all updates."""
    return math.ceil(interval * max_steps) if interval < 1 else int(interval)


def identity(args: LraArguments, saor: SaorArguments, training: TrainingArguments) -> dict:
    """What makes a run the one it is: with another of these it does not go on in the same folder."""
    facts = {**asdict(args), **asdict(saor), **training_facts(training)}
    # Asked of the model once it is trained.
    del facts["eval_patterns"]
    # By a name of its own, which says that a cell of the table does not go on for longer.
    facts["updates"] = facts.pop("max_steps")
    return facts


def changed_settings(training: TrainingArguments) -> dict:
    """What of `COMPARED` a run has otherwise than the harness."""
    usual = {name: field.default for name, field in RunArguments.__dataclass_fields__.items()} | HARNESS
    usual["eval_steps"] = in_updates(usual["eval_steps"], training.max_steps)
    found = {name: getattr(training, name) for name in COMPARED}
    return {name: value for name, value in found.items() if value != usual[name]}


def saor_facts(saor: SaorArguments) -> dict | None:
    """The regularisation of a run: what SAOR's is, and what of it is otherwise than by default."""
    if not saor.saor_alpha:
        return None
    usual, named = asdict(SaorArguments()), ("saor_alpha", "saor_patterns", "saor_seed")
    more = {name: value for name, value in asdict(saor).items() if name not in named and value != usual[name]}
    return {"alpha": saor.saor_alpha, "patterns": saor.saor_patterns, **more}


def build_encoder(args: LraArguments, rows: DatasetDict, training: TrainingArguments, run: Run) -> tuple:
    """The encoder to train, new or self-pretrained, and the facts of its self-pretraining, if any."""
    task, model = TASKS[args.task], MODELS[args.model]
    pattern = (
        None if model.pattern is None else model.pattern.changed_by(args.pattern) if args.pattern else model.pattern
    )
    config = build_config(args.model, task, pattern)
    if not args.self_pretrain:
        return encoder_of(AutoModelForMaskedLM.from_config(config)), None
    own = copy.copy(training)
    own.output_dir = str(run.folder / SELF_PRETRAINING)
    own.max_steps = args.self_pretrain_steps or training.max_steps
    own.save_steps = math.ceil(training.save_steps * own.max_steps / training.max_steps)
    own.learning_rate = args.self_pretrain_learning_rate
    own.eval_strategy, own.load_best_model_at_end = "no", False
    masked_lm, facts = self_pretrained(config, task, model, rows["train"], own, run)
    # What follows draws alike whether that was trained just now or by an earlier run.
    set_seed(training.seed)
    return encoder_of(masked_lm), facts


def train_and_test(argv: list[str]):
    """One cell of the table: train a model on a task, test the checkpoint that was best on the validation set."""
    record = Record(PROG, argv)
    args, saor, training = read_arguments(argv)
    run = Run(record, training, identity(args, saor, training), parts=[SELF_PRETRAINING])
    if has_begun(run.folder / SELF_PRETRAINING):
        # It is taken up without being asked.
        run.check_same(run.folder)
    checkpoint = run.checkpoint()
    try:
        train_and_test_run(args, saor, training, run, checkpoint)
    finally:
        run.release()


def train_and_test_run(
    args: LraArguments, saor: SaorArguments, training: RunArguments, run: Run, checkpoint: str | None
):
    """The run in its folder, from a checkpoint if one is given."""
    task, model = TASKS[args.task], MODELS[args.model]
    with training.main_process_first(desc="reading the documents"):
        rows = data.load_task(args.task, args.data_dir, args.limits())
    for split in ("validation", "test"):
        rows[split] = longest_first(rows[split])
    run.check_data({split: [part] for split, part in rows.items()})
    set_seed(training.seed)
    encoder, self_pretraining = build_encoder(args, rows, training, run)
    classifier = LraClassifier(encoder, task.num_documents, task.num_labels)
    make_trainer = SaorTrainer
    if args.cuda_graphs:
        on_device = DeviceRows(rows["train"], task, training.train_batch_size, training.device)
        make_trainer = partial(GraphedTrainer, rows=on_device, graphs=CudaGraphs())
    with input_errors():
        trainer = make_trainer(
            model=classifier,
            args=training,
            saor=saor,
            train_dataset=rows["train"],
            eval_dataset=rows["validation"],
            data_collator=DocumentCollator(task, model.min_length),
            compute_metrics=accuracy,
        )
    run.train(trainer, checkpoint)
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
        "cuda_graphs": args.cuda_graphs,
        "saor": saor_facts(saor),
        "rows": {split: len(split_rows) for split, split_rows in rows.items()},
        # Those that left something out.
        "limits": {split: size for split, size in args.limits().items() if size == len(rows[split])},
        "parameters": sum(weight.numel() for weight in trainer.model.parameters()),
        **evaluate(trainer, rows, args),
    }
    if trainer.is_world_process_zero():
        run.finish(results, table(results), trainer.state.log_history)


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
