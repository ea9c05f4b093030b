# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""From a hub data set, a local copy of it or files of one's own to splits of rows with one column per role."""

import contextlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, Features, List, Value
from pyarrow import parquet
from sklearn.model_selection import train_test_split

from ..errors import InputError
from ..tables import FORMATS, check_text, columns_in, find_files, load_hub_rows, load_rows, place_of
from .settings import NEEDED_ROLES
from .tasks import OWN_SPLITS, Task

TEXT, TEXTS = Value("string"), List(Value("string"))

# What the columns of these roles hold.
FEATURES = {
    **dict.fromkeys(("id", "text", "text_pair", "question", "context", "query", "answer"), TEXT),
    **dict.fromkeys(("tokens", "candidates", "supports", "aliases"), TEXTS),
    "answers": {"text": TEXTS, "answer_start": List(Value("int64"))},
}
LABELS = {"single_label": TEXT, "multi_label": TEXTS, "token_classification": TEXTS, "regression": Value("float64")}

# Of a text. A document is tokenized as a whole, which takes some hundred times the memory of its characters, and this is more than
# any book has.
MOST_CHARACTERS = 10_000_000
# The roles that rows cannot do without, and those that they must have to be trained on or evaluated.
TO_LEARN = {"question_answering": (), "candidate_choice": ("answer",)}
ROLES = {task_type: (needed, TO_LEARN.get(task_type, ("label",))) for task_type, needed in NEEDED_ROLES.items()}


class Split(NamedTuple):
    """
    Args:
        rows (`Dataset`): One column per role.
        class_names (`tuple[str, …]`): The classes that the data itself names, in the order of their numbers.
        place (`Callable[[int], str]`): Where a row, by its number, stands in the data, in words.
    """

    rows: Dataset
    class_names: tuple[str, ...]
    place: Callable[[int], str]


def find_split_files(data_dir: str, task: Task, needed: str = "train") -> dict[str, list[str]]:
    """
    The files of a task's splits, in `data_dir` itself or in the task's folder there: `train.parquet`, or
    `train-00000-of-00002.parquet` and so on as the hub stores them; parquet, jsonl, json, csv or tsv.

    Raises:
        [`InputError`]: There is no file of the split that is `needed`.
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
                if path.suffix.lower() in FORMATS and (path.stem == name or path.stem.startswith(f"{name}-"))
            )
            if paths:
                found[split] = [str(path) for path in paths if path.suffix == paths[0].suffix]
        if needed in found:
            return found
    places = ", ".join(str(folder) for folder in folders)
    raise InputError(f"no {task.splits[needed]}{{{','.join(FORMATS)}}} was found in {places}")


def load_splits(
    task: Task,
    *,
    files: Mapping[str, list[str] | None],
    data_dir: str | None = None,
    dataset: str | None = None,
    dataset_config: str | None = None,
    needed: str = "train",
) -> dict[str, Split]:
    """
    The splits of a task, their columns named by role.

    Args:
        needed (`str`, defaults to `"train"`): The split that there has to be.

    Raises:
        [`InputError`]: No source, no rows of the split that is needed, or a row that is not what the task needs.
    """
    if data_dir is not None:
        files = find_split_files(data_dir, task, needed)
    elif dataset is not None and Path(dataset).is_dir():
        # Where its files are in the usual layout, they are read as files are: datasets would guess types file by file.
        with contextlib.suppress(InputError):
            files = find_split_files(dataset, replace(task, folder="", splits=OWN_SPLITS))
    if any(files.values()):
        # Nothing is read before all are there.
        files = {split: find_files(names) for split, names in files.items() if names}
        splits = {split: partial(_split_of_files, task, paths) for split, paths in files.items()}
    else:
        name, config = (dataset, None) if dataset else task.hub
        hub = load_hub_rows(name, dataset_config or config)
        names = OWN_SPLITS if dataset else task.splits
        splits = {s: partial(_split_of_hub, task, name, part, hub[part]) for s, part in names.items() if part in hub}
    if needed not in splits:
        raise InputError(f"there is no {needed} split, only {', '.join(splits) or 'none at all'}")
    return {split: load() for split, load in splits.items()}


def _split_of_files(task: Task, paths: list[Path]) -> Split:
    names = _names_of_files(task, paths)
    rows = load_rows(paths, row_features(task, True), row_by_role, task=task, is_labelled=True, class_names=names)
    return _checked(rows, names, task, ", ".join(map(str, paths)), partial(place_of, paths))


def _names_of_files(task: Task, paths: list[Path]) -> tuple[str, ...]:
    """The classes that the files of a split name: all of them alike, for a number would mean something else in each."""
    names = [_names_in(task, _parquet_features(path)) for path in paths]
    for path, others in zip(paths, names, strict=True):
        if others != names[0]:
            one, other = (", ".join(found[:20]) or "no classes" for found in (names[0], others))
            raise InputError(
                f"column {task.columns['label']!r} names {one} in {paths[0]} and {other} in {path}: the files of a split "
                "have to name the same classes, in the same order"
            )
    return names[0]


def _parquet_features(path: Path) -> Features:
    """The types that a parquet file of the hub carries along."""
    if path.suffix.lower() != ".parquet":
        return Features()
    try:
        return Features.from_arrow_schema(parquet.read_schema(path))
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"could not read {path}: {error}") from error


def _split_of_hub(task: Task, name: str, split: str, rows: Dataset) -> Split:
    def place(number: int) -> str:
        return f"row {number} of {name}'s {split} split"

    def convert(row: dict, number: int) -> dict:
        try:
            return row_by_role(row, number, task, True, class_names)
        except InputError as error:
            raise InputError(f"{place(number)}: {error}") from error

    if len(rows) == 0:
        raise InputError(f"{name}'s {split} split has no rows")
    class_names = _names_in(task, rows.features)
    if task.prepare is None:
        rows = rows.select_columns([column for column in task.columns.values() if column in rows.column_names])
    features = row_features(task, True)
    rows = rows.map(convert, with_indices=True, features=features, remove_columns=rows.column_names, desc="Reading")
    return _checked(rows, class_names, task, f"{name}'s {split} split", place)


def _names_in(task: Task, features: Mapping) -> tuple[str, ...]:
    """The names of the classes, where the labels' column has them."""
    feature = features.get(task.columns.get("label"))
    feature = getattr(feature, "feature", feature)
    return tuple(feature.names) if isinstance(feature, ClassLabel) else ()


def _checked(
    rows: Dataset, class_names: tuple[str, ...], task: Task, source: str, place: Callable[[int], str]
) -> Split:
    """A split whose labels are of one kind, without the columns that may be missing, and are."""
    for role in ("answers", "aliases"):
        if role in rows.column_names and rows.data.column(role).null_count == len(rows):
            if task.columns[role] != role:
                raise InputError(f"there is no column {task.columns[role]!r} for the {role} in {source}")
            rows = rows.remove_columns(role)
    if "label_kind" in rows.column_names:
        first: dict[str, int] = {}
        for number, kind in enumerate(rows["label_kind"][:]):
            if kind is not None:
                first.setdefault(kind, number)
        if len(first) > 1:
            (one, i), (other, j) = list(first.items())[:2]
            column = task.columns["label"]
            raise InputError(
                f"column {column!r} holds {one} in {place(i)} and {other} in {place(j)}: one kind is needed"
            )
        rows = rows.remove_columns("label_kind")
    return Split(rows, class_names, place)


def row_features(task: Task, is_labelled: bool) -> Features:
    """
    The types of the rows of [`row_by_role`].

    Raises:
        [`InputError`]: Two roles share a column.
    """
    roles = _roles(task, is_labelled)
    columns = [task.columns.get(role, role) for role in roles]
    shared = [column for column in columns if columns.count(column) > 1]
    if shared:
        sharing = " and ".join(role for role, column in zip(roles, columns, strict=True) if column == shared[0])
        raise InputError(f"two roles cannot share a column: {shared[0]!r} is given for {sharing}")
    kind = {"label_kind": TEXT} if "label" in roles else {}
    return Features({role: LABELS[task.task_type] if role == "label" else FEATURES[role] for role in roles} | kind)


def _roles(task: Task, is_labelled: bool) -> list[str]:
    needed, references = ROLES[task.task_type]
    pair = ["text_pair"] if "text_pair" in task.columns else []
    references = [*references, *(role for role in ("answers", "aliases") if role in task.columns)]
    return ["id", *needed, *pair, *(references if is_labelled else ())]


def row_by_role(row: dict, number: int, task: Task, is_labelled: bool, class_names: tuple[str, ...] = ()) -> dict:
    """
    A row of [`row_features`]: one column per role, and an `id` of strings, the row's number where there is none.

    Args:
        number (`int`): The row's number.
        is_labelled (`bool`): Whether labels and answers are needed, and kept.
        class_names (`tuple[str, …]`): The classes that the data names, where labels are their numbers.

    Raises:
        [`InputError`]: A column is missing, a text or a label is, or it is not of its type.
    """
    if task.prepare is not None:
        row = task.prepare(row)
    found = {}
    for role in _roles(task, is_labelled):
        column = task.columns.get(role, role)
        # What may be missing is missing under its usual name: another one was asked for.
        if column not in row and not (role in ("answers", "aliases") or (role == "id" and column == "id")):
            raise InputError(f"there is no column {column!r} for the {role}, {columns_in(row)}")
        value = row.get(column)
        try:
            if role == "id":
                found[role] = str(number if value is None else value)
            elif role == "label":
                found["label"], found["label_kind"] = _READ_LABEL[task.task_type](value, task, class_names)
            else:
                found[role] = _READ[role](value)
        except InputError as error:
            raise InputError(f"column {column!r} {error}") from None
    return found


def _shown(value) -> str:
    """A value, as far as a line has room for it, and its type."""
    text = repr(value)
    return f"{text if len(text) <= 40 else text[:40] + '…'} ({type(value).__name__})"


def _text(value) -> str:
    if value is None or (isinstance(value, str) and not value.strip()):
        raise InputError("is empty")
    return _text_or_none(value)


def _text_or_none(value) -> str | None:
    if not isinstance(value, str | None):
        raise InputError(f"holds {_shown(value)}: a text is needed")
    _check_size(len(value or ""))
    return value and check_text(value)


def _check_size(count: int):
    if count > MOST_CHARACTERS:
        raise InputError(f"holds {count:,} characters: at most {MOST_CHARACTERS:,} can be read")


def _texts(value) -> list[str]:
    if value is None:
        raise InputError("is empty")
    if not isinstance(value, list):
        raise InputError(f"holds {_shown(value)}: a list of texts is needed")
    for item in value:
        if item is None:
            raise InputError("has a list with nothing in one of its places")
        if not isinstance(item, str):
            raise InputError(f"has a list that holds {_shown(item)}: a list of texts is needed")
    _check_size(sum(map(len, value)))
    return [check_text(item) for item in value]


def _answers(value) -> dict | None:
    if value is None:
        return None
    texts, starts = (value.get("text"), value.get("answer_start")) if isinstance(value, dict) else (None, None)
    # Of an answer that cannot be given there may be nothing at all.
    texts, starts = [[] if part is None and isinstance(value, dict) else part for part in (texts, starts)]
    is_squad = isinstance(value, dict) and "text" in value and isinstance(texts, list) and isinstance(starts, list)
    if (
        not is_squad
        or not all(isinstance(text, str | None) for text in texts)
        or not all(start is None or _is_int(start) for start in starts)
    ):
        raise InputError(f"holds {_shown(value)}: SQuAD's form is needed, {{'text': [...], 'answer_start': [...]}}")
    return {"text": texts, "answer_start": starts}


def _is_int(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_READ = {
    **dict.fromkeys(("text", "text_pair", "question", "query", "answer"), _text),
    # A question without a document is one that cannot be answered, and counted as such.
    "context": _text_or_none,
    **dict.fromkeys(("tokens", "candidates", "supports"), _texts),
    "aliases": lambda value: None if value is None else _texts(value),
    "answers": _answers,
}


def _class(value, task: Task, class_names: tuple[str, ...]) -> tuple[str, str]:
    """The name of a class, and what stood for it. A number means a class where the data or the task names it so."""
    text = check_text(value.strip()) if isinstance(value, str) else str(value)
    if value is None or not text:
        raise InputError("is empty")
    if not isinstance(value, str | int):
        hint = " (--kind regression takes other numbers)" if isinstance(value, float) else ""
        raise InputError(f"holds {_shown(value)}: classes are texts or whole numbers{hint}")
    if isinstance(value, bool):
        return text, "a truth value"
    # csv has texts alone.
    is_number = isinstance(value, int) or re.fullmatch(r"[+-]?[0-9]+", text)
    names = class_names if isinstance(value, int) and class_names else task.label_names if is_number else ()
    if names:
        # `00` is none of them, nor a class of its own among them.
        if not _is_whole(text) or int(text) not in range(len(names)):
            raise InputError(f"holds {_shown(value)}: the classes are 0 to {len(names) - 1}, {', '.join(names[:20])}")
        return names[int(text)], "a number"
    return (value, "a text") if isinstance(value, str) else (text, "a number")


def _is_whole(text: str) -> bool:
    # As `str` writes it; with more digits it is a name.
    return re.fullmatch(r"0|-?[1-9][0-9]{0,17}", text) is not None


def _classes(value, task: Task, class_names: tuple[str, ...]) -> tuple[list[str], str | None]:
    found = [_class(item, task, class_names) for item in value]
    kinds = list(dict.fromkeys(kind for _, kind in found))
    if len(kinds) > 1:
        raise InputError(f"has a list with {kinds[0]} and {kinds[1]}: {_shown(value)}")
    return [name for name, _ in found], f"a list, of {kinds[0]} each" if kinds else None


def _single_label(value, task: Task, class_names: tuple[str, ...]) -> tuple[str, str]:
    if isinstance(value, list):
        raise InputError(f"holds lists, {_shown(value)}: use --kind multi_label or token_classification")
    return _class(value, task, class_names)


def _multi_label(value, task: Task, class_names: tuple[str, ...]) -> tuple[list[str], str | None]:
    if isinstance(value, list):
        return _classes(value, task, class_names)
    text, kind = _class(value, task, class_names)
    return [part.strip() for part in text.split(task.label_separator) if part.strip()], kind


def _token_labels(value, task: Task, class_names: tuple[str, ...]) -> tuple[list[str], str | None]:
    if not isinstance(value, list):
        raise InputError(f"holds {_shown(value)}: token classification needs a list of labels per row")
    return _classes(value, task, class_names)


def _number(value, task: Task, class_names: tuple[str, ...]) -> tuple[float, None]:
    # Python alone takes `12_5` and the digits of other scripts for numbers.
    is_number = not isinstance(value, bool | str) or (isinstance(value, str) and value.isascii() and "_" not in value)
    try:
        number = float(value) if is_number else math.nan
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError("is empty" if value is None else f"holds {_shown(value)}: regression needs finite numbers")
    return number, None


_READ_LABEL = {
    "single_label": _single_label,
    "multi_label": _multi_label,
    "token_classification": _token_labels,
    "regression": _number,
}


def without_blanks(rows: Dataset) -> tuple[Dataset, list[str]]:
    """The rows without blanks around their labels, which make no class of their own; and the ids of those that had any."""
    labels, ids = rows["label"][:], rows["id"][:]
    stripped = [[name.strip() for name in label] if isinstance(label, list) else label.strip() for label in labels]
    changed = [row_id for row_id, before, after in zip(ids, labels, stripped, strict=True) if before != after]
    return (_with_labels(rows, stripped), changed) if changed else (rows, [])


def _with_labels(rows: Dataset, labels: list) -> Dataset:
    return rows.remove_columns("label").add_column("label", labels, feature=rows.features["label"])


def hold_out(splits: dict[str, Dataset], fraction: float, seed: int) -> dict[str, Dataset]:
    """
    The splits with a validation set, drawn from the training set where there is none: with a like share of every class, where
    rows have one each and it has a place for all.
    """
    if "validation" in splits:
        return splits
    train = splits["train"]
    if len(train) < 2:
        raise InputError("one training document is too few to hold any out: give --validation-file")
    count = max(1, round(len(train) * fraction))
    if count == len(train):
        raise InputError(f"--validation-fraction {fraction} of {len(train)} training documents leaves none to train on")
    numbers = np.arange(len(train))
    kept, held_out = train_test_split(numbers, test_size=count, random_state=seed, stratify=_strata(train, count))
    parts = {"train": train.select(np.sort(kept)), "validation": train.select(np.sort(held_out))}
    return {**parts, **{name: rows for name, rows in splits.items() if name != "train"}}


def _strata(train: Dataset, count: int) -> np.ndarray | None:
    """The class of every row; a class of a single row, which has no like, counts to the largest one."""
    if train.features.get("label") != TEXT:
        return None
    _, classes, sizes = np.unique(train["label"][:], return_inverse=True, return_counts=True)
    classes = np.where(sizes[classes] == 1, sizes.argmax(), classes)
    return classes if len(np.unique(classes)) <= min(count, len(train) - count) and sizes.max() > 1 else None


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


def class_names(train: Split, task: Task) -> tuple[str, ...]:
    """
    The classes in the order of their numbers: the data's own names or the task's, otherwise every label of the training
    set, sorted; as numbers, where all of them are.

    Raises:
        [`InputError`]: A single class.
    """
    labels = train.rows["label"][:]
    values = (
        {value for row in labels for value in row} if isinstance(train.rows.features["label"], List) else set(labels)
    )
    names = train.class_names or (task.label_names if values <= set(task.label_names) else ())
    if not values:
        raise InputError(f"no row of the training set has anything in column {task.columns['label']!r}")
    if len(values) < 2 and (task.task_type == "single_label" or not (names or task.task_type == "multi_label")):
        only = ", ".join(map(repr, sorted(values)))
        raise InputError(f"the training set has a single class, {only}: there is nothing to learn")
    return names or tuple(sorted(values, key=int if all(map(_is_whole, values)) else None))


def check_labels(split: Split, names: tuple[str, ...]):
    """Raise an [`InputError`], with the row, for a label that is none of `names`."""
    known = set(names)
    is_list = isinstance(split.rows.features["label"], List)
    for number, label in enumerate(split.rows["label"][:]):
        unknown = [name for name in (label if is_list else [label]) if name not in known]
        if unknown:
            classes = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
            raise InputError(
                f"{split.place(number)}: the label {unknown[0]!r:.40} is none of the training set's: {classes}"
            )
