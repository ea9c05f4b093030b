# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
From the files of a task, in whichever of their layouts, to splits of rows: documents as bytes, a label, and a length.

Every byte is the code of a symbol: its place in `SYMBOLS` for ListOps, a byte of UTF-8 for texts, the brightness of a pixel
for images, which are read row by row. A task reads its files in two steps: a reader finds them and says what the rows of
each split are; an encoder turns one such row into bytes, once it is known which rows are wanted.
"""

import io
import os
import pickle
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import datasets
import numpy as np
from datasets import Dataset, DatasetDict, Features, List, Value

from ernie_sparse.errors import InputError
from ernie_sparse.tables import columns_as_they_are, load_rows, read_text, subset

from . import PROG
from .listops import OPERATORS, parse
from .make import GENERATED, PIXELS, SIZES, SUMS, checksum
from .tasks import TASKS

DATA_DIR = Path("data/lra")
SPLITS = ("train", "validation", "test")
FEATURES = Features({"documents": List(Value("binary")), "labels": Value("int64"), "length": Value("int32")})

# What is read of files.
LINES, TEXTS, PAPERS = (
    Features(dict.fromkeys(names, Value("string"))) for names in (("text",), ("text", "label"), ("id", "text"))
)

SYMBOLS = (*(f"[{name}" for name in OPERATORS), "]", *"0123456789")
CODES = {symbol: code for code, symbol in enumerate(SYMBOLS)}
# What a symbol adds to the number of open brackets.
NESTING = np.array([symbol.startswith("[") - (symbol == "]") for symbol in SYMBOLS])

# Where the source has no validation set: the share of the training set that is one, and the seed it is drawn by.
HELD_OUT, HELD_OUT_SEED = 0.1, 0
HUB = {"text": "stanfordnlp/imdb", "image": "uoft-cs/cifar10"}
CIFAR10_MD5 = "c58f30108f718f92721af3b95e74349a"
# Per ten thousand, in whole numbers: the same on every machine.
GRAY = np.array([2989, 5870, 1140], dtype=np.uint32)

_ARCHIVE = "the official archive https://storage.googleapis.com/long-range-arena/lra_release.gz"
SOURCES = {
    "listops": f"`{PROG} --make listops --out DIR`, or basic_{{train,val,test}}.tsv of {_ARCHIVE}",
    "text": f"{HUB['text']} on the hub, or its rows as {{train,test}}.{{parquet,csv,jsonl}} with the columns text and label, "
    "or the folders {train,test}/{pos,neg} of https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",
    "retrieval": f"new_aan_pairs.{{train,eval,test}}.tsv of {_ARCHIVE}, or aan_pairs.{{train,eval,test}}.tsv (label, id1, id2) "
    "with docs.parquet (id, text)",
    "image": f"{HUB['image']} on the hub, or https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz, or a .npz of gray images: "
    "x_train, y_train, x_test, y_test",
    "pathfinder": f"`{PROG} --make pathfinder --out DIR`, or the folder pathfinder32/curv_contour_length_14 of {_ARCHIVE}",
}


def where_to_get(name: str) -> str:
    """Where the data of a task come from, in one line."""
    return SOURCES[name]


@dataclass(frozen=True)
class Source:
    """
    The rows of a split as they are found.

    Args:
        rows (`Dataset`)
        where (`str`): The file or files, for errors.
        encode (`Callable`, *optional*): From a row, `where`, and the task's `max_length` and `num_labels` to the columns of
            `FEATURES`; without one the rows have them already.
        arguments (`dict`, *optional*): Others of `encode`.
    """

    rows: Dataset
    where: str
    encode: Callable[..., dict] | None = None
    arguments: dict | None = None


def load_task(
    name: str, folder: str | Path | None = None, limits: Mapping[str, int] | None = None, seed: int = 0
) -> DatasetDict:
    """
    The splits `train`, `validation` and `test` of a task, with the columns `documents` (bytes, cut to the task's length),
    `labels` and `length` (symbols of all documents of the row).

    Args:
        name (`str`): One of `TASKS`.
        folder (`str` or `Path`, *optional*): Where the files are. Without one: `data/lra/NAME`, and where nothing is there
            ListOps and Pathfinder are made, text and images are loaded from the hub.
        limits (`Mapping[str, int]`, *optional*): The most rows of a split, drawn by `seed`.

    Raises:
        [`InputError`]: No such task or split, no files, or files that are damaged or hold something else.
    """
    if name not in TASKS:
        raise InputError(f"{name!r} is none of the tasks {', '.join(TASKS)}")
    limits = dict(limits or {})
    for split, limit in limits.items():
        if split not in SPLITS:
            raise InputError(f"{split!r} is none of the splits {', '.join(SPLITS)}")
        if limit < 1:
            raise InputError(f"{limit} rows for {split}: at least 1 is needed")
    try:
        place = _place(name, folder)
        if place is None:
            sources = _read_hub(name)
        else:
            _check_sums(name, place)
            sources = READERS[name](place)
        for split, source in sources.items():
            if len(source.rows) == 0:
                raise InputError(f"{source.where}: the {split} split has no rows")
        sources = _hold_out(sources)
        chosen = {split: subset(sources[split].rows, limits.get(split), seed) for split in SPLITS}
        return DatasetDict({split: _encode(name, replace(sources[split], rows=rows)) for split, rows in chosen.items()})
    except InputError as error:
        # Some that other libraries have caused have several lines.
        raise InputError(
            f"{' '.join(str(error).split()).rstrip('.')}. The data of {name}: {where_to_get(name)}"
        ) from error


def _place(name: str, folder: str | Path | None) -> Path | None:
    """The folder to read, made if need be; `None` for the hub."""
    place = DATA_DIR / name if folder is None else Path(folder)
    if place.is_dir():
        # A draw that was killed leaves its partial files.
        if folder is not None or any(path.suffix != ".partial" for path in place.iterdir()):
            return place
    elif place.exists():
        raise InputError(f"{place} is a file: a folder is needed")
    elif folder is not None:
        raise InputError(f"{place}: there is no such folder")
    if name in GENERATED:
        rows = ", ".join(f"{size:,} {split}" for split, size in SIZES[name].items())
        print(f"{place}: making {name}, once ({rows})", flush=True)
        GENERATED[name](place)
        return place
    if name in HUB:
        return None
    raise InputError(f"{place}: there are no files, and no hub data set has them")


def _check_sums(name: str, folder: Path):
    """Compare the files that `SHA256SUMS` names, where there is one."""
    sums = folder / SUMS
    if not sums.is_file():
        return
    remedy = "get it again"
    if name in GENERATED:
        remedy = f"remove {folder} and make it anew: {PROG} --make {name} --out {folder}"
    named = set()
    for number, line in enumerate(sums.read_text(errors="replace").splitlines(), start=1):
        # The second sign between the two says how sha256sum opened the file.
        expected, file = line[:64], line[66:]
        if not file or line[64] != " " or line[65] not in " *":
            raise InputError(f"{sums}, line {number} is not a checksum, two spaces and a name")
        path = _inside(folder, file, f"{sums}, line {number}")
        named.add(path.name)
        if not path.is_file():
            raise InputError(f"{path}: there is no such file, and {SUMS} names it; {remedy}")
        if checksum(path) != expected.lower():
            raise InputError(f"{path}: its checksum is not the one in {SUMS}: it is damaged or was changed; {remedy}")
    unnamed = sorted(path for path in folder.iterdir() if path.suffix in (".tsv", ".npz") and path.name not in named)
    if unnamed:
        raise InputError(f"{sums} has no checksum of {unnamed[0].name}: it is cut off; {remedy}")


def _inside(folder: Path, name: str, where: str) -> Path:
    """A file that a file of the data names: one of the data's own."""
    if not Path(os.path.normpath(folder / name)).is_relative_to(os.path.normpath(folder)):
        raise InputError(f"{where} names {name!r}, which is outside of {folder}")
    return folder / name


def _hold_out(sources: dict[str, Source]) -> dict[str, Source]:
    """The splits with a validation set, drawn from the training set where there is none."""
    if "validation" in sources:
        return sources
    train = sources["train"]
    number = len(train.rows)
    if number < 2:
        raise InputError(f"{train.where}: one training row is too few to hold any out for validation")
    order = np.random.default_rng(HELD_OUT_SEED).permutation(number)
    count = max(1, round(number * HELD_OUT))
    parts = {"validation": order[:count], "train": order[count:]}
    parts = {split: replace(train, rows=train.rows.select(np.sort(part))) for split, part in parts.items()}
    return {**sources, **parts}


def _encode(name: str, source: Source) -> Dataset:
    if source.encode is None:
        return source.rows
    task = TASKS[name]
    arguments = {"where": source.where, "max_length": task.max_length, "num_labels": task.num_labels}
    # datasets finds the result of an earlier run by the encoder's name and its arguments, not by its code: one that comes
    # to encode differently has to be renamed.
    return source.rows.map(
        source.encode,
        fn_kwargs={**arguments, **(source.arguments or {})},
        remove_columns=source.rows.column_names,
        features=FEATURES,
        desc=f"Encoding {name}",
    )


def _row(documents: list[bytes], label: int) -> dict:
    return {"documents": documents, "labels": label, "length": sum(map(len, documents))}


def _class_of(label, num_labels: int, where: str) -> int:
    try:
        number = float(label)
    except (TypeError, ValueError):
        number = -1
    if number not in range(num_labels):
        raise InputError(f"{where}: the label {label!r} is none of 0 to {num_labels - 1}")
    return int(number)


def _read_lines(paths: Mapping[str, Path], encode: Callable[..., dict], header: str | None, **arguments) -> dict:
    """Files of lines, one row each but for the header."""
    for path in paths.values():
        if not path.is_file():
            raise InputError(f"{path}: there is no such file")
    sources = {}
    for split, path in paths.items():
        rows = load_rows([path], LINES, read=partial(read_text, sample_by="line"))
        rows = rows.add_column("line", np.arange(1, len(rows) + 1))
        if header is not None:
            if rows[0]["text"] != header:
                raise InputError(f"{path}, line 1 is {rows[0]['text'][:80]!r}: the header {header!r} is needed")
            if len(rows) == 1:
                raise InputError(f"{path} has no rows behind its header")
            rows = rows.select(range(1, len(rows)))
        sources[split] = Source(rows, str(path), encode, arguments)
    return sources


def _read_listops(folder: Path) -> dict[str, Source]:
    paths = {split: folder / f"basic_{name}.tsv" for split, name in zip(SPLITS, SIZES["listops"], strict=True)}
    return _read_lines(paths, _encode_listops, "Source\tTarget")


def _encode_listops(row: dict, where: str, max_length: int, num_labels: int) -> dict:
    where = f"{where}, line {row['line']}"
    source, _, target = row["text"].partition("\t")
    if not target:
        raise InputError(f"{where} has no target behind a tab: the file is cut off there")
    try:
        document = bytes(CODES[symbol] for symbol in parse(source))
    except KeyError as error:
        raise InputError(f"{where}: {error.args[0]!r} is no symbol of ListOps") from None
    if not document:
        raise InputError(f"{where} has no symbols")
    depth = np.cumsum(NESTING[np.frombuffer(document, dtype=np.uint8)])
    if depth[-1] != 0 or (depth[:-1] < 1).any():
        raise InputError(f"{where}: its brackets do not close")
    return _row([document[:max_length]], _class_of(target, num_labels, where))


def _read_text(folder: Path) -> dict[str, Source]:
    for suffix in (".parquet", ".jsonl", ".csv"):
        files = {split: _files_of(folder, split, suffix) for split in SPLITS}
        if not files["train"]:
            continue
        if not files["test"]:
            raise InputError(f"{folder} has no file test{suffix} beside its file train{suffix}")
        sources = {}
        for split, paths in files.items():
            if paths:
                sources[split] = _numbered_texts(load_rows(paths, TEXTS, _text_and_label), ", ".join(paths))
        return sources
    if (folder / "train" / "pos").is_dir():
        return {split: _read_reviews(folder / split) for split in ("train", "test")}
    raise InputError(f"{folder} has neither {{train,test}}.{{parquet,jsonl,csv}} nor {{train,test}}/{{pos,neg}}/*.txt")


def _text_and_label(row: dict, number: int) -> dict:
    row = columns_as_they_are(row, number, TEXTS)
    return {**row, "label": None if row["label"] is None else str(row["label"])}


def _files_of(folder: Path, split: str, suffix: str) -> list[str]:
    """`train.parquet`, or `train-00000-of-00002.parquet` and so on as the hub stores them."""
    return sorted(
        str(path)
        for path in folder.glob(f"{split}*{suffix}")
        if path.stem == split or path.stem.startswith(f"{split}-")
    )


def _numbered_texts(rows: Dataset, where: str) -> Source:
    rows = rows.select_columns(["text", "label"]).add_column("row", np.arange(1, len(rows) + 1))
    return Source(rows, where, _encode_text)


def _read_reviews(folder: Path) -> Source:
    texts, labels = [], []
    for label, name in enumerate(("neg", "pos")):
        paths = sorted((folder / name).glob("*.txt"))
        if not paths:
            raise InputError(f"{folder / name} has no .txt files")
        for path in paths:
            try:
                texts.append(path.read_bytes().decode())
            except UnicodeDecodeError as error:
                raise InputError(f"{path} is not UTF-8: {error}") from error
            if not texts[-1].strip():
                raise InputError(f"{path} is empty")
        labels += [label] * len(paths)
    return _numbered_texts(Dataset.from_dict({"text": texts, "label": labels}), str(folder))


def _encode_text(row: dict, where: str, max_length: int, num_labels: int) -> dict:
    where, text = f"{where}, row {row['row']}", row["text"]
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{where}: the text is {'empty' if text is None or text == '' else repr(text)}")
    return _row([text.encode()[:max_length]], _class_of(row["label"], num_labels, where))


def _read_retrieval(folder: Path) -> dict[str, Source]:
    for prefix in ("new_aan_pairs", "aan_pairs"):
        paths = {
            split: folder / f"{prefix}.{name}.tsv"
            for split, name in zip(SPLITS, ("train", "eval", "test"), strict=True)
        }
        if not any(path.is_file() for path in paths.values()):
            continue
        if prefix == "new_aan_pairs":
            return _read_lines(paths, _encode_pair, None)
        return _read_lines(paths, _encode_id_pair, "label\tid1\tid2", texts=_read_papers(folder / "docs.parquet"))
    raise InputError(
        f"{folder} has neither new_aan_pairs.{{train,eval,test}}.tsv nor aan_pairs.{{train,eval,test}}.tsv"
    )


def _read_papers(path: Path) -> dict[str, bytes]:
    """The papers by id, no more of each than is read."""
    rows = load_rows([path], PAPERS)
    limit = TASKS["retrieval"].max_length
    return {row["id"]: (row["text"] or "").encode()[:limit] for row in rows}


def _encode_pair(row: dict, where: str, max_length: int, num_labels: int) -> dict:
    where = f"{where}, line {row['line']}"
    label, _, _, *texts = _columns(row["text"], 5, where)
    return _documents([text.encode()[:max_length] for text in texts], label, num_labels, where)


def _encode_id_pair(row: dict, where: str, max_length: int, num_labels: int, texts: dict[str, bytes]) -> dict:
    where = f"{where}, line {row['line']}"
    label, *ids = _columns(row["text"], 3, where)
    for name in ids:
        if name not in texts:
            raise InputError(f"{where}: docs.parquet has no paper {name!r}")
    return _documents([texts[name][:max_length] for name in ids], label, num_labels, where)


def _columns(line: str, number: int, where: str) -> list[str]:
    columns = line.split("\t")
    if len(columns) != number:
        raise InputError(f"{where} has {len(columns)} columns and not {number}: the file is damaged or cut off there")
    return columns


def _documents(documents: list[bytes], label: str, num_labels: int, where: str) -> dict:
    for number, document in enumerate(documents, start=1):
        if not document.strip():
            raise InputError(f"{where}: document {number} is empty")
    return _row(documents, _class_of(label, num_labels, where))


def _read_image(folder: Path) -> dict[str, Source]:
    paths = sorted(folder.glob("*.npz"))
    if len(paths) > 1:
        raise InputError(f"{', '.join(map(str, paths))}: which one is meant? Keep one in the folder")
    if paths and paths[0].name == "pathfinder32.npz":
        raise InputError(f"{paths[0]}: these are the images of Pathfinder")
    if paths:
        return _read_arrays("image", paths[0], ("train", "test"))
    archive, unpacked = folder / "cifar-10-python.tar.gz", folder / "cifar-10-batches-py"
    if archive.is_file():
        if checksum(archive, "md5") != CIFAR10_MD5:
            raise InputError(f"{archive}: its md5 is not {CIFAR10_MD5}: it is damaged or another file; get it again")
        with tarfile.open(archive) as tar:
            files = {Path(member.name).name: tar.extractfile(member).read() for member in tar if member.isfile()}
        return _read_batches(archive, files)
    if unpacked.is_dir():
        return _read_batches(unpacked, {path.name: path.read_bytes() for path in unpacked.glob("*_batch*")})
    raise InputError(f"{folder} has neither a .npz file nor cifar-10-python.tar.gz nor cifar-10-batches-py/")


class _ArrayUnpickler(pickle.Unpickler):
    """Reads arrays, numbers, strings and containers of them, and runs nothing else."""

    ALLOWED = {
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("_codecs", "encode"),
    }

    def find_class(self, module: str, name: str):
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def _read_batches(place: Path, files: Mapping[str, bytes]) -> dict[str, Source]:
    """CIFAR-10 in its own format, made gray."""
    sources = {}
    for split, names in (("train", [f"data_batch_{n}" for n in range(1, 6)]), ("test", ["test_batch"])):
        images, labels = [], []
        for name in names:
            if name not in files:
                raise InputError(f"{place}: there is no file {name}")
            try:
                batch = _ArrayUnpickler(io.BytesIO(files[name]), encoding="bytes").load()
                colours = batch[b"data"].reshape(-1, 3, PIXELS, PIXELS)
                images.append(_to_gray(np.moveaxis(colours, 1, -1)))
                labels.append(np.array(batch[b"labels"]))
            except Exception as error:
                # A damaged pickle raises nearly anything.
                raise InputError(f"{place}, {name} cannot be read as a batch of CIFAR-10: {error!r}") from error
        sources[split] = _from_images("image", np.concatenate(images), np.concatenate(labels), f"{place}, {split}")
    return sources


def _to_gray(colours: np.ndarray) -> np.ndarray:
    """From shape `(..., 3)` to `(...)`; fractions are cut off."""
    return (colours @ GRAY // 10_000).astype(np.uint8)


def _read_pathfinder(folder: Path) -> dict[str, Source]:
    made = folder / "pathfinder32.npz"
    if made.is_file():
        return _read_arrays("pathfinder", made, SPLITS)
    for base in (folder / "curv_contour_length_14", folder / "pathfinder32" / "curv_contour_length_14"):
        if (base / "metadata").is_dir():
            return _read_drawings(base)
    raise InputError(f"{folder} has neither pathfinder32.npz nor curv_contour_length_14/{{imgs,metadata}}")


def _read_drawings(base: Path) -> dict[str, Source]:
    """The official folder: image files, and what each shows in lines of text."""
    _need_pillow()
    paths, labels, empty = [], [], 0
    for lines in sorted((base / "metadata").glob("*.npy"), key=lambda path: (len(path.stem), path.stem)):
        for number, line in enumerate(lines.read_text(errors="replace").splitlines(), start=1):
            columns = line.split()
            if len(columns) < 4:
                raise InputError(f"{lines}, line {number} has {len(columns)} columns: at least 4 are needed")
            path = _inside(base, f"{columns[0]}/{columns[1]}", f"{lines}, line {number}")
            if not path.is_file():
                raise InputError(f"{path}: there is no such file, and {lines}, line {number} names it")
            if path.stat().st_size == 0:
                empty += 1
                continue
            paths.append(str(path))
            labels.append(columns[3])
    if empty:
        print(f"{base}: {empty} image files are empty and left out", flush=True)
    rows, ends = Dataset.from_dict({"path": paths, "label": labels}), [0, len(paths) * 8 // 10, len(paths) * 9 // 10]
    parts = zip(SPLITS, ends, [*ends[1:], len(paths)], strict=True)
    return {split: Source(rows.select(range(a, b)), str(base), _encode_drawing) for split, a, b in parts}


def _need_pillow():
    try:
        import PIL.Image  # noqa: F401
    except ImportError:
        raise InputError("Pillow is needed to read images: pip install pillow") from None


def _encode_drawing(row: dict, where: str, max_length: int, num_labels: int) -> dict:
    from PIL import Image

    where = row["path"]
    try:
        with Image.open(where) as image:
            pixels = np.asarray(image.convert("L"))
    except Exception as error:
        raise InputError(f"{where} cannot be read as an image: it is damaged; get it again") from error
    if pixels.shape != (PIXELS, PIXELS):
        raise InputError(f"{where} has the shape {pixels.shape}: {PIXELS} x {PIXELS} pixels are needed")
    return _row([pixels.tobytes()[:max_length]], _class_of(row["label"], num_labels, where))


def _read_arrays(name: str, path: Path, needed: tuple[str, ...]) -> dict[str, Source]:
    """Images and labels of a .npz file."""
    try:
        with np.load(path) as file:
            arrays = {key: file[key] for key in file.files if key.startswith(("x_", "y_"))}
    except Exception as error:
        # A damaged file raises nearly anything.
        raise InputError(f"{path} cannot be read as .npz: it is damaged or cut off ({error})") from error
    sources = {}
    for split, key in zip(SPLITS, ("train", "val", "test"), strict=True):
        missing = {f"x_{key}", f"y_{key}"} - set(arrays)
        if not missing:
            sources[split] = _from_images(name, arrays[f"x_{key}"], arrays[f"y_{key}"], f"{path}, x_{key}")
        elif split in needed:
            raise InputError(f"{path} has no array {min(missing)}, only {', '.join(arrays)}")
    return sources


def _from_images(name: str, images: np.ndarray, labels: np.ndarray, where: str) -> Source:
    if images.dtype != np.uint8 or images.shape[1:] != (PIXELS, PIXELS):
        raise InputError(
            f"{where} is {images.dtype} of shape {images.shape}: uint8 of shape (images, {PIXELS}, {PIXELS}) is needed"
        )
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise InputError(
            f"{where}: its labels are {labels.dtype} of shape {labels.shape}: {len(images)} whole numbers are needed"
        )
    num_labels = TASKS[name].num_labels
    wrong = np.flatnonzero((labels < 0) | (labels >= num_labels))
    if len(wrong):
        _class_of(int(labels[wrong[0]]), num_labels, f"{where}[{wrong[0]}]")
    columns = {
        "documents": [[image.tobytes()] for image in images],
        "labels": labels.astype(np.int64),
        "length": np.full(len(images), images[0].size if len(images) else 0, dtype=np.int32),
    }
    return Source(Dataset.from_dict(columns, features=FEATURES), where)


def _read_hub(name: str) -> dict[str, Source]:
    try:
        hub = datasets.load_dataset(HUB[name])
    except Exception as error:
        raise InputError(
            f"the hub's {HUB[name]} cannot be loaded ({type(error).__name__}: {error}): put local files into "
            f"{DATA_DIR / name} instead"
        ) from error
    if name == "text":
        return {split: _numbered_texts(hub[split], f"{HUB[name]}, {split}") for split in ("train", "test")}
    _need_pillow()
    sources = {}
    for split in ("train", "test"):
        rows = hub[split].select_columns(["img", "label"])
        sources[split] = Source(rows, f"{HUB[name]}, {split}", _encode_picture)
    return sources


def _encode_picture(row: dict, where: str, max_length: int, num_labels: int) -> dict:
    document = _to_gray(np.asarray(row["img"].convert("RGB"))).tobytes()
    return _row([document[:max_length]], _class_of(row["label"], num_labels, where))


READERS: dict[str, Callable[[Path], dict[str, Source]]] = {
    "listops": _read_listops,
    "text": _read_text,
    "retrieval": _read_retrieval,
    "image": _read_image,
    "pathfinder": _read_pathfinder,
}
