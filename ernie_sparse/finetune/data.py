# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""From a hub data set, a local copy of it or files of one's own to splits of rows with one column per role."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, LargeList, List, Value

from ..errors import InputError
from ..tables import load_rows
from .tasks import Task

SUFFIXES = (".parquet", ".jsonl", ".json", ".csv")

# The roles that rows cannot do without, and those that they must have to be trained on or evaluated.
ROLES = {
    "single_label": (("text",), ("label",)),
    "multi_label": (("text",), ("label",)),
    "regression": (("text",), ("label",)),
    "token_classification": (("tokens",), ("label",)),
    "question_answering": (("question", "context"), ()),
    "candidate_choice": (("query", "candidates", "supports"), ("answer",)),
}


def find_split_files(data_dir: str, task: Task) -> dict[str, list[str]]:
    """
    The files of a task's splits, in `data_dir` itself or in the task's folder there: `train.parquet`, or
    `train-00000-of-00002.parquet` and so on as the hub stores them; parquet, jsonl, json or csv.

    Raises:
        [`InputError`]: There is no training file.
    """
    root = Path(data_dir)
    if not root.is_dir():
        raise InputError(f"--data-dir {data_dir}: there is no such folder")
    folders = [folder for folder in (root / task.folder, root, root / "data") if folder.is_dir()]
    for folder in folders:
        found = {}
        for split, name in task.splits.items():
            paths = sorted(
                path
                for path in folder.iterdir()
                if path.suffix.lower() in SUFFIXES and (path.stem == name or path.stem.startswith(f"{name}-"))
            )
            if paths:
                found[split] = [str(path) for path in paths if path.suffix == paths[0].suffix]
        if "train" in found:
            return found
    places = ", ".join(str(folder) for folder in folders)
    raise InputError(f"no {task.splits['train']}{{{','.join(SUFFIXES)}}} was found in {places}")


# What the columns of these roles hold: other things would fail later, or be read as something else.
STRINGS = ("text", "text_pair", "question", "context", "query")
LISTS = ("tokens", "candidates", "supports", "aliases")


def load_splits(
    task: Task,
    *,
    files: Mapping[str, list[str] | None],
    data_dir: str | None = None,
    dataset: str | None = None,
    dataset_config: str | None = None,
) -> dict[str, Dataset]:
    """
    The splits of a task, their columns named by role.

    Raises:
        [`InputError`]: No source or two, no training rows, a column that is missing, or empty texts.
    """
    if data_dir is not None:
        files = find_split_files(data_dir, task)
    if any(files.values()):
        raw = load_rows(files, None, None, text_columns=text_columns(task.columns))
    else:
        hub_name, hub_config = (dataset, None) if dataset else task.hub
        hub = load_rows({}, hub_name, dataset_config or hub_config)
        names = task.splits if not dataset else {name: name for name in ("train", "validation", "test")}
        raw = DatasetDict({split: hub[name] for split, name in names.items() if name in hub})
    if "train" not in raw:
        raise InputError(f"there is no train split, only {', '.join(raw) or 'none at all'}")
    return {split: by_role(rows, task, split) for split, rows in raw.items()}


def text_columns(columns: Mapping[str, str]) -> list[str]:
    """The columns that hold text whatever stands in them: `007` is no number there."""
    return [column for role, column in columns.items() if role in (*STRINGS, "id")]


def by_role(rows: Dataset, task: Task, split: str | None, first: int = 0) -> Dataset:
    """
    `rows` with one column per role and an `id` of strings, the row's number where there is none.

    Args:
        split (`str`, *optional*): `None` for rows to predict, which need no labels or answers.
        first (`int`): The number of the first of these rows in their file.

    Raises:
        [`InputError`]: A column is missing, or a text or a label is.
    """
    if task.prepare is not None:
        rows = task.prepare(rows)
    needed, references = ROLES[task.task_type]
    if len(rows) == 0:
        raise InputError(f"the {split} split has no rows")
    place = f"rows {first} to {first + len(rows) - 1}" if split is None else f"the {split} split"
    filled = [
        *needed,
        *(references if split is not None else ()),
        *(["text_pair"] if "text_pair" in task.columns else []),
    ]
    # What may be missing is missing under its usual name: another one was asked for.
    named = [role for role in ("id", "answers", "aliases") if task.columns.get(role, role) != role]
    for role in (*filled, *(role for role in named if role == "id" or split is not None)):
        if task.columns[role] not in rows.column_names:
            raise InputError(
                f"there is no column {task.columns[role]!r} for the {role} in {place}, only "
                f"{', '.join(map(repr, rows.column_names))}"
            )
    present = {role: column for role, column in task.columns.items() if column in rows.column_names}
    if split is None:
        present = {role: column for role, column in present.items() if role not in references}
    columns = list(dict.fromkeys(present.values()))
    if len(columns) < len(present):
        raise InputError(f"two roles cannot share a column: {present}")
    # Two steps, for a column may bear the name of another role.
    rows = rows.select_columns(columns)
    rows = rows.rename_columns({column: f"role {role}" for role, column in present.items()})
    rows = rows.rename_columns({f"role {role}": role for role in present})
    ids = [str(i) for i in rows["id"]] if "id" in present else [str(first + i) for i in range(len(rows))]
    rows = rows.remove_columns("id") if "id" in present else rows
    rows = rows.add_column("id", ids, feature=Value("string"))
    for role in filled:
        _check_filled(rows, role, task.columns[role], place, first)
    _check_types(rows, task, place, first)
    return rows


def _check_filled(rows: Dataset, role: str, column: str, place: str, first: int):
    if role == "context":
        # A question without a document is one that cannot be answered, and counted as such.
        return
    empty = [i for i, value in enumerate(rows[role]) if _is_empty(value, role)]
    if empty:
        raise InputError(
            f"column {column!r} of {place} is empty in {len(empty)} of {len(rows)} rows, the first of them row "
            f"{first + empty[0]}"
        )


def _is_empty(value, role: str) -> bool:
    """Nothing, blank, or a list of texts with nothing in one of its places."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (role in LISTS and isinstance(value, list) and None in value)


def _check_types(rows: Dataset, task: Task, place: str, first: int):
    def is_string(feature) -> bool:
        return isinstance(feature, Value) and feature.dtype in ("string", "large_string")

    for role, feature in rows.features.items():
        is_list = isinstance(feature, List | LargeList)
        if feature == Value("null"):
            continue  # nothing at all, where that is allowed
        if role in STRINGS and not is_string(feature):
            needed = "strings"
        elif role in LISTS and not (is_list and (is_string(feature.feature) or feature.feature == Value("null"))):
            needed = "lists of strings"
        elif role == "answers" and not _is_squad_form(feature):
            needed = "in SQuAD's form, {'text': [...], 'answer_start': [...]}"
        else:
            continue
        raise InputError(
            f"column {task.columns[role]!r} of {place} holds {_contents(rows, role, first)}: {role} has to be {needed}"
        )


def _is_squad_form(feature) -> bool:
    if not isinstance(feature, dict) or "text" not in feature:
        return False
    inner = {name: getattr(feature[name], "feature", None) for name in ("text", "answer_start") if name in feature}
    # Where all lists are empty there is no type.
    types = {name: _type_name(value) for name, value in inner.items() if value != Value("null")}
    return types.get("text", "string") in ("string", "large_string") and "int" in types.get("answer_start", "int")


def _type_name(feature) -> str:
    """`string`, `float64`, `List`, `dict` and so on."""
    return feature.dtype if isinstance(feature, Value) else type(feature).__name__


def _contents(rows: Dataset, role: str, first: int = 0) -> str:
    """What a column holds, in words."""
    name = _type_name(rows.features[role])
    # So it is when the values of a JSON column have several types.
    return several_types(rows[role], first) if name == "Json" else name


def several_types(values: Iterable, first: int) -> str:
    """`values of several types (str in row 0, int in row 5)`, each with its first row."""
    rows: dict[str, int] = {}
    for number, value in enumerate(values, first):
        if value is not None:
            rows.setdefault(type(value).__name__, number)
    return f"values of several types ({', '.join(f'{name} in row {row}' for name, row in rows.items())})"


def hold_out(splits: dict[str, Dataset], fraction: float, seed: int) -> dict[str, Dataset]:
    """The splits with a validation set, drawn from the training set where there is none."""
    if "validation" in splits:
        return splits
    train = splits["train"]
    if len(train) < 2:
        raise InputError("one training document is too few to hold any out: give --validation-file")
    count = max(1, round(len(train) * fraction))
    if count == len(train):
        raise InputError(f"--validation-fraction {fraction} of {len(train)} training documents leaves none to train on")
    parts = train.train_test_split(test_size=count, seed=seed)
    return {"train": parts["train"], "validation": parts["test"], **{k: v for k, v in splits.items() if k != "train"}}


def repeated_rows(splits: dict[str, Dataset], roles: list[str]) -> dict[str, set[int]]:
    """Per split other than train: the training rows that stand in it as well, word for word in all of these roles."""

    def contents(rows: Dataset) -> list[int]:
        columns = (rows[role] for role in roles if role in rows.column_names)
        return [hash(repr(row)) for row in zip(*columns, strict=True)]

    train: dict[int, list[int]] = {}
    for number, content in enumerate(contents(splits["train"])):
        train.setdefault(content, []).append(number)
    return {
        split: {number for content in contents(rows) for number in train.get(content, ())}
        for split, rows in splits.items()
        if split != "train"
    }


def class_names(train: Dataset, task: Task) -> tuple[str, ...]:
    """
    The classes in the order of their numbers: the data's own names or the task's, otherwise every label of the training
    set, sorted.

    Raises:
        [`InputError`]: Labels that are not classes, or a single class.
    """
    feature = train.features["label"]
    inner = getattr(feature, "feature", feature)
    column = task.columns["label"]
    is_list, is_named = isinstance(feature, List), isinstance(inner, ClassLabel)
    dtype = _type_name(inner)
    if task.task_type == "token_classification" and not is_list:
        raise InputError(f"column {column!r} holds {dtype}: token classification needs a list of labels per row")
    if task.task_type == "single_label" and is_list:
        raise InputError(f"column {column!r} holds lists: use --kind multi_label or token_classification")
    if not (is_named or dtype in ("string", "large_string", "bool") or "int" in dtype):
        raise InputError(
            f"column {column!r} holds {_contents(train, 'label')}: classes are strings or whole numbers (--kind "
            "regression takes other numbers)"
        )
    values = {value for row in train["label"] for value in row} if is_list else set(train["label"])
    if None in values:
        raise InputError(f"column {column!r} of the training set has lists with empty labels")
    names = tuple(inner.names) if is_named else task.label_names if "int" in dtype else ()
    if len(values) < 2 and (task.task_type == "single_label" or not (names or task.task_type == "multi_label")):
        only = ", ".join(repr(names[value] if value in range(len(names)) else str(value)) for value in values)
        raise InputError(f"the training set has a single class, {only}: there is nothing to learn")
    return names or tuple(str(value) for value in sorted(values))


def split_label_sets(rows: Dataset, separator: str) -> Dataset:
    """Multi-label rows whose labels are one string each, such as `sport|politics`, with a list of strings instead."""
    if isinstance(rows.features["label"], List):
        return rows
    labels = [[part.strip() for part in str(text).split(separator) if part.strip()] for text in rows["label"]]
    return rows.remove_columns("label").add_column("label", labels, feature=List(Value("string")))


def with_named_labels(rows: Dataset, names: tuple[str, ...], split: str) -> Dataset:
    """
    The rows with every label as one of `names`.

    Raises:
        [`InputError`]: A label that is none of them.
    """
    feature = rows.features["label"]
    inner, is_list = getattr(feature, "feature", feature), isinstance(feature, List)
    known = set(names)
    # Among classes such as 1, 2 and 3 the number 0 is one more class, and not the place of the first.
    are_numbers = all(name.lstrip("-").isdigit() for name in names)

    def name(value) -> str:
        text = str(value)
        if isinstance(inner, ClassLabel):
            text = inner.int2str(value) if 0 <= value < len(inner.names) else text
        elif text not in known and isinstance(value, int) and not are_numbers and 0 <= value < len(names):
            text = names[value]
        if text not in known:
            raise InputError(f"label {text!r} in the {split} split is none of the training set's: {', '.join(names)}")
        return text

    labels = [[name(v) for v in row] if is_list else name(row) for row in rows["label"]]
    names_feature = List(Value("string")) if is_list else Value("string")
    return rows.remove_columns("label").add_column("label", labels, feature=names_feature)


def with_numeric_labels(rows: Dataset, task: Task, split: str) -> Dataset:
    """Regression rows with labels as floats."""

    def number(value) -> float:
        try:
            return float(value)
        except (TypeError, ValueError):
            return np.nan

    labels = np.array([number(value) for value in rows["label"]])
    bad = np.flatnonzero(~np.isfinite(labels))
    if len(bad):
        value = rows["label"][int(bad[0])]
        raise InputError(
            f"column {task.columns['label']!r} of the {split} split holds {value!r} in row {bad[0]}: regression needs numbers"
        )
    return rows.remove_columns("label").add_column("label", labels.tolist(), feature=Value("float64"))
