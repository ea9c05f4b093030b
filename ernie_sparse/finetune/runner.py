# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""`ernie-sparse finetune`: a checkpoint on a task or on files of your own."""

import copy
from collections.abc import Collection
from pathlib import Path

import numpy as np
from transformers import EarlyStoppingCallback, TrainingArguments, set_seed
from transformers.utils import logging

from ..checkpoints import load_model
from ..command_line import CommandParser, fields_of
from ..errors import InputError, input_errors
from ..results import Record
from ..run import Run
from ..trainer import SaorArguments
from ..training_arguments import RunArguments, training_facts
from . import report
from .arguments import COLUMN_FLAGS, FinetuneArguments
from .metrics import average_over_tasks, bootstrap, hub_metric
from .preparation import Job, load_task_config, make_settings, prepare
from .references import References
from .search import search
from .task_types import TASK_TYPES
from .tasks import GLUE, OWN_FILES, TASKS, Task, list_tasks
from .trainer import FeatureCollator, FinetuneTrainer

logger = logging.get_logger(__name__)

DEFAULTS = {
    # A second pass makes no better answers, but ones that depend less on the pattern: docs/notebook/robustness.md, whose weight this is.
    "regularization": "none",
    "saor_alpha": 5.0,
    "train_sampling_strategy": "group_by_length",
    "load_best_model_at_end": True,
    # Rows carry more than the head reads: where they belong, how long they are.
    "remove_unused_columns": False,
}


def main(argv: list[str]):
    """Run `ernie-sparse finetune` with the arguments `argv`."""
    if "--list" in argv:
        print(list_tasks())
        return
    # Of bars that last a moment: of every checkpoint that is read or written.
    logging.disable_progress_bar()
    parser = make_parser()
    given = parser.given(argv)
    if given.get("task") == "glue":
        finetune_glue(parser, given, argv)
    else:
        finetune(parser, given, argv)


def make_parser() -> CommandParser:
    dataclass_types = (FinetuneArguments, SaorArguments, RunArguments)
    defaults = {**DEFAULTS, **recipe_of(OWN_FILES["single_label"])}
    return CommandParser.of_command("finetune", *dataclass_types, defaults=defaults)


def recipe_of(task: Task) -> dict:
    """What a task says of the training, by flag."""
    return {
        "num_train_epochs": task.recipe.num_train_epochs,
        "learning_rate": task.recipe.learning_rate,
        "per_device_train_batch_size": task.recipe.batch_size,
        "per_device_eval_batch_size": task.recipe.batch_size,
        "metric_for_best_model": task.best,
    }


def fill_arguments(
    parser: CommandParser, given: dict
) -> tuple[str, Task, FinetuneArguments, SaorArguments, RunArguments]:
    """
    The task and all arguments; the task's recipe stands in for what is not given.

    Raises:
        [`InputError`]: An unknown task or type of task, or what the arguments find.
    """
    for flag, known in (("task", [*TASKS, "glue"]), ("kind", list(OWN_FILES))):
        if given.get(flag, known[0]) not in known:
            raise InputError(f"--{flag} {given[flag]!r} is not one of {', '.join(known)}")
    task = TASKS[given["task"]] if "task" in given else OWN_FILES[given.get("kind", "single_label")]
    has_best = saves_what_it_evaluates(given)
    recipe = {
        **recipe_of(task),
        "load_best_model_at_end": has_best,
        # A weight alone says that there is something to weigh.
        "regularization": None if "saor_alpha" in given else DEFAULTS["regularization"],
        # Of these metrics mse alone is better when smaller; of losses transformers knows.
        "greater_is_better": False if given.get("metric_for_best_model", task.best).endswith("mse") else None,
    }
    args, saor, training = parser.fill(given, recipe)
    args.check_training(task, saor, training)
    if not has_best and "load_best_model_at_end" not in given:
        logger.warning_once(
            "the model at the end will be the last one, not the best one: checkpoints are not saved where they are evaluated "
            "(--save-strategy as --eval-strategy, --save-steps a multiple of --eval-steps)"
        )
    return given.get("task", "own files"), args.with_columns(task), args, saor, training


def saves_what_it_evaluates(given: dict) -> bool:
    """Whether every checkpoint that is saved is evaluated as well, so that the best one can be told."""
    names = ("eval_strategy", "save_strategy", "eval_steps", "save_steps", "logging_steps")
    values = {name: given.get(name, RunArguments.__dataclass_fields__[name].default) for name in names}
    evaluation, saving = values["eval_strategy"], values["save_strategy"]
    if "no" in (evaluation, saving) or saving not in ("best", evaluation):
        return False
    if saving != "steps":
        return True
    # As transformers has it: shares of all steps and numbers of steps cannot be compared.
    every, saved = values["eval_steps"] or values["logging_steps"], values["save_steps"]
    return every > 0 and (every < 1) == (saved < 1) and (saved * 1_000_000) % (every * 1_000_000) == 0


def build_trainer(job: Job, args: FinetuneArguments, saor: SaorArguments, training: TrainingArguments):
    """A trainer on a freshly loaded model, which scores predictions of the validation set as it goes."""
    model_class = TASK_TYPES[job.task.task_type].model_class

    def fresh_model(trial=None):
        model = load_model(model_class, args.model, copy.deepcopy(job.config), new_head=True)
        return model if args.lora_rank is None else with_lora(model, args.lora_rank)

    callbacks = []
    if args.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(args.early_stopping_patience))
    is_extractive = job.task.task_type == "question_answering"
    training.label_names = ["start_positions", "end_positions"] if is_extractive else ["labels"]
    set_seed(training.seed)
    with input_errors():
        trainer = FinetuneTrainer(
            model_init=fresh_model,
            args=training,
            saor=saor,
            settings=job.settings,
            class_weights=job.class_weights,
            train_dataset=job.features["train"],
            eval_dataset=job.features["validation"],
            data_collator=FeatureCollator(job.tokenizer.pad_token_id, job.settings, job.config.max_position_embeddings),
            processing_class=job.tokenizer,
            callbacks=callbacks,
        )
    trainer.compute_metrics = lambda prediction: evaluate(job, "validation", prediction.predictions)[1]
    return trainer


def with_lora(model, rank: int):
    """`model` with low-rank adapters on the query and value projections; heads and representatives are trained whole."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise InputError("--lora-rank needs peft: pip install peft") from None
    whole = ("classifier", "qa_outputs", "qa_feed_forward", "pooler", "representative_embeddings")
    present = {
        name.rsplit(".", 1)[-1] for name, module in model.named_modules() if any(True for _ in module.parameters())
    }
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=["query", "value"],
        modules_to_save=[name for name in whole if name in present],
    )
    return get_peft_model(model, config)


def evaluate(job: Job, split: str, outputs) -> tuple[list[dict], dict[str, float]]:
    """Predictions of a split's rows from the outputs of its features, and their metrics."""
    task_type, rows = TASK_TYPES[job.task.task_type], job.rows[split]
    predictions = task_type.decode(outputs, job.features[split], rows, job.settings)
    return predictions, task_type.score(predictions, rows, job.settings)


def train_once(job: Job, run: Run, args, saor, training: TrainingArguments, checkpoint: str | None) -> dict:
    """One run: train, evaluate every split, leave model, predictions, results, pictures and card in its folder."""
    trainer = build_trainer(job, args, saor, training)
    run.train(trainer, checkpoint, report.before_training(job))
    if args.lora_rank is not None:
        # What is left is an ordinary checkpoint.
        trainer.model = trainer.model_wrapped = trainer.accelerator.unwrap_model(trainer.model).merge_and_unload()
    trainer.save_model()
    trainer.compute_metrics = None
    results, predictions = {}, {}
    for split in (split for split in job.rows if split != "train"):
        output = trainer.predict(job.features[split], metric_key_prefix=split)
        predictions[split], metrics = evaluate(job, split, output.predictions)
        results[split] = {**metrics, "loss": output.metrics.get(f"{split}_loss")}
        if args.longer_than is not None:
            results[split] |= longer_documents(job, split, predictions[split], args.longer_than)
        for name in args.hub_metrics:
            results[split] |= report.with_hub_metric(
                hub_metric(name), predictions[split], job.rows[split], job.settings
            )
    everything = report.collect(job, facts_of(args, saor, training), results, trainer.state)
    if run.is_main_process:
        everything["intervals"] = intervals(job, predictions[job.last], training.seed)
        job.settings.save(run.folder)
        model = trainer.accelerator.unwrap_model(trainer.model)
        report.write_card(job, run.folder, training.hub_model_id or run.folder.name, model, everything, args)
        # Last, for it says that the run is finished.
        report.write(job, run, everything, predictions, trainer.state.log_history)
    if training.push_to_hub:
        trainer.push_to_hub()
    return everything


def intervals(job: Job, predictions: list[dict], seed: int) -> dict[str, tuple[float, float]]:
    """95 % confidence intervals of the last split's metrics."""
    rows, score = job.rows[job.last], TASK_TYPES[job.task.task_type].score
    labels = References.of(rows)
    return bootstrap(
        lambda index: score([predictions[i] for i in index], labels.select(index), job.settings), len(rows), seed
    )


def longer_documents(job: Job, split: str, predictions: list[dict], limit: int) -> dict:
    """The metrics of the documents of more than `limit` tokens alone."""
    features = job.features[split]
    lengths = np.zeros(len(job.rows[split]), dtype=int)
    lengths[np.asarray(features["document"])] = features["document_length"]
    index = np.flatnonzero(lengths > limit)
    name = f"longer_than_{limit}"
    if len(index) == 0:
        return {name: {"documents": 0}}
    rows = job.rows[split].select(index)
    metrics = TASK_TYPES[job.task.task_type].score([predictions[i] for i in index], rows, job.settings)
    return {name: {"documents": len(index), **metrics}}


def facts_of(args: FinetuneArguments, saor: SaorArguments, training: TrainingArguments) -> dict:
    """What a run was asked to do."""
    return {**fields_of(args, saor), **training_facts(training)}


def resolve(task: Task, args: FinetuneArguments) -> dict:
    """What stands in for flags that are not given, so that a run is the same one where they are spelt out."""
    config = load_task_config(task, args)
    settings = make_settings(task, args, config)
    return {
        **{f"{role}_column": settings.columns.get(role) for role in COLUMN_FLAGS},
        "kind": settings.task_type,
        "tokenizer": args.tokenizer or args.model,
        "pattern": str(config.pattern),
        "max_length": settings.max_length,
        "stride": settings.stride,
    }


def of_seed(training: RunArguments, seed: int) -> RunArguments:
    own = copy.copy(training)
    own.seed, own.output_dir = seed, str(Path(training.output_dir) / f"seed-{seed}")
    return own


def finetune(parser: CommandParser, given: dict, argv: list[str]) -> dict:
    """A task or own files: one run, or one per seed."""
    name, task, args, saor, training = fill_arguments(parser, given)
    if args.seeds is not None and training.push_to_hub:
        raise InputError("--push-to-hub pushes one model and --seeds makes several: push the one you choose")
    record = Record(parser.prog, argv)
    trainings = [training] if args.seeds is None else [of_seed(training, seed) for seed in args.seeds]
    resolved = resolve(task, args)
    runs = [Run(record, own, facts_of(args, saor, own) | resolved | {"folder_per": None}) for own in trainings]
    parent = None
    if args.seeds is not None:
        facts = facts_of(args, saor, training) | resolved
        parent = parent_run(record, training, facts, "seed", seed_folders(training))
    try:
        if parent is not None:
            parent.checkpoint()
        checkpoints = [run.checkpoint() for run in runs]
        with training.main_process_first(desc="reading and tokenizing the documents"):
            job = prepare(name, task, args, training)
        for run in runs if parent is None else [parent, *runs]:
            run.check_data({split: (job.rows[split], job.features[split]) for split in job.rows})
        if parent is not None:
            check_seeds(parent, args.seeds)
        results = {own.seed: run.finished_results() for own, run in zip(trainings, runs, strict=True)}
        best = {}
        if args.search_trials and None in results.values():
            goes_on = (runs[0] if parent is None else parent).goes_on
            best = search(job, args, training, goes_on, lambda args, own: build_trainer(job, args, saor, own))
        for own, run, checkpoint in zip(trainings, runs, checkpoints, strict=True):
            if results[own.seed] is None:
                for field, value in best.items():
                    setattr(own, field, value)
                results[own.seed] = train_once(job, run, args, saor, own, checkpoint)
        return results[training.seed] if parent is None else report.write_seeds(job, record, parent, results)
    finally:
        for run in runs:
            run.release()
        if parent is not None:
            parent.release()


def parent_run(record: Record, training: RunArguments, facts: dict, folder_per: str, parts: Collection[str]) -> Run:
    """What holds the runs of a command that has several: a folder that is one command's as a run's is."""
    own = copy.copy(training)
    # A checkpoint is one of its runs'.
    own.resume_from_checkpoint = "last"
    return Run(record, own, {**facts, "folder_per": folder_per}, parts)


def seed_folders(training: RunArguments) -> list[str]:
    return [path.name for path in Path(training.output_dir).glob("seed-*")]


def check_seeds(parent: Run, seeds: list[int]):
    """Raise an [`InputError`] where results of more seeds would be written over."""
    missing = [seed for seed in (parent.earlier_results() or {}).get("seeds", ()) if int(seed) not in seeds]
    if missing:
        raise InputError(
            f"{parent.folder} holds results of seed {', '.join(missing)} as well: name all of them, or another folder"
        )


def finetune_glue(parser: CommandParser, given: dict, argv: list[str]) -> dict:
    """All GLUE tasks that there is data for, each in a folder of its own, and their average."""
    tasks, missing = list(GLUE), []
    if "data_dir" in given:
        missing = [name for name in tasks if not _has_data(given["data_dir"], GLUE[name])]
        tasks = [name for name in tasks if name not in missing]
        if not tasks:
            raise InputError(f"no GLUE task was found in {given['data_dir']}")
    for name in tasks:
        # What one of them cannot do is said before the first is trained.
        *_, training = fill_arguments(parser, given | {"task": name})
    record, results = Record(parser.prog, argv), {}
    # What else makes them what they are, each of the tasks' runs knows.
    parent = parent_run(record, training, {"tasks": tasks}, "task", GLUE)
    try:
        parent.checkpoint()
        for name in tasks:
            own = {"task": name, "output_dir": str(Path(given["output_dir"]) / name)}
            words = [word for flag, value in own.items() for word in (f"--{flag.replace('_', '-')}", value)]
            results[name] = finetune(parser, given | own, [*argv, *words])
        return report.write_glue(record, parent.folder, results, missing, average_over_tasks)
    finally:
        parent.release()


def _has_data(data_dir: str, task: Task) -> bool:
    folder = Path(data_dir) / task.folder
    return folder.is_dir() and any(folder.glob("train*"))
