# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The tasks `ernie-sparse finetune --task NAME` knows: one row each, of where the data is, what it holds and a recipe."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

# Where a data set does not call them otherwise.
OWN_SPLITS = {split: split for split in ("train", "validation", "test")}


@dataclass(frozen=True)
class Recipe:
    """
    Where a fine-tuning starts from; every flag on the command line wins over it. All values are our choice, and none was
    tuned on a test split.

    Args:
        max_length (`int`): Tokens per row; less where the model reads less.
        num_train_epochs (`float`)
        learning_rate (`float`)
        batch_size (`int`): Rows per step and device.
        num_global_blocks (`int`, *optional*): Leading global blocks of the model's pattern, where its own are too few.
    """

    max_length: int = 1024
    num_train_epochs: float = 3
    learning_rate: float = 5e-5
    batch_size: int = 16
    num_global_blocks: int | None = None


@dataclass(frozen=True)
class Task:
    """
    One row.

    Args:
        task_type (`str`): A name in `task_types.TASK_TYPES`.
        columns (`Mapping[str, str]`): The column of each role.
        metrics (`tuple[str, …]`): What is computed; see `metrics.METRICS`.
        best (`str`): The result that chooses the best checkpoint: the largest, of `mse` the smallest.
        hub (`tuple[str, str | None]`, *optional*): Hub data set and its configuration.
        folder (`str`): Where the same data lies under `--data-dir`, as `train.parquet` and so on.
        splits (`Mapping[str, str]`): The data's own names of our splits; the first is trained on.
        label_names (`tuple[str, …]`): Names of the classes 0, 1, …, where the data has numbers alone.
        label_separator (`str`): Between the labels of a multi-label row in one cell.
        prepare (`Callable[[dict], dict]`, *optional*): A row's own columns to the columns of the roles.
        note (`str`): What to know before a number is published.
    """

    task_type: str
    columns: Mapping[str, str]
    metrics: tuple[str, ...] = ()
    best: str = "accuracy"
    hub: tuple[str, str | None] | None = None
    folder: str = ""
    splits: Mapping[str, str] = field(default_factory=OWN_SPLITS.copy)
    label_names: tuple[str, ...] = ()
    label_separator: str = "|"
    prepare: Callable[[dict], dict] | None = None
    note: str = ""
    recipe: Recipe = Recipe()


def join_trivia_qa(row: dict) -> dict:
    """
    A row of TriviaQA as the hub has it to one of question answering: the evidence of all of a question's documents, Wikipedia
    first, is one context, and the answers are known by their aliases alone. A row in SQuAD's columns stays as it is.
    """
    if "context" in row:
        return row
    pages, found, answer = (row.get(name) or {} for name in ("entity_pages", "search_results", "answer"))
    documents = [*(pages.get("wiki_context") or []), *(found.get("search_context") or [])]
    accepted = [answer.get("value") or "", *(answer.get("aliases") or [])]
    return {
        "id": row.get("question_id"),
        "question": row.get("question"),
        "context": "\n\n".join(text for text in documents if text),
        "answers": {"text": [], "answer_start": []},
        "aliases": list(dict.fromkeys(text for text in accepted if text)),
    }


def _glue(config: str, texts: tuple[str, ...], recipe: Recipe, labels: tuple[str, ...] = (), **more) -> Task:
    # The hub's test splits have no labels.
    defaults = {
        "task_type": "single_label",
        "metrics": ("accuracy",),
        "splits": {"train": "train", "validation": "validation"},
    }
    columns = {**dict(zip(("text", "text_pair"), texts, strict=False)), "label": "label", "id": "idx"}
    return Task(
        **{**defaults, **more},
        columns=columns,
        label_names=labels,
        hub=("nyu-mll/glue", config),
        folder=f"glue/{config}",
        recipe=recipe,
    )


_SENTENCES = ("sentence1", "sentence2")
_SHORT = Recipe(max_length=128, learning_rate=3e-5, batch_size=32)
_PAIRS = Recipe(max_length=256, learning_rate=3e-5, batch_size=32)
_SMALL = Recipe(max_length=256, num_train_epochs=10, learning_rate=2e-5, batch_size=16)
_QUESTIONS = {name: name for name in ("id", "question", "context", "answers", "aliases")}
_ENTAILMENT = ("entailment", "not_entailment")
_TRIVIA = Recipe(max_length=4096, num_train_epochs=3, learning_rate=3e-5, batch_size=8)

GLUE = {
    "cola": _glue(
        "cola",
        ("sentence",),
        _SHORT,
        ("unacceptable", "acceptable"),
        metrics=("matthews_correlation",),
        best="matthews_correlation",
    ),
    "sst2": _glue("sst2", ("sentence",), _SHORT, ("negative", "positive")),
    "mrpc": _glue("mrpc", _SENTENCES, _PAIRS, ("not_equivalent", "equivalent"), metrics=("accuracy", "f1_binary")),
    "qqp": _glue(
        "qqp", ("question1", "question2"), _PAIRS, ("not_duplicate", "duplicate"), metrics=("accuracy", "f1_binary")
    ),
    "stsb": _glue("stsb", _SENTENCES, _PAIRS, task_type="regression", metrics=("pearson", "spearmanr"), best="pearson"),
    "mnli": _glue(
        "mnli",
        ("premise", "hypothesis"),
        _PAIRS,
        ("entailment", "neutral", "contradiction"),
        splits={
            "train": "train",
            "validation": "validation_matched",
            "validation_mismatched": "validation_mismatched",
        },
    ),
    "qnli": _glue("qnli", ("question", "sentence"), _PAIRS, _ENTAILMENT),
    "rte": _glue("rte", _SENTENCES, _SMALL, _ENTAILMENT),
    "wnli": _glue(
        "wnli",
        _SENTENCES,
        _SMALL,
        ("not_entailment", "entailment"),
        note="its validation set contradicts its training set: the largest class is hard to beat",
    ),
}

TASKS = {
    **GLUE,
    "imdb": Task(
        task_type="single_label",
        columns={"text": "text", "label": "label"},
        metrics=("accuracy", "f1_macro"),
        hub=("stanfordnlp/imdb", None),
        folder="imdb",
        splits={"train": "train", "test": "test"},
        label_names=("neg", "pos"),
        note="123 of its texts are in both splits; validation is held out from train",
        recipe=Recipe(max_length=1024, learning_rate=3e-5),
    ),
    "hyperpartisan": Task(
        task_type="single_label",
        columns={"text": "text", "label": "label", "id": "id"},
        metrics=("accuracy", "f1_macro"),
        hub=("jonathanli/hyperpartisan-longformer-split", None),
        folder="hyperpartisan_byarticle",
        label_names=("mainstream", "hyperpartisan"),
        note="most of the hub's test articles are in its other splits as well: see also_in_train in results.json",
        recipe=Recipe(max_length=4096, num_train_epochs=15, learning_rate=3e-5, batch_size=8),
    ),
    "arxiv": Task(
        task_type="single_label",
        columns={"text": "text", "label": "label"},
        metrics=("accuracy", "f1_macro"),
        hub=("ccdv/arxiv-classification", None),
        folder="arxiv",
        label_names=(
            *("math.AC", "cs.CV", "cs.AI", "cs.SY", "math.GR", "cs.CE", "cs.PL", "cs.IT", "cs.DS", "cs.NE", "math.ST"),
        ),
        note="the default configuration names the class in the first lines of some papers; no_ref does not",
        recipe=Recipe(max_length=4096, num_train_epochs=5, learning_rate=3e-5, batch_size=8),
    ),
    "triviaqa": Task(
        task_type="question_answering",
        columns=_QUESTIONS,
        best="f1",
        hub=("mandarjoshi/trivia_qa", "rc.wikipedia"),
        folder="triviaqa",
        splits={"train": "train", "validation": "validation"},
        prepare=join_trivia_qa,
        recipe=_TRIVIA,
    ),
    "triviaqa-rc": Task(
        task_type="question_answering",
        columns=_QUESTIONS,
        best="f1",
        hub=("mandarjoshi/trivia_qa", "rc"),
        folder="triviaqa-rc",
        splits={"train": "train", "validation": "validation"},
        prepare=join_trivia_qa,
        recipe=_TRIVIA,
    ),
    "wikihop": Task(
        task_type="candidate_choice",
        columns={name: name for name in ("id", "query", "candidates", "supports", "answer")},
        hub=("community-datasets/qangaroo", "wikihop"),
        folder="wikihop",
        splits={"train": "train", "validation": "validation"},
        # A question has about 20 candidates, at most 80: they stand in the leading global blocks.
        recipe=Recipe(max_length=4096, num_train_epochs=5, learning_rate=3e-5, batch_size=8, num_global_blocks=8),
    ),
    "squad": Task(
        task_type="question_answering",
        columns=_QUESTIONS,
        best="f1",
        hub=("rajpurkar/squad", None),
        folder="squad",
        splits={"train": "train", "validation": "validation"},
        recipe=Recipe(max_length=512, num_train_epochs=2, learning_rate=3e-5),
    ),
}

# What `--kind` makes of a file of the user's own.
OWN_FILES = {
    "single_label": Task(
        task_type="single_label", columns={"text": "text", "label": "label"}, metrics=("accuracy", "f1_macro")
    ),
    "multi_label": Task(
        task_type="multi_label", columns={"text": "text", "label": "label"}, metrics=("multi_label",), best="f1"
    ),
    "regression": Task(
        task_type="regression",
        columns={"text": "text", "label": "label"},
        metrics=("pearson", "spearmanr", "mse"),
        # A correlation does not see a wrong scale.
        best="mse",
    ),
    "token_classification": Task(
        task_type="token_classification", columns={"tokens": "tokens", "label": "labels"}, best="f1"
    ),
    "question_answering": Task(task_type="question_answering", columns=_QUESTIONS, best="f1"),
    "candidate_choice": Task(task_type="candidate_choice", columns=TASKS["wikihop"].columns),
}


def list_tasks() -> str:
    """The rows as a table, for `--list`."""
    head = ("task", "kind", "metrics", "length", "epochs", "rate", "batch", "hub data set")
    rows = []
    for name, task in TASKS.items():
        recipe, metrics = task.recipe, ", ".join(task.metrics) or "exact_match, f1"
        if task.task_type == "candidate_choice":
            metrics = "accuracy"
        hub = " ".join(part for part in task.hub or () if part)
        numbers = (recipe.max_length, recipe.num_train_epochs, recipe.learning_rate, recipe.batch_size)
        rows.append((name, task.task_type, metrics, *map(str, numbers), hub))
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in [head, *rows]]
    notes = [f"  {name}: {task.note}" for name, task in TASKS.items() if task.note]
    return "\n".join(
        line.rstrip()
        for line in [
            *lines,
            "",
            "glue: all nine of its tasks, one after the other, and their average",
            "",
            "notes:",
            *notes,
        ]
    )
