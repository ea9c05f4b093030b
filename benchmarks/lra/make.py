# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The files of tasks that are generated. Beside them stands `SHA256SUMS`, in the form of the tool sha256sum."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from ernie_sparse.errors import InputError

from . import pathfinder
from .listops import ListOpsShape, generate
from .pathfinder import PathfinderShape

# Long Range Arena's sizes.
LISTOPS_SIZES = {"train": 96_000, "val": 2_000, "test": 2_000}
PATHFINDER_SIZES = {"train": 160_000, "val": 20_000, "test": 20_000}
SUMS = "SHA256SUMS"
# Height and width of Pathfinder's images, after which the file is named.
PIXELS = 32
# Images that a process draws at once: some seconds of work.
CHUNK = 250


def make_listops(
    folder: str | Path, seed: int = 0, sizes: Mapping[str, int] | None = None, shape: ListOpsShape | None = None
) -> list[Path]:
    """
    Write `basic_train.tsv`, `basic_val.tsv` and `basic_test.tsv` in the layout of the official archive: one set of distinct
    trees, cut in that order, as `Source` and `Target` behind a header. All three or none.

    Raises:
        [`InputError`]: A size below 1, a folder that is a file, or one that holds such files already.
    """
    sizes = _all_sizes(LISTOPS_SIZES, sizes)
    rows = generate(seed, shape)
    with _new_files(Path(folder), [f"basic_{name}.tsv" for name in sizes]) as (paths, unfinished):
        with tqdm(total=sum(sizes.values()), desc="Drawing ListOps", unit=" rows") as progress:
            for path, size in zip(unfinished, sizes.values(), strict=True):
                with open(path, "w", newline="\n") as file:
                    file.write("Source\tTarget\n")
                    for source, target in islice(rows, size):
                        file.write(f"{source}\t{target}\n")
                        progress.update()
    return paths


def make_pathfinder(
    folder: str | Path,
    seed: int = 0,
    sizes: Mapping[str, int] | None = None,
    shape: PathfinderShape | None = None,
    processes: int | None = None,
) -> list[Path]:
    """
    Write `pathfinder32.npz`: the images of index 0 and so on as `x_train`, `x_val` and `x_test`, of type `uint8` and shape
    `(images, 32, 32)`, and their labels as `y_train` and so on. `processes` (all cores) changes nothing but the time.

    Raises:
        [`InputError`]: As for `make_listops`.
        `ValueError`: Images of another size, or a shape of which no pair of curves fits.
    """
    sizes, shape = _all_sizes(PATHFINDER_SIZES, sizes), shape or PathfinderShape()
    if shape.size != PIXELS:
        raise ValueError(f"size is {shape.size}: the images of the file are {PIXELS} pixels wide")
    total = sum(sizes.values())
    images, labels = np.empty((total, PIXELS, PIXELS), dtype=np.uint8), np.empty(total, dtype=np.uint8)
    ends = np.cumsum(list(sizes.values())).tolist()
    chunks = [range(start, min(start + CHUNK, total)) for start in range(0, total, CHUNK)]
    with _new_files(Path(folder), ["pathfinder32.npz"]) as (paths, unfinished):
        with tqdm(total=total, desc="Drawing Pathfinder", unit=" images") as progress:
            for chunk, rows in zip(chunks, _draw_images(seed, shape, chunks, processes or _cores()), strict=True):
                for index, (image, label) in zip(chunk, rows, strict=True):
                    images[index], labels[index] = image, label
                progress.update(len(chunk))
        arrays = {}
        for name, start, end in zip(sizes, [0, *ends], ends, strict=False):
            arrays |= {f"x_{name}": images[start:end], f"y_{name}": labels[start:end]}
        # An open file, for numpy gives a name the suffix it misses.
        with open(unfinished[0], "wb") as file:
            np.savez_compressed(file, **arrays)
    return paths


GENERATED = {"listops": make_listops, "pathfinder": make_pathfinder}
SIZES = {"listops": LISTOPS_SIZES, "pathfinder": PATHFINDER_SIZES}


def _draw_images(
    seed: int, shape: PathfinderShape, chunks: list[range], processes: int
) -> Iterator[list[tuple[np.ndarray, int]]]:
    """The images and their labels by chunks, in order."""
    draw, processes = partial(_draw_chunk, seed, shape), min(processes, len(chunks))
    if processes == 1:
        yield from map(draw, chunks)
        return
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(draw, chunks)


def _draw_chunk(seed: int, shape: PathfinderShape, chunk: range) -> list[tuple[np.ndarray, int]]:
    return list(islice(pathfinder.generate(seed, shape, chunk.start), len(chunk)))


def _cores() -> int:
    """Those this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _all_sizes(defaults: Mapping[str, int], sizes: Mapping[str, int] | None) -> dict[str, int]:
    """The rows of every split."""
    sizes = {**defaults, **(sizes or {})}
    for name, size in sizes.items():
        if name not in defaults:
            raise ValueError(f"{name!r} is none of the splits {', '.join(defaults)}")
        if size < 1:
            raise InputError(f"{size} rows for {name}: at least 1 is needed")
    return sizes


@contextmanager
def _new_files(folder: Path, names: list[str]) -> Iterator[tuple[list[Path], list[Path]]]:
    """
    Files to be, and where to write them meanwhile. Without an error they take their names, and their checksums are
    written; with one nothing is left.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file")
    paths = [folder / name for name in (*names, SUMS)]
    there = [str(path) for path in paths if path.exists()]
    if there:
        raise InputError(f"{', '.join(there)} exists already: remove it or name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = [path.with_name(f"{path.name}.partial") for path in paths]
    try:
        yield paths[:-1], unfinished[:-1]
        lines = [f"{checksum(path)}  {name}\n" for path, name in zip(unfinished, names, strict=False)]
        unfinished[-1].write_text("".join(lines), newline="\n")
        for temporary, path in zip(unfinished, paths, strict=True):
            temporary.replace(path)
    finally:
        for temporary in unfinished:
            temporary.unlink(missing_ok=True)


def checksum(path: Path, algorithm: str = "sha256") -> str:
    """Of a file, in hexadecimal digits."""
    digest = hashlib.new(algorithm)
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()
