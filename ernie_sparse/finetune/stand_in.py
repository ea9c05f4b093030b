"""To be dropped: stands in for the reader that is being written."""

import csv, json
from pathlib import Path
from datasets import Features, List, Value
from ..errors import InputError

S, L = Value("string"), List(Value("string"))
ROLES = {
    "single_label": ("text",),
    "multi_label": ("text",),
    "regression": ("text",),
    "token_classification": ("tokens",),
    "question_answering": ("question", "context"),
    "candidate_choice": ("query", "candidates", "supports"),
}
LISTS = ("tokens", "candidates", "supports")


def read_rows(path):
    suffix = Path(path).suffix.lower()
    if suffix == ".csv":
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            names = next(reader)
            if len(set(names)) < len(names):
                raise InputError(f"the header of {path} names the column 'text' twice")
            for cells in reader:
                if not cells:
                    continue
                if len(cells) > len(names):
                    yield InputError(f"{len(cells)} cells and {len(names)} columns")
                else:
                    yield dict.fromkeys(names) | {n: c or None for n, c in zip(names, cells)}
    elif suffix == ".parquet":
        import pyarrow.parquet as pq

        for batch in pq.ParquetFile(path).iter_batches(256):
            yield from batch.to_pylist()
    elif suffix == ".json":
        yield from json.loads(Path(path).read_text())
    else:
        with open(path, encoding="utf-8") as file:
            for line in file:
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except ValueError as error:
                    yield InputError(f"no JSON object: {error}")
                else:
                    yield row if isinstance(row, dict) else InputError("no JSON object")


def _roles(task):
    return (*ROLES[task.task_type], *(["text_pair"] if "text_pair" in task.columns else []))


def row_by_role(row, task, number, is_labelled):
    found = {}
    id_column = task.columns.get("id", "id")
    if id_column != "id" and id_column not in row:
        raise InputError(f"there is no column {id_column!r} for the id, only {', '.join(map(repr, row))}")
    value = row.get(id_column)
    found["id"] = str(number if value is None else value)
    for role in _roles(task):
        column = task.columns[role]
        if column not in row:
            raise InputError(f"there is no column {column!r} for the {role}, only {', '.join(map(repr, row))}")
        value = row[column]
        if role == "context" and value is None:
            value = ""
        if value is None or (isinstance(value, str) and not value.strip() and role != "context"):
            raise InputError(f"column {column!r} is empty")
        if not isinstance(value, list if role in LISTS else str):
            raise InputError(
                f"column {column!r} holds {type(value).__name__}: {role} has to be {'a list of strings' if role in LISTS else 'a string'}"
            )
        if role in LISTS and not all(isinstance(v, str) for v in value):
            raise InputError(f"column {column!r} holds a list with something else than strings")
        found[role] = value
    return found


def row_features(task, is_labelled):
    return Features({"id": S, **{role: L if role in LISTS else S for role in _roles(task)}})
