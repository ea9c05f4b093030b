# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The data of Long Range Arena: what is refused, with the file, its place and the remedy named, and checksums."""

import hashlib
import io
import itertools
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image
from test_lra_data import (
    EASY,
    SMALL,
    TASK_OF,
    WRITERS,
    write_archive,
    write_drawings,
    write_image,
    write_pairs,
)

from benchmarks.lra import data, make
from benchmarks.lra.data import load_task, where_to_get
from benchmarks.lra.make import make_listops, make_pathfinder
from benchmarks.lra.tasks import TASKS
from ernie_sparse.errors import InputError


def refused(name: str, folder: Path | None, words: str, **arguments):
    with pytest.raises(InputError, match=words) as error:
        load_task(name, folder, **arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_names_limits_and_folders_that_cannot_be(tmp_path):
    refused("chess", tmp_path, "'chess' is none of the tasks listops, text")
    refused("text", tmp_path, "'val' is none of the splits", limits={"val": 3})
    refused("text", tmp_path, "0 rows for test", limits={"test": 0})
    (tmp_path / "file").touch()
    refused("text", tmp_path / "file", "file is a file: a folder is needed")
    for name in TASKS:
        message = refused(name, tmp_path / "none", f"{tmp_path}/none: there is no such folder")
        assert where_to_get(name) in message
        # An empty folder is filled only where nobody named it.
        assert where_to_get(name) in refused(name, tmp_path, "there is no such file|has neither")


def line_changed(number: int, old: str, new: str):
    def change(content: bytes) -> bytes:
        lines = content.decode().splitlines(keepends=True)
        assert re.search(old, lines[number - 1])
        lines[number - 1] = re.sub(old, new, lines[number - 1])
        return "".join(lines).encode()

    return change


def table(**columns):
    def change(content: bytes) -> bytes:
        file = io.BytesIO()
        Dataset.from_dict(columns).to_parquet(file)
        return file.getvalue()

    return change


def arrays(**changes):
    """Arrays of a .npz file replaced by what a function makes of them; without it, left out."""

    def change(content: bytes) -> bytes:
        found = dict(np.load(io.BytesIO(content)))
        for name, function in changes.items():
            value = found.pop(name)
            if function is not None:
                found[name] = function(value)
        file = io.BytesIO()
        np.savez(file, **found)
        return file.getvalue()

    return change


def png(array) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "png")
    return file.getvalue()


class Runs:
    def __reduce__(self):
        return os.mkdir, ("was_run",)


PNG = "curv_contour_length_14/imgs/2/sample_1.png"
LINES = "curv_contour_length_14/metadata/2.npy"
BATCH = "cifar-10-batches-py/data_batch_2"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, file, change, words",
    [
        ("listops", "basic_val.tsv", None, "basic_val.tsv: there is no such file"),
        ("listops", "basic_val.tsv", lambda _: b"", "basic_val.tsv is empty"),
        ("listops", "basic_val.tsv", lambda _: b"Source\tTarget\n", "basic_val.tsv has no rows behind its header"),
        ("listops", "basic_train.tsv", lambda c: c.partition(b"\n")[2], "basic_train.tsv, line 1 is .* the header"),
        ("listops", "basic_train.tsv", line_changed(1, "Target", "Value"), "line 1 is .* the header"),
        ("listops", "basic_train.tsv", lambda c: c[:-9], "basic_train.tsv, line 8 has no target .* cut off"),
        ("listops", "basic_train.tsv", lambda c: c[:-2], "basic_train.tsv, line 8 has no target .* cut off"),
        ("listops", "basic_train.tsv", line_changed(8, r"\] \)\t", "\t"), "line 8: its brackets do not close"),
        ("listops", "basic_train.tsv", line_changed(8, r"\] \)\t", "] ] )\t"), "line 8: its brackets do not close"),
        ("listops", "basic_train.tsv", line_changed(8, r".*\t", "] [MAX\t"), "line 8: its brackets do not close"),
        ("listops", "basic_train.tsv", line_changed(8, r".*\t", "1 2\t"), "line 8: its brackets do not close"),
        (
            "listops",
            "basic_test.tsv",
            line_changed(3, r" \[\w+ ", " [AVG "),
            r"basic_test.tsv, line 3: '\[AVG' is no symbol",
        ),
        ("listops", "basic_test.tsv", line_changed(3, r".*\t", "( )\t"), "line 3 has no symbols"),
        ("listops", "basic_test.tsv", line_changed(2, r"\t\d", "\t10"), "line 2: the label '10' is none of 0 to 9"),
        ("listops", "basic_test.tsv", line_changed(2, r"\t\d", "\tx"), "line 2: the label 'x' is none of 0 to 9"),
        ("listops", "basic_test.tsv", lambda c: c + b"\xff\t1\n", "could not read .*basic_test.tsv"),
        ("text", "train.parquet", None, "has neither .*train,test.*parquet"),
        ("text", "test.parquet", None, "has no file test.parquet beside its file train.parquet"),
        (
            "text",
            "test.parquet",
            table(text=["a"], stars=[1]),
            "test.parquet, row 0: there is no column 'label', only 'text', 'stars'",
        ),
        ("text", "test.parquet", table(text=["a", ""], label=[1, 1]), "test.parquet, row 2: the text is empty"),
        ("text", "test.parquet", table(text=["a", " \n"], label=[1, 1]), "row 2: the text is "),
        ("text", "test.parquet", table(text=["a", None], label=[1, 1]), "row 2: the text is empty"),
        ("text", "test.parquet", table(text=["a", "b"], label=[1, -1]), "row 2: the label '-1' is none of 0 to 1"),
        (
            "text",
            "test.parquet",
            table(text=["a", "b"], label=["1", "pos"]),
            "row 2: the label 'pos' is none of 0 to 1",
        ),
        ("text", "test.parquet", table(text=["a", "b"], label=[1, None]), "row 2: the label None is none of 0 to 1"),
        ("text", "test.parquet", lambda c: c[: len(c) // 2], "could not read .*test.parquet: "),
        ("pairs", "new_aan_pairs.eval.tsv", None, "new_aan_pairs.eval.tsv: there is no such file"),
        ("pairs", "new_aan_pairs.eval.tsv", lambda c: c[:-20], "eval.tsv, line 2 has 4 columns and not 5"),
        ("pairs", "new_aan_pairs.eval.tsv", line_changed(1, "\n", "\tmore\n"), "line 1 has 6 columns and not 5"),
        (
            "pairs",
            "new_aan_pairs.test.tsv",
            line_changed(3, "^0.0", "2.0"),
            "line 3: the label '2.0' is none of 0 to 1",
        ),
        (
            "pairs",
            "new_aan_pairs.test.tsv",
            line_changed(3, "^0.0", "0.5"),
            "line 3: the label '0.5' is none of 0 to 1",
        ),
        ("pairs", "new_aan_pairs.test.tsv", line_changed(3, "other.*", " "), "line 3: document 2 is empty"),
        ("ids", "docs.parquet", None, "docs.parquet: there is no such file"),
        (
            "ids",
            "docs.parquet",
            table(id=["P0"], words=["a"]),
            "docs.parquet, row 0: there is no column 'text', only 'id', 'words'",
        ),
        ("ids", "docs.parquet", table(id=["P0"], text=["a"]), "line 2: docs.parquet has no paper 'P3'"),
        ("ids", "aan_pairs.test.tsv", line_changed(1, "id2", "id3"), "aan_pairs.test.tsv, line 1 is .* the header"),
        ("ids", "aan_pairs.test.tsv", line_changed(4, "\tP3\n", ""), "line 4 has 2 columns and not 3"),
        ("image", "gray.npz", None, "has neither a .npz file"),
        ("image", "gray.npz", arrays(y_test=None), "gray.npz has no array y_test, only x_train"),
        ("image", "gray.npz", arrays(x_train=lambda x: x / 255), r"x_train is float64 of shape \(20, 32, 32\)"),
        ("image", "gray.npz", arrays(x_train=lambda x: x.reshape(-1, 1024)), r"x_train is uint8 of shape \(20, 1024\)"),
        ("image", "gray.npz", arrays(y_train=lambda y: y[:-1]), r"labels are uint8 of shape \(19,\): 20 whole numbers"),
        ("image", "gray.npz", arrays(y_train=lambda y: y / 2), "labels are float64"),
        ("image", "gray.npz", arrays(y_test=lambda y: y + 8), r"x_test\[2\]: the label 10 is none of 0 to 9"),
        ("image", "gray.npz", arrays(x_test=lambda x: x[:0], y_test=lambda y: y[:0]), "the test split has no rows"),
        ("image", "gray.npz", arrays(x_train=lambda x: x[:1], y_train=lambda y: y[:1]), "too few to hold any out"),
        ("image", "gray.npz", lambda c: c[: len(c) // 2], "gray.npz cannot be read as .npz: it is damaged or cut off"),
        ("image", "gray.npz", lambda c: c.replace(c[3000:3100], bytes(100)), "cannot be read as .npz: it is damaged"),
        ("image", "gray.npz", lambda c: b"text", "gray.npz cannot be read as .npz"),
        ("batches", BATCH, None, "there is no file data_batch_2"),
        ("batches", BATCH, lambda c: c[:500], "data_batch_2 cannot be read as a batch of CIFAR-10"),
        ("batches", BATCH, lambda c: pickle.dumps({b"data": Runs()}), "cannot be read .*it asks for (posix|nt).mkdir"),
        ("pathfinder", "pathfinder32.npz", None, "has neither pathfinder32.npz nor curv_contour_length_14"),
        ("pathfinder", "pathfinder32.npz", arrays(x_val=None), "pathfinder32.npz has no array x_val"),
        ("pathfinder", "pathfinder32.npz", arrays(y_val=lambda y: y + 1), r"x_val\[1\]: the label 2 is none of 0 to 1"),
        ("drawings", PNG, None, "sample_1.png: there is no such file, and .*2.npy, line 2 names it"),
        ("drawings", PNG, lambda c: c[:200], "sample_1.png cannot be read as an image: it is damaged"),
        ("drawings", PNG, lambda c: png(np.zeros((16, 32), np.uint8)), r"sample_1.png has the shape \(16, 32\)"),
        ("drawings", LINES, line_changed(2, " 1 1 .*", " 1"), "2.npy, line 2 has 3 columns: at least 4"),
        ("drawings", LINES, line_changed(2, " 1 1 ", " 1 7 "), "sample_1.png: the label '7' is none of 0 to 1"),
    ],
)
def test_damaged_files_are_named(tmp_path, monkeypatch, name, file, change, words):
    monkeypatch.chdir(tmp_path)
    WRITERS[name](tmp_path)
    path, task = tmp_path / file, TASK_OF.get(name, name)
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes()))
    assert where_to_get(task) in refused(task, tmp_path, words)
    assert not Path("was_run").exists()


def test_other_wrong_files(tmp_path, monkeypatch):
    folder = tmp_path / "reviews"
    for split, name in itertools.product(("train", "test"), ("neg", "pos")):
        (folder / split / name).mkdir(parents=True)
        (folder / split / name / "0_1.txt").write_text("good")
    review = folder / "test" / "neg" / "0_1.txt"
    review.write_bytes(b"\xff")
    refused("text", folder, "test/neg/0_1.txt is not UTF-8")
    review.write_bytes(b"\n")
    refused("text", folder, "test/neg/0_1.txt is empty")
    review.unlink()
    refused("text", folder, "test/neg has no .txt files")
    write_archive(tmp_path / "archive")
    refused("image", tmp_path / "archive", "cifar-10-python.tar.gz: its md5 is not c58f30108f718f92721af3b95e74349a")
    write_image(tmp_path / "two")
    (tmp_path / "two" / "b.npz").touch()
    refused("image", tmp_path / "two", "b.npz, .*gray.npz: which one is meant")
    write_drawings(tmp_path / "drawings")
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    refused("pathfinder", tmp_path / "drawings", r"pip install pillow")


def test_the_images_of_pathfinder_are_no_cifar(tmp_path):
    make_pathfinder(tmp_path, sizes={"train": 2, "val": 1, "test": 1})
    refused("image", tmp_path, "pathfinder32.npz: these are the images of Pathfinder")


# Checksums


def test_checksums_are_checked_before_anything_is_read(tmp_path, monkeypatch):
    make_listops(tmp_path, seed=5, sizes={"train": 7, "val": 3, "test": 2}, shape=SMALL)
    assert len(load_task("listops", tmp_path)["train"]) == 7
    path = tmp_path / "basic_val.tsv"
    content = path.read_bytes()
    place = content.index(b"\t", 20) + 1
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    message = refused(
        "listops", tmp_path, "basic_val.tsv: its checksum is not the one in SHA256SUMS: it is damaged or was"
    )
    assert f"remove {tmp_path} and make it anew: python -m benchmarks.lra --make listops --out {tmp_path}" in message
    # It is the check and nothing else that sees the flipped bit.
    with monkeypatch.context() as patch:
        patch.setattr(data, "_check_sums", lambda name, folder: None)
        assert len(load_task("listops", tmp_path)["validation"]) == 3
    path.write_bytes(content)
    sums = (tmp_path / "SHA256SUMS").read_text()
    for rest in ("", sums[: sums.index("\n") + 1]):
        (tmp_path / "SHA256SUMS").write_text(rest)
        refused("listops", tmp_path, "SHA256SUMS has no checksum of basic_.*: it is cut off; remove")
    (tmp_path / "SHA256SUMS").write_text(sums)
    path.unlink()
    refused("listops", tmp_path, "basic_val.tsv: there is no such file, and SHA256SUMS names it")
    for outside in ("../secret", "/etc/passwd", "a/../../secret"):
        (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  {outside}\n")
        refused("listops", tmp_path, f"SHA256SUMS, line 1 names '{outside}', which is outside of")
    (tmp_path / "SHA256SUMS").write_text("not a sum\n")
    refused("listops", tmp_path, "SHA256SUMS, line 1 is not a checksum")


def test_sums_of_ones_own(tmp_path):
    write_pairs(tmp_path)
    sums = subprocess.run(
        ["sha256sum", "--binary", *(path.name for path in tmp_path.iterdir())],
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    (tmp_path / "SHA256SUMS").write_bytes(sums.stdout)
    load_task("retrieval", tmp_path)
    with open(tmp_path / "new_aan_pairs.test.tsv", "a") as file:
        file.write("0.0\tA\tB\tone\tanother\n")
    refused("retrieval", tmp_path, "new_aan_pairs.test.tsv: its checksum .*; get it again")


@pytest.mark.parametrize("name, shape", [("listops", SMALL), ("pathfinder", EASY)])
def test_sha256sum_reads_the_sums(tmp_path, name, shape):
    paths = make.GENERATED[name](tmp_path, sizes={"train": 3, "val": 2, "test": 1}, shape=shape)
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in paths]
    assert (tmp_path / "SHA256SUMS").read_text() == "".join(lines)
    assert {path.name for path in tmp_path.iterdir()} == {"SHA256SUMS", *(path.name for path in paths)}
    command = ["sha256sum", "--strict", "-c", "SHA256SUMS"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0
