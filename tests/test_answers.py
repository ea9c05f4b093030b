# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
What cannot work is answered in one line that says what is wrong, before anything is computed, and leaves nothing behind: the rows of
answers.py, and Python's calls.
"""

import dataclasses
import importlib
import json
import os
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import answers
import pytest
import torch
from calls import CALLS
from datasets import Dataset

from ernie_sparse import cli, export
from ernie_sparse.finetune.arguments import FinetuneArguments
from ernie_sparse.finetune.predictor import Predictor
from ernie_sparse.pretraining.arguments import PretrainArguments
from ernie_sparse.robustness import runner as robustness
from ernie_sparse.robustness.arguments import RobustnessArguments
from ernie_sparse.run import Run
from ernie_sparse.trainer import SaorArguments
from ernie_sparse.training_arguments import RunArguments

REPOSITORY = Path(__file__).parents[1]
ROWS = [(base, more, says) for base, rows in answers.ROWS.items() for more, says in rows.items()]
# Where the module of a benchmark has its `main`, and by what its work begins.
MODULES = {"benchmarks.speed": "benchmarks.speed.runner", "benchmarks.lra": "benchmarks.lra.runner"}
WORK = {
    "benchmarks.context": "run",
    "benchmarks.export": "all_forms",
    "benchmarks.finetuning": "converted",
    "benchmarks.kernel_resources": "variant_resources",
    "benchmarks.lra.comparisons": "run",
    "benchmarks.recall": "run",
    "benchmarks.restarts": "compare",
    "benchmarks.robustness": "converted",
    "benchmarks.scaling": "measure",
    "benchmarks.speed.runner": "run",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("answers")
    answers.fill(root)
    return root


def begun(*args, **kwargs):
    raise AssertionError("it has begun")


@pytest.fixture
def here(folder, monkeypatch):
    """In the folder, where nothing may begin and nothing may be changed."""
    monkeypatch.chdir(folder)
    for owner, name in ((Run, "train"), (export, "trace"), (robustness, "measure"), (Predictor, "__call__")):
        monkeypatch.setattr(owner, name, begun)
    # It would last.
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    before = contents(folder)
    yield folder
    assert contents(folder) == before


def contents(folder: Path) -> dict[str, tuple | None]:
    """Every file with its time and size, every folder with nothing."""
    found = {}
    for parent, folders, files in os.walk(folder):
        found |= dict.fromkeys(os.path.join(parent, name) for name in folders)
        for name in files:
            state = os.stat(path := os.path.join(parent, name))
            found[path] = (state.st_mtime_ns, state.st_size)
    return found


def run(words: list[str], monkeypatch) -> tuple[str, int]:
    """How a command, a benchmark or an example calls itself, and its exit code."""
    name, *argv = words
    if name.startswith("examples/"):
        with pytest.MonkeyPatch.context() as patch:
            # As Python does for a script.
            patch.syspath_prepend(str(REPOSITORY / "examples"))
            example = runpy.run_path(str(REPOSITORY / name))
        return example["PROG"], cli.run_command(example["PROG"], example["main"], argv)
    if name.startswith("benchmarks."):
        module = importlib.import_module(MODULES.get(name, name))
        if module.__name__ in WORK:
            monkeypatch.setattr(module, WORK[module.__name__], begun)
        return module.PROG, cli.run_command(module.PROG, module.main, argv)
    return f"ernie-sparse {name}" if name in cli.COMMANDS else "ernie-sparse", cli.main(words)


@pytest.mark.parametrize("base, more, says", ROWS, ids=[f"{base.split()[0]} {more}" for base, more, _ in ROWS])
def test_what_cannot_work_is_answered_in_one_line(base, more, says, here, capfd, monkeypatch):
    prog, code = run(shlex.split(f"{base} {more}"), monkeypatch)
    printed = capfd.readouterr()
    assert code == 2
    # A bar that has been closed ends its line.
    lines = [line for line in printed.err.split("\n") if line and "\r" not in line]
    assert len(lines) == 1 and lines[0].startswith(f"{prog}: error: ") and printed.err.endswith(f"{lines[0]}\n"), lines
    # Folders are named with all that is above them where that says more.
    assert says in lines[0].replace(f"{here}/", "") and len(lines[0]) < 1300
    assert printed.out == ""


def test_the_table_has_all_commands_and_is_long():
    assert {base.split()[0] for base in answers.ROWS} >= set(cli.COMMANDS)
    assert len(ROWS) >= 250


NUMBERS = [
    (command, field.name)
    for command, parts in (
        ("finetune", (FinetuneArguments, SaorArguments, RunArguments)),
        ("pretrain", (PretrainArguments, SaorArguments, RunArguments)),
        ("robustness", (RobustnessArguments,)),
    )
    for part in parts
    for field in dataclasses.fields(part)
    if str(field.type) in ("<class 'int'>", "<class 'float'>", "int | None", "float | None")
]


def test_every_number_of_a_command_is_one(here, capfd, monkeypatch):
    assert {"max_length", "learning_rate", "batch_size", "saor_seed", "mlm_probability"} <= {
        name for _, name in NUMBERS
    }
    for command, name in NUMBERS:
        flag = f"--{name.replace('_', '-')}"
        assert run([command, "--model", "lm", "--output-dir", "out", flag, "many"], monkeypatch)[1] == 2
        assert f"{flag}: invalid" in capfd.readouterr().err, flag


@pytest.mark.parametrize("call, error, says", CALLS, ids=[says[:50] for _, _, says in CALLS])
def test_a_call_that_cannot_work_names_its_argument(call, error, says, here):
    with pytest.raises(Exception) as caught:
        call()
    # A config's errors tell the field; what is wrong with it stands in their cause.
    found = caught.value.__cause__ if type(caught.value).__name__.startswith("Strict") else caught.value
    assert isinstance(found, error) and says in " ".join(str(found).split()), repr(found)


# What a process reads of a file, and the most memory that it had meanwhile, beside what the libraries take.
READING = """
import sys
from ernie_sparse import cli
from ernie_sparse.pretraining.documents import Reading, documents_of

def highest():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) // 1024

if sys.argv[1] == "pretrain":
    before = highest()
    print(sum(map(len, documents_of(sys.argv[2], None, Reading()))), highest() - before)
else:
    cli.importlib.import_module(cli.COMMANDS[sys.argv[1]][0])
    before = highest()
    print(cli.main(sys.argv[1:]), highest() - before)
"""
HUGE = 200_000_000


@pytest.fixture(scope="module")
def huge(folder):
    """Files with a cell of 200 MB, in which a line is a cell."""
    text = "snow ice lemon b" * (HUGE // 16)
    rows = [{"text": text, "label": "a"}, {"text": "ice", "label": "b"}]
    (folder / "huge.txt").write_text(text)
    (folder / "huge.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "huge.csv").write_text("text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in rows))
    Dataset.from_list(rows).to_parquet(folder / "huge.parquet")
    yield folder
    for path in folder.glob("huge.*"):
        path.unlink()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
@pytest.mark.parametrize("command", ["pretrain", "finetune", "predict"])
@pytest.mark.parametrize("suffix", ["txt", "jsonl", "csv", "parquet"])
def test_a_cell_of_200_megabytes_is_read_in_pieces_or_refused(suffix, command, huge, tmp_path):
    if suffix == "txt" and command != "pretrain":
        pytest.skip("it reads tables alone")
    path = str(huge / f"huge.{suffix}")
    words = {
        "pretrain": [path],
        "finetune": ["--model", "lm", "--train-file", path, "--output-dir", str(tmp_path / "out")],
        "predict": [
            "--model",
            "single_label",
            "--input-file",
            path,
            "--output-file",
            str(tmp_path / "o.csv"),
            "--strict",
        ],
    }[command]
    process = subprocess.run(
        [sys.executable, "-c", READING, command, *words], cwd=huge, capture_output=True, text=True, timeout=300
    )
    found, mebibytes = map(int, process.stdout.split())
    if command == "pretrain":
        assert found == HUGE + (0 if suffix == "txt" else len("ice")), process.stderr[-2000:]
    else:
        says = f"row 0: column 'text' holds {HUGE:,} characters: at most 10,000,000 can be read"
        assert found == 2 and says in process.stderr.splitlines()[-1]
        assert not list(tmp_path.iterdir())
    # A few copies of it.
    assert mebibytes < 10 * HUGE / 2**20
