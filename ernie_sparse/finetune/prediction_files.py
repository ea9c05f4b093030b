# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Files of predictions: kept as they come, so that a run that was killed goes on, and written as a whole at the end."""

import csv
import io
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import InputError
from ..files import check_place

# There may be as many reasons as rows.
COUNTED_REASONS = 1000
SAME_ID = "rows of an id that stood before, of which json keeps the last"
# What no cell of csv can hold.
NESTED = ("scores", "entities", "n_best")


def empty_prediction(row_id: str, reason: str, fields: tuple[str, ...]) -> dict:
    """What stands in the place of a row that cannot be predicted."""
    return {"id": row_id, **dict.fromkeys(fields), "error": reason}


def check_target(target: Path):
    """Raise an [`InputError`] where `target` has a format that is not written, or exists, or cannot be written."""
    if target.suffix.lower() not in WRITERS:
        raise InputError(f"--output-file {target}: {', '.join(WRITERS)} can be written")
    if target.exists():
        raise InputError(f"--output-file {target} exists already: name another one")
    check_place(target, f"--output-file {target}")


class PredictionFile:
    """
    Predictions that become `target` when all of them are there. Until then they stand in `TARGET.partial.jsonl`, behind a
    line that says which run they are of. They stay there where the run ends early, and the next one goes on behind them.

    It is used with `with`, which keeps others out of the file, and leaves nothing behind where there is no prediction.

    Args:
        target (`Path`): Its suffix is its format.
        fields (`tuple[str, …]`): What a prediction has beside its `id`.
        identity (`dict`): All that decides the predictions, in values of JSON.

    Raises:
        [`InputError`]: On entering: another prediction writes the file, or it exists, or what is kept is of another run.
    """

    def __init__(self, target: Path, fields: tuple[str, ...], identity: dict):
        self.target, self.fields, self.identity = target, fields, json.loads(json.dumps(identity))
        self.partial = target.with_name(f"{target.name}.partial.jsonl")
        self.lock = FileLock(target.with_name(f"{target.name}.partial.lock"))
        self.count = 0

    def __enter__(self) -> "PredictionFile":
        self.target.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.lock.acquire(timeout=0)
        except Timeout:
            raise InputError(f"--output-file {self.target} is being written by another prediction") from None
        try:
            # Now that no other can: one may just have come to its end.
            check_target(self.target)
            length = self._find_end() if self.partial.exists() else 0
            self.file = open(self.partial, "ab")
            self.file.truncate(length)
            if length == 0:
                self._append([{"run": self.identity}])
        except BaseException:
            self._unlock()
            raise
        return self

    def __exit__(self, kind, *error):
        try:
            self.file.close()
        finally:
            if self.count == 0:
                self.partial.unlink(missing_ok=True)
            elif kind is not None:
                # What is to be mended by the user is so in the next run as well; a mended file is another one.
                then = (
                    f"once the input file is mended, which makes another run of it, delete {self.partial}"
                    if issubclass(kind, InputError)
                    else "the same command resumes after them"
                )
                print(f"{self.count} predictions are kept: {then}", file=sys.stderr)
            self._unlock()

    def _unlock(self):
        # Some systems do not let go of an open file's name.
        with suppress(OSError):
            os.unlink(self.lock.lock_file)
        self.lock.release()

    def _find_end(self) -> int:
        """Where the last whole prediction ends, and 0 where even the first line is torn; counts the predictions."""
        length = 0
        with open(self.partial, "rb") as file:
            for number, line in enumerate(file):
                content = _parse(line)
                if number == 0:
                    if line.endswith(b"\n") or not line.startswith(b'{"run": '):
                        self._check_same(content)
                if content is None:
                    break
                self.count, length = number, length + len(line)
        return length

    def _check_same(self, first: dict | None):
        earlier = (first or {}).get("run")
        if not isinstance(earlier, dict):
            raise InputError(
                f"{self.partial} holds no predictions of this command, which would write there: move it away"
            )
        changed = [
            f"{name} {earlier.get(name)!r} and not {self.identity.get(name)!r}"
            for name in {**earlier, **self.identity}
            if earlier.get(name) != self.identity.get(name)
        ]
        if changed:
            raise InputError(
                f"{self.partial} holds predictions of another run, with {', '.join(changed)}: delete it, or name another "
                "--output-file"
            )

    def _append(self, records: list[dict]):
        text = "".join(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n" for record in records)
        self.file.write(text.encode())
        self.file.flush()

    def add(self, records: list[dict]):
        """Keep more predictions. Each may have `notes`, which are counted in the end and not written."""
        self._append(records)
        self.count += len(records)

    def finish(self) -> tuple[Counter, Counter]:
        """Write the target; how many rows have which error ("" for the rarer ones of very many), and which note."""
        self.file.close()
        errors, notes, seen = Counter(), Counter(), set()
        temporary = self.target.with_name(f"{self.target.name}.partial")
        writer = WRITERS[self.target.suffix.lower()]
        try:
            with open(temporary, "w", newline="", encoding="utf-8") as file:
                for number, record in enumerate(self._records()):
                    notes.update(record.pop("notes", ()))
                    if "error" in record:
                        is_counted = record["error"] in errors or len(errors) < COUNTED_REASONS
                        errors[record["error"] if is_counted else ""] += 1
                    if writer is _json_entry:
                        key = hash(record["id"])
                        notes.update([SAME_ID] if key in seen else ())
                        seen.add(key)
                    file.write(writer(record, self.fields, is_first=number == 0))
                if writer is _json_entry:
                    file.write("\n}\n")
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        temporary.replace(self.target)
        self.partial.unlink()
        return errors, notes

    def _records(self) -> Iterator[dict]:
        with open(self.partial, "rb") as file:
            next(file)
            yield from map(json.loads, file)


def _parse(line: bytes) -> dict | None:
    """The object of a whole line; `None` where it is torn or is none."""
    try:
        content = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _csv_row(row: dict, fields: tuple[str, ...], is_first: bool) -> str:
    names = ["id", *(name for name in fields if name not in NESTED), "error"]
    values = [row.get(name) for name in names]
    cells = ["|".join(value) if isinstance(value, list) else value for value in values]
    return (_csv_line(names) if is_first else "") + _csv_line(cells)


def _csv_line(cells: list) -> str:
    buffer = io.StringIO()
    # Cells with either of these characters are quoted.
    csv.writer(buffer, lineterminator="\r\n").writerow(cells)
    return buffer.getvalue().removesuffix("\r\n") + "\n"


def _jsonl_row(row: dict, fields: tuple[str, ...], is_first: bool) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _json_entry(row: dict, fields: tuple[str, ...], is_first: bool) -> str:
    value = row["answer"] if "answer" in row else {name: part for name, part in row.items() if name != "id"}
    entry = f"{json.dumps(row['id'], ensure_ascii=False)}: {json.dumps(value, ensure_ascii=False)}"
    return ("{\n" if is_first else ",\n") + entry


WRITERS = {".csv": _csv_row, ".jsonl": _jsonl_row, ".json": _json_entry}
