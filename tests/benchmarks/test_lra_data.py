# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The data of Long Range Arena: every layout against a reading of the test's own, and what is made."""

import hashlib
import itertools
import os
import pickle
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Features, List, Value
from PIL import Image

from benchmarks.lra import PROG, data, make, pathfinder
from benchmarks.lra.data import load_task, where_to_get
from benchmarks.lra.listops import ListOpsShape, generate
from benchmarks.lra.make import make_listops, make_pathfinder
from benchmarks.lra.pathfinder import PathfinderShape, draw_image, generator_of
from benchmarks.lra.runner import main
from benchmarks.lra.tasks import TASKS
from ernie_sparse.cli import run_command
from ernie_sparse.errors import InputError

datasets.disable_progress_bars()

SPLITS = ["train", "validation", "test"]
SMALL = ListOpsShape(max_depth=4, max_args=4, min_length=5, max_length=60)
EASY = PathfinderShape(contour_length=6, num_distractors=0)
SYMBOLS = "[MIN [MAX [MED [SM ] 0 1 2 3 4 5 6 7 8 9".split()
RANDOM = np.random.default_rng(7)


def rows_of(rows: Dataset) -> list[tuple[list[bytes], int]]:
    assert rows.features == Features(
        {"documents": List(Value("binary")), "labels": Value("int64"), "length": Value("int32")}
    )
    found = rows.to_list()
    assert all(row["length"] == sum(len(document) for document in row["documents"]) for row in found)
    return [(row["documents"], row["labels"]) for row in found]


def all_rows(splits: DatasetDict) -> dict[str, list[tuple[list[bytes], int]]]:
    assert list(splits) == SPLITS
    return {split: rows_of(rows) for split, rows in splits.items()}


# Writers of small folders. What they return are the rows, as read by nobody but the test.


def write_listops(folder: Path) -> dict:
    make_listops(folder, seed=5, sizes={"train": 7, "val": 3, "test": 2}, shape=SMALL)
    (folder / "SHA256SUMS").unlink()
    rows = [
        ([bytes(SYMBOLS.index(token) for token in text.split() if token not in "()")], target)
        for text, target in itertools.islice(generate(5, SMALL), 12)
    ]
    return {"train": rows[:7], "validation": rows[7:10], "test": rows[10:]}


def texts(number: int, name: str) -> tuple[list[str], list[int]]:
    return [f"{name} {i}: ein Löffel, ein\u2028Zaun" for i in range(number)], [i % 2 for i in range(number)]


def text_rows(texts: list[str], labels: list[int]) -> list:
    return [([text.encode("utf-8")], label) for text, label in zip(texts, labels, strict=True)]


def write_text(folder: Path, suffix: str = ".parquet", splits=("train", "validation", "test")) -> dict:
    folder.mkdir(exist_ok=True)
    rows = {}
    for split in splits:
        columns = dict(zip(("text", "label"), texts(20 if split == "train" else 4, split), strict=True))
        table = Dataset.from_dict({**columns, "id": list(range(len(columns["text"])))})
        path = str(folder / f"{split}{suffix}")
        {".parquet": table.to_parquet, ".csv": table.to_csv, ".jsonl": table.to_json}[suffix](path)
        rows[split] = text_rows(**{"texts": columns["text"], "labels": columns["label"]})
    return rows


def write_pairs(folder: Path) -> dict:
    folder.mkdir(exist_ok=True)
    rows = {}
    for split, name, number in (("train", "train", 4), ("validation", "eval", 2), ("test", "test", 3)):
        found = [([f'"{name} {i} é'.encode(), f"other {i}'s".encode()], i % 2) for i in range(number)]
        lines = ["\t".join([f"{label}.0", "A1", "B2", *(d.decode() for d in both)]) for both, label in found]
        (folder / f"new_aan_pairs.{name}.tsv").write_text("".join(f"{line}\n" for line in lines))
        rows[split] = found
    return rows


def write_ids(folder: Path) -> dict:
    folder.mkdir(exist_ok=True)
    papers = {f"P{i}": f"paper\t{i}\n" + "x" * 1700 * i for i in range(4)}
    Dataset.from_dict({"id": list(papers), "text": list(papers.values())}).to_parquet(str(folder / "docs.parquet"))
    rows = {}
    for split, name in (("train", "train"), ("validation", "eval"), ("test", "test")):
        pairs = [("P0", "P3"), ("P2", "P1"), ("P3", "P3")]
        lines = [f"{i % 2}\t{one}\t{other}\n" for i, (one, other) in enumerate(pairs)]
        (folder / f"aan_pairs.{name}.tsv").write_text("label\tid1\tid2\n" + "".join(lines))
        rows[split] = [
            ([papers[one].encode()[:4096], papers[other].encode()[:4096]], i % 2)
            for i, (one, other) in enumerate(pairs)
        ]
    return rows


def write_arrays(path: Path, num_labels: int, **sizes: int) -> dict:
    path.parent.mkdir(exist_ok=True)
    arrays, rows = {}, {}
    for name, size in sizes.items():
        images, labels = RANDOM.integers(0, 256, (size, 32, 32), dtype=np.uint8), np.arange(size) % num_labels
        arrays |= {f"x_{name}": images, f"y_{name}": labels.astype(np.uint8)}
        rows["validation" if name == "val" else name] = [
            ([bytes(image[r][c] for r in range(32) for c in range(32))], int(label))
            for image, label in zip(images.tolist(), labels, strict=True)
        ]
    np.savez(path, **arrays)
    return rows


def write_image(folder: Path) -> dict:
    return write_arrays(folder / "gray.npz", 10, train=20, test=3)


def write_batches(folder: Path) -> dict:
    """CIFAR-10 as its authors pickled it, unpacked."""
    place = folder / "cifar-10-batches-py"
    place.mkdir(parents=True)
    rows = {"train": [], "test": []}
    for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
        pixels = RANDOM.integers(0, 256, (4, 3072), dtype=np.uint8)
        pixels[0] = 255
        batch = {b"data": pixels, b"labels": [int(name[-1], 36) % 10] * 4, b"batch_label": name.encode()}
        (place / name).write_bytes(pickle.dumps(batch, protocol=2))
        for image in pixels.tolist():
            planes = zip(image[:1024], image[1024:2048], image[2048:], strict=True)
            gray = bytes((2989 * r + 5870 * g + 1140 * b) // 10000 for r, g, b in planes)
            rows["test" if name == "test_batch" else "train"].append(([gray], batch[b"labels"][0]))
    return rows


def write_archive(folder: Path) -> dict:
    rows = write_batches(folder)
    with tarfile.open(folder / "cifar-10-python.tar.gz", "w:gz") as tar:
        tar.add(folder / "cifar-10-batches-py", "cifar-10-batches-py")
    for path in (folder / "cifar-10-batches-py").iterdir():
        path.unlink()
    return rows


def write_pathfinder(folder: Path) -> dict:
    return write_arrays(folder / "pathfinder32.npz", 2, train=4, val=2, test=3)


def write_drawings(folder: Path) -> dict:
    """The official folder; three of its 23 image files are empty."""
    base = folder / "curv_contour_length_14"
    (base / "metadata").mkdir(parents=True)
    rows = []
    for part, number in ((0, 9), (2, 7), (10, 7)):
        (base / "imgs" / str(part)).mkdir(parents=True)
        lines = []
        for i in range(number):
            image, label = RANDOM.integers(0, 256, (32, 32), dtype=np.uint8), i % 2
            path = base / "imgs" / str(part) / f"sample_{i}.png"
            lines.append(f"imgs/{part} {path.name} {i} {label} 1.0 14\n")
            if i == 3:
                path.touch()
                continue
            Image.fromarray(image).save(path)
            rows.append(([image.tobytes()], label))
        (base / "metadata" / f"{part}.npy").write_text("".join(lines))
    return {"train": rows[:16], "validation": rows[16:18], "test": rows[18:]}


WRITERS = {
    "listops": write_listops,
    "text": write_text,
    "pairs": write_pairs,
    "ids": write_ids,
    "image": write_image,
    "batches": write_batches,
    "pathfinder": write_pathfinder,
    "drawings": write_drawings,
}
TASK_OF = {"pairs": "retrieval", "ids": "retrieval", "batches": "image", "drawings": "pathfinder"}


def with_validation(rows: dict, found: dict) -> dict:
    """The rows of two splits as three, once it is clear that the third was held out of the training set."""
    assert len(found["validation"]) == len(rows["train"]) // 10
    order = [rows["train"].index(row) for row in found["validation"]]
    assert order == sorted(set(order))
    left = [row for i, row in enumerate(rows["train"]) if i not in order]
    return {"train": left, "validation": found["validation"], "test": rows["test"]}


# Layouts


@pytest.mark.parametrize("name", ["listops", "text", "pairs", "ids", "pathfinder", "drawings"])
def test_rows_are_those_of_the_files(tmp_path, name):
    rows = WRITERS[name](tmp_path)
    assert all_rows(load_task(TASK_OF.get(name, name), tmp_path)) == rows


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_texts_come_in_three_formats(tmp_path, suffix):
    rows = write_text(tmp_path, suffix, ("train", "test"))
    found = all_rows(load_task("text", str(tmp_path)))
    assert found == with_validation(rows, found)


def test_texts_come_in_several_files(tmp_path):
    write_text(tmp_path, splits=("train", "test"))
    table = Dataset.from_parquet(str(tmp_path / "train.parquet"))
    for n, part in enumerate((range(12, 20), range(12))):
        table.select(part).to_parquet(str(tmp_path / f"train-0000{n}-of-00002.parquet"))
    (tmp_path / "train.parquet").unlink()
    (tmp_path / "train_old.parquet").write_bytes(b"another file")
    found = all_rows(load_task("text", tmp_path))
    order = [*range(12, 20), *range(12)]
    rows = text_rows(table.select(order)["text"], table.select(order)["label"])
    assert found == with_validation({"train": rows, "test": found["test"]}, found)


def test_texts_come_as_folders_of_reviews(tmp_path):
    rows = {"train": [], "test": []}
    for split, label, name, number in (
        ("train", 0, "neg", 6),
        ("train", 1, "pos", 4),
        ("test", 0, "neg", 2),
        ("test", 1, "pos", 1),
    ):
        (tmp_path / split / name).mkdir(parents=True)
        for i in range(number):
            content = f"{split} {name} {i}<br />\r\nnaïve".encode()
            (tmp_path / split / name / f"{i}_7.txt").write_bytes(content)
            rows[split].append(([content], label))
    found = all_rows(load_task("text", tmp_path))
    assert found == with_validation(rows, found)


@pytest.mark.parametrize("write", [write_image, write_batches, write_archive])
def test_images_without_a_validation_set(tmp_path, write, monkeypatch):
    rows = write(tmp_path)
    archive = tmp_path / "cifar-10-python.tar.gz"
    if archive.exists():
        monkeypatch.setattr(data, "CIFAR10_MD5", hashlib.md5(archive.read_bytes()).hexdigest())
    found = all_rows(load_task("image", tmp_path))
    assert found == with_validation(rows, found)


def test_gray_is_cut_off_and_reaches_neither_end_wrongly():
    colours = np.array([[255, 255, 255], [0, 0, 0], [10, 20, 30], [0, 0, 9], [255, 0, 0]], dtype=np.uint8)
    # 0.2989 R + 0.5870 G + 0.1140 B: 254.97, 0, 18.149, 1.026 and 76.2195.
    assert data._to_gray(colours).tolist() == [254, 0, 18, 1, 76]
    every = RANDOM.integers(0, 256, (2000, 3), dtype=np.uint8)
    wanted = every @ np.array([0.2989, 0.5870, 0.1140])
    assert (np.abs(wanted - data._to_gray(every) - 0.5) <= 0.5 + 1e-9).all()


def test_images_may_bring_a_validation_set(tmp_path):
    rows = write_arrays(tmp_path / "gray.npz", 10, train=20, val=5, test=3)
    assert all_rows(load_task("image", tmp_path)) == rows


def test_the_official_images_may_lie_one_folder_deeper_and_empty_ones_are_counted(tmp_path, capsys):
    rows = write_drawings(tmp_path / "pathfinder32")
    assert all_rows(load_task("pathfinder", tmp_path)) == rows
    assert "3 image files are empty" in capsys.readouterr().out


@pytest.mark.parametrize(
    "task, first, second",
    [
        ("retrieval", write_pairs, write_ids),
        ("image", write_image, write_batches),
        ("pathfinder", write_pathfinder, write_drawings),
        ("text", write_text, lambda folder: write_text(folder, ".csv")),
    ],
)
def test_the_first_of_several_layouts_is_read(tmp_path, task, first, second):
    second(tmp_path)
    rows = first(tmp_path)
    assert all_rows(load_task(task, tmp_path))["test"] == rows["test"]


def test_documents_are_cut_to_what_is_read(tmp_path):
    write_listops(tmp_path)
    deep = f"[SM {'7 ' * 1990}[MAX 1 2 3 4 5 6 7 8 9 ] ]"
    (tmp_path / "basic_val.tsv").write_text(f"Source\tTarget\n{deep}\t9\n")
    (((document,), label),) = rows_of(load_task("listops", tmp_path)["validation"])
    assert label == 9 and len(document) == 2000 and [SYMBOLS[code] for code in document] == deep.split()[:2000]
    # The last character that is read has more than one byte.
    long = "a" * 4095 + "é" * 10
    Dataset.from_dict({"text": [long, "b"], "label": [1, 0]}).to_parquet(str(tmp_path / "train.parquet"))
    Dataset.from_dict({"text": [long], "label": [1]}).to_parquet(str(tmp_path / "test.parquet"))
    assert rows_of(load_task("text", tmp_path)["test"]) == [([b"a" * 4095 + b"\xc3"], 1)]
    write_pairs(tmp_path)
    (tmp_path / "new_aan_pairs.test.tsv").write_text(f"1.0\tA\tB\tone\t{long}\n")
    assert load_task("retrieval", tmp_path)["test"].to_list() == [
        {"documents": [b"one", b"a" * 4095 + b"\xc3"], "labels": 1, "length": 4099}
    ]


# Splits


def test_what_is_held_out_hangs_on_no_seed_and_not_on_the_test_set(tmp_path):
    write_text(tmp_path, splits=("train", "test"))
    first = all_rows(load_task("text", tmp_path, seed=0))
    assert all_rows(load_task("text", tmp_path, seed=1)) == first
    Dataset.from_dict({"text": ["another"], "label": [1]}).to_parquet(str(tmp_path / "test.parquet"))
    other = all_rows(load_task("text", tmp_path))
    assert other["validation"] == first["validation"] and other["train"] == first["train"]


@pytest.mark.parametrize("name", ["text", "pathfinder"])
def test_limits_draw_rows_by_seed_before_any_is_encoded(tmp_path, name):
    rows = WRITERS[name](tmp_path)
    limits = {"train": 3, "test": 100}

    def load(limits, seed):
        return all_rows(load_task(name, tmp_path, limits, seed))

    found = load(limits, 0)
    assert found["validation"] == rows["validation"] and found["test"] == rows["test"]
    places = [rows["train"].index(row) for row in found["train"]]
    assert len(places) == 3 and places == sorted(set(places))
    assert load(limits, 0) == found
    assert len({str(load(limits, seed)["train"]) for seed in range(6)}) > 1
    assert [row for row in load({"train": 2}, 0)["train"] if row not in found["train"]] == []


def test_rows_that_are_not_wanted_are_not_encoded(tmp_path):
    write_text(tmp_path)
    rows = Dataset.from_parquet(str(tmp_path / "train.parquet")).to_list()
    kept = load_task("text", tmp_path, {"train": 1})["train"][0]["documents"][0].decode()
    for row in rows:
        row["text"] = row["text"] if row["text"] == kept else ""
    Dataset.from_list(rows).to_parquet(str(tmp_path / "train.parquet"))
    assert len(load_task("text", tmp_path, {"train": 1})["train"]) == 1
    with pytest.raises(InputError, match="the text is empty"):
        load_task("text", tmp_path)


def test_what_was_encoded_is_found_again_until_the_file_changes(tmp_path):
    rows = write_listops(tmp_path)
    first, second = load_task("listops", tmp_path), load_task("listops", tmp_path)
    assert all(first[split].cache_files and first[split].cache_files == second[split].cache_files for split in SPLITS)
    (tmp_path / "basic_test.tsv").write_text("Source\tTarget\n[MAX 1 2 ]\t2\n")
    found = all_rows(load_task("listops", tmp_path))
    assert found == {**rows, "test": [([bytes([1, 6, 7, 4])], 2)]}


# Where files come from


@pytest.fixture
def no_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def unreachable(*args, **kwargs):
        raise ConnectionError("no way\nto the hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)


@pytest.mark.parametrize("name", ["text", "image"])
def test_without_a_hub_the_error_says_what_to_put_where(no_hub, name):
    with pytest.raises(
        InputError, match=rf"the hub's {data.HUB[name]} cannot be loaded \(ConnectionError: no way to"
    ) as error:
        load_task(name)
    assert f"local files into data/lra/{name}" in str(error.value)


def test_retrieval_has_no_hub(no_hub):
    with pytest.raises(InputError, match=r"data/lra/retrieval: there are no files.*new_aan_pairs.*lra_release\.gz"):
        load_task("retrieval")


def test_texts_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tables = {split: texts(number, split) for split, number in (("train", 20), ("test", 4))}
    hub = DatasetDict({s: Dataset.from_dict({"text": t, "label": n}) for s, (t, n) in tables.items()})
    hub["unsupervised"] = Dataset.from_dict({"text": ["nobody knows"], "label": [-1]})
    monkeypatch.setattr(datasets, "load_dataset", {"stanfordnlp/imdb": hub}.__getitem__)
    found = all_rows(load_task("text"))
    assert found == with_validation({split: text_rows(*table) for split, table in tables.items()}, found)


def test_images_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = RANDOM.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    features = Features({"img": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)})
    table = Dataset.from_dict({"img": [Image.fromarray(i) for i in images], "label": [3] * 20}, features=features)
    hub = DatasetDict({"train": table, "test": table.select(range(2))})
    monkeypatch.setattr(datasets, "load_dataset", {"uoft-cs/cifar10": hub}.__getitem__)
    found = all_rows(load_task("image"))
    wanted = [
        bytes((2989 * r + 5870 * g + 1140 * b) // 10000 for r, g, b in image.reshape(-1, 3).tolist())
        for image in images[:2]
    ]
    assert found["test"] == [([gray], 3) for gray in wanted]
    assert [len(found[split]) for split in SPLITS] == [18, 2, 2]


def test_files_in_the_usual_folder_are_read_instead(no_hub):
    folder = Path("data/lra/image")
    folder.parent.mkdir(parents=True)
    rows = write_image(folder)
    assert all_rows(load_task("image"))["test"] == rows["test"]


@pytest.mark.parametrize("name, shape", [("listops", SMALL), ("pathfinder", EASY)])
def test_what_is_generated_is_made_once(tmp_path, monkeypatch, capsys, name, shape):
    monkeypatch.chdir(tmp_path)
    maker, sizes = data.GENERATED[name], {"train": 3, "val": 2, "test": 1}
    monkeypatch.setitem(data.GENERATED, name, lambda folder: maker(folder, sizes=sizes, shape=shape))
    folder = tmp_path / "data" / "lra" / name
    folder.mkdir(parents=True)
    # What a draw that was killed leaves.
    (folder / "pathfinder32.npz.partial").touch()
    first = all_rows(load_task(name))
    official = {
        "listops": "96,000 train, 2,000 val, 2,000 test",
        "pathfinder": "160,000 train, 20,000 val, 20,000 test",
    }
    assert f"data/lra/{name}: making {name}, once ({official[name]})" in capsys.readouterr().out
    monkeypatch.delitem(data.GENERATED, name)
    assert all_rows(load_task(name)) == first and [len(first[split]) for split in SPLITS] == [3, 2, 1]


def test_every_task_has_a_source():
    assert set(TASKS) == set(data.READERS) == set(data.SOURCES)
    assert all(where_to_get(name) and "\n" not in where_to_get(name) for name in TASKS)


# Making Pathfinder


def test_pathfinder_is_the_same_from_any_number_of_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(make, "CHUNK", 3)
    sizes = {"train": 5, "val": 2, "test": 3}
    files = [make_pathfinder(tmp_path / str(n), 4, sizes, EASY, processes=n)[0] for n in (1, 2, 3)]
    assert len({path.read_bytes() for path in files}) == 1 and files[0].name == "pathfinder32.npz"
    wanted = [draw_image(generator_of(4, index), EASY) for index in range(10)]
    with np.load(files[0]) as found:
        assert set(found.files) == {f"{axis}_{name}" for axis in "xy" for name in sizes}
        assert {found[name].dtype for name in found.files} == {np.dtype(np.uint8)}
        images = np.concatenate([found[f"x_{name}"] for name in sizes])
        labels = np.concatenate([found[f"y_{name}"] for name in sizes])
        assert [len(found[f"y_{name}"]) for name in sizes] == [5, 2, 3]
    assert (images == np.stack([image for image, _ in wanted])).all()
    assert labels.tolist() == [label for _, label in wanted]
    rows = [([image.tobytes()], label) for image, label in wanted]
    assert all_rows(load_task("pathfinder", tmp_path / "1")) == {
        "train": rows[:5],
        "validation": rows[5:7],
        "test": rows[7:],
    }


def test_several_processes_draw(monkeypatch):
    monkeypatch.setattr(make, "_draw_chunk", process_of)
    chunks = [range(n, n + 1) for n in range(12)]
    here, elsewhere = (list(make._draw_images(0, EASY, chunks, processes)) for processes in (1, 2))
    assert {process for _, process in here} == {os.getpid()} and os.getpid() not in {
        process for _, process in elsewhere
    }
    assert [start for start, _ in elsewhere] == list(range(12))
    assert make._cores() >= 1


def process_of(seed, shape, chunk):
    return chunk.start, os.getpid()


def test_pathfinder_that_cannot_be_made_leaves_nothing(tmp_path, monkeypatch):
    sizes = {"train": 1, "val": 1, "test": 1}
    for arguments, words in (
        ({"sizes": {"train": 0}}, "0 rows for train"),
        ({"sizes": {"validation": 3}}, "'validation' is none of the splits train, val, test"),
        ({"shape": PathfinderShape(size=64)}, "size is 64: the images of the file are 32 pixels wide"),
    ):
        with pytest.raises(ValueError, match=words):
            make_pathfinder(tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()
    with monkeypatch.context() as patch:
        patch.setattr(pathfinder, "MAX_PAIRS", 3)
        with pytest.raises(ValueError, match="none fitted"):
            make_pathfinder(tmp_path, sizes=sizes, shape=PathfinderShape(contour_length=60))

    def stopped(file, **arrays):
        file.write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez_compressed", stopped)
        with pytest.raises(KeyboardInterrupt):
            make_pathfinder(tmp_path, sizes=sizes, shape=EASY)
    assert list(tmp_path.iterdir()) == []
    make_pathfinder(tmp_path, sizes=sizes, shape=EASY)
    with pytest.raises(InputError, match=r"pathfinder32.npz, .*SHA256SUMS exists already"):
        make_pathfinder(tmp_path, sizes=sizes, shape=EASY)


def test_the_command_makes_pathfinder(tmp_path, capsys):
    words = ["--make", "pathfinder", "--out", str(tmp_path), "--seed", "3"]
    assert run_command(PROG, main, [*words, "--train-size", "3", "--validation-size", "1", "--test-size", "2"]) == 0
    assert str(tmp_path / "pathfinder32.npz") in capsys.readouterr().out
    splits = load_task("pathfinder", tmp_path)
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 3, "validation": 1, "test": 2}
    assert splits["test"][1]["documents"] == [draw_image(generator_of(3, 5), PathfinderShape())[0].tobytes()]
