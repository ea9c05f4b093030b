# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""`ernie-sparse finetune`: a checkpoint on a task or on files of your own, with SAOR."""

import copy
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from transformers import AutoTokenizer, EarlyStoppingCallback, PreTrainedTokenizerBase, TrainingArguments, set_seed

from ..configuration_ernie_sparse import ErnieSparseConfig
from ..running import (
    as_dict,
    check_same_run,
    given,
    last_checkpoint,
    load_config,
    longest_first,
    parse_arguments,
    print_table,
    resume_point,
    subset,
    train,
    training_facts,
    write_json,
)
from ..trainer import SaorArguments
from . import data, report
from .arguments import USAGE, FinetuneArguments
from .kinds import KINDS
from .metrics import average_over_tasks, hub_metric
from .settings import Settings
from .tasks import GLUE, OWN_FILES, TASKS, Task, list_tasks
from .trainer import FeatureCollator, FinetuneTrainer


def main(argv: list[str]):
    """Run `ernie-sparse finetune` with the arguments `argv`."""
    if "--list" in argv:
        print(list_tasks())
        return
    known = given(argv, "--task")
    if known.task == "glue":
        run_glue(argv)
    else:
        run(argv)


def read_arguments(argv: list[str]) -> tuple[str, Task, FinetuneArguments, SaorArguments, TrainingArguments]:
    """
    The task and all arguments; the task's recipe stands in for what is not given.

    Raises:
        `ValueError`: An unknown task or kind.
    """
    known = given(argv, "--task", "--kind", "--eval-strategy", "--save-strategy", "--metric-for-best-model")
    for flag, name, names in (("--task", known.task, [*TASKS, "glue"]), ("--kind", known.kind, list(OWN_FILES))):
        if name is not None and name not in names:
            raise ValueError(f"{flag} {name!r} is not one of {', '.join(names)}")
    task = TASKS[known.task] if known.task else OWN_FILES[known.kind or "single_label"]
    recipe = task.recipe
    by_epoch = {known.eval_strategy or "epoch", known.save_strategy or "epoch"} == {"epoch"}
    defaults = {
        "num_train_epochs": recipe.num_train_epochs,
        "learning_rate": recipe.learning_rate,
        "per_device_train_batch_size": recipe.batch_size,
        "per_device_eval_batch_size": recipe.batch_size,
        "saor_alpha": recipe.saor_alpha,
        "train_sampling_strategy": "group_by_length",
        "load_best_model_at_end": by_epoch,
        "metric_for_best_model": task.best,
        # Of these metrics mse alone is better when smaller; of losses transformers knows.
        "greater_is_better": False if known.metric_for_best_model in ("mse", "eval_mse") else None,
        # Rows carry more than the head reads: where they belong, how long they are.
        "remove_unused_columns": False,
    }
    args, saor, training = parse_arguments(argv, "finetune", USAGE, __doc__, FinetuneArguments, defaults=defaults)
    training.remove_unused_columns = False
    return known.task or "own files", args.with_columns(task), args, saor, training


@dataclass
class Job:
    """All that the runs of one command share."""

    name: str
    task: Task
    config: ErnieSparseConfig
    tokenizer: PreTrainedTokenizerBase
    settings: Settings
    rows: dict[str, Dataset]
    features: dict[str, Dataset]
    notes: dict[str, dict[str, list[str]]]
    repeated: dict[str, int]
    class_weights: torch.Tensor | None

    @property
    def last(self) -> str:
        return "test" if "test" in self.rows else "validation"


def prepare(name: str, task: Task, args: FinetuneArguments, training: TrainingArguments) -> Job:
    """Read, check and tokenize everything, so that what is wrong with the data is said before anything is trained."""
    args.check_reports(task)
    config = load_config(args.model, args.pattern)
    if task.recipe.num_global_blocks and args.pattern is None:
        config.num_global_blocks = max(config.num_global_blocks, task.recipe.num_global_blocks)
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer or args.model)
    rows = data.load_splits(
        task, files=args.files(), data_dir=args.data_dir, dataset=args.dataset, dataset_config=args.dataset_config
    )
    rows, names, repeated = select_rows(task, args, rows, training.seed)
    settings = make_settings(task, args, config, names)
    kind, features, notes = KINDS[task.kind], {}, {}
    for split, split_rows in rows.items():
        features[split], notes[split] = kind.encode(split_rows, settings, tokenizer, is_training=split == "train")
        if split != "train":
            features[split] = longest_first(features[split])
    if len(features["train"]) == 0:
        reasons = "; ".join(f"{note}: {', '.join(ids[:5])}" for note, ids in notes["train"].items() if ids)
        raise ValueError(f"no training row can be used ({reasons})")
    describe_labels(config, task.kind, names)
    weights = balanced_weights(features["train"], len(names)) if args.class_weights == "balanced" else None
    return Job(name, task, config, tokenizer, settings, rows, features, notes, repeated, weights)


def select_rows(task: Task, args: FinetuneArguments, rows: dict[str, Dataset], seed: int):
    """The rows to use, with labels by name, the names, and how many training rows each other split repeats."""
    names: tuple[str, ...] = ()
    if task.kind == "multi_label":
        rows = {split: data.split_label_sets(r, args.label_separator) for split, r in rows.items()}
    if task.kind in ("single_label", "multi_label", "token_classification"):
        names = data.class_names(rows["train"], task)
        rows = {split: data.with_named_labels(r, names, split) for split, r in rows.items()}
    if task.kind == "token_classification":
        rows = {split: r.rename_column("label", "labels") for split, r in rows.items()}
    if task.kind == "regression":
        rows = {split: data.with_numeric_labels(r, task, split) for split, r in rows.items()}
    roles = {"question_answering": ["question", "context"], "candidate_choice": ["query", "supports"]}
    found = data.repeated_rows(rows, roles.get(task.kind, ["text", "text_pair", "tokens"]))
    repeated = {split: len(numbers) for split, numbers in found.items()}
    if args.drop_repeated:
        drop = set().union(*found.values())
        rows["train"] = rows["train"].select([i for i in range(len(rows["train"])) if i not in drop])
        if len(rows["train"]) == 0:
            raise ValueError("every training row stands in another split as well: --drop-repeated leaves none")
    rows = data.hold_out(rows, args.validation_fraction, seed)
    limits = {"train": args.max_train_documents, "test": args.max_test_documents}
    rows = {s: subset(r, limits.get(s, args.max_validation_documents), seed) for s, r in rows.items()}
    return rows, names, repeated


def make_settings(task: Task, args: FinetuneArguments, config: ErnieSparseConfig, names: tuple[str, ...]) -> Settings:
    limit = config.max_position_embeddings
    if args.max_length is not None and args.max_length > limit:
        raise ValueError(f"--max-length {args.max_length} is more than max_position_embeddings={limit}")
    pattern = config.pattern
    max_length = args.max_length or min(task.recipe.max_length, limit)
    return Settings(
        kind=task.kind,
        max_length=max_length,
        block_size=pattern.block_size,
        num_global_tokens=min(pattern.num_global_blocks, pattern.num_blocks(max_length)) * pattern.block_size,
        columns=dict(task.columns),
        label_names=names,
        metrics=task.metrics,
        long_documents=args.long_documents,
        stride=min(128, max_length // 4) if args.stride is None else args.stride,
        max_answer_length=args.max_answer_length,
        num_best=args.num_best,
        null_threshold=args.null_threshold,
    )


def describe_labels(config: ErnieSparseConfig, kind: str, names: tuple[str, ...]):
    """Write what the head predicts into the config."""
    config.problem_type = KINDS[kind].problem_type
    if kind == "regression":
        config.num_labels = 1
    elif names:
        config.num_labels = len(names)
        config.id2label = dict(enumerate(names))
        config.label2id = {name: number for number, name in enumerate(names)}


def balanced_weights(features: Dataset, num_labels: int) -> torch.Tensor:
    """
    A weight per class inverse to how often it stands in the training set, 1 on average over its labels.

    Raises:
        `ValueError`: Labels that do not exclude each other.
    """
    labels = features["labels"] if "labels" in features.column_names and num_labels else []
    flat = np.concatenate([np.atleast_1d(row) for row in labels]) if len(labels) else np.zeros(0)
    if flat.size == 0 or flat.dtype.kind != "i":
        raise ValueError("--class-weights balanced needs classes that exclude each other")
    counts = np.bincount(flat[flat >= 0], minlength=num_labels)
    present = counts > 0
    weights = np.ones(num_labels)
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return torch.tensor(weights, dtype=torch.float32)


def build_trainer(job: Job, args: FinetuneArguments, saor: SaorArguments, training: TrainingArguments):
    """A trainer on a freshly loaded model, which scores predictions of the validation set as it goes."""
    kind = KINDS[job.task.kind]

    def fresh_model(trial=None):
        model = kind.model_class.from_pretrained(
            args.model, config=copy.deepcopy(job.config), ignore_mismatched_sizes=True
        )
        return model if args.lora_rank is None else with_lora(model, args.lora_rank)

    callbacks = []
    if args.early_stopping_patience is not None:
        if not training.load_best_model_at_end:
            raise ValueError(
                "--early-stopping-patience needs --load-best-model-at-end true, and evaluation as often as saving"
            )
        callbacks.append(EarlyStoppingCallback(args.early_stopping_patience))
    is_extractive = job.task.kind == "question_answering"
    training.label_names = ["start_positions", "end_positions"] if is_extractive else ["labels"]
    set_seed(training.seed)
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
        raise ValueError("--lora-rank needs peft: pip install 'ernie-sparse[lora]'") from None
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
    kind, rows = KINDS[job.task.kind], job.rows[split]
    predictions = kind.decode(outputs, job.features[split], rows, job.settings)
    return predictions, kind.score(predictions, rows, job.settings)


def train_once(
    job: Job, args, saor, training: TrainingArguments, argv: list[str], checkpoint: str | None, what: dict
) -> dict:
    """
    One run, which `what` describes: train, evaluate every split, leave model, predictions, results, pictures and card in its
    folder.
    """
    try:
        trainer = build_trainer(job, args, saor, training)
        train(trainer, checkpoint, what)
    except (KeyError, ValueError) as error:
        if training.process_index == 0:
            _remove_if_empty(Path(training.output_dir))
        if isinstance(error, KeyError) and training.metric_for_best_model in str(error):
            raise ValueError(error.args[0]) from None
        raise
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
    everything = report.collect(job, args, saor, training, results, trainer.state)
    if trainer.is_world_process_zero():
        job.settings.save(training.output_dir)
        report.write(job, argv, training.output_dir, everything, predictions, trainer.state)
    if training.push_to_hub:
        trainer.push_to_hub()
    return everything


def _remove_if_empty(folder: Path):
    """What Trainer has made before it looked at its arguments."""
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


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
    metrics = KINDS[job.task.kind].score([predictions[i] for i in index], rows, job.settings)
    return {name: {"documents": len(index), **metrics}}


def identity(args: FinetuneArguments, saor: SaorArguments, training: TrainingArguments) -> dict:
    """What makes a run the one it is: with another of these it does not go on in the same folder."""
    content = {**as_dict(args, saor), **training_facts(training)}
    # Another seed more is still the same comparison.
    return {name: value for name, value in content.items() if name != "seeds"}


def going_on(training: TrainingArguments, what: dict, is_one_of_many: bool) -> tuple[dict | None, str | None]:
    """
    The results of one of many runs that an earlier command has brought to its end, or else the checkpoint that a run goes on
    from. One of many that was killed before its first, or never began, starts anew.

    Raises:
        `ValueError`: The output folder holds another run, or what `resume_point` finds.
    """
    out = Path(training.output_dir)
    is_done = is_one_of_many and (out / "results.json").is_file()
    if training.resume_from_checkpoint == "last" and (is_done or last_checkpoint(out)):
        check_same_run(out, what)
        if is_done:
            return json.loads((out / "results.json").read_text()), None
    if is_one_of_many and not any(out.glob("checkpoint-*")):
        training.resume_from_checkpoint = None
    return None, resume_point(training)


def of_seed(training: TrainingArguments, seed: int) -> TrainingArguments:
    own = copy.copy(training)
    own.seed, own.output_dir = seed, str(Path(training.output_dir) / f"seed-{seed}")
    return own


def run(argv: list[str], is_one_of_many: bool = False) -> dict:
    """A task or own files: one run, or one per seed."""
    name, task, args, saor, training = read_arguments(argv)
    if args.seeds is not None and training.push_to_hub:
        raise ValueError("--push-to-hub pushes one model and --seeds makes several: push the one you choose")
    runs = [training] if args.seeds is None else [of_seed(training, seed) for seed in args.seeds]
    is_one_of_many = is_one_of_many or args.seeds is not None
    beginnings = [going_on(own, identity(args, saor, own), is_one_of_many) for own in runs]
    results = {own.seed: done for own, (done, _) in zip(runs, beginnings, strict=True)}
    if args.seeds is None and results[training.seed] is not None:
        return results[training.seed]
    with training.main_process_first(desc="reading and tokenizing the documents"):
        job = prepare(name, task, args, training)
    best = search(job, args, saor, training) if args.search_trials and None in results.values() else {}
    for own, (done, checkpoint) in zip(runs, beginnings, strict=True):
        if done is None:
            what = identity(args, saor, own)
            for field, value in best.items():
                setattr(own, field, value)
            results[own.seed] = train_once(job, args, saor, own, argv, checkpoint, what)
    return results[training.seed] if args.seeds is None else report.write_seeds(job, argv, training, results)


def search(job: Job, args: FinetuneArguments, saor: SaorArguments, training: TrainingArguments) -> dict:
    """
    The best learning rate, epochs and batch size of some trials on the validation set; what an earlier command has found
    where this one goes on from there.
    """
    try:
        import optuna
    except ImportError:
        raise ValueError("--search-trials needs optuna: pip install 'ernie-sparse[search]'") from None
    path = Path(training.output_dir) / "search.json"
    if training.resume_from_checkpoint == "last" and path.is_file():
        return json.loads(path.read_text())["best"]
    own = copy.copy(training)
    own.output_dir = str(Path(training.output_dir) / "search")
    own.save_strategy, own.load_best_model_at_end = "no", False
    trainer = build_trainer(job, dataclasses.replace(args, early_stopping_patience=None), saor, own)
    rate, epochs, batch = own.learning_rate, own.num_train_epochs, own.per_device_train_batch_size

    def space(trial) -> dict:
        return {
            "learning_rate": trial.suggest_float("learning_rate", rate / 4, rate * 4, log=True),
            "num_train_epochs": trial.suggest_float("num_train_epochs", max(1, epochs / 2), epochs * 2, step=1),
            "per_device_train_batch_size": trial.suggest_categorical(
                "per_device_train_batch_size", sorted({max(1, batch // 2), batch, batch * 2})
            ),
        }

    trial = trainer.hyperparameter_search(
        hp_space=space,
        compute_objective=lambda metrics: metrics[f"eval_{job.task.best}"],
        n_trials=args.search_trials,
        direction="maximize",
        backend="optuna",
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


def run_glue(argv: list[str]) -> dict:
    """All GLUE tasks that there is data for, each in a folder of its own, and their average."""
    known = given(argv, "--output-dir", "--data-dir")
    if known.output_dir is None:
        raise ValueError("--output-dir is missing")
    tasks, missing = list(GLUE), []
    if known.data_dir is not None:
        missing = [name for name in tasks if not _has_data(known.data_dir, GLUE[name])]
        tasks = [name for name in tasks if name not in missing]
        if not tasks:
            raise ValueError(f"no GLUE task was found in {known.data_dir}")
    results = {}
    for name in tasks:
        folder = str(Path(known.output_dir) / name)
        results[name] = run([*argv, "--task", name, "--output-dir", folder], is_one_of_many=True)
    return report.write_glue(argv, known.output_dir, results, missing, average_over_tasks)


def _has_data(data_dir: str, task: Task) -> bool:
    folder = Path(data_dir) / task.folder
    return folder.is_dir() and any(folder.glob("train*"))
