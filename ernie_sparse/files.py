# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Files and folders: read with a word for what is damaged, written as a whole or not at all."""

import json
import os
import shutil
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError

from filelock import FileLock, Timeout
from huggingface_hub.errors import StrictDataclassError
from safetensors import safe_open
from tokenizers import Tokenizer

from .errors import InputError, reason_of

# What lies in the folder of a model, the file first that is to blame where each is whole by itself.
CONFIG_FILES = ("config.json",)
TOKENIZER_FILES = (
    *("tokenizer_config.json", "tokenizer.json", "vocab.txt", "vocab.json"),
    *("sentencepiece.bpe.model", "spiece.model", "tokenizer.model"),
)
WEIGHT_FILES = ("model*.safetensors", "pytorch_model*.bin", "*.index.json")
LOCK_NAME = ".lock"
# What is ready to be moved, below the folder of `whole_folder`.
COMPLETE = "complete"
# What stood there before it.
PREVIOUS = "previous"


def read_json(path: Path) -> dict:
    """The object of a file of JSON. Raises a `ValueError` that says why where it holds none."""
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
    except UnicodeDecodeError:
        raise ValueError("it is no text in UTF-8") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"it is no JSON: {error}" if text.strip() else "it is empty") from None
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")
    return content


def fault_of_form(path: Path) -> str | None:
    """Why a file is not what its name says, as far as its form tells; `None` where nothing is wrong with it."""
    try:
        if path.name == "tokenizer.json":
            if "added_tokens" not in read_json(path):
                raise ValueError("it lacks added_tokens")
            Tokenizer.from_file(str(path))
        elif path.suffix == ".json":
            read_json(path)
        elif path.suffix == ".safetensors":
            with safe_open(path, "pt"):
                pass
        elif path.suffix in (".pt", ".pth", ".bin"):
            with zipfile.ZipFile(path) as file:
                if (bad := file.testzip()) is not None:
                    raise zipfile.BadZipFile(f"{bad} has another checksum")
        else:
            path.open("rb").close()
    except Exception as error:  # The tokenizers library raises `Exception` itself.
        return "it is a folder" if path.is_dir() else reason_of(error, 100)
    return None


@contextmanager
def reading(about: str, folder: str | Path, files: Collection[str], *errors: type[Exception]) -> Iterator[None]:
    """
    Raise what is raised inside, where files of the user's are read, as an [`InputError`] that names the file to blame: the first
    that is damaged or, where each is whole by itself, the first that there is.

    Args:
        about (`str`): What stands before the message, such as the flag and its value.
        folder (`str` or `Path`): Where the files lie; a hub id has none to name.
        files (`Collection[str]`): Their names, as patterns.
        errors (`type[Exception]`): What to catch; every `Exception` when nothing is given, for libraries raise many.
    """
    caught = errors or (Exception,)
    try:
        yield
    except (InputError, MemoryError):
        raise
    except BaseException as error:
        # What a library in Rust has not foreseen is no `Exception`.
        if not isinstance(error, caught) and type(error).__name__ != "PanicException":
            raise
        raise InputError(f"{about}: {_blame(Path(folder), files, error)}") from error


def _blame(folder: Path, files: Collection[str], error: BaseException) -> str:
    """Which of some files has made a library raise an error, and why."""
    if isinstance(error, OSError) and not folder.exists():
        return f"there is no such folder here, and from the Hub it cannot be had: {reason_of(error)}"
    paths = [path for name in files for path in sorted(folder.glob(name))] if folder.is_dir() else []
    for path in paths:
        fault = fault_of_form(path)
        if fault is not None:
            return f"{path} is damaged ({fault}): put a whole copy in its place"
    if isinstance(error, StrictDataclassError) and folder.is_dir():
        paths = [folder / name for name in CONFIG_FILES]
    # Weights that are whole may be other ones than the config says of, or the config be wrong.
    is_blamed = paths and (paths[0].suffix not in (".safetensors", ".bin") or isinstance(error, UnpicklingError))
    return f"{paths[0]}: {reason_of(error)}" if is_blamed else reason_of(error)


def check_place(path: Path, about: str) -> Path:
    """
    The nearest folder above `path` that there is.

    Raises:
        [`InputError`]: It begins with `about`, such as the flag and its value: nothing can be written there.
    """
    nearest = next(folder for folder in path.absolute().parents if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise InputError(f"{about} cannot be written: {nearest} is {'read-only' if nearest.is_dir() else 'a file'}")
    return nearest


def check_folder(path: Path, flag: str):
    """Raise an [`InputError`] unless `path`, which `flag` names, is a folder to write into, or can be made one."""
    if path.exists() and not path.is_dir():
        raise InputError(f"{flag} {path} is a file: a folder is needed")
    check_place(path, f"{flag} {path}")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Where to write a file that is to stand in `path` when all of it is there, and not before; its folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Some writers see by a name's end what to write.
    temporary = path.with_name(f"{path.name}.partial")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str):
    """Write a file of text as a whole or not at all."""
    # A path that is no UTF-8 came in so, and goes out as it was.
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")


@contextmanager
def whole_folder(out: Path, above: Path, replaces: bool = False) -> Iterator[Path]:
    """
    A new folder to fill, which becomes `out` when all of it is there, and nothing where it ends otherwise. What an earlier command
    has left that was killed is removed; of one that still writes there nothing is touched.

    Args:
        out (`Path`)
        above (`Path`): A folder above `out` that there is, on the same disk.
        replaces (`bool`): Whether what stands in `out` is removed; else it must be empty.

    Raises:
        [`InputError`]: Another command writes to `out`, or something else has the name of what it is prepared in.
    """
    prepared = above / f".{out.name}.partial"
    if prepared.exists() and not _is_left_over(prepared):
        raise InputError(f"{prepared} is in the way of {out}, which is prepared there: move it away")
    prepared.mkdir(exist_ok=True)
    lock = FileLock(prepared / LOCK_NAME, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(f"{out} is being written by another command") from None
    try:
        complete, previous = prepared / COMPLETE, prepared / PREVIOUS
        for leftover in (complete, previous):
            shutil.rmtree(leftover, ignore_errors=True)
        complete.mkdir()
        yield complete
        open_to_readers(complete)
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.exists():
            if replaces:
                out.replace(previous)
            else:
                out.rmdir()
        complete.replace(out)
    finally:
        shutil.rmtree(prepared, ignore_errors=True)
        lock.release()


def _is_left_over(prepared: Path) -> bool:
    """Whether this is a folder of [`whole_folder`], which takes the lock before it writes anything."""
    names = {path.name for path in prepared.iterdir()} if prepared.is_dir() else {""}
    return not names or LOCK_NAME in names <= {LOCK_NAME, COMPLETE, PREVIOUS}


def open_to_readers(folder: Path):
    """
    Give the files of weights in `folder` the mode of any new file, which the user's umask decides: safetensors makes them
    readable by their owner alone.
    """
    mask = os.umask(0o077)
    os.umask(mask)
    for path in folder.glob("*.safetensors"):
        path.chmod(0o666 & ~mask)
