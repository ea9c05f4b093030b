# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""A search for learning rate, epochs and batch size on the validation set."""

import copy
import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path

from accelerate.utils import broadcast_object_list
from transformers import TrainingArguments

from ..errors import InputError, reason_of
from ..files import read_json
from ..results import print_table, write_json
from ..trainer import DivergedError
from .arguments import FinetuneArguments
from .preparation import Job
from .trainer import FinetuneTrainer

# What is searched for, and of which types it is.
SEARCHED = {"learning_rate": (float,), "num_train_epochs": (float, int), "per_device_train_batch_size": (int,)}


def search(
    job: Job,
    args: FinetuneArguments,
    training: TrainingArguments,
    goes_on: bool,
    build_trainer: Callable[[FinetuneArguments, TrainingArguments], FinetuneTrainer],
) -> dict:
    """
    The best learning rate, epochs and batch size of some trials on the validation set; what an earlier command has found
    where this one `goes_on` from there.
    """
    try:
        import optuna
    except ImportError:
        raise InputError("--search-trials needs optuna: pip install optuna") from None
    path = Path(training.output_dir) / "search.json"
    if goes_on and path.is_file():
        return earlier_best(path)
    for handler in logging.getLogger("optuna").handlers:
        handler.addFilter(_without_traceback)
    own = copy.copy(training)
    own.output_dir = str(Path(training.output_dir) / "search")
    own.save_strategy, own.load_best_model_at_end = "no", False
    trainer = build_trainer(dataclasses.replace(args, early_stopping_patience=None), own)
    rate, epochs, batch = own.learning_rate, own.num_train_epochs, own.per_device_train_batch_size

    def space(trial) -> dict:
        return {
            "learning_rate": trial.suggest_float("learning_rate", rate / 4, rate * 4, log=True),
            "num_train_epochs": trial.suggest_float(
                "num_train_epochs", max(1, epochs // 2), max(1, epochs * 2 // 1), step=1
            ),
            "per_device_train_batch_size": trial.suggest_categorical(
                "per_device_train_batch_size", sorted({max(1, batch // 2), batch, batch * 2})
            ),
        }

    trial = trainer.hyperparameter_search(
        hp_space=space,
        compute_objective=lambda metrics: metrics[f"eval_{job.task.best}"],
        n_trials=args.search_trials,
        direction="minimize" if job.task.best == "mse" else "maximize",
        backend="optuna",
        # Such a trial counts as failed.
        catch=(DivergedError,),
        sampler=optuna.samplers.TPESampler(seed=training.seed),
    )
    # The first process alone knows.
    found = broadcast_object_list([None if trial is None else (trial.objective, trial.hyperparameters)])
    objective, best = found[0]
    if trainer.is_world_process_zero():
        write_json(path, {job.task.best: objective, "trials": args.search_trials, "best": best})
        values = [(name, f"{value:.6g}") for name, value in best.items()]
        print_table([("best of the search", f"{objective:.4f}"), *values])
    return best


def earlier_best(path: Path) -> dict:
    """What an earlier search has found. Raises an [`InputError`] where its file is damaged."""
    try:
        best = read_json(path)["best"]
        if best.keys() != set(SEARCHED) or not all(type(best[name]) in SEARCHED[name] for name in best):
            raise ValueError("best holds something else")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        reason = reason_of(error, 100)
        raise InputError(f"{path} is damaged ({reason}): delete it, and the search is made anew") from None
    return best


def _without_traceback(record: logging.LogRecord) -> bool:
    """A trial that diverged or was stopped has its reason in the log; any other failure is raised."""
    record.exc_info = None
    return True
