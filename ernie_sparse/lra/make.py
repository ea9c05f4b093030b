# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The files of tasks that are generated, in the layout of the official archive."""

from collections.abc import Mapping
from itertools import islice
from pathlib import Path

from tqdm.auto import tqdm

from .listops import ListOpsShape, generate

# Long Range Arena's sizes.
LISTOPS_SIZES = {"train": 96_000, "val": 2_000, "test": 2_000}


def make_listops(
    folder: str | Path, seed: int = 0, sizes: Mapping[str, int] | None = None, shape: ListOpsShape | None = None
) -> list[Path]:
    """
    Write `basic_train.tsv`, `basic_val.tsv` and `basic_test.tsv`: one set of distinct trees, cut in that order, as `Source`
    and `Target` behind a header. All three or none.

    Raises:
        `ValueError`: A size below 1, a folder that is a file, or one that holds such files already.
    """
    sizes, folder = {**LISTOPS_SIZES, **(sizes or {})}, Path(folder)
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{size} rows for {name}: at least 1 is needed")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file")
    paths = [folder / f"basic_{name}.tsv" for name in sizes]
    there = [str(path) for path in paths if path.exists()]
    if there:
        raise ValueError(f"{', '.join(there)} exists already: remove it or name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    partial = [path.with_name(f"{path.name}.partial") for path in paths]
    rows = generate(seed, shape)
    try:
        with tqdm(total=sum(sizes.values()), desc="Drawing ListOps", unit=" rows") as progress:
            for path, size in zip(partial, sizes.values(), strict=True):
                with open(path, "w", newline="\n") as file:
                    file.write("Source\tTarget\n")
                    for source, target in islice(rows, size):
                        file.write(f"{source}\t{target}\n")
                        progress.update()
        for temporary, path in zip(partial, paths, strict=True):
            temporary.replace(path)
    finally:
        for temporary in partial:
            temporary.unlink(missing_ok=True)
    return paths
